"""Parts of the video experiment besides its model: settings, answers, baselines, pictures, predictions."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from seqjax.data.pipeline.clips import HOW, ORDERS, Sampling, VideoBatch, ordered_clips, take_clips
from seqjax.data.records import Dataset
from seqjax.data.video_columns import Head, Videos
from seqjax.decoding.video import Answers, forecast_frames
from seqjax.diagnostics.pictures import plot_confusion
from seqjax.diagnostics.video import bytes_of, plot_by_step, plot_filmstrips, plot_forecasts, write_gif
from seqjax.models import CELLS
from seqjax.models.video import POOLING
from seqjax.run import fields
from seqjax.run.baselines_dna import logistic
from seqjax.run.experiment import Trained
from seqjax.run.scores import accuracy, confusion
from seqjax.run.settings import ConfigDict, Field, at_least, one_of
from seqjax.training.metrics.video import frame_errors

SIDE, TOGETHER = 24, 100  # of the frames that the one-frame baseline sees; clips that are compared at once
GIF_RATE = 5.0  # frames per second where the video does not say


def data_fields(sources: Sequence[str]) -> dict[str, Field]:
    """Where the videos come from, and which of their frames are read.

    Args:
      sources: the values of data.source.

    Example:
      >>> list(data_fields(("embedded", "file")))[:2]
      ['data.source', 'data.name']
    """
    file, rate, whole = fields.FILE, ("data.sampling", ("rate",)), ("data.window", (0,))
    files = fields.image_files()
    found = fields.source(
        "videos",
        sources,
        name="moving_digits",
        names="Embedded (moving_digits, bouncing_digits) or TFDS dataset (moving_mnist), or a name for your files.",
        path="A folder with one folder of videos per class, a table of videos, or .npy; for moving_mnist, MNIST's idx files.",
        validation_path="The same for validation (table or .npy); if empty, part of the training set is held out.",
        test_path="The same for testing (table or .npy).",
    )
    return (
        found
        | fields.split_seed()
        | {
            "data.image_size": Field(0, "Frames are resized to this side; 0 keeps the size of the videos.", at_least(0), when=file),
            "data.channels": Field(3, "Read video files in colour (3) or grey (1).", one_of(1, 3), when=file),
            "data.frame_rate": Field(0.0, "Frames per second of folders of frames; 0: unknown.", at_least(0), when=file),
            "data.video_field": Field("video", "Table field with video files or folders of frames.", when=file),
            "data.label_field": Field("label", "Table field with the labels; several, comma-separated, are separate questions.", when=file),
            **fields.table(),
            "data.bad_files": files["data.bad_files"]._replace(text="Unreadable videos stop the run, or are skipped and listed."),
            "data.clip_frames": Field(5, "Frames per clip, T; when forecasting, those read plus those predicted.", at_least(1), when=whole),
            "data.sampling": Field("even", "Clip frames spread over the whole video, or at data.clip_rate.", one_of(*HOW), when=whole),
            "data.clip_rate": Field(0.0, "Frames per second of a clip, at most the video's; 0: every frame.", at_least(0), when=rate),
            "data.pad_short": Field(False, "Pad videos shorter than a clip, instead of refusing them.", when=("task", ("classify",))),
            "data.order": Field("time", "Frames in order, or shuffled, to measure how much order matters.", one_of(*ORDERS), when=whole),
            "data.window": Field(
                0, "Frames of truncated backpropagation over whole videos; 0: train on clips.", at_least(0), when=("task", ("classify",))
            ),
            "data.context": Field(10, "Frames read before the rest of the clip is predicted.", at_least(1), when=("task", ("forecast",))),
            "data.workers": Field(1, "Threads that check and decode videos in advance.", at_least(0), free=True),
        }
    )


def model_fields(networks: Sequence[str]) -> dict[str, Field]:
    """The network: a CNN under recurrent layers, convolutional LSTMs, or those that write frames.

    Args:
      networks: names of CNNs that take images.

    Example:
      >>> model_fields(["lenet5"])["model.kind"].default
      'lrcn'
    """
    lrcn, maps, writes = (("model.kind", kinds) for kinds in (("lrcn",), ("conv_lstm", "forecaster"), ("forecaster",)))
    classify, stem = ("task", ("classify",)), ("model.kind", ("conv_lstm",))
    kinds = "CNN + recurrent layers, convolutional LSTMs that classify, or convolutional LSTMs that predict frames."
    return {
        "model.kind": Field("lrcn", kinds, one_of("lrcn", "conv_lstm", "forecaster")),
        "model.cnn": Field("lenet5", "CNN applied to each frame; seqjax.cnn.names() lists the choices.", one_of(*networks), when=lrcn),
        "model.options": Field("", "More options for the CNN, such as width=8,shortcut=B.", when=lrcn),
        "model.layer": Field("", "CNN layer whose features are used, such as layer3; empty: its output.", when=lrcn),
        "model.layer_pooling": Field(
            "flatten", "Flatten that layer's feature map, or average it over positions.", one_of("flatten", "mean"), when=lrcn
        ),
        "model.feature_size": Field(128, "Features per frame, D.", at_least(1), when=lrcn),
        "model.cell": Field("gru", "Recurrent cell.", one_of(*CELLS), when=lrcn),
        "model.hidden_size": Field(128, "Hidden units per layer, H; for convolutional LSTMs, channels.", at_least(1)),
        "model.num_layers": Field(1, "Number of layers, L.", at_least(1)),
        "model.pooling": Field("last", "Use the answer at the last frame, or the mean over all frames.", one_of(*POOLING), when=classify),
        "model.filters": Field(16, "Output channels of the first convolution.", at_least(1), when=stem),
        "model.stride": Field(2, "Stride of that convolution.", at_least(1), when=stem),
        "model.kernel": Field(3, "Kernel size of the convolutional LSTMs; odd.", at_least(1), when=maps),
        "model.patch": Field(2, "Side of the patches that frames are cut into.", at_least(1), when=writes),
        **fields.dtype(),
        "model.dropout": Field(0.0, "Dropout on features, between layers and before the answers.", fields.SHARE, when=classify),
    }


def sampling_of(config: ConfigDict, **changes: Any) -> Sampling:
    """Which frames make a clip.

    Example:
      >>> data = {"clip_frames": 9, "sampling": "even", "clip_rate": 0.0, "pad_short": False, "order": "time"}
      >>> sampling_of(ConfigDict({"data": data}), order="shuffled").order
      'shuffled'
    """
    d = config.data
    return Sampling(d.clip_frames, d.sampling, d.clip_rate, d.pad_short, d.order)._replace(**changes)


def frame_statistics(videos: Videos, limit: int = 500) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, values in [0, 1], over the middle frames of videos spread over the part.

    Example:
      >>> from seqjax.data.video_columns import ArrayVideos
      >>> frame_statistics(ArrayVideos(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1, 1)))
      ([0.5], [0.5])
    """
    pixels = middle_frames(videos, np.linspace(0, len(videos) - 1, min(len(videos), limit)).astype(int)) / 255.0
    values = pixels.reshape(-1, pixels.shape[-1])
    return values.mean(axis=0).tolist(), np.maximum(values.std(axis=0), 0.01).tolist()


