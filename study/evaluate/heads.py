"""Knocks out attention heads and scores them: which heads carry in-context copying?

    found = heads(loaded, val_tokens)
    found["best"]["heads"], found["best"]["saved"]  # a head, bits that are saved without it

A repeated bar costs a model that copies from its context fewer bits than its first occurrence
(`study/evaluate/induction.py`). A head is *knocked out* by setting its output to zero, or to its
mean over the text, before the output matrix of its layer. If the saving goes and the rest of the
loss hardly moves, that head does the copying. A control of other heads that harms the loss as
much shows whether it is only harm.

*Scores* follow Olsson et al. 2022 (induction heads): prefix matching, how much attention goes to
the tokens after an earlier occurrence of the newest MATCH tokens; copying, how much the head then
raises the logit of the token that followed there. With token shift a key or value holds the
channels of up to three tokens before it, so what is to be copied is found at the offsets +2 to +4
as well as at +1. All four are given.
"""

import contextlib
import itertools
import math

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from study.evaluate.induction import costs_of_bars, has_repeat, read_tunes, repeats_of

MATCH = 4  # newest tokens that have to occur before
OFFSETS = (0, 1, 2, 3, 4)  # from the last token of that occurrence; +1 is what followed
SCORED_TUNES = 24  # read for the scores, the longest: 2,000 places that match
KNOCKED_TUNES = 40  # with repeated bars, read for the knock-outs, about
LEAST_SAVED = 0.2  # bits per character: a model that saves less has hardly learned to copy
CANDIDATES = 3  # heads of which pairs are tried: those whose loss costs most of the saving


def has_heads(model):
    """True for a model whose blocks have attention heads that can be knocked out."""
    return all(hasattr(block, "attention_out") for block in getattr(model, "blocks", [None]))


def all_heads(model):
    """[(layer, head)] of a model, both from 0."""
    return [
        (layer, head) for layer, block in enumerate(model.blocks) for head in range(block.n_head)
    ]


# ---------------------------------------------------------------- knocking out


