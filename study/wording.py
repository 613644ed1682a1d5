"""How numbers and kinds are written wherever a person reads them."""

import math

TOKENIZER_KINDS = {"char": "character", "note": "note", "bpe": "byte pairs"}  # in words


def si(value):
    """Three digits with k, M, G, T or P: 137792 -> "138k"."""
    if not 1e-3 <= value < 1e18:
        return f"{value:.3g}"
    for limit, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def number(value):
    """Three digits: 1.2396 -> "1.24"."""
    return f"{value:.3g}"


def rounded(value, low, high):
    """A number with the decimals that its interval allows: those of the first digit of its
    half-width, at most three.

    >>> rounded(0.48612, 0.441, 0.539), rounded(0.9183, 0.28, 3.0), rounded(0.48612, 0.48, 0.49)
    ('0.49', '0.9', '0.486')
    """
    half = (high - low) / 2
    digits = 3 if half <= 0 else -math.floor(math.log10(half))
    return f"{value:.{min(max(digits, 1), 3)}f}"
