"""Fits L(N) = a N^-alpha + c, the loss (nats per character) against size at one amount of text.

Variable projection (Golub & Pereyra 1973): for a given alpha, a and c >= 0 have a closed form; their
sum of squares over alpha is the profile from which the intervals come. benchmarks/scaling.md has the
coverage, and why least squares and not Huber is the estimate.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import optimize, special  # not scipy.stats: it takes a second to load

from study.fit.robust import HUBER_DELTA, LOG_ZERO, log_sum_exp, minimize_huber

LEVEL = 0.95  # of every interval
TAILS = [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2]  # percentiles that bound it
ALPHA_RANGE = (0.002, 3.0)  # searched; an interval that reaches an edge counts as unbounded
MIN_SIZES = 4  # three parameters and one size more
MIN_NOISE_DOF = 3  # degrees of freedom from which seeds measure the noise; below, residuals do
ALPHAS = np.geomspace(*ALPHA_RANGE, 400)  # 1.9 % apart
HUBER_STARTS = (0.03, 0.1, 0.2, 0.4, 0.8, 1.6)  # exponents


def half_of_t(dof):
    """Returns half of an interval of Student's t at LEVEL, in standard errors."""
    return special.stdtrit(dof, 0.5 + LEVEL / 2)


def is_on_bound(alpha):
    """Returns True for an exponent on an end of the range searched."""
    return not ALPHA_RANGE[0] * 1.001 < alpha < ALPHA_RANGE[1] / 1.001


class PowerLaw(NamedTuple):
    alpha: float
    a: float
    c: float
    r_squared: float
    noise_sd: float | None  # of one run; None if nothing measures it
    noise_dof: int
    noise_source: str  # "seeds", "residuals", "lack of fit" or "none"
    lack_of_fit_p: float | None
    sizes: np.ndarray  # distinct N
    weights: np.ndarray  # runs of each size
    means: np.ndarray  # mean loss of each size
    ss: float  # between sizes: sum of weight * (mean - fit)^2
    critical: float = math.inf  # alpha, a, c whose `ss` is below this are inside the interval
    alpha_interval: tuple = (None, None)  # (low, high); None for an end beyond ALPHA_RANGE
    c_interval: tuple = (None, None)


def group_by_size(n, loss):
    """Returns distinct sizes, number of runs and mean loss of each, sum of squares within sizes."""
    sizes, inverse, weights = np.unique(n, return_inverse=True, return_counts=True)
    means = np.bincount(inverse, loss) / weights
    return sizes, weights.astype(float), means, ((loss - means[inverse]) ** 2).sum()


def project(alphas, log_n, weights, losses):
    """Returns the best a >= 0, c >= 0 and the sum of squares, each (A,), for alphas (A,) and
    log_n, weights, losses (K,)."""
    x = np.exp(-np.outer(alphas, log_n))
    total = weights.sum()
    x_mean, y_mean = x @ weights / total, (weights * losses).sum() / total
    sxx = (x**2) @ weights - total * x_mean**2
    sxy = x @ (weights * (losses - y_mean))
    a = np.maximum(sxy / np.maximum(sxx, 1e-300), 0)
    c = y_mean - a * x_mean
    # no solver: on the bound c = 0 the best line goes through zero
    through_zero = (x @ (weights * losses)) / ((x**2) @ weights)
    a, c = np.where(c < 0, through_zero, a), np.maximum(c, 0)
    return a, c, (weights * (losses - a[:, None] * x - c[:, None]) ** 2).sum(1)


def fit_power_law(n, loss):
    """Returns the least-squares PowerLaw of runs of at least three sizes.

    The interval of alpha holds every alpha whose best sum of squares exceeds the minimum by no more
    than F(1, dof) * noise variance.
    """
    sizes, weights, means, within = group_by_size(n, loss)
    center = np.log(sizes).mean()
    log_n = np.log(sizes) - center

    def profile(alpha):
        return project([alpha], log_n, weights, means)[2][0]

    ss_grid = project(ALPHAS, log_n, weights, means)[2]
    alpha = _best_alpha(profile, ss_grid)
    a, c, ss = (value[0] for value in project([alpha], log_n, weights, means))
    spread = ((loss - loss.mean()) ** 2).sum()
    r_squared = 1 - (ss + within) / spread if spread > 0 else 0.0
    # on the bound c = 0: with 3 there, intervals of such fits cover 99.7 % instead of 95 %
    n_free = 2 if c <= 0 else 3
    noise = _noise(ss, within, len(sizes) - n_free, len(n) - len(sizes))
    a = a * math.exp(alpha * center)
    fit = PowerLaw(alpha, a, c, r_squared, *noise, sizes, weights, means, ss)
    if fit.noise_sd is None:
        return fit
    critical = ss + special.fdtri(1, fit.noise_dof, LEVEL) * variance_of(fit)
    interval = _alpha_interval(profile, ss_grid, alpha, critical)
    fit = fit._replace(critical=critical, alpha_interval=interval)
    _, low, high = predict(fit, math.inf)
    return fit._replace(c_interval=(max(low[0], 0.0), high[0]))


