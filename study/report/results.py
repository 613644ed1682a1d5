"""RESULTS.json: everything that a run found, as a function of the manifests, run records, fits and
kept measurements.

    content = results(root)            # what was not measured is None
    missing = check_results(content)   # sentences on what it promises and lacks
    files = tables(root)               # the long tables, as CSV beside it

Nothing is computed here that could be computed where it is measured: rows are put side by side, the
strongest baseline is picked, and marks that were not passed are listed. Numbers have six
significant digits; None says "not measured", an end of an interval that has no bound is the word
"unbounded". Loads no torch.
"""

import math
import re
from pathlib import Path

from study.stages.stage import BEST, CHOICE, STAGES, load_manifest, plain, read_json

from music.validity import Z, is_above, ladder_row, share
from study.evaluate import new_bars
from study.evaluate.measurements import read
from study.families import FAMILIES, in_order, label
from study.fit.records import csv_text, read_records
from study.wording import TOKENIZER_KINDS

RUN_COLUMNS = (
    "name",
    "family",
    "size",
    "seed",
    "suite",
    "recipe",
    "data_fraction",
    "params_total",
    "params_non_embedding",
    "train_chars",
    "epochs",
    "train_flops",
    "train_flops_6nd",
    "steps",
    "tokens_per_step",
    "seconds",
    "tokens_per_second",
    "peak_memory_bytes",
    "device",
    "learning_rate",
    "optimizer",
    "train_nats_per_char",
    "val_nats_per_char",
    "val_bits_per_char",
    "test_nats_per_char",
    "test_nats_per_char_long_context",
)
NAMED = 3  # models in a sentence
DIGITS = 6  # of every number: more than any of them is known to
TABLES = {  # file beside RESULTS.json -> its columns
    "music.csv": (
        "set",
        "figure",
        "generated_mean",
        "generated_sd",
        "real_mean",
        "real_sd",
        "wasserstein_in_sd",
        "real_vs_real_mean",
        "real_vs_real_p95",
    ),
    "differences.csv": ("model", "less", "nats_per_char", "se", "low", "high"),
    "loss_by_position.csv": ("name", "position", "val_nats_per_char"),
    "repeats.csv": new_bars.COLUMNS,
}
FIT_NUMBERS = ("alpha", "alpha_interval", "verdict", "identified", "r_squared")
UPPER_BOUND = (
    "losses are upper bounds: a text can be written in several ways with these tokens, and one is"
    " counted"
)
# of the validation loss: a test loss farther away says that the splits are small or unlike
TEST_SHARE = 0.25


def results(root):
    """The content of RESULTS.json from what stands below root; what was not measured is None."""
    root = Path(root)
    manifests = {name: load_manifest(root, name) or {} for name in STAGES}
    metadata = read_json(root / "part4_outputs/generated/metadata.json") or {}
    fits, runs = read_json(root / "part4_outputs/fits.json") or {}, run_rows(root)
    parts = {
        "data": describe_data(root, manifests),
        "tokenizer": describe_tokenizer(root),
        "runs": runs,
        "fits": describe_fits(fits),
        "baselines": read_json(root / "data/baselines.json") or {},
        "best": describe_best(root),
        "samples": describe_samples(root, metadata),
        "music": describe_music(root),
        "novelty": _measured(
            root,
            {
                "generated": "copying/unprompted",
                "chosen_sampler": "copying/chosen",
                "right_bars": "copying/right",
                "heldout_baseline": "copying/real",
                "diversity": "diversity/unprompted",
                "diversity_of_real_music": "diversity/real",
            },
        ),
        "skills": describe_skills(root, runs) or None,
        "looking_back": describe_looking_back(root),
        "finetuned": describe_finetuned(root),
        "environment": metadata.get("environment"),
    }
    quick = manifests["03_tokenize_split"].get("config", {}).get("quick")
    head = {**headline(parts, fits.get("headline")), "bars_heard_before": describe_repetition(root)}
    return plain({"quick": quick, "headline": head, **parts}, DIGITS)


def _measured(root, names):
    """{key: measurement of this name}; None if none of them was made."""
    values = {key: read(root, name) for key, name in names.items()}
    return None if all(value is None for value in values.values()) else values


