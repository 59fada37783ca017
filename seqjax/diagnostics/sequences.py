"""Output of sequence models: attention as PNG files; coloured tags and n-best lists for the terminal."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple, TextIO

import numpy as np

from seqjax.errors import Styled, printable

SHOWN_AS = {" ": "␣", "\n": "↵", "\t": "⇥"}
LONGEST_LABEL, LONGEST_TITLE = 24, 80  # characters shown of a token, and of a map's title
WIDEST = 50  # source tokens in a heat map that is still readable
INCHES = 0.2  # side of a cell of a heat map, and so the height of a label

# For a strip of words: characters per line in a monospace font, at a size that makes each 8 whole pixels wide.
COLUMNS, FONT_SIZE, DPI = 90, 8.7, 110
MONOSPACE = "DejaVu Sans Mono"  # comes with matplotlib
CHARACTER = 0.602 * FONT_SIZE / 72  # width in inches of one of its characters

# Terminal colours (of 256) readable on black and on white, neighbours far apart.
COLOURS = (33, 166, 34, 161, 133, 37, 172, 69, 71, 205, 136, 99, 202, 64, 167, 39, 170, 130)


class Attention(NamedTuple):
    """Attention of target tokens over source tokens."""

    weights: np.ndarray  # (T, S), each row sums to 1
    targets: Sequence[str]  # T tokens
    sources: Sequence[str]  # S tokens


def plot_attention(
    path: pathlib.Path, weights: np.ndarray, targets: Sequence[str], sources: Sequence[str], title: str = ""
) -> pathlib.Path:
    """Plots attention as a heat map, one row per target token.

    Characters that the font lacks are shown by their code point, such as U+5E74, unless matplotlib's `font.family` lists a font that has
    them; a space is shown as ␣.

    Args:
      path: the PNG file to write.
      weights: (T, S), in [0, 1].
      targets: T tokens, one for each row.
      sources: S tokens, one for each column.
      title: the title.

    Returns:
      The path.

    Raises:
      ValueError: weights of another shape than (T, S), or no token.

    Example:
      >>> import tempfile
      >>> weights = np.array([[0.9, 0.1], [0.2, 0.8]])
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     plot_attention(pathlib.Path(folder) / "attention.png", weights, ["the", "house"], ["das", "Haus"]).name
      'attention.png'
    """
    return plot_attentions(path, [Attention(weights, targets, sources)], [title])


def plot_attentions(path: pathlib.Path, maps: Sequence[tuple], titles: Sequence[str] | None = None, *, columns: int = 2) -> pathlib.Path:
    """Plots several attention maps on one sheet, all on the scale from 0 to 1.

    Args:
      path: the PNG file to write.
      maps: at least one Attention, or (weights, targets, sources), as in `plot_attention`.
      titles: one for each.
      columns: maps side by side.

    Returns:
      The path.

    Raises:
      ValueError: as `plot_attention`; no map, or another number of titles.

    Example:
      >>> import tempfile
      >>> maps = [(np.eye(2), ["a", "b"], ["A", "B"]), (np.ones((1, 3)) / 3, ["abc"], ["A", "B", "C"])]
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     plot_attentions(pathlib.Path(folder) / "attentions.png", maps).name
      'attentions.png'
    """
    maps, titles = _checked(maps, titles)
    columns = min(columns, len(maps))
    rows = -(-len(maps) // columns)
    width, height = np.max([_size(entry, title) for entry, title in zip(maps, titles)], axis=0)
    figure = _figure((columns * width + 0.8, rows * height))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.ravel()[len(maps) :]:
        axes.set_axis_off()
    for axes, entry, title in zip(grid.ravel(), maps, titles):
        drawn = axes.imshow(entry.weights, cmap="Blues", vmin=0, vmax=1)
        upright = max(map(len, entry.sources)) <= 2  # characters stay as they are, words are slanted
        turned = {} if upright else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(len(entry.sources)), entry.sources, fontsize=8, parse_math=False, **turned)
        axes.set_yticks(range(len(entry.targets)), entry.targets, fontsize=8, parse_math=False)
        axes.set_title(title, fontsize=9, parse_math=False)
    figure.colorbar(drawn, ax=grid, shrink=min(1.0, 3 / (rows * height)), label="weight")
    return _save(figure, path)


def plot_weighted_text(path: pathlib.Path, words: Sequence[str], weights: np.ndarray, title: str = "", *, limit: int = 200) -> pathlib.Path:
    """Plots a text with words shaded by weight, such as the attention of a classifier's pooling.

    Args:
      path: the PNG file to write.
      words: N of them, at least one.
      weights: (N,), at least 0; the largest one shown is the darkest.
      title: the title.
      limit: maximum number of words, the first ones; the title says so.

    Returns:
      The path.

    Raises:
      ValueError: weights of another shape than (N,), negative or not finite; or no word.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     plot_weighted_text(pathlib.Path(folder) / "text.png", ["a", "great", "film"], np.array([0.1, 0.7, 0.2])).name
      'text.png'
    """
    weights = np.asarray(weights, np.float64)
    if not len(words) or weights.shape != (len(words),):
        raise ValueError(f"weights has shape {weights.shape} for {len(words)} words; it must be one for each, at least one")
    if not np.all(np.isfinite(weights) & (weights >= 0)):
        raise ValueError("weights has entries that are negative or not finite")
    largest = weights[:limit].max()
    placed, lines = _wrap([_readable(word, COLUMNS, MONOSPACE) for word in words[:limit]])
    notes = [f"the first {limit} of {len(words):,} words"] if len(words) > limit else []
    heading = "; ".join([part for part in (title, *notes) if part] + [f"darkest: {largest:.3g}"])
    figure, (axes,) = _strips([lines])
    axes.set_title(_readable(heading, limit=None, spaces=True), fontsize=9, loc="left", parse_math=False, wrap=True)
    _shade(axes, placed, weights[:limit] / (largest or 1.0))
    return _save(figure, path)


def plot_attention_texts(path: pathlib.Path, maps: Sequence[tuple], titles: Sequence[str] | None = None, *, limit: int = 8) -> pathlib.Path:
    """Plots the attention of each target token over the source text, for sources too long for a heat map.

    The source is shown once for each target token, wrapped into lines, its tokens shaded by their weights: white is 0, the
    darkest blue 1. The final `<eos>` is not drawn.

    Args:
      path: the PNG file to write.
      maps: at least one Attention, or (weights, targets, sources), as in `plot_attention`.
      titles: one for each, above its first target token.
      limit: maximum number of target tokens per map, from the first; the title says so.

    Returns:
      The path.

    Raises:
      ValueError: as `plot_attentions`.

    Example:
      >>> import tempfile
      >>> story = "Mary went to the garden . Where is Mary ?".split()
      >>> weights = np.eye(len(story))[[3, 4, 5]]
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "story.png"
      ...     plot_attention_texts(path, [(weights, ["the", "garden", "<eos>"], story)]).name
      'story.png'
    """
    maps, titles = _checked(maps, titles)
    rows = []  # title, target, placed tokens, weights, lines
    for entry, title in zip(maps, titles):
        placed, lines = _wrap([_readable(token, COLUMNS, MONOSPACE) for token in entry.sources])
        shown = [i for i, target in enumerate(entry.targets) if target != "<eos>"] or [0]
        notes = [title, f"the first {limit} of {len(shown):,} words" if len(shown) > limit else ""]
        heading = "".join(f"{note}: " for note in notes if note)
        for i in shown[:limit]:
            rows.append((heading + entry.targets[i], placed, entry.weights[i], lines))
            heading = ""
    figure, strips = _strips([lines for *_, lines in rows])
    for axes, (heading, placed, weights, _) in zip(strips, rows):
        axes.set_title(heading, fontsize=9, loc="left", parse_math=False)
        _shade(axes, placed, weights)
    return _save(figure, path)


def _strips(lines: Sequence[int]) -> tuple[Any, list[Any]]:
    """A figure with stacked areas, one for each given number of text lines, each with space for a title."""
    width, margin, above = COLUMNS * CHARACTER, 0.15, 0.4  # inches
    heights = [0.2 * number for number in lines]
    outer = np.array([width + 2 * margin, sum(heights) + len(lines) * above + margin])
    figure, strips, bottom = _figure(tuple(outer), layout="none"), [], outer[1]
    for number, height in zip(lines, heights):
        bottom -= above + height
        axes = figure.add_axes((margin / outer[0], bottom / outer[1], width / outer[0], height / outer[1]))
        axes.set(xlim=(0, COLUMNS), ylim=(number, 0))
        axes.set_axis_off()
        strips.append(axes)
    return figure, strips


def _shade(axes: Any, placed: Sequence[tuple[int, int, str]], shades: np.ndarray) -> None:
    """Draws words at their positions, on a background from white for 0 to dark blue for 1."""
    from matplotlib import colormaps

    for (column, line, word), shade in zip(placed, shades):
        axes.text(
            column, line + 0.5, word, va="center_baseline", fontsize=FONT_SIZE, family=MONOSPACE, parse_math=False,
            color="white" if shade > 0.6 else "black",
            bbox={"boxstyle": "square,pad=0.15", "linewidth": 0, "facecolor": colormaps["Blues"](0.9 * shade)},
        )  # fmt: skip


def show_attention(path: pathlib.Path, maps: Sequence[tuple]) -> pathlib.Path:
    """Plots attention as heat maps, or over the source text if a source has more than 50 tokens.

    Args:
      path: the PNG file to write.
      maps: at least one, as for `plot_attentions`, which draws the heat maps, and `plot_attention_texts`.

    Returns:
      The path.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     show_attention(pathlib.Path(folder) / "long.png", [(np.ones((1, 60)) / 60, ["a"], ["b"] * 60)]).name
      'long.png'
    """
    short = all(len(sources) <= WIDEST for _, _, sources in maps)
    return (plot_attentions if short else plot_attention_texts)(path, maps)


def use_colour(stream: TextIO) -> bool:
    """Whether to use colours on a stream: it is a terminal, and the user has not set NO_COLOR.

    Example:
      >>> import io
      >>> use_colour(io.StringIO())
      False

    Reference:
      https://no-color.org
    """
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def colour_tags(words: Sequence[str], tags: Sequence[str], *, colour: bool, order: Sequence[str] = ()) -> Styled:
    """A tagged sentence as one line of word/TAG.

    An entity's tags share the colour of its type; `O` has none.

    Args:
      words: N of them.
      tags: N.
      colour: whether to add terminal colour codes.
      order: all tags of the model, so that a tag has the same colour in every sentence; by default those of the sentence.

    Returns:
      The line, a Styled text whose `plain` is without colours. Terminal control characters are escaped.

    Raises:
      ValueError: words and tags of unequal number.

    Example:
      >>> colour_tags(["a", "film"], ["DET", "NOUN"], colour=False)
      'a/DET film/NOUN'
      >>> colour_tags(["a", "film"], ["DET", "NOUN"], colour=True)
      '\\x1b[38;5;33ma/DET\\x1b[0m \\x1b[38;5;166mfilm/NOUN\\x1b[0m'
    """
    if len(words) != len(tags):
        raise ValueError(f"words has {len(words)} entries and tags has {len(tags)}; there must be one for each")
    codes = _codes([*order, *sorted(set(tags))]) if colour else {}
    parts = [(f"{_plain(word)}/{_plain(tag)}", codes.get(_kind(tag))) for word, tag in zip(words, tags)]
    return Styled(" ".join(_painted(*part) for part in parts), " ".join(text for text, _ in parts))


def legend(tags: Sequence[str], colour: bool) -> Styled:
    """One line with every tag in its colour, as in `colour_tags` with these tags as the order.

    Example:
      >>> legend(["O", "B-PER", "I-PER", "B-LOC"], colour=False)
      'tags: O PER LOC'
    """
    codes = _codes(tags) if colour else {}
    parts = [("tags:", None), *((_plain(kind), codes.get(kind)) for kind in dict.fromkeys(map(_kind, tags)))]
    return Styled(" ".join(_painted(*part) for part in parts), " ".join(text for text, _ in parts))


def n_best(texts: Sequence[str], scores: Sequence[float]) -> str:
    """The hypotheses with their scores, one per line, in the given order.

    Args:
      texts: the best first.
      scores: one for each.

    Returns:
      The lines. Terminal control characters are escaped.

    Raises:
      ValueError: texts and scores of unequal number.

    Example:
      >>> print(n_best(["a house", "the house"], [-0.25, -1.5]))
      1  -0.2500  a house
      2  -1.5000  the house
    """
    if len(texts) != len(scores):
        raise ValueError(f"texts has {len(texts)} entries and scores has {len(scores)}; there must be one for each")
    shown = [f"{float(score):.4f}" for score in scores]
    width, places = max(map(len, shown), default=0), len(str(len(texts)))
    rows = zip(range(1, len(texts) + 1), shown, texts)
    return "\n".join(f"{place:>{places}}  {score:>{width}}  {_plain(text)}" for place, score, text in rows)


def _checked(maps: Sequence[tuple], titles: Sequence[str] | None) -> tuple[list[Attention], list[str]]:
    """Maps and titles with text that the font can draw."""
    if not maps:
        raise ValueError("maps is empty; a sheet needs at least one")
    titles = [""] * len(maps) if titles is None else titles
    if len(titles) != len(maps):
        raise ValueError(f"there are {len(maps)} maps and {len(titles)} titles; there must be one for each")
    return [_labelled(*entry) for entry in maps], [_readable(title, LONGEST_TITLE, spaces=True) for title in titles]


def _labelled(weights: np.ndarray, targets: Sequence[str], sources: Sequence[str]) -> Attention:
    weights = np.asarray(weights, np.float32)
    wanted = (len(targets), len(sources))
    if weights.shape != wanted or 0 in wanted:
        raise ValueError(f"weights has shape {weights.shape}; {wanted[0]} targets and {wanted[1]} sources need {wanted}, at least (1, 1)")
    return Attention(weights, *([_readable(token) for token in tokens] for tokens in (targets, sources)))


def _size(entry: Attention, title: str) -> tuple[float, float]:
    """Inches of a map with its labels and its title."""
    rows, columns = entry.weights.shape
    left, below = (0.085 * max(map(len, labels)) + 0.3 for labels in (entry.targets, entry.sources))
    return max(INCHES * columns + left, 0.08 * len(title), 1.5), max(INCHES * rows + below + 0.4, 1.5)


def _readable(text: str, limit: int | None = LONGEST_LABEL, family: str | None = None, spaces: bool = False) -> str:
    """Text as the font can draw it: characters that it lacks, or that have no shape of their own, by code point."""
    fonts = _fonts(family)
    characters = [
        character
        if (character == " " and spaces) or (character.isprintable() and any(font.get_char_index(ord(character)) for font in fonts))
        else f"U+{ord(character):04X}"
        for character in (text if spaces else text.translate(str.maketrans(SHOWN_AS)))
    ]
    shown = "".join(characters)
    return shown if limit is None or len(shown) <= limit else shown[: limit - 1] + "…"


def _fonts(family: str | None) -> list[Any]:
    """The font of a family; None means matplotlib's current fonts."""
    from matplotlib import font_manager, rcParams

    families = [family] if family else rcParams["font.family"]
    found = [font_manager.findfont(font_manager.FontProperties(family=[name])) for name in families]
    return [font_manager.get_font(path) for path in found]


