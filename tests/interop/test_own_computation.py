"""Modules that compute in their own way are refused by every converter: a subclass, a patched method, hooks, parametrizations."""

import jax
import jax.numpy as jnp
import pytest

import seqjax
from seqjax import interop

D, H = 3, 4
SAYS = "has its own .*, so its outputs do not follow from its weights"


def _torch():
    torch = pytest.importorskip("torch")

    class Doubled(torch.nn.LSTM):
        def forward(self, xs, hx=None):
            return super().forward(2 * xs, hx)

    class Named(torch.nn.LSTM):
        def __init__(self, *sizes):
            super().__init__(*sizes)
            self.note = "mine"

    patched = torch.nn.GRUCell(D, H)
    patched.forward = lambda *args: 0
    return interop.from_torch, Named(D, H), [Doubled(D, H), patched]


def _keras():
    import keras

    @keras.saving.register_keras_serializable()  # Bidirectional copies its layer
    class Doubled(keras.layers.LSTM):
        def call(self, sequences, **how):
            return super().call(2 * sequences, **how)

    class DoubledCell(keras.layers.GRUCell):
        def call(self, inputs, states, training=False):
            return super().call(2 * inputs, states, training)

    class Louder(keras.layers.Dropout):
        def call(self, inputs, training=False):
            return 2 * inputs

    class Named(keras.layers.LSTM):
        pass

    def built(layer):
        layer.build((None, 5, D))
        return layer

    first = built(keras.Sequential([Louder(0.5), keras.layers.GRU(H, return_sequences=True)]))
    inside = built(keras.layers.Bidirectional(Doubled(H, return_sequences=True)))
    return (
        interop.from_keras,
        built(Named(H)),
        [built(Doubled(H)), built(keras.layers.RNN(DoubledCell(H))), first, inside],
    )


def _flax():
    from flax import linen as nn

    class Doubled(nn.OptimizedLSTMCell):
        @nn.compact
        def __call__(self, carry, inputs):
            return super().__call__(carry, 2 * inputs)

    class DoubledRNN(nn.RNN):
        def __call__(self, inputs, **how):
            return super().__call__(2 * inputs, **how)

    class Named(nn.OptimizedLSTMCell):
        note: str = "mine"

    def from_flax(module):
        module = nn.RNN(module) if isinstance(module, nn.RNNCellBase) else module
        plain = nn.RNN(nn.OptimizedLSTMCell(H))
        return interop.from_flax(module, plain.init(jax.random.key(0), jnp.ones((1, 2, D))))

    return from_flax, Named(H), [Doubled(H), DoubledRNN(nn.OptimizedLSTMCell(H))]


def _nnx():
    from flax import nnx

    class Doubled(nnx.GRUCell):
        def __call__(self, carry, inputs):
            return super().__call__(carry, 2 * inputs)

    class DoubledRNN(nnx.RNN):
        def __call__(self, inputs, **how):
            return super().__call__(2 * inputs, **how)

    class Named(nnx.GRUCell):
        pass

    rngs = nnx.Rngs(0)
    return (
        interop.from_nnx,
        Named(D, H, rngs=rngs),
        [Doubled(D, H, rngs=rngs), DoubledRNN(nnx.GRUCell(D, H, rngs=rngs))],
    )


def _equinox():
    import equinox as eqx

    class Doubled(eqx.nn.GRUCell):
        def __call__(self, input, hidden, *, key=None):
            return super().__call__(2 * input, hidden, key=key)

    class Named(eqx.nn.GRUCell):
        pass

    key = jax.random.key(0)
    return interop.from_equinox, Named(D, H, key=key), [Doubled(D, H, key=key)]


@pytest.mark.parametrize("library", [_torch, _keras, _flax, _nnx, _equinox])
def test_what_computes_in_its_own_way_is_refused_and_a_subclass_that_does_not_is_taken(library):
    with jax.numpy_rank_promotion("allow"):  # as the libraries need it
        convert, taken, refused = library()
    cell, params = convert(taken)
    assert cell.input_size(params) == D and cell.hidden_size == H
    for module in refused:
        with pytest.raises(seqjax.UserError, match=SAYS):
            convert(module)


def test_what_is_attached_to_a_torch_module_is_refused():
    torch = pytest.importorskip("torch")
    from torch.nn.utils import parametrizations, prune

    def attached(change):
        module = torch.nn.LSTM(D, H)
        change(module)
        return module

    for change, what in [
        (lambda m: m.register_forward_hook(lambda *args: None), "forward hooks"),
        (lambda m: m.register_forward_pre_hook(lambda *args: None), "forward pre-hooks"),
        (lambda m: prune.l1_unstructured(m, "weight_hh_l0", 0.5), "forward pre-hooks .as of pruning"),
        (lambda m: parametrizations.spectral_norm(m, "weight_hh_l0"), "parametrizations"),
    ]:
        with pytest.raises(seqjax.UserError, match=f"this .*LSTM has {what}"):
            interop.from_torch(attached(change))
    pruned = attached(lambda m: prune.l1_unstructured(m, "weight_hh_l0", 0.5))
    prune.remove(pruned, "weight_hh_l0")
    _, params = interop.from_torch(pruned)
    assert (params.recurrent_kernel == 0).mean() == 0.5
