"""The table of all experiments, by which test_every_experiment.py tests each of them: a new experiment is one more row."""

import importlib
import pathlib
import random
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import made
import made_captions
import made_dna
import made_music
import made_series
import made_speech
import made_video
from processes import Run, Server, config_flags, sealed

from seqjax.run import Experiment


class Question(NamedTuple):
    """What a trained model is asked."""

    mode: str
    flags: Sequence[str] = ()  # {data} is the folder of the data
    stdin: str = ""
    lines: int = 0  # of JSON on standard output; 0 where the mode prints for people


class Row(NamedTuple):
    """An experiment, small data for it, and settings that train on them in seconds."""

    module: str
    data: made.Data
    settings: Callable[[pathlib.Path], Mapping[str, Any]]  # folder of the data -> settings
    questions: Sequence[Question]
    stop: signal.Signals = signal.SIGKILL  # how a run is stopped in the middle
    presets: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda preset: {}  # what must change in one for these data

    @property
    def experiment(self) -> Experiment:
        return importlib.import_module(f"experiments.{self.module}").EXPERIMENT


OFTEN = {"train.epochs": 0.0, "train.log_every": 5, "train.checkpoint_every": 4, "train.keep": 2}
JSON = "--format=jsonl"

LANGUAGE_MODEL = Row(
    "language_model", made.TEXT,
    lambda data: OFTEN | {
        "data.batch_size": 4, "data.window": 10, "data.eval_batch_size": 4, "data.eval_window": 10,
        "model.hidden_size": 16, "model.embed_size": 8, "model.dropout": 0.2, "optimizer.learning_rate": 0.01,
        "schedule.warmup_steps": 0, "ngram_order": 2, "train.steps": 40, "train.eval_every": 20, "sample.length": 10,
    },
    [Question("sample", ["--num_samples=2", "--prompt=the "]), Question("score", ["--text=the apple", "--text=pear"])],
)  # fmt: skip
IMAGE_CLASSIFICATION = Row(
    "image_classification", made.IMAGES,  # with all that draws random numbers and all that keeps a state
    lambda data: OFTEN | {
        "data.batch_size": 16, "data.eval_batch_size": 16, "data.image_size": 0, "data.validation_fraction": 0.2,
        "model.name": "resnet20_cifar", "model.options": "width=4", "augment.crop_padding": 1, "augment.flip": True, "augment.mixup": 0.2,
        "augment.affine_degrees": 0.0, "augment.affine_translate": 0.0, "augment.affine_scale": 0.0,
        "loss.label_smoothing": 0.1, "optimizer.name": "sgd", "optimizer.learning_rate": 0.05, "optimizer.momentum": 0.9,
        "optimizer.weight_decay": 1e-4, "optimizer.ema": 0.9, "schedule.warmup_steps": 3, "train.steps": 30,
        "train.eval_every": 10,
    },
    [Question("predict", ["--image={data}/0.png", "--image={data}/1.png", "--top=2"])],
    stop=signal.SIGINT,
    presets=lambda preset: {"data.image_size": preset["data.image_size"] or 28},
)  # fmt: skip
TEXT_CLASSIFICATION = Row(
    "text_classification", made.LABELLED,  # stops early; with noise of every kind, a moving average and word vectors
    lambda data: OFTEN | {
        "data.batch_size": 8, "data.eval_batch_size": 8, "data.buckets": 2, "tokenizer.min_count": 1,
        "tokenizer.lower": True, "data.max_length": 0, "model.cell": "gru", "model.hidden_size": 8, "model.embed_size": 6,
        "model.vectors": str(data / "vectors.txt"), "model.dropout": 0.1, "model.embed_dropout": 0.1,
        "model.word_dropout": 0.1, "model.recurrent_dropout": 0.1, "loss.label_smoothing": 0.1,
        "optimizer.learning_rate": 0.03, "optimizer.ema": 0.8, "schedule.name": "constant", "schedule.warmup_steps": 0,
        "train.steps": 60, "train.eval_every": 5, "train.checkpoint_every": 3, "train.stop_after": 3,
    },
    [Question("predict", [JSON, "--top=3"], "ripe apple\n\nwave the tide\n", lines=3)],
    presets=lambda preset: {"data.test_fraction": 0.0},
)  # fmt: skip
TAGGING = Row(
    "tagging", made.TAGGED,  # entities, with the random field
    lambda data: OFTEN | {
        "data.batch_size": 8, "data.eval_batch_size": 8, "data.buckets": 2, "data.max_word_length": 6,
        "words.min_count": 2, "model.cell": "gru", "model.hidden_size": 8, "model.embed_size": 6,
        "model.char_embed_size": 4, "model.char_size": 6, "model.crf": True, "model.dropout": 0.1,
        "model.embed_dropout": 0.1, "model.word_dropout": 0.1, "optimizer.learning_rate": 0.03, "optimizer.ema": 0.0,
        "schedule.warmup_steps": 2, "train.steps": 40, "train.eval_every": 10,
    },
    [Question("predict", [JSON], "Ada lives in Rome\n\nnear Oslo\n", lines=3)],
    stop=signal.SIGTERM,
)  # fmt: skip
TRANSLATION = Row(
    "translation", made.PAIRS,  # attention, input feeding, tied embeddings and noise of every kind
    lambda data: OFTEN | {
        "data.batch_size": 8, "data.eval_batch_size": 8, "data.buckets": 2, "tokenizer.kind": "word", "model.cell": "gru",
        "model.hidden_size": 16, "model.embed_size": 8, "model.attention": "luong_general", "model.input_feeding": True,
        "model.tie_embeddings": True, "model.dropout": 0.05, "model.recurrent_dropout": 0.05,
        "model.scheduled_sampling": 0.1, "loss.label_smoothing": 0.05, "criterion": "bleu",
        "optimizer.learning_rate": 0.03, "schedule.warmup_steps": 2, "train.steps": 40, "train.eval_every": 20,
    },
    [Question("predict", [JSON, "--n_best=2", "--beam=2"], "eins zwei\n\ndrei\n", lines=3)],
    presets=lambda preset: {"tokenizer.vocab_size": 28} if preset["tokenizer.kind"] == "subword" else {},
)  # fmt: skip
MUSIC = Row(
    "music", made_music.MUSIC,  # note by note, pieces longer than a window, transposed, with noise of every kind
    lambda data: OFTEN | {
        "data.batch_size": 8, "data.eval_batch_size": 8, "data.buckets": 1, "data.window": 10, "data.transpose": 3,
        "model.hidden_size": 12, "model.embed_size": 6, "model.note_size": 8, "model.reach": 3, "model.memory": 2, "model.dropout": 0.1,
        "model.input_dropout": 0.1, "model.recurrent_dropout": 0.1, "optimizer.learning_rate": 0.02, "optimizer.ema": 0.5,
        "schedule.warmup_steps": 0, "ngram_order": 2, "train.steps": 40, "train.eval_every": 20, "sample.length": 4,
    },
    [
        Question("sample", ["--melody={data}/tune.mid", "--output={data}/../song", "--seed=3"]),
        Question("score", ["--input={data}/tune.mid", "--input={data}/pieces.json"]),
    ],
)  # fmt: skip

