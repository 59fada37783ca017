"""Settings: the table of fields, its checks, and the language model's own table."""

import json
import math

import ml_collections
import pytest

from experiments.language_model import EXPERIMENT, FIELDS, PRESETS
from seqjax.errors import UserError
from seqjax.run import cli
from seqjax.run.settings import (
    ANYTHING,
    Field,
    above,
    at_least,
    build,
    complete,
    describe,
    differences,
    flatten,
    is_free,
    left_out,
    one_of,
    resolve_length,
    to_json,
    unknown_field,
    validate,
    within,
)
from seqjax.training.optimizers import SCHEDULES

TABLE = {
    "seed": Field(3, "Seed.", at_least(0)),
    "note": Field("", "A note."),
    "model.hidden_size": Field(16, "Hidden units.", at_least(1)),
    "model.residual": Field(False, "Residual."),
    "model.cell": Field("lstm", "Cell.", one_of("lstm", "gru")),
    "optimizer.rate": Field(0.1, "Rate.", above(0)),
    "optimizer.b1": Field(0.9, "Average.", within(0.0, 1.0)),
}


def _changed(**changes):
    """The table's config with values put in past the checks of ConfigDict."""
    nested = to_json(build(TABLE))
    for name, value in changes.items():
        *groups, last = name.split("__")
        inner = nested
        for group in groups:
            inner = inner[group]
        inner[last] = value
    return nested


# build, flatten, to_json


def test_build_gives_defaults_and_changes():
    config = build(TABLE, {"model.cell": "gru", "optimizer.rate": 0.25})
    assert config.to_dict() == {
        "seed": 3,
        "note": "",
        "model": {"hidden_size": 16, "residual": False, "cell": "gru"},
        "optimizer": {"rate": 0.25, "b1": 0.9},
    }
    assert build(TABLE).to_dict() == build(TABLE, {}).to_dict() != config.to_dict()
    assert TABLE["model.cell"].default == "lstm"


def test_the_config_is_locked_but_its_fields_can_be_set():
    config = build(TABLE)
    with pytest.raises(AttributeError):
        config.sed = 1
    with pytest.raises(AttributeError):
        config.model.hiden_size = 1
    with pytest.raises(TypeError):
        config.model.hidden_size = "large"
    config.model.hidden_size = 99
    assert config.model.hidden_size == 99 and build(TABLE).model.hidden_size == 16


def test_build_refuses_an_unknown_name():
    with pytest.raises(UserError, match="no config field config.model.hidden_sise; did you mean config.model.hidden_size?"):
        build(TABLE, {"model.hidden_sise": 32})


def test_flatten_gives_the_names_of_the_table():
    config = build(TABLE)
    want = {name: field.default for name, field in TABLE.items()}
    assert flatten(config) == flatten(config.to_dict()) == want
    assert list(flatten(config)) and set(flatten(config)) == set(TABLE)


def test_json_round_trip_is_equal():
    config = build(TABLE, {"optimizer.rate": 5 / 35, "note": 'a "quoted" ä\n'})
    back = ml_collections.ConfigDict(json.loads(json.dumps(to_json(config))))
    validate(back, TABLE)
    assert back == ml_collections.ConfigDict(config.to_dict()) and differences(to_json(config), back) == []
    assert flatten(back) == flatten(config) and type(to_json(config)["model"]) is dict


# validate


def test_a_good_config_passes():
    validate(build(TABLE), TABLE)
    validate(build(TABLE).to_dict(), TABLE)


@pytest.mark.parametrize(
    "changes, wanted",
    [
        ({"seed": True}, "config.seed=True must be of type int"),
        ({"seed": 1.0}, "config.seed=1.0 must be of type int"),
        ({"seed": "1"}, "config.seed='1' must be of type int"),
        ({"seed": None}, "config.seed=None must be of type int"),
        ({"note": 3}, "config.note=3 must be of type str: A note."),
        ({"model__residual": 1}, "config.model.residual=1 must be of type bool"),
        ({"model__residual": "False"}, "config.model.residual='False' must be of type bool"),
        ({"optimizer__rate": True}, "config.optimizer.rate=True must be of type float"),
        ({"optimizer__rate": "0.1"}, "config.optimizer.rate='0.1' must be of type float"),
        ({"model__cell": ["lstm"]}, "must be of type str"),
    ],
)
def test_a_wrong_type_is_refused(changes, wanted):
    with pytest.raises(UserError) as raised:
        validate(_changed(**changes), TABLE)
    assert wanted in str(raised.value) and "\n" not in str(raised.value)


