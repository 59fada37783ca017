"""What the settings of the first five experiments mean has not changed: a run of any age is read and resumed with them."""

import importlib
import json
import pathlib

import pytest

from seqjax.run import recipe
from seqjax.run.settings import ANYTHING, Field, build, validate

# name -> default, range, free and when of each field, as they were before there were groups; fields and choices may be added
BEFORE = json.loads((pathlib.Path(__file__).parents[1] / "assets" / "fields.json").read_text("utf-8"))

# The experiments' own tables, without what all have.
TABLES = {
    name: {field: value for field, value in importlib.import_module(f"experiments.{name}").FIELDS.items() if field not in recipe.FIELDS}
    for name in BEFORE
}


def plain(field: Field) -> dict:
    when = [field.when[0], list(field.when[1])] if field.when else None
    return {"default": field.default, "check": field.check.text, "free": field.free, "when": when}


@pytest.mark.parametrize("name", TABLES)
def test_the_fields_are_what_they_were(name):
    table = TABLES[name]
    for field, before in BEFORE[name].items():
        now = plain(table[field])
        if before["check"].startswith("one of "):  # choices may be added
            choices, more = (set(one["check"].removeprefix("one of ").split(", ")) for one in (before, now))
            assert choices <= more, field
            now["check"] = before["check"]
        assert now == before, field
    for field, before in BEFORE[name].items():
        assert type(table[field].default) is type(before["default"]), field
        assert (table[field].check is ANYTHING) == (before["check"] == "anything"), field


@pytest.mark.parametrize("name", TABLES)
def test_they_build_beside_the_recipe(name):
    assert not TABLES[name].keys() & recipe.FIELDS.keys()
    table = TABLES[name] | recipe.FIELDS
    validate(build(table), table)
