"""Video files (with PyAV) and folders of frames: their properties, and their frames one by one."""

import os
import pathlib
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from seqjax.data.readers.folders import dead_link, unreadable, visible
from seqjax.data.readers.image_folders import SUFFIXES as IMAGES
from seqjax.data.transforms.pixels import examine_image, read_image, resize_all
from seqjax.data.video_columns import Head, Labelled, name_of
from seqjax.errors import UserError, missing

SUFFIXES = tuple(".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .ogv .3gp .ts .gif".split())
OPEN = 64  # decoders that stay open, so that a window continues where the previous one ended
FORMATS = {1: "gray", 3: "rgb24"}


class Facts(NamedTuple):
    """The properties of a video."""

    frames: int
    rate: float  # frames per second; 0 if the file does not say
    height: int
    width: int


def is_video(path: pathlib.Path) -> bool:
    """Whether a path is a video file, judged by its name, or a folder of images.

    Example:
      >>> is_video(pathlib.Path("a/b.MP4")), is_video(pathlib.Path("a/b.txt"))
      (True, False)
    """
    return path.suffix.lower() in SUFFIXES if not path.is_dir() else bool(frame_files(path))


def frame_files(folder: str | os.PathLike) -> list[str]:
    """The images of a folder of frames, ordered by the numbers in their names.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as name:
      ...     for file in ("f10.png", "f9.png", "notes.txt"):
      ...         pathlib.Path(name, file).touch()
      ...     [os.path.basename(path) for path in frame_files(name)]
      ['f9.png', 'f10.png']
    """
    files = [path for path in visible(pathlib.Path(folder)) if path.suffix.lower() in IMAGES and not path.is_dir()]
    return [str(path) for path in sorted(files, key=lambda path: _natural(path.name))]


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def examine_video(path: str | os.PathLike) -> Facts:
    """Reads a whole video once, so that a broken one cannot stop training.

    Args:
      path: a video file of any format that PyAV decodes, or a folder of its frames as images.

    Raises:
      UserError: a file that is missing, empty, damaged or without a video stream, a missing codec, frames of several sizes, or PyAV is not
        installed.

    Example:
      >>> examine_video("nothing.mp4")
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: nothing.mp4 does not exist; check the path
    """
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        return _folder_facts(path)
    count, sizes = 0, set()
    with _opened(path) as container:
        stream = _stream(container, path)
        for frame in _decoded(container, stream, path):
            count, sizes = count + 1, sizes | {(frame.height, frame.width)}
        rate, announced = float(stream.average_rate or 0), stream.frames
    if not count:
        raise UserError(f"{path} has no frames; repair or remove it")
    if announced and count < announced - 1:  # some files announce one frame more than they have
        raise UserError(f"{path} ends after {count:,} of {announced:,} frames; download or write it again")
    _one_size(sizes, path)
    return Facts(count, rate, *sizes.pop())


def _folder_facts(path: str) -> Facts:
    files = frame_files(path)
    if not files:
        raise UserError(f"{path} has no images in it; give a folder with the frames of one video")
    for file in files:
        examine_image(file, 3)
    sizes = {read_image(file, 0, 3).shape[:2] for file in files}
    _one_size(sizes, path)
    return Facts(len(files), 0.0, *sizes.pop())


def _one_size(sizes: set[tuple[int, int]], path: str) -> None:
    if len(sizes) > 1:
        shown = " and ".join(f"{height} x {width}" for height, width in sorted(sizes)[:2])
        raise UserError(f"{path} has frames of {shown}; a video must have one size: write it again")


def read_frames(path: str, size: int = 0, channels: int = 3) -> Iterator[np.ndarray]:
    """The frames of a video, in order.

    Args:
      path: as in `examine_video`.
      size: the height and width that the largest central square is scaled to, as for images; 0 keeps frames unchanged.
      channels: 1 (grey) or 3 (RGB).

    Yields:
      uint8 (H, W, channels).

    Raises:
      UserError: as `examine_video`.

    Example:
      >>> import tempfile
      >>> from PIL import Image
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     for i in range(3):
      ...         Image.new("L", (6, 4), 80 * i).save(f"{folder}/{i}.png")
      ...     [frame.max() for frame in read_frames(folder, 4, 1)] == [0, 80, 160]
      True
    """
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        for file in frame_files(path):
            yield read_image(file, size, channels)
        return
    with _opened(path) as container:
        for frame in _decoded(container, _stream(container, path), path):
            pixels = frame.to_ndarray(format=FORMATS[channels])
            pixels = pixels if channels == 3 else pixels[..., None]
            yield resize_all(pixels[None], size, path)[0] if size else pixels


