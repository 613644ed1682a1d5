"""The text that a run reads: token streams, nested subsets of them, and the windows of a step.

One epoch is every training token exactly once: the sequences are shuffled, joined and cut into
windows of the context's length (512), and the windows are shuffled again. Everything random is a
function of (seed, epoch).
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from common import BEGIN, END, IGNORE, load_tokenizer

BLOCK_SIZE = 512  # tokens of context
COUNTED_TOKENS = 1 << 24  # at a time: as indices they take 8 bytes each


class Data(NamedTuple):
    """Three token streams (BEGIN text END BEGIN text END ..., 1-D numpy) and what their tokens
    mean."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    tokenizer_digest: str
    vocab_size: int
    token_chars: np.ndarray  # (vocab_size,): characters that each token stands for; BEGIN 0, END 1


def load_data(root):
    """The splits of stage 03 as memory-mapped arrays; ValueError if they do not belong together."""
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
    """Where sequences begin, and the end of the last: shape (number of sequences + 1,)."""
    return np.append(np.flatnonzero(np.asarray(tokens) == BEGIN), len(tokens))


def text_chars(tokens, token_chars):
    """Characters of text that each token of a stream stands for: those of `token_chars`, but END is
    no text."""
    chars = token_chars.astype(np.min_scalar_type(token_chars.max()))
    chars[END] = 0
    return np.concatenate(
        [chars[block] for block in np.array_split(tokens, 1 + len(tokens) // COUNTED_TOKENS)]
    )


def count_chars(tokens, token_chars):
    """Characters of text in a stream."""
    return int(text_chars(tokens, token_chars).sum(dtype=np.int64))


def subset(tokens, token_chars, fraction=1.0, max_chars=None):
    """Whole sequences that make up `fraction` of the stream's tokens, at most `max_chars`
    characters of text.

    The sequences are taken in one fixed random order, the same for every seed and fraction, so that
    smaller subsets lie within larger ones; they come back in the order of the file. ValueError if
    not one of them fits.
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
    """(stream, starts): the sequences in this epoch's order, and where its windows start, in order
    of use.

    The stream is followed by BEGIN tokens, which are never targets: the last window may be short.
    """
    bounds, rng = sequence_bounds(tokens), np.random.default_rng([seed, epoch])
    order = rng.permutation(len(bounds) - 1)
    parts = [tokens[bounds[i] : bounds[i + 1]] for i in order]
    stream = np.concatenate(parts + [np.full(BLOCK_SIZE + 1, BEGIN, tokens.dtype)])
    return stream, rng.permutation(n_windows(len(tokens))) * BLOCK_SIZE


def n_windows(n_tokens):
    """Windows of a stream: every token but the first is a target once."""
    return -(-(n_tokens - 1) // BLOCK_SIZE)


def cut_windows(stream, starts, length=BLOCK_SIZE):
    """Inputs and targets (int64, shape (len(starts), length)); BEGIN is no target."""
    window = stream[starts[:, None] + torch.arange(length + 1, device=stream.device)].long()
    targets = window[:, 1:]
    return window[:, :-1], targets.masked_fill(targets == BEGIN, IGNORE)


def to_tensor(tokens, device):
    """A token stream on the device, in the smallest integer type that can be indexed there."""
    tokens = np.array(tokens)  # a copy: memory maps are read-only
    return torch.from_numpy(tokens if tokens.dtype == np.uint8 else tokens.astype(np.int32)).to(
        device
    )


def target_chars(targets, token_chars):
    """Characters that targets (int64, any shape) stand for; 0 where a target counts for nothing.
    token_chars: tensor
    (vocab_size,) on their device."""
    return token_chars[targets.clamp(min=0)].masked_fill(targets == IGNORE, 0)


def digest_tokens(*streams):
    """SHA-256 over token streams."""
    digest = hashlib.sha256()
    for stream in streams:
        digest.update(f"{stream.dtype} {len(stream)}\n".encode())
        digest.update(np.ascontiguousarray(stream).data)
    return digest.hexdigest()
