"""Writes report.html, the page of a run, and played.html, that of samples that a user asked for.

The templates beside it say how a page looks, and escape everything. Pictures enter as images, in
which a browser runs no script and loads nothing.
"""

import base64
import hashlib
from pathlib import Path
from typing import NamedTuple

from study.stages.files import read_json, write_text

import jinja2
from markupsafe import Markup

from music.validity import LEVELS
from study.figures import FIGURES
from study.fit.records import read_records
from study.report import headline
from study.report.attention import attention_view
from study.report.content import level_rows
from study.report.keys import value_at, without_ladder
from study.report.sample_views import LEVEL_WORDS, Picture, first_of, sample_view, shade_words
from study.wording import NOTHING, number, percent

HERE = Path(__file__).resolve().parent
MAX_SAMPLES = 20  # shown of what was played
DECIDING = ("grid", "repeated_bars")  # figures that stand open
CLASSICAL = ("scaling", "repeated_bars")  # those without a grid of sizes x data
PLACES = {  # section of the figures that show no law
    "sampler": "validity",
    "cost_of_control": "validity",
    "skills": "skills",
    "repeated_bars": "skills",
    "heads": "skills",
}
# kinds of text in the table of rates
RATED = ("real", "model", "sampler", "right", "ngram", "random")
NEXT = {"note": "note or sign", "event": "event"}  # kind of tokenizer -> what is predicted
MUSIC = {  # metric -> words
    "pitch_class_entropy": "pitch-class entropy, bits",
    "scale_consistency": "scale consistency",
    "in_key_share": "notes in their key",
    "groove_consistency": "groove consistency (16 positions)",
    "polyphony": "pitches sounding at once",
    "notes_per_bar": "notes per bar",
    "pitch_range": "pitch range, semitones",
    "rest_share": "rest share",
    "bar_repetition": "repeated bars",
    "leap_share": "leaps",
}
HISTOGRAMS = {"duration": "durations", "interval": "intervals", "onset": "positions in the bar"}


def write_report(root):
    """Writes report.html from what lies beside it and the best model; returns its path."""
    outputs = root / "part4_outputs"
    folder = outputs / "generated"
    rows = read_json(folder / "metadata.json")["samples"]
    samples = [sample_view(row, folder, f"sample {i}") for i, row in enumerate(rows, 1)]
    place, rule = first_of(samples, rows)
    page = page_data(root) | {
        "attention": attention_view(root),
        "first": None if place is None else samples.pop(place),
        "first_rule": rule,
        "samples": samples,
        "shades": shade_words(),
    }
    return write_page(outputs / "report.html", "page.html", page)


def page_data(root):
    """Returns what the page says of a run beside its samples: {name in the template: value}."""
    outputs, runs = root / "part4_outputs", without_ladder(read_records(root))
    results, fits = read_json(outputs / "RESULTS.json"), read_json(outputs / "fits.json")
    (_, sentence), *numbers = headline.rows(results)
    return {
        "lead": lead(results, runs),
        "sentence": sentence,
        "numbers": numbers,
        "is_quick": results["quick"],
        "compose": (outputs / "compose.html").exists(),
        "figures": figures_of(outputs / "figures", fits.get("figures") or []),
        "law": headline.law_rows(results),
        "predictions": headline.predictions(results),
        "winners": winners_table(results),
        "rates": rate_table(results),
        "runs": run_table(runs),
        "levels": level_table(results),
        "level_words": LEVEL_WORDS,
        "music": music_table(results),
        "licences": results["data"]["licences"],
        "may_share": results["data"].get("may_share") is not False,
        "environment": results["environment"],
    }


def write_played_page(root, rows):
    """Writes played.html with samples from their metadata, the newest first; returns its path."""
    folder = root / "part4_outputs/generated"
    newest = sorted(rows, key=lambda row: row["file"], reverse=True)[:MAX_SAMPLES]
    samples = []
    for row in newest:
        name = Path(row["file"]).stem.replace("play_", "played sample ").replace("_", " ")
        samples.append(sample_view(row, folder, name))
    page = {
        "samples": samples,
        "n_older": len(rows) - len(newest),
        "shades": shade_words(),
        "has_report": (folder.parent / "report.html").exists(),
    }
    return write_page(folder / "played.html", "played.html", page)


def write_page(path, template, page):
    """Writes a page and returns its path; a name that the template does not find is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    css, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    texts = {"css": Markup(css), "script": Markup(script), "script_digest": digest}
    write_text(path, environment.get_template(template).render(page, **texts).lstrip())
    return path


def lead(results, runs):
    """Returns the page's first words."""
    n = len({(row["family"], row["size"]) for row in runs})
    tunes = value_at(results, "data.splits.train.tunes")
    who = f"{n} models, small and large," if n > 1 else "A model"
    what = f"{tunes:,} tunes as text" if tunes else "tunes as text"
    unit = NEXT.get(value_at(results, "tokenizer.kind"), "character")
    remark = " Bits per character are nominal: compare nats per note." if unit == "event" else ""
    return f"{who} read {what} and learnt to predict the next {unit}.{remark}"


