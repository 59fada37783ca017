"""Small parts that several experiments are made of."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from seqjax.data.buckets import BucketBatches, one_pass
from seqjax.run.experiment import Flag
from seqjax.run.settings import one_of
from seqjax.training import metrics


class passes:
    """An iterable that calls `make` for a new iterator at every pass.

    Example:
      >>> twice = passes(lambda: iter([1, 2]))
      >>> list(twice), list(twice)
      ([1, 2], [1, 2])
    """

    def __init__(self, make: Callable[[], Iterable[Any]]):
        self._make = make

    def __iter__(self) -> Iterator[Any]:
        return iter(self._make())


def bucketed(
    config: ConfigDict, lengths: Sequence[int] | np.ndarray, collate: Callable[..., Any], boundaries: Sequence[int], training: bool
) -> Any:
    """Batches of sequences padded to a few lengths: shuffled and endless in training, else one pass in order.

    Args:
      config: with seed, data.batch_size and data.eval_batch_size.
      lengths: of the sequences.
      collate: `(places, rows, steps) -> batch`.
      boundaries: the lengths that batches are padded to.
      training: which of the two.
    """
    if training:
        return BucketBatches(lengths, collate, config.data.batch_size, tuple(boundaries), seed=config.seed)
    size = config.data.eval_batch_size
    return passes(lambda: (batch for _, batch in one_pass(lengths, collate, size, boundaries)))


def compute_dtype(config: ConfigDict) -> Any:
    """What `dtype=` of a model is for config.model.dtype: None for float32, the parameters' own.

    Example:
      >>> compute_dtype(ConfigDict({"model": {"dtype": "bfloat16"}}))
      dtype(bfloat16)
    """
    return None if config.model.dtype == "float32" else jnp.dtype(config.model.dtype)


def prediction_flags(items: str, item: str) -> dict[str, Flag]:
    """--input and --format of a mode `predict`.

    Example:
      >>> list(prediction_flags("texts", "text"))
      ['input', 'format']
    """
    return {
        "input": Flag("-", f"a file of {items}, a line each (or .jsonl with a field text); - is standard input.", ("predict",)),
        "format": Flag("text", f"for people, or a line of JSON for each {item}.", ("predict",), one_of("text", "jsonl")),
    }


def print_json(row: dict[str, Any]) -> None:
    """Prints a row as a line of JSON."""
    print(json.dumps(row, ensure_ascii=False))


def accuracy(right: Sequence[bool] | np.ndarray) -> dict[str, Any]:
    """The share of right answers with its 95 % interval, and the number of wrong ones.

    Example:
      >>> found = accuracy([True, True, False, True])
      >>> round(found["accuracy"][0], 2), found["wrong"]
      (0.75, 1)
    """
    count, total = int(np.sum(right)), len(right)
    return {"accuracy": (count / total, *metrics.accuracy_interval(count, total)), "wrong": total - count}


def confusion(true: Sequence[int] | np.ndarray, given: Sequence[int] | np.ndarray, classes: int) -> np.ndarray:
    """How often each class (row) was taken for each (column).

    Example:
      >>> confusion([0, 1, 1], [0, 0, 1], 2).tolist()
      [[1, 0], [1, 1]]
    """
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (np.asarray(true), np.asarray(given)), 1)
    return counts
