"""Judges what points say of alpha: the law against its rivals, and one of three words.

open        the interval of alpha has no end, or a law without any exponent fits as well
bounded     the interval has two ends, but is too wide to be quoted, or c may be 0
identified  the interval is at most a factor of MOST_RATIO wide and both rivals are rejected
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from study.fit import power_law as law

MOST_RATIO = 3  # high / low of an interval that identifies alpha
RIVAL_LEVEL = 1 - law.LEVEL  # a rival is rejected where its p-value is below
RIVALS = {
    "power": "a law without irreducible loss (c = 0)",
    "log_linear": "a straight line in ln N",
}


class Verdict(NamedTuple):
    word: str
    reason: str
    short: str  # its first clause
    rivals: dict | None  # of `against_rivals`


def against_rivals(fit):
    """Returns {form: {"p_value", "rejected"}} of the rivals of a PowerLaw; None if nothing measures
    the noise.

    Both are nested in the law, log-linear as its limit alpha -> 0 (Box and Cox 1964), which c >= 0
    excludes: if they are true, the sum of squares grows by F(1, degrees of freedom of the noise).
    """
    if fit.noise_sd is None:
        return None
    rivals = {}
    for form, squares in (("power", _squares_without_constant), ("log_linear", _squares_of_line)):
        growth = max(squares(fit) - fit.ss, 0.0) / law.variance_of(fit)
        p = special.fdtrc(1, fit.noise_dof, growth)
        rivals[form] = {"p_value": p, "rejected": p < RIVAL_LEVEL}
    return rivals


def _squares_without_constant(fit):
    log_n = np.log(fit.sizes) - np.log(fit.sizes).mean()

    def squares(alphas):
        x = np.exp(-np.outer(alphas, log_n))
        a = (x @ (fit.weights * fit.means)) / (x**2 @ fit.weights)
        return (fit.means - a[:, None] * x) ** 2 @ fit.weights

    best = np.argmin(squares(law.ALPHAS))
    return law.minimum_near(lambda alpha: squares([alpha])[0], best).fun


def _squares_of_line(fit):
    line = np.polyfit(np.log(fit.sizes), fit.means, 1, w=np.sqrt(fit.weights))
    return fit.weights @ (fit.means - np.polyval(line, np.log(fit.sizes))) ** 2


def verdict(fit):
    rivals, notes = against_rivals(fit), _notes(fit)
    if openings := _openings(fit, rivals):
        return Verdict("open", "; ".join(openings + notes), openings[0], rivals)
    low, high = fit.alpha_interval
    held = (
        f"the {100 * law.LEVEL:.0f} % interval of alpha is bounded ({low:.3g} to {high:.3g}, a"
        f" factor of {high / low:.2g})"
    )
    if shortcomings := _shortcomings(fit, rivals):
        reason = "; ".join([held, *shortcomings, *notes])
        return Verdict("bounded", reason, shortcomings[0], rivals)
    rejected = [f"{name} (p = {rivals[form]['p_value']:.2g})" for form, name in RIVALS.items()]
    reason = "; ".join([held, f"rejected are {' and '.join(rejected)}", *notes])
    return Verdict("identified", reason, held, rivals)


def _openings(fit, rivals):
    """Why alpha is open, in words."""
    low, high = fit.alpha_interval
    if fit.noise_sd is None:
        return [
            f"{len(fit.sizes)} sizes of one run each leave no degree of freedom to measure the"
            " scatter"
        ]
    problems, interval = [], f"the {100 * law.LEVEL:.0f} % interval of alpha is unbounded"
    if low is None and high is None:
        problems.append(f"{interval} on both sides")
    elif low is None:
        problems.append(f"{interval} below (it ends at {high:.3g})")
    elif high is None:
        problems.append(f"{interval} above (it begins at {low:.3g})")
    if law.is_on_bound(fit.alpha):
        ends = "{:g} to {:g}".format(*law.ALPHA_RANGE)
        problems.append(f"the best fit lies on the bound of the search ({ends})")
    if fit.a <= 0:
        problems.append("the best a is 0: the losses do not fall with size")
    line = rivals["log_linear"]
    if not line["rejected"]:
        problems.append(
            f"{RIVALS['log_linear']}, which has no exponent, fits as well (p ="
            f" {line['p_value']:.2g})"
        )
    return problems


def _shortcomings(fit, rivals):
    """Why alpha is bounded and not identified, in words."""
    low, high = fit.alpha_interval
    problems = []
    if high / low > MOST_RATIO:
        problems.append(f"the interval is wider than a factor of {MOST_RATIO}")
    if not rivals["power"]["rejected"]:
        problems.append(f"{RIVALS['power']} fits as well (p = {rivals['power']['p_value']:.2g})")
    # simulated, 64 to 88 % of intervals with two held the truth; with three and more, 95 %
    if fit.noise_dof < law.MIN_NOISE_DOF:
        problems.append(
            f"{fit.noise_dof} degrees of freedom do not measure the noise ({law.MIN_NOISE_DOF} do):"
            " more sizes or seeds are needed"
        )
    return problems


def _notes(fit):
    notes = []
    if fit.c <= 0:
        notes.append("the best c lies on its bound 0")
    if fit.c >= fit.means.min():  # good fits too, where the curve is flat
        at = fit.sizes[fit.means.argmin()]
        notes.append(
            f"c = {fit.c:.3f} lies above a measured loss ({fit.means.min():.3f} at N = {at:,.0f})"
        )
    if fit.noise_source == "lack of fit":
        notes.append(
            "the sizes scatter about the curve by more than the seeds explain, so the interval uses"
            " that scatter"
        )
    return notes
