"""Fits the joint law of one family to a grid of sizes and amounts of data, and predicts its largest
run from smaller ones.

    entry, draws = fit_plane(rows, settings, rng)     # part of fits.json
    promise = predict_corner(rows, n, d)              # the loss of a run larger than all of these

Rows come from `study/fit/records.py`. L = E + ((A / N^alpha)^k + (B / D^beta)^k)^(1/k) is fitted by
least squares on log loss, with k = 1 (the terms of size and of data add up) unless the data reject
that; E is free. Intervals: runs redrawn (benchmarks/scaling.md has their coverage). No isoFLOP
parabolas: they are biased where alpha and beta differ. These plain forms are the rivals of the
shared law with its copying term (`study/fit/shared_law.py`), which is what the answer quotes.
"""

import math
from typing import NamedTuple

from study.stages.files import value_digest

import numpy as np
from scipy import special

from study.fit import design, joint_law, robust
from study.fit import power_law as law
from study.fit.records import columns, count_of, is_positive
from study.fit.verdict import MOST_RATIO

# runs that repeat another size and amount with another seed, to know how seeds scatter
MIN_SEED_DOF = 8
MIN_RUNS = 7  # five parameters leave two runs to judge them
# E is free in both: it is never set to 0 because that is not rejected
FORMS = {"sum": joint_law.SUM, "order free": joint_law.NORM_AND_FLOOR}
GENERAL = "order free"
BEND_LEVEL = 0.01  # of the test whether small sizes lie on the law of the larger ones


def amounts(rows):
    """D of the rows as an array of floats."""
    return np.array([row["n_chars_seen"] for row in rows], float)


# ---------------------------------------------------------------- do further runs lie on a law?


def misfit_p(squares_core, dof_core, squares_all, n_more):
    """p-value of `n_more` further runs under a law fitted to others: small if they raise the sum of
    squares by more than the noise of the others explains, F(n_more, dof_core)."""
    return float(
        special.fdtrc(
            n_more,
            dof_core,
            max(squares_all - squares_core, 0.0) / n_more / max(squares_core / dof_core, 1e-18),
        )
    )


def first_on_the_law(sizes, misfit, least):
    """The smallest of `sizes` (in order) that lies on the law of the larger ones, at least `least`
    of which are left.

    misfit(size): p-value of the runs of that size under the law of all larger ones. If no size
    passes before too few
    are left, no cut mends the law: then all of them are kept.
    """
    for size in sizes[: len(sizes) - least]:
        if misfit(size) >= BEND_LEVEL:
            return size
    return sizes[0]


# ---------------------------------------------------------------- the joint law of one family


def _points(rows, count):
    """N, D and loss of the rows."""
    n, loss = columns(rows, count)
    return n, amounts(rows), loss


def choose_form(n, d, loss):
    """(name of the form of the joint law, {name: p-value of the form under the one with order and
    floor}, its fit as `joint_law.fit_joint` gives it, by least squares).

    The forms are nested in that one, so that the sum of squares grows by F(1, degrees of freedom)
    if they are true: the first of FORMS that is not rejected at 5 %. With fewer than two degrees of
    freedom that is the sum.
    """
    fits = {
        name: joint_law.fit_joint(n, d, loss, robust.SQUARES, form) for name, form in FORMS.items()
    }
    general, dof = FORMS[GENERAL], len(loss) - FORMS[GENERAL].n_free
    if dof < 2:
        return "sum", {}, fits["sum"]
    squares = {name: 2 * objective for name, (_, objective, _) in fits.items()}
    # a fit from other starts may lie below the general one by what the solver leaves
    least = min(squares.values())
    p = {
        name: misfit_p(least, dof, squares[name], general.n_free - form.n_free)
        for name, form in FORMS.items()
        if form != general
    }
    chosen = next((name for name in p if p[name] >= 1 - law.LEVEL), GENERAL)
    return chosen, p, fits[chosen]


class JointFit(NamedTuple):
    """The joint law of one family: its form, the p-values of the form under the general one, the
    parameters in the order of `joint_law.JOINT`, the objective, the scaled optimum and the smallest
    N that is fitted."""

    form: str
    form_p: dict
    parameters: np.ndarray
    objective: float
    optimum: np.ndarray
    cut: float


