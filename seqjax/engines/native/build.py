"""Compiles the kernels into one library: `python -m seqjax.engines.native`, and setup.py where the package is installed.

It needs a C++17 compiler (the environment variable CXX, else c++, g++ or clang++) and jaxlib, whose headers say how XLA calls
a library. Nothing of seqjax or JAX is imported here, so that setup.py can run this file by itself.
"""

import concurrent.futures
import hashlib
import importlib.util
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
LIBRARY = "_kernels.so"
COMMON = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")
KERNELS = ("-fno-exceptions", "-fno-rtti", "-fno-math-errno", "-ffp-contract=fast", "-Wno-psabi")  # no vector crosses object files
# Compiler flags, floats per vector, and vectors per panel: as many sums as there are registers for.
INSTRUCTION_SETS = {
    "avx512": (("-mavx512f", "-mfma", "-mprefer-vector-width=512"), 16, 4),
    "avx2": (("-mavx2", "-mfma"), 8, 2),
    "portable": ((), 4, 2),
}


class BuildError(Exception):
    """The library could not be built."""


def find_compiler() -> str | None:
    """Returns the C++ compiler, or None if there is none."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return next(filter(None, map(shutil.which, names)), None)


def find_headers() -> pathlib.Path | None:
    """Returns the directory of XLA's headers inside jaxlib, or None if jaxlib is not installed."""
    found = importlib.util.find_spec("jaxlib")
    folders = (found and found.submodule_search_locations) or []
    return next((pathlib.Path(f) / "include" for f in folders if (pathlib.Path(f) / "include/xla/ffi/api/ffi.h").exists()), None)


def instruction_sets() -> list[str]:
    """Returns the instruction sets that this machine's compiler can build, fastest first."""
    return list(INSTRUCTION_SETS) if platform.machine() in ("x86_64", "AMD64") else ["portable"]


def kernel_flags(name: str) -> list[str]:
    """Returns the compiler flags of kernels.cc for an instruction set."""
    flags, lanes, vectors = INSTRUCTION_SETS[name]
    return [*KERNELS, *flags, f"-DISA={name}", f"-DLANES={lanes}", f"-DPANEL_VECTORS={vectors}"]


def sources() -> str:
    """Returns a digest of the library's sources: a library built from other sources is not used."""
    files = [pathlib.Path(__file__), *sorted((HERE / "src").iterdir())]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]


def build(target: pathlib.Path = HERE / LIBRARY) -> pathlib.Path:
    """Compiles the library.

    Args:
      target: the file to write, replaced atomically when the build is complete.

    Returns:
      The file.

    Raises:
      BuildError: there is no compiler, no jaxlib, or the compiler failed.
    """
    compiler, headers = find_compiler(), find_headers()
    if compiler is None:
        raise BuildError("no C++ compiler was found: install one (g++ or clang++), or name it in the environment variable CXX")
    if headers is None:
        raise BuildError("jaxlib is not installed, but its headers are needed")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        parts = {"call": ["-I", str(headers), f"-DSOURCES={sources()}"], **{name: kernel_flags(name) for name in instruction_sets()}}

        def compile_one(name):
            source = HERE / "src" / ("call.cc" if name == "call" else "kernels.cc")
            made = f"{folder}/{name}.o"
            _run([compiler, *COMMON, *parts[name], "-c", str(source), "-o", made])
            return made

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, parts))
        library = pathlib.Path(folder) / LIBRARY
        _run([compiler, "-shared", *objects, "-o", str(library), "-pthread"])
        library.replace(target)
    return target


def _run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"the compiler failed: {' '.join(command)}\n{done.stderr[-4000:]}")
