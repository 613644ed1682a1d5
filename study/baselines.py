"""What a model must beat, on the very splits it sees: uniform, unigram, n-gram, xz and bz2 in bits per character; and
what the training text has in common with the others, window by window.

Everything here goes once through the training tokens per question, in blocks of BLOCK tokens, and counts only what the
val and test splits ask about; so time is linear in the training text, and memory depends on val and test alone.
"""

import bz2
import lzma
import math
import os

import numpy as np

from common import BEGIN, END

MAX_ORDER = 16          # longest context tried, in characters; the best is chosen on val and was 6 to 11 so far
BLOCK = 1 << 22         # tokens looked at at once: about 250 MB of working memory
WINDOW = 32             # characters; shorter ones are shared by all music, longer ones only by copies
XZ = {"preset": 9}      # a dictionary of 64 MB: of a longer training text xz sees the last 64 MB (700 MB of memory)
BZ2_LEVEL = 9           # blocks of 900 kB: bz2 knows no more of the training text than the end of it

_VALUES = np.random.default_rng(7).integers(0, 2**63, 1 << 16, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_STEP = np.uint64(0x9E3779B97F4A7C15)


# ---------------------------------------------------------------- hashing

def mix(x):
    """Scrambles uint64 values so that every bit depends on every other (the finaliser of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def window_hashes(tokens, size):
    """Hash (uint64) of every window of `size` tokens; shape (len(tokens) - size + 1,)."""
    n = len(tokens) - size + 1
    values, total = _VALUES[tokens], np.zeros(n, np.uint64)
    for start in range(size):
        total *= _STEP
        total += values[start:start + n]
    return mix(total)


def build_lookup(hashes):
    """(sorted unique hashes, start of every bucket, bits to shift): what `look_up` needs."""
    unique = np.unique(hashes)
    bits = min(26, max(8, len(unique).bit_length() + 3))
    buckets = np.bincount((unique >> np.uint64(64 - bits)).astype(np.int64), minlength=1 << bits)
    return unique, np.append(0, np.cumsum(buckets)).astype(np.int32), np.uint64(64 - bits)


def look_up(lookup, hashes):
    """(positions, numbers): where `hashes` has a known hash, and its number in the sorted unique ones."""
    unique, starts, shift = lookup
    bucket = (hashes >> shift).astype(np.int64)
    place = starts[bucket]
    open_ = np.flatnonzero(starts[bucket + 1] > place)
    end, place = starts[bucket[open_] + 1], place[open_]
    positions, numbers = [], []
    while len(open_):
        hit = unique[place] == hashes[open_]
        positions.append(open_[hit])
        numbers.append(place[hit])
        place = place + 1
        on = ~hit & (place < end)
        open_, place, end = open_[on], place[on], end[on]
    return (np.concatenate(positions), np.concatenate(numbers).astype(np.int64)) if positions else (
        np.empty(0, np.int64), np.empty(0, np.int64))


# ---------------------------------------------------------------- n-grams

def add_counts(keys, counts):
    """(sorted unique keys, summed counts)."""
    if not len(keys):
        return keys, counts
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    first = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    return keys[first], np.add.reduceat(counts, first)


def discounts(counts):
    """Discounts of counts 1, 2 and 3+ of modified Kneser-Ney (Chen & Goodman 1999, equation 26)."""
    n1, n2, n3, n4 = (int((counts == i).sum()) for i in (1, 2, 3, 4))
    if not (n1 and n2):
        return np.array([0, 0.5, 0.5, 0.5])
    y = n1 / (n1 + 2 * n2)
    found = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3 if n3 else 1.5]
    return np.array([0.0] + [min(max(value, 0.05), i + 0.95) for i, value in enumerate(found)])


def interpolation_terms(contexts, targets, n_contexts, size, pair_keys, counts):
    """(discounted probability, weight of the shorter context) of every (context, target) that is asked for."""
    discount = discounts(counts)
    owner = pair_keys // size
    total = np.bincount(owner, counts, n_contexts)
    removed = np.bincount(owner, discount[np.minimum(counts, 3)], n_contexts)
    asked = contexts * size + targets
    place = np.minimum(np.searchsorted(pair_keys, asked), len(pair_keys) - 1)
    count = np.where(pair_keys[place] == asked, counts[place], 0)
    seen = total[contexts] > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        kept = np.where(seen, np.maximum(count - discount[np.minimum(count, 3)], 0) / total[contexts], 0)
        weight = np.where(seen, removed[contexts] / total[contexts], 1)
    return kept.astype(np.float32), weight.astype(np.float32)


def order_terms(train_path, asked_paths, vocab_size, order):
    """What contexts of `order` characters say about every character of the asked splits.

    Returns float32 (4, characters asked): discounted probability and back-off weight by how often the character
    followed the context, then the same by after how many different longer contexts it did (Kneser-Ney's lower orders).
    """
    train = np.load(train_path, mmap_mode="r")
    def padded(tokens):
        return np.concatenate([np.full(order + 1, END, tokens.dtype), tokens])

    hashes, targets = [], []
    for path in asked_paths:
        tokens = np.load(path)
        hashes.append(window_hashes(padded(tokens)[1:-1], order)[tokens != BEGIN] if order
                      else np.zeros((tokens != BEGIN).sum(), np.uint64))
        targets.append(tokens[tokens != BEGIN])
    hashes, targets = np.concatenate(hashes), np.concatenate(targets).astype(np.int64)
    lookup = build_lookup(hashes)
    contexts = np.searchsorted(lookup[0], hashes)
    keys, counts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start in range(0, len(train), BLOCK):
        stop = min(start + BLOCK, len(train))
        part = padded(train[:stop]) if start == 0 else np.array(train[start - order - 1:stop])
        follow, before = part[order + 1:], part[:len(part) - order - 1]
        if order:
            at, number = look_up(lookup, window_hashes(part[1:-1], order))
        else:
            at, number = np.arange(len(follow)), np.zeros(len(follow), np.int64)
        keep = follow[at] != BEGIN
        at, number = at[keep], number[keep]
        key = (number * vocab_size + follow[at]) * vocab_size + before[at]
        key.sort()
        first = np.flatnonzero(np.append(True, key[1:] != key[:-1])) if len(key) else np.empty(0, np.int64)
        keys.append(key[first])
        counts.append(np.diff(np.append(first, len(key))))
        if sum(map(len, keys[1:])) > max(len(keys[0]), 4 * BLOCK):
            merged = add_counts(np.concatenate(keys), np.concatenate(counts))
            keys, counts = [merged[0]], [merged[1]]
    keys, counts = add_counts(np.concatenate(keys), np.concatenate(counts))
    pairs, raw = add_counts(keys // vocab_size, counts)
    _, different = add_counts(keys // vocab_size, np.ones_like(keys))
    if not len(pairs):
        return np.stack([np.zeros(len(targets)), np.ones(len(targets))] * 2).astype(np.float32)
    return np.stack([*interpolation_terms(contexts, targets, len(lookup[0]), vocab_size, pairs, raw),
                     *interpolation_terms(contexts, targets, len(lookup[0]), vocab_size, pairs, different)])


def ngram_bits(terms, n_val, n_outcomes):
    """{order: (bits per character on val, on test)} from the terms of contexts of 0, 1, 2 ... characters."""
    lower, found = np.full(terms[0].shape[1], 1 / n_outcomes), {}
    for context, (kept, weight, kept_lower, weight_lower) in enumerate(terms):
        bits = -np.log2(kept + weight * lower)
        found[context + 1] = float(bits[:n_val].mean()), float(bits[n_val:].mean())
        lower = kept_lower + weight_lower * lower
    return found


# ---------------------------------------------------------------- compressors

def conditional_bits(name, train_path, asked_paths):
    """Bits by which each asked text lengthens the compressed training text; name: `xz` or `bz2`.

    The training text is compressed once; forks of the process go on from there with each text.
    """
    engine = lzma.LZMACompressor(**XZ) if name == "xz" else bz2.BZ2Compressor(BZ2_LEVEL)
    size, sizes = 0, []
    with open(train_path, "rb") as file:
        while block := file.read(1 << 20):
            size += len(engine.compress(block))
    for text in [b"", *(b"\n" + path.read_bytes() for path in asked_paths)]:
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write_end, b"%d" % (size + len(engine.compress(text)) + len(engine.flush())))
            os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end, "rb") as pipe:
            answer = pipe.read()
        os.waitpid(child, 0)
        sizes.append(int(answer))
    return [8 * (with_text - sizes[0]) for with_text in sizes[1:]]


# ---------------------------------------------------------------- overlap

def windows_of(tokens):
    """(starts, hashes) of all windows of WINDOW tokens that lie inside one sequence."""
    if len(tokens) < WINDOW:
        return np.empty(0, np.int64), np.empty(0, np.uint64)
    ends = np.append(0, np.cumsum((tokens == BEGIN) | (tokens == END)))
    inside = np.flatnonzero(ends[WINDOW:] == ends[:-WINDOW])
    return inside, window_hashes(tokens, WINDOW)[inside]


def shared_windows(train_path, asked_paths):
    """[(starts, found)] per asked split: the windows inside its sequences, and whether the training text has them."""
    asked = [windows_of(np.load(path)) for path in asked_paths]
    lookup = build_lookup(np.concatenate([hashes for _, hashes in asked]))
    found = np.zeros(len(lookup[0]) + 1, bool)
    train = np.load(train_path, mmap_mode="r")
    for start in range(0, len(train), BLOCK):
        part = np.array(train[max(0, start - WINDOW + 1):start + BLOCK])
        if len(part) >= WINDOW:
            found[look_up(lookup, window_hashes(part, WINDOW))[1]] = True
    return [(starts, found[np.searchsorted(lookup[0], hashes)]) for starts, hashes in asked]


def nearest_sequences(train_path, train_starts, hashes):
    """[(sequence of the training text that has most of these windows, how many)] for each array of window hashes."""
    wanted = [np.unique(part) for part in hashes]
    lookup = build_lookup(np.concatenate(wanted))
    train, seen = np.load(train_path, mmap_mode="r"), []
    n_sequences = len(train_starts)
    for start in range(0, len(train), BLOCK):
        begin = max(0, start - WINDOW + 1)
        part = np.array(train[begin:start + BLOCK])
        if len(part) >= WINDOW:
            at, number = look_up(lookup, window_hashes(part, WINDOW))
            sequence = np.searchsorted(train_starts, at + begin, side="right") - 1
            seen.append(np.unique(number * n_sequences + sequence))
    seen = np.unique(np.concatenate(seen)) if seen else np.empty(0, np.int64)
    number, sequence = seen // n_sequences, seen % n_sequences
    nearest = []
    for part in wanted:
        mine = np.isin(number, np.searchsorted(lookup[0], part))
        counts = np.bincount(sequence[mine], minlength=1)
        nearest.append((int(counts.argmax()), int(counts.max())))
    return nearest


# ---------------------------------------------------------------- all of them

def unigram_bits(train_path, asked_paths, vocab_size):
    """Bits per character on each asked split of a unigram model with add-one smoothing."""
    train, counts = np.load(train_path, mmap_mode="r"), np.zeros(vocab_size, np.int64)
    for start in range(0, len(train), BLOCK):
        counts += np.bincount(train[start:start + BLOCK], minlength=vocab_size)
    counts[BEGIN] = -1  # never a target: no probability after adding one
    bits = []
    for path in asked_paths:
        here = np.bincount(np.load(path), minlength=vocab_size)
        here[BEGIN] = 0
        with np.errstate(divide="ignore"):
            cost = -np.log2((counts + 1) / (counts + 1).sum())
        bits.append(float(here[here > 0] @ cost[here > 0] / here.sum()))
    return bits


def measure(job):
    """Pool worker: (what, result) of one job (what, folder, vocabulary size); what: `xz`, `bz2`, `unigram`, `overlap`
    or the number of characters of an n-gram's context."""
    what, data, vocab_size = job
    train, asked = data / "train_tokens.npy", [data / "val_tokens.npy", data / "test_tokens.npy"]
    if what in ("xz", "bz2"):
        return what, conditional_bits(what, data / "train.txt", [data / "val.txt", data / "test.txt"])
    if what == "unigram":
        return what, unigram_bits(train, asked, vocab_size)
    if what == "overlap":
        return what, shared_windows(train, asked)
    return what, order_terms(train, asked, vocab_size, what)


def jobs(data, vocab_size):
    """All jobs for `measure`, the longest first."""
    return [(what, data, vocab_size) for what in ("xz", "overlap", *range(MAX_ORDER, -1, -1), "bz2", "unigram")]


def summarise(results, vocab_size, n_chars):
    """Content of baselines.json from {what: result}; n_chars: {split: characters and END tokens}."""
    outcomes = vocab_size - 1  # every token but BEGIN
    orders = ngram_bits([results[order] for order in range(MAX_ORDER + 1)], n_chars["val"], outcomes)
    best = min(orders, key=lambda order: orders[order][0])
    table = {}
    for i, split in enumerate(("val", "test")):
        bits = {"uniform": math.log2(outcomes), "unigram": results["unigram"][i], "ngram": orders[best][i],
                "xz": results["xz"][i] / n_chars[split], "bz2": results["bz2"][i] / n_chars[split]}
        table[split] = {name: {"bits_per_char": value, "nats_per_char": value * math.log(2)}
                        for name, value in bits.items()}
        table[split]["ngram"].update(order=best, bits_per_char_by_order={n: pair[i] for n, pair in orders.items()})
    return {"unit": "bits per character: total over characters and ends of sequences",
            "definitions": {
                "uniform": "every token but the beginning equally likely",
                "unigram": "frequencies in train, one added to each",
                "ngram": "interpolated modified Kneser-Ney; order (predicted character included) chosen on val",
                "xz": f"growth of xz -{XZ['preset']} of train when the split is appended",
                "bz2": f"growth of bz2 -{BZ2_LEVEL} of train when the split is appended"},
            "n_chars": n_chars, **table}
