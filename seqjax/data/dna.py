"""The entry point for DNA: a hidden Markov model with genes, annotated genomes, and labelled sequences."""

import os
import pathlib
from collections.abc import Mapping

import numpy as np

from seqjax.data.checks import check_fractions, check_whole
from seqjax.data.dna_parts import Split, check_labels, held_out, numbered_labels, numbered_tags, without_repeats
from seqjax.data.folds import hold_groups_out
from seqjax.data.readers import fasta, fastq
from seqjax.data.readers.annotation import paint, read_annotation
from seqjax.data.readers.dna_tables import checked, read_arff, read_dna_table
from seqjax.data.readers.hidden_markov import draw, genes
from seqjax.data.readers.opening import is_folder, read_bytes, unpacked_suffix
from seqjax.data.readers.tables import USUAL, Format, table_settings
from seqjax.data.records import PARTS, Dataset, Places, Records, make_dataset
from seqjax.data.sources import (
    Setting,
    check_name,
    check_source,
    file_set_name,
    part_files,
    path_settings,
    refuse_given,
)
from seqjax.errors import UserError, nearest, refuse_unknown

SOURCES = ("embedded", "file")
TASKS = ("tag", "classify")
EMBEDDED = ("hmm",)
STRANDS = ("ignore", "split")
REPEATS = ("group", "remove", "keep")
BASES_OF_HMM, SIZES_OF_HMM = 200, {"train": 6000, "validation": 400, "test": 1000}
SEEDS_OF_HMM = {"train": 0, "validation": 1, "test": 2}


