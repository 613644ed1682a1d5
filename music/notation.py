"""Notes to look at and to play: MusicXML, engraved scores, piano rolls and MIDI bytes from the
events of `read_abc`.

Everything starts from our own note events. music21's ABC reader gets accidentals and tied chords
wrong (18 % of its notes are not in the source), and verovio draws several ABC voices one after the
other instead of above each other; so music21 only writes MusicXML here and verovio only engraves
it. What is seen is what is heard: in score, roll, player and files every voice's next bar begins
where the score begins it (`at_bar_lines`). Generated text is hostile input: verovio can crash and
hang on it, and runs in a child process with a time limit. Functions return text or bytes; no file
is written.
"""

import bisect
import contextlib
import itertools
import math
import re
import statistics
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from music.abc_fields import meter_numbers, parse_key, sharps_of
from music.abc_text import AbcError, read_abc
from music.theory import LETTERS, key_alterations, spell

# voices -> bars drawn, about two pages; more voices get SCORE_BARS_MANY
SCORE_BARS = {1: 32, 2: 32, 3: 24}
SCORE_BARS_MANY = 16
SCORE_NOTES = 3000  # at most so many notes are engraved: a 5,000-character bar is no music
PREFIX_BARS = 200  # bars given up, one by one, to find a prefix that can be read
ENGRAVE_SECONDS = 20  # verovio takes 0.1 s a page; what takes longer hangs
SCORE_PIXELS = 1400  # width of the score's PNG
ROLL_PIXELS = 1200  # width of the piano roll's PNG
WRONG = "#b3261e"  # notes of bars that do not have their meter's length
# notes that a prompt gave: grey on white paper and, turned over, on dark
GIVEN = "#7d7d7d"
VOICE_COLOURS = (
    "#3366aa",
    "#b8621b",
    "#3f8f5f",
    "#8a5aa8",
    "#a23b52",
    "#5f7f1f",
    "#2f8f9f",
    "#7a6a55",
)
MIDI_TICKS = 480  # per quarter note
MIDI_VELOCITY = 80  # of every note: ABC text carries no dynamics


# ---------------------------------------------------------------- what can be read of a text


def readable(text):
    """(tune, n_chars, reason): the tune in a text, or in its longest prefix that ends at a bar
    line.

    n_chars: how much of the text the tune comes from; reason: why the rest could not be read (None
    if all of it could); tune is None if not even the first bar can be read.
    """
    try:
        return read_abc(text), len(text), None
    except AbcError as error:
        reason, line = str(error), max(getattr(error, "line", 1) or 1, 1)
    line_starts = [0] + [match.end() for match in re.finditer("\n", text)]
    end = line_starts[line] if line < len(line_starts) else len(text)
    bar_ends = [match.end() for match in re.finditer(r"\|", text[:end])][::-1]
    # the error stands in the last line: a bar or two back is enough
    for cut in [end] + bar_ends[:PREFIX_BARS]:
        with contextlib.suppress(AbcError):
            tune = read_abc(text[:cut] + "\n")
            if has_notes(tune):
                return tune, cut, reason
    return None, 0, reason


def has_notes(tune):
    """True if a tune (or None) has a note in any voice."""
    return tune is not None and any(voice.notes for voice in tune.voices)


def given_bars(text, n_chars):
    """{voice: bars} that the first n_chars of a text hold whole: a bar that the prompt only began
    is the model's.

    >>> given_bars("X:1\\nM:2/4\\nL:1/4\\nK:C\\n[V:1]cd|[V:2]C2|[V:1]ef|", 38)
    {'1': 1, '2': 1}
    """
    prompt = read_abc(text[: text.rfind("|", 0, max(n_chars, 0)) + 1], strict=False)
    return {voice.name: len(voice.bars) for voice in prompt.voices}


# ---------------------------------------------------------------- one clock for all voices


def bar_starts(tune):
    """Where each bar begins in the score, in quarter notes, and behind the last one where the score
    ends: on paper all voices meet again at every bar line, so that bar i is as long as the longest
    of the voices' bars i."""
    lengths = [
        bars
        for bars in itertools.zip_longest(
            *([bar.length for bar in voice.bars] for voice in tune.voices)
        )
    ]
    longest = (max(length for length in bar if length is not None) for bar in lengths)
    return list(itertools.accumulate(longest, initial=Fraction(0)))