# ---------------------------------------------------------------- the parts


def run_rows(root):
    """One flat row per run that the manifests of the training stages list, family by family, the
    smallest first."""
    notes = notes_of_splits(root)
    rows = [
        {**{column: record.get(column) for column in RUN_COLUMNS}, **per_note(record, notes)}
        for record in read_records(root)
    ]
    families = in_order({row["family"] for row in rows})
    return sorted(
        rows,
        key=lambda row: (
            families.index(row["family"]),
            row["params_total"],
            row["seed"],
            row["name"],
        ),
    )


def notes_of_splits(root):
    """{split: notes as written}, None where stage 03 counted none: text that is no ABC, or a root
    of an older day."""
    stats = read_json(root / "data/stats.json") or {}
    return {split: value_at(stats, f"splits.{split}.notes") for split in ("val", "test")}


def per_note(record, notes):
    """The losses of a record per note of music, {"val_nats_per_note", "test_nats_per_note"}: a unit
    that does not depend on how music is spelt. Headers, bar lines and the ends of tunes are paid
    for by the notes.

    >>> per_note({"val_nats_per_char": 0.5, "val_chars": 40}, {"val": 10, "test": None})
    {'val_nats_per_note': 2.0, 'test_nats_per_note': None}
    """
    losses = {
        split: (record.get(f"{split}_nats_per_char"), record.get(f"{split}_chars"))
        for split in notes
    }
    return {
        f"{split}_nats_per_note": (
            nats * n_chars / notes[split] if nats and n_chars and notes[split] else None
        )
        for split, (nats, n_chars) in losses.items()
    }


def suite_runs(rows):
    """The rows of the study's own models, one a family and size: not those of other seeds, recipes,
    shares of the data or of the ladder."""
    return [
        row
        for row in rows
        if row["name"] == f"{row['family']}_{row['size']}" and row["suite"] == "classical"
    ]


def without_ladder(rows):
    """The rows of models that are looked at one by one: those of the ladder are there for the law
    alone."""
    return [row for row in rows if row.get("suite") != "ladder"]


def planned_runs(root):
    """Names of the runs that the training stages' tables and command lines ask for, trained or
    not."""
    names = []
    for family in FAMILIES.values():
        manifest = load_manifest(root, family.stage) or {}
        sizes = manifest.get("config", {}).get("sizes") or {}
        names += [*(f"{family.name}_{size}" for size in sizes), *(manifest.get("missing") or [])]
    return list(dict.fromkeys(names))


def describe_data(root, manifests):
    """Where the text came from, what became of it, and the statistics of stage 03."""
    download, conversion = manifests["01_download"], manifests["02_midi_to_abc"]
    return {
        "sources": download.get("config") or {},
        "downloaded": download.get("counts") or {},
        "conversion": {
            "counts": conversion.get("counts") or {},
            "failed": conversion.get("skipped") or {},
        },
        **(read_json(root / "data/stats.json") or {}),
    }


def describe_tokenizer(root):
    """The vocabulary of a root, None if it cannot be read."""
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
        "remark": None if tokenizer.kind == "char" else UPPER_BOUND,
    }


def describe_fits(fits):
    """The content of fits.json, a family at the top; a family that was not fitted says why. Losses
    by position stand in a table of their own; the sizes whose curves do not collapse are among the
    warnings."""
    refused = {
        family: {
            "alpha": None,
            "alpha_interval": None,
            "r_squared": None,
            "identified": False,
            "reason": reason,
        }
        for family, reason in (fits.get("refused") or {}).items()
    }
    others = {
        key: value
        for key, value in fits.items()
        if key not in ("families", "loss_by_position", "collapse")
    }
    return with_unbounded({**refused, **(fits.get("families") or {}), **others})


