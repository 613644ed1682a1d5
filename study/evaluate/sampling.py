"""Draws music from a trained model: filters of the next-token distribution, batched generation, and
rejection sampling of bars.

    samples = generate(model, tokenizer, unprompted(100, base_seed=0, max_chars=2000))
    samples[0]["text"], samples[0]["stop_reason"]

Every sample is a *request* (prompt, sampler settings, seed, budget). Requests are drawn side by
side, whatever their settings, each from its own random stream. On CPU the same request gives the
same characters in any batch, tested on 1 to 100 neighbours. Across devices, torch versions or CPU
types the last bits of the logits differ, and now and then a draw falls on the other side of a
boundary.

With `bars="right"` a bar that is not exactly as long as its meter is drawn again, from the model's
state before it: that samples P(bar | what came before, the bar is right) exactly, where a mask on
characters would sample something else (Park et al. 2024). What is right is judged by
`music/right_bars.py`; how many draws it took is part of the sample.

A bar that was wrong MAX_TRIES times is given up, and a larger unit is drawn again: all voices' bars
since the last place but one where they were level, the next time twice as many such turns, and so
on back to the header. So turns are drawn from P(turns | what came before, each bar right, no bar
given up). A bar that is right with probability p is given up with probability (1 - p)^64, one in
850 at p = 0.1: what is left out are places from which hardly any right bar leads on.

Budgets and surprisal count characters whatever a token is (`tokenizer.token_chars`), so that models
of different vocabularies can be compared; of events they count the nominal ones. There is no repetition penalty: ABC needs `|`, digits and
`z` again and again, and music repeats.
"""

import copy
import math
import time
from typing import Any, NamedTuple

from study.stages.process import progress

import numpy as np
import torch

from common import BEGIN, END, UNKNOWN

# how a tune starts in the training text: after the end of another; see benchmarks/sampling.md
START = (END, BEGIN)
# rows of a batch are a multiple of it: products add up in an order that depends on the number of
# rows when there are fewer than four (measured)
LANES = 8
BATCH_ROWS = 128  # rows at once; the key/value cache of XL takes 8 MB a row
SHRINK = 0.75  # finished rows leave when the batch can shrink to this share of its rows
MAX_TRIES = 64  # draws of one bar; then more than the bar is drawn again
# a tune may give up one bar, and one more for so many bars of all voices; then it is stuck
BARS_PER_GIVEN_UP = 8
DRAWS = 256  # uniform numbers taken from a row's generator at a time
# the sampler that changes nothing
MODEL_ITSELF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


class Request(NamedTuple):
    """One sample to draw. Filters are off at top_k 0, top_p 1 and min_p 0; temperature 0 takes the
    likeliest."""

    prompt: str = ""
    seed: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    max_chars: int = 2000  # budget: characters drawn after the prompt
    bars: str = "free"  # "right": a bar that its meter does not allow is drawn again
    # with right bars: so many more of every voice, and no end of the tune before; 0: any number
    n_bars: int = 0


def unprompted(n, base_seed, max_chars, **sampler):
    """n requests without a prompt; request i has seed base_seed + i."""
    return [Request(seed=base_seed + i, max_chars=max_chars, **sampler) for i in range(n)]


def truncation(sampler):
    """What a sampler leaves out, in words, e.g. "top-p 0.95"; "no truncation" if nothing."""
    parts = [
        f"{key.replace('_', '-')} {sampler[key]:g}"
        for key in ("top_k", "top_p", "min_p")
        if sampler[key] != MODEL_ITSELF[key]
    ]
    return ", ".join(parts) or "no truncation"


def describe_sampler(sampler):
    """A sampler in words, e.g. "temperature 0.9, top-p 0.95"."""
    return f"temperature {sampler['temperature']:g}, {truncation(sampler)}"


# ---------------------------------------------------------------- the next token


