"""Strict by default: no rank promotion, warnings are errors. Quick compilation, kept in a cache that the workers share."""

import gc
import importlib.metadata
import os
import pathlib
import tempfile

import pytest

CACHE = pathlib.Path(os.environ.get("SEQJAX_CACHE", pathlib.Path(tempfile.gettempdir()) / "seqjax-test-cache"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")  # reading or writing a smaller one takes as long

# The programs of the tests are small, and compiling them takes far longer than running them: measured on the table of cells,
# 285 CPU seconds with all optimizations and 105 with these flags. XLA_FLAGS in the environment replaces them.
QUICK = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true", "--xla_cpu_parallel_codegen_split_count=1"]
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones end the process over a flag that they do not know
    QUICK.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(QUICK))

import hypothesis  # noqa: E402

# On a developer's machine the examples are new each time; where a run is to be repeatable they are not.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")

import jax  # noqa: E402  (the environment is read at import)
import selection  # noqa: E402
import shared_contexts  # noqa: E402
import whole_entries  # noqa: E402

whole_entries.install()
shared_contexts.install()

jax.config.update("jax_numpy_rank_promotion", "raise")

# What takes longest is begun first, so that no worker is left alone with it; the order of the files is free otherwise.
LONG = ("experiments", "engines", "cells", "cnn", "models", "training")
# Files that use the runs of the table of experiments: what uses one experiment's run is for one worker, so that each is made once.
OF_THE_RUNS = (
    "every_experiment", "dna", "forecasting", "image_classification", "music", "speech", "tagging", "text_classification", "translation",
    "video",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is marked slow
def pytest_collection_modifyitems(items):
    selection.mark(items)
    folders = {name: place for place, name in enumerate(LONG)}
    shared_runs = tuple(f"test_{name}.py" for name in OF_THE_RUNS)
    items.sort(key=lambda item: (item.path.name not in shared_runs, folders.get(item.path.parent.name, len(LONG))))


def pytest_collection_finish():
    gc.freeze()  # thousands of tests and all that they import stay to the end: the collector need not look at them again
    gc.set_threshold(50_000, 20, 100)  # tracing makes and drops many small objects: looking at them less often saves 5% of all


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A worker takes a whole file at a time, as with --dist loadfile; of the table of experiments all that is about one of them."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            name = next((name for name in OF_THE_RUNS if file.endswith(f"experiments/test_{name}.py")), None)
            if name == "every_experiment":  # its parameter begins with the experiment's name
                name = nodeid.partition("[")[2].rstrip("]").split("-")[0] or name
            return file if name is None else f"runs of {name}"

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


# Data that only this project's developers have; tests that need it skip and say so.
SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


# Each compiled program holds about 8 memory maps, of which a process may have 65,530 on Linux (beyond that, loading another one is
# a segmentation fault, and the whole suite comes there), and about 1 MB.
MAPS = pathlib.Path("/proc/self/maps")


def many_maps():
    """Of how many maps a worker lets go: 9,600 with 16 GB of memory; with 6,800 one held 2 GB."""
    return min(600 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30, 30_000)


@pytest.fixture(scope="module", autouse=True)
def executables_are_let_go():
    """Frees what the tests compiled once it is much: until then a file finds the small programs that all files use."""
    yield
    if not MAPS.exists() or MAPS.read_bytes().count(b"\n") > many_maps():
        jax.clear_caches()


@pytest.fixture
def shared():
    """The developers' data folder beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("needs the developers' data folder ../shared, which is not on this machine")
    return SHARED


@pytest.fixture
def x64():
    """64-bit JAX for the length of one test."""
    with jax.enable_x64(True):
        yield
