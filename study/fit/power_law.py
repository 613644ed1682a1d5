"""Mathematics of scaling laws: fits of loss against size, their intervals, and comparisons of two
families.

Few sizes and three parameters: R2 says nothing, so every estimate here comes with an interval that
was calibrated by simulation (benchmarks/scaling.md). Arrays go in and out; `study/fit/analysis.py`
knows about runs.

L(N) = a N^-alpha + c is fitted by variable projection (Golub & Pereyra 1973): for a given alpha it
is linear in a and c, so a and c >= 0 have a closed form and the search is over alpha alone: no
start values, no local optimum in a and c. The sum of squares as a function of alpha is then also
the profile from which the intervals come. N is scaled by its geometric mean inside (N^-alpha of
millions and a alone span ten decades); losses are nats per character.

Which estimator. Least squares, on the loss with profile intervals for L(N), on log loss with a
bootstrap for the joint
law: runs of one recipe are clean, and on clean points Huber's exponents scatter more. Huber on log
loss beside either, as a check, and as the published joint laws are fitted.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import optimize, special  # not scipy.stats: it takes a second to load

from study.fit.robust import HUBER_DELTA, LOG_ZERO, log_sum_exp, minimize_huber

LEVEL = 0.95  # of every interval
TAILS = [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2]  # percentiles that bound it
# exponents searched; an interval that reaches an edge counts as unbounded
ALPHA_RANGE = (0.002, 3.0)
# grid points, evenly spaced in log alpha (1.9 % apart; ends are refined by bisection)
N_ALPHA = 400
MIN_SIZES = 4  # three parameters need at least one size more
# fewer repeated runs than this do not measure a seed noise: the residuals do
MIN_NOISE_DOF = 3
USEFUL_ERROR = 0.04  # relative; the accuracy that Choshen et al. 2024 call useful
ALPHAS = np.geomspace(*ALPHA_RANGE, N_ALPHA)


def f_quantile(level, dof, noise_dof):
    """Quantile of Fisher's F."""
    return float(special.fdtri(dof, noise_dof, level))


def t_quantile(level, dof):
    """Quantile of Student's t."""
    return float(special.stdtrit(dof, level))


def is_on_bound(alpha):
    """True for an exponent on an end of the range searched: it is the search's number, and no
    finding."""
    return not ALPHA_RANGE[0] * 1.001 < alpha < ALPHA_RANGE[1] / 1.001


# ---------------------------------------------------------------- L(N) = a N^-alpha + c


class PowerLaw(NamedTuple):
    """A fitted law with all that its intervals need. `sizes` are distinct N, `means` the mean loss
    of each, `weights` the number of runs of each; `noise_sd` is that of one run, None if nothing
    measures it."""

    alpha: float
    a: float
    c: float
    alpha_interval: tuple  # (low, high); None for an end that lies beyond ALPHA_RANGE
    c_interval: tuple
    r_squared: float
    noise_sd: float | None
    noise_dof: int
    noise_source: str  # "seeds", "residuals", "lack of fit", "given" or "none"
    lack_of_fit_p: float | None
    sizes: np.ndarray
    weights: np.ndarray
    means: np.ndarray
    ss: float  # between sizes: sum of weight * (mean - fit)^2
    critical: float  # alpha, a, c whose `ss` is below this are inside the interval
    n_runs: int
    level: float


def group_by_size(n, loss):
    """Distinct sizes, number of runs, mean loss of each size, and the sum of squares within the
    sizes."""
    n, loss = np.asarray(n, float), np.asarray(loss, float)
    sizes, inverse, weights = np.unique(n, return_inverse=True, return_counts=True)
    means = np.bincount(inverse, loss) / weights
    return sizes, weights.astype(float), means, float(((loss - means[inverse]) ** 2).sum())


