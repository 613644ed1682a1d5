"""Reads ABC 2.1 strictly, and says how good a text is as music (levels 1 to 5).

    tune = read_abc(text)        # voices, bars and notes in exact fractions; AbcError says line and
        reason
    check = check_abc(text)      # never raises, whatever the text: level, flags, bar accuracy,
        errors with lines

One reader serves the converter's self-check, the cutting of long tunes, the statistics and the
judging of samples, so that all of them mean the same by *note*, *bar* and *valid*. It reads the ABC
that this project writes, folk tunes of the usual collections, and what lies between; it refuses
overlays (`&`), nested tuplets, microtones and transposing clefs rather than guess. Repeats are
accepted and reported once, in written order (no unrolling).

Inside, time is counted in integer ticks, TICKS to the quarter note (`abc_fields`); the music
between two bar lines is read by `abc_bar`. `Tune.voices` gives Fractions; `Tune.ticks` gives the
integers.
"""

import re
from fractions import Fraction
from typing import NamedTuple

from music.abc_bar import CACHED_CHARS, HEAD, MAX_ERRORS, read_short_stretch, read_stretch
from music.abc_fields import (
    TICKS,
    WHOLE,
    default_unit,
    parse_key,
    parse_meter,
    parse_tempo,
    parse_unit,
    transposes,
)

# bars that Z100 and the like may ask for in one tune: memory must not follow a number
MAX_REST_BARS = 60_000
MAX_VOICES = 99  # a bar line of an orchestra; hostile text asks for thousands

# level 3: the least that deserves the name of music
MIN_NOTES, MIN_BARS, MIN_PITCHES, MAX_REST_SHARE = 16, 4, 4, 0.75


class AbcError(ValueError):
    """Text that is not the ABC this project reads. line: 1-based; reason: stable kind (see
    `KINDS`)."""

    def __init__(self, line, reason, message):
        super().__init__(f"line {line}: {message}")
        self.line, self.reason, self.message = line, reason, message


KINDS = (
    "header",
    "token",
    "quote",
    "chord",
    "grace",
    "tuplet",
    "broken rhythm",
    "length",
    "pitch",
    "slur",
    "voice",
    # reasons of AbcError; "tie" exists as a warning only
    "field",
    "second tune",
    "after end",
    "limit",
)


class Note(NamedTuple):
    """A sounding note, tied heads joined. Times in quarter notes from the tune's start; pitch is
    MIDI's."""

    onset: Fraction
    duration: Fraction
    pitch: int


class Bar(NamedTuple):
    """One bar of one voice. length: what its notes and rests fill; meter: what M: asks (None:
    free); text: its exact source without the closing bar line; n_notes: note heads that sound in it
    (tied ones too)."""

    onset: Fraction
    length: Fraction
    meter: Fraction | None
    line: int
    text: str
    n_notes: int


class Voice(NamedTuple):
    name: str
    bars: list
    notes: list


class Tune(NamedTuple):
    """A tune. fields: first value of every header field by its letter; key, meter: as written (`G`,
    `4/4`); unit: the
    L: in whole notes; tempo: quarter notes per minute or None; tempos, meters, keys: [(onset,
    value)] with the changes inside the tune, the start first; ticks: [(voice name, onsets,
    durations, pitches)] in integer ticks, TICKS to the quarter note; warnings: ties that lead
    nowhere, [(line, kind, message)]."""

    fields: dict
    key: str
    meter: str
    unit: Fraction
    tempo: float | None
    voices: list
    tempos: list
    meters: list
    keys: list
    ticks: list
    warnings: list


class Check(NamedTuple):
    """What `check_abc` finds. level: how many of the five flags hold from the first on;
    bar_accuracy: share of the sounding bars that are read without error and exactly as long as
    their meter (a shorter first or last bar counts as right; None if no bar sounds);
    rest_bar_share: of the bars of all voices (None without bars). Counts are of the generated part.
    errors: [(line, kind, message)], n_errors: all of them."""

    level: int
    header: bool
    tokens: bool
    content: bool
    meter: bool
    aligned: bool
    bar_accuracy: float | None
    n_notes: int
    n_bars: int
    n_voices: int
    n_pitches: int
    rest_bar_share: float | None
    n_sounding_bars: int
    n_right_bars: int
    n_voice_bars: int
    n_errors: int
    errors: list
    warnings: list