def at_bar_lines(tune):
    """The tune with every voice's bars where the score has them (`bar_starts`); the tune itself if
    no voice moves.

    Read one voice at a time, a bar of the wrong length shifts all that follows in its own voice; on
    paper it ends at the next bar line. A note tied over such a bar line sounds on up to it. `ticks`
    stay as they were read.
    """
    starts = bar_starts(tune)
    if all(bar.onset == start for voice in tune.voices for bar, start in zip(voice.bars, starts)):
        return tune
    onsets = {voice.name: [bar.onset for bar in voice.bars] for voice in tune.voices}

    def moved(name, at, is_end=False):
        # the end of a bar belongs to that bar
        find = bisect.bisect_left if is_end else bisect.bisect_right
        i = max(find(onsets[name], at) - 1, 0)
        return starts[i] + at - onsets[name][i]

    def moved_changes(changes, letter):
        """A change of tempo, meter or key moves with the voice that it is written in."""
        places = {}
        for at, value in changes:
            inside = [
                voice.name
                for voice in tune.voices
                for bar in voice.bars
                if bar.onset <= at <= bar.onset + bar.length and f"[{letter}:" in bar.text
            ]
            places.setdefault(moved(inside[0] if inside else tune.voices[0].name, at), value)
        return sorted(places.items())

    voices = []
    for voice in tune.voices:
        notes = []
        for note in voice.notes:
            onset = moved(voice.name, note.onset)
            end = moved(voice.name, note.onset + note.duration, is_end=True)
            notes.append(note._replace(onset=onset, duration=end - onset))
        voices.append(
            voice._replace(
                notes=notes,
                bars=[bar._replace(onset=start) for bar, start in zip(voice.bars, starts)],
            )
        )
    return tune._replace(
        voices=voices,
        tempos=moved_changes(tune.tempos, "Q"),
        meters=moved_changes(tune.meters, "M"),
        keys=moved_changes(tune.keys, "K"),
    )


# ---------------------------------------------------------------- note values
# A head shows a power of two of a quarter note, with at most one dot, or a third of such in a
# triplet. Any other length is written as tied heads, split where a musician expects it: at the
# beats.

# quarter notes, the longest first
HEADS = tuple(Fraction(n, 8) for n in (32, 24, 16, 12, 8, 6, 4, 2, 1))


def is_one_head(length):
    """True if one note head (with at most one dot, or in a triplet) has this length in quarter
    notes."""
    for value in (length, length * 3 / 2):  # as it stands, and as it would be outside a triplet
        if (
            value <= 6
            and value.denominator & (value.denominator - 1) == 0
            and value.denominator <= 16
        ):
            odd = value.numerator
            while odd % 2 == 0:
                odd //= 2
            return odd in ((1, 3) if value == length else (1,))  # 3: a dot; no dots inside triplets
    return False


def split_length(start, length, beat=Fraction(1)):
    """A length that starts at `start` in its bar (quarter notes) as lengths of tied note heads,
    split at beats.

    >>> [str(x) for x in split_length(Fraction(0), Fraction(5, 4))]
    ['1', '1/4']
    """
    pieces = []
    while length > 0:
        to_beat = beat - start % beat
        off_beat = start % (beat / 2) != 0 and to_beat < length
        # a syncopation from half a beat is read without a tie
        if is_one_head(length) and not off_beat:
            head = length
        elif start % beat and to_beat <= length:
            is_binary = start.denominator & (start.denominator - 1) == 0
            if not is_one_head(to_beat) and beat > Fraction(1, 8) and is_binary:
                finer = Fraction(1, 2) if beat > 1 else beat / 2
                pieces += split_length(start, to_beat, finer)
                start, length = start + to_beat, length - to_beat
                continue
            head = to_beat
        else:
            head = next((value for value in HEADS if value <= length), length)
            whole_beats = length - length % beat
            # the triplet's part stands apart from the full beats
            if whole_beats and length.denominator % 3 == 0:
                head = min(head, whole_beats) if is_one_head(min(head, whole_beats)) else beat
        pieces.append(head)
        start, length = start + head, length - head
    return pieces


