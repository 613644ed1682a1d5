"""Knocks out attention heads: which heads carry in-context copying?

    found = heads(loaded, val_tokens)
    found["best"]["heads"], found["best"]["saved"]  # a head, bits that are saved without it

A head is *knocked out* by setting its output to zero. It does the copying if the bits saved on
repeated bars go with it, but stay without others that harm the loss as much (the control).
"""

import contextlib
import functools
import itertools
import math

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from study.evaluate.induction import costs_of_bars, repeating_tunes, repeats_of

MATCH = 4  # newest tokens that have to occur before
# from the last token of that occurrence, what an induction head may look at (Olsson et al. 2022):
# +1 is what followed, and with token shift it is up to four tokens after
OFFSETS = (0, 1, 2, 3, 4)
KNOCKED_TUNES = 40  # with repeated bars, read for the knock-outs, about
LEAST_SAVED = 0.2  # bits per character: a model that saves less has hardly learned to copy
CANDIDATES = 3  # heads, and pairs of other heads, that are tried


def has_heads(model):
    """Returns whether a model has attention heads."""
    return all(hasattr(block, "attention_out") for block in getattr(model, "blocks", [None]))


def all_heads(model):
    """Returns [(layer, head)] of a model, both from 0."""
    return [(i, head) for i, block in enumerate(model.blocks) for head in range(block.n_head)]


@contextlib.contextmanager
def knocked_out(model, heads):
    """Switches heads [(layer, head)] off within its block."""
    with contextlib.ExitStack() as hooks:
        for layer in {layer for layer, _ in heads}:
            block = model.blocks[layer]
            width = block.attention_out.in_features // block.n_head
            off = torch.zeros(block.n_head, width, dtype=torch.bool)
            off[[head for at, head in heads if at == layer]] = True
            hook = functools.partial(_zero, off.flatten())
            hooks.enter_context(block.attention_out.register_forward_pre_hook(hook))
        yield


def _zero(off, module, inputs):
    return inputs[0].masked_fill(off.to(inputs[0].device), 0)


def without(loaded, tunes, heads):
    """Returns costs of bars without these heads: a row of `induction.repeats_of`, with "heads"."""
    with knocked_out(loaded.model, heads):
        row = repeats_of(costs_of_bars(loaded, tunes))
    return {"heads": [list(head) for head in heads], **row}


def heads(loaded, tokens):
    """Returns costs of bars in a Digested token stream: {"all": with all heads, "heads": without
    each, "best": of these where least is saved, "pair": without two, "control": of `control`}; none
    but the first where less than LEAST_SAVED bits are saved. None for a model without heads."""
    if not has_heads(loaded.model):
        return None
    tunes = repeating_tunes(loaded, tokens.content, KNOCKED_TUNES)
    found = {"all": without(loaded, tunes, []), "heads": []}
    found |= dict.fromkeys(("best", "pair", "control"))
    if (found["all"]["saved"] or 0) < LEAST_SAVED:
        return found
    singles = [without(loaded, tunes, [head]) for head in all_heads(loaded.model)]
    ranked = sorted(singles, key=lambda row: row["saved"])
    found |= {"heads": singles, "best": ranked[0]}
    if len(singles) > 4:
        few = [tuple(row["heads"][0]) for row in ranked[:CANDIDATES]]
        pairs = [without(loaded, tunes, pair) for pair in itertools.combinations(few, 2)]
        found["pair"] = min(pairs, key=lambda row: row["saved"])
        found["control"] = control(loaded, tunes, found["pair"], singles)
    return found


def control(loaded, tunes, knocked, singles):
    """Returns costs without that pair of the most harmful other heads which harms the loss most
    nearly as much as the pair `knocked`. singles: costs without each head."""
    harm = {tuple(row["heads"][0]): row["bits_per_char"] for row in singles}
    others = [head for head in harm if list(head) not in knocked["heads"]]
    by_harm = sorted(others, key=harm.get, reverse=True)
    pairs = list(itertools.combinations(by_harm[: CANDIDATES + 1], 2))[:CANDIDATES]
    rows = [without(loaded, tunes, pair) for pair in pairs]
    return min(rows, key=lambda row: abs(row["bits_per_char"] - knocked["bits_per_char"]))


def matches(tokens):
    """Returns (places, places where the same MATCH tokens ended before), the last ones from which
    all OFFSETS lie before.

    >>> [part.tolist() for part in matches(np.array([1, 2, 3, 4, 5, 1, 2, 3, 4]))]
    [[8], [3]]
    """
    known, found = {}, []
    for place in range(MATCH - 1, len(tokens)):
        gram = tuple(tokens[place - MATCH + 1 : place + 1])
        earlier = known.get(gram, place)
        if earlier + OFFSETS[-1] <= place:
            found.append((place, earlier))
        known[gram] = place
    return np.array(found, np.int64).reshape(-1, 2).T


def attention_weights(model, tokens):
    """Returns [(heads, T, T)] of every layer while the model reads tokens (T,). torch's fused
    attention returns no weights: they are computed from its queries and keys."""
    weights = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if getattr(function, "__name__", "") == "scaled_dot_product_attention":
                q, k = args[0].float(), args[1].float()
                logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
                future = torch.ones(logits.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
                weights.append(logits.masked_fill(future, -torch.inf).softmax(-1)[0].cpu())
            return function(*args, **(kwargs or {}))

    with torch.inference_mode(), Watch():
        model(tokens[None].to(next(model.parameters()).device))
    return weights