def variance_of(fit):
    return max(fit.noise_sd, 1e-9 * fit.means.mean()) ** 2  # of one run, never quite 0


def _best_alpha(profile, ss_grid):
    """The minimum of the profile, from the five deepest local minima of the grid."""
    padded = np.concatenate([[math.inf], ss_grid, [math.inf]])
    best = ss_grid.min(), ALPHAS[ss_grid.argmin()]
    local = np.flatnonzero((padded[1:-1] < padded[:-2]) & (padded[1:-1] <= padded[2:]))
    for i in local[np.argsort(ss_grid[local])][:5]:
        found = minimum_near(profile, i)
        best = min(best, (found.fun, found.x))
    return best[1]


def minimum_near(function, i):
    """Returns the minimum of a function of alpha between the neighbours of ALPHAS[i]."""
    ends = ALPHAS[max(i - 1, 0) : i + 2][[0, -1]]
    return optimize.minimize_scalar(function, bounds=ends, options={"xatol": 1e-10})


def _noise(ss, ss_within, dof_lack, dof_within):
    """Standard deviation of one run, its degrees of freedom and source, p-value of lack of fit (F
    test of the sizes' means about the curve against the seeds about their means)."""
    if dof_within >= MIN_NOISE_DOF:
        variance, p = ss_within / dof_within, None
        if dof_lack and variance > 0:
            p = special.fdtrc(dof_lack, dof_within, ss / dof_lack / variance)
        if p is not None and p < 1 - LEVEL:
            return math.sqrt(ss / dof_lack), dof_lack, "lack of fit", p
        return math.sqrt(variance), dof_within, "seeds", p
    dof = dof_lack + dof_within
    if dof <= 0:
        return None, 0, "none", None
    return math.sqrt((ss + ss_within) / dof), dof, "residuals", None


def _alpha_interval(profile, ss_grid, alpha, critical):
    # the best alpha too: an interval may be narrower than the distance of two nodes
    inside = np.append(ALPHAS[ss_grid <= critical], alpha)
    crossing = lambda alpha: profile(alpha) - critical

    def end(within, outside):
        if not len(outside):
            return None
        if crossing(within) >= 0:  # the minimum itself, when the region is a point
            return within
        return optimize.brentq(crossing, outside[0], within, xtol=1e-7)

    low, high = inside.min(), inside.max()
    return end(low, ALPHAS[ALPHAS < low][-1:]), end(high, ALPHAS[ALPHAS > high][:1])


def predict(fit, n, runs=math.inf):
    """Returns the loss at sizes n, (estimate, low, high), of the curve or of the mean of new runs.

    For a given alpha the curve is u'(a, c), u = (n^-alpha, 1), and the confidence region an ellipse
    of a and c: by Cauchy-Schwarz its extremes are the best value +- sqrt((critical - SS) h), where
    h = u'(X'WX)^-1 u, and 1 / runs more for new runs. Where a < 0 or c < 0 there, they lie on an
    edge, on which one of the two is 0.
    """
    n = np.atleast_1d(n)
    estimate, nothing = fit.a * n**-fit.alpha + fit.c, np.full(n.shape, np.nan)
    if fit.noise_sd is None:
        return estimate, nothing, nothing
    low, high = fit.alpha_interval[0] or ALPHA_RANGE[0], fit.alpha_interval[1] or ALPHA_RANGE[1]
    alphas = np.append(np.geomspace(low, high, 200), fit.alpha)
    center = np.log(fit.sizes).mean()
    powers = [np.exp(-np.outer(alphas, np.log(sizes) - center)) for sizes in (fit.sizes, n)]
    x_both, u_both = (np.stack([power, np.ones_like(power)], -1) for power in powers)
    ends = []
    for free in ([0, 1], [0], [1]):  # x (A, K, 1 or 2), u (A, M, 1 or 2)
        x, u = x_both[..., free], u_both[..., free]
        across = np.swapaxes(x * fit.weights[:, None], 1, 2)
        inverse = np.linalg.inv(across @ x)
        best = inverse @ (across @ fit.means)[..., None]
        slack = fit.critical - (fit.means - (x @ best)[..., 0]) ** 2 @ fit.weights
        inside, slack = (slack >= 0)[:, None], np.maximum(slack, 0)[:, None]
        h = (u @ inverse * u).sum(-1) + 1 / runs
        step = np.sqrt(slack / np.maximum(h, 1e-300))[..., None] * (u @ inverse)
        for sign in (-1, 1):
            feasible = inside & (np.swapaxes(best, 1, 2) + sign * step >= 0).all(-1)
            value = (u @ best)[..., 0] + sign * np.sqrt(slack * h)
            ends.append(np.where(feasible, value, np.nan))
    ends = np.concatenate([estimate[None], *ends])
    return estimate, np.fmin.reduce(ends), np.fmax.reduce(ends)


