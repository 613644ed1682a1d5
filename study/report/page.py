"""Writes part4_outputs/report.html: one page, without network, that shows, plays and judges what a
run made; and generated/played.html, the same for samples that a user asked for.

This file collects what the pages show; `page.html`, `played.html` and `parts.html` say how it
looks, with `page.css` and `page.js` put into them. The templates escape everything that they are
given. Pictures enter as compressed SVG, shown as images, in which a browser runs no script and
loads nothing. What is missing in a run is left out.
"""

import base64
import hashlib
import sys
from pathlib import Path
from typing import NamedTuple

from study.stages.code_key import HERE as PROJECT
from study.stages.files import read_json, write_text

import jinja2
from markupsafe import Markup

from music.validity import LEVELS
from study.figures import FIGURES
from study.report import headline
from study.report.attention import attention_view
from study.report.content import level_rows
from study.report.required import value_at, without_ladder
from study.report.sample_views import (
    LEVEL_WORDS,
    Picture,
    first_of,
    pictures_of,
    sample_view,
    shade_words,
)
from study.report.tables import read_tables
from study.wording import NOTHING, number, percent

HERE = Path(__file__).resolve().parent
PAGE_BYTES = 3_000_000  # the page stays below: mail and forges refuse more
CAPTION_BYTES = 400  # what stands around a picture
MAX_SAMPLES = 20  # shown on a page
DECIDING = ("grid", "repeated_bars")  # figures that stand open; without a grid of sizes x data ...
CLASSICAL = ("scaling", "repeated_bars")  # ... these
PLACES = {  # section of the figures that are none of a law
    "sampler": "validity",
    "cost_of_control": "validity",
    "skills": "skills",
    "repeated_bars": "skills",
    "heads": "skills",
}
# kinds of text in the table of rates
RATED = ("real", "model", "sampler", "right", "ngram", "random")
NEXT = {"note": "note or sign", "event": "event"}  # kind of tokenizer -> what is next
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
HISTOGRAMS = {
    "duration": "durations",
    "interval": "intervals",
    "onset": "positions in the bar",
}


# ---------------------------------------------------------------- the pages


def write_report(root):
    """Writes part4_outputs/report.html from what lies beside it and the best model, and returns its
    path; the same input gives the same bytes."""
    outputs = Path(root) / "part4_outputs"
    metadata = read_json(outputs / "generated/metadata.json") or {}
    rows = (metadata.get("samples") or [])[:MAX_SAMPLES]
    samples = [
        sample_view(row, outputs / "generated", f"sample {i}") for i, row in enumerate(rows, 1)
    ]
    first, rule = first_of(samples, rows)
    page = page_data(outputs) | {
        "attention": attention_view(Path(root)),
        "samples": [sample for i, sample in enumerate(samples) if i != first],
        "first": None if first is None else samples[first],
        "first_rule": rule,
        "shades": shade_words(),
    }
    in_order = samples if first is None else [samples[first], *samples]
    figures = [figure for group in page["figures"].values() for figure in group]
    _fit_and_write(outputs / "report.html", "page.html", page, figures + pictures_of(in_order))
    return outputs / "report.html"


def page_data(outputs):
    """Returns what the page says of a run, {name in the template: value}, but for its samples."""
    results, tables = read_json(outputs / "RESULTS.json") or {}, read_tables(outputs)
    runs = tables.get("runs.csv") or []
    fits = read_json(outputs / "fits.json") or {}
    (_, sentence), *numbers = headline.rows(results) if results else [("answer", "")]
    return {
        "lead": lead(results, runs),
        "sentence": sentence,
        "numbers": numbers,
        "is_quick": bool(results.get("quick")),
        "compose": (outputs / "compose.html").exists(),
        "figures": figures_of(outputs / "figures", fits.get("figures") or []),
        "law": headline.law_rows(results),
        "predictions": headline.predictions(results),
        "winners": winners_table(results),
        "rates": rate_table(results),
        "runs": run_table(runs),
        "levels": level_table(results),
        "level_words": {name: LEVEL_WORDS[name] for name in LEVELS},
        "music": music_table(results),
        "licences": value_at(results, "data.licences") or [],
        "may_share": value_at(results, "data.may_share") is not False,
        "environment": results.get("environment") or {},
    }


