"""Parts of the DNA experiment besides its model: settings of its files, and writing of predictions."""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from seqjax.data.readers.annotation import bed_line, features_of, gff_line, runs, track_lines
from seqjax.data.records import Faults, Records
from seqjax.decoding.bases import Tagging
from seqjax.diagnostics.dna import WIDEST, gradient_times_input, motifs, plot_logos, plot_tags
from seqjax.errors import UserError
from seqjax.models.nucleotides import SHARES, encode
from seqjax.run import fields
from seqjax.run.experiment import Flag, Trained
from seqjax.run.parts import print_json
from seqjax.run.settings import Field, at_least, one_of, within

FORMATS = ("text", "jsonl", "bed", "gff3")
MOST_SHOWN = 200  # sequences of a class whose gradients are averaged


def file_fields(sources: Sequence[str], repeats: Sequence[str], strands: Sequence[str]) -> dict[str, Field]:
    """Where the sequences come from, and how repeats, lower case and folds are handled.

    Args:
      sources, repeats, strands: the values that `seqjax.data.dna` has for these.

    Example:
      >>> list(file_fields(("embedded", "file"), ("group",), ("ignore",)))[:3]
      ['data.source', 'data.name', 'data.path']
    """
    found = fields.source(
        "sequences",
        sources,
        name="hmm",
        names="Embedded dataset (hmm), or a name for your files.",
        path="To tag: FASTA with data.annotation, or a table. To classify: a table, ARFF, or a folder with one FASTA file per class.",
    )
    del found["data.data_dir"]
    file = fields.FILE
    return found | {
        "data.annotation": Field("", "BED or GFF3 annotation of the sequences in data.path.", when=file),
        "data.features": Field("CDS", "Feature types used as tags, comma-separated; where they overlap, the first wins.", when=file),
        "data.strand": Field("ignore", "Whether tags ignore the strand, or each strand has its own.", one_of(*strands), when=file),
        "data.validation_sequences": Field("", "Names of the validation sequences, comma-separated; with an annotation.", when=file),
        "data.test_sequences": Field("", "Names of the test sequences, comma-separated; with an annotation.", when=file),
        "data.sequence_field": Field("sequence", "Table field with the sequences, by name or number.", when=file),
        "data.label_field": Field("label", "Table field with the labels, by name or number; to tag, one letter per base.", when=file),
        **fields.table(),
        "data.masked": Field("read", "Lowercase bases are read like uppercase, or hidden: read as N.", one_of("read", "hide"), when=file),
        "data.min_quality": Field(0, "FASTQ: bases of lower quality are read as N.", within(0, 94), when=file),
        "data.repeats": Field(
            "group",
            "Keep near-duplicates in the same part, drop all but the first, or treat them as different.",
            one_of(*repeats),
            when=file,
        ),
        "data.identity": Field(0.8, "Fraction of equal bases that makes two sequences near-duplicates.", within(0.3, 1.0001), when=file),
        "data.folds": Field(0, "Folds for cross-validation; 0: none.", at_least(0), when=file),
        "data.fold": Field(0, "The fold used for testing, from 0.", at_least(0), when=file),
        "data.test_fraction": Field(0.0, "Fraction held out for testing if there is no test set; 0: none.", fields.SHARE, when=file),
        **fields.split_seed(),
    }


def predict_flags() -> dict[str, Flag]:
    """The flags of the mode `predict`.

    Example:
      >>> list(predict_flags())
      ['input', 'region', 'format', 'track']
    """
    modes = ("predict",)
    return {
        "input": Flag("-", "FASTA, FASTQ or one sequence per line; - is standard input.", modes),
        "region": Flag("", "read only this region of a FASTA file, such as chr1:1001-2000.", modes),
        "format": Flag("text", "tags as BED (text means BED) or GFF3, or one JSON line per sequence.", modes, one_of(*FORMATS)),
        "track": Flag("", "write the probability of the tags at each base to this bedGraph file.", modes),
    }


def codes_of(part: Records) -> list[np.ndarray]:
    """The sequences of a part as IUPAC codes.

    Example:
      >>> from seqjax.data.records import Places
      >>> codes_of(Records({"sequence": ("ACG",)}, Places.of("a.fa line", [1])))[0].tolist()
      [1, 2, 4]
    """
    return [encode(sequence) for sequence in part["sequence"]]


