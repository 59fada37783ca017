"""Files of every format: random valid ones, damage to them, and how independent readers read them."""

import contextlib
import csv
import datetime
import gzip
import io
import itertools
import json
import random
import re
import struct
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from seqjax.data import load_corpus, load_images, load_labelled, load_parallel, load_series, load_tagged

Files = dict[str, bytes]  # name below the case's folder -> content
Loaded = list[Any]


class Format(NamedTuple):
    """A kind of file."""

    make: Callable[[random.Random, str], dict[str, str | bytes]]  # (draw, letters) -> valid files
    load: Callable[[dict[str, str], str], Loaded]  # (paths, encoding) -> records, by our loader
    oracle: Callable[[dict[str, str | bytes]], Loaded]  # the same by another reader, of unpacked and decoded files
    lined: bool = True  # faults are of lines


def words(draw: random.Random, letters: str, most: int = 4) -> str:
    """A non-blank text without line ends."""
    return " ".join("".join(draw.choices(letters, k=draw.randint(1, 5))) for _ in range(draw.randint(1, most)))


def both(path: str) -> dict[str, str]:
    """The path of training and validation."""
    return {"path": path, "validation_path": path}


# Running text


def make_text(draw, letters):
    return {"book.txt": "".join(words(draw, letters) + draw.choice(["\n", "\n\n", "\n \n"]) for _ in range(draw.randint(1, 8)))}


def load_text(documents, name):
    return lambda paths, encoding: list(
        load_corpus("file", **both(paths[name]), documents=documents, encoding=encoding).parts["train"]["text"]
    )


def lines_of(text):
    return text.removesuffix("\n").split("\n")


def paragraphs_of(text):
    found = re.split(r"\n(?:[ \t]*(?:\n|$))+", "\n" + text)
    return [part.removeprefix("\n") for part in found if part.strip()]


def make_json_texts(draw, letters):
    rows = [json.dumps({"text": words(draw, letters), "n": i}, ensure_ascii=draw.random() < 0.5) for i in range(draw.randint(2, 6))]
    return {"book.jsonl": "\n".join(rows) + "\n" * draw.randint(0, 2)}


def json_texts(files):
    return [json.loads(line)["text"] for line in files["book.jsonl"].split("\n") if line.strip()]


# Texts with labels


def labelled_rows(draw, letters):
    rows = [(words(draw, letters), label) for label in ("pos", "neg", "pos", "neg")]
    return rows + [(words(draw, letters), draw.choice(["pos", "neg", "mid dle"])) for _ in range(draw.randint(0, 5))]


def make_csv(name, delimiter, **style):
    def make(draw, letters):
        file = io.StringIO()
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n", **style)
        writer.writerow(["id", "text", "label"])
        more = ['"', delimiter, "\n", "''"]
        for i, (text, label) in enumerate(labelled_rows(draw, letters)):
            writer.writerow([i, text + draw.choice(more) + "x" if draw.random() < 0.3 else text, label])
        return {name: file.getvalue()}

    return make


def make_plain_tsv(draw, letters):
    rows = (f"{text}{draw.choice(['', chr(34), ' said'])}\t{label}" for text, label in labelled_rows(draw, letters))
    return {"films.tsv": "\n".join(["text\tlabel", *rows]) + "\n"}


def load_table(name, **options):
    def load(paths, encoding):
        data = load_labelled("file", **both(paths[name]), encoding=encoding, **options)
        return labelled(data)

    return load


def labelled(data):
    part = data.parts["train"]
    return [(text, data.classes[label]) for text, label in zip(part["text"], part["label"], strict=True)]


def columns_of(rows, *names):
    first, rows = rows[0], rows[1:]
    assert all(len(row) == len(first) for row in rows)
    return [tuple(row[first.index(name)] for name in names) for row in rows]


def csv_rows(text, delimiter):
    with io.StringIO(text, newline="") as file:
        limit = csv.field_size_limit(2**31 - 1)
        try:
            return [row for row in csv.reader(file, delimiter=delimiter, strict=True) if row]
        finally:
            csv.field_size_limit(limit)


