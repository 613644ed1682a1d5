"""Pictures of samples and part4_outputs/report.html, one page without network that shows, plays and judges them.

Scores are engraved by verovio from MusicXML that music21 writes from the note events of abc_text.read_abc: music21's
own ABC reader gets accidentals and tied chords wrong, and verovio draws several ABC voices one after the other.
Generated text is hostile input: whatever third-party code draws it runs in a child process with a time limit, and
everything that enters the page is escaped or rebuilt from an allow-list.
"""

import base64
import contextlib
import hashlib
import html
import itertools
import json
import math
import re
import statistics
import struct
import subprocess
import sys
import zlib
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

from study import stage
from music.abc_text import AbcError, parse_key, read_abc

SCORE_BARS = {1: 32, 2: 32, 3: 24}  # voices -> bars drawn; more voices get SCORE_BARS_MANY
SCORE_BARS_MANY = 16
SCORE_NOTES = 3000           # at most so many notes are engraved: a 5,000-character bar is no music
ENGRAVE_SECONDS = 20         # verovio takes 0.1 s a page; what takes longer hangs
SCORE_PIXELS = 1400          # width of the score's PNG
ROLL_PIXELS = 1200           # width of the piano roll's PNG
WRONG = "#b3261e"            # notes of bars that do not have their meter's length
VOICE_COLOURS = ("#3366aa", "#b8621b", "#3f8f5f", "#8a5aa8", "#a23b52", "#5f7f1f", "#2f8f9f", "#7a6a55")


# ---------------------------------------------------------------- what can be read of a text

def readable(text):
    """(tune, n_chars, reason): the tune in a text, or in its longest prefix that ends at a bar line.

    n_chars: how much of the text the tune comes from; reason: why the rest could not be read (None if all of it
    could); tune is None if not even the first bar can be read.
    """
    try:
        return read_abc(text), len(text), None
    except AbcError as error:
        reason, line = str(error), max(getattr(error, "line", 1) or 1, 1)
    starts = [0] + [match.end() for match in re.finditer("\n", text)]
    end = starts[line] if line < len(starts) else len(text)
    bar_ends = [match.end() for match in re.finditer(r"\|", text[:end])][::-1]
    for cut in [end] + bar_ends[:200]:  # the first error stands in the last line: a bar or two back is enough
        with contextlib.suppress(AbcError):
            tune = read_abc(text[:cut] + "\n")
            if any(voice.notes for voice in tune.voices):
                return tune, cut, reason
    return None, 0, reason


# ---------------------------------------------------------------- notes to notation

def fifths_of(key):
    """Sharps (+) or flats (-) of a K: value such as "G" or "Bbm"; 0 if it cannot be read."""
    with contextlib.suppress(ValueError):
        return max(-7, min(7, sum(parse_key(key or ""))))
    return 0


def spell(pitch, fifths):
    """(letter, alteration, octave) of a MIDI pitch in a key: the note nearest to the key on the line of fifths.

    >>> spell(70, -3), spell(66, 1), spell(68, 0)
    (('B', -1, 4), ('F', 1, 4), ('G', 1, 4))
    """
    place = fifths - 3 + (7 * pitch - (fifths - 3)) % 12  # three steps to the flat side of the tonic, eight to sharps
    letter, alter = "FCGDAEB"[(place + 1) % 7], (place + 1) // 7
    natural = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}[letter]
    return letter, alter, (pitch - alter - natural) // 12 - 1


HEADS = tuple(Fraction(n, 8) for n in (32, 24, 16, 12, 8, 6, 4, 2, 1))  # quarter notes, the longest first


def _is_plain(length):
    """True if one note head (with at most one dot, or in a triplet) has this length in quarter notes."""
    for value in (length, length * 3 / 2):
        if value <= 6 and value.denominator & (value.denominator - 1) == 0 and value.denominator <= 16:
            odd = value.numerator
            while odd % 2 == 0:
                odd //= 2
            return odd in ((1, 3) if value == length else (1,))
    return False


def split_length(start, length, beat=Fraction(1)):
    """A length that starts at `start` in its bar (quarter notes) as lengths of tied note heads, split at beats.

    >>> [str(x) for x in split_length(Fraction(0), Fraction(5, 4))]
    ['1', '1/4']
    """
    pieces = []
    while length > 0:
        to_beat = beat - start % beat
        off_beat = start % (beat / 2) != 0 and to_beat < length
        if _is_plain(length) and not off_beat:
            take = length
        elif start % beat and to_beat <= length:
            finer = Fraction(1, 2) if beat > 1 else beat / 2
            if not _is_plain(to_beat) and beat > Fraction(1, 8) and start.denominator & (start.denominator - 1) == 0:
                pieces += split_length(start, to_beat, finer)
                start, length = start + to_beat, length - to_beat
                continue
            take = to_beat
        else:
            take = next((value for value in HEADS if value <= length), length)
            whole = length - length % beat
            if whole and length.denominator % 3 == 0:
                take = min(take, whole) if _is_plain(min(take, whole)) else beat
        pieces.append(take)
        start, length = start + take, length - take
    return pieces


def bar_slices(notes, start, stop):
    """A bar of one voice as [(onset in the bar, length, [(pitch, tied from before, tied on)])], rests as [].

    Notes that overlap without being a chord are cut at every beginning and ending and tied.
    """
    spans = [(note.onset, note.onset + note.duration, note.pitch) for note in notes]
    spans = [span for span in spans if span[0] < stop and span[1] > start]
    edges = sorted({start, stop} | {edge for span in spans for edge in span[:2] if start < edge < stop})
    slices = []
    for a, b in zip(edges, edges[1:]):
        chord = {pitch: (pitch, onset < a, end > b) for onset, end, pitch in spans if onset <= a and end >= b}
        slices.append((a - start, b - a, sorted(chord.values())))
    return slices


def bars_to_draw(tune):
    """How many bars the score shows."""
    bars = min(max((len(voice.bars) for voice in tune.voices), default=0),
               SCORE_BARS.get(len(tune.voices), SCORE_BARS_MANY))
    while bars > 1 and sum(bar.n_notes for voice in tune.voices for bar in voice.bars[:bars]) > SCORE_NOTES:
        bars -= 1
    return bars


def is_wrong(voice, i):
    """True if bar i of a voice has not the length of its meter (a shorter first or last bar is right)."""
    bar = voice.bars[i]
    if bar.meter is None or bar.length == bar.meter:
        return False
    return bar.length > bar.meter or 0 < i < len(voice.bars) - 1


def musicxml(tune, n_bars):
    """The first bars of a tune as MusicXML (bytes), written by music21 from our note events."""
    from music21 import layout, note, stream, tempo  # 0.3 s, and needed here only
    from music21.musicxml.m21ToXml import GeneralObjectExporter

    score = stream.Score()
    for voice in tune.voices:
        score.insert(0, _part(voice, tune, n_bars))
    if tune.tempo and score.parts:
        score.parts[0].getElementsByClass(stream.Measure)[0].insert(
            0, tempo.MetronomeMark(number=round(tune.tempo), referent=note.Note(type="quarter").duration))
    if len(tune.voices) > 1:
        score.insert(0, layout.StaffGroup(list(score.parts), symbol="bracket"))
    exporter = GeneralObjectExporter(score)
    exporter.makeNotation = False
    return exporter.parse(score)


def _part(voice, tune, n_bars):
    from music21 import clef, key, meter, stream

    part, fifths, shown_meter = stream.Part(), fifths_of(tune.key), tune.meter
    pitches = [n.pitch for n in voice.notes]
    middle = statistics.median(pitches) if pitches else 64
    clefs = clef.Bass8vbClef if middle < 36 else clef.BassClef if middle < 57 else \
        clef.TrebleClef if middle <= 88 else clef.Treble8vaClef
    for i in range(n_bars):
        measure = stream.Measure(number=i + 1)
        bar = voice.bars[i] if i < len(voice.bars) else None
        text = bar.text if bar else ""
        new_key, new_meter = re.search(r"\[K:([^\]]*)\]", text), re.search(r"\[M:([^\]]*)\]", text)
        if new_key:
            fifths = fifths_of(new_key[1])
        if i == 0:
            measure.insert(0, clefs())
        if i == 0 or new_key:
            measure.insert(0, key.KeySignature(fifths))
        if i == 0 or new_meter:
            shown_meter = new_meter[1].strip() if new_meter else shown_meter
            with contextlib.suppress(Exception):  # M:none and other free meters have no sign
                measure.insert(0, meter.TimeSignature({"C": "4/4", "C|": "2/2"}.get(shown_meter, shown_meter)))
        _fill(measure, voice, i, bar, fifths, shown_meter)
        part.append(measure)
    with contextlib.suppress(Exception):  # beams are a nicety; an over-full bar has none
        part.makeBeams(inPlace=True)
    return part


