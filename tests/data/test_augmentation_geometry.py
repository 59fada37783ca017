"""Operations that move or cover pixels, against NumPy, image by image, with the draws recovered from the results."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.data.transforms import augmentation, geometry

KEY = jax.random.key(7)


def make_images(*shape, seed=0, low=0.0, high=1.0):
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def many(operation, images, keys):
    """The results of `operation(key, images)` for many keys, (keys, ...)."""
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda k: operation(k, images)))(jax.random.split(KEY, keys)))


def count(results, candidates):
    """How often each candidate (N, ...) is the result (M, ...); each result is exactly one of them."""
    equal = np.array([[np.array_equal(result, candidate) for candidate in candidates] for result in results])
    assert np.all(equal.sum(axis=1) == 1)
    return equal.sum(axis=0)


def assert_even(counts):
    """All counts within five standard deviations of their mean."""
    assert np.all(np.abs(counts - counts.mean()) < 5 * np.sqrt(counts.mean()))


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_every_crop_of_the_padded_image_is_as_likely(mode):
    images, padding = make_images(3, 5, 4, 2), 2
    crops = many(lambda k, x: augmentation.pad_and_crop(k, x, padding, mode), images, 1000)
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode=mode)
    places = list(itertools.product(range(2 * padding + 1), repeat=2))
    for n in range(3):
        assert_even(count(crops[:, n], [padded[n, top : top + 5, left : left + 4] for top, left in places]))


def test_a_crop_without_padding_is_the_image():
    images = make_images(2, 4, 4, 1)
    assert np.array_equal(augmentation.pad_and_crop(KEY, images, 0), images)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_the_share_of_flips(probability):
    images = make_images(3, 2, 5, 2)
    flipped = many(lambda k, x: augmentation.horizontal_flip(k, x, probability), images, 1000)
    counts = sum(count(flipped[:, n], [images[n], images[n, :, ::-1]]) for n in range(3))
    assert abs(counts[1] / 3000 - probability) < 5 * np.sqrt(probability * (1 - probability) / 3000) + 1e-9


@pytest.mark.parametrize("size", [2, 3])
def test_cutout_covers_a_square_about_each_pixel_as_often(size):
    images = make_images(2, 5, 4, 3, low=0.1)
    cut = many(lambda k, x: augmentation.cutout(k, x, size, fill=0.05), images, 1000)

    def covered(image, row, column):
        image, top, left = image.copy(), row - size // 2, column - size // 2
        image[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = 0.05
        return image

    for n in range(2):
        assert_even(count(cut[:, n], [covered(images[n], *place) for place in itertools.product(range(5), range(4))]))


def test_cutout_of_nothing_and_of_everything():
    images = make_images(2, 5, 4, 1)
    assert np.array_equal(augmentation.cutout(KEY, images, 0), images)
    assert not np.any(augmentation.cutout(KEY, images, 10))


def resize_reference(image, size):
    """Bilinear with a triangle as wide as the step where a side shrinks, in float64, axis by axis, pixel by pixel."""
    for axis, length in enumerate(size):
        old = image.shape[axis]
        made = []
        for place in range(length):
            centre = (place + 0.5) * old / length - 0.5
            weights = np.maximum(0, 1 - np.abs(np.arange(old) - centre) / max(1, old / length))
            made.append(np.tensordot(weights / weights.sum(), image.astype(np.float64), (0, axis)))
        image = np.stack(made, axis=axis)
    return image


def draw_boxes(height, width, keys, **ranges):
    """(keys, 4): top, left, height and width of the box drawn for each key, read off pictures of the coordinates."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    images = np.stack([rows, columns], axis=-1)[None].astype(np.float32)
    corners = many(lambda k, x: augmentation.random_resized_crop(k, x, (height, width), **ranges), images, keys)[:, 0]
    first, last = corners[:, 0, 0], corners[:, -1, -1]
    boxes = np.concatenate([first, last - first + 1], axis=1)
    np.testing.assert_allclose(boxes, boxes.round(), atol=1e-4)
    return boxes.round().astype(int)


def test_the_boxes_of_resized_crops():
    height, width = 40, 60
    boxes = draw_boxes(height, width, 2000)
    top, left, h, w = boxes.T
    assert np.all(boxes[:, :2] >= 0) and np.all(top + h <= height) and np.all(left + w <= width)
    area = h * w / (height * width)
    assert area.min() > 0.07 and area.max() > 0.85 and len(set(top)) > 25 and len(set(left)) > 40
    small = area < 0.4  # which nearly always fit, so that they are as drawn
    assert abs(area[small].mean() - 0.24) < 0.02
    assert np.all((w + 1) / (h - 1) >= 3 / 4) and np.all((w - 1) / (h + 1) <= 4 / 3)
    assert abs(np.log(w / h)[small].mean()) < 0.02
    # Uniform among the positions inside: the share of free space above the box has mean one half.
    assert abs(np.mean((top + 0.5) / (height - h + 1)) - 0.5) < 0.03


