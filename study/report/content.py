"""Collects RESULTS.json from the manifests, records, fits and measurements.

    content = results(root)   # what was not measured is None

Nothing is computed here that could be computed where it is measured. Numbers have six significant
digits; None says "not measured", an end of an interval that has no bound is the word "unbounded".
Loads torch for the vocabulary alone.
"""

import math
import re
from pathlib import Path

from study.evaluate import ladder_copying
from study.evaluate.measurements import read
from study.report.headline import headline, not_beaten
from study.report.required import is_ngram, value_at
from study.report.tables import DIGITS, RUN_COLUMNS, run_rows
from study.stages.files import plain, read_json
from study.stages.manifest import BEST, STAGES, load_manifest
from study.wording import TOKENIZER_KINDS

VERSION = 2  # of the keys; docs/results_keys.md lists what each replaced
FILES = {  # what lies beside RESULTS.json -> what is in it
    "runs.csv": "every run: size, cost, losses",
    "fits.json": "every fit in full",
    "joint_bootstrap.csv": "draws of the joint laws",
    "repeats.csv": "in-context copying of every run of the model ladder",
    "skills.csv": "musical skills of every model of the suite",
    "music.csv": "figures of generated and real music",
    "differences.csv": "paired differences of losses on the test split",
    "loss_by_position.csv": "loss by position in the context",
    "generated/metadata.json": "the samples",
}
RATE_KEYS = (
    "n rate interval level_rates bar_accuracy bar_accuracy_interval rest_bar_share truncated_share"
    " abc2midi_clean_rate"
).split()
SPLIT_KEYS = "characters tokens notes sequences tunes groups".split()
DATA_KEYS = (
    "tunes tunes_kept groups exact_duplicates transposed_or_retimed_copies similar_pairs"
    " dropped_tunes holdout"
).split()
LONG = set(  # keys of fits.json that RESULTS.json leaves to it
    (
        "alpha_without_size best_predicting_form choices collapse counting crossover figures"
        " flops_range form_p forms frontier held_out huber loss_by_position method"
        " more_comparisons objective points reason_in_short resamples sizes standard_error"
    ).split()
)
NOVELTY_KEYS = ("n", "copied_share", "longest_copied_chars", "new_4_bar_share")
COPYING_KEYS = ("name", "params_total", "n_chars_seen", "first", "second", "saved", "saved_se")
LICENCES = {  # of the sources whose manifest says nothing
    "music21": "public-domain tunes; their edition: music21/corpus/license.txt",
    "lakh": "Lakh MIDI dataset, CC BY 4.0",
}
UPPER_BOUND = (
    "losses are upper bounds: a text can be written in several ways with these tokens, and one is "
    "counted"
)
NOMINAL = "an event's characters are nominal (few percent off): compare it in nats per note"
REMARKS = {"note": UPPER_BOUND, "event": f"{UPPER_BOUND}; {NOMINAL}"}  # by kind of tokenizer
VALID = (
    "valid = level 4: header, tokens, content, and every bar exactly its meter; of all samples at "
    "the first try, judged on the generated part"
)
RIGHT_BARS = (
    "bar-level rejection sampling at temperature 1: a bar that its meter does not allow is drawn "
    "again; model and sampler together"
)
COPYING = (
    "saved: bits per character of bars at their first occurrence less those of the same bars at "
    "their second; validation split"
)


def results(root):
    """Returns the content of RESULTS.json from what stands below root."""
    root = Path(root)
    manifests = {name: load_manifest(root, name) or {} for name in STAGES}
    metadata = read_json(root / "part4_outputs/generated/metadata.json") or {}
    fits = read_json(root / "part4_outputs/fits.json") or {}
    runs = run_rows(root)
    parts = {
        "data": describe_data(root, manifests),
        "tokenizer": describe_tokenizer(root),
        "runs": describe_runs(runs),
        "fits": describe_fits({**fits, "answer": read(root, "answer") or fits.get("answer")}),
        "baselines": read_json(root / "data/baselines.json") or {},
        "best": describe_best(root),
        "samples": describe_samples(root, metadata),
        "in_context_copying": describe_copying(root),
        "music": describe_music(root),
        "novelty": describe_novelty(root),
        "finetuned": describe_finetuned(root),
        "environment": metadata.get("environment"),
    }
    quick = manifests["03_tokenize_split"].get("config", {}).get("quick")
    head = {
        "version": VERSION,
        "quick": quick,
        "headline": headline(parts),
        "baselines_not_beaten": not_beaten(parts, runs),
        "files": FILES,
    }
    return plain({**head, **parts}, DIGITS)


