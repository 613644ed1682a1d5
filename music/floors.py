"""What any judge of music has to refuse: random characters, shuffled music, rests, n-grams.

    bottom = floors(train_tunes, n=100, seed=0)    # {name: samples}: rate them like those of a
        model

A rate of validity says nothing without them: a check that random characters after a real header
pass is no check.
"""

import re

import numpy as np

from music.novelty import character_codes
from music.tunebook import body_start
from music.windows import window_hashes

# training text an n-gram floor is made from; more changes nothing it can do
NGRAM_CHARS = 20_000_000


def floors(train_tunes, n, seed=0, max_chars=1000, orders=(3, 5, 8, 10, 12)):
    """{name: [sample]} with n samples each, ready for `rate_samples`.

    random: a real header and characters drawn evenly from those of the training text; printable:
    ... from printable ASCII; shuffled: a real tune, its music's characters shuffled; rests: a real
    header and bars of rest; 3-gram, ...: drawn from a maximum-likelihood character model of that
    order, from the first character to the end of a tune. Long
    orders keep more bars right because they copy: their copied share belongs beside their bar
    accuracy.
    """
    rng = np.random.default_rng(seed)
    tunes = [tune for tune in train_tunes if body_start(tune)]
    if not tunes or n <= 0:
        return {}
    alphabet = sorted(
        set("".join(tunes[i] for i in rng.choice(len(tunes), min(200, len(tunes)), replace=False)))
    )
    alphabet = [character for character in alphabet if character != "\n"]
    samples = {"random": [], "printable": [], "shuffled": [], "rests": []}
    for i in rng.choice(len(tunes), n):
        header, body = (
            tunes[i][: body_start(tunes[i])],
            tunes[i][body_start(tunes[i]) :].strip()[:max_chars],
        )
        length = max(1, max_chars - len(header))
        rest = _bar_of_rest(header)
        bodies = {
            "random": "".join(rng.choice(alphabet, length)),
            "printable": "".join(map(chr, rng.integers(32, 127, length))),
            "shuffled": "".join(rng.permutation(list(body))) if body else "",
            "rests": rest * max(4, length // len(rest)),
        }
        for name, music in bodies.items():
            samples[name].append(
                {"text": header + music + "\n", "prompt_chars": len(header), "truncated": False}
            )
    text = _limited(tunes, rng)
    for order in orders:
        samples[f"{order}-gram"] = ngram_samples(
            text, order, n, max_chars, int(rng.integers(2**32))
        )
    return samples


def _bar_of_rest(header):
    """`z16|` for 4/4 and a unit of a sixteenth: rests that fill their bars pass every check but
    that for content."""
    meter = re.search(r"^M:\s*(\d+)/(\d+)", header, re.M)
    beats, kind = (int(meter.group(1)), int(meter.group(2))) if meter else (1, 0)
    return f"z{16 * beats // kind}|" if kind else "z16|"


def _limited(tunes, rng):
    """Tunes in random order, as many as NGRAM_CHARS allow."""
    chosen, n_chars = [], 0
    for i in rng.permutation(len(tunes)):
        chosen.append(tunes[i])
        n_chars += len(tunes[i])
        if n_chars > NGRAM_CHARS:
            break
    return chosen


def ngram_samples(tunes, order, n, max_chars, seed=0):
    """n samples of a character model of this order: the next character follows a random occurrence
    of the last order - 1 characters in the tunes (that is sampling from the maximum-likelihood
    model)."""
    k, rng = order - 1, np.random.default_rng(seed)
    pad = "\0" * max(1, k)  # before the first character of a tune, and its end
    codes = character_codes(pad + pad.join(tune.rstrip("\n") + "\n" for tune in tunes) + pad)
    hashes = window_hashes(codes, k)[: len(codes) - k] if k else np.zeros(len(codes), np.uint64)
    places = np.argsort(hashes, kind="stable")  # of the contexts, equal ones side by side
    ranked = hashes[places]
    state = np.zeros((n, max(1, k)), np.uint8)
    drawn, alive = np.zeros((n, max_chars), np.uint8), np.ones(n, bool)
    for step in range(max_chars):
        context = window_hashes(state, k)[:, 0] if k else np.zeros(n, np.uint64)
        low, high = np.searchsorted(ranked, context), np.searchsorted(ranked, context, "right")
        chosen = places[low + (rng.random(n) * (high - low)).astype(int)] + k
        character = np.where(alive, codes[chosen], 0)
        alive &= character != 0
        drawn[:, step] = np.where(alive, character, 0)
        state = np.concatenate([state[:, 1:], character[:, None]], 1)
        if not alive.any():
            break
    texts = [bytes(row[row != 0]).decode("ascii") for row in drawn]
    return [
        {"text": text, "prompt_chars": 0, "truncated": bool(going)}
        for text, going in zip(texts, alive)
    ]