class Cell(NamedTuple):
    """A cell of a table: its text, a smaller line below it, the share that a bar fills."""

    text: str
    note: str = ""
    share: float | None = None


def table(caption, head, rows):
    """Returns {"caption", "head", "rows"} with those of the rows [(name, cells or texts)] that hold
    a number; None if none does."""
    kept = []
    for name, cells in rows:
        cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells]
        if any(cell.text != NOTHING for cell in cells):
            kept.append((name, cells))
    return {"caption": caption, "head": head, "rows": kept} if kept else None


def winners_table(results):
    amounts, rows = headline.winners(results) or ((), ())
    rows = [(size, [Cell(*cell) for cell in row]) for size, row in rows]
    head = ["parameters", *(f"{amount} characters" for amount in amounts)]
    return table("The family with the lowest loss, by model size and amount of text", head, rows)


def rate_table(results):
    # backwards: of several n-grams the longest stands first
    kinds = {row["kind"]: row for row in reversed(level_rows(results))}
    shares = ("bar_accuracy", "abc2midi_clean_rate", "repeated_bars", "copied_share")
    rows = []
    for row in (kinds[kind] for kind in RATED if kind in kinds):
        low, high = row["interval"]
        rate = Cell(percent(row["rate"]), f"{100 * low:.0f} to {100 * high:.0f} %")
        cells = [rate, *(percent(row.get(key)) for key in shares)]
        rows.append((row["name"], [number(row["n"]), *cells, number(row.get("draws_per_bar"))]))
    head = "n,valid,bars right,clean by abc2midi,repeated bars,copied,draws per bar".split(",")
    caption = "Valid (level 4) at the first try. Right bars: bar-level rejection sampling"
    return table(caption, ["", *head], rows)


def level_table(results):
    rows = []
    for row in level_rows(results):
        rates = [row["level_rates"].get(name) for name in LEVELS]
        rows.append((row["name"], [Cell(percent(rate), share=rate) for rate in rates]))
    names = [f"{i}\N{NO-BREAK SPACE}{name}" for i, name in enumerate(LEVELS, 1)]
    caption = "Share of texts that reach each validity level; valid means level 4"
    return table(caption, ["", *names], rows)


def run_table(runs):
    rows = []
    for row in runs:
        losses = [number(row[f"{split}_nats_per_char"], 3) for split in ("train", "val", "test")]
        flops = NOTHING if row["train_flops"] is None else f"{row['train_flops']:.2e}"
        cells = [number(row["params_total"]), *losses, flops, number(row["seconds"], 0)]
        rows.append((row["name"], cells))
    head = ["", "parameters", "train", "validation", "test", "FLOPs", "seconds"]
    caption = "Loss in nats per character at the end of training; all runs: runs.csv"
    return table(caption, head, rows)


def music_table(results):
    music, rows = results["music"], []
    keys = ("generated_mean", "real_mean", "wasserstein_in_sd", "real_vs_real_mean")
    for name, words in MUSIC.items():
        metric = music["metrics"].get(name, {})
        rows.append((words, [number(metric.get(key), 2) for key in keys]))
    for name, words in HISTOGRAMS.items():
        distance = music["jsd"].get(name, {})
        both = [number(distance.get(key), 3) for key in ("generated", "real_vs_real_mean")]
        rows.append((f"histogram of {words}", [NOTHING, NOTHING, *both]))
    head = ["", "best model", "real music", "distance", "real to real"]
    caption = (
        f"Music of {number(music['n'])} unprompted samples. Distance: Wasserstein-1 in standard"
        " deviations of real music, for histograms Jensen-Shannon in bits"
    )
    return table(caption, head, rows)


def figures_of(folder, law_captions):
    """Returns {section: [Picture]}; the "deciding" ones stand open. law_captions: [{"name",
    "caption"}] as stage 06 filled them."""
    captions = FIGURES | {row["name"]: row["caption"] for row in law_captions}
    deciding = DECIDING if (folder / "grid.svg").exists() else CLASSICAL
    shown = {section: [] for section in ("deciding", "laws", "validity", "skills")}
    for name in FIGURES:
        path = folder / f"{name}.svg"
        if path.exists():
            section = "deciding" if name in deciding else PLACES.get(name, "laws")
            svg = path.read_text(encoding="utf-8")
            shown[section].append(Picture(svg, captions[name], name))
    return shown
