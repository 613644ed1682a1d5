"""What a model must beat, on the very splits it sees: uniform, unigram, n-gram and compressors in
bits per character.

The counting is ours: no maintained package estimates modified Kneser-Ney of 17 orders on 100
million characters in numpy's memory. Every question goes once through the training characters, in
blocks of BLOCK, and counts only what the val and test splits ask about, or, for the discounts, no
more than COUNTED n-grams; so time is linear in the training text, and memory depends on val and
test alone.

A *file of characters* is an array of CharTokenizer's tokens, BEGIN sequence END BEGIN sequence END
...: the marks are of the text and stay the same whatever tokens a model reads.
"""

import bz2
import lzma
import math
import os

import numpy as np
import pyppmd

from common import BEGIN, END
from music.windows import build_lookup, look_up, window_hashes
from study.prepare.split_files import tune_texts

# longest context tried, in characters; the best is chosen on val. On 294k characters of folk
MAX_ORDER = 16
# tunes a context of 25 gains 0.003 bits over 16, and every one costs a pass
# n-grams that discounts are estimated from, at most: their error is below 0.1 %, and memory
COUNTED = 1 << 24
# (400 MB) no longer grows
BLOCK = 1 << 22  # characters looked at at once: about 250 MB of working memory
PPMD_ORDER = 16  # of variant I; pyppmd's default of 6 costs 0.1 bits
PPMD_MEMORY = 1 << 29  # bytes; what no longer fits makes it forget (PPMD_FULL)
PPMD_FULL = pyppmd.PPMD8_RESTORE_METHOD_CUT_OFF
# tunes of a split that are coded apart, at most: 30 ms each, and a standard error of 0.03
PPMD_TUNES = 250
# a dictionary of 64 MB: of a longer training text xz sees the last 64 MB (700 MB of memory)
XZ = {"preset": 9}
# blocks of 900 kB: bz2 knows no more of the training text than the end of it
BZ2_LEVEL = 9
COMPRESSORS = {
    "ppmd": f"PPMd (order {PPMD_ORDER})",
    "xz": f"xz -{XZ['preset']}",
    "bz2": f"bz2 -{BZ2_LEVEL}",
}


# ---------------------------------------------------------------- n-grams


def add_counts(keys, counts):
    """(sorted unique keys, summed counts)."""
    if not len(keys):
        return keys, counts
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    first = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    return keys[first], np.add.reduceat(counts, first)


def discounts(n1, n2, n3, n4):
    """Discounts of counts 0, 1, 2 and 3+ of modified Kneser-Ney (Chen & Goodman 1999, equation 26)
    where n1 things were seen once, n2 twice ...

    Small corpora and contexts of sixteen characters have none of some kind; then absolute
    discounting by a half, or 1.5, stands in. No discount reaches its count, and none is nothing:
    else a context would give all its weight to what it has seen.
    """
    if not (n1 and n2):
        return np.array([0, 0.5, 0.5, 0.5])
    y = n1 / (n1 + 2 * n2)
    estimates = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3 if n3 else 1.5]
    return np.array([0.0] + [min(max(value, 0.05), i + 0.95) for i, value in enumerate(estimates)])


def counts_of_counts(train_path, order):
    """[n1, n2, n3, n4] twice: how many n-grams of `order` characters and the one that follows occur
    once to four times in the training text, and how many after one to four different characters.

    All n-grams of the text count, not those alone that the asked splits contain: these are the
    frequent ones, and their discounts came out too small (1.844 instead of 1.823 bits per character
    on val). Of a text longer than COUNTED only a share of the n-grams is looked at, chosen by their
    hash, all occurrences of each.
    """
    train, keys = np.load(train_path, mmap_mode="r"), []
    limit = np.uint64(min(2**64 - 1, 2**64 * COUNTED // max(1, len(train))))
    for part in _blocks(train, order):
        hashes = window_hashes(part[1:], order + 1)
        keep = (hashes <= limit) & (part[order + 1 :] != BEGIN)
        # the last 16 bits tell the character before: 48 bits tell COUNTED n-grams apart, but for
        # one or two pairs
        keys.append(
            (hashes[keep] & ~np.uint64(0xFFFF))
            | part[: len(part) - order - 1][keep].astype(np.uint64)
        )
    keys = np.concatenate(keys)
    keys.sort()
    ngram, occurrences = keys >> np.uint64(16), np.diff(np.append(_runs(keys), len(keys)))
    places = _runs(ngram[_runs(keys)])
    sizes = [np.add.reduceat(occurrences, places), np.diff(np.append(places, len(occurrences)))]
    return [[int((size == i).sum()) for i in (1, 2, 3, 4)] for size in sizes]


def _runs(ordered):
    """Where a new value begins in an ordered array."""
    return np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))


