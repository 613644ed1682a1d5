"""Reads the rows beside this file, and what of the study's answer takes no fit of the law.

Needs numpy and scipy, nothing of this project. recompute.py prints it.
"""

import csv
import json
from operator import itemgetter
from pathlib import Path

import numpy as np
from scipy import stats

FAMILIES = ["transformer", "lstm", "ssm"]
HERE = Path(__file__).parent
CHARS = {"family": "transformer", "alphabet": "char"}  # rows of ../tokenizers.csv


def read(name):
    return list(csv.DictReader((HERE / name).read_text("utf-8").splitlines()))


def load(name):
    return json.loads((HERE / name).read_text("utf-8"))


def points(loss, runs="runs.csv", repeats="repeats.csv"):
    """Returns family, ln N, ln D, loss and bits saved above 0.05 (Transformers) of the ladder."""
    cell = itemgetter("family", "params_non_embedding", "n_chars_seen")
    saved = {cell(row): float(row["saved"]) - 0.05 for row in read(repeats) if row["saved"]}
    rows = [row for row in read(runs) if row["suite"] == "ladder"]
    keys = ("params_non_embedding", "n_chars_seen", loss)
    n, d, y = (np.array([float(row[key]) for row in rows]) for key in keys)
    family = [FAMILIES.index(row["family"]) for row in rows]
    s = [saved[cell(row)] if row["family"] == "transformer" else 0 for row in rows]
    return np.array([family, np.log(n), np.log(d), y, s])


def mean_of(rows, key, **chosen):
    """Returns the mean of a column over the rows with the chosen values."""
    kept = [row for row in rows if all(row[name] == value for name, value in chosen.items())]
    return float(np.mean([float(row[key]) for row in kept]))


def most_saved(name):
    """Returns the most bits that each family saves on a repeated bar."""
    most = {}
    for row in read(name):
        if row["saved"]:
            most[row["family"]] = max(float(row["saved"]), most.get(row["family"], 0))
    return most


def heads():
    """Returns bits saved by models of seed 2 with all heads, and with the one or two off that save
    most of it."""
    found = {}
    for row in read("heads.csv"):
        if row["seed"] == "2" and row["way"] in ("none", "zero"):
            found.setdefault(row["name"], {})[row["heads"]] = float(row["saved"])
    own = found["transformer_xl"] = {}
    for row in load("xl.json")["heads"].values():
        own[" ".join(row["heads"]) or "none"] = row["saved"]
    named = {}
    for name, saved in found.items():
        off = min(saved, key=saved.get)
        named[name] = {"all": saved["none"], "off": off, "left": saved[off]}
    return named


def passes():
    """Returns (nats per character, seconds) of 0.67M parameters and four passes, of 7.6M and one,
    and XL's ten passes: the best of them, and its loss."""
    rows = read("../tokenizers.csv")
    xl = load("xl.json")
    keys = ("val_nats_per_char", "seconds")
    return {
        "small_4": [mean_of(rows, key, **CHARS, size="small", epochs="4") for key in keys],
        "xl_1": [mean_of(rows, key, **CHARS, size="xl", epochs="1") for key in keys],
        "xl_best_pass": 1 + int(np.argmin(xl["val_nats_by_epoch"])),
        "xl_loss": [xl["val_nats_per_char"], xl["test_nats_per_char"]],
    }


def winners():
    """Returns [[N, D, family, nats ahead of the second, whether seeds explain it]]."""
    cells = {}
    for row in read("runs.csv"):
        if row["suite"] == "ladder":
            runs = cells.setdefault((float(row["n_chars_seen"]), row["size"]), {})
            runs.setdefault(row["family"], []).append(row)
    losses = [
        [float(row["val_nats_per_char"]) for row in runs]
        for cell in cells.values()
        for runs in cell.values()
    ]
    dof = sum(len(runs) - 1 for runs in losses)
    sd = np.sqrt(sum(np.var(runs) * len(runs) for runs in losses) / dof)
    table = []
    for (d, _), cell in cells.items():
        means = {family: mean_of(runs, "val_nats_per_char") for family, runs in cell.items()}
        first, second = sorted(means, key=means.get)[:2]
        error = sd * np.sqrt(1 / len(cell[first]) + 1 / len(cell[second]))
        margin = means[second] - means[first]
        n = [float(row["params_non_embedding"]) for runs in cell.values() for row in runs]
        draw = bool(margin <= stats.t.ppf(0.975, dof) * error)
        table.append([float(np.exp(np.mean(np.log(n)))), d, first, margin, draw])
    return sorted(table)


def from_rows():
    rows = [row for row in read("runs.csv") if row["suite"] == "ladder"]
    ranges = {"runs": len(rows)}
    for key in ("params_non_embedding", "n_chars_seen"):
        ranges[key] = [f(float(row[key]) for row in rows) for f in (min, max)]
    return {
        "fitted_to": ranges,
        "written_before": {
            family: one["prediction"] for family, one in load("prediction.json").items()
        },
        "most_saved": most_saved("repeats.csv"),
        "second_corpus_runs": len(read("second_corpus_runs.csv")),
        "second_corpus_predicted": load("second_corpus_prediction.json"),
        "second_corpus_most_saved": most_saved("second_corpus_runs.csv"),
        "heads": heads(),
        "passes": passes(),
        "winners": winners(),
    }