def middle_frames(videos: Videos, indices: np.ndarray) -> np.ndarray:
    """The frame in the middle of some videos, uint8 (n, H, W, C).

    Example:
      >>> from seqjax.data.video_columns import ArrayVideos
      >>> middle_frames(ArrayVideos(np.arange(3, dtype=np.uint8).reshape(1, 3, 1, 1)), np.array([0])).tolist()
      [[[[1]]]]
    """
    return np.concatenate([videos.take(int(i), np.array([int(videos.counts[i]) // 2])) for i in indices])


# Answers


def scores_of(shares: Sequence[np.ndarray], videos: Videos) -> dict[str, Any]:
    """The fraction of videos with all questions answered correctly, with its interval, and the accuracy on each question.

    Args:
      shares: (N, K) of each question.
      videos: N of them.

    Example:
      >>> from seqjax.data.video_columns import Labelled
      >>> two = Labelled([1, 1], [Head("who", ("a", "b")), Head("way", ("l", "r"))], np.array([[0, 1], [1, 1]]))
      >>> found = scores_of([np.eye(2), np.array([[0.1, 0.9], [0.8, 0.2]])], two)
      >>> found["wrong"], found["who_accuracy"], found["way_accuracy"]
      (1, 1.0, 0.5)
    """
    right = np.stack([own.argmax(axis=1) == videos.answers[:, i] for i, own in enumerate(shares)])
    found = accuracy(np.asarray(right.all(axis=0)))
    if len(videos.heads) > 1:
        return found | {f"{head.name}_accuracy": float(own.mean()) for head, own in zip(videos.heads, right)}
    if shares[0].shape[1] > 5:
        best = np.argsort(-shares[0], axis=1, kind="stable")[:, :5]
        found["top_5_accuracy"] = float((best == videos.answers[:, :1]).any(axis=1).mean())
    return found


def answer_rows(shares: Sequence[np.ndarray], videos: Videos) -> Iterator[dict[str, Any]]:
    """A JSON object for each video: for each question the class, the answer and its probability.

    Example:
      >>> from seqjax.data.video_columns import Labelled
      >>> list(answer_rows([np.array([[0.25, 0.75]])], Labelled([1], [Head("who", ("a", "b"))], np.array([[1]]))))
      [{'video': 'video 1', 'who': 'b', 'who_answer': 'b', 'who_probability': 0.75}]
    """
    for index in range(len(videos)):
        row: dict[str, Any] = {"video": videos.at(index)}
        for i, head in enumerate(videos.heads):
            best = int(shares[i][index].argmax())
            row |= {head.name: head.classes[videos.answers[index, i]], f"{head.name}_answer": head.classes[best]}
            row[f"{head.name}_probability"] = round(float(shares[i][index, best]), 4)
        yield row


def clips(trained: Trained, videos: Videos, **changes: Any) -> Iterator[VideoBatch]:
    """The evaluation clips, with changes to their sampling."""
    return ordered_clips(videos, trained.config.data.eval_batch_size, sampling_of(trained.config, **changes))


def still_clips(trained: Trained, videos: Videos) -> Iterator[VideoBatch]:
    """The evaluation clips with the middle frame repeated: no motion, the same length."""
    for batch in clips(trained, videos):
        middle = batch.frames[np.arange(len(batch.lengths)), batch.lengths // 2][:, None]
        yield batch._replace(frames=np.broadcast_to(middle, batch.frames.shape))


def error_rows(videos: Videos, errors: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """A JSON object for each clip: the mean errors of its predicted frames.

    Example:
      >>> from seqjax.data.video_columns import Labelled
      >>> list(error_rows(Labelled([4]), {"mse": np.array([[1.0, 2.0]])}))
      [{'video': 'video 1', 'mse': 1.5}]
    """
    for index in range(len(videos)):
        yield {"video": videos.at(index)} | {name: round(float(found[index].mean()), 4) for name, found in errors.items()}


def one_frame(videos: Mapping[str, Videos], split: str, limit: int) -> dict[str, dict[str, Any]]:
    """Baselines without motion: the most frequent classes, and logistic regression on the middle frame.

    Args:
      videos: the parts, with "train" and "validation".
      split: the part to answer for.
      limit: number of training videos for the regression; 0 leaves it out.
    """
    part, train = videos[split], videos["train"]
    most = [np.eye(len(head.classes))[np.bincount(train.answers[:, i]).argmax()] for i, head in enumerate(train.heads)]
    found = {"most frequent": scores_of([np.tile(own, (len(part), 1)) for own in most], part)}
    if not limit:
        return found
    some = np.linspace(0, len(train) - 1, min(limit, len(train))).astype(int)
    learned, answers = _small(middle_frames(train, some)), train.answers[some]
    rows = {name: _small(middle_frames(videos[name], np.arange(len(videos[name])))) for name in {split, "validation"}}
    shares = []
    for i, head in enumerate(train.heads):
        if len(np.unique(answers[:, i])) < 2:
            shares.append(np.tile(most[i], (len(part), 1)))
            continue
        chosen = rows["validation"], videos["validation"].answers[:, i]
        fitted = logistic(learned, answers[:, i], *chosen, len(head.classes))
        shares.append(fitted(rows[split]))
    return found | {"logistic regression on one frame": scores_of(shares, part)}


def _small(frames: np.ndarray) -> np.ndarray:
    """Grey frames, averaged over blocks to at most 24 x 24, as rows of features."""
    grey = frames.mean(axis=-1) / 255.0
    steps = [max(1, -(-size // SIDE)) for size in grey.shape[1:]]
    grey = np.pad(grey, ((0, 0), *((0, -size % step) for size, step in zip(grey.shape[1:], steps))), mode="edge")
    count, height, width = grey.shape
    blocks = grey.reshape(count, height // steps[0], steps[0], width // steps[1], steps[1])
    return blocks.mean(axis=(2, 4)).reshape(count, -1)


def draw_answers(folder: pathlib.Path, split: str, videos: Videos, sampling: Sampling, found: Answers) -> Iterator[pathlib.Path]:
    """Plots confusion matrices, filmstrips with the answer at each frame (errors first), and a GIF of them."""
    for i, head in enumerate(videos.heads):
        counts = confusion(videos.answers[:, i], found.clips[i].argmax(axis=1), len(head.classes))
        yield plot_confusion(folder / f"confusion_{head.name}_{split}.png", counts, head.classes, unit="videos")
    right = np.stack([own.argmax(axis=1) == videos.answers[:, i] for i, own in enumerate(found.clips)]).all(axis=0)
    some = np.concatenate([np.flatnonzero(~right)[:4], np.flatnonzero(right)[:6]])[:8]
    batch = take_clips(videos, some, len(some), sampling)
    strips = [frames[:length] for frames, length in zip(batch.frames, batch.lengths)]
    titles = [f"{videos.at(int(i))}: {_classes_of(videos, i)}" for i in some]
    below = [
        [under_frame(videos.heads, [own[i, t] for own in found.frames], videos.answers[i]) for t in range(length)]
        for i, length in zip(some, batch.lengths)
    ]
    yield plot_filmstrips(folder / f"filmstrips_{split}.png", strips, titles, below)
    yield write_gif(folder / f"clips_{split}.gif", [*batch.frames[:6]], rate=GIF_RATE)


def _classes_of(videos: Videos, index: int) -> str:
    return ", ".join(head.classes[label] for head, label in zip(videos.heads, videos.answers[index]))


def under_frame(heads: Sequence[Head], shares: Sequence[np.ndarray], labels: np.ndarray | None) -> tuple[str, bool | None]:
    """The answers at a frame, one per line, and whether all are correct; None if unknown.

    Example:
      >>> under_frame([Head("way", ("left", "right"))], [np.array([0.25, 0.75])], np.array([0]))
      ('right 75%', False)
    """
    best = [int(own.argmax()) for own in shares]
    text = "\n".join(f"{head.classes[k]} {own[k]:.0%}" for head, k, own in zip(heads, best, shares))
    return text, None if labels is None else bool((np.array(best) == labels).all())


# Next frames


def next_frames(trained: Trained, videos: Videos) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Errors of the predicted frames and of copies of the last frame read: metric -> (N, horizon), of each."""
    model, copies = [], []
    for batch in ordered_clips(videos, TOGETHER, sampling_of(trained.config)):
        context, true = _cut(trained.config, batch)
        real = batch.lengths > 0
        predicted = forecast_frames(trained.model.module, trained.params, context, true.shape[1])
        model.append({name: np.asarray(found)[real] for name, found in frame_errors(predicted, true / np.float32(255)).items()})
        copies.append({name: found[real] for name, found in _copied(context, true).items()})
    ours, copied = ({name: np.concatenate([found[name] for found in several]) for name in several[0]} for several in (model, copies))
    return ours, copied


def copy_last(config: ConfigDict, videos: Videos) -> dict[str, float]:
    """The mean errors of copies of the last frame read; no cross-entropy, which is infinite if a copy is sure and wrong."""
    found = [
        {name: values[batch.lengths > 0] for name, values in _copied(*_cut(config, batch)).items()}
        for batch in ordered_clips(videos, TOGETHER, sampling_of(config))
    ]
    return {name: float(np.concatenate([each[name] for each in found]).mean()) for name in found[0]}


def _cut(config: ConfigDict, batch: VideoBatch) -> tuple[np.ndarray, np.ndarray]:
    return batch.frames[:, : config.data.context], batch.frames[:, config.data.context :]


def _copied(context: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
    last = np.broadcast_to(context[:, -1:], true.shape) / np.float32(255)
    found = frame_errors(last, true / np.float32(255))
    return {name: np.asarray(values) for name, values in found.items() if name != "bce"}


def draw_forecasts(
    trained: Trained,
    folder: pathlib.Path,
    split: str,
    videos: Videos,
    errors: tuple[dict[str, np.ndarray], dict[str, np.ndarray]],
) -> Iterator[pathlib.Path]:
    """Draws predicted under true frames of the best, middle and worst clip, errors by step, and a GIF of true and predicted."""
    order = np.argsort(errors[0]["mse"].mean(axis=1))
    some = order[[0, len(order) // 2, -1]]
    batch = take_clips(videos, some, len(some), sampling_of(trained.config))
    context, true = _cut(trained.config, batch)
    predicted = forecast_frames(trained.model.module, trained.params, context, true.shape[1])
    each = zip(("best", "median", "worst"), some)
    titles = [f"{kind}: {videos.at(int(i))}, MSE {errors[0]['mse'][i].mean():.1f} a frame" for kind, i in each]
    yield plot_forecasts(folder / f"frames_{split}.png", context, true, predicted, titles)
    by_step = {
        name: {what: own[key].mean(axis=0) for what, own in zip(("model", "last frame again"), errors)}
        for name, key in (("MSE, summed over a frame", "mse"), ("SSIM", "ssim"))
    }
    yield plot_by_step(folder / f"steps_{split}.png", by_step, f"{split} part, {len(videos):,} clips")
    whole = np.concatenate([context, bytes_of(predicted)], axis=1)
    panels = [np.concatenate([np.concatenate([context[i], true[i]]), whole[i]], axis=1) for i in range(len(some))]
    yield write_gif(folder / f"frames_{split}.gif", panels, rate=GIF_RATE, side=240)


def facts_line(dataset: Dataset) -> str:
    """A line on the lengths and size of the training videos.

    Example:
      >>> from seqjax.data.video_columns import ArrayVideos
      >>> facts_line(Dataset("two", {"train": ArrayVideos(np.zeros((2, 3, 4, 5), np.uint8))}, "videos"))
      'training videos: 3 to 3 frames of 4 x 5, 1 channel'
    """
    videos = dataset.parts["train"]
    height, width, channels = videos.shape
    frames = f"{videos.counts.min():,} to {videos.counts.max():,} frames of {height} x {width}"
    return f"training videos: {frames}, {channels} channel{'s' if channels > 1 else ''}"