def _fill(measure, voice, i, bar, fifths, shown_meter):
    """Puts the notes of bar i into a measure, with ties, accidentals and triplet brackets."""
    from music21 import chord, duration, note, pitch, tie
    from music21.stream.makeNotation import makeTupletBrackets

    if bar is None or not bar.n_notes or not bar.length:
        rest = note.Rest(quarterLength=(bar and bar.length) or (bar and bar.meter) or Fraction(4))
        rest.fullMeasure = True
        measure.append(rest)
        return
    beat = Fraction(3, 2) if re.fullmatch(r"(6|9|12)/8", shown_meter or "") else Fraction(1)
    if i == 0 and bar.meter and bar.length < bar.meter:
        measure.paddingLeft = bar.meter - bar.length
    shift = bar.meter - bar.length if i == 0 and bar.meter and bar.length < bar.meter else 0  # beats of a pickup bar
    in_force = {}  # (letter, octave) -> alteration
    signature = {letter: 1 for letter in "FCGDAEB"[:max(fifths, 0)]} | {
        letter: -1 for letter in "FCGDAEB"[::-1][:max(-fifths, 0)]}
    for onset, length, sounding in bar_slices(voice.notes, bar.onset, bar.onset + bar.length):
        pieces = split_length(onset + shift, length, beat)
        for k, piece in enumerate(pieces):
            value = duration.Duration(piece)
            if value.type in ("inexpressible", "complex"):
                raise ValueError(f"bar {i + 1} has a note of {piece} quarters, which no note head can show")
            if not sounding:
                measure.append(note.Rest(duration=value))
                continue
            heads = []
            for midi, tied_in, tied_on in sounding:
                letter, alter, octave = spell(midi, fifths)
                head = note.Note()
                head.pitch = pitch.Pitch(step=letter, octave=octave, accidental=alter)
                before, after = tied_in or k > 0, tied_on or k < len(pieces) - 1
                shown = not before and in_force.get((letter, octave), signature.get(letter, 0)) != alter
                if head.pitch.accidental is None and shown:
                    head.pitch.accidental = pitch.Accidental(0)
                if head.pitch.accidental is not None:
                    head.pitch.accidental.displayStatus = shown
                in_force[letter, octave] = alter
                if before or after:
                    head.tie = tie.Tie("continue" if before and after else "stop" if before else "start")
                if is_wrong(voice, i):
                    head.style.color = WRONG
                heads.append(head)
            event = heads[0] if len(heads) == 1 else chord.Chord(heads)
            event.duration = value
            if is_wrong(voice, i):
                event.style.color = WRONG
            measure.append(event)
    makeTupletBrackets(measure, inPlace=True)


# ---------------------------------------------------------------- engraving and pictures

ENGRAVER = """
import sys, verovio
verovio.enableLog(verovio.LOG_OFF)
kit = verovio.toolkit()
kit.setOptions({"pageWidth": 1800, "pageHeight": 60000, "adjustPageHeight": True, "scale": 100, "breaks": "auto",
                "header": "none", "footer": "none", "svgViewBox": True, "svgRemoveXlink": True, "xmlIdSeed": 1,
                "pageMarginLeft": 20, "pageMarginRight": 20, "pageMarginTop": 20, "pageMarginBottom": 20,
                "spacingSystem": 8, "mnumInterval": 0, "unit": 8, "smuflTextFont": "none"})
if not kit.loadData(sys.stdin.read()):
    sys.exit("verovio could not read the score")
sys.stdout.write(kit.renderToSVG(1))
"""


def engrave(xml):
    """(svg, None) or (None, reason): verovio in a child process, because it can crash and can hang."""
    try:
        done = subprocess.run([sys.executable, "-I", "-c", ENGRAVER], input=xml, capture_output=True,
                              timeout=ENGRAVE_SECONDS)
    except subprocess.TimeoutExpired:
        return None, f"verovio took more than {ENGRAVE_SECONDS} s"
    if done.returncode < 0:
        return None, f"verovio ended with signal {-done.returncode}"
    if done.returncode or not done.stdout.strip():
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no picture"]
        return None, "verovio is not installed" if "No module named 'verovio'" in last[0] else last[0][:200]
    # the note of a tempo mark comes from verovio's own font, 60 kB a picture: take the one every font has
    return re.sub(r'<tspan font-family="Leipzig" font-size="\d+px">[^<]*</tspan>',
                  '<tspan font-size="560px" font-weight="normal">\u2669</tspan>', done.stdout.decode("utf-8")), None


def piano_roll(tune, width=1000, height=260):
    """All notes of a tune as an SVG picture: time to the right, pitch upward, a colour for each voice, bar lines."""
    notes = [(n.onset, n.duration, n.pitch, v) for v, voice in enumerate(tune.voices) for n in voice.notes]
    if not notes:
        return None
    end = max(onset + duration for onset, duration, _, _ in notes)
    low, high = min(n[2] for n in notes) - 2, max(n[2] for n in notes) + 3
    left, x_scale, y_scale = 34, (width - 40) / float(end), (height - 24) / (high - low)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
           'font-family="DejaVu Sans" font-size="10">']
    for c in range(12 * math.ceil(low / 12), high, 12):
        y = (high - c) * y_scale
        out.append(f'<path d="M{left} {y:.1f}H{width - 6}" stroke="currentColor" stroke-opacity=".25" fill="none"/>'
                   f'<text x="{left - 5}" y="{max(y, 9):.1f}" text-anchor="end" fill="currentColor">'
                   f"C{c // 12 - 1}</text>")
    bars = max((voice.bars for voice in tune.voices), key=len)
    step = max(1, math.ceil(len(bars) / 16))
    lines = "".join(f"M{left + float(bar.onset) * x_scale:.1f} 0V{height - 24}" for bar in bars)
    out.append(f'<path d="{lines}" stroke="currentColor" stroke-opacity=".18" fill="none"/>')
    out += [f'<text x="{left + float(bar.onset) * x_scale:.1f}" y="{height - 10}" fill="currentColor">{i + 1}</text>'
            for i, bar in enumerate(bars) if i % step == 0]
    for v in range(len(tune.voices)):
        path = "".join(f"M{left + float(onset) * x_scale:.1f} {(high - pitch - 1) * y_scale:.1f}"
                       f"h{max(float(duration) * x_scale - .6, .8):.1f}v{max(y_scale - .4, .8):.1f}"
                       f"h-{max(float(duration) * x_scale - .6, .8):.1f}z"
                       for onset, duration, pitch, voice in notes if voice == v)
        out.append(f'<path d="{path}" fill="{VOICE_COLOURS[v % len(VOICE_COLOURS)]}" fill-opacity=".85"/>')
    return "".join(out) + "</svg>"


def to_png(svg, width):
    """PNG bytes of an SVG on white; ImportError without resvg-py, ValueError if it cannot be drawn."""
    import matplotlib
    import resvg_py

    fonts = Path(matplotlib.get_data_path()) / "fonts/ttf"  # the same picture on every machine
    return bytes(resvg_py.svg_to_bytes(
        svg_string=svg, width=width, background="#ffffff", skip_system_fonts=True,
        font_files=[str(fonts / name) for name in ("DejaVuSerif.ttf", "DejaVuSans.ttf", "DejaVuSerif-Bold.ttf")],
        font_family="DejaVu Serif", serif_family="DejaVu Serif", sans_serif_family="DejaVu Sans"))