def labels_of(part: Records) -> Any:
    """The targets: a tag per base of each sequence, or a label per sequence.

    Example:
      >>> from seqjax.data.records import Places
      >>> labels_of(Records({"sequence": ("ACG",), "label": np.array([1])}, Places.of("a.fa line", [1]))).tolist()
      [1]
    """
    return part["labels" if "labels" in part else "label"]


def all_labels(part: Records) -> np.ndarray:
    """The targets as one array, (N,): tags of all bases concatenated, or the labels.

    Example:
      >>> from seqjax.data.records import Places
      >>> part = Records({"labels": (np.array([0, 1]), np.array([1]))}, Places.of("a.fa line", [1, 3]))
      >>> all_labels(part).tolist()
      [0, 1, 1]
    """
    return np.concatenate(part["labels"]) if "labels" in part else part["label"]


def answers(trained: Trained, part: Records) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities (N, K) and predictions (N,) for the sequences of a part, or for all its bases concatenated."""
    found = trained.model.tools(trained.params, codes_of(part))
    if trained.config.task == "classify":
        return found, found.argmax(axis=1)
    return np.concatenate([each.probabilities for each in found]), np.concatenate([each.tags for each in found])


def answer_rows(part: Records, shares: np.ndarray, given: np.ndarray, classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A JSON object for each sequence of a part: true and predicted class, or the number of correctly tagged bases.

    Args:
      part: with "label" or "labels".
      shares: (N, K), of the sequences, or of all bases end to end.
      given: int (N,), the answers.
      classes: K names.

    Example:
      >>> from seqjax.data.records import Places
      >>> part = Records({"sequence": ("ACG",), "labels": (np.array([0, 1, 1]),)}, Places.of("a.fa line", [1]))
      >>> list(answer_rows(part, np.zeros((3, 2)), np.array([0, 1, 0]), ["background", "gene"]))
      [{'place': 'a.fa line 1', 'bases': 3, 'right': 2}]
    """
    if "labels" in part:
        ends = np.cumsum([*map(len, part["sequence"])])
        for i, (tags, labels) in enumerate(zip(np.split(given, ends[:-1]), part["labels"])):
            yield {"place": part.places.at(i), "bases": len(tags), "right": int((tags == labels).sum())}
        return
    for sequence, label, answer, row in zip(part["sequence"], part["label"], given, shares):
        found = {
            "label": classes[label],
            "answer": classes[answer],
            "probabilities": dict(zip(classes, map(float, row))),
        }
        yield {"sequence": sequence} | found


def check_classified(trained: Trained, records: Records, format: str, track: str) -> None:
    """Refuses options that a sequence classifier does not support.

    Raises:
      UserError: formats of features; sequences of another length than the model's, if it pools by "flatten".
    """
    if format in ("bed", "gff3") or track:
        what = "--track" if track else f"--format={format}"
        raise UserError(f"{what} is for tags of bases, and this run gives a label for each sequence; leave it out")
    length = trained.spec.boundaries[-1]
    if trained.config.model.pooling != "flatten":
        return
    faults = Faults("the sequences")
    for name, sequence in zip(records["name"], records["sequence"]):
        if len(sequence) != length:
            faults.add(f"{name!r} has {len(sequence)} bases, and this run is for sequences of {length}; cut it to that")
    faults.raise_any()


def looked_at(
    trained: Trained, part: Records, split: str, folder: pathlib.Path, shares: np.ndarray, exact: np.ndarray | None
) -> Iterator[pathlib.Path]:
    """Plots what a model looks at: motif detectors, and gradient times input for one base or averaged by class.

    Args:
      trained: a tagger, or a classifier.
      part: the sequences.
      split: the name of the part.
      folder: for the PNG files.
      shares: (N, K), probabilities of the sequences, or of all bases end to end.
      exact: the same of the exact posterior, where there is one.

    Yields:
      The paths.
    """
    codes = codes_of(part)
    own = trained.params["reader"].get("features", {})
    if "motifs" in own and "embed" not in own:
        kernel, bias = np.asarray(own["motifs"]["kernel"]), np.asarray(own["motifs"]["bias"])
        if kernel.ndim > 3:  # the first of several networks
            kernel, bias = kernel[0], bias[0]
        logos = motifs(kernel, bias, codes)
        yield plot_logos(folder / f"motifs_{split}.png", logos, "bits", columns=2, title="what the motif detectors answer to")
    if "embed" in own:
        return  # k-mers have no gradient per base
    if "labels" in part:
        yield _one_base(trained, part, codes, split, folder, shares, exact)
    elif len({len(each) for each in codes}) == 1:
        yield _by_class(trained, part, codes, split, folder, shares)


