r"""Image classification with the classic CNNs: train, resume exactly, inspect mistakes, predict.

Papers: LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition"; He, Zhang,
Ren and Sun 2015, "Deep Residual Learning for Image Recognition" (arXiv:1512.03385); for the other networks, see
seqjax/cnn.

    python -m experiments.image_classification --workdir=/tmp/digits
        trains LeNet-5 on scikit-learn's handwritten digits: seconds on two cores
    python -m experiments.image_classification --workdir=/tmp/mnist --config=mnist_lenet5 \
        --config.data.source=file --config.data.path=DIR
        LeNet-5 on MNIST from a folder of idx files
    python -m experiments.image_classification --workdir=/tmp/mnist --mode=evaluate --split=test
        accuracy; confusion_test.png, mistakes_test.png, features_test.png, filters.png in the work directory
    python -m experiments.image_classification --workdir=/tmp/mnist --mode=predict --image=seven.png
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from seqjax import cnn, run
from seqjax.data.images import Images, load_images, read_image
from seqjax.data.pipeline.shuffled import ImageBatches, channel_statistics, ordered_batches
from seqjax.data.sources import SOURCES
from seqjax.data.transforms.augmentation import Augmentation, augment, normalize, to_float
from seqjax.diagnostics.pictures import WorstMistakes, plot_confusion, plot_feature_maps, plot_filters
from seqjax.errors import UserError
from seqjax.run import Field, Flag, at_least, fields, one_of, recipe
from seqjax.training import losses, metrics

# Names of networks that take images; the others take sequences.
NETWORKS = tuple(name for name in cnn.names() if name not in ("tcn", "text_cnn"))

FIELDS = {
    **fields.seed("the order of the images, the augmentation and the dropout"),
    **fields.source(
        "images",
        SOURCES,
        name="digits",
        names="Embedded (digits) or TFDS dataset (mnist, cifar10, ...), a name for your files, or which EMNIST set.",
        path="Folder of idx files, folder with one folder of images per class, .npz, or table of images.",
        validation_path="The same for validation (table); if empty, part of the training set is held out.",
        test_path="The same for testing (table).",
        held_out="training images to hold out if there is no validation set",
    ),
    **fields.image_files(),
    "data.image_size": Field(0, "Images are resized to this side; 0 keeps their size.", at_least(0)),
    **fields.batches("images", 128, 256),
    "data.workers": Field(
        0, "Threads that check and decode image files in advance; 0 for datasets in memory.", at_least(0), free=True
    ),
    **fields.augmentation(),
    "model.name": Field("lenet5", "The network; seqjax.cnn.names() lists them.", one_of(*NETWORKS)),
    "model.options": Field("", "More options for the network, such as stem=small,zero_init_residual=True."),
    **fields.dtype(),
    **fields.label_smoothing(),
    "loss.aux_weight": Field(0.3, "Weight of the auxiliary heads' losses, if the network has any.", at_least(0)),
    **recipe.FIELDS,
}

_MNIST = {
    "data.source": "tfds", "data.name": "mnist", "data.batch_size": 128, "data.eval_batch_size": 500,
    "augment.affine_degrees": 10.0, "augment.affine_translate": 0.07, "augment.affine_scale": 0.1,
    "optimizer.learning_rate": 3e-3, "optimizer.clip_norm": 5.0, "optimizer.ema": 0.998, "schedule.warmup_steps": 100,
    "train.epochs": 20.0, "train.log_every": 200, "train.eval_every": 1000, "train.checkpoint_every": 500,
}  # fmt: skip

_HE = {  # He et al. 2015, section 4.2: SGD, weight decay 1e-4, a tenth of the rate after 1/2 and 3/4 of the run
    "optimizer.name": "sgd", "optimizer.learning_rate": 0.1, "optimizer.momentum": 0.9, "optimizer.weight_decay": 1e-4,
    "optimizer.clip_norm": 0.0, "schedule.name": "step", "schedule.decay": 0.1,
}  # fmt: skip

_IMAGENET = _HE | {
    "data.source": "tfds", "data.batch_size": 256, "data.eval_batch_size": 256, "data.workers": 16,
    "augment.resized_crop": True, "augment.flip": True, "model.dtype": "bfloat16", "optimizer.nesterov": True,
    "schedule.name": "cosine", "schedule.decay": 0.5, "schedule.final_fraction": 0.0,
}  # fmt: skip

PRESETS = {
    # scikit-learn's 1,797 digits of 8 x 8: seconds, nothing to download.
    "digits": {
        "data.image_size": 28, "data.batch_size": 32, "augment.affine_degrees": 8.0, "augment.affine_translate": 0.06,
        "augment.affine_scale": 0.08, "optimizer.learning_rate": 3e-3, "optimizer.clip_norm": 5.0,
        "schedule.warmup_steps": 20, "train.epochs": 12.0, "train.log_every": 50, "train.eval_every": 100,
        "train.checkpoint_every": 100,
    },
    # LeNet-5 on MNIST with small random rotations, shifts and zooms.
    "mnist_lenet5": _MNIST | {"schedule.final_fraction": 0.001},
    # A small ResNet on MNIST: ResNet-20 of the CIFAR family on 28 x 28.
    "mnist_resnet": _MNIST | {
        "model.name": "resnet20_cifar", "optimizer.name": "sgd", "optimizer.learning_rate": 0.1,
        "optimizer.momentum": 0.9, "optimizer.nesterov": True, "optimizer.weight_decay": 5e-4, "optimizer.ema": 0.995,
        "schedule.final_fraction": 0.0, "train.epochs": 6.0, "train.log_every": 100, "train.eval_every": 500,
        "train.checkpoint_every": 250,
    },
    # Fashion-MNIST with the modern LeNet; for comparison, its authors list about 0.9 for small convolutional networks.
    "fashion_mnist_lenet5": _MNIST | {
        "data.name": "fashion_mnist", "augment.affine_degrees": 0.0, "augment.affine_translate": 0.0,
        "augment.affine_scale": 0.0, "augment.flip": True,
    },
    # He et al. 2015, table 6: ResNet-20 on CIFAR-10, 64,000 steps of 128. EXPECTED: 8.75 % test error. NOT YET RUN.
    "cifar10_resnet20": _HE | {
        "data.source": "tfds", "data.name": "cifar10", "data.eval_batch_size": 500, "model.name": "resnet20_cifar",
        "augment.crop_padding": 4, "augment.flip": True, "train.steps": 64_000, "train.eval_every": 2000,
        "train.checkpoint_every": 1000,
    },
    # ResNet-18 on the ten easy classes of ImageNet, 160 x 160. NOT YET RUN.
    "imagenette_resnet18": _IMAGENET | {
        "data.name": "imagenette", "data.image_size": 160, "data.batch_size": 64, "model.name": "resnet18",
        "loss.label_smoothing": 0.1, "optimizer.learning_rate": 0.05, "schedule.warmup_steps": 200,
        "train.epochs": 40.0,
    },
    # ResNet-50 on ImageNet, 90 epochs (Goyal et al. 2017, arXiv:1706.02677, for rate and warm-up). NOT YET RUN.
    "imagenet_resnet50": _IMAGENET | {
        "data.name": "imagenet2012", "data.image_size": 224, "data.validation_fraction": 0.01,
        "model.name": "resnet50", "model.options": "zero_init_residual=True", "loss.label_smoothing": 0.1,
        "schedule.warmup_steps": 25_000, "train.epochs": 90.0, "train.eval_every": 10_000,
        "train.checkpoint_every": 5000,
    },
}  # fmt: skip


class Spec(NamedTuple):
    """What the model must know of the images."""

    classes: list[str]
    shape: list[int]  # (H, W, C)
    mean: list[float]  # of each channel over the training images, values in [0, 1]
    std: list[float]


def load(config: ConfigDict) -> run.Dataset:
    """Reads the images that a config names; image files are checked first."""
    told = {"cache": run.cache_folder(), "progress": run.counted("image files checked")}
    data = run.with_settings(load_images, config.data, seed=config.seed, **told)
    if len(data.classes) < 2:
        raise UserError(f"{data.name} has only one class, {data.classes[0]}; give images of at least two")
    return data


def prepare(config: ConfigDict, data: run.Dataset) -> Spec:
    """Channels' mean and standard deviation, of at most 10,000 training images spread over the part."""
    images = data.parts["train"]
    return Spec(list(data.classes), list(images.shape), *channel_statistics(images, workers=config.data.workers))


