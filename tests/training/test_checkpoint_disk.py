"""Disk errors: unreadable checkpoints are skipped and kept, and every error is one line that names the path."""

import builtins
import contextlib
import errno
import io
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys

import pytest
from orbax.checkpoint._src.futures import future as orbax_futures
from saved import listing, make_state, restore, same, save

from seqjax.errors import UserError
from seqjax.training.checkpoints import Checkpoints, read_weights, reading, writing
from seqjax.training.disk import refusal

NUMBERS = [errno.EIO, errno.EACCES, errno.ESTALE, errno.ENOMEM, errno.EMFILE, errno.ETIMEDOUT, errno.EDQUOT]


def each(places):
    """Every place with one error, and the last place with every error: (error, place)."""
    pairs = [(errno.EIO, place) for place in places] + [(number, places[-1]) for number in NUMBERS[1:]]
    return [pytest.param(*pair, id=f"{errno.errorcode[pair[0]]}-{pair[1]}") for pair in pairs]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A work directory with the checkpoints of steps 3, 10 and 200; copy it to change it."""
    workdir = tmp_path_factory.mktemp("three")
    save(workdir, {3: 2.5, 10: 1.25, 200: 1.5})
    return workdir


@contextlib.contextmanager
def refusing(number, *paths):
    """Opening or listing a file at or below one of the paths fails with an error number."""
    with pytest.MonkeyPatch.context() as patch:

        def refused(function):
            def wrapped(path, *args, **options):
                if not isinstance(path, int):
                    found = pathlib.Path(os.path.abspath(path))
                    if any(found.is_relative_to(given) for given in paths):
                        raise OSError(number, os.strerror(number), str(path))
                return function(path, *args, **options)

            return wrapped

        for owner, name in ((builtins, "open"), (io, "open"), (os, "open"), (os, "scandir")):
            patch.setattr(owner, name, refused(getattr(owner, name)))
        yield


def directories(workdir, steps):
    return [workdir / "checkpoints" / str(step) for step in steps]


@pytest.mark.parametrize("number, name", each([".", "MANIFEST.json", "meta/metadata", "state", "state/_METADATA", "state/d"]))
def test_an_older_one_is_used_and_the_unreadable_one_stays(three, tmp_path, number, name):
    workdir = shutil.copytree(three, tmp_path / "run")
    before = listing(workdir)
    named = {".": "MANIFEST.json"}.get(name, name)
    for repair in (False, True):
        with refusing(number, workdir / "checkpoints" / "200" / name):
            restored, lines = restore(workdir, repair=repair)
        assert restored.step == 10 and same(restored.state, make_state(10))
        assert len(lines) == 1 and lines[0].startswith(f"checkpoint 200 cannot be read ({named}"), lines
        assert f": {os.strerror(number)}); checkpoint 10 is used instead; it is left where it is" in lines[0]
        assert listing(workdir) == before
    assert restore(workdir)[0].step == 200  # it may be read again tomorrow


def test_what_the_array_library_cannot_read(three, tmp_path, monkeypatch):
    """Its errors are no OSErrors; the files could be read a moment before."""
    workdir, read = shutil.copytree(three, tmp_path / "run"), reading._read_arrays

    def refused(folder):
        if folder.parent.name == "200":
            raise ValueError("Error reading local file: [source locations='...'] [os_error_code='5']")
        return read(folder)

    monkeypatch.setattr(reading, "_read_arrays", refused)
    restored, lines = restore(workdir)
    assert restored.step == 10 and "checkpoint 200 cannot be read (state: Input/output error)" in lines[0]
    assert (workdir / "checkpoints" / "200").is_dir()


def test_its_step_is_not_written_over_and_it_is_never_deleted(three, tmp_path):
    """The process that resumed from an older one comes to that step again, and later prunes."""
    workdir = shutil.copytree(three, tmp_path / "run")
    victim, lines = workdir / "checkpoints" / "200", []
    before = listing(victim)
    checkpoints = Checkpoints(workdir, keep=1, report=lines.append)
    with refusing(errno.EIO, victim):
        assert checkpoints.restore(lambda meta: make_state(0)).step == 10
        checkpoints.save(20, make_state(20), {})
        checkpoints.wait()
        assert checkpoints.steps() == [10, 20, 200]  # the newest that can be read, and the best
        checkpoints.save(200, make_state(200), {})
        checkpoints.wait()
        assert len(lines) == 2 and f"step 200 is not saved: {victim} is in its place and cannot be read" in lines[1]
        for step in (210, 220):
            checkpoints.save(step, make_state(step), {})
        checkpoints.close()
    assert checkpoints.steps() == [10, 200, 220] and listing(victim) == before  # 10 is the best


def test_the_best_is_kept_where_it_cannot_be_read_for_a_while(three, tmp_path):
    workdir = shutil.copytree(three, tmp_path / "run")
    with refusing(errno.EIO, workdir / "checkpoints" / "10"):
        save(workdir, [300, 400], keep=1)
    assert Checkpoints(workdir, keep=1).best_step() == 10


def test_all_unreadable_is_one_line(three, tmp_path):
    workdir = shutil.copytree(three, tmp_path / "run")
    before = listing(workdir)
    for read in (restore, read_weights, lambda workdir: Checkpoints(workdir, keep=1).newest_meta()):
        with refusing(errno.EIO, *directories(workdir, [3, 10, 200])), pytest.raises(UserError) as caught:
            read(workdir)
        words = ("all checkpoints in", "cannot be read", "200: MANIFEST.json: Input/output error", "try again when", "10: ", "3: ")
        assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)
    (workdir / "checkpoints" / "10" / "meta" / "metadata").write_text("{")
    before = listing(workdir)
    with refusing(errno.EIO, *directories(workdir, [3, 200])), pytest.raises(UserError, match="cannot be used .200: MAN.*10: meta"):
        restore(workdir)
    assert listing(workdir) == before


@pytest.mark.parametrize("number", NUMBERS)
def test_the_directory_cannot_be_listed(three, tmp_path, number):
    workdir = shutil.copytree(three, tmp_path / "run")
    for name in ("checkpoints", "run.json"):
        with refusing(number, workdir / name), pytest.raises(UserError) as caught:
            restore(workdir)
        assert str(workdir / name) in str(caught.value) and os.strerror(number) in str(caught.value)


REFUSED = {  # what is refused of a save
    "write": (writing.ocp.Checkpointer, "save"),
    "rename": (writing.os, "rename"),
    "manifest": (os, "replace"),
    "delete": (shutil, "rmtree"),
    "sync": (os, "fsync"),
}


@pytest.mark.parametrize("number, what", each([*REFUSED]))
def test_a_save_that_is_refused_is_one_line(three, tmp_path, monkeypatch, number, what):
    workdir = shutil.copytree(three, tmp_path / "run")
    before = {step: listing(workdir / "checkpoints" / str(step)) for step in (10, 200)}

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    checkpoints = Checkpoints(workdir, keep=1)
    with monkeypatch.context() as patch, pytest.raises(UserError) as caught:
        patch.setattr(*REFUSED[what], refuse)
        checkpoints.save(300, make_state(300), {})
        checkpoints.close()
    message = str(caught.value)
    assert os.strerror(number) in message and str(workdir / "checkpoints") in message and "\n" not in message
    assert {step: listing(workdir / "checkpoints" / str(step)) for step in (10, 200)} == before
    assert restore(workdir)[0].step == (300 if what == "delete" else 200)
    assert not list((workdir / "checkpoints").glob("*ing*")) and not (workdir / "damaged").exists()
    save(workdir, [300], keep=1)
    assert restore(workdir)[0].step == 300 and Checkpoints(workdir, keep=1).steps() in ([10, 300], [10, 200, 300])


def test_a_failed_save_can_be_tried_again(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=1)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="Stale file handle"):
        patch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(errno.ESTALE, "Stale file handle")))
        checkpoints.save(1, make_state(1), {})
        checkpoints.wait()
    checkpoints.save(1, make_state(1), {})
    checkpoints.close()
    assert checkpoints.steps() == [1]


def test_no_more_file_descriptors(tmp_path):
    """The real thing, in a process of its own: every number of free descriptors gives a save or one line.

    No thread of a failed save is left behind: the process would wait five minutes for it before it ends.
    """
    script = f"""
