"""The language model: causality, streaming, resets, dropout, tied embeddings, dtypes, size, learning."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import seqjax
from seqjax.data.pipeline.windows import TokenStream, Windows
from seqjax.errors import UserError
from seqjax.models import CELLS, LanguageModel, make_stack
from seqjax.training import train_step
from seqjax.training.losses import means, token_cross_entropy
from seqjax.training.optimizers import make_optimizer

pytestmark = pytest.mark.one_in(8)

B, T, V, D, H = 2, 6, 9, 4, 5
TOKENS = np.random.default_rng(0).integers(0, V, (B, T)).astype(np.int32)
# The cells themselves are tested in tests/cells; here a few stand for all.
every_cell = pytest.mark.parametrize("name", ["lstm", "gru", "mingru"])


def _params(model, seed=0):
    """Random parameters, the biases too."""
    params = jax.jit(model.init)(jax.random.key(seed), np.zeros((1, 1), np.int32))["params"]
    rng = np.random.default_rng(seed)
    noisy = jax.tree.map(lambda p: np.asarray(p) + 0.3 * rng.normal(size=p.shape).astype(p.dtype), params)
    return jax.tree.map(jnp.asarray, noisy)


@functools.cache
def _setup(name="lstm", layers=2, dropout=0.0, residual=False, dtype=None, seed=0, hidden=H, **settings):
    cell = make_stack(name, hidden, layers, dropout=dropout, residual=residual, dtype=dtype)
    model = LanguageModel(V, cell, dtype=dtype, **{"embed_size": D, "dropout": dropout, **settings})
    return model, _params(model, seed)


def _apply(model, params, tokens=TOKENS, carry=None, rng=None, **options):
    rngs = {} if rng is None else {"rngs": {"dropout": jax.random.key(rng)}}
    return jax.jit(lambda p, t, c: model.apply({"params": p}, t, c, **options, **rngs))(params, tokens, carry)


def _close(a, b, rtol=1e-5, atol=1e-5):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


# Where the numbers come from.


@every_cell
def test_causality_by_gradient(name):
    model, params = _setup(name, residual=True, seed=3)
    # Each position of the first row has an embedding of its own.
    tokens = np.array([[7, 2, 5, 0, 8, 3], [1, 1, 1, 1, 1, 1]])

    @jax.jit
    @jax.jacrev
    def gradient(table):
        return model.apply({"params": params | {"embed": {"embedding": table}}}, tokens)[1][0]

    size = np.abs(gradient(params["embed"]["embedding"])).max((1, 3))  # (T, V): the largest of d logits_t / d embedding
    by_input = size[:, tokens[0]]
    later = np.triu(np.full((T, T), True), 1)
    assert np.all(by_input[later] == 0) and np.all(by_input[~later] > 0)
    assert np.all(size[:, 1] == 0)  # nor does one text see another


@every_cell
def test_streaming_gives_the_logits_of_one_pass(name):
    model, params = _setup(name, residual=True)
    last, logits = _apply(model, params)
    carry, streamed = model.initial_carry(params, B), []
    step = jax.jit(lambda c, t: model.apply({"params": params}, t, c))
    for t in range(T):
        carry, out = step(carry, TOKENS[:, t : t + 1])
        streamed.append(out)
    _close((carry, jnp.concatenate(streamed, 1)), (last, logits))
    assert np.abs(np.diff(logits, axis=1)).max() > 0.01


def test_a_reset_is_a_fresh_start():
    model, params = _setup("gru")
    carry, _ = _apply(model, params, TOKENS[::-1])  # not the initial one
    resets = np.zeros((B, T), bool)
    resets[0, 3] = True
    last, logits = _apply(model, params, TOKENS, carry, resets=resets)
    fresh_last, fresh = _apply(model, params, TOKENS[:, 3:])
    unbroken_last, unbroken = _apply(model, params, TOKENS, carry)
    _close(logits[0, 3:], fresh[0])
    _close(logits[0, :3], unbroken[0, :3])
    _close(logits[1], unbroken[1])
    _close(jax.tree.map(lambda a: a[0], last), jax.tree.map(lambda a: a[0], fresh_last))
    _close(jax.tree.map(lambda a: a[1], last), jax.tree.map(lambda a: a[1], unbroken_last))
    assert np.abs(logits[0, 3:] - unbroken[0, 3:]).max() > 0.01


def test_equations_by_hand():
    model, params = _setup("rnn", layers=2, residual=True)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    first, second = p["rnn"]
    h1 = h2 = np.zeros((B, H))
    for t in range(T):
        x = p["embed"]["embedding"][TOKENS[:, t]]
        h1 = np.tanh(x @ first.kernel + h1 @ first.recurrent_kernel + first.bias)
        h2 = np.tanh(h1 @ second.kernel + h2 @ second.recurrent_kernel + second.bias)
        want = (h1 + h2) @ p["softmax"]["kernel"] + p["softmax"]["bias"]
        np.testing.assert_allclose(_apply(model, params)[1][:, t], want, rtol=1e-4, atol=1e-5)


# make_stack


def test_make_stack_names_its_layers():
    assert make_stack("gru", 8, 1).name == "stack(gru)"
    assert make_stack("lstm", 8, 3).name == "stack(lstm, lstm, lstm)"
    dropped = "dropout(rnn, 0.25)"
    stack = make_stack("rnn", 8, 3, dropout=0.25, residual=True)
    assert stack.name == f"stack({dropped}, residual({dropped}), residual({dropped}))"
    assert stack.hidden_size == 8


def test_the_irnn_begins_as_the_identity():
    (layer,) = make_stack("irnn", 8, 1).init(jax.random.key(0), 3)
    np.testing.assert_array_equal(layer.recurrent_kernel, np.eye(8))


def test_an_unknown_cell_is_refused():
    with pytest.raises(UserError, match="model.cell='lsmt' is unknown; choose one of lstm, gru, rnn, irnn"):
        make_stack("lsmt", 8, 1)


# Dropout


def test_dropout_needs_training_and_a_key():
    model, params = _setup(dropout=0.5)
    calm = _apply(model, params)[1]
    _close(_apply(model, params, rng=1)[1], calm, 0, 0)  # evaluation, whatever key is there
    once, again, other = (_apply(model, params, rng=rng, train=True)[1] for rng in (1, 1, 2))
    _close(once, again, 0, 0)
    assert np.abs(once - calm).max() > 0.1 and np.abs(once - other).max() > 0.1
    with pytest.raises(flax.errors.InvalidRngError):
        _apply(model, params, train=True)


def test_without_dropout_training_is_evaluation():
    model, params = _setup()
    _close(_apply(model, params, rng=1, train=True)[1], _apply(model, params)[1], 0, 0)


def test_dropout_of_the_outputs_is_a_mask_over_the_topmost_layer():
    cell = make_stack("lstm", H, 1)
    model = LanguageModel(V, cell, D, dropout=0.25)
    params = _params(model)
    kernel, bias = (np.asarray(params["softmax"][name], np.float64) for name in ("kernel", "bias"))

    def outputs(logits):  # V > H, so the logits tell the softmax's inputs
        return (np.asarray(logits, np.float64) - bias) @ np.linalg.pinv(kernel)

    tokens = np.tile(TOKENS, (40, 1))
    calm = outputs(_apply(model, params, tokens)[1])
    noisy = outputs(_apply(model, params, tokens, rng=3, train=True)[1])
    kept = np.abs(noisy) > 0.5 * np.abs(calm)
    np.testing.assert_allclose(noisy, np.where(kept, calm / 0.75, 0), atol=1e-3)
    assert abs(kept.mean() - 0.75) < 0.03


# Tied embeddings


def test_tied_embeddings():
    model, params = _setup(embed_size=H, tie_embeddings=True)
    assert set(params) == {"embed", "rnn", "bias"} and params["bias"].shape == (V,)
    untied, its_params = _setup(embed_size=H)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert count(its_params) - count(params) == V * H
    table = params["embed"]["embedding"]
    softmax = {"kernel": table.T, "bias": params["bias"]}
    same = {"embed": params["embed"], "rnn": params["rnn"], "softmax": softmax}
    _close(_apply(model, params), _apply(untied, same))


def test_tied_embeddings_learn_from_both_ends():
    model, params = _setup(embed_size=H, tie_embeddings=True)
    grads = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(model.apply({"params": p}, TOKENS)[1]))))(params)
    grad = grads["embed"]["embedding"]
    absent = np.setdiff1d(np.arange(V), TOKENS)
    assert absent.size and np.all(np.abs(grad).max(1) > 0)  # a token that is not an input is still an output


def test_tied_embeddings_of_another_size_are_refused():
    model = LanguageModel(V, make_stack("lstm", H, 1), D, tie_embeddings=True)
    with pytest.raises(UserError, match="model.tie_embeddings needs model.embed_size=4 equal to model.hidden_size=5"):
        model.init(jax.random.key(0), TOKENS)


# Parameters


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "irnn"])
def test_number_of_parameters(name, layers):
    model, params = _setup(name, layers)
    gates = {"lstm": 4, "gru": 3, "rnn": 1, "irnn": 1}[name]
    extra = H if name == "gru" else 0  # b_hn
    sizes = [D] + [H] * (layers - 1)
    want = V * D + sum(gates * H * (size + H + 1) + extra for size in sizes) + V * (H + 1)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == want


@pytest.mark.parametrize("tied", [False, True])
@every_cell
def test_bfloat16_computes_narrow_and_keeps_float32(name, tied):
    settings = {"embed_size": H, "tie_embeddings": tied}
    narrow, params = _setup(name, dtype=jnp.bfloat16, **settings)
    wide, _ = _setup(name, **settings)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    (carry, logits), (_, want) = _apply(narrow, params), _apply(wide, params)
    assert logits.dtype == jnp.float32
    error = np.abs(logits - want).max()
    assert 0 < error < 0.05 * np.abs(want).max()
    text = str(jax.make_jaxpr(lambda p: narrow.apply({"params": p}, TOKENS)[1])(params))
    products = [line for line in text.split("\n") if "dot_general" in line]
    assert len(products) >= 3 and all("bf16" in line for line in products)
    memory = {"lstm": lambda c: c.c, "gru": lambda c: c.h}
    assert all(memory[name](c).dtype == jnp.float32 for c in carry if name in memory)


@pytest.mark.parametrize("name", CELLS)
def test_every_name_makes_a_model(name):
    model, params = _setup(name, hidden=8)
    _, logits = _apply(model, params)
    assert logits.shape == (B, T, V) and np.isfinite(logits).all()


@every_cell
def test_params_survive_serialization(name):
    model, params = _setup(name)
    _, other = _setup(name, seed=1)
    back = flax.serialization.from_bytes(other, flax.serialization.to_bytes(params))
    _close(back, params, 0, 0)
    assert jax.tree.map(lambda a: a.dtype, back) == jax.tree.map(lambda a: a.dtype, params)
    _close(_apply(model, back), _apply(model, params), 0, 0)


def test_remat_changes_nothing():
    model, params = _setup()

    def gradient(every):
        def loss(p):
            return jnp.sum(jnp.sin(model.apply({"params": p}, TOKENS, remat_every=every)[1]))

        return jax.jit(jax.value_and_grad(loss))(params)

    _close(gradient(None), gradient(4), 1e-4, 1e-5)


# Learning


@every_cell
def test_a_short_text_is_learned_by_heart(name):
    text = np.frombuffer(b"the cat sat on the mat, the dog ate the hat.", np.uint8)
    symbols, ids = np.unique(text, return_inverse=True)
    stream = TokenStream((ids + 1).astype(np.int32), np.array([0]))
    windows = Windows(stream, 1, 11, bos_id=0, pad_id=0)
    model = LanguageModel(symbols.size + 1, make_stack(name, 24, 1), 8)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]

    def loss_fn(params, model_state, carry, batch, rng):
        carry, logits = model.apply({"params": params}, batch.inputs, carry, resets=batch.resets)
        return carry, model_state, token_cross_entropy(logits, batch.targets, batch.mask)

    schedule, mesh = optax.constant_schedule(0.02), train_step.make_mesh(1, jax.devices()[:1])
    optimizer = make_optimizer("adam", schedule, clip_norm=1.0)
    step = train_step.make_train_step(loss_fn, optimizer, schedule, mesh, clip_norm=1.0)
    evaluate = train_step.make_evaluate(loss_fn, mesh)
    state = train_step.init_state(params, (), optimizer, model.initial_carry(params, 1), jax.random.key(1), mesh)
    loss = lambda: means(evaluate(state.params, (), model.initial_carry(params, 1), windows.one_pass()))["loss"]  # noqa: E731
    first = loss()
    for _ in range(60 * windows.batches_per_epoch):
        state, _ = step(state, next(windows))
    last = loss()
    assert 0.7 * np.log(symbols.size) < first < 1.6 * np.log(symbols.size + 1)
    assert last < 0.1 and int(state.skipped) == 0


def test_the_model_takes_any_cell():
    model = LanguageModel(V, seqjax.lstm(7), D)
    params = _params(model)
    carry, logits = _apply(model, params)
    assert logits.shape == (B, T, V) and carry.c.shape == model.initial_carry(params, B).c.shape == (B, 7)
