r"""Image classification with the classic CNNs: train, resume exactly, see what is mistaken, predict.

Papers: LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition"; He, Zhang, Ren and
Sun 2015, "Deep Residual Learning for Image Recognition" (arXiv:1512.03385); those of the other networks stand in seqjax/cnn.

    python -m experiments.image_classification --workdir=/tmp/digits
        learns scikit-learn's handwritten digits with LeNet-5: seconds on two cores
    python -m experiments.image_classification --workdir=/tmp/mnist --config=experiments/configs/image_classification.py:mnist_lenet5 \
        --config.data.source=file --config.data.path=DIR
        LeNet-5 on MNIST from a folder of idx files
    python -m experiments.image_classification --workdir=/tmp/mnist --mode=evaluate --split=test
        accuracy; confusion_test.png, mistakes_test.png, features_test.png, filters.png in the work folder
    python -m experiments.image_classification --workdir=/tmp/mnist --mode=predict --image=seven.png

Modes: train (starts or goes on by itself; Ctrl-C stops it with a checkpoint), evaluate, predict. All but train read the config
from the work folder. Presets: --config=experiments/configs/image_classification.py:NAME.
"""

import time

_BEGIN = time.perf_counter()

import functools
import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from experiments.configs.image_classification import FIELDS, PRESETS
from seqjax import cnn
from seqjax.data.augmentation import Augmentation, augment, normalize, to_float
from seqjax.data.image_parts import Subset
from seqjax.data.images import ImageBatches, Images, ImageSet, load_images, ordered_batches, read_image
from seqjax.diagnostics import pictures
from seqjax.errors import UserError
from seqjax.run import command, process, reporting, session, settings, workdir
from seqjax.run.recipe import Recipe, data_mesh, devices_line, make_plan, make_recipe
from seqjax.run.trained import WHICH, read_model
from seqjax.training import loop, losses, train_step

__doc__ += "\nConfig fields, as digits sets them:\n\n" + settings.describe(FIELDS, PRESETS["digits"]) + "\n"

CONFIG = command.define_config(pathlib.Path(__file__).parent / "configs" / "image_classification.py", "digits", FIELDS)
flags.adopt_module_key_flags(command)
MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate", "predict"], "What to do.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, pictures.", required=True)
CHECKPOINT = flags.DEFINE_enum("checkpoint", "best", WHICH, "evaluate, predict: which checkpoint to read, or the mean of the newest.")
SPLIT = flags.DEFINE_enum("split", "validation", ["train", "validation", "test"], "evaluate: on which part of the data.")
IMAGE = flags.DEFINE_multi_string("image", [], "predict: an image file; give the flag several times for several.")
TOP = flags.DEFINE_integer("top", 3, "predict: how many classes to show for each image.", 1)


def main() -> int:
    """Does what --mode says."""
    process.keep_freed_memory()
    process.use_compilation_cache()
    reading = {"checkpoint": ("evaluate", "predict")}
    command.refuse_idle_flags(MODE.value, reading | {"split": "evaluate", "image": "predict", "top": "predict"})
    folder = pathlib.Path(WORKDIR.value).expanduser()
    if MODE.value == "train":
        return train(folder, CONFIG.value)
    config = command.stored_config(folder, FIELDS)
    model = load_model(folder, config)
    {"evaluate": evaluate, "predict": predict}[MODE.value](folder, config, model)
    return 0


# Data and model.


class Facts(NamedTuple):
    """What the model must know of the data; kept in every checkpoint, JSON-able."""

    fingerprint: str
    classes: list[str]
    shape: list[int]  # (H, W, C)
    mean: list[float]  # of each channel over the training images, values in [0, 1]
    std: list[float]


def load_data(config: ConfigDict) -> ImageSet:
    """Reads the images that a config names."""
    d = config.data
    data = load_images(
        d.source, name=d.name if d.source != "file" else "", path=d.path, data_dir=d.data_dir, image_size=d.image_size,
        validation_fraction=d.validation_fraction, seed=config.seed,
    )  # fmt: skip
    if len(data.classes) < 2:
        raise UserError(f"{data.name} has one class only, {data.classes[0]}; give images of at least two")
    return data


