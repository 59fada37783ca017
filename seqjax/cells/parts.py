"""Shared parts of the cells: checks of settings, activations, dtypes, and layer normalisation."""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.typing import Activation, Array, DType


def sigmoid(x: Array) -> Array:
    """The logistic function written with tanh, which compiles to faster loops than an exponential and a division.

    sigmoid(x) = 1/2 + 1/2 tanh(x / 2)

    Args:
      x: any shape.

    Returns:
      An array like x, in 0 ... 1.

    Example:
      >>> import jax.numpy as jnp
      >>> float(sigmoid(jnp.zeros(())))
      0.5
    """
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


# Named as in `jax.nn`; sigmoid and tanh are the forms that compile to the fastest code.
ACTIVATIONS = {
    "tanh": jnp.tanh,
    "sigmoid": sigmoid,
    **{
        name: getattr(jax.nn, name)
        for name in ("elu", "gelu", "hard_sigmoid", "hard_tanh", "identity", "leaky_relu", "relu", "selu", "silu", "softplus", "soft_sign")
    },
}
EPSILON = 1e-5  # under the square root in layer normalisation, as in torch


def check_size(name: str, value: int) -> int:
    """Returns a positive integer, or raises an error that names the argument."""
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if size < 1:
        raise ValueError(f"{name} must be at least 1, got {size}")
    return size


def check_activation(value: Activation, argument: str = "activation") -> Callable[[Array], Array]:
    """Returns the function of that name, or the function itself; the error for an unknown name lists the known ones."""
    if callable(value):
        return value
    if value not in ACTIVATIONS:
        raise ValueError(f"{argument} must be a function, or one of {sorted(ACTIVATIONS)}, got {value!r}")
    return ACTIVATIONS[value]


def gate_activations(activation: Activation, gate_activation: Activation) -> Any:
    """Returns the activations of a gated cell, and its settings: a name is None if it is the default."""
    found = ("activation", activation, "tanh"), ("gate_activation", gate_activation, "sigmoid")
    settings = tuple((name, None if value == usual else value) for name, value, usual in found)
    return *(check_activation(value, name) for name, value, _ in found), settings


def compute_dtype(dtype: DType | None, kernel: Array) -> jnp.dtype:
    """Returns the dtype that a cell computes in: the one requested, else that of its parameters."""
    return jnp.dtype(kernel.dtype if dtype is None else dtype)


def memory_dtype(dtype: DType | None, kernel: Array) -> jnp.dtype:
    """Returns the dtype of additive memory: the compute dtype, but never narrower than float32."""
    return jnp.promote_types(compute_dtype(dtype, kernel), jnp.float32)


def affine(xs: Array, kernel: Array, bias: Array | None, dtype: jnp.dtype) -> Array:
    """Computes xs @ kernel + bias in the given dtype, for xs (..., D)."""
    product = xs.astype(dtype) @ kernel.astype(dtype)
    return add_bias(product, bias)


def add_bias(a: Array, bias: Array | None) -> Array:
    """Computes a + bias in the dtype of a, for a (..., N) and a bias (N,); returns a unchanged for None."""
    return a if bias is None else a + bias.astype(a.dtype).reshape((1,) * (a.ndim - 1) + bias.shape)


def normalize(a: Array, gain: Array) -> Array:
    """Normalises over the last axis: gain * (a - mean(a)) / sqrt(var(a) + EPSILON), in the dtype of a."""
    centred = a - a.mean(axis=-1, keepdims=True)
    scaled = centred * jax.lax.rsqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON)
    return scaled * gain.astype(a.dtype).reshape((1,) * (a.ndim - 1) + gain.shape)
