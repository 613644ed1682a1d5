"""Stage 02: what of a MIDI file survives in its ABC text, and what no file may do to the run."""

import gzip
import importlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

from study.stages.arguments import stage_parser
from study.stages.files import tree_files
from study.stages.process import cpu_count, is_alive
from study.stages.stage import Stage

import pytest
import symusic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from music import midi_to_abc, theory
from music.abc_text import read_abc
from music.midi_bytes import mend
from music.voice_text import pitch_texts
from starts import start
from study.prepare import conversion

stage02 = importlib.import_module("02_midi_to_abc")
PROJECT = Path(__file__).resolve().parent.parent
ABC2MIDI = Path(symusic.__file__).parent / "bin" / "abc2midi"


def midi(*tracks, tpq=480, meters=((0, 4, 4),), keys=(), tempos=((0, 120),), drums=()):
    """MIDI bytes; tracks: lists of (onset, duration, pitch) in quarter notes."""
    score = symusic.Score(tpq)
    score.time_signatures.extend(
        [symusic.TimeSignature(round(at * tpq), n, d) for at, n, d in meters]
    )
    score.key_signatures.extend([symusic.KeySignature(round(at * tpq), *key) for at, *key in keys])
    score.tempos.extend([symusic.Tempo(round(at * tpq), qpm=qpm) for at, qpm in tempos])
    for number, notes in enumerate([*tracks, *([drums] if drums else [])]):
        track = symusic.Track(program=number, is_drum=number == len(tracks))
        track.notes.extend(
            [
                symusic.Note(round(on * tpq), round(length * tpq), pitch, 80)
                for on, length, pitch in notes
            ]
        )
        score.tracks.append(track)
    return score.dumps_midi()


def abc(data, **options):
    return midi_to_abc.convert(data, "Tune", **options)[0]


def music(data, **options):
    """The lines of ABC after the header."""
    return abc(data, **options).split("\nK:")[1].split("\n")[1:-1]


def scale(n, step=1, first=60):
    return [(i * step, step, first + p) for i, p in enumerate(([0, 2, 4, 5, 7, 9, 11, 12] * 9)[:n])]


# up to three dots, in 1/16
VALUES = {Fraction(n) * 2**k for n in (1, 3, 7, 15) for k in range(-1, 8)}


def odd_lengths(text):
    """Written lengths in the music that no single note head or rest has."""
    lengths = re.findall(
        r"(?<=[A-Ga-g,'\]z])(\d+)?(/)?",
        re.sub(r"\[[A-Z]:[^]]*\]|\(3[:\d]*", "", text.split("\nK:")[1]),
    )
    return [
        n + half for n, half in lengths if Fraction(int(n or 1), 2 if half else 1) not in VALUES
    ]


def sounding(text):
    """Counter of (onset, pitch) over all voices, as read back."""
    return Counter(
        (note.onset, note.pitch) for voice in read_abc(text).voices for note in voice.notes
    )


def durations(text):
    return {
        (note.onset, note.pitch): note.duration
        for voice in read_abc(text).voices
        for note in voice.notes
    }


# ---------------------------------------------------------------- music


def test_one_voice_is_written_without_tags():
    assert music(midi(scale(5))) == ["C4D4E4F4|G4z12|"]


def test_voices_stand_side_by_side_high_before_low():
    assert music(midi(scale(4, first=48), scale(4, first=72))) == [
        "[V:1]c4d4e4f4|[V:2]C,4D,4E,4F,4|"
    ]


def test_a_silent_bar_of_one_voice_keeps_the_voices_aligned():
    text = abc(midi(scale(12), scale(4, first=36)))
    assert "[V:2]C,,4D,,4E,,4F,,4|Z2|" in text
    first, second = read_abc(text).voices
    assert [bar.onset for bar in first.bars] == [bar.onset for bar in second.bars]


def test_parts_that_never_sound_together_share_a_voice():
    text = abc(midi(scale(8), [(on + 8, length, pitch) for on, length, pitch in scale(8)]))
    assert len(read_abc(text).voices) == 1


def test_notes_a_few_ticks_apart_are_one_chord():
    assert music(midi([(0, 4, 60), (0.01, 3.99, 64), (0.02, 3.97, 67)])) == ["[CEG]16|"]


