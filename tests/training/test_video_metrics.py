"""SSIM against scikit-image, errors of frames in NumPy, and what a batch adds to them."""

import jax
import numpy as np
import pytest

from seqjax.data.pipeline.clips import VideoBatch
from seqjax.data.transforms.augmentation import Augmentation
from seqjax.models.video import VideoForecaster
from seqjax.training import metrics
from seqjax.training.losses import Sums
from seqjax.training.metrics.video import frame_errors, ssim, video_answers
from seqjax.training.video import augment_frames, forecast_loss


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


@pytest.mark.parametrize("shape, window", [((9, 11, 1), 7), ((16, 16, 3), 7), ((8, 30, 1), 3)], ids=str)
def test_ssim_is_that_of_scikit_image(shape, window):
    compare = pytest.importorskip("skimage.metrics").structural_similarity
    first = drawn(4, *shape)
    for other in (
        np.clip(first + 0.1 * drawn(4, *shape, seed=1), 0, 1),
        drawn(4, *shape, seed=2),
        np.zeros_like(first),
        first,
    ):
        expected = [compare(a, b, data_range=1.0, win_size=window, channel_axis=-1) for a, b in zip(first, other)]
        np.testing.assert_allclose(ssim(first, other, window=window), expected, rtol=1e-4, atol=1e-4)
    expected = [compare(255 * a, 255 * b, data_range=255, win_size=window, channel_axis=-1) for a, b in zip(first, first[::-1])]
    np.testing.assert_allclose(ssim(255 * first, 255 * first[::-1], window=window, peak=255), expected, rtol=1e-4, atol=1e-4)


def test_ssim_keeps_its_digits_on_bright_even_images():
    compare = pytest.importorskip("skimage.metrics").structural_similarity
    first, second = (0.98 + 0.001 * drawn(12, 12, 1, seed=seed) for seed in (0, 1))
    np.testing.assert_allclose(ssim(first, second), compare(first, second, data_range=1.0, channel_axis=-1), atol=2e-3)


def test_ssim_of_images_that_are_too_small():
    with pytest.raises(ValueError, match="window is 7; it must be odd and at most the side"):
        ssim(drawn(5, 9, 1), drawn(5, 9, 1))


def test_errors_of_frames_in_numpy():
    predicted, true = drawn(2, 3, 8, 9, 1), drawn(2, 3, 8, 9, 1, seed=1)
    found = frame_errors(predicted, true)
    for clip in range(2):
        for step in range(3):
            p, y = predicted[clip, step].astype(float), true[clip, step].astype(float)
            np.testing.assert_allclose(found["mse"][clip, step], ((p - y) ** 2).sum(), rtol=1e-5)
            np.testing.assert_allclose(found["mae"][clip, step], np.abs(p - y).sum(), rtol=1e-5)
            np.testing.assert_allclose(found["bce"][clip, step], -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(), rtol=1e-5)


@pytest.mark.parametrize("kind", ["bce", "mse"])
def test_the_loss_of_next_frames(kind):
    """The mean over frames and pixels, summed over real clips; the metric is the mean of each error over predicted frames."""
    model = VideoForecaster((8, 8, 1), features=(4,), patch=2)
    frames = np.random.default_rng(0).integers(0, 256, (3, 5, 8, 8, 1)).astype(np.uint8)
    batch = VideoBatch(frames, np.array([5, 5, 0]), np.zeros((3, 0), np.int32), np.ones(3, bool))
    context = frames[:, :3] / np.float32(255)
    params = model.init(jax.random.key(0), context, 2)["params"]
    loss = forecast_loss(model, 3, kind=kind)
    _, _, sums = loss(params, (), (), batch, None)
    p, y = np.asarray(jax.nn.sigmoid(model.apply({"params": params}, context, 2)), float)[:2], frames[:2, 3:] / 255
    each = (p - y) ** 2 if kind == "mse" else -(y * np.log(p) + (1 - y) * np.log(1 - p))
    np.testing.assert_allclose(sums.loss, each.mean(axis=(1, 2, 3, 4)).sum(), rtol=1e-4)
    found = metrics.token_loss().compute(sums)
    assert float(sums.tokens) == 2 and found["mse"] == pytest.approx(((p - y) ** 2).sum(axis=(2, 3, 4)).mean(), rel=1e-4)
    assert loss(params, (), (), batch, jax.random.key(0))[2].counts == {}
    grads = jax.grad(lambda params, batch: loss(params, (), (), batch, jax.random.key(0))[2].loss)
    other = batch._replace(frames=np.concatenate([frames[:2], 255 - frames[2:]]))
    for one, two in zip(jax.tree.leaves(grads(params, batch)), jax.tree.leaves(grads(params, other))):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


def test_a_video_is_changed_as_one():
    frames = np.repeat(drawn(3, 1, 12, 12, 1), 4, axis=1)
    settings = Augmentation(crop_padding=2, flip=True, jitter=0.4, affine_degrees=10.0)
    changed = np.asarray(augment_frames(jax.random.key(0), frames, settings))
    np.testing.assert_array_equal(changed, np.repeat(changed[:, :1], 4, axis=1))
    assert not np.allclose(changed, frames) and changed.shape == frames.shape
    np.testing.assert_array_equal(augment_frames(jax.random.key(0), frames, Augmentation()), frames)


def test_answers_of_one_question_and_of_several():
    one = video_answers(("class",)).compute(Sums(4.0, 4.0, {"correct": 1.0, "correct_class": 1.0, "top_5": 3.0}))
    assert one == {"loss": 1.0, "error": 0.75, "accuracy": 0.25, "top_5_accuracy": 0.75}
    assert video_answers(("class",)).compute(Sums(4.0, 4.0)) == {"loss": 1.0}
