"""Configs declared as one table: each field's default, what it means in one line, and what values it may take.

An experiment lists its fields once; from that one table come the locked ConfigDict, the checks, the text of `--help`
and the comparison with the config of a run that stands in the work folder already.
"""

import difflib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_collections

from seqjax.errors import UserError


class Check(NamedTuple):
    """What values a field may take."""

    text: str  # read after "must be"
    holds: Callable[[Any], bool]


def one_of(*choices) -> Check:
    """The value is one of the choices."""
    return Check("one of " + ", ".join(str(c) for c in choices), lambda v: v in choices)


def at_least(low) -> Check:
    """The value is a finite number of at least `low`."""
    return Check(f"at least {low}", lambda v: math.isfinite(v) and v >= low)


def above(low) -> Check:
    """The value is a finite number greater than `low`."""
    return Check(f"greater than {low}", lambda v: math.isfinite(v) and v > low)


def within(low, high) -> Check:
    """The value lies in [low, high)."""
    return Check(f"at least {low} and below {high}", lambda v: low <= v < high)


ANYTHING = Check("anything", lambda v: True)


class Field(NamedTuple):
    """One setting of an experiment."""

    default: Any
    text: str  # one line, shown by --help
    check: Check = ANYTHING


def build(fields: Mapping[str, Field], changes: Mapping[str, Any] | None = None) -> ml_collections.ConfigDict:
    """Makes the locked ConfigDict of a table of fields.

    Args:
      fields: dotted name to Field, such as `{"model.hidden_size": Field(256, "Hidden units.", at_least(1))}`.
      changes: dotted name to value, what a preset sets differently from the defaults.

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
    return ml_collections.ConfigDict(_nest(values)).lock()


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *groups, last = name.split(".")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return nested


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Gives a nested config as dotted names, in the table's own form."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, (Mapping, ml_collections.ConfigDict)):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def unknown_field(name: str, fields: Mapping[str, Field]) -> str:
    """Says that a field is unknown and which known one is nearest."""
    by_last = {known.split(".")[-1]: known for known in fields}
    near = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
    near = near or [by_last[last] for last in difflib.get_close_matches(name.split(".")[-1], by_last, n=1, cutoff=0.5)]
    advice = f"did you mean config.{near[0]}?" if near else "--help lists all fields"
    return f"there is no config field config.{name}; {advice}"


def validate(config: Mapping[str, Any], fields: Mapping[str, Field]) -> None:
    """Refuses a config with a field missing or unknown, a value of the wrong type or one out of range.

    Raises:
      UserError: one line that names the field, its value and what is allowed.
    """
    flat = flatten(config)
    for name in flat.keys() - fields.keys():
        raise UserError(unknown_field(name, fields))
    for name in fields.keys() - flat.keys():
        raise UserError(f"the config lacks the field {name}: {fields[name].text}")
    for name, field in fields.items():
        value = flat[name]
        wanted = type(field.default)
        if wanted is float and type(value) is int:
            continue_with = float(value)
        elif type(value) is not wanted:
            raise UserError(f"config.{name}={value!r} must be of type {wanted.__name__}: {field.text}")
        else:
            continue_with = value
        if not field.check.holds(continue_with):
            raise UserError(f"config.{name}={value!r} is out of range: it must be {field.check.text}")


def describe(fields: Mapping[str, Field]) -> str:
    """The table as text for --help: a line for each field with its default and what it means."""
    lines = []
    for name, field in fields.items():
        limits = "" if field.check is ANYTHING else f" ({field.check.text})"
        lines.append(f"  --config.{name}={field.default}\n      {field.text}{limits}")
    return "\n".join(lines)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Names the fields in which two configs differ, each with both values.

    Example:
      >>> differences({"model": {"hidden_size": 32}}, {"model": {"hidden_size": 64}})
      ['model.hidden_size: 32 there, 64 here']
    """
    old, new = flatten(old), flatten(new)
    missing = "nothing"
    names = sorted(old.keys() | new.keys())
    return [
        f"{name}: {old.get(name, missing)} there, {new.get(name, missing)} here"
        for name in names
        if old.get(name, missing) != new.get(name, missing)
    ]


def to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as plain dicts of JSON values."""
    return json.loads(json.dumps(config.to_dict()))
