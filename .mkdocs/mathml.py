"""Turns the equations of the pages into MathML when the site is built, so that readers need no script for them, and no network."""

import html as escapes
import re

from latex2mathml.converter import convert

EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(html: str, **_) -> str:
    """A page whose `\\( ... \\)` and `\\[ ... \\]`, as pymdownx.arithmatex leaves them, are MathML."""

    def drawn(found: re.Match) -> str:
        display = "block" if found[2] == "[" else "inline"
        return convert(escapes.unescape(found[3]), display=display)

    return EQUATION.sub(drawn, html)