def test_triplets_sextuplets_and_thirty_seconds_get_their_own_grid():
    third, sixth = 1 / 3, 1 / 6
    assert music(
        midi([(i * third, third, 60 + i) for i in range(3)] + [(1, 3, 67)], keys=[(0, 0, 0)])
    ) == ["(3C2^C2D2G12|"]
    assert music(
        midi([(i * sixth, sixth, p) for i, p in enumerate((60, 62, 64, 65, 67, 69))] + [(1, 3, 67)])
    ) == ["(3CDE(3FGAG12|"]
    assert music(
        midi(
            [(i / 8, 1 / 8, p) for i, p in enumerate((60, 62, 64, 65, 67, 69, 71, 72))]
            + [(1, 3, 67)]
        )
    ) == ["C/D/E/F/G/A/B/c/G12|"]


@pytest.mark.parametrize("n, written", [(5, "(5:4:5"), (7, "(7:4:7"), (9, "(9:8:9")])
def test_five_seven_and_nine_in_a_beat_are_exact(n, written):
    notes = [(i / n, 0.9 / n, 60 + i * 5 % 12) for i in range(4 * n)]
    text, row = midi_to_abc.convert(midi(notes, tpq=480))
    midi_to_abc.self_check(text, row)
    assert text.count(written) == 4 and row["together"] == 0
    onsets = sorted(note.onset for voice in read_abc(text).voices for note in voice.notes)
    assert onsets == [Fraction(i, n) for i in range(4 * n)]


def test_five_notes_of_a_hand_are_no_quintuplet():
    late = [0.02, -0.03, 0.04, -0.02, 0.03]
    notes = [(i + n / 5 + late[n], 0.15, 60 + n) for i in range(4) for n in range(1, 5)]
    assert "(5:" not in abc(midi(notes))


def test_sixty_fourths_are_kept_apart():
    notes = [(i / 16, 1 / 20, 72 + i % 2) for i in range(64)]
    text, row = midi_to_abc.convert(midi(notes, tpq=480))
    midi_to_abc.self_check(text, row)
    assert row["notes"] == 64 and row["onsets"] == 64 and "c/4" in text


def test_notes_played_apart_and_written_together_are_counted():
    strum = [(0, 1, 60), (0.09, 1, 64), (0.18, 1, 67), (2, 1, 60)]
    assert midi_to_abc.convert(midi(strum))[1]["together"] > 0


def test_a_long_silence_is_one_rest_and_a_long_lead_is_cut():
    notes = [(256 + i, 1, 60 + i) for i in range(16)] + [(600 + i, 1, 60 + i) for i in range(16)]
    text, row = midi_to_abc.convert(midi(notes))
    assert row["start"] == 256 and row["mended"] == {"bars of silence before the music": 64}
    assert text.split("\n")[6].startswith("C4_D4=D4E4|") and "\nZ82|\n" in text
    assert abc(midi([(8 * 4, 4, 60)])).endswith("\nZ8|\nC16|\n")  # a count-in stays


@pytest.mark.parametrize("tempo, written", [(5, 10), (1200, 999), (90, 90)])
def test_a_tempo_out_of_range_is_set_to_the_nearest(tempo, written):
    text, row = midi_to_abc.convert(midi(scale(16), tempos=((0, tempo),)))
    assert f"Q:1/4={written}\n" in text
    assert row["mended"] == ({} if tempo == 90 else {"tempos out of range": 1})


# ---------------------------------------------------------------- bytes with faults


def raw_midi(*events, header=b"MThd\0\0\0\6\0\0\0\1\1\xe0"):
    body = b"".join(events)
    return header + b"MTrk" + len(body).to_bytes(4, "big") + body


def beat(key, status=b"\x90"):
    return b"\0" + status + bytes([key, 80]) + b"\x83\x60" + bytes([key, 0])


ENDED = b"\0\xff\x2f\0"


@pytest.mark.parametrize(
    "between",
    [b"\0\xf0\3\x43\x10\xf7", b"\0\xff\1\5verse", b"\0\xf7\2\1\2"],
    ids=["sysex", "text", "escape"],
)
def test_running_status_goes_on_behind_a_system_message(between):
    data = raw_midi(beat(60), between, *(beat(key, b"") for key in range(61, 76)), ENDED)
    assert music(data) == music(raw_midi(*(beat(key) for key in range(60, 76)), ENDED))


