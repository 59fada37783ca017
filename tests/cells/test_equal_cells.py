"""Cells are identified by the call that made them: equality, hash, repr, pickle, and no recompilation."""

import copy
import pickle
import sys

import jax
import jax.numpy as jnp
import pytest
from cells.table import CELLS, VARIANTS, D

import seqjax
from seqjax import initializers, typing
from seqjax.cells import parts

COMPILED = sys.modules["seqjax._unroll"]._unroll
PLAIN = {name: getattr(seqjax, name) for name in seqjax.__all__}
PLAIN |= {name: getattr(initializers, name) for name in ("chrono", "identity", "orthogonal", "glorot_uniform")}
WRAPPED = {
    "dropout": lambda: seqjax.dropout(seqjax.lstm(4), 0.5),
    "stack": lambda: seqjax.stack(seqjax.lstm(4), seqjax.residual(seqjax.gru(4))),
    "bidirectional": lambda: seqjax.bidirectional(seqjax.lstm(4), seqjax.gru(4), merge="concat"),
    "inside a step": lambda: seqjax.zoneout(seqjax.recurrent_dropout(seqjax.weight_drop(seqjax.lstm(4), 0.1), 0.2), 0.3),
    "norm and start": lambda: seqjax.learned_initial_carry(seqjax.layer_norm(seqjax.rnn(4))),
    "initializers": lambda: seqjax.lstm(4, recurrent_init=initializers.orthogonal(0.5), bias_init=initializers.chrono(9)),
    "dtypes": lambda: seqjax.gru(4, dtype=jnp.bfloat16, param_dtype=jnp.float32),
}
MAKERS = {row.name: row.make for row in CELLS + VARIANTS} | WRAPPED


@pytest.mark.parametrize("name", MAKERS)
def test_equal_calls_give_equal_cells(name):
    cell, again = MAKERS[name](), MAKERS[name]()
    assert cell is not again
    assert cell == again and hash(cell) == hash(again) and repr(cell) == repr(again)
    assert cell != seqjax.lstm(5) and cell != "lstm"
    assert pickle.loads(pickle.dumps(cell)) == cell == copy.deepcopy(cell)
    assert len(repr(cell)) < 120


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in ("irnn", "dtypes")])
def test_the_repr_is_the_call(name):
    cell = MAKERS[name]()
    assert eval(repr(cell), PLAIN) == cell


def test_a_setting_that_differs_makes_another_cell():
    different = [
        seqjax.lstm(4),
        seqjax.lstm(5),
        seqjax.lstm(4, peepholes=True),
        seqjax.lstm(4, dtype=jnp.bfloat16),
        seqjax.lstm(4, recurrent_init=initializers.orthogonal(0.5)),
        seqjax.lstm(4, recurrent_init=initializers.orthogonal(0.6)),
        seqjax.gru(4),
        seqjax.dropout(seqjax.lstm(4), 0.1),
        seqjax.dropout(seqjax.lstm(4), 0.2),
        seqjax.dropout(seqjax.dropout(seqjax.lstm(4), 0.1), 0.1),
        seqjax.stack(seqjax.lstm(4)),
        seqjax.stack(seqjax.lstm(4), seqjax.lstm(4)),
        seqjax.bidirectional(seqjax.lstm(4), seqjax.gru(4)),
        seqjax.bidirectional(seqjax.gru(4), seqjax.lstm(4)),
    ]
    assert len(set(different)) == len(different)
    assert len({*map(repr, different)}) == len(different)


def test_the_form_of_a_call_does_not_matter():
    assert seqjax.lstm(4) == seqjax.lstm(hidden_size=4) == seqjax.lstm(4, peepholes=False)
    assert seqjax.stack([seqjax.lstm(4)]) == seqjax.stack(seqjax.lstm(4)) == seqjax.stack(iter([seqjax.lstm(4)]))
    assert seqjax.dropout(seqjax.lstm(4), rate=0.5) == seqjax.dropout(seqjax.lstm(4), 0.5, shared_over_time=False)


def test_what_cannot_be_compared_leaves_a_cell_equal_to_itself_alone():
    def init(key, shape, dtype):
        return jnp.zeros(shape, dtype)

    assert seqjax.lstm(4, kernel_init=init) == seqjax.lstm(4, kernel_init=init)  # one function
    assert seqjax.lstm(4, kernel_init=lambda *a: init(*a)) != seqjax.lstm(4, kernel_init=lambda *a: init(*a))
    cell = seqjax.lstm(4).replace(name="mine")
    assert cell == cell and cell != seqjax.lstm(4) and repr(cell) == "<cell mine>"
    assert cell != seqjax.lstm(4).replace(name="mine", hidden_size=5)
    with pytest.raises(pickle.PicklingError, match="<cell mine> cannot be pickled: the call that made it is not known"):
        pickle.dumps(cell)
    with pytest.raises(TypeError, match="replace"):
        cell._replace(name="other")


def test_a_cell_is_frozen_and_no_pytree():
    cell = seqjax.lstm(4)
    with pytest.raises(AttributeError):
        cell.name = "other"
    assert jax.tree.leaves(cell) == [cell]
    assert not isinstance(cell, tuple)


@pytest.mark.parametrize("name", WRAPPED)
def test_a_cell_made_again_compiles_nothing_again(name):
    xs = jnp.ones((2, 3, D))
    cell = WRAPPED[name]()
    params = cell.init(jax.random.key(0), D)
    seqjax.unroll(cell, params, xs, rng=jax.random.key(1))
    size = COMPILED._cache_size()
    for _ in range(3):
        seqjax.unroll(WRAPPED[name](), params, xs, rng=jax.random.key(1))
    assert COMPILED._cache_size() == size


def test_a_factory_of_ones_own():
    @typing.factory
    def twice(hidden_size, *, scale=1.0):
        """Doc."""
        parts.check_size("hidden_size", hidden_size)
        return seqjax.gru(hidden_size).replace(name=f"twice {scale}")

    assert twice.__doc__ == "Doc." and twice.__name__ == "twice"
    assert twice(3) == twice(3, scale=1.0) != twice(3, scale=2.0)
    assert repr(twice(3, scale=2.0)) == "twice(3, scale=2.0)"
    with pytest.raises(ValueError, match="hidden_size"):
        twice(0)


def test_a_wrapper_clears_what_was_true_of_the_cell_inside():
    inside = seqjax.dropout(seqjax.lstm(4), 0.5)
    assert inside.wrap.training_only and not inside.replace(name="other").wrap.training_only
    assert not seqjax.zoneout(inside, 0.5).wrap.training_only and seqjax.zoneout(inside, 0.0).wrap.training_only
    assert inside.split and not inside.replace(step=lambda params, carry, x: (carry, carry.h)).split
    assert inside.replace(step=lambda params, carry, x: (carry, carry.h)).wrap is None
    assert inside.replace(split=seqjax.lstm(4).parts).step != inside.step


def test_fields_of_before_say_where_they_went():
    for name, place in (("combine", "a field of cell.parts"), ("dense", "given by cell.split"), ("noise", "a field of cell.wrap")):
        with pytest.raises(AttributeError, match=f"Cell.{name} was removed: it is now {place}"):
            getattr(seqjax.lstm(4), name)
    with pytest.raises(TypeError, match="no longer has a field combine: it is now a field of cell.parts"):
        seqjax.lstm(4).replace(combine=None)
    with pytest.raises(AttributeError, match="a Cell has no 'nose'"):
        _ = seqjax.lstm(4).nose
