"""The converter of CNN weights on a small network that has every kind of array: layouts, both directions, faults."""

import re
import sys
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from seqjax.cnn.base import ImageClassifier
from seqjax.cnn.blocks import Conv
from seqjax.cnn.lenet import LeNet5
from seqjax.cnn.normalization import BatchNorm
from seqjax.cnn.pooling import adaptive_avg_pool
from seqjax.errors import UserError
from seqjax.interop.torchvision import from_torch_cnn, to_torch_cnn


class Stage(nn.Module):
    """Keys with numbers in them, two levels down."""

    @nn.compact
    def __call__(self, x, *, train):
        x = Conv(4, (3, 2), use_bias=False, name="0")(x)
        x = BatchNorm(name="1")(x, use_running_average=not train)
        return Conv(4, (3, 3), feature_group_count=4, name="3")(x)  # depthwise


class Net(ImageClassifier):
    """A convolution, a norm, a depthwise convolution, a flattened map, a plain dense layer, a head for training."""

    num_classes: int = 5
    aux_logits: bool = False

    flatten: ClassVar[dict[str, int]] = {"classifier": 4}

    @nn.compact
    def __call__(self, images, *, train=False):
        x = Stage(name="features")(self.check(images), train=train)
        if self.aux_logits:
            nn.Dense(self.num_classes, name="aux1")(x.mean((1, 2)))
        x = adaptive_avg_pool(x, (3, 3))
        x = nn.relu(nn.Dense(6, name="classifier")(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.num_classes, name="fc")(x)


SHAPES = {
    "features.0.weight": (4, 3, 3, 2),
    "features.1.weight": (4,),
    "features.1.bias": (4,),
    "features.1.running_mean": (4,),
    "features.1.running_var": (4,),
    "features.1.num_batches_tracked": (),
    "features.3.weight": (4, 1, 3, 3),
    "features.3.bias": (4,),
    "classifier.weight": (6, 36),
    "classifier.bias": (6,),
    "fc.weight": (5, 6),
    "fc.bias": (5,),
}
AUX = {"aux1.weight": (5, 4), "aux1.bias": (5,)}


def random_state(shapes=SHAPES, dtype=np.float32):
    rng = np.random.default_rng(0)
    state = {key: rng.normal(size=shape).astype(dtype) for key, shape in shapes.items()}
    return {key: np.array(7) if key.endswith("tracked") else value for key, value in state.items()}


def test_every_value_has_its_place():
    state = random_state()
    variables = from_torch_cnn(Net(), state)
    params, stats = variables["params"], variables["batch_stats"]
    for (o, i, h, w), value in np.ndenumerate(state["features.0.weight"]):
        assert params["features"]["0"]["kernel"][h, w, i, o] == value
    for (o, i, h, w), value in np.ndenumerate(state["features.3.weight"]):
        assert params["features"]["3"]["kernel"][h, w, i, o] == value
    for (o, flat), value in np.ndenumerate(state["classifier.weight"]):
        c, h, w = np.unravel_index(flat, (4, 3, 3))
        assert params["classifier"]["kernel"][np.ravel_multi_index((h, w, c), (3, 3, 4)), o] == value
    np.testing.assert_array_equal(params["fc"]["kernel"], state["fc.weight"].T)
    np.testing.assert_array_equal(params["features"]["1"]["scale"], state["features.1.weight"])
    np.testing.assert_array_equal(stats["features"]["1"]["mean"], state["features.1.running_mean"])
    np.testing.assert_array_equal(stats["features"]["1"]["var"], state["features.1.running_var"])
    for layer in ("features.1", "features.3", "classifier", "fc"):
        own = params
        for name in layer.split("."):
            own = own[name]
        np.testing.assert_array_equal(own["bias"], state[f"{layer}.bias"])


def test_the_variables_are_those_of_init():
    given = from_torch_cnn(Net(), random_state())
    wanted = jax.eval_shape(Net().init, jax.random.key(0), jnp.zeros((1, 9, 9, 3)))
    assert jax.tree.structure(given) == jax.tree.structure(wanted)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), given) == jax.tree.map(lambda x: (x.shape, x.dtype), wanted)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(given))


