"""Reads runs as rows, from the records that training leaves (tables: `study/fit/table.py`).

A row is a dict with the keys of COLUMNS (None: not known). Losses are nats per character.
"""

import csv
import io
import json
import math
from operator import itemgetter
from pathlib import Path

from study.stages.files import read_json
from study.stages.manifest import load_manifest

import numpy as np

from study.families import FAMILIES, in_order

COLUMNS = (
    "name family size seed recipe suite data_fraction params_total params_non_embedding train_chars"
    " epochs n_chars_seen train_flops train_flops_6nd steps seconds tokens_per_second"
    " peak_memory_bytes device learning_rate optimizer train_nats_per_char val_nats_per_char"
    " val_bits_per_char test_nats_per_char curve"
).split()
# of a user's table; together they are one run
TABLE_COLUMNS = ("family", "params_total", "n_chars_seen", "seed", "val_nats_per_char")
COUNTS = {
    "params_non_embedding": "matrices and head",
    "params_total": "total N",
    "params_blocks": "N without head",
}


def is_positive(value):
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0


def grouped(rows, key):
    """Returns {key(row): its rows} in the order of the rows."""
    groups = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def by_family(rows):
    """Returns {family: its rows} in the order of the table of families."""
    groups = grouped(rows, itemgetter("family"))
    return {family: groups[family] for family in in_order(groups)}


def count_of(rows):
    """Returns the key of the N of a law: matrices and head for the ladder, whose small models are
    half embeddings, else all parameters."""
    return "params_non_embedding" if any(map(is_ladder, rows)) else "params_total"


def is_ladder(row):
    return row["suite"] == "ladder"


def columns(rows, n="params_total", loss="val_nats_per_char"):
    """Returns two columns of the rows as arrays of floats."""
    return tuple(np.array([row[key] for row in rows], float) for key in (n, loss))


def read_records(root):
    """Returns the run records that the manifests of the training stages list, in order."""
    records = []
    for stage in dict.fromkeys(family.stage for family in FAMILIES.values()):
        manifest = load_manifest(root, stage) or {"outputs": {}}
        for name in manifest["outputs"]:
            record = read_json(root / name) if name.endswith(".json") else None
            if isinstance(record, dict) and "family" in record and "params_total" in record:
                records.append(record)

    def order(record):
        fraction, seed = record.get("data_fraction") or 1, record.get("seed") or 0
        return record["family"], record["params_total"], fraction, seed, str(record.get("name"))

    return sorted(records, key=order)


def mixed_inputs(records):
    """Returns why these records must not be fitted together, or None: they need one vocabulary and,
    for each share of the data, one text."""
    if not records:
        return "no run records are listed by the training stages"
    amounts = grouped(records, lambda record: record.get("data_fraction") or 1)
    needs = [(records, "tokenizer_digest", "tokenizers")]
    needs += [(own, "data_digest", "texts") for own in amounts.values()]
    for own, key, what in needs:
        groups, rows = grouped(own, lambda record: record.get(key)), []
        for digest, group in groups.items():
            limit = group[0].get("max_train_chars")
            which = str(digest)[:8] + (f" (--max-train-chars {limit})" if limit else "")
            rows.append(f"{which}: {', '.join(str(record.get('name')) for record in group)}")
        if len(groups) > 1:
            return (
                f"the runs were trained with {len(groups)} different {what}, so their losses cannot"
                f" be compared: {'; '.join(rows)}"
            )
    return None


def rows_of_records(records):
    """Returns rows of run records; n_chars_seen = characters x epochs.

    Beside COLUMNS: `block_size`, `val_loss_by_position` (list over bins of the context) and
    `params_blocks` (without embeddings and output head).
    """
    rows = []
    for record in records:
        row = {key: record.get(key) for key in (*COLUMNS, "val_loss_by_position")}
        row["seed"] = row["seed"] or 0
        if row["train_chars"] is not None:
            epochs = 1 if row["epochs"] is None else row["epochs"]
            row["n_chars_seen"] = round(row["train_chars"] * epochs)
        config = record.get("config") or {}
        row["block_size"], row["params_blocks"] = config.get("block_size"), None
        width = config.get("d_hidden") or config.get("d_model")
        if width and config.get("vocab_size") and row["params_non_embedding"]:
            row["params_blocks"] = row["params_non_embedding"] - width * config["vocab_size"]
        rows.append(row)
    return rows


def read_curves(root, rows):
    """Returns {name of run: points of its loss curve}, each {"step", "val_nats_per_char", ...}."""
    curves = {}
    for row in rows:
        path = root / "checkpoints" / Path(row["curve"]).name if row["curve"] else None
        if path and path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            curves[row["name"]] = [json.loads(line) for line in lines if line.strip()]
    return curves


def csv_text(rows, columns):
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