def find_facts(data: ImageSet, workers: int) -> Facts:
    """Channels' mean and standard deviation come from at most 10,000 training images, spread over the part."""
    images = data.parts["train"]
    places = np.linspace(0, len(images) - 1, min(len(images), 10_000)).astype(np.int64)
    channels = images.shape[-1]
    total, squares, count = np.zeros(channels), np.zeros(channels), 0
    for batch in ordered_batches(Subset(images, places), 500, workers=workers):
        pixels = batch.images[batch.mask].reshape(-1, channels) / 255.0
        total, squares, count = total + pixels.sum(0), squares + (pixels**2).sum(0), count + len(pixels)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-4))  # of a channel that never changes, too, one can divide by it
    return Facts(data.fingerprint, list(data.classes), list(images.shape), mean.tolist(), std.tolist())


def make_model(config: ConfigDict, facts: Facts):
    """The network that a config describes."""
    m = config.model
    dtype = None if m.dtype == "float32" else jnp.dtype(m.dtype)
    shape = {"num_classes": len(facts.classes), "in_channels": facts.shape[-1], "dtype": dtype}
    try:
        model = cnn.create(m.name, **shape, **cnn.parse_options(m.options))
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
        training = functools.partial(model.init, train=True)  # auxiliary heads, too, must find the images large enough
        jax.eval_shape(training, keys, jnp.zeros((1, *facts.shape)))
    except (TypeError, ValueError) as error:
        raise UserError(f"config.model: {error}") from error
    return model


def make_loss(model, config: ConfigDict, facts: Facts) -> train_step.LossFn:
    """Cross-entropy of a batch; the carry is the batch statistics."""
    settings_ = Augmentation(**config.augment.to_dict())
    classes, smoothing, aux_weight = len(facts.classes), config.loss.label_smoothing, config.loss.aux_weight

    def loss_fn(params, statistics, batch, rng):
        images, targets = to_float(batch.images), jax.nn.one_hot(batch.labels, classes)
        if rng is None:
            logits = model.apply({"params": params, **statistics}, normalize(images, facts.mean, facts.std))
            loss = losses.label_cross_entropy(logits, targets, batch.mask)
        else:
            noise, dropout = jax.random.split(rng)
            images, targets = augment(noise, images, targets, settings_)
            targets = losses.smooth_labels(targets, smoothing)
            out, updated = model.apply(
                {"params": params, **statistics}, normalize(images, facts.mean, facts.std), train=True,
                mutable=["batch_stats"], rngs={"dropout": dropout},
            )  # fmt: skip
            logits, aux = out if isinstance(out, cnn.Outputs) else (out, ())
            statistics = {name: updated[name] for name in statistics}
            loss = losses.label_cross_entropy(logits, targets, batch.mask)
            loss += aux_weight * sum(losses.label_cross_entropy(head, targets, batch.mask) for head in aux)
        correct = (jnp.argmax(logits, axis=-1) == batch.labels) & jnp.isfinite(logits).all(axis=-1) & batch.mask
        real = jnp.sum(batch.mask, dtype=jnp.float32)
        return statistics, losses.Sums(loss, real, {"correct": jnp.sum(correct, dtype=jnp.float32)})

    return loss_fn


def figures(means: dict[str, float]) -> dict[str, float]:
    """What is reported: the loss in nats, the share of wrong answers and of right ones."""
    correct = means.get("correct", math.nan)  # nothing was counted where every step of an interval was skipped
    return {"loss": means["loss"], "error": 1 - correct, "accuracy": correct}


class Setup(NamedTuple):
    """Model, optimiser and first state."""

    model: Any
    loss_fn: train_step.LossFn
    recipe: Recipe
    mesh: Any
    state: train_step.TrainState


def set_up(config: ConfigDict, facts: Facts, batches_per_epoch: int | None) -> Setup:
    """Builds everything that training changes, from the seed; without an epoch's length, for reading a model only."""
    recipe, mesh = make_recipe(config, batches_per_epoch), data_mesh(config)
    model = make_model(config, facts)
    init_key, run_key = jax.random.split(jax.random.key(config.seed))
    variables = dict(jax.jit(model.init)(init_key, jnp.zeros((1, *facts.shape))))
    params = variables.pop("params")
    state = train_step.init_state(
        params, recipe.optimizer, variables, run_key, mesh, carry_spec=train_step.EVERYWHERE, averaged=averaged_parts(config)
    )
    return Setup(model, make_loss(model, config, facts), recipe, mesh, state)


