"""A family's suites: what 04, 05 and 05b share: command line, expected minutes, the runs, manifest.

A *suite* trains every size of a family, for every seed and share of the data asked for: the study's
own sizes ("classical"), or those of `study/train/ladder.py`. It may be made in parts and by several
processes at once; its manifest lists every run on disk that belongs to the family.

The plan of the runs is `study/train/plan.py`, the training loop `Loop.advance` in
`study/train/loop.py`.
"""

import argparse
import contextlib
import fcntl
import os
from pathlib import Path

from study.stages.arguments import MAX_SEED, fail, list_of, name_list, number, stage_parser, whole
from study.stages.files import file_digest, read_json
from study.stages.process import cpu_count
from study.stages.stage import Stage

import torch

from common import pick_device
from study.train import machine
from study.train.calibrate import expected_minutes
from study.train.checkpoints import finished
from study.train.data import count_chars, load_data
from study.train.jobs import threads_of, train_side_by_side
from study.train.ladder import LADDER, PREDICTION, QUICK_WIDTH, width_of
from study.train.loop import Stopped
from study.train.plan import SUITES, Suite, has_ladder, plan_suite, replan, suite_sizes
from study.train.runs import HEADLINE_SEED, QUICK_TRAIN_CHARS, RECIPES, train
from study.train.sweep import sweep_learning_rates


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
        "--only",
        type=name_list,
        metavar="SIZE[,SIZE]",
        help="these sizes only, e.g. tiny,small",
    )
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


# ---------------------------------------------------------------- what is said and written


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