import pathlib, resource, os, sys, threading
sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
from saved import make_state
from seqjax.errors import UserError
from seqjax.training.checkpoints import Checkpoints
state, folder = make_state(1), pathlib.Path({str(tmp_path)!r})
first = Checkpoints(folder, keep=99)
first.save(1, state, {{}})
first.close()
used = max(map(int, os.listdir("/proc/self/fd")))
for step, free in enumerate([0, 1, 2, 3, 5, 8, 13, 21, 40, 200], 2):
    state = make_state(step)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + free, {resource.getrlimit(resource.RLIMIT_NOFILE)[1]}))
    checkpoints = Checkpoints(folder, keep=99)
    try:
        checkpoints.save(step, state, {{}})
        checkpoints.close()
        print("saved")
    except UserError as error:
        print(error)
left = [thread for thread in threading.enumerate() if hasattr(thread, "_receive_signals")]
for thread in left:
    threading.Thread.join(thread, 5)
print(sum(thread.is_alive() for thread in left), file=sys.stderr)
sys.stderr.flush()
sys.stdout.flush()
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": "."})
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 10, done.stderr[-3000:]
    assert lines[-1] == "saved" and lines.count("saved") < 9, lines
    assert all(line == "saved" or "Too many open files" in line for line in lines), lines
    assert restore(tmp_path)[0].step == 11
    if hasattr(orbax_futures, "set_signals"):  # Orbax 0.12
        assert done.stderr.splitlines()[-1] == "0"


