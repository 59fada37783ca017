"""Strict by default: no rank promotion, warnings are errors, a compilation cache shared by all runs of the tests."""

import os
import pathlib
import tempfile

import pytest

CACHE = pathlib.Path(os.environ.get("SEQJAX_CACHE", pathlib.Path(tempfile.gettempdir()) / "seqjax-test-cache"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import hypothesis  # noqa: E402

# On a developer's machine the examples are new each time; where a run is to be repeatable they are not.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")

import jax  # noqa: E402  (the environment is read at import)

jax.config.update("jax_numpy_rank_promotion", "raise")

# Data that only this project's developers have; tests that need it skip and say so.
SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="module", autouse=True)
def executables_are_let_go():
    """Frees what a file's tests compiled: each program holds memory maps, of which a process may have 65,530 on Linux.

    Beyond that, loading another one is a segmentation fault, and the whole suite comes there.
    """
    yield
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
