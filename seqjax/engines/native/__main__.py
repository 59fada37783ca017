"""Builds the library: `python -m seqjax.engines.native`."""

import sys

from seqjax.engines.native import build

if __name__ == "__main__":
    try:
        print(build.build())
    except build.BuildError as error:
        sys.exit(f"seqjax's native engine was not built: {error}")
