"""Scores of predictions that several experiments report."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from seqjax.training import metrics

GROUPS = {"language": "languages", "kind": "kinds of question", "sentences": "lengths in sentences"}  # column -> what it has


def accuracy(right: Sequence[bool] | np.ndarray) -> dict[str, Any]:
    """Accuracy with its 95 % interval, and the number of errors.

    Example:
      >>> found = accuracy([True, True, False, True])
      >>> round(found["accuracy"][0], 2), found["wrong"]
      (0.75, 1)
    """
    count, total = int(np.sum(right)), len(right)
    return {"accuracy": (count / total, *metrics.accuracy_interval(count, total)), "wrong": total - count}


def confusion(true: Sequence[int] | np.ndarray, given: Sequence[int] | np.ndarray, classes: int) -> np.ndarray:
    """The confusion matrix: how often each true class (row) was predicted as each class (column).

    Example:
      >>> confusion([0, 1, 1], [0, 0, 1], 2).tolist()
      [[1, 0], [1, 1]]
    """
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (np.asarray(true), np.asarray(given)), 1)
    return counts


def ranked(shares: np.ndarray, classes: Sequence[str], count: int) -> list[tuple[str, float]]:
    """The most likely classes with their probabilities; the first among equals.

    Example:
      >>> ranked(np.array([0.25, 0.5, 0.25]), ["cat", "dog", "owl"], 2)
      [('dog', 0.5), ('cat', 0.25)]
    """
    first = [int(i) for i in np.argsort(-shares, kind="stable")[:count]]
    return [(classes[i], float(shares[i])) for i in first]


def by_group(groups: Sequence[str], right: Sequence[bool] | np.ndarray) -> list[tuple[str, float]]:
    """Accuracy in each group, worst first; ties by name.

    Args:
      groups: of each answer, such as its language.
      right: as many.

    Example:
      >>> by_group(["de", "en", "de", "fr"], [True, True, False, True])
      [('de', 0.5), ('en', 1.0), ('fr', 1.0)]
    """
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    shares = np.bincount(members, np.asarray(right, float)) / np.bincount(members)
    return sorted(((str(name), float(share)) for name, share in zip(names, shares)), key=lambda row: row[::-1])


def group_lines(columns: Mapping[str, Sequence[str]], right: Sequence[bool] | np.ndarray) -> list[str]:
    """Accuracy in each group defined by the columns of `GROUPS`, a line for each column that exists.

    Args:
      columns: of the examples; others are left alone.
      right: of each example.

    Example:
      >>> group_lines({"source": ("drei", "three", "vier"), "language": ("de", "en", "de")}, [True, True, False])
      ['2 languages: de 50.0%  en 100.0%']
    """
    found = {what: by_group(columns[name], right) for name, what in GROUPS.items() if name in columns}
    return [f"{len(shares)} {what}: " + "  ".join(f"{group} {share:.1%}" for group, share in shares) for what, shares in found.items()]


def tagging(
    words: Sequence[Sequence[str]],
    true: Sequence[Sequence[str]],
    given: Sequence[Sequence[str]],
    known: Collection[str],
    *,
    entities: bool = False,
) -> dict[str, Any]:
    """Scores of tags: accuracy, accuracy on words unseen in training, and F1 of whole entities.

    Args:
      words: of each sentence.
      true, given: a tag for each word.
      known: the words of the training part.
      entities: whether the tags mark spans, as BIO does.

    Example:
      >>> found = tagging([["a", "dog"]], [["DET", "NOUN"]], [["DET", "VERB"]], {"a"})
      >>> found["accuracy"][0], found["unseen_words"], found["accuracy_on_unseen"]
      (0.5, 1, 0.0)
    """
    right = np.array([a == b for tags, answers in zip(true, given) for a, b in zip(tags, answers)])
    new = np.array([word not in known for sentence in words for word in sentence])
    found = accuracy(right)
    if new.any():
        found |= {"unseen_words": int(new.sum()), "accuracy_on_unseen": float(right[new].mean())}
    if entities:
        spans = metrics.entity_f1(true, given)
        found |= {"precision": spans.precision, "recall": spans.recall, "f1": spans.f1}
    return found


def translation(outputs: Sequence[str], targets: Sequence[str]) -> dict[str, Any]:
    """Scores of translations: BLEU, chrF, and the fraction of exact matches with its interval.

    Example:
      >>> found = translation(["a small dog sat there"], ["a small dog sat there"])
      >>> round(found["bleu"]), found["exact"][0]
      (100, 1.0)
    """
    found = metrics.corpus_bleu(outputs, targets)
    exact = accuracy(np.array(outputs) == np.array(targets))["accuracy"]
    return {"bleu": found.score, "chrf": found.chrf, "exact": exact}
