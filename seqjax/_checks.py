"""Checks of the arguments of `unroll` and `step`: an error names the argument that does not fit, and what would."""

import functools
import operator
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from seqjax.errors import UserError
from seqjax.typing import Array, Cell


def check_cell(cell: Any) -> None:
    """Checks that it is a Cell."""
    if not isinstance(cell, Cell):
        raise TypeError(f"cell must be a Cell, got a {type(cell).__name__}")


def check_params(cell: Cell, params: Any) -> None:
    """Checks that params have the structure and shapes that `cell.init` gives."""
    try:
        features = cell.input_size(params)
    except (AttributeError, IndexError, KeyError, TypeError):
        raise TypeError(f"params are not those of {cell.name}: got a {type(params).__name__}") from None
    expected = _expected_params(cell, features)
    if jax.tree.structure(params) != jax.tree.structure(expected):
        raise TypeError(f"params of {cell.name} must be built as {jax.tree.structure(expected)}, got {jax.tree.structure(params)}")
    for (path, want), got in zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(params), strict=True):
        if jnp.shape(got) != want.shape:
            where = f"params{jax.tree_util.keystr(path)}"
            raise ValueError(f"{where} of {cell.name} must have shape {want.shape}, got shape {jnp.shape(got)}")


@functools.lru_cache(maxsize=512)
def _expected_params(cell, features):
    """Returns the shapes of what `cell.init` returns; cached, so an eager call does not trace it again."""
    return jax.eval_shape(lambda: cell.init(jax.random.key(0), features))


def check_rng(rng: Any) -> None:
    """Checks that it is a key of jax.random, new-style or old-style."""
    if rng is None:
        return
    dtype, shape = getattr(rng, "dtype", np.dtype(object)), getattr(rng, "shape", ())
    typed = jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
    if not typed and not (dtype == np.uint32 and len(shape) == 1):
        raise TypeError(f"rng must be one key of jax.random, such as jax.random.key(0), got {rng!r}")


def check_remat(every: Any, offload: bool) -> int | None:
    """Checks the steps between two kept carries, and that there is another memory to move these to; returns the steps."""
    if every is not None:
        every = operator.index(every)
        if every < 1:
            raise ValueError(f"remat_every must be at least 1 step, got {every}")
    if offload and every is None:
        raise ValueError("offload=True moves the carries that remat_every keeps, so it needs remat_every")
    if offload and jax.default_backend() == "cpu":
        raise UserError("offload=True moves carries from an accelerator to the host's memory, but the backend here is a CPU")
    return every


def check_inputs(cell: Cell, params: Any, xs: Array, *axes: str, name: str = "xs") -> None:
    """Checks that xs are floating point, fit the cell and its params, and have these leading axes."""
    layout = f"({', '.join([*axes, *map(str, cell.spatial), 'D'])})"
    wanted = len(axes) + len(cell.spatial) + 1
    if xs.ndim != wanted:
        raise ValueError(f"{name} must have {wanted} axes, {layout}, got shape {xs.shape}")
    if xs.shape[len(axes) : -1] != cell.spatial:
        raise ValueError(f"{name} must be {layout} for this {cell.name}, got shape {xs.shape}")
    if not jnp.issubdtype(xs.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating point, got {xs.dtype}; embed or one-hot encode tokens first")
    features = cell.input_size(params)
    if xs.shape[-1] != features:
        raise ValueError(f"{name} has shape {xs.shape}, {layout}, and the params of {cell.name} take D = {features}")


def check_carry(cell: Cell, params: Any, carry: Any, batch: int) -> None:
    """Checks that a carry has the structure, shapes and dtypes of the initial one."""
    expected = jax.eval_shape(lambda p: cell.initial_carry(p, batch), params)
    if jax.tree.structure(carry) != jax.tree.structure(expected):
        raise TypeError(f"carry must be built as {expected}, got {jax.tree.structure(carry)}")
    for (path, want), got in zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(carry), strict=True):
        where = f"carry{jax.tree_util.keystr(path)}"
        if got.shape != want.shape:
            raise ValueError(f"{where} must have shape {want.shape} for these xs, got shape {got.shape}")
        if got.dtype != want.dtype:
            raise TypeError(f"{where} must be {want.dtype}, got {got.dtype}")


def check_lengths(lengths: Any, batch: int, steps: int, layout: tuple[int, int]) -> Array | None:
    """Returns lengths as a JAX array, checked: integers (B,) in 0 ... T, or a mask in the layout of the inputs."""
    if lengths is None:
        return None
    if not isinstance(lengths, jax.Array):
        lengths = np.asarray(lengths)
    if lengths.dtype == bool:
        if lengths.shape != layout:
            raise ValueError(f"lengths as a mask must have shape {layout}, got shape {lengths.shape}")
        return jnp.asarray(lengths)
    if not np.issubdtype(lengths.dtype, np.integer):
        raise TypeError(f"lengths must be integers (B,) or a boolean mask, got dtype {lengths.dtype}")
    if lengths.shape != (batch,):
        raise ValueError(f"lengths must have shape {(batch,)}, one for each sequence, got shape {lengths.shape}")
    if _is_at_hand(lengths) and lengths.size:
        values = np.asarray(lengths)
        low, high = values.min(), values.max()
        if not 0 <= low <= high <= steps:
            raise ValueError(f"lengths must lie in 0 ... T = {steps}, got values from {low} to {high}")
    return jnp.asarray(lengths)


def check_mask(lengths: Any, batch: int, steps: int) -> Array:
    """Returns the real steps (B, T) as a mask, from lengths or a mask that `check_lengths` accepts; all of them for None."""
    checked = check_lengths(lengths, batch, steps, (batch, steps))
    if checked is None:
        return jnp.ones((batch, steps), bool)
    return checked if checked.dtype == bool else jnp.arange(steps)[None, :] < checked[:, None]


def _is_at_hand(array):
    """Whether the values are in host memory; values on an accelerator are not fetched, since that would block."""
    if isinstance(array, jax.core.Tracer):
        return False
    return isinstance(array, np.ndarray) or all(device.platform == "cpu" for device in array.devices())


def check_resets(resets: Any, layout: tuple[int, ...]) -> Array | None:
    """Returns resets as bool, checked to have the layout of the inputs."""
    if resets is None:
        return None
    if not isinstance(resets, jax.Array):
        resets = np.asarray(resets)
    if resets.shape != layout:
        raise ValueError(f"resets must have shape {layout}, got shape {resets.shape}")
    if resets.dtype == bool:
        return jnp.asarray(resets)
    if not jnp.issubdtype(resets.dtype, jnp.number):
        raise TypeError(f"resets must be bool, or numbers that are 0 and 1, got dtype {resets.dtype}")
    if _is_at_hand(resets) and not np.isin(np.asarray(resets), (0, 1)).all():
        raise ValueError("resets must be bool, or numbers that are 0 and 1, got another number")
    return jnp.asarray(resets) != 0
