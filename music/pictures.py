"""Draws a text's engraved score and its piano roll, as SVG and PNG.

verovio engraves the MusicXML: of ABC it draws several voices one after the other. It can crash and
hang: it runs in a child process.
"""

import math
import re
import subprocess
import sys
from itertools import accumulate, cycle, zip_longest
from pathlib import Path

from music.notation import at_bar_lines, bar_starts, given_bars, musicxml, readable

SCORE_BARS = (32, 32, 24, 16)  # drawn of one, two, three, more voices: about two pages
SCORE_NOTES = 3000  # drawn at most
ENGRAVE_SECONDS = 20  # verovio takes 0.1 s a page
PIXELS = {"score": 1400, "roll": 1200}  # widths of the PNGs
VOICE_COLOURS = "#3366aa #b8621b #3f8f5f #8a5aa8 #a23b52 #5f7f1f #2f8f9f #7a6a55".split()
# of the piano roll's SVG; a player's cursor moves between ROLL_LEFT and ROLL_RIGHT
ROLL_WIDTH, ROLL_HEIGHT = 1000, 260
ROLL_LEFT, ROLL_RIGHT, ROLL_BELOW = 34, 6, 24  # margins: names of octaves, air, numbers of bars
ROLL_BAR_NUMBERS = 16  # at most


def bars_to_draw(tune):
    """Returns how many bars the score shows."""
    most = SCORE_BARS[min(len(tune.voices), len(SCORE_BARS)) - 1]
    bars = zip_longest(*(voice.bars[:most] for voice in tune.voices))
    n_notes = accumulate(sum(bar.n_notes for bar in row if bar) for row in bars)
    return max(1, sum(n <= SCORE_NOTES for n in n_notes))


ENGRAVER = """
import sys, verovio
verovio.enableLog(verovio.LOG_OFF)
kit = verovio.toolkit()
kit.setOptions({"pageWidth": 1800, "pageHeight": 60000, "adjustPageHeight": True,
                "header": "none", "footer": "none", "svgViewBox": True, "svgRemoveXlink": True, "xmlIdSeed": 1,
                "pageMarginLeft": 20, "pageMarginRight": 20, "pageMarginTop": 20, "pageMarginBottom": 20,
                "spacingSystem": 8, "unit": 8, "smuflTextFont": "none", "svgFormatRaw": True})
if not kit.loadData(sys.stdin.read()):
    sys.exit("verovio could not read the score")
sys.stdout.write(kit.renderToSVG(1))
"""


def engrave(xml):
    """Returns (svg, None), or (None, reason)."""
    # -I: without the working directory and PYTHON* variables
    command = [sys.executable, "-I", "-c", ENGRAVER]
    try:
        done = subprocess.run(command, input=xml, capture_output=True, timeout=ENGRAVE_SECONDS)
    except subprocess.TimeoutExpired:
        return None, f"verovio took more than {ENGRAVE_SECONDS} s"
    if done.returncode < 0:
        return None, f"verovio ended with signal {-done.returncode}"
    if done.returncode or not done.stdout.strip():
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no picture"]
        return None, last[0][:200]
    return _slim(done.stdout.decode("utf-8")), None


