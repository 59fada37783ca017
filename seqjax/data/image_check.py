"""Checks of image files before training: each is decoded once, all bad ones are reported, and good ones are cached."""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from seqjax.data.image_columns import FileImages, Found
from seqjax.data.records import MOST_FAULTS, Faults
from seqjax.data.transforms.pixels import examine_image
from seqjax.errors import UserError

BAD_FILES = ("stop", "leave_out")
CHANNELS = 3  # of image files
CHUNK = 256  # files that are checked before progress is reported
SAVE_EVERY = 60.0  # seconds between saves of the results

Progress = Callable[[int, int], None]  # (files checked, files to check)


class Listing(NamedTuple):
    """Image files with their classes, not yet opened."""

    root: str  # the folder that file names are relative to
    classes: tuple[str, ...]
    parts: dict[str, tuple[list[str], list[int]]]  # part -> paths and labels
    bad: dict[str, str] = {}  # path -> what is wrong with it, judged by its name alone
    notes: tuple[str, ...] = ()


class Checked(NamedTuple):
    """The result of `check_files`."""

    faults: dict[str, str]  # path -> what is wrong with it
    transparent: int  # how many images have transparency, which is dropped
    notes: tuple[str, ...]  # a note if the cache could not be written


def checked(found: Listing, size: int, bad_files: str, *, workers: int = 0, cache: str = "", progress: Progress | None = None) -> Found:
    """The valid images of a listing.

    Args:
      found: the listing.
      size: the size that images are scaled to.
      bad_files: "stop" raises an error that lists the bad ones; "leave_out" lists them in the notes.
      workers, cache, progress: as in `check_files`.

    Returns:
      Found, with FileImages for each part.

    Raises:
      UserError: there are bad files; or, if they are left out, a part or a training class has no valid file.

    Example:
      >>> import tempfile
      >>> from PIL import Image
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     paths = [f"{folder}/{name}.png" for name in "abc"]
      ...     for path in paths[:2]:
      ...         Image.new("L", (3, 3)).save(path)
      ...     found = Listing(folder, ("letter",), {"train": (paths, [0, 0, 0])})
      ...     sound = checked(found, 2, "leave_out")
      >>> len(sound.parts["train"]), sound.notes[0]
      (2, '1 of 3 image files is left out:')
    """
    every = list(dict.fromkeys(path for paths, _ in found.parts.values() for path in paths))
    faults, transparent, unkept = check_files(every, workers=workers, cache=cache, progress=progress)
    bad = {**found.bad, **faults}
    if bad and bad_files == "stop":
        _refuse(found.root, list(bad.values()))
    parts, notes = {}, list(found.notes)
    for part, (paths, labels) in found.parts.items():
        kept = [i for i, path in enumerate(paths) if path not in faults]
        labels = np.asarray(labels, np.int64)[kept]
        if part == "train" and (empty := np.setdiff1d(np.arange(len(found.classes)), labels)).size:
            raise UserError(f"{found.root}: no training image of the class {found.classes[empty[0]]} is valid; repair them")
        if not kept:
            raise UserError(f"{found.root}: no image of the {part} part is valid; repair them")
        parts[part] = FileImages([paths[i] for i in kept], labels, size, CHANNELS, found.root)
    if bad:
        notes.append(f"{len(bad):,} of {len(every) + len(found.bad):,} image files {'is' if len(bad) == 1 else 'are'} left out:")
        more = len(bad) - MOST_FAULTS
        notes += [f"  {fault}" for fault in list(bad.values())[:MOST_FAULTS]] + [f"  ... and {more:,} more"] * (more > 0)
    if transparent:
        notes.append(f"{transparent:,} images have transparency, which is dropped")
    return Found(found.classes, parts, (*notes, *unkept))


def _refuse(root: str, bad: Sequence[str]) -> None:
    advice = "repair or remove them, or leave them out with bad_files='leave_out'"
    if len(bad) == 1:
        raise UserError(f"{bad[0]}; or leave it out with bad_files='leave_out'")
    faults = Faults(f"{root} has image files that cannot be used ({advice})")
    for fault in bad:
        faults.add(fault)
    faults.raise_any()


