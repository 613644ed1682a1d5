"""Writes the numbers of a finished run into the README, and its pictures into docs/.

Reads:  ROOT/part4_outputs/RESULTS.json, figures/scaling.png, generated/, the stages' manifests (seconds, bytes)
Writes: docs/short_run.json (all that the README says of the run), docs/scaling.png, docs/sample.png, and README.md
        between <!-- NAME --> and <!-- /NAME --> for each of BLOCKS; a test holds README and docs/short_run.json together
Run:    python -m benchmarks.readme_numbers --root quick --test-minutes 5
"""

import argparse
import re
import sys
from pathlib import Path

from study import figures
from study.arguments import number
from study.results import headline_lines, marks_not_passed, without_ladder
from study.stage import HERE, load_manifest, read_json, write_bytes, write_json, write_text

PIPELINE = (  # reads, writes
    ("01_download", "an archive, a folder, a URL, or music21's corpus", "`data/raw_midi/<artist>/<title>.mid`"),
    ("02_midi_to_abc", "`data/raw_midi/`", "`data/abc_notation/`, `data/failed_midi.txt`"),
    ("03_tokenize_split", "`data/abc_notation/`", "`data/{train,val,test}.txt`, `tokenizer.pkl`, token arrays, "
                                                  "`stats.json`, `baselines.json`"),
    ("04_train_transformers", "token arrays",
     "`checkpoints/transformer_{tiny,small,medium,large,xl}.{pt,json,curve.jsonl}`"),
    ("05_train_lstms", "token arrays", "`checkpoints/lstm_{tiny,small,medium,large}.{pt,json,curve.jsonl}`"),
    ("06_fit_scaling", "run records", "`part4_outputs/{runs.csv,fits.json,figures/}`"),
    ("07_train_best_and_generate", "all of the above",
     "`best_model.pt`, `part4_outputs/{generated/,RESULTS.json,report.html}`"))
SHOWN_LINES = 6  # of a sample's text


def percent(rate):
    """A rate with its 95 % interval, in words."""
    low, high = rate["interval"]
    return f"{rate['rate']:.0%} ({low:.0%} to {high:.0%})"


def facts_of(root, test_minutes):
    """What the README says of a finished run, as JSON: its results, one sample, and the cost of every stage."""
    results = read_json(root / "part4_outputs/RESULTS.json")
    if results is None:
        sys.exit(f"{root}/part4_outputs/RESULTS.json is missing\n  -> run: make run")
    manifests = {name: load_manifest(root, name) for name, *_ in PIPELINE}
    return {"results": results, "sample": first_sample(root), "test_minutes": test_minutes,
            "seconds": {name: manifest["seconds"] for name, manifest in manifests.items()},
            "bytes": {name: sum(entry["bytes"] for entry in manifest["outputs"].values())
                      for name, manifest in manifests.items()}}


def stages(facts):
    """The table of stages with their time and disk."""
    lines = []
    for name, reads, writes in PIPELINE:
        size, seconds = facts["bytes"][name] / 1e6, facts["seconds"][name]
        spent = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
        lines.append(f"| `{name}.py` | {reads} | {writes} | {spent} | {size:,.0f} MB |")
    return "| stage | reads | writes | time of `make run` | disk |\n|---|---|---|---|---|\n" + "\n".join(lines)


def commands(facts):
    """Minutes of the two commands and the last lines that the first one prints."""
    minutes = sum(facts["seconds"].values()) / 60
    return (f"On two cores `make run` takes {minutes:.0f} minutes and `make test` {facts['test_minutes']:.0f}, after the "
            f"packages are installed. The first one ends with\n\n```\n"
            + "\n".join(headline_lines(facts["results"])) + "\n```")


def first_sample(root):
    """The best sample to show: unprompted and valid, the one with the most bars; its metadata row."""
    rows = read_json(root / "part4_outputs/generated/metadata.json")["samples"]
    row = max(rows, key=lambda row: (row["validity"]["level"] >= 4, not row["prompt"], row["metrics"]["n_bars"] or 0))
    return {key: row[key] for key in ("file", "text", "seed")}


def sample(facts):
    """The first lines of a sample and its score."""
    row = facts["sample"]
    text = "\n".join(row["text"].splitlines()[:SHOWN_LINES])
    return (f"```\n{text}\n```\n\n![The same tune, engraved](docs/sample.png)\n\n"
            f"A tune drawn from the best model of `make run` (`generated/{row['file']}`, seed {row['seed']}).")


def alpha(fit):
    """An exponent with its interval and verdict."""
    if fit.get("alpha") is None:
        return f"{fit.get('verdict') or 'none'}: no value"
    ends = ["unbounded" if end == "unbounded" or end is None else f"{end:.2f}" for end in fit["alpha_interval"]]
    return f"{fit['alpha']:.2f} ({ends[0]} to {ends[1]}), {fit['verdict']}"


