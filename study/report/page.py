"""part4_outputs/report.html: one page, without network, that shows, plays and judges what a run
made; and generated/played.html, the same for samples that a user asked for.

This file collects what the pages show, as plain text, numbers and lists; `words.py` puts it into
sentences; `page.html`, `played.html` and `parts.html`, which they share, say how it looks, with
`page.css` and `page.js` put into them, so that a page is one file. No HTML is written here, and the
templates escape everything that they are given: titles, prompts and generated text are hostile
input. Pictures enter as images with data URIs, in which a browser runs no script and loads nothing.
What is missing in a run is left out with a word.
"""

import base64
import hashlib
import io
import itertools
import math
import re
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

from study.stages import stage

import jinja2
from markupsafe import Markup

from music import notation
from music.novelty import COPY_CHARS, run_in_words
from music.validity import LEVELS, VALID_LEVEL
from study.families import label
from study.figures import FIGURES
from study.report import attention
from study.report.results import value_at
from study.report.words import (
    NOTHING,
    digits_of,
    first_of,
    interval,
    lead,
    number,
    percent,
    verdicts,
)

HERE = Path(__file__).resolve().parent
TEMPLATES = ("page.html", "parts.html", "played.html", "page.css", "page.js")
# the page stays below: mail and forges refuse more; scores beyond are left to their files
PAGE_BYTES = 3_000_000
FIGURE_BYTES = PAGE_BYTES // 8
CAPTION_BYTES = 300  # what stands around a score
MAX_SAMPLES = 20  # shown on the page
MAX_ERRORS = 12  # shown of a sample
SURPRISAL_STEPS = (0.25, 1, 2, 4, 6)  # bits; a character above step i gets shade i + 1
ATTENTION_CONTRAST = 0.6  # exponent: below 1, so that weak attention can be seen beside strong

MXL_CONTAINER = (
    b'<?xml version="1.0" encoding="UTF-8"?><container><rootfiles><rootfile'
    b' full-path="%s"/></rootfiles></container>'
)

SECTIONS = {
    "verdicts": "Verdicts",
    "laws": "The laws",
    "validity": "What is valid",
    "skills": "What is musical",
    "samples": "The samples",
    "inside": "Inside the best model",
}
# where a figure stands that is none of a law; the ladder is a table on the page
PLACES = {
    "scaling": "first",
    "sampler": "validity",
    "cost_of_control": "validity",
    "skills": "skills",
    "repetition": "skills",
    "looking_back": "skills",
    "best_by_position": "inside",
    "ladder": None,
}
LEVEL_WORDS = {
    "header": "the header parses",
    "tokens": "every character is ABC",
    "content": "at least 16 notes, 4 bars, 4 pitches, at most 75 % rest bars",
    "meter": "every bar has its meter's length",
    "aligned": "all voices have the same bars",
}
MUSIC = {  # metric -> words
    "pitch_class_entropy": "pitch-class entropy, bits",
    "scale_consistency": "scale consistency",
    "in_key_share": "notes in their key",
    "groove_consistency": "groove consistency (16 positions)",
    "polyphony": "pitches sounding at once",
    "notes_per_bar": "notes per bar",
    "pitch_range": "pitch range, semitones",
    "rest_share": "rest share",
    "bar_repetition": "bars heard before",
    "leap_share": "leaps",
}
HISTOGRAMS = {
    "duration": "durations",
    "interval": "intervals",
    "onset": "positions in the bar",
    "pitch_class": "pitch classes",
}
PROMPTS = {
    "unconditional": "no prompt",
    "header": "header given",
    "bars": "header and first four bars given",
    "continued": "goes on from a user's tune",
}
SAMPLER = (
    ("temperature", "temperature", None),
    ("top_k", "top-k", 0),
    ("top_p", "top-p", 1),
    ("min_p", "min-p", 0),
    ("seed", "seed", None),
)  # key of a sample, its name, the value that means "off"
WAYS = {"free": "bars drawn freely", "right": "wrong bars redrawn"}
ENDS = {
    "end": "ended by the model",
    "budget": "cut off by the budget",
    "stuck": "given up: a bar failed too often",
}