def _slim(svg):
    """Returns verovio's picture without unused ids and classes, and without its font (60 kB), which
    only the tempo mark needs."""
    named, styled = set(re.findall(r"#([\w-]+)", svg)), set(re.findall(r"\bg\.(\w+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in named else "", svg)
    svg = re.sub(
        r' class="([^"]*)"', lambda match: match[0] if styled & set(match[1].split()) else "", svg
    )
    return re.sub(
        r'<tspan font-family="Leipzig" font-size="\d+px">[^<]*</tspan>',
        '<tspan font-size="560px" font-weight="normal">\u2669</tspan>',
        svg,
    )


def to_png(svg, width):
    """Returns PNG bytes of an SVG; ValueError if it cannot be drawn."""
    import matplotlib
    import resvg_py

    fonts = Path(matplotlib.get_data_path()) / "fonts/ttf"  # the same picture on every machine
    return bytes(
        resvg_py.svg_to_bytes(
            svg_string=svg,
            width=width,
            background="#ffffff",
            skip_system_fonts=True,
            font_files=[f"{fonts}/DejaVu{face}.ttf" for face in ("Serif", "Sans", "Serif-Bold")],
            serif_family="DejaVu Serif",
        )
    )


def piano_roll(tune, given):
    """Returns the notes of a tune as SVG: time to the right, pitch upward, a colour a voice. given:
    {voice: bars} of a prompt, shaded. No text of the tune enters the SVG."""
    tune, starts = at_bar_lines(tune), bar_starts(tune)
    notes = [note for voice in tune.voices for note in voice.notes]
    end = float(max(note.onset + note.duration for note in notes))
    pitches = [note.pitch for note in notes]
    low, high = min(pitches) - 2, max(pitches) + 3
    height = ROLL_HEIGHT - ROLL_BELOW
    x_scale, y_scale = (ROLL_WIDTH - ROLL_LEFT - ROLL_RIGHT) / end, height / (high - low)

    def across(onset):
        return ROLL_LEFT + float(onset) * x_scale

    def thin_line(path, opacity):
        return f'<path d="{path}" stroke="currentColor" stroke-opacity="{opacity}" fill="none"/>'

    def label(x, y, words, anchor=""):
        return f'<text x="{x}" y="{y}"{anchor} fill="currentColor">{words}</text>'

    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {ROLL_WIDTH} {ROLL_HEIGHT}"'
        f' width="{ROLL_WIDTH}" height="{ROLL_HEIGHT}" font-family="DejaVu Sans" font-size="10">'
    ]
    for c in range(12 * math.ceil(low / 12), high, 12):
        y = (high - c) * y_scale
        svg.append(thin_line(f"M{ROLL_LEFT} {y:.1f}H{ROLL_WIDTH - ROLL_RIGHT}", ".25"))
        octave, anchor = f"C{c // 12 - 1}", ' text-anchor="end"'
        svg.append(label(ROLL_LEFT - 5, f"{max(y, 9):.1f}", octave, anchor))
    if n_given := min(max(given.values(), default=0), len(starts) - 1):
        x = f"{across(starts[n_given]):.1f}"
        svg.append(
            f'<path d="M{ROLL_LEFT} 0H{x}V{height}H{ROLL_LEFT}z" fill="currentColor"'
            f' fill-opacity=".08"/><path d="M{x} 0V{height}" stroke="currentColor"'
            ' stroke-width="2" stroke-dasharray="6 4"/>'
        )
        svg.append(label(ROLL_LEFT + 4, 12, "given as prompt"))
    bars = starts[:-1]
    svg.append(thin_line("".join(f"M{across(start):.1f} 0V{height}" for start in bars), ".18"))
    for i in range(0, len(bars), math.ceil(len(bars) / ROLL_BAR_NUMBERS)):
        svg.append(label(f"{across(bars[i]):.1f}", ROLL_HEIGHT - 10, i + 1))
    thick = max(y_scale - 0.4, 0.8)  # a hair narrower than the space
    for voice, colour in zip(tune.voices, cycle(VOICE_COLOURS)):
        boxes = ""
        for note in voice.notes:
            x, y = across(note.onset), (high - note.pitch - 1) * y_scale
            long = max(float(note.duration) * x_scale - 0.6, 0.8)
            boxes += f"M{x:.1f} {y:.1f}h{long:.1f}v{thick:.1f}h-{long:.1f}z"
        svg.append(f'<path d="{boxes}" fill="{colour}" fill-opacity=".85"/>')
    return "".join(svg) + "</svg>"


def pictures(text, n_given=0):
    """Returns what can be drawn of a text whose first n_given characters are a prompt: {score_svg,
    score_png, roll_svg, roll_png: None where `reasons` says why; bars_drawn: of the score; bars,
    drawn_chars: that could be read; unread: why not the rest, or None}. Never raises."""
    drawn = dict.fromkeys(("score_svg", "score_png", "roll_svg", "roll_png"))
    tune, n_chars, unread = readable(text)
    reasons, n_drawn, n_bars = {}, 0, 0
    if tune is None:
        why = "no bar of the text can be read" if unread else "the text has no note"
        reasons = {"score": why, "roll": why}
    else:
        n_drawn, n_bars = bars_to_draw(tune), max(len(voice.bars) for voice in tune.voices)
        given = given_bars(text, n_given)
        try:
            drawn["score_svg"], why = engrave(musicxml(tune, n_drawn, given=given))
        except Exception as error:  # of music21, on lengths that it cannot write
            why = f"music21 could not write it: {type(error).__name__}: {error}"[:200]
        if why:
            reasons["score"], n_drawn = why, 0
        drawn["roll_svg"] = piano_roll(tune, given)
    for kind, width in PIXELS.items():
        if svg := drawn[f"{kind}_svg"]:
            try:
                drawn[f"{kind}_png"] = to_png(svg, width)
            except (ImportError, ValueError) as error:
                reasons[f"{kind}_png"] = str(error)[:200]
    return drawn | {
        "reasons": reasons,
        "bars_drawn": n_drawn,
        "bars": n_bars,
        "drawn_chars": n_chars,
        "unread": unread,
    }
