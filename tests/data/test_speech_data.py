"""Morse code, spoken digits and files as datasets: content, parts and refusals."""

import json
import tarfile

import numpy as np
import pytest

from seqjax.data import speech
from seqjax.data.readers import morse
from seqjax.data.readers.sounds import write_sound
from seqjax.data.readers.spoken_digits import Joining, join_digits, make_digits, official_split, read_digits
from seqjax.data.speech import load_speech
from seqjax.errors import UserError

# Morse code.


def test_codes_are_distinct_and_of_the_standard():
    assert len(set(morse.CODES.values())) == len(morse.CODES) == 38
    dots = sum(length for _, length in zip(*morse.elements("PARIS"))) + 7
    assert dots == 50 and (morse.CODES["S"], morse.CODES["O"], morse.CODES["7"]) == ("...", "---", "--...")


def test_a_message_is_a_function_of_seed_and_index():
    a, b = morse.message(3, 7), morse.message(3, 7)
    assert a.text == b.text and (a.samples == b.samples).all()
    assert len({morse.message(seed, index).text for seed in (0, 1) for index in range(20)}) > 30


def test_what_messages_say():
    sent = [morse.message(0, index) for index in range(300)]
    letters = set("".join(message.text for message in sent)) - {" "}
    assert letters == set(morse.CODES) and all(1 <= len(message.text.split()) <= 3 for message in sent)
    speeds, pitches = (np.array([getattr(message, name) for message in sent]) for name in ("speed", "pitch"))
    assert 18 <= speeds.min() < 19 and 29 < speeds.max() <= 30 and 500 <= pitches.min() < 510 and 690 < pitches.max() <= 700


@pytest.mark.parametrize("snr", [-6.0, 10.0])
def test_the_stated_ratio(snr):
    """The power of the tone while the key is down, over the noise's in 2500 Hz, measured from the sound itself."""
    manner = morse.Manner(snr=snr, jitter=0.0)
    sent = morse.key("TTTTTTTTTTTTTTTTTTTT", np.random.PCG64(1), manner)
    samples, times = sent.samples.astype(float), np.arange(len(sent.samples)) / 4000
    spectrum = np.abs(np.fft.rfft(samples)) ** 2 / len(samples)
    frequencies = np.fft.rfftfreq(len(samples), 1 / 4000)
    density = np.median(spectrum[np.abs(frequencies - sent.pitch) > 200]) / np.log(2)  # the median of an exponential distribution
    noise = density * 2500 / 2000  # the variance of white noise is its density over 2000 Hz
    down, dots = morse.elements(sent.text)
    marked = (dots[down] * 1.2 / sent.speed).sum() * 4000
    # The tone's own sum of squares, by coherent detection: |sum x exp|^2 = (A n / 2)^2 for each mark alone; over all marks in phase.
    amplitude = 2 * np.abs((samples * np.exp(-2j * np.pi * sent.pitch * times)).sum()) / marked
    assert 10 * np.log10(amplitude**2 / 2 / noise) == pytest.approx(snr, abs=0.7)


def test_the_decoder_by_thresholds_begins_to_fail():
    """Without faults where the noise is weak, and no longer at the level of the embedded set."""
    errors = {}
    for snr in (6.0, -6.0, -12.0):
        sent = [morse.message(9, index, morse.Manner(snr=snr)) for index in range(25)]
        errors[snr] = np.mean([morse.decode_by_threshold(message.samples, 4000) != message.text for message in sent])
    assert errors[6.0] <= 0.04 and 0.05 < errors[-6.0] < 0.6 and errors[-12.0] > 0.9
    assert morse.decode_by_threshold(np.zeros(100), 4000) == ""


# Spoken digits.


def recordings(speakers="ab", digits=range(3), numbers=range(12)):
    """Each recording has its own level, so that a string reveals its parts."""
    names = [f"{digit}_{speaker}_{number}.wav" for digit in digits for speaker in speakers for number in numbers]
    return make_digits(names, [np.full(400 + 10 * i, 100 + i, np.int16) for i in range(len(names))], "recordings")


def test_the_official_split_and_one_speaker_left_out():
    records = recordings()
    train, test = official_split(records)
    assert set(test["number"].tolist()) == set(range(5)) and set(train["number"].tolist()) == set(range(5, 12)) and len(test) == 30
    train, test = official_split(records, "b")
    assert set(test["speaker"]) == {"b"} and set(train["speaker"]) == {"a"} and len(test) == len(train) == 36
    with pytest.raises(UserError, match="is not a speaker; there are a, b"):
        official_split(records, "c")


def test_strings_are_of_one_speaker_and_of_their_part_alone():
    """Without noise each level of a string is one recording's: all are of the part, of one speaker, and spell the transcript."""
    records = recordings()
    train, _ = official_split(records)
    plain = Joining(gain=(0.0, 0.0), snr=(200.0, 200.0))
    strings = join_digits(train, 60, 4, 8000, plain)
    by_level = {int(sound[0]): (digit, speaker) for sound, digit, speaker in zip(*(train[n] for n in ("sound", "transcript", "speaker")))}
    counts = set()
    for sound, text, speaker in zip(strings["sound"], strings["transcript"], strings["speaker"]):
        spoken = np.concatenate([[0], sound, [0]])
        begins = np.flatnonzero((spoken[1:] != 0) & (spoken[:-1] == 0))
        said = [by_level[int(sound[begin])] for begin in begins]
        assert [digit for digit, _ in said] == text.split() and {who for _, who in said} == {speaker}
        counts.add(len(said))
    assert counts == {3, 4, 5, 6, 7}
    again = join_digits(train, 20, 4, 8000, plain)
    assert all((a == b).all() for a, b in zip(again["sound"], strings["sound"]))


