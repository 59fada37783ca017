"""Video files, folders of frames, tables and arrays: the frames that were written, and one line for each fault."""

import builtins
import wave

import numpy as np
import pytest
from PIL import Image

from seqjax.data.readers.videos import FileVideos, examine_video, read_frames
from seqjax.data.transforms.pixels import read_image
from seqjax.data.video import load_videos
from seqjax.errors import UserError

av = pytest.importorskip("av")


def write(path, frames, codec="ffv1", rate=10, pix_fmt="bgr0"):
    """Frames uint8 (T, H, W, 3); ffv1 loses nothing."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return path


def drawn(count, seed=0, height=12, width=16):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def folder_of_frames(path, frames):
    path.mkdir(parents=True)
    for i, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(path / f"frame{i}.png")
    return path


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_frames_are_those_that_were_written(tmp_path, kind):
    frames = drawn(23)
    path = write(tmp_path / "a.mkv", frames) if kind == "file" else folder_of_frames(tmp_path / "a", frames)
    facts = examine_video(path)
    assert facts == (23, 10.0 if kind == "file" else 0.0, 12, 16)
    np.testing.assert_array_equal(np.stack([*read_frames(str(path))]), frames)
    videos = FileVideos([str(path)], [facts], 0, 3, rate=5.0)
    assert videos.shape == (12, 16, 3) and videos.rate_of(0) == (10.0 if kind == "file" else 5.0)
    rng = np.random.default_rng(1)
    for _ in range(12):  # back and forth, with decoders that were left open at all kinds of places
        places = np.sort(rng.choice(23, rng.integers(1, 8), replace=False))
        np.testing.assert_array_equal(videos.take(0, places), frames[places])


def test_windows_of_a_long_video_decode_each_frame_once(tmp_path, monkeypatch):
    path, seen = write(tmp_path / "a.mkv", drawn(20)), []
    videos = FileVideos([str(path)], [examine_video(path)], 0, 1)
    from seqjax.data.readers import videos as reader

    decoded = reader._decoded
    monkeypatch.setattr(reader, "_decoded", lambda *args: (seen.append(1) or frame for frame in decoded(*args)))
    for first in range(0, 20, 5):
        videos.take(0, np.arange(first, first + 5))
    assert len(seen) == 20


def test_frames_are_scaled_as_images_are(tmp_path):
    frames = drawn(2)
    path = write(tmp_path / "a.mkv", frames)
    Image.fromarray(frames[1]).save(tmp_path / "1.png")
    found = FileVideos([str(path)], [examine_video(path)], 6, 3).take(0, np.array([1]))
    np.testing.assert_array_equal(found[0], read_image(tmp_path / "1.png", 6, 3))


# Bad files


def _broken(tmp_path):
    """name -> (file, words that its error has)."""
    sound = write(tmp_path / "sound.avi", drawn(20), "mpeg4", pix_fmt="yuv420p").read_bytes()
    mp4 = write(tmp_path / "sound.mp4", drawn(20), "mpeg4", pix_fmt="yuv420p").read_bytes()
    with wave.open(str(tmp_path / "only.avi"), "w") as audio:
        audio.setnchannels(1), audio.setsampwidth(2), audio.setframerate(8000), audio.writeframes(bytes(1000))
    contents = {
        "empty.mp4": (b"", "is empty"),
        "text.mp4": (b"not a video " * 100, "is not a valid video"),
        "half.mp4": (mp4[: len(mp4) // 2], "is not a valid video"),
        "codec.avi": (sound.replace(b"FMP4", b"ZZQQ"), "codec that PyAV lacks"),
        "torn.avi": (sound[:5700] + bytes(200) + b"?" * 300 + sound[6200:], "cannot be decoded after frame"),
    }
    for name, (content, _) in contents.items():
        (tmp_path / name).write_bytes(content)
    found = {name: (tmp_path / name, words) for name, (_, words) in contents.items()}
    (tmp_path / "none").mkdir()
    mixed = folder_of_frames(tmp_path / "mixed", drawn(2))
    Image.fromarray(drawn(1, height=5)[0]).save(mixed / "frame3.png")
    torn = folder_of_frames(tmp_path / "torn", drawn(2))
    (torn / "frame2.png").write_bytes((torn / "frame2.png").read_bytes()[:200])
    return found | {
        "only.avi": (tmp_path / "only.avi", "has no pictures, only audio"),
        "none": (tmp_path / "none", "has no images in it"),
        "mixed": (mixed, "frames of 5 x 16 and 12 x 16"),
        "torn": (torn, "frame2.png is not a valid image"),
        "gone.mp4": (tmp_path / "gone.mp4", "does not exist"),
    }


def test_each_bad_video_has_one_clear_line(tmp_path):
    for name, (path, words) in _broken(tmp_path).items():
        with pytest.raises(UserError) as error:
            examine_video(path)
        said = str(error.value)
        assert words in said and name in said and "\n" not in said and "Errno" not in said, (name, said)


def test_bad_videos_stop_the_run_all_at_once_or_are_left_out(tmp_path):
    bad = _broken(tmp_path / "bad") if (tmp_path / "bad").mkdir() is None else {}
    for i, way in enumerate(("left", "right") * 6):
        folder_of_frames(tmp_path / "set" / way / f"{i}", drawn(3, i))
    for name in ("empty.mp4", "half.mp4"):
        (tmp_path / "set" / "left" / name).write_bytes(bad[name][0].read_bytes())
    (tmp_path / "set" / "left" / "notes.txt").touch()
    with pytest.raises(UserError) as error:
        load_videos("file", path=str(tmp_path / "set"))
    said = str(error.value).split("\n")
    assert len(said) == 4 and "bad_files='leave_out'" in said[0] and any("notes.txt is not a video" in line for line in said)
    data = load_videos("file", path=str(tmp_path / "set"), bad_files="leave_out", cache=str(tmp_path / "cache"))
    assert sum(map(len, data.parts.values())) == 12 and "3 of 15 videos are left out:" in data.notes
    again = load_videos("file", path=str(tmp_path / "set"), bad_files="leave_out", cache=str(tmp_path / "cache"))
    assert again.fingerprint == data.fingerprint


def test_checked_videos_are_remembered_until_they_change(tmp_path, monkeypatch):
    from seqjax.data import video_check

    path, seen = write(tmp_path / "a.mkv", drawn(4)), []
    examine = video_check.examine_video
    monkeypatch.setattr(video_check, "examine_video", lambda path: seen.append(path) or examine(path))
    cache = str(tmp_path / "cache.json")
    for expected in (1, 1):
        facts, faults, notes = video_check.check_videos([str(path)], cache=cache)
        assert facts[str(path)].frames == 4 and not faults and not notes and len(seen) == expected
    write(path, drawn(5))
    assert video_check.check_videos([str(path)], cache=cache, workers=2)[0][str(path)].frames == 5 and len(seen) == 2
    (tmp_path / "cache.json").write_text("{")
    assert video_check.check_videos([str(path)], cache=cache)[0][str(path)].frames == 5 and len(seen) == 3


def test_without_pyav(tmp_path, monkeypatch):
    path, found = write(tmp_path / "a.mkv", drawn(2)), builtins.__import__

    def without(name, *args, **kwargs):
        if name == "av":
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"need PyAV.*\[video\].*or give folders of frames"):
        examine_video(path)


# Sets


def test_parts_classes_and_labels_of_folders(tmp_path):
    for i, (part, way) in enumerate([(part, way) for part in ("Train", "val", "test") for way in ("left", "right")] * 2):
        folder_of_frames(tmp_path / part / way / f"{i}", drawn(3, i))
    data = load_videos("file", path=str(tmp_path), image_size=8)
    assert {part: len(videos) for part, videos in data.parts.items()} == {"train": 4, "validation": 4, "test": 4}
    assert data.classes == ("left", "right") and data.parts["test"].answers.tolist() == [[0], [0], [1], [1]]
    assert data.parts["train"].shape == (8, 8, 3)
    before, moved = data.fingerprint, tmp_path.rename(tmp_path.parent / f"{tmp_path.name}_moved")
    assert load_videos("file", path=str(moved), image_size=8).fingerprint == before
    folder_of_frames(moved / "test" / "lift" / "1", drawn(3))
    with pytest.raises(UserError, match="lift is not a class of the training part .nearest: left."):
        load_videos("file", path=str(moved))


def test_all_faults_of_a_table_are_listed_with_their_lines(tmp_path):
    for name in "ab":
        folder_of_frames(tmp_path / name, drawn(3))
    (tmp_path / "train.csv").write_text("video,who,way\na,ada,left\nb,ben,right\n")
    (tmp_path / "test.csv").write_text("video,who,way\na,ada,right\nc,ben,right\nb,bem,right\n")
    how = {"path": str(tmp_path / "train.csv"), "label_field": "who,way"}
    with pytest.raises(UserError) as error:
        load_videos("file", test_path=str(tmp_path / "test.csv"), **how)
    said = str(error.value)
    assert "2 faults" in said and "line 3: there is no video 'c'" in said and "line 4: the label 'bem'" in said and "nearest: ben" in said


def test_arrays_are_read_with_frames_first_where_they_are_published_so(tmp_path):
    frames = drawn(6 * 4)[..., 0].reshape(6, 4, 12, 16)
    np.save(tmp_path / "own.npy", frames)
    np.save(tmp_path / "mnist_test_seq.npy", frames)
    how = {"labelled": False, "test_path": str(tmp_path / "mnist_test_seq.npy")}
    with pytest.raises(UserError, match=r"frames of test|set task='forecast'|shape"):
        load_videos("file", path=str(tmp_path / "own.npy"), **(how | {"labelled": True}))
    data = load_videos("file", path=str(tmp_path / "own.npy"), **how)
    np.testing.assert_array_equal(data.parts["test"].take(1, np.arange(6))[..., 0], frames[:, 1])
    assert len(data.parts["test"]) == 4 and sum(len(data.parts[part]) for part in ("train", "validation")) == 6
    np.save(tmp_path / "own.npy", frames / 255)
    with pytest.raises(UserError, match="give uint8"):
        load_videos("file", path=str(tmp_path / "own.npy"), labelled=False)
    (tmp_path / "own.npy").write_bytes(b"")
    with pytest.raises(UserError, match="own.npy cannot be read as an array"):
        load_videos("file", path=str(tmp_path / "own.npy"), labelled=False)


def test_moving_mnist_from_idx_files(tmp_path):
    rng = np.random.default_rng(0)
    for part, number in (("train", 40), ("t10k", 20)):
        images, labels = rng.integers(1, 256, (number, 28, 28)).astype(np.uint8), np.arange(number) % 10
        head = b"".join(size.to_bytes(4, "big") for size in (number, 28, 28))
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3]) + head + images.tobytes())
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1]) + head[:4] + labels.astype(np.uint8).tobytes())
    data = load_videos("file", name="moving_mnist", path=str(tmp_path), labelled=False)
    assert {part: len(videos) for part, videos in data.parts.items()} == {
        "train": 10_000,
        "validation": 500,
        "test": 10_000,
    }
    assert data.parts["train"].shape == (64, 64, 1) and "made from MNIST's test digits" in data.notes[-1]
    np.save(tmp_path / "mnist_test_seq.npy", np.zeros((20, 3, 64, 64), np.uint8))
    data = load_videos("file", name="moving_mnist", path=str(tmp_path), labelled=False, test_path=str(tmp_path / "mnist_test_seq.npy"))
    assert len(data.parts["test"]) == 3 and data.parts["test"].counts.tolist() == [20] * 3
    with pytest.raises(UserError, match="has no idx files"):
        load_videos("file", name="moving_mnist", path=str(tmp_path.parent), labelled=False)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"source": "file"}, "needs a path"),
        ({"source": "file", "path": "/nowhere"}, "/nowhere does not exist"),
        ({"source": "embedded", "name": "moving_digit"}, "nearest: moving_digits"),
        ({"source": "tfds", "name": "ucf101"}, "choose one of moving_mnist"),
        ({"source": "embedded", "name": "moving_digits", "image_size": 8}, "image_size=8 is for source='file' only"),
        ({"source": "embedded", "name": "moving_digits", "channels": 2}, "channels"),
    ],
)
def test_what_is_refused(settings, words):
    with pytest.raises(UserError, match=words):
        load_videos(**settings)
