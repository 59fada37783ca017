"""The command line, read in this process: what it gives, and what it refuses with which advice and status."""

import pathlib
import sys

import pytest

from experiments import language_model
from seqjax.errors import UserError
from seqjax.run import cli, settings
from seqjax.run.experiment import Experiment, Flag
from seqjax.run.settings import Field, at_least, one_of

LM = language_model.EXPERIMENT
FIELDS = {
    "seed": Field(0, "Seed.", at_least(0)),
    "model.cell": Field("lstm", "Cell.", one_of("lstm", "gru")),
    "model.tied": Field(False, "Tied."),
    "optimizer.rate": Field(0.5, "Rate.", at_least(0)),
    "train.steps": Field(0, "Steps.", at_least(0)),
    "train.epochs": Field(0.0, "Epochs.", at_least(0)),
}
TINY = Experiment(
    "tiny", "Learns nothing.", FIELDS, {"short": {"train.steps": 5}, "long": {"train.epochs": 3.0, "model.tied": True}}, "short",
    load=None, prepare=None, spec=None, build=None, batches=None, modes={"draw": None},
    flags={"hot": Flag(0.8, "how hot.", ("draw",), at_least(0)), "word": Flag([], "a word.", ("draw",))},
)  # fmt: skip


def parse(*flags, experiment=TINY):
    return cli.parse(experiment, ["program", "--workdir=run", *flags])


def flat(*flags):
    return settings.flatten(cli.config_of(TINY, parse(*flags)))


def message(*flags, experiment=TINY, kind=cli.UsageError):
    with pytest.raises(UserError) as caught:
        parse(*flags, experiment=experiment)
    assert type(caught.value) is kind and "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_given_and_what_is_not():
    command = parse("--config.seed=3", "--config.model.tied", "--extend")
    assert command.mode == "train" and command.preset is None and command.workdir == pathlib.Path("run")
    assert command.given == {"seed": 3, "model.tied": True}
    assert command.options.extend is True and command.options.init_from == "" and command.options.sweep == []
    assert not hasattr(command.options, "split") and not hasattr(command.options, "hot")  # of other modes
    drawn = parse("--mode=draw", "--hot=2", "--word=a", "--word=b, c")
    assert (drawn.options.hot, drawn.options.word, drawn.options.checkpoint) == (2.0, ["a", "b, c"], "best")
    assert cli.parse(TINY, ["program", "--workdir", "~/x"]).workdir == pathlib.Path("~/x").expanduser()


def test_a_value_that_is_the_default_counts_as_given():
    assert parse("--config.seed=0", "--config.model.cell=lstm").given == {"seed": 0, "model.cell": "lstm"}
    assert "has no effect with --mode=train" in message("--hot=0.8", kind=UserError)


def test_the_preset_and_then_what_is_given():
    assert flat()["train.steps"] == 5 and not flat()["model.tied"]
    changed = flat("--config=long", "--noconfig.model.tied")
    assert (changed["train.steps"], changed["train.epochs"], changed["model.tied"]) == (0, 3.0, False)
    with pytest.raises(Exception, match="locked|not in"):
        cli.config_of(TINY, parse()).model.other = 1


@pytest.mark.parametrize("preset", TINY.presets)
def test_a_length_that_is_given_wins(preset):
    for flag, found in (("train.steps=7", (7, 0.0)), ("train.epochs=2", (0, 2.0))):
        values = flat(f"--config={preset}", f"--config.{flag}")
        assert (values["train.steps"], values["train.epochs"]) == found
    with pytest.raises(UserError, match="train.steps=7 and config.train.epochs=2.0 both give"):
        flat(f"--config={preset}", "--config.train.steps=7", "--config.train.epochs=2")


@pytest.mark.parametrize("text, number", [("1e3", 1000), ("2.5e3", 2500), ("-2", -2), ("7.0", 7)])
def test_whole_numbers(text, number):
    value = parse(f"--config.train.steps={text}").given["train.steps"]
    assert value == number and type(value) is int


