"""BED, GFF3 and bedGraph: both coordinate systems agree, round trips, and refusals, all at once with file and line."""

import gzip

import numpy as np
import pytest

from seqjax.data.readers.annotation import (
    Feature,
    bed_line,
    features_of,
    gff_line,
    paint,
    read_annotation,
    read_track,
    runs,
    track_lines,
)
from seqjax.errors import UserError

LENGTHS = {"chr1": 100, "chr2": 20}


def refusal(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_annotation(path, LENGTHS)
    return str(caught.value)


def test_bed_and_gff3_count_differently_and_mean_the_same(tmp_path):
    """The first and the last base of a sequence, and one base alone."""
    features = [Feature("chr1", 0, 100, "a", "+", 0.5), Feature("chr1", 7, 8, "b", "-", 1.0), Feature("chr2", 19, 20, "c", ".", 0.0)]
    bed, gff = tmp_path / "a.bed", tmp_path / "a.gff3.gz"
    bed.write_text("track name=x\n# note\n" + "".join(f"{bed_line(each)}\n" for each in features))
    lines = "".join(f"{gff_line(each)}\r\n" for each in features)
    gff.write_bytes(gzip.compress(f"##gff-version 3\r\n{lines}##FASTA\n>x\nAC\n".encode()))
    for path, scale in ((bed, 1000), (gff, 1)):
        found = read_annotation(path, LENGTHS)
        assert [each._replace(line=0, score=each.score / scale) for each in found] == features
    assert "chr1\t8\t8\tb" not in gff_line(features[1]) and gff_line(features[1]).split("\t")[3:5] == ["8", "8"]
    assert bed_line(features[1]).split("\t")[1:3] == ["7", "8"]


def test_all_faults_of_a_bed_file_are_told_at_once(tmp_path):
    rows = [
        "chr1\t5\t10\tCDS", "chr1\t90\t101\tCDS", "chr1\t30\t20\tCDS", "Chr1\t1\t5\tCDS", "chr1\t8\t8\tCDS", "chr1\tx\t8\tCDS",
        "chr1\tmade\tCDS\t3\t8\t.\t+\t0\tID=a", "chr1\t1\t5\tCDS\thigh\t+", "chr1\t1\t5\tCDS\t0\tplus", "chr1\t-2\t5\tCDS", "Chr1\t2\t3",
    ]  # fmt: skip
    message = refusal(tmp_path, "a.bed", "\n".join(rows))
    lines = message.splitlines()
    assert lines[0].endswith("9 faults") and len(lines) == 10
    for words in (
        ["line 2", "ends beyond the sequence", "100 bases"], ["line 3", "start 30 is after end 20"], ["line 4", "'Chr1'", "nearest: chr1"],
        ["line 5", "start and end are both 8", "from 1", "write 7 and 8"], ["line 6", "two whole numbers"], ["line 7", "GFF3", ".gff3"],
        ["line 8", "'high'"], ["line 9", "'plus'"], ["line 10", "start -2"],
    ):  # fmt: skip
        assert any(all(word in line for word in words) for line in lines[1:]), (words, message)


def test_all_faults_of_a_gff_file_are_told_at_once(tmp_path):
    def row(first, last, name="chr1", columns=9):
        return "\t".join([name, "made", "CDS", str(first), str(last), ".", "+", "0", "ID=a"][:columns])

    rows = [row(1, 100), row(0, 5), row(9, 8), row(100, 101), row(3, 4, "chr3"), row(3, 4, columns=6), "chr1\t5\t9\tCDS"]
    message = refusal(tmp_path, "a.gff3", "\n".join(rows))
    for words in (
        ["line 2", "starts at 0", "counts from 1"],
        ["line 3", "start 9 is after end 8"],
        ["line 4", "chr1:100-101", "100 bases"],
        ["line 5", "'chr3'", "nearest"],
        ["line 6", "nine columns"],
        ["line 7", "BED", "counts from 0"],
    ):
        assert any(all(word in line for word in words) for line in message.splitlines()), (words, message)
    assert len(message.splitlines()) == 7


def test_other_files_are_refused(tmp_path):
    assert ".bed" in refusal(tmp_path, "a.txt", "x") and "no features" in refusal(tmp_path, "a.bed", "# nothing\n")


@pytest.mark.parametrize("split", [False, True])
def test_painting_is_that_of_a_loop_over_bases(split):
    rng = np.random.default_rng(0)
    kinds, features = {"a": 1, "b": 2}, []
    for _ in range(12):
        start = int(rng.integers(0, 18))
        kind, strand = str(rng.choice(["a", "b", "c"])), str(rng.choice(["+", "-"]))
        features.append(Feature("chr2", start, int(rng.integers(start + 1, 21)), kind, strand))
    found = paint(features, LENGTHS, kinds, split=split)
    assert not found["chr1"].any()
    for base in range(20):
        over = [each for each in features if each.start <= base < each.end and each.kind in kinds]
        first = min((kinds[each.kind] for each in over), default=0)
        if not split:
            assert found["chr2"][base] == first
        else:
            able = {first + 2 * (each.strand == "-") for each in over if kinds[each.kind] == first} or {0}
            assert found["chr2"][base] in able


def test_tags_and_tracks_come_back(tmp_path):
    """Tags -> features -> BED -> tags, and probabilities -> bedGraph -> probabilities, to the digits that are written."""
    rng = np.random.default_rng(1)
    names, tags = ["background", "x+", "x-"], np.repeat(rng.integers(0, 3, 30), rng.integers(1, 9, 30))
    shares = rng.dirichlet(np.ones(3), len(tags))
    features = features_of(tags, shares, names, "chr1")
    path = tmp_path / "a.bed"
    path.write_text("".join(f"{bed_line(each)}\n" for each in features))
    again = read_annotation(path, {"chr1": len(tags)})
    np.testing.assert_array_equal(paint(again, {"chr1": len(tags)}, {"x": 1}, split=True)["chr1"], tags)
    for feature, (low, high, tag) in zip(features, [run for run in runs(tags) if run[2]]):
        assert (feature.start, feature.end) == (low, high) and feature.score == pytest.approx(shares[low:high, tag].mean())
    track = tmp_path / "a.bedGraph"
    values = np.round(shares[:, 1], 2)
    track.write_text("track type=bedGraph\n" + "\n".join(track_lines("chr1", values)) + "\n")
    found = read_track(track, {"chr1": len(tags) + 1})["chr1"]
    np.testing.assert_allclose(found[:-1], values, atol=5e-4)
    assert np.isnan(found[-1])
    track.write_text("chr1\t0\t5\n")
    with pytest.raises(UserError, match="line 1"):
        read_track(track, LENGTHS)