def draw_sample(tune_text, folder, stem):
    """Writes <stem>.svg and .png (score) and <stem>_roll.svg and .png (piano roll) into a folder.

    Returns {"score_svg", "score_png", "roll_svg", "roll_png": file name or None, "reasons": {picture: why it is
    missing}, "bars_drawn", "bars", "drawn_chars": how much of the text could be read, "unread": why the rest could
    not (None if all could)}. Never raises on any text.
    """
    folder = Path(folder)
    made = {"score_svg": None, "score_png": None, "roll_svg": None, "roll_png": None, "reasons": {},
            "bars_drawn": 0, "bars": 0, "drawn_chars": 0, "unread": None}
    for suffix in (".svg", ".png", "_roll.svg", "_roll.png"):
        (folder / f"{stem}{suffix}").unlink(missing_ok=True)  # an older picture must not stand beside new text
    tune, made["drawn_chars"], made["unread"] = readable(tune_text)
    if tune is None or not any(voice.notes for voice in tune.voices):
        why = "no bar of the text can be read" if tune is None else "the text has no note"
        made["reasons"] = {"score": why, "roll": why}
        return made
    made["bars"], made["bars_drawn"] = max(len(voice.bars) for voice in tune.voices), bars_to_draw(tune)
    try:
        score, why = engrave(musicxml(tune, made["bars_drawn"]))
    except Exception as error:  # music21 meets texts that nobody foresaw; the page goes on without this score
        score, why = None, f"music21 could not write it: {type(error).__name__}: {error}"[:200]
    if why:
        made["reasons"]["score"], made["bars_drawn"] = why, 0
    pictures = (("score", score, "", SCORE_PIXELS), ("roll", piano_roll(tune), "_roll", ROLL_PIXELS))
    for kind, svg, suffix, width in pictures:
        if not svg:
            continue
        stage.write_text(folder / f"{stem}{suffix}.svg", svg)
        made[f"{kind}_svg"] = f"{stem}{suffix}.svg"
        try:
            stage.write_bytes(folder / f"{stem}{suffix}.png", to_png(svg, width))
            made[f"{kind}_png"] = f"{stem}{suffix}.png"
        except (ImportError, ValueError) as error:
            made["reasons"][f"{kind}_png"] = ("resvg-py is not installed" if isinstance(error, ImportError)
                                              else str(error)[:200])
    return made


# ---------------------------------------------------------------- SVG that may enter the page

SVG_TAGS = {"svg", "g", "path", "use", "rect", "circle", "ellipse", "line", "polyline", "polygon", "text", "tspan",
            "defs", "clipPath", "image", "symbol", "linearGradient", "stop"}
SVG_ATTRIBUTES = {
    "d", "x", "y", "x1", "y1", "x2", "y2", "dx", "dy", "width", "height", "viewBox", "transform", "points", "r", "rx",
    "ry", "cx", "cy", "fill", "fill-opacity", "fill-rule", "stroke", "stroke-width", "stroke-opacity", "stroke-linecap",
    "stroke-linejoin", "stroke-dasharray", "opacity", "clip-path", "clip-rule", "id", "href", "style", "color",
    "font-size", "font-family", "font-weight", "font-style", "text-anchor", "dominant-baseline", "offset", "stop-color",
    "preserveAspectRatio", "clipPathUnits", "gradientUnits", "overflow"}
SVG_CLASSES = {"tempo", "mNum", "page-margin"}  # what the page's style sheet knows of verovio's classes
_LINE = re.compile(r'<path d="([^"]*)"')
_LINES = re.compile(  # straight lines of one width in a row (staff lines, ledger lines): one element for all
    r'<path d="M[\d.-]+ [\d.-]+ ?L[\d.-]+ [\d.-]+" stroke-width="(\d+)"/>'
    r'(?:<path d="M[\d.-]+ [\d.-]+ ?L[\d.-]+ [\d.-]+" stroke-width="\1"/>)+')
_XLINK = "{http://www.w3.org/1999/xlink}href"


def inline_svg(svg, prefix, label):
    """An SVG picture rebuilt for the page from an allow-list: no script, style sheet, event handler or outside link,
    identifiers that no other picture has, black and white as the page's own colours, numbers of two decimals.

    Raises ValueError if it is not SVG.
    """
    if "<!ENTITY" in svg:
        raise ValueError("it defines entities")
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise ValueError(f"it is not XML: {error}") from None
    if root.tag.rpartition("}")[2] != "svg":
        raise ValueError("it is not SVG")
    used = set(re.findall(r"(?:href=[\"']|url\()#([^\"')]+)", svg))
    names = {name: f"{prefix}{i}" for i, name in enumerate(sorted(used))}
    size = root.get("viewBox") or "0 0 {} {}".format(*(re.sub(r"[^\d.]", "", root.get(side, "")) or "100"
                                                      for side in ("width", "height")))
    inside = "".join(_rebuild(child, names) for child in root)
    inside = _LINES.sub(lambda run: f'<path d="{"".join(_LINE.findall(run[0]))}" stroke-width="{run[1]}"/>', inside)
    width = ""
    if re.fullmatch(r"[\d.]+pt", root.get("width", "")):  # a plot: neither blown up nor too small to read
        points = float(root.get("width")[:-2])
        width = f' style="min-width:{0.75 * points:.0f}px;max-width:{1.5 * points:.0f}px"'
    return f'<svg viewBox="{html.escape(size)}"{width} role="img" aria-label="{html.escape(label)}">{inside}</svg>'


def _rebuild(element, names):
    tag = element.tag.rpartition("}")[2] if isinstance(element.tag, str) else None  # comments have no name
    if tag not in SVG_TAGS or "placeholder" in element.get("class", "").split():  # verovio's own marks, not music
        return ""
    attributes = []
    for name, value in element.attrib.items():
        name = "href" if name == _XLINK else name
        if name == "id":
            value = names.get(value)
        elif name == "class":
            value = " ".join(set(value.split()) & SVG_CLASSES)
        elif name == "href":
            value = (f"#{names.get(value[1:], '')}" if value.startswith("#")
                     else value if re.match(r"data:image/png;base64,[\w+/=\s]*$", value) else None)
        elif name not in SVG_ATTRIBUTES:
            continue
        elif name in ("d", "points", "x", "y"):
            value = re.sub(r"-?\d*\.\d{3,}", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), value)
            value = re.sub(r"\s+", " ", value).strip().replace(" L", "L")
        elif name == "transform":
            value = re.sub(r"scale\(([\d.]+) \1\)", r"scale(\1)", re.sub(r"[\s,]+", " ", value)).replace(") ", ")")
        else:
            value = _own_colours(re.sub(r"url\(#([^)]*)\)", lambda m: f"url(#{names.get(m[1], '')})", value))
        if value and not re.search(r"url\((?!#)|expression|javascript:|@import|image-set|/\*|\\", value):
            attributes.append(f' {name}="{html.escape(value)}"')
    text, inside = html.escape(element.text or ""), ""
    for child in element:
        inside += _rebuild(child, names) + (html.escape(child.tail or "") if tag in ("text", "tspan") else "")
    inside = (text if tag in ("text", "tspan") and text.strip() else "") + inside
    if tag in ("g", "defs") and not inside:
        return ""
    if tag == "g" and not attributes:
        return inside
    return f"<{tag}{''.join(attributes)}" + (f">{inside}</{tag}>" if inside else "/>")


def _own_colours(value):
    """Greys as mixtures of the page's ink and paper, the red of wrong bars as the page's red: both know the dark."""
    def grey(match):
        level = int((match[1] * 2)[:2], 16)
        share = round(100 * (1 - level / 255))
        mixed = f"color-mix(in srgb,currentColor {share}%,var(--paper))"
        return {100: "currentColor", 0: "var(--paper)"}.get(share, mixed)

    value = re.sub(r"(?<![\w#-])black(?![\w-])", "#000000", re.sub(r"(?<![\w#-])white(?![\w-])", "#ffffff", value))
    value = re.sub(r"#([0-9a-fA-F]{2})\1\1(?![\w])|#([0-9a-fA-F])\2\2(?![\w])",
                   lambda match: grey(match if match[1] else re.match("#(.)", match[0])), value)
    return re.sub(WRONG, "var(--no)", value, flags=re.IGNORECASE)


# ---------------------------------------------------------------- a small chart

def line_chart(points, x_label, y_label, label):
    """An SVG line chart of (x, y) points in the page's own colours; at least two points."""
    (x0, x1), (y0, y1) = ((min(values), max(values)) for values in zip(*points))
    y0, y1 = y0 - 0.06 * (y1 - y0 or 1), y1 + 0.06 * (y1 - y0 or 1)
    width, height, left, right, top, bottom = 640, 300, 56, 14, 12, 44

    def across(x):
        return round(left + (x - x0) / (x1 - x0) * (width - left - right), 1)

    def down(y):
        return round(top + (y1 - y) / (y1 - y0) * (height - top - bottom), 1)

    grid = "".join(f'<path class="grid" d="M{left} {down(y)}H{width - right}"/>'
                   f'<text x="{left - 6}" y="{down(y) + 4}" text-anchor="end">{y:g}</text>' for y in _ticks(y0, y1))
    scale = "".join(f'<text x="{across(x)}" y="{height - bottom + 17}" text-anchor="middle">{x:g}</text>'
                    for x in _ticks(x0, x1))
    line = "L".join(f"{across(x)} {down(y)}" for x, y in sorted(points))
    return (f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(label)}" class="chart">'
            f'{grid}{scale}<path d="M{line}" fill="none" stroke="{VOICE_COLOURS[0]}" stroke-width="2"/>'
            f'<text x="{(left + width - right) / 2}" y="{height - 6}" text-anchor="middle">'
            f"{html.escape(x_label)}</text>"
            f'<text transform="translate(13 {(height - bottom + top) / 2}) rotate(-90)" text-anchor="middle">'
            f"{html.escape(y_label)}</text></svg>")


