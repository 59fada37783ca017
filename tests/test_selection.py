"""What a default run takes of the tables."""

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


def test_every_row_of_every_table_is_taken_by_some_test(request):
    assert request.config.stash[selection.LEFT_OUT] == []


@pytest.fixture
def marked(pytester):
    """(what is taken, rows left out) of a file of tests."""

    def run(source):
        pytester.makeini("[pytest]\nmarkers =\n    one_in: n\n    slow: s\n")
        items, _ = pytester.inline_genitems(pytester.makepyfile(source))
        config = pytester.parseconfig()
        selection.mark(config, items)
        return [item.name for item in items if not item.get_closest_marker("slow")], config.stash[selection.LEFT_OUT]

    return run


def test_a_third_of_each_test_in_turn(marked):
    taken, left_out = marked(TABLES)
    assert [name for name in taken if "first" in name] == ["test_first[0]", "test_first[3]", "test_first[6]"]
    assert [name for name in taken if "third" in name] == ["test_third[1]", "test_third[4]"]
    pairs = {name[11:-1] for name in taken if "pairs" in name}
    assert pairs == {f"{(2 - row) % 3 + 1}-{(2 - row) % 3 + 1}-{row}" for row in range(7)}
    assert len([name for name in taken if "few" in name]) == 1 and len([name for name in taken if "whole" in name]) == 7
    assert "test_alone" in taken
    assert [row for _, table, row in left_out if table == "row"] == [] and len(left_out) == 1


def test_a_row_that_no_test_takes_is_told(marked):
    source = "import pytest\n@pytest.mark.one_in(2)\n@pytest.mark.parametrize('row', [7, 8])\ndef test_rows(row): pass\n"
    taken, left_out = marked(source)
    assert taken == ["test_rows[7]"] and [row[1:] for row in left_out] == [("row", 8)]
