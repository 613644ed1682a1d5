"""From runs to fits.json: the law of each family, its verdict, the families compared, and the
words.

The mathematics stands in `study/fit/power_law.py`, the joint law in `study/fit/joint_fit.py`, the
rows come from `study/fit/records.py`. What a reader may turn is passed in (`Settings`, from
06_fit_scaling.py). Everything loops over the families that have runs, in the order of
`study/families.py`.
"""

import itertools
import math
from typing import NamedTuple

from study.stages.stage import plain

import numpy as np

from study.families import in_order, label
from study.fit import design as scaling_design
from study.fit import power_law as law
from study.fit.collapse import collapse_of_families
from study.fit.joint_fit import (
    BEND_LEVEL,
    EXPONENTS,
    beyond_noise,
    compare_promise,
    cuts,
    first_on_the_law,
    fit_plane,
    misfit_p,
)
from study.fit.records import COUNTS, columns, count_of, is_ladder, is_positive
from study.fit.verdict import MOST_RATIO, RIVAL_LEVEL, RIVALS, verdict
from study.wording import rounded, si

COSTS = {
    "params_total": "parameters",
    "train_flops": "training FLOPs",
    "seconds": "training seconds",
}
IN_SHORT = {"params_total": "parameters", "train_flops": "FLOPs", "seconds": "seconds"}
VALIDATION = "validation loss, nats per character"
# of every number: more than any loss is known to, too few for another machine's last bits to show
DIGITS = 10


class Settings(NamedTuple):
    """What a reader may turn."""

    n_resamples: int  # of every bootstrap; 0: none
    seed: int  # of the resampling
    band_percent: float  # width of the bands of the compute-optimal frontier
    near: tuple  # (from, to) as shares of the context: whose loss is compared with ...
    far: tuple  # ... that of the end of the context


class Analysis(NamedTuple):
    """What is known of the runs: `result` is fits.json, the rest is kept for figures and tables."""

    result: dict
    laws: dict  # family -> scaling_law.PowerLaw
    draws: dict  # family -> (resamples, 5) parameters of the joint law


# ---------------------------------------------------------------- which runs make a curve


def headline_rows(rows):
    """The runs of the L(N) fit: one recipe and one D, those with the most sizes (of equals: the
    largest D).

    L(N) is a curve at fixed D: sizes trained on different amounts of text would put the effect of D
    into alpha. The tuned recipe goes before the classic one, whose runs are there to compare with
    the original study.
    """
    groups = {}
    for row in rows:
        groups.setdefault(
            (row["recipe"] != "classic", row["n_chars_seen"] or 0, str(row["recipe"])), []
        ).append(row)
    return max(groups.items(), key=lambda group: (_n_sizes(group[1]), group[0]))[1]


def unusable(rows):
    """Why a family's losses cannot even be compared, in words, or None."""
    bad = [str(row["name"]) for row in rows if not is_positive(row["val_nats_per_char"])]
    if bad:
        return f"no finite positive loss in {', '.join(bad)}"
    seen = {}
    for row in rows:  # a run that counts twice would make the noise look smaller than it is
        key = row["params_total"], row["n_chars_seen"], row["seed"], row["recipe"], row["suite"]
        if key in seen:
            return (
                f"the size N = {key[0]:,.0f} occurs twice with seed {key[2]} ({seen[key]},"
                f" {row['name']})"
            )
        seen[key] = row["name"]
    return None


def refusal(rows):
    """Why no law is fitted to a family's runs, in words, or None."""
    if reason := unusable(rows):
        return reason
    if _n_sizes(rows) < law.MIN_SIZES:
        return f"{_n_sizes(rows)} sizes; a law with three parameters needs at least {law.MIN_SIZES}"
    at_one_d = choose_headline(rows).rows
    if _n_sizes(at_one_d) < law.MIN_SIZES:
        return (
            f"at most {_n_sizes(at_one_d)} sizes share one amount of training data, so L(N) at"
            f" fixed D cannot be fitted (at least {law.MIN_SIZES} are needed)"
        )
    n, loss = columns(at_one_d, count_of(at_one_d))
    if law.fit_line(n, loss, "log_linear")["slope"] <= 0:
        how = "rise with N" if loss.max() > loss.min() else "are all the same"
        return (
            f"the losses {how} (from {loss[n == n.min()].mean():.4f} at N = {n.min():,.0f} to"
            f" {loss[n == n.max()].mean():.4f} at N = {n.max():,.0f}): no law of diminishing loss"
            " applies"
        )
    return None


class Headline(NamedTuple):
    """The runs that the law of a family is fitted to, and what came of the choice. rows: those of
    one recipe and one D;
    nine: those of the original suite, to be fitted by themselves; uncut: rows and the small sizes
    below `bends_below`
    (None: the law holds from the smallest); common_p: of the test whether ladder and original suite lie on one law.
    """

    rows: list
    nine: list
    uncut: list
    bends_below: float | None = None
    common_p: float | None = None

    @property
    def suite(self):
        ladder = any(map(is_ladder, self.rows))
        return " + ".join(
            ["ladder"] * ladder + ["classical"] * (not all(map(is_ladder, self.rows)))
        )