def _ticks(low, high, n=5):
    step = 10 ** math.floor(math.log10((high - low) / n))
    step *= next((m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= n), 10)
    return [round(k * step, 10) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


# ---------------------------------------------------------------- words and numbers

LEVELS = ("header", "tokens", "content", "meter", "aligned")
LEVEL_WORDS = {
    "header": "the header parses", "tokens": "every character is ABC",
    "content": "at least 16 notes, 4 bars, 4 pitches, at most 75 % rest bars",
    "meter": "every bar has its meter's length", "aligned": "all voices have the same bars"}
LAWS = ("scaling", "curves", "efficiency", "loss_by_position", "residuals", "alpha_choices", "joint", "joint_region")
OTHER_FIGURES = {  # of this project's own: section -> file -> caption; the laws bring theirs in RESULTS.json
    "validity": {"sampler": "The sweep that chose the sampler, prompted with headers of validation tunes. "
                            "Grey: the validation tunes themselves."},
    "skills": {"skills": "Which skill appears at which size: unprompted samples of every model. "
                         "Grey: held-out music under the same length limit."},
}
LEFT_OUT = {"ladder"}  # the page has it as a table
MUSIC = {  # metric -> words
    "pitch_class_entropy": "pitch-class entropy, bits", "scale_consistency": "scale consistency",
    "in_key_share": "notes in their key", "groove_consistency": "groove consistency (16 positions)",
    "polyphony": "pitches sounding at once", "notes_per_bar": "notes per bar", "pitch_range": "pitch range, semitones",
    "rest_share": "rest share", "bar_repetition": "bars heard before", "leap_share": "leaps"}
JSD = {"duration": "durations", "interval": "intervals", "onset": "positions in the bar",
       "pitch_class": "pitch classes"}
SURPRISAL_STEPS = (0.25, 1, 2, 4, 6)  # bits; a character above step i gets shade i + 1
PAGE_BYTES = 3_000_000                # the page stays below; scores and figures beyond it are left to their files


def pick(value, *paths):
    """The first of these dotted paths that leads to something in nested dicts; None if none does.

    >>> pick({"a": {"b": 3}}, "a.x", "a.b")
    3
    """
    for path in paths:
        found = value
        for part in path.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found is not None:
            return found
    return None


def number(value, digits=2, unit=""):
    """A number for people; an en dash where there is none."""
    if not _is_number(value):
        return "–"
    return (f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}") + unit


def percent(rate):
    return f"{100 * rate:.0f} %" if _is_number(rate) else "–"


def interval(pair, digits=2, scale=1, unit=""):
    """" (95 %: 0.10–0.34)", open ends in words, or nothing without an interval."""
    if not (isinstance(pair, (list, tuple)) and len(pair) == 2):
        return ""
    low, high = (f"{value * scale:.{digits}f}" if _is_number(value) else None for value in pair)
    if low is None or high is None:
        words = "without bounds" if low == high else f"from {low} without bound" if low else f"up to {high}"
        return f" (95 %: {words})"
    return f" (95 %: {low}–{high}{unit})"


def rate_cell(row):
    """A rate and, on a line of its own, its interval."""
    pair = row.get("interval")
    known = isinstance(pair, (list, tuple)) and len(pair) == 2 and all(map(_is_number, pair))
    return percent(row.get("rate")) + (f"<small>{100 * pair[0]:.0f}–{100 * pair[1]:.0f} %</small>" if known else "")


def esc(value):
    return html.escape(str(value))


def absent(words):
    """A line that says what is missing."""
    return f'<p class="absent">{esc(words)}</p>'


def table(head, rows, caption):
    """An HTML table in a box that scrolls on a phone. Cells are HTML already."""
    body = "".join("<tr>" + "".join(f"<th scope=row>{cell}</th>" if i == 0 else f"<td>{cell}</td>"
                                    for i, cell in enumerate(row)) + "</tr>" for row in rows)
    columns = "".join(f"<th scope=col>{cell}</th>" for cell in head)
    return (f'<p class="caption">{esc(caption)}.</p><div class="wide" tabindex=0 role=region aria-label="table">'
            f'<table aria-label="{esc(caption)}"><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>')


# ---------------------------------------------------------------- parts of the page

def answer(results):
    """The answer in two sentences, with its uncertainty, and below it what the results call a failure."""
    found, open_laws = [], []
    for family, word in (("transformer", "Transformers"), ("lstm", "LSTMs")):
        fit = pick(results, f"fits.{family}") or {}
        if not _is_number(fit.get("alpha")):
            if reason := pick(results, f"fits.refused.{family}"):
                open_laws.append(f"the {word} give no law ({esc(reason)})")
        elif fit.get("identified"):
            found.append(f"α = {fit['alpha']:.2f}{interval(fit.get('alpha_interval'))} for {word}")
        else:
            open_laws.append(f"the sizes of the {word} do not pin it down, best fit α = {fit['alpha']:.2f}"
                             f"{interval(fit.get('alpha_interval'))}")
    law, sentences = "L(N) = a·N<sup>−α</sup> + c", []
    if found:
        sentences.append(f"Loss falls with model size along {law}, with {' and '.join(found)}"
                         + "".join(f"; {words}" for words in open_laws) + ".")
    elif open_laws:
        sentences.append(f"This run cannot say by what law {law} loss falls with size: {'; '.join(open_laws)}.")
    bits, ngram = pick(results, "best.test_bits_per_char"), best_ngram(results)
    rate, pair = pick(results, "evaluation.abc_validity_rate"), pick(results, "evaluation.validity.interval")
    if _is_number(bits):
        sentence = f"The best model needs {bits:.2f} bits per character of unseen music"
        sentence += f" (the best n-gram {ngram:.2f})" if ngram else ""
        if _is_number(rate):
            sentence += (f", and {percent(rate)} of its {number(pick(results, 'evaluation.validity.n'))} first-try "
                         f"samples are valid music{interval(pair, 0, 100, ' %')}")
        sentences.append(sentence + ".")
    warnings = "".join(f"<li>{esc(words)}</li>" for words in pick(results, "headline.warnings") or [])
    return ("<p>" + (" ".join(sentences) or "The results hold no fit and no best model yet.") + "</p>"
            + (f'<ul class="warnings">{warnings}</ul>' if warnings else ""))


def best_ngram(results):
    """Test bits per character of the best n-gram model, or None."""
    found = [row.get("bits_per_char") for name, row in (pick(results, "baselines.test") or {}).items()
             if "gram" in name and isinstance(row, dict)]
    return min((bits for bits in found if _is_number(bits)), default=None)


def headline_numbers(results):
    """Model, ceiling and floors of every headline number in one table."""
    def base(name):
        return pick(results, f"baselines.test.{name}.bits_per_char")

    rows, kinds = {}, ("model", "real", "ngram", "random")
    for row in ladder_rows(results):
        rows.setdefault(row.get("kind"), row)  # of several n-grams the longest, which comes first
    of, ngram, novelty = (lambda kind: rows.get(kind, {})), best_ngram(results), "evaluation.novelty"
    simple = f"<small>unigram; uniform {number(base('uniform'))}</small>"
    table_rows = [
        ["Bits per character of test music", number(pick(results, "best.test_bits_per_char")), "–", number(ngram),
         f"{number(base('unigram'))}{simple}" if base("unigram") else "–"],
        ["Perplexity per character", number(pick(results, "best.test_perplexity")), "–",
         number(2 ** ngram if ngram else None), number(2 ** base("unigram") if base("unigram") else None)],
        ["Valid at the first try (level 4)", *(rate_cell(of(kind)) for kind in kinds)],
        ["Bars of the right length", *(percent(of(kind).get("bar_accuracy")) for kind in kinds)],
        ["Compiled cleanly by abc2midi", *(percent(of(kind).get("judge_rate")) for kind in kinds)],
        ["Characters copied from training, runs of 32 and more",
         percent(pick(results, f"{novelty}.generated.copied_share")),
         percent(pick(results, f"{novelty}.heldout_baseline.copied_share")), "–", "–"],
        ["Longest copied run, characters", number(pick(results, f"{novelty}.generated.longest_copied_chars")),
         number(pick(results, f"{novelty}.heldout_baseline.longest_copied_chars")), "–", "–"]]
    table_rows = [row for row in table_rows if any(cell != "–" for cell in row[1:])]
    return table(["", "best model", "real music", "n-gram", "random"], table_rows,
                 "The best model beside real music, an n-gram model and random text") if table_rows else ""


def run_table(results):
    """The runs behind the fits."""
    rows = [[esc(row.get("name")), number(row.get("params_total")), number(row.get("train_nats_per_char"), 3),
             number(row.get("val_nats_per_char"), 3), number(row.get("test_nats_per_char"), 3),
             f"{row['train_flops']:.2e}" if _is_number(row.get("train_flops")) else "–",
             number(row.get("seconds"), 0)]
            for row in pick(results, "runs") or [] if isinstance(row, dict)]
    head = ["", "parameters", "train", "validation", "test", "FLOPs", "seconds"]
    return ("<details><summary>The runs behind it</summary>"
            + table(head, rows, "Loss in nats per character at the end of training") + "</details>") if rows else ""


def music_table(results):
    """Generated against real music, beside what real music differs from real music at the same n."""
    music, rows = pick(results, "music.unprompted") or {}, []
    for key, words in MUSIC.items():
        row = pick(music, f"metrics.{key}") or {}
        rows.append([words, number(row.get("generated_mean")), number(row.get("real_mean")),
                     number(row.get("w1_over_sd")), number(row.get("real_vs_real_mean"))])
    for key, words in JSD.items():
        row = pick(music, f"jsd.{key}") or {}
        rows.append([f"histogram of {words}", "–", "–", number(row.get("generated"), 3),
                     number(row.get("real_vs_real_mean"), 3)])
    rows = [row for row in rows if any(cell != "–" for cell in row[1:])]
    n = number(music.get("n"))
    return table(["", "best model", "real music", "distance", "real to real"], rows,
                 f"Music of {n} unprompted samples. Distance: Wasserstein-1 in standard deviations of real music, for "
                 "histograms Jensen-Shannon in bits; beside it the same between two sets of real music") if rows else ""


def ladder_rows(results):
    """[{"name", "kind": real, model, sampler, ngram, random or floor, "n", "by_level": five rates, "rate",
    "interval", "bar_accuracy", "judge_rate"}]."""
    rows = pick(results, "evaluation.validity.ladder", "samples.ladder") or []
    return [row for row in rows if isinstance(row, dict)]


def ladder(results):
    """Validity by level, one row for each source of text, bars behind the numbers."""
    rows = []
    for row in ladder_rows(results):
        levels = list(row.get("by_level") or [])[:5]
        levels += [None] * (5 - len(levels))
        cells = [f'<span class="bar b{round(20 * rate)}">{percent(rate)}</span>' if _is_number(rate) else "–"
                 for rate in levels]
        rows.append([esc(row.get("name")), number(row.get("n")), *cells, number(row.get("bar_accuracy"))])
    head = ["", "n", *(f"{i}&nbsp;{name}" for i, name in enumerate(LEVELS, 1)), "bar accuracy"]
    words = "".join(f"<li>{name}: {esc(LEVEL_WORDS[name])}</li>" for name in LEVELS)
    return (table(head, rows, "Share of texts that reach each level; valid means level 4")
            + f'<ol class="levels">{words}</ol>') if rows else ""


def badges(check):
    """Level badges and the error list of one sample."""
    if not isinstance(check, dict):
        return absent("No check was recorded.")
    level = check.get("level")
    marks = "".join(
        f'<li class="{"yes" if check.get(name) else "no"}" title="{esc(LEVEL_WORDS[name])}">'
        f'<span aria-hidden=true>{"✓" if check.get(name) else "✗"}</span> {name}'
        f'<span class="hidden">: {"passed" if check.get(name) else "failed"}</span></li>' for name in LEVELS)
    errors = [error for error in check.get("errors") or [] if isinstance(error, (list, tuple)) and len(error) == 3]
    shown = "".join(
        f"<li>line {esc(line)}: {esc(message)} <i>({esc(kind)})</i></li>" for line, kind, message in
        ((e if isinstance(e[0], int) else (e[1], e[0], e[2])) for e in errors[:12]))
    n = max(check.get("n_errors") or 0, len(errors))
    more = f"<li>… and {n - 12} more</li>" if n > 12 else ""
    verdict = "valid" if isinstance(level, int) and level >= 4 else "not valid"
    return (f'<ul class="badges" aria-label="validity levels"><li class="level">level {esc(level)} of 5, {verdict}</li>'
            f"{marks}</ul>"
            + (f"<details{' open' if n <= 3 else ''}><summary>{n} error{'s' * (n != 1)}</summary><ul>{shown}{more}</ul>"
               "</details>" if n else ""))


def coloured(text, bits, prompt):
    """ABC text as HTML, runs of characters shaded by their surprisal; the prompt is marked and not shaded.

    bits: a number for each character of the text, or of what follows the prompt.
    """
    bits = bits if isinstance(bits, list) else []
    bits = [None] * len(prompt) + bits if len(bits) == len(text) - len(prompt) else bits
    shades = []
    for i, character in enumerate(text):
        value = bits[i] if i < len(bits) else None
        shades.append("p" if i < len(prompt) else shades[-1] if shades and character == "\n"  # nothing to be seen
                      else f"s{sum(value > step for step in SURPRISAL_STEPS)}" if _is_number(value) else "s0")
    runs = ((shade, esc("".join(character for _, character in run)))
            for shade, run in itertools.groupby(zip(shades, text), key=lambda pair: pair[0]))
    return "".join(piece if shade == "s0" else f'<span class="{shade}">{piece}</span>' for shade, piece in runs)


def player_notes(tune):
    """[[onset, duration, pitch, voice], ...] in seconds, by onset, for the page's player."""
    changes = sorted(getattr(tune, "tempos", None) or [], key=lambda change: change[0])
    base = tune.tempo or 120.0
    def seconds(at):
        total, last, tempo = 0.0, Fraction(0), base
        for onset, new in changes:
            if onset >= at:
                break
            if new and onset >= last:
                total, last, tempo = total + float(onset - last) * 60 / tempo, onset, new
        return total + float(at - last) * 60 / tempo
    notes = [[round(seconds(n.onset), 3), round(seconds(n.onset + n.duration) - seconds(n.onset), 3), n.pitch, v]
             for v, voice in enumerate(tune.voices) for n in voice.notes]
    return sorted(notes)


def json_block(value):
    """JSON for a <script type=application/json> block: no `<` can end the block or open a comment."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


PROMPTS = {"unconditional": "no prompt", "header": "header given", "bars": "header and first four bars given"}
ENDS = {"end": "ended by the model", "budget": "cut off by the budget"}


def facts(sample, text):
    """What is known of a sample, in two lines."""
    kind = str(sample.get("type") or ("prompted" if sample.get("prompt") else "unconditional"))
    source = f", from {sample['prompt_source']}" if sample.get("prompt_source") else ""
    first = [PROMPTS.get(kind, kind) + source] + [
        f"{word} {sample[key]}" for key, word, off in (
            ("temperature", "temperature", None), ("top_k", "top-k", 0), ("top_p", "top-p", 1), ("min_p", "min-p", 0),
            ("seed", "seed", None)) if sample.get(key) not in (None, off)]
    check = sample.get("validity") or {}
    second = [f"{check[key]:,} {word}{'s' * (check[key] != 1)}" for key, word in (
        ("n_notes", "note"), ("n_bars", "bar"), ("n_voices", "voice")) if _is_number(pick(check, key))]
    second += [f"{len(text):,} characters", ENDS.get(sample.get("stop_reason"), "")]
    if _is_number(pick(check, "bar_accuracy")):
        second.append(f"bar accuracy {check['bar_accuracy']:.2f}")
    if isinstance(judge := pick(sample, "cross_checks.abc2midi"), dict):
        second.append("abc2midi: clean" if judge.get("clean") else "abc2midi: not clean")
    if _is_number(copied := pick(sample, "novelty.longest_copied_chars")):
        second.append(f"longest run copied from training: {copied:,} characters")
    return f'<p class="facts">{esc(" · ".join(first))}<br>{esc(" · ".join(filter(None, second)))}</p>'


def sample_article(sample, folder, i, budget):
    """One sample: verdict, score, piano roll, player, text. budget: bytes its score may take."""
    text, prompt = str(sample.get("text") or ""), str(sample.get("prompt") or "")
    stem = Path(str(sample.get("file") or f"sample_{i:03d}.abc")).stem
    tune, n_chars, unread = readable(text)
    tune = tune if tune and any(voice.notes for voice in tune.voices) else None
    out = [f'<article id="sample-{i}"><h3>Sample {i + 1}</h3>', facts(sample, text), badges(sample.get("validity"))]
    if not tune:
        out.append(f'<p class="note">Nothing to draw or play: {esc(unread or "the text has no note")}.</p>')
    elif unread:
        out.append(f'<p class="note">Drawn and played: the first {n_chars:,} of {len(text):,} characters. '
                   f"Unreadable after that: {esc(unread)}.</p>")
    if tune:
        out += [score_figure(sample, folder, stem, i, budget), roll_and_player(tune, folder, stem, i)]
    else:
        out.append(midi_link(folder, stem))
    out.append(f"<details><summary>ABC text, coloured by surprisal</summary><pre class=abc tabindex=0>"
               f'{coloured(text, sample.get("surprisal_bits"), prompt)}</pre></details></article>')
    return "".join(out)


def score_figure(sample, folder, stem, i, budget):
    """The engraved score of a sample, or why there is none."""
    label = f"score of sample {i + 1}"
    try:
        score = inline_svg((folder / f"{stem}.svg").read_text(encoding="utf-8"), f"n{i}-", label)
    except (OSError, UnicodeDecodeError, ValueError):
        return absent(f"No score: {pick(sample, 'pictures.reasons.score') or 'none was drawn'}.")
    if len(score) > budget:
        return absent(f"The score would make this page too large: see generated/{stem}.svg.")
    n_drawn, n_bars = pick(sample, "pictures.bars_drawn"), pick(sample, "pictures.bars")
    words = f"Bars 1–{n_drawn} of {n_bars}. " if n_drawn and n_bars and n_drawn < n_bars else ""
    words += "Red notes stand in bars of the wrong length." if "var(--no)" in score else ""
    return (f'<figure class="score wide" tabindex=0 role=region aria-label="{label}">{score}</figure>'
            + (f'<p class="caption">{esc(words)}</p>' if words else ""))


def roll_and_player(tune, folder, stem, i):
    """The piano roll of all notes of a sample with its player."""
    notes, what = player_notes(tune), f"sample {i + 1}"
    end = max(onset + duration for onset, duration, _, _ in notes)
    picture = inline_svg(piano_roll(tune), f"r{i}-", "notes over time")
    return (f'<div class="wide" tabindex=0 role=region aria-label="piano roll of {what}"><div class="roll">{picture}'
            '<div class="cursor" hidden></div></div></div>'
            f'<div class="player"><button type=button class="play" aria-label="play {what}">Play</button>'
            f'<input type=range min=0 max="{end:.2f}" step=0.1 value=0 aria-label="position in {what}, seconds">'
            f"<output>0:00 / {int(end) // 60}:{int(end) % 60:02d}</output>{midi_link(folder, stem)}"
            f'<script type="application/json" class="notes">{json_block(notes)}</script></div>')


def midi_link(folder, stem):
    """A link that holds the sample's MIDI file."""
    try:
        data = (folder / f"{stem}.mid").read_bytes()
    except OSError:
        return ""
    return (f'<a download="{esc(stem)}.mid" href="data:audio/midi;base64,{base64.b64encode(data).decode()}">'
            f"MIDI&nbsp;({len(data) / 1000:.1f}&nbsp;kB)</a>")


def figures(folder, captions, budget):
    """Plots of part4_outputs/figures, inline. captions: {name: caption} in the order of the page; plots that are not
    there are passed over, what cannot be read or is too large is named. budget: bytes for each."""
    out = []
    for name, caption in captions.items():
        try:
            prefix = f"f-{re.sub('[^a-z0-9]', '', name.lower())}-"
            svg = inline_svg((folder / f"{name}.svg").read_text(encoding="utf-8"), prefix, caption)
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError, ValueError) as error:
            out.append(absent(f"Figure {name}: {error}."))
            continue
        if len(svg) > budget:
            out.append(absent(f"Figure {name} is too large for this page: see figures/{name}.svg."))
            continue
        out.append(f'<figure id="figure-{esc(name)}"><div class="plot wide" tabindex=0 role=region '
                   f'aria-label="figure {esc(name)}">{svg}</div><figcaption>{esc(caption)}</figcaption></figure>')
    return "".join(out)


