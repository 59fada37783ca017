"""Which packages there are; all else is in pyproject.toml.

The folder `experiments` is installed as the package `seqjax_experiments`, so that site-packages gets no top-level
package with a name that anybody could use.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["seqjax*"]), "seqjax_experiments"],
    package_dir={"seqjax_experiments": "experiments"},
)
