"""Finds the attention head of the best model that copies, and what it looks at on a held-out tune:
the only part of the page that loads torch."""

import io

import numpy as np

from music.pictures import VOICE_COLOURS
from music.tunebook import split_tunebook
from study.evaluate.measurements import read
from study.report.sample_views import data_uri
from study.wording import percent

CHARS = 96  # of the map: more cannot be told apart on a screen
REACH = 4  # maps' lengths that the model reads: the end of a longer text has more to look back at
CONTRAST = 0.6  # exponent: below 1, so that weak attention can be seen beside strong


def attention_view(root):
    """Returns the attention map of a run's best model on a held-out tune as the template draws it,
    or {"reason"} where it cannot be had. The head is the one whose knock-out costs most of the
    saving on repeated bars (`study/evaluate/heads.py`)."""
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
    knocked = read(root, "heads/best_model") or {}
    best = knocked.get("best")
    if not best:
        return {"reason": "no attention head of the best model copies"}
    text = next((tune for tune in tunes if len(tune) >= 3 * CHARS), tunes[0])
    found = attention_map(model, tokenizer, text, *best["heads"][0])
    if found is None:
        return {"reason": "nothing comes back in the held-out tune"}
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
        "saved": knocked["all"]["saved"],
        "saved_without": best["saved"],
    }


def attention_map(model, tokenizer, text, layer, head):
    """Returns what a head (from 0) looks at in a text; None if no four tokens of the text come back.

    With token shift what is to be copied may stand up to three tokens later than the token that
    followed an earlier occurrence of the newest four: the place with most weight is sought.

    "tokens" are T texts without the one that begins a tune, "weights" (T + 1, T + 1: rows read,
    columns looked at); "offset": tokens after the end of the earlier occurrence; "share": mean
    weight there, "even_share" if attention were spread evenly; "places" [(row, column)].
    """
    import torch

    from common import BEGIN
    from study.evaluate.heads import OFFSETS, attention_weights, matches

    tokens = tokenizer.encode(text[: REACH * CHARS])[: model.config["block_size"] - 1]
    texts = tokenizer.texts_of(tokens)
    tokens = np.append([BEGIN], tokens.astype(np.int64))
    rows, ends = matches(tokens)
    if not len(rows):
        return None
    layers = attention_weights(model, torch.as_tensor(tokens))  # of (heads, T, T)
    weights = layers[layer][head].numpy()
    columns = ends[:, None] + np.array(OFFSETS[1:])
    shares = weights[rows[:, None], columns].mean(0)
    best = int(shares.argmax())
    return {
        "tokens": texts,
        "weights": weights,
        "layer": layer + 1,
        "head": head + 1,
        "n_heads": len(layers) * len(layers[0]),
        "offset": OFFSETS[1:][best],
        "share": percent(float(shares[best])),
        "even_share": percent(float((1 / (rows + 1)).mean())),
        "places": list(zip(rows.tolist(), columns[:, best].tolist())),
    }


def heat_picture(weights):
    """Returns a matrix as a PNG of one colour, opaque where weights are large: legible on light and
    on dark paper."""
    from matplotlib import colors, image

    pixels = np.empty((*weights.shape, 4))
    pixels[..., :3] = colors.to_rgb(VOICE_COLOURS[1])
    pixels[..., 3] = (weights / weights.max()) ** CONTRAST
    png = io.BytesIO()
    pixels = np.round(255 * pixels).astype(np.uint8)
    image.imsave(png, pixels, format="png", metadata={"Software": None})
    return data_uri("image/png", png.getvalue())
