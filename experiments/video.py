r"""Video, many to one and many to many: recognise objects and motion, and predict the next frames.

Papers: Donahue et al. 2015, "Long-term Recurrent Convolutional Networks for Visual Recognition and Description"
(arXiv:1411.4389), for a CNN under recurrent layers; Shi et al. 2015, "Convolutional LSTM Network: A Machine Learning
Approach for Precipitation Nowcasting" (arXiv:1506.04214); Srivastava, Mansimov and Salakhutdinov 2015
(arXiv:1502.04681) for Moving MNIST. More in docs/video.md.

    python -m experiments.video --workdir=/tmp/moving
        learns which digit moves, in which direction and how fast, in noise: minutes on two cores
    python -m experiments.video --workdir=/tmp/moving --mode=evaluate --split=test
        accuracy, compared with one frame and shuffled frames; filmstrips_test.png and clips_test.gif
    python -m experiments.video --workdir=/tmp/next --config=moving_digits_next
        learns to predict the next ten frames of two digits that bounce off the walls
    python -m experiments.video --workdir=/tmp/mnist --config=moving_mnist --config.data.path=DIR
        the same on Moving MNIST, made from a folder of MNIST's idx files
    python -m experiments.video --workdir=/tmp/films --config=frames --config.data.path=DIR
        classifies your own videos: one folder per class
    python -m experiments.video --workdir=/tmp/films --mode=predict --input=film.mp4 --output=film
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from ml_collections import ConfigDict

import seqjax
from seqjax import cnn, run
from seqjax.data.pipeline.ahead import Ahead
from seqjax.data.pipeline.clips import ClipBatches, VideoWindows, check_videos_fit, ordered_clips, ordered_windows
from seqjax.data.sources import SOURCES
from seqjax.data.transforms.augmentation import Augmentation
from seqjax.data.video import load_videos
from seqjax.data.video_columns import Head, Videos
from seqjax.decoding.video import VideoReading
from seqjax.errors import UserError
from seqjax.models.video import FrameFeatures, FrameReader, MapReader, VideoClassifier, VideoForecaster
from seqjax.run import Field, at_least, fields, one_of, recipe
from seqjax.run import video as parts
from seqjax.run import video_files as files
from seqjax.training import metrics
from seqjax.training.metrics.video import video_answers
from seqjax.training.video import LOSSES, answer_loss, forecast_loss

NETWORKS = tuple(name for name in cnn.names() if name not in ("tcn", "text_cnn"))
CLASSIFY, FORECAST = ("task", ("classify",)), ("task", ("forecast",))

FIELDS = {
    **fields.seed("the order of the videos, which frames are taken, the augmentation and the dropout"),
    "task": Field("classify", "Answer questions about videos, or predict frames.", one_of("classify", "forecast")),
    **parts.data_fields(SOURCES),
    **fields.batches("videos", 32, 100),
    **{name: field._replace(when=CLASSIFY) for name, field in fields.augmentation().items() if name != "augment.mixup"},
    **parts.model_fields(NETWORKS),
    "loss.label_smoothing": fields.label_smoothing()["loss.label_smoothing"]._replace(when=CLASSIFY),
    "loss.kind": Field("bce", "Pixel loss: cross-entropy, or squared error.", one_of(*LOSSES), when=FORECAST),
    "baseline_videos": Field(
        2000, "Training videos for the one-frame baseline; 0: no baseline.", at_least(0), free=True, when=CLASSIFY
    ),
    **recipe.RECURRENT_FIELDS,
}

_NEXT = {
    "task": "forecast", "model.kind": "forecaster", "data.clip_frames": 20, "data.sampling": "rate", "data.context": 10,
}  # fmt: skip

PRESETS = {
    # One of scikit-learn's digits in noise: which digit, direction and speed; nothing to download.
    "moving_digits": {
        "data.batch_size": 64, "model.feature_size": 84, "model.pooling": "mean", "model.dropout": 0.1,
        "augment.affine_degrees": 8.0, "augment.affine_scale": 0.1, "optimizer.learning_rate": 3e-3,
        "optimizer.clip_norm": 5.0, "optimizer.ema": 0.99, "schedule.warmup_steps": 50, "train.epochs": 24.0,
    },
    # Two digits that cross and bounce off the walls: ten frames in, ten out.
    "moving_digits_next": _NEXT | {
        "data.name": "bouncing_digits", "data.batch_size": 16, "model.hidden_size": 64, "model.patch": 4,
        "optimizer.learning_rate": 5e-3, "optimizer.ema": 0.99, "schedule.warmup_steps": 50,
        "train.epochs": 3.0,
    },
    # Shi et al. 2015: set data.path to MNIST's idx files. PUBLISHED: MSE 29.8 after 200 epochs. NOT YET RUN.
    "moving_mnist": _NEXT | {
        "data.source": "file", "data.name": "moving_mnist", "data.batch_size": 16, "data.eval_batch_size": 50,
        "model.hidden_size": 64, "model.num_layers": 3, "model.kernel": 5, "model.patch": 4,
        "optimizer.learning_rate": 1e-3, "optimizer.ema": 0.999, "schedule.warmup_steps": 500,
        "train.epochs": 200.0, "train.eval_every": 5000, "train.checkpoint_every": 1000,
    },
    # Your own videos (UCF101 and the like): set data.path. Tried on small made files. NOT YET RUN on a published set.
    "frames": {
        "data.source": "file", "data.image_size": 112, "data.clip_frames": 16, "data.batch_size": 16,
        "data.eval_batch_size": 16, "data.workers": 8, "augment.flip": True, "augment.crop_padding": 8,
        "model.cnn": "resnet18", "model.layer": "layer4", "model.layer_pooling": "mean",
        "model.feature_size": 256, "model.cell": "lstm", "model.hidden_size": 256, "model.pooling": "mean",
        "model.dropout": 0.5, "optimizer.name": "adamw", "optimizer.learning_rate": 1e-3,
        "optimizer.weight_decay": 1e-4, "schedule.warmup_steps": 200, "train.epochs": 60.0,
    },
}  # fmt: skip


class Spec(NamedTuple):
    """What the model must know of the videos."""

    heads: list[list[Any]]  # the name of each question and its classes
    shape: list[int]  # of a frame, (H, W, C)
    mean: list[float]  # of each channel over training frames, values in [0, 1]
    std: list[float]


def check(config: ConfigDict) -> None:
    """Refuses settings that do not fit each other."""
    d, m = config.data, config.model
    if (config.task == "forecast") != (m.kind == "forecaster"):
        raise UserError("task='forecast' and model.kind='forecaster' belong together; set both or neither")
    if config.task == "forecast" and d.context >= d.clip_frames:
        raise UserError(
            f"data.context={d.context} leaves none of data.clip_frames={d.clip_frames} to predict; lower it"
        )
    if m.kind != "lrcn" and m.kernel % 2 == 0:
        raise UserError(f"model.kernel={m.kernel} is even; convolutional LSTMs need an odd one")


def load(config: ConfigDict) -> run.Dataset:
    """Reads the videos that a config names; files are checked first, and whether each has frames for a clip."""
    told = {"cache": run.cache_folder(), "progress": run.counted("videos checked")}
    data = run.with_settings(load_videos, config.data, labelled=config.task == "classify", **told)
    if config.task == "classify" and not data.facts["heads"]:
        raise UserError(
            f"{data.name} has no labels; set task='forecast' and model.kind='forecaster', or choose another set"
        )
    for name, part in data.parts.items():
        if not config.data.window:
            check_videos_fit(part, parts.sampling_of(config), name)
    return data


def prepare(config: ConfigDict, data: run.Dataset) -> Spec:
    """Questions, frames, and the channels' mean and standard deviation."""
    return Spec(data.facts["heads"], list(data.parts["train"].shape), *parts.frame_statistics(data.parts["train"]))


