"""The entry point for DNA: parts of genomes and of labelled sequences, near-duplicates, folds, and refusals."""

import gzip

import numpy as np
import pytest

from seqjax.data.dna import load_dna
from seqjax.data.near_duplicates import near_duplicates
from seqjax.data.report import report
from seqjax.errors import UserError
from seqjax.models.nucleotides import encode


def sequences(rng, number, length):
    return ["".join(rng.choice(list("ACGT"), length)) for _ in range(number)]


@pytest.fixture
def labelled(tmp_path):
    """Forty sequences of two classes, some repeated: exactly, in another case, with one base changed, and with the other label."""
    rng = np.random.default_rng(0)
    rows = [(each, "+-"[i % 2]) for i, each in enumerate(sequences(rng, 40, 30))]
    changed = ("C" if rows[1][0][0] == "A" else "A") + rows[1][0][1:]
    rows += [rows[0], (rows[0][0].lower(), "+"), (changed, "-"), (rows[2][0], "-")]
    path = tmp_path / "a.csv"
    path.write_text("sequence,label\n" + "".join(f"{a},{b}\n" for a, b in rows))
    return path


def classify(path, **settings):
    return load_dna("file", task="classify", path=str(path), **settings)


def refusal(**settings):
    with pytest.raises(UserError) as caught:
        load_dna(**{"source": "file", "task": "classify"} | settings)
    return str(caught.value)


def test_near_duplicates_are_removed_or_kept_together_and_counted(labelled):
    every = {part: classify(labelled, repeats=how) for part, how in (("group", "group"), ("remove", "remove"), ("keep", "keep"))}
    sizes = {how: sum(map(len, data.parts.values())) for how, data in every.items()}
    assert sizes == {"group": 42, "remove": 40, "keep": 42}  # 44 rows, two of which are exact repeats
    notes = {how: "\n".join(data.notes) for how, data in every.items()}
    assert all("2 of 44 sequences repeat an earlier one with the same label" in text for text in notes.values())
    assert "1 sequences are there with more than one label" in notes["keep"]
    assert "42 sequences are 40 groups of near-duplicates" in notes["group"]
    assert "2 of 42 sequences are near-duplicates of an earlier one and were left out" in notes["remove"]


@pytest.mark.parametrize("repeats", ["group", "remove"])
@pytest.mark.parametrize("folds", [5, 40])
def test_folds_test_each_sequence_once_and_no_near_duplicate_is_on_both_sides(labelled, repeats, folds):
    tested = []
    for fold in range(folds):
        parts = classify(labelled, repeats=repeats, folds=folds, fold=fold, validation_fraction=0.2).parts
        tested += parts["test"]["sequence"]
        side = np.repeat([0, 1, 2], [len(parts[part]) for part in ("train", "validation", "test")])
        codes = [encode(each) for part in ("train", "validation", "test") for each in parts[part]["sequence"]]
        group = near_duplicates(codes, 0.8)
        for one in set(group.tolist()):
            assert len(set(side[group == one].tolist())) == 1
        if folds == 40:
            break
    whole = classify(labelled, repeats=repeats)
    if folds == 5:
        assert sorted(tested) == sorted(each for part in whole.parts.values() for each in part["sequence"])


def test_the_same_seed_gives_the_same_folds(labelled):
    first, again = (classify(labelled, folds=5, fold=2).fingerprint for _ in range(2))
    assert first == again != classify(labelled, folds=5, fold=2, seed=1).fingerprint


def test_training_sequences_that_are_like_those_of_other_files_are_left_out(labelled, tmp_path):
    first = labelled.read_text().splitlines()[1]
    (tmp_path / "test.csv").write_text(f"sequence,label\n{first.split(',')[0][:-1]}N,+\n")
    data = classify(labelled, test_path=str(tmp_path / "test.csv"))
    assert any("1 of 42 training sequences are near-duplicates of other parts'" in note for note in data.notes)
    assert first.split(",")[0] not in data.parts["train"]["sequence"] + data.parts["validation"]["sequence"]


