"""RESULTS.json: everything that a run found, as a function of the manifests, run records, fits and kept measurements.

    content = results(root)            # what was not measured is None
    missing = check_results(content)   # sentences on what it promises and lacks

Nothing is computed here that could be computed where it is measured: rows are put side by side, the best baseline is
picked, and failures are said in words. Loads no torch.
"""

import math
import re
from pathlib import Path

from music.validity import ladder_row
from study.families import FAMILIES
from study.figures import in_order, label
from study.measurements import plain, read
from study.records import read_records
from study.stage import STAGES, load_manifest, read_json

BEST = "best_model"  # name of the best model's files
RUN_COLUMNS = (
    "name", "family", "size", "seed", "suite", "recipe", "data_fraction", "params_total", "params_non_embedding",
    "train_chars", "epochs", "train_flops", "train_flops_6nd", "steps", "tokens_per_step", "seconds",
    "tokens_per_second", "peak_memory_bytes", "device", "learning_rate", "optimizer", "train_nats_per_char",
    "val_nats_per_char", "val_bits_per_char", "test_nats_per_char")
FIT_NUMBERS = ("alpha", "alpha_interval", "identified", "r_squared")
TOKENIZER_KINDS = {"char": "character"}  # in words
TEST_SHARE = 0.25  # of the validation loss: a test loss farther away says that the splits are small or unlike


def results(root):
    """The content of RESULTS.json from what stands below root; what was not measured is None."""
    root = Path(root)
    manifests = {name: load_manifest(root, name) or {} for name in STAGES}
    metadata = read_json(root / "part4_outputs/generated/metadata.json") or {}
    fits, runs = read_json(root / "part4_outputs/fits.json") or {}, run_rows(root)
    parts = {
        "data": describe_data(root, manifests), "tokenizer": describe_tokenizer(root), "runs": runs,
        "fits": describe_fits(fits), "baselines": read_json(root / "data/baselines.json") or {},
        "best": describe_best(root), "samples": describe_samples(root, metadata),
        "music": _measured(root, {"unprompted": "music/unprompted", "chosen_sampler": "music/chosen"}),
        "novelty": _measured(root, {
            "generated": "copying/unprompted", "chosen_sampler": "copying/chosen", "heldout_baseline": "copying/real",
            "diversity": "diversity/unprompted", "diversity_of_real_music": "diversity/real"}),
        "skills": describe_skills(root, runs) or None, "environment": metadata.get("environment")}
    quick = manifests["03_tokenize_split"].get("config", {}).get("quick")
    return plain({"quick": quick, "headline": headline(parts, fits.get("headline")), **parts})


def _measured(root, names):
    """{key: measurement of this name}; None if none of them was made."""
    values = {key: read(root, name) for key, name in names.items()}
    return None if all(value is None for value in values.values()) else values


# ---------------------------------------------------------------- the parts

def run_rows(root):
    """One flat row per run that the manifests of the training stages list, family by family, the smallest first."""
    rows = [{column: record.get(column) for column in RUN_COLUMNS} for record in read_records(root)]
    families = in_order({row["family"] for row in rows})
    return sorted(rows, key=lambda row: (families.index(row["family"]), row["params_total"], row["seed"], row["name"]))


def suite_runs(rows):
    """The rows of the study's own models, one a family and size: not those of other seeds, recipes, shares of the data
    or of the wide suite, whose sizes have other names."""
    return [row for row in rows if row["name"] == f"{row['family']}_{row['size']}" and row["suite"] == "classical"]


def planned_runs(root):
    """Names of the runs that the training stages' tables and command lines ask for, trained or not."""
    names = []
    for family in FAMILIES.values():
        manifest = load_manifest(root, family.stage) or {}
        sizes = manifest.get("config", {}).get("sizes") or {}
        names += [*(f"{family.name}_{size}" for size in sizes), *(manifest.get("missing") or [])]
    return list(dict.fromkeys(names))


def describe_data(root, manifests):
    """Where the text came from, what became of it, and the statistics of stage 03."""
    download, conversion = manifests["01_download"], manifests["02_midi_to_abc"]
    return {"sources": download.get("config") or {}, "downloaded": download.get("counts") or {},
            "conversion": {"counts": conversion.get("counts") or {}, "failed": conversion.get("skipped") or {}},
            **(read_json(root / "data/stats.json") or {})}


