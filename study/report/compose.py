"""Writes compose.html: one file with a trained model, that composes in a browser without any network.

    python -m study.report.compose ROOT                     # its best model -> part4_outputs/
    python -m study.report.compose checkpoints/lstm_small.pt -o lstm.html
    python -m study.report.compose docs/compose.html        # today's script around its model

The weights stand in the page as int8 rows with a scale each; what rounding costs is measured on the
validation split, where it is at hand, and stands on the page.
"""

import argparse
import base64
import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import torch

from common import load_tokenizer
from study.evaluate import heads as knock_out
from study.evaluate.induction import read_tunes
from study.evaluate.models import LoadedModel
from study.families import label
from study.stages.files import write_text
from study.stages.manifest import BEST
from study.train.checkpoints import load_checkpoint, tokenizer_path

HERE = Path(__file__).parent
PARTS = (
    "engine.js",
    "abc.js",
    "writer.js",
    "files.js",
    "compose.js",
)  # in this order, into one script
LEVELS = 127  # int8 on either side of zero
VAL_TOKENS = 8_192  # of the validation split, read for the loss before and after rounding
KNOCKED_TUNES = 12  # with repeated bars, read without each head


def rounded_rows(matrix):
    """(int8 values, scales (rows,)) of a matrix: each row's largest value becomes 127."""
    scales = (matrix.abs().amax(dim=1) / LEVELS).clamp(min=1e-12)
    return (matrix / scales[:, None]).round().to(torch.int8), scales


def rounded_weights(weights):
    """The state dict that the page computes with: what int8 rows stand for."""
    rounded = {}
    for name, tensor in weights.items():
        rounded[name] = tensor.float()
        if tensor.ndim == 2:
            values, scales = rounded_rows(tensor.float())
            rounded[name] = values.float() * scales[:, None]
    return rounded


def packed_weights(weights):
    """([[name, rows, columns (0: a vector)]], bytes) as `unpackWeights` of engine.js reads them."""
    table, parts = [], []
    for name, tensor in weights.items():
        tensor = tensor.float()
        if tensor.ndim == 2:
            values, scales = rounded_rows(tensor)
            table.append([name, *tensor.shape])
            parts += [scales.numpy().astype("<f4").tobytes(), values.numpy().tobytes()]
        else:
            table.append([name, len(tensor), 0])
            parts.append(tensor.numpy().astype("<f4").tobytes())
    return table, b"".join(parts)


class NoPage(ValueError):
    """A model that the page cannot play."""


def token_texts(tokenizer):
    """What each token stands for; nothing for the two ends, U+FFFD for an unknown character."""
    return [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]