FORECASTING = Row(
    "forecasting", made_series.SERIES,  # two networks side by side; covariates of every kind, missing values
    lambda data: OFTEN | {
        "data.batch_size": 8, "data.eval_batch_size": 8, "data.context": 14, "data.horizon": 4, "data.forks": 3,
        "model.hidden_size": 8, "model.width": 6, "model.output": "gaussian", "model.scaling": "standard", "model.highway": 7,
        "model.dropout": 0.1, "model.members": 2, "baselines.names": "naive,linear", "optimizer.learning_rate": 0.01,
        "schedule.warmup_steps": 2, "train.steps": 40, "train.eval_every": 10, "criterion": "crps",
        "data.validation_steps": 16, "data.test_steps": 12, "data.season": 7,
    },
    [Question("predict", ["--horizon=3"])],
    stop=signal.SIGTERM,
    presets=lambda preset: {
        "data.context": 40, "data.horizon": 4, "data.validation_steps": 16, "data.test_steps": 12,
    } | ({"data.past_fields": ""} if preset["data.stateful"] else {})
    | ({"data.forks": 10, "model.highway": 20} if preset["model.kind"] == "direct" else {}),
)  # fmt: skip
DNA = Row(
    "dna", made_dna.DNA,  # tags, read from both strands, with the other strand as augmentation and noise of every kind
    lambda data: OFTEN | {
        "data.batch_size": 8, "data.eval_batch_size": 8, "data.buckets": 2, "data.other_strand": 0.3, "model.cell": "gru",
        "model.hidden_size": 6, "model.filters": 5, "model.width": 5, "model.strands": "both", "model.dropout": 0.1,
        "model.feature_dropout": 0.1, "optimizer.learning_rate": 0.03, "optimizer.ema": 0.0, "schedule.warmup_steps": 2,
        "train.steps": 40, "train.eval_every": 10,
    },
    [Question("predict", [JSON], ">a\nACGTGCGCGC\n>b\nAATT\n", lines=2)],
    presets=lambda preset: {
        "task": "tag", "data.folds": 0, "data.repeats": "group", "data.delimiter": "", "data.header": True,
        "data.sequence_field": "sequence", "data.label_field": "label", "data.strand": "ignore", "model.members": 1,
    },
)  # fmt: skip
CAPTIONING = Row(
    "captioning", made_captions.CAPTIONS,  # batch statistics, two worker threads, augmentation and noise of every kind
    lambda data: OFTEN | {
        "data.batch_size": 8, "data.eval_batch_size": 8, "data.buckets": 2, "data.image_size": 16, "data.workers": 2,
        "augment.jitter": 0.1, "model.name": "resnet20_cifar", "model.options": "width=4", "model.layer": "layer1.0", "model.cell": "gru",
        "model.hidden_size": 8, "model.embed_size": 6, "model.dropout": 0.1, "model.word_dropout": 0.1, "loss.coverage": 0.1,
        "loss.label_smoothing": 0.05, "criterion": "cider", "optimizer.learning_rate": 0.02, "optimizer.ema": 0.8,
        "schedule.warmup_steps": 2, "train.steps": 24, "train.eval_every": 12,
    },
    [Question("predict", [JSON, "--image={data}/test0.png", "--image={data}/test1.png", "--n_best=2"], lines=2)],
    presets=lambda preset: {"tokenizer.min_count": 1, "model.weights": ""},
)  # fmt: skip
SPEECH = Row(
    "speech", made_speech.SPEECH,  # files decoded ahead, played faster and slower, masked, with noise of every kind and batch statistics
    lambda data: OFTEN | {
        "data.batch_size": 8, "data.eval_batch_size": 8, "data.buckets": 2, "data.rate": 1000, "data.workers": 2,
        "tokenizer.kind": "char", "features.window_ms": 32.0, "features.hop_ms": 16.0, "features.mels": 8, "features.low": 0.0,
        "features.high": 0.0, "model.strides": "2,2", "data.short_first": False,
        "augment.speed": 0.1, "augment.time_masks": 1, "augment.time_width": 3, "augment.mel_masks": 1, "augment.mel_width": 2,
        "model.cell": "gru", "model.hidden_size": 12, "model.filters": 8, "model.conv_width": 3, "model.input_dropout": 0.1,
        "model.dropout": 0.1, "criterion": "cer", "optimizer.learning_rate": 0.02, "optimizer.ema": 0.5,
        "schedule.warmup_steps": 0, "train.steps": 40, "train.eval_every": 20,
    },
    [Question("predict", [JSON, "--input={data}/train_0.wav", "--input={data}/train_1.flac", "--n_best=2"], lines=2)],
    presets=lambda preset: {
        "data.strings": 0, "data.leave_out": "", "tokenizer.vocab_size": 20, "data.rate": 4000, "data.workers": 0, "features.high": 0.0,
        "features.low": 0.0, "features.mels": 40, "features.window_ms": 48.0,
    },
)  # fmt: skip

