"""Windows of a text: hashes of all runs of k symbols, and a table that finds them in another text.

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
    n_windows = max(0, symbols.shape[-1] - k + 1)
    if not n_windows:
        return np.zeros((*symbols.shape[:-1], 0), np.uint64)
    block, size = _VALUES[symbols], 1  # windows of `size` symbols: 1, 2, 4 ...
    whole, width = None, 0  # windows of `width` symbols: blocks joined up so far
    while True:
        if k & size:
            whole = block if whole is None else _joined(whole, block[..., width:], size)
            width += size
        if width == k:
            return mix(whole[..., :n_windows])
        block = _joined(block, block[..., size:], size)
        size *= 2


def _joined(first, second, size):
    """Returns hashes of `first` windows with `second` ones of `size` symbols after them."""
    n = min(first.shape[-1], second.shape[-1])
    return first[..., :n] * np.uint64(pow(_STEP, size, 1 << 64)) + second[..., :n]


def build_lookup(hashes):
    """Returns (sorted unique hashes, start of every bucket, bits to shift) for `look_up`.

    Buckets, by the first bits, are 8 to 16 times as many as hashes (at most 256 MB): most unknown
    windows meet an empty one."""
    unique = np.unique(hashes)
    bits = min(26, max(8, len(unique).bit_length() + 3))
    buckets = np.bincount((unique >> np.uint64(64 - bits)).astype(np.int64), minlength=1 << bits)
    return unique, np.append(0, np.cumsum(buckets)).astype(np.int32), np.uint64(64 - bits)


def look_up(lookup, hashes):
    """Returns the positions of known hashes, and their indices among the sorted ones."""
    unique, starts, shift = lookup
    bucket = (hashes >> shift).astype(np.int64)
    place = starts[bucket]
    open_ = np.flatnonzero(starts[bucket + 1] > place)
    end, place = starts[bucket[open_] + 1], place[open_]
    positions, numbers = [], []
    while len(open_):  # the first hash of every bucket, then the second, ...
        hit = unique[place] == hashes[open_]
        positions.append(open_[hit])
        numbers.append(place[hit])
        place = place + 1
        on = ~hit & (place < end)
        open_, place, end = open_[on], place[on], end[on]
    none = np.empty(0, np.int64)
    return np.concatenate([none, *positions]), np.concatenate([none, *numbers])
