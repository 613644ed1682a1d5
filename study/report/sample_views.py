"""What a page shows of a sample: verdict, player, score, piano roll, shaded text, files.

Plain text, numbers and lists: the templates say how it looks and escape everything, for titles,
prompts and generated text are hostile input.
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
from study.report.required import value_at

MAX_ERRORS = 12  # shown of a sample
SURPRISAL_STEPS = (0.25, 1, 2, 4, 6)  # bits; a character above step i gets shade i + 1
MXL_CONTAINER = (
    b'<?xml version="1.0" encoding="UTF-8"?><container><rootfiles><rootfile'
    b' full-path="%s"/></rootfiles></container>'
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
SAMPLER = {  # key of a sample -> the value that means "off"
    "temperature": None,
    "top_k": 0,
    "top_p": 1,
    "min_p": 0,
    "seed": None,
}
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
    """A drawing as compressed text, which the page inflates when it is to be seen.

    data: base64 of gzip; None where it was left out, and `missing` says why.
    """

    def __init__(self, svg, alt, missing, name=""):
        size = re.search(r'<svg\b[^>]*? width="([\d.]+)pt"', svg)
        self.points = float(size[1]) if size else 432.0  # width in print, 1/72 inch
        self.data = b64encode(compress(svg.encode(), 9, mtime=0)).decode()
        self.alt, self.missing, self.name = alt, missing, name


def data_uri(kind, data):
    """Returns bytes as an address that holds them."""
    return f"data:{kind};base64,{b64encode(data).decode()}"


def links(folder, stem):
    """Returns a sample's MIDI and MusicXML files, those that are there; MusicXML compressed as
    notation programs exchange it."""
    files = []
    midi, score = folder / f"{stem}.mid", folder / f"{stem}.musicxml"
    if midi.exists():
        files.append(("MIDI", midi.name, "audio/midi", midi.read_bytes()))
    if score.exists():
        contents = {
            "META-INF/container.xml": MXL_CONTAINER % score.name.encode(),
            score.name: score.read_bytes(),
        }
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            for name, content in contents.items():  # ZipInfo is of 1980: the same bytes every time
                archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        kind = "application/vnd.recordare.musicxml"
        files.append(("MusicXML", f"{stem}.mxl", kind, data.getvalue()))
    return [
        {
            "kind": kind,
            "name": name,
            "kilobytes": f"{len(data) / 1000:.1f}",
            "uri": data_uri(media_type, data),
        }
        for kind, name, media_type, data in files
    ]


def sample_view(sample, folder, name):
    """Returns what a page shows of a sample. folder: where its files lie; name: for people."""
    text, stem = sample["text"], Path(sample["file"]).stem
    prompt = sample.get("prompt") or ""
    tune, n_chars, unread = notation.readable(text)
    view = {
        "name": name,
        "stem": stem,
        "facts": facts(sample),
        "check": verdict(sample.get("validity")),
        "n_chars": n_chars,
        "length": len(text),
        "unread": unread,
        "files": links(folder, stem),
        "runs": shaded_runs(text, sample.get("surprisal_bits") or [], prompt),
        "score": None,
        "roll": None,
    }
    if not notation.has_notes(tune):
        return view
    path = folder / f"{stem}.svg"
    if path.exists():
        svg, drawn = path.read_text(encoding="utf-8"), sample.get("pictures") or {}
    else:
        engraved = pictures.pictures(text, len(prompt))
        svg, drawn = engraved.score_svg or "", engraved._asdict()
    given, notes = notation.given_bars(text, len(prompt)), notation.notes_in_seconds(tune)
    see_file = f"The score would make this page too large: see generated/{stem}.svg."
    n_drawn, n_bars = drawn.get("bars_drawn"), drawn.get("bars")
    remarks = {
        f"Bars 1–{n_drawn} of {n_bars}.": n_drawn and n_bars and n_drawn < n_bars,
        GIVEN: any(given.values()),
        WRONG: notation.WRONG in svg.lower(),
        REALIGNED: notation.at_bar_lines(tune) is not tune,
    }
    return view | {
        "score": Picture(svg, f"score of {name}", see_file) if svg else None,
        "no_score": f"No score: {value_at(drawn, 'reasons.score') or 'none was drawn'}.",
        "remarks": [words for words, holds in remarks.items() if holds],
        "roll": Picture(pictures.piano_roll(tune, given), "notes over time", see_file),
        "notes": notes,
        "seconds": max(onset + duration for onset, duration, _, _ in notes),
    }


def pictures_of(views):
    """Returns the pictures of samples, in their order."""
    return [picture for view in views for picture in (view["score"], view["roll"]) if picture]


def facts(sample):
    """Returns what is known of a sample, in two lines of several items each."""
    kind = sample.get("type") or "unconditional"
    source = f", from {sample['prompt_source']}" if sample.get("prompt_source") else ""
    origin = [PROMPTS.get(kind, kind) + source, WAYS.get(sample.get("bars"))]
    for key, off in SAMPLER.items():
        if sample.get(key) not in (None, off):
            origin.append(f"{key.replace('_', '-')} {sample[key]}")
    check = sample.get("validity") or {}
    music = []
    for word in ("note", "bar", "voice"):
        n = check.get(f"n_{word}s")
        if n is not None:
            music.append(f"{n:,} {word}{'s' * (n != 1)}")
    music += [f"{len(sample['text']):,} characters", ENDS.get(sample.get("stop_reason"))]
    if check.get("bar_accuracy") is not None:
        music.append(f"bar accuracy {check['bar_accuracy']:.2f}")
    if judge := value_at(sample, "cross_checks.abc2midi"):
        music.append("abc2midi: clean" if judge.get("clean") else "abc2midi: not clean")
    copied = value_at(sample, "novelty.longest_copied_chars")
    if copied is not None:
        music.append(f"longest run copied from training: {run_in_words(copied)} characters")
    return [list(filter(None, origin)), list(filter(None, music))]


def verdict(check):
    """Returns level, badges (name, words, passed) and errors (line, kind, message) of a sample;
    None if it was not checked."""
    if not check:
        return None
    errors = check.get("errors") or []
    return {
        "level": check["level"],
        "is_valid": check["level"] >= VALID_LEVEL,
        "badges": [(name, LEVEL_WORDS[name], bool(check.get(name))) for name in LEVELS],
        "errors": errors[:MAX_ERRORS],
        "n_errors": max(check.get("n_errors") or 0, len(errors)),
    }


def first_of(views, rows):
    """Returns (place of the sample that the page begins with, its rule in words), (None, "") if
    none can be played.

    Order: valid, unprompted, free bars, level, bar accuracy; the first drawn of equals. rows:
    metadata of the same order.
    """

    def merit(i):
        check = rows[i].get("validity") or {}
        level, accuracy = check.get("level") or 0, check.get("bar_accuracy") or 0
        is_free, is_unprompted = rows[i].get("bars") != "right", not rows[i].get("prompt")
        return level >= VALID_LEVEL, is_unprompted, is_free, level, accuracy, -i

    playable = [i for i, view in enumerate(views) if view["roll"]]
    if not playable:
        return None, ""
    best = max(playable, key=merit)
    is_valid, is_unprompted, is_free, *_ = merit(best)
    if not is_valid:
        return best, f"None of the {len(views)} samples is valid; this one comes nearest."
    how = "no prompt" if is_unprompted else "a prompt"
    bars = WAYS["free" if is_free else "right"]
    return best, f"Chosen by rule, the best of {len(views)}: valid, {how}, {bars}."


def shade_words():
    """Returns what each shade of surprisal means, in order."""
    return [f"up to {SURPRISAL_STEPS[0]:g}", *(f"over {step:g}" for step in SURPRISAL_STEPS)]


def shaded_runs(text, bits, prompt):
    """Returns [(shade, characters)] of ABC text by surprisal: 0 to len(SURPRISAL_STEPS), or
    "prompt", which is not shaded.

    bits: a number for each character of the text, or of what follows the prompt.
    """
    bits = [None] * len(prompt) + bits if len(bits) == len(text) - len(prompt) else bits
    shades = []
    for i, character in enumerate(text):
        value = bits[i] if i < len(bits) else None
        if i < len(prompt):
            shades.append("prompt")
        elif shades and character == "\n":  # a shade at the end of a line could not be seen
            shades.append(shades[-1])
        else:
            shades.append(0 if value is None else sum(value > step for step in SURPRISAL_STEPS))
    runs = itertools.groupby(zip(shades, text), key=lambda pair: pair[0])
    return [(shade, "".join(character for _, character in run)) for shade, run in runs]