VIDEO = Row(
    "video", made_video.VIDEO,  # two questions, in windows with carries, batch statistics and padded frames, noise of every kind
    lambda data: OFTEN | {
        "task": "classify", "data.batch_size": 8, "data.eval_batch_size": 4, "data.window": 5, "data.channels": 1, "data.workers": 2,
        "data.name": "", "augment.crop_padding": 1, "augment.jitter": 0.1, "augment.affine_degrees": 0.0, "augment.affine_scale": 0.0,
        "model.cnn": "resnet20_cifar", "model.options": "width=4", "model.layer": "layer1.0", "model.feature_size": 12,
        "model.hidden_size": 12, "model.dropout": 0.05, "loss.label_smoothing": 0.05, "optimizer.learning_rate": 0.006,
        "optimizer.ema": 0.5, "schedule.warmup_steps": 2, "train.steps": 30, "train.eval_every": 10, "baseline_videos": 20,
    },
    [
        Question("predict", [JSON, "--input={data}/test0.avi", "--input={data}/test1.avi"], lines=2),
    ],
    presets=lambda preset: {
        "data.name": "", "data.clip_frames": 8, "data.image_size": min(preset["data.image_size"], 32), "data.workers": 0,
    } | ({"data.context": 4, "data.label_field": "label"} if preset["task"] == "forecast" else {}),
)  # fmt: skip

