"""Notes on paper: the score holds exactly the notes of the tune, and no text, however broken, is an
error."""

import re
from fractions import Fraction

import pytest
import symusic

from music import notation, pictures, theory
from music.abc_text import read_abc
from study.evaluate.samples import write_music, write_pictures
from tests.tunes import (  # the benchmarks import this file as tests.test_notation
    VALID_TUNES,
    long_tune,
)

TWO_VOICES = """X:1
M:4/4
L:1/16
Q:1/4=96
K:Eb
[V:1](3e2d2c2B8z4|[V:2][G,B,]8[D,F,]8|
[V:1]e4=e4f4^f4|[V:2]G,12-G,2F,2|
[V:1]g3a(3b2a2g2f5e3|[V:2][E,-G,-B,]8[E,G,C]8-|
[V:1][M:3/4][egb]12|[V:2][M:3/4][E,G,C]12|
"""
JIG = """X:1
M:6/8
L:1/16
Q:1/4=180
K:Dm
d2|f2e2d2A4d2|f3ga2g2f2e2|d4^c2d6|z12|A2B2^c2d2e2f2|a7g5|[df]6d4|
"""
OVERFULL = JIG.replace("A4d2|", "A4d2e4|")
HOSTILE = JIG + "</script><img src=x onerror=alert(1)>\"'&<!--|\n"
RESTS = "X:1\nM:4/4\nL:1/16\nK:C\n" + "z16|" * 8 + "\n"
RANDOM = "X:1\nM:4/4\nL:1/16\nK:C\nj@3$%^&]]|[(9\n"


# ---------------------------------------------------------------- notation


def sounding(xml):
    """[(onset, pitch, duration)] in quarter notes of every part of a MusicXML score, ties
    joined."""
    found = []
    for part in re.findall(rb"<part .*?</part>", xml, re.S):
        notes, bar_start, now, open_ties = [], Fraction(0), Fraction(0), {}
        divisions = 1
        for measure in re.findall(rb"<measure.*?</measure>", part, re.S):
            now = bar_start
            match = re.search(rb"<divisions>(\d+)<", measure)
            divisions = int(match[1]) if match else divisions
            for note in re.findall(rb"<note.*?</note>", measure, re.S):
                length = Fraction(int(re.search(rb"<duration>(\d+)<", note)[1]), divisions)
                onset = previous if b"<chord" in note else now
                if b"<chord" not in note:
                    previous, now = now, now + length
                if b"<rest" in note:
                    continue
                step, octave = re.search(rb"<step>(.)<", note)[1].decode(), int(
                    re.search(rb"<octave>(\d+)<", note)[1]
                )
                alter = int((re.search(rb"<alter>(-?\d+)<", note) or [0, 0])[1])
                pitch = midi(step, alter, octave)
                if b'<tie type="stop"' in note:
                    open_ties[pitch][2] += length
                else:
                    notes.append([onset, pitch, length])
                if b'<tie type="start"' in note:
                    open_ties[pitch] = (
                        open_ties.get(pitch) if b'<tie type="stop"' in note else notes[-1]
                    )
            bar_start = now
        found.append(sorted(map(tuple, notes)))
    return found


@pytest.mark.parametrize(
    "text",
    [
        TWO_VOICES,
        JIG,
        OVERFULL,
        "X:1\nM:4/4\nL:1/16\nK:F#m\n[C-EG]4[Cg]2(3c2d2e2c5d3-|d7e9|(5cdefg(3c4d4e4z3-|c16|\n"
        .replace(
            "z3-", "c3-"
        ).replace(
            "(5cdefg", "cdefg"
        ),
    ],
)
def test_the_score_holds_exactly_the_notes_of_the_tune(text):
    tune = read_abc(text)
    expected = [
        sorted((n.onset, n.pitch, n.duration) for n in voice.notes) for voice in tune.voices
    ]
    assert sounding(notation.musicxml(tune, pictures.bars_to_draw(tune))) == expected