# ---------------------------------------------------------------- reading a text

_BODY_FIELDS = frozenset("IKLMmNPQRrsTUVWw")
# What divides a line of music: fields in brackets and bar lines. Bar lines take any mix of | [ ] :
# and the number of an ending (`:|2`), as old collections write them. Quotes, decorations and
# tuplets are named only to be stepped over: `"A|B"`, `!|!` and `(3:2` hold no bar line.
_DIVIDER = re.compile(
    r'(?P<quote>"[^"]*")|(?P<mark>![^!|]{1,40}!|\(\d:\d?:?)'
    r"|\[(?P<field>[A-Za-z]):(?P<value>[^\[\]|]*)\]"
    r"|(?P<bar>\.?(?::+(?:\|[\]|:]*)?|\|[\]|:]*|\[\|[\]|:]*)(?:\d(?:[-,]?\d){0,8})?)",
    re.ASCII,
)
_VOICE_VALUE = re.compile(r"[ \t]*([^\s=\"]{1,40})(?:[ \t].*)?", re.DOTALL)


class TickBar(NamedTuple):
    """A bar in ticks, with its place in the text."""

    onset: int
    length: int
    meter: int | None
    line: int
    text: str
    n_notes: int
    start: int  # place of its first and after its last character in the text
    end: int
    ok: bool  # read without an error
    first_note: int  # index of the first note that starts in it
    voice: str
    # the bar line that ends it ("" at the end of the text) and the place after it
    closing: str
    closed: int
    after: tuple  # M:, K:, L: of the voice and Q: of the tune, as written, once it is over
    ties: tuple  # open ties at its end: (step, pitch)
    slurs: int  # open slurs at its end


class _VoiceReader:
    """What the reader knows of one voice while it reads; the names with bar_ are of the bar that is
    not closed yet."""

    __slots__ = (
        "name",
        "now",
        "key",
        "unit",
        "meter",
        "compound",
        "alterations",
        "ties",
        "tie_notes",
        "slur",
        "onsets",
        "durations",
        "pitches",
        "bars",
        "bar_start",
        "bar_line",
        "bar_parts",
        "bar_heads",
        "bar_timed",
        "bar_ok",
        "bar_from",
        "bar_to",
        "bar_rests",
        "first_in_bar",
        "after",
    )

    def __init__(self, name):
        self.name, self.now, self.ties, self.tie_notes, self.slur = name, 0, (), (), 0
        self.onsets, self.durations, self.pitches, self.bars = [], [], [], []

    def begin(self, key, unit, meter, compound, after):
        """Takes over what the header says; after: M:, K:, L: as written."""
        self.key, self.unit, self.meter, self.compound, self.after = (
            key,
            unit,
            meter,
            compound,
            after,
        )
        self.new_bar()

    def new_bar(self):
        self.alterations = self.key  # accidentals end with their bar
        self.bar_start, self.bar_line, self.bar_parts = self.now, 0, []
        self.bar_heads, self.bar_timed, self.bar_ok, self.bar_rests = 0, False, True, 0
        self.bar_from = self.bar_to = 0
        self.first_in_bar = len(self.pitches)


