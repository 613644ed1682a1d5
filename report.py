"""Pictures of samples and part4_outputs/report.html, one page without network that shows, plays and judges them.

Scores are engraved by verovio from MusicXML that music21 writes from the note events of abc_text.read_abc: music21's
own ABC reader gets accidentals and tied chords wrong, and verovio draws several ABC voices one after the other.
Generated text is hostile input: whatever third-party code draws it runs in a child process with a time limit, and
everything that enters the page is escaped or rebuilt from an allow-list.
"""

import base64
import contextlib
import functools
import hashlib
import html
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

import stage
from abc_text import AbcError, parse_key, read_abc

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
    place = fifths - 3 + (7 * pitch - (fifths - 3)) % 12  # three steps to the flat side of the tonic, eight to the other
    letter, alter = "FCGDAEB"[(place + 1) % 7], (place + 1) // 7
    natural = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}[letter]
    return letter, alter, (pitch - alter - natural) // 12 - 1


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
        elif start % beat and to_beat < length:
            take = to_beat
        else:
            take = next((Fraction(n, d) for n, d in ((4, 1), (3, 1), (2, 1), (3, 2), (1, 1), (3, 4), (1, 2), (1, 4), (1, 8))
                         if Fraction(n, d) <= length and _is_plain(Fraction(n, d))), length)
            whole = length - length % beat
            if whole and length.denominator % 3 == 0:
                take = min(take, whole) if _is_plain(min(take, whole)) else beat
        pieces.append(take)
        start, length = start + take, length - take
    return pieces


def bar_slices(notes, start, end):
    """A bar of one voice as [(onset in the bar, length, [(pitch, tied from before, tied on)])], rests as [].

    Notes that overlap without being a chord are cut at every beginning and ending and tied.
    """
    notes = [note for note in notes if note.onset < end and note.onset + note.duration > start]
    edges = sorted({start, end} | {edge for note in notes for edge in (note.onset, note.onset + note.duration)
                                   if start < edge < end})
    slices = []
    for a, b in zip(edges, edges[1:]):
        chord = {note.pitch: (note.pitch, note.onset < a, note.onset + note.duration > b)
                 for note in notes if note.onset <= a and note.onset + note.duration >= b}
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
                   f'<text x="{left - 5}" y="{y:.1f}" text-anchor="end" fill="currentColor">C{c // 12 - 1}</text>')
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
    for kind, svg, suffix, width in (("score", score, "", SCORE_PIXELS), ("roll", piano_roll(tune), "_roll", ROLL_PIXELS)):
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
