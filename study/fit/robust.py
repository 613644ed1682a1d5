"""Solves many small least-squares or Huber fits at once: the optimizer of all laws of log loss."""

import numpy as np

HUBER_DELTA = 1e-3  # in log loss, as Hoffmann et al. 2022; summed, as Besiroglu et al. 2024
SQUARES = 10.0  # as delta: beyond every residual of a log loss, which makes it least squares
LOG_ZERO = -15.0  # log of a coefficient that counts as zero


def log_sum_exp(terms):
    """Returns the log of the sum of exp over the first axis, and the share of each term in it."""
    top = terms.max(0)
    share = np.exp(terms - top)
    total = share.sum(0)
    return top + np.log(total), share / total


def minimize_huber(model, y, start, bounds, delta, weights=1.0, max_steps=400):
    """Minimises the sum of weights * Huber(y - model(p)) from starts (B, P); returns parameters
    (B, P) and objectives (B,).

    model(p) -> values (B, K) and their derivatives (B, K, P); y (K,), weights (B, K) or 1, bounds
    (2, P). Each step solves with the curvature of the residuals below delta (Newton) plus `damping`
    times that of all residuals, iteratively reweighted. What would leave a bound is held.
    """
    p = np.clip(np.array(start, float), *bounds)
    value, slope = model(p)
    weights = np.broadcast_to(weights, value.shape)

    def total(residual):
        size = np.abs(residual)
        huber = np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))
        return (weights * huber).sum(1)

    residual = y - value
    objective, damping, idle = total(residual), np.ones(len(p)), np.zeros(len(p), int)
    for _ in range(max_steps):
        size = np.abs(residual)
        across = np.swapaxes(slope, 1, 2)
        gradient = across @ (weights * np.clip(residual, -delta, delta))[..., None]
        downhill = gradient[..., 0]
        stays = ((p <= bounds[0]) & (downhill <= 0)) | ((p >= bounds[1]) & (downhill >= 0))
        across = np.where(stays[..., None], 0, across)
        gradient = np.where(stays[..., None], 0, gradient)
        inner = np.swapaxes(across, 1, 2)
        near = (across * (weights * (size <= delta))[:, None]) @ inner
        reweighted = weights * np.minimum(1, delta / np.maximum(size, 1e-300))
        every = (across * reweighted[:, None]) @ inner
        ridge = 1e-9 * damping[:, None] * np.einsum("bpp->bp", every) + 1e-18
        curvature = near + damping[:, None, None] * every + ridge[:, :, None] * np.eye(p.shape[1])
        tried = np.clip(p + np.linalg.solve(curvature, gradient)[..., 0], *bounds)
        value, new_slope = model(tried)
        new_objective = total(y - value)
        better = new_objective < objective
        gain = np.where(better, objective - new_objective, 0) / np.maximum(objective, 1e-300)
        p = np.where(better[:, None], tried, p)
        residual = np.where(better[:, None], y - value, residual)
        slope = np.where(better[:, None, None], new_slope, slope)
        objective = np.where(better, new_objective, objective)
        damping = np.where(better, np.maximum(damping / 3, 1e-4), np.minimum(damping * 3, 1e8))
        idle = np.where(gain > 1e-10, 0, idle + 1)
        if (idle > 12).all():
            break
    return p, objective