def test_notes_without_an_end_end_where_the_standard_says():
    keys = range(60, 76)
    off = b"\x83\x60\xb0\x7b\0"
    data = raw_midi(*(b"\0\x90" + bytes([key, 80]) + off for key in keys), ENDED)
    assert music(data) == music(raw_midi(*(beat(key) for key in keys), ENDED))
    assert midi_to_abc.convert(data)[1]["mended"] == {"notes without an end": 16}
    again = [b"\0\x90\x3c\x50", *[b"\x83\x60\x90\x3c\x50"] * 3, b"\x83\x60\xff\x2f\0"]
    assert music(raw_midi(*again)) == ["C4C4C4C4|"]


def test_wrapped_packed_and_long_headed_files_are_read():
    good = raw_midi(*(beat(key) for key in range(60, 76)), ENDED)
    long_header = b"MThd\0\0\0\x08" + good[8:14] + b"\0\0" + good[14:]
    mac = b"\0\4song" + bytes(122) + good + bytes(60)
    for data in (gzip.compress(good), long_header, mac):
        assert music(data) == music(good)
    with pytest.raises(midi_to_abc.ConversionError, match="not_midi"):
        abc(gzip.compress(b"no music"))
    bomb = gzip.compress(good + bytes(40 << 20))
    assert len(mend(bomb)[0]) <= 16 << 20


@pytest.mark.parametrize(
    "message",
    [b"\x41\x10\x42\x12\x40\x11\x15\1\x19\xf7", b"\x43\x10\x4c\x08\0\7\1\xf7"],
    ids=["gs", "xg"],
)
def test_a_part_made_drums_by_a_message_is_dropped_as_drums(message):
    system = b"\0\xf0" + bytes([len(message)]) + message
    melody = [beat(key, b"\x91") for key in range(60, 76)]
    drums = [beat(38, b"\x90") for _ in range(4)]
    text, row = midi_to_abc.convert(raw_midi(system, *drums, *melody, ENDED))
    assert row["drums"] == 4 and row["notes"] == 16
    assert row["mended"] == {"parts made drums by a message": 1}


@given(st.binary(max_size=200))
def test_mending_never_fails(junk):
    good = raw_midi(*(beat(key) for key in range(60, 64)), ENDED)
    for data in (junk, good[:14] + junk, good[:40] + junk, b"\x1f\x8b" + junk):
        mend(data)


def test_swing_is_written_in_triplets():
    notes = [
        (beat + place, length, 60)
        for beat in range(4)
        for place, length in ((0, 2 / 3), (2 / 3, 1 / 3))
    ]
    assert music(midi(notes)) == ["(3::2C4C2(3::2C4C2(3::2C4C2(3::2C4C2|"]


def test_a_grace_note_and_a_note_without_length_are_kept():
    text = abc(midi([(0, 0.06, 74), (0.06, 0.94, 72), (1, 0, 60), (2, 2, 64)]))
    assert sorted(pitch for _, pitch in sounding(text)) == [60, 64, 72, 74]


def test_overlapping_notes_keep_their_durations():
    text = abc(
        midi(
            [(0, 4, 48), (0, 1, 60), (1, 1, 62), (2, 2, 64)] + [(4, 4, 50), (4, 2, 65), (6, 2, 60)]
        )
    )
    assert (
        durations(text)[(0, 48)] == 4
        and durations(text)[(4, 50)] == 4
        and durations(text)[(1, 62)] == 1
    )


def test_long_notes_under_a_melody_get_a_voice_of_their_own():
    bass = [(bar * 4 - 2, 4, 40 + bar % 5) for bar in range(1, 12)]
    text = abc(midi(scale(48) + bass))
    assert {durations(text)[(on, pitch)] for on, _, pitch in bass} == {4}


def test_lengths_that_no_note_value_has_are_tied_on_the_strongest_beat():
    assert music(midi([(0, 1.25, 60), (1.25, 0.75, 62), (2, 2, 64)])) == ["C4-CD3E8|"]
    accidental = [(0, 1.5, 60), (1.5, 2.5, 66)] + [(4 + on, 1, pitch) for on, _, pitch in scale(16)]
    assert music(midi(accidental))[0].startswith("C6^F2-F8|")
    assert music(midi([(0, 1, 60), (3.25, 0.75, 64), (0, 1, 67), (3.25, 0.75, 72)])) == [
        "[CG]4z8z[Ec]3|"
    ]
    assert music(midi([(0, 2.5, 60), (2.5, 0.5, 62)], meters=[(0, 6, 8)])) == ["C6-C4D2|"]
    assert music(midi(scale(5) + [(10, 5, 60)], meters=[(0, 5, 4)])) == ["C4D4E4F4G4|Z|C16-C4|"]


