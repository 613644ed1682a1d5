"""Draws music from a trained model: filters of the next-token distribution, batched generation, and
rejection sampling of bars.

Every sample is a *request* (prompt, sampler settings, seed, budget). All requests of a call run in
one batch with the model's key/value cache or LSTM state, whatever their settings, and each draws
from its own random stream, so that a sample is a function of the model and its own request, not of
its neighbours, its place or the batch size.

    samples = generate(model, tokenizer, unprompted(100, base_seed=0, max_chars=2000))
    samples[0]["text"], samples[0]["stop_reason"]

Promised: on CPU the same request gives the same characters in any batch, tested on 1 to 100
neighbours. Batched matrix products add up in an order that depends on the number of rows when there
are fewer than four of them (measured), so batches are padded to a multiple of eight rows. Across
devices, torch versions or CPU types the last bits of the logits differ, and now and then a draw
falls on the other side of a boundary.

With `bars="right"` a bar that is not exactly as long as its meter is drawn again, from the model's
state before it: that samples P(bar | what came before, the bar is right) exactly, where a mask on
characters would sample something else
(Park et al. 2024). What is right is judged by `music/right_bars.py`; how many draws it took is part of the sample.

A bar that was wrong MAX_TRIES times is given up, and a larger unit is drawn again: all voices' bars
since the last place but one where they were level, the next time twice as many such turns, and so
on back to the header. So turns are drawn from P(turns | what came before, each bar right, no bar
given up). A bar that is right with probability p is given up with probability (1 - p)^64, one in
850 at p = 0.1: where bars come easily this is the law without giving up, and what is left out are
places from which hardly any right bar leads on (a header whose meter the model does not keep, a
meter changed in one voice that the others do not follow).

Budgets and surprisal count characters whatever a token is (`tokenizer.token_chars`), so that models
of different vocabularies can be compared; of events they count the nominal ones.

There is no repetition penalty on purpose: ABC needs `|`, digits and `z` again and again, and music
repeats.
"""

import copy
import time
from typing import Any, NamedTuple

from study.stages.process import progress

import numpy as np
import torch

from common import BEGIN, END, UNKNOWN

# how a tune starts in the training text: after the end of another; see benchmarks/sampling.md
START = (END, BEGIN)
# rows; batches are padded to a multiple of it, which makes a row's logits independent of the batch
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
        f"{word} {sampler[key]:g}"
        for key, word in (("top_k", "top-k"), ("top_p", "top-p"), ("min_p", "min-p"))
        if sampler[key] != MODEL_ITSELF[key]
    ]
    return ", ".join(parts) or "no truncation"


def describe_sampler(sampler):
    """A sampler in words, e.g. "temperature 0.9, top-p 0.95"."""
    return f"temperature {sampler['temperature']:g}, {truncation(sampler)}"


