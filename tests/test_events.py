"""Event tokens: every text comes back, bar by bar, and any events give a text."""

import random

import numpy as np
import pytest
import torch

from common import BEGIN, END, RARE, CharTokenizer, EventTokenizer
from music import events
from music.abc_text import Reader
from music.continuation import NextBars
from music.right_bars import RightBars
from study.evaluate.induction import KINDS, costs_of_bars, read_tunes
from study.evaluate.models import LoadedModel
from study.evaluate.sampling import Request, bits_of_characters, generate
from study.families import build_model
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


def test_any_text_comes_back():
    draw, tokenizer = random.Random(1), EventTokenizer("\n".join(TUNES * RARE))
    pieces = [
        *"ABcz24|[]:K\n/',^=(3-",
        "M:3/4",
        "K:D",
        "[M:3/4]",
        "[K:Eb",
        "\nM:6/8",
        "|A4B4|",
        "é",
    ]
    pieces += ["K:D C|^F4|", "Z", "Z2|", "\n\n", "[V:2]", "C9999"]
    for _ in range(400):
        text = C_MAJOR_HEADER[: draw.choice([0, 30, 99])] + "".join(draw.choices(pieces, k=30))
        characters = CharTokenizer(tokenizer.characters)
        assert tokenizer.decode(tokenizer.encode(text)) == characters.decode(
            characters.encode(text)
        )


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


# ---------------------------------------------------------------- models of events


class Uniform:
    """A stand-in for a model of the two that `repeats` needs."""

    def __init__(self, vocab_size):
        self.config = {"block_size": 512}
        self.vocab_size = vocab_size

    def __call__(self, idx):
        return torch.zeros(*idx.shape, self.vocab_size), None


def test_bits_of_a_bar_are_those_of_its_events():
    tune = C_MAJOR_HEADER + "C4D4E4F4|G16|C4D4E4F4|G8z8|\n"
    tokenizer = EventTokenizer(tune * RARE)
    loaded = LoadedModel(Uniform(tokenizer.vocab_size), tokenizer, "cpu", "")
    stream = np.concatenate([[BEGIN], tokenizer.encode(tune), [END]])
    bits, chars, n_bars = costs_of_bars(loaded, read_tunes(loaded, stream))
    second = KINDS.index("second")
    assert n_bars.tolist() == [1] and chars[0, second] == len("C4D4E4F4")
    assert bits[0, second] == pytest.approx(12 * np.log2(tokenizer.vocab_size))
    assert bits[0, -1] == pytest.approx((len(stream) - 1) * np.log2(tokenizer.vocab_size))
    assert bits_of_characters([1, 2, 3, 4], [0, 2, 0, 1]).tolist() == [1.5, 1.5, 7]


@pytest.mark.parametrize("family", ["transformer", "lstm"])
def test_samples_end_within_their_budget(family):
    text = "".join(
        f"{C_MAJOR_HEADER}C4D4E4F4|G4A4B4c4|" + "c8G8|E8C8|" * 4 + "\n" for _ in range(9)
    )
    tokenizer = EventTokenizer(text)
    torch.manual_seed(0)
    shapes = {
        "transformer": {"n_layer": 1, "n_head": 1, "d_model": 16, "d_ff": 16, "rotary": True},
        "lstm": {"n_layer": 1, "d_embedding": 8, "d_hidden": 16},
    }
    config = {"family": family, "vocab_size": tokenizer.vocab_size, "block_size": 512}
    model = build_model(
        {**config, "qk_norm": True, "token_shift": True, "dropout": 0.0, **shapes[family]}
    ).eval()
    prompt = C_MAJOR_HEADER + "C4D4E4F4|"
    requests = [Request([prompt, ""][i % 2], seed=i, max_chars=60) for i in range(4)]
    for sample in generate(model, tokenizer, requests, right_bars=RightBars):
        assert sample["text"].startswith(sample["prompt"])
        assert len(sample["surprisal_bits"]) <= sample["new_chars"] <= 60
        assert sample["stop_reason"] in ("end", "budget")


@pytest.mark.parametrize("judge", [RightBars, NextBars])
@pytest.mark.parametrize(
    "line", ["C4D4E4F4|\n", "[V:1]C4(3D2E2F2F8|[V:2][C,E,]16-|\n"], ids=["one-voice", "two-voices"]
)
def test_a_model_that_knows_one_line_goes_on_with_it(line, judge):
    tokenizer = EventTokenizer(f"{C_MAJOR_HEADER}{line * 8}\n" * RARE)
    names, order = tokenizer.texts, tokenizer.encode(line).tolist()

    class Rote(Uniform):
        def step_rows(self, texts, cache=None):
            logits = torch.full((len(texts), self.vocab_size), -50.0)
            for row, text in enumerate(texts):
                read = ["\n", *(names[token] for token in text)]
                logits[row, order[read[::-1].index("\n") % len(order)]] = 0.0
            return logits, ()

        def take_rows(self, cache, rows):
            return cache

        mark = rewind = staticmethod(lambda cache, rows: None)

    prompt = f"{C_MAJOR_HEADER}{line * 2}"
    request = Request(prompt, max_chars=900, bars="right", n_bars=4)
    (sample,) = generate(Rote(tokenizer.vocab_size), tokenizer, [request], right_bars=judge)
    assert sample["text"] == prompt + (line * 4)[:-1] and sample["stop_reason"] == "bars"
    assert set(sample["draws"]) == {1} and len(sample["surprisal_bits"]) == sample["new_chars"]
