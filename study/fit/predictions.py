"""Predicts runs that nobody has trained: loss if the model copies, if not, and how likely that is.

Each family has its own exponents and kappa is counted in the text: that missed held-out amounts of
text by least (benchmarks/scaling.md).
"""

import math

import numpy as np

from study.fit import copying, sentences
from study.fit import shared_law as shared
from study.fit.power_law import half_of_t
from study.fit.records import columns, count_of, is_positive
from study.stages.files import value_digest


def fitted(points, kappa):
    found = shared.fit(points, shared.Shape((), kappa))
    return found, shared.spread(found, points)


def predict(points, law, family, n, d, kappa, starts, runs=1):
    """Returns {"if_not", "if_copies", "p_copies"}, losses with intervals, of the mean of `runs`;
    law: of `fitted`, kappa 0: nothing copies."""
    (found, other), number = law, points.families.index(family)
    loss = lambda p=None: shared.joint_loss(n, d, **shared.values(found, p, number))
    value = loss()
    error = other.error(math.log(value), lambda p: np.log(loss(p)))
    scatter = math.hypot(error, found.scatter / math.sqrt(runs))
    half = half_of_t(shared.DEGREES) * scatter
    low, high = value * math.exp(-half), value * math.exp(half)
    if_copies = None
    if kappa:
        least, most = (copying.gain(kappa, saved) for saved in copying.PLATEAU_RANGE)
        copied = value - copying.gain(kappa)
        if_copies = {"value": copied, "interval": [low - most, high - least]}
    return {
        "family": family,
        "n": float(n),
        "d": float(d),
        "if_not": {"value": value, "interval": [low, high]},
        "if_copies": if_copies,
        "p_copies": starts.probability(n, d) if starts else None,
    }


def predictions(points, kappa, starts):
    """Returns {"held_out": each family's largest run, from runs smaller in both, and what was
    measured, "next": twice the largest size on twice the text}."""
    n, d = points.n.max(), points.d.max()
    law = fitted(points, kappa)
    kappa = shared.values(law[0])["kappa"]
    copies = {points.families[i] for i in np.unique(points.family[points.saved != 0])}
    held_out, following = [], []
    for number, family in enumerate(points.families):
        own = points.family == number
        top = points.n[own].max()
        largest = own & (points.n == top) & (points.d == d)
        term, onset = (kappa, starts) if family in copies else (0.0, None)
        smaller = (points.n < 0.97 * top) & (points.d < d)
        if largest.any() and is_grid(points.only(smaller & own)):
            held_out.append(_held_out(points, smaller, largest, family, term))
        following.append(predict(points, law, family, 2 * n, 2 * d, term, onset))
    for row in held_out + following:
        row["sentence"] = sentences.prediction(row)
    return {"held_out": held_out, "next": following}


def is_grid(points):
    """Returns True for Points of a family with four sizes and three amounts of text."""
    return len(set(points.n)) >= 4 and len(set(points.d)) >= 3


def _held_out(points, smaller, largest, family, kappa):
    seen, losses = points.only(smaller), points.loss[largest]
    starts = copying.onset(seen) if kappa else None
    n, d = points.n[largest][0], points.d[largest][0]
    row = predict(seen, fitted(seen, kappa), family, n, d, kappa, starts, len(losses))
    copied = points.saved[largest].mean() + shared.BASE_SAVED > shared.ON_STEP
    right = row["if_copies"] if copied and row["if_copies"] else row["if_not"]
    return {**row, "copied": copied, **_compared(right, losses.mean())}


def _compared(number, measured):
    (low, high), error = number["interval"], number["value"] / measured - 1
    return {"measured": measured, "relative_error": error, "inside": low <= measured <= high}


def predict_run(rows, n, d, share=None, runs=1):
    """Returns the prediction of n parameters on d characters, the mean of `runs`, from a family's
    rows that are smaller in both, with their "n_runs" and "digest"; ValueError if they are too
    few."""
    count = count_of(rows)
    rows = [row for row in rows if row[count] < n and row["n_chars_seen"] < d]
    rows = [row for row in rows if is_positive(row["val_nats_per_char"])]
    points = shared.points_of(rows)
    if not is_grid(points):
        raise ValueError(
            f"{len(rows)} smaller runs: four sizes and three amounts of data are needed"
        )
    family = rows[0]["family"]
    kappa = copying.kappa_of_share(share) if share and family in copying.ATTENTION else 0.0
    keys = ("name", count, "n_chars_seen", "val_nats_per_char")
    used = sorted([row[key] for key in keys] for row in rows)
    written = predict(points, fitted(points, kappa), family, n, d, kappa, None, runs)
    return {**written, "n_runs": len(rows), "digest": value_digest(used)}


def beside_measured(written, rows):
    """Returns a prediction of `predict_run` with what was measured, or None."""
    count, cell = count_of(rows), (written["n"], written["d"])
    own = [row for row in rows if (row[count], row["n_chars_seen"]) == cell]
    if not own:
        return None
    measured, copied = columns(own)[1].mean(), written["if_copies"]
    return {
        **written,
        **_compared(written["if_not"], measured),
        "measured_runs": len(own),
        "inside_if_copies": copied and _compared(copied, measured)["inside"],
    }