def filtered_weights(logits, temperature, top_k, top_p, min_p):
    """Unnormalised probabilities after temperature, top-k, top-p and min-p, in that order.

    logits: (B, V) tensor; the settings: one number each, or (B,) tensors. Returns (B, V) float64,
    zero where a filter cuts. top-p keeps the likeliest tokens until their sum reaches top_p, always
    at least the first; min-p keeps what has at least min_p times the probability of the likeliest.
    Each filter sees what the one before it left, renormalised. Of equally likely tokens the one of
    lower number goes first.

    >>> filtered_weights(torch.tensor([[0.5, 0.3, 0.2]]).log(), 1.0, 2, 1.0, 0.0)[0].round(decimals=3).tolist()
    [1.0, 0.6, 0.0]
    """
    logits = logits.double()
    n_rows, n_tokens = logits.shape
    temperature, top_k, top_p, min_p = (
        torch.as_tensor(value, dtype=torch.float64).expand(n_rows).unsqueeze(1)
        for value in (temperature, top_k, top_p, min_p)
    )
    logits = logits - logits.max(dim=1, keepdim=True).values
    weights = (logits / temperature.clamp_min(1e-8)).exp()
    top_k = torch.where(temperature <= 1e-6, 1.0, torch.where(top_k > 0, top_k, float(n_tokens)))
    if (top_k >= n_tokens).all() and (top_p >= 1).all() and (min_p <= 0).all():
        return weights
    sorted_weights, order = weights.sort(dim=1, descending=True, stable=True)
    keep = torch.arange(n_tokens) < top_k
    share = sorted_weights * keep
    share = share / share.sum(dim=1, keepdim=True)
    keep &= (share.cumsum(dim=1) - share < top_p) | (top_p >= 1)
    keep &= sorted_weights >= min_p * sorted_weights[:, :1]
    keep[:, 0] = True
    return weights * torch.zeros_like(keep).scatter(1, order, keep)


def draw(weights, uniform):
    """Indices (B,) drawn from unnormalised weights (B, V) by the inverse of their running sum;
    uniform (B,), in [0, 1).
    """
    running = weights.cumsum(dim=1)
    place = torch.searchsorted(
        running, (uniform.unsqueeze(1) * running[:, -1:]), right=True
    ).squeeze(1)
    # rounding must not reach a zero weight
    last = weights.shape[1] - 1 - (weights.flip(1) > 0).int().argmax(dim=1)
    return torch.minimum(place, last)


# ---------------------------------------------------------------- generation


def generate(model, tokenizer, requests, device="cpu", batch_rows=BATCH_ROWS, right_bars=None):
    """Draws every request; returns a list of dicts in the order of the requests.

    Keys: the request's own; `text` (prompt and what was drawn, without end token); `new_chars`;
    `stop_reason` ("end": the model ended the tune, "budget": max_chars were drawn, "bars": n_bars
    are there, "stuck": more bars were given up than a tune may, or nothing before one could be
    taken back); `surprisal_bits` (-log2 of the probability that the model itself, at temperature 1
    and unfiltered, gave each character of `text`; a token of several characters spreads its bits
    evenly over them); `end_bits` (the same of the end token, None if there is none); `seconds`
    (from the start of its batch to its last character). With right bars also `n_kept`, bars (header
    and end counted as such) in the text, and `draws`, how often each bar was drawn, those given up
    or taken back among them. Right bars that do not reach the end of the tune stop after the last
    bar that all voices have.

    right_bars: the class RightBars of `music/right_bars.py`, for requests with right bars. It is
    handed over, not named here, so that a change of the judge leaves free samples as they are.
    The begin and unknown tokens are never drawn: neither is ever a target of the training loss.
    Raises ValueError if a prompt has a character that the vocabulary lacks, if no right bar can
    follow it, or if a setting makes no sense.
    """
    for request in requests:
        _check(request, tokenizer, right_bars)
    rows = []
    for request in requests:
        if request.bars == "right":
            rows.append(_RightRow(request, tokenizer, right_bars))
        else:
            rows.append(_Row(request, tokenizer))
    for first in range(0, len(rows), batch_rows):
        _draw_batch(model, rows[first : first + batch_rows], device)
    return [row.sample() for row in rows]


def _check(request, tokenizer, right_bars):
    if UNKNOWN in tokenizer.encode(request.prompt):
        foreign = [c for c in sorted(set(request.prompt)) if UNKNOWN in tokenizer.encode(c)]
        raise ValueError(
            "the prompt has characters that the training text lacks:"
            f" {' '.join(map(repr, foreign))}"
        )
    if not (
        request.temperature >= 0
        and request.top_k >= 0
        and 0 < request.top_p <= 1
        and 0 <= request.min_p <= 1
        and request.max_chars >= 1
        and request.bars in ("free", "right")
        and (request.n_bars == 0 or request.n_bars > 0 and request.bars == "right")
    ):
        raise ValueError(
            "sampler settings out of range: temperature >= 0, top-k >= 0, 0 < top-p <= 1, 0 <="
            " min-p <= 1, at least 1 character, bars free or right, a number of bars with right"
            " only"
        )
    wrong = right_bars.what_is_wrong(request.prompt) if request.bars == "right" else None
    if wrong:
        raise ValueError(f"no right bar can follow this prompt: {wrong}")


