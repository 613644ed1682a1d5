"""Fits scaling laws to the runs of the training stages: exponents with intervals, a verdict, the
families compared.

Reads:  checkpoints/<family>_<size>*.json and .curve.jsonl (run records, nats per character) listed
            by 04 and 05
        part4_outputs/repeats.csv, data/val.txt  for the copying term, once 07 has measured it
Writes: part4_outputs/runs.csv        one row per run: every figure and number below comes from it
        part4_outputs/fits.json       fits, intervals, verdicts, comparisons (same bytes:
            checkpoints/scaling_fits.json)
        part4_outputs/figures/*.png, *.svg
Run:    python 06_fit_scaling.py [--quick]
        python 06_fit_scaling.py --budget 1e15          says what to train with 1e15 FLOPs
        python 06_fit_scaling.py --table my_runs.csv    fits a table: family,N,D,seed,loss
Prints last: the headline, alpha with its interval per family, and the next command.
"""

import csv
import os
import re
from operator import itemgetter
from pathlib import Path

# first: from here on Ctrl-C shows no traceback
from study.stages.arguments import fail, number, resolve_root, root_flags, stage_parser, whole
from study.stages.files import read_json, value_digest, write_json, write_text
from study.stages.process import run
from study.stages.stage import Stage

import numpy as np

from study.families import FAMILIES, label
from study.fit import figures, joint_fit, sentences
from study.fit.analysis import analyse
from study.fit.answer import rows_of_grids, saved_of_rows
from study.fit.copying import second_occurrences
from study.fit.records import (
    COLUMNS,
    TABLE_COLUMNS,
    csv_text,
    grouped,
    mixed_inputs,
    read_curves,
    read_records,
    rows_of_records,
)
from study.fit.shared_law import JOINT
from study.fit.table import rows_of_table

NAME = "06_fit_scaling.py"
PREDICTION = "checkpoints/prediction.json"  # {family: its largest run, said before its training}
REPEATS = "part4_outputs/repeats.csv"  # of stage 07: without it the law has no copying term
N_RESAMPLES = 1000  # of every bootstrap; about a second a family


def parse_arguments(argv):
    parser = stage_parser(__doc__)
    add = parser.add_argument
    add("--bootstrap", type=whole(0), default=N_RESAMPLES, metavar="N", help="resamples; 0: none")
    add("--budget", type=number(above=0), metavar="FLOPS", help="say what to train with e.g. 1e15")
    add("--table", type=Path, metavar="CSV", help="fit your own runs: family,N,D,seed,loss")
    add("--output", type=Path, metavar="DIR", help="of --table (default: part4_outputs/<its name>)")
    return parser.parse_args(argv)


def write_results(folder, rows, columns, analysis, curves):
    """Writes runs.csv, the figures and fits.json; returns the names written."""
    write_text(folder / "runs.csv", csv_text(rows, columns))
    drawn = figures.draw_all(folder / "figures", rows, analysis, curves)
    analysis.result["figures"] = drawn
    write_json(folder / "fits.json", analysis.result)
    pictures = [f"figures/{figure['name']}.{kind}" for figure in drawn for kind in ("png", "svg")]
    return ["runs.csv", "fits.json", *pictures]


def print_budget(rows, args, mend):
    """Prints what to train with --budget, one line per family, from its joint law."""
    rng, told, reasons = np.random.default_rng(args.seed), [], []
    for family, own in grouped(rows, itemgetter("family")).items():
        entry, found, draws = joint_fit.fit_grid(joint_fit.rows_of_grid(own), args.bootstrap, rng)
        if found is not None and entry["E"]["value"] is not None:
            best = joint_fit.recommend(entry, found, draws, args.budget)
            told.append(sentences.budget(family, args.budget, *best))
        else:
            reason = entry if isinstance(entry, str) else entry["reason"]
            reasons.append(f"{label(family)}: no recommendation: {reason}")
    if not told:
        fail(NAME, "\n".join(reasons), mend)
    print("\n".join(told + reasons))


