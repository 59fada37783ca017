"""A small part of the fuzzer in each run, and the proof that it finds faults: planted ones, in a mask and in an order of gates."""

import fuzzing
import jax
import jax.numpy as jnp
import net_cells
import numpy as np
import pytest
from cells.table import CELLS

import seqjax
from seqjax.cells import _lstm
from seqjax.engines import native, steps

SEED = 20261134


@pytest.mark.parametrize("number", range(8))
def test_random_networks_equal_numpy(number, x64):
    found = fuzzing.run(SEED, number, draws=3)
    assert not found.mismatches, str(found.program)


@pytest.mark.slow
def test_many_random_networks_equal_numpy(x64):
    """As many as take a quarter of an hour; `python tests/fuzzing.py` runs ten thousand cases."""
    for number in range(8, 308):
        found = fuzzing.run(SEED, number, draws=4)
        assert not found.mismatches, f"{number}: {found.program}"


def _only(name):
    """Nets that are one cell of the table."""
    row = next(row for row in CELLS if row.name == name)

    def make(rng, options):
        return net_cells.Plain(row.make(**options), row.reference.step, net_cells.fields, row.name, False).net()

    return make


def _found(name):
    """Whether any of 16 programs of one cell differs from NumPy."""
    return any(fuzzing.run(SEED, number, 2, _only(name)).mismatches for number in range(16))


@pytest.fixture
def plant(monkeypatch):
    """Replaces a function by a faulty one, for programs compiled meanwhile."""

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


def _normalised(rng, options):
    """A layer normalisation of the products of an rnn."""
    row = next(row for row in CELLS if row.name == "rnn")
    return net_cells.normed(net_cells.Plain(row.make(**options), row.reference.step, net_cells.fields, row.name, True)).net()


def test_ill_conditioned_is_what_the_scan_errs_by_and_no_fault(x64, monkeypatch):
    """A layer normalisation of numbers near 100 that differ by about 0.05, which float32 holds to 0.000008."""
    number = next(n for n in range(99) if (_with(n).dtype, _with(n).engine, _with(n).transform) == ("float32", "scan", "jit"))
    draw = fuzzing.draw

    def close_together(rng, prog):
        data = draw(rng, prog)
        cell = data["params"].cell
        cell = cell._replace(kernel=cell.kernel * 0.05, bias=np.full_like(cell.bias, 100))
        return data | {"params": data["params"]._replace(cell=cell)}

    monkeypatch.setattr(fuzzing, "draw", close_together)
    prog, errors, mismatches = fuzzing.run(SEED, number, 2, _normalised)
    assert max(errors) > fuzzing.DTYPES["float32"] and not mismatches
    wide, data = _with(number, "float64"), fuzzing.draw(np.random.default_rng(0), prog)
    assert wide.net.said == prog.net.said and wide.dtype == "float64"
    assert not fuzzing.is_ill_conditioned(prog, wide, data, 1.0)  # more than the scan errs by
    assert not fuzzing.is_ill_conditioned(prog, wide, data, np.inf)

    def off(*arguments):
        last, ys = wide.net.run(*arguments)
        return last, ys + 1e-6

    assert fuzzing.is_ill_conditioned(prog, wide, data, 1e-6)
    assert not fuzzing.is_ill_conditioned(prog, wide._replace(net=wide.net._replace(run=off)), data, 1e-6)


def _with(number, dtype=None):
    return fuzzing.program(np.random.default_rng([SEED, number]), _normalised, dtype)


def test_a_case_of_nan_is_a_mismatch():
    prog = fuzzing.program(np.random.default_rng(0), _only("gru"))
    data = fuzzing.draw(np.random.default_rng(1), prog)
    nan = seqjax.unroll(prog.net.cell, data["params"], np.zeros((*prog.shape, net_cells.H), np.float32))

    def broken(params, carry, xs, *rest):
        ys = jnp.full_like(nan[1], jnp.nan)
        return carry, ys, (params, carry, xs)

    assert fuzzing.check(prog, broken, data, np.random.default_rng(2)) == np.inf