def choose_headline(own):
    """The Headline of a family's runs: those of the ladder where it has enough sizes, together with
    those of the original suite on the same text where one law holds for both, above the size where
    it bends; else the original suite's alone.

    One law holds where the suite does not raise the residual of the ladder's fit by more than its
    noise explains.
    """
    ladder, others = [row for row in own if is_ladder(row)], [
        row for row in own if not is_ladder(row)
    ]
    nine = headline_rows(others) if others else []
    rungs = headline_rows(ladder) if ladder else []
    if _n_sizes(rungs) <= law.MIN_SIZES:  # a law and one degree of freedom at least
        return Headline(nine or rungs, nine, nine or rungs)
    uncut, p = rungs, None
    rungs = _above_the_bend(rungs)
    same = ("recipe", "n_chars_seen", "train_chars")
    joined = [row for row in others if all(row[key] == rungs[0][key] for key in same)]
    if joined:
        p = _misfit(rungs, joined)
        if p >= RIVAL_LEVEL:
            uncut, rungs = uncut + joined, _above_the_bend(rungs + joined)
    smallest = min(row[count_of(rungs)] for row in rungs)
    bends = smallest if any(row[count_of(rungs)] < smallest for row in uncut) else None
    return Headline(rungs, nine, uncut, bends, p)


def _above_the_bend(rows):
    """The rows whose sizes lie on the law of the larger ones."""
    count = count_of(rows)
    cut = first_on_the_law(
        sorted({row[count] for row in rows}),
        lambda size: _misfit(
            [row for row in rows if row[count] > size], [row for row in rows if row[count] == size]
        ),
        law.MIN_SIZES,
    )
    return [row for row in rows if row[count] >= cut]


def _misfit(core, more):
    """p-value of further runs under the law of `core`."""
    count = count_of(core + more)
    first, both = (law.fit_power_law(*columns(rows, count)) for rows in (core, core + more))
    within = [law.group_by_size(*columns(rows, count))[3] for rows in (core, core + more)]
    dof = first.n_runs - 3
    return misfit_p(first.ss + within[0], dof, both.ss + within[1], len(more))


def _n_sizes(rows):
    return len({row["params_total"] for row in rows})


def spread_of_seeds(n, loss):
    """Standard deviation over the runs of each size, in order of size; None where there is one
    run."""
    return [
        float(loss[n == size].std(ddof=1)) if (n == size).sum() > 1 else None
        for size in np.unique(n)
    ]


# ---------------------------------------------------------------- fits of one family


def fit_family(chosen):
    """The entry of one family in fits.json from its Headline, and the fit itself
    (scaling_law.PowerLaw).

    Three forms stand side by side because so few points seldom tell them apart, and what decides
    between them is not R2 (all are above 0.9 on anything that falls) but how well each predicts a
    size that it has not seen.
    """
    rows, count = chosen.rows, count_of(chosen.rows)
    n, loss = columns(rows, count)
    fit = law.fit_power_law(n, loss)
    found = verdict(fit)
    numbers = {"alpha": fit.alpha, "a": fit.a, "c": fit.c}
    if law.is_on_bound(fit.alpha):  # the bound's numbers, not the data's
        numbers = dict.fromkeys(numbers)
    huber, power, line = (
        law.fit_huber(n, loss),
        law.fit_line(n, loss, "power"),
        law.fit_line(n, loss, "log_linear"),
    )
    held_out = law.hold_out_largest(n, loss)
    leave_out_rms, alpha_without = law.leave_one_size_out(n, loss)
    errors = held_out["forms"] if held_out else None
    entry = {
        **numbers,
        "r_squared": fit.r_squared,
        "alpha_interval": fit.alpha_interval,
        "c_interval": fit.c_interval,
        "verdict": found.word,
        "identified": found.identified,
        "reason": found.reason,
        "reason_in_short": found.short,
        "rivals": found.rivals,
        "suite": chosen.suite,
        "count": count,
        "bends_below": chosen.bends_below,
        "runs_below": len(chosen.uncut) - len(rows),
        "n_sizes": len(fit.sizes),
        "n_runs": fit.n_runs,
        "n_seeds": len({row["seed"] for row in rows}),
        "n_chars_seen": rows[0]["n_chars_seen"],
        "recipe": rows[0]["recipe"],
        "noise": {
            "sd_nats": fit.noise_sd,
            "degrees_of_freedom": fit.noise_dof,
            "source": fit.noise_source,
            "lack_of_fit_p": fit.lack_of_fit_p,
        },
        "falls_with_n": bool((np.diff(fit.means) < 0).all()),
        "forms": {
            "power_floor": {
                "formula": "a N^-alpha + c",
                **numbers,
                "alpha_interval": fit.alpha_interval,
                "r_squared": fit.r_squared,
            },
            "power": {"formula": "a N^-alpha", **power},
            "log_linear": {"formula": "intercept - slope ln N", **line},
        },
        # least squares is the estimate; where the robust one disagrees, a single run pulls the
        # curve
        "huber": {
            **huber,
            "inside_interval": (
                None if huber["alpha"] is None else _is_inside(huber["alpha"], fit.alpha_interval)
            ),
        },
        "best_predicting_form": {
            "held_out_largest": min(errors, key=lambda form: abs(errors[form])) if errors else None,
            "leave_one_size_out": (
                min(leave_out_rms, key=leave_out_rms.get)
                if leave_out_rms["power"] is not None
                else None
            ),
            "leave_one_size_out_rms": leave_out_rms,
        },
        "held_out": held_out,
        "alpha_without_size": {f"{size:.0f}": alpha for size, alpha in alpha_without.items()},
        "sizes": _sizes_beside_the_curve(rows, fit),
    }
    if any(map(is_ladder, rows)):
        entry["common_law"] = (
            None
            if chosen.common_p is None
            else {"p_value": chosen.common_p, "holds": chosen.common_p >= RIVAL_LEVEL}
        )
        entry["classical"] = fit_nine(chosen.nine)
    return entry, fit