class Reader:
    """Reads one text; `strict` stops at the first error with AbcError, else errors are
    collected."""

    def __init__(self, text, strict):
        self.text, self.strict = text, strict
        self.errors, self.n_errors, self.warnings, self.n_header_errors = [], 0, [], 0
        self.fields, self.voices, self.voice, self.voice_texts = {}, {}, None, {}
        self.key, self.unit, self.meter, self.compound, self.tempo = (
            (0,) * 7,
            None,
            None,
            False,
            None,
        )
        self.key_text, self.meter_text = "none", "none"
        self.tempos, self.meters, self.keys = {}, {}, {}
        self.rest_bars = 0
        self.body_from, self.tempo_text = 0, None
        self.order = []  # finished bars of all voices in written order
        lines = text.split("\n")
        letters, number = self.read_header(lines)
        self.start_body(letters, min(number, len(lines) - 1) + 1)
        self.read_body(lines, number, has_header=bool(letters))
        self.finish(len(lines))

    def error(self, line, kind, message):
        if self.strict:
            raise AbcError(line, kind, message)
        self.n_errors += 1
        self.n_header_errors += kind == "header"
        if len(self.errors) < MAX_ERRORS:
            self.errors.append((line, kind, message))

    def warn(self, line, n_ties):
        """Ties that lead nowhere are a warning: players end the note there, and folk tunes have
        them at repeats."""
        if len(self.warnings) < MAX_ERRORS:
            self.warnings.append((line, "tie", f"{n_ties} tied notes are not continued"))

    # ------------------------------------------------ header

    def read_header(self, lines):
        """Reads the fields through K:, or up to the first line that is none; (their letters, number
        of lines)."""
        letters, number = [], 0
        while number < len(lines) and letters[-1:] != ["K"]:
            raw = lines[number]
            line = clean_line(raw)
            if line:
                is_field = (
                    line[1:2] == ":" and (line[0].isalpha() or line[0] == "+") and line[0] <= "z"
                )
                if not is_field:
                    break
                self.header_field(line[0], line[2:].strip(), letters, number + 1)
            elif letters and not raw.strip():
                break  # an empty line ends the tune; one before it, or a comment, does not
            self.body_from += len(raw) + 1
            number += 1
        return letters, number

    def header_field(self, letter, value, letters, number):
        """One field of the header after those with `letters`."""
        if not letters and letter != "X":
            self.error(number, "header", "the first field is not X:")
        elif letters and letter == "X":
            self.error(number, "header", "a second X:")
        if letter == "X" and not re.fullmatch(r"\d{1,9}", value, re.ASCII):
            self.error(number, "header", f"no number after X: {value[:20]!r}")
        letters.append(letter)
        if letter == "V":
            self.set_voice(value, number, declare=True)
            return
        self.fields.setdefault(letter, value)
        try:
            if letter == "M":
                self.meter, self.compound = parse_meter(value)
                self.meter_text = value or "none"
            elif letter == "L":
                self.unit = parse_unit(value)
            elif letter == "Q":
                parse_tempo(value)
            elif letter == "K":
                self.key, self.key_text = parse_key(value), value
        except ValueError as problem:
            self.error(number, "header", str(problem))

    def start_body(self, letters, number):
        """The header is over: what it did not say gets its default, and the voices that it declared
        begin."""
        if not letters:
            self.error(number, "header", "no header")
        elif letters[-1] != "K":
            self.error(number, "header", "no K: at the end of the header")
        self.unit = self.unit or default_unit(self.meter)
        if "Q" in self.fields:
            try:
                # `Q:120` counts unit notes, known only now
                self.tempo = parse_tempo(self.fields["Q"], self.unit)
            except ValueError:
                pass  # counted in the header
        for voice in self.voices.values():
            self.begin_voice(voice)
        self.tempo_text = self.fields.get("Q")
        self.voice = next(iter(self.voices.values())) if len(self.voices) == 1 else None

    # ------------------------------------------------ body

    def read_body(self, lines, number, has_header):
        """Reads the lines after the header, of which there are `number`, up to the empty line that
        ends the tune."""
        at, ended = self.body_from, False
        for number, raw in enumerate(lines[number:], number + 1):
            if not raw or raw.isspace():
                ended = ended or has_header
            elif not ended:
                self.body_line(raw, at, number)
            elif clean_line(raw):  # comments may follow
                if raw[:2] == "X:":
                    self.error(number, "second tune", "a second tune begins")
                else:
                    self.error(number, "after end", "text after the empty line that ends the tune")
                break
            at += len(raw) + 1

    def body_line(self, raw, at, number):
        """A line of music or a field; at: its place in the text."""
        line = raw
        if "%" in line or "\\" in line:
            line = clean_line(line, keep_left=True)
        if line[-1:] in "\r \t":
            line = line.rstrip()
        if len(line) > 1 and line[1] == ":":
            if line[0] in _BODY_FIELDS:
                self.field(line[0], line[2:], number)
                return
            if line[0] == "X":
                self.error(number, "second tune", "a second X: without an empty line before it")
                return
        begin = 0
        for match in _DIVIDER.finditer(line):
            divider = match.lastgroup
            if divider == "bar":
                stop = match.start()
                voice = self.voice or self.set_voice("1", number)
                if begin < stop:
                    self.music(voice, line[begin:stop], at + begin, number)
                begin = match.end()
                self.bar_sign(voice, match.group(), at + begin, number)
            elif divider == "value":
                text = line[begin : match.start()]
                # blanks before the first [V:1] are of no voice
                if text and (self.voice or not text.isspace()):
                    self.music(self.voice or self.set_voice("1", number), text, at + begin, number)
                begin = match.end()
                self.inline_field(match, at, number)
        if begin < len(line):
            self.music(self.voice or self.set_voice("1", number), line[begin:], at + begin, number)

    def bar_sign(self, voice, sign, closed, number):
        """A bar line, double bar or repeat sign; closed: the place after it."""
        if sign in (":", ".:"):
            self.error(number, "token", "a single :")
            voice.bar_ok = False
        if voice.bar_timed:
            self.close_bar(voice, number, sign, closed)
        else:  # nothing has sounded since the last bar line: `|: C` or `|| C` begins the bar that has begun already
            voice.alterations = voice.key

    def inline_field(self, match, at, number):
        letter, value = match.group("field", "value")
        if letter == "V":
            # `[V:2]` stands before every bar of an interleaved tune
            known = self.voice_texts.get(value)
            if known is None:
                self.set_voice(value, number)
            else:
                self.voice = known
        elif letter in _BODY_FIELDS:
            self.field(letter, value, number, match.group(), at + match.start(), at + match.end())
        else:
            self.error(number, "field", f"no field of a tune's body: {match.group()[:40]}")
            if self.voice:
                self.voice.bar_ok = False

    def begin_voice(self, voice):
        after = self.fields.get("M"), self.fields.get("K"), self.fields.get("L"), None
        voice.begin(self.key, self.unit, self.meter, self.compound, after)

    def set_voice(self, value, number, declare=False):
        """Goes on in the voice that a V: value names, new or known; declare: in the header it is
        only announced."""
        match = _VOICE_VALUE.fullmatch(value)
        if not match:
            self.error(number, "voice", f"no name of a voice: {value[:40]!r}")
            return self.voice or self.set_voice("1", number)
        name = match.group(1)
        voice = self.voices.get(name)
        if voice is None:
            if len(self.voices) >= MAX_VOICES:
                self.error(number, "limit", f"more than {MAX_VOICES} voices")
                voice = next(iter(self.voices.values()))
            else:
                voice = self.voices[name] = _VoiceReader(name)
                self.begin_voice(voice)
        if transposes(value):
            self.error(number, "voice", f"transposing voices are not supported: {value[:40]}")
        if not declare:
            self.voice = voice
            if len(self.voice_texts) < MAX_VOICES:
                self.voice_texts[value] = voice
        return voice

    def field(self, letter, value, number, source=None, start=0, end=0):
        """A field in the tune's body; source: its text with brackets when it is inline."""
        if letter == "V":
            self.set_voice(value, number)
            return
        if letter not in "MKLQ":
            return
        voice = self.voice or self.set_voice("1", number)
        try:
            if letter == "M":
                voice.meter, voice.compound = parse_meter(value)
                self.meters.setdefault(voice.now, value.strip() or "none")
            elif letter == "L":
                voice.unit = parse_unit(value)
            elif letter == "K":
                voice.key = voice.alterations = parse_key(value)
                self.keys.setdefault(voice.now, value.strip())
            else:
                tempo = parse_tempo(value, voice.unit)
                self.tempo_text = value.strip()
                if tempo:
                    self.tempos.setdefault(voice.now, tempo)
            if letter != "Q":
                after = list(voice.after)
                after["MKL".index(letter)] = value.strip()
                voice.after = tuple(after)
        except ValueError as problem:
            self.error(number, "field", str(problem))
            voice.bar_ok = False
        text = source or f"[{letter}:{value.strip()}]"
        if not voice.bar_parts:
            voice.bar_line, voice.bar_from, voice.bar_to = number, start, end
        else:
            voice.bar_to = max(voice.bar_to, end)
        voice.bar_parts.append(text)

    # ------------------------------------------------ music

    def music(self, voice, text, at, number):
        """A stretch of music of one voice: reads it and appends its notes."""
        read = read_short_stretch if len(text) <= CACHED_CHARS else read_stretch
        (
            length,
            onsets,
            durations,
            pitches,
            n_heads,
            joined,
            opened,
            opened_at,
            alterations,
            slur_low,
            slur_end,
            rest_bars,
            timed,
            errors,
            broken_ties,
        ) = read(text, voice.alterations, voice.unit, voice.compound, voice.ties)
        now, n_before = voice.now, len(voice.onsets)
        voice.onsets.extend([now + onset for onset in onsets] if now else onsets)
        voice.durations.extend(durations)
        voice.pitches.extend(pitches)
        for tie, ticks in joined:  # notes from before the bar line go on
            voice.durations[voice.tie_notes[tie]] += ticks
        if opened:
            voice.tie_notes = tuple(
                [n_before + i if i >= 0 else voice.tie_notes[-1 - i] for i in opened_at]
            )
        voice.ties, voice.alterations, voice.now = opened, alterations, now + length
        if slur_low or slur_end:
            self.slurs(voice, slur_low, slur_end, number)
        voice.bar_to = at + len(text)
        if not voice.bar_parts:
            voice.bar_line, voice.bar_from = number, at
        elif voice.bar_line != number and voice.bar_parts[-1][-1] != "]":
            text = "\n" + text  # the bar goes on in another line
        voice.bar_parts.append(text)
        if timed:
            if voice.bar_rests or (rest_bars and voice.bar_timed):
                self.error(number, "token", "music beside a rest of whole bars")
                voice.bar_ok, rest_bars = False, 0
            voice.bar_rests += rest_bars
            voice.bar_timed = True
            voice.bar_heads += n_heads
        if errors:
            voice.bar_ok = False
            for kind, message in errors:
                self.error(number, kind, message)
        if broken_ties:
            self.warn(number, broken_ties)

    def slurs(self, voice, low, end, number):
        """Slurs may span bars: a voice's level of nesting after a stretch that went to `low` and
        ended at `end`."""
        if voice.slur + low < 0:
            self.error(number, "slur", "a slur ends that has not begun")
            voice.slur, voice.bar_ok = max(0, voice.slur - low), False
        voice.slur += end if voice.slur + end >= 0 else 0

    def close_bar(self, voice, number, closing="", closed=None):
        closed = voice.bar_to if closed is None else closed
        after = voice.after[:3] + (self.tempo_text,)
        text = voice.bar_parts[0] if len(voice.bar_parts) == 1 else "".join(voice.bar_parts)
        if voice.bar_rests:
            self.close_rests(voice, number, text, closing, closed, after)
        else:
            start = voice.bar_start
            bar = TickBar(
                start,
                voice.now - start,
                voice.meter,
                voice.bar_line,
                text,
                voice.bar_heads,
                voice.bar_from,
                voice.bar_to,
                voice.bar_ok,
                voice.first_in_bar,
                voice.name,
                closing,
                closed,
                after,
                voice.ties,
                voice.slur,
            )
            voice.bars.append(bar)
            self.order.append(bar)
        voice.new_bar()

    def close_rests(self, voice, number, bar_text, closing, closed, after):
        """`Z4|` closes four bars: the first keeps the text with `Z` in it, the others are `Z`."""
        n = voice.bar_rests
        self.rest_bars += n
        if voice.meter is None or self.rest_bars > MAX_REST_BARS:
            self.error(
                number,
                "limit" if voice.meter else "length",
                (
                    "Z in a free meter"
                    if voice.meter is None
                    else f"more than {MAX_REST_BARS} bars of rest written as Z"
                ),
            )
            self.rest_bars -= n
            n, voice.bar_ok = 1, False
        first_text = bar_text if n == 1 else bar_text.replace(f"Z{n}", "Z").replace(f"X{n}", "X")
        for i in range(n):
            bar = TickBar(
                voice.now,
                voice.meter or 0,
                voice.meter,
                voice.bar_line,
                "Z" if i else first_text,
                0,
                voice.bar_from,
                voice.bar_to,
                voice.bar_ok,
                len(voice.pitches),
                voice.name,
                closing if i == n - 1 else "",
                closed,
                after,
                (),
                voice.slur,
            )
            voice.bars.append(bar)
            self.order.append(bar)
            voice.now += voice.meter or 0

    def finish(self, n_lines):
        """The text is over: its last bars need no bar line, but what is open stays open."""
        for voice in self.voices.values():
            if voice.bar_timed:
                self.close_bar(voice, n_lines)
            if voice.slur > 0:
                self.error(n_lines, "slur", f"{voice.slur} slurs are not closed")
            if voice.ties:
                self.warn(n_lines, len(voice.ties))

    def sounding_voices(self):
        return [voice for voice in self.voices.values() if voice.bars]


