"""Compares the losses of families at equal cost: parameters, FLOPs or seconds."""

import itertools
import math
from operator import itemgetter

import numpy as np

from study.families import in_order, label
from study.fit import power_law as law
from study.fit.records import columns, count_of, grouped, is_positive
from study.wording import si

COSTS = {
    "params_total": "parameters",
    "train_flops": "training FLOPs",
    "seconds": "training seconds",
}
MIN_PAIRED = 3  # common seeds: with two, Student's t is 12.7 standard errors wide
N_POINTS, N_CROSSING = 5, 400  # costs at which two families are compared, and tried for a crossing


def compare_pairs(families):
    """Compares every two of {family: rows of its headline} at equal parameters, FLOPs, seconds."""
    pairs = itertools.combinations(in_order(families), 2)
    return [_compare_pair(pair, [families[family] for family in pair]) for pair in pairs]


def _compare_pair(pair, rows_of_both):
    # from these two alone: a third family must not change what is said of them
    noise, both = noise_of_runs(rows_of_both), sum(rows_of_both, [])
    compared = dict(zip(("first", "second"), pair))
    for cost, what in COSTS.items():
        compared[cost] = entry = {}
        if cost == "seconds" and len({row["device"] for row in both}) > 1:
            entry["reason"] = "the runs were timed on different devices"
        elif not all(is_positive(row[cost]) for row in both):
            entry["reason"] = "not recorded for every run"
        else:
            keys = itemgetter(cost, "seed", "val_nats_per_char", "params_total")
            found = compare_families(*(list(map(keys, rows)) for rows in rows_of_both), noise)
            entry |= found or {"reason": "the ranges do not overlap"}
            if found:
                entry["text"] = f"at equal {what} {who_is_lower(pair, found)}"
    return compared


def who_is_lower(pair, found):
    """Says who has the lower loss at equal cost: "LSTM at 3/5 points, crossing at 227k"."""
    points = found["points"]
    if any(point["interval"] is None for point in points):
        return "unknown"
    clear = []
    signs = [(point["interval"][1] < 0) - (point["interval"][0] > 0) for point in points]
    for family, sign in zip(pair, (1, -1)):
        count = signs.count(sign)
        where = "everywhere" if count == len(points) else f"at {count}/{len(points)} points"
        if count:
            clear.append(f"{label(family)} {where}")
    words = " and ".join(clear) or "neither"
    # a crossing counts only if both sides of it stand out of the noise
    at = found["crossover"]
    return f"{words}, crossing at {si(at)}" if at is not None and len(clear) == 2 else words


def noise_of_runs(groups):
    """Returns (standard deviation of one run, degrees of freedom), pooled over groups of one family
    and one amount of text: from seeds if enough runs were repeated, else from the residuals about
    the law of each group; None without either."""
    squares, dof = 0.0, 0
    for rows in groups:
        n, loss = columns(rows)
        sizes, _, _, within = law.group_by_size(n, loss)
        squares, dof = squares + within, dof + len(n) - len(sizes)
    if dof >= law.MIN_NOISE_DOF:
        return math.sqrt(squares / dof), dof
    curves = [columns(rows, count_of(rows)) for rows in groups]
    fits = [law.fit_power_law(*curve) for curve in curves if len(set(curve[0])) >= law.MIN_SIZES]
    known = [fit for fit in fits if fit.noise_sd]
    dof = sum(fit.noise_dof for fit in known)
    squares = sum(fit.noise_sd**2 * fit.noise_dof for fit in known)
    return (math.sqrt(squares / dof), dof) if known else None


def half_width(noise, variance):
    """Returns half of the interval of a difference of so many variances of a run; NaN without
    noise."""
    sd, dof = noise or (math.nan, 1)
    return law.half_of_t(dof) * sd * np.sqrt(variance)