def bar_slices(notes, start, stop):
    """A bar of one voice as [(onset in the bar, length, [(pitch, tied from before, tied on)])],
    rests as [].

    Notes that overlap without being a chord are cut at every beginning and ending and tied.
    """
    spans = [(note.onset, note.onset + note.duration, note.pitch) for note in notes]
    spans = [span for span in spans if span[0] < stop and span[1] > start]
    edges = sorted(
        {start, stop} | {edge for span in spans for edge in span[:2] if start < edge < stop}
    )
    slices = []
    for begin, end in zip(edges, edges[1:]):
        chord = sorted(
            (pitch, onset < begin, offset > end)
            for onset, offset, pitch in spans
            if onset <= begin and offset >= end
        )
        slices.append((begin - start, end - begin, chord))
    return slices


def bars_to_draw(tune):
    """How many bars the score shows."""
    bars = min(
        max((len(voice.bars) for voice in tune.voices), default=0),
        SCORE_BARS.get(len(tune.voices), SCORE_BARS_MANY),
    )
    while (
        bars > 1
        and sum(bar.n_notes for voice in tune.voices for bar in voice.bars[:bars]) > SCORE_NOTES
    ):
        bars -= 1
    return bars


def is_wrong(voice, i):
    """True if bar i of a voice has not the length of its meter (a shorter first or last bar is
    right)."""
    bar = voice.bars[i]
    if bar.meter is None or bar.length == bar.meter:
        return False
    return bar.length > bar.meter or 0 < i < len(voice.bars) - 1


# ---------------------------------------------------------------- MusicXML


def musicxml(tune, n_bars=None, title=None, given=None):
    """A tune, or its first bars, as MusicXML (bytes), written by music21 from our note events.

    All parts have the same bars: where a voice's bar is too short, a rest that is not printed fills
    it up to the bar line, so that readers of the file keep the voices together (`at_bar_lines`).
    title: of the piece; with one, parts have names. given: {voice: bars} of a prompt, drawn in grey
    with a double bar line behind them. The same tune gives the same bytes. Raises whatever music21
    raises on lengths and meters that it cannot write, ValueError among it.
    """
    from music21 import layout, metadata, stream  # 0.3 s, and needed here only
    from music21.musicxml.m21ToXml import GeneralObjectExporter

    tune, score = at_bar_lines(tune), stream.Score()
    starts = bar_starts(tune)[: None if n_bars is None else n_bars + 1]
    for voice in tune.voices:
        score.insert(0, _part(voice, tune, starts, given or {}))
        if title:
            score.parts[-1].partName = f"Voice {voice.name}"
    if score.parts:
        _write_tempos(score.parts[0], tune.tempos, starts)
    if len(tune.voices) > 1:
        score.insert(0, layout.StaffGroup(list(score.parts), symbol="bracket"))
    score.metadata = metadata.Metadata(title=title or tune.fields.get("T") or "Untitled")
    exporter = GeneralObjectExporter(score)
    exporter.makeNotation = False  # it would spell, tie and beam anew
    # the day, and itself as composer
    xml = re.sub(rb"\s*<(encoding-date|creator).*?</\1>", b"", exporter.parse(score))
    # random in music21
    for i, name in enumerate(dict.fromkeys(re.findall(rb'<score-part id="([^"]+)"', xml)), 1):
        xml = xml.replace(b'id="%s"' % name, b'id="P%d"' % i)
    return xml


def _write_tempos(part, tempos, starts):
    """Puts the tempo and its changes into the measures of the first part."""
    from music21 import note, stream, tempo

    measures = list(part.getElementsByClass(stream.Measure))
    for onset, quarters in tempos:
        i = bisect.bisect_right(starts, onset) - 1
        if quarters and i < len(measures):
            mark = tempo.MetronomeMark(
                number=round(quarters, 1 if quarters % 1 else None),
                referent=note.Note(type="quarter").duration,
            )
            measures[i].insert(onset - starts[i], mark)


def _sharps(key):
    """Sharps (+) or flats (-) of a K: value such as "G" or "Bbm"; 0 if it cannot be read."""
    with contextlib.suppress(ValueError):
        return sharps_of(parse_key(key or ""))
    return 0


