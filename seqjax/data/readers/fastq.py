r"""FASTQ: sequencing reads with the quality of each base; four lines per record, plain or packed."""

import os

import numpy as np

from seqjax.data.readers.fasta import KNOWN, letter_fault
from seqjax.data.readers.opening import read_bytes
from seqjax.data.records import Faults, Places, Records
from seqjax.errors import UserError

ENDINGS = (".fastq", ".fq")
OFFSET, HIGHEST = 33, 93  # Phred + 33: "!" is 0, "~" is 93


def read_fastq(path: str | os.PathLike, data: bytes | None = None) -> Records:
    r"""The reads of a FASTQ file.

      @name and description
      sequence
      +
      qualities, as many characters as bases: Phred + 33

    A quality q says that a base is wrong with probability 10^(-q / 10).

    Args:
      path: the file, plain or packed; "-" is standard input.
      data: its content, if already read.

    Returns:
      Records with "name", "description" and "sequence", tuples of str, and "quality", a uint8 array (T,) for each read; located at the
      header lines. Names may repeat, as those of paired reads do.

    Raises:
      UserError: an unreadable file, or faults in it, all listed with line and record: a truncated record, an unexpected line, a different
        number of qualities and bases, letters that are not bases.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".fastq") as file:
      ...     _ = file.write(b"@read1\nACGT\n+\nII!5\n")
      ...     file.flush()
      ...     records = read_fastq(file.name)
      >>> records["sequence"], records["quality"][0].tolist()
      (('ACGT',), [40, 40, 0, 20])
    """
    lines = [line.rstrip(b"\r") for line in (read_bytes(path) if data is None else data).split(b"\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    faults, found = Faults(str(path)), []
    for begin in range(0, len(lines), 4):
        record, number = lines[begin : begin + 4], begin + 1
        name, _, description = record[0][1:].decode("utf-8", "replace").strip().partition(" ")
        fault = _fault(path, record, number, name)
        if fault:
            faults.add(fault)
            if not record[0].startswith(b"@") or len(record) < 4 or not record[2].startswith(b"+"):
                break  # the lines after it are out of step
        else:
            quality = np.frombuffer(record[3], np.uint8) - np.uint8(OFFSET)
            found.append((name, description.strip(), record[1].decode("latin1"), quality, number))
    faults.raise_any()
    if not found:
        raise UserError(f"{'standard input' if path == '-' else path} has no reads; give a FASTQ file with some")
    names, descriptions, sequences, qualities, numbers = zip(*found)
    columns = {"name": names, "description": descriptions, "sequence": sequences, "quality": qualities}
    return Records(columns, Places.of(f"{path} line", numbers))


def _fault(path, record: list[bytes], number: int, name: str) -> str:
    where = f"{path} line {number}"
    if not record[0].startswith(b"@"):
        advice = "this looks like FASTA: call it .fasta" if record[0].startswith(b">") else "a record begins with @ and a name"
        return f"{where} has no header; {advice}"
    if len(record) < 4:
        return f"{where}: the record {name!r} is truncated: the file ends after {len(record)} of its 4 lines; get the complete file"
    _, bases, plus, quality = record
    if not plus.startswith(b"+"):
        return f"{path} line {number + 2}, record {name!r}: a + is due here; records have four lines, none of them broken"
    if not bases:
        return f"{path} line {number + 1}: the record {name!r} has no sequence; leave it out"
    if wrong := bases.translate(None, KNOWN):
        return f"{path} line {number + 1}, record {name!r}: {letter_fault(bases, wrong)}"
    if len(quality) != len(bases):
        return f"{path} line {number + 3}, record {name!r}: {len(quality)} qualities for {len(bases)} bases; is the record cut?"
    if not all(OFFSET <= byte <= OFFSET + HIGHEST for byte in quality):
        return f"{path} line {number + 3}, record {name!r}: a quality is not a character from ! to ~; is this Phred + 33?"
    return ""
