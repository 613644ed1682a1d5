"""Measures what the batch size does to the loss after one epoch: validation loss at 1, 2, 4 and 8 windows a step.

Reads:  ROOT/data (stage 03)
Writes: nothing
Run:    OMP_NUM_THREADS=1 python benchmarks/batch_size.py [--root quick] [--sizes tiny,small] [--windows 1,2,4,8]
Prints a table in Markdown. The learning rate is the swept one times the root of windows / 2, the rule for Adam and Muon
alike (Malladi et al. 2022); seed 0.
"""

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE))
from study import training  # noqa: E402

STAGES = {"transformer": "04_train_transformers", "lstm": "05_train_lstms"}


def main():
    """Trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=HERE / "quick")
    parser.add_argument("--sizes", default="tiny,small")
    parser.add_argument("--windows", default="1,2,4,8")
    args = parser.parse_args()
    if not (args.root / "data/train_tokens.npy").exists():
        sys.exit(f"batch_size.py: there is no stage 03 output in {args.root}\n  -> python 03_tokenize_split.py --quick")
    data, windows = training.load_data(args.root), [int(n) for n in args.windows.split(",")]
    print("| model | " + " | ".join(f"{n} x {training.BLOCK_SIZE}" for n in windows) + " |")
    print("|---" * (len(windows) + 1) + "|")
    for family, stage in STAGES.items():
        module = importlib.import_module(stage)
        for size in args.sizes.split(","):
            losses = []
            for n in windows:
                rate = module.LEARNING_RATES["muon"][size] * (n / training.BATCH_WINDOWS) ** 0.5
                run = training.plan_run(data, family, size, module.SIZES[size], rate, batch_windows=n)
                with tempfile.TemporaryDirectory() as folder:
                    losses.append(training.train(Path(folder), run, data, "cpu")["val_nats_per_char"])
            print(f"| {family} {size} | " + " | ".join(f"{loss:.3f}" for loss in losses) + " |", flush=True)


if __name__ == "__main__":
    main()
