"""Every formulation of a convolution against sums written out in NumPy, and its derivatives against those of lax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.test_util import check_grads

from seqjax.cnn import convolution
from seqjax.cnn.convolution import FORMULATIONS, OWN, choose, conv_general_dilated, convolve
from seqjax.cnn.convolution_parts import Window, chunks

# image (B, H, W, C), kernel (h, w, C / groups, F), strides, padding, dilation, groups
CASES = {
    "plain": ((2, 9, 7, 3), (3, 3, 3, 4), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "one-tap": ((2, 5, 4, 3), (1, 1, 3, 5), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "one-tap-strided": ((2, 6, 5, 3), (1, 1, 3, 5), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
    "strided": ((2, 8, 9, 3), (3, 3, 3, 4), (2, 3), ((1, 1), (1, 1)), (1, 1), 1),
    "asymmetric": ((2, 6, 6, 2), (3, 2, 2, 4), (2, 1), ((0, 1), (2, 0)), (1, 1), 1),
    "tall": ((2, 11, 5, 2), (3, 1, 2, 3), (1, 1), ((2, 3), (1, 0)), (1, 1), 1),
    "dilated": ((1, 9, 8, 2), (3, 3, 2, 3), (1, 2), ((3, 2), (1, 2)), (2, 3), 1),
    "dilated-width": ((1, 7, 9, 2), (3, 3, 2, 3), (1, 1), ((1, 1), (2, 3)), (1, 2), 1),
    "cropped": ((2, 8, 8, 2), (3, 3, 2, 3), (1, 1), ((-1, 1), (2, -2)), (1, 1), 1),
    "wide-padding": ((1, 4, 4, 2), (3, 3, 2, 3), (1, 1), ((5, 4), (3, 6)), (1, 1), 1),
    "dead-taps": ((2, 1, 2, 3), (3, 5, 3, 4), (1, 1), ((1, 1), (2, 2)), (1, 1), 1),
    "dead-taps-strided": ((2, 2, 2, 3), (7, 7, 3, 4), (2, 2), ((3, 3), (3, 3)), (1, 1), 1),
    "only-padding": ((1, 2, 2, 2), (2, 2, 2, 3), (4, 4), ((4, 0), (4, 0)), (1, 1), 1),
    "one-channel": ((2, 7, 6, 1), (5, 5, 1, 3), (1, 1), ((2, 2), (2, 2)), (1, 1), 1),
    "depthwise": ((4, 6, 5, 4), (3, 3, 1, 4), (1, 1), ((1, 1), (1, 1)), (1, 1), 4),
    "depthwise-strided": ((3, 7, 8, 4), (3, 3, 1, 4), (2, 2), ((0, 1), (1, 1)), (1, 1), 4),
    "multiplier": ((2, 6, 5, 3), (3, 2, 1, 6), (2, 1), ((1, 1), (1, 0)), (1, 2), 3),
    "groups": ((2, 6, 5, 4), (3, 3, 2, 6), (1, 1), ((1, 1), (1, 1)), (1, 1), 2),
}
each_case = pytest.mark.parametrize("name", CASES)


def arrays(name, dtype=jnp.float32):
    """Random image and kernel, and the settings of a case."""
    image, kernel, strides, padding, dilation, groups = CASES[name]
    rng = np.random.default_rng(len(name))
    x, w = (jnp.asarray(rng.normal(size=shape), dtype) for shape in (image, kernel))
    return x, w, dict(strides=strides, padding=padding, kernel_dilation=dilation, groups=groups)


def written_out(x, w, strides, padding, kernel_dilation, groups):
    """Window by window, in float64."""
    x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
    around = [(max(0, before), max(0, after)) for before, after in padding]
    wide = np.pad(x, ((0, 0), *around, (0, 0)))
    crops = [slice(max(0, -before), n - max(0, -after)) for (before, after), n in zip(padding, wide.shape[1:3])]
    wide = wide[:, *crops]
    out = [(n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(wide.shape[1:3], w.shape, kernel_dilation, strides)]
    y = np.zeros((x.shape[0], *out, w.shape[3]))
    channels, features = w.shape[2], w.shape[3] // groups
    for p, q in np.ndindex(*out):
        for i, j in np.ndindex(*w.shape[:2]):
            at = wide[:, p * strides[0] + i * kernel_dilation[0], q * strides[1] + j * kernel_dilation[1]]
            for n in range(groups):
                part = slice(n * features, (n + 1) * features)
                y[:, p, q, part] += at[:, n * channels : (n + 1) * channels] @ w[i, j, :, part]
    return y


@functools.cache
def runs(name, way):
    """Whether a formulation supports a case; if not, it must say why."""
    x, w, settings = arrays(name)
    try:
        jax.eval_shape(functools.partial(convolve, **settings, formulation=way), x, w)
    except ValueError as e:
        assert way in str(e) and any(word in str(e) for word in ("for", "needs"))
        return False
    return True


@each_case
def test_values_and_gradients(name):
    x, w, settings = arrays(name)
    expected = written_out(x, w, **settings)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=expected.shape), jnp.float32)
    gradients = {}
    for way in FORMULATIONS:
        if not runs(name, way):
            continue

        def loss(x, w, way=way):
            y = convolve(x, w, **settings, formulation=way)
            return jnp.sum(y * weights), y

        (_, y), gradients[way] = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(x, w)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5, err_msg=way)
    assert {"auto", "lax", "im2col"} <= gradients.keys()
    for way, (dx, dw) in gradients.items():
        np.testing.assert_allclose(dx, gradients["lax"][0], rtol=2e-5, atol=2e-5, err_msg=f"{way}, image")
        np.testing.assert_allclose(dw, gradients["lax"][1], rtol=2e-5, atol=2e-5, err_msg=f"{way}, kernel")


def test_every_formulation_was_compared():
    taken = {way: sum(runs(name, way) for name in CASES) for way in OWN}
    assert taken["im2col"] == taken["banded"] == len(CASES) and taken["shifted"] >= 3 and taken["winograd"] >= 5


@pytest.mark.one_in(3)
@pytest.mark.parametrize("way", OWN)
def test_derivatives_of_any_order(way, x64):
    name = {"shifted": "multiplier", "winograd": "dilated-width"}.get(way, "dilated")
    x, w, settings = arrays(name, jnp.float64)
    convolved = jax.jit(functools.partial(convolve, **settings, formulation=way))
    check_grads(lambda x, w: jnp.tanh(convolved(x, w)), (x, w), order=2, modes=["rev"])


def test_forward_mode_is_refused():
    x, w, settings = arrays("plain")
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: convolve(x, w, **settings, formulation="im2col"), (x,), (x,))


@pytest.mark.parametrize("name, way", [("plain", "winograd"), ("strided", "im2col"), ("depthwise", "shifted")])
def test_vmap_over_images_and_kernels(name, way):
    x, w, settings = arrays(name)
    xs, ws = jnp.stack([x, 2 * x, x - 1]), jnp.stack([w, w + 1, -w])

    def one(x, w):
        return jax.value_and_grad(lambda x, w: jnp.sum(convolve(x, w, **settings, formulation=way) ** 2), (0, 1))(x, w)

    alone = [jax.jit(one)(x, w) for x, w in zip(xs, ws)]
    together = jax.jit(jax.vmap(one))(xs, ws)
    jax.tree.map(lambda a, *b: np.testing.assert_allclose(a, np.stack(b), rtol=1e-4, atol=1e-4), together, *alone)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", ["plain", "strided", "depthwise", "multiplier"])
def test_bfloat16_is_added_up_in_float32(name):
    x, w, settings = arrays(name, jnp.bfloat16)
    expected = written_out(x, w, **settings)
    for way in ("auto", "im2col", *(["shifted"] if settings["groups"] > 1 else [])):

        def loss(x, w, way=way):
            y = convolve(x, w, **settings, formulation=way)
            return jnp.sum(y**2), y

        (_, y), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(x, w)
        assert y.dtype == jnp.bfloat16 and all(g.dtype == jnp.bfloat16 for g in gradients)
        np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=2**-8, atol=1e-3)


def test_sequences_are_images_one_wide():
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 13, 3), (3, 3, 4)))
    settings = dict(padding=((4, 0),), kernel_dilation=2)
    expected = written_out(x[:, :, None], w[:, None], (1, 1), ((4, 0), (0, 0)), (2, 1), 1)[:, :, 0]
    for way in ("auto", "lax", "im2col"):
        np.testing.assert_allclose(convolve(x, w, **settings, formulation=way), expected, rtol=1e-5, atol=1e-5)
    y = convolve(x, w, padding="SAME", formulation="winograd")
    np.testing.assert_allclose(y, convolve(x, w, padding="SAME", formulation="lax"), rtol=1e-5, atol=1e-5)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("module", list(OWN.values()), ids=list(OWN))
def test_a_batch_in_parts(module, monkeypatch):
    """Splitting the work into cache-sized parts does not change the result."""
    for name, value in vars(module).items():
        if name in ("FORWARD", "BACKWARD", "LIMIT"):
            assert value >= 2**20
            monkeypatch.setattr(module, name, 2000)
    name = "depthwise" if module is OWN["shifted"] else "plain"
    x, w, settings = arrays(name)
    x = jnp.concatenate([x, x + 1, -x])
    way = next(way for way in OWN if OWN[way] is module)

    def gradients(way):
        loss = lambda x, w: jnp.sum(convolve(x, w, **settings, formulation=way) ** 3)  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, (0, 1)))(x, w)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3 * float(jnp.abs(b).max())),
        gradients(way),
        gradients("lax"),
    )


def test_parts_of_a_batch():
    assert chunks(32, 10, 100) == 4  # 8 images; 10 would fit but do not divide 32
    assert chunks(32, 10, 320) == 1
    assert chunks(7, 10, 69) == 7
    assert chunks(7, 10, 5) == 7


def test_winograd_is_as_accurate_as_the_direct_sum():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 12, 12, 96)).astype("f"), rng.normal(size=(3, 3, 96, 32)).astype("f")
    exact = written_out(x, w, (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    error = {
        way: np.sqrt(np.mean((convolve(x, w, padding=1, formulation=way) - exact) ** 2)) / exact.std()
        for way in ("lax", "im2col", "winograd")
    }
    assert error["winograd"] < 1e-6 and error["winograd"] < 4 * error["im2col"]


def test_as_the_convolution_of_linen():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 8, 6, 4)), jnp.float32)
    settings = [
        dict(),
        dict(padding="VALID", strides=(2, 1)),
        dict(padding="CIRCULAR"),
        dict(feature_group_count=4, kernel_dilation=(2, 1)),
        dict(input_dilation=(2, 2), padding=1),
        dict(precision="highest"),
    ]
    for each in settings:
        own, linen = (nn.Conv(8, (3, 3), conv_general_dilated=f, **each) for f in (conv_general_dilated, None))
        variables = jax.jit(linen.init)(jax.random.key(0), x)
        np.testing.assert_allclose(jax.jit(own.apply)(variables, x), jax.jit(linen.apply)(variables, x), rtol=1e-5, atol=1e-5)


def test_other_layouts_go_to_lax():
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 3, 6, 6), (4, 3, 3, 3)))
    y = conv_general_dilated(x, w, (1, 1), "SAME")
    np.testing.assert_array_equal(y, jax.lax.conv_general_dilated(x, w, (1, 1), "SAME"))


def test_off_the_cpu_auto_is_lax(monkeypatch):
    x, w, settings = arrays("depthwise")
    text = lambda: str(jax.make_jaxpr(lambda x, w: convolve(x, w, **settings))(x, w))  # noqa: E731
    assert "conv_general_dilated" not in text()
    monkeypatch.setattr(convolution.jax, "default_backend", lambda: "gpu")
    assert "conv_general_dilated" in text()


def test_what_auto_takes():
    def plan(image, kernel, strides=1, pad=0, groups=1, dtype=jnp.float32):
        window = Window((strides, strides), ((pad, pad), (pad, pad)), (1, 1), groups)
        return choose(jax.ShapeDtypeStruct(image, dtype), jax.ShapeDtypeStruct(kernel, dtype), window)[1:]

    assert plan((32, 16, 16, 128), (3, 3, 1, 128), 2, 1, groups=128) == ("shifted",) * 3
    assert plan((32, 16, 16, 64), (1, 1, 64, 128), 2) == ("im2col",) * 3
    assert plan((32, 32, 32, 64), (3, 3, 64, 64), pad=1) == ("winograd",) * 3
    assert plan((32, 32, 32, 64), (3, 3, 64, 64), pad=1, dtype=jnp.bfloat16) == ("lax",) * 3
    assert plan((32, 2, 2, 512), (3, 3, 512, 512), pad=1)[:2] == ("im2col", "im2col")
    assert plan((32, 32, 32, 64), (3, 3, 64, 128), 2, 1) == ("im2col",) * 3
    assert plan((32, 28, 28, 1), (5, 5, 1, 6), pad=2) == plan((128, 14, 14, 6), (5, 5, 6, 16)) == ("banded",) * 3
    assert plan((32, 224, 224, 3), (3, 3, 3, 32), pad=1)[0] == "lax"
    assert plan((32, 64, 64, 3), (7, 7, 3, 64), 2, 3)[0] == "lax"


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(formulation="fft"), "one of auto, lax, banded, im2col, shifted, winograd, got 'fft'"),
        (dict(formulation="shifted"), "groups of one channel, got 3"),
        (dict(strides=(2,)), r"strides=\(2,\) must have one value for each of the 2 spatial axes"),
        (dict(padding="FULL"), "padding must be .* SAME or VALID; got 'FULL'"),
        (dict(formulation="winograd", strides=2), r"needs strides 1.*\(2, 2\)"),
        (dict(formulation="winograd", kernel_dilation=(2, 1)), r"dilation \(2, 1\)"),
        (dict(formulation="im2col", groups=3), r"3 groups of kernel \(3, 3, 3, 4\) do not fit x \(2, 9, 7, 3\)"),
    ],
)
def test_what_cannot_run_says_why(change, message):
    x, w, _ = arrays("plain")
    with pytest.raises(ValueError, match=message):
        convolve(x, w, **change)


def test_other_refusals():
    x, w, _ = arrays("plain")
    half = x.astype(jnp.bfloat16)
    with pytest.raises(ValueError, match="accuracy in bfloat16"):
        convolve(half, w.astype(jnp.bfloat16), formulation="winograd")
    with pytest.raises(ValueError, match="same floating dtype, got bfloat16 and float32"):
        convolve(half, w, formulation="im2col")
    with pytest.raises(ValueError, match="3 high, got 2"):
        convolve(x, w[:2], formulation="winograd")
    with pytest.raises(ValueError, match="empty"):
        convolve(x[:0], w, formulation="im2col")
    assert convolve(x[:0], w).shape == (0, 7, 5, 4)
    assert convolve(x[:, :2], w).shape == convolve(x[:, :2], w, formulation="im2col").shape == (2, 0, 5, 4)
