"""The selection of table rows for a default run."""

import pytest
import selection

pytest_plugins = ["pytester"]

TABLES = """
import pytest

ROWS = pytest.mark.parametrize("row", range(7))
pytestmark = pytest.mark.one_in(3)

@ROWS
def test_first(row): pass

@ROWS
@pytest.mark.parametrize("a, b", [(1, 1), (2, 2), (3, 3)])
def test_pairs(row, a, b): pass

@ROWS
def test_third(row): pass

@pytest.mark.parametrize("few", [5, 6])
def test_few(few): pass

@pytest.mark.one_in(1)
@ROWS
def test_whole(row): pass

def test_alone(): pass
"""


@pytest.fixture
def taken(pytester):
    """The cases of a test, by their ids, that a default run takes."""
    pytester.makeini("[pytest]\nmarkers =\n    one_in: n\n    slow: s\n")
    items, _ = pytester.inline_genitems(pytester.makepyfile(TABLES))
    selection.mark(items)
    names = [item.name for item in items if not item.get_closest_marker("slow")]
    return lambda test: [name.partition("[")[2].rstrip("]") for name in names if name.partition("[")[0] == f"test_{test}"]


def test_a_third_of_each_test_in_turn(taken):
    assert taken("first") == ["0", "3", "6"] and taken("third") == ["1", "4"]
    assert set(taken("pairs")) == {f"{(2 - row) % 3 + 1}-{(2 - row) % 3 + 1}-{row}" for row in range(7)}
    assert len(taken("whole")) == 7 and taken("alone") == [""]


def test_a_row_that_no_other_test_takes_is_taken(taken):
    assert taken("few") == ["5", "6"]
