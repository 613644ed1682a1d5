"""A family's suites: what 04 and 05 share. Command line, plan and expected minutes, the runs, the
learning-rate sweep.

A *suite* trains every size of a family, for every seed and share of the data asked for: the study's
own sizes
("classical"), or those of `study/train/ladder.py`. It may be made in parts and by several processes at once; its manifest
lists every run on disk that belongs to the family.
"""

import argparse
import contextlib
import fcntl
import math
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

from study.stages.arguments import MAX_SEED, fail, list_of, number, stage_parser, whole
from study.stages.stage import HERE, Stage, cpu_count, file_digest, read_json, write_json

import numpy as np
import torch

from common import pick_device
from study.families import build_model, in_order, label
from study.figures import pyplot, save
from study.train import machine
from study.train.checkpoints import finished
from study.train.data import BLOCK_SIZE, count_chars, cut_windows, load_data, subset, to_tensor
from study.train.jobs import threads_of, train_side_by_side
from study.train.ladder import (
    LADDER,
    PREDICTION,
    QUICK_WIDTH,
    fit_rule,
    ladder_sizes,
    rule_rate,
    width_of,
)
from study.train.loop import Stopped, gradient
from study.train.optimizer import make_optimizers
from study.train.runs import (
    BATCH_WINDOWS,
    HEADLINE_SEED,
    QUICK_TRAIN_CHARS,
    RECIPES,
    RunSpec,
    plan_run,
    train,
)

SUITES = ("classical", "ladder")
ANY_VOCABULARY = 75  # where only the names of sizes are asked for
CLASSIC_LEARNING_RATE = 3e-4  # of the original study, for every size
CALIBRATION_SECONDS = 3.0  # for all runs of a plan together
CALIBRATION_TOKENS = 1 << 16  # of the training text, repeated as needed
SWEEP_FACTOR = 2.0  # between neighbouring learning rates
# where outcomes are kept, by suite
SWEEPS = {"classical": "docs/lr_sweep.json", "ladder": "docs/ladder_rates.json"}
SWEEP_MAX_RUNS = 9  # a size; more are added at the open end while the best lies at an end


class Suite(NamedTuple):
    """A family, its sizes, and what was found out about its learning rates."""

    model: type  # its class
    sizes: dict  # size -> shape, of the sizes that are asked for
    rates: dict  # optimizer -> {size: peak learning rate}, from a sweep
    shapes: dict  # size -> shape, of the sizes that were swept
    rule: tuple | None = None  # of the ladder's rates with Muon, see `study/train/ladder.py`

    @property
    def family(self):
        """Its name."""
        return self.model.family


def suite_main(script, model, sizes, rates, doc, argv=None, ladder_rate=None):
    """Trains a family's suites; the main() of 04 and 05.

    model: the family's class; sizes: {size: shape}; rates: {optimizer: {size: peak learning rate}},
    found with
    --sweep-lr; doc: the script's docstring; ladder_rate: (r, b) of rate = r * (width / 64)^-b,
        found with --sweep-lr
    --suite ladder (default: the tuned rate of the size most alike in width).
    """
    args = suite_parser(doc).parse_args(argv)
    name = Path(script).stem
    try:
        device = pick_device(args.device)
        names = check_suite(args, model, sizes, device)
    except ValueError as problem:
        fail(f"{name}.py", str(problem), f"see: python {name}.py --help")
    with machine.processes(device):
        stage = Stage(script, args, suite_config(args, sizes, rates, ladder_rate), shared=True)
        try:
            data = load_data(stage.root)
        except ValueError as problem:
            fail(
                f"{name}.py", str(problem), f"run: python 03_tokenize_split.py{stage.flags} --force"
            )
        suite = Suite(
            model, suite_sizes(args.suite, model, sizes, data.vocab_size), rates, sizes, ladder_rate
        )
        if args.sweep_lr:
            return sweep_learning_rates(stage, args, suite, names, data, device)
        try:
            runs = plan_suite(args, suite, data, names)
        except ValueError as problem:
            fail(
                f"{name}.py",
                str(problem),
                "ask for more with --max-train-chars and --data-fractions",
            )
        waiting = [run for run in runs if args.force or finished(stage.root, run) is None]
        if not waiting and stage.up_to_date():
            return None
        with stage.writing() if machine.rank() == 0 else contextlib.nullcontext():
            if waiting:
                if args.jobs > 1:
                    torch.set_num_threads(threads_of(args.jobs))
                print_plan(waiting, data, device, args)
                train_all(stage, args, waiting, data, device)
            if machine.rank() == 0:
                finish_suite(stage, suite, data, runs, device)