def with_unbounded(value, is_interval=False):
    """The same with "unbounded" for a missing end of an interval.

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


def describe_best(root):
    """The best model's row: why it was chosen and what became of that, and its loss on the test
    split by the one evaluation function, with intervals over tunes and differences from the suite's
    models."""
    record, test = read_json(root / f"checkpoints/{BEST}.json") or {}, read(root, "test") or {}
    tunes = read(root, "tunes") or {}
    low_high = ((tunes.get("losses") or {}).get(BEST) or {}).get("interval")
    return {
        **{column: record.get(column) for column in RUN_COLUMNS},
        **per_note(record, notes_of_splits(root)),
        "best_epoch": record.get("best_epoch"),
        "choice": describe_choice(root, record),
        "checkpoint": f"checkpoints/{BEST}.pt",
        "checkpoint_sha256": record.get("checkpoint_sha256"),
        **{
            f"test_{key}": test.get(key)
            for key in ("nats_per_char", "bits_per_char", "perplexity", "loss_by_position")
        },
        "test_nats_per_char_interval": low_high,
        "test_bits_per_char_interval": low_high and [nats / math.log(2) for nats in low_high],
        "test_perplexity_interval": low_high and [math.exp(nats) for nats in low_high],
        "test_tunes": tunes.get("n_tunes"),
        "test_chars": test.get("n_chars"),
        "differences": (
            [
                {
                    "model": row["model"],
                    **{key: row[key] for key in ("nats_per_char", "se", "interval")},
                }
                for row in tunes.get("differences") or []
                if row["less"] == BEST
            ]
            or None
        ),
    }


def describe_choice(root, record):
    """The choice of the best model with what was expected and what came of it; None if it was not
    chosen here."""
    choice = read_json(root / CHOICE)
    chosen = (choice or {}).get("chosen")
    if not chosen or (chosen["size"], chosen["epochs"]) != (
        record.get("size"),
        record.get("epochs_planned"),
    ):
        return None
    spent = (record.get("seconds") or 0) + (record.get("evaluation_seconds") or 0)
    return {
        **{key: choice[key] for key in ("rule", "minutes") if key in choice},
        "chosen": chosen,
        "expected": {
            "minutes": chosen["minutes"],
            "val_nats_per_char": chosen["val_nats_per_char"],
        },
        "outcome": {"minutes": spent / 60, "val_nats_per_char": record.get("val_nats_per_char")},
        "rivals": [row for row in choice["rivals"] if row != chosen],
        "law": choice["law"],
    }


def describe_samples(root, metadata):
    """Rates of validity of every set of samples, between real music and what any judge has to
    refuse."""
    rates = {
        name: read(root, f"rates/{name}")
        for name in ("unprompted", "chosen", "right", "header", "bars", "real")
    }
    floors, sweep = read(root, "floors") or {}, read(root, "sweep") or {}
    copied = {
        name: (read(root, f"copying/{name}") or {}).get("copied_share")
        for name in ("unprompted", "chosen", "right", "real")
    }
    return {
        "definition": (
            "valid = level 4: header, tokens, content, and every bar exactly its meter; of all "
            "samples at the first try, judged on the generated part"
        ),
        "unprompted": rates["unprompted"],
        "chosen_sampler": rates["chosen"],
        "right_bars": rates["right"] and {**rates["right"], **describe_right_bars(root)},
        "prompted": {"header": rates["header"], "bars": rates["bars"]},
        "real_music": rates["real"],
        "prompts_left_out": (metadata.get("sampler") or {}).get("prompts_left_out"),
        "floors": (
            {
                name: {
                    key: floors[name][key]
                    for key in (
                        "n",
                        "bar_accuracy",
                        "bar_accuracy_interval",
                        "n_sounding_bars",
                        "copied_share",
                    )
                }
                for name in ngrams_of(floors)
            }
            or None
        ),
        "ladder": ladder_rows(rates, floors, copied),
        "sampler": sweep.get("chosen"),
        "sweep": sweep.get("rows"),
        "files": [row.get("file") for row in metadata.get("samples") or []],
    }


def describe_right_bars(root):
    """What it took to draw right bars, and what became of the text; beside the bits of free text.
    None of it says what
    the model can do alone: `unprompted` does."""
    samples, free = read(root, "drawn/right"), read(root, "drawn/unprompted")

    def bits_per_char(samples):
        known = [
            (sample["bits_per_char"], sample["new_chars"])
            for sample in samples
            if sample["new_chars"]
        ]
        return sum(bits * n for bits, n in known) / sum(n for _, n in known) if known else None

    return {
        "definition": (
            "sampler and model together: a bar that its meter does not allow is drawn again from"
            " the model's state before it; after 64 times more than the bar; temperature 1"
        ),
        "draws_per_bar": draws_per_bar(samples),
        "log2_right_per_bar": (read(root, "control/right") or {}).get("log2"),
        "stuck_share": sum(sample["stop_reason"] == "stuck" for sample in samples) / len(samples),
        "bits_per_char": bits_per_char(samples),
        "bits_per_char_free": bits_per_char(free),
    }


def draws_per_bar(samples):
    """Draws for each bar in the texts of samples with right bars, header and end counted as bars;
    None without any."""
    n_kept = sum(sample["n_kept"] for sample in samples)
    return sum(sum(sample["draws"]) for sample in samples) / n_kept if n_kept else None


def ngrams_of(floors):
    """Names of the n-grams among the floors, the longest first."""
    return sorted(filter(is_ngram, floors), key=lambda name: -int(re.sub(r"\D", "", name) or 0))


def ladder_rows(rates, floors, copied):
    """Validity of real music, the model, n-grams and random text: [{"name", "kind", and their
    rates}]."""
    sets = [
        ("real music, held out", "real", "real"),
        ("best model", "model", "unprompted"),
        ("best model, chosen sampler", "sampler", "chosen"),
        ("best model, wrong bars redrawn", "right", "right"),
    ]
    ladder = [
        (name, kind, rates[key] and {**rates[key], "copied_share": copied[key]})
        for name, kind, key in sets
    ]
    ngrams = ngrams_of(floors)
    ladder += [(name, "ngram", floors[name]) for name in ngrams]
    ladder += [
        (name, "random" if name == "random" else "floor", floors[name])
        for name in sorted(set(floors) - set(ngrams))
    ]
    return [ladder_row(name, kind, rate) for name, kind, rate in ladder if rate]


def describe_music(root):
    """Figures of the free samples beside real music; of the other ways to draw what is not real
    music's."""
    free = read(root, "music/unprompted")
    if not free:
        return None

    def without_real(music):
        return music and {
            "n": music["n"],
            "n_compared": music["n_compared"],
            **{
                table: {
                    name: {key: value for key, value in row.items() if not key.startswith("real_")}
                    for name, row in music[table].items()
                }
                for table in ("metrics", "jsd")
            },
        }

    return {
        "unprompted": free,
        "chosen_sampler": without_real(read(root, "music/chosen")),
        "right_bars": without_real(read(root, "music/right")),
    }


