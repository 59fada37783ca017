"""Python's own library with the lexical class of every token: a tagging task that comes with Python."""

import ast
import io
import itertools
import keyword
import token
import tokenize
import warnings
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from seqjax.data.hold_out import deal_documents
from seqjax.data.readers.python_text import library_modules
from seqjax.data.records import PARTS, Places, Records

# The meaning of each tag. Tags of names come from Python's own syntax tree.
PYTHON_TAGS = {
    "ARGUMENT": "the name in f(name=...)",
    "ATTRIBUTE": "a name after a period, read: x.name",
    "CALL": "a name that is called: name(...)",
    "CLASS": "the name of a class where it is defined",
    "DEFINE": "a name where it is bound: assignment, loop, with, except, comprehension, pattern, global, or unbound: del",
    "FIELD": "a name after a period, bound: x.name = ...",
    "FUNCTION": "the name of a function or method where it is defined",
    "IMPORT": "a name in an import statement",
    "KEYWORD": "a keyword, the soft ones (match, case, type, _) where they are keywords",
    "METHOD": "a name after a period, called: x.name(...)",
    "NUMBER": "a number",
    "OPERATOR": "an operator, a bracket or a separator",
    "PARAMETER": "a parameter of a function or lambda where it is declared",
    "STRING": "a string of any kind",
    "USE": "a name where it is read",
}
VALIDATION_SHARE, TEST_SHARE = 0.1, 0.1
SOURCE_LIMIT = 1_500_000  # total characters read from files
LONGEST = 60  # tokens in a statement
STRING_LONGEST = 12  # longer strings are shortened

# Before Python 3.12 an f-string is one token; since then it is several, between these.
STRING_STARTS = {getattr(token, name) for name in ("FSTRING_START", "TSTRING_START") if hasattr(token, name)}
STRING_ENDS = {getattr(token, name) for name in ("FSTRING_END", "TSTRING_END") if hasattr(token, name)}
STRING_NODES = tuple(getattr(ast, name) for name in ("JoinedStr", "TemplateStr") if hasattr(ast, name))
OTHER_TAGS = {token.NUMBER: "NUMBER", token.STRING: "STRING", token.OP: "OPERATOR"}
LAYOUT = {token.INDENT, token.DEDENT, token.NL, token.COMMENT, token.ENDMARKER}

Statement = tuple[tuple[str, ...], tuple[str, ...]]  # words, tags
Place = tuple[int, int]  # line from 1, column from 0 in bytes of UTF-8, as `ast` counts


def load_python_tags() -> dict[str, Records]:
    """The statements of Python's top-level modules, each token with its tag.

    Statements of one token (docstrings, `pass`) and of more than 60 are left out; of equal ones only the first is kept, counting the
    training part first. So no statement occurs in two parts.

    Returns:
      Part ("train", "validation", "test") -> Records with "words" and "tags"; a note counts those left out.

    Raises:
      UserError: this Python was installed without its library's source.

    Example:
      >>> parts = load_python_tags()
      >>> list(parts), set(parts["train"]["words"]) & set(parts["test"]["words"])
      (['train', 'validation', 'test'], set())
    """
    texts = _library_files()
    dealt = dict(zip(PARTS, deal_documents(texts, [VALIDATION_SHARE, TEST_SHARE]), strict=True))
    seen: set[Statement] = set()
    parts: dict[str, list[Statement]] = {}
    short = long = repeated = 0
    for part, files in dealt.items():
        parts[part] = []
        for statement in itertools.chain.from_iterable(map(tag_python, files)):
            size = len(statement[0])
            short += size < 2
            long += size > LONGEST
            if 2 <= size <= LONGEST:
                repeated += statement in seen
                if statement not in seen:
                    parts[part].append(statement)
                seen.add(statement)
    left_out = f"{long} of more than {LONGEST} tokens, {short} of a single one, {repeated} that repeat another"
    notes = (f"{len(texts)} modules; statements left out: {left_out}",)
    return {part: _records(part, statements, notes) for part, statements in parts.items()}


def _records(part: str, statements: list[Statement], notes: tuple[str, ...]) -> Records:
    columns = {"words": tuple(words for words, _ in statements), "tags": tuple(tags for _, tags in statements)}
    return Records(columns, Places.of(f"{part} statement", range(1, len(statements) + 1)), notes)


def tag_python(source: str) -> list[Statement]:
    """The statements (logical lines) of a Python file, each token with its tag; `PYTHON_TAGS` explains the tags.

    Comments and layout are left out. A string longer than 12 characters, or with white space in it, is shortened to
    its prefix and its quotation marks around three periods, as in `f"..."`; an f-string is one token on every version.

    Args:
      source: the text of a file.

    Returns:
      (words, tags) of each statement, in order.

    Raises:
      SyntaxError: this Python cannot parse the text.

    Example:
      >>> for words, tags in tag_python("for x in y:\\n    x.stop(after=x)  # all\\n"):
      ...     print(*(f"{word}/{tag}" for word, tag in zip(words, tags)))
      for/KEYWORD x/DEFINE in/KEYWORD y/USE :/OPERATOR
      x/USE ./OPERATOR stop/METHOD (/OPERATOR after/ARGUMENT =/OPERATOR x/USE )/OPERATOR
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about escapes such as "\d" in the file
        names = _find_names(ast.parse(source))
    statements, words, tags = [], [], []
    stream = list(_tokens(source))
    for i, item in enumerate(stream):
        if item.kind == token.NEWLINE:
            statements.append((tuple(words), tuple(tags)))
            words, tags = [], []
            continue
        words.append(_shorten(item.text) if item.kind == token.STRING else item.text)
        if item.kind == token.NAME:
            tags.append(_name_tag(names, item, stream[i - 1].text if words[1:] else "", stream[i + 1].text))
        else:
            tags.append(OTHER_TAGS[item.kind])
    return statements


class _Token(NamedTuple):
    kind: int  # NAME, NUMBER, STRING, OP or NEWLINE of `token`
    text: str
    start: Place
    end: Place


class _Names(NamedTuple):
    starts: dict[Place, str]  # tag of the name that starts there
    ends: dict[Place, str]  # tag of the name that ends there
    ranges: dict[Place, tuple[Place, str]]  # start of a statement -> its end, tag of the names in it


def _find_names(tree: ast.AST) -> _Names:
    """The positions of a file's names, except those that the syntax tree stores without a position; see `_name_tag`."""
    names = _Names({}, {}, {})
    called: set[int] = set()
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, STRING_NODES):  # one token here, so the names in it have no tags
            continue
        if isinstance(node, ast.Call):
            called.add(id(node.func))
        _note_name(names, node, id(node) in called)
        waiting.extend(ast.iter_child_nodes(node))
    return names


