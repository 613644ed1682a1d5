"""Draws music from a trained model: filters of the next-token distribution, batched generation, and
rejection sampling of bars.

    samples = generate(model, tokenizer, unprompted(100, base_seed=0, max_chars=2000))
    samples[0]["text"], samples[0]["stop_reason"]

Requests are drawn side by side, each from its own random stream: on a CPU the same request gives
the same characters in any batch. Across devices, torch versions or kinds of CPU the last bits of
the logits differ, and now and then a draw falls on the other side of a boundary.

With `bars="right"` a bar that is not exactly as long as its meter is drawn again, from the model's
state before it: that samples P(bar | what came before, the bar is right) exactly, where a mask on
characters would sample something else (Park et al. 2024). `music/right_bars.py` judges. A bar that
was wrong MAX_TRIES times is given up, and more is drawn again (`_RightRow.give_up`).

`--continue` draws bars of which hardly one would be right under a mask (`is_masked`): what no right
bar can begin with is struck off before a token is drawn. Measured samples are never drawn so.

Budgets and surprisal count characters whatever a token is (`tokenizer.token_chars`; of events the
nominal ones). There is no repetition penalty: music repeats.
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
# draws of one bar; a bar that is right with probability 0.1 fails so often once in 850 times
MAX_TRIES = 64
# a tune may give up one bar, and one more for so many bars of all voices; then it is stuck
BARS_PER_GIVEN_UP = 8
DRAWS = 256  # uniform numbers taken from a row's generator at a time
# the sampler that changes nothing: its filters are off; temperature 0 takes the likeliest token
MODEL_ITSELF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


class Request(NamedTuple):
    """One sample to draw."""

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
    """Returns n requests without a prompt; request i has seed base_seed + i."""
    return [Request(seed=base_seed + i, max_chars=max_chars, **sampler) for i in range(n)]


def describe_sampler(sampler):
    """Returns a sampler in words: "temperature 0.9, top-p 0.95", "temperature 1, no truncation"."""
    filters = [
        f"{key.replace('_', '-')} {sampler[key]:g}"
        for key in ("top_k", "top_p", "min_p")
        if sampler[key] != MODEL_ITSELF[key]
    ]
    return f"temperature {sampler['temperature']:g}, {', '.join(filters) or 'no truncation'}"


# ---------------------------------------------------------------- the next token


def filtered_weights(logits, temperature, top_k, top_p, min_p):
    """Returns unnormalised probabilities after temperature, top-k, top-p and min-p, in that order:
    (B, V) float64, zero where a filter cuts.

    logits: (B, V) tensor; the settings: one number each, or (B,) tensors. top-p keeps the likeliest
    tokens until their sum reaches top_p; min-p what has at least min_p times the probability of the
    likeliest. Each filter sees what the one before it left, renormalised; the likeliest stays.
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
    """Draws indices (B,) from unnormalised weights (B, V) by the inverse of their running sum;
    uniform (B,), in [0, 1)."""
    running = weights.cumsum(dim=1)
    wanted = uniform.unsqueeze(1) * running[:, -1:]
    place = torch.searchsorted(running, wanted, right=True).squeeze(1)
    # rounding must not reach a zero weight
    last = weights.shape[1] - 1 - (weights.flip(1) > 0).int().argmax(dim=1)
    return torch.minimum(place, last)


# ---------------------------------------------------------------- generation


