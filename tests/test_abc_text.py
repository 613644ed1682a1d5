"""The ABC reader and checker: what it reads, what it refuses, that it never breaks, and that
abc2midi agrees."""

import random
import subprocess
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from music.abc_bar import MAX_ERRORS
from music.abc_fields import TICKS, parse_key, parse_meter, parse_tempo
from music.abc_check import check_abc
from music.abc_text import AbcError, read_abc
from starts import an_end
from tunes import TWO_VOICES, long_tune, music, mutated_tunes, tune


def events(text, voice=0):
    """[(onset, duration, pitch)] as numbers."""
    return [
        (float(n.onset), float(n.duration), n.pitch) for n in read_abc(text).voices[voice].notes
    ]


def pitches(body, **header):
    return [note.pitch for note in read_abc(tune(body, **header)).voices[0].notes]


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize(
    "body, expected",
    [
        ("C,,C,Ccc'c''", [36, 48, 60, 72, 84, 96]),
        # an accidental: all octaves, to the bar's end
        ("^F4F4f4F,4|F4z12|", [66, 66, 78, 54, 65]),
        ("^F4=F4F4__F4^^F4|", [66, 65, 65, 63, 67]),
        # the tie keeps it, the next note does not
        ("^F16-|F8F8|", [66, 65]),
        ("^F16-|F16-|F8f8|", [66, 77]),
        ("[^FA]16-|[FA]8F8|", [66, 69, 65]),
        ("[^F-A]16|[FA]8f8|", [66, 69, 69, 77]),
        # a grace note's accidental counts, the note itself not
        ("{^f}F8f8|", [65 + 1, 78]),
    ],
)
def test_pitches(body, expected):
    assert pitches(body) == expected


def test_key_signature_and_change():
    assert pitches("F4B4|[K:F]F4B4|", key="D") == [66, 71, 65, 70]
    assert pitches("F4=F4F4|F4|", key="G") == [66, 65, 65, 66]
    assert pitches("F4|\nK:Bb\nB4e4|", key="G") == [66, 70, 75]


@pytest.mark.parametrize(
    "body, expected",
    [
        ("C4 D2 E F/ G// A3/2", [1, 0.5, 0.25, 0.125, 0.0625, 0.375]),
        ("(3C2D2E2", [1 / 3] * 3),
        ("(3:2:2C4D2", [2 / 3, 1 / 3]),
        ("(2C4D4", [1.5, 1.5]),
        ("(4C4D4E4F4", [0.75] * 4),
        ("(6CDEFGA", [1 / 12] * 6),
        ("(5CDEFG", [0.1] * 5),
        ("C2>D2", [0.75, 0.25]),
        ("C2<D2", [0.25, 0.75]),
        ("C4>>D4", [1.75, 0.25]),
        ("C4-C4>D4", [2.5, 0.5]),
        ("[CE]2>[DF]2", [0.75, 0.75, 0.25, 0.25]),
        ("[C2E2]2[CE]2", [1, 1, 0.5, 0.5]),
        ("C4-C4-C8", [4]),
        ("C16-|C16-|C4z12", [9]),
        ("[CE]16-|[CE]16", [8, 8]),
        ("(3C2-C2D2", [2 / 3, 1 / 3]),
        ("(3:2:3C2(D2E2)", [1 / 3] * 3),
        ('!f!C4"Am7"D4.E4~F4vG4y2A4', [1] * 6),
        ("C4`D4", [1, 1]),
    ],
)
def test_durations(body, expected):
    found = [d for _, d, _ in events(tune(body))]
    assert found == pytest.approx(expected)


def test_compound_tuplets():
    assert events(tune("(5CDEFG", meter="6/8"))[1][0] == pytest.approx(0.25 * 3 / 5)


def test_times_are_exact_fractions():
    note = read_abc(tune("(3C2D2E2 (7:8:7CDEFGAB")).voices[0].notes
    assert note[1].onset == Fraction(1, 3) and note[4].onset == 1 + Fraction(2, 7)