def fit_nine(nine):
    """The fit of the original suite by itself, in total parameters as its study counted, in short;
    None without it."""
    if not nine:
        return None
    if reason := refusal(nine):
        return {
            "alpha": None,
            "alpha_interval": None,
            "verdict": None,
            "identified": False,
            "reason": reason,
        }
    entry, _ = fit_family(Headline(nine, [], nine))
    return {
        key: entry[key]
        for key in (
            "alpha",
            "a",
            "c",
            "alpha_interval",
            "c_interval",
            "r_squared",
            "verdict",
            "identified",
            "reason",
            "n_sizes",
            "n_runs",
            "count",
        )
    }


def _sizes_beside_the_curve(rows, fit):
    """What was measured at each size beside the curve, the interval of the curve there, and that of
    one new run."""
    curve = fit.a * fit.sizes**-fit.alpha + fit.c
    _, low, high = law.predict(fit, fit.sizes)
    _, new_low, new_high = law.predict(fit, fit.sizes, runs=1)
    count = count_of(rows)
    names = {row[count]: row["size"] for row in reversed(rows)}
    return [
        {
            "size": names[size],
            "n": size,
            "n_seeds": int(fit.weights[k]),
            "loss": fit.means[k],
            "sd": sd,
            "fitted": curve[k],
            "residual": fit.means[k] - curve[k],
            "curve_interval": [low[k], high[k]],
            "new_run_interval": [new_low[k], new_high[k]],
        }
        for k, (size, sd) in enumerate(zip(fit.sizes, spread_of_seeds(*columns(rows, count))))
    ]


def _is_inside(value, interval):
    """True if a value lies in an interval whose ends may be None (unbounded)."""
    return (interval[0] is None or value >= interval[0]) and (
        interval[1] is None or value <= interval[1]
    )


# ---------------------------------------------------------------- what alpha owes to the analyst


def alpha_choices(chosen, all_rows):
    """How alpha moves with each choice that a study can make: a list of {"group", "choice",
    "alpha", ...}.

    Published exponents of the same data differ by more than their intervals because papers count N
    differently, force c = 0, or leave small models out. chosen: the Headline; all_rows: all of the
    family, for other recipes and amounts of data.
    """
    estimates = []
    for group, choice, own, options in _choices(chosen, all_rows):
        if estimate := _estimate_alpha(own, **options):
            counts = group in ("headline", "counting", "estimator", "loss")
            if group == "cut" and estimate["alpha"] and None not in estimate["alpha_interval"]:
                counts = estimate["at_n"] >= (chosen.bends_below or 0)
                whole = estimates[0]["alpha"], estimates[0]["alpha_interval"]
                if None not in (whole[0], *whole[1]):
                    estimate["beyond_noise"] = beyond_noise(
                        estimate["alpha"], estimate["alpha_interval"], *whole
                    )
            estimates.append({"group": group, "choice": choice, **estimate, "counts": counts})
    return estimates


def interval_over_choices(entry, choices):
    """The interval of alpha widened to hold the best alpha of every choice that leaves the question
    as it is: how N is counted, the estimator, the split, a lower cut. None where the interval has
    an open end or one of these no alpha.

    Not c = 0: identified means that it is rejected. Not another recipe or amount of data: these are
    other questions. Of a cut what lies beyond the noise of the runs that it leaves.
    """
    low, high = entry["alpha_interval"]
    values = [choice.get("beyond_noise", choice["alpha"]) for choice in choices if choice["counts"]]
    if low is None or high is None or None in values:
        return None
    return [min([low, *values]), max([high, *values])]


