"""Areas under curves, F1, calibration: against scikit-learn and against their definitions."""

import math

import numpy as np
import pytest

from seqjax.training.metrics.probabilities import (
    auprc,
    auroc,
    calibration_error,
    class_f1,
    classification,
    nats,
    pr_points,
    reliability,
    roc_points,
)

sklearn = pytest.importorskip("sklearn.metrics")


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_areas_are_those_of_scikit_learn(seed, ties):
    rng = np.random.default_rng(seed)
    positive = rng.random(200) < 0.3
    scores = rng.normal(size=200) + positive
    scores = np.round(scores) if ties else scores
    assert auroc(scores, positive) == pytest.approx(sklearn.roc_auc_score(positive, scores), abs=1e-12)
    assert auprc(scores, positive) == pytest.approx(sklearn.average_precision_score(positive, scores), abs=1e-12)
    wrong, right, _ = sklearn.roc_curve(positive, scores, drop_intermediate=False)
    np.testing.assert_allclose(roc_points(scores, positive), (wrong, right))
    precision, recall, _ = sklearn.precision_recall_curve(positive, scores)
    found = pr_points(scores, positive)
    np.testing.assert_allclose(found, (recall[:-1][::-1], precision[:-1][::-1]))


def test_the_area_is_how_often_a_positive_is_above_a_negative():
    rng = np.random.default_rng(3)
    scores, positive = rng.integers(0, 6, 40).astype(float), rng.random(40) < 0.5
    above = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    assert auroc(scores, positive) == pytest.approx(np.mean(above))
    assert auroc(-scores, positive) == pytest.approx(1 - np.mean(above))


def test_without_positives_or_negatives_there_is_no_area():
    scores = np.array([0.1, 0.2])
    assert math.isnan(auroc(scores, np.array([True, True]))) and math.isnan(auroc(scores, np.array([False, False])))
    assert math.isnan(auprc(scores, np.array([False, False])))


def test_f1_of_each_class_is_that_of_scikit_learn():
    rng = np.random.default_rng(4)
    true, given = rng.integers(0, 3, 60), rng.integers(0, 3, 60)
    np.testing.assert_allclose(class_f1(true, given, 3), sklearn.f1_score(true, given, average=None))
    assert np.isnan(class_f1(true, given, 4)[3])


def test_calibration_by_hand():
    """Four answers in two bins: 0.6 and 0.6, one right; 0.9 and 1.0, both right."""
    shares = np.array([[0.6, 0.4], [0.4, 0.6], [0.9, 0.1], [0.0, 1.0]])
    labels = np.array([0, 0, 0, 1])
    assert reliability(shares, labels, bins=5) == [(pytest.approx(0.6), 0.5, 2), (pytest.approx(0.95), 1.0, 2)]
    assert calibration_error(shares, labels, bins=5) == pytest.approx(0.5 * 0.1 + 0.5 * 0.05)


def test_a_calibrated_classifier_has_no_error():
    rng = np.random.default_rng(5)
    shares = rng.dirichlet(np.ones(3), 20_000)
    labels = np.array([rng.choice(3, p=row) for row in shares])
    assert calibration_error(shares, labels) < 0.01 < calibration_error(shares**2 / (shares**2).sum(axis=1, keepdims=True), labels)


def test_all_of_them_together():
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 3, 100)
    shares = rng.dirichlet(np.ones(3), 100) * 0.7 + 0.3 * np.eye(3)[labels]
    found = classification(shares, labels, ["a", "b", "c"])
    assert found["auroc"] == pytest.approx(sklearn.roc_auc_score(labels, shares, multi_class="ovr", average="macro"))
    assert found["loss"] == pytest.approx(sklearn.log_loss(labels, shares)) == nats(shares, labels)
    share, low, high = found["accuracy"]
    assert share == pytest.approx((shares.argmax(axis=1) == labels).mean()) and low < share < high
    assert found["wrong"] == round(100 * (1 - share)) and {"f1_a", "f1_b", "f1_c", "auprc", "calibration_error"} <= found.keys()
    lone = classification(shares[labels == 0], labels[labels == 0], ["a", "b", "c"])  # classes that are not there count in no average
    assert all(math.isfinite(value) for name, value in lone.items() if name != "accuracy")
    assert classification(shares, labels, ["a", "b", "c"], given=labels)["wrong"] == 0