def load_dna(
    source: str,
    *,
    task: str,
    name: str = "",
    path: str = "",
    validation_path: str = "",
    test_path: str = "",
    annotation: str = "",
    features: str = "CDS",
    strand: str = "ignore",
    validation_sequences: str = "",
    test_sequences: str = "",
    sequence_field: str = "sequence",
    label_field: str = "label",
    delimiter: str = "",
    quoting: str = "double",
    header: bool = True,
    encoding: str = "utf-8",
    masked: str = "read",
    min_quality: int = 0,
    repeats: str = "group",
    identity: float = 0.8,
    folds: int = 0,
    fold: int = 0,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """DNA with training, validation and test parts.

    The embedded set is "hmm": 7,400 sequences of 200 bases from a hidden Markov model with genes (`hidden_markov.genes`), a tag for each
    base. The model's exact posterior gets 99.0 % of the test bases right; nothing can do better on average.

    Args:
      source: "embedded" or "file".
      task: "tag", a tag for each base, or "classify", a label for each sequence.
      name: embedded: "hmm". file: what to call the set; "" is the name of its file.
      path: file. To tag: a FASTA file with `annotation`, or a table whose labels have one letter per base. To classify: a table, an ARFF
        file with one column per base, or a folder with one FASTA or FASTQ file per class. Any may be packed.
      validation_path, test_path: file: the other parts; not with `annotation`.
      annotation: a BED or GFF3 file for the FASTA file.
      features: the kinds of annotated feature to use as tags, comma-separated; where features overlap, the first kind wins.
      strand: "ignore", or "split" to give each strand its own tags, such as CDS+ and CDS-.
      validation_sequences, test_sequences: with `annotation`: the names of the sequences of these parts, comma-separated. Else a share of
        the sequences is held out; if there is only one, its end.
      sequence_field, label_field, delimiter, quoting, header, encoding: for a table; see `read_dna_table`. Of these an ARFF file takes only
        label_field; "label" is its last attribute.
      masked: "read" reads lower case like upper case; "hide" reads it as N.
      min_quality: FASTQ: bases of lower quality are read as N.
      repeats: near-duplicates (`near_duplicates`) are kept together in one part ("group"), dropped except for the first ("remove"), or
        treated as different sequences ("keep"). Where parts have their own files, training sequences that are near-duplicates of another
        part's are left out, unless "keep". Exact repeats with the same label are always dropped from a part that others are split from.
      identity: the share of equal bases that makes sequences of one length near-duplicates.
      folds, fold: with K folds, fold number `fold` is the test part, and validation is held out of the rest; 0 makes no folds.
      validation_fraction: the share to hold out if there is no validation part.
      test_fraction: the same for the test part; 0 holds none out.
      seed: of the folds and of the choice of what is held out.

    Returns:
      A Dataset of Records with "sequence" (tuple of str) and either "label" (int32) or "labels" (one uint8 array (T,) per sequence).

    Raises:
      UserError: a malformed file (with all its faults), a dataset without the requested parts, or a setting that has no effect.

    Example:
      >>> data = load_dna("embedded", task="tag", name="hmm")
      >>> data.classes, len(data.parts["test"]), data.parts["test"]["labels"][0].shape
      (('background', 'gene'), 1000, (200,))
    """
    paths = {"train": path, "validation": validation_path, "test": test_path}
    format, check = Format(delimiter, quoting, header, encoding), Setting
    of_annotation = {
        "features": check(features, ("file",), "CDS"),
        "strand": check(strand, ("file",), "ignore"),
        "validation_sequences": check(validation_sequences, ("file",)),
        "test_sequences": check(test_sequences, ("file",)),
    }
    of_tables = {
        **table_settings(format),
        "encoding": check(encoding, ("file",), USUAL.encoding),
        "sequence_field": check(sequence_field, ("file",), "sequence"),
        "label_field": check(label_field, ("file",), "label"),
    }
    of_labelled = {
        "repeats": check(repeats, ("file",), "group"),
        "identity": check(identity, ("file",), 0.8),
        "folds": check(folds, ("file",), 0),
        "fold": check(fold, ("file",), 0),
    }
    others = {
        "annotation": check(annotation, ("file",)),
        "masked": check(masked, ("file",), "read"),
        "min_quality": check(min_quality, ("file",), 0),
        "test_fraction": check(test_fraction, ("file",), 0.0),
    }
    refuse_unknown(f"source={source!r} is not a source of DNA", source, SOURCES)
    check_source(source, {**path_settings(paths), **of_annotation, **of_tables, **of_labelled, **others})
    check_name(source, name, EMBEDDED, "set of DNA", "")
    refuse_unknown(f"task={task!r} is not a task", task, TASKS)
    refuse_unknown(f"strand={strand!r} is unknown", strand, STRANDS)
    refuse_unknown(f"repeats={repeats!r} is unknown", repeats, REPEATS)
    refuse_unknown(f"masked={masked!r} is unknown", masked, ("read", "hide"))
    check_fractions(validation_fraction, test_fraction)
    check_whole(0, seed=seed, folds=folds, fold=fold, min_quality=min_quality)
    if source == "embedded":
        return _hmm(name, task)
    if not path:
        raise UserError("source='file' needs a path; give a FASTA file, a table, or a folder with a file for each class")
    name = file_set_name(name, EMBEDDED, path)
    shares = (validation_fraction, test_fraction)
    if annotation:
        refuse_given(
            {**of_tables, **of_labelled, **path_settings({p: paths[p] for p in PARTS[1:]})},
            "has no effect with an annotation",
        )
        if task != "tag":
            raise UserError(f"task={task!r} needs sequences with a label, and an annotation gives tags; set task='tag'")
        wanted = {"validation": _names(validation_sequences), "test": _names(test_sequences)}
        return _genome(name, path, annotation, _names(features), strand == "split", wanted, shares, masked, seed)
    refuse_given(of_annotation, "is for an annotation, and none is given")
    own = {part: _read(place, sequence_field, label_field, format, of_tables, min_quality) for part, place in paths.items() if place}
    own = {part: _hidden(records) if masked == "hide" else records for part, records in own.items()}
    if folds and ("test" in own or test_fraction):
        raise UserError("folds make the test part; leave test_path empty and test_fraction at 0")
    if "test" in own and test_fraction:
        raise UserError(f"test_fraction={test_fraction} has no effect: there is a test part; leave it at 0")
    if folds and fold >= folds:
        raise UserError(f"fold is {fold}, and {folds} folds are numbered 0 to {folds - 1}")
    check_labels(name, own, task == "tag")
    parts, notes = without_repeats(own, repeats, identity)
    split = Split(folds, fold, validation_fraction, test_fraction, seed)
    parts, more = held_out(name, parts, split, repeats, identity, stratified=task == "classify")
    columns, classes = (numbered_tags if task == "tag" else numbered_labels)(name, parts)
    plain = {part: Records({"sequence": parts[part]["sequence"]} | columns[part], parts[part].places, parts[part].notes) for part in parts}
    return make_dataset(name, plain, "sequences", classes=classes, notes=[*notes, *more], files=part_files(paths), facts={"swap": []})


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


# Sources


def _hmm(name: str, task: str) -> Dataset:
    if task != "tag":
        raise UserError(f"{name} has a tag for each base; set task='tag', or give a file of sequences with labels")
    model, parts = genes(), {}
    for part, number in SIZES_OF_HMM.items():
        sequences, labels = draw(model, number, BASES_OF_HMM, SEEDS_OF_HMM[part])
        columns = {"sequence": tuple(sequences), "labels": tuple(labels)}
        parts[part] = Records(columns, Places.of(f"{name} {part} sequence", range(1, number + 1)))
    return make_dataset(name, parts, "sequences", classes=model.names, facts={"swap": []})


def _genome(name, path, annotation, kinds, split, wanted, shares, masked, seed) -> Dataset:
    """Sequences with a tag for each base; each part gets whole sequences."""
    genome = fasta.read_fasta(path)
    names = genome["name"]
    lengths = dict(zip(names, map(len, genome["sequence"])))
    found = read_annotation(annotation, lengths)
    there = sorted({feature.kind for feature in found})
    for kind in kinds:
        refuse_unknown(f"{annotation} has no features of the kind {kind!r}", kind, there)
    if not kinds:
        raise UserError(f"features is empty; name the kinds that are tags, such as {', '.join(there[:3])}")
    if split and (bare := next((f for f in found if f.kind in kinds and f.strand == "."), None)):
        raise UserError(f"{annotation} line {bare.line} has no strand, which strand='split' needs; give it one, or set strand='ignore'")
    painted = paint(found, lengths, {kind: i for i, kind in enumerate(kinds, 1)}, split=split)
    classes = ("background", *((f"{kind}{sign}" for sign in "+-" for kind in kinds) if split else kinds))
    swap = [0, *range(1 + len(kinds), 1 + 2 * len(kinds)), *range(1, 1 + len(kinds))] if split else []
    records = genome.replace(labels=tuple(painted[each] for each in names))
    records = _hidden(records) if masked == "hide" else records
    parts, notes = _by_sequence(name, records, wanted, shares, seed)
    notes.append(f"tags from {annotation.rsplit('/', 1)[-1]}: {sum(f.kind in kinds for f in found):,} features of {', '.join(kinds)}")
    plain = {part: Records({c: each[c] for c in ("sequence", "labels")}, each.places, each.notes) for part, each in parts.items()}
    return make_dataset(name, plain, "sequences", classes=classes, notes=notes, facts={"swap": swap})


def _by_sequence(name: str, records: Records, wanted, shares, seed: int) -> tuple[dict[str, Records], list[str]]:
    """Parts of whole sequences; if there is only one, its end is split off for the other parts."""
    places = {each: i for i, each in enumerate(records["name"])}
    taken: dict[str, list[int]] = {}
    for part, names in wanted.items():
        for each in names:
            if each not in places:
                raise UserError(
                    f"{part}_sequences: there is no sequence {each!r}{nearest(each, places, cutoff=0)}; give names of the FASTA file"
                )
            if any(places[each] in other for other in taken.values()):
                raise UserError(f"{each!r} is named twice in validation_sequences and test_sequences; a sequence is in one part")
            taken.setdefault(part, []).append(places[each])
    missing = {p: share for p, share in zip(("validation", "test"), shares) if share and p not in taken}
    left = [i for i in range(len(records)) if not any(i in members for members in taken.values())]
    if missing and len(left) == 1:
        return _cut(records, left[0], missing, {p: records.take(np.array(m)) for p, m in taken.items()})
    notes = []
    for part, share in missing.items():
        held = hold_groups_out([0] * len(left), left, max(share, 0.6 / len(left)), seed, name)
        taken[part] = [i for i, out in zip(left, held) if out]
        left = [i for i in left if i not in taken[part]]
        notes.append(f"{part}: {', '.join(records['name'][i] for i in taken[part][:8])}{', ...' if len(taken[part]) > 8 else ''}")
    if not left:
        raise UserError(f"{name} has no sequence left for training; name fewer in validation_sequences and test_sequences")
    return {part: records.take(np.array(m)) for part, m in {"train": left, **taken}.items()}, notes


def _cut(records: Records, index: int, shares: Mapping[str, float], parts: dict[str, Records]) -> tuple[dict[str, Records], list[str]]:
    sequence, tags, notes = records["sequence"][index], records["labels"][index], []
    one, end = records.take(np.array([index])), len(sequence)
    for part, share in reversed(list(shares.items())):
        begin = end - max(round(share * len(sequence)), 1)
        parts[part] = one.replace(sequence=(sequence[begin:end],), labels=(tags[begin:end],))
        notes.append(f"{part}: bases {begin + 1:,} to {end:,} of {records['name'][index]}")
        end = begin
    if end <= 0:
        raise UserError("the sequence is too short to hold anything out")
    return {"train": one.replace(sequence=(sequence[:end],), labels=(tags[:end],)), **parts}, notes


def _read(path: str, sequence_field: str, label_field: str, format: Format, of_tables: Mapping[str, Setting], min_quality: int) -> Records:
    suffix = unpacked_suffix(path)
    if min_quality and not is_folder(path):
        raise UserError(f"min_quality={min_quality} is for FASTQ, and {path} is a table; leave it at 0")
    if is_folder(path):
        refuse_given(of_tables, f"is for tables, and {path} is a folder")
        return _folder(path, min_quality)
    if suffix == ".arff":
        refuse_given({name: s for name, s in of_tables.items() if name != "label_field"}, f"is for tables, and {path} is ARFF")
        return read_arff(path, "" if label_field == "label" else label_field)
    if suffix in fasta.ENDINGS + fastq.ENDINGS:
        raise UserError(f"{path} has no labels; give its annotation, or a folder with a file of sequences for each class")
    return read_dna_table(path, sequence_field, label_field, format)


def _folder(path: str, min_quality: int) -> Records:
    """One FASTA or FASTQ file per class; the file's name is the class."""
    files = sorted(
        file for file in pathlib.Path(os.path.expanduser(path)).iterdir() if unpacked_suffix(file) in fasta.ENDINGS + fastq.ENDINGS
    )
    if not files:
        raise UserError(f"{path} has no FASTA or FASTQ files; there must be one for each class, such as positive.fa")
    sequences, labels, places = [], [], []
    for file in files:
        is_fastq = unpacked_suffix(file) in fastq.ENDINGS
        if min_quality and not is_fastq:
            raise UserError(f"min_quality={min_quality} is for FASTQ, and {file} is FASTA; leave it at 0")
        records = fastq.read_fastq(file) if is_fastq else fasta.read_fasta(file)
        found = records["sequence"]
        if min_quality:
            found = tuple(_doubtful(sequence, quality, min_quality) for sequence, quality in zip(found, records["quality"]))
        sequences += found
        labels += [file.name.split(".")[0]] * len(records)
        places.append(records.places)
    return Records({"sequence": tuple(sequences), "label": tuple(labels)}, Places.joined(places))


def _doubtful(sequence: str, quality: np.ndarray, least: int) -> str:
    letters = np.frombuffer(sequence.encode(), np.uint8)
    return np.where(quality < least, np.uint8(ord("N")), letters).tobytes().decode()


def _hidden(records: Records) -> Records:
    """Replaces lowercase bases by N."""
    hide = str.maketrans({letter: "N" for letter in "abcdefghijklmnopqrstuvwxyz"})
    return records.replace(sequence=tuple(sequence.translate(hide) for sequence in records["sequence"]))


# Sequences to make predictions for


def read_sequences(path: str, region: str = "") -> Records:
    r"""Sequences without labels, from FASTA, FASTQ or one sequence per line; the first character tells which.

    Args:
      path: the file, plain or packed; "-" is standard input.
      region: of a FASTA file, see `fasta.read_region`; only this region is read.

    Returns:
      Records with "name" and "sequence", tuples of str, and "start", the position of each one's first base, from 0.

    Raises:
      UserError: as the readers of these formats; a region of standard input.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".txt") as file:
      ...     _ = file.write(b"ACGT\nTTN\n")
      ...     file.flush()
      ...     read_sequences(file.name).columns
      {'name': ('1', '2'), 'sequence': ('ACGT', 'TTN'), 'start': (0, 0)}
    """
    if region:
        if path == "-":
            raise UserError("a region is read from a FASTA file, not from the standard input; name the file")
        name, start, sequence = fasta.read_region(path, region)
        return Records({"name": (name,), "sequence": (sequence,), "start": (start,)}, Places.of(f"{path} record", [1]))
    data = read_bytes(path)
    first = data.lstrip()[:1]
    if first == b">":
        records = fasta.read_fasta(path, data)
    elif first == b"@":
        records = fastq.read_fastq(path, data)
    else:
        lines = [(i, line.strip()) for i, line in enumerate(data.decode("latin1").split("\n"), 1) if line.strip()]
        if not lines:
            raise UserError(f"{'standard input' if path == '-' else path} has no sequences; give a FASTA file with some")
        numbers, sequences = zip(*lines)
        plain = Records({"sequence": sequences, "label": ("?",) * len(lines)}, Places.of(f"{path} line", numbers))
        records = checked(path, plain).replace(name=tuple(map(str, range(1, len(lines) + 1))))
    starts = (0,) * len(records)
    return Records({"name": records["name"], "sequence": records["sequence"], "start": starts}, records.places)