def project(alphas, log_n, weights, losses):
    """Best a, c >= 0 for each alpha and each data set: variable projection with two non-negative
    coefficients.

    alphas (A,), log_n (K,), weights and losses (B, K) -> a, c, ss, each (A, B).

    a >= 0 and c >= 0 are part of the law: loss falls with size and cannot go below zero. Without
    them a few noisy points can be met best by a loss that rises with N, or that ends below zero.
    With two coefficients the bounds need
    no solver: a line of negative slope becomes the constant, one of negative intercept the line
    through zero.
    """
    x = np.exp(-np.outer(alphas, log_n))
    total = weights.sum(1)
    x_mean, y_mean = x @ weights.T / total, (weights * losses).sum(1) / total
    sxx = (x**2) @ weights.T - total * x_mean**2
    sxy = x @ (weights * (losses - y_mean[:, None])).T
    a = np.maximum(sxy / np.maximum(sxx, 1e-300), 0)
    c = y_mean - a * x_mean
    through_zero = (x @ (weights * losses).T) / ((x**2) @ weights.T)
    a, c = np.where(c < 0, through_zero, a), np.maximum(c, 0)
    residual = losses[None] - a[:, :, None] * x[:, None] - c[:, :, None]
    return a, c, (weights[None] * residual**2).sum(2)


def fit_power_law(n, loss, noise=None, level=LEVEL):
    """Least-squares fit of a N^-alpha + c with profile-likelihood intervals.

    n, loss: one entry per run. noise: (sd, degrees of freedom) if the noise of one run is known
    from elsewhere. The interval of alpha holds every alpha whose best sum of squares exceeds the
    minimum by no more than F(1, dof) * noise variance. The noise is that of the seeds where at
    least MIN_NOISE_DOF repeated runs measure it, unless the curve misses the means by more than it
    allows; otherwise that of the residuals (n - 3 degrees of freedom, n - 2 where the best c is 0:
    with n - 3 there, intervals of such fits cover 99.7 % instead of 95 %). Raises ValueError if
    fewer than three sizes are given; with three the curve has no interval.

    Why a profile and not alpha +- 1.96 standard errors: alpha and c trade against each other along
    a curved valley,
    so the interval is lopsided (0.05 to 0.63 about 0.15 for the original study's Transformers) and
    may have no end at all, which a standard error cannot say. Why not the bootstrap: redrawing five
    sizes leaves too few distinct ones, and residuals of five points about three parameters
    understate the noise by sqrt(5 / 2). The profile covers 94 to 98 % in every simulated design
    that can identify anything at all.
    """
    sizes, weights, means, ss_within = group_by_size(n, loss)
    if len(sizes) < 3:
        raise ValueError(f"three parameters need at least three sizes, got {len(sizes)}")
    center = np.log(sizes).mean()
    log_n = np.log(sizes) - center
    n_runs, dof_within = int(weights.sum()), int(weights.sum()) - len(sizes)

    def profile(alpha):
        return float(project([alpha], log_n, weights[None], means[None])[2][0, 0])

    ss_grid = project(ALPHAS, log_n, weights[None], means[None])[2][:, 0]
    alpha = _best_alpha(profile, ss_grid)
    a, c, ss = (float(v[0, 0]) for v in project([alpha], log_n, weights[None], means[None]))
    ss_total = (
        float((weights * (means - np.average(means, weights=weights)) ** 2).sum()) + ss_within
    )
    r_squared = 1 - (ss + ss_within) / ss_total if ss_total > 0 else 0.0

    n_free = 2 if c <= 0 else 3  # on the bound c = 0 the curve has used one degree of freedom less
    noise_sd, noise_dof, source, p = _noise(ss, ss_within, len(sizes) - n_free, dof_within, noise)
    fit = PowerLaw(
        alpha,
        a * math.exp(alpha * center),
        c,
        (None, None),
        (None, None),
        r_squared,
        noise_sd,
        noise_dof,
        source,
        p,
        sizes,
        weights,
        means,
        ss,
        math.inf,
        n_runs,
        level,
    )
    if noise_sd is None:
        return fit
    # a floor against rounding when the points lie on the curve
    variance = max(noise_sd, 1e-9 * means.mean()) ** 2
    # F(1, .): one parameter is asked about, a and c are chosen best for each alpha
    fit = fit._replace(critical=ss + f_quantile(level, 1, noise_dof) * variance)
    fit = fit._replace(alpha_interval=_alpha_interval(profile, ss_grid, alpha, fit.critical))
    return fit._replace(c_interval=_c_interval(fit))


