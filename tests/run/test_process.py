"""The compilation cache: what a full disk left in it is removed and said, and a folder that cannot be written is no error."""

import os
import pathlib
import subprocess
import sys
import time
import zlib

import jax
import pytest

from seqjax.run import process
from seqjax.run.process import CHECKED, remove_damaged_entries, use_compilation_cache

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = """
import jax, jax.numpy as jnp
from seqjax.run.process import use_compilation_cache
use_compilation_cache()
for power in (2, 3, 5):
    print(jax.jit(lambda x: jnp.tanh(x) ** power)(jnp.arange(3.0)).sum())
"""


def run(folder):
    """Standard output and error of a process of its own, with the cache that commands use."""
    unset = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def entries(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*-cache"))}


def age(folder, seconds=60):
    for path in folder.glob("*-cache"):
        os.utime(path, (time.time() - seconds,) * 2)


def test_a_real_cache_is_repaired(tmp_path):
    folder = tmp_path / "seqjax"
    out, err = run(tmp_path)
    whole = entries(folder)
    assert len(whole) >= 3 and err == ""
    age(folder)
    names = [name for name in whole if "lambda" in name]
    assert len(names) == 3
    (folder / names[0]).write_bytes(b"")
    (folder / names[1]).write_bytes(whole[names[1]][: len(whole[names[1]]) // 2])
    age(folder)
    again, err = run(tmp_path)
    assert again == out and err == f"removed 2 damaged entries from the compilation cache {folder}\n"
    assert entries(folder).keys() == whole.keys() and all(entries(folder).values())
    age(folder)
    assert run(tmp_path) == (out, "")  # said once


def make_cache(folder, count, size):
    folder.mkdir(exist_ok=True)
    for i in range(count):
        (folder / f"jit_f-{i}-cache").write_bytes(process_data(size))
    age(folder)


def process_data(size):
    return compress(os.urandom(size))


def compress(data):
    """As jax does it here."""
    from jax._src import compilation_cache

    return compilation_cache.compress_executable(data)


@pytest.mark.parametrize("harm", [lambda data: b"", lambda data: data[:-1], lambda data: data[:10], lambda data: bytes(len(data))])
def test_what_is_removed(tmp_path, harm):
    make_cache(tmp_path, 4, 1000)
    assert remove_damaged_entries(tmp_path) == 0 and (tmp_path / CHECKED).exists()
    before = entries(tmp_path)
    path = tmp_path / "jit_f-2-cache"
    path.write_bytes(harm(before[path.name]))
    os.utime(path, (time.time() - 30,) * 2)
    other = tmp_path / "notes.txt"
    other.write_bytes(b"")
    assert remove_damaged_entries(tmp_path) == 1 and remove_damaged_entries(tmp_path) == 0
    assert entries(tmp_path) == {name: data for name, data in before.items() if name != path.name} and other.exists()


def test_an_entry_that_is_being_written_stays(tmp_path):
    make_cache(tmp_path, 2, 100)
    (tmp_path / "jit_new-cache").write_bytes(b"")
    assert remove_damaged_entries(tmp_path) == 0 and len(entries(tmp_path)) == 3
    age(tmp_path)
    assert remove_damaged_entries(tmp_path) == 1


def test_the_check_has_an_end_and_is_finished_later(tmp_path, monkeypatch):
    make_cache(tmp_path, 5, 100)
    for i in range(5):
        os.utime(tmp_path / f"jit_f-{i}-cache", (1000 + i,) * 2)
    path = tmp_path / "jit_f-4-cache"
    path.write_bytes(path.read_bytes()[:-3])
    os.utime(path, (1004,) * 2)
    clock = iter(range(10**6))
    monkeypatch.setattr(process.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(process, "LONGEST_CHECK", 2.5)
    assert [remove_damaged_entries(tmp_path) for _ in range(4)] == [0, 0, 1, 0]


def test_whole_entries_are_read_once(tmp_path, monkeypatch):
    make_cache(tmp_path, 300, 100)
    remove_damaged_entries(tmp_path)
    read = []
    monkeypatch.setattr(process, "_is_whole", lambda path, decompress: read.append(path) or True)
    assert remove_damaged_entries(tmp_path) == 0 and read == []


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "file" / "cache"))
        use_compilation_cache()
        said = capsys.readouterr().err
        assert said.startswith(f"the compilation cache {tmp_path}/file/cache cannot be used: ") and said.count("\n") == 1
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_entries_are_compressed_as_is_assumed():
    data = compress(b"a program")
    assert process._decompressor()(data) == b"a program"
    assert data[:4] == b"\x28\xb5\x2f\xfd" or zlib.decompress(data) == b"a program"
