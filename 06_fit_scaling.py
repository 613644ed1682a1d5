"""Fits scaling laws to the runs of the training stages: exponents with intervals, a verdict, the
families compared.

Reads:  checkpoints/<family>_<size>*.json and .curve.jsonl (run records, nats per character) listed
            by 04 and 05
        part4_outputs/repeats.csv, data/val.txt  for the copying term, once 07 has measured it
Writes: part4_outputs/runs.csv        one row per run: every figure and number below comes from it
        part4_outputs/fits.json       fits, intervals, verdicts, comparisons (same bytes:
            checkpoints/scaling_fits.json)
        part4_outputs/figures/*.png, *.svg
        part4_outputs/joint_bootstrap.csv  (only if the training data were varied) draws of the
            joint law
Run:    python 06_fit_scaling.py [--quick]
        python 06_fit_scaling.py --budget 1e15          what to train with 1e15 FLOPs, from the
            joint law
        python 06_fit_scaling.py --table my_runs.csv    the same fits for a table with the columns
            family,N,D,seed,loss
Prints last: the headline, alpha with its interval per family, and the next command.
"""

import csv
import os
import re
from pathlib import Path

# first of all: from here on Ctrl-C shows no traceback, however long the rest takes to load
from study.stages.arguments import fail, number, resolve_root, root_flags, stage_parser, whole
from study.stages.files import read_json, write_json, write_text
from study.stages.process import run
from study.stages.stage import Stage

from study.families import FAMILIES, label
from study.fit import joint_law, sentences
from study.fit import analysis as scaling_fits
from study.fit import figures as figures_scaling
from study.fit.answer import saved_of_rows
from study.fit.copying import second_occurrences
from study.fit.records import (
    COLUMNS,
    TABLE_COLUMNS,
    csv_text,
    mixed_inputs,
    read_curves,
    read_records,
    rows_of_records,
)
from study.fit.table import rows_of_table

NAME = "06_fit_scaling.py"
# {family: loss of the largest run, written before its training}
PROMISES = "checkpoints/prediction.json"
# what stage 07 measured of in-context copying; without it the law has no term for it
REPEATS = "part4_outputs/repeats.csv"
N_RESAMPLES = 1000  # of every bootstrap; 0.3 s per family, tens of seconds for a joint law
# of the compute-optimal frontier, as in Hoffmann et al. 2022 (10th to 90th)
BAND_PERCENT = 80
# the part of the context (512: positions 64 to 128) whose loss is compared with ...
SHORT_CONTEXT = (1 / 8, 1 / 4)
LONG_CONTEXT = (3 / 4, 1)  # ... its end (384 to 512): what a family gains from the far past


def settings(n_resamples=N_RESAMPLES, seed=0):
    """What the fits take from the knobs above and the command line."""
    return scaling_fits.Settings(n_resamples, seed, BAND_PERCENT, SHORT_CONTEXT, LONG_CONTEXT)


def parse_arguments(argv):
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--bootstrap",
        type=whole(0),
        default=N_RESAMPLES,
        metavar="N",
        help=f"resamples of every bootstrap (default: {N_RESAMPLES}; 0: none)",
    )
    parser.add_argument(
        "--budget",
        type=number(above=0),
        metavar="FLOPS",
        help="recommend a size and an amount of data for FLOPS",
    )
    parser.add_argument(
        "--table",
        type=Path,
        metavar="FILE",
        help="fit a CSV with the columns family,N,D,seed,loss instead of the project's runs",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help=(
            "with --table: where to write (default: part4_outputs/<name of the table>/ in the root)"
        ),
    )
    return parser.parse_args(argv)


# ---------------------------------------------------------------- what is written, and read again
# for --budget


def write_results(folder, rows, columns, analysis, chosen, curves, corpus_chars=None):
    """Writes runs.csv, the figures, the joint law's draws and fits.json; returns the names
    written."""
    write_text(folder / "runs.csv", csv_text(rows, columns))
    result = analysis.result
    result["figures"] = figures_scaling.draw_all(
        folder / "figures", rows, analysis, chosen, curves, corpus_chars
    )
    names = ["runs.csv", "fits.json"]
    names += [
        f"figures/{figure['name']}.{kind}"
        for figure in result["figures"]
        for kind in ("png", "svg")
    ]
    if analysis.draws:
        lines = ["family," + ",".join(joint_law.JOINT)]
        lines += [
            f"{family}," + ",".join(f"{value:.8g}" for value in draw)
            for family, draws in analysis.draws.items()
            for draw in draws
        ]
        write_text(folder / "joint_bootstrap.csv", "\n".join(lines) + "\n")
        names.append("joint_bootstrap.csv")
    else:
        (folder / "joint_bootstrap.csv").unlink(missing_ok=True)
    write_json(folder / "fits.json", result)
    return names


