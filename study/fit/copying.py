"""Counts what in-context copying can save in a text, and says when models copy.

In-context copying: Olsson et al. 2022 (induction heads).
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from music.abc_text import Reader
from study.fit.shared_law import BASE_SAVED, COPIES_FROM

CONTEXT = 510  # characters of a tune in a context of 512 beside BEGIN and the last
PLATEAU = 1.1  # bits saved by models that copy; measured: 0.9 to 1.2
PLATEAU_RANGE = (1.0, 1.2)
ATTENTION = ("transformer",)  # families that copy: no other has saved above 0.2 bits


def second_occurrences(text, context=CONTEXT):
    """Counts characters of bars that stand in their voice for the second time, within the context.

    text: tunes separated by an empty line. Returns {"tunes", "characters", "second", "share"}.

    >>> tune = "X:1\\nM:4/4\\nL:1/8\\nK:C\\nCDEFGABc|CDEFGABc|\\n"
    >>> second_occurrences(tune)["second"]
    8
    """
    tunes = [tune.strip("\n") for tune in text.split("\n\n") if tune.strip()]
    second, characters = 0, 0
    for tune in tunes:
        characters += len(tune)
        seen = {}
        for bar in Reader(tune, strict=False).order:
            if bar.n_notes and bar.end <= context:
                key = bar.voice, tune[bar.start : bar.end]
                seen[key] = seen.get(key, 0) + 1
                if seen[key] == 2:
                    second += bar.end - bar.start
    share = second / characters if characters else 0.0
    return {"tunes": len(tunes), "characters": characters, "second": second, "share": share}


def kappa_of_share(share):
    """Returns nats per character for each bit saved on a repeated bar: ln 2 times the share.

    >>> round(kappa_of_share(0.114), 3)
    0.079
    """
    return math.log(2) * share


def gain(kappa, saved=PLATEAU):
    """Returns the nats per character that a model saves by copying."""
    return kappa * (saved - BASE_SAVED)


class Onset(NamedTuple):
    """When models copy: a logistic in ln(N x D)."""

    center: float  # N x D at which half of the plateau is saved
    slope: float

    def probability(self, n, d):
        """Returns P(copies) of a model of n parameters that reads d characters."""
        return float(special.expit(self.slope * (math.log(n * d) - math.log(self.center))))


def onset(n, d, saved):
    """Fits the logistic of what is saved, as a share of the plateau, in ln(N x D): an Onset, or
    None where no model copies."""
    n, d, saved = (np.asarray(values, float) for values in (n, d, saved))
    if not len(saved) or saved.max() < COPIES_FROM:
        return None
    plateau = max(float(saved.max()), PLATEAU)
    share = np.clip((saved - BASE_SAVED) / (plateau - BASE_SAVED), 0, 1)
    x = np.log(n * d)

    def residuals(p):
        return special.expit(p[1] * (x - p[0])) - share

    start = [x[np.abs(share - 0.5).argmin()], 1.5]
    center, slope = optimize.least_squares(residuals, start).x
    return Onset(float(math.exp(center)), float(abs(slope)))