def fit_table(args):
    """Fits a user's CSV, outside the chain of stages."""
    if not args.table.is_file():
        fail(NAME, f"{args.table} is not a file", "pass the path of a CSV with N and loss")
    try:
        rows, remarks = rows_of_table(args.table)
    except (ValueError, csv.Error) as error:
        mend = "a table has the columns N and loss, and family, D and seed where they differ"
        fail(NAME, f"{args.table}: {error}", mend)
    analysis = analyse(rows, args.bootstrap, args.seed, measured="loss of the table")
    result = analysis.result
    if not result["families"] and not result["joint"]:
        refused = [f"{args.table}: {who}: {reason}" for who, reason in result["refused"].items()]
        fail(NAME, "\n".join(refused), "mend the table: nothing in it can be fitted")
    name = re.sub(r"[^\w.-]", "_", args.table.stem)
    folder = args.output or resolve_root(args) / "part4_outputs" / name
    write_results(folder, rows, TABLE_COLUMNS, analysis, curves={})
    for remark in remarks:
        print(f"note: {remark}")
    for key, value in sentences.summary(result).items():
        print(f"{key}: {value}")
    for family, entry in (result["joint"] or {}).items():
        words = entry["reason"]
        if entry["E"]["value"] is not None:
            words = ", ".join(f"{name} {entry[name]['value']:.4g}" for name in JOINT)
        print(f"{label(family)} joint law: {words}")
    print(f"look at: {os.path.relpath(folder)}/fits.json and figures/")
    if args.budget:
        print_budget(rows, args, "give the table three sizes and three amounts of data at least")


def saved_by_copying(root, rows):
    """Returns {(family, N, D): bits saved on a repeated bar}; empty until 07 has measured it, and
    without a grid, whose law alone has such a term."""
    repeats = root / REPEATS
    if not repeats.is_file() or not rows_of_grids(rows):
        return {}
    return saved_of_rows(csv.DictReader(repeats.read_text(encoding="utf-8").splitlines()))


def fit_runs(stage, args, rows, saved, problem):
    if problem:
        there = {row["family"] for row in rows}
        commands = [
            f"python {family.stage}.py{stage.flags}"
            for family in FAMILIES.values()
            if not family.optional or family.name in there
        ]
        fail(NAME, problem, f"run: {' && '.join(commands)}")
    curves, predicted = read_curves(stage.root, rows), read_json(stage.root / PREDICTION)
    share = None
    if saved:
        share = second_occurrences((stage.root / "data/val.txt").read_text(encoding="utf-8"))
    with stage.writing():
        analysis = analyse(
            rows, args.bootstrap, args.seed, predicted=predicted, saved=saved, share=share
        )
        analysis = analysis._replace(result={"quick": args.quick, **analysis.result})
        folder = stage.root / "part4_outputs"
        names = write_results(folder, rows, COLUMNS, analysis, curves)
        write_json(stage.root / "checkpoints/scaling_fits.json", analysis.result)
        stage.finish(
            outputs=["checkpoints/scaling_fits.json", *(f"part4_outputs/{name}" for name in names)],
            counts={"runs": len(rows), "families_fitted": len(analysis.laws)},
            skipped={reason: 1 for reason in analysis.result["refused"].values()},
            summary=sentences.summary(analysis.result),
        )


def main(argv=None):
    args = parse_arguments(argv)
    if args.table:
        return fit_table(args)
    records = read_records(resolve_root(args))
    try:
        rows = rows_of_records(records)
    except (AttributeError, TypeError):  # edited by hand: the digests of the training stages say so
        rows = []
    saved = saved_by_copying(resolve_root(args), rows)
    config = {"resamples": args.bootstrap, "saved_by_copying": value_digest(sorted(saved.items()))}
    stage = Stage(__file__, args, config)
    if not stage.up_to_date():
        fit_runs(stage, args, rows, saved, mixed_inputs(records))
    if args.budget:
        stages = [family.stage for family in FAMILIES.values() if not family.optional]
        trained = f"python {stages[0]}.py{root_flags(args)} --data-fractions 0.25,0.5,1"
        mend = f"run: {trained} ({', '.join(stages[1:])} likewise), then this again"
        print_budget(rows, args, mend)


if __name__ == "__main__":
    run(main)