def averaged_parts(config: ConfigDict) -> train_step.Averaged | None:
    """What a moving average is kept of: parameters and batch statistics, where the config asks for one."""
    return (lambda params, statistics: (params, statistics)) if config.optimizer.ema else None


def shown(config: ConfigDict, state: train_step.TrainState) -> tuple[Any, Any]:
    """Parameters and batch statistics to evaluate: the averaged ones, where the config asks for an average."""
    return state.average if config.optimizer.ema else (state.params, state.carry)


def evaluator(config: ConfigDict, setup: Setup, images: Images):
    """(parameters, statistics) -> means over all images of a part."""
    d = config.data
    mesh = train_step.make_mesh(d.eval_batch_size, list(setup.mesh.devices.flat))
    run = train_step.make_evaluate(setup.loss_fn, mesh, carry_spec=train_step.EVERYWHERE)
    return lambda weights: run(*weights, ordered_batches(images, d.eval_batch_size, workers=d.workers))


def make_task(config: ConfigDict, setup: Setup, data: ImageSet) -> loop.Task:
    """What the training loop needs to know."""
    where, recipe = train_step.batch_sharding(setup.mesh), setup.recipe
    step = train_step.make_train_step(
        setup.loss_fn, recipe.optimizer, recipe.schedule, setup.mesh, clip_norm=recipe.clip_norm,
        carry_spec=train_step.EVERYWHERE, averaged=averaged_parts(config), ema_decay=config.optimizer.ema,
    )  # fmt: skip
    validate = evaluator(config, setup, data.parts["validation"])
    return loop.Task(
        step=step,
        place_batch=lambda batch: jax.device_put(batch, where),
        evaluate=lambda state: validate(shown(config, state)),
        figures=figures,
        criterion="error",
        unit="images",
    )


# Modes.


def train(folder: pathlib.Path, config: ConfigDict) -> int:
    """Starts the run of a work folder, or goes on with it."""
    reporting.require_extras()
    settings.validate(config, FIELDS)
    settings.make_absolute(config, "data.path")
    workdir.refuse_another_config(folder, settings.to_json(config), FIELDS)
    data = load_data(config)
    facts = find_facts(data, config.data.workers)
    with ImageBatches(
        data.parts["train"], config.data.batch_size, seed=config.seed, workers=config.data.workers
    ) as batches:
        setup = set_up(config, facts, batches.batches_per_epoch)
        task = make_task(config, setup, data)
        with workdir.locked(folder):
            workdir.claim(folder, settings.to_json(config), FIELDS)
            describe(config, data, facts, setup, batches)
            saved = {"config": settings.to_json(config), "facts": facts._asdict()}
            plan = make_plan(config, setup.recipe.steps)
            outcome = session.run(
                folder, task, plan, setup.state, batches, meta=saved, keep=config.train.keep, begin=_BEGIN,
                check_meta=lambda meta: check_data(folder, data, meta),
            )  # fmt: skip
            curves = reporting.plot_curves(folder, reporting.read_records(folder), baselines={})
    best = outcome.progress.best
    found = "not evaluated yet" if best is None else f"best validation accuracy {1 - best:.2%}"
    return session.conclude(outcome, setup.recipe.steps, found, curves)


def check_data(folder: pathlib.Path, data: ImageSet, saved: dict[str, Any]) -> None:
    """Refuses images that are not those a checkpoint was trained on."""
    workdir.refuse_other_data(folder, f"the images of {data.name}", data.fingerprint, saved)


def describe(config, data: ImageSet, facts: Facts, setup: Setup, batches: ImageBatches) -> None:
    """Prints what is about to be trained on what."""
    height, width, channels = facts.shape
    print(f"images: {data.name}, {len(facts.classes)} classes, {height} x {width} x {channels}")
    for part, images in data.parts.items():
        print(f"  {part:<10} {len(images):>9,}")
    summary = cnn.summary(setup.model, (1, *facts.shape))
    print(f"model: {config.model.name}, {summary.parameters:,} parameters, {summary.multiply_adds:,} multiply-adds an image")
    epochs = setup.recipe.steps / batches.batches_per_epoch
    print(f"run: {setup.recipe.steps:,} steps, {epochs:.1f} passes over the images, on {devices_line(setup.mesh)}")


class Trained(NamedTuple):
    """A model read from a checkpoint."""

    setup: Setup
    facts: Facts
    weights: tuple[Any, Any]  # parameters and batch statistics
    step: int


