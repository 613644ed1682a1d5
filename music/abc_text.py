"""Reads ABC 2.1 strictly: voices, bars and notes.

    tune = read_abc(text)        # in exact fractions; AbcError says line and reason

Overlays (`&`), nested tuplets, microtones and transposing clefs are refused; repeats are read once.
"""

import contextlib
import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from music.abc_bar import MAX_ERRORS, read_stretch
from music.abc_fields import (
    TICKS,
    default_unit,
    parse_key,
    parse_meter,
    parse_tempo,
    parse_unit,
    shift_of,
)

MAX_REST_BARS = 60_000  # of Z100 and the like: memory must not follow a number
MAX_VOICES = 99  # hostile text asks for thousands


class AbcError(ValueError):
    """Text that cannot be read. line: 1-based; reason: kind of error."""

    def __init__(self, line, reason, message):
        super().__init__(f"line {line}: {message}")
        self.line, self.reason = line, reason


class Note(NamedTuple):
    """A note, tied heads joined; times in quarter notes."""

    onset: Fraction
    duration: Fraction
    pitch: int


class Bar(NamedTuple):
    """A bar of a voice; times in ticks of a Reader, in quarter notes of a Tune."""

    onset: int | Fraction
    length: int | Fraction  # of its notes and rests
    meter: int | Fraction | None  # what M: asks for, None if free
    line: int
    text: str  # without the bar line
    n_notes: int  # heads, tied ones too
    start: int  # place in the text of its first character, and after its last
    end: int
    ok: bool  # read without an error
    first_note: int  # index of the first note that starts in it
    voice: str
    closing: str  # the bar line that ends it, "" at the end of the text
    closed: int  # place after that
    after: tuple  # M:, K:, L: of the voice and Q: of the tune at its end, as written
    ties: tuple  # open at its end, (step, pitch)
    slurs: int  # open at its end


class Voice(NamedTuple):
    name: str
    bars: list
    notes: list


class Tune(NamedTuple):
    """A tune. fields: {letter: its first value in the header}; key, meter: as written; tempo:
    quarter notes per minute or None; tempos, meters, keys: [(onset, value)], the start first;
    ticks: [(voice name, onsets, durations, pitches)]."""

    fields: dict
    key: str
    meter: str
    tempo: float | None
    voices: list
    tempos: list
    meters: list
    keys: list
    ticks: list


_BODY_FIELDS = "IKLMmNPQRrsTUVWw"
# fields in brackets, and bar lines: any mix of | [ ] : and the number of an ending (`:|2`); the
# others are stepped over
_DIVIDER = re.compile(
    r'(?P<quote>"[^"]*")|(?P<mark>![^!|]{1,40}!|\(\d:\d?:?)'
    r"|\[(?P<field>[A-Za-z]):(?P<value>[^\[\]|]*)\]"
    r"|(?P<bar>\.?(?::+(?:\|[\]|:]*)?|\|[\]|:]*|\[\|[\]|:]*)(?:\d(?:[-,]?\d){0,8})?)",
    re.ASCII,
)
_VOICE_VALUE = re.compile(r"[ \t]*([^\s=\"]{1,40})(?:[ \t].*)?", re.DOTALL)


class _VoiceReader:
    """What the reader knows of a voice; bar_...: of its open bar."""

    def __init__(self, name, tune):
        self.name, self.now, self.ties, self.tie_notes, self.slur = name, 0, (), (), 0
        self.onsets, self.durations, self.pitches, self.bars = [], [], [], []
        self.begin(tune)

    def begin(self, tune):
        self.key, self.unit = tune.key, tune.unit
        self.meter, self.compound = tune.meter, tune.compound
        self.after = {letter: tune.fields.get(letter) for letter in "MKL"}
        self.new_bar()

    def new_bar(self):
        self.alterations = self.key  # accidentals end with their bar
        self.bar_start, self.bar_line, self.bar_parts = self.now, 0, []
        self.bar_heads, self.bar_timed, self.bar_ok, self.bar_rests = 0, False, True, 0
        self.bar_from = self.bar_to = 0
        self.first_in_bar = len(self.pitches)

    def add(self, text, start, end, line):
        """Adds a text to the bar; start, end: its place, 0 for a line of its own."""
        if not self.bar_parts:
            self.bar_line, self.bar_from = line, start
        self.bar_to = max(self.bar_to, end)
        self.bar_parts.append(text)