def law_captions(results, folder):
    """{figure: caption} of the laws, then of every other plot that has no place of its own."""
    given = {str(row.get("name")): str(row.get("caption")) for row in pick(results, "fits.figures") or []
             if isinstance(row, dict)}
    names = {path.stem for path in folder.glob("*.svg")} - LEFT_OUT - set().union(*OTHER_FIGURES.values())
    order = sorted(names, key=lambda name: (LAWS.index(name) if name in LAWS else len(LAWS), name))
    return {name: given.get(name, name.replace("_", " ")) for name in order}


# ---------------------------------------------------------------- what one attention head looks at

ATTENTION_CHARS = 96  # characters of the map: more cannot be told apart on a screen


def attention_map(model, tokenizer, text):
    """What every head of a Transformer looks at in a text, and the head that copies most.

    The fused attention of the model returns no weights. So the queries and keys that enter it (normed, rotated and
    whatever else the model does to them) are taken at the call, and their softmax is computed here. Rule of choice: of
    all heads the one with the largest share of attention on the characters that followed an earlier occurrence of the
    two characters just read (an *induction head*, Olsson et al. 2022): what a model does that repeats motifs.

    Returns {"text", "weights": (T, T) numpy array, row = reading position, "layer", "head" (from 1), "share": its mean
    weight on such characters, "even_share": the same if attention were spread evenly, "n_heads"}; None for a model
    without attention, or if the text repeats no pair of characters.
    """
    import torch
    from common import BEGIN
    from torch.overrides import TorchFunctionMode

    weights = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if getattr(function, "__name__", "") == "scaled_dot_product_attention":
                q, k = args[0].float(), args[1].float()
                logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
                ahead = torch.ones(logits.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
                weights.append(logits.masked_fill(ahead, -torch.inf).softmax(-1)[0].cpu())
            return function(*args, **(kwargs or {}))

    if model.config.get("family") != "transformer":
        return None
    text = text[:min(model.config["block_size"] - 1, 4 * ATTENTION_CHARS)]
    tokens = torch.cat((torch.tensor([BEGIN]), torch.as_tensor(tokenizer.encode(text).astype("int64"))))
    T = len(tokens)
    after = torch.zeros(T, T)  # after[i, j] = 1 where the two tokens before j are the two up to i, j <= i
    after[2:, 2:] = ((tokens[2:, None] == tokens[None, 1:-1]) & (tokens[1:-1, None] == tokens[None, :-2])).tril()
    rows = after.any(dim=1)
    if not rows.any():
        return None
    training = model.training
    try:
        with torch.inference_mode(), Watch():
            model.eval()(tokens[None].to(next(model.parameters()).device))
    finally:
        model.train(training)
    weights = torch.stack(weights)  # layers, heads, T, T
    shares = (weights * after)[:, :, rows].sum(-1).mean(-1)
    even = (after.sum(1) / torch.arange(1, T + 1))[rows].mean()
    layer, head = divmod(int(shares.argmax()), shares.size(1))
    return {"text": text, "weights": weights[layer, head].numpy(), "layer": layer + 1, "head": head + 1,
            "share": float(shares[layer, head]), "even_share": float(even), "n_heads": shares.numel()}


def attention_figure(found):
    """An attention map as a figure: rows read, columns looked at, bar lines as grid."""
    first = max(0, len(found["text"]) - ATTENTION_CHARS)  # the end of the text has most to look back at
    text, n = found["text"][first:], min(len(found["text"]), ATTENTION_CHARS)
    weights = found["weights"][first + 1:first + 1 + n, first + 1:first + 1 + n]  # token 0 begins the tune
    size, margin = 8, 14
    strongest = float(weights.max())
    pixels = bytes(round(255 * (float(w) / strongest) ** .6) for row in weights for w in row)
    image = base64.b64encode(alpha_png(n, n, pixels)).decode()
    bars = "".join(f"M{margin + (i + 1) * size} {margin}v{n * size}M{margin} {margin + (i + 1) * size}h{n * size}"
                   for i, c in enumerate(text) if c == "|")
    shown = [" " if c == "\n" else c for c in text]
    letters = "".join(f'<text x="{margin + i * size + size / 2}" y="{margin - 4}" text-anchor="middle">{esc(c)}</text>'
                      f'<text x="{margin - 4}" y="{margin + i * size + size - 1}" text-anchor="end">{esc(c)}</text>'
                      for i, c in enumerate(shown))
    side = margin + n * size + 1
    caption = (f"Of {found['n_heads']} heads, number {found['head']} of layer {found['layer']} puts most of its "
               f"attention on what followed an earlier occurrence of the two characters just read: "
               f"{percent(found['share'])}, where even attention would put {percent(found['even_share'])}. Each row is "
               f"a character being read, each column one it looks back at (full colour: {percent(strongest)} of the "
               f"row); lines are bar lines.")
    return (f'<figure><div class="wide" tabindex=0 role=region aria-label="attention map">'
            f'<svg class="attention" viewBox="0 0 {side} {side}" role="img" aria-label="attention of one head">'
            f'<path d="{bars}" class="grid"/><image href="data:image/png;base64,{image}" x="{margin}" y="{margin}" '
            f'width="{n * size}" height="{n * size}" style="image-rendering:pixelated"/>{letters}</svg></div>'
            f"<figcaption>{esc(caption)}</figcaption></figure>")


def alpha_png(width, height, alpha):
    """A PNG of one colour whose opacity is `alpha` (bytes, row by row): legible on light and on dark paper."""
    red, green, blue = (int(VOICE_COLOURS[1][k:k + 2], 16) for k in (1, 3, 5))
    rows = b"".join(b"\0" + b"".join(bytes((red, green, blue, alpha[y * width + x])) for x in range(width))
                    for y in range(height))
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b""))


