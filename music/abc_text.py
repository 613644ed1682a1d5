"""Reads ABC 2.1 strictly, says how good a text is as music (levels 1 to 5), and cuts tunes at bar lines.

    tune = read_abc(text)        # voices, bars and notes in exact fractions; AbcError says line and reason
    check = check_abc(text)      # never raises, whatever the text: level, flags, bar accuracy, errors with lines

One reader serves the converter's self-check, the cutting of long tunes, the statistics and the judging of samples, so
that all of them mean the same by *note*, *bar* and *valid*. It reads the ABC that this project writes, folk tunes of
the usual collections, and what lies between; it refuses overlays (`&`), nested tuplets, microtones and transposing
clefs rather than guess. Repeats are accepted and reported once, in written order (no unrolling).

How pitches are read (abc2midi reads the same): an accidental holds for its letter in all octaves to the end of the
bar; a tied note keeps its accidental across the bar line, the notes after it do not.

Inside, time is counted in integer ticks, TICKS to the quarter note, and the reading of a bar's text is remembered per
key, unit and open ties, because music repeats itself. `Tune.voices` gives Fractions; `Tune.ticks` gives the integers.
"""

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

TICKS = 2**8 * 3**3 * 5 * 7 * 11 * 13  # per quarter note: 1/1024 notes, tuplets of 3 to 9, 11 and 13 are whole numbers
WHOLE = 4 * TICKS
MAX_LENGTH = 256 * WHOLE       # longest note, in ticks: sums over any text that fits in memory stay below 2^63
MAX_REST_BARS = 60_000         # bars that Z100 and the like may ask for in one tune: memory must not follow a number
MAX_VOICES = 99                # a bar line of an orchestra; hostile text asks for thousands
MAX_ERRORS = 100               # errors kept per text; the count goes on
CACHED_CHARS = 256             # longer bars than this do not repeat
CACHED_BARS = 1 << 14          # about 30 MB when full

MIN_NOTES, MIN_BARS, MIN_PITCHES, MAX_REST_SHARE = 16, 4, 4, 0.75  # level 3: the least that deserves the name of music


class AbcError(ValueError):
    """Text that is not the ABC this project reads. line: 1-based; reason: stable kind (see `KINDS`)."""

    def __init__(self, line, reason, message):
        super().__init__(f"line {line}: {message}")
        self.line, self.reason, self.message = line, reason, message


KINDS = ("header", "token", "quote", "chord", "grace", "tuplet", "broken rhythm", "length", "pitch", "slur", "voice",
         "field", "second tune", "after end", "limit")  # reasons of AbcError; "tie" exists as a warning only


class Note(NamedTuple):
    """A sounding note, tied heads joined. Times in quarter notes from the tune's start; pitch is MIDI's."""
    onset: Fraction
    duration: Fraction
    pitch: int


class Bar(NamedTuple):
    """One bar of one voice. length: what its notes and rests fill; meter: what M: asks (None: free); text: its exact
    source without the closing bar line; n_notes: note heads that sound in it (tied ones too)."""
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
    """A tune. fields: first value of every header field by its letter; key, meter: as written (`G`, `4/4`); unit: the
    L: in whole notes; tempo: quarter notes per minute or None; tempos, meters, keys: [(onset, value)] with the
    changes inside the tune, the start first; ticks: [(voice name, onsets, durations, pitches)] in integer ticks,
    TICKS to the quarter note; warnings: ties that lead nowhere, [(line, kind, message)]."""
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
    """What `check_abc` finds. level: how many of the five flags hold from the first on; bar_accuracy: share of the
    sounding bars that are read without error and exactly as long as their meter (a shorter first or last bar counts
    as right; None if no bar sounds); rest_bar_share: of the bars of all voices (None without bars).
    Counts are of the generated part. errors: [(line, kind, message)], n_errors: all of them."""
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


# ---------------------------------------------------------------- fields

_SHARPS = {"C": 0, "G": 1, "D": 2, "A": 3, "E": 4, "B": 5, "F": -1}
_MODES = {"": 0, "maj": 0, "ion": 0, "mix": -1, "lyd": 1, "m": -3, "min": -3, "aeo": -3, "dor": -2, "phr": -4,
          "loc": -5}
_KEY = re.compile(r"([A-G])([#b]?)[ \t]*([A-Za-z]*)")
_KEY_REST = re.compile(r"[ \t]*(exp\b)?((?:[ \t]*(?:\^\^?|__?|=)[A-Ga-g])*)"
                       r"(?:[ \t]*(?:(?:clef|middle|m|stafflines|name|style|octave|transpose|t)[ \t]*=[ \t]*\S+|"
                       r"(?:treble|bass|alto|tenor|perc|none)\d?(?:[+-]8)?))*[ \t]*")
_LETTERS = "CDEFGAB"
_SEMITONES = (0, 2, 4, 5, 7, 9, 11)
_ACCIDENTALS = {"^": 1, "^^": 2, "_": -1, "__": -2, "=": 0}
_SHIFTS = re.compile(r"(?:octave|transpose|\bt)[ \t]*=[ \t]*([^\s]+)|(?:treble|bass|alto|tenor)\d?[+-]8")


@lru_cache(maxsize=512)
def parse_key(text):
    """Alterations of C D E F G A B in semitones by a K: value, e.g. `G` -> (0, 0, 0, 1, 0, 0, 0).

    Raises ValueError if it is no key of at most seven sharps or flats, or asks for a transposition."""
    text = text[:200].strip()
    shift = _SHIFTS.search(text)
    if shift and shift.group(1) not in ("0", "+0"):
        raise ValueError(f"transposing is not supported: {text[:40]}")
    if text[:2] in ("HP", "Hp") and _KEY_REST.fullmatch(text, 2):
        return (0,) * 7 if text[1] == "P" else (1, 0, 0, 1, 0, 0, 0)
    if text == "none" or re.match(r"clef[ \t]*=|none[ \t]", text) and _KEY_REST.fullmatch(text):
        return (0,) * 7
    match = _KEY.match(text)
    if not match:
        raise ValueError(f"no key: {text[:40]!r}")
    tonic, accidental, mode = match.groups()
    end = match.end()
    short = mode if mode == "m" else mode.lower()[:3]
    if mode.lower() in ("clef", "exp", "middle", "treble", "bass", "alto", "tenor", "perc", "octave", "transpose"):
        short, end = "", match.start(3)
    elif short not in _MODES and mode == "M":
        short = "maj"
    rest = _KEY_REST.fullmatch(text, end)
    if short not in _MODES or not rest:
        raise ValueError(f"no key: {text[:40]!r}")
    sharps = _SHARPS[tonic] + 7 * {"": 0, "#": 1, "b": -1}[accidental] + _MODES[short]
    if abs(sharps) > 7:
        raise ValueError(f"a key of {abs(sharps)} accidentals: {text[:40]!r}")
    alters = [0] * 7
    if not rest.group(1):
        for letter in ("FCGDAEB" if sharps > 0 else "BEADGCF")[:abs(sharps)]:
            alters[_LETTERS.index(letter)] = 1 if sharps > 0 else -1
    for sign, letter in re.findall(r"(\^\^?|__?|=)([A-Ga-g])", rest.group(2) or ""):
        alters[_LETTERS.index(letter.upper())] = _ACCIDENTALS[sign]
    return tuple(alters)