def generate(model, tokenizer, requests, device="cpu", batch_rows=BATCH_ROWS, right_bars=None):
    """Draws every request; returns a dict for each.

    Keys: the request's own; `text` (prompt and what was drawn, without end token); `new_chars`;
    `stop_reason` ("end": the model ended the tune, "budget": max_chars were drawn, "bars": n_bars
    are there, "stuck": no right bar leads on); `surprisal_bits` (-log2 of the probability that the
    model itself, at temperature 1 and unfiltered, gave each character drawn); `seconds` (from the
    start of its batch to its last character). With right bars also `n_kept`, bars (header and end
    counted as such) in the text, and `draws`, how often each bar was drawn, those given up among
    them; the text ends with the tune or with a bar that all voices have.

    right_bars: the judge, RightBars of `music/right_bars.py`. It is handed over, not named here, so
    that a change of it leaves free samples as they are. Raises ValueError if the vocabulary lacks a
    character of a prompt, if no right bar can follow it, or if a setting makes no sense.
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
        and (request.n_bars == 0 or request.n_bars > 0 and request.bars == "right")
    ):
        raise ValueError(
            "sampler settings out of range: temperature >= 0, top-k >= 0, 0 < top-p <= 1, 0 <="
            " min-p <= 1, at least 1 character; a number of bars needs right bars"
        )
    wrong = right_bars.what_is_wrong(request.prompt) if request.bars == "right" else None
    if wrong:
        raise ValueError(f"no right bar can follow this prompt: {wrong}")


class _Row:
    """A request that is being drawn. is_open: it takes tokens; n_wanted, n_done: new bars of all
    voices."""

    n_wanted = n_done = 0

    def __init__(self, request, tokenizer, is_open=True):
        self.request, self.tokenizer, self.is_open = request, tokenizer, is_open
        # an event counts as a character at least, so that budgets end
        self.token_chars = np.maximum(tokenizer.token_chars, 1).tolist()
        self.tokens = [*START, *tokenizer.encode(request.prompt).tolist()]
        self.n_given = len(self.tokens)
        self.bits = []  # surprisal of every token drawn
        self.n_chars = 0  # drawn after the prompt
        self.stop_reason, self.seconds = None, 0.0
        self.uniforms = _uniforms(request.seed)

    def add(self, token, bits):
        """Takes the next token; returns the verdict on its bar: "right", "wrong" or "open"."""
        self.tokens.append(token)
        self.bits.append(bits)
        self.n_chars += self.token_chars[token]
        return self.judge(token)

    def judge(self, token):
        """Ends a row whose tune, or whose budget, is over with this token."""
        if token == END:
            self.stop("end")
        elif self.n_chars >= self.request.max_chars:
            self.stop("budget")
        return "open"

    def refuses(self, token):
        """Returns whether a token must not be drawn here."""
        return False

    def stop(self, reason):
        self.is_open, self.stop_reason = False, reason

    def text(self):
        return self.tokenizer.decode(self.tokens[len(START) :])

    def sample(self):
        """Returns a finished row as `generate` does, cut at its budget."""
        texts = self.tokenizer.texts_of(self.tokens[len(START) :])
        n_chars = [len(text) for text in texts[self.n_given - len(START) :]]
        given = len(self.request.prompt)
        text = "".join(texts)[: given + self.request.max_chars]
        bits = bits_of_characters(self.bits, n_chars)[: len(text) - given]
        return {
            **self.request._asdict(),
            "text": text,
            "new_chars": len(text) - given,
            "stop_reason": self.stop_reason,
            "surprisal_bits": [round(n, 3) for n in bits.tolist()],
            "seconds": round(self.seconds, 3),
        }


class _Place(NamedTuple):
    """Where a row with right bars can go back to."""

    n_tokens: int
    n_chars: int
    bars: Any


class _RightRow(_Row):
    """A row whose bars shall be right. bars: the judge; kept: the place after the last right bar;
    levels: the places where all voices had equally many bars, the header first."""

    def __init__(self, request, tokenizer, right_bars):
        super().__init__(request, tokenizer)
        self.bars = right_bars(request.prompt, request.n_bars)
        self.n_wanted, self.n_before = self.bars.n_wanted_in_all, self.bars.n_bars
        self.kept = self.place()
        self.levels = [self.kept]
        self.n_given_up = 0  # bars, in all
        self.n_retreats = 0  # since the most bars stood
        self.most_bars = 0

    @property
    def n_done(self):
        return self.bars.n_bars - self.n_before

    def place(self):
        """Returns where the row is; the judge's copies go on counting draws together."""
        return _Place(len(self.tokens), self.n_chars, copy.copy(self.bars))

    def judge(self, token):
        """Keeps a bar that is right with this token, and takes back a wrong one."""
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

    def refuses(self, token):
        """Returns whether no right bar can begin with this token and those before it. An event has
        no text of its own, and is judged at its bar's end."""
        if not self.bars.is_masked:
            return False
        text = self.tokenizer.decode([*self.tokens[len(START) :], token])
        return text.endswith(self.tokenizer.texts[token]) and not self.bars.allows(text)

    def keep(self, has_ended):
        """Keeps all up to here. A bar may run over the budget before it is judged."""
        fits = self.n_chars - has_ended <= self.request.max_chars
        self.kept = self.place()
        if fits and self.bars.is_level:
            self.levels.append(self.kept)
        if fits and (has_ended or self.bars.is_done):
            self.stop("end" if has_ended else "bars")
        elif self.n_chars >= self.request.max_chars:
            self.cut("budget")

    def cut(self, reason):
        """Ends the row with the last bar that all voices have."""
        self.go_to(self.levels[-1])
        self.stop(reason)

    def go_to(self, place):
        """Takes back what was drawn since a place."""
        del self.tokens[place.n_tokens :], self.bits[place.n_tokens - self.n_given :]
        self.n_chars = place.n_chars

    def give_up(self):
        """Goes back to the last place but one where all voices were level, twice as far each time
        until the row has got beyond this bar; or ends the row, which is stuck. The model's cache
        does not reach so far back: the row waits."""
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
        self.is_open = False

    def sample(self):
        return {**super().sample(), "n_kept": self.bars.n_kept, "draws": self.bars.draws}