def _part(voice, tune, starts, given):
    """One voice as a staff: clef, and bar by bar the signs that change and the notes. starts: of
    `bar_starts`."""
    from music21 import bar as bar_line
    from music21 import key, meter, stream

    part, sharps, meter_sign = stream.Part(), _sharps(tune.key), tune.meter
    for i, (start, stop) in enumerate(itertools.pairwise(starts)):
        measure = stream.Measure(number=i + 1)
        bar = voice.bars[i] if i < len(voice.bars) else None
        text = bar.text if bar else ""
        new_key, new_meter = re.search(r"\[K:([^\]]*)\]", text), re.search(r"\[M:([^\]]*)\]", text)
        if new_key:
            sharps = _sharps(new_key[1])
        if i == 0:
            measure.insert(0, _clef(voice))
        if i == 0 or new_key:
            measure.insert(0, key.KeySignature(sharps))
        if i == 0 or new_meter:
            meter_sign = new_meter[1].strip() if new_meter else meter_sign
            with contextlib.suppress(Exception):  # M:none and other free meters have no sign
                measure.insert(0, meter.TimeSignature("%d/%d" % meter_numbers(meter_sign)))
        sounds = any(
            note.onset < stop and note.onset + note.duration > start for note in voice.notes
        )
        if bar is None or not sounds:
            meters = (other.bars[i].meter for other in tune.voices if i < len(other.bars))
            _write_rest(measure, stop - start, bar.meter if bar else next(meters))
        else:
            colour = (
                WRONG if is_wrong(voice, i) else GIVEN if i < given.get(voice.name, 0) else None
            )
            _write_notes(measure, voice, i, stop, sharps, meter_sign, colour)
        if i + 1 == max(given.values(), default=0):
            measure.rightBarline = bar_line.Barline("double")
        part.append(measure)
    with contextlib.suppress(Exception):  # beams are a nicety; an over-full bar has none
        part.makeBeams(inPlace=True)
    return part


def _clef(voice):
    """The clef that needs the fewest ledger lines for the middle one of a voice's notes."""
    from music21 import clef

    pitches = [note.pitch for note in voice.notes]
    middle = statistics.median(pitches) if pitches else 64
    return (
        clef.Bass8vbClef
        if middle < 36
        else (
            clef.BassClef
            if middle < 57
            else clef.TrebleClef if middle <= 88 else clef.Treble8vaClef
        )
    )()


def _write_rest(measure, length, meter):
    """A bar in which a voice is silent. Readers take a rest of a whole measure for as long as the
    meter, and a whole
    rest that stands alone, too: a pickup and a bar of another length get rests of their own
    lengths."""
    from music21 import note

    if length == meter:
        rest = note.Rest(quarterLength=length)
        rest.fullMeasure = True
        measure.append(rest)
        return
    for piece in split_length(Fraction(0), length):
        for part in (piece / 2, piece / 2) if piece == 4 else (piece,):
            measure.append(note.Rest(quarterLength=part))


def _write_notes(measure, voice, i, stop, sharps, meter_sign, colour):
    """Puts the notes of bar i into a measure that ends at `stop`, with ties, accidentals and
    triplet brackets."""
    from music21 import chord, duration, note
    from music21.stream.makeNotation import makeTupletBrackets

    bar = voice.bars[i]
    beat = Fraction(3, 2) if re.fullmatch(r"(6|9|12)/8", meter_sign or "") else Fraction(1)
    # beats before a pickup
    missing = max(bar.meter - (stop - bar.onset), 0) if i == 0 and bar.meter else 0
    if missing:
        measure.paddingLeft = missing
    # (letter, octave) -> alteration: in engraved music an accidental holds for its own octave only
    in_force = {}
    signature = dict(zip(LETTERS, key_alterations(sharps)))
    written = bar_slices(voice.notes, bar.onset, bar.onset + bar.length)
    filled = (
        bar_slices(voice.notes, bar.onset + bar.length, stop)
        if bar.onset + bar.length < stop
        else []
    )
    for onset, length, sounding in written + [
        (bar.length + onset, *rest) for onset, *rest in filled
    ]:
        pieces = split_length(onset + missing, length, beat)
        for k, piece in enumerate(pieces):
            value = duration.Duration(piece)
            if value.type in ("inexpressible", "complex"):
                raise ValueError(
                    f"bar {i + 1} has a note of {piece} quarters, which no note head can show"
                )
            if not sounding:
                rest = note.Rest(duration=value)
                rest.style.hideObjectOnPrint = onset >= bar.length  # the text has no rest there
                measure.append(rest)
                continue
            heads = [
                _head(
                    spell(pitch, sharps),
                    tied_in or k > 0,
                    tied_on or k < len(pieces) - 1,
                    in_force,
                    signature,
                )
                for pitch, tied_in, tied_on in sounding
            ]
            event = heads[0] if len(heads) == 1 else chord.Chord(heads)
            event.duration = value
            for coloured in (*heads, event) if colour else ():
                coloured.style.color = colour
            measure.append(event)
    makeTupletBrackets(measure, inPlace=True)


