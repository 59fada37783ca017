"""Pictures of an image classifier as PNG files: confusion matrix, worst mistakes, filters, feature maps."""

import heapq
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def plot_confusion(path: pathlib.Path, counts: np.ndarray, classes: Sequence[str], *, unit: str = "images") -> pathlib.Path:
    """Plots a confusion matrix.

    Args:
      path: the PNG file to write.
      counts: (K, K) integers; rows are true classes, columns are answers.
      classes: K names.
      unit: what was counted, in the plural, for the title.

    Returns:
      The path.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     plot_confusion(pathlib.Path(folder) / "confusion.png", np.array([[5, 1], [0, 4]]), ["cat", "dog"]).name
      'confusion.png'
    """
    counts = np.asarray(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 3 + 0.5 * min(len(classes), 40)
    figure = _figure((side + 1, side))
    axes = figure.subplots()
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(drawn, ax=axes, label="fraction of the true class")
    right = np.trace(counts) / max(counts.sum(), 1)
    axes.set(xlabel="answer", ylabel="true class", title=f"{counts.sum():,} {unit}, {right:.2%} right")
    if len(classes) <= 40:
        axes.set_xticks(range(len(classes)), classes, rotation=90 if max(map(len, classes)) > 2 else 0)
        axes.set_yticks(range(len(classes)), classes)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{count}", ha="center", va="center", fontsize=7, color=colour)
    return _save(figure, path)


class WorstMistakes:
    """Keeps those of all added images whose true class got the lowest probability.

    Args:
      classes: the names of the classes.
      number: how many to keep.

    Example:
      >>> worst = WorstMistakes(["cat", "dog"], number=1)
      >>> worst.add(np.zeros((2, 2, 2, 1), np.uint8), np.array([0, 1]), np.array([[0.4, 0.6], [0.9, 0.1]]))
      >>> worst.titles()
      ['dog, taken for cat\\n10.0% against 90.0%']
    """

    def __init__(self, classes: Sequence[str], number: int = 25):
        self._classes, self._number = classes, number
        self._kept: list[tuple[float, int, np.ndarray, int, np.ndarray]] = []  # a heap, the least bad first
        self._seen = 0

    def add(self, images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> None:
        """Adds a batch: uint8 (B, H, W, C), (B,), and the classifier's (B, K)."""
        for i in np.flatnonzero(probabilities.argmax(-1) != labels):
            self._seen += 1
            image, answer = images[i].copy(), probabilities[i].copy()  # a view would keep the whole batch in memory
            entry = (-float(answer[labels[i]]), -self._seen, image, int(labels[i]), answer)
            (heapq.heappush if len(self._kept) < self._number else heapq.heappushpop)(self._kept, entry)

    def _worst_first(self) -> list[Any]:
        return sorted(self._kept, key=lambda entry: entry[:2], reverse=True)

    def titles(self) -> list[str]:
        """True and predicted class of each kept image, the worst first."""
        return [
            f"{self._classes[label]}, taken for {self._classes[p.argmax()]}\n{p[label]:.1%} against {p.max():.1%}"
            for *_, label, p in self._worst_first()
        ]

    def plot(self, path: pathlib.Path) -> pathlib.Path:
        """Draws the kept images with their titles."""
        kept = self._worst_first()
        columns = min(5, max(len(kept), 1))
        rows = max(-(-len(kept) // columns), 1)
        figure = _figure((2.2 * columns, 2.4 * rows + 0.5))
        figure.suptitle(f"the worst {len(kept)} of {self._seen:,} mistakes" if kept else "no mistakes")
        cells = np.atleast_1d(figure.subplots(rows, columns)).ravel()
        for axes in cells:
            axes.set_axis_off()
        for axes, (_, _, image, _, _), title in zip(cells, kept, self.titles()):
            _show(axes, image)
            axes.set_title(title, fontsize=7)
        return _save(figure, path)


def plot_filters(path: pathlib.Path, kernel: np.ndarray, limit: int = 64) -> pathlib.Path:
    """Plots the filters of a convolution, each scaled by its own largest weight.

    Filters over three channels are shown in colour; others by their first channel.

    Args:
      path: the PNG file to write.
      kernel: (height, width, C, F).
      limit: maximum number of filters.

    Returns:
      The path.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     plot_filters(pathlib.Path(folder) / "filters.png", np.ones((5, 5, 1, 6))).name
      'filters.png'
    """
    kernel = np.asarray(kernel, np.float32)
    colour = kernel.shape[2] == 3
    shown = kernel if colour else kernel[:, :, :1]
    filters = np.moveaxis(shown, -1, 0)[:limit]
    scales = np.maximum(np.abs(filters).max(axis=(1, 2, 3), keepdims=True), 1e-12)
    grey = 0.5 + 0.5 * filters / scales  # 0.5 means weight 0
    what = "" if kernel.shape[2] in (1, 3) else f", channel 1 of {kernel.shape[2]}"
    title = f"{len(filters)} of {kernel.shape[-1]} filters{what}; mid-grey is 0, each scaled to its largest weight"
    return _sheet(path, title, list(grey), vmin=0.0, vmax=1.0)


def plot_feature_maps(path: pathlib.Path, image: np.ndarray, maps: Mapping[str, np.ndarray], limit: int = 8) -> pathlib.Path:
    """Plots an image and feature maps of some layers: one row per layer, with its strongest channels.

    Args:
      path: the PNG file to write.
      image: uint8 (H, W, C).
      maps: name of a layer -> (height, width, channels); those of other shapes are left out, and at most eight layers, spread over the
        network, are shown.
      limit: maximum number of channels per layer.

    Returns:
      The path.

    Example:
      >>> import tempfile
      >>> maps = {"conv1": np.random.rand(4, 4, 6)}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     plot_feature_maps(pathlib.Path(folder) / "features.png", np.zeros((8, 8, 1), np.uint8), maps).name
      'features.png'
    """
    spatial = [name for name, value in maps.items() if np.ndim(value) == 3 and min(np.shape(value)[:2]) > 1]
    names = [spatial[i] for i in sorted(set(np.linspace(0, len(spatial) - 1, min(8, len(spatial))).round().astype(int)))]
    figure = _figure((1.3 * (limit + 1), 1.7 * max(len(names), 1)))
    grid = figure.subplots(max(len(names), 1), limit + 1, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    _show(grid[0, 0], image)
    grid[0, 0].set_title("image", fontsize=9)
    for row, name in enumerate(names):
        values = np.asarray(maps[name], np.float32)
        strongest = np.argsort(-np.abs(values).mean(axis=(0, 1)), kind="stable")[:limit]
        for axes, channel in zip(grid[row, 1:], strongest):
            axes.imshow(values[:, :, channel], cmap="viridis")
            axes.set_title(f"channel {channel}", fontsize=9)
        place = grid[row, 0]
        where = 0.5 if row else -0.2
        text = f"{name}\n{' x '.join(map(str, values.shape))}"
        place.text(0.5, where, text, ha="center", va="center", fontsize=9, transform=place.transAxes)
    return _save(figure, path)


def _figure(size):
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _save(figure, path: pathlib.Path) -> pathlib.Path:
    figure.savefig(path, dpi=110)
    return path


def _show(axes, image) -> None:
    """An image of one channel in grey, of three in colour."""
    axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)


def _sheet(path, title, images, **scale) -> pathlib.Path:
    columns = min(8, len(images))
    rows = -(-len(images) // columns)
    figure = _figure((1.1 * columns + 0.5, 1.1 * rows + 0.6))
    figure.suptitle(title, fontsize=8, wrap=True)
    for axes in (cells := np.atleast_1d(figure.subplots(rows, columns)).ravel()):
        axes.set_axis_off()
    for axes, image in zip(cells, images):
        axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", **scale)
    return _save(figure, path)