def build(config: ConfigDict, spec: Spec) -> run.Model:
    """A network of seqjax.cnn; its batch statistics are the model state."""
    classes, augmentation = len(spec.classes), Augmentation(**config.augment.to_dict())
    how = {"num_classes": classes, "dtype": run.compute_dtype(config)}
    module = run.with_settings(cnn.create_for, config.model, spec.shape, **how)

    def loss(params, statistics, carry, batch, rng):
        images, targets = to_float(batch.images), jax.nn.one_hot(batch.labels, classes)
        variables, aux = {"params": params, **dict(statistics)}, ()
        if rng is None:
            logits = module.apply(variables, normalize(images, spec.mean, spec.std))
        else:
            noise, dropout = jax.random.split(rng)
            images, targets = augment(noise, images, targets, augmentation)
            targets = optax.smooth_labels(targets, config.loss.label_smoothing)
            images, training = normalize(images, spec.mean, spec.std), {"train": True, "rngs": {"dropout": dropout}}
            out, updated = module.apply(variables, images, mutable=["batch_stats"], **training)
            logits, aux = out if isinstance(out, cnn.Outputs) else (out, ())
            statistics = {name: updated[name] for name in statistics} if statistics else statistics
        sums = losses.label_sums(logits, targets, batch.labels, batch.mask)
        heads = sum(losses.label_cross_entropy(head, targets, batch.mask) for head in aux)
        return carry, statistics, sums._replace(loss=sums.loss + config.loss.aux_weight * heads)

    @jax.jit
    def probabilities(variables, images):
        logits = module.apply(variables, normalize(to_float(images), spec.mean, spec.std))
        return jax.nn.softmax(logits.astype(jnp.float32))

    def init(key):
        return module.init(key, jnp.zeros((1, *spec.shape)))

    return run.Model(module, init, loss, metric=metrics.accuracy(), tools=probabilities)


