"""README's promises: its Python runs, its commands name flags that exist, CI runs its test command."""

import pathlib
import re
import shlex

import pytest
from absl import flags

import experiments.language_model  # noqa: F401  (defines the flags)
from experiments.configs.language_model import FIELDS, PRESETS

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL) for line in block.strip().split("\n")]


@pytest.mark.parametrize("code", CODE)
def test_python_runs(code):
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names, "the example defines nothing"


def test_there_is_something_to_check():
    assert CODE and len(COMMANDS) > 3


@pytest.mark.parametrize("command", [c for c in COMMANDS if "experiments.language_model" in c])
def test_flags_exist(command):
    words = shlex.split(command.split("experiments.language_model", 1)[1])
    for word in words:
        assert word.startswith("--"), f"{word} is not a flag"
        name = word[2:].split("=")[0]
        if name.startswith("config."):
            assert name.removeprefix("config.") in FIELDS
        else:
            assert name in flags.FLAGS
    for preset in re.findall(r"--config=\S*:(\w+)", command):
        assert preset in PRESETS


def test_ci_runs_the_test_command():
    (command,) = [c for c in COMMANDS if c.endswith("pytest") and c.startswith("python3 -m venv")]
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").split("\n")


def test_presets_are_in_the_table():
    assert set(re.findall(r"^\| `(\w+)` \|", README, flags=re.MULTILINE)) >= set(PRESETS)
