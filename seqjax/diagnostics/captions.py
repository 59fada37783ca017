"""Pictures of captions as PNG files: attention at each word, and the n-best captions beside their images."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from seqjax.diagnostics.pictures import _figure, _save

WORDS = 8  # cells in a row
RIGHT, WRONG = "#1a7f37", "#b42318"


class Looked(NamedTuple):
    """Attention while a caption was written."""

    image: np.ndarray  # uint8 (H, W, C)
    words: Sequence[str]  # T
    weights: np.ndarray  # (T, h, w), each map of sum 1
    title: str = ""


class Shown(NamedTuple):
    """An image with its captions."""

    image: np.ndarray  # uint8 (H, W, C)
    captions: Sequence[str]  # the best first
    scores: Sequence[float]  # of each
    right: Sequence[bool] | None = None  # whether each is right, if known
    reference: str = ""


def plot_attended(path: pathlib.Path, several: Sequence[Looked], *, rows: int = 8) -> pathlib.Path:
    """Plots attention word by word: the image under each word is dark where the attention is low.

    Args:
      path: the PNG file to write.
      several: at least one; the image itself is the first cell of each.
      rows: maximum number of rows of cells; the rest is left out.

    Returns:
      The path.

    Raises:
      ValueError: nothing to draw, or weights that are not (T, h, w) for T words.

    Example:
      >>> import tempfile
      >>> looked = Looked(np.zeros((8, 8, 3), np.uint8), ["a", "dog"], np.full((2, 4, 4), 1 / 16))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     plot_attended(pathlib.Path(folder) / "attention.png", [looked]).name
      'attention.png'
    """
    if not several:
        raise ValueError("there is nothing to draw; give at least one caption with its attention")
    cells = []
    for one in several:
        if np.ndim(one.weights) != 3 or len(one.weights) != len(one.words):
            raise ValueError(f"weights have shape {np.shape(one.weights)} for {len(one.words)} words; (T, h, w) expected")
        own = [(one.image, None, one.title)] + [(one.image, map, word) for word, map in zip(one.words, one.weights)]
        own += [None] * (-len(own) % WORDS)
        if cells and len(cells) + len(own) > rows * WORDS:
            break
        cells += own
    figure = _figure((1.35 * WORDS, 1.6 * len(cells) / WORDS))
    for axes, cell in zip(figure.subplots(len(cells) // WORDS, WORDS, squeeze=False).ravel(), cells):
        axes.set_axis_off()
        if cell is None:
            continue
        image, weights, text = cell
        axes.imshow(_rgb(image), extent=(0, 1, 1, 0))
        if weights is not None:
            veil = np.zeros((*weights.shape, 4))
            veil[..., 3] = 0.85 * (1 - weights / max(weights.max(), 1e-12))
            axes.imshow(veil, extent=(0, 1, 1, 0), interpolation="bilinear")
        axes.set_title(text, fontsize=9, parse_math=False)
    return _save(figure, path)


def plot_captions(path: pathlib.Path, several: Sequence[Shown], title: str = "") -> pathlib.Path:
    """Plots images with their captions beside them, right ones in green and wrong ones in red if known.

    Args:
      path: the PNG file to write.
      several: at least one.
      title: the title.

    Returns:
      The path.

    Raises:
      ValueError: nothing to draw.

    Example:
      >>> import tempfile
      >>> shown = Shown(np.zeros((8, 8, 3), np.uint8), ["a dog", "a cat"], [-0.1, -2.0], [True, False], "one dog")
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     plot_captions(pathlib.Path(folder) / "captions.png", [shown]).name
      'captions.png'
    """
    if not several:
        raise ValueError("there is nothing to draw; give at least one image with captions")
    columns = min(2, len(several))
    rows = -(-len(several) // columns)
    figure = _figure((6.2 * columns, 1.75 * rows + 0.4))
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(rows, 2 * columns, squeeze=False, width_ratios=[1, 2.8] * columns)
    for axes in grid.ravel():
        axes.set_axis_off()
    for place, one in enumerate(several):
        row, column = divmod(place, columns)
        grid[row, 2 * column].imshow(_rgb(one.image))
        axes = grid[row, 2 * column + 1]
        lines = [(f"{score:8.3f}  {_cut(text)}", _colour(one.right, i)) for i, (text, score) in enumerate(zip(one.captions, one.scores))]
        lines += [(f"reference  {_cut(one.reference)}", "#555555")] if one.reference else []
        for line, (text, colour) in enumerate(lines):
            axes.text(
                0,
                0.92 - 0.19 * line,
                text,
                fontsize=8.5,
                color=colour,
                va="top",
                parse_math=False,
                transform=axes.transAxes,
            )
    return _save(figure, path)


def _colour(right: Sequence[bool] | None, index: int) -> str:
    return "black" if right is None else RIGHT if right[index] else WRONG


def _cut(text: str, limit: int = 58) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _rgb(image: np.ndarray) -> np.ndarray:
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]
