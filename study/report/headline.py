"""The headline: one sentence and eight numbers, the same in terminal, page and README (`rows`)."""

import math

from music.validity import is_above
from study.families import label
from study.fit import sentences
from study.report.keys import is_ngram, value_at, without_ladder
from study.wording import measured, measured_share, number, percent, power, si

MOST_NAMED = 3  # models in a sentence
NUMBERS = {
    "test_bits_per_char": "bits per character of unseen music",
    "baseline_bits_per_char": "strongest baseline",
    "alpha": "exponent α of model size",
    "valid_rate": "valid at the first try",
    "valid_rate_right_bars": "valid with right bars",
    "repeated_bars": "repeated bars",
    "copied_share": "copied from the training text",
    "saved_on_repeated_bars": "bits per character saved on a repeated bar",
}
LAW_NUMBERS = {  # of the answer's law, beside the eight
    "beta": "exponent β of the amount of text",
    "order": "order k of the law",
    "E": "irreducible loss, nats per character",
    "kappa": "nats per character for each bit saved on repeated bars",
    "kappa_from_text": "the same from the share of repeated bars in the text",
    "scatter": "scatter of runs around the law",
    "copies_from_n_times_d": "parameters x characters from which Transformers copy",
}
SHARES = ("scatter", "valid_rate", "valid_rate_right_bars", "repeated_bars", "copied_share")


def headline(parts):
    """Returns {"sentence", "numbers": {key of NUMBERS: {"value" (None: not measured), "interval",
    ...}}} of the other parts of RESULTS.json."""
    best, samples, fits = parts["best"], parts["samples"], parts["fits"]
    laws = {name: law for name, law in fits.items() if value_at(law, "verdict") is not None}
    name, bits = strongest_baseline(parts["baselines"], "test")
    free, right, real = (samples[way] or {} for way in ("unprompted", "right_bars", "real_music"))
    copying = value_at(parts, "in_context_copying.best_model") or {}
    saved, error = copying.get("saved"), copying.get("saved_se")
    interval = None if error is None else [saved - 2 * error, saved + 2 * error]
    numbers = {
        "test_bits_per_char": {
            "value": best["test_bits_per_char"],
            "interval": best["test_bits_per_char_interval"],
            "model": name_of_best(best),
        },
        "baseline_bits_per_char": {"value": bits, "model": name},
        "alpha": sentences.quoted_exponent(fits.get("answer"), laws),
        "valid_rate": _number(free, "rate", real),
        "valid_rate_right_bars": _number(right, "rate"),
        "repeated_bars": _number(free, "repeated_bars", real),
        "copied_share": _number(free, "copied_share", real),
        "saved_on_repeated_bars": {"value": saved, "interval": interval},
    }
    return {"sentence": sentence(fits, numbers), "numbers": numbers}


def name_of_best(best):
    """Returns the best model in words, e.g. "Transformer medium, 8 epochs"."""
    epochs = "1 epoch" if best["epochs"] == 1 else f"{best['epochs']:g} epochs"
    return f"{label(best['family'])} {best['size']}, {epochs}"


def _number(row, key, real=None):
    found = {"value": row.get(key)}
    if key == "rate":
        found |= {"interval": row.get("interval"), "n": row.get("n")}
    return found if real is None else found | {"real_music": real.get(key)}


def sentence(fits, numbers):
    """Returns the answer of the fits, or what the best model reaches."""
    answer = value_at(fits, "answer.sentence")
    if answer:
        return answer
    best, baseline = numbers["test_bits_per_char"], numbers["baseline_bits_per_char"]
    return (
        f"{best['model']}: {measured(best['value'], best['interval'])} bits per character"
        f" ({baseline['model']}: {number(baseline['value'], 3)});"
        f" {percent(numbers['valid_rate']['value'])} of its first tries are valid."
    )


def rows(content):
    """Returns [(name, words)]: the sentence, the eight numbers, the baselines not beaten."""
    head = content["headline"]
    return [
        ("answer", head["sentence"]),
        *((name, _in_words(key, head["numbers"].get(key, {}))) for key, name in NUMBERS.items()),
        ("baselines not beaten", value_at(content, "baselines_not_beaten.sentence") or "none"),
    ]


