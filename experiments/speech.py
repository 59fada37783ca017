r"""Speech to text without alignments: Morse code in noise, spoken digits, your own recordings.

Papers: Graves, Fernandez, Gomez and Schmidhuber 2006, "Connectionist Temporal Classification"; Amodei et al. 2015,
"Deep Speech 2" (arXiv:1512.02595); Park et al. 2019, "SpecAugment" (arXiv:1904.08779).

    python -m experiments.speech --workdir=/tmp/morse
        starts to learn Morse code in noise: minutes, but not yet as good as a threshold decoder (docs/speech.md)
    python -m experiments.speech --workdir=/tmp/morse --mode=evaluate --split=test
        word and character error rates; heard_test.png and predictions_test.jsonl in the work directory
    python -m experiments.speech --workdir=/tmp/digits --config=fsdd_strings --config.data.path=recordings.tar.gz
    python -m experiments.speech --workdir=/tmp/digits --mode=predict --input=number.wav --n_best=3 --picture=number.png
"""

import pathlib
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from seqjax import run
from seqjax.data.pipeline.ahead import Ahead
from seqjax.data.pipeline.buckets import choose_boundaries
from seqjax.data.pipeline.speech import collate_speech
from seqjax.data.records import Dataset, Records
from seqjax.data.speech import SOURCES, load_speech
from seqjax.decoding.speech import SpeechReader
from seqjax.diagnostics.speech import plot_heard
from seqjax.errors import UserError
from seqjax.models.speech import Recogniser
from seqjax.run import Field, at_least, fields, recipe, speech
from seqjax.text import fit_tokenizer, tokenizer_from_dict

FIELDS = {
    **fields.seed("the order of the sounds, the augmentation and the dropout"),
    **fields.source(
        "sounds",
        SOURCES,
        name="morse",
        names="Embedded (morse) or TFDS dataset (spoken_digit), or a name for your files.",
        path="Manifest (.jsonl, .csv, .tsv), folder in LibriSpeech layout, or spoken digits (folder, .tar.gz).",
        held_out="training sounds to hold out if there is no validation set",
    ),
    **fields.split_seed(),
    **speech.sound_files(),
    "data.lower": Field(False, "Lowercase the transcripts."),
    **speech.made_sounds(),
    "data.max_seconds": Field(0.0, "Longer training sounds are dropped; 0 keeps all.", at_least(0)),
    **fields.batches("sounds", 32, 64),
    "data.buckets": Field(4, "Maximum number of padded lengths; each is compiled once.", at_least(1)),
    "data.short_first": Field(False, "Order the training sounds from short to long in the first epoch."),
    **fields.tokenizer(("char", "word", "subword"), "char", max_size=False),
    **speech.features(),
    **speech.augmentation(),
    "model.filters": Field(64, "Channels of each convolution.", at_least(1)),
    "model.conv_width": Field(5, "Kernel size of each convolution, in steps.", at_least(1)),
    "model.strides": Field("2,2", "Strides of the convolutions over time, comma-separated.", speech.STRIDES),
    **{name: field for name, field in fields.recurrent(128, 1, cell="gru").items() if name != "model.embed_size"},
    "model.bidirectional": Field(True, "Read in both directions; a unidirectional model can read live sound."),
    **fields.dropouts(
        input_dropout=(0.0, "after the convolutions"),
        dropout=(0.0, "between layers and on the outputs"),
    ),
    **fields.criterion("wer", "cer", "loss"),
    **recipe.RECURRENT_FIELDS,
}

_DIGITS = {
    "data.source": "file", "data.rate": 8000, "tokenizer.kind": "word", "augment.speed": 0.1, "augment.time_masks": 1,
    "augment.mel_masks": 1, "model.dropout": 0.2, "optimizer.learning_rate": 3e-3, "optimizer.ema": 0.995,
    "schedule.warmup_steps": 100, "train.log_every": 50,
}  # fmt: skip

