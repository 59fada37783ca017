"""Encoder and decoder: against NumPy, stepped against whole, loss against score, padding, dropout, sampling, ties, refusals."""

import functools
from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest

import seqjax
from seqjax.data.pipeline.buckets import one_pass
from seqjax.data.pipeline.collate import collate_pairs
from seqjax.decoding.decoder import greedy, score_outputs
from seqjax.errors import UserError
from seqjax.models import CELLS, Seq2Seq, make_attention, make_cell, make_stack
from seqjax.models.attention_decoder import DecoderCarry, decode_steps, decode_whole, init_decoder
from seqjax.nn.attention import luong, make_memory
from seqjax.training import train_step
from seqjax.training.losses import means, token_cross_entropy

pytestmark = pytest.mark.one_in(8)

B, S, T, V, W, E, BOS, EOS = 4, 5, 6, 9, 11, 4, 2, 3
RNG = np.random.default_rng(0)
LENGTHS = np.array([5, 2, 0, 3], np.int32)  # the third source is empty, the fourth target is padding
REAL = np.arange(S)[None] < LENGTHS[:, None]
SOURCE = np.where(REAL, RNG.integers(0, V - 1, (B, S)), 0).astype(np.int32)
MASK = np.arange(T)[None] < np.array([6, 3, 4, 0])[:, None]
TARGETS = np.where(MASK, RNG.integers(0, W - 1, (B, T)), 0).astype(np.int32)
INPUTS = np.where(MASK, np.concatenate([np.full((B, 1), BOS), TARGETS[:, :-1]], 1), 0).astype(np.int32)
FED = [f"luong_{kind}+feed" for kind in ("dot", "general", "concat")]
KINDS = ["none", "bahdanau", "luong_dot", "luong_general", "luong_concat", *FED]
every_kind = pytest.mark.parametrize("kind", KINDS)


def _model(kind="luong_general", **settings):
    attention, _, feed = kind.partition("+")
    defaults = {
        "source_size": V,
        "target_size": W,
        "encoder": make_stack("gru", 3, 1, bidirectional=True),
        "layers": (seqjax.gru(5), seqjax.lstm(6)),
        "embed_size": E,
        "attention": make_attention(attention, 7),
        "input_feeding": feed == "feed",
    }
    return Seq2Seq(**defaults | settings)


def _shapes(model):
    one = np.ones((1, 1), np.int32)
    return jax.eval_shape(model.init, jax.random.key(0), one, one[0], one)["params"]


def _params(model, seed=0):
    """Random parameters, the biases too."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(0.6 * rng.normal(size=p.shape), p.dtype), _shapes(model))


def _step(model):
    return lambda params, encoded, carry, tokens: model.apply({"params": params}, encoded, carry, tokens, method="step")


def _begin(model, params, source, lengths=LENGTHS):
    encoded = model.apply({"params": params}, source, lengths, method="encode")
    return encoded, model.apply({"params": params}, encoded, method="initial_carry")


@functools.cache
def _compiled(kind):
    """The loss and its gradient; and the same by steps of the decoder."""
    model = _model(kind)

    def run(params, source, inputs, targets):
        out = model.apply({"params": params}, source, LENGTHS, inputs)
        loss = token_cross_entropy(out.logits, targets, MASK).loss
        params, step = jax.lax.stop_gradient(params), _step(model)
        encoded, carry = _begin(model, params, source)
        _, stepped = jax.lax.scan(lambda c, tokens: step(params, encoded, c, tokens), carry, inputs.T)
        scores = score_outputs(step, params, encoded, carry, jnp.full(B, BOS), targets, MASK)
        return loss, (out, stepped.swapaxes(0, 1), scores)

    return jax.jit(jax.value_and_grad(run, has_aux=True)), _params(model)


@functools.cache
def _run(kind, junk=False):
    run, params = _compiled(kind)
    if not junk:
        return run(params, SOURCE, INPUTS, TARGETS)
    other = np.where(np.arange(S) % 2, V - 1, V + 5)[None]  # an id that occurs nowhere else, and an invalid one
    source, inputs = np.where(REAL, SOURCE, other), np.where(MASK, INPUTS, W - 1)
    return run(params, source.astype(np.int32), inputs.astype(np.int32), np.where(MASK, TARGETS, 99).astype(np.int32))


def _close(a, b, rtol=1e-5, atol=1e-5):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


# Where the numbers come from.


def _gru(p, h, x):
    return ref.GRU_AFTER.step(p._asdict(), {"h": h}, x)[1]


def _scores(kind, p, query, memory):
    """How well each step of a memory (S, M) fits the query (1, Q)."""
    if "dot" in kind:
        return memory @ query[0]
    if "general" in kind:
        return memory @ (query @ p.kernel)[0]
    bias = 0 if p.bias is None else p.bias[None]
    return np.tanh(query @ p.query_kernel + memory @ p.memory_kernel + bias) @ p.score


def _softmax(a):
    e = np.exp(a - a.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _reference(kind, params, source, inputs):
    """Logits (T, W) and attention (T, S) for one source without padding, in float64, from the equations."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    (encoder,), decoder = p["encoder"], p["decoder"]
    ahead, back = [np.zeros((1, 3))], [np.zeros((1, 3))]
    for word in source:
        ahead.append(_gru(encoder.forward, ahead[-1], p["source_embed"]["embedding"][[word]]))
    for word in source[::-1]:
        back.append(_gru(encoder.backward, back[-1], p["source_embed"]["embedding"][[word]]))
    memory = np.concatenate([np.concatenate(ahead[1:]), np.concatenate(back[:0:-1])], 1)
    first = np.tanh(np.concatenate([ahead[-1], back[-1]], 1) @ p["bridge"]["kernel"] + p["bridge"]["bias"][None])
    h, top = first[:, :5], {"c": first[:, 5:11], "h": first[:, 11:]}
    fed, logits, looked = np.zeros((1, 6)), [], []

    def look(query):
        looked.append(_softmax(_scores(kind, decoder.attention, query, memory)))
        return looked[-1][None] @ memory

    for word in inputs:
        x = p["target_embed"]["embedding"][[word]]
        if kind == "bahdanau":
            context = look(top["h"])
            x = np.concatenate([x, context], 1)
        elif "feed" in kind:
            x = np.concatenate([x, fed], 1)
        h = _gru(decoder.layers[0], h, x)
        top, out = ref.LSTM.step(decoder.layers[1]._asdict(), top, h)
        if kind != "none":
            context = context if kind == "bahdanau" else look(out)
            out = fed = np.tanh(np.concatenate([context, out], 1) @ decoder.combine + decoder.combine_bias[None])
        logits.append(out @ p["softmax"]["kernel"] + p["softmax"]["bias"][None])
    return np.concatenate(logits), np.stack(looked) if looked else None


