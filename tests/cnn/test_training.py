"""Every network overfits a small fixed batch to zero error; two cheap ones by default, all in the slow tests."""

import pytest

from benchmarks.cnn_overfit import learned, overfit
from seqjax import cnn

CHEAP = ("lenet5", "text_cnn")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in CHEAP else [pytest.mark.slow]) for n in cnn.names()])
def test_a_fixed_batch_is_learned_by_heart(name):
    told = overfit(name, 300)
    assert learned(told), told
    assert told["last_loss"] < 0.5 * told["first_loss"], told
