"""From runs to fits.json: the law of each family, its verdict, the families compared, the joint law, and the words.

The mathematics stands in `study/scaling_law.py`, the rows come from `study/records.py`. What a reader may turn is passed
in (`Settings`, from 06_fit_scaling.py). Everything loops over the families that have runs, in the order of
`study/families.py`.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

from study import scaling_design
from study import scaling_law as law
from study.figures import in_order, label, si
from study.measurements import plain
from study.records import is_positive
from study.scaling_verdict import MOST_RATIO, RIVAL_LEVEL, RIVALS, verdict

COSTS = {"params_total": "parameters", "train_flops": "training FLOPs", "seconds": "training seconds"}
IN_SHORT = {"params_total": "parameters", "train_flops": "FLOPs", "seconds": "seconds"}
VALIDATION = "validation loss, nats per character"
NO_FLOOR = 0.01  # E below this share of the lowest loss measured is on its way to the bound 0, along a flat valley
DIGITS = 10  # of every number: more than any loss is known to, too few for another machine's last bits to show


class Settings(NamedTuple):
    """What a reader may turn."""

    n_resamples: int     # of every bootstrap; 0: none
    seed: int            # of the resampling
    band_percent: float  # width of the bands of the compute-optimal frontier
    near: tuple          # (from, to) as shares of the context: whose loss is compared with ...
    far: tuple           # ... that of the end of the context


class Analysis(NamedTuple):
    """What is known of the runs: `result` is fits.json, the rest is kept for figures and tables."""

    result: dict
    laws: dict   # family -> scaling_law.PowerLaw
    draws: dict  # family -> (resamples, 5) parameters of the joint law


# ---------------------------------------------------------------- which runs make a curve

def headline_rows(rows):
    """The runs of the L(N) fit: one recipe and one D, those with the most sizes (of equals: the largest D).

    L(N) is a curve at fixed D: sizes trained on different amounts of text would put the effect of D into alpha. The
    tuned recipe goes before the classic one, whose runs are there to compare with the original study.
    """
    groups = {}
    for row in rows:
        groups.setdefault((row["recipe"] != "classic", row["n_chars_seen"] or 0, str(row["recipe"])), []).append(row)
    return max(groups.items(), key=lambda group: (_n_sizes(group[1]), group[0]))[1]


def unusable(rows):
    """Why a family's losses cannot even be compared, in words, or None."""
    bad = [str(row["name"]) for row in rows if not is_positive(row["val_nats_per_char"])]
    if bad:
        return f"no finite positive loss in {', '.join(bad)}"
    seen = {}
    for row in rows:  # a run that counts twice would make the noise look smaller than it is
        key = row["params_total"], row["n_chars_seen"], row["seed"], row["recipe"]
        if key in seen:
            return f"the size N = {key[0]:,.0f} occurs twice with seed {key[2]} ({seen[key]}, {row['name']})"
        seen[key] = row["name"]
    return None


def refusal(rows):
    """Why no law is fitted to a family's runs, in words, or None."""
    if reason := unusable(rows):
        return reason
    if _n_sizes(rows) < law.MIN_SIZES:
        return f"{_n_sizes(rows)} sizes; a law with three parameters needs at least {law.MIN_SIZES}"
    at_one_d = headline_rows(rows)
    if _n_sizes(at_one_d) < law.MIN_SIZES:
        return (f"at most {_n_sizes(at_one_d)} sizes share one amount of training data, so L(N) at fixed D cannot be "
                f"fitted (at least {law.MIN_SIZES} are needed)")
    n, loss = columns(at_one_d)
    if law.fit_line(n, loss, "log_linear")["slope"] <= 0:
        how = "rise with N" if loss.max() > loss.min() else "are all the same"
        return (f"the losses {how} (from {loss[n == n.min()].mean():.4f} at N = {n.min():,.0f} to "
                f"{loss[n == n.max()].mean():.4f} at N = {n.max():,.0f}): no law of diminishing loss applies")
    return None


def columns(rows, n="params_total", loss="val_nats_per_char"):
    """Two columns of the rows as arrays of floats."""
    return np.array([row[n] for row in rows], float), np.array([row[loss] for row in rows], float)


def _n_sizes(rows):
    return len({row["params_total"] for row in rows})


