"""Which cases of the tables a default run takes: of each test one in a few, in turn; the others are slow.

`@pytest.mark.one_in(3)`, on a test or as a file's `pytestmark`, says how many. Of a test over several tables those cases are
taken whose places in the tables add up to a multiple of 3, as in a Latin square: each row of one meets several of the other.
Each test of a file begins one place further on, so that together they take every row of a table that they share;
tests/test_selection.py looks that they do. A test of fewer cases keeps one.
"""

import collections

import pytest

LEFT_OUT = pytest.StashKey[list]()


def mark(config, items):
    """Marks as slow what a default run leaves out, and notes the rows that it would leave out altogether."""
    tests = collections.defaultdict(list)
    for item in items:
        if hasattr(item, "callspec") and item.get_closest_marker("one_in") and not item.get_closest_marker("slow"):
            tests[item.nodeid.partition("[")[0]].append(item)
    for cases in tests.values():
        (n,), turn = cases[0].get_closest_marker("one_in").args, list(tests_of(cases[0].module)).index(cases[0].originalname)
        found = [(sum(places) + turn) % n for places in zip(*map(_in_order, zip(*map(rows_of, cases))))]
        for item, place in zip(cases, found, strict=True):
            if place != min(found):
                item.add_marker(pytest.mark.slow)
    config.stash[LEFT_OUT] = left_out(items)


def rows_of(item):
    """The row of each table that a case has; names that are given together are one table."""
    tables = {name: (name,) for name in item.callspec.params}
    for parametrized in item.iter_markers("parametrize"):
        names = parametrized.args[0]
        names = tuple(name.strip() for name in names.split(",")) if isinstance(names, str) else tuple(names)
        tables |= dict.fromkeys(names, names)
    return [tuple(id(item.callspec.params[name]) for name in names) for names in dict.fromkeys(tables.values())]


def _in_order(rows):
    """The place of each row among those that differ."""
    places = {row: place for place, row in enumerate(dict.fromkeys(rows))}
    return [places[row] for row in rows]


def tests_of(module):
    """The names of a file's tests in their order."""
    return [name for name, thing in vars(module).items() if name.startswith("test") and callable(thing)]


def left_out(items):
    """(file, table, row) of what no test of a file takes by default, for files of which every test is there."""
    found = []
    files = collections.defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function):
            files[item.module].append(item)
    for module, cases in files.items():
        if {item.originalname for item in cases} == set(tests_of(module)):
            tables = [item for item in cases if hasattr(item, "callspec") and item.get_closest_marker("one_in")]
            rows = {(name, id(row)): row for item in tables for name, row in item.callspec.params.items()}
            for item in tables:
                if not item.get_closest_marker("slow"):
                    for name, row in item.callspec.params.items():
                        rows.pop((name, id(row)), None)
            found += [(module.__name__, name, row) for (name, _), row in rows.items()]
    return found
