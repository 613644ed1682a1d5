"""Fits one law of size and text to several families: shared exponents, a term for copying.

    L = E + ((A_f / N^alpha)^k + (B_f / D^beta)^k)^(1/k) - kappa (saved - BASE_SAVED)

A_f and B_f belong to the family f; alpha, beta, k and E >= 0 are shared or each family's own.
`saved`: measured bits per character of a repeated bar; kappa: nats per bit. k = 1 is the law of
Hoffmann et al. 2022; E = 0 and k = 1 / beta that of Kaplan et al. 2020 (equation 1.5).
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import special

from study.families import in_order
from study.fit.power_law import group_by_size, half_of_t
from study.fit.records import count_of, is_positive
from study.fit.robust import SQUARES, log_sum_exp, minimize_huber

BASE_SAVED = 0.05  # bits that every model saves on a repeated bar, long before it copies
COPIES_FROM = 0.5  # bits saved by a model that copies; the step is from 0.2 to 1
ON_STEP = 0.3  # bits saved by cells "on the step"
NAMES = ("log_a", "log_b", "alpha", "beta", "inverse_order", "E", "kappa")  # fitted
JOINT = ("E", "A", "B", "alpha", "beta", "order")  # told, beside kappa
QUOTED = ("alpha", "beta", "order", "E", "kappa")
SHARED = ("alpha", "beta", "inverse_order", "E")
EXPONENT_BOUNDS = (0.01, 3.0)  # a fit that ends on one of them is not identified
INVERSE_ORDERS = (0.05, 2.0)  # bounds of 1 / order
N_STARTS, FIRST_STEPS, N_KEPT, MOST_STEPS = 16, 25, 3, 150  # the best starts go on to the end
# standard deviation of log loss over draws of a text of so many characters; it falls as 1 / D
TEXT_DRAW, TEXT_DRAW_CHARS = 0.0105, 84e3
DEGREES = 30  # of Student's t for intervals of the law


def joint_loss(n, d, E, A, B, alpha, beta, order, kappa=0.0):
    """Returns the loss of a model that does not copy, whatever kappa is."""
    terms = np.stack(np.broadcast_arrays(A * n**-alpha, B * d**-beta))
    larger = terms.max(0)
    return E + larger * ((terms / larger) ** order).sum(0) ** (1 / order)


class Points(NamedTuple):
    """Runs as arrays; `family` holds places in `families`."""

    families: list
    family: np.ndarray
    n: np.ndarray
    d: np.ndarray
    loss: np.ndarray
    saved: np.ndarray  # bits above BASE_SAVED; 0 where nothing was measured

    def only(self, keep):
        numbers, family = np.unique(self.family[keep], return_inverse=True)
        families = [self.families[number] for number in numbers]
        return Points(families, family, *(values[keep] for values in self[2:]))

    @property
    def cells(self):
        """Place of each run's cell (family, N, D)."""
        keys = np.stack([self.family, self.n, self.d], 1)
        return np.unique(keys, axis=0, return_inverse=True)[1].ravel()


class Shape(NamedTuple):
    shared: tuple = SHARED  # parameters of all families
    kappa: float | None = None  # None: free; 0: no copying term
    sum: bool = False  # True: k = 1, size and text add up
    delta: float = SQUARES  # of the Huber loss; SQUARES: least squares


class Fit(NamedTuple):
    shape: Shape
    parameters: np.ndarray
    columns: dict  # name -> place in the parameters for each family
    residuals: np.ndarray  # of log loss
    n_free: int
    centers: tuple  # mean ln N and ln D

    @property
    def squares(self):
        return (self.residuals**2).sum()

    @property
    def scatter(self):
        """Standard deviation of a run about the law, relative."""
        return math.sqrt(self.squares / max(len(self.residuals) - self.n_free, 1))


def points_of(rows, saved=None, loss="val_nats_per_char"):
    """Returns the Points of rows; saved: {(family, N, D): bits saved}, of families with a cell
    above COPIES_FROM."""
    rows = [row for row in rows if is_positive(row["n_chars_seen"]) and is_positive(row[loss])]
    count, saved = count_of(rows), saved or {}
    families = in_order({row["family"] for row in rows})
    copying = {family for (family, _, _), bits in saved.items() if bits >= COPIES_FROM}
    extra = []
    for row in rows:
        key = row["family"], row[count], row["n_chars_seen"]
        measured = row["family"] in copying and key in saved
        extra.append(saved[key] - BASE_SAVED if measured else 0.0)
    numbers = np.array([families.index(row["family"]) for row in rows])
    arrays = [np.array([row[key] for row in rows], float) for key in (count, "n_chars_seen", loss)]
    return Points(families, numbers, *arrays, np.array(extra))


