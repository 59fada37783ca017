"""Columns of prepared sets of TFDS; what loaders make of real ones is tested with each loader."""

import types

import numpy as np
import pytest

from seqjax.data.readers import tfds
from seqjax.errors import UserError


class Split(list):
    def __getitems__(self, places):
        return [self[place] for place in places]


def _read(monkeypatch, columns, **splits):
    monkeypatch.setattr(tfds, "open_split", lambda name, builder, split, embedded: Split(splits[split]))
    builder = types.SimpleNamespace(info=types.SimpleNamespace(splits=dict.fromkeys(splits)))
    return tfds.read_columns("films", builder, columns, "no download")


def test_columns_of_all_parts(monkeypatch):
    rows = [{"review": b"a", "stars": np.int64(1)}, {"review": "é".encode(), "stars": np.int64(0)}] * 1001
    parts = _read(monkeypatch, {"text": "review", "label": "stars"}, train=rows, dev=rows[:1], unlabelled=rows[:1])
    assert list(parts) == ["train", "validation"] and len(parts["train"]) == 2002
    assert parts["train"]["text"][-2:] == ("a", "é") and parts["train"]["label"][-2:] == (1, 0)
    assert parts["train"].places.at(2001) == "films, train, index 2001" and parts["validation"].places.at(0) == "films, dev, index 0"


def test_text_that_is_not_utf8_is_refused(monkeypatch):
    with pytest.raises(UserError, match="films holds text that is not UTF-8 .*; choose another set"):
        _read(monkeypatch, {"text": "review"}, train=[{"review": b"a"}, {"review": b"\xff"}])
