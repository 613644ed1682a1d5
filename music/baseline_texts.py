"""Makes baselines of validity: random characters, shuffled music, rests and n-grams."""

import re
from collections import defaultdict

import numpy as np

from music.novelty import character_codes
from music.samples import Sample
from music.tunebook import body_start
from music.windows import window_hashes

NGRAM_CHARS = 20_000_000  # of training text for the n-grams; more changes nothing
ALPHABET_TUNES = 200  # from which random characters are drawn


def baseline_samples(train_tunes, n, seed=0, max_chars=1000, orders=(3, 5, 8, 10, 12)):
    """Returns {name: [Sample]}, n of each, for `rate_samples`.

    After a real header random: characters of the training text, equally likely; printable: of
    ASCII; shuffled: the tune's own; rests: bars of rest. 3-gram, ...: see `ngram_samples`.
    """
    rng = np.random.default_rng(seed)
    tunes = [tune for tune in train_tunes if body_start(tune)]
    if not tunes or n <= 0:
        return {}
    chosen = rng.choice(len(tunes), min(ALPHABET_TUNES, len(tunes)), replace=False)
    alphabet = sorted(set("".join(tunes[i] for i in chosen)) - {"\n"})
    samples = defaultdict(list)
    for i in rng.choice(len(tunes), n):
        start = body_start(tunes[i])
        header, body = tunes[i][:start], tunes[i][start:].strip()[:max_chars]
        length = max(1, max_chars - len(header))
        rest = _bar_of_rest(header)
        bodies = {
            "random": "".join(rng.choice(alphabet, length)),
            "printable": "".join(map(chr, rng.integers(32, 127, length))),
            "shuffled": "".join(rng.permutation(list(body))) if body else "",
            "rests": rest * max(4, length // len(rest)),
        }
        for name, music in bodies.items():
            samples[name].append(Sample(header + music + "\n", len(header)))
    shuffled = [tunes[i] for i in rng.permutation(len(tunes))]
    n_chars = np.cumsum([len(tune) for tune in shuffled])
    text = shuffled[: int(np.searchsorted(n_chars, NGRAM_CHARS, "right")) + 1]
    for order in orders:
        draw = int(rng.integers(2**32))
        samples[f"{order}-gram"] = ngram_samples(text, order, n, max_chars, draw)
    return samples


def _bar_of_rest(header):
    """Returns a bar of rest in sixteenths: `z16|` in 4/4."""
    meter = re.search(r"^M:\s*(\d+)/([1-9]\d*)", header, re.M)
    return f"z{16 * int(meter[1]) // int(meter[2])}|" if meter else "z16|"


def ngram_samples(tunes, order, n, max_chars, seed=0):
    """Returns n Samples of a character model: the next character follows a random occurrence of
    the last order - 1 > 0 characters in the tunes."""
    k, rng = order - 1, np.random.default_rng(seed)
    pad = "\0" * k  # before the first character of a tune, and its end
    codes = character_codes(pad + pad.join(tune.rstrip("\n") + "\n" for tune in tunes) + pad)
    hashes = window_hashes(codes, k)[:-1]  # nothing follows the last one
    places = np.argsort(hashes, kind="stable")  # of the contexts, equal ones side by side
    ranked = hashes[places]
    state = np.zeros((n, k), np.uint8)
    drawn, alive = np.zeros((n, max_chars), np.uint8), np.ones(n, bool)
    for step in range(max_chars):
        context = window_hashes(state, k)[:, 0]
        low, high = np.searchsorted(ranked, context), np.searchsorted(ranked, context, "right")
        chosen = places[low + (rng.random(n) * (high - low)).astype(int)] + k
        character = np.where(alive, codes[chosen], 0)
        alive &= character != 0
        drawn[:, step] = character
        state = np.concatenate([state[:, 1:], character[:, None]], 1)
    texts = [bytes(row[row != 0]).decode("ascii") for row in drawn]
    return [Sample(text, truncated=bool(going)) for text, going in zip(texts, alive)]
