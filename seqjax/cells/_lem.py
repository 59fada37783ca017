"""The Long Expressive Memory, whose units choose their own time steps."""

from typing import NamedTuple

import jax.numpy as jnp

from seqjax.cells import parts
from seqjax.cells._dense import dense_cell
from seqjax.typing import Array, Cell, DType, Initializer, MaybeArray, factory


class LEMParams(NamedTuple):
    """Parameters of the Long Expressive Memory; the two time steps and the two candidates lie side by side: a, b, z, h."""

    kernel: Array  # input weights, (D, 4H)
    recurrent_kernel: Array  # (H, 4H); the last part multiplies z', the others h
    bias: MaybeArray  # (4H,)


class LEMCarry(NamedTuple):
    """Carry of the Long Expressive Memory; both arrays accumulate, so neither is narrower than float32."""

    h: Array  # the output, (B, H)
    z: Array  # the slower state that drives it, (B, H)


@factory
def lem(
    hidden_size: int,
    dt: float = 1.0,
    *,
    use_bias: bool = True,
    kernel_init: Initializer | None = None,
    recurrent_init: Initializer | None = None,
    bias_init: Initializer | None = None,
    dtype: DType | None = None,
    param_dtype: DType = jnp.float32,
) -> Cell[LEMParams, LEMCarry]:
    """The Long Expressive Memory (LEM): two coupled states with learned time steps for each unit and step.

      a = dt sigmoid(x W_a + b_a + h U_a)
      b = dt sigmoid(x W_b + b_b + h U_b)
      z' = (1 - a) z + a tanh(x W_z + b_z + h U_z)
      h' = (1 - b) h + b tanh(x W_h + b_h + z' U_h),  y = h'

    The last product needs z', so the cell runs on the scan engine.

    Args:
      hidden_size: number of hidden units, H.
      dt: largest time step, usually at most 1: a smaller one makes all memory slower (the authors use 0.21 for
        sequential MNIST and 0.0242 for the adding problem at T = 10,000).
      use_bias: whether to add a bias; if False, it is None in the parameters.
      kernel_init: initializer of each of W_a ... W_h, (D, H). Glorot uniform by default.
      recurrent_init: initializer of each of U_a ... U_h, (H, H). Orthogonal by default.
      bias_init: initializer of b (4H,). Zeros by default.
      dtype: dtype to compute the products in, and of y; the carry is never narrower than float32. That of the
        parameters by default.
      param_dtype: dtype of the parameters.

    Returns:
      A Cell with LEMParams and LEMCarry.

    Raises:
      ValueError: hidden_size is below 1, or dt is not positive.
      UserError: bias_init is given without a bias.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.lem(16)
      >>> params = cell.init(jax.random.key(0), 4)
      >>> carry, ys = seqjax.unroll(cell, params, jax.numpy.ones((2, 5, 4)))
      >>> ys.shape, carry.z.shape, params.kernel.shape
      ((2, 5, 16), (2, 16), (4, 64))

    Reference:
      Rusch, Mishra, Erichson, Mahoney 2022, "Long Expressive Memory for Sequence Modeling" (arXiv:2110.04744), equation 2.
    """
    if not dt > 0:
        raise ValueError(f"dt must be positive, got {dt!r}")

    def step(params, carry, gates, product):
        del params
        x_a, x_b, x_z, x_h = gates
        h_a, h_b, h_z = product(carry.h, 0, 3)
        a, b = dt * parts.sigmoid(x_a + h_a), dt * parts.sigmoid(x_b + h_b)
        z = (1 - a) * carry.z + a * jnp.tanh(x_z + h_z)
        (z_h,) = product(z, 3, 4)
        return LEMCarry(h=(1 - b) * carry.h + b * jnp.tanh(x_h + z_h), z=z)

    options = {"dtype": dtype, "param_dtype": param_dtype, "settings": (("dt", dt),), "use_bias": use_bias}
    inits = {"kernel_init": kernel_init, "recurrent_init": recurrent_init, "bias_init": bias_init}
    shape = {"params": LEMParams, "memory": LEMCarry._fields}
    return dense_cell("lem", hidden_size, LEMCarry, gates=4, step=step, **shape, **inits, **options)
