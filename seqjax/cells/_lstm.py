"""The LSTM and its variants: peepholes, coupled gates, projection and layer normalisation, in any combination."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqjax import initializers
from seqjax.cells import parts
from seqjax.cells._dense import dense_cell, option
from seqjax.typing import Activation, Array, Cell, DType, Initializer, MaybeArray, factory

GATES = "ifgo"  # side by side in this order: input, forget, candidate, output
COUPLED = "fgo"  # without the input gate, which is 1 - f


class LSTMParams(NamedTuple):
    """Parameters of the LSTM; the G gates lie side by side in the order i, f, g, o, or f, g, o if they are coupled.

    Parameters of options that are off are None. R is the size of the output: H, or that of the projection.
    """

    kernel: Array  # input weights, (D, G H)
    recurrent_kernel: Array  # (R, G H), or (heads, R / heads, G H / heads), the gates of a head side by side
    bias: MaybeArray  # the only bias; includes the forget bias, (G H,)
    peepholes: MaybeArray = None  # from the memory to every gate but g, in the order of the gates, ((G - 1) H,)
    projection: MaybeArray = None  # (H, R)
    kernel_gain: MaybeArray = None  # gain of the normalised input product, (G H,)
    recurrent_gain: MaybeArray = None  # gain of the normalised recurrent product, (G H,)
    memory_gain: MaybeArray = None  # gain of the normalised memory, (H,)
    memory_bias: MaybeArray = None  # (H,)


class LSTMCarry(NamedTuple):
    """Carry of the LSTM."""

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
    heads: int = 1,
    use_bias: bool = True,
    kernel_init: Initializer | None = None,
    recurrent_init: Initializer | None = None,
    bias_init: Initializer | None = None,
    peephole_init: Initializer | None = None,
    dtype: DType | None = None,
    param_dtype: DType = jnp.float32,
) -> Cell[LSTMParams, LSTMCarry]:
    """The LSTM with a forget gate and four options that combine; the forget bias is part of the parameters.

      i, f, g, o = x W + b + h U
      c' = sigmoid(f) c + sigmoid(i) tanh(g)
      h' = sigmoid(o) tanh(c'),  y = h'

      peepholes:   i += p_i c,  f += p_f c,  o += p_o c'
      coupled:     f, g, o = x W + b + h U,  c' = sigmoid(f) c + (1 - sigmoid(f)) tanh(g)
      proj_size:   h' = (sigmoid(o) tanh(c')) P
      layer_norm:  LN(x W) + b + LN(h U) in place of x W + b + h U,  h' = sigmoid(o) tanh(LN(c') + b_c)

    LN(a) = gain (a - mean) / sqrt(variance + 1e-5), over all gates of a product at once, with statistics in float32 or
    wider.

    Args:
      hidden_size: number of memory cells, H, which is also the size of the output unless there is a projection.
      forget_bias: added to the forget gate's part of the bias at initialisation only. Defaults to 1,
        or to 0 if bias_init is given, which is then the whole bias, or if there is no bias.
      peepholes: whether the gates see the memory, each unit only its own.
      coupled: whether the input gate is 1 - f. The kernels then have three gates, in the order f, g, o.
      proj_size: size of the output and of h, R; None for no projection.
      layer_norm: whether the two products and the memory are normalised. Gains start at 1.
      activation: for the candidate and for the memory in the output: "tanh", another of `jax.nn` by name ("relu", "silu",
        "hard_tanh", ...), or an elementwise function.
      gate_activation: for the gates, instead of sigmoid: "hard_sigmoid", another by name, or a function.
      heads: number of blocks of a block-diagonal U; a unit sees only the last output of its own head. It must divide
        hidden_size and proj_size.
      use_bias: whether to add a bias; if False, it is None in the parameters and there is no forget bias.
      kernel_init: initializer of one gate of W, (D, H), and of P, (H, R). Glorot uniform by default.
      recurrent_init: initializer of one gate of U, (R, H), or of one head of it. Orthogonal by default.
      bias_init: initializer of the whole bias (G H,). Zeros by default.
      peephole_init: initializer of all peephole weights, (3 H,), or (2 H,) if coupled. Zeros by default, so that
        training starts from the LSTM without them; small random values, `jax.nn.initializers.normal(0.1)`, are also
        common.
      dtype: dtype to compute in, and of h and y; c is never narrower than float32. That of the parameters by default.
      param_dtype: dtype of the parameters.

    Returns:
      A Cell with LSTMParams and LSTMCarry.

    Raises:
      ValueError: hidden_size, proj_size or heads is below 1, or an activation is unknown.
      UserError: heads does not divide the sizes; or an initializer or a forget_bias is given for a parameter that the
        cell does not have.

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
    size, names = parts.check_size("hidden_size", hidden_size), COUPLED if coupled else GATES
    out = size if proj_size is None else parts.check_size("proj_size", proj_size)
    act, gate, settings = parts.gate_activations(activation, gate_activation)
    kernel_init, wide = kernel_init or initializers.glorot_uniform(), len(names) * size
    ones = jax.nn.initializers.ones
    extra = {
        "peepholes": option(peepholes, "peephole_init", peephole_init, (wide - size,)),
        "projection": (kernel_init, (size, out)) if proj_size else None,
        "kernel_gain": (ones, (wide,)) if layer_norm else None,
        "recurrent_gain": (ones, (wide,)) if layer_norm else None,
        "memory_gain": (ones, (size,)) if layer_norm else None,
        "memory_bias": (initializers.zeros, (size,)) if layer_norm else None,
    }

    def combine(params, carry, gates):
        c, o = memory(names, gates, carry.c, params.peepholes, act, gate)
        seen = parts.normalize(c, params.memory_gain) + params.memory_bias if layer_norm else c
        h = o * act(seen)
        return LSTMCarry(c=c, h=h.astype(carry.h.dtype) @ params.projection.astype(carry.h.dtype) if proj_size else h)

    def project(params, xs):
        compute = parts.compute_dtype(dtype, params.kernel)
        product = (xs.astype(compute) @ params.kernel.astype(compute)).astype(parts.memory_dtype(dtype, params.kernel))
        return parts.add_bias(parts.normalize(product, params.kernel_gain), params.bias).astype(compute)

    def join(params, projected, recurrent):
        wide = recurrent.astype(parts.memory_dtype(dtype, params.kernel))
        return (projected + parts.normalize(wide, params.recurrent_gain),)

    options = {"peepholes": bool(peepholes), "coupled": bool(coupled), "proj_size": proj_size and out}
    cell = dense_cell(
        "lstm",
        size,
        LSTMCarry,
        combine,
        gates=len(names),
        params=LSTMParams,
        memory=("c",),
        output_size=out,
        extra=extra,
        kernel_init=kernel_init,
        recurrent_init=recurrent_init,
        heads=heads,
        use_bias=use_bias,
        bias_init=forget_bias_init(bias_init, forget_bias, names, use_bias),
        settings=(*options.items(), ("layer_norm", bool(layer_norm)), *settings),
        dtype=dtype,
        param_dtype=param_dtype,
    )
    if not layer_norm and not proj_size:
        return cell
    return cell.replace(split=cell.parts._replace(project=project, join=join) if layer_norm else cell.parts)