def _choices(chosen, all_rows):
    """Yields (group, choice in words, rows, options of `_estimate_alpha`)."""
    rows, count = chosen.rows, count_of(chosen.rows)
    yield "headline", f"{COUNTS[count]}, c free", rows, {}
    for other, words in COUNTS.items():
        if other != count:
            yield "counting", words, rows, {"n": other}
    yield "cost", "FLOPs from real shapes", rows, {"n": "train_flops"}
    yield "cost", "FLOPs as 6ND", rows, {"n": "train_flops_6nd"}
    yield "form", "c = 0", rows, {"form": "power"}
    yield "estimator", "Huber on log loss", rows, {"form": "huber"}
    yield "loss", "test split", rows, {"loss": "test_nats_per_char"}
    moved = cuts(chosen.uncut, count)
    for n, size in moved.items() if len(moved) > 1 else ():
        yield (
            "cut",
            f"from size {size}",
            [row for row in chosen.uncut if row[count] >= n],
            {"at_n": n},
        )
    # five sizes, where each can move alpha; of a ladder the cuts show it
    if not any(map(is_ladder, rows)):
        names = {row["params_total"]: row["size"] for row in rows}
        for size in sorted(names):
            yield (
                "subset",
                f"without {names[size]}",
                [row for row in rows if row["params_total"] != size],
                {},
            )
    seeds = sorted({row["seed"] for row in rows})
    for seed in seeds if len(seeds) > 1 else []:
        yield "seed", f"seed {seed} alone", [row for row in rows if row["seed"] == seed], {}
    key = rows[0]["recipe"], rows[0]["n_chars_seen"]
    same = [row for row in all_rows if is_ladder(row) == is_ladder(rows[0])]
    others = sorted(
        {
            (str(row["recipe"]), row["n_chars_seen"] or 0)
            for row in same
            if (row["recipe"], row["n_chars_seen"]) != key
        }
    )
    for recipe, d in others:
        own = [
            row for row in same if str(row["recipe"]) == recipe and (row["n_chars_seen"] or 0) == d
        ]
        if law.fit_line(*columns(own), "log_linear")["slope"] > 0:
            another_recipe = recipe != str(key[0])
            yield (
                "recipe" if another_recipe else "data",
                f"recipe {recipe}" if another_recipe else f"D = {d:,.0f}",
                own,
                {},
            )


def _estimate_alpha(rows, n=None, loss="val_nats_per_char", form="power_floor", at_n=None):
    """alpha under one choice with its interval and verdict; None where these runs cannot give
    it."""
    n = n or count_of(rows)
    if any(not is_positive(row.get(n)) or not is_positive(row[loss]) for row in rows):
        return None
    sizes, losses = columns(rows, n, loss)
    if len(np.unique(sizes)) < law.MIN_SIZES:
        return None
    # the Huber fit has no interval here, and both it and c = 0 are not judged
    word = interval = None
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
    return {
        "alpha": alpha,
        "c": c,
        "alpha_interval": interval,
        "verdict": word,
        "identified": None if word is None else word == "identified",
        "n_sizes": len(np.unique(sizes)),
        "n_runs": len(sizes),
        **({"at_n": at_n} if at_n else {}),
    }


def proposal_sentence(family, rows, minutes):
    """Which runs of a family to train next in `minutes`, and what they promise; or why nothing can
    be said."""
    if reason := refusal(rows):
        return f"{label(family)}: no proposal: {reason}"
    rows = choose_headline(rows).rows
    count = count_of(rows)
    times = scaling_design.seconds_of_sizes(rows, count)
    try:
        if not times:
            raise ValueError("the runs do not say how many seconds they took")
        plan = scaling_design.propose(law.fit_power_law(*columns(rows, count)), times, minutes)
    except ValueError as reason:
        return f"{label(family)}: no proposal: {reason}"
    runs = ", ".join(f"N = {si(n)} x {count}" for n, count in plan.runs.items())
    return (
        f"{label(family)}, next {plan.minutes:.1f} minutes: {runs}; half-width of alpha's interval "
        f"{plan.half_width:.2g} -> {plan.expected:.2g} (from the curvature of the fit)"
    )


# ---------------------------------------------------------------- families at equal cost


def compare_pairs(families, fits, settings, rng):
    """Every two families at equal parameters, FLOPs and seconds: a list in the order of the
    families.

    families: {family: rows of its headline}; fits: {family: PowerLaw} of those that have a law.
    """
    return [
        _compare_pair(first, second, families, fits, settings, rng)
        for first, second in itertools.combinations(in_order(families), 2)
    ]


