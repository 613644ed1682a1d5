"""ABC as people write it: each kind of fault is mended, counted, and gives the notes meant."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from music.abc_mending import decoded
from music.abc_people import is_normal, read_people, tune_midi
from music.abc_check import check_abc
from music.abc_text import read_abc
from music.midi_to_abc import convert
from tunes import long_tune, music

HEAD = "X:1\nT:Air\nM:4/4\nL:1/8\nK:G\n"
BARS = "GABc dedB|c2A2 A4|BAGF GABc|d4 G4|\n"


def pitches(text):
    """[[(onset, pitch), ...] of every voice] of ABC in normal form."""
    return [[(note.onset, note.pitch) for note in voice.notes] for voice in read_abc(text).voices]


def only(data):
    """The one PeoplesTune of a file, which must be readable and right in every bar."""
    (tune,) = read_people(data)
    assert tune.text, tune.reason
    check = check_abc(tune.text)
    assert check.header and check.tokens and check.meter and check.aligned, check.errors
    return tune


PLAIN = pitches(only(HEAD + BARS).text)


@pytest.mark.parametrize(
    "text, kind",
    [
        (HEAD + BARS.replace("|c2", "|!\nc2").replace("|B", "|$B"), "line-break signs"),
        (HEAD + BARS.replace("GABc", "G&nbsp;ABc<br>", 1), "HTML left-overs"),
        (HEAD + BARS.replace("GABc", "\u201cG\u201dGA\u00a0Bc"), "typographic quotes and blanks"),
        (HEAD + BARS.replace("GABc", "(GABc", 1), "unclosed slurs"),
        (HEAD + BARS.replace("GABc", '"G GABc', 1), "unclosed quotes"),
        (HEAD.replace("K:G\n", "K:G clef=treble\n") + BARS, None),
        (HEAD.replace("K:G\n", "K:G bass\n") + BARS, None),
        (HEAD + BARS.replace("GABc", "[K:treble]GA[I:x]Bc", 1), None),
        (HEAD + BARS.replace("GABc", '"^50% slower"{ab}GA.B!trill!c', 1), None),
        (HEAD + BARS + "w:la la; la la\nW:words; and\n", None),
        ((HEAD + BARS).replace("\n", "\r\r\n"), "files with doubled line ends"),
        (re.sub("(?m)^", "  ", HEAD.strip()) + "\n" + BARS, "blanks before a field"),
        (HEAD.replace("K:G\n", "") + BARS.replace("F", "^F"), "tunes without K:"),
        (HEAD.replace("X:1\n", "") + BARS, "tunes without X:"),
        (HEAD + BARS.replace("|B", "|\n\nB"), "empty lines inside a tune"),
        (HEAD + "%%begintext\nDance face to face\n%%endtext\n" + BARS, None),
        (HEAD + "Dance: face each other and bow\n" + BARS, "lines of words"),
        ("M:4/4\nL:1/8\nK:G\n\nX:1\nT:Air\n" + BARS, "fields given once for the file"),
        (HEAD + "1 2 3 \\\n" + BARS.replace("GABc", "kG\nABc", 1), "lines of words"),
        (HEAD + BARS.replace("|d4", "|=20\nd4").replace("|B", "|=\nB"), "e-mail left-overs"),
        (HEAD + BARS.replace("d4", "[d\nd]4"), "chords cut by a line end"),
        (HEAD + BARS.replace("d4", "B0d4"), "notes without length"),
        (HEAD + BARS.replace("d4", "[d d]4"), None),
        (HEAD + BARS.replace("d4", "[dz]4"), "rests inside chords"),
        (HEAD + BARS.replace("d4", "-d4"), "stray signs"),
        (HEAD.replace("K:G", "Q:1/4=0\nK:G") + BARS, "Q: that cannot be read"),
        (HEAD.replace("K:G", "K:G gchords") + BARS, "K: read by its beginning"),
    ],
    ids=lambda value: re.sub(r"\W+", "-", value or "no-fault")[-40:],
)
def test_a_fault_is_mended_and_counted(text, kind):
    tune = only(text.encode())
    assert {note for voice in PLAIN for note in voice} == {
        note for voice in pitches(tune.text) for note in voice
    }
    assert kind is None and not tune.mended or tune.mended[kind] >= 1


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "latin-1"])
def test_texts_are_read_in_any_encoding(encoding):
    tune = only((HEAD + BARS).replace("Air", "Noël").encode(encoding))
    assert tune.title == "Noël" and pitches(tune.text) == PLAIN


def test_an_overlay_sounds_beside_the_bar():
    tune = only(HEAD + "GABc dedB & G,8|d8|d8|d8|\n")
    found = {note for voice in pitches(tune.text) for note in voice}
    assert (0, 55) in found and (0, 67) in found and tune.mended == {"overlays": 1}


def test_microtones_go_to_the_next_semitone():
    tune = only(HEAD + "^/G2_3/2A2 B4|d8|d8|d8|\n")
    assert [pitch for _, pitch in pitches(tune.text)[0][:3]] == [67, 68, 71]
    assert tune.mended == {"microtones": 2}


def test_tuplets_of_all_sizes_are_exact():
    body = "(3GAB (5:4:5GABcd z2|(10:6:10G/A/B/c/d/G/A/B/c/d/ z5|(7:4:7GABcdef z4|d8|\n"
    onsets = [onset for onset, _ in pitches(only(HEAD + body).text)[0]]
    assert onsets[1] * 3 == 1 and onsets[4] == onsets[3] + (onsets[5] - onsets[4])
    assert len(onsets) == 3 + 5 + 10 + 7 + 1


def test_a_meter_stays_as_it_is_written():
    for meter in ("6/8", "2/2", "3/4"):
        assert f"M:{meter}\n" in only(HEAD.replace("4/4", meter) + "GABc de|fedcBA|\n").text


def test_a_tuplet_too_short_for_its_beat_is_read():
    tune = only(HEAD + "GABc dedB|GABc dedB(7G/A/B/c/d/|d8|d8|\n")
    assert len(pitches(tune.text)[0]) == 23


def test_a_pickup_stays_and_bars_cut_by_repeats_become_one():
    tune = only(HEAD + "dc|" + BARS.replace("|c2A2 A4", "|c2A2:|:A4").strip() + "G2|\n")
    bars = read_abc(tune.text).voices[0].bars
    assert [float(bar.length) for bar in bars[:3]] == [1, 4, 4]


def test_short_bars_are_filled_and_long_ones_have_their_own_meter():
    tune = only(HEAD + "GABc ded|GABc dedBA|d8|d8 d8|d8|\n")
    assert tune.mended == {"long bars with a meter of their own": 1}  # the first may be a pickup
    assert "[M:9/8]" in tune.text and len(read_abc(tune.text).voices[0].bars) == 6
    tune = only(HEAD + "d8|GABc ded|d8|d8|\n")
    assert tune.mended == {"short bars filled up": 1}


def test_bars_beyond_all_meters_are_divided():
    for meter, bar in (("99/4", "d8"), ("99/4", "d8" * 25), ("none", "d8" * 25)):
        bars = read_abc(only(HEAD.replace("4/4", meter) + f"{bar}|" * 3).text).voices[0].bars
        assert {bar.length for bar in bars} == {4}


def test_a_note_longer_than_its_bar_ends_with_the_tune():
    tune = only(HEAD + "[G8B9]|[G8B99]|\n")
    assert read_abc(tune.text).voices[0].bars[-1].length == 4


def test_voices_sound_where_their_clefs_say():
    head = "X:1\nM:4/4\nL:1/4\nV:1\nV:2 clef=treble-8\nV:3 transpose=-24\nK:C\n"
    tune = only(head + "[V:1]CDEF|\n[V:2]CDEF|\n[V:3]cdef|\n")
    assert sorted(voice[0][1] for voice in pitches(tune.text)) == [48, 48, 60]


def test_normal_form_stays_as_it_is():
    for text in (music(8), long_tune(1, 3)):
        assert is_normal(text) == (read_people(text)[0].text == text)
    assert is_normal(music(8)) and not is_normal(HEAD + BARS)


def test_voices_in_blocks_are_interleaved():
    lines = "[V:1]" + "C16|" * 20 + "\n[V:2]" + "E16|" * 20
    text = read_people("X:1\nM:4/4\nL:1/16\nQ:1/4=120\nK:C\n" + lines + "\n")[0].text
    assert [len(voice.bars) for voice in read_abc(text).voices] == [20, 20]
    assert all(line.count("[V:") == 2 for line in text.split("K:C\n")[1].splitlines())


def test_what_is_no_music_says_its_line_and_why():
    book = HEAD + BARS + "\nX:2\nT:Letter\nK:C\nDear friend, this is no tune at all.\n"
    good, bad = read_people(book)
    assert good.text and bad.text is None
    assert (bad.line, bad.title, bad.reason) == (8, "Letter", "line 8: a tune without notes")
    assert read_people(b"") == [] and read_people("a poem\nof two lines\n") == []
    (tune,) = read_people(HEAD + "9 8 7 6 5 @@ 4 3 2 ;; 1|G\n")
    assert tune.reason.startswith("line 6: cannot read")


def test_a_rest_of_many_bars_is_bounded():
    (tune,) = read_people(HEAD + "Z9999|GABc dedB|\n" * 30)
    assert tune.text is None and "more than" in tune.reason


@given(st.text(alphabet="ABCabc^_=[]|:()<>-&{}\"!$%/0123456789xzZyX~.\n\\ VMKLQ+'," + "\u201c"))
def test_any_text_gives_normal_form_or_a_reason(text):
    for tune in read_people(HEAD + text):
        if tune.text is None:
            assert tune.reason.startswith(("line", "more than"))  # no surprise
        else:
            assert check_abc(tune.text).tokens


def test_chords_that_never_close_take_linear_time():
    lines = (HEAD + "[\n" * 20_000, HEAD + "T:a [b\n" + BARS)
    assert [tune.text is None for line in lines for tune in read_people(line)] == [True, False]


@given(st.binary(max_size=300))
def test_any_bytes_are_read(data):
    decoded(data)
    read_people(data)


def test_the_midi_of_a_tune_keeps_its_bars_and_its_key():
    tune = only(HEAD.replace("K:G", "C:Trad\nK:Em") + "dc|" + BARS)
    text = convert(tune_midi(tune.text))[0]
    assert "K:Em" in text and "|c4A4A8|" in text and tune.composer == "Trad"
