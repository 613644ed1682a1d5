"""Collects RESULTS.json from the manifests, records, fits and measurements.

docs/results_keys.md explains the keys. None says "not measured"; an end of an interval that has no
bound is the word "unbounded".
"""

import math

from music.samples import ratio
from study.evaluate.measurements import read
from study.report.headline import headline, not_beaten
from study.report.keys import is_ngram, pick, value_at
from study.report.tables import DIGITS, run_records
from study.stages.files import plain, read_json
from study.stages.manifest import BEST, load_manifest

VERSION = 3  # of the keys; docs/results_keys.md lists what each replaced
BEST_KEYS = (
    "name family size seed suite recipe data_fraction params_total params_non_embedding train_chars"
    " epochs train_flops steps seconds tokens_per_second peak_memory_bytes device learning_rate"
    " optimizer train_nats_per_char val_nats_per_char val_bits_per_char test_nats_per_char"
).split()
RATE_KEYS = (
    "n rate interval level_rates bar_accuracy bar_accuracy_interval abc2midi_clean_rate"
).split()
COPIED_KEYS = "copied_share longest_copied_chars new_4_bar_share".split()
SPLIT_KEYS = "characters tokens notes sequences tunes groups".split()
DATA_KEYS = "tunes tunes_kept groups transposed_or_retimed_copies dropped_tunes".split()
SETS = {  # key of a set of samples -> name, kind
    "real_music": ("real music, held out", "real"),
    "unprompted": ("best model", "model"),
    "chosen_sampler": ("best model, chosen sampler", "sampler"),
    "right_bars": ("best model, right bars", "right"),
}
LONG = (  # keys of fits.json that RESULTS.json leaves to it
    "counting crossover figures form_p forms held_out method more_comparisons points"
    " reason_in_short"
).split()
UPPER_BOUND = (
    "losses are upper bounds: a text can be written in several ways with these tokens, and one is "
    "counted"
)
NOMINAL = "an event's characters are nominal, up to 8 % off: compare it in nats per note"
REMARKS = {"note": UPPER_BOUND, "event": f"{UPPER_BOUND}; {NOMINAL}"}  # by kind of tokenizer


def results(root):
    """Returns the content of RESULTS.json."""
    metadata = read_json(root / "part4_outputs/generated/metadata.json")
    fits = read_json(root / "part4_outputs/fits.json")
    runs = run_records(root)
    parts = {
        "data": describe_data(root),
        "tokenizer": describe_tokenizer(root),
        "runs": {"n": len(runs)},
        "fits": describe_fits({**fits, "answer": read(root, "answer") or fits.get("answer")}),
        "baselines": read_json(root / "data/baselines.json"),
        "best": describe_best(root),
        "samples": describe_samples(root, metadata),
        "in_context_copying": describe_copying(root, runs),
        "music": describe_music(root),
        "environment": metadata["environment"],
    }
    head = {
        "version": VERSION,
        "quick": load_manifest(root, "03_tokenize_split")["config"]["quick"],
        "headline": headline(parts),
        "baselines_not_beaten": not_beaten(parts, runs),
    }
    return plain({**head, **parts}, DIGITS)


def describe_data(root):
    stats = read_json(root / "data/stats.json")
    # text of one's own has not been through 01 and 02
    download = load_manifest(root, "01_download") or {}
    conversion = load_manifest(root, "02_midi_to_abc")
    if conversion:
        conversion = {"counts": conversion["counts"], "failed": conversion["skipped"]}
    overlap = "overlap_with_train.{}.32.share_of_all_windows"
    return {
        "sources": download.get("config"),
        "licences": licences(download),
        "may_share": may_share(download),
        "conversion": conversion,
        **pick(stats, DATA_KEYS),
        "splits": {split: pick(row, SPLIT_KEYS) for split, row in stats["splits"].items()},
        "overlap_with_train": {
            split: value_at(stats, overlap.format(split)) for split in ("val", "test")
        },
    }


def licences(download):
    """Returns a line for each source. download: the manifest of stage 01."""
    rows = download.get("sources") or []
    return [f"{row['name']}: {row['licence'] or 'not stated'}" for row in rows]


def may_share(download):
    """Returns whether all licences let what is made of the sources be shared; None: not known."""
    said = {row["may_share"] for row in download.get("sources") or []}
    return next((answer for answer in (False, None, True) if answer in said), None)


def describe_tokenizer(root):
    from common import load_tokenizer  # with torch

    tokenizer = load_tokenizer(root / "data/tokenizer.pkl")
    return {
        "kind": {"char": "character"}.get(tokenizer.kind, tokenizer.kind),
        "vocab_size": tokenizer.vocab_size,
        "characters": tokenizer.characters,
        "digest": tokenizer.digest,
        "remark": REMARKS.get(tokenizer.kind),
    }


def describe_fits(fits):
    """Returns the short form of fits.json; a family without a law says why."""
    unknown = dict.fromkeys(("alpha", "alpha_interval", "r_squared")) | {"identified": False}
    refused = fits.get("refused") or {}
    laws = {family: {**unknown, "reason": reason} for family, reason in refused.items()}
    laws |= fits.get("families") or {}
    moved = ("families", "answer", "headline", "quick")
    laws |= {key: value for key, value in fits.items() if key not in moved}
    answer = fits.get("answer")
    answer = answer and pick(answer, ("sentence", "numbers", "winners", "prediction"))
    return {"answer": short(answer), **short(laws, LONG)}


