"""Measures in-context copying: what repeated bars cost a model, beside their first occurrence.

    row = repeats(loaded, val_tokens)
    row["saved"]   # bits per character by which a bar is cheaper when it comes back

Both occurrences have the same characters: the difference is what the model copies from its context
(induction; Olsson et al. 2022).
"""

import itertools
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from common import BEGIN, END
from music.abc_text import Reader
from music.validity import standard_error
from study.evaluate.sampling import START, bits_of_characters
from study.train.data import sequence_bounds

ROWS = 16  # tunes read side by side
NEAR = 128  # characters from one occurrence to the next: farther ones are *far*
KINDS = "first second later similar fresh near_first near far_first far all".split()


class Tune(NamedTuple):
    """A sequence as far as the context goes."""

    tokens: np.ndarray  # START, then the text's
    n_chars: np.ndarray  # characters that each token of the text stands for
    bars: list  # of `bars_of`


def repeats(loaded, tokens):
    """Measures what bars cost a model: a row of `repeats_of`. tokens: a Digested token stream."""
    return repeats_of(costs_of_bars(loaded, read_tunes(loaded, tokens.content)))


def read_tunes(loaded, tokens):
    """Returns the sequences of a token stream, to be read alone, as `Tune`s, the shortest first."""
    size, tokenizer = loaded.model.config["block_size"], loaded.tokenizer
    tunes = []
    for start, stop in itertools.pairwise(sequence_bounds(tokens)):
        sequence = np.asarray(tokens[start + 1 : stop], np.int64)
        read = np.concatenate((START, sequence))[: size + 1]
        texts = tokenizer.texts_of(sequence.tolist())
        n_chars = np.array([len(part) for part in texts[: len(read) - len(START)]], int)
        n_chars += read[len(START) :] == END
        text = "".join(texts)
        tunes.append(Tune(read, n_chars, bars_of(text, int(n_chars.sum()))))
    return sorted(tunes, key=lambda tune: len(tune.tokens))


def repeating_tunes(loaded, tokens, n):
    """Returns n or a few more evenly spread `Tune`s of a token stream in which a bar comes back."""
    tunes = [tune for tune in read_tunes(loaded, tokens) if _n_returning(tune)]
    return tunes[:: max(1, len(tunes) // n)]


def _n_returning(tune):
    return sum("second" in kinds for *_, kinds in tune.bars)


def bars_of(text, n_chars):
    """Returns [(start, end, kinds)] of the sounding bars within the first n_chars of a text.

    kinds: "first", "second", "later" of a bar that comes back exactly in its voice; "near_first"
    and "near" where the second begins at most NEAR characters after the first, else "far_first" and
    "far"; of others "similar" if one half stands earlier in the text, else "fresh".
    """
    places = {}
    for bar in Reader(text, strict=False).order:
        if bar.n_notes and bar.end <= n_chars:
            same = places.setdefault((bar.voice, text[bar.start : bar.end]), [])
            same.append((bar.start, bar.end))
    bars = []
    for (start, end), *others in places.values():
        if others:
            distance = "near" if others[0][0] - start <= NEAR else "far"
            bars.append((start, end, ("first", f"{distance}_first")))
            bars.append((*others[0], ("second", distance)))
            bars += [(*place, ("later",)) for place in others[1:]]
        else:
            bars.append((start, end, ("similar" if _is_similar(text, start, end) else "fresh",)))
    return bars


def _is_similar(text, start, end):
    half = (end - start + 1) // 2
    return any(text[at : at + half] in text[:start] for at in range(start, end - half + 1))


@torch.inference_mode()
def costs_of_bars(loaded, tunes):
    """Returns bits and characters of each tune's bars, both (tunes, KINDS), and how many come back,
    (tunes,)."""
    bits, chars = np.zeros((2, len(tunes), len(KINDS)))
    for first in range(0, len(tunes), ROWS):
        part = tunes[first : first + ROWS]
        x = torch.full((len(part), len(part[-1].tokens)), BEGIN)
        for row, tune in zip(x, part):
            row[: len(tune.tokens)] = torch.as_tensor(tune.tokens)
        x = x.to(loaded.device)
        logits, _ = loaded.model(x[:, :-1])
        nats = F.cross_entropy(logits.float().transpose(1, 2), x[:, 1:], reduction="none")
        for i, (tune, row) in enumerate(zip(part, nats.cpu().numpy() / np.log(2)), first):
            given = row[1 : 1 + len(tune.n_chars)]  # without the prediction of BEGIN
            spread = bits_of_characters(given, tune.n_chars)
            total = np.concatenate(([0.0], np.cumsum(spread)))
            bits[i, -1], chars[i, -1] = total[-1], len(spread)
            for start, end, kinds in tune.bars:
                for kind in map(KINDS.index, kinds):
                    bits[i, kind] += total[end] - total[start]
                    chars[i, kind] += end - start
    return bits, chars, np.array([_n_returning(tune) for tune in tunes])


def repeats_of(costs):
    """Returns the costs of `costs_of_bars` in bits per character, None where there is no such bar:
    "n_bars" (that come back), "n_tunes" (with such a bar), one for each kind of `bars_of`, "new"
    (all but second and later ones), "saved" (first - second), "saved_se" (over tunes),
    "saved_near", "saved_far", "bits_per_char" (of all characters)."""
    bits, chars, n_bars = costs

    def per_char(*kinds):
        columns = [KINDS.index(kind) for kind in kinds]
        n_chars = chars[:, columns].sum()
        return bits[:, columns].sum() / n_chars if n_chars else None

    def less(kind, other):
        return None if per_char(kind) is None else per_char(kind) - per_char(other)

    first, second = KINDS.index("first"), KINDS.index("second")
    returned = chars[:, second]
    return {
        "n_bars": int(n_bars.sum()),
        "n_tunes": int((returned > 0).sum()),
        **{kind: per_char(kind) for kind in KINDS[:5]},
        "new": per_char("first", "similar", "fresh"),
        "saved": less("first", "second"),
        "saved_se": standard_error(bits[:, first] - bits[:, second], returned),
        "saved_near": less("near_first", "near"),
        "saved_far": less("far_first", "far"),
        "bits_per_char": per_char("all"),
    }