def describe_skills(root, runs):
    """Skills of the suite's models from small sets of free samples, between those of real music and
    of n-grams under the same limit of length; None without any.
    """
    real, copied_by_real = read(root, "skills/real_cut"), read(root, "copying/real_cut") or {}
    models, max_chars = {}, None
    for row in suite_runs(runs):
        name = row["name"]
        skills, copied = read(root, f"skills/{name}"), read(root, f"copying/{name}") or {}
        if skills:
            max_chars = max_chars or (read(root, f"drawn/{name}") or [{}])[0].get("max_chars")
            models[name] = {
                **{
                    key: row[key] for key in ("family", "size", "params_total", "val_nats_per_char")
                },
                **skills,
                "control": read(root, f"control/{name}"),
                "repeats": read(root, f"repeats/{name}"),
                "copied_share": copied.get("copied_share"),
            }
    if not models:
        return None
    best = read_json(root / f"checkpoints/{BEST}.json") or {}
    return {
        "n": next(iter(models.values()))["n"],
        "max_chars": max_chars,
        "models": models,
        "best_model": {
            **{key: best.get(key) for key in ("family", "size", "params_total", "epochs")},
            "repeats": read(root, f"repeats/{BEST}"),
        },
        "floors": read(root, "skills/floors"),
        "real_music": (
            real
            and {
                **real,
                "control": read(root, "control/real_cut"),
                "copied_share": copied_by_real.get("copied_share"),
            }
        ),
    }


def describe_looking_back(root):
    """The joint laws of the loss on bars that were not heard before, beside those of all
    characters, and the most that a model of each family saves on a bar heard before; None if it was
    not measured."""
    rows = new_bars.rows_of(root)
    most = {
        family: max((row for row in rows if row["family"] == family), key=lambda row: row["saved"])
        for family in dict.fromkeys(row["family"] for row in rows)
    }
    return (
        {
            "definition": (
                "new bars: all but the second occurrence of a bar of a voice; saved: bits per"
                " character of a bar at its first occurrence less those at its second; the ladder's"
                " models, validation split"
            ),
            "n_models": len(rows),
            "most_saved": most,
            "laws": read(root, "new_bars") or None,
        }
        if rows
        else None
    )


