"""Does memory stay flat when reading a video, whatever its length?

    python -m benchmarks.video_memory [--frames=20000]

Writes video files of a hundredth, a tenth and all of the frames, and reads each in windows of 64 frames, passing the carry on, with a small
CNN under a recurrent layer with random weights; records the peak resident memory of the process after each. Linux only.
"""

import argparse
import pathlib
import resource
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from seqjax import cnn
from seqjax.data.readers.videos import FileVideos, examine_video
from seqjax.decoding.video import VideoReading
from seqjax.models import make_stack
from seqjax.models.video import FrameFeatures, FrameReader, VideoClassifier

SIDE, WINDOW = 64, 64


def peak_megabytes() -> float:
    """The peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write(path: pathlib.Path, frames: int) -> None:
    """Writes a file of moving stripes in noise."""
    import av

    noise = np.random.default_rng(0).integers(0, 40, (16, SIDE, SIDE, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for t in range(frames):
            picture = (noise[t % 16] + 60 * ((np.arange(SIDE)[None, :, None] + t) // 8 % 2)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def main() -> None:
    """Measures and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20_000)
    options = parser.parse_args()
    reader = FrameReader(FrameFeatures(cnn.create("lenet5", num_classes=32)), make_stack("gru", 32, 1))
    model, first = VideoClassifier((2,), reader), (jnp.zeros((1, 1, SIDE, SIDE, 1)), jnp.array([1]))
    variables, reading, rows = model.init(jax.random.key(0), *first), VideoReading(model, [0.3], [0.2], "mean"), []
    with tempfile.TemporaryDirectory() as folder:
        for frames in (options.frames // 100, options.frames // 10, options.frames):
            path = pathlib.Path(folder) / f"{frames}.mp4"
            write(path, frames)
            videos = FileVideos([str(path)], [examine_video(path)], 0, 1)
            begin, cpu = time.perf_counter(), time.process_time()
            reading.whole(variables, videos, 0, WINDOW)
            seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
            rows.append({
                "frames": frames, "megabytes_of_frames": round(frames * SIDE * SIDE / 2**20, 1),
                "peak_megabytes": round(peak_megabytes(), 1), "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1),
            })  # fmt: skip
            print(rows[-1], flush=True)
    growth = rows[-1]["peak_megabytes"] - rows[0]["peak_megabytes"]
    common.save("video_memory", {
        "question": "peak resident memory of reading a video file in windows with the carry passed on, by its length",
        "model": f"LeNet-5 on each frame of {SIDE} x {SIDE} under a GRU of 32, windows of {WINDOW} frames",
        "rows": rows, "growth_megabytes": round(growth, 1), "growth_bytes_per_frame": round(growth * 2**20 / options.frames, 1),
    })  # fmt: skip


if __name__ == "__main__":
    main()
