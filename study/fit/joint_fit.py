"""Fits the plain law of size and text to each family by itself, and spends a budget of FLOPs by it.

L = E + ((A / N^alpha)^k + (B / D^beta)^k)^(1/k) with k = 1 unless the data reject that. Intervals:
runs redrawn.
"""

import numpy as np

from study.fit import shared_law as shared
from study.fit.headline_runs import headline_rows
from study.fit.power_law import LEVEL, TAILS, fit_power_law
from study.fit.records import count_of, is_ladder
from study.fit.verdict import MOST_RATIO
from study.wording import interval, rounded, si

MIN_RUNS = 7  # five parameters leave two runs to judge them
MISFIT_LEVEL, MIN_SEED_DOF = 0.01, 8  # of the test of lack of fit; degrees of freedom it needs
FLOPS_PER_ND = 6.0  # C = 6 N D: 2 forward and 4 backward per weight
BAND = (10, 90)  # percentiles of what a budget buys, as in Hoffmann et al. 2022
LEAST_SPREAD = 0.35  # standard deviation of ln N at given D that a design needs
MOST_TOGETHER = 0.95  # correlation of ln N and ln D from which on a design is a line


def rows_of_grid(own):
    """Returns a family's runs for the law of size and text: one recipe, the ladder's where it has
    three amounts."""
    ladder = [row for row in own if is_ladder(row)]
    if len({row["n_chars_seen"] for row in ladder}) < 3:
        ladder = [row for row in own if not is_ladder(row)] or own
    recipe = headline_rows(ladder)[0]["recipe"]
    return [row for row in ladder if row["recipe"] == recipe]


def too_few(points):
    """Returns why these runs give no law of size and text, in words, or None."""
    n_sizes, n_amounts, n_runs = len(set(points.n)), len(set(points.d)), len(points.n)
    if not n_runs:
        return "the amount of training data (D) is not given"
    if min(n_amounts, n_sizes) >= 3 and n_runs >= MIN_RUNS:
        return None
    return (
        f"{n_sizes} sizes, {n_amounts} amounts of data and {n_runs} runs; three of each and seven"
        " runs are needed"
    )


def cannot_tell(n, d):
    """Returns the exponent x of D ~ N^x if the distinct pairs of N and D are a line, else None."""
    pairs = np.unique(np.log(np.stack([n, d], 1)), axis=0)
    x_n, x_d = (pairs - pairs.mean(0)).T
    if not x_d.any() or not x_n.any():
        return None
    correlation = (x_n @ x_d) / np.sqrt((x_n @ x_n) * (x_d @ x_d))
    left = x_n.std() * np.sqrt(max(1 - correlation**2, 0))
    is_line = abs(correlation) > MOST_TOGETHER or left < LEAST_SPREAD
    return (x_n @ x_d) / (x_n @ x_n) if is_line else None


def along_the_line(n, d, loss, power):
    """Returns {"exponent", "interval"} of L = c + a N^-g along the line D ~ N^power, with
    "separating_runs", two pairs (N, D) off it; the same in words."""
    fit = fit_power_law(n, loss) if len(np.unique(n)) > 3 else None
    exponent, pair = (fit.alpha, list(fit.alpha_interval)) if fit else (None, None)
    words = f"sizes and data grow together (D ~ N^{power:.2g}), so alpha and beta"
    words += " cannot be told apart"
    if pair and None not in pair:
        value = rounded(exponent, *pair)
        words += f"; known is the exponent along that line, {value} ({interval(pair)})"
    runs = [[n.min(), d.max()], [n.max(), d.min()]]
    pairs = " and of ".join(f"N = {si(n)} on D = {si(d)}" for n, d in runs)
    words += f"; runs of {pairs} would separate them"
    return {"exponent": exponent, "interval": pair, "separating_runs": runs}, words