def _head(spelling, tied_in, tied_on, in_force, signature):
    """A note head; shows its accidental unless the bar so far, the key or a tie says it. Updates
    `in_force`."""
    from music21 import note, pitch, tie

    letter, alteration, octave = spelling
    head = note.Note()
    head.pitch = pitch.Pitch(step=letter, octave=octave, accidental=alteration)
    is_shown = not tied_in and in_force.get((letter, octave), signature[letter]) != alteration
    if head.pitch.accidental is None and is_shown:
        head.pitch.accidental = pitch.Accidental(0)
    if head.pitch.accidental is not None:
        head.pitch.accidental.displayStatus = is_shown
    in_force[letter, octave] = alteration
    if tied_in or tied_on:
        head.tie = tie.Tie("continue" if tied_in and tied_on else "stop" if tied_in else "start")
    return head


# ---------------------------------------------------------------- engraving

# -I: the child takes nothing from the working directory or from PYTHON* variables.
ENGRAVER = """
import sys, verovio
verovio.enableLog(verovio.LOG_OFF)
kit = verovio.toolkit()
kit.setOptions({"pageWidth": 1800, "pageHeight": 60000, "adjustPageHeight": True, "scale": 100, "breaks": "auto",
                "header": "none", "footer": "none", "svgViewBox": True, "svgRemoveXlink": True, "xmlIdSeed": 1,
                "pageMarginLeft": 20, "pageMarginRight": 20, "pageMarginTop": 20, "pageMarginBottom": 20,
                "spacingSystem": 8, "mnumInterval": 0, "unit": 8, "smuflTextFont": "none", "svgFormatRaw": True})
if not kit.loadData(sys.stdin.read()):
    sys.exit("verovio could not read the score")
sys.stdout.write(kit.renderToSVG(1))
"""


