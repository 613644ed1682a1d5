"""Sampling: the filters on hand-made distributions, and what a sample may depend on."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from common import BEGIN, END, UNKNOWN, CharTokenizer
from study.families import build_model
from study.sampling import Request, draw, filtered_weights, generate, unprompted

CHARACTERS = "ABCDEFGabcdefg|[]z123468:\n"
TOKENIZER = CharTokenizer(CHARACTERS)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Models this small gain nothing from two, and wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights_of(probabilities, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    weights = filtered_weights(torch.tensor([probabilities]).log(), temperature, top_k, top_p, min_p)[0]
    return (weights / weights.sum()).tolist()


@pytest.mark.parametrize("settings, expected", [
    ({}, [0.4, 0.3, 0.2, 0.1]),
    ({"temperature": 0.5}, [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
    ({"temperature": 0}, [1, 0, 0, 0]),
    ({"temperature": 1e-9}, [1, 0, 0, 0]),
    ({"top_k": 1}, [1, 0, 0, 0]),
    ({"top_k": 2}, [4 / 7, 3 / 7, 0, 0]),
    ({"top_k": 99}, [0.4, 0.3, 0.2, 0.1]),
    ({"top_p": 0.01}, [1, 0, 0, 0]),  # the first is always kept
    ({"top_p": 0.65}, [4 / 7, 3 / 7, 0, 0]),
    ({"top_p": 0.75}, [4 / 9, 3 / 9, 2 / 9, 0]),
    ({"min_p": 0.6}, [4 / 7, 3 / 7, 0, 0]),
    ({"min_p": 1.0}, [1, 0, 0, 0]),
    ({"top_k": 3, "top_p": 0.7}, [4 / 7, 3 / 7, 0, 0]),      # of the three left the first has 0.44, two have 0.78
    ({"temperature": 0.5, "top_p": 0.5}, [1, 0, 0, 0]),      # temperature comes first: 0.53 is already enough
    ({"temperature": 2.0, "min_p": 0.8}, [2 / (2 + 3 ** 0.5), 3 ** 0.5 / (2 + 3 ** 0.5), 0, 0]),
])
def test_filters_on_a_hand_made_distribution(settings, expected):
    assert weights_of([0.4, 0.3, 0.2, 0.1], **settings) == pytest.approx(expected, abs=1e-6)


def test_filters_keep_the_place_of_every_character():
    assert weights_of([0.1, 0.4, 0.2, 0.3], top_k=2) == pytest.approx([0, 4 / 7, 0, 3 / 7], abs=1e-6)


def test_ties_leave_exactly_k():
    assert weights_of([0.25] * 4, top_k=2) == pytest.approx([0.5, 0.5, 0, 0])
    assert weights_of([0.25] * 4, temperature=0) == [1, 0, 0, 0]


def test_every_row_has_its_own_settings():
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log().expand(3, 4)
    weights = filtered_weights(logits, torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 0, 2]), 1.0, 0.0)
    assert [(row > 0).sum().item() for row in weights] == [4, 1, 2]


def test_draw_follows_the_weights_and_never_takes_a_zero():
    weights = torch.tensor([[0.0, 2.0, 0.0, 6.0, 0.0]], dtype=torch.float64).expand(10000, 5)
    drawn = draw(weights, torch.rand(10000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    counts = torch.bincount(drawn, minlength=5).tolist()
    assert counts[0] == counts[2] == counts[4] == 0 and abs(counts[1] / 10000 - 0.25) < 0.02
    edges = draw(weights[:2], torch.tensor([0.0, np.nextafter(1, 0)], dtype=torch.float64))
    assert edges.tolist() == [1, 3]


# ---------------------------------------------------------------- generation

def small_model(family, block_size=32):
    """A model of the project with random weights throughout (new ones have a head of zeros)."""
    torch.manual_seed(1)
    shape = ({"n_head": 2, "d_model": 48, "d_ff": 64, "rotary": True, "qk_norm": True} if family == "transformer"
             else {"d_embedding": 16, "d_hidden": 24})
    model = build_model({"family": family, "vocab_size": TOKENIZER.vocab_size, "block_size": block_size, "n_layer": 2,
                         "dropout": 0.1, **shape})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model.eval()


class Script(nn.Module):
    """Says the given text whatever it is fed: the character after the one at place i is script[i]."""

    def __init__(self, tokenizer, script, ends=True):
        super().__init__()
        self.tokens = [*tokenizer.encode(script).tolist(), *([END] if ends else [])]
        self.vocab_size = tokenizer.vocab_size
        self.n = -1  # the first step reads the end of the tune before

    def step(self, idx, cache=None):
        logits = torch.full((len(idx), self.vocab_size), -20.0)
        logits[:, self.tokens[min(max(self.n, 0), len(self.tokens) - 1)]] = 5.0
        logits[:, [BEGIN, UNKNOWN]] = 50.0  # never targets of training, so their logits mean nothing
        self.n += 1
        return logits, torch.zeros(len(idx))

    def take_rows(self, cache, rows):
        return cache[rows]


@pytest.fixture(params=["transformer", "lstm"])
def model(request):
    return small_model(request.param)


def texts(samples):
    return [sample["text"] for sample in samples]


def test_stops_at_the_end_of_the_tune():
    sample = generate(Script(TOKENIZER, "ABc|\n"), TOKENIZER, [Request(max_chars=50)])[0]
    assert (sample["text"], sample["stop_reason"], sample["new_chars"]) == ("ABc|\n", "end", 5)
    assert len(sample["surprisal_bits"]) == 5 and sample["end_bits"] is not None


def test_stops_at_the_budget():
    sample = generate(Script(TOKENIZER, "A", ends=False), TOKENIZER, [Request(prompt="AA|", max_chars=20)])[0]
    assert (len(sample["text"]), sample["stop_reason"], sample["new_chars"]) == (23, "budget", 20)
    assert sample["end_bits"] is None and len(sample["surprisal_bits"]) == 23


def test_a_sample_does_not_depend_on_neighbours_or_batch_size(model):
    requests = [Request(prompt=("", "AB|", "A" * 40)[i % 3], seed=100 + i, temperature=(1.0, 0.8, 0.0)[i % 3 - 1],
                        top_p=(1.0, 0.9)[i % 2], max_chars=30 + i) for i in range(25)]
    together = texts(generate(model, TOKENIZER, requests))
    assert len(set(together)) > 15
    assert together == [texts(generate(model, TOKENIZER, [request]))[0] for request in requests]
    assert together == texts(generate(model, TOKENIZER, requests, batch_rows=7))
    assert together == texts(generate(model, TOKENIZER, requests[::-1]))[::-1]


def test_a_larger_budget_goes_on_with_the_same_text(model):
    short, long = (texts(generate(model, TOKENIZER, unprompted(4, 0, max_chars=n)))[2] for n in (20, 300))
    assert long.startswith(short)


def test_seeds_differ_and_repeat(model):
    first = texts(generate(model, TOKENIZER, unprompted(8, 5, max_chars=40)))
    assert first == texts(generate(model, TOKENIZER, unprompted(8, 5, max_chars=40)))
    assert first[1:] == texts(generate(model, TOKENIZER, unprompted(7, 6, max_chars=40)))
    assert len(set(first)) == 8


def test_generation_goes_on_beyond_the_context(model):
    weight, model.head = model.head.weight, nn.Linear(model.head.in_features, TOKENIZER.vocab_size)
    with torch.no_grad():
        model.head.weight.copy_(weight)
        model.head.bias[END] = -1e9
    samples = generate(model, TOKENIZER, unprompted(3, 3, max_chars=200))
    assert all(sample["new_chars"] == 200 and len(set(sample["text"][100:])) > 3 for sample in samples)


def test_incremental_generation_equals_recomputing_everything(model):
    """Greedy text from the cache is the argmax of one whole pass over the same window (before it slides)."""
    text = generate(model, TOKENIZER, [Request(temperature=0, max_chars=30)])[0]["text"]
    tokens = [END, BEGIN]
    for character in text:
        with torch.no_grad():
            logits = model.step(torch.tensor([tokens]), None)[0].reshape(-1)
        logits[[BEGIN, UNKNOWN]] = -math.inf
        assert TOKENIZER.decode([int(logits.argmax())]) == character
        tokens.append(int(TOKENIZER.encode(character)[0]))


def test_surprisal_is_the_models_own_whatever_the_sampler(model):
    greedy = generate(model, TOKENIZER, [Request(temperature=0, max_chars=5)])[0]
    tokens, expected = [END, BEGIN, *TOKENIZER.encode(greedy["text"])], []
    for i in range(2, len(tokens)):
        with torch.no_grad():
            logits = model.step(torch.tensor([tokens[:i]]), None)[0].reshape(-1).double()
        logits[[BEGIN, UNKNOWN]] = -math.inf
        expected.append(-logits.log_softmax(0)[tokens[i]].item() / math.log(2))
    assert greedy["surprisal_bits"] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("request_", [
    Request(prompt="§"), Request(temperature=-1), Request(top_p=0), Request(min_p=2), Request(max_chars=0),
    Request(temperature=float("nan")), Request(top_k=-1)])
def test_settings_that_make_no_sense_are_refused(request_):
    with pytest.raises(ValueError):
        generate(Script(TOKENIZER, "A"), TOKENIZER, [request_])


def test_no_requests_give_no_samples():
    assert generate(Script(TOKENIZER, "A"), TOKENIZER, []) == []


# ---------------------------------------------------------------- tokens of several characters

class Pairs(CharTokenizer):
    """A vocabulary in which some tokens are two characters."""

    kind = "pairs"

    def __init__(self, characters, pairs):
        super().__init__(characters)
        self.texts = ["", "", "\ufffd", *self.characters, *pairs]
        self.vocab_size = len(self.texts)
        self.token_chars = np.array([0, 1, 1, *(len(text) for text in self.texts[3:])])

    def encode(self, text):
        tokens = []
        while text:
            piece = text[:2] if text[:2] in self.texts[3:] else text[:1]
            tokens.append(self.texts.index(piece) if piece in self.texts[3:] else UNKNOWN)
            text = text[len(piece):]
        return np.array(tokens, self.dtype)

    def decode(self, tokens):
        return "".join(self.texts[token] for token in tokens)


PAIRS = Pairs("ABc|\n", ["AB", "c|"])


def test_budgets_count_characters_whatever_a_token_is():
    sample = generate(Script(PAIRS, "ABc|ABc|", ends=False), PAIRS, [Request(prompt="AB", max_chars=5)])[0]
    assert (sample["text"], sample["new_chars"], sample["stop_reason"]) == ("ABc|ABc", 5, "budget")
    sample = generate(Script(PAIRS, "ABc|"), PAIRS, [Request(max_chars=5)])[0]
    assert (sample["text"], sample["new_chars"], sample["stop_reason"]) == ("ABc|", 4, "end")


def test_surprisal_is_one_number_a_character_and_spread_evenly_over_a_token():
    whole = generate(Script(PAIRS, "ABc|\n"), PAIRS, [Request(max_chars=50)])[0]
    assert whole["text"] == "ABc|\n" and len(whole["surprisal_bits"]) == 5
    pair, same, *_, single = whole["surprisal_bits"]
    assert pair == same == pytest.approx(single / 2, abs=1e-3) and whole["end_bits"] == pytest.approx(single, abs=1e-3)
    cut = generate(Script(PAIRS, "ABc|", ends=False), PAIRS, [Request(max_chars=3)])[0]
    assert cut["text"] == "ABc" and len(cut["surprisal_bits"]) == 3
