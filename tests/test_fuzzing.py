"""A small part of the fuzzer in each run, and the proof that it finds faults: planted ones, in a mask and in an order of gates."""

import sys

import fuzzing
import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest
from cells.table import CELLS

import seqjax
from seqjax.engines import native, steps

SEED = 20261128


@pytest.mark.parametrize("number", range(10))
def test_random_networks_equal_numpy(number, x64):
    prog, errors = fuzzing.run(SEED, number, draws=3)
    assert max(errors) <= fuzzing.DTYPES[prog.dtype], str(prog)


@pytest.mark.slow
def test_many_random_networks_equal_numpy(x64):
    """So many as take a quarter of an hour; `python tests/fuzzing.py` runs ten thousand cases."""
    for number in range(10, 310):
        prog, errors = fuzzing.run(SEED, number, draws=4)
        assert max(errors) <= fuzzing.DTYPES[prog.dtype], f"{number}: {prog}"


def _only(name):
    """Nets that are one cell of the table."""
    row = next(row for row in CELLS if row.name == name)

    def make(rng, options):
        return nets.Plain(row.make(**options), row.reference.step, nets.fields, row.name, False).net()

    return make


def _found(name):
    """Whether any of 16 programs of one cell differs from NumPy."""
    runs = [fuzzing.run(SEED, number, 2, _only(name)) for number in range(16)]
    return any(max(errors) > fuzzing.DTYPES[prog.dtype] for prog, errors in runs)


@pytest.fixture
def plant(monkeypatch):
    """Puts a fault in place of a function, for programs that are compiled while it is there."""

    def put(module, name, fault):
        monkeypatch.setattr(module, name, fault)
        jax.clear_caches()

    monkeypatch.setattr(native, "is_quickest", lambda *args, **settings: False)
    yield put
    monkeypatch.undo()
    jax.clear_caches()


def test_no_fault_is_found_where_there_is_none(x64):
    assert not _found("rnn")


def test_a_gradient_that_goes_on_through_padded_steps_is_found(x64, plant):
    right = steps.back_through_mask
    plant(steps, "back_through_mask", lambda d_start, d_carry, d_initial, real, *rest: right(d_start, d_carry, d_initial, None, *rest))
    assert _found("rnn")


def test_gates_in_another_order_are_found(x64, plant):
    module = sys.modules["seqjax.cells.lstm"]
    right = module.memory
    plant(module, "memory", lambda names, gates, *rest: right("figo", gates, *rest))
    assert _found("lstm-peepholes")


def test_a_case_of_nan_is_a_mismatch():
    prog = fuzzing.program(np.random.default_rng(0), _only("gru"))
    data = fuzzing.draw(np.random.default_rng(1), prog)
    nan = seqjax.unroll(prog.net.cell, data["params"], np.zeros((*prog.shape, nets.H), np.float32))

    def broken(params, carry, xs, *rest):
        ys = jnp.full_like(nan[1], jnp.nan)
        return carry, ys, (params, carry, xs)

    assert fuzzing.check(prog, broken, data, np.random.default_rng(2)) == np.inf