def fit_plane(rows, settings, rng):
    """Fits the joint law of one family: (JSON entry, draws), or (reason, None) if these runs cannot
    give it."""
    rows = usable(rows)
    if reason := too_few(rows):
        return reason, None
    count = count_of(rows)
    n, d, loss = _points(rows, count)
    if words := design.cannot_tell(n, d):
        return _entry_of_a_line(rows, count, words), np.empty((0, len(joint_law.JOINT)))
    fit = _fit(rows, count)
    kept = [row for row in rows if row[count] >= fit.cut]
    n, d, loss = _points(kept, count)
    form = FORMS[fit.form]
    draws = joint_law.bootstrap_joint(
        n, d, loss, fit.optimum, settings.n_resamples, rng, robust.SQUARES, form
    )
    misfit = lack_of_fit(kept, count, 2 * fit.objective, form)
    problems, on_bound = _problems(fit, draws, misfit)
    entry = {
        **_parameters(fit, draws, on_bound, settings),
        "form": fit.form,
        "form_p": fit.form_p,
        "r_squared": _r_squared(fit, n, d, loss),
        "objective": fit.objective,
        "noise_sd_log_loss": math.sqrt(2 * fit.objective / (len(kept) - form.n_free)),
        "lack_of_fit": misfit,
        **_ranges(kept, count),
        "bends_below": None if fit.cut == min(row[count] for row in rows) else fit.cut,
        "runs_below": len(rows) - len(kept),
        "resamples": len(draws),
        "identified": not problems,
        "reason": "; ".join(problems) or "no parameter lies on a bound",
        "corner": held_out_corner(kept, settings.seed),
    }
    return entry, draws


def usable(rows):
    """Returns the rows that say their amount of text and have a loss."""
    return [
        row
        for row in rows
        if is_positive(row["n_chars_seen"]) and is_positive(row["val_nats_per_char"])
    ]


def too_few(rows):
    """Returns why these rows give no joint law, in words, or None: an exponent and its coefficient
    need three points in that direction."""
    if not rows:
        return "the amount of training data (D) is not given"
    count = count_of(rows)
    n_sizes, n_amounts = (len({row[key] for row in rows}) for key in (count, "n_chars_seen"))
    if n_amounts >= 3 and n_sizes >= 3 and len(rows) >= MIN_RUNS:
        return None
    return (
        f"{n_sizes} sizes, {n_amounts} amounts of data and {len(rows)} runs; three of each and"
        " seven runs are needed"
    )


def _fit(rows, count):
    """Fits the form that the runs do not reject, above the size where it bends."""
    sizes = sorted({row[count] for row in rows})
    form, form_p, fit = choose_form(*_points(rows, count))
    cut = first_on_the_law(
        sizes, lambda size: _misfit_of_size(rows, count, size, FORMS[form]), law.MIN_SIZES + 1
    )
    if cut != sizes[0]:
        kept = [row for row in rows if row[count] >= cut]
        form, form_p, fit = choose_form(*_points(kept, count))
    return JointFit(form, form_p, *fit, cut)


def _parameters(fit, draws, on_bound, settings):
    """Returns {name: {"value", "interval", "standard_error"}}; no values on a search bound."""
    entry = {}
    for i, name in enumerate(joint_law.JOINT):
        entry[name] = {
            "value": None if on_bound else fit.parameters[i],
            "interval": np.percentile(draws[:, i], law.TAILS) if len(draws) else None,
            "standard_error": draws[:, i].std() if len(draws) else None,
        }
    alpha, beta = fit.parameters[3:5]
    many = draws[:, 4] / (draws[:, 3] + draws[:, 4])
    value = None if on_bound else beta / (alpha + beta)
    entry["n_opt_exponent"] = {
        **_with_band(value, many, settings.band_percent),
        "interval": np.percentile(many, law.TAILS) if len(many) else None,
    }
    return entry


def _r_squared(fit, n, d, loss):
    fitted = joint_law.joint_loss(fit.parameters, n, d)
    return 1 - ((loss - fitted) ** 2).sum() / ((loss - loss.mean()) ** 2).sum()


