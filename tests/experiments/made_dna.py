"""Made-up DNA, small enough to train on in seconds: a tag for each base, a label for each sequence, a genome with annotation."""

import pathlib
import random

from made import Data, append

MOTIFS = {"donor": "GGTAAG", "acceptor": "TTTCAG"}


def _bases(chooser, number, letters="ACGT"):
    return "".join(chooser.choice(letters) for _ in range(number))


def tagged(chooser, length):
    """(bases, tags): islands of G and C, tagged "i", in a sea of A and T, tagged "s"; one base in ten is a stranger."""
    sequence, tags = "", ""
    while len(sequence) < length:
        size, tag = chooser.randint(6, 15), chooser.choice("is")
        sequence += "".join(chooser.choice("ACGT" if chooser.random() < 0.1 else {"i": "GC", "s": "AT"}[tag]) for _ in range(size))
        tags += tag * size
    return sequence[:length], tags[:length]


def write_tagged(path: pathlib.Path, number: int, seed: int, extra: tuple[int, ...] = ()) -> pathlib.Path:
    """A table with a letter for each base; `extra` are lengths of further sequences."""
    chooser = random.Random(seed)
    rows = [tagged(chooser, length) for length in [*(chooser.randint(20, 40) for _ in range(number)), *extra]]
    path.write_text("sequence,label\n" + "".join(f"{bases},{tags}\n" for bases, tags in rows))
    return path


def write_labelled(path: pathlib.Path, number: int, seed: int, length: int = 24) -> pathlib.Path:
    """A table of sequences with a motif in the middle, or none."""
    chooser, rows = random.Random(seed), []
    for i in range(number):
        label = ("donor", "acceptor", "neither")[i % 3]
        motif = MOTIFS.get(label, _bases(chooser, 6))
        side = (length - 6) // 2
        rows.append(f"{_bases(chooser, side)}{motif}{_bases(chooser, length - 6 - side)},{label}\n")
    path.write_text("sequence,label\n" + "".join(rows))
    return path


def write_genome(folder: pathlib.Path, lengths: dict[str, int], seed: int) -> None:
    """genome.fa in lines of 50, and genes.gff3 and genes.bed: islands on either strand."""
    chooser, fasta, gff, bed = random.Random(seed), [], ["##gff-version 3"], []
    for name, length in lengths.items():
        sequence, tags = tagged(chooser, length)
        fasta += [f">{name} made up", *(sequence[i : i + 50] for i in range(0, length, 50))]
        begin = 0
        for end in range(1, length + 1):
            if end == length or tags[end] != tags[begin]:
                if tags[begin] == "i":
                    strand = chooser.choice("+-")
                    gff.append(f"{name}\tmade\tCDS\t{begin + 1}\t{end}\t.\t{strand}\t0\tID=cds{begin}")
                    bed.append(f"{name}\t{begin}\t{end}\tCDS\t0\t{strand}")
                begin = end
    (folder / "genome.fa").write_text("\n".join(fasta) + "\n")
    (folder / "genes.gff3").write_text("\n".join(gff) + "\n")
    (folder / "genes.bed").write_text("\n".join(bed) + "\n")


def _write(folder):
    """One sequence of the validation part is longer than the largest bucket."""
    write_tagged(folder / "train.csv", 60, seed=0)
    write_tagged(folder / "validation.csv", 20, seed=1, extra=(90,))
    write_tagged(folder / "test.csv", 10, seed=2)
    write_labelled(folder / "labelled.csv", 60, seed=3)
    write_genome(folder, {"chr1": 900, "chr2": 300, "chr3": 200}, seed=4)


DNA = Data(
    _write,
    lambda folder: {
        "data.source": "file",
        "data.path": folder / "train.csv",
        "data.validation_path": folder / "validation.csv",
        "data.test_path": folder / "test.csv",
    },
    lambda folder: append(folder / "validation.csv", b"ACGT,isis\n"),
)