def numbers(facts):
    """The answer: nine losses, marks, the best model, its music."""
    results = facts["results"]
    runs, baselines, best = without_ladder(results["runs"]), results["baselines"], results["best"]
    lines = [f"The short run, `make run`: {max(row['train_chars'] for row in runs):,} characters, one epoch, one seed a "
             "size. An exponent holds for this much of this text, no more.", "",
             "| law of one epoch, a·N^(−α) + c | sizes | α (95 %) | with what the analyst chose | the study's own sizes alone |",
             "|---|---|---|---|---|"]
    for family in figures.in_order({row["family"] for row in runs}):
        fit, quoted = results["fits"][family], (results["fits"].get("exponents") or {}).get(family)
        chosen = "{:.2f} to {:.2f}".format(*quoted["over_choices"]) if quoted else "not identified"
        lines.append(f"| {figures.label(family)}s | {fit['n_sizes']} ({fit['suite'].replace('classical', 'own')}) | "
                     f"{alpha(fit)} | {chosen} | {alpha(fit.get('classical') or fit)} |")
    lines += ["", "| one epoch | parameters | validation loss, nats per character |", "|---|---|---|"]
    for family in figures.in_order({row["family"] for row in runs}):
        rows = [row for row in runs if row["family"] == family]
        lines.append(f"| {figures.label(family)}s | {min(r['params_total'] for r in rows) / 1e6:.2f}M to "
                     f"{max(r['params_total'] for r in rows) / 1e6:.2f}M | "
                     + ", ".join(f"{r['val_nats_per_char']:.3f}" for r in rows) + " |")
    low, high = best["test_bits_per_char_interval"]
    marks = {row.get("label", name): row["bits_per_char"] for name, row in baselines["test"].items()
             if isinstance(row, dict) and row.get("bits_per_char")}
    lines += ["", "| bits per character of unseen music, given all the training text | test |", "|---|---|",
              f"| **best model: {best['size']}, {best['epochs']:g} epochs of {best['train_chars']:,} characters** | "
              f"**{best['test_bits_per_char']:.3f}** ({low:.3f} to {high:.3f}) |",
              *(f"| {name} | {bits:.3f} |" for name, bits in sorted(marks.items(), key=lambda item: item[1]))]
    samples = results["samples"]
    kinds = [("best model, temperature 1, first try", samples["unprompted"]),
             ("best model, chosen sampler, first try", samples["chosen_sampler"]),
             ("best model, bars drawn again until right", samples.get("right_bars")),
             ("real music, held out", samples["real_music"])]
    lines += ["", "| music | valid (95 %) | bars of the right length | n |", "|---|---|---|---|"]
    lines += [f"| {name} | {percent(rate)} | {rate['bar_accuracy']:.0%} | {rate['n']} |" for name, rate in kinds if rate]
    floor = max((row for row in samples["ladder"] if row["kind"] == "ngram"), key=lambda row: row["bar_accuracy"] or 0)
    lines.append(f"| {floor['name']} (copies {floor['copied_share'] or 0:.0%}) | {floor['rate']:.0%} | "
                 f"{floor['bar_accuracy']:.0%} | {floor['n']} |")
    missed = {}  # (mark, its value and measure) -> the models that do not pass it
    for row in marks_not_passed({**results, "runs": runs}):
        mark = f"{row['mark']}, {row['split']}: {row['mark_value']:.3f} {row['measure']}"
        missed.setdefault(mark, []).append(f"{row['model']} {row['model_value']:.3f}")
    if missed:
        lines += ["", "| marks not passed (the nine models saw a nested subset, the baselines all the text) | by |",
                  "|---|---|",
                  *(f"| {mark} | {', '.join(models)} |" for mark, models in missed.items())]
    return "\n".join(lines)


BLOCKS = {"sample": sample, "commands": commands, "numbers": numbers, "stages": stages}


def filled(text, facts):
    """The README's text with every block written anew."""
    for name, block in BLOCKS.items():
        content = f"<!-- {name} -->\n{block(facts)}\n<!-- /{name} -->"
        text, n = re.subn(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _: content, text, flags=re.DOTALL)
        assert n == 1, f"README.md has no block {name}"
    return text


def main():
    """Writes the README's blocks and the files in docs/ that they rest on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=HERE / "quick")
    parser.add_argument("--test-minutes", type=number(above=0), required=True, help="of `make test`, measured")
    args = parser.parse_args()
    facts, outputs = facts_of(args.root, args.test_minutes), args.root / "part4_outputs"
    write_json(HERE / "docs/short_run.json", facts)
    write_text(HERE / "README.md", filled((HERE / "README.md").read_text(encoding="utf-8"), facts))
    write_bytes(HERE / "docs/scaling.png", (outputs / "figures/scaling.png").read_bytes())
    score = (outputs / "generated" / facts["sample"]["file"]).with_suffix(".png")
    write_bytes(HERE / "docs/sample.png", score.read_bytes())


if __name__ == "__main__":
    main()
