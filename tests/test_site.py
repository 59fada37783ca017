"""The documentation as a site, without building it: every page is in the navigation, links work, the API is complete."""

import importlib
import inspect
import pathlib
import re

import pytest
import yaml

import seqjax

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
PACKAGES = ("nn", "cnn", "models", "text", "data", "decoding", "interop", "run")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", flags=re.DOTALL | re.MULTILINE)


def site():
    """mkdocs.yml, whose tags of Python are of no interest here."""
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def leaves(nav):
    """The files of a navigation, in order."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [leaf for part in parts for leaf in leaves(part)]


def anchors(text):
    """The anchors of a page's headings, as Python-Markdown's toc and GitHub both make them."""
    found = set()
    for line in FENCE.sub("", text).splitlines():
        if match := re.match(r"#{1,6} (.*)", line):
            plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", match[1]).lower()
            found.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip()))
    return found


def broken(path, text):
    """The relative links of a page that lead nowhere."""
    wrong = []
    for target in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        if not there.exists():
            wrong.append(target)
        elif anchor and there.suffix == ".md" and anchor not in anchors(there.read_text(encoding="utf-8")):
            wrong.append(target)
    return wrong


def test_every_page_is_in_the_navigation():
    pages = {str(path.relative_to(DOCS)) for path in PAGES}
    named = leaves(site()["nav"])
    assert set(named) == pages and len(named) == len(set(named))


@pytest.mark.parametrize("path", [ROOT / "README.md", *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    assert broken(path, path.read_text(encoding="utf-8")) == []


def test_a_broken_link_is_found():
    path = DOCS / "index.md"
    assert broken(path, "[a](nowhere.md) [b](results.md#nothing) [c](results.md#around-a-run) [d](https://a.b)") == [
        "nowhere.md",
        "results.md#nothing",
    ]


def shown():
    """What the API pages show, as dotted names."""
    return set(re.findall(r"^::: ([\w.]+)$", "".join(path.read_text("utf-8") for path in (DOCS / "api").glob("*.md")), re.MULTILINE))


def test_the_api_is_whole():
    public = {f"seqjax.{name}" for name in seqjax.__all__ if not inspect.ismodule(getattr(seqjax, name))}
    for package in PACKAGES:
        public |= {f"seqjax.{package}.{name}" for name in importlib.import_module(f"seqjax.{package}").__all__}
    simple = {name for name in public if inspect.isroutine(found(name)) or inspect.isclass(found(name))}
    assert simple - shown() == set()


def found(name):
    """The object of a dotted name."""
    module, _, last = name.rpartition(".")
    try:
        return importlib.import_module(name)
    except ImportError:
        return getattr(importlib.import_module(module), last)


def test_the_api_names_what_there_is():
    for name in shown():
        assert found(name) is not None, name


def test_the_build_is_strict():
    built = site()
    assert built["strict"] and built["validation"]["links"]["anchors"] == "warn"