def _best_alpha(profile, ss_grid):
    """Global minimum of the profile: the five deepest local minima of the grid are starts."""
    padded = np.concatenate([[math.inf], ss_grid, [math.inf]])
    best = ALPHAS[int(ss_grid.argmin())], ss_grid.min()
    local = np.flatnonzero((padded[1:-1] < padded[:-2]) & (padded[1:-1] <= padded[2:]))
    for i in local[np.argsort(ss_grid[local])][:5]:
        low, high = ALPHAS[max(i - 1, 0)], ALPHAS[min(i + 1, N_ALPHA - 1)]
        minimum = optimize.minimize_scalar(
            profile, bounds=(low, high), method="bounded", options={"xatol": 1e-10}
        )
        best = min(best, (float(minimum.x), float(minimum.fun)), key=lambda pair: pair[1])
    return float(best[0])


def _noise(ss, ss_within, dof_lack, dof_within, given):
    """Standard deviation of one run, its degrees of freedom, where it comes from, p-value of lack
    of fit.

    ss, dof_lack: scatter of the sizes' means about the curve; ss_within, dof_within: of the seeds
    about their means. Both estimate the same variance if the law holds, which the F test of their
    ratio (lack of fit) examines: seeds alone would give an interval far too narrow to a curve that
    does not pass through the means.
    """
    if given:
        return given[0], given[1], "given", None
    if dof_within >= MIN_NOISE_DOF:
        variance = ss_within / dof_within
        p = (
            float(special.fdtrc(dof_lack, dof_within, ss / dof_lack / variance))
            if dof_lack and variance > 0
            else None
        )
        # the means scatter about the curve by more than the seeds explain
        if p is not None and p < 1 - LEVEL:
            return math.sqrt(ss / dof_lack), dof_lack, "lack of fit", p
        return math.sqrt(variance), dof_within, "seeds", p
    dof = dof_lack + dof_within
    return (
        (math.sqrt((ss + ss_within) / dof), dof, "residuals", None)
        if dof > 0
        else (None, 0, "none", None)
    )


def _alpha_interval(profile, ss_grid, alpha, critical):
    """Smallest and largest alpha inside the region, ends found by bisection; None where it reaches
    the edge.

    The region may consist of several pieces (the profile has several minima): the interval spans
    them all. `alpha` is a node of its own, because an interval may be narrower than the 1.9 %
    between two nodes of the grid.
    """
    nodes = np.append(ALPHAS, alpha)
    values = np.append(ss_grid, profile(alpha))
    order = np.argsort(nodes, kind="stable")
    nodes, inside = nodes[order], values[order] <= critical
    inside[np.flatnonzero(nodes == alpha)] = True
    first, last = np.flatnonzero(inside)[[0, -1]]

    def end(out, within):
        if profile(nodes[within]) >= critical:  # the minimum itself, when the region is a point
            return float(nodes[within])
        return float(
            optimize.brentq(lambda v: profile(v) - critical, nodes[out], nodes[within], xtol=1e-7)
        )

    low = None if first == 0 else end(first - 1, first)
    high = None if last == len(nodes) - 1 else end(last + 1, last)
    return low, high


