"""Counts what in-context copying (Olsson et al. 2022: induction heads) can save in a text, and says
when models copy."""

import math
from collections import Counter
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from music.abc_text import Reader
from study.fit.shared_law import BASE_SAVED, COPIES_FROM

CONTEXT = 510  # characters of a tune in a context of 512 beside BEGIN and the last
PLATEAU = 1.1  # bits saved by models that copy; measured: 0.9 to 1.2
PLATEAU_RANGE = (1.0, 1.2)
ATTENTION = ("transformer",)  # families that copy: no other has saved above 0.2 bits


def second_occurrences(text):
    """Returns the share of characters in bars that stand in their voice for the second time, in the
    first CONTEXT of each tune.

    >>> round(second_occurrences("X:1\\nM:4/4\\nL:1/8\\nK:C\\nCDEFGABc|CDEFGABc|"), 2)  # 8 / 38
    0.21
    """
    tunes = [tune.strip("\n") for tune in text.split("\n\n") if tune.strip()]
    second, characters = 0, sum(map(len, tunes))
    for tune in tunes:
        bars = Reader(tune, strict=False).order
        bars = [bar for bar in bars if bar.n_notes and bar.end <= CONTEXT]
        counts = Counter((bar.voice, tune[bar.start : bar.end]) for bar in bars)
        second += sum(len(bar) for (_, bar), count in counts.items() if count > 1)
    return second / characters if characters else 0.0


def kappa_of_share(share):
    """Returns nats per character for each bit saved on a repeated bar."""
    return math.log(2) * share


def gain(kappa, saved=PLATEAU):
    return kappa * (saved - BASE_SAVED)


class Onset(NamedTuple):
    """When models copy: a logistic in ln(N x D)."""

    center: float  # N x D at which half of the plateau is saved
    slope: float

    def probability(self, n, d):
        return special.expit(self.slope * (math.log(n * d) - math.log(self.center)))


def onset(points):
    """Returns the Onset of bits saved (as a share of the plateau); None where no model copies."""
    own = points.saved != 0
    saved = points.saved[own] + BASE_SAVED
    if not len(saved) or saved.max() < COPIES_FROM:
        return None
    plateau = max(saved.max(), PLATEAU)
    share = np.clip((saved - BASE_SAVED) / (plateau - BASE_SAVED), 0, 1)
    x = np.log(points.n[own] * points.d[own])

    def residuals(p):
        return special.expit(p[1] * (x - p[0])) - share

    start = [x[np.abs(share - 0.5).argmin()], 1.5]
    center, slope = optimize.least_squares(residuals, start).x
    return Onset(math.exp(center), abs(slope))
