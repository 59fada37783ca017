"""The report on a dataset before training: the same for every kind of data."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from seqjax.data.records import Dataset, Records
from seqjax.errors import printable

INPUTS = {"text": "texts", "words": "sentences", "source": "sources", "sequence": "sequences"}  # the input column -> its unit
ANSWERS = {"label": "label", "tags": "tags", "target": "translation"}  # the column a model predicts
MEASURED = {
    "text": "characters", "words": "words", "source": "characters of the source", "target": "of the translation", "frames": "frames",
    "sequence": "bases", "sound": "samples", "transcript": "characters", "value": "steps, with those before the part",
}  # fmt: skip
SHOWN, FEW = 12, 3  # classes listed with their counts; examples listed in a finding
QUARTILES = ("25 %", "50 %", "75 %", "longest")


def report(dataset: Any, part: str = "") -> list[str]:
    """Parts with their sizes and lengths, classes with their counts, what was left out, and what looks like a fault.

    Args:
      dataset: a `Dataset`, or another object with `parts` and `notes`. For a part that is not Records and has no labels, only
        the size is shown.
      part: report on this part only; "" reports on all.

    Returns:
      Lines for the user.

    Example:
      >>> from seqjax.data.records import Places, make_dataset
      >>> text, label = ("good", "bad", "so so"), np.array([1, 0, 0], np.int32)
      >>> train = Records({"text": text, "label": label}, Places.of("films.csv line", [2, 3, 4]))
      >>> print(*report(make_dataset("films.csv", {"train": train}, "texts", classes=("neg", "pos"))), sep="\\n")
                        texts   characters
                                25 %  50 %  75 %  longest
      train                 3      4     4     4        5
      2 classes in the training part: neg (2), pos (1)
      train: one example only of pos
    """
    shown = {part: dataset.parts[part]} if part else dict(dataset.parts)
    lines = [] if part and not isinstance(shown[part], Records) else _table(shown, getattr(dataset, "unit", ""))
    whole = Dataset(dataset.name, dataset.parts, "", tuple(getattr(dataset, "classes", ())))
    lines += _classes(whole, part or next(iter(shown), ""))
    found = dict.fromkeys([*dataset.notes, *_findings(whole)])
    return lines + [line for line in found if not part or line.startswith(f"{part}: ")]


def size(part: Any) -> int:
    """The number of examples in a part; for a tuple of columns, the length of the first.

    Example:
      >>> from typing import NamedTuple
      >>> class Pairs(NamedTuple):
      ...     source: tuple
      ...     target: tuple
      >>> size(Pairs(("a", "b", "c"), ("x", "y", "z"))), size([1, 2])
      (3, 2)
    """
    return len(part[0]) if isinstance(part, tuple) and hasattr(part, "_fields") else len(part)


def part_title(name: str, files: Mapping[str, str], part: str) -> str:
    """The title of a part: its own file if it has one, after the dataset's name if that differs.

    Example:
      >>> files = {"train": "train.csv", "test": "test.csv"}
      >>> [part_title("train.csv", files, part) for part in ("test", "validation")], part_title("films", files, "test")
      (['test.csv', 'train.csv'], 'films (test.csv)')
    """
    if part not in files:
        return name
    return files[part] if files.get("train") == name else f"{name} ({files[part]})"


def repeats_between(parts: Mapping[str, Any]) -> list[str]:
    """A line for each part that shares inputs with an earlier part.

    Example:
      >>> from seqjax.data.records import Places
      >>> two = Records({"text": ("a", "b")}, Places.of("line", [1, 2]))
      >>> repeats_between({"train": two, "test": two.take(np.array([1]))})
      ['test: 1 of 1 texts are also in the training part']
    """
    lines = []
    keyed = {part: _keys(records) for part, records in parts.items() if _column(records, INPUTS)}
    for (earlier, known), (part, keys) in itertools.combinations(keyed.items(), 2):
        inputs, pairs = {key for key, _ in known}, set(known)
        number, alike = sum(key in inputs for key, _ in keys), sum(pair in pairs for pair in keys)
        if number:
            answer = _column(parts[part], ANSWERS)
            same = f", {f'{alike:,}' if alike else 'none'} of them with the same {ANSWERS[answer]}" if answer else ""
            unit = INPUTS[_column(parts[part], INPUTS)]
            lines.append(f"{part}: {number:,} of {len(keys):,} {unit} are also in the {_called(earlier)} part{same}")
    return lines


def _column(records: Any, names: Iterable[str]) -> str:
    return next((name for name in names if isinstance(records, Records) and name in records), "")


def _keys(records: Records) -> list[tuple[Any, Any]]:
    """(input, answer) of each example."""
    answer = _column(records, ANSWERS)
    answers = records[answer] if answer else [None] * len(records)
    return list(zip(records[_column(records, INPUTS)], answers.tolist() if isinstance(answers, np.ndarray) else answers))


def _table(parts: Mapping[str, Any], unit: str) -> list[str]:
    """A row for each part: its size, and quartiles of its lengths."""
    measured = [name for name in MEASURED if all(isinstance(part, Records) and name in part for part in parts.values())]
    lines = [f"{'':<10} {unit:>12}"] * 2 + [f"{part:<10} {size(records):>12,}" for part, records in parts.items()]
    for column in measured:
        lengths = [np.fromiter(map(len, part[column]), np.int64, len(part)) for part in parts.values()]
        found = [np.percentile(part, (25, 50, 75, 100)) if len(part) else [0] * 4 for part in lengths]
        cells = [[head, *(f"{value:,.0f}" for value in values)] for head, values in zip(QUARTILES, zip(*found))]
        widths = [max(map(len, cell)) for cell in cells]
        rows = ["  ".join(value.rjust(width) for value, width in zip(row, widths)) for row in zip(*cells)]
        lines = [f"{line}   {more}" for line, more in zip(lines, [MEASURED[column].ljust(len(rows[0])), *rows])]
    shapes = [part.shape[1:] if hasattr(part, "ndim") else getattr(part, "shape", ()) for part in parts.values()]  # an array, or Images
    lines[2:] = [line + ("  of " + " x ".join(map(str, shape)) if shape else "") for line, shape in zip(lines[2:], shapes)]
    if measured:
        lines[1] = " " * 23 + lines[1][23:]
    return [line.rstrip() for line in lines[0 if measured else 1 if unit else 2 :]]


def _counts(dataset: Dataset, part: str) -> Counter | None:
    """How often each class (for words: each tag) occurs in a part; the most frequent first."""
    records = dataset.parts[part]
    if _column(records, ["tags"]):
        counts = Counter(itertools.chain.from_iterable(records["tags"]))
    elif _column(records, ["labels"]):  # one number per base
        counted = sum(np.bincount(row, minlength=len(dataset.classes)) for row in records["labels"])
        counts = Counter(dict(zip(dataset.classes, np.asarray(counted).tolist())))
    else:
        labels = records["label"] if _column(records, ["label"]) else getattr(records, "labels", None)
        if labels is None or not dataset.classes:
            return None
        counts = Counter(dict(zip(dataset.classes, np.bincount(labels, minlength=len(dataset.classes)).tolist())))
    return Counter(dict(counts.most_common()))


def _classes(dataset: Dataset, part: str) -> list[str]:
    counts = _counts(dataset, part) if part else None
    if not counts:
        return []
    what = "tags" if _column(dataset.parts[part], ["tags", "labels"]) else "classes"
    shown = [f"{_name(name)} ({number:,})" for name, number in list(counts.items())[:SHOWN]]
    if more := len(counts) - SHOWN:
        shown += [f"and {more:,} more"] if more > 0 else []
    return [f"{sum(map(bool, counts.values())):,} {what} in the {_called(part)} part: {', '.join(shown)}"]


def _findings(dataset: Dataset) -> Iterator[str]:
    """Possible faults in the data."""
    counted = {part: counts for part in dataset.parts if (counts := _counts(dataset, part)) is not None}
    names = list(dict.fromkeys(name for counts in counted.values() for name in counts))
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(" ".join(name.split()).casefold(), []).append(name)
    for several in alike.values():
        if len(several) > 1 and "train" in counted:
            yield f"labels that differ in case or white space only: {_few(map(repr, several))}"
    for part, counts in counted.items():
        absent = [name for name in names if not counts[name]]
        single = [name for name in names if counts[name] == 1] if part == "train" else []
        for what, found in (("no example", absent), ("one example only", single)):
            if found:
                yield f"{part}: {what} of {_few(map(_name, found))}"
    for part, records in dataset.parts.items():
        if _column(records, INPUTS):
            yield from _repeats_within(part, records, dataset.classes)
    yield from repeats_between(dataset.parts)


def _repeats_within(part: str, records: Records, classes: Sequence[str]) -> Iterator[str]:
    keys = _keys(records)
    distinct = set(keys)
    unit = INPUTS[_column(records, INPUTS)]
    if len(distinct) < len(keys):
        answer = _column(records, ANSWERS)
        same = f" with the same {ANSWERS[answer]}" if answer else ""
        yield f"{part}: {len(keys) - len(distinct):,} of {len(keys):,} {unit} repeat an earlier one{same}"
    if classes and _column(records, ["label"]):
        labels: dict[Any, list[int]] = {}
        for key, label in dict.fromkeys(keys):
            labels.setdefault(key, []).append(label)
        several = [(key, found) for key, found in labels.items() if len(found) > 1]
        if several:
            shown = (f"{_shown(key)!r} ({', '.join(_name(classes[label]) for label in found)})" for key, found in several)
            yield f"{part}: {len(several):,} {unit} have more than one label: {_few(shown)}"


def _called(part: str) -> str:
    return "training" if part == "train" else part


def _few(items: Iterable[str]) -> str:
    items = list(items)
    return ", ".join(items[:FEW]) + (f" and {len(items) - FEW:,} more" if len(items) > FEW else "")


def _name(label: str) -> str:
    return _shown(label) if label == label.strip() else repr(label)


def _shown(text: str) -> str:
    return printable(text if len(text) <= 40 else f"{text[:37]}...", keep="")
