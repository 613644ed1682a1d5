"""The plane of sizes and amounts of data: the joint law of one family, what moves its exponents,
its far corner.

    entry, draws = fit_plane(rows, settings, rng)     # part of fits.json
    promise = predict_corner(rows, n, d)              # the loss of a run that is larger than all of
        these

Rows come from `study/fit/records.py`. L = E + ((A / N^alpha)^k + (B / D^beta)^k)^(1/k) is fitted by
least squares on log
loss: with k = 1 (the wants of size and of text add up) unless the data reject that, and with E = 0
where they then do not ask for a floor. Its intervals are those of runs redrawn
(benchmarks/scaling.md: coverage in simulated planes). No isoFLOP parabolas: they are biased where
alpha and beta differ, and a direct fit of the surface needs no vertex. What an analyst may choose
is tried one by one, and the interval that is quoted holds the estimate of every choice.
"""

import math

from study.stages.stage import value_digest

import numpy as np
from scipy import special

from study.families import label
from study.fit import power_law as law
from study.fit.records import COUNTS, columns, count_of, is_positive
from study.fit.verdict import MOST_RATIO
from study.wording import si

EXPONENTS = ("alpha", "beta", "n_opt_exponent")
# E below this share of the lowest loss measured is on its way to the bound 0, along a flat valley
NO_FLOOR = 0.01
# runs that repeat another size and amount with another seed, to know how seeds scatter
MIN_SEED_DOF = 8
MIN_RUNS = 7  # five parameters leave two runs to judge them
# of every choice: its interval only says whether it still holds the exponents
CHOICE_RESAMPLES = 200
HIGHEST_CUT = 1e5  # lower cuts in N that are tried go up to it
FORMS = {"sum": law.SUM, "norm": law.NORM, "norm and floor": law.NORM_AND_FLOOR}
FORM_WORDS = {
    "sum": "sum of both wants (k = 1)",
    "norm": "order k free, no floor (E = 0)",
    "norm and floor": "order k and floor free",
}
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
    floor}, its fit as `law.fit_joint` gives it, by least squares).

    The forms are nested in that one, so that the sum of squares grows by F(1, degrees of freedom)
    if they are true: the first of FORMS that is not rejected at 5 %. With fewer than two degrees of
    freedom that is the sum.
    """
    fits = {name: law.fit_joint(n, d, loss, law.SQUARES, form) for name, form in FORMS.items()}
    general, dof = FORMS["norm and floor"], len(loss) - FORMS["norm and floor"].n_free
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
    chosen = next((name for name in p if p[name] >= 1 - law.LEVEL), "norm and floor")
    return chosen, p, fits[chosen]


def fit_plane(rows, settings, rng, choices=True):
    """The joint law of one family: (JSON entry, draws), or (reason, None) if these runs cannot give
    it.
    choices False: without those of the analyst, in a fifth of the time."""
    rows = [
        row
        for row in rows
        if is_positive(row["n_chars_seen"]) and is_positive(row["val_nats_per_char"])
    ]
    if not rows:
        return "the amount of training data (D) is not given", None
    count = count_of(rows)
    n_sizes, n_amounts = (len({row[key] for row in rows}) for key in (count, "n_chars_seen"))
    # an exponent and its coefficient need three points in that direction
    if n_amounts < 3 or n_sizes < 3 or len(rows) < MIN_RUNS:
        return (
            (
                f"{n_sizes} sizes, {n_amounts} amounts of data and {len(rows)} runs; three of each"
                " and seven runs are needed"
            ),
            None,
        )
    sizes = sorted({row[count] for row in rows})
    name, form_p, fit = choose_form(*_points(rows, count))
    cut = first_on_the_law(
        sizes, lambda size: _misfit_of_size(rows, count, size, FORMS[name]), law.MIN_SIZES + 1
    )
    everything, rows = rows, [row for row in rows if row[count] >= cut]
    n, d, loss = _points(rows, count)
    if cut != sizes[0]:
        name, form_p, fit = choose_form(n, d, loss)
    form, (parameters, objective, optimum) = FORMS[name], fit
    draws = law.bootstrap_joint(n, d, loss, optimum, settings.n_resamples, rng, law.SQUARES, form)
    intervals = np.percentile(draws, law.TAILS, axis=0).T if len(draws) else [None] * len(law.JOINT)
    errors = draws.std(0) if len(draws) else [None] * len(law.JOINT)
    fitted = law.joint_loss(parameters, n, d)
    problems, on_bound = _problems(parameters, draws, loss.min(), intervals, form)
    misfit = lack_of_fit(rows, count, 2 * objective, form)
    if misfit and misfit["p"] < BEND_LEVEL:
        problems.append(
            f"no one law holds: runs lie {misfit['ratio']:.1f} times as far from it as seeds from"
            f" each other (p = {misfit['p']:.1g})"
        )
    optimal = parameters[4] / (parameters[3] + parameters[4])
    many = draws[:, 4] / (draws[:, 3] + draws[:, 4])
    entry = {
        **{
            name: {
                "value": None if on_bound else value,
                "interval": interval,
                "standard_error": error,
            }
            for name, value, interval, error in zip(law.JOINT, parameters, intervals, errors)
        },
        "form": name,
        "form_p": form_p,
        "r_squared": 1 - ((loss - fitted) ** 2).sum() / ((loss - loss.mean()) ** 2).sum(),
        "objective": objective,
        "noise_sd_log_loss": math.sqrt(2 * objective / (len(rows) - form.n_free)),
        "lack_of_fit": misfit,
        "count": count,
        "n_runs": len(rows),
        "n_sizes": len(set(n)),
        "n_amounts_of_data": n_amounts,
        "bends_below": None if cut == sizes[0] else cut,
        "runs_below": len(everything) - len(rows),
        "n_range": [n.min(), n.max()],
        "d_range": [d.min(), d.max()],
        "flops_range": [law.FLOPS_PER_ND * (n * d).min(), law.FLOPS_PER_ND * (n * d).max()],
        "resamples": len(draws),
        "identified": not problems,
        "reason": "; ".join(problems) or "no parameter lies on a bound",
        "n_opt_exponent": {
            **_with_band(None if on_bound else optimal, many, settings.band_percent),
            "interval": np.percentile(many, law.TAILS) if len(many) else None,
        },
    }
    budgets = (
        [] if on_bound else np.geomspace(entry["flops_range"][0], 100 * entry["flops_range"][1], 25)
    )
    entry["frontier"] = [
        recommend(parameters, draws, budget, entry, settings.band_percent) for budget in budgets
    ]
    entry["choices"] = (
        plane_choices(everything, cut, entry, settings, rng)
        if choices and len(draws) and not on_bound
        else []
    )
    for name in EXPONENTS:
        entry[name]["over_choices"] = (
            None if problems else _over_choices(name, entry, entry["choices"])
        )
    entry["corner"] = held_out_corner(rows, settings.seed)
    return entry, draws


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
    return 2 * law.fit_joint(*_points(rows, count), law.SQUARES, form)[1]


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


def _problems(parameters, draws, lowest_loss, intervals, form):
    """(why the joint law is not identified, in words; whether its best fit lies on a bound of the
    search: then its values are the bound's, not the data's)."""
    low, high = law.EXPONENT_BOUNDS
    exponents = np.concatenate([parameters[None, 3:5], draws[:, 3:5]])
    on_bound = ((exponents < 1.01 * low) | (exponents > high / 1.01)).any(1)
    problems = []
    best_on_bound = bool(on_bound[0] or form.floor and parameters[0] < NO_FLOOR * lowest_loss)
    if best_on_bound:
        problems.append("the best fit lies on a bound")
    if len(draws) and on_bound[1:].mean() > 1 - law.LEVEL:
        problems.append(
            f"{100 * on_bound[1:].mean():.0f} % of the resamples put an exponent on a bound"
        )
    if not len(draws):
        problems.append("no bootstrap was made, so nothing says how firm the parameters are")
    elif not problems:
        problems += [
            f"the interval of {name} is wider than a factor of {MOST_RATIO}"
            for name, (low, high) in zip(law.JOINT[3:5], intervals[3:5])
            if high > MOST_RATIO * low
        ]
    return problems, best_on_bound


def _with_band(value, draws, band_percent):
    tails = [50 - band_percent / 2, 50 + band_percent / 2]
    return {"value": value, "band": np.percentile(draws, tails).tolist() if len(draws) else None}


# ---------------------------------------------------------------- what the exponents owe to the
# analyst


def plane_choices(rows, cut, headline, settings, rng):
    """How alpha, beta and the compute-optimal exponent move with each choice: a list of {"group",
    "choice", "alpha", "beta", "n_opt_exponent": {"value", "interval"}, "counts"}; counts: the
    choice is part of the interval quoted.

    A choice does not count that goes against the data: a form that they reject, sizes below the
    bend. rows: all of the plane; cut: smallest N of the headline; headline: its "form" and
    "form_p".
    """
    count = count_of(rows)
    kept = [row for row in rows if row[count] >= cut]
    found, form, form_p = [], headline["form"], headline["form_p"]
    for group, choice, own, options in _plane_choices(rows, kept, count, form):
        n, loss = columns(
            own, options.get("count", count), options.get("loss", "val_nats_per_char")
        )
        d, delta, name = amounts(own), options.get("delta", law.SQUARES), options.get("form", form)
        if not np.isfinite(loss).all() or len({*n}) < law.MIN_SIZES or len({*d}) < 3:
            continue
        parameters, _, optimum = law.fit_joint(n, d, loss, delta, FORMS[name])
        draws = law.bootstrap_joint(
            n,
            d,
            loss,
            optimum,
            min(settings.n_resamples, CHOICE_RESAMPLES),
            rng,
            delta,
            FORMS[name],
        )
        values = _exponents(parameters)
        ends = np.percentile(_exponents(draws), law.TAILS, axis=-1).T
        holds = options.get("at_n", cut) >= cut and (
            name == form or form_p.get(name, 1.0) >= 1 - law.LEVEL
        )
        found.append(
            {
                "group": group,
                "choice": choice,
                "n_runs": len(own),
                "counts": bool(holds),
                **({"at_n": options["at_n"]} if "at_n" in options else {}),
                **{
                    name: {"value": value, "interval": interval}
                    for name, value, interval in zip(EXPONENTS, values, ends)
                },
            }
        )
    return found


def _exponents(parameters):
    """alpha, beta and beta / (alpha + beta) of parameters (6,) or (M, 6), first axis: the three."""
    alpha, beta = np.asarray(parameters)[..., 3], np.asarray(parameters)[..., 4]
    return np.stack([alpha, beta, beta / (alpha + beta)])


def _plane_choices(rows, kept, count, form):
    """Yields (group, choice in words, rows, options)."""
    yield "headline", f"{COUNTS[count]}, least squares", kept, {}
    for other, words in COUNTS.items():
        if other != count and all(is_positive(row.get(other)) for row in kept):
            yield "counting", words, kept, {"count": other}
    for other, words in FORM_WORDS.items():
        if other != form:
            yield "form", words, kept, {"form": other}
    yield "estimator", "Huber", kept, {"delta": law.HUBER_DELTA}
    if all(is_positive(row["test_nats_per_char"]) for row in kept):
        yield "loss", "test split", kept, {"loss": "test_nats_per_char"}
    for n, size in cuts(rows, count).items():
        yield "cut", f"from size {size}", [row for row in rows if row[count] >= n], {"at_n": n}
    smallest = min(row["n_chars_seen"] for row in kept)
    yield "cut", f"D > {si(smallest)}", [row for row in kept if row["n_chars_seen"] > smallest], {}


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


def _over_choices(name, entry, choices):
    """The interval of an exponent widened to hold the estimates of all choices that count, and its
    half-width."""
    value, (low, high) = entry[name]["value"], entry[name]["interval"]
    for choice in choices:
        if choice["group"] == "cut":
            choice[name]["beyond_noise"] = beyond_noise(*choice[name].values(), value, (low, high))
    values = [
        choice[name].get("beyond_noise", choice[name]["value"])
        for choice in choices
        if choice["counts"]
    ]
    low, high = min([low, *values]), max([high, *values])
    return {"interval": [low, high], "half_width": (high - low) / 2}


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
    draws = law.bootstrap_joint(
        sizes, data, loss, optimum, resamples, rng, law.SQUARES, FORMS[name]
    )
    dof = len(rows) - FORMS[name].n_free
    noise = math.sqrt(2 * objective / dof / runs) * rng.standard_t(dof, len(draws))
    low, high = np.percentile(law.joint_loss(draws, float(n), float(d)) * np.exp(noise), law.TAILS)
    used = sorted(
        [row["name"], row[count], row["n_chars_seen"], row["val_nats_per_char"]] for row in rows
    )
    return {
        "n": n,
        "d": d,
        "prediction": float(law.joint_loss(parameters, float(n), float(d))),
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
    return {
        **promise,
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
    best = law.optimal_split(parameters, flops)
    many = law.optimal_split(draws, flops) if len(draws) else [np.empty(0)] * 3
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


def budget_sentence(family, entry, draws, flops, band_percent):
    """What to train with `flops`, from a family's entry of the joint law and its draws."""
    if entry["E"]["value"] is None:
        return (
            f"{label(family)}: no recommendation from a joint law that is not identified:"
            f" {entry['reason']}"
        )
    draws = np.array(draws)
    best = recommend(
        [entry[name]["value"] for name in law.JOINT], draws, flops, entry, band_percent
    )
    parts = []
    for key, what in (("n_opt", "N"), ("d_opt", "D"), ("loss", "loss")):
        value, band = best[key]["value"], best[key]["band"]
        ends = f" ({band_percent} % band {si(band[0])} to {si(band[1])})" if band else ""
        parts.append(f"{what} {si(value)}{ends}")
    return f"{label(family)} with {flops:.3g} FLOPs (C = 6ND): {', '.join(parts)}" + (
        " -- outside the sizes or data that were measured: an extrapolation"
        if best["extrapolates"]
        else ""
    )
