"""Which runs to train next: the design that narrows the interval of alpha most for its minutes.

    plan = propose(fit, seconds_of_sizes(rows), minutes=10)
    plan.runs                        # {N: runs}
    plan.half_width, plan.expected   # of the interval of alpha now, and with these runs

From the curvature of the fit: the law is linear in small changes of a, alpha and c, so the variance
that further runs will leave is known before they are trained (Fedorov 1972). Greedy, run by run, by
gain per second. The criterion is the variance of alpha and not that of predictions (V-optimality),
since alpha is what the study is asked for; it sends most runs to sizes below those that are there,
where the curve bends and a run costs seconds.
"""

import math
from typing import NamedTuple

import numpy as np

from study.fit import power_law as law

DOWN = 10  # candidates go down to the smallest size divided by this ...
N_SIZES = 13  # ... on this many sizes, evenly spaced in log N, up to the largest
MOST_RUNS = 200


class Plan(NamedTuple):
    """runs: {N: number of runs}; minutes of all of them; half-width of the interval of alpha now
    and then."""

    runs: dict
    minutes: float
    half_width: float
    expected: float


def seconds_of_sizes(rows, count="params_total"):
    """{N: mean seconds of a run} of rows whose time is known; count: key of N."""
    times = {}
    for row in rows:
        if row["seconds"]:
            times.setdefault(row[count], []).append(row["seconds"])
    return {n: float(np.mean(own)) for n, own in sorted(times.items())}


def seconds_at(n, times):
    """Seconds of a run of n parameters from those measured: interpolated in log-log; as long as the
    smallest below it
    (there the steps' overhead rules), in proportion to N above the largest."""
    sizes = np.array(list(times))
    if n > sizes[-1]:
        return times[sizes[-1]] * n / sizes[-1]
    return float(np.exp(np.interp(math.log(n), np.log(sizes), np.log(list(times.values())))))


def propose(fit, times, minutes):
    """The Plan for a fit (scaling_law.PowerLaw) and a number of minutes. ValueError with the
    reason, in words, where the fit has no curvature to go by, or no run fits into the minutes."""
    if fit.noise_sd is None or fit.a <= 0 or law.is_on_bound(fit.alpha):
        raise ValueError(
            f"the fit does not bend: train sizes below N = {fit.sizes.min():,.0f} first, "
            f"down to {fit.sizes.min() / DOWN:,.0f}"
        )
    candidates = np.geomspace(fit.sizes.min() / DOWN, fit.sizes.max(), N_SIZES).round()
    cost = np.array([seconds_at(n, times) for n in candidates])
    slopes, information = _slopes(fit, candidates), _information(fit)
    left, runs = 60 * minutes, {}
    start = _half_width(fit, information, 0)
    while (affordable := cost <= left).any() and sum(runs.values()) < MOST_RUNS:
        inverse = np.linalg.inv(information)
        # Sherman-Morrison: what a run at each candidate takes from the variance of alpha
        gain = (slopes @ inverse)[:, 1] ** 2 / (
            1 + np.einsum("kp,pq,kq->k", slopes, inverse, slopes)
        )
        best = int(np.argmax(np.where(affordable, gain / cost, -1)))
        runs[candidates[best]] = runs.get(candidates[best], 0) + 1
        information = information + np.outer(slopes[best], slopes[best])
        left -= cost[best]
    if not runs:
        raise ValueError(f"the shortest run takes {cost.min() / 60:.2g} minutes")
    return Plan(
        dict(sorted(runs.items())),
        minutes - left / 60,
        start,
        _half_width(fit, information, sum(runs.values())),
    )


def _slopes(fit, n):
    """Change of the loss with a (in units of its size in mid-range), alpha and c at sizes n: (K,
    3)."""
    x = np.log(n) - np.log(fit.sizes).mean()
    falling = np.exp(-fit.alpha * x)
    a = fit.a * math.exp(-fit.alpha * np.log(fit.sizes).mean())
    return np.stack([falling, -a * falling * x, np.ones_like(x)], 1)


def _information(fit):
    slopes = _slopes(fit, fit.sizes)
    return (slopes * fit.weights[:, None]).T @ slopes


def _half_width(fit, information, n_new):
    """Half-width of the interval of alpha if the curve were straight in its parameters; every new
    run adds a degree of freedom to the measure of the noise."""
    spread = fit.noise_sd * math.sqrt(np.linalg.inv(information)[1, 1])
    return law.t_quantile(0.5 + fit.level / 2, fit.noise_dof + n_new) * spread