def test_the_noise_of_strings():
    strings = join_digits(recordings(), 20, 0, 8000, Joining(pause=(0.5, 0.5), gain=(0.0, 0.0), snr=(20.0, 20.0)))
    for sound in strings["sound"]:
        loud = sound[np.abs(sound) > 60].astype(float)
        assert 10 * np.log10(np.square(loud).mean() / np.square(sound[:3900].astype(float)).mean()) == pytest.approx(20, abs=0.8)


def write_digits(folder):
    records = recordings(digits=range(2), numbers=range(20))
    for name, sound in zip(records["name"], records["sound"]):
        write_sound(folder / name, sound, 8000)
    return records


def test_folder_and_archive_give_the_same_parts(tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    write_digits(folder)
    (folder / "notes.txt").write_text("not a sound")
    with tarfile.open(tmp_path / "recordings.tar.gz", "w:gz") as archive:
        archive.add(folder, "recordings")
    found = [load_speech("file", path=str(path), rate=8000) for path in (folder, tmp_path, tmp_path / "recordings.tar.gz")]
    assert len({data.fingerprint for data in found}) == 1
    parts = found[0].parts
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [54, 6, 20]
    assert sorted(read_digits(folder, 8000)["name"])[0] == "0_a_0.wav"
    levels = [{int(sound[0]) for sound in part["sound"]} for part in parts.values()]
    assert not levels[0] & levels[1] and not levels[0] & levels[2] and not levels[1] & levels[2]
    strings = load_speech("file", path=str(folder), rate=8000, strings=7)
    assert {name: len(part) for name, part in strings.parts.items()} == {"train": 7} | speech.STRINGS
    (folder / "1_b_3.wav").write_bytes(b"")
    with pytest.raises(UserError, match="1_b_3.wav is empty"):
        load_speech("file", path=str(folder), rate=8000)
    with pytest.raises(UserError, match="not a valid archive"):
        (tmp_path / "bad.tar").write_bytes(b"nothing")
        load_speech("file", path=str(tmp_path / "bad.tar"), rate=8000)


def test_the_published_set(shared):
    """3,000 recordings of six speakers; the copy of TFDS has five of them, with the same sounds."""
    records = read_digits(shared / "data" / "fsdd" / "recordings.tar.gz", 8000)
    train, test = official_split(records)
    assert (len(train), len(test), len(set(records["speaker"]))) == (2700, 300, 6)
    pytest.importorskip("tensorflow_datasets")
    data = load_speech("tfds", name="spoken_digit", data_dir=str(shared / "tfds"), rate=8000)
    assert [len(part) for part in data.parts.values()] == [2025, 225, 250]
    sounds = {sound.tobytes() for sound in records["sound"]}
    assert all(sound.tobytes() in sounds for sound in data.parts["test"]["sound"])


# Files.


def test_files_in_memory_and_ahead_are_the_same_sounds(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(10):
        write_sound(tmp_path / f"{i}.wav", rng.integers(-9000, 9000, 800 + i).astype(np.int16), 8000)
        rows.append({"audio": f"{i}.wav", "text": f"Word {i}"})
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    held, ahead = (load_speech("file", path=str(tmp_path / "all.jsonl"), rate=4000, workers=n, lower=True) for n in (0, 2))
    for part in ("train", "validation"):
        assert held.parts[part]["transcript"] == ahead.parts[part]["transcript"] and held.parts[part]["transcript"][0].startswith("word")
        for a, b in zip(held.parts[part]["sound"], ahead.parts[part]["sound"]):
            assert len(a) == len(b)
            np.testing.assert_array_equal(a, b.read())
    rows[3]["text"] = " "
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match="line 4.*empty"):
        load_speech("file", path=str(tmp_path / "all.jsonl"), rate=4000)


def test_settings_without_effect_are_refused(tmp_path):
    (tmp_path / "recordings").mkdir()
    write_digits(tmp_path / "recordings")
    digits = {"source": "file", "path": str(tmp_path), "rate": 8000}
    for settings, words in [
        ({"source": "embedded", "name": "morse", "path": "x"}, "path='x' is for source='file'"),
        ({"source": "embedded", "name": "morse", "leave_out": "theo"}, "leave_out='theo' is for"),
        ({"source": "embedded", "name": "morze"}, "nearest: morse"),
        ({"source": "file"}, "needs a path"),
        ({"source": "tfds", "name": "librispeech", "rate": 8000}, "only spoken_digit is read here"),
        ({"source": "tfds", "name": "spoken_digit", "rate": 16000}, "data.rate=8000"),
        (digits | {"test_path": "x"}, "spoken digits have a split"),
        (digits | {"workers": 2}, "has no effect on spoken digits"),
        (digits | {"snr": 3.0}, "snr=3.0 is for source='embedded'"),
    ]:
        with pytest.raises(UserError, match=words):
            load_speech(**settings)
