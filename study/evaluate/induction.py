"""When does a model learn to repeat? What it gains from having heard a bar before.

    row = repeats(player, val_tokens)     # bits per character of bars at their first and at their
        second occurrence

Both occurrences have the same characters, so that what a model knows of bars in general cancels:
the difference is what it makes of the bar that it has read. Music repeats itself; a model that has
not learned to look back pays the full price for every bar again.
"""

import numpy as np
import torch
import torch.nn.functional as F

from common import BEGIN
from music.abc_text import Reader
from music.validity import standard_error
from study.evaluate.sampling import START

ROWS = 16  # tunes read side by side


def repeats(player, tokens):
    """Bits per character of bars that come back exactly in their voice: {"n_bars", "n_tunes",
    "first", "second" (of the same bars), "once" (bars that do not come back), "new" (of all bars
    not heard before: first and once), "saved" (first - second), "saved_se" (over tunes)}.

    tokens: a Digested token stream. Every sequence is read alone, as far as the context goes, so
    that all families have the whole of it in sight. Numbers are None where no bar comes back.
    """
    # of each sequence: bits at first, second occurrence, their characters; bits, characters of
    # other bars
    rows = []
    for text, bits in _bits_of_sequences(player, tokens.content):
        total = np.concatenate(([0.0], np.cumsum(bits)))
        row = np.zeros(5)
        for places in _places_of_bars(text, len(bits)):
            cost = [total[end] - total[start] for start, end in places[:2]]
            n_chars = places[0][1] - places[0][0]
            row += [*cost, n_chars, 0, 0] if len(cost) == 2 else [0, 0, 0, *cost, n_chars]
        rows.append((row, sum(len(places) > 1 for places in _places_of_bars(text, len(bits)))))
    n_bars = [n for _, n in rows]
    first, second, chars, once, other_chars = np.array([row for row, _ in rows]).T
    if not sum(n_bars):
        return {
            "n_bars": 0,
            "n_tunes": 0,
            **dict.fromkeys(("first", "second", "once", "new", "saved", "saved_se")),
        }
    per_char = 1 / chars.sum()
    return {
        "n_bars": sum(n_bars),
        "n_tunes": sum(n > 0 for n in n_bars),
        "first": first.sum() * per_char,
        "second": second.sum() * per_char,
        "once": once.sum() / other_chars.sum() if other_chars.sum() else None,
        "new": (first.sum() + once.sum()) / (chars.sum() + other_chars.sum()),
        "saved": (first - second).sum() * per_char,
        "saved_se": standard_error(first - second, chars),
    }


def _places_of_bars(text, n_chars):
    """[[(start, end), ...]] of the distinct sounding bars of each voice of a text, as far as its
    first n_chars go."""
    places = {}
    for bar in Reader(text, strict=False).order:
        if bar.n_notes and bar.end <= n_chars:
            places.setdefault((bar.voice, text[bar.start : bar.end]), []).append(
                (bar.start, bar.end)
            )
    return list(places.values())


@torch.inference_mode()
def _bits_of_sequences(player, tokens):
    """(text, bits of each of its characters) of every sequence of a token stream; the bits of a
    token of several characters spread evenly over them, and end where the context does."""
    starts = np.flatnonzero(tokens == BEGIN)
    sequences = sorted(
        (tokens[start + 1 : stop] for start, stop in zip(starts, [*starts[1:], len(tokens)])),
        key=len,
    )
    size, chars_of = player.model.config["block_size"], np.asarray(player.tokenizer.token_chars)
    for first in range(0, len(sequences), ROWS):
        part = sequences[first : first + ROWS]
        x = torch.full((len(part), size + 1), BEGIN)
        for row, sequence in zip(x, part):
            known = np.concatenate((START, sequence))[: size + 1]
            row[: len(known)] = torch.as_tensor(known.astype(np.int64))
        n = min(size, len(part[-1]) + 1)
        x = x[:, : n + 1].to(player.device)
        logits, _ = player.model(x[:, :-1])
        bits = F.cross_entropy(
            logits.float().transpose(1, 2), x[:, 1:], reduction="none"
        ).cpu().numpy() / np.log(2)
        for sequence, row in zip(part, bits):
            given = sequence[: n - 1]  # all but the first prediction, which is of BEGIN
            n_chars = chars_of[given]
            yield player.tokenizer.decode(sequence.tolist()), np.repeat(
                row[1 : 1 + len(given)] / n_chars, n_chars
            )