# ---------------------------------------------------------------- runs


def describe_runs(rows):
    """Returns how many runs there are, and of which sizes."""
    families = {}
    for row in rows:
        family = families.setdefault(row["family"], {"n": 0, "params_total": []})
        family["n"] += 1
        family["params_total"] = sorted({*family["params_total"], row["params_total"]})
    return {"n": len(rows), **families}


def notes_of_splits(root):
    """Returns {split: notes as written}; None where stage 03 counted none, as in text that is no
    ABC."""
    stats = read_json(root / "data/stats.json") or {}
    return {split: value_at(stats, f"splits.{split}.notes") for split in ("val", "test")}


def per_note(record, notes):
    """Returns the losses of a record per note of music: a unit that does not depend on how music is
    spelt. Headers, bar lines and the ends of tunes are paid for by the notes.

    >>> per_note({"val_nats_per_char": 0.5, "val_chars": 40}, {"val": 10, "test": None})
    {'val_nats_per_note': 2.0, 'test_nats_per_note': None}
    """
    losses = {}
    for split, n_notes in notes.items():
        nats, n_chars = record.get(f"{split}_nats_per_char"), record.get(f"{split}_chars")
        known = nats and n_chars and n_notes
        losses[f"{split}_nats_per_note"] = nats * n_chars / n_notes if known else None
    return losses


# ---------------------------------------------------------------- data, vocabulary, fits


def describe_data(root, manifests):
    """Returns where the text came from, its licences, and what became of it."""
    download, conversion = manifests["01_download"], manifests["02_midi_to_abc"]
    stats = read_json(root / "data/stats.json") or {}
    splits = stats.get("splits") or {}
    overlap = stats.get("overlap_with_train") or {}
    return {
        "sources": download.get("config"),
        "licences": licences(download),
        "may_share": may_share(download),
        "downloaded": download.get("counts"),
        "conversion": conversion
        and {
            "counts": conversion.get("counts"),
            "failed": conversion.get("skipped"),
        },
        **{key: stats.get(key) for key in DATA_KEYS},
        "splits": {
            split: {key: row.get(key) for key in SPLIT_KEYS} for split, row in splits.items()
        },
        "overlap_with_train": {
            split: value_at(overlap, f"{split}.share_of_all_windows") for split in ("val", "test")
        },
    }


def licences(download):
    """Returns the licences of the sources as sentences, as stage 01 says them; [] where none is
    known. download: its manifest."""
    rows = [row for row in download.get("sources") or [] if isinstance(row, dict)]
    if rows:
        return [f"{row.get('name')}: {row.get('licence') or 'not stated'}" for row in rows]
    source = value_at(download, "config.source")
    return [LICENCES[source]] if source in LICENCES else []


def may_share(download):
    """Returns False if a source's licence forbids to pass on what is made of it; None: not known."""
    said = [row.get("may_share") for row in download.get("sources") or [] if isinstance(row, dict)]
    if False in said:
        return False
    return True if said and None not in said else None


def describe_tokenizer(root):
    """Returns the vocabulary of a root, None if it cannot be read."""
    from common import load_tokenizer  # with torch

    try:
        tokenizer = load_tokenizer(root / "data/tokenizer.pkl")
    except ValueError:
        return None
    return {
        "kind": TOKENIZER_KINDS.get(tokenizer.kind, tokenizer.kind),
        "vocab_size": tokenizer.vocab_size,
        "characters": getattr(tokenizer, "characters", None),
        "digest": tokenizer.digest,
        "remark": REMARKS.get(tokenizer.kind),
    }


def describe_fits(fits):
    """Returns the short form of fits.json, families at the top; one without a law says why."""
    unknown = dict.fromkeys(("alpha", "alpha_interval", "r_squared"))
    refused = {
        family: {**unknown, "identified": False, "reason": reason}
        for family, reason in (fits.get("refused") or {}).items()
    }
    rest = {
        key: value
        for key, value in fits.items()
        if key not in ("families", "answer", "headline", "quick")
    }
    short = _short({**refused, **(fits.get("families") or {}), **rest})
    answer = fits.get("answer")
    if answer:
        answer = {key: answer.get(key) for key in ("sentence", "numbers", "winners", "prediction")}
    return with_unbounded({"answer": answer, **short})


