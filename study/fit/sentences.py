"""Says in words what the fits found. Arithmetic stands elsewhere; a number is rounded only here."""

import numpy as np

from study.families import in_order, label
from study.fit import compare, joint_law, robust
from study.fit import power_law as law
from study.fit.joint_fit import BEND_LEVEL, recommend
from study.fit.verdict import MOST_RATIO, RIVAL_LEVEL, RIVALS
from study.wording import rounded, si

COSTS = {
    "params_total": "parameters",
    "train_flops": "training FLOPs",
    "seconds": "training seconds",
}
IN_SHORT = {"params_total": "parameters", "train_flops": "FLOPs", "seconds": "seconds"}


def describe_method(settings):
    """How the numbers were made, for readers of fits.json."""
    return {
        "fit": (
            "least squares of a N^-alpha + c (N: see `count`) by variable projection over all local"
            " minima"
        ),
        "joint": (
            "least squares of log loss, L = E + ((A / N^alpha)^k + (B / D^beta)^k)^(1/k), k:"
            " `order`; form: sum (k = 1) unless rejected at 5 % (F test); E free; intervals: runs"
            " redrawn"
        ),
        "answer": (
            "one law of all families, exponents, k and E shared, less kappa (bits saved on a"
            " repeated bar - 0.05); intervals: cells left out (seeds, form), text drawn, widened to"
            " hold the values without each amount of text and under each other form"
        ),
        "one_law": (
            "runs belong to a law of others if they do not raise its residual beyond its noise (F"
            f" test, {100 * RIVAL_LEVEL:.0f} % for the original suite, {100 * BEND_LEVEL:.0f} % for"
            " the smallest size)"
        ),
        "interval": (
            "profile likelihood, F(1, degrees of freedom of the noise); see benchmarks/scaling.md"
        ),
        "verdict": (
            f"open: an end of the interval is missing, or {RIVALS['log_linear']} is not rejected at"
            f" {100 * RIVAL_LEVEL:.0f} % (F test against its limit alpha -> 0); bounded: both ends"
            f" are known; identified: they are at most a factor of {MOST_RATIO} apart,"
            f" {RIVALS['power']} is rejected likewise, and {law.MIN_NOISE_DOF} degrees of freedom"
            " measure the noise"
        ),
        "huber": f"cross-check: summed Huber loss of log L, delta {robust.HUBER_DELTA:g}",
        "not_covered": (
            "the intervals cover the noise of runs, not what another corpus, recipe or validation"
            " set would change"
        ),
        "resamples": settings.n_resamples,
        "seed": settings.seed,
        "alpha_range": law.ALPHA_RANGE,
    }


def headline(entries, refused, compared, joint, answer):
    """The answer, and a sentence for each family without a grid and each pair of families, true
    whatever the numbers are. The long reasons stand in families.<family>.reason."""
    words = [answer["sentence"]] if answer and answer["sentence"] else []
    for family in in_order(set(entries) | set(refused)):
        if family in refused:
            words.append(_refused_sentence(family, refused[family]))
        elif family not in joint:
            words.append(_law_sentence(family, entries[family]))
    words += filter(None, (_pair_sentence(pair) for pair in compared))
    for family, entry in joint.items():
        if entry.get("design"):
            words.append(f"{label(family)}: {entry['reason']}.")
    return " ".join(words)


# ---------------------------------------------------------------- the answer


def answer(families, numbers):
    """Returns the answer in one sentence of at most 30 words."""
    alpha, beta = (
        rounded(numbers[key]["value"], *numbers[key]["interval"]) for key in ("alpha", "beta")
    )
    who = _and([f"{label(family)}s" for family in families])
    alike = " alike" if len(families) > 1 else ""
    words = f"Loss falls as N^-{alpha} and D^-{beta} in {who}{alike}"
    if "copies_from_n_times_d" in numbers:
        words += (
            f"; from N x D of about {numbers['copies_from_n_times_d']['value']:.0e}"
            " Transformers copy repeated bars and fall below this law"
        )
    return words.replace("e+", "e") + "."


def answer_without_grid(families, winners):
    """Returns what runs at one amount of text, or along one line of sizes and data, can know: who
    has the lowest loss at how many sizes."""
    words = "These runs cannot tell a law of size and text: that takes a grid of both"
    if winners:
        best = [row["winner"] for row in winners]
        counts = [f"{label(name)}s at {best.count(name)}" for name in in_order(set(best))]
        words += f"; lowest loss: {', '.join(counts)} of {len(best)} sizes"
    return words + "."