def _in_words(key, row):
    value, pair = row.get("value"), row.get("interval")
    if value is None:
        return "not measured"
    words = measured_share(value, pair) if key in SHARES else measured(value, pair)
    if row.get("n"):
        words += f", n = {row['n']}"
    if row.get("real_music") is not None:
        words += f"; real music {percent(row['real_music'])}"
    return words + (f"; {row['model']}" if row.get("model") else "")


def law_rows(results):
    """Returns [(name, words)] of the other numbers of the answer's law; [] without one."""
    numbers = value_at(results, "fits.answer.numbers") or {}
    rows = []
    for key, name in LAW_NUMBERS.items():
        value = value_at(numbers, f"{key}.value")
        if value is not None:
            rows.append((name, power(value) if value > 1e4 else _in_words(key, numbers[key])))
    return rows


def predictions(results):
    """Returns what the law predicted of runs that it had not seen, and predicts of the next."""
    rows = value_at(results, "fits.answer.prediction") or {}
    return [row["sentence"] for kind in ("held_out", "next") for row in rows.get(kind) or []]


def winners(results):
    """Returns the families of the lowest loss in words, (amounts of text, [(size, [(family,
    margin)])]), or None."""
    rows = value_at(results, "fits.answer.winners") or []
    amounts = sorted({row["d"] for row in rows if row["d"]})
    sizes = {}
    for row in rows:
        cell = label(sentences.winner(row)), f"by {row['margin']:.3f} nats" if row["clear"] else ""
        sizes.setdefault(si(row["n"]), {})[row["d"]] = cell
    none = ("–", "")
    table = [(size, [cells.get(d, none) for d in amounts]) for size, cells in sizes.items()]
    return ([si(d) for d in amounts], table) if table else None


def strongest_baseline(baselines, split):
    """Returns (name, bits per character) of the best baseline of a split."""
    best = min(baselines[split].values(), key=lambda row: row["bits_per_char"])
    return best["label"], best["bits_per_char"]


def not_beaten(parts, runs):
    """Returns the baselines that a model or its samples do not beat: {"sentence", "rows":
    [{"baseline", "split", "measure", "value", "models": {name: value}}]}."""
    models = {"best model": parts["best"], **{row["name"]: row for row in without_ladder(runs)}}
    rows = []
    for split in ("test", "val"):
        name, bits = strongest_baseline(parts["baselines"], split)
        nats = f"{split}_nats_per_char"
        losses = {model: row[nats] / math.log(2) for model, row in models.items()}
        behind = {model: loss for model, loss in losses.items() if loss >= bits}
        rows.append((name, split, "bits per character", bits, behind))
    rows += _behind_ngrams(parts["samples"])
    keys = ("baseline", "split", "measure", "value", "models")
    found = [dict(zip(keys, row)) for row in rows if row[-1]]
    return {"sentence": not_beaten_sentence(found), "rows": found}


def _behind_ngrams(samples):
    """Returns rows of the free samples beside the best n-grams: their rate must be above, and the
    intervals of right bars must not overlap."""
    free = samples["unprompted"]
    ngrams = {name: row for name, row in samples["baselines"].items() if is_ngram(name)}
    if not ngrams:  # the text is no ABC
        return []
    valid, bars = (
        max(ngrams, key=lambda name: ngrams[name][key] or 0) for key in ("rate", "bar_accuracy")
    )
    ours, theirs = (row["bar_accuracy_interval"] for row in (free, ngrams[bars]))
    behind = []
    if not is_above(free, ngrams[valid]):
        behind.append(("valid at the first try", "rate", valid))
    if ours and theirs and ours[0] <= theirs[1]:
        behind.append(("bars of the right length", "bar_accuracy", bars))
    return [
        (f"{name} text", "samples", measure, ngrams[name][key], {"best model": free[key]})
        for measure, key, name in behind
    ]


def not_beaten_sentence(rows):
    """Returns rows of `not_beaten` in words, e.g. "PPMd on the val split by lstm_tiny"."""
    words = []
    for row in rows:
        names = list(row["models"])
        who = ", ".join(names) if len(names) <= MOST_NAMED else f"{len(names)} models"
        where = "in samples" if row["split"] == "samples" else f"on the {row['split']} split"
        words.append(f"{row['baseline']} {where} by {who}")
    return "; ".join(dict.fromkeys(words))  # one baseline may win by two measures