def clean_line(line, keep_left=False):
    """A line without its comment, the blanks at its end and a closing backslash."""
    percent = line.find("%")
    while percent > 0 and line[percent - 1] == "\\":
        percent = line.find("%", percent + 1)
    if percent >= 0:
        line = line[:percent]
    line = line.rstrip()
    if line.endswith("\\"):
        line = line[:-1].rstrip()
    return line if keep_left else line.lstrip()


def read_abc(text, strict=True):
    """The tune in an ABC text; raises AbcError (line, reason) at the first thing that is not ABC.

    strict=False: what can be read of any text, without raising (statistics of bad samples need
    their notes too).
    Bars may be shorter or longer than their meter: that is `check_abc`'s business. Repeats are read
    once.

    >>> tune = read_abc("X:1\\nM:4/4\\nL:1/4\\nK:G\\nF2-F [CE]|")
    >>> [(str(n.onset), str(n.duration), n.pitch) for n in tune.voices[0].notes]
    [('0', '3', 66), ('3', '1', 60), ('3', '1', 64)]
    """
    if not isinstance(text, str):
        raise AbcError(1, "header", "no text")
    reader = Reader(text, strict=strict)
    known = {}  # making a Fraction takes longer than reading the note

    def quarters(ticks):
        value = known.get(ticks)
        if value is None:
            value = known[ticks] = Fraction(ticks, TICKS)
        return value

    voices, ticks = [], []
    for voice in reader.sounding_voices():
        bars = [
            Bar(
                quarters(b.onset),
                quarters(b.length),
                None if b.meter is None else quarters(b.meter),
                b.line,
                b.text,
                b.n_notes,
            )
            for b in voice.bars
        ]
        notes = [
            Note(quarters(onset), quarters(duration), pitch)
            for onset, duration, pitch in zip(voice.onsets, voice.durations, voice.pitches)
        ]
        voices.append(Voice(voice.name, bars, notes))
        ticks.append((voice.name, voice.onsets, voice.durations, voice.pitches))

    def changes(start, later):
        return [(quarters(at), value) for at, value in sorted({0: start, **later}.items())]

    return Tune(
        reader.fields,
        reader.key_text,
        reader.meter_text,
        Fraction(reader.unit, WHOLE),
        reader.tempo,
        voices,
        changes(reader.tempo, reader.tempos),
        changes(reader.meter_text, reader.meters),
        changes(reader.key_text, reader.keys),
        ticks,
        reader.warnings,
    )


