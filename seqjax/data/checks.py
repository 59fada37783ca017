"""Checks of settings that all loaders and pipelines share."""

import numpy as np

from seqjax.errors import UserError


def is_whole(value: object) -> bool:
    """Whether a value is an integer and not a boolean.

    Example:
      >>> is_whole(3), is_whole(np.int32(3)), is_whole(True), is_whole(3.0)
      (True, True, False, False)
    """
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_whole(least: int, **settings: object) -> None:
    """Refuse settings that are not whole numbers or are too small.

    Example:
      >>> check_whole(1, batch_size=0)
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: batch_size is 0; it must be a whole number of at least 1
    """
    for name, value in settings.items():
        if not is_whole(value) or value < least:  # pyright: ignore[reportOperatorIssue]
            raise UserError(f"{name} is {value!r}; it must be a whole number of at least {least}")


def shard_rows(rows: slice, index: int, count: int) -> slice:
    """The rows of a batch that one of several processes reads.

    Args:
      rows: the rows to divide, such as all of a batch, `slice(0, batch_size)`.
      index: the shard's index, from 0.
      count: the number of shards, which must divide the rows evenly.

    Raises:
      UserError: the rows cannot be divided evenly, or there is no such shard.

    Example:
      >>> shard_rows(slice(0, 6), 1, 3)
      slice(2, 4, None)
      >>> shard_rows(slice(0, 6), 1, 4)
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: batch_size is 6, which 4 shards cannot share evenly; choose a multiple of 4
    """
    check_whole(1, count=count)
    check_whole(0, index=index)
    if index >= count:
        raise UserError(f"index is {index}, but {count} shards have the indices 0 to {count - 1}")
    size, rest = divmod(rows.stop - rows.start, count)
    if rest:
        raise UserError(f"batch_size is {rows.stop - rows.start}, which {count} shards cannot share evenly; choose a multiple of {count}")
    return slice(rows.start + index * size, rows.start + (index + 1) * size)


def check_fractions(validation_fraction: float, test_fraction: float = 0.0) -> None:
    """Refuse held-out fractions that leave nothing for training.

    Example:
      >>> check_fractions(1.5)
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: validation_fraction is 1.5; it must be above 0 and below 1
    """
    if not 0 < validation_fraction < 1:
        raise UserError(f"validation_fraction is {validation_fraction}; it must be above 0 and below 1")
    if not 0 <= test_fraction < 1 - validation_fraction:
        raise UserError(
            f"test_fraction is {test_fraction} and validation_fraction {validation_fraction}; neither may be negative, "
            "and together they must be below 1"
        )
