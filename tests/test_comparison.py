"""What docs/comparison.md says of other libraries, read from the sources that are installed, without importing them.

Each cell of its tables has a source in tests/comparison_sources.py: a test, or a definition in an installed library. The tables of speed
are drawn from benchmarks/results by benchmarks.tables. What is said of libraries that are not installed here has a link.
"""

import ast
import importlib.util
import pathlib
import re

import comparison_sources
import pytest

import seqjax.cells

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
SOURCES = {
    "torch": ("torch", "nn/modules/rnn.py"),
    "keras": ("keras", "src/layers/rnn"),
    "linen": ("flax", "linen/recurrent.py"),
    "nnx": ("flax", "nnx/nn/recurrent.py"),
    "haiku": ("haiku", "_src/recurrent.py"),
    "equinox": ("equinox", "nn/_rnn.py"),
}
CELLS = {
    "torch": {"RNN", "LSTM", "GRU"},
    "keras": {"SimpleRNN", "LSTM", "GRU", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"},
    "linen": {"SimpleCell", "LSTMCell", "OptimizedLSTMCell", "GRUCell", "MGUCell", "ConvLSTMCell"},
    "nnx": {"SimpleCell", "LSTMCell", "OptimizedLSTMCell", "GRUCell"},
    "haiku": {"VanillaRNN", "LSTM", "GRU", "Conv1DLSTM", "Conv2DLSTM", "Conv3DLSTM"},
    "equinox": {"LSTMCell", "GRUCell"},
}
# Names that are no cells: what runs, stacks or wraps them, and bases.
AROUND = {
    "torch": {"RNNBase", "RNNCellBase", "RNNCell", "LSTMCell", "GRUCell"},
    "keras": {"RNN", "Bidirectional", "StackedRNNCells", "TimeDistributed", "DropoutRNNCell"}
    | {f"{name}Cell" for name in ("SimpleRNN", "LSTM", "GRU", "ConvLSTM")}
    | {"ConvLSTM"},
    "linen": {"RNN", "RNNBase", "RNNCellBase", "Bidirectional", "DenseParams"},
    "nnx": {"RNN", "RNNBase", "RNNCellBase", "Bidirectional"},
    "haiku": {"RNNCore", "LSTMState", "ConvNDLSTM", "IdentityCore", "ResetCore", "DeepRNN", "hk"},
    "equinox": set(),
}
ARGUMENTS = {  # what the tables name, and what they say is not there
    "torch": ({"num_layers", "bidirectional", "proj_size", "batch_first", "dropout"}, {"resets", "peephole"}),
    "keras": ({"go_backwards", "recurrent_dropout", "mask", "reset_after"}, {"seq_lengths", "time_major", "peephole"}),
    "linen": ({"seq_lengths", "reverse", "time_major"}, {"resets", "peephole", "mask"}),
    "nnx": ({"seq_lengths", "reverse", "time_major"}, {"resets", "peephole"}),
    "haiku": ({"reverse", "time_major", "return_all_states", "should_reset"}, {"seq_lengths", "lengths", "mask"}),
    "equinox": ({"use_bias"}, {"lengths", "reverse", "mask"}),
}


def trees(library):
    """The parsed files of a library's recurrent layers."""
    package, place = SOURCES[library]
    found = importlib.util.find_spec(package)
    if found is None:
        pytest.skip(f"{package} is not installed")
    path = pathlib.Path(found.submodule_search_locations[0], *place.split("/"))
    files = [path] if path.suffix else [file for file in sorted(path.glob("*.py")) if "test" not in file.name]
    return [ast.parse(file.read_text(encoding="utf-8")) for file in files]


@pytest.mark.parametrize("library", SOURCES)
def test_the_cells_are_those_that_there_are(library):
    classes = {node.name for tree in trees(library) for node in tree.body if isinstance(node, ast.ClassDef)}
    assert {name for name in classes - AROUND[library] if not name.startswith("_")} == CELLS[library]


@pytest.mark.parametrize("library", SOURCES)
def test_the_arguments_are_those_that_are_named(library):
    nodes = [node for tree in trees(library) for node in ast.walk(tree)]
    names = {node.arg for node in nodes if isinstance(node, ast.arg | ast.keyword)}
    names |= {node.target.id for node in nodes if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    names |= {node.id for node in nodes if isinstance(node, ast.Name)}
    there, absent = ARGUMENTS[library]
    assert there <= names and not absent & names


def test_the_page_names_them():
    cells = PAGE.partition("## Sequences")[0]
    for name in CELLS["linen"] | CELLS["nnx"] | CELLS["equinox"] | {"VanillaRNN", "SimpleRNN"}:
        assert name in cells, name
    for name in ("PackedSequence", "seq_lengths", "go_backwards", "ResetCore", "return_all_states", "StackedRNNCells"):
        assert name in PAGE, name


def test_every_library_of_the_cells_has_a_source():
    rows = re.findall(r"^\| ([\w. ]+) \| .*\]\((?:https:|api/)[^)]*\)\) \|$", PAGE.partition("## Sequences")[0], flags=re.MULTILINE)
    assert rows == ["seqjax", "torch.nn", "Keras 3", "Flax linen", "Flax NNX", "Haiku", "Equinox", "RecurrentLayers.jl", "memorax"]


COLUMNS = {
    "seqjax": "",
    "torch.nn": "torch",
    "Keras 3": "keras",
    "Flax linen": "linen",
    "Flax NNX": "nnx",
    "Haiku": "haiku",
    "Equinox": "equinox",
}


def rows(heading):
    """(labels of the columns, label -> cells) of the table below a heading."""
    lines = re.findall(r"^\|(.*)\|$", PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0], flags=re.MULTILINE)
    head, _, *rest = ([cell.strip() for cell in line.split("|")] for line in lines)
    return head[1:], {first: cells for first, *cells in rest}


CELLS_OF_TABLES = [
    (heading, label, column, text, source)
    for heading, sources in (("Sequences", comparison_sources.SEQUENCES), ("Around a cell", comparison_sources.AROUND))
    for label, cells in rows(heading)[1].items()
    for column, text, source in zip(rows(heading)[0], cells, sources[label], strict=True)
]


def names_of(source):
    """The last name of each place: what a cell may show in code."""
    places = [place for place in re.findall(r"\S+::(\S+)", source)]
    return {name for place in places for name in re.findall(r"\w+", place)}


def defined(tree, path):
    """Whether a module defines NAME or CLASS.METHOD, with (ARGUMENT) or (ARGUMENT=DEFAULT)."""
    path, _, argument = path.rstrip(")").partition("(")
    nodes = [tree]
    for name in path.split("."):
        inside = [child for node in nodes for child in ast.iter_child_nodes(node)]
        inside += [child for node in inside if isinstance(node, ast.If | ast.Try) for child in node.body]
        nodes = [node for node in inside if _called(node) == name]
    if not argument:
        return bool(nodes)
    name, _, default = argument.partition("=")
    for node in nodes:
        place = node.args
        known = [*place.posonlyargs, *place.args]
        defaults = dict(zip(reversed([arg.arg for arg in known]), reversed([ast.unparse(value) for value in place.defaults]), strict=False))
        defaults |= {arg.arg: ast.unparse(value) for arg, value in zip(place.kwonlyargs, place.kw_defaults, strict=True) if value}
        if name in {arg.arg for arg in (*known, *place.kwonlyargs)} and default in ("", defaults.get(name)):
            return True
    return False


def _called(node):
    """The name that a statement defines."""
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return getattr(node, "name", None)


def test_every_cell_has_a_source():
    for heading, sources in ("Sequences", comparison_sources.SEQUENCES), ("Around a cell", comparison_sources.AROUND):
        columns, table = rows(heading)
        assert table.keys() == sources.keys() and set(columns) <= COLUMNS.keys()
    assert len(CELLS_OF_TABLES) == 92 and all(source for *_, source in CELLS_OF_TABLES)
    assert len(comparison_sources.SEQUENCES) * 7 + len(comparison_sources.AROUND) * 6 == 92


@pytest.mark.parametrize("heading, label, column, text, source", CELLS_OF_TABLES, ids=lambda value: str(value)[:40])
def test_a_cell_says_what_its_source_shows(heading, label, column, text, source):
    shown, _, absent = source.partition("not ")
    assert (text in ("-", "by hand")) or shown
    for place in shown.split():
        file, _, path = place.partition("::")
        package = file.partition("/")[0]
        if package in ("tests", "seqjax"):
            assert defined(ast.parse((ROOT / file).read_text(encoding="utf-8")), path), place
            assert package == "seqjax" or path.startswith("test_")
        elif (found := importlib.util.find_spec(package)) is None:
            pytest.skip(f"{package} is not installed")
        else:
            inside = pathlib.Path(found.submodule_search_locations[0], file.partition("/")[2])
            assert defined(ast.parse(inside.read_text(encoding="utf-8")), path), place
    if column == "seqjax":
        assert "tests/" in shown
    in_code = {name for code in re.findall(r"`([^`]+)`", text) for name in [code.split(".")[-1]]}
    assert in_code <= names_of(shown), f"{text}: {shown}"
    if absent:
        there = {name.lower() for name in identifiers(COLUMNS[column])}
        assert not {name for name in there for word in absent.split() if word in name}


def identifiers(library):
    """All that a library's recurrent layers define, take or call, by name."""
    nodes = [node for tree in trees(library) for node in ast.walk(tree)]
    names = {node.arg for node in nodes if isinstance(node, ast.arg | ast.keyword) and node.arg}
    names |= {node.name for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    return names | {node.id for node in nodes if isinstance(node, ast.Name)}


def test_the_cells_of_seqjax_are_all_there():
    (line,) = re.findall(r"^\| seqjax \| (.*) \(\[API\]", PAGE, flags=re.MULTILINE)
    ours = comparison_sources.OURS
    assert [name.strip() for name in re.sub(r"\([^)]*\)", "", line).split(",")] == list(ours)
    assert set(ours.values()) == seqjax.cells.CELLS.keys() - {"irnn"} | {"conv_lstm"}


def test_wrong_claims_are_noticed():
    tree = ast.parse("class A:\n    def f(self, x, y=1, *, z=True): ...\ng = A.f\n")
    assert [defined(tree, path) for path in ("A", "A.f", "A.f(x)", "A.f(y=1)", "A.f(z=True)", "g")] == [True] * 6
    assert [defined(tree, path) for path in ("B", "A.g", "A.f(w)", "A.f(y=2)", "A.f(z=False)", "f")] == [False] * 6
