"""Images on this machine: idx files, npz files, folders of image files."""

import difflib
import gzip
import math
import os
import pathlib
import zipfile
import zlib
from typing import NamedTuple

import numpy as np

from seqjax.data.image_parts import ArrayImages, FileImages, Images, ImageSet, image_set
from seqjax.data.origins import versions
from seqjax.data.transforms.pixels import resize_all
from seqjax.errors import UserError

FOLDER_SIZE = 224  # to which image files are scaled unless another size is asked for
SUFFIXES = tuple(".png .jpg .jpeg .bmp .gif .webp .tif .tiff .ppm .pgm .pbm .jp2".split())
NOT_MEANT = ("thumbs.db", "desktop.ini")  # what some systems put beside images; so do hidden files
IDX = {"train": "train", "test": "t10k"}
NPZ = (  # names of (images, labels) for each part, as Keras, MedMNIST and a single pair have them
    {"train": ("x_train", "y_train"), "validation": ("x_val", "y_val"), "test": ("x_test", "y_test")},
    {
        part: (f"{key}_images", f"{key}_labels")
        for part, key in (("train", "train"), ("validation", "val"), ("test", "test"))
    },
    {"train": ("images", "labels")},
)
PARTS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}


def load_image_files(path: str, image_size: int, validation_fraction: float, seed: int) -> ImageSet:
    """Images from a folder of idx files, an npz file, or a folder of image files.

    Args:
      path: a folder with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and, for a test part, the same with
        `t10k` (each may end in `.gz`, or have `.idx` for `-idx`); an `.npz` with x_train, y_train (and x_val, y_val,
        x_test, y_test), or train_images, train_labels (and val_, test_), or images, labels; or a folder with
        `train/CLASS/...` (and `validation`, `val` or `valid`, and `test`), or `CLASS/...`, of image files.
      image_size: to which all are scaled, as `read_image` does. 0: arrays keep their own, files have 224.
      validation_fraction: the share of each class to hold out of the training part where there is no validation part.
      seed: of that choice.

    Returns:
      An ImageSet called after the file or folder. Image files are RGB, and their classes are the sorted names of the
      folders; the classes of arrays are "0", "1", ..., up to the highest label for training.

    Raises:
      UserError: whatever is wrong with a file or a folder.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".npz") as file:
      ...     np.savez(file, images=np.zeros((20, 8, 8), np.uint8), labels=np.arange(20) % 2)
      ...     file.flush()
      ...     found = load_image_files(file.name, image_size=0, validation_fraction=0.1, seed=0)
      >>> found.classes, {part: len(images) for part, images in found.parts.items()}
      (('0', '1'), {'train': 18, 'validation': 2})
    """
    if not path:
        raise UserError("source='file' needs a path; give an .npz file, or a folder of idx files or of images")
    place = pathlib.Path(os.path.expanduser(path))
    if not os.path.exists(place):
        raise UserError(f"{path} does not exist; check the path (the current folder is {pathlib.Path.cwd()})")
    name = place.resolve().name
    if place.is_dir() and not any(_idx_names(place).values()):
        classes, parts = _folder(place, image_size or FOLDER_SIZE)
        return image_set(name, classes, parts, validation_fraction, seed)
    if not place.is_dir() and place.suffix != ".npz":
        raise UserError(
            f"{path} is neither a folder nor an .npz file; give a folder of idx files or images, or an .npz"
        )
    arrays = _idx_folder(place) if place.is_dir() else _npz(place)
    classes = _classes(arrays["train"].labels, path)
    made_from = {}
    if image_size and any(images.shape[:2] != (image_size, image_size) for images in arrays.values()):
        made_from = versions("pillow")
        arrays = {
            part: ArrayImages(resize_all(images.images, image_size, name), images.labels)
            for part, images in arrays.items()
        }
    return image_set(name, classes, arrays, validation_fraction, seed, made_from)


