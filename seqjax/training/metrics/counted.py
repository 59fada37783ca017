"""Metrics of a loss function's Sums: the loss, values derived from it, and accuracy."""

import math
from collections.abc import Callable

from seqjax.training.losses import Sums, means
from seqjax.training.metrics.metric import Metric


def token_loss(**derived: Callable[[float], float]) -> Metric:
    """The mean loss, each count per token, and functions of the mean loss.

    Args:
      **derived: name -> function of the mean loss in nats.

    Returns:
      A Metric of Sums; `compute` gives `loss` in nats, infinite if nothing was counted, then the counts, then the derived.

    Example:
      >>> from seqjax.training.losses import bits
      >>> metric = token_loss(bits_per_character=bits)
      >>> state = metric.update(metric.update(metric.init(), Sums(2.0, 3.0)), Sums(1.0, 1.0))
      >>> {name: round(value, 3) for name, value in metric.compute(state).items()}
      {'loss': 0.75, 'bits_per_character': 1.082}
    """

    def compute(sums):
        found = means(sums)
        return found | {name: function(found["loss"]) for name, function in derived.items()}

    return Metric(_nothing, add_sums, compute)


def accuracy() -> Metric:
    """The mean loss and the accuracy.

    Returns:
      A Metric of Sums with a count `correct`; `compute` gives `loss`, `error` and `accuracy`, the latter two NaN if nothing was
      counted.

    Example:
      >>> metric = accuracy()
      >>> metric.compute(metric.update(metric.init(), Sums(6.0, 4.0, {"correct": 3.0})))
      {'loss': 1.5, 'error': 0.25, 'accuracy': 0.75}
    """

    def compute(sums):
        found = means(sums)
        share = found.get("correct", math.nan) if float(sums.tokens) else math.nan
        return {"loss": found["loss"], "error": 1 - share, "accuracy": share}

    return Metric(_nothing, add_sums, compute)


def add_sums(first: Sums, second: Sums) -> Sums:
    """Adds the sums of two parts; a count that only one of them has is kept.

    Example:
      >>> add_sums(Sums(1.0, 2.0), Sums(3.0, 4.0, {"correct": 1.0}))
      Sums(loss=4.0, tokens=6.0, counts={'correct': 1.0})
    """
    names = first.counts | second.counts
    counts = {name: first.counts.get(name, 0.0) + second.counts.get(name, 0.0) for name in names}
    return Sums(first.loss + second.loss, first.tokens + second.tokens, counts)


def _nothing() -> Sums:
    return Sums(0.0, 0.0)
