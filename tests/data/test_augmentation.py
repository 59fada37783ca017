"""The augmentations against NumPy, image by image, with what was drawn recovered from the results."""

import colorsys
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.data.transforms import augmentation
from seqjax.data.transforms.augmentation import Augmentation, augment
from seqjax.data.transforms.parts import computed_once

KEY = jax.random.key(7)
BATCH = 5

OPERATIONS = {
    "pad_and_crop": lambda key, x: augmentation.pad_and_crop(key, x, 2),
    "pad_and_crop reflect": lambda key, x: augmentation.pad_and_crop(key, x, 2, "reflect"),
    "flip": lambda key, x: augmentation.horizontal_flip(key, x),
    "cutout": lambda key, x: augmentation.cutout(key, x, 3),
    "resized_crop": lambda key, x: augmentation.random_resized_crop(key, x, x.shape[1:3]),
    "resized_crop smaller": lambda key, x: augmentation.random_resized_crop(key, x, 3),
    "affine": lambda key, x: augmentation.small_affine(key, x, 30, 0.2, 0.3, 10),
    "jitter": lambda key, x: augmentation.colour_jitter(key, x, 0.5, 0.5, 0.5, 0.3),
    "augment": lambda key, x: augment(key, x, None, EVERYTHING)[0],
}
EVERYTHING = Augmentation(
    crop_padding=1,
    flip=True,
    cutout=2,
    jitter=0.4,
    affine_degrees=20.0,
    affine_translate=0.1,
    affine_scale=0.1,
    resized_crop=True,
)
every_operation = pytest.mark.parametrize("name", OPERATIONS)


def make_images(*shape, seed=0, low=0.0, high=1.0):
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def many(operation, images, keys):
    """The results of `operation(key, images)` for many keys, (keys, ...)."""
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda k: operation(k, images)))(jax.random.split(KEY, keys)))


@pytest.mark.one_in(2)
@every_operation
def test_an_image_depends_on_the_key_its_place_and_itself(name):
    images, others = make_images(BATCH, 6, 7, 3), make_images(BATCH, 6, 7, 3, seed=1)
    operation = jax.jit(OPERATIONS[name])
    whole = np.asarray(operation(KEY, images))
    others[2] = images[2]
    assert np.array_equal(operation(KEY, others)[2], whole[2])
    np.testing.assert_allclose(operation(KEY, images[:2]), whole[:2], atol=1e-6)
    assert np.array_equal(operation(KEY, images), whole)
    assert any(not np.array_equal(operation(jax.random.key(n), images), whole) for n in range(3))
    same = np.asarray(operation(KEY, np.broadcast_to(images[:1], images.shape)))
    assert len({image.tobytes() for image in same}) > 1, "every image has its own randomness"
    assert np.all((whole >= 0) & (whole <= 1))


@pytest.mark.one_in(2)
@every_operation
def test_shapes_dtypes_vmap_and_no_recompilation(name):
    operation, images = OPERATIONS[name], jnp.asarray(make_images(2, BATCH, 6, 7, 3))
    keys = jax.random.split(KEY, 2)
    compiled = jax.jit(lambda key, x: operation(key, x))  # a function of its own, and so a cache of its own
    each = jnp.stack([compiled(key, x) for key, x in zip(keys, images)])
    assert compiled._cache_size() == 1
    np.testing.assert_allclose(jax.jit(jax.vmap(operation))(keys, images), each, atol=1e-6)
    for dtype, wide in itertools.product((jnp.float32, jnp.bfloat16), (False, True)):
        with jax.enable_x64(wide):
            made = jax.eval_shape(operation, KEY, jax.ShapeDtypeStruct(images.shape[1:], dtype))
            assert made.dtype == dtype and made.shape == each.shape[1:]


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_joins_pairs_and_their_targets_alike(alpha):
    images = make_images(BATCH, 3, 4, 2)
    mixed, weights = many(lambda k, x: augmentation.mixup(k, x, jnp.eye(BATCH), alpha), images, 1000)
    # With the unit matrix for targets these are the weights of the images themselves: lambda I + (1 - lambda) P.
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(weights.sum(axis=2), 1, atol=1e-6)
    np.testing.assert_allclose(mixed, np.einsum("kij,jhwc->kihwc", weights, images), atol=1e-5)
    away = np.array([w for w in weights if np.all(np.diag(w) < 1 - 1e-6) and np.all(np.sum(w > 0, axis=1) == 2)])
    shares = np.diagonal(away, axis1=1, axis2=2)
    assert len(shares) > 100 and np.ptp(shares, axis=1).max() < 1e-6, "one lambda a batch"
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(shares.mean() - 0.5) < 5 * np.sqrt(variance / len(shares))
    assert abs(shares[:, 0].var() - variance) < 0.25 * variance
    partners = {tuple(np.argmax(w * (1 - np.eye(BATCH)), axis=1)) for w in away}
    assert len(partners) == 44, "all permutations of five that leave none in its place"


