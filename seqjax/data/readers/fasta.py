r"""FASTA: each record is a header line, ">" and a name, then lines of IUPAC letters; plain or packed with gzip, bgzip or zstd."""

import os
import re
from typing import NamedTuple

from seqjax.data.readers.opening import PACKED, read_bytes
from seqjax.data.records import Faults, Places, Records
from seqjax.errors import UserError, missing, nearest
from seqjax.models.nucleotides import LETTERS

ENDINGS = (".fa", ".fasta", ".fna", ".ffn", ".fas")
KNOWN = (LETTERS[1:] + LETTERS[1:].lower() + "Uu").encode()
PROTEIN = frozenset("EFILPQZJXO*")  # letters of proteins that are not bases
REGION = re.compile(r"(.+):([0-9,]+)-([0-9,]+)")


def read_fasta(path: str | os.PathLike, data: bytes | None = None) -> Records:
    r"""The records of a FASTA file.

    Lines may be of any length and end in \n or \r\n; blank lines, spaces within lines and lines that start with ";" are ignored. Case is
    kept: lower case usually marks repeats ("soft masking").

    Args:
      path: the file, plain or packed; "-" is standard input.
      data: its content, if already read.

    Returns:
      Records with "name" (the text before the first space), "description" (what follows) and "sequence", each a tuple of str, located at
      the header lines.

    Raises:
      UserError: an unreadable file, or faults in it, all listed with line and record: no header, a record without a name or a sequence, a
        repeated name, letters that are not bases, such as those of a protein.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".fa") as file:
      ...     _ = file.write(b">chr1 the first\nACGT\nacn\n>chr2\nTT\n")
      ...     file.flush()
      ...     records = read_fasta(file.name)
      >>> records["name"], records["description"], records["sequence"]
      (('chr1', 'chr2'), ('the first', ''), ('ACGTacn', 'TT'))
    """
    faults = Faults(str(path))
    found: list[tuple[str, str, str, int]] = []
    for part in _records(path, read_bytes(path) if data is None else data, faults):
        if part:
            found.append(part)
    lines: dict[str, int] = {}
    for name, _, sequence, line in found:
        if name in lines:
            faults.add(f"{path} line {line}: the name {name!r} is that of the record at line {lines[name]}; rename one of them")
        lines.setdefault(name, line)
        if not sequence:
            faults.add(f"{path} line {line}: the record {name!r} has no sequence; add it, or leave the record out")
    faults.raise_any()
    if not found:
        raise UserError(f"{'standard input' if path == '-' else path} has no sequences; give a FASTA file with some")
    names, descriptions, sequences, numbers = zip(*found)
    columns = {"name": names, "description": descriptions, "sequence": sequences}
    return Records(columns, Places.of(f"{path} line", numbers))


def _records(path, data: bytes, faults: Faults):
    """(name, description, sequence, line) of each record; a record with a wrong letter keeps a sequence, so that it is not reported as
    empty too."""
    header, pieces, reported = None, [], False
    for number, line in enumerate(data.split(b"\n"), 1):
        line = line.rstrip(b"\r").replace(b" ", b"").replace(b"\t", b"") if not line.startswith(b">") else line.rstrip(b"\r")
        if not line or line.startswith(b";"):
            continue
        if line.startswith(b">"):
            if header:
                yield (*header[:2], b"".join(pieces).decode("latin1"), header[2])
            name, _, description = line[1:].decode("utf-8", "replace").strip().partition(" ")
            if not name:
                faults.add(f"{path} line {number}: the header has no name; write one after the >")
                name = f"record {number}"
            header, pieces, reported = (name, description.strip(), number), [], False
            continue
        if header is None:
            advice = "this looks like FASTQ: call it .fastq" if line.startswith(b"@") else "a record begins with > and a name"
            faults.add(f"{path} line {number} comes before any header; {advice}")
            return
        wrong = line.translate(None, KNOWN)
        if wrong and not reported:
            faults.add(f"{path} line {number}, record {header[0]!r}: {letter_fault(line, wrong)}")
            reported = True
        pieces.append(line)
    if header:
        yield (*header[:2], b"".join(pieces).decode("latin1"), header[2])


def letter_fault(line: bytes, wrong: bytes) -> str:
    """What is wrong with a line that has letters other than IUPAC codes.

    Args:
      line: the line.
      wrong: its letters that are not bases.

    Example:
      >>> letter_fault(b"MKVL", b"L")
      "'L' at column 4 is not a base: this looks like a protein; give DNA or RNA"
    """
    letter, column = wrong[:1].decode("latin1"), line.index(wrong[:1]) + 1
    what = f"{letter!r} at column {column} is not a base"
    if letter in "-.~":
        return f"{what}: this looks like an alignment; take the gaps out"
    if PROTEIN & set(wrong.decode("latin1").upper()):
        return f"{what}: this looks like a protein; give DNA or RNA"
    return f"{what}; the letters are A, C, G, T or U, and {', '.join(c for c in LETTERS[1:] if c not in 'ACGT')} for several"


class Region(NamedTuple):
    """A stretch of a sequence."""

    name: str
    start: int  # position of its first base, from 0
    sequence: str


def read_region(path: str | os.PathLike, region: str) -> Region:
    r"""A stretch of one sequence of a FASTA file; nothing else is read unless the file is packed.

    The index this needs, FILE.fai, is created by pyfaidx beside the file at the first call, as by `samtools faidx`. A packed
    file is read whole.

    Args:
      path: the FASTA file.
      region: a name, or name:first-last, 1-based with both ends included, as in samtools.

    Raises:
      UserError: no such sequence (the message names the nearest), a region beyond its end, lines of unequal lengths, or pyfaidx is missing.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = os.path.join(folder, "genome.fa")
      ...     with open(path, "w") as file:
      ...         _ = file.write(">chr1\nACGT\nAACC\n")
      ...     read_region(path, "chr1:3-6")
      Region(name='chr1', start=2, sequence='GTAA')
    """
    if str(path).lower().endswith(PACKED):
        records = read_fasta(path)
        return _cut(path, region, dict(zip(records["name"], records["sequence"])), lambda sequence: sequence)
    try:
        import pyfaidx
    except ImportError:
        raise missing("a region of a FASTA file needs pyfaidx", "dna") from None
    if not os.path.isfile(path):
        raise UserError(f"{path} does not exist; give a FASTA file")
    try:
        with pyfaidx.Fasta(str(path), as_raw=True, rebuild=True, sequence_always_upper=False) as genome:
            found = _cut(path, region, genome, str)
    except (pyfaidx.FastaIndexingError, pyfaidx.FastaNotFoundError, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be indexed ({error}); give lines of one length and a folder that can be written") from None
    if wrong := found.sequence.encode().translate(None, KNOWN):
        raise UserError(f"{path}, {region}: {letter_fault(found.sequence.encode(), wrong)}")
    return found


def _cut(path, region: str, genome, text) -> Region:
    match = None if region in genome.keys() else REGION.fullmatch(region)
    name = match[1] if match else region
    if name not in genome.keys():
        raise UserError(f"{path} has no sequence {name!r}{nearest(name, genome.keys(), cutoff=0)}; give one of its names")
    length = len(genome[name])
    first, last = (int(match[i].replace(",", "")) for i in (2, 3)) if match else (1, length)
    if not 1 <= first <= last <= length:
        raise UserError(f"{region} is not a region of {name}, which has bases 1 to {length:,}; the first is 1 and both ends are included")
    return Region(name, first - 1, text(genome[name][first - 1 : last]))
