"""Weights from and to Flax, linen and NNX: outputs, final states and gradients equal, both ways; refusals by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from interop.parity import (
    B,
    D,
    H,
    T,
    assert_near,
    assert_same_cell,
    every,
    ours,
    random_inputs,
    random_like,
    random_params,
)

import seqjax
from seqjax import interop
from seqjax.errors import UserError
from seqjax.interop.flax import average
from seqjax.wrappers import bidirectional

LINEN = {
    "simple-relu": lambda **o: nn.SimpleCell(H, activation_fn=nn.relu, **o),
    "lstm": lambda **o: nn.LSTMCell(H, **o),
    "lstm-optimized": lambda **o: nn.OptimizedLSTMCell(H, **o),
    "gru": lambda **o: nn.GRUCell(H, **o),
    "simple-function": lambda **o: nn.SimpleCell(H, activation_fn=jnp.sin, **o),
    "lstm-activations": lambda **o: nn.LSTMCell(H, activation_fn=nn.relu, gate_fn=nn.hard_sigmoid, **o),
    "gru-activations": lambda **o: nn.GRUCell(H, activation_fn=jnp.cos, gate_fn=nn.softplus, **o),
}
NNX = {
    "simple": lambda **o: nnx.SimpleCell(D, H, **o),
    "lstm": lambda **o: nnx.LSTMCell(D, H, **o),
    "lstm-optimized": lambda **o: nnx.OptimizedLSTMCell(D, H, **o),
    "gru": lambda **o: nnx.GRUCell(D, H, **o),
    "lstm-activations": lambda **o: nnx.OptimizedLSTMCell(D, H, activation_fn=jnp.sin, gate_fn=jax.nn.hard_sigmoid, **o),
    "gru-activations": lambda **o: nnx.GRUCell(D, H, activation_fn=jax.nn.silu, **o),
}
OURS = {
    "rnn": lambda: seqjax.rnn(H),
    "lstm": lambda: seqjax.lstm(H),
    "gru": lambda: seqjax.gru(H),
    "rnn-gelu": lambda: seqjax.rnn(H, "gelu"),
    "lstm-activations": lambda: seqjax.lstm(H, activation="leaky_relu", gate_activation="hard_sigmoid"),
    "gru-function": lambda: seqjax.gru(H, activation=jnp.sin),
    "mean": lambda: bidirectional(seqjax.lstm(H), seqjax.lstm(H), "mean"),
    "multiply": lambda: bidirectional(seqjax.rnn(H), seqjax.gru(H), "multiply"),
    "stack": lambda: seqjax.stack(seqjax.gru(2), bidirectional(seqjax.rnn(2, "relu"), seqjax.rnn(2)), seqjax.lstm(H)),
}


def _random_variables(module, xs):
    variables = jax.eval_shape(module.init, jax.random.key(0), xs)
    leaves, tree = jax.tree.flatten(variables)
    drawn = [jnp.asarray(random_like(np.zeros(leaf.shape, leaf.dtype), k)) for k, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, drawn)


def _randomise(module):
    """An NNX module with random weights."""
    state = nnx.state(module, nnx.Param)
    leaves, tree = jax.tree.flatten(state)
    drawn = [jnp.asarray(random_like(np.asarray(leaf), k)) for k, leaf in enumerate(leaves)]
    nnx.update(module, jax.tree.unflatten(tree, drawn))
    return module


def _assert_same_states(carries, last, dtype):
    """Flax has h, or (c, h), or pairs of these: in the order of our fields."""
    for value, other in zip(jax.tree.leaves(carries), jax.tree.leaves(last), strict=True):
        assert_near(value, other, dtype)


def _zero_b_n(cell, params):
    """NNX has no b_hn, so its GRU can come out only where it is zero."""
    if isinstance(params, seqjax.GRUParams):
        return params._replace(recurrent_bias=jnp.zeros_like(params.recurrent_bias))
    if cell.inner and hasattr(params, "_replace"):
        return type(params)(*(_zero_b_n(one, own) for one, own in zip(cell.inner, params)))
    return tuple(_zero_b_n(one, own) for one, own in zip(cell.inner, params)) if cell.inner else params


@every(LINEN)
def test_from_linen(name, dtype):
    module = nn.RNN(LINEN[name](param_dtype=dtype), return_carry=True)
    xs = random_inputs(dtype)
    variables = _random_variables(module, xs)
    cell, params = interop.from_flax(module, variables)
    ys, carries = ours(cell, params, xs)
    last, want = module.apply(variables, xs)
    assert_near(ys, want, dtype)
    _assert_same_states(carries, last, dtype)
    assert_same_cell(interop.from_flax(module.cell, {"params": variables["params"]["cell"]}), (cell, params))


def test_from_a_linen_bidirectional_with_lengths():
    module = nn.Bidirectional(nn.RNN(nn.GRUCell(2)), nn.RNN(nn.LSTMCell(H), reverse=True), return_carry=True)
    xs, lengths = random_inputs("float32"), np.array([T, 1, 3])
    variables = _random_variables(module, xs)
    cell, params = interop.from_flax(module, variables)
    ys, carries = ours(cell, params, xs, lengths=lengths)
    last, want = module.apply(variables, xs, seq_lengths=lengths)
    real = np.arange(T)[None, :, None] < lengths[:, None, None]
    assert_near(ys, np.where(real, want, 0), "float32")  # Flax leaves what it computes at padded steps
    _assert_same_states(carries, last, "float32")


@every(OURS)
def test_to_linen_and_back(name, dtype):
    cell = OURS[name]()
    params, xs = random_params(cell, dtype), random_inputs(dtype)
    module, variables = interop.to_flax(cell, params)
    expected = jax.eval_shape(module.init, jax.random.key(0), xs)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, expected)
    ys, carries = ours(cell, params, xs)
    got = module.apply(variables, xs)
    last, want = (carries, got) if name == "stack" else got
    assert_near(ys, want, dtype)
    _assert_same_states(carries, last, dtype)
    assert_same_cell(interop.from_flax(module, variables), (cell, params))


@every(NNX)
def test_from_nnx(name, dtype):
    made = NNX[name](dtype=dtype, param_dtype=dtype, rngs=nnx.Rngs(0))
    module = nnx.RNN(_randomise(made), return_carry=True)
    xs = random_inputs(dtype)
    cell, params = interop.from_nnx(module)
    ys, carries = ours(cell, params, xs)
    last, want = module(jnp.asarray(xs))
    assert_near(ys, want, dtype)
    _assert_same_states(carries, last, dtype)


@every(OURS)
def test_to_nnx_and_back(name, dtype):
    cell = OURS[name]()
    params, xs = _zero_b_n(cell, random_params(cell, dtype)), jnp.asarray(random_inputs(dtype))
    module = interop.to_nnx(cell, params)
    ys, carries = ours(cell, params, xs)
    got = module(xs)
    last, want = (carries, got) if name == "stack" else got
    assert_near(ys, want, dtype)
    _assert_same_states(carries, last, dtype)
    assert_same_cell(interop.from_nnx(module), (cell, params))


def test_gradients_are_equal():
    module = nn.RNN(nn.GRUCell(H))
    xs, d_ys = random_inputs("float32"), np.random.default_rng(3).normal(size=(B, T, H)).astype(np.float32)
    variables = _random_variables(module, xs)
    cell, params = interop.from_flax(module, variables)
    want, want_xs = jax.jit(jax.grad(lambda v, x: (module.apply(v, x) * d_ys).sum(), argnums=(0, 1)))(variables, xs)
    got, got_xs = jax.jit(jax.grad(lambda p, x: (seqjax.unroll(cell, p, x)[1] * d_ys).sum(), argnums=(0, 1)))(params, xs)
    assert_near(got_xs, want_xs, "float32")
    # The mapping moves weights and changes none, so gradients go the same way.
    for ours_too, other in zip(got, interop.from_flax(module, want)[1]):
        assert_near(ours_too, other, "float32")


def test_a_compute_dtype_goes_along():
    cell = seqjax.gru(H, dtype="bfloat16")
    params = random_params(cell, "float32")
    module, variables = interop.to_flax(cell, params)
    assert module.cell.dtype == "bfloat16"
    assert_same_cell(interop.from_flax(module, variables), (cell, params))


def test_conversion_can_be_traced():
    cell = seqjax.lstm(H)
    params = random_params(cell, "float32")

    @jax.jit
    def there_and_back(params):
        return interop.from_flax(*interop.to_flax(cell, params))[1]

    jax.tree.map(np.testing.assert_array_equal, there_and_back(params), params)


RNN_OF = {"params": {"cell": {}}}
REFUSED_OF_LINEN = {
    "mgu": (nn.RNN(nn.MGUCell(H)), "MGUCell keeps with the gate that resets, while seqjax.mgu writes"),
    "residual": (nn.RNN(nn.SimpleCell(H, residual=True)), "SimpleCell has residual=True"),
    "carry": (nn.RNN(nn.GRUCell(H, carry_init=nn.initializers.ones)), "custom carry_init; .*learned_initial_carry"),
    "reverse": (nn.RNN(nn.GRUCell(H), reverse=True), "unroll with reverse=True"),
    "another": (nn.Dense(H), "from_flax takes SimpleCell, .* got Dense"),
    "merge": (
        nn.Bidirectional(nn.RNN(nn.GRUCell(H)), nn.RNN(nn.GRUCell(H)), merge_fn=jnp.maximum),
        "recognises the merge_fn",
    ),
}


@pytest.mark.parametrize("name", REFUSED_OF_LINEN)
def test_what_a_cell_has_not_is_refused(name):
    module, message = REFUSED_OF_LINEN[name]
    with pytest.raises(UserError, match=message):
        interop.from_flax(module, RNN_OF)


@pytest.mark.parametrize(
    "module, variables, message",
    [
        (
            nn.RNN(nn.GRUCell(H)),
            {"Dense_0": {}},
            "takes the variables that init returned, {'params': ...}, got a mapping of \\['Dense_0'\\]",
        ),
        (
            nn.RNN(nn.GRUCell(H)),
            {"params": {"Dense_0": {}, "GRUCell_0": {}}},
            r"they lack 'cell', and their params are \['Dense_0', 'GRUCell_0'\]",
        ),
        (nn.LSTMCell(H), {"params": {"hn": {}, "in": {}}}, "not those of this LSTMCell: they lack 'ii'"),
        (nn.Sequential([nn.RNN(nn.GRUCell(H))]), {"params": {"cell": {}}}, "not those of this Sequential: they lack 'layers_0'"),
    ],
)
def test_variables_of_another_module_are_refused(module, variables, message):
    with pytest.raises(UserError, match=message) as refused:
        interop.from_flax(module, variables)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", [nn.SimpleCell, nn.LSTMCell, nn.GRUCell])
def test_variables_of_another_size_are_refused(kind):
    variables = nn.RNN(kind(H + 1)).init(jax.random.key(0), jnp.ones((B, T, D)))
    with pytest.raises(UserError, match=f"those of {H + 1} features, but this {kind.__name__} has {H}$"):
        interop.from_flax(nn.RNN(kind(H)), variables)


def test_what_a_cell_has_not_of_nnx_is_refused():
    cells = [nnx.GRUCell(D, H, rngs=nnx.Rngs(k)) for k in range(2)]
    with pytest.raises(UserError, match="unroll with reverse=True"):
        interop.from_nnx(nnx.RNN(cells[0], reverse=True))
    with pytest.raises(UserError, match="recognises the merge_fn"):
        interop.from_nnx(nnx.Bidirectional(*map(nnx.RNN, cells), merge_fn=jnp.maximum))
    with pytest.raises(UserError, match="from_nnx takes NNX's SimpleCell, .* got Linear"):
        interop.from_nnx(nnx.Linear(D, H, rngs=nnx.Rngs(0)))
    with pytest.raises(UserError, match="residual=True"):
        interop.from_nnx(nnx.SimpleCell(D, H, residual=True, rngs=nnx.Rngs(0)))


REFUSED = {
    "reset before": (lambda: seqjax.gru(H, reset_after=False), "reset_after=False of 'gru'; to_keras and to_haiku can"),
    "peepholes": (lambda: seqjax.lstm(H, peepholes=True), "peepholes=True of 'lstm'; none of the libraries"),
    "mgu": (lambda: seqjax.mgu(H), "the mgu of 'mgu'; none of the libraries"),
    "dropout": (
        lambda: seqjax.dropout(seqjax.gru(H), 0.1),
        r"the dropout of .*; to_torch and to_keras can; cell.inner",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_flax_cannot_hold_is_refused_by_name(name):
    make, message = REFUSED[name]
    cell = make()
    for to_other, target in ((interop.to_flax, "to_flax"), (interop.to_nnx, "to_nnx")):
        with pytest.raises(UserError, match=f"{target} cannot represent {message}"):
            to_other(cell, random_params(cell, "float32"))


def test_nnx_refuses_a_recurrent_bias_of_its_gru():
    cell = seqjax.gru(H)
    with pytest.raises(UserError, match="to_nnx cannot represent a nonzero recurrent_bias of 'gru'.*; to_flax can"):
        interop.to_nnx(cell, random_params(cell, "float32"))


def test_params_of_another_cell_are_refused():
    cell, params = seqjax.gru(H), random_params(seqjax.lstm(H), "float32")
    with pytest.raises(TypeError, match="params of 'gru' must be built as .*GRUParams.*, got .*LSTMParams"):
        interop.to_flax(cell, params)
    with pytest.raises(TypeError, match="params must be what init of 'stack"):
        interop.to_flax(seqjax.stack(cell, cell), params)
    with pytest.raises(ValueError, match=r"params.kernel of 'gru' must have shape \(3, 15\), got shape \(3, 12\)"):
        interop.to_flax(seqjax.gru(5), random_params(cell, "float32"))
    mixed = random_params(cell, "float32")
    with pytest.raises(TypeError, match=r"must have one dtype, got \['bfloat16', 'float32'\]"):
        interop.to_flax(cell, mixed._replace(bias=mixed.bias.astype(jnp.bfloat16)))


def test_average_is_a_mean():
    assert average(jnp.array([1.0]), jnp.array([4.0])) == 2.5
