"""Files of every format, damaged at random: the loaders name the file and the line, or agree with other readers."""

import importlib
import pathlib
import random
import re
import tempfile
from collections import Counter

import numpy as np
import pytest
from formats import FORMATS, KINDS, damage, decoded_text, packed, unpacked
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from seqjax.errors import UserError

MANY, FEW = 10_000, 300  # cases in all, of the long and of the short run
LETTERS = "abcXYZ019_-.;|"
ENCODINGS = {"utf-8": "éß日本🙂", "latin1": "éß", "cp1252": "éß“€", "utf-16": "éß日🙂"}
PLAIN = {"npz", "image folders"}  # not packed
BINARY = {"idx", "npz", "image folders"}
# Messages about a whole file; other faults name lines.
WHOLE = re.compile(
    r"is empty|is not [\w-]+ at byte|has no byte order mark|pixels per image|has pixels but no labels"
    r"|is not a valid (gzip|zstd)|unpacks to more than|is a zip archive|has no (text|records|sentence)"
    r"|has no tag but|has one class only|has \d+ lines and|no class of two|single class|too few|is a single document"
)
IMAGE = re.compile(r"\.png (is not a valid image|is an image of|cannot be read|has )")

mutations = st.lists(st.tuples(st.sampled_from(KINDS), st.floats(0, 1, exclude_max=True), st.integers(0, 999)), max_size=3)
cases = st.tuples(
    st.integers(0, 2**32),
    mutations,
    st.sampled_from(["", "", "gz", "zst"]),
    st.sampled_from(["utf-8"] * 5 + [*ENCODINGS]),
    st.lists(
        st.tuples(st.sampled_from(["flip", "delete", "truncate"]), st.floats(0, 1, exclude_max=True), st.integers(0, 999)), max_size=1
    ),
)


def check(name, case):
    """Reads one damaged file with our loader and with another reader; "same" or "refused"."""
    number, wrong, packing, encoding, broken = case
    form, draw = FORMATS[name], random.Random(number)
    if name in PLAIN:
        packing = ""
    if packing == "zst":
        pytest.importorskip("zstandard")
    if name in BINARY or name in ("image table", "pixel table"):
        encoding = "utf-8"
    made = form.make(draw, LETTERS + ENCODINGS[encoding])
    files = {file: content if isinstance(content, bytes) else content.encode(encoding) for file, content in made.items()}
    chosen = draw.choice(sorted(files))
    for kind, place, value in wrong:
        files[chosen] = damage(files[chosen], kind, place, value, encoding)
    end = f".{packing}" if packing else ""
    pack = {file for file in files if not (name in BINARY and packing == "zst") and not file.endswith(".png")}
    stored = {file: packed(content, packing if file in pack else "") for file, content in files.items()}
    for kind, place, value in broken if packing and chosen in pack else ():
        stored[chosen] = damage(stored[chosen], kind, place, value, encoding)
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for file, content in stored.items():
            path = pathlib.Path(folder, "case", file + (end if file in pack else ""))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            paths[file] = str(path)
        try:
            ours = form.load(paths, encoding)
        except UserError as error:
            names_it(form, str(error), paths[chosen])
            assert wrong or (broken and packing), f"a sound file is refused: {error}"
            return "refused"
    content = {file: unpacked(data, packing if file in pack else "") for file, data in stored.items()}
    read = {file: data if isinstance(made[file], bytes) else decoded_text(data, encoding) for file, data in content.items()}
    theirs = form.oracle(read)
    assert len(ours) == len(theirs)
    assert agree(ours, theirs), (ours, theirs)
    return "same"


def agree(ours, theirs):
    """Whether both readers agree; in a pair (label, None) only the label is known."""
    unknown = [label for label, *rest in theirs if rest == [None]] if isinstance(next(iter(theirs), None), tuple) else []
    if not unknown:
        return list(ours) == list(theirs)
    known = Counter(pair for pair in theirs if pair[1] is not None)
    others = Counter(ours) - known
    return known <= Counter(ours) and Counter(label for label, _ in others.elements()) == Counter(unknown)


@pytest.mark.parametrize(
    "ours, same",
    [("aA aB bC", True), ("aB aC bA", False), ("aB aX bC", True), ("aB bB bC", False)],
)
def test_pairs_of_which_one_side_is_unknown(ours, same):
    assert agree([tuple(pair) for pair in ours.split()], [("a", None), ("a", "B"), ("b", "C")]) == same