def test_a_folder_with_a_file_for_each_class(tmp_path):
    rng = np.random.default_rng(1)
    folder = tmp_path / "set"
    folder.mkdir()
    a, b = sequences(rng, 10, 25), sequences(rng, 10, 25)
    (folder / "bound.fa.gz").write_bytes(gzip.compress("".join(f">s{i}\n{each}\n" for i, each in enumerate(a)).encode()))
    (folder / "free.fastq").write_text("".join(f"@r{i}\n{each}\n+\n{'I' * 24}#\n" for i, each in enumerate(b)))
    data = classify(folder)
    assert data.classes == ("bound", "free") and sum(map(len, data.parts.values())) == 20
    assert "FASTA" in refusal(path=str(folder), min_quality=20)
    (folder / "bound.fa.gz").unlink()
    (folder / "other.fq").write_text((folder / "free.fastq").read_text().replace("A", "C"))
    doubtful = classify(folder, min_quality=20)
    assert all(each.endswith("N") and each.count("N") == 1 for part in doubtful.parts.values() for each in part["sequence"])


def genome(tmp_path, lengths, rows):
    rng = np.random.default_rng(2)
    found = {name: sequences(rng, 1, length)[0] for name, length in lengths.items()}
    (tmp_path / "g.fa").write_text("".join(f">{name}\n{sequence}\n" for name, sequence in found.items()))
    (tmp_path / "g.bed").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    paths = {"path": str(tmp_path / "g.fa"), "annotation": str(tmp_path / "g.bed")}
    return found, {"source": "file", "task": "tag"} | paths


def test_a_genome_with_annotation_in_whole_sequences(tmp_path):
    rows = [("a", 2, 5, "CDS", 0, "+"), ("b", 0, 3, "CDS", 0, "-"), ("c", 4, 9, "exon", 0, "+"), ("d", 1, 2, "CDS", 0, "-")]
    found, settings = genome(tmp_path, {name: 10 for name in "abcd"}, rows)
    data = load_dna(**settings, validation_sequences="b", test_sequences="d")
    assert data.classes == ("background", "CDS") and data.parts["train"]["sequence"] == (found["a"], found["c"])
    assert data.parts["train"]["labels"][0].tolist() == [0, 0, 1, 1, 1, 0, 0, 0, 0, 0] and not data.parts["train"]["labels"][1].any()
    split = load_dna(**settings, features="CDS,exon", strand="split", validation_sequences="b")
    assert split.classes == ("background", "CDS+", "exon+", "CDS-", "exon-") and split.facts["swap"] == [0, 3, 4, 1, 2]
    assert split.parts["validation"]["labels"][0].tolist() == [3, 3, 3, 0, 0, 0, 0, 0, 0, 0]
    drawn = load_dna(**settings, validation_fraction=0.25, test_fraction=0.25)
    assert [len(drawn.parts[part]) for part in ("train", "validation", "test")] == [2, 1, 1]
    assert "2 tags in the training part" in "\n".join(report(data))
    assert "(nearest: b)" in refusal(**settings, validation_sequences="bb") and "named twice" in refusal(
        **settings, validation_sequences="a", test_sequences="a"
    )
    assert "no features of the kind 'CD'" in refusal(**settings, features="CD") and "CDS, exon" in refusal(**settings, features="CD")
    assert "no sequence left" in refusal(**settings, validation_sequences="a,b", test_sequences="c,d")


def test_the_end_of_a_single_sequence_is_held_out(tmp_path):
    found, settings = genome(tmp_path, {"a": 100}, [("a", 85, 95, "CDS", 0, ".")])
    parts = load_dna(**settings, validation_fraction=0.1, test_fraction=0.2).parts
    assert [parts[part]["sequence"][0] for part in parts] == [found["a"][:70], found["a"][70:80], found["a"][80:]]
    assert parts["test"]["labels"][0].tolist() == [0] * 5 + [1] * 10 + [0] * 5
    assert "line 1 has no strand" in refusal(**settings, strand="split")


