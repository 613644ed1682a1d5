"""What the points of a scaling law determine: the law against its rivals, and one of three words.

    open        the data do not hold alpha: its interval has no end, or a law without any exponent
        fits as well
    bounded     both ends of the interval come from the data, but it is too wide, or its floor may
        be none, to be quoted
    identified  the interval is at most a factor of MOST_RATIO wide and both rivals are rejected

A fit always returns three numbers, and a bounded interval alone says little: of simulated studies
of five sizes, one seed each, whose truth is a line in ln N and has no exponent, 16 to 24 % end with
an interval that is bounded, because c >= 0 cuts it off where no point does. How often each word is
right stands in benchmarks/scaling.md.
"""

from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from study.fit.power_law import ALPHA_RANGE, ALPHAS, LEVEL, MIN_NOISE_DOF, N_ALPHA, is_on_bound

# high / low of an interval that identifies alpha: beyond it, 0.2 and 0.6 are one finding
MOST_RATIO = 3
# a rival is rejected where its p-value is below; 1 % in place of 5 % changed no verdict of the
RIVAL_LEVEL = 1 - LEVEL
# designs with eight sizes, and left the wrong ones of weak designs as they
# are
RIVALS = {"power": "a law without floor (c = 0)", "log_linear": "a straight line in ln N"}


class Verdict(NamedTuple):
    """word: "identified", "bounded" or "open"; reason: all that led to it; short: the first of it,
    for a headline;
    rivals: {form: {"p_value", "rejected"}}, None without a measure of the noise."""

    word: str
    reason: str
    short: str
    rivals: dict | None

    @property
    def identified(self):
        return self.word == "identified"


# ---------------------------------------------------------------- the rivals


def against_rivals(fit):
    """p-value of each rival of a fitted law (scaling_law.PowerLaw), {form: {"p_value",
    "rejected"}}; None if nothing measures the noise.

    Both are members of one family, so both are tested alike: by how much the sum of squares grows
    where one parameter is fixed, F(1, degrees of freedom of the noise); no simulation is needed. No
    floor is c = 0. Log-linear is the limit alpha -> 0 of the same curve written as Box and Cox
    (1964) do, b - m (1 - N^-alpha) / alpha, with m = a alpha and b = a + c: a value of alpha inside
    the family, only with a floor that runs off to minus infinity, which c >= 0 excludes. So it is
    no end of the interval of `fit_power_law` and needs its own test: if it is not rejected, the
    lower end of that interval is the bound's and not the data's. Levels as simulated under each
    rival's truth at 5 %: 0 to 3.2 % are rejected wrongly (c = 0 lies on the edge of what is
    allowed, which halves it).
    """
    if fit.noise_sd is None:
        return None
    # the same floor against rounding as the interval has
    variance = max(fit.noise_sd, 1e-9 * fit.means.mean()) ** 2
    out = {}
    for form, squares in (
        ("power", _squares_without_floor(fit)),
        ("log_linear", _squares_of_line(fit)),
    ):
        p = float(special.fdtrc(1, fit.noise_dof, max(squares - fit.ss, 0.0) / variance))
        out[form] = {"p_value": p, "rejected": p < RIVAL_LEVEL}
    return out


def _squares_without_floor(fit):
    """Smallest weighted sum of squares of a N^-alpha about the means."""
    log_n = np.log(fit.sizes) - np.log(fit.sizes).mean()

    def squares(alphas):
        x = np.exp(-np.outer(alphas, log_n))
        a = (x @ (fit.weights * fit.means)) / (x**2 @ fit.weights)
        return (fit.means - a[:, None] * x) ** 2 @ fit.weights

    best = int(np.argmin(squares(ALPHAS)))
    ends = ALPHAS[max(best - 1, 0)], ALPHAS[min(best + 1, N_ALPHA - 1)]
    return float(
        optimize.minimize_scalar(
            lambda alpha: squares([alpha])[0],
            bounds=ends,
            method="bounded",
            options={"xatol": 1e-10},
        ).fun
    )