def names_it(form, message, path):
    """Whether a message names the file, and the line if there are lines."""
    file = pathlib.Path(path)
    assert file.name in message or f"{file.parent.name}" in message, message
    if form.lined:
        assert re.search(r"\bline [\d,]+", message) or WHOLE.search(message) or IMAGE.search(message), message


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_named_or_read_as_by_other_readers(name):
    run(name, FEW // len(FORMATS))


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_named_or_read_as_by_other_readers_many(name):
    run(name, MANY // len(FORMATS))


def run(name, number):
    for package in {"conllu": ["conllu"], "image folders": ["PIL"], "image table": ["PIL"]}.get(name, []):
        pytest.importorskip(package)

    @seed(20261127)
    @settings(max_examples=number, deadline=10_000, database=None, suppress_health_check=list(HealthCheck), print_blob=False)
    @given(cases)
    def each(case):
        check(name, case)

    each()


@pytest.mark.parametrize("name", FORMATS)
def test_sound_files_are_read_as_by_other_readers(name):
    for number in range(5):
        for packing in ("", "gz", "zst"):
            for encoding in ENCODINGS:
                assert check(name, (number, [], packing, encoding, [])) == "same"


# A fault in a reader is found


def shifts(records):
    """The last column a place off against the others."""
    *_, name = (name for name in records if name != "lines")
    column = records[name]
    moved = np.roll(column, 1) if isinstance(column, np.ndarray) else (*column[-1:], *column[:-1])
    return records.replace(**{name: moved})


def drops_last(records):
    return records.take(np.arange(len(records) - 1))


def reads_wrong(records):
    """A character of the first column is another one."""
    name = next(iter(records))
    first, *rest = records[name]
    changed = (f"{first}x" if isinstance(first, str) else (f"{first[0]}x", *first[1:]), *rest)
    return records.replace(**{name: changed})


READERS = {  # format -> where its reader is looked up
    "lines": "seqjax.data.corpus.read_texts", "jsonl": "seqjax.data.corpus.read_texts", "csv": "seqjax.data.labelled.read_table",
    "labelled jsonl": "seqjax.data.labelled.read_table", "file a class": "seqjax.data.labelled.read_text_folder",
    "folder a class": "seqjax.data.labelled.read_text_folder", "line pairs": "seqjax.data.parallel.read_line_pairs",
    "tab pairs": "seqjax.data.parallel.read_table_pairs", "conllu": "seqjax.data.tagged.read_tagged",
    "columns": "seqjax.data.tagged.read_tagged", "series": "seqjax.data.readers.series_tables.read_table",
    "wide series": "seqjax.data.readers.series_tables.read_table",
}  # fmt: skip
ARRAYS = {
    "idx": "seqjax.data.readers.image_arrays.array_images",
    "npz": "seqjax.data.readers.image_arrays.array_images",
    "pixel table": "seqjax.data.readers.image_tables.array_images",
}


def is_found(name):
    """Whether valid files are read differently than by other readers."""
    return any(differs(name, number) for number in range(5))


def differs(name, number):
    try:
        return check(name, (number, [], "", "utf-8", [])) != "same"
    except AssertionError:
        return True


PLANTED = [(n, f) for n in READERS for f in (drops_last, shifts, reads_wrong) if f is not shifts or n not in ("lines", "jsonl")]


@pytest.mark.parametrize("name, fault", PLANTED)
def test_a_fault_planted_in_a_reader_is_found(monkeypatch, name, fault):
    module, _, function = READERS[name].rpartition(".")
    real = getattr(importlib.import_module(module), function)
    assert not is_found(name)
    monkeypatch.setattr(READERS[name], lambda *args, **options: fault(real(*args, **options)))
    assert is_found(name)


@pytest.mark.parametrize("fault", ["labels", "pixels", "last"])
@pytest.mark.parametrize("name", ARRAYS)
def test_a_fault_planted_in_a_reader_of_arrays_is_found(monkeypatch, name, fault):
    module, _, function = ARRAYS[name].rpartition(".")
    real = getattr(importlib.import_module(module), function)

    def faulty(images, labels, what):
        if fault == "last":
            return real(images[:-1], labels[:-1], what)
        return real(images, np.roll(labels, 1), what) if fault == "labels" else real(images[:, ::-1], labels, what)

    assert not is_found(name)
    monkeypatch.setattr(ARRAYS[name], faulty)
    assert is_found(name)


@pytest.mark.parametrize(
    "name, target",
    [
        ("image folders", "seqjax.data.images.read_folders"),
        ("image table", "seqjax.data.images.read_image_tables"),
    ],
)
def test_a_fault_planted_in_a_listing_of_images_is_found(monkeypatch, name, target):
    module, _, function = target.rpartition(".")
    real = getattr(importlib.import_module(module), function)

    def faulty(*args, **options):
        found = real(*args, **options)
        return found._replace(parts={part: (paths, labels[1:] + labels[:1]) for part, (paths, labels) in found.parts.items()})

    assert not is_found(name)
    monkeypatch.setattr(target, faulty)
    assert is_found(name)
