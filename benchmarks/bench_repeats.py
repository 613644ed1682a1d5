"""When does a model learn to repeat? Sizes of every family, trained for more and more passes over
one text.

Reads:  ROOT/data (stage 03)
Writes: OUT/checkpoints/ (a run that is finished there is not repeated), OUT/part4_outputs/ (what
    was measured of it),
        OUT/repeats.csv, .png, .svg
Run:    OMP_NUM_THREADS=1 python -m benchmarks.bench_repeats [--root study_run] [--out ROOT/repeats]
        [--sizes tiny,small,medium] [--families transformer,lstm] [--epochs 1,2,4,8] [--chars 300000] [--seeds 2]
Prints a table in Markdown: for each family, size and number of passes, each a run with a schedule
of its own, the validation loss, bits per character of the bars that come back at their first and
their second occurrence
(`study/evaluate/induction.py`), and the share of bars heard before in 100 unprompted tunes at temperature 1; means over seeds. By
size and amount of text: stage 07, figures/looking_back.png.
"""

import argparse
from pathlib import Path

from study.stages.arguments import list_of, whole
from study.stages.stage import HERE, write_bytes, write_text

import numpy as np

from benchmarks.bench_alphabets import all_sizes, needs_tokens, one_of, plans
from common import load_tokenizer, pick_device
from music.metrics import as_tune, repetition
from music.samples import mean_of_known
from music.tunebook import split_tunebook
from study.evaluate.evaluation import judged, load_player
from study.evaluate.induction import repeats
from study.evaluate.measurements import Digested, kept
from study.evaluate.sampling import generate, unprompted
from study.families import FAMILIES, label
from study.figures import look, pyplot, save
from study.fit.records import csv_text
from study.train.loop import digest_tokens, load_data
from study.train.runs import train

N_TUNES, MAX_CHARS = 100, 1000
COLUMNS = (
    "family",
    "size",
    "params_total",
    "train_chars",
    "seed",
    "epochs",
    "val_nats_per_char",
    "first",
    "second",
    "saved",
    "saved_se",
    "heard",
)
MARKERS = "os^Dv"


def heard_before(tunes):
    """Mean share of a tune's bars that were heard before in it; tunes: texts or samples."""
    return mean_of_known([repetition(as_tune(tune))["bar_repetition"] for tune in tunes])


def heard_of_model(player, n):
    """The same of n unprompted tunes at temperature 1."""
    return heard_before(
        judged(generate(player.model, player.tokenizer, unprompted(n, 0, MAX_CHARS)))
    )


def row_of(args, data, run):
    """A run, trained and measured: a row of COLUMNS."""
    record = train(args.out, run, data, pick_device("cpu"))
    player = load_player(args.out, run["name"], load_tokenizer(args.out / "data/tokenizer.pkl"))
    val = Digested(data.val, digest_tokens(data.val))
    row = {
        **record,
        "epochs": run["epochs"],
        **kept(args.out, f"repeats/{run['name']}", repeats, player, val, code=player.classes),
        "heard": kept(
            args.out, f"heard/{run['name']}", heard_of_model, player, N_TUNES, code=player.classes
        ),
    }
    return {column: row[column] for column in COLUMNS}


def over_seeds(rows):
    """[{"family", "size", "epochs", and the means of the numbers}] in the order of the rows."""
    groups = {}
    for row in rows:
        groups.setdefault((row["family"], row["size"], row["epochs"]), []).append(row)
    return [
        {
            **own[0],
            **{column: float(np.mean([row[column] for row in own])) for column in COLUMNS[6:]},
        }
        for own in groups.values()
    ]


def draw(means, real, out):
    """The figure: what is saved on a bar that comes back, and how often bars come back in the
    model's own tunes, by passes, size (marker) and family (panel)."""
    families, sizes = (list(dict.fromkeys(row[key] for row in means)) for key in ("family", "size"))
    figure, axes = pyplot().subplots(
        2,
        len(families),
        figsize=(4.2 * len(families), 5.6),
        sharex=True,
        sharey="row",
        squeeze=False,
    )
    for family, (upper, lower) in zip(families, axes.T):
        for size in sizes:
            own = [row for row in means if (row["family"], row["size"]) == (family, size)]
            style = {
                "marker": MARKERS[sizes.index(size)],
                "color": look(family).color,
                "alpha": (1 + sizes.index(size)) / len(sizes),
                "label": size,
            }
            for axis, column in ((upper, "saved"), (lower, "heard")):
                axis.plot([row["epochs"] for row in own], [row[column] for row in own], **style)
        lower.axhline(real, color="0.4", linestyle="--", linewidth=1)
        lower.annotate(
            "validation tunes", (1, real), xytext=(0, 3), textcoords="offset points", fontsize=7
        )
        upper.set(title=label(family), xscale="log")
        passes = sorted({row["epochs"] for row in means})
        lower.set_xticks(passes, passes)
        lower.minorticks_off()
        lower.set_xlabel("passes over the text")
        upper.legend(fontsize=7, title="size", title_fontsize=7)
    axes[0][0].set_ylabel("saved on a bar heard before\n(bits per character)")
    axes[1][0].set_ylabel("bars heard before\nin unprompted tunes (share)")
    save(figure, out, "repeats")


def main(argv=None):
    """Trains what is missing, prints the table and draws it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--root", type=Path, default=HERE / "study_run")
    add("--out", type=Path, help="default: ROOT/repeats")
    add("--sizes", type=list_of(one_of(all_sizes())), default="tiny,small,medium")
    add("--families", type=list_of(one_of(FAMILIES)), default="transformer,lstm")
    add("--epochs", type=list_of(whole(1)), default="1,2,4,8")
    add(
        "--chars",
        type=whole(1),
        default=300_000,
        metavar="N",
        help="characters of training text at most",
    )
    add("--seeds", type=list_of(whole()), default="2")
    parser.set_defaults(rate_factor=1.0)
    args = parser.parse_args(argv)
    needs_tokens(args.root, "bench_repeats")
    data = load_data(args.root)
    args.out = args.out or args.root / "repeats"
    write_bytes(args.out / "data/tokenizer.pkl", (args.root / "data/tokenizer.pkl").read_bytes())
    rows = [row_of(args, data, run) for seed in args.seeds for run in plans(args, data, seed)]
    write_text(args.out / "repeats.csv", csv_text(rows, COLUMNS))
    means = over_seeds(
        sorted(
            rows,
            key=lambda row: (
                list(FAMILIES).index(row["family"]),
                row["params_total"],
                row["epochs"],
            ),
        )
    )
    print(
        "| model | passes | validation, nats per character | first time, bits per character |"
        " second time | saved (its standard error over tunes) | bars heard before |\n"
        + "|---" * 7
        + "|"
    )
    for row in means:
        print(
            f"| {label(row['family'])} {row['size']} | {row['epochs']} |"
            f" {row['val_nats_per_char']:.3f} | {row['first']:.2f} | {row['second']:.2f} |"
            f" {row['saved']:.2f} ({row['saved_se']:.2f}) | {row['heard']:.2f} |"
        )
    real = heard_before(split_tunebook((args.root / "data/val.txt").read_text(encoding="utf-8")))
    draw(means, real, args.out)


if __name__ == "__main__":
    main()
