"""The batches of these tests are small; the engine's way for larger ones is what they are to test."""

import pytest

from seqjax.engines import fused
from seqjax.engines.dense import Layout
from seqjax.typing import Dense


@pytest.fixture(autouse=True)
def as_with_many_sequences(monkeypatch):
    """The fused engine takes the cells of plain products by one product a step, as from 8 sequences on."""
    rows = Layout(columns=False)
    monkeypatch.setattr(fused, "layout_of", lambda cell, batch: rows if isinstance(cell.split, Dense) else None)