def interpolation_terms(contexts, targets, n_contexts, size, pair_keys, counts, discount):
    """(discounted probability, weight of the shorter context) of every (context, target) that is
    asked for.

    pair_keys, counts: sorted context * size + target, and how often each occurs; discount: from
    `discounts`. A context
    never seen in training has probability 0 and weight 1: the shorter one alone decides.
    """
    owner = pair_keys // size
    total = np.bincount(owner, counts, n_contexts)
    removed = np.bincount(owner, discount[np.minimum(counts, 3)], n_contexts)
    asked = contexts * size + targets
    place = np.minimum(np.searchsorted(pair_keys, asked), len(pair_keys) - 1)
    count = np.where(pair_keys[place] == asked, counts[place], 0)
    seen = total[contexts] > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        kept = np.where(
            seen, np.maximum(count - discount[np.minimum(count, 3)], 0) / total[contexts], 0
        )
        weight = np.where(seen, removed[contexts] / total[contexts], 1)
    return kept.astype(np.float32), weight.astype(np.float32)


def _padded(characters, order):
    """The characters after order + 1 ENDs, so that the very first ones have a context too."""
    return np.concatenate([np.full(order + 1, END, characters.dtype), characters])


def _blocks(train, order):
    """The training characters in blocks of BLOCK, each after the order + 1 characters that stand
    before it."""
    for start in range(0, len(train), BLOCK):
        stop = min(start + BLOCK, len(train))
        yield (
            _padded(train[:stop], order)
            if start == 0
            else np.array(train[start - order - 1 : stop])
        )


def _count_followers(train_path, lookup, vocab_size, order):
    """(sorted keys, counts): how often each character follows each context of `lookup`, by the
    character before it.

    key: (number of the context * vocab_size + character) * vocab_size + character before the
    context. Only contexts that the asked splits contain are counted, so the table does not grow
    with the training text.
    """
    train = np.load(train_path, mmap_mode="r")
    # first what is merged, then one entry a block
    keys, counts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for part in _blocks(train, order):
        follow, before = part[order + 1 :], part[: len(part) - order - 1]
        if order:
            at, number = look_up(lookup, window_hashes(part[1:-1], order))
        else:
            at, number = np.arange(len(follow)), np.zeros(len(follow), np.int64)
        keep = follow[at] != BEGIN  # that a sequence begins is not predicted
        at, number = at[keep], number[keep]
        key = (number * vocab_size + follow[at]) * vocab_size + before[at]
        key.sort()
        first = (
            np.flatnonzero(np.append(True, key[1:] != key[:-1]))
            if len(key)
            else np.empty(0, np.int64)
        )
        keys.append(key[first])
        counts.append(np.diff(np.append(first, len(key))))
        if sum(map(len, keys[1:])) > max(len(keys[0]), 4 * BLOCK):
            merged = add_counts(np.concatenate(keys), np.concatenate(counts))
            keys, counts = [merged[0]], [merged[1]]
    return add_counts(np.concatenate(keys), np.concatenate(counts))


