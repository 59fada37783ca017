"""The cases of the tables in a default run: one in a few per test, in turn; the others are slow.

`@pytest.mark.one_in(3)`, on a test or as a file's `pytestmark`, says how many. Of a test over several tables those cases are
taken whose places in the tables add up to a multiple of 3, as in a Latin square: each row of one meets several of the other.
Each test of a file begins one place further on, so that together they take every row of a table that they share; a row
that no test of the file would take is taken by the first that has it.
"""

import collections

import pytest


def mark(items):
    """Marks as slow what a default run leaves out."""
    files = collections.defaultdict(lambda: collections.defaultdict(list))
    for item in items:
        if hasattr(item, "callspec") and item.get_closest_marker("one_in") and not item.get_closest_marker("slow"):
            files[item.module][item.originalname].append(item)
    for module, tests in files.items():
        names = [name for name, thing in vars(module).items() if name.startswith("test") and callable(thing)]
        taken = {item: is_taken for name, cases in tests.items() for item, is_taken in _in_turn(cases, names.index(name))}
        known = {row for item, is_taken in taken.items() if is_taken for row in rows_of(item)}
        for item, is_taken in taken.items():
            if not is_taken and known.issuperset(rows_of(item)):
                item.add_marker(pytest.mark.slow)
            known.update(rows_of(item))


def _in_turn(cases, turn):
    """Each case of a test, and whether it is selected."""
    (n,) = cases[0].get_closest_marker("one_in").args
    places = [(sum(places) + turn) % n for places in zip(*map(_in_order, zip(*map(rows_of, cases))))]
    return [(item, place == min(places)) for item, place in zip(cases, places, strict=True)]


def rows_of(item):
    """The row of each table that a case has; names that are given together are one table."""
    tables = {name: (name,) for name in item.callspec.params}
    for parametrized in item.iter_markers("parametrize"):
        names = parametrized.args[0]
        names = tuple(name.strip() for name in names.split(",")) if isinstance(names, str) else tuple(names)
        tables |= dict.fromkeys(names, names)
    return [tuple((name, id(item.callspec.params[name])) for name in names) for names in dict.fromkeys(tables.values())]


def _in_order(rows):
    """The place of each row among those that differ."""
    places = {row: place for place, row in enumerate(dict.fromkeys(rows))}
    return [places[row] for row in rows]
