"""Long-memory tasks: every answer against plain Python on the inputs."""

import jax
import numpy as np
import pytest

from seqjax.data.memory_tasks import CYCLE, DEPTH, RECALLED, SHORTEST, SYMBOLS, TASKS, draw_batch
from seqjax.data.pipeline.generated import Generated
from seqjax.errors import UserError

NUMBER, STEPS = 64, 37


def _drawn(task, shortest=None, longest=STEPS, seed=0):
    keys = jax.random.split(jax.random.key(seed), NUMBER)
    return jax.tree.map(np.asarray, draw_batch(task, keys, shortest or SHORTEST.get(task, 1), longest, STEPS + 3))


def _symbols(row, length):
    return row[:length].argmax(-1).tolist()


def _modular(symbols):
    text = "".join("01234+-*"[symbol] for symbol in symbols if symbol < 8)
    return eval(text) % 5


def _closing(symbols):
    stack, found = [], []
    for symbol in symbols:
        kind, closes = symbol % 2 + 1, symbol >= 2
        if closes:
            assert stack.pop() == kind
        else:
            stack.append(kind)
        assert len(stack) <= DEPTH
        found.append(stack[-1] if stack else 0)
    return found


# task -> the answer at the last step, from the symbols
AT_END = {
    "recall": lambda symbols: symbols[0],
    "parity": lambda symbols: sum(symbols) % 2,
    "even_pairs": lambda symbols: int(sum(a != b for a, b in zip(symbols, symbols[1:])) % 2 == 0),
    "cycle_navigation": lambda symbols: (symbols.count(2) - symbols.count(0)) % CYCLE,
    "modular_arithmetic": _modular,
}


@pytest.mark.parametrize("task", AT_END)
def test_the_answer_at_the_end(task):
    batch, seen = _drawn(task), set()
    for inputs, targets, asked, length in zip(*batch):
        assert np.flatnonzero(asked).tolist() == [length - 1]
        symbols = _symbols(inputs[:, :SYMBOLS] if task == "recall" else inputs, length)
        assert targets[length - 1] == AT_END[task](symbols)
        seen.add(int(targets[length - 1]))
    assert seen == set(range(TASKS[task].classes))  # every class comes up


def test_adding():
    batch = _drawn("adding", shortest=5)
    for inputs, targets, asked, length in zip(*batch):
        first, second = np.flatnonzero(inputs[:, 1])
        assert first < length // 2 <= second < length and np.flatnonzero(asked).tolist() == [length - 1]
        assert targets[length - 1] == pytest.approx(inputs[first, 0] + inputs[second, 0], rel=1e-6)
    many = draw_batch("adding", jax.random.split(jax.random.key(1), 20_000), 40, 40, 40)
    assert float(np.var(many.targets[:, -1])) == pytest.approx(TASKS["adding"].guess(40), rel=0.03)


def test_copy():
    batch = _drawn("copy")
    for inputs, targets, asked, length in zip(*batch):
        shown = _symbols(inputs, length)
        blanks = length - RECALLED
        assert shown[RECALLED : blanks - 1] == [SYMBOLS] * (length - 2 * RECALLED - 1) and shown[blanks - 1] == SYMBOLS + 1
        assert shown[blanks:] == [SYMBOLS] * RECALLED and max(shown[:RECALLED]) < SYMBOLS
        assert targets[:length].tolist() == [SYMBOLS] * blanks + shown[:RECALLED]
        assert asked[:length].all() and not asked[length:].any()
    assert TASKS["copy"].guess(1020) == pytest.approx(10 * np.log(8) / 1020)


def test_dyck():
    batch = _drawn("dyck")
    for inputs, targets, asked, length in zip(*batch):
        assert targets[:length].tolist() == _closing(_symbols(inputs, length)) and asked.sum() == length
    assert _drawn("dyck").targets.max() == 2


@pytest.mark.parametrize("task", TASKS)
def test_sizes_lengths_and_what_stands_after_the_end(task):
    least = SHORTEST.get(task, 1)
    batch = _drawn(task)
    assert batch.inputs.shape == (NUMBER, STEPS + 3, TASKS[task].features)
    assert batch.lengths.min() >= least and batch.lengths.max() <= STEPS and len(set(batch.lengths.tolist())) > 8
    after = np.arange(STEPS + 3) >= batch.lengths[:, None]
    assert not batch.inputs[after].any() and not batch.targets[after].any() and not batch.asked[after].any()
    assert not batch.targets[~batch.asked].any()
    shortest = _drawn(task, longest=least)
    assert set(shortest.lengths.tolist()) == {least}


@pytest.mark.parametrize(
    "task, lengths, message",
    [
        ("sorting", (1, 9), "task='sorting' is unknown"),
        ("copy", (20, 30), "at least 21"),
        ("parity", (5, 4), "go from 5 to 4"),
        ("parity", (1, 41), "at most 40"),
    ],
)
def test_what_cannot_be_drawn_is_refused(task, lengths, message):
    with pytest.raises(UserError, match=message):
        draw_batch(task, jax.random.split(jax.random.key(0), 2), *lengths, STEPS + 3)


def test_batches_are_functions_of_seed_number_and_row():
    def batches(seed=0, size=6):
        return Generated(jax.vmap(lambda key: jax.random.bits(key)), size, 3, seed=seed)

    whole = batches()
    drawn = [np.asarray(next(whole)) for _ in range(7)]
    assert len({int(value) for batch in drawn for value in batch}) == 42 and whole.get_state() == {"epoch": 2, "batch": 1}
    again = batches()
    again.set_state({"epoch": 1, "batch": 2})
    np.testing.assert_array_equal(next(again), drawn[5])
    shards = [batches().shard(index, 3) for index in range(3)]
    for want in drawn:
        np.testing.assert_array_equal(np.concatenate([next(shard) for shard in shards]), want)
    assert not np.isin(np.asarray(next(batches(1))), np.concatenate(drawn)).any()
    small = np.concatenate(list(batches(size=2).first(3)))  # the rows of an epoch do not depend on the batch size
    np.testing.assert_array_equal(small, drawn[0])
