"""What is left of the bar, and the probe that looks for it in a model's layers."""

import importlib

import numpy as np
import pytest
import torch

from common import CharTokenizer
from music.bar_left import places_left
from study.evaluate.evaluation import Player
from study.evaluate.figures import draw_counting
from study.evaluate.probe import bar_left, hidden_states, r_squared
from study.families import FAMILIES, build_model

HEADER = "X:1\nM:4/4\nL:1/8\nK:C\n"


def player(family):
    tokenizer = CharTokenizer(HEADER + "ABCDEFG248|[]z(3V:\n")
    shape = importlib.import_module(FAMILIES[family].stage).SIZES["tiny"]
    torch.manual_seed(0)
    model = build_model(
        {
            "family": family,
            "vocab_size": tokenizer.vocab_size,
            "block_size": 512,
            "dropout": 0.0,
            "rotary": True,
            "qk_norm": True,
            "token_shift": True,
            **shape,
        }
    ).eval()
    return Player(model, tokenizer, "cpu", "digest")


def left_at(body):
    """{text from a place on: quarter notes left} of a tune's body."""
    text = HEADER + body
    return {text[place:][:2]: quarters for place, quarters in places_left(text)}


@pytest.mark.parametrize(
    "body,wanted",
    [
        ("C4D2E2|", {"D2": 2, "E2": 1}),
        (
            "(3CDE^F2[GB]4|",
            {"DE": pytest.approx(4 - 1 / 3), "E^": pytest.approx(4 - 2 / 3), "^F": 3, "[G": 2},
        ),
        ("z2C6|", {"C6": 3}),
        # too short: the first bar teaches nothing, the second has one note
        ("C4D2|E8|", {}),
        ("C>DE6|", {}),  # lengths that stand at another note
        ("[V:1]C4D4|[V:2]E6F2|", {"D4": 2, "F2": 1}),
    ],
)
def test_what_is_left_of_the_bar(body, wanted):
    assert left_at(body) == wanted


def test_text_that_is_no_music_has_no_places():
    assert places_left("A town on the river.") == places_left("") == []


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_end_in_what_the_head_reads(family):
    model, idx = player(family).model, torch.randint(10, (2, 20))
    with torch.no_grad():
        states = hidden_states(model, idx)
        assert len(states) == 1 + model.config["n_layer"]
        last = states[-1] if family == "lstm" else model.norm(states[-1])
        torch.testing.assert_close(last, model.features(idx), atol=1e-5, rtol=1e-4)


def test_the_probe_finds_more_than_the_embedding_says():
    """Even layers of random weights mix in the newest characters, which say something; one
    character says nothing."""
    random = np.random.default_rng(0)
    bars = ["C4D2E2|", "C2D2E4|", "F2G2A2B2|", "G8|", "A2B6|", "C6D2|"]
    tunes = [HEADER + "".join(random.choice(bars, 30)) for _ in range(8)]
    found = bar_left(player("ssm"), tunes[:4], tunes[4:])
    assert found["n"] > 100 and len(found["layers"]) == 3
    assert found["layers"][0] < found["newest"] and found["newest"] > 0.5
    assert bar_left(player("ssm"), ["no music"], tunes[4:]) == {
        "n": found["n"],
        "n_fitted": 0,
        "layers": None,
        "newest": None,
    }


def test_noise_explains_nothing():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(400, 5)), random.normal(size=400)
    assert r_squared(x[:200], y[:200], x[200:], y[200:]) < 0.05


def test_the_figure_of_who_counts(tmp_path):
    row = {"size": "tiny", "meter": 0.5, "bar_left": {"layers": [0.0, 0.5, 0.7], "newest": 0.4}}
    models = {
        f"{family}_{i}": {
            **row,
            "family": family,
            "params_total": 10**i,
            "val_nats_per_char": 2 - 0.1 * i,
        }
        for family in FAMILIES
        for i in (4, 5)
    }
    # samples without a sounding bar; a text without notes
    models["lstm_4"].update(meter=None, bar_left=None)
    assert draw_counting(tmp_path, {"models": models}) == ["counting.png", "counting.svg"]
    bare = {
        "lstm_4": models["lstm_4"],
        "ssm_4": {**models["ssm_4"], "bar_left": {"layers": None, "newest": None}},
    }
    assert draw_counting(tmp_path, {"models": bare}) == ["counting.png", "counting.svg"]
