"""Rebuilds the tour from tour.py: runs it, and writes tour.ipynb with its outputs, tour.md for the site, and the pictures of that.

    python docs/learn/build.py            runs the notebook (about five minutes on two cores) and writes all
    python docs/learn/build.py --no-run   keeps the outputs of tour.ipynb: for changes to the text alone

Running needs `pip install -e '.[docs,experiments]'`; the rest of this file needs Python alone, so that tests can use it anywhere.
"""

import ast
import base64
import io
import json
import pathlib
import re
import sys
import tomllib
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PICTURES = HERE / "images" / "tour"
LINK = re.compile(r"\[([^\]]*)\]\(\.\./\.\./([\w./]+)\)")  # to a file of the repository
TIMEOUT = 1200  # seconds for the slowest cell
COLOURS = 128  # of a picture's palette
METADATA = {
    "jupytext": {"formats": "ipynb,py:percent"},  # Jupyter then keeps both files in step
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}

Cell = tuple[str, str]  # "markdown" or "code", and the source


def parse(text: str) -> list[Cell]:
    """The cells of a script in the percent format."""
    cells = []
    for part in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        if head.strip() == "[markdown]":
            cells.append(("markdown", "\n".join(line.removeprefix("#").removeprefix(" ") for line in body.strip("\n").split("\n"))))
        else:
            cells.append(("code", body.strip("\n")))
    return cells


def cells_of(notebook: dict[str, Any]) -> list[Cell]:
    """The same of a notebook."""
    return [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]


def title_of(source: str) -> str | None:
    """What a cell's call of `finish` calls its picture; None where the cell draws none. Names in braces are left as they are."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "finish":
            parts = node.args[0].values if isinstance(node.args[0], ast.JoinedStr) else [node.args[0]]
            return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in parts)
    return None


def render(notebook: dict[str, Any], repository: str | None) -> tuple[str, dict[str, bytes]]:
    """The notebook as a page of the site.

    Args:
      notebook: with outputs, as JSON has it.
      repository: where files of the repository are linked to; without one they are named and not linked.

    Returns:
      (the page, pictures by file name).
    """

    def linked(found):
        return f"[{found[1]}]({repository}/blob/main/{found[2]})" if repository else found[1]

    page, pictures, section = [], {}, 0
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            section = int(found[1]) if (found := re.search(r"^## (\d+)\.", source, flags=re.MULTILINE)) else section
            page.append(LINK.sub(linked, source))
            continue
        page.append(f"```python\n{source}\n```")
        texts = ["".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream"]
        if texts:
            page.append("```text\n" + "".join(texts).rstrip("\n") + "\n```")
        for output in cell["outputs"]:
            if "image/png" in output.get("data", {}):
                name = f"{section:02}.png"
                pictures[name] = base64.b64decode("".join(output["data"]["image/png"]))
                page.append(f"![{title_of(source)}](images/tour/{name})")
    page.insert(1, where(repository))
    return "\n\n".join(page) + "\n", pictures


def where(repository: str | None) -> str:
    """Where the notebook of the page is, and how to run it: in Colab too, which opens what is on GitHub."""
    note = "This page is a notebook, `docs/learn/tour.ipynb`"
    if not repository:
        return f"{note}."
    github = repository.partition("://github.com/")[2]
    colab = f", or [run it in Colab](https://colab.research.google.com/github/{github}/blob/main/docs/learn/tour.ipynb)" if github else ""
    return f"{note}: [see it in the repository]({repository}/blob/main/docs/learn/tour.ipynb){colab}."


def repository_url() -> str | None:
    """The address of the repository, where pyproject.toml has one."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})
    return next((url.rstrip("/") for name, url in urls.items() if name.lower() in ("repository", "source")), None)


def execute() -> dict[str, Any]:
    """Runs tour.py as a notebook; gives it with its outputs, without what changes from run to run."""
    import jupytext
    import nbclient

    notebook = jupytext.read(HERE / "tour.py")
    nbclient.NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": str(HERE)}}).execute()
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"tour-{number}", {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output.metadata, output.data = {}, {"image/png": smaller(output.data["image/png"])}
    return json.loads(json.dumps(notebook))


def smaller(picture: str) -> str:
    """A PNG with a palette, both as base64."""
    from PIL import Image

    written = io.BytesIO()
    whole = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    whole.quantize(COLOURS, dither=Image.Dither.NONE).save(written, "PNG", optimize=True)
    return base64.b64encode(written.getvalue()).decode()


def with_sources(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook with the markdown of tour.py; the code must be what its outputs are of."""
    cells = parse((HERE / "tour.py").read_text(encoding="utf-8"))
    if [source for kind, source in cells if kind == "code"] != [source for kind, source in cells_of(notebook) if kind == "code"]:
        sys.exit("the code has changed since tour.ipynb was run; run it again, without --no-run")
    codes = iter([cell for cell in notebook["cells"] if cell["cell_type"] == "code"])
    made = []
    for number, (kind, source) in enumerate(cells):
        cell = next(codes) if kind == "code" else {"cell_type": kind, "metadata": {}, "source": source}
        made.append(cell | {"id": f"tour-{number}"})
    return notebook | {"cells": made}


def write(notebook: dict[str, Any]) -> None:
    """Writes tour.ipynb, tour.md and the pictures."""
    notebook = notebook | {"metadata": METADATA}
    (HERE / "tour.ipynb").write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    page, pictures = render(notebook, repository_url())
    (HERE / "tour.md").write_text(page, encoding="utf-8")
    PICTURES.mkdir(parents=True, exist_ok=True)
    for old in PICTURES.glob("*.png"):
        old.unlink()
    for name, data in pictures.items():
        (PICTURES / name).write_bytes(data)


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--no-run"]):
        sys.exit(__doc__)
    write(execute() if not sys.argv[1:] else with_sources(json.loads((HERE / "tour.ipynb").read_text(encoding="utf-8"))))
