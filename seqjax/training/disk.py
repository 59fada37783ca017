"""Helpers for writing files: atomic writes of small files, and messages for disk errors."""

import contextlib
import errno
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

from seqjax.errors import UserError


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Writes a small file atomically: after a crash, or to a reader, it has either the old or the new content."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)  # makes the rename survive a power failure
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: pathlib.Path) -> None:
    """Syncs a file's content, or a directory's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: pathlib.Path) -> None:
    """Removes a directory and its content, or a file; for a link, only the link itself."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def refusal(error: BaseException | None) -> str | None:
    """The operating system's reason for an error, in words; None if the error is of another kind.

    Covers every OSError, MemoryError, and TensorStore's errors, which carry the system's number in their text, as well as errors raised
    from one of these.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError):
            return error.strerror or str(error) or type(error).__name__
        if isinstance(error, MemoryError):
            return os.strerror(errno.ENOMEM)
        number = re.search(r"os_error_code='(\d+)'", str(error))
        if number:
            return os.strerror(int(number[1]))
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def refusals(what: str, advice: str) -> Iterator[None]:
    """Turns disk errors into a one-line UserError; other errors pass unchanged.

    Args:
      what: the failure, with the path, such as "checkpoint 7 could not be saved in run/checkpoints".
      advice: what to do.

    Raises:
      UserError: instead of an error that has a `refusal`.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = refusal(error)
        if reason is None:
            raise
        raise UserError(f"{what}: {reason}; {advice}") from error
