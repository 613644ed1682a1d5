"""What one attention head of the best model looks at: the only part of the page that loads
torch."""

import math
from typing import NamedTuple

import numpy as np

from music.tunebook import split_tunebook

CHARS = 96  # of the map: more cannot be told apart on a screen
REACH = 4  # maps' lengths that the model reads: the end of a longer text has more to look back at


class AttentionMap(NamedTuple):
    """Weights of one head; tokens as text, without the one that begins a tune."""

    tokens: list  # T texts
    # (T + 1, T + 1): rows read, columns looked at; row 0 is the beginning of the tune
    weights: np.ndarray
    layer: int  # from 1
    head: int  # from 1
    n_heads: int  # of all layers
    # mean weight on what followed an earlier occurrence of the two tokens just read
    share: float
    even_share: float  # the same if attention were spread evenly


def of_best_model(root):
    """AttentionMap of a run's best model on a held-out tune; ValueError says why it cannot be
    had."""
    try:
        from common import load_tokenizer
        from study.train.checkpoints import load_checkpoint

        model, checkpoint = load_checkpoint(root / "checkpoints/best_model.pt")
        tokenizer = load_tokenizer(root / "data/tokenizer.pkl")
        tunes = split_tunebook((root / "data/test.txt").read_text(encoding="utf-8"), any_text=True)
    except ImportError as error:
        raise ValueError(str(error)) from None
    except OSError as error:
        raise ValueError(type(error).__name__) from None
    if checkpoint["tokenizer_digest"] != tokenizer.digest:
        raise ValueError(
            "the best model was trained with another vocabulary than data/tokenizer.pkl"
        )
    long_enough = (tune for tune in tunes if len(tune) >= 3 * CHARS)
    attention = attention_map(model, tokenizer, next(long_enough, tunes[0] if tunes else ""))
    if attention is None:
        raise ValueError("the best model has no attention")
    return attention


def attention_map(model, tokenizer, text):
    """The head of a model that copies most, with what it looks at in a text; None for a model
    without attention, or if the text repeats no pair of tokens.

    The fused attention of the model returns no weights. So the queries and keys that enter it
    (normed, rotated and whatever else the model does to them) are taken at the call, and their
    softmax is computed here. Rule of choice: of all heads the one with the largest share of
    attention on the tokens that followed an earlier occurrence of the two tokens just read (an
    *induction head*, Olsson et al. 2022): what a model does that repeats motifs.
    """
    import torch

    from common import BEGIN

    tokens = tokenizer.encode(text[: REACH * CHARS])[: model.config["block_size"] - 1].astype(
        "int64"
    )
    texts = [tokenizer.decode([token]) for token in tokens]
    tokens = torch.cat((torch.tensor([BEGIN]), torch.as_tensor(tokens)))
    T = len(tokens)
    # after[i, j] = 1 where the two tokens before j are the two up to i, j <= i
    after = torch.zeros(T, T)
    after[2:, 2:] = (
        (tokens[2:, None] == tokens[None, 1:-1]) & (tokens[1:-1, None] == tokens[None, :-2])
    ).tril()
    rows = after.any(dim=1)
    if not rows.any():
        return None
    layers = _weights_of_all_heads(model, tokens)
    if not layers:
        return None
    weights = torch.stack(layers)  # layers, heads, T, T
    shares = (weights * after)[:, :, rows].sum(-1).mean(-1)
    even_share = (after.sum(1) / torch.arange(1, T + 1))[rows].mean()
    layer, head = divmod(int(shares.argmax()), shares.size(1))
    return AttentionMap(
        texts,
        weights[layer, head].numpy(),
        layer + 1,
        head + 1,
        shares.numel(),
        float(shares[layer, head]),
        float(even_share),
    )


def _weights_of_all_heads(model, tokens):
    """[(heads, T, T) weights] of every layer that calls torch's fused attention while the model
    reads these tokens."""
    import torch
    from torch.overrides import TorchFunctionMode

    weights = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if getattr(function, "__name__", "") == "scaled_dot_product_attention":
                q, k = args[0].float(), args[1].float()
                logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
                ahead = torch.ones(logits.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
                weights.append(logits.masked_fill(ahead, -torch.inf).softmax(-1)[0].cpu())
            return function(*args, **(kwargs or {}))

    was_training = model.training
    try:
        with torch.inference_mode(), Watch():
            model.eval()(tokens[None].to(next(model.parameters()).device))
    finally:
        model.train(was_training)
    return weights