@every_kind
def test_logits_and_attention_are_those_of_numpy(kind):
    out = _run(kind)[0][1][0]
    for row in np.flatnonzero(LENGTHS):
        logits, weights = _reference(kind, _compiled(kind)[1], SOURCE[row, : LENGTHS[row]], INPUTS[row])
        np.testing.assert_allclose(out.logits[row], logits, rtol=1e-4, atol=1e-5)
        if weights is None:
            assert out.weights is None
        else:
            np.testing.assert_allclose(out.weights[row, :, : LENGTHS[row]], weights, rtol=1e-4, atol=1e-6)
    if kind != "none":
        weights = np.asarray(out.weights)
        np.testing.assert_allclose(weights.sum(-1), np.where(LENGTHS > 0, 1, 0)[:, None].repeat(T, 1), rtol=1e-5)
        assert (weights[~np.broadcast_to(REAL[:, None], weights.shape)] == 0).all()


@every_kind
def test_one_token_at_a_time_gives_what_the_whole_pass_gives(kind):
    (loss, (out, stepped, scores)), _ = _run(kind)
    _close(stepped, out.logits)
    np.testing.assert_allclose(-np.sum(scores), loss, rtol=1e-5)
    assert float(scores[3]) == 0 and (np.asarray(scores[:3]) < -1).all()
    assert np.abs(np.diff(out.logits, axis=1)).max() > 0.01


@every_kind
def test_padding_has_no_influence(kind):
    (loss, (out, stepped, scores)), grads = _run(kind)
    (its_loss, (its_out, its_stepped, its_scores)), its_grads = _run(kind, junk=True)
    _close((loss, scores, grads), (its_loss, its_scores, its_grads), 1e-6, 1e-6)
    for a, b in ((out.logits, its_out.logits), (stepped, its_stepped)):
        np.testing.assert_allclose(np.asarray(a)[MASK], np.asarray(b)[MASK], 1e-6, 1e-6)
    for leaf in jax.tree.leaves(grads):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0  # empty sources and targets; and every weight counts
    assert (np.asarray(grads["source_embed"]["embedding"])[V - 1] == 0).all()
    assert (np.asarray(grads["target_embed"]["embedding"])[W - 1] == 0).all()