def plain_rows(text, delimiter):
    return [line.split(delimiter) for line in text.split("\n") if line]


def make_json_labelled(draw, letters):
    rows = [json.dumps({"label": label, "text": text}) for text, label in labelled_rows(draw, letters)]
    return {"films.jsonl": "\n".join(rows) + "\n"}


def json_labelled(files):
    rows = [json.loads(line) for line in files["films.jsonl"].split("\n") if line.strip()]
    return [(row["text"], str(row["label"])) for row in rows]


def make_class_files(draw, letters):
    texts = {label: [words(draw, letters) for _ in range(draw.randint(2, 5))] for label in ("neg", "pos")}
    return {f"films/{label}.txt": "\n".join(lines) + "\n" * draw.randint(0, 2) for label, lines in texts.items()}


def class_files(files):
    found = [(line.strip(), name[6:].split(".")[0]) for name in sorted(files) for line in files[name].split("\n")]
    return [(text, label) for text, label in found if text]


def make_class_folders(draw, letters):
    return {f"films/{label}/{i}.txt": words(draw, letters) + "\n" for label in ("neg", "pos") for i in range(draw.randint(2, 4))}


def class_folders(files):
    found = [(files[name].strip(), name.split("/")[1]) for name in sorted(files)]
    return [(text, label) for text, label in found if text]


# Translations


def make_lines(draw, letters):
    number = draw.randint(2, 6)
    return {name: "\n".join(words(draw, letters) for _ in range(number)) + "\n" * draw.randint(0, 1) for name in ("a.de", "a.en")}


def load_lines(paths, encoding):
    both_sides = {"path": paths["a.de"], "target_path": paths["a.en"]}
    data = load_parallel("file", **both_sides, **{f"validation_{key}": value for key, value in both_sides.items()}, encoding=encoding)
    return pairs(data)


def pairs(data):
    part = data.parts["train"]
    return list(zip(part["source"], part["target"], strict=True))


def translated(pairs):
    return [(source, target) for source, target in pairs if source.strip() and target.strip()]


def line_pairs(files):
    return translated(zip(lines_of(files["a.de"]), lines_of(files["a.en"]), strict=True))


def make_tab_pairs(draw, letters):
    rows = (f"{words(draw, letters)}\t{words(draw, letters)}\tCC-BY" for _ in range(draw.randint(2, 6)))
    return {"deu.txt": "\n".join(rows) + "\n"}


def load_tab_pairs(paths, encoding):
    return pairs(load_parallel("file", **both(paths["deu.txt"]), delimiter="tab", quoting="none", header=False, encoding=encoding))


def tab_pairs(files):
    rows = plain_rows(files["deu.txt"], "\t")
    assert len({len(row) for row in rows}) == 1
    return translated((row[0], row[1]) for row in rows)


# Tagged words


def sentences_of(draw, letters):
    tags = itertools.cycle(["NOUN", "VERB", "DET"])
    return [[(words(draw, letters, 1), next(tags)) for _ in range(draw.randint(2, 4))] for _ in range(draw.randint(2, 4))]


def make_conllu(draw, letters):
    lines = []
    for sentence in sentences_of(draw, letters):
        lines.append("# text = a comment")
        for i, (word, tag) in enumerate(sentence, 1):
            lines += [f"{i}-{i + 1}\t{word}x" + "\t_" * 8] if draw.random() < 0.1 else []
            lines.append(f"{i}\t{word}\t_\t{tag}\t_\t_\t0\troot\t_\t_")
        lines.append("")
    return {"a.conllu": "\n".join(lines) + "\n"}


def load_tagged_file(name, **options):
    def load(paths, encoding):
        part = load_tagged("file", **both(paths[name]), encoding=encoding, **options).parts["train"]
        return list(zip(part["words"], part["tags"], strict=True))

    return load


