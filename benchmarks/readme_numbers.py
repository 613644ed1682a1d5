"""Writes the numbers of a finished run into the README and its scaling figure into docs/.

Reads:  ROOT/part4_outputs/RESULTS.json, figures/scaling.png, the manifests (seconds of every stage)
Writes: README.md between <!-- numbers --> and <!-- /numbers -->, docs/scaling.png
Run:    python -m benchmarks.readme_numbers --root quick
"""

import argparse
import math
import re
import sys
from pathlib import Path

from study import figures
from study.page import report
from study.stage import HERE, STAGES, load_manifest, read_json, write_bytes, write_text


def alpha(fit):
    """An exponent with its interval, in words where the sizes do not settle it."""
    low, high = (fit.get("alpha_interval") or [None, None])
    interval = f"{'-∞' if low is None else f'{low:.2f}'} to {'∞' if high is None else f'{high:.2f}'}"
    verdict = "identified" if fit.get("identified") else "not identified"
    return f"{fit['alpha']:.2f} ({interval}), {verdict}" if fit.get("alpha") is not None else f"none: {fit['reason']}"


def numbers(root):
    """The README's block: the answer, a table, the minutes of the stages."""
    results = read_json(root / "part4_outputs/RESULTS.json")
    if results is None:
        sys.exit(f"{root}/part4_outputs/RESULTS.json is missing\n  -> run: make run")
    runs, baselines, best = results["runs"], results["baselines"], results["best"]
    chars = results["data"]["splits"]["train"]["characters"]
    answer = report.answer(results)
    lines = [" ".join(filter(None, ("L(N) = a·N<sup>−α</sup> + c".join(answer["law"] or ()), answer["best"]))), "",
             f"(The short run, `make run`: {chars:,} characters, one epoch, one seed a size. It shows that everything "
             f"works; `RESULTS.json` compares the families at equal size, FLOPs and seconds.)", "",
             "![Validation loss against size for each family, with the fitted laws](docs/scaling.png)", "",
             "| | parameters | validation loss, nats per character | α of a·N^(-α) + c (95 %) |", "|---|---|---|---|"]
    for family in figures.in_order({row["family"] for row in runs}):
        rows = [row for row in runs if row["family"] == family]
        lines.append(f"| {figures.label(family)}s | {min(r['params_total'] for r in rows) / 1e6:.2f}M to "
                     f"{max(r['params_total'] for r in rows) / 1e6:.2f}M | "
                     + ", ".join(f"{r['val_nats_per_char']:.3f}" for r in rows)
                     + f" | {alpha(results['fits'][family])} |")
    val = baselines["val"]
    simple = {name: val[name]["bits_per_char"] * math.log(2) for name in ("unigram", "ngram", "xz", "bz2")}
    lines.append(f"| unigram, {val['ngram']['order']}-gram, xz, bz2 | | "
                 + ", ".join(f"{value:.3f}" for value in simple.values()) + " | |")
    lines.append(f"| best model: {best['size']}, {best['epochs']:g} epochs | {best['params_total'] / 1e6:.2f}M | "
                 f"{best['val_nats_per_char']:.3f}; test perplexity {best['test_perplexity']:.2f} per character "
                 f"({best['test_bits_per_char']:.2f} bits; n-gram "
                 f"{baselines['test']['ngram']['bits_per_char']:.2f}) | |")
    rate, chosen = results["samples"]["unprompted"], results["samples"]["chosen_sampler"]
    real = results["samples"]["real_music"]
    floor = max((row["rate"] for row in results["samples"]["ladder"]
                 if row["kind"] not in ("real", "model", "sampler")), default=0)
    lines += ["", f"Of {rate['n']} unprompted first tries at temperature 1, {rate['rate']:.0%} are valid (95 %: "
              f"{rate['interval'][0]:.1%} to {rate['interval'][1]:.1%}) and {rate['bar_accuracy']:.0%} of their "
              f"sounding bars have the right length; with the chosen sampler {chosen['rate']:.0%} and "
              f"{chosen['bar_accuracy']:.0%}; real held-out music {real['rate']:.0%}; n-grams, random and shuffled "
              f"text {floor:.0%}."]
    lines += ["", "Minutes of the stages: " + ", ".join(
        f"{name[:2]} {load_manifest(root, name)['seconds'] / 60:.1f}" for name in STAGES) + "."]
    if results["headline"]["warnings"]:
        lines += ["", *results["headline"]["warnings"]]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=HERE / "quick")
    root = parser.parse_args().root
    readme = HERE / "README.md"
    block = f"<!-- numbers -->\n{numbers(root)}\n<!-- /numbers -->"
    text = re.sub(r"<!-- numbers -->.*<!-- /numbers -->", lambda _: block, readme.read_text(encoding="utf-8"),
                  flags=re.DOTALL)
    write_text(readme, text)
    write_bytes(HERE / "docs/scaling.png", (root / "part4_outputs/figures/scaling.png").read_bytes())


if __name__ == "__main__":
    main()
