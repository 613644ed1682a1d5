"""Writes the numbers of the study that ships and of a finished short run into the README.

Reads:  docs/study/ (`make study`: RESULTS.json, the tables beside it, study_plan.json, generated/);
        of the short run ROOT/part4_outputs/RESULTS.json and the stages' manifests (seconds, bytes)
Writes: docs/short_run.json (all that the README says of the short run), docs/study/xl.json (with
        --xl: of a root where 07 trained `--best xl:10`), and README.md between <!-- NAME --> and
        <!-- /NAME --> for each of BLOCKS
Run:    python -m benchmarks.readme_numbers --root quick --test-minutes 5
        python -m benchmarks.readme_numbers --xl ROOT
        python -m benchmarks.readme_numbers     (the README alone, from docs/)
"""

import argparse
import csv
import math
import re
import sys
from pathlib import Path

from study.families import in_order, label
from study.report import headline
from study.report.content import level_rows
from study.report.keys import without_ladder
from study.report.tables import TABLES
from study.stages.arguments import number as number_above
from study.stages.code_key import HERE
from study.stages.files import read_json, write_json, write_text
from study.stages.manifest import load_manifest
from study.wording import measured, measured_share, number, percent, si

PIPELINE = (  # stage, reads, writes
    (
        "01_download",
        "an archive, a folder, a URL, or music21's corpus",
        "`data/raw_midi/<artist>/<title>.mid`",
    ),
    ("02_midi_to_abc", "`data/raw_midi/`", "`data/abc_notation/`, `data/failed_midi.txt`"),
    (
        "03_tokenize_split",
        "`data/abc_notation/`",
        (
            "`data/{train,val,test}.txt`, `tokenizer.pkl`, token arrays, `stats.json`,"
            " `baselines.json`"
        ),
    ),
    (
        "04_train_transformers",
        "token arrays",
        "`checkpoints/transformer_{tiny,small,medium,large,xl}.{pt,json,curve.jsonl}`",
    ),
    (
        "05_train_lstms",
        "token arrays",
        "`checkpoints/lstm_{tiny,small,medium,large}.{pt,json,curve.jsonl}`",
    ),
    ("06_fit_scaling", "run records", "`part4_outputs/{runs.csv,fits.json,figures/}`"),
    (
        "07_train_best_and_generate",
        "all of the above",
        "`best_model.pt`, `part4_outputs/{generated/,RESULTS.json,report.html}`",
    ),
)
STUDY = HERE / "docs/study"
SHOWN_LINES = 6  # of a sample's text
OF_A_MODEL = (  # rows of the headline that say something of the best model alone
    "bits per character of unseen music",
    "valid at the first try",
    "valid with right bars",
    "repeated bars",
    "copied from the training text",
    "bits per character saved on a repeated bar",
)


def read_tables(folder):
    """Returns {file name: rows} of the CSV files beside RESULTS.json, with numbers as numbers, and
    None for what was not measured."""
    paths = [Path(folder) / name for name in ("runs.csv", *TABLES)]
    found = {}
    for path in filter(Path.exists, paths):
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            found[path.name] = [
                {key: _value_of_cell(text) for key, text in row.items()} for row in rows
            ]
    return found


def _value_of_cell(text):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None


def results_of(root, mend):
    """Returns a finished run's RESULTS.json; ends the program where there is none."""
    results = read_json(root / "part4_outputs/RESULTS.json")
    if results is None:
        sys.exit(f"{root}/part4_outputs/RESULTS.json is missing\n  -> run: {mend}")
    return results


def short_run_of(root, test_minutes):
    """Returns what the README says of the short run: its last lines, and the cost of every stage."""
    results = results_of(root, "make run")
    runs = read_tables(root / "part4_outputs")["runs.csv"]
    manifests = {name: load_manifest(root, name) for name, *_ in PIPELINE}
    return {
        "headline": [f"{name}: {words}" for name, words in headline.rows(results)],
        "test_minutes": test_minutes,
        "chars": max(row["train_chars"] for row in without_ladder(runs)),
        "seconds": {name: manifest["seconds"] for name, manifest in manifests.items()},
        "bytes": {
            name: sum(entry["bytes"] for entry in manifest["outputs"].values())
            for name, manifest in manifests.items()
        },
    }


def xl_of(root):
    """Returns what the README says of a best model that was trained for many epochs."""
    results = results_of(root, f"python 07_train_best_and_generate.py --root {root} --best xl:10")
    history = read_json(root / "part4_outputs/checkpoints/training_history.json")
    best = results["best"]
    return {
        "name": headline.name_of_best(best),
        "parameters": best["params_total"],
        "train_chars": best["train_chars"],
        "seconds": best["seconds"],
        "train_nats_by_epoch": [row["train_nats_per_char"] for row in history["epochs"]],
        "val_nats_by_epoch": [row["val_nats_per_char"] for row in history["epochs"]],
        "val_nats_per_char": best["val_nats_per_char"],
        "test_nats_per_char": best["test_nats_per_char"],
        "headline": [list(row) for row in headline.rows(results) if row[0] in OF_A_MODEL],
        "heads": results["in_context_copying"]["heads"][best["name"]],
    }


