r"""DNA, many to many and many to one: tag every base or classify sequences, resume exactly, see what counts, predict.

Papers: Hochreiter and Schmidhuber 1997, "Long Short-Term Memory"; Alipanahi et al. 2015, "Predicting the sequence
specificities of DNA- and RNA-binding proteins by deep learning", for motif detectors; Shrikumar et al. 2017, "Reverse-complement
parameter sharing improves deep learning models for genomics", for reading both strands. More in docs/dna.md.

    python -m experiments.dna --workdir=/tmp/hmm
        finds genes in sequences of a hidden Markov model: five minutes on two cores, beside the exact posterior
    python -m experiments.dna --workdir=/tmp/hmm --mode=evaluate --split=test
        accuracy, areas and calibration beside baselines; pictures and predictions_test.jsonl in the work directory
    python -m experiments.dna --workdir=/tmp/hmm --mode=predict --input=new.fa --track=new.bedGraph > new.bed
    python -m experiments.dna --workdir=/tmp/splice --config=splice --config.data.path=splice.arff.gz
    python -m experiments.dna --workdir=/tmp/splice --config=splice --config.data.path=splice.arff.gz --sweep=data.fold=0,1,2
    python -m experiments.dna --workdir=/tmp/yeast --config=genome --config.data.path=genome.fa \
        --config.data.annotation=genes.gff3 --config.data.test_sequences=chrXV,chrXVI
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from seqjax import run
from seqjax.data.dna import REPEATS, SOURCES, STRANDS, TASKS, load_dna, read_sequences
from seqjax.data.pipeline.bases import BaseWindows, collate_bases
from seqjax.data.pipeline.buckets import choose_boundaries
from seqjax.data.readers.hidden_markov import genes, posterior
from seqjax.data.records import Dataset, Records
from seqjax.decoding.bases import SequenceClassifier, Tagging
from seqjax.diagnostics.pictures import plot_confusion
from seqjax.errors import UserError
from seqjax.models.dna import POOLING, BaseFeatures, DnaClassifier, DnaReader, DnaTagger
from seqjax.models.ensemble import Ensemble, mean_log_probabilities
from seqjax.models.nucleotides import augment, encode, flip
from seqjax.run import Field, Flag, at_least, fields, one_of, recipe
from seqjax.run import baselines_dna as simple
from seqjax.run.dna import FORMATS, file_fields, print_classes, print_features
from seqjax.training import losses, metrics
from seqjax.training.metrics.probabilities import classification

TAG, CLASSIFY = ("task", ("tag",)), ("task", ("classify",))

FIELDS = {
    **fields.seed("the order of the sequences and the dropout"),
    "task": Field("tag", "A tag for each base, or a label for each sequence.", one_of(*TASKS)),
    **file_fields(SOURCES, REPEATS, STRANDS),
    **fields.batches("sequences", 32, 64),
    **fields.buckets(3, "Longer training sequences are left out; 0 keeps all."),
    "data.window": Field(0, "Bases of truncated backpropagation; 0 takes sequences whole.", at_least(0), when=TAG),
    "data.other_strand": Field(0.0, "Share of training sequences that are read from the other strand.", fields.SHARE),
    "model.kmer": Field(0, "Bases of an embedded k-mer, odd; 0 reads bases as they are, one-hot.", at_least(0)),
    **fields.recurrent(64, 16, embedding="Width of a k-mer's embedding, D."),
    "model.filters": Field(0, "Motif detectors, a convolution before the recurrent layers; 0 has none.", at_least(0)),
    "model.width": Field(9, "Bases that one looks at, odd.", at_least(1)),
    "model.bidirectional": Field(True, "Every layer reads in both directions."),
    "model.strands": Field("one", "Read one strand, or both with the same weights.", one_of("one", "both")),
    "model.crf": Field(False, "A conditional random field over the tags, not a softmax for each base.", when=TAG),
    "model.pooling": Field("flatten", "What becomes of all steps; flatten is for one length.", one_of(*POOLING), when=CLASSIFY),
    "model.members": Field(1, "Networks that are trained side by side and averaged.", at_least(1), when=CLASSIFY),
    **fields.dropouts(
        dropout=(0.2, "between layers and before the scores"), feature_dropout=(0.0, "on the features of bases"),
        recurrent_dropout=(0.0, "on the recurrent product, one mask for all steps"),
    ),
    "loss.label_smoothing": fields.label_smoothing()["loss.label_smoothing"]._replace(when=CLASSIFY),
    **fields.criterion("error", "loss"),
    **recipe.FIELDS,
}  # fmt: skip

PRESETS = {
    # Genes in sequences of a hidden Markov model; the exact posterior is right for 94.9 % of the bases.
    "hmm": {
        "data.batch_size": 16, "model.filters": 32, "model.dropout": 0.0, "optimizer.learning_rate": 4e-3,
        "optimizer.ema": 0.99, "schedule.warmup_steps": 50, "train.epochs": 12.0, "train.eval_every": 300,
        "train.checkpoint_every": 150, "train.log_every": 50,
    },
    # Splice junctions of primates, exon to intron, intron to exon or neither: set data.path, and data.fold from 0 to 9.
    "splice": {
        "task": "classify", "data.source": "file", "data.repeats": "remove", "data.folds": 10, "model.filters": 32,
        "model.dropout": 0.5, "optimizer.learning_rate": 2e-3, "optimizer.ema": 0.99, "schedule.warmup_steps": 50,
        "train.epochs": 20.0, "train.eval_every": 100, "train.checkpoint_every": 100,
    },
    # Promoters of E. coli: set data.path, and data.fold from 0 to 74.
    "promoters": {
        "task": "classify", "data.source": "file", "data.delimiter": "comma", "data.header": False,
        "data.sequence_field": "3", "data.label_field": "1", "data.folds": 75, "data.batch_size": 16, "model.filters": 16,
        "model.hidden_size": 16, "model.dropout": 0.5, "optimizer.learning_rate": 3e-3, "optimizer.ema": 0.98,
        "schedule.warmup_steps": 10, "train.epochs": 30.0, "train.eval_every": 30, "train.checkpoint_every": 60,
        "train.log_every": 30,
    },
    # A genome with annotation, both strands, in windows: set data.path and data.annotation.
    "genome": {
        "data.source": "file", "data.strand": "split", "data.window": 512, "model.strands": "both", "model.filters": 64,
        "model.hidden_size": 128, "optimizer.learning_rate": 2e-3, "optimizer.ema": 0.998, "schedule.warmup_steps": 100,
        "train.epochs": 10.0,
    },
}  # fmt: skip


class Spec(NamedTuple):
    """What the model must know of the sequences."""

    classes: list[str]
    swap: list[int]  # the tag that each becomes on the other strand; empty where tags are the same on both
    boundaries: list[int]  # the buckets' lengths


def check(config: ConfigDict) -> None:
    """Refuses settings that do not fit each other."""
    d, m = config.data, config.model
    if d.window and m.crf:
        raise UserError("config.model.crf decides a sequence as a whole; set data.window=0, or leave the field out")
    if d.window and d.other_strand:
        raise UserError("config.data.other_strand has no windows that follow each other; use model.strands='both'")
    if not m.kmer and m.embed_size != FIELDS["model.embed_size"].default:
        raise UserError(f"config.model.embed_size={m.embed_size} has no effect with model.kmer=0; leave it out")
    if not m.filters and m.width != FIELDS["model.width"].default:
        raise UserError(f"config.model.width={m.width} has no effect with model.filters=0; leave it out")


def load(config: ConfigDict) -> Dataset:
    """Reads the sequences that a config names."""
    return run.with_settings(load_dna, config.data, task=config.task)


def prepare(config: ConfigDict, data: Dataset) -> Spec:
    """Chooses the buckets."""
    lengths = [*map(len, data.parts["train"]["sequence"])]
    if config.task == "classify" and config.model.pooling == "flatten":
        every = {len(sequence) for part in data.parts.values() for sequence in part["sequence"]}
        if len(every) > 1:
            raise UserError(f"model.pooling='flatten' is for sequences of one length, not {min(every)} to {max(every)}; take 'max'")
    lengths = [lengths[i] for i in run.short_enough(lengths, config.data.max_length, "sequences")]
    boundaries = [config.data.window] if config.data.window else choose_boundaries(lengths, config.data.buckets)
    return Spec(list(data.classes), list(data.facts["swap"]), list(boundaries))


def build(config: ConfigDict, spec: Spec) -> run.Model:
    """Features of bases, recurrent layers over one strand or both, and scores of tags or classes."""
    m, dtype = config.model, run.compute_dtype(config)
    features = BaseFeatures(m.kmer, m.embed_size, m.filters, m.width, m.feature_dropout, dtype)
    cell = run.make_stack(config, input_dropout=0.0)
    reader = DnaReader(features, cell, m.strands == "both", m.dropout if config.task == "tag" else 0.0)
    size, steps = config.data.eval_batch_size, spec.boundaries[-1]
    first = np.ones((1, steps + 2 * features.halo), np.int32), np.array([steps])
    if config.task == "tag":
        model = DnaTagger(len(spec.classes), reader, tuple(spec.swap), m.crf, dtype)
        carry = lambda params, rows: model.apply({"params": params}, rows, method="initial_carry")  # noqa: E731
        return run.Model(
            module=model, init=lambda key: model.init(key, *first), loss=tag_loss(config, model, spec),
            metric=metrics.token_loss(), initial_carry=carry if config.data.window else lambda params, rows: (),
            tools=Tagging(model, batch_size=size, boundaries=spec.boundaries),
        )  # fmt: skip
    model = DnaClassifier(len(spec.classes), reader, m.pooling, m.bidirectional, m.dropout, dtype)
    model = Ensemble(model, m.members) if m.members > 1 else model
    return run.Model(
        module=model, init=lambda key: model.init(key, *first), loss=class_loss(config, model, spec),
        metric=metrics.token_loss(), tools=SequenceClassifier(model, features.halo, batch_size=size, boundaries=spec.boundaries),
    )  # fmt: skip


def turned(config: ConfigDict, batch: Any, halo: int, rng: Any) -> tuple[Any, Any]:
    """A training batch with some of its sequences read from the other strand, and which those are."""
    inner = batch.codes[:, halo : batch.codes.shape[1] - halo]
    codes, which = augment(rng, inner, batch.lengths, config.data.other_strand)
    return batch._replace(codes=jnp.pad(codes, ((0, 0), (halo, halo)))), which


def tag_loss(config: ConfigDict, model: DnaTagger, spec: Spec) -> Any:
    """The nats of the tags; the carry passes from window to window."""
    halo, other = model.reader.features.halo, jnp.array(spec.swap or range(len(spec.classes)))

    def loss(params, model_state, carry, batch, rng):
        noise = {} if rng is None else {"train": True, "rngs": {"dropout": rng}}
        if noise and config.data.other_strand:
            batch, which = turned(config, batch, halo, jax.random.fold_in(rng, 1))
            labels = jnp.where(which[:, None], other[flip(batch.labels, batch.lengths)], batch.labels)
            batch = batch._replace(labels=labels)
        start = (carry, batch.fresh) if config.data.window else ()
        after, scores = model.apply({"params": params}, batch.codes, batch.lengths, *start, **noise)
        nats = model.apply({"params": params}, scores, batch.labels, batch.lengths, method="nats")
        counts = {}
        if rng is None:  # decoding in every training step would cost more than it tells
            found = model.apply({"params": params}, scores, batch.lengths, method="decode")
            real = jnp.arange(batch.labels.shape[1])[None, :] < batch.lengths[:, None]
            counts = {"correct": jnp.sum((found == batch.labels) & real, dtype=jnp.float32)}
        sums = losses.Sums(jnp.sum(nats), jnp.sum(batch.lengths).astype(jnp.float32), counts)
        return after if config.data.window else carry, model_state, sums

    return loss


def class_loss(config: ConfigDict, model: Any, spec: Spec) -> Any:
    """The cross-entropy of the labels: in training the mean of the members', else that of their mean probabilities."""

    def loss(params, model_state, carry, batch, rng):
        noise = {} if rng is None else {"train": True, "rngs": {"dropout": rng}}
        targets, mask = jax.nn.one_hot(batch.labels, len(spec.classes)), batch.lengths > 0
        if noise:
            targets = optax.smooth_labels(targets, config.loss.label_smoothing)
            if config.data.other_strand:
                halo = (batch.codes.shape[1] - spec.boundaries[-1]) // 2
                batch, _ = turned(config, batch, halo, jax.random.fold_in(rng, 1))
        scores = model.apply({"params": params}, batch.codes, batch.lengths, **noise)
        if config.model.members == 1:
            return carry, model_state, losses.label_sums(scores, targets, batch.labels, mask)
        found = losses.label_sums(mean_log_probabilities(scores), targets, batch.labels, mask)
        if noise:
            found = found._replace(loss=jnp.mean(jax.vmap(lambda own: losses.label_cross_entropy(own, targets, mask))(scores)))
        return carry, model_state, found

    return loss


