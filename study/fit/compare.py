"""Compares the losses of two families at equal cost: parameters, FLOPs or seconds."""

import math

import numpy as np

from study.fit.power_law import LEVEL, TAILS, t_quantile

# common seeds for a paired comparison: with two, Student's t is 12.7 standard errors wide
MIN_PAIRED = 3


def interpolation_weights(log_sizes, at):
    """Rows that turn losses at increasing `log_sizes` (K,) into losses at `at` (M,): (M, K).

    A parabola through all sizes (least squares) plus its residuals, interpolated piecewise
    linearly. The curve still passes through every measured loss; without the parabola its chords
    lie above a convex law, by 0.005 nats between the two smallest sizes of the original study,
    which is as much as the noise of a run.
    """
    right = np.clip(np.searchsorted(log_sizes, at), 1, len(log_sizes) - 1)
    share = (at - log_sizes[right - 1]) / (log_sizes[right] - log_sizes[right - 1])
    chords = np.zeros((len(at), len(log_sizes)))
    chords[np.arange(len(at)), right - 1], chords[np.arange(len(at)), right] = 1 - share, share
    powers, center = np.arange(min(3, len(log_sizes))), log_sizes.mean()
    at_nodes = (log_sizes - center)[:, None] ** powers
    fitted = np.linalg.pinv(at_nodes)
    return (at - center)[:, None] ** powers @ fitted + chords @ (
        np.eye(len(log_sizes)) - at_nodes @ fitted
    )


def compare_families(first, second, noise, resamples, rng, n_points=5):
    """Loss of `first` minus loss of `second` where both were measured, and where the two curves
    cross.

    first, second: lists of (cost, seed, loss, size), cost being N, FLOPs or seconds of a run
    (`size` may be left
    out: then equal costs are one size). Losses between measured costs are interpolated in log cost;
    runs of one seed form a pair. noise: (sd of one run, degrees of freedom) or None. With
    MIN_PAIRED common seeds the interval is that of the paired differences (t); otherwise it comes
    from `noise`. None if the ranges of cost do not overlap: what one family would reach at the
    other's cost is then a matter of faith in a curve. Pairs, because a seed decides
    the order of the text for both families: what it does to both alike drops out of the difference.
    """
    curves = [_by_seed(first), _by_seed(second)]
    (x1, y1, w1), (x2, y2, w2) = (_mean_curve(runs) for runs in (first, second))
    if len(x1) < 2 or len(x2) < 2 or max(x1[0], x2[0]) >= min(x1[-1], x2[-1]):
        return None
    low, high = max(x1[0], x2[0]), min(x1[-1], x2[-1])
    common = [
        s
        for s in sorted(set(curves[0]) & set(curves[1]))
        if len(curves[0][s][0]) == len(x1) and len(curves[1][s][0]) == len(x2)
    ]
    # seconds differ a little from seed to seed: stay where all of them were measured
    if len(common) >= MIN_PAIRED:
        own = [curve[s][0] for curve in curves for s in common]
        low, high = max([low] + [x[0] for x in own]), min([high] + [x[-1] for x in own])
        if low >= high:
            return None
    at = np.linspace(low, high, n_points)
    rows1, rows2 = interpolation_weights(x1, at), interpolation_weights(x2, at)
    difference = rows1 @ y1 - rows2 @ y2
    half, method = (
        np.full(n_points, np.nan),
        "one run per size and no measure of its noise: no interval",
    )
    if len(common) >= MIN_PAIRED:
        paired = np.array(
            [_interpolate(curves[0][s], at) - _interpolate(curves[1][s], at) for s in common]
        )
        difference = paired.mean(0)
        half = (
            t_quantile(0.5 + LEVEL / 2, len(common) - 1)
            * paired.std(0, ddof=1)
            / math.sqrt(len(common))
        )
        method = f"differences paired by seed ({len(common)} seeds), Student t"
    elif noise is not None:
        variance = (rows1**2 / w1).sum(1) + (rows2**2 / w2).sum(1)
        half = t_quantile(0.5 + LEVEL / 2, noise[1]) * noise[0] * np.sqrt(variance)
        method = f"noise of one run {noise[0]:.4f} nats ({noise[1]} degrees of freedom), Student t"
    points = [
        {
            "at": float(math.exp(x)),
            "difference": float(d),
            "interval": None if math.isnan(h) else [float(d - h), float(d + h)],
        }
        for x, d, h in zip(at, difference, half)
    ]
    return {
        "range": [float(math.exp(at[0])), float(math.exp(at[-1]))],
        "points": points,
        "method": method,
        "paired_seeds": len(common),
        "crossover": crossover((x1, y1, w1), (x2, y2, w2), noise, resamples, rng),
    }


