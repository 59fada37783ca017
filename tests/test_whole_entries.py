"""Two workers with one compilation cache: an entry is complete or absent."""

import os

import whole_entries
from jax._src.lru_cache import LRUCache


def test_an_entry_appears_when_all_of_it_is_written(tmp_path, monkeypatch):
    whole_entries.install()
    cache, seen, replace = LRUCache(str(tmp_path), max_size=-1), [], os.replace

    def watched(source, target):
        with open(source, "rb") as file:
            seen.append((file.read(), cache.get("program")))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    cache.put("program", b"compiled" * 1000)
    assert seen == [(b"compiled" * 1000, None)]
    cache.put("program", b"another")  # as JAX has it, the first stays
    assert cache.get("program") == b"compiled" * 1000 and [path.name for path in tmp_path.iterdir()] == ["program-cache"]