@lru_cache(maxsize=512)
def parse_meter(text):
    """(length of a bar in ticks or None for a free meter, compound: True for 6/8, 9/8, 12/8) of an M: value."""
    text = text[:60].strip()
    if text in ("C", "C|"):
        return WHOLE, False
    if text in ("none", ""):
        return None, False
    match = re.fullmatch(r"\(?[ \t]*(\d{1,3}(?:[ \t]*\+[ \t]*\d{1,3})*)[ \t]*\)?[ \t]*/[ \t]*(\d{1,3})", text, re.ASCII)
    if not match:
        raise ValueError(f"no meter: {text[:40]!r}")
    beats, kind = sum(int(n) for n in match.group(1).split("+")), int(match.group(2))
    if not 0 < beats <= 256 or kind not in (1, 2, 4, 8, 16, 32, 64, 128):
        raise ValueError(f"no meter: {text[:40]!r}")
    return beats * WHOLE // kind, beats % 3 == 0 and beats > 3 and kind >= 8


@lru_cache(maxsize=64)
def parse_unit(text):
    """Ticks of the unit note length of an L: value."""
    match = re.fullmatch(r"(\d{1,3})(?:[ \t]*/[ \t]*(\d{1,3}))?", text[:20].strip(), re.ASCII)
    over, under = (int(match.group(1)), int(match.group(2) or 1)) if match else (0, 1)
    if not 0 < over <= 4 or not 0 < under <= 512 or under & (under - 1):
        raise ValueError(f"no unit note length: {text[:40]!r}")
    return WHOLE * over // under