@contextlib.contextmanager
def knocked_out(model, heads, means=None):
    """Switches heads [(layer, head)] off as long as the context lasts.

    means: output of every layer's heads that takes their place, [(d_model,)]; None: zero.
    """
    hooks = []
    for layer in sorted({layer for layer, _ in heads}):
        block = model.blocks[layer]
        size = block.attention_out.in_features // block.n_head
        off = torch.zeros(block.attention_out.in_features, dtype=torch.bool)
        for _, head in (pair for pair in heads if pair[0] == layer):
            off[head * size : (head + 1) * size] = True
        instead = torch.zeros(len(off)) if means is None else means[layer]
        hook = _replace(off, instead)
        hooks.append(block.attention_out.register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _replace(off, instead):
    """A hook that puts `instead` into the columns `off` of a layer's input."""

    def hook(module, inputs):
        y = inputs[0]
        return torch.where(off.to(y.device), instead.to(y.device, y.dtype), y)

    return hook


def mean_outputs(model, tunes, device="cpu"):
    """The mean output of every layer's heads over the places of tunes: [(d_model,)]."""
    sums, counts = [0.0] * len(model.blocks), [0] * len(model.blocks)

    def watch(layer):
        def hook(module, inputs):
            sums[layer] = sums[layer] + inputs[0].double().sum((0, 1)).cpu()
            counts[layer] += inputs[0].shape[0] * inputs[0].shape[1]

        return hook

    hooks = [
        block.attention_out.register_forward_pre_hook(watch(layer))
        for layer, block in enumerate(model.blocks)
    ]
    with torch.inference_mode():
        for tune in tunes:  # one by one: nothing that fills up counts
            model(torch.as_tensor(tune.tokens[None, :-1], device=device))
    for hook in hooks:
        hook.remove()
    return [(total / n).float() for total, n in zip(sums, counts)]


def without(loaded, tunes, heads, means=None):
    """Costs of bars without these heads: a row of `induction.repeats_of`, with "heads"."""
    with knocked_out(loaded.model, heads, means):
        row = repeats_of(costs_of_bars(loaded, tunes))
    return {"heads": [list(head) for head in heads], **row}


def heads(loaded, tokens, least_saved=LEAST_SAVED):
    """Knocks out every head of a model by zeroing; None for a model without attention.

    tokens: a Digested token stream. Returns {"all": costs with all heads, "heads": costs without
    each, with its scores, "best": the one of them whose loss costs most of the saving, "pair":
    costs without the pair of heads whose loss does, "control": costs without the two others whose
    harm to the loss is nearest to that}. Layers and heads count from 0. Where less than least_saved
    bits are saved there is nothing to knock out: no heads, and None for the rest.
    """
    if not has_heads(loaded.model):
        return None
    tunes = [tune for tune in read_tunes(loaded, tokens.content) if has_repeat(tune)]
    tunes = tunes[:: max(1, len(tunes) // KNOCKED_TUNES)]
    found = {"all": without(loaded, tunes, []), "heads": [], "best": None}
    found |= {"pair": None, "control": None}
    if (found["all"]["saved"] or 0) < least_saved:
        return found
    scored = scores(loaded, tunes)
    singles = [
        {**without(loaded, tunes, [head]), **scored[head]} for head in all_heads(loaded.model)
    ]
    ranked = sorted(singles, key=lambda row: row["saved"])
    found |= {"heads": singles, "best": ranked[0]}
    if len(singles) > 4:
        few = [tuple(row["heads"][0]) for row in ranked[:CANDIDATES]]
        pairs = [without(loaded, tunes, pair) for pair in itertools.combinations(few, 2)]
        found["pair"] = min(pairs, key=lambda row: row["saved"])
        found["control"] = control(loaded, tunes, found["pair"], singles)
    return found


def control(loaded, tunes, knocked, singles):
    """Costs without two heads outside `knocked` that harm the loss as much as it does: the nearest
    in bits per character of the CANDIDATES pairs that are nearest by the sum of their harms.

    singles: costs without each head."""
    harm = {tuple(row["heads"][0]): row["bits_per_char"] for row in singles}
    others = [head for head in harm if list(head) not in knocked["heads"]]
    by_harm = sorted(others, key=harm.get, reverse=True)
    pairs = list(itertools.combinations(by_harm[: CANDIDATES + 1], 2))[:CANDIDATES]
    rows = [without(loaded, tunes, pair) for pair in pairs]
    return min(rows, key=lambda row: abs(row["bits_per_char"] - knocked["bits_per_char"]))


# ---------------------------------------------------------------- scores


def scores(loaded, tunes):
    """{(layer, head): {"attention": mean weight at each of OFFSETS after a match, "even": the same
    of even attention, "copying": nats by which the head alone raises the logit of what followed
    the match over the mean of all tokens}}; Nones where nothing matches.

    The logit is that of the direct path, from the head's output through the model's last norm.
    """
    model, totals, even, n = loaded.model, 0.0, 0.0, 0
    longest = sorted(tunes, key=lambda tune: -len(tune.tokens))[:SCORED_TUNES]
    for tune in longest:
        tokens = tune.tokens[:-1]
        now, then = matches(tokens)
        if len(now):
            weights, raised = _read(loaded, tokens, now, tokens[then + 1])
            at = torch.as_tensor(then)[:, None] + torch.tensor(OFFSETS)
            looked = weights[:, :, torch.as_tensor(now)[:, None], at].sum(
                2
            )  # layers, heads, OFFSETS
            totals = totals + torch.cat((looked, raised[..., None]), dim=2)
            even, n = even + float((1 / (now + 1)).sum()), n + len(now)
    rows = {}
    for layer, head in all_heads(model):
        means = (totals[layer, head] / n).tolist() if n else [None] * (len(OFFSETS) + 1)
        rows[layer, head] = {
            "attention": means[:-1],
            "even": even / n if n else None,
            "copying": means[-1],
        }
    return rows


def matches(tokens):
    """(places, places of the last earlier occurrence of the same MATCH tokens), both of the last
    of these tokens; far enough apart that all OFFSETS lie before.

    >>> [part.tolist() for part in matches(np.array([1, 2, 3, 4, 5, 1, 2, 3, 4]))]
    [[8], [3]]
    """
    known, now, then = {}, [], []
    for place in range(MATCH - 1, len(tokens)):
        gram = tuple(tokens[place - MATCH + 1 : place + 1])
        earlier = known.get(gram)
        if earlier is not None and earlier + OFFSETS[-1] <= place:
            now.append(place)
            then.append(earlier)
        known[gram] = place
    return np.array(now, np.int64), np.array(then, np.int64)


@torch.inference_mode()
def _read(loaded, tokens, now, followed):
    """(attention weights (layers, heads, T, T) of a text, raised logits (layers, heads) summed
    over the places `now`)."""
    model, inputs = loaded.model, []
    hooks = [
        block.attention_out.register_forward_pre_hook(lambda module, x: inputs.append(x[0][0, now]))
        for block in model.blocks
    ]
    last = []
    hooks.append(model.norm.register_forward_pre_hook(lambda module, x: last.append(x[0][0, now])))
    weights = torch.stack(attention_weights(model, torch.as_tensor(tokens)))
    for hook in hooks:
        hook.remove()
    eps = torch.finfo(last[0].dtype).eps
    scale = last[0].pow(2).mean(-1, keepdim=True).add(eps).rsqrt() * model.norm.weight
    followed = torch.as_tensor(followed, device=scale.device)
    raised = []
    for block, y in zip(model.blocks, inputs):
        size = y.shape[1] // block.n_head
        for head in range(block.n_head):
            columns = slice(head * size, (head + 1) * size)
            out = y[:, columns] @ block.attention_out.weight[:, columns].T
            logits = model.head(out * scale)
            raised.append(logits.gather(1, followed[:, None]).sum() - logits.mean(1).sum())
    return weights, torch.stack(raised).view(len(model.blocks), -1).cpu()


def attention_weights(model, tokens):
    """[(heads, T, T) weights] of every layer that calls torch's fused attention while the model
    reads tokens (T,); empty for a model without attention.

    The fused attention returns no weights. So the queries and keys that enter it, normed and
    rotated, are taken at the call, and their softmax is computed here.
    """
    weights = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if getattr(function, "__name__", "") == "scaled_dot_product_attention":
                q, k = args[0].float(), args[1].float()
                logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
                future = torch.ones(logits.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
                weights.append(logits.masked_fill(future, -torch.inf).softmax(-1)[0].cpu())
            return function(*args, **(kwargs or {}))

    was_training = model.training
    try:
        with torch.inference_mode(), Watch():
            model.eval()(tokens[None].to(next(model.parameters()).device))
    finally:
        model.train(was_training)
    return weights
