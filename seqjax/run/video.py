"""What the experiment with videos is made of besides its model: settings, answers, baselines, pictures, predictions."""

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from seqjax.data.pipeline.clips import HOW, ORDERS, Sampling, VideoBatch, ordered_clips, take_clips
from seqjax.data.readers.videos import FileVideos, examine_video
from seqjax.data.records import Dataset, Faults
from seqjax.data.video_columns import Head, Videos
from seqjax.decoding.video import Answers, forecast_frames
from seqjax.diagnostics.pictures import plot_confusion
from seqjax.diagnostics.video import MOST, bytes_of, plot_by_step, plot_filmstrips, plot_forecasts, write_gif
from seqjax.errors import UserError
from seqjax.run import fields
from seqjax.run.baselines_dna import logistic
from seqjax.run.experiment import Flag, Trained
from seqjax.run.parts import print_json
from seqjax.run.scores import accuracy, confusion, ranked
from seqjax.run.settings import Field, at_least, one_of
from seqjax.training.metrics.video import frame_errors

SIDE, TOGETHER = 24, 100  # of the frames that the one-frame baseline sees; clips that are compared at once
GIF_RATE = 5.0  # frames a second where the video does not say


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
        "videos", sources, name="moving_digits",
        names="The embedded set (moving_digits, bouncing_digits) or TFDS set (moving_mnist); what to call files.",
        path="A folder with a folder of videos for each class, a table of videos, or .npy; for moving_mnist MNIST's idx files.",
        validation_path="The same for validation, of a table or .npy; without it a share of the training part is held out.",
        test_path="The same for the test, of a table or .npy.",
    )  # fmt: skip
    return found | fields.split_seed() | {
        "data.image_size": Field(0, "Side to which frames are scaled; 0 keeps the videos' own.", at_least(0), when=file),
        "data.channels": Field(3, "Frames of video files in colour (3) or grey (1).", one_of(1, 3), when=file),
        "data.frame_rate": Field(0.0, "Frames a second of folders of frames; 0 where it is not known.", at_least(0), when=file),
        "data.video_field": Field("video", "A table's field of files or folders of frames.", when=file),
        "data.label_field": Field("label", "A table's field of labels; several with commas between are several questions.", when=file),
        **fields.table(),
        "data.bad_files": files["data.bad_files"]._replace(text="Videos that are not sound end the run, or are left out and listed."),
        "data.clip_frames": Field(9, "Frames of a clip, T; to forecast, those read and those predicted.", at_least(1), when=whole),
        "data.sampling": Field("even", "A clip is spread over its video, or taken at a rate.", one_of(*HOW), when=whole),
        "data.clip_rate": Field(0.0, "Frames a second of a clip; 0 takes each frame.", at_least(0), when=rate),
        "data.pad_short": Field(False, "Videos shorter than a clip are padded, not refused.", when=("task", ("classify",))),
        "data.order": Field("time", "Frames in their order, or shuffled, to see what order is worth.", one_of(*ORDERS), when=whole),
        "data.window": Field(
            0, "Frames of truncated backpropagation over whole videos; 0 takes clips.", at_least(0), when=("task", ("classify",))
        ),
        "data.context": Field(10, "Frames that are read before the next are predicted.", at_least(1), when=("task", ("forecast",))),
        "data.workers": Field(1, "Threads that check and decode videos ahead.", at_least(0), free=True),
    }  # fmt: skip


