"""The text that a run reads: token streams, nested subsets of them, and the windows of a step.

One epoch is every training token exactly once: the sequences are shuffled, joined and cut into
windows of the context's length (512), and the windows are shuffled again, by (seed, epoch).
"""

import hashlib
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from common import BEGIN, END, IGNORE, load_tokenizer

BLOCK_SIZE = 512  # tokens of context
COUNTED_TOKENS = 1 << 24  # at a time: as indices they take 8 bytes each


class Data(NamedTuple):
    """Token streams (BEGIN text END BEGIN text END ..., 1-D numpy) and what their tokens mean."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    tokenizer_digest: str
    vocab_size: int
    token_chars: np.ndarray  # (vocab_size,): characters that each token stands for; BEGIN 0, END 1


def load_data(root):
    """Returns the splits of stage 03, memory-mapped; ValueError if they do not belong together."""
    folder = Path(root) / "data"
    tokenizer = load_tokenizer(folder / "tokenizer.pkl")
    splits = {}
    for name in ("train", "val", "test"):
        tokens = np.load(folder / f"{name}_tokens.npy", mmap_mode="r")
        if (
            tokens.ndim != 1
            or len(tokens) < 2
            or tokens[0] != BEGIN
            or int(tokens.max()) >= tokenizer.vocab_size
        ):
            raise ValueError(f"data/{name}_tokens.npy is no token stream of this tokenizer")
        splits[name] = tokens
    return Data(
        **splits,
        tokenizer_digest=tokenizer.digest,
        vocab_size=tokenizer.vocab_size,
        token_chars=tokenizer.token_chars,
    )


def sequence_bounds(tokens):
    """Returns where sequences begin, and the end of the last, shape (sequences + 1,)."""
    return np.append(np.flatnonzero(np.asarray(tokens) == BEGIN), len(tokens))


def text_chars(tokens, token_chars):
    """Returns the characters of text that each token stands for; END is no text."""
    chars = token_chars.astype(np.min_scalar_type(token_chars.max()))
    chars[END] = 0
    return np.concatenate(
        [chars[block] for block in np.array_split(tokens, 1 + len(tokens) // COUNTED_TOKENS)]
    )


def count_chars(tokens, token_chars):
    return int(text_chars(tokens, token_chars).sum(dtype=np.int64))


def subset(tokens, token_chars, fraction=1.0, max_chars=None):
    """Returns whole sequences that make up `fraction` of the stream's tokens, at most `max_chars`
    characters of text, in the order of the file; ValueError if not one fits.

    They are taken in one random order for every seed and fraction: smaller subsets lie in larger.
    """
    if fraction >= 1 and max_chars is None:
        return np.asarray(tokens)
    bounds = sequence_bounds(tokens)
    lengths = np.diff(bounds)
    order = np.random.default_rng(0).permutation(len(lengths))
    fits = np.cumsum(lengths[order]) <= fraction * len(tokens)
    if max_chars is not None:
        chars = np.add.reduceat(text_chars(tokens, token_chars), bounds[:-1], dtype=np.int64)
        fits &= np.cumsum(chars[order]) <= max_chars
    if not fits[0]:
        first = count_chars(tokens[bounds[order[0]] : bounds[order[0] + 1]], token_chars)
        raise ValueError(
            f"so little training text holds no whole sequence: the first to be taken has {first:,} "
            "characters"
        )
    chosen = np.sort(order[: int(fits.sum())])
    return np.concatenate([tokens[bounds[i] : bounds[i + 1]] for i in chosen])


def epoch_windows(tokens, seed, epoch):
    """Returns (stream, starts): the sequences in this epoch's order, and where its windows start,
    in order of use. BEGIN tokens fill the last window up."""
    bounds, rng = sequence_bounds(tokens), np.random.default_rng([seed, epoch])
    order = rng.permutation(len(bounds) - 1)
    parts = [tokens[bounds[i] : bounds[i + 1]] for i in order]
    stream = np.concatenate(parts + [np.full(BLOCK_SIZE + 1, BEGIN, tokens.dtype)])
    return stream, rng.permutation(n_windows(len(tokens))) * BLOCK_SIZE


def n_windows(n_tokens):
    """Returns the windows of a stream: every token but the first is a target once."""
    return math.ceil((n_tokens - 1) / BLOCK_SIZE)


def cut_windows(stream, starts, length=BLOCK_SIZE):
    """Returns inputs and targets (int64, shape (len(starts), length)); BEGIN is no target."""
    window = stream[starts[:, None] + torch.arange(length + 1, device=stream.device)].long()
    targets = window[:, 1:]
    return window[:, :-1], targets.masked_fill(targets == BEGIN, IGNORE)


def to_tensor(tokens, device):
    """Returns a stream on the device, in the smallest integer type that is indexed there."""
    kind = np.uint8 if tokens.dtype == np.uint8 else np.int32
    return torch.from_numpy(np.array(tokens, kind)).to(device)  # a copy: memory maps are read-only


def target_chars(targets, token_chars):
    """Returns the characters that targets (int64, any shape) stand for, 0 where they are ignored.
    token_chars: tensor (vocab_size,) on their device."""
    return token_chars[targets.clamp(min=0)].masked_fill(targets == IGNORE, 0)


def digest_tokens(*streams):
    digest = hashlib.sha256()
    for stream in streams:
        digest.update(f"{stream.dtype} {len(stream)}\n".encode())
        digest.update(np.ascontiguousarray(stream).data)
    return digest.hexdigest()
