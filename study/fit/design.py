"""Says whether a table of sizes and amounts of text can tell their exponents apart.

Where D grows with N (so many tokens a parameter), only the exponent along their line is known.
"""

import numpy as np

from study.fit.power_law import fit_power_law
from study.wording import rounded, si

LEAST_SPREAD = 0.35  # standard deviation of ln N at given D that a design needs
MOST_TOGETHER = 0.95  # correlation of ln N and ln D from which on a design is a line


def cannot_tell(n, d):
    """Returns the exponent x of D ~ N^x if the distinct pairs of N and D are a line, else None."""
    pairs = np.unique(np.log(np.stack([n, d], 1)), axis=0)
    x_n, x_d = (pairs - pairs.mean(0)).T
    if not x_d.any() or not x_n.any():
        return None
    correlation = (x_n @ x_d) / np.sqrt((x_n @ x_n) * (x_d @ x_d))
    left = x_n.std() * np.sqrt(max(1 - correlation**2, 0))
    is_line = abs(correlation) > MOST_TOGETHER or left < LEAST_SPREAD
    return float((x_n @ x_d) / (x_n @ x_n)) if is_line else None


def along_the_line(n, d, loss):
    """Returns {"exponent", "interval", "separating_runs"}: g of L = c + a N^-g along the line, and
    the two pairs of N and D that the line leaves out."""
    fit = fit_power_law(n, loss) if len(np.unique(n)) > 3 else None
    return {
        "exponent": fit.alpha if fit else None,
        "interval": list(fit.alpha_interval) if fit else None,
        "separating_runs": [[n.min(), d.max()], [n.max(), d.min()]],
    }


def sentence(power, found):
    """Says what a line knows and which runs would separate the rest."""
    (small_n, much_d), (large_n, little_d) = found["separating_runs"]
    words = (
        f"sizes and data grow together (D ~ N^{power:.2g}), so alpha and beta cannot be told apart"
    )
    low, high = found["interval"] or (None, None)
    if low is not None and high is not None:
        value, *ends = (rounded(v, low, high) for v in (found["exponent"], low, high))
        words += f"; known is the exponent along that line, {value} ({' to '.join(ends)})"
    return (
        words
        + f"; runs of N = {si(small_n)} on D = {si(much_d)} and of N = {si(large_n)} on"
        f" D = {si(little_d)} would separate them"
    )