def prediction(row):
    """Says a prediction: the loss if the model copies, if not, and how likely that is."""
    start = f"{label(row['family'])}, N = {si(row['n'])}, D = {si(row['d'])}: "
    if row["if_copies"] is None:
        words = f"{start}{_loss(row['if_not'])} nats per character"
    else:
        words = (
            f"{start}{_loss(row['if_copies'])} nats per character if it copies,"
            f" {_loss(row['if_not'])} if not"
        )
        known = row["p_copies"] is not None
        words += f"; P(copies) = {row['p_copies']:.2f}" if known else "; P(copies) is not known"
    return words + (f"; measured {row['measured']:.3f}" if "measured" in row else "") + "."


def _loss(value):
    low, high = value["interval"]
    return f"{value['value']:.3f} ({low:.3f} to {high:.3f})"


def _and(words):
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


# ---------------------------------------------------------------- laws at one amount, pairs


def _refused_sentence(family, reason):
    reason, *_ = reason.partition(";")
    words = reason.split()
    return (
        f"{label(family)}: not fitted: {' '.join(words[:20])}{' ...' if len(words) > 20 else ''}."
    )


def _law_sentence(family, entry):
    """What the runs of one family say, in the verdict's word. No value of alpha unless it is
    identified: it would be quoted. No formula: a rounded to what alpha's interval allows gives
    other losses."""
    runs = f"{entry['n_sizes']} sizes, {entry['n_runs']} runs"
    if entry["verdict"] == "open":
        return f"{label(family)}: alpha stays open ({runs}): {entry['reason_in_short']}."
    low, high = entry["alpha_interval"]
    ends = f"{rounded(low, low, high)} to {rounded(high, low, high)}"
    if entry["verdict"] == "bounded":
        return (
            f"{label(family)}: alpha is bounded, {ends} ({runs}), not identified:"
            f" {entry['reason_in_short']}."
        )
    choices = entry["interval_over_choices"]
    spread = (
        ""
        if choices is None
        else (
            f"; over choices of analysis {' to '.join(rounded(end, low, high) for end in choices)}"
        )
    )
    return (
        f"{label(family)}: alpha is identified, {rounded(entry['alpha'], low, high)}"
        f" ({100 * law.LEVEL:.0f} % interval {ends}{spread}; {runs})."
    )


def _pair_sentence(pair):
    """Who has the lower loss at equal cost, in one sentence; None if no cost can be compared."""
    parts = [
        f"at equal {IN_SHORT[cost]}"
        f" {_who_is_lower(pair['first'], pair['second'], pair[cost]['points'])}"
        for cost in COSTS
        if "points" in pair[cost]
    ]
    return f"Lower loss of {_pair(pair)}: {', '.join(parts)}." if parts else None


def _who_is_lower(first, second, points):
    """ "LSTM at 2 of 5 points": those where the interval of the difference carries it."""
    if any(point["interval"] is None for point in points):
        return "unknown"
    below = sum(point["interval"][1] < 0 for point in points)
    above = sum(point["interval"][0] > 0 for point in points)
    clear = [
        f"{label(family)}"
        f" {'everywhere' if count == len(points) else f'at {count}/{len(points)} points'}"
        for count, family in ((below, first), (above, second))
        if count
    ]
    return " and ".join(clear) or "neither"


def compared_sentence(first, second, what, found):
    """One sentence on who has the lower loss at equal cost, as far as the intervals carry it."""
    points = found["points"]
    scale = f"between {si(found['range'][0])} and {si(found['range'][1])} {what}"
    if any(point["interval"] is None for point in points):
        return f"At equal {what} the differences have no interval ({found['method']})."
    below = sum(point["interval"][1] < 0 for point in points)
    above = sum(point["interval"][0] > 0 for point in points)
    sizes = [abs(point["difference"]) for point in points]
    for count, better in ((below, first), (above, second)):
        if count == len(points):
            return (
                f"At equal {what} the {label(better)} has the lower loss everywhere {scale}, by "
                f"{min(sizes):.3f} to {max(sizes):.3f} nats."
            )
    if not below and not above:
        return f"At equal {what} no difference between the families can be told from noise {scale}."
    parts = [
        f"the {label(better)} is lower at {count} of {len(points)} points"
        for count, better in ((below, first), (above, second))
        if count
    ]
    rest = "" if below + above == len(points) else "; elsewhere noise hides the difference"
    cross = found["crossover"]
    # a crossing counts only if both sides of it stand out of the noise
    if cross["at"] is not None and below and above:
        rest += f"; the curves cross at {si(cross['at'])} {what}"
        if cross["interval"]:
            rest += (
                f" ({100 * law.LEVEL:.0f} % interval {si(cross['interval'][0])} to"
                f" {si(cross['interval'][1])})"
            )
    return f"At equal {what} {' and '.join(parts)} {scale}{rest}."


