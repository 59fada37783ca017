"""The compiled library: where it is, what it can run on this processor, and its registration with XLA."""

import ctypes
import functools
import os
import warnings

import jax
import jax.numpy as jnp

from seqjax.engines.native import build
from seqjax.errors import UserError

TARGETS = ("seqjax_native_forward", "seqjax_native_backward")
THREADS = "seqjax_native_threads"
CHOICE = "SEQJAX_NATIVE_ISA"  # environment variable that selects an instruction set by name
WITHOUT = "SEQJAX_WITHOUT_NATIVE"  # environment variable that says that the library is missing on purpose


@functools.cache
def _load():
    """Returns (the library, None), or (None, the reason why there is none)."""
    path = build.HERE / build.LIBRARY
    if not path.exists():
        return None, "its library was not built: run `python -m seqjax.engines.native`, which needs a C++ compiler"
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return None, f"its library cannot be loaded ({error}): run `python -m seqjax.engines.native`"
    if not hasattr(library, "seqjax_native_sources"):
        return None, "its library is out of date: run `python -m seqjax.engines.native`"
    library.seqjax_native_sources.restype = ctypes.c_char_p
    if library.seqjax_native_sources().decode() != build.sources():
        return None, "its library was built from different sources: run `python -m seqjax.engines.native`"
    library.seqjax_native_runs.restype = ctypes.c_bool
    library.seqjax_native_runs.argtypes = [ctypes.c_char_p]
    for target in (*TARGETS, THREADS):
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, target)), platform="cpu")
    return library, None


def missing() -> str | None:
    """Returns why the library cannot be used, or None if it can."""
    return _load()[1]


@functools.cache
def say_missing(reason: str) -> None:
    """Warns once per process that "auto" would use this engine but cannot; SEQJAX_WITHOUT_NATIVE silences it."""
    if not os.environ.get(WITHOUT):
        message = f"seqjax runs slower than it could, without its native engine: {reason}. {WITHOUT}=1 silences this"
        warnings.warn(message, stacklevel=2)


def runs(instruction_set: str) -> bool:
    """Whether the library is present and this processor can run its kernels of that name."""
    library, _ = _load()
    return library is not None and library.seqjax_native_runs(instruction_set.encode())


@functools.cache
def threads() -> int:
    """Returns the number of threads of a call, those of XLA's pool; the same number gives bit-identical results."""
    return int(jax.ffi.ffi_call(THREADS, jax.ShapeDtypeStruct((), jnp.int32))())


def instruction_set() -> str:
    """Returns the instruction set in use: the fastest supported, or the one set by the environment variable.

    It is read when a run is traced; compiled programs keep theirs.

    Returns:
      A name in `build.INSTRUCTION_SETS`.

    Raises:
      UserError: the environment variable names an unknown set, or one that this processor does not support.
    """
    asked = os.environ.get(CHOICE)
    if asked is None:
        return next(name for name in build.INSTRUCTION_SETS if runs(name))
    if asked not in build.INSTRUCTION_SETS:
        raise UserError(f"{CHOICE} must be one of {', '.join(build.INSTRUCTION_SETS)}, got {asked!r}")
    if not runs(asked):
        raise UserError(f"{CHOICE} asks for {asked}, which this processor does not support; unset it")
    return asked