def train_all(stage, args, runs, data, device):
    """Trains the runs that are left, one after the other or side by side, and prints a line for
    each."""
    if args.jobs > 1 and len(runs) > 1:
        records = train_side_by_side(stage.root, runs, device, args.jobs, args.force)
    else:
        records = (train(stage.root, run, data, device, again=args.force) for run in runs)
    try:
        with contextlib.closing(records):
            for record in records:
                print(
                    f"{record['name']}: validation {record['val_nats_per_char']:.4f} nats per"
                    f" character, {record['seconds']:.0f} s, {record['tokens_per_second']:,.0f}"
                    " tokens/s",
                    flush=True,
                )
    except Stopped as problem:
        fail(
            f"{stage.name}.py",
            str(problem),
            "what is finished is kept; the same command goes on from there",
        )


# ---------------------------------------------------------------- command line


def suite_parser(doc):
    """The command line of 04 and 05."""
    parser = stage_parser(doc, training=True)
    add = parser.add_argument
    add(
        "--seeds",
        type=list_of(whole(0, MAX_SEED)),
        metavar="N[,N]",
        help=(
            f"one model a size for each of these seeds (default: {HEADLINE_SEED} + --seed; the"
            " learning rates were chosen with 0 and 1)"
        ),
    )
    add(
        "--suite",
        type=suite_list,
        metavar="SUITE[,SUITE]",
        help=(
            f"classical: the study's sizes; ladder: {len(LADDER)} sizes of one depth from 3.5k to"
            " 3.2M non-embedding parameters, the same in every family within 1%% (default: both;"
            f" with --quick the ladder up to width {QUICK_WIDTH}; with --recipe classic and"
            " --sweep-lr classical alone)"
        ),
    )
    add(
        "--recipe",
        choices=tuple(RECIPES),
        default="tuned",
        help=(
            "classic: learned positions only, AdamW, 3e-4 for every size, dropout, as the original"
            " study trained (default: tuned)"
        ),
    )
    add(
        "--data-fractions",
        type=list_of(number(above=0, most=1)),
        metavar="F[,F]",
        default=[1.0],
        help=(
            "train every size on each of these shares of the training sequences; smaller shares lie"
            " within larger ones (default: 1)"
        ),
    )
    add(
        "--max-train-chars",
        type=whole(1),
        metavar="N",
        help=(
            "characters of training text at most (default: all; with --quick"
            f" {QUICK_TRAIN_CHARS:,})"
        ),
    )
    add(
        "--epochs",
        type=whole(1),
        default=1,
        metavar="N",
        help="passes over the training text (default: 1)",
    )
    add(
        "--max-minutes",
        type=number(above=0),
        metavar="MIN",
        help=(
            "minutes of training for each run at most, evaluation not counted: the learning rate"
            " decays to zero by then (default: no limit)"
        ),
    )
    add(
        "--learning-rate",
        type=number(above=0),
        metavar="LR",
        help="peak learning rate for all runs (default: as tuned)",
    )
    add(
        "--jobs",
        type=whole(1),
        metavar="K",
        help=(
            "runs side by side, each a process with its share of the cores as threads (default: 1;"
            " with --quick on CPUs as many as there are cores, so that results do not depend on"
            " their number)"
        ),
    )
    add(
        "--sweep-lr",
        nargs="?",
        const="muon",
        choices=("muon", "adamw"),
        metavar="muon|adamw",
        help=(
            "train every size of --only at five or more learning rates a factor of 2 apart and"
            " write docs/lr_sweep.json, .png and .svg, instead of the suite; with --suite ladder"
            " docs/ladder_rates.* with the rule of its rates"
        ),
    )
    return parser


