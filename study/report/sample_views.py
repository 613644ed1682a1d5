"""What a page shows of a sample: verdict, player, score, piano roll, shaded text, files.

Titles, prompts and generated text are hostile: the templates escape all of it.
"""

import io
import itertools
import re
import zipfile
from base64 import b64encode
from gzip import compress
from pathlib import Path

from music import notation, pictures
from music.novelty import run_in_words
from music.validity import LEVELS, VALID_LEVEL
from study.report.keys import value_at

MAX_ERRORS = 12  # shown of a sample
SURPRISAL_STEPS = (0.25, 1, 2, 4, 6)  # bits; a character above step i gets shade i + 1
MXL_CONTAINER = (
    '<?xml version="1.0" encoding="UTF-8"?><container><rootfiles><rootfile'
    ' full-path="{}"/></rootfiles></container>'
)
LEVEL_WORDS = {
    "header": "the header parses",
    "tokens": "every character is ABC",
    "content": "at least 16 notes, 4 bars, 4 pitches, at most 75 % rest bars",
    "meter": "every bar has its meter's length",
    "aligned": "all voices have the same bars",
}
PROMPTS = {
    "unconditional": "no prompt",
    "header": "header given",
    "bars": "header and first four bars given",
    "continued": "goes on from a user's tune",
}
# setting of the sampler -> the value that means "off"
SAMPLER = {"temperature": None, "top_k": 0, "top_p": 1, "min_p": 0, "seed": None}
WAYS = {"free": "free bars", "right": "right bars"}
ENDS = {
    "end": "ended by the model",
    "budget": "cut off by the budget",
    "stuck": "given up: a bar failed too often",
}
GIVEN = (
    "Grey notes and the shaded part of the roll were given: the model begins at the double bar"
    " line."
)
WRONG = "Red notes stand in bars of the wrong length."
REALIGNED = (
    "Voices that a wrong bar would shift meet again at the next bar line, on paper and in the"
    " sound."
)


class Picture:
    """A drawing as base64 of gzip, which the page inflates when it is to be seen."""

    def __init__(self, svg, alt, name=""):
        size = re.search(r'<svg\b[^>]*? width="([\d.]+)pt"', svg)
        self.points = float(size[1]) if size else 432.0  # width in print, 1/72 inch
        self.data = b64encode(compress(svg.encode(), 9, mtime=0)).decode()
        self.alt, self.name = alt, name


def data_uri(kind, data):
    return f"data:{kind};base64,{b64encode(data).decode()}"


def links(folder, stem):
    """Returns a sample's MIDI and MusicXML files, those that are there."""
    files = []
    midi, score = folder / f"{stem}.mid", folder / f"{stem}.musicxml"
    if midi.exists():
        files.append(_link("MIDI", midi.name, "audio/midi", midi.read_bytes()))
    if score.exists():
        kind = "application/vnd.recordare.musicxml"
        files.append(_link("MusicXML", f"{stem}.mxl", kind, _compressed(score)))
    return files


def _link(kind, name, media_type, data):
    size = f"{len(data) / 1000:.1f}"
    return {"kind": kind, "name": name, "kilobytes": size, "uri": data_uri(media_type, data)}


def _compressed(score):
    """Returns a MusicXML file as notation programs exchange it (.mxl)."""
    data = io.BytesIO()
    contents = {
        "META-INF/container.xml": MXL_CONTAINER.format(score.name),
        score.name: score.read_bytes(),
    }
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in contents.items():  # ZipInfo is of 1980: the same bytes every time
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return data.getvalue()


