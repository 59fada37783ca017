"""Plots accuracy by sequence length, as a PNG file."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from seqjax.diagnostics.pictures import _figure, _save

MARKERS = "oxs^"  # every ten curves, when the colours repeat, the next marker is used


class Bin(NamedTuple):
    """Sequences in a range of lengths, and how many of their answers are right."""

    shortest: int
    longest: int
    accuracy: float
    answers: int
    loss: float  # the mean over answers


def by_length(lengths: np.ndarray, losses: np.ndarray, right: np.ndarray, answers: np.ndarray, number: int) -> list[Bin]:
    """Accuracy and loss of sequences in length bins of equal width.

    Args:
      lengths: the length of each sequence, (N,).
      losses: the summed loss of its answers, (N,).
      right: its number of right answers, (N,).
      answers: its number of answers, (N,).
      number: maximum number of bins.

    Returns:
      The bins that have answers, from short to long.

    Example:
      >>> found = by_length(np.array([1, 2, 9, 10]), np.ones(4), np.array([1, 1, 0, 1]), np.ones(4, int), 2)
      >>> [(one.shortest, one.longest, one.accuracy) for one in found]
      [(1, 5, 1.0), (6, 10, 0.5)]
    """
    low, high = int(lengths.min()), int(lengths.max())
    edges = np.unique(np.linspace(low - 1, high, number + 1).astype(int))
    found = []
    for before, last in zip(edges, edges[1:]):
        here = (lengths > before) & (lengths <= last)
        if count := int(answers[here].sum()):
            accuracy, loss = (float(column[here].sum()) / count for column in (right, losses))
            found.append(Bin(int(before) + 1, int(last), accuracy, count, loss))
    return found


def plot_by_length(path: pathlib.Path, bins: Mapping[str, Sequence[Bin]], *, learned: int, chance: float, title: str = "") -> pathlib.Path:
    """Plots accuracy over sequence length.

    Args:
      path: the PNG file to write.
      bins: name of a curve -> bins from `by_length`.
      learned: the longest training sequence, marked by a line.
      chance: the accuracy of guessing, drawn as a line.
      title: the title.

    Returns:
      The path.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "length.png"
      ...     plot_by_length(path, {"lstm": [Bin(1, 40, 1.0, 50, 0.01)]}, learned=40, chance=0.5).name
      'length.png'
    """
    many = len(bins) > 5  # then the legend goes beside the plot
    figure = _figure((8.5 if many else 7, 4.2))
    axes = figure.subplots()
    for number, (name, several) in enumerate(bins.items()):
        middles = [(one.shortest + one.longest) / 2 for one in several]
        style = {"color": f"C{number % 10}", "marker": MARKERS[number // 10 % len(MARKERS)], "markersize": 4}
        axes.plot(middles, [one.accuracy for one in several], label=name, **style)
    axes.axvline(learned, color="black", linewidth=0.8, linestyle="--", label=f"longest in training, {learned}")
    axes.axhline(chance, color="grey", linewidth=0.8, linestyle=":", label=f"a guess, {chance:.0%}")
    axes.set(xlabel="sequence length (steps)", ylabel="accuracy", ylim=(0, 1.03), title=title)
    axes.set_xlim(left=0)
    axes.legend(fontsize=8, **({"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if many else {}))
    return _save(figure, path)
