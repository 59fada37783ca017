"""What is particular to DNA: features and tracks of a genome in windows, on both strands; classes with folds; what is refused."""

import json
import shutil

import numpy as np
import pytest
from made_dna import write_genome, write_labelled
from processes import config_flags
from table import DNA as ROW

from seqjax.data.dna import read_sequences
from seqjax.data.readers.annotation import paint, read_annotation, read_track
from seqjax.models.nucleotides import reverse_complement

CLASSES = ["background", "CDS+", "CDS-"]


def small(data, **changes):
    """Flags of a run on the genome, in windows, on both strands."""
    settings = {**ROW.settings(data)} | {
        "data.source": "file", "data.path": data / "genome.fa", "data.annotation": data / "genes.gff3", "data.strand": "split",
        "data.validation_sequences": "chr2", "data.test_sequences": "chr3", "data.window": 40, "data.other_strand": 0.0,
        "data.buckets": 3, "train.steps": 12, "train.eval_every": 6,
    }  # fmt: skip
    return config_flags(settings, changes)


@pytest.fixture(scope="module")
def genome(start, data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("dna") / "genome"
    run = start(f"--workdir={workdir}", *small(data)).wait(300)
    assert run.status == 0 and "3 tags in the training part: background" in run.out, run.out + run.err
    return workdir


def test_features_and_tracks_of_a_genome(start, genome, data, tmp_path):
    """BED and GFF3 say the same; the track's highest tag is the tag; a region is that of the whole; evaluate agrees."""
    files = {name: tmp_path / name for name in ("a.bed", "a.gff3")}
    for file, how in zip(files.values(), ("bed", "gff3")):
        flags = [f"--track={tmp_path / 'p.bedGraph'}"] if how == "bed" else []
        run = start(f"--workdir={genome}", "--mode=predict", f"--input={data / 'genome.fa'}", f"--format={how}", *flags).wait()
        assert run.status == 0, run.err
        file.write_text(run.out)
    sequences = read_sequences(str(data / "genome.fa"))
    lengths = dict(zip(sequences["name"], map(len, sequences["sequence"])))
    bed, gff = (paint(read_annotation(path, lengths), lengths, {"CDS": 1}, split=True) for path in files.values())
    tracks = [read_track(tmp_path / f"p.{name}.bedGraph", lengths) for name in CLASSES[1:]]
    for name in lengths:
        np.testing.assert_array_equal(bed[name], gff[name])
        shares = np.stack([track[name] for track in tracks], axis=1)
        whole = np.concatenate([1 - shares.sum(axis=1, keepdims=True), shares], axis=1)
        sure = np.sort(whole, axis=1)
        clear = sure[:, -1] - sure[:, -2] > 4e-3  # the track has three digits
        assert clear.mean() > 0.5 and (whole.argmax(axis=1) == bed[name])[clear].all()
    flags = ["--mode=predict", f"--input={data / 'genome.fa'}", "--format=jsonl"]
    region = start(f"--workdir={genome}", *flags, "--region=chr3:1-200").wait()
    (only,) = map(json.loads, region.out.splitlines())
    assert only["name"] == "chr3" and only["bases"] == 200
    tags = np.zeros(200, int)
    for feature in only["features"]:
        tags[feature["start"] : feature["end"]] = CLASSES.index(f"{feature['tag']}{feature['strand']}")
    np.testing.assert_array_equal(tags, bed["chr3"])
    copy = shutil.copytree(genome, tmp_path / "copy")
    run = start(f"--workdir={copy}", "--mode=evaluate", "--split=test").wait(300)
    found = json.loads((copy / "evaluation_test.json").read_text())["scores"]["model"]
    true = paint(read_annotation(data / "genes.gff3", lengths), lengths, {"CDS": 1}, split=True)["chr3"]
    assert run.status == 0 and found["wrong"] == (tags != true).sum(), run.err


def test_the_other_strand_has_the_same_features_the_other_way(start, genome, data):
    """The model reads both strands, whose tags are each other's."""
    chr3 = read_sequences(str(data / "genome.fa"))["sequence"][2]
    run = start(f"--workdir={genome}", "--mode=predict", "--format=jsonl", stdin=f">a\n{chr3}\n>b\n{reverse_complement(chr3)}\n").wait()
    one, other = ({(f["start"], f["end"], f["strand"]) for f in json.loads(line)["features"]} for line in run.out.splitlines())
    assert one and other == {(200 - end, 200 - start, "-+"[strand == "-"]) for start, end, strand in one}


@pytest.mark.slow
def test_classes_of_folds(start, data, tmp_path):
    """Networks side by side, evaluated and asked; other lengths are refused."""
    settings = {**ROW.settings(data)} | {
        "task": "classify", "data.source": "file", "data.path": data / "labelled.csv", "data.folds": 5, "data.fold": 2,
        "model.strands": "one", "model.members": 2, "model.base_dropout": 0.1, "data.other_strand": 0.0, "train.steps": 30,
        "loss.label_smoothing": 0.1, "optimizer.ema": 0.9, "data.buckets": 1,
    }  # fmt: skip
    workdir = tmp_path / "run"
    run = start(f"--workdir={workdir}", *config_flags(settings, {})).wait(300)
    assert run.status == 0 and "fold 2 of 5 is the test part: 12 of 60 sequences" in run.out, run.out + run.err
    run = start(f"--workdir={workdir}", "--mode=evaluate", "--split=test").wait(300)
    assert run.status == 0 and (workdir / "gradients_test.png").exists() and (workdir / "motifs_test.png").exists(), run.out + run.err
    rows = [json.loads(line) for line in (workdir / "predictions_test.jsonl").read_text().splitlines()]
    scores = json.loads((workdir / "evaluation_test.json").read_text())["scores"]
    assert scores["model"]["wrong"] == sum(row["label"] != row["answer"] for row in rows) and len(scores) == 5
    asked = "".join(f"{row['sequence']}\n" for row in rows)
    run = start(f"--workdir={workdir}", "--mode=predict", "--format=jsonl", stdin=asked).wait()
    assert [json.loads(line)["label"] for line in run.out.splitlines()] == [row["answer"] for row in rows]
    wrong = start(f"--workdir={workdir}", "--mode=predict", stdin="ACGT\nACG\n").wait()
    assert wrong.status == 1 and "'1' has 4 bases" in wrong.err and "'2' has 3 bases" in wrong.err and "sequences of 24" in wrong.err
    wrong = start(f"--workdir={workdir}", "--mode=predict", "--format=bed", stdin="ACGT\n").wait()
    assert wrong.status == 1 and "--format=bed is for tags of bases" in wrong.err


def test_what_is_refused(refuses, data, tmp_path):
    workdir, uneven = f"--workdir={tmp_path / 'run'}", tmp_path / "uneven.csv"
    uneven.write_text(write_labelled(tmp_path / "a.csv", 30, 0).read_text() + "ACGTACGTTT,neither\n")
    labelled = {"task": "classify", "data.source": "file", "data.path": data / "labelled.csv"}
    for flags, words in (
        (small(data, model__crf=True), ["model.crf", "data.window=0"]),
        (small(data, data__other_strand=0.5), ["model.strands='both'"]),
        (small(data, data__buckets=4), ["data.buckets=4 has no effect with data.window=40"]),
        (small(data, data__test_sequences="chr9"), ["no sequence 'chr9'", "nearest"]),
        (config_flags(labelled, {"model__crf": True}), ["model.crf=True has no effect with task='classify'"]),
        (config_flags(labelled, {"model__embed_size": 3}), ["model.embed_size=3 has no effect with model.kmer=0"]),
        (config_flags(labelled, {"data__folds": 99}), ["60 groups"]),
        (config_flags(labelled | {"data.path": uneven}, {}), ["pooling='flatten' is for one length", "10 to 24"]),
    ):
        refuses([workdir, *flags], *words)
    assert not (tmp_path / "run").exists()


def test_an_annotation_that_does_not_fit_is_refused_with_its_lines(start, tmp_path):
    write_genome(tmp_path, {"chr1": 90}, seed=0)
    (tmp_path / "genes.bed").write_text("chr1\t5\t5\tCDS\nchr1\t80\t91\tCDS\nchr2\t1\t5\tCDS\n")
    flags = config_flags({"data.source": "file", "data.path": tmp_path / "genome.fa", "data.annotation": tmp_path / "genes.bed"}, {})
    run = start(f"--workdir={tmp_path / 'run'}", *flags).wait()
    assert run.status == 1 and "3 faults" in run.err and "line 1:" in run.err and "line 2:" in run.err and "nearest: chr1" in run.err