def test_lower_case_is_read_or_hidden(tmp_path):
    _, settings = genome(tmp_path, {"a": 10, "b": 10}, [("a", 0, 5, "CDS")])
    (tmp_path / "g.fa").write_text(">a\nACGTacgtAC\n>b\naaCCCCCCCC\n")
    hidden = load_dna(**settings, masked="hide", validation_sequences="b")
    assert hidden.parts["train"]["sequence"] == ("ACGTNNNNAC",)
    assert load_dna(**settings, validation_sequences="b").parts["train"]["sequence"] == ("ACGTacgtAC",)


def test_a_letter_for_each_base(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("sequence,label\nACGT,iioo\nCC,oo\nGATTACA,oooiiio\n")
    data = load_dna("file", task="tag", path=str(path), validation_fraction=0.4)
    assert data.classes == ("i", "o") and data.parts["train"]["labels"][0].dtype == np.uint8
    path.write_text("sequence,label\nACGT,iio\nCC,oo\nGATT,ooooo\n")
    message = refusal(task="tag", path=str(path))
    assert "line 2: 3 tags for 4 bases" in message and "line 4: 5 tags for 4 bases" in message


@pytest.mark.parametrize("settings, words", [
    ({"source": "embedded", "name": "hmm"}, ["task='tag'"]), ({"source": "embeded"}, ["nearest: embedded"]),
    ({"source": "embedded", "task": "tag", "name": "hmn"}, ["no embedded", "nearest: hmm"]),
    ({"source": "embedded", "task": "tag", "name": "hmm", "folds": 3}, ["folds=3", "source='file'"]), ({}, ["needs a path"]),
    ({"path": "{csv}", "features": "exon"}, ["features='exon'", "annotation"]),
    ({"path": "{csv}", "fold": 7, "folds": 5}, ["numbered 0 to 4"]),
    ({"path": "{csv}", "folds": 50}, ["40 groups"]), ({"path": "{csv}", "folds": 5, "test_fraction": 0.2}, ["folds make the test part"]),
    ({"path": "{csv}", "min_quality": 3}, ["FASTQ"]), ({"path": "{csv}", "annotation": "{csv}"}, ["task='tag'"]),
    ({"path": "{csv}", "label_field": "lable"}, ["nearest: label"]), ({"path": "{csv}", "repeats": "drop"}, ["repeats='drop'"]),
])  # fmt: skip
def test_settings_that_cannot_be(labelled, settings, words):
    given = {name: str(labelled) if value == "{csv}" else value for name, value in settings.items()}
    message = refusal(**given)
    assert all(word in message for word in words), message


def test_labels_that_training_lacks(labelled, tmp_path):
    (tmp_path / "test.csv").write_text("sequence,label\nACGTACGGTTAC,x\nACGTTTTTTTTA,+\nACGTTAAAAAAA,y\n")
    message = refusal(path=str(labelled), test_path=str(tmp_path / "test.csv"))
    assert "test.csv line 2 has the label 'x'" in message and "test.csv line 4 has the label 'y'" in message
    (tmp_path / "one.csv").write_text("sequence,label\nACGTACGGTTAC,x\nTTTTTTTTTTTT,x\nCCCAAACCCAAA,x\n")
    assert "one class only" in refusal(path=str(tmp_path / "one.csv"))


def test_the_sets_of_uci(shared):
    splice = classify(shared / "data/dna/splice.arff.gz", repeats="remove", folds=10, fold=0)
    assert splice.classes == ("EI", "IE", "N") and sum(map(len, splice.parts.values())) == 2758
    assert any("184 of 3,190 sequences" in note for note in splice.notes) and any("248 of 3,006" in note for note in splice.notes)
    how = {"delimiter": "comma", "header": False, "sequence_field": "3", "label_field": "1"}
    promoters = classify(shared / "data/dna/promoters.data", **how, folds=75, fold=0)
    assert promoters.classes == ("+", "-") or promoters.classes == ("-", "+")
    assert any("106 sequences are 75 groups" in note for note in promoters.notes)