def codes_of(part: Records) -> list[np.ndarray]:
    """The sequences of a part as IUPAC codes."""
    return [encode(sequence) for sequence in part["sequence"]]


def batches(config: ConfigDict, spec: Spec, part: Records, training: bool) -> Any:
    """Sequences of about the same length together, or windows that follow each other."""
    m, d = config.model, config.data
    halo = BaseFeatures(m.kmer, m.embed_size, m.filters, m.width).halo
    if training and d.max_length:
        part = part.take(np.flatnonzero([len(sequence) <= d.max_length for sequence in part["sequence"]]))
    codes, labels = codes_of(part), part["labels" if config.task == "tag" else "label"]
    if not d.window:
        lengths = np.array([len(each) for each in codes])
        return run.bucketed(config, lengths, collate_bases(codes, labels, halo), spec.boundaries, training)
    if training:
        return BaseWindows(codes, labels, d.batch_size, d.window, halo=halo)
    whole = BaseWindows(codes, labels, d.eval_batch_size, d.window, halo=halo)
    return run.passes(lambda index=0, count=1: (whole.shard(index, count) if count > 1 else whole).one_pass())


def validate(trained: run.Trained, part: Records, found: dict[str, float]) -> dict[str, float]:
    """Error and accuracy."""
    return {"loss": found["loss"], "error": 1 - found["correct"], "accuracy": found["correct"]}


