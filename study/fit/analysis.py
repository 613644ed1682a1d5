"""Makes fits.json from runs: the law of each family, its verdict, families compared, the answer."""

from typing import NamedTuple

import numpy as np

from study.fit import answer as study_answer
from study.fit import power_law as law
from study.fit import sentences
from study.fit.choices import alpha_choices, interval_over_choices
from study.fit.compare import compare_pairs
from study.fit.headline_runs import Headline, choose_headline, refusal, unusable
from study.fit.joint_fit import fit_grid, rows_of_grid
from study.fit.predictions import beside_measured
from study.fit.records import by_family, columns, count_of, is_ladder
from study.fit.verdict import RIVAL_LEVEL, RIVALS, verdict
from study.stages.files import plain

VALIDATION = "validation loss, nats per character"
NO_VERDICT = {  # of a law at one amount of text where several were trained
    "verdict": "one amount",
    "identified": False,
    "reason": "several amounts of text were trained: the law of size and text answers",
    "reason_in_short": "see the law of size and text",
}
CLASSICAL = (  # of the original suite's own fit
    "alpha a c alpha_interval c_interval r_squared verdict identified reason n_sizes n_runs count"
).split()
DIGITS = 10  # of every number: too few for another machine's last bits to show


class Analysis(NamedTuple):
    result: dict  # the content of fits.json
    laws: dict  # family -> PowerLaw


def fit_family(chosen):
    """Returns (entry of a family in fits.json, PowerLaw) from its Headline."""
    rows, count = chosen.rows, count_of(chosen.rows)
    n, loss = columns(rows, count)
    fit = law.fit_power_law(n, loss)
    found = verdict(fit)
    numbers = {"alpha": fit.alpha, "a": fit.a, "c": fit.c}
    if law.is_on_bound(fit.alpha):  # the bound's numbers, not the data's
        numbers = dict.fromkeys(numbers)
    entry = {
        **numbers,
        "r_squared": fit.r_squared,
        "alpha_interval": fit.alpha_interval,
        "c_interval": fit.c_interval,
        "verdict": found.word,
        "identified": found.word == "identified",
        "reason": found.reason,
        "reason_in_short": found.short,
        "rivals": found.rivals,
        "suite": chosen.suite,
        "count": count,
        "bends_below": chosen.bends_below,
        "runs_below": len(chosen.uncut) - len(rows),
        "n_sizes": len(fit.sizes),
        "n_runs": len(rows),
        "n_chars_seen": rows[0]["n_chars_seen"],
        "recipe": rows[0]["recipe"],
        "noise": {
            "sd_nats": fit.noise_sd,
            "degrees_of_freedom": fit.noise_dof,
            "source": fit.noise_source,
            "lack_of_fit_p": fit.lack_of_fit_p,
        },
        "falls_with_n": (np.diff(fit.means) < 0).all(),
        "forms": {form: law.fit_line(n, loss, form) for form in RIVALS},
        "held_out": law.hold_out_largest(n, loss),
    }
    if any(map(is_ladder, rows)):
        p = chosen.common_p
        entry["common_law"] = p if p is None else {"p_value": p, "holds": p >= RIVAL_LEVEL}
        entry["classical"] = fit_nine(chosen.nine)
    return entry, fit


def fit_nine(nine):
    """Returns the fit of the original suite by itself, in short; None without it."""
    if not nine:
        return None
    if reason := refusal(nine):
        unknown = dict.fromkeys(("alpha", "alpha_interval", "verdict"))
        return {**unknown, "identified": False, "reason": reason}
    entry, _ = fit_family(Headline(nine, [], nine))
    return {key: entry[key] for key in CLASSICAL}


def analyse(rows, resamples, seed=0, measured=VALIDATION, predicted=None, saved=None, share=None):
    """Returns the Analysis of the rows of runs.csv.

    resamples: of every bootstrap; measured: what the losses are; predicted: {family: what
    `predict_run` said before}; saved, share: as of `answer`.
    """
    rng = np.random.default_rng(seed)
    chosen, entries, laws, counting, refused = {}, {}, {}, {}, {}
    joint, joint_refused, usable = {}, {}, []
    for family, own in by_family(rows).items():
        reason = unusable(own)
        if not reason:  # a family without a law can still be compared at equal cost
            chosen[family] = choose_headline(own)
            usable += own
            reason = refusal(chosen[family].rows)
        if reason:
            refused[family] = reason
        else:
            entry, laws[family] = fit_family(chosen[family])
            counting[family] = alpha_choices(chosen[family])
            entry["interval_over_choices"] = interval_over_choices(entry, counting[family])
            entries[family] = entry
        grid = rows_of_grid(own)
        law_of_both, _, _ = fit_grid(grid, resamples, rng)
        if isinstance(law_of_both, str):
            joint_refused[family] = law_of_both
            continue
        joint[family] = law_of_both
        if family in (predicted or {}):
            law_of_both["prediction"] = beside_measured(predicted[family], grid)
        if family in entries:
            entries[family].update(NO_VERDICT)
    compared = compare_pairs({family: headline.rows for family, headline in chosen.items()})
    answer = study_answer.answer(usable, saved, share)
    result = {
        "headline": sentences.headline(entries, refused, compared, joint, answer),
        "answer": answer,
        "loss": measured,
        "level": law.LEVEL,
        "n_runs": len(rows),
        "families": entries,
        "refused": refused,
        "comparison": compared[0] if compared else None,  # of the first two families
        "more_comparisons": compared[1:],
        "counting": counting,
        "joint": joint or None,
        "joint_refused": joint_refused,
        "warnings": sentences.warnings(entries, compared),
        "method": {"resamples": resamples, "seed": seed},
    }
    return Analysis(plain(result, DIGITS), laws)
