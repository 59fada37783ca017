"""Images in arrays: idx files, the format of MNIST, and npz files."""

import math
import os
import pathlib
import re
import zipfile

import numpy as np

from seqjax.data.image_columns import ArrayImages, Found
from seqjax.data.readers.folders import visible
from seqjax.data.readers.opening import EXPANSION, SMALL, read_bytes, read_text
from seqjax.errors import UserError, refuse_unknown

IDX = re.compile(r"(?:(?P<set>.+)-)?(?P<part>train|t10k|test)-(?P<kind>images[-.]idx3|labels[-.]idx1)-ubyte(\.gz)?")
STEMS = {"train": "train", "test": "t10k"}
ENDS = {"images": "images-idx3-ubyte", "labels": "labels-idx1-ubyte"}
EMNIST = "emnist-"  # prefix of its sets' names
NPZ = (  # names of (images, labels) for each part, as in Keras, MedMNIST, or a single pair
    {"train": ("x_train", "y_train"), "validation": ("x_val", "y_val"), "test": ("x_test", "y_test")},
    {part: (f"{key}_images", f"{key}_labels") for part, key in (("train", "train"), ("validation", "val"), ("test", "test"))},
    {"train": ("images", "labels")},
)


def read_idx_folder(folder: pathlib.Path, name: str = "") -> Found | None:
    """The images of a folder of idx files.

    Args:
      folder: has `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and, for a test part, the same with `t10k` or
        `test`. Each may end in `.gz`, have `.idx` for `-idx`, be in a folder of its own name, and start with the name of a set:
        `emnist-letters-train-images-idx3-ubyte.gz`. EMNIST's images, which are stored transposed, are turned upright, and
        `emnist-letters-mapping.txt` names its classes.
      name: the set to read, such as "emnist-letters", if the folder has several.

    Returns:
      The images; None if there are no such files.

    Raises:
      UserError: a missing or invalid file, or several sets and none of that name.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     for kind, data in ("images-idx3", [0, 0, 8, 3, *[0, 0, 0, 1] * 3, 7]), ("labels-idx1", [0, 0, 8, 1, 0, 0, 0, 1, 0]):
      ...         _ = pathlib.Path(folder, f"train-{kind}-ubyte").write_bytes(bytes(data))
      ...     found = read_idx_folder(pathlib.Path(folder))
      >>> found.parts["train"].images.tolist(), found.classes
      ([[[[7]]]], ('0',))
    """
    sets = _idx_files(folder)
    if not sets:
        return None
    chosen = next((known for known in (name, EMNIST + name) if known in sets and name != "digits"), next(iter(sets)))
    if len(sets) > 1 and (name == "digits" or chosen not in (name, EMNIST + name)):
        refuse_unknown(f"{folder} has several sets, and name={name!r} is none of them", name, sets)
    files, parts = sets[chosen], {}
    for part in dict.fromkeys(part for part, _ in [("train", ""), *files]):
        for kind, end in ENDS.items():
            if (part, kind) not in files:
                begin = f"{chosen}-" if chosen else ""
                raise UserError(f"{folder} lacks {begin}{STEMS[part]}-{end} (or .gz), though it has other idx files; add it")
        images, labels = read_idx(files[part, "images"], 3), read_idx(files[part, "labels"], 1)
        if chosen.startswith(EMNIST):
            images = images.swapaxes(1, 2)
        parts[part] = array_images(images, labels, str(files[part, "images"]))
    if chosen.startswith(EMNIST):
        return name_emnist(parts, folder / f"{chosen}-mapping.txt")
    return Found(number_classes(parts["train"].labels, str(folder)), parts)


def _idx_files(folder: pathlib.Path) -> dict[str, dict[tuple[str, str], pathlib.Path]]:
    """Set -> (part, kind) -> its file; of several, the one with the plainest name."""
    found: dict[str, dict[tuple[str, str], pathlib.Path]] = {}
    plainest_first = sorted(visible(folder), key=lambda path: (path.is_dir(), "." in path.name.removesuffix(".gz"), path.name))
    for path in plainest_first:
        match = IDX.fullmatch(path.name)
        path = path / path.name if path.is_dir() else path
        if match and path.is_file():
            part = "train" if match["part"] == "train" else "test"
            found.setdefault(match["set"] or "", {}).setdefault((part, match["kind"][:6]), path)
    return {name: found[name] for name in sorted(found)}


def name_emnist(parts: dict[str, ArrayImages], mapping: pathlib.Path) -> Found:
    """EMNIST's classes: the characters in its mapping, else the labels themselves; labels of letters start at 1.

    Args:
      parts: the images, with labels as in the files.
      mapping: a file with one line per label: the label and the codes of its characters. It need not exist.

    Returns:
      The images with labels from 0.

    Raises:
      UserError: the mapping is malformed, or lacks a label.

    Example:
      >>> images = ArrayImages(np.zeros((3, 1, 1, 1), np.uint8), np.array([1, 2, 2]))
      >>> found = name_emnist({"train": images}, pathlib.Path("no mapping"))
      >>> found.classes, found.parts["train"].labels.tolist()
      (('1', '2'), [0, 1, 1])
    """
    names = {int(label): str(label) for label in np.unique(parts["train"].labels)}
    if mapping.is_file():
        try:
            rows = [list(map(int, line.split())) for line in read_text(mapping).splitlines() if line.strip()]
            names = {label: "".join(map(chr, codes)) for label, *codes in rows}
        except (ValueError, OverflowError) as error:
            raise UserError(f"{mapping} is not a line of numbers for each label ({error}); give the original file") from None
    known = np.array(sorted(names))
    numbered = {}
    for part, images in parts.items():
        if (strange := np.setdiff1d(images.labels, known)).size:
            raise UserError(f"{part} has the label {strange[0]}, which {mapping.name if mapping.is_file() else 'train'} lacks")
        numbered[part] = ArrayImages(images.images, np.searchsorted(known, images.labels))
    return Found(tuple(names[label] for label in known.tolist()), numbered, ("EMNIST's images are turned upright",))


