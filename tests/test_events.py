"""Event tokens: every text comes back, bar by bar, and any events give a text."""

import random

import pytest

from common import RARE, EventTokenizer
from music import events
from music.abc_text import Reader
from tunes import C_MAJOR_HEADER, TWO_VOICES, VALID_TUNES, long_tune

TUNES = [TWO_VOICES, *VALID_TUNES, long_tune(3, 2, 20)]


def names_of(bar, header=C_MAJOR_HEADER):
    (stretch, text), _ = events.parts_of(header + bar + "|")[-2:]
    assert text == bar
    return list(stretch)


def test_a_note_is_position_pitch_and_duration():
    assert names_of("z4C4^F8") == "Pos 1|Pitch 60|Dur 1|Pos 2|Pitch 66|Dur 2".split("|")
    assert names_of("[CE]16-") == "Pos 0|Pitch 60|Dur 4|Tie|Pitch 64|Dur 4|Tie".split("|")
    assert names_of("(3C2D2E2F12")[3:6] == ["Pos 1/3", "Pitch 62", "Dur 1/3"]
    assert names_of("C8-C2D6")[:3] == ["Pos 0", "Pitch 60", "Dur 5/2"]


def test_the_key_spells_and_a_short_bar_says_its_end():
    flat = C_MAJOR_HEADER.replace("K:C", "K:Eb")
    assert names_of("E4=E12", flat)[1::3] == ["Pitch 63", "Pitch 64"]
    assert names_of("C4D4") == "Pos 0|Pitch 60|Dur 1|Pos 1|Pitch 62|Dur 1|Pos 2".split("|")


@pytest.mark.parametrize(
    "bar",
    ["C4-C12", "^C4C12", "_D16", "{g}C16", '"Am"C16', "C>D", "C4 D12", "C16:", "CDE", "[C2E4]14"],
)
def test_what_the_converter_would_write_otherwise_stays_text(bar):
    text = f"{C_MAJOR_HEADER}{bar}|C16|\n"
    learnt = EventTokenizer(text * RARE)
    assert learnt.decode(learnt.encode(text)) == text


def test_every_tune_comes_back_and_a_bar_line_closes_its_bar():
    tokenizer = EventTokenizer("\n".join(TUNES * RARE))
    n_events = 0
    for tune in TUNES:
        tokens = tokenizer.encode(tune)
        assert tokenizer.decode(tokens) == tune
        texts = tokenizer.texts_of(tokens)
        assert len(texts) == len(tokens)
        for n, token in enumerate(tokens, 1):
            if tokenizer.texts[token] == "|":
                assert tokenizer.decode(tokens[:n]) == "".join(texts[:n])
        n_events += sum(tokenizer.texts[token].startswith("Pitch ") for token in tokens)
    assert n_events > 500
    stream = [token for tune in TUNES for token in [0, *tokenizer.encode(tune).tolist(), 1]]
    assert tokenizer.decode(stream) == "".join(TUNES)


def test_a_prompt_may_end_within_a_bar():
    tokenizer = EventTokenizer("\n".join(TUNES * RARE))
    for n in range(1, len(TUNES[0])):
        prompt = TUNES[0][:n]
        assert tokenizer.decode(tokenizer.encode(prompt)) == prompt


def test_any_events_give_a_text_and_never_fail():
    draw = random.Random(0)
    fractions = ["0", "1/4", "1/3", "2/5", "1/7", "5/9", "3", "16", "99/7", "99"]
    names = [f"{kind} {value}" for kind in ("Pos", "Dur") for value in fractions]
    names += ["Pitch 0", "Pitch 60", "Pitch 66", "Pitch 199", "Tie", "|", "\n", "Z", "[V:2]", "z"]
    names += ["[K:Abm]", "[K:nonsense]", "[M:6/8]", "[M:0/0]", "[M:999/32]", "[M:none]", ""]
    for _ in range(300):
        drawn = draw.choices(names, k=40)
        texts = events.texts_of(drawn)
        assert len(texts) == len(drawn)
        Reader("X:1\nM:4/4\nL:1/16\nK:C\n" + "".join(texts), strict=False)


def test_a_bar_is_as_long_as_its_meter_unless_its_notes_are_longer():
    head = ["X:1\n", "M:3/4\n", "L:1/16\n", "K:C\n"]
    bar = ["Pos 1", "Pitch 60", "Dur 1", "|"]
    assert "".join(events.texts_of(head + bar)).endswith("K:C\nz4C4z4|")
    over = ["Pos 2", "Pitch 60", "Dur 2", "|"]
    assert "".join(events.texts_of(head + over)).endswith("K:C\nz8C8|")
    short = ["Pos 0", "Pitch 60", "Dur 1", "Pos 3/2", "|"]
    assert "".join(events.texts_of(head + short)).endswith("K:C\nC4z2|")
    late = ["Pos 0", "Pitch 60", "Dur 2", "Pos 1", "Pitch 62", "Dur 1", "|"]
    assert "".join(events.texts_of(head + late)).endswith("K:C\nC8D4|")