def _pair(compared):
    return f"{label(compared['first'])} and {label(compared['second'])}"


def warnings(entries, compared):
    """What a reader should know before quoting a number."""
    out = []
    for family, entry in entries.items():
        if entry["bends_below"]:
            out.append(
                f"{label(family)}: the law bends below N = {si(entry['bends_below'])}:"
                f" {entry['runs_below']} smaller runs are left out"
            )
        if entry.get("common_law") and not entry["common_law"]["holds"]:
            out.append(
                f"{label(family)}: ladder and original suite do not lie on one law "
                f"(p = {entry['common_law']['p_value']:.2g}): the ladder is fitted alone"
            )
        if entry["n_runs"] == entry["n_sizes"]:
            out.append(
                f"{label(family)}: one seed per size, so the noise is guessed from"
                f" {entry['n_sizes']} residuals of a 3-parameter curve"
            )
        if not entry["falls_with_n"]:
            out.append(f"{label(family)}: the loss does not fall from each size to the next")
        if entry["huber"]["inside_interval"] is False:
            out.append(
                f"{label(family)}: the Huber cross-check (alpha {entry['huber']['alpha']:.3g}) lies"
                " outside the interval: a single run may dominate"
            )
        if entry["noise"]["source"] == "lack of fit":
            out.append(
                f"{label(family)}: the curve misses the means by more than the seeds explain "
                f"(p = {entry['noise']['lack_of_fit_p']:.2g})"
            )
    for pair in compared:
        if all(pair[cost].get("paired_seeds", 0) < compare.MIN_PAIRED for cost in COSTS):
            out.append(
                ("" if len(compared) == 1 else f"{_pair(pair)}: ")
                + "fewer than three common seeds: the "
                "families are compared with pooled noise, not by pairs"
            )
    return out


def summary(result):
    """The closing block: the classical numbers per family, with their interval and the verdict;
    where a grid was trained, only those of the original suite."""
    block = {}
    for family, entry in result["families"].items():
        if family not in (result["joint"] or {}):
            block[label(family)] = f"{_numbers_of(entry)}, {entry['verdict']}"
        if nine := entry.get("classical"):
            words = _numbers_of(nine) if nine["alpha_interval"] else f"not fitted: {nine['reason']}"
            block[f"{label(family)}, the original study's fit"] = words
    for family, reason in result["refused"].items():
        block[label(family)] = f"not fitted: {reason}"
    predicted = ((result["answer"] or {}).get("prediction") or {}).get("next") or []
    block |= {f"prediction {i}": row["sentence"] for i, row in enumerate(predicted, 1)}
    return block | {"headline": result["headline"]}


def _numbers_of(entry):
    low, high = ("unbounded" if end is None else f"{end:.3f}" for end in entry["alpha_interval"])
    if entry["alpha"] is None:
        best = "alpha and c on the bound of the search"
    else:
        best = f"alpha {entry['alpha']:.3f} (95 % {low} to {high}), c {entry['c']:.3f}"
    return f"{best}, R2 {entry['r_squared']:.4f}"


def budget_sentence(family, entry, draws, flops, band_percent):
    """What to train with `flops`, from a family's entry of the joint law and its draws."""
    if entry["E"]["value"] is None:
        return (
            f"{label(family)}: no recommendation from a joint law that is not identified:"
            f" {entry['reason']}"
        )
    draws = np.array(draws)
    best = recommend(
        [entry[name]["value"] for name in joint_law.JOINT], draws, flops, entry, band_percent
    )
    parts = []
    for key, what in (("n_opt", "N"), ("d_opt", "D"), ("loss", "loss")):
        value, band = best[key]["value"], best[key]["band"]
        ends = f" ({band_percent} % band {si(band[0])} to {si(band[1])})" if band else ""
        parts.append(f"{what} {si(value)}{ends}")
    return f"{label(family)} with {flops:.3g} FLOPs (C = 6ND): {', '.join(parts)}" + (
        " -- outside the sizes or data that were measured: an extrapolation"
        if best["extrapolates"]
        else ""
    )
