"""Do the tables in README.md and docs/ match benchmarks/results?

    python -m benchmarks.tables [--check]

Rewrites every block between `<!-- table: NAME -->` and `<!-- end -->` from the saved JSON and the saved runs, and draws
the pictures of benchmarks/pictures.py in docs/images. With --check nothing is written: stale pages are named, and the exit status is 1. The
numbers in a block come from there; names, data sizes, remarks such as "busy" and published numbers are in tables_runs.py and
tables_experiments.py.
"""

import argparse
import pathlib
import re

from benchmarks import pictures, tables_experiments, tables_runs, tables_speed

ROOT = pathlib.Path(__file__).parents[1]
BLOCK = re.compile(r"<!-- table: ([\w ]+) -->\n(.*?)<!-- end -->", re.DOTALL)
TABLES = tables_speed.TABLES | tables_runs.TABLES | tables_experiments.TABLES


def pages() -> list[pathlib.Path]:
    """The README and every page of the documentation."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def redrawn(text: str) -> str:
    """A page with its blocks redrawn.

    Raises:
      KeyError: a block has a name that no table has.
    """
    return BLOCK.sub(lambda found: f"<!-- table: {found[1]} -->\n\n{TABLES[found[1]]().strip()}\n\n<!-- end -->", text)


def stale() -> list[pathlib.Path]:
    """Pages with a block that differs from the JSON."""
    return [path for path in pages() if redrawn(text := path.read_text(encoding="utf-8")) != text]


def main() -> None:
    """Rewrites the pages, or with --check only reports stale ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if anything is stale")
    check = parser.parse_args().check
    found = stale()
    for path in found:
        print(path.relative_to(ROOT))
        if not check:
            path.write_text(redrawn(path.read_text(encoding="utf-8")), encoding="utf-8")
    if old := pictures.stale():
        print(*(path.relative_to(ROOT) for path in old), sep="\n")
        if not check:
            pictures.draw([path.stem for path in old])
    if check and (found or old):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