def test_a_tie_crosses_the_bar_line():
    assert music(midi([(0, 3, 60), (3, 3, 61), (6, 2, 62)], keys=[(0, 0, 0)])) == ["C12^C4-|^C8D8|"]


def test_meter_changes_at_a_bar_line_and_inside_a_bar():
    assert music(midi(scale(7), meters=[(0, 4, 4), (4, 3, 4)])) == ["C4D4E4F4|", "[M:3/4]G4A4B4|"]
    text = abc(midi(scale(12), meters=[(0, 4, 4), (6, 3, 4)]))
    assert [bar.length for bar in read_abc(text).voices[0].bars] == [4, 2, 3, 3]
    assert "M:4/4\n" in text and "\n[M:2/4]G4A4|\n[M:3/4]" in text


def test_a_pickup_bar_takes_the_meter_of_the_tune():
    text = abc(midi(scale(9), meters=[(0, 1, 4), (1, 4, 4)]))
    assert "M:4/4\n" in text and text.endswith("C4|D4E4F4G4|A4B4c4C4|\n")


def test_files_without_time_signature_are_in_four_four():
    assert "M:4/4\n" in abc(midi(scale(4), meters=[]))


@pytest.mark.parametrize("meter", [(0, 0, 4), (0, 255, 1), (0, 1, 64)])
def test_meters_that_no_bar_can_have_are_passed_over(meter):
    assert "M:4/4\n" in abc(midi(scale(4), meters=[meter]))


def test_a_meter_in_absurd_units_is_reduced():
    assert "M:2/4\n" in abc(midi(scale(4), meters=[(0, 64, 128)]))


def test_key_is_believed_if_it_fits_and_found_if_not():
    in_d = [(i, 1, p) for i, p in enumerate((62, 66, 69, 74, 73, 71, 69, 67, 66, 64, 62, 62))]
    assert "K:D\n" in abc(midi(in_d, keys=[(0, 2, 0)]))
    assert "K:Bm\n" in abc(midi(in_d, keys=[(0, 2, 1)]))
    assert "K:D\n" in abc(midi(in_d, keys=[(0, -3, 0)]))
    assert "K:D\n" in abc(midi(in_d))


def test_flat_keys_are_spelled_with_flats():
    pitches = (60, 63, 67, 68, 71, 72, 70, 68, 67, 65, 63, 61) + (60, 63, 67, 70, 68, 65) * 6
    lines = music(midi([(i, 1, p) for i, p in enumerate(pitches)], keys=[(0, -3, 1)]))
    assert lines[0].startswith("C4E4G4A4|=B4c4_B4A4|G4F4E4_D4|")


def test_an_accidental_holds_in_all_octaves_to_the_end_of_the_bar():
    notes = [(0, 1, 61), (1, 1, 73), (2, 1, 72), (3, 1, 60), (4, 4, 73)]
    lines = music(
        midi(notes + [(8 + on, length, pitch) for on, length, pitch in scale(64)], keys=[(0, 0, 0)])
    )
    assert lines[0].startswith("^C4c4=c4C4|^c16|")


def test_key_and_tempo_changes_stand_where_they_happen():
    text = abc(
        midi(
            scale(16) + [(16 + on, length, pitch + 2) for on, length, pitch in scale(16)],
            keys=[(0, 0, 0), (16, 2, 0)],
            tempos=[(0, 100), (16, 60)],
        )
    )
    assert "Q:1/4=100\nK:C\n" in text and "\n[K:D][Q:1/4=60]D4E4F4G4|" in text


@pytest.mark.parametrize("sharps", range(-7, 8))
def test_every_pitch_survives_in_every_key(sharps):
    notes = [(i, 1, p) for i, p in enumerate(range(128))]
    table = pitch_texts(sharps)
    text = f"X:1\nM:4/4\nL:1/16\nK:{theory.key_name(sharps, False)}\n"
    text += "|".join(table[pitch][3] + "16" for _, _, pitch in notes) + "|\n"
    assert [note.pitch for note in read_abc(text).voices[0].notes] == list(range(128))