def _compare_pair(first, second, families, fits, settings, rng):
    pair = {family: families[family] for family in (first, second)}
    both = [row for rows in pair.values() for row in rows]
    # from these two alone: that a third family was trained, or is noisier, must not change what is
    # said of them
    noise = noise_of_runs(pair, {family: fits[family] for family in pair if family in fits})
    compared = {
        "first": first,
        "second": second,
        "difference": f"loss of {first} - loss of {second}, nats per character",
    }
    for cost, what in COSTS.items():
        devices = {row["device"] for row in both}
        if cost == "seconds" and len(devices) > 1:
            compared[cost] = {
                "what": what,
                "reason": (
                    f"the runs were timed on different devices ({', '.join(map(str, devices))})"
                ),
            }
        elif not all(is_positive(row[cost]) for row in both):
            compared[cost] = {"what": what, "reason": "not recorded for every run"}
        else:
            runs = (
                [
                    (row[cost], row["seed"], row["val_nats_per_char"], row["params_total"])
                    for row in rows
                ]
                for rows in pair.values()
            )
            found = law.compare_families(*runs, noise, settings.n_resamples, rng)
            compared[cost] = {
                "what": what,
                **(
                    {**found, "text": compared_sentence(first, second, what, found)}
                    if found
                    else {"reason": "the ranges do not overlap"}
                ),
            }
    return compared


def noise_of_runs(families, fits):
    """(standard deviation of one run, degrees of freedom): from the seeds of the families if enough
    runs were repeated, else from the residuals of their fits; None if neither can tell.

    Pooled over the families, because each alone has too few degrees of freedom: four single runs
    about a curve of three parameters leave one, and Student's t with one is 12.7 standard
    deviations wide.
    """
    sum_of_squares, dof = 0.0, 0
    for rows in families.values():
        n, loss = columns(rows)
        sum_of_squares, dof = sum_of_squares + law.group_by_size(n, loss)[3], dof + len(n) - len(
            np.unique(n)
        )
    if dof >= law.MIN_NOISE_DOF:
        return math.sqrt(sum_of_squares / dof), dof
    known = [fit for fit in fits.values() if fit.noise_sd]
    dof = sum(fit.noise_dof for fit in known)
    return (
        (math.sqrt(sum(fit.noise_sd**2 * fit.noise_dof for fit in known) / dof), dof)
        if known
        else None
    )


# ---------------------------------------------------------------- loss by position in the context


def by_position(rows, settings):
    """Validation loss by position in the context for each size (mean over seeds), and what the far
    context is worth.

    rows have `val_loss_by_position` (bins of equal width over the context) and `block_size`, the
    length of the context.
    {size: {"positions_per_bin", "loss": bins, "n_seeds", "gain_from_far_context": nats}}; a size whose runs have
    contexts of different lengths is left out, and so is a run that does not say how long its
    context is.
    """
    sizes = {}
    for row in rows:
        profile = row.get("val_loss_by_position")
        if (
            row.get("block_size")
            and isinstance(profile, list)
            and profile
            and all(map(is_positive, profile))
        ):
            sizes.setdefault((row["params_total"], row["size"]), []).append(
                (row["block_size"], profile)
            )
    entries = {}
    for (_, size), measured in sorted(sizes.items()):
        if len({(block_size, len(profile)) for block_size, profile in measured}) > 1:
            continue
        loss = np.mean([profile for _, profile in measured], 0)
        near, far = (_mean_over(loss, span) for span in (settings.near, settings.far))
        entries[size] = {
            "positions_per_bin": measured[0][0] / len(loss),
            "loss": loss.tolist(),
            "n_seeds": len(measured),
            "gain_from_far_context": near - far,
        }
    return entries


def _mean_over(bins, span):
    """Mean of the bins in a span given as shares of the whole; one bin at least."""
    first, last = (int(share * len(bins)) for share in span)
    return float(bins[first : max(last, first + 1)].mean())


# ---------------------------------------------------------------- one exponent a family, and their
# differences


def quoted_exponents(entries, counting, joint):
    """{family: the exponent to quote}: alpha of the plane if there is one, else of the sizes at one
    D: {"alpha", "interval", "over_choices", "half_width", "source" (the plane with its form, or the
    suite), "choices": {choice: alpha}};
    half_width: of the interval over choices. Families whose alpha is not identified have none."""
    quoted = {}
    for family in in_order(set(entries) | set(joint)):
        plane, entry = joint.get(family), entries.get(family)
        if plane and plane["identified"]:
            alpha = plane["alpha"]
            quoted[family] = _quoted(
                alpha["value"],
                alpha["interval"],
                alpha["over_choices"]["interval"],
                f"plane: {plane['form']}",
                {
                    choice["choice"]: choice["alpha"].get("beyond_noise", choice["alpha"]["value"])
                    for choice in plane["choices"]
                    if choice["counts"]
                },
            )
        elif entry and entry["identified"] and not plane:
            quoted[family] = _quoted(
                entry["alpha"],
                entry["alpha_interval"],
                entry["interval_over_choices"] or entry["alpha_interval"],
                entry["suite"],
                {
                    choice["choice"]: choice.get("beyond_noise", choice["alpha"])
                    for choice in counting[family]
                    if choice["counts"] and choice["alpha"]
                },
            )
    return quoted


