r"""DNA, many to many and many to one: tag every base or classify sequences, interpret the model, predict.

Papers: Alipanahi et al. 2015, "Predicting the sequence specificities of DNA- and RNA-binding proteins by deep
learning", for motif detectors; Quang and Xie 2016, "DanQ: a hybrid convolutional and recurrent deep neural network for
quantifying the function of DNA sequences"; Shrikumar, Greenside and Kundaje 2017, "Reverse-complement parameter
sharing improves deep learning models for genomics", for reading both strands. More in docs/dna.md.

    python -m experiments.dna --workdir=/tmp/hmm
        finds genes in sequences of a hidden Markov model, beside the exact posterior: two minutes on two cores
    python -m experiments.dna --workdir=/tmp/hmm --mode=evaluate --split=test
        accuracy, ROC areas and calibration with baselines; pictures and predictions_test.jsonl in the workdir
    python -m experiments.dna --workdir=/tmp/hmm --mode=predict --input=new.fa --track=new.bedGraph > new.bed
    python -m experiments.dna --workdir=/tmp/3 --config=splice --config.data.path=splice.arff.gz --config.data.fold=3
    python -m benchmarks.dna_folds --workdir=/tmp/splice --config=splice --config.data.path=splice.arff.gz --split=test
    python -m experiments.dna --workdir=/tmp/yeast --config=genome --config.data.path=genome.fa \
        --config.data.annotation=genes.gff3 --config.data.test_sequences=chrXV,chrXVI
"""

from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from seqjax import run
from seqjax.data.dna import REPEATS, SOURCES, STRANDS, TASKS, load_dna, read_sequences
from seqjax.data.pipeline.bases import BaseWindows, collate_bases
from seqjax.data.pipeline.buckets import choose_boundaries, within_limit
from seqjax.data.readers.hidden_markov import genes, posterior
from seqjax.data.records import Dataset, Records
from seqjax.decoding.bases import SequenceClassifier, Tagging
from seqjax.diagnostics.dna import plot_calibration, plot_curves
from seqjax.diagnostics.pictures import plot_confusion
from seqjax.errors import UserError
from seqjax.models.dna import POOLING, BaseFeatures, DnaClassifier, DnaReader, DnaTagger
from seqjax.models.ensemble import Ensemble
from seqjax.run import Field, at_least, fields, one_of, recipe
from seqjax.run import baselines_dna as simple
from seqjax.run.dna import (
    all_labels,
    answer_rows,
    answers,
    check_classified,
    codes_of,
    file_fields,
    labels_of,
    looked_at,
    predict_flags,
    print_classes,
    print_features,
)
from seqjax.training import metrics
from seqjax.training.dna import class_loss, tag_loss
from seqjax.training.metrics.probabilities import classification

TAG, CLASSIFY, KMERS = ("task", ("tag",)), ("task", ("classify",)), (3, 5, 7)

FIELDS = {
    **fields.seed("the order of the sequences and the dropout"),
    "task": Field("tag", "Predict a tag per base, or a label per sequence.", one_of(*TASKS)),
    **file_fields(SOURCES, REPEATS, STRANDS),
    **fields.batches("sequences", 32, 64),
    **fields.buckets(3, "Longer training sequences are dropped; 0 keeps all."),
    "data.window": Field(0, "Bases of truncated backpropagation; 0: whole sequences.", at_least(0), when=TAG),
    "data.other_strand": Field(0.0, "Fraction of training sequences read from the other strand.", fields.SHARE),
    "model.kmer": Field(0, "Length k of embedded k-mers; 0: one-hot bases.", one_of(0, *KMERS)),
    **fields.recurrent(64, 16, embedding="Width of the k-mer embedding, D."),
    "model.filters": Field(0, "Motif detectors (convolution before the recurrent layers); 0: none.", at_least(0)),
    "model.width": Field(9, "Width of a motif detector, odd.", at_least(1), when=("model.filters", range(1, 10**6))),
    "model.bidirectional": Field(True, "Make every layer bidirectional."),
    "model.strands": Field("one", "Read one strand, or both with shared weights.", one_of("one", "both")),
    "model.crf": Field(False, "Conditional random field over the tags instead of a softmax per base.", when=TAG),
    "model.pooling": Field("flatten", "Pooling over the steps of a sequence.", one_of(*POOLING), when=CLASSIFY),
    "model.members": Field(1, "Networks trained side by side, whose outputs are averaged.", at_least(1), when=CLASSIFY),
    **fields.dropouts(
        dropout=(0.2, "between layers and before the scores"),
        feature_dropout=(0.0, "on the features of bases"),
        recurrent_dropout=(0.0, "on the recurrent product, one mask for all steps"),
    ),
    "model.base_dropout": Field(0.0, "Fraction of bases replaced by N in training.", fields.SHARE),
    "loss.label_smoothing": fields.label_smoothing()["loss.label_smoothing"]._replace(when=CLASSIFY),
    **fields.criterion("error", "loss"),
    **recipe.RECURRENT_FIELDS,
}
FIELDS["model.embed_size"] = FIELDS["model.embed_size"]._replace(when=("model.kmer", KMERS))
FIELDS["data.buckets"] = FIELDS["data.buckets"]._replace(when=("data.window", (0,)))

