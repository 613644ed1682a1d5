"""Decides what may be said of fits in text and figures, and says it."""

from collections import Counter

from study.families import FAMILIES, in_order, label
from study.fit import compare
from study.wording import interval, measured, power, rounded, si

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


def headline(entries, refused, compared, joint, answer):
    """Returns the answer, and a sentence for each family without a grid and each pair."""
    words = [answer["sentence"]] if answer else []
    for family in in_order(set(entries) | set(refused)):
        if family in refused:
            words.append(f"{label(family)}: not fitted: {refused[family].partition(';')[0]}.")
        elif family not in joint:
            words.append(_law_sentence(family, entries[family]))
    words += filter(None, map(_pair_sentence, compared))
    for family, entry in joint.items():
        if entry.get("design"):
            words.append(f"{label(family)}: {entry['reason']}.")
    return " ".join(words)


def answer(families, numbers):
    """Says the law of these families in at most 30 words."""
    alpha, beta = (
        rounded(numbers[key]["value"], *numbers[key]["interval"]) for key in ("alpha", "beta")
    )
    *others, who = map(plural, families)
    if others:
        who = f"{', '.join(others)} and {who} alike"
    words = f"Loss falls as N^-{alpha} and D^-{beta} in {who}"
    if "copies_from_n_times_d" in numbers:
        words += (
            f"; from N x D of about {power(numbers['copies_from_n_times_d']['value'])}"
            " Transformers copy repeated bars and fall below this law"
        )
    return words + "."


def plural(family):
    return f"{label(family)}s" if family in FAMILIES else family


def answer_without_law(winners, is_grid):
    """Says who has the lowest loss how often."""
    why = "an exponent lies on the bound of the search" if is_grid else "that takes a grid of both"
    words = f"No law of size and text here: {why}"
    counts = Counter(map(winner, winners))
    counts.pop(NOT_KNOWN, None)
    draws = counts.pop(DRAW, 0)
    who = [f"{plural(name)} at {counts[name]}" for name in in_order(counts)]
    if draws:
        who.append(f"draws at {draws}")
    if who:
        words += f"; lowest loss: {', '.join(who)} of {len(winners)} points"
    return words + "."


def prediction(row):
    """Says the loss if the model copies, if not, and how likely that is."""
    losses, p = f"{_loss(row['if_not'])} nats per character", row["p_copies"]
    if row["if_copies"] is not None:
        losses = f"{_loss(row['if_copies'])} nats per character if it copies,"
        losses += f" {_loss(row['if_not'])} if not; P(copies) "
        losses += "is not known" if p is None else f"= {p:.2f}"
    words = f"{label(row['family'])}, N = {si(row['n'])}, D = {si(row['d'])}: {losses}"
    return words + (f"; measured {row['measured']:.3f}" if "measured" in row else "") + "."


def _loss(value):
    low, high = value["interval"]
    return f"{value['value']:.3f} ({low:.3f} to {high:.3f})"


def _law_sentence(family, entry):
    words = f"{who_and_where(family, entry)}: alpha {exponent_in_words(entry)}"
    if entry["verdict"] == "identified" and entry["interval_over_choices"]:
        words += f"; over choices of analysis {interval(entry['interval_over_choices'])}"
    words += f" ({entry['n_sizes']} sizes, {entry['n_runs']} runs)"
    return words + ("." if entry["verdict"] == "identified" else f": {entry['reason_in_short']}.")


def _pair_sentence(pair):
    parts = [pair[cost]["text"] for cost in compare.COSTS if "text" in pair[cost]]
    return f"Lower loss of {_pair(pair)}: {', '.join(parts)}." if parts else None


def _pair(pair):
    return f"{label(pair['first'])} and {label(pair['second'])}"


def warnings(entries, compared):
    """Returns what a reader should know before quoting a number."""
    found = []
    for family, entry in entries.items():
        words = []
        if entry["bends_below"]:
            words.append(
                f"the law bends below N = {si(entry['bends_below'])}: {entry['runs_below']} smaller"
                " runs are left out"
            )
        common = entry.get("common_law")
        if common and not common["holds"]:
            words.append(
                f"ladder and original suite do not lie on one law (p = {common['p_value']:.2g}):"
                " the ladder is fitted alone"
            )
        if entry["n_runs"] == entry["n_sizes"]:
            words.append(
                f"one seed per size, so the noise is guessed from {entry['n_sizes']} residuals of a"
                " 3-parameter curve"
            )
        if not entry["falls_with_n"]:
            words.append("the loss does not fall from each size to the next")
        if entry["noise"]["source"] == "lack of fit":
            words.append(
                "the curve misses the means by more than the seeds explain (p ="
                f" {entry['noise']['lack_of_fit_p']:.2g})"
            )
        found += [f"{label(family)}: {text}" for text in words]
    for pair in compared:
        seeds = max(pair[cost].get("paired_seeds", 0) for cost in compare.COSTS)
        if seeds < compare.MIN_PAIRED:
            found.append(
                f"{_pair(pair)}: fewer than three common seeds: the families are compared with"
                " pooled noise, not by pairs"
            )
    return found


def summary(result):
    """Returns the closing block of stage 06."""
    block = {}
    for family, entry in result["families"].items():
        if family not in (result["joint"] or {}):
            block[who_and_where(family, entry)] = _numbers_of(entry)
        if nine := entry.get("classical"):
            words = _numbers_of(nine) if nine["alpha_interval"] else f"not fitted: {nine['reason']}"
            if nine["alpha"] is not None:
                words += f", best fit {nine['alpha']:.3f}"
            block[f"{label(family)}, the original study's fit"] = words
    for family, reason in result["refused"].items():
        block[label(family)] = f"not fitted: {reason}"
    predicted = (result["answer"] or {}).get("prediction") or {"next": []}
    block |= {f"prediction {i}": row["sentence"] for i, row in enumerate(predicted["next"], 1)}
    return block | {"headline": result["headline"]}


def _numbers_of(entry):
    words = f"alpha {exponent_in_words(entry)}"
    if entry["verdict"] == "identified":
        words += f", c {entry['c']:.3f}"
    return f"{words}, R2 {entry['r_squared']:.4f}"


def budget(family, flops, best, extrapolates):
    """Says what to train with `flops`, from `joint_fit.recommend`."""
    parts = []
    for what, (value, band) in best.items():
        ends = "" if band is None else f" (80 % band {si(band[0])} to {si(band[1])})"
        parts.append(f"{what} {si(value)}{ends}")
    words = f"{label(family)} with {flops:.3g} FLOPs (C = 6ND): {', '.join(parts)}"
    outside = " -- outside the sizes or data that were measured: an extrapolation"
    return words + (outside if extrapolates else "")