def spread_of_seeds(n, loss):
    """Standard deviation over the runs of each size, in order of size; None where there is one run."""
    return [float(loss[n == size].std(ddof=1)) if (n == size).sum() > 1 else None for size in np.unique(n)]


# ---------------------------------------------------------------- fits of one family

def fit_family(rows, settings, rng):
    """The entry of one family in fits.json, and the fit itself (scaling_law.PowerLaw).

    Three forms stand side by side because so few points seldom tell them apart, and what decides between them is not
    R2 (all are above 0.9 on anything that falls) but how well each predicts a size that it has not seen.
    """
    n, loss = columns(rows)
    fit = law.fit_power_law(n, loss)
    found = verdict(fit)
    numbers = {"alpha": fit.alpha, "a": fit.a, "c": fit.c}
    if law.is_on_bound(fit.alpha):  # the bound's numbers, not the data's
        numbers = dict.fromkeys(numbers)
    huber, power, line = law.fit_huber(n, loss), law.fit_line(n, loss, "power"), law.fit_line(n, loss, "log_linear")
    held_out = law.hold_out_largest(n, loss)
    leave_out_rms, alpha_without = law.leave_one_size_out(n, loss)
    errors = held_out["forms"] if held_out else None
    entry = {
        **numbers, "r_squared": fit.r_squared, "alpha_interval": fit.alpha_interval, "c_interval": fit.c_interval,
        "verdict": found.word, "identified": found.identified, "reason": found.reason, "reason_in_short": found.short,
        "rivals": found.rivals,
        "n_sizes": len(fit.sizes), "n_runs": fit.n_runs, "n_seeds": len({row["seed"] for row in rows}),
        "n_chars_seen": rows[0]["n_chars_seen"], "recipe": rows[0]["recipe"],
        "noise": {"sd_nats": fit.noise_sd, "degrees_of_freedom": fit.noise_dof, "source": fit.noise_source,
                  "lack_of_fit_p": fit.lack_of_fit_p},
        "falls_with_n": bool((np.diff(fit.means) < 0).all()),
        "forms": {"power_floor": {"formula": "a N^-alpha + c", **numbers,
                                  "alpha_interval": fit.alpha_interval, "r_squared": fit.r_squared},
                  "power": {"formula": "a N^-alpha", **power},
                  "log_linear": {"formula": "intercept - slope ln N", **line}},
        # least squares is the estimate; where the robust one disagrees, a single run pulls the curve
        "huber": {**huber, "inside_interval": None if huber["alpha"] is None else
                  _is_inside(huber["alpha"], fit.alpha_interval)},
        "best_predicting_form": {
            "held_out_largest": min(errors, key=lambda form: abs(errors[form])) if errors else None,
            "leave_one_size_out": min(leave_out_rms, key=leave_out_rms.get) if leave_out_rms["power"] is not None
            else None,
            "leave_one_size_out_rms": leave_out_rms},
        "held_out": held_out,
        "alpha_without_size": {f"{size:.0f}": alpha for size, alpha in alpha_without.items()},
        "bootstrap": law.bootstrap_power_law(n, loss, fit, settings.n_resamples, rng),
        "sizes": _sizes_beside_the_curve(rows, fit),
    }
    return entry, fit


def _sizes_beside_the_curve(rows, fit):
    """What was measured at each size beside the curve, the interval of the curve there, and that of one new run."""
    curve = fit.a * fit.sizes ** -fit.alpha + fit.c
    _, low, high = law.predict(fit, fit.sizes)
    _, new_low, new_high = law.predict(fit, fit.sizes, runs=1)
    names = {row["params_total"]: row["size"] for row in reversed(rows)}
    return [{"size": names[size], "n": size, "n_seeds": int(fit.weights[k]), "loss": fit.means[k], "sd": sd,
             "fitted": curve[k], "residual": fit.means[k] - curve[k], "curve_interval": [low[k], high[k]],
             "new_run_interval": [new_low[k], new_high[k]]}
            for k, (size, sd) in enumerate(zip(fit.sizes, spread_of_seeds(*columns(rows))))]


def _is_inside(value, interval):
    """True if a value lies in an interval whose ends may be None (unbounded)."""
    return (interval[0] is None or value >= interval[0]) and (interval[1] is None or value <= interval[1])