@torch.inference_mode()
def bits_per_char(model, tokenizer, tokens):
    """Mean loss on the beginning of a token stream in bits per character, in windows side by
    side."""
    size = model.config["block_size"]
    n_windows = max(1, min(len(tokens) - 1, VAL_TOKENS) // size)
    size = min(size, len(tokens) - 1)
    stream = torch.as_tensor(np.asarray(tokens[: n_windows * size + 1], np.int64))
    idx, targets = stream[:-1].view(n_windows, size), stream[1:].view(n_windows, size)
    losses = torch.nn.functional.cross_entropy(
        model(idx)[0].float().transpose(1, 2), targets, reduction="none"
    )
    n_chars = torch.as_tensor(tokenizer.token_chars)[targets]
    return float(losses[n_chars > 0].sum() / n_chars.sum() / np.log(2))


def measured(model, tokenizer, tokens):
    """{"exact", "rounded"}: bits per character before and after rounding; leaves the model as it
    was."""
    exact = bits_per_char(model, tokenizer, tokens)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(rounded_weights(weights))
    rounded = bits_per_char(model, tokenizer, tokens)
    model.load_state_dict(weights)
    return {"exact": exact, "rounded": rounded}


def costs_of_heads(model, tokenizer, tokens):
    """{"base", "off": one for each head}: (loss, saving of a repeated bar) in bits per character,
    with all heads and without each; None for a model without heads or tunes without such bars."""
    if not knock_out.has_heads(model):
        return None
    loaded = LoadedModel(model, tokenizer, "cpu", "")
    tunes = [tune for tune in read_tunes(loaded, tokens) if knock_out.has_repeat(tune)]
    tunes = tunes[:: max(1, len(tunes) // KNOCKED_TUNES)][:KNOCKED_TUNES]
    if not tunes:
        return None
    off = [[], *([head] for head in knock_out.all_heads(model))]
    rows = [knock_out.without(loaded, tunes, heads) for heads in off]
    costs = [(row["bits_per_char"], row["saved"]) for row in rows]
    return {"base": costs[0], "off": costs[1:]}


def embedded(value):
    """JSON that can stand in a script element: no text ends the element."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def compose_page(model, tokenizer, facts):
    """The text of compose.html. facts: what the page says of the model, see `write_compose`."""
    table, weights = packed_weights(model.state_dict())
    content = {
        "config": {key: value for key, value in model.config.items() if key != "dropout"},
        "texts": token_texts(tokenizer),
        "weights": table,
        "digest": hashlib.sha256(weights).hexdigest(),
        "heads": None,
        **facts,
    }
    return _filled(embedded(content), base64.b64encode(weights).decode())


def _filled(content, weights):
    script = "\n".join((HERE / name).read_text(encoding="utf-8") for name in PARTS)
    values = {
        "STYLE": (HERE / "compose.css").read_text(encoding="utf-8"),
        "MODEL": content,
        "WEIGHTS": weights,
        "SCRIPT": script,
    }
    page = (HERE / "compose.html").read_text(encoding="utf-8")
    for name, value in values.items():
        page = page.replace(f"<!--{name}-->", value)
    return page


def renewed(page):
    """The text of a page with the script and style of today around the same model."""
    found = re.findall(r'<script type="application/[a-z-]+" id="[a-z]+">(.*?)</script>', page, re.S)
    if len(found) != 2:
        raise ValueError("it is no page of this program")
    return _filled(*found)


def write_compose(checkpoint, tokenizer, out, val_tokens=None):
    """Writes the page of a checkpoint and returns its path.

    checkpoint: path of a .pt file; tokenizer: the one it was trained with; val_tokens: token stream
    of the validation split, for the loss before and after rounding (None: not measured).
    ValueError if the two do not belong together.
    """
    if tokenizer.kind == "event":
        raise NoPage("the page cannot write events; characters and notes it can")
    model, saved = load_checkpoint(checkpoint)
    if saved["tokenizer_digest"] != tokenizer.digest:
        raise ValueError(f"{Path(checkpoint).name} was trained with another vocabulary")
    record = saved.get("record") or {}
    loss = heads = None
    if val_tokens is not None and len(val_tokens) > 1:
        loss = measured(model, tokenizer, val_tokens)
        heads = costs_of_heads(model, tokenizer, val_tokens)
    facts = {
        "name": Path(checkpoint).stem,
        "family": label(model.config["family"]),
        "n_parameters": model.count_parameters()["total"],
        "n_chars": record.get("train_chars"),
        "loss": loss,
        "heads": heads,
    }
    write_text(Path(out), compose_page(model, tokenizer, facts))
    return Path(out)


def write_compose_of(root, name=BEST, out=None):
    """Writes the page of a run's model, with what its validation split says; returns its path."""
    root, val = Path(root), Path(root) / "data/val_tokens.npy"
    return write_compose(
        root / f"checkpoints/{name}.pt",
        load_tokenizer(tokenizer_path(root, name)),
        out or root / "part4_outputs/compose.html",
        np.load(val) if val.is_file() else None,
    )


def main(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, help="folder of a run, a checkpoint in it, or a page")
    parser.add_argument("-o", "--out", type=Path, help="default: compose.html beside its results")
    args = parser.parse_args(argv)
    checkpoint = args.source
    if checkpoint.suffix not in (".pt", ".html"):
        checkpoint = checkpoint / f"checkpoints/{BEST}.pt"
    try:
        if checkpoint.suffix == ".html":
            page = args.out or checkpoint
            write_text(page, renewed(checkpoint.read_text(encoding="utf-8")))
            return print(f"{page} is written again")
        page = write_compose_of(checkpoint.resolve().parent.parent, checkpoint.stem, args.out)
    except (ValueError, OSError) as error:
        sys.exit(f"compose: {error}\n  -> run: python 07_train_best_and_generate.py")
    print(f"{page}: {page.stat().st_size / 1e6:.1f} MB; open it in a browser")


if __name__ == "__main__":
    main()
