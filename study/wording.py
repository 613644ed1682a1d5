"""Writes numbers for people, rounded alike in terminal, page, README and figures."""

import math

NOTHING = "–"  # stands where there is no number
UNITS = {1e15: "P", 1e12: "T", 1e9: "G", 1e6: "M", 1e3: "k"}


def si(value):
    """Returns three digits with k, M, G, T or P: 137792 -> "138k"."""
    unit = next((unit for unit in UNITS if unit <= value < 1e18), 1)
    return f"{value / unit:.3g}{UNITS.get(unit, '')}"


def power(value):
    """Returns a number to one digit and its power of ten: 795e9 -> "8e11"."""
    return f"{value:.0e}".replace("e+", "e")


def number(value, digits=None):
    """Returns a number with so many decimals, or with three digits; a count in full.

    >>> number(1.2396), number(1.2396, 1), number(12000), number(None)
    ('1.24', '1.2', '12,000', '–')
    """
    if value is None:
        return NOTHING
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if digits is None else f"{value:,.{digits}f}"


def percent(share):
    """Returns a share in whole percent, below 10 % with one decimal.

    >>> percent(0.655), percent(0.0028), percent(0.0), percent(None)
    ('66 %', '0.3 %', '0 %', '–')
    """
    if share is None:
        return NOTHING
    digits = 1 if 0 < share < 0.0995 else 0
    return f"{100 * share:.{digits}f} %"


def rounded(value, low, high):
    """Returns a number with the 1 to 3 decimals that its interval allows: those of the first digit
    of the half-width, one more if that is a 1; 2 where an end is unknown.

    >>> rounded(0.48612, 0.441, 0.539), rounded(0.9183, 0.28, 3.0), rounded(0.48612, 0.48, 0.49)
    ('0.49', '0.9', '0.486')
    """
    digits = 2
    if all(isinstance(end, (int, float)) for end in (low, high)):
        digits, half = 3, (high - low) / 2
        if half > 0:
            first = math.floor(math.log10(half))
            digits = min(max(-first + (half < 2 * 10**first), 1), 3)
    return f"{value:.{digits}f}"


def interval(pair):
    """Returns an interval in words.

    >>> interval([0.1, 0.342]), interval([0.1, None]), interval(None)
    ('0.10 to 0.34', '0.10 to unbounded', '')
    """
    if not pair:
        return ""
    ends = [rounded(end, *pair) if isinstance(end, (int, float)) else "unbounded" for end in pair]
    return " to ".join(ends)


def measured(value, pair):
    """Returns a number with its 95 % interval, three decimals without one.

    >>> measured(0.948872, [0.895588, 1.00126]), measured(1.45162, None), measured(None, None)
    ('0.95 (95 %: 0.90 to 1.00)', '1.452', '–')
    """
    if value is None or not pair:
        return number(value, 3)
    return f"{rounded(value, *pair)} (95 %: {interval(pair)})"


def measured_share(share, pair):
    """Returns a share in percent with its 95 % interval.

    >>> measured_share(0.655, [0.586756, 0.717402])
    '66 % (95 %: 59 to 72 %)'
    """
    if share is None or not pair:
        return percent(share)
    return f"{percent(share)} (95 %: {100 * pair[0]:.0f} to {100 * pair[1]:.0f} %)"
