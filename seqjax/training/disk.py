"""What everything that writes files shares: small files written whole or not at all, and the errors of a disk that refuses."""

import errno
import os
import pathlib

# What a disk says that is full, read-only, forbidden or broken.
DISK_ERRORS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
}  # fmt: skip


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Writes a small file so that a reader, or a crash, sees the old content or the new and nothing between."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name, too, outlives a loss of power
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)