def test_weights_come_back_the_same():
    state = random_state()
    returned = to_torch_cnn(Net(), from_torch_cnn(Net(), state), tensors=False)
    assert returned.keys() == state.keys()
    for key, value in returned.items():
        expected = 0 if key.endswith("tracked") else state[key]
        np.testing.assert_array_equal(value, expected, err_msg=key)
        assert value.flags.c_contiguous and value.shape == np.shape(state[key])
    variables = Net().init(jax.random.key(1), jnp.zeros((1, 9, 9, 3)))
    again = from_torch_cnn(Net(), to_torch_cnn(Net(), variables, tensors=False))
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), again, variables))


def test_a_fresh_network_runs_in_torch():
    """The other direction, with what init gives; torch's own strict loading is the check of keys and shapes."""
    torch = pytest.importorskip("torch")
    from benchmarks.torch_cnns.lenet import LeNet5 as Twin

    images = jax.random.normal(jax.random.key(0), (2, 20, 20, 1))
    variables = LeNet5().init(jax.random.key(1), images)
    twin = Twin(side=20)
    twin.load_state_dict(to_torch_cnn(LeNet5(), variables, input_size=20), strict=True)
    with torch.no_grad():
        theirs = twin(torch.from_numpy(np.array(images).transpose(0, 3, 1, 2).copy()))
    np.testing.assert_allclose(LeNet5().apply(variables, images), theirs.numpy(), atol=1e-5)


def test_numpy_needs_no_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    state = random_state()
    variables = from_torch_cnn(Net(), state)
    assert to_torch_cnn(Net(), variables, tensors=False)["fc.weight"].shape == (5, 6)
    with pytest.raises(ImportError):
        to_torch_cnn(Net(), variables)


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_other_floats_become_the_models(dtype):
    dtype = jnp.dtype(dtype)
    state = random_state(dtype=dtype)
    kernel = from_torch_cnn(Net(), state)["params"]["fc"]["kernel"]
    assert kernel.dtype == jnp.float32
    np.testing.assert_array_equal(kernel, state["fc.weight"].T.astype(np.float32))


def test_tensors_of_every_float_are_taken():
    torch = pytest.importorskip("torch")
    state = random_state()
    for dtype in (torch.float64, torch.bfloat16):
        tensors = {key: torch.tensor(value).to(dtype).requires_grad_() for key, value in state.items()}
        kernel = from_torch_cnn(Net(), tensors)["params"]["fc"]["kernel"]
        np.testing.assert_array_equal(kernel, tensors["fc.weight"].detach().T.float().numpy())


def test_arrays_are_copies():
    state = random_state()
    variables = from_torch_cnn(Net(), state)
    before = jax.tree.map(np.array, variables)
    for value in state.values():
        value += 1
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), variables, before))
    for value in to_torch_cnn(Net(), variables, tensors=False).values():
        value += 1  # raises where it is a view of ours
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), variables, before))


def test_counters_may_be_absent_and_stray_ones_may_not():
    state = random_state()
    state.pop("features.1.num_batches_tracked")
    assert from_torch_cnn(Net(), state)
    with pytest.raises(UserError, match=r"not the model's: fc\.num_batches_tracked"):
        from_torch_cnn(Net(), state | {"fc.num_batches_tracked": np.array(0)})


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("fc.bias"), "missing: fc.bias"),
        (lambda s: s.update({"fc2.bias": s.pop("fc.bias")}), "missing: fc.bias; not the model's: fc2.bias"),
        (lambda s: s.update({"features.0.bias": np.zeros(4)}), "not the model's: features.0.bias"),
        (lambda s: s.update({"fc.weight": np.zeros((1000, 6))}), "fc.weight is (1000, 6), the model's is (5, 6)"),
        (lambda s: s.update({"fc.weight": s["fc.weight"].T}), "fc.weight is (6, 5), the model's is (5, 6)"),
        (lambda s: s.update({"classifier.weight": np.zeros((6, 16))}), "see input_size"),
        (lambda s: s.clear(), "and 7 more"),
        (lambda s: s.update({f"x{k}": s["fc.bias"] for k in range(9)}), "x0, x1, x2, x3 and 5 more"),
        (lambda s: [s.update({f"module.{key}": s.pop(key)}) for key in list(s)], "remove that prefix"),
        (lambda s: s.update({"model": dict(s)}), "give state_dict['model']"),
    ],
)
def test_wrong_keys_and_shapes_are_named(change, message):
    state = random_state()
    change(state)
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        from_torch_cnn(Net(), state)
    assert "\n" not in str(raised.value)


