"""Sound files and their transcripts: manifests (JSON lines or tables), LibriSpeech folders, Common Voice tables."""

import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from seqjax.data.readers.opening import is_folder, text_lines, unpacked_suffix
from seqjax.data.readers.sounds import ENDINGS
from seqjax.data.readers.tables import Format, first_row, is_table, read_table
from seqjax.data.records import Faults, Places, Records
from seqjax.errors import UserError

SOUND_FIELDS = ("audio", "audio_filepath", "path", "file", "sound", "wav", "filename")
TEXT_FIELDS = ("text", "sentence", "transcript", "transcription")
FOLDERS = ("", "clips", "wavs", "audio", "sounds")  # folders beside a manifest that its files may be in
TRANSCRIPTS = "*.trans.txt"


def read_manifest(path: str | os.PathLike, audio_field: str = "", text_field: str = "", encoding: str = "utf-8") -> Records:
    """Files and transcripts from a manifest, or from a folder in LibriSpeech's layout.

    Args:
      path: JSON lines (`.jsonl`), a `.csv` or `.tsv` (Common Voice's `train.tsv` beside its `clips`); or a
        folder with files `*.trans.txt` anywhere below, each with lines "name transcript" of the sounds beside it.
      audio_field, text_field: the fields of a manifest; "" looks for the usual names.
      encoding: the text encoding.

    Returns:
      Records with "file" (paths) and "transcript", in the order of the manifest, or sorted by name.

    Raises:
      UserError: missing fields, missing files, transcripts without a sound, or sounds without a transcript; the message lists all.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as name:
      ...     folder = pathlib.Path(name)
      ...     _ = (folder / "seven.wav").write_bytes(b"RIFF")
      ...     _ = (folder / "train.jsonl").write_text('{"audio": "seven.wav", "text": "seven"}')
      ...     read_manifest(folder / "train.jsonl")["transcript"]
      ('seven',)
    """
    if is_folder(path):
        return _librispeech(pathlib.Path(os.path.expanduser(path)), encoding)
    format = Format(encoding=encoding)
    if unpacked_suffix(path) == ".json":
        raise UserError(f"{path} ends in .json; a manifest has an object a line: name it .jsonl")
    if not is_table(path, format):
        raise UserError(f"{path} is not a manifest of sounds; give a .jsonl, .csv or .tsv, or a folder with {TRANSCRIPTS}")
    names = _first(path, format)
    audio = audio_field or next((name for name in SOUND_FIELDS if name in names), "audio")
    text = text_field or next((name for name in TEXT_FIELDS if name in names), "text")
    table = read_table(path, {"file": ("audio_field", audio), "transcript": ("text_field", text)}, format)
    return table.replace(file=tuple(_found(path, table)), transcript=tuple(" ".join(each.split()) for each in table["transcript"]))


def _first(path: str | os.PathLike, format: Format) -> Sequence[str]:
    """The names of the fields."""
    if unpacked_suffix(path) != ".jsonl":
        return first_row(path, format)
    line = next((line for line in text_lines(path, format.encoding) if line.strip()), "")
    try:
        return list(json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return []  # read_table reports what is wrong


def _found(path: str | os.PathLike, table: Records) -> list[str]:
    """The files of a manifest, in the first of the usual folders that has its first one."""
    beside = pathlib.Path(os.path.expanduser(path)).parent
    first = table["file"][0]
    root = next((beside / folder for folder in FOLDERS if (beside / folder / first).is_file()), beside)
    faults, found = Faults(str(path)), []
    for place, name in enumerate(table["file"]):
        file = root / os.path.expanduser(name)
        if not file.is_file():
            faults.add(f"{table.places.at(place)}: there is no sound {name!r} in {root}")
        found.append(str(file))
    faults.raise_any()
    return found


def _librispeech(folder: pathlib.Path, encoding: str) -> Records:
    faults, found = Faults(str(folder)), {"file": [], "transcript": []}
    names, which, numbers = [], [], []
    for listing in sorted(folder.rglob(TRANSCRIPTS)):
        sounds, seen = _beside(listing), set()
        names.append(f"{listing} line")
        for number, line in enumerate(text_lines(listing, encoding), 1):
            name, _, text = line.strip().partition(" ")
            if not name:
                continue
            if name not in sounds:
                faults.add(f"{listing} line {number}: there is no sound {name!r} beside it")
                continue
            seen.add(name)
            found["file"].append(str(sounds[name]))
            found["transcript"].append(" ".join(text.split()))
            which.append(len(names) - 1)
            numbers.append(number)
        for name in sorted(sounds.keys() - seen):
            faults.add(f"{sounds[name]} has no transcript in {listing.name}")
    if not names:
        raise UserError(f"{folder} has no {TRANSCRIPTS} below; give a folder in LibriSpeech's layout, or a manifest (.jsonl, .csv, .tsv)")
    faults.raise_any()
    if not numbers:
        raise UserError(f"{folder}: its {TRANSCRIPTS} hold no transcript; give some")
    places = Places(tuple(names), np.array(which, np.int32), np.array(numbers, np.int64))
    return Records({name: tuple(column) for name, column in found.items()}, places)


def _beside(listing: pathlib.Path) -> dict[str, pathlib.Path]:
    """File name without extension -> sound, for the files beside a file of transcripts."""
    return {file.stem: file for file in listing.parent.iterdir() if file.suffix.lower() in ENDINGS}
