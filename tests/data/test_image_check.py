"""Image files are checked before training: every bad one is named, lost content is found, and valid ones are cached."""

import os
import pathlib
import struct
import zlib

import numpy as np
import pytest

from seqjax.data import image_check
from seqjax.data.image_check import check_files
from seqjax.data.images import load_images
from seqjax.data.transforms.pixels import examine_image, read_image
from seqjax.errors import UserError

Image = pytest.importorskip("PIL.Image")
RANDOM = np.random.default_rng(0)


def noise(*shape, high=256, dtype=np.uint8):
    return RANDOM.integers(0, high, shape).astype(dtype)


def deep_png(pixels):
    """A PNG of 16 bits a channel, which Pillow itself cannot write in colour."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = pixels.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture
def folder(tmp_path):
    """Two classes of six valid images."""
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for n in range(6):
            Image.fromarray(noise(8, 8, 3)).save(tmp_path / "pets" / name / f"{n}.png")
    return tmp_path / "pets"


def load(folder, **settings):
    return load_images("file", path=str(folder), image_size=4, **settings)


def message(folder, **settings):
    with pytest.raises(UserError) as error:
        load(folder, **settings)
    return str(error.value)


# What is lost


def test_black_on_transparent_is_refused_and_what_keeps_its_colours_is_not(tmp_path):
    path, shape = tmp_path / "a.png", noise(8, 8)
    for colour in ([0, 0, 0], [255, 255, 255], [9, 60, 200]):
        Image.fromarray(np.dstack([np.full((8, 8, 3), colour, np.uint8), shape])).save(path)
        assert np.ptp(read_image(path, 0, 3), axis=(0, 1)).tolist() == [0, 0, 0]  # what training would see
        for channels in (1, 3):
            with pytest.raises(UserError, match="nearly of one colour except for its transparency.*-background white"):
                examine_image(path, channels)
        assert examine_image(path, 4) is False
    Image.fromarray(np.dstack([noise(8, 8), shape])).save(path)
    assert examine_image(path, 3) is True
    Image.fromarray(np.dstack([np.zeros((8, 8), np.uint8), shape])).save(path)  # grey and alpha
    with pytest.raises(UserError, match="transparency"):
        examine_image(path, 3)
    Image.fromarray(np.dstack([noise(8, 8, 3), np.full((8, 8), 255, np.uint8)])).save(path)
    assert examine_image(path, 3) is False  # opaque
    Image.fromarray(noise(8, 8, 3)).quantize(8).save(path, transparency=bytes([0, 255, 128]))
    assert examine_image(path, 3) is True
    black = Image.new("P", (8, 8))
    black.putpalette([0, 0, 0] * 64)
    black.putdata((shape.ravel() // 4).tolist())
    black.save(path, transparency=bytes(range(0, 256, 4)))
    with pytest.raises(UserError, match="transparency"):
        examine_image(path, 3)


def test_sixteen_bits_with_small_values_are_refused_and_others_are_not(tmp_path):
    path = tmp_path / "a.png"
    for channels in (1, 3, 4):
        for top, lost in ((17, False), (300, True), (60_000, False)):  # 17 values of 16 bits may be all that there is to see
            pixels = noise(9, 9, channels, high=top, dtype=np.uint16)
            pixels[0, 0], pixels[0, 1] = 0, top - 1
            if channels == 4:
                pixels[..., 3] = 65535
            path.write_bytes(deep_png(pixels))
            kept = read_image(path, 0, 3)
            assert np.array_equal(kept, (pixels[..., :3] >> 8).repeat(4 - min(channels, 3), 2)[..., :3])
            if lost or top == 17:
                assert np.ptp(kept) <= 1
                with pytest.raises(UserError, match="16 bits a channel.*-auto-level"):
                    examine_image(path, 3)
            else:
                assert examine_image(path, 3) is False
    few = noise(9, 9, 1, high=10, dtype=np.uint16)
    path.write_bytes(deep_png(few))
    assert examine_image(path, 3) is False  # too few levels to show anything
    Image.fromarray(noise(9, 9, high=200, dtype=np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match="16 bits"):
        examine_image(tmp_path / "a.tif", 3)


@pytest.mark.parametrize("colour", [(0, 0, 0), (3, 200, 77)])
@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp", ".gif", ".webp", ".tif"])
def test_an_image_of_one_colour_is_sound(tmp_path, colour, ending):
    Image.new("RGB", (9, 9), colour).save(tmp_path / f"a{ending}")
    assert examine_image(tmp_path / f"a{ending}", 3) is False


# All bad files


def spoil(folder):
    """One fault of each kind, and its message."""
    (folder / "cat/cut.png").write_bytes((folder / "cat/0.png").read_bytes()[:70])
    (folder / "dog/dead.png").symlink_to("nowhere.png")
    (folder / "dog/notes.txt").write_text("about dogs")
    (folder / "cat/text.jpg").write_text("no image")
    Image.fromarray(np.dstack([np.zeros((8, 8, 3), np.uint8), noise(8, 8)])).save(folder / "dog/clear.png")
    return {
        "cat/cut.png": "is not a valid image",
        "dog/dead.png": "is a link to nowhere.png, which does not exist",
        "dog/notes.txt": "is not an image by its name",
        "cat/text.jpg": "not a format that Pillow knows",
        "dog/clear.png": "nearly of one colour",
    }


@pytest.mark.parametrize("workers", [0, 3])
def test_all_bad_files_are_named_at_once(folder, workers):
    bad = spoil(folder)
    lines = message(folder, workers=workers).split("\n")
    assert lines[0].endswith(": 5 faults") and "bad_files='leave_out'" in lines[0]
    assert len(lines) == 6
    for name, says in bad.items():
        assert sum(f"{folder / name} " in line and says in line for line in lines) == 1, name


def test_one_bad_file_is_one_line(folder):
    (folder / "cat/3.png").write_bytes(b"")
    assert message(folder) == (
        f"{folder}/cat/3.png is not a valid image (not a format that Pillow knows); repair or remove it; "
        "or leave it out with bad_files='leave_out'"
    )


def test_bad_files_are_left_out_and_recorded(folder):
    whole = load(folder, validation_fraction=0.25)
    bad = spoil(folder)
    data = load(folder, bad_files="leave_out", validation_fraction=0.25)
    assert data.notes[0] == "5 of 17 image files are left out:" and len(data.notes) == 6
    for name in bad:
        assert sum(str(folder / name) in note for note in data.notes) == 1
    assert data.fingerprint == whole.fingerprint  # the sound ones are the same, and so is what is held out of them
    assert {part: len(images) for part, images in data.parts.items()} == {"train": 9, "validation": 3}
    for part, images in whole.parts.items():
        every = np.arange(len(images))
        assert all(np.array_equal(*pair) for pair in zip(images.take(every), data.parts[part].take(every)))


def test_a_class_whose_images_are_all_bad_cannot_be_left_out(folder):
    for path in (folder / "dog").iterdir():
        path.write_text("no image")
    assert "no training image of the class dog is valid" in message(folder, bad_files="leave_out")


def test_more_than_twenty_are_counted(tmp_path):
    for n in range(30):
        (tmp_path / f"{'ab'[n % 2]}").mkdir(exist_ok=True)
        (tmp_path / f"{'ab'[n % 2]}/{n}.png").write_text("no image")
    lines = message(tmp_path).split("\n")
    assert len(lines) == 22 and "30 faults" in lines[0] and lines[-1].strip() == "... and 10 more"


def test_transparency_is_noted(folder):
    Image.fromarray(noise(8, 8, 4)).save(folder / "cat/clear.png")
    assert load(folder).notes == ("1 images have transparency, which is dropped",)


def test_a_folder_that_is_linked_into_itself_is_refused(folder):
    (folder / "cat/again").symlink_to(folder / "cat")
    assert "cat/again is a link to a folder that it is in" in message(folder)
    (folder / "cat/again").unlink()
    (folder / "cat/other").symlink_to(folder / "dog")
    assert len(load(folder).parts["train"]) + len(load(folder).parts["validation"]) == 18


def test_a_dead_link_to_a_class_folder_is_named(folder):
    (folder / "bird").symlink_to("nowhere")
    assert "bird is a link to nowhere, which does not exist" in message(folder)


# What is remembered


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are decoded."""
    names, real = [], image_check.examine_image

    def examine(path, channels):
        names.append(os.path.basename(path))
        return real(path, channels)

    monkeypatch.setattr(image_check, "examine_image", examine)
    return names


