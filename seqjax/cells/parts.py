"""What the cells share: checks of settings, dtypes, the elementwise part of an LSTM, and the step made of three parts."""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import initializers
from seqjax.cells import gates as gates_of
from seqjax.typing import Activation, Array, Carry, Dense, DType, Initializer, Params

# By the names of `jax.nn`; the logistic function and tanh are those that compilers do quickest.
ACTIVATIONS = {
    "tanh": jnp.tanh,
    "sigmoid": gates_of.sigmoid,
    **{
        name: getattr(jax.nn, name)
        for name in ("elu", "gelu", "hard_sigmoid", "hard_tanh", "identity", "leaky_relu", "relu", "selu", "silu", "softplus", "soft_sign")
    },
}  # fmt: skip
LSTM_GATES = "ifgo"  # side by side in this order: input, forget, candidate, output
COUPLED_GATES = "fgo"  # the same without the input gate, which is 1 - f
EPSILON = 1e-5  # under the root of layer normalisation, as in torch


def check_size(name: str, value: int) -> int:
    """A positive integer, or an error that names the argument."""
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, and it is {value!r}") from None
    if size < 1:
        raise ValueError(f"{name} must be at least 1, and it is {size}")
    return size


def check_activation(value: Activation, argument: str = "activation") -> Callable[[Array], Array]:
    """The function of that name, or the function itself; or an error that gives the names there are."""
    if callable(value):
        return value
    if value not in ACTIVATIONS:
        raise ValueError(f"{argument} must be a function, or one of {sorted(ACTIVATIONS)}, and it is {value!r}")
    return ACTIVATIONS[value]


def activations(activation: Activation, gate_activation: Activation) -> tuple[tuple[str, Any], ...]:
    """The settings of a cell with gates: None where they are the usual ones."""
    found = ("activation", activation, "tanh"), ("gate_activation", gate_activation, "sigmoid")
    return tuple((name, None if value == usual else value) for name, value, usual in found)


def compute_dtype(dtype: DType | None, kernel: Array) -> jnp.dtype:
    """The dtype that a cell computes in: the one asked for, else that of its parameters."""
    return jnp.dtype(kernel.dtype if dtype is None else dtype)


def memory_dtype(dtype: DType | None, kernel: Array) -> jnp.dtype:
    """The dtype of additive memory: the compute dtype, but never narrower than float32."""
    return jnp.promote_types(compute_dtype(dtype, kernel), jnp.float32)


def affine(xs: Array, kernel: Array, bias: Array, dtype: jnp.dtype) -> Array:
    """xs @ kernel + bias in the given dtype, for xs (..., D)."""
    product = xs.astype(dtype) @ kernel.astype(dtype)
    return add_bias(product, bias)


def add_bias(a: Array, bias: Array) -> Array:
    """a + bias in the dtype of a, for a (..., N) and a bias (N,)."""
    return a + bias.astype(a.dtype).reshape((1,) * (a.ndim - 1) + bias.shape)


def normalize(a: Array, gain: Array) -> Array:
    """Layer normalisation over the last axis: gain * (a - mean(a)) / sqrt(var(a) + EPSILON), in the dtype of a."""
    centred = a - a.mean(axis=-1, keepdims=True)
    scaled = centred * jax.lax.rsqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON)
    return scaled * gain.astype(a.dtype).reshape((1,) * (a.ndim - 1) + gain.shape)


def lstm_bias_init(bias_init: Initializer | None, forget_bias: float | None, gates: str) -> Initializer:
    """Zeros and a forget bias of 1; or what the user gives, which is the whole bias where no forget bias is given."""
    if forget_bias is None:
        forget_bias = 1.0 if bias_init is None else 0.0
    return initializers.add_to_gate(bias_init or initializers.zeros, forget_bias, gates.index("f"), len(gates))


def lstm_memory(
    sums: tuple[Array, ...],
    c: Array,
    gates: str,
    peepholes: Array | None,
    act: Callable[[Array], Array],
    gate_act: Callable[[Array], Array],
) -> tuple[Array, Array]:
    """The new memory of an LSTM and its output gate, from the sums at its gates.

      c' = gate_act(f) c + gate_act(i) act(g), with 1 - gate_act(f) for gate_act(i) where the gates are coupled

    Args:
      sums: the sums at the gates, G arrays (B, ..., H).
      c: the memory, (B, ..., H).
      gates: the gates in their order, LSTM_GATES or COUPLED_GATES.
      peepholes: weights from the memory to every gate but g, side by side in the same order, (..., (G - 1) H); or None.
      act, gate_act: of the candidate, and of the gates.

    Returns:
      (c', gate_act(o)), each (B, ..., H).
    """
    seeing = gates.replace("g", "")
    a = dict(zip(gates, (s.astype(c.dtype) for s in sums)))
    if peepholes is not None:
        p = dict(zip(seeing, gates_of.split_vector(peepholes.astype(c.dtype), c, len(seeing))))

    def gate(name, memory):
        return gate_act(a[name] if peepholes is None else a[name] + p[name] * memory)

    f = gate("f", c)
    new = f * c + (gate("i", c) if "i" in gates else 1 - f) * act(a["g"])
    return new, gate("o", new)


def dense_products(gates: int, dtype: DType | None) -> Dense:
    """Says that the products are those of params.kernel, params.recurrent_kernel and params.bias."""

    def products(params: Params) -> tuple[Array, Array, Array]:
        compute = compute_dtype(dtype, params.kernel)
        return tuple(a.astype(compute) for a in (params.kernel, params.recurrent_kernel, params.bias))

    return Dense(gates, products)


def step_of(project, recur, combine):
    """The step of a cell that gives its three parts."""

    def step(params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
        return combine(params, carry, project(params, x), recur(params, carry))

    return step
