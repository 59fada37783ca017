"""What a run was trained with is kept in its work directory, once, and again where it changed."""

import errno
import importlib.metadata
import json
import os
import subprocess
import sys

import jax
import letters_run as tiny
import pytest

from seqjax.engines.native import library
from seqjax.errors import UserError
from seqjax.run import environment


def entries(workdir):
    return json.loads((workdir / "environment.json").read_text(encoding="utf-8"))


def test_facts_are_those_of_this_process():
    found = environment.facts()
    assert {name: found[name] for name in ("seqjax", "jax", "jaxlib")} == {
        name: importlib.metadata.version(name) for name in ("seqjax", "jax", "jaxlib")
    }
    assert found["python"] == sys.version.split()[0]
    assert (found["backend"], found["devices"]) == (jax.default_backend(), len(jax.devices()))
    if not library.missing():
        assert found["native"] == {"threads": library.threads(), "instruction_set": library.instruction_set()}
    assert json.loads(json.dumps(found)) == found


@pytest.mark.skipif(bool(library.missing()), reason=f"native engine: {library.missing()}")
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a way to leave processors out")
def test_threads_are_as_many_as_the_process_may_use():
    script = "import os\nos.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\nfrom seqjax.run import environment\n"
    told = subprocess.run([sys.executable, "-c", script + "print(environment.facts())"], capture_output=True, text=True, check=True)
    assert "{'threads': 1, " in told.stdout


def test_without_the_native_engine(monkeypatch):
    monkeypatch.setattr(library, "missing", lambda: "it was not built")
    assert environment.facts()["native"] is None
    monkeypatch.undo()
    monkeypatch.setenv(library.CHOICE, "mmx")
    assert environment.facts()["native"] is None


def test_an_entry_for_each_change_and_none_for_what_was_lost(tmp_path):
    said = []

    def record(step, **facts):
        environment.record(tmp_path, step, facts, said.append)
        return [(entry["step"], entry["jax"]) for entry in entries(tmp_path)]

    assert record(0, jax="1") == record(0, jax="1") == record(10, jax="1") == [(0, "1")]
    assert said == []
    assert record(20, jax="2") == [(0, "1"), (20, "2")] and "at step 20: jax 1 before, 2 now" in said[0]
    assert record(30, jax="2") == record(20, jax="2") == [(0, "1"), (20, "2")]
    assert record(15, jax="1") == [(0, "1")]  # the checkpoint of step 20 was lost
    assert record(0, jax="3") == [(0, "3")]
    said.clear()
    assert record(5, jax="3", python="4") == [(0, "3"), (5, "3")] and "python None before, 4 now" in said[0]


@pytest.mark.parametrize("text", ["", "[", "{}", "[{}]", "[1]", "7"])
def test_a_damaged_file_is_written_again(tmp_path, text):
    (tmp_path / "environment.json").write_text(text)
    said = []
    environment.record(tmp_path, 3, {"jax": "1"}, said.append)
    assert entries(tmp_path) == [{"step": 3, "jax": "1"}] and len(said) == 1 and "environment.json was damaged" in said[0]


def test_a_disk_that_refuses(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(environment, "write_atomically", full)
    with pytest.raises(UserError, match="environment.json cannot be read or written: No space left on device"):
        environment.record(tmp_path, 0, {"jax": "1"})


@pytest.mark.usefixtures("in_process")
def test_a_run_that_is_resumed_with_others_has_both(tmp_path, monkeypatch, capsys):
    tiny.run(tmp_path, stop=3)
    first = environment.facts()
    assert entries(tmp_path) == [{"step": 0, **first}]
    before = (tmp_path / "environment.json").read_bytes()
    tiny.run(tmp_path, stop=4)
    assert (tmp_path / "environment.json").read_bytes() == before and "has changed" not in capsys.readouterr().out
    other = first | {"native": {"threads": 99, "instruction_set": "avx2"}}
    monkeypatch.setattr(environment, "facts", lambda: other)
    tiny.run(tmp_path)
    assert [entry["native"] for entry in entries(tmp_path)] == [first["native"], other["native"]]
    assert entries(tmp_path)[1]["step"] >= 3 and "what the run trains with has changed at step" in capsys.readouterr().out
