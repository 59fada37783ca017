r"""Images read as sequences, by rows, by pixels, or by pixels in a shuffled order: memory over 8 to 784 steps.

Papers: Le, Jaitly and Hinton 2015, "A Simple Way to Initialize Recurrent Networks of Rectified Linear Units"
(arXiv:1504.00941), for pixels and permuted pixels; published test accuracies are in docs/long_memory.md.

    python -m experiments.sequential_images --workdir=/tmp/digits
        scikit-learn's digits, pixel by pixel (64 steps): a minute on two cores
    python -m experiments.sequential_images --workdir=/tmp/rows --config=mnist_rows --config.data.data_dir=FOLDER
        MNIST by rows: 28 steps of 28 pixels; the preset mnist_pixels has 784 steps of one, mnist_permuted shuffles them
    python -m experiments.sequential_images --workdir=/tmp/digits --mode=evaluate --split=test
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from seqjax import run
from seqjax.data.draws import permutation
from seqjax.data.image_columns import Images
from seqjax.data.images import load_images
from seqjax.data.pipeline.shuffled import ImageBatches, channel_statistics, ordered_batches
from seqjax.data.sources import SOURCES
from seqjax.data.transforms.augmentation import normalize, to_float
from seqjax.diagnostics.pictures import plot_confusion
from seqjax.models.memory import KINDS, SequenceReader, make_memory_cell
from seqjax.run import Field, at_least, fields, one_of, recipe
from seqjax.training import losses, metrics

ORDERS = ("rows", "pixels", "permuted")

FIELDS = {
    **fields.seed("the order of the images"),
    **fields.source(
        "images",
        SOURCES,
        name="digits",
        names="Embedded (digits) or TFDS dataset (mnist, ...), or a name for your files.",
        path="Folder of idx files, folder with one folder of images per class, .npz, or table of images.",
        held_out="training images to hold out if there is no validation set",
    ),
    **fields.image_files(),
    "data.image_size": Field(0, "Images are resized to this side; 0 keeps their size.", at_least(0)),
    "data.order": Field("pixels", "What a step reads: a row, a pixel, or a pixel in shuffled order.", one_of(*ORDERS)),
    "data.order_seed": Field(0, "Seed of the shuffled order.", fields.SEEDS, when=("data.order", ("permuted",))),
    **fields.batches("images", 64, 500),
    "data.workers": Field(0, "Threads that decode image files; 0 for datasets in memory.", at_least(0), free=True),
    "model.cell": Field("lstm", "Recurrent cell and how it is initialised to remember.", one_of(*KINDS)),
    "model.options": Field("", "More arguments for the cell, such as dt=0.042,gamma=2.7."),
    "model.hidden_size": Field(128, "Hidden units per layer, H.", at_least(1)),
    "model.num_layers": Field(1, "Layers.", at_least(1)),
    "model.window": Field(0, "Steps of truncated backpropagation, in blocks; 0: all steps.", at_least(0)),
    "model.remat_every": Field(0, "Gradient checkpointing: keep every n-th carry; 0 keeps all.", at_least(0)),
    **fields.dtype(),
    **fields.label_smoothing(),
    **recipe.RECURRENT_FIELDS,
}

_MNIST = {
    "data.source": "tfds", "data.name": "mnist", "data.batch_size": 128, "optimizer.learning_rate": 2e-3,
    "optimizer.ema": 0.998, "schedule.warmup_steps": 100, "train.log_every": 200, "train.eval_every": 1000,
    "train.checkpoint_every": 500,
}  # fmt: skip

PRESETS = {
    "digits": {
        "model.cell": "lstm_chrono", "data.batch_size": 32, "optimizer.learning_rate": 3e-3, "train.epochs": 20.0,
        "train.eval_every": 200, "train.checkpoint_every": 200, "schedule.warmup_steps": 20,
    },
    "mnist_rows": _MNIST | {"data.order": "rows", "train.epochs": 12.0, "model.hidden_size": 192},
    # EXPECTED: 99.4 % (coRNN, Rusch and Mishra 2021, 120 epochs). See docs/long_memory.md for how far it was run.
    "mnist_pixels": _MNIST | {
        "data.order": "pixels", "model.cell": "cornn", "model.hidden_size": 256, "train.epochs": 100.0,
        "optimizer.learning_rate": 2.1e-3,
    },
    # EXPECTED: 97.3 % (coRNN) to 98.4 % (UnICORNN of three layers). See docs/long_memory.md for how far it was run.
    "mnist_permuted": _MNIST | {
        "data.order": "permuted", "model.cell": "unicornn", "model.hidden_size": 256, "model.num_layers": 3,
        "data.batch_size": 32, "optimizer.learning_rate": 2.5e-3, "train.epochs": 100.0,
    },
}  # fmt: skip


class Spec(NamedTuple):
    """What the model must know of the images."""

    classes: list[str]
    shape: list[int]  # (H, W, C)
    mean: list[float]
    std: list[float]


def load(config: ConfigDict) -> run.Dataset:
    """Reads the images that a config names."""
    told = {"cache": run.cache_folder(), "progress": run.counted("image files checked")}
    return run.with_settings(load_images, config.data, seed=config.seed, **told)


def prepare(config: ConfigDict, data: run.Dataset) -> Spec:
    """Channels' mean and standard deviation."""
    images = data.parts["train"]
    return Spec(list(data.classes), list(images.shape), *channel_statistics(images, workers=config.data.workers))


