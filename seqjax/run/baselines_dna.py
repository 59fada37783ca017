"""Baselines for DNA: logistic regression on k-mers or bases, and position weight matrices."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from seqjax.errors import missing
from seqjax.models.nucleotides import SHARES, windows_of

KMERS = (1, 2, 3, 4, 5)
STRENGTHS = (0.03, 0.3, 3.0)
REACH, MOST = 10, 20_000  # bases on each side of one, and bases to learn from, of the regression for tags


def position_weights(codes: Sequence[np.ndarray], labels: np.ndarray, classes: int, pseudocount: float = 1.0) -> np.ndarray:
    r"""Position weight matrices: the log frequency of each base at each position, for each class.

    .. math:: w_{k,t,b} = \log \frac{n_{k,t,b} + c}{\sum_{b'} (n_{k,t,b'} + c)}

    Args:
      codes: uint8 (T,) of each sequence, all of one length; an ambiguous base counts in shares.
      labels: int (N,).
      classes: K.
      pseudocount: c.

    Returns:
      (K, T, 4).

    Example:
      >>> from seqjax.models.nucleotides import encode
      >>> weights = position_weights([encode("AC"), encode("AG")], np.array([0, 0]), 1)
      >>> np.exp(weights[0]).round(3).tolist()
      [[0.5, 0.167, 0.167, 0.167], [0.167, 0.333, 0.333, 0.167]]

    Reference:
      Stormo et al. 1982, "Use of the 'Perceptron' algorithm to distinguish translational initiation sites in E. coli".
    """
    shares = SHARES[np.stack(codes)].astype(np.float64)
    counts = np.stack([shares[labels == k].sum(axis=0) for k in range(classes)]) + pseudocount
    return np.log(counts / counts.sum(axis=2, keepdims=True))


def weigh(weights: np.ndarray, priors: np.ndarray, codes: Sequence[np.ndarray]) -> np.ndarray:
    """Class probabilities from position weight matrices, assuming independent positions.

    Args:
      weights: (K, T, 4), as `position_weights` gives them.
      priors: (K,), how frequent each class is.
      codes: uint8 (T,) of each sequence.

    Returns:
      (N, K).

    Example:
      >>> from seqjax.models.nucleotides import encode
      >>> weights = np.log(np.array([[[0.7, 0.1, 0.1, 0.1]], [[0.1, 0.1, 0.1, 0.7]]]))
      >>> weigh(weights, np.array([0.5, 0.5]), [encode("A"), encode("N")]).round(3).tolist()
      [[0.875, 0.125], [0.5, 0.5]]
    """
    scores = np.einsum("ntb,ktb->nk", SHARES[np.stack(codes)], weights) + np.log(np.maximum(priors, 1e-12))
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def kmer_counts(codes: Sequence[np.ndarray], kmers: Sequence[int] = KMERS) -> Any:
    """Counts of each k-mer in each sequence as log(1 + count), in a sparse matrix.

    Example:
      >>> from seqjax.models.nucleotides import encode
      >>> kmer_counts([encode("AAC")], (1, 2)).toarray().round(2)[0, :6].tolist()
      [1.1, 0.69, 0.0, 0.0, 0.69, 0.69]
    """
    import scipy.sparse

    blocks = []
    for k in kmers:
        found = [windows_of(sequence, k) for sequence in codes]
        rows = np.repeat(np.arange(len(codes)), [len(each) for each in found])
        columns = np.concatenate(found)
        known = columns >= 0
        ones = np.ones(known.sum())
        blocks.append(scipy.sparse.coo_matrix((ones, (rows[known], columns[known])), (len(codes), 4**k)).tocsr())
    counts = scipy.sparse.hstack(blocks).tocsr()
    counts.data = np.log1p(counts.data)
    return counts


def by_position(codes: Sequence[np.ndarray]) -> np.ndarray:
    """One-hot bases as 4 T features, for sequences of equal length.

    Example:
      >>> by_position([np.array([1, 8])]).tolist()
      [[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]]
    """
    return SHARES[np.stack(codes)].reshape(len(codes), -1)


def around(codes: np.ndarray, reach: int = REACH) -> np.ndarray:
    """The bases around each base of a sequence as features.

    Args:
      codes: uint8 (T,).
      reach: r, on each side.

    Returns:
      float32 (T, 4 (2 r + 1)).

    Example:
      >>> around(np.array([1, 8]), 1).tolist()[0]
      [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    """
    shares = SHARES[np.pad(codes, reach)]
    return np.concatenate([shares[j : j + len(codes)] for j in range(2 * reach + 1)], axis=1)


def logistic(train: Any, labels: np.ndarray, validation: Any, validation_labels: np.ndarray, classes: int) -> Callable[[Any], np.ndarray]:
    """Logistic regression whose regularisation is chosen on the validation part.

    Args:
      train, validation: features (N, D) of each, dense or sparse.
      labels, validation_labels: int (N,).
      classes: K.

    Returns:
      A function from features (N, D) to probabilities (N, K).

    Raises:
      UserError: scikit-learn is not installed.

    Example:
      >>> rows, labels = np.array([[0.0], [1.0]] * 9), np.array([0, 1] * 9)
      >>> logistic(rows, labels, rows, labels, 2)(rows[:2]).argmax(axis=1).tolist()
      [0, 1]
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise missing("logistic regression needs scikit-learn", "experiments") from None
    fitted = [LogisticRegression(C=strength, max_iter=1000).fit(train, labels) for strength in STRENGTHS]
    best = max(fitted, key=lambda model: model.score(validation, validation_labels))

    def probabilities(features: Any) -> np.ndarray:
        found = np.zeros((features.shape[0], classes))
        found[:, best.classes_] = best.predict_proba(features)
        return found

    return probabilities


def for_sequences(
    parts: Mapping[str, tuple[Sequence[np.ndarray], np.ndarray]], split: str, classes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Probabilities of each baseline for a part of sequences with a label each.

    Args:
      parts: name -> (codes of each sequence, labels), with "train" and "validation".
      split: which part to answer for.
      classes: the names of the labels.

    Returns:
      name -> (N, K). Where all sequences have one length, also those that go by position.

    Example:
      >>> part = ([np.array([1, 8, 1]), np.array([2, 2, 4])] * 9, np.array([0, 1] * 9))
      >>> list(for_sequences({"train": part, "validation": part}, "validation", ["a", "b"]))
      ['always a', 'k-mers, logistic regression', 'bases by position, logistic regression', 'position weight matrices']
    """
    (codes, labels), (others, other_labels), (asked, _) = parts["train"], parts["validation"], parts[split]
    priors = np.bincount(labels, minlength=len(classes)) / len(labels)
    found = {f"always {classes[int(priors.argmax())]}": np.tile(priors, (len(asked), 1))}
    features = kmer_counts([*codes, *others, *asked])
    first, second = len(codes), len(codes) + len(others)
    model = logistic(features[:first], labels, features[first:second], other_labels, len(classes))
    found["k-mers, logistic regression"] = model(features[second:])
    if len({len(each) for each in (*codes, *others, *asked)}) == 1:
        model = logistic(by_position(codes), labels, by_position(others), other_labels, len(classes))
        found["bases by position, logistic regression"] = model(by_position(asked))
        found["position weight matrices"] = weigh(position_weights(codes, labels, len(classes)), priors, asked)
    return found


def for_bases(
    parts: Mapping[str, tuple[Sequence[np.ndarray], Sequence[np.ndarray]]], split: str, classes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Probabilities of each baseline for the bases of a part, all sequences end to end.

    Args:
      parts: name -> (codes of each sequence, tags of each sequence), with "train" and "validation".
      split: which part to answer for.
      classes: the names of the tags.

    Returns:
      name -> (bases, K). The regression sees ten bases on each side, and learns from up to 20,000 bases, evenly spread.

    Example:
      >>> part = ([np.array([1, 8, 1, 8])] * 9, [np.array([0, 1, 0, 1])] * 9)
      >>> list(for_bases({"train": part, "validation": part}, "validation", ["background", "gene"]))
      ['always background', '21 bases, logistic regression']
    """
    labels = np.concatenate(parts["train"][1])
    priors = np.bincount(labels, minlength=len(classes)) / len(labels)
    bases = sum(map(len, parts[split][0]))
    (rows, tags), (others, other_tags) = _some(*parts["train"], MOST), _some(*parts["validation"], MOST // 4)
    model = logistic(rows, tags, others, other_tags, len(classes))
    answers = np.concatenate([model(around(codes)) for codes in parts[split][0]])
    return {
        f"always {classes[int(priors.argmax())]}": np.broadcast_to(priors, (bases, len(classes))),
        f"{2 * REACH + 1} bases, logistic regression": answers,
    }


def _some(codes: Sequence[np.ndarray], tags: Sequence[np.ndarray], most: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and tags of a limited number of bases, evenly spread."""
    step = -(-sum(map(len, codes)) // most)
    return np.concatenate([around(each)[::step] for each in codes]), np.concatenate([each[::step] for each in tags])
