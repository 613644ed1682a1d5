"""Drawing music from a trained model: filters of the next-token distribution and batched generation.

Every sample is a *request* (prompt, sampler settings, seed, budget). All requests of a call run in one batch with the
model's key/value cache or LSTM state, whatever their settings, and each draws from its own random stream, so that a
sample is a function of the model and its own request, not of its neighbours, its place or the batch size.

    samples = generate(model, tokenizer, unprompted(100, base_seed=0, max_chars=2000))
    samples[0]["text"], samples[0]["stop_reason"]

Promised: on CPU the same request gives the same characters in any batch, tested on 1 to 100 neighbours. Batched matrix
products add up in an order that depends on the number of rows when there are fewer than four of them (measured), so
batches are padded to a multiple of eight rows. Across devices, torch versions or CPU types the last bits of the
logits differ, and now and then a draw falls on the other side of a boundary.

Budgets and surprisal count characters whatever a token is (`tokenizer.token_chars`), so that models of different
vocabularies can be compared.

There is no repetition penalty on purpose: ABC needs `|`, digits and `z` again and again, and music repeats.
"""

import time
from typing import NamedTuple

import numpy as np
import torch

from common import BEGIN, END, UNKNOWN
from study.stage import progress

START = (END, BEGIN)  # how a tune starts in the training text: after the end of another; see benchmarks/sampling.md
LANES = 8            # rows; batches are padded to a multiple of it, which makes a row's logits independent of the batch
BATCH_ROWS = 128     # rows at once; the key/value cache of XL takes 8 MB a row
SHRINK = 0.75        # finished rows leave when the batch can shrink to this share of its rows
DRAWS = 256          # uniform numbers taken from a row's generator at a time
MODEL_ITSELF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}  # the sampler that changes nothing


class Request(NamedTuple):
    """One sample to draw. Filters are off at top_k 0, top_p 1 and min_p 0; temperature 0 takes the likeliest."""

    prompt: str = ""
    seed: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    max_chars: int = 2000  # budget: characters drawn after the prompt


def unprompted(n, base_seed, max_chars, **sampler):
    """n requests without a prompt; request i has seed base_seed + i."""
    return [Request(seed=base_seed + i, max_chars=max_chars, **sampler) for i in range(n)]


def truncation(sampler):
    """What a sampler leaves out, in words, e.g. "top-p 0.95"; "no truncation" if nothing."""
    parts = [f"{word} {sampler[key]:g}" for key, word in (("top_k", "top-k"), ("top_p", "top-p"), ("min_p", "min-p"))
             if sampler[key] != MODEL_ITSELF[key]]
    return ", ".join(parts) or "no truncation"


def describe_sampler(sampler):
    """A sampler in words, e.g. "temperature 0.9, top-p 0.95"."""
    return f"temperature {sampler['temperature']:g}, {truncation(sampler)}"


# ---------------------------------------------------------------- the distribution of the next token

def filtered_weights(logits, temperature, top_k, top_p, min_p):
    """Unnormalised probabilities after temperature, top-k, top-p and min-p, in that order.

    logits: (B, V) tensor; the settings: one number each, or (B,) tensors. Returns (B, V) float64, zero where a filter
    cuts. top-p keeps the likeliest tokens until their sum reaches top_p, always at least the first; min-p keeps
    what has at least min_p times the probability of the likeliest. Each filter sees what the one before it left,
    renormalised. Of equally likely tokens the one of lower number goes first.

    >>> filtered_weights(torch.tensor([[0.5, 0.3, 0.2]]).log(), 1.0, 2, 1.0, 0.0)[0].round(decimals=3).tolist()
    [1.0, 0.6, 0.0]
    """
    logits = logits.double()
    n_rows, n_tokens = logits.shape
    temperature, top_k, top_p, min_p = (
        torch.as_tensor(value, dtype=torch.float64).expand(n_rows).unsqueeze(1)
        for value in (temperature, top_k, top_p, min_p))
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
    """Indices (B,) drawn from unnormalised weights (B, V) by the inverse of their running sum; uniform (B,), in [0, 1).
    """
    running = weights.cumsum(dim=1)
    place = torch.searchsorted(running, (uniform.unsqueeze(1) * running[:, -1:]), right=True).squeeze(1)
    last = weights.shape[1] - 1 - (weights.flip(1) > 0).int().argmax(dim=1)  # rounding must not reach a zero weight
    return torch.minimum(place, last)


