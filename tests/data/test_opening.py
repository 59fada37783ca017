"""Files to text: packed or not, in any encoding, in pieces of any size; and messages for other files."""

import codecs
import gzip
import io
import os
import sys
import threading
import types
import zipfile
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqjax.data.readers import opening
from seqjax.data.readers.opening import byte_chunks, read_bytes, read_text, text_chunks, text_lines, unpacked_suffix
from seqjax.errors import UserError

LONG = "größer, naïve, “déjà vu” and so on; " * 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def refused(path, encoding="utf-8"):
    with pytest.raises(UserError) as caught:
        read_text(path, encoding)
    message = str(caught.value)
    assert "\n" not in message and "data." not in message  # a library knows no setting of an experiment
    return message


ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-7", "gb18030")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "\n", "\r", "\r\n", "é", "漢", "🎉", "\ufeff", "\0", "\x85", " "]), max_size=30).map("".join),
    st.sampled_from(ENCODINGS),
    st.integers(1, 7),
    st.sampled_from(["plain", "gzip", "zstd"]),
)
def test_text_in_pieces_is_the_text(folder, text, encoding, chunk, packed):
    data = ("\ufeff" if encoding.endswith("e") and encoding.startswith("utf-") else "").encode(encoding) + text.encode(encoding)
    path = folder / "text"
    path.write_bytes(pack(data, packed))
    wanted = data.decode(encoding).removeprefix("\ufeff").replace("\r\n", "\n")
    with mock.patch.object(opening, "CHUNK", chunk):
        pieces = list(text_chunks(path, encoding))
        if wanted:
            assert list(text_lines(path, encoding)) == wanted.removesuffix("\n").split("\n")
        else:
            with pytest.raises(UserError, match="is empty; give a file with some text"):
                next(text_lines(path, encoding))
        assert b"".join(byte_chunks(path)) == data
    assert "".join(pieces) == wanted and all(pieces)


def pack(data, how):
    if how == "zstd":
        return pytest.importorskip("zstandard").ZstdCompressor().compress(data)
    return gzip.compress(data) if how == "gzip" else data


@pytest.mark.parametrize("how", ["gzip", "zstd"])
@pytest.mark.parametrize("name", ["a.txt", "a.bin", "a.TXT.gz"])
def test_packed_files_are_known_by_their_first_bytes(folder, how, name):
    if how == "zstd" and name.endswith("gz"):
        pytest.skip("a file called .gz is gzip")
    (folder / name).write_bytes(pack(LONG.encode(), how))
    assert read_text(folder / name) == LONG


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_several_packed_parts_end_to_end(folder, how):
    path = folder / "parts"
    path.write_bytes(b"".join(pack(part.encode(), how) for part in (LONG, "", "more")))
    for chunk in (1, 1000, opening.CHUNK):
        with mock.patch.object(opening, "CHUNK", chunk):
            assert read_text(path) == LONG + "more"


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_a_packed_file_that_lacks_its_end_is_refused_wherever_it_is_cut(folder, how):
    """zstandard's own stream returns a truncated file without an error."""
    data, path = pack(os.urandom(300_000), how), folder / "cut"
    for end in (4, 20, len(data) // 2, len(data) - 4, len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(UserError, match=f"cut is not a valid {how} file"):
            read_bytes(path)
    path.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:] + b"and more")
    with pytest.raises(UserError, match=f"not a valid {how} file"):
        read_bytes(path)


@pytest.mark.parametrize("name, says", [("a.gz", "drop .gz"), ("b.zst", "drop .zst")])
def test_a_plain_file_called_packed_is_refused(folder, name, says):
    (folder / name).write_bytes(b"plain text")
    assert says in refused(folder / name)


def test_a_zip_archive_is_named(folder):
    with zipfile.ZipFile(folder / "a.txt.zip", "w") as file:
        file.writestr("a.txt", LONG)
    assert "is a zip archive; unpack it" in refused(folder / "a.txt.zip")


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_what_unpacks_to_far_more_than_its_size_is_refused_before_it_is_in_memory(folder, how):
    path = folder / "bomb"
    path.write_bytes(pack(b"\0" * (1 << 26), how))
    with mock.patch.object(opening, "SMALL", 1 << 20):
        taken = 0
        with pytest.raises(UserError, match="bomb unpacks to more than 100 times its size"):
            for chunk in byte_chunks(path):
                taken += len(chunk)
        assert taken <= 100 * os.path.getsize(path) + (1 << 20)
        path.write_bytes(pack(b"\0" * (1 << 20), how))  # so little may be anything
        assert len(read_bytes(path)) == 1 << 20


def test_without_zstandard_the_extra_is_named(folder, monkeypatch):
    path = folder / "a.zst"
    path.write_bytes(opening.ZSTD + b"...")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert "needs zstandard, which is not installed; run pip install -e '.[experiments]'" in refused(path)


