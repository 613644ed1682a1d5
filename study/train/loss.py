"""The loss: of training between two evaluations (`Meter`), and of a split (`evaluate`), here and
in stage 07. All losses are in nats per character, whatever a token is.
"""

import contextlib
import math

import numpy as np
import torch
import torch.nn.functional as F

from common import BEGIN, IGNORE, autocast
from study.train import machine
from study.train.data import BLOCK_SIZE, cut_windows, n_windows, target_chars, to_tensor

POSITION_BINS = 64


@torch.no_grad()
def evaluate(
    model,
    tokens,
    token_chars,
    device,
    batch_windows=16,
    precise=True,
    by_sequence=False,
    at_most=None,
):
    """Returns the loss over a token stream: every token but BEGIN is a target once, in windows that
    do not overlap. Deterministic; ValueError if there is nothing to predict.

    token_chars: numpy (vocab_size,); precise: fp32, else `common.precision` (bf16: half the time,
    0.0001 nats off); by_sequence: adds "nats_by_sequence" and "chars_by_sequence", sums over
    targets; at_most: windows, evenly spread.

    Keys: "nats_per_char", "bits_per_char", "perplexity" (of a character), "n_chars" (of the
    targets, one for each END), "n_tokens" (targets), "loss_by_position" (nats per character, 64
    bins of 8 positions; None where nothing was predicted).
    """
    was_training = model.training
    model.eval()
    stream = to_tensor(
        np.append(np.asarray(tokens), np.full(BLOCK_SIZE + 1, BEGIN, tokens.dtype)), device
    )
    every = n_windows(len(tokens))
    n = min(every, at_most or every)
    starts = torch.arange(n, device=device) * every // max(1, n) * BLOCK_SIZE
    chars_of = torch.from_numpy(np.asarray(token_chars)).to(device)
    sums = torch.zeros(3, BLOCK_SIZE, dtype=torch.float64)  # nats, characters, targets by position
    if by_sequence:
        sequence = np.cumsum(np.asarray(tokens) == BEGIN) - 1  # of each token
        by_number = torch.zeros(2, int(sequence[-1]) + 1, dtype=torch.float64)
        sequence = torch.from_numpy(np.append(sequence, np.full(BLOCK_SIZE + 1, sequence[-1])))
    for batch in starts.split(batch_windows):
        x, y = cut_windows(stream, batch)
        with contextlib.nullcontext() if precise else autocast(device):
            logits, _ = model(x)
        loss = F.cross_entropy(
            logits.float().transpose(1, 2), y, ignore_index=IGNORE, reduction="none"
        )
        chars = target_chars(y, chars_of)
        sums += torch.stack((loss.sum(0), chars.sum(0), (y != IGNORE).sum(0))).cpu().double()
        if by_sequence:
            numbers = sequence[batch.cpu()[:, None] + torch.arange(1, BLOCK_SIZE + 1)].flatten()
            by_number.index_add_(
                1, numbers, torch.stack((loss.flatten(), chars.flatten())).cpu().double()
            )
    model.train(was_training)
    total, n_chars, n_tokens = sums.sum(1).tolist()
    if not n_chars:
        raise ValueError("nothing to evaluate: the token stream holds no character")
    nats_by_position, chars_by_position, _ = sums.view(3, POSITION_BINS, -1).sum(2).tolist()
    nats = total / n_chars
    measured = {
        "nats_per_char": nats,
        "bits_per_char": nats / math.log(2),
        "perplexity": math.exp(min(nats, 700)),
        "n_chars": int(n_chars),
        "n_tokens": int(n_tokens),
        "loss_by_position": [
            n / k if k else None for n, k in zip(nats_by_position, chars_by_position)
        ],
    }
    if by_sequence:
        nats, chars = by_number.tolist()
        measured["nats_by_sequence"] = [round(n, 4) for n in nats]
        measured["chars_by_sequence"] = [int(n) for n in chars]
    return measured


class Meter:
    """Sums of the training loss, on the device: a GPU need not be waited for."""

    def __init__(self, device, nats=0.0, chars=0):
        kind = torch.float32 if device.type == "mps" else torch.float64
        self.nats = torch.tensor(nats, dtype=kind, device=device)
        self.chars = torch.tensor(chars, device=device)
        # first step whose loss or gradient is no number
        self.bad = torch.tensor(2**31 - 1, device=device)

    def add(self, nats, chars, norm, step):
        """Adds a step; notes it in `bad` if its loss or the norm of its gradient is not finite."""
        self.nats, self.chars = self.nats + nats, self.chars + chars
        finite = torch.isfinite(nats) & torch.isfinite(norm)
        self.bad = torch.where(finite, self.bad, self.bad.clamp(max=step))

    def read(self):
        """Returns (sum of nats, characters) of this process."""
        return float(self.nats), int(self.chars)

    def mean(self):
        """Returns the nats per character since the last call, over all processes."""
        sums = machine.sum_over_processes(torch.stack((self.nats, self.chars.to(self.nats.dtype))))
        self.nats, self.chars = torch.zeros_like(self.nats), torch.zeros_like(self.chars)
        nats, chars = sums.tolist()
        return nats / chars if chars else None