# ---------------------------------------------------------------- the distribution of the next
# token


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

    Keys: the request's own, `text` (prompt and what was drawn, without end token), `new_chars`,
    `stop_reason`
    ("end" = the model ended the tune, "budget" = max_chars were drawn, "bars" = n_bars are there, "stuck" = more
    bars were given up than a tune may, or there was nothing before one to take back),
    `surprisal_bits` (-log2 of the probability that the model itself, at temperature 1 and
    unfiltered, gave each character of `text`; a token of several characters spreads its bits evenly
    over them), `end_bits` (the same of the end token, None if there is none), `seconds` (from the
    start of its batch to its last character); with right bars also `n_kept`, bars (header and end
    counted as such) in the text, and `draws`, how often each bar was drawn, those that were given
    up or went with a larger unit among them. Right bars that do not reach the end of the tune stop
    after the last bar that all voices have.

    right_bars: the class RightBars of `music/right_bars.py`, for requests with right bars. It is
    handed over, not named here, so that a change of the judge leaves free samples as they are.
    model: has `step`, `step_rows`, `take_rows`, `mark` and `rewind`, as the classes in common.py.
    The begin and unknown
    tokens are never drawn: neither is ever a target of the training loss. Raises ValueError if a
    prompt has a character that the vocabulary lacks, if no right bar can follow it, or if a setting
    makes no sense.
    """
    requests = list(requests)
    for request in requests:
        _check(request, tokenizer, right_bars)
    samples = [None] * len(requests)
    for together in (True, False):
        chosen = [i for i, request in enumerate(requests) if _starts_like_all(request) == together]
        for first in range(0, len(chosen), batch_rows):
            part = chosen[first : first + batch_rows]
            drawn = _generate_batch(
                model, tokenizer, [requests[i] for i in part], device, together, right_bars
            )
            for i, sample in zip(part, drawn):
                samples[i] = sample
    return samples


def _starts_like_all(request):
    """True if the rows of such requests are always at the same place: no prompt, and never a step
    back."""
    return not request.prompt and request.bars == "free"


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


class _Place(NamedTuple):
    """Where a row with right bars can go back to: tokens, and characters drawn, up to there; what
    its judge knew."""

    n_tokens: int
    n_chars: int
    bars: Any


class _RightRow:
    """A row whose bars shall be right: its judge, its last right bar, and where it can go back to.

    bars: the judge; kept: after the last right bar; levels: the places where all voices had equally
    many bars, the header first; waits: True if it went back farther than the model's cache can.
    """

    def __init__(self, bars, n_prompt):
        self.bars, self.waits = bars, False
        self.kept = _Place(n_prompt, 0, bars)
        self.levels = [self.kept._replace(bars=copy.copy(bars))]
        self.n_given_up = 0  # bars, in all
        self.n_retreats = 0  # since the most bars stood
        self.most_bars = 0

    def keep(self, n_tokens, n_chars, fits):
        """Notes that the bars up to here are right; fits: they lie within the budget."""
        self.kept = _Place(n_tokens, n_chars, self.bars)
        if fits and self.bars.is_level:
            self.levels.append(self.kept._replace(bars=copy.copy(self.bars)))

    def retreat(self):
        """Gives up the bar that cannot be drawn and goes back before it: to the last place but one
        where its voices were level, then twice as far each time until the row has got beyond that
        bar. Returns False if the row is stuck."""
        self.bars.give_up()
        if self.bars.n_bars > self.most_bars:
            self.n_retreats, self.most_bars = 0, self.bars.n_bars
        earlier = [place for place in self.levels if place.n_tokens < self.kept.n_tokens]
        if not earlier or self.n_given_up > self.most_bars // BARS_PER_GIVEN_UP:
            return False
        self.n_given_up += 1
        self.n_retreats += 1
        n_back = min(2**self.n_retreats, len(earlier))
        self.levels = earlier[: len(earlier) + 1 - n_back]
        self.bars = copy.copy(self.levels[-1].bars)
        self.kept = self.levels[-1]._replace(bars=self.bars)
        self.waits = True
        return True


class _Batch:
    """Requests that are drawn side by side: what has been drawn of each, and which are still at it.

    Rows that pad the batch are requests that are finished from the start; they stand behind the
    real ones. A text has at most as many tokens as characters, so the room for them is the prompt
    and max_chars; a bar that shall be right may run over that before it is judged, or one drawn
    wrongly would end the tune.
    """

    def __init__(self, requests, tokenizer, together, right_bars):
        padded = requests + [Request(max_chars=1)] * (-len(requests) % LANES)
        prompts = [np.concatenate([START, tokenizer.encode(request.prompt)]) for request in padded]
        # an event counts as a character at least: budgets end, and there is room for all tokens
        self.decode = tokenizer.decode
        self.token_chars = torch.as_tensor(tokenizer.token_chars).clamp(min=1)
        self.n_prompt = torch.tensor([len(prompt) for prompt in prompts])
        self.max_chars = torch.tensor([request.max_chars for request in padded])
        self.right = {
            row: _RightRow(right_bars(request.prompt, request.n_bars), int(self.n_prompt[row]))
            for row, request in enumerate(requests)
            if request.bars == "right"
        }
        room = int((self.n_prompt + self.max_chars).max()) + (
            right_bars.MAX_CHARS + 2 if self.right else 0
        )
        self.tokens = torch.zeros(len(padded), room, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            self.tokens[row, : len(prompt)] = torch.as_tensor(prompt, dtype=torch.long)
        self.bits = torch.zeros(self.tokens.shape, dtype=torch.float32)
        self.settings = [
            torch.tensor([float(getattr(request, name)) for request in padded], dtype=torch.float64)
            for name in MODEL_ITSELF
        ]
        self.endless = torch.tensor([request.n_bars > 0 for request in padded])
        self.streams = [torch.Generator().manual_seed(request.seed) for request in padded]
        self.uniform = torch.zeros(len(padded), DRAWS, dtype=torch.float64)
        self.n_uniform = torch.zeros(len(padded), dtype=torch.long)  # uniform numbers used
        # given and drawn
        self.n_tokens = torch.ones_like(self.n_prompt) if together else self.n_prompt.clone()
        self.n_chars = torch.zeros(len(padded), dtype=torch.long)  # drawn after the prompt
        self.alive = torch.arange(len(padded)) < len(requests)
        self.stop_reasons = [None] * len(padded)

    def extend(self, rows, logits):
        """Gives each of these rows its next token: the prompt's, or one drawn from logits (n_rows,
        V)."""
        alive, at = self.alive[rows], self.n_tokens[rows].clamp(max=self.tokens.shape[1] - 1)
        writing, place = alive & (at >= self.n_prompt[rows]), self.n_uniform[rows] % DRAWS
        for row in rows[writing & (place == 0)].tolist():
            self.uniform[row] = torch.rand(DRAWS, dtype=torch.float64, generator=self.streams[row])
        allowed = logits.clone()
        allowed[self.endless[rows], END] = -torch.inf
        weights = filtered_weights(allowed, *(setting[rows] for setting in self.settings))
        drawn = draw(weights, self.uniform[rows, place])
        tokens = torch.where(writing, drawn, self.tokens[rows, at])
        surprisal = -logits.double().log_softmax(dim=1).gather(1, tokens.unsqueeze(1)).squeeze(1)
        self.tokens[rows[alive], at[alive]] = tokens[alive]
        self.bits[rows[alive], at[alive]] = (surprisal / np.log(2)).float()[alive]
        self.n_tokens[rows] += alive.long()
        self.n_uniform[rows] += writing.long()
        self.n_chars[rows] += torch.where(writing, self.token_chars[tokens], 0)
        return tokens.masked_fill(~writing, BEGIN)

    def stop(self, row, reason):
        """A row is finished."""
        self.alive[row], self.stop_reasons[row] = False, reason

    def finish_free(self, rows, tokens):
        """Ends the rows whose tune, or whose budget, is over with these tokens (BEGIN where none
        was drawn)."""
        over = (tokens == END) | (tokens != BEGIN) & (self.n_chars[rows] >= self.max_chars[rows])
        for row, token in zip(rows[over].tolist(), tokens[over].tolist()):
            if row not in self.right:
                self.stop(row, "end" if token == END else "budget")

    def text(self, row):
        """What stands in a row so far: the one place where its tokens become text."""
        return self.decode(self.tokens[row, len(START) : self.n_tokens[row]].tolist())

    def judge_bars(self, rows, tokens):
        """Keeps the bars that are right with these tokens and takes back those that are wrong; ends
        rows that are over. Returns the places in `rows` of those whose bar is kept, and of those
        that draw it again."""
        kept, back = [], []
        for place, (row, token) in enumerate(zip(rows.tolist(), tokens.tolist())):
            if row in self.right and token != BEGIN:
                verdict = self._judge(row, token)
                if verdict == "right":
                    kept.append(place)
                elif verdict == "wrong":
                    back.append(place)
        return kept, back

    def _judge(self, row, token):
        """The verdict on a row's newest bar, "open" within a bar, and what follows from it."""
        right, n_chars, ended = self.right[row], int(self.n_chars[row]), token == END
        bars, max_chars = right.bars, int(self.max_chars[row])
        if not (ended or bars.is_due(self.decode([token]), n_chars)):
            return "open"
        verdict = bars.judge(self.text(row), n_chars, ended)
        if verdict == "right":
            fits = n_chars - ended <= max_chars
            right.keep(int(self.n_tokens[row]), n_chars, fits)
            if fits and (ended or bars.is_done):
                self.stop(row, "end" if ended else "bars")
            elif n_chars >= max_chars:
                self.cut(row, "budget")
        elif verdict == "wrong":
            self.go_to(row, right.kept)
            if bars.n_tries == MAX_TRIES:
                self.give_up(row)
        return verdict

    def go_to(self, row, place):
        """Takes back what a row has drawn since a place."""
        self.n_tokens[row], self.n_chars[row] = place.n_tokens, place.n_chars

    def cut(self, row, reason):
        """A row is finished with the last bar that all voices have."""
        self.go_to(row, self.right[row].levels[-1])
        self.stop(row, reason)

    def give_up(self, row):
        """A row goes back before the bar that it cannot draw. It goes on from there when the other
        rows are finished, as its cache has to be read anew; or it is stuck."""
        if not self.right[row].retreat():
            return self.cut(row, "stuck")
        self.go_to(row, self.right[row].kept)
        self.alive[row] = False

    def rows_to_draw_again(self):
        """Rows of the batch to go on with, those that went back and finished ones up to a multiple
        of LANES; none if no row went back."""
        waiting = [row for row, right in self.right.items() if right.waits]
        for row in waiting:
            self.right[row].waits, self.alive[row] = False, True
        others = [row for row in range(len(self.alive)) if not self.alive[row]]
        return torch.tensor(sorted(waiting + others[: -len(waiting) % LANES]), dtype=torch.long)


