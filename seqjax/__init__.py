"""seqjax: recurrent networks for JAX, as small pure functions that compose.

The core is imported here and needs jax alone; the other packages (`seqjax.text`, `seqjax.data`, `seqjax.training`, ...)
are imported on first access.
"""

import importlib
import types

from seqjax import cells, initializers, wrappers
from seqjax._truncated import truncated_unroll
from seqjax._unroll import explain, step, unroll
from seqjax._version import __version__
from seqjax.cells import *  # noqa: F403
from seqjax.errors import UserError
from seqjax.typing import Cell
from seqjax.wrappers import *  # noqa: F403

__all__ = ["Cell", "UserError", "__version__", "explain", "initializers", "step", "truncated_unroll", "unroll"]
__all__ += cells.__all__
__all__ += wrappers.__all__

# Submodules that `import seqjax` makes reachable and that are imported on first access (PEP 562).
_PACKAGES = ("cnn", "data", "decoding", "diagnostics", "interop", "models", "nn", "run", "text", "training")


def __getattr__(name: str) -> types.ModuleType:
    if name in _PACKAGES:
        return importlib.import_module(f"seqjax.{name}")
    raise AttributeError(f"module 'seqjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PACKAGES})
