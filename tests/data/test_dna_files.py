"""FASTA, FASTQ, tables of sequences: the records read, in every compression, and refusals, all at once with file and line."""

import gzip
import struct
import zlib

import numpy as np
import pytest

from seqjax.data.dna import read_sequences
from seqjax.data.readers.dna_tables import read_arff, read_dna_table
from seqjax.data.readers.fasta import read_fasta, read_region
from seqjax.data.readers.fastq import read_fastq
from seqjax.data.readers.tables import Format
from seqjax.errors import UserError

FASTA = b">chr1 the first\nACGTRYSW\nKMBDHVN\n\n>chr2\nacgtnU\n;a comment\nTT\n"


def bgzip(data, block=11):
    """Members with the extra field that makes a gzip file a bgzip file, and the empty one at its end."""
    packed = b""
    for begin in [*range(0, len(data), block), len(data)]:
        piece = data[begin : begin + block]
        deflate = zlib.compressobj(wbits=-15)
        body = deflate.compress(piece) + deflate.flush()
        extra = b"BC" + struct.pack("<HH", 2, len(body) + 25)
        head = b"\x1f\x8b\x08\x04" + b"\0" * 5 + b"\xff" + struct.pack("<H", len(extra)) + extra
        packed += head + body + struct.pack("<II", zlib.crc32(piece), len(piece))
    return packed


def refusal(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bgzip, lambda data: data.replace(b"\n", b"\r\n"), lambda data: data.rstrip(b"\n")])
def test_fasta_in_every_packing(tmp_path, pack):
    path = tmp_path / "genome.fa"
    path.write_bytes(pack(FASTA))
    records = read_fasta(path)
    assert records["name"] == ("chr1", "chr2") and records["description"] == ("the first", "")
    assert records["sequence"] == ("ACGTRYSWKMBDHVN", "acgtnUTT")
    assert records.places.at(1) == f"{path} line 5"


@pytest.mark.parametrize("width", [1, 3, 60, 1000])
def test_lines_of_any_length_give_the_same_sequence(tmp_path, width):
    sequence = "".join(np.random.default_rng(0).choice(list("ACGTNacgtn"), 500))
    path = tmp_path / "a.fa"
    path.write_text(">a\n" + "\n".join(sequence[i : i + width] for i in range(0, 500, width)))
    assert read_fasta(path)["sequence"] == (sequence,)


def test_all_faults_of_a_fasta_file_are_told_at_once(tmp_path):
    path = tmp_path / "bad.fa"
    path.write_bytes(b">a\nACGT\nMKVLAW\n>b\n>a\nAC-GT\n>\nAC1\n")
    message = refusal(read_fasta, path)
    lines = message.splitlines()
    assert lines[0] == f"{path}: 6 faults" and len(lines) == 7
    for words in (
        ["line 3, record 'a'", "'V'" if "'V'" in message else "'L'", "protein"],
        ["line 4", "'b'", "no sequence"],
        ["line 5", "'a'", "line 1"],
        ["line 6, record 'a'", "'-' at column 3", "alignment"],
        ["line 7", "no name"],
        ["line 8", "'1'"],
    ):
        assert any(all(word in line for word in words) for line in lines[1:]), words


@pytest.mark.parametrize("content, words", [
    (b"", ["no sequences"]), (b"ACGT\n", ["line 1", "before any header"]), (b"@r\nACGT\n+\nIIII\n", ["FASTQ", ".fastq"]),
    (b"\n\n>a\n", ["line 3", "'a'", "no sequence"]),
])  # fmt: skip
def test_what_is_no_fasta(tmp_path, content, words):
    path = tmp_path / "a.fa"
    path.write_bytes(content)
    message = refusal(read_fasta, path)
    assert all(word in message for word in (str(path), *words)), message


def test_a_region_is_that_of_the_whole_file(tmp_path):
    rng = np.random.default_rng(1)
    sequences = {name: "".join(rng.choice(list("ACGTn"), 101)) for name in ("chr1", "chr2")}
    path = tmp_path / "genome.fa"
    text = "".join(f">{name} x\n" + "\n".join(s[i : i + 10] for i in range(0, 101, 10)) + "\n" for name, s in sequences.items())
    path.write_text(text)
    (tmp_path / "genome.fa.gz").write_bytes(bgzip(text.encode(), 60))
    for file in (path, tmp_path / "genome.fa.gz"):
        for first, last in ((1, 1), (10, 11), (95, 101), (1, 101)):
            region = read_region(file, f"chr2:{first}-{last}")
            assert region == ("chr2", first - 1, sequences["chr2"][first - 1 : last])
        assert read_region(file, "chr1").sequence == sequences["chr1"]
        assert "chr2" in refusal(read_region, file, "chr22:1-5") and "1 to 101" in refusal(read_region, file, "chr2:100-102")
        assert "1 to 101" in refusal(read_region, file, "chr2:0-5")
    assert read_sequences(str(path), "chr1:3-4")["start"] == (2,)