def describe_repetition(root):
    """Bars heard before, of each way to draw beside real music's: means over tunes, exact and up to
    transposition, and how far the exact one lies above real music's, with a 95 % interval; None if
    it was not measured."""
    rows = {}
    for way, name in (
        ("unprompted", "unprompted"),
        ("chosen_sampler", "chosen"),
        ("right_bars", "right"),
    ):
        music = read(root, f"music/{name}") or {}
        exact, transposed = (
            value_at(music, f"metrics.bar_repetition{end}") for end in ("", "_transposed")
        )
        if (
            not (exact and transposed)
            or exact["generated_mean"] is None
            or exact["real_mean"] is None
        ):
            return None
        above = exact["generated_mean"] - exact["real_mean"]
        half = Z * math.hypot(
            (exact["generated_sd"] or 0) / music["n"] ** 0.5,
            (exact["real_sd"] or 0) / music["n_real"] ** 0.5,
        )
        rows[way] = {
            "exact": exact["generated_mean"],
            "transposed": transposed["generated_mean"],
            "above_real": above,
            "above_real_interval": [above - half, above + half],
        }
        rows["real_music"] = {"exact": exact["real_mean"], "transposed": transposed["real_mean"]}
    return rows


def describe_finetuned(root):
    """{name: what stage 08 reports} of the models that were fine-tuned in a root; None without
    any."""
    reports = {
        path.parent.name: read_json(path)
        for path in sorted((root / "finetuned").glob("*/report.json"))
    }
    return {name: report for name, report in reports.items() if isinstance(report, dict)} or None


def tables(root):
    """The long tables beside RESULTS.json, {file name: CSV}: music.csv, a row for each set of
    samples and figure; differences.csv, the paired differences of all models on the test split;
    loss_by_position.csv; repeats.csv, what the ladder's models save on bars that come back."""
    names = ["unprompted", "chosen", *(row["name"] for row in suite_runs(run_rows(root)))]
    music = [
        {"set": name, "figure": figure, **row}
        for name in names
        for figure, row in ((read(root, f"music/{name}") or {}).get("metrics") or {}).items()
    ]
    differences = [
        {**row, "low": row["interval"][0], "high": row["interval"][1]}
        for row in (read(root, "tunes") or {}).get("differences") or []
    ]
    positions = [
        {"name": record["name"], "position": i, "val_nats_per_char": loss}
        for record in read_records(root)
        for i, loss in enumerate(record.get("val_loss_by_position") or [])
    ]
    return {
        name: csv_text(plain(rows, DIGITS), TABLES[name])
        for name, rows in zip(TABLES, (music, differences, positions, new_bars.rows_of(root)))
        if rows
    }


def training_history(record, curve):
    """training_history.json of the best model: the last evaluation of every epoch, and every point
    of the curve."""
    per_epoch = record.get("steps", 0) / max(record.get("epochs") or 1, 1)
    epochs = {}
    for point in curve:
        epochs[max(1, math.ceil(point["step"] / per_epoch - 1e-9)) if per_epoch else 1] = point
    return {
        "unit": "nats per character",
        "epochs": [
            {"epoch": epoch, **point, "val_perplexity": math.exp(point["val_nats_per_char"])}
            for epoch, point in sorted(epochs.items())
        ],
        "best_epoch": record.get("best_epoch"),
        "best_val_nats_per_char": record.get("val_nats_per_char"),
        "learning_rate": record.get("learning_rate"),
        "optimizer": record.get("optimizer"),
        "seconds": record.get("seconds"),
        "curve": curve,
    }


# ---------------------------------------------------------------- the headline


def is_ngram(name):
    """True for a model of the characters before, by its name among baselines or floors. A unigram
    model knows none: it is a floor of its own, and no mark that a model of music has to beat."""
    return name.endswith("gram") and name != "unigram"