def _uniforms(seed):
    """Yields numbers in [0, 1) from a stream of its own."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.rand(DRAWS, dtype=torch.float64, generator=generator).tolist()


@torch.inference_mode()
def _draw_batch(model, rows, device):
    """Draws rows side by side until all have ended. Those that wait (`_RightRow.give_up`) go on
    when the others have ended, with a new cache."""
    started = time.perf_counter()
    while rows:
        _draw_rows(model, rows, device, started)
        rows = [row for row in rows if row.stop_reason is None]
        for row in rows:
            row.is_open = True


def _draw_rows(model, rows, device, started):
    """Draws these rows until none is open."""
    asked, desc, cache = rows, f"{len(rows)} samples", None
    n_wanted = sum(row.n_wanted for row in asked)
    shown = progress(total=n_wanted or None, desc=desc, unit="bar" if n_wanted else "token")
    idle = _Row(Request(), rows[0].tokenizer, is_open=False)
    rows = rows + [idle] * (-len(rows) % LANES)
    settings = torch.tensor(
        [[getattr(row.request, name) for row in rows] for name in MODEL_ITSELF], dtype=torch.float64
    )
    while any(row.is_open for row in rows):
        logits, cache = model.step_rows([row.tokens for row in rows], cache)
        logits = logits.float().cpu()
        logits[:, [BEGIN, UNKNOWN]] = -torch.inf  # neither is ever a target of training
        allowed = logits.clone()
        allowed[torch.tensor([row.request.n_bars > 0 for row in rows]), END] = -torch.inf
        uniform = [next(row.uniforms) if row.is_open else 0.0 for row in rows]
        weights = filtered_weights(allowed, *settings)
        drawn = draw(weights, torch.tensor(uniform, dtype=torch.float64))
        for place, (row, token) in enumerate(zip(rows, drawn.tolist())):
            if row.is_open and row.refuses(token):
                drawn[place] = _draw_another(row, token, allowed[place], settings[:, place])
        places = {"right": [], "wrong": [], "open": []}  # of the rows with such a newest bar
        nats = -logits.double().log_softmax(dim=1).gather(1, drawn.unsqueeze(1)).squeeze(1)
        bits = (nats / math.log(2)).float().tolist()
        for place, (row, token) in enumerate(zip(rows, drawn.tolist())):
            if row.is_open:
                places[row.add(token, bits[place])].append(place)
                row.seconds = time.perf_counter() - started
        if places["right"]:
            model.mark(cache, torch.tensor(places["right"], device=device))
        if places["wrong"]:
            model.rewind(cache, torch.tensor(places["wrong"], device=device))
        kept = _rows_to_keep(rows)
        if kept:
            cache = model.take_rows(cache, torch.tensor(kept, device=device))
            rows, settings = [rows[place] for place in kept], settings[:, kept]
        shown.update(sum(row.n_done for row in asked) - shown.n if n_wanted else 1)
    shown.close()


def _draw_another(row, token, logits, settings):
    """Returns a token that the row does not refuse, drawn from the other logits (V,); END, which
    makes the bar wrong, if there is none."""
    if not row.bars.allows(row.text()):  # a bar of events that is too long already
        return END
    while token != END and row.refuses(token):
        logits[token] = -torch.inf
        if logits.isneginf().all():
            return END
        weights = filtered_weights(logits[None], *settings)
        token = draw(weights, torch.tensor([next(row.uniforms)], dtype=torch.float64)).item()
    return token


def bits_of_characters(bits, n_chars):
    """Returns the bits of tokens spread evenly over the characters of each, or of the next one
    where it has none."""
    bits, n_chars = np.array(bits, float), np.asarray(n_chars, int)
    for i in np.flatnonzero(n_chars[:-1] == 0):
        bits[i + 1] += bits[i]
    return np.repeat(bits / np.maximum(n_chars, 1), n_chars)


def _rows_to_keep(rows):
    """Returns the places of open rows, and of others up to a multiple of LANES; None where leaving
    the rest saves too little."""
    n_kept = LANES * math.ceil(sum(row.is_open for row in rows) / LANES)
    if n_kept > SHRINK * len(rows):
        return None
    open_first = sorted(range(len(rows)), key=lambda i: not rows[i].is_open)
    return sorted(open_first[:n_kept])
