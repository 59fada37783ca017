"""README's promises: its Python runs, its commands name flags that exist, CI runs its test command."""

import pathlib
import re
import shlex

import pytest

from experiments.configs import image_classification, language_model, tagging, text_classification, translation

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


CONFIGS = {
    "language_model": language_model,
    "image_classification": image_classification,
    "text_classification": text_classification,
    "tagging": tagging,
    "translation": translation,
}
RUNS = [(name, c) for c in COMMANDS for name in CONFIGS if f"experiments.{name}" in c]


def test_every_experiment_is_shown():
    assert {name for name, _ in RUNS} == set(CONFIGS)


@pytest.mark.parametrize("name, command", RUNS)
def test_flags_exist(name, command):
    source = (ROOT / "experiments" / f"{name}.py").read_text(encoding="utf-8")
    defined = {"config", *re.findall(r"flags\.DEFINE_\w+\(\s*\"(\w+)\"", source)}
    assert len(defined) > 5
    for word in shlex.split(command.split(f"experiments.{name}", 1)[1]):
        assert word.startswith("--"), f"{word} is not a flag"
        flag = word[2:].split("=")[0]
        if flag.startswith("config."):
            assert flag.removeprefix("config.") in CONFIGS[name].FIELDS
        else:
            assert flag in defined
    for preset in re.findall(r"--config=\S*:(\w+)", command):
        assert preset in CONFIGS[name].PRESETS


def test_ci_runs_the_test_command():
    (command,) = [c for c in COMMANDS if c.endswith("pytest") and c.startswith("python3 -m venv")]
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").split("\n")


def test_presets_are_in_the_table():
    presets = {preset for config in CONFIGS.values() for preset in config.PRESETS}
    assert set(re.findall(r"^\| `(\w+)` \|", README, flags=re.MULTILINE)) >= presets