def _columns(shape, n_families):
    """Returns {name: place in the parameters for each family}; kappa is the last."""
    columns, used = {}, 0
    for name in NAMES:
        n_own = 1 if name in (*shape.shared, "kappa") else n_families
        columns[name] = used + np.arange(n_families) % n_own
        used += n_own
    return columns


def _model(points, columns, centers):
    """Returns the model of log loss for `minimize_huber`."""
    x_n, x_d = np.log(points.n) - centers[0], np.log(points.d) - centers[1]
    where = {name: own[points.family] for name, own in columns.items()}
    rows = np.arange(len(points.n))

    def model(p):
        log_a, log_b, alpha, beta, inverse, E = (p[:, where[name]] for name in NAMES[:-1])
        terms = np.stack([log_a - alpha * x_n, log_b - beta * x_d]) / inverse
        both, part = log_sum_exp(terms)
        reducible = np.exp(inverse * both)
        loss = np.maximum(E + reducible - p[:, -1:] * points.saved, 1e-3)
        share = reducible / loss
        by_a, by_b = share * part
        by_inverse = share * (both - (part * terms).sum(0))
        by_exponents = -by_a * x_n, -by_b * x_d, by_inverse
        slopes = np.zeros((*loss.shape, p.shape[1]))
        for name, slope in zip(NAMES, (by_a, by_b, *by_exponents, 1 / loss, -points.saved / loss)):
            slopes[:, rows, where[name]] = slope
        return np.log(loss), slopes

    return model


def _bounds(points, shape, columns):
    """Returns bounds (2, P) of the parameters."""
    kappa = shape.kappa if points.saved.any() else 0.0
    ranges = {
        "log_a": (-15.0, 10.0),
        "log_b": (-15.0, 10.0),
        "alpha": EXPONENT_BOUNDS,
        "beta": EXPONENT_BOUNDS,
        "inverse_order": (1.0, 1.0) if shape.sum else INVERSE_ORDERS,
        "E": (0.0, 0.98 * points.loss.min()),
        "kappa": (0.0, 1.0) if kappa is None else (kappa, kappa),
    }
    bounds = np.empty((2, columns["kappa"][0] + 1))
    for name, ends in ranges.items():
        bounds[:, columns[name]] = np.array(ends)[:, None]
    return bounds


def _starts(points, columns):
    """Returns starts (N_STARTS, P), spread evenly."""
    rng = np.random.default_rng(0)
    starts = np.full((N_STARTS, columns["kappa"][0] + 1), 0.08)
    ranges = {"alpha": (0.08, 0.6), "beta": (0.1, 0.6), "inverse_order": (0.3, 1)}
    ranges["E"] = (0, 0.6 * points.loss.min())
    for name, (low, high) in ranges.items():
        shares = (rng.permutation(N_STARTS) + 0.5) / N_STARTS
        starts[:, columns[name]] = (low + (high - low) * shares)[:, None]
    for family in range(len(points.families)):
        middle = points.loss[points.family == family].mean()
        left = np.maximum(middle - starts[:, columns["E"][family]], 0.05)
        for name in ("log_a", "log_b"):
            starts[:, columns[name][family]] = np.log(0.6 * left)
    return starts


def fit(points, shape=Shape()):
    columns = _columns(shape, len(points.families))
    centers = np.log(points.n).mean(), np.log(points.d).mean()
    model, bounds = _model(points, columns, centers), _bounds(points, shape, columns)
    y, p = np.log(points.loss), _starts(points, columns)
    for steps in (FIRST_STEPS, MOST_STEPS):
        p, objective = minimize_huber(model, y, p, bounds, shape.delta, max_steps=steps)
        p = p[np.argsort(objective, kind="stable")][:N_KEPT]
    best = p[0]
    n_free = (bounds[0] < bounds[1]).sum()
    return Fit(shape, best, columns, y - model(best[None])[0][0], n_free, centers)


def refitted(found, points, weights=1.0, shifts=0.0):
    """Returns the parameters (G, P) of refits with weights and shifts of log loss, (G, K) or one
    number."""
    model = _model(points, found.columns, found.centers)
    bounds = _bounds(points, found.shape, found.columns)
    n_fits = len(weights) if np.ndim(weights) else len(shifts)
    start = np.tile(found.parameters, (n_fits, 1))
    y = np.log(points.loss) + shifts
    return minimize_huber(model, y, start, bounds, found.shape.delta, weights, MOST_STEPS)[0]


