"""Compares the families size by size: speed by turns in one process, losses of the runs in a root
with paired intervals.

Run:    python -m benchmarks.bench_families --speed [--sizes tiny,small] [--rounds 9]
        python -m benchmarks.bench_families --root quick
Prints tables in Markdown. --speed: milliseconds of processor time of gradient, optimizer and both
for a step of 2 x 512 tokens, the least of all rounds; the families take turns, so that a busy
machine is busy for all. --root: every size
that has runs of several families: validation losses of its seeds, FLOPs, seconds, and the
difference on the test split from the Transformer of the same seed, its 95 % interval over tunes
(bootstrap of the mean over seeds).
"""

import argparse
import importlib
import os
import time
from pathlib import Path

from study.stages.arguments import whole
from study.stages.stage import read_json

import numpy as np
import torch

from common import BEGIN
from study.evaluate.evaluation import losses_by_tune, sequence_rows
from study.families import FAMILIES, build_model, model_class
from study.train import loop as training

VOCABULARY, WINDOWS = 75, 2
REFERENCE = "transformer"


def step_times(configs, rounds):
    """{name: (seconds of the gradient, of the optimizers, parameters)} of configs {name: (model
    configuration, windows a step)}, the least of the rounds, in which the models take turns."""
    models = {}
    for name, (config, windows) in configs.items():
        model = build_model(config).train()
        tokens = torch.randint(
            config["vocab_size"],
            (windows, training.BLOCK_SIZE + 1),
            generator=torch.Generator().manual_seed(0),
        )
        run = {"recipe": "tuned", "optimizer": "muon", "learning_rate": 1e-3, "weight_decay": 0.0}
        token_chars = torch.ones(config["vocab_size"], dtype=torch.long)
        models[name] = model, training.make_optimizers(model, run), tokens, token_chars
    least = dict.fromkeys(models, (np.inf, np.inf))
    for _ in range(rounds):
        for name, (model, optimizers, tokens, token_chars) in models.items():
            started = time.process_time()
            training.gradient(
                model, tokens[:, :-1], tokens[:, 1:], token_chars, len(tokens), str(name)
            )
            between = time.process_time()
            for optimizer in optimizers:
                optimizer.step()
            spent = between - started, time.process_time() - between
            least[name] = tuple(map(min, least[name], spent))
    return {
        name: (*seconds, models[name][0].count_parameters()["total"])
        for name, seconds in least.items()
    }


def print_speed(sizes, rounds):
    """The table of step times, and tokens/s over the Transformer's of the same size."""
    configs = {
        (family.name, size): (
            {
                "family": family.name,
                "vocab_size": VOCABULARY,
                "block_size": training.BLOCK_SIZE,
                "dropout": 0.0,
                **shape,
                **model_class(family.name).recipe_flags("tuned"),
            },
            WINDOWS,
        )
        for size in sizes
        for family in FAMILIES.values()
        if (shape := importlib.import_module(family.stage).SIZES.get(size))
    }
    print(
        "| model | parameters | gradient, ms | optimizer, ms | tokens/s, the Transformer's = 1"
        " |\n|---|---|---|---|---|"
    )
    times = step_times(configs, rounds)
    for (family, size), (gradient, optimizer, n_parameters) in times.items():
        reference = sum(times[REFERENCE, size][:2])
        print(
            f"| {FAMILIES[family].label} {size} | {n_parameters:,} | {1000 * gradient:.1f} |"
            f" {1000 * optimizer:.1f} | {reference / (gradient + optimizer):.2f} |"
        )


def print_losses(root):
    """The table of losses, and of the differences from the Transformer of the same size."""
    names = [f"{family}_*.json" for family in FAMILIES]
    records = [
        read_json(path) for name in names for path in sorted((root / "checkpoints").glob(name))
    ]
    records = [
        record
        for record in records
        if record["suite"] == "classical"
        and record["recipe"] == "tuned"
        and record["data_fraction"] == 1
    ]
    sizes = {size: {} for size in dict.fromkeys(record["size"] for record in records)}
    for record in records:
        sizes[record["size"]].setdefault(record["family"], {})[record["seed"]] = record
    data, rows = training.load_data(root), sequence_rows(root, "test")
    # of each sequence
    chars = np.bincount(np.cumsum(data.test == BEGIN) - 1, data.token_chars[data.test]).tolist()
    print(
        "| model | parameters | FLOPs | seconds | validation, by seed | mean | test - Transformer's"
        " (95 %) | seeds |\n|---|---|---|---|---|---|---|---|"
    )
    for size, families in sizes.items():
        for family, runs in families.items():
            first, losses = next(iter(runs.values())), [
                run["val_nats_per_char"] for run in runs.values()
            ]
            both = sorted(set(runs) & set(families.get(REFERENCE, ())))
            words = (
                ""
                if family == REFERENCE or not both
                else difference(
                    [runs[seed] for seed in both],
                    [families[REFERENCE][seed] for seed in both],
                    chars,
                    rows,
                )
            )
            print(
                f"| {FAMILIES[family].label} {size} | {first['params_total']:,} |"
                f" {first['train_flops']:.2e} |"
                f" {np.mean([run['seconds'] for run in runs.values()]):.0f} |"
                f" {', '.join(f'{loss:.3f}' for loss in losses)} | {np.mean(losses):.3f} | {words}"
                f" | {', '.join(map(str, runs))} |"
            )


def difference(ours, theirs, chars, rows):
    """The paired difference of mean losses over the same seeds, in words."""
    nats = {
        name: np.mean([run["test_nats_by_sequence"] for run in runs], axis=0).tolist()
        for name, runs in (("theirs", theirs), ("ours", ours))
    }
    paired = losses_by_tune(nats, chars, [row["origin"] for row in rows], seed=0)
    (row,) = paired["differences"]
    low, high = row["interval"]
    return f"{row['nats_per_char']:+.3f} ({low:+.3f} to {high:+.3f})"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--speed", action="store_true", help="time a step of every family and size")
    parser.add_argument("--sizes", default="tiny,small,medium,large,xl", help="with --speed: which")
    parser.add_argument(
        "--rounds", type=whole(1), default=9, help="with --speed: turns of each model"
    )
    parser.add_argument("--root", type=Path, help="where the runs to compare are")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    if args.speed:
        print_speed(args.sizes.split(","), args.rounds)
    if args.root:
        print_losses(args.root)


if __name__ == "__main__":
    main()
