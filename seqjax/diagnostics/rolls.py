"""Pictures of music as PNG files: piano rolls, the model's predictions, and its surprise."""

import pathlib
from collections.abc import Sequence

import numpy as np

from seqjax.data.readers.rolls import LOWEST, note_name
from seqjax.diagnostics.pictures import _figure, _save

MOST = 96  # frames in a plot


def plot_roll(path: pathlib.Path, roll: np.ndarray, *, title: str = "", given: int = 0, fixed: str = "") -> pathlib.Path:
    """Plots a piece as a piano roll.

    Args:
      path: the PNG file to write.
      roll: (T, 88), not 0 where a pitch sounds.
      title: the title.
      given: number of frames of the prompt, highlighted.
      fixed: "top" or "bass" if that voice was given, highlighted.

    Returns:
      The path.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     plot_roll(pathlib.Path(folder) / "roll.png", np.eye(88)).name
      'roll.png'
    """
    sounding = np.asarray(roll) != 0
    shades = sounding.astype(float)
    apart = np.zeros_like(sounding)
    apart[:given] = sounding[:given]
    if fixed:
        apart |= sounding & (np.cumsum(sounding[:, ::-1] if fixed == "top" else sounding, axis=1) == 1)[:, :: -1 if fixed == "top" else 1]
    shades[apart] = 0.45
    figure = _figure((min(4 + 0.12 * len(roll), 40), 4.2))
    axes = figure.subplots()
    _show_roll(axes, shades, _range([sounding]))
    what = [f"the first {given} frames were given"] if given else []
    what += [f"the {fixed} was given"] if fixed else []
    axes.set(xlabel="frame", title=title + (f" (lighter: {', '.join(what)})" if what else ""))
    return _save(figure, path)


def plot_expected(
    path: pathlib.Path, roll: np.ndarray, shares: np.ndarray, nats: Sequence[float] | np.ndarray, title: str = ""
) -> pathlib.Path:
    """Plots a piece, the predicted probability of each pitch, and the surprise of each frame, for the first 96 frames.

    Args:
      path: the PNG file to write.
      roll: (T, 88), not 0 where a pitch sounds.
      shares: (T, 88), the probabilities.
      nats: (T,), -log p of each frame.
      title: the title.

    Returns:
      The path.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     plot_expected(pathlib.Path(folder) / "roll.png", np.eye(88), np.full((88, 88), 0.1), np.ones(88)).name
      'roll.png'
    """
    sounding, shares, nats = np.asarray(roll)[:MOST] != 0, np.asarray(shares)[:MOST], np.asarray(nats)[:MOST]
    figure = _figure((4 + 0.1 * len(sounding), 8))
    upper, middle, lower = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.4))
    limits = _range([sounding, shares > 0.05])
    _show_roll(upper, sounding.astype(float), limits)
    drawn = _show_roll(middle, shares, limits)
    figure.colorbar(drawn, ax=[upper, middle], label="probability", fraction=0.03, pad=0.01)
    upper.set(title=f"{title}: what sounds" if title else "what sounds")
    middle.set(title="how probable each pitch was, given the frames before")
    lower.bar(np.arange(len(nats)), nats, width=0.9, color="tab:red")
    lower.axhline(nats.mean(), color="black", linewidth=0.8)
    lower.set(xlabel="frame", ylabel="nats", title=f"surprise, -log p of each frame; mean {nats.mean():.2f}")
    return _save(figure, path)


def plot_surprise(path: pathlib.Path, nats: Sequence[np.ndarray], title: str = "") -> pathlib.Path:
    """Plots how the loss changes over a piece: the mean of each frame, and the middle half of the pieces.

    Args:
      path: the PNG file to write.
      nats: for each piece (T,), -log p of each frame. Frames that at least half of the pieces have are shown.
      title: the title.

    Returns:
      The path.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     plot_surprise(pathlib.Path(folder) / "loss.png", [np.array([3.0, 2.0])]).name
      'loss.png'
    """
    longest = int(np.median([len(piece) for piece in nats]))
    columns = [np.array([piece[place] for piece in nats if len(piece) > place], float) for place in range(longest)]
    places = np.arange(1, longest + 1)
    figure = _figure((8, 4))
    axes = figure.subplots()
    low, high = np.transpose([np.percentile(column, (25, 75)) for column in columns])
    axes.fill_between(places, low, high, alpha=0.25, label="middle half of the pieces")
    axes.plot(places, [column.mean() for column in columns], linewidth=1.5, label="mean")
    axes.set(xlabel="frame of the piece", ylabel="-log p, nats", title=f"{title}, {len(nats)} pieces" if title else "")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return _save(figure, path)


def _range(rolls: Sequence[np.ndarray]) -> tuple[int, int]:
    """The lowest and highest keys that sound, and two more on each side."""
    keys = np.flatnonzero(np.any([roll.any(axis=0) for roll in rolls], axis=0))
    low, high = (keys[0], keys[-1]) if len(keys) else (39, 51)
    return max(int(low) - 2, 0), min(int(high) + 2, rolls[0].shape[1] - 1)


def _show_roll(axes, shades: np.ndarray, limits: tuple[int, int]):
    low, high = limits
    drawn = axes.imshow(
        shades.T[low : high + 1], origin="lower", aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest",
        extent=(-0.5, len(shades) - 0.5, low - 0.5, high + 0.5),
    )  # fmt: skip
    octaves = [key for key in range(low, high + 1) if (key + LOWEST) % 12 in (0, 7)]
    axes.set_yticks(octaves, [note_name(key + LOWEST) for key in octaves], fontsize=7)
    axes.grid(axis="y", alpha=0.25, linewidth=0.5)
    return drawn