# ---------------------------------------------------------------- generation

def generate(model, tokenizer, requests, device="cpu", batch_rows=BATCH_ROWS):
    """Draws every request; returns a list of dicts in the order of the requests.

    Keys: the request's own, `text` (prompt and what was drawn, without end token), `new_chars`, `stop_reason`
    ("end" = the model ended the tune, "budget" = max_chars were drawn), `surprisal_bits` (-log2 of the probability that
    the model itself, at temperature 1 and unfiltered, gave each character of `text`; a token of several characters
    spreads its bits evenly over them), `end_bits` (the same of the end token, None if there is none), `seconds` (from
    the start of its batch to its last character).

    model: has `step(idx, cache)` and `take_rows(cache, rows)`, as the classes in common.py. The begin and unknown
    tokens are never drawn: neither is ever a target of the training loss. Raises ValueError if a prompt has a character
    that the vocabulary lacks or a setting makes no sense.
    """
    requests = list(requests)
    for request in requests:
        _check(request, tokenizer)
    samples = []
    for first in range(0, len(requests), batch_rows):
        samples += _generate_batch(model, tokenizer, requests[first:first + batch_rows], device)
    return samples


def _check(request, tokenizer):
    if UNKNOWN in tokenizer.encode(request.prompt):
        foreign = [c for c in sorted(set(request.prompt)) if UNKNOWN in tokenizer.encode(c)]
        raise ValueError(f"the prompt has characters that the training text lacks: {' '.join(map(repr, foreign))}")
    if not (request.temperature >= 0 and request.top_k >= 0 and 0 < request.top_p <= 1 and 0 <= request.min_p <= 1
            and request.max_chars >= 1):
        raise ValueError("sampler settings out of range: temperature >= 0, top-k >= 0, 0 < top-p <= 1, "
                         "0 <= min-p <= 1, at least 1 character")


