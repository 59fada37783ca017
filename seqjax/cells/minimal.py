"""The minimal gated unit, whose one gate both resets and updates."""

from typing import NamedTuple

import jax.numpy as jnp

from seqjax.cells import parts
from seqjax.cells._dense import dense_cell, option
from seqjax.typing import Activation, Array, Cell, DType, Initializer, MaybeArray, factory


class MGUParams(NamedTuple):
    """Parameters of the minimal gated unit; the gate and the candidate lie side by side in the order f, n."""

    kernel: Array  # input weights, (D, 2H)
    recurrent_kernel: Array  # (H, 2H), or (heads, H / heads, 2 H / heads), a head's gates side by side
    bias: MaybeArray  # (2H,)
    recurrent_bias: MaybeArray  # b_hn, inside the reset, (H,); None if the reset is before the product


class MGUCarry(NamedTuple):
    """Carry of the minimal gated unit."""

    h: Array  # the memory, which is the last output, (B, H), never narrower than float32


@factory
def mgu(
    hidden_size: int,
    reset_after: bool = True,
    *,
    activation: Activation = "tanh",
    gate_activation: Activation = "sigmoid",
    heads: int = 1,
    use_bias: bool = True,
    kernel_init: Initializer | None = None,
    recurrent_init: Initializer | None = None,
    bias_init: Initializer | None = None,
    recurrent_bias_init: Initializer | None = None,
    dtype: DType | None = None,
    param_dtype: DType = jnp.float32,
) -> Cell[MGUParams, MGUCarry]:
    """The minimal gated unit; by default with the reset after the product, as in our GRU but not in the paper.

      f = sigmoid(x W_f + b_f + h U_f)
      n = tanh(x W_n + b_n + f (h U_n + b_hn))     reset_after=True
      n = tanh(x W_n + b_n + (f h) U_n)            reset_after=False, the paper's
      h' = (1 - f) h + f n,  y = h'

    The gate writes where it is 1, as in the paper; it is the GRU's 1 - z.

    Args:
      hidden_size: number of hidden units, H.
      reset_after: where the reset is applied. With False there is no b_hn (its parameter is None) and no three-part
        split, so that only engines that need nothing but a step can run it.
      activation: for the candidate: "tanh", another of `jax.nn` by name ("relu", "silu", "hard_tanh", ...), or an
        elementwise function.
      gate_activation: for the gates, instead of sigmoid: "hard_sigmoid", another by name, or a function.
      heads: number of blocks of a block-diagonal U; a unit sees only the last output of its own head. It must divide
        hidden_size.
      use_bias: whether to add a bias; if False, it is None in the parameters, and so is b_hn.
      kernel_init: initializer of W_f and of W_n, (D, H). Glorot uniform by default.
      recurrent_init: initializer of U_f and of U_n, (H, H), or of one head of them. Orthogonal by default.
      bias_init: initializer of b (2H,). Zeros by default.
      recurrent_bias_init: initializer of b_hn (H,). Zeros by default.
      dtype: dtype to compute in, and of y; the memory h is never narrower than float32. That of the parameters by
        default.
      param_dtype: dtype of the parameters.

    Returns:
      A Cell with MGUParams and MGUCarry.

    Raises:
      ValueError: hidden_size or heads is below 1, or an activation is unknown.
      UserError: heads does not divide hidden_size, or bias_init is given without a bias.

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
    act, gate, settings = parts.gate_activations(activation, gate_activation)

    def after(params, carry, gates):
        x_f, x_n, h_f, h_n = gates
        f = gate(x_f + h_f)
        n = act(x_n + f * parts.add_bias(h_n, params.recurrent_bias))
        return MGUCarry(h=(1 - f) * carry.h + f * n)

    def before(params, carry, gates, product):
        x_f, x_n = gates
        (h_f,) = product(carry.h, 0, 1)
        f = gate(x_f + h_f)
        (h_n,) = product(f * carry.h, 1, 2)
        return MGUCarry(h=(1 - f) * carry.h + f * act(x_n + h_n))

    b_hn = option(reset_after and use_bias, "recurrent_bias_init", recurrent_bias_init, (hidden_size,))
    form = {"combine": after, "additive": False} if reset_after else {"step": before}
    inits = {"kernel_init": kernel_init, "recurrent_init": recurrent_init, "bias_init": bias_init, "extra": {"recurrent_bias": b_hn}}
    options = {"dtype": dtype, "param_dtype": param_dtype, "settings": (("reset_after", bool(reset_after)), *settings)}
    memory = {"params": MGUParams, "memory": ("h",), "heads": heads, "use_bias": use_bias}
    return dense_cell("mgu", hidden_size, MGUCarry, gates=2, **form, **memory, **inits, **options)
