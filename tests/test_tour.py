"""The tour: its three files are in step, what they point at exists, and (slow) every assertion in it holds."""

import ast
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LEARN = ROOT / "docs" / "learn"
_spec = importlib.util.spec_from_file_location("tour_build", LEARN / "build.py")
build = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build)

SCRIPT = (LEARN / "tour.py").read_text(encoding="utf-8")
NOTEBOOK = json.loads((LEARN / "tour.ipynb").read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
NAMED = re.compile(r"\[`(\w[\w/.]*\.py)` · `(\w+)`\]\(\.\./\.\./(\S+?)\)")


def sections():
    """(heading, text, code) of each numbered section."""
    found = []
    for kind, source in build.parse(SCRIPT):
        if kind == "markdown":
            found.append((source.split("\n")[0], source, []))
        else:
            found[-1][2].append(source)
    return [section for section in found if re.match(r"## \d+\. ", section[0])]


def test_the_notebook_is_the_script():
    assert build.cells_of(NOTEBOOK) == build.parse(SCRIPT)


def test_the_page_and_its_pictures_are_the_notebook():
    page, pictures = build.render(NOTEBOOK, build.repository_url())
    assert (LEARN / "tour.md").read_text(encoding="utf-8") == page
    assert {path.name: path.read_bytes() for path in build.PICTURES.glob("*.png")} == pictures
    assert all(f"](images/tour/{name})" in page for name in pictures)


def test_the_notebook_was_run_from_top_to_bottom():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    for cell in CODE:
        images = [output for output in cell["outputs"] if "image/png" in output.get("data", {})]
        assert len(images) == (build.title_of("".join(cell["source"])) is not None)
        assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in cell["outputs"])


def test_the_notebook_is_small():
    assert (LEARN / "tour.ipynb").stat().st_size < 1_200_000


def test_every_section_has_an_equation_a_fact_and_a_picture():
    assert [int(re.search(r"\d+", heading)[0]) for heading, _, _ in sections()] == list(range(1, len(sections()) + 1))
    for heading, text, code in sections():
        assert "$$" in text, heading
        assert NAMED.search(text), heading
        assert sum(build.title_of(source) is not None for source in code) == 1, heading
        assert any(isinstance(node, ast.Assert) for source in code for node in ast.walk(ast.parse(source))), heading


def test_what_is_named_exists():
    named = NAMED.findall(SCRIPT)
    assert len(named) == SCRIPT.count("](../../") > 25 and all(shown == path for shown, _, path in named)
    for path, name, _ in named:
        defined = {node.name for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))) if hasattr(node, "name")}
        assert name in defined, (path, name)


def test_the_lines_shown_are_those_of_the_code():
    shown = re.findall(r"^(seqjax/\S+\.py) · \w+:  (.+)$", "".join(text for cell in CODE for text in _printed(cell)), flags=re.MULTILINE)
    assert len(shown) > 25
    for path, code in shown:
        assert code in {line.strip() for line in (ROOT / path).read_text(encoding="utf-8").split("\n")}, (path, code)


def _printed(cell):
    return ["".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream"]


def test_a_changed_cell_is_noticed():
    script = SCRIPT.replace('letters = "helo"', 'letters = "hole"')
    assert script != SCRIPT and build.parse(script) != build.cells_of(NOTEBOOK)


@pytest.mark.slow
def test_every_assertion_holds(tmp_path):
    """As a script, without a notebook around it, at full optimization: the numbers that it asserts are those of a user."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, LEARN / "tour.py"], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=1200)
    assert run.returncode == 0, run.stderr[-3000:]