def read_idx(path: str | os.PathLike, dimensions: int) -> np.ndarray:
    """An idx file of bytes.

    The file is two zero bytes, 8 (for unsigned bytes), the number of dimensions, each dimension as four big-endian bytes, and the values in
    C order.

    Args:
      path: the file, plain or packed.
      dimensions: the required number of dimensions, 3 for images and 1 for labels.

    Returns:
      uint8, read-only, with the shape in the header.

    Raises:
      UserError: the file cannot be read or unpacked, or has a wrong magic number or a length other than its header says.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile() as file:
      ...     _ = file.write(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 6, 7]))
      ...     file.flush()
      ...     read_idx(file.name, dimensions=1).tolist()
      [5, 6, 7]
    """
    data = read_bytes(path)
    magic, head = bytes([0, 0, 8, dimensions]), 4 + 4 * dimensions
    if data[:4] != magic:
        raise UserError(
            f"{path} begins with 0x{data[:4].hex()}, not 0x{magic.hex()}: it is not an idx file of bytes in "
            f"{dimensions} dimensions; give the original file"
        )
    if len(data) < head:
        raise UserError(f"{path} ends within its head, after {len(data)} of {head} bytes; download it again")
    shape = tuple(np.frombuffer(data, ">u4", dimensions, 4).tolist())
    if len(data) != head + math.prod(shape):
        raise UserError(f"{path} says shape {shape}, so {head + math.prod(shape)} bytes, but it has {len(data)}; download it again")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def read_npz(path: pathlib.Path) -> Found:
    """The images of an `.npz`.

    Args:
      path: a file with x_train, y_train (and x_val, y_val, x_test, y_test), or train_images, train_labels (and val_,
        test_), or images, labels.

    Returns:
      The images; the classes are "0", "1", ..., up to the highest label for training.

    Raises:
      UserError: an invalid npz file, missing arrays, or arrays that are not images and labels.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".npz") as file:
      ...     np.savez(file, images=np.zeros((20, 8, 8), np.uint8), labels=np.arange(20) % 2)
      ...     file.flush()
      ...     found = read_npz(pathlib.Path(file.name))
      >>> found.classes, found.parts["train"].shape
      (('0', '1'), (8, 8, 1))
    """
    try:
        _check_expansion(path)
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            names = set(file.files)
            kind = next((kind for kind in NPZ if names & {key for pair in kind.values() for key in pair}), None)
            if kind is None:
                wanted = "; or ".join(", ".join(kind["train"]) for kind in NPZ)
                raise UserError(f"{path} has arrays {', '.join(sorted(names)) or '(none)'}; it needs {wanted}")
            for part, pair in kind.items():
                missing = sorted(set(pair) - names)
                if missing and (part == "train" or len(missing) == 1):
                    raise UserError(f"{path} lacks {', '.join(missing)}; it has arrays {', '.join(sorted(names))}")
            arrays = {part: (file[pair[0]], file[pair[1]]) for part, pair in kind.items() if pair[0] in names}
    except UserError:
        raise
    except Exception as error:  # for a damaged file, zipfile and np.load raise almost any exception
        said = str(error).split("\n")[0] or type(error).__name__
        if "allow_pickle" in said or "pickled" in said:
            said = "it holds objects, not numbers: are the images of uneven shape?"
        raise UserError(f"{path} cannot be read as arrays ({said}); save uint8 arrays with numpy.savez") from None
    parts = {part: array_images(*pair, f"{path}, {part}") for part, pair in arrays.items()}
    return Found(number_classes(parts["train"].labels, str(path)), parts)


def _check_expansion(path: pathlib.Path) -> None:
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > max(SMALL, EXPANSION * path.stat().st_size):
        raise UserError(f"{path} unpacks to more than {EXPANSION} times its size; if that is right, save it with numpy.savez, unpacked")


def array_images(images: np.ndarray, labels: np.ndarray, what: str) -> ArrayImages:
    """Images in memory; adds the channel axis that grey images often lack, and flattens labels (N, 1) as in Keras.

    Args:
      images: uint8 (N, H, W) or (N, H, W, C).
      labels: integers (N,) or (N, 1).
      what: the file, for errors.

    Raises:
      UserError: as `ArrayImages`; or more than 4 channels.

    Example:
      >>> array_images(np.zeros((2, 3, 3), np.uint8), np.array([[0], [1]]), "two").shape
      (3, 3, 1)
    """
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim == 4 and images.shape[3] > 4:
        raise UserError(f"{what}: images have shape {images.shape}; channels come last, and are at most 4")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    try:
        return ArrayImages(images, labels)
    except UserError as error:
        raise UserError(f"{what}: {error}") from None


def number_classes(labels: np.ndarray, what: str) -> tuple[str, ...]:
    """The classes "0", "1", ..., up to the highest label, which must be plausible.

    Args:
      labels: the training labels.
      what: the file, for errors.

    Raises:
      UserError: the labels are not class numbers.

    Example:
      >>> number_classes(np.array([0, 2]), "a set")
      ('0', '1', '2')
    """
    highest = int(labels.max())
    if highest >= max(len(labels), 256):
        raise UserError(f"{what} has {len(labels)} images, but a label of {highest}; labels must be class numbers, 0, 1, 2, ...")
    return tuple(map(str, range(highest + 1)))
