"""The result of every reader: examples in columns, each with its location in a file; and datasets made of them."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from seqjax.data.origins import origin_notes
from seqjax.errors import UserError

PARTS = ("train", "validation", "test")
MOST_FAULTS = 20  # faults that one message lists


class Places(NamedTuple):
    """Where examples come from, for messages: a few names and a number for each example.

    Example:
      >>> places = Places.of("reviews.csv line", [2, 3, 7])
      >>> places.at(2), places.take(np.array([1])).at(0)
      ('reviews.csv line 7', 'reviews.csv line 3')
    """

    names: tuple[str, ...]  # such as "reviews.csv line"
    which: np.ndarray  # (N,), the index of each example's name
    numbers: np.ndarray  # (N,), the number that follows the name

    @classmethod
    def of(cls, name: str, numbers: Sequence[int] | np.ndarray) -> "Places":
        """Places with one name."""
        return cls((name,), np.broadcast_to(np.int32(0), len(numbers)), np.asarray(numbers, np.int64))

    @classmethod
    def joined(cls, several: Iterable["Places"]) -> "Places":
        """Concatenates several places."""
        several = list(several)
        firsts = np.cumsum([0] + [len(places.names) for places in several])
        names = tuple(name for places in several for name in places.names)
        which = [np.zeros(0, np.int32), *(places.which + first for places, first in zip(several, firsts))]
        numbers = [np.zeros(0, np.int64), *(places.numbers for places in several)]
        return cls(names, np.concatenate(which), np.concatenate(numbers))

    def at(self, index: int | np.integer) -> str:
        """Where one example comes from."""
        return f"{self.names[self.which[index]]} {self.numbers[index]}"

    def take(self, indices: np.ndarray) -> "Places":
        """The places of some examples."""
        return Places(self.names, self.which[indices], self.numbers[indices])


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """Examples in columns of one length.

    Args:
      columns: name -> a tuple or an array with one value per example.
      places: where each example comes from.
      notes: a sentence for each thing left out on reading.

    Example:
      >>> records = Records({"text": ("a fine film", "dull"), "label": ("pos", "neg")}, Places.of("films.csv line", [2, 3]))
      >>> len(records), records["label"], records.take(np.array([1]))["text"], records.places.at(1)
      (2, ('pos', 'neg'), ('dull',), 'films.csv line 3')
    """

    columns: Mapping[str, Any]
    places: Places
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.columns.items()} | {"places": len(self.places.numbers)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns have different lengths: {lengths}")

    def __len__(self) -> int:
        return len(self.places.numbers)

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def take(self, indices: np.ndarray) -> "Records":
        """The examples at these indices, in the given order."""
        columns = {
            name: column[indices] if isinstance(column, np.ndarray) else tuple(column[i] for i in indices)
            for name, column in self.columns.items()
        }
        return Records(columns, self.places.take(np.asarray(indices, np.int64)), self.notes)

    def replace(self, **columns: Sequence[Any] | np.ndarray) -> "Records":
        """The same examples with these columns changed or added."""
        return dataclasses.replace(self, columns={**self.columns, **columns})


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset in parts, as every loader returns it.

    Args:
      name: what to call it in logs.
      parts: "train" and "validation", and "test" if there is one; Records, or images (`seqjax.data.images.Images`).
      unit: what is counted, in the plural: "texts", "sentences", ...
      classes: the name of each label, if labels are numbers.
      facts: what else a model must know about all parts, JSON-serialisable: whether ends of documents are predicted, ...
      notes: a sentence for each thing left out, converted, held out or found twice.
      made_from: what else the content depends on: package or "python" -> version.
      files: part -> the name of its file, for parts that have their own.

    Example:
      >>> part = Records({"text": ("a", "b")}, Places.of("letters.txt line", [1, 2]))
      >>> letters = Dataset("letters.txt", {"train": part}, "texts")
      >>> letters.fingerprint[:3], len(letters.parts["train"])
      ('v2-', 2)
    """

    name: str
    parts: Mapping[str, Any]
    unit: str
    classes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    made_from: Mapping[str, str] = dataclasses.field(default_factory=dict)
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the content: classes, facts, and every column of every part. See `fingerprint`."""
        return fingerprint(self.parts, {"classes": list(self.classes), **self.facts})


def make_dataset(name: str, parts: Mapping[str, Any], unit: str, *, notes: Iterable[str] = (), **others: Any) -> Dataset:
    """A dataset with its parts in the usual order, and the readers' notes before its own.

    Args:
      name, parts, unit, notes, **others: as in `Dataset`.

    Example:
      >>> part = Records({"text": ("a",)}, Places.of("letters.txt line", [1]), ("b was left out",))
      >>> letters = make_dataset("letters", {"validation": part, "train": part}, "texts", made_from={"babel": "2.18"})
      >>> list(letters.parts), letters.notes
      (['train', 'validation'], ('b was left out', 'made from Babel 2.18'))
    """
    ordered = {part: parts[part] for part in PARTS if part in parts}
    read = [note for part in ordered.values() for note in getattr(part, "notes", ())]
    every = (*dict.fromkeys(read), *notes, *origin_notes(others.get("made_from", {})))
    return Dataset(name, ordered, unit, notes=every, **others)


def fingerprint(parts: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """A hash that changes with any example of any part, their order, or a fact.

    The files and lines that examples come from do not matter: files may be moved, compressed or split differently.

    Args:
      parts: name -> Records, or an object with its own `fingerprint()`.
      facts: JSON-serialisable.

    Returns:
      "v2-" and 64 hexadecimal digits of sha256. Version 1 had a different form for each kind of data.

    Example:
      >>> part = Records({"label": np.array([1, 0])}, Places.of("a.csv line", [2, 3]))
      >>> fingerprint({"train": part}, {}) == fingerprint({"train": part.take(np.array([1, 0]))}, {})
      False
    """
    whole = hashlib.sha256()
    _add(whole, [[name, facts[name]] for name in sorted(facts)])
    for part, records in parts.items():
        _add(whole, part)
        if hasattr(records, "fingerprint"):
            _add(whole, records.fingerprint())
            continue
        for name in sorted(records):
            _add(whole, name)
            _add(whole, records[name])
    return f"v2-{whole.hexdigest()}"


def _add(whole: Any, value: Any) -> None:
    """Each value is preceded by its kind and length, so that none can run into the next."""
    if isinstance(value, str):
        data = value.encode("utf-8", "surrogatepass")
        whole.update(b"s%d:" % len(data) + data)
    elif isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.number):
        data = np.ascontiguousarray(value.astype(value.dtype.newbyteorder("<")))
        if np.issubdtype(data.dtype, np.floating) and np.isnan(data).any():
            data = np.where(np.isnan(data), data.dtype.type(np.nan), data)  # all NaNs count as the same, whatever their bits
        whole.update(f"a{data.dtype.str}{data.shape}:".encode() + data.tobytes())
    elif isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.datetime64):
        whole.update(f"t{np.datetime_data(value.dtype)[0]}".encode())
        _add(whole, value.astype(np.int64))
    elif hasattr(value, "add_to"):  # a column that is too large to hold
        value.add_to(whole)  # pyright: ignore[reportAttributeAccessIssue]
    elif isinstance(value, (list, tuple)):
        whole.update(b"l%d:" % len(value))
        for item in value:
            _add(whole, item)
    else:
        _add(whole, repr(value))


class Faults:
    """Collects what is wrong with records, so that one error lists everything.

    Args:
      what: the file or dataset, for the line above several faults.

    Example:
      >>> faults = Faults("films.csv")
      >>> faults.add("films.csv line 2 has an empty label")
      >>> faults.raise_any()
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: films.csv line 2 has an empty label
    """

    def __init__(self, what: str):
        self._what, self._found, self._number = what, [], 0

    def __len__(self) -> int:
        return self._number

    def add(self, message: object) -> None:
        """Notes a fault; the first twenty are kept."""
        self._number += 1
        if self._number <= MOST_FAULTS:
            self._found.append(str(message))

    def raise_any(self) -> None:
        """Raises a UserError if there were any faults: the fault itself, or all of them below a line that counts them."""
        if self._number == 1:
            raise UserError(self._found[0])
        if self._number:
            more = self._number - len(self._found)
            rest = [f"... and {more:,} more"] if more else []
            raise UserError(f"{self._what}: {self._number:,} faults", *self._found, *rest)