# ---------------------------------------------------------------- the page


def write_report(root):
    """Writes part4_outputs/report.html and returns its path; the same input gives the same bytes.

    Reads RESULTS.json, generated/metadata.json with the samples' .svg and .mid, figures/*.svg, and
    for the attention map checkpoints/best_model.pt with data/tokenizer.pkl and data/test.txt.
    """
    outputs = Path(root) / "part4_outputs"
    results = stage.read_json(outputs / "RESULTS.json") or {}
    rows = ((stage.read_json(outputs / "generated/metadata.json") or {}).get("samples") or [])[
        :MAX_SAMPLES
    ]
    samples = [sample_view(row, outputs / "generated", i) for i, row in enumerate(rows)]
    first, rule = first_of(samples, rows)
    plots = figures(outputs / "figures", value_at(results, "fits.figures") or [])
    page = {
        "sections": SECTIONS,
        "lead": lead(results, bool(plots["first"])),
        "first_rule": rule,
        "figures": plots,
        "verdicts": verdicts(results),
        "is_quick": bool(results.get("quick")),
        "numbers": number_table(results),
        "choice": choice_table(results),
        "finetuned": finetuned_table(results),
        "rates": rate_table(results),
        "runs": run_table(results),
        "ladder": ladder_table(results),
        "levels": {name: LEVEL_WORDS[name] for name in LEVELS},
        "music": music_table(results),
        "shades": shade_words(),
        "attention": attention_view(Path(root)),
        "environment": results.get("environment") or {},
    }

    def filled(room):
        shown = within(samples, room, first or 0)
        return fill(
            "page.html",
            {**page, "samples": shown, "first": None if first is None else shown[first]},
        )

    html = filled(PAGE_BYTES - len(filled(0).encode()) - CAPTION_BYTES * len(samples))
    stage.write_text(outputs / "report.html", html)
    return outputs / "report.html"


def write_played_page(root, rows):
    """Writes part4_outputs/generated/played.html with the samples of these metadata rows (of
    `write_sample`), the newest first, and returns its path. A row without "pictures" gets its score
    here."""
    folder = Path(root) / "part4_outputs/generated"
    newest = sorted(rows, key=lambda row: row["file"], reverse=True)[:MAX_SAMPLES]
    names = [
        Path(row["file"]).stem.replace("play_", "played sample ").replace("_", " ")
        for row in newest
    ]
    samples = [
        sample_view(row, folder, i, name) for i, (row, name) in enumerate(zip(newest, names))
    ]
    page = {
        "n_older": len(rows) - len(newest),
        "shades": shade_words(),
        "has_report": (folder.parent / "report.html").exists(),
    }
    room = PAGE_BYTES - len(fill("played.html", {**page, "samples": within(samples, 0)}).encode())
    stage.write_text(
        folder / "played.html",
        fill(
            "played.html", {**page, "samples": within(samples, room - CAPTION_BYTES * len(samples))}
        ),
    )
    return folder / "played.html"