def print_budget(folder, flops, flags):
    """What to train with `flops`, one line per family, from fits.json and the draws beside it."""
    fits = read_json(folder / "fits.json")
    if not fits["joint"]:
        reasons = "; ".join(
            f"{label(family)}: {reason}" for family, reason in fits["joint_refused"].items()
        )
        stages = [family.stage for family in FAMILIES.values() if not family.optional]
        fail(
            NAME,
            f"no joint law to recommend from ({reasons or 'no runs'})",
            f"run: python {stages[0]}.py{flags} --data-fractions 0.25,0.5,1"
            f" ({', '.join(stage[:stage.index('_')] for stage in stages[1:])} likewise), then this"
            " again",
        )
    draws = {family: [] for family in fits["joint"]}
    if (folder / "joint_bootstrap.csv").exists():
        for family, *draw in csv.reader(
            (folder / "joint_bootstrap.csv").read_text().splitlines()[1:]
        ):
            draws[family].append([float(value) for value in draw])
    for family, entry in fits["joint"].items():
        print(sentences.budget_sentence(family, entry, draws[family], flops, BAND_PERCENT))


# ---------------------------------------------------------------- the two ways to run it


def fit_table(args):
    """--table: the same analysis for a user's CSV, outside the chain of stages."""
    if not args.table.is_file():
        fail(
            NAME,
            f"{args.table} is not a file",
            "pass the path of a CSV with the columns family,N,D,seed,loss",
        )
    try:
        rows, remarks = rows_of_table(args.table)
    except (ValueError, csv.Error) as error:
        fail(
            NAME,
            f"{args.table}: {error}",
            "a table has the columns N and loss, and family, D and seed where they differ",
        )
    chosen = settings(args.bootstrap, args.seed)
    analysis = scaling_fits.analyse(rows, chosen, measured="loss of the table")
    result = analysis.result
    if not result["families"] and not result["joint"]:
        fail(
            NAME,
            "\n".join(
                f"{args.table}: {family}: {reason}" for family, reason in result["refused"].items()
            ),
            "mend the table: nothing in it can be fitted",
        )
    folder = args.output or resolve_root(args) / "part4_outputs" / re.sub(
        r"[^\w.-]", "_", args.table.stem
    )
    write_results(folder, rows, TABLE_COLUMNS, analysis, chosen, curves={})
    for remark in remarks:
        print(f"note: {remark}")
    for key, value in sentences.summary(result).items():
        print(f"{key}: {value}")
    for family, entry in (result["joint"] or {}).items():
        print(
            f"{label(family)} joint law: "
            + (
                entry["reason"]
                if entry["E"]["value"] is None
                else ", ".join(f"{name} {entry[name]['value']:.4g}" for name in joint_law.JOINT)
            )
        )
    print(f"look at: {os.path.relpath(folder)}/fits.json and figures/")
    if args.budget:
        print_budget(folder, args.budget, "")


def corpus_chars(root):
    """Characters of the whole training text, of which the models may have seen a part; None if 03
    does not say."""
    splits = (read_json(root / "data/stats.json") or {}).get("splits") or {}
    return (splits.get("train") or {}).get("characters")


def copying_measured(root):
    """Returns ({(family, N, D): bits saved on a repeated bar}, share of characters in second
    occurrences of bars); what was not measured is empty or None."""
    repeats, text = root / REPEATS, root / "data/val.txt"
    saved, share = {}, None
    if repeats.is_file():
        saved = saved_of_rows(csv.DictReader(repeats.read_text(encoding="utf-8").splitlines()))
    if saved and text.is_file():
        share = second_occurrences(text.read_text(encoding="utf-8"))["share"]
    return saved, share


def fit_runs(stage, args):
    """The runs of the training stages: from their records to fits.json and the figures."""
    records = read_records(stage.root)
    problem = (
        "no run records are listed by the training stages" if not records else mixed_inputs(records)
    )
    if problem:
        there = {record["family"] for record in records}
        commands = [
            f"python {family.stage}.py{stage.flags}"
            for family in FAMILIES.values()
            if not family.optional or family.name in there
        ]
        fail(NAME, problem, f"run: {' && '.join(commands)}")
    rows, chosen = rows_of_records(records), settings(args.bootstrap, args.seed)
    curves, promises = read_curves(stage.root, rows), read_json(stage.root / PROMISES)
    with stage.writing():
        saved, share = copying_measured(stage.root)
        analysis = scaling_fits.analyse(rows, chosen, promises=promises, saved=saved, share=share)
        analysis = analysis._replace(result={"quick": args.quick, **analysis.result})
        names = write_results(
            stage.root / "part4_outputs",
            rows,
            COLUMNS,
            analysis,
            chosen,
            curves,
            corpus_chars(stage.root),
        )
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
    stage = Stage(__file__, args, config={"resamples": args.bootstrap})
    if not stage.up_to_date():
        fit_runs(stage, args)
    if args.budget:
        print_budget(stage.root / "part4_outputs", args.budget, root_flags(args))


if __name__ == "__main__":
    run(main)
