"""The GRU, with the reset gate after or before the recurrent product."""

from typing import NamedTuple

import jax.numpy as jnp

from seqjax.cells import parts
from seqjax.cells._dense import dense_cell, option
from seqjax.typing import Activation, Array, Cell, DType, Initializer, MaybeArray, factory


class GRUParams(NamedTuple):
    """Parameters of the GRU; the gates lie side by side in the order r, z, n."""

    kernel: Array  # input weights, (D, 3H)
    recurrent_kernel: Array  # (H, 3H), or (heads, H / heads, 3 H / heads), a head's gates side by side
    bias: MaybeArray  # (3H,)
    recurrent_bias: MaybeArray  # b_hn, inside the reset, (H,); None if the reset is before the product or there is no bias


class GRUCarry(NamedTuple):
    """Carry of the GRU."""

    h: Array  # the memory, which is the last output, (B, H), never narrower than float32


@factory
def gru(
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
) -> Cell[GRUParams, GRUCarry]:
    """The GRU; by default the variant of cuDNN, torch and Keras, whose reset gate is applied after the product.

      r = sigmoid(x W_r + b_r + h U_r)
      z = sigmoid(x W_z + b_z + h U_z)
      n = tanh(x W_n + b_n + r (h U_n + b_hn))     reset_after=True
      n = tanh(x W_n + b_n + (r h) U_n)            reset_after=False, the paper's
      h' = (1 - z) n + z h,  y = h'

    Args:
      hidden_size: number of hidden units, H.
      reset_after: where the reset gate is applied. With False there is no b_hn (its parameter is None) and no
        three-part split, so that only engines that need nothing but a step can run it.
      activation: for the candidate: "tanh", another of `jax.nn` by name ("relu", "silu", "hard_tanh", ...), or an
        elementwise function.
      gate_activation: for the gates, instead of sigmoid: "hard_sigmoid", another by name, or a function.
      heads: number of blocks of a block-diagonal U; a unit sees only the last output of its own head. It must divide
        hidden_size.
      use_bias: whether to add a bias; if False, it is None in the parameters, and so is b_hn.
      kernel_init: initializer of one gate of W, (D, H). Glorot uniform by default.
      recurrent_init: initializer of one gate of U, (H, H), or of one head of it. Orthogonal by default.
      bias_init: initializer of b (3H,). Zeros by default.
      recurrent_bias_init: initializer of b_hn (H,). Zeros by default.
      dtype: dtype to compute in, and of y; the memory h is never narrower than float32. That of the parameters by
        default.
      param_dtype: dtype of the parameters.

    Returns:
      A Cell with GRUParams and GRUCarry.

    Raises:
      ValueError: hidden_size or heads is below 1, or an activation is unknown.
      UserError: heads does not divide hidden_size, or bias_init is given without a bias.

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
    act, gate, settings = parts.gate_activations(activation, gate_activation)

    def after(params, carry, gates):
        x_r, x_z, x_n, h_r, h_z, h_n = gates
        r, z = gate(x_r + h_r), gate(x_z + h_z)
        n = act(x_n + r * parts.add_bias(h_n, params.recurrent_bias))
        return GRUCarry(h=(1 - z) * n + z * carry.h)

    def before(params, carry, gates, product):
        x_r, x_z, x_n = gates
        h_r, h_z = product(carry.h, 0, 2)
        r, z = gate(x_r + h_r), gate(x_z + h_z)
        (h_n,) = product(r * carry.h, 2, 3)
        return GRUCarry(h=(1 - z) * act(x_n + h_n) + z * carry.h)

    b_hn = option(reset_after and use_bias, "recurrent_bias_init", recurrent_bias_init, (hidden_size,))
    form = {"combine": after, "additive": False} if reset_after else {"step": before}
    inits = {"kernel_init": kernel_init, "recurrent_init": recurrent_init, "bias_init": bias_init, "extra": {"recurrent_bias": b_hn}}
    options = {"dtype": dtype, "param_dtype": param_dtype, "settings": (("reset_after", bool(reset_after)), *settings)}
    memory = {"params": GRUParams, "memory": ("h",), "heads": heads, "use_bias": use_bias}
    return dense_cell("gru", hidden_size, GRUCarry, gates=3, **form, **memory, **inits, **options)
