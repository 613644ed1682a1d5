"""Chooses the sampler: a sweep of settings from the same prompts, beside validation tunes."""

import numpy as np

from music.metrics import as_tune, repeated_bars
from music.samples import mean_of_known
from music.validity import rate_samples
from study.evaluate.rating import copying
from study.evaluate.sampling import MODEL_ITSELF


def sweep_table(samples, real, settings, limits, train):
    """Returns {"rows": figures of every sampler, "real": of validation tunes, "n": samples a row,
    "chosen": sampler}. samples: as many for each of `settings`, in their order; limits: see
    `choose_sampler`."""
    n, rows = len(samples) // len(settings), []
    for k, setting in enumerate(settings):
        rows.append({**setting, **sweep_row(samples[k * n : (k + 1) * n], train)})
    of_real = sweep_row(real, train)
    chosen = choose_sampler(smoothed(rows), of_real, limits)
    return {"rows": rows, "real": of_real, "n": n, "chosen": chosen}


def smoothed(rows):
    """Returns the rows with their shares on a least-squares line over their place: a share is
    uncertain by more than what the next step changes."""
    fitted = [dict(row) for row in rows]
    for key in ("rate", "bar_accuracy", "rest_bar_share", "bar_repetition"):
        known = [(i, row[key]) for i, row in enumerate(rows) if row[key] is not None]
        if len(known) > 2:
            slope, start = np.polyfit(*zip(*known), 1)
            for i, _ in known:
                fitted[i][key] = min(max(start + slope * i, 0.0), 1.0)
    return fitted


def sweep_row(samples, train):
    """Returns the figures by which samplers are compared; validity: without unfinished bars."""
    rates = rate_samples(samples, judge=False)
    valid = rates["without_unfinished_bar"]
    rate, n = valid["rate"], valid["n"]
    return {
        "n": rates["n"],
        "rate": rate,
        "rate_se": (rate * (1 - rate) / n) ** 0.5 if n else None,
        "bar_accuracy": rates["bar_accuracy"],
        "bar_accuracy_se": rates["bar_accuracy_se"],
        "rest_bar_share": rates["rest_bar_share"],
        "bar_repetition": mean_of_known([repeated_bars(as_tune(sample)) for sample in samples]),
        "copied_share": copying(samples, train)["copied_share"],
    }


def choose_sampler(rows, real, limits):
    """Returns the first setting with the largest sum of validity and bar accuracy that does not
    drift into rests or one bar repeated; the model itself if all do. limits: {figure: how far above
    that of real music it may lie}."""

    def drifts(row):
        return any((row[key] or 0) > (real[key] or 0) + limit for key, limit in limits.items())

    def merit(row):
        return (row["rate"] or 0) + (row["bar_accuracy"] or 0)

    best = max((row for row in rows if not drifts(row)), key=merit, default=MODEL_ITSELF)
    return {key: best[key] for key in MODEL_ITSELF}
