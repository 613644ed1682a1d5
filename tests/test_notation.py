"""Notes on paper: the score holds exactly the notes of the tune, and no text, however broken, is an error."""

import re
from fractions import Fraction

import pytest

from music import notation, theory
from music.abc_text import read_abc
from study.generated import write_pictures

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
    """[(onset, pitch, duration)] in quarter notes of every part of a MusicXML score, ties joined."""
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
                step, octave = re.search(rb"<step>(.)<", note)[1].decode(), int(re.search(rb"<octave>(\d+)<", note)[1])
                alter = int((re.search(rb"<alter>(-?\d+)<", note) or [0, 0])[1])
                pitch = midi(step, alter, octave)
                if b'<tie type="stop"' in note:
                    open_ties[pitch][2] += length
                else:
                    notes.append([onset, pitch, length])
                if b'<tie type="start"' in note:
                    open_ties[pitch] = open_ties.get(pitch) if b'<tie type="stop"' in note else notes[-1]
            bar_start = now
        found.append(sorted(map(tuple, notes)))
    return found


@pytest.mark.parametrize("text", [TWO_VOICES, JIG, OVERFULL,
                                  "X:1\nM:4/4\nL:1/16\nK:F#m\n[C-EG]4[Cg]2(3c2d2e2c5d3-|d7e9|(5cdefg(3c4d4e4z3-|c16|\n"
                                  .replace("z3-", "c3-").replace("(5cdefg", "cdefg")])
def test_the_score_holds_exactly_the_notes_of_the_tune(text):
    tune = read_abc(text)
    expected = [sorted((n.onset, n.pitch, n.duration) for n in voice.notes) for voice in tune.voices]
    assert sounding(notation.musicxml(tune, notation.bars_to_draw(tune))) == expected


def midi(letter, alter, octave):
    return 12 * (octave + 1) + {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}[letter] + alter


def test_spelling_follows_the_key():
    names = {pitch: theory.spell(pitch, fifths)[:2] for pitch, fifths in ((70, -1), (66, 1), (61, 3), (63, -3))}
    assert names == {70: ("B", -1), 66: ("F", 1), 61: ("C", 1), 63: ("E", -1)}
    for fifths in range(-7, 8):
        for pitch in range(128):
            assert midi(*theory.spell(pitch, fifths)) == pitch


def test_lengths_are_split_into_note_heads_that_add_up():
    for start in range(0, 64):
        for length in range(1, 80):
            start_, length_ = Fraction(start, 16), Fraction(length, 16)
            pieces = notation.split_length(start_, length_)
            assert sum(pieces) == length_ and all(notation.is_one_head(piece) for piece in pieces)
    assert notation.split_length(Fraction(1, 3), Fraction(11, 3)) == [Fraction(2, 3), 3]
    assert notation.split_length(Fraction(0), Fraction(4, 3)) == [Fraction(4, 3)]


def test_clef_goes_by_register():
    low = JIG.replace("K:Dm\n", "K:Dm\n[V:1]").replace("d", "D,").replace("f", "F,").replace("g", "G,")
    assert b"<sign>F</sign>" in notation.musicxml(read_abc(low.replace("a", "A,").replace("e", "E,")), 4)
    assert b"<sign>G</sign>" in notation.musicxml(read_abc(JIG), 4)


def test_wrong_bars_are_red_and_pickups_are_not():
    tune = read_abc(OVERFULL)
    assert [i for i in range(len(tune.voices[0].bars)) if notation.is_wrong(tune.voices[0], i)] == [1]
    assert notation.WRONG.upper().encode() in notation.musicxml(tune, 8).upper()
    assert notation.WRONG.upper().encode() not in notation.musicxml(read_abc(JIG), 8).upper()


def test_long_tunes_are_drawn_in_part():
    one = read_abc("X:1\nM:4/4\nL:1/16\nK:C\n" + "c4d4e4f4|" * 50 + "\n")
    four = read_abc("X:1\nM:4/4\nL:1/16\nK:C\n" + ("".join(f"[V:{v}]c8e8|" for v in range(1, 5)) + "\n") * 50)
    assert (notation.bars_to_draw(one), notation.bars_to_draw(four)) == (32, 16)


# ---------------------------------------------------------------- pictures

def test_draw_sample_writes_four_pictures(tmp_path):
    made = write_pictures(tmp_path, "s", TWO_VOICES)
    assert made["reasons"] == {} and made["unread"] is None and made["bars_drawn"] == made["bars"] == 4
    for key, name in (("score_svg", "s.svg"), ("score_png", "s.png"), ("roll_svg", "s_roll.svg"),
                      ("roll_png", "s_roll.png")):
        assert made[key] == name
        data = (tmp_path / name).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n" if name.endswith("png") else b"<svg" in data
    assert (tmp_path / "s.svg").stat().st_size < 60_000


def test_the_longest_readable_prefix_is_drawn(tmp_path):
    made = write_pictures(tmp_path, "s", HOSTILE)
    assert made["score_svg"] and HOSTILE[:made["drawn_chars"]].endswith("|") and made["bars"] == 8
    assert "line 7" in made["unread"]
    made = write_pictures(tmp_path, "s", TWO_VOICES.replace("=e4f4", "=e4f4[["))
    assert made["score_svg"] and made["bars"] == 1


@pytest.mark.parametrize("text", ["", "X:1\n", RESTS, RANDOM, "\0\ud800", "X:1\nK:C\n" + "[" * 4000])
def test_no_text_is_an_error(tmp_path, text):
    (tmp_path / "s.png").write_bytes(b"of an earlier text")
    made = write_pictures(tmp_path, "s", text)
    assert made["score_svg"] is None and made["reasons"]["score"] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("engraver, reason", [
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"), ("import time; time.sleep(60)", "0.5 s"),
    ("import sys; sys.exit('no')", "no"),
    ("raise ImportError(\"No module named 'verovio'\")", "verovio is not installed")])
def test_without_a_score_there_is_still_a_roll(tmp_path, monkeypatch, engraver, reason):
    monkeypatch.setattr(notation, "ENGRAVER", engraver)
    monkeypatch.setattr(notation, "ENGRAVE_SECONDS", 0.5 if "sleep" in engraver else 20)
    made = write_pictures(tmp_path, "s", JIG)
    assert made["score_svg"] is None and reason in made["reasons"]["score"] and made["roll_svg"] and made["roll_png"]


def test_without_resvg_there_are_still_svgs(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "resvg_py", None)
    made = write_pictures(tmp_path, "s", JIG)
    assert made["score_svg"] and made["score_png"] is None and "not installed" in made["reasons"]["score_png"]


# ---------------------------------------------------------------- playing

def test_notes_to_play_are_in_seconds():
    tune = read_abc("X:1\nM:4/4\nL:1/4\nQ:1/4=60\nK:C\nCC[Q:1/4=120]CC|\n")
    assert [note[:2] for note in notation.notes_in_seconds(tune)] == [[0, 1], [1, 1], [2, 0.5], [2.5, 0.5]]