def describe_tokenizer(root):
    """The vocabulary of a root, None if it cannot be read."""
    from common import load_tokenizer  # with torch
    try:
        tokenizer = load_tokenizer(root / "data/tokenizer.pkl")
    except ValueError:
        return None
    return {"kind": TOKENIZER_KINDS.get(tokenizer.kind, tokenizer.kind), "vocab_size": tokenizer.vocab_size,
            "characters": getattr(tokenizer, "characters", None), "digest": tokenizer.digest}


def describe_fits(fits):
    """The content of fits.json, a family at the top; a family that was not fitted says why."""
    refused = {family: {"alpha": None, "alpha_interval": [None, None], "r_squared": None, "identified": False,
                        "reason": reason} for family, reason in (fits.get("refused") or {}).items()}
    return {**refused, **(fits.get("families") or {}), **{k: v for k, v in fits.items() if k != "families"}}


def describe_best(root):
    """The best model's row, with its loss on the test split by the one evaluation function."""
    record, test = read_json(root / f"checkpoints/{BEST}.json") or {}, read(root, "test") or {}
    return {**{column: record.get(column) for column in RUN_COLUMNS}, "best_epoch": record.get("best_epoch"),
            "checkpoint": f"checkpoints/{BEST}.pt", "checkpoint_sha256": record.get("checkpoint_sha256"),
            **{f"test_{key}": test.get(key) for key in ("nats_per_char", "bits_per_char", "perplexity",
                                                       "loss_by_position")}, "test_chars": test.get("n_chars")}


def describe_samples(root, metadata):
    """Rates of validity of every set of samples, between real music and what any judge has to refuse."""
    rates = {name: read(root, f"rates/{name}") for name in ("unprompted", "chosen", "header", "bars", "real")}
    floors, sweep = read(root, "floors"), read(root, "sweep") or {}
    return {"definition": "valid = level 4: header, tokens, content, and every bar exactly its meter; of all "
                          "samples at the first try, judged on the generated part",
            "unprompted": rates["unprompted"], "chosen_sampler": rates["chosen"],
            "prompted": {"header": rates["header"], "bars": rates["bars"]}, "real_music": rates["real"],
            "floors": floors, "ladder": ladder_rows(rates, floors or {}), "sampler": sweep.get("chosen"),
            "sweep": sweep.get("rows"), "files": [row.get("file") for row in metadata.get("samples") or []]}


def ladder_rows(rates, floors):
    """Validity of real music, the model, n-grams and random text: [{"name", "kind", and their rates}]."""
    ladder = [("real music, held out", "real", rates["real"]), ("best model", "model", rates["unprompted"]),
              ("best model, chosen sampler", "sampler", rates["chosen"])]
    ngrams = sorted(filter(is_ngram, floors), key=lambda name: -int(re.sub(r"\D", "", name) or 0))  # the longest first
    ladder += [(name, "ngram", floors[name]) for name in ngrams]
    ladder += [(name, "random" if name == "random" else "floor", floors[name])
               for name in sorted(set(floors) - set(ngrams))]
    return [ladder_row(name, kind, rate) for name, kind, rate in ladder if rate]


def describe_skills(root, runs):
    """{run: skills, music and copying of its samples, beside those of real music under the same limit of length}."""
    real, copied_by_real = read(root, "skills/real_cut"), read(root, "copying/real_cut")
    out = {}
    for row in suite_runs(runs):
        name = row["name"]
        skills, samples = read(root, f"skills/{name}"), read(root, f"drawn/{name}")
        if skills and samples:
            out[name] = {
                "family": row["family"], "size": row["size"], "params_total": row["params_total"], "n": skills["n"],
                "max_chars": samples[0]["max_chars"], "skills": skills, "real": real,
                "music": read(root, f"music/{name}"), "copied": read(root, f"copying/{name}"),
                "copied_by_real_music": copied_by_real}
    return out


def training_history(record, curve):
    """training_history.json of the best model: the last evaluation of every epoch, and every point of the curve."""
    per_epoch = record.get("steps", 0) / max(record.get("epochs") or 1, 1)
    epochs = {}
    for point in curve:
        epochs[max(1, math.ceil(point["step"] / per_epoch - 1e-9)) if per_epoch else 1] = point
    return {"unit": "nats per character",
            "epochs": [{"epoch": epoch, **point, "val_perplexity": math.exp(point["val_nats_per_char"])}
                       for epoch, point in sorted(epochs.items())],
            "best_epoch": record.get("best_epoch"), "best_val_nats_per_char": record.get("val_nats_per_char"),
            "learning_rate": record.get("learning_rate"), "optimizer": record.get("optimizer"),
            "seconds": record.get("seconds"), "curve": curve}


