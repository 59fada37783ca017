"""Checks of videos before training: each is decoded once, all bad ones are reported, and good ones are cached."""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from seqjax.data.readers.videos import Facts, examine_video, frame_files
from seqjax.errors import UserError

Progress = Callable[[int, int], None]  # (videos checked, videos to check)


def check_videos(
    paths: Sequence[str], *, workers: int = 0, cache: str = "", progress: Progress | None = None
) -> tuple[dict[str, Facts], dict[str, str], tuple[str, ...]]:
    """Decodes videos, each once, as `examine_video` does.

    Args:
      paths: files, or folders of frames.
      workers: number of threads; 0 decodes in the caller's thread.
      cache: a file that records which were valid, by path, size and modification time; "" for none.
      progress: called after each with the number of videos checked so far and the total.

    Returns:
      (path -> facts of a valid video, path -> what is wrong with it, notes).

    Example:
      >>> check_videos(["nothing.mp4"])
      ({}, {'nothing.mp4': 'nothing.mp4 does not exist; check the path'}, ())
    """
    known, faults = _recalled(cache), {}
    keys = {path: _key(path) for path in dict.fromkeys(paths)}
    facts: dict[str, Any] = {path: Facts(*known[key]) for path, key in keys.items() if key in known}
    todo = [path for path in keys if path not in facts]
    with contextlib.ExitStack() as stack:
        run = map
        if workers:
            run = stack.enter_context(ThreadPoolExecutor(workers, thread_name_prefix="videos")).map
        for done, (path, (found, fault)) in enumerate(zip(todo, run(_examined, todo)), start=1):
            if fault:
                faults[path] = fault
            else:
                facts[path] = found
            if progress is not None:
                progress(done, len(todo))
    notes = _remember(cache, {keys[path]: list(found) for path, found in facts.items() if keys[path]}) if cache and todo else ()
    return facts, faults, notes


def _examined(path: str) -> tuple[Facts | None, str]:
    try:
        return examine_video(path), ""
    except UserError as error:
        if "not installed" in str(error):
            raise
        return None, str(error)


def _key(path: str) -> str:
    """Identifies a checked file, or a folder by its images; "" if it cannot be read."""
    full = os.path.abspath(os.path.expanduser(path))
    try:
        files = frame_files(full) if os.path.isdir(full) else [full]
        stats = [(file, os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files]
    except (OSError, ValueError):  # examine_video says what is wrong
        return ""
    return hashlib.blake2b(repr(("1", stats)).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _recalled(cache: str) -> dict[str, list]:
    """Key -> facts; empty if the cache is missing or damaged."""
    try:
        found = json.loads(pathlib.Path(cache).read_text(encoding="utf-8")) if cache else {}
    except (OSError, ValueError):
        return {}
    return {key: facts for key, facts in found.items() if len(facts) == 4} if isinstance(found, dict) else {}


def _remember(cache: str, found: dict[str, list]) -> tuple[str, ...]:
    new = f"{cache}.{os.getpid()}"
    try:
        pathlib.Path(cache).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(new).write_text(json.dumps(found), encoding="utf-8")
        os.replace(new, cache)
    except OSError as error:
        return (f"{cache} cannot be written ({error.strerror}): the videos will all be checked again next time",)
    return ()