def strongest_baseline(baselines, split):
    """(name, bits per character) of the baseline of a split that needs fewest, or (None, None)."""
    rows = [
        (row["bits_per_char"], row.get("label") or name)
        for name, row in (baselines.get(split) or {}).items()
        if isinstance(row, dict) and row.get("bits_per_char") is not None
    ]
    return min(rows)[::-1] if rows else (None, None)


def headline(parts, sentence):
    """What a reader wants first, with the marks that were not passed. sentence: the fits' own."""
    best, samples = parts["best"], parts["samples"]
    rates, (name, bits) = samples["unprompted"] or {}, strongest_baseline(
        parts["baselines"], "test"
    )
    numbers = {
        f"{family}_{key}": (parts["fits"].get(family) or {}).get(key)
        for family in expected_families(parts["runs"])
        for key in FIT_NUMBERS
    }
    warnings = marks_not_passed(parts)
    return {
        "scaling": sentence,
        **numbers,
        "best_model": (
            f"{label(best['family'])} {best['size']}, {best['epochs']:g}"
            f" epoch{'s' * (best['epochs'] != 1)}"
            if best["family"]
            else None
        ),
        **{
            f"best_{key}": best[key]
            for key in (
                "test_perplexity",
                "test_perplexity_interval",
                "test_bits_per_char",
                "test_bits_per_char_interval",
            )
        },
        "strongest_baseline": None if name is None else {"name": name, "test_bits_per_char": bits},
        "abc_validity_rate": rates.get("rate"),
        "abc_validity_interval": rates.get("interval"),
        "abc_validity_n": rates.get("n"),
        "abc2midi_clean_rate": rates.get("abc2midi_clean_rate"),
        "abc_validity_real_music": (samples["real_music"] or {}).get("rate"),
        "abc_validity_chosen_sampler": (samples["chosen_sampler"] or {}).get("rate"),
        "warnings": warnings,
        "warnings_sentence": warnings_sentence(warnings),
    }


def headline_lines(content):
    """The headline block for people: a line for each family and six more."""
    head, shown = content.get("headline") or {}, []
    of_alpha = "alpha at one amount of text" if value_at(content, "fits.joint") else "alpha"

    def number(value):
        return "not measured" if value is None else f"{value:.4g}"

    def interval(pair):
        return (
            ""
            if not pair
            else " (95 %: "
            + " to ".join(end if isinstance(end, str) else f"{end:.4g}" for end in pair)
            + ")"
        )

    shown.append(f"scaling: {head.get('scaling') or 'not measured'}")
    for family in in_order({key.removesuffix("_alpha") for key in head if key.endswith("_alpha")}):
        verdict, alpha = head.get(f"{family}_verdict"), head[f"{family}_alpha"]
        shown.append(
            f"{family} {of_alpha}: {'no value' if alpha is None and verdict else number(alpha)}"
            f"{interval(head.get(f'{family}_alpha_interval'))}"
            + (f", {verdict}" if verdict else "")
        )
    shown.append(f"best model: {head.get('best_model') or 'not measured'}")
    mark = head.get("strongest_baseline")
    beside = (
        ""
        if not mark
        else f"; strongest baseline, {mark['name']}: {mark['test_bits_per_char']:.4g}"
    )
    shown.append(
        f"bits per character of the test split: {number(head.get('best_test_bits_per_char'))}"
        f"{interval(head.get('best_test_bits_per_char_interval'))}{beside}; perplexity "
        f"{number(head.get('best_test_perplexity'))}"
    )
    shown.append(
        "valid at the first try:"
        f" {number(head.get('abc_validity_rate'))}{interval(head.get('abc_validity_interval'))}, n"
        f" = {head.get('abc_validity_n')}; chosen sampler"
        f" {number(head.get('abc_validity_chosen_sampler'))}, real music"
        f" {number(head.get('abc_validity_real_music'))}; abc2midi finds"
        f" {number(head.get('abc2midi_clean_rate'))} clean"
    )
    heard = {way: row["exact"] for way, row in (head.get("bars_heard_before") or {}).items()}
    if heard:
        shown.append(
            f"bars heard before: {number(heard['unprompted'])}; chosen sampler"
            f" {number(heard['chosen_sampler'])}, right bars {number(heard['right_bars'])}, real"
            f" music {number(heard['real_music'])}"
        )
    return shown + [f"marks not passed: {head.get('warnings_sentence') or 'none'}"]