def _quoted(alpha, interval, over_choices, source, choices):
    low, high = over_choices
    return {
        "alpha": alpha,
        "interval": list(interval),
        "over_choices": [low, high],
        "half_width": (high - low) / 2,
        "source": source,
        "choices": choices,
    }


def alpha_differences(quoted):
    """alpha of every family less that of each later one: [{"first", "second", "difference",
    "interval", "over_choices"}].

    The interval comes from those of the two by MOVER (Zou and Donner 2008), which keeps their
    lopsidedness; over choices it is widened to hold the differences under every choice made alike
    for both.
    """
    found = []
    for first, second in itertools.combinations(quoted, 2):
        if any("plane" in quoted[name]["source"] for name in (first, second)) and (
            quoted[first]["source"] != quoted[second]["source"]
        ):
            continue  # exponents of laws of another form are not of one kind
        (one, (low, high)), (two, (lower, higher)) = (
            (quoted[name]["alpha"], quoted[name]["interval"]) for name in (first, second)
        )
        interval = [
            one - two - math.hypot(one - low, higher - two),
            one - two + math.hypot(high - one, two - lower),
        ]
        alike = [
            value - quoted[second]["choices"][choice]
            for choice, value in quoted[first]["choices"].items()
            if choice in quoted[second]["choices"]
        ]
        found.append(
            {
                "first": first,
                "second": second,
                "difference": one - two,
                "interval": interval,
                "over_choices": [min([interval[0], *alike]), max([interval[1], *alike])],
            }
        )
    return found


# ---------------------------------------------------------------- the whole analysis


def analyse(rows, settings, measured=VALIDATION, curves=None, promises=None):
    """Everything that fits.json holds, from the rows of runs.csv. measured: what the losses are, in
    words; curves:
    {name of run: points of its loss curve}; promises: {family: what `scaling_plane.predict_corner` said before}.

    The order of the steps is part of the result: all resampling draws from one generator.
    """
    rng = np.random.default_rng(settings.seed)
    everything = {
        family: [row for row in rows if row["family"] == family]
        for family in in_order({row["family"] for row in rows})
    }
    # a family without a law can still be compared at equal cost
    chosen = {
        family: choose_headline(own) for family, own in everything.items() if not unusable(own)
    }
    families = {family: headline.rows for family, headline in chosen.items()}
    entries, laws, refused, counting = {}, {}, {}, {}
    for family, own in everything.items():
        if reason := refusal(own):
            refused[family] = reason
        else:
            entries[family], laws[family] = fit_family(chosen[family])
            counting[family] = alpha_choices(chosen[family], own)
            entries[family]["interval_over_choices"] = interval_over_choices(
                entries[family], counting[family]
            )
    joint, joint_refused, draws = {}, {}, {}
    for family, own in everything.items():
        entry, drawn = fit_plane(rows_of_plane(own), settings, rng)
        if drawn is None:
            joint_refused[family] = entry
        else:
            joint[family], draws[family] = entry, drawn
            if promise := (promises or {}).get(family):
                entry["promise"] = compare_promise(promise, rows_of_plane(own))
    position = {
        family: profiles
        for family, headline in chosen.items()
        if (profiles := by_position(headline.nine or headline.rows, settings))
    }
    compared = compare_pairs(families, laws, settings, rng)
    collapsed = collapse_of_families(families, curves or {})
    quoted = quoted_exponents(entries, counting, joint)
    differences = alpha_differences(quoted)
    result = {
        "headline": headline(entries, refused, compared, joint, differences),
        "loss": measured,
        "level": law.LEVEL,
        "n_runs": len(rows),
        "families": entries,
        "refused": refused,
        "exponents": (
            {
                family: {key: value for key, value in entry.items() if key != "choices"}
                for family, entry in quoted.items()
            }
            or None
        ),
        "alpha_differences": differences or None,
        # of the first two families; None if there is but one
        "comparison": compared[0] if compared else None,
        # of three families and more: other pairs
        **({"more_comparisons": compared[1:]} if len(compared) > 1 else {}),
        "counting": counting,
        "loss_by_position": position or None,
        "joint": joint or None,
        "joint_refused": joint_refused,
        "collapse": collapsed or None,
        "warnings": warnings(entries, compared, collapsed),
        "method": describe_method(settings),
    }
    return Analysis(plain(result, DIGITS), laws, draws)


def rows_of_plane(own):
    """The runs of a family's joint law: one recipe, the ladder's if it was trained on three amounts
    of data."""
    ladder = [row for row in own if is_ladder(row)]
    if len({row["n_chars_seen"] for row in ladder}) < 3:
        ladder = [row for row in own if not is_ladder(row)] or own
    recipe = headline_rows(ladder)[0]["recipe"]
    return [row for row in ladder if row["recipe"] == recipe]