def read_back(xml):
    """[(onset, pitch, duration)] of every part as music21 reads a MusicXML file, ties joined.

    Joined here: music21's own `stripTies` leaves chords alone of which only some notes are tied.
    """
    import music21

    found = []
    for part in music21.converter.parseData(xml.decode(), format="musicxml").parts:
        notes, open_ties = [], {}
        for event in part.flatten().notes:
            for note in event.notes if event.isChord else [event]:
                onset, length = (
                    Fraction(x).limit_denominator(5040) for x in (event.offset, event.quarterLength)
                )
                tie, pitch = note.tie.type if note.tie else None, note.pitch.midi
                if tie in ("stop", "continue") and pitch in open_ties:
                    open_ties[pitch][2] += length
                else:
                    notes.append([onset, pitch, length])
                    open_ties |= {pitch: notes[-1]} if tie else {}
                if tie == "stop":
                    open_ties.pop(pitch, None)
        found.append(sorted(map(tuple, notes)))
    return found


def events(tune):
    """[(onset, pitch, duration)] of every voice, where the score has them."""
    return [
        sorted((n.onset, n.pitch, n.duration) for n in voice.notes)
        for voice in notation.at_bar_lines(tune).voices
    ]


PICKUP = (
    "X:1\nM:4/4\nL:1/16\nQ:1/4=75\nK:Bb\n[V:1]FE|[Fc]8-[Fc-=B,]4[B,c=B,]4|[V:2]z2|F,16|\n"
    "[V:1][Q:1/4=90]F16|[V:2]F,16|\n"
)
SILENT = (
    "X:1\nM:3/4\nL:1/4\nK:C\n[V:1]Z|Z|[V:2]cdef|gab|\n[V:1]zzc|[V:2]cde|\n[V:1]cde|[V:2]cde|\n[V:1]cde|\n"
    "[V:1]cdef|\n[V:1]cde|\n"
)
UNEQUAL = "X:1\nM:2/4\nL:1/4\nK:C\n[V:1]cde|[V:2]C2|\n[V:1]ef|[V:2]DE-|\n[V:1]c|[V:2]EF|\n[V:1]cd|[V:2]GG|\n"


@pytest.mark.parametrize(
    "text",
    [
        TWO_VOICES,
        JIG,
        OVERFULL,
        PICKUP,
        UNEQUAL,
        SILENT,
        *(long_tune(seed, 1 + seed, n_bars=18) for seed in range(3)),
        *VALID_TUNES[:4],
    ],
)
def test_a_musicxml_file_reads_back_with_the_same_notes(text):
    tune = read_abc(text)
    xml = notation.musicxml(tune, title="a tune")
    assert read_back(xml) == events(tune)
    assert (
        xml == notation.musicxml(tune, title="a tune") and b"<work-title>a tune</work-title>" in xml
    )


def test_a_musicxml_file_has_the_tempo_its_changes_and_the_names_of_the_voices():
    xml = notation.musicxml(read_abc(PICKUP), title="a tune").decode()
    assert re.findall(r'<sound tempo="([\d.]+)"', xml) == ["75", "90"]
    assert re.findall(r"<part-name>(.*?)<", xml) == ["Voice 1", "Voice 2"]
    assert "<fifths>-2<" in xml and "<beats>4<" in xml and "Music21<" not in xml
    # a pickup's rest is no rest of a whole measure, which would last four beats
    assert xml.count('measure="yes"') == 0


