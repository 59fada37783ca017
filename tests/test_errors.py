"""Messages to the user: terminal control characters are escaped, and missing packages come with an install command."""

import re
import subprocess
import sys
import tomllib
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqjax.errors import Styled, UserError, missing, printable

ROOT = Path(__file__).resolve().parents[1]
STEERING = {chr(i) for i in (*range(0x20), 0x7F, *range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))}


@given(st.text(st.characters() | st.sampled_from(sorted(STEERING))))
def test_nothing_that_steers_is_left(text):
    shown, line = printable(text), printable(text, keep="")
    assert not set(shown) & (STEERING - set("\n\t")) and not set(line) & STEERING
    assert printable(shown) == shown
    shown.encode("utf-8")  # no half of a surrogate pair either
    assert all(c in shown for c in text if c not in STEERING and c.isprintable())


def test_each_is_shown_by_its_escape():
    for character in STEERING - set("\n\t"):
        assert eval(f"'{printable(character)}'") == character and printable(character) != character
    kept = "é年\u200d ✂\N{FAMILY}\tتجربة\n"
    assert printable(kept) == kept and unicodedata.category("\u200d") == "Cf"
    styled = Styled("\x1b[1mA\x1b[0m", "A")
    assert printable(styled) is styled and printable(styled + "") != styled  # only as it was made


def test_a_message_is_one_line_whatever_it_names():
    error = UserError("the class '\x1b]0;owned\x07\nb\u202e' is empty")
    assert str(error) == "the class '\\x1b]0;owned\\x07\\nb\\u202e' is empty"


def test_what_is_missing_can_be_installed_as_it_says():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    others = ("errors.py", "origins.py")  # the latter names a version of what is there
    sources = [path.read_text("utf-8") for path in (ROOT / "seqjax").rglob("*.py") if path.name not in others]
    calls = [call for source in sources for call in re.findall(r"\bmissing\(\s*f?\"[^\"]*\", \"(\w+)\"", source)]
    assert len(calls) >= 9 and set(calls) <= extras.keys()
    assert not [source for source in sources if "pip install" in source]  # all of them by the one helper
    assert "; run pip install -e '.[tfds]' in a clone of seqjax, or wait" in str(missing("it needs x", "tfds", "wait"))


@pytest.mark.parametrize("text", ["\x1b[2J", "plain"])
def test_a_traceback_shows_the_safe_message(text):
    code = f"from seqjax.errors import UserError; raise UserError({text!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.rstrip().endswith(f"UserError: {printable(text, keep='')}")
