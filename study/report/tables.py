"""The long tables beside RESULTS.json: runs, skills, music, in-context copying, differences."""

import csv
import math
from pathlib import Path

from study.evaluate import ladder_copying
from study.evaluate.measurements import read
from study.families import in_order
from study.fit.records import csv_text, read_records
from study.report.required import pick, suite_runs
from study.stages.files import plain

DIGITS = 6  # of every number: more than any of them is known to
RUN_COLUMNS = (
    "name family size seed suite recipe data_fraction params_total params_non_embedding train_chars"
    " epochs train_flops steps seconds tokens_per_second peak_memory_bytes device learning_rate"
    " optimizer train_nats_per_char val_nats_per_char val_bits_per_char test_nats_per_char"
).split()
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


def run_rows(root):
    """Returns a flat row for each run that the training stages list, by family and size."""
    rows = [pick(record, RUN_COLUMNS) for record in read_records(root)]
    families = in_order({row["family"] for row in rows})

    def place(row):
        return families.index(row["family"]), row["params_total"], row["seed"], row["name"]

    return sorted(rows, key=place)


def describe_skills(root):
    """Returns the skills of the suite's models from small sets of free samples, beside real music
    and n-grams under the same limit of length; None without any. The figures' data."""

    def skills_of(name):
        skills, copied = read(root, f"skills/{name}"), read(root, f"copying/{name}") or {}
        control = read(root, f"control/{name}")
        return skills and {**skills, "control": control, **pick(copied, ["copied_share"])}

    models = {}
    for row in suite_runs(run_rows(root)):
        name = row["name"]
        if skills := skills_of(name):
            known = pick(row, ("family", "size", "params_total", "val_nats_per_char"))
            models[name] = {**known, **skills, "repeats": read(root, f"repeats/{name}")}
    if not models:
        return None
    return {
        "n": next(iter(models.values()))["n"],
        "models": models,
        "baselines": read(root, "skills/baselines"),
        "real_music": skills_of("real_cut"),
    }


def skill_rows(skills):
    """Returns the rows of skills.csv: models, real music, n-grams."""
    if not skills:
        return []
    sets = {**skills["models"], "real music": skills["real_music"], **(skills["baselines"] or {})}
    return [
        {
            **dict.fromkeys(TABLES["skills.csv"]),
            **row,
            **(row.get("repeats") or {}),
            "name": name,
            "log2_right_bar": (row.get("control") or {}).get("log2"),
        }
        for name, row in sets.items()
        if row
    ]


def tables(root):
    """Returns the long tables beside RESULTS.json, {file name: CSV}, those that have rows."""
    music, positions = [], []
    for name in ("unprompted", "chosen", "right"):
        metrics = (read(root, f"music/{name}") or {}).get("metrics") or {}
        music += [{"set": name, "figure": figure, **row} for figure, row in metrics.items()]
    differences = [
        {**row, "low": row["interval"][0], "high": row["interval"][1]}
        for row in (read(root, "tunes") or {}).get("differences") or []
    ]
    for record in read_records(root):
        positions += [
            {"name": record["name"], "position": i, "val_nats_per_char": loss}
            for i, loss in enumerate(record.get("val_loss_by_position") or [])
        ]
    rows = {
        "music.csv": music,
        "differences.csv": differences,
        "loss_by_position.csv": positions,
        "repeats.csv": ladder_copying.rows_of(root),
        "skills.csv": skill_rows(describe_skills(root)),
    }
    return {
        name: csv_text(plain(found, DIGITS), TABLES[name]) for name, found in rows.items() if found
    }


def read_tables(folder):
    """Returns {file name: rows} of the CSV files beside RESULTS.json; what is a number is one, and
    what was not measured is None."""
    paths = [Path(folder) / name for name in ("runs.csv", *TABLES)]
    found = {}
    for path in filter(Path.exists, paths):
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            found[path.name] = [{key: _value(text) for key, text in row.items()} for row in rows]
    return found


def _value(text):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None


def training_history(record, curve):
    """Returns training_history.json of the best model: the last evaluation of every epoch, and
    every point of the curve."""
    per_epoch = record.get("steps", 0) / max(record.get("epochs") or 1, 1)
    epochs = {}
    for point in curve:
        epoch = math.ceil(point["step"] / per_epoch - 1e-9) if per_epoch else 1
        epochs[max(1, epoch)] = {**point, "val_perplexity": math.exp(point["val_nats_per_char"])}
    return {
        "unit": "nats per character",
        "epochs": [{"epoch": epoch, **point} for epoch, point in sorted(epochs.items())],
        "best_val_nats_per_char": record.get("val_nats_per_char"),
        **pick(record, ("best_epoch", "learning_rate", "optimizer", "seconds")),
        "curve": curve,
    }