def test_ticks_are_the_same_music():
    for voice, (name, onsets, durations, pitches) in zip(
        read_abc(TWO_VOICES).voices, read_abc(TWO_VOICES).ticks
    ):
        assert voice.name == name
        assert [(n.onset * TICKS, n.duration * TICKS, n.pitch) for n in voice.notes] == list(
            zip(onsets, durations, pitches)
        )


def test_bars_have_their_exact_text_and_numbers():
    bars = read_abc(tune("[M:3/4]C4D4E4|z12|\nC8-E4|C12|]", unit="1/16")).voices[0].bars
    assert [bar.text for bar in bars] == ["[M:3/4]C4D4E4", "z12", "C8-E4", "C12"]
    assert [bar.line for bar in bars] == [6, 6, 7, 7]
    assert [bar.n_notes for bar in bars] == [3, 0, 2, 1]
    assert [(bar.onset, bar.length, bar.meter) for bar in bars] == [(3 * i, 3, 3) for i in range(4)]


def test_tune_header_and_changes():
    tune_ = read_abc(tune("C16|[Q:1/4=90][M:3/4][K:D]C12|", key="Am"))
    assert (tune_.key, tune_.meter, tune_.tempo) == ("Am", "4/4", 120)
    assert tune_.tempos == [(0, 120), (4, 90)] and tune_.meters == [(0, "4/4"), (4, "3/4")]
    assert tune_.keys == [(0, "Am"), (4, "D")]


def test_rests_of_whole_bars():
    bars = read_abc(tune("C16|Z3|C16|")).voices[0].bars
    assert [bar.length for bar in bars] == [4] * 5 and [bar.n_notes for bar in bars] == [
        1,
        0,
        0,
        0,
        1,
    ]


def test_folk_tune_with_repeats_comments_and_fields():
    text = (
        'X: 12\nT:A jig % with a comment\nC:trad\nM:6/8\nK:Dmix clef=treble\n%%scale 0.7\n|:"D"A2d'
        " dcd|efe \\\ndcA|1 {g}a2g ~f3:|2 Tafe d3||\nw: la la\n[P:B]|:.f2a (agf)|!p!e>fe e2z:|\n"
    )
    found = read_abc(text)
    assert [float(bar.length) for bar in found.voices[0].bars] == [3, 3, 3, 3, 3, 3]
    assert found.voices[0].notes[3].pitch == 72


@pytest.mark.parametrize(
    "text, alters",
    [
        ("C", ""),
        ("G", "F+"),
        ("Gm", "B-E-"),
        ("F#", "F+C+G+D+A+E+"),
        ("Cb", "B-E-A-D-G-C-F-"),
        ("Ador", "F+"),
        ("E phrygian", ""),
        ("D Mixolydian", "F+"),
        ("none", ""),
        ("HP", ""),
        ("Bbmaj", "B-E-"),
        ("D exp _B ^f", "B-F+"),
        ("Am clef=bass", ""),
        ("F#min", "F+C+G+"),
    ],
)
def test_keys(text, alters):
    expected = dict(zip(alters[::2], alters[1::2]))
    assert {
        letter: "+" if a > 0 else "-" for letter, a in zip("CDEFGAB", parse_key(text)) if a
    } == expected


@pytest.mark.parametrize(
    "text", ["", "H", "c", "G##", "A#", "Gbb", "Cxyz", "G 3", "K", "|", "D octave=-1", "\x00"]
)
def test_no_keys(text):
    with pytest.raises(ValueError):
        parse_key(text)


