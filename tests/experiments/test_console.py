"""The console command: the project's experiments and a user's own file, from any folder, installed or in a clone."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import pytest

from seqjax import __main__ as console
from seqjax.engines.native import build as native

ROOT = pathlib.Path(__file__).resolve().parents[2]
MINE = pathlib.Path(__file__).with_name("mine.py")
EXPERIMENTS = sorted(path.stem for path in (ROOT / "experiments").glob("[!_]*.py"))


def call(*command, cwd, path=None):
    """A finished process; PYTHONPATH is what is given, or nothing."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"PYTHONPATH": str(path)} if path else {}
    return subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def refused(capsys, *argv):
    with pytest.raises(SystemExit) as caught:
        console.main(["seqjax", *argv])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    return error


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_without_a_name_it_lists_the_experiments(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        console.main(["seqjax", *argv])
    out = capsys.readouterr().out
    assert not caught.value.code
    for name in EXPERIMENTS:
        (line,) = [line for line in out.splitlines() if line.split()[:1] == [name]]
        first = (ROOT / "experiments" / f"{name}.py").read_text(encoding="utf-8").splitlines()[0]
        assert line.split(maxsplit=1)[1] in first


def test_wrong_names(capsys, tmp_path):
    assert "did you mean language_model?" in refused(capsys, "langage-model")
    assert all(name in refused(capsys, "qqq") for name in EXPERIMENTS)
    assert "there is no file ./nowhere.py" in refused(capsys, "./nowhere.py")
    assert "there is no file" in refused(capsys, str(tmp_path))
    assert "name comes first" in refused(capsys, "--workdir=x")


def test_the_gradient_laboratory_is_started_as_experiments_are(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "argv", sys.argv)
    absent = [f"--workdir={tmp_path}", "--failed"]
    for flags, status, message in [(["--help"], 0, "--failed"), (absent, 1, f"{tmp_path} has no failed step")]:
        with pytest.raises(SystemExit) as caught:
            console.main(["seqjax", "gradient_flow", *flags])
        told = capsys.readouterr()
        assert (caught.value.code or 0) == status and message in told.out + told.err


def test_a_file_that_starts_nothing_is_an_error(capsys, tmp_path):
    (tmp_path / "idle.py").write_text("print('idle')\n", encoding="utf-8")
    assert "run.main(EXPERIMENT)" in refused(capsys, str(tmp_path / "idle.py"))


def test_an_experiment_outside_the_project_trains_resumes_and_is_evaluated(tmp_path):
    """With `seqjax ./mine.py` and `python mine.py` in turn; it finds a file beside it, as with python."""
    text = MINE.read_text(encoding="utf-8").replace("import hashlib\n", "import hashlib\n\nimport beside\n")
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    (tmp_path / "beside.py").touch()
    (tmp_path / "other").mkdir()
    console_, direct = (sys.executable, "-m", "seqjax", "../mine.py"), (sys.executable, "../mine.py")

    def done(*command):
        result = call(*command, cwd=tmp_path / "other", path=ROOT)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert "step 12 of 12" in done(*console_, "--workdir=a", "--config.train.steps=12")
    assert "resuming from the checkpoint of step 12" in done(*direct, "--workdir=a", "--config.train.steps=24", "--extend")
    newest = ("--workdir=a", "--mode=evaluate", "--checkpoint=newest")
    one, other = (_without_time(done(*command, *newest)) for command in (direct, console_))
    assert one == other and one[0] == "checkpoint of step 24"
    assert done(*console_, "--workdir=a", "--mode=predict", "--numbers=-5 -5 -5 -5 -5").strip() == "less than zero"


def _without_time(text):
    return [line for line in text.splitlines() if not line.startswith("evaluated in")]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """What a clone has of the package."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("seqjax", "experiments"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "setup.cfg", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def sdist(source, tmp_path_factory):
    """The source distribution of a clone where the library was built and there are tests and benchmarks."""
    (source / "seqjax" / "engines" / "native" / "_kernels.so").touch()
    for name in ("tests/test_mine.py", "benchmarks/results/mine.json", "docs/index.md"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).touch()
    folder = tmp_path_factory.mktemp("sdist")
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    done = call(sys.executable, "-c", build, cwd=source)
    assert done.returncode == 0, done.stderr
    (archive,) = folder.iterdir()
    return archive


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(request, source, sdist, tmp_path_factory):
    """The folder of the commands of an environment with seqjax installed; the other packages are those of this one.

    The wheel is made of the source distribution.
    """
    folder = tmp_path_factory.mktemp(request.param)
    venv.create(folder / "env", symlinks=True)
    commands = folder / "env" / "bin"
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip = (sys.executable, "-m", "pip", "--python", commands / "python", "--no-cache-dir")
    options = ("--no-deps", "--no-index", "--no-build-isolation", "-q")
    if request.param == "wheel":
        done = call(*pip, "wheel", *options, "-w", folder, sdist, cwd=folder)
        assert done.returncode == 0, done.stderr
        (wheel,) = folder.glob("*.whl")
        done = call(*pip, "install", *options, "--ignore-installed", wheel, cwd=folder)
    else:
        done = call(*pip, "install", *options, "--ignore-installed", "-e", source, cwd=folder)
    assert done.returncode == 0, done.stderr
    return request.param, commands, folder, site


@pytest.mark.slow
def test_an_installed_package_runs_from_any_folder(installed, source):
    kind, commands, folder, site = installed
    seqjax, elsewhere = commands / "seqjax", folder / "elsewhere"
    elsewhere.mkdir()
    where = call(commands / "python", "-c", "import seqjax, seqjax_experiments as e; print(seqjax.__file__, e.__file__)", cwd=elsewhere)
    for path in where.stdout.split():
        assert path.startswith(str(site if kind == "wheel" else source)), where
    assert not (site / "experiments").exists()
    assert all(name in call(seqjax, "--help", cwd=elsewhere).stdout for name in EXPERIMENTS)
    wrong = call(seqjax, "langage_model", cwd=elsewhere)
    assert wrong.returncode == 2 and "did you mean language_model?" in wrong.stderr
    done = call(seqjax, "language_model", "--config=hello", "--config.train.steps=20", "--workdir=hello", cwd=elsewhere)
    assert done.returncode == 0 and "step 20 of 20" in done.stdout and (elsewhere / "hello" / "curves.png").exists(), done.stderr
    done = call(commands / "python", "-m", "seqjax", "language_model", "--workdir=hello", "--mode=sample", cwd=elsewhere)
    assert done.returncode == 0 and "--- sample 1" in done.stdout, done.stderr
    shutil.copy(MINE, elsewhere)
    done = call(seqjax, "./mine.py", "--workdir=mine", "--config.train.steps=2", cwd=elsewhere)
    assert done.returncode == 0 and "step 2 of 2" in done.stdout, done.stderr
    for name in EXPERIMENTS:
        helped = call(seqjax, name, "--help", cwd=elsewhere)
        flag = "--failed" if name == "gradient_flow" else "--config.train.steps"
        assert helped.returncode == 0 and flag in helped.stdout and not helped.stderr, name


def files_of_the_packages():
    """(name in a clone, name in a wheel) of each file that is installed, without what is built."""
    for name, target in (("seqjax", "seqjax"), ("experiments", "seqjax_experiments")):
        for path in (ROOT / name).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so":
                inside = path.relative_to(ROOT / name)
                yield f"{name}/{inside}", f"{target}/{inside}"


@pytest.mark.slow
def test_the_source_distribution_has_what_a_build_needs_and_no_more(sdist):
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "setup.py", "PKG-INFO"} <= inside
    assert {name for name, _ in files_of_the_packages()} <= inside
    assert not [name for name in inside if name.startswith(("tests", "benchmarks", "docs", ".")) or name.endswith((".so", ".pyc"))]


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_packages(installed):
    kind, _, folder, _ = installed
    if kind == "editable":
        pytest.skip("there is no wheel")
    (wheel,) = folder.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {target for _, target in files_of_the_packages()} <= inside
    assert "seqjax/py.typed" in inside and any(name.endswith(".dist-info/licenses/LICENSE") for name in inside)
    if native.find_compiler():
        assert "seqjax/engines/native/_kernels.so" in inside
    assert not [name for name in inside if not name.startswith(("seqjax/", "seqjax_experiments/", "seqjax-"))]
