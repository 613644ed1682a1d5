"""Shows what the head of the best model that copies looks at on a held-out tune."""

import io

from study.stages.manifest import BEST

import numpy as np
import torch

from common import BEGIN
from music.pictures import VOICE_COLOURS
from music.tunebook import split_tunebook
from study.evaluate.heads import OFFSETS, attention_weights, matches
from study.evaluate.measurements import read
from study.evaluate.models import open_model
from study.report.sample_views import data_uri
from study.wording import percent

CHARS = 96  # of the map: more cannot be told apart on a screen
REACH = 4  # maps' lengths that the model reads: the end of a longer text has more to look back at
CONTRAST = 0.6  # exponent: below 1, so that weak attention can be seen beside strong


def attention_view(root):
    """Returns the attention map for the template, of the head whose knock-out costs most of the
    saving on repeated bars; {"reason"} where there is none."""
    knocked = read(root, f"heads/{BEST}") or {}
    best = knocked.get("best")
    if not best:
        return {"reason": "no attention head of the best model copies"}
    loaded = open_model(root, BEST)
    tunes = split_tunebook((root / "data/test.txt").read_text(encoding="utf-8"), any_text=True)
    text = next((tune for tune in tunes if len(tune) >= 3 * CHARS), tunes[0])
    found = attention_map(loaded.model, loaded.tokenizer, text, *best["heads"][0])
    if found is None:
        return {"reason": "nothing comes back in the held-out tune"}
    tokens = found["tokens"][-CHARS:]
    n = len(tokens)
    n_left_out = len(found["tokens"]) + 1 - n
    weights = found["weights"][-n:, -n:]
    return found | {
        "reason": None,
        "n": n,
        "picture": heat_picture(weights),
        "strongest": percent(float(weights.max())),
        "tokens": [token.replace("\n", " ") for token in tokens],
        "bar_lines": [i for i, token in enumerate(tokens, 1) if "|" in token],
        "unit": "character" if max(map(len, found["tokens"])) == 1 else "token",
        "places": [
            (row - n_left_out, column - n_left_out)
            for row, column in found["places"]
            if column >= n_left_out
        ],
        "saved": knocked["all"]["saved"],
        "saved_without": best["saved"],
    }


def attention_map(model, tokenizer, text, layer, head):
    """Returns what a head (from 0) looks at in a text; None if no four tokens of it come back.

    "tokens": T texts; "weights" (T + 1, T + 1: rows read, columns looked at), BEGIN first;
    "offset": that of OFFSETS with most weight; "share": mean weight there, "even_share" if
    attention were spread evenly; "places": [(row, column)].
    """
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
    from matplotlib import colors, image  # slow

    pixels = np.empty((*weights.shape, 4))
    pixels[..., :3] = colors.to_rgb(VOICE_COLOURS[1])
    pixels[..., 3] = (weights / weights.max()) ** CONTRAST
    png = io.BytesIO()
    pixels = np.round(255 * pixels).astype(np.uint8)
    image.imsave(png, pixels, format="png", metadata={"Software": None})
    return data_uri("image/png", png.getvalue())