def marks_not_passed(parts):
    """Rows {"model", "split", "mark", "measure", "model_value", "mark_value"}: every model that is
    no better than the strongest baseline of its split (with the characters that either was given
    for training), samples that are no better than an n-gram's, splits that are unlike."""
    best, samples = parts["best"], parts["samples"]
    rows = [row for split in ("test", "val") for row in _behind_the_baseline(parts, split)]
    rows += _behind_the_floors(samples["unprompted"], samples["ladder"])
    if best.get("val_nats_per_char") and best.get("test_nats_per_char"):
        if (
            abs(best["test_nats_per_char"] - best["val_nats_per_char"])
            > TEST_SHARE * best["val_nats_per_char"]
        ):
            rows.append(
                {
                    "model": "best model",
                    "split": "test",
                    "mark": "its validation loss: the splits are unlike",
                    "measure": "nats per character",
                    "model_value": best["test_nats_per_char"],
                    "mark_value": best["val_nats_per_char"],
                }
            )
    return rows


def _behind_the_baseline(parts, split):
    name, mark = strongest_baseline(parts["baselines"], split)
    models = [("best model", parts["best"])] + [
        (row["name"], row) for row in without_ladder(parts["runs"])
    ]
    losses = [
        (model, row.get(f"{split}_nats_per_char"), row.get("train_chars")) for model, row in models
    ]
    return [
        {
            "model": model,
            "split": split,
            "mark": name,
            "measure": "bits per character",
            "model_value": nats / math.log(2),
            "mark_value": mark,
            "model_train_chars": chars,
            "mark_train_chars": value_at(parts, "data.splits.train.characters"),
        }
        for model, nats, chars in losses
        if mark is not None and nats is not None and nats / math.log(2) >= mark
    ]


def _behind_the_floors(rates, ladder):
    """The free samples beside the best n-gram by each of two measures. A rate counts as above only
    if chance does not explain it (`is_above`; for bars the intervals, which take the samples as
    what was drawn, must not overlap)."""
    ngrams, rows = [row for row in ladder if row["kind"] == "ngram"], []
    if not rates or not rates.get("n") or not ngrams:
        return rows
    valid, bars = (max(ngrams, key=lambda row: row[key] or 0) for key in ("rate", "bar_accuracy"))
    ours, theirs = (share(round(row["rate"] * row["n"]), row["n"]) for row in (rates, valid))
    if not is_above(ours, theirs):
        rows.append(("valid at the first try", "rate", valid))
    low, high = rates.get("bar_accuracy_interval"), bars.get("bar_accuracy_interval")
    if low and high and low[0] <= high[1]:
        rows.append(("bars of the right length", "bar_accuracy", bars))
    return [
        {
            "model": "best model",
            "split": "samples",
            "mark": f"{row['name']} text",
            "measure": measure,
            "model_value": rates[key],
            "mark_value": row[key],
        }
        for measure, key, row in rows
    ]


def warnings_sentence(rows):
    """The marks that were not passed, in a sentence; "" if all were. More than NAMED models are
    counted, not named.

    >>> warnings_sentence([{"model": "lstm_tiny", "split": "val", "mark": "PPMd"}])
    'no better than PPMd on the val split: lstm_tiny'
    """
    groups = {}
    for row in rows:
        groups.setdefault((row["mark"], row["split"]), {}).setdefault(row["model"])
    return "; ".join(
        f"no better than {mark} "
        + ("in samples" if split == "samples" else f"on the {split} split")
        + f": {', '.join(models) if len(models) <= NAMED else f'{len(models)} models'}"
        for (mark, split), models in groups.items()
    )


# ---------------------------------------------------------------- what the file promises