# ---------------------------------------------------------------- checking


def check_abc(text, prompt_chars=0):
    """How far an ABC text is music, on the part after its first `prompt_chars` characters. Never
    raises.

    The five flags, of which `level` counts those that hold from the first on:
    header   X: first, K: parses and ends the header, M: L: Q: parse where they stand
    tokens   every character is read by the grammar; brackets, slurs and tuplets closed; pitches
        within 0-127
    content  at least 16 notes, 4 bars, 4 different pitches; at most 75 % of the bars are rests
    meter    every bar exactly as long as its meter; a shorter first or last bar of a voice is let
        pass, a longer never
    aligned  all voices have the same number of bars of the same lengths (the last bar let pass)
    """
    try:
        text = text if isinstance(text, str) else bytes(text).decode("utf-8", "replace")
    except (TypeError, ValueError):
        text = ""
    reader = Reader(text, strict=False)
    voices, prompt_chars = reader.sounding_voices(), max(prompt_chars, 0)
    n_notes = n_bars = 0
    # of the generated bars, with and without notes: do they fit their meter?
    pitches, rests, sounding = set(), [], []
    for voice in voices:
        first_bar, first_note = _first_generated(voice, text, prompt_chars)
        n_bars = max(n_bars, len(voice.bars) - first_bar)
        n_notes += len(voice.pitches) - first_note
        pitches.update(voice.pitches[first_note:])
        last = len(voice.bars) - 1
        for i in range(first_bar, last + 1):
            bar = voice.bars[i]
            (sounding if bar.n_notes else rests).append(_fits_meter(bar, i in (0, last)))
    n_voice_bars = len(rests) + len(sounding)
    rest_share = len(rests) / n_voice_bars if n_voice_bars else None
    all_fit = all(sounding) and all(rests)
    header = not reader.n_header_errors
    tokens = reader.n_errors == reader.n_header_errors
    content = (
        n_notes >= MIN_NOTES
        and n_bars >= MIN_BARS
        and len(pitches) >= MIN_PITCHES
        and rest_share is not None
        and rest_share <= MAX_REST_SHARE
    )
    # a tune of nothing but short first and last bars, or without any meter, does not show that it
    # knows its meter
    meter = all_fit and any(bar.length == bar.meter for voice in voices for bar in voice.bars)
    aligned = _aligned(voices)
    flags = (header, tokens, content, meter, aligned)
    errors = list(reader.errors)
    if not all_fit or not aligned:
        errors += _bar_errors(voices, prompt_chars)[:MAX_ERRORS]
    return Check(
        (*flags, False).index(False),
        *flags,
        sum(sounding) / len(sounding) if sounding else None,
        n_notes,
        n_bars,
        len(voices),
        len(pitches),
        rest_share,
        len(sounding),
        sum(sounding),
        n_voice_bars,
        reader.n_errors,
        errors,
        reader.warnings,
    )


