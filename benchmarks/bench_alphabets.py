"""Measures what a token should be: characters, whole notes, or byte pairs inside a bar, by size,
family, text and seed.

Reads:  ROOT/data (stage 03 with its own alphabet, `char`)
Writes: OUT/<alphabet>/: data/tokenizer.pkl, checkpoints/ (a run that is finished there is not
    repeated: the same
        command goes on after an interruption, and other sizes, seeds or texts add to the table);
        with --validity part4_outputs/. OUT/step_seconds.json, OUT/alphabets.csv (a row a run),
        OUT/alphabets.png, .svg
Run:    OMP_NUM_THREADS=1 python -m benchmarks.bench_alphabets [--root quick] [--out
    quick/alphabets]
        [--sizes tiny,small] [--families transformer,lstm] [--seeds 2,3] [--vocab char,note,bpe:256,...] [--chars N]
        [--epochs 1,2,4] [--rate-factor F] [--validity N] [--device cpu] [--table]
Prints tables in Markdown over all that stands in OUT. Every alphabet is learnt from the whole of
train.txt and trains on the same tunes, at the rates swept for characters, with as many windows a
step as hold the text of those of `char`
(rounded, at least one). Differences to `char` are paired by seed, with t intervals. At equal seconds: read off the
alphabet's own runs of more and fewer epochs, each with a schedule of its own, linear in ln seconds;
only between two. Seconds are steps times the processor's seconds of one (one thread, the least of
some rounds in which all models take turns), so that neither the device that trained nor other work
on it counts.
"""

import argparse
import importlib
import sys
from pathlib import Path

from study.stages.arguments import list_of, number, whole
from study.stages.stage import HERE, read_json, write_bytes, write_json, write_text

import numpy as np
import torch
from scipy import stats

from benchmarks.bench_families import step_times
from common import BEGIN, END, load_tokenizer, pick_device
from music.right_bars import RightBars
from music.validity import rate_samples
from study.evaluate.evaluation import load_player
from study.evaluate.measurements import kept
from study.evaluate.sampling import generate, unprompted
from study.families import FAMILIES, in_order, label
from study.figures import look, pyplot, save
from study.fit.records import csv_text
from study.prepare.split_files import count_notes
from study.report.results import draws_per_bar, per_note
from study.train.loop import Data, load_data, sequence_bounds
from study.train.runs import plan_run, train

STAGE = importlib.import_module("03_tokenize_split")
COLUMNS = (
    "family",
    "size",
    "seed",
    "alphabet",
    "vocab_size",
    "params_total",
    "train_chars",
    "chars_per_token",
    "chars_per_step",
    "epochs",
    "steps",
    "train_flops",
    "seconds",
    "val_nats_per_char",
    "test_nats_per_char",
    "val_nats_per_note",
    "test_nats_per_note",
    "device",
)
SAMPLE_CHARS = 1500  # budget of a sample for --validity, as stage 07's
ROUNDS = 4  # in which steps are timed


# ---------------------------------------------------------------- arguments


def one_of(names):
    """A kind of argument: one of these names."""

    def kind(text):
        if text not in names:
            raise argparse.ArgumentTypeError(f"there is no {text!r}; there are {', '.join(names)}")
        return text

    return kind


def needs_tokens(root, benchmark):
    """Ends with one sentence where there is nothing to train on."""
    if not (root / "data/train_tokens.npy").exists():
        sys.exit(
            f"benchmarks.{benchmark}: there is no stage 03 output in {root}\n"
            "  -> run: python 03_tokenize_split.py --quick"
        )


def script_of(family):
    """The module that trains a family: its sizes and rates."""
    return importlib.import_module(FAMILIES[family].stage)


def all_sizes():
    """Names of the sizes that any family has."""
    return list(dict.fromkeys(size for family in FAMILIES for size in script_of(family).SIZES))


# ---------------------------------------------------------------- runs


def data_in(alphabet, root, out):
    """The splits of a root in another alphabet (`Data`), whose vocabulary is saved below `out` for
    sampling."""
    base, old = load_data(root), load_tokenizer(root / "data/tokenizer.pkl")
    tokenizer = STAGE.learn_tokenizer(alphabet, (root / "data/train.txt").read_bytes().decode())
    write_bytes(out / "data/tokenizer.pkl", tokenizer.dumps())

    def again(tokens):
        bounds = sequence_bounds(tokens)
        return np.concatenate(
            [
                part
                for start, stop in zip(bounds, bounds[1:])
                for part in ([BEGIN], tokenizer.encode(old.decode(tokens[start:stop])), [END])
            ]
        ).astype(tokenizer.dtype)

    return Data(
        again(base.train),
        again(base.val),
        again(base.test),
        tokenizer.digest,
        tokenizer.vocab_size,
        tokenizer.token_chars,
    )


