"""A family's suites, what 04, 05 and 05b share: command line, expected minutes, runs, manifest.

A suite may be made in parts and by several processes at once; the manifest lists every run of the
family on disk.
"""

import contextlib
import fcntl
import os
from pathlib import Path

from study.stages.arguments import (
    MAX_SEED,
    list_of,
    mended_by,
    name_list,
    number,
    stage_parser,
    whole,
)
from study.stages.files import file_digest, read_json
from study.stages.process import AGAIN, cpu_count
from study.stages.stage import Stage

import torch

from common import pick_device
from study.train import machine
from study.train.calibrate import expected_minutes
from study.train.checkpoints import finished
from study.train.data import count_chars, load_data
from study.train.jobs import threads_of, train_side_by_side
from study.train.ladder import LEFT_OUT_OF_QUICK, PREDICTION
from study.train.loop import Stopped
from study.train.plan import SUITES, Suite, plan_suite, replan
from study.train.runs import HEADLINE_SEED, QUICK_TRAIN_CHARS, RECIPES, train

# flags that enter the key of the stage; --only does not
CONFIGURED = "seeds suite recipe data_fractions max_train_chars epochs max_minutes".split()


def suite_main(script, model, sizes, rates, doc, argv=None, ladder_rate=None):
    """Trains a family's suites; the main() of 04, 05 and 05b. For model to ladder_rate see `Suite`;
    doc: the script's docstring."""
    args, name = suite_parser(doc).parse_args(argv), Path(script).name
    suite = Suite(model, sizes, rates, ladder_rate)
    with mended_by(name, f"see: python {name} --help"):
        device = pick_device(args.device)
        check_suite(args, suite, device)
    config = {"sizes": sizes, "learning_rates": rates, "ladder_rate": ladder_rate}
    config |= {flag: getattr(args, flag) for flag in CONFIGURED}
    with machine.processes(device):
        stage = Stage(script, args, config, shared=True)
        with mended_by(name, f"run: python 03_tokenize_split.py{stage.flags} --force"):
            data = load_data(stage.root)
        with mended_by(name, "ask for more with --max-train-chars and --data-fractions"):
            runs = plan_suite(args, suite, data)
        waiting = [run for run in runs if args.force or finished(stage.root, run) is None]
        if not waiting and stage.up_to_date():
            return
        with stage.writing() if machine.rank() == 0 else contextlib.nullcontext():
            if waiting:
                if args.jobs > 1:
                    torch.set_num_threads(threads_of(args.jobs))
                print_plan(waiting, data, device, args.jobs)
                train_all(stage, args, waiting, data, device)
            if machine.rank() == 0:
                finish_suite(stage, suite, data, runs, device)


def train_all(stage, args, runs, data, device):
    """Trains runs, one after the other or side by side, and prints a line for each."""
    if args.jobs > 1 and len(runs) > 1:
        records = train_side_by_side(stage.root, runs, device, args.jobs, args.force)
    else:
        records = (train(stage.root, run, data, device, again=args.force) for run in runs)
    with mended_by(f"{stage.name}.py", AGAIN, kind=Stopped), contextlib.closing(records):
        for record in records:
            loss = f"validation {record['val_nats_per_char']:.4f} nats per character"
            speed = f"{record['seconds']:.0f} s, {record['tokens_per_second']:,.0f} tokens/s"
            print(f"{record['name']}: {loss}, {speed}", flush=True)


# ---------------------------------------------------------------- command line


def suite_parser(doc):
    parser = stage_parser(doc, training=True)
    add = parser.add_argument
    add("--only", type=name_list, metavar="SIZE[,SIZE]", help="these sizes only, e.g. tiny,small")
    seeds = f"one model a size for each, e.g. 2,3,4 (default: {HEADLINE_SEED} + --seed)"
    add("--seeds", type=list_of(whole(0, MAX_SEED)), metavar="N[,N]", help=seeds)
    suites = "classical: the study's sizes; ladder: the same in every family (default: both)"
    add("--suite", type=list_of(str), metavar="SUITE[,SUITE]", help=suites)
    recipe = "classic: as the original study trained, AdamW and 3e-4 (default: tuned)"
    add("--recipe", choices=tuple(RECIPES), default="tuned", help=recipe)
    share = number(above=0, most=1)
    shares = "every size on each of these shares of the text, e.g. 0.25,0.5,1 (default: 1)"
    add("--data-fractions", type=list_of(share), metavar="F[,F]", default=[1.0], help=shares)
    chars = f"of training text, at most (default: all; with --quick {QUICK_TRAIN_CHARS:,})"
    add("--max-train-chars", type=whole(1), metavar="N", help=chars)
    add("--epochs", type=whole(1), default=1, help="passes over the training text (default: 1)")
    minutes = "of training for each run; the learning rate is zero by then (default: no limit)"
    add("--max-minutes", type=number(above=0), metavar="MIN", help=minutes)
    add("--jobs", type=whole(1), help="runs side by side (default: 1; one a core with --quick)")
    return parser


