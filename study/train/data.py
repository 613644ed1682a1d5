"""The text that a run reads: token streams, nested subsets of them, and the windows of a step.

One epoch is every training token once: by (seed, epoch) the sequences are shuffled, joined and cut
into windows of BLOCK_SIZE tokens, and the windows are shuffled again.
"""

import hashlib
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from common import BEGIN, END, IGNORE, load_tokenizer

BLOCK_SIZE = 512  # tokens of context
COUNTED_TOKENS = 1 << 24  # at a time: each takes 8 bytes as an index


class Data(NamedTuple):
    """Token streams (BEGIN text END BEGIN text END ..., 1-D) and what their tokens mean."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    tokenizer_digest: str
    vocab_size: int
    token_chars: np.ndarray  # (vocab_size,): characters that each token stands for


def load_data(root):
    """Returns the splits of stage 03, memory-mapped; ValueError if they do not belong together."""
    folder = Path(root) / "data"
    tokenizer, splits = load_tokenizer(folder / "tokenizer.pkl"), []
    for name in ("train", "val", "test"):
        tokens = np.load(folder / f"{name}_tokens.npy", mmap_mode="r")
        is_stream = tokens.ndim == 1 and len(tokens) > 1 and tokens[0] == BEGIN
        if not is_stream or int(tokens.max()) >= tokenizer.vocab_size:
            raise ValueError(f"data/{name}_tokens.npy is no token stream of this tokenizer")
        splits.append(tokens)
    return Data(*splits, tokenizer.digest, tokenizer.vocab_size, tokenizer.token_chars)


def sequence_bounds(tokens):
    """Returns where sequences begin, and the end of the last: (sequences + 1,)."""
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
    """Returns whole sequences, in the order of the file: at most `fraction` of the stream's tokens
    and `max_chars` characters; ValueError if not one fits. Smaller subsets lie in larger ones."""
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
        problem = "so little training text holds no whole sequence"
        raise ValueError(f"{problem}: the first to be taken has {first:,} characters")
    chosen = np.sort(order[: int(fits.sum())])
    return np.concatenate([tokens[bounds[i] : bounds[i + 1]] for i in chosen])


def epoch_windows(tokens, seed, epoch):
    """Returns (stream, starts of its windows), in this epoch's order; BEGIN fills the last one."""
    bounds, rng = sequence_bounds(tokens), np.random.default_rng([seed, epoch])
    order = rng.permutation(len(bounds) - 1)
    parts = [tokens[bounds[i] : bounds[i + 1]] for i in order]
    stream = np.concatenate(parts + [np.full(BLOCK_SIZE + 1, BEGIN, tokens.dtype)])
    return stream, rng.permutation(n_windows(len(tokens))) * BLOCK_SIZE


def n_windows(n_tokens):
    """Returns the windows of a stream: every token but the first is a target once."""
    return math.ceil((n_tokens - 1) / BLOCK_SIZE)


def cut_windows(stream, starts):
    """Returns inputs and targets (int64, (len(starts), BLOCK_SIZE)); BEGIN is no target."""
    window = stream[starts[:, None] + torch.arange(BLOCK_SIZE + 1, device=stream.device)].long()
    targets = window[:, 1:]
    return window[:, :-1], targets.masked_fill(targets == BEGIN, IGNORE)


def to_tensor(tokens, device):
    """Returns a stream on the device, as uint8 or int32."""
    kind = np.uint8 if tokens.dtype == np.uint8 else np.int32
    return torch.from_numpy(np.array(tokens, kind)).to(device)  # a copy: memory maps are read-only


def target_chars(targets, token_chars):
    """Returns the characters of each target, 0 where it is ignored; token_chars: a tensor."""
    return token_chars[targets.clamp(min=0)].masked_fill(targets == IGNORE, 0)


def digest_tokens(*streams):
    digest = hashlib.sha256()
    for stream in streams:
        digest.update(f"{stream.dtype} {len(stream)}\n".encode())
        digest.update(np.ascontiguousarray(stream).data)
    return digest.hexdigest()
