"""Predictions for the user's own videos: answers about their clips, or their next frames as pictures."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from seqjax.data.pipeline.clips import Sampling, VideoBatch
from seqjax.data.readers.videos import FileVideos, examine_video
from seqjax.data.records import Faults
from seqjax.data.video_columns import Head
from seqjax.decoding.video import forecast_frames
from seqjax.diagnostics.video import MOST, bytes_of, plot_filmstrips, plot_forecasts, write_gif
from seqjax.errors import UserError
from seqjax.run.experiment import Flag, Trained
from seqjax.run.parts import print_json
from seqjax.run.scores import ranked
from seqjax.run.settings import at_least, one_of
from seqjax.run.video import GIF_RATE, sampling_of, under_frame


def predict_flags() -> dict[str, Flag]:
    """The flags of the mode `predict`.

    Example:
      >>> list(predict_flags())
      ['input', 'top', 'format', 'output']
    """
    modes = ("predict",)
    return {
        "input": Flag([], "a video file or a folder of frames; repeat the flag for several.", modes),
        "top": Flag(3, "how many answers to show for each clip.", modes, at_least(1)),
        "format": Flag("text", "readable text, or one JSON line per clip.", modes, one_of("text", "jsonl")),
        "output": Flag("", "prefix of the picture files: OUTPUT_1.png and OUTPUT_1.gif for the first video, and so on.", modes),
    }


def read_videos(paths: Sequence[str], trained: Trained, shape: Sequence[int]) -> FileVideos:
    """The user's own videos, read like the run's.

    Args:
      paths: files or folders of frames.
      trained: the run.
      shape: of its frames, (H, W, C).

    Raises:
      UserError: none are given; one that is not sound; or frames of another size than the run's, where those are no squares.
    """
    if not paths:
        raise UserError("--mode=predict needs a video: give --input=FILE once per video")
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
      rate: frames per second; 0 if unknown.
      sampling: as in training.

    Returns:
      Frame indices, one row per clip; frames at the end that do not fill a clip are left out.

    Example:
      >>> [clip.tolist() for clip in clips_of(7, 0.0, Sampling(3, "rate"))]
      [[0, 1, 2], [3, 4, 5]]
    """
    if sampling.how == "even" or count < sampling.span(rate):
        return [sampling.places(count, rate)]
    span, inside = sampling.span(rate), (np.arange(sampling.frames) * sampling.step(rate)).astype(int)
    return [start + inside for start in range(0, count - span + 1, max(span, round(sampling.frames * sampling.step(rate))))]


def print_answers(trained: Trained, videos: FileVideos, options: Any) -> None:
    """Prints the most likely answers about each clip of each video, and plots filmstrips if an output is named."""
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
            stem = f"{options.output}_{index + 1}"
            named = [f"{os.path.basename(path)}, frames {places[0] + 1} to {places[-1] + 1}" for places in clips[:MOST]]
            below = [
                [under_frame(videos.heads, [own[k, t] for own in found.frames], None) for t in range(len(strip))]
                for k, strip in enumerate(strips[:MOST])
            ]
            trained.report(str(plot_filmstrips(pathlib.Path(f"{stem}.png"), strips[:MOST], named, below)))
            trained.report(str(write_gif(pathlib.Path(f"{stem}.gif"), strips[:6], rate=rate or GIF_RATE)))


def _batch_of(frames: np.ndarray, size: int) -> VideoBatch:
    padded = np.zeros((1, size, *frames.shape[1:]), np.uint8)
    padded[0, : len(frames)] = frames
    return VideoBatch(padded, np.array([len(frames)], np.int32), np.zeros((1, 0), np.int32), np.ones(1, bool))


def _print_clip(path: str, places: np.ndarray, rate: float, shares: Sequence[np.ndarray], heads: Sequence[Head], options: Any) -> None:
    first, last = int(places[0]) + 1, int(places[-1]) + 1
    best = {head.name: ranked(own, head.classes, options.top) for head, own in zip(heads, shares)}
    if options.format == "jsonl":
        seconds = {"seconds": [round((first - 1) / rate, 3), round(last / rate, 3)]} if rate else {}
        print_json(
            {
                "video": path,
                "frames": [first, last],
                **seconds,
                "answers": {name: dict(found) for name, found in best.items()},
            }
        )
        return
    when = f"{(first - 1) / rate:.1f} to {last / rate:.1f} s" if rate else f"frames {first} to {last}"
    texts = ["  ".join(f"{label} {share:.1%}" for label, share in found) for found in best.values()]
    named = [f"{name}: {text}" for name, text in zip(best, texts)] if len(heads) > 1 else texts
    print(f"{path}\t{when}\t" + " | ".join(named))


def write_next_frames(trained: Trained, videos: FileVideos, options: Any) -> None:
    """Writes the predicted frames after the end of each video, as a picture and as a GIF."""
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