def test_whole_layers_and_steps_agree_under_masks():
    layers, attention = (seqjax.gru(3), seqjax.lstm(4), seqjax.gru(3)), luong("general")
    shapes = jax.eval_shape(partial(init_decoder, jax.random.key(0), layers, attention, "nothing", E, 2, 5))
    rng = np.random.default_rng(1)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    params = jax.tree.map(lambda p: draw(*p.shape), shapes)
    xs, values = draw(T, B, E), draw(B, S, 2)
    masks = tuple(jnp.asarray(rng.integers(0, 2, (B, size)) * 2.0, jnp.float32) for size in (3, 4))

    @jax.jit
    def both(params, xs, values, masks):
        memory = make_memory(attention, params.attention, values, LENGTHS)
        cells = tuple(layer.initial_carry(p, B) for layer, p in zip(layers, params.layers))
        carry = DecoderCarry(cells, jnp.zeros((B, 0)))
        return [d(layers, attention, "nothing", params, memory, carry, xs, masks) for d in (decode_whole, decode_steps)]

    whole, steps = both(params, xs, values, masks)
    _close(whole, steps)
    free, _ = both(params, xs, values, tuple(jnp.ones_like(mask) for mask in masks))
    assert np.abs(free[1][0] - whole[1][0]).max() > 0.01


# Noise


def test_noise_comes_with_training_and_its_key():
    kind, still = "luong_general+feed", _model("luong_general+feed")
    noisy = _model(kind, dropout=0.4)

    @jax.jit
    def run(params, key):
        apply = lambda model, **how: model.apply({"params": params}, SOURCE, LENGTHS, INPUTS, **how).logits  # noqa: E731
        train = {"train": True, "rngs": {"dropout": key}}
        return apply(noisy, **train), apply(noisy, rngs={"dropout": key}), apply(still, **train)

    params, calm = _compiled(kind)[1], _run(kind)[0][1][0].logits
    once, evaluated, without = run(params, jax.random.key(1))
    again, other = run(params, jax.random.key(1))[0], run(params, jax.random.key(2))[0]
    _close([evaluated, without], [calm, calm], 1e-6, 1e-6)
    np.testing.assert_array_equal(once, again)
    assert np.abs(once - calm).max() > 0.1 and np.abs(once - other).max() > 0.1
    with pytest.raises(flax.errors.InvalidRngError):
        jax.eval_shape(lambda: noisy.apply({"params": params}, SOURCE, LENGTHS, INPUTS, train=True))


@pytest.mark.parametrize("kind", ["bahdanau", "luong_general+feed"])
def test_scheduled_sampling(kind):
    model, (whole, params) = _model(kind), _compiled(kind)
    params = jax.tree.map(lambda p: 3 * p, params)  # stronger ones, which choose other tokens at other steps

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def run(params, inputs, samples):
        out = model.apply({"params": params}, SOURCE, LENGTHS, inputs, samples=samples)
        return token_cross_entropy(out.logits, TARGETS, MASK).loss, out.logits

    @jax.jit
    def write(params):
        encoded, carry = _begin(model, params, SOURCE)
        return greedy(_step(model), params, encoded, carry, jnp.full(B, BOS), length=T, eos_id=None).tokens

    never, always = np.zeros((B, T), bool), np.ones((B, T), bool)
    (loss, (out, *_)), grads = whole(params, SOURCE, INPUTS, TARGETS)
    close = partial(_close, rtol=1e-4, atol=1e-4)
    close(run(params, INPUTS, never), ((loss, out.logits), grads))
    # The choices as inputs; whatever else the inputs were, <bos> stays the first of them.
    first = np.full((B, 1), BOS, np.int32)
    chosen = np.concatenate([first, np.asarray(write(params))[:, :-1]], 1)
    assert len(np.unique(chosen)) > 2
    sampled = run(params, np.concatenate([first, INPUTS[::-1, 1:]], 1), always)
    close(sampled, run(params, chosen, never))  # gradients too: none goes through a choice
    # One choice: of the step before it alone.
    once = np.zeros((B, T), bool)
    once[:, 3] = True
    own = np.asarray(out.logits).argmax(-1)[:, 2]
    assert (own != INPUTS[:, 3]).any()
    close(run(params, INPUTS, once)[0], run(params, np.where(once, own[:, None], INPUTS).astype(np.int32), never)[0])


# Parameters


