"""Excerpts of a tune's text: its header, its first bars, and the beginning of a text that is right
up to an error."""

import re
from collections import Counter

from music.abc_check import check_abc
from music.abc_text import Reader
from music.tunebook import body_start
from music.validity import VALID_LEVEL

# characters of a tune beyond its first bars: otherwise nothing would be left to write
MIN_REST = 20


def header_of(text):
    """Returns the header of a tune, through the end of its K: line; None if it has none.

    >>> header_of("X:1\\nK:G\\nGABc|")
    'X:1\\nK:G\\n'
    """
    return text[: body_start(text)] or None


def first_bars(text, n_bars):
    """Returns header and the first n bars of all voices; None if the tune is hardly longer than
    that or cannot be read."""
    n_voices = len(set(re.findall(r"\[V:([^\]]*)\]", text))) or 1
    counts = Counter()
    for bar in Reader(text, strict=False).order if header_of(text) else ():
        if not bar.ok:
            return None
        counts[bar.voice] += 1
        if bar.closing and len(counts) == n_voices and min(counts.values()) >= n_bars:
            return text[: bar.closed] if len(text) > bar.closed + MIN_REST else None
    return None


def repaired(text):
    """Returns a text cut after the last bar that can be read and has its meter's length in every
    voice before it; None if the text needs no cut, "" if nothing of it can be kept.

    A repaired text is never rated: it is there to be looked at and heard.
    """
    if check_abc(text).level >= VALID_LEVEL:
        return None
    start = body_start(text) or len(text)  # without a header nothing can be read
    bar_ends = [match.end() for match in re.finditer(r"\|", text) if match.end() > start]

    def check(n_bars):
        return check_abc(text[: bar_ends[n_bars - 1]] + "\n")

    # how many bars can be kept: what precedes an error is right, what follows is not
    low, high = 0, len(bar_ends)
    while low < high:
        middle = (low + high + 1) // 2
        beginning = check(middle)
        is_right = beginning.header and beginning.tokens and beginning.meter
        low, high = (middle, high) if is_right else (low, middle - 1)
    while low and not check(low).aligned:
        low -= 1
    kept = text[: bar_ends[low - 1]] + "\n" if low else ""
    return None if kept.rstrip() == text.rstrip() else kept
