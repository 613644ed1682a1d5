"""Sampling: the filters on hand-made distributions, and what a sample may depend on."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from common import BEGIN, END, UNKNOWN, CharTokenizer, Transformer
from music.abc_check import check_abc
from music.right_bars import RightBars
from study.evaluate import sampling
from study.evaluate.sampling import MAX_TRIES, Request, draw, filtered_weights, generate, unprompted
from study.families import FAMILIES, build_model

CHARACTERS = "ABCDEFGabcdefg|[]z123468:\n"
TOKENIZER = CharTokenizer(CHARACTERS)


pytestmark = pytest.mark.usefixtures("one_thread")


def weights_of(probabilities, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    weights = filtered_weights(
        torch.tensor([probabilities]).log(), temperature, top_k, top_p, min_p
    )[0]
    return (weights / weights.sum()).tolist()


@pytest.mark.parametrize(
    "settings, expected",
    [
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
        # of the three left the first has 0.44, two have 0.78
        ({"top_k": 3, "top_p": 0.7}, [4 / 7, 3 / 7, 0, 0]),
        # temperature comes first: 0.53 is already enough
        ({"temperature": 0.5, "top_p": 0.5}, [1, 0, 0, 0]),
        ({"temperature": 2.0, "min_p": 0.8}, [2 / (2 + 3**0.5), 3**0.5 / (2 + 3**0.5), 0, 0]),
    ],
)
def test_filters_on_a_hand_made_distribution(settings, expected):
    assert weights_of([0.4, 0.3, 0.2, 0.1], **settings) == pytest.approx(expected, abs=1e-6)


def test_filters_keep_the_place_of_every_character():
    assert weights_of([0.1, 0.4, 0.2, 0.3], top_k=2) == pytest.approx(
        [0, 4 / 7, 0, 3 / 7], abs=1e-6
    )


def test_ties_leave_exactly_k():
    assert weights_of([0.25] * 4, top_k=2) == pytest.approx([0.5, 0.5, 0, 0])
    assert weights_of([0.25] * 4, temperature=0) == [1, 0, 0, 0]


def test_every_row_has_its_own_settings():
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log().expand(3, 4)
    weights = filtered_weights(
        logits, torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 0, 2]), 1.0, 0.0
    )
    assert [(row > 0).sum().item() for row in weights] == [4, 1, 2]


def test_draw_follows_the_weights_and_never_takes_a_zero():
    weights = torch.tensor([[0.0, 2.0, 0.0, 6.0, 0.0]], dtype=torch.float64).expand(10000, 5)
    drawn = draw(
        weights, torch.rand(10000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )
    counts = torch.bincount(drawn, minlength=5).tolist()
    assert counts[0] == counts[2] == counts[4] == 0 and abs(counts[1] / 10000 - 0.25) < 0.02
    edges = draw(weights[:2], torch.tensor([0.0, np.nextafter(1, 0)], dtype=torch.float64))
    assert edges.tolist() == [1, 3]


# ---------------------------------------------------------------- generation


def small_model(family, block_size=32):
    """A model of the project with random weights throughout (new ones have a head of zeros)."""
    torch.manual_seed(1)
    shape = (
        {"d_embedding": 16, "d_hidden": 24}
        if family == "lstm"
        else {"n_head": 2, "d_model": 48, "d_ff": 64, **dict.fromkeys(Transformer.FLAGS, True)}
    )
    model = build_model(
        {
            "family": family,
            "vocab_size": TOKENIZER.vocab_size,
            "block_size": block_size,
            "n_layer": 2,
            "dropout": 0.1,
            **shape,
        }
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model.eval()


class HandMade(nn.Module):
    """A model whose logits are a function of the tokens so far; subclasses say which."""

    def __init__(self, tokenizer):
        super().__init__()
        self.tokenizer, self.vocab_size = tokenizer, tokenizer.vocab_size

    def logits(self, tokens):
        raise NotImplementedError

    def step_rows(self, texts, cache=None):
        return torch.stack([self.logits(torch.tensor(text)) for text in texts]), torch.zeros(
            len(texts)
        )

    def take_rows(self, cache, rows):
        return cache[rows]

    def mark(self, cache, rows):
        pass

    rewind = mark


class Script(HandMade):
    """Says the given text whatever it is fed: the character after the one at place i is
    script[i]."""

    def __init__(self, tokenizer, script, ends=True):
        super().__init__(tokenizer)
        self.tokens = [*tokenizer.encode(script).tolist(), *([END] if ends else [])]

    def logits(self, tokens):
        logits = torch.full((self.vocab_size,), -20.0)
        logits[self.tokens[min(max(len(tokens) - 2, 0), len(self.tokens) - 1)]] = 5.0
        logits[[BEGIN, UNKNOWN]] = 50.0  # never targets of training, so their logits mean nothing
        return logits


@pytest.fixture(params=FAMILIES)
def model(request):
    return small_model(request.param)


def texts(samples):
    return [sample["text"] for sample in samples]


def test_stops_at_the_end_of_the_tune():
    sample = generate(Script(TOKENIZER, "ABc|\n"), TOKENIZER, [Request(max_chars=50)])[0]
    assert (sample["text"], sample["stop_reason"], sample["new_chars"]) == ("ABc|\n", "end", 5)
    assert len(sample["surprisal_bits"]) == 5


def test_stops_at_the_budget():
    sample = generate(
        Script(TOKENIZER, "A", ends=False), TOKENIZER, [Request(prompt="AA|", max_chars=20)]
    )[0]
    assert (len(sample["text"]), sample["stop_reason"], sample["new_chars"]) == (23, "budget", 20)
    assert len(sample["surprisal_bits"]) == 20


def test_a_sample_does_not_depend_on_neighbours_or_batch_size(model):
    requests = [
        Request(
            prompt=("", "AB|", "A" * 40)[i % 3],
            seed=100 + i,
            temperature=(1.0, 0.8, 0.0)[i % 3 - 1],
            top_p=(1.0, 0.9)[i % 2],
            max_chars=30 + i,
        )
        for i in range(25)
    ]
    together = texts(generate(model, TOKENIZER, requests))
    assert len(set(together)) > 15
    assert together == [texts(generate(model, TOKENIZER, [request]))[0] for request in requests]
    assert together == texts(generate(model, TOKENIZER, requests, batch_rows=7))
    assert together == texts(generate(model, TOKENIZER, requests[::-1]))[::-1]


def test_a_long_prompt_is_read_at_one_stroke_whatever_stands_beside_it(model, monkeypatch):
    steps, step_rows = [], model.step_rows
    monkeypatch.setattr(model, "step_rows", lambda *args: steps.append(1) or step_rows(*args))
    long = Request(prompt="AB|C2" * 60, seed=1, max_chars=20)
    alone = generate(model, TOKENIZER, [long])[0]
    assert len(steps) == 20 or alone["stop_reason"] == "end"
    beside = generate(
        model, TOKENIZER, [Request(prompt="G", seed=2, max_chars=90), long, Request(max_chars=50)]
    )[1]
    assert all(alone[key] == beside[key] for key in alone if key != "seconds")


def test_a_larger_budget_goes_on_with_the_same_text(model):
    short, long = (
        texts(generate(model, TOKENIZER, unprompted(4, 0, max_chars=n)))[2] for n in (20, 300)
    )
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
    assert all(
        sample["new_chars"] == 200 and len(set(sample["text"][100:])) > 3 for sample in samples
    )


def test_incremental_generation_equals_recomputing_everything(model):
    """Greedy text from the cache is the argmax of one whole pass over the same window (before it
    slides)."""
    text = generate(model, TOKENIZER, [Request(temperature=0, max_chars=30)])[0]["text"]
    tokens = [END, BEGIN]
    for character in text:
        with torch.no_grad():
            logits = model(torch.tensor([tokens]))[0][0, -1]
        logits[[BEGIN, UNKNOWN]] = -math.inf
        assert TOKENIZER.decode([int(logits.argmax())]) == character
        tokens.append(int(TOKENIZER.encode(character)[0]))


def test_surprisal_is_the_models_own_whatever_the_sampler(model):
    greedy = generate(model, TOKENIZER, [Request(temperature=0, max_chars=5)])[0]
    tokens, expected = [END, BEGIN, *TOKENIZER.encode(greedy["text"])], []
    for i in range(2, len(tokens)):
        with torch.no_grad():
            logits = model(torch.tensor([tokens[:i]]))[0][0, -1].double()
        logits[[BEGIN, UNKNOWN]] = -math.inf
        expected.append(-logits.log_softmax(0)[tokens[i]].item() / math.log(2))
    assert greedy["surprisal_bits"] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    "request_",
    [
        Request(prompt="§"),
        Request(temperature=-1),
        Request(top_p=0),
        Request(min_p=2),
        Request(max_chars=0),
        Request(temperature=float("nan")),
        Request(top_k=-1),
        Request(n_bars=4),
    ],
)
def test_settings_that_make_no_sense_are_refused(request_):
    with pytest.raises(ValueError):
        generate(Script(TOKENIZER, "A"), TOKENIZER, [request_])


def test_no_requests_give_no_samples():
    assert generate(Script(TOKENIZER, "A"), TOKENIZER, []) == []


# ---------------------------------------------------------------- right bars

HEADER = "X:1\nM:1/1\nL:1/1\nK:C\n"  # one note fills a bar
MUSIC = CharTokenizer(HEADER + "DEFGABcdefgab|z")


class Chain(HandMade):
    """The next character depends on the last one only. table: {character: {next: probability}};
    None: each token is as likely as every other, whatever came before."""

    def __init__(self, tokenizer, table=None):
        super().__init__(tokenizer)
        self.table = torch.zeros(self.vocab_size, self.vocab_size)
        for last, nexts in (table or {}).items():
            row = self.table[tokenizer.encode(last)[0]].fill_(-torch.inf)
            for character, probability in nexts.items():
                row[tokenizer.encode(character)[0]] = math.log(probability)

    def logits(self, tokens):
        return self.table[tokens[-1]]

    def step_rows(self, texts, cache=None):
        return self.table[[text[-1] for text in texts]], torch.zeros(len(texts))


TWO = "X:1\nM:2/4\nL:1/4\nK:C\n"  # two notes, or one of two beats
TWO_TOKENIZER = CharTokenizer(TWO + "D|")
CHAIN = {
    "\n": {"C": 0.5, "D": 0.5},
    "|": {"C": 0.3, "D": 0.7},
    "C": {"|": 0.5, "C": 0.2, "D": 0.2, "2": 0.1},
    "D": {"|": 0.3, "C": 0.4, "D": 0.1, "2": 0.2},
    "2": {"|": 0.7, "C": 0.2, "2": 0.1},
}


def right(requests, model, tokenizer=MUSIC, **settings):
    return generate(
        model,
        tokenizer,
        [request._replace(bars="right") for request in requests],
        right_bars=RightBars,
        **settings
    )


def test_every_finished_tune_of_a_model_that_knows_nothing_is_right_or_stuck():
    samples = right([Request(HEADER, seed=i, max_chars=70) for i in range(8)], Chain(MUSIC))
    ended = [sample for sample in samples if sample["stop_reason"] == "end"]
    assert ended and all(check_abc(s["text"], len(HEADER)).level == 5 for s in ended)
    assert all(
        check_abc(s["text"]).meter and check_abc(s["text"]).tokens
        for s in samples
        if s["new_chars"]
    )
    assert all(sum(sample["draws"]) > sample["n_kept"] for sample in samples)
    unprompted_ = right(unprompted(2, 0, max_chars=200), Chain(MUSIC))  # it never finds a header
    assert [(s["stop_reason"], s["text"], s["draws"], s["n_kept"]) for s in unprompted_] == [
        ("stuck", "", [MAX_TRIES], 0)
    ] * 2


@pytest.mark.parametrize(
    "before, bars",
    [
        (
            "",
            ["C|", "D|", "CC|", "CD|", "DC|", "DD|", "C2|", "D2|"],
        ),  # the first bar may be a pickup
        ("CD|", ["CC|", "CD|", "DC|", "DD|", "C2|", "D2|"]),
    ],
)
def test_bars_come_as_often_as_the_model_means_them_given_that_they_are_right(before, bars):
    def probability(bar):
        return math.prod(
            CHAIN[last].get(character, 0) for last, character in zip((TWO + before)[-1] + bar, bar)
        )

    samples = right(
        [Request(TWO + before, seed=i, max_chars=14) for i in range(1500)],
        Chain(TWO_TOKENIZER, CHAIN),
        TWO_TOKENIZER,
        batch_rows=1500,
    )
    firsts = [
        text[: text.index("|") + 1]
        for text in (s["text"][len(TWO + before) :] for s in samples)
        if text
    ]
    n, total = len(firsts), sum(map(probability, bars))
    assert n == 1500 and set(firsts) == set(bars)
    for bar in bars:
        share = probability(bar) / total
        assert abs(firsts.count(bar) / n - share) < 4 * (share * (1 - share) / n) ** 0.5, bar


class Trap(HandMade):
    """Bars of C, and now and then of D; after a D comes F and from then on no bar that is right."""

    def logits(self, tokens):
        text = self.tokenizer.decode(tokens.tolist())[len(HEADER) :]
        likely = "CD" if text[-1:] in ("", "|") else "|"
        if "D|" in text:
            likely = "F" if text.endswith("D|") else "|" if text[-2:] in ("|F", "GG") else "G"
        logits = torch.full((self.vocab_size,), -40.0)
        logits[torch.as_tensor(self.tokenizer.encode(likely).astype(int))] = 5.0
        logits[self.tokenizer.encode("D")[0]] -= 1.5
        return logits


def test_where_no_right_bar_leads_on_more_than_the_bar_is_drawn_again():
    requests = [Request(HEADER + "C|" * 40, seed=i, max_chars=12) for i in range(2)]
    samples = right(requests, Trap(MUSIC), MUSIC)
    assert {(sample["stop_reason"], sample["text"][len(HEADER) : -4]) for sample in samples} == {
        ("budget", "C|" * 44)
    }
    assert any(MAX_TRIES in sample["draws"] for sample in samples)
    assert [right([request], Trap(MUSIC), MUSIC)[0]["text"] for request in requests] == [
        s["text"] for s in samples
    ]
    # nothing given is taken back
    stuck = right([Request(HEADER + "D|F|", max_chars=16)], Trap(MUSIC), MUSIC)[0]
    assert (stuck["stop_reason"], stuck["new_chars"], stuck["draws"]) == ("stuck", 0, [MAX_TRIES])


class Ends(HandMade):
    """Would rather end the tune after every bar, else goes on with C."""

    def logits(self, tokens):
        logits = torch.full((self.vocab_size,), -40.0)
        is_after_bar = self.tokenizer.decode(tokens[-1:].tolist()) == "|"
        logits[self.tokenizer.encode("C" if is_after_bar else "|")[0]] = 5.0
        logits[END] = 20.0 if is_after_bar else -40.0
        return logits


def test_so_many_bars_as_are_asked_for():
    chain = Chain(TWO_TOKENIZER, CHAIN)
    sample = right([Request(TWO + "CD|", seed=3, max_chars=200, n_bars=5)], chain, TWO_TOKENIZER)[0]
    assert sample["stop_reason"] == "bars" and sample["text"][len(TWO) :].count("|") == 1 + 5
    sample = right([Request(HEADER + "C|D|", max_chars=99, n_bars=2)], Ends(MUSIC))[0]
    assert sample["stop_reason"] == "bars" and sample["text"].endswith("C|D|C|C|")


def test_right_bars_do_not_depend_on_the_batch(model, monkeypatch):
    """Over the end of a context of 32 too, where a bar is taken back behind it, and where more than
    a bar is."""
    monkeypatch.setattr(sampling, "MAX_TRIES", 3)
    monkeypatch.setattr(sampling, "BARS_PER_GIVEN_UP", 1)
    torch.manual_seed(3)
    model = build_model({**model.config, "vocab_size": MUSIC.vocab_size}).eval()
    model.head = nn.Linear(model.head.in_features, MUSIC.vocab_size)
    nn.init.normal_(model.head.weight, std=0.05)
    with torch.no_grad():  # half of its bars are right
        model.head.bias.fill_(-3)
        model.head.bias[torch.as_tensor(MUSIC.encode("CDEFGAB||").astype(int))] = torch.tensor(
            [0.0] * 7 + [2.0] * 2
        )
    prompts = HEADER, HEADER + "C|D|E|", HEADER + "C|D|E|F|G|A|\n"
    requests = [
        Request(
            prompts[i % 3],
            seed=i,
            max_chars=(20, 13)[i % 2],
            bars=("right", "right", "free")[i // 2 % 3],
        )
        for i in range(12)
    ]
    together = generate(model, MUSIC, requests, right_bars=RightBars)
    redrawn = [
        s
        for s in together
        if s["bars"] == "right" and sum(s["draws"]) > s["n_kept"] > 3 and s["new_chars"] > 9
    ]
    assert len(redrawn) > 2 and any(
        len(s["draws"]) > s["n_kept"] + 1 for s in together if s["bars"] == "right"
    )
    keys = "text", "stop_reason", "surprisal_bits"
    alone = [generate(model, MUSIC, [request], right_bars=RightBars)[0] for request in requests]
    assert [[s[key] for key in keys] for s in together] == [[s[key] for key in keys] for s in alone]
    turned = generate(model, MUSIC, requests[::-1], batch_rows=7, right_bars=RightBars)[::-1]
    assert [s["text"] for s in turned] == [s["text"] for s in alone]


def test_right_bars_that_a_budget_stops_end_with_whole_bars():
    for sample in right(
        [Request(TWO, seed=i, max_chars=31) for i in range(8)],
        Chain(TWO_TOKENIZER, CHAIN),
        TWO_TOKENIZER,
    ):
        assert (
            sample["stop_reason"] == "budget"
            and sample["text"].endswith("|")
            and 27 < sample["new_chars"] <= 31
        )
        assert check_abc(sample["text"]).meter
        assert len(sample["surprisal_bits"]) == sample["new_chars"]


@pytest.mark.parametrize(
    "body, reason",
    [
        ("CD|", "instead of"),
        ("CD", "longer"),
        ("C|D/2|E|", "instead of"),
        ("C|D/2|", "shorter"),
        ("[V:1]C|D|[V:2]E|[V:1]F|", "turns"),
        ("[CE|", "read"),
    ],
)
def test_a_prompt_that_no_right_bar_can_follow_is_refused(body, reason):
    tokenizer = CharTokenizer(MUSIC.characters + "[]V2")
    with pytest.raises(ValueError, match="no right bar can follow this prompt: .*(" + reason + ")"):
        right([Request(HEADER + body)], Chain(tokenizer), tokenizer)


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
            text = text[len(piece) :]
        return np.array(tokens, self.dtype)

    def decode(self, tokens):
        return "".join(self.texts[token] for token in tokens)


PAIRS = Pairs("ABc|\n", ["AB", "c|"])


def test_budgets_count_characters_whatever_a_token_is():
    sample = generate(
        Script(PAIRS, "ABc|ABc|", ends=False), PAIRS, [Request(prompt="AB", max_chars=5)]
    )[0]
    assert (sample["text"], sample["new_chars"], sample["stop_reason"]) == ("ABc|ABc", 5, "budget")
    sample = generate(Script(PAIRS, "ABc|"), PAIRS, [Request(max_chars=5)])[0]
    assert (sample["text"], sample["new_chars"], sample["stop_reason"]) == ("ABc|", 4, "end")


def test_surprisal_is_one_number_a_character_and_spread_evenly_over_a_token():
    whole = generate(Script(PAIRS, "ABc|\n"), PAIRS, [Request(max_chars=50)])[0]
    assert whole["text"] == "ABc|\n" and len(whole["surprisal_bits"]) == 5
    pair, same, *_, single = whole["surprisal_bits"]
    assert pair == same == pytest.approx(single / 2, abs=1e-3)
    cut = generate(Script(PAIRS, "ABc|", ends=False), PAIRS, [Request(max_chars=3)])[0]
    assert cut["text"] == "ABc" and len(cut["surprisal_bits"]) == 3
