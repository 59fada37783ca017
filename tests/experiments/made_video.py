"""Made-up videos: a bright square that goes left or right, in one of two shades, in files of 10 to 16 frames."""

import pathlib
import random
from collections.abc import Sequence

import numpy as np
from made import Data

SIDE, RATE = 16, 10
WAYS = ("left", "right")
SIZES = {"train": 24, "validation": 7, "test": 6}


def moving_square(chooser: random.Random, way: str, shade: str, count: int) -> np.ndarray:
    """uint8 (T, 16, 16, 3): a square of 5 x 5, a pixel further in each frame, and round again."""
    row, column = chooser.randrange(1, SIDE - 6), chooser.randrange(SIDE)
    frame = np.full((SIDE, SIDE), 20)
    frame[row : row + 5, :5] = {"dark": 120, "bright": 240}[shade]
    step = {"left": -1, "right": 1}[way]
    rolled = [np.roll(frame, column + step * t, axis=1) for t in range(count)]
    return np.repeat(np.stack(rolled)[..., None], 3, axis=-1).astype(np.uint8)


def write_video(path: pathlib.Path, frames: np.ndarray, *, codec: str = "mpeg4", rate: int = RATE) -> pathlib.Path:
    """Frames uint8 (T, H, W, 3) as a file."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = *frames.shape[1:3], "yuv420p", 2_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return path


def write_table(folder: pathlib.Path, part: str, number: int, seed: int, lengths: Sequence[int] = range(10, 17)) -> pathlib.Path:
    """PART.csv with fields video, way and shade, and the files that it names."""
    chooser, lines = random.Random(seed), ["video,way,shade"]
    for i in range(number):
        way, shade = WAYS[i % 2], ("dark", "bright")[i // 2 % 2]
        name = f"{part}{i}.avi"
        write_video(folder / name, moving_square(chooser, way, shade, chooser.choice(list(lengths))))
        lines.append(f"{name},{way},{shade}")
    (folder / f"{part}.csv").write_text("\n".join(lines) + "\n")
    return folder / f"{part}.csv"


def write_class_folders(folder: pathlib.Path, number: int, seed: int) -> pathlib.Path:
    """A folder of files for each way."""
    chooser = random.Random(seed)
    for i in range(number):
        way = WAYS[i % 2]
        (folder / way).mkdir(parents=True, exist_ok=True)
        write_video(folder / way / f"{i}.mp4", moving_square(chooser, way, "bright", 8))
    return folder


def _write(folder):
    for seed, (part, number) in enumerate(SIZES.items()):
        write_table(folder, part, number, seed)


VIDEO = Data(
    _write,
    lambda folder: {
        "data.source": "file",
        "data.path": folder / "train.csv",
        "data.validation_path": folder / "validation.csv",
        "data.test_path": folder / "test.csv",
        "data.label_field": "way,shade",
    },
    lambda folder: write_video(folder / "train0.avi", moving_square(random.Random(99), "left", "dark", 12)),
)