@torch.inference_mode()
def _generate_batch(model, tokenizer, requests, device, together, right_bars):
    """Samples of one batch; together: all rows are at the same place, so that the model's plain
    step will do."""
    batch, started = _Batch(requests, tokenizer, together, right_bars), time.perf_counter()
    if not together:
        _read_prompts(model, batch, device)
    seconds, rows = [0.0] * len(batch.alive), torch.arange(len(batch.alive))
    while len(rows):
        _draw_rows(model, batch, rows, device, together, seconds, started)
        rows = batch.rows_to_draw_again()
    return [
        _sample(request, tokenizer, batch, row, seconds[row])
        for row, request in enumerate(requests)
    ]


def _draw_rows(model, batch, rows, device, together, seconds, started):
    """Draws these rows of a batch until none is alive; notes the seconds that each took since
    `started`."""
    cache, desc = None, f"{int(batch.alive.sum())} samples"
    for _ in progress(iter(batch.alive.any, torch.tensor(False)), desc=desc, unit="token"):
        n = batch.n_tokens[rows]
        if together:  # the model's own step slides the window once its context is full
            logits, cache = model.step(
                batch.tokens[rows].gather(1, n[:, None] - 1).to(device), cache
            )
        else:
            logits, cache = model.step_rows(batch.tokens[rows].to(device), n.to(device), cache)
        logits = logits.float().cpu()
        logits[:, [BEGIN, UNKNOWN]] = -torch.inf
        were_alive = batch.alive[rows]
        tokens = batch.extend(rows, logits)
        batch.finish_free(rows, tokens)
        if batch.right:
            kept, back = batch.judge_bars(rows, tokens)
            if kept:
                model.mark(cache, torch.tensor(kept, device=device))
            if back:
                model.rewind(cache, torch.tensor(back, device=device))
        done = rows[were_alive & ~batch.alive[rows]]
        if len(done):
            for row in done.tolist():
                seconds[row] = time.perf_counter() - started
            places = _rows_to_keep(batch.alive[rows])
            if places is not None:
                cache, rows = model.take_rows(cache, places.to(device)), rows[places]


