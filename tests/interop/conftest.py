"""Comparisons with another library run in float32 and in float64."""

import os

import jax
import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")  # read by Keras at import, which happens in these tests alone


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """The dtype of the weights, with JAX's 64-bit types on where it needs them."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param
