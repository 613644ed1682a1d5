"""Reads a stretch of music: notes, chords, rests and their signs between two bar lines or fields.

As in abc2midi, an accidental holds for its letter in all octaves to the end of the bar, and a tied
note keeps its own across the bar line.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from music.abc_fields import WHOLE
from music.theory import LETTERS, SEMITONES, SIGNS

MAX_LENGTH = 256 * WHOLE  # of a note: sums over any text stay below 2^63
MAX_ERRORS = 100  # errors kept per text; the count goes on

NOTE = r"(?:\^\^?|__?|=)?[A-Ga-g](?:'{1,8}|,{1,8})?"
LENGTH = r"\d{0,6}(?:/{1,8}\d{0,6})?"
# the first that fits counts: `[CE]` is a chord, `[1` an ending; `(3` a tuplet, `(` a slur
_KINDS = {
    "note": rf"{NOTE}{LENGTH}-?",
    "space": r"[ \t`]+",
    "rest": rf"[zx]{LENGTH}",
    "chord": rf"\[(?:{NOTE}{LENGTH}-?|[ \t.~HLMOPSTuv]|![^!\[\]|]*!)+\]{LENGTH}-?",
    "tuplet": r"\(\d(?::\d?(?::\d{0,2})?)?",
    "broken": r">{1,3}|<{1,3}",
    "slur": r"[()]",
    "ending": r"\[\d(?:[-,]?\d){0,8}",
    "full": r"[ZX]\d{0,4}",
    "quote": r"\"[^\"]*\"",
    "grace": r"\{/?[^{}]*\}",
    "mark": r"[.~HLMOPSTuv]|![^!|\n]{1,40}!|\+[A-Za-z0-9.()<>]{1,40}\+",
    "spacer": r"y\d{0,6}(?:/\d{0,2})?",
    "unreadable": r"[\s\S]",
}
TOKEN = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in _KINDS.items()), re.ASCII)
HEAD = re.compile(rf"(\^\^?|__?|=)?([A-Ga-g])([',]*)({LENGTH})(-?)", re.ASCII)
_GRACE = re.compile(
    rf"/?(?:{NOTE}{LENGTH}|[ \t()\->.~HLMOPSTuv]|\[(?:{NOTE}{LENGTH})+\]{LENGTH})*", re.ASCII
)
# notes of a tuplet: in the time of how many; else the meter decides
_TUPLET_TIME = {2: 3, 3: 2, 4: 3, 6: 2, 8: 3}


class Head(NamedTuple):
    """A note head. letter: index in LETTERS; step: letters above MIDI pitch 0; natural: MIDI pitch
    without accidental; alteration: its own, or None; over/under: length in unit notes."""

    letter: int
    step: int
    natural: int
    alteration: int | None
    over: int
    under: int
    tied: bool


@lru_cache(maxsize=4096)
def read_head(token):
    """Returns the Head in a text.

    >>> read_head("^f'3/2-")
    Head(letter=3, step=52, natural=89, alteration=1, over=3, under=2, tied=True)
    """
    sign, letter, marks, length, tie = HEAD.fullmatch(token).groups()
    octave = (5 if letter < "a" else 6) + marks.count("'") - marks.count(",")
    place = LETTERS.index(letter.upper())
    return Head(
        place,
        7 * octave + place,
        12 * octave + SEMITONES[place],
        SIGNS[sign] if sign else None,
        *_fraction(length),
        bool(tie),
    )


@lru_cache(maxsize=4096)
def _fraction(text):
    """Reads `3/2` as (3, 2), `//` as (1, 4), `` as (1, 1), and `//3`, which is none, as (1, 0)."""
    over, slashes, under = re.fullmatch(r"(\d*)(/*)(\d*)", text, re.ASCII).groups()
    if not under:
        return int(over or 1), 2 ** len(slashes)
    return int(over or 1), int(under) if slashes == "/" else 0


def _read_token(token):
    kind = TOKEN.match(token).lastgroup
    if kind == "note":
        head = read_head(token)
        return "sound", (head,), head.over, head.under, False
    if kind == "rest":
        return "sound", (), *_fraction(token[1:]), False
    if kind == "chord":
        inside, _, after = token[1:].rpartition("]")
        matches = HEAD.finditer(re.sub(r"![^!]*!", "", inside))
        if heads := tuple([read_head(match.group()) for match in matches]):
            over, under = _fraction(after.rstrip("-"))
            return "sound", heads, over * heads[0].over, under * heads[0].under, after[-1:] == "-"
    return kind, (), 1, 1, False


_read_short_token = lru_cache(maxsize=1 << 14)(_read_token)


def read_token(token):
    """Returns (kind, heads, numerator, denominator of the length, all tied) of a token; kind is
    "sound" for a note, chord or rest (without heads)."""
    return _read_short_token(token) if len(token) <= 64 else _read_token(token)


def _broken_factor(signs):
    """Returns (numerator, denominator) for the first note at `>` (1), `>>` (2), `<` (-1) ...: 3/2,
    7/4, 1/2; for the second give -signs."""
    under = 2 ** abs(signs)
    return (2 * under - 1 if signs > 0 else 1), under


@lru_cache(maxsize=1024)
def read_tuplet(text, compound):
    """Returns (r, q, p) of `(p:q:r`: the next r notes are each q/p of their length (ABC 2.1,
    section 4.13); (0, 1, 1) if it is none."""
    p, q, r = (text[1:].split(":") + ["", ""])[:3]
    p = int(p)
    if p < 2 or q == "0" or r and not int(r):
        return 0, 1, 1
    q = int(q) if q else _TUPLET_TIME.get(p, 3 if compound else 2)
    return int(r or p), q, p


class Stretch:
    """A stretch of music, in ticks from its start.

    onsets, durations, pitches, n_heads: of its notes; joined: (index of a tie from before, ticks to
    add); open: ties open at the end, (step, pitch); open_notes: indices of their notes, below 0 of
    ties from before; alterations: in force at the end; slur_low, slur_end: lowest and last level of
    nesting; rest_bars: n of Zn; timed: holds a note or a rest; errors: (kind, message);
    broken_ties: how many lead nowhere.
    """

    def __init__(self, alterations, unit, compound, ties):
        self.unit, self.compound, self.alterations = unit, compound, list(alterations)
        self.length, self.onsets, self.pitches, self.n_heads, self.errors = 0, [], [], 0, []
        self.durations = [0] * len(ties)  # first those of ties from before
        self.ties = [(*tie, place) for place, tie in enumerate(ties)]  # place: in durations
        self.broken_ties = self.slur_end = self.slur_low = self.rest_bars = 0
        self.timed = False
        self.last = None  # what > or < would lengthen: (ticks, [(place in durations, its ticks)])
        self.broken = 0  # signs of a > or < that waits for its second note
        self.tuplet_left, self.tuplet_over, self.tuplet_under = 0, 1, 1

    def error(self, kind, message):
        if len(self.errors) < MAX_ERRORS:
            self.errors.append((kind, message))

    def sound(self, token, heads, over, under, all_tied):
        if self.rest_bars:
            self.error("token", "music beside a rest of whole bars")
        self.timed = True
        ticks = self.ticks_of(*self.in_rhythm(over, under), token)
        sounding, still_open = [], []
        for head in heads:
            pitch, tie = self.pitch_of(head)
            length = self.ticks_in_chord(head, heads[0], ticks)
            if tie is None:
                place = len(self.durations)
                self.onsets.append(self.length)
                self.durations.append(length)
                self.pitches.append(pitch)
            else:  # the same note goes on
                self.ties.remove(tie)
                place = tie[2]
                self.durations[place] += length
            sounding.append((place, length))
            if head.tied or all_tied:
                still_open.append((head.step, pitch, place))
        self.n_heads += len(heads)
        # a tie leads to the very next sound, or nowhere
        self.broken_ties += len(self.ties)
        self.ties, self.last = still_open, (ticks, sounding)
        self.length += ticks

    def in_rhythm(self, over, under):
        """Returns a length in the tuplet and the broken rhythm that wait for it."""
        if self.tuplet_left:
            over, under = over * self.tuplet_over, under * self.tuplet_under
            self.tuplet_left -= 1
        if self.broken:
            factor_over, factor_under = _broken_factor(-self.broken)
            over, under, self.broken = over * factor_over, under * factor_under, 0
        return over, under

    def ticks_of(self, over, under, token):
        """Returns ticks of over/under unit notes; 0 for no length."""
        length = self.unit * over
        if not over or not under:
            self.error("length", "a note without length")
        elif length > MAX_LENGTH * under:
            self.error("length", "a note longer than 256 whole notes")
        elif length % under:
            self.error("length", f"a length that cannot be counted: {token[:20]}")
        else:
            return length // under
        return 0

    def ticks_in_chord(self, head, first, ticks):
        """Returns ticks of a head of a chord whose first head has `ticks`."""
        if not head.under or not first.over:
            return ticks
        if not head.over:
            self.error("length", "a note without length")
        return ticks * head.over * first.under // (head.under * first.over)

    def pitch_of(self, head):
        """Returns (MIDI pitch, the open tie that leads to this head or None)."""
        letter, step, natural, alteration = head[:4]
        if alteration is not None:
            self.alterations[letter] = alteration
        pitch = natural + self.alterations[letter]
        for tie in self.ties:
            # a tied note keeps its accidental across the bar line, or says it: `^F-|^F`
            if tie[0] == step and (alteration is None or tie[1] == pitch):
                return tie[1], tie
        if not 0 <= pitch <= 127:
            self.error("pitch", f"pitch {pitch} is outside 0-127")
            pitch = min(max(pitch, 0), 127)
        return pitch, None

    def tuplet(self, token):
        if self.tuplet_left:
            self.error("tuplet", "a tuplet inside a tuplet")
        self.tuplet_left, self.tuplet_over, self.tuplet_under = read_tuplet(token, self.compound)
        if not self.tuplet_left:
            self.error("tuplet", f"no tuplet: {token}")

    def broken_rhythm(self, token):
        """Changes what sounds before `>` or `<`."""
        if self.last is None or self.broken:
            self.error("broken rhythm", f"{token} without a note before it")
            return
        self.broken = len(token) if token[0] == ">" else -len(token)
        over, under = _broken_factor(self.broken)
        ticks, sounding = self.last
        if ticks * over % under:
            self.error("length", "a note shorter than can be counted")
        for place, length in sounding:
            self.durations[place] += length * over // under - length
        self.length += ticks * over // under - ticks

    def slur_sign(self, token):
        self.slur_end += 1 if token == "(" else -1
        self.slur_low = min(self.slur_low, self.slur_end)

    def whole_rest(self, token):
        if self.timed or self.rest_bars:
            self.error("token", f"{token} does not stand alone in its bar")
        self.rest_bars = int(token[1:] or 1)
        if not self.rest_bars:
            self.error("length", "a rest without length")

    def grace_notes(self, token):
        """Takes over the accidentals of `{^ga}` (so in abc2midi)."""
        inside = token[1:-1]
        if not _GRACE.fullmatch(inside) or not inside.strip("/ \t"):
            self.error("grace", f"no grace notes: {token[:40]}")
            return
        for match in HEAD.finditer(inside):
            head = read_head(match.group())
            if head.alteration is not None:
                self.alterations[head.letter] = head.alteration

    def finish(self, n_before):
        """Sets what is known at the end; n_before: ties from before."""
        if left := self.tuplet_left:
            self.error("tuplet", f"a tuplet lacks {left} of its notes in its bar")
        if self.broken:
            self.error("broken rhythm", "no note after > or <")
        self.joined = list(enumerate(self.durations[:n_before]))
        self.durations = self.durations[n_before:]
        self.open = tuple([tie[:2] for tie in self.ties])
        self.open_notes = [tie[2] - n_before for tie in self.ties]
        self.alterations = tuple(self.alterations)
        self.timed = self.timed or self.rest_bars > 0


_SIGN_METHODS = {
    "tuplet": Stretch.tuplet,
    "broken": Stretch.broken_rhythm,
    "slur": Stretch.slur_sign,
    "full": Stretch.whole_rest,
    "grace": Stretch.grace_notes,
}


# what an unreadable character spoils
_SPOILT = {
    **dict.fromkeys('"!', "quote"),
    **dict.fromkeys("[]", "chord"),
    **dict.fromkeys("{}", "grace"),
    "(": "tuplet",
    **dict.fromkeys("<>", "broken rhythm"),
}


def read_stretch(text, alterations, unit, compound, ties):
    """Returns the Stretch of a text without bar lines and fields.

    alterations: in force, of LETTERS; unit: ticks of a unit note; compound: see `parse_meter`;
    ties: the open ones, ((step, pitch), ...)."""
    read = _read_short_stretch if len(text) <= 256 else _read_stretch  # longer ones do not repeat
    return read(text, alterations, unit, compound, ties)


def _read_stretch(text, alterations, unit, compound, ties):
    stretch = Stretch(alterations, unit, compound, ties)
    tokens = [match.group() for match in TOKEN.finditer(text)]
    for i, token in enumerate(tokens):
        kind, heads, over, under, all_tied = read_token(token)
        if kind == "sound":
            stretch.sound(token, heads, over, under, all_tied)
        elif kind in _SIGN_METHODS:
            _SIGN_METHODS[kind](stretch, token)
        elif kind == "chord":
            stretch.error("chord", "a chord without notes")
        elif kind == "unreadable":
            excerpt = "".join(tokens[i : i + 12])[:12]
            stretch.error(_SPOILT.get(token, "token"), f"cannot read {excerpt!r}")
    stretch.finish(len(ties))
    return stretch


_read_short_stretch = lru_cache(maxsize=1 << 14)(_read_stretch)  # about 30 MB when full
