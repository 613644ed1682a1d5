"""How alpha of one amount of text moves with each choice of the analyst."""

import math

import numpy as np

from study.fit import power_law as law
from study.fit.records import COUNTS, columns, count_of, is_positive
from study.fit.verdict import verdict

HIGHEST_CUT = 1e5  # lower cuts in N that are tried go up to it


def beyond_noise(value, interval, headline, headline_interval):
    """Returns the estimate from a part of the runs, drawn towards the headline's by what chance
    explains: the variance of the difference is the difference of the variances (Hausman 1978).

    >>> round(beyond_noise(0.60, (0.5, 0.7), 0.50, (0.44, 0.56)), 2)
    0.52
    """
    side = 0 if value > headline else 1  # the end of either interval that lies between the two
    own, whole = abs(interval[side] - value), abs(headline_interval[1 - side] - headline)
    shift = max(abs(value - headline) - math.sqrt(max(own**2 - whole**2, 0.0)), 0.0)
    return headline + math.copysign(shift, value - headline)


def alpha_choices(chosen):
    """Returns how alpha of a Headline moves with each choice: [{"group", "choice", "alpha",
    "counts": whether it widens the interval, ...}]."""
    estimates = []
    for group, choice, rows, options in _choices(chosen):
        estimate = _estimate_alpha(rows, **options)
        if estimate is None:
            continue
        counts = group != "form"  # c = 0: where alpha is identified, it is rejected
        if group == "cut":
            own, whole = ((row["alpha"], row["alpha_interval"]) for row in (estimate, estimates[0]))
            is_known = None not in (own[0], *own[1])
            counts = is_known and estimate["at_n"] >= (chosen.bends_below or 0)
            if is_known and None not in (whole[0], *whole[1]):
                estimate["beyond_noise"] = beyond_noise(*own, *whole)
        estimates.append({"group": group, "choice": choice, **estimate, "counts": counts})
    return estimates


def interval_over_choices(entry, choices):
    """Returns the interval of alpha that holds every choice that counts, or None."""
    low, high = entry["alpha_interval"]
    values = [choice.get("beyond_noise", choice["alpha"]) for choice in choices if choice["counts"]]
    if low is None or high is None or None in values:
        return None
    return [min([low, *values]), max([high, *values])]


def _choices(chosen):
    """Yields (group, choice in words, rows, options of `_estimate_alpha`)."""
    rows, count = chosen.rows, count_of(chosen.rows)
    yield "headline", f"{COUNTS[count]}, c free", rows, {}
    for other, words in COUNTS.items():
        if other != count:
            yield "counting", words, rows, {"n": other}
    yield "form", "c = 0", rows, {"form": "power"}
    yield "estimator", "Huber on log loss", rows, {"form": "huber"}
    yield "loss", "test split", rows, {"loss": "test_nats_per_char"}
    names = {row[count]: row["size"] for row in chosen.uncut}
    smallest, *others = sorted(names)
    low = [n for n in others[: -law.MIN_SIZES] if n <= HIGHEST_CUT]
    for n in [smallest, *low] if low else []:
        above = [row for row in chosen.uncut if row[count] >= n]
        yield "cut", f"from size {names[n]}", above, {"at_n": n}


def _estimate_alpha(rows, n=None, loss="val_nats_per_char", form="power_constant", at_n=None):
    """alpha under one choice, with interval and verdict, or None."""
    n = n or count_of(rows)
    if any(not is_positive(row.get(n)) or not is_positive(row[loss]) for row in rows):
        return None
    sizes, losses = columns(rows, n, loss)
    word = interval = None
    if form == "power_constant":
        fit = law.fit_power_law(sizes, losses)
        alpha, interval, word = fit.alpha, fit.alpha_interval, verdict(fit).word
    elif form == "huber":
        alpha = (law.fit_huber(sizes, losses) or {}).get("alpha")
    else:
        line = law.fit_line(sizes, losses, form)
        alpha, interval = line["alpha"], line["alpha_interval"]
    return {
        "alpha": None if alpha is None or law.is_on_bound(alpha) else alpha,
        "alpha_interval": interval,
        "verdict": word,
        "n_sizes": len(np.unique(sizes)),
        "n_runs": len(sizes),
        "at_n": at_n,
    }
