"""Configs declared as a table: each field's default, a one-line description, and its allowed values.

An experiment lists its fields once; from that one table come the locked ConfigDict, the checks, the text of `--help`
and the comparison with the config of an existing run.
"""

import decimal
import difflib
import json
import math
import os
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

import ml_collections
import numpy as np
from absl import flags

from seqjax.errors import UserError

if TYPE_CHECKING:  # ml_collections gives every value of a config one type, the union of all that there can be
    ConfigDict: TypeAlias = Any
else:
    ConfigDict = ml_collections.ConfigDict

Condition = tuple[str, tuple[Any, ...]]  # a field, and values of it


class Check(NamedTuple):
    """The allowed values of a field."""

    text: str  # read after "must be"
    holds: Callable[[Any], bool]


def one_of(*choices) -> Check:
    """The value is one of the choices.

    Example:
      >>> one_of("char", "word").text
      'one of char, word'
    """
    return Check("one of " + ", ".join(str(c) for c in choices), lambda v: v in choices)


def at_least(low) -> Check:
    """The value is a finite number of at least `low`.

    Example:
      >>> [at_least(1).holds(value) for value in (0, 1, float("nan"), float("inf"))]
      [False, True, False, False]
    """
    return Check(f"at least {low}", lambda v: low <= v < math.inf and _single(low) <= _single(v) < math.inf)


def above(low) -> Check:
    """The value is a finite number greater than `low`.

    Example:
      >>> above(0).holds(0.0), above(0).holds(1e-3)
      (False, True)
    """
    return Check(f"greater than {low}", lambda v: low < v < math.inf and _single(low) < _single(v) < math.inf)


def within(low, high) -> Check:
    """The value lies in [low, high).

    Example:
      >>> [within(0.0, 1.0).holds(value) for value in (0.0, 0.5, 1.0)]
      [True, True, False]
    """
    return Check(f"at least {low} and below {high}", lambda v: low <= v < high and _single(low) <= _single(v) < _single(high))


def _single(value: float) -> float:
    """A float as training sees it: rounded to float32, with subnormals as 0; an int is unchanged."""
    if not isinstance(value, float):
        return value
    with np.errstate(over="ignore", under="ignore"):
        single = np.float32(value)
    return 0.0 if abs(single) < np.finfo(np.float32).tiny else float(single)


ANYTHING = Check("anything", lambda v: True)


class WholeNumber(flags.IntegerParser):
    """Reads an integer field from the command line, also as 1e3 or 2.5e3.

    Example:
      >>> [WholeNumber().convert(text) for text in ("1000", "1e3", "2.5e3")]
      [1000, 1000, 2500]
      >>> WholeNumber().convert("1.5")
      Traceback (most recent call last):
      ...
      ValueError: it must be a whole number, such as 1500 or 1.5e3
    """

    def convert(self, argument: int | str) -> int:
        """Parses the integer.

        Raises:
          ValueError: the text is not a whole number.
        """
        try:
            return super().convert(argument)
        except ValueError:
            refusal = ValueError("it must be a whole number, such as 1500 or 1.5e3")
        try:
            number = decimal.Decimal(argument)
        except decimal.InvalidOperation:
            raise refusal from None
        if not number.is_finite() or number.adjusted() > 30 or number != number.to_integral_value():
            raise refusal
        return int(number)


class Field(NamedTuple):
    """One setting of an experiment."""

    default: Any
    text: str  # one line, shown by --help
    check: Check = ANYTHING
    # May change from one session of a run to the next, because what is learned does not depend on it. A function decides
    # by the other settings, which it gets as dotted name -> value; ask is_free().
    free: bool | Callable[[Mapping[str, Any]], bool] = False
    when: Condition | None = None  # (field, values): has an effect only where the field has such a value


def build(fields: Mapping[str, Field], changes: Mapping[str, Any] | None = None) -> ConfigDict:
    """Makes the locked ConfigDict of a table of fields.

    Args:
      fields: dotted name to Field, such as `{"model.hidden_size": Field(256, "Hidden units.", at_least(1))}`.
      changes: dotted name -> value, where a preset differs from the defaults.

    Returns:
      The nested config; names that are not in the table cannot be added to it.

    Raises:
      UserError: `changes` has a name that is not in the table.

    Example:
      >>> fields = {"model.hidden_size": Field(256, "Hidden units.", at_least(1))}
      >>> build(fields, {"model.hidden_size": 32}).model.hidden_size
      32
    """
    values = {name: field.default for name, field in fields.items()}
    for name, value in (changes or {}).items():
        if name not in values:
            raise UserError(unknown_field(name, fields))
        values[name] = value
    return nest(values).lock()