def probabilities(trained: run.Trained, part: Records) -> tuple[np.ndarray, np.ndarray]:
    """Of the tags of all bases, end to end, or of the classes of all sequences; and the answers."""
    found = trained.model.tools(trained.params, codes_of(part))
    if trained.config.task == "classify":
        return found, found.argmax(axis=1)
    shares, tags = (np.concatenate([getattr(each, name) for each in found]) for name in ("probabilities", "tags"))
    return shares, tags


def baselines(config: ConfigDict, data: Dataset, split: str) -> dict[str, dict[str, Any]]:
    """The most frequent class, logistic regression, position weight matrices; for the hidden Markov model the exact posterior."""
    return {name: classification(shares, true_of(data.parts[split]), data.classes) for name, shares in others(config, data, split).items()}


def true_of(part: Records) -> np.ndarray:
    """The labels, those of bases end to end."""
    return np.concatenate(part["labels"]) if "labels" in part else part["label"]


def others(config: ConfigDict, data: Dataset, split: str) -> dict[str, np.ndarray]:
    """Probabilities of each baseline."""
    parts = {name: (codes_of(part), part["labels" if config.task == "tag" else "label"]) for name, part in data.parts.items()}
    if config.task == "classify":
        return simple.for_sequences(parts, split, data.classes)
    found = simple.for_bases(parts, split, data.classes)
    if config.data.source == "embedded":
        found["exact posterior"] = np.concatenate(posterior(genes(), np.stack(parts[split][0])).tags)
    return found


