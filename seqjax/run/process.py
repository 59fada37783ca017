"""Process-wide settings that make training start and run faster; set by commands, never on import."""

import ctypes
import os
import pathlib
import sys
import tempfile
import time
import zlib
from collections.abc import Callable

import jax

ENTRY = "-cache"  # suffix of a compiled program in JAX's cache
CHECKED = ".seqjax-checked"  # its mtime is that of the newest entry that was checked
JUST_WRITTEN = 2.0  # seconds for which another process may still be writing an entry
LONGEST_CHECK = 1.0  # seconds; what is left is checked at the next start


def use_compilation_cache() -> None:
    """Keeps compiled programs between processes, in ~/.cache/seqjax unless JAX_COMPILATION_CACHE_DIR names a folder.

    JAX never replaces an entry, not even one that it cannot read: entries that a full disk or a crash cut short are removed
    first, with a line on standard error. Where the folder cannot be written, a line says so and nothing is kept.
    """
    if not jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(base / "seqjax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    name = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if "://" in name:  # not a local folder
        return
    folder = pathlib.Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(4096))
        removed = remove_damaged_entries(folder)
    except OSError as error:
        jax.config.update("jax_compilation_cache_dir", None)
        print(
            f"the compilation cache {folder} cannot be used: {error.strerror}; compiled programs are not kept "
            "(JAX_COMPILATION_CACHE_DIR names another folder)",
            file=sys.stderr,
        )
        return
    if removed:
        entries = "1 damaged entry" if removed == 1 else f"{removed} damaged entries"
        print(f"removed {entries} from the compilation cache {folder}", file=sys.stderr)


def cache_folder() -> str:
    """The folder of the compilation cache, where other things are kept too; "" if there is none on this machine."""
    name = jax.config.jax_compilation_cache_dir or ""  # pyright: ignore[reportAttributeAccessIssue]
    return "" if "://" in name else name


def remove_damaged_entries(folder: pathlib.Path) -> int:
    """Removes entries of JAX's compilation cache that are empty or cannot be decompressed.

    Empty ones are found by their size. The others are read once: the time of a file in the folder says up to which entry
    all were found whole. Measured on 2,000 entries of 7 kB each on average: 0.4 s the first time, 25 ms after.

    Returns:
      How many were removed.

    Raises:
      OSError: the folder cannot be read, or an entry cannot be removed.
    """
    end, now = time.monotonic() + LONGEST_CHECK, time.time_ns()
    found = []
    with os.scandir(folder) as files:
        for file in files:
            try:
                if file.name.endswith(ENTRY) and file.is_file():
                    found.append((file.stat().st_mtime_ns, file.stat().st_size, file.path))
            except FileNotFoundError:
                continue  # another process has just removed it
    marker = folder / CHECKED
    since = marker.stat().st_mtime_ns if marker.exists() else 0
    settled = sorted(entry for entry in found if entry[0] < now - int(JUST_WRITTEN * 1e9))
    damaged = [path for _, size, path in settled if size == 0]
    decompress, upto = _decompressor(), since
    for changed, _, path in (entry for entry in settled if entry[0] > since and entry[1]):
        if time.monotonic() > end:
            break
        if not _is_whole(path, decompress):
            damaged.append(path)
        upto = changed
    for path in damaged:
        pathlib.Path(path).unlink(missing_ok=True)
    if upto > since:
        marker.touch()
        os.utime(marker, ns=(upto, upto))
    return len(damaged)


def _is_whole(path: str, decompress: Callable[[bytes], bytes]) -> bool:
    try:
        decompress(pathlib.Path(path).read_bytes())
    except FileNotFoundError:
        return True  # another process has just removed it
    except Exception:  # each library has errors of its own; JAX takes any for an entry that it cannot read
        return False
    return True


def _decompressor() -> Callable[[bytes], bytes]:
    """The decompressor that this JAX uses for its entries: zstd if a library is installed, else zlib."""
    try:
        from compression import zstd  # pyright: ignore[reportMissingImports]  # from Python 3.14 on

        return zstd.decompress
    except ImportError:
        pass
    try:
        import zstandard
    except ImportError:
        return zlib.decompress
    return lambda data: zstandard.ZstdDecompressor().decompress(data)


def keep_freed_memory() -> bool:
    """Tells the C library to keep what a step frees for the next step, instead of giving it back to the system.

    Without it every training step on a CPU maps its large temporaries again and the kernel fills them with zeros page by
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
    # One arena: those of other threads cannot hold blocks above 64 MiB and would map them again.
    return all([mallopt(m_arena_max, 1), mallopt(m_mmap_max, 0), mallopt(m_trim_threshold, 2**31 - 1)])


_IMPORTED = time.perf_counter()


def seconds_since_start() -> float:
    """Seconds since the process started, including imports; since the import of this module if the system does not say."""
    try:
        fields = pathlib.Path("/proc/self/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, IndexError, ValueError):
        return time.perf_counter() - _IMPORTED
