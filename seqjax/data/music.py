"""The entry point for music as frames: MIDI files, chorales in JSON, the Bach of music21, canons by rules."""

import os

import numpy as np

from seqjax.data.checks import check_fractions, check_whole
from seqjax.data.hold_out import hold_out
from seqjax.data.origins import versions
from seqjax.data.readers.bach import read_bach
from seqjax.data.readers.canons import canon_pieces
from seqjax.data.readers.chorales import read_chorales
from seqjax.data.readers.midi import ENDINGS, read_midi
from seqjax.data.readers.opening import is_folder, unpacked_suffix
from seqjax.data.readers.rolls import pieces, to_roll
from seqjax.data.readers.text_folders import part_folders
from seqjax.data.records import Dataset, Places, Records, make_dataset
from seqjax.data.sources import Setting, check_name, check_source, file_set_name, part_files, path_settings
from seqjax.errors import UserError, refuse_unknown

SOURCES = ("embedded", "file")
EMBEDDED = ("canons", "bach")
CANON_SIZES = {"train": 400, "validation": 60, "test": 100}
BACH_TEST = 0.15


def load_music(
    source: str,
    *,
    name: str = "",
    path: str = "",
    validation_path: str = "",
    test_path: str = "",
    frames_per_quarter: int = 1,
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """Pieces of polyphonic music with training and validation parts.

    The embedded set "canons" is made by rules (see `canons.choices`), so that the best possible loss is known
    (`canons.entropy_rate`). "bach" is what music21 ships; where the 229, 76 and 77 chorales of the published tables are wanted,
    give their JSON file.

    Args:
      source: "embedded" (no network) or "file".
      name: embedded: "canons" or "bach" (needs music21). file: what to call the set; "" calls it after its file.
      path: file: a MIDI file or a folder of them (see `midi.read_midi`), whose folders may be called train, validation and test;
        or a JSON file of pieces, which may have these parts too (see `chorales.read_chorales`).
      validation_path, test_path: file: the other parts, in the same ways.
      frames_per_quarter: MIDI files and "bach": frames of a quarter note. What the frames of JSON are, it says; the canons' are
        quarter notes.
      validation_fraction: the share of the training pieces to hold out if there is no validation part.
      seed: of that choice.

    Returns:
      A Dataset of Records with the column "frames": for each piece uint8 (T, 88), 1 where one of the piano's keys sounds. Its fact
      "most_notes" is the most of a frame.

    Raises:
      UserError: an unknown source or name, a file that cannot be read, bad pieces, a fraction outside (0, 1), or a setting that
        the source has no use for.

    Example:
      >>> canons = load_music("embedded", name="canons")
      >>> {part: len(pieces) for part, pieces in canons.parts.items()}, canons.parts["train"]["frames"][0].shape
      ({'train': 400, 'validation': 60, 'test': 100}, (49, 88))
    """
    paths = {"train": path, "validation": validation_path, "test": test_path}
    refuse_unknown(f"source={source!r} is not a source of music", source, SOURCES)
    check_source(source, path_settings(paths))
    check_name(source, name, EMBEDDED, "set of music", "")
    check_fractions(validation_fraction)
    check_whole(0, seed=seed)
    check_whole(1, frames_per_quarter=frames_per_quarter)
    made_from: dict[str, str] = {}
    if source == "file":
        parts = _file_parts(paths, frames_per_quarter)
        name = file_set_name(name, EMBEDDED, path)
    elif name == "bach":
        parts, made_from = _bach(frames_per_quarter, seed), versions("music21")
    else:
        check_source(source, {"frames_per_quarter": Setting(frames_per_quarter, ("file",), 1)})
        parts = _canons()
    notes = []
    if "validation" not in parts:
        train = parts["train"]
        kept, held = hold_out(len(train), validation_fraction, seed, name)
        parts |= {"train": train.take(kept), "validation": train.take(held)}
        notes.append(f"{len(held):,} of {len(train):,} training pieces, chosen at random by seed {seed}, are for validation")
    most = max(int(roll.sum(axis=1, dtype=int).max()) for part in parts.values() for roll in part["frames"])
    facts = {"most_notes": most}
    return make_dataset(name, parts, "pieces", notes=notes, facts=facts, made_from=made_from, files=part_files(paths))


def _canons() -> dict[str, Records]:
    made, parts = canon_pieces(sum(CANON_SIZES.values()), seed=0), {}
    for part, size in CANON_SIZES.items():
        found, made = made[:size], made[size:]
        parts[part] = pieces([to_roll(piece) for piece in found], Places.of(f"{part} canon", range(1, size + 1)))
    return parts


def _bach(frames_per_quarter: int, seed: int) -> dict[str, Records]:
    found = read_bach(frames_per_quarter)
    kept, held = hold_out(len(found), BACH_TEST, seed, "bach")
    return {"train": found.take(kept), "test": found.take(held)}


def _file_parts(paths: dict[str, str], frames_per_quarter: int) -> dict[str, Records]:
    if not paths["train"]:
        raise UserError("source='file' needs a path; give a MIDI file, a folder of them, or a JSON file of pieces")
    own = part_folders(paths["train"]) if is_folder(paths["train"]) else {}
    found = {part: read_midi(folder, frames_per_quarter) for part, folder in own.items()}
    for part, path in paths.items():
        if not path or (part == "train" and own):
            continue
        read = read_pieces(path, frames_per_quarter)
        if part != "train" and (part in found or list(read) != ["train"]):
            twice = f"{paths['train']} has a {part} part already" if part in found else f"{path} has the parts {', '.join(read)}"
            raise UserError(f"{part}_path={path!r}: {twice}; leave {part}_path empty, or give the pieces of that part alone")
        found |= {part: read["train"]} if part != "train" else read
    if "train" not in found:
        raise UserError(f"{paths['train']} has no training part; it has {', '.join(found)}")
    return found


def read_pieces(path: str | os.PathLike, frames_per_quarter: int = 1) -> dict[str, Records]:
    """Pieces of a MIDI file, a folder of them, or a JSON file: part -> Records; all are "train" if there are no parts.

    Args:
      path: what ends in .mid or .midi, and a folder, is MIDI; what ends in .json is JSON; either plain or packed.
      frames_per_quarter: as in `load_music`.

    Raises:
      UserError: another ending, or as the readers.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".json") as file:
      ...     _ = file.write(b"[[[60], [62]]]")
      ...     file.flush()
      ...     list(read_pieces(file.name))
      ['train']
    """
    suffix = unpacked_suffix(path)
    if is_folder(path) or suffix in ENDINGS:
        return {"train": read_midi(path, frames_per_quarter)}
    if suffix != ".json":
        raise UserError(f"{path} is not a known kind of file; give a .mid, .midi or .json file, or a folder of MIDI files")
    return read_chorales(path)


def lengths(part: Records) -> np.ndarray:
    """The frames of each piece, int64 (N,).

    Example:
      >>> lengths(pieces([to_roll([(60,), ()])], Places.of("song", [1]))).tolist()
      [2]
    """
    return np.fromiter(map(len, part["frames"]), np.int64, len(part))
