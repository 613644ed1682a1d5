"""What the page says in sentences: the first words, the verdicts, which sample comes first. Numbers
for people.

No sentence has more than 25 words, and no number more digits than its interval allows. Where a
result is missing there is no sentence.
"""

import math
from typing import NamedTuple

from music.validity import VALID_LEVEL
from study.families import label
from study.report.results import expected_families, value_at, without_ladder

NOTHING = "–"  # stands where there is no number
# kind of tokenizer -> what a model guesses
NEXT = {"note": "note or sign", "byte pairs": "few characters"}


class Verdict(NamedTuple):
    """A word and a sentence on one subject, and what else there is to say of it, folded away under
    `more`."""

    subject: str
    word: str
    sentence: str
    more: str = "Why"
    notes: list = []


# ---------------------------------------------------------------- numbers


def number(value, digits=2):
    """A number for people; an en dash where there is none."""
    if value is None:
        return NOTHING
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def percent(rate):
    """A share in percent; an en dash where there is none."""
    return NOTHING if rate is None else f"{100 * rate:.0f} %"


def ends(pair):
    """(low, high) of an interval as numbers, None for an end that is missing or unbounded."""
    return tuple(end if isinstance(end, (int, float)) else None for end in pair or (None, None))


def digits_of(pair):
    """Decimals that an interval allows: those of the first digit of its half-width, one more if
    that is a 1; 1 to 3, and 2 where an end is open.

    >>> digits_of((0.10, 0.34)), digits_of((0.441, 0.539)), digits_of((0.05, 2.0)), digits_of((0.28, None))
    (2, 2, 1, 2)
    """
    low, high = ends(pair)
    if low is None or high is None:
        return 2
    if high <= low:
        return 3
    half = (high - low) / 2
    first = math.floor(math.log10(half))
    return min(max((half < 2 * 10**first) - first, 1), 3)


def interval(pair, digits=2, scale=1, unit=""):
    """ " (95 %: 0.10–0.34)", or nothing unless both ends are numbers."""
    low, high = ends(pair)
    return (
        ""
        if low is None or high is None
        else f" (95 %: {low * scale:.{digits}f}–{high * scale:.{digits}f}{unit})"
    )


# ---------------------------------------------------------------- the first words


def lead(results, has_plot=True):
    """The page's first words, for a reader who knows music and no statistics."""
    n = len(
        {(row.get("family"), row.get("size")) for row in without_ladder(results.get("runs") or [])}
    )
    tunes = value_at(results, "data.splits.train.tunes")
    who = f"{n} programs, small and large," if n > 1 else "A program"
    what = f"{tunes:,} tunes as text" if tunes else "tunes as text"
    unit = NEXT.get(value_at(results, "tokenizer.kind"), "character")
    plot = "; the plot shows how wrong their guesses still are, by size" if has_plot else ""
    return (
        f"{who} read {what} and learnt to guess the next {unit}. Below is what the best of them"
        f" wrote{plot}."
    )


def first_of(samples, metadata):
    """(place of the sample that the page begins with, its rule in words), (None, "") if none can be
    played.

    Order: valid, unprompted, bars drawn freely, level, bar accuracy; the first drawn of equals. So
    a wrong one never comes first while there is a valid one. samples: views; metadata: rows of the
    same order.
    """

    def merit(i):
        row, check = metadata[i], metadata[i].get("validity") or {}
        level = check.get("level") or 0
        return (
            level >= VALID_LEVEL,
            not row.get("prompt"),
            row.get("bars") != "right",
            level,
            check.get("bar_accuracy") or 0,
            -i,
        )

    playable = [i for i, sample in enumerate(samples) if sample["roll"]]
    if not playable:
        return None, ""
    best = max(playable, key=merit)
    is_valid, is_unprompted, is_free, *_ = merit(best)
    if is_valid:
        how = [
            "no prompt" if is_unprompted else "a prompt",
            "bars drawn freely" if is_free else "wrong bars redrawn",
        ]
        return best, f"Chosen by rule, the best of {len(samples)}: valid, {how[0]}, {how[1]}."
    return (
        best,
        f"Chosen by rule: none of the {len(samples)} samples is valid; this one comes nearest.",
    )


# ---------------------------------------------------------------- verdicts


def verdicts(results):
    """[Verdict] on the law of each family, the best model, its samples, and the marks that were not
    passed."""
    found = [
        law_verdict(
            family,
            value_at(results, f"fits.{family}") or {},
            value_at(results, f"fits.exponents.{family}"),
        )
        for family in expected_families(results.get("runs") or [])
    ]
    found += [loss_verdict(results), validity_verdict(results), marks_verdict(results)]
    return [verdict for verdict in found if verdict]


