"""How alpha of one amount of text moves with each choice of the analyst."""

import math

import numpy as np

from study.fit import power_law as law
from study.fit.records import COUNTS, columns, count_of, is_ladder, is_positive
from study.fit.verdict import verdict

HIGHEST_CUT = 1e5  # lower cuts in N that are tried go up to it


def cuts(rows, count):
    """{N: name} of the sizes at which a lower cut is tried, the smallest first; five sizes are left
    at least. By name, since a size of the ladder has the same name in every family and nearly the
    same N."""
    names = {row[count]: row["size"] for row in rows}
    return {
        n: names[n]
        for i, n in enumerate(sorted(names))
        if i == 0 or (n <= HIGHEST_CUT and len(names) - i > law.MIN_SIZES)
    }


def beyond_noise(value, interval, headline, headline_interval):
    """The estimate from a part of the runs, drawn towards the headline's by what leaving out the
    others scatters.

    The variance of the difference of a part's estimate and the whole's is the difference of their
    variances (Hausman 1978). Without this a cut that leaves few runs would widen the headline by
    the noise of these few.

    >>> round(beyond_noise(0.60, (0.5, 0.7), 0.50, (0.44, 0.56)), 2)
    0.52
    """
    side = 0 if value > headline else 1  # the end of either interval that lies between the two
    own, whole = abs(interval[side] - value), abs(headline_interval[1 - side] - headline)
    shift = max(abs(value - headline) - math.sqrt(max(own**2 - whole**2, 0.0)), 0.0)
    return headline + math.copysign(shift, value - headline)


def alpha_choices(chosen, all_rows):
    """How alpha moves with each choice that a study can make: a list of {"group", "choice",
    "alpha", ...}.

    Published exponents of the same data differ by more than their intervals because papers count N
    differently, force c = 0, or leave small models out. chosen: the Headline; all_rows: all of the
    family, for other recipes and amounts of data.
    """
    estimates = []
    for group, choice, own, options in _choices(chosen, all_rows):
        if estimate := _estimate_alpha(own, **options):
            counts = group in ("headline", "counting", "estimator", "loss")
            if group == "cut" and estimate["alpha"] and None not in estimate["alpha_interval"]:
                counts = estimate["at_n"] >= (chosen.bends_below or 0)
                whole = estimates[0]["alpha"], estimates[0]["alpha_interval"]
                if None not in (whole[0], *whole[1]):
                    estimate["beyond_noise"] = beyond_noise(
                        estimate["alpha"], estimate["alpha_interval"], *whole
                    )
            estimates.append({"group": group, "choice": choice, **estimate, "counts": counts})
    return estimates


def interval_over_choices(entry, choices):
    """The interval of alpha widened to hold the best alpha of every choice that leaves the question
    as it is: how N is counted, the estimator, the split, a lower cut. None where the interval has
    an open end or one of these no alpha.

    Not c = 0: identified means that it is rejected. Not another recipe or amount of data: these are
    other questions. Of a cut what lies beyond the noise of the runs that it leaves.
    """
    low, high = entry["alpha_interval"]
    values = [choice.get("beyond_noise", choice["alpha"]) for choice in choices if choice["counts"]]
    if low is None or high is None or None in values:
        return None
    return [min([low, *values]), max([high, *values])]


def _choices(chosen, all_rows):
    """Yields (group, choice in words, rows, options of `_estimate_alpha`)."""
    rows, count = chosen.rows, count_of(chosen.rows)
    yield "headline", f"{COUNTS[count]}, c free", rows, {}
    for other, words in COUNTS.items():
        if other != count:
            yield "counting", words, rows, {"n": other}
    yield "cost", "FLOPs from real shapes", rows, {"n": "train_flops"}
    yield "cost", "FLOPs as 6ND", rows, {"n": "train_flops_6nd"}
    yield "form", "c = 0", rows, {"form": "power"}
    yield "estimator", "Huber on log loss", rows, {"form": "huber"}
    yield "loss", "test split", rows, {"loss": "test_nats_per_char"}
    moved = cuts(chosen.uncut, count)
    for n, size in moved.items() if len(moved) > 1 else ():
        yield (
            "cut",
            f"from size {size}",
            [row for row in chosen.uncut if row[count] >= n],
            {"at_n": n},
        )
    # five sizes, where each can move alpha; of a ladder the cuts show it
    if not any(map(is_ladder, rows)):
        names = {row["params_total"]: row["size"] for row in rows}
        for size in sorted(names):
            yield (
                "subset",
                f"without {names[size]}",
                [row for row in rows if row["params_total"] != size],
                {},
            )
    seeds = sorted({row["seed"] for row in rows})
    for seed in seeds if len(seeds) > 1 else []:
        yield "seed", f"seed {seed} alone", [row for row in rows if row["seed"] == seed], {}
    key = rows[0]["recipe"], rows[0]["n_chars_seen"]
    same = [row for row in all_rows if is_ladder(row) == is_ladder(rows[0])]
    others = sorted(
        {
            (str(row["recipe"]), row["n_chars_seen"] or 0)
            for row in same
            if (row["recipe"], row["n_chars_seen"]) != key
        }
    )
    for recipe, d in others:
        own = [
            row for row in same if str(row["recipe"]) == recipe and (row["n_chars_seen"] or 0) == d
        ]
        if law.fit_line(*columns(own), "log_linear")["slope"] > 0:
            another_recipe = recipe != str(key[0])
            yield (
                "recipe" if another_recipe else "data",
                f"recipe {recipe}" if another_recipe else f"D = {d:,.0f}",
                own,
                {},
            )


def _estimate_alpha(rows, n=None, loss="val_nats_per_char", form="power_floor", at_n=None):
    """alpha under one choice with its interval and verdict; None where these runs cannot give
    it."""
    n = n or count_of(rows)
    if any(not is_positive(row.get(n)) or not is_positive(row[loss]) for row in rows):
        return None
    sizes, losses = columns(rows, n, loss)
    if len(np.unique(sizes)) < law.MIN_SIZES:
        return None
    # the Huber fit has no interval here, and both it and c = 0 are not judged
    word = interval = None
    if form == "power_floor":
        fit = law.fit_power_law(sizes, losses)
        alpha, c, interval, word = fit.alpha, fit.c, fit.alpha_interval, verdict(fit).word
    elif form == "huber":
        huber = law.fit_huber(sizes, losses)
        alpha, c = huber["alpha"], huber["c"]
    else:
        line = law.fit_line(sizes, losses, form)
        alpha, c, interval = line["alpha"], 0.0, line["alpha_interval"]
    if alpha is not None and law.is_on_bound(alpha):
        alpha = c = None
    return {
        "alpha": alpha,
        "c": c,
        "alpha_interval": interval,
        "verdict": word,
        "identified": None if word is None else word == "identified",
        "n_sizes": len(np.unique(sizes)),
        "n_runs": len(sizes),
        **({"at_n": at_n} if at_n else {}),
    }
