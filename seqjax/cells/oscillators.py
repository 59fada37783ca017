"""Cells whose units are oscillators, so that gradients through time neither vanish nor explode quickly."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqjax.cells import parts
from seqjax.cells._dense import dense_cell
from seqjax.typing import Array, Cell, DType, Initializer, MaybeArray, factory


class CoRNNParams(NamedTuple):
    """Parameters of the coupled oscillatory network."""

    kernel: Array  # input weights, (D, H)
    recurrent_kernel: Array  # from the positions h, then from the velocities z, (2H, H)
    bias: MaybeArray  # (H,)


class UnICORNNParams(NamedTuple):
    """Parameters of the undamped independent controlled oscillators."""

    kernel: Array  # input weights, (D, H)
    recurrent_kernel: Array  # w, from each unit to itself, (H,)
    bias: MaybeArray  # (H,)
    time_scale: Array  # c: a unit's time step is dt sigmoid(c), (H,)


class OscillatorCarry(NamedTuple):
    """Carry of the oscillators: positions and velocities; both accumulate, so neither is narrower than float32."""

    h: Array  # position, which is the output, (B, H)
    z: Array  # velocity, (B, H)


@factory
def cornn(
    hidden_size: int,
    dt: float = 0.042,
    gamma: float = 2.7,
    epsilon: float = 4.7,
    *,
    use_bias: bool = True,
    kernel_init: Initializer | None = None,
    recurrent_init: Initializer | None = None,
    bias_init: Initializer | None = None,
    dtype: DType | None = None,
    param_dtype: DType = jnp.float32,
) -> Cell[CoRNNParams, OscillatorCarry]:
    """The coupled oscillatory recurrent network (coRNN): damped oscillators driven by the input and by all units.

      z' = z + dt (tanh(x W + b + h U_h + z U_z) - gamma h - epsilon z)
      h' = h + dt z',  y = h'

    This is h'' = tanh(...) - gamma h - epsilon h' in time steps of dt. Gradients stay bounded if dt is small compared
    with 1 / gamma and 1 / epsilon; a small dt also makes the memory slow, so choose it for the length of the task.

    Args:
      hidden_size: number of oscillators, H.
      dt: time step. The defaults of dt, gamma and epsilon are the authors' for sequential MNIST (T = 784); for the
        adding problem they use 0.06, 66 and 15.
      gamma: stiffness, the square of an oscillator's natural angular frequency.
      epsilon: damping.
      use_bias: whether to add a bias; if False, it is None in the parameters.
      kernel_init: initializer of W (D, H). Glorot uniform by default.
      recurrent_init: initializer of U = [U_h; U_z] (2H, H). Orthogonal by default.
      bias_init: initializer of b (H,). Zeros by default.
      dtype: dtype to compute the products in, and of y; the carry is never narrower than float32. That of the
        parameters by default.
      param_dtype: dtype of the parameters.

    Returns:
      A Cell with CoRNNParams and OscillatorCarry.

    Raises:
      ValueError: hidden_size is below 1, dt is not positive, or gamma or epsilon is negative.
      UserError: bias_init is given without a bias.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.cornn(16)
      >>> params = cell.init(jax.random.key(0), 4)
      >>> carry, ys = seqjax.unroll(cell, params, jax.numpy.ones((2, 5, 4)))
      >>> ys.shape, carry.z.shape, params.recurrent_kernel.shape
      ((2, 5, 16), (2, 16), (32, 16))

    Reference:
      Rusch, Mishra 2021, "Coupled Oscillatory Recurrent Neural Network (coRNN)" (arXiv:2010.00951), equation 3 with the
      damping of the old velocity.
    """
    _check(dt=dt, gamma=gamma, epsilon=epsilon)

    def recur(params, carry):
        kernel = params.recurrent_kernel.astype(parts.compute_dtype(dtype, params.kernel))
        return jnp.concatenate([carry.h, carry.z], axis=-1).astype(kernel.dtype) @ kernel

    def combine(params, carry, gates):
        (s,) = gates
        z = carry.z + dt * (jnp.tanh(s) - gamma * carry.h - epsilon * carry.z)
        return OscillatorCarry(h=carry.h + dt * z, z=z)

    options = {"dtype": dtype, "param_dtype": param_dtype, "settings": (("dt", dt), ("gamma", gamma), ("epsilon", epsilon))}
    inits = {"kernel_init": kernel_init, "recurrent_init": recurrent_init, "bias_init": bias_init, "use_bias": use_bias}
    shape = {"params": CoRNNParams, "memory": OscillatorCarry._fields, "recurrent_shape": (2 * hidden_size, hidden_size)}
    cell = dense_cell("cornn", hidden_size, OscillatorCarry, combine, gates=1, **shape, **inits, **options)
    return cell.replace(split=cell.parts._replace(recur=recur))


@factory
def unicornn(
    hidden_size: int,
    dt: float = 0.19,
    alpha: float = 30.65,
    *,
    use_bias: bool = True,
    kernel_init: Initializer | None = None,
    recurrent_init: Initializer | None = None,
    bias_init: Initializer | None = None,
    time_scale_init: Initializer | None = None,
    dtype: DType | None = None,
    param_dtype: DType = jnp.float32,
) -> Cell[UnICORNNParams, OscillatorCarry]:
    """Undamped independent controlled oscillators (UnICORNN): a Hamiltonian system; stacked layers mix the units.

      d = dt sigmoid(c)
      z' = z - d (tanh(x W + b + w h) + alpha h)
      h' = h + d z',  y = h',  all products but x W elementwise

    A unit depends on no other unit's past, as in the IndRNN, and has its own learned time scale c. The step is
    symplectic, so nothing is damped, and gradients through time grow no faster than the number of steps. It is stable
    while d sqrt(alpha + |w|) stays below 2.

    Args:
      hidden_size: number of oscillators, H.
      dt: largest time step of a unit. The defaults of dt and alpha are the authors' for permuted MNIST (T = 784).
      alpha: stiffness of all units.
      use_bias: whether to add a bias; if False, it is None in the parameters.
      kernel_init: initializer of W (D, H). Glorot uniform by default.
      recurrent_init: initializer of w (H,). Uniform in [0, 1) by default, as in the authors' code.
      bias_init: initializer of b (H,). Zeros by default.
      time_scale_init: initializer of c (H,). Uniform in [-0.1, 0.1) by default, as in the authors' code.
      dtype: dtype to compute the products in, and of y; the carry is never narrower than float32. That of the
        parameters by default.
      param_dtype: dtype of the parameters.

    Returns:
      A Cell with UnICORNNParams and OscillatorCarry.

    Raises:
      ValueError: hidden_size is below 1, dt is not positive, or alpha is negative.
      UserError: bias_init is given without a bias.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.stack(seqjax.unicornn(16), seqjax.unicornn(16))
      >>> params = cell.init(jax.random.key(0), 4)
      >>> carry, ys = seqjax.unroll(cell, params, jax.numpy.ones((2, 5, 4)))
      >>> ys.shape, params[0].time_scale.shape
      ((2, 5, 16), (16,))

    Reference:
      Rusch, Mishra 2021, "UnICORNN: A Recurrent Model for Learning Very Long Time Dependencies" (arXiv:2103.05487).
    """
    _check(dt=dt, alpha=alpha)

    def recur(params, carry):
        return carry.h * params.recurrent_kernel.astype(carry.h.dtype)[None, :]

    def combine(params, carry, gates):
        (s,) = gates
        step = dt * parts.sigmoid(params.time_scale)
        z = carry.z - step * (jnp.tanh(s) + alpha * carry.h)
        return OscillatorCarry(h=carry.h + step * z, z=z)

    extra = {"time_scale": (time_scale_init or _around_zero, (hidden_size,))}
    options = {"dtype": dtype, "param_dtype": param_dtype, "settings": (("dt", dt), ("alpha", alpha)), "extra": extra}
    inits = {"kernel_init": kernel_init, "recurrent_init": recurrent_init or jax.nn.initializers.uniform(1.0), "bias_init": bias_init}
    shape = {"params": UnICORNNParams, "memory": OscillatorCarry._fields, "recurrent_shape": (hidden_size,), "use_bias": use_bias}
    cell = dense_cell("unicornn", hidden_size, OscillatorCarry, combine, gates=1, **shape, **inits, **options)
    return cell.replace(split=cell.parts._replace(recur=recur))


def _around_zero(key, shape, dtype):
    return jax.random.uniform(key, shape, dtype, -0.1, 0.1)


def _check(dt: float, **others: float) -> None:
    if not dt > 0:
        raise ValueError(f"dt must be positive, got {dt!r}")
    for name, value in others.items():
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value!r}")
