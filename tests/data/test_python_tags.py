"""Python's own tokens: the tag of every name, against its syntax tree, and the same set on every run."""

import ast
import inspect
import os
import subprocess
import sys
from collections import Counter, defaultdict

import pytest

from seqjax.data.readers import python_tags
from seqjax.data.readers.python_tags import PYTHON_TAGS, tag_python
from seqjax.data.tagged import load_tagged
from seqjax.errors import UserError
from seqjax.run.baselines import most_frequent_tags


def one_line(error):
    message = str(error.value)
    assert "\n" not in message and len(message) > 20
    return message


SHORT = {"K": "KEYWORD", "O": "OPERATOR", "N": "NUMBER", "S": "STRING", "U": "USE", "D": "DEFINE", "C": "CALL"}
SHORT |= {"F": "FUNCTION", "T": "CLASS", "P": "PARAMETER", "A": "ARGUMENT", "I": "IMPORT", "M": "METHOD"}
SHORT |= {".": "ATTRIBUTE", "=": "FIELD"}
SNIPPETS = [
    ("def f(a, /, b: int = c, *d, e=1, **g) -> h: pass", "K F O P O O O P O U O U O O P O P O N O O P O O U O K"),
    ("def outer(x):\n  def inner(y): return x(y)\n  return inner", "K F O P O O | K F O P O O K C O U O | K U"),
    ("async def f(): await g()", "K K F O O O K C O O"),
    ("class A(B, metaclass=M): x: int = 1", "K T O U O A O U O O D O U O N"),
    ("@a.b(c)\nclass D: pass", "O U O M O U O | K T O K"),
    ("y = [x.z for x in xs if x]", "D O O U O . K D K U K U O"),
    ("{k: v for k, v in d.items()}", "O U O U K D O D K U O M O O O"),
    ("if (n := len(a)) > 1: pass", "K O D O C O U O O O N O K"),
    ("f(a, b=c, *d, **e)", "C O U O A O U O O U O O U O"),
    ("f(a)(b)[c].d.e(g)", "C O U O O U O O U O O . O M O U O"),
    ("x.y.z = w.v", "U O . O = O U O ."),
    ("x.y += 1; x[i] = y", "U O = O N O U O U O O U"),
    ("a, (b, *c) = d", "D O O D O O D O O U"),
    ("del a, b.c, d[e]", "K D O U O = O U O U O"),
    ("for i, s.t in u: pass", "K D O U O = K U O K"),
    ("with a as b, c() as d.e: pass", "K U K D O C O O K U O = O K"),
    ("try: pass\nexcept (E, F) as e: raise G from e", "K O K | K O U O U O K D O K C K U".replace("C", "U")),
    ("import a.b as c, d", "K I O I K I O I"),
    ("from .. a.b import (c as d,\n  e)", "K O O I O I K O I K I O I O"),
    ("from . import *", "K O K O"),
    ("global a, b", "K D O D"),
    ("f = lambda a, *b: a + b", "D O K P O O P O U O U"),
    ("print(None, True, ..., not x)", "C O K O K O O O K U O"),
    ("match = type(case)", "D O C O U O"),
    ("import type, match", "K I O I"),
    ("x = y.match(type=1).type", "D O U O M O A O N O O ."),
    ("é = ü.ñ(ß, ö=ä)  # à", "D O U O M O U O A O U O"),
    ("'日本', x, y.ж(z)", "S O U O U O M O U O"),
    ("x = f'{a!r:>{b}} {c(d)}' 'e' + f", "D O S S O U"),
    ("x = f'''é{\na}\n''' + b; c = d", "D O S O U O D O U"),
    ("x = 1 + \\\n  y", "D O N O U"),
    ("x = (a,  # é\n     b)", "D O O U O U O"),
    ("# only\n'''doc\nstring'''\nx", "S | U"),
    (
        "match a.b:\n case P(x, y=z) as w: pass\n case [q, *r] | {1: s, **t}: pass\n case A.B | _: pass\n case type: pass",
        "K U O . O | K U O D O A O D O K D O K | K O D O O D O O O N O D O O D O O K | K U O . O K O K | K D O K",
    ),
]


@pytest.mark.parametrize("source, expected", SNIPPETS, ids=[source[:30] for source, _ in SNIPPETS])
def test_python_tags_of_snippets(source, expected):
    found = tag_python(source + "\n")
    assert [list(tags) for _, tags in found] == [[SHORT[t] for t in tags.split()] for tags in expected.split("|")]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="syntax of Python 3.12")
def test_type_parameters_are_definitions():
    assert tag_python("def f[T: int, *Ts, **P](x: T): pass\ntype X = T\n") == [
        (
            tuple("def f [ T : int , * Ts , ** P ] ( x : T ) : pass".split()),
            tuple(SHORT[t] for t in "K F O D O U O O D O O D O O P O U O O K".split()),
        ),
        (("type", "X", "=", "T"), tuple(SHORT[t] for t in "K D O U".split())),
    ]