def evaluate(trained: run.Trained, data: Dataset, split: str, options: run.Options) -> run.Report:
    """Loss, accuracy, areas and calibration beside the baselines."""
    part, classes = data.parts[split], data.classes
    shares, given = probabilities(trained, part)
    true, loss = true_of(part), run.measure(EXPERIMENT, trained, part)["loss"]
    scores = {"model": {"loss": loss} | classification(shares, true, classes, given)} | baselines(trained.config, data, split)
    if trained.config.task == "classify":
        rows = ({"sequence": s, "label": classes[k], "answer": classes[a], "probabilities": dict(zip(classes, map(float, p)))}
                for s, k, a, p in zip(part["sequence"], true, given, shares))  # fmt: skip
    else:
        ends = np.cumsum([*map(len, part["sequence"])])
        rows = ({"place": part.places.at(i), "bases": len(tags), "right": int((tags == labels).sum())}
                for i, (tags, labels) in enumerate(zip(np.split(given, ends[:-1]), part["labels"])))  # fmt: skip
    return run.Report(scores, rows, answers=(shares, given, true))


def pictures(trained: run.Trained, data: Dataset, split: str, report: run.Report, folder: Any) -> Any:
    """What is confused, curves, calibration, and what the model looked at."""
    shares, given, true = report.answers
    unit = "bases" if trained.config.task == "tag" else "sequences"
    counts = run.confusion(true, given, len(data.classes))
    yield plot_confusion(folder / f"confusion_{split}.png", counts, data.classes, unit=unit)


def predict(trained: run.Trained, options: run.Options) -> None:
    """Prints the features or the class of each sequence of --input."""
    records, spec = read_sequences(options.input, options.region), trained.spec
    if trained.config.task == "tag":
        print_features(trained.model.tools, trained.params, records, spec.classes, options.format, options.track)
        return
    shares = trained.model.tools(trained.params, codes_of(records))
    print_classes(records["name"], shares, spec.classes, options.format)


PREDICT = ("predict",)

EXPERIMENT = run.Experiment.of(
    __name__,
    preset="hmm",
    records="sequences",
    unit="bases",
    criterion=lambda config: config.criterion,
    modes={"predict": predict},
    flags={
        "input": Flag("-", "FASTA, FASTQ or a sequence a line; - is standard input.", PREDICT),
        "region": Flag("", "of a FASTA file: read no more than this, such as chr1:1001-2000.", PREDICT),
        "format": Flag("text", "text is BED for tags; BED and GFF3 have features, jsonl a line a sequence.", PREDICT, one_of(*FORMATS)),
        "track": Flag("", "a bedGraph file for the probability of each tag at each base.", PREDICT),
    },
)  # fmt: skip

if __name__ == "__main__":
    run.main(EXPERIMENT)