class Reader:
    """Reads a text and collects errors; strict: raises AbcError for the first."""

    def __init__(self, text, strict=False):
        self.text = text
        self.errors, self.n_errors, self.warnings, self.n_header_errors = [], 0, [], 0
        self.fields, self.voices, self.voice = {}, {}, None
        self.key, self.unit, self.meter, self.compound = (0,) * 7, None, None, False
        self.tempo, self.tempo_text, self.texts = None, None, {"M": "none", "K": "none"}
        self.changes = {"Q": {}, "M": {}, "K": {}}  # in the body, {ticks: value}
        self.rest_bars = self.body_from = 0
        self.order = []  # bars of all voices as written
        lines = text.split("\n")
        letters, n_lines = self.read_header(lines)
        self.line = min(n_lines, len(lines) - 1) + 1  # the one that is being read
        self.start_body(letters)
        self.read_body(lines[n_lines:], n_lines, has_header=bool(letters))
        self.line = len(lines)
        self.finish()
        if strict and self.errors:
            raise AbcError(*self.errors[0])

    def error(self, kind, message, voice=None):
        """Notes an error; voice: whose open bar it spoils."""
        self.n_errors += 1
        self.n_header_errors += kind == "header"
        if len(self.errors) < MAX_ERRORS:
            self.errors.append((self.line, kind, message))
        if voice:
            voice.bar_ok = False

    def warn(self, n_ties):
        if len(self.warnings) < MAX_ERRORS:
            self.warnings.append((self.line, "tie", f"{n_ties} tied notes are not continued"))

    def read_header(self, lines):
        """Reads the fields through K:, or to the first line that is none: (letters, lines)."""
        letters = []
        for n_lines, raw in enumerate(lines):
            line, self.line = clean_line(raw).lstrip(), n_lines + 1
            is_end = line or letters and not raw.strip()  # an empty line ends the tune
            if letters[-1:] == ["K"] or is_end and not re.match("[A-Za-z+]:", line):
                return letters, n_lines
            if line:
                self.header_field(line[0], line[2:].strip(), letters)
            self.body_from += len(raw) + 1
        return letters, len(lines)

    def header_field(self, letter, value, letters):
        """Reads a header field; letters: of those before it."""
        if not letters and letter != "X":
            self.error("header", "the first field is not X:")
        elif letters and letter == "X":
            self.error("header", "a second X:")
        if letter == "X" and not re.fullmatch(r"\d{1,9}", value, re.ASCII):
            self.error("header", f"no number after X: {value[:20]!r}")
        letters.append(letter)
        if letter == "V":
            self.set_voice(value, declare=True)
            return
        self.fields.setdefault(letter, value)
        try:
            if letter == "Q":
                parse_tempo(value)
            _set_value(self, letter, value)
            if letter in self.texts:
                self.texts[letter] = value or "none"
        except ValueError as problem:
            self.error("header", str(problem))

    def start_body(self, letters):
        """Sets what the header left open, and begins its voices."""
        if not letters:
            self.error("header", "no header")
        elif letters[-1] != "K":
            self.error("header", "no K: at the end of the header")
        self.unit = self.unit or default_unit(self.meter)
        self.tempo_text = self.fields.get("Q")
        with contextlib.suppress(ValueError):  # counted in the header
            # `Q:120` counts unit notes, known only now
            self.tempo = parse_tempo(self.tempo_text or "", self.unit)
        for voice in self.voices.values():
            voice.begin(self)
        self.voice = next(iter(self.voices.values())) if len(self.voices) == 1 else None

    def read_body(self, lines, n_before, has_header):
        """Reads the lines after the first n_before, to the empty line that ends the tune."""
        at, ended = self.body_from, False
        for self.line, raw in enumerate(lines, n_before + 1):
            if not raw.strip():
                ended = ended or has_header
            elif not ended:
                self.body_line(raw, at)
            elif clean_line(raw):  # comments may follow
                kind = "second tune" if raw[:2] == "X:" else "after end"
                self.error(kind, "text after the empty line that ends the tune")
                break
            at += len(raw) + 1

    def body_line(self, raw, at):
        line = clean_line(raw)
        if line[1:2] == ":":
            if line[0] in _BODY_FIELDS:
                self.field(line[0], line[2:])
                return
            if line[0] == "X":
                self.error("second tune", "a second X: without an empty line before it")
                return
        begin = 0
        for match in [*_DIVIDER.finditer(line), None]:
            divider = match and match.lastgroup
            if divider in ("quote", "mark"):
                continue
            text = line[begin : match.start() if match else len(line)]
            # blanks before the first [V:1] are of no voice
            if text and (self.voice or divider != "value" or not text.isspace()):
                self.music(text, at + begin)
            begin = match and match.end()
            if divider == "bar":
                self.bar_sign(match.group(), at + begin)
            elif divider == "value":
                self.inline_field(match, at)

    def bar_sign(self, sign, closed):
        """Reads a bar line; closed: the place after it."""
        voice = self.voice or self.set_voice("1")
        if sign in (":", ".:"):
            self.error("token", "a single :", voice)
        if voice.bar_timed:
            self.close_bar(voice, sign, closed)
        else:  # nothing has sounded since the last bar line, as in `|| C`
            voice.alterations = voice.key

    def inline_field(self, match, at):
        letter, value = match.group("field", "value")
        if letter in _BODY_FIELDS:
            self.field(letter, value, match.group(), at + match.start(), at + match.end())
        else:
            self.error("field", f"no field of a tune's body: {match.group()[:40]}", self.voice)

    def set_voice(self, value, declare=False):
        """Goes to the voice that V: names; declare: only makes it."""
        voice = self.voices.get(value)  # `[V:2]` stands before every bar
        if voice is None:
            match = _VOICE_VALUE.fullmatch(value)
            if not match:
                self.error("voice", f"no name of a voice: {value[:40]!r}")
                return self.voice or self.set_voice("1")
            voice = self.voices.get(match[1]) or self.new_voice(match[1])
            if shift_of(value):
                self.error("voice", f"transposing voices are not supported: {value[:40]}")
        if not declare:
            self.voice = voice
        return voice

    def new_voice(self, name):
        if len(self.voices) == MAX_VOICES:
            self.error("limit", f"more than {MAX_VOICES} voices")
            return next(iter(self.voices.values()))
        self.voices[name] = _VoiceReader(name, self)
        return self.voices[name]

    def field(self, letter, value, source=None, start=0, end=0):
        """Reads a field of the body; source: its text with brackets if it is inline."""
        if letter == "V":
            self.set_voice(value)
        if letter not in "MKLQ":
            return
        value, voice = value.strip(), self.voice or self.set_voice("1")
        try:
            if letter == "Q":
                tempo = parse_tempo(value, voice.unit)
                self.tempo_text = value
                if tempo:
                    self.changes["Q"].setdefault(voice.now, tempo)
            else:
                _set_value(voice, letter, value)
                voice.after[letter] = value
                if letter == "K":
                    voice.alterations = voice.key
                if letter in self.changes:
                    self.changes[letter].setdefault(voice.now, value or "none")
        except ValueError as problem:
            self.error("field", str(problem), voice)
        voice.add(source or f"[{letter}:{value}]", start, end, self.line)

    def music(self, text, at):
        """Reads a stretch of music; at: its place in the text."""
        voice = self.voice or self.set_voice("1")
        read = read_stretch(text, voice.alterations, voice.unit, voice.compound, voice.ties)
        now, n_before = voice.now, len(voice.onsets)
        voice.onsets += [now + onset for onset in read.onsets]
        voice.durations += read.durations
        voice.pitches += read.pitches
        for tie, ticks in read.joined:  # notes from before the bar line go on
            voice.durations[voice.tie_notes[tie]] += ticks
        voice.tie_notes = [n_before + i if i >= 0 else voice.tie_notes[i] for i in read.open_notes]
        voice.ties, voice.alterations, voice.now = read.open, read.alterations, now + read.length
        self.slurs(voice, read.slur_low, read.slur_end)
        end = at + len(text)
        if voice.bar_parts and voice.bar_line != self.line and voice.bar_parts[-1][-1] != "]":
            text = "\n" + text  # the bar goes on in another line
        voice.add(text, at, end, self.line)
        if read.timed:
            if voice.bar_rests or read.rest_bars and voice.bar_timed:
                self.error("token", "music beside a rest of whole bars", voice)
            else:
                voice.bar_rests = read.rest_bars
            voice.bar_timed = True
            voice.bar_heads += read.n_heads
        for kind, message in read.errors:
            self.error(kind, message, voice)
        if read.broken_ties:
            self.warn(read.broken_ties)

    def slurs(self, voice, low, end):
        """Counts open slurs after a stretch whose level sank to `low` and ended at `end`."""
        if voice.slur + low < 0:
            self.error("slur", "a slur ends that has not begun", voice)
            voice.slur = max(0, voice.slur - low)
        voice.slur += end if voice.slur + end >= 0 else 0

    def close_bar(self, voice, closing="", closed=None):
        """Ends a bar; `Z4|` ends four, of which the first has the text, with `Z` in it."""
        text, n = "".join(voice.bar_parts), voice.bar_rests
        if n and voice.meter is None:
            self.error("length", "Z in a free meter", voice)
            n = 1
        elif self.rest_bars + n > MAX_REST_BARS:
            self.error("limit", f"more than {MAX_REST_BARS} bars of rest written as Z", voice)
            n = 1
        else:
            self.rest_bars += n
        if n > 1:
            text = text.replace(f"Z{n}", "Z").replace(f"X{n}", "X")
        for i in range(max(n, 1)):
            start = voice.now if n else voice.bar_start
            if n:
                voice.now += voice.meter or 0
            bar = Bar(
                start,
                voice.now - start,
                voice.meter,
                voice.bar_line,
                "Z" if i else text,
                0 if n else voice.bar_heads,
                voice.bar_from,
                voice.bar_to,
                voice.bar_ok,
                len(voice.pitches) if n else voice.first_in_bar,
                voice.name,
                closing if i >= n - 1 else "",
                voice.bar_to if closed is None else closed,
                (*voice.after.values(), self.tempo_text),
                () if n else voice.ties,
                voice.slur,
            )
            voice.bars.append(bar)
            self.order.append(bar)
        voice.new_bar()

    def finish(self):
        for voice in self.voices.values():
            if voice.bar_timed:
                self.close_bar(voice)
            if voice.slur > 0:
                self.error("slur", f"{voice.slur} slurs are not closed")
            if voice.ties:
                self.warn(len(voice.ties))

    def sounding_voices(self):
        return [voice for voice in self.voices.values() if voice.bars]


