"""Decides what a run may say: who has the lowest loss, and which exponent of size, where.

Terminal, figures, page and RESULTS.json ask these functions.
"""

from study.families import label
from study.wording import interval, measured, si

DRAW, NOT_KNOWN = "draw", "not known"


def winner(row):
    """Returns the family of the lowest loss in a row of winners, DRAW where the margin is within
    the scatter of runs, NOT_KNOWN where nothing measures that scatter."""
    return {True: row["winner"], False: DRAW, None: NOT_KNOWN}[row["clear"]]


def exponent(entry):
    """Returns (value, interval) that may be said of a family's exponent at one amount of text: a
    value where it is identified, an interval where it is bounded too."""
    pair = entry.get("alpha_interval")
    known = {"identified": (entry.get("alpha"), pair), "bounded": (None, pair)}
    return known.get(entry.get("verdict"), (None, None))


def exponent_in_words(entry):
    """Returns the exponent at one amount of text: "identified, 0.29 (95 %: 0.25 to 0.33)",
    "bounded, 0.05 to 0.29" or "open"."""
    value, pair = exponent(entry)
    if pair is None:
        return "open"
    return f"bounded, {interval(pair)}" if value is None else f"identified, {measured(value, pair)}"


def who_and_where(family, entry):
    """Returns a family with the amount of text of its exponent, which a table may not give."""
    seen = entry.get("n_chars_seen")
    return label(family) + (f" at {si(seen)} characters of text" if seen else "")


def quoted_exponent(answer, entries):
    """Returns the exponent of model size that a study quotes, {"value", "interval", "model"}: that
    of the answer's law, else the first family's that is identified, with its amount of text."""
    found = ((answer or {}).get("numbers") or {}).get("alpha")
    if found:
        return found
    for family, entry in entries.items():
        value, pair = exponent(entry)
        if value is not None:
            return {"value": value, "interval": pair, "model": who_and_where(family, entry)}
    return {"value": None}