def predict_flags() -> dict[str, Flag]:
    """The flags of the mode `predict`.

    Example:
      >>> list(predict_flags())
      ['input', 'top', 'format', 'output']
    """
    modes = ("predict",)
    return {
        "input": Flag([], "a video file or a folder of frames; give the flag several times for several.", modes),
        "top": Flag(3, "how many answers to show for each clip.", modes, at_least(1)),
        "format": Flag("text", "for people, or a line of JSON for each clip.", modes, one_of("text", "jsonl")),
        "output": Flag("", "how the names of pictures begin: OUTPUT_1.png and .gif of the first video, and so on.", modes),
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
    """The share of videos of which all questions are answered right, with its interval, and the share of each.

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
    found = accuracy(right.all(axis=0))
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
        row = {"video": videos.at(index)}
        for i, head in enumerate(videos.heads):
            best = int(shares[i][index].argmax())
            row |= {head.name: head.classes[videos.answers[index, i]], f"{head.name}_answer": head.classes[best]}
            row[f"{head.name}_probability"] = round(float(shares[i][index, best]), 4)
        yield row


def clips(trained: Trained, videos: Videos, **changes: Any) -> Iterator[VideoBatch]:
    """The clips that a model is evaluated on, with changes of their sampling."""
    return ordered_clips(videos, trained.config.data.eval_batch_size, sampling_of(trained.config, **changes))


def still_clips(trained: Trained, videos: Videos) -> Iterator[VideoBatch]:
    """The same clips, in which the frame in the middle stands still: nothing moves, and no clip is shorter."""
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
    """What can be told without motion: the most frequent classes, and logistic regression on the middle frame.

    Args:
      videos: the parts, with "train" and "validation".
      split: the part to answer for.
      limit: training videos that are learned from; 0 leaves the regression out.
    """
    part, train = videos[split], videos["train"]
    most = [np.eye(len(head.classes))[np.bincount(train.answers[:, i]).argmax()] for i, head in enumerate(train.heads)]
    found = {"most frequent": scores_of([np.tile(own, (len(part), 1)) for own in most], part)}
    if not limit:
        return found
    some = {name: np.arange(len(videos[name])) for name in (split, "validation")}
    some["train"] = np.linspace(0, len(train) - 1, min(limit, len(train))).astype(int)
    rows = {name: _small(middle_frames(videos[name], which)) for name, which in some.items()}
    answers = {name: videos[name].answers[which] for name, which in some.items()}
    shares = []
    for i, head in enumerate(train.heads):
        if len(np.unique(answers["train"][:, i])) < 2:
            shares.append(np.tile(most[i], (len(part), 1)))
            continue
        fitted = logistic(rows["train"], answers["train"][:, i], rows["validation"], answers["validation"][:, i], len(head.classes))
        shares.append(fitted(rows[split]))
    return found | {"logistic regression on one frame": scores_of(shares, part)}


def _small(frames: np.ndarray) -> np.ndarray:
    """Grey frames of at most 24 x 24, each place the mean of a block, as rows of numbers."""
    grey = frames.mean(axis=-1) / 255.0
    steps = [max(1, -(-size // SIDE)) for size in grey.shape[1:]]
    grey = np.pad(grey, ((0, 0), *((0, -size % step) for size, step in zip(grey.shape[1:], steps))), mode="edge")
    count, height, width = grey.shape
    blocks = grey.reshape(count, height // steps[0], steps[0], width // steps[1], steps[1])
    return blocks.mean(axis=(2, 4)).reshape(count, -1)


def draw_answers(
    folder: pathlib.Path, split: str, videos: Videos, sampling: Sampling, found: Answers
) -> Iterator[pathlib.Path]:
    """Draws what is confused, filmstrips with the answer at each frame, wrong ones first, and a GIF of them."""
    for i, head in enumerate(videos.heads):
        counts = confusion(videos.answers[:, i], found.clips[i].argmax(axis=1), len(head.classes))
        yield plot_confusion(folder / f"confusion_{head.name}_{split}.png", counts, head.classes, unit="videos")
    right = np.stack([own.argmax(axis=1) == videos.answers[:, i] for i, own in enumerate(found.clips)]).all(axis=0)
    some = np.concatenate([np.flatnonzero(~right)[:4], np.flatnonzero(right)[:6]])[:8]
    batch = take_clips(videos, some, len(some), sampling)
    strips = [frames[:length] for frames, length in zip(batch.frames, batch.lengths)]
    titles = [f"{videos.at(int(i))}: {_classes_of(videos, i)}" for i in some]
    below = [
        [_under(videos.heads, [own[i, t] for own in found.frames], videos.answers[i]) for t in range(length)]
        for i, length in zip(some, batch.lengths)
    ]
    yield plot_filmstrips(folder / f"filmstrips_{split}.png", strips, titles, below)
    yield write_gif(folder / f"clips_{split}.gif", [*batch.frames[:6]], rate=GIF_RATE)


def _classes_of(videos: Videos, index: int) -> str:
    return ", ".join(head.classes[label] for head, label in zip(videos.heads, videos.answers[index]))


def _under(heads: Sequence[Head], shares: Sequence[np.ndarray], labels: np.ndarray | None) -> tuple[str, bool | None]:
    """The answers of a frame, a line each, and whether all are right."""
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
    return tuple({name: np.concatenate([found[name] for found in several]) for name in several[0]} for several in (model, copies))


def copy_last(config: ConfigDict, videos: Videos) -> dict[str, float]:
    """The mean errors of copies of the last frame read; no cross-entropy, which is infinite where a copy is sure and wrong."""
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
    trained: Trained, folder: pathlib.Path, split: str, videos: Videos, errors: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
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


# Predictions


def read_videos(paths: Sequence[str], trained: Trained, shape: Sequence[int]) -> FileVideos:
    """The user's own videos, as the run's were read.

    Args:
      paths: files or folders of frames.
      trained: the run.
      shape: of its frames, (H, W, C).

    Raises:
      UserError: none are given; one that is not sound; or frames of another size than the run's, where those are no squares.
    """
    if not paths:
        raise UserError("--mode=predict needs a video: --input=FILE once for each")
    height, width, channels = shape
    facts, faults = [], Faults("videos")
    for path in paths:
        try:
            facts.append(examine_video(path))
        except UserError as error:
            faults.add(error)
            continue
        if height != width and (facts[-1].height, facts[-1].width) != (height, width):
            faults.add(f"{path} has frames of {facts[-1].height} x {facts[-1].width}; this run is of {height} x {width}")
    faults.raise_any()
    size = height if height == width else 0
    rate = trained.config.data.frame_rate
    return FileVideos([*paths], facts, size, channels, [Head(name, tuple(classes)) for name, classes in trained.spec.heads], rate=rate)


def clips_of(count: int, rate: float, sampling: Sampling) -> list[np.ndarray]:
    """The clips that a whole video is cut into: one where clips are spread over their video, else one after the other.

    Args:
      count: frames of the video.
      rate: frames a second; 0 where that is not known.
      sampling: as in training.

    Returns:
      Places of frames, a clip each; frames at the end that fill no clip are left out.

    Example:
      >>> [clip.tolist() for clip in clips_of(7, 0.0, Sampling(3, "rate"))]
      [[0, 1, 2], [3, 4, 5]]
    """
    if sampling.how == "even" or count < sampling.span(rate):
        return [sampling.places(count, rate)]
    span, inside = sampling.span(rate), (np.arange(sampling.frames) * sampling.step(rate)).astype(int)
    return [start + inside for start in range(0, count - span + 1, max(span, round(sampling.frames * sampling.step(rate))))]


def print_answers(trained: Trained, videos: FileVideos, options: Any) -> None:
    """Prints the likeliest answers about each clip of each video, and draws filmstrips where an output is named."""
    d, sampling, reading = trained.config.data, sampling_of(trained.config), trained.model.tools
    for index, path in enumerate(videos.paths):
        count, rate = int(videos.counts[index]), videos.rate_of(index)
        if d.window:
            shares = [own[None] for own in reading.whole(trained.variables, videos, index, d.window)]
            clips, strips = [np.array([0, count - 1])], []
        else:
            clips = clips_of(count, rate, sampling)
            strips = [videos.take(index, places) for places in clips]
            batches = [_batch_of(frames, sampling.frames) for frames in strips]
            found = reading(trained.variables, batches)
            shares = found.clips
        for k, places in enumerate(clips):
            _print_clip(path, places, rate, [own[k] for own in shares], videos.heads, options)
        if options.output and strips:
            titles = [f"{os.path.basename(path)}, frames {places[0] + 1} to {places[-1] + 1}" for places in clips[:MOST]]
            below = [
                [_under(videos.heads, [own[k, t] for own in found.frames], None) for t in range(len(strips[k]))] for k in range(len(titles))
            ]
            trained.report(str(plot_filmstrips(pathlib.Path(f"{options.output}_{index + 1}.png"), strips[:MOST], titles, below)))
            shown = [strip for strip in strips[:6] if len(strip) == len(strips[0])]
            trained.report(str(write_gif(pathlib.Path(f"{options.output}_{index + 1}.gif"), shown, rate=rate or GIF_RATE)))


def _batch_of(frames: np.ndarray, size: int) -> VideoBatch:
    padded = np.zeros((1, size, *frames.shape[1:]), np.uint8)
    padded[0, : len(frames)] = frames
    return VideoBatch(padded, np.array([len(frames)], np.int32), np.zeros((1, 0), np.int32), np.ones(1, bool))


def _print_clip(path: str, places: np.ndarray, rate: float, shares: Sequence[np.ndarray], heads: Sequence[Head], options: Any) -> None:
    first, last = int(places[0]) + 1, int(places[-1]) + 1
    best = {head.name: ranked(own, head.classes, options.top) for head, own in zip(heads, shares)}
    if options.format == "jsonl":
        seconds = {"seconds": [round((first - 1) / rate, 3), round(last / rate, 3)]} if rate else {}
        print_json({"video": path, "frames": [first, last], **seconds, "answers": {name: dict(found) for name, found in best.items()}})
        return
    when = f"{(first - 1) / rate:.1f} to {last / rate:.1f} s" if rate else f"frames {first} to {last}"
    texts = ["  ".join(f"{label} {share:.1%}" for label, share in found) for found in best.values()]
    named = [f"{name}: {text}" for name, text in zip(best, texts)] if len(heads) > 1 else texts
    print(f"{path}\t{when}\t" + " | ".join(named))


def write_next_frames(trained: Trained, videos: FileVideos, options: Any) -> None:
    """Writes what follows the last frames of each video, as a picture and as a GIF."""
    config, sampling = trained.config, sampling_of(trained.config)
    read = sampling._replace(frames=config.data.context, how="rate")
    for index, path in enumerate(videos.paths):
        count, rate = int(videos.counts[index]), videos.rate_of(index)
        if count < read.span(rate):
            raise UserError(f"{path} has {count} frames, and this run reads {read.span(rate)}; give a longer video")
        inside = (np.arange(read.frames) * read.step(rate)).astype(int)
        context = videos.take(index, inside + count - 1 - inside[-1])[None]
        horizon = config.data.clip_frames - config.data.context
        predicted = forecast_frames(trained.model.module, trained.params, context, horizon)
        stem = f"{options.output or 'next'}_{index + 1}"
        title = [f"{os.path.basename(path)}: the last {read.frames} frames, and the next {horizon}"]
        plot_forecasts(pathlib.Path(f"{stem}.png"), context, None, predicted, title)
        write_gif(pathlib.Path(f"{stem}.gif"), [np.concatenate([context[0], bytes_of(predicted)[0]])], rate=rate or GIF_RATE)
        if options.format == "jsonl":
            print_json({"video": path, "frames": horizon, "files": [f"{stem}.png", f"{stem}.gif"]})
        else:
            print(f"{path}: {stem}.png and {stem}.gif")


def facts_line(dataset: Dataset) -> str:
    """How long the training videos are.

    Example:
      >>> from seqjax.data.video_columns import ArrayVideos
      >>> facts_line(Dataset("two", {"train": ArrayVideos(np.zeros((2, 3, 4, 5), np.uint8))}, "videos"))
      'training videos: 3 to 3 frames of 4 x 5, 1 channel'
    """
    videos = dataset.parts["train"]
    height, width, channels = videos.shape
    frames = f"{videos.counts.min():,} to {videos.counts.max():,} frames of {height} x {width}"
    return f"training videos: {frames}, {channels} channel{'s' if channels > 1 else ''}"