class _Batch:
    """Requests that are drawn side by side: what has been drawn of each, and which are still at it.

    Rows that pad the batch are requests that are finished from the start; they stand behind the real ones. A text has
    at most as many tokens as characters, so the room for them is the prompt and max_chars.
    """

    def __init__(self, requests, tokenizer):
        padded = requests + [Request(max_chars=1)] * (-len(requests) % LANES)
        prompts = [np.concatenate([START, tokenizer.encode(request.prompt)]) for request in padded]
        self.token_chars = torch.as_tensor(tokenizer.token_chars)
        self.n_prompt = torch.tensor([len(prompt) for prompt in prompts])
        self.max_chars = torch.tensor([request.max_chars for request in padded])
        self.tokens = torch.zeros(len(padded), int((self.n_prompt + self.max_chars).max()), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            self.tokens[row, :len(prompt)] = torch.as_tensor(prompt, dtype=torch.long)
        self.bits = torch.zeros(self.tokens.shape, dtype=torch.float32)
        self.settings = [torch.tensor([float(getattr(request, name)) for request in padded], dtype=torch.float64)
                         for name in MODEL_ITSELF]
        self.streams = [torch.Generator().manual_seed(request.seed) for request in padded]
        self.uniform = torch.zeros(len(padded), DRAWS, dtype=torch.float64)
        self.alive = torch.arange(len(padded)) < len(requests)
        self.ended = torch.zeros(len(padded), dtype=torch.bool)
        self.n_chars = torch.zeros(len(padded), dtype=torch.long)  # drawn after the prompt
        self.n_tokens = torch.zeros(len(padded), dtype=torch.long)  # of a finished row

    def extend(self, rows, at, logits):
        """Gives each of these rows its token number `at`: the prompt's, or one drawn from logits (n_rows, V).
        Returns the rows that are finished with it."""
        writing, place = self.alive[rows] & (at >= self.n_prompt[rows]), (at - self.n_prompt[rows]) % DRAWS
        for row in rows[writing & (place == 0)].tolist():
            self.uniform[row] = torch.rand(DRAWS, dtype=torch.float64, generator=self.streams[row])
        drawn = draw(filtered_weights(logits, *(setting[rows] for setting in self.settings)), self.uniform[rows, place])
        tokens = torch.where(writing, drawn, self.tokens[rows, at])
        self.tokens[rows, at] = tokens
        surprisal = -logits.double().log_softmax(dim=1).gather(1, tokens.unsqueeze(1)).squeeze(1)
        self.bits[rows, at] = (surprisal / np.log(2)).float()

        self.n_chars[rows] += torch.where(writing, self.token_chars[tokens], 0)
        self.ended[rows] |= writing & (tokens == END)
        done = rows[writing & (self.ended[rows] | (self.n_chars[rows] >= self.max_chars[rows]))]
        self.alive[done], self.n_tokens[done] = False, at + 1
        return done


@torch.inference_mode()
def _generate_batch(model, tokenizer, requests, device):
    started = time.perf_counter()
    batch = _Batch(requests, tokenizer)
    seconds, rows, cache = [0.0] * len(batch.alive), torch.arange(len(batch.alive)), None
    for at in progress(range(1, batch.tokens.shape[1]), desc=f"{len(requests)} samples", unit="token"):
        # Prompts are fed token by token like everything else: reading one at a stroke would be faster and would round
        # differently, and then a sample would depend on the lengths of the prompts beside it.
        # The model's own step slides the window once its context is full.
        logits, cache = model.step(batch.tokens[rows, at - 1:at].to(device), cache)
        logits = logits.float().cpu()
        logits[:, [BEGIN, UNKNOWN]] = -torch.inf
        done = batch.extend(rows, at, logits)
        if len(done):
            for row in done.tolist():
                seconds[row] = time.perf_counter() - started
            if not batch.alive.any():
                break
            kept = _rows_to_keep(batch.alive[rows])
            if kept is not None:
                cache, rows = model.take_rows(cache, kept.to(device)), rows[kept]
    return [_sample(request, tokenizer, batch.tokens[row, len(START):batch.n_tokens[row]],
                    batch.bits[row, len(START):batch.n_tokens[row]], bool(batch.ended[row]), seconds[row])
            for row, request in enumerate(requests)]


def _rows_to_keep(alive):
    """Places of the rows to go on with: all that are alive and finished ones up to a multiple of LANES; None where
    leaving the others saves too little."""
    n_kept = LANES * -(-int(alive.sum()) // LANES)
    if n_kept > SHRINK * len(alive):
        return None
    return torch.argsort(alive.int(), descending=True, stable=True)[:n_kept].sort().values


def _sample(request, tokenizer, tokens, bits, ended, seconds):
    """A finished row as `generate` returns it; what the last token has beyond the budget is cut off."""
    tokens, bits = tokens.tolist(), bits.tolist()
    end_bits = round(bits.pop(), 3) if ended else None
    text = tokenizer.decode(tokens)[:len(request.prompt) + request.max_chars]
    per_char = []
    for token, n_bits in zip(tokens, bits):
        n_chars = int(tokenizer.token_chars[token])
        per_char += [round(n_bits / n_chars, 3)] * n_chars
    return {**request._asdict(), "text": text, "new_chars": len(text) - len(request.prompt),
            "stop_reason": "end" if ended else "budget", "surprisal_bits": per_char[:len(text)], "end_bits": end_bits,
            "seconds": round(seconds, 3)}
