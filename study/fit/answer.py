"""Gives the answer of the study: one law of all families, winners, what an unseen run does."""

import math
from operator import itemgetter

import numpy as np

from study.fit import copying, sentences
from study.fit import shared_law as shared
from study.fit.compare import half_width, noise_of_runs
from study.fit.joint_fit import cannot_tell, rows_of_grid
from study.fit.predictions import is_grid, predictions
from study.fit.records import by_family, columns, count_of, grouped, is_ladder, is_positive

MOST_ROWS = 30  # of the table of winners


def saved_of_rows(measured):
    """Returns {(family, N, D): mean bits saved} from rows of repeats.csv."""
    cells = {}
    for row in measured:
        if row.get("saved") not in (None, ""):
            key = row["family"], float(row["params_non_embedding"]), float(row["n_chars_seen"])
            cells.setdefault(key, []).append(float(row["saved"]))
    return {key: np.mean(values) for key, values in cells.items()}


def rows_of_grids(rows):
    """Returns the runs of all families with a grid of sizes and amounts of text that do not grow
    together, by which the shared law is fitted."""
    grids = []
    for own in map(rows_of_grid, by_family(rows).values()):
        points = shared.points_of(own)
        if is_grid(points) and cannot_tell(points.n, points.d) is None:
            grids += own
    return grids


def answer(rows, saved=None, share=None):
    """Returns {"sentence", "numbers", "winners", "prediction", "law"}; None without rows.

    saved: of `saved_of_rows`; share: of `second_occurrences`.
    """
    if not rows:
        return None
    grid = rows_of_grids(rows)
    found = {"numbers": {}, "winners": winners(grid or rows), "prediction": None, "law": None}
    points = shared.points_of(grid, saved)
    fit = shared.fit(points) if grid else None
    if not grid or shared.is_on_bound(fit)[0]:
        return {"sentence": sentences.answer_without_law(found["winners"], bool(grid)), **found}
    starts, kappa = copying.onset(points), copying.kappa_of_share(share) if share else None
    law = describe_law(grid, saved, points, fit, kappa)
    numbers = quoted_numbers(fit, shared.spread(fit, points), law, kappa, starts)
    found |= {"numbers": numbers, "prediction": predictions(points, kappa, starts), "law": law}
    return {"sentence": sentences.answer(points.families, numbers), **found}


def describe_law(grid, saved, points, found, kappa):
    """Returns what stands behind the numbers: rivals, residuals, other choices."""
    one_E = shared.fit(points, shared.Shape(("E",)))
    added = shared.fit(points, shared.Shape(sum=True))
    rivals = {"shared": (found, None), "k = 1": (added, shared.against(added, found))}
    if len(points.families) > 1:
        separate = shared.fit(points, shared.Shape(()))
        rivals["exponents of each family, one E"] = one_E, shared.against(found, one_E)
        rivals["all of each family"] = separate, shared.against(found, separate)
    if points.saved.any():
        plain = shared.fit(points, shared.Shape(kappa=0.0))
        rivals["no copying term"] = (plain, shared.against(plain, found))
    constants, each_family = {}, []
    for i, family in enumerate(points.families):
        of_family = shared.values(found, family=i)
        constants[family] = {"A": of_family["A"], "B": of_family["B"]}
        own = points.only(points.family == i)
        alone = shared.fit(own)
        row = {"family": family, **shared.quoted(alone), "scatter": alone.scatter}
        each_family.append({**row, "regions": shared.misfit_by_region(alone, own)})
    return {
        "n_runs": len(points.loss),
        "families": points.families,
        "n_range": [points.n.min(), points.n.max()],
        "d_range": [points.d.min(), points.d.max()],
        "rivals": [
            {"law": name, "parameters": fit.n_free, "scatter": fit.scatter, "test": test}
            for name, (fit, test) in rivals.items()
        ],
        "constants": constants,
        "regions": shared.misfit_by_region(found, points),
        "each_family": each_family,
        "forms": forms(grid, saved, points, one_E, kappa),
    }


def forms(grid, saved, points, one_E, kappa):
    """Returns [{"form", "runs", "scatter", name of QUOTED: value}] of the law under other choices,
    which widen its intervals."""
    tried = []
    if kappa:
        tried.append(("kappa counted in the text", points, shared.Shape(kappa=kappa)))
    if all(is_positive(row.get("test_nats_per_char")) for row in grid):
        other = shared.points_of(grid, saved, "test_nats_per_char")
        tried.append(("test split", other, shared.Shape()))
    off = points.saved + shared.BASE_SAVED <= shared.ON_STEP
    if not off.all():
        tried.append(("without the step", points.only(off), shared.Shape()))
    rows = [_form(name, shared.fit(own, shape)) for name, own, shape in tried]
    for i, family in enumerate(points.families if len(points.families) > 1 else []):
        row = _form(f"exponents of the {family} alone, one E", one_E, i)
        rows.append({**row, "runs": (points.family == i).sum()})
    return rows


def _form(name, found, family=0):
    runs = len(found.residuals)
    return {"form": name, "runs": runs, "scatter": found.scatter, **shared.quoted(found, family)}


def quoted_numbers(found, other, law, kappa, starts):
    """Returns the numbers of the headline: at most eight, each {"value", "interval"}."""
    numbers = {}
    for name, value in shared.quoted(found).items():
        if name == "kappa" and not value:
            continue
        ends = other.interval(value, lambda p, name=name: shared.values(found, p)[name])
        ends += [row[name] for row in law["forms"]]
        numbers[name] = {"value": value, "interval": [max(min(ends), 0.0), max(ends)]}
    if kappa:
        numbers["kappa_from_text"] = {"value": kappa}
    numbers["scatter"] = {"value": found.scatter}
    if starts:
        numbers["copies_from_n_times_d"] = {"value": starts.center}
    return numbers


def winners(rows):
    """Returns [{"n", "d", "winner", "second", "margin", "clear"}] at sizes and amounts of several
    families; margin: nats per character, clear: beyond the scatter of runs, None: not known."""
    rows = [row for row in rows if is_positive(row["val_nats_per_char"])]
    count = count_of(rows)

    def place(row):
        # sizes of one name on the ladder are one; otherwise equal N are
        size = row["size"] if is_ladder(row) else row[count]
        return size, row["n_chars_seen"], row["recipe"]

    cells = [grouped(own, itemgetter("family")) for own in grouped(rows, place).values()]
    cells = [cell for cell in cells if len(cell) > 1]
    runs = [row for cell in cells for own in cell.values() for row in own]
    amounts = grouped(runs, itemgetter("family", "n_chars_seen", "recipe"))
    noise = noise_of_runs(amounts.values())
    table = [_winner(cell, count, noise) for cell in cells]
    table.sort(key=lambda row: (row["d"] or 0, row["n"]))
    sizes = sorted({row["n"] for row in table}, reverse=True)
    kept = sizes[:: max(math.ceil(len(table) / MOST_ROWS), 1)]
    return [row for row in table if row["n"] in kept]


def _winner(cell, count, noise):
    means = {family: columns(runs)[1].mean() for family, runs in cell.items()}
    first, second = sorted(means, key=means.get)[:2]
    margin = means[second] - means[first]
    explained = half_width(noise, 1 / len(cell[first]) + 1 / len(cell[second]))
    sizes = [row[count] for runs in cell.values() for row in runs]
    return {
        "n": np.exp(np.mean(np.log(sizes))),
        "d": cell[first][0]["n_chars_seen"],
        "winner": first,
        "second": second,
        "margin": margin,
        "clear": None if noise is None else margin > explained,
    }
