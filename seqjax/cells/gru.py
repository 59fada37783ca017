"""The GRU, with the reset gate after or before the recurrent product."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqjax import initializers
from seqjax.cells import gates as gates_of
from seqjax.cells import parts
from seqjax.typing import Activation, Array, Cell, DType, Initializer, factory

GATES = 3  # in the order r, z, n: reset, update, candidate


class GRUParams(NamedTuple):
    """Parameters of the GRU; the gates lie side by side in the order r, z, n."""

    kernel: Array  # input weights, (D, 3H)
    recurrent_kernel: Array  # (H, 3H)
    bias: Array  # (3H,)
    recurrent_bias: Array | None  # b_hn, inside the reset, (H,); None where the reset is before the product


class GRUCarry(NamedTuple):
    """What the GRU remembers."""

    h: Array  # the memory, which is the last output, (B, H), never narrower than float32


@factory
def gru(
    hidden_size: int,
    reset_after: bool = True,
    *,
    activation: Activation = "tanh",
    gate_activation: Activation = "sigmoid",
    kernel_init: Initializer | None = None,
    recurrent_init: Initializer | None = None,
    bias_init: Initializer | None = None,
    recurrent_bias_init: Initializer | None = None,
    dtype: DType | None = None,
    param_dtype: DType = jnp.float32,
) -> Cell:
    """The GRU; by default the variant of cuDNN, torch and Keras, whose reset gate is applied after the product.

      r = sigmoid(x W_r + b_r + h U_r)
      z = sigmoid(x W_z + b_z + h U_z)
      n = tanh(x W_n + b_n + r (h U_n + b_hn))     reset_after=True
      n = tanh(x W_n + b_n + (r h) U_n)            reset_after=False, the paper's
      h' = (1 - z) n + z h,  y = h'

    Args:
      hidden_size: number of hidden units, H.
      reset_after: where the reset gate is applied. False has no b_hn (its parameter is None) and no three-part split,
        so that only the engines that need no more than a step run it.
      activation: of the candidate: "tanh", another of `jax.nn` by name ("relu", "silu", "hard_tanh", ...), or an
        elementwise function.
      gate_activation: of the gates, instead of sigmoid: "hard_sigmoid", another by name, or a function.
      kernel_init: initializer of one gate of W, (D, H). Glorot uniform by default.
      recurrent_init: initializer of one gate of U, (H, H). Orthogonal by default.
      bias_init: initializer of b (3H,). Zeros by default.
      recurrent_bias_init: initializer of b_hn (H,). Zeros by default.
      dtype: dtype to compute in, and of y; the memory h is never narrower than float32. That of the parameters by
        default.
      param_dtype: dtype of the parameters.

    Returns:
      A Cell with GRUParams and GRUCarry.

    Raises:
      ValueError: hidden_size is below 1, or an activation is unknown.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.gru(hidden_size=16)
      >>> params = cell.init(jax.random.key(0), 4)
      >>> carry, ys = seqjax.unroll(cell, params, jax.numpy.ones((2, 5, 4)))
      >>> ys.shape, carry.h.shape, params.recurrent_bias.shape
      ((2, 5, 16), (2, 16), (16,))

    Reference:
      Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation".
    """
    size = parts.check_size("hidden_size", hidden_size)
    act = parts.check_activation(activation)
    gate_act = parts.check_activation(gate_activation, "gate_activation")
    kernel_init = initializers.per_gate(kernel_init or initializers.glorot_uniform(), GATES)
    recurrent_init = initializers.per_gate(recurrent_init or initializers.orthogonal(), GATES)
    bias_init = bias_init or initializers.zeros
    recurrent_bias_init = recurrent_bias_init or initializers.zeros

    def init(key, input_size):
        keys = jax.random.split(key, 4)
        return GRUParams(
            kernel=kernel_init(keys[0], (parts.check_size("input_size", input_size), GATES * size), param_dtype),
            recurrent_kernel=recurrent_init(keys[1], (size, GATES * size), param_dtype),
            bias=bias_init(keys[2], (GATES * size,), param_dtype),
            recurrent_bias=recurrent_bias_init(keys[3], (size,), param_dtype) if reset_after else None,
        )

    def initial_carry(params, batch_size):
        return GRUCarry(h=jnp.zeros((batch_size, size), parts.memory_dtype(dtype, params.kernel)))

    cell = Cell(
        name="gru",
        hidden_size=size,
        init=init,
        initial_carry=initial_carry,
        input_size=lambda params: params.kernel.shape[0],
        step=_step_reset_before(act, gate_act, dtype),
        settings=(
            ("reset_after", bool(reset_after)),
            *parts.activations(activation, gate_activation),
            ("dtype", dtype),
        ),
    )
    if not reset_after:
        return cell
    project, recur, combine = _parts_reset_after(act, gate_act, dtype)
    step = parts.step_of(project, recur, combine)
    return cell.replace(
        step=step, project=project, recur=recur, combine=combine, dense=parts.dense_products(GATES, dtype)
    )


def _project(params, xs, dtype):
    return parts.affine(xs, params.kernel, params.bias, parts.compute_dtype(dtype, params.kernel))


def _update(z, n, carry, dtype):
    """The new carry and the output, from the update gate and the candidate in the memory's dtype."""
    h = (1 - z) * n + z * carry.h
    return GRUCarry(h=h), h.astype(dtype)


def _parts_reset_after(act, gate_act, dtype):
    def project(params, xs):
        return _project(params, xs, dtype)

    def recur(params, carry):
        compute = parts.compute_dtype(dtype, params.kernel)
        return carry.h.astype(compute) @ params.recurrent_kernel.astype(compute)

    def combine(params, carry, projected, recurrent):
        memory = carry.h.dtype
        x_r, x_z, x_n = (a.astype(memory) for a in gates_of.split(projected, GATES))
        h_r, h_z, h_n = (a.astype(memory) for a in gates_of.split(recurrent, GATES))
        r = gate_act(x_r + h_r)
        z = gate_act(x_z + h_z)
        n = act(x_n + r * (h_n + gates_of.along(params.recurrent_bias.astype(memory), h_n)))
        return _update(z, n, carry, parts.compute_dtype(dtype, params.kernel))

    return project, recur, combine


def _step_reset_before(act, gate_act, dtype):
    def step(params, carry, x):
        memory, compute = carry.h.dtype, parts.compute_dtype(dtype, params.kernel)
        x_rz, x_n = jnp.split(_project(params, x, dtype).astype(memory), [2 * carry.h.shape[-1]], axis=-1)
        u_rz, u_n = jnp.split(params.recurrent_kernel.astype(compute), [2 * carry.h.shape[-1]], axis=-1)
        h_rz = carry.h.astype(compute) @ u_rz
        r, z = jnp.split(gate_act(x_rz + h_rz.astype(memory)), 2, axis=-1)
        n = act(x_n + ((r * carry.h).astype(compute) @ u_n).astype(memory))
        return _update(z, n, carry, compute)

    return step
