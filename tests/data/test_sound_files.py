"""Sound files of every kind and rate; one clear line for each bad one; manifests and LibriSpeech's folders."""

import json
import struct

import numpy as np
import pytest
import soundfile

from seqjax.data.pipeline.speech import collate_speech
from seqjax.data.readers.manifests import read_manifest
from seqjax.data.readers.sounds import SoundFile, decode_sound, find_sounds, read_sound, read_sounds, write_sound
from seqjax.errors import UserError

TONE = (8000 * np.sin(2 * np.pi * 200 * np.arange(4000) / 8000)).astype(np.int16)


@pytest.mark.parametrize("ending", ["wav", "flac", "aiff", "au"])
def test_lossless_files_come_back(ending, tmp_path):
    path = write_sound(tmp_path / f"tone.{ending}", TONE, 8000)
    np.testing.assert_array_equal(read_sound(path, 8000), TONE)
    np.testing.assert_array_equal(decode_sound(path.read_bytes(), "tone", 8000), TONE)


@pytest.mark.parametrize("ending", ["ogg", "mp3"])
def test_lossy_files_are_near(ending, tmp_path):
    found = read_sound(write_sound(tmp_path / f"tone.{ending}", np.tile(TONE, 4), 8000), 8000).astype(float)
    spectrum = np.abs(np.fft.rfft(found[2000:12000]))
    assert abs(len(found) - 16000) < 2500 and np.argmax(spectrum) == 250 and 0.8 < found[2000:12000].std() / TONE.std() < 1.2