def test_files_and_links_in_the_way(three, tmp_path):
    """`checkpoints` or `damaged` is a file, or a link to nothing; so is a checkpoint."""

    def case(name, make):
        workdir = tmp_path / name
        workdir.mkdir()
        make(workdir / "checkpoints")
        return workdir

    a_file = case("file", lambda path: path.write_text("mine"))
    a_link = case("link", lambda path: path.symlink_to("nowhere"))
    for workdir, reason in ((a_file, "Not a directory"), (a_link, "dangling link")):
        before = listing(workdir)
        for use in (restore, read_weights, lambda workdir: save(workdir, [1])):
            with pytest.raises(UserError, match=f"{workdir / 'checkpoints'}.*{reason}"):
                use(workdir)
        assert listing(workdir) == before

    workdir = shutil.copytree(three, tmp_path / "run")
    (workdir / "checkpoints" / "201").symlink_to("nowhere")
    (workdir / "checkpoints" / "202").write_text("mine")
    (workdir / "damaged").write_text("mine")
    (workdir / "checkpoints" / "300.saving").symlink_to(three)
    with pytest.raises(UserError, match="201 cannot be used and cannot be moved to .*damaged: File exists; move it away yourself"):
        restore(workdir)
    assert (three / "run.json").exists() and not os.path.lexists(workdir / "checkpoints" / "300.saving")
    (workdir / "damaged").unlink()
    restored, lines = restore(workdir)
    assert restored.step == 200 and [line.split(";")[0] for line in lines] == [
        f"checkpoint {step} was not completed" for step in (201, 202)
    ]
    assert (workdir / "damaged" / "202-1").read_text() == "mine" and (workdir / "damaged" / "201-0").is_symlink()


def test_linked_checkpoints_and_directories_are_as_good(three, tmp_path):
    """On another disk: the link is renamed and removed, its target stays."""
    workdir, elsewhere = shutil.copytree(three, tmp_path / "run"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (workdir / "checkpoints" / "3").rename(elsewhere / "3")
    (workdir / "checkpoints" / "3").symlink_to(elsewhere / "3")
    (workdir / "checkpoints").rename(elsewhere / "checkpoints")
    (workdir / "checkpoints").symlink_to(elsewhere / "checkpoints")
    assert read_weights(workdir, 3)[0] == 3
    save(workdir, [300], keep=2)
    assert Checkpoints(workdir, keep=2).steps() == [10, 200, 300] and (elsewhere / "3" / "MANIFEST.json").exists()


def test_a_check_that_fails_stops_before_anything_is_written(three, tmp_path):
    """If the work directory was replaced, nothing is saved, moved or cleared in it, even in the middle of a save."""
    workdir = shutil.copytree(three, tmp_path / "run")
    shutil.copytree(workdir / "checkpoints" / "200", workdir / "checkpoints" / "201")

    def check():
        raise UserError("removed")

    before = listing(workdir)
    checkpoints = Checkpoints(workdir, keep=1, check=check)
    with pytest.raises(UserError, match="removed"):
        checkpoints.restore(lambda meta: make_state(0))
    with pytest.raises(UserError, match="removed"):
        checkpoints.save(300, make_state(300), {})
    assert listing(workdir) == before
    calls = iter([None, UserError("removed")])

    def later():
        if error := next(calls):
            raise error

    checkpoints = Checkpoints(workdir, keep=1, check=later)
    checkpoints.save(300, make_state(300), {})
    with pytest.raises(UserError, match="^removed$"):
        checkpoints.close()
    assert not (workdir / "checkpoints" / "300").exists()


def test_the_reason_is_found_wherever_it_stands():
    def raised(error, cause):
        try:
            raise error from cause
        except Exception as found:
            return found

    assert refusal(OSError(errno.EIO, "Input/output error")) == "Input/output error"
    assert refusal(raised(ValueError("x"), OSError(errno.EMFILE, "Too many open files"))) == "Too many open files"
    assert refusal(ValueError("... [os_error_code='28']")) == "No space left on device"
    assert refusal(MemoryError()) == "Cannot allocate memory"
    assert refusal(ValueError("28")) is None and refusal(TypeError()) is None
    assert re.fullmatch("timed out", refusal(TimeoutError("timed out")))