def describe_method(settings):
    """How the numbers were made, for readers of fits.json."""
    return {
        "fit": (
            "least squares of a N^-alpha + c (N: see `count`) by variable projection over all local"
            " minima"
        ),
        "joint": (
            "least squares of log loss, L = E + ((A / N^alpha)^k + (B / D^beta)^k)^(1/k), k:"
            " `order`; form: sum (k = 1) unless rejected at 5 % (F tests against order and floor"
            " free), norm (E = 0) unless rejected; intervals: runs redrawn; over_choices: widened"
            " to hold the estimates of every choice that counts"
        ),
        "one_law": (
            "runs belong to a law of others if they do not raise its residual beyond its noise (F"
            f" test, {100 * RIVAL_LEVEL:.0f} % for the original suite, {100 * BEND_LEVEL:.0f} % for"
            " the smallest size)"
        ),
        "interval": (
            "profile likelihood, F(1, degrees of freedom of the noise); see benchmarks/scaling.md"
        ),
        "verdict": (
            f"open: an end of the interval is missing, or {RIVALS['log_linear']} is not rejected at"
            f" {100 * RIVAL_LEVEL:.0f} % (F test against its limit alpha -> 0); bounded: both ends"
            f" are known; identified: they are at most a factor of {MOST_RATIO} apart,"
            f" {RIVALS['power']} is rejected likewise, and {law.MIN_NOISE_DOF} degrees of freedom"
            " measure the noise"
        ),
        "huber": f"cross-check: summed Huber loss on log L, delta {law.HUBER_DELTA:g}, multi-start",
        "not_covered": (
            "the intervals cover the noise of runs, not what another corpus, recipe or validation"
            " set would change"
        ),
        "resamples": settings.n_resamples,
        "seed": settings.seed,
        "alpha_range": law.ALPHA_RANGE,
    }


# ---------------------------------------------------------------- in words


def headline(entries, refused, compared, joint, differences):
    """The answer, true whatever the numbers are: a sentence of at most 25 words for each family,
    each pair of families, each joint law and each difference of exponents. The long reasons stand
    in families.<family>.reason and comparison.<cost>.text."""
    sentences = [
        (
            _refused_sentence(family, refused[family])
            if family in refused
            else _law_sentence(family, entries[family])
        )
        for family in in_order(set(entries) | set(refused))
        if family not in joint
    ]  # one exponent a family: the plane's
    sentences += filter(None, (_pair_sentence(pair) for pair in compared))
    sentences += [_joint_sentence(family, entry) for family, entry in joint.items()]
    sentences += [_difference_sentence(found) for found in differences]
    return " ".join(sentences)


def _refused_sentence(family, reason):
    reason, *_ = reason.partition(";")
    words = reason.split()
    return (
        f"{label(family)}: not fitted: {' '.join(words[:20])}{' ...' if len(words) > 20 else ''}."
    )


def _law_sentence(family, entry):
    """What the runs of one family say, in the verdict's word. No value of alpha unless it is
    identified: it would be quoted. No formula: a rounded to what alpha's interval allows gives
    other losses."""
    runs = f"{entry['n_sizes']} sizes, {entry['n_runs']} runs"
    if entry["verdict"] == "open":
        return f"{label(family)}: alpha stays open ({runs}): {entry['reason_in_short']}."
    low, high = entry["alpha_interval"]
    ends = f"{rounded(low, low, high)} to {rounded(high, low, high)}"
    if entry["verdict"] == "bounded":
        return (
            f"{label(family)}: alpha is bounded, {ends} ({runs}), not identified:"
            f" {entry['reason_in_short']}."
        )
    choices = entry["interval_over_choices"]
    spread = (
        ""
        if choices is None
        else (
            f"; over choices of analysis {' to '.join(rounded(end, low, high) for end in choices)}"
        )
    )
    return (
        f"{label(family)}: alpha is identified, {rounded(entry['alpha'], low, high)}"
        f" ({100 * law.LEVEL:.0f} % interval {ends}{spread}; {runs})."
    )


def _pair_sentence(pair):
    """Who has the lower loss at equal cost, in one sentence; None if no cost can be compared."""
    parts = [
        f"at equal {IN_SHORT[cost]}"
        f" {_who_is_lower(pair['first'], pair['second'], pair[cost]['points'])}"
        for cost in COSTS
        if "points" in pair[cost]
    ]
    return f"Lower loss of {_pair(pair)}: {', '.join(parts)}." if parts else None


def _who_is_lower(first, second, points):
    """ "LSTM at 2 of 5 points": those where the interval of the difference carries it."""
    if any(point["interval"] is None for point in points):
        return "unknown"
    below = sum(point["interval"][1] < 0 for point in points)
    above = sum(point["interval"][0] > 0 for point in points)
    clear = [
        f"{label(family)}"
        f" {'everywhere' if count == len(points) else f'at {count}/{len(points)} points'}"
        for count, family in ((below, first), (above, second))
        if count
    ]
    return " and ".join(clear) or "neither"


