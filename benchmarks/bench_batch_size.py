"""Measures what the batch size does to the loss after one epoch: validation loss at 1, 2, 4 and 8
windows a step.

Reads:  ROOT/data (stage 03)
Writes: nothing
Run:    OMP_NUM_THREADS=1 python -m benchmarks.bench_batch_size [--root quick] [--sizes tiny,small]
    [--windows 1,2,4,8]
Prints a table in Markdown. The learning rate is the swept one times the root of windows / 2, the
rule for Adam and Muon alike (Malladi et al. 2022); seed 0.
"""

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

from study.stages.stage import HERE

from study.families import FAMILIES
from study.train.loop import BLOCK_SIZE, load_data
from study.train.runs import BATCH_WINDOWS, plan_run, train


def main():
    """Trains and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=HERE / "quick")
    parser.add_argument("--sizes", default="tiny,small")
    parser.add_argument("--windows", default="1,2,4,8")
    args = parser.parse_args()
    if not (args.root / "data/train_tokens.npy").exists():
        sys.exit(
            f"benchmarks.bench_batch_size: there is no stage 03 output in {args.root}\n"
            "  -> run: python 03_tokenize_split.py --quick"
        )
    data, windows = load_data(args.root), [int(n) for n in args.windows.split(",")]
    print("| model | " + " | ".join(f"{n} x {BLOCK_SIZE}" for n in windows) + " |")
    print("|---" * (len(windows) + 1) + "|")
    for family in FAMILIES.values():
        module = importlib.import_module(family.stage)
        for size in args.sizes.split(","):
            losses = []
            for n in windows:
                rate = module.LEARNING_RATES["muon"][size] * (n / BATCH_WINDOWS) ** 0.5
                run = plan_run(
                    data, family.name, size, module.SIZES[size], rate, seed=0, batch_windows=n
                )
                with tempfile.TemporaryDirectory() as folder:
                    losses.append(train(Path(folder), run, data, "cpu")["val_nats_per_char"])
            print(
                f"| {family.label} {size} | " + " | ".join(f"{loss:.3f}" for loss in losses) + " |",
                flush=True,
            )


if __name__ == "__main__":
    main()