LONG_MEMORY = Row(
    "long_memory", made.DRAWN,
    lambda data: OFTEN | {
        "task": "dyck", "data.length": 8, "data.test_length": 12, "data.validation_examples": 21, "data.test_examples": 16,
        "data.batch_size": 16, "data.eval_batch_size": 8, "model.hidden_size": 8, "model.cell": "lstm_chrono",
        "optimizer.name": "muon", "optimizer.learning_rate": 0.03, "schedule.warmup_steps": 2, "train.steps": 40, "train.eval_every": 10,
    },
    [],
    stop=signal.SIGTERM,
)  # fmt: skip
SEQUENTIAL_IMAGES = Row(
    "sequential_images", made.IMAGES,
    lambda data: OFTEN | {
        "data.batch_size": 16, "data.eval_batch_size": 16, "data.image_size": 0, "data.validation_fraction": 0.2, "data.order": "permuted",
        "model.hidden_size": 8, "model.cell": "cornn", "model.options": "dt=0.1", "loss.label_smoothing": 0.1, "model.window": 20,
        "optimizer.learning_rate": 0.02, "optimizer.ema": 0.9, "schedule.warmup_steps": 2, "train.steps": 30, "train.eval_every": 10,
    },
    [],
    stop=signal.SIGINT,
)  # fmt: skip
ROWS = {row.module: row for row in list(globals().values()) if isinstance(row, Row)}


def sources(row: Row, data: pathlib.Path) -> dict[str, Any]:
    """The settings that name a row's data."""
    return {name: str(value) for name, value in row.data.sources(data).items()}


class Runs:
    """Runs of the rows, each made when it is first asked for, and then only read."""

    def __init__(self, server: Server, folder: pathlib.Path):
        self._server, self._folder = server, folder
        self._said: dict[str, str] = {}
        self._evaluations: dict[tuple[str, str], Run] = {}

    def data(self, row: Row) -> pathlib.Path:
        """The folder of a row's data."""
        folder = self._folder / row.module / "data"
        if not folder.exists():
            folder.mkdir(parents=True)
            row.data.write(folder)
        return folder

    def settings(self, row: Row, data: pathlib.Path | None = None) -> dict[str, Any]:
        """The settings of a row; with the data in another folder, where one is given."""
        data = data or self.data(row)
        return {**row.settings(data), **sources(row, data)}

    def flags(self, row: Row, data: pathlib.Path | None = None, **changes: Any) -> list[str]:
        """The same as flags, with changes, in whose names __ stands for the dot."""
        return config_flags(self.settings(row, data), changes)

    def start(self, row: Row, *argv: str, **options: Any) -> Run:
        """Starts a process of an experiment."""
        return self._server.start(*argv, experiment=row.module, **options)

    def finished(self, row: Row) -> pathlib.Path:
        """The work directory of a run that was never stopped; not to be changed."""
        workdir = self._folder / row.module / "finished"
        if row.module not in self._said:
            run = self.start(row, f"--workdir={workdir}", *self.flags(row), curves=True).wait(300)
            assert run.status == 0, run.out + run.err
            self._said[row.module] = run.out
        return workdir

    def another(self, row: Row) -> tuple[Row, pathlib.Path]:
        """A row of another experiment and its finished run: one that is there already, where there is one."""
        others = [other for other in ROWS.values() if other is not row]
        other = next((other for other in others if other.module in self._said), others[0])
        return other, self.finished(other)

    def evaluated(self, row: Row, split: str = "validation") -> tuple[pathlib.Path, Run]:
        """A copy of the finished run's work directory in which a part was evaluated, and that process; not to be changed."""
        workdir = self._folder / row.module / "evaluated"
        if not workdir.exists():
            shutil.copytree(self.finished(row), workdir)
        if (row.module, split) not in self._evaluations:
            run = self.start(row, f"--workdir={workdir}", "--mode=evaluate", f"--split={split}").wait(300)
            assert run.status == 0 and not run.err, run.out + run.err
            self._evaluations[row.module, split] = run
        return workdir, self._evaluations[row.module, split]

    def said(self, row: Row) -> str:
        """What that run printed."""
        self.finished(row)
        return self._said[row.module]

    def stopped(self, row: Row, copy: pathlib.Path) -> pathlib.Path:
        """A copy of the work directory of a run that was stopped at a random moment after about half of its steps."""
        workdir, last = self._folder / row.module / "stopped", sealed(self.finished(row))[-1]
        if not workdir.exists():
            run = self.start(row, f"--workdir={workdir}", *self.flags(row), slow_steps=0.1)
            run.wait_for(lambda: sealed(workdir) and sealed(workdir)[-1] >= last // 2, 300)
            time.sleep(random.uniform(0, 0.2))
            run.signal(row.stop)
            killed = row.stop == signal.SIGKILL
            assert run.wait(300).status == (-row.stop if killed else 128 + row.stop), run.out + run.err
            assert killed or "stopped; the same command resumes from here" in run.out
            assert sealed(workdir)[-1] < last
        return shutil.copytree(workdir, copy)