def test_sound_files_are_not_decoded_again_unless_they_change(folder, tmp_path, decoded):
    cache = str(tmp_path / "cache" / "images.npz")
    paths = [str(path) for path in sorted(folder.rglob("*.png"))]
    Image.fromarray(noise(8, 8, 4)).save(paths[1])

    def check():
        decoded.clear()
        found = check_files(paths, cache=cache, workers=2)
        return found.faults, found.transparent, sorted(decoded), found.notes

    assert check() == ({}, 1, sorted(map(os.path.basename, paths)), ())
    assert check() == ({}, 1, [], ())
    stat = os.stat(paths[4])
    with open(paths[4], "ab") as file:
        file.write(b"more")  # another size
    os.utime(paths[4], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert check()[2] == [os.path.basename(paths[4])]
    data = bytearray(pathlib.Path(paths[5]).read_bytes())
    data[60] ^= 1
    pathlib.Path(paths[5]).write_bytes(data)  # another time
    os.utime(paths[5], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    faults, _, names, _ = check()
    assert list(faults) == [paths[5]] and names == [os.path.basename(paths[5])]
    assert check()[0] == faults  # a bad one is looked at each time
    os.rename(paths[0], paths[0] + ".png")  # another name
    paths[0] += ".png"
    assert check()[2] == sorted([os.path.basename(paths[0]), os.path.basename(paths[5])])
    os.truncate(cache, 40)
    assert len(check()[2]) == len(paths)
    assert check()[2] == [os.path.basename(paths[5])]


def test_what_is_remembered_holds_through_load_images(folder, tmp_path, decoded):
    load(folder, cache=str(tmp_path / "cache"))
    assert len(decoded) == 12
    load(folder, cache=str(tmp_path / "cache"), workers=2)
    assert len(decoded) == 12
    load(folder)
    assert len(decoded) == 24


def test_a_check_that_is_interrupted_is_remembered(folder, tmp_path, decoded, monkeypatch):
    paths = [str(path) for path in sorted(folder.rglob("*.png"))]
    monkeypatch.setattr(image_check, "CHUNK", 4)

    def stop(done, total):
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_files(paths, cache=str(tmp_path / "a.npz"), progress=stop)
    decoded.clear()
    check_files(paths, cache=str(tmp_path / "a.npz"))
    assert decoded == [os.path.basename(path) for path in paths[8:]]


def test_a_cache_that_cannot_be_written_is_noted(folder, tmp_path):
    (tmp_path / "file").write_text("")
    data = load(folder, cache=str(tmp_path / "file" / "below"))
    assert "cannot be written" in data.notes[0] and "checked again" in data.notes[0]


def test_progress_is_told(folder, monkeypatch):
    told = []
    monkeypatch.setattr(image_check, "CHUNK", 5)
    load(folder, progress=lambda *numbers: told.append(numbers), workers=2)
    assert told == [(5, 12), (10, 12), (12, 12)]


def test_settings_without_effect_are_refused(tmp_path, folder):
    np.savez(tmp_path / "a.npz", images=np.zeros((20, 3, 3), np.uint8), labels=np.arange(20) % 2)
    assert "is not image files, for which bad_files is" in message(tmp_path / "a.npz", bad_files="leave_out")
    assert "is not a folder of images, for which class_levels is" in message(tmp_path / "a.npz", class_levels=2)
    assert "is not a table of images, for which label_field and header are" in message(folder, label_field="a", header=False)
    assert "bad_files='skip' is unknown" in message(folder, bad_files="skip")
    with pytest.raises(UserError, match="bad_files='leave_out' is for source='file' only"):
        load_images("embedded", name="digits", bad_files="leave_out")
