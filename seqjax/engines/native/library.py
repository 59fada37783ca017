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
CHOICE = "SEQJAX_NATIVE_ISA"  # environment variable that asks for an instruction set by name
WITHOUT = "SEQJAX_WITHOUT_NATIVE"  # environment variable that says that the library is left out on purpose


@functools.cache
def _load():
    """(the library, None), or (None, why there is none)."""
    path = build.HERE / build.LIBRARY
    if not path.exists():
        return None, "its library was not built: run `python -m seqjax.engines.native`, which needs a C++ compiler"
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return None, f"its library cannot be loaded ({error}): run `python -m seqjax.engines.native`"
    if not hasattr(library, "seqjax_native_sources"):
        return None, "its library is an older one: run `python -m seqjax.engines.native`"
    library.seqjax_native_sources.restype = ctypes.c_char_p
    if library.seqjax_native_sources().decode() != build.sources():
        return None, "its library was built from other sources than those here: run `python -m seqjax.engines.native`"
    library.seqjax_native_runs.restype = ctypes.c_bool
    library.seqjax_native_runs.argtypes = [ctypes.c_char_p]
    for target in (*TARGETS, THREADS):
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, target)), platform="cpu")
    return library, None


def missing() -> str | None:
    """Why the library cannot be used, or None where it can."""
    return _load()[1]


@functools.cache
def say_missing(reason: str) -> None:
    """Warns, once a process, that "auto" would take this engine and cannot; not where SEQJAX_WITHOUT_NATIVE says that it knows."""
    if not os.environ.get(WITHOUT):
        message = f"seqjax runs slower than it could, without its native engine: {reason}. {WITHOUT}=1 silences this"
        warnings.warn(message, stacklevel=2)


def runs(instruction_set: str) -> bool:
    """Whether the library is there and this processor runs its kernels of that name."""
    library, _ = _load()
    return library is not None and library.seqjax_native_runs(instruction_set.encode())


@functools.cache
def threads() -> int:
    """How many threads a call has, which are those of XLA's pool; results are the same bits for the same number."""
    return int(jax.ffi.ffi_call(THREADS, jax.ShapeDtypeStruct((), jnp.int32))())


def instruction_set() -> str:
    """The one that kernels run with: the fastest that the processor has, or what the environment variable asks for.

    It is read when a run is traced; what is compiled already keeps its own.

    Returns:
      A name in `build.INSTRUCTION_SETS`.

    Raises:
      UserError: the environment variable asks for one that is unknown, or that this processor does not run.
    """
    asked = os.environ.get(CHOICE)
    if asked is None:
        return next(name for name in build.INSTRUCTION_SETS if runs(name))
    if asked not in build.INSTRUCTION_SETS:
        raise UserError(f"{CHOICE} must be one of {', '.join(build.INSTRUCTION_SETS)}, got {asked!r}")
    if not runs(asked):
        raise UserError(f"{CHOICE} asks for {asked}, which this processor does not run; unset it")
    return asked