def _short(value):
    """Returns the same without the keys of LONG and without rows of tables."""
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items() if key not in LONG}
    if isinstance(value, list):
        return [_short(item) for item in value]
    return value


def with_unbounded(value, is_interval=False):
    """Returns the same with "unbounded" for a missing end of an interval.

    >>> with_unbounded({"alpha": None, "alpha_interval": [0.1, None]})
    {'alpha': None, 'alpha_interval': [0.1, 'unbounded']}
    """
    if isinstance(value, dict):
        return {
            key: with_unbounded(item, str(key).endswith("interval")) for key, item in value.items()
        }
    if isinstance(value, list):
        return [
            "unbounded" if item is None and is_interval else with_unbounded(item) for item in value
        ]
    return value


# ---------------------------------------------------------------- the best model and its music


def describe_best(root):
    """Returns the best model's row, with its loss on the test split and intervals over tunes."""
    record = read_json(root / f"checkpoints/{BEST}.json") or {}
    test, tunes = read(root, "test") or {}, read(root, "tunes") or {}
    nats = value_at(tunes, f"losses.{BEST}.interval")
    return {
        **{column: record.get(column) for column in RUN_COLUMNS},
        **per_note(record, notes_of_splits(root)),
        "best_epoch": record.get("best_epoch"),
        "checkpoint": f"checkpoints/{BEST}.pt",
        "checkpoint_sha256": record.get("checkpoint_sha256"),
        **{
            f"test_{key}": test.get(key) for key in ("nats_per_char", "bits_per_char", "perplexity")
        },
        "test_nats_per_char_interval": nats,
        "test_bits_per_char_interval": nats and [end / math.log(2) for end in nats],
        "test_perplexity_interval": nats and [math.exp(end) for end in nats],
        "test_tunes": tunes.get("n_tunes"),
        "test_chars": test.get("n_chars"),
    }


def describe_samples(root, metadata):
    """Returns the rates of every set of samples, beside real music and simpler methods."""
    baselines = read(root, "floors") or {}
    right = read(root, "rates/right")
    return {
        "definition": VALID,
        "unprompted": set_of(root, "unprompted"),
        "chosen_sampler": set_of(root, "chosen"),
        "right_bars": right and {**set_of(root, "right"), **describe_right_bars(root)},
        "prompted": {"header": set_of(root, "header"), "bars": set_of(root, "bars")},
        "real_music": set_of(root, "real"),
        "baselines": {
            name: _rates_of(baselines[name], baselines[name].get("copied_share"))
            for name in by_length(baselines)
        }
        or None,
        "sampler": (read(root, "sweep") or {}).get("chosen"),
        "files": [row.get("file") for row in metadata.get("samples") or []],
    }


def set_of(root, name):
    """Returns the rates of a set of samples, with its repeated bars and copied characters; None
    if it was not rated."""
    rates = read(root, f"rates/{name}")
    if not rates:
        return None
    whose, of = ("unprompted", "real_mean") if name == "real" else (name, "generated_mean")
    music = read(root, f"music/{whose}") or {}
    copied = (read(root, f"copying/{name}") or {}).get("copied_share")
    return {
        **_rates_of(rates, copied),
        "repeated_bars": value_at(music, f"metrics.bar_repetition.{of}"),
    }


def _rates_of(rates, copied):
    return {**{key: rates.get(key) for key in RATE_KEYS}, "copied_share": copied}


def describe_right_bars(root):
    """Returns what bar-level rejection sampling took, and the bits of its text beside free text."""
    samples, free = read(root, "drawn/right"), read(root, "drawn/unprompted")
    return {
        "definition": RIGHT_BARS,
        "draws_per_bar": draws_per_bar(samples),
        "log2_right_per_bar": (read(root, "control/right") or {}).get("log2"),
        "stuck_share": sum(row["stop_reason"] == "stuck" for row in samples) / len(samples),
        "bits_per_char": _mean_bits(samples),
        "bits_per_char_free": _mean_bits(free),
    }


