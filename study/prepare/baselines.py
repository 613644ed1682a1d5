"""Measures baselines in bits per character: uniform, unigram, 6-gram, and compressors after the
training text.

They read a *file of characters*, an array of CharTokenizer's tokens, BEGIN sequence END BEGIN ...,
whatever tokens a model reads. Training characters are read in blocks, and only contexts of val and
test are counted: memory depends on these alone.
"""

import lzma
import math
import multiprocessing

import numpy as np
import pyppmd

from common import BEGIN, END
from music.windows import look_up, window_hashes

ASKED = ("val", "test")  # what is predicted
NGRAM_ORDER = 6  # characters, the predicted one included
BLOCK = 1 << 22  # characters looked at at once: about 250 MB of working memory
PPMD_ORDER = 16  # of variant I; pyppmd's default of 6 costs 0.1 bits
PPMD_MEMORY = 1 << 29  # bytes; beyond these it forgets
XZ_PRESET = 9  # of a training text xz sees the last 64 MB
COMPRESSORS = {"ppmd": f"PPMd (order {PPMD_ORDER})", "xz": f"xz -{XZ_PRESET}"}


def ngram_bits(train_path, asked_paths, vocab_size):
    """Returns bits per character on each asked split of an n-gram model, interpolated over all
    lengths of context (Witten and Bell 1991, method C):
    p(x | context) = (count of x + n_kinds * p(x | shorter context)) / (count + n_kinds), where
    n_kinds different characters followed the context in the training text.
    """
    splits = [np.load(path) for path in asked_paths]
    asked = [split != BEGIN for split in splits]  # that a sequence begins is not predicted
    targets = np.concatenate([split[keep] for split, keep in zip(splits, asked)]).astype(np.int64)
    probability = np.full(len(targets), 1 / (vocab_size - 1))  # of every token but BEGIN
    for order in range(NGRAM_ORDER):
        hashes = [_contexts(split, order)[keep] for split, keep in zip(splits, asked)]
        contexts, context = np.unique(np.concatenate(hashes), return_inverse=True)
        keys, counts = _count_followers(train_path, contexts, vocab_size, order)
        if not len(keys):
            continue
        total = np.bincount(keys // vocab_size, counts, len(contexts))[context]
        n_kinds = np.bincount(keys // vocab_size, minlength=len(contexts))[context]
        wanted = context * vocab_size + targets
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        count = np.where(keys[place] == wanted, counts[place], 0)
        mixed = (count + n_kinds * probability) / np.maximum(total + n_kinds, 1)
        probability = np.where(total > 0, mixed, probability)
    bits = np.split(-np.log2(probability), np.cumsum([keep.sum() for keep in asked])[:-1])
    return [float(part.mean()) for part in bits]


def _contexts(characters, order, before=None):
    """Returns hashes of the `order` characters before each; before: those ahead of the first."""
    if not order:
        return np.zeros(len(characters), np.uint64)
    if before is None:
        before = np.full(order, END, characters.dtype)
    return window_hashes(np.concatenate([before, characters[:-1]]), order)


def _count_followers(train_path, contexts, vocab_size, order):
    """Returns how often each character follows each context: (sorted keys, number of
    the context * vocab_size + character; counts)."""
    train = np.load(train_path, mmap_mode="r")
    keys, counts = np.empty(0, np.int64), np.empty(0, np.int64)
    for start in range(0, len(train), BLOCK):
        follow = np.array(train[start : start + BLOCK])
        before = np.array(train[start - order : start]) if start else None
        at, number = look_up(contexts, _contexts(follow, order, before))
        keep = follow[at] != BEGIN
        found = number[keep] * vocab_size + follow[at[keep]]
        new_keys, new_counts = np.unique(found, return_counts=True)
        keys, place = np.unique(np.concatenate([keys, new_keys]), return_inverse=True)
        counts = np.bincount(place, np.concatenate([counts, new_counts])).astype(np.int64)
    return keys, counts


def conditional_bits(name, train_path, texts):
    """Returns the bits by which each text (bytes) lengthens the compressed training text; name: of
    COMPRESSORS, which cannot be copied: forks of the process go on with each text."""
    if name == "ppmd":
        forgets = pyppmd.PPMD8_RESTORE_METHOD_CUT_OFF
        engine = pyppmd.Ppmd8Encoder(PPMD_ORDER, PPMD_MEMORY, forgets)
        compress = engine.encode
    else:
        engine = lzma.LZMACompressor(preset=XZ_PRESET)
        compress = engine.compress
    size, sizes, fork = 0, [], multiprocessing.get_context("fork")
    with open(train_path, "rb") as file:
        while block := file.read(1 << 20):
            size += len(compress(block))
    total = fork.RawValue("q")

    def finish(text):
        total.value = size + len(compress(text)) + len(engine.flush())

    for text in [b"", *texts]:
        child = fork.Process(target=finish, args=(text,))
        child.start()
        child.join()
        if child.exitcode:
            raise MemoryError(f"{name} ended before it had compressed {len(text)} bytes")
        sizes.append(total.value)
    return [8 * (with_text - sizes[0]) for with_text in sizes[1:]]


def unigram_bits(train_path, asked_paths, vocab_size):
    """Returns bits per character on each asked split of a unigram model, add-one smoothing."""
    train, counts = np.load(train_path, mmap_mode="r"), np.zeros(vocab_size, np.int64)
    for start in range(0, len(train), BLOCK):
        counts += np.bincount(train[start : start + BLOCK], minlength=vocab_size)
    counts[BEGIN] = -1  # never a target: no probability after adding one
    with np.errstate(divide="ignore"):
        cost = -np.log2((counts + 1) / (counts + 1).sum())
    asked = [np.load(path) for path in asked_paths]
    return [float(cost[split[split != BEGIN]].mean()) for split in asked]


def summarise(results, vocab_size, n_chars):
    """Returns the content of baselines.json. results: of `data_report.measure_all`; n_chars:
    {split: characters and ENDs}."""
    unit = "bits per character: total over characters and ends of sequences"
    content = {"unit": unit, "n_chars": n_chars}
    for i, split in enumerate(ASKED):
        rows = {
            "uniform": ("uniform", math.log2(vocab_size - 1)),  # of every token but BEGIN
            "unigram": ("unigram", results["unigram"][i]),
            "ngram": (f"{NGRAM_ORDER}-gram", results["ngram"][i]),
        }
        for name, label in COMPRESSORS.items():
            rows[name] = label, results[name][i] / n_chars[split]
        content[split] = {
            name: {"label": label, "bits_per_char": bits, "nats_per_char": bits * math.log(2)}
            for name, (label, bits) in rows.items()
        }
    return content
