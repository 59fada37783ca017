"""The direction of imports, read from the files themselves: upward through the packages, no cycles, nothing heavy."""

import ast
import os
import pathlib
import subprocess
import sys
import tomllib
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Imports run from right to left in this list and never back.
ROOMS = (
    "errors", "_version", "_calls", "_split", "typing", "placement", "_leading", "initializers",
    "cells", "wrappers", "engines", "_checks", "_unroll", "_truncated",  # the core, which is `import seqjax`
    "nn", "cnn", "models", "text", "data", "training", "decoding", "diagnostics", "interop", "run",
)  # fmt: skip
CORE = ROOMS[: ROOMS.index("_truncated") + 1]
CORE_NEEDS = {"jax", "numpy"}
CONSOLE = ("seqjax.__main__", "seqjax.launch")  # the commands: above all packages; they find experiments by files, never by an import

# Large packages that most runs do not need; where each may be imported, inside a function.
HEAVY = {
    "tensorflow": (),
    "tensorflow_datasets": ("seqjax.data.readers.tfds",),
    "torch": ("seqjax.interop",),
    "keras": ("seqjax.interop",),
    "haiku": ("seqjax.interop",),
    "equinox": ("seqjax.interop",),
    "PIL": ("seqjax.data.transforms.pixels",),
    "sklearn": ("seqjax.data.readers.digits", "seqjax.run.baselines"),
    "sacrebleu": ("seqjax.training.metrics",),
    "seqeval": ("seqjax.training.metrics",),
    "sentencepiece": ("seqjax.text.subword",),
    "babel": ("seqjax.data.readers.dates",),
    "mido": ("seqjax.data.readers.midi",),
    "av": ("seqjax.data.readers.videos",),
    "music21": ("seqjax.data.readers.bach",),
    "symusic": (),
    "soundfile": ("seqjax.data.readers.sounds",),
    "soxr": ("seqjax.data.readers.sounds",),
    "jiwer": ("seqjax.training.metrics.speech",),
    "librosa": (),
    "pyarrow": ("seqjax.data.readers.parquet",),
    "pyfaidx": ("seqjax.data.readers.fasta",),
    "logomaker": ("seqjax.diagnostics.dna",),
    "pandas": ("seqjax.diagnostics.dna",),
    "zstandard": ("seqjax.data.readers.opening", "seqjax.run.process"),
}


class Import(NamedTuple):
    """One import statement's target."""

    target: str  # dotted name of a module
    lazy: bool  # inside a function
    line: int


def _files():
    found = sorted((ROOT / "seqjax").rglob("*.py")) + sorted((ROOT / "experiments").rglob("*.py"))
    return {_module_name(path.relative_to(ROOT)): path for path in found}


def _module_name(path):
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


FILES = _files()


