"""Metrics of videos: predicted frames against true ones, and answers to several questions."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from seqjax.training.losses import Sums, means
from seqjax.training.metrics.counted import add_sums
from seqjax.training.metrics.metric import Metric
from seqjax.typing import AnyArray


def ssim(first: jax.Array, second: jax.Array, *, window: int = 7, peak: float = 1.0) -> jax.Array:
    r"""Structural similarity of images: the mean over all windows inside the image, and over channels.

    .. math:: \frac{(2 \mu_x \mu_y + c_1)(2 \sigma_{xy} + c_2)}{(\mu_x^2 + \mu_y^2 + c_1)(\sigma_x^2 + \sigma_y^2 + c_2)}

    with the unbiased means, variances and covariance of each window, c1 = (0.01 L)^2, c2 = (0.03 L)^2. These are the defaults
    of scikit-image's `structural_similarity`.

    Args:
      first, second: (..., H, W, C).
      window: side of the square windows, odd, at most H and W.
      peak: L, the range of the values.

    Returns:
      (...), 1 for equal images.

    Raises:
      ValueError: images smaller than the window, or an even window.

    Example:
      >>> image = jnp.arange(64.0).reshape(8, 8, 1) / 64
      >>> round(float(ssim(image, image)), 4), float(ssim(image, 1 - image)) < 0
      (1.0, True)

    Source: Wang, Bovik, Sheikh and Simoncelli 2004, "Image quality assessment: from error visibility to structural similarity".
    """
    if window % 2 == 0 or window > min(first.shape[-3:-1]):
        raise ValueError(f"window is {window}; it must be odd and at most the side of the images, {first.shape[-3]} x {first.shape[-2]}")

    def averaged(values):
        lead = values.ndim - 3
        sizes = (1,) * lead + (window, window, 1)
        return jax.lax.reduce_window(values, 0.0, jax.lax.add, sizes, (1,) * values.ndim, "VALID") / window**2

    first, second = first.astype(jnp.float32), second.astype(jnp.float32)
    unbiased = window**2 / (window**2 - 1)
    mean_x, mean_y = averaged(first), averaged(second)
    # Variances about a common value: the mean of squares alone would lose precision.
    x, y = first - 0.5 * peak, second - 0.5 * peak
    shift_x, shift_y = mean_x - 0.5 * peak, mean_y - 0.5 * peak
    var_x, var_y = (unbiased * (averaged(v * v) - s * s) for v, s in ((x, shift_x), (y, shift_y)))
    both = unbiased * (averaged(x * y) - shift_x * shift_y)
    low, high = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    above = (2 * mean_x * mean_y + low) * (2 * both + high)
    below = (mean_x**2 + mean_y**2 + low) * (var_x + var_y + high)
    return (above / below).mean(axis=(-3, -2, -1))


def frame_errors(predicted: AnyArray, true: AnyArray) -> dict[str, jax.Array]:
    """Errors of predicted frames, as in the published tables of Moving MNIST.

    Args:
      predicted, true: (..., H, W, C), values in [0, 1].

    Returns:
      Each (...): "mse" and "mae", squared and absolute errors summed over the pixels of a frame; "bce", binary cross-entropy in nats,
      summed likewise; "ssim".

    Example:
      >>> found = frame_errors(jnp.full((8, 8, 1), 0.5), jnp.zeros((8, 8, 1)))
      >>> round(float(found["mse"]), 3), round(float(found["bce"]), 2)  # 64 / 4 and 64 log 2
      (16.0, 44.36)
    """
    predicted, true = predicted.astype(jnp.float32), true.astype(jnp.float32)
    safe, over = jnp.clip(predicted, 1e-6, 1 - 1e-6), (-3, -2, -1)
    nats = -(true * jnp.log(safe) + (1 - true) * jnp.log1p(-safe))
    return {
        "mse": jnp.square(predicted - true).sum(over),
        "mae": jnp.abs(predicted - true).sum(over),
        "bce": nats.sum(over),
        "ssim": ssim(predicted, true),
    }


def video_answers(names: Sequence[str]) -> Metric:
    """The mean loss, the share of videos with all questions answered correctly, and each question's share of correct answers.

    Args:
      names: names of the questions.

    Returns:
      A Metric of Sums with the count `correct` and, for each name, `correct_NAME`; for a single question with more than five classes also
      `top_5`.

    Example:
      >>> metric = video_answers(("digit", "direction"))
      >>> sums = Sums(6.0, 4.0, {"correct": 2.0, "correct_digit": 3.0, "correct_direction": 3.0})
      >>> metric.compute(metric.update(metric.init(), sums))
      {'loss': 1.5, 'error': 0.5, 'accuracy': 0.5, 'digit_accuracy': 0.75, 'direction_accuracy': 0.75}
    """

    def compute(sums):
        found = means(sums)
        shown = {"loss": found["loss"]}
        if "correct" in found:
            shown |= {"error": 1 - found["correct"], "accuracy": found["correct"]}
            shown |= {f"{name}_accuracy": found[f"correct_{name}"] for name in names if len(names) > 1}
            shown |= {"top_5_accuracy": found["top_5"]} if "top_5" in found else {}
        return shown

    return Metric(lambda: Sums(0.0, 0.0), add_sums, compute)