def _note_name(names: _Names, node: ast.AST, called: bool) -> None:
    start = (getattr(node, "lineno", 0), getattr(node, "col_offset", 0))
    end = (getattr(node, "end_lineno", 0), getattr(node, "end_col_offset", 0))
    if isinstance(node, ast.Name):
        read = "CALL" if called else "USE"
        names.starts[start] = read if isinstance(node.ctx, ast.Load) else "DEFINE"
    elif isinstance(node, ast.Attribute):
        read = "METHOD" if called else "ATTRIBUTE"
        names.ends[end] = read if isinstance(node.ctx, ast.Load) else "FIELD"
    elif isinstance(node, ast.arg):
        names.starts[start] = "PARAMETER"
    elif isinstance(node, ast.keyword) and node.arg:
        names.starts[start] = "ARGUMENT"
    elif isinstance(node, ast.MatchAs) and node.name and not node.pattern:
        names.starts[start] = "DEFINE"
    elif type(node).__name__ == "TypeVar":  # of Python 3.12: def f[T](x: T)
        names.starts[start] = "DEFINE"
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        names.ranges[start] = (end, "IMPORT")
    elif isinstance(node, (ast.Global, ast.Nonlocal)):
        names.ranges[start] = (end, "DEFINE")


def _name_tag(names: _Names, item: _Token, before: str, after: str) -> str:
    """The tag of a name or keyword, from its position, or from its neighbours if the syntax tree has no position for it.

    Without a position are: functions and classes at their definition, names in import and global statements, `except E as name`,
    and in patterns `P(name=...)`, `P() as name`, `*name` and `**name` (the last two also as type parameters).
    """
    placed = names.starts.get(item.start) or names.ends.get(item.end)
    if placed:
        return placed
    if keyword.iskeyword(item.text):
        return "KEYWORD"
    if before in ("def", "class"):
        return "FUNCTION" if before == "def" else "CLASS"
    for start, (end, tag) in names.ranges.items():
        if start <= item.start < end:
            return tag
    if before == "as":
        return "DEFINE"
    if keyword.issoftkeyword(item.text):
        return "KEYWORD"
    if after == "=":
        return "ARGUMENT"
    if before in ("*", "**"):
        return "DEFINE"
    raise ValueError(f"line {item.start[0]}: {item.text!r} has no place in the syntax tree")


def _tokens(source: str) -> Iterator[_Token]:
    """The tokens of a file without comments and layout; each string is one token."""
    lines = source.split("\n")
    depth, opening = 0, None
    for item in tokenize.generate_tokens(io.StringIO(source).readline):
        if item.type in STRING_STARTS:
            opening = opening if depth else item
            depth += 1
        elif item.type in STRING_ENDS:
            depth -= 1
            if depth == 0 and opening is not None:
                text = _between(lines, opening.start, item.end)
                yield _Token(token.STRING, text, _in_bytes(lines, opening.start), _in_bytes(lines, item.end))
        elif item.type == token.ERRORTOKEN:  # a letter that names may have, but that this version's `tokenize` lacks
            raise SyntaxError(f"line {item.start[0]}: {item.string!r} is not a token")
        elif depth == 0 and item.type not in LAYOUT:
            yield _Token(item.type, item.string, _in_bytes(lines, item.start), _in_bytes(lines, item.end))


def _in_bytes(lines: list[str], place: Place) -> Place:
    line, column = place
    text = lines[line - 1] if line <= len(lines) else ""
    return place if text.isascii() else (line, len(text[:column].encode("utf-8", "surrogatepass")))


def _between(lines: list[str], start: Place, end: Place) -> str:
    chosen = lines[start[0] - 1 : end[0]]
    chosen[-1] = chosen[-1][: end[1]]
    chosen[0] = chosen[0][start[1] :]
    return "\n".join(chosen)


def _shorten(string: str) -> str:
    if len(string) <= STRING_LONGEST and not any(map(str.isspace, string)):
        return string
    marks = string[-3:] if string.endswith(('"""', "'''")) else string[-1]
    return f"{string[: string.index(marks)]}{marks}...{marks}"


def _library_files() -> dict[str, str]:
    """Name -> text of public top-level modules, ordered by checksum, as many as fit into `SOURCE_LIMIT`."""
    ordered = sorted((zlib.crc32(path.stem.encode()), path) for path in library_modules("a set of TFDS, or a file"))
    texts, size = {}, 0
    for _, path in ordered:
        text = path.read_text("utf-8", "replace")
        if size + len(text) <= SOURCE_LIMIT:
            texts[path.stem] = text
            size += len(text)
    return texts