def test_fastq(tmp_path):
    path = tmp_path / "reads.fq"
    path.write_bytes(b"@r1 first\r\nACGTN\r\n+\r\n!I~+@\r\n@r2\n@CG\n+r2\n@@@\n".replace(b"@CG", b"ACG"))
    records = read_fastq(path)
    assert records["name"] == ("r1", "r2") and records["sequence"] == ("ACGTN", "ACG")
    assert [quality.tolist() for quality in records["quality"]] == [[0, 40, 93, 10, 31], [31, 31, 31]]


@pytest.mark.parametrize("content, words", [
    (b"@r1\nAC\n+\nII\n@r2\nAC\n", ["line 5", "'r2'", "truncated", "2 of its 4 lines"]),
    (b"@r1\nACGT\n+\nII\n", ["line 4", "'r1'", "2 qualities for 4 bases"]),
    (b"@r1\nAC\nGT\n+\nIIII\n", ["line 3", "a + is due"]),
    (b"r1\nAC\n+\nII\n", ["line 1", "no header"]), (b">r1\nAC\n", ["FASTA"]), (b"@r1\nMKL\n+\nIII\n", ["line 2", "protein"]),
    (b"@r1\nAC\n+\nI \n", ["line 4", "Phred"]),
])  # fmt: skip
def test_what_is_no_fastq(tmp_path, content, words):
    path = tmp_path / "a.fq"
    path.write_bytes(content)
    message = refusal(read_fastq, path)
    assert all(word in message for word in (str(path), *words)), message


def test_a_table_and_its_faults(tmp_path):
    path = tmp_path / "a.data"
    path.write_text("+,A,\t\tacgt ac\n-,B,ACGE\n-,C, \n ,D,ACG\n")
    message = refusal(read_dna_table, path, "3", "1", Format(",", header=False))
    for words in (["line 2", "'E' at column 4", "protein"], ["line 3", "the sequence is empty"], ["line 4", "the label is empty"]):
        assert any(all(word in line for word in words) for line in message.splitlines()), message
    path.write_text("+,A,\t\tacgt ac\n-,B,ACG\n")
    assert read_dna_table(path, "3", "1", Format(",", header=False))["sequence"] == ("acgtac", "ACG")


def test_arff_and_its_faults(tmp_path):
    path = tmp_path / "a.arff"
    head = "% note\n@relation 'r'\n@attribute 'name' {x,y}\n@attribute b1 {A,C}\n@attribute b2 {G,N}\n@attribute Class {p,q}\n@data\n"
    path.write_text(head + "x, A, G, p\n% more\ny,C,N,q\n")
    assert read_arff(path).columns == {"sequence": ("AG", "CN"), "label": ("p", "q")}
    assert read_arff(path, "name")["label"] == ("x", "y")
    path.write_text(head + "x,A,p\ny,CC,N,q\n")
    message = refusal(read_arff, path)
    assert "line 8 has 3 values" in message and "line 9: 'CC' is not one base" in message
    assert "no attribute 'clas'" in refusal(read_arff, path, "clas") and "Class" in refusal(read_arff, path, "clas")
    path.write_text(head)
    assert "no rows" in refusal(read_arff, path)


def test_sequences_to_predict_for_are_told_apart_by_their_first_character(tmp_path):
    for name, content in (("a", b">s1 x\nAC\nGT\n"), ("b", b"@s1\nACGT\n+\nIIII\n"), ("c", b"ACGT\n\n")):
        (tmp_path / name).write_bytes(gzip.compress(content) if name == "a" else content)
        records = read_sequences(str(tmp_path / name))
        assert records["sequence"] == ("ACGT",) and records["start"] == (0,) and records["name"] == ("1" if name == "c" else "s1",)
    (tmp_path / "d").write_bytes(b"ACGT\nMKL\n")
    assert "line 2" in refusal(read_sequences, str(tmp_path / "d")) and "protein" in refusal(read_sequences, str(tmp_path / "d"))
