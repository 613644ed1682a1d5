"""The answer of the study: one law of all families, who is better where, what an unseen run does.

    found = answer(rows, saved, share)      # fits["answer"] of fits.json

With a grid of sizes and amounts of text: exponents with intervals that carry seeds, the text that
was drawn and the form. Without one: only what the runs can know.
"""

import math

import numpy as np

from study.families import in_order
from study.fit import copying, design, sentences
from study.fit import shared_law as shared
from study.fit.power_law import LEVEL, t_quantile
from study.fit.records import count_of, is_ladder, is_positive

MIN_SIZES, MIN_AMOUNTS = 4, 3  # of a grid
TIE = 2.0  # standard errors of a difference below which two families are a draw
MOST_ROWS = 30  # of the table of winners


def saved_of_rows(measured):
    """Returns {(family, N, D): bits saved}, the mean over seeds, from rows of repeats.csv."""
    cells = {}
    for row in measured:
        if row.get("saved") not in (None, ""):
            key = row["family"], float(row["params_non_embedding"]), float(row["n_chars_seen"])
            cells.setdefault(key, []).append(float(row["saved"]))
    return {key: float(np.mean(values)) for key, values in cells.items()}


def grid_of(rows):
    """Returns the runs of the families that have a grid of sizes and amounts of text, as one list;
    a family whose sizes and data grow together has none."""
    kept = []
    for family in in_order({row["family"] for row in rows}):
        own = [row for row in rows if row["family"] == family]
        own = [row for row in own if is_positive(row["val_nats_per_char"])]
        own = [row for row in own if is_positive(row["n_chars_seen"])]
        count = count_of(own)
        n, d = ([row[key] for row in own] for key in (count, "n_chars_seen"))
        if len(set(n)) < MIN_SIZES or len(set(d)) < MIN_AMOUNTS:
            continue
        if design.cannot_tell(np.array(n, float), np.array(d, float)) is None:
            kept += own
    return kept


def answer(rows, saved=None, share=None):
    """Returns {"sentence", "numbers", "winners", "prediction", "law"}.

    rows: those of the joint law, all families; saved: of `saved_of_rows`; share: of characters in
    second occurrences, counted in the text.
    """
    grid = grid_of(rows)
    table = winners(grid or rows)
    if not grid:
        families = in_order({row["family"] for row in rows})
        return {
            "sentence": sentences.answer_without_grid(families, table),
            "numbers": {},
            "winners": table,
            "prediction": None,
            "law": None,
        }
    points = shared.points_of(grid, saved)
    found = shared.fit(points)
    other = shared.spread(found, points)
    starts = onset_of(points)
    law = describe_law(grid, saved, points, found, share)
    numbers = quoted_numbers(found, other, law, share, starts)
    prediction = predictions(points, share, starts)
    return {
        "sentence": sentences.answer(points.families, numbers),
        "numbers": numbers,
        "winners": table,
        "prediction": prediction,
        "law": law,
    }


# ---------------------------------------------------------------- the law


def describe_law(grid, saved, points, found, share):
    """Returns what stands behind the numbers: rivals, tests, regions and forms tried."""
    separate = shared.fit(points, shared.Shape(()))
    one_floor = shared.fit(points, shared.Shape(("E",)))
    plain = shared.fit(points, shared.Shape(kappa=0.0))
    added = shared.fit(points, shared.Shape(sum=True))
    rivals = {"shared": (found, None), "k = 1": (added, shared.against(added, found))}
    if len(points.families) > 1:
        rivals["exponents of each family, one E"] = one_floor, shared.against(found, one_floor)
        rivals["all of each family"] = separate, shared.against(found, separate)
    if points.saved.any():
        rivals["no copying term"] = (plain, shared.against(plain, found))
    return {
        "n_runs": len(points.loss),
        "families": points.families,
        "n_range": [float(points.n.min()), float(points.n.max())],
        "d_range": [float(points.d.min()), float(points.d.max())],
        "rivals": [
            {"law": name, "parameters": fit.n_free, "scatter": fit.scatter, "test": test}
            for name, (fit, test) in rivals.items()
        ],
        "constants": {
            family: {"A": a, "B": b} for family, (a, b) in zip(points.families, constants(found))
        },
        "scatter_of_family": {
            family: math.sqrt(float((found.residuals[points.family == i] ** 2).mean()))
            for i, family in enumerate(points.families)
        },
        "regions": shared.misfit_by_region(found, points),
        "each_family": [
            {"family": family, **_alone(points.only(points.family == i))}
            for i, family in enumerate(points.families)
        ],
        "forms": forms(grid, saved, points, one_floor, share),
        "E_profile": shared.profile_of_floor(found, points),
    }