def plans(args, data, seed):
    """The runs of one alphabet and seed."""
    for family in args.families:
        module = script_of(family)
        for size in (name for name in args.sizes if name in module.SIZES):
            for epochs in args.epochs:
                rate = module.LEARNING_RATES["muon"][size] * args.rate_factor
                yield plan_run(
                    data,
                    family,
                    size,
                    module.SIZES[size],
                    rate,
                    seed=seed,
                    epochs=epochs,
                    max_train_chars=args.chars,
                    name=f"{family}_{size}_seed{seed}_{epochs}x{args.chars or 'all'}",
                )


def seconds_a_step(out, records):
    """{`step_of` a run: processor seconds of a step}, of all runs; each is timed once."""
    path = out / "step_seconds.json"
    known, configs = read_json(path) or {}, {}
    for alphabet, record in records:
        configs[step_of(alphabet, record)] = record["config"], record["batch_windows"]
    new = {name: config for name, config in configs.items() if name not in known}
    if new:
        torch.set_num_threads(1)
        known |= {name: sum(seconds) for name, (*seconds, _) in step_times(new, ROUNDS).items()}
        write_json(path, known)
    return known


def step_of(alphabet, record):
    """What decides how long a step of a run takes, as text: alphabet, family, size, windows."""
    return f"{alphabet} {record['family']} {record['size']} {record['batch_windows']}"


def row_of(record, alphabet, notes, step_seconds):
    """A run as a row of alphabets.csv."""
    chars_per_token = record["train_chars"] / record["train_tokens"]
    row = {
        **record,
        **per_note(record, notes),
        "alphabet": alphabet,
        "vocab_size": record["config"]["vocab_size"],
        "epochs": record["epochs_planned"],
        "chars_per_token": chars_per_token,
        "seconds": round(record["steps"] * step_seconds, 1),
        "chars_per_step": round(record["tokens_per_step"] * chars_per_token),
    }
    return {column: row[column] for column in COLUMNS}


def rates(player, n):
    """Rates of n free samples at temperature 1, and of n with wrong bars drawn again, which took
    "draws" a bar."""
    samples = {
        bars: generate(
            player.model,
            player.tokenizer,
            unprompted(n, 0, SAMPLE_CHARS, bars=bars),
            right_bars=RightBars,
        )
        for bars in ("free", "right")
    }
    return {
        **{bars: rate_samples(own) for bars, own in samples.items()},
        "draws": draws_per_bar(samples["right"]),
    }


# ---------------------------------------------------------------- table


def mean_interval(values):
    """(mean, half of the 95 % t interval) of values over seeds; no interval for one."""
    n = len(values)
    return np.mean(values), (
        stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5 if n > 1 else None
    )


def in_words(values):
    """A mean difference with its interval."""
    if not values:
        return "–"
    mean, half = mean_interval(values)
    return f"{mean:+.3f}" + ("" if half is None else f" ± {half:.3f}")


def loss_after(rows, seconds):
    """Validation loss of runs of one alphabet and seed, of several epochs, after so many seconds;
    None outside them."""
    points = sorted((row["seconds"], row["val_nats_per_char"]) for row in rows)
    inside = points[0][0] <= seconds <= points[-1][0]
    return (
        float(
            np.interp(np.log(seconds), np.log([t for t, _ in points]), [loss for _, loss in points])
        )
        if inside and len(points) > 1
        else None
    )


def compare(rows):
    """[{"family", "size", "train_chars", "epochs", "alphabet", "rows", "equal_text",
    "equal_seconds": differences to char in nats per character, one for each seed that both have}],
    sizes from small to large."""
    groups = {}
    for row in rows:
        groups.setdefault(
            (row["family"], row["size"], row["train_chars"], row["epochs"]), {}
        ).setdefault(row["alphabet"], {})[row["seed"]] = row
    compared = []
    for (family, size, chars, epochs), group in groups.items():
        by_char = group.get("char", {})
        for alphabet, own in group.items():
            seeds, others = sorted(own.keys() & by_char.keys() if alphabet != "char" else ()), {}
            for seed in seeds:
                same = [
                    row
                    for row in rows
                    if (
                        row["family"],
                        row["size"],
                        row["train_chars"],
                        row["alphabet"],
                        row["seed"],
                    )
                    == (family, size, chars, alphabet, seed)
                ]
                others[seed] = loss_after(same, by_char[seed]["seconds"])
            compared.append(
                {
                    "family": family,
                    "size": size,
                    "train_chars": chars,
                    "epochs": epochs,
                    "alphabet": alphabet,
                    "rows": list(own.values()),
                    "equal_text": [
                        own[seed]["val_nats_per_char"] - by_char[seed]["val_nats_per_char"]
                        for seed in seeds
                    ],
                    "equal_seconds": [
                        others[seed] - by_char[seed]["val_nats_per_char"]
                        for seed in seeds
                        if others[seed] is not None
                    ],
                }
            )
    return sorted(
        compared,
        key=lambda part: (
            in_order(FAMILIES).index(part["family"]),
            part["train_chars"],
            part["epochs"],
            list(script_of(part["family"]).SIZES).index(part["size"]),
            STAGE.ALPHABETS.index(part["alphabet"]),
        ),
    )


