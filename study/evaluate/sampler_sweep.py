"""Chooses the sampler: a sweep of settings from the same prompts, beside validation tunes."""

import numpy as np

from music.metrics import as_tune, repeated_bars
from music.samples import mean_of_known
from music.validity import rate_samples
from study.evaluate.rating import novelty_of
from study.evaluate.sampling import MODEL_ITSELF, truncation


def sweep_table(samples, real, settings, limits, train):
    """Figures of every sampler from the same prompts, and the one to choose.

    samples: as many for each of `settings`, in their order; real: validation tunes under the same
    limit of length. Returns {"rows", "real" (the same figures of the tunes), "n" (samples a row),
    "chosen", "rule"}.
    """
    n = len(samples) // len(settings)
    rows = [
        {
            **setting,
            "truncation": truncation(setting),
            **sweep_row(samples[k * n : (k + 1) * n], train),
        }
        for k, setting in enumerate(settings)
    ]
    of_real = sweep_row(real, train)
    return {
        "rows": rows,
        "real": of_real,
        "n": n,
        "chosen": choose_sampler(smoothed(rows), of_real, limits),
        "rule": (
            "largest mean of validity and bar accuracy among the settings whose rest bars are at"
            f" most {limits['rest_bar_share']} and whose repeated bars are at most"
            f" {limits['bar_repetition']} above those of validation tunes, each figure taken from a"
            " straight line through all settings; of equals the one nearest to the model itself"
        ),
    }


def smoothed(rows):
    """The rows with their shares on a straight line (least squares) over their place: the settings
    are steps of one path, and a share of one step alone is uncertain by more than what the next
    step changes."""
    fitted = [dict(row) for row in rows]
    for key in ("rate", "bar_accuracy", "rest_bar_share", "bar_repetition"):
        known = [(i, row[key]) for i, row in enumerate(rows) if row[key] is not None]
        if len(known) > 2:
            slope, start = np.polyfit(*zip(*known), 1)
            for i, _ in known:
                fitted[i][key] = min(max(start + slope * i, 0.0), 1.0)
    return fitted


def sweep_row(samples, train):
    """The figures by which samplers are compared. A text stopped by its budget is judged without
    its unfinished bar: these texts are short, and that bar says nothing about the sampler."""
    rates = rate_samples(samples, judge=False)
    repeated = [repeated_bars(as_tune(sample)) for sample in samples]
    valid = rates["without_unfinished_bar"]
    return {
        "n": rates["n"],
        "rate": valid["rate"],
        "interval": valid["interval"],
        "rate_se": (
            (valid["rate"] * (1 - valid["rate"]) / valid["n"]) ** 0.5 if valid["n"] else None
        ),
        "bar_accuracy": rates["bar_accuracy"],
        "bar_accuracy_se": rates["bar_accuracy_se"],
        "rest_bar_share": rates["rest_bar_share"],
        "bar_repetition": mean_of_known(repeated),
        "copied_share": novelty_of(train.content).measure(samples)["copied_share"],
    }


def choose_sampler(rows, real, limits):
    """The setting of the best row (see the rule in `sweep_table`); the model itself if every row
    drifts away.

    limits: {figure: how far above that of real music it may lie}. A sampler that drifts into rests
    or into one bar repeated is no better sampler, however valid its bars.
    """

    def drifts(row):
        return any(
            (row[figure] or 0) > (real[figure] or 0) + limit for figure, limit in limits.items()
        )

    def merit(row):
        is_whole = all(row[key] == MODEL_ITSELF[key] for key in ("top_k", "top_p", "min_p"))
        return (
            (row["rate"] or 0) + (row["bar_accuracy"] or 0),
            -abs(row["temperature"] - 1),
            is_whole,
        )

    best = max((row for row in rows if not drifts(row)), key=merit, default=MODEL_ITSELF)
    return {key: best[key] for key in MODEL_ITSELF}
