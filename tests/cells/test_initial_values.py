"""The initial values of every cell for a given key do not change, so that seeds stay reproducible."""

import json
import pathlib

import jax
import numpy as np
import pytest
from cells.table import CELLS, VARIANTS, WRAPPERS, D

PINNED = json.loads((pathlib.Path(__file__).parents[1] / "assets" / "initial_values.json").read_text("utf-8"))


@pytest.mark.parametrize("row", [row for row in CELLS + VARIANTS + WRAPPERS if row.name in PINNED], ids=lambda row: row.name)
def test_initial_values_are_as_ever(row):
    """A weighted sum of each array, so that swapping two values shows."""
    leaves = [np.asarray(a, np.float64).ravel() for a in jax.tree.leaves(row.make().init(jax.random.key(7), D))]
    found = [float(a @ np.cos(np.arange(a.size))) for a in leaves]
    np.testing.assert_allclose(found, PINNED[row.name], rtol=0, atol=2e-4)


def test_nothing_pinned_is_lost():
    assert PINNED.keys() <= {row.name for row in CELLS + VARIANTS + WRAPPERS}
