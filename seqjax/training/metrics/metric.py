"""The interface of all metrics."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Metric(NamedTuple):
    """A metric as three functions; states add up over batches and processes, whatever their order and sizes."""

    init: Callable[[], Any]  # the state before anything was counted
    update: Callable[[Any, Any], Any]  # (state, new) -> state
    compute: Callable[[Any], dict[str, float]]  # state -> values by name, the loss first if there is one


def check_pairs(first: Sequence, second: Sequence, name: str = "hypotheses", other: str = "references") -> None:
    """Raises ValueError if the two have different lengths.

    Example:
      >>> check_pairs(["a"], [])
      Traceback (most recent call last):
      ...
      ValueError: hypotheses has 1 entries and references has 0; there must be one for each
    """
    if len(first) != len(second):
        raise ValueError(f"{name} has {len(first)} entries and {other} has {len(second)}; there must be one for each")
