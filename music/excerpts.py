"""Cuts excerpts of a tune's text: its first bars, what precedes an error."""

import re
from collections import Counter

from music.abc_check import check_abc
from music.abc_text import Reader
from music.tunebook import body_start
from music.validity import VALID_LEVEL

MIN_REST = 20  # characters of a tune after its first bars


def first_bars(text, n_bars):
    """Returns the header and the first n bars of all voices; None if they cannot be read or little
    follows."""
    n_voices = len(set(re.findall(r"\[V:([^\]]*)\]", text))) or 1
    counts = Counter()
    for bar in Reader(text, strict=False).order if body_start(text) else ():
        if not bar.ok:
            return None
        counts[bar.voice] += 1
        if bar.closing and len(counts) == n_voices and min(counts.values()) >= n_bars:
            return text[: bar.closed] if len(text) > bar.closed + MIN_REST else None
    return None


def repaired(text):
    """Returns a text cut after the last bar up to which it is right, for eyes and ears; None if it
    needs no cut, "" if nothing can be kept."""
    if check_abc(text).level >= VALID_LEVEL:
        return None
    start = body_start(text) or len(text)  # without a header nothing can be read
    bar_ends = [match.end() for match in re.finditer(r"\|", text) if match.end() > start]

    def check(n_bars):
        return check_abc(text[: bar_ends[n_bars - 1]] + "\n")

    low, high = 0, len(bar_ends)  # so many bars are right; more than so many are not
    while low < high:
        middle = (low + high + 1) // 2
        beginning = check(middle)
        is_right = beginning.header and beginning.tokens and beginning.meter
        low, high = (middle, high) if is_right else (low, middle - 1)
    while low and not check(low).aligned:
        low -= 1
    kept = text[: bar_ends[low - 1]] + "\n" if low else ""
    return None if kept.rstrip() == text.rstrip() else kept
