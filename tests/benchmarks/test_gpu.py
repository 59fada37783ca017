"""The GPU kit: however one part ends, the others' results are kept, with the reason."""

import json
import sys

import numpy as np
import pytest

from benchmarks import gpu, gpu_checks, gpu_memory, gpu_record

START = """
import os, pathlib, sys, time
from benchmarks.gpu_record import Recorder
recorder = Recorder(pathlib.Path(sys.argv[1].removeprefix("--out=")), float(sys.argv[2].removeprefix("--deadline=")))
"""


def test_a_part_that_raises_hangs_or_is_killed_loses_nothing_of_the_others(tmp_path):
    begin = """
import os, pathlib, sys, time
from benchmarks import gpu
path = pathlib.Path(sys.argv[1].removeprefix("--out="))
gpu.write(path, {"status": "running", "cases": [{"cell": "lstm", "what": "forward", "engine": "scan", "min": 1.0}]})
"""
    ends = {
        "raises": "raise RuntimeError('no such device')",
        "killed": "os.kill(os.getpid(), 9)",
        "hangs": "print('at work'); time.sleep(600)",
        "fine": "gpu.write(path, gpu.read(path) | {'status': 'ok'})",
    }
    weights = {"hangs": 0.2}
    parts = [gpu.Part(name, weights.get(name, 1.0), (sys.executable, "-c", begin + end)) for name, end in ends.items()]
    path = tmp_path / "results" / "gpu.json"
    result = gpu.run(parts, 30, path)
    assert json.loads(path.read_text()) == result
    found = result["parts"]
    assert {name: part["status"] for name, part in found.items()} == {
        "raises": "failed",
        "killed": "failed",
        "hangs": "timed out",
        "fine": "ok",
    }
    assert "no such device" in found["raises"]["tail"] and found["raises"]["reason"] == "ended with exit status 1"
    assert found["killed"]["reason"] == "ended with SIGKILL"
    assert "at work" in found["hangs"]["tail"] and "stopped after" in found["hangs"]["reason"]
    assert all(len(part["cases"]) == 1 for part in found.values()), "finished cases are kept"
    text = "\n".join(gpu.table(result))
    assert "lstm forward | scan 1" in text and "killed: failed, ended with SIGKILL" in text


def test_a_part_that_crashes_in_one_engine_goes_on_without_it(tmp_path):
    body = """
for group in ("first", "second", "third"):
    if recorder.begin(group):
        rows = []
        for engine in ("scan", "cudnn"):
            if recorder.trying(group, engine):
                if (group, engine) == ("second", "cudnn"):
                    os.kill(os.getpid(), 11)
                rows.append({"what": group, "engine": engine})
        recorder.finish(group, rows)
recorder.end("ok")
"""
    (found,) = gpu.run([gpu.Part("crashes", 1.0, (sys.executable, "-c", START + body))], 30, tmp_path / "gpu.json")["parts"].values()
    rows = [(row["what"], row["engine"]) for row in found["cases"]]
    assert rows == [("first", "scan"), ("first", "cudnn"), ("second", "scan"), ("third", "scan"), ("third", "cudnn")]
    assert [lost["at"] for lost in found["lost"]] == ["second / cudnn"] and found["status"] == "incomplete"


def test_without_time_a_part_is_skipped_and_one_past_its_deadline_begins_nothing(tmp_path):
    (found,) = gpu.run([gpu.Part("late", 1.0, ("false",))], 2, tmp_path / "gpu.json")["parts"].values()
    assert found == {"status": "skipped", "reason": "no time was left"}
    with pytest.raises(gpu_record.OutOfTime):
        gpu_record.Recorder(tmp_path / "part.json", 0.0).begin("group")


def test_the_dry_run_of_the_device(tmp_path):
    part = next(part for part in gpu.PARTS if part.name == "device")
    (found,) = gpu.run([part], 60, tmp_path / "gpu.json", dry_run=True)["parts"].values()
    assert found["status"] == "ok" and found["facts"]["backend"], found
    assert all(row.get("rate", 1) > 0 for row in found["cases"]) and len(found["cases"]) == 8


def test_errors_are_relative_and_nan_never_passes():
    want = {"a": np.array([3.0, 4.0]), "b": np.array([1.0])}
    got = {"a": np.array([3.0, 4.5], np.float32), "b": np.array([np.nan], np.float32)}
    found = gpu_checks.errors(got, want)
    assert found["['a']"] == pytest.approx(0.1) and found["['b']"] == float("inf")
    assert not found["['b']"] <= 1.0


def test_what_pytest_printed_is_counted_also_where_it_was_stopped():
    text = "[gw0] [ 50%] PASSED tests/a.py::test_one[x y] \n[gw1] [ 75%] FAILED tests/a.py::test_two \ntests/a.py::test_three "
    assert gpu_checks.outcomes(text) == {"passed": ["tests/a.py::test_one[x"], "failed": ["tests/a.py::test_two"]}
    alone = "tests/a.py::test_one PASSED   [ 50%]\ntests/a.py::test_two ERROR [100%]\nERROR tests/b.py\n"
    counted = {"passed": ["tests/a.py::test_one"], "error": ["tests/a.py::test_two", "tests/b.py"]}
    assert gpu_checks.outcomes(alone) == counted


def test_offloading_is_compared_with_remat_every_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_memory, "on_gpu", lambda: True)
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    recorder = gpu_record.Recorder(tmp_path / "offload.json", 60)
    gpu_memory.offload(recorder, dry_run=True)
    rows = gpu.read(tmp_path / "offload.json")["cases"]
    assert [(row["cell"], row["way"]) for row in rows] == [
        (c, w) for c in ("conv_lstm", "lstm") for w in ("remat_every", "remat_every, offload")
    ]
    assert all(row["error"] < 1e-5 and row["device_bytes"] > 0 for row in rows)