def write_played_page(root, rows):
    """Writes part4_outputs/generated/played.html with the samples of these metadata rows (of
    `write_sample`), the newest first, and returns its path."""
    folder = Path(root) / "part4_outputs/generated"
    newest = sorted(rows, key=lambda row: row["file"], reverse=True)[:MAX_SAMPLES]
    names = [row["file"].replace("play_", "played sample ").replace("_", " ") for row in newest]
    samples = [
        sample_view(row, folder, name.removesuffix(".abc")) for row, name in zip(newest, names)
    ]
    page = {
        "samples": samples,
        "n_older": len(rows) - len(newest),
        "shades": shade_words(),
        "has_report": (folder.parent / "report.html").exists(),
    }
    _fit_and_write(folder / "played.html", "played.html", page, pictures_of(samples))
    return folder / "played.html"


def _fit_and_write(path, template, page, pictures):
    """Writes a page with as many of its pictures, in their order, as PAGE_BYTES allow."""
    n_bytes = sum(len(picture.data) for picture in pictures)
    others = len(fill(template, page).encode()) - n_bytes
    room = PAGE_BYTES - others - CAPTION_BYTES * len(pictures)
    for picture in pictures:
        if len(picture.data) > room:
            picture.data = None
        else:
            room -= len(picture.data)
    write_text(path, fill(template, page))


def fill(template, page):
    """Returns a page's HTML. Autoescape is on, and a name that the template does not find is an
    error, not an empty place."""
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
    return environment.get_template(template).render(page, **texts).lstrip()


def lead(results, runs):
    """Returns the page's first words, for a reader who knows music and no statistics."""
    n = len({(row["family"], row["size"]) for row in without_ladder(runs)})
    tunes = value_at(results, "data.splits.train.tunes")
    who = f"{n} models, small and large," if n > 1 else "A model"
    what = f"{tunes:,} tunes as text" if tunes else "tunes as text"
    unit = NEXT.get(value_at(results, "tokenizer.kind"), "character")
    remark = " Bits per character are nominal: compare nats per note." if unit == "event" else ""
    return f"{who} read {what} and learnt to predict the next {unit}.{remark}"


# ---------------------------------------------------------------- tables


class Cell(NamedTuple):
    """A cell of a table: its text, a smaller line below it, and the share that a bar fills."""

    text: str
    note: str = ""
    share: float | None = None


def table(caption, head, rows):
    """Returns {"caption", "head", "rows"} of those rows [(name, cells)] that hold any number, or
    None if there is none. Cells are Cells or text."""
    rows = [
        (name, [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells])
        for name, cells in rows
    ]
    rows = [row for row in rows if any(cell.text != NOTHING for cell in row[1])]
    return {"caption": caption, "head": head, "rows": rows} if rows else None


def rate_cell(row):
    """Returns a rate with its interval below it."""
    pair = row.get("interval")
    note = f"{100 * pair[0]:.0f} to {100 * pair[1]:.0f} %" if pair else ""
    return Cell(percent(row.get("rate")), note)


def winners_table(results):
    """Returns which family has the lowest loss at which size and amount of text."""
    found = headline.winners(results)
    if not found:
        return None
    amounts, rows = found
    cells = [(size, [Cell(*cell) for cell in row]) for size, row in rows]
    head = ["parameters", *(f"{amount} characters" for amount in amounts)]
    return table("The family with the lowest loss, by model size and amount of text", head, cells)


