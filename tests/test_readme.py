"""The documentation's promises: its Python runs, its commands are ones that the experiments take, CI runs the test command."""

import importlib
import pathlib
import re
import shlex

import pytest
from absl import flags as absl_flags

from seqjax.run import cli

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
PAGES = README + "".join(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md")))
SHELL = re.findall(r"```sh\n(.*?)```", PAGES, flags=re.DOTALL)
COMMANDS = [line for block in SHELL for line in block.replace("\\\n", " ").strip().split("\n")]


@pytest.mark.parametrize("code", CODE)
def test_python_runs(code):
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names, "the example defines nothing"


def test_there_is_something_to_check():
    assert CODE and len(COMMANDS) > 3


MODULES = {path.stem: importlib.import_module(f"experiments.{path.stem}") for path in sorted((ROOT / "experiments").glob("[!_]*.py"))}
EXPERIMENTS = {name: module.EXPERIMENT for name, module in MODULES.items() if hasattr(module, "EXPERIMENT")}
PROGRAMS = MODULES.keys() - EXPERIMENTS  # which train nothing, and have flags of their own
FORMS = re.compile(r"(?:-m experiments\.|-m seqjax |^seqjax )(\w+)(?= |$)(.*)")
RUNS = [(command, *found.groups()) for command in COMMANDS if (found := FORMS.search(command))]


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
    (command,) = [c for c in COMMANDS if c.endswith("pytest") and c.startswith("python3 -m venv")]
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").split("\n")


def test_presets_are_in_the_table():
    presets = {preset for experiment in EXPERIMENTS.values() for preset in experiment.presets}
    assert set(re.findall(r"^\| `(\w+)` \|", PAGES, flags=re.MULTILINE)) >= presets
