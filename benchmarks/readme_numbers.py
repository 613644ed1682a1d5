"""Writes the numbers of the study that ships and of a finished short run into the README.

Reads:  docs/study/ (`make study`: RESULTS.json, study_plan.json, generated/); of the short run
    ROOT/part4_outputs/
        RESULTS.json and the stages' manifests (seconds, bytes)
Writes: docs/short_run.json (all that the README says of the short run), and README.md between <!--
    NAME --> and
        <!-- /NAME --> for each of BLOCKS; a test holds README, docs/study/ and docs/short_run.json
        together
Run:    python -m benchmarks.readme_numbers --root quick --test-minutes 5
"""

import argparse
import re
import sys
from pathlib import Path

from study.stages.arguments import number
from study.stages.stage import HERE, load_manifest, read_json, write_json, write_text

from study.families import in_order, label
from study.fit.joint_fit import BEND_LEVEL
from study.report.results import headline_lines, marks_not_passed, without_ladder

PIPELINE = (  # reads, writes
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
            "`data/{train,val,test}.txt`, `tokenizer.pkl`, token arrays, "
            "`stats.json`, `baselines.json`"
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


def percent(rate):
    """A rate with its 95 % interval, in words."""
    low, high = rate["interval"]
    return f"{rate['rate']:.0%} ({low:.0%} to {high:.0%})"


def short_run_of(root, test_minutes):
    """What the README says of a finished short run, as JSON: its last lines, and the cost of every
    stage."""
    results = read_json(root / "part4_outputs/RESULTS.json")
    if results is None:
        sys.exit(f"{root}/part4_outputs/RESULTS.json is missing\n  -> run: make run")
    manifests = {name: load_manifest(root, name) for name, *_ in PIPELINE}
    return {
        "headline": headline_lines(results),
        "test_minutes": test_minutes,
        "chars": max(row["train_chars"] for row in without_ladder(results["runs"])),
        "seconds": {name: manifest["seconds"] for name, manifest in manifests.items()},
        "bytes": {
            name: sum(entry["bytes"] for entry in manifest["outputs"].values())
            for name, manifest in manifests.items()
        },
    }


def facts():
    """What the README's blocks are made of: the study that ships, and the short run."""
    return {
        "results": read_json(STUDY / "RESULTS.json"),
        "plan": read_json(STUDY / "study_plan.json"),
        "promises": read_json(STUDY / "predicted_corner.json"),
        "samples": read_json(STUDY / "generated/metadata.json")["samples"],
        "short": read_json(HERE / "docs/short_run.json"),
    }


def stages(facts):
    """The table of stages with their time and disk."""
    lines = []
    for name, reads, writes in PIPELINE:
        size, seconds = facts["short"]["bytes"][name] / 1e6, facts["short"]["seconds"][name]
        spent = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
        lines.append(f"| `{name}.py` | {reads} | {writes} | {spent} | {size:,.0f} MB |")
    return (
        "| stage | reads | writes | time of `make run` | disk |\n|---|---|---|---|---|\n"
        + "\n".join(lines)
    )


def minutes_of_short_run(facts):
    """Minutes of `make run`."""
    return sum(facts["short"]["seconds"].values()) / 60


def commands(facts):
    """Minutes of the two commands and the last lines that the first one prints."""
    return (
        f"On two cores `make run` takes {minutes_of_short_run(facts):.0f} minutes and `make test`"
        f" {facts['short']['test_minutes']:.0f}, after the packages are installed. The first one"
        " ends with\n\n```\n"
        + "\n".join(facts["short"]["headline"])
        + "\n```"
    )


def sample(facts):
    """The first lines of a sample and its score: unprompted and valid, the one with the most
    bars."""
    row = max(
        facts["samples"],
        key=lambda row: (
            row["validity"]["level"] >= 4,
            not row["prompt"],
            row["metrics"]["n_bars"] or 0,
        ),
    )
    text, score = "\n".join(row["text"].splitlines()[:SHOWN_LINES]), Path(row["file"]).with_suffix(
        ".png"
    )
    return (
        f"```\n{text}\n```\n\n![The same tune, engraved](docs/study/generated/{score})\n\nA tune"
        f" drawn from the study's best model (`docs/study/generated/{row['file']}`, seed"
        f" {row['seed']})."
    )


def ends(interval, digits=2):
    """An interval in words."""
    return " to ".join(
        "unbounded" if end in (None, "unbounded") else f"{end:.{digits}f}" for end in interval
    )


def laws(facts):
    """The joint laws of every family, of all characters and of bars that were not heard before; the
    exponents' difference, and the run that was predicted."""
    fits, back = facts["results"]["fits"], facts["results"]["looking_back"]["laws"] or {}
    yield "| law of | runs | α | β | k | E | scatter, log loss | one law holds |"
    yield "|---" * 8 + "|"
    for family, law in (fits["joint"] or {}).items():
        yield law_row(f"{label(family)}s, all characters", law)
        if family in back:
            yield law_row(f"{label(family)}s, bars not heard before", back[family]["new_bars"])
    for family, law in (fits["joint"] or {}).items():
        if corner := law.get("promise"):
            yield ""
            yield (
                f"{label(family)} of {corner['n'] / 1e6:.2f}M on all the text, promised from"
                f" {corner['n_runs']} smaller runs before it was trained:"
                f" {corner['prediction']:.3f} nats ({ends(corner['interval'], 3)}); measured"
                f" {corner['measured']:.3f} ({abs(corner['relative_error']):.1%} off)."
            )
    for row in fits["alpha_differences"] or []:
        yield ""
        yield (
            f"α of {label(row['first'])}s less that of {label(row['second'])}s:"
            f" {row['difference']:+.2f} (95 % {ends(row['interval'])}; over choices"
            f" {ends(row['over_choices'])})."
        )


def law_row(name, law):
    """A joint law in one row."""
    cells = [
        (
            "no value"
            if law[key]["value"] is None
            else f"{law[key]['value']:.2f} ({ends(law[key]['interval'])}"
            + (
                f"; over choices {ends(law[key]['over_choices']['interval'])})"
                if key != "order" and law[key].get("over_choices") and law.get("choices")
                else ")"
            )
        )
        for key in ("alpha", "beta", "order")
    ]
    if law["form"] == "sum":
        cells[2] = "1"
    floor = (
        "no value"
        if law["E"]["value"] is None
        else (
            "0"
            if law["form"] == "norm"
            else f"{law['E']['value']:.2f} ({ends(law['E']['interval'])})"
        )
    )
    misfit = law["lack_of_fit"]
    holds = (
        "not known"
        if misfit is None
        else (
            f"{'yes' if misfit['p'] >= BEND_LEVEL else '**no**'}: {misfit['ratio']:.1f} times "
            f"the scatter of seeds (p = {misfit['p']:.1g})"
        )
    )
    return (
        f"| {name} | {law['n_runs']} | {' | '.join(cells)} | {floor} |"
        f" {law['noise_sd_log_loss']:.3f} | {holds} |"
    )


def one_epoch(runs):
    """The losses of the study's own sizes: the mean over their seeds."""
    yield (
        "| one epoch, mean over seeds | parameters | validation loss, nats per character | seeds |"
    )
    yield "|---|---|---|---|"
    for family in in_order({row["family"] for row in runs}):
        sizes = {}
        for row in runs:
            if row["family"] == family:
                sizes.setdefault(row["params_total"], []).append(row["val_nats_per_char"])
        yield (
            f"| {label(family)}s | {min(sizes) / 1e6:.2f}M to {max(sizes) / 1e6:.2f}M | "
            + ", ".join(f"{sum(losses) / len(losses):.3f}" for _, losses in sorted(sizes.items()))
            + " | "
            + ", ".join(str(len(losses)) for _, losses in sorted(sizes.items()))
            + " |"
        )


def numbers(facts):
    """The answer: laws, losses, marks, the best model, its music."""
    results, plan = facts["results"], facts["plan"]
    runs, baselines, best = without_ladder(results["runs"]), results["baselines"], results["best"]
    left_out = ", ".join(plan["left_out"])
    lines = [
        f"`make study`: {len(results['runs'])} runs of one epoch on up to "
        f"{max(row['train_chars'] for row in runs):,} characters, and the best model. "
        + (
            f"It was given {plan['asked']['hours']:g} hours; left out for them: {left_out}. "
            if left_out
            else ""
        )
        + "All of it lies in [docs/study/](docs/study/RESULTS.json).",
        "",
        *laws(facts),
        "",
        *one_epoch(runs),
    ]
    low, high = best["test_bits_per_char_interval"]
    marks = {
        row.get("label", name): row["bits_per_char"]
        for name, row in baselines["test"].items()
        if isinstance(row, dict) and row.get("bits_per_char")
    }
    lines += [
        "",
        "| bits per character of unseen music, given the same training text | test |",
        "|---|---|",
        (
            f"| **best model: {best['size']}, {best['epochs']:g} epochs of {best['train_chars']:,}"
            f" characters** | **{best['test_bits_per_char']:.3f}** ({low:.3f} to {high:.3f}) |"
        ),
        *(
            f"| {name} | {bits:.3f} |"
            for name, bits in sorted(marks.items(), key=lambda item: item[1])
        ),
    ]
    samples = results["samples"]
    kinds = [
        ("best model, temperature 1, first try", samples["unprompted"]),
        ("best model, chosen sampler, first try", samples["chosen_sampler"]),
        ("best model, bars drawn again until right", samples.get("right_bars")),
        ("real music, held out", samples["real_music"]),
    ]
    lines += ["", "| music | valid (95 %) | bars of the right length | n |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {percent(rate)} | {rate['bar_accuracy']:.0%} | {rate['n']} |"
        for name, rate in kinds
        if rate
    ]
    floor = max(
        (row for row in samples["ladder"] if row["kind"] == "ngram"),
        key=lambda row: row["bar_accuracy"] or 0,
    )
    lines.append(
        f"| {floor['name']} (copies {floor['copied_share'] or 0:.0%}) | {floor['rate']:.0%} | "
        f"{floor['bar_accuracy']:.0%} | {floor['n']} |"
    )
    missed = {}  # (mark, its value and measure) -> the models that do not pass it
    for row in marks_not_passed({**results, "runs": runs}):
        mark = f"{row['mark']}, {row['split']}: {row['mark_value']:.3f} {row['measure']}"
        missed.setdefault(mark, []).append(f"{row['model']} {row['model_value']:.3f}")
    if missed:
        lines += [
            "",
            "| marks not passed | by |",
            "|---|---|",
            *(f"| {mark} | {', '.join(models)} |" for mark, models in missed.items()),
        ]
    lines += [
        "",
        (
            f"`make run` repeats this small, on {facts['short']['chars']:,} characters in"
            f" {minutes_of_short_run(facts):.0f} minutes; its exponents hold for that little text:"
            " do not quote them."
        ),
    ]
    return "\n".join(lines)


BLOCKS = {"sample": sample, "commands": commands, "numbers": numbers, "stages": stages}


def filled(text, facts):
    """The README's text with every block written anew."""
    for name, block in BLOCKS.items():
        content = f"<!-- {name} -->\n{block(facts)}\n<!-- /{name} -->"
        text, n = re.subn(
            rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _: content, text, flags=re.DOTALL
        )
        assert n == 1, f"README.md has no block {name}"
    return text


def main():
    """Writes the README's blocks and the files in docs/ that they rest on."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=HERE / "quick")
    parser.add_argument(
        "--test-minutes", type=number(above=0), required=True, help="of `make test`, measured"
    )
    args = parser.parse_args()
    write_json(HERE / "docs/short_run.json", short_run_of(args.root, args.test_minutes))
    write_text(
        HERE / "README.md", filled((HERE / "README.md").read_text(encoding="utf-8"), facts())
    )


if __name__ == "__main__":
    main()
