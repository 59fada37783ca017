"""Metrics of a classifier's probabilities: areas under curves, F1 of each class, calibration."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from seqjax.training.metrics.intervals import accuracy_interval

BINS = 10  # bins of equal width, for calibration


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    r"""Area under the ROC curve: the probability that a positive scores higher than a negative; ties count half.

    .. math:: A = \frac{1}{P N} \sum_{i \in +, j \in -} [s_i > s_j] + \tfrac12 [s_i = s_j]

    Args:
      scores: (N,).
      positive: bool (N,).

    Returns:
      A number in [0, 1]; NaN if there are no positives or no negatives.

    Example:
      >>> auroc(np.array([0.9, 0.4, 0.4, 0.1]), np.array([True, True, False, False]))
      0.875

    Reference:
      Hanley and McNeil 1982, "The meaning and use of the area under a receiver operating characteristic (ROC) curve".
    """
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # from 1; equal scores share their mean rank
    positives = int(np.sum(positive))
    negatives = len(positive) - positives
    if not positives or not negatives:
        return float("nan")
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def auprc(scores: np.ndarray, positive: np.ndarray) -> float:
    r"""Area under the precision-recall curve, as average precision.

    .. math:: A = \sum_n (R_n - R_{n-1}) P_n

    over all thresholds n, from the highest score down; equal scores are one threshold.

    Args:
      scores, positive: as in `auroc`.

    Returns:
      A number in [0, 1]; NaN if there are no positives.

    Example:
      >>> round(auprc(np.array([0.9, 0.8, 0.4]), np.array([True, False, True])), 4)
      0.8333
    """
    found, taken, positives = _by_threshold(scores, positive)
    if not positives:
        return float("nan")
    return float(np.sum(np.diff(found, prepend=0) / positives * found / taken))


def roc_points(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(false positive rate, true positive rate) at each threshold, from (0, 0) to (1, 1).

    Example:
      >>> [points.tolist() for points in roc_points(np.array([0.9, 0.4]), np.array([True, False]))]
      [[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]]
    """
    found, taken, positives = _by_threshold(scores, positive)
    wrong = np.concatenate([[0], taken - found]) / max(len(positive) - positives, 1)
    return wrong, np.concatenate([[0], found]) / max(positives, 1)


def pr_points(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(recall, precision) at each threshold, from the highest score down.

    Example:
      >>> [points.tolist() for points in pr_points(np.array([0.9, 0.4]), np.array([True, False]))]
      [[1.0, 1.0], [1.0, 0.5]]
    """
    found, taken, positives = _by_threshold(scores, positive)
    return found / max(positives, 1), found / taken


def _by_threshold(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """True positives and predicted positives at each distinct score, highest first; and the total number of positives."""
    values, place = np.unique(-np.asarray(scores), return_inverse=True)
    taken = np.cumsum(np.bincount(place, minlength=len(values)))
    found = np.cumsum(np.bincount(place, np.asarray(positive, float), minlength=len(values)))
    return found, taken, int(np.sum(positive))


def class_f1(true: np.ndarray, given: np.ndarray, classes: int) -> np.ndarray:
    """F1 of each class, 2 hits / (true + given); NaN for a class that neither occurs nor is predicted.

    Example:
      >>> class_f1(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).round(3).tolist()
      [0.667, 0.667]
    """
    hits = np.bincount(true[true == given], minlength=classes)
    total = np.bincount(true, minlength=classes) + np.bincount(given, minlength=classes)
    return np.where(total > 0, 2 * hits / np.maximum(total, 1), np.nan)


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> list[tuple[float, float, int]]:
    """Reliability of predictions: (mean probability, accuracy, count) of each non-empty bin.

    Args:
      probabilities: (N, K).
      labels: int (N,).
      bins: number of equal-width bins over [0, 1], for the probability of the answer.

    Example:
      >>> reliability(np.array([[0.75, 0.25], [0.5, 0.5]]), np.array([0, 1]), bins=2)
      [(0.625, 0.5, 2)]
    """
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    place = np.minimum((sure * bins).astype(int), bins - 1)
    inside = (place == number for number in range(bins))
    return [(float(sure[some].mean()), float(right[some].mean()), int(some.sum())) for some in inside if some.any()]


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    r"""The expected calibration error: the mean distance between predicted probability and accuracy.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{N} |\mathrm{right}_b - \mathrm{sure}_b|

    Args:
      probabilities, labels, bins: as in `reliability`.

    Example:
      >>> round(calibration_error(np.array([[0.8, 0.2], [0.3, 0.7], [0.9, 0.1]]), np.array([0, 0, 0]), bins=2), 4)
      0.1333

    Reference:
      Guo et al. 2017, "On Calibration of Modern Neural Networks".
    """
    return sum(abs(right - sure) * number for sure, right, number in reliability(probabilities, labels, bins)) / len(labels)


def nats(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The mean of -log p(label); a probability below 1e-12 counts as that.

    Example:
      >>> round(nats(np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([0, 0])), 4)
      0.3993
    """
    chosen = np.take_along_axis(probabilities, np.asarray(labels, np.int64)[:, None], axis=1)
    return float(-np.mean(np.log(np.maximum(chosen, 1e-12))))


def classification(
    probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str], given: np.ndarray | None = None
) -> dict[str, Any]:
    """All metrics: loss in nats, accuracy with its interval, areas averaged over classes, F1 of each class, calibration.

    With two classes the areas are those of the second. Classes that do not occur are left out of averages.

    Args:
      probabilities: (N, K).
      labels: int (N,).
      classes: K names.
      given: int (N,), the answers, if they are not the likeliest labels.

    Example:
      >>> found = classification(np.array([[0.8, 0.2], [0.3, 0.7]]), np.array([0, 1]), ["background", "gene"])
      >>> list(found), found["auroc"]
      (['loss', 'accuracy', 'wrong', 'auroc', 'auprc', 'f1_background', 'f1_gene', 'calibration_error'], 1.0)
    """
    given = probabilities.argmax(axis=1) if given is None else given
    right = int((given == labels).sum())
    found: dict[str, Any] = {"loss": nats(probabilities, labels)}
    found["accuracy"] = (right / len(labels), *accuracy_interval(right, len(labels)))
    found["wrong"] = len(labels) - right
    some = range(1, 2) if len(classes) == 2 else range(len(classes))
    for name, area in (("auroc", auroc), ("auprc", auprc)):
        known = [value for k in some if np.isfinite(value := area(probabilities[:, k], labels == k))]
        found |= {name: float(np.mean(known))} if known else {}
    f1 = class_f1(labels, cast(np.ndarray, given), len(classes))
    found |= {f"f1_{name}": float(value) for name, value in zip(classes, f1) if np.isfinite(value)}
    return found | {"calibration_error": calibration_error(probabilities, labels)}
