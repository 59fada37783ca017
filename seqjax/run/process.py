"""Settings of the whole process that make training start and run faster; for commands, never on import."""

import ctypes
import os
import pathlib

import jax


def use_compilation_cache() -> None:
    """Keeps compiled programs between processes, in ~/.cache/seqjax unless JAX_COMPILATION_CACHE_DIR names a folder."""
    if not jax.config.jax_compilation_cache_dir:
        base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(base / "seqjax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def keep_freed_memory() -> bool:
    """Tells the C library to keep what a step frees for the next step, instead of giving it back to the system.

    Without it every training step on a CPU maps its large temporaries anew and the kernel fills them with zeros page by
    page: measured on 2 cores, the median step of 32 x 64 characters took 45 ms and takes 39, one of 20 x 35 words with a
    vocabulary of 33,280 took 489 ms and takes 295 (benchmarks/memory_reuse.py). The memory stays with the process.

    Returns:
      False where the C library is not glibc and nothing was changed.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8  # malloc.h
    # One arena: those of other threads cannot hold blocks above 64 MiB and would map them anew.
    return all([mallopt(m_arena_max, 1), mallopt(m_mmap_max, 0), mallopt(m_trim_threshold, 2**31 - 1)])
