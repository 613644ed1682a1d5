"""Windows of a text: hashes of all runs of k symbols, and where another text has them.

Two texts share a run of k symbols where windows of both have the same hash (64 bits).
"""

import numpy as np

# an odd number for every symbol
_VALUES = 2 * np.random.default_rng(7).integers(0, 2**63, 1 << 16, dtype=np.uint64) + 1
_STEP = 0x9E3779B97F4A7C15  # base of the polynomial: odd, bits of the golden ratio


def mix(x):
    """Returns uint64 values scrambled (finaliser of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def window_hashes(symbols, k):
    """Returns hashes (uint64) of all windows of k > 0 symbols, shape (..., max(0, T - k + 1)).

    symbols: below 65,536, shape (..., T). A hash is a polynomial in them, made by doubling: log2(k)
    passes instead of k.
    """
    block, size = _VALUES[symbols], 1  # windows of `size` symbols: 1, 2, 4 ...
    whole, width = None, 0  # windows of `width` symbols: blocks joined up so far
    while True:
        if k & size:
            whole = block if whole is None else _joined(whole, block[..., width:], size)
            width += size
        if width == k:
            return mix(whole)
        block = _joined(block, block[..., size:], size)
        size *= 2


def _joined(first, second, size):
    """Returns hashes of `first` windows with `second` ones of `size` symbols after them."""
    n = min(first.shape[-1], second.shape[-1])
    return first[..., :n] * np.uint64(pow(_STEP, size, 1 << 64)) + second[..., :n]


def look_up(known, hashes):
    """Returns the positions of hashes that are known (sorted, each once), and their indices there."""
    place = np.searchsorted(known[:-1], hashes)
    positions = np.flatnonzero(known[place] == hashes) if len(known) else place[:0]
    return positions, place[positions]
