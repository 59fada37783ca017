"""Settings that every network refuses."""

import jax
import jax.numpy as jnp
import pytest

from seqjax import cnn


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("lenet5", {"num_classes": 0}, "num_classes of at least 1, got 0"),
        ("vgg11", {"dropout": 1.5}, r"dropout of VGG must be a rate in 0 \.\.\. 1, got 1.5"),
        ("googlenet", {"aux_dropout": -0.1}, "aux_dropout of GoogLeNet must be a rate"),
    ],
)
def test_no_classes_and_shares_outside_0_to_1_are_refused(name, options, said):
    model = cnn.create(name, **options)
    images = jax.ShapeDtypeStruct((1, 32, 32, model.in_channels), jnp.float32)
    with pytest.raises(ValueError, match=said):
        jax.eval_shape(model.init, jax.random.key(0), images)


def test_what_linen_itself_keeps_is_no_option():
    with pytest.raises(ValueError, match="lenet5 has no option 'name'"):
        cnn.create("lenet5", name="first")