def _mean_bits(samples):
    known = [(row["bits_per_char"], row["new_chars"]) for row in samples if row["new_chars"]]
    return sum(bits * n for bits, n in known) / sum(n for _, n in known) if known else None


def draws_per_bar(samples):
    """Returns the draws for each bar kept in samples with right bars, header and end counted as
    bars; None without any."""
    n_kept = sum(sample["n_kept"] for sample in samples)
    return sum(sum(sample["draws"]) for sample in samples) / n_kept if n_kept else None


def by_length(names):
    """Returns names of texts by simpler methods: n-grams, the longest first, then the others.

    >>> by_length(["random", "3-gram", "12-gram"])
    ['12-gram', '3-gram', 'random']
    """
    ngrams = sorted(filter(is_ngram, names), key=lambda name: -int(re.sub(r"\D", "", name) or 0))
    return ngrams + sorted(set(names) - set(ngrams))


def level_rows(samples):
    """Returns the table of validity levels: [{"name", "kind", and its rates}]. samples: as in
    RESULTS.json; kind: real, model, sampler, right, ngram, random or other."""
    sets = [
        ("real music, held out", "real", samples["real_music"]),
        ("best model", "model", samples["unprompted"]),
        ("best model, chosen sampler", "sampler", samples["chosen_sampler"]),
        ("best model, right bars", "right", samples["right_bars"]),
    ]
    for name, row in (samples["baselines"] or {}).items():
        sets.append((name, "ngram" if is_ngram(name) else name, row))
    return [{"name": name, "kind": kind, **row} for name, kind, row in sets if row]


def describe_music(root):
    """Returns the figures of free samples beside real music; those of other sets: music.csv."""
    music = read(root, "music/unprompted")
    if not music:
        return None
    keys = ("generated_mean", "real_mean", "wasserstein_in_sd", "real_vs_real_mean")
    return {
        **{key: music[key] for key in ("n", "n_real", "n_compared", "jsd")},
        "metrics": {
            name: {key: row[key] for key in keys} for name, row in music["metrics"].items()
        },
    }


def describe_novelty(root):
    """Returns what each set of samples, and real music, shares with the training text."""
    names = {
        "unprompted": "unprompted",
        "chosen_sampler": "chosen",
        "right_bars": "right",
        "real_music": "real",
    }
    found = {}
    for key, name in names.items():
        row = read(root, f"copying/{name}")
        found[key] = row and {column: row.get(column) for column in NOVELTY_KEYS}
    return found if any(found.values()) else None


def describe_copying(root):
    """Returns what models save on a bar that they have read before: the best model, and the most
    of each family; None if it was not measured."""
    rows, best = ladder_copying.rows_of(root), read(root, f"repeats/{BEST}")
    most = {}
    for row in rows:
        if row["saved"] > most.get(row["family"], row)["saved"] or row["family"] not in most:
            most[row["family"]] = row
    if not rows and not best:
        return None
    return {
        "definition": COPYING,
        "n_models": len(rows),
        "best_model": best,
        "most_saved": {
            family: {key: row[key] for key in COPYING_KEYS} for family, row in most.items()
        },
        "heads": describe_heads(root),
    }


def describe_heads(root):
    """Returns the heads that carry in-context copying, {model: {"all", "best", "pair", "control"}}:
    bits per character saved on repeated bars, and of all characters, with all heads, without the
    best one, the best pair, and a control pair that harms as much; heads as "layer.head" from 1.
    None where no model copies."""
    models = {}
    for name in [BEST, *(row["name"] for row in run_rows(root))]:
        found = read(root, f"heads/{name}") or {}
        if found.get("best"):
            rows = [(key, found[key]) for key in ("all", "best", "pair", "control") if found[key]]
            models[name] = {key: _without_heads(row) for key, row in rows}
    return models or None


def _without_heads(row):
    heads = [f"{layer + 1}.{head + 1}" for layer, head in row["heads"]]
    return {"heads": heads, "saved": row["saved"], "bits_per_char": row["bits_per_char"]}


def describe_finetuned(root):
    """Returns {name: what stage 08 reports} of the models that were fine-tuned in a root."""
    paths = sorted((root / "finetuned").glob("*/report.json"))
    reports = {path.parent.name: read_json(path) for path in paths}
    return {name: report for name, report in reports.items() if isinstance(report, dict)} or None
