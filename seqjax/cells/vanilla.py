"""The vanilla (Elman) recurrent network, which includes the IRNN, and the IndRNN, whose units are independent."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqjax.cells import parts
from seqjax.cells._dense import dense_cell
from seqjax.typing import Activation, Array, Cell, DType, Initializer, MaybeArray, factory


class RNNParams(NamedTuple):
    """Parameters of the vanilla recurrent network."""

    kernel: Array  # input weights, (D, H)
    recurrent_kernel: Array  # (H, H), or (heads, H / heads, H / heads)
    bias: MaybeArray  # (H,)


class IndRNNParams(NamedTuple):
    """Parameters of the independently recurrent network."""

    kernel: Array  # input weights, (D, H)
    recurrent_kernel: Array  # u, from each unit to itself, (H,)
    bias: MaybeArray  # (H,)


class RNNCarry(NamedTuple):
    """Carry of the vanilla and of the independently recurrent network."""

    h: Array  # the last output, (B, H)


@factory
def rnn(
    hidden_size: int,
    activation: Activation = "tanh",
    *,
    heads: int = 1,
    use_bias: bool = True,
    kernel_init: Initializer | None = None,
    recurrent_init: Initializer | None = None,
    bias_init: Initializer | None = None,
    dtype: DType | None = None,
    param_dtype: DType = jnp.float32,
) -> Cell[RNNParams, RNNCarry]:
    """The vanilla recurrent cell of Elman; with relu and an identity recurrent kernel, the IRNN.

      h' = act(x W + b + h U),  y = h'

    Args:
      hidden_size: number of hidden units, H.
      activation: "tanh", "relu", another of `jax.nn` by name ("sigmoid", "silu", "hard_tanh", ...), or an elementwise function.
      heads: number of blocks of a block-diagonal U; a unit sees only the last output of its own head. It must divide
        hidden_size.
      use_bias: whether to add a bias; if False, it is None in the parameters.
      kernel_init: initializer of W (D, H). Glorot uniform by default.
      recurrent_init: initializer of U (H, H), or of one head of it. Orthogonal by default; `seqjax.initializers.identity()` for the IRNN.
      bias_init: initializer of b (H,). Zeros by default.
      dtype: dtype to compute in, and of h and y. That of the parameters by default.
      param_dtype: dtype of the parameters.

    Returns:
      A Cell with RNNParams and RNNCarry.

    Raises:
      ValueError: hidden_size or heads is below 1, or activation is unknown.
      UserError: heads does not divide hidden_size, or bias_init is given without a bias.

    Example:
      >>> import jax, seqjax
      >>> irnn = seqjax.rnn(16, "relu", recurrent_init=seqjax.initializers.identity())
      >>> params = irnn.init(jax.random.key(0), 4)
      >>> carry, ys = seqjax.unroll(irnn, params, jax.numpy.ones((2, 5, 4)))
      >>> ys.shape, carry.h.shape
      ((2, 5, 16), (2, 16))

    Reference:
      Elman 1990, "Finding Structure in Time"; Le, Jaitly, Hinton 2015 for the IRNN.
    """
    act = parts.check_activation(activation)

    def combine(params, carry, gates):
        (s,) = gates
        return RNNCarry(h=act(s))

    options = {"dtype": dtype, "param_dtype": param_dtype, "settings": (("activation", activation),)}
    inits = {"kernel_init": kernel_init, "recurrent_init": recurrent_init, "bias_init": bias_init}
    options |= {"heads": heads, "use_bias": use_bias}
    return dense_cell("rnn", hidden_size, RNNCarry, combine, gates=1, params=RNNParams, **inits, **options)


@factory
def indrnn(
    hidden_size: int,
    activation: Activation = "relu",
    *,
    use_bias: bool = True,
    kernel_init: Initializer | None = None,
    recurrent_init: Initializer | None = None,
    bias_init: Initializer | None = None,
    dtype: DType | None = None,
    param_dtype: DType = jnp.float32,
) -> Cell[IndRNNParams, RNNCarry]:
    """The independently recurrent cell: each unit sees only its own past; stacked layers mix the units.

      h' = act(x W + b + u h),  y = h',  the product u h elementwise

    Over T steps an active relu unit multiplies its memory by u^T: gradients stay bounded while |u| <= s^(1/T) for a
    bound s of your choice (2, say). Nothing here enforces that in training.

    Args:
      hidden_size: number of hidden units, H.
      activation: "relu", "tanh", another of `jax.nn` by name, or an elementwise function.
      use_bias: whether to add a bias; if False, it is None in the parameters.
      kernel_init: initializer of W (D, H). Glorot uniform by default.
      recurrent_init: initializer of u (H,). By default uniform in [0, 1), so that some units forget immediately and
        some never; for relu over a known length T, `jax.nn.initializers.uniform(2 ** (1 / T))` reaches the paper's
        bound.
      bias_init: initializer of b (H,). Zeros by default.
      dtype: dtype to compute in, and of h and y. That of the parameters by default.
      param_dtype: dtype of the parameters.

    Returns:
      A Cell with IndRNNParams and RNNCarry.

    Raises:
      ValueError: hidden_size is below 1, or activation is unknown.
      UserError: bias_init is given without a bias.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.stack(seqjax.indrnn(16), seqjax.indrnn(16))
      >>> params = cell.init(jax.random.key(0), 4)
      >>> carry, ys = seqjax.unroll(cell, params, jax.numpy.ones((2, 5, 4)))
      >>> ys.shape, params[0].recurrent_kernel.shape
      ((2, 5, 16), (16,))

    Reference:
      Li, Li, Cook, Zhu, Gao 2018, "Independently Recurrent Neural Network (IndRNN): Building a Longer and Deeper RNN".
    """
    act = parts.check_activation(activation)

    def recur(params, carry):
        return carry.h * params.recurrent_kernel.astype(carry.h.dtype)[None, :]

    def combine(params, carry, gates):
        (s,) = gates
        return RNNCarry(h=act(s))

    options = {"dtype": dtype, "param_dtype": param_dtype, "settings": (("activation", activation),)}
    inits = {"kernel_init": kernel_init, "recurrent_init": recurrent_init or jax.nn.initializers.uniform(1.0), "bias_init": bias_init}
    shape = {"recurrent_shape": (hidden_size,), "use_bias": use_bias}
    cell = dense_cell("indrnn", hidden_size, RNNCarry, combine, gates=1, params=IndRNNParams, **shape, **inits, **options)
    return cell.replace(split=cell.parts._replace(recur=recur))