def interpolation_weights(log_sizes, at):
    """Returns weights (M, K) that make losses at increasing `log_sizes` (K,) losses at `at` (M,), by
    a least-squares parabola plus its residuals interpolated linearly.

    Chords alone lie above a convex law by as much as the noise of a run.
    """
    each = np.eye(len(log_sizes))
    chords = np.stack([np.interp(at, log_sizes, one) for one in each], 1)
    powers, center = np.arange(min(3, len(log_sizes))), log_sizes.mean()
    at_nodes = (log_sizes - center)[:, None] ** powers
    fitted = np.linalg.pinv(at_nodes)
    return (at - center)[:, None] ** powers @ fitted + chords @ (each - at_nodes @ fitted)


def compare_families(first, second, noise):
    """Returns the loss of `first` minus that of `second` where both were measured, and the cost at
    which their curves cross; None if the ranges of cost do not overlap.

    first, second: lists of (cost, seed, loss, size); noise: of `noise_of_runs`. With MIN_PAIRED
    common seeds differences are paired: seeds decide the order of the text for both families.
    """
    curves1, curves2 = _by_seed(first), _by_seed(second)
    (x1, y1, w1), (x2, y2, w2) = means = [_mean_curve(runs) for runs in (first, second)]
    common = [
        (curves1[seed], curves2[seed])
        for seed in sorted(set(curves1) & set(curves2))
        if len(curves1[seed][0]) == len(x1) and len(curves2[seed][0]) == len(x2)
    ]
    pairs = common if len(common) >= MIN_PAIRED else []
    # seconds differ from seed to seed
    measured = [x1, x2, *(x for pair in pairs for x, _ in pair)]
    low, high = max(x[0] for x in measured), min(x[-1] for x in measured)
    if len(x1) < 2 or len(x2) < 2 or low >= high:
        return None
    at = np.linspace(low, high, N_POINTS)
    rows1, rows2 = interpolation_weights(x1, at), interpolation_weights(x2, at)
    difference = rows1 @ y1 - rows2 @ y2
    half = half_width(noise, (rows1**2 / w1).sum(1) + (rows2**2 / w2).sum(1))
    if pairs:
        losses = [[interpolation_weights(x, at) @ y for x, y in pair] for pair in pairs]
        paired = np.subtract(*np.swapaxes(losses, 0, 1))
        difference = paired.mean(0)
        half = half_width((paired.std(0, ddof=1), len(pairs) - 1), 1 / len(pairs))
    points = [
        {
            "at": math.exp(x),
            "difference": d,
            "interval": None if math.isnan(h) else [d - h, d + h],
        }
        for x, d, h in zip(at, difference.tolist(), half.tolist())
    ]
    return {
        "range": [math.exp(low), math.exp(high)],
        "points": points,
        "paired_seeds": len(common),
        "crossover": crossover(*means),
    }


def _points(runs):
    return [(math.log(cost), loss) for cost, _, loss, _ in runs]


def _by_seed(runs):
    """{seed: (log costs, losses)}."""
    seeds = grouped(sorted(runs), itemgetter(1))
    return {seed: tuple(np.array(_points(own), float).T) for seed, own in seeds.items()}


def _mean_curve(runs):
    """Mean log cost, mean loss and number of runs of each size, by cost."""
    sizes = grouped(runs, itemgetter(3)).values()
    rows = sorted((*np.mean(_points(own), 0), len(own)) for own in sizes)
    rows = [row for i, row in enumerate(rows) if i == 0 or row[0] > rows[i - 1][0]]
    return tuple(np.array(rows, float).T)


def crossover(first, second):
    """Returns the highest cost at which two curves cross; None if nowhere in range."""
    (x1, y1, _), (x2, y2, _) = first, second
    at = np.linspace(max(x1[0], x2[0]), min(x1[-1], x2[-1]), N_CROSSING)
    difference = interpolation_weights(x1, at) @ y1 - interpolation_weights(x2, at) @ y2
    changes = np.flatnonzero(np.diff(np.signbit(difference)))
    if not len(changes):
        return None
    left, right = difference[changes[-1]], difference[changes[-1] + 1]
    return math.exp(at[changes[-1]] + left / (left - right) * (at[1] - at[0]))