def tables(compared, validity):
    """The lines of the tables: differences at equal text, at equal seconds, and validity. validity:
    {(alphabet, family, size, epochs): rates}."""
    alphabets = [
        name for name in STAGE.ALPHABETS if any(part["alphabet"] == name for part in compared)
    ]
    groups = {}
    for part in compared:
        groups.setdefault((part["family"], part["size"], part["train_chars"], part["epochs"]), {})[
            part["alphabet"]
        ] = part
    groups = {key: parts for key, parts in groups.items() if "char" in parts}
    others = [name for name in alphabets if name != "char"]

    def mean(part, column):
        return np.mean([row[column] for row in part["rows"]])

    for kind, title in (("equal_text", "equal text"), ("equal_seconds", "equal seconds")):
        yield (
            f"\n| {title}: model | text x passes | `char`: validation, test | seconds | "
            + " | ".join(f"`{name}` - `char`" for name in others)
            + " |\n"
            + "|---" * (4 + len(others))
            + "|"
        )
        for (family, size, chars, epochs), parts in groups.items():
            char = parts["char"]
            if any(part[kind] for part in parts.values()):
                yield (
                    f"| {label(family)} {size} | {chars:,} x {epochs} |"
                    f" {mean(char, 'val_nats_per_char'):.3f},"
                    f" {mean(char, 'test_nats_per_char'):.3f} | {mean(char, 'seconds'):.0f} | "
                    + " | ".join(
                        in_words(parts[name][kind] if name in parts else []) for name in others
                    )
                    + " |"
                )
    if validity:
        yield (
            "\n| valid: free, bars redrawn (draws a bar) | passes | "
            + " | ".join(f"`{name}`" for name in alphabets)
            + " |\n"
            + "|---" * (2 + len(alphabets))
            + "|"
        )
        for (family, size, _, epochs), parts in groups.items():
            rated = [validity.get((name, family, size, epochs)) for name in alphabets]
            if any(rated):
                yield (
                    f"| {label(family)} {size} | {epochs} | "
                    + " | ".join(
                        (
                            f"{100 * row['free']['rate']:.0f} %, {100 * row['right']['rate']:.0f} %"
                            f" ({row['draws']:.1f})"
                            if row
                            else "–"
                        )
                        for row in rated
                    )
                    + " |"
                )


def draw(compared, out):
    """The figure: the difference to `char` against the size of the model of characters, at equal
    text and at equal seconds, by family, alphabet (colour) and number of passes (line)."""
    families = in_order({part["family"] for part in compared})
    sizes = {
        (part["family"], part["size"]): part["rows"][0]["params_total"]
        for part in compared
        if part["alphabet"] == "char"
    }
    passes = sorted({part["epochs"] for part in compared})
    styles = dict(zip(passes, ("-", "--", ":", "-.")))
    figure, axes = pyplot().subplots(
        2, len(families), figsize=(4.5 * len(families), 6), sharey=True, sharex="col", squeeze=False
    )
    for row, (kind, words) in enumerate(
        (("equal_text", "equal text"), ("equal_seconds", "equal seconds"))
    ):
        for family, axis in zip(families, axes[row]):
            lines = {}
            for part in compared:
                if part["family"] == family and part[kind]:
                    lines.setdefault(
                        (part["alphabet"], part["train_chars"], part["epochs"]), []
                    ).append(part)
            for (alphabet, _, epochs), parts in lines.items():
                points = sorted(
                    (sizes[family, part["size"]], *mean_interval(part[kind])) for part in parts
                )
                color = f"C{STAGE.ALPHABETS.index(alphabet)}"
                axis.plot(
                    [n for n, *_ in points],
                    [mean for _, mean, _ in points],
                    marker="o",
                    markersize=4,
                    color=color,
                    linestyle=styles[epochs],
                )
                for n, mean, half in points:
                    if half:
                        axis.plot(
                            [n, n],
                            [mean - half, mean + half],
                            color=color,
                            linewidth=0.8,
                            alpha=0.6,
                        )
            axis.axhline(0, color=look(family).color, linewidth=1)
            axis.set(xscale="log")
            axis.tick_params(axis="x", which="minor", labelbottom=False)
            if not row:
                axis.set_title(label(family))
            else:
                axis.set_xlabel("parameters with characters")
        axes[row][0].set_ylabel(
            f"validation loss - that of characters\n(nats per character, {words})"
        )
    shown = {
        part["alphabet"]: f"C{STAGE.ALPHABETS.index(part['alphabet'])}"
        for part in compared
        if part["equal_text"]
    }
    for alphabet, color in shown.items():
        axes[0][0].plot([], [], color=color, label=alphabet)
    for n in passes:
        axes[0][0].plot([], [], color="0.4", linestyle=styles[n], label=f"{n} pass{'es' * (n > 1)}")
    axes[0][0].legend(fontsize=7, ncols=2)
    save(figure, out, "alphabets")


