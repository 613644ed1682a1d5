"""The loss: of a split (`evaluate`), and of training between two evaluations (`Meter`); in nats per
character, whatever a token is."""

import contextlib
import math

import numpy as np
import torch
import torch.nn.functional as F

from common import BEGIN, IGNORE, autocast
from study.train import machine
from study.train.data import BLOCK_SIZE, cut_windows, n_windows, target_chars, to_tensor

POSITION_BINS = 64
BATCH = 16  # windows side by side


@torch.no_grad()
def evaluate(model, tokens, token_chars, device, precise=True, at_most=None):
    """Returns the loss over a token stream: every token but BEGIN is a target once, in windows that
    do not overlap. Deterministic; ValueError if there is nothing to predict.

    token_chars: numpy (vocab_size,); precise: fp32, else `common.precision` (bf16: half the time,
    0.0001 nats off); at_most: so many windows, evenly spread.

    Keys: "nats_per_char", "bits_per_char", "perplexity" (of a character), "n_chars" and "n_tokens"
    of the targets, "loss_by_position" (nats per character in POSITION_BINS; None where nothing was
    predicted); of a whole stream "nats_by_sequence" and "chars_by_sequence".
    """
    was_training = model.training
    model.eval()
    every = n_windows(len(tokens))
    n = min(every, at_most or every)
    starts = torch.arange(n, device=device) * every // max(1, n) * BLOCK_SIZE
    padded = np.append(tokens, np.full(BLOCK_SIZE + 1, BEGIN, tokens.dtype))
    stream = to_tensor(padded, device)
    chars_of = torch.from_numpy(np.asarray(token_chars)).to(device)
    by_position = torch.zeros(3, BLOCK_SIZE, dtype=torch.float64)  # nats, characters, targets
    if at_most is None:
        sequence = torch.from_numpy(np.cumsum(padded == BEGIN) - 1)  # of each token
        by_sequence = torch.zeros(2, int(sequence[-1]) + 1, dtype=torch.float64)
    for batch in starts.split(BATCH):
        x, y = cut_windows(stream, batch)
        with contextlib.nullcontext() if precise else autocast(device):
            logits, _ = model(x)
        logits = logits.float().transpose(1, 2)
        nats = F.cross_entropy(logits, y, ignore_index=IGNORE, reduction="none")
        chars = target_chars(y, chars_of)
        sums = torch.stack((nats.sum(0), chars.sum(0), (y != IGNORE).sum(0)))
        by_position += sums.cpu().double()
        if at_most is None:
            numbers = sequence[batch.cpu()[:, None] + torch.arange(1, BLOCK_SIZE + 1)].flatten()
            by_sequence.index_add_(1, numbers, torch.stack((nats, chars)).flatten(1).cpu().double())
    model.train(was_training)
    total, n_chars, n_tokens = by_position.sum(1).tolist()
    if not n_chars:
        raise ValueError("nothing to evaluate: the token stream holds no character")
    nats_of_bins, chars_of_bins, _ = by_position.view(3, POSITION_BINS, -1).sum(2).tolist()
    nats = total / n_chars
    measured = {
        "nats_per_char": nats,
        "bits_per_char": nats / math.log(2),
        "perplexity": math.exp(min(nats, 700)),
        "n_chars": int(n_chars),
        "n_tokens": int(n_tokens),
        "loss_by_position": [n / k if k else None for n, k in zip(nats_of_bins, chars_of_bins)],
    }
    if at_most is None:
        nats, chars = by_sequence[:, : int(sequence[len(tokens) - 1]) + 1].tolist()
        measured["nats_by_sequence"] = [round(n, 4) for n in nats]
        measured["chars_by_sequence"] = [int(n) for n in chars]
    return measured


class Meter:
    """Sums of the training loss, on the device: a GPU is not waited for."""

    def __init__(self, device, sums=(0.0, 0.0)):
        kind = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.tensor(sums, dtype=kind, device=device)  # nats, characters
        self.bad = torch.tensor(2**31 - 1, device=device)  # first step with no finite number

    def add(self, nats, chars, norm, step):
        """Adds a step; notes it if its loss or the norm of its gradient is not finite."""
        self.sums += torch.stack((nats, chars))
        finite = torch.isfinite(nats) & torch.isfinite(norm)
        self.bad = torch.where(finite, self.bad, self.bad.clamp(max=step))

    def mean(self):
        """Returns the nats per character since the last call, over all processes."""
        nats, chars = machine.sum_over_processes(self.sums).tolist()
        self.sums.zero_()
        return nats / chars if chars else None
