"""What docs/comparison.md says of other libraries, read from the sources that are installed, without importing them."""

import ast
import importlib.util
import pathlib
import re

import pytest

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "comparison.md").read_text(encoding="utf-8")
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
