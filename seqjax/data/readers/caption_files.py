"""Files of captions: Flickr8k's text, COCO's JSON, Karpathy's split JSON, and tables with one row per caption."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard, cast

from seqjax.data.readers.opening import read_text, text_lines
from seqjax.data.readers.tables import USUAL, Format, first_row, is_table, read_table
from seqjax.data.records import Faults
from seqjax.errors import UserError

IMAGE_FIELDS = (
    "image",
    "image_name",
    "file",
    "filename",
    "file_name",
    "path",
    "image_path",
    "image_id",
    "id",
)  # the ones searched for
CAPTION_FIELDS = ("caption", "captions", "text", "comment", "sentence", "raw", "description")
SPLITS = {"train": "train", "restval": "train", "val": "validation", "test": "test"}  # Karpathy's split -> the part


class Listed(NamedTuple):
    """Images with their captions, as a file names them."""

    names: list[str]
    captions: list[list[str]]  # as written; [] for an image without captions
    places: list[str]  # where each image is first named

    def take(self, names: Iterable[str]) -> "Listed":
        """The images with these names."""
        at = {name: i for i, name in enumerate(self.names)}
        chosen = [at[name] for name in names]
        return Listed(*([column[i] for i in chosen] for column in cast(tuple[Any, ...], self)))


def read_captions(
    path: str, format: Format = USUAL, *, image_field: str = "", caption_field: str = "", restval: bool = True
) -> dict[str, Listed]:
    """The images and captions of a file, whose format is detected from its content.

    Args:
      path: COCO's JSON (`annotations` of `images`), Karpathy's (`images` with `sentences` and a `split`), a `.csv`, `.tsv` or `.jsonl` or
        another table with a `format.delimiter`, or lines `image.jpg#0<tab>caption` as in Flickr8k.
      format: how a table is written; its encoding applies to any file.
      image_field, caption_field: fields of a table; "" takes the first of `IMAGE_FIELDS` and `CAPTION_FIELDS` it has.
      restval: add Karpathy's `restval` images to the training part; else they are left out.

    Returns:
      part -> Listed; a file without parts is "train".

    Raises:
      UserError: a malformed file; the message lists all faults.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".txt") as file:
      ...     _ = file.write(b"1.jpg#0\\tA dog .\\n1.jpg#1\\tOne dog .\\n2.jpg#0\\tA cat .\\n")
      ...     file.flush()
      ...     found = read_captions(file.name)["train"]
      >>> found.names, found.captions
      (['1.jpg', '2.jpg'], [['A dog .', 'One dog .'], ['A cat .']])
    """
    faults = Faults(path)
    if is_table(path, format):
        found = {"train": _grouped(_table_rows(path, format, image_field, caption_field), faults)}
    elif next(text_lines(path, format.encoding), "").lstrip().startswith(("{", "[")):
        found = _json(path, format.encoding, restval, faults)
    else:
        found = {"train": _grouped(_flickr_rows(path, format.encoding, faults), faults)}
    faults.raise_any()
    if not any(listed.names for listed in found.values()):
        raise UserError(f"{path} has no images in it; give a file with some")
    return found


def is_list(path: str, format: Format = USUAL) -> bool:
    """Whether a file is a list of images, one name per line, as Flickr8k has for each part.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".txt") as file:
      ...     _ = file.write(b"1.jpg\\n2.jpg\\n")
      ...     file.flush()
      ...     is_list(file.name)
      True
    """
    if is_table(path, format):
        return False
    first = next(text_lines(path, format.encoding), "")
    return "\t" not in first and not first.lstrip().startswith(("{", "["))


def read_list(path: str, known: Listed, captions: str, format: Format = USUAL) -> list[str]:
    """The names in a list of images.

    Args:
      path: the list.
      known: the images that have captions.
      captions: their file, for messages.
      format: only its encoding is used.

    Raises:
      UserError: images without captions, or listed twice; the message names each.
    """
    faults, found, all_known = Faults(path), {}, set(known.names)
    for number, line in enumerate(text_lines(path, format.encoding), 1):
        if name := line.strip():
            if name not in all_known:
                faults.add(f"{path} line {number}: the image {name!r} has no caption in {captions}; add one or remove the line")
            if name in found:
                faults.add(f"{path} line {number}: the image {name!r} is in line {found[name]} already; remove one")
            found.setdefault(name, number)
    faults.raise_any()
    return list(found)


def _grouped(rows: Iterable[tuple[str, str, str]], faults: Faults) -> Listed:
    """Groups rows of (image, caption, location) by image, in the order of the images' first rows."""
    found: dict[str, tuple[list[str], str]] = {}
    for image, caption, place in rows:
        if not image:
            faults.add(f"{place} names no image; repair or remove that line")
        elif not caption.strip():
            faults.add(f"{place}: the image {image!r} has an empty caption; write one or remove it")
        else:
            found.setdefault(image, ([], place))[0].append(caption)
    return Listed(list(found), [captions for captions, _ in found.values()], [place for _, place in found.values()])