def engrave(xml):
    """(svg, None) or (None, reason): verovio in a child process, because it can crash and can
    hang."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", ENGRAVER],
            input=xml,
            capture_output=True,
            timeout=ENGRAVE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return None, f"verovio took more than {ENGRAVE_SECONDS} s"
    if done.returncode < 0:
        return None, f"verovio ended with signal {-done.returncode}"
    if done.returncode or not done.stdout.strip():
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no picture"]
        return None, (
            "verovio is not installed" if "No module named 'verovio'" in last[0] else last[0][:200]
        )
    return _slim(done.stdout.decode("utf-8")), None


def _slim(svg):
    """verovio's picture without what only editors of scores use: four busy voices take 166 kB, not
    244.

    Every element has an id and a class; those stay that its own style sheet or a <use> names. The
    note of a tempo mark comes from verovio's font, 60 kB a picture: the one that every font has
    replaces it.
    """
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
    """PNG bytes of an SVG on white; ImportError without resvg-py, ValueError if it cannot be
    drawn."""
    import matplotlib
    import resvg_py

    fonts = Path(matplotlib.get_data_path()) / "fonts/ttf"  # the same picture on every machine
    return bytes(
        resvg_py.svg_to_bytes(
            svg_string=svg,
            width=width,
            background="#ffffff",
            skip_system_fonts=True,
            font_files=[
                str(fonts / name)
                for name in ("DejaVuSerif.ttf", "DejaVuSans.ttf", "DejaVuSerif-Bold.ttf")
            ],
            font_family="DejaVu Serif",
            serif_family="DejaVu Serif",
            sans_serif_family="DejaVu Sans",
        )
    )


# ---------------------------------------------------------------- piano roll
# Our own SVG, not matplotlib's: one path for each voice is a tenth of the size, and a player's
# cursor needs to know where the first note stands (ROLL_LEFT) and where the last one ends.

ROLL_WIDTH, ROLL_HEIGHT = 1000, 260
ROLL_LEFT, ROLL_RIGHT, ROLL_BELOW = 34, 6, 24  # margins: names of octaves, air, numbers of bars
ROLL_BAR_NUMBERS = 16  # at most so many are written


def piano_roll(tune, given=None):
    """All notes of a tune as an SVG picture: time to the right, pitch upward, a colour for each
    voice, bar lines.

    given: {voice: bars} of a prompt; their time is shaded and ends in a line. None for a tune
    without notes. Only numbers of the tune enter the picture, no text.
    """
    if not has_notes(tune):
        return None
    tune, starts = at_bar_lines(tune), bar_starts(tune)
    notes = [note for voice in tune.voices for note in voice.notes]
    end = float(max(note.onset + note.duration for note in notes))
    low, high = min(note.pitch for note in notes) - 2, max(note.pitch for note in notes) + 3
    floor = ROLL_HEIGHT - ROLL_BELOW
    x_scale, y_scale = (ROLL_WIDTH - ROLL_LEFT - ROLL_RIGHT) / end, floor / (high - low)

    def across(onset):
        return ROLL_LEFT + float(onset) * x_scale

    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {ROLL_WIDTH} {ROLL_HEIGHT}"'
        f' width="{ROLL_WIDTH}" height="{ROLL_HEIGHT}" font-family="DejaVu Sans" font-size="10">'
    ]
    for c in range(12 * math.ceil(low / 12), high, 12):
        y = (high - c) * y_scale
        svg.append(
            f'<path d="M{ROLL_LEFT} {y:.1f}H{ROLL_WIDTH - ROLL_RIGHT}" stroke="currentColor" '
            'stroke-opacity=".25" fill="none"/>'
            f'<text x="{ROLL_LEFT - 5}" y="{max(y, 9):.1f}" text-anchor="end" fill="currentColor">'
            f"C{c // 12 - 1}</text>"
        )
    if n_given := min(max((given or {}).values(), default=0), len(starts) - 1):
        x = across(starts[n_given])
        svg.append(
            f'<path d="M{ROLL_LEFT} 0H{x:.1f}V{floor}H{ROLL_LEFT}z" fill="currentColor"'
            f' fill-opacity=".08"/><path d="M{x:.1f} 0V{floor}" stroke="currentColor"'
            f' stroke-width="2" stroke-dasharray="6 4"/><text x="{ROLL_LEFT + 4}" y="12"'
            ' fill="currentColor">given as prompt</text>'
        )
    bars = starts[:-1]
    lines = "".join(f"M{across(start):.1f} 0V{floor}" for start in bars)
    svg.append(f'<path d="{lines}" stroke="currentColor" stroke-opacity=".18" fill="none"/>')
    step = max(1, math.ceil(len(bars) / ROLL_BAR_NUMBERS))
    svg += [
        f'<text x="{across(start):.1f}" y="{ROLL_HEIGHT - 10}" fill="currentColor">{i + 1}</text>'
        for i, start in enumerate(bars)
        if i % step == 0
    ]
    thick = max(y_scale - 0.4, 0.8)  # a hair narrower than the space, so that neighbours stay apart
    for v, voice in enumerate(tune.voices):
        boxes = []
        for note in voice.notes:
            long = max(float(note.duration) * x_scale - 0.6, 0.8)
            boxes.append(
                f"M{across(note.onset):.1f} {(high - note.pitch - 1) * y_scale:.1f}"
                f"h{long:.1f}v{thick:.1f}h-{long:.1f}z"
            )
        svg.append(
            f'<path d="{"".join(boxes)}" fill="{VOICE_COLOURS[v % len(VOICE_COLOURS)]}"'
            ' fill-opacity=".85"/>'
        )
    return "".join(svg) + "</svg>"


# ---------------------------------------------------------------- all pictures of a text


class Pictures(NamedTuple):
    """What can be drawn of a text; a picture that cannot be made is None and `reasons` says why, by
    its name."""

    score_svg: str | None = None
    score_png: bytes | None = None
    roll_svg: str | None = None
    roll_png: bytes | None = None
    reasons: dict = {}
    bars_drawn: int = 0  # of the score
    bars: int = 0  # of what could be read
    drawn_chars: int = 0  # how much of the text could be read
    unread: str | None = None  # why the rest could not (None if all could)


def pictures(text, n_given=0):
    """Pictures of a text, of which the first n_given characters are a prompt: its score and its
    piano roll, as SVG and PNG. Never raises on any text."""
    tune, n_chars, unread = readable(text)
    if not has_notes(tune):
        why = "no bar of the text can be read" if tune is None else "the text has no note"
        return Pictures(reasons={"score": why, "roll": why}, drawn_chars=n_chars, unread=unread)
    n_drawn, given, reasons = bars_to_draw(tune), given_bars(text, n_given), {}
    try:
        score, why = engrave(musicxml(tune, n_drawn, given=given))
    except (
        Exception
    ) as error:  # music21 meets texts that nobody foresaw; they have no score, but they have a roll
        score, why = None, f"music21 could not write it: {type(error).__name__}: {error}"[:200]
    if why:
        reasons["score"], n_drawn = why, 0
    drawn = {"score_svg": score, "roll_svg": piano_roll(tune, given)}
    for kind, width in (("score", SCORE_PIXELS), ("roll", ROLL_PIXELS)):
        try:
            drawn[f"{kind}_png"] = (
                to_png(drawn[f"{kind}_svg"], width) if drawn[f"{kind}_svg"] else None
            )
        except ImportError:
            reasons[f"{kind}_png"] = "resvg-py is not installed"
        except ValueError as error:
            reasons[f"{kind}_png"] = str(error)[:200]
    return Pictures(
        **drawn,
        reasons=reasons,
        bars_drawn=n_drawn,
        bars=max(len(voice.bars) for voice in tune.voices),
        drawn_chars=n_chars,
        unread=unread,
    )


# ---------------------------------------------------------------- to play


def notes_in_seconds(tune, realign=True):
    """[[onset, duration, pitch, voice], ...] in seconds, by onset, changes of tempo counted in.

    realign: all voices meet at every bar line as on paper; without it a wrong bar shifts the rest
    of its voice.
    """
    tune = at_bar_lines(tune) if realign else tune
    changes, first_tempo = (
        sorted(tune.tempos or [], key=lambda change: change[0]),
        tune.tempo or 120.0,
    )

    def seconds(at):
        total, last, tempo = 0.0, Fraction(0), first_tempo
        for onset, new in changes:
            if onset >= at:
                break
            if new and onset >= last:
                total, last, tempo = total + float(onset - last) * 60 / tempo, onset, new
        return total + float(at - last) * 60 / tempo

    return sorted(
        [
            round(seconds(note.onset), 3),
            round(seconds(note.onset + note.duration) - seconds(note.onset), 3),
            note.pitch,
            v,
        ]
        for v, voice in enumerate(tune.voices)
        for note in voice.notes
    )


def midi_bytes(tune, realign=True):
    """A tune as a MIDI file; see `midi_score`."""
    return midi_score(tune, realign).dumps_midi()


def midi_score(tune, realign=True):
    """A tune's notes as a symusic.Score: a track for each voice, changes of tempo and meter where
    they stand. realign: as for `notes_in_seconds`."""
    import symusic

    tune = at_bar_lines(tune) if realign else tune

    def ticks(quarters):
        return round(quarters * MIDI_TICKS)

    score = symusic.Score(MIDI_TICKS)
    for onset, tempo in tune.tempos:
        if tempo:
            # three bytes in the file
            score.tempos.append(symusic.Tempo(ticks(onset), float(min(max(tempo, 4), 960))))
    for onset, meter in tune.meters:
        numbers = meter_numbers(meter or "none")
        if numbers and numbers[0] < 256 and numbers[1] <= 64:  # what the file format can hold
            score.time_signatures.append(symusic.TimeSignature(ticks(onset), *numbers))
    for voice in tune.voices:
        track = symusic.Track(voice.name, 0, False)
        for note in voice.notes:
            start = ticks(note.onset)
            length = max(1, ticks(note.onset + note.duration) - start)
            track.notes.append(symusic.Note(start, length, note.pitch, MIDI_VELOCITY))
        if voice.notes:
            score.tracks.append(track)
    return score
