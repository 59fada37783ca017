"""Bytes and texts of files, for the readers that do not use `seqjax.data.readers.opening` yet."""

from seqjax.data.readers.opening import read_bytes
from seqjax.errors import UserError

__all__ = ["decode_text", "read_bytes"]


def decode_text(path: str, data: bytes) -> str:
    r"""Bytes as text: UTF-8, without a byte order mark, lines that end in \r\n ending in \n."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 at byte {error.start} (0x{data[error.start]:02x}); save it as UTF-8, "
            "for example with iconv -f latin1 -t utf-8"
        ) from None
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if not text:
        raise UserError(f"{path} is empty; give a file with some text")
    return text
