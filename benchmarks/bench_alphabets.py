"""Measures what a token should be: characters, whole notes, or byte pairs inside a bar, by size, family, text and seed.

Reads:  ROOT/data (stage 03 with its own alphabet, `char`)
Writes: OUT/<alphabet>/: data/tokenizer.pkl, checkpoints/ (a run that is finished there is not repeated: the same
        command goes on after an interruption, and other sizes, seeds or texts add to the table); with --validity
        part4_outputs/. OUT/alphabets.csv (a row a run), OUT/alphabets.png, .svg
Run:    OMP_NUM_THREADS=1 python -m benchmarks.bench_alphabets [--root quick] [--out quick/alphabets]
        [--sizes tiny,small] [--families transformer,lstm] [--seeds 2,3] [--vocab char,note,bpe:256,...] [--chars N]
        [--epochs 1,2] [--rate-factor F] [--validity N] [--device cpu]
Prints a table in Markdown over all that stands in OUT. Every alphabet is learnt from the whole of train.txt and trains
on the same tunes, at the rates swept for characters, with as many windows a step as hold the text of those of `char`
(rounded, at least one). Differences to `char` are paired by seed, with t intervals. At equal seconds: read off the
alphabet's own runs of more and fewer epochs, each with a schedule of its own, linear in ln seconds; only between two.
"""

import argparse
import importlib
import sys
from pathlib import Path

import numpy as np
from scipy import stats

from common import BEGIN, END, load_tokenizer, pick_device
from music.right_bars import RightBars
from music.validity import rate_samples
from study.arguments import list_of, number, whole
from study.evaluation import load_player
from study.families import FAMILIES
from study.figures import in_order, label, look, pyplot, save
from study.measurements import kept
from study.records import csv_text
from study.results import per_note
from study.runs import plan_run, train
from study.sampling import generate, unprompted
from study.split_files import count_notes
from study.stage import HERE, read_json, write_bytes, write_text
from study.training import Data, load_data, sequence_bounds

STAGE = importlib.import_module("03_tokenize_split")
COLUMNS = ("family", "size", "seed", "alphabet", "vocab_size", "params_total", "train_chars", "chars_per_token",
           "chars_per_step", "epochs", "train_flops", "seconds", "val_nats_per_char", "test_nats_per_char",
           "val_nats_per_note", "test_nats_per_note")
SAMPLE_CHARS = 1500  # budget of a sample for --validity, as stage 07's


# ---------------------------------------------------------------- runs

def data_in(alphabet, root, out):
    """The splits of a root in another alphabet (`Data`), whose vocabulary is saved below `out` for sampling."""
    base, old = load_data(root), load_tokenizer(root / "data/tokenizer.pkl")
    tokenizer = STAGE.learn_tokenizer(alphabet, (root / "data/train.txt").read_bytes().decode())
    write_bytes(out / "data/tokenizer.pkl", tokenizer.dumps())

    def again(tokens):
        bounds = sequence_bounds(tokens)
        return np.concatenate([part for start, stop in zip(bounds, bounds[1:]) for part in (
            [BEGIN], tokenizer.encode(old.decode(tokens[start:stop])), [END])]).astype(tokenizer.dtype)
    return Data(again(base.train), again(base.val), again(base.test), tokenizer.digest, tokenizer.vocab_size,
                tokenizer.token_chars)


def script_of(family):
    """The module that trains a family: its sizes and rates."""
    return importlib.import_module(FAMILIES[family].stage)


def plans(args, data, seed):
    """The runs of one alphabet and seed."""
    for family in args.families:
        module = script_of(family)
        for size in args.sizes:
            for epochs in args.epochs:
                rate = module.LEARNING_RATES["muon"][size] * args.rate_factor
                yield plan_run(data, family, size, module.SIZES[size], rate, seed=seed, epochs=epochs,
                               max_train_chars=args.chars,
                               name=f"{family}_{size}_seed{seed}_{epochs}x{args.chars or 'all'}")


def row_of(record, alphabet, notes):
    """A run as a row of alphabets.csv."""
    chars_per_token = record["train_chars"] / record["train_tokens"]
    row = {**record, **per_note(record, notes), "alphabet": alphabet, "vocab_size": record["config"]["vocab_size"],
           "epochs": record["epochs_planned"], "chars_per_token": chars_per_token,
           "chars_per_step": round(record["tokens_per_step"] * chars_per_token)}
    return {column: row[column] for column in COLUMNS}


