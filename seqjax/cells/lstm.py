"""The LSTM, and its variants: peepholes, coupled gates, projection and layer normalisation, in any mixture."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqjax import initializers
from seqjax.cells import gates as gates_of
from seqjax.cells import parts
from seqjax.typing import Activation, Array, Cell, DType, Initializer, factory


class LSTMParams(NamedTuple):
    """Parameters of the LSTM; the G gates lie side by side in the order i, f, g, o, or f, g, o where they are coupled.

    Those of options that are off are None. R is the size of the output: H, or that of the projection.
    """

    kernel: Array  # input weights, (D, G H)
    recurrent_kernel: Array  # (R, G H)
    bias: Array  # the one bias, which holds the forget bias, (G H,)
    peepholes: Array | None = None  # from the memory to every gate but g, in the order of the gates, ((G - 1) H,)
    projection: Array | None = None  # (H, R)
    kernel_gain: Array | None = None  # of the normalised input product, (G H,)
    recurrent_gain: Array | None = None  # of the normalised recurrent product, (G H,)
    memory_gain: Array | None = None  # of the normalised memory, (H,)
    memory_bias: Array | None = None  # (H,)


class LSTMCarry(NamedTuple):
    """What the LSTM remembers."""

    c: Array  # the memory, (B, H), never narrower than float32
    h: Array  # the last output, (B, R)


@factory
def lstm(
    hidden_size: int,
    forget_bias: float | None = None,
    *,
    peepholes: bool = False,
    coupled: bool = False,
    proj_size: int | None = None,
    layer_norm: bool = False,
    activation: Activation = "tanh",
    gate_activation: Activation = "sigmoid",
    kernel_init: Initializer | None = None,
    recurrent_init: Initializer | None = None,
    bias_init: Initializer | None = None,
    peephole_init: Initializer | None = None,
    dtype: DType | None = None,
    param_dtype: DType = jnp.float32,
) -> Cell:
    """The LSTM with a forget gate, and four options that combine; the forget bias is held in the parameters.

      i, f, g, o = x W + b + h U
      c' = sigmoid(f) c + sigmoid(i) tanh(g)
      h' = sigmoid(o) tanh(c'),  y = h'

      peepholes:   i += p_i c,  f += p_f c,  o += p_o c'
      coupled:     f, g, o = x W + b + h U,  c' = sigmoid(f) c + (1 - sigmoid(f)) tanh(g)
      proj_size:   h' = (sigmoid(o) tanh(c')) P
      layer_norm:  LN(x W) + b + LN(h U) in the place of x W + b + h U,  h' = sigmoid(o) tanh(LN(c') + b_c)

    LN(a) = gain (a - mean) / sqrt(variance + 1e-5), over all gates of a product at once, statistics in float32 or wider.

    Args:
      hidden_size: number of memory cells, H, which is the size of the output but where there is a projection.
      forget_bias: added to the forget gate's part of the bias at initialisation, and never again after. By default 1,
        and 0 where bias_init is given, which then is the whole bias.
      peepholes: whether the gates see the memory, each unit its own.
      coupled: whether the input gate is 1 - f. The kernels then hold three gates, in the order f, g, o.
      proj_size: size of the output and of h, R; None for no projection.
      layer_norm: whether the two products and the memory are normalised. Gains start at 1.
      activation: of the candidate, and of the memory on its way out: "tanh", another of `jax.nn` by name ("relu", "silu",
        "hard_tanh", ...), or an elementwise function.
      gate_activation: of the gates, instead of sigmoid: "hard_sigmoid", another by name, or a function.
      kernel_init: initializer of one gate of W, (D, H), and of P, (H, R). Glorot uniform by default.
      recurrent_init: initializer of one gate of U, (R, H). Orthogonal by default.
      bias_init: initializer of the whole bias (G H,). Zeros by default.
      peephole_init: initializer of all peephole weights, (3 H,), or (2 H,) where coupled. Zeros by default, so that
        training starts from the LSTM without them; small random ones, `jax.nn.initializers.normal(0.1)`, are as usual.
      dtype: dtype to compute in, and of h and y; c is never narrower than float32. That of the parameters by default.
      param_dtype: dtype of the parameters.

    Returns:
      A Cell with LSTMParams and LSTMCarry.

    Raises:
      ValueError: hidden_size or proj_size is below 1, or an activation is unknown.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.lstm(hidden_size=16, peepholes=True, proj_size=8)
      >>> params = cell.init(jax.random.key(0), 4)
      >>> carry, ys = seqjax.unroll(cell, params, jax.numpy.ones((2, 5, 4)))
      >>> ys.shape, carry.c.shape, float(params.bias[16]), params.peepholes.shape
      ((2, 5, 8), (2, 16), 1.0, (48,))

    Reference:
      Hochreiter, Schmidhuber 1997, "Long Short-Term Memory"; Gers, Schmidhuber, Cummins 2000, "Learning to Forget".
      Gers, Schmidhuber 2000, "Recurrent Nets that Time and Count", for peepholes; Greff et al. 2017, "LSTM: A Search
      Space Odyssey", for coupled gates; Sak, Senior, Beaufays 2014, "Long Short-Term Memory Recurrent Neural Network
      Architectures for Large Scale Acoustic Modeling", for the projection; Ba, Kiros, Hinton 2016, "Layer
      Normalization", equations 20 to 22.
    """
    size = parts.check_size("hidden_size", hidden_size)
    act = parts.check_activation(activation)
    gate_act = parts.check_activation(gate_activation, "gate_activation")
    out = size if proj_size is None else parts.check_size("proj_size", proj_size)
    gates = parts.COUPLED_GATES if coupled else parts.LSTM_GATES
    wide = len(gates) * size
    kernel_init = kernel_init or initializers.glorot_uniform()
    kernels_init = initializers.per_gate(kernel_init, len(gates))
    recurrent_init = initializers.per_gate(recurrent_init or initializers.orthogonal(), len(gates))
    peephole_init = peephole_init or initializers.zeros
    bias_init = parts.lstm_bias_init(bias_init, forget_bias, gates)

    def init(key, input_size):
        keys = jax.random.split(key, 3)

        def norm(value, shape):
            return jnp.full(shape, value, param_dtype) if layer_norm else None

        return LSTMParams(
            kernel=kernels_init(keys[0], (parts.check_size("input_size", input_size), wide), param_dtype),
            recurrent_kernel=recurrent_init(keys[1], (out, wide), param_dtype),
            bias=bias_init(keys[2], (wide,), param_dtype),
            peepholes=peephole_init(jax.random.fold_in(key, 3), (wide - size,), param_dtype) if peepholes else None,
            projection=kernel_init(jax.random.fold_in(key, 4), (size, out), param_dtype) if proj_size else None,
            kernel_gain=norm(1, (wide,)),
            recurrent_gain=norm(1, (wide,)),
            memory_gain=norm(1, (size,)),
            memory_bias=norm(0, (size,)),
        )

    def initial_carry(params, batch_size):
        return LSTMCarry(
            c=jnp.zeros((batch_size, size), parts.memory_dtype(dtype, params.kernel)),
            h=jnp.zeros((batch_size, out), parts.compute_dtype(dtype, params.kernel)),
        )

    project, recur, combine = _parts(gates, layer_norm, act, gate_act, dtype)
    settings = {"peepholes": bool(peepholes), "coupled": bool(coupled), "proj_size": proj_size and out}
    return Cell(
        name="lstm",
        hidden_size=out,
        init=init,
        initial_carry=initial_carry,
        input_size=lambda params: params.kernel.shape[0],
        step=parts.step_of(project, recur, combine),
        project=project,
        recur=recur,
        combine=combine,
        dense=None if layer_norm or proj_size else parts.dense_products(len(gates), dtype),
        additive=not layer_norm,
        settings=(
            *settings.items(),
            ("layer_norm", bool(layer_norm)),
            *parts.activations(activation, gate_activation),
            ("dtype", dtype),
        ),
    )


def _parts(gates, layer_norm, act, gate_act, dtype):
    def project(params, xs):
        compute = parts.compute_dtype(dtype, params.kernel)
        if not layer_norm:
            return parts.affine(xs, params.kernel, params.bias, compute)
        product = (xs.astype(compute) @ params.kernel.astype(compute)).astype(parts.memory_dtype(dtype, params.kernel))
        return parts.add_bias(parts.normalize(product, params.kernel_gain), params.bias).astype(compute)

    def recur(params, carry):
        return carry.h @ params.recurrent_kernel.astype(carry.h.dtype)

    def combine(params, carry, projected, recurrent):
        memory = carry.c.dtype
        if layer_norm:
            recurrent = parts.normalize(recurrent.astype(memory), params.recurrent_gain)
        sums = gates_of.total(projected, recurrent, len(gates))
        c, o = parts.lstm_memory(sums, carry.c, gates, params.peepholes, act, gate_act)
        seen = c
        if layer_norm:
            seen = parts.add_bias(parts.normalize(c, params.memory_gain), params.memory_bias)
        h = (o * act(seen)).astype(carry.h.dtype)
        if params.projection is not None:
            h = h @ params.projection.astype(h.dtype)
        return LSTMCarry(c=c, h=h), h

    return project, recur, combine