def best_attention(root):
    """The attention figure of the best model on a held-out tune, as HTML; a sentence where it cannot be had."""
    try:
        from common import Tokenizer
        from study.training import load_checkpoint
        model, checkpoint = load_checkpoint(root / "checkpoints/best_model.pt")
        tokenizer = Tokenizer.load(root / "data/tokenizer.pkl")
        if checkpoint["tokenizer_digest"] != tokenizer.digest:
            raise ValueError("the best model was trained with another vocabulary than data/tokenizer.pkl")
        tunes = re.split(r"\n\n+", (root / "data/test.txt").read_text(encoding="utf-8"))
    except (ImportError, OSError, ValueError) as error:
        why = type(error).__name__ if isinstance(error, OSError) else error
        return absent(f"No attention map: {why}.")
    tune = next((tune for tune in tunes if len(tune) >= 3 * ATTENTION_CHARS), tunes[0])
    found = attention_map(model, tokenizer, tune)
    return attention_figure(found) if found else absent("No attention map: the best model has no attention.")


# ---------------------------------------------------------------- the page

STYLE = """
:root{color-scheme:light dark;--paper:#fffefb;--ink:#22211f;--soft:#67635d;--line:#ddd8ce;--wash:#f5f2ea;
--link:#1f5c99;--yes:#2b6e3f;--no:#a8261c;--heat:196,84,10;
--sans:system-ui,"Segoe UI",Roboto,"Helvetica Neue",Arial,"DejaVu Sans",sans-serif;
--mono:ui-monospace,"SF Mono",Consolas,"DejaVu Sans Mono",monospace}
:root[data-theme=light]{color-scheme:light}
DARK
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0 auto;padding:1.5rem 1.25rem 4rem;max-width:58rem;background:var(--paper);color:var(--ink);
font:1.0625rem/1.55 Charter,"Bitstream Charter","Sitka Text",Cambria,Georgia,"DejaVu Serif",serif}
h1,h2,h3{line-height:1.2;font-weight:600;text-wrap:balance}
h1{font-size:2rem;margin:1.5rem 0 1rem}
h2{font-size:1.4rem;margin:3rem 0 .75rem;padding-top:.75rem;border-top:1px solid var(--line)}
h3{font-size:1.1rem;margin:0 0 .25rem}
p{max-width:42rem;margin:.5rem 0}
a{color:var(--link)}
.answer p{font-size:1.2rem;line-height:1.5}
.warnings{color:var(--no);max-width:42rem;padding-left:1.2rem}
button,nav,.facts,.badges,.caption,figcaption,th,td,.player,.note,.absent,.levels,.warnings,summary,
details li,footer,.chart text,.roll text{font-family:var(--sans)}
.warnings,.levels,.note,.absent,.caption,figcaption{font-size:.9rem;line-height:1.5}
nav{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;align-items:center;font-size:.9rem}
nav button{margin-left:auto}
button{font-size:.9rem;padding:.3rem .8rem;border:1px solid var(--line);border-radius:4px;background:var(--wash);
color:inherit;cursor:pointer}
button:hover{border-color:var(--soft)}
:focus-visible{outline:2px solid var(--link);outline-offset:2px}
.skip{position:absolute;left:-99rem}
.skip:focus{left:1rem;top:.5rem}
.hidden{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;min-width:36rem;width:100%}
th,td{padding:.35rem .6rem;text-align:right;border-bottom:1px solid var(--line);vertical-align:top}
th:first-child{text-align:left;padding-left:0;position:sticky;left:0;background:var(--paper)}
thead th{font-weight:600;border-color:var(--soft);vertical-align:bottom}
tbody th{font-weight:400}
small{display:block;color:var(--soft);font-size:.8rem;white-space:nowrap}
.levels{color:var(--soft);padding-left:1.3rem}
figure{margin:1.5rem 0}
figcaption,.caption,.note,.absent{color:var(--soft);max-width:42rem}
.plot svg,.chart{width:100%;height:auto;display:block;overflow:hidden}
.plot svg *{stroke-linejoin:round;stroke-linecap:butt}
.chart{max-width:44rem}
.plot,.roll,.chart{filter:var(--lift,none)}
.plot{--paper:var(--under,#fffefb)}
.chart text{font-size:12px;fill:var(--ink)}
.grid{stroke:var(--line);fill:none}
article{margin:1.75rem 0 2.75rem;padding-top:1.25rem;border-top:1px solid var(--line)}
.facts,.player{font-size:.9rem}
.facts{color:var(--soft);margin:.1rem 0 .5rem;max-width:52rem;overflow-wrap:anywhere}
.badges{display:flex;flex-wrap:wrap;gap:.35rem;list-style:none;padding:0;margin:.5rem 0;font-size:.82rem}
.badges li{border:1px solid;border-radius:3px;padding:.05rem .5rem}
.badges .level{border-color:transparent;padding-left:0;font-weight:600}
.yes{color:var(--yes)}
.no{color:var(--no)}
details{margin:.5rem 0;font-size:.9rem}
summary{cursor:pointer;color:var(--soft)}
details ul{margin:.3rem 0;padding-left:1.2rem}
details li{overflow-wrap:anywhere}
.score{margin:1rem 0 .5rem}
.score svg{width:100%;min-width:42rem;height:auto;display:block}
.score svg,.plot svg{fill:currentColor}
.score svg :is(path,use,polygon,ellipse,rect,polyline){stroke:currentColor}
.score .page-margin{font-family:Georgia,"DejaVu Serif",serif}
.score .tempo{font-weight:bold}
.score .mNum{font-style:italic}
.roll{position:relative;margin:.75rem 0 .25rem;min-width:36rem}
.roll svg{width:100%;height:auto;display:block}
.cursor{position:absolute;top:0;bottom:9%;width:2px;background:var(--no)}
.player{display:flex;flex-wrap:wrap;gap:.6rem;align-items:center}
.player input{flex:1 1 8rem;min-width:6rem;accent-color:var(--link)}
.player .play{min-width:4.5rem}
output{font-variant-numeric:tabular-nums}
pre.abc{font:.85rem/1.6 var(--mono);white-space:pre-wrap;overflow-wrap:anywhere;background:var(--wash);
padding:.75rem;border-radius:4px;max-height:24rem;overflow:auto;margin:.5rem 0}
.p{color:var(--soft);border-bottom:1px dotted}
.shades{font:.85rem/1.9 var(--mono)}
.shades span{padding:.1rem .4rem;white-space:nowrap}
.attention{width:100%;min-width:40rem;height:auto}
.attention text{font:6.5px var(--mono);fill:var(--ink)}
.bar{display:block;background-repeat:no-repeat}
footer{margin-top:3rem;border-top:1px solid var(--line);font-size:.85rem;color:var(--soft)}
@media (max-width:36rem){body{padding:1rem .9rem 3rem;font-size:1rem}h1{font-size:1.55rem}.answer p{font-size:1.08rem}}
@media print{nav,.player{display:none}article{break-inside:avoid}}
"""
_DARK = """--paper:#191a1c;--ink:#e4e1da;--soft:#a5a097;--line:#3b3c40;--wash:#232427;--link:#8ab8ea;
--yes:#7cc48f;--no:#f0897d;--heat:235,130,50;--lift:brightness(1.3);--under:#131416"""
STYLE = STYLE.replace("DARK", f":root[data-theme=dark]{{{_DARK};color-scheme:dark}}\n"
                              f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{_DARK}}}}}")
