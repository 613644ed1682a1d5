"""Finds the attention head of the best model that copies, and what it looks at on a held-out tune:
the only part of the page that loads torch."""

import io

import numpy as np

from music import notation
from music.tunebook import split_tunebook
from study.evaluate.measurements import read
from study.report.sample_views import data_uri
from study.wording import percent

CHARS = 96  # of the map: more cannot be told apart on a screen
REACH = 4  # maps' lengths that the model reads: the end of a longer text has more to look back at
CONTRAST = 0.6  # exponent: below 1, so that weak attention can be seen beside strong


def attention_view(root):
    """Returns the attention map of a run's best model on a held-out tune as the template draws it,
    or {"reason"} where it cannot be had.

    The head is the one whose knock-out costs most of the saving on repeated bars, as stage 07
    measured it (`study/evaluate/heads.py`).
    """
    from common import load_tokenizer
    from study.train.checkpoints import load_checkpoint

    try:
        model, checkpoint = load_checkpoint(root / "checkpoints/best_model.pt")
        tokenizer = load_tokenizer(root / "data/tokenizer.pkl")
        tunes = split_tunebook((root / "data/test.txt").read_text(encoding="utf-8"), any_text=True)
    except OSError as error:
        return {"reason": type(error).__name__}
    except ValueError as error:
        return {"reason": str(error)}
    if checkpoint["tokenizer_digest"] != tokenizer.digest:
        return {"reason": "the best model was trained with another vocabulary"}
    text = next((tune for tune in tunes if len(tune) >= 3 * CHARS), tunes[0] if tunes else "")
    knocked = read(root, "heads/best_model") or {}
    best = knocked.get("best")
    found = attention_map(model, tokenizer, text, best and best["heads"][0])
    if found is None:
        return {"reason": "the best model has no attention"}
    tokens = found["tokens"]
    n = min(len(tokens), CHARS)  # the end of the text has most to look back at
    n_left_out = len(tokens) + 1 - n
    weights = found["weights"][-n:, -n:]
    return found | {
        "reason": None,
        "n": n,
        "picture": heat_picture(weights),
        "strongest": percent(float(weights.max())),
        "tokens": [token.replace("\n", " ") for token in tokens[-n:]],
        "bar_lines": [i for i, token in enumerate(tokens[-n:], 1) if "|" in token],
        "unit": "character" if max(map(len, tokens)) == 1 else "token",
        "places": [
            (row - n_left_out, column - n_left_out)
            for row, column in found["places"]
            if column >= n_left_out
        ],
        # bits per character saved on repeated bars, and without the head; None: not measured
        "saved": best and knocked["all"]["saved"],
        "saved_without": best and best["saved"],
    }


def attention_map(model, tokenizer, text, head=None):
    """Returns what a head looks at in a text; None for a model without attention, or if no four
    tokens of the text come back.

    head: (layer, head) from 0; None: the head with most weight on the tokens after an earlier
    occurrence of the newest four. With token shift what is to be copied may stand up to three
    tokens later than the token that followed, so the place with most weight is sought.

    {"tokens" (T texts, without the one that begins a tune), "weights" (T + 1, T + 1: rows read,
    columns looked at), "layer", "head" (from 1), "n_heads" (of all layers), "offset" (tokens after
    the end of an earlier occurrence of the newest four, with most weight), "share" (mean weight
    there), "even_share" (if attention were spread evenly), "places" [(row, column)]}.
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
    return {
        "tokens": texts,
        "weights": weights[layer, number].numpy(),
        "layer": layer + 1,
        "head": number + 1,
        "n_heads": shares.size(0) * shares.size(1),
        "offset": OFFSETS[1:][best],
        "share": percent(float(shares[layer, number, best])),
        "even_share": percent(float((1 / (rows + 1)).mean())),
        "places": list(zip(rows.tolist(), columns[:, best].tolist())),
    }


def heat_picture(weights):
    """Returns a matrix as a PNG of one colour, opaque where weights are large: legible on light and
    on dark paper."""
    from matplotlib import colors, image

    pixels = np.empty((*weights.shape, 4))
    pixels[..., :3] = colors.to_rgb(notation.VOICE_COLOURS[1])
    pixels[..., 3] = (weights / weights.max()) ** CONTRAST
    png = io.BytesIO()
    pixels = np.round(255 * pixels).astype(np.uint8)
    image.imsave(png, pixels, format="png", metadata={"Software": None})
    return data_uri("image/png", png.getvalue())
