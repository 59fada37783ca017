"""These tests have small batches, but should test the engine's path for larger ones."""

import pytest

from seqjax.engines import fused
from seqjax.engines.dense import Layout
from seqjax.typing import Dense


@pytest.fixture(autouse=True)
def as_with_many_sequences(monkeypatch):
    """The fused engine runs cells of plain products with one product per step, as for 8 or more sequences."""
    rows = Layout(columns=False)
    monkeypatch.setattr(fused, "layout_of", lambda cell, batch: rows if isinstance(cell.split, Dense) else None)