def recovered(results, images, base, low, high):
    """Finds f in results = f images + (1 - f) base for each key and image, and checks that it fits all pixels."""
    difference = images - base
    factor = np.sum((results - base) * difference, (2, 3, 4)) / np.sum(difference**2, (1, 2, 3))
    np.testing.assert_allclose(results, base + factor[..., None, None, None] * difference, atol=1e-5)
    assert factor.min() >= low - 1e-4 and factor.max() <= high + 1e-4
    assert np.ptp(factor) > 0.97 * (high - low) and abs(factor.mean() - (low + high) / 2) < 0.05 * (high - low)
    return factor


@pytest.mark.parametrize("channels", [1, 3])
def test_brightness_contrast_and_saturation(channels):
    images = make_images(2, 4, 5, channels, low=0.4, high=0.6)  # nothing is clipped
    grey = images if channels == 1 else np.sum(images * np.float32([0.299, 0.587, 0.114]), axis=-1, keepdims=True)
    jitter = augmentation.colour_jitter
    recovered(many(lambda k, x: jitter(k, x, 0.5), images, 300), images, np.zeros_like(images), 0.5, 1.5)
    mean = np.broadcast_to(grey.mean((1, 2, 3), keepdims=True), images.shape)
    recovered(many(lambda k, x: jitter(k, x, 0, 1.5), images, 300), images, mean, 0, 2.5)
    if channels == 3:
        base = np.broadcast_to(grey, images.shape)
        recovered(many(lambda k, x: jitter(k, x, 0, 0, 0.5), images, 300), images, base, 0.5, 1.5)


def test_hue_turns_as_colorsys_does():
    images = make_images(1, 3, 4, 3)
    images[0, 0, 1], images[0, 0, 2], images[0, 0, 3] = 0.5, 0, (1, 0, 1)  # greys have no hue
    turned = many(lambda k, x: augmentation.colour_jitter(k, x, hue=0.25), images, 200)[:, 0]
    before = colorsys.rgb_to_hsv(*map(float, images[0, 0, 0]))[0]
    turns = []
    for result in turned:
        turn = (colorsys.rgb_to_hsv(*map(float, result[0, 0]))[0] - before + 0.5) % 1 - 0.5
        for old, new in zip(images[0].reshape(-1, 3).astype(float), result.reshape(-1, 3)):
            hue, saturation, value = colorsys.rgb_to_hsv(*old)
            np.testing.assert_allclose(new, colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value), atol=1e-5)
        turns.append(turn)
    assert -0.25 <= min(turns) < -0.23 and 0.23 < max(turns) <= 0.25


def test_colours_are_drawn_apart():
    images = make_images(2, 4, 4, 3, low=0.4, high=0.6)
    jitter = jax.jit(augmentation.colour_jitter, static_argnums=(2, 3, 4, 5))
    alone = jitter(KEY, images, 0, 0, 0.3, 0)
    together = jitter(KEY, images, 0.2, 0, 0.3, 0)
    factor = np.asarray(jitter(KEY, images, 0.2, 0, 0, 0)) / images
    np.testing.assert_allclose(together, alone * factor, atol=1e-6)