def facts():
    """Returns what the README's blocks are made of: the study that ships, and the short run."""
    return {
        "results": read_json(STUDY / "RESULTS.json"),
        "runs": read_tables(STUDY)["runs.csv"],
        "plan": read_json(STUDY / "study_plan.json") or {},
        "samples": read_json(STUDY / "generated/metadata.json")["samples"],
        "short": read_json(HERE / "docs/short_run.json"),
        "xl": read_json(STUDY / "xl.json"),
    }


def table(head, rows):
    """Returns the lines of a markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


# ---------------------------------------------------------------- the blocks


def stages(facts):
    """Returns the table of stages with their time and disk."""
    rows = []
    for name, reads, writes in PIPELINE:
        size, seconds = facts["short"]["bytes"][name] / 1e6, facts["short"]["seconds"][name]
        spent = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
        rows.append([f"`{name}.py`", reads, writes, spent, f"{size:,.0f} MB"])
    head = ["stage", "reads", "writes", "time of `make run`", "disk"]
    return "\n".join(table(head, rows))


def minutes_of_short_run(facts):
    """Returns the minutes of `make run`, rounded up: starting the stages takes some seconds more."""
    return math.ceil(sum(facts["short"]["seconds"].values()) / 60)


def commands(facts):
    """Returns the minutes of the two commands and the last lines that the first one prints."""
    lines = "\n".join(facts["short"]["headline"])
    return (
        f"On two cores `make run` takes {minutes_of_short_run(facts)} minutes and `make test` "
        f"{facts['short']['test_minutes']:.0f}, after the packages are installed. The first one"
        f" ends with\n\n```\n{lines}\n```"
    )


def sample(facts):
    """Returns the first lines of a sample and its score: valid, unprompted, the most bars."""
    row = max(
        facts["samples"],
        key=lambda row: (
            row["validity"]["level"] >= 4,
            not row["prompt"],
            row["validity"]["n_bars"] or 0,
        ),
    )
    text = "\n".join(row["text"].splitlines()[:SHOWN_LINES])
    score = Path(row["file"]).with_suffix(".png")
    return (
        f"```\n{text}\n```\n\n![The same tune, engraved](docs/study/generated/{score})\n\n"
        f"A tune drawn from the study's best model (`docs/study/generated/{row['file']}`, seed"
        f" {row['seed']})."
    )


def answer(results):
    """Returns the headline as a table, with the other numbers of the law beside it."""
    rows = headline.rows(results)[1:] + headline.law_rows(results)
    return table(["the study's answer in numbers", ""], [list(row) for row in rows])


def winners(results):
    """Returns the families of the lowest loss by size and amount of text; [] without any."""
    found = headline.winners(results)
    if not found:
        return []
    amounts, rows = found
    cells = [[size, *(" ".join(cell).strip() for cell in row)] for size, row in rows]
    head = ["lowest loss: parameters", *(f"{amount} characters" for amount in amounts)]
    return table(head, cells)


def one_epoch(runs):
    """Returns the losses of the study's own sizes: the mean over their seeds."""
    rows = []
    for family in in_order({row["family"] for row in runs}):
        sizes = {}
        for row in runs:
            if row["family"] == family:
                sizes.setdefault(row["params_total"], []).append(row["val_nats_per_char"])
        losses = [f"{sum(own) / len(own):.3f}" for _, own in sorted(sizes.items())]
        seeds = [str(len(own)) for _, own in sorted(sizes.items())]
        of = f"{si(min(sizes))} to {si(max(sizes))}"
        rows.append([f"{label(family)}s", of, ", ".join(losses), ", ".join(seeds)])
    head = ["one epoch", "parameters", "validation loss, nats per character", "seeds"]
    return table(head, rows)


def knocked_out_words(heads):
    """Returns what a model still saves on a repeated bar without its best head, its best two, and
    two others."""
    best, pair, control = (
        f"{' and '.join(heads[kind]['heads'])} off: {heads[kind]['saved']:.2f}"
        for kind in ("best", "pair", "control")
    )
    return f"{best}; {pair}; two others, {control} bits"