def test_meters_and_tempos():
    quarter = TICKS
    assert parse_meter("6/8") == (3 * quarter, True) and parse_meter("C|") == (4 * quarter, False)
    assert parse_meter("2+3/8")[0] == 2.5 * quarter and parse_meter("none")[0] is None
    assert (
        parse_tempo("1/4=120") == 120
        and parse_tempo("3/8=60") == 90
        and parse_tempo('"Slow" 1/2=40') == 80
    )
    assert parse_tempo("120", quarter // 2) == 60 and parse_tempo('"Allegro"') is None
    for bad in ("4/5", "0/4", "4", "4/0", "x", "4/4/4", "9999/4"):
        with pytest.raises(ValueError):
            parse_meter(bad)
    for bad in ("", "fast", "1/0=3", "1/4=0", "1/4=", "=", "1/4=1e99", "1/4=99999999"):
        with pytest.raises(ValueError):
            parse_tempo(bad)


# ---------------------------------------------------------------- refusing


@pytest.mark.parametrize(
    "body, reason",
    [
        ("C4[CE", "chord"),
        ("C4]", "chord"),
        ('C4"Am', "quote"),
        ("C4)", "slur"),
        ("(C4D4|E4|", "slur"),
        ("(3CD|E", "tuplet"),
        ("(3(3CDECD", "tuplet"),
        ("(0CD", "tuplet"),
        ("(1C", "tuplet"),
        ("C4 j@$", "token"),
        ("C4 ^^", "token"),
        ("C0", "length"),
        ("C5/0", "length"),
        ("C/17", "length"),
        ("C999999", "length"),
        ("C99999999999", "length"),
        ("C5C 5", "token"),
        ("C'''''''", "pitch"),
        ("C,,,,,,", "pitch"),
        (">C4", "broken rhythm"),
        ("C4>|D4", "broken rhythm"),
        ("{g", "grace"),
        ("{z}C", "grace"),
        ("C&D", "token"),
        ("C : D", "token"),
        ("[K:Q]C", "field"),
        ("[M:5/7]C", "field"),
        ("[A:x]C", "field"),
        ("[V:]C", "voice"),
        ("C4|\nX:2\nK:C", "second tune"),
        ("C4|\n\nX:2\nK:C", "second tune"),
        ("C4|\n\nC4", "after end"),
        ("[]", "chord"),
        ("C Z", "token"),
        ("Z99999", "token"),
        ("Z9999|" * 7, "limit"),
        ("\x00", "token"),
        ("\u00e9", "token"),
        ("hello world", "token"),
        ("C - D", "token"),
        ("!C", "quote"),
    ],
)
def test_refuses_with_line_and_reason(body, reason):
    text = tune(body)
    with pytest.raises(AbcError) as caught:
        read_abc(text)
    assert caught.value.reason == reason and caught.value.line >= 6
    check = check_abc(text)
    assert not check.tokens and check.level <= 1 and check.errors[0][1] == reason


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "K:C\nCDEF|\n",
        "X:1\nCDEF|\n",
        "X:1\nM:4/4\nCDEF|\n",
        "X:a\nK:C\nC|\n",
        "X:1\nM:4/5\nK:C\nC|\n",
        "X:1\nL:3/7\nK:C\nC|\n",
        "X:1\nK:H\nC|\n",
        "T:no\nX:1\nK:C\nC|\n",
        "X:1\nQ:fast\nK:C\nC|\n",
        "X:1\nX:1\nK:C\nC|",
        "X:1\n\nK:C\nC|\n",
        "junk\nX:1\nK:C\nC\n",
    ],
)
def test_bad_headers(text):
    with pytest.raises(AbcError) as caught:
        read_abc(text)
    assert caught.value.reason == "header"
    assert check_abc(text).level == 0 and not check_abc(text).header


# ---------------------------------------------------------------- levels


def test_levels_of_good_music():
    for text in (music(), TWO_VOICES):
        check = check_abc(text)
        assert (
            check.level == 5
            and check.bar_accuracy == 1
            and check.errors == []
            and check.rest_bar_share == 0
        )
    assert check_abc(TWO_VOICES).n_voices == 2 and check_abc(TWO_VOICES).n_bars == 5