# ---------------------------------------------------------------- the headline

def is_ngram(name):
    """True for a model of the characters before, by its name among baselines or floors. A unigram model knows none: it
    is a floor of its own, and no mark that a model of music has to beat."""
    return name.endswith("gram") and name != "unigram"


def best_ngram(baselines, split):
    """(name, bits per character) of the best n-gram baseline of a split, or (None, None)."""
    rows = [(row["bits_per_char"], name) for name, row in (baselines.get(split) or {}).items()
            if is_ngram(name) and isinstance(row, dict) and row.get("bits_per_char") is not None]
    return min(rows)[::-1] if rows else (None, None)


def headline(parts, sentence):
    """What a reader wants first, with the failures in words. sentence: the fits' own."""
    best, samples = parts["best"], parts["samples"]
    rates, (name, ngram) = samples["unprompted"] or {}, best_ngram(parts["baselines"], "test")
    numbers = {f"{family}_{key}": (parts["fits"].get(family) or {}).get(key)
               for family in expected_families(parts["runs"]) for key in FIT_NUMBERS}
    return {
        "scaling": sentence, **numbers,
        "best_model": f"{label(best['family'])} {best['size']}, {best['epochs']:g} epochs" if best["family"] else None,
        "best_test_perplexity": best["test_perplexity"], "best_test_bits_per_char": best["test_bits_per_char"],
        "best_ngram": name, "best_ngram_test_bits_per_char": ngram,
        "abc_validity_rate": rates.get("rate"), "abc_validity_interval": rates.get("interval"),
        "abc_validity_n": rates.get("n"), "abc_validity_real_music": (samples["real_music"] or {}).get("rate"),
        "abc_validity_chosen_sampler": (samples["chosen_sampler"] or {}).get("rate"),
        "warnings": failures_in_words(parts)}


def headline_lines(content):
    """The headline block for people."""
    shown = []
    for key, value in (content.get("headline") or {}).items():
        if isinstance(value, float):
            value = f"{value:.4g}"
        elif key.endswith("_interval") and isinstance(value, list):
            value = " to ".join("unbounded" if end is None else f"{end:.4g}" for end in value)
        elif isinstance(value, list):
            value = "; ".join(map(str, value)) or "none"
        shown.append(f"{key.replace('_', ' ')}: {'not measured' if value is None else value}")
    return shown


def failures_in_words(parts):
    """Sentences on every model that is no better than the simple baseline beside it."""
    words, best, samples = [], parts["best"], parts["samples"]
    for split in ("test", "val"):
        words += _no_better_than_baselines(parts, split)
    rates = samples["unprompted"] or {}
    floor = max((row["rate"] for row in samples["ladder"] if row["kind"] == "ngram"), default=None)
    if rates.get("rate") is not None and floor is not None and rates["rate"] <= floor:
        words.append(f"FAILURE: {rates['rate']:.0%} of the samples are valid, no more than of n-gram text "
                     f"({floor:.0%})")
    if best.get("val_nats_per_char") and best.get("test_nats_per_char"):
        gap = best["test_nats_per_char"] - best["val_nats_per_char"]
        if abs(gap) > TEST_SHARE * best["val_nats_per_char"]:
            words.append(f"test and validation loss of the best model differ by {gap:+.3f} nats per character: "
                         f"the splits are small or unlike")
    return words


def _no_better_than_baselines(parts, split):
    """A sentence for each baseline of a split that some model does not beat."""
    models = [("the best model", parts["best"])] + [(row["name"], row) for row in parts["runs"]]
    losses = [(name, row.get(f"{split}_nats_per_char")) for name, row in models]
    baselines = parts["baselines"].get(split) or {}
    name, ngram = best_ngram(parts["baselines"], split)
    marks = [(f"the {name} model", ngram)] + [
        (what, (baselines.get(key) or {}).get("bits_per_char")) for key, what in
        (("unigram", "counting characters"), ("xz", "the compressor xz"), ("bz2", "the compressor bz2"))]
    words = []
    for what, mark in marks:
        worse = [f"{who} ({nats / math.log(2):.3f})" for who, nats in losses
                 if mark is not None and nats is not None and nats / math.log(2) >= mark]
        if worse:
            words.append(f"FAILURE on the {split} split: no better than {what} ({mark:.3f} bits per character): "
                         f"{', '.join(worse)}")
    return words


