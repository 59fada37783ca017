"""The cuDNN engine: the plain LSTM on an NVIDIA GPU, in float32.

cuDNN is reached through `jax.experimental.rnn`, which takes sequences (B, T, D) with lengths of at least 1, all weights
in one flat vector, and two biases. What it lacks is added around it:

  padded steps, anywhere    the real steps are moved to the front, and their outputs back to their positions
  reverse                   the same move, in the other order
  length 0                  runs one step over zeros, whose results and cotangents are dropped
  layouts                   arrays are pinned to row-major order: JAX's call does not ask for an order, cuDNN takes this one,
                            and without the pins XLA passes a transposed sequence as it lies in memory, which gives wrong numbers

Precision is that of JAX's products: TensorFloat32 by default, as in the other engines on a GPU, and full float32 under
`jax.default_matmul_precision("highest")`. Only first derivatives in reverse mode are supported; `jax.vmap`, forward
mode and second derivatives need another engine.
"""

from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from seqjax.cells._lstm import LSTMParams, lstm
from seqjax.typing import Array, Carry, Cell, Params

_HARMLESS = ("dtype",)  # settings that do not change what an LSTM computes
_FULL = ("highest", "float32", "F32_F32_F32")  # matmul precisions that are wider than TensorFloat32


def refusal(
    cell: Cell,
    params: Params,
    xs: Array,
    *,
    mask: Array | None,
    resets: Array | None,
    reverse: bool,
    remat_every: int | None,
    offload: bool = False,
) -> str | None:
    """Returns why this engine cannot run a case, or None if it can; the arguments are those of `run`."""
    del mask, reverse, offload
    if not _is_plain_lstm(cell, params):
        return f"cuDNN has only the plain LSTM, got {_describe(cell)}"
    if not jax.tree_util.all_leaves([xs]):
        return "cuDNN takes a single input array, and training noise adds more"
    dtypes = {str(a.dtype) for a in jax.tree.leaves(_carry_of(cell, params))}
    if dtypes != {"float32"}:
        return f"it computes in float32, but the cell in {' and '.join(sorted(dtypes))}"
    if resets is not None:
        return "cuDNN has no resets inside a sequence"
    if remat_every is not None:
        return "cuDNN keeps what its backward pass needs for all steps, so remat_every is not supported"
    return _unavailable()


def run(
    cell: Cell,
    params: Params,
    carry: Carry,
    initial: Carry,
    xs: Array,
    *,
    mask: Array | None,
    resets: Array | None,
    reverse: bool,
    remat_every: int | None,
    offload: bool = False,
) -> tuple[Carry, Array]:
    """Runs an LSTM over a sequence, time-major, with the arguments and results of `scan.run`; see `refusal` first."""
    del initial, resets, remat_every, offload
    steps, batch, features = xs.shape
    size = cell.hidden_size
    if not steps or not batch:
        return carry, jnp.zeros((steps, batch, size), carry.h.dtype)
    if mask is None:
        counts = jnp.full(batch, steps, jnp.int32)
        there = back = (lambda a: jnp.flip(a, axis=1)) if reverse else (lambda a: a)
    else:
        counts = mask.sum(axis=0, dtype=jnp.int32)
        there, back = _moves(mask, reverse)
    arrays = there(xs.swapaxes(0, 1).astype(jnp.float32)), carry.h[None], carry.c[None], flat_weights(params)
    ys, h, c = _lstm(*arrays, jnp.maximum(counts, 1), features, size)
    ran = (counts > 0)[:, None]
    after = carry._replace(c=jnp.where(ran, c[0], carry.c), h=jnp.where(ran, h[0], carry.h))
    return after, back(ys).swapaxes(0, 1)


def flat_weights(params: Params) -> Array:
    """Packs the parameters of an LSTM into cuDNN's one vector: W' (4H, D), U' (4H, H), b, and a second bias of zeros."""
    none = jnp.zeros(params.kernel.shape[1], params.kernel.dtype)
    parts = (params.kernel.T, params.recurrent_kernel.T, none if params.bias is None else params.bias, none)
    return jnp.concatenate([part.reshape(-1).astype(jnp.float32) for part in parts])


def _lstm(xs, h, c, weights, lengths, features, size):
    """Calls cuDNN's one-layer LSTM, with its arrays and their cotangents in row-major order."""
    from jax.experimental import rnn

    arrays = [_row_major(a) for a in (xs, h, c, weights)]
    layers, dropout, bidirectional = 1, 0.0, False
    found = rnn.lstm(*arrays, lengths, features, size, layers, dropout, bidirectional, _precision())
    return [_row_major(a) for a in cast(Any, found)]


def _row_major(a):
    return with_layout_constraint(a, Layout(tuple(range(a.ndim))))


def _moves(mask, reverse):
    """Returns two functions of arrays (B, T, F): one moves the real steps to the front in the order of the run, one moves them back."""
    steps, batch = mask.shape
    rank = jax.lax.cumsum(mask.astype(jnp.int32), axis=0, reverse=reverse) - 1
    # A padded step has an index beyond the end, which is dropped on the way there and filled on the way back.
    nowhere = steps + jnp.arange(steps, dtype=jnp.int32)[:, None]
    place = (jnp.arange(batch)[:, None], jnp.where(mask, rank, nowhere).T)

    def there(a):
        return jnp.zeros_like(a).at[place].set(a, mode="drop", unique_indices=True)

    def back(a):
        return a.at[place].get(mode="fill", fill_value=0, unique_indices=True)

    return there, back


def _precision():
    """Translates JAX's matmul precision for `jax.experimental.rnn`: HIGHEST is float32, HIGH is TensorFloat32."""
    full = jax.config.jax_default_matmul_precision in _FULL  # pyright: ignore[reportAttributeAccessIssue]  # made at run time
    return jax.lax.Precision.HIGHEST if full else jax.lax.Precision.HIGH


def _is_plain_lstm(cell, params):
    if not _is_as_made(cell) or any(value for name, value in cell.settings if name not in _HARMLESS):
        return False
    if not isinstance(params, LSTMParams):
        return False
    return all(getattr(params, name) is None for name in set(params._fields) - {"kernel", "recurrent_kernel", "bias"})


def _is_as_made(cell):
    """Describes a cell that is not the LSTM of `seqjax.lstm`; one with another step or output has its name and params too."""
    return cell.made is not None and cell.made.function is lstm


def _describe(cell):
    options = ", ".join(f"{name}={value!r}" for name, value in cell.settings if value and name not in _HARMLESS)
    if cell.name == "lstm" and not options and not _is_as_made(cell):
        return "an lstm that was modified after the call of seqjax.lstm"
    return f"{cell.name} with {options}" if options else cell.name


def _carry_of(cell, params):
    return jax.eval_shape(lambda p: cell.initial_carry(p, 1), params)


def _unavailable():
    """Returns why cuDNN is not available on this machine, or None."""
    if jax.default_backend() != "gpu":
        return f"cuDNN needs a GPU, but the backend is {jax.default_backend()}"
    from jax.experimental import rnn

    if not rnn.gpu_rnn:  # pyright: ignore[reportPrivateImportUsage]
        return "this installation of jax lacks cuDNN's recurrent layers"
    return None