@pytest.mark.parametrize(
    "data, says",
    [
        (LONG.encode("utf-16"), "it looks like utf-16: set encoding=utf-16, or convert it with iconv -f utf-16 -t utf-8"),
        (codecs.BOM_UTF16_BE + LONG.encode("utf-16-be"), "it looks like utf-16:"),
        (LONG.encode("utf-32"), "it looks like utf-32:"),
        (LONG.encode("utf-16-le"), "it looks like utf-16-le:"),
        (LONG.encode("utf-16-be"), "it looks like utf-16-be:"),
        (LONG.encode("cp1252"), "it looks like cp1252:"),
        (LONG.replace("“", '"').replace("”", '"').encode("latin1"), "it looks like latin1:"),
        (LONG.encode().replace(b"\xc3\xb6", b"\xf6", 1), "though most of the rest is UTF-8; repair that character"),
        (bytes(range(256)) * 40, "nor any other text"),
    ],
)
def test_what_is_not_utf8_is_told_by_its_likely_encoding(folder, data, says):
    (folder / "a.txt").write_bytes(data)
    message = refused(folder / "a.txt")
    assert "a.txt is not UTF-8 at byte" in message and says in message
    named = says.removeprefix("it looks like ").split(":")[0]
    if says.startswith("it looks like"):  # following the advice gives the text
        assert read_text(folder / "a.txt", named) == data.decode(named).removeprefix("\ufeff")


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 20])
def test_the_byte_that_is_wrong_is_counted_from_the_beginning(folder, chunk):
    (folder / "a.txt").write_bytes("aé漢🎉".encode() + b"b\xe6\xbcc")
    with mock.patch.object(opening, "CHUNK", chunk):
        assert "at byte 11 (0xe6)" in refused(folder / "a.txt")


@pytest.mark.parametrize(
    "text, written, read, says",
    [
        ("abc " * 20, "utf-16-le", "utf-8", [": 80 NUL; it looks like utf-16-le: set encoding=utf-16-le"]),
        ("abc " * 20, "utf-16-be", "latin1", [": 80 NUL; it looks like utf-16-be"]),
        ("a\0bc", "utf-8", "utf-8", [": 1 NUL; is it a text?"]),
        ("“a”", "cp1252", "latin1", [": 2 of C1, which come of reading cp1252 as latin1; set encoding=cp1252"]),
        ("a\x85b", "utf-8", "utf-8", [": 1 of C1, which come of reading cp1252 as latin1; that was done before"]),
        ("“a” ä\t\n", "utf-8", "utf-8", []),
        ("“a” ä", "cp1252", "cp1252", []),
    ],
)
def test_control_characters_are_noted(folder, text, written, read, says):
    (folder / "a.txt").write_bytes(text.encode(written))
    notes = []
    read_text(folder / "a.txt", read, notes)
    assert len(notes) == len(says)
    for note, words in zip(notes, says):
        assert note.startswith(f"{folder / 'a.txt'} has ") and words in note and "data." not in note


@pytest.mark.parametrize("encoding, near", [("utf8x", "utf-8"), ("cp1525", "cp125"), ("base64", ""), ("rot13", ""), ("a\0", ""), ("", "")])
def test_an_encoding_that_is_none_is_refused(folder, encoding, near):
    (folder / "a.txt").write_bytes(b"abc")
    message = refused(folder / "a.txt", encoding)
    assert "is not one that Python knows" in message and near in message


def test_utf16_without_its_mark(folder):
    (folder / "a.txt").write_bytes(LONG.encode("utf-16-le"))
    assert "has no byte order mark, as utf-16 needs it; set encoding=utf-16-le or -be" in refused(folder / "a.txt", "utf-16")


def test_standard_input(monkeypatch):
    for data in (b"to be\r\n", gzip.compress(b"to be\r\n"), pack(b"to be\r\n", "zstd")):
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(data)))
        assert read_text("-") == "to be\n"
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO()))
    assert refused("-").startswith("standard input is empty")
    monkeypatch.setattr(sys, "stdin", None)
    assert "no standard input here" in refused("-")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("how", ["plain", "gzip"])
def test_a_named_pipe(tmp_path, how):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(pack(LONG.encode(), how),))
    writer.start()
    assert read_text(path) == LONG
    writer.join()


@pytest.mark.parametrize(
    "name, suffix", [("a.TXT", ".txt"), ("a.csv.GZ", ".csv"), ("b/a.jsonl.zst", ".jsonl"), ("a.gz", ""), ("a.b/c", "")]
)
def test_the_ending_below_the_packing(name, suffix):
    assert unpacked_suffix(name) == suffix


def test_lone_returns_without_other_line_ends_are_noted(tmp_path):
    for text, noted in (("a\rb\rc", True), ("a\rb\nc", False), ("a\r\nb", False)):
        (tmp_path / "a.txt").write_bytes(text.encode())
        notes = []
        assert "".join(text_chunks(tmp_path / "a.txt", notes=notes)) == text.replace("\r\n", "\n")
        assert bool(notes) == noted and all("2 lone returns" in note for note in notes)