def forget_bias_init(bias_init: Initializer | None, forget_bias: float | None, names: str, use_bias: bool = True) -> Initializer | None:
    """Zeros and a forget bias of 1; or the user's bias_init, which is the whole bias unless forget_bias is given; None without a bias."""
    if not (use_bias or bias_init or forget_bias):
        return None
    if forget_bias is None:
        forget_bias = 1.0 if bias_init is None else 0.0
    return initializers.add_to_gate(bias_init or initializers.zeros, forget_bias, names.index("f"), len(names))


def memory(
    names: str,
    gates: tuple[Array, ...],
    c: Array,
    peepholes: Array | None,
    act: Callable[[Array], Array],
    gate_act: Callable[[Array], Array],
) -> tuple[Array, Array]:
    """Computes the new memory of an LSTM and its output gate.

      c' = gate_act(f) c + gate_act(i) act(g), with 1 - gate_act(f) for gate_act(i) if the gates are coupled

    Args:
      names: the gates in their order, GATES or COUPLED.
      gates: their sums, each (..., H).
      c: the memory, (..., H).
      peepholes: weights from the memory to every gate but g, side by side in the same order, (..., (G - 1) H); or None.
      act, gate_act: the activations of the candidate and of the gates.

    Returns:
      (c', gate_act(o)), each (..., H).
    """
    a, seeing = dict(zip(names, gates)), names.replace("g", "")
    p = {} if peepholes is None else dict(zip(seeing, jnp.split(peepholes, len(seeing), axis=-1)))

    def gate(name, memory):
        return gate_act(a[name] + p[name] * memory if p else a[name])

    f = gate("f", c)
    new = f * c + (gate("i", c) if "i" in a else 1 - f) * act(a["g"])
    return new, gate("o", new)
