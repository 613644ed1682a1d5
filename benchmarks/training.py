"""Measures training speed: tokens/s of the nine models and their share of the machine's bf16 matrix rate.

Run:    python benchmarks/training.py [--threads N] [--clock cpu] [--models transformer_xl,lstm_large] [--loop]
Prints a table in Markdown. --clock cpu counts the processor's seconds of this process instead of the wall's: with one
thread that is what a machine without other work would take, also on one that is shared. --loop trains 300,000 tokens
of each model and tells what the loop itself (data, logging, progress, checkpoints) adds to gradient, clipping,
optimizer and evaluation.
"""

import argparse
import importlib
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from study import training  # noqa: E402
from common import Tokenizer, precision  # noqa: E402

MATRIX = 2048  # rows and columns of the product that gives the machine's rate
STEPS = 4  # timed steps of each model, after one that is not


def seconds_of(function, clock, times):
    """Least and median seconds of some calls."""
    function()
    seconds = []
    for _ in range(times):
        started = clock()
        function()
        seconds.append(clock() - started)
    return min(seconds), float(np.median(seconds))


def matrix_rate(clock):
    """FLOP/s of a bf16 product (fp32 where bf16 is not used)."""
    kind = torch.bfloat16 if precision("cpu") == "bf16" else torch.float32
    a, b = torch.randn(MATRIX, MATRIX).to(kind), torch.randn(MATRIX, MATRIX).to(kind)
    return 2 * MATRIX ** 3 / seconds_of(lambda: a @ b, clock, 5)[0]


def timed(function, clock, spent):
    """The function, adding the seconds of each call to the list."""
    def call(*args, **kwargs):
        started = clock()
        try:
            return function(*args, **kwargs)
        finally:
            spent.append(clock() - started)
    return call


def loop_share(data, run, clock):
    """What of a whole run is neither gradient, clipping, optimizer nor evaluation."""
    spent, keep = [], (training._gradient, training.evaluate, training.make_optimizers, torch.nn.utils.clip_grad_norm_)

    def optimizers(model, run):
        made = keep[2](model, run)
        for optimizer in made:
            optimizer.step = timed(optimizer.step, clock, spent)
        return made

    training._gradient, training.evaluate = timed(keep[0], clock, spent), timed(keep[1], clock, spent)
    training.make_optimizers, torch.nn.utils.clip_grad_norm_ = optimizers, timed(keep[3], clock, spent)
    try:
        with tempfile.TemporaryDirectory() as folder:
            started = clock()
            training.train(Path(folder), run, data, "cpu")
            whole = clock() - started
    finally:
        training._gradient, training.evaluate, training.make_optimizers, torch.nn.utils.clip_grad_norm_ = keep
    return 1 - sum(spent) / whole, whole


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--models")
    parser.add_argument("--loop", action="store_true", help="the loop's own share of a run instead")
    parser.add_argument("--windows", type=int, default=training.BATCH_WINDOWS, help="windows of 512 tokens a step")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    rng = np.random.default_rng(0)
    n_tokens = 300_000 if args.loop else 1 << 15
    tokens = np.where(rng.random(n_tokens) < 0.003, 0, rng.integers(3, 75, n_tokens)).astype(np.uint8)
    tokens[0] = 0
    data = training.Data(tokens, tokens[:1 << 15], tokens[:1 << 15], Tokenizer("a").digest, 75)
    modules = {"transformer": "04_train_transformers", "lstm": "05_train_lstms"}
    print(f"{args.threads} threads, {args.clock} clock, {args.windows} x 512 tokens a step")
    if args.loop:
        print("| model | seconds | loop |\n|---|---|---|")
    else:
        print("| model | tokens/s | s / step | optimizer | matrix rate, GFLOP/s | share of it: model | with optimizer |")
        print("|---|---|---|---|---|---|---|")
    rate = 0.0
    for family, module in modules.items():
        for size, shape in importlib.import_module(module).SIZES.items():
            if args.models and f"{family}_{size}" not in args.models.split(","):
                continue
            run = training.plan_run(data, family, size, shape, 1e-3, batch_windows=args.windows)
            if args.loop:
                share, seconds = loop_share(data, run, clock)
                print(f"| {family} {size} | {seconds:.1f} | {share:.1%} |", flush=True)
                continue
            model = training.build_model(run["config"])
            optimizers = training.make_optimizers(model, run)
            stream = training.to_tensor(tokens, "cpu")
            x, y = training.cut_windows(stream, torch.arange(args.windows) * training.BLOCK_SIZE)
            def gradient():
                training._gradient(model, optimizers, x, y, torch.device("cpu"), [args.windows], size)
            def step():
                for optimizer in optimizers:
                    optimizer.step()
            rate = max(rate, matrix_rate(clock))
            a, b = seconds_of(gradient, clock, STEPS)[0], seconds_of(step, clock, STEPS)[0]
            n = args.windows * training.BLOCK_SIZE
            flops = model.flops_per_token() * n
            print(f"| {family} {size} | {n / (a + b):,.0f} | {a + b:.3f} | {b / (a + b):.0%} | {rate / 1e9:.0f} | "
                  f"{flops / a / rate:.0%} | {flops / (a + b) / rate:.0%} |", flush=True)


if __name__ == "__main__":
    main()
