"""The sweep of learning rates, and its figure: `04_train_transformers.py --sweep-lr`."""

import math
import sys

from study.stages.code_key import HERE
from study.stages.files import read_json, write_json

from study.families import in_order, label
from study.figures import pyplot, save
from study.train.data import count_chars, subset
from study.train.ladder import LADDER, fit_rule
from study.train.loop import Stopped
from study.train.plan import choose_rate, suite_of
from study.train.runs import BATCH_WINDOWS, RunSpec, plan_run, train

SWEEP_FACTOR = 2.0  # between neighbouring learning rates
# where outcomes are kept, by suite
SWEEPS = {"classical": "docs/lr_sweep.json", "ladder": "docs/ladder_rates.json"}
SWEEP_MAX_RUNS = 9  # a size; more are added at the open end while the best lies at an end


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
