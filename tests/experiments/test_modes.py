"""What the modes do on trained runs, what --help says, and several devices."""

import os
import re
import subprocess
import sys

import pytest
from processes import HELLO, ROOT, records, small

from experiments.language_model import EXPERIMENT, FIELDS, PRESETS
from seqjax.run import cli

HOST_DEVICES = {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"}


@pytest.fixture(scope="module")
def hello(server, tmp_path_factory):
    """The work directory of the preset hello, trained to its end."""
    workdir = tmp_path_factory.mktemp("hello") / "run"
    run = server.run(f"--workdir={workdir}", HELLO)
    assert run.status == 0, run.err
    return workdir


def drawn(run) -> list[str]:
    assert run.wait().status == 0, run.err
    return re.split(r"\n?--- sample \d+\n", run.out)[1:]


def test_help(tmp_path):
    """The real command, in a process of its own: modes, flags, and every config field with a line of explanation."""
    command = [sys.executable, "-m", "experiments.language_model", "--help"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"HOME": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr and "Traceback" not in done.stdout
    flat = " ".join(done.stdout.split())
    for name, field in FIELDS.items():
        assert f"--config.{name}={PRESETS['char_small'].get(name, field.default)}\n" in done.stdout, name
        assert len(field.text) > 5 and " ".join(field.text.split()) in flat, name
    for name in (*cli.common_flags(EXPERIMENT), *EXPERIMENT.flags, "config", "workdir"):
        assert f" --{name}=" in flat, name
    for flag in (cli.common_flags(EXPERIMENT) | EXPERIMENT.flags).values():
        assert flag.text in flat and f" {', '.join(flag.modes)}: {flag.text}" in flat
    for word in ("train", "evaluate", "sample", "score", "hello", "char_small"):
        assert word in flat, word


def test_hello_learns_everything(hello):
    losses = [record["loss"] for record in records(hello) if record["kind"] == "evaluation"]
    assert losses[-1] < 0.01
    assert [record["text"] for record in records(hello) if record["kind"] == "sample"][-1] == "hello"


def test_score_ranks_the_trained_text_first(server, hello):
    texts = ["olleh", "hello", "helol", "h"]
    run = server.run(f"--workdir={hello}", "--mode=score", *[f"--text={text}" for text in texts])
    assert run.status == 0, run.err
    lines = [line.split() for line in run.out.splitlines()[-4:]]
    assert [line[0] for line in lines] == ["1", "2", "3", "4"] and lines[0][3] == "hello"
    assert float(lines[0][1]) > -0.1 and all(float(line[1]) < -2 for line in lines[1:])
    perplexities = [float(line[2]) for line in lines]
    assert perplexities == sorted(perplexities) and perplexities[0] < 1.1


def test_samples_are_seeded_and_have_no_special_tokens(server, finished, text):
    flags = [f"--workdir={finished}", "--mode=sample", "--num_samples=5", "--length=120", "--prompt=the "]
    flags.append("--temperature=1.5")
    first, again, other = [drawn(server.run(*flags, f"--seed={seed}")) for seed in (3, 3, 4)]
    assert first == again and first != other
    assert len(set(first)) == 5
    alphabet = set(text.read_text())
    for sample in first + other:
        assert sample.removesuffix("\n").startswith("the ")
        assert len(sample.removesuffix("\n")) in (124, 123)  # the last drawn may be the line's end that print adds
        assert set(sample) <= alphabet


def test_greedy_samples_of_hello_end(server, hello):
    assert [s.strip() for s in drawn(server.run(f"--workdir={hello}", "--mode=sample", "--temperature=0"))] == ["hello"]
    assert [s.strip() for s in drawn(server.run(f"--workdir={hello}", "--mode=sample", "--prompt=hel"))] == ["hello"]


def test_evaluate_gives_the_recorded_losses(server, finished):
    evaluations = {r["step"]: r["loss"] for r in records(finished) if r["kind"] == "evaluation"}
    best = min(evaluations, key=evaluations.get)
    baseline = server.run(f"--workdir={finished}", "--mode=evaluate")
    assert f"checkpoint of step {best}\nvalidation part" in baseline.out, baseline.err
    assert re.search(rf"^model +loss {evaluations[best]:.4f} ", baseline.out, re.M)
    assert re.search(r"^2-gram Kneser-Ney +loss \d\.\d{4} ", baseline.out, re.M)
    newest = server.run(f"--workdir={finished}", "--mode=evaluate", "--checkpoint=newest", "--split=train")
    assert "checkpoint of step 60\ntrain part" in newest.out, newest.err


@pytest.mark.slow
def test_four_devices_give_the_same_losses(server, text, finished, tmp_path):
    run = server.start(f"--workdir={tmp_path / 'run'}", *small(text), env=HOST_DEVICES)
    uneven = server.start(f"--workdir={tmp_path / 'uneven'}", *small(text, data__batch_size=6), env=HOST_DEVICES)
    assert uneven.wait().status == 0, uneven.err  # 6 and the evaluation's 4 streams are cut evenly by 2 devices
    assert "on 2 cpu device(s) of 4, as many as divide batch_size and eval_batch_size evenly" in uneven.out
    assert run.wait().status == 0 and "on 4 cpu device(s)\n" in run.out, run.err
    ours, theirs = records(tmp_path / "run"), records(finished)
    assert [(r["kind"], r["step"]) for r in ours] == [(r["kind"], r["step"]) for r in theirs]
    for here, there in zip(ours, theirs):
        for name in ("loss", "grad_norm", "best"):
            if name in here:
                assert here[name] == pytest.approx(there[name], rel=1e-4), (here, there)
