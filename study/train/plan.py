"""Which runs a suite consists of: its sizes, their learning rates, and the order of training."""

import math
from typing import NamedTuple

from study.train.ladder import LADDER, ladder_sizes, rule_rate
from study.train.runs import RECIPES, RunSpec, plan_run

SUITES = ("classical", "ladder")
ANY_VOCABULARY = 75  # where only the names of sizes are asked for
CLASSIC_LEARNING_RATE = 3e-4  # of the original study, for every size


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
