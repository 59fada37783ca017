"""What the experiment with DNA is made of besides its model: the settings of its files, and how predictions are written."""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from seqjax.data.readers.annotation import bed_line, features_of, gff_line, track_lines
from seqjax.decoding.bases import Tagging
from seqjax.models.nucleotides import encode
from seqjax.run import fields
from seqjax.run.parts import print_json
from seqjax.run.settings import Field, at_least, one_of, within

FORMATS = ("text", "jsonl", "bed", "gff3")


def file_fields(sources: Sequence[str], repeats: Sequence[str], strands: Sequence[str]) -> dict[str, Field]:
    """Where the sequences come from, and what becomes of repeats, lower case and folds.

    Args:
      sources, repeats, strands: the values that `seqjax.data.dna` has for these.

    Example:
      >>> list(file_fields(("embedded", "file"), ("group",), ("ignore",)))[:3]
      ['data.source', 'data.name', 'data.path']
    """
    found = fields.source(
        "sequences", sources, name="hmm", names="The embedded set (hmm); what to call files.",
        path="To tag: FASTA beside data.annotation, or a table. To classify: a table, ARFF, or a folder with a FASTA file a class.",
    )  # fmt: skip
    del found["data.data_dir"]
    file = fields.FILE
    return found | {
        "data.annotation": Field("", "BED or GFF3 of the sequences in data.path.", when=file),
        "data.features": Field("CDS", "Kinds of features that are tags, with commas between; the first wins.", when=file),
        "data.strand": Field("ignore", "Tags are the same on both strands, or each has its own.", one_of(*strands), when=file),
        "data.validation_sequences": Field("", "Sequences for validation, with commas between, beside an annotation.", when=file),
        "data.test_sequences": Field("", "Sequences for the test, with commas between, beside an annotation.", when=file),
        "data.sequence_field": Field("sequence", "A table's field of sequences, by name or number.", when=file),
        "data.label_field": Field("label", "A table's field of labels, by name or number; to tag, a letter for each base.", when=file),
        **fields.table(),
        "data.masked": Field("read", "Lower case is read like upper case, or hidden: read as N.", one_of("read", "hide"), when=file),
        "data.min_quality": Field(0, "Of FASTQ: bases of a lower quality are read as N.", within(0, 94), when=file),
        "data.repeats": Field(
            "group", "Near-duplicates are kept in one part, left out but for the first, or taken for different.", one_of(*repeats), when=file
        ),
        "data.identity": Field(0.8, "Share of equal bases that makes two sequences near-duplicates.", within(0.3, 1.0001), when=file),
        "data.folds": Field(0, "Folds for cross-validation; 0 has none.", at_least(0), when=file),
        "data.fold": Field(0, "The fold that is the test part, from 0.", at_least(0), when=file),
        "data.test_fraction": Field(0.0, "Share held out as test part where there is none; 0 holds none out.", fields.SHARE, when=file),
        **fields.split_seed(),
    }  # fmt: skip


def print_classes(names: Sequence[str], probabilities: np.ndarray, classes: Sequence[str], format: str) -> None:
    """Prints the class of each sequence with the probabilities of all.

    Example:
      >>> print_classes(["a"], np.array([[0.25, 0.75]]), ["EI", "IE"], "text")
      a	IE	EI 25.0%  IE 75.0%
    """
    for name, shares in zip(names, probabilities):
        best = classes[int(np.argmax(shares))]
        if format == "jsonl":
            print_json({"name": name, "label": best, "probabilities": dict(zip(classes, map(float, shares)))})
        else:
            print(f"{name}\t{best}\t" + "  ".join(f"{label} {share:.1%}" for label, share in zip(classes, shares)))


def print_features(tag: Tagging, params: Any, records: Any, classes: Sequence[str], format: str, track: str = "") -> None:
    """Prints the features of sequences as they are found, window by window, and writes the probabilities of each base.

    Args:
      tag: finds the tags.
      params: of its model.
      records: with "name", "sequence" and "start".
      classes: the names of the tags; the first is what is no feature.
      format: "bed" (which "text" is), "gff3" or "jsonl".
      track: a bedGraph file to write the probability of the second tag to; of more tags, a file each: TRACK.TAG.bedGraph.
    """
    with contextlib.ExitStack() as stack:
        files = {k: stack.enter_context(open(path, "w", encoding="utf-8")) for k, path in track_paths(track, classes).items()}
        if format == "gff3":
            print("##gff-version 3")
        for k, file in files.items():
            file.write(f'track type=bedGraph name="{classes[k]}" description="probability of {classes[k]}"\n')
        for name, sequence, start in zip(*(records[column] for column in ("name", "sequence", "start"))):
            whole = []
            for feature in _joined(_features(tag, params, name, sequence, start, classes, files)):
                if format == "jsonl":
                    whole.append({"start": feature.start, "end": feature.end, "tag": feature.kind, "strand": feature.strand,
                                  "probability": round(feature.score, 4)})  # fmt: skip
                else:
                    print(gff_line(feature) if format == "gff3" else bed_line(feature))
            if format == "jsonl":
                print_json({"name": name, "bases": len(sequence), "features": whole})


def track_paths(track: str, classes: Sequence[str]) -> dict[int, pathlib.Path]:
    """The bedGraph file of each tag but the first; none without a name.

    Example:
      >>> [str(path) for path in track_paths("a.bedGraph", ["background", "CDS+", "CDS-"]).values()]
      ['a.CDS+.bedGraph', 'a.CDS-.bedGraph']
    """
    if not track:
        return {}
    path = pathlib.Path(track).expanduser()
    if len(classes) == 2:
        return {1: path}
    stem, ending = (path.stem, path.suffix) if path.suffix else (path.name, ".bedGraph")
    return {k: path.with_name(f"{stem}.{name}{ending}") for k, name in enumerate(classes) if k}


def _features(tag, params, name, sequence, start, classes, files) -> Iterator[Any]:
    for begin, found in tag.windows(params, encode(sequence)):
        for k, file in files.items():
            file.writelines(f"{line}\n" for line in track_lines(name, found.probabilities[:, k], start + begin))
        yield from features_of(found.tags, found.probabilities, classes, name, start + begin)


def _joined(features: Iterator[Any]) -> Iterator[Any]:
    """Features that go on where the window before ended, as one; the score is the mean over all of its bases."""
    last = None
    for feature in features:
        if last is not None and last.end == feature.start and (last.kind, last.strand) == (feature.kind, feature.strand):
            sizes = last.end - last.start, feature.end - feature.start
            score = (last.score * sizes[0] + feature.score * sizes[1]) / sum(sizes)
            last = last._replace(end=feature.end, score=score)
            continue
        if last is not None:
            yield last
        last = feature
    if last is not None:
        yield last
