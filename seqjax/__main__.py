"""Runs an experiment from any folder: `seqjax NAME --workdir=...`, or `python -m seqjax NAME --workdir=...`.

NAME is an experiment of the project, or the path of a file of your own. All further arguments go to the experiment:
`seqjax NAME --help` lists its flags.
"""

import ast
import difflib
import os
import pathlib
import runpy
import sys
from typing import NoReturn

# Next to the package: the first in an installed wheel, the second in a clone.
FOLDERS = ("seqjax_experiments", "experiments")


def main(argv: list[str] | None = None) -> None:
    """Runs the experiment named on the command line, as `python FILE` would, and exits.

    Args:
      argv: the program's name and its arguments; the process's own by default.
    """
    argv = sys.argv if argv is None else argv
    if len(argv) < 2 or argv[1] in ("--help", "-h", "help"):
        print(usage(), end="")
        sys.exit(0)
    path = find(argv[1])
    sys.argv = [str(path), *argv[2:]]
    sys.path.insert(0, str(path.absolute().parent))  # as Python does, so the file can import its neighbours
    runpy.run_path(str(path), run_name="__main__")
    refuse(f"{path} ran to its end without starting an experiment; its last lines must call run.main(EXPERIMENT)")


def experiments() -> dict[str, pathlib.Path]:
    """The project's experiments: name -> file.

    Example:
      >>> "language_model" in experiments()
      True
    """
    for name in FOLDERS:
        folder = pathlib.Path(__file__).absolute().parents[1] / name
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")}
    return {}


def find(name: str) -> pathlib.Path:
    """Returns the file of an experiment given by name or by path; exits with an error if there is none.

    Example:
      >>> find("tagging").name
      'tagging.py'
    """
    known = experiments()
    if name in known:
        return known[name]
    path = pathlib.Path(name).expanduser()
    if path.suffix == ".py" or os.sep in name:
        if not path.is_file():
            refuse(f"there is no file {name}")
        return path
    if name.startswith("-"):
        refuse(f"the experiment's name comes first: seqjax NAME {name} ...; seqjax --help lists the experiments")
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    refuse(f"there is no experiment {name!r}; {advice} (a file of your own is given by its path, such as ./mine.py)")


def usage() -> str:
    """Returns the --help text: the usage, and each experiment with the first line of its docstring."""
    known = experiments()
    width = max(map(len, known), default=0)
    lines = [
        "Trains, resumes, evaluates and applies an experiment.",
        "",
        "    seqjax NAME --workdir=DIR          trains; the same command resumes",
        "    seqjax NAME --help                 lists its presets, settings, modes and flags",
        "    seqjax ./mine.py --workdir=DIR     runs an experiment of your own",
        "",
        "Experiments:",
        "",
    ]
    return "\n".join(lines + [f"    {name:<{width}}  {_first_line(path)}" for name, path in known.items()]) + "\n"


def _first_line(path: pathlib.Path) -> str:
    """Returns the first line of a file's docstring, without importing the file."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def refuse(message: str) -> NoReturn:
    """Prints one line on standard error and exits with the status for wrong usage."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