STYLE += "".join(f".s{i}{{background:rgba(var(--heat),{strength})}}\n"
                 for i, strength in enumerate((0.12, 0.26, 0.42, 0.6, 0.8), 1))
STYLE += "".join(f".b{i}{{background-image:linear-gradient(to right,rgba(51,102,170,.28) {5 * i}%,transparent 0)}}\n"
                 for i in range(21))

SCRIPT = """
'use strict';
const all=(query,from=document)=>[...from.querySelectorAll(query)];
const clock=s=>Math.floor(s/60)+':'+String(Math.floor(s%60)).padStart(2,'0');
const dark=matchMedia('(prefers-color-scheme: dark)'),root=document.documentElement;
const theme=document.getElementById('theme');
const isDark=()=>(root.dataset.theme||(dark.matches?'dark':'light'))==='dark';
const label=()=>{theme.textContent=isDark()?'Light page':'Dark page'};
theme.onclick=()=>{root.dataset.theme=isDark()?'light':'dark';label()};dark.onchange=label;label();

// A note is a soft triangle wave with a short attack and a long decay.
function sound(context,to,[,length,pitch],at){
  const wave=context.createOscillator(),gain=context.createGain(),end=at+Math.max(length,.06);
  wave.type='triangle';wave.frequency.value=440*2**((pitch-69)/12);
  gain.gain.setValueAtTime(0,at);gain.gain.linearRampToValueAtTime(.2,at+.012);
  gain.gain.exponentialRampToValueAtTime(.05,end);gain.gain.linearRampToValueAtTime(0,end+.04);
  wave.connect(gain).connect(to);wave.start(at);wave.stop(end+.05);
}
let context,playing;
function stop(){if(playing){clearInterval(playing.timer);playing.out.disconnect();playing.button.textContent='Play';
  playing.cursor.hidden=true;playing=null}}
async function play(player,from){
  stop();context??=new AudioContext();await context.resume();
  const notes=player.notes,end=+player.range.max,out=context.createDynamicsCompressor(),t0=context.currentTime+.08-from;
  out.connect(context.destination);
  let next=notes.findIndex(note=>note[0]>=from-.01);if(next<0)next=notes.length;
  const {button,cursor}=player;button.textContent='Stop';cursor.hidden=false;
  const tick=()=>{const now=context.currentTime-t0;
    for(;next<notes.length&&notes[next][0]<now+.4;next++)sound(context,out,notes[next],t0+notes[next][0]);
    player.show(Math.min(Math.max(now,from),end));
    if(now>end+.3){stop();player.show(0)}};
  playing={timer:setInterval(tick,60),out,button,cursor,player};tick();
}
const players=all('.player').map(box=>{
  const article=box.closest('article'),range=box.querySelector('input'),output=box.querySelector('output');
  const player={notes:JSON.parse(box.querySelector('.notes').textContent),range,button:box.querySelector('.play'),
    cursor:article.querySelector('.cursor'),
    show(s){range.value=s;output.textContent=clock(s)+' / '+clock(+range.max);
      this.cursor.style.left=(3.4+96*s/range.max)+'%'}};
  player.button.onclick=()=>playing&&playing.player===player?stop():
    play(player,+range.value>=+range.max-.2?0:+range.value);
  range.oninput=()=>{if(playing&&playing.player===player)play(player,+range.value);else player.show(+range.value)};
  return player});
"""