def law_verdict(family, fit, quoted=None):
    """What is known of a family's exponent; None without a fit. quoted: its entry in
    `fits.exponents`."""
    subject, reasons = f"{label(family)}s", [fit["reason"]] if fit.get("reason") else []
    word = fit.get("verdict") or ("identified" if fit.get("identified") else "open")
    pair = fit.get("alpha_interval")
    (low, high), digits = ends(pair), digits_of(pair)
    if fit.get("alpha") is None and not reasons:
        return None
    if quoted and quoted["source"] == "plane":
        word, sentence = (
            "identified",
            (
                f"Loss falls with size and text along one law, with α = {quoted['alpha']:.2f} "
                f"± {quoted['half_width']:.2f} over every choice of the analysis."
            ),
        )
    elif fit.get("alpha") is None and not fit.get("verdict"):
        word, sentence = "no law", "Their losses do not let a law be fitted."
    elif word == "identified":
        sentence = (
            "Loss falls with size along the law, with α ="
            f" {fit['alpha']:.{digits}f}{interval(pair, digits)}."
        )
        if quoted:
            sentence += " Over every choice of the analysis: {:.2f} to {:.2f}.".format(
                *quoted["over_choices"]
            )
    elif word == "bounded":
        sentence = (
            f"α lies between {low:.{digits}f} and {high:.{digits}f}, but the data do not single"
            " this law out."
        )
    else:
        sentence = "The sizes trained do not pin the exponent α down."
        if low is not None and high is None:
            sentence += f" It is at least {low:.{digits}f}; nothing bounds it above."
    return Verdict(subject, word, sentence, notes=reasons)


def loss_verdict(results):
    """The best model's loss beside the strongest mark; None if it was not measured."""
    bits, mark = (
        value_at(results, "best.test_bits_per_char"),
        value_at(results, "headline.strongest_baseline") or {},
    )
    if bits is None:
        return None
    pair, other = value_at(results, "best.test_bits_per_char_interval"), mark.get(
        "test_bits_per_char"
    )
    (low, high), digits = ends(pair), digits_of(pair) if pair else 2
    most = "at most " if value_at(results, "tokenizer.remark") else ""
    sentence = (
        f"It needs {most}{bits:.{digits}f} bits per character of unseen"
        f" music{interval(pair, digits)}"
    )
    if other is None:
        return Verdict("Best model", "measured", sentence + ".")
    is_ahead, is_behind = (bits if high is None else high) < other, (
        bits if low is None else low
    ) > other
    return Verdict(
        "Best model",
        "ahead" if is_ahead else "behind" if is_behind else "not told apart",
        f"{sentence}; the strongest mark, {mark.get('name')}, {other:.{digits}f}.",
    )


def validity_verdict(results):
    """How many first tries are valid music; None if none were rated."""
    rates, right = (
        value_at(results, "samples.unprompted") or {},
        value_at(results, "samples.right_bars") or {},
    )
    if rates.get("rate") is None:
        return None
    real = value_at(results, "samples.real_music.rate")
    sentence = (
        f"Of {number(rates.get('n'))} first tries {percent(rates['rate'])} are valid music"
        f"{interval(rates.get('interval'), 0, 100, ' %')}"
    )
    sentence += "." if real is None else f"; of real music {percent(real)}."
    redrawn = (
        []
        if right.get("rate") is None
        else [
            "With wrong bars redrawn"
            f" {percent(right['rate'])}{interval(right.get('interval'), 0, 100, ' %')}: what model"
            " and sampler do together."
        ]
    )
    return Verdict(
        "Its samples", f"{percent(rates['rate'])} valid", sentence, "With bars redrawn", redrawn
    )


def marks_verdict(results):
    """The marks that models did not pass, one row each; None where all were passed or nothing was
    measured."""
    rows = value_at(results, "headline.warnings") or []
    if not rows:
        return None
    notes = []
    for row in rows:
        words = (
            f"{row['model']}, {row['split']}: {number(row['model_value'], 3)} against "
            f"{number(row['mark_value'], 3)} of {row['mark']} ({row['measure']})"
        )
        read, mark_read = row.get("model_train_chars"), row.get("mark_train_chars")
        unlike = read and mark_read and read != mark_read
        notes.append(
            words + (f"; it read {read:,} characters, the mark {mark_read:,}" if unlike else "")
        )
    return Verdict(
        "Marks not passed",
        str(len(rows)),
        "Comparisons in which a simpler method does at least as well.",
        "Which",
        notes,
    )