def test_a_prompt_is_marked_in_score_and_roll(tmp_path):
    prompt = UNEQUAL[: UNEQUAL.index("[V:1]ef")]
    assert notation.given_bars(UNEQUAL, len(prompt)) == {"1": 1, "2": 1}
    # a bar begun is not given
    assert notation.given_bars(UNEQUAL, len(prompt) + 6) == {"1": 1, "2": 1}
    assert (
        notation.given_bars(UNEQUAL, UNEQUAL.index("K:")) == notation.given_bars(UNEQUAL, 0) == {}
    )
    given = pictures.pictures(UNEQUAL, len(prompt))
    plain = pictures.pictures(UNEQUAL)
    for name, sign in (("roll_svg", "given as prompt"), ("score_svg", notation.GIVEN)):
        assert sign in given[name].lower() and sign not in plain[name].lower()
    assert b"light-light" in notation.musicxml(read_abc(UNEQUAL), given={"1": 1, "2": 1})


def midi(letter, alter, octave):
    return (
        12 * (octave + 1)
        + {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}[letter]
        + alter
    )


def test_spelling_follows_the_key():
    names = {
        pitch: theory.spell(pitch, fifths)[:2]
        for pitch, fifths in ((70, -1), (66, 1), (61, 3), (63, -3))
    }
    assert names == {70: ("B", -1), 66: ("F", 1), 61: ("C", 1), 63: ("E", -1)}
    for fifths in range(-7, 8):
        for pitch in range(128):
            assert midi(*theory.spell(pitch, fifths)) == pitch


def test_lengths_are_split_into_note_heads_that_add_up():
    for start in range(0, 64):
        for length in range(1, 80):
            start_, length_ = Fraction(start, 16), Fraction(length, 16)
            pieces = notation.split_length(start_, length_)
            assert sum(pieces) == length_ and notation.ONE_HEAD.issuperset(pieces)
    assert notation.split_length(Fraction(1, 3), Fraction(11, 3)) == [Fraction(2, 3), 3]
    assert notation.split_length(Fraction(0), Fraction(4, 3)) == [Fraction(4, 3)]


def test_clef_goes_by_register():
    low = (
        JIG.replace("K:Dm\n", "K:Dm\n[V:1]")
        .replace("d", "D,")
        .replace("f", "F,")
        .replace("g", "G,")
    )
    assert b"<sign>F</sign>" in notation.musicxml(
        read_abc(low.replace("a", "A,").replace("e", "E,")), 4
    )
    assert b"<sign>G</sign>" in notation.musicxml(read_abc(JIG), 4)


def test_wrong_bars_are_red_and_pickups_are_not():
    tune = read_abc(OVERFULL)
    assert [i for i in range(len(tune.voices[0].bars)) if notation.is_wrong(tune.voices[0], i)] == [
        1
    ]
    assert notation.WRONG.upper().encode() in notation.musicxml(tune, 8).upper()
    assert notation.WRONG.upper().encode() not in notation.musicxml(read_abc(JIG), 8).upper()


def test_long_tunes_are_drawn_in_part():
    one = read_abc("X:1\nM:4/4\nL:1/16\nK:C\n" + "c4d4e4f4|" * 50 + "\n")
    four = read_abc(
        "X:1\nM:4/4\nL:1/16\nK:C\n" + ("".join(f"[V:{v}]c8e8|" for v in range(1, 5)) + "\n") * 50
    )
    assert (pictures.bars_to_draw(one), pictures.bars_to_draw(four)) == (32, 16)


# ---------------------------------------------------------------- pictures


def test_draw_sample_writes_four_pictures(tmp_path):
    made = write_pictures(tmp_path, "s", TWO_VOICES)
    assert (
        made["reasons"] == {} and made["unread"] is None and made["bars_drawn"] == made["bars"] == 4
    )
    for key, name in (
        ("score_svg", "s.svg"),
        ("score_png", "s.png"),
        ("roll_svg", "s_roll.svg"),
        ("roll_png", "s_roll.png"),
    ):
        assert made[key] == name
        data = (tmp_path / name).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n" if name.endswith("png") else b"<svg" in data
    assert (tmp_path / "s.svg").stat().st_size < 60_000


