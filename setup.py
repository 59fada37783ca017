"""Which packages there are, and the native engine's library; all else is in pyproject.toml.

The folder `experiments` is installed as the package `seqjax_experiments`, so that site-packages gets no top-level
package with a name that anybody could use.

The library is built where there is a C++ compiler, by `seqjax/engines/native/build.py`. An install without one works, and
says so: `auto` then takes other engines.
"""

import importlib.util
import pathlib

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

NATIVE = "seqjax.engines.native"


class BuildNative(build_ext):
    """Builds the library by the package's own file, since each instruction set needs flags of its own."""

    def build_extension(self, ext):
        """Compiles into the folder that setuptools asks for; a failure is a warning, since the extension is optional."""
        spec = importlib.util.spec_from_file_location("native_build", pathlib.Path(*NATIVE.split("."), "build.py").resolve())
        native = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(native)
        try:
            native.build(pathlib.Path(self.get_ext_fullpath(ext.name)).resolve())
        except native.BuildError as error:
            raise CompileError(f"seqjax's native engine was not built: {error}") from error

    def get_ext_filename(self, ext_name):
        """The library has one name everywhere, since it is no Python module."""
        return str(pathlib.Path(*ext_name.split("."))) + ".so"


setup(
    packages=[*find_packages(include=["seqjax*"]), "seqjax_experiments"],
    package_dir={"seqjax_experiments": "experiments"},
    package_data={"seqjax": ["py.typed"], NATIVE: ["src/*"]},
    ext_modules=[Extension(f"{NATIVE}._kernels", sources=[], optional=True)],
    cmdclass={"build_ext": BuildNative},
)