def _ranges(rows, count):
    n, d, _ = _points(rows, count)
    flops = joint_law.FLOPS_PER_ND * n * d
    return {
        "count": count,
        "n_runs": len(rows),
        "n_sizes": len(set(n)),
        "n_amounts_of_data": len(set(d)),
        "n_range": [n.min(), n.max()],
        "d_range": [d.min(), d.max()],
        "flops_range": [flops.min(), flops.max()],
    }


def _entry_of_a_line(rows, count, words):
    """Returns the entry of a design whose sizes and data grow together: no exponent of either, but
    that along the line, and the runs that would separate them."""
    n, d, loss = _points(rows, count)
    unknown = {"value": None, "interval": None, "standard_error": None}
    names = (*joint_law.JOINT, "n_opt_exponent")
    found = design.along_the_line(n, d, loss)
    return {
        **{name: dict(unknown) for name in names},
        "form": None,
        "lack_of_fit": None,
        **_ranges(rows, count),
        "bends_below": None,
        "runs_below": 0,
        "resamples": 0,
        "identified": False,
        "reason": design.sentence(words, found),
        "design": found,
        "corner": None,
    }


def lack_of_fit(rows, count, squares, form):
    """Does the law miss the runs by more than seeds scatter? {"p": F test, "ratio": of the standard
    deviations, "dof", "seed_dof"}; None where fewer than MIN_SEED_DOF runs repeat another. squares:
    of log loss about the law."""
    cells = {}
    for row in rows:
        cells.setdefault((row[count], row["n_chars_seen"]), []).append(
            math.log(row["val_nats_per_char"])
        )
    of_seeds = sum(len(cell) * np.var(cell) for cell in cells.values())
    seed_dof, dof = len(rows) - len(cells), len(cells) - form.n_free
    if seed_dof < MIN_SEED_DOF or dof < 1:
        return None
    ratio = max(squares - of_seeds, 0.0) / dof / max(of_seeds / seed_dof, 1e-18)
    return {
        "p": float(special.fdtrc(dof, seed_dof, ratio)),
        "ratio": math.sqrt(ratio),
        "dof": dof,
        "seed_dof": seed_dof,
    }


def _squares(rows, count, form):
    """Sum of squares of log loss about the joint law fitted to the rows."""
    return 2 * joint_law.fit_joint(*_points(rows, count), robust.SQUARES, form)[1]


def _misfit_of_size(rows, count, size, form):
    core = [row for row in rows if row[count] > size]
    more = sum(row[count] == size for row in rows)
    if len(core) < MIN_RUNS:
        return 1.0
    return misfit_p(
        _squares(core, count, form),
        len(core) - form.n_free,
        _squares([row for row in rows if row[count] >= size], count, form),
        more,
    )


def _problems(fit, draws, misfit):
    """Returns (why the joint law is not identified, in words; whether its best fit lies on a bound
    of the search: then its values are the bound's, not the data's)."""
    low, high = joint_law.EXPONENT_BOUNDS
    exponents = np.concatenate([fit.parameters[None, 3:5], draws[:, 3:5]])
    on_bound = ((exponents < 1.01 * low) | (exponents > high / 1.01)).any(1)
    problems = ["the best fit lies on a bound"] if on_bound[0] else []
    if len(draws) and on_bound[1:].mean() > 1 - law.LEVEL:
        share = 100 * on_bound[1:].mean()
        problems.append(f"{share:.0f} % of the resamples put an exponent on a bound")
    if not len(draws):
        problems.append("no bootstrap was made, so nothing says how firm the parameters are")
    elif not problems:
        for name, values in zip(joint_law.JOINT[3:5], draws[:, 3:5].T):
            low, high = np.percentile(values, law.TAILS)
            if high > MOST_RATIO * low:
                problems.append(f"the interval of {name} is wider than a factor of {MOST_RATIO}")
    if misfit and misfit["p"] < BEND_LEVEL:
        problems.append(
            f"this plain form misses the runs by {misfit['ratio']:.1f} times what seeds scatter"
            f" (p = {misfit['p']:.1g})"
        )
    return problems, bool(on_bound[0])


def _with_band(value, draws, band_percent):
    tails = [50 - band_percent / 2, 50 + band_percent / 2]
    return {"value": value, "band": np.percentile(draws, tails).tolist() if len(draws) else None}


# ---------------------------------------------------------------- a corner that was not seen


