"""A linear probe: can "how much of the bar is left" be read off what a model's layers hold?

A model that fills its bars has to know it, and no character says it. From the hidden states of
every layer, at the first character of each note but the first of a bar, ridge regression predicts
the quarter notes that are left
(`music/bar_left.py`): fitted to some tunes, judged on others, none of which the model was trained on. Two floors stand
beside it: the embedding, which knows one character, and the newest characters themselves.
"""

import numpy as np
import torch
from torch import nn

from common import BEGIN
from music.bar_left import places_left
from study.train.loop import BLOCK_SIZE

RIDGE = 1e-2  # penalty on standardised inputs, as a share of the number of notes
NEWEST = 8  # characters that the floor sees: about three notes
TOGETHER = 16  # tunes read side by side
LEAST_NOTES = 100  # to fit to, and to judge by: fewer say nothing


def bar_left(player, fitted, judged):
    """R² on the notes of the tunes `judged` (texts) of a probe fitted to the tunes `fitted`, by
    layer.

    Returns {"n", "n_fitted" (notes), "layers": R² of the embedding and of each layer, "newest": R²
    of the newest characters alone}; the last two are None where there are too few notes.
    """
    (layers, newest, left), (layers_judged, newest_judged, left_judged) = (
        _examples(player, tunes) for tunes in (fitted, judged)
    )
    counts = {"n": len(left_judged), "n_fitted": len(left)}
    if min(counts.values()) < LEAST_NOTES:
        return {**counts, "layers": None, "newest": None}
    return {
        **counts,
        "newest": r_squared(newest, left, newest_judged, left_judged),
        "layers": [
            r_squared(x, left, x_judged, left_judged) for x, x_judged in zip(layers, layers_judged)
        ],
    }


@torch.inference_mode()
def _examples(player, tunes):
    """([hidden states (notes, width) of each layer], newest characters (notes, NEWEST *
    vocabulary), quarter notes left
    (notes,)) of the tunes' first windows."""
    states, newest, left = [], [], []
    # a token, a character
    texts = [tune[: BLOCK_SIZE - 1] for tune in tunes] if player.tokenizer.kind == "char" else []
    for first in range(0, len(texts), TOGETHER):
        part = texts[first : first + TOGETHER]
        # what fills up comes after, and is not seen
        tokens = torch.full((len(part), 1 + max(map(len, part))), BEGIN)
        for row, text in enumerate(part):
            tokens[row, 1 : 1 + len(text)] = torch.as_tensor(
                player.tokenizer.encode(text).astype(np.int64)
            )
        places = [
            (row, 1 + place, quarters)
            for row, text in enumerate(part)
            for place, quarters in places_left(tunes[first + row])
            if place < len(text)
        ]
        if places:
            rows, at = torch.tensor([place[:2] for place in places]).T
            layers = hidden_states(player.model, tokens.to(player.device))
            states.append([layer[rows, at].float().cpu().numpy() for layer in layers])
            padded = torch.cat((tokens.new_full((len(part), NEWEST), BEGIN), tokens), dim=1)
            window = padded[rows[:, None], at[:, None] + 1 + torch.arange(NEWEST)]
            newest.append(
                nn.functional.one_hot(window, player.tokenizer.vocab_size)
                .flatten(1)
                .float()
                .numpy()
            )
            left += [quarters for _, _, quarters in places]
    return (
        [np.concatenate(layer) for layer in zip(*states)],
        np.concatenate(newest) if left else None,
        np.array(left),
    )


def hidden_states(model, idx):
    """What the embedding and each layer after it give for idx (B, T): a list of (B, T, width).

    Of a model with `blocks` the residual stream, of a stack of torch's recurrent layers their
    outputs; of any other what its head reads.
    """
    states = [next(part for part in model.modules() if isinstance(part, nn.Embedding))(idx)]
    stack = next((part for part in model.modules() if isinstance(part, nn.RNNBase)), None)
    if stack is not None:
        for number in range(stack.num_layers):
            layer = type(stack)(states[-1].size(-1), stack.hidden_size, batch_first=True).to(
                idx.device
            )
            layer.load_state_dict(
                {
                    name.replace(f"_l{number}", "_l0"): weight
                    for name, weight in stack.state_dict().items()
                    if name.endswith(f"_l{number}")
                }
            )
            states.append(layer(states[-1])[0])
        return states
    hooks = [
        block.register_forward_hook(
            lambda block, inputs, outputs: states.append(
                outputs[0] if isinstance(outputs, tuple) else outputs
            )
        )
        for block in getattr(model, "blocks", ())
    ]
    features = model.features(idx)
    for hook in hooks:
        hook.remove()
    return states if hooks else [*states, features]


def r_squared(x, y, x_judged, y_judged):
    """R² on the judged rows of a ridge regression of y (n,) on x (n, width), inputs standardised.

    >>> x = np.random.default_rng(0).normal(size=(200, 3))
    >>> round(r_squared(x[:100], x[:100] @ [1, 2, 0], x[100:], x[100:] @ [1, 2, 0]), 3)
    1.0
    """
    mean, spread = x.mean(0), x.std(0) + 1e-6
    x, x_judged = (x - mean) / spread, (x_judged - mean) / spread
    weights = np.linalg.solve(x.T @ x + RIDGE * len(x) * np.eye(x.shape[1]), x.T @ (y - y.mean()))
    residual = y_judged - y.mean() - x_judged @ weights
    return float(1 - (residual**2).mean() / y_judged.var())
