"""A small part of the fuzzer in each run, and the proof that it finds faults: planted ones, in a mask and in an order of gates."""

import fuzzing
import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest
from cells.table import CELLS

import seqjax
from seqjax.cells import _lstm
from seqjax.engines import native, steps

SEED = 20261128


@pytest.mark.parametrize("number", range(10))
def test_random_networks_equal_numpy(number, x64):
    found = fuzzing.run(SEED, number, draws=3)
    assert not found.mismatches, str(found.program)


@pytest.mark.slow
def test_many_random_networks_equal_numpy(x64):
    """So many as take a quarter of an hour; `python tests/fuzzing.py` runs ten thousand cases."""
    for number in range(10, 310):
        found = fuzzing.run(SEED, number, draws=4)
        assert not found.mismatches, f"{number}: {found.program}"


def _only(name):
    """Nets that are one cell of the table."""
    row = next(row for row in CELLS if row.name == name)

    def make(rng, options):
        return nets.Plain(row.make(**options), row.reference.step, nets.fields, row.name, False).net()

    return make


def _found(name):
    """Whether any of 16 programs of one cell differs from NumPy."""
    return any(fuzzing.run(SEED, number, 2, _only(name)).mismatches for number in range(16))


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
    right = _lstm.memory
    plant(_lstm, "memory", lambda names, gates, *rest: right("figo", gates, *rest))
    assert _found("lstm-peepholes")


def test_ill_conditioned_is_what_the_scan_errs_by_and_no_fault(x64):
    """Program 1 of seed 0 has one: a layer normalisation of four numbers that lie close together."""
    prog, errors, mismatches = fuzzing.run(0, 1, 12)
    assert prog.dtype == "float32" and max(errors) > fuzzing.DTYPES["float32"] and not mismatches
    rng = np.random.default_rng(0)
    wide, data = fuzzing.program(np.random.default_rng([0, 1]), wanted="float64"), fuzzing.draw(rng, prog)
    assert wide.net.said == prog.net.said and wide.dtype == "float64"
    assert not fuzzing.is_ill_conditioned(prog, wide, data, 1e-2)  # more than the scan errs by
    assert not fuzzing.is_ill_conditioned(prog, wide, data, np.inf)

    def off(*arguments):
        last, ys = wide.net.run(*arguments)
        return last, ys + 1e-9

    assert fuzzing.is_ill_conditioned(prog, wide, data, 1e-8)
    assert not fuzzing.is_ill_conditioned(prog, wide._replace(net=wide.net._replace(run=off)), data, 1e-8)


def test_a_case_of_nan_is_a_mismatch():
    prog = fuzzing.program(np.random.default_rng(0), _only("gru"))
    data = fuzzing.draw(np.random.default_rng(1), prog)
    nan = seqjax.unroll(prog.net.cell, data["params"], np.zeros((*prog.shape, nets.H), np.float32))

    def broken(params, carry, xs, *rest):
        ys = jnp.full_like(nan[1], jnp.nan)
        return carry, ys, (params, carry, xs)

    assert fuzzing.check(prog, broken, data, np.random.default_rng(2)) == np.inf