def rates(player, n):
    """Rates of n free samples at temperature 1, and of n with wrong bars drawn again."""
    return {bars: rate_samples(generate(player.model, player.tokenizer, unprompted(
        n, 0, SAMPLE_CHARS, bars=bars), right_bars=RightBars)) for bars in ("free", "right")}


# ---------------------------------------------------------------- table

def mean_interval(values):
    """(mean, half of the 95 % t interval) of values over seeds; no interval for one."""
    n = len(values)
    return np.mean(values), stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n ** 0.5 if n > 1 else None


def in_words(values):
    """A mean difference with its interval."""
    if not values:
        return "–"
    mean, half = mean_interval(values)
    return f"{mean:+.3f}" + ("" if half is None else f" ± {half:.3f}")


def loss_after(rows, seconds):
    """Validation loss of runs of one alphabet and seed, of several epochs, after so many seconds; None outside them."""
    points = sorted((row["seconds"], row["val_nats_per_char"]) for row in rows)
    inside = points[0][0] <= seconds <= points[-1][0]
    return float(np.interp(np.log(seconds), np.log([t for t, _ in points]), [loss for _, loss in points])) \
        if inside and len(points) > 1 else None


def compare(rows):
    """[{"family", "size", "train_chars", "epochs", "alphabet", "rows", "equal_text", "equal_seconds": differences to
    char in nats per character, one for each seed that both have}], sizes from small to large."""
    groups = {}
    for row in rows:
        groups.setdefault((row["family"], row["size"], row["train_chars"], row["epochs"]), {}).setdefault(
            row["alphabet"], {})[row["seed"]] = row
    compared = []
    for (family, size, chars, epochs), group in groups.items():
        by_char = group.get("char", {})
        for alphabet, own in group.items():
            seeds, others = sorted(own.keys() & by_char.keys() if alphabet != "char" else ()), {}
            for seed in seeds:
                same = [row for row in rows if (row["family"], row["size"], row["train_chars"], row["alphabet"],
                                                row["seed"]) == (family, size, chars, alphabet, seed)]
                others[seed] = loss_after(same, by_char[seed]["seconds"])
            compared.append({
                "family": family, "size": size, "train_chars": chars, "epochs": epochs, "alphabet": alphabet,
                "rows": list(own.values()),
                "equal_text": [own[seed]["val_nats_per_char"] - by_char[seed]["val_nats_per_char"] for seed in seeds],
                "equal_seconds": [others[seed] - by_char[seed]["val_nats_per_char"] for seed in seeds
                                  if others[seed] is not None]})
    return sorted(compared, key=lambda part: (
        in_order(FAMILIES).index(part["family"]), part["train_chars"], part["epochs"],
        list(script_of(part["family"]).SIZES).index(part["size"]), STAGE.ALPHABETS.index(part["alphabet"])))


def table(compared, validity):
    """The lines of the table. validity: {(alphabet, family, size): rates}."""
    yield ("| model | text x epochs | alphabet | tokens | parameters | characters a token, a step | validation, test: "
           "nats per character | test: nats per note | seconds | less `char`, equal text | equal seconds | "
           "valid: free, right |")
    yield "|---" * 12 + "|"
    for part in compared:
        def mean(column):
            return float(np.mean([row[column] for row in part["rows"]]))
        first, rated = part["rows"][0], validity.get((part["alphabet"], part["family"], part["size"]))
        valid = ", ".join(f"{100 * rated[bars]['rate']:.0f} %" for bars in ("free", "right")) if rated else "–"
        notes = f"{mean('test_nats_per_note'):.2f}" if first["test_nats_per_note"] else "–"
        yield (f"| {label(part['family'])} {part['size']} | {part['train_chars']:,} x {part['epochs']} | "
               f"{part['alphabet']} | {first['vocab_size']} | {first['params_total']:,} | "
               f"{first['chars_per_token']:.2f}, {first['chars_per_step']:,} | {mean('val_nats_per_char'):.3f}, "
               f"{mean('test_nats_per_char'):.3f} | {notes} | {mean('seconds'):.0f} | "
               f"{in_words(part['equal_text'])} | {in_words(part['equal_seconds'])} | {valid} |")