PROMISED = (
    "quick",
    "headline.scaling",
    "headline.best_test_perplexity",
    "headline.best_test_bits_per_char",
    "headline.best_test_bits_per_char_interval",
    "headline.strongest_baseline.test_bits_per_char",
    "headline.abc_validity_rate",
    "headline.abc_validity_interval",
    "headline.abc_validity_real_music",
    "headline.warnings",
    *(f"data.splits.{split}.characters" for split in ("train", "val", "test")),
    "data.sources",
    "data.conversion",
    "tokenizer.vocab_size",
    "tokenizer.digest",
    "runs",
    *(
        f"baselines.{split}.{name}.bits_per_char"
        for split in ("val", "test")
        for name in ("uniform", "unigram", "xz")
    ),
    "best.params_total",
    "best.epochs",
    "best.test_nats_per_char",
    "best.test_bits_per_char",
    "best.test_perplexity",
    "best.val_nats_per_char",
    "best.test_loss_by_position",
    "best.test_nats_per_char_interval",
    "best.test_nats_per_char_long_context",
    "best.choice.chosen",
    "best.choice.outcome",
    "samples.unprompted.n",
    "samples.unprompted.rate",
    "samples.unprompted.interval",
    "samples.unprompted.level_rates",
    "samples.unprompted.bar_accuracy",
    "samples.chosen_sampler.rate",
    "samples.chosen_sampler.interval",
    "samples.prompted.header.rate",
    "samples.prompted.bars.rate",
    "samples.real_music.rate",
    "samples.ladder",
    "samples.sampler",
    "samples.sweep",
    "samples.files",
    "music.unprompted.metrics",
    "music.unprompted.jsd",
    "music.chosen_sampler.jsd",
    "novelty.generated",
    "novelty.heldout_baseline",
    "skills.models",
    "environment.python",
    "environment.torch",
)
PROMISED_OF_FAMILY = (  # alpha itself is None where the best fit lies on the bound of the search
    "headline.{}_verdict",
    "fits.{}.verdict",
    "fits.{}.alpha_interval",
    "fits.{}.r_squared",
    "fits.{}.identified",
)
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
    """Families that results speak of, in the table's order: those that the study asks for, and
    those that have runs."""
    return in_order(
        {name for name, family in FAMILIES.items() if not family.optional}
        | {row["family"] for row in runs}
    )


def check_results(content, planned=()):
    """The promised keys that RESULTS.json lacks, and what else is incomplete in it, as a list of
    sentences.

    planned: names of the runs that should be there (`planned_runs`). A family that gives no law is
    no gap: `fits.refused` says why, and the comparison has nothing to compare.
    """
    content = content if isinstance(content, dict) else {}
    runs, refused = content.get("runs") or [], value_at(content, "fits.refused") or {}
    wanted = [
        *PROMISED,
        *(
            path.format(family)
            for family in expected_families(runs)
            if family not in refused
            for path in PROMISED_OF_FAMILY
        ),
        *(() if refused else ("fits.comparison",)),
    ]
    missing = [f"{path} is missing" for path in wanted if value_at(content, path) is None]
    missing += [
        f"baselines.{split} has no n-gram"
        for split in ("val", "test")
        if not any(map(is_ngram, value_at(content, f"baselines.{split}") or {}))
    ]
    return missing + _missing_runs(content, runs, planned) + _missing_samples(content)


def _missing_runs(content, runs, planned):
    names, skills = {row["name"] for row in runs}, value_at(content, "skills.models") or {}
    absent = [name for name in dict.fromkeys([*skills, *planned]) if name not in names]
    missing = [f"runs lacks {', '.join(absent)}"] if absent else []
    missing += [
        f"runs has none of the family {family}"
        for family in expected_families(runs)
        if family not in {row["family"] for row in runs}
    ]
    without = [row["name"] for row in suite_runs(runs) if row["name"] not in skills]
    missing += [f"skills lacks {', '.join(without)}"] if without else []
    losses = [
        row.get(f"{split}_nats_per_char") for row in runs for split in ("train", "val", "test")
    ]
    if any(not isinstance(loss, (int, float)) or not math.isfinite(loss) for loss in losses):
        missing.append("runs has losses that are no numbers")
    return missing


def _missing_samples(content):
    missing = []
    if len(value_at(content, "samples.files") or ()) < N_SAMPLES:
        missing.append(f"samples.files has fewer than {N_SAMPLES} entries")
    return missing + [
        f"{path} is below {N_RATED}"
        for path in ("samples.unprompted.n", "samples.chosen_sampler.n")
        if (value_at(content, path) or 0) < N_RATED
    ]