def test_a_whole_number_is_a_float():
    validate(_changed(optimizer__rate=2), TABLE)
    with pytest.raises(UserError, match="config.optimizer.rate=0 is out of range: it must be greater than 0"):
        validate(_changed(optimizer__rate=0), TABLE)


@pytest.mark.parametrize(
    "changes, wanted",
    [
        ({"seed": -1}, "config.seed=-1 is out of range: it must be at least 0"),
        ({"model__hidden_size": 0}, "must be at least 1"),
        ({"model__cell": "lst"}, "config.model.cell='lst' is out of range: it must be one of lstm, gru"),
        ({"optimizer__b1": 1.0}, "must be at least 0.0 and below 1.0"),
        ({"optimizer__b1": -0.1}, "must be at least 0.0 and below 1.0"),
        *[({f"optimizer__{name}": bad}, f"config.optimizer.{name}={bad!r} is out of range")
          for name in ("rate", "b1") for bad in (math.nan, math.inf, -math.inf)],
    ],
)  # fmt: skip
def test_out_of_range_is_refused(changes, wanted):
    with pytest.raises(UserError) as raised:
        validate(_changed(**changes), TABLE)
    assert wanted in str(raised.value)


def test_borders_of_the_checks():
    assert [at_least(2).holds(v) for v in (1, 2, 3, 10**400, math.inf, math.nan)] == [
        False,
        True,
        True,
        True,
        False,
        False,
    ]
    assert [above(2).holds(v) for v in (2, 2.0001, math.inf, math.nan)] == [False, True, False, False]
    assert [within(1, 2).holds(v) for v in (0.999, 1, 1.999, 2, math.nan)] == [False, True, True, False, False]
    assert [one_of("a", "b").holds(v) for v in ("a", "b", "", "ab")] == [True, True, False, False]
    assert all(ANYTHING.holds(v) for v in (0, "", math.nan))


def test_missing_and_unknown_fields_are_named():
    config = _changed()
    del config["model"]["cell"]
    with pytest.raises(UserError, match="the config lacks the field model.cell: Cell."):
        validate(config, TABLE)
    with pytest.raises(UserError, match="no config field config.model.cel; did you mean config.model.cell?"):
        validate(_changed(model__cel="gru"), TABLE)
    with pytest.raises(UserError, match="no config field config.model;"):
        validate(_changed(model=3), TABLE)
    # Of several, always the same one.
    with pytest.raises(UserError, match="config.a;"):
        validate(_changed(c=1, b=1, a=1), TABLE)


@pytest.mark.parametrize(
    "name, near",
    [
        ("model.hiden_size", "model.hidden_size"),
        ("hidden_size", "model.hidden_size"),
        ("model.rate", "optimizer.rate"),  # the wrong group
        ("residual", "model.residual"),
        ("sed", "seed"),
        ("b1", "optimizer.b1"),
    ],
)
def test_the_nearest_name(name, near):
    assert unknown_field(name, TABLE) == f"there is no config field config.{name}; did you mean config.{near}?"


def test_the_nearest_of_several_namesakes():
    assert "config.optimizer.name?" in unknown_field("optim.name", FIELDS)
    assert "config.optimizer.learning_rate?" in unknown_field("train.learning_rate", FIELDS)
    assert "config.model.hidden_size?" in unknown_field("hidden", FIELDS)


def test_no_name_is_near():
    assert unknown_field("zzz", TABLE) == "there is no config field config.zzz; --help lists all fields"


# describe, differences


def test_describe_lists_every_field():
    preset = {"seed": 11}
    lines = describe(TABLE, preset).split("\n")
    assert len(lines) == 2 * len(TABLE)
    for name, field in TABLE.items():
        at = lines.index(f"  --config.{name}={preset.get(name, field.default)}")
        assert lines[at + 1].strip().startswith(field.text)
    assert "      Cell. (one of lstm, gru)" in lines and "      A note." in lines


def test_differences_name_both_values():
    old, new = _changed(seed=4, model__cell="gru"), _changed(optimizer__rate=0.5)
    assert differences(old, new) == [
        "model.cell: gru there, lstm here",
        "optimizer.rate: 0.1 there, 0.5 here",
        "seed: 4 there, 3 here",
    ]
    assert differences(old, old) == [] and len(differences(new, old)) == 3
    del old["seed"]
    assert "seed: nothing there, 3 here" in differences(old, new)
    assert "seed: 3 there, nothing here" in differences(new, old)


# The language model's own table.