def predict_corner(rows, n, d, seed=0, resamples=200, runs=1):
    """Loss, nats per character, of a model of n parameters trained on d characters, from the rows
    of one family with a smaller N and a smaller D (others are left out): {"n", "d", "prediction",
    "interval", "n_runs", "digest"}.

    n: in the count of the ladder (`params_non_embedding`). interval: 95 % for the mean of `runs`
    new runs, from the runs redrawn and their scatter; digest: of the runs used, names, sizes,
    amounts and losses. ValueError with the reason if the runs cannot give a law.
    """
    count = count_of(rows)
    rows = [
        row
        for row in rows
        if row[count] < n and row["n_chars_seen"] < d and is_positive(row["val_nats_per_char"])
    ]
    if (
        len({row[count] for row in rows}) < law.MIN_SIZES
        or len({row["n_chars_seen"] for row in rows}) < 3
    ):
        raise ValueError(
            f"{len(rows)} smaller runs: four sizes and three amounts of data are needed"
        )
    (sizes, data, loss), rng = _points(rows, count), np.random.default_rng(seed)
    name, _, (parameters, objective, optimum) = choose_form(sizes, data, loss)
    draws = joint_law.bootstrap_joint(
        sizes, data, loss, optimum, resamples, rng, robust.SQUARES, FORMS[name]
    )
    dof = len(rows) - FORMS[name].n_free
    noise = math.sqrt(2 * objective / dof / runs) * rng.standard_t(dof, len(draws))
    low, high = np.percentile(
        joint_law.joint_loss(draws, float(n), float(d)) * np.exp(noise), law.TAILS
    )
    used = sorted(
        [row["name"], row[count], row["n_chars_seen"], row["val_nats_per_char"]] for row in rows
    )
    return {
        "n": n,
        "d": d,
        "prediction": float(joint_law.joint_loss(parameters, float(n), float(d))),
        "interval": [float(low), float(high)],
        "form": name,
        "n_runs": len(rows),
        "digest": value_digest(used),
    }


def held_out_corner(rows, seed=0):
    """The runs of the largest N at the largest D predicted from those without either, beside what
    was measured; None where the plane has no such corner or too little beside it."""
    count = count_of(rows)
    n, d = max(row[count] for row in rows), max(row["n_chars_seen"] for row in rows)
    corner = [
        row["val_nats_per_char"] for row in rows if row[count] == n and row["n_chars_seen"] == d
    ]
    try:
        return (
            beside_measured(predict_corner(rows, n, d, seed, runs=len(corner)), corner)
            if corner
            else None
        )
    except ValueError:
        return None


def beside_measured(promise, losses):
    """A prediction with the losses measured there since: their mean, the relative error, and
    whether it lies inside."""
    measured = float(np.mean(losses))
    low, high = promise["interval"]
    copied = (promise.get("if_copies") or {}).get("interval")
    return {
        **promise,
        "inside_if_copies": copied and bool(copied[0] <= measured <= copied[1]),
        "measured": measured,
        "measured_runs": len(losses),
        "relative_error": promise["prediction"] / measured - 1,
        "inside": low <= measured <= high,
    }


def compare_promise(promise, rows):
    """A prediction written before (`predict_corner`) beside the runs that have been trained at its
    N and D; None if there is none yet."""
    count = count_of(rows)
    losses = [
        row["val_nats_per_char"]
        for row in rows
        if row[count] == promise["n"] and row["n_chars_seen"] == promise["d"]
    ]
    return beside_measured(promise, losses) if losses else None


# ---------------------------------------------------------------- a budget


def recommend(parameters, draws, flops, entry, band_percent):
    """Compute-optimal N, D and loss at a budget with their bands; `extrapolates` if outside the
    runs fitted."""
    best = joint_law.optimal_split(parameters, flops)
    many = joint_law.optimal_split(draws, flops) if len(draws) else [np.empty(0)] * 3
    n, d, _ = best
    inside = (
        entry["n_range"][0] <= n <= entry["n_range"][1]
        and entry["d_range"][0] <= d <= entry["d_range"][1]
    )
    bands = {
        key: _with_band(value, draw, band_percent)
        for key, value, draw in zip(("n_opt", "d_opt", "loss"), best, many)
    }
    return {"flops": flops, **bands, "extrapolates": not inside}
