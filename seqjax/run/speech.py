"""Parts of experiments/speech.py: transcript labels and their fit to a sound, loss, error rates, baselines, output."""

import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.data.readers.morse import decode_by_threshold
from seqjax.data.readers.sounds import CHANNELS, find_sounds, read_sounds
from seqjax.data.records import Faults, Records
from seqjax.data.transforms import sounds
from seqjax.data.transforms.sounds import NORMALIZE, FrontEnd
from seqjax.errors import UserError, printable
from seqjax.run import fields
from seqjax.run.experiment import Flag, Options
from seqjax.run.language_models import read_fusion
from seqjax.run.parts import print_json
from seqjax.run.scores import accuracy
from seqjax.run.settings import Check, ConfigDict, Field, above, at_least, one_of, within
from seqjax.text import UNK
from seqjax.training import losses, metrics
from seqjax.training.ctc import ctc_nats, steps_needed
from seqjax.training.metrics.speech import error_rates

FEW = 5  # sounds that a line names
SHOWN = 4  # sounds of a picture


def _strides(text: str) -> bool:
    return all(part.strip().isdecimal() and int(part) > 0 for part in text.split(","))


STRIDES = Check("comma-separated whole numbers of at least 1", _strides)


def strides(config: ConfigDict) -> tuple[int, ...]:
    """model.strides as numbers.

    Example:
      >>> strides(ConfigDict({"model": {"strides": "2,2"}}))
      (2, 2)
    """
    return tuple(int(part) for part in config.model.strides.split(","))


def samples_of_step(config: ConfigDict) -> int:
    """The number of audio samples per step of the recogniser."""
    return front_end(config).hop * math.prod(strides(config))


def front_end(config: ConfigDict) -> FrontEnd:
    """The front end that the settings under `features` describe.

    Example:
      >>> features = {"window_ms": 25.0, "hop_ms": 10.0, "mels": 40, "low": 0.0, "high": 0.0, "normalize": "utterance", "exponent": 0.0}
      >>> front_end(ConfigDict({"data": {"rate": 8000}, "features": features})).window
      200
    """
    f, rate = config.features, config.data.rate
    window, hop = round(f.window_ms * rate / 1000), round(f.hop_ms * rate / 1000)
    if hop < 1 or window < hop:
        raise UserError(
            f"features.hop_ms={f.hop_ms} is {hop} samples and features.window_ms={f.window_ms} {window}; the hop must be at least one "
            "sample, and no longer than the window"
        )
    front = FrontEnd(rate, window, hop, f.mels, f.low, f.high, f.normalize, exponent=f.exponent)
    front.check()
    sounds.mel_filters(rate, front.fft, f.mels, f.low, f.high)  # raises for invalid settings
    return front


class Labels(NamedTuple):
    """Transcripts as labels, and the steps that they need."""

    ids: list[np.ndarray]  # of each, from 1
    needed: np.ndarray  # the fewest steps that can hold them
    steps: np.ndarray  # that the sound has

    @property
    def fits(self) -> np.ndarray:
        """Whether the sound is long enough for its labels."""
        return self.needed <= self.steps

    def take(self, places: np.ndarray) -> "Labels":
        """Selects some of the sounds."""
        return Labels([self.ids[i] for i in places], self.needed[places], self.steps[places])


