"""The documentation's promises: its Python runs, its commands are ones that the experiments take, CI runs the test command.

Blocks of a page share their names, from the top. A comment `<!-- before: ... -->` in front of a block is Python that runs first
and that no reader sees: it makes the files that the block reads.
"""

import importlib
import pathlib
import re
import shlex

import pytest
from absl import flags as absl_flags

from seqjax.run import cli

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in PAGES}
PYTHON = re.compile(r"(?:<!-- before:\n(?P<before>.*?)-->\n)?```python\n(?P<code>.*?)```", flags=re.DOTALL)
WHOLE_FILES = "--8<--"  # a block that shows a file of the repository, which has tests of its own
TOUR = "docs/learn/"  # made from a notebook, which is run whole elsewhere
SHELL = re.findall(r"```sh\n(.*?)```", "".join(TEXTS.values()), flags=re.DOTALL)
COMMANDS = [line for block in SHELL for line in block.replace("\\\n", " ").strip().split("\n")]


def blocks(text):
    """The Python of a page, one block after another, with what runs before each."""
    found = [(match["before"] or "", match["code"]) for match in PYTHON.finditer(text)]
    return [before + code for before, code in found if not code.startswith(WHOLE_FILES)]


WITH_PYTHON = {name: blocks(text) for name, text in TEXTS.items() if blocks(text) and not name.startswith(TOUR)}


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # what a block writes stays here
    names = {}
    for number, code in enumerate(WITH_PYTHON[page], 1):
        for missing in ("torch", "keras", "haiku", "equinox"):
            if re.search(rf"^import {missing}\b", code, flags=re.MULTILINE):
                pytest.importorskip(missing)
        # Keras promotes ranks inside, which the tests forbid.
        with jax_ranks("keras" in code):
            exec(compile(code, f"{page}, block {number}", "exec"), names)


def jax_ranks(allowed):
    """Rank promotion as the tests have it, or allowed."""
    import jax

    return jax.numpy_rank_promotion("allow" if allowed else "raise")


def test_there_is_something_to_check():
    assert len(WITH_PYTHON) > 15 and len(COMMANDS) > 50
    assert blocks('<!-- before:\nx = 1\n-->\n```python\ny = x\n```\n```python\n--8<-- "a"\n```\n') == ["x = 1\ny = x\n"]


MODULES = {path.stem: importlib.import_module(f"experiments.{path.stem}") for path in sorted((ROOT / "experiments").glob("[!_]*.py"))}
EXPERIMENTS = {name: module.EXPERIMENT for name, module in MODULES.items() if hasattr(module, "EXPERIMENT")}
PROGRAMS = MODULES.keys() - EXPERIMENTS  # which train nothing, and have flags of their own
FORMS = re.compile(r"(?:-m experiments\.|-m seqjax |^seqjax )(\w+)(?= |$)(.*)")
RUNS = [(command, *found.groups()) for command in dict.fromkeys(COMMANDS) if (found := FORMS.search(command))]


def test_every_experiment_is_shown():
    assert {name for _, name, _ in RUNS} == set(EXPERIMENTS) | PROGRAMS == set(MODULES)
    assert sum("experiments." in command for command, _, _ in RUNS) > 10


@pytest.mark.parametrize("command, name, flags", RUNS, ids=[command for command, _, _ in RUNS])
def test_an_experiment_takes_the_command(command, name, flags):
    words = shlex.split(flags.partition(" > ")[0], comments=True)
    if name in PROGRAMS:
        MODULES[name].define(values := absl_flags.FlagValues())
        assert len(values([name, *words])) == 1
        return
    parsed = cli.parse(EXPERIMENTS[name], [name, *words])
    if parsed.mode == "train" and not parsed.options.extend:
        cli.config_of(EXPERIMENTS[name], parsed)
    assert str(parsed.workdir).startswith("/tmp/")


def test_ci_runs_the_test_command():
    (command,) = {c for c in COMMANDS if c.endswith("pytest") and c.startswith("python3 -m venv")}
    assert command in TEXTS["README.md"]
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").split("\n")


# The page that documents an experiment is docs/NAME.md, except for those that share one.
ELSEWHERE = {"sequential_images": "docs/long_memory.md", "language_model": "docs/start/your_text.md"}


def presets_of(text):
    """The first column of a page's tables of presets."""
    tables = re.findall(r"^\|[^|]*\bpreset \|.*\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
    return {name for table in tables for name in re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)}


@pytest.mark.parametrize("page", sorted({ELSEWHERE.get(name, f"docs/{name}.md") for name in EXPERIMENTS}))
def test_the_presets_of_an_experiment_are_on_its_page(page):
    here = [name for name in EXPERIMENTS if ELSEWHERE.get(name, f"docs/{name}.md") == page]
    assert presets_of(TEXTS[page]) == {preset for name in here for preset in EXPERIMENTS[name].presets}
    for name in here:
        own = TEXTS.get(f"docs/{name}.md", "")
        assert page == f"docs/{name}.md" or not own or f"({page.removeprefix('docs/')})" in own


def test_a_table_of_presets_is_found():
    assert presets_of("| preset | what |\n|---|---|\n| `a` | x |\n| `b` | y |\n\n| name |\n|---|\n| `c` |\n") == {"a", "b"}


def test_the_readme_is_short():
    lines = TEXTS["README.md"].splitlines()
    assert len(lines) <= 140 and max(map(len, lines)) <= 120
