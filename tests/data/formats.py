"""Files of every format: random valid ones, damage to them, and how independent readers read them."""

import csv
import gzip
import random
from collections.abc import Callable
from typing import Any, NamedTuple

from format_arrays import (
    folder_pictures,
    idx_pictures,
    load_pictures,
    load_power,
    long_series,
    make_folders,
    make_idx,
    make_image_table,
    make_npz,
    make_pixel_table,
    make_series,
    make_wide_series,
    npz_pictures,
    pixel_pictures,
    table_pictures,
    wide_series,
)
from format_texts import (
    both,
    class_files,
    class_folders,
    column_words,
    columns_of,
    conllu_words,
    csv_rows,
    json_labelled,
    json_texts,
    labelled,
    line_pairs,
    lines_of,
    load_lines,
    load_tab_pairs,
    load_table,
    load_tagged_file,
    load_text,
    make_class_files,
    make_class_folders,
    make_columns,
    make_conllu,
    make_csv,
    make_json_labelled,
    make_json_texts,
    make_lines,
    make_plain_tsv,
    make_tab_pairs,
    make_text,
    paragraphs_of,
    plain_rows,
    tab_pairs,
)

from seqjax.data import load_labelled

Files = dict[str, bytes]  # name below the case's folder -> content
Loaded = list[Any]


class Format(NamedTuple):
    """A kind of file."""

    make: Callable[[random.Random, str], dict[str, str | bytes]]  # (draw, letters) -> valid files
    load: Callable[[dict[str, str], str], Loaded]  # (paths, encoding) -> records, by our loader
    oracle: Callable[[dict[str, str | bytes]], Loaded]  # the same by another reader, of unpacked and decoded files
    lined: bool = True  # faults are of lines


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