def order_terms(train_path, asked_paths, vocab_size, order):
    """What contexts of `order` characters say about every character of the asked splits.

    Returns float32 (4, characters asked): discounted probability and back-off weight by how often
    the character followed the context, then the same by after how many different longer contexts it
    did (Kneser-Ney's lower orders).
    """
    hashes, targets = [], []
    for path in asked_paths:
        characters = np.load(path)
        asked = characters != BEGIN
        hashes.append(
            window_hashes(_padded(characters, order)[1:-1], order)[asked]
            if order
            else np.zeros(asked.sum(), np.uint64)
        )
        targets.append(characters[asked])
    hashes, targets = np.concatenate(hashes), np.concatenate(targets).astype(np.int64)
    lookup = build_lookup(hashes)
    contexts = np.searchsorted(lookup[0], hashes)
    keys, counts = _count_followers(train_path, lookup, vocab_size, order)
    pairs, raw = add_counts(keys // vocab_size, counts)
    _, different = add_counts(keys // vocab_size, np.ones_like(keys))
    if not len(pairs):
        return np.stack([np.zeros(len(targets)), np.ones(len(targets))] * 2).astype(np.float32)
    return np.stack(
        [
            term
            for counts, seen in zip((raw, different), counts_of_counts(train_path, order))
            for term in interpolation_terms(
                contexts, targets, len(lookup[0]), vocab_size, pairs, counts, discounts(*seen)
            )
        ]
    )


def ngram_bits(terms, n_val, n_outcomes):
    """{order: (bits per character on val, on test)} from the terms of contexts of 0, 1, 2 ...
    characters in order.

    The longest context of a model counts how often characters followed it, all shorter ones after
    how many contexts they did (Kneser and Ney 1995): `Francisco` is frequent, but only after `San`.
    """
    lower, bits_by_order = 1 / n_outcomes, {}
    for context, (kept, weight, kept_lower, weight_lower) in enumerate(terms):
        bits = -np.log2(kept + weight * lower)
        bits_by_order[context + 1] = float(bits[:n_val].mean()), float(bits[n_val:].mean())
        lower = kept_lower + weight_lower * lower
    return bits_by_order


# ---------------------------------------------------------------- compressors


def _engine(name):
    """(compress, flush) of a new compressor."""
    if name == "ppmd":
        engine = pyppmd.Ppmd8Encoder(PPMD_ORDER, PPMD_MEMORY, PPMD_FULL)
        return engine.encode, engine.flush
    engine = lzma.LZMACompressor(**XZ) if name == "xz" else bz2.BZ2Compressor(BZ2_LEVEL)
    return engine.compress, engine.flush


def conditional_bits(name, train_path, texts):
    """Bits by which each text (bytes) lengthens the compressed training text; name: `xz`, `bz2` or
    `ppmd`.

    The training text is compressed once; forks of the process go on from there with each text
    (these compressors can be neither copied nor saved), so no text knows another.
    """
    compress, flush = _engine(name)
    size, sizes = 0, []
    with open(train_path, "rb") as file:
        while block := file.read(1 << 20):
            size += len(compress(block))
    for text in [b"", *texts]:
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(write_end, b"%d" % (size + len(compress(text)) + len(flush())))
            finally:  # an exception must not run the parent's code a second time
                os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end, "rb") as pipe:
            answer = pipe.read()
        os.waitpid(child, 0)
        if not answer:
            raise MemoryError(f"{name} ended before it had compressed {len(text)} bytes")
        sizes.append(int(answer))
    return [8 * (with_text - sizes[0]) for with_text in sizes[1:]]


def bits_per_tune(folder, split):
    """What PPMd makes of each tune apart: the training text is known, the other tunes of the split
    are not.

    Returns {"bits_per_char", "tunes", "tunes_in_split"}: of more than PPMD_TUNES tunes every
    second, third ... is taken (tunes stand in the order of a hash).
    """
    tunes = list(tune_texts(folder, split))
    chosen = tunes[:: -(-len(tunes) // PPMD_TUNES)]
    bits = conditional_bits("ppmd", folder / "train.txt", [b"\n" + text for text, _ in chosen])
    return {
        "bits_per_char": sum(bits) / sum(n_chars for _, n_chars in chosen),
        "tunes": len(chosen),
        "tunes_in_split": len(tunes),
    }


# ---------------------------------------------------------------- all of them


def unigram_bits(train_path, asked_paths, vocab_size):
    """Bits per character on each asked split of a unigram model with add-one smoothing."""
    train, counts = np.load(train_path, mmap_mode="r"), np.zeros(vocab_size, np.int64)
    for start in range(0, len(train), BLOCK):
        counts += np.bincount(train[start : start + BLOCK], minlength=vocab_size)
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
    """Pool worker: (what, result) of one job (what, folder of the texts, folder of the files of
    characters, size of their vocabulary); what: `unigram`, a compressor, `val apart` and `test
    apart` (see `bits_per_tune`), or the number of characters of an n-gram's context."""
    what, texts, arrays, vocab_size = job
    train, *asked = [arrays / f"{split}_tokens.npy" for split in ("train", "val", "test")]
    if what in COMPRESSORS:
        return what, conditional_bits(
            what,
            texts / "train.txt",
            [b"\n" + (texts / f"{split}.txt").read_bytes() for split in ("val", "test")],
        )
    if what in ("val apart", "test apart"):
        return what, bits_per_tune(texts, what.split()[0])
    if what == "unigram":
        return what, unigram_bits(train, asked, vocab_size)
    return what, order_terms(train, asked, vocab_size, what)


def jobs(texts, arrays, vocab_size):
    """(jobs for `measure` with small results, the longest first; jobs of n-grams, whose results are
    arrays to be given to `ngram_bits` one after the other: all of them together would be 270 bytes
    for each character of val and test)."""
    return [
        [(what, texts, arrays, vocab_size) for what in names]
        for names in (
            ["xz", "val apart", "test apart", "ppmd", "bz2", "unigram"],
            range(MAX_ORDER + 1),
        )
    ]


def summarise(results, vocab_size, n_chars):
    """Content of baselines.json from {what: result}, `orders` among them (from `ngram_bits`);
    n_chars: {split: characters and END tokens}.

    `baselines.<split>.<name>` has bits_per_char, nats_per_char and `label`, the name for readers.
    """
    outcomes = vocab_size - 1  # every token but BEGIN
    orders = results["orders"]
    best = min(orders, key=lambda order: orders[order][0])
    ppmd = {"order": PPMD_ORDER, "memory_bytes": PPMD_MEMORY}
    table = {}
    for i, split in enumerate(("val", "test")):
        rows = {
            "uniform": ("uniform", math.log2(outcomes), {}),
            "unigram": ("unigram", results["unigram"][i], {}),
            "ngram": (
                f"{best}-gram",
                orders[best][i],
                {
                    "order": best,
                    "bits_per_char_by_order": {n: pair[i] for n, pair in orders.items()},
                },
            ),
            **{
                name: (label, results[name][i] / n_chars[split], ppmd if name == "ppmd" else {})
                for name, label in COMPRESSORS.items()
            },
        }
        apart = results[f"{split} apart"]
        rows["ppmd_per_tune"] = (
            f"{COMPRESSORS['ppmd']}, each tune apart",
            apart["bits_per_char"],
            {**ppmd, **apart},
        )
        table[split] = {
            name: {
                "label": label,
                "bits_per_char": bits,
                "nats_per_char": bits * math.log(2),
                **more,
            }
            for name, (label, bits, more) in rows.items()
        }
    return {
        "unit": "bits per character: total over characters and ends of sequences",
        "definitions": {
            "uniform": "every token but the beginning equally likely",
            "unigram": "frequencies in train, one added to each",
            "ngram": (
                "interpolated modified Kneser-Ney; order (predicted character included) chosen"
                " on val"
            ),
            "xz": f"growth of xz -{XZ['preset']} of train when the split is appended",
            "bz2": f"growth of bz2 -{BZ2_LEVEL} of train when the split is appended",
            "ppmd": (
                f"growth of PPMd var. I of train when the split is appended; order {PPMD_ORDER}, "
                f"{PPMD_MEMORY >> 20} MB"
            ),
            "ppmd_per_tune": (
                "the same, one tune appended at a time: it learns from the tune and from train, not"
                " from other tunes of the split"
            ),
        },
        "n_chars": n_chars,
        **table,
    }