def test_what_is_no_state_dict_is_refused():
    state = random_state()
    with pytest.raises(TypeError, match="fc.weight must hold floats, got int8"):
        from_torch_cnn(Net(), state | {"fc.weight": np.zeros((5, 6), np.int8)})
    with pytest.raises(TypeError, match="got a list"):
        from_torch_cnn(Net(), list(state))
    with pytest.raises(TypeError, match="image classifier of seqjax.cnn, got a Dense"):
        from_torch_cnn(nn.Dense(3), state)
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"a Linear, not its weights; give its \.state_dict\(\)"):
        from_torch_cnn(Net(), torch.nn.Linear(2, 3))


def test_variables_of_another_model_are_refused():
    variables = from_torch_cnn(Net(), random_state())
    with pytest.raises(UserError, match=r"missing: features\.1\.running_mean, features\.1\.running_var"):
        to_torch_cnn(Net(), {"params": variables["params"]})
    with pytest.raises(UserError, match=re.escape("fc.weight is (5, 6), the model's is (9, 6)")):
        to_torch_cnn(Net(num_classes=9), variables)
    with pytest.raises(UserError, match="not the model's: aux1"):
        to_torch_cnn(Net(), from_torch_cnn(Net(aux_logits=True), random_state(SHAPES | AUX)))


def test_auxiliary_heads_on_both_sides():
    variables = from_torch_cnn(Net(aux_logits=True), random_state(SHAPES | AUX))
    assert variables["params"]["aux1"]["kernel"].shape == (4, 5)
    assert to_torch_cnn(Net(aux_logits=True), variables, tensors=False).keys() == (SHAPES | AUX).keys()


def test_auxiliary_heads_on_one_side_come_with_advice():
    with pytest.raises(UserError, match="no auxiliary heads, but Net has aux1; create the model with aux_logits=False"):
        from_torch_cnn(Net(aux_logits=True), random_state())
    state = random_state(SHAPES | AUX)
    with pytest.raises(UserError, match="has the auxiliary heads aux1 but Net has none.*drop_aux=True"):
        from_torch_cnn(Net(), state)
    kept = from_torch_cnn(Net(), state, drop_aux=True)
    assert kept["params"].keys() == {"features", "classifier", "fc"}
    with pytest.raises(UserError, match="missing: fc.bias"):
        from_torch_cnn(Net(), {key: state[key] for key in state if key != "fc.bias"}, drop_aux=True)


def test_the_size_of_the_images_decides_where_it_counts():
    shapes = {"conv1": (6, 1, 5, 5), "conv2": (16, 6, 5, 5), "fc1": (120, 64), "fc2": (84, 120), "fc3": (10, 84)}
    state = random_state({f"{k}.weight": v for k, v in shapes.items()} | {f"{k}.bias": v[:1] for k, v in shapes.items()})
    assert from_torch_cnn(LeNet5(), state, input_size=20)["params"]["fc1"]["kernel"].shape == (64, 120)
    with pytest.raises(UserError, match=re.escape("fc1.weight is (120, 64), the model's is (120, 400)") + ".*input_size"):
        from_torch_cnn(LeNet5(), state)
    with pytest.raises(UserError, match="not a square map"):
        from_torch_cnn(LeNet5(), state, input_size=(20, 32))
