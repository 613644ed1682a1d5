"""Measures training speed: tokens/s of the nine models and their share of the machine's bf16 matrix
rate.

Run:    python -m benchmarks.bench_training [--threads N] [--clock cpu] [--models
    transformer_xl,lstm_large] [--loop]
        python -m benchmarks.bench_training --device cuda [--windows 2,64]
Prints a table in Markdown. --clock cpu counts the processor's seconds of this process instead of
the wall's: with one thread that is what a machine without other work would take, also on one that
is shared. On a GPU the clock waits for it. --loop trains 300,000 tokens of each model and tells
what the loop itself (data, logging, progress, checkpoints) adds to gradient, clipping, optimizer
and evaluation.
"""

import argparse
import contextlib
import importlib
import os
import tempfile
import time
from pathlib import Path
from unittest import mock

from study.stages.arguments import list_of, whole

import numpy as np
import torch

from common import N_SPECIAL, CharTokenizer, pick_device, precision, product_dtype
from study.families import FAMILIES, build_model
from study.train import loop as training
from study.train import machine, runs
from study.train.data import BLOCK_SIZE, Data, cut_windows, to_tensor
from study.train.optimizer import make_optimizers

# rows and columns of the product that gives the machine's rate
MATRIX = {"cpu": 2048, "cuda": 8192}
STEPS = {"cpu": 4, "cuda": 20}  # timed steps of each model, after one that is not
VOCABULARY = 75
# of the made-up text: with --loop, and for single steps
LOOP_TOKENS, STEP_TOKENS = 300_000, 1 << 15


def seconds_of(function, clock, times):
    """Least and median seconds of some calls."""
    function()
    seconds = []
    for _ in range(times):
        started = clock()
        function()
        seconds.append(clock() - started)
    return min(seconds), float(np.median(seconds))


def clock_of(device, name):
    """The clock of this name; on a GPU it waits until the work that was given has been done."""
    count = time.perf_counter if name == "wall" else time.process_time

    def synchronized():
        torch.cuda.synchronize(device)
        return count()

    return synchronized if device.type == "cuda" else count


def matrix_rate(device, clock):
    """FLOP/s of a product in the precision that this machine trains in."""
    n = MATRIX[device.type]
    a, b = (torch.randn(n, n, device=device).to(product_dtype(device)) for _ in range(2))
    return 2 * n**3 / seconds_of(lambda: a @ b, clock, 5)[0]


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
    """(share of a whole run that is neither gradient, clipping, optimizer nor evaluation, seconds
    of the run)."""
    spent = []

    def make_optimizers(model, run, make=make_optimizers):
        optimizers = make(model, run)
        for optimizer in optimizers:
            optimizer.step = timed(optimizer.step, clock, spent)
        return optimizers

    parts = {
        (training, "gradient"),
        (training, "evaluate"),
        (torch.nn.utils, "clip_grad_norm_"),
    }
    with contextlib.ExitStack() as changed, tempfile.TemporaryDirectory() as folder:
        for place, name in parts:
            changed.enter_context(
                mock.patch.object(place, name, timed(getattr(place, name), clock, spent))
            )
        changed.enter_context(mock.patch.object(training, "make_optimizers", make_optimizers))
        started = clock()
        runs.train(Path(folder), run, data, "cpu")
        whole = clock() - started
    return 1 - sum(spent) / whole, whole


def step_seconds(data, run, device, clock):
    """(least seconds of forward and backward pass, of the optimizer, FLOPs) of a step."""
    model, n_windows = build_model(run["config"]).to(device), run["batch_windows"]
    optimizers, token_chars = make_optimizers(model, run), torch.from_numpy(
        data.token_chars
    ).to(device)
    x, y = cut_windows(
        to_tensor(data.train, device),
        torch.arange(n_windows, device=device) * BLOCK_SIZE,
    )
    times = STEPS[device.type]

    def step():
        for optimizer in optimizers:
            optimizer.step()

    return (
        seconds_of(
            lambda: training.gradient(model, x, y, token_chars, n_windows, run["name"]),
            clock,
            times,
        )[0],
        seconds_of(step, clock, times)[0],
        model.flops_per_token() * n_windows * BLOCK_SIZE,
    )


def made_up_data(n_tokens):
    """Random text of as many tokens with a BEGIN here and there."""
    rng, tokenizer = np.random.default_rng(0), CharTokenizer(
        map(chr, range(33, 33 + VOCABULARY - N_SPECIAL))
    )
    tokens = np.where(
        rng.random(n_tokens) < 0.003, 0, rng.integers(3, VOCABULARY, n_tokens)
    ).astype(np.uint8)
    tokens[0] = 0
    held_out = tokens[:STEP_TOKENS]
    return Data(
        tokens, held_out, held_out, tokenizer.digest, tokenizer.vocab_size, tokenizer.token_chars
    )


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--models")
    parser.add_argument("--loop", action="store_true", help="the loop's own share of a run instead")
    parser.add_argument(
        "--windows",
        type=list_of(whole(1)),
        default=[runs.BATCH_WINDOWS],
        metavar="N[,N]",
        help="windows of 512 tokens a step",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of single steps")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    clock, rate = clock_of(device, args.clock), 0.0
    print(
        f"{machine.device_name(device)}, {precision(device)}, {args.threads} threads,"
        f" {args.clock} clock"
    )
    if args.loop:
        print("| model | seconds | loop |\n|---|---|---|")
    else:
        print(
            "| model | windows | tokens/s | s / step | optimizer | matrix rate, GFLOP/s | share of"
            " it: model | with optimizer |\n|---|---|---|---|---|---|---|---|"
        )
    for n_windows in args.windows:
        data = made_up_data(
            LOOP_TOKENS if args.loop else max(STEP_TOKENS, 2 * n_windows * BLOCK_SIZE)
        )
        for family in FAMILIES.values():
            for size, shape in importlib.import_module(family.stage).SIZES.items():
                if args.models and f"{family.name}_{size}" not in args.models.split(","):
                    continue
                run = runs.plan_run(
                    data,
                    runs.RunSpec(family.name, size, shape, 1e-3, batch_windows=n_windows),
                )
                if args.loop:
                    share, seconds = loop_share(data, run, clock)
                    print(f"| {family.label} {size} | {seconds:.1f} | {share:.1%} |", flush=True)
                    continue
                rate = max(rate, matrix_rate(device, clock))
                a, b, flops = step_seconds(data, run, device, clock)
                print(
                    f"| {family.label} {size} | {n_windows} |"
                    f" {n_windows * BLOCK_SIZE / (a + b):,.0f} | {a + b:.4f} |"
                    f" {b / (a + b):.0%} | {rate / 1e9:.0f} | {flops / a / rate:.0%} |"
                    f" {flops / (a + b) / rate:.0%} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