@pytest.mark.parametrize("rate, kind", [(16000, "PCM_16"), (44100, "PCM_24"), (4000, "FLOAT"), (8000, "PCM_U8")])
def test_any_rate_and_format_becomes_one(rate, kind, tmp_path):
    """The tone stays where it was; the number of samples is exact, also before the file is read."""
    times = np.arange(rate // 2 + 7) / rate
    soundfile.write(str(tmp_path / "a.wav"), 0.25 * np.sin(2 * np.pi * 200 * times), rate, subtype=kind)
    found = read_sound(tmp_path / "a.wav", 8000)
    assert len(found) == -(-len(times) * 8000 // rate) == len(SoundFile.of(tmp_path / "a.wav", 8000))
    expected = 0.25 * 32768 * np.sin(2 * np.pi * 200 * np.arange(len(found)) / 8000)
    np.testing.assert_allclose(found[200:-200], expected[200:-200], atol=260 if kind == "PCM_U8" else 30)


def test_channels(tmp_path):
    both = write_sound(tmp_path / "both.wav", np.stack([TONE, 0 * TONE], axis=1), 8000)
    np.testing.assert_array_equal(read_sound(both, 8000, "first"), TONE)
    np.testing.assert_allclose(read_sound(both, 8000, "mix"), TONE / 2, atol=1)


def wav_header(rate, samples):
    data = TONE[:samples].tobytes()
    return b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16) + \
        b"data" + struct.pack("<I", len(data)) + data  # fmt: skip


def test_bad_files_are_one_line_each(tmp_path):
    """All of them at once, with their names."""
    flac = write_sound(tmp_path / "cut.flac", np.random.default_rng(0).integers(-9000, 9000, 40000).astype(np.int16), 8000)
    flac.write_bytes(flac.read_bytes()[:30000])
    for name in ("cut.wav", "cut.mp3"):
        data = write_sound(tmp_path / name, np.tile(TONE, 4), 8000).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
    write_sound(tmp_path / "stereo.wav", np.stack([TONE, TONE], axis=1), 8000)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "noise.wav").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "silent.wav").write_bytes(wav_header(8000, 0))
    (tmp_path / "norate.wav").write_bytes(wav_header(0, 100))
    (tmp_path / "film.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(400))
    soundfile.write(str(tmp_path / "nan.wav"), np.full(100, np.nan), 8000, subtype="FLOAT")
    wrong = {
        "cut.flac": "is damaged", "cut.wav": "is truncated: 16,", "cut.mp3": "is damaged: ",
        "stereo.wav": "has 2 channels; set channels=mix", "empty.wav": "is empty, 0 bytes",
        "noise.wav": "cannot be read as sound", "silent.wav": "has no samples", "norate.wav": "rate", "none.wav": "does not exist",
        "film.m4a": "cannot be read as sound", "nan.wav": "not numbers", ".": "is a folder",
    }  # fmt: skip
    for name, words in wrong.items():
        with pytest.raises(UserError) as raised:
            read_sound(tmp_path / name, 8000)
        assert words in str(raised.value) and str(tmp_path / name) in str(raised.value) and "\n" not in str(raised.value), name
    with pytest.raises(UserError) as raised:
        read_sounds([str(tmp_path / name) for name in ("empty.wav", "stereo.wav", "none.wav")], "all.tsv", 8000, "refuse")
    assert str(raised.value).startswith("all.tsv: 3 faults\n") and str(raised.value).count("\n") == 3


def test_soundfile_is_optional(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UserError, match=r"pip install -e '.\[speech\]'"):
        read_sound(tmp_path / "a.wav", 8000)


def test_a_file_that_changed_is_told(tmp_path):
    sound = SoundFile.of(write_sound(tmp_path / "a.wav", TONE, 8000), 8000)
    np.testing.assert_array_equal(sound.read(), TONE)
    write_sound(tmp_path / "a.wav", TONE[:99], 8000)
    with pytest.raises(UserError, match="has 99 samples, and had 4,000"):
        sound.read()


def test_folders_of_sounds(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("b.wav", "in/a.FLAC"):
        write_sound(tmp_path / name.lower(), TONE, 8000).rename(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no sound")
    assert find_sounds(tmp_path) == [str(tmp_path / "b.wav"), str(tmp_path / "in" / "a.FLAC")]
    with pytest.raises(UserError, match="has no sound files"):
        find_sounds(_empty(tmp_path))


def _empty(folder):
    (folder / "nothing").mkdir()
    return folder / "nothing"


# Manifests.


def test_manifests_of_every_form(tmp_path):
    """Common Voice's table with its clips, JSON lines with NeMo's names, a table with fields of one's own; white space is single."""
    (tmp_path / "clips").mkdir()
    for name in "ab":
        write_sound(tmp_path / "clips" / f"{name}.wav", TONE, 8000)
    (tmp_path / "train.tsv").write_text("client_id\tpath\tsentence\tage\nx\ta.wav\tHello  there\t\ny\tb.wav\tyes\t\n")
    rows = [{"audio_filepath": f"clips/{name}.wav", "duration": 0.5, "text": text} for name, text in (("a", "Hello there"), ("b", "yes"))]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "own.csv").write_text("what,where\nHello there,clips/a.wav\nyes,clips/b.wav\n")
    fields = {"audio_field": "where", "text_field": "what"}
    for name, how in (("train.tsv", {}), ("train.jsonl", {}), ("own.csv", fields)):
        found = read_manifest(tmp_path / name, **how)
        assert found["transcript"] == ("Hello there", "yes") and found["file"] == tuple(str(tmp_path / "clips" / f"{n}.wav") for n in "ab")
    assert read_manifest(tmp_path / "train.tsv").places.at(1) == f"{tmp_path}/train.tsv line 3"


def test_a_manifest_that_names_what_is_not_there(tmp_path):
    write_sound(tmp_path / "a.wav", TONE, 8000)
    (tmp_path / "a.csv").write_text("audio,text\na.wav,yes\nb.wav,no\nc.wav,no\n")
    with pytest.raises(UserError) as raised:
        read_manifest(tmp_path / "a.csv")
    assert "2 faults" in str(raised.value) and "a.csv line 3: there is no sound 'b.wav'" in str(raised.value)
    (tmp_path / "b.csv").write_text("audio,words\na.wav,yes\n")
    with pytest.raises(UserError, match="words"):
        read_manifest(tmp_path / "b.csv")
    with pytest.raises(UserError, match="is not a manifest of sounds"):
        read_manifest(tmp_path / "a.wav")


def test_librispeechs_folders(tmp_path):
    """Transcripts beside sounds, at any depth; sounds without a transcript and missing sounds are both reported."""
    for chapter, names in (("19/198", "ab"), ("26/495", "c")):
        (tmp_path / chapter).mkdir(parents=True)
        for name in names:
            write_sound(tmp_path / chapter / f"{name}.flac", TONE, 8000)
        text = "".join(f"{name} A  {name.upper()}\n" for name in names)
        (tmp_path / chapter / f"{chapter.replace('/', '-')}.trans.txt").write_text(text)
    found = read_manifest(tmp_path)
    assert found["transcript"] == ("A A", "A B", "A C") and found["file"][2] == str(tmp_path / "26/495/c.flac")
    assert found.places.at(1).endswith("19-198.trans.txt line 2")
    (tmp_path / "19/198/a.flac").rename(tmp_path / "19/198/z.flac")
    with pytest.raises(UserError) as raised:
        read_manifest(tmp_path)
    assert "line 1: there is no sound 'a' beside it" in str(raised.value) and "z.flac has no transcript" in str(raised.value)
    with pytest.raises(UserError, match="no \\*.trans.txt below"):
        read_manifest(_empty(tmp_path / "26"))


def test_batches_of_files_and_arrays_are_the_same(tmp_path):
    """Also read by threads; labels that cannot fit are cut, and padded rows are marked."""
    sounds = [TONE[: 100 * (i + 1)] for i in range(5)]
    files = [SoundFile.of(write_sound(tmp_path / f"{i}.wav", sound, 8000), 8000) for i, sound in enumerate(sounds)]
    labels, needed = [np.arange(1, i + 2) for i in range(5)], [i + 1 for i in range(5)]
    found = [
        collate_speech(each, labels, needed, lambda samples: 3, workers=workers)(np.array([4, 0, 2]), 4, 500)
        for each, workers in ((sounds, 0), (files, 0), (files, 2))
    ]
    for other in found[1:]:
        for a, b in zip(found[0], other):
            np.testing.assert_array_equal(a, b)
    batch = found[0]
    assert batch.lengths.tolist() == [500, 100, 300, 0] and batch.label_lengths.tolist() == [3, 1, 3, 0]
    assert batch.needed.tolist() == [5, 1, 3, 1] and batch.labels.tolist() == [[1, 2, 3], [1, 0, 0], [1, 2, 3], [0, 0, 0]]
    np.testing.assert_array_equal(batch.samples[2, :300], TONE[:300])
    assert not batch.samples[2, 300:].any()
