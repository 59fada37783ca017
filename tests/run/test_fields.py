"""The tables of the first five experiments, made of shared groups of settings, are what they have always been."""

import importlib
import json
import pathlib

import pytest

from seqjax.run import recipe
from seqjax.run.settings import ANYTHING, Field, build, validate

# name -> default, text, range, free and when of each field, as they were before there were groups
BEFORE = json.loads((pathlib.Path(__file__).parents[1] / "assets" / "fields.json").read_text("utf-8"))

# The experiments' own tables, without what all have.
TABLES = {
    name: {
        field: value
        for field, value in importlib.import_module(f"experiments.{name}").FIELDS.items()
        if field not in recipe.FIELDS
    }
    for name in BEFORE
}


def plain(field: Field) -> dict:
    when = [field.when[0], list(field.when[1])] if field.when else None
    return {"default": field.default, "text": field.text, "check": field.check.text, "free": field.free, "when": when}


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_are_what_they_were(name):
    before = BEFORE[name]
    assert {field: plain(value) for field, value in TABLES[name].items()} == before
    for field, value in TABLES[name].items():
        assert type(value.default) is type(before[field]["default"]), field
        assert (value.check is ANYTHING) == (before[field]["check"] == "anything"), field


@pytest.mark.parametrize("name", TABLES)
def test_they_build_beside_the_recipe(name):
    assert not TABLES[name].keys() & recipe.FIELDS.keys()
    table = TABLES[name] | recipe.FIELDS
    validate(build(table), table)
