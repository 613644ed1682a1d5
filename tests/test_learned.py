"""What is measured of models beside rates: the cost of a right bar, what a heard bar is worth, the
sampler."""

import math

import numpy as np
import pytest
import torch

from common import BEGIN, END, CharTokenizer
from music.abc_text import read_abc
from music.metrics import repeated_bars
from music.right_bars import first_draws
from study.evaluate import rating, sampler_sweep
from study.evaluate.induction import repeats
from study.evaluate.measurements import Digested
from study.evaluate.models import LoadedModel
from tunes import music

HEADER = "X:1\nM:2/4\nL:1/4\nK:C\n"


@pytest.mark.parametrize(
    "body, ended, counts",
    [
        ("C|CD|EF|GA|", False, (3, 3)),
        ("C|CD|EFG|GA|", False, (1, 2)),
        ("C|CD|E|GA|", False, (1, 2)),
        ("CDE|EF|", False, (0, 0)),
        ("C|CD|EF|", True, (2, 3)),  # too short for a tune: its end is wrong
        ("C|CD|EF|GA|Bc|de|fg|ab|cd|\n", True, (9, 9)),
        ("C|CD|EF|GA", False, (2, 2)),
    ],
)
def test_first_draws_count_the_bars_after_right_ones(body, ended, counts):
    assert first_draws(HEADER + body, ended) == counts
    assert first_draws("no header|CD|", False) == (0, 0)


def test_control_is_the_logarithm_of_their_share():
    samples = [
        {"text": HEADER + body, "stop_reason": "budget"}
        for body in ("C|CD|EF|EFG|", "CD|EFG|", "CDE|")
    ]
    row = rating.control(samples)
    assert (row["count"], row["n"], row["log2"]) == (2, 4, -1.0)
    assert row["log2_interval"][0] < -1 < row["log2_interval"][1]
    assert rating.control(samples[1:])["log2"] is None


class Copier(torch.nn.Module):
    """Gives the character that followed the last three where they stood before in the row most of
    the probability."""

    config = {"block_size": 512}

    def forward(self, idx):
        logits = torch.zeros(*idx.shape, TOKENIZER.vocab_size)
        for row, tokens in enumerate(idx.tolist()):
            followers = {}
            for i in range(3, len(tokens)):
                if (follower := followers.get(tuple(tokens[i - 2 : i + 1]))) is not None:
                    logits[row, i, follower] = 9.0
                followers[tuple(tokens[i - 3 : i])] = tokens[i]
        return logits, None


TOKENIZER = CharTokenizer(music(8))


def test_a_bar_that_comes_back_costs_a_model_that_copies_next_to_nothing():
    tune = "X:1\nM:4/4\nL:1/16\nQ:1/4=120\nK:C\nC4D4E4F4|G4A4B4F4|C4D4E4F4|B4G4F4D4|\n"
    stream = np.concatenate(
        [np.concatenate(([BEGIN], TOKENIZER.encode(text), [END])) for text in (tune, music(8))]
    )
    row = repeats(LoadedModel(Copier(), TOKENIZER, "cpu", ""), Digested(stream, ""))
    uniform = math.log2(TOKENIZER.vocab_size)
    assert (row["n_bars"], row["n_tunes"]) == (1, 1) and row["first"] > 0.7 * uniform
    assert row["second"] < 0.7 * row["first"] and row["saved"] == pytest.approx(
        row["first"] - row["second"]
    )
    short = repeats(
        LoadedModel(Copier(), TOKENIZER, "cpu", ""), Digested(stream[len(tune) + 2 :], "")
    )
    assert short["n_bars"] == 0 and short["first"] is None


def test_repeated_bars_are_counted_by_their_text():
    assert repeated_bars(read_abc(HEADER + "CE|DF|z2|CE|z2|^C^E|\n")) == pytest.approx(1 / 4)


def test_the_sampler_is_chosen_on_a_line_through_the_sweep():
    rates, heard = (0.5, 0.9, 0.5, 0.8, 0.9), (0.10, 0.10, 0.30, 0.20, 0.30)
    rows = [
        {
            **sampler_sweep.MODEL_ITSELF,
            "min_p": i / 40,
            "rate": rate,
            "bar_accuracy": rate,
            "rest_bar_share": 0.0,
            "bar_repetition": share,
        }
        for i, (rate, share) in enumerate(zip(rates, heard))
    ]
    real = {"rest_bar_share": 0.0, "bar_repetition": 0.221}
    chosen = sampler_sweep.choose_sampler(
        sampler_sweep.smoothed(rows), real, {"rest_bar_share": 0.1, "bar_repetition": 0.03}
    )
    # 0.25 on the line; the second is valid by chance, the last repeats too much
    assert chosen["min_p"] == 3 / 40
    assert [row["rate"] for row in rows] == list(rates)
