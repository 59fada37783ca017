"""Types: functions return what their annotations promise; type checkers agree, if installed (extra `types`)."""

import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tomllib
import typing

import jax
import pytest
from cells import table

import seqjax

ROOT = pathlib.Path(__file__).resolve().parents[1]
USERS = pathlib.Path(__file__).with_name("type_checked")
FACTORIES = {
    name: getattr(seqjax, name)
    for module in (seqjax.cells, seqjax.wrappers)
    for name in module.__all__
    if typing.get_origin(getattr(getattr(seqjax, name), "__annotations__", {}).get("return")) is seqjax.Cell
}

# Wrappers whose rows in the table are changed after the call, or that have none.
MORE = [seqjax.bidirectional(seqjax.lstm(4), seqjax.gru(4)), seqjax.layer_norm(seqjax.gru(4)), seqjax.learned_initial_carry(seqjax.lstm(4))]


def promised(cell):
    """The classes of params and carry by the annotation of the function that made a cell; a wrapper may keep those of its cell."""
    held = [value for _, value in cell.made.arguments if isinstance(value, seqjax.Cell)]
    found = typing.get_args(typing.get_type_hints(cell.made.function)["return"])
    inside = dict(zip(("ParamsT", "CarryT"), promised(held[0]) if held and held[0].made else (None, None)))
    return [inside[each.__name__] if isinstance(each, typing.TypeVar) else typing.get_origin(each) or each for each in found]


def everything(cell):
    """A cell and those inside it."""
    return [cell, *(inner for held in cell.inner for inner in everything(held))]


@functools.lru_cache
def made():
    """The cells of the tables, and those inside them, that a call is known of."""
    found = (cell for top in (*MORE, *(row.make() for row in (*table.ROWS, *table.VARIANTS))) for cell in everything(top))
    return list(dict.fromkeys(cell for cell in found if cell.made))


def test_every_public_function_that_makes_cells_says_of_which_kind():
    made = {name for name in (*seqjax.cells.__all__, *seqjax.wrappers.__all__) if name[0].islower()}
    assert made == {*FACTORIES, "dense_cell"}  # dense_cell makes cells of the classes that it is given


@pytest.mark.parametrize("name", sorted(FACTORIES))
def test_the_annotation_names_the_classes_that_there_are(name):
    cells = [cell for cell in made() if cell.made.function is FACTORIES[name]]
    assert cells, f"no row of tests/cells/table.py has {name}"
    for cell in cells[:3]:
        params = cell.init(jax.random.key(0), table.D)
        for found, due in zip((params, cell.initial_carry(params, table.B)), promised(cell), strict=True):
            assert due is None or due is typing.Any or type(found) is due, cell


def test_checkers_see_the_package_and_the_forms_of_unroll():
    assert (ROOT / "seqjax" / "py.typed").is_file()
    forms = [typing.get_type_hints(form)["return"] for form in typing.get_overloads(seqjax.unroll)]
    assert [len(typing.get_args(form)) for form in forms] == [2, 3, 2]  # (carry, ys), with every carry, and either of the two


def test_one_linter_is_configured():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    assert "ruff" in tools and not {"black", "isort", "flake8", "pylint"} & tools.keys()
    assert "flake8" not in (ROOT / "setup.cfg").read_text("utf-8")


def checked(*command):
    """What a type checker, an executable beside Python or on the path, prints."""
    found = shutil.which(command[0], path=f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run([found, *map(str, command[1:])], capture_output=True, text=True, timeout=580)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def by_pyright(config):
    """(file name, line) of each error that pyright finds, and its message."""
    out = json.loads(checked("pyright", "--outputjson", "--pythonpath", sys.executable, "-p", config))
    errors = [found for found in out["generalDiagnostics"] if found["severity"] == "error"]
    return {(pathlib.Path(e["file"]).name, e["range"]["start"]["line"] + 1): e["message"] for e in errors}, out["summary"]


def of_users_by_pyright(folder):
    shutil.copytree(USERS, folder, dirs_exist_ok=True)
    config = {"include": ["*.py"], "extraPaths": [str(ROOT)], "typeCheckingMode": "basic"}
    (folder / "pyrightconfig.json").write_text(json.dumps(config), encoding="utf-8")
    found, summary = by_pyright(folder)
    assert summary["filesAnalyzed"] == 2
    return found


def of_users_by_mypy(folder):
    config = folder / "mypy.ini"
    config.write_text(f"[mypy]\nmypy_path = {ROOT}\nfollow_imports = silent\nignore_missing_imports = True\n", encoding="utf-8")
    out = checked(
        "mypy", "--config-file", config, "--python-executable", sys.executable, "--cache-dir", folder / "cache", "--output=json",
        *sorted(USERS.glob("*.py")),
    )  # fmt: skip
    errors = [found for found in map(json.loads, out.splitlines()) if found["severity"] == "error"]
    return {(pathlib.Path(e["file"]).name, e["line"]): e["message"] for e in errors}


@pytest.mark.slow
@pytest.mark.parametrize("check", [of_users_by_pyright, of_users_by_mypy])
def test_a_checker_finds_a_users_mistakes_and_nothing_else(check, tmp_path):
    lines = enumerate((USERS / "wrong.py").read_text("utf-8").splitlines(), 1)
    due = {("wrong.py", number) for number, line in lines if line.endswith("# wrong")}
    found = check(tmp_path)
    assert found.keys() == due, {place: found.get(place, "nothing found") for place in found.keys() ^ due}


@pytest.mark.slow
def test_what_the_right_file_does_runs():
    done = subprocess.run(
        [sys.executable, str(USERS / "right.py")], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_package_has_no_error_by_pyright():
    pytest.importorskip("torch", reason="pyright must find every library that the package can use")
    found, summary = by_pyright(ROOT)
    assert not found and summary["filesAnalyzed"] > 300, found


def test_the_options_for_type_checkers_are_those_of_unroll():
    import inspect

    from seqjax.typing import UnrollOptions

    named = [name for name, one in inspect.signature(seqjax.unroll).parameters.items() if one.kind is one.KEYWORD_ONLY]
    assert [name for name in named if name != "return_carries"] == list(UnrollOptions.__annotations__)