class _Row:
    """A request that is being drawn: its tokens so far, and what ended it (None: it goes on)."""

    waits = False

    def __init__(self, request, tokenizer):
        self.request, self.tokenizer = request, tokenizer
        self.tokens = [*START, *tokenizer.encode(request.prompt).tolist()]
        self.bits = []  # surprisal of every token behind START
        self.n_chars = 0  # drawn after the prompt
        self.stop_reason, self.seconds = None, 0.0
        self.uniforms = _uniforms(request.seed)

    def is_drawn(self):
        """True while the row takes tokens."""
        return self.stop_reason is None and not self.waits

    def add(self, token, bits):
        """Takes the next token; returns the verdict on the newest bar: "right", "wrong" or
        "open"."""
        self.tokens.append(token)
        self.bits.append(bits)
        # an event counts as a character at least, so that budgets end
        self.n_chars += max(1, int(self.tokenizer.token_chars[token]))
        return self.judge(token)

    def judge(self, token):
        """Ends a row whose tune, or whose budget, is over with this token."""
        if token == END:
            self.stop_reason = "end"
        elif self.n_chars >= self.request.max_chars:
            self.stop_reason = "budget"
        return "open"

    def text(self):
        """Returns what stands in the row so far."""
        return self.tokenizer.decode(self.tokens[len(START) :])

    def sample(self):
        """Returns a finished row as `generate` does; what the last token has beyond the budget is
        cut off."""
        has_ended = self.stop_reason == "end"
        n_tokens = len(self.bits) - has_ended
        texts = self.tokenizer.texts_of(self.tokens[len(START) :])
        n_given = len(self.request.prompt)
        text = "".join(texts)[: n_given + self.request.max_chars]
        bits = bits_of_characters(self.bits[:n_tokens], [len(part) for part in texts[:n_tokens]])
        return {
            **self.request._asdict(),
            "text": text,
            "new_chars": len(text) - n_given,
            "stop_reason": self.stop_reason,
            "surprisal_bits": [round(n, 3) for n in bits[: len(text)].tolist()],
            "end_bits": round(self.bits[-1], 3) if has_ended else None,
            "seconds": round(self.seconds, 3),
        }


class _Place(NamedTuple):
    """Where a row with right bars can go back to: its numbers of tokens and of characters there,
    and its judge."""

    n_tokens: int
    n_chars: int
    bars: Any


class _RightRow(_Row):
    """A row whose bars shall be right.

    bars: the judge; kept: the place after the last right bar; levels: the places where all voices
    had equally many bars, the header first; waits: True if the row went back farther than the
    model's cache can.
    """

    def __init__(self, request, tokenizer, right_bars):
        super().__init__(request, tokenizer)
        self.bars = right_bars(request.prompt, request.n_bars)
        self.kept = self.place()
        self.levels = [self.kept]
        self.n_given_up = 0  # bars, in all
        self.n_retreats = 0  # since the most bars stood
        self.most_bars = 0

    def place(self):
        """Returns where the row is; the judge's copies go on counting draws together."""
        return _Place(len(self.tokens), self.n_chars, copy.copy(self.bars))

    def judge(self, token):
        """Keeps a bar that is right with this token, takes back a wrong one, and ends a row that is
        over."""
        has_ended = token == END
        newest = self.tokenizer.decode([token])
        if not (has_ended or self.bars.is_due(newest, self.n_chars)):
            return "open"
        verdict = self.bars.judge(self.text(), self.n_chars, has_ended)
        if verdict == "right":
            self.keep(has_ended)
        elif verdict == "wrong":
            self.go_to(self.kept)
            if self.bars.n_tries == MAX_TRIES:
                self.give_up()
        return verdict

    def keep(self, has_ended):
        """Keeps all up to here. A bar may run over the budget before it is judged."""
        fits = self.n_chars - has_ended <= self.request.max_chars
        self.kept = self.place()
        if fits and self.bars.is_level:
            self.levels.append(self.kept)
        if fits and (has_ended or self.bars.is_done):
            self.stop_reason = "end" if has_ended else "bars"
        elif self.n_chars >= self.request.max_chars:
            self.cut("budget")

    def cut(self, reason):
        """Ends the row with the last bar that all voices have."""
        self.go_to(self.levels[-1])
        self.stop_reason = reason

    def go_to(self, place):
        """Takes back what was drawn since a place."""
        del self.tokens[place.n_tokens :], self.bits[place.n_tokens - len(START) :]
        self.n_chars = place.n_chars

    def give_up(self):
        """Goes back before the bar that cannot be drawn: to the last place but one where the voices
        were level, then twice as far each time until the row has got beyond that bar; or ends the
        row, which is stuck."""
        self.bars.give_up()
        if self.bars.n_bars > self.most_bars:
            self.n_retreats, self.most_bars = 0, self.bars.n_bars
        earlier = [place for place in self.levels if place.n_tokens < self.kept.n_tokens]
        if not earlier or self.n_given_up > self.most_bars // BARS_PER_GIVEN_UP:
            return self.cut("stuck")
        self.n_given_up += 1
        self.n_retreats += 1
        n_back = min(2**self.n_retreats, len(earlier))
        self.levels = earlier[: len(earlier) + 1 - n_back]
        self.kept = self.levels[-1]
        self.bars = copy.copy(self.kept.bars)
        self.go_to(self.kept)
        self.waits = True

    def sample(self):
        """Returns a finished row as `generate` does."""
        return {**super().sample(), "n_kept": self.bars.n_kept, "draws": self.bars.draws}


