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

from study.stages.files import plain

import numpy as np

from study.families import in_order
from study.fit import answer as study_answer
from study.fit import compare, sentences
from study.fit import power_law as law
from study.fit.choices import alpha_choices, interval_over_choices
from study.fit.headline_runs import (
    Headline,
    choose_headline,
    headline_rows,
    refusal,
    spread_of_seeds,
    unusable,
)
from study.fit.joint_fit import compare_promise, fit_plane
from study.fit.records import columns, count_of, is_ladder, is_positive
from study.fit.verdict import RIVAL_LEVEL, verdict

VALIDATION = "validation loss, nats per character"
# of a law at one amount of text where several were trained: the answer is the joint law's
NO_VERDICT = {
    "verdict": "one amount",
    "identified": False,
    "reason": "several amounts of text were trained: the law of size and text answers",
    "reason_in_short": "see the law of size and text",
}
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
    for cost, what in sentences.COSTS.items():
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
            found = compare.compare_families(*runs, noise, settings.n_resamples, rng)
            compared[cost] = {
                "what": what,
                **(
                    {**found, "text": sentences.compared_sentence(first, second, what, found)}
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
    {size: {"positions_per_bin", "loss": bins, "n_seeds", "gain_from_far_context": nats}}; a
    size whose runs have
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


# ---------------------------------------------------------------- the whole analysis


def analyse(rows, settings, measured=VALIDATION, promises=None, saved=None, share=None):
    """Returns everything that fits.json holds, from the rows of runs.csv.

    measured: what the losses are, in words; promises: {family: what `joint_fit.predict_corner` said
    before}; saved: {(family, N, D): bits saved on a repeated bar}; share: of characters in second
    occurrences of bars. The order of the steps is part of the result: all resampling draws from one
    generator.
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
    entries, laws, refused, counting = _laws_at_one_amount(everything, chosen)
    joint, joint_refused, draws = {}, {}, {}
    for family, own in everything.items():
        entry, drawn = fit_plane(rows_of_plane(own), settings, rng)
        if drawn is None:
            joint_refused[family] = entry
            continue
        joint[family], draws[family] = entry, drawn
        if promise := (promises or {}).get(family):
            entry["promise"] = compare_promise(promise, rows_of_plane(own))
        if family in entries:
            entries[family].update(NO_VERDICT)
    position = {
        family: profiles
        for family, headline in chosen.items()
        if (profiles := by_position(headline.nine or headline.rows, settings))
    }
    compared = compare_pairs(families, laws, settings, rng)
    on_grid = [row for family in chosen for row in rows_of_plane(everything[family])]
    answer = study_answer.answer(on_grid, saved, share) if on_grid else None
    result = {
        "headline": sentences.headline(entries, refused, compared, joint, answer),
        "answer": answer,
        "loss": measured,
        "level": law.LEVEL,
        "n_runs": len(rows),
        "families": entries,
        "refused": refused,
        # of the first two families; None if there is but one
        "comparison": compared[0] if compared else None,
        # of three families and more: other pairs
        **({"more_comparisons": compared[1:]} if len(compared) > 1 else {}),
        "counting": counting,
        "loss_by_position": position or None,
        "joint": joint or None,
        "joint_refused": joint_refused,
        "warnings": sentences.warnings(entries, compared),
        "method": sentences.describe_method(settings),
    }
    return Analysis(plain(result, DIGITS), laws, draws)


def _laws_at_one_amount(everything, chosen):
    """Returns (entries, laws, reasons of refusal, choices) of L(N), each by family."""
    entries, laws, refused, counting = {}, {}, {}, {}
    for family, own in everything.items():
        if reason := refusal(own):
            refused[family] = reason
            continue
        entries[family], laws[family] = fit_family(chosen[family])
        counting[family] = alpha_choices(chosen[family], own)
        entries[family]["interval_over_choices"] = interval_over_choices(
            entries[family], counting[family]
        )
    return entries, laws, refused, counting


def rows_of_plane(own):
    """The runs of a family's joint law: one recipe, the ladder's if it was trained on three amounts
    of data."""
    ladder = [row for row in own if is_ladder(row)]
    if len({row["n_chars_seen"] for row in ladder}) < 3:
        ladder = [row for row in own if not is_ladder(row)] or own
    recipe = headline_rows(ladder)[0]["recipe"]
    return [row for row in ladder if row["recipe"] == recipe]