def batches(config: ConfigDict, spec: Spec, images: Images, training: bool) -> Any:
    """Shuffled batches in training, else all images in order."""
    d = config.data
    if training:
        return ImageBatches(images, d.batch_size, seed=config.seed, workers=d.workers)
    return run.passes(functools.partial(ordered_batches, images, d.eval_batch_size, workers=d.workers))


def describe(config: ConfigDict, spec: Spec, data: run.Dataset, model: run.Model) -> list[str]:
    """Lines on image sizes and the cost of one image."""
    work = cnn.summary(model.module, (1, *spec.shape)).multiply_adds
    return [f"network: {config.model.name}, {work:,} multiply-adds per image"]


def evaluate(trained: run.Trained, data: run.Dataset, split: str, options: run.Options) -> run.Report:
    """Loss and accuracy, beside the most frequent class."""
    images, labels, shares = data.parts[split], [], []
    for batch in batches(trained.config, trained.spec, images, training=False):
        labels.append(batch.labels[batch.mask])
        shares.append(np.asarray(trained.model.tools(trained.variables, batch.images))[batch.mask])
    labels, shares = np.concatenate(labels), np.concatenate(shares)
    right = (shares.argmax(-1) == labels) & np.isfinite(shares).all(-1)
    scores = {"model": {"loss": run.measure(EXPERIMENT, trained, images)["loss"]} | run.accuracy(right)}
    most = np.bincount(labels).argmax()
    scores[f"always {data.classes[most]}"] = run.accuracy(labels == most)
    return run.Report(scores, answers=(labels, shares))


def pictures(trained: run.Trained, data: run.Dataset, split: str, report: run.Report, folder: Any) -> Any:
    """Plots the confusion matrix, worst mistakes, first-layer filters and feature maps."""
    images, (labels, shares), classes = data.parts[split], report.answers, trained.spec.classes
    counts = run.confusion(labels, shares.argmax(-1), len(classes))
    yield plot_confusion(folder / f"confusion_{split}.png", counts, classes)
    mistakes, start = WorstMistakes(classes), 0
    for batch in batches(trained.config, trained.spec, images, training=False):
        rows = slice(start, start := start + int(batch.mask.sum()))
        mistakes.add(batch.images[batch.mask], labels[rows], shares[rows])
    yield mistakes.plot(folder / f"mistakes_{split}.png")
    module, shape = trained.model.module, (1, *trained.spec.shape)
    yield plot_filters(folder / "filters.png", np.asarray(cnn.first_kernel(module, trained.params, shape)))
    image = images.take(np.array([0]))[0]
    pixels = normalize(to_float(jnp.asarray(image)), trained.spec.mean, trained.spec.std)
    maps = cnn.feature_maps(module, trained.variables, pixels)
    maps = {name: value[0] for name, value in maps.items()}
    yield plot_feature_maps(folder / f"features_{split}.png", image[0], maps)


def predict(trained: run.Trained, options: run.Options) -> None:
    """Prints the most likely classes of each --image."""
    if not options.image:
        raise UserError("--mode=predict needs an image: give --image=FILE once per image")
    height, width, channels = trained.spec.shape
    if height != width:
        raise UserError(f"this model reads images of {height} x {width}, but image files are scaled to squares")
    for path in options.image:
        shares = np.asarray(trained.model.tools(trained.variables, read_image(path, height, channels)[None]))[0]
        best = run.ranked(shares, trained.spec.classes, options.top)
        print(run.printable(f"{path}: " + "  ".join(f"{name} {share:.1%}" for name, share in best)))


EXPERIMENT = run.Experiment.of(
    __name__,
    preset="digits",
    records="images",
    unit="images",
    criterion=lambda config: "error",
    modes={"predict": predict},
    flags={
        "image": Flag([], "an image file; repeat the flag for several.", ("predict",)),
        "top": Flag(3, "number of classes to show per image.", ("predict",), at_least(1)),
    },
)

if __name__ == "__main__":
    run.main(EXPERIMENT)