def constants(found):
    """Returns [(A, B)] of each family, in nats per character."""
    p = found.parameters
    pairs = []
    for family in range(len(found.columns["log_a"])):
        log_a, log_b, alpha, beta = (
            p[found.columns[name][family]] for name in ("log_a", "log_b", "alpha", "beta")
        )
        a = math.exp(log_a + alpha * found.centers[0])
        pairs.append((a, math.exp(log_b + beta * found.centers[1])))
    return pairs


def _alone(points):
    """The law of one family by itself, with its copying term and its regions."""
    found = shared.fit(points)
    values = {name: float(v[0]) for name, v in shared.quoted(found).items()}
    return {**values, "scatter": found.scatter, "regions": shared.misfit_by_region(found, points)}


def forms(grid, saved, points, one_floor, share):
    """Returns [{"form", "runs", "scatter", name of QUOTED: value}]: the same law under other
    choices. Their values widen the intervals that are quoted."""
    tried = []
    if share:
        kappa = copying.kappa_of_share(share)
        tried.append(("kappa counted in the text", points, shared.Shape(kappa=kappa)))
    if all(is_positive(row.get("test_nats_per_char")) for row in grid):
        other = shared.points_of(grid, saved, "test_nats_per_char")
        tried.append(("test split", other, shared.ALL_SHARED))
    off = points.saved + shared.BASE_SAVED <= shared.ON_STEP
    if not off.all():
        tried.append(("without the step", points.only(off), shared.ALL_SHARED))
    rows = [_form(name, own, shared.fit(own, shape)) for name, own, shape in tried]
    for i, family in enumerate(points.families if len(points.families) > 1 else []):
        values = {name: float(v[i % len(v)]) for name, v in shared.quoted(one_floor).items()}
        runs = int((points.family == i).sum())
        name = f"exponents of the {family} alone, one E"
        rows.append({"form": name, "runs": runs, "scatter": one_floor.scatter, **values})
    return rows


def _form(name, points, found):
    values = {key: float(v[0]) for key, v in shared.quoted(found).items()}
    return {"form": name, "runs": len(points.loss), "scatter": found.scatter, **values}


def quoted_numbers(found, other, law, share, starts):
    """Returns the numbers of the headline: at most eight, each {"value", "interval"}."""
    numbers = {}
    for name in shared.QUOTED:
        value = float(shared.quoted(found)[name][0])
        if name == "kappa" and not value:
            continue
        low, high = other.interval(
            value, lambda p, name=name: shared.quoted(found, p)[name][:, 0], LEVEL
        )
        tried = [row[name] for row in law["forms"]]
        low, high = min([low, *tried]), max([high, *tried])
        low = max(low, 0.0)
        numbers[name] = {"value": value, "interval": [low, high]}
    if share:
        numbers["kappa_from_text"] = {"value": copying.kappa_of_share(share)}
    numbers["scatter"] = {"value": found.scatter}
    if starts:
        numbers["copies_from_n_times_d"] = {"value": starts.center}
    return numbers


# ---------------------------------------------------------------- copying, and an unseen run


def onset_of(points):
    """Returns the Onset of the family that copies, or None."""
    own = points.saved != 0
    if not own.any():
        return None
    return copying.onset(points.n[own], points.d[own], points.saved[own] + shared.BASE_SAVED)


def predict(points, found, other, family, n, d, kappa, starts, runs=1):
    """Returns the prediction of a run: {"if_not", "if_copies", "p_copies"}, losses with intervals.

    kappa: nats per bit that is counted in the text, else the fitted one; 0: nothing copies.
    """
    number = points.families.index(family)
    value = shared.loss_at(found, number, n, d)
    error = other.error(
        math.log(value), lambda p: np.log(shared.loss_at(found, number, n, d, parameters=p))
    )
    half = t_quantile(0.5 + LEVEL / 2, 30) * math.hypot(error, found.scatter / math.sqrt(runs))
    result = {"family": family, "n": float(n), "d": float(d)}
    result["if_not"] = {"value": value, "interval": [value * math.exp(s * half) for s in (-1, 1)]}
    result["if_copies"] = result["p_copies"] = None
    if kappa:
        low, high = (copying.gain(kappa, saved) for saved in copying.PLATEAU_RANGE)
        ends = [value * math.exp(-half) - high, value * math.exp(half) - low]
        result["if_copies"] = {"value": value - copying.gain(kappa), "interval": ends}
    if starts:
        result["p_copies"] = starts.probability(n, d)
    return result