def test_the_longest_readable_prefix_is_drawn(tmp_path):
    made = write_pictures(tmp_path, "s", HOSTILE)
    assert made["score_svg"] and HOSTILE[: made["drawn_chars"]].endswith("|") and made["bars"] == 8
    assert "line 7" in made["unread"]
    made = write_pictures(tmp_path, "s", TWO_VOICES.replace("=e4f4", "=e4f4[["))
    assert made["score_svg"] and made["bars"] == 1


@pytest.mark.parametrize(
    "text", ["", "X:1\n", RESTS, RANDOM, "\0\ud800", "X:1\nK:C\n" + "[" * 4000]
)
def test_no_text_is_an_error(tmp_path, text):
    (tmp_path / "s.png").write_bytes(b"of an earlier text")
    made = write_pictures(tmp_path, "s", text)
    assert made["score_svg"] is None and made["reasons"]["score"] and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "engraver, reason",
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"),
        ("import time; time.sleep(60)", "0.5 s"),
        ("import sys; sys.exit('no')", "no"),
        ("raise ImportError(\"No module named 'verovio'\")", "No module named 'verovio'"),
    ],
)
def test_without_a_score_there_is_still_a_roll(tmp_path, monkeypatch, engraver, reason):
    monkeypatch.setattr(pictures, "ENGRAVER", engraver)
    monkeypatch.setattr(pictures, "ENGRAVE_SECONDS", 0.5 if "sleep" in engraver else 20)
    made = write_pictures(tmp_path, "s", JIG)
    assert (
        made["score_svg"] is None
        and reason in made["reasons"]["score"]
        and made["roll_svg"]
        and made["roll_png"]
    )


def test_without_resvg_there_are_still_svgs(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "resvg_py", None)
    made = write_pictures(tmp_path, "s", JIG)
    assert (
        made["score_svg"]
        and made["score_png"] is None
        and "resvg_py" in made["reasons"]["score_png"]
    )


def test_a_musicxml_file_lies_beside_a_sample(tmp_path):
    path = tmp_path / "s.musicxml"
    assert write_music(tmp_path, "s", UNEQUAL)["musicxml"] == "s.musicxml"
    assert b"<work-title>s<" in path.read_bytes()
    assert write_music(tmp_path, "s", RANDOM)["musicxml"] is None and not path.exists()


# ---------------------------------------------------------------- playing


def test_voices_meet_again_at_the_bar_line_after_a_wrong_bar():
    tune = read_abc(UNEQUAL)
    first, second = events(tune)
    assert [onset for onset, *_ in first] == [0, 1, 2, 3, 4, 5, 7, 8]
    # a tie goes on
    assert second == [(0, 60, 2), (3, 62, 1), (4, 64, 2), (6, 65, 1), (7, 67, 1), (8, 67, 1)]
    heard = notation.notes_in_seconds(tune)
    assert [onset for onset, _, pitch, voice in heard if pitch == 67] == [3.5, 4.0]
    file = symusic.Score.from_midi(notation.midi_score(tune).dumps_midi())
    assert [note.time / 480 for note in file.tracks[1].notes] == [onset for onset, *_ in second]
    right = read_abc(TWO_VOICES)
    assert notation.at_bar_lines(right) is right


def test_changes_move_with_their_voice():
    tune = notation.at_bar_lines(
        read_abc(UNEQUAL.replace("[V:1]c|[V:2]EF|", "[V:1][Q:1/4=60]c|[V:2][Q:1/4=60]EF|"))
    )
    assert tune.tempos[1:] == [(5, 60.0)]


def test_notes_to_play_are_in_seconds():
    tune = read_abc("X:1\nM:4/4\nL:1/4\nQ:1/4=60\nK:C\nCC[Q:1/4=120]CC|\n")
    assert [note[:2] for note in notation.notes_in_seconds(tune)] == [
        [0, 1],
        [1, 1],
        [2, 0.5],
        [2.5, 0.5],
    ]