def values(found, parameters=None, family=0):
    """Returns {name of JOINT, "kappa": value} of the family at a place in Points; parameters (P,)
    or (M, P) in place of the fit's own."""
    p = found.parameters if parameters is None else parameters
    own = {name: p[..., columns[family]] for name, columns in found.columns.items()}
    return {
        "E": own["E"],
        "A": np.exp(own["log_a"] + own["alpha"] * found.centers[0]),
        "B": np.exp(own["log_b"] + own["beta"] * found.centers[1]),
        "alpha": own["alpha"],
        "beta": own["beta"],
        "order": 1 / own["inverse_order"],
        "kappa": own["kappa"],
    }


def quoted(found, family=0):
    all_values = values(found, family=family)
    return {name: all_values[name] for name in QUOTED}


def is_on_bound(found, parameters=None):
    """Returns True for each row of parameters with an exponent on a bound of the search."""
    low, high = EXPONENT_BOUNDS
    many = np.atleast_2d(found.parameters if parameters is None else parameters)
    exponents = many[:, np.unique([found.columns["alpha"], found.columns["beta"]])]
    return ((exponents < 1.01 * low) | (exponents > high / 1.01)).any(1)


class Spread(NamedTuple):
    """Parameters of refits, from which intervals come."""

    cells: np.ndarray  # without each cell
    amounts: np.ndarray  # without each amount of text
    drawn: np.ndarray  # with each amount's runs shifted by what another draw of its text does

    def error(self, value, function):
        """Returns the standard error of function(parameters), of seeds and draws of text."""
        cells = np.asarray(function(self.cells))
        variance = (len(cells) - 1) * cells.var(0)
        return math.sqrt(variance + ((function(self.drawn) - value) ** 2).sum(0))

    def interval(self, value, function):
        """Returns the interval, widened to hold the values without each amount of text."""
        half = half_of_t(DEGREES) * self.error(value, function)
        others = np.asarray(function(self.amounts))
        return [min(value - half, others.min()), max(value + half, others.max())]


def spread(found, points):
    texts, amounts = np.unique(points.d, return_inverse=True)
    amounts = amounts.ravel()
    shifts = np.diag(TEXT_DRAW * TEXT_DRAW_CHARS / texts)[:, amounts]
    without = [1.0 - (np.arange(own.max() + 1)[:, None] == own) for own in (points.cells, amounts)]
    return Spread(
        *(refitted(found, points, weights) for weights in without),
        refitted(found, points, shifts=shifts),
    )


def against(special_fit, general_fit):
    """Returns the F test {"p", "f", "extra"} of a law nested in a more general one."""
    extra = general_fit.n_free - special_fit.n_free
    dof = len(general_fit.residuals) - general_fit.n_free
    growth = max(special_fit.squares - general_fit.squares, 0.0) / extra
    f = growth / max(general_fit.squares / dof, 1e-18)
    return {"p": special.fdtrc(extra, dof, f), "f": f, "extra": extra}


def misfit_by_region(found, points):
    """Returns [{"region", "runs", "cells", "misfit": root mean square of the cells' mean residuals,
    "seed_sd": of runs about their cell, "ratio" of both, "p": its F test}]."""
    on = points.saved + BASE_SAVED > ON_STEP
    regions = {"all": on | True}
    if on.any():
        regions |= {"off the step": ~on, "on the step": on}
    return [
        {"region": name, **_misfit(found, points, keep)}
        for name, keep in regions.items()
        if keep.any()
    ]


def _misfit(found, points, keep):
    residuals = found.residuals[keep]
    _, counts, means, within = group_by_size(points.cells[keep], residuals)
    between = (counts * means**2).sum()
    n_cells, n_all = len(counts), len(np.unique(points.cells))
    dof = n_cells - found.n_free * n_cells / n_all
    seed_dof = len(residuals) - n_cells
    row = {
        "runs": len(residuals),
        "cells": n_cells,
        "misfit": math.sqrt((means**2).mean()),
        **dict.fromkeys(("seed_sd", "ratio", "p")),
    }
    if seed_dof > 1 and dof > 0 and within > 0:
        ratio = between / dof / (within / seed_dof)
        row["seed_sd"], row["ratio"] = math.sqrt(within / seed_dof), math.sqrt(ratio)
        row["p"] = special.fdtrc(dof, seed_dof, ratio)
    return row
