"""Checks of settings that all loaders and pipelines share."""

import numpy as np

from seqjax.errors import UserError


def is_whole(value: object) -> bool:
    """Whether it is an integer, and not a boolean.

    Example:
      >>> is_whole(3), is_whole(np.int32(3)), is_whole(True), is_whole(3.0)
      (True, True, False, False)
    """
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_whole(least: int, **settings: object) -> None:
    """Refuse settings that are not whole numbers, or too small.

    Example:
      >>> check_whole(1, batch_size=0)
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: batch_size is 0; it must be a whole number of at least 1
    """
    for name, value in settings.items():
        if not is_whole(value) or value < least:
            raise UserError(f"{name} is {value!r}; it must be a whole number of at least {least}")


def check_fractions(validation_fraction: float, test_fraction: float = 0.0) -> None:
    """Refuse shares to hold out that leave nothing.

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


def check_shard(index: int, count: int, rows: int) -> slice:
    """The rows of every batch that process `index` of `count` reads.

    Args:
      index, count: the share.
      rows: of a batch.

    Raises:
      UserError: the rows cannot be shared by so many, or there is no such process.

    Example:
      >>> check_shard(1, 4, 32)
      slice(8, 16, None)
    """
    check_whole(1, count=count)
    if not is_whole(index) or not 0 <= index < count:
        raise UserError(f"index is {index!r}; with count={count} it must be a whole number from 0 to {count - 1}")
    if rows % count:
        raise UserError(f"batch_size is {rows}, which {count} shards cannot share evenly; make it a multiple of {count}")
    return slice(index * rows // count, (index + 1) * rows // count)