PRESETS = {
    # Morse code at -6 dB in 2500 Hz, where a threshold decoder starts to fail: nothing to download.
    "morse": {
        "data.rate": 4000, "data.batch_size": 16, "data.eval_batch_size": 50,
        "features.window_ms": 48.0, "features.mels": 12, "features.low": 400.0, "features.high": 800.0,
        "features.exponent": 0.25, "features.normalize": "level", "augment.speed": 0.06, "model.filters": 192,
        "model.conv_width": 7, "model.strides": "3,3", "model.input_dropout": 0.15, "model.dropout": 0.25,
        "criterion": "cer", "optimizer.learning_rate": 5e-3, "optimizer.ema": 0.998, "schedule.warmup_steps": 50,
        "train.epochs": 22.0, "train.log_every": 100, "train.eval_every": 750, "train.checkpoint_every": 750,
    },
    # The Free Spoken Digit Dataset, a digit each, official split: set data.path.
    "fsdd": _DIGITS | {"train.epochs": 40.0, "train.eval_every": 380, "train.checkpoint_every": 380},
    # Strings of 3 to 7 of its digits, with pauses and noise.
    "fsdd_strings": _DIGITS | {
        "data.strings": 3000, "data.batch_size": 16, "train.epochs": 16.0, "train.eval_every": 376,
        "train.checkpoint_every": 376,
    },
    # LibriSpeech, 100 hours: set data.path (train-clean-100), validation_path (dev-clean), test_path. NOT YET RUN.
    "librispeech": {
        "data.source": "file", "data.workers": 8, "data.lower": True, "data.max_seconds": 17.0, "data.buckets": 8,
        "tokenizer.kind": "subword", "tokenizer.vocab_size": 500, "features.mels": 80, "augment.speed": 0.1,
        "augment.time_masks": 2, "augment.time_width": 40, "augment.mel_masks": 2, "augment.mel_width": 15,
        "model.filters": 256, "model.cell": "lstm", "model.hidden_size": 512, "model.num_layers": 5,
        "model.dtype": "bfloat16", "model.dropout": 0.3, "optimizer.learning_rate": 1e-3, "optimizer.ema": 0.999,
        "schedule.warmup_steps": 2000, "train.epochs": 60.0, "train.eval_every": 892, "train.checkpoint_every": 892,
    },
}  # fmt: skip


class Spec(NamedTuple):
    """What the model must know of the sounds."""

    tokenizer: dict[str, Any]
    boundaries: list[int]  # the buckets' lengths, in samples
    most_labels: int  # of a training sound


def load(config: ConfigDict) -> Dataset:
    """Reads the sounds that a config names."""
    return run.with_settings(load_speech, config.data)


def labels_of(config: ConfigDict, tokenizer: Any, part: Records) -> speech.Labels:
    """The labels of a part, and the steps that its sounds have."""
    return speech.labels_of(part, tokenizer, speech.front_end(config).hop * int(np.prod(speech.strides(config))))


def prepare(config: ConfigDict, data: Dataset) -> Spec:
    """Fits the tokenizer and chooses the buckets, on the training part."""
    part = data.parts["train"]
    tokenizer = run.with_settings(fit_tokenizer, config.tokenizer, texts=part["transcript"])
    labels = labels_of(config, tokenizer, part)
    keep = speech.trainable(part, labels, config.data.rate, config.data.max_seconds, None)
    boundaries = choose_boundaries([len(part["sound"][i]) for i in keep], config.data.buckets)
    return Spec(tokenizer.to_dict(), list(boundaries), max(len(labels.ids[i]) for i in keep))


def build(config: ConfigDict, spec: Spec) -> run.Model:
    """Log mel features, convolutions that shorten time, recurrent layers, and a softmax over labels and blank."""
    m, front, tokenizer = config.model, speech.front_end(config), tokenizer_from_dict(spec.tokenizer)
    cell, how = run.make_stack(config, input_dropout=0.0), {"width": m.conv_width, "dtype": run.compute_dtype(config)}
    model = run.with_settings(Recogniser, m, tokenizer.vocab_size, cell, strides=speech.strides(config), **how)
    first = np.zeros((1, model.shortening, front.mels), np.float32), np.array([model.shortening])
    sizes = {"batch_size": config.data.eval_batch_size, "boundaries": spec.boundaries, "workers": config.data.workers}
    tools = SpeechReader(model, front, tokenizer, **sizes)
    loss = speech.speech_loss(model, front, config.augment)
    return run.Model(model, lambda key: model.init(key, *first), loss, speech.METRIC, tools=tools)