def ten_epochs(xl):
    """Returns XL's ten epochs as a table: losses by epoch, and what its headline says."""
    by_epoch = xl["val_nats_by_epoch"]
    best = min(range(len(by_epoch)), key=by_epoch.__getitem__)
    rows = [
        ["parameters", si(xl["parameters"])],
        ["seconds of training", f"{xl['seconds']:,.0f}"],
        [
            "validation loss by epoch, on a part of the split, nats per character",
            ", ".join(f"**{n:.3f}**" if i == best else f"{n:.3f}" for i, n in enumerate(by_epoch)),
        ],
        ["training loss", ", ".join(f"{n:.3f}" for n in xl["train_nats_by_epoch"])],
        [
            f"the model is that of epoch {best + 1}: validation, test loss, whole splits",
            f"{xl['val_nats_per_char']:.3f}, {xl['test_nats_per_char']:.3f}",
        ],
        *xl["headline"],
        ["... with its copying heads switched off", knocked_out_words(xl["heads"])],
    ]
    return table([f"{xl['name']}, {xl['train_chars']:,} characters (today's text)", ""], rows)


def baselines(results):
    """Returns the best model beside what else was given the same training text."""
    best = results["best"]
    bits = measured(best["test_bits_per_char"], best["test_bits_per_char_interval"])
    name = headline.name_of_best(best)
    rows = [[f"**{name}, {best['train_chars']:,} characters**", f"**{bits}**"]]
    known = [
        (row["bits_per_char"], row.get("label", name))
        for name, row in results["baselines"]["test"].items()
        if isinstance(row, dict) and row.get("bits_per_char")
    ]
    rows += [[name, number(value, 3)] for value, name in sorted(known)]
    return table(["bits per character of unseen music, same training text", "test"], rows)


def validity(results):
    """Returns how much of the music is valid, beside real music and the best n-gram."""
    samples = level_rows(results)
    ngrams = [row for row in samples if row["kind"] == "ngram"]
    best = max(ngrams, key=lambda row: row["bar_accuracy"] or 0)
    kinds = ("model", "sampler", "right", "real")
    shown = [row for kind in kinds for row in samples if row["kind"] == kind] + [best]
    rows = [
        [
            row["name"],
            measured_share(row["rate"], row["interval"]),
            percent(row["bar_accuracy"]),
            percent(row["copied_share"]),
            str(row["n"]),
        ]
        for row in shown
    ]
    return table(["music", "valid", "bars of the right length", "copied", "n"], rows)


def not_beaten(results):
    """Returns the baselines that were not beaten; [] if all were."""
    rows = []
    for row in results["baselines_not_beaten"]["rows"]:
        name = f"{row['baseline']}, {row['split']}: {number(row['value'], 3)} {row['measure']}"
        models = [f"{model} {number(value, 3)}" for model, value in row["models"].items()]
        rows.append([name, ", ".join(models)])
    return table(["baseline not beaten", "by"], rows) if rows else []


def numbers(facts):
    """Returns the answer: headline, losses, baselines, music."""
    results, runs = facts["results"], facts["runs"]
    own, left_out = without_ladder(runs), facts["plan"].get("left_out")
    first = f"`make study`: {len(runs)} runs on up to {max(row['train_chars'] for row in own):,}"
    first += " characters, and the best model."
    if left_out:
        first += f" Left out: {', '.join(left_out)}."
    first += " All of it lies in [docs/study/](docs/study/RESULTS.json)."
    parts = [[first], [f"**{results['headline']['sentence']}**"], answer(results)]
    parts += [winners(results), [f"- {words}" for words in headline.predictions(results)]]
    parts += [
        one_epoch(own),
        ten_epochs(facts["xl"]),
        baselines(results),
        validity(results),
        not_beaten(results),
    ]
    last = f"`make run` repeats this small, on {facts['short']['chars']:,} characters in"
    last += f" {minutes_of_short_run(facts)} minutes: do not quote its exponents."
    return "\n\n".join("\n".join(part) for part in [*parts, [last]] if part)


BLOCKS = {"sample": sample, "commands": commands, "numbers": numbers, "stages": stages}


def filled(text, facts):
    """Returns the README's text with every block written anew; ValueError for a block that it lacks."""
    for name, block in BLOCKS.items():
        content = f"<!-- {name} -->\n{block(facts)}\n<!-- /{name} -->"
        pattern = re.compile(rf"<!-- {name} -->.*?<!-- /{name} -->", re.DOTALL)
        text, n = pattern.subn(lambda _: content, text)
        if n != 1:
            raise ValueError(f"README.md has no block {name}")
    return text


def main():
    """Writes the README's blocks and the files in docs/ that they rest on."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="a finished short run to take its numbers from")
    parser.add_argument("--xl", type=Path, help="a root where stage 07 trained --best xl:10")
    parser.add_argument("--test-minutes", type=number_above(above=0), help="of `make test`")
    args = parser.parse_args()
    if (args.root is None) != (args.test_minutes is None):
        parser.error("--root and --test-minutes go together")
    if args.root:
        short = short_run_of(args.root, args.test_minutes)
        write_json(HERE / "docs/short_run.json", short)
    if args.xl:
        write_json(STUDY / "xl.json", xl_of(args.xl))
    text = (HERE / "README.md").read_text(encoding="utf-8")
    write_text(HERE / "README.md", filled(text, facts()))


if __name__ == "__main__":
    main()