def imports(source):
    """The imports of a file, wherever they stand."""
    found = []

    def visit(node, lazy):
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, lazy, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.append(Import(inner if inner in FILES else node.module, lazy, node.lineno))
        for child in ast.iter_child_nodes(node):
            visit(child, lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    visit(ast.parse(source), False)
    return found


def room(module):
    """The place of a module in the list; `import seqjax` itself means the whole core."""
    parts = module.split(".")
    if parts[0] == "experiments" or module in CONSOLE:
        return len(ROOMS)
    return CORE.index("_truncated") if parts == ["seqjax"] else ROOMS.index(parts[1])


def downward(name, source):
    """The imports of a file from a package above its own."""
    wrong = []
    for found in imports(source):
        top = found.target.split(".")[0]
        if top in ("tests", "benchmarks"):
            wrong.append(f"line {found.line}: {found.target}")
        if top not in ("seqjax", "experiments"):
            continue
        own, other = room(name), room(found.target)
        core_from_within = found.target == "seqjax" and own <= other
        if name != "seqjax" and (other > own or core_from_within):
            wrong.append(f"line {found.line}: {found.target}")
        if name == "seqjax" and other > own:
            wrong.append(f"line {found.line}: {found.target} is not the core")
    return wrong


def outside(source, *, lazy):
    """Top-level names of the packages that a file imports besides the standard library and this project."""
    tops = {found.target.split(".")[0] for found in imports(source) if found.lazy == lazy}
    return tops - set(sys.stdlib_module_names) - {"seqjax", "experiments"}


def test_every_room_has_its_place():
    assert {name.split(".")[1] for name in FILES if name.startswith("seqjax.") and name not in CONSOLE} <= set(ROOMS)
    assert len(FILES) > 40 and {"seqjax", "seqjax._unroll", "experiments.language_model"} <= FILES.keys()


def test_imports_run_upward():
    faults = [f"{name}, {fault}" for name, path in FILES.items() for fault in downward(name, path.read_text("utf-8"))]
    assert not faults, "\n".join(faults)


def test_nothing_in_the_package_imports_experiments():
    """They are installed under another name, and found by the console at run time."""
    for name, path in FILES.items():
        if name.startswith("seqjax"):
            tops = {found.target.split(".")[0] for found in imports(path.read_text("utf-8"))}
            assert not tops & {"experiments", "seqjax_experiments"}, name


@pytest.mark.parametrize(
    "name, source",
    [
        ("seqjax.cells._lstm", "from seqjax import _unroll"),
        ("seqjax.cells._lstm", "import seqjax.engines.scan"),
        ("seqjax.cells._lstm", "import seqjax"),
        ("seqjax._unroll", "def f():\n    from seqjax.training.train_step import truncate"),
        ("seqjax.typing", "try:\n    from seqjax.cells import lstm\nexcept ImportError:\n    pass"),
        ("seqjax.text.ngram", "from seqjax.data import Windows"),
        ("seqjax.training.loop", "from seqjax import decoding"),
        ("seqjax.training.loop", "from experiments.language_model import main"),
        ("seqjax.data.pipeline.windows", "from tests.cells import table"),
        ("seqjax", "from seqjax.models import LanguageModel"),
    ],
)
def test_an_import_that_runs_back_is_found(name, source):
    assert len(downward(name, source)) == 1


def test_there_are_no_circles():
    graph = {name: {found.target for found in imports(path.read_text("utf-8"))} & FILES.keys() for name, path in FILES.items()}
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for target in sorted(graph[name]):
            visit(target)
        done.add(path.pop())

    for name in graph:
        visit(name)
    assert done == graph.keys()


def misplaced(name, source, needed):
    """What is wrong with a file's imports of packages from outside; `needed` are those that are always installed."""
    at_import, inside = outside(source, lazy=False), outside(source, lazy=True)
    wrong = [f"{package} is optional: import it where it is used, inside a function" for package in at_import - needed]
    if room(name) < len(CORE):
        wrong += [f"{package}: the core needs jax alone" for package in (at_import | inside) - CORE_NEEDS]
    heavy = [package for package in HEAVY.keys() & inside if not name.startswith(HEAVY[package])]
    return [f"{name}: {fault}" for fault in sorted(wrong) + [f"{package} does not belong here" for package in sorted(heavy)]]


def test_packages_from_outside():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = {line.split(">")[0].strip() for line in project["dependencies"]}
    needed = {{"absl-py": "absl", "orbax-checkpoint": "orbax"}.get(package, package) for package in needed}
    faults = [fault for name, path in FILES.items() for fault in misplaced(name, path.read_text("utf-8"), needed)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "name, source",
    [
        ("seqjax.run.session", "import torch"),
        ("seqjax.cells._lstm", "import flax"),
        ("seqjax.cells._lstm", "def f():\n    import optax"),
        ("seqjax.run.session", "def f():\n    import torch"),
        ("seqjax.data", "def f():\n    import tensorflow"),
    ],
)
def test_a_misplaced_package_is_found(name, source):
    assert len(misplaced(name, source, {"jax", "flax", "optax"})) == 1


def test_an_import_inside_a_function_is_told_from_one_outside():
    source = "import jax\nclass A:\n  import torch\n  def f(self):\n    import flax.linen\nif jax:\n  import rich.progress"
    assert outside(source, lazy=False) == {"jax", "torch", "rich"} and outside(source, lazy=True) == {"flax"}


IMPORT_EVERYTHING = """
import importlib, pathlib, sys, tempfile
import seqjax
light = {"flax", "optax", "orbax", "tensorflow", "torch", "tensorflow_datasets", "matplotlib"} & sys.modules.keys()
assert not light, f"import seqjax imports {light}"
from absl import flags
for name in sys.argv[1:]:
    known = set(flags.FLAGS)
    importlib.import_module(name)
    if name.startswith("experiments."):  # each is a program of its own, with flags of the same names
        assert set(flags.FLAGS) == known, f"import {name} defines flags"
from seqjax.data import load_corpus
assert load_corpus("embedded", name="hello").parts["train"]
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "text.txt"
    path.write_text("a line of text\\n" * 100)
    assert load_corpus("file", path=str(path)).parts["train"]
for name in sys.argv[1:]:
    parent, _, last = name.rpartition(".")
    found = getattr(sys.modules.get(parent), last, sys.modules[name])
    assert found is sys.modules[name], f"{name} is hidden by {found!r} of the same name"
heavy = {"tensorflow", "torch", "tensorflow_datasets", "keras", "haiku", "equinox", "matplotlib", "sklearn", "sacrebleu", "seqeval",
         "sentencepiece", "babel", "mido", "music21", "soundfile", "soxr", "jiwer"} & sys.modules.keys()
assert not heavy, f"imported by the way: {heavy}"
"""


def test_importing_everything_imports_nothing_heavy():
    """The same for what the packages from outside import in their turn, which the files cannot tell."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-c",
        IMPORT_EVERYTHING,
        *(name for name in FILES if not name.startswith("seqjax.interop")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr


FIND_PACKAGES = """
import sys
import seqjax
names = sys.argv[1:]
assert set(names) <= set(dir(seqjax)) and "lstm" in dir(seqjax)
assert not [name for name in names if f"seqjax.{name}" in sys.modules], "imported by import seqjax"
assert not {"flax", "optax", "orbax"} & sys.modules.keys()
try:
    seqjax.lstn
except AttributeError as error:
    assert str(error) == "module 'seqjax' has no attribute 'lstn'", error
else:
    raise AssertionError("seqjax.lstn was found")
for name in names:
    assert getattr(seqjax, name) is sys.modules[f"seqjax.{name}"]
assert "flax" in sys.modules and seqjax.nn.Attention and seqjax.text.NGramModel
assert not {"torch", "keras", "tensorflow"} & sys.modules.keys()
"""


def test_packages_are_found_after_import_seqjax():
    """Every package beside the core, and none of them is imported before it is asked for."""
    names = [room for room in ROOMS if room not in CORE]
    assert all((ROOT / "seqjax" / name / "__init__.py").exists() for name in names)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FIND_PACKAGES, *names]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr


def test_no_two_test_files_share_a_name():
    """pytest imports a test file by its bare name: a second one of that name ends the whole run before its first test."""
    seen = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        seen.setdefault(path.name, []).append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in seen.items() if len(paths) > 1} == {}
