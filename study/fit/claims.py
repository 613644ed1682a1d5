"""Decides what may be said of runs in text and figures: whose loss is lowest, which exponent."""

from study.families import label
from study.wording import interval, measured, si

DRAW, NOT_KNOWN = "draw", "not known"


def winner(row):
    """Returns the family of the lowest loss in a row of winners; DRAW within the scatter of runs,
    NOT_KNOWN if that was not measured."""
    return {True: row["winner"], False: DRAW, None: NOT_KNOWN}[row["clear"]]


def exponent(entry):
    """Returns (value, interval) of a family's exponent at one amount of text: both where it is
    identified, (None, interval) where it is bounded, else (None, None)."""
    pair = entry.get("alpha_interval")
    known = {"identified": (entry.get("alpha"), pair), "bounded": (None, pair)}
    return known.get(entry.get("verdict"), (None, None))


def exponent_in_words(entry):
    """Returns "identified, 0.29 (95 %: 0.25 to 0.33)", "bounded, 0.05 to 0.29" or "open"."""
    value, pair = exponent(entry)
    if pair is None:
        return "open"
    return f"bounded, {interval(pair)}" if value is None else f"identified, {measured(value, pair)}"


def who_and_where(family, entry):
    """Returns a family in words, with the amount of text of its exponent if known."""
    seen = entry.get("n_chars_seen")
    if not seen:
        return label(family)
    # a user's table has no recipe, and its D may be tokens
    amount = f"{si(seen)} characters of text" if entry.get("recipe") else f"D = {si(seen)}"
    return f"{label(family)} at {amount}"


def quoted_exponent(answer, entries):
    """Returns {"value", "interval", "model"} of the exponent of size that a study quotes: the
    answer's, else that of the first family where it is identified."""
    found = ((answer or {}).get("numbers") or {}).get("alpha")
    if found:
        return found
    for family, entry in entries.items():
        value, pair = exponent(entry)
        if value is not None:
            return {"value": value, "interval": pair, "model": who_and_where(family, entry)}
    return {"value": None}
