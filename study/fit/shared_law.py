"""Fits one law to several families: shared exponents, irreducible loss and a term for copying.

    L = E + ((A_f / N^alpha)^k + (B_f / D^beta)^k)^(1/k) - kappa (saved - BASE_SAVED)

A_f and B_f belong to the family f. alpha, beta, k and E are shared or each family's own. `saved` is
what in-context copying was measured to save, in bits per character of a repeated bar; kappa, in
nats per bit, is ln 2 times the share of characters that stand in repeated bars.

    points = points_of(rows, saved)            # rows of study/fit/records.py
    found = fit(points, ALL_SHARED)
    other = spread(found, points)              # cells and amounts of text left out in turn

Least squares on log loss. E is always free: it is at least 0 and never set to it.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import special

from study.families import in_order
from study.fit.joint_law import EXPONENT_BOUNDS, INVERSE_ORDERS
from study.fit.power_law import t_quantile
from study.fit.records import count_of, is_positive
from study.fit.robust import SQUARES, log_sum_exp, minimize_huber

BASE_SAVED = 0.05  # bits that every model saves on a repeated bar, long before it copies
COPIES_FROM = 0.5  # bits saved: from here on a model is said to copy; the step is from 0.2 to 1
NAMES = ("log_a", "log_b", "alpha", "beta", "inverse_order", "E")
SHARED = ("alpha", "beta", "inverse_order", "E")
QUOTED = ("alpha", "beta", "order", "E", "kappa")
N_STARTS, FIRST_STEPS, N_KEPT = 16, 25, 3  # of a fit; only the best starts go on to the end
MOST_STEPS = 150
# standard deviation of log loss over draws of a text of so many characters, measured at two amounts
# (1.05 % and 0.4 %); it falls as 1 / D
TEXT_DRAW, TEXT_DRAW_CHARS = 0.0105, 84e3
ON_STEP = 0.3  # bits saved: cells above it are "on the step", the others "off the step"


class Points(NamedTuple):
    """Arrays of one entry a run, and the names of the families that `family` counts."""

    families: list
    family: np.ndarray
    n: np.ndarray
    d: np.ndarray
    loss: np.ndarray
    saved: np.ndarray  # bits above BASE_SAVED; 0 where nothing was measured

    def only(self, keep):
        """Returns the runs where `keep` is True, and the families that they belong to."""
        numbers, family = np.unique(self.family[keep], return_inverse=True)
        families = [self.families[number] for number in numbers]
        return Points(families, family, *(values[keep] for values in self[2:]))

    @property
    def cells(self):
        """Number of the cell (family, N, D) of each run, from 0."""
        keys = np.stack([self.family, self.n, self.d], 1)
        return np.unique(keys, axis=0, return_inverse=True)[1].ravel()


class Shape(NamedTuple):
    """Which parameters all families share, and what kappa is: None free, 0 no copying term."""

    shared: tuple = SHARED
    kappa: float | None = None
    sum: bool = False  # True: k = 1, size and text add up


ALL_SHARED = Shape()


class Fit(NamedTuple):
    """A fitted law: parameters, their columns in it by name and family, residuals of log loss."""

    shape: Shape
    parameters: np.ndarray
    columns: dict
    residuals: np.ndarray
    n_free: int
    centers: tuple

    @property
    def squares(self):
        """Sum of squares of the residuals."""
        return float((self.residuals**2).sum())

    @property
    def scatter(self):
        """Standard deviation of a run about the law, relative."""
        return math.sqrt(self.squares / max(len(self.residuals) - self.n_free, 1))


def points_of(rows, saved=None, loss="val_nats_per_char"):
    """Returns the Points of rows; saved: {(family, N, D): bits saved}, mean over seeds.

    The copying term belongs to a family that copies: one with a cell above COPIES_FROM.
    """
    rows = [row for row in rows if is_positive(row["n_chars_seen"]) and is_positive(row[loss])]
    count, saved = count_of(rows), saved or {}
    families = in_order({row["family"] for row in rows})
    copying = {family for (family, _, _), bits in saved.items() if bits >= COPIES_FROM}
    extra = []
    for row in rows:
        key = row["family"], row[count], row["n_chars_seen"]
        measured = row["family"] in copying and key in saved
        extra.append(saved[key] - BASE_SAVED if measured else 0.0)
    return Points(
        families,
        np.array([families.index(row["family"]) for row in rows]),
        np.array([row[count] for row in rows], float),
        np.array([row["n_chars_seen"] for row in rows], float),
        np.array([row[loss] for row in rows], float),
        np.array(extra),
    )


# ---------------------------------------------------------------- the fit


def _columns(shape, n_families):
    """Returns ({name: column of each family}, number of parameters); kappa is the last."""
    columns, used = {}, 0
    for name in NAMES:
        n_own = 1 if name in shape.shared else n_families
        columns[name] = used + (np.arange(n_families) if n_own > 1 else np.zeros(n_families, int))
        used += n_own
    return columns, used + 1


def _model(points, columns, n_parameters, centers):
    """Returns model(p) -> log loss (B, K) and its slopes (B, K, P), for `minimize_huber`."""
    x_n, x_d = np.log(points.n) - centers[0], np.log(points.d) - centers[1]
    where = {name: own[points.family] for name, own in columns.items()}
    rows = np.arange(len(points.n))

    def model(p):
        log_a, log_b, alpha, beta, inverse, floor = (p[:, where[name]] for name in NAMES)
        terms = np.stack([log_a - alpha * x_n, log_b - beta * x_d]) / inverse
        both, part = log_sum_exp(terms)
        reducible = np.exp(inverse * both)
        loss = np.maximum(floor + reducible - p[:, -1:] * points.saved, 1e-3)
        share = reducible / loss
        by_inverse = share * (both - (part * terms).sum(0))
        by_a, by_b = share * part[0], share * part[1]
        slopes = np.zeros((*loss.shape, n_parameters))
        for name, slope in zip(NAMES, (by_a, by_b, -by_a * x_n, -by_b * x_d, by_inverse, 1 / loss)):
            slopes[:, rows, where[name]] = slope
        slopes[..., -1] = -points.saved / loss
        return np.log(loss), slopes

    return model


def _bounds(points, shape, columns, n_parameters, floor):
    low, high = np.full(n_parameters, -15.0), np.full(n_parameters, 10.0)
    order = (1.0, 1.0) if shape.sum else INVERSE_ORDERS
    floors = (0.0, 0.98 * points.loss.min()) if floor is None else (floor, floor)
    ranges = (EXPONENT_BOUNDS, EXPONENT_BOUNDS, order, floors)
    for name, (least, most) in zip(SHARED, ranges):
        low[columns[name]], high[columns[name]] = least, most
    fixed = shape.kappa if points.saved.any() else 0.0
    low[-1], high[-1] = (0.0, 1.0) if fixed is None else (fixed, fixed)
    return np.array([low, high])


def _starts(points, columns, n_parameters):
    """Returns starts (N_STARTS, P): exponents, order and E spread evenly, at random."""
    rng = np.random.default_rng(0)
    starts = np.full((N_STARTS, n_parameters), 0.08)
    ranges = {"alpha": (0.08, 0.6), "beta": (0.1, 0.6), "inverse_order": (0.3, 1), "E": (0, 0.6)}
    for name, (low, high) in ranges.items():
        shares = (rng.permutation(N_STARTS) + 0.5) / N_STARTS
        values = low + (high - low) * shares
        if name == "E":
            values = values * points.loss.min()
        starts[:, columns[name]] = values[:, None]
    for family in range(len(points.families)):
        own = points.loss[points.family == family]
        middle = own.mean() if len(own) else points.loss.mean()
        for name in ("log_a", "log_b"):
            left = np.maximum(middle - starts[:, columns["E"][family]], 0.05)
            starts[:, columns[name][family]] = np.log(0.6 * left)
    return starts


def fit(points, shape=ALL_SHARED, floor=None, start=None):
    """Returns the Fit of least squares of log loss.

    floor: E if it is given, for a profile; start: parameters of a fit of the same shape nearby.
    """
    columns, n_parameters = _columns(shape, len(points.families))
    centers = np.log(points.n).mean(), np.log(points.d).mean()
    model = _model(points, columns, n_parameters, centers)
    bounds = _bounds(points, shape, columns, n_parameters, floor)
    if start is None:
        p, objective = minimize_huber(
            model,
            np.log(points.loss),
            _starts(points, columns, n_parameters),
            bounds,
            delta=SQUARES,
            max_steps=FIRST_STEPS,
        )
        p = p[np.argsort(objective, kind="stable")[:N_KEPT]]
    else:
        p = np.asarray(start)[None]
    p, objective = minimize_huber(
        model, np.log(points.loss), p, bounds, delta=SQUARES, max_steps=MOST_STEPS
    )
    best = p[int(objective.argmin())]
    residuals = np.log(points.loss) - model(best[None])[0][0]
    n_free = int((bounds[0] < bounds[1]).sum())
    return Fit(shape, best, columns, residuals, n_free, centers)


def loss_at(found, family, n, d, saved=0.0, parameters=None):
    """Returns the loss of the law in nats per character; family: its number in Points.

    parameters (P,) or (M, P) in place of the fit's own; saved: bits above BASE_SAVED.
    """
    p = np.atleast_2d(found.parameters if parameters is None else parameters)
    one = np.array([family])
    number = len(found.columns["alpha"])
    point = Points([""] * number, one, *(np.array([float(v)]) for v in (n, d, 1.0, saved)))
    value = np.exp(_model(point, found.columns, p.shape[1], found.centers)(p)[0][:, 0])
    return float(value[0]) if parameters is None else value


def quoted(found, parameters=None):
    """Returns {name of QUOTED: array of its values, one a family (kappa: one)}."""
    p = found.parameters if parameters is None else parameters
    values = {name: p[..., found.columns[name]] for name in ("alpha", "beta", "E")}
    values["order"] = 1 / p[..., found.columns["inverse_order"]]
    values["kappa"] = p[..., -1:]
    return values


# ---------------------------------------------------------------- intervals


def _refitted(found, points, weights, shifts):
    """Returns the parameters (G, P) of the law refitted with weights and shifts of log loss, each
    (G, K) or one number."""
    _, n_parameters = _columns(found.shape, len(points.families))
    model = _model(points, found.columns, n_parameters, found.centers)
    bounds = _bounds(points, found.shape, found.columns, n_parameters, None)
    n_fits = len(weights) if np.ndim(weights) else len(shifts)
    start = np.tile(found.parameters, (n_fits, 1))
    y = np.log(points.loss) + shifts
    return minimize_huber(model, y, start, bounds, weights, SQUARES, max_steps=MOST_STEPS)[0]


def _without_each(groups):
    return 1.0 - (np.arange(groups.max() + 1)[:, None] == groups)


class Spread(NamedTuple):
    """Parameters of a law without each cell, without each amount of text, and with the runs of each
    amount shifted by what another draw of its text does."""

    cells: np.ndarray
    amounts: np.ndarray
    drawn: np.ndarray

    def error(self, value, function):
        """Returns the standard error of function(parameters): cells carry seeds and what the form
        misses, `drawn` the text."""
        cells = np.asarray(function(self.cells))
        variance = (len(cells) - 1) * cells.var(0)
        return math.sqrt(variance + ((function(self.drawn) - value) ** 2).sum(0))

    def interval(self, value, function, level):
        """Returns the interval of function(parameters), widened to hold its values without each
        amount of text: what the law owes to one amount is a choice, not noise."""
        half = t_quantile(0.5 + level / 2, 30) * self.error(value, function)
        others = np.asarray(function(self.amounts))
        return [float(min(value - half, others.min())), float(max(value + half, others.max()))]


def spread(found, points):
    """Returns the Spread of a fit."""
    texts, amounts = np.unique(points.d, return_inverse=True)
    amounts = amounts.ravel()
    own = TEXT_DRAW * TEXT_DRAW_CHARS / texts
    shifts = np.diag(own)[:, amounts]
    return Spread(
        _refitted(found, points, _without_each(points.cells), 0.0),
        _refitted(found, points, _without_each(amounts), 0.0),
        _refitted(found, points, 1.0, shifts),
    )


def profile_of_floor(found, points, level=0.95, n_values=25):
    """Returns [low, high] of the E that an F test does not reject at 1 - level."""
    best, dof = found.squares, len(points.loss) - found.n_free
    inside = [float(np.mean(quoted(found)["E"]))]
    for floor in np.linspace(0, 0.9 * points.loss.min(), n_values):
        worse = fit(points, found.shape, floor, found.parameters)
        growth = max(worse.squares - best, 0.0) / max(best / dof, 1e-18)
        if special.fdtrc(1, dof, growth) > 1 - level:
            inside.append(float(floor))
    return [min(inside), max(inside)]


# ---------------------------------------------------------------- tests


def against(special_fit, general_fit):
    """Returns {"p", "f", "extra"}: F test of a law nested in a more general one."""
    extra = general_fit.n_free - special_fit.n_free
    dof = len(general_fit.residuals) - general_fit.n_free
    growth = max(special_fit.squares - general_fit.squares, 0.0) / extra
    f = growth / max(general_fit.squares / dof, 1e-18)
    return {"p": float(special.fdtrc(extra, dof, f)), "f": f, "extra": extra}


def misfit_by_region(found, points):
    """Returns [{"region", "runs", "cells", "misfit", "seed_sd", "ratio", "p"}].

    misfit: root mean square of the cells' mean residuals; seed_sd: of runs about their cell; ratio
    of what the law misses to what seeds scatter, p: its F test. None without repeated runs.
    """
    on = points.saved + BASE_SAVED > ON_STEP
    regions = {"all": np.ones(len(on), bool), "off the step": ~on, "on the step": on}
    return [
        {"region": name, **_misfit(found, points, keep)}
        for name, keep in regions.items()
        if keep.any() and (name == "all" or on.any())
    ]


def _misfit(found, points, keep):
    cells, residuals = points.cells[keep], found.residuals[keep]
    _, own, counts = np.unique(cells, return_inverse=True, return_counts=True)
    means = np.bincount(own, residuals) / counts
    within = float(((residuals - means[own]) ** 2).sum())
    between = float((counts * means**2).sum())
    n_cells, n_all = len(counts), len(np.unique(points.cells))
    dof = n_cells - found.n_free * n_cells / n_all
    seed_dof = len(residuals) - n_cells
    row = {
        "runs": len(residuals),
        "cells": n_cells,
        "misfit": math.sqrt(float((means**2).mean())),
        "seed_sd": None,
        "ratio": None,
        "p": None,
    }
    if seed_dof > 1 and dof > 0 and within > 0:
        ratio = between / dof / (within / seed_dof)
        row |= {
            "seed_sd": math.sqrt(within / seed_dof),
            "ratio": math.sqrt(ratio),
            "p": float(special.fdtrc(dof, seed_dof, ratio)),
        }
    return row