def load_model(folder: pathlib.Path, config: ConfigDict) -> Trained:
    """Reads the checkpoint of a run that --checkpoint names."""
    made = {}

    def target(meta):
        facts = Facts(**meta["facts"])
        made.update(facts=facts, setup=set_up(config, facts, None))
        return made["setup"].state

    restored = read_model(folder, target, keep=config.train.keep, which=CHECKPOINT.value, parts=("params", "carry"))
    return Trained(**made, weights=shown(config, restored.state), step=restored.step)


def classifier(trained: Trained):
    """uint8 images -> probabilities (B, num_classes), as numpy."""
    params, statistics = trained.weights
    mean, std = trained.facts.mean, trained.facts.std

    @jax.jit
    def probabilities(images):
        logits = trained.setup.model.apply({"params": params, **statistics}, normalize(to_float(images), mean, std))
        return jax.nn.softmax(logits.astype(jnp.float32))

    return lambda images: np.asarray(probabilities(images))


def evaluate(folder: pathlib.Path, config: ConfigDict, trained: Trained) -> None:
    """Prints loss and accuracy on a whole part, and draws what the network confuses and what it sees."""
    data = load_data(config)
    check_data(folder, data, {"facts": trained.facts._asdict()})
    images = command.chosen_part(data, SPLIT.value)
    found = figures(evaluator(config, trained.setup, images)(trained.weights))
    wrong = round(found["error"] * len(images))
    print(f"{SPLIT.value} part of {data.name}, {len(images):,} images")
    print(f"loss {found['loss']:.4f}  accuracy {found['accuracy']:.2%}  ({wrong:,} wrong)")
    for path in draw(folder, SPLIT.value, config, trained, images):
        print(path)


def draw(folder: pathlib.Path, split: str, config: ConfigDict, trained: Trained, images: Images) -> list[pathlib.Path]:
    """Confusion matrix, worst mistakes, first-layer filters and feature maps as PNG files in the work folder."""
    classify, classes = classifier(trained), trained.facts.classes
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    mistakes = pictures.WorstMistakes(classes)
    for batch in ordered_batches(images, config.data.eval_batch_size, workers=config.data.workers):
        shares = classify(batch.images)
        np.add.at(confusion, (batch.labels[batch.mask], shares.argmax(-1)[batch.mask]), 1)
        mistakes.add(batch.images[batch.mask], batch.labels[batch.mask], shares[batch.mask])
    image = images.take(np.array([0]))[0]
    params, statistics = trained.weights
    pixels = normalize(to_float(jnp.asarray(image)), trained.facts.mean, trained.facts.std)
    maps = cnn.feature_maps(trained.setup.model, {"params": params, **statistics}, pixels)
    return [
        pictures.plot_confusion(folder / f"confusion_{split}.png", confusion, classes),
        mistakes.plot(folder / f"mistakes_{split}.png"),
        pictures.plot_filters(folder / "filters.png", first_kernel(trained)),
        pictures.plot_feature_maps(folder / f"features_{split}.png", image[0], {name: value[0] for name, value in maps.items()}),
    ]


def first_kernel(trained: Trained) -> np.ndarray:
    """The kernel of the convolution that sees the image."""
    rows = cnn.summary(trained.setup.model, (1, *trained.facts.shape)).rows
    path = next(row.path for row in rows if row.module == "Conv")
    kernel = trained.weights[0]
    for name in path.split("."):
        kernel = kernel[name]
    return np.asarray(kernel["kernel"])


def predict(folder: pathlib.Path, config: ConfigDict, trained: Trained) -> None:
    """Prints the likeliest classes of each --image."""
    if not IMAGE.value:
        raise UserError("--mode=predict needs an image: --image=FILE once for each")
    height, width, channels = trained.facts.shape
    if height != width:
        raise UserError(f"the run in {folder} is of images of {height} x {width}; image files are scaled to squares")
    classify, classes = classifier(trained), trained.facts.classes
    for path in IMAGE.value:
        shares = classify(read_image(path, height, channels)[None])[0]
        best = np.argsort(-shares, kind="stable")[: TOP.value]
        print(f"{path}: " + "  ".join(f"{classes[i]} {shares[i]:.1%}" for i in best))


if __name__ == "__main__":
    command.run(main)