def _read_prompts(model, batch, device):
    """The surprisal of every prompt. Each is read alone and at one stroke, so that it depends on no
    other; so is what `step_rows` makes of it."""
    for row in (batch.n_prompt > len(START)).nonzero().flatten().tolist():
        n = int(batch.n_prompt[row])
        tokens = batch.tokens[row : row + 1, :n].to(device)
        logits = torch.cat(list(model.read_on(tokens)), dim=1)[0, :-1].float().cpu()
        logits[:, [BEGIN, UNKNOWN]] = -torch.inf
        surprisal = (
            -logits.double().log_softmax(dim=1).gather(1, batch.tokens[row, 1:n, None]).squeeze(1)
        )
        batch.bits[row, 1:n] = (surprisal / np.log(2)).float()


def bits_of_characters(bits, n_chars):
    """The bits of tokens spread evenly over the characters that each gives; where it gives none,
    over those of the next one."""
    bits, n_chars = np.array(bits, float), np.asarray(n_chars, int)
    for i in np.flatnonzero(n_chars[:-1] == 0):
        bits[i + 1] += bits[i]
    return np.repeat(bits / np.maximum(n_chars, 1), n_chars)


def _rows_to_keep(alive):
    """Places of the rows to go on with: all that are alive and finished ones up to a multiple of
    LANES; None where leaving the others saves too little."""
    n_kept = LANES * -(-int(alive.sum()) // LANES)
    if n_kept > SHRINK * len(alive):
        return None
    return torch.argsort(alive.int(), descending=True, stable=True)[:n_kept].sort().values


def _sample(request, tokenizer, batch, row, seconds):
    """A finished row as `generate` returns it; what the last token has beyond the budget is cut
    off."""
    written = slice(len(START), batch.n_tokens[row])
    tokens, bits = batch.tokens[row, written].tolist(), batch.bits[row, written].tolist()
    end_bits = round(bits.pop(), 3) if batch.stop_reasons[row] == "end" else None
    texts = tokenizer.texts_of(tokens)
    text = "".join(texts)[: len(request.prompt) + request.max_chars]
    per_char = bits_of_characters(bits, [len(part) for part in texts][: len(bits)])
    sample = {
        **request._asdict(),
        "text": text,
        "new_chars": len(text) - len(request.prompt),
        "stop_reason": batch.stop_reasons[row],
        "surprisal_bits": [round(n, 3) for n in per_char[: len(text)].tolist()],
        "end_bits": end_bits,
        "seconds": round(seconds, 3),
    }
    if row in batch.right:
        bars = batch.right[row].bars
        sample |= {"n_kept": bars.n_kept, "draws": bars.draws}
    return sample
