"""The LSTM."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqjax import initializers
from seqjax.cells import parts
from seqjax.typing import Array, Cell, DType, Initializer

GATES = 4  # in the order i, f, g, o: input, forget, candidate, output
FORGET = 1


class LSTMParams(NamedTuple):
    """Parameters of the LSTM; the gates lie side by side in the order i, f, g, o."""

    kernel: Array  # input weights, (D, 4H)
    recurrent_kernel: Array  # (H, 4H)
    bias: Array  # the one bias, which holds the forget bias, (4H,)


class LSTMCarry(NamedTuple):
    """What the LSTM remembers."""

    c: Array  # the memory, (B, H), never narrower than float32
    h: Array  # the last output, (B, H)


def lstm(
    hidden_size: int,
    forget_bias: float = 1.0,
    *,
    kernel_init: Initializer | None = None,
    recurrent_init: Initializer | None = None,
    bias_init: Initializer | None = None,
    dtype: DType | None = None,
    param_dtype: DType = jnp.float32,
) -> Cell:
    """The LSTM with a forget gate and without peepholes; the forget bias is held in the parameters.

      i, f, g, o = x W + b + h U
      c' = sigmoid(f) c + sigmoid(i) tanh(g)
      h' = sigmoid(o) tanh(c'),  y = h'

    Args:
      hidden_size: number of hidden units, H.
      forget_bias: added to the forget gate's part of the bias at initialisation, and never again after.
      kernel_init: initializer of one gate of W, (D, H). Glorot uniform by default.
      recurrent_init: initializer of one gate of U, (H, H). Orthogonal by default.
      bias_init: initializer of the whole bias (4H,), to which forget_bias is added. Zeros by default.
      dtype: dtype to compute in, and of h and y; c is never narrower than float32. That of the parameters by default.
      param_dtype: dtype of the parameters.

    Returns:
      A Cell with LSTMParams and LSTMCarry.

    Raises:
      ValueError: hidden_size is below 1.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.lstm(hidden_size=16)
      >>> params = cell.init(jax.random.key(0), 4)
      >>> carry, ys = seqjax.unroll(cell, params, jax.numpy.ones((2, 5, 4)))
      >>> ys.shape, carry.c.shape, float(params.bias[16])
      ((2, 5, 16), (2, 16), 1.0)

    Reference:
      Hochreiter, Schmidhuber 1997, "Long Short-Term Memory"; Gers, Schmidhuber, Cummins 2000, "Learning to Forget".
    """
    size = parts.check_size("hidden_size", hidden_size)
    kernel_init = initializers.per_gate(kernel_init or initializers.glorot_uniform(), GATES)
    recurrent_init = initializers.per_gate(recurrent_init or initializers.orthogonal(), GATES)
    bias_init = initializers.add_to_gate(bias_init or initializers.zeros, forget_bias, FORGET, GATES)

    def init(key, input_size):
        keys = jax.random.split(key, 3)
        return LSTMParams(
            kernel=kernel_init(keys[0], (parts.check_size("input_size", input_size), GATES * size), param_dtype),
            recurrent_kernel=recurrent_init(keys[1], (size, GATES * size), param_dtype),
            bias=bias_init(keys[2], (GATES * size,), param_dtype),
        )

    def initial_carry(params, batch_size):
        return LSTMCarry(
            c=jnp.zeros((batch_size, size), parts.memory_dtype(dtype, params.kernel)),
            h=jnp.zeros((batch_size, size), parts.compute_dtype(dtype, params.kernel)),
        )

    def project(params, xs):
        return parts.affine(xs, params.kernel, params.bias, parts.compute_dtype(dtype, params.kernel))

    def recur(params, carry):
        return carry.h @ params.recurrent_kernel.astype(carry.h.dtype)

    def combine(params, carry, projected, recurrent):
        del params
        i, f, g, o = jnp.split((projected + recurrent).astype(carry.c.dtype), GATES, axis=-1)
        c = jax.nn.sigmoid(f) * carry.c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = (jax.nn.sigmoid(o) * jnp.tanh(c)).astype(carry.h.dtype)
        return LSTMCarry(c=c, h=h), h

    return Cell(
        name="lstm",
        hidden_size=size,
        init=init,
        initial_carry=initial_carry,
        input_size=lambda params: params.kernel.shape[0],
        step=parts.joint_step(combine, dtype),
        project=project,
        recur=recur,
        combine=combine,
        additive=True,
    )