def _squares_of_line(fit):
    """Smallest weighted sum of squares of b - m ln N about the means."""
    x, w = np.log(fit.sizes), fit.weights
    x, y = x - np.average(x, weights=w), fit.means - np.average(fit.means, weights=w)
    slope = (w * x) @ y / ((w * x) @ x)
    return float(w @ (y - slope * x) ** 2)


# ---------------------------------------------------------------- the verdict


def verdict(fit):
    """The Verdict on a fit: what is missing to hold alpha decides the word, all of it stands in the
    reason."""
    rivals = against_rivals(fit)
    if openings := _openings(fit, rivals):
        return Verdict("open", "; ".join([*openings, *_notes(fit)]), openings[0], rivals)
    low, high = fit.alpha_interval
    held = (
        f"the {100 * fit.level:.0f} % interval of alpha is bounded ({low:.3g} to {high:.3g}, a"
        f" factor of {high / low:.2g})"
    )
    if shortcomings := _shortcomings(fit, rivals):
        return Verdict(
            "bounded", "; ".join([held, *shortcomings, *_notes(fit)]), shortcomings[0], rivals
        )
    rejected = " and ".join(
        f"{RIVALS[form]} (p = {rivals[form]['p_value']:.2g})" for form in RIVALS
    )
    return Verdict(
        "identified", "; ".join([held, f"rejected are {rejected}", *_notes(fit)]), held, rivals
    )


def _openings(fit, rivals):
    """Why the data do not hold alpha at all, in words; empty if they do."""
    low, high = fit.alpha_interval
    problems = []
    if fit.noise_sd is None:
        return [
            f"{len(fit.sizes)} sizes of one run each leave no degree of freedom to measure the"
            " scatter"
        ]
    if low is None or high is None:
        ends = {
            (True, True): "unbounded on both sides",
            (True, False): f"unbounded below (it ends at {high or 0:.3g})",
            (False, True): f"unbounded above (it begins at {low or 0:.3g})",
        }[low is None, high is None]
        problems.append(f"the {100 * fit.level:.0f} % interval of alpha is {ends}")
    if is_on_bound(fit.alpha):
        problems.append(
            f"the best fit lies on the bound of the search ({ALPHA_RANGE[0]:g} to"
            f" {ALPHA_RANGE[1]:g})"
        )
    if fit.a <= 0:
        problems.append("the best a is 0: the losses do not fall with size")
    if not rivals["log_linear"]["rejected"]:
        problems.append(
            f"{RIVALS['log_linear']}, which has no exponent, fits as well "
            f"(p = {rivals['log_linear']['p_value']:.2g})"
        )
    return problems


def _shortcomings(fit, rivals):
    """Why an alpha that the data hold is not to be quoted, in words; empty if it may be."""
    low, high = fit.alpha_interval
    problems = []
    if high / low > MOST_RATIO:
        problems.append(f"the interval is wider than a factor of {MOST_RATIO}")
    if not rivals["power"]["rejected"]:
        problems.append(f"{RIVALS['power']} fits as well (p = {rivals['power']['p_value']:.2g})")
    if fit.noise_dof < MIN_NOISE_DOF:
        # two degrees of freedom, as five sizes leave: of the studies whose scatter was small by
        # luck and that met all else, 64 to 88 % held the truth; with three and more, 95 % where the
        # design can identify alpha
        degrees = (
            "one degree of freedom" if fit.noise_dof == 1 else f"{fit.noise_dof} degrees of freedom"
        )
        problems.append(
            f"{degrees} do not measure the noise ({MIN_NOISE_DOF} do): more sizes or seeds are"
            " needed"
        )
    return problems


def _notes(fit):
    """What else a reader of the fit should know, in words; decides nothing."""
    notes = []
    if fit.c <= 0:
        notes.append("the best c lies on its bound 0")
    if fit.c >= fit.means.min():
        # happens to good fits: where the curve has come to its floor, noise puts one of two sizes
        # below it
        at = fit.sizes[int(fit.means.argmin())]
        notes.append(
            f"c = {fit.c:.3f} lies above a measured loss ({fit.means.min():.3f} at N = {at:,.0f})"
        )
    if fit.noise_source == "lack of fit":
        notes.append(
            "the sizes scatter about the curve by more than the seeds explain, so the interval uses"
            " that scatter"
        )
    return notes