def main(argv=None):
    """Trains what is missing, prints the table over all that is there, and draws it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--root", type=Path, default=HERE / "quick")
    add("--out", type=Path, help="default: ROOT/alphabets")
    add("--vocab", type=list_of(one_of(STAGE.ALPHABETS)), default=list(STAGE.ALPHABETS))
    add("--families", type=list_of(one_of(FAMILIES)), default="transformer,lstm")
    add("--sizes", type=list_of(one_of(all_sizes())), default="tiny,small")
    add("--seeds", type=list_of(whole()), default="2,3")
    add("--epochs", type=list_of(whole(1)), default="1")
    add("--chars", type=whole(1), metavar="N", help="characters of training text at most")
    add(
        "--rate-factor",
        type=number(above=0),
        default=1.0,
        metavar="F",
        help="times the swept rates (with an --out of its own)",
    )
    add(
        "--validity",
        type=whole(1),
        metavar="N",
        help="samples a model: one of the most epochs, of the first seed",
    )
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="cpu")
    add("--table", action="store_true", help="train nothing: the tables over what stands in OUT")
    args = parser.parse_args(argv)
    needs_tokens(args.root, "bench_alphabets")
    out = args.out or args.root / "alphabets"
    if not args.table:
        train_all(args, out)
    notes = {
        split: count_notes((args.root / f"data/{split}.txt").read_text(encoding="utf-8"))
        for split in ("val", "test")
    }
    records = [
        (alphabet, read_json(path))
        for alphabet in STAGE.ALPHABETS
        for path in sorted((out / alphabet / "checkpoints").glob("*.json"))
    ]
    if not records:
        sys.exit(f"benchmarks.bench_alphabets: there is no run in {out}\n  -> leave out --table")
    step_seconds = seconds_a_step(out, records)
    rows = [
        row_of(record, alphabet, notes, step_seconds[step_of(alphabet, record)])
        for alphabet, record in records
    ]
    write_text(out / "alphabets.csv", csv_text(rows, COLUMNS))
    compared = compare(rows)
    print("\n".join(tables(compared, validity_of(args, out, records) if args.validity else {})))
    draw(compared, out)


def train_all(args, out):
    """Trains what is missing."""
    data = {name: data_in(name, args.root, out / name) for name in args.vocab}
    for seed in args.seeds:
        # alphabet by alphabet: machines drift
        for runs in zip(*(plans(args, own, seed) for own in data.values())):
            for (alphabet, own), run in zip(data.items(), runs):
                record = train(out / alphabet, run, own, pick_device(args.device))
                print(
                    f"{alphabet} {run['name']}: {record['val_nats_per_char']:.4f}",
                    file=sys.stderr,
                    flush=True,
                )


def validity_of(args, out, records):
    """{(alphabet, family, size, epochs): rates}: of every model the run of the most epochs and the
    first seed whose weights are there."""
    validity = {}
    for alphabet, record in sorted(
        records, key=lambda pair: (-pair[1]["epochs_planned"], pair[1]["seed"])
    ):
        key = alphabet, record["family"], record["size"]
        if (out / alphabet / f"checkpoints/{record['name']}.pt").exists() and key not in {
            known[:3] for known in validity
        }:
            player = load_player(
                out / alphabet,
                record["name"],
                load_tokenizer(out / alphabet / "data/tokenizer.pkl"),
            )
            validity[*key, record["epochs_planned"]] = kept(
                out / alphabet,
                f"rates/{record['name']}",
                rates,
                player,
                args.validity,
                code=player.classes,
            )
    return validity


if __name__ == "__main__":
    main()
