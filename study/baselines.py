"""What a model must beat, on the very splits it sees: uniform, unigram, n-gram, xz and bz2 in bits per character.

The counting is ours: no maintained package estimates modified Kneser-Ney of 17 orders on 100 million characters in
numpy's memory. Every question goes once through the training characters, in blocks of BLOCK, and counts only what the
val and test splits ask about; so time is linear in the training text, and memory depends on val and test alone.

A *file of characters* is an array of CharTokenizer's tokens, BEGIN sequence END BEGIN sequence END ...: the marks are
of the text and stay the same whatever tokens a model reads.
"""

import bz2
import lzma
import math
import os

import numpy as np

from common import BEGIN, END
from music.windows import build_lookup, look_up, window_hashes

MAX_ORDER = 16          # longest context tried, in characters; the best is chosen on val and was 6 to 11 so far
BLOCK = 1 << 22         # characters looked at at once: about 250 MB of working memory
XZ = {"preset": 9}      # a dictionary of 64 MB: of a longer training text xz sees the last 64 MB (700 MB of memory)
BZ2_LEVEL = 9           # blocks of 900 kB: bz2 knows no more of the training text than the end of it


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
    """Discounts of counts 0, 1, 2 and 3+ of modified Kneser-Ney (Chen & Goodman 1999, equation 26).

    They come from how many things were seen once, twice, three and four times. Small corpora and contexts of sixteen
    characters have none of some kind; then absolute discounting by a half, or 1.5, stands in. No discount reaches its
    count, and none is nothing: else a context would give all its weight to what it has seen.
    """
    n1, n2, n3, n4 = (int((counts == i).sum()) for i in (1, 2, 3, 4))
    if not (n1 and n2):
        return np.array([0, 0.5, 0.5, 0.5])
    y = n1 / (n1 + 2 * n2)
    estimates = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3 if n3 else 1.5]
    return np.array([0.0] + [min(max(value, 0.05), i + 0.95) for i, value in enumerate(estimates)])


def interpolation_terms(contexts, targets, n_contexts, size, pair_keys, counts):
    """(discounted probability, weight of the shorter context) of every (context, target) that is asked for.

    pair_keys, counts: sorted context * size + target, and how often each occurs. A context never seen in training has
    probability 0 and weight 1: the shorter one alone decides.
    """
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


def _padded(characters, order):
    """The characters after order + 1 ENDs, so that the very first ones have a context too."""
    return np.concatenate([np.full(order + 1, END, characters.dtype), characters])


def _count_followers(train_path, lookup, vocab_size, order):
    """(sorted keys, counts): how often each character follows each context of `lookup`, by the character before it.

    key: (number of the context * vocab_size + character) * vocab_size + character before the context. Only contexts
    that the asked splits contain are counted, so the table does not grow with the training text.
    """
    train = np.load(train_path, mmap_mode="r")
    keys, counts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]  # first what is merged, then one entry a block
    for start in range(0, len(train), BLOCK):
        stop = min(start + BLOCK, len(train))
        part = _padded(train[:stop], order) if start == 0 else np.array(train[start - order - 1:stop])
        follow, before = part[order + 1:], part[:len(part) - order - 1]
        if order:
            at, number = look_up(lookup, window_hashes(part[1:-1], order))
        else:
            at, number = np.arange(len(follow)), np.zeros(len(follow), np.int64)
        keep = follow[at] != BEGIN  # that a sequence begins is not predicted
        at, number = at[keep], number[keep]
        key = (number * vocab_size + follow[at]) * vocab_size + before[at]
        key.sort()
        first = np.flatnonzero(np.append(True, key[1:] != key[:-1])) if len(key) else np.empty(0, np.int64)
        keys.append(key[first])
        counts.append(np.diff(np.append(first, len(key))))
        if sum(map(len, keys[1:])) > max(len(keys[0]), 4 * BLOCK):
            merged = add_counts(np.concatenate(keys), np.concatenate(counts))
            keys, counts = [merged[0]], [merged[1]]
    return add_counts(np.concatenate(keys), np.concatenate(counts))


def order_terms(train_path, asked_paths, vocab_size, order):
    """What contexts of `order` characters say about every character of the asked splits.

    Returns float32 (4, characters asked): discounted probability and back-off weight by how often the character
    followed the context, then the same by after how many different longer contexts it did (Kneser-Ney's lower orders).
    """
    hashes, targets = [], []
    for path in asked_paths:
        characters = np.load(path)
        asked = characters != BEGIN
        hashes.append(window_hashes(_padded(characters, order)[1:-1], order)[asked] if order
                      else np.zeros(asked.sum(), np.uint64))
        targets.append(characters[asked])
    hashes, targets = np.concatenate(hashes), np.concatenate(targets).astype(np.int64)
    lookup = build_lookup(hashes)
    contexts = np.searchsorted(lookup[0], hashes)
    keys, counts = _count_followers(train_path, lookup, vocab_size, order)
    pairs, raw = add_counts(keys // vocab_size, counts)
    _, different = add_counts(keys // vocab_size, np.ones_like(keys))
    if not len(pairs):
        return np.stack([np.zeros(len(targets)), np.ones(len(targets))] * 2).astype(np.float32)
    return np.stack([*interpolation_terms(contexts, targets, len(lookup[0]), vocab_size, pairs, raw),
                     *interpolation_terms(contexts, targets, len(lookup[0]), vocab_size, pairs, different)])


def ngram_bits(terms, n_val, n_outcomes):
    """{order: (bits per character on val, on test)} from the terms of contexts of 0, 1, 2 ... characters.

    The longest context of a model counts how often characters followed it, all shorter ones after how many contexts
    they did (Kneser and Ney 1995): `Francisco` is frequent, but only after `San`.
    """
    lower, bits_by_order = np.full(terms[0].shape[1], 1 / n_outcomes), {}
    for context, (kept, weight, kept_lower, weight_lower) in enumerate(terms):
        bits = -np.log2(kept + weight * lower)
        bits_by_order[context + 1] = float(bits[:n_val].mean()), float(bits[n_val:].mean())
        lower = kept_lower + weight_lower * lower
    return bits_by_order


# ---------------------------------------------------------------- compressors

def conditional_bits(name, train_path, asked_paths):
    """Bits by which each asked text lengthens the compressed training text; name: `xz` or `bz2`.

    The training text is compressed once; forks of the process go on from there with each text (Python's compressors
    can be neither copied nor saved).
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
    """Pool worker: (what, result) of one job (what, folder of the texts, folder of the files of characters, size of
    their vocabulary); what: `xz`, `bz2`, `unigram` or the number of characters of an n-gram's context."""
    what, texts, arrays, vocab_size = job
    train, *asked = [arrays / f"{split}_tokens.npy" for split in ("train", "val", "test")]
    if what in ("xz", "bz2"):
        return what, conditional_bits(what, texts / "train.txt", [texts / "val.txt", texts / "test.txt"])
    if what == "unigram":
        return what, unigram_bits(train, asked, vocab_size)
    return what, order_terms(train, asked, vocab_size, what)


def jobs(texts, arrays, vocab_size):
    """All jobs for `measure`, the longest first."""
    return [(what, texts, arrays, vocab_size) for what in ("xz", *range(MAX_ORDER, -1, -1), "bz2", "unigram")]


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