def fill(template, page):
    """A page's HTML. Autoescape is on, and a name that the template does not find is an error, not
    an empty place."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    css, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    script_digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        environment.get_template(template)
        .render(page, css=Markup(css), script=Markup(script), script_digest=script_digest)
        .lstrip()
    )


def shade_words():
    """What each shade of surprisal means, in order."""
    return [f"up to {SURPRISAL_STEPS[0]:g}", *(f"over {step:g}" for step in SURPRISAL_STEPS)]


def template_digest():
    """SHA-256 over the page's template, style and script: stage 07 has it in its configuration, so
    that an edit of them makes the page again."""
    return stage.value_digest([stage.file_digest(HERE / name) for name in TEMPLATES])


# ---------------------------------------------------------------- tables


class Cell(NamedTuple):
    """A cell of a table: its text, a smaller line below it, and the share that a bar behind it
    fills."""

    text: str
    note: str = ""
    share: float | None = None


class Table(NamedTuple):
    caption: str
    head: list  # of text
    rows: list  # of (text, [Cell])


def table(caption, head, rows):
    """A Table of those rows that hold any number, or None if there is none. Cells are Cells or
    text."""
    rows = [
        (name, [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells])
        for name, cells in rows
    ]
    rows = [row for row in rows if any(cell.text != NOTHING for cell in row[1])]
    return Table(caption, head, rows) if rows else None


def rate_cell(row):
    """A rate with its interval below it."""
    pair = row.get("interval")
    return Cell(
        percent(row.get("rate")), f"{100 * pair[0]:.0f}–{100 * pair[1]:.0f} %" if pair else ""
    )


def number_table(results):
    """Model, ceiling, strongest mark and floors of every headline number in one table."""

    def baseline(name):
        return value_at(results, f"baselines.test.{name}.bits_per_char")

    rungs = {}
    for row in value_at(results, "samples.ladder") or []:
        rungs.setdefault(row["kind"], row)  # of several n-grams the longest, which comes first
    ladder = [rungs.get(kind, {}) for kind in ("model", "real", "ngram", "random")]
    mark, best = value_at(results, "headline.strongest_baseline") or {}, results.get("best") or {}
    strongest, unigram, uniform = (
        mark.get("test_bits_per_char"),
        baseline("unigram"),
        baseline("uniform"),
    )
    copying = [
        value_at(results, f"novelty.{whose}") or {} for whose in ("generated", "heldout_baseline")
    ]
    copied = [row.get("longest_copied_chars") for row in copying]
    return table(
        "The best model beside real music, the strongest simpler method and random text",
        ["", "best model", "real music", "simpler method", "random"],
        [
            (
                "Bits per character of test music",
                [
                    measured_cell(
                        best.get("test_bits_per_char"), best.get("test_bits_per_char_interval")
                    ),
                    NOTHING,
                    Cell(number(strongest), mark.get("name") or ""),
                    Cell(
                        number(unigram),
                        "" if unigram is None else f"unigram; uniform {number(uniform)}",
                    ),
                ],
            ),
            (
                "Bits per note of test music",
                [
                    number(
                        best.get("test_nats_per_note") and best["test_nats_per_note"] / math.log(2)
                    ),
                    *[NOTHING] * 3,
                ],
            ),
            (
                "Perplexity per character",
                [
                    measured_cell(
                        best.get("test_perplexity"), best.get("test_perplexity_interval")
                    ),
                    NOTHING,
                    *(number(None if bits is None else 2**bits) for bits in (strongest, unigram)),
                ],
            ),
            ("Valid at the first try (level 4)", [rate_cell(row) for row in ladder]),
            (
                "Bars of the right length",
                [
                    Cell(
                        percent(row.get("bar_accuracy")),
                        row.get("name", "") if row.get("kind") == "ngram" else "",
                    )
                    for row in ladder
                ],
            ),
            (
                "Bars heard before",
                [
                    percent(value_at(results, f"headline.bars_heard_before.{whose}.exact"))
                    for whose in ("unprompted", "real_music")
                ]
                + [NOTHING, NOTHING],
            ),
            (
                "Compiled cleanly by abc2midi",
                [percent(row.get("abc2midi_clean_rate")) for row in ladder],
            ),
            (
                f"Characters copied from training, runs of {COPY_CHARS} and more",
                [*(percent(whose.get("copied_share")) for whose in copying), NOTHING, NOTHING],
            ),
            (
                "Longest copied run, characters",
                [*(NOTHING if n is None else run_in_words(n) for n in copied), NOTHING, NOTHING],
            ),
        ],
    )


def measured_cell(value, pair):
    """A number with the decimals that its interval allows, the interval below it."""
    digits = digits_of(pair) if pair else 2
    return Cell(number(value, digits), interval(pair, digits).strip(" ()"))


def choice_table(results):
    """What the best model could have been: the plan that was carried out, then those it was
    compared with, by expected loss. None without a choice."""
    choice = value_at(results, "best.choice") or {}
    chosen = {**(choice.get("chosen") or {}), **(choice.get("expected") or {})}
    plans = [chosen, *sorted(choice.get("rivals") or [], key=lambda row: row["val_nats_per_char"])]

    def cells(row):
        reached = (
            {
                "minutes": value_at(choice, "outcome.minutes"),
                "loss": value_at(results, "best.val_nats_per_char"),
            }
            if row is chosen
            else {}
        )
        return [
            number(row.get("epochs")),
            number(row.get("windows")),
            number(row.get("minutes"), 1),
            number(reached.get("minutes"), 1),
            number(row.get("val_nats_per_char")),
            number(reached.get("loss")),
        ]

    limit = f" in {choice['minutes']:g} minutes" if choice.get("minutes") else ""
    return table(
        f"The study's own law at work: what could be trained{limit}. First what was:"
        f" {choice.get('rule')}",
        [
            "",
            "epochs",
            "windows a step",
            "minutes expected",
            "taken",
            "validation loss expected",
            "reached",
        ],
        [
            (f"{label(row['family'])} {row['size']}", cells(row))
            for row in plans
            if row.get("family")
        ],
    )


def finetuned_table(results):
    """What became of models that were fine-tuned to other music, one row each. None without any."""

    def cells(row):
        of = {
            path: value_at(row, path)
            for path in (
                "held_out.bits_per_char.before",
                "held_out.bits_per_char.after",
                "held_out.strongest_mark.bits_per_char",
                "old_text.before",
                "old_text.after",
            )
        }
        return [
            *map(number, of.values()),
            *(
                percent(value_at(row, f"copying.{whose}.copied_share"))
                for whose in ("generated", "held_out")
            ),
            rate_cell(value_at(row, "validity.generated") or {}),
        ]

    return table(
        "Fine-tuned models: bits per character of held-out music and of the old validation text;"
        f" characters copied from the new text in runs of {COPY_CHARS} and more; valid at the"
        " first try",
        [
            "",
            "held out, before",
            "after",
            "PPMd and co.",
            "old text, before",
            "after",
            "copied",
            "by real music",
            "valid",
        ],
        [(name, cells(row)) for name, row in (results.get("finetuned") or {}).items()],
    )


def rate_table(results):
    """The three ways to draw, side by side: what the model does, what a sampler adds, what
    redrawing bars adds."""

    def cells(row):
        return [
            number(row.get("n")),
            rate_cell(row),
            percent(row.get("bar_accuracy")),
            percent(row.get("bar_repetition")),
            percent(row.get("copied_share")),
            number(row.get("draws_per_bar")),
            percent(row.get("stuck_share")),
        ]

    # keys of samples and music, of novelty
    ways = {
        "bars free, temperature 1": ("unprompted", "generated"),
        "bars free, chosen sampler": ("chosen_sampler", "chosen_sampler"),
        "wrong bars redrawn": ("right_bars", "right_bars"),
    }
    rows = {
        words: {
            "copied_share": value_at(results, f"novelty.{of_novelty}.copied_share"),
            "bar_repetition": value_at(
                results, f"music.{key}.metrics.bar_repetition.generated_mean"
            ),
            **(value_at(results, f"samples.{key}") or {}),
        }
        for words, (key, of_novelty) in ways.items()
    }
    return table(
        "Three ways to draw, never mixed: valid at the first try, and what it costs",
        ["", "n", "valid", "bars right", "bars heard before", "copied", "draws per bar", "stuck"],
        [(name, cells(row)) for name, row in rows.items()],
    )


def run_table(results):
    """The runs behind the fits."""

    def cells(row):
        losses = [
            number(row.get(f"{split}_nats_per_char"), 3) for split in ("train", "val", "test")
        ]
        flops = row.get("train_flops")
        return [
            number(row.get("params_total")),
            *losses,
            NOTHING if flops is None else f"{flops:.2e}",
            number(row.get("seconds"), 0),
        ]

    return table(
        "Loss in nats per character at the end of training",
        ["", "parameters", "train", "validation", "test", "FLOPs", "seconds"],
        [(row["name"], cells(row)) for row in results.get("runs") or []],
    )


def ladder_table(results):
    """Validity by level, one row for each source of text, bars behind the numbers."""

    def cells(row):
        rates = [row["level_rates"].get(name) for name in LEVELS]
        return [
            number(row.get("n")),
            *(Cell(percent(rate), share=rate) for rate in rates),
            number(row.get("bar_accuracy")),
        ]

    return table(
        "Share of texts that reach each level; valid means level 4",
        [
            "",
            "n",
            *(f"{i}\N{NO-BREAK SPACE}{name}" for i, name in enumerate(LEVELS, 1)),
            "bar accuracy",
        ],
        [(row["name"], cells(row)) for row in value_at(results, "samples.ladder") or []],
    )


def music_table(results):
    """Generated against real music, beside what real music differs from real music at the same
    n."""
    music, rows = value_at(results, "music.unprompted") or {}, []
    for key, words in MUSIC.items():
        metric = value_at(music, f"metrics.{key}") or {}
        rows.append(
            (
                words,
                [
                    number(metric.get(column))
                    for column in (
                        "generated_mean",
                        "real_mean",
                        "wasserstein_in_sd",
                        "real_vs_real_mean",
                    )
                ],
            )
        )
    for key, words in HISTOGRAMS.items():
        distance = value_at(music, f"jsd.{key}") or {}
        rows.append(
            (
                f"histogram of {words}",
                [
                    NOTHING,
                    NOTHING,
                    number(distance.get("generated"), 3),
                    number(distance.get("real_vs_real_mean"), 3),
                ],
            )
        )
    return table(
        f"Music of {number(music.get('n'))} unprompted samples. Distance: Wasserstein-1 in standard"
        " deviations of real music, for histograms Jensen-Shannon in bits; beside it the same"
        " between two sets of real music",
        ["", "best model", "real music", "distance", "real to real"],
        rows,
    )


# ---------------------------------------------------------------- pictures


def data_uri(kind, data):
    """Bytes or text as an address that holds them."""
    data = data.encode() if isinstance(data, str) else data
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def figures(folder, law_captions):
    """{section: [figure]} of part4_outputs/figures in the order of FIGURES, then what else stands
    there.

    law_captions: [{"name", "caption"}] as stage 06 filled them. A figure that is not there is
    passed over, one that is too large is named.
    """
    # those with a gap come filled
    captions = {name: words for name, words in FIGURES.items() if "{" not in words}
    captions |= {row["name"]: row["caption"] for row in law_captions}
    strangers = sorted(path.stem for path in folder.glob("*.svg") if path.stem not in FIGURES)
    shown = {name: [] for name in ("first", *SECTIONS)}
    for name in [*FIGURES, *strangers]:
        place, path = PLACES.get(name, "laws"), folder / f"{name}.svg"
        if place is None or not path.exists():
            continue
        svg = path.read_text(encoding="utf-8")
        uri, points = data_uri("image/svg+xml", svg), re.search(
            r'<svg\b[^>]*? width="([\d.]+)pt"', svg
        )
        shown[place].append(
            {
                "name": name,
                "caption": captions.get(name, name.replace("_", " ")),
                "uri": uri if len(uri) <= FIGURE_BYTES else None,
                # width in print, 1/72 inch
                "points": float(points[1]) if points else 432,
            }
        )
    return shown


def attention_view(root):
    """The attention map of the best model as the template draws it, or {"reason"} where it cannot
    be had."""
    try:
        best = attention.of_best_model(root)
    except ValueError as error:
        return {"reason": str(error)}
    n = min(len(best.tokens), attention.CHARS)  # the end of the text has most to look back at
    weights = best.weights[-n:, -n:]
    return {
        "reason": None,
        "n": n,
        "picture": heat_picture(weights),
        "strongest": percent(float(weights.max())),
        "tokens": [token.replace("\n", " ") for token in best.tokens[-n:]],
        "bar_lines": [i for i, token in enumerate(best.tokens[-n:], 1) if "|" in token],
        "unit": "character" if max(map(len, best.tokens)) == 1 else "token",
        "layer": best.layer,
        "head": best.head,
        "n_heads": best.n_heads,
        "share": percent(best.share),
        "even_share": percent(best.even_share),
    }


def heat_picture(weights):
    """A matrix as a PNG of one colour, opaque where weights are large: legible on light and on dark
    paper."""
    import numpy as np
    from matplotlib import colors, image

    pixels = np.empty((*weights.shape, 4))
    pixels[..., :3] = colors.to_rgb(notation.VOICE_COLOURS[1])
    pixels[..., 3] = (weights / weights.max()) ** ATTENTION_CONTRAST
    png = io.BytesIO()
    image.imsave(
        png, np.round(255 * pixels).astype(np.uint8), format="png", metadata={"Software": None}
    )
    return data_uri("image/png", png.getvalue())


# ---------------------------------------------------------------- samples


def sample_view(sample, folder, i, name=None):
    """What a page shows of a sample: verdict, player, score, piano roll, text. name: default
    "sample 1", ..."""
    text, stem = sample["text"], Path(sample.get("file") or f"sample_{i:03d}.abc").stem
    prompt = sample.get("prompt") or ""
    tune, n_chars, unread = notation.readable(text)
    view = {
        "name": name or f"sample {i + 1}",
        "stem": stem,
        "facts": facts(sample),
        "check": verdict(sample.get("validity")),
        "n_chars": n_chars,
        "length": len(text),
        "unread": unread,
        "files": list(
            filter(None, (midi_link(folder / f"{stem}.mid"), mxl_link(folder / f"{stem}.musicxml")))
        ),
        "runs": shaded_runs(text, sample.get("surprisal_bits") or [], prompt),
        "score": None,
        "roll": None,
    }
    if notation.has_notes(tune):
        score, drawn = score_of(sample, folder / f"{stem}.svg")
        given, notes = notation.given_bars(text, len(prompt)), notation.notes_in_seconds(tune)
        view |= {
            "score": data_uri("image/svg+xml", score) if score else None,
            "no_score": f"No score: {value_at(drawn, 'reasons.score') or 'none was drawn'}.",
            "remarks": remarks(
                drawn, score, any(given.values()), notation.at_bar_lines(tune) is not tune
            ),
            "roll": data_uri("image/svg+xml", notation.piano_roll(tune, given)),
            "notes": notes,
            "seconds": max(onset + duration for onset, duration, _, _ in notes),
        }
    return view


def score_of(sample, path):
    """(SVG or "", what was noted of the drawing) of a sample: its file, or engraved here if nothing
    was noted."""
    if sample.get("pictures") is not None or path.exists():
        return path.read_text(encoding="utf-8") if path.exists() else "", sample.get(
            "pictures"
        ) or {}
    drawn = notation.pictures(sample["text"], len(sample.get("prompt") or ""))
    return drawn.score_svg or "", drawn._asdict()


def remarks(drawn, score, has_prompt, is_realigned):
    """What a reader of score and roll has to know, in sentences."""
    n_drawn, n_bars = drawn.get("bars_drawn"), drawn.get("bars")
    found = {
        f"Bars 1–{n_drawn} of {n_bars}.": n_drawn and n_bars and n_drawn < n_bars,
        "Grey notes and the shaded part of the roll were given: the model begins at the double bar line.": (
            has_prompt
        ),
        "Red notes stand in bars of the wrong length.": notation.WRONG in score.lower(),
        "Voices that a wrong bar would shift meet again at the next bar line, on paper and in the sound.": (
            is_realigned
        ),
    }
    return [words for words, holds in found.items() if holds]


def within(samples, room, first=0):
    """The samples with as many of their scores as fit into so many bytes: the one at the place
    `first` may take all of them, each other an even share of what those before it left over; a
    score beyond that is left to its file."""
    fitting = list(samples)
    for n_before, i in enumerate(sorted(range(len(samples)), key=lambda i: i != first)):
        size = len(samples[i]["score"] or "")
        if size > room / (len(samples) - n_before if n_before else 1):
            fitting[i] = {
                **samples[i],
                "score": None,
                "no_score": (
                    "The score would make this page too large: see "
                    f"generated/{samples[i]['stem']}.svg."
                ),
            }
            size = 0
        room -= size
    return fitting


def facts(sample):
    """What is known of a sample, in two lines of several items each."""
    kind = sample.get("type") or ("prompted" if sample.get("prompt") else "unconditional")
    source = f", from {sample['prompt_source']}" if sample.get("prompt_source") else ""
    origin = [PROMPTS.get(kind, kind) + source]
    origin += [WAYS[sample["bars"]]] if sample.get("bars") in WAYS else []
    origin += [
        f"{name} {sample[key]}" for key, name, off in SAMPLER if sample.get(key) not in (None, off)
    ]
    check = sample.get("validity") or {}
    music = [
        f"{check[key]:,} {word}{'s' * (check[key] != 1)}"
        for key, word in (("n_notes", "note"), ("n_bars", "bar"), ("n_voices", "voice"))
        if check.get(key) is not None
    ]
    music += [f"{len(sample['text']):,} characters"]
    music += [ENDS[sample["stop_reason"]]] if sample.get("stop_reason") in ENDS else []
    if check.get("bar_accuracy") is not None:
        music.append(f"bar accuracy {check['bar_accuracy']:.2f}")
    if judge := value_at(sample, "cross_checks.abc2midi"):
        music.append("abc2midi: clean" if judge.get("clean") else "abc2midi: not clean")
    if (copied := value_at(sample, "novelty.longest_copied_chars")) is not None:
        music.append(f"longest run copied from training: {run_in_words(copied)} characters")
    return [origin, music]


def verdict(check):
    """Level, badges and the error list of one sample; None if it was not checked."""
    if not check:
        return None
    errors = [
        {"line": line, "message": message, "kind": kind}
        for line, kind, message in check.get("errors") or []
    ]
    n_errors = max(check.get("n_errors") or 0, len(errors))
    return {
        "level": check["level"],
        "is_valid": check["level"] >= VALID_LEVEL,
        "badges": [
            {"name": name, "words": LEVEL_WORDS[name], "passed": bool(check.get(name))}
            for name in LEVELS
        ],
        "errors": errors[:MAX_ERRORS],
        "n_errors": n_errors,
        "n_more": max(0, n_errors - MAX_ERRORS),
    }


def shaded_runs(text, bits, prompt):
    """[(shade, characters)] of ABC text by surprisal: 0 to len(SURPRISAL_STEPS), or "prompt", which
    is not shaded.

    bits: a number for each character of the text, or of what follows the prompt.
    """
    bits = [None] * len(prompt) + bits if len(bits) == len(text) - len(prompt) else bits
    shades = []
    for i, character in enumerate(text):
        value = bits[i] if i < len(bits) else None
        if i < len(prompt):
            shades.append("prompt")
        elif (
            shades and character == "\n"
        ):  # a shade at the end of a line could not be seen: it joins its neighbours
            shades.append(shades[-1])
        else:
            shades.append(0 if value is None else sum(value > step for step in SURPRISAL_STEPS))
    runs = itertools.groupby(zip(shades, text), key=lambda pair: pair[0])
    return [(shade, "".join(character for _, character in run)) for shade, run in runs]


def midi_link(path):
    """A sample's MIDI file as an address that holds it, with its name and size; None if there is
    none."""
    return _link("MIDI", path.name, "audio/midi", path.read_bytes()) if path.exists() else None


def mxl_link(path):
    """The same of a sample's MusicXML file, compressed as notation programs exchange it (.mxl, a
    tenth of the size)."""
    if not path.exists():
        return None
    data, contents = io.BytesIO(), {
        "META-INF/container.xml": MXL_CONTAINER % path.name.encode(),
        path.name: path.read_bytes(),
    }
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in contents.items():
            # of 1980: the same bytes every time
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return _link(
        "MusicXML", f"{path.stem}.mxl", "application/vnd.recordare.musicxml", data.getvalue()
    )


def _link(kind, name, media_type, data):
    return {
        "kind": kind,
        "name": name,
        "kilobytes": f"{len(data) / 1000:.1f}",
        "uri": data_uri(media_type, data),
    }


# python -m study.report.page [ROOT]: the page alone, after an edit of its template
if __name__ == "__main__":
    print(write_report(sys.argv[1] if len(sys.argv) > 1 else stage.HERE))