def _first_generated(voice, text, prompt_chars):
    """(index of a voice's first bar, of its first note) after the prompt.

    A bar in which the prompt ends counts as generated: the model had to fill it up. Of its notes
    those count whose heads stand after the prompt."""
    first_bar = next(
        (i for i, bar in enumerate(voice.bars) if bar.end > prompt_chars), len(voice.bars)
    )
    if first_bar == len(voice.bars):
        return first_bar, len(voice.pitches)
    bar = voice.bars[first_bar]
    if bar.start >= prompt_chars:
        return first_bar, bar.first_note
    after = (
        voice.bars[first_bar + 1].first_note
        if first_bar + 1 < len(voice.bars)
        else len(voice.pitches)
    )
    tail = re.sub(r'"[^"]*"|![^!]*!|\[[A-Za-z]:[^\]]*\]', "", text[prompt_chars : bar.end])
    return first_bar, max(bar.first_note, after - len(HEAD.findall(tail)))


def _fits_meter(bar, at_end):
    """True for a bar that is read without error and as long as its meter; the first and the last of
    a voice (at_end)
    may be shorter: music begins with a pickup, and the last bar then gives back what the pickup
    took."""
    return bar.ok and (
        bar.length == bar.meter or at_end and bar.meter is not None and bar.length < bar.meter
    )


