"""What the cells share: checks of settings, dtypes, and the step made of three parts."""

import operator

import jax.numpy as jnp

from seqjax.typing import Array, Carry, DType, Params


def check_size(name: str, value: int) -> int:
    """A positive integer, or an error that names the argument."""
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, and it is {value!r}") from None
    if size < 1:
        raise ValueError(f"{name} must be at least 1, and it is {size}")
    return size


def compute_dtype(dtype: DType | None, kernel: Array) -> jnp.dtype:
    """The dtype that a cell computes in: the one asked for, else that of its parameters."""
    return jnp.dtype(kernel.dtype if dtype is None else dtype)


def memory_dtype(dtype: DType | None, kernel: Array) -> jnp.dtype:
    """The dtype of additive memory: the compute dtype, but never narrower than float32."""
    return jnp.promote_types(compute_dtype(dtype, kernel), jnp.float32)


def affine(xs: Array, kernel: Array, bias: Array, dtype: jnp.dtype) -> Array:
    """xs @ kernel + bias in the given dtype, for xs (..., D)."""
    product = xs.astype(dtype) @ kernel.astype(dtype)
    return product + bias.astype(dtype).reshape((1,) * (product.ndim - 1) + bias.shape)


def step_of(project, recur, combine):
    """The step of a cell that gives its three parts."""

    def step(params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
        return combine(params, carry, project(params, x), recur(params, carry))

    return step


def joint_step(combine, dtype: DType | None):
    """The step of a cell whose `combine` only adds the two products: one product [x, h] [W; U] in the place of two.

    Inside a scan the joint kernel is laid out once, before the loop. What it saves is in `engines/scan.py`.
    """

    def step(params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
        compute = compute_dtype(dtype, params.kernel)
        kernel = jnp.concatenate([params.kernel, params.recurrent_kernel])
        inputs = jnp.concatenate([x.astype(compute), carry.h.astype(compute)], axis=-1)
        return combine(params, carry, affine(inputs, kernel, params.bias, compute), 0)

    return step
