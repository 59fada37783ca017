"""stack: layers over whole sequences, dense layers, functions and skip connections between them, and the ways to call it."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells.table import assert_same

import seqjax

XS = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
LAYERS = (seqjax.lstm(4), seqjax.gru(6), seqjax.rnn(5))


def test_layer_by_layer_by_hand():
    cell = seqjax.stack(*LAYERS)
    params = cell.init(jax.random.key(0), 3)
    carry, ys = seqjax.unroll(cell, params, XS, lengths=[5, 2], reverse=True)
    assert cell.name == "stack(lstm, gru, rnn)" and cell.hidden_size == 5
    hand, out = [], XS
    for layer, p in zip(LAYERS, params, strict=True):
        last, out = seqjax.unroll(layer, p, out, lengths=[5, 2], reverse=True)
        hand.append(last)
    assert_same((carry, ys), (tuple(hand), out))


def test_arguments_or_a_sequence_of_cells():
    want = seqjax.stack(*LAYERS).init(jax.random.key(0), 3)
    for cell in (seqjax.stack(LAYERS), seqjax.stack(list(LAYERS)), seqjax.stack(layer for layer in LAYERS)):
        assert_same(cell.init(jax.random.key(0), 3), want)
    assert seqjax.stack(LAYERS[0]).name == "stack(lstm)"


def test_equal_layers_have_their_own_params():
    layer = seqjax.gru(3)
    first, second = seqjax.stack(layer, layer).init(jax.random.key(0), 3)
    assert np.abs(first.kernel - second.kernel).max() > 0.1


def test_stacks_nest():
    nested = seqjax.stack(seqjax.stack(*LAYERS[:2]), LAYERS[2])
    flat = seqjax.stack(*LAYERS)
    params = flat.init(jax.random.key(0), 3)
    got = seqjax.unroll(nested, ((params[0], params[1]), params[2]), XS)[1]
    assert_same(got, seqjax.unroll(flat, params, XS)[1])


def normalised(y):
    """A function whose value and derivative at zero, where padding is, are not finite."""
    return jnp.log(jnp.sum(y**2)) + y / jnp.sqrt(jnp.sum(y**2))


MASK = np.array([[1, 0, 1, 1, 0], [0, 1, 1, 0, 0]], bool)


def test_a_dense_layer_and_a_function_by_hand():
    cell = seqjax.stack(seqjax.gru(4), seqjax.dense(3, "relu"), jnp.cumsum, seqjax.rnn(2))
    params = cell.init(jax.random.key(0), 3)
    params = (params[0], params[1]._replace(bias=params[1].bias + 0.3), *params[2:])
    resets = np.arange(5)[None] == np.array([[2], [0]])
    how = {"lengths": MASK, "resets": resets, "reverse": True}
    carry, ys = seqjax.unroll(cell, params, XS, **how)
    first, below = seqjax.unroll(seqjax.gru(4), params[0], XS, **how)
    dense = np.maximum(np.asarray(below) @ np.asarray(params[1].kernel) + np.asarray(params[1].bias), 0)
    last, want = seqjax.unroll(seqjax.rnn(2), params[3], np.cumsum(dense, -1), **how)
    assert_same((carry, ys), ((first, (), (), last), want))
    assert cell.name == "stack(gru, dense, cumsum, rnn)" and cell.hidden_size == 2 and params[2] == ()


def test_a_dense_layer_without_a_bias_and_its_dtypes():
    cell = seqjax.dense(3, "tanh", use_bias=False, dtype=jnp.bfloat16)
    params = cell.init(jax.random.key(0), 3)
    ys = seqjax.unroll(cell, params, XS)[1]
    assert params.bias is None and params.kernel.dtype == jnp.float32 and ys.dtype == jnp.bfloat16
    assert_same(ys, np.tanh(XS @ np.asarray(params.kernel)), 2e-2, 2e-2)
    with pytest.raises(ValueError, match="use_bias=False, so it takes no bias_init"):
        seqjax.dense(3, use_bias=False, bias_init=jax.nn.initializers.ones)


def test_what_has_no_carry_is_zero_at_padded_steps_and_its_derivative_finite():
    cell = seqjax.stack(seqjax.gru(4), normalised, seqjax.dense(3), normalised)
    params = cell.init(jax.random.key(0), 3)

    def run(params, xs):
        ys = seqjax.unroll(cell, params, xs, lengths=MASK)[1]
        return (ys**2).sum(), ys

    (_, ys), slopes = jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))(params, np.where(MASK[..., None], XS, np.nan))
    assert (np.asarray(ys != 0).all(-1) == MASK).all() and (np.asarray(slopes[1] != 0).all(-1) == MASK).all()
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(slopes))


def test_a_dense_layer_is_one_product_over_all_steps():
    cell = seqjax.stack(seqjax.gru(4), seqjax.dense(7))
    params = cell.init(jax.random.key(0), 3)
    program = str(jax.make_jaxpr(lambda p, xs: seqjax.unroll(cell, p, xs)[1])(params, XS))
    assert program.count("f32[5,2,7] = dot_general") == 1 and "f32[2,7] = dot_general" not in program


def test_dropout_drops_the_inputs_of_a_dense_layer():
    cell = seqjax.stack(seqjax.dropout(seqjax.dense(64), 0.5))
    params = cell.init(jax.random.key(0), 64)
    params = (params[0]._replace(kernel=jnp.eye(64)),)
    ys = seqjax.unroll(cell, params, jnp.ones((2, 9, 64)), rng=jax.random.key(1))[1]
    assert set(np.unique(ys)) == {0, 2} and 0.4 < (np.asarray(ys) > 0).mean() < 0.6
    assert_same(seqjax.unroll(cell, params, jnp.ones((2, 9, 64)))[1], jnp.ones((2, 9, 64)))


@pytest.mark.parametrize("kind", ["input", "all"])
def test_skip_connections_by_hand(kind):
    layers = (seqjax.lstm(4), seqjax.dense(2, "tanh"), seqjax.gru(6))
    cell = seqjax.stack(layers, skip_connections=kind)
    params = cell.init(jax.random.key(0), 3)
    how = {"lengths": MASK, "reverse": True}
    carry, ys = seqjax.unroll(cell, params, XS, **how)
    outputs, carries = [], []
    for layer, p in zip(layers, params, strict=True):
        taken = [XS, *(outputs if kind == "all" else outputs[-1:])] if outputs else [XS]
        last, out = seqjax.unroll(layer, p, np.concatenate(taken, -1), **how)
        outputs.append(np.asarray(out))
        carries.append(last)
    assert cell.hidden_size == 12 and [layer.input_size(p) for layer, p in zip(layers, params)] == [3, 7, 5 if kind == "input" else 9]
    assert_same((carry, ys), (tuple(carries), np.concatenate(outputs, -1)))


def test_a_function_between_a_convolution_and_a_dense_layer():
    conv = seqjax.conv_lstm(4, kernel_size=3, spatial_shape=5)
    cell = seqjax.stack(conv, lambda y: y.mean(axis=0), seqjax.dense(2))
    assert cell.spatial == (5,) and cell.output_spatial == () and cell.inner[1].output_spatial == ()
    xs = np.random.default_rng(0).normal(size=(2, 5, 5, 3)).astype(np.float32)
    params = cell.init(jax.random.key(0), 3)
    below = seqjax.unroll(conv, params[0], xs, lengths=[5, 2])[1]
    want = np.asarray(below).mean(axis=2) @ np.asarray(params[2].kernel)
    assert_same(seqjax.unroll(cell, params, xs, lengths=[5, 2])[1], want)
    both = seqjax.bidirectional(conv, conv, lambda f, b: (f * b).mean(axis=0))
    assert both.output_spatial == () and seqjax.unroll(both, both.init(jax.random.key(0), 3), xs)[1].shape == (2, 5, 4)
    with pytest.raises(ValueError, match=r"agree in their spatial axes, got conv_lstm \(5,\), dense \(\)"):
        seqjax.stack(conv, seqjax.dense(2))
    wide = seqjax.conv_lstm(4, kernel_size=3, spatial_shape=5, padding="valid")
    with pytest.raises(ValueError, match=r"agree in their spatial axes, got conv_lstm \(5,\) -> \(3,\)"):
        seqjax.stack(wide, skip_connections="input")


def test_known_by_the_call_with_functions_too():
    build = lambda: seqjax.stack(seqjax.dense(3, "relu"), normalised, seqjax.rnn(2), skip_connections=None)  # noqa: E731
    assert build() == build() and pickle.loads(pickle.dumps(build())) == build()
    assert repr(build()) == "stack(dense(3, activation='relu'), normalised, rnn(2))"
    assert build() != seqjax.stack(seqjax.dense(3, "relu"), jnp.sin, seqjax.rnn(2))


def test_layers_that_do_not_fit_are_refused():
    pair = seqjax.bidirectional(seqjax.gru(3), seqjax.gru(2), None)
    for call, message in (
        (lambda: seqjax.stack(jnp.tanh, seqjax.gru(3)), "tanh is a function, .*: the first layer must be a Cell"),
        (lambda: seqjax.stack(seqjax.gru(3), jnp.tanh, skip_connections="all"), "tanh is a function, .*: with skip_connections use cells"),
        (lambda: seqjax.stack(seqjax.gru(3), jnp.sum), r"the function sum must return arrays \(\*spatial, H\) .* got Shape"),
        (lambda: seqjax.stack(pair, seqjax.gru(3)), r"but gru would get a pytree of sizes \(3, 2\); put a function"),
        (lambda: seqjax.stack(pair, skip_connections="input"), r"would get a pytree of sizes \(3, 2\)"),
        (lambda: seqjax.stack(seqjax.gru(3), skip_connections=True), 'must be "input", "all" or None, got True'),
        (lambda: seqjax.dense(0), "features must be at least 1, got 0"),
        (lambda: seqjax.dense(3, "rely"), "activation must be a function, or one of"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_what_is_no_cell_is_refused():
    for call in (lambda: seqjax.stack(), lambda: seqjax.stack([])):
        with pytest.raises(ValueError, match="^stack needs at least one cell$"):
            call()
    with pytest.raises(TypeError, match="got a str"):
        seqjax.stack(LAYERS[0], "gru")
    with pytest.raises(TypeError, match="got a int"):
        seqjax.stack(3)
