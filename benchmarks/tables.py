"""Do the tables in README.md and docs/ match benchmarks/results?

    python -m benchmarks.tables [--check]

Rewrites every block between `<!-- table: NAME -->` and `<!-- end -->` from the saved JSON and the saved runs, and draws
docs/images/speed.png and peers.png. With --check nothing is written: stale pages are named, and the exit status is 1. The numbers in a
block come from there; names, data sizes and remarks such as "busy" are in tables_runs.py.
"""

import argparse
import hashlib
import pathlib
import re

from benchmarks import common, plots, tables_runs, tables_speed

ROOT = pathlib.Path(__file__).parents[1]
BLOCK = re.compile(r"<!-- table: ([\w ]+) -->\n(.*?)<!-- end -->", re.DOTALL)
TABLES = tables_speed.TABLES | tables_runs.TABLES
PICTURES = ("speed", "peers")


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


def made_from() -> str:
    """The origin stored in the plots: the measurements they show."""
    return f"benchmarks/results/peers.json, SHA-256 {hashlib.sha256((common.RESULTS / 'peers.json').read_bytes()).hexdigest()}"


def stale_pictures() -> list[pathlib.Path]:
    """Plots drawn from measurements other than those saved."""
    paths = [plots.IMAGES / f"{name}.png" for name in PICTURES]
    return [path for path in paths if not path.exists() or made_from().encode() not in path.read_bytes()]


def draw() -> None:
    """Plots the geometric means over shapes of every library's time over ours, for forward and training; and all cases."""
    from benchmarks.peers import COLORS, plot

    rows = tables_speed.over_ours()
    figure, axes = plots.make(1, 2, (9.5, 3.9), sharey=True)
    for axis, what in zip(axes[0], ("forward", "training"), strict=True):
        for place, cell in enumerate(tables_speed.CELL_NAMES):
            shown = [name for name in COLORS if rows[cell, what].get(name)]
            height = 0.86 / len(COLORS)
            for k, name in enumerate(shown):
                y = place + (k - (len(shown) - 1) / 2) * height
                value = rows[cell, what][name]
                axis.barh(y, value, height * 0.92, color=COLORS[name], label=name if (place, what) == (0, "forward") else None)
                axis.text(value + 0.04, y, f"{value:.1f}", va="center", fontsize=7)
        axis.axvline(1, color="black", linewidth=1)
        axis.set_yticks(range(len(tables_speed.CELL_NAMES)), tables_speed.CELL_NAMES.values())
        axis.set_title(what)
        axis.set_xlabel("time / time of seqjax")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].invert_yaxis()
    figure.legend(loc="outside lower center", ncols=len(COLORS), fontsize="small", frameon=False)
    figure.suptitle("One layer on two CPU cores: other libraries beside seqjax (above 1: slower than seqjax)", fontsize="medium")
    plots.save(figure, "speed", made_from())
    plot(tables_speed.saved("peers")["cases"], "peers", made_from())


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
    if pictures := stale_pictures():
        print(*(path.relative_to(ROOT) for path in pictures), sep="\n")
        if not check:
            draw()
    if check and (found or pictures):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