def _one_base(trained, part, codes, split, folder, shares, exact) -> pathlib.Path:
    """The middle base of the longest feature in the first 50 sequences of at most 2,000 bases."""
    ends = np.cumsum([0, *map(len, codes)])
    able = [i for i, each in enumerate(codes) if len(each) <= 2000][:50] or [0]
    some = slice(0, 2000)
    stretches = [(bool(tag), high - low, i, low, high) for i in able for low, high, tag in runs(part["labels"][i][some])]
    _, _, which, low, high = max(stretches, key=lambda stretch: stretch[:2])
    labels, bases, focus = part["labels"][which][some], codes[which][some], (low + high) // 2
    inside = slice(ends[which], ends[which] + len(bases))
    tag = int(shares[inside][focus].argmax())

    def score(xs):
        _, scores = trained.model.module.apply(trained.variables, xs, np.array([len(bases)]))
        return scores[0, focus, tag] - scores[0, focus].mean()

    weights = gradient_times_input(score, _padded(trained, [bases]))[0]
    weights = weights[_inner(trained, len(weights))]
    others = {} if exact is None else {"exact posterior": exact[inside]}
    return plot_tags(folder / f"tags_{split}.png", bases, shares[inside], labels, trained.spec.classes, weights, focus, others)


def _by_class(trained, part, codes, split, folder, shares) -> pathlib.Path:
    classes, logos = trained.spec.classes, {}
    for k, name in enumerate(classes):
        members = [codes[i] for i in np.flatnonzero(part["label"] == k)][:MOST_SHOWN]
        if not members:
            continue

        def score(xs, k=k, members=members):
            scores = trained.model.module.apply(trained.variables, xs, np.array([len(each) for each in members]))
            scores = scores if scores.ndim == 2 else scores.mean(axis=0)
            return jnp.sum(scores[:, k] - scores.mean(axis=1))

        weights = gradient_times_input(score, _padded(trained, members)).mean(axis=0)
        logos[f"{name}, mean of {len(members)} sequences"] = weights[_inner(trained, len(weights))][:WIDEST]
    title = "gradient times input of the score of the class, averaged"
    return plot_logos(folder / f"gradients_{split}.png", logos, "gradient × input", title=title)


def _halo(trained) -> int:
    module = trained.model.module
    return getattr(module, "module", module).reader.features.halo


def _padded(trained, codes) -> np.ndarray:
    return SHARES[np.pad(np.stack(codes), ((0, 0), (_halo(trained),) * 2))]


def _inner(trained, steps: int) -> slice:
    return slice(_halo(trained), steps - _halo(trained))


def print_classes(names: Sequence[str], probabilities: np.ndarray, classes: Sequence[str], format: str) -> None:
    """Prints the predicted class of each sequence, with the probabilities of all classes.

    Example:
      >>> print_classes(["a"], np.array([[0.25, 0.75]]), ["EI", "IE"], "jsonl")
      {"name": "a", "label": "IE", "probabilities": {"EI": 0.25, "IE": 0.75}}
    """
    for name, shares in zip(names, probabilities):
        best = classes[int(np.argmax(shares))]
        if format == "jsonl":
            print_json({"name": name, "label": best, "probabilities": dict(zip(classes, map(float, shares)))})
        else:
            print(f"{name}\t{best}\t" + "  ".join(f"{label} {share:.1%}" for label, share in zip(classes, shares)))


def print_features(tag: Tagging, params: Any, records: Any, classes: Sequence[str], format: str, track: str = "") -> None:
    """Prints the features of sequences as they are found, window by window, and writes the probabilities at each base.

    Args:
      tag: predicts the tags.
      params: of its model.
      records: with "name", "sequence" and "start".
      classes: the names of the tags; the first means "not a feature".
      format: "bed" (which "text" is), "gff3" or "jsonl".
      track: a bedGraph file for the probability of the second tag; with more tags, one file each: TRACK.TAG.bedGraph.
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
    """The bedGraph file of each tag except the first; none if no name is given.

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
    """Joins features that continue across windows; the score is the mean over all bases."""
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