def _flickr_rows(path: str, encoding: str, faults: Faults) -> Iterator[tuple[str, str, str]]:
    for number, line in enumerate(text_lines(path, encoding), 1):
        place = f"{path} line {number}"
        image, tab, caption = line.partition("\t")
        if not line.strip():
            continue
        if not tab:
            faults.add(f"{place} has no tab between an image such as 1.jpg#0 and its caption; repair it, or name a delimiter for a table")
            continue
        name, mark, which = image.strip().rpartition("#")
        yield (name if mark and which.isdigit() else image.strip()), caption, place


def _table_rows(path: str, format: Format, image_field: str, caption_field: str) -> Iterator[tuple[str, str, str]]:
    names = first_row(path, format) if format.header and not path.endswith(".jsonl") else []
    if path.endswith(".jsonl"):
        names = _keys(path, format.encoding)
    image = image_field or next((name for name in IMAGE_FIELDS if name in names), "image" if names else "1")
    others = [name for name in names if name != image]
    usual = others[0] if len(others) == 1 else "caption" if names else "2"
    caption = caption_field or next((name for name in CAPTION_FIELDS if name in names), usual)
    table = read_table(path, {"image": ("image_field", image), "caption": ("caption_field", caption)}, format)
    for i, (name, text) in enumerate(zip(table["image"], table["caption"])):
        yield name.strip(), text, table.places.at(i)


def _keys(path: str, encoding: str) -> list[str]:
    try:
        return list(json.loads(next((line for line in text_lines(path, encoding) if line.strip()), "")))
    except (ValueError, TypeError, RecursionError):
        return []  # read_table reports what is wrong


def _json(path: str, encoding: str, restval: bool, faults: Faults) -> dict[str, Listed]:
    try:
        values = json.loads(read_text(path, encoding))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not valid JSON ({error}); repair it") from None
    if isinstance(values, dict) and _objects(values.get("images")):
        if _objects(values.get("annotations")):
            return {"train": _coco(path, values["images"], values["annotations"], faults)}
        if values["images"] and "sentences" in values["images"][0]:
            return _karpathy(path, values["images"], restval, faults)
    raise UserError(f"{path} is neither COCO's JSON (images, annotations) nor Karpathy's (images with sentences); give one of them")


def _objects(values: Any) -> TypeGuard[Sequence[Mapping[str, Any]]]:
    return isinstance(values, Sequence) and not isinstance(values, str) and all(isinstance(value, Mapping) for value in values)


def _coco(path: str, images: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]], faults: Faults) -> Listed:
    found: dict[Any, tuple[str, list[str], str]] = {}
    for number, image in enumerate(images):
        place = f"{path} images[{number}]"
        if not isinstance(image.get("file_name"), str) or "id" not in image:
            faults.add(f"{place} has no id and file_name; repair it")
        elif image["id"] in found:
            faults.add(f"{place} has the id {image['id']} of another image; repair it")
        else:
            found[image["id"]] = image["file_name"], [], place
    for number, annotation in enumerate(annotations):
        place, image = f"{path} annotations[{number}]", annotation.get("image_id")
        if not isinstance(annotation.get("caption"), str) or not annotation["caption"].strip():
            faults.add(f"{place} has no caption; repair or remove it")
        elif image not in found:
            faults.add(f"{place} is of the image {image}, which is not among the images; add or remove it")
        else:
            found[image][1].append(annotation["caption"].strip())
    names, captions, places = map(list, zip(*found.values())) if found else ([], [], [])
    return Listed(names, captions, places)


def _karpathy(path: str, images: Sequence[Mapping[str, Any]], restval: bool, faults: Faults) -> dict[str, Listed]:
    parts: dict[str, Listed] = {}
    for number, image in enumerate(images):
        place, split, sentences = f"{path} images[{number}]", image.get("split"), image.get("sentences")
        if not isinstance(image.get("filename"), str):
            faults.add(f"{place} has no filename; repair it")
        elif split not in SPLITS:
            faults.add(f"{place} is of the split {split!r}; choose one of {', '.join(SPLITS)}")
        elif not _objects(sentences) or not all(isinstance(one.get("raw"), str) and one["raw"].strip() for one in sentences):
            faults.add(f"{place} has sentences without a text 'raw'; repair them")
        elif split != "restval" or restval:
            listed = parts.setdefault(SPLITS[split], Listed([], [], []))
            listed.names.append(os.path.join(image.get("filepath") or "", image["filename"]))
            listed.captions.append([one["raw"].strip() for one in sentences])
            listed.places.append(place)
    return parts
