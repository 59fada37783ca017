"""MIDI files: against symusic, tempo changes, sustain, drums, running notes, round trips, and refused files."""

import gzip
import random

import mido
import numpy as np
import pytest
import symusic

from seqjax.data.music import load_music
from seqjax.data.readers.midi import Note, Score, read_midi, read_score, to_grid, write_midi
from seqjax.data.readers.rolls import LOWEST, to_frames, to_roll
from seqjax.errors import UserError


def write(path, *tracks, kind=None, ticks=480):
    """A file of messages with absolute times: (time, type, ...) each."""
    file = mido.MidiFile(type=kind if kind is not None else int(len(tracks) > 1), ticks_per_beat=ticks)
    for events in tracks:
        track, now = mido.MidiTrack(), 0
        for time, message in sorted(events, key=lambda event: event[0]):
            track.append(message.copy(time=time - now))
            now = time
        file.tracks.append(track)
    file.save(path)
    return path


def note(pitch, start, end, channel=0):
    return [
        (start, mido.Message("note_on", note=pitch, velocity=70, channel=channel)),
        (end, mido.Message("note_off", note=pitch, channel=channel)),
    ]


def pedal(time, value, channel=0):
    return [(time, mido.Message("control_change", control=64, value=value, channel=channel))]


def tempo(time, bpm):
    return [(time, mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(bpm)))]


def chords(path, frames_per_quarter=1):
    return [list(frame) for frame in to_frames(read_midi(path, frames_per_quarter)["frames"][0])]


@pytest.mark.parametrize("seed", range(4))
def test_notes_are_those_that_symusic_reads(tmp_path, seed):
    """Random notes on several tracks and channels, tempo changes, both types; overlapping ones of one pitch are left to our rule."""
    chooser = random.Random(seed)
    tracks = []
    for track in range(1 if seed % 2 else 3):
        events, free = tempo(chooser.randrange(2000), chooser.randint(30, 240)), dict.fromkeys(range(30, 90), 0)
        for _ in range(60):
            pitch = chooser.randrange(30, 90)
            start = free[pitch] + chooser.randrange(1, 900)
            free[pitch] = end = start + chooser.randrange(1, 1500)
            events += note(pitch, start, end, channel=track)
        tracks.append(events)
    path = write(tmp_path / "a.mid", *tracks, ticks=chooser.choice([96, 480, 960]))
    theirs = [(n.pitch, n.start, n.end) for track in symusic.Score(str(path)).tracks for n in track.notes]
    ours = read_score(path)
    assert sorted(theirs) == sorted(tuple(n) for n in ours.notes) and len(ours.notes) == 60 * len(tracks)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("frames_per_quarter", [1, 4])
