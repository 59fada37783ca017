"""The dense layer: a cell without a carry, for use between the cells of a stack."""

from typing import NamedTuple

import jax.numpy as jnp

from seqjax import initializers
from seqjax.cells import parts
from seqjax.errors import UserError
from seqjax.typing import Activation, Array, Cell, DType, Initializer, MaybeArray, Pointwise, factory


class DenseLayerParams(NamedTuple):
    """Parameters of a dense layer."""

    kernel: Array  # (D, H)
    bias: MaybeArray  # (H,); None with use_bias=False


@factory
def dense(
    features: int,
    activation: Activation = "identity",
    *,
    use_bias: bool = True,
    kernel_init: Initializer | None = None,
    bias_init: Initializer | None = None,
    dtype: DType | None = None,
    param_dtype: DType = jnp.float32,
) -> Cell[DenseLayerParams, tuple[()]]:
    """A dense layer applied at every step: one product over all steps at once, whichever engine runs the other cells.

      y = activation(x W + b)

    Args:
      features: H, the size of an output.
      activation: a name of `seqjax.cells.parts.ACTIVATIONS`, or an elementwise function.
      use_bias: whether to add b; if False, it is None in the parameters.
      kernel_init: initializer of W, (D, H). Glorot uniform by default.
      bias_init: initializer of b, (H,). Zeros by default.
      dtype: dtype to compute in. That of the parameters by default.
      param_dtype: dtype of the parameters.

    Returns:
      A Cell with DenseLayerParams and () as its carry.

    Raises:
      ValueError: features is below 1, the activation is unknown, or bias_init is given without a bias.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.stack(seqjax.lstm(16), seqjax.dense(8, "relu"), seqjax.gru(16))
      >>> params = cell.init(jax.random.key(0), 4)
      >>> carry, ys = seqjax.unroll(cell, params, jax.numpy.ones((2, 5, 4)))
      >>> params[1].kernel.shape, carry[1]
      ((16, 8), ())

    Reference:
      Pascanu et al. 2014, "How to Construct Deep Recurrent Neural Networks", for what such layers do between cells.
    """
    size, apply = parts.check_size("features", features), parts.check_activation(activation)
    if bias_init and not use_bias:
        raise UserError("dense has use_bias=False, so it takes no bias_init")

    def init(key, input_size):
        kernel = (kernel_init or initializers.glorot_uniform())(key, (parts.check_size("input_size", input_size), size), param_dtype)
        return DenseLayerParams(kernel, (bias_init or initializers.zeros)(key, (size,), param_dtype) if use_bias else None)

    def output(params, x):
        compute = parts.compute_dtype(dtype, params.kernel)
        product = x.astype(compute) @ params.kernel.astype(compute)
        return apply(parts.add_bias(product, params.bias) if use_bias else product)

    return Cell(
        name="dense",
        hidden_size=size,
        init=init,
        initial_carry=lambda params, batch_size: (),
        input_size=lambda params: params.kernel.shape[0],
        split=Pointwise(output),
        settings=(("activation", activation), *((("use_bias", False),) * (not use_bias)), ("dtype", dtype)),
    )