def fit_grid(rows, resamples, rng):
    """Returns (entry of fits.json, Fit, parameters (resamples, P)) of a family; (entry, None, None)
    where sizes and data grow together, (reason, None, None) of too few runs."""
    points = shared.points_of(rows)
    if reason := too_few(points):
        return reason, None, None
    n_runs = len(points.loss)
    entry = {
        "count": count_of(rows),
        "n_runs": n_runs,
        "n_sizes": len(set(points.n)),
        "n_amounts_of_data": len(set(points.d)),
        "n_range": [points.n.min(), points.n.max()],
        "d_range": [points.d.min(), points.d.max()],
    }
    power = cannot_tell(points.n, points.d)
    if power is not None:
        along, reason = along_the_line(points.n, points.d, points.loss, power)
        unknown = dict.fromkeys(shared.JOINT, {"value": None, "interval": None})
        entry |= {"identified": False, "reason": reason, "design": along}
        return {**unknown, **entry}, None, None
    form, p, found = choose_form(points)
    weights = rng.multinomial(n_runs, np.full(n_runs, 1 / n_runs), size=resamples)
    draws = shared.refitted(found, points, weights.astype(float))
    misfit = shared.misfit_by_region(found, points)[0]
    on_bound = shared.is_on_bound(found, np.vstack([found.parameters, draws]))
    told = _told(found, draws, on_bound[0])
    problems = _problems(told, on_bound, misfit)
    reason = "; ".join(problems) or "no parameter lies on a bound"
    entry |= {"form": form, "form_p": p, "scatter": found.scatter, "lack_of_fit": misfit}
    entry |= {"identified": not problems, "reason": reason}
    return {**told, **entry}, found, draws


def choose_form(points):
    """Returns (name of the form, p-value of the sum, Fit): the sum, unless a free order with two
    degrees of freedom rejects it."""
    added = shared.fit(points, shared.Shape((), 0.0, sum=True))
    free = shared.fit(points, shared.Shape((), 0.0))
    if len(points.loss) - free.n_free < 2:
        return "sum", None, added
    p = shared.against(added, free)["p"]
    return ("sum", p, added) if p >= 1 - LEVEL else ("order free", p, free)


def _told(found, draws, on_bound):
    """Returns {name of JOINT, "n_opt_exponent": {"value", "interval"}}; no values on a bound."""
    best, many = shared.values(found), shared.values(found, draws)
    for own in (best, many):
        own["n_opt_exponent"] = own["beta"] / (own["alpha"] + own["beta"])
    return {
        name: {
            "value": None if on_bound else best[name],
            "interval": np.percentile(many[name], TAILS) if len(draws) else None,
        }
        for name in (*shared.JOINT, "n_opt_exponent")
    }


def _problems(told, on_bound, misfit):
    """Returns why the law is not identified; on_bound: the best fit, then each resample."""
    problems, resamples = [], on_bound[1:]
    if on_bound[0]:
        problems.append("the best fit lies on a bound")
    if not len(resamples):
        problems.append("no bootstrap was made, so nothing says how firm the parameters are")
    elif resamples.mean() > 1 - LEVEL:
        problems.append(
            f"{100 * resamples.mean():.0f} % of the resamples put an exponent on a bound"
        )
    elif not problems:
        for name in ("alpha", "beta"):
            low, high = told[name]["interval"]
            if high > MOST_RATIO * low:
                problems.append(f"the interval of {name} is wider than a factor of {MOST_RATIO}")
    tested = misfit["p"] is not None and misfit["runs"] - misfit["cells"] >= MIN_SEED_DOF
    if tested and misfit["p"] < MISFIT_LEVEL:
        problems.append(
            f"this plain form misses the runs by {misfit['ratio']:.1f} times what seeds scatter"
            f" (p = {misfit['p']:.1g})"
        )
    return problems


def optimal_split(flops, E, A, B, alpha, beta, order, kappa=0.0):
    """Returns the compute-optimal (N, D, loss) at C = FLOPS_PER_ND * N * D FLOPs, where
    alpha (A / N^alpha)^k = beta (B / D^beta)^k (Hoffmann et al. 2022, equation 4, for k = 1)."""
    budget = flops / FLOPS_PER_ND
    g = ((alpha / beta) ** (1 / order) * A / B) ** (1 / (alpha + beta))
    n = g * budget ** (beta / (alpha + beta))
    d = budget / n
    return n, d, shared.joint_loss(n, d, E, A, B, alpha, beta, order)


def recommend(entry, found, draws, flops):
    """Returns ({"N", "D", "loss": (value, band or None)}, whether it lies outside the runs)."""
    best = optimal_split(flops, **shared.values(found))
    many = optimal_split(flops, **shared.values(found, draws))
    bands = [np.percentile(own, BAND) if len(own) else None for own in many]
    ranges = entry["n_range"], entry["d_range"]
    inside = all(low <= value <= high for value, (low, high) in zip(best, ranges))
    return dict(zip(("N", "D", "loss"), zip(best, bands))), not inside
