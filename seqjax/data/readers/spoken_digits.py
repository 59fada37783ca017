"""The Free Spoken Digit Dataset: its recordings, its official split, and strings of digits joined from them."""

import io
import os
import pathlib
import re
import tarfile
from typing import Any, NamedTuple

import numpy as np

from seqjax.data.draws import uniform
from seqjax.data.readers.morse import normal
from seqjax.data.readers.opening import is_folder, read_bytes
from seqjax.data.readers.sounds import decode_sound, read_sound
from seqjax.data.readers.tfds import examples, open_builder, open_split, read_sounds_without_tensorflow
from seqjax.data.records import Faults, Places, Records
from seqjax.errors import UserError

NAME = re.compile(r"(\d)_([A-Za-z]+)_(\d+)\.wav$")  # digit, speaker, number: 7_jackson_32.wav
OFFICIAL_TEST = 5  # recordings 0 to 4 of each digit and speaker are the test part
EMBEDDED_CHOICE = "source='embedded' with name='morse' needs no download"


def is_digits(path: str | os.PathLike) -> bool:
    """Whether a path is a folder or an archive of spoken digits, by the names of its files.

    Example:
      >>> is_digits("manifest.jsonl")
      False
    """
    if is_folder(path):
        folder = pathlib.Path(os.path.expanduser(path))
        return any(NAME.match(file.name) for place in (folder, folder / "recordings") if place.is_dir() for file in place.iterdir())
    return str(path).lower().endswith((".tar.gz", ".tgz", ".tar"))


def read_digits(path: str | os.PathLike, rate: int) -> Records:
    """Reads all recordings.

    Args:
      path: the folder of recordings, its parent, or `recordings.tar.gz`.
      rate: samples per second.

    Returns:
      Records with "sound" (int16 arrays), "transcript" (a digit), "speaker" and "number", sorted by name.

    Raises:
      UserError: a file that is not audio, or no recordings.
    """
    faults, found = Faults(str(path)), {}
    for name, read in sorted(_files(path).items()):
        try:
            found[name] = read(rate)
        except UserError as error:
            faults.add(error)
    faults.raise_any()
    if not found:
        raise UserError(f"{path} has no recordings such as 7_jackson_32.wav; give the folder of them, or recordings.tar.gz")
    return make_digits(list(found), list(found.values()), str(path))


def make_digits(names: list[str], sounds: list[np.ndarray], where: str) -> Records:
    """Recordings as records, with the fields from their names.

    Example:
      >>> records = make_digits(["7_jackson_32.wav"], [np.zeros(9, np.int16)], "recordings")
      >>> records["transcript"], records["speaker"], records["number"].tolist()
      (('7',), ('jackson',), [32])
    """
    parts = [NAME.search(name).groups() for name in names]  # pyright: ignore[reportOptionalMemberAccess]
    columns = {
        "sound": tuple(sounds),
        "transcript": tuple(part[0] for part in parts),
        "speaker": tuple(part[1] for part in parts),
        "number": np.array([int(part[2]) for part in parts]),
        "name": tuple(names),
    }
    return Records(columns, Places.of(f"{where} recording", range(1, len(names) + 1)))


def read_tfds_digits(name: str, data_dir: str, rate: int) -> Records:
    """The recordings of TFDS's `spoken_digit`; its only split holds them all, with their names.

    Args:
      name: "spoken_digit", perhaps with a version.
      data_dir: the folder of prepared sets.
      rate: samples per second, which must be the set's 8000.
    """
    if name.split(":")[0].split("/")[0] != "spoken_digit":
        raise UserError(f"of TFDS only spoken_digit is read here, not {name!r}; write others as files with a manifest")
    if rate != 8000:
        raise UserError(f"the sounds of {name} have 8000 samples per second; set data.rate=8000, not {rate}")
    read_sounds_without_tensorflow()
    names, sounds = [], []
    for example in examples(open_split(name, open_builder(name, data_dir, EMBEDDED_CHOICE), "train", EMBEDDED_CHOICE)):
        names.append(example["audio/filename"].decode("utf-8"))
        sounds.append(np.asarray(example["audio"]).astype(np.int16))
    order = np.argsort(names)
    return make_digits([names[i] for i in order], [sounds[i] for i in order], name)