# ---------------------------------------------------------------- what alpha owes to the analyst

def alpha_choices(rows, all_rows):
    """How alpha moves with each choice that a study can make: a list of {"group", "choice", "alpha", ...}.

    Published exponents of the same data differ by more than their intervals because papers count N differently,
    force c = 0, or leave small models out. rows: those of the headline; all_rows: all of the family, for other recipes
    and amounts of data.
    """
    estimates = []
    for group, choice, own, options in _choices(rows, all_rows):
        if estimate := _estimate_alpha(own, **options):
            estimates.append({"group": group, "choice": choice, **estimate})
    return estimates


def interval_over_choices(entry, choices):
    """The interval of alpha widened to hold the best alpha of every choice that leaves the question as it is: how N is
    counted, the estimator, the split, a lower cut. None where the interval has an open end or one of these no alpha.

    Not c = 0: identified means that it is rejected. Not another recipe or amount of data: these are other questions.
    """
    low, high = entry["alpha_interval"]
    values = [choice["alpha"] for choice in choices if choice["group"] in ("counting", "estimator", "loss", "cut")]
    if low is None or high is None or None in values:
        return None
    return [min([low, *values]), max([high, *values])]


def _choices(rows, all_rows):
    """Yields (group, choice in words, rows, options of `_estimate_alpha`)."""
    yield "headline", "total N, c free, all sizes", rows, {}
    yield "counting", "non-embedding N", rows, {"n": "params_non_embedding"}
    yield "counting", "FLOPs from real shapes", rows, {"n": "train_flops"}
    yield "counting", "FLOPs as 6ND", rows, {"n": "train_flops_6nd"}
    yield "form", "c = 0", rows, {"form": "power"}
    yield "form", "c = 0, non-embedding N", rows, {"n": "params_non_embedding", "form": "power"}
    yield "estimator", "Huber on log loss", rows, {"form": "huber"}
    yield "loss", "test split", rows, {"loss": "test_nats_per_char"}
    names = {row["params_total"]: row["size"] for row in rows}
    for size in sorted(names):
        yield "subset", f"without {names[size]}", [row for row in rows if row["params_total"] != size], {}
    for smallest in sorted(names)[2:len(names) // 2]:  # a lower cut that keeps more than half; one size less: above
        yield "cut", f"N >= {si(smallest)} only", [row for row in rows if row["params_total"] >= smallest], {}
    seeds = sorted({row["seed"] for row in rows})
    for seed in seeds if len(seeds) > 1 else []:
        yield "seed", f"seed {seed} alone", [row for row in rows if row["seed"] == seed], {}
    chosen = rows[0]["recipe"], rows[0]["n_chars_seen"]
    others = sorted({(str(row["recipe"]), row["n_chars_seen"] or 0) for row in all_rows
                     if (row["recipe"], row["n_chars_seen"]) != chosen})
    for recipe, d in others:
        own = [row for row in all_rows if str(row["recipe"]) == recipe and (row["n_chars_seen"] or 0) == d]
        if law.fit_line(*columns(own), "log_linear")["slope"] > 0:
            another_recipe = recipe != str(chosen[0])
            yield ("recipe" if another_recipe else "data",
                   f"recipe {recipe}" if another_recipe else f"D = {d:,.0f}", own, {})


def _estimate_alpha(rows, n="params_total", loss="val_nats_per_char", form="power_floor"):
    """alpha under one choice with its interval and verdict; None where these runs cannot give it."""
    if any(not is_positive(row[n]) or not is_positive(row[loss]) for row in rows):
        return None
    sizes, losses = columns(rows, n, loss)
    if len(np.unique(sizes)) < law.MIN_SIZES:
        return None
    word = interval = None  # the Huber fit has no interval here, and both it and c = 0 are not judged
    if form == "power_floor":
        fit = law.fit_power_law(sizes, losses)
        alpha, c, interval, word = fit.alpha, fit.c, fit.alpha_interval, verdict(fit).word
    elif form == "huber":
        huber = law.fit_huber(sizes, losses)
        alpha, c = huber["alpha"], huber["c"]
    else:
        line = law.fit_line(sizes, losses, form)
        alpha, c, interval = line["alpha"], 0.0, line["alpha_interval"]
    if alpha is not None and law.is_on_bound(alpha):
        alpha = c = None
    return {"alpha": alpha, "c": c, "alpha_interval": interval, "verdict": word,
            "identified": None if word is None else word == "identified",
            "n_sizes": len(np.unique(sizes)), "n_runs": len(sizes)}


def proposal_sentence(family, rows, minutes):
    """Which runs of a family to train next in `minutes`, and what they promise; or why nothing can be said."""
    if reason := refusal(rows):
        return f"{label(family)}: no proposal: {reason}"
    rows = headline_rows(rows)
    times = scaling_design.seconds_of_sizes(rows)
    try:
        if not times:
            raise ValueError("the runs do not say how many seconds they took")
        plan = scaling_design.propose(law.fit_power_law(*columns(rows)), times, minutes)
    except ValueError as reason:
        return f"{label(family)}: no proposal: {reason}"
    runs = ", ".join(f"N = {si(n)} x {count}" for n, count in plan.runs.items())
    return (f"{label(family)}, next {plan.minutes:.1f} minutes: {runs}; half-width of alpha's interval "
            f"{plan.half_width:.2g} -> {plan.expected:.2g} (from the curvature of the fit)")


# ---------------------------------------------------------------- families at equal cost

def compare_pairs(families, fits, settings, rng):
    """Every two families at equal parameters, FLOPs and seconds: a list in the order of the families.

    families: {family: rows of its headline}; fits: {family: PowerLaw} of those that have a law.
    """
    return [_compare_pair(first, second, families, fits, settings, rng)
            for first, second in itertools.combinations(in_order(families), 2)]


def _compare_pair(first, second, families, fits, settings, rng):
    pair = {family: families[family] for family in (first, second)}
    both = [row for rows in pair.values() for row in rows]
    # from these two alone: that a third family was trained, or is noisier, must not change what is said of them
    noise = noise_of_runs(pair, {family: fits[family] for family in pair if family in fits})
    compared = {"first": first, "second": second,
                "difference": f"loss of {first} - loss of {second}, nats per character"}
    for cost, what in COSTS.items():
        devices = {row["device"] for row in both}
        if cost == "seconds" and len(devices) > 1:
            compared[cost] = {"what": what, "reason": "the runs were timed on different devices "
                                                      f"({', '.join(map(str, devices))})"}
        elif not all(is_positive(row[cost]) for row in both):
            compared[cost] = {"what": what, "reason": "not recorded for every run"}
        else:
            runs = ([(row[cost], row["seed"], row["val_nats_per_char"], row["params_total"]) for row in rows]
                    for rows in pair.values())
            found = law.compare_families(*runs, noise, settings.n_resamples, rng)
            compared[cost] = {"what": what, **({**found, "text": compared_sentence(first, second, what, found)} if found
                                               else {"reason": "the ranges do not overlap"})}
    return compared


def noise_of_runs(families, fits):
    """(standard deviation of one run, degrees of freedom): from the seeds of the families if enough runs were
    repeated, else from the residuals of their fits; None if neither can tell.

    Pooled over the families, because each alone has too few degrees of freedom: four single runs about a curve of three
    parameters leave one, and Student's t with one is 12.7 standard deviations wide.
    """
    sum_of_squares, dof = 0.0, 0
    for rows in families.values():
        n, loss = columns(rows)
        sum_of_squares, dof = sum_of_squares + law.group_by_size(n, loss)[3], dof + len(n) - len(np.unique(n))
    if dof >= law.MIN_NOISE_DOF:
        return math.sqrt(sum_of_squares / dof), dof
    known = [fit for fit in fits.values() if fit.noise_sd]
    dof = sum(fit.noise_dof for fit in known)
    return (math.sqrt(sum(fit.noise_sd ** 2 * fit.noise_dof for fit in known) / dof), dof) if known else None


# ---------------------------------------------------------------- loss by position in the context

def by_position(rows, settings):
    """Validation loss by position in the context for each size (mean over seeds), and what the far context is worth.

    rows have `val_loss_by_position` (bins of equal width over the context) and `block_size`, the length of the context.
    {size: {"positions_per_bin", "loss": bins, "n_seeds", "gain_from_far_context": nats}}; a size whose runs have
    contexts of different lengths is left out, and so is a run that does not say how long its context is.
    """
    sizes = {}
    for row in rows:
        profile = row.get("val_loss_by_position")
        if row.get("block_size") and isinstance(profile, list) and profile and all(map(is_positive, profile)):
            sizes.setdefault((row["params_total"], row["size"]), []).append((row["block_size"], profile))
    entries = {}
    for (_, size), measured in sorted(sizes.items()):
        if len({(block_size, len(profile)) for block_size, profile in measured}) > 1:
            continue
        loss = np.mean([profile for _, profile in measured], 0)
        near, far = (_mean_over(loss, span) for span in (settings.near, settings.far))
        entries[size] = {"positions_per_bin": measured[0][0] / len(loss), "loss": loss.tolist(),
                         "n_seeds": len(measured), "gain_from_far_context": near - far}
    return entries


def _mean_over(bins, span):
    """Mean of the bins in a span given as shares of the whole; one bin at least."""
    first, last = (int(share * len(bins)) for share in span)
    return float(bins[first:max(last, first + 1)].mean())


# ---------------------------------------------------------------- the joint law

def fit_joint_family(rows, settings, rng):
    """E + A/N^alpha + B/D^beta of one family: (JSON entry, draws), or (reason, None) if these runs cannot give it."""
    rows = [row for row in rows if is_positive(row["n_chars_seen"]) and is_positive(row["val_nats_per_char"])]
    if not rows:
        return "the amount of training data (D) is not given", None
    n, loss = columns(rows)
    d, _ = columns(rows, "n_chars_seen")
    n_sizes, n_amounts = len(np.unique(n)), len(np.unique(d))
    # an exponent and its coefficient need three points in that direction; five parameters leave two runs to judge them
    if n_amounts < 3 or n_sizes < 3 or len(rows) < 7:
        return (f"{n_sizes} sizes, {n_amounts} amounts of data and {len(rows)} runs; three of each and seven runs are "
                "needed"), None
    parameters, objective, optimum = law.fit_joint(n, d, loss)
    draws = law.bootstrap_joint(n, d, loss, optimum, settings.n_resamples, rng)
    intervals = np.percentile(draws, law.TAILS, axis=0).T if len(draws) else [None] * 5
    errors = draws.std(0) if len(draws) else [None] * 5
    fitted = law.joint_loss(parameters, n, d)
    problems, on_bound = _problems_of_joint(parameters, draws, loss.min())
    entry = {**{name: {"value": None if on_bound else value, "interval": interval, "standard_error": error}
                for name, value, interval, error in zip(law.JOINT, parameters, intervals, errors)},
             "r_squared": 1 - ((loss - fitted) ** 2).sum() / ((loss - loss.mean()) ** 2).sum(), "objective": objective,
             "n_runs": len(rows), "n_sizes": n_sizes, "n_amounts_of_data": n_amounts,
             "n_range": [n.min(), n.max()], "d_range": [d.min(), d.max()],
             "flops_range": [law.FLOPS_PER_ND * (n * d).min(), law.FLOPS_PER_ND * (n * d).max()],
             "resamples": len(draws), "identified": not problems,
             "reason": "; ".join(problems) or "no parameter lies on a bound",
             "n_opt_exponent": _with_band(None if on_bound else parameters[4] / (parameters[3] + parameters[4]),
                                          draws[:, 4] / (draws[:, 3] + draws[:, 4]), settings.band_percent)}
    budgets = [] if on_bound else np.geomspace(entry["flops_range"][0], 100 * entry["flops_range"][1], 25)
    entry["frontier"] = [recommend(parameters, draws, budget, entry, settings.band_percent) for budget in budgets]
    return entry, draws


def _problems_of_joint(parameters, draws, lowest_loss):
    """(why the joint law is not identified, in words; whether its best fit lies on a bound of the search: then its
    values are the bound's, not the data's)."""
    low, high = law.EXPONENT_BOUNDS
    exponents = np.concatenate([parameters[None, 3:], draws[:, 3:]])
    on_bound = ((exponents < 1.01 * low) | (exponents > high / 1.01)).any(1)
    problems = []
    best_on_bound = bool(on_bound[0] or parameters[0] < NO_FLOOR * lowest_loss)
    if best_on_bound:
        problems.append("the best fit lies on a bound")
    if len(draws) and on_bound[1:].mean() > 1 - law.LEVEL:
        problems.append(f"{100 * on_bound[1:].mean():.0f} % of the resamples put an exponent on a bound")
    if not len(draws):
        problems.append("no bootstrap was made, so nothing says how firm the parameters are")
    return problems, best_on_bound


def _with_band(value, draws, band_percent):
    tails = [50 - band_percent / 2, 50 + band_percent / 2]
    return {"value": value, "band": np.percentile(draws, tails).tolist() if len(draws) else None}


def recommend(parameters, draws, flops, entry, band_percent):
    """Compute-optimal N, D and loss at a budget with their bands; `extrapolates` if outside the runs fitted."""
    best = law.optimal_split(parameters, flops)
    many = law.optimal_split(draws, flops) if len(draws) else [np.empty(0)] * 3
    n, d, _ = best
    inside = entry["n_range"][0] <= n <= entry["n_range"][1] and entry["d_range"][0] <= d <= entry["d_range"][1]
    bands = {key: _with_band(value, draw, band_percent)
             for key, value, draw in zip(("n_opt", "d_opt", "loss"), best, many)}
    return {"flops": flops, **bands, "extrapolates": not inside}


def budget_sentence(family, entry, draws, flops, band_percent):
    """What to train with `flops`, from a family's entry of the joint law and its draws."""
    if entry["E"]["value"] is None:
        return f"{label(family)}: no recommendation from a joint law that is not identified: {entry['reason']}"
    draws = np.array(draws)
    best = recommend([entry[name]["value"] for name in law.JOINT], draws, flops, entry, band_percent)
    parts = []
    for key, what in (("n_opt", "N"), ("d_opt", "D"), ("loss", "loss")):
        value, band = best[key]["value"], best[key]["band"]
        ends = f" ({band_percent} % band {si(band[0])} to {si(band[1])})" if band else ""
        parts.append(f"{what} {si(value)}{ends}")
    return (f"{label(family)} with {flops:.3g} FLOPs (C = 6ND): {', '.join(parts)}"
            + (" -- outside the sizes or data that were measured: an extrapolation" if best["extrapolates"] else ""))


# ---------------------------------------------------------------- the whole analysis

def analyse(rows, settings, measured=VALIDATION):
    """Everything that fits.json holds, from the rows of runs.csv. measured: what the losses are, in words.

    The order of the steps is part of the result: all resampling draws from one generator.
    """
    rng = np.random.default_rng(settings.seed)
    everything = {family: [row for row in rows if row["family"] == family]
                  for family in in_order({row["family"] for row in rows})}
    # a family without a law can still be compared at equal cost
    families = {family: headline_rows(own) for family, own in everything.items() if not unusable(own)}
    entries, laws, refused, counting = {}, {}, {}, {}
    for family, own in everything.items():
        if reason := refusal(own):
            refused[family] = reason
        else:
            entries[family], laws[family] = fit_family(families[family], settings, rng)
            counting[family] = alpha_choices(families[family], own)
            entries[family]["interval_over_choices"] = interval_over_choices(entries[family], counting[family])
    joint, joint_refused, draws = {}, {}, {}
    for family, own in everything.items():
        recipe = headline_rows(own)[0]["recipe"]  # the joint law is that of one way of training
        entry, drawn = fit_joint_family([row for row in own if row["recipe"] == recipe], settings, rng)
        if drawn is None:
            joint_refused[family] = entry
        else:
            joint[family], draws[family] = entry, drawn
    position = {family: profiles for family, own in families.items() if (profiles := by_position(own, settings))}
    compared = compare_pairs(families, laws, settings, rng)
    result = {
        "headline": headline(entries, refused, compared, joint, settings.band_percent),
        "loss": measured, "level": law.LEVEL, "n_runs": len(rows), "families": entries, "refused": refused,
        "comparison": compared[0] if compared else None,  # of the first two families; None if there is but one
        **({"more_comparisons": compared[1:]} if len(compared) > 1 else {}),  # of three families and more: other pairs
        "counting": counting, "loss_by_position": position or None, "joint": joint or None,
        "joint_refused": joint_refused, "warnings": warnings(entries, compared), "method": describe_method(settings)}
    return Analysis(plain(result, DIGITS), laws, draws)


def describe_method(settings):
    """How the numbers were made, for readers of fits.json."""
    return {
        "fit": "least squares of a N^-alpha + c (N: total parameters) by variable projection over all local minima",
        "interval": "profile likelihood, F(1, degrees of freedom of the noise); see benchmarks/scaling.md",
        "verdict": f"open: an end of the interval is missing, or {RIVALS['log_linear']} is not rejected at "
                   f"{100 * RIVAL_LEVEL:.0f} % (F test against its limit alpha -> 0); bounded: both ends are known; "
                   f"identified: they are at most a factor of {MOST_RATIO} apart, {RIVALS['power']} is rejected "
                   f"likewise, and {law.MIN_NOISE_DOF} degrees of freedom measure the noise",
        "huber": f"cross-check: summed Huber loss on log L, delta {law.HUBER_DELTA:g}, multi-start",
        "not_covered": "the intervals cover the noise of runs, not what another corpus, recipe or validation set "
                       "would change",
        "resamples": settings.n_resamples, "seed": settings.seed, "alpha_range": law.ALPHA_RANGE}


# ---------------------------------------------------------------- in words

def headline(entries, refused, compared, joint, band_percent):
    """The answer, true whatever the numbers are: a sentence of at most 25 words for each family, each pair of families
    and each joint law. The long reasons stand in families.<family>.reason and comparison.<cost>.text."""
    sentences = [_refused_sentence(family, refused[family]) if family in refused else
                 _law_sentence(family, entries[family]) for family in in_order(set(entries) | set(refused))]
    sentences += filter(None, (_pair_sentence(pair) for pair in compared))
    sentences += [_joint_sentence(family, entry, band_percent) for family, entry in joint.items()]
    return " ".join(sentences)


def _refused_sentence(family, reason):
    reason, *_ = reason.partition(";")
    words = reason.split()
    return f"{label(family)}: not fitted: {' '.join(words[:20])}{' ...' if len(words) > 20 else ''}."


def _law_sentence(family, entry):
    """What the runs of one family say, in the verdict's word. No value of alpha unless it is identified: it would be
    quoted. No formula: a rounded to what alpha's interval allows gives other losses."""
    runs = f"{entry['n_sizes']} sizes, {entry['n_runs']} runs"
    if entry["verdict"] == "open":
        return f"{label(family)}: alpha stays open ({runs}): {entry['reason_in_short']}."
    low, high = entry["alpha_interval"]
    ends = f"{rounded(low, low, high)} to {rounded(high, low, high)}"
    if entry["verdict"] == "bounded":
        return f"{label(family)}: alpha is bounded, {ends} ({runs}), not identified: {entry['reason_in_short']}."
    choices = entry["interval_over_choices"]
    spread = "" if choices is None else (
        f"; over choices of analysis {' to '.join(rounded(end, low, high) for end in choices)}")
    return (f"{label(family)}: alpha is identified, {rounded(entry['alpha'], low, high)} ({100 * law.LEVEL:.0f} % "
            f"interval {ends}{spread}; {runs}).")


def rounded(value, low, high):
    """A number with the decimals that its interval allows: those of the first digit of its half-width, at most three.

    >>> rounded(0.48612, 0.441, 0.539), rounded(0.9183, 0.28, 3.0), rounded(0.48612, 0.48, 0.49)
    ('0.49', '0.9', '0.486')
    """
    half = (high - low) / 2
    digits = 3 if half <= 0 else -math.floor(math.log10(half))
    return f"{value:.{min(max(digits, 1), 3)}f}"


def _pair_sentence(pair):
    """Who has the lower loss at equal cost, in one sentence; None if no cost can be compared."""
    parts = [f"at equal {IN_SHORT[cost]} {_who_is_lower(pair['first'], pair['second'], pair[cost]['points'])}"
             for cost in COSTS if "points" in pair[cost]]
    return f"Lower loss of {_pair(pair)}: {', '.join(parts)}." if parts else None


def _who_is_lower(first, second, points):
    """"LSTM at 2 of 5 points": those where the interval of the difference carries it."""
    if any(point["interval"] is None for point in points):
        return "unknown"
    below = sum(point["interval"][1] < 0 for point in points)
    above = sum(point["interval"][0] > 0 for point in points)
    clear = [f"{label(family)} {'everywhere' if count == len(points) else f'at {count}/{len(points)} points'}"
             for count, family in ((below, first), (above, second)) if count]
    return " and ".join(clear) or "neither"


def _joint_sentence(family, entry, band_percent):
    start = f"{label(family)}, sizes and data varied ({entry['n_runs']} runs): "
    if not entry["identified"]:
        return f"{start}the joint law is not identified: {entry['reason'].partition(';')[0]}."
    alpha, beta = (rounded(entry[name]["value"], *entry[name]["interval"]) for name in ("alpha", "beta"))
    exponent = entry["n_opt_exponent"]
    low, high = exponent["band"]
    value, *ends = (rounded(number, low, high) for number in (exponent["value"], low, high))
    return (f"{start}alpha {alpha}, beta {beta}; compute-optimal N grows as C^{value} ({band_percent} % band "
            f"{' to '.join(ends)}).")


def compared_sentence(first, second, what, found):
    """One sentence on who has the lower loss at equal cost, as far as the intervals carry it."""
    points = found["points"]
    scale = f"between {si(found['range'][0])} and {si(found['range'][1])} {what}"
    if any(point["interval"] is None for point in points):
        return f"At equal {what} the differences have no interval ({found['method']})."
    below = sum(point["interval"][1] < 0 for point in points)
    above = sum(point["interval"][0] > 0 for point in points)
    sizes = [abs(point["difference"]) for point in points]
    for count, better in ((below, first), (above, second)):
        if count == len(points):
            return (f"At equal {what} the {label(better)} has the lower loss everywhere {scale}, by "
                    f"{min(sizes):.3f} to {max(sizes):.3f} nats.")
    if not below and not above:
        return f"At equal {what} no difference between the families can be told from noise {scale}."
    parts = [f"the {label(better)} is lower at {count} of {len(points)} points"
             for count, better in ((below, first), (above, second)) if count]
    rest = "" if below + above == len(points) else "; elsewhere noise hides the difference"
    cross = found["crossover"]
    if cross["at"] is not None and below and above:  # a crossing counts only if both sides of it stand out of the noise
        rest += f"; the curves cross at {si(cross['at'])} {what}"
        if cross["interval"]:
            rest += f" ({100 * law.LEVEL:.0f} % interval {si(cross['interval'][0])} to {si(cross['interval'][1])})"
    return f"At equal {what} {' and '.join(parts)} {scale}{rest}."


def _pair(compared):
    return f"{label(compared['first'])} and {label(compared['second'])}"


def warnings(entries, compared):
    """What a reader should know before quoting a number."""
    out = []
    for family, entry in entries.items():
        if entry["n_runs"] == entry["n_sizes"]:
            out.append(f"{label(family)}: one seed per size, so the noise is guessed from {entry['n_sizes']} residuals "
                       f"of a 3-parameter curve")
        if not entry["falls_with_n"]:
            out.append(f"{label(family)}: the loss does not fall from each size to the next")
        if entry["huber"]["inside_interval"] is False:
            out.append(f"{label(family)}: the Huber cross-check (alpha {entry['huber']['alpha']:.3g}) lies outside the "
                       f"interval: a single run may dominate")
        if entry["noise"]["source"] == "lack of fit":
            out.append(f"{label(family)}: the curve misses the means by more than the seeds explain "
                       f"(p = {entry['noise']['lack_of_fit_p']:.2g})")
    for pair in compared:
        if all(pair[cost].get("paired_seeds", 0) < law.MIN_PAIRED for cost in COSTS):
            out.append(("" if len(compared) == 1 else f"{_pair(pair)}: ") + "fewer than three common seeds: the "
                       "families are compared with pooled noise, not by pairs")
    return out


def summary(result):
    """The closing block: the classical numbers per family, with their interval and the verdict."""
    block = {}
    for family, entry in result["families"].items():
        low, high = ("unbounded" if end is None else f"{end:.3f}" for end in entry["alpha_interval"])
        best = ("alpha and c on the bound of the search" if entry["alpha"] is None else
                f"alpha {entry['alpha']:.3f} (95 % {low} to {high}), c {entry['c']:.3f}")
        block[label(family)] = f"{best}, R2 {entry['r_squared']:.4f}, {entry['verdict']}"
    block.update({label(family): f"not fitted: {reason}" for family, reason in result["refused"].items()})
    return block | {"headline": result["headline"]}