def suite_list(text):
    """A kind of argument: names of suites, separated by commas."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in SUITES:
            raise argparse.ArgumentTypeError(
                f"there is no suite {name!r}; there are {', '.join(SUITES)}"
            )
    return names


def check_suite(args, model, sizes, device="cpu"):
    """The names of the sizes to train; ValueError for one that there is not. Fills in the defaults
    that depend on other flags."""
    args.seeds = args.seeds or [HEADLINE_SEED + args.seed]
    if args.quick and args.max_train_chars is None:
        args.max_train_chars = QUICK_TRAIN_CHARS
    if args.jobs and args.jobs > 1 and "RANK" in os.environ:
        raise ValueError("--jobs: under torchrun the processes train one run together")
    on_cpu = torch.device(device).type == "cpu" and "RANK" not in os.environ
    args.jobs = args.jobs or (cpu_count() if args.quick and on_cpu else 1)
    if args.suite is None:
        args.suite = (
            ["classical"]
            if args.recipe == "classic" or args.sweep_lr or not has_ladder(model)
            else list(SUITES)
        )
    if args.recipe == "classic" and "ladder" in args.suite:
        raise ValueError(
            "--recipe classic: the sizes of the ladder have no learned positions, and it has no"
            " others"
        )
    known = suite_sizes(args.suite, model, sizes)
    if not args.only:
        return [
            name
            for name in known
            if not (args.quick and name in LADDER and width_of(name) > QUICK_WIDTH)
        ]
    names = [name.removeprefix(f"{model.family}_") for name in args.only.split(",")]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"--only {','.join(unknown)}: there is no such size; there are {', '.join(known)}"
        )
    return names


def suite_config(args, sizes, rates, rule=None):
    """What decides the outputs, for the stage's manifest. --only does not: a suite may be made in
    parts."""
    flags = (
        "seeds",
        "suite",
        "recipe",
        "data_fractions",
        "max_train_chars",
        "epochs",
        "max_minutes",
        "learning_rate",
    )
    return {
        "sizes": sizes,
        "learning_rates": rates,
        "ladder_rate": rule,
        **{flag: getattr(args, flag) for flag in flags},
    }


# ---------------------------------------------------------------- sizes and rates


def has_ladder(model):
    """False for a family whose class cannot say which shape has a given number of parameters."""
    try:
        return bool(ladder_sizes(model, ANY_VOCABULARY))
    except ValueError:
        return False


def suite_sizes(suites, model, sizes, vocab_size=ANY_VOCABULARY):
    """{size: shape} of these suites together, where "classical" are the sizes of the script."""
    return {
        **(sizes if "classical" in suites else {}),
        **(ladder_sizes(model, vocab_size) if "ladder" in suites else {}),
    }


def suite_of(size):
    """The suite that a size belongs to."""
    return "ladder" if size in LADDER else "classical"


def choose_rate(args, size, suite):
    """The peak learning rate of a run: asked for, of the recipe, by the ladder's rule, or tuned;
    for sizes without a sweep that of the tuned size most alike in width."""
    if args.learning_rate:
        return args.learning_rate
    if args.recipe == "classic":
        return CLASSIC_LEARNING_RATE
    if size in LADDER and suite.rule:
        return rule_rate(suite.rule, size)
    tuned = suite.rates[RECIPES[args.recipe]]
    if size in tuned:
        return tuned[size]
    swept = [known for known in tuned if known in suite.shapes]
    if not swept:  # a table of sizes with none of the swept ones in it
        return sorted(tuned.values())[len(tuned) // 2]
    return tuned[min(swept, key=lambda known: width_ratio(suite.shapes[known], suite.sizes[size]))]


def width_ratio(shape, other):
    """How unlike two shapes of one family are in width: mean |ln ratio| of their d_model, d_hidden
    and the like. (The best learning rate goes with the width; depth moves it little.)

    >>> math.exp(width_ratio({"n_layer": 2, "d_model": 64, "d_ff": 256}, {"n_layer": 9, "d_model": 128, "d_ff": 512}))
    2.0
    """
    widths = [key for key in shape if key.startswith("d_") and key in other]
    return sum(abs(math.log(shape[key] / other[key])) for key in widths) / len(widths)


# ---------------------------------------------------------------- plan


def plan_suite(args, suite, data, names):
    """The runs of these sizes, in the order in which they are to be trained."""
    runs = [
        plan_run(
            data,
            RunSpec(
                suite.family,
                size,
                shape,
                choose_rate(args, size, suite),
                seed=seed,
                recipe=args.recipe,
                suite=suite_of(size),
                epochs=args.epochs,
                data_fraction=fraction,
                max_train_chars=args.max_train_chars,
                max_minutes=args.max_minutes,
            ),
        )
        for fraction in args.data_fractions
        for seed in args.seeds
        for size, shape in suite.sizes.items()
        if size in names
    ]
    return in_order_of_use(runs, args.seeds, longest_first=args.jobs > 1)


def in_order_of_use(runs, seeds, longest_first=False):
    """The runs so ordered that a study stopped on the way can be fitted: seed by seed, and where
    the amount of data is varied first the coarse grid of lowest, middle and highest size and
    amount. Within that the smallest comes first; or the longest, so that where runs stand side by
    side the last one is short."""
    amounts = {run["data_fraction"] for run in runs}
    coarse_amounts = _coarse(amounts)
    coarse_sizes = {
        suite: _coarse({run["params_total"] for run in runs if run["suite"] == suite})
        for suite in SUITES
    }

    def place(run):
        coarse = len(amounts) == 1 or (
            run["data_fraction"] in coarse_amounts
            and run["params_total"] in coarse_sizes[run["suite"]]
        )
        return (
            seeds.index(run["seed"]),
            not coarse,
            run["train_flops"] * (-1 if longest_first else 1),
        )

    return sorted(runs, key=place)


def _coarse(values):
    """The lowest, the middle and the highest of some numbers."""
    values = sorted(values)
    return {values[0], values[len(values) // 2], values[-1]} if values else set()


def replan(record, suite, data):
    """The run that a record on disk would be with today's sizes, data and code; None if it cannot
    be."""
    try:
        shapes = suite_sizes([record["suite"]], suite.model, suite.shapes, data.vocab_size)
        return plan_run(
            data,
            RunSpec(
                suite.family,
                record["size"],
                shapes[record["size"]],
                record["learning_rate"],
                seed=record["seed"],
                recipe=record["recipe"],
                suite=record["suite"],
                epochs=record["epochs_planned"],
                data_fraction=record["data_fraction"],
                max_train_chars=record["max_train_chars"],
                max_minutes=record["max_minutes"],
                optimizer=record["optimizer"],
            ),
        )
    except (KeyError, TypeError, ValueError):
        return None


def calibrate(run, data, device, seconds):
    """Tokens per second of a run's steps on this machine, measured for about `seconds` (at least
    two steps): of training alone, as `tokens_per_second` of a record; evaluation comes on top."""
    torch.manual_seed(0)
    model = build_model(run["config"]).to(device)
    optimizers = make_optimizers(model, run)
    tokens = np.resize(np.asarray(data.train[:CALIBRATION_TOKENS]), run["tokens_per_step"] + 1)
    starts = torch.arange(run["batch_windows"], device=device) * BLOCK_SIZE
    x, y = cut_windows(to_tensor(tokens, device), starts)
    token_chars = torch.from_numpy(np.asarray(data.token_chars)).to(device)
    micro_batch, times = run["batch_windows"], []
    while len(times) < 3 or sum(times) < seconds:
        started = time.monotonic()
        *_, micro_batch = gradient(model, x, y, token_chars, micro_batch, run["name"])
        for optimizer in optimizers:
            optimizer.step()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.monotonic() - started)
    # the first step warms up
    return machine.n_processes() * run["tokens_per_step"] / float(np.median(times[1:]))


def print_plan(runs, data, device, args):
    """Prints what is about to be trained, on how much of the text, and how long it should take
    here."""
    print(
        "training text:"
        f" {' or '.join(f'{n:,}' for n in sorted({run['train_chars'] for run in runs}))} of"
        f" {count_chars(data.train, data.token_chars):,} characters"
        + (
            f" (--max-train-chars {runs[0]['max_train_chars']})"
            if runs[0]["max_train_chars"]
            else ""
        )
    )
    print(
        f"{'run':32} {'parameters':>11} {'non-emb.':>11} {'tokens':>12} {'steps':>8} {'FLOPs':>8}"
        f" {'minutes':>8}"
    )
    minutes = expected_minutes(runs, data, device)
    for run, expected in zip(runs, minutes):
        print(
            f"{run['name']:32} {run['params_total']:11,} {run['params_non_embedding']:11,}"
            f" {run['train_tokens'] * run['epochs']:12,} {run['steps']:8,}"
            f" {run['train_flops']:8.1e} {expected:8.1f}"
        )
    together = max(sum(minutes) / args.jobs, max(minutes))
    print(
        f"expected minutes of training: {together:.1f} on {machine.device_name(device)}"
        + (f", {args.jobs} runs side by side" if args.jobs > 1 else ""),
        flush=True,
    )


def expected_minutes(runs, data, device):
    """Minutes of training of each run on this machine, from a few steps of each size and batch."""
    batches = {_speed_key(run): run for run in runs}
    rates = {
        batch: calibrate(run, data, device, CALIBRATION_SECONDS / len(batches))
        for batch, run in batches.items()
    }
    return [
        min(
            run["train_tokens"] * run["epochs"] / rates[_speed_key(run)] / 60,
            run["max_minutes"] or math.inf,
        )
        for run in runs
    ]


def _speed_key(run):
    return run["family"], run["size"], run["batch_windows"]


def finish_suite(stage, suite, data, runs, device):
    """Writes the manifest over every run of this family on disk that was made from this data by
    this code: a suite may be made in parts, by several processes, and seeds or fractions may be
    added to it."""
    with open(stage.root / f"checkpoints/.{stage.name}.finish.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        planned = {run["name"]: run for run in runs}
        complete = []
        for path in sorted((stage.root / "checkpoints").glob(f"{suite.family}_*.json")):
            record = read_json(path)
            run = planned.get(path.stem) or replan(record, suite, data)
            if run and finished(stage.root, run):
                complete.append(record)
        missing = sorted(set(planned) - {record["name"] for record in complete})
        best = min(complete, key=lambda record: record["val_nats_per_char"], default=None)
        outputs = [
            f"checkpoints/{record['name']}{end}"
            for record in complete
            for end in (".pt", ".json", ".curve.jsonl")
        ]
        stage.finish(
            outputs,
            counts={"runs": len(complete)},
            device=machine.device_name(device),
            extra={"missing": missing, **promise_of(stage.root, suite.family)},
            summary={
                "runs": len(complete),
                **({"not yet trained": ", ".join(missing)} if missing else {}),
                **(
                    {
                        "best": (
                            f"{best['name']}, validation {best['val_nats_per_char']:.4f} nats per "
                            "character"
                        )
                    }
                    if best
                    else {}
                ),
            },
        )


def promise_of(root, family):
    """Time and digest of a family's prediction that was made before its largest runs were trained,
    for the manifest."""
    promise = (read_json(root / PREDICTION) or {}).get(family)
    return (
        {"prediction": {"written": promise["written"], "sha256": file_digest(root / PREDICTION)}}
        if promise
        else {}
    )


# ---------------------------------------------------------------- learning-rate sweep


def sweep_learning_rates(stage, args, suite, names, data, device):
    """Sweeps the learning rate of each size; merges the outcome into a file in docs/ and draws it
    beside it. For sizes of the ladder the rule of all sweeps so far is fitted."""
    for size in names:
        path = HERE / SWEEPS[suite_of(size)]
        outcome = sweep_size(stage, args, suite, size, data, device)
        swept = read_json(path) or {}
        of_family = swept.setdefault(suite.family, {})
        of_family.setdefault(size, {})[args.sweep_lr] = outcome
        if size in LADDER:
            of_family.pop("rule", None)
            rule = fit_rule(
                {
                    size: outcomes[args.sweep_lr]
                    for size, outcomes in of_family.items()
                    if args.sweep_lr in outcomes
                }
            )
            of_family.update({"rule": rule} if rule else {})
        write_json(path, swept)
        draw_sweeps(swept, path.parent, path.stem)
        print(
            f"{suite.family} {size} {args.sweep_lr}: best learning rate {outcome['best']:.3g}"
            + ("" if outcome["inside"] else " (at the end of the range: not settled)"),
            flush=True,
        )
    print(
        f"wrote: {path.relative_to(HERE)} and its figure; enter the rates in "
        f"{'LADDER_RATE' if size in LADDER else 'LEARNING_RATES'} of {stage.name}.py"
    )


def sweep_size(stage, args, suite, size, data, device):
    """Trains one size at learning rates around the present one until the best has neighbours on
    both sides, then, where
    the best is to be taken, that one again with a fresh seed: the winner of a sweep owes part of
    its loss to luck."""
    optimizer = args.sweep_lr

    def run_at(rate, seed=0):
        run = plan_run(
            data,
            RunSpec(
                suite.family,
                size,
                suite.sizes[size],
                rate,
                seed=seed,
                optimizer=optimizer,
                max_train_chars=args.max_train_chars,
                name=f"{suite.family}_{size}_{optimizer}_{rate:.3g}_{seed}",
            ),
        )
        losses = dict.fromkeys(("val_nats_per_char", "train_nats_per_char"))
        try:
            record = train(stage.root / "checkpoints/.sweep", run, data, device)
            losses = {name: round(record[name], 5) for name in losses}
            print(f"{run['name']}: {record['val_nats_per_char']:.4f}", flush=True)
        except Stopped as problem:  # a rate that is too high: it counts as the worst
            print(problem, file=sys.stderr)
        return {"learning_rate": rate, "seed": seed, **losses}

    def loss(exponent):
        nats = tried[exponent]["val_nats_per_char"]
        return math.inf if nats is None else nats

    center = suite.rates[optimizer].get(size) or choose_rate(args, size, suite)
    tried = {exponent: run_at(center * SWEEP_FACTOR**exponent) for exponent in (0, -1, 1, -2, 2)}
    while (best := min(tried, key=loss)) in (min(tried), max(tried)) and len(
        tried
    ) < SWEEP_MAX_RUNS:
        exponent = best - 1 if best == min(tried) else best + 1
        tried[exponent] = run_at(center * SWEEP_FACTOR**exponent)
    tokens = subset(data.train, data.token_chars, max_chars=args.max_train_chars)
    return {
        "best": tried[best]["learning_rate"],
        "inside": min(tried) < best < max(tried),
        "runs": [tried[exponent] for exponent in sorted(tried)],
        **({} if size in LADDER else {"fresh_seed": run_at(tried[best]["learning_rate"], 1)}),
        "train_chars": count_chars(tokens, data.token_chars),
        "val_chars": count_chars(data.val, data.token_chars),
        "batch_windows": BATCH_WINDOWS,
    }


def draw_sweeps(swept, folder, name):
    """Loss against learning rate, a panel for each family and optimizer, a line for each size, a
    star at its best; returns the file names. swept: the content of docs/lr_sweep.json."""
    plt = pyplot()
    from matplotlib.ticker import NullFormatter

    panels = [
        (family, optimizer)
        for family in in_order(swept)
        for optimizer in ("muon", "adamw")
        if any(optimizer in outcomes for outcomes in swept[family].values())
    ]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.2 * len(panels), 3.8), sharex=True, sharey=True, squeeze=False
    )
    for axis, (family, optimizer) in zip(axes[0], panels):
        for size, outcomes in swept[family].items():
            points = [
                (run["learning_rate"], run["val_nats_per_char"])
                for run in outcomes.get(optimizer, {}).get("runs", ())
                if run["val_nats_per_char"] is not None
            ]
            if points:
                axis.plot(*zip(*points), "o-", label=size)
                axis.plot(*min(points, key=lambda point: point[1]), "k*", markersize=11)
        axis.set(xscale="log", xlabel="peak learning rate", title=f"{label(family)}, {optimizer}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.legend()
    axes[0][0].set_ylabel("validation, nats per character")
    return save(figure, folder, name)
