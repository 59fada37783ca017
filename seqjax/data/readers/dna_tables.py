r"""Tables of labelled sequences: any table, and ARFF with one column per base."""

import csv
import os
from collections.abc import Sequence

from seqjax.data.readers.fasta import KNOWN, letter_fault
from seqjax.data.readers.opening import text_lines
from seqjax.data.readers.tables import Format, read_table
from seqjax.data.records import Faults, Places, Records
from seqjax.errors import UserError, refuse_unknown


def read_dna_table(path: str | os.PathLike, sequence_field: str, label_field: str, format: Format) -> Records:
    r"""A table with a sequence and a label in each row, such as UCI's promoters.data: `+,NAME,\t\ttactagca...`.

    Args:
      path: the file.
      sequence_field, label_field: names of the fields, or their numbers from "1".
      format: how the table is written.

    Returns:
      Records with "sequence" and "label", tuples of str, without white space around them.

    Raises:
      UserError: as `read_table`; sequences that are empty or have letters that are not bases, all with their lines.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile(suffix=".data") as file:
      ...     _ = file.write(b"+,S10,\t\ttacta\n-,867,\t\tcgtgt\n")
      ...     file.flush()
      ...     read_dna_table(file.name, "3", "1", Format(",", header=False)).columns
      {'sequence': ('tacta', 'cgtgt'), 'label': ('+', '-')}
    """
    fields = {"sequence": ("sequence_field", sequence_field), "label": ("label_field", label_field)}
    records = read_table(path, fields, format, ())
    columns = {name: tuple("".join(value.split()) if name == "sequence" else value.strip() for value in records[name]) for name in fields}
    return checked(path, records.replace(**columns))


def checked(path: str | os.PathLike, records: Records) -> Records:
    """Checks that sequences have only bases and that no label is missing, and returns the records.

    Raises:
      UserError: faulty records; the message lists all of them.

    Example:
      >>> checked("a.csv", Records({"sequence": ("ACGE",), "label": ("+",)}, Places.of("a.csv line", [2])))
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: a.csv line 2: 'E' at column 4 is not a base: this looks like a protein; give DNA or RNA
    """
    faults = Faults(str(path))
    for index, (sequence, label) in enumerate(zip(records["sequence"], records["label"])):
        where, data = records.places.at(index), sequence.encode("latin1", "replace")
        if not data:
            faults.add(f"{where}: the sequence is empty; add it, or leave the line out")
        elif wrong := data.translate(None, KNOWN):
            faults.add(f"{where}: {letter_fault(data, wrong)}")
        if not label:
            faults.add(f"{where}: the label is empty; add it, or leave the line out")
    faults.raise_any()
    return records


def read_arff(path: str | os.PathLike, label_field: str = "") -> Records:
    """An ARFF file with one attribute per base, such as UCI's splice junctions.

    Args:
      path: the file, plain or packed.
      label_field: the attribute with the label; "" is the last.

    Returns:
      Records with "sequence" (the attributes whose values are all single IUPAC letters, in their order) and "label".

    Raises:
      UserError: no such attribute, none with bases, no data, or faulty rows (all of them, with their lines).

    Example:
      >>> import tempfile
      >>> text = "@relation r\\n@attribute a1 {A,C}\\n@attribute a2 {G,T}\\n@attribute class {x,y}\\n@data\\nA,T,x\\n"
      >>> with tempfile.NamedTemporaryFile("w", suffix=".arff") as file:
      ...     _ = file.write(text)
      ...     file.flush()
      ...     read_arff(file.name).columns
      {'sequence': ('AT',), 'label': ('x',)}

    Source: the Attribute-Relation File Format of Weka.
    """
    faults, attributes, rows, begun = Faults(str(path)), {}, [], False
    for number, line in enumerate(text_lines(path), 1):
        line = line.strip()
        if not line or line.startswith("%"):
            continue
        if begun:
            rows.append((number, [cell.strip() for cell in next(csv.reader([line], quotechar="'", skipinitialspace=True))]))
        elif line.lower().startswith("@attribute"):
            name, values = _attribute(line)
            attributes[name] = values
        begun |= line.lower().startswith("@data")
    label = label_field or next(reversed(attributes), "")
    refuse_unknown(f"{path} has no attribute {label!r} for the label", label, attributes)
    names = list(attributes)
    bases = [i for i, name in enumerate(names) if name != label and _is_base(attributes[name])]
    if not bases or not rows:
        raise UserError(f"{path} has no {'rows' if bases else 'attributes whose values are single bases'}; give another file")
    sequences, labels, at = [], [], names.index(label)
    for number, cells in rows:
        if len(cells) != len(names):
            faults.add(f"{path} line {number} has {len(cells)} values, and there are {len(names)} attributes; repair that line")
            continue
        wrong = [cells[i] for i in bases if len(cells[i]) != 1]
        if wrong:
            faults.add(f"{path} line {number}: {wrong[0]!r} is not one base; repair that line")
        sequences.append("".join(cells[i] for i in bases))
        labels.append(cells[at])
    faults.raise_any()
    places = Places.of(f"{path} line", [number for number, _ in rows])
    return checked(path, Records({"sequence": tuple(sequences), "label": tuple(labels)}, places))


def _attribute(line: str) -> tuple[str, Sequence[str]]:
    """Name and nominal values of a declaration; no values if it has another type."""
    rest = line.split(None, 1)[1].strip()
    quote = rest[0] if rest[:1] in "'\"" else ""
    name, _, kind = rest[1:].partition(quote) if quote else rest.partition(" ")
    inner = kind.strip()
    return name, [value.strip() for value in inner[1:-1].split(",")] if inner.startswith("{") else []


def _is_base(values: Sequence[str]) -> bool:
    return bool(values) and all(len(value) == 1 and value.encode() in KNOWN for value in values)