def conllu_words(files):
    """By the conllu package, and split by hand, which must agree."""
    import conllu

    text = files["a.conllu"]
    found = []
    for block in re.split(r"\n(?:[ \t]*\n)+", text):
        rows = [line.split("\t") for line in block.split("\n") if line.strip(" \t") and not line.startswith("#")]
        rows = [(row[1], row[3]) for row in rows if row[0].isdecimal()]
        found += [tuple(zip(*rows))] if rows else []
    with contextlib.suppress(conllu.exceptions.ParseException):  # of columns that are not read here
        read = [[token for token in sentence if isinstance(token["id"], int)] for sentence in conllu.parse(text)]
        assert [[(t["form"], t["upos"] or "_") for t in s] for s in read if s] == [[*zip(*sentence)] for sentence in found]
    return found


def make_columns(delimiter, name):
    def make(draw, letters):
        blocks = ["\n".join(delimiter.join((word, "x", tag)) for word, tag in s) for s in sentences_of(draw, letters)]
        return {name: delimiter.join(("-DOCSTART-", "x", "O")) + "\n\n" + "\n\n".join(blocks) + "\n" * draw.randint(0, 2)}

    return make


def column_words(name):
    def read(files):
        lines = files[name].split("\n")
        meant = [line for line in lines if line.strip(" \t") and not line.lstrip(" ").startswith("-DOCSTART-")]
        tabs, found, sentence = "\t" in meant[0], [], []
        sizes = set()
        for line in [*lines, ""]:
            if line.strip(" \t") and not line.lstrip(" ").startswith("-DOCSTART-"):
                cells = [cell.strip(" ") for cell in line.strip(" ").split("\t")] if tabs else [c for c in line.split(" ") if c]
                sizes.add(len(cells))
                sentence.append((cells[0], cells[-1]))
            elif not line.strip(" \t") and sentence:
                found.append(tuple(zip(*sentence)))
                sentence = []
        assert len(sizes) == 1
        return found

    return read


# Time series


def days(count):
    return [datetime.date(2023, 12, 27) + datetime.timedelta(days=i) for i in range(count)]


def make_series(draw, letters):
    names = {words(draw, letters, 1).strip("-.|;") or "a" for _ in range(2)}
    rows = [f"{day},{draw.choice(['', draw.randint(-9, 99) / 4, 7, '1e3', 'NA'])},{name}" for day in days(6) for name in sorted(names)]
    rows += [f"{day},{i},{name}" for i, name in enumerate(sorted(names)) for day in days(8)[6:]]
    return {"power.csv": "\n".join(["day,load,name", f"2023-12-26,5,{min(names)}", *rows]) + "\n"}


def make_wide_series(draw, letters):
    rows = [f"{day},{draw.choice(['', '?', draw.random()])},{draw.randint(0, 9)}" for day in days(8)]
    return {"power.csv": "\n".join(["day,left,right", "2023-12-26,1,2", *rows, "2024-01-04,3,4"]) + "\n"}


def load_power(**options):
    def load(paths, encoding):
        data = load_series(
            "file", path=paths["power.csv"], encoding=encoding, validation_steps=1, step="1D", gaps="missing", time_field="day", **options
        )
        part = data.parts["validation"]
        return [(n, tuple(map(str, t.astype("datetime64[s]"))), shown(v)) for n, t, v in zip(part["name"], part["time"], part["value"])]

    return load


def shown(values):
    return tuple("missing" if value != value else float(value) for value in values)


def as_number(text):
    missing = ("", "na", "n/a", "#n/a", "nan", "null", "none", "?", "-", ".")
    return float("nan") if text.strip().lower() in missing else float(text)


def on_days(found):
    """Series (name -> date -> value) with a value for each day from the first to the last."""
    series = []
    for name, values in found.items():
        first, last = min(values), max(values)
        every = [first + datetime.timedelta(days=i) for i in range((last - first).days + 1)]
        series.append((name, tuple(t.isoformat() for t in every), shown([values.get(day, float("nan")) for day in every])))
    return series