# ---------------------------------------------------------------- what the file promises

PROMISED = (
    "quick", "headline.scaling", "headline.best_test_perplexity", "headline.best_test_bits_per_char",
    "headline.best_ngram_test_bits_per_char", "headline.abc_validity_rate", "headline.abc_validity_interval",
    "headline.abc_validity_real_music", "headline.warnings",
    *(f"data.splits.{split}.characters" for split in ("train", "val", "test")), "data.sources", "data.conversion",
    "tokenizer.vocab_size", "tokenizer.digest", "runs",
    *(f"baselines.{split}.{name}.bits_per_char" for split in ("val", "test")
      for name in ("uniform", "unigram", "xz", "bz2")),
    "best.params_total", "best.epochs", "best.test_nats_per_char", "best.test_bits_per_char", "best.test_perplexity",
    "best.val_nats_per_char", "best.test_loss_by_position",
    "samples.unprompted.n", "samples.unprompted.rate", "samples.unprompted.interval", "samples.unprompted.by_level",
    "samples.unprompted.bar_accuracy", "samples.chosen_sampler.rate", "samples.chosen_sampler.interval",
    "samples.prompted.header.rate", "samples.prompted.bars.rate", "samples.real_music.rate", "samples.ladder",
    "samples.sampler", "samples.sweep", "samples.files",
    "music.unprompted.metrics", "music.unprompted.jsd", "music.chosen_sampler.jsd",
    "novelty.generated", "novelty.heldout_baseline", "skills", "environment.python", "environment.torch")
PROMISED_OF_FAMILY = ("headline.{}_alpha", "fits.{}.alpha", "fits.{}.alpha_interval", "fits.{}.r_squared",
                      "fits.{}.identified")
N_SAMPLES, N_RATED = 10, 100  # what a complete results file holds at least


def value_at(content, path):
    """What stands at a dotted path in nested dicts; None if the path leads nowhere.

    >>> value_at({"a": {"b": 3}}, "a.b"), value_at({"a": {"b": 3}}, "a.x.y")
    (3, None)
    """
    for part in path.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def expected_families(runs):
    """Families that results speak of, in the table's order: those that the study asks for, and those that have runs."""
    return in_order({name for name, family in FAMILIES.items() if not family.optional}
                    | {row["family"] for row in runs})


def check_results(content, planned=()):
    """The promised keys that RESULTS.json lacks, and what else is incomplete in it, as a list of sentences.

    planned: names of the runs that should be there (`planned_runs`). A family that gives no law is no gap:
    `fits.refused` says why, and the comparison has nothing to compare.
    """
    content = content if isinstance(content, dict) else {}
    runs, refused = content.get("runs") or [], value_at(content, "fits.refused") or {}
    wanted = [*PROMISED, *(path.format(family) for family in expected_families(runs) if family not in refused
                           for path in PROMISED_OF_FAMILY), *(() if refused else ("fits.comparison",))]
    missing = [f"{path} is missing" for path in wanted if value_at(content, path) is None]
    missing += [f"baselines.{split} has no n-gram" for split in ("val", "test")
                if best_ngram(content.get("baselines") or {}, split)[1] is None]
    return missing + _missing_runs(content, runs, planned) + _missing_samples(content)


def _missing_runs(content, runs, planned):
    names, skills = {row["name"] for row in runs}, content.get("skills") or {}
    absent = [name for name in dict.fromkeys([*skills, *planned]) if name not in names]
    missing = [f"runs lacks {', '.join(absent)}"] if absent else []
    missing += [f"runs has none of the family {family}" for family in expected_families(runs)
                if family not in {row["family"] for row in runs}]
    without = [row["name"] for row in suite_runs(runs) if row["name"] not in skills]
    missing += [f"skills lacks {', '.join(without)}"] if without else []
    losses = [row.get(f"{split}_nats_per_char") for row in runs for split in ("train", "val", "test")]
    if any(not isinstance(loss, (int, float)) or not math.isfinite(loss) for loss in losses):
        missing.append("runs has losses that are no numbers")
    return missing


def _missing_samples(content):
    missing = []
    if len(value_at(content, "samples.files") or ()) < N_SAMPLES:
        missing.append(f"samples.files has fewer than {N_SAMPLES} entries")
    return missing + [f"{path} is below {N_RATED}" for path in ("samples.unprompted.n", "samples.chosen_sampler.n")
                      if (value_at(content, path) or 0) < N_RATED]