def test_to_float_and_normalize():
    values = np.arange(256, dtype=np.uint8)
    np.testing.assert_allclose(augmentation.to_float(jnp.asarray(values)), values / 255, atol=1e-7)
    images, mean, std = make_images(2, 3, 4, 3), (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    expected = (images - np.float32(mean)) / np.float32(std)
    np.testing.assert_allclose(augmentation.normalize(images, mean, std), expected, atol=1e-6)
    np.testing.assert_allclose(augmentation.normalize(images, 0.5, 0.25), (images - 0.5) / 0.25, atol=1e-6)


NAMES = ("random_resized_crop", "pad_and_crop", "small_affine", "horizontal_flip", "colour_jitter", "cutout", "mixup")
SWITCHES = {
    "random_resized_crop": {"resized_crop": True},
    "pad_and_crop": {"crop_padding": 1},
    "small_affine": {"affine_scale": 0.1},
    "horizontal_flip": {"flip": True},
    "colour_jitter": {"jitter": 0.1},
    "cutout": {"cutout": 2},
    "mixup": {"mixup": 0.2},
}


@pytest.fixture
def calls(monkeypatch):
    """(name, key's data, further arguments) of the operations in the order they are called; none does anything."""
    seen = []

    def record(name):
        def operation(key, images, *rest):
            seen.append((name, jax.random.key_data(key).tolist(), rest))
            return (images, rest[0]) if name == "mixup" else images

        monkeypatch.setattr(augmentation, name, operation)

    for name in NAMES:
        record(name)
    return seen


def test_augment_keeps_its_order_and_each_operation_its_key(calls):
    images, targets = make_images(2, 4, 4, 1), jnp.eye(2)
    everything = Augmentation(**{field: value for switch in SWITCHES.values() for field, value in switch.items()})
    augment(KEY, images, targets, everything)
    together = [(name, key) for name, key, _ in calls]
    assert tuple(name for name, _ in together) == NAMES
    assert len({tuple(key) for _, key in together}) == len(NAMES)
    calls.clear()
    for name in NAMES:
        augment(KEY, images, targets, Augmentation(**SWITCHES[name]))
    assert [(name, key) for name, key, _ in calls] == together


def test_augment_passes_its_settings_on(calls):
    for channels, saturation in ((1, 0.0), (3, 0.4)):
        augment(KEY, make_images(2, 5, 4, channels), None, EVERYTHING._replace(mixup=0.2))
        given = {name: rest for name, _, rest in calls}
        assert given == {
            "random_resized_crop": ((5, 4),),
            "pad_and_crop": (1,),
            "small_affine": (20.0, 0.1, 0.1),
            "horizontal_flip": (),
            "colour_jitter": (0.4, 0.4, saturation),
            "cutout": (2,),
            "mixup": (None, 0.2),
        }
        calls.clear()
    assert set(EVERYTHING._asdict()) == {field for switch in SWITCHES.values() for field in switch} | {
        "affine_degrees",
        "affine_translate",
    }


def test_augment_does_nothing_unless_asked():
    images, targets = jnp.asarray(make_images(2, 4, 4, 1)), jnp.arange(2)
    same, kept = augment(KEY, images, targets, Augmentation())
    assert same is images and kept is targets


def test_a_flip_before_leaves_the_cut_squares_where_they_were():
    images = np.ones((BATCH, 6, 6, 1), np.float32)
    alone, _ = augment(KEY, images, None, Augmentation(cutout=2))
    both, _ = augment(KEY, images, None, Augmentation(cutout=2, flip=True, jitter=0.5, affine_degrees=1e-3))
    assert np.array_equal(np.asarray(alone) > 0, np.asarray(both) > 0) and np.any(alone == 0)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other devices finish an operation before the next")
def test_a_loop_that_xla_keeps_stands_between_any_two_operations():
    images, targets = make_images(4, 6, 7, 3), jnp.eye(4)
    traced = jax.make_jaxpr(lambda *given: augment(*given, EVERYTHING._replace(mixup=0.2)))(KEY, images, targets)
    assert str(traced).count("optimization_barrier") == len(augmentation.STREAMS) - 1

    def fused(key, images):
        keys = [jax.random.fold_in(key, augmentation.STREAMS[name]) for name in ("pad_and_crop", "flip", "cutout")]
        images = augmentation.horizontal_flip(keys[1], augmentation.pad_and_crop(keys[0], images, 1))
        return augmentation.cutout(keys[2], images, 2)

    def apart(key, images):
        return augment(key, images, None, Augmentation(crop_padding=1, flip=True, cutout=2))[0]

    fused, apart = (jax.jit(function).lower(KEY, images).compile() for function in (fused, apart))
    assert apart.as_text().count(" while(") == fused.as_text().count(" while(") + 2
    assert np.array_equal(apart(KEY, images), fused(KEY, images))


@pytest.mark.parametrize("batch", [0, 1, 7, 9])
def test_computed_once_changes_nothing(batch):
    images = make_images(batch, 3, 4, 1)
    assert np.array_equal(jax.jit(computed_once)(images), images)


IMAGES = np.zeros((2, 4, 4, 1), np.float32)
FAULTS = {
    "three axes": (lambda: augmentation.horizontal_flip(KEY, IMAGES[0]), ValueError, r"\(4, 4, 1\)"),
    "bytes": (lambda: augmentation.cutout(KEY, IMAGES.astype(np.uint8), 2), TypeError, "uint8; to_float"),
    "bytes in augment": (lambda: augment(KEY, IMAGES.astype(int), None, Augmentation()), TypeError, "int64"),
    "floats to float": (lambda: augmentation.to_float(IMAGES), TypeError, "float32"),
    "mode": (lambda: augmentation.pad_and_crop(KEY, IMAGES, 1, "edge"), ValueError, "reflect', not 'edge'"),
    "padding": (lambda: augmentation.pad_and_crop(KEY, IMAGES, -1), ValueError, "padding must be at least 0, not -1"),
    "reflection": (lambda: augmentation.pad_and_crop(KEY, IMAGES, 4, "reflect"), ValueError, r"4, \(2, 4, 4, 1\)"),
    "probability": (lambda: augmentation.horizontal_flip(KEY, IMAGES, 1.5), ValueError, r"\[0, 1\], not 1.5"),
    "size": (lambda: augmentation.cutout(KEY, IMAGES, -2), ValueError, "size must be at least 0, not -2"),
    "alpha": (lambda: augmentation.mixup(KEY, IMAGES, np.eye(2), 0), ValueError, "alpha must be above 0, not 0"),
    "labels": (lambda: augmentation.mixup(KEY, IMAGES, np.arange(2), 1), ValueError, r"\(2, labels\).*\(2,\).*one_hot"),
    "other batch": (lambda: augmentation.mixup(KEY, IMAGES, np.eye(3), 1), ValueError, r"\(2, labels\).*\(3, 3\)"),
    "int targets": (lambda: augmentation.mixup(KEY, IMAGES, np.eye(2, dtype=int), 1), TypeError, "int64"),
    "no size": (lambda: augmentation.random_resized_crop(KEY, IMAGES, 0), ValueError, r"\(0, 0\)"),
    "scale": (lambda: augmentation.random_resized_crop(KEY, IMAGES, 4, (0.5, 2)), ValueError, r"scale.*\(0.5, 2\)"),
    "ratio": (lambda: augmentation.random_resized_crop(KEY, IMAGES, 4, ratio=(2, 1)), ValueError, r"ratio.*\(2, 1\)"),
    "zoom": (lambda: augmentation.small_affine(KEY, IMAGES, 5, 0, 1), ValueError, "scale .*less than 1, not 1"),
    "degrees": (lambda: augmentation.small_affine(KEY, IMAGES, -5, 0, 0), ValueError, "degrees .*not -5"),
    "angles": (
        lambda: augmentation.affine(IMAGES, np.zeros(3), np.zeros((2, 2)), np.ones(2), np.zeros(2)),
        ValueError,
        r"degrees must have shape \(2,\).*not \(3,\)",
    ),
    "brightness": (lambda: augmentation.colour_jitter(KEY, IMAGES, -0.1), ValueError, "brightness .*-0.1"),
    "hue range": (lambda: augmentation.colour_jitter(KEY, IMAGES, hue=0.6), ValueError, r"hue .*\[0, 0.5\], not 0.6"),
    "grey saturation": (lambda: augmentation.colour_jitter(KEY, IMAGES, 0, 0, 0.1), ValueError, "3 channels.*not 1"),
    "grey hue": (lambda: augmentation.colour_jitter(KEY, IMAGES, hue=0.1), ValueError, "3 channels.*not 1"),
    "mean": (lambda: augmentation.normalize(IMAGES, (0.1, 0.2, 0.3), 1), ValueError, "mean must be one number or 1"),
    "std": (lambda: augmentation.normalize(IMAGES, 0, 0), ValueError, "std must be above 0"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(fault):
    call, error, match = FAULTS[fault]
    with pytest.raises(error, match=match):
        call()
