"""What truncation loses: the gradient of truncated backpropagation through time compared with the full one."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

import seqjax
from seqjax import _unroll
from seqjax.diagnostics import probes
from seqjax.errors import UserError
from seqjax.typing import Array, Params


class Truncation(NamedTuple):
    """Results for each of K windows."""

    windows: np.ndarray  # (K,), steps
    cut_off: Array  # (K,): |g - g_K| / |g|, 0 where nothing is lost
    cosine: Array  # (K,): cosine of the angle between g_K and g, 1 if they point the same way
    norm: Array  # (K,): |g_K|
    full_norm: Array  # (): |g|
    by_parameter: dict[str, tuple[Array, Array]]  # path -> (cut_off, cosine), each (K,)


def truncation(function: Callable[..., Array], params: Params, *args: Any, windows: Sequence[int]) -> Truncation:
    """Compares the gradient from windows of K steps with the full one, for each K.

    The truncated gradient is exactly that of truncated BPTT that reads the batch in windows of K steps, passes the carry on by value, and
    sums the windows' gradients at the same parameters. All windows share one compiled program.

    Args:
      function: function(params, *args) -> loss, (), which calls `seqjax.unroll` outside of any jit of its own. In every such
        call gradients are cut after each K steps, counted from the first.
      params: the gradient is taken with respect to these.
      *args: the batch and the like.
      windows: window lengths K, in steps.

    Returns:
      Truncation. For a zero gradient `cut_off` and `cosine` are NaN.

    Raises:
      UserError: there is no call of `seqjax.unroll`, or its inputs are not (B, T, D); a window is below 1.

    Example:
      >>> cell = seqjax.gru(8)
      >>> params = cell.init(jax.random.key(0), 4)
      >>> xs = jax.random.normal(jax.random.key(1), (2, 20, 4))
      >>> found = truncation(lambda params: (seqjax.unroll(cell, params, xs)[1] ** 2).mean(), params, windows=(1, 20))
      >>> bool(found.cut_off[0] > 0.1), bool(found.cut_off[1] < 1e-5), round(float(found.cosine[1]), 4)
      (True, True, 1.0)

    Source: Williams and Peng 1990, "An efficient gradient-based algorithm for on-line training of recurrent network trajectories".
    """
    cuts = np.asarray(windows, np.int32)
    if cuts.ndim != 1 or not len(cuts) or cuts.min() < 1:
        raise UserError(f"windows must be numbers of steps, each at least 1, and they are {cuts.tolist()}")
    found = []

    def gradient(window):
        def watch(cell, params, xs, carry, options):
            at = probes.layout_of(cell, xs, options)
            found.append(at.steps)
            start = cell.initial_carry(params, at.batch) if carry is None else carry
            zeros = jax.tree.map(lambda a: jnp.zeros((at.steps, *a.shape), a.dtype), start)
            around = probes.Probe(params, zeros, probes.borders(window, at.real))
            cell = probes.probed(cell, at.batch, at.steps, options["reverse"])
            return seqjax.unroll(cell, around, xs, carry, **options | {"engine": "scan"})

        with _unroll.watched(watch):
            return jax.grad(function)(params, *args)

    whole = jax.jit(gradient)(jnp.int32(2**30))
    probes.some(found)

    def compared(window):
        return jax.tree.map(_products, gradient(window), whole)

    products = jax.jit(lambda windows: jax.lax.map(compared, windows))(cuts)  # leaves of three numbers, (K, 3)
    full = jax.tree.map(lambda g: jnp.sum(_wide(g) ** 2), whole)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree_util.tree_leaves_with_path(whole)]
    each = list(zip(jax.tree.leaves(products, is_leaf=lambda node: isinstance(node, jax.Array)), jax.tree.leaves(full), strict=True))
    by_parameter = {path: _shares(*pair) for path, pair in zip(paths, each, strict=True)}
    together, square = cast(tuple[Array, Array], (sum(pair[0] for pair in each), sum(pair[1] for pair in each)))
    return Truncation(cuts, *_shares(together, square), jnp.sqrt(together[:, 0]), jnp.sqrt(square), by_parameter)


def _wide(g):
    return g.astype(jnp.promote_types(g.dtype, jnp.float32))


def _products(g, whole):
    """|g|^2, g . whole and |g - whole|^2."""
    g, whole = _wide(g), _wide(whole)
    return jnp.stack([jnp.sum(g * g), jnp.sum(g * whole), jnp.sum((g - whole) ** 2)])


def _shares(products, square):
    size, inner, lost = products.T
    return jnp.sqrt(lost / square), inner / jnp.sqrt(size * square)