def _uniforms(seed):
    """Yields numbers in [0, 1) from a stream of its own."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.rand(DRAWS, dtype=torch.float64, generator=generator).tolist()


@torch.inference_mode()
def _draw_batch(model, rows, device):
    """Draws rows side by side until all have ended. A row that went back farther than the cache can
    goes on when the others have ended, with a cache read anew."""
    started = time.perf_counter()
    for row in rows:
        if row.request.prompt:
            row.bits = _prompt_bits(model, row.tokens, device)
    while rows:
        _draw_rows(model, rows, device, started)
        rows = [row for row in rows if row.waits]
        for row in rows:
            row.waits = False


def _prompt_bits(model, tokens, device):
    """Surprisal of a prompt's tokens, read alone and at one stroke."""
    idx = torch.tensor([tokens])
    logits = torch.cat(list(model.read_on(idx.to(device))), dim=1)[0, :-1]
    return _surprisal(_without_begin(logits), idx[0, 1:])[len(START) - 1 :]


def _without_begin(logits):
    """Logits (n, V) on the CPU, of which the begin and unknown tokens are never drawn."""
    logits = logits.float().cpu()
    logits[:, [BEGIN, UNKNOWN]] = -torch.inf
    return logits


def _surprisal(logits, tokens):
    """Bits of tokens (n,) under logits (n, V), a list."""
    nats = -logits.double().log_softmax(dim=1).gather(1, tokens.unsqueeze(1)).squeeze(1)
    return (nats / math.log(2)).float().tolist()


def _draw_rows(model, rows, device, started):
    """Draws these rows until each has ended or waits; notes the seconds that each took."""
    desc, cache = f"{len(rows)} samples", None
    padding = [_Row(Request(), rows[0].tokenizer) for _ in range(-len(rows) % LANES)]
    for row in padding:
        row.stop_reason = "padding"
    rows = rows + padding
    settings = torch.tensor(
        [[getattr(row.request, name) for row in rows] for name in MODEL_ITSELF], dtype=torch.float64
    )
    goes_on = iter(lambda: any(row.is_drawn() for row in rows), False)
    for _ in progress(goes_on, desc=desc, unit="token"):
        logits, cache = model.step_rows([row.tokens for row in rows], cache)
        logits = _without_begin(logits)
        allowed = logits.clone()
        allowed[torch.tensor([row.request.n_bars > 0 for row in rows]), END] = -torch.inf
        uniform = [next(row.uniforms) if row.is_drawn() else 0.0 for row in rows]
        weights = filtered_weights(allowed, *settings)
        drawn = draw(weights, torch.tensor(uniform, dtype=torch.float64))
        places = {"right": [], "wrong": [], "open": []}  # of the rows with such a newest bar
        for place, (token, bits) in enumerate(zip(drawn.tolist(), _surprisal(logits, drawn))):
            row = rows[place]
            if row.is_drawn():
                places[row.add(token, bits)].append(place)
                row.seconds = time.perf_counter() - started
        if places["right"]:
            model.mark(cache, torch.tensor(places["right"], device=device))
        if places["wrong"]:
            model.rewind(cache, torch.tensor(places["wrong"], device=device))
        kept = _rows_to_keep(rows)
        if kept:
            cache = model.take_rows(cache, torch.tensor(kept, device=device))
            rows, settings = [rows[place] for place in kept], settings[:, kept]


def bits_of_characters(bits, n_chars):
    """The bits of tokens spread evenly over the characters that each gives; where it gives none,
    over those of the next one."""
    bits, n_chars = np.array(bits, float), np.asarray(n_chars, int)
    for i in np.flatnonzero(n_chars[:-1] == 0):
        bits[i + 1] += bits[i]
    return np.repeat(bits / np.maximum(n_chars, 1), n_chars)


def _rows_to_keep(rows):
    """Places of the rows to go on with: all that are drawn and others up to a multiple of LANES;
    None where leaving the rest saves too little."""
    drawn = [place for place, row in enumerate(rows) if row.is_drawn()]
    others = [place for place, row in enumerate(rows) if not row.is_drawn()]
    kept = drawn + others[: -len(drawn) % LANES]
    return sorted(kept) if len(kept) <= SHRINK * len(rows) else None