def nest(values: Mapping[str, Any]) -> ConfigDict:
    """Makes a nested config from dotted names.

    Example:
      >>> nest({"model.hidden_size": 32}).model.hidden_size
      32
    """
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *groups, last = name.split(".")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return ml_collections.ConfigDict(nested)


def flatten(config: Mapping[str, Any] | ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Flattens a nested config to dotted names, as in the table.

    Example:
      >>> flatten({"seed": 0, "model": {"hidden_size": 32}})
      {'seed': 0, 'model.hidden_size': 32}
    """
    flat = {}
    for name, value in config.items():
        if isinstance(value, (Mapping, ml_collections.ConfigDict)):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def unknown_field(name: str, fields: Mapping[str, Field]) -> str:
    """The message that a field is unknown, with the nearest known one.

    Example:
      >>> unknown_field("model.hiden_size", {"model.hidden_size": Field(256, "Hidden units.")})
      'there is no config field config.model.hiden_size; did you mean config.model.hidden_size?'
    """
    last, by_last = name.split(".")[-1], {known.split(".")[-1]: known for known in fields}
    namesakes = [known for known in fields if known.split(".")[-1] == last]  # right except for the group
    near = (
        difflib.get_close_matches(name, namesakes, n=1, cutoff=0.0)
        or difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
        or [by_last[match] for match in difflib.get_close_matches(last, by_last, n=1, cutoff=0.5)]
    )
    advice = f"did you mean config.{near[0]}?" if near else "--help lists all fields"
    return f"there is no config field config.{name}; {advice}"


def validate(config: Mapping[str, Any], fields: Mapping[str, Field]) -> None:
    """Refuses a config with a field missing or unknown, and a value of the wrong type, out of range or without effect.

    Raises:
      UserError: one line that names the field, its value and what is allowed.

    Example:
      >>> validate({"seed": -1}, {"seed": Field(0, "Seed.", at_least(0))})
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: config.seed=-1 is out of range: it must be at least 0
    """
    flat = flatten(config)
    for name in sorted(flat.keys() - fields.keys()):
        raise UserError(unknown_field(name, fields))
    for name in sorted(fields.keys() - flat.keys()):
        raise UserError(f"the config lacks the field {name}: {fields[name].text}")
    for name, field in fields.items():
        value, wanted = flat[name], type(field.default)
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise UserError(f"config.{name}={value!r} must be of type {wanted.__name__}: {field.text}")
        if not field.check.holds(_as_float(value) if wanted is float else value):
            raise UserError(f"config.{name}={value!r} is out of range: it must be {field.check.text}{_rounded(value)}")
    for name in _without_effect(flat, fields):
        other, values = cast(Condition, fields[name].when)
        raise UserError(
            f"config.{name}={flat[name]!r} has no effect with {other}={flat[other]!r}; leave it at {fields[name].default!r}, "
            f"or set config.{other}={' or '.join(map(str, values))}"
        )


def _without_effect(flat: Mapping[str, Any], fields: Mapping[str, Field]) -> list[str]:
    """Fields that differ from their default although another field's value makes them ineffective."""
    conditional = {name: (field.default, *field.when) for name, field in fields.items() if field.when}
    return [name for name, (usual, other, values) in conditional.items() if flat[name] != usual and flat[other] not in values]


def left_out(preset: Mapping[str, Any], given: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, str]:
    """The preset's settings that the given ones make ineffective, each with the field and value responsible.

    A user who asks for another optimiser does not mean to keep the rate of the preset's; a setting without effect that is
    given itself is left in, for `validate` to refuse.

    Example:
      >>> fields = {"name": Field("adam", "Optimiser."), "momentum": Field(0.0, "Of sgd.", when=("name", ("sgd",)))}
      >>> left_out({"name": "sgd", "momentum": 0.9}, {"name": "adam"}, fields)
      {'momentum': 'name=adam'}
    """
    found: dict[str, str] = {}
    while True:  # one that is left out may leave another without effect
        flat = complete({name: value for name, value in preset.items() if name not in found} | dict(given), fields)
        more = [name for name in _without_effect(flat, fields) if name not in given]
        if not more:
            return found
        others = {name: cast(Condition, fields[name].when)[0] for name in more}
        found |= {name: f"{other}={flat[other]}" for name, other in others.items()}


def _as_float(value: float) -> float:
    """Converts to float; a whole number too large for a float becomes infinite."""
    return float(value) if abs(value) <= np.finfo(float).max else math.inf


def _rounded(value: Any) -> str:
    """Says how float32 rounds a number, if that may be why it is refused."""
    if type(value) is not float or not math.isfinite(value):
        return ""
    single = _single(value)
    told = single != value and (not math.isfinite(single) or single == int(single))
    limits = {math.inf: ", the largest number being 3.4e38", 0.0: ", the smallest number above 0 being 1.2e-38"}
    return f"; in float32 this is {single:g}{limits.get(abs(single), '')}" if told else ""


def is_free(name: str, fields: Mapping[str, Field], config: Mapping[str, Any]) -> bool:
    """Whether a field may change from one session of a run to the next under these settings.

    Args:
      name: of the field; a field that is not in the table is not free.
      fields: the table.
      config: nested or flat; what it lacks counts as the default.

    Example:
      >>> fields = {
      ...     "stop_after": Field(0, "Stop after so many.", free=True),
      ...     "eval_every": Field(500, "Steps between evaluations.", free=lambda c: c["stop_after"] == 0),
      ... }
      >>> is_free("eval_every", fields, {}), is_free("eval_every", fields, {"stop_after": 3})
      (True, False)
    """
    if name not in fields:
        return False
    free = fields[name].free
    return free(complete(config, fields)) if callable(free) else free


def complete(config: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    """Dotted name -> value of a saved config, with the defaults of the fields that were added since it was saved.

    A new field's default must therefore be what was done before there was the field.

    Example:
      >>> complete({"seed": 3}, {"seed": Field(0, "Seed."), "train.accumulate": Field(1, "Parts of a batch.")})
      {'seed': 3, 'train.accumulate': 1}
    """
    flat = flatten(config)
    return flat | {name: field.default for name, field in fields.items() if name not in flat}


def resolve_length(config: ConfigDict, given: Collection[str]) -> None:
    """Lets a run length from the command line override the preset's, by setting the other of the two fields to 0.

    Args:
      config: with `train.steps` and `train.epochs`, of which one says how long the run is and the other is 0; is changed.
      given: dotted names of the fields that the command line gives.

    Raises:
      UserError: it gives both.

    Example:
      >>> config = nest({"train.steps": 1000, "train.epochs": 20.0})
      >>> resolve_length(config, {"train.steps"})
      >>> config.train.steps, config.train.epochs
      (1000, 0.0)
    """
    train = config.train
    steps, epochs = ("train.steps" in given and train.steps != 0), ("train.epochs" in given and train.epochs != 0)
    if steps and epochs:
        raise UserError(
            f"config.train.steps={train.steps} and config.train.epochs={train.epochs} both give the run's length; leave one out"
        )
    if steps:
        train.epochs = 0.0
    if epochs:
        train.steps = 0


def describe(fields: Mapping[str, Field], preset: Mapping[str, Any]) -> str:
    """The table as text for --help: each field with its value in the default preset, its description and its allowed values.

    Example:
      >>> print(describe({"seed": Field(0, "Seed.", at_least(0))}, {"seed": 7}))
        --config.seed=7
            Seed. (at least 0)
    """
    lines = []
    for name, field in fields.items():
        limits = "" if field.check is ANYTHING else f" ({field.check.text})"
        lines.append(f"  --config.{name}={preset.get(name, field.default)}\n      {field.text}{limits}")
    return "\n".join(lines)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], fields: Mapping[str, Field] | None = None) -> list[str]:
    """Lists the fields in which two configs differ, each with both values.

    Args:
      old, new: nested or flat.
      fields: leaves out the fields that are free in both configs; and a field that `old` lacks, because it was saved before
        there was the field, counts as its default.

    Example:
      >>> differences({"model": {"hidden_size": 32}}, {"model": {"hidden_size": 64}})
      ['model.hidden_size: 32 there, 64 here']
    """
    fields = fields or {}
    old, new = complete(old, fields), flatten(new)
    missing = "nothing"
    return [
        f"{name}: {old.get(name, missing)} there, {new.get(name, missing)} here"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, missing) != new.get(name, missing) and not (is_free(name, fields, old) and is_free(name, fields, new))
    ]


def make_absolute(config: ConfigDict, *names: str) -> None:
    """Makes the paths in these fields absolute, so that a run can be found and evaluated from any folder; "" stays.

    Example:
      >>> config = build({"data.path": Field("~/a.txt", "File."), "data.test_path": Field("", "File.")})
      >>> make_absolute(config, "data.path", "data.test_path")
      >>> config.data.path.startswith("/"), config.data.test_path
      (True, '')
    """
    flat = flatten(config)
    paths = {name: os.path.abspath(os.path.expanduser(flat[name])) for name in names if flat[name]}
    config.update_from_flattened_dict(paths)


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The config as plain dicts of JSON values.

    Example:
      >>> to_json(build({"model.hidden_size": Field(256, "Hidden units.")}))
      {'model': {'hidden_size': 256}}
    """
    return json.loads(json.dumps(config.to_dict()))