def check_suite(args, suite, device="cpu"):
    """Fills in defaults, and `args.sizes`, names of the sizes to train; ValueError if unfit."""
    together = "RANK" in os.environ  # under torchrun
    if args.jobs and args.jobs > 1 and together:
        raise ValueError("--jobs: under torchrun the processes train one run together")
    args.seeds = args.seeds or [HEADLINE_SEED + args.seed]
    if args.quick and args.max_train_chars is None:
        args.max_train_chars = QUICK_TRAIN_CHARS
    if args.jobs is None:
        alone = args.quick and torch.device(device).type == "cpu" and not together
        args.jobs = cpu_count() if alone else 1
    if args.suite is None:
        args.suite = ["classical"]
        with contextlib.suppress(ValueError):  # the family has no rule for the ladder
            if args.recipe != "classic" and suite.sizes(SUITES):
                args.suite = list(SUITES)
    if args.recipe == "classic" and "ladder" in args.suite:
        raise ValueError("--recipe classic: the sizes of the ladder have no learned positions")
    for name in set(args.suite) - set(SUITES):
        raise ValueError(f"--suite: there is no suite {name!r}; there are {', '.join(SUITES)}")
    known = suite.sizes(args.suite)
    asked = [name for name in known if not (args.quick and name in LEFT_OUT_OF_QUICK)]
    if args.only:
        asked = [name.removeprefix(f"{suite.family}_") for name in args.only.split(",")]
    unknown = ",".join(name for name in asked if name not in known)
    if unknown:
        raise ValueError(f"--only {unknown}: there is no such size; there are {', '.join(known)}")
    args.sizes = [name for name in known if name in asked]


# ---------------------------------------------------------------- what is said and written


def print_plan(runs, data, device, jobs):
    """Prints what is about to be trained, and how long it should take here."""
    amounts = " or ".join(f"{n:,}" for n in sorted({run["train_chars"] for run in runs}))
    limit = runs[0]["max_train_chars"]
    why = f" (--max-train-chars {limit})" if limit else ""
    n_chars = count_chars(data.train, data.token_chars)
    print(f"training text: {amounts} of {n_chars:,} characters{why}")
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
    together = max(sum(minutes) / jobs, max(minutes))
    where = machine.device_name(device) + (f", {jobs} runs side by side" if jobs > 1 else "")
    print(f"expected minutes of training: {together:.1f} on {where}", flush=True)


def finish_suite(stage, suite, data, runs, device):
    """Writes the manifest over every run of the family on disk that is of this data and code."""
    folder = stage.root / "checkpoints"
    with open(folder / f".{stage.name}.finish.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        planned, complete = {run["name"]: run for run in runs}, {}
        for path in sorted(folder.glob(f"{suite.family}_*.json")):
            record = read_json(path)
            run = planned.get(path.stem) or replan(record, suite, data)
            if run and finished(stage.root, run):
                complete[run["name"]] = record["val_nats_per_char"]
        missing, summary = sorted(set(planned) - set(complete)), {"runs": len(complete)}
        if missing:
            summary["not yet trained"] = ", ".join(missing)
        if complete:
            best = min(complete, key=complete.get)
            summary["best"] = f"{best}, validation {complete[best]:.4f} nats per character"
        ends = (".pt", ".json", ".curve.jsonl")
        stage.finish(
            [f"checkpoints/{name}{end}" for name in complete for end in ends],
            counts={"runs": len(complete)},
            device=machine.device_name(device),
            extra={"missing": missing, **prediction_of(stage.root, suite.family)},
            summary=summary,
        )


def prediction_of(root, family):
    """Returns {"prediction": its time and digest} if the largest run was predicted, else {}."""
    predicted = (read_json(root / PREDICTION) or {}).get(family)
    if not predicted:
        return {}
    digest = file_digest(root / PREDICTION)
    return {"prediction": {"written": predicted["written"], "sha256": digest}}