def test_a_shape_that_never_fits_gives_the_middle():
    for top, left, h, w in draw_boxes(6, 6, 5, scale=(1, 1), ratio=(3, 3)):
        assert (top, left, h, w) == (2, 0, 2, 6)
    for top, left, h, w in draw_boxes(6, 6, 5, scale=(1, 1), ratio=(1 / 3, 1 / 3)):
        assert (top, left, h, w) == (0, 2, 6, 2)


@pytest.mark.parametrize("size", [(12, 16), (15, 16), (5, 7), (14, 6)])
def test_a_resized_crop_is_the_box_resized(size):
    images, keys = make_images(1, 12, 16, 2), 8
    crops = many(lambda k, x: augmentation.random_resized_crop(k, x, size), images, keys)[:, 0]
    for crop, (top, left, h, w) in zip(crops, draw_boxes(12, 16, keys)):
        box = images[0, top : top + h, left : left + w]
        np.testing.assert_allclose(crop, resize_reference(box, size), atol=2e-5)


def test_a_resized_crop_of_everything_is_the_image():
    images = make_images(2, 6, 6, 3)
    crop = functools.partial(augmentation.random_resized_crop, KEY, images, scale=(1, 1), ratio=(1, 1))
    assert np.array_equal(crop(6), images)
    for size in (4, 9):
        np.testing.assert_allclose(crop(size), jax.image.resize(images, (2, size, size, 3), "bilinear"), atol=1e-5)


def affine_reference(image, degrees, shift, zoom, shear):
    """Each pixel of the result from the inverse matrix and four neighbours, in float64; zero outside."""
    angle, slope = np.deg2rad(degrees), np.tan(np.deg2rad(shear))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    back = np.linalg.inv(zoom * turn @ np.array([[1, 0], [slope, 1]]))
    middle = (np.array(image.shape[:2]) - 1) / 2
    made = np.zeros(image.shape)
    for q in itertools.product(*map(range, image.shape[:2])):
        p = back @ (np.array(q) - middle - shift) + middle
        for corner in itertools.product(*([int(np.floor(c)), int(np.floor(c)) + 1] for c in p)):
            if all(0 <= c < n for c, n in zip(corner, image.shape)):
                made[q] += np.prod(1 - np.abs(p - corner)) * image[corner]
    return made


def test_affine_is_what_its_matrix_says():
    images, rng = make_images(6, 7, 9, 2), np.random.default_rng(3)
    degrees, shear, zoom = rng.uniform(-180, 180, 6), rng.uniform(-40, 40, 6), rng.uniform(0.5, 2, 6)
    shift = rng.uniform(-3, 3, (6, 2))
    moved = jax.jit(augmentation.affine)(images, *(jnp.float32(v) for v in (degrees, shift, zoom, shear)))
    for n in range(6):
        expected = affine_reference(images[n], degrees[n], shift[n], zoom[n], shear[n])
        np.testing.assert_allclose(moved[n], expected, atol=2e-4)


def test_affine_turns_as_rot90_does_and_shifts_down_and_right():
    images, zeros, ones = make_images(4, 5, 5, 2), jnp.zeros(4), jnp.ones(4)
    moved = jax.jit(augmentation.affine)(images, jnp.float32([0, 90, 180, 270]), jnp.zeros((4, 2)), ones, zeros)
    for turns in range(4):
        np.testing.assert_allclose(moved[turns], np.rot90(images[turns], turns), atol=1e-5)
    moved = jax.jit(augmentation.affine)(images, zeros, jnp.broadcast_to(jnp.float32([[2, 1]]), (4, 2)), ones, zeros)
    expected = np.pad(images, ((0, 0), (2, 0), (1, 0), (0, 0)))[:, :5, :5]
    assert np.array_equal(moved, expected)
    assert np.array_equal(augmentation.small_affine(KEY, images, 0, 0, 0), images)
    far = augmentation.affine(images, zeros, jnp.full((4, 2), 1e12), ones, zeros)
    assert not np.any(far)


def test_small_affine_draws_within_its_limits(monkeypatch):
    monkeypatch.setattr(geometry, "affine", lambda images, *drawn: jnp.stack([*drawn[0:1], *drawn[2:], *drawn[1].T]))
    drawn = many(lambda k, x: augmentation.small_affine(k, x, 20, 0.1, 0.3, 5), make_images(2, 10, 40, 1), 1000)
    middle, limit = np.array([0, 1, 0, 0, 0]), np.array([20, 0.3, 5, 1, 4])
    unit = ((drawn - middle[:, None]) / limit[:, None]).transpose(1, 0, 2).reshape(5, -1)
    assert np.abs(unit).max() <= 1 + 1e-6 and np.all(np.ptp(unit, axis=1) > 1.98)
    np.testing.assert_allclose(np.cov(unit), np.eye(5) / 3, atol=0.04)