def batches(config: ConfigDict, spec: Spec, part: Records, training: bool) -> Any:
    """Sounds of about the same length together."""
    labels, per_step = labels_of(config, tokenizer_from_dict(spec.tokenizer), part), speech.samples_of_step(config)
    if training:
        keep = speech.trainable(part, labels, config.data.rate, config.data.max_seconds, print)
        part, labels = part.take(keep), labels.take(keep)
    most = spec.most_labels if training else max([spec.most_labels, *map(len, labels.ids)])
    rooms, workers = lambda samples: min(most, max(samples // per_step, 1)), 0 if training else config.data.workers
    collate = collate_speech(part["sound"], labels.ids, labels.needed, rooms, workers=workers)
    lengths, short_first = [*map(len, part["sound"])], config.data.short_first
    made = run.bucketed(config, lengths, collate, spec.boundaries, training, short_first=short_first)
    return Ahead(made, config.data.workers) if training and config.data.workers else made


def validate(trained: run.Trained, part: Records, found: dict[str, float]) -> dict[str, float]:
    """Error rates of greedy decoding too."""
    reader = trained.model.tools
    outputs = reader.greedy(reader.log_probs(trained.variables, part["sound"]))
    return speech.add_error_rates(found, outputs, part["transcript"])


def sample(trained: run.Trained, data: Dataset) -> str:
    """Three validation sounds, different ones at each evaluation."""
    part, reader = data.parts["validation"], trained.model.tools
    places = [(3 * trained.step + i) % len(part) for i in range(min(3, len(part)))]
    outputs = reader.greedy(reader.log_probs(trained.variables, [part["sound"][i] for i in places]))
    return "\n".join(f"{part['transcript'][i]} -> {output}" for i, output in zip(places, outputs))


def describe(config: ConfigDict, spec: Spec, data: Dataset, model: run.Model) -> list[str]:
    """Lines on the labels and the length of a step."""
    seconds = sum(len(sound) for sound in data.parts["train"]["sound"]) / config.data.rate
    step = f"a step of the model is {1000 * model.tools.seconds_of_step:g} ms"
    return [f"{seconds / 3600:.2f} hours of training sounds, {model.tools.tokenizer.vocab_size - 4} labels; {step}"]


def baselines(config: ConfigDict, data: Dataset, split: str) -> dict[str, dict[str, Any]]:
    """The most frequent transcript; for Morse code, a threshold decoder."""
    morse = config.data.source == "embedded"
    return speech.baselines_of(data.parts["train"], data.parts[split], config.data.rate, morse=morse)


def evaluate(trained: run.Trained, data: Dataset, split: str, options: run.Options) -> run.Report:
    """Loss, error rates and the fraction of exactly correct texts, with the baselines."""
    part, reader, notes = data.parts[split], trained.model.tools, []
    labels = labels_of(trained.config, reader.tokenizer, part)
    speech.faults_of(part, labels, trained.config.data.rate, notes.append, strict=options.strict)
    scored = reader.log_probs(trained.variables, part["sound"])
    model = speech.fusion(reader, options, __file__)
    found = [row[0] for row in reader.search(scored, width=options.beam, fusion=model)]
    outputs = [each.text for each in found]
    scores = {"model": run.measure(EXPERIMENT, trained, part) | speech.scores_of(outputs, part["transcript"])}
    rows = (
        {"sound": part.places.at(i), "transcript": text, "output": output}
        for i, (text, output) in enumerate(zip(part["transcript"], outputs))
    )
    return run.Report(scores | baselines(trained.config, data, split), rows, notes, answers=(scored, found))


def pictures(trained: run.Trained, data: Dataset, split: str, report: run.Report, folder: Any) -> Any:
    """Plots spectrogram, posterior and alignment of the first sounds and of the worst ones."""
    (scored, found), part = report.answers, data.parts[split]
    for name, places in speech.shown(part["transcript"], [each.text for each in found]).items():
        rows = [(part["sound"][i], scored[i], found[i], part["transcript"][i]) for i in places]
        yield plot_heard(folder / f"{name}_{split}.png", trained.model.tools, rows)


def predict(trained: run.Trained, options: run.Options) -> None:
    """Prints the transcript of each --input, with the times of the words."""
    if not options.input:
        raise UserError("--mode=predict needs sounds: give --input=FILE once per sound, or --input=FOLDER")
    if options.n_best > options.beam:
        raise UserError(f"--n_best={options.n_best} is more than --beam={options.beam}; use a wider beam")
    reader, paths, sounds = trained.model.tools, *options.input
    scored = reader.log_probs(trained.variables, sounds)
    model = speech.fusion(reader, options, __file__)
    found = reader.search(scored, width=options.beam, n_best=options.n_best, fusion=model)
    for path, sound, rows, readings in zip(paths, sounds, scored, found):
        words = reader.words(rows, readings[0].ids)
        speech.print_heard(path, readings, words, len(sound) / trained.config.data.rate, options.format)
    if options.picture:
        rows = [(sound, row, readings[0], "") for sound, row, readings in zip(sounds, scored, found)]
        trained.report(str(plot_heard(pathlib.Path(options.picture), reader, rows[: speech.SHOWN])))


EXPERIMENT = run.Experiment.of(
    __name__,
    preset="morse",
    records="sounds",
    unit="labels",
    criterion=lambda config: config.criterion,
    modes={"predict": predict},
    flags=speech.search_flags() | speech.prediction_flags(),
)

if __name__ == "__main__":
    run.main(EXPERIMENT)