def test_what_is_written_opens_elsewhere(tmp_path, seed, frames_per_quarter):
    """Random frames are read back exactly, by us and by symusic, which also finds the tempo and plausible durations."""
    chooser = random.Random(seed)
    frames = [sorted(chooser.sample(range(LOWEST, LOWEST + 88), chooser.randrange(5))) for _ in range(30)]
    frames[0] = frames[-1] = [60]
    path = write_midi(tmp_path / "a.mid", frames, frames_per_quarter=frames_per_quarter, tempo=90)
    assert chords(path, frames_per_quarter) == frames
    score = symusic.Score(str(path))
    (track,) = score.tracks
    roll = np.zeros((30, 128), bool)
    for n in track.notes:
        assert n.start % 480 == n.end % 480 == 0
        assert not roll[n.start // 480 : n.end // 480, n.pitch].any()
        roll[n.start // 480 : n.end // 480, n.pitch] = True
    assert [np.flatnonzero(row).tolist() for row in roll] == frames
    assert score.ticks_per_quarter == 480 * frames_per_quarter and score.tempos[0].qpm == pytest.approx(90, rel=1e-5)


def test_tempo_changes_make_no_difference(tmp_path):
    events = note(60, 0, 480) + note(62, 480, 960) + note(64, 960, 1920)
    plain, changing = write(tmp_path / "a.mid", events), write(tmp_path / "b.mid", tempo(0, 30) + events + tempo(700, 200))
    assert chords(plain) == chords(changing) == [[60], [62], [64], [64]]


def test_tracks_sound_together_and_drums_do_not(tmp_path):
    path = write(tmp_path / "a.mid", tempo(0, 100), note(48, 0, 960), note(60, 0, 480, 1) + note(62, 480, 960, 1), note(36, 0, 960, 9))
    assert chords(path) == [[48, 60], [48, 62]] and read_score(path).drums == 1


def test_the_sustain_pedal(tmp_path):
    """It holds notes of its channel from their end until it goes up, and no others; 63 is up."""
    events = pedal(0, 127) + note(60, 0, 240) + note(67, 0, 240, 1) + pedal(960, 0) + note(62, 960, 1440) + pedal(1000, 63)
    assert chords(write(tmp_path / "a.mid", events)) == [[60, 67], [60], [62]]
    struck = pedal(0, 64) + note(60, 0, 100) + note(60, 960, 1000) + note(55, 1440, 1920)
    assert chords(write(tmp_path / "b.mid", struck)) == [[60], [60], [60], [55, 60]]  # to the end of the file


def test_overlapping_and_running_notes(tmp_path):
    """A note struck again before it ends needs as many note-offs. Notes without one sound to the end of the file; lone note-offs do
    nothing."""
    on, off = mido.Message("note_on", note=60, velocity=9), mido.Message("note_off", note=60)
    events = [(0, off), (0, on), (480, on), (960, off), (1440, on.copy(velocity=0))] + note(72, 0, 2400)
    assert chords(write(tmp_path / "a.mid", events)) == [[60, 72]] * 3 + [[72]] * 2
    running = [(0, on)] + note(72, 480, 1440)
    assert chords(write(tmp_path / "b.mid", running)) == [[60], [60, 72], [60, 72]]


def test_played_music_is_read_as_it_is_meant():
    """A quarter of a frame late, early or short makes no difference; notes between frames are lost, and counted."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        drawn = zip(rng.choice(60, 20, False) + 30, rng.integers(0, 20, 20), rng.integers(1, 5, 20))
        exact = [(int(pitch), int(start), int(start + length)) for pitch, start, length in drawn]
        shift = rng.integers(-119, 120, (20, 2))
        ticks = [Note(p, max(s * 480 + a, 0), e * 480 + b) for (p, s, e), (a, b) in zip(exact, shift.tolist())]
        clean, lost = to_grid(Score([Note(p, s * 480, e * 480) for p, s, e in exact], 480, 0), 1)
        played, also = to_grid(Score(ticks, 480, 0), 1)
        np.testing.assert_array_equal(clean, played)
        assert lost == also == 0
    between = Score([Note(60, 0, 480), Note(61, 320, 380), Note(62, 240, 480)], 480, 0)
    assert to_grid(between, 1)[1] == 2 and to_grid(between, 2)[1] == 1 and to_grid(between, 8)[1] == 0


def test_silence_around_and_keys_beyond(tmp_path):
    events = note(60, 960, 1440) + note(110, 960, 1440) + note(64, 1920, 2400) + note(0, 5000, 6000)
    records = read_midi(write(tmp_path / "a.mid", events))
    assert to_frames(records["frames"][0]) == ((60,), (), (64,))
    assert [line for line in records.notes if "2 notes beyond the 88 keys of a piano were left out" in line]


def test_a_folder_of_files(tmp_path):
    (tmp_path / "train" / "deep").mkdir(parents=True)
    (tmp_path / "Valid").mkdir()
    write(tmp_path / "train" / "b.mid", note(60, 0, 960))
    packed = write(tmp_path / "c.MIDI", note(62, 0, 960)).read_bytes()
    (tmp_path / "train" / "deep" / "c.midi.gz").write_bytes(gzip.compress(packed))
    (tmp_path / "train" / "about.txt").write_text("not music")
    write(tmp_path / "Valid" / "a.mid", note(64, 0, 1440))
    data = load_music("file", path=str(tmp_path))
    assert [to_frames(roll)[0] for roll in data.parts["train"]["frames"]] == [(60,), (62,)]
    assert [len(roll) for roll in data.parts["validation"]["frames"]] == [3]
    assert data.parts["train"].places.at(0).endswith("b.mid, piece 1")


def test_bad_files_are_listed_at_once(tmp_path):
    good = write(tmp_path / "good.mid", note(60, 0, 960), note(64, 0, 960))
    whole = good.read_bytes()
    (tmp_path / "cut.mid").write_bytes(whole[:-20])
    (tmp_path / "cut_between.mid").write_bytes(whole[: whole.rindex(b"MTrk")])
    (tmp_path / "text.mid").write_text("C major")
    (tmp_path / "smpte.mid").write_bytes(whole[:12] + b"\xe7\x28" + whole[14:])
    (tmp_path / "data.mid").write_bytes(whole.replace(bytes([60, 70]), bytes([200, 70])))
    write(tmp_path / "two.mid", note(60, 0, 960), note(62, 0, 960), kind=2)
    write(tmp_path / "drums.mid", note(36, 0, 960, 9))
    write(tmp_path / "short.mid", note(60, 0, 480))
    write(tmp_path / "empty.mid", tempo(0, 100))
    write(tmp_path / "long.mid", note(60, 0, 480) + note(60, 2**28 - 10, 2**28 - 1), ticks=1)
    with pytest.raises(UserError) as caught:
        read_midi(tmp_path)
    lines = str(caught.value).split("\n")
    assert lines[0] == f"{tmp_path}: 10 faults"
    expected = {
        "cut.mid": "is truncated", "cut_between.mid": "is truncated", "text.mid": "is not a MIDI file", "smpte.mid": "SMPTE",
        "data.mid": "data byte",
        "two.mid": "is of type 2", "drums.mid": "has no notes besides 1 of drums", "short.mid": "has one frame",
        "empty.mid": "has no notes;",
        "long.mid": "has 268,435,455 frames",
    }  # fmt: skip
    for name, words in expected.items():
        (line,) = [line for line in lines[1:] if f"{tmp_path / name} " in line]
        assert words in line
    for place in range(len(whole)):  # cut anywhere
        (tmp_path / "cut.mid").write_bytes(whole[:place])
        with pytest.raises(UserError, match="cut.mid"):
            read_score(tmp_path / "cut.mid")
    for place in range(len(whole)):  # any byte changed: read, or refused in one line
        changed = bytearray(whole)
        changed[place] ^= 0x91
        (tmp_path / "cut.mid").write_bytes(changed)
        try:
            read_midi(tmp_path / "cut.mid")
        except UserError as error:
            assert "cut.mid" in str(error) and "\n" not in str(error)


def test_no_midi_file_and_no_mido(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="has no MIDI file; its files should end in .mid or .midi"):
        read_midi(tmp_path)
    path = write(tmp_path / "a.mid", note(60, 0, 960))
    monkeypatch.setitem(__import__("sys").modules, "mido", None)
    for call in (lambda: read_midi(path), lambda: write_midi(path, [(60,)])):
        with pytest.raises(UserError, match=r"need.* mido, which is not installed; run pip install -e '.\[music\]'"):
            call()


def test_rolls_there_and_back():
    frames = [(21, 60, 108), (), (60,)]
    assert list(to_frames(to_roll(frames))) == frames
    with pytest.raises(ValueError, match="pitch 109"):
        to_roll([(109,)])