def build(config: ConfigDict, spec: Spec) -> run.Model:
    """A CNN under recurrent layers, or convolutional LSTMs, with a head for each question; or a forecaster."""
    m, d, dtype = config.model, config.data, run.compute_dtype(config)
    shape, sizes = tuple(spec.shape), (m.hidden_size,) * m.num_layers
    if config.task == "forecast":
        model = VideoForecaster(shape, sizes, m.kernel, m.patch, dtype)
        metric, loss = metrics.token_loss(), forecast_loss(model, d.context, kind=config.loss.kind)
        first = jnp.zeros((1, d.context, *shape)), d.clip_frames - d.context
        return run.Model(model, lambda key: model.init(key, *first), loss, metric)
    if m.kind == "lrcn":
        network = cnn.create_for(
            shape, m.cnn, options=m.options, num_classes=1 if m.layer else m.feature_size, dtype=dtype
        )
        features = FrameFeatures(network, m.layer, m.layer_pooling)
        reader = FrameReader(features, run.make_stack(config), m.feature_size if m.layer else 0)
    else:
        places = tuple(-(-side // m.stride) for side in shape[:2])
        cells = [seqjax.conv_lstm(size, m.kernel, places, dtype=dtype) for size in sizes]
        reader = MapReader(seqjax.stack(*cells), m.filters, m.stride, dtype)
    heads = [Head(name, tuple(classes)) for name, classes in spec.heads]
    model = VideoClassifier(tuple(len(head.classes) for head in heads), reader, m.dropout, dtype)
    scale = {"mean": spec.mean, "std": spec.std, "pooling": m.pooling}
    loss = answer_loss(
        model, heads, carried=d.window > 0, augmentation=Augmentation(**config.augment.to_dict()),
        label_smoothing=config.loss.label_smoothing, **scale,
    )  # fmt: skip

    def carry(params, rows):
        return model.apply({"params": params}, rows, method="initial_carry") if d.window else ()

    first = jnp.zeros((1, d.window or d.clip_frames, *shape)), jnp.array([1])
    metric = video_answers([head.name for head in heads])
    return run.Model(model, lambda key: model.init(key, *first), loss, metric, carry, VideoReading(model, **scale))


def batches(config: ConfigDict, spec: Spec, part: Videos, training: bool) -> Any:
    """A clip of each video, or windows of whole videos that follow each other."""
    d = config.data
    if d.window:
        if not training:
            return run.passes(functools.partial(ordered_windows, part, d.eval_batch_size, d.window))
        one = min(d.workers, 1)  # several would not find the decoders where the window before left them
        return Ahead(VideoWindows(part, d.batch_size, d.window, seed=config.seed), one)
    sampling = parts.sampling_of(config)
    if training:
        return Ahead(ClipBatches(part, d.batch_size, sampling, seed=config.seed), d.workers)
    return run.passes(functools.partial(ordered_clips, part, d.eval_batch_size, sampling, workers=d.workers))


def describe(config: ConfigDict, spec: Spec, data: run.Dataset, model: run.Model) -> list[str]:
    """Lines on the length of the videos and the cost of a frame."""
    lines = [parts.facts_line(data)]
    if config.model.kind == "lrcn":
        network = model.module.reader.features.cnn
        work = cnn.summary(network, (1, *spec.shape)).multiply_adds
        lines.append(f"network: {config.model.cnn}, {work:,} multiply-adds per frame")
    return lines


def baselines(config: ConfigDict, data: run.Dataset, split: str) -> dict[str, dict[str, Any]]:
    """Baselines: no motion, or copies of the last frame."""
    if config.task == "forecast":
        return {"last frame again": parts.copy_last(config, data.parts[split])}
    return parts.one_frame(data.parts, split, config.baseline_videos)


def evaluate(trained: run.Trained, data: run.Dataset, split: str, options: run.Options) -> run.Report:
    """Accuracy beside that of the same model without order or motion, and the baselines; errors of the next frames."""
    config, part = trained.config, data.parts[split]
    scores, reading = {"model": run.measure(EXPERIMENT, trained, part)}, trained.model.tools
    if config.task == "forecast":
        errors = parts.next_frames(trained, part)
        rows = parts.error_rows(part, errors[0])
        return run.Report(scores | baselines(config, data, split), rows, answers=errors)
    if config.data.window:
        every = [reading.whole(trained.variables, part, index, config.data.window) for index in range(len(part))]
        shares, found = [jnp.stack(own) for own in zip(*every)], None
    else:
        clips = {
            "model": parts.clips(trained, part),
            "model, frames shuffled": parts.clips(trained, part, order="shuffled"),
            "model, middle frame only": parts.still_clips(trained, part),
        }
        read = {name: reading(trained.variables, own) for name, own in clips.items()}
        found, shares = read["model"], read["model"].clips
        scores |= {name: parts.scores_of(own.clips, part) for name, own in read.items() if name != "model"}
    scores["model"] = {"loss": scores["model"]["loss"]} | parts.scores_of(shares, part)
    return run.Report(scores | baselines(config, data, split), parts.answer_rows(shares, part), answers=found)


def pictures(trained: run.Trained, data: run.Dataset, split: str, report: run.Report, folder: Any) -> Any:
    """Plots filmstrips with the answer at each frame, confusion matrices, and predicted under true frames."""
    if trained.config.task == "forecast":
        yield from parts.draw_forecasts(trained, folder, split, data.parts[split], report.answers)
    elif report.answers is not None:
        yield from parts.draw_answers(
            folder, split, data.parts[split], parts.sampling_of(trained.config), report.answers
        )


def predict(trained: run.Trained, options: run.Options) -> None:
    """Prints answers for each clip of each --input, or writes the frames predicted after its end."""
    videos = files.read_videos(options.input, trained, trained.spec.shape)
    (files.write_next_frames if trained.config.task == "forecast" else files.print_answers)(trained, videos, options)


EXPERIMENT = run.Experiment.of(
    __name__,
    preset="moving_digits",
    records="videos",
    unit="videos",
    criterion=lambda config: "mse" if config.task == "forecast" else "error",
    modes={"predict": predict},
    flags=files.predict_flags(),
)

if __name__ == "__main__":
    run.main(EXPERIMENT)