def _wrap(words: Sequence[str]) -> tuple[list[tuple[int, int, str]], int]:
    """(column, line, word) of each word, and the number of lines."""
    placed, column, line = [], 0, 0
    for word in words:
        if column and column + len(word) > COLUMNS:
            column, line = 0, line + 1
        placed.append((column, line, word))
        column += len(word) + 1
    return placed, line + 1


def _kind(tag: str) -> str:
    """An entity tag's type without its prefix; any other tag unchanged."""
    return tag[2:] if tag[:2] in ("B-", "I-", "E-", "S-") and len(tag) > 2 else tag


def _codes(tags: Sequence[str]) -> dict[str, str]:
    kinds = [kind for kind in dict.fromkeys(map(_kind, tags)) if kind != "O"]
    rounds = ("", ";4", ";1", ";1;4")  # underlined, bold, and both when the colours run out
    return {kind: f"38;5;{COLOURS[i % len(COLOURS)]}{rounds[i // len(COLOURS) % len(rounds)]}" for i, kind in enumerate(kinds)}


def _painted(text: str, code: str | None) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if code else text


def _plain(text: str) -> str:
    """A word, a tag or an answer, on one line."""
    return printable(text, keep="")


def _figure(size: tuple[float, float], layout: Any = "constrained") -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=size, dpi=DPI, layout=layout)


def _save(figure: Any, path: pathlib.Path) -> pathlib.Path:
    figure.savefig(path)
    return path