def test_level_meter():
    good = "C4D4E4F4|G4A4B4c4|C4D4E4F4|G4A4B4c4|C4D4E4F4|"
    assert check_abc(tune(good)).level == 5
    # short pickup, short last bar
    assert check_abc(tune("C4|" + good + "C8|")).level == 5
    # over-full first bar
    assert check_abc(tune("C4D4E4F4G|" + good)).level == 3
    # over-full last bar
    assert check_abc(tune(good + "C4D4E4F4G|")).level == 3
    assert check_abc(tune(good + "C4D4|" + good)).level == 3  # short bar inside
    # a double bar excuses nothing
    assert check_abc(tune(good + "C4D4||" + good)).level == 3
    assert check_abc(tune(good + "[M:2/4]C4D4|C8|[M:4/4]" + good)).level == 5
    assert check_abc(tune(good, meter="none")).level == 3
    wrong = check_abc(tune(good + "C4D4|" + good))
    assert wrong.bar_accuracy == pytest.approx(10 / 11) and [e[1] for e in wrong.errors] == [
        "meter"
    ]


def test_level_aligned():
    assert check_abc(TWO_VOICES + "[V:1]c4d4e4f4|\n").level == 4
    uneven = tune(
        "[V:1]C4D4E4F4|[V:2]C16|\n" * 4 + "[V:1][M:3/4]C4D4E4|[V:2]C16|\n[V:1]C4D4E4|[V:2]C16|"
    )
    assert check_abc(uneven).level == 4 and check_abc(uneven).errors[-1][1] == "aligned"


def test_level_content():
    assert check_abc(music(4)).level == 5 and check_abc(music(3)).level == 2
    assert check_abc(tune("C4C4C4C4|" * 8)).level == 2  # one pitch
    assert check_abc(tune("C4D4E4F4|G4A4B4c4|C4D4E4F4|G4A4B4c4|" + "z16|" * 13)).level == 2
    # tied heads are one note
    assert check_abc(tune("C4-C4-C4-C4-|" * 8 + "D4E4F4G4|")).level == 2


def test_fraud_header_only_prompt():
    """The header was the prompt and nothing followed: claims of 100 % have rested on this."""
    prompt = "X:1\nT:Tune\nM:4/4\nL:1/8\nK:G\n"
    assert check_abc(prompt).level == 2 and check_abc(prompt).bar_accuracy is None
    assert check_abc(prompt, len(prompt)).level == 2
    given = music(8)
    assert check_abc(given, len(given)).level == 2 and check_abc(given, len(given)).n_notes == 0
    assert check_abc(given + "C16|", len(given)).n_notes == 1
    longer = given.rstrip() + "C4D4E4F4|G4A4B4c4|" * 3
    assert check_abc(longer, len(given.rstrip())).level == 5
    # the prompt ends inside a bar
    assert check_abc(longer, len(given.rstrip()) + 4).n_notes == 22


def test_fraud_rests_only():
    """115 bars of rest compile, fill their meter and once counted as valid."""
    check = check_abc(tune("z16|" * 115))
    assert (
        check.level == 2
        and check.rest_bar_share == 1
        and check.n_notes == 0
        and check.bar_accuracy is None
    )


def test_random_characters_after_a_header_are_not_music():
    draw = random.Random(1)
    for alphabet in (
        "ABCDEFGabcdefgz0123456789|[]()^_=,'/- \n:",
        "".join(map(chr, range(32, 127))),
    ):
        for _ in range(50):
            check = check_abc(tune("".join(draw.choice(alphabet) for _ in range(600))))
            assert check.level < 3


def test_bar_accuracy_counts_sounding_bars_only():
    check = check_abc(tune("C16|z16|z16|C8|z16|C16|z8|"))
    assert check.n_sounding_bars == 3 and check.bar_accuracy == pytest.approx(2 / 3)
    assert check.rest_bar_share == pytest.approx(4 / 7)


# ---------------------------------------------------------------- any text at all