def fit_huber(n, loss):
    """Returns {"alpha", "a", "c"} of a N^-alpha + c with a summed Huber loss on log L, None where
    the best exponent lies on the bound of the search.

    Robust to one bad run, but of five points it all but passes through three: a check.
    """
    center = np.log(n).mean()
    x = np.log(n) - center
    sizes, weights, means, _ = group_by_size(n, loss)
    a, c, _ = project(HUBER_STARTS, np.log(sizes) - center, weights, means)
    begin = np.stack([np.log(np.maximum(a, 1e-3)), HUBER_STARTS, np.log(np.maximum(c, 1e-3))], 1)

    def model(p):
        terms = [p[:, :1] - p[:, 1:2] * x, np.broadcast_to(p[:, 2:], (len(p), len(x)))]
        value, share = log_sum_exp(np.stack(terms))
        return value, np.stack([share[0], -share[0] * x, share[1]], -1)

    bounds = np.array([(-30, 10), ALPHA_RANGE, (LOG_ZERO, 10)], float).T
    p, objective = minimize_huber(model, np.log(loss), begin, bounds, HUBER_DELTA)
    log_a, alpha, log_c = p[objective.argmin()]
    if is_on_bound(alpha):
        return None
    c = math.exp(log_c) if log_c > LOG_ZERO else 0.0
    return {"alpha": alpha, "a": math.exp(log_a + alpha * center), "c": c}


def fit_line(n, loss, form):
    """Returns a least-squares fit: of `power` (a N^-alpha, in log-log) {"alpha", "alpha_interval",
    "a", "r_squared"}, of `log_linear` (b - m ln N) {"slope", "intercept", "r_squared"}; r_squared
    is that of the loss."""
    x, y = np.log(n), np.log(loss) if form == "power" else loss
    slope, intercept = np.polyfit(x, y, 1)
    fitted = intercept + slope * x
    spread = ((loss - loss.mean()) ** 2).sum()
    told = fitted if form == "log_linear" else np.exp(fitted)
    r_squared = 1 - ((loss - told) ** 2).sum() / spread
    if form == "log_linear":
        return {"slope": -slope, "intercept": intercept, "r_squared": r_squared}
    dof = len(x) - 2
    error = math.sqrt(((y - fitted) ** 2).sum() / dof / ((x - x.mean()) ** 2).sum())
    half = half_of_t(dof) * error
    alpha = {"alpha": -slope, "alpha_interval": (-slope - half, -slope + half)}
    return {**alpha, "a": math.exp(intercept), "r_squared": r_squared}


def hold_out_largest(n, loss):
    """Returns the largest of four or more sizes predicted from the rest, beside the naive "same as
    the next largest"."""
    rest, largest = n < n.max(), n == n.max()
    measured = loss[largest].mean()
    fit = fit_power_law(n[rest], loss[rest])
    value, low, high = (v[0] for v in predict(fit, n.max(), runs=largest.sum()))
    known = math.isfinite(low)
    naive = loss[n == n[rest].max()].mean()
    return {
        "n": n.max(),
        "measured": measured,
        "predicted": value,
        "predicted_interval": [low, high] if known else None,
        "measured_inside_interval": low <= measured <= high if known else None,
        "relative_error": value / measured - 1,
        "naive_relative_error": naive / measured - 1,
    }
