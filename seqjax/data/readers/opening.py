r"""Reads files as bytes and text: compressed or not, in any named encoding, as a stream if they are large.

Compression is detected from the first bytes, whatever the file's name. Text is UTF-8 unless another encoding is given; a byte order mark is
dropped, and \r\n is read as \n.
"""

import codecs
import gzip
import io
import itertools
import os
import pathlib
import sys
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from seqjax.errors import UserError, missing, nearest

CHUNK = 1 << 20  # bytes to read at once
EXPANSION, SMALL = 100, 64 << 20  # a compressed file may expand a hundredfold, or to 64 MB if that is more
GZIP, ZSTD, ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"
PACKED = (".gz", ".zst")
BYTE_ORDER_MARKS = {  # the longer ones first: UTF-32's starts like UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
COMMON = ("utf-8", "utf-16", "utf-32", "latin1", "cp1252", "cp1251", "shift_jis", "euc_jp", "gb18030", "big5", "euc_kr")


def unpacked_suffix(path: str | os.PathLike) -> str:
    """The extension of a file in lower case, ignoring that of compression.

    Example:
      >>> unpacked_suffix("Reviews.CSV.gz"), unpacked_suffix("book")
      ('.csv', '')
    """
    name = os.fspath(path).lower()
    for ending in PACKED:
        name = name.removesuffix(ending)
    return pathlib.PurePath(name).suffix


def is_folder(path: str | os.PathLike) -> bool:
    """Whether a path is a folder.

    Example:
      >>> is_folder("/"), is_folder("a\\0b")
      (True, False)
    """
    try:
        return pathlib.Path(os.path.expanduser(path)).is_dir()
    except (OSError, ValueError):  # a name too long, or with a null character; reading it reports that
        return False


def byte_chunks(path: str | os.PathLike) -> Iterator[bytes]:
    """The bytes of a file, a megabyte at a time; gzip and zstd files are decompressed.

    Args:
      path: the file; a leading `~` is the home folder, and "-" is standard input.

    Raises:
      UserError: no such file, a folder, no permission, a packed file that is damaged or expands suspiciously, or zstandard is not
        installed.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".txt.gz") as file:
      ...     _ = file.write(gzip.compress(b"to be"))
      ...     file.flush()
      ...     b"".join(byte_chunks(file.name))
      b'to be'
    """
    try:
        with _open(path) as file:
            yield from _unpacked(path, file)
    except UserError:
        raise
    except (OSError, ValueError) as error:  # a ValueError means a name with a null character
        raise UserError(_unreadable(path, error)) from None


def _open(path: str | os.PathLike) -> io.BufferedReader:
    if os.fspath(path) != "-":
        return open(os.path.expanduser(path), "rb")
    if sys.stdin is None:
        raise UserError("there is no standard input here; give the path of a file instead of -")
    return io.BufferedReader(io.BytesIO(sys.stdin.buffer.read()))


def _unreadable(path: str | os.PathLike, error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path} does not exist; check the path (the current folder is {pathlib.Path.cwd()})"
    if isinstance(error, IsADirectoryError):
        return f"{path} is a folder; give the name of a file in it"
    if isinstance(error, PermissionError):
        return f"{path} is not readable by this user; change its permissions, or give another file"
    return f"{os.fspath(path)!r} cannot be read ({getattr(error, 'strerror', None) or error}); give another file"


def _unpacked(path: str | os.PathLike, file: io.BufferedReader) -> Iterator[bytes]:
    begin, name = file.peek(4)[:4], os.fspath(path).lower()
    if begin == ZIP:
        raise UserError(f"{path} is a zip archive; unpack it, and give the file in it")
    if begin.startswith(GZIP) or name.endswith(".gz"):
        chunks = _gzip(path, file)
    elif begin == ZSTD or name.endswith(".zst"):
        chunks = _zstd(path, file)
    else:
        yield from iter(lambda: file.read(CHUNK), b"")
        return
    size = len(file.raw.getbuffer()) if isinstance(file.raw, io.BytesIO) else os.fstat(file.fileno()).st_size
    read = 0
    for chunk in chunks:
        read += len(chunk)
        if read > max(SMALL, EXPANSION * size):
            raise UserError(f"{path} unpacks to more than {EXPANSION} times its size; if that is right, unpack it and give the file in it")
        yield chunk


def _gzip(path: str | os.PathLike, file: BinaryIO) -> Iterator[bytes]:
    stream = gzip.GzipFile(fileobj=file)
    try:
        yield from iter(lambda: stream.read(CHUNK), b"")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a valid gzip file ({error}); recreate it, or drop .gz from its name") from None


def _zstd(path: str | os.PathLike, file: BinaryIO) -> Iterator[bytes]:
    """Decompresses frame by frame: the library's own stream does not report a truncated frame."""
    try:
        import zstandard
    except ImportError:
        raise missing(f"{path} is packed with zstd and needs zstandard", "experiments") from None
    frame, held, fault = None, [], ""
    try:
        while data := file.read(1024):  # small reads, since a small input can expand a lot, which is known only afterwards
            while data:
                frame = zstandard.ZstdDecompressor().decompressobj() if frame is None or frame.eof else frame
                held.append(frame.decompress(data))
                data = frame.unused_data
            if sum(map(len, held)) >= CHUNK:
                yield b"".join(held)
                held = []
    except zstandard.ZstdError as error:
        fault = str(error)
    if fault or frame is None or not frame.eof:
        fault = fault or "it ends too early"
        raise UserError(f"{path} is not a valid zstd file ({fault}); recreate it, or drop .zst from its name")
    yield from held


def read_bytes(path: str | os.PathLike) -> bytes:
    """All bytes of a file, as from `byte_chunks`.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile() as file:
      ...     _ = file.write(b"to be")
      ...     file.flush()
      ...     read_bytes(file.name)
      b'to be'
    """
    return b"".join(byte_chunks(path))


def text_chunks(path: str | os.PathLike, encoding: str = "utf-8", notes: list[str] | None = None) -> Iterator[str]:
    r"""The text of a file in pieces of about a megabyte.

    Args:
      path: as in `byte_chunks`.
      encoding: any encoding that Python knows.
      notes: receives a line at the end if the text has control characters, a sign of a wrong encoding.

    Raises:
      UserError: as `byte_chunks`; an unknown encoding; bytes invalid in it, with their offset and the likely encoding.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".txt") as file:
      ...     _ = file.write(b"\xef\xbb\xbfto be\r\nor not")
      ...     file.flush()
      ...     list(text_chunks(file.name))
      ['to be\nor not']
    """
    decoder, begin, offset, held, first = _decoder(encoding), b"", 0, "", True
    nulls = controls = returns = ends = 0
    for data in itertools.chain(byte_chunks(path), [b""]):
        begin = begin or data[:4096]
        pending = len(decoder.getstate()[0])
        try:
            text = held + decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            at = offset - pending + error.start
            raise UserError(_not_in(path, encoding, at, error.object[error.start], begin, data)) from None
        except UnicodeError as error:
            if "BOM" not in str(error):
                raise UserError(f"{path} cannot be read as {encoding} ({error}); name another encoding") from None
            raise UserError(f"{path} has no byte order mark, as {encoding} needs it; set encoding={encoding}-le or -be") from None
        if first and text:
            text, first = text.removeprefix("\ufeff"), False
        offset += len(data)
        held = "\r" if text.endswith("\r") and data else ""
        if "\r" in text:
            text = text.removesuffix(held).replace("\r\n", "\n")
        if notes is not None:
            nulls += text.count("\0")
            returns, ends = returns + text.count("\r"), ends + text.count("\n")
            controls += 0 if text.isascii() else _c1_controls(text)
        if text:
            yield text
    if notes is not None:
        notes += _suspicions(path, encoding, begin, nulls, controls)
        if returns and not ends:
            advice = "if they end lines, convert them with tr '\\r' '\\n'"
            notes.append(f"{path} has {returns:,} lone returns (\\r) and no other line ends; {advice}")


def _c1_controls(text: str) -> int:
    """How many characters lie between U+0080 and U+009F: in text they mean that cp1252 was read as latin1."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    return int(np.count_nonzero(points - np.uint32(0x80) < 0x20))


def _suspicions(path: str | os.PathLike, encoding: str, begin: bytes, nulls: int, controls: int) -> Iterator[str]:
    """A note if control characters suggest that a decoded text had another encoding."""
    if nulls:
        likely = likely_encoding(begin)
        advice = f"it looks like {likely}: set encoding={likely}" if likely not in ("", encoding) else "is it a text?"
        yield f"{path} has control characters: {nulls:,} NUL; {advice}"
    if controls:
        latin = codecs.lookup(encoding).name == "iso8859-1"
        advice = "set encoding=cp1252" if latin else "that was done before the file was written"
        yield f"{path} has control characters: {controls:,} of C1, which come of reading cp1252 as latin1; {advice}"


def _decoder(encoding: str) -> Any:
    try:
        decoder = codecs.getincrementaldecoder(encoding)()
        if isinstance(decoder.decode(b""), str):
            return decoder
    except (LookupError, TypeError, ValueError):
        pass
    near = nearest(encoding, COMMON)
    raise UserError(f"encoding={encoding!r} is not one that Python knows{near}; give one such as utf-8, utf-16 or cp1252")


def _not_in(path: str | os.PathLike, encoding: str, at: int, byte: int, begin: bytes, data: bytes) -> str:
    path = "standard input" if os.fspath(path) == "-" else path
    fault = f"{path} is not {encoding.upper().replace('UTF8', 'UTF-8')} at byte {at} (0x{byte:02x})"
    as_utf8, is_utf8 = data.decode("utf-8", "replace"), codecs.lookup(encoding).name == "utf-8"
    if is_utf8 and sum(not c.isascii() for c in as_utf8) > 2 * as_utf8.count("\ufffd"):
        return f"{fault}, though most of the rest is UTF-8; repair that character"
    likely = likely_encoding(begin, data)
    if not is_utf8 and likely in ("latin1", "cp1252") and "\ufffd" not in as_utf8[:-1]:  # the last may be cut
        likely = "utf-8"
    if not likely or likely == encoding:
        return f"{fault}, nor any other text by its first bytes; give a text file"
    return f"{fault}; it looks like {likely}: set encoding={likely}, or convert it with iconv -f {likely} -t utf-8"


def likely_encoding(begin: bytes, sample: bytes = b"") -> str:
    """The encoding that a file's bytes look like; "" if they are not text.

    Args:
      begin: the first bytes of the file.
      sample: bytes around the undecodable one.

    Example:
      >>> [likely_encoding("hä".encode(encoding)) for encoding in ("utf-16", "latin1")], likely_encoding("“hä”".encode("cp1252"))
      (['utf-16', 'latin1'], 'cp1252')
    """
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if begin.startswith(mark):
            return encoding
    even, odd = begin[::2].count(0), begin[1::2].count(0)
    if max(even, odd) > max(len(begin) / 8, 1):
        return ("utf-16-be" if even > odd else "utf-16-le") if min(even, odd) < max(even, odd) / 4 else ""
    if b"\0" in begin:
        return ""
    return "cp1252" if any(0x80 <= byte < 0xA0 for byte in begin + sample) else "latin1"


def read_text(path: str | os.PathLike, encoding: str = "utf-8", notes: list[str] | None = None) -> str:
    """The whole text of a file, as from `text_chunks`; at least one character.

    Raises:
      UserError: as `text_chunks`, or an empty file.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".txt") as file:
      ...     _ = file.write("où".encode("latin1"))
      ...     file.flush()
      ...     read_text(file.name, encoding="latin1")
      'où'
    """
    text = "".join(text_chunks(path, encoding, notes))
    if not text:
        raise UserError(_empty(path))
    return text


def text_lines(path: str | os.PathLike, encoding: str = "utf-8", notes: list[str] | None = None) -> Iterator[str]:
    r"""The lines of a file, one by one, without line endings; a final \n adds no line. Lines end at \n alone.

    Raises:
      UserError: as `text_chunks`, or an empty file.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".txt") as file:
      ...     _ = file.write(b"one\r\n\nthree\n")
      ...     file.flush()
      ...     list(text_lines(file.name))
      ['one', '', 'three']
    """
    held: list[str] = []
    chunk = ""
    for chunk in text_chunks(path, encoding, notes):
        *whole, rest = chunk.split("\n")
        for line in whole:
            yield "".join([*held, line]) if held else line
            held = []
        if rest:
            held.append(rest)
    if not chunk:
        raise UserError(_empty(path))
    if held:
        yield "".join(held)


def _empty(path: str | os.PathLike) -> str:
    return f"{'standard input' if os.fspath(path) == '-' else path} is empty; give a file with some text"
