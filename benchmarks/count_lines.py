"""How many lines of code do the experiments have, including the parts of the driver that only they use?

Lines of code are lines that are neither blank nor a comment nor part of a docstring.

    python -m benchmarks.count_lines                    the working tree
    python -m benchmarks.count_lines 013f745 HEAD       several revisions
"""

import argparse
import ast
import io
import pathlib
import subprocess
import tokenize

ROOT = pathlib.Path(__file__).resolve().parents[1]
EXPERIMENTS = "experiments"
DRIVER = tuple(f"seqjax/run/{name}.py" for name in ("driver", "experiment", "evaluation", "resuming", "session", "parts"))
LAYOUT = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER,
}  # fmt: skip


def code_lines(source: str) -> int:
    """Lines of code of a file.

    Example:
      >>> code_lines('"About."\\n\\n# A remark.\\nx = 1\\n')
      1
    """
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in LAYOUT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
            lines.difference_update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def files(revision: str | None) -> list[str]:
    """Paths of the experiments and the driver in a revision; in the working tree for None."""
    if revision is None:
        found = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py")]
    else:
        found = _git("ls-tree", "-r", "--name-only", revision).splitlines()
    return sorted(path for path in found if path.endswith(".py") and (path.startswith(EXPERIMENTS + "/") or path in DRIVER))


def read(revision: str | None, path: str) -> str:
    """A file's text in a revision; in the working tree for None."""
    return (ROOT / path).read_text("utf-8") if revision is None else _git("show", f"{revision}:{path}")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=True, encoding="utf-8").stdout


def main() -> None:
    """Prints a table for each revision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", nargs="*", help="git revisions; the working tree where there is none")
    for revision in parser.parse_args().revision or [None]:
        total = 0
        print(revision or "working tree")
        for path in files(revision):
            source = read(revision, path)
            total += (count := code_lines(source))
            print(f"  {path:<48} {count:>5} of {len(source.splitlines()):>4} lines")
        print(f"  {'together':<48} {total:>5}")


if __name__ == "__main__":
    main()