def _by_seed(runs):
    """{seed: (log costs, losses)} in order of cost."""
    out = {}
    for cost, seed, loss, *_ in sorted(runs):
        out.setdefault(seed, []).append((math.log(cost), loss))
    return {seed: tuple(np.array(v, float).T) for seed, v in out.items()}


def _mean_curve(runs):
    """Mean log cost, mean loss and number of runs of each size, in order of cost. (Seconds differ
    from run to run, so the size and not the cost says which runs belong together.)"""
    groups = {}
    for cost, _, loss, *size in runs:
        groups.setdefault(size[0] if size else cost, []).append((math.log(cost), loss))
    rows = sorted(
        (np.mean([x for x, _ in g]), np.mean([y for _, y in g]), len(g)) for g in groups.values()
    )
    rows = [row for i, row in enumerate(rows) if i == 0 or row[0] > rows[i - 1][0]]
    return tuple(np.array(rows, float).T) if rows else (np.array([]),) * 3


def _interpolate(curve, at):
    return interpolation_weights(curve[0], at) @ curve[1]


def crossover(first, second, noise, resamples, rng, n_points=400):
    """Cost at which the interpolated curves cross: {"at", "interval", "share", "text"}; at None if
    nowhere in range.

    The interval is that of the crossings under the noise of the runs; `share` is the share of
    resamples that cross.
    """
    (x1, y1, w1), (x2, y2, w2) = first, second
    at = np.linspace(max(x1[0], x2[0]), min(x1[-1], x2[-1]), n_points)
    rows1, rows2 = interpolation_weights(x1, at), interpolation_weights(x2, at)
    own = _crossings(at, (rows1 @ y1 - rows2 @ y2)[None])[0]
    crossing = {
        "at": None if math.isnan(own) else float(math.exp(own)),
        "interval": None,
        "share": None,
    }
    if noise is not None and resamples:
        scale = noise[0] * np.sqrt(noise[1] / rng.chisquare(noise[1], (resamples, 1)))
        many = _crossings(
            at,
            (y1 + scale * rng.standard_normal((resamples, len(y1))) / np.sqrt(w1)) @ rows1.T
            - (y2 + scale * rng.standard_normal((resamples, len(y2))) / np.sqrt(w2)) @ rows2.T,
        )
        many = many[~np.isnan(many)]
        crossing["share"] = len(many) / resamples
        if len(many) and crossing["at"] is not None:
            crossing["interval"] = np.exp(np.percentile(many, TAILS)).tolist()
    crossing["text"] = "none in range" if crossing["at"] is None else f"at {crossing['at']:.3g}"
    return crossing


def _crossings(at, difference):
    """The last change of sign in each row (B, M), in log cost; NaN where there is none."""
    change = np.signbit(difference[:, 1:]) != np.signbit(difference[:, :-1])
    last = change.shape[1] - 1 - change[:, ::-1].argmax(1)
    row = np.arange(len(difference))
    left, right = difference[row, last], difference[row, last + 1]
    share = left / np.where(left == right, 1, left - right)
    return np.where(change.any(1), at[last] + share * (at[1] - at[0]), np.nan)