def draw(compared, out):
    """The figure: the difference to `char` against the size of the model of characters, by family and text."""
    families = in_order({part["family"] for part in compared})
    sizes = {(part["family"], part["size"]): part["rows"][0]["params_total"] for part in compared
             if part["alphabet"] == "char"}
    figure, axes = pyplot().subplots(1, len(families), figsize=(4.5 * len(families), 3.2), sharey=True, squeeze=False)
    for family, axis in zip(families, axes[0]):
        lines = {}
        for part in compared:
            if part["family"] == family and part["equal_text"]:
                lines.setdefault((part["alphabet"], part["train_chars"], part["epochs"]), []).append(part)
        texts = sorted({line[1:] for line in lines})
        for (alphabet, *text), parts in lines.items():
            points = sorted((sizes[family, part["size"]], *mean_interval(part["equal_text"])) for part in parts)
            axis.errorbar([n for n, *_ in points], [mean for _, mean, _ in points],
                          yerr=[half or 0 for *_, half in points], capsize=2, marker="o",
                          color=f"C{STAGE.ALPHABETS.index(alphabet)}", linestyle=("-", "--", ":")[
                              texts.index(tuple(text)) % 3],
                          label=f"{alphabet}, {text[0]:,} x {text[1]}")
        axis.axhline(0, color=look(family).color, linewidth=1)
        axis.set(xscale="log", xlabel="parameters with characters", title=label(family))
        axis.legend(fontsize=7)
    axes[0][0].set_ylabel("validation loss less that of characters\n(nats per character, equal text)")
    save(figure, out, "alphabets")


def main(argv=None):
    """Trains what is missing, prints the table over all that is there, and draws it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--root", type=Path, default=HERE / "quick")
    add("--out", type=Path, help="default: ROOT/alphabets")
    add("--vocab", type=list_of(str), default=list(STAGE.ALPHABETS))
    add("--families", type=list_of(str), default="transformer,lstm")
    add("--sizes", type=list_of(str), default="tiny,small")
    add("--seeds", type=list_of(whole()), default="2,3")
    add("--epochs", type=list_of(whole(1)), default="1")
    add("--chars", type=whole(1), metavar="N", help="characters of training text at most")
    add("--rate-factor", type=number(above=0), default=1.0, metavar="F", help="times the swept rates (with an --out of "
        "its own)")
    add("--validity", type=whole(1), metavar="N", help="samples a model, of the first seed and number of epochs")
    add("--device", default="cpu")
    args = parser.parse_args(argv)
    if not (args.root / "data/train_tokens.npy").exists():
        sys.exit(f"benchmarks.bench_alphabets: there is no stage 03 output in {args.root}\n"
                 "  -> run: python 03_tokenize_split.py --quick")
    out = args.out or args.root / "alphabets"
    data = {name: data_in(name, args.root, out / name) for name in args.vocab}
    for seed in args.seeds:
        for runs in zip(*(plans(args, own, seed) for own in data.values())):  # alphabet by alphabet: machines drift
            for (alphabet, own), run in zip(data.items(), runs):
                record = train(out / alphabet, run, own, pick_device(args.device))
                print(f"{alphabet} {run['name']}: {record['val_nats_per_char']:.4f}", file=sys.stderr, flush=True)
    notes = {split: count_notes((args.root / f"data/{split}.txt").read_text(encoding="utf-8"))
             for split in ("val", "test")}
    rows, validity = [], {}
    for alphabet in STAGE.ALPHABETS:
        for path in sorted((out / alphabet / "checkpoints").glob("*.json")):
            rows.append(row_of(read_json(path), alphabet, notes))
            key = alphabet, rows[-1]["family"], rows[-1]["size"]
            if args.validity and key not in validity:
                player = load_player(out / alphabet, path.stem, load_tokenizer(out / alphabet / "data/tokenizer.pkl"))
                validity[key] = kept(out / alphabet, f"rates/{path.stem}", rates, player, args.validity,
                                     code=player.classes)
    write_text(out / "alphabets.csv", csv_text(rows, COLUMNS))
    compared = compare(rows)
    print("\n".join(table(compared, validity)))
    draw(compared, out)


if __name__ == "__main__":
    main()