def predictions(points, share, starts):
    """Returns {"held_out": the largest run of each family from runs smaller in both, beside
    what was measured, "next": twice the largest size on twice the text}.

    Each family's own exponents, kappa as counted in the text: on held-out amounts of text that
    missed by 0.6 to 1.6 %, shared exponents by 1.4 to 1.8 % (benchmarks/scaling.md).
    """
    n, d = points.n.max(), points.d.max()
    kappa = copying.kappa_of_share(share) if share else None
    found = shared.fit(points, shared.Shape((), kappa))
    kappa = float(shared.quoted(found)["kappa"][0])
    other = shared.spread(found, points)
    copies = {points.families[i] for i in np.unique(points.family[points.saved != 0])}
    held_out, following = [], []
    for number, family in enumerate(points.families):
        own = points.family == number
        largest = points.n[own].max()
        corner = own & (points.n == largest) & (points.d == d)
        term = kappa if family in copies else 0.0
        smaller = (points.n < 0.97 * largest) & (points.d < d)
        if corner.any() and _is_grid(points.only(smaller), family):
            held_out.append(_held_out(points, smaller, corner, family, term))
        following.append(
            predict(points, found, other, family, 2 * n, 2 * d, term, starts if term else None)
        )
    for row in held_out + following:
        row["sentence"] = sentences.prediction(row)
    return {"held_out": held_out, "next": following}


def _is_grid(points, family):
    if family not in points.families:
        return False
    own = points.family == points.families.index(family)
    sizes, amounts = len(set(points.n[own])), len(set(points.d[own]))
    return sizes >= MIN_SIZES and amounts >= MIN_AMOUNTS


def _held_out(points, smaller, corner, family, kappa):
    """The prediction of a corner from smaller runs; whether it copies is unknown to them."""
    seen = points.only(smaller)
    found = shared.fit(seen, shared.Shape((), kappa))
    other = shared.spread(found, seen)
    n, d, losses = points.n[corner][0], points.d[corner][0], points.loss[corner]
    starts = onset_of(seen) if kappa else None
    row = predict(seen, found, other, family, n, d, kappa, starts, len(losses))
    measured = float(losses.mean())
    copied = bool(points.saved[corner].mean() + shared.BASE_SAVED > shared.ON_STEP)
    right = row["if_copies"] if copied and row["if_copies"] else row["if_not"]
    low, high = right["interval"]
    row["measured"], row["copied"] = measured, copied
    row["relative_error"] = right["value"] / measured - 1
    row["inside"] = bool(low <= measured <= high)
    return row


# ---------------------------------------------------------------- who is better where


def winners(rows):
    """Returns [{"n", "d", "winner", "second", "margin", "clear"}]: the family of the lowest loss at
    sizes and amounts that several families share; margin in nats per character, clear: beyond
    TIE standard errors of seeds."""
    rows = [row for row in rows if is_positive(row["val_nats_per_char"])]
    if len({row["family"] for row in rows}) < 2:
        return []
    count = count_of(rows)
    cells, squares, dof = {}, 0.0, 0
    for row in rows:
        key = _size_group(row, count), row["n_chars_seen"]
        own = cells.setdefault(key, {}).setdefault(row["family"], [])
        own.append((row[count], row["val_nats_per_char"]))
    for cell in cells.values():
        for runs in cell.values():
            losses = np.log([loss for _, loss in runs])
            squares, dof = squares + losses.var() * len(losses), dof + len(losses) - 1
    noise = math.sqrt(squares / dof) if dof > 2 else None
    table = [
        _winner(cell, d, noise)
        for (_, d), cell in sorted(cells.items(), key=lambda item: str(item[0]))
        if len(cell) > 1
    ]
    table = sorted(table, key=lambda row: (row["d"] or 0, row["n"]))
    sizes = sorted({row["n"] for row in table}, reverse=True)
    every = math.ceil(len(table) / MOST_ROWS) if table else 1
    kept = set(sizes[::every])
    return [row for row in table if row["n"] in kept]


def _size_group(row, count):
    """Sizes of one name on the ladder are one; otherwise equal N are."""
    return row["size"] if is_ladder(row) else row[count]


def _winner(cell, d, noise):
    means = {family: np.mean([loss for _, loss in runs]) for family, runs in cell.items()}
    first, second = sorted(means, key=means.get)[:2]
    margin = float(means[second] - means[first])
    error = None
    if noise:
        error = means[first] * noise * math.sqrt(sum(1 / len(cell[f]) for f in (first, second)))
    sizes = [n for runs in cell.values() for n, _ in runs]
    return {
        "n": float(np.exp(np.mean(np.log(sizes)))),
        "d": d,
        "winner": first,
        "second": second,
        "margin": margin,
        "clear": None if error is None else bool(margin > TIE * error),
    }