def test_every_field_is_explained_in_one_line_and_its_default_passes():
    for name, field in FIELDS.items():
        assert field.text.endswith(".") and "\n" not in field.text and 5 < len(field.text) < 120, name
        assert field.text[0].isupper() or field.text.split(":")[0] in SCHEDULES, name
        assert type(field.default) in (int, float, str, bool), name
        assert field.check.holds(field.default), name
    validate(build(FIELDS), FIELDS)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid_and_survive_json(preset):
    config = build(FIELDS, PRESETS[preset])
    validate(config, FIELDS)
    back = ml_collections.ConfigDict(json.loads(json.dumps(to_json(config))))
    validate(back, FIELDS)
    assert flatten(back) == flatten(config)
    for name, value in PRESETS[preset].items():
        assert flatten(config)[name] == value and type(value) is type(FIELDS[name].default)


def test_presets_give_their_length_in_one_way():
    for preset in PRESETS:
        train = build(FIELDS, PRESETS[preset]).train
        assert bool(train.steps) != bool(train.epochs), preset


def test_an_unknown_preset_is_refused():
    with pytest.raises(UserError, match="there is no preset 'tiny'; choose one of hello, char_small"):
        cli.parse(EXPERIMENT, ["program", "--workdir=run", "--config=tiny"])


def test_settings_without_effect_are_refused():
    table = TABLE | {"model.extra": Field(0.5, "For gru.", when=("model.cell", ("gru",)))}
    flat = {name: field.default for name, field in table.items()}
    for cell, extra, refused in [("lstm", 0.5, False), ("gru", 0.25, False), ("lstm", 0.25, True)]:
        config = build(table, flat | {"model.cell": cell, "model.extra": extra})
        if refused:
            with pytest.raises(
                UserError, match="model.extra=0.25 has no effect with model.cell='lstm'; leave it at 0.5, or set config.model.cell=gru$"
            ):
                validate(config, table)
        else:
            validate(config, table)


def test_free_fields_do_not_count_as_different():
    table = {"seed": Field(3, "Seed."), "keep": Field(2, "Kept.", free=True)}
    old, new = {"seed": 3, "keep": 2}, {"seed": 4, "keep": 9}
    assert differences(old, new, table) == ["seed: 3 there, 4 here"]
    assert len(differences(old, new)) == 2


def test_fields_that_are_free_under_a_condition():
    """train.eval_every may change unless the learning rate or the end of the run waits for evaluations, then or now."""
    plain = {"train.steps": 9}
    cases = [({}, True), ({"train.stop_after": 2}, False), ({"schedule.name": "plateau"}, False)]
    for changes, free in cases:
        old, new = (build(FIELDS, plain | changes | {"train.eval_every": n}) for n in (100, 200))
        assert is_free("train.eval_every", FIELDS, new) is free
        assert differences(old, new, FIELDS) == ([] if free else ["train.eval_every: 100 there, 200 here"])
    old = build(FIELDS, plain | {"train.stop_after": 2, "train.eval_every": 100})
    for a, b in ((old, build(FIELDS, plain)), (build(FIELDS, plain), old)):
        assert len(differences(a, b, FIELDS)) == 1
    assert not is_free("train.steps", FIELDS, old) and not is_free("nowhere", FIELDS, old)


def test_a_run_saved_before_there_was_a_field_has_its_default():
    config = build(FIELDS, {"train.steps": 9})
    saved = {name: value for name, value in flatten(config).items() if name not in ("train.accumulate", "optimizer.frozen")}
    assert complete(saved, FIELDS) == flatten(config) and differences(saved, config, FIELDS) == []
    other = build(FIELDS, {"train.steps": 9, "train.accumulate": 4})
    assert differences(saved, other, FIELDS) == ["train.accumulate: 1 there, 4 here"]


# The command line's numbers


def given(*arguments):
    """What the language model's command line makes of these flags."""
    return cli.parse(EXPERIMENT, ["program", "--workdir=run", *arguments]).given


@pytest.mark.parametrize("text, number", [("1e3", 1000), ("2.5E+3", 2500), ("7.0", 7), ("12", 12), ("-1e2", -100)])
def test_integers_may_be_written_as_floats(text, number):
    value = given(f"--config.train.steps={text}")["train.steps"]
    assert value == number and type(value) is int


@pytest.mark.parametrize("text", ["1.5", "1e-3", "nan", "inf", "1e999999999", "ten", ""])
def test_what_is_no_whole_number_is_refused(text):
    with pytest.raises(cli.UsageError, match="train.steps=.*it must be a whole number, such as"):
        given(f"--config.train.steps={text}")


def test_large_integers_are_exact():
    assert given("--config.seed=4294967295e0")["seed"] == 2**32 - 1
    assert given("--config.seed=9007199254740993.0")["seed"] == 2**53 + 1


