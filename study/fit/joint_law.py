"""Fits the joint law of model size and text, L = E + ((A / N^alpha)^k + (B / D^beta)^k)^(1/k).

Arrays go in and out; `study/fit/joint_fit.py` knows about runs.
"""

from typing import NamedTuple

import numpy as np
from scipy import optimize

from study.fit.robust import HUBER_DELTA, LOG_ZERO, log_sum_exp, minimize_huber

JOINT = ("E", "A", "B", "alpha", "beta", "order")
# of all starts, then only the best go on: the same optimum in a tenth of the time
FIRST_STEPS, N_KEPT = 10, 8
EXPONENT_BOUNDS = (0.01, 3.0)  # a fit that ends on one of them is reported as not identified
INVERSE_ORDERS = (0.05, 2.0)  # 1 / order
# C = 6 N D, the convention of the published joint laws: 2 forward and 4 backward per weight
FLOPS_PER_ND = 6.0


class Form(NamedTuple):
    """What is free in E + ((A / N^alpha)^k + (B / D^beta)^k)^(1/k): E, else 0; the order k, else
    1."""

    floor: bool = True
    order: bool = False

    @property
    def n_free(self):
        """Number of free parameters."""
        return 4 + self.floor + self.order


SUM, NORM, NORM_AND_FLOOR = Form(), Form(False, True), Form(True, True)


def joint_loss(parameters, n, d):
    """E + ((A / N^alpha)^k + (B / D^beta)^k)^(1/k); parameters (6,) or (M, 6) in the order of
    JOINT.

    k = 1 is the law of Hoffmann et al. 2022: what a model lacks in size and what it lacks in text
    add up. E = 0 and k = 1 / beta is that of Kaplan et al. 2020 (equation 1.5). The larger k, the
    more the greater want alone counts: a small model gains little from more text. alpha and beta
    are in all of them the exponents where the other is no want.
    """
    columns = np.moveaxis(np.asarray(parameters, float), -1, 0)
    return _joint_loss(*columns[(Ellipsis,) + (None,) * np.ndim(n)], n, d)


def _joint_loss(e, a, b, alpha, beta, order, n, d):
    wants = np.stack(np.broadcast_arrays(a * n**-alpha, b * d**-beta))
    greater = np.maximum(wants.max(0), 1e-300)
    return e + greater * ((wants / greater) ** order).sum(0) ** (1 / order)


def _joint_model(n, d, form):
    """The joint law on log L as a log-sum-exp for `minimize_huber`, its bounds, and the way back to
    JOINT.

    p = log E, log A', log B', alpha, beta, 1 / order with N and D scaled by their geometric means.
    """
    n_center, d_center = np.log(n).mean(), np.log(d).mean()
    x_n, x_d = np.log(n) - n_center, np.log(d) - d_center

    def model(p):
        inverse = p[:, 5:]
        terms = np.stack([p[:, 1:2] - p[:, 3:4] * x_n, p[:, 2:3] - p[:, 4:5] * x_d]) / inverse
        both, part = log_sum_exp(terms)
        value, share = log_sum_exp(
            np.stack([np.broadcast_to(p[:, :1], both.shape), inverse * both])
        )
        by_want = share[1] * part
        by_inverse = share[1] * (both - (part * terms).sum(0))
        return value, np.stack(
            [share[0], *by_want, -by_want[0] * x_n, -by_want[1] * x_d, by_inverse], -1
        )

    def back(p):
        e = np.where(p[:, 0] > LOG_ZERO, np.exp(p[:, 0]), 0)
        a, b = np.exp(p[:, 1] + p[:, 3] * n_center), np.exp(p[:, 2] + p[:, 4] * d_center)
        return np.stack([e, a, b, p[:, 3], p[:, 4], 1 / p[:, 5]], 1)

    bounds = np.array(
        [
            (LOG_ZERO, 5 if form.floor else LOG_ZERO),
            (LOG_ZERO, 10),
            (LOG_ZERO, 10),
            EXPONENT_BOUNDS,
            EXPONENT_BOUNDS,
            INVERSE_ORDERS if form.order else (1, 1),
        ],
        float,
    ).T
    return model, bounds, back, x_n, x_d


