"""Fits L(N) = a N^-alpha + c, the loss against size at one amount of text, with intervals.

Intervals were calibrated by simulation (benchmarks/scaling.md). Losses are nats per character.
Variable projection (Golub & Pereyra 1973): for a given alpha, a and c >= 0 have a closed form, so
the search is over alpha alone; the sum of squares as a function of alpha is the profile from which
the intervals come. Least squares is the estimate: on few clean points Huber's exponents scatter
more.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import optimize, special  # not scipy.stats: it takes a second to load

from study.fit.robust import HUBER_DELTA, LOG_ZERO, log_sum_exp, minimize_huber

LEVEL = 0.95  # of every interval
TAILS = [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2]  # percentiles that bound it
ALPHA_RANGE = (0.002, 3.0)  # searched; an interval that reaches an edge counts as unbounded
N_ALPHA = 400  # exponents of the grid, 1.9 % apart; ends are refined by bisection
MIN_SIZES = 4  # three parameters need at least one size more
# fewer repeated runs than this do not measure a seed noise: the residuals do
MIN_NOISE_DOF = 3
ALPHAS = np.geomspace(*ALPHA_RANGE, N_ALPHA)
FORMS = ("power_constant", "power", "log_linear")
HUBER_STARTS = (0.03, 0.1, 0.2, 0.4, 0.8, 1.6)  # exponents


def t_quantile(level, dof):
    return float(special.stdtrit(dof, level))


def is_on_bound(alpha):
    """Returns True for an exponent on an end of the range searched."""
    return not ALPHA_RANGE[0] * 1.001 < alpha < ALPHA_RANGE[1] / 1.001


# ---------------------------------------------------------------- L(N) = a N^-alpha + c


class PowerLaw(NamedTuple):
    """A fitted law."""

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
    n_runs: int
    critical: float = math.inf  # alpha, a, c whose `ss` is below this are inside the interval
    alpha_interval: tuple = (None, None)  # (low, high); None for an end beyond ALPHA_RANGE
    c_interval: tuple = (None, None)

    def at(self, n):
        """Returns the loss of the curve at n parameters."""
        return self.a * n**-self.alpha + self.c


def group_by_size(n, loss):
    """Returns distinct sizes, number of runs and mean loss of each, sum of squares within sizes."""
    n, loss = np.asarray(n, float), np.asarray(loss, float)
    sizes, inverse, weights = np.unique(n, return_inverse=True, return_counts=True)
    means = np.bincount(inverse, loss) / weights
    return sizes, weights.astype(float), means, float(((loss - means[inverse]) ** 2).sum())


def project(alphas, log_n, weights, losses):
    """Returns the best a >= 0, c >= 0 and the sum of squares, each (A,), for alphas (A,); log_n,
    weights and losses (K,).

    The bounds need no solver: a line of negative slope becomes the constant, one of negative
    intercept the line through zero.
    """
    x = np.exp(-np.outer(alphas, log_n))
    total = weights.sum()
    x_mean, y_mean = x @ weights / total, (weights * losses).sum() / total
    sxx = (x**2) @ weights - total * x_mean**2
    sxy = x @ (weights * (losses - y_mean))
    a = np.maximum(sxy / np.maximum(sxx, 1e-300), 0)
    c = y_mean - a * x_mean
    through_zero = (x @ (weights * losses)) / ((x**2) @ weights)
    a, c = np.where(c < 0, through_zero, a), np.maximum(c, 0)
    return a, c, (weights * (losses - a[:, None] * x - c[:, None]) ** 2).sum(1)


def fit_power_law(n, loss):
    """Returns the least-squares fit of a N^-alpha + c with profile-likelihood intervals.

    n, loss: one entry per run. The interval of alpha holds every alpha whose best sum of squares
    exceeds the minimum by no more than F(1, dof) * noise variance: alpha and c trade along a curved
    valley, so it is lopsided. ValueError with fewer than three sizes; with three no interval.
    """
    sizes, weights, means, within = group_by_size(n, loss)
    if len(sizes) < 3:
        raise ValueError(f"three parameters need at least three sizes, got {len(sizes)}")
    center = np.log(sizes).mean()
    log_n = np.log(sizes) - center
    n_runs = int(weights.sum())

    def profile(alpha):
        return float(project([alpha], log_n, weights, means)[2][0])

    ss_grid = project(ALPHAS, log_n, weights, means)[2]
    alpha = _best_alpha(profile, ss_grid)
    a, c, ss = (float(value[0]) for value in project([alpha], log_n, weights, means))
    spread = (weights * (means - np.average(means, weights=weights)) ** 2).sum() + within
    r_squared = 1 - (ss + within) / float(spread) if spread > 0 else 0.0
    # on the bound c = 0: with 3 there, intervals of such fits cover 99.7 % instead of 95 %
    n_free = 2 if c <= 0 else 3
    noise = _noise(ss, within, len(sizes) - n_free, n_runs - len(sizes))
    a = a * math.exp(alpha * center)
    fit = PowerLaw(alpha, a, c, r_squared, *noise, sizes, weights, means, ss, n_runs)
    if fit.noise_sd is None:
        return fit
    critical = ss + special.fdtri(1, fit.noise_dof, LEVEL) * variance_of(fit)
    interval = _alpha_interval(profile, ss_grid, alpha, critical)
    fit = fit._replace(critical=critical, alpha_interval=interval)
    return fit._replace(c_interval=_c_interval(fit))


def variance_of(fit):
    """Returns the variance of one run, never quite 0."""
    return max(fit.noise_sd, 1e-9 * fit.means.mean()) ** 2


def _best_alpha(profile, ss_grid):
    """Global minimum of the profile, from the five deepest local minima of the grid."""
    padded = np.concatenate([[math.inf], ss_grid, [math.inf]])
    best = ALPHAS[int(ss_grid.argmin())], ss_grid.min()
    local = np.flatnonzero((padded[1:-1] < padded[:-2]) & (padded[1:-1] <= padded[2:]))
    for i in local[np.argsort(ss_grid[local])][:5]:
        found = minimum_near(profile, i)
        best = min(best, (float(found.x), float(found.fun)), key=lambda pair: pair[1])
    return float(best[0])


def minimum_near(function, i):
    """Returns the minimum of a function of alpha between the neighbours of ALPHAS[i]."""
    ends = ALPHAS[max(i - 1, 0)], ALPHAS[min(i + 1, N_ALPHA - 1)]
    return optimize.minimize_scalar(
        function, bounds=ends, method="bounded", options={"xatol": 1e-10}
    )


def _noise(ss, ss_within, dof_lack, dof_within):
    """Standard deviation of one run, its degrees of freedom, its source, p-value of lack of fit.

    ss, dof_lack: scatter of the sizes' means about the curve; ss_within, dof_within: of the seeds
    about their means. Both estimate the same variance if the law holds (F test of lack of fit).
    """
    if dof_within >= MIN_NOISE_DOF:
        variance, p = ss_within / dof_within, None
        if dof_lack and variance > 0:
            p = float(special.fdtrc(dof_lack, dof_within, ss / dof_lack / variance))
        if p is not None and p < 1 - LEVEL:
            return math.sqrt(ss / dof_lack), dof_lack, "lack of fit", p
        return math.sqrt(variance), dof_within, "seeds", p
    dof = dof_lack + dof_within
    if dof <= 0:
        return None, 0, "none", None
    return math.sqrt((ss + ss_within) / dof), dof, "residuals", None


def _alpha_interval(profile, ss_grid, alpha, critical):
    """Smallest and largest alpha inside the region, None where it reaches the edge.

    The interval spans all pieces of the region. `alpha` is a node of its own: an interval may be
    narrower than the distance of two nodes.
    """
    nodes = np.append(ALPHAS, alpha)
    inside = np.append(ss_grid, profile(alpha)) <= critical
    order = np.argsort(nodes, kind="stable")
    nodes, inside = nodes[order], inside[order]
    inside[np.flatnonzero(nodes == alpha)] = True
    first, last = np.flatnonzero(inside)[[0, -1]]

    def end(out, within):
        if profile(nodes[within]) >= critical:  # the minimum itself, when the region is a point
            return float(nodes[within])
        crossing = lambda alpha: profile(alpha) - critical
        return float(optimize.brentq(crossing, nodes[out], nodes[within], xtol=1e-7))

    low = None if first == 0 else end(first - 1, first)
    high = None if last == len(nodes) - 1 else end(last + 1, last)
    return low, high


def _region(fit, alphas, at_n=None, extra=0.0):
    """Lowest and highest value of the curve at sizes `at_n` (M,) over the confidence region, for
    each of alphas (A,): low, high (A, M); NaN where nothing is inside.

    at_n None: c itself (an infinite size). extra: variance that a new observation adds, in units of
    the noise variance (1/m for the mean of m runs).

    For a fixed alpha let x_k = N_k^-alpha with weights w_k of sum W, X and Y the weighted means of
    x and of the losses, Sxx = sum of w_k (x_k - X)^2, m = c + a X. Then

        SS = SS0 + W (m - Y)^2 + Sxx (a - a0)^2 <= critical

    is an ellipse of m and a, in which the curve is linear: by Cauchy-Schwarz its extremes at
    u = N^-alpha are c0 + a0 u +- sqrt((critical - SS0) h), h = 1 / W + (u - X)^2 / Sxx + extra.
    Where a < 0 or c < 0 there, they lie on an axis: h = u^2 / sum of w_k x_k^2 or 1 / W.
    """
    center = np.log(fit.sizes).mean()
    x, w, y = np.exp(-np.outer(alphas, np.log(fit.sizes) - center)), fit.weights, fit.means
    u = np.zeros((len(alphas), 1))
    if at_n is not None:
        u = np.exp(-np.outer(alphas, np.log(at_n) - center))
    x_mean, y_mean = (x @ w / w.sum())[:, None], (w @ y) / w.sum()
    sxx = ((x - x_mean) ** 2 @ w)[:, None]

    a0 = (x @ (w * (y - y_mean)))[:, None] / sxx
    c0 = y_mean - a0 * x_mean
    slack = fit.critical - (w * (y - a0 * x - c0) ** 2).sum(1, keepdims=True)
    to_a, to_c = (u - x_mean) / sxx, 1 / w.sum() - x_mean * (u - x_mean) / sxx
    h = 1 / w.sum() + (u - x_mean) ** 2 / sxx + extra
    ends = _ends(a0 * u + c0, slack, h, [(a0, to_a), (c0, to_c)])

    x2 = (x**2 @ w)[:, None]  # the edge c = 0
    a1 = (x @ (w * y))[:, None] / x2
    slack = fit.critical - (w * (y - a1 * x) ** 2).sum(1, keepdims=True)
    ends += _ends(a1 * u, slack, u**2 / x2 + extra, [(a1, u / x2)])

    slack = fit.critical - float(w @ (y - y_mean) ** 2)  # the edge a = 0
    ends += _ends(np.full_like(u, y_mean), np.full_like(u, slack), 1 / w.sum() + extra, [])
    stacked = np.stack(ends)
    none = np.isnan(stacked).all(0)
    low = np.where(np.isnan(stacked), np.inf, stacked).min(0)
    high = np.where(np.isnan(stacked), -np.inf, stacked).max(0)
    return np.where(none, np.nan, low), np.where(none, np.nan, high)


def _ends(value, slack, h, coefficients):
    """[low, high] = value -+ sqrt(slack h); NaN where slack < 0 or one of the `coefficients`, pairs
    (estimate, its slope with the value), is negative."""
    half = np.sqrt(np.maximum(slack, 0) * h)
    step = np.sqrt(np.maximum(slack, 0) / np.maximum(h, 1e-300))
    ends = []
    for sign in (-1, 1):
        feasible = slack >= 0
        for estimate, direction in coefficients:
            feasible = feasible & (estimate + sign * step * direction >= 0)
        ends.append(np.where(feasible, value + sign * half, np.nan))
    return ends


def _inside_alphas(fit):
    low, high = fit.alpha_interval[0] or ALPHA_RANGE[0], fit.alpha_interval[1] or ALPHA_RANGE[1]
    return np.unique(np.append(np.geomspace(low, max(high, low * (1 + 1e-12)), 200), fit.alpha))


def _c_interval(fit):
    low, high = _region(fit, _inside_alphas(fit))
    if np.isnan(low).all():
        return fit.c, fit.c
    return max(float(np.nanmin(low)), 0.0), float(np.nanmax(high))


def predict(fit, n, runs=None):
    """Returns the loss at sizes n: (estimate, low, high); runs: m for the mean of m new runs, None
    for the curve."""
    n = np.atleast_1d(np.asarray(n, float))
    estimate = fit.at(n)
    if fit.noise_sd is None:
        return estimate, np.full(n.shape, np.nan), np.full(n.shape, np.nan)
    low, high = _region(fit, _inside_alphas(fit), n, 0.0 if runs is None else 1 / runs)
    return estimate, np.fmin(np.nanmin(low, 0), estimate), np.fmax(np.nanmax(high, 0), estimate)


# ---------------------------------------------------------------- another estimator, rival forms


def fit_huber(n, loss):
    """Returns {"alpha", "a", "c", "objective"} of a N^-alpha + c with a summed Huber loss on log L;
    None for the three if the best exponent lies on the bound of the search.

    It is nearly the median curve: robust to one bad run, but of five points it all but passes
    through three. So it is the check and not the estimate (benchmarks/scaling.md).
    """
    n, loss = np.asarray(n, float), np.asarray(loss, float)
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
    p, objective = minimize_huber(model, np.log(loss), begin, bounds, delta=HUBER_DELTA)
    best = int(objective.argmin())
    log_a, alpha, log_c = map(float, p[best])
    found = {"alpha": None, "a": None, "c": None, "objective": float(objective[best])}
    if not is_on_bound(alpha):
        found |= {"alpha": alpha, "a": math.exp(log_a + alpha * center)}
        found["c"] = math.exp(log_c) if log_c > LOG_ZERO else 0.0
    return found


def fit_line(n, loss, form):
    """Returns a least-squares fit: of `power` (a N^-alpha, in log-log) {"alpha", "alpha_interval",
    "a", "r_squared"}, of `log_linear` (b - m ln N) {"slope", "intercept", "r_squared"}.

    r_squared: of the loss. No interval with fewer than three runs.
    """
    x, loss = np.log(np.asarray(n, float)), np.asarray(loss, float)
    y = np.log(loss) if form == "power" else loss
    center = x.mean()
    sxx = ((x - center) ** 2).sum()
    slope = float((x - center) @ y / sxx)
    intercept = float(y.mean() - slope * center)
    fitted = intercept + slope * x
    spread = ((loss - loss.mean()) ** 2).sum()
    told = fitted if form == "log_linear" else np.exp(fitted)
    r_squared = float(1 - ((loss - told) ** 2).sum() / spread) if spread > 0 else 0.0
    if form == "log_linear":
        return {"slope": -slope, "intercept": intercept, "r_squared": r_squared}
    dof, interval = len(x) - 2, None
    if dof > 0:
        error = t_quantile(0.5 + LEVEL / 2, dof) * math.sqrt(((y - fitted) ** 2).sum() / dof / sxx)
        interval = (-slope - error, -slope + error)
    alpha = {"alpha": -slope, "alpha_interval": interval}
    return {**alpha, "a": math.exp(intercept), "r_squared": r_squared}


def predict_form(form, n, loss, at_n):
    if form == "power_constant":
        return fit_power_law(n, loss).at(at_n)
    line = fit_line(n, loss, form)
    if form == "power":
        return line["a"] * at_n ** -line["alpha"]
    return line["intercept"] - line["slope"] * math.log(at_n)


def hold_out_largest(n, loss):
    """Returns the largest size predicted from the rest by each form, beside the naive "same as the
    next largest"; None if fewer than three sizes remain. Errors are relative."""
    n, loss = np.asarray(n, float), np.asarray(loss, float)
    rest, largest = n < n.max(), n == n.max()
    if len(np.unique(n[rest])) < 3:
        return None
    measured = float(loss[largest].mean())
    fit = fit_power_law(n[rest], loss[rest])
    _, low, high = (float(v[0]) for v in predict(fit, n.max(), runs=int(largest.sum())))
    known = math.isfinite(low)
    naive = float(loss[n == n[rest].max()].mean()) / measured - 1
    errors = {
        form: predict_form(form, n[rest], loss[rest], n.max()) / measured - 1 for form in FORMS
    }
    return {
        "n": float(n.max()),
        "measured": measured,
        "predicted": float(fit.at(n.max())),
        "predicted_interval": [low, high] if known else None,
        "measured_inside_interval": low <= measured <= high if known else None,
        "relative_error": errors["power_constant"],
        "naive_relative_error": naive,
        "forms": errors,
    }