def check_files(paths: Sequence[str], *, workers: int = 0, cache: str = "", progress: Progress | None = None) -> Checked:
    """Decode image files, each once, as `seqjax.data.transforms.pixels.examine_image` does.

    Args:
      paths: the files.
      workers: number of threads; 0 decodes in the caller's thread.
      cache: a file that remembers which were valid, by path, size and modification time, so that they are not decoded again; written every
        minute, so that little is lost on an interruption. "" for none.
      progress: called periodically with the number of files checked so far and the total.

    Returns:
      A Checked.

    Raises:
      UserError: Pillow is not installed.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
      ...     found = check_files([file.name])
      >>> found.faults[file.name].removeprefix(file.name)
      ' is not a valid image (not a format that Pillow knows); repair or remove it'
    """
    keys, faults, notes = np.zeros(len(paths), np.uint64), {}, []
    release = importlib.metadata.version("pillow") if importlib.util.find_spec("PIL") else ""
    for i, path in enumerate(paths):
        with contextlib.suppress(OSError, ValueError):  # examine_image says what is wrong
            keys[i] = _key(path, release)
    known, seen = _recalled(cache)
    transparent = np.zeros(len(paths), bool)
    at = np.minimum(np.searchsorted(known, keys), max(len(known) - 1, 0))
    done = (known[at] == keys) & (keys != 0) if len(known) else np.zeros(len(paths), bool)
    transparent[done] = seen[at[done]] if len(known) else False
    todo, since = np.flatnonzero(~done), time.monotonic()
    with contextlib.ExitStack() as stack:
        run: Callable[..., Iterable[Any]] = map
        if workers:
            pool = stack.enter_context(ThreadPoolExecutor(workers, thread_name_prefix="images"))
            run = pool.map
        if cache and len(todo):
            stack.callback(lambda: notes.extend(_remember(cache, keys[done], transparent[done])))
        for first in range(0, len(todo), CHUNK):
            chunk = todo[first : first + CHUNK]
            for i, (fault, drops) in zip(chunk, run(_examine, (paths[i] for i in chunk))):  # pyright: ignore[reportArgumentType]
                done[i], transparent[i] = not fault and keys[i] != 0, drops
                if fault:
                    faults[paths[i]] = fault
            if progress is not None:
                progress(min(first + CHUNK, len(todo)), len(todo))
            if cache and time.monotonic() - since > SAVE_EVERY:
                _remember(cache, keys[done], transparent[done])
                since = time.monotonic()
    return Checked(faults, int(transparent.sum()), tuple(notes))


def cache_file(folder: str, path: str) -> str:
    """The cache file of `check_files`: one file per dataset.

    Args:
      folder: the folder of all such files; "" for none.
      path: the dataset's path.

    Example:
      >>> cache_file("", "photos"), cache_file("/cache", "photos").startswith("/cache/images-")
      ('', True)
    """
    of = hashlib.blake2b(os.fsencode(os.path.abspath(os.path.expanduser(path))), digest_size=8).hexdigest()
    return os.path.join(folder, f"images-{of}.npz") if folder else ""


def _examine(path: str) -> tuple[str, bool]:
    try:
        return "", examine_image(path, CHANNELS)
    except UserError as error:
        if "not installed" in str(error):
            raise
        return str(error), False


def _key(path: str, release: str) -> int:
    """Identifies a checked file: the key changes with the file or the version of Pillow."""
    stat = os.stat(path)
    what = f"1\0{os.path.abspath(path)}\0{stat.st_size}\0{stat.st_mtime_ns}\0{CHANNELS}\0{release}"
    return int.from_bytes(hashlib.blake2b(what.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little") or 1


def _recalled(cache: str) -> tuple[np.ndarray, np.ndarray]:
    """Keys in ascending order, and which images have transparency; both empty if the cache is missing or damaged."""
    nothing = np.zeros(0, np.uint64), np.zeros(0, bool)
    if not cache:
        return nothing
    try:
        with open(cache, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            keys, transparent = file["keys"], file["transparent"]
    except (OSError, ValueError, LookupError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error):
        return nothing
    sound = keys.ndim == 1 and keys.dtype == np.uint64 and transparent.dtype == bool and transparent.shape == keys.shape
    return (keys, transparent) if sound else nothing


def _remember(cache: str, keys: np.ndarray, transparent: np.ndarray) -> list[str]:
    """Writes the cache; returns a note if it cannot be written."""
    order, new = np.argsort(keys), f"{cache}.{os.getpid()}"
    try:
        pathlib.Path(cache).parent.mkdir(parents=True, exist_ok=True)
        with open(new, "wb") as file:
            np.savez(file, keys=keys[order], transparent=transparent[order])
        os.replace(new, cache)
    except OSError as error:
        return [f"{cache} cannot be written ({error.strerror}): the image files will all be checked again next time"]
    return []
