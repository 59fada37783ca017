"""Parts of experiments: what data.max_length leaves out, and evaluation passes that several processes share."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from seqjax import run
from seqjax.errors import UserError
from seqjax.run.parts import input_texts


def test_what_is_too_long_to_train_on_is_left_out_and_counted(capsys):
    lengths = np.array([3, 9, 5, 6])
    assert run.short_enough(lengths, 5, "pairs").tolist() == [0, 2]
    assert "2 of 4 pairs, longer than data.max_length=5" in capsys.readouterr().out
    for limit in (0, 9):
        assert run.short_enough(lengths, limit, "pairs").tolist() == [0, 1, 2, 3]
    assert not capsys.readouterr().out
    with pytest.raises(UserError, match="all training pairs are longer than data.max_length=2; raise it"):
        run.short_enough(lengths, 2, "pairs")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_evaluation_pass_can_be_shared(count):
    config = ConfigDict({"seed": 0, "data": {"batch_size": 2, "eval_batch_size": 6}})

    def collate(places, rows, steps):
        return np.pad(places, (0, rows - len(places)), constant_values=-1)

    whole = run.bucketed(config, [3, 1, 5, 2, 2, 4, 1, 3], collate, (3, 5), training=False)
    shards = [list(whole.shard(index, count)) for index in range(count)]
    assert [batch.tolist() for batch in map(np.concatenate, zip(*shards, strict=True))] == [b.tolist() for b in whole]
    with pytest.raises(UserError, match="batch_size is 6, which 4 shards cannot share evenly"):
        next(iter(whole.shard(0, 4)))


TABLE = {"source": "file", "delimiter": "", "quoting": "double", "header": True, "encoding": "utf-8"}


@pytest.mark.parametrize(
    "name, written, data, wanted",
    [
        ("a.tsv", 'index\tsentence\n0\tso "fine\n', TABLE | {"text_field": "sentence", "quoting": "none"}, ['so "fine']),
        ("a.csv", "1;dull\n2;good\n", TABLE | {"text_field": "2", "delimiter": ";", "header": False}, ["dull", "good"]),
        ("a.jsonl", '{"review": "good"}', TABLE | {"text_field": "review", "delimiter": ";", "quoting": "none"}, ["good"]),
        ("a.txt", "one;two\nthree\n", TABLE | {"text_field": "2", "delimiter": ";"}, ["one;two", "three"]),
        ("a.txt", "caf\u00e9\n", TABLE | {"text_field": "text", "encoding": "latin1"}, ["caf\u00e9"]),
        ("a.csv", "id,text\n1,good\n", TABLE | {"source": "tfds", "text_field": "review"}, ["good"]),
        ("a.csv", "hello,hallo\n", TABLE | {"source_field": "", "header": False, "target_path": ""}, ["hello"]),
        ("a.csv", "text,n\nhello,1\n", TABLE | {"source_field": "", "target_path": "b.txt"}, ["hello"]),
        ("a.conll.txt", "to be\n", {"source": "file", "delimiter": "tab", "encoding": "utf-8"}, ["to be"]),
    ],
)
def test_texts_to_predict_for_are_written_as_the_run_s_own(tmp_path, name, written, data, wanted):
    path = tmp_path / name
    path.write_text(written, encoding=data["encoding"])
    assert input_texts(str(path), ConfigDict({"data": data})) == wanted