@functools.lru_cache(maxsize=4)  # each part is asked for several times
def labels_of(records: Records, tokenizer: Any, samples_of_step: int) -> Labels:
    """The labels of the transcripts of a part.

    Args:
      records: with "sound" and "transcript".
      tokenizer: of the transcripts.
      samples_of_step: of the recogniser.
    """
    ids = [np.asarray(tokenizer.encode(text), np.int32) for text in records["transcript"]]
    steps = np.array([len(sound) // samples_of_step for sound in records["sound"]], np.int64)
    return Labels(ids, np.array([steps_needed(each) for each in ids], np.int64), steps)


def named(records: Records, places: Sequence[Any] | np.ndarray) -> str:
    """A few sounds, by their file or place.

    Example:
      >>> from seqjax.data.records import Places
      >>> named(Records({"file": ("a.wav", "b.wav")}, Places.of("all.tsv line", [2, 3])), [1])
      'b.wav (all.tsv line 3)'
    """
    file = (lambda i: f"{records['file'][i]} ({records.places.at(i)})") if "file" in records else records.places.at
    return ", ".join(map(file, places[:FEW])) + (f" and {len(places) - FEW:,} more" if len(places) > FEW else "")


def trainable(records: Records, labels: Labels, rate: int, most_seconds: float, say: Callable[[str], None] | None) -> np.ndarray:
    """Which sounds can be trained on: long enough for their transcript, and not too long.

    Args:
      records, labels: of the training part.
      rate: samples per second.
      most_seconds: longer sounds are left out; 0 takes all.
      say: gets a line for each kind of sound that is left out.

    Raises:
      UserError: none is left.
    """
    short = np.array([not most_seconds or len(sound) <= most_seconds * rate for sound in records["sound"]])
    if say and not short.all():
        say(f"left out of training: {(~short).sum():,} of {len(records):,} sounds, longer than data.max_seconds={most_seconds}")
    if say and not labels.fits.all():
        many = f"{(~labels.fits).sum():,} of {len(records):,} sounds, too short for their transcripts"
        say(f"left out of training: {many}: {named(records, np.flatnonzero(~labels.fits))}")
    keep = np.flatnonzero(short & labels.fits)
    if not len(keep):
        why = "no training sound can hold its transcript within data.max_seconds"
        raise UserError(f"{why}; give longer sounds, or use smaller model.strides")
    return keep


def faults_of(records: Records, labels: Labels, rate: int, say: Callable[[str], None], *, strict: bool) -> None:
    """Says which transcripts of a part cannot be recognised: with characters never seen in training, or too long for their sound.

    Args:
      records, labels: of the part.
      rate: samples per second.
      say: gets the lines.
      strict: whether they are errors.

    Raises:
      UserError: with every one of them, where they are errors.
    """
    unknown = np.array([UNK in ids for ids in labels.ids])
    if strict:
        faults = Faults("transcripts that cannot be recognised")
        for place in np.flatnonzero(unknown):
            faults.add(f"{named(records, [place])} has a label that the training part lacks: {records['transcript'][place]!r}")
        for place in np.flatnonzero(~labels.fits):
            seconds = len(records["sound"][place]) / rate
            has = f"but its {seconds:.2f} s have {labels.steps[place]}"
            needs = f"needs {labels.needed[place]} steps for {records['transcript'][place]!r}"
            faults.add(f"{named(records, [place])} {needs}, {has}")
        faults.raise_any()
    if unknown.any():
        say(f"{unknown.sum():,} transcripts have labels that the training part lacks: {named(records, np.flatnonzero(unknown))}")
    if not labels.fits.all():
        where = named(records, np.flatnonzero(~labels.fits))
        say(f"{(~labels.fits).sum():,} sounds are too short for their transcripts and are not in the loss: {where}")


def speech_loss(model: Any, front: FrontEnd, augment: ConfigDict) -> Callable[..., Any]:
    """The loss of a recogniser: nats for each label, over the sounds that can hold theirs.

    Args:
      model: a Recogniser.
      front: the front end.
      augment: the settings of that name: speed, time_masks, time_width, mel_masks, mel_width.
    """

    def loss(params, statistics, carry, batch, rng):
        samples, lengths = sounds.zero_padding(sounds.as_float(batch.samples), batch.lengths), batch.lengths
        variables, noise = {"params": params, **dict(statistics)}, {}
        if rng is None:
            scores, steps = model.apply(variables, *front(samples, lengths))
        else:
            speed_key, mask_key, dropout = jax.random.split(rng, 3)
            if augment.speed:
                samples, lengths = sounds.change_speed(speed_key, samples, lengths, augment.speed)
            features, frames = front(samples, lengths)
            if augment.time_masks or augment.mel_masks:
                widths = {name: augment[name] for name in ("time_masks", "time_width", "mel_masks", "mel_width")}
                features = sounds.mask_features(mask_key, features, frames, **widths)
            noise = {"train": True, "rngs": {"dropout": dropout}, "mutable": ["batch_stats"]}
            (scores, steps), updated = model.apply(variables, features, frames, **noise)
            statistics = {name: updated[name] for name in statistics}
        fits = batch.needed <= steps
        nats = ctc_nats(scores, steps, batch.labels, jnp.where(fits, batch.label_lengths, 0))
        count = jnp.maximum(batch.label_lengths, 1)  # silence is one answer
        sums = losses.Sums(jnp.sum(jnp.where(fits, nats, 0)), jnp.sum(jnp.where(fits, count, 0), dtype=jnp.float32))
        return carry, statistics, sums

    return loss


def scores_of(outputs: Sequence[str], transcripts: Sequence[str]) -> dict[str, Any]:
    """Error rates, and the fraction of exactly correct texts with its interval.

    Example:
      >>> scores_of(["7 3", "1"], ["7 3", "2"])["wer"]
      0.3333333333333333
    """
    found = error_rates(outputs, transcripts)
    right = accuracy(np.array(outputs) == np.array(transcripts))["accuracy"]
    return {"wer": found.wer, "cer": found.cer, "exact": right}


def baselines_of(train: Records, part: Records, rate: int, *, morse: bool) -> dict[str, dict[str, Any]]:
    """The most frequent transcript of training, always; of Morse code, a decoder by thresholds.

    Args:
      train, part: of the data.
      rate: samples per second.
      morse: whether the sounds are Morse code.
    """
    most = Counter(train["transcript"]).most_common(1)[0][0]
    found = {f"always {printable(most)!r}": scores_of([most] * len(part), part["transcript"])}
    if morse:
        outputs = [decode_by_threshold(sound, rate) for sound in part["sound"]]
        found["threshold decoder"] = scores_of(outputs, part["transcript"])
    return found


def print_heard(path: str, found: Sequence[Any], words: Sequence[Any], seconds: float, format: str) -> None:
    """Prints the transcript of a sound: as a line of JSON, or as the text, the times of its words, and alternatives with scores.

    Args:
      path: of the sound.
      found: hypotheses, the best first.
      words: of the best, with their times.
      seconds: that the sound lasts.
      format: "jsonl" or "text".
    """
    if format == "jsonl":
        times = [{"word": word.text, "start": round(word.start, 3), "end": round(word.end, 3)} for word in words]
        readings = [{"text": each.text, "score": round(each.score, 4)} for each in found]
        print_json({"sound": path, "seconds": round(seconds, 3), "text": found[0].text, "words": times, "n_best": readings})
        return
    print(printable(f"{path}: {found[0].text}"))
    for word in words:
        print(printable(f"  {word.start:6.2f} s to {word.end:6.2f} s  {word.text}"))
    for place, each in enumerate(found if len(found) > 1 else (), 1):
        print(printable(f"  {place}  {each.score:9.4f}  {each.text}"))


def add_error_rates(found: dict[str, float], outputs: Sequence[str], transcripts: Sequence[str]) -> dict[str, float]:
    """The metrics of an evaluation in training, with error rates.

    Example:
      >>> add_error_rates({"loss": 0.5}, ["a b"], ["a c"])
      {'loss': 0.5, 'wer': 0.5, 'cer': 0.3333333333333333}
    """
    rates = error_rates(outputs, transcripts)
    return found | {"wer": rates.wer, "cer": rates.cer}


METRIC = metrics.token_loss()


def search_flags() -> dict[str, Flag]:
    """Flags of prefix beam search, with or without a language model, and --strict.

    Example:
      >>> list(search_flags())
      ['beam', 'lm', 'lm_order', 'lm_weight', 'lm_bonus', 'strict']
    """
    both = ("evaluate", "predict")
    return {
        "beam": Flag(8, "beam size: hypotheses kept at each step; 1 takes the most likely path.", both, at_least(1)),
        "lm": Flag("", "a language model: a text file, one text per line, for an n-gram, or a run of language_model.", both),
        "lm_order": Flag(3, "order of the n-gram model of a text file.", both, at_least(1)),
        "lm_weight": Flag(0.5, "weight of the language model.", both, at_least(0)),
        "lm_bonus": Flag(0.0, "bonus per label in nats, against the language model's bias to short texts.", both),
        "strict": Flag(False, "fail on transcripts that cannot be recognised.", ("evaluate",)),
    }


def fusion(reader: Any, options: Options, file: str) -> Any:
    """The language model that --lm names, None for none.

    Args:
      reader: a SpeechReader.
      options: with the flags of `search_flags`.
      file: of the experiment, beside which `language_model.py` is.
    """
    if not options.lm:
        return None
    how = {"order": options.lm_order, "weight": options.lm_weight, "bonus": options.lm_bonus}
    return read_fusion(options.lm, reader.tokenizer, file, **how)


def shown(transcripts: Sequence[str], outputs: Sequence[str]) -> dict[str, list[int]]:
    """Which sounds a picture shows: the first ones, and those with the most errors, if any.

    Example:
      >>> shown(["a", "b c"], ["a", "b"])
      {'heard': [0, 1], 'worst': [1]}
    """
    errors = [error_rates([output], [text]).cer if text.strip() else 0.0 for text, output in zip(transcripts, outputs)]
    worst = [i for i in np.argsort(-np.array(errors), kind="stable")[:SHOWN].tolist() if errors[i] > 0]
    return {"heard": [*range(len(transcripts))][:SHOWN]} | ({"worst": worst} if worst else {})


def prediction_flags() -> dict[str, Flag]:
    """Flags of the mode `predict`; it gets --input as (paths, sounds).

    Example:
      >>> list(prediction_flags())
      ['input', 'format', 'n_best', 'picture']
    """
    return {
        "input": Flag([], "a sound file or a folder of them; may be repeated.", ("predict",), read=_read_inputs),
        "format": Flag("text", "readable text, or one JSON line per sound.", ("predict",), one_of("text", "jsonl")),
        "n_best": Flag(1, "number of hypotheses per sound, at most the beam size.", ("predict",), at_least(1)),
        "picture": Flag("", "plot the first sounds to this PNG file.", ("predict",)),
    }


def _read_inputs(paths: list[str], config: ConfigDict) -> Any:
    files = [file for path in paths for file in find_sounds(path)]
    return (files, read_sounds(files, "--input", config.data.rate, config.data.channels)) if files else ()


# Fields.


def sound_files() -> dict[str, Field]:
    """How sound files and their transcripts are found and read.

    Example:
      >>> sound_files()["data.rate"].default
      16000
    """
    return {
        "data.audio_field": Field("", "Manifest field with the sound files; empty: audio, path, file, ...", when=fields.FILE),
        "data.text_field": Field("", "Manifest field with the transcripts; empty: text, sentence, ...", when=fields.FILE),
        **fields.encoding(),
        "data.rate": Field(16000, "Sample rate in Hz; all sounds are resampled to it.", at_least(100)),
        "data.channels": Field("refuse", "What to do with sounds that have several channels.", one_of(*CHANNELS), when=fields.FILE),
        "data.workers": Field(0, "Threads that decode files in advance; 0 keeps all sounds in memory.", at_least(0), when=fields.FILE),
    }


def made_sounds() -> dict[str, Field]:
    """How Morse code is keyed, and how spoken digits are split and joined.

    Example:
      >>> list(made_sounds())
      ['data.leave_out', 'data.strings', 'data.snr']
    """
    digits = fields.FILE_OR_TFDS
    strings = "Spoken digits: number of digit strings to make for training; 0: single digits."
    return {
        "data.leave_out": Field("", "Spoken digits: the speaker to test on; empty: the official split.", when=digits),
        "data.strings": Field(0, strings, at_least(0), when=digits),
        "data.snr": Field(-6.0, "Morse: SNR in 2500 Hz, in dB.", within(-40.0, 60.0), when=("data.source", ("embedded",))),
    }


def features() -> dict[str, Field]:
    """The front end; see `seqjax.data.transforms.sounds.FrontEnd`.

    Example:
      >>> features()["features.hop_ms"].default
      10.0
    """
    return {
        "features.window_ms": Field(25.0, "Length of a frame, in milliseconds.", above(0)),
        "features.hop_ms": Field(10.0, "Hop between frames, in milliseconds.", above(0)),
        "features.mels": Field(40, "Number of mel filters, F.", at_least(1)),
        "features.low": Field(0.0, "Lowest frequency of the mel filters, in Hz.", at_least(0)),
        "features.high": Field(0.0, "Highest frequency of the mel filters, in Hz; 0: half the sample rate.", at_least(0)),
        "features.exponent": Field(
            0.0, "Raise energies to this power instead of taking the logarithm; 0: logarithm; about 0.5 for noisy sounds.", within(0.0, 1.0)
        ),
        "features.normalize": Field(
            "utterance",
            "utterance: per feature over all frames; level: the same for all features, so loud bands stay loud; running: over past frames.",
            one_of(*NORMALIZE),
        ),
    }


def augmentation() -> dict[str, Field]:
    """Random augmentation of training sounds, on the device.

    Example:
      >>> augmentation()["augment.speed"].default
      0.0
    """
    return {
        "augment.speed": Field(0.0, "Maximum random change of the speed of training sounds, as a fraction.", within(0.0, 0.9)),
        "augment.time_masks": Field(0, "SpecAugment: number of time masks.", at_least(0)),
        "augment.time_width": Field(20, "SpecAugment: maximum frames per time mask, at most a fifth of the sound.", at_least(1)),
        "augment.mel_masks": Field(0, "SpecAugment: number of frequency masks.", at_least(0)),
        "augment.mel_width": Field(8, "SpecAugment: maximum mel features per frequency mask.", at_least(1)),
    }