def short(value, left_out=(), is_interval=False):
    """Returns a value without some keys; a missing end of an interval is "unbounded"."""
    if isinstance(value, dict):
        return {
            key: short(item, left_out, str(key).endswith("interval"))
            for key, item in value.items()
            if key not in left_out
        }
    if isinstance(value, list):
        return [
            "unbounded" if item is None and is_interval else short(item, left_out) for item in value
        ]
    return value


def describe_best(root):
    """Returns the best model's row, with losses per note of music, which do not depend on how it is
    spelt, and an interval of its test loss over tunes."""
    record, test = read_json(root / f"checkpoints/{BEST}.json"), read(root, "test")
    splits, per_note = read_json(root / "data/stats.json")["splits"], {}
    for split in ("val", "test"):
        total = record[f"{split}_nats_per_char"] * record[f"{split}_chars"]
        per_note[f"{split}_nats_per_note"] = ratio(total, splits[split].get("notes"))
    nats = read(root, "tunes")["losses"][BEST]["interval"]
    return {
        **pick(record, BEST_KEYS),
        **per_note,
        "test_nats_per_char": test["nats_per_char"],
        "test_bits_per_char": test["bits_per_char"],
        "test_bits_per_char_interval": [end / math.log(2) for end in nats],
        "test_perplexity": test["perplexity"],
    }


def describe_samples(root, metadata):
    """Returns the rates of every set of samples, of real music and of baselines."""
    baselines, right = read(root, "baselines"), set_of(root, "right")
    return {
        "unprompted": set_of(root, "unprompted"),
        "chosen_sampler": set_of(root, "chosen"),
        "right_bars": right and {**right, "draws_per_bar": draws_per_bar(root)},
        "prompted": {"header": set_of(root, "header"), "bars": set_of(root, "bars")},
        "real_music": set_of(root, "real"),
        "baselines": {
            name: pick(baselines[name], [*RATE_KEYS, "copied_share"])
            for name in by_length(baselines)
        },
        "sampler": read(root, "sweep")["chosen"],
        "files": [row["file"] for row in metadata["samples"]],
    }


def set_of(root, name):
    """Returns the rates of a set of samples; None without any."""
    rates = read(root, f"rates/{name}")
    if not rates:
        return None
    whose, of = ("unprompted", "real_mean") if name == "real" else (name, "generated_mean")
    repeated = value_at(read(root, f"music/{whose}"), f"metrics.bar_repetition.{of}")
    copied = read(root, f"copying/{name}") or {}
    return {**pick(rates, RATE_KEYS), **pick(copied, COPIED_KEYS), "repeated_bars": repeated}


def draws_per_bar(root):
    """Returns the draws for each bar kept with right bars; header and end count as bars."""
    samples = read(root, "drawn/right")
    n_draws = sum(sum(sample["draws"]) for sample in samples)
    return ratio(n_draws, sum(sample["n_kept"] for sample in samples))


def by_length(names):
    """Returns names of n-grams, the longest first, then the others.

    >>> by_length(["random", "3-gram", "12-gram"])
    ['12-gram', '3-gram', 'random']
    """
    ngrams = sorted(filter(is_ngram, names), key=lambda name: -int(name.split("-")[0]))
    return ngrams + sorted(set(names) - set(ngrams))


def level_rows(results):
    """Returns the rated sets of samples of RESULTS.json: [{"name", "kind", and their rates}]; kind:
    of SETS, ngram, or a name of `music/baseline_texts.py`."""
    samples = results["samples"]
    sets = [(name, kind, samples.get(key)) for key, (name, kind) in SETS.items()]
    for name, row in samples["baselines"].items():
        sets.append((name, "ngram" if is_ngram(name) else name, row))
    return [{"name": name, "kind": kind, **row} for name, kind, row in sets if row]


def describe_music(root):
    music = read(root, "music/unprompted")
    keys = ("generated_mean", "real_mean", "wasserstein_in_sd", "real_vs_real_mean")
    metrics = {name: pick(row, keys) for name, row in music["metrics"].items()}
    return {**pick(music, ("n", "n_real", "n_compared", "jsd")), "metrics": metrics}


def describe_copying(root, runs):
    """Returns {"best_model": what it saves on repeated bars, "heads": {model: {"all", "best",
    "pair", "control"}}} (of `heads.heads`); heads: "layer.head" from 1."""
    models = {}
    for name in [BEST, *(row["name"] for row in runs)]:
        found = read(root, f"heads/{name}")
        if not found or not found["best"]:
            continue
        models[name] = {}
        for key in ("all", "best", "pair", "control"):
            if found[key]:
                heads = [f"{layer + 1}.{head + 1}" for layer, head in found[key]["heads"]]
                models[name][key] = {"heads": heads, **pick(found[key], ("saved", "bits_per_char"))}
    return {"best_model": read(root, f"repeats/{BEST}"), "heads": models or None}