def official_split(records: Records, leave_out: str = "") -> tuple[Records, Records]:
    """The training and the test recordings.

    Args:
      records: as returned by `read_digits`.
      leave_out: a speaker whose recordings are the test part, all others being training; "" is the official split, with recordings 0 to 4
        of each digit and speaker in the test part.

    Raises:
      UserError: there is no such speaker, or nothing is left for a part.

    Example:
      >>> records = make_digits(["7_a_4.wav", "7_a_5.wav", "7_b_3.wav"], [np.zeros(9, np.int16)] * 3, "recordings")
      >>> [part["name"] for part in official_split(records)], [len(part) for part in official_split(records, "b")]
      ([('7_a_5.wav',), ('7_a_4.wav', '7_b_3.wav')], [2, 1])
    """
    speakers = np.array(records["speaker"])
    if leave_out and leave_out not in speakers:
        raise UserError(f"data.leave_out={leave_out!r} is not a speaker; there are {', '.join(np.unique(speakers))}")
    test = speakers == leave_out if leave_out else records["number"] < OFFICIAL_TEST
    if test.all() or not test.any():
        raise UserError(f"the split leaves {'no training' if test.all() else 'no test'} recordings; give all of the set")
    return records.take(np.flatnonzero(~test)), records.take(np.flatnonzero(test))


class Joining(NamedTuple):
    """How digits are joined to strings."""

    digits: tuple[int, int] = (3, 7)  # minimum and maximum
    pause: tuple[float, float] = (0.05, 0.4)  # s, before each digit and after the last
    gain: tuple[float, float] = (-6.0, 0.0)  # dB, of each digit
    snr: tuple[float, float] = (10.0, 30.0)  # dB, the power of the recordings over that of white noise


USUAL = Joining()


def join_digits(records: Records, number: int, seed: int, rate: int, joining: Joining = USUAL) -> Records:
    """Strings of digits of one speaker each, with pauses and noise: string i is a pure function of (seed, i) and the recordings.

    Args:
      records: as returned by `read_digits`; every string is made of these alone.
      number: how many strings.
      seed: determines the strings.
      rate: samples per second of the recordings.
      joining: the ranges to draw from.

    Returns:
      Records with "sound", "transcript" (space-separated digits) and "speaker".

    Example:
      >>> records = make_digits(["7_a_4.wav", "1_a_5.wav"], [np.ones(900, np.int16)] * 2, "recordings")
      >>> strings = join_digits(records, 3, 0, 8000)
      >>> len(strings), set("".join(strings["transcript"])) <= set("71 ")
      (3, True)
    """
    speakers = np.unique(records["speaker"])
    members = {speaker: np.flatnonzero(np.array(records["speaker"]) == speaker) for speaker in speakers}
    made: dict[str, list[Any]] = {"sound": [], "transcript": [], "speaker": []}
    for index in range(number):
        bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(index,)))
        who, count, snr = uniform(bits, 3)
        speaker = speakers[int(who * len(speakers))]
        count = joining.digits[0] + int(count * (joining.digits[1] - joining.digits[0] + 1))
        chosen = members[speaker][(uniform(bits, count) * len(members[speaker])).astype(int)]
        between = lambda share, ends: ends[0] + share * (ends[1] - ends[0])  # noqa: E731
        pauses = (between(uniform(bits, count + 1), joining.pause) * rate).astype(int)
        gains = 10 ** (between(uniform(bits, count), joining.gain) / 20)
        pieces = [np.zeros(pauses[0])]
        for place, gain, pause in zip(chosen, gains, pauses[1:]):
            pieces += [gain * records["sound"][place], np.zeros(pause)]
        spoken = np.concatenate(pieces)
        power = np.square(spoken).sum() / sum(len(piece) for piece in pieces[1::2])
        noise = normal(bits, len(spoken)) * np.sqrt(power * 10 ** (-between(snr, joining.snr) / 10))
        made["sound"].append(np.round(spoken + noise).clip(-32768, 32767).astype(np.int16))
        made["transcript"].append(" ".join(records["transcript"][place] for place in chosen))
        made["speaker"].append(str(speaker))
    where = records.places.names[0].rsplit(" ", 1)[0]
    return Records({name: tuple(column) for name, column in made.items()}, Places.of(f"{where} string", range(1, number + 1)))


def _files(path: str | os.PathLike) -> dict[str, Any]:
    """Name -> a function that reads it at a given rate."""
    if is_folder(path):
        folder = pathlib.Path(os.path.expanduser(path))
        folder = folder / "recordings" if (folder / "recordings").is_dir() else folder
        found = [file for file in folder.iterdir() if NAME.match(file.name)]
        return {file.name: lambda rate, file=file: read_sound(file, rate) for file in found}
    try:
        with tarfile.open(fileobj=io.BytesIO(read_bytes(path))) as archive:
            found = {
                pathlib.PurePath(member.name).name: archive.extractfile(member).read()  # pyright: ignore[reportOptionalMemberAccess]
                for member in archive
                if member.isfile() and NAME.match(pathlib.PurePath(member.name).name)
            }
    except tarfile.TarError as error:
        raise UserError(f"{path} is not a valid archive ({error}); recreate it, or unpack it") from None
    return {name: lambda rate, name=name, data=data: decode_sound(data, name, rate) for name, data in found.items()}