@pytest.mark.parametrize(
    "name, value, single",
    [
        ("optimizer.learning_rate", 1e39, "inf"),
        ("optimizer.learning_rate", 1e-50, "0"),
        ("optimizer.learning_rate", 1e-39, "0"),  # below the smallest normal number, which processors take for 0
        ("optimizer.clip_norm", 1e300, "inf"),
        ("optimizer.b2", 1 - 1e-12, "1"),
        ("optimizer.ema", 1 - 1e-9, "1"),
        ("model.dropout", 1 - 1e-9, "1"),
    ],
)
def test_values_hold_in_float32(name, value, single):
    with pytest.raises(UserError) as raised:
        validate(build(FIELDS, {"train.steps": 9, name: value}), FIELDS)
    text = FIELDS[name].check.text
    said = f"config.{name}={value!r} is out of range: it must be {text}; in float32 this is {single}"
    limit = {"inf": ", the largest number being 3.4e38", "0": ", the smallest number above 0 being 1.2e-38", "1": ""}[single]
    assert str(raised.value) == said + limit


def test_every_bound_that_is_allowed_is_allowed_in_float32():
    for low in (0.1, 0.3, 0.7, 0.001, 1e-30):
        assert at_least(low).holds(low) and within(low, 2.0).holds(low) and above(low).holds(low * 1.0001)
        assert not within(0.0, low).holds(low) and not above(low).holds(low)
    validate(build(FIELDS, {"train.steps": 9, "optimizer.learning_rate": 3.4e38, "optimizer.b2": 1 - 1e-7}), FIELDS)


@pytest.mark.parametrize(
    "given, before, after",
    [
        ({}, (0, 3.0), (0, 3.0)),
        ({"train.steps"}, (12, 3.0), (12, 0.0)),
        ({"train.epochs"}, (500, 2.5), (0, 2.5)),
        ({"train.steps", "train.epochs"}, (0, 3.0), (0, 3.0)),
        ({"train.steps"}, (0, 3.0), (0, 3.0)),
        ({"seed"}, (500, 0.0), (500, 0.0)),
    ],
)
def test_the_length_on_the_command_line_wins(given, before, after):
    config = build(FIELDS, dict(zip(("train.steps", "train.epochs"), before)))
    resolve_length(config, given)
    assert (config.train.steps, config.train.epochs) == after


def test_both_lengths_on_the_command_line_are_refused():
    config = build(FIELDS, {"train.steps": 12, "train.epochs": 3.0})
    with pytest.raises(UserError, match="config.train.steps=12 and config.train.epochs=3.0 both give"):
        resolve_length(config, {"train.steps", "train.epochs"})


# what a preset sets and the command line leaves without effect

CHAIN = {
    "kind": Field("a", "Kind.", one_of("a", "b", "c")),
    "part": Field("x", "Of b and c.", one_of("x", "y"), when=("kind", ("b", "c"))),
    "size": Field(1, "Of y.", when=("part", ("y",))),
    "other": Field(0, "Of b.", when=("kind", ("b",))),
}
FULL = {"kind": "b", "part": "y", "size": 7, "other": 4}


@pytest.mark.parametrize(
    "given, dropped",
    [
        ({}, {}),
        ({"kind": "c"}, {"other": "kind=c"}),
        ({"part": "x"}, {"size": "part=x"}),
        ({"kind": "a"}, {"part": "kind=a", "other": "kind=a", "size": "part=x"}),  # size falls with part
        ({"kind": "a", "other": 0}, {"part": "kind=a", "size": "part=x"}),
    ],
)
def test_a_presets_setting_that_lost_its_effect_is_left_out(given, dropped):
    assert left_out(FULL, given, CHAIN) == dropped
    validate(build(CHAIN, {name: value for name, value in FULL.items() if name not in dropped} | given), CHAIN)


def test_a_setting_that_is_given_without_effect_is_refused():
    given = {"kind": "c", "other": 5}
    assert left_out(FULL, given, CHAIN) == {}
    with pytest.raises(UserError, match="config.other=5 has no effect with kind='c'"):
        validate(build(CHAIN, FULL | given), CHAIN)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_any_optimizer_may_take_the_place_of_the_presets(name):
    command = cli.parse(EXPERIMENT, ["program", "--workdir=run", f"--config.optimizer.name={name}"])
    config = cli.config_of(EXPERIMENT, command)
    validate(config, FIELDS)
    assert config.optimizer.muon_rate == FIELDS["optimizer.muon_rate"].default
    assert cli.left_out(EXPERIMENT, command) == [
        f"the preset's optimizer.muon_rate=0.04 has no effect with optimizer.name={name} and is ignored"
    ]