def _joint_starts(x_n, x_d, loss, form):
    """Starts by variable projection: for each pair of exponents on a grid, E, A and B have a closed
    form (with another order than 1 only A and B, of what is left of the loss above an E)."""
    starts, orders = [], [(0, 1.0)] + ([(0, 0.35), (0.5, 0.35)] if form.order else [])
    for share, inverse in orders:
        floor = share * loss.min()
        y = (loss - floor) ** (1 / inverse)
        for alpha in np.geomspace(0.05, 1.5, 7):
            for beta in np.geomspace(0.05, 1.5, 7):
                constant = np.ones_like(x_n) if inverse == 1 else np.zeros_like(x_n)
                columns = np.stack(
                    [constant, np.exp(-alpha / inverse * x_n), np.exp(-beta / inverse * x_d)], 1
                )
                e, a, b = np.maximum(optimize.nnls(columns / y[:, None], np.ones_like(y))[0], 1e-3)
                starts.append(
                    [
                        np.log(floor or e),
                        inverse * np.log(a),
                        inverse * np.log(b),
                        alpha,
                        beta,
                        inverse,
                    ]
                )
    return starts


def fit_joint(n, d, loss, delta=HUBER_DELTA, form=SUM):
    """Multi-start fit of the joint law on log L: (parameters in the order of JOINT, objective,
    scaled optimum).

    delta: of the Huber loss, SQUARES for least squares.
    """
    n, d, loss = (np.asarray(v, float) for v in (n, d, loss))
    model, bounds, back, x_n, x_d = _joint_model(n, d, form)
    p, objective = minimize_huber(
        model,
        np.log(loss),
        _joint_starts(x_n, x_d, loss, form),
        bounds,
        delta=delta,
        max_steps=FIRST_STEPS,
    )
    p = p[np.argsort(objective, kind="stable")[:N_KEPT]]
    p, objective = minimize_huber(model, np.log(loss), p, bounds, delta=delta)
    best = int(objective.argmin())
    return back(p[best : best + 1])[0], float(objective[best]), p[best]


def bootstrap_joint(n, d, loss, optimum, resamples, rng, delta=HUBER_DELTA, form=SUM, block=250):
    """Parameters (resamples, 6) of the joint law refitted to runs drawn with replacement, from the
    scaled optimum.

    A bootstrap here and a profile for L(N): five parameters are too many for a grid, and runs are
    enough to be redrawn. Redrawing is done by weights of the runs, so that a block of resamples is
    one batch of the solver. On published points the standard errors agree to 3 %; coverage:
    benchmarks/scaling.md.
    """
    n, d, loss = (np.asarray(v, float) for v in (n, d, loss))
    model, bounds, back, _, _ = _joint_model(n, d, form)
    draws = [np.empty((0, len(JOINT)))]
    for first in range(0, resamples, block):
        weights = rng.multinomial(
            len(n), np.full(len(n), 1 / len(n)), size=min(block, resamples - first)
        )
        start = np.tile(optimum, (len(weights), 1))
        draws.append(
            back(
                minimize_huber(model, np.log(loss), start, bounds, weights.astype(float), delta)[0]
            )
        )
    return np.concatenate(draws)


def optimal_split(parameters, flops):
    """Compute-optimal (N, D, loss) at a budget of C = FLOPS_PER_ND * N * D; parameters (6,) or (M,
    6).

    With D = budget / N the loss is least where alpha (A / N^alpha)^k = beta (B / D^beta)^k: the
    last FLOP is worth the same in either. Hoffmann et al. 2022, equation 4, for k = 1.
    """
    columns = np.moveaxis(np.asarray(parameters, float), -1, 0)
    _, a, b, alpha, beta, order = columns
    budget = np.asarray(flops, float) / FLOPS_PER_ND
    g = ((alpha / beta) ** (1 / order) * a / b) ** (1 / (alpha + beta))
    n = g * budget ** (beta / (alpha + beta))
    d = budget / n
    return n, d, _joint_loss(*columns, n, d)
