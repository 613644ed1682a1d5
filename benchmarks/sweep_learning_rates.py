"""Which learning rate suits each size of a family? Five rates a factor of 2 apart, more at an open
end; for sizes of the ladder the rule of all its rates.

Reads:  ROOT/data (stage 03)
Writes: docs/lr_sweep.json, for sizes of the ladder docs/ladder_rates.json; its runs stand in
        ROOT/checkpoints/.sweep
Run:    python -m benchmarks.sweep_learning_rates --root quick --family lstm --optimizer adamw
        python -m benchmarks.sweep_learning_rates --root quick --only d016,d048,d064,d128
Prints the best rate of each size; enter it in LEARNING_RATES or LADDER_RATE of the family's script.
"""

import argparse
import importlib
import math
import sys
from pathlib import Path

from study.stages.arguments import name_list
from study.stages.code_key import HERE
from study.stages.files import read_json, write_json

import numpy as np

from common import pick_device
from study.families import FAMILIES, model_class
from study.train.data import count_chars, load_data, subset
from study.train.ladder import LADDER, RULE_WIDTH, rule_rate, width_of
from study.train.loop import Stopped
from study.train.plan import Suite, choose_rate, suite_of
from study.train.runs import BATCH_WINDOWS, QUICK_TRAIN_CHARS, RunSpec, plan_run, train

FACTOR = 2.0  # between neighbouring learning rates
MAX_RUNS = 9  # a size; more are added at the open end while the best lies at an end
KEPT = {"classical": "docs/lr_sweep.json", "ladder": "docs/ladder_rates.json"}
LEFT_OUT = "d064"  # swept, but not fitted: here the rule is checked
NEAR_NATS = 0.1  # above a size's best loss: points farther up lie on no parabola


# ---------------------------------------------------------------- one size


def sweep_size(root, suite, size, optimizer, data, device):
    """Trains one size at learning rates around the present one until the best has neighbours on
    both sides, then that one again with a fresh seed: a winner owes part of its loss to luck."""
    shape = suite.sizes([suite_of(size)], data.vocab_size)[size]

    def run_at(rate, seed=0):
        spec = RunSpec(
            suite.family,
            size,
            shape,
            rate,
            seed=seed,
            optimizer=optimizer,
            max_train_chars=QUICK_TRAIN_CHARS,
            name=f"{suite.family}_{size}_{optimizer}_{rate:.3g}_{seed}",
        )
        losses = dict.fromkeys(("val_nats_per_char", "train_nats_per_char"))
        try:
            record = train(root / "checkpoints/.sweep", plan_run(data, spec), data, device)
            losses = {name: round(record[name], 5) for name in losses}
            print(f"{spec.name}: {record['val_nats_per_char']:.4f}", flush=True)
        except Stopped as problem:  # a rate that is too high: it counts as the worst
            print(problem, file=sys.stderr)
        return {"learning_rate": rate, "seed": seed, **losses}

    def loss(exponent):
        nats = tried[exponent]["val_nats_per_char"]
        return math.inf if nats is None else nats

    center = suite.rates[optimizer].get(size) or choose_rate(suite, size, shape)
    tried = {exponent: run_at(center * FACTOR**exponent) for exponent in (0, -1, 1, -2, 2)}
    best = min(tried, key=loss)
    while best in (min(tried), max(tried)) and len(tried) < MAX_RUNS:
        exponent = best - 1 if best == min(tried) else best + 1
        tried[exponent] = run_at(center * FACTOR**exponent)
        best = min(tried, key=loss)
    tokens = subset(data.train, data.token_chars, max_chars=QUICK_TRAIN_CHARS)
    outcome = {
        "best": tried[best]["learning_rate"],
        "inside": min(tried) < best < max(tried),
        "runs": [tried[exponent] for exponent in sorted(tried)],
        "train_chars": count_chars(tokens, data.token_chars),
        "val_chars": count_chars(data.val, data.token_chars),
        "batch_windows": BATCH_WINDOWS,
    }
    if size not in LADDER:
        outcome["fresh_seed"] = run_at(outcome["best"], 1)
    return outcome


