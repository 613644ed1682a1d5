"""When does a model learn to repeat? What it saves on a bar that it has read before, by size, text and family.

Reads:  ROOT/data (stage 03), ROOT/checkpoints (04 and 05: the ladder, best with several --data-fractions)
Writes: docs/repeats.csv (a row a run), docs/repeats.png, .svg; ROOT/repeats/ (measurements, kept)
Run:    OMP_NUM_THREADS=1 python -m benchmarks.bench_repeats [--root study_run]
Prints tables in Markdown: bits per character of the bars that come back at their first and their second occurrence
(`study/repeats.py`), and the joint law of size and text for the whole loss and for bars that were not heard before.

With --epochs 1,2,4,8 [--size small] [--families transformer,lstm] [--chars 300000] it trains one size so many times over
one text, each a run with a schedule of its own, and prints the same by passes over the text, with the share of bars heard
before in 100 unprompted tunes at temperature 1.
"""

import argparse
import importlib
import math
from pathlib import Path

import numpy as np

from common import load_tokenizer, pick_device
from music.metrics import as_tune, repetition
from music.samples import mean_of_known
from study.arguments import list_of, whole
from study.evaluation import judged, load_player
from study.families import FAMILIES
from study.figures import in_order, label, pyplot, save, si
from study.measurements import Digested, kept
from study.records import csv_text, is_ladder, read_records, rows_of_records
from study.repeats import repeats
from study.runs import plan_run, train
from study.sampling import generate, unprompted
from study.scaling_fits import Settings
from study.scaling_plane import fit_plane
from study.stage import HERE, write_bytes, write_text
from study.training import digest_tokens, load_data

COLUMNS = ("name", "family", "size", "seed", "params_non_embedding", "n_chars_seen", "val_nats_per_char", "first", "second",
           "once", "new", "saved", "saved_se")  # of bars: bits per character
N_TUNES, MAX_CHARS = 100, 1000


def measure(args, family, epochs, data):
    """One run: {"family", "epochs", "loss", "first", "second", "heard"}."""
    module = importlib.import_module(FAMILIES[family].stage)
    run = plan_run(data, family, args.size, module.SIZES[args.size], module.LEARNING_RATES["muon"][args.size],
                   seed=args.seed, epochs=epochs, max_train_chars=args.chars,
                   name=f"{family}_{args.size}_{epochs}x{args.chars}")
    record = train(args.out, run, data, pick_device("cpu"))
    player = load_player(args.out, run["name"], load_tokenizer(args.out / "data/tokenizer.pkl"))
    samples = judged(generate(player.model, player.tokenizer, unprompted(N_TUNES, 0, MAX_CHARS)))
    heard = mean_of_known([repetition(as_tune(sample))["bar_repetition"] for sample in samples])
    return {"family": family, "epochs": epochs, "loss": record["val_nats_per_char"], "heard": heard,
            **repeats(player, Digested(data.val, digest_tokens(data.val)))}


def measure_plane(root, data):
    """Rows of all runs of the ladder in a root, with what they save on bars that come back."""
    val, tokenizer = Digested(data.val, digest_tokens(data.val)), load_tokenizer(root / "data/tokenizer.pkl")
    rows = [row for row in rows_of_records(read_records(root)) if is_ladder(row)]
    for row in rows:
        player = load_player(root, row["name"], tokenizer)
        row.update(kept(root / "repeats", row["name"], repeats, player, val, code=player.classes))
    return rows


def laws(rows):
    """Lines on the joint law of each family, for the whole loss and for the bars that were not heard before."""
    settings = Settings(1000, 0, 80, (0, 1), (0, 1))
    yield ("| family | loss of | runs | form | order | alpha | beta | E | residual, log loss | seeds apart, times | "
           "largest run, predicted from smaller ones |")
    yield "|---" * 11 + "|"
    for family in in_order({row["family"] for row in rows}):
        own = [row for row in rows if row["family"] == family]
        for what in ("all characters", "new bars"):
            loss = own if what == "all characters" else [
                {**row, "val_nats_per_char": row["new"] * math.log(2), "test_nats_per_char": None} for row in own]
            entry, _ = fit_plane(loss, settings, np.random.default_rng(0))
            cells = ["{:.2f} ({:.2f} to {:.2f})".format(entry[name]["value"], *entry[name]["interval"])
                     if entry[name]["value"] is not None else "no value" for name in ("order", "alpha", "beta", "E")]
            misfit, corner = entry["lack_of_fit"], entry["corner"]
            yield (f"| {label(family)} | {what} | {entry['n_runs']} | {entry['form']} | {' | '.join(cells)} | "
                   f"{entry['noise_sd_log_loss']:.4f} | " + (f"{misfit['ratio']:.1f} (p = {misfit['p']:.1g})" if misfit
                                                             else "one seed")
                   + (f" | {corner['relative_error']:+.1%} |" if corner else " | – |"))


def draw_plane(rows):
    """What is saved on a bar heard before, against size, a line for each amount of text and a panel for each family."""
    families = in_order({row["family"] for row in rows})
    figure, axes = pyplot().subplots(1, len(families), figsize=(4.4 * len(families), 3.4), sharey=True, squeeze=False)
    amounts = sorted({row["n_chars_seen"] for row in rows})
    for family, axis in zip(families, axes[0]):
        for i, amount in enumerate(amounts):
            own = sorted((row["params_non_embedding"], row["saved"]) for row in rows
                         if row["family"] == family and row["n_chars_seen"] == amount)
            axis.plot(*zip(*own), marker="o", markersize=4, label=si(amount),
                      color=pyplot().get_cmap("viridis")(0.9 * i / max(len(amounts) - 1, 1)))
        n_runs = sum(row["family"] == family for row in rows)
        axis.set(xscale="log", xlabel="parameters but embeddings", title=f"{label(family)} ({n_runs} runs)")
    axes[0][0].set_ylabel("saved on a bar heard before\n(bits per character)")
    axes[0][-1].legend(title="characters", fontsize=8)
    save(figure, HERE / "docs", "repeats")


def main(argv=None):
    """Trains what is missing, prints the table and draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--root", type=Path, default=HERE / "study_run")
    add("--out", type=Path, help="of --epochs (default: ROOT/repeats)")
    add("--size", default="small")
    add("--families", type=list_of(str), default="transformer,lstm")
    add("--epochs", type=list_of(whole(1)), metavar="N[,N]", help="train one size so many times over the text")
    add("--chars", type=whole(1), default=300_000, metavar="N", help="characters of training text at most")
    add("--seed", type=whole(), default=2)
    args = parser.parse_args(argv)
    data = load_data(args.root)
    if not args.epochs:
        rows = measure_plane(args.root, data)
        print("\n".join(laws(rows)))
        write_text(HERE / "docs/repeats.csv", csv_text(rows, COLUMNS))
        return draw_plane(rows)
    args.out = args.out or args.root / "repeats"
    write_bytes(args.out / "data/tokenizer.pkl", (args.root / "data/tokenizer.pkl").read_bytes())
    print("| model | passes | validation, nats per character | first time, bits per character | second time | bars "
          "heard before |\n|---|---|---|---|---|---|")
    for family in args.families:
        for epochs in args.epochs:
            row = measure(args, family, epochs, data)
            print(f"| {label(row['family'])} {args.size} | {row['epochs']} | {row['loss']:.3f} | {row['first']:.2f} | "
                  f"{row['second']:.2f} | {row['heard']:.2f} |", flush=True)
    return None


if __name__ == "__main__":
    main()