SECTIONS = (("numbers", "The numbers"), ("laws", "The laws"), ("validity", "What is valid"),
            ("skills", "What is musical"), ("samples", "The samples"), ("inside", "Inside the best model"))
MAX_SAMPLES = 20  # shown on the page


def write_report(root):
    """Writes part4_outputs/report.html from what stands in part4_outputs and returns its path.

    Reads RESULTS.json, generated/metadata.json with the samples' .svg and .mid, figures/*.svg, and for the attention
    map checkpoints/best_model.pt with data/tokenizer.pkl and data/test.txt. What is missing is left out with a word.
    """
    root = Path(root)
    outputs = root / "part4_outputs"
    results, metadata = stage.read_json(outputs / "RESULTS.json"), stage.read_json(outputs / "generated/metadata.json")
    results = results if isinstance(results, dict) else {}
    samples = metadata.get("samples") if isinstance(metadata, dict) else None
    samples = [sample for sample in samples or [] if isinstance(sample, dict)][:MAX_SAMPLES]

    plots, folder = outputs / "figures", outputs / "generated"
    body = {
        "numbers": headline_numbers(results),
        "laws": figures(plots, law_captions(results, plots), PAGE_BYTES // 8) + run_table(results),
        "validity": ladder(results) + figures(plots, OTHER_FIGURES["validity"], PAGE_BYTES // 8),
        "skills": figures(plots, OTHER_FIGURES["skills"], PAGE_BYTES // 8) + music_table(results),
        "inside": position_chart(results) + best_attention(root)}
    for room in (PAGE_BYTES - sum(map(len, body.values())), 0):  # scores first, and none of them if that is too much
        body["samples"] = sample_section(samples, folder, room)
        page = _page(results, [(name, title, body[name] or absent("Not measured in this run."))
                               for name, title in SECTIONS])
        if len(page.encode()) <= PAGE_BYTES:
            break
    stage.write_text(outputs / "report.html", page)
    return outputs / "report.html"


def sample_section(samples, folder, room):
    """All samples; their scores are left to their files where the section would take more than `room` bytes."""
    articles, room = [], 0.9 * room
    for i, sample in enumerate(samples):
        articles.append(sample_article(sample, folder, i, room / (len(samples) - i)))
        room -= len(articles[-1])
    shades = "".join(f'<span class="s{i}">{words}</span> ' for i, words in enumerate(
        [f"up to {SURPRISAL_STEPS[0]:g}"] + [f"over {step:g}" for step in SURPRISAL_STEPS]))
    return ("<p>As drawn, first try, none left out. The ABC text below each score is shaded by the surprisal of each "
            f'character, in bits:</p><p class="shades">{shades}<span class="p">given as prompt</span></p>'
            + "".join(articles)) if articles else ""


def position_chart(results):
    """Loss of the best model by position in its context."""
    losses = pick(results, "best.test_loss_by_position", "best.val_loss_by_position", "best.loss_by_position")
    width = 512 / len(losses) if isinstance(losses, list) and losses else 0  # characters in a bin
    points = [((i + 0.5) * width, value / math.log(2)) for i, value in enumerate(losses or []) if _is_number(value)]
    if len(points) < 2:
        return ""
    words = "Surprisal by position in the context: what the model gains from having read more of the tune."
    chart = line_chart(points, "position in the context, characters", "bits per character", words)
    return f"<figure>{chart}<figcaption>{words}</figcaption></figure>"


def _page(results, sections):
    def hashed(source):
        return "'sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() + "'"
    policy = (f"default-src 'none'; script-src {hashed(SCRIPT)}; style-src 'unsafe-inline'; img-src data:; "
              "base-uri 'none'; form-action 'none'")
    quick = ('<p class="note">This is the short run (<code>--quick</code>): small budgets on the embedded corpus. '
             "It shows that everything works; its figures are not the study's.</p>") if results.get("quick") else ""
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections)
    made = pick(results, "environment") or {}
    versions = ", ".join(f"{esc(name)} {esc(value)}" for name, value in made.items() if isinstance(value, (str, int)))
    body = "".join(f'<section id="{name}"><h2>{title}</h2>{content}</section>' for name, title, content in sections)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Scaling laws of symbolic music</title>
<style>{STYLE}</style></head>
<body><a class="skip" href="#main">Skip to the content</a>
<nav aria-label="sections">{links}<button type=button id="theme">Dark page</button></nav>
<main id="main"><h1>Do scaling laws hold for symbolic music?</h1>
<div class="answer">{answer(results)}</div>{quick}
{body}</main>
<footer><p>Every number of this page stands in RESULTS.json or generated/metadata.json beside it.<br>
{versions}</p></footer>
<script>{SCRIPT}</script></body></html>
"""


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else stage.HERE
    print(write_report(folder))
