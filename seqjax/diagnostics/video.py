"""Pictures of videos: filmstrips with a model's answers for each frame, predicted against true frames, animated GIFs."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from seqjax.data.transforms.pixels import write_animation
from seqjax.diagnostics.pictures import _figure, _save, _show

MOST = 12  # frames in a filmstrip, and videos in a plot


def spread(number: int, most: int = MOST) -> np.ndarray:
    """A limited number of evenly spaced indices, including the first and the last.

    Example:
      >>> spread(9, 5).tolist(), spread(3, 5).tolist()
      ([0, 2, 4, 6, 8], [0, 1, 2])
    """
    return np.unique(np.linspace(0, number - 1, min(number, most)).round().astype(int))


def plot_filmstrips(
    path: pathlib.Path,
    videos: Sequence[np.ndarray],
    titles: Sequence[str],
    below: Sequence[Sequence[tuple[str, bool | None]]],
) -> pathlib.Path:
    """Plots frames of some videos, one row per video, with a text under each frame.

    Args:
      path: the PNG file to write.
      videos: uint8 (T, H, W, C) each; at most twelve frames, evenly spaced, are shown.
      titles: the title of each row.
      below: for each frame of each video a text, and whether it is right (green), wrong (red) or neither (None).

    Returns:
      The path.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     video = np.zeros((3, 8, 8, 1), np.uint8)
      ...     plot_filmstrips(pathlib.Path(folder) / "strip.png", [video], ["a digit"], [[("7", True)] * 3]).name
      'strip.png'
    """
    shown = [spread(len(video)) for video in videos]
    lines = max((text.count("\n") + 1 for texts in below for text, _ in texts), default=1)
    columns, colours = max(map(len, shown)), {True: "tab:green", False: "tab:red", None: "black"}
    figure = _figure((1.05 * columns + 0.4, (1.25 + 0.15 * lines) * len(videos)))
    grid = figure.subplots(len(videos), columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for row, (video, places, title, texts) in enumerate(zip(videos, shown, titles, below)):
        grid[row, 0].set_title(title, fontsize=8, loc="left")
        for axes, place in zip(grid[row], places):
            _show(axes, video[place])
            text, right = texts[place]
            axes.text(0.5, -0.05, text, ha="center", va="top", fontsize=6.5, color=colours[right], transform=axes.transAxes)
    return _save(figure, path)


def plot_forecasts(
    path: pathlib.Path, context: np.ndarray, true: np.ndarray | None, predicted: np.ndarray, titles: Sequence[str]
) -> pathlib.Path:
    """Plots context, true and predicted frames: three rows for each clip.

    Args:
      path: the PNG file to write.
      context: uint8 (N, T, H, W, C), what the model read.
      true: uint8 (N, horizon, H, W, C), or None if unknown.
      predicted: like true, floats in [0, 1].
      titles: the title of each clip.

    Returns:
      The path.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     frames = np.zeros((1, 3, 8, 8, 1), np.uint8)
      ...     plot_forecasts(pathlib.Path(folder) / "next.png", frames, frames, frames / 255, ["clip 1"]).name
      'next.png'
    """
    rows = {"read": context} | ({} if true is None else {"true": true}) | {"predicted": bytes_of(predicted)}
    columns = max(len(spread(frames.shape[1])) for frames in rows.values())
    figure = _figure((0.8 * columns + 0.9, (0.84 * len(rows) + 0.3) * len(context)))
    parts = figure.subfigures(len(context), 1, squeeze=False)[:, 0]
    for clip, (part, title) in enumerate(zip(parts, titles)):
        part.suptitle(title, fontsize=8)
        grid = part.subplots(len(rows), columns, squeeze=False)
        for axes in grid.ravel():
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_frame_on(False)
        for row, (name, frames) in enumerate(rows.items()):
            grid[row, 0].set_ylabel(name, fontsize=7)
            for axes, place in zip(grid[row], spread(frames.shape[1])):
                _show(axes, frames[clip, place])
    return _save(figure, path)


def plot_by_step(path: pathlib.Path, errors: Mapping[str, Mapping[str, Sequence[float]]], title: str = "") -> pathlib.Path:
    """Plots errors from the first predicted frame to the last.

    Args:
      path: the PNG file to write.
      errors: metric -> model or baseline -> one number per step.
      title: the title.

    Returns:
      The path.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     plot_by_step(pathlib.Path(folder) / "steps.png", {"MSE": {"model": [1, 2], "copy": [3, 4]}}).name
      'steps.png'
    """
    figure = _figure((4.2 * len(errors), 3.4))
    for axes, (metric, curves) in zip(figure.subplots(1, len(errors), squeeze=False)[0], errors.items()):
        for name, values in curves.items():
            axes.plot(np.arange(1, len(values) + 1), values, marker=".", label=name)
        axes.set(xlabel="frame after the last one read", ylabel=metric)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(title, fontsize=9)
    return _save(figure, path)


def bytes_of(frames: np.ndarray) -> np.ndarray:
    """Frames with values in [0, 1] as bytes.

    Example:
      >>> bytes_of(np.array([0.0, 0.5, 1.0])).tolist()
      [0, 128, 255]
    """
    return np.rint(np.clip(frames, 0, 1) * 255).astype(np.uint8)


def write_gif(path: pathlib.Path, panels: Sequence[np.ndarray], *, rate: float = 8.0, side: int = 160) -> pathlib.Path:
    """Writes an endlessly looping GIF of videos side by side.

    Args:
      path: the file to write.
      panels: uint8 (T, H, W, C) each, all of the same length and height.
      rate: frames per second.
      side: minimum height in pixels; smaller frames are enlarged by a whole factor.

    Returns:
      The path.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     write_gif(pathlib.Path(folder) / "a.gif", [np.zeros((3, 8, 8, 1), np.uint8)] * 2).name
      'a.gif'
    """
    factor = max(1, -(-side // panels[0].shape[1]))
    tall = [np.repeat(np.repeat(panel, factor, axis=1), factor, axis=2) for panel in panels]
    gap = np.full((len(tall[0]), tall[0].shape[1], 4, tall[0].shape[3]), 255, np.uint8)
    joined = np.concatenate([part for panel in tall for part in (panel, gap)][:-1], axis=2)
    write_animation(path, joined, rate)
    return path
