"""The entry point for speech: Morse code in noise, single or joined spoken digits, and sound files with transcripts."""

import pathlib

import numpy as np

from seqjax.data.checks import check_fractions, check_whole
from seqjax.data.hold_out import hold_out
from seqjax.data.readers import morse
from seqjax.data.readers.manifests import read_manifest
from seqjax.data.readers.sounds import read_sounds
from seqjax.data.readers.spoken_digits import is_digits, join_digits, official_split, read_digits, read_tfds_digits
from seqjax.data.records import PARTS, Dataset, Faults, Places, Records, make_dataset
from seqjax.data.sources import (
    SOURCES,
    Setting,
    check_name,
    check_source,
    file_set_name,
    part_files,
    path_settings,
    refuse_given,
)
from seqjax.errors import UserError

__all__ = ["SOURCES", "load_speech"]
EMBEDDED = ("morse",)
MORSE_SIZES, MORSE_SEEDS = {"train": 6000, "validation": 300, "test": 500}, {"train": 0, "validation": 1, "test": 2}
PRACTICE = 3  # characters of every other training message, at most
STRINGS, STRING_SEEDS = {"validation": 300, "test": 500}, {"train": 0, "validation": 1, "test": 2}


def load_speech(
    source: str,
    *,
    name: str = "",
    path: str = "",
    validation_path: str = "",
    test_path: str = "",
    data_dir: str = "",
    audio_field: str = "",
    text_field: str = "",
    encoding: str = "utf-8",
    rate: int = 16000,
    channels: str = "refuse",
    workers: int = 0,
    lower: bool = False,
    leave_out: str = "",
    strings: int = 0,
    snr: float = -6.0,
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> Dataset:
    r"""Sounds with transcripts, in training, validation and test parts.

    The embedded set is "morse": 6,000, 300 and 500 messages in Morse code, each with its own speed and pitch, in white noise (`morse.key`).
    Every other training message has at most three characters.

    Args:
      source: "embedded", "tfds" (`spoken_digit`) or "file".
      name: embedded: "morse". tfds: the set. file: what to call the set; "" is the name of its file.
      path: file: a manifest or a folder in LibriSpeech's layout (`read_manifest`), or the folder or the archive of the Free Spoken
        Digit Dataset.
      validation_path, test_path: file: the other parts; not for spoken digits, which have an official split.
      data_dir: tfds: the folder of prepared sets.
      audio_field, text_field, encoding: for a manifest.
      rate: samples per second; all sounds are resampled to it.
      channels: how to treat sounds with several; see `read_sound`.
      workers: files: 0 decodes them all into memory at the start; else this many threads decode them on demand.
      lower: whether to convert transcripts to lower case.
      leave_out: spoken digits: the speaker whose recordings are the test part; "" takes the official split.
      strings: spoken digits: how many training strings to join from training recordings; 300 are joined for validation from recordings held
        out, and 500 for testing from test recordings. 0 keeps single digits.
      snr: morse: the signal-to-noise ratio, in dB, measured in a bandwidth of 2500 Hz.
      validation_fraction: the share of the training sounds to hold out if there is no validation part.
      seed: determines which are held out.

    Returns:
      A Dataset of Records with "sound" (int16 arrays, or `SoundFile`) and "transcript".

    Raises:
      UserError: an unknown source or name, malformed files (all of them at once), or a setting without effect.

    Example:
      >>> import tempfile
      >>> from seqjax.data.readers.sounds import write_sound
      >>> with tempfile.TemporaryDirectory() as name:
      ...     folder = pathlib.Path(name)
      ...     for word in ("yes", "no"):
      ...         _ = write_sound(folder / f"{word}.wav", np.zeros(4000, np.int16), 8000)
      ...     _ = (folder / "all.jsonl").write_text('{"audio": "yes.wav", "text": "yes"}\n{"audio": "no.wav", "text": "no"}')
      ...     data = load_speech("file", path=str(folder / "all.jsonl"), rate=8000, validation_fraction=0.5)
      >>> sorted(part["transcript"][0] for part in data.parts.values())
      ['no', 'yes']
    """
    paths = {"train": path, "validation": validation_path, "test": test_path}
    of_digits = {"leave_out": Setting(leave_out, ("file", "tfds")), "strings": Setting(strings, ("file", "tfds"), 0)}
    of_manifests = {"audio_field": Setting(audio_field, ("file",)), "text_field": Setting(text_field, ("file",))}
    others = {
        "data_dir": Setting(data_dir, ("tfds",)),
        "encoding": Setting(encoding, ("file",), "utf-8"),
        "channels": Setting(channels, ("file",), "refuse"),
        "workers": Setting(workers, ("file",), 0),
        "snr": Setting(snr, ("embedded",), -6.0),
    }
    check_source(source, {**path_settings(paths), **of_digits, **of_manifests, **others})
    check_name(source, name, EMBEDDED, "set of speech", "spoken_digit")
    check_fractions(validation_fraction)
    check_whole(0, seed=seed, workers=workers, strings=strings)
    check_whole(1, rate=rate)
    notes: list[str] = []
    if source == "embedded":
        parts = _morse(rate, snr)
    elif source == "tfds" or path and is_digits(path):
        own = path_settings({part: paths[part] for part in PARTS[1:]})
        refuse_given({**own, **of_manifests}, "has no effect: spoken digits have a split")
        refuse_given({n: others[n] for n in ("channels", "workers")}, "has no effect on spoken digits")
        records = read_digits(path, rate) if source == "file" else read_tfds_digits(name, data_dir, rate)
        name = name if source == "tfds" else file_set_name(name, EMBEDDED, path)
        train, test = official_split(records, leave_out)
        speakers = sorted(set(zip(train["speaker"], train["transcript"])))
        strata = [speakers.index(pair) for pair in zip(train["speaker"], train["transcript"])]
        train, validation, said = _held_out(train, validation_fraction, seed, name, strata)
        parts, notes = {"train": train, "validation": validation, "test": test}, [said]
        if strings:
            sizes = {"train": strings, **STRINGS}
            parts = {part: join_digits(parts[part], sizes[part], STRING_SEEDS[part], rate) for part in PARTS}
            notes.append("strings are joined from the recordings of their own part alone")
    else:
        if not path:
            known = "a manifest (.jsonl, .csv, .tsv), or a folder of LibriSpeech or of spoken digits"
            raise UserError(f"source='file' needs a path; give {known}")
        refuse_given(of_digits, "is for spoken digits, and these are other files")
        name = file_set_name(name, EMBEDDED, path)
        parts = {p: _listed(each, audio_field, text_field, encoding, rate, channels, workers) for p, each in paths.items() if each}
        if "validation" not in parts:
            parts["train"], parts["validation"], said = _held_out(parts["train"], validation_fraction, seed, name)
            notes.append(said)
    plain = {part: _plain(parts[part], lower) for part in PARTS if part in parts}
    return make_dataset(name, plain, "sounds", notes=notes, facts={"rate": rate}, files=part_files(paths) if source == "file" else {})


def _plain(records: Records, lower: bool) -> Records:
    text = tuple(each.lower() for each in records["transcript"]) if lower else records["transcript"]
    kept = {column: records[column] for column in ("speaker", "file") if column in records}
    return Records({"sound": records["sound"], "transcript": text, **kept}, records.places, records.notes)


def _morse(rate: int, snr: float) -> dict[str, Records]:
    manner, parts = morse.Manner(rate=rate, snr=snr), {}
    for part, size in MORSE_SIZES.items():
        # Every other training message has only a few characters: with long ones alone, CTC takes long to start learning.
        cuts = [PRACTICE if part == "train" and index % 2 else 0 for index in range(size)]
        sent = [morse.message(MORSE_SEEDS[part], index, manner, most) for index, most in enumerate(cuts)]
        columns = {"sound": tuple(each.samples for each in sent), "transcript": tuple(each.text for each in sent)}
        parts[part] = Records(columns, Places.of(f"morse {part} message", range(1, size + 1)))
    return parts


def _listed(path: str, audio_field: str, text_field: str, encoding: str, rate: int, channels: str, workers: int) -> Records:
    records = read_manifest(path, audio_field, text_field, encoding)
    sounds = read_sounds(records["file"], str(path), rate, channels, keep=not workers)
    names = tuple(pathlib.PurePath(file).name for file in records["file"])
    faults = Faults(str(path))
    for place, text in enumerate(records["transcript"]):
        if not text:
            faults.add(f"{records.places.at(place)}: the transcript of {names[place]} is empty; leave the sound out, or write it")
    faults.raise_any()
    return records.replace(sound=tuple(sounds), file=names)


def _held_out(train: Records, fraction: float, seed: int, name: str, strata: list[int] | None = None) -> tuple[Records, Records, str]:
    kept, held = hold_out(len(train), fraction, seed, name, strata=None if strata is None else np.array(strata))
    said = f"{len(held):,} of {len(train):,} training sounds, chosen at random by seed {seed}, are for validation"
    return train.take(kept), train.take(held), said
