"""Runs as rows: from the records that training leaves, or from a table (`study/fit/table.py`).

A row is a dict with the keys of COLUMNS (None: not known). Losses are nats per character.
"""

import csv
import io
import json
import math
from pathlib import Path

from study.stages.files import read_json
from study.stages.manifest import load_manifest

import numpy as np

from study.families import FAMILIES

COLUMNS = (
    "name",
    "family",
    "size",
    "seed",
    "recipe",
    "suite",
    "data_fraction",
    "params_total",
    "params_non_embedding",
    "train_chars",
    "epochs",
    "n_chars_seen",
    "train_flops",
    "train_flops_6nd",
    "steps",
    "seconds",
    "tokens_per_second",
    "peak_memory_bytes",
    "device",
    "learning_rate",
    "optimizer",
    "train_nats_per_char",
    "val_nats_per_char",
    "val_bits_per_char",
    "test_nats_per_char",
    "curve",
)
# what a user's table can fill
TABLE_COLUMNS = ("family", "params_total", "n_chars_seen", "seed", "val_nats_per_char")
COUNTS = {
    "params_non_embedding": "matrices and head",
    "params_total": "total N",
    "params_blocks": "N without head",
}


def is_positive(value):
    """True for a finite number above zero: what can be put on a logarithmic axis."""
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0


def count_of(rows):
    """Key of the N of a law fitted to rows: matrices and head for the ladder, all parameters for
    the original suite (as its study counted) and for tables.

    A ladder reaches down to where the tables of embeddings hold as much as the blocks. They are
    looked up and not multiplied; the head is multiplied for every token. The counting rule alone
    moved a published exponent from 0.37
    (all) over 0.54 (matrices and head) to 0.70 (without head), so the others stand beside it.
    """
    return "params_non_embedding" if any(is_ladder(row) for row in rows) else "params_total"


def is_ladder(row):
    """True for a run of the ladder: fixed depth, widths over two decades of N and more."""
    return row["suite"] == "ladder"


def columns(rows, n="params_total", loss="val_nats_per_char"):
    """Two columns of the rows as arrays of floats."""
    return np.array([row[n] for row in rows], float), np.array([row[loss] for row in rows], float)


# ---------------------------------------------------------------- records of this project


def read_records(root):
    """Run records that the manifests of the training stages list, of every family that was trained.

    A listed file that is no run record is left out. Ordered by family, N, share of the data, seed,
    name.
    """
    records = []
    for stage in dict.fromkeys(family.stage for family in FAMILIES.values()):
        # a family that is optional and was not trained
        manifest = load_manifest(root, stage) or {"outputs": {}}
        for name in manifest["outputs"]:
            record = read_json(root / name) if name.endswith(".json") else None
            if isinstance(record, dict) and "family" in record and "params_total" in record:
                records.append(record)
    return sorted(
        records,
        key=lambda r: (
            r["family"],
            r["params_total"],
            r.get("data_fraction") or 1,
            r.get("seed") or 0,
            str(r.get("name")),
        ),
    )


def mixed_inputs(records):
    """Why these records must not be fitted together, or None: one vocabulary and one data set are a
    condition.

    Runs on a share of the data (--data-fractions) are no other data set: their digests are compared
    share by share.
    """
    amounts = {}
    for record in records:
        amounts.setdefault(record.get("data_fraction") or 1, []).append(record)
    return _mixed(records, "tokenizer_digest", "tokenizers") or next(
        filter(None, (_mixed(own, "data_digest", "texts") for own in amounts.values())), None
    )


def _mixed(records, key, what):
    """Which runs differ in a digest, and in what that decides it, in words; None if they agree."""
    groups = {}
    for record in records:
        groups.setdefault(record.get(key), []).append(record)
    if len(groups) < 2:
        return None
    limits = {
        digest: {record.get("max_train_chars") for record in own} for digest, own in groups.items()
    }
    by_limit = key == "data_digest" and len(set(map(str, limits.values()))) == len(groups)
    rows = []
    for digest, own in groups.items():
        names = ", ".join(str(record.get("name")) for record in own)
        rows.append(
            f"{_limit_in_words(own[0])}: {names}" if by_limit else f"{str(digest)[:8]}: {names}"
        )
    cause = (
        "on different amounts of text (--max-train-chars)"
        if by_limit
        else f"with {len(groups)} different {what} (03 ran again between them)"
    )
    return f"the runs were trained {cause}, so their losses cannot be compared: {'; '.join(rows)}"


def _limit_in_words(record):
    limit, chars = record.get("max_train_chars"), record.get("train_chars")
    return (f"--max-train-chars {limit}" if limit else "no limit") + (
        f", {chars:,} characters" if chars else ""
    )


def rows_of_records(records):
    """Rows of run records. n_chars_seen = characters x epochs is the D of the joint law.

    Beside COLUMNS they have `block_size` (length of the context), `val_loss_by_position` (list over
    bins of it), and `params_blocks`: non-embedding parameters but the output head.
    """
    rows = []
    for record in records:
        row = {column: record.get(column) for column in COLUMNS}
        row["seed"] = row["seed"] or 0
        if row["train_chars"] is not None:
            row["n_chars_seen"] = round(
                row["train_chars"] * (1 if row["epochs"] is None else row["epochs"])
            )
        config = record.get("config") or {}
        row["block_size"], row["params_blocks"] = config.get("block_size"), None
        width = config.get("d_hidden") or config.get("d_model")
        if width and config.get("vocab_size") and row["params_non_embedding"]:
            row["params_blocks"] = row["params_non_embedding"] - width * config["vocab_size"]
        row["val_loss_by_position"] = record.get("val_loss_by_position")
        rows.append(row)
    return rows


def read_curves(root, rows):
    """{name of run: points of its loss curve}, a point being a dict with "step", "seconds",
    "val_nats_per_char" ..."""
    curves = {}
    for row in rows:
        path = root / "checkpoints" / Path(row["curve"]).name if row["curve"] else None
        if path and path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            curves[row["name"]] = [json.loads(line) for line in lines if line.strip()]
    return curves


def csv_text(rows, columns):
    """CSV with LF line ends; None becomes an empty cell."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows([{column: row[column] for column in columns} for row in rows])
    return out.getvalue()