def _joint_sentence(family, entry):
    start = f"{label(family)}, sizes and data varied ({entry['n_runs']} runs): "
    if not entry["identified"]:
        return f"{start}the joint law is not identified: {entry['reason'].partition(';')[0]}."
    alpha, beta, optimal = (
        f"{rounded(entry[name]['value'], *entry[name]['over_choices']['interval'])} ± "
        f"{entry[name]['over_choices']['half_width']:.2f}"
        for name in EXPONENTS
    )
    order = (
        ""
        if entry["form"] == "sum"
        else (
            " Size and text do not add up: order"
            f" {rounded(entry['order']['value'], *entry['order']['interval'])}, not 1."
        )
    )
    return (
        f"{start}alpha {alpha}, beta {beta}; compute-optimal N grows as C^a with a ="
        f" {optimal}.{order}"
    )


def _difference_sentence(found):
    low, high = found["over_choices"]
    value, *ends = (rounded(number, low, high) for number in (found["difference"], low, high))
    return (
        f"Alpha of {label(found['first'])} less that of {label(found['second'])}: {value}"
        f" ({' to '.join(ends)})."
    )


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
            return (
                f"At equal {what} the {label(better)} has the lower loss everywhere {scale}, by "
                f"{min(sizes):.3f} to {max(sizes):.3f} nats."
            )
    if not below and not above:
        return f"At equal {what} no difference between the families can be told from noise {scale}."
    parts = [
        f"the {label(better)} is lower at {count} of {len(points)} points"
        for count, better in ((below, first), (above, second))
        if count
    ]
    rest = "" if below + above == len(points) else "; elsewhere noise hides the difference"
    cross = found["crossover"]
    # a crossing counts only if both sides of it stand out of the noise
    if cross["at"] is not None and below and above:
        rest += f"; the curves cross at {si(cross['at'])} {what}"
        if cross["interval"]:
            rest += (
                f" ({100 * law.LEVEL:.0f} % interval {si(cross['interval'][0])} to"
                f" {si(cross['interval'][1])})"
            )
    return f"At equal {what} {' and '.join(parts)} {scale}{rest}."


def _pair(compared):
    return f"{label(compared['first'])} and {label(compared['second'])}"


def warnings(entries, compared, collapsed):
    """What a reader should know before quoting a number."""
    out = [
        f"{label(family)}: the loss curves of {', '.join(found['apart'])} do not collapse onto the"
        " others': look at their learning rates"
        for family, found in collapsed.items()
        if found["apart"]
    ]
    for family, entry in entries.items():
        if entry["bends_below"]:
            out.append(
                f"{label(family)}: the law bends below N = {si(entry['bends_below'])}:"
                f" {entry['runs_below']} smaller runs are left out"
            )
        if entry.get("common_law") and not entry["common_law"]["holds"]:
            out.append(
                f"{label(family)}: ladder and original suite do not lie on one law "
                f"(p = {entry['common_law']['p_value']:.2g}): the ladder is fitted alone"
            )
        if entry["n_runs"] == entry["n_sizes"]:
            out.append(
                f"{label(family)}: one seed per size, so the noise is guessed from"
                f" {entry['n_sizes']} residuals of a 3-parameter curve"
            )
        if not entry["falls_with_n"]:
            out.append(f"{label(family)}: the loss does not fall from each size to the next")
        if entry["huber"]["inside_interval"] is False:
            out.append(
                f"{label(family)}: the Huber cross-check (alpha {entry['huber']['alpha']:.3g}) lies"
                " outside the interval: a single run may dominate"
            )
        if entry["noise"]["source"] == "lack of fit":
            out.append(
                f"{label(family)}: the curve misses the means by more than the seeds explain "
                f"(p = {entry['noise']['lack_of_fit_p']:.2g})"
            )
    for pair in compared:
        if all(pair[cost].get("paired_seeds", 0) < law.MIN_PAIRED for cost in COSTS):
            out.append(
                ("" if len(compared) == 1 else f"{_pair(pair)}: ")
                + "fewer than three common seeds: the "
                "families are compared with pooled noise, not by pairs"
            )
    return out


def summary(result):
    """The closing block: the classical numbers per family, with their interval and the verdict."""
    block = {}
    for family, entry in result["families"].items():
        low, high = (
            "unbounded" if end is None else f"{end:.3f}" for end in entry["alpha_interval"]
        )
        best = (
            "alpha and c on the bound of the search"
            if entry["alpha"] is None
            else f"alpha {entry['alpha']:.3f} (95 % {low} to {high}), c {entry['c']:.3f}"
        )
        block[label(family)] = f"{best}, R2 {entry['r_squared']:.4f}, {entry['verdict']}"
        if nine := entry.get("classical"):
            block[f"{label(family)}, the study's own sizes"] = (
                nine["verdict"] or f"not fitted: {nine['reason']}"
            )
    block.update(
        {label(family): f"not fitted: {reason}" for family, reason in result["refused"].items()}
    )
    return block | {"headline": result["headline"]}
