"""Windows: every token once, continuous rows, resets where they belong, and exact resuming."""

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqjax.data import load_corpus
from seqjax.data.pipeline import windows as windows_module
from seqjax.data.pipeline.streams import TokenStream, encode_documents
from seqjax.data.pipeline.windows import Windows
from seqjax.errors import UserError

BOS, PAD = 1000, 2000


def stream_of(size, seed=0, share=0.15):
    """Distinct tokens 0 .. size - 1 in a random order, with documents that start at random places."""
    rng = np.random.default_rng(seed)
    starts = rng.random(size) < share
    starts[0] = True
    return TokenStream(rng.permutation(size).astype(np.int32), np.flatnonzero(starts))


def make(stream, rows, window, **options):
    return Windows(stream, rows, window, bos_id=BOS, pad_id=PAD, **options)


def joined(windows, field):
    """One epoch of a field, with the windows of each row put end to end."""
    return np.concatenate([getattr(batch, field) for batch in windows.one_pass()], axis=1)


sizes = st.tuples(st.integers(1, 150), st.integers(1, 9), st.integers(1, 12), st.integers(0, 99))


@settings(max_examples=150, deadline=None)
@given(sizes)
def test_every_token_is_predicted_once_from_the_token_before_it(sizes):
    size, rows, window, seed = sizes
    stream = stream_of(size, seed)
    windows = make(stream, rows, window)
    mask = joined(windows, "mask")
    targets, inputs = joined(windows, "targets"), joined(windows, "inputs")
    assert targets.shape == (rows, windows.batches_per_epoch * window)
    before = {int(t): BOS if s else int(p) for p, t, s in zip(np.r_[-1, stream.tokens], stream.tokens, stream.mask())}
    assert targets[mask].tolist() == stream.tokens.tolist()  # row after row is reading order
    assert inputs[mask].tolist() == [before[int(t)] for t in stream.tokens]
    assert (targets[~mask] == PAD).all() and (inputs[~mask] == PAD).all()
    assert windows.tokens_per_epoch == size == mask.sum()


