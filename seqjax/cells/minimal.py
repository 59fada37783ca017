"""The minimal gated unit, whose one gate both resets and updates."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqjax import initializers
from seqjax.cells import gates as gates_of
from seqjax.cells import parts
from seqjax.typing import Activation, Array, Cell, DType, Initializer, factory

GATES = 2  # in the order f, n: the gate, candidate


class MGUParams(NamedTuple):
    """Parameters of the minimal gated unit; the gate and the candidate lie side by side in the order f, n."""

    kernel: Array  # input weights, (D, 2H)
    recurrent_kernel: Array  # (H, 2H)
    bias: Array  # (2H,)
    recurrent_bias: Array | None  # b_hn, inside the reset, (H,); None where the reset is before the product


class MGUCarry(NamedTuple):
    """What the minimal gated unit remembers."""

    h: Array  # the memory, which is the last output, (B, H), never narrower than float32


@factory
def mgu(
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
    """The minimal gated unit; by default with the reset after the product, as our GRU has it, not as in the paper.

      f = sigmoid(x W_f + b_f + h U_f)
      n = tanh(x W_n + b_n + f (h U_n + b_hn))     reset_after=True
      n = tanh(x W_n + b_n + (f h) U_n)            reset_after=False, the paper's
      h' = (1 - f) h + f n,  y = h'

    The gate writes where it is 1, as in the paper; it is the GRU's 1 - z.

    Args:
      hidden_size: number of hidden units, H.
      reset_after: where the reset is applied. False has no b_hn (its parameter is None) and no three-part split, so
        that only the engines that need no more than a step run it.
      activation: of the candidate: "tanh", another of `jax.nn` by name ("relu", "silu", "hard_tanh", ...), or an
        elementwise function.
      gate_activation: of the gates, instead of sigmoid: "hard_sigmoid", another by name, or a function.
      kernel_init: initializer of W_f and of W_n, (D, H). Glorot uniform by default.
      recurrent_init: initializer of U_f and of U_n, (H, H). Orthogonal by default.
      bias_init: initializer of b (2H,). Zeros by default.
      recurrent_bias_init: initializer of b_hn (H,). Zeros by default.
      dtype: dtype to compute in, and of y; the memory h is never narrower than float32. That of the parameters by
        default.
      param_dtype: dtype of the parameters.

    Returns:
      A Cell with MGUParams and MGUCarry.

    Raises:
      ValueError: hidden_size is below 1, or an activation is unknown.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.mgu(hidden_size=16)
      >>> params = cell.init(jax.random.key(0), 4)
      >>> carry, ys = seqjax.unroll(cell, params, jax.numpy.ones((2, 5, 4)))
      >>> ys.shape, carry.h.shape, params.kernel.shape
      ((2, 5, 16), (2, 16), (4, 32))

    Reference:
      Zhou, Wu, Zhang, Zhou 2016, "Minimal Gated Unit for Recurrent Neural Networks".
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
        return MGUParams(
            kernel=kernel_init(keys[0], (parts.check_size("input_size", input_size), GATES * size), param_dtype),
            recurrent_kernel=recurrent_init(keys[1], (size, GATES * size), param_dtype),
            bias=bias_init(keys[2], (GATES * size,), param_dtype),
            recurrent_bias=recurrent_bias_init(keys[3], (size,), param_dtype) if reset_after else None,
        )

    def initial_carry(params, batch_size):
        return MGUCarry(h=jnp.zeros((batch_size, size), parts.memory_dtype(dtype, params.kernel)))

    cell = Cell(
        name="mgu",
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
    dense = parts.dense_products(GATES, dtype)
    return cell.replace(step=step, project=project, recur=recur, combine=combine, dense=dense)


def _project(params, xs, dtype):
    return parts.affine(xs, params.kernel, params.bias, parts.compute_dtype(dtype, params.kernel))


def _update(f, n, carry, dtype):
    """The new carry and the output, from the gate and the candidate in the memory's dtype."""
    h = (1 - f) * carry.h + f * n
    return MGUCarry(h=h), h.astype(dtype)


def _parts_reset_after(act, gate_act, dtype):
    def project(params, xs):
        return _project(params, xs, dtype)

    def recur(params, carry):
        compute = parts.compute_dtype(dtype, params.kernel)
        return carry.h.astype(compute) @ params.recurrent_kernel.astype(compute)

    def combine(params, carry, projected, recurrent):
        memory = carry.h.dtype
        x_f, x_n = (a.astype(memory) for a in gates_of.split(projected, GATES))
        h_f, h_n = (a.astype(memory) for a in gates_of.split(recurrent, GATES))
        f = gate_act(x_f + h_f)
        n = act(x_n + f * (h_n + gates_of.along(params.recurrent_bias.astype(memory), h_n)))
        return _update(f, n, carry, parts.compute_dtype(dtype, params.kernel))

    return project, recur, combine


def _step_reset_before(act, gate_act, dtype):
    def step(params, carry, x):
        memory, compute = carry.h.dtype, parts.compute_dtype(dtype, params.kernel)
        x_f, x_n = jnp.split(_project(params, x, dtype).astype(memory), GATES, axis=-1)
        u_f, u_n = jnp.split(params.recurrent_kernel.astype(compute), GATES, axis=-1)
        f = gate_act(x_f + (carry.h.astype(compute) @ u_f).astype(memory))
        n = act(x_n + ((f * carry.h).astype(compute) @ u_n).astype(memory))
        return _update(f, n, carry, compute)

    return step