def as_time(text):
    text = text.strip()
    return datetime.datetime.strptime(text, "%Y-%m-%d" if len(text) <= 10 else "%Y-%m-%d %H:%M:%S")


def long_series(files):
    found = {}
    for day, value, name in columns_of(csv_rows(files["power.csv"], ","), "day", "load", "name"):
        assert found.setdefault(name.strip(), {}).setdefault(as_time(day), as_number(value)) is not None
    return on_days(found)


def wide_series(files):
    rows, found = csv_rows(files["power.csv"], ","), {}
    for name in ("left", "right"):
        values = {as_time(day): as_number(value) for day, value in columns_of(rows, "day", name)}
        there = [day for day, value in values.items() if value == value]
        found[name] = {day: value for day, value in values.items() if there[0] <= day <= there[-1]}
    return on_days(found)


# Images


def pictures(draw, number, shape=(8, 8, 3)):
    return np.random.default_rng(draw.randrange(2**32)).integers(0, 256, (number, *shape), np.uint8)


def class_numbers(draw, number):
    return [0, 1, 2] * 2 + [draw.randrange(3) for _ in range(number - 6)]


def load_pictures(name, **options):
    def load(paths, encoding):
        path = paths[name] if name in paths else next(iter(paths.values())).rsplit("/case/", 1)[0] + f"/case/{name}".rstrip("/")
        data, found = load_images("file", path=path, validation_fraction=0.2, **options), []
        for images in data.parts.values():
            pixels, labels = images.take(np.arange(len(images)))
            found += [(data.classes[label], image.tobytes()) for image, label in zip(pixels, labels)]
        return sorted(found)

    return load


def idx_bytes(values):
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def make_idx(draw, letters):
    number = draw.randint(6, 12)
    images, labels = pictures(draw, number, (3, 2)), np.array(class_numbers(draw, number), np.uint8)
    return {"train-images-idx3-ubyte": idx_bytes(images), "train-labels-idx1-ubyte": idx_bytes(labels)}


def idx_pictures(files):
    arrays = []
    for name, dimensions in (("train-images-idx3-ubyte", 3), ("train-labels-idx1-ubyte", 1)):
        zero, kind, found, *shape = struct.unpack_from(f">HBB{dimensions}I", files[name])
        assert (zero, kind, found) == (0, 8, dimensions)
        arrays.append(np.array(list(files[name][4 + 4 * dimensions :]), np.uint8).reshape(shape))
    return sorted((str(label), image.tobytes()) for image, label in zip(*arrays, strict=True))


def make_npz(draw, letters):
    number, file = draw.randint(6, 12), io.BytesIO()
    save = draw.choice([np.savez, np.savez_compressed])
    save(file, images=pictures(draw, number, (3, 2)), labels=np.array(class_numbers(draw, number)))
    return {"set.npz": file.getvalue()}


def npz_pictures(files):
    with np.load(io.BytesIO(files["set.npz"])) as arrays:
        labels = arrays["labels"].reshape(-1).tolist()
        return sorted((str(label), image.tobytes()) for label, image in zip(labels, arrays["images"], strict=True))


def encoded_picture(draw, pixels, form):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def make_folders(draw, letters):
    names = [f"{label}/{i}.{form}" for label in ("cat", "dog") for i, form in enumerate(("png", "jpg", "bmp", "png"))]
    forms = {"png": "PNG", "jpg": "JPEG", "bmp": "BMP"}
    return {n: encoded_picture(draw, p, forms[n[-3:]]) for n, p in zip(names, pictures(draw, len(names)))}


