"""One layer of every other library, prepared for timing, each in the layout and with the calls that suit it best.

torch, Flax, Haiku and Equinox get (T, B, D), the layout of their loops; Keras takes only (B, T, D). Initial carries are float32
zeros. Each function returns name -> {"forward": function, "training": function}.
"""

import importlib.util
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Shape, make_functions

Functions = dict[str, dict[str, Callable]]


def torch(kind: str, shape: Shape, xs: np.ndarray, cotangent: np.ndarray) -> Functions:
    """torch.nn with one thread per core; on the GPU if JAX has one."""
    import torch

    torch.set_num_threads(os.cpu_count())
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[kind]
    layer = layer(shape.features, shape.hidden).to(device)
    inputs = torch.tensor(xs, device=device, requires_grad=True)
    d_outputs = torch.tensor(cotangent, device=device)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def forward():
        with torch.no_grad():
            layer(inputs)
        wait()

    def training():
        inputs.grad = None
        layer.zero_grad(set_to_none=True)
        layer(inputs)[0].backward(d_outputs)
        wait()

    return {"torch": {"forward": forward, "training": training}}


def linen(kind: str, shape: Shape, xs: np.ndarray, cotangent: np.ndarray) -> Functions:
    """flax.linen.RNN; either of its two LSTM cells may be the faster one."""
    from flax import linen as nn

    cells = {"lstm": (nn.LSTMCell, nn.OptimizedLSTMCell), "gru": (nn.GRUCell,), "rnn": (nn.SimpleCell,)}[kind]
    made = {}
    for cell in cells:
        layer = nn.RNN(cell(shape.hidden), time_major=True)
        params = jax.jit(layer.init)(jax.random.key(0), xs)
        made[f"flax.linen {cell.__name__}"] = make_functions(layer.apply, params, xs, cotangent)
    return made


def nnx(kind: str, shape: Shape, xs: np.ndarray, cotangent: np.ndarray) -> Functions:
    """flax.nnx.RNN, split once outside jit, which is the fast way to call it."""
    from flax import nnx

    cells = {"lstm": (nnx.LSTMCell, nnx.OptimizedLSTMCell), "gru": (nnx.GRUCell,), "rnn": (nnx.SimpleCell,)}[kind]
    zeros = jnp.zeros((shape.batch, shape.hidden))
    made = {}
    for cell in cells:
        inner = cell(shape.features, shape.hidden, rngs=nnx.Rngs(0))
        graph, params, rest = nnx.split(nnx.RNN(inner, time_major=True, rngs=nnx.Rngs(0)), nnx.Param, ...)

        def apply(params, xs, graph=graph, rest=rest):
            layer = nnx.merge(graph, params, rest)
            return layer(xs, initial_carry=(zeros, zeros) if kind == "lstm" else zeros)

        made[f"flax.nnx {cell.__name__}"] = make_functions(apply, params, xs, cotangent)
    return made


def haiku(kind: str, shape: Shape, xs: np.ndarray, cotangent: np.ndarray) -> Functions:
    """haiku.dynamic_unroll. Its GRU applies the reset before the product, which takes one more product in its loop."""
    import haiku as hk

    def layer(xs):
        cell = {"lstm": hk.LSTM, "gru": hk.GRU, "rnn": hk.VanillaRNN}[kind](shape.hidden)
        return hk.dynamic_unroll(cell, xs, cell.initial_state(shape.batch))[0]

    transformed = hk.without_apply_rng(hk.transform(layer))
    params = jax.jit(transformed.init)(jax.random.key(0), xs)
    return {"dm-haiku": make_functions(transformed.apply, params, xs, cotangent)}


def equinox(kind: str, shape: Shape, xs: np.ndarray, cotangent: np.ndarray) -> Functions:
    """An Equinox cell, vmapped over the sequences inside lax.scan, as in its documentation."""
    import equinox as eqx

    cell = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}[kind]
    arrays, static = eqx.partition(cell(shape.features, shape.hidden, key=jax.random.key(0)), eqx.is_array)
    zeros = jnp.zeros((shape.batch, shape.hidden))

    def apply(arrays, xs):
        cell = eqx.combine(arrays, static)

        def step(state, x):
            state = jax.vmap(cell)(x, state)
            return state, state[0] if kind == "lstm" else state

        return jax.lax.scan(step, (zeros, zeros) if kind == "lstm" else zeros, xs)[1]

    return {"equinox": make_functions(apply, arrays, xs, cotangent)}


def keras(kind: str, shape: Shape, xs: np.ndarray, cotangent: np.ndarray) -> Functions:
    """A Keras 3 layer on JAX, batch-major, through `stateless_call`."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    if keras.backend.backend() != "jax":
        raise SystemExit(f"KERAS_BACKEND must be jax for this comparison, and it is {keras.backend.backend()}")
    layer = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "rnn": keras.layers.SimpleRNN}[kind]
    layer = layer(shape.hidden, return_sequences=True)
    layer.build((shape.batch, shape.steps, shape.features))
    params = [variable.value for variable in layer.trainable_variables]
    others = [variable.value for variable in layer.non_trainable_variables]

    def apply(params, xs):
        return layer.stateless_call(params, others, xs)[0]

    swapped = [np.ascontiguousarray(a.swapaxes(0, 1)) for a in (xs, cotangent)]
    return {"keras on jax": make_functions(apply, params, *swapped)}


# Name in a result, module to look for, function.
LIBRARIES = (
    ("torch", "torch", torch),
    ("flax.linen", "flax", linen),
    ("flax.nnx", "flax", nnx),
    ("dm-haiku", "haiku", haiku),
    ("equinox", "equinox", equinox),
    ("keras on jax", "keras", keras),
)


def left_out(kind: str) -> dict[str, str]:
    """The libraries left out, each with the reason."""
    reasons = {name: "not installed" for name, module, _ in LIBRARIES if not importlib.util.find_spec(module)}
    if kind == "rnn":
        reasons.setdefault("equinox", "has no vanilla cell")
    return reasons


def make_all(kind: str, shape: Shape, xs: np.ndarray, cotangent: np.ndarray) -> Functions:
    """Every library's functions for "lstm", "gru" or "rnn" at one shape."""
    absent = left_out(kind)
    made = {}
    for name, _, make in LIBRARIES:
        if name not in absent:
            made |= make(kind, shape, xs, cotangent)
    return made
