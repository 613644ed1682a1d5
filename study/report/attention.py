"""Finds the attention head of the best model that copies, and what it looks at on a held-out tune:
the only part of the page that loads torch."""

from typing import NamedTuple

import numpy as np

from music.tunebook import split_tunebook
from study.evaluate.measurements import read

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
    offset: int  # tokens after the end of an earlier occurrence of the newest four: most weight
    share: float  # mean weight there
    even_share: float  # the same if attention were spread evenly
    places: list  # [(row, column)] of these, as in weights
    # bits per character saved on repeated bars, and without the head; None: not measured
    saved: float | None = None
    saved_without: float | None = None


def of_best_model(root):
    """Returns the AttentionMap of a run's best model on a held-out tune; ValueError says why it
    cannot be had.

    The head is the one whose knock-out costs most of the saving on repeated bars, as stage 07
    measured it (`study/evaluate/heads.py`).
    """
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
    knocked = read(root, "heads/best_model") or {}
    best = knocked.get("best")
    text = next(long_enough, tunes[0] if tunes else "")
    attention = attention_map(model, tokenizer, text, best and best["heads"][0])
    if attention is None:
        raise ValueError("the best model has no attention")
    if best:
        saved = {"saved": knocked["all"]["saved"], "saved_without": best["saved"]}
        attention = attention._replace(**saved)
    return attention


def attention_map(model, tokenizer, text, head=None):
    """Returns what a head looks at in a text; None for a model without attention, or if no four
    tokens of the text come back.

    head: (layer, head) from 0; None: the head with most weight on the tokens after an earlier
    occurrence of the newest four. With token shift what is to be copied may stand up to three
    tokens later than the token that followed, so the place with most weight is sought.
    """
    import torch

    from common import BEGIN
    from study.evaluate.heads import OFFSETS, attention_weights, matches

    tokens = tokenizer.encode(text[: REACH * CHARS])[: model.config["block_size"] - 1]
    texts = tokenizer.texts_of(tokens)
    tokens = np.append([BEGIN], tokens.astype(np.int64))
    rows, ends = matches(tokens)
    layers = attention_weights(model, torch.as_tensor(tokens)) if len(rows) else []
    if not layers:
        return None
    weights = torch.stack(layers)  # layers, heads, T, T
    columns = torch.as_tensor(ends)[:, None] + torch.tensor(OFFSETS[1:])
    shares = weights[:, :, torch.as_tensor(rows)[:, None], columns].mean(2)
    if head is None:
        head = divmod(int(shares.amax(-1).argmax()), shares.size(1))
    layer, number = head
    best = int(shares[layer, number].argmax())
    return AttentionMap(
        texts,
        weights[layer, number].numpy(),
        layer + 1,
        number + 1,
        shares.size(0) * shares.size(1),
        OFFSETS[1:][best],
        float(shares[layer, number, best]),
        float((1 / (rows + 1)).mean()),
        list(zip(rows.tolist(), columns[:, best].tolist())),
    )
