"""What RESULTS.json must hold: the contract of stage 07's last file.

python -m tests.results_contract quick/part4_outputs/RESULTS.json
"""

import json
import sys
from pathlib import Path

from study.families import FAMILIES
from study.report.keys import is_ngram, value_at

N_SAMPLES, N_RATED = 10, 100  # what a complete results file holds at least
MOST_BYTES = 60_000  # of RESULTS.json: long tables stand in files of their own
SPLITS = ("train", "val", "test")
BASELINES = ("uniform", "unigram", "xz")
REQUIRED = (
    "quick",
    "data.sources",
    "data.conversion",
    *(f"data.splits.{split}.characters" for split in SPLITS),
    "tokenizer.vocab_size",
    *(f"baselines.{split}.{name}.bits_per_char" for split in SPLITS[1:] for name in BASELINES),
    "best.val_nats_per_char",
    *(f"best.test_{key}" for key in ("bits_per_char", "bits_per_char_interval", "perplexity")),
    *(f"samples.unprompted.{key}" for key in ("rate", "interval", "bar_accuracy", "copied_share")),
    *(f"samples.{way}.rate" for way in ("chosen_sampler", "right_bars", "real_music")),
    *(f"samples.prompted.{kind}.rate" for kind in ("header", "bars")),
    "samples.sampler",
    "music.metrics",
    "environment.torch",
)
# alpha itself is null where the best fit lies on the bound of the search
REQUIRED_OF_FAMILY = ("fits.{}.verdict", "fits.{}.alpha_interval", "fits.{}.r_squared")


def check_results(content):
    """Returns sentences on what RESULTS.json lacks. A family without a law is no gap: `fits.refused`
    says why."""
    refused = value_at(content, "fits.refused") or {}
    paths = [*REQUIRED, *([] if refused else ["fits.comparison"])]
    for name, family in FAMILIES.items():
        if not family.optional and name not in refused:
            paths += [path.format(name) for path in REQUIRED_OF_FAMILY]
    missing = [f"{path} is missing" for path in paths if value_at(content, path) is None]
    for split in SPLITS[1:]:
        if not any(map(is_ngram, value_at(content, f"baselines.{split}") or {})):
            missing.append(f"baselines.{split} has no n-gram")
    if len(value_at(content, "samples.files") or ()) < N_SAMPLES:
        missing.append(f"samples.files has fewer than {N_SAMPLES} entries")
    for way in ("unprompted", "chosen_sampler"):
        if (value_at(content, f"samples.{way}.n") or 0) < N_RATED:
            missing.append(f"samples.{way}.n is below {N_RATED}")
    return missing


if __name__ == "__main__":
    missing = check_results(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    if missing:
        sys.exit("\n".join(missing))
    print("RESULTS.json holds all that it must")
