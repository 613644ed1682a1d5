"""Fits the joint law to the points of a published figure whose parameters are known, and compares.

Reads a CSV with the columns `Model Size`, `Training FLOP`, `loss`: the 245 points read off the
Chinchilla paper's figure that the replication of Besiroglu et al. 2024 (arXiv 2404.10102) published with its code. D =
C / (6 N), and the five highest losses are dropped, as there. Prints a markdown table: published
value and standard error, ours, the difference in published standard errors, ratio of the standard
errors.

Run: python -m benchmarks.bench_check_published POINTS.csv [--resamples 1000]
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np

from study.fit import shared_law
from study.fit.robust import HUBER_DELTA

PUBLISHED = {
    "E": (1.817, 0.026),
    "A": (482, 125),
    "B": (2085, 1293),
    "alpha": (0.348, 0.015),
    "beta": (0.366, 0.021),
}
N_DROPPED = 5


def main(argv=None):
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("points", type=Path, metavar="POINTS.csv")
    options.add_argument(
        "--resamples", type=int, default=1000, help="bootstrap resamples (default: 1000)"
    )
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args(argv)
    with open(args.points, newline="", encoding="utf-8") as file:
        rows = [
            [float(row[key]) for key in ("Model Size", "Training FLOP", "loss")]
            for row in csv.DictReader(file)
        ]
    n, flops, loss = np.array(sorted(rows, key=lambda row: row[2])[:-N_DROPPED]).T
    d = flops / (6 * n)
    points = shared_law.Points(["lm"], np.zeros(len(n), int), n, d, loss, np.zeros(len(n)))
    start = time.perf_counter()
    found = shared_law.fit(points, shared_law.Shape((), 0.0, sum=True, delta=HUBER_DELTA))
    fitted = time.perf_counter()
    rng, share = np.random.default_rng(args.seed), np.full(len(n), 1 / len(n))
    weights = rng.multinomial(len(n), share, size=args.resamples).astype(float)
    best = shared_law.values(found)
    draws = shared_law.values(found, shared_law.refitted(found, points, weights))
    done = time.perf_counter()
    print(
        "| | published | standard error | ours | off by (standard errors) | our standard error |"
        " ratio |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, (known, known_error) in PUBLISHED.items():
        value, error = best[name], draws[name].std()
        print(
            f"| {name} | {known} | {known_error} | {value:.5g} |"
            f" {abs(value - known) / known_error:.2f} | {error:.3g} | {error / known_error:.2f} |"
        )
    exponent = draws["beta"] / (draws["alpha"] + draws["beta"])
    low, high = np.percentile(exponent, [10, 90])
    print(
        f"\n{len(n)} points, fit {fitted - start:.2f} s, {args.resamples} resamples"
        f" {done - fitted:.1f} s; exponent of N_opt(C)"
        f" {best['beta'] / (best['alpha'] + best['beta']):.3f} (80 % {low:.3f} to {high:.3f})"
    )


if __name__ == "__main__":
    main()