# ---------------------------------------------------------------- the rule of the ladder


def fit_rule(outcomes):
    """Returns the rule of a family from its sweeps: {"rate" (r), "exponent" (b), "sizes",
    "checked"}; None if they have no common minimum, or are of fewer than three widths.

    outcomes: {size: {"runs": [{"learning_rate", "val_nats_per_char"}]}}. Least squares near each
    size's best: loss = A_size + k (ln rate - ln r + b ln(width / 64))^2. "checked": for LEFT_OUT
    its own best rate, the rule's, and the nats that the rule loses by that; None if not swept.
    """
    sizes = [size for size in outcomes if size != LEFT_OUT]
    points = [(size, *point) for size in sizes for point in _near_best(outcomes[size])]
    if len(sizes) < 3 or len(points) < len(sizes) + 3:
        return None
    x = np.array([rate for _, rate, _ in points])
    width = np.array([np.log(width_of(size) / RULE_WIDTH) for size, *_ in points])
    columns = [x * x, x, x * width, *([point[0] == size for point in points] for size in sizes)]
    losses = np.array([loss for *_, loss in points])
    k, p, q = np.linalg.lstsq(np.array(columns, float).T, losses, rcond=None)[0][:3]
    if k <= 0:
        return None
    rule = float(np.exp(-p / (2 * k))), float(q / (2 * k))
    return {
        "rate": float(f"{rule[0]:.4g}"),
        "exponent": round(rule[1], 4),
        "sizes": sizes,
        "checked": _check(outcomes[LEFT_OUT], rule) if LEFT_OUT in outcomes else None,
    }


def _near_best(outcome):
    """[(ln rate, loss)] of a sweep, but for what lies far above its best."""
    points = [
        (np.log(run["learning_rate"]), run["val_nats_per_char"])
        for run in outcome["runs"]
        if run["val_nats_per_char"] is not None
    ]
    best = min((loss for _, loss in points), default=0)
    return [(rate, loss) for rate, loss in points if loss <= best + NEAR_NATS]


def _check(outcome, rule):
    """The rule beside the parabola of the size that was left out."""
    points = _near_best(outcome)
    if len(points) < 3:
        return None
    k, p, _ = np.polyfit(*zip(*points), 2)
    if k <= 0:
        return None
    own, given = -p / (2 * k), np.log(rule_rate(rule, LEFT_OUT))
    return {
        "size": LEFT_OUT,
        "best": float(f"{np.exp(own):.4g}"),
        "rule": float(f"{np.exp(given):.4g}"),
        "nats_above_best": round(float(k * (given - own) ** 2), 5),
    }


# ---------------------------------------------------------------- the sweep


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=HERE / "quick", metavar="DIR")
    parser.add_argument("--family", choices=tuple(FAMILIES), default="transformer")
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--only", type=name_list, help="sizes (default: those of the script)")
    args = parser.parse_args(argv)
    script = importlib.import_module(FAMILIES[args.family].stage)
    suite = Suite(model_class(args.family), script.SIZES, script.LEARNING_RATES, script.LADDER_RATE)
    data, device = load_data(args.root), pick_device("auto")
    for size in args.only.split(",") if args.only else script.SIZES:
        path = HERE / KEPT[suite_of(size)]
        outcome = sweep_size(args.root, suite, size, args.optimizer, data, device)
        swept = read_json(path) or {}
        of_family = swept.setdefault(args.family, {})
        of_family.setdefault(size, {})[args.optimizer] = outcome
        if size in LADDER:
            of_family.pop("rule", None)
            rule = fit_rule(
                {
                    other: outcomes[args.optimizer]
                    for other, outcomes in of_family.items()
                    if args.optimizer in outcomes
                }
            )
            of_family.update({"rule": rule} if rule else {})
        write_json(path, swept)
        settled = "" if outcome["inside"] else " (at the end of the range: not settled)"
        print(
            f"{args.family} {size}: best learning rate {outcome['best']:.3g}{settled}", flush=True
        )


if __name__ == "__main__":
    main()
