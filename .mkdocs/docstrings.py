"""Lets the API pages show the docstrings as they are written: equations and tables stand in blocks indented by two spaces.

Markdown would run the lines of such a block together, so each becomes a fenced block. Only the text before `Args:` is
touched: the sections after it are read by griffe, which knows doctests under the name `Examples:` alone.
"""

import re
from typing import Any

import griffe

SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Example|Reference|References|Yields|Source):\s*$|^Source: ")

EXAMPLE = re.compile(r"^Example:\s*$")


def fenced(text: str) -> str:
    """A docstring whose indented blocks, up to the first section, are fenced.

    Example:
      >>> print(fenced("A sum.\\n\\n  c = a + b\\n\\nArgs:\\n  a: one."))
      A sum.
      <BLANKLINE>
      ```text
      c = a + b
      ```
      <BLANKLINE>
      Args:
        a: one.
    """
    lines, result, inside = text.split("\n"), [], False
    for number, line in enumerate(lines):
        if SECTION.match(line):
            result += ["```", ""] if inside else []
            return "\n".join([*result, *(EXAMPLE.sub("Examples:", rest) for rest in lines[number:])])
        indented = line.startswith("  ")
        if indented and not inside and (not result or not result[-1].strip()):
            result.append("```text")
            inside = True
        elif inside and line.strip() and not indented:
            while not result[-1].strip():
                result.pop()
            result += ["```", ""]
            inside = False
        result.append(line[2:] if inside and indented else line)
    while inside and not result[-1].strip():
        result.pop()
    return "\n".join([*result, "```"] if inside else result)


class Docstrings(griffe.Extension):
    """Fences the blocks of every docstring that is loaded."""

    def on_instance(self, *, obj: griffe.Object, **arguments: Any) -> None:
        """Called once for each object, before its docstring is parsed."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