def _region(fit, alphas, at_n=None, extra=0.0):
    """Lowest and highest value of the curve at each size in `at_n` over the confidence region, by
    alpha.

    at_n None stands for c itself (an infinite size). extra: variance, in units of the noise
    variance, that a new observation adds (1 for one run, 1/m for the mean of m). Returns low, high
    (A, M); NaN where nothing is inside.

    Derivation. The region holds all (alpha, a, c) with SS(alpha, a, c) <= critical. Fix alpha and
    write x_k = N_k^-alpha, W = sum of the weights w_k, X and Y for the weighted means of x and of
    the losses y, Sxx = sum of w_k (x_k - X)^2. With m = c + a X, the height of the line over X, the
    cross term of the weighted sum
    of squares vanishes:

        SS = SS0 + W (m - Y)^2 + Sxx (a - a0)^2        a0, c0 and SS0: the unconstrained optimum at
            this alpha

    so the region is an ellipse of m and a with what is left, slack = critical - SS0. The curve at u
    = N^-alpha is c + a u = m + a (u - X), linear in both, and by Cauchy-Schwarz its extremes on the
    ellipse are

        c0 + a0 u +- sqrt(slack h)                     h = 1 / W + (u - X)^2 / Sxx, its variance in
            noise variances

    reached at a = a0 +- sqrt(slack / h) (u - X) / Sxx and c = c0 +- sqrt(slack / h) (1 / W - X (u -
    X) / Sxx). A new observation is one more term of SS, (y_new - curve)^2 / extra: the same with h
    + extra in the place of h.

    These extremes count only where a >= 0 and c >= 0 there. If not, the extreme of a linear
    function over the ellipse cut by the two axes lies on one of the axes, where a single
    coefficient is left and the same argument holds with h = u^2 / sum of w_k x_k^2 (c = 0) and h =
    1 / W (a = 0). Both ends of such a chord belong to the region, so both are candidates for the
    lowest and for the highest value.
    """
    center = np.log(fit.sizes).mean()
    x, w, y = np.exp(-np.outer(alphas, np.log(fit.sizes) - center)), fit.weights, fit.means
    u = (
        np.zeros((len(alphas), 1))
        if at_n is None
        else np.exp(-np.outer(alphas, np.log(at_n) - center))
    )
    x_mean, y_mean = (x @ w / w.sum())[:, None], (w @ y) / w.sum()
    sxx = ((x - x_mean) ** 2 @ w)[:, None]

    a0 = (x @ (w * (y - y_mean)))[:, None] / sxx
    c0 = y_mean - a0 * x_mean
    slack = fit.critical - (w * (y - a0 * x - c0) ** 2).sum(1, keepdims=True)
    to_a, to_c = (u - x_mean) / sxx, 1 / w.sum() - x_mean * (u - x_mean) / sxx
    ends = _ends(
        a0 * u + c0, slack, 1 / w.sum() + (u - x_mean) ** 2 / sxx + extra, [(a0, to_a), (c0, to_c)]
    )

    x2 = (x**2 @ w)[:, None]  # the edge c = 0
    a1 = (x @ (w * y))[:, None] / x2
    slack = fit.critical - (w * (y - a1 * x) ** 2).sum(1, keepdims=True)
    ends += _ends(a1 * u, slack, u**2 / x2 + extra, [(a1, u / x2)])

    slack = fit.critical - float(w @ (y - y_mean) ** 2)  # the edge a = 0
    ends += _ends(np.full_like(u, y_mean), np.full_like(u, slack), 1 / w.sum() + extra, [])

    stacked = np.stack(ends)
    missing = np.isnan(stacked)
    low, high = np.where(missing, np.inf, stacked).min(0), np.where(missing, -np.inf, stacked).max(
        0
    )
    return np.where(missing.all(0), np.nan, low), np.where(missing.all(0), np.nan, high)


def _ends(value, slack, h, coefficients):
    """[low, high] = value -+ sqrt(slack h); NaN where the region is empty (slack < 0) or one of the
    `coefficients`, pairs (estimate, direction in which it moves with the value), is negative
    there."""
    half = np.sqrt(np.maximum(slack, 0) * h)
    step = np.sqrt(np.maximum(slack, 0) / np.maximum(h, 1e-300))
    ends = []
    for sign in (-1, 1):
        feasible = slack >= 0
        for estimate, direction in coefficients:
            feasible = feasible & (estimate + sign * step * direction >= 0)
        ends.append(np.where(feasible, value + sign * half, np.nan))
    return ends