def decoded(content):
    """The pixels of an image file that needs no scaling or colour conversion; None for one that does."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(content))
        image.load()
    return image.tobytes() if image.size == (8, 8) and image.mode == "RGB" and not image.getexif() else None


def by_label(found):
    """Pairs of a label and pixels in order, those without known pixels first."""
    return sorted(found, key=lambda pair: (pair[0], pair[1] or b""))


def folder_pictures(files):
    return by_label((name.split("/")[0], decoded(content)) for name, content in files.items())


def make_image_table(draw, letters):
    rows = [(f"{i}.png", draw.choice(["cat", "dog"]) if i > 3 else ("cat", "dog")[i % 2]) for i in range(6)]
    files = {name: encoded_picture(draw, p, "PNG") for (name, _), p in zip(rows, pictures(draw, len(rows)))}
    return {"train.csv": "\n".join(["path,label", *map(",".join, rows)]) + "\n"} | files


def table_pictures(files):
    rows = csv_rows(files["train.csv"], ",")
    others = [name for name in rows[0] if name != "path"]
    rows = columns_of(rows, "path", "label" if "label" in others or len(others) > 1 else others[0])
    return by_label((label.strip(), decoded(files[name] if name in files else files[f"{name}.png"])) for name, label in rows)


def make_pixel_table(draw, letters):
    number = draw.randint(6, 9)
    rows = zip(class_numbers(draw, number), pictures(draw, number, (25,)).tolist())
    head = ",".join(["label", *(f"pixel{i}" for i in range(25))])
    return {"train.csv": "\n".join([head, *(",".join(map(str, [label, *pixels])) for label, pixels in rows)]) + "\n"}


def pixel_pictures(files):
    rows = csv_rows(files["train.csv"], ",")[1:]
    assert {len(row) for row in rows} == {26}
    return sorted((str(int(label)), bytes(map(int, pixels))) for label, *pixels in rows)


FORMATS = {
    "text": Format(make_text, load_text("none", "book.txt"), lambda files: [files["book.txt"]], lined=False),
    "lines": Format(make_text, load_text("line", "book.txt"), lambda files: lines_of(files["book.txt"])),
    "paragraphs": Format(make_text, load_text("paragraph", "book.txt"), lambda files: paragraphs_of(files["book.txt"])),
    "jsonl": Format(make_json_texts, load_text("none", "book.jsonl"), json_texts),
    "csv": Format(make_csv("films.csv", ","), load_table("films.csv"),
                  lambda files: columns_of(csv_rows(files["films.csv"], ","), "text", "label")),
    "quoted tsv": Format(make_csv("films.tsv", "\t", quoting=csv.QUOTE_ALL), load_table("films.tsv"),
                         lambda files: columns_of(csv_rows(files["films.tsv"], "\t"), "text", "label")),
    "tsv": Format(make_plain_tsv, load_table("films.tsv", quoting="none"),
                  lambda files: columns_of(plain_rows(files["films.tsv"], "\t"), "text", "label")),
    "labelled jsonl": Format(make_json_labelled, load_table("films.jsonl"), json_labelled),
    "file a class": Format(make_class_files, lambda p, e: labelled(load_labelled("file", **both(folder_of(p)), encoding=e)), class_files),
    "folder a class": Format(
        make_class_folders, lambda p, e: labelled(load_labelled("file", **both(folder_of(p)), encoding=e)), class_folders, lined=False),
    "line pairs": Format(make_lines, load_lines, line_pairs),
    "tab pairs": Format(make_tab_pairs, load_tab_pairs, tab_pairs),
    "conllu": Format(make_conllu, load_tagged_file("a.conllu"), conllu_words),
    "columns": Format(make_columns(" ", "a.conll"), load_tagged_file("a.conll"), column_words("a.conll")),
    "tab columns": Format(make_columns("\t", "a.tsv"), load_tagged_file("a.tsv"), column_words("a.tsv")),
    "series": Format(make_series, load_power(value_field="load", series_field="name"), long_series),
    "wide series": Format(make_wide_series, load_power(form="wide", value_field="left,right"), wide_series),
    "idx": Format(make_idx, load_pictures(""), idx_pictures, lined=False),
    "npz": Format(make_npz, load_pictures("set.npz"), npz_pictures, lined=False),
    "image folders": Format(make_folders, load_pictures("", image_size=8), folder_pictures, lined=False),
    "image table": Format(make_image_table, load_pictures("train.csv", image_size=8), table_pictures),
    "pixel table": Format(make_pixel_table, load_pictures("train.csv"), pixel_pictures),
}  # fmt: skip


def folder_of(paths):
    return next(iter(paths.values())).rsplit("/films/", 1)[0] + "/films"


# Damage

PIECES = [
    b"\0", b"\xef\xbb\xbf", b'"', b"'", b"\t", b"\r", b"\n", b"\r\n", b"\n\n", b",", b" ", b"\xff", b"\xc3", b"\xe2\x80\xa8", b"\xc2\x85",
    b"\x0b", b"\x1a", b"\\", b"{", b"}", b"#", b"1-2\t", b"1.1\t", b"-DOCSTART- O\n", b"\xc2\xa0", b"NaN", b"\\ud800", b"1e999", b"-1",
]  # fmt: skip
ENCODINGS = ["utf-16", "utf-16-le", "latin1", "cp1252", "utf-8-sig", "utf-7"]


def damage(content: bytes, kind: str, place: float, number: int, encoding: str) -> bytes:
    """A file's bytes, damaged."""
    at = int(place * len(content))
    lines = content.split(b"\n")
    line = int(place * len(lines))
    if kind == "delete":
        return content[:at] + content[at + 1 + number % 9 :]
    if kind == "insert":
        return content[:at] + PIECES[number % len(PIECES)] + content[at:]
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ (1 << number % 8)]) + content[at + 1 :] if content else b""
    if kind == "byte":
        return content[:at] + bytes([number % 256]) + content[at + 1 :]
    if kind == "truncate":
        return content[:at]
    if kind == "duplicate line":
        return b"\n".join(lines[: line + 1] + lines[line : line + 1 + number % 3] + lines[line + 1 :])
    if kind == "drop line":
        return b"\n".join(lines[:line] + lines[line + 1 + number % 3 :])
    if kind == "swap columns":
        by = next((by for by in (b"\t", b",", b" ") if by in lines[line]), b" ")
        cells = lines[line].split(by)
        cells[0], cells[-1] = cells[-1], cells[0]
        return b"\n".join([*lines[:line], by.join(cells), *lines[line + 1 :]])
    if kind == "line ends":
        ends = [b"\n", b"\r\n", b"\r", b"\n\r"]
        return b"".join(part + ends[(number >> i % 8) % len(ends)] for i, part in enumerate(lines))
    if kind == "recode":
        return content.decode(encoding, "replace").encode(ENCODINGS[number % len(ENCODINGS)], "replace")
    if kind == "nulls":
        return content[:at] + b"\0" * (1 + number % 200) + content[at:]
    if kind == "huge":
        return content[:at] + bytes([97 + number % 26]) * 200_000 + content[at:]
    raise ValueError(kind)


KINDS = (
    "delete", "insert", "flip", "byte", "truncate", "duplicate line", "drop line", "swap columns", "line ends", "recode", "nulls", "huge",
)  # fmt: skip


def packed(content: bytes, how: str) -> bytes:
    """The content as a gzip or zstd file, or as it is."""
    if how == "gz":
        return gzip.compress(content, mtime=0)
    if how == "zst":
        import zstandard

        return zstandard.ZstdCompressor().compress(content)
    return content


def unpacked(content: bytes, how: str) -> bytes:
    """The content of a valid gzip or zstd file, not read with the library's own stream reader."""
    if how == "gz" or content.startswith(b"\x1f\x8b"):
        return gzip.decompress(content)
    if how == "zst" or content.startswith(b"\x28\xb5\x2f\xfd"):
        import zstandard

        found = []
        while content:
            frame = zstandard.ZstdDecompressor().decompressobj()
            found.append(frame.decompress(content))
            assert frame.eof, "the file ends within a frame"
            content = frame.unused_data
        return b"".join(found)
    return content


def decoded_text(content: bytes, encoding: str) -> str:
    """A file's text: without a byte order mark, with lines that end in a newline alone."""
    return content.decode(encoding).removeprefix("\ufeff").replace("\r\n", "\n")