def sample_view(sample, folder, name):
    """Returns what a page shows of a row of metadata, whose files lie in `folder`."""
    text, prompt, stem = sample["text"], sample["prompt"], Path(sample["file"]).stem
    tune, n_chars, unread = notation.readable(text)
    view = {
        "name": name,
        "stem": stem,
        "facts": facts(sample),
        "check": verdict(sample["validity"]),
        "n_chars": n_chars,
        "length": len(text),
        "unread": unread,
        "files": links(folder, stem),
        "runs": shaded_runs(text, sample.get("surprisal_bits") or [], prompt),
        "score": None,
        "roll": None,
    }
    if tune is None:
        return view
    path = folder / f"{stem}.svg"
    if path.exists():
        svg, drawn = path.read_text(encoding="utf-8"), sample["pictures"]
    else:
        drawn = pictures.pictures(text, len(prompt))
        svg = drawn["score_svg"] or ""
    given, notes = notation.given_bars(text, len(prompt)), notation.notes_in_seconds(tune)
    n_drawn, n_bars = drawn["bars_drawn"], drawn["bars"]
    remarks = {
        f"Bars 1–{n_drawn} of {n_bars}.": 0 < n_drawn < n_bars,
        GIVEN: any(given.values()),
        WRONG: notation.WRONG in svg.lower(),
        REALIGNED: notation.at_bar_lines(tune) is not tune,
    }
    score = Picture(svg, f"score of {name}") if svg else None
    return view | {
        "score": score,
        "no_score": f"No score: {drawn['reasons'].get('score')}.",
        "remarks": [words for words, holds in remarks.items() if holds],
        "roll": Picture(pictures.piano_roll(tune, given), "notes over time"),
        "notes": notes,
        "seconds": max(onset + duration for onset, duration, _, _ in notes),
    }


def facts(sample):
    """Returns two lists of words: where a sample came from, and what is in it."""
    source = f", from {sample['prompt_source']}" if sample.get("prompt_source") else ""
    origin = [PROMPTS[sample["type"]] + source, WAYS[sample["bars"]]]
    for key, off in SAMPLER.items():
        if sample[key] != off:
            origin.append(f"{key.replace('_', '-')} {sample[key]}")
    check, music = sample["validity"], []
    for word in ("note", "bar", "voice"):
        n = check[f"n_{word}s"]
        music.append(f"{n:,} {word}{'s' * (n != 1)}")
    music.append(f"{len(sample['text']):,} characters")
    if sample["stop_reason"] in ENDS:
        music.append(ENDS[sample["stop_reason"]])
    if check["bar_accuracy"] is not None:
        music.append(f"bar accuracy {check['bar_accuracy']:.2f}")
    if judge := value_at(sample, "cross_checks.abc2midi"):
        music.append("abc2midi: clean" if judge["clean"] else "abc2midi: not clean")
    copied = value_at(sample, "novelty.longest_copied_chars")
    if copied is not None:
        music.append(f"longest run copied from training: {run_in_words(copied)} characters")
    return [origin, music]


def verdict(check):
    return {
        "level": check["level"],
        "is_valid": check["level"] >= VALID_LEVEL,
        "badges": [(name, LEVEL_WORDS[name], check[name]) for name in LEVELS],
        "errors": check["errors"][:MAX_ERRORS],
        "n_errors": max(check["n_errors"], len(check["errors"])),
    }


def first_of(views, rows):
    """Returns (place of the sample that the page begins with, the rule in words); (None, "") if
    none can be played. rows: their metadata."""

    def merit(i):
        row, check = rows[i], rows[i]["validity"]
        is_valid, accuracy = check["level"] >= VALID_LEVEL, check["bar_accuracy"] or 0
        return is_valid, not row["prompt"], row["bars"] == "free", check["level"], accuracy, -i

    playable = [i for i, view in enumerate(views) if view["roll"]]
    if not playable:
        return None, ""
    best = max(playable, key=merit)
    is_valid, is_unprompted, *_ = merit(best)
    if not is_valid:
        return best, f"None of the {len(views)} samples is valid; this one comes nearest."
    how = "no prompt" if is_unprompted else "a prompt"
    bars = WAYS[rows[best]["bars"]]
    return best, f"Chosen by rule, the best of {len(views)}: valid, {how}, {bars}."


def shade_words():
    """Returns what each shade of surprisal means."""
    return [f"up to {SURPRISAL_STEPS[0]:g}", *(f"over {step:g}" for step in SURPRISAL_STEPS)]


def shaded_runs(text, bits, prompt):
    """Returns [(shade, characters)] of a text by surprisal; shade: 0 to 5 or "prompt". bits: of
    each character of the text, or of what follows the prompt; or none."""
    bits = [0] * (len(text) - len(bits)) + bits
    shades = []
    for i, (character, value) in enumerate(zip(text, bits)):
        if i < len(prompt):
            shades.append("prompt")
        elif shades and character == "\n":  # a shade at the end of a line could not be seen
            shades.append(shades[-1])
        else:
            shades.append(sum(value > step for step in SURPRISAL_STEPS))
    runs = itertools.groupby(zip(shades, text), key=lambda pair: pair[0])
    return [(shade, "".join(character for _, character in run)) for shade, run in runs]