def inside_alphas(fit, count=200):
    """Exponents spread over the interval of alpha, the estimate among them."""
    low, high = fit.alpha_interval[0] or ALPHA_RANGE[0], fit.alpha_interval[1] or ALPHA_RANGE[1]
    return np.unique(np.append(np.geomspace(low, max(high, low * (1 + 1e-12)), count), fit.alpha))


def _c_interval(fit):
    """Smallest and largest c inside the region; an alpha interval that is open above leaves c's end
    known."""
    low, high = _region(fit, inside_alphas(fit))
    if np.isnan(low).all():
        return fit.c, fit.c
    return max(float(np.nanmin(low)), 0.0), float(np.nanmax(high))


def predict(fit, n, runs=None):
    """Loss at sizes n: (estimate, low, high). runs: None for an interval of the curve, m for the
    mean of m new runs."""
    n = np.atleast_1d(np.asarray(n, float))
    estimate = fit.a * n**-fit.alpha + fit.c
    if fit.noise_sd is None:
        return estimate, np.full(n.shape, np.nan), np.full(n.shape, np.nan)
    low, high = _region(fit, inside_alphas(fit), n, 0.0 if runs is None else 1 / runs)
    return estimate, np.fmin(np.nanmin(low, 0), estimate), np.fmax(np.nanmax(high, 0), estimate)


def fit_huber(n, loss, delta=HUBER_DELTA, starts=(0.03, 0.1, 0.2, 0.4, 0.8, 1.6)):
    """Multi-start fit of a N^-alpha + c with a summed Huber loss on log L: {"alpha", "a", "c",
    "objective"}; None for the three if the best exponent lies on the bound of the search.

    log L is a log-sum-exp of (log a - alpha log N, log c): in log space an error of 1 % counts the
    same at every loss, and a and c are positive without a bound. With a delta far below the noise
    this is nearly the median curve: robust to one bad run, but with five points it all but passes
    through three of them. So it is the check and not the
    estimate: in simulated studies its error of log alpha is 5 to 28 % larger than that of least
    squares
    (benchmarks/scaling.md).
    """
    n, loss = np.asarray(n, float), np.asarray(loss, float)
    center = np.log(n).mean()
    x = np.log(n) - center
    sizes, weights, means, _ = group_by_size(n, loss)
    a, c, _ = project(starts, np.log(sizes) - center, weights[None], means[None])
    begin = np.stack(
        [np.log(np.maximum(a[:, 0], 1e-3)), starts, np.log(np.maximum(c[:, 0], 1e-3))], 1
    )

    def model(p):
        value, share = log_sum_exp(
            np.stack([p[:, :1] - p[:, 1:2] * x, np.broadcast_to(p[:, 2:], (len(p), len(x)))])
        )
        return value, np.stack([share[0], -share[0] * x, share[1]], -1)

    bounds = np.array([(-30, 10), ALPHA_RANGE, (LOG_ZERO, 10)], float).T
    p, objective = minimize_huber(model, np.log(loss), begin, bounds, delta=delta)
    best = int(objective.argmin())
    log_a, alpha, log_c = p[best]
    if is_on_bound(alpha):
        return {"alpha": None, "a": None, "c": None, "objective": float(objective[best])}
    return {
        "alpha": float(alpha),
        "a": float(math.exp(log_a + alpha * center)),
        "c": float(math.exp(log_c)) if log_c > LOG_ZERO else 0.0,
        "objective": float(objective[best]),
    }


# ---------------------------------------------------------------- rival forms


