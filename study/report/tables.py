"""The long tables beside RESULTS.json: skills, music, in-context copying, differences."""

import math

from study.evaluate import ladder_copying
from study.evaluate.measurements import read
from study.families import in_order
from study.fit.records import csv_text, read_records
from study.report.keys import pick, value_at
from study.stages.files import plain

DIGITS = 6  # of every number: more than any of them is known to
TABLES = {  # file that stage 07 writes beside RESULTS.json -> its columns
    "music.csv": (
        (
            "set figure generated_mean generated_sd real_mean real_sd wasserstein_in_sd"
            " real_vs_real_mean real_vs_real_p95"
        ).split()
    ),
    "differences.csv": "model less nats_per_char se low high".split(),
    "loss_by_position.csv": "name position val_nats_per_char".split(),
    "repeats.csv": ladder_copying.COLUMNS,
    "skills.csv": (
        (
            "name family size params_total val_nats_per_char n meter key in_key cadence repetition"
            " valid content ended copied_share log2_right_bar saved saved_se"
        ).split()
    ),
}


def run_records(root):
    """Returns the records of the training stages' runs, by family and size."""
    records = read_records(root)
    families = in_order({record["family"] for record in records})

    def place(row):
        return families.index(row["family"]), row["params_total"], row["seed"], row["name"]

    return sorted(records, key=place)


def suite_records(root):
    """Returns the records of the study's own models, one a family and size."""
    own = [row for row in run_records(root) if row["suite"] == "classical"]
    return [row for row in own if row["name"] == f"{row['family']}_{row['size']}"]


def describe_skills(root):
    """Returns the skills of the suite's models, beside real music and n-grams."""

    def skills_of(name):
        skills, control = read(root, f"skills/{name}"), read(root, f"control/{name}")
        copied = read(root, f"copying/{name}")["copied_share"]
        return {**skills, "control": control, "copied_share": copied}

    models = {}
    for row in suite_records(root):
        known = pick(row, ("family", "size", "params_total", "val_nats_per_char"))
        repeats = read(root, f"repeats/{row['name']}")
        models[row["name"]] = {**known, **skills_of(row["name"]), "repeats": repeats}
    return {
        "n": next(iter(models.values()))["n"],
        "models": models,
        "baselines": read(root, "skills/baselines"),
        "real_music": skills_of("real_cut"),
    }


def skill_rows(skills):
    """Returns the rows of skills.csv: models, real music, n-grams."""
    sets = {**skills["models"], "real music": skills["real_music"], **skills["baselines"]}
    return [
        {**row, **row.get("repeats", {}), "name": name, "log2_right_bar": row["control"]["log2"]}
        for name, row in sets.items()
    ]


def tables(root):
    """Returns {file name: CSV} of the tables that have rows."""
    music = []
    for name in ("unprompted", "chosen", "right"):
        metrics = value_at(read(root, f"music/{name}"), "metrics") or {}
        music += [{"set": name, "figure": figure, **row} for figure, row in metrics.items()]
    differences = [
        {**row, "low": row["interval"][0], "high": row["interval"][1]}
        for row in read(root, "tunes")["differences"]
    ]
    positions = [
        {"name": record["name"], "position": i, "val_nats_per_char": loss}
        for record in read_records(root)
        for i, loss in enumerate(record["val_loss_by_position"])
    ]
    rows_of = {
        "music.csv": music,
        "differences.csv": differences,
        "loss_by_position.csv": positions,
        "repeats.csv": ladder_copying.rows_of(root),
        "skills.csv": skill_rows(describe_skills(root)),
    }
    return {
        name: csv_text(plain(rows, DIGITS), TABLES[name]) for name, rows in rows_of.items() if rows
    }


def training_history(record, curve):
    """Returns the last evaluation of every epoch, and the whole curve."""
    per_epoch = record["steps"] / record["epochs"]
    epochs = {}
    for point in curve:
        epoch = max(1, math.ceil(point["step"] / per_epoch - 1e-9))
        perplexity = math.exp(point["val_nats_per_char"])
        epochs[epoch] = {"epoch": epoch, **point, "val_perplexity": perplexity}
    return {
        "unit": "nats per character",
        "epochs": list(epochs.values()),
        "best_val_nats_per_char": record["val_nats_per_char"],
        **pick(record, ("best_epoch", "learning_rate", "optimizer", "seconds")),
        "curve": curve,
    }