PRESETS = {
    # Genes in sequences of a hidden Markov model; the exact posterior is right for 99.0 %, the model for 98.7.
    "hmm": {
        "data.batch_size": 32, "model.cell": "gru", "model.filters": 32, "model.width": 15, "model.dropout": 0.0,
        "optimizer.learning_rate": 8e-3, "optimizer.ema": 0.98, "schedule.warmup_steps": 50, "train.epochs": 7.0,
        "train.eval_every": 188, "train.checkpoint_every": 188, "train.log_every": 94,
    },
    # Splice junctions of primates: set data.path, and data.fold from 0 to 9. NOT YET RUN over all folds.
    "splice": {
        "task": "classify", "data.source": "file", "data.repeats": "remove", "data.folds": 10, "data.batch_size": 128,
        "data.eval_batch_size": 128, "model.cell": "gru", "model.filters": 32, "model.hidden_size": 16,
        "model.dropout": 0.5, "model.feature_dropout": 0.2, "model.base_dropout": 0.35,
        "optimizer.learning_rate": 1.2e-2, "optimizer.ema": 0.97, "schedule.warmup_steps": 20, "train.epochs": 20.0,
        "train.log_every": 50, "train.eval_every": 50, "train.checkpoint_every": 100,
    },
    # Promoters of E. coli: set data.path, and data.fold from 0 to 74.
    "promoters": {
        "task": "classify", "data.source": "file", "data.delimiter": "comma", "data.header": False,
        "data.sequence_field": "3", "data.label_field": "1", "data.folds": 75, "data.batch_size": 16,
        "model.cell": "gru", "model.filters": 16, "model.hidden_size": 8, "model.dropout": 0.5,
        "model.feature_dropout": 0.3, "model.base_dropout": 0.2, "optimizer.learning_rate": 1e-2, "optimizer.ema": 0.97,
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


def load(config: ConfigDict) -> Dataset:
    """Reads the sequences that a config names."""
    return run.with_settings(load_dna, config.data, task=config.task)


def prepare(config: ConfigDict, data: Dataset) -> Spec:
    """Chooses the buckets."""
    lengths = [*map(len, data.parts["train"]["sequence"])]
    if config.task == "classify" and config.model.pooling == "flatten":
        every = {len(sequence) for part in data.parts.values() for sequence in part["sequence"]}
        if len(every) > 1:
            raise UserError(f"model.pooling='flatten' is for one length, not {min(every)} to {max(every)}; take 'max'")
    lengths = [lengths[i] for i in run.short_enough(lengths, config.data.max_length, "sequences")]
    boundaries = [config.data.window] if config.data.window else choose_boundaries(lengths, config.data.buckets)
    return Spec(list(data.classes), list(data.facts["swap"]), list(boundaries))


def build(config: ConfigDict, spec: Spec) -> run.Model:
    """Features of bases, recurrent layers over one strand or both, and scores of tags or classes."""
    m, d, dtype = config.model, config.data, run.compute_dtype(config)
    features = BaseFeatures(m.kmer, m.embed_size, m.filters, m.width, m.feature_dropout, dtype)
    cell = run.make_stack(config, input_dropout=0.0)
    reader = DnaReader(features, cell, m.strands == "both", m.dropout if config.task == "tag" else 0.0, m.base_dropout)
    first = np.ones((1, spec.boundaries[-1] + 2 * features.halo), np.int32), np.array([spec.boundaries[-1]])
    how, sizes = {"other_strand": d.other_strand}, {"batch_size": d.eval_batch_size, "boundaries": spec.boundaries}
    if config.task == "tag":
        model = DnaTagger(len(spec.classes), reader, tuple(spec.swap), m.crf, dtype)
        loss = tag_loss(model, carried=d.window > 0, swap=spec.swap, **how)
        tools = Tagging(model, **sizes)
    else:
        model = DnaClassifier(len(spec.classes), reader, m.pooling, m.bidirectional, m.dropout, dtype)
        model = Ensemble(model, m.members) if m.members > 1 else model
        loss = class_loss(model, len(spec.classes), features.halo, label_smoothing=config.loss.label_smoothing, **how)
        tools = SequenceClassifier(model, features.halo, **sizes)

    def carry(params, rows):
        return model.apply({"params": params}, rows, method="initial_carry") if d.window else ()

    return run.Model(model, lambda key: model.init(key, *first), loss, metrics.token_loss(), carry, tools)


def batches(config: ConfigDict, spec: Spec, part: Records, training: bool) -> Any:
    """Batches of sequences of similar length, or consecutive windows."""
    m, d = config.model, config.data
    halo = BaseFeatures(m.kmer, m.embed_size, m.filters, m.width).halo
    if training and d.max_length:
        part = part.take(within_limit([*map(len, part["sequence"])], d.max_length))
    codes, labels = codes_of(part), labels_of(part)
    if not d.window:
        lengths = np.array([len(each) for each in codes])
        return run.bucketed(config, lengths, collate_bases(codes, labels, halo), spec.boundaries, training)
    windows = BaseWindows(codes, labels, d.batch_size if training else d.eval_batch_size, d.window, halo=halo)
    shard = lambda index=0, count=1: (windows.shard(index, count) if count > 1 else windows).one_pass()  # noqa: E731
    return windows if training else run.passes(shard)


def validate(trained: run.Trained, part: Records, found: dict[str, float]) -> dict[str, float]:
    """Error and accuracy."""
    return {"loss": found["loss"], "error": 1 - found["correct"], "accuracy": found["correct"]}


def others(config: ConfigDict, data: Dataset, split: str) -> dict[str, np.ndarray]:
    """Probabilities from baselines: the most frequent class, regressions, weight matrices; and the exact posterior."""
    parts = {name: (codes_of(part), labels_of(part)) for name, part in data.parts.items()}
    if config.task == "classify":
        return simple.for_sequences(parts, split, data.classes)
    found = simple.for_bases(parts, split, data.classes)
    if config.data.source == "embedded":
        found["exact posterior"] = np.concatenate(posterior(genes(), np.stack(parts[split][0])).tags)
    return found


def baselines(config: ConfigDict, data: Dataset, split: str) -> dict[str, dict[str, Any]]:
    """Loss and accuracy of each."""
    true, kept = all_labels(data.parts[split]), ("loss", "accuracy")
    found = {name: classification(shares, true, data.classes) for name, shares in others(config, data, split).items()}
    return {name: {metric: scores[metric] for metric in kept} for name, scores in found.items()}


def evaluate(trained: run.Trained, data: Dataset, split: str, options: run.Options) -> run.Report:
    """Loss, accuracy, ROC areas, F1 of each class and calibration, with the baselines."""
    part, classes, true = data.parts[split], data.classes, all_labels(data.parts[split])
    shares, given = answers(trained, part)
    baseline, scores = others(trained.config, data, split), {"model": classification(shares, true, classes, given)}
    if not trained.config.data.window:  # in training, the loss stops at the ends of windows
        scores["model"]["loss"] = run.measure(EXPERIMENT, trained, part)["loss"]
    scores |= {name: classification(other, true, classes) for name, other in baseline.items()}
    return run.Report(scores, answer_rows(part, shares, given, classes), answers=(shares, given, baseline))


def pictures(trained: run.Trained, data: Dataset, split: str, report: run.Report, folder: Any) -> Any:
    """Plots the confusion matrix, curves, calibration, and what the model looks at."""
    (shares, given, baseline), part, true = report.answers, data.parts[split], all_labels(data.parts[split])
    counts = run.confusion(true, given, len(data.classes))
    unit = "bases" if "labels" in part else "sequences"
    yield plot_confusion(folder / f"confusion_{split}.png", counts, data.classes, unit=unit)
    yield plot_curves(folder / f"curves_{split}.png", shares, true, data.classes)
    yield plot_calibration(folder / f"calibration_{split}.png", shares, true)
    yield from looked_at(trained, part, split, folder, shares, baseline.get("exact posterior"))


def predict(trained: run.Trained, options: run.Options) -> None:
    """Prints the features or the class of each sequence of --input."""
    records, classes = read_sequences(options.input, options.region), trained.spec.classes
    if trained.config.task == "tag":
        print_features(trained.model.tools, trained.params, records, classes, options.format, options.track)
    else:
        check_classified(trained, records, options.format, options.track)
        print_classes(records["name"], trained.model.tools(trained.params, codes_of(records)), classes, options.format)


EXPERIMENT = run.Experiment.of(
    __name__,
    preset="hmm",
    records="sequences",
    unit="bases",
    criterion=lambda config: config.criterion,
    modes={"predict": predict},
    flags=predict_flags(),
)

if __name__ == "__main__":
    run.main(EXPERIMENT)