@settings(max_examples=100, deadline=None)
@given(sizes)
def test_rows_are_contiguous_and_reset_only_at_documents_and_row_starts(sizes):
    size, rows, window, seed = sizes
    stream = stream_of(size, seed)
    windows = make(stream, rows, window)
    row = -(-size // rows)
    assert windows.batches_per_epoch == -(-row // window)
    for b, (targets, mask, resets) in enumerate(zip(*(joined(windows, f) for f in ("targets", "mask", "resets")))):
        part = slice(b * row, (b + 1) * row)
        length = len(stream.tokens[part])
        assert targets[:length].tolist() == stream.tokens[part].tolist()
        assert mask.tolist() == [True] * length + [False] * (len(mask) - length)
        expected = stream.mask()[part].copy()
        expected[:1] = True
        assert resets[:length].tolist() == expected.tolist()
        assert not resets[length:].any()


def test_within_a_row_the_inputs_are_the_targets_one_step_late():
    stream = stream_of(103, seed=3)
    windows = make(stream, 4, 7)
    inputs, targets = joined(windows, "inputs"), joined(windows, "targets")
    mask, resets = joined(windows, "mask"), joined(windows, "resets")
    goes_on = mask[:, 1:] & ~resets[:, 1:]
    assert (inputs[:, 1:][goes_on] == targets[:, :-1][goes_on]).all() and goes_on.sum() > 70
    starts = mask[:, 1:] & resets[:, 1:]
    assert (inputs[:, 1:][starts] == BOS).all() and starts.sum() > 3


def test_a_later_row_is_told_the_token_before_it():
    stream = TokenStream(np.arange(10, dtype=np.int32), np.array([0]))
    first = next(make(stream, 2, 3))
    assert first.inputs[:, 0].tolist() == [BOS, 4]
    assert first.resets.tolist() == [[True, False, False]] * 2


@pytest.mark.parametrize("field", ["inputs", "targets", "mask", "resets"])
def test_another_window_gives_the_same_rows(field):
    stream = stream_of(211, seed=5)
    row = -(-211 // 5)
    reference = joined(make(stream, 5, row), field)
    for window in (1, 2, 9, 20, row + 4):
        assert joined(make(stream, 5, window), field)[:, :row].tolist() == reference.tolist()


def test_types_shapes_and_read_only_arrays():
    batch = next(make(stream_of(50), 3, 4))
    assert [a.dtype.name for a in batch] == ["int32", "int32", "bool", "bool"]
    for array in batch:
        assert array.shape == (3, 4)
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 0


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(0, 40), st.integers(0, 40))
def test_resuming_twice_gives_the_uninterrupted_batches(sizes, first, second):
    size, rows, window, seed = sizes
    stream = stream_of(size, seed)
    total = first + second + 5
    whole = [next(windows) for windows in [make(stream, rows, window)] for _ in range(total)]
    got, state = [], make(stream, rows, window).get_state()
    for count in (first, second, 5):
        windows = make(stream, rows, window)
        windows.set_state(json.loads(json.dumps(state)))
        assert windows.get_state() == state
        got += [next(windows) for _ in range(count)]
        state = windows.get_state()
    assert len(got) == total
    for a, b in zip(whole, got):
        assert all(np.array_equal(x, y) for x, y in zip(a, b))


@settings(max_examples=100, deadline=None)
@given(sizes, st.integers(1, 200), st.sampled_from(["uint8", "uint16", "int64"]))
def test_arrays_made_for_a_few_windows_at_a_time_are_the_same(sizes, block, dtype):
    """And in whatever dtype the tokens are kept."""
    size, rows, window, seed = sizes
    stream = stream_of(size, seed)
    whole, before = make(stream, rows, window), windows_module.BLOCK
    narrow = make(TokenStream(stream.tokens.astype(dtype), stream.starts), rows, window)
    windows_module.BLOCK = block
    try:
        blocks = make(TokenStream(stream.tokens.astype(dtype), stream.starts), rows, window)
    finally:
        windows_module.BLOCK = before
    for _ in range(2 * whole.batches_per_epoch + 1):
        wanted = next(whole)
        for other in (narrow, blocks):
            got = next(other)
            assert [a.dtype for a in got] == [a.dtype for a in wanted]
            assert all(map(np.array_equal, wanted, got))
    for wanted, got in zip(whole.one_pass(), blocks.one_pass(), strict=True):
        assert all(map(np.array_equal, wanted, got))


def together(parts):
    return [np.concatenate(columns) for columns in zip(*parts, strict=True)]


@settings(max_examples=100, deadline=None)
@given(sizes, st.integers(1, 5), st.integers(1, 5), st.integers(0, 30))
def test_shards_read_together_what_one_process_reads(sizes, first, second, steps):
    """Also where the number of shards changes on resuming, in the middle of an epoch."""
    size, rows, window, seed = sizes
    stream, rows = stream_of(size, seed), rows * first * second
    whole = make(stream, rows, window)
    state = whole.get_state()
    for count in (first, second):
        shards = [make(stream, rows, window).shard(index, count) for index in range(count)]
        for shard in shards:
            shard.set_state(json.loads(json.dumps(state)))
        for _ in range(steps):
            wanted = next(whole)
            assert all(map(np.array_equal, wanted, together(map(next, shards))))
        for shard in shards:
            assert shard.get_state() == whole.get_state()
            assert (shard.batches_per_epoch, shard.tokens_per_epoch) == (whole.batches_per_epoch, whole.tokens_per_epoch)
        state = shards[0].get_state()
        for wanted, *parts in zip(whole.one_pass(), *(shard.one_pass() for shard in shards), strict=True):
            assert all(map(np.array_equal, wanted, together(parts)))


def test_a_shard_begins_where_the_windows_are_and_moves_alone():
    windows = make(stream_of(97, seed=8), 6, 4)
    for _ in range(3):
        next(windows)
    shard = windows.shard(1, 3)
    state, wanted = windows.get_state(), next(shard)
    assert windows.get_state() == state and shard.get_state() != state
    assert np.array_equal(next(windows).targets[2:4], wanted.targets)
    assert np.array_equal(shard.shard(1, 2).one_pass().__next__().targets, next(windows.one_pass()).targets[3:4])


@pytest.mark.parametrize(
    "index, count, says",
    [(0, 4, "4 shards cannot share evenly"), (3, 3, "indices 0 to 2"), (-1, 2, "index is -1"), (0, 0, "count is 0"), (0.0, 2, "whole")],
)
def test_rows_that_cannot_be_shared_are_refused(index, count, says):
    with pytest.raises(UserError, match=says):
        make(stream_of(97), 6, 4).shard(index, count)


def test_resuming_in_the_middle_of_a_later_epoch():
    stream = stream_of(97, seed=8)
    windows = make(stream, 3, 4)  # 9 windows an epoch
    batches = [next(windows) for _ in range(30)]
    other = make(stream, 3, 4)
    other.set_state({"epoch": 2, "window": 4})
    assert np.array_equal(next(other).targets, batches[22].targets)
    assert other.get_state() == {"epoch": 2, "window": 5}
    assert windows.get_state() == {"epoch": 3, "window": 3}


def test_one_pass_starts_at_the_beginning_and_leaves_the_place_alone():
    windows = make(stream_of(40), 2, 3)
    first = next(windows)
    state = windows.get_state()
    batches = list(windows.one_pass())
    assert len(batches) == windows.batches_per_epoch == 7
    assert np.array_equal(batches[0].targets, first.targets)
    assert windows.get_state() == state and iter(windows) is windows


@pytest.mark.parametrize(
    "state, says",
    [
        ({}, "epoch and window"),
        (None, "epoch and window"),
        ({"epoch": 0, "window": 1, "row": 2}, "epoch and window"),
        ({"epoch": -1, "window": 0}, "at least 0"),
        ({"epoch": 0, "window": 1.5}, "whole numbers"),
        ({"epoch": True, "window": 0}, "whole numbers"),
        ({"epoch": 0, "window": "1"}, "whole numbers"),
        ({"epoch": 0, "window": 7}, "an epoch has 7"),
    ],
)
def test_a_state_that_is_nonsense_is_refused_and_changes_nothing(state, says):
    windows = make(stream_of(40), 2, 3)
    next(windows)
    with pytest.raises(UserError, match=says):
        windows.set_state(state)
    assert windows.get_state() == {"epoch": 0, "window": 1}


def test_too_little_text_is_refused_with_the_numbers():
    with pytest.raises(UserError, match=r"11 tokens, but at least 12 are needed .* 4 x window 3 = 12"):
        make(stream_of(11), 4, 3, minimum=12)
    make(stream_of(12), 4, 3, minimum=12)
    with pytest.raises(UserError, match="0 tokens, but at least 1"):
        make(encode_documents([], list, ends=False), 4, 3)


@pytest.mark.parametrize("rows, window, named", [(0, 3, "batch_size"), (2, -1, "window"), (2.0, 3, "batch_size")])
def test_sizes_out_of_range_are_refused_by_name(rows, window, named):
    with pytest.raises(UserError, match=f"^{named} is"):
        make(stream_of(20), rows, window)


@pytest.mark.parametrize("tokens", [np.arange(4), np.zeros((2, 2), int)])
@pytest.mark.parametrize("starts", [np.arange(4) == 0, [0, 0], [2, 1], [4], [-1], [[0]], [0.0]])
def test_starts_are_offsets_of_tokens(tokens, starts):
    with pytest.raises(UserError, match="np.flatnonzero makes them of a mask|starts must rise"):
        TokenStream(tokens, np.asarray(starts))


def test_a_batch_costs_next_to_nothing():
    windows = make(stream_of(100_000), 32, 64)
    fastest = float("inf")
    for _ in range(20):
        begin = time.perf_counter()
        for _ in range(100):
            next(windows)
        fastest = min(fastest, (time.perf_counter() - begin) / 100)
    assert fastest < 50e-6  # about 2 us on an idle machine


letters = st.text("abc", max_size=6)


@settings(deadline=None)
@given(st.lists(letters, max_size=8), st.booleans(), st.booleans())
def test_encoded_documents_read_back(documents, ends, reset):
    stream = encode_documents(documents, lambda text: [ord(c) for c in text], ends=ends, eos_id=36, reset=reset)
    texts = [text + "$" * ends for text in documents]
    assert "".join(map(chr, stream.tokens)) == "".join(texts)
    firsts, place = [], 0
    for text in texts:
        firsts += [place] * bool(text)
        place += len(text)
    assert stream.starts.tolist() == (firsts if reset else firsts[:1])
    assert np.flatnonzero(stream.mask()).tolist() == stream.starts.tolist()
    assert stream.tokens.dtype == np.int32 and len(stream) == place


def test_encoding_refuses_what_is_not_a_line_of_integers():
    with pytest.raises(UserError, match="eos_id"):
        encode_documents(["a"], list, ends=True)
    with pytest.raises(UserError, match="document 2"):
        encode_documents(["", "a"], lambda text: [0.5] * len(text), ends=False)


def test_hello_is_predictable_from_the_last_reset():
    """The best loss is 0: what follows never depends on more than the tokens since the reset."""
    texts = load_corpus("embedded", name="hello").parts["train"]["text"]
    stream = encode_documents(texts, lambda text: ["helo".index(c) for c in text], ends=True, eos_id=4)
    for rows, window in [(1, 5), (8, 7), (32, 16), (64, 35)]:
        seen = {}
        for row in zip(*(joined(make(stream, rows, window), f) for f in ("inputs", "targets", "mask", "resets"))):
            past = ()
            for token, target, real, reset in zip(*(values.tolist() for values in row)):
                if real:
                    past = (token,) if reset else (*past, token)
                    assert seen.setdefault(past, target) == target
        assert len(seen) == 6