def test_abc2midi_reads_the_lowest_pitch_in_a_flat_key(tmp_path):
    text = abc(
        midi(
            [(0, 4, 0), *((i, 1, p) for i, p in enumerate((60, 63, 67, 68), 4)), (8, 4, 127)],
            keys=[(0, -3, 1)],
        )
    )
    assert compiled(text, tmp_path) == {0, 60, 63, 67, 68, 127}


def compiled(text, folder):
    """Pitches that abc2midi hears; its complaints are failures."""
    (folder / "t.abc").write_text(text)
    log = subprocess.run(
        [ABC2MIDI, folder / "t.abc", "-o", folder / "t.mid"], capture_output=True, text=True
    ).stdout
    assert "Error" not in log and "time units" not in log, log
    return {note.pitch for track in symusic.Score(folder / "t.mid").tracks for note in track.notes}


def test_drums_are_dropped_and_counted():
    text, row = midi_to_abc.convert(midi(scale(4), drums=[(i, 1, 36) for i in range(4)]))
    assert row["drums"] == 4 and row["notes"] == 4 and len(read_abc(text).voices) == 1


def test_voices_beyond_the_limit_leave_but_top_and_bass_stay():
    parts = [scale(20 - i, first=60) for i in range(4)] + [scale(8, first=84), scale(8, first=36)]
    text, row = midi_to_abc.convert(midi(*parts), max_voices=3)
    pitches = {note.pitch for voice in read_abc(text).voices for note in voice.notes}
    assert len(read_abc(text).voices) == 3 and row["dropped"] == 19 + 18 + 17
    assert max(pitches) == 96 and min(pitches) == 36


@pytest.mark.parametrize(
    "name", ["a\nK:C\nX:9", "%%abc-include /etc/passwd", "", "\udcff.mid", "x" * 255, "T:[V:1]"]
)
def test_titles_cannot_break_the_tune(name):
    text, _ = midi_to_abc.convert(midi(scale(4)), name)
    assert len(text.split("\n")) == 8 and text.encode() and read_abc(text).voices


def test_a_performance_off_the_beat_is_told_from_one_on_it():
    played = [(i * 0.7071 + 0.03, 0.4, 60 + i % 12) for i in range(200)]
    assert midi_to_abc.convert(midi(played))[1]["error"] > stage02.OFF_BEAT
    assert midi_to_abc.convert(midi(scale(70)))[1]["error"] == 0


# ---------------------------------------------------------------- properties


@st.composite
def scores(draw):
    """Tracks of notes on 1/16 or triplet places, without doubled or touching equal pitches."""
    tracks, meter = [], draw(st.sampled_from([(4, 4), (3, 4), (6, 8), (5, 8), (7, 8), (2, 2)]))
    # only where beats stay on quarters
    threes = ["triplet"] if 4 * meter[0] % meter[1] == 0 else []
    for _ in range(draw(st.integers(1, 4))):
        notes, position = [], Fraction(draw(st.integers(0, 8)))
        for _ in range(draw(st.integers(1, 24))):
            beat = draw(st.sampled_from([(4,), (1, 1, 1, 1), (2, 2), (3, 1), "rest", *threes]))
            if beat == "triplet":
                lengths = [Fraction(1, 3)] * 3
            elif beat == "rest":
                position += 1
                continue
            else:
                lengths = [Fraction(n, 4) for n in beat]
            for length in lengths:
                chord = draw(st.sets(st.integers(21, 108), min_size=1, max_size=4))
                notes += [(position, length, pitch) for pitch in chord]
                position += length
        tracks.append(notes or [(0, 1, 60)])
    return tracks, meter


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scores())
def test_random_scores_come_back_note_by_note(case):
    tracks, meter = case
    text, row = midi_to_abc.convert(midi(*tracks, meters=[(0, *meter)]))
    want = Counter((Fraction(on), pitch) for notes in tracks for on, _, pitch in notes)
    assert sounding(text) == want
    length = Fraction(4 * meter[0], meter[1])
    for voice in read_abc(text).voices:
        assert {bar.length for bar in voice.bars} == {length}
    midi_to_abc.self_check(text, row)
    assert not odd_lengths(text)
    if len(tracks) == 1:
        assert durations(text) == {(Fraction(on), pitch): length for on, length, pitch in tracks[0]}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.floats(0, 40), st.floats(0, 9), st.integers(0, 127)), min_size=1, max_size=80
    ),
    st.integers(1, 15),
)
def test_any_heap_of_notes_gives_exact_bars(notes, max_voices):
    text, row = midi_to_abc.convert(midi(notes), max_voices=max_voices)
    midi_to_abc.self_check(text, row)
    assert not odd_lengths(text)
    places = sounding(text)
    assert sum(places.values()) == row["notes"]
    assert all(
        any(p == pitch and abs(float(on) + row["start"] - start) < 0.26 for start, _, p in notes)
        for on, pitch in places
    )


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_give_abc_or_a_reason(junk, damaged_tune):
    data = midi(scale(20))
    if damaged_tune:
        data = data[:20] + junk[:8] + data[20 + len(junk[:8]) :]
    try:
        text, row = midi_to_abc.convert(data if damaged_tune else b"MThd" + junk)
        midi_to_abc.self_check(text, row)
    except midi_to_abc.ConversionError as error:
        assert len(error.args) == 2


