r"""Sequence annotation: BED, which is 0-based and excludes the end, and GFF3, which is 1-based and includes it.

Internally every feature is [start, end), 0-based, as in BED: bases start + 1 to end in GFF3.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from seqjax.data.readers.opening import read_bytes, unpacked_suffix
from seqjax.data.records import Faults
from seqjax.errors import UserError, nearest

GFF, BED = (".gff3", ".gff", ".gtf"), (".bed",)
STRANDS = ("+", "-", ".")


class Feature(NamedTuple):
    """An annotated stretch of a sequence."""

    sequence: str
    start: int  # from 0
    end: int  # the first base after it
    kind: str  # BED's name, GFF3's type
    strand: str = "."  # "+", "-", or "." for none
    score: float = 0.0
    line: int = 0


def read_annotation(path: str | os.PathLike, lengths: Mapping[str, int]) -> list[Feature]:
    r"""The features of an annotation file, checked against the sequences they annotate.

    Args:
      path: `.bed`, `.gff3`, `.gff` or `.gtf`, plain or packed.
      lengths: name -> bases of each sequence.

    Returns:
      Features in the order of the file.

    Raises:
      UserError: an unknown extension, an unreadable file, or faults in it, all listed with their lines: missing or non-numeric columns,
        start after end, a feature beyond the end of its sequence, an unknown sequence (with the nearest name), and signs of the other
        format's coordinates: a BED line whose start is its end, a GFF3 line that starts at 0, lines of one format in a file of the other.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".gff3") as file:
      ...     _ = file.write(b"##gff-version 3\nchr1\tmade\tCDS\t3\t8\t.\t+\t0\tID=a\n")
      ...     file.flush()
      ...     read_annotation(file.name, {"chr1": 10})
      [Feature(sequence='chr1', start=2, end=8, kind='CDS', strand='+', score=0.0, line=2)]

    Source: the Sequence Ontology's GFF3 specification, version 1.26; the UCSC Genome Browser's description of BED.
    """
    suffix = unpacked_suffix(path)
    if suffix not in GFF + BED:
        raise UserError(f"{path} does not say by its ending what it is; call it .bed (from 0) or .gff3 (from 1), perhaps with .gz")
    read, faults, found = (_bed if suffix in BED else _gff), Faults(str(path)), []
    unknown: dict[str, int] = {}
    for number, line in _lines(path):
        try:
            feature = read(line.split("\t") if "\t" in line else line.split(), number)
            _check(feature, lengths, unknown, suffix in BED)
            found.append(feature)
        except ValueError as error:
            if str(error):
                faults.add(f"{path} line {number}: {error}")
    for name, number in unknown.items():
        faults.add(
            f"{path} line {number}: there is no sequence {name!r}{nearest(name, lengths, cutoff=0)}; use the names of the FASTA file"
        )
    faults.raise_any()
    if not found:
        raise UserError(f"{path} has no features; give an annotation with some")
    return found


def _lines(path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(read_bytes(path).decode("utf-8", "replace").split("\n"), 1):
        line = line.rstrip("\r")
        if line.startswith("##FASTA"):
            return
        if line.strip() and not line.startswith(("#", "track ", "browser ")):
            yield number, line


def _bed(cells: list[str], number: int) -> Feature:
    if len(cells) >= 8 and not _whole(cells[1]) and _whole(cells[3]) and _whole(cells[4]):
        raise ValueError("this is a line of GFF3, which counts from 1; call the file .gff3")
    if len(cells) < 3 or not (_whole(cells[1]) and _whole(cells[2])):
        raise ValueError("BED has a sequence, a start and an end, two whole numbers, between tabs; repair that line")
    start, end = int(cells[1]), int(cells[2])
    if start == end:
        raise ValueError(
            f"start and end are both {start}, which is empty in BED; were they counted from 1, both included? Then write "
            f"{start - 1} and {end}, or convert the file to GFF3"
        )
    kind, score, strand = (cells[i] if len(cells) > i else default for i, default in ((3, "feature"), (4, "0"), (5, ".")))
    return Feature(cells[0], start, end, kind, _strand(strand), _score(score), number)


def _gff(cells: list[str], number: int) -> Feature:
    if len(cells) >= 3 and _whole(cells[1]) and _whole(cells[2]):
        raise ValueError("this is a line of BED, which counts from 0; call the file .bed")
    if len(cells) not in (8, 9) or not (_whole(cells[3]) and _whole(cells[4])):
        raise ValueError("GFF3 has nine columns between tabs, the fourth and fifth whole numbers; repair that line")
    first, last = int(cells[3]), int(cells[4])
    if first == 0:
        raise ValueError("it starts at 0, and GFF3 counts from 1; were these counted from 0, as in BED? Add 1 to each start")
    return Feature(cells[0], first - 1, last, cells[2], _strand(cells[6]), _score(cells[5]), number)


def _check(feature: Feature, lengths: Mapping[str, int], unknown: dict[str, int], bed: bool) -> None:
    start, end = (feature.start, feature.end) if bed else (feature.start + 1, feature.end)
    if feature.start >= feature.end:
        raise ValueError(f"start {start} is after end {end}; swap them (a strand is a column of its own)")
    if feature.start < 0:
        raise ValueError(f"start {start} is before the sequence")
    if feature.sequence not in lengths:
        unknown.setdefault(feature.sequence, feature.line)
        raise ValueError
    if feature.end > lengths[feature.sequence]:
        raise ValueError(
            f"{feature.sequence}:{start}-{end} ends beyond the sequence, which has {lengths[feature.sequence]:,} bases; is it of "
            "another version of the genome?"
        )


def _whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _strand(text: str) -> str:
    if text not in (*STRANDS, "?", ""):
        raise ValueError(f"the strand is {text!r}; it must be +, - or .")
    return text if text in STRANDS else "."


def _score(text: str) -> float:
    try:
        return 0.0 if text in (".", "") else float(text)
    except ValueError:
        raise ValueError(f"the score {text!r} is not a number; write . if there is none") from None


def paint(
    features: Iterable[Feature], lengths: Mapping[str, int], tags: Mapping[str, int], *, split: bool = False
) -> dict[str, np.ndarray]:
    """A tag for each base, 0 if there is no feature; where several overlap, the kind that comes first in `tags` wins.

    Args:
      features: features of any kind; kinds not in `tags` are skipped.
      lengths: name -> bases of each sequence.
      tags: kind -> its tag, from 1, most important first.
      split: give features on strand "-" their own tags: those of "+" plus the number of kinds.

    Returns:
      name -> uint8 (T,).

    Example:
      >>> features = [Feature("a", 1, 4, "CDS", "+"), Feature("a", 3, 6, "intron", "-")]
      >>> paint(features, {"a": 7}, {"CDS": 1, "intron": 2})["a"].tolist()
      [0, 1, 1, 1, 2, 2, 0]
      >>> paint(features, {"a": 7}, {"CDS": 1, "intron": 2}, split=True)["a"].tolist()
      [0, 1, 1, 1, 4, 4, 0]
    """
    painted = {name: np.zeros(length, np.uint8) for name, length in lengths.items()}
    last_first = sorted((f for f in features if f.kind in tags), key=lambda feature: -tags[feature.kind])
    for feature in last_first:
        tag = tags[feature.kind] + (len(tags) if split and feature.strand == "-" else 0)
        painted[feature.sequence][feature.start : feature.end] = tag
    return painted


def runs(tags: np.ndarray) -> list[tuple[int, int, int]]:
    """The runs of equal tags: (start, end, tag), in order.

    Example:
      >>> runs(np.array([0, 0, 2, 2, 1]))
      [(0, 2, 0), (2, 4, 2), (4, 5, 1)]
    """
    if not len(tags):
        return []
    edges = np.flatnonzero(np.diff(tags)) + 1
    bounds = [0, *edges.tolist(), len(tags)]
    return [(start, end, int(tags[start])) for start, end in zip(bounds, bounds[1:])]


def bed_line(feature: Feature) -> str:
    """A line of BED6; the score is in thousandths.

    Example:
      >>> bed_line(Feature("chr1", 2, 8, "CDS", "+", 0.93))
      'chr1\\t2\\t8\\tCDS\\t930\\t+'
    """
    return f"{feature.sequence}\t{feature.start}\t{feature.end}\t{feature.kind}\t{round(1000 * feature.score)}\t{feature.strand}"


def gff_line(feature: Feature, source: str = "seqjax") -> str:
    """A line of GFF3.

    Example:
      >>> gff_line(Feature("chr1", 2, 8, "CDS", "+", 0.93))
      'chr1\\tseqjax\\tCDS\\t3\\t8\\t0.93\\t+\\t.\\t.'
    """
    columns = (
        feature.sequence,
        source,
        feature.kind,
        feature.start + 1,
        feature.end,
        f"{feature.score:.4g}",
        feature.strand,
        ".",
        ".",
    )
    return "\t".join(map(str, columns))


def track_lines(sequence: str, values: np.ndarray, start: int = 0, digits: int = 3) -> list[str]:
    """Lines of bedGraph; neighbours with the same rounded value share a line.

    Args:
      sequence: the sequence's name.
      values: one value per base, (T,).
      start: position of the first base, from 0.
      digits: digits after the decimal point.

    Example:
      >>> track_lines("chr1", np.array([0.5, 0.5, 0.25]), start=10)
      ['chr1\\t10\\t12\\t0.5', 'chr1\\t12\\t13\\t0.25']
    """
    scaled = np.round(np.asarray(values, np.float64) * 10**digits).astype(np.int64)
    return [f"{sequence}\t{start + low}\t{start + high}\t{value / 10**digits:g}" for low, high, value in runs(scaled)]


def read_track(path: str | os.PathLike, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The values of a bedGraph file, NaN where it has none.

    Args:
      path: the bedGraph file.
      lengths: name -> bases of each sequence.

    Raises:
      UserError: as `read_annotation`.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".bedGraph") as file:
      ...     _ = file.write(b"chr1\\t1\\t3\\t0.5\\n")
      ...     file.flush()
      ...     read_track(file.name, {"chr1": 3})["chr1"].tolist()
      [nan, 0.5, 0.5]
    """
    faults, unknown = Faults(str(path)), {}
    found = {name: np.full(length, np.nan) for name, length in lengths.items()}
    for number, line in _lines(path):
        try:
            cells = line.split("\t")
            if len(cells) != 4:
                raise ValueError("bedGraph has a sequence, a start, an end and a value between tabs; repair that line")
            feature = _bed(cells[:3], number)._replace(score=_score(cells[3]))
            _check(feature, lengths, unknown, bed=True)
            found[feature.sequence][feature.start : feature.end] = feature.score
        except ValueError as error:
            faults.add(f"{path} line {number}: {str(error) or 'there is no such sequence'}")
    faults.raise_any()
    return found


def features_of(tags: np.ndarray, shares: np.ndarray, names: Sequence[str], sequence: str, start: int = 0) -> list[Feature]:
    """Runs of each tag except the first, with the tag's mean probability as score.

    Args:
      tags: the tag of each base, int (T,).
      shares: the probabilities of the tags, (T, K).
      names: the K tag names; one that ends in + or - gives the strand.
      sequence: the sequence's name.
      start: position of the first base, from 0.

    Example:
      >>> features_of(np.array([0, 1, 1]), np.array([[1, 0], [0.2, 0.8], [0, 1]]), ["background", "CDS+"], "chr1", start=10)
      [Feature(sequence='chr1', start=11, end=13, kind='CDS', strand='+', score=0.9, line=0)]
    """
    found = []
    for low, high, tag in runs(tags):
        if tag:
            kind, strand = (names[tag][:-1], names[tag][-1]) if names[tag][-1] in "+-" else (names[tag], ".")
            score = float(np.mean(shares[low:high, tag], dtype=np.float64))
            found.append(Feature(sequence, start + low, start + high, kind, strand, score))
    return found