ABC_CHARACTERS = st.text(
    st.sampled_from("ABCDEFGabcdefgzxZX0123456789|[]()^_=,'/-<>{}:!\"%&~.VMKLQ \n"), max_size=300
)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=300), ABC_CHARACTERS), st.integers(-5, 400))
def test_random_text_never_raises(text, prompt_chars):
    for candidate in (text, tune(text), TWO_VOICES + text):
        check = check_abc(candidate, prompt_chars)
        assert 0 <= check.level <= 5
        try:
            read_abc(candidate)
            assert check.tokens and check.header
        except AbcError as error:
            assert check.n_errors and error.line >= 1 and error.reason


@settings(max_examples=100, deadline=None)
@given(mutated_tunes())
def test_mutated_tunes_never_raise(text):
    check_abc(text, 40)
    try:
        read_abc(text)
    except AbcError:
        pass


@pytest.mark.parametrize(
    "unit",
    [
        "C",
        "[",
        "(",
        "{",
        '"',
        "!",
        "|",
        ":",
        "[V:",
        "[CE]",
        "(3",
        "z9",
        "%",
        "\\",
        "\x00",
        "C/",
        "C,",
        "^",
        "[V:1]C|",
        "[K:",
        "\n",
        "Z9|",
        "C-",
        ">",
        "\u2028",
        ".",
        "[CE",
        "K:C\n",
        "+a",
        "X:1\n",
        "[1",
        "C999999|",
        "y",
        "V:1\n",
    ],
)
def test_hostile_repetition_takes_linear_time(unit):
    with an_end():
        check = check_abc(tune(unit * (60_000 // len(unit))))
    assert check.level <= 3
    assert len(check.errors) <= 2 * MAX_ERRORS


def test_fields_without_end_take_linear_time():
    for unit in ("[K:D]", "K:D\n", "C%\n", "(C", "C-[K:D]"):
        with an_end():
            check_abc(tune(unit * (100_000 // len(unit))))


# ---------------------------------------------------------------- the other judge


def abc2midi():
    symusic = pytest.importorskip("symusic")
    program = Path(symusic.__file__).parent / "bin" / "abc2midi"
    if not program.exists():
        pytest.skip("this symusic has no abc2midi")
    return program


def compiled(text, folder):
    """[[(pitch, onset)] per track] of the MIDI that abc2midi makes; quarter notes, sorted."""
    import symusic

    (folder / "t.abc").write_text(text)
    subprocess.run(
        [abc2midi(), "t.abc", "-o", "t.mid"], cwd=folder, capture_output=True, timeout=20
    )
    score = symusic.Score(str(folder / "t.mid"))
    return [
        sorted((n.pitch, n.time / score.tpq) for n in track.notes)
        for track in score.tracks
        if len(track.notes)
    ]


@pytest.mark.parametrize(
    "text",
    [
        TWO_VOICES,
        music(12, 3),
        tune("^F16-|F8F8|[^F-A-]16|[FA]8f8|_B4B4b4=B4|B16|", key="D"),
        tune("(3C2D2E2 (4:3:4CDEF C2>D2E2<F2z4|C8-C4>D4|[CE]4[DF]4-[DF]4G4|", key="Eb"),
        long_tune(1, 1, 30),
        long_tune(2, 3, 30),
        long_tune(5, 2, 30, changes=False),
    ],
)
def test_abc2midi_hears_the_same_notes(text, tmp_path):
    ours = [
        sorted((n.pitch, float(n.onset)) for n in voice.notes) for voice in read_abc(text).voices
    ]
    theirs = compiled(text, tmp_path)
    assert [[pitch for pitch, _ in voice] for voice in ours] == [
        [pitch for pitch, _ in voice] for voice in theirs
    ]
    for a, b in zip(ours, theirs):  # abc2midi starts the later notes of a chord 1/48 quarter late
        assert [onset for _, onset in a] == pytest.approx([onset for _, onset in b], abs=0.03)
