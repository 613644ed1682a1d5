"""Which runs a suite consists of: its sizes, their learning rates, and the order of training."""

import itertools
import math
from typing import NamedTuple

from study.train.ladder import LADDER, ladder_sizes, rule_rate
from study.train.runs import RECIPES, RunSpec, plan_run

SUITES = ("classical", "ladder")
ANY_VOCABULARY = 75  # where only the names of sizes are asked for
CLASSIC_LEARNING_RATE = 3e-4  # of the original study, for every size


class Suite(NamedTuple):
    """A family, the table of sizes in its script, and its learning rates."""

    model: type  # its class
    table: dict  # size -> shape
    rates: dict  # optimizer -> {size: peak learning rate}, from a sweep
    rule: tuple | None = None  # of the ladder's rates with Muon: `ladder.rule_rate`

    @property
    def family(self):
        return self.model.family

    def sizes(self, suites, vocab_size=ANY_VOCABULARY):
        """Returns {size: shape} of these suites together."""
        sizes = dict(self.table) if "classical" in suites else {}
        if "ladder" in suites:
            sizes |= ladder_sizes(self.family, vocab_size)
        return sizes


def suite_of(size):
    return "ladder" if size in LADDER else "classical"


def choose_rate(suite, size, shape, recipe="tuned"):
    """Returns the peak learning rate of a run: the classic one, by the ladder's rule, or tuned, for
    a size without a sweep that of the size most alike in width."""
    if recipe == "classic":
        return CLASSIC_LEARNING_RATE
    if size in LADDER and suite.rule:
        return rule_rate(suite.rule, size)
    tuned = suite.rates[RECIPES[recipe]]
    if size in tuned:
        return tuned[size]
    swept = [known for known in tuned if known in suite.table]
    if not swept:  # another table of sizes
        return sorted(tuned.values())[len(tuned) // 2]
    return tuned[min(swept, key=lambda known: width_ratio(suite.table[known], shape))]


def width_ratio(shape, other):
    """Returns how unlike two shapes are: mean |ln ratio| of d_model, d_hidden and the like; depth
    moves the best rate little.

    >>> math.exp(width_ratio({"n_layer": 2, "d_model": 64}, {"n_layer": 9, "d_model": 128}))
    2.0
    """
    widths = [key for key in shape if key.startswith("d_") and key in other]
    return sum(abs(math.log(shape[key] / other[key])) for key in widths) / len(widths)


def plan_suite(args, suite, data):
    """Returns the runs asked for: seed by seed, the smallest first; side by side the longest first,
    so that the last one is short."""
    shapes, runs = suite.sizes(args.suite, data.vocab_size), []
    asked = ("recipe", "epochs", "max_train_chars", "max_minutes")
    for fraction, seed, size in itertools.product(args.data_fractions, args.seeds, args.sizes):
        spec = RunSpec(
            suite.family,
            size,
            shapes[size],
            choose_rate(suite, size, shapes[size], args.recipe),
            seed=seed,
            suite=suite_of(size),
            data_fraction=fraction,
            **{key: getattr(args, key) for key in asked},
        )
        runs.append(plan_run(data, spec))
    sign = -1 if args.jobs > 1 else 1
    return sorted(runs, key=lambda run: (args.seeds.index(run["seed"]), sign * run["train_flops"]))


def replan(record, suite, data):
    """Returns the plan of a record's run with today's sizes, data and code, or None."""
    same = "seed recipe suite data_fraction max_train_chars max_minutes optimizer".split()
    try:
        spec = RunSpec(
            suite.family,
            record["size"],
            suite.sizes([record["suite"]], data.vocab_size)[record["size"]],
            record["learning_rate"],
            epochs=record["epochs_planned"],
            **{key: record[key] for key in same},
        )
        return plan_run(data, spec)
    except (KeyError, TypeError, ValueError):
        return None