def read_idx(path: str | os.PathLike, dimensions: int) -> np.ndarray:
    """An idx file of bytes, as MNIST and its likes come.

    The file is two zero bytes, 8 (for unsigned bytes), the number of dimensions, each dimension as four bytes with the
    highest first, and the values in C order.

    Args:
      path: plain or `.gz`.
      dimensions: how many it must have, 3 for images and 1 for labels.

    Returns:
      uint8, of the shape in its head; read-only.

    Raises:
      UserError: no such file, damaged gzip, another magic number, or another length than the head says.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile() as file:
      ...     _ = file.write(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 6, 7]))
      ...     file.flush()
      ...     read_idx(file.name, dimensions=1).tolist()
      [5, 6, 7]
    """
    data = _read(path)
    magic, head = bytes([0, 0, 8, dimensions]), 4 + 4 * dimensions
    if data[:4] != magic:
        raise UserError(
            f"{path} begins with 0x{data[:4].hex()}, not 0x{magic.hex()}: it is not an idx file of bytes in "
            f"{dimensions} dimensions; give the original file"
        )
    if len(data) < head:
        raise UserError(f"{path} ends within its head, after {len(data)} of {head} bytes; fetch it anew")
    shape = tuple(np.frombuffer(data, ">u4", dimensions, 4).tolist())
    if len(data) != head + math.prod(shape):
        raise UserError(
            f"{path} says shape {shape}, so {head + math.prod(shape)} bytes, but it has {len(data)}; fetch it anew"
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def _read(path: str | os.PathLike) -> bytes:
    try:
        data = pathlib.Path(path).read_bytes()
        return gzip.decompress(data) if str(path).endswith(".gz") else data
    except FileNotFoundError:
        fault = f"{path} does not exist; check the path"
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        fault = f"{path} is not a sound gzip file ({error}); fetch it anew"
    except OSError as error:
        fault = f"{path} cannot be read ({error.strerror}); check its permissions"
    raise UserError(fault)


def _idx_names(folder: pathlib.Path) -> dict[tuple[str, str], pathlib.Path | None]:
    """The file of each (part, kind), under any of its usual names."""
    found = {}
    for part, stem in IDX.items():
        for kind, end in (("images", "idx3-ubyte"), ("labels", "idx1-ubyte")):
            names = [f"{stem}-{kind}{dot}{end}{packed}" for dot in "-." for packed in ("", ".gz")]
            found[part, kind] = next((folder / name for name in names if (folder / name).is_file()), None)
    return found


def _idx_folder(folder: pathlib.Path) -> dict[str, ArrayImages]:
    names, parts = _idx_names(folder), {}
    for part, stem in IDX.items():
        if part == "test" and not (names[part, "images"] or names[part, "labels"]):
            continue
        for kind, end in (("images", "idx3-ubyte"), ("labels", "idx1-ubyte")):
            if not names[part, kind]:
                raise UserError(f"{folder} lacks {stem}-{kind}-{end} (or .gz), though it has other idx files; add it")
        images, labels = read_idx(names[part, "images"], 3), read_idx(names[part, "labels"], 1)
        parts[part] = _array_images(images, labels, str(names[part, "images"]))
    return parts


def _npz(path: pathlib.Path) -> dict[str, ArrayImages]:
    try:
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
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        AttributeError,
        TypeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        said = str(error).split("\n")[0]
        if "allow_pickle" in said or "pickled" in said:
            said = "it holds objects, not numbers: are the images of uneven shape?"
        raise UserError(f"{path} cannot be read as arrays ({said}); save uint8 arrays with numpy.savez") from None
    return {part: _array_images(*pair, f"{path}, {part}") for part, pair in arrays.items()}


def _array_images(images: np.ndarray, labels: np.ndarray, what: str) -> ArrayImages:
    """With the axis of channels that grey images often lack, and labels that Keras gives as (N, 1)."""
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


def _classes(labels: np.ndarray, what: str) -> tuple[str, ...]:
    """ "0", "1", ..., up to the highest label, which must be a believable number of classes."""
    highest = int(labels.max())
    if highest >= max(len(labels), 256):
        raise UserError(
            f"{what} has {len(labels)} images, but a label of {highest}; labels must be class numbers, 0, 1, 2, ..."
        )
    return tuple(map(str, range(highest + 1)))


class _Found(NamedTuple):
    """The image files of one part."""

    folder: pathlib.Path
    files: dict[str, list[str]]  # class -> paths


def _folder(folder: pathlib.Path, size: int) -> tuple[tuple[str, ...], dict[str, Images]]:
    in_parts = (folder / "train").is_dir() and any(path.is_dir() for path in _visible(folder / "train"))
    places = {"train": folder}
    if in_parts:
        found = {part: [folder / name for name in names if (folder / name).is_dir()] for part, names in PARTS.items()}
        if len(found["validation"]) > 1:
            both = ", ".join(path.name for path in found["validation"])
            raise UserError(f"{folder} has more than one folder for validation: {both}; keep one")
        places = {part: paths[0] for part, paths in found.items() if paths}
    found = {part: _class_files(place) for part, place in places.items()}
    classes = tuple(found["train"].files)
    for part in found:
        for name in found[part].files:
            if name not in classes:
                near = difflib.get_close_matches(name, classes, 1)
                hint = f" (nearest: {near[0]})" if near else ""
                raise UserError(
                    f"{places[part] / name} is no class of the training part{hint}; {len(classes)} are known"
                )
    return classes, {part: _file_images(files, classes, size, folder) for part, files in found.items()}


def _file_images(found: _Found, classes: tuple[str, ...], size: int, root: pathlib.Path) -> FileImages:
    paths = [path for files in found.files.values() for path in files]
    counts = [len(found.files.get(name, ())) for name in classes]
    return FileImages(paths, np.repeat(np.arange(len(classes)), counts), size, 3, str(root))


def _class_files(folder: pathlib.Path) -> _Found:
    """Each class folder's images, at any depth below it."""
    inside = _visible(folder)
    folders = [path for path in inside if path.is_dir()]
    if not folders:
        loose = sum(path.suffix.lower() in SUFFIXES for path in inside)
        has = f"{loose} images but no class folders" if loose else "no images"
        raise UserError(f"{folder} has {has}; put images in a folder for each class, such as {folder.name}/CLASS/1.png")
    files = {path.name: _images_below(path) for path in folders}
    if not any(files.values()):
        raise UserError(f"{folder} has {len(folders)} folders but no images in them; give a folder of images")
    for name, paths in files.items():
        if not paths:
            raise UserError(f"the class folder {folder / name} has no images; add some, or take it away")
    return _Found(folder, files)


def _images_below(folder: pathlib.Path) -> list[str]:
    found = []
    for where, inner, names in os.walk(folder, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(names):
            if name.startswith(".") or name.lower() in NOT_MEANT:
                continue
            path = os.path.join(where, name)
            if not name.lower().endswith(SUFFIXES):
                raise UserError(f"{path} is not an image by its name; take it out of the class folder")
            found.append(path)
    return found


def _visible(folder: pathlib.Path) -> list[pathlib.Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); check its permissions") from None
