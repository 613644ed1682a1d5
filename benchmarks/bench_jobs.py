"""Measures what training side by side gains: K processes of one thread each against one process of
K threads.

Reads:  ROOT/data (stage 03)
Writes: nothing
Run:    python -m benchmarks.bench_jobs [--root quick] [--sizes tiny,medium,d016,d064] [--rounds 5]
Prints a table in Markdown: tokens/s of either, all processes together, and their ratio; medians of
rounds taken by turns, so that a busy neighbour is felt by both. K is the number of cores.
"""

import argparse
import functools
import importlib
import multiprocessing
import statistics
import sys
from pathlib import Path

from study.stages.stage import HERE, cpu_count

import torch

from study.families import FAMILIES, model_class
from study.train.loop import load_data
from study.train.runs import QUICK_TRAIN_CHARS, plan_run
from study.train.suite import SUITES, calibrate, suite_sizes

SECONDS = 1.5  # of a measurement


@functools.cache
def plan(root, family, size):
    """(run of the short study, data)."""
    data, script = load_data(root), importlib.import_module(FAMILIES[family].stage)
    shapes = suite_sizes(SUITES, model_class(family), script.SIZES, data.vocab_size)
    return plan_run(data, family, size, shapes[size], 0.01, max_train_chars=QUICK_TRAIN_CHARS), data


def speed(root, family, size, threads):
    """Tokens per second of this process with so many threads."""
    torch.set_num_threads(threads)
    return calibrate(*plan(root, family, size), "cpu", SECONDS)


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=HERE / "quick")
    parser.add_argument("--sizes", default="tiny,medium,d016,d064")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if not (args.root / "data/train_tokens.npy").exists():
        sys.exit(
            f"benchmarks.bench_jobs: there is no stage 03 output in {args.root}\n"
            "  -> run: python 03_tokenize_split.py --quick"
        )
    k = cpu_count()
    print(
        f"| model | 1 process, {k} threads | {k} processes, 1 thread | ratio |\n|---|---|---|---|"
    )
    with multiprocessing.get_context("spawn").Pool(k) as pool:
        for family in FAMILIES.values():
            for size in args.sizes.split(","):
                one, many = [], []
                for _ in range(args.rounds):
                    one.append(pool.apply(speed, (args.root, family.name, size, k)))
                    many.append(
                        sum(
                            pool.starmap(
                                speed, [(args.root, family.name, size, 1)] * k, chunksize=1
                            )
                        )
                    )
                ratio = statistics.median(b / a for a, b in zip(one, many))
                print(
                    f"| {family.label} {size} | {statistics.median(one):,.0f} |"
                    f" {statistics.median(many):,.0f} | {ratio:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
