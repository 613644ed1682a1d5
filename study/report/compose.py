"""Writes compose.html: one file with a trained model that composes in a browser, without a network.

    python -m study.report.compose ROOT                     # its best model -> part4_outputs/
    python -m study.report.compose checkpoints/lstm_small.pt -o lstm.html

The weights stand in the page as int8 rows with a scale each.
"""

import argparse
import base64
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch

from study.evaluate import heads as knock_out
from study.evaluate.induction import repeating_tunes
from study.evaluate.models import open_model
from study.families import label
from study.stages.files import write_text
from study.stages.manifest import BEST
from study.train.loss import evaluate

HERE = Path(__file__).parent
PARTS = "engine abc writer files compose".split()  # .js, in this order, into one script
LEVELS = 127  # int8 on either side of zero
VAL_TOKENS = 8_192  # of the validation split, read for the loss before and after rounding
KNOCKED_TUNES = 12  # with repeated bars, read without each head


def rounded_rows(matrix):
    """Returns (int8 values, scales (rows,)) of a matrix: each row's largest value becomes 127."""
    scales = (matrix.abs().amax(dim=1) / LEVELS).clamp(min=1e-12)
    return (matrix / scales[:, None]).round().to(torch.int8), scales


def rounded_weights(weights):
    """Returns the weights that the page computes with."""
    rounded = {name: tensor.float() for name, tensor in weights.items()}
    for name, tensor in rounded.items():
        if tensor.ndim == 2:
            values, scales = rounded_rows(tensor)
            rounded[name] = values * scales[:, None]
    return rounded


def packed_weights(weights):
    """Returns ([[name, rows, columns (0: a vector)]], bytes) for `unpackWeights` of engine.js."""
    table, parts = [], []
    for name, tensor in weights.items():
        tensor = tensor.float()
        if tensor.ndim == 2:
            values, scales = rounded_rows(tensor)
            table.append([name, *tensor.shape])
            parts += [scales.numpy().tobytes(), values.numpy().tobytes()]
        else:
            table.append([name, len(tensor), 0])
            parts.append(tensor.numpy().tobytes())
    return table, b"".join(parts)


def loss_of_rounding(loaded, tokens):
    """Returns {"exact", "rounded"}: bits per character before and after rounding, on the beginning
    of a token stream."""
    model, start = loaded.model, tokens[: VAL_TOKENS + 1]

    def bits_per_char():
        measured = evaluate(model, start, loaded.tokenizer.token_chars, loaded.device)
        return measured["bits_per_char"]

    exact = bits_per_char()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(rounded_weights(weights))
    rounded = bits_per_char()
    model.load_state_dict(weights)
    return {"exact": exact, "rounded": rounded}


def costs_of_heads(loaded, tokens):
    """Returns {"base": with all heads, "off": [without each]}: (loss, saving of a repeated bar) in
    bits per character; None without heads or without such bars."""
    if not knock_out.has_heads(loaded.model):
        return None
    tunes = repeating_tunes(loaded, tokens, KNOCKED_TUNES)[:KNOCKED_TUNES]
    if not tunes:
        return None
    off = [[], *([head] for head in knock_out.all_heads(loaded.model))]
    rows = [knock_out.without(loaded, tunes, heads) for heads in off]
    base, *without = [(row["bits_per_char"], row["saved"]) for row in rows]
    return {"base": base, "off": without}


def compose_page(model, tokenizer, facts):
    """Returns the text of compose.html. facts: of `write_compose`."""
    table, weights = packed_weights(model.state_dict())
    content = {
        "config": {key: value for key, value in model.config.items() if key != "dropout"},
        "texts": [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)],
        "weights": table,
        "digest": hashlib.sha256(weights).hexdigest(),
        **facts,
    }
    # no text ends the script element that it stands in
    embedded = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    return filled(embedded, base64.b64encode(weights).decode())


def filled(content, weights):
    """Returns the page around a model's description (JSON) and its weights (base64)."""
    values = {
        "STYLE": (HERE / "compose.css").read_text(encoding="utf-8"),
        "MODEL": content,
        "WEIGHTS": weights,
        "SCRIPT": "\n".join((HERE / f"{name}.js").read_text(encoding="utf-8") for name in PARTS),
    }
    page = (HERE / "compose.html").read_text(encoding="utf-8")
    for name, value in values.items():
        page = page.replace(f"<!--{name}-->", value)
    return page


def write_compose(root, name=BEST, out=None):
    """Writes the page of a run's model and returns its path; ValueError without such a model. Where
    there is a validation split the page says what rounding and each head cost."""
    loaded = open_model(root, name)
    model = loaded.model
    facts = {
        "heads": None,
        "name": name,
        "family": label(model.config["family"]),
        "n_parameters": model.count_parameters()["total"],
        "n_chars": loaded.record["train_chars"],
        "loss": None,
    }
    val = root / "data/val_tokens.npy"
    if val.is_file():
        tokens = np.load(val)
        facts["loss"] = loss_of_rounding(loaded, tokens)
        facts["heads"] = costs_of_heads(loaded, tokens)
    out = out or root / "part4_outputs/compose.html"
    write_text(out, compose_page(model, loaded.tokenizer, facts))
    return out


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, help="folder of a run, or a checkpoint in it")
    parser.add_argument("-o", "--out", type=Path, help="default: compose.html beside its results")
    args = parser.parse_args(argv)
    root, name = args.source, BEST
    if root.suffix == ".pt":
        root, name = root.resolve().parent.parent, root.stem
    try:
        page = write_compose(root, name, args.out)
    except (ValueError, OSError) as error:
        sys.exit(f"compose: {error}\n  -> run: python 07_train_best_and_generate.py")
    print(f"{page}: {page.stat().st_size / 1e6:.1f} MB; open it in a browser")


if __name__ == "__main__":
    main()