def _aligned(voices):
    """All voices have the same bars; without any voice there is nothing to align: False."""
    if not voices:
        return False
    first = voices[0].bars
    return all(
        len(voice.bars) == len(first)
        and all(a.length == b.length for a, b in zip(first[:-1], voice.bars))
        for voice in voices[1:]
    )


def _bar_errors(voices, prompt_chars):
    """[(line, kind, message)] for bars that do not fill their meter and voices that do not fit each
    other."""
    errors = []
    for voice in voices:
        last = len(voice.bars) - 1
        for i, bar in enumerate(voice.bars):
            if len(errors) >= MAX_ERRORS:
                return errors
            if bar.end <= prompt_chars or bar.length == bar.meter:
                continue
            if bar.meter is None:
                errors.append((bar.line, "meter", "no meter is given"))
                break
            if bar.length > bar.meter or i not in (0, last):
                errors.append(
                    (
                        bar.line,
                        "meter",
                        (
                            f"voice {voice.name}, bar {i + 1}: {Fraction(bar.length, TICKS)} "
                            f"quarter notes instead of {Fraction(bar.meter, TICKS)}"
                        ),
                    )
                )
    if voices and not _aligned(voices):
        counts = ", ".join(f"{voice.name}: {len(voice.bars)}" for voice in voices[:20])
        errors.append(
            (voices[0].bars[-1].line, "aligned", f"the voices do not have the same bars ({counts})")
        )
    return errors