def build(config: ConfigDict, spec: Spec) -> run.Model:
    """A stack of cells; the class is read off the last step."""
    m, order, dtype, classes = config.model, config.data.order, run.compute_dtype(config), len(spec.classes)
    height, width, channels = spec.shape
    steps, features = (height, width * channels) if order == "rows" else (height * width, channels)
    cell = make_memory_cell(m.cell, m.hidden_size, m.num_layers, steps, options=m.options, dtype=dtype)
    model = SequenceReader(cell, classes, m.window, m.remat_every or None, dtype)
    places = permutation(steps, config.data.order_seed, 0, 0) if order == "permuted" else np.arange(steps)

    def scores(params, images):
        xs = normalize(to_float(images), spec.mean, spec.std).reshape(images.shape[0], steps, features)
        xs = xs[:, places] if order == "permuted" else xs
        return model.apply({"params": params}, xs)[:, -1]

    def loss(params, model_state, carry, batch, rng):
        targets = jax.nn.one_hot(batch.labels, classes)
        if rng is not None:
            targets = optax.smooth_labels(targets, config.loss.label_smoothing)
        return carry, model_state, losses.label_sums(scores(params, batch.images), targets, batch.labels, batch.mask)

    return run.Model(
        module=model,
        init=lambda key: model.init(key, np.zeros((1, steps, features), np.float32)),
        loss=loss,
        metric=metrics.accuracy(),
        tools=jax.jit(lambda params, images: jax.nn.softmax(scores(params, images))),
    )


def batches(config: ConfigDict, spec: Spec, images: Images, training: bool) -> Any:
    """Shuffled batches in training, else all images in order."""
    d = config.data
    if training:
        return ImageBatches(images, d.batch_size, seed=config.seed, workers=d.workers)
    return run.passes(functools.partial(ordered_batches, images, d.eval_batch_size, workers=d.workers))


def evaluate(trained: run.Trained, data: run.Dataset, split: str, options: run.Options) -> run.Report:
    """Loss and accuracy, beside the most frequent class."""
    images, labels, given = data.parts[split], [], []
    for batch in batches(trained.config, trained.spec, images, training=False):
        shares = np.asarray(trained.model.tools(trained.params, batch.images))[batch.mask]
        labels.append(batch.labels[batch.mask])
        given.append(np.where(np.isfinite(shares).all(-1), shares.argmax(-1), -1))
    labels, given = np.concatenate(labels), np.concatenate(given)
    scores = {"model": {"loss": run.measure(EXPERIMENT, trained, images)["loss"]} | run.accuracy(given == labels)}
    most = np.bincount(labels).argmax()
    scores[f"always {data.classes[most]}"] = run.accuracy(labels == most)
    return run.Report(scores, answers=(labels, given))


def pictures(trained: run.Trained, data: run.Dataset, split: str, report: run.Report, folder: Any) -> Any:
    """The confusion matrix."""
    labels, given = report.answers
    counts = run.confusion(labels, np.maximum(given, 0), len(trained.spec.classes))
    yield plot_confusion(folder / f"confusion_{split}.png", counts, trained.spec.classes)


EXPERIMENT = run.Experiment.of(
    __name__, preset="digits", records="images", unit="images", criterion=lambda config: "error"
)

if __name__ == "__main__":
    run.main(EXPERIMENT)