def rate_table(results):
    """Returns the best model's three ways to draw, never mixed, between real music, the longest
    n-gram and random characters."""
    kinds = {}
    for row in level_rows(results):
        kinds.setdefault(row["kind"], row)
    shares = ("bar_accuracy", "abc2midi_clean_rate", "repeated_bars", "copied_share")
    rows = []
    for row in (kinds[kind] for kind in RATED if kind in kinds):
        cells = [rate_cell(row), *(percent(row.get(key)) for key in shares)]
        rows.append((row["name"], [number(row["n"]), *cells, number(row.get("draws_per_bar"))]))
    head = "n,valid,bars right,clean by abc2midi,repeated bars,copied,draws per bar".split(",")
    caption = "Valid (level 4) at the first try. Right bars: bar-level rejection sampling"
    return table(caption, ["", *head], rows)


def level_table(results):
    """Returns the validity levels, one row for each source of text, bars behind the numbers."""
    rows = []
    for row in level_rows(results):
        rates = [row["level_rates"].get(name) for name in LEVELS]
        rows.append((row["name"], [Cell(percent(rate), share=rate) for rate in rates]))
    names = [f"{i}\N{NO-BREAK SPACE}{name}" for i, name in enumerate(LEVELS, 1)]
    caption = "Share of texts that reach each validity level; valid means level 4"
    return table(caption, ["", *names], rows)


def run_table(runs):
    """Returns the runs behind the fits, but for those of the model ladder."""
    rows = []
    for row in without_ladder(runs):
        losses = [number(row[f"{split}_nats_per_char"], 3) for split in ("train", "val", "test")]
        flops = NOTHING if row["train_flops"] is None else f"{row['train_flops']:.2e}"
        cells = [number(row["params_total"]), *losses, flops, number(row["seconds"], 0)]
        rows.append((row["name"], cells))
    head = ["", "parameters", "train", "validation", "test", "FLOPs", "seconds"]
    caption = "Loss in nats per character at the end of training; all runs: runs.csv"
    return table(caption, head, rows)


def music_table(results):
    """Returns generated beside real music, and what real music differs from real music."""
    music, rows = results.get("music") or {}, []
    keys = ("generated_mean", "real_mean", "wasserstein_in_sd", "real_vs_real_mean")
    for name, words in MUSIC.items():
        metric = value_at(music, f"metrics.{name}") or {}
        rows.append((words, [number(metric.get(key), 2) for key in keys]))
    for name, words in HISTOGRAMS.items():
        distance = value_at(music, f"jsd.{name}") or {}
        both = [number(distance.get(key), 3) for key in ("generated", "real_vs_real_mean")]
        rows.append((f"histogram of {words}", [NOTHING, NOTHING, *both]))
    return table(
        f"Music of {number(music.get('n'))} unprompted samples. Distance: Wasserstein-1 in standard"
        " deviations of real music, for histograms Jensen-Shannon in bits",
        ["", "best model", "real music", "distance", "real to real"],
        rows,
    )


# ---------------------------------------------------------------- pictures


def figures_of(folder, law_captions):
    """Returns {section: [Picture]} of part4_outputs/figures: "deciding", which stand open, then
    those of each section. law_captions: [{"name", "caption"}] as stage 06 filled them."""
    captions = {name: words for name, words in FIGURES.items() if "{" not in words}
    captions |= {row["name"]: row["caption"] for row in law_captions}
    order = list(FIGURES)
    there = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.svg")}
    known = sorted(there.keys() & set(order), key=order.index)
    open_ones = DECIDING if "grid" in there else CLASSICAL
    shown = {section: [] for section in ("deciding", "laws", "validity", "skills")}
    for name in [*known, *sorted(there.keys() - set(order))]:
        section = "deciding" if name in open_ones else PLACES.get(name, "laws")
        missing = f"Figure {name} is too large for this page: see figures/{name}.svg."
        caption = captions.get(name, name.replace("_", " "))
        shown[section].append(Picture(there[name], caption, missing, name))
    return shown


if __name__ == "__main__":  # python -m study.report.page [ROOT]: the page alone
    print(write_report(sys.argv[1] if len(sys.argv) > 1 else PROJECT))