def _opened(path: str) -> Any:
    try:
        import av
    except ImportError:
        raise missing("video files need PyAV", "video", "give folders of frames") from None
    try:
        if os.path.getsize(path) == 0:
            raise UserError(f"{path} is empty; download or write it again")
        av.logging.set_level(av.logging.PANIC)  # pyright: ignore[reportPrivateImportUsage]  # problems are reported as errors
        return av.open(path)
    except FileNotFoundError:
        raise UserError(dead_link(path) or f"{path} does not exist; check the path") from None
    except PermissionError as error:
        raise UserError(unreadable(path, error)) from None
    except av.error.FFmpegError as error:  # pyright: ignore[reportAttributeAccessIssue]
        raise UserError(f"{path} is not a valid video ({_said(error)}); repair or remove it") from None


def _stream(container: Any, path: str) -> Any:
    if not container.streams.video:
        kinds = sorted({stream.type for stream in container.streams})
        raise UserError(f"{path} has no pictures, only {' and '.join(kinds) or 'nothing'}; give a video")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise UserError(f"{path} is written with a codec that PyAV lacks; convert it, for example to H.264 in .mp4")
    return stream


def _decoded(container: Any, stream: Any, path: str) -> Iterator[Any]:
    import av

    count = 0
    try:
        for frame in container.decode(stream):
            yield frame
            count += 1
    except av.error.DecoderNotFoundError:  # pyright: ignore[reportAttributeAccessIssue]
        raise UserError(f"{path} is written with a codec that PyAV lacks; convert it, for example to H.264 in .mp4") from None
    except av.error.FFmpegError as error:  # pyright: ignore[reportAttributeAccessIssue]
        raise UserError(f"{path} cannot be decoded after frame {count} ({_said(error)}); repair or remove it") from None


def _said(error: Exception) -> str:
    return (getattr(error, "strerror", "") or str(error)).lower()


class FileVideos(Labelled):
    """Videos in files or in folders of frames, decoded on request.

    Frames of a file are decoded in order. The decoder stays open where they ended, so the next window of a long video costs only
    its own frames, and a video of any length takes only the memory of a window.

    Args:
      paths: N files or folders.
      facts: the facts of each.
      size: the size that frames are scaled to, as in `read_frames`; 0 if all have one size.
      channels: 1 or 3.
      heads, answers: as in `Labelled`.
      root: the folder that paths are relative to in the fingerprint.
      rate: frames per second for folders of frames.

    Raises:
      UserError: frames of several sizes and no size to scale them to; from `take`, a file that can no longer be read.
    """

    def __init__(
        self, paths: Sequence[str], facts: Sequence[Facts], size: int, channels: int,
        heads: Iterable[Head] = (), answers: np.ndarray | None = None, *, root: str = "", rate: float = 0.0,
    ):  # fmt: skip
        super().__init__([fact.frames for fact in facts], heads, answers)
        self.paths, self._size, self._channels, self._root = tuple(paths), size, channels, root
        self._rates = [fact.rate or rate for fact in facts]
        own = {(fact.height, fact.width) for fact in facts}
        if not size and len(own) > 1:
            raise UserError(f"videos have frames of {len(own)} sizes, such as {' and '.join(map(str, sorted(own)[:2]))}; set image_size")
        self.shape = (*((size, size) if size else own.pop()), channels)
        self._lock, self._readers = threading.Lock(), {}

    def at(self, index: int) -> str:
        """What to call a video in messages: its file."""
        return self.paths[index]

    def rate_of(self, index: int) -> float:
        """Frames per second; 0 if unknown."""
        return self._rates[index]

    def take(self, index: int, places: np.ndarray) -> np.ndarray:
        """Decodes the frames of a video at ascending indices."""
        found, path = np.empty((len(places), *self.shape), np.uint8), self.paths[index]
        if os.path.isdir(os.path.expanduser(path)):
            files = frame_files(os.path.expanduser(path))
            for row, place in enumerate(places):
                if place >= len(files):
                    raise UserError(f"{path} has fewer frames than when it was checked; restore it")
                found[row] = read_image(files[place], self._size, self._channels)
            return found
        with self._lock:
            at = max((at for other, at in self._readers if other == index and at <= places[0]), default=0)
            frames = self._readers.pop((index, at), None)
        frames = read_frames(path, self._size, self._channels) if frames is None else frames
        wanted = dict(zip(places.tolist(), range(len(places))))
        for place in range(at, int(places[-1]) + 1):
            frame = next(frames, None)
            if frame is None:
                raise UserError(f"{path} has fewer frames than when it was checked; restore it")
            if place in wanted:
                found[wanted[place]] = frame
        with self._lock:
            self._readers[index, int(places[-1]) + 1] = frames
            while len(self._readers) > OPEN:
                self._readers.pop(next(iter(self._readers)))
        return found

    def fingerprint(self) -> str:
        """A hash of each file's relative path and size in bytes (of a folder, its number of frames), the labels and the shape."""
        listing = []
        for path, count in zip(self.paths, self.counts):
            full = os.path.expanduser(path)
            listing.append((name_of(full, self._root), int(count) if os.path.isdir(full) else os.path.getsize(full)))
        return repr((self.shape, self.heads, self.answers.tolist(), listing))