def _set_value(target, letter, value):
    """Sets what M:, L: or K: say of a tune or a voice; raises ValueError."""
    if letter == "M":
        target.meter, target.compound = parse_meter(value)
    elif letter == "L":
        target.unit = parse_unit(value)
    elif letter == "K":
        target.key = parse_key(value)


def clean_line(line):
    """Returns a line without its comment, blanks at its end and a closing backslash."""
    return re.split(r"(?<!\\)%", line, maxsplit=1)[0].rstrip().removesuffix("\\").rstrip()


def read_abc(text, strict=True):
    """Returns the Tune in an ABC text, with bars of any length; raises AbcError for the first
    error. strict=False: what can be read of any text.

    >>> tune = read_abc("X:1\\nM:4/4\\nL:1/4\\nK:G\\nF2-F [CE]|")
    >>> [(str(n.onset), str(n.duration), n.pitch) for n in tune.voices[0].notes]
    [('0', '3', 66), ('3', '1', 60), ('3', '1', 64)]
    """
    reader = Reader(text, strict=strict)

    @lru_cache(maxsize=None)  # making a Fraction takes longer than reading the note
    def quarters(ticks):
        return None if ticks is None else Fraction(ticks, TICKS)

    voices, ticks = [], []
    for voice in reader.sounding_voices():
        bars = [Bar(*map(quarters, bar[:3]), *bar[3:]) for bar in voice.bars]
        columns = voice.onsets, voice.durations, voice.pitches
        times = map(quarters, voice.onsets), map(quarters, voice.durations)
        notes = list(map(Note, *times, voice.pitches))
        voices.append(Voice(voice.name, bars, notes))
        ticks.append((voice.name, *columns))
    starts = {"Q": reader.tempo, **reader.texts}
    changes = [
        [(quarters(at), value) for at, value in sorted({0: starts[letter], **later}.items())]
        for letter, later in reader.changes.items()
    ]
    header = reader.fields, reader.texts["K"], reader.texts["M"], reader.tempo
    return Tune(*header, voices, *changes, ticks)
