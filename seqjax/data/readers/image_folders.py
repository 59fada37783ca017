"""Image files in one folder per class: the part and class of each."""

import os
import pathlib
from collections.abc import Iterator

from seqjax.data.image_check import Listing
from seqjax.data.readers.folders import PART_NAMES, dead_link, named_parts, unreadable, visible
from seqjax.errors import UserError, nearest

SUFFIXES = tuple(".png .jpg .jpeg .bmp .gif .webp .tif .tiff .ppm .pgm .pbm .jp2".split())
NOT_MEANT = ("thumbs.db", "desktop.ini")  # files that some systems put beside images, ignored like hidden files


def read_folders(folder: pathlib.Path, levels: int = 1) -> Listing:
    """The image files of a folder.

    Args:
      folder: has `train/CLASS/...` (and `val/CLASS/...`, `test/CLASS/...`, see `folders.PART_NAMES`; in any case), or `CLASS/...`.
      levels: how many folder levels make up a class name: with 2, `animals/cat/1.png` is in the class "animals/cat".

    Returns:
      A Listing, with the classes sorted by name; files without an image extension are among the bad ones.

    Raises:
      UserError: no classes, a class without images, a part with a class that the training part lacks, two folders for one part, or parts
        that hold images directly.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as name:
      ...     folder = pathlib.Path(name)
      ...     for file in ("Train/cat/1.png", "Train/dog/2.png", "Test/dog/3.png"):
      ...         (folder / file).parent.mkdir(parents=True)
      ...         (folder / file).touch()
      ...     found = read_folders(folder)
      >>> found.classes, {part: labels for part, (_, labels) in found.parts.items()}
      (('cat', 'dog'), {'train': [0, 1], 'test': [1]})
    """
    places, notes = _parts(folder)
    bad: dict[str, str] = {}
    files = {part: _classes(place, levels, bad) for part, place in places.items()}
    classes = tuple(files["train"])
    parts = {}
    for part, found in files.items():
        for name in found:
            if name not in classes:
                raise UserError(
                    f"{places[part] / name} is not a class of the training part{nearest(name, classes)}; {len(classes)} are known"
                )
        number = {name: label for label, name in enumerate(classes)}
        pairs = [(path, number[name]) for name, paths in found.items() for path in paths]
        parts[part] = [path for path, _ in pairs], [label for _, label in pairs]
    return Listing(str(folder), classes, parts, bad, notes)


def _parts(folder: pathlib.Path) -> tuple[dict[str, pathlib.Path], tuple[str, ...]]:
    """The folder of each part; without such folders, everything is the training part."""
    folders = [path for path in visible(folder) if path.is_dir()]
    named = [path for path in folders if path.name.lower() in PART_NAMES]
    train = [path for path in named if PART_NAMES[path.name.lower()] == "train"]
    if not any(inner.is_dir() for path in train for inner in visible(path)):
        if train and len(named) == len(folders) > 1:
            raise UserError(
                f"{folder} has the parts {', '.join(path.name for path in named)}, but no folders of classes in "
                f"{train[0].name}; put images in a folder for each class, such as {train[0].name}/CLASS/1.png"
            )
        return {"train": folder}, ()
    found = named_parts(folder, named)
    others = [path.name for path in folders if path not in named]
    return found, ((f"not read, since {found['train'].name} is a part: {', '.join(others)}",) if others else ())


def _classes(folder: pathlib.Path, levels: int, bad: dict[str, str]) -> dict[str, list[str]]:
    """Class -> its images, at any depth below its folder."""
    inside = visible(folder)
    if not any(path.is_dir() for path in inside):
        loose = sum(path.suffix.lower() in SUFFIXES for path in inside)
        has = f"{loose} images but no class folders" if loose else "no images"
        raise UserError(f"{folder} has {has}; put images in a folder for each class, such as {folder.name}/CLASS/1.png")
    places = list(_class_folders(folder, levels, (), bad))
    files = {"/".join(names): list(_images_below(folder.joinpath(*names), bad)) for names in places}
    if not places and levels > 1:
        raise UserError(f"{folder} has no folders {levels} levels deep, as class_levels={levels} says; set class_levels lower")
    if not any(files.values()):
        raise UserError(f"{folder} has {len(files)} folders but no images in them; give a folder of images")
    for name, paths in files.items():
        if not paths:
            raise UserError(f"the class folder {folder / name} has no images; add some, or remove it")
    return files


def _class_folders(folder: pathlib.Path, levels: int, names: tuple[str, ...], bad: dict[str, str]) -> Iterator[tuple[str, ...]]:
    for path in visible(folder.joinpath(*names)):
        if path.is_dir():
            yield from _class_folders(folder, levels - 1, (*names, path.name), bad) if levels > 1 else [(*names, path.name)]
        elif fault := dead_link(path):
            bad[str(path)] = fault
        elif names and path.suffix.lower() in SUFFIXES:
            bad[str(path)] = f"{path} is not in a class folder, {len(names) + levels} levels deep as class_levels says"


def _images_below(folder: pathlib.Path, bad: dict[str, str]) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise UserError(unreadable(error.filename, error))

    for where, inner, names in os.walk(folder, followlinks=True, onerror=refuse):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in inner:
            path = os.path.join(where, name)
            if os.path.islink(path) and pathlib.Path(where).resolve().is_relative_to(os.path.realpath(path)):
                raise UserError(f"{path} is a link to a folder that it is in; remove it")
        for name in sorted(names):
            if name.startswith(".") or name.lower() in NOT_MEANT:
                continue
            path = os.path.join(where, name)
            if name.lower().endswith(SUFFIXES):
                yield path
            else:
                bad[path] = f"{path} is not an image by its name; take it out of the class folder"