def test_tied_and_shared_embeddings():
    tied = _model("luong_dot", target_size=V, share_embeddings=True, tie_embeddings=True)
    free = _model("luong_dot", target_size=V, layers=(seqjax.gru(5), seqjax.lstm(6)))
    params = _params(tied)
    assert "target_embed" not in params and "softmax" not in params and params["softmax_bias"].shape == (V,)
    # o_t of the free model has six features; those that the tied one lacks are zeros.
    decoder, table = params["decoder"], params["source_embed"]["embedding"]
    wide = decoder._replace(combine=jnp.pad(decoder.combine, ((0, 0), (0, 2))), combine_bias=jnp.pad(decoder.combine_bias, (0, 2)))
    kernel = jnp.pad(table.T, ((0, 2), (0, 0)))
    same = {name: params[name] for name in ("source_embed", "encoder", "bridge")} | {
        "decoder": wide,
        "target_embed": {"embedding": table},
        "softmax": {"kernel": kernel, "bias": params["softmax_bias"]},
    }
    inputs = np.minimum(INPUTS, V - 1)
    run = jax.jit(lambda *both: [m.apply({"params": p}, SOURCE, LENGTHS, inputs) for m, p in zip((tied, free), both)])
    _close(*run(params, same))
    assert jax.tree.structure(_shapes(free)) == jax.tree.structure(same)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_computes_narrow_and_keeps_float32(kind):
    narrow = jnp.bfloat16
    encoder = make_stack("gru", 3, 1, bidirectional=True, dtype=narrow)
    model = _model(kind, encoder=encoder, layers=(seqjax.gru(5, dtype=narrow), seqjax.lstm(6, dtype=narrow)), dtype=narrow)
    params = _shapes(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}

    def run(params):
        encoded, carry = _begin(model, params, SOURCE)
        after, logits = _step(model)(params, encoded, carry, INPUTS[:, 0])
        return encoded, carry, after, logits, model.apply({"params": params}, SOURCE, LENGTHS, INPUTS).logits

    encoded, carry, after, *logits = jax.eval_shape(run, params)
    assert encoded.summary.dtype == narrow and carry == after
    assert all(each.dtype == jnp.float32 for each in logits)


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_decodes(cell):
    kind = "luong_general" if cell == "lru" else "bahdanau"  # whose first query is the carry's h
    model = _model(kind, layers=(make_cell(cell, 8), make_cell(cell, 16)), encoder=make_stack(cell, 8, 1), bidirectional=False)
    apply = lambda params: model.apply({"params": params}, SOURCE, LENGTHS, INPUTS)  # noqa: E731
    assert jax.eval_shape(apply, _shapes(model)).logits.shape == (B, T, W)


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"kind": "none+feed"}, "model.input_feeding=True feeds the attentional vector of Luong"),
        ({"kind": "bahdanau+feed"}, "model.input_feeding=True"),
        ({"share_embeddings": True}, "got sizes 9 and 11"),
        ({"kind": "none", "tie_embeddings": True}, "model.embed_size=4 equal to the decoder's size, 6"),
        ({"kind": "bahdanau", "layers": (seqjax.lru(6),)}, "queries with h, which the carry of lru does not have"),
        ({"layers": (seqjax.dropout(seqjax.gru(6), 0.5),)}, "must not have noise of their own"),
        ({"layers": (seqjax.conv_lstm(6, 3, 5),)}, "carries of real vectors"),
        ({"layers": (seqjax.gru(5), seqjax.conv_lstm(6, 3, 5), seqjax.gru(6))}, "carries of real vectors"),
    ],
)
def test_models_that_cannot_be_are_refused(settings, says):
    with pytest.raises(UserError) as error:
        _shapes(_model(**settings))
    assert says in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_attention_is_refused():
    with pytest.raises(UserError, match="model.attention='luong' is unknown; choose one of none, bahdanau, luong_dot"):
        make_attention("luong", 8)


# Evaluation


def test_evaluation_does_not_depend_on_buckets_and_batches():
    model, params = _model("luong_general"), _compiled("luong_general")[1]
    rng = np.random.default_rng(3)
    sources, targets = ([rng.integers(4, V, n) for n in rng.integers(0, most, 11)] for most in (8, 6))
    lengths = [max(len(s), len(t) + 1) for s, t in zip(sources, targets)]
    collate = collate_pairs(sources, targets, BOS, EOS)

    def loss_fn(params, model_state, carry, batch, rng):
        out = model.apply({"params": params}, batch.source, batch.source_lengths, batch.inputs)
        sums = token_cross_entropy(out.logits, batch.targets, batch.mask)
        right = jnp.where(batch.mask, out.logits.argmax(-1) == batch.targets, False)
        return carry, model_state, sums._replace(counts={"correct": right.sum().astype(jnp.float32)})

    evaluate = train_step.make_evaluate(loss_fn, train_step.make_mesh(1, jax.devices()[:1]))
    found = [
        means(evaluate(params, (), (), (batch for _, batch in one_pass(lengths, collate, size, boundaries))))
        for size, boundaries in ((4, (4, 8)), (3, (8,)))
    ]
    assert found[0]["loss"] > 1
    for one in found[1:]:
        np.testing.assert_allclose(list(one.values()), list(found[0].values()), rtol=1e-5)