# ---------------------------------------------------------------- the run


def make_root(root, files):
    """A root whose stage 01 is done, with these files: {name: bytes}."""
    raw = root / "data" / "raw_midi"
    raw.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        path = os.path.join(os.fsencode(raw), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
    args = stage_parser("").parse_args(["--root", str(root)])
    first = Stage(str(PROJECT / "01_download.py"), args, {})
    with first.writing():
        first.finish(["data/raw_midi"])


def convert_root(root, *flags):
    return start([PROJECT / "02_midi_to_abc.py", "--root", root, *flags])


def outputs(root):
    data = root / "data"
    names = [f"abc_notation/{name}" for name in tree_files(data / "abc_notation")]
    return {
        name: (data / name).read_bytes() for name in [*names, "failed_midi.txt", "conversion.tsv"]
    }


def test_every_kind_of_bad_file_is_a_row_and_the_run_goes_on(tmp_path, capsys):
    good = midi(scale(20))
    smpte = good[:12] + b"\xe7\x28" + good[14:]
    events = (
        b"\0\x90\x3c\x50\x60\x80\x3c\0"
        + b"\xff\xff\xff\x7f\xff\1\0" * 9
        + b"\0\x90\x3c\x50\x60\x80\x3c\0\0\xff\x2f\0"
    )
    # 9 times 2^28 ticks
    waits = good[:10] + b"\0\1" + good[12:14] + b"MTrk" + len(events).to_bytes(4, "big") + events
    files = {
        "Artist/Good one.mid": good,
        '.38 Special/It\'s "on".mid': good,
        "Ünïcode/日本.MID": good,
        "a/new\nline.mid": good,
        "a/" + "x" * 251 + ".mid": good,
        b"a/\xff\xfe.mid": good,
        "a/karaoke.kar": good,
        "a/same.mid": good,
        "a/same.midi": midi(scale(8)),
        "a/loud.mid": good.replace(b"\x3c\x50", b"\x3c\xd0", 1),
        "bad/empty.mid": b"",
        "bad/page.mid": b"<html>",
        "bad/cut.mid": good[:60],
        "bad/smpte.mid": smpte,
        "bad/tpq0.mid": good[:12] + b"\0\0" + good[14:],
        "bad/drums.mid": midi(drums=scale(8)),
        "bad/long.mid": midi([(0, 1, 60), (200_000, 1, 60)]),
        "bad/waits.mid": waits,
        "notes.txt": b"not asked",
    }
    make_root(tmp_path, files)
    capsys.readouterr()
    first = convert_root(tmp_path, "--workers", "2")
    assert first.returncode == 0, first.stderr
    failed = dict(
        line.split("\t")[:2]
        for line in (tmp_path / "data/failed_midi.txt").read_text().splitlines()
    )
    assert failed == {
        "bad/empty.mid": "empty",
        "bad/page.mid": "not_midi",
        "bad/cut.mid": "damaged",
        "bad/smpte.mid": "time_division",
        "bad/tpq0.mid": "time_division",
        "bad/drums.mid": "no_notes",
        "bad/long.mid": "too_long",
        "bad/waits.mid": "too_long",
    }
    made = outputs(tmp_path)
    assert {
        "abc_notation/a/same.abc",
        "abc_notation/a/same.midi.abc",
        "abc_notation/Ünïcode/日本.abc",
    } <= set(made)
    assert len([name for name in made if name.endswith(".abc")]) == 10
    assert "files: 18\n" in first.stdout and "next: python 03_tokenize_split.py" in first.stdout

    assert "up to date" in convert_root(tmp_path).stdout
    assert convert_root(tmp_path, "--force", "--workers", "1").returncode == 0
    assert outputs(tmp_path) == made

    os.remove(tmp_path / "data/raw_midi/a/karaoke.kar")
    make_root(tmp_path, {})
    assert convert_root(tmp_path).returncode == 0
    assert set(made) - set(outputs(tmp_path)) == {"abc_notation/a/karaoke.abc"}


WORKER_DEATH = """
import importlib, os, sys
sys.path.insert(0, {project!r})
from study.prepare import conversion
stage02 = importlib.import_module("02_midi_to_abc")
plain = conversion.convert
def convert(data, name="", max_voices=15):
    if name in {killers!r}:
        os.kill(os.getpid(), 9)
    if name == "sleeper":
        open({asleep!r}, "w").close()
        while True:
            pass
    return plain(data, name, max_voices)
conversion.convert, conversion.MAX_DEATHS, conversion.TIMEOUT = convert, 6, {timeout}
if __name__ == "__main__":
    stage02.main(["--root", {root!r}, "--workers", "2"])
"""


def hostile(tmp_path, names, killers=("killer",), timeout=0.5):
    """(a script that is stage 02 but for the files that kill or stop its workers, its root)."""
    root, script = tmp_path / "root", tmp_path / "02_midi_to_abc_hostile.py"
    if not root.exists():
        make_root(root, {f"{name}.mid": midi(scale(20)) for name in names})
    script.write_text(
        WORKER_DEATH.format(
            project=str(PROJECT),
            root=str(root),
            killers=list(killers),
            timeout=timeout,
            asleep=str(tmp_path / "asleep"),
        )
    )
    return script, root


def hostile_run(*args, code=0, **flags):
    """(what the run printed, {file: reason} of the files that failed)."""
    script, root = hostile(*args, **flags)
    run = start([script])
    assert run.returncode == code and "Traceback" not in run.stderr, run.stderr
    failed = root / "data/failed_midi.txt"
    rows = (
        [line.split("\t")[:2] for line in failed.read_text().splitlines()]
        if failed.exists()
        else []
    )
    return run.stdout + run.stderr, dict(rows)


def test_a_worker_that_dies_or_hangs_costs_one_file(tmp_path):
    names = [f"song{i}" for i in range(20)] + ["killer", "sleeper"]
    killed = {"killer.mid": "crash", "sleeper.mid": "timeout"}
    said, failed = hostile_run(tmp_path, names)
    assert failed == killed and "files per second" in said
    assert len(outputs(tmp_path / "root")) == 20 + 2
    said, failed = hostile_run(tmp_path, names)
    assert failed == killed and "up to date" in said


def test_workers_that_die_at_once_end_in_a_message(tmp_path):
    """And what they died of is not believed of the files afterwards."""
    names = [f"song{i}" for i in range(20)]
    said, failed = hostile_run(tmp_path, names, killers=names, code=1)
    assert "6 workers died one after another (the worker ended with code -9)" in said and not failed
    few = tmp_path / "few"
    few.mkdir()
    assert (
        "4 of 4 files gave no ABC: 4 crash" in hostile_run(few, names[:4], killers=names, code=1)[0]
    )
    assert hostile_run(few, names[:4], killers=())[1] == {}


def children(pid):
    """Process numbers of a process's children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def workers(pid, n):
    """The worker processes of a run, once there are n of them."""
    while True:
        words = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children(pid)}
        found = [child for child, line in words.items() if b"spawn_main" in line]
        if len(found) >= n:
            return found
        time.sleep(0.01)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
def test_workers_killed_among_the_files_cost_none(tmp_path):
    make_root(
        tmp_path, {f"{folder}/{i}.mid": midi(scale(200)) for folder in "abcd" for i in range(150)}
    )
    run = subprocess.Popen(
        [sys.executable, PROJECT / "02_midi_to_abc.py", "--root", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    journal, kills = tmp_path / "data/.02_midi_to_abc.journal.jsonl", 0
    while run.poll() is None and kills < 3:
        if journal.exists() and len(journal.read_bytes().splitlines()) > 100 * kills:
            with suppress(OSError):
                os.kill(workers(run.pid, 1)[0], signal.SIGKILL)
                kills += 1
    output, error = run.communicate(timeout=120)
    assert kills == 3 and run.returncode == 0 and not error
    assert "converted: 600\n" in output and "reasons: none" in output
    assert "up to date" in convert_root(tmp_path).stdout


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
def test_no_worker_outlives_a_run_that_is_killed(tmp_path):
    """One of them is at a file that never ends."""
    script, _ = hostile(tmp_path, ["sleeper", *(f"song{i}" for i in range(40))], timeout=100)
    run = subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, text=True)
    found = workers(run.pid, min(2, cpu_count()))
    while not (tmp_path / "asleep").exists():
        time.sleep(0.01)
    run.kill()
    assert run.communicate(timeout=60)[1] == ""  # the pipe ends with its last writer
    assert not any(
        is_alive(pid) and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
        for pid in found
    )


def test_bad_flags_end_in_one_sentence(tmp_path):
    make_root(tmp_path, {"a/one.mid": midi(scale(20))})
    assert convert_root(tmp_path).returncode == 0
    for flags, words in (
        (["--workers", "0"], "below 1"),
        (["--max-voices", "99"], "above 15"),
    ):
        run = convert_root(tmp_path, *flags)
        assert (
            run.returncode == 1 and words in run.stderr and len(run.stderr.splitlines()) == 2
        ), run.stderr
    assert "up to date" in convert_root(tmp_path, "--workers", "1000000").stdout


def test_midi_inside_riff_is_read():
    data = midi(scale(20))
    chunk = b"DISP\3\0\0\0abc\0data" + len(data).to_bytes(4, "little") + data
    riff = b"RIFF" + (len(chunk) + 4).to_bytes(4, "little") + b"RMID" + chunk
    assert music(riff) == music(data)
    assert midi_to_abc.convert(riff)[1]["mended"] == {"wrapped files": 1}
    with pytest.raises(midi_to_abc.ConversionError, match="not_midi"):
        midi_to_abc.convert(riff[:26])


def test_nothing_usable_is_an_error_that_says_what_to_look_at(tmp_path):
    make_root(tmp_path, {"a.mid": b"junk"})
    run = convert_root(tmp_path)
    assert run.returncode == 1 and "1 not_midi" in run.stderr and "failed_midi.txt" in run.stderr
    assert "Traceback" not in run.stderr


def test_workers_do_not_load_torch():
    code = (
        "import importlib, sys; importlib.import_module('02_midi_to_abc'); assert 'torch' not in"
        " sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT)


# ---------------------------------------------------------------- other systems

OTHER_SYSTEM = """
import os, resource, runpy, sys
for module, name in ((os, "sched_getaffinity"), (resource, "RLIMIT_DATA")):  # workers load this file, too
    if hasattr(module, name):
        delattr(module, name)
sys.path.insert(0, {project!r})
if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("flags", [["--help"], ["--workers", "2"]])
def test_stage_02_runs_without_what_only_linux_has(tmp_path, flags):
    script = tmp_path / "other_system.py"
    script.write_text(OTHER_SYSTEM.format(project=str(PROJECT)))
    make_root(tmp_path / "root", {f"{i}.mid": midi(scale(8 + i)) for i in range(20)})
    run = subprocess.run(
        [
            sys.executable,
            script,
            PROJECT / "02_midi_to_abc.py",
            "--root",
            tmp_path / "root",
            *flags,
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert "--workers N" in run.stdout if flags == ["--help"] else "converted: 20\n" in run.stdout


def test_the_cores_are_counted_where_there_is_no_affinity(monkeypatch, capsys):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    with pytest.raises(SystemExit) as end:
        stage02.main(["--help"])
    assert end.value.code == 0 and f"here {os.cpu_count()}" in " ".join(
        capsys.readouterr().out.split()
    )


def test_memory_is_left_alone_where_it_cannot_be_limited(monkeypatch):
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    monkeypatch.delattr(resource, "RLIMIT_DATA")
    conversion.limit_memory()
    monkeypatch.undo()
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