@lru_cache(maxsize=512)
def parse_tempo(text, unit=WHOLE // 8):
    """Quarter notes per minute of a Q: value (None if it holds words only); unit: ticks, for the form `Q:120`."""
    bare = re.sub(r'"[^"]*"', " ", text[:200]).strip()
    if not bare:
        if text.strip():
            return None
        raise ValueError("an empty tempo")
    match = re.fullmatch(r"(?:((?:\d{1,3}/\d{1,3}[ \t]*)+|C(?:\d{1,2}(?:/\d{1,2})?)?)[ \t]*=[ \t]*)?"
                         r"(\d{1,4}(?:\.\d{1,6})?)", bare, re.ASCII)
    if not match or not float(match.group(2)):
        raise ValueError(f"no tempo: {text[:40]!r}")
    beat, speed = match.groups()
    if beat is None or beat.startswith("C"):
        factor = Fraction(beat[1:]) if beat and beat[1:] and beat[1:].split("/")[-1].strip("0") else Fraction(1)
        quarters = Fraction(unit, TICKS) * factor
    else:
        parts = [part.split("/") for part in beat.split()]
        if any(not int(under) for _, under in parts):
            raise ValueError(f"no tempo: {text[:40]!r}")
        quarters = 4 * sum(Fraction(int(over), int(under)) for over, under in parts)
    if not quarters:
        raise ValueError(f"no tempo: {text[:40]!r}")
    return float(quarters * Fraction(match.group(2)))


# ---------------------------------------------------------------- one bar's text

class _Segment(NamedTuple):
    """The reading of a stretch of music between two bar lines, in ticks from its start."""
    length: int
    onsets: tuple
    durations: tuple
    pitches: tuple
    n_heads: int
    joined: tuple      # (index of an open tie from before, ticks to add)
    open: tuple        # ties open at the end: (step, pitch)
    open_notes: tuple  # for each: index of its note here, or -1 - index of the open tie from before
    alters: tuple      # alterations in force at the end
    slur_low: int      # lowest and last level of nesting, relative to the start
    slur_end: int
    rest_bars: int     # n of Zn
    timed: bool        # holds a note or a rest
    errors: tuple      # (kind, message)
    broken_ties: int


_NOTE = r"(?:\^\^?|__?|=)?[A-Ga-g](?:'{1,8}|,{1,8})?"
_LENGTH = r"\d{0,6}(?:/{1,8}\d{0,6})?"
_TOKEN = re.compile(
    rf"(?P<note>{_NOTE}{_LENGTH}-?)|(?P<space>[ \t`]+)|(?P<rest>[zx]{_LENGTH})"
    rf"|(?P<chord>\[(?:{_NOTE}{_LENGTH}-?|[ \t.~HLMOPSTuv]|![^!\[\]|]*!)+\]{_LENGTH}-?)"
    r"|(?P<tuplet>\(\d(?::\d?(?::\d{0,2})?)?)|(?P<broken>>{1,3}|<{1,3})|(?P<slur>[()])"
    r"|(?P<volta>\[\d(?:[-,]?\d){0,8})|(?P<full>[ZX]\d{0,4})|(?P<quote>\"[^\"]*\")|(?P<grace>\{/?[^{}]*\})"
    r"|(?P<mark>[.~HLMOPSTuv]|![^!|\n]{1,40}!|\+[A-Za-z0-9.()<>]{1,40}\+)|(?P<spacer>y\d{0,6}(?:/\d{0,2})?)", re.ASCII)
_HEAD = re.compile(rf"(\^\^?|__?|=)?([A-Ga-g])([',]*)({_LENGTH})(-?)", re.ASCII)
_GRACE = re.compile(rf"/?(?:{_NOTE}{_LENGTH}|[ \t()\->.~HLMOPSTuv]|\[(?:{_NOTE}{_LENGTH})+\]{_LENGTH})*", re.ASCII)
_TUPLET_TIME = {2: 3, 3: 2, 4: 3, 6: 2, 8: 3}


@lru_cache(maxsize=4096)
def _head(token):
    """(letter 0-6, octaves from middle C's, alteration or None, numerator, denominator, tied) of a note's text."""
    sign, letter, marks, length, tie = _HEAD.fullmatch(token).groups()
    octave = (5 if letter < "a" else 6) + marks.count("'") - marks.count(",")
    over, under = _fraction(length)
    return _LETTERS.index(letter.upper()), octave, _ACCIDENTALS[sign] if sign else None, over, under, bool(tie)


@lru_cache(maxsize=4096)
def _fraction(text):
    """`3/2` -> (3, 2), `/` -> (1, 2), `//` -> (1, 4), `` -> (1, 1)."""
    over, slash, under = text.partition("/")
    if not slash:
        return int(over or 1), 1
    halves = len(under) - len(under.lstrip("/")) + 1
    digits = under.lstrip("/")
    return int(over or 1), int(digits) if digits and halves == 1 else 2**halves if not digits else 0


def _read_segment(text, alters, unit, compound, ties):
    """Reads music without bar lines and fields; `ties`: the open ones, ((step, pitch), ...). Never raises."""
    onsets, durations, pitches, errors = [], [], [], []
    added, opened, opened_at = {}, list(ties), [-1 - i for i in range(len(ties))]
    alters_now, now, n_heads, broken_ties = list(alters), 0, 0, 0
    slur = slur_low = rest_bars = 0
    timed = False
    tuplet_left, tuplet_over, tuplet_under = 0, 1, 1
    broken = 0            # > or < waiting for its second note
    last = None           # the last note group, for a broken rhythm after it: (first index, ticks, joined ties)
    position, end = 0, len(text)
    match_token = _TOKEN.match

    while position < end:
        match = match_token(text, position)
        if not match:
            errors.append(_bad_token(text, position))
            position += 1
            continue
        position = match.end()
        kind = match.lastgroup
        if kind == "space":
            continue
        if kind == "note":
            heads, outer_over, outer_under = (_head(match.group()),), 1, 1
            all_tied = False
        elif kind == "rest":
            outer_over, outer_under = _fraction(match.group()[1:])
            heads, all_tied = (), False
        elif kind == "chord":
            inside, _, after = match.group()[1:].rpartition("]")
            all_tied = after.endswith("-")
            outer_over, outer_under = _fraction(after.rstrip("-"))
            heads = tuple(_head(found.group()) for found in _HEAD.finditer(re.sub(r"![^!]*!", "", inside)))
            if not heads:
                errors.append(("chord", "a chord without notes"))
                continue
        else:
            if kind == "tuplet":
                if tuplet_left:
                    errors.append(("tuplet", "a tuplet inside a tuplet"))
                tuplet_left, tuplet_over, tuplet_under = _tuplet(match.group(), compound)
                if not tuplet_left:
                    errors.append(("tuplet", f"no tuplet: {match.group()}"))
            elif kind == "broken":
                if last is None or broken:
                    errors.append(("broken rhythm", f"{match.group()} without a note before it"))
                else:
                    broken = len(match.group()) * (1 if match.group()[0] == ">" else -1)
                    factor = _broken_factor(broken)
                    first, ticks, joined = last
                    longer = ticks * factor.numerator // factor.denominator
                    if ticks * factor.numerator % factor.denominator:
                        errors.append(("length", "a note shorter than can be counted"))
                    for i in range(first, len(durations)):
                        durations[i] = durations[i] * factor.numerator // factor.denominator
                    for i in joined:
                        added[i] += longer - ticks
                    now += longer - ticks
            elif kind == "slur":
                slur += 1 if match.group() == "(" else -1
                slur_low = min(slur_low, slur)
            elif kind == "full":
                if timed or rest_bars:
                    errors.append(("token", f"{match.group()} does not stand alone in its bar"))
                rest_bars = int(match.group()[1:] or 1)
                if not rest_bars:
                    errors.append(("length", "a rest without length"))
            elif kind == "grace":
                inside = match.group()[1:-1]
                if not _GRACE.fullmatch(inside) or not inside.strip("/ \t"):
                    errors.append(("grace", f"no grace notes: {match.group()[:40]}"))
                else:
                    for found in _HEAD.finditer(inside):
                        letter, _, alteration, *_ = _head(found.group())
                        if alteration is not None:
                            alters_now[letter] = alteration
            continue

        # a note, a chord or a rest: something that takes time
        if rest_bars:
            errors.append(("token", "music beside a rest of whole bars"))
        timed = True
        over, under = outer_over, outer_under
        if heads:
            over, under = over * heads[0][3], under * heads[0][4]
        if tuplet_left:
            over, under = over * tuplet_over, under * tuplet_under
            tuplet_left -= 1
        if broken:
            factor = _broken_factor(-broken)
            over, under, broken = over * factor.numerator, under * factor.denominator, 0
        if not over or not under or unit * over % under or unit * over > MAX_LENGTH * under:
            errors.append(("length", "a note without length" if not over or not under else
                           "a note longer than 256 whole notes" if unit * over > MAX_LENGTH * under else
                           f"a length that cannot be counted: {match.group()[:20]}"))
            over, under = 0, 1
        ticks = unit * over // under
        first, joined, now_open, now_open_at = len(durations), [], [], []
        for letter, octave, alteration, head_over, head_under, tied in heads:
            step = 7 * octave + letter
            source = None
            if opened and alteration is None:
                for i, (open_step, open_pitch) in enumerate(opened):
                    if open_step == step:
                        source, pitch = i, open_pitch
                        break
            if source is None:
                if alteration is None:
                    alteration = alters_now[letter]
                else:
                    alters_now[letter] = alteration
                pitch = 12 * octave + _SEMITONES[letter] + alteration
                if opened:
                    for i, (open_step, open_pitch) in enumerate(opened):
                        if open_step == step and open_pitch == pitch:
                            source = i
                            break
            if not 0 <= pitch <= 127:
                errors.append(("pitch", f"pitch {pitch} is outside 0-127"))
                pitch = min(max(pitch, 0), 127)
            n_heads += 1
            length = ticks
            if len(heads) > 1 and (head_over, head_under) != heads[0][3:5] and head_under and heads[0][3]:
                length = ticks * head_over * heads[0][4]
                length = length // (head_under * heads[0][3])
                if not head_over:
                    errors.append(("length", "a note without length"))
            if source is None:
                where = len(durations)
                onsets.append(now)
                durations.append(length)
                pitches.append(pitch)
            else:
                where = opened_at[source]
                del opened[source], opened_at[source]
                if where < 0:
                    added[-1 - where] = added.get(-1 - where, 0) + length
                    joined.append(-1 - where)
                else:
                    durations[where] += length
            if tied or all_tied:
                now_open.append((step, pitch))
                now_open_at.append(where)
        broken_ties += len(opened)
        opened, opened_at = now_open, now_open_at
        last = first, ticks, joined
        now += ticks

    if tuplet_left:
        errors.append(("tuplet", f"a tuplet lacks {tuplet_left} of its notes in its bar"))
    if broken:
        errors.append(("broken rhythm", "no note after > or <"))
    return _Segment(now, tuple(onsets), tuple(durations), tuple(pitches), n_heads, tuple(added.items()), tuple(opened),
                    tuple(opened_at), tuple(alters_now), slur_low, slur, rest_bars, timed or rest_bars > 0,
                    tuple(errors[:MAX_ERRORS]), broken_ties)


_read_cached = lru_cache(maxsize=CACHED_BARS)(_read_segment)


@lru_cache(maxsize=16)
def _broken_factor(signs):
    """Factor of the first note by `>` (1), `>>` (2), `<` (-1), ...; the second note gets that of -signs."""
    short = Fraction(1, 2**abs(signs))
    return 2 - short if signs > 0 else short


@lru_cache(maxsize=1024)
def _tuplet(text, compound):
    """(notes, numerator, denominator) of `(3`, `(3:2`, `(5:4:5`, ...; (0, 1, 1) if it is none."""
    p, q, r = (text[1:].split(":") + ["", ""])[:3]
    p = int(p)
    if p < 2 or q == "0" or r.strip("0") != r and not r.strip("0"):
        return 0, 1, 1
    q = int(q) if q else _TUPLET_TIME.get(p, 3 if compound else 2)
    r = int(r) if r else p
    return r, q, p


def _bad_token(text, position):
    """(kind, message) for the character that no rule reads."""
    character, excerpt = text[position], text[position:position + 12]
    kind = {'"': "quote", "!": "quote", "[": "chord", "]": "chord", "{": "grace", "}": "grace", "(": "tuplet",
            ">": "broken rhythm", "<": "broken rhythm"}.get(character, "token")
    return kind, f"cannot read {excerpt!r}"


# ---------------------------------------------------------------- the whole text

_BODY_FIELDS = frozenset("IKLMmNPQRrsTUVWw")
_PIECE = re.compile(r'(?P<quote>"[^"]*")|(?P<mark>![^!|]{1,40}!|\(\d:\d?:?)'
                    r"|\[(?P<field>[A-Za-z]):(?P<value>[^\[\]|]*)\]"
                    r"|(?P<bar>\.?(?::+(?:\|[\]|:]*)?|\|[\]|:]*|\[\|[\]|:]*)(?:\d(?:[-,]?\d){0,8})?)", re.ASCII)
_VOICE = re.compile(r"[ \t]*([^\s=\"]{1,40})(?:[ \t].*)?", re.DOTALL)


class _VoiceState:
    """What the reader knows of one voice while it reads."""
    __slots__ = ("name", "now", "key", "unit", "meter", "compound", "alters", "ties", "tie_notes", "slur", "onsets",
                 "durations", "pitches", "bars", "bar_start", "bar_line", "bar_parts", "bar_heads", "bar_timed",
                 "bar_ok", "bar_from", "bar_to", "bar_rests", "first_in_bar", "after")

    def __init__(self, name, key, unit, meter, compound):
        self.name, self.now, self.key, self.unit, self.meter, self.compound = name, 0, key, unit, meter, compound
        self.ties, self.tie_notes, self.slur, self.after = (), (), 0, ()
        self.onsets, self.durations, self.pitches, self.bars = [], [], [], []
        self.new_bar()

    def new_bar(self):
        self.alters, self.bar_start, self.bar_line, self.bar_parts = self.key, self.now, 0, []
        self.bar_heads, self.bar_timed, self.bar_ok, self.bar_rests = 0, False, True, 0
        self.bar_from = self.bar_to = 0
        self.first_in_bar = len(self.pitches)


class _TickBar(NamedTuple):
    onset: int
    length: int
    meter: int | None
    line: int
    text: str
    n_notes: int
    start: int         # place of its first and after its last character in the text
    end: int
    ok: bool           # read without an error
    first_note: int    # index of the first note that starts in it
    voice: str
    closing: str       # the bar line that ends it ("" at the end of the text) and the place after it
    closed: int
    after: tuple       # M:, K:, L: of the voice and Q: of the tune, as written, once it is over
    ties: tuple        # open ties at its end: (step, pitch)
    slurs: int         # open slurs at its end


class _Reader:
    """Reads one text; `strict` stops at the first error with AbcError, else errors are collected."""

    def __init__(self, text, strict):
        self.text, self.strict = text, strict
        self.errors, self.n_errors, self.warnings, self.n_header_errors = [], 0, [], 0
        self.fields, self.voices, self.voice, self.voice_texts = {}, {}, None, {}
        self.key, self.unit, self.meter, self.compound, self.tempo = (0,) * 7, WHOLE // 8, None, False, None
        self.key_text, self.meter_text = "none", "none"
        self.tempos, self.meters, self.keys = {}, {}, {}
        self.rest_bars = 0
        self.body_from, self.tempo_text = 0, None
        self.order = []  # finished bars of all voices in written order
        self.read()

    def error(self, line, kind, message):
        if self.strict:
            raise AbcError(line, kind, message)
        self.n_errors += 1
        self.n_header_errors += kind == "header"
        if len(self.errors) < MAX_ERRORS:
            self.errors.append((line, kind, message))

    def read(self):
        lines = self.text.split("\n")
        at, number, n_lines = 0, 0, len(lines)
        seen = []  # header letters in order
        unit_given = False
        # header: ends after K:, or before the first line that is no field
        while number < n_lines:
            raw = lines[number]
            line = _clean(raw)
            if not line:
                if raw.strip() == "" and seen:
                    break  # an empty line ends the tune
                at, number = at + len(raw) + 1, number + 1
                continue
            if not (len(line) > 1 and line[1] == ":" and (line[0].isalpha() or line[0] == "+")) or line[0] > "z":
                break
            letter, value = line[0], line[2:].strip()
            if not seen and letter != "X":
                self.error(number + 1, "header", "the first field is not X:")
            elif seen and letter == "X":
                self.error(number + 1, "header", "a second X:")
            if letter == "X" and not re.fullmatch(r"\d{1,9}", value, re.ASCII):
                self.error(number + 1, "header", f"no number after X: {value[:20]!r}")
            seen.append(letter)
            if letter != "V":
                self.fields.setdefault(letter, value)
            try:
                if letter == "M":
                    self.meter, self.compound = parse_meter(value)
                    self.meter_text = value or "none"
                elif letter == "L":
                    self.unit, unit_given = parse_unit(value), True
                elif letter == "Q":
                    parse_tempo(value)
                elif letter == "K":
                    self.key, self.key_text = parse_key(value), value
            except ValueError as problem:
                self.error(number + 1, "header", str(problem))
            if letter == "V":
                self.set_voice(value, number + 1, declare=True)
            at, number = at + len(raw) + 1, number + 1
            if letter == "K":
                break
        if not seen:
            self.error(min(number, n_lines - 1) + 1, "header", "no header")
        elif seen[-1] != "K":
            self.error(min(number, n_lines - 1) + 1, "header", "no K: at the end of the header")
        if not unit_given and self.meter is not None and self.meter * 4 < WHOLE * 3:
            self.unit = WHOLE // 16
        if "Q" in self.fields:
            try:
                self.tempo = parse_tempo(self.fields["Q"], self.unit)
            except ValueError:
                pass  # counted above
        for voice in self.voices.values():
            voice.key, voice.unit, voice.meter, voice.compound = self.key, self.unit, self.meter, self.compound
            voice.after = self.start_texts()
            voice.new_bar()
        self.tempo_text = self.fields.get("Q")
        self.voice = None if len(self.voices) != 1 else next(iter(self.voices.values()))
        self.body_from = at

        ended = False
        while number < n_lines:
            raw = lines[number]
            number += 1
            if raw and not raw.isspace():
                if ended:
                    if _clean(raw):
                        if raw[:2] == "X:":
                            self.error(number, "second tune", "a second tune begins")
                        else:
                            self.error(number, "after end", "text after the empty line that ends the tune")
                        break
                else:
                    self.body_line(raw, at, number)
            elif seen:
                ended = True
            at += len(raw) + 1
        for voice in self.voices.values():
            if voice.bar_timed:
                self.close_bar(voice, n_lines)
            if voice.slur > 0:
                self.error(n_lines, "slur", f"{voice.slur} slurs are not closed")
            if voice.ties:
                self.warn(n_lines, len(voice.ties))

    def warn(self, line, n_ties):
        if len(self.warnings) < MAX_ERRORS:
            self.warnings.append((line, "tie", f"{n_ties} tied notes are not continued"))

    def body_line(self, raw, at, number):
        line = raw
        if "%" in line or "\\" in line:
            line = _clean(line, keep_left=True)
        if line[-1:] in "\r \t":
            line = line.rstrip()
        if len(line) > 1 and line[1] == ":":
            if line[0] in _BODY_FIELDS:
                self.field(line[0], line[2:], number)
                return
            if line[0] == "X":
                self.error(number, "second tune", "a second X: without an empty line before it")
                return
        voice, start = self.voice, 0
        for match in _PIECE.finditer(line):
            group = match.lastgroup
            if group == "bar":
                stop = match.start()
                voice = self.voice or self.set_voice("1", number)
                if start < stop:
                    self.music(voice, line[start:stop], at + start, number)
                start = match.end()
                bar = match.group()
                if bar == ":" or bar == ".:":
                    self.error(number, "token", "a single :")
                    voice.bar_ok = False
                if voice.bar_timed:
                    self.close_bar(voice, number, bar, at + start)
                else:  # nothing has sounded since the last bar line: a double bar, a repeat sign
                    voice.alters = voice.key
            elif group == "value":
                stop = match.start()
                if start < stop:
                    text = line[start:stop]
                    voice = self.voice
                    if voice is None:
                        if text.isspace():
                            text = ""
                        else:
                            voice = self.set_voice("1", number)
                    if text:
                        self.music(voice, text, at + start, number)
                start = match.end()
                letter = match.group("field")
                if letter == "V":
                    value = match.group("value")
                    known = self.voice_texts.get(value)
                    if known is None:
                        self.set_voice(value, number)
                    else:
                        self.voice = known
                elif letter in _BODY_FIELDS:
                    self.field(letter, match.group("value"), number, match.group(), at + match.start(), start + at)
                else:
                    self.error(number, "field", f"no field of a tune's body: {match.group()[:40]}")
                    if self.voice:
                        self.voice.bar_ok = False
        if start < len(line):
            self.music(self.voice or self.set_voice("1", number), line[start:], at + start, number)

    def start_texts(self):
        return self.fields.get("M"), self.fields.get("K"), self.fields.get("L"), None

    def set_voice(self, value, number, declare=False):
        match = _VOICE.fullmatch(value)
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
                voice = self.voices[name] = _VoiceState(name, self.key, self.unit, self.meter, self.compound)
                voice.after = self.start_texts()
        if _SHIFTS.search(value[:200]):
            shift = _SHIFTS.search(value[:200])
            if shift.group(1) not in ("0", "+0"):
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
                voice.key = voice.alters = parse_key(value)
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

    def music(self, voice, text, at, number):
        """A stretch of music of one voice: reads it and appends its notes."""
        read = _read_cached if len(text) <= CACHED_CHARS else _read_segment
        (length, onsets, durations, pitches, n_heads, joined, opened, opened_at, alters, slur_low, slur_end, rest_bars,
         timed, errors, broken_ties) = read(text, voice.alters, voice.unit, voice.compound, voice.ties)
        now, base, end = voice.now, len(voice.onsets), at + len(text)
        if now:
            voice.onsets.extend([now + onset for onset in onsets])
        else:
            voice.onsets.extend(onsets)
        voice.durations.extend(durations)
        voice.pitches.extend(pitches)
        for tie, ticks in joined:
            voice.durations[voice.tie_notes[tie]] += ticks
        if opened:
            voice.tie_notes = tuple(base + i if i >= 0 else voice.tie_notes[-1 - i] for i in opened_at)
        voice.ties, voice.alters, voice.now = opened, alters, now + length
        if slur_low or slur_end:
            if voice.slur + slur_low < 0:
                self.error(number, "slur", "a slur ends that has not begun")
                voice.slur, voice.bar_ok = max(0, voice.slur - slur_low), False
            voice.slur += slur_end if voice.slur + slur_end >= 0 else 0
        if not voice.bar_parts:
            voice.bar_line, voice.bar_from = number, at
        elif voice.bar_line != number and voice.bar_parts[-1][-1] != "]":
            text = "\n" + text
        voice.bar_parts.append(text)
        voice.bar_to = end
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

    def close_bar(self, voice, number, closing="", closed=None):
        closed = voice.bar_to if closed is None else closed
        after = voice.after[:3] + (self.tempo_text,)
        text = voice.bar_parts[0] if len(voice.bar_parts) == 1 else "".join(voice.bar_parts)
        if voice.bar_rests:
            self.close_rests(voice, number, text, closing, closed, after)
        else:
            start = voice.bar_start
            bar = _TickBar(start, voice.now - start, voice.meter, voice.bar_line, text, voice.bar_heads,
                           voice.bar_from, voice.bar_to, voice.bar_ok, voice.first_in_bar, voice.name,
                           closing, closed, after, voice.ties, voice.slur)
            voice.bars.append(bar)
            self.order.append(bar)
        voice.new_bar()

    def close_rests(self, voice, number, bar_text, closing, closed, after):
        n = voice.bar_rests
        self.rest_bars += n
        if voice.meter is None or self.rest_bars > MAX_REST_BARS:
            self.error(number, "limit" if voice.meter else "length", "Z in a free meter" if voice.meter is None else
                       f"more than {MAX_REST_BARS} bars of rest written as Z")
            self.rest_bars -= n
            n, voice.bar_ok = 1, False
        for i in range(n):
            text = bar_text if n == 1 else bar_text.replace(f"Z{n}", "Z").replace(f"X{n}", "X") \
                if i == 0 else "Z"
            bar = _TickBar(voice.now, voice.meter or 0, voice.meter, voice.bar_line, text, 0, voice.bar_from,
                           voice.bar_to, voice.bar_ok, len(voice.pitches), voice.name,
                           closing if i == n - 1 else "", closed, after, (), voice.slur)
            voice.bars.append(bar)
            self.order.append(bar)
            voice.now += voice.meter or 0

    def sounding_voices(self):
        return [voice for voice in self.voices.values() if voice.bars]


def _clean(line, keep_left=False):
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

    strict=False: what can be read of any text, without raising (statistics of bad samples need their notes too).
    Bars may be shorter or longer than their meter: that is `check_abc`'s business. Repeats are read once.

    >>> tune = read_abc("X:1\\nM:4/4\\nL:1/4\\nK:G\\nF2-F [CE]|")
    >>> [(str(n.onset), str(n.duration), n.pitch) for n in tune.voices[0].notes]
    [('0', '3', 66), ('3', '1', 60), ('3', '1', 64)]
    """
    if not isinstance(text, str):
        raise AbcError(1, "header", "no text")
    reader = _Reader(text, strict=strict)
    known = {}

    def quarters(ticks):
        value = known.get(ticks)
        if value is None:
            value = known[ticks] = Fraction(ticks, TICKS)
        return value

    voices, ticks = [], []
    for voice in reader.sounding_voices():
        bars = [Bar(quarters(b.onset), quarters(b.length), None if b.meter is None else quarters(b.meter), b.line,
                    b.text, b.n_notes) for b in voice.bars]
        notes = [Note(quarters(onset), quarters(duration), pitch)
                 for onset, duration, pitch in zip(voice.onsets, voice.durations, voice.pitches)]
        voices.append(Voice(voice.name, bars, notes))
        ticks.append((voice.name, voice.onsets, voice.durations, voice.pitches))

    def changes(start, later):
        return [(quarters(at), value) for at, value in sorted({0: start, **later}.items())]

    return Tune(reader.fields, reader.key_text, reader.meter_text, Fraction(reader.unit, WHOLE), reader.tempo, voices,
                changes(reader.tempo, reader.tempos), changes(reader.meter_text, reader.meters),
                changes(reader.key_text, reader.keys), ticks, reader.warnings)


def check_abc(text, prompt_chars=0):
    """How far an ABC text is music, on the part after its first `prompt_chars` characters. Never raises.

    The five flags, of which `level` counts those that hold from the first on:
    header   X: first, K: parses and ends the header, M: L: Q: parse where they stand
    tokens   every character is read by the grammar; brackets, slurs and tuplets closed; pitches within 0-127
    content  at least 16 notes, 4 bars, 4 different pitches; at most 75 % of the bars are rests
    meter    every bar exactly as long as its meter; a shorter first or last bar of a voice is let pass, a longer never
    aligned  all voices have the same number of bars of the same lengths (the last bar let pass)
    """
    try:
        text = text if isinstance(text, str) else bytes(text).decode("utf-8", "replace")
    except (TypeError, ValueError):
        text = ""
    reader = _Reader(text, strict=False)
    voices = reader.sounding_voices()
    prompt_chars = max(prompt_chars, 0)
    n_notes = n_bars = n_voice_bars = n_rest_bars = n_sounding = n_right = 0
    pitches, all_right = set(), True
    for voice in voices:
        bars = voice.bars
        last = len(bars) - 1
        first_generated = next((i for i, bar in enumerate(bars) if bar.end > prompt_chars), len(bars))
        n_bars = max(n_bars, len(bars) - first_generated)
        if first_generated > last:
            continue
        bar = bars[first_generated]
        first_note = bar.first_note
        if bar.start < prompt_chars:  # the prompt ends inside this bar: its later note heads are generated
            after = bars[first_generated + 1].first_note if first_generated < last else len(voice.pitches)
            tail = reader.text[prompt_chars:bar.end]
            first_note = max(first_note, after - len(_HEAD.findall(re.sub(r'"[^"]*"|![^!]*!|\[[A-Za-z]:[^\]]*\]',
                                                                          "", tail))))
        n_notes += len(voice.pitches) - first_note
        pitches.update(voice.pitches[first_note:])
        for i in range(first_generated, last + 1):
            bar = bars[i]
            n_voice_bars += 1
            right = bar.ok and bar.length == bar.meter
            if not right and not (bar.ok and bar.meter is not None and bar.length < bar.meter and i in (0, last)):
                all_right = False
            if bar.n_notes:
                n_sounding += 1
                n_right += right or (bar.ok and i in (0, last) and bar.meter is not None and bar.length < bar.meter)
            else:
                n_rest_bars += 1
    rest_share = n_rest_bars / n_voice_bars if n_voice_bars else None
    header = not reader.n_header_errors
    tokens = reader.n_errors == reader.n_header_errors
    content = (n_notes >= MIN_NOTES and n_bars >= MIN_BARS and len(pitches) >= MIN_PITCHES
               and rest_share is not None and rest_share <= MAX_REST_SHARE)
    meter = all_right and any(bar.length == bar.meter for voice in voices for bar in voice.bars)
    aligned = _aligned(voices)
    level = 0
    for flag in (header, tokens, content, meter, aligned):
        if not flag:
            break
        level += 1
    errors = list(reader.errors)
    if not all_right or not aligned:
        errors += _bar_errors(voices, prompt_chars)[:MAX_ERRORS]
    return Check(level, header, tokens, content, meter, aligned, n_right / n_sounding if n_sounding else None, n_notes,
                 n_bars, len(voices), len(pitches), rest_share, n_sounding, n_right, n_voice_bars, reader.n_errors,
                 errors, reader.warnings)


def _aligned(voices):
    """All voices have the same bars; without any voice there is nothing to align: False."""
    if not voices:
        return False
    first = voices[0].bars
    return all(len(voice.bars) == len(first) and all(a.length == b.length for a, b in zip(first[:-1], voice.bars))
               for voice in voices[1:])


def _bar_errors(voices, prompt_chars):
    """[(line, kind, message)] for bars that do not fill their meter and voices that do not fit each other."""
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
                errors.append((bar.line, "meter", f"voice {voice.name}, bar {i + 1}: {Fraction(bar.length, TICKS)} "
                                                  f"quarter notes instead of {Fraction(bar.meter, TICKS)}"))
    if voices and not _aligned(voices):
        counts = ", ".join(f"{voice.name}: {len(voice.bars)}" for voice in voices[:20])
        errors.append((voices[0].bars[-1].line, "aligned", f"the voices do not have the same bars ({counts})"))
    return errors


# ---------------------------------------------------------------- tunebooks, pieces, voices

def split_tunebook(text):
    """The tunes of a tunebook: each begins with a line `X:` and ends before an empty line or the next `X:`."""
    starts = [match.start() for match in re.finditer(r"^X:", text, re.MULTILINE)]
    tunes = []
    for start, stop in zip(starts, starts[1:] + [len(text)]):
        tune = text[start:stop]
        empty = re.search(r"\n[ \t\r]*\n", tune)
        tunes.append((tune[:empty.start()] if empty else tune).rstrip() + "\n")
    return tunes


def regroup_voices(text, interleave=False):
    """The same tune with all bars of each voice together (for readers like music21), or bar by bar for all voices.

    Raises AbcError. Comments and repeat signs that do not close a bar are lost.

    >>> print(regroup_voices("X:1\\nM:4/4\\nL:1/4\\nK:C\\n[V:1]cccc|[V:2]EEEE|\\n[V:1]dddd|[V:2]FFFF|\\n"))
    X:1
    M:4/4
    L:1/4
    K:C
    V:1
    cccc|dddd|
    V:2
    EEEE|FFFF|
    <BLANKLINE>
    """
    reader = _Reader(text, strict=True)
    voices = reader.sounding_voices()
    lines = [text[:reader.body_from].rstrip("\n")]

    def written(bar):
        return bar.text.replace("\n", " ").strip() + (bar.closing or "|")

    if interleave and len(voices) > 1:
        for i in range(max(len(voice.bars) for voice in voices)):
            lines.append("".join(f"[V:{voice.name}]{written(voice.bars[i])}"
                                 for voice in voices if i < len(voice.bars)))
    else:
        for voice in voices:
            if len(voices) > 1:
                lines.append(f"V:{voice.name}")
            lines += ["".join(written(bar) for bar in voice.bars[i:i + 4]) for i in range(0, len(voice.bars), 4)]
    return "\n".join(lines) + "\n"


def cut_tune(text, max_chars, min_chars=0):
    """Cuts a long tune into pieces of whole bars: [(number of bars before the piece, its ABC text)].

    Every piece repeats the header, with the meter, key and tempo that hold where it starts, and has at most
    max_chars characters unless one group of bars alone is longer. The pieces are about equally long (so none is a
    scrap; min_chars is kept wherever the bars allow). Ties over a cut are dropped: the note ends at the bar line and
    is struck again with its accidental written out. A tune that fits is returned as it is. Raises AbcError.
    """
    if len(text) <= max_chars:
        return [(0, text)]
    reader = _Reader(text, strict=True)
    points = _cut_points(reader)
    n_bars = max((len(voice.bars) for voice in reader.sounding_voices()), default=0)
    if len(reader.sounding_voices()) > 1 and len(points) * 8 < n_bars:  # voice after voice: no place to cut
        text = regroup_voices(text, interleave=True)
        reader = _Reader(text, strict=True)
        points = _cut_points(reader)
    header = [line for line in text[:reader.body_from].split("\n") if line.strip()]
    places = [(reader.body_from, 0, None)] + points + [(len(text.rstrip()), n_bars, None)]
    header_chars = sum(len(line) + 1 for line in header)
    room = max(1, max_chars - header_chars - 24)  # 24: a longer key, tempo or accidental
    pieces, first = [], 0
    while first < len(places) - 1:
        left = places[-1][0] - places[first][0]
        n_pieces = -(-left // room)
        aim, last = places[first][0] + left / n_pieces, first + 1
        if n_pieces == 1:
            last = len(places) - 1
        while last < len(places) - 1 and places[last + 1][0] - places[first][0] <= room \
                and abs(places[last + 1][0] - aim) <= abs(places[last][0] - aim):
            last += 1
        while first + 1 < last < len(places) - 1 and places[-1][0] - places[last][0] < min_chars - header_chars:
            last -= 1  # leave enough for the last piece
        pieces.append((places[first][1], _piece(reader, header, places[first], places[last])))
        first = last
    return pieces


def trim_to_bars(text, all_voices=False):
    """A text without the unfinished bar at its end; all_voices: without the bars that not every voice has, either.

    For samples that were stopped by their budget. Never raises; a text without a finished bar is returned unchanged.
    """
    reader = _Reader(text, strict=False)
    if all_voices:
        total = max((len(voice.bars) for voice in reader.sounding_voices()), default=0)
        ends = [place for place, *_ in _cut_points(reader, total)]
    else:
        ends = [bar.closed for bar in reader.order if bar.closing]
    return text[:max(ends)] + "\n" if ends else text


def _cut_points(reader, total=None):
    """[(place in the text, bars before it, {voice: its bar before the cut})] where every voice is at a bar line.

    A voice that ends before the others does not hold them up; total: unless it should have that many bars."""
    totals = {voice.name: total or len(voice.bars) for voice in reader.sounding_voices()}
    counts, before, points = dict.fromkeys(totals, 0), {}, []
    n_behind, n_now = len(totals), 0
    for bar in reader.order:
        counts[bar.voice] += 1
        before[bar.voice] = bar
        if counts[bar.voice] > n_now:  # a new bar begins: the voices that go on have to reach it
            n_now = counts[bar.voice]
            n_behind = sum(1 for name, total in totals.items() if total >= n_now and counts[name] < n_now)
        elif counts[bar.voice] == n_now:
            n_behind -= 1
        if n_behind or bar.closing == "":
            continue
        here = {name: last for name, last in before.items() if counts[name] == n_now}
        if not any(last.slurs for last in here.values()) and len({last.after[:3] for last in here.values()}) == 1:
            points.append((bar.closed, n_now, here))
    return points if total else [point for point in points if point[0] < reader.order[-1].end]


_LEADING = re.compile(r"(?:\[[MKQ]:[^\[\]]*\])*")
_FIELD = re.compile(r"\[([MKQ]):([^\[\]]*)\]")


def _piece(reader, header, start, stop):
    """Text of the bars between two cut points."""
    text, (begin, first_bar, before), (end, _, last) = reader.text, start, stop
    voices, values, bars = reader.sounding_voices(), {}, {}  # bars: {bar: its new text}
    if before:
        values = dict(zip("MKLQ", next(iter(before.values())).after))
        values["Q"] = max(before.values(), key=lambda bar: bar.closed).after[3]
        opening = [voice.bars[first_bar] for voice in voices if first_bar < len(voice.bars)]
        leading = [_LEADING.match(bar.text).group() if _whole(text, bar) else "" for bar in opening]
        fields = [dict(_FIELD.findall(found)) for found in leading]
        for bar, found, own in zip(opening, leading, fields):
            kept, music = found, bar.text[len(found):]
            for letter, value in own.items():  # a change right at the cut goes into the header
                if letter == "Q" or all(other.get(letter) == value for other in fields):
                    values[letter] = value.strip()
                    kept = kept.replace(f"[{letter}:{value}]", "")
            if bar.voice in before and before[bar.voice].ties and _whole(text, bar):
                music = _respell(music, parse_key(values["K"]) if values.get("K") else (0,) * 7,
                                 before[bar.voice].ties)
            bars[bar] = kept + music
    for bar in (last or {}).values():
        if bar.ties:
            bars[bar] = _untie(bars.get(bar, bar.text))
    body, at = [], begin
    for bar in sorted(bars, key=lambda bar: bar.start):
        if bars[bar] != bar.text and _whole(text, bar):
            body += [text[at:bar.start], bars[bar]]
            at = bar.end
    body = ("".join(body) + text[at:end]).strip("\n").rstrip()
    if len(voices) > 1 and not re.match(r"\s*(?:\[V:|V:|%|\[?[A-Za-z]:[^\n]*\n\s*(?:\[V:|V:))", body):
        following = min((bar for voice in voices for bar in voice.bars if bar.start >= begin),
                        key=lambda bar: bar.start)
        body = f"[V:{following.voice}]" + body
    lines = []
    for line in header:
        letter = line[0] if line[1:2] == ":" else ""
        value = values.pop(letter, None) if letter in ("M", "K", "L", "Q") else None
        if letter == "K":  # what the first header does not have stands before the key
            lines += [f"{other}:{values.pop(other)}" for other in "MLQ" if values.get(other)]
        lines.append(f"{letter}:{value}" if value is not None and _clean(line)[2:].strip() != value else line)
    return "\n".join(lines) + "\n" + body + "\n"


def _whole(text, bar):
    """The bar stands in the text in one stretch."""
    return bar.end - bar.start == len(bar.text) and text.startswith(bar.text, bar.start)


_GROUP = re.compile(rf'"[^"]*"|![^!]*!|\{{[^{{}}]*\}}|\[[A-Za-z]:[^\]]*\]|'
                    rf"(\[[^\[\]]*\]{_LENGTH}-?|{_NOTE}{_LENGTH}-?|[zx])")


def _untie(bar_text):
    """A bar without the ties that lead out of it.

    >>> _untie("C4-C4[C-E]8")
    'C4-C4[CE]8'
    """
    groups = [match for match in _GROUP.finditer(bar_text) if match.group(1)]
    if not groups:
        return bar_text
    last = groups[-1]
    return bar_text[:last.start()] + last.group().replace("-", "") + bar_text[last.end():]


def _respell(bar_text, key, ties):
    """A bar whose first notes were tied to `ties`, with the accidentals they had from there written out.

    >>> _respell("F4F4G8", (0,) * 7, ((38, 66),))
    '^F4=F4G8'
    """
    old, new, opened, out, at = list(key), list(key), dict(ties), [], 0
    signs = {1: "^", 2: "^^", -1: "_", -2: "__", 0: "="}
    for group in _GROUP.finditer(bar_text):
        if not group.group(1) or group.group()[0] in "zx":
            opened = {} if group.group(1) else opened
            continue
        tied_now = {}
        for match in _HEAD.finditer(bar_text, group.start(), group.end()):
            letter, octave, alteration, _, _, tied = _head(match.group())
            step = 7 * octave + letter
            if alteration is not None:
                meant = old[letter] = alteration
            elif step in opened:
                meant = opened[step] - 12 * octave - _SEMITONES[letter]
            else:
                meant = old[letter]
            if alteration is None and meant != new[letter]:
                out += [bar_text[at:match.start()], signs[meant]]
                at = match.start()
            new[letter] = meant
            if tied or group.group().endswith("-"):
                tied_now[step] = 12 * octave + _SEMITONES[letter] + meant
        opened = tied_now
    return "".join(out) + bar_text[at:]
