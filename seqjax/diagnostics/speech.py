"""Pictures of recognised speech: spectrogram, label probabilities, and the time of each word; as PNG files."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from seqjax.data.readers.sounds import samples_of
from seqjax.diagnostics.pictures import _figure, _save

MOST_LABELS = 40  # rows of the posterior


def plot_heard(path: pathlib.Path, reader: Any, rows: Sequence[tuple[Any, np.ndarray, Any, str]]) -> pathlib.Path:
    """Plots sounds one below the other: log mel spectrogram, posterior of blank and labels, and the recognised words.

    Args:
      path: the PNG file to write.
      reader: a SpeechReader.
      rows: for each sound its samples, its log probabilities (T, V), the recognised text, and the true text, "" if unknown.

    Returns:
      The path.
    """
    figure = _figure((12, 3.9 * len(rows)))
    axes = figure.subplots(2 * len(rows), 1, height_ratios=[1.1, 1] * len(rows), squeeze=False)[:, 0]
    for place, (sound, log_probs, heard, text) in enumerate(rows):
        samples = samples_of(sound)
        words = reader.words(log_probs, heard.ids)
        seconds = len(samples) / reader.front.rate
        title = f"heard: {heard.text}" + (f"\nsaid: {text}" if text and text != heard.text else "")
        _show_spectrogram(axes[2 * place], reader.front, samples, seconds, words, title)
        _show_posterior(axes[2 * place + 1], reader, log_probs, heard.ids, words)
        axes[2 * place + 1].set_xlim(0, seconds)
    return _save(figure, path)


def _show_spectrogram(axes: Any, front: Any, samples: np.ndarray, seconds: float, words: Sequence[Any], title: str) -> None:
    plain = front._replace(normalize="none")
    features = np.asarray(plain(samples[None], np.array([len(samples)]))[0])[0]
    ends = (0, len(features) * front.hop / front.rate, 0, front.mels)
    low, high = np.percentile(features, (5, 99.5)) if features.size else (0, 1)
    axes.imshow(features.T, origin="lower", aspect="auto", extent=ends, cmap="magma", vmin=low, vmax=high, interpolation="nearest")
    for word in words:
        axes.axvspan(word.start, word.end, color="white", alpha=0.12)
        axes.text((word.start + word.end) / 2, front.mels * 0.98, word.text, ha="center", va="top", color="white", fontsize=9)
    axes.set(xlim=(0, seconds), ylabel="mel filter", title=title)
    axes.set_xticklabels([])


def _show_posterior(axes: Any, reader: Any, log_probs: np.ndarray, ids: np.ndarray, words: Sequence[Any]) -> None:
    labels = sorted(dict.fromkeys(int(each) for each in ids), key=lambda each: list(ids).index(each))[: MOST_LABELS - 1]
    names = ["blank", *(reader.text(np.array([each])) or "space" for each in labels)]
    shares = np.exp(np.asarray(log_probs)[:, [0, *labels]])
    ends = (0, len(log_probs) * reader.seconds_of_step, len(names) - 0.5, -0.5)
    axes.imshow(shares.T, aspect="auto", extent=ends, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    for word in words:
        axes.axvspan(word.start, word.end, color="tab:orange", alpha=0.12)
    axes.set(xlabel="seconds")
