"""Corners that people reach in their first hours: lengths given in passes, whole streams, second thoughts, odd terminals."""

import json
import os
import re
import subprocess
import sys

import pytest
from processes import HELLO, ROOT, records, small

QUICK = {"train__steps": 12, "train__eval_every": 12, "train__log_every": 6}


def test_a_run_measured_in_passes_with_a_long_warm_up_can_be_read(server, text, tmp_path):
    run = tmp_path / "run"
    flags = small(text, train__steps=0, train__epochs=2.0, schedule__warmup_steps=30)
    assert server.run(f"--workdir={run}", *flags).status == 0
    assert server.run(f"--workdir={run}", "--mode=sample", "--length=5").status == 0
    evaluated = server.run(f"--workdir={run}", "--mode=evaluate")
    best = min(r["loss"] for r in records(run) if r["kind"] == "evaluation")
    assert re.search(rf"^model +loss {best:.4f} ", evaluated.out, re.M), evaluated.out + evaluated.err


@pytest.mark.slow
def test_whole_streams(server, text, tmp_path):
    run = server.run(f"--workdir={tmp_path / 'run'}", *small(text, data__window=0, data__batch_size=7, **QUICK))
    assert run.status == 0, run.err  # 900 tokens are no multiple of 7
    assert "12 steps, 12.0 passes" in run.out


def test_a_run_that_never_began_leaves_the_directory_free(refused, server, text, tmp_path):
    run = tmp_path / "run"
    refused([f"--workdir={run}", *small(text, sample__prompt="%", **QUICK)], "'%'", "outside the vocabulary")
    assert not run.exists()  # all was checked before the directory was claimed
    assert server.run(f"--workdir={run}", *small(text, model__hidden_size=8, **QUICK)).status == 0


@pytest.mark.slow
def test_a_length_on_the_command_line_wins_and_the_warm_up_shrinks(server, tmp_path):
    """A run of a preset in steps is given in epochs, and is shorter than its warm-up."""
    run = server.run(f"--workdir={tmp_path / 'run'}", HELLO, "--config.train.epochs=0.05", "--config.schedule.warmup_steps=600")
    assert run.status == 0, run.err
    steps = int(re.search(r"run: (\d+) steps, ", run.out)[1])
    config = json.loads((tmp_path / "run" / "config.json").read_text())["train"]
    assert (config["steps"], config["epochs"]) == (0, 0.05)
    assert 0 < steps < 600 and f"step {steps} of {steps}," in run.out
    assert f"warm-up: {steps // 10} steps instead of 600" in run.out


def test_free_settings_may_change_and_others_may_not(server, refused, text, tmp_path):
    run, flags = tmp_path / "run", small(text, **QUICK)
    assert server.run(f"--workdir={run}", *flags).status == 0
    changed = server.run(f"--workdir={run}", *small(text, **QUICK | {"train__log_every": 3, "train__keep": 1}))
    assert changed.status == 0 and "which is the last" in changed.out
    assert json.loads((run / "config.json").read_text())["train"]["log_every"] == 3
    refused([f"--workdir={run}", *small(text, **QUICK, model__cell="gru")], "model.cell: lstm there, gru here")
    one = server.run(f"--workdir={run}", "--mode=evaluate", "--config.data.eval_batch_size=1")
    refused([f"--workdir={run}", "--mode=evaluate", "--config.seed=5"], "seed: 0 there, 5 here")
    assert one.status == 0, one.err


@pytest.mark.parametrize(
    "flag, mode", [("prompt=a", "score"), ("text=a", "sample"), ("split=test", "train"), ("extend", "evaluate"), ("profile=1:2", "sample")]
)
def test_flags_of_another_mode_are_refused(refused, finished, flag, mode):
    name = flag.split("=")[0]
    refused([f"--workdir={finished}", f"--mode={mode}", f"--{flag}"], f"--{name} has no effect with --mode={mode}")


def test_a_part_without_tokens_is_named(refused, text, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("  \n \n")
    flags = small(text, data__validation_path=empty, tokenizer__kind="word", tokenizer__pretokenized=True, **QUICK)
    refused([f"--workdir={tmp_path / 'run'}", *flags], "validation part")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_prompt_is_kept_as_it_was_given(server, text, tmp_path):
    run = tmp_path / "run"
    assert server.run(f"--workdir={run}", *small(text, tokenizer__kind="word", **QUICK)).status == 0
    sampled = server.run(f"--workdir={run}", "--mode=sample", "--prompt=the  zebra - and", "--length=4")
    assert "read as <unk>: zebra" in sampled.out
    assert "\nthe  zebra - and" in sampled.out


@pytest.mark.slow
def test_a_terminal_that_cannot_show_a_character_ends_no_run(tmp_path):
    """In a process of its own, since the encoding is chosen when Python starts."""
    path = tmp_path / "text.txt"
    path.write_text("名前はまだ無い。\n" * 80, encoding="utf-8")
    command = [sys.executable, "-m", "experiments.language_model", f"--workdir={tmp_path / 'run'}", *small(path, **QUICK)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\\u" in done.stdout


@pytest.mark.slow
def test_a_damaged_baseline_is_computed_again(server, tmp_path):
    run = tmp_path / "run"
    flags = [HELLO, "--config.train.steps=4"]
    first = server.run(f"--workdir={run}", *flags)
    whole = (run / "baselines.json").read_text()
    (run / "baselines.json").write_text("{")
    again = server.run(f"--workdir={run}", *flags)
    line = next(line for line in first.out.split("\n") if line.startswith("baseline"))
    assert again.status == 0 and line in again.out
    assert (run / "baselines.json").read_text() == whole
