"""What the shared settings become: accumulated batches, frozen parameters, lengths that a counter of steps can hold."""

import pytest

from seqjax.errors import UserError
from seqjax.run.fields import batches
from seqjax.run.recipe import FIELDS, data_mesh, make_recipe, patterns, run_length
from seqjax.run.settings import build, validate


def test_the_recipe_carries_what_it_is_told():
    recipe = make_recipe(build(FIELDS, {"train.steps": 9, "train.accumulate": 4, "optimizer.frozen": "embed, ^cell_0/"}), 3)
    assert recipe.accumulate == 4 and recipe.frozen == ("embed", "^cell_0/")
    plain = make_recipe(build(FIELDS, {"train.steps": 9}), 3)
    assert plain.accumulate == 1 and plain.frozen == ()


@pytest.mark.parametrize("text, found", [("", ()), (" ", ()), ("a{1,2}b,c", ("a{1,2}b", "c")), ("[a,b],c", ("[a,b]", "c"))])
def test_patterns(text, found):
    assert patterns(text) == found
    validate(build(FIELDS, {"train.steps": 9, "optimizer.frozen": text}), FIELDS)


@pytest.mark.parametrize("text", ["(", "a,,b", "a,", "*"])
def test_what_is_no_pattern_is_refused(text):
    with pytest.raises(UserError, match="optimizer.frozen=.* it must be comma-separated regular expressions"):
        validate(build(FIELDS, {"train.steps": 9, "optimizer.frozen": text}), FIELDS)


def test_parts_cut_the_batch_evenly():
    table = FIELDS | batches("texts", 12, 12)
    assert data_mesh(build(table, {"train.accumulate": 3})).size == 1
    with pytest.raises(UserError, match="config.train.accumulate=5 must divide config.data.batch_size=12 evenly"):
        data_mesh(build(table, {"train.accumulate": 5}))
    with pytest.raises(UserError, match="train.accumulate=0 is out of range: it must be at least 1"):
        validate(build(FIELDS, {"train.accumulate": 0}), FIELDS)


def test_a_run_is_not_longer_than_its_counter():
    with pytest.raises(UserError, match=f"train.steps={2**31} is out of range"):
        validate(build(FIELDS, {"train.steps": 2**31}), FIELDS)
    with pytest.raises(UserError, match="train.epochs=10000000.0 is 10000000000 steps; there must be fewer than"):
        run_length(build(FIELDS, {"train.epochs": 1e7}), 1000)
    assert run_length(build(FIELDS, {"train.steps": 2**31 - 1}), 1) == 2**31 - 1