def fit_line(n, loss, form):
    """`power` (a N^-alpha: a line in log-log) or `log_linear` (b - m ln N) by least squares.

    Returns {"alpha" or "slope", its interval, "a" or "intercept", "r_squared" (of the loss), ...};
    interval None when fewer than three runs are given. These are the forms of papers that leave c
    out: their intervals are narrow because they take c = 0 for known, and the loss they promise to
    large models falls without end.
    """
    x, loss = np.log(np.asarray(n, float)), np.asarray(loss, float)
    y = np.log(loss) if form == "power" else loss
    center = x.mean()
    sxx = ((x - center) ** 2).sum()
    slope = float((x - center) @ y / sxx)
    intercept = float(y.mean() - slope * center)
    fitted = intercept + slope * x
    dof = len(x) - 2
    interval = None
    if dof > 0:
        error = t_quantile(0.5 + LEVEL / 2, dof) * math.sqrt(((y - fitted) ** 2).sum() / dof / sxx)
        interval = (-slope - error, -slope + error)
    predicted = np.exp(fitted) if form == "power" else fitted
    spread = ((loss - loss.mean()) ** 2).sum()
    result = {
        "r_squared": float(1 - ((loss - predicted) ** 2).sum() / spread) if spread > 0 else 0.0
    }
    if form == "power":
        y_spread = ((y - y.mean()) ** 2).sum()
        return {
            "alpha": -slope,
            "alpha_interval": interval,
            "a": math.exp(intercept),
            "c": 0.0,
            **result,
            "r_squared_log_log": (
                float(1 - ((y - fitted) ** 2).sum() / y_spread) if y_spread > 0 else 0.0
            ),
        }
    return {"slope": -slope, "slope_interval": interval, "intercept": intercept, **result}


def predict_form(form, n, loss, at_n):
    """Loss at `at_n` by a form fitted to (n, loss); the three-parameter form needs three sizes."""
    if form == "power_floor":
        fit = fit_power_law(n, loss)
        return fit.a * at_n**-fit.alpha + fit.c
    line = fit_line(n, loss, form)
    return (
        line["a"] * at_n ** -line["alpha"]
        if form == "power"
        else line["intercept"] - line["slope"] * math.log(at_n)
    )


FORMS = ("power_floor", "power", "log_linear")


def hold_out_largest(n, loss):
    """The largest size predicted from the rest by each form, beside the naive "same as the next
    largest".

    Errors are relative: (predicted - measured) / measured. None if fewer than three sizes remain.
    The largest and not any size, because that is what a law is for; the naive guess, because losses
    of neighbouring sizes are so alike that 5 % of error is no achievement.
    """
    n, loss = np.asarray(n, float), np.asarray(loss, float)
    rest, largest = n < n.max(), n == n.max()
    if len(np.unique(n[rest])) < 3:
        return None
    measured = float(loss[largest].mean())
    fit = fit_power_law(n[rest], loss[rest])
    estimate, low, high = (float(v[0]) for v in predict(fit, n.max(), runs=int(largest.sum())))
    known = math.isfinite(low)
    naive = float(loss[n == n[rest].max()].mean())
    errors = {
        form: predict_form(form, n[rest], loss[rest], n.max()) / measured - 1 for form in FORMS
    }
    error = abs(errors["power_floor"])
    return {
        "n": float(n.max()),
        "n_sizes_used": int(len(fit.sizes)),
        "measured": measured,
        "predicted": estimate,
        "predicted_interval": [low, high] if known else None,
        "measured_inside_interval": low <= measured <= high if known else None,
        "relative_error": errors["power_floor"],
        "naive_predicted": naive,
        "naive_relative_error": naive / measured - 1,
        "better_than_naive": error < abs(naive / measured - 1),
        "useful_error": USEFUL_ERROR,
        "within_useful_error": error <= USEFUL_ERROR,
        "forms": errors,
    }


def leave_one_size_out(n, loss):
    """Root mean square relative error of each form over sizes left out in turn, and alpha without
    each size."""
    n, loss = np.asarray(n, float), np.asarray(loss, float)
    sizes = np.unique(n)
    errors, alphas = {form: [] for form in FORMS}, {}
    for size in sizes if len(sizes) > 3 else []:
        rest = n != size
        measured = loss[~rest].mean()
        for form in FORMS:
            errors[form].append(predict_form(form, n[rest], loss[rest], size) / measured - 1)
        alpha = fit_power_law(n[rest], loss[rest]).alpha
        alphas[size] = None if is_on_bound(alpha) else alpha
    rms = {form: float(np.sqrt(np.mean(np.square(e)))) if e else None for form, e in errors.items()}
    return rms, alphas
