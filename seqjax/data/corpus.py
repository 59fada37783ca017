"""What every source gives, and how a text is cut into parts."""

import hashlib
import json
import zlib
from typing import Mapping, NamedTuple, Sequence

from seqjax.errors import UserError


class Corpus(NamedTuple):
    """A text in three parts, each a tuple of documents."""

    name: str  # what to call it in logs
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]  # may be empty
    ends: bool  # the end of each document is predicted, as <eos>
    notes: tuple[str, ...] = ()  # what to know of it, a line each
    made_from: dict[str, str] = {}  # what else it depends on: "python" -> version

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """The parts that are not empty, by name.

        Example:
          >>> Corpus("words.txt", ("one", "two"), ("three",), (), ends=True).parts
          {'train': ('one', 'two'), 'validation': ('three',)}
        """
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {part: documents for part, documents in named.items() if documents}

    @property
    def fingerprint(self) -> str:
        """A sha256 over the documents of each part, and whether their ends count."""
        return hashlib.sha256(json.dumps([self.ends, self.parts]).encode()).hexdigest()


def cut(documents: Sequence[str], fraction: float, what: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Cut the last part off: documents where there are several, characters where there is one.

    Args:
      documents: at least one.
      fraction: the share to cut off, in (0, 1); at least one document or character on either side.
      what: the text's name, for the error.

    Returns:
      (what stays, what was cut off); together they are the documents, in their order.

    Raises:
      UserError: one document of fewer than two characters.

    Example:
      >>> cut(["one", "two", "three"], 0.3, "words.txt")
      (('one', 'two'), ('three',))
      >>> cut(["abcdefghij"], 0.2, "letters.txt")
      (('abcdefgh',), ('ij',))
    """
    whole = documents if len(documents) > 1 else documents[0]
    if len(whole) < 2:
        raise UserError(f"{what} is too short to cut a validation part off; give more text, or a validation file")
    place = len(whole) - min(max(round(len(whole) * fraction), 1), len(whole) - 1)
    if whole is documents:
        return tuple(documents[:place]), tuple(documents[place:])
    return (whole[:place],), (whole[place:],)


def hold_out(texts: Mapping[str, str], shares: Sequence[float]) -> list[tuple[str, ...]]:
    """Deal named documents out to parts, spread over the whole text; always the same way.

    The documents are shuffled by a checksum of their names. Each part in turn takes those that fit into its share of
    all characters, until it is nine tenths full; never one larger than a third of the part. So no part exceeds its
    share or is a single document's, and a change in one document moves few.

    Args:
      texts: name -> document.
      shares: the share of all characters for each part; together below 1.

    Returns:
      The rest, then one tuple of documents a share; each in the order of the names.

    Example:
      >>> [len(part) for part in hold_out({f"page {n}": "some text" for n in range(100)}, [0.1, 0.05])]
      [86, 9, 5]
    """
    waiting = sorted(texts, key=lambda name: (zlib.crc32(name.encode("utf-8")), name))
    total = sum(map(len, texts.values()))
    parts = []
    for share in shares:
        taken, size, most = [], 0, share * total
        for name in waiting:
            if size < 0.9 * most and size + len(texts[name]) <= most and len(texts[name]) <= most / 3:
                taken.append(name)
                size += len(texts[name])
        waiting = [name for name in waiting if name not in taken]
        parts.append(taken)
    return [tuple(texts[name] for name in sorted(part)) for part in (waiting, *parts)]