WRONG = {
    "no such field": (["--config.modle.cell=gru"], ["config.modle.cell", "did you mean config.model.cell?"]),
    "one dash": (["-config.train.stps=8"], ["config.train.stps", "did you mean config.train.steps?"]),
    "a field of another group": (["--config.train.cell=gru"], ["config.train.cell", "did you mean config.model.cell?"]),
    "nothing like it": (["--config.zzz=1"], ["config.zzz", "--help lists all fields"]),
    "no such flag": (["--wordk=1"], ["wordk", "workdir", "--help"]),
    "a flag that begins as the fields do": (["--confg=hello"], ["there is no flag --confg (nearest: config, "]),
    "half a number": (["--config.train.steps=1.5"], ["config.train.steps", "1.5", "whole number"]),
    "words for a number": (["--config.optimizer.rate=fast"], ["config.optimizer.rate", "fast"]),
    "a number for yes or no": (["--config.model.tied=3"], ["config.model.tied", "3"]),
    "nothing after =": (["--config.seed="], ["config.seed"]),
    "nothing follows": (["--config.seed"], ["config.seed"]),
    "how to sweep what": (["--sweep_vmap=off"], ["--sweep_vmap has no effect without --sweep"]),
    "positional": (["extra"], ["'extra' is not a flag"]),
    "mode": (["--mode=drow"], ["drow", "train|evaluate|draw"]),
    "checkpoint": (["--mode=evaluate", "--checkpoint=last"], ["--checkpoint=last", "one of best, newest, average"]),
    "split": (["--mode=evaluate", "--split=tset"], ["--split=tset", "one of train, validation, test"]),
    "out of range": (["--mode=draw", "--hot=-1"], ["--hot=-1", "at least 0"]),
    "preset": (["--config=shrot"], ["no preset 'shrot'", "choose one of short, long"]),
    "preset, old form": (["--config=experiments/configs/tiny.py:long"], ["are given by name: --config=long"]),
    "no preset, old form": (["--config=experiments/configs/tiny.py:lang"], ["choose one of short, long"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_command_lines(case):
    flags, words = WRONG[case]
    told = message(*flags)
    for word in words:
        assert word in told, told


def test_the_old_form_of_a_preset_is_answered_with_the_new():
    told = message("--config=experiments/configs/language_model.py:hello", experiment=LM)
    assert told.endswith("presets are given by name: --config=hello")


@pytest.mark.parametrize("mode", ["train", "evaluate", "draw"])
def test_flags_without_effect_are_refused(mode):
    """Each flag in each mode: it is taken, or refused with the modes that it is for."""
    values = {"checkpoint": "newest", "split": "test", "extend": "true", "init_from": "a", "init_partial": "true", "profile": "1:2",
              "accept_changed_data": "true", "sweep": "seed=1", "sweep_vmap": "off", "hot": "1", "word": "a",
              "distributed": "auto", "distributed_timeout": "9", "doctor": "true"}  # fmt: skip
    flags = cli.common_flags(TINY) | TINY.flags
    assert values.keys() == flags.keys()
    for name, flag in flags.items():
        argument = f"--{name}={values[name]}"
        if mode in flag.modes:
            others = {"sweep_vmap": ["--sweep=seed=1"], "distributed_timeout": ["--distributed=auto"]}.get(name, [])
            assert getattr(parse(f"--mode={mode}", argument, *others).options, name) != flag.default
        else:
            told = message(f"--mode={mode}", argument, kind=UserError)
            assert told == f"--{name} has no effect with --mode={mode}; it is for --mode={' or '.join(flag.modes)}"


def test_no_workdir():
    with pytest.raises(cli.UsageError, match="--workdir=DIR is required"):
        cli.parse(TINY, ["program"])


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(flag, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.parse(TINY, ["program", flag])
    out, err = capsys.readouterr()
    assert caught.value.code == 0 and not err and out.startswith("Learns nothing.\n")
    assert "  --config.train.steps=5\n      Steps. (at least 0)" in out  # as the default preset has it
    assert "  --hot=0.8\n      draw: how hot. (at least 0)" in out
    for name in cli.common_flags(TINY):
        assert f"  --{name}=" in out


@pytest.fixture
def untouched(monkeypatch):
    """What `cli.call` changes in its process, which here goes on."""
    monkeypatch.delenv("SEQJAX_TRACEBACK", raising=False)
    monkeypatch.setattr("logging.disable", lambda level: None)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)


@pytest.mark.parametrize(
    "error, status, told",
    [
        (UserError("no"), 1, "error: no\n"),
        (cli.UsageError("no"), 2, "error: no\n"),
        (OSError(28, "No space left on device", "/there"), 1, "error: /there: No space left on device; "),
        (KeyboardInterrupt(), 130, "error: interrupted; the same command resumes"),
    ],
)
def test_how_a_command_ends(error, status, told, capsys, untouched):
    def main(argv):
        raise error

    with pytest.raises(SystemExit) as caught:
        cli.call(main, ["program"])
    out, err = capsys.readouterr()
    assert caught.value.code == status and not out and err.startswith(told) and err.count("\n") == 1


def test_the_status_of_a_command_that_ends_well(untouched):
    for given, status in ((None, 0), (0, 0), (130, 130)):
        with pytest.raises(SystemExit) as caught:
            cli.call(lambda argv, given=given: given, ["program"])
        assert caught.value.code == status