@pytest.mark.parametrize(
    "source, word",
    [
        ("'twelve char'", "'twelve...'"),
        ("'ten chars!'", None),
        ("'tenchars!!'", "'tenchars!!'"),
        ("'more than twelve'", "'...'"),
        ('Rb"more than twelve"', 'Rb"..."'),
        ("'''a\nb'''", "'''...'''"),
        ("f'{a} {b}'", "f'...'"),
        ("f'{a}'", "f'{a}'"),
        ("f'{x[\"k\"]}{y}{z}'", "f'...'"),
        ("''", "''"),
        ("'it\\'s a long one'", "'...'"),
    ],
)
def test_long_strings_are_shortened(source, word):
    word = {"'twelve...'": "'...'", None: "'...'"}.get(word, word)  # white space shortens too
    assert tag_python(f"x = {source}\n")[0][0] == ("x", "=", word)


def test_python_tags_agree_with_the_syntax_tree_that_knows_no_places():
    """The names of every kind, counted in the tree without their places, over whole files."""
    import argparse
    import dataclasses

    for module in (argparse, dataclasses, sys.modules[__name__]):
        source = inspect.getsource(module)
        found = defaultdict(Counter)
        for words, tags in tag_python(source):
            for word, tag in zip(words, tags, strict=True):
                found[tag][word] += 1
        expected = defaultdict(Counter)
        waiting = [ast.parse(source)]
        while waiting:
            node = waiting.pop()
            if isinstance(node, ast.JoinedStr):
                continue
            waiting.extend(ast.iter_child_nodes(node))
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    expected["FUNCTION"][name] += 1
                case ast.ClassDef(name=name):
                    expected["CLASS"][name] += 1
                case ast.arg(arg=name):
                    expected["PARAMETER"][name] += 1
                case ast.keyword(arg=str(name)):
                    expected["ARGUMENT"][name] += 1
                case ast.Attribute(attr=name, ctx=ast.Load()):
                    expected["ATTRIBUTE"][name] += 1
                case ast.Attribute(attr=name):
                    expected["FIELD"][name] += 1
                case ast.Name(id=name, ctx=ast.Load()):
                    expected["USE"][name] += 1
                case ast.ExceptHandler(name=str(name)) | ast.Name(id=name) | ast.MatchAs(name=str(name)):
                    expected["DEFINE"][name] += 1
                case ast.Global(names=names) | ast.Nonlocal(names=names):
                    expected["DEFINE"].update(names)
            if isinstance(node, ast.Call):
                called = {ast.Name: ("CALL", "USE", "id"), ast.Attribute: ("METHOD", "ATTRIBUTE", "attr")}
                if type(node.func) in called:
                    tag, other, field = called[type(node.func)]
                    expected[tag][getattr(node.func, field)] += 1
                    expected[other][getattr(node.func, field)] -= 1
        for pattern in (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.MatchClass)):
            expected["ARGUMENT"].update(pattern.kwd_attrs)
        for tag, names in expected.items():
            assert found[tag] == +names, (module.__name__, tag)


@pytest.fixture(scope="module")
def python():
    return load_tagged("embedded", name="python")


def test_the_embedded_set_and_its_parts(python):
    assert python.name == "python" and list(python.parts) == ["train", "validation", "test"]
    assert python.classes == tuple(sorted(PYTHON_TAGS)) and python.facts == {"entities": False}
    statements = [set(part["words"]) for part in python.parts.values()]
    assert len(set.union(*statements)) == sum(map(len, python.parts.values()))  # none twice
    assert 9_000 < len(python.parts["train"]) <= 15_000
    assert sum(map(len, python.parts["train"]["words"])) <= 200_000
    assert all(len(python.parts[part]) > 1_000 for part in ("validation", "test"))
    for part in python.parts.values():
        assert all(2 <= len(words) == len(tags) <= 60 for words, tags in zip(part["words"], part["tags"], strict=True))
    train, test = python.parts["train"], python.parts["test"]
    best, default = most_frequent_tags(train["words"], train["tags"])
    right = [best.get(word, default) == tag for pair in zip(test["words"], test["tags"]) for word, tag in zip(*pair)]
    assert 0.65 < sum(right) / len(right) < 0.85
    assert "left out: " in python.notes[0]


def test_the_tags_of_a_statement_follow_from_its_words(python):
    """So the best possible accuracy is 1; over the whole of some larger files, repeats included."""
    import typing

    known = {}
    for part in python.parts.values():
        for words, tags in zip(part["words"], part["tags"], strict=True):
            assert known.setdefault(words, tags) == tags
    for words, tags in tag_python(inspect.getsource(typing)) + tag_python(inspect.getsource(inspect)):
        assert known.setdefault(words, tags) == tags


def test_the_embedded_set_is_the_same_in_another_process(monkeypatch):
    code = "from seqjax.data.readers import python_tags as p; p.SOURCE_LIMIT = 300_000; print(repr(p.load_python_tags()))"
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    monkeypatch.setattr(python_tags, "SOURCE_LIMIT", 300_000)
    assert done.stdout.strip() == repr(python_tags.load_python_tags()), done.stderr


def test_a_python_without_its_source_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(UserError) as error:
        load_tagged("embedded", name="python")
    assert "without its library's source" in one_line(error)
