"""Pictures of networks that read DNA, as PNG files: sequence logos, ROC curves, calibration, tags along a sequence."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.errors import missing
from seqjax.models.nucleotides import BASES, SHARES, decode
from seqjax.training.metrics.probabilities import auprc, auroc, calibration_error, pr_points, reliability, roc_points

COLOURS = {"A": "#2a9d3a", "C": "#2458c4", "G": "#e69b00", "T": "#c8262b"}
WIDEST = 120  # bases in a logo


def plot_logos(
    path: pathlib.Path,
    logos: Mapping[str, np.ndarray],
    label: str,
    *,
    first: int = 1,
    columns: int = 1,
    title: str = "",
) -> pathlib.Path:
    """Plots logos: letters as high as their weights, below the line if negative.

    Args:
      path: the PNG file to write.
      logos: title -> weights of A, C, G and T at each position, (T, 4), T at most 120.
      label: label of the vertical axis.
      first: the number of the first position.
      columns: number of logos side by side.
      title: the title of the figure.

    Returns:
      The path.

    Raises:
      UserError: logomaker is not installed.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     plot_logos(pathlib.Path(folder) / "logo.png", {"motif": np.eye(4)}, "bits").name
      'logo.png'
    """
    rows = -(-len(logos) // columns)
    width = max(len(weights) for weights in logos.values())
    figure = _figure((columns * min(0.6 + 0.16 * max(width, 12), 14), 0.3 * bool(title) + rows * (1.9 if columns == 1 else 1.5)))
    if title:
        figure.suptitle(title, fontsize=10)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.ravel()[len(logos) :]:
        axes.set_axis_off()
    for axes, (name, weights) in zip(grid.ravel(), logos.items()):
        draw_logo(axes, weights, first)
        axes.set_title(name, fontsize=9)
        axes.set_ylabel(label, fontsize=8)
    return _save(figure, path)


def draw_logo(axes: Any, weights: np.ndarray, first: int = 1) -> None:
    """One logo on the axes of a figure; see `plot_logos`."""
    try:
        import logomaker
        import pandas
    except ImportError:
        raise missing("sequence logos need logomaker", "dna") from None
    table = pandas.DataFrame(np.asarray(weights, float), columns=list(BASES))  # pyright: ignore[reportArgumentType]
    table.index += first
    if np.any(table.to_numpy()):  # logomaker cannot scale an all-zero logo
        logomaker.Logo(table, ax=axes, color_scheme=COLOURS, show_spines=False)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.spines["left"].set_visible(True)
    step = 1 if len(table) <= 20 else 5 if len(table) <= 70 else 10
    axes.set_xticks([place for place in table.index if place % step == 0])
    axes.tick_params(labelsize=7)


def information(counts: np.ndarray) -> np.ndarray:
    r"""The heights of a sequence logo: the information at each position, divided among its bases.

    .. math:: h_{t,b} = p_{t,b} \left(2 + \sum_{b'} p_{t,b'} \log_2 p_{t,b'}\right)

    Args:
      counts: counts of A, C, G and T at each position, (T, 4).

    Returns:
      (T, 4), in bits.

    Example:
      >>> information(np.array([[4, 0, 0, 0], [1, 1, 1, 1]])).tolist()
      [[2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]

    Reference:
      Schneider and Stephens 1990, "Sequence logos: a new way to display consensus sequences".
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-9)
    bits = 2 + np.sum(shares * np.log2(np.maximum(shares, 1e-12)), axis=1, keepdims=True)
    return shares * np.maximum(bits, 0)


def motifs(kernel: np.ndarray, bias: np.ndarray, codes: Sequence[np.ndarray], number: int = 8) -> dict[str, np.ndarray]:
    """The motifs that the detectors of a convolution over one-hot bases respond to, as sequence logos.

    Each logo counts the stretches with more than half of the detector's strongest response. The detectors with the most information are
    shown.

    Args:
      kernel: (width, 4, F).
      bias: (F,).
      codes: uint8 (T,) of each sequence.
      number: number of detectors to show.

    Returns:
      name -> heights (width, 4) in bits.

    Example:
      >>> from seqjax.models.nucleotides import encode
      >>> found = motifs(np.eye(4)[:2, :, None], np.zeros(1), [encode("TTACTT")], number=1)
      >>> [(name, heights.round(1).tolist()) for name, heights in found.items()]
      [('detector 0: 1 stretch', [[2.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]])]

    Reference:
      Alipanahi et al. 2015, "Predicting the sequence specificities of DNA- and RNA-binding proteins by deep learning".
    """
    width = kernel.shape[0]
    pieces = [np.lib.stride_tricks.sliding_window_view(each, width) for each in codes if len(each) >= width]
    stretches = np.concatenate(pieces)
    stretches = stretches[:: -(-len(stretches) // 200_000)]
    answers = SHARES[stretches].reshape(len(stretches), -1) @ kernel.reshape(-1, kernel.shape[2]) + bias
    found = []
    for detector in range(kernel.shape[2]):
        strong = answers[:, detector] > 0.5 * max(answers[:, detector].max(), 1e-9)
        heights = information(SHARES[stretches[strong]].sum(axis=0) if strong.any() else np.ones((width, 4)))
        found.append((heights.sum(), detector, int(strong.sum()), heights))
    best = sorted(found, key=lambda entry: (-entry[0], entry[1]))[:number]
    return {f"detector {d}: {count:,} stretch{'es' * (count != 1)}": heights for _, d, count, heights in best}


def gradient_times_input(score: Callable[[jax.Array], jax.Array], bases: np.ndarray) -> np.ndarray:
    r"""How much each base contributes to a score: the gradient, minus its mean over the four bases, times the base.

    .. math:: a_{t,b} = x_{t,b} \Big(g_{t,b} - \tfrac14 \sum_{b'} g_{t,b'}\Big), \quad g = \partial\,\mathrm{score} / \partial x

    Args:
      score: maps one-hot bases (N, T, 4) to one number, a sum over independent sequences.
      bases: (N, T, 4).

    Returns:
      (N, T, 4).

    Example:
      >>> weights = jnp.array([1.0, 0.0, 0.0, -1.0])
      >>> gradient_times_input(lambda x: jnp.sum(x @ weights), np.eye(4)[None, [0, 3]]).sum(axis=-1).tolist()  # of A and T
      [[1.0, -1.0]]

    Reference:
      Shrikumar et al. 2017, "Learning important features through propagating activation differences"; Majdandzic et al. 2023,
      "Correcting gradient-based interpretations of deep neural networks for genomics", for subtracting the mean.
    """
    gradient = np.asarray(jax.grad(score)(jnp.asarray(bases)))
    return (gradient - gradient.mean(axis=-1, keepdims=True)) * bases


def plot_curves(path: pathlib.Path, probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> pathlib.Path:
    """Plots the ROC and precision-recall curves of each class against the rest; with two classes, of the second.

    Args:
      path: the PNG file to write.
      probabilities: (N, K).
      labels: int (N,).
      classes: K names.

    Returns:
      The path.

    Example:
      >>> import tempfile
      >>> shares, labels = np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 1])
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     plot_curves(pathlib.Path(folder) / "roc.png", shares, labels, ["background", "gene"]).name
      'roc.png'
    """
    figure = _figure((9, 4.2))
    left, right = figure.subplots(1, 2)
    for k in range(1, 2) if len(classes) == 2 else range(len(classes)):
        scores, positive = probabilities[:, k], labels == k
        if positive.any() and not positive.all():
            left.plot(*_thin(roc_points(scores, positive)), label=f"{classes[k]}, area {auroc(scores, positive):.4f}")
            right.plot(*_thin(pr_points(scores, positive)), label=f"{classes[k]}, area {auprc(scores, positive):.4f}")
    left.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--")
    left.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC")
    right.set(xlabel="recall", ylabel="precision", title="precision and recall", ylim=(0, 1.03))
    for axes in (left, right):
        axes.legend(loc="lower right" if axes is left else "lower left", fontsize=8)
    return _save(figure, path)


def plot_calibration(path: pathlib.Path, probabilities: np.ndarray, labels: np.ndarray) -> pathlib.Path:
    """Plots calibration: accuracy against the predicted probability.

    Args:
      path, probabilities, labels: as in `plot_curves`.

    Returns:
      The path.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     plot_calibration(pathlib.Path(folder) / "c.png", np.array([[0.9, 0.1]]), np.array([0])).name
      'c.png'
    """
    sure, right, number = zip(*reliability(probabilities, labels))
    figure = _figure((4.6, 5.2))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--")
    upper.plot(sure, right, marker="o")
    error = calibration_error(probabilities, labels)
    upper.set(ylabel="accuracy", ylim=(0, 1.03), xlim=(0, 1.0), title=f"expected calibration error {error:.2%}")
    lower.bar(sure, number, width=0.05)
    lower.set(xlabel="predicted probability", ylabel="answers")
    return _save(figure, path)


def plot_tags(
    path: pathlib.Path, codes: np.ndarray, shares: np.ndarray, labels: np.ndarray, classes: Sequence[str], weights: np.ndarray,
    focus: int, others: Mapping[str, np.ndarray] | None = None,
) -> pathlib.Path:  # fmt: skip
    """Plots the tags of a sequence: the true ones, the model's probabilities, and what it looked at to tag one base.

    Args:
      path: the PNG file to write.
      codes: uint8 (T,).
      shares: (T, K), probabilities of the tags.
      labels: int (T,), the true tags.
      classes: K names; the first means "not a feature".
      weights: (T, 4), gradient times input of the score of a base.
      focus: the index of that base.
      others: name -> (T, K), probabilities to compare with.

    Returns:
      The path.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     shares = np.full((30, 2), 0.5)
      ...     codes, labels = np.ones(30, np.uint8), np.zeros(30, int)
      ...     plot_tags(pathlib.Path(folder) / "t.png", codes, shares, labels, ["background", "gene"], np.zeros((30, 4)), 3).name
      't.png'
    """
    figure = _figure((12, 4.6))
    upper, lower = figure.subplots(2, 1, height_ratios=(1.2, 1))
    steps = np.arange(1, len(codes) + 1)
    for k in range(1, len(classes)):
        upper.fill_between(steps, 0, labels == k, step="mid", alpha=0.25, linewidth=0, label=f"{classes[k]}, true")
        upper.plot(steps, shares[:, k], linewidth=1.2, label=f"{classes[k]}, model")
        for name, other in (others or {}).items():
            upper.plot(steps, other[:, k], linewidth=1.2, linestyle=":", color="black", label=f"{classes[k]}, {name}")
    upper.axvline(focus + 1, color="grey", linewidth=0.8)
    upper.set(ylabel="probability", ylim=(0, 1.03), xlim=(1, len(codes)), xlabel="base")
    upper.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    begin = int(np.clip(focus - WIDEST // 2, 0, max(len(codes) - WIDEST, 0)))
    shown = slice(begin, begin + WIDEST)
    draw_logo(lower, weights[shown], begin + 1)
    lower.axvline(focus + 1, color="grey", linewidth=0.8)
    base = decode(codes[focus : focus + 1])
    lower.set_title(
        f"gradient times input of the score of {classes[int(shares[focus].argmax())]!r} at base {focus + 1} ({base})",
        fontsize=9,
    )
    lower.set_ylabel("gradient times input", fontsize=8)
    return _save(figure, path)


def _thin(points: tuple[np.ndarray, np.ndarray], most: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """A limited number of evenly spaced points of a curve, including both ends."""
    some = np.unique(np.linspace(0, len(points[0]) - 1, most).round().astype(int))
    return points[0][some], points[1][some]


def _figure(size):
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _save(figure, path: pathlib.Path) -> pathlib.Path:
    figure.savefig(path, dpi=110)
    return path
