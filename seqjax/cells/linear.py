"""Linear recurrences, whose states can be computed for all steps in parallel: minGRU, minLSTM and the LRU."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqjax import initializers
from seqjax.cells import parts
from seqjax.cells._lstm import forget_bias_init
from seqjax.typing import Array, Cell, DType, Initializer, Linear, factory


def _positive(x):
    """x + 1/2 for x >= 0 and sigmoid(x) below: positive, continuous, and with slope 1 where x is large."""
    return jnp.where(x >= 0, x + 0.5, jax.nn.sigmoid(x))


ACTIVATIONS = {"identity": lambda x: x, "positive": _positive}


class MinGRUParams(NamedTuple):
    """Parameters of the minGRU; the gates lie side by side in the order z, g."""

    kernel: Array  # input weights, (D, 2H)
    bias: Array  # (2H,)


class MinGRUCarry(NamedTuple):
    """Carry of the minGRU."""

    h: Array  # the memory, which is the last output, (B, H), never narrower than float32


class MinLSTMParams(NamedTuple):
    """Parameters of the minLSTM; the gates lie side by side in the order i, f, g."""

    kernel: Array  # input weights, (D, 3H)
    bias: Array  # (3H,)


class MinLSTMCarry(NamedTuple):
    """Carry of the minLSTM."""

    h: Array  # the memory, which is the last output, (B, H), never narrower than float32


class LRUParams(NamedTuple):
    """Parameters of the LRU, all of them real; N is the state size."""

    nu_log: Array  # log of -log |lambda|, (N,)
    theta_log: Array  # log of the phase of lambda, (N,)
    gamma_log: Array  # log of the scale of the input, (N,)
    b_re: Array  # real part of the input weights, (D, N)
    b_im: Array  # their imaginary part, (D, N)
    c_re: Array  # real part of the output weights, (N, H)
    c_im: Array  # their imaginary part, (N, H)
    skip: Array  # weights from input to output, (D, H), or (H,) if skip="diagonal"


class LRUCarry(NamedTuple):
    """Carry of the LRU: a complex state as two real arrays."""

    re: Array  # real part of the state, (B, N), never narrower than float32
    im: Array  # its imaginary part, (B, N), never narrower than float32


@factory
def mingru(
    hidden_size: int,
    activation: str = "identity",
    *,
    kernel_init: Initializer | None = None,
    bias_init: Initializer | None = None,
    dtype: DType | None = None,
    param_dtype: DType = jnp.float32,
) -> Cell[MinGRUParams, MinGRUCarry]:
    """The minGRU: a GRU whose update gate and candidate depend only on the input.

      z = sigmoid(x W_z + b_z)
      g = act(x W_g + b_g)
      h' = (1 - z) h + z g,  y = h'

    Here z is the weight of the new value, as in the paper; in `seqjax.gru` it is that of the old one.

    Args:
      hidden_size: number of hidden units, H.
      activation: for the candidate. "identity", or "positive": x + 1/2 for x >= 0 and sigmoid(x) below, which the
        paper needs for its form in logarithms. Ours needs no logarithm, and with it all terms have one sign.
      kernel_init: initializer of one gate of W, (D, H). Glorot uniform by default.
      bias_init: initializer of the whole bias (2H,). Zeros by default.
      dtype: dtype to compute the product in, and of y; the memory h is never narrower than float32. That of the
        parameters by default.
      param_dtype: dtype of the parameters.

    Returns:
      A Cell with MinGRUParams and MinGRUCarry.

    Raises:
      ValueError: hidden_size is below 1, or activation is unknown.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.mingru(hidden_size=16)
      >>> params = cell.init(jax.random.key(0), 4)
      >>> carry, ys = seqjax.unroll(cell, params, jax.numpy.ones((2, 5, 4)))
      >>> ys.shape, carry.h.shape, params.kernel.shape
      ((2, 5, 16), (2, 16), (4, 32))

    Reference:
      Feng et al. 2024, "Were RNNs All We Needed?".
    """
    size = parts.check_size("hidden_size", hidden_size)
    act = _activation(activation)

    def gates(z, g):
        return jax.nn.sigmoid(-z), jax.nn.sigmoid(z) * act(g)

    settings = (("activation", activation), ("dtype", dtype))
    inits = kernel_init, bias_init or initializers.zeros
    return _gated("mingru", size, MinGRUParams, MinGRUCarry, gates, 2, inits, settings, dtype, param_dtype)


@factory
def minlstm(
    hidden_size: int,
    activation: str = "identity",
    forget_bias: float | None = None,
    *,
    kernel_init: Initializer | None = None,
    bias_init: Initializer | None = None,
    dtype: DType | None = None,
    param_dtype: DType = jnp.float32,
) -> Cell[MinLSTMParams, MinLSTMCarry]:
    """The minLSTM: input and forget gates depend only on the input and are scaled to sum to one.

      i, f = sigmoid(x W_i + b_i), sigmoid(x W_f + b_f)
      g = act(x W_g + b_g)
      h' = f / (f + i) h + i / (f + i) g,  y = h'

    The two quotients are computed as sigmoids of log f - log i and of its negative, which avoids 0 / 0.

    Args:
      hidden_size: number of hidden units, H.
      activation: for the candidate. "identity", or "positive": x + 1/2 for x >= 0 and sigmoid(x) below, which the
        paper needs for its form in logarithms. Ours needs no logarithm, and with it all terms have one sign.
      forget_bias: added to the forget gate's part of the bias at initialisation only. Defaults to 1, or to 0 if
        bias_init is given, which is then the whole bias.
      kernel_init: initializer of one gate of W, (D, H). Glorot uniform by default.
      bias_init: initializer of the whole bias (3H,). Zeros by default.
      dtype: dtype to compute the product in, and of y; the memory h is never narrower than float32. That of the
        parameters by default.
      param_dtype: dtype of the parameters.

    Returns:
      A Cell with MinLSTMParams and MinLSTMCarry.

    Raises:
      ValueError: hidden_size is below 1, or activation is unknown.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.minlstm(hidden_size=16)
      >>> params = cell.init(jax.random.key(0), 4)
      >>> carry, ys = seqjax.unroll(cell, params, jax.numpy.ones((2, 5, 4)))
      >>> ys.shape, carry.h.shape, float(params.bias[16])
      ((2, 5, 16), (2, 16), 1.0)

    Reference:
      Feng et al. 2024, "Were RNNs All We Needed?".
    """
    size = parts.check_size("hidden_size", hidden_size)
    act = _activation(activation)

    def gates(i, f, g):
        log_odds = jax.nn.softplus(-i) - jax.nn.softplus(-f)
        return jax.nn.sigmoid(log_odds), jax.nn.sigmoid(-log_odds) * act(g)

    settings = (("activation", activation), ("dtype", dtype))
    inits = kernel_init, forget_bias_init(bias_init, forget_bias, "ifg")
    return _gated("minlstm", size, MinLSTMParams, MinLSTMCarry, gates, 3, inits, settings, dtype, param_dtype)


def _activation(name):
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {sorted(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]


def _gated(name, size, params_type, carry_type, gates, count, inits, settings, dtype, param_dtype):
    """Builds the cell h' = a h + b, y = h', where gates(*blocks of x W + b) -> (a, b)."""
    kernel_init, bias_init = inits
    kernel_init = initializers.per_gate(kernel_init or initializers.glorot_uniform(), count)

    def init(key, input_size):
        keys = jax.random.split(key)
        shape = (parts.check_size("input_size", input_size), count * size)
        return params_type(kernel_init(keys[0], shape, param_dtype), bias_init(keys[1], shape[1:], param_dtype))

    def initial_carry(params, batch_size):
        return carry_type(h=jnp.zeros((batch_size, size), parts.memory_dtype(dtype, params.kernel)))

    def coefficients(params, xs):
        sums = parts.affine(xs, params.kernel, params.bias, parts.compute_dtype(dtype, params.kernel))
        return gates(*jnp.split(sums.astype(parts.memory_dtype(dtype, params.kernel)), count, axis=-1))

    def output(params, hs, xs):
        del xs
        return hs.astype(parts.compute_dtype(dtype, params.kernel))

    return Cell(
        name=name,
        hidden_size=size,
        init=init,
        initial_carry=initial_carry,
        input_size=lambda params: params.kernel.shape[0],
        split=Linear(coefficients, output, state=lambda carry: carry.h, carry=carry_type, elementwise=True),
        settings=settings,
    )


@factory
def lru(
    hidden_size: int,
    state_size: int | None = None,
    r_min: float = 0.0,
    r_max: float = 1.0,
    max_phase: float = 2 * math.pi,
    *,
    skip: str = "dense",
    dtype: DType | None = None,
    param_dtype: DType = jnp.float32,
) -> Cell[LRUParams, LRUCarry]:
    """The linear recurrent unit: a complex diagonal recurrence that is stable by its parametrisation.

      lambda = exp(-exp(nu_log) + i exp(theta_log))
      h' = lambda h + exp(gamma_log) (x B)
      y = Re(h' C) + x D

    Initial values: lambda is uniform on the ring r_min <= |lambda| <= r_max with phase in [0, max_phase]; gamma =
    sqrt(1 - |lambda|^2), which gives the state the variance of x B; the parts of B are normal with variance 1 / (2D),
    those of C with 1 / N, a dense skip with 1 / D, a diagonal one with 1.

    Args:
      hidden_size: number of outputs, H.
      state_size: number of complex states, N. hidden_size by default.
      r_min: smallest modulus of lambda at initialisation.
      r_max: largest modulus of lambda at initialisation; near 1 for long memory.
      max_phase: largest phase of lambda at initialisation, in radians; small for long memory.
      skip: "dense" for D (D, H), or "diagonal" for D (H,), as in the paper, which needs inputs of size H.
      dtype: dtype to compute the products in, and of y; the state is never narrower than float32. That of the
        parameters by default.
      param_dtype: dtype of the parameters.

    Returns:
      A Cell with LRUParams and LRUCarry, both of real arrays.

    Raises:
      ValueError: a size is below 1, the ring is not 0 <= r_min < r_max <= 1, max_phase is not positive, skip is
        unknown; (from init) the skip is diagonal and the input size is not hidden_size.

    Example:
      >>> import jax, seqjax
      >>> cell = seqjax.lru(hidden_size=16, state_size=32, r_min=0.9, r_max=0.999)
      >>> params = cell.init(jax.random.key(0), 4)
      >>> carry, ys = seqjax.unroll(cell, params, jax.numpy.ones((2, 5, 4)))
      >>> ys.shape, carry.re.shape, carry.im.shape
      ((2, 5, 16), (2, 32), (2, 32))

    Reference:
      Orvieto et al. 2023, "Resurrecting Recurrent Neural Networks for Long Sequences".
    """
    size = parts.check_size("hidden_size", hidden_size)
    states = size if state_size is None else parts.check_size("state_size", state_size)
    if not 0 <= r_min < r_max <= 1:
        raise ValueError(f"r_min and r_max must satisfy 0 <= r_min < r_max <= 1, got {r_min} and {r_max}")
    if not max_phase > 0:
        raise ValueError(f"max_phase must be positive, got {max_phase}")
    if skip not in ("dense", "diagonal"):
        raise ValueError(f"skip must be 'dense' or 'diagonal', got {skip!r}")

    def init(key, input_size):
        features = parts.check_size("input_size", input_size)
        if skip == "diagonal" and features != size:
            raise ValueError(f"a diagonal skip needs an input size of hidden_size = {size}, got {features}")
        ring_key, *keys = jax.random.split(key, 6)
        shapes = [(features, states)] * 2 + [(states, size)] * 2 + [(features, size) if skip == "dense" else (size,)]
        scales = [(2 * features) ** -0.5] * 2 + [states**-0.5] * 2 + [features**-0.5 if skip == "dense" else 1.0]
        # Drawn in float32 at least: the logarithms of the ring need it.
        wide = jnp.promote_types(param_dtype, jnp.float32)
        drawn = [scale * jax.random.normal(k, shape, wide) for k, shape, scale in zip(keys, shapes, scales)]
        ring = _ring(ring_key, states, r_min, r_max, max_phase, wide)
        return LRUParams(*(value.astype(param_dtype) for value in (*ring, *drawn)))

    def initial_carry(params, batch_size):
        shape, memory = (batch_size, states), parts.memory_dtype(dtype, params.b_re)
        return LRUCarry(re=jnp.zeros(shape, memory), im=jnp.zeros(shape, memory))  # two buffers, each of which may be donated

    return Cell(
        name="lru",
        hidden_size=size,
        init=init,
        initial_carry=initial_carry,
        input_size=lambda params: params.b_re.shape[0],
        split=_lru_linear(skip, dtype),
        settings=(("state_size", states), ("skip", skip), ("dtype", dtype)),
    )


def _ring(key, states, r_min, r_max, max_phase, dtype):
    """Draws nu_log, theta_log and gamma_log for eigenvalues uniform on a ring in the complex plane."""
    # Both ends are excluded: at 0 and 1 a logarithm below is infinite.
    margin = jnp.finfo(dtype).eps
    radius, phase = jax.random.uniform(key, (2, states), dtype, margin, 1 - margin)
    nu = -0.5 * jnp.log(radius * (r_max**2 - r_min**2) + r_min**2)
    return jnp.log(nu), jnp.log(max_phase * phase), 0.5 * jnp.log(-jnp.expm1(-2 * nu))


def _lru_linear(skip, dtype):
    def coefficients(params, xs):
        memory, compute = parts.memory_dtype(dtype, params.b_re), parts.compute_dtype(dtype, params.b_re)
        modulus, phase, gamma = (jnp.exp(log.astype(memory)) for log in params[:3])
        modulus = jnp.exp(-modulus)
        eigenvalues = jax.lax.complex(modulus * jnp.cos(phase), modulus * jnp.sin(phase))
        kernel = jnp.concatenate([params.b_re, params.b_im], axis=-1).astype(compute)
        re, im = jnp.split((xs.astype(compute) @ kernel).astype(memory), 2, axis=-1)
        lead = (1,) * (xs.ndim - 1) + gamma.shape
        gamma = gamma.reshape(lead)
        return jnp.broadcast_to(eigenvalues.reshape(lead), re.shape), jax.lax.complex(gamma * re, gamma * im)

    def output(params, hs, xs):
        compute = parts.compute_dtype(dtype, params.b_re)
        parted = jnp.concatenate([hs.real, hs.imag], axis=-1).astype(compute)
        ys = parted @ jnp.concatenate([params.c_re, -params.c_im]).astype(compute)
        d = params.skip.astype(compute)
        if skip == "dense":
            return ys + xs.astype(compute) @ d
        return ys + xs.astype(compute) * d.reshape((1,) * (xs.ndim - 1) + d.shape)

    return Linear(
        coefficients,
        output,
        state=lambda carry: jax.lax.complex(carry.re, carry.im),
        carry=lambda h: LRUCarry(re=h.real, im=h.imag),
    )
