"""Batch normalisation with a custom derivative."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import dtypes

from seqjax.placement import vary_together
from seqjax.typing import Array


class BatchNorm(nn.Module):
    r"""Batch normalisation over all axes but the last, with the parameters and statistics of `flax.linen.BatchNorm`.

    .. math::

        y = \gamma \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

    In training :math:`\mu` and :math:`\sigma^2` are the mean and the biased variance of this batch, and the running statistics r
    become m r + (1 - m) of them; in evaluation they are the running statistics. (torch keeps the unbiased variance, N / (N - 1)
    times as large, and calls 1 - m the momentum.)

    Statistics are computed in float32 at least, the variance as the mean of :math:`(x - \mu)^2`, which stays accurate
    when the mean is large, where :math:`E[x^2] - \mu^2` (flax's default) loses all digits. The derivative in training
    is the closed form below, from x, the mean and the deviation only; it supports only reverse mode, to any order.

    If `jax.jit` has the batch sharded over a mesh, the statistics are those of the whole batch; inside `jax.shard_map`
    they are those of each device.

    Attributes:
      use_running_average: whether the running statistics normalise (evaluation); here or in the call.
      momentum: m above.
      epsilon: added to the variance.
      dtype: dtype of the result; None takes what x and the parameters promote to.
      use_scale, use_bias: whether there are gamma and beta.
      scale_init, bias_init: their initialisation.

    Example:
      >>> norm = BatchNorm(momentum=0.9)
      >>> x = jnp.array([[1.0], [3.0]])
      >>> variables = norm.init(jax.random.key(0), x, use_running_average=False)
      >>> y, new = norm.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
      >>> y.round(3).tolist()
      [[-1.0], [1.0]]
      >>> round(float(new["batch_stats"]["mean"][0]), 3)
      0.2

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167.
    """

    use_running_average: bool | None = None
    momentum: float = 0.99
    epsilon: float = 1e-5
    dtype: Any = None
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Callable[..., Array] = nn.initializers.zeros
    scale_init: Callable[..., Array] = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Array, use_running_average: bool | None = None, *, mask: Array | None = None) -> Array:
        """Normalises x of shape (B, ..., C).

        Args:
          x: the values.
          use_running_average: as the attribute.
          mask: bool (B,), true for real rows. Other rows do not affect the statistics, values or gradients, and are
            treated as zeros. None if all are real.
        """
        evaluate = nn.merge_param("use_running_average", self.use_running_average, use_running_average)
        channels = (x.shape[-1],)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        scale = self.param("scale", self.scale_init, channels, jnp.float32) if self.use_scale else None
        bias = self.param("bias", self.bias_init, channels, jnp.float32) if self.use_bias else None
        dtype = dtypes.canonicalize_dtype(x, scale, bias, dtype=self.dtype)
        scale = jnp.ones(channels, jnp.float32) if scale is None else scale
        bias = jnp.zeros(channels, jnp.float32) if bias is None else bias
        if mask is not None:
            x = jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - 1)), x, 0)
        if evaluate:
            y = _affine(x, mean.value, scale * jax.lax.rsqrt(var.value + self.epsilon), bias)
            return y.astype(dtype)
        if mask is None:
            y, batch_mean, batch_var = normalize(x, scale, bias, self.epsilon)
        else:
            y, batch_mean, batch_var = normalize_real(x, mask, scale, bias, self.epsilon)
        if not self.is_initializing():
            for running, new in ((mean, batch_mean), (var, batch_var)):
                running.value = self.momentum * running.value + (1 - self.momentum) * new.astype(running.value.dtype)
        return y.astype(dtype)


def normalize(x: Array, scale: Array, bias: Array, epsilon: float = 1e-5) -> tuple[Array, Array, Array]:
    r"""Normalises by the statistics of the batch.

    .. math::

        \hat x = (x - \mu) / \sqrt{\sigma^2 + \epsilon}, \quad y = \gamma \hat x + \beta

        dx = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} \left(dy - \frac1N \sum dy - \hat x \frac1N \sum \hat x\,dy\right)

    Args:
      x: (B, ..., C) of a float type; N is the product of all axes but the last.
      scale, bias: (C,), gamma and beta.
      epsilon: added to the variance.

    Returns:
      y like x in float32 at least, the mean (C,) and the biased variance (C,).

    Example:
      >>> y, mean, var = normalize(jnp.array([[1.0], [3.0]]), jnp.ones(1), jnp.zeros(1))
      >>> mean.tolist(), var.tolist()
      ([2.0], [1.0])
    """
    return _normalize(*vary_together(x, scale, bias), epsilon)


def normalize_real(x: Array, mask: Array, scale: Array, bias: Array, epsilon: float = 1e-5) -> tuple[Array, Array, Array]:
    """Normalises by the statistics of the real rows of the batch; JAX computes the derivative.

    Args:
      x: (B, ..., C) of a float type, finite.
      mask: bool (B,), true for real rows.
      scale, bias, epsilon: as in `normalize`.

    Returns:
      As `normalize`; without a real row both mean and variance are 0.

    Example:
      >>> y, mean, var = normalize_real(jnp.array([[1.0], [3.0], [9.0]]), jnp.array([True, True, False]), jnp.ones(1), jnp.zeros(1))
      >>> mean.tolist(), var.tolist()
      ([2.0], [1.0])
    """
    wide, real = _widen(x), mask.reshape(mask.shape + (1,) * (x.ndim - 1))
    count = jnp.maximum(jnp.sum(mask), 1) * (x.size // (x.shape[0] * x.shape[-1]))
    mean = _sum(jnp.where(real, wide, 0)) / count
    var = _sum(jnp.where(real, jnp.square(wide - _channelwise(mean, x)), 0)) / count
    return _affine(x, mean, scale * jax.lax.rsqrt(var + epsilon), bias), mean, var


def masked_norms(mask: Array) -> Any:
    """A context in which every `BatchNorm`, in any network, treats the same rows as real.

    Args:
      mask: bool (B,), true for real rows; the network must keep one row for each.

    Example:
      >>> norm, x = BatchNorm(use_running_average=False), jnp.array([[1.0], [3.0], [9.0]])
      >>> with masked_norms(jnp.array([True, True, False])):
      ...     y, _ = norm.init_with_output(jax.random.key(0), x)
      >>> y.round(3)[:2].tolist()
      [[-1.0], [1.0]]
    """

    def masked(call, args, kwargs, context):
        if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
            kwargs = {**kwargs, "mask": mask}
        return call(*args, **kwargs)

    return nn.intercept_methods(masked)


def _forward(x, scale, bias, epsilon):
    wide = _widen(x)
    mean = _sum(wide) / _count(x)
    var = _sum(jnp.square(wide - _channelwise(mean, x))) / _count(x)
    inverse = jax.lax.rsqrt(var + epsilon)
    return (_affine(x, mean, scale * inverse, bias), mean, var), (x, scale, mean, inverse)


def _backward(epsilon, residuals, cotangents):
    x, scale, mean, inverse = residuals
    dy, dmean, dvar = cotangents
    n = _count(x)
    centred = _widen(x) - _channelwise(mean, x)
    dbias = _sum(dy)
    dscale = _sum(dy * centred) * inverse
    slope = scale * inverse
    # The contribution of the statistics' own cotangents has the size of a channel, so it costs nothing if they are
    # zero.
    constant = (slope * dbias - dmean) / n
    linear = (slope * inverse * dscale - 2 * dvar) / n
    dx = _channelwise(slope, x) * dy - centred * _channelwise(linear, x) - _channelwise(constant, x)
    return dx.astype(x.dtype), dscale.astype(scale.dtype), dbias.astype(scale.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalize(x, scale, bias, epsilon):
    return _forward(x, scale, bias, epsilon)[0]


_normalize.defvjp(_forward, _backward)


def _affine(x, mean, slope, bias):
    """Computes (x - mean) slope + bias, in float32 at least. The difference comes first: x slope - mean slope would cancel."""
    return (_widen(x) - _channelwise(mean, x)) * _channelwise(slope, x) + _channelwise(bias, x)


def _sum(x):
    return jnp.sum(x, axis=tuple(range(x.ndim - 1)))


def _count(x):
    return x.size // x.shape[-1]


def _widen(x):
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _channelwise(values, x):
    return values.reshape((1,) * (x.ndim - 1) + values.shape)
