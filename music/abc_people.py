"""ABC as people write it, set in the project's normal form: the text that stage 02 makes of MIDI.

    tunes = read_people(data, "reels.abc")     # [PeoplesTune(title, line, text, reason, mended)]

People's files come from web pages, word processors, e-mail and a dozen programs. Each kind of
fault is mended as a kind and counted; what cannot be read says its line and why. The music itself
is read by the strict reader's own `read_stretch`, bar by bar, so that a note means the same here
and there. As in the training text, repeats are written once, and ornaments, words and chord
symbols are left out.
"""

import html
import re
from collections import Counter
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import symusic

from music.abc_bar import read_stretch
from music.abc_fields import (
    TICKS,
    WHOLE,
    default_unit,
    parse_key,
    parse_meter,
    parse_tempo,
    parse_unit,
    tonic_of,
)
from music.abc_text import AbcError, read_abc
from music.midi_to_abc import MAX_BARS, MAX_VOICES, write_tune
from music.notation import MIDI_TICKS, midi_bytes
from music.quantise import QUARTER, SIXTY_FOURTH, SMALLEST, beat_grid
from music.theory import meter_of_length
from music.voice_text import LONGEST_BAR, TUPLETS

MAX_FOREIGN_SHARE = 0.25  # unreadable signs to notes: beyond it a text is no music
DEFAULT_TEMPO = 120


class PeoplesTune(NamedTuple):
    """A tune of a book. line: of the book, where it begins; text: in normal form, None if it cannot
    be read, and reason says why; mended: {kind of fault: how often}; composer, rights: what
    C: and R: say."""

    title: str
    line: int
    text: str | None
    reason: str
    mended: dict
    composer: str = ""
    rights: str = ""


class _Unreadable(ValueError):
    """A tune that cannot be read: "line N: why"."""


# ---------------------------------------------------------------- bytes and books


def decoded(data):
    """(text with plain line ends, Counter of what was mended) of the bytes of an ABC file."""
    mended, encoding = Counter(), "utf-8"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif len(data) > 3 and data[1:4:2] == b"\0\0":
        encoding = "utf-16-le"
    elif len(data) > 3 and data[:4:2] == b"\0\0":
        encoding = "utf-16-be"
    mended["texts in UTF-16"] += encoding != "utf-8"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode("latin-1" if encoding == "utf-8" else encoding, "replace")
    lines = re.sub(r"\r+\n|\r", "\n", text.lstrip("\ufeff").replace("\0", ""))
    mended["files with doubled line ends"] += "\r\r\n" in text
    return lines, +mended


class _RawTune(NamedTuple):
    """Lines of a tune as they stand, [(number in the book, line)], and what was mended so far."""

    lines: list
    mended: Counter


def split_book(text):
    """The _RawTunes of a book: from each X: (or, in a book without any, each T: or first field) to
    the next; an empty line ends a tune unless music follows it. Fields M:, L:, K: and Q: above the
    first X: hold for every tune that has none of its own."""
    text, mended = without_web(text)
    blocks, begin_text = [[]], False
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith(("%%begin", "%%end")):
            begin_text = line.startswith("%%begin")
        elif begin_text or line.lstrip().startswith("%"):
            continue
        elif not line.strip():
            blocks.append([])
        else:
            if re.match(r"[ \t]+[A-Za-z+]:(?![|:])", line):
                line = line.lstrip()
                mended["blanks before a field"] += 1
            if line.startswith("X:") and blocks[-1]:
                blocks.append([])
            blocks[-1].append((number, line))
    blocks = [block for block in blocks if block]
    has_numbers = any(line.startswith("X:") for block in blocks for _, line in block)
    tunes, defaults = [], {}
    for block in blocks:
        first, letters = block[0][1], [line[0] for _, line in block if is_field(line)]
        is_start = first.startswith("X:") if has_numbers else first[:2] in ("T:", "M:", "L:", "K:")
        has_music = any(is_music(line) for _, line in block)
        if is_start and (has_numbers or has_music):
            tunes.append(_RawTune(list(block), Counter()))
            if not has_numbers:
                tunes[-1].mended["tunes without X:"] += 1
        elif tunes and has_music and all(is_field(line) or is_music(line) for _, line in block):
            tunes[-1].lines.extend(block)
            tunes[-1].mended["empty lines inside a tune"] += 1
        elif not tunes and letters:
            defaults.update({line[0]: (n, line) for n, line in block if line[0] in "MLKQ"})
    for tune in tunes:
        own = {line[0] for _, line in tune.lines if is_field(line)}
        given = [row for letter, row in defaults.items() if letter not in own]
        if given:
            tune.lines[1:1] = sorted(given, key=lambda row: row[1][0] == "K")
            tune.mended["fields given once for the file"] += len(given)
    return tunes, mended


# tags that notes cannot be taken for: `a<b>c` is rhythm
_TAG = re.compile(
    r"(?i)</?(?:br|pre|p|div|span|font|td|tr|table|html|body|code|a\s+href[^<>]*)\s*/?>"
)
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{1,6}|#x[0-9a-fA-F]{1,5});")
_TYPOGRAPHY = {
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033", '"'),
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u00b4\u2032", "'"),
    **dict.fromkeys("\u00a0\u2002\u2003\u2007\u2009\u202f\u3000", " "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", ""),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
    "\u266f": "#",
    "\u266d": "b",
    "\u2028": "\n",
}
_TYPOGRAPHIC = re.compile("[" + "".join(_TYPOGRAPHY) + "]")


def without_web(text):
    """(text without what web pages and word processors leave behind, Counter of it)."""
    mended = Counter()

    def count(kind, replaced):
        mended[kind] += replaced[1]
        return replaced[0]

    text = count(
        "HTML left-overs", _ENTITY.subn(lambda entity: html.unescape(entity.group()), text)
    )
    text = count("HTML left-overs", _TAG.subn("", text))
    text = count(
        "typographic quotes and blanks",
        _TYPOGRAPHIC.subn(lambda sign: _TYPOGRAPHY[sign.group()], text),
    )
    return text, +mended


def is_field(line):
    """True for `M:3/4` and the like, not for the bar line in `G:|`."""
    return re.match(r"[A-Za-z+]:(?![|:\]])", line) is not None


_WORDS = re.compile(r"\"[^\"]*\"|![^!\n]*!|\+[^+|\n]{1,40}\+|\[[A-Za-z]:[^\]]*\]|\{[^}]*\}|%.*")


def is_music(line):
    """True if a line could be bars: nearly all of its signs are notes, lengths and bar lines."""
    if is_field(line) or line.startswith("%"):
        return False
    bare = re.sub(r"\s", "", _WORDS.sub("", line))
    plain = re.sub(r"[A-Ga-gzxZX0-9/|:\[\](),'^_=<>\-.~&$!*\\`yuvTHLMOPSJR]", "", bare)
    return len(plain) <= 0.1 * len(bare) and (
        "|" in line or len(re.findall("[A-Ga-g]", bare)) > 3 and not re.search("[a-z]{7}", line)
    )


def is_words(line):
    """True if a line is a sentence rather than bars with faults."""
    bare = _WORDS.sub(" ", line)
    letters, foreign = (len(re.findall(kind, bare)) for kind in ("[A-Za-z]", "[IKNQUVWh-t]"))
    return foreign > 0.3 * letters


# ---------------------------------------------------------------- one line of music

_QUOTE = re.compile(r'"[^"]*"')
_MARK = re.compile(r"![^!|\s]{1,40}!|\+[A-Za-z][A-Za-z0-9.()<>]{0,39}\+")
_MICROTONE = re.compile(r"(\^+|_+|=)(\d*)(/*)(\d*)(?<=[\d/])(?=[A-Ga-g])")
_MANY_SIGNS = re.compile(r"(?<![_^])(\^\^|__)[_^]+")
_OCTAVES = re.compile(r"(?<=[A-Ga-g])[,']{2,}")
_TUPLET = re.compile(r"\((\d{1,2})(?::(\d{0,2}))?(?::(\d{0,2}))?")
_ZERO = re.compile(r"(?:[_^=]*[A-Ga-gzx][,']*|\[[^\]|:]*\])0+(?![\d/.])-?")
_CHORD = re.compile(r"\[(?![A-Za-z]:)([^\[\]|]*)\]")
_HEAD = r"[_^=]*[A-Ga-gzx][,']*"
_STRAY = re.compile(r"(?<![A-Ga-g0-9,'/\]])-|[=^_]+(?![\^_=]*[A-Ga-g])")
_SHORT = re.compile(rf"({_HEAD})>({_HEAD})/({_HEAD})/(?![\d/])")


class Cleaner:
    """Turns lines of music into what `read_stretch` reads; mended: Counter of what it met."""

    def __init__(self, mended):
        self.mended = mended

    def sub(self, kind, pattern, replacement, text):
        """re.sub that counts."""
        text, n = re.subn(pattern, replacement, text)
        if n and kind:
            self.mended[kind] += n
        return text

    def line(self, line):
        """A line of music without words, marks and comments."""
        line = self.sub("unclosed quotes", r'"[^"\s|]*', "", _QUOTE.sub("", line))
        line = line.split("%")[0].rstrip().removesuffix("\\")
        parts = re.split(r"(\[[A-Za-z]:[^\]\n]*\])", line)
        return "".join(part if i % 2 else self.music(part) for i, part in enumerate(parts))

    def music(self, text):
        """A stretch of a line without fields."""
        text = _MARK.sub("", text)
        text = self.sub("line-break signs", r"[$!*]", "", text)
        text = re.sub(r"\{[^}|]*\}|[.~`H-WYh-w]|y[\d/]*|\\", "", text)
        text = self.sub("microtones", _MICROTONE, self.accidental, text)
        text = _MANY_SIGNS.sub(r"\1", text)
        text = _OCTAVES.sub(octave_marks, text)
        text = self.sub("notes without length", _ZERO, "", text)
        text = _TUPLET.sub(lambda match: "\1" + tuplet(*match.groups())[1:], text)
        if text.count("(") != text.count(")"):
            self.mended["unclosed slurs"] += 1
        text = re.sub(r"[()]", "", text).replace("\1", "(")
        text = _CHORD.sub(self.chord, text)
        text = self.sub("unclosed chords", r"\[(?=[^\]|:\d]*(?:\||$))(?![|:\d])", "", text)
        text = re.sub(r"[ \t]+(?=-)|(?<=[<>])[ \t]+|[ \t]+(?=[<>])", "", text)
        text = self.sub("lengths behind a tie", r"(?<=[A-Ga-g,'])-(\d)", r"\1-", text)
        text = self.sub("stray signs", _STRAY, "", text)
        # old shorthand: d>c/B/ means d3/2c/4B/4
        return self.sub("old shorthand of rhythm", _SHORT, r"\g<1>3/2\2/4\3/4", text)

    @staticmethod
    def accidental(match):
        """A microtone as the next semitone towards the natural."""
        sign, over, slash, under = match.groups()
        size = int(over or 1) / max(1, int(under or 2 ** len(slash)))
        return "=" if sign == "=" else sign[0] * min(int(size), 2) or "="

    def chord(self, match):
        """A chord without blanks; rests in it are not heard."""
        inside = re.sub(r"\s", "", match.group(1))
        notes = re.sub(r"[zx][\d/]*-?", "", inside)
        if notes != inside:
            self.mended["rests inside chords"] += 1
        if not re.search("[A-Ga-g]", notes):
            return "z" if inside else ""
        return f"[{notes}]"


def octave_marks(match):
    """`,'` and the like: what is left of marks that go both ways."""
    n = match.group().count("'") - match.group().count(",")
    return "'" * n if n > 0 else "," * -n


def tuplet(p, q, r):
    """A tuplet of at most nine: `(10:6:10` is `(5:3:10`."""
    if len(p) == 1:
        return f"({p}" + (f":{q or ''}:{r or ''}" if q is not None else "")
    p, q = int(p), int(q or 0) or 2
    r = int(r or 0) or p
    divisor = int(np.gcd(p, q))
    return f"({p // divisor}:{q // divisor}:{r}" if p // divisor <= 9 else ""


# ---------------------------------------------------------------- bars of voices


class _Bar(NamedTuple):
    """A bar of a voice. notes: [(onset in the bar, duration, pitch)] in ticks; length: ticks;
    meter: ticks or None; line: of the book."""

    notes: list
    length: int
    meter: int | None
    line: int


class _Voice:
    """A voice while it is read: what is in force, the bar that is not closed yet, and its bars."""

    def __init__(self, key, unit, meter, compound):
        self.key, self.unit, self.meter, self.compound = key, unit, meter, compound
        self.shift, self.text, self.line, self.bars = 0, "", 0, []
        self.ties = {}  # {part of an overlay: [(step, pitch, row of its note)]}


_FIELD = re.compile(r"(\[[A-Za-z]:[^\]\n]*\])")
_BAR_LINE = re.compile(r"(?:[:|]*\[?\|[|\]:]*|::+)(?:[ \t]*\[?\d(?:[-,.]?\d)*)?|\[\d(?:[-,.]?\d)*")


class _Reader:
    """Reads one raw tune. voices: {name: _Voice}; signatures, tempos: {number of the bar: value};
    n_foreign, first_foreign: signs that are no music, and (line, message) of the first."""

    def __init__(self, raw):
        self.mended, self.voices, self.voice, self.title = Counter(raw.mended), {}, None, ""
        self.cleaner = Cleaner(self.mended)
        self.key, self.meter, self.compound, self.unit = (0,) * 7, WHOLE, False, None
        self.in_header, self.has_key, self.shift = True, False, 0
        self.signatures, self.tempos, self.n_foreign, self.first_foreign = {}, {}, 0, None
        for number, line in raw.lines:
            if is_field(line):
                self.field(line[0], line[2:].split("%")[0].strip())
            else:
                self.music_line(line, number)
        for voice in self.voices.values():
            self.close_bar(voice)
        if not self.has_key:
            self.mended["tunes without K:"] += 1

    # ------------------------------------------------ fields

    def field(self, letter, value):
        """A field of the header or the body."""
        if letter == "T" and not self.title:
            self.title = value
        elif letter == "V":
            self.choose_voice(value)
        elif letter in "MLKQ":
            try:
                getattr(self, f"field_{letter}")(value)
            except ValueError:
                self.mended[f"{letter}: that cannot be read"] += 1

    def targets(self):
        """What a field changes: the present voice, or before there is one the tune's values."""
        return [self.voice] if self.voice else [self, *self.voices.values()]

    def field_M(self, value):
        meter, compound = parse_meter(value)
        for target in self.targets():
            target.meter, target.compound = meter, compound

    def field_L(self, value):
        unit = parse_unit(value)
        for target in self.targets():
            target.unit = unit

    def field_K(self, value):
        """A key; a clef alone changes none. In the header it is the last field."""
        value = re.sub(r"^[a-g](?=[#b]?(?:m|min|maj|dor|mix|\s|$))", upper, value)
        words = re.sub(r"\b\w+\s*=\s*\S+|\b(?:treble|alto|tenor|bass|perc)\d?([+-]8)?", "", value)
        words, shift = words.strip(), shift_of(value)
        self.has_key = True
        if words or not value:
            key = self.key_of(words)
            for target in self.targets():
                target.key = key
            self.signatures.setdefault(self.place(), (key, words))
        for target in self.targets():
            target.shift += shift
        self.in_header = False
        if len(self.voices) == 1:
            self.voice = self.voice or next(iter(self.voices.values()))

    def key_of(self, words):
        """Alterations of a K: value without its clef. Pipes sound F and C sharp however K: says
        it; where the whole cannot be read, its beginning counts."""
        if words[:2] == "HP":
            words = "Hp"
        try:
            return parse_key(words or "C")
        except ValueError:
            modes = "min|maj|mix|dor|phr|lyd|loc"
            tonic = re.match(rf"[A-G][#b]?(?:m(?![a-z])|\s*(?:{modes})\w*)?", words)
            if not tonic:
                raise
            self.mended["K: read by its beginning"] += 1
            return parse_key(tonic.group())

    def field_Q(self, value):
        try:
            tempo = parse_tempo(value, self.unit or default_unit(self.meter))
        except ValueError:
            speed = re.search(r"=\D*(\d{2,3})\b", value)
            if not speed:
                raise
            tempo = float(speed.group(1))
            self.mended["Q: read by its number"] += 1
        if tempo:
            self.tempos.setdefault(self.place(), tempo)

    def place(self):
        """Number of the bar that is being read."""
        return len(self.voice.bars) if self.voice else 0

    def choose_voice(self, value):
        """The voice that V: names becomes the present one; in the header it is only made known."""
        match = re.match(r"\s*([^\s=\"\]]+)", value)
        if not match:
            return
        name, shift = match.group(1), shift_of(value)
        if name not in self.voices:
            if len(self.voices) >= 99:
                raise _Unreadable("more than 99 voices")
            voice = _Voice(self.key, self.unit, self.meter, self.compound)
            self.voices[name], voice.shift = voice, self.shift
        voice = self.voices[name]
        voice.shift = shift or voice.shift
        if not self.in_header:
            self.voice = voice

    # ------------------------------------------------ music

    def music_line(self, line, number):
        """A line of music: fields, bar lines and the stretches between them."""
        if not is_music(line) and is_words(line):
            self.mended["lines of words"] += 1
            return
        self.in_header = False
        for i, part in enumerate(_FIELD.split(self.cleaner.line(line))):
            if i % 2 and part[1] == "V":
                self.choose_voice(part[3:-1])
            elif i % 2 and self.voice and self.voice.text.strip():
                self.voice.text += part if part[1] in "KLM" else ""  # inside a bar
            elif i % 2:
                self.present_voice()
                self.field(part[1], part[3:-1].strip())
            else:
                self.stretches(part, number)

    def stretches(self, part, number):
        """A part of a line without fields."""
        at = 0
        for bar_line in [*_BAR_LINE.finditer(part), None]:
            text = part[at : bar_line.start() if bar_line else len(part)]
            if text.strip():
                voice = self.present_voice()
                voice.text += text + " "
                voice.line = voice.line or number
            if bar_line:
                at = bar_line.end()
                self.close_bar(self.present_voice())

    def present_voice(self):
        if self.voice is None:
            self.choose_voice(next(iter(self.voices), "1"))
        return self.voice

    def close_bar(self, voice):
        """Reads the bar of a voice; the parts of an overlay begin together."""
        text, line = voice.text, voice.line
        voice.text, voice.line = "", 0
        if not text.strip():
            return
        layers = text.split("&")
        if len(layers) > 1:
            self.mended["overlays"] += len(layers) - 1
        notes, length, n_rests = [], 0, 0
        for number, layer in enumerate(layers):
            now, alterations = 0, voice.key
            for i, part in enumerate(_FIELD.split(layer)):
                if i % 2:
                    self.field(part[1], part[3:-1].strip())
                    alterations = voice.key if part[1] == "K" else alterations
                    continue
                read = self.read_part(voice, number, part, alterations, line)
                notes += [
                    [now + onset, duration, pitch + voice.shift]
                    for onset, duration, pitch in zip(*read[1])
                ]
                self.tie(voice, number, read[0], notes)
                alterations, now = read[0].alterations, now + read[0].length
                n_rests = max(n_rests, read[0].rest_bars)
            length = max(length, now)
        if length:
            voice.bars.append(_Bar(notes, length, voice.meter, line))
        elif voice.meter:
            rest = _Bar([], voice.meter, voice.meter, line)
            voice.bars += [rest] * min(n_rests, MAX_BARS)

    def read_part(self, voice, number, text, alterations, line):
        """(Stretch of a text, its onsets, durations and pitches); errors are counted."""
        unit = voice.unit or default_unit(voice.meter)
        ties = tuple(tie[:2] for tie in voice.ties.get(number, ()))
        read = read_stretch(text, alterations, unit, voice.compound, ties)
        for kind, message in read.errors:
            if message.startswith("cannot read"):
                self.n_foreign += 1
                self.first_foreign = self.first_foreign or (line, message)
            else:
                self.mended[message if len(message) < 40 else kind] += 1
        return read, (read.onsets, read.durations, read.pitches)

    def tie(self, voice, number, read, notes):
        """Lengthens the notes that ties from before lead on, and notes which ties are open now.
        notes: of the bar, this stretch's last."""
        before, own = voice.ties.get(number, ()), notes[len(notes) - len(read.onsets) :]
        for i, ticks in read.joined:
            before[i][2][1] += ticks
        if read.timed:
            voice.ties[number] = [
                (step, pitch, own[i] if i >= 0 else before[-1 - i][2])
                for (step, pitch), i in zip(read.open, read.open_notes)
            ]


def upper(match):
    return match.group().upper()


def shift_of(value):
    """Semitones by which a voice sounds above what is written: `clef=treble-8`, `transpose=-24`."""
    shift = 0
    for word, number in re.findall(r"\b(octave|transpose|t)\s*=\s*([+-]?\d{1,2})\b", value):
        shift += int(number) * (12 if word == "octave" else 1)
    clef = re.search(r"(?:treble|alto|tenor|bass)\d?([+-])8", value)
    return shift + (12 if clef and clef.group(1) == "+" else -12 if clef else 0)


# ---------------------------------------------------------------- from bars to the normal form


def normal_form(raw, name="", max_voices=MAX_VOICES):
    """PeoplesTune of a _RawTune."""
    line = raw.lines[0][0]
    title = next((text[2:].strip() for _, text in raw.lines if text.startswith("T:")), "")
    try:
        reader = _Reader(raw)
        n_notes = sum(len(bar.notes) for voice in reader.voices.values() for bar in voice.bars)
        if reader.n_foreign > max(3, MAX_FOREIGN_SHARE * n_notes):
            raise _Unreadable("line %d: %s" % reader.first_foreign)
        if reader.n_foreign:
            reader.mended["signs that are no music"] += reader.n_foreign
        if not n_notes:
            raise _Unreadable(f"line {line}: a tune without notes")
        text = written(reader, title or name, max_voices)
    except _Unreadable as error:
        return PeoplesTune(title, line, None, str(error), dict(raw.mended))
    return PeoplesTune(title, line, text, "", dict(+reader.mended))


def written(reader, name, max_voices):
    """The normal form of what a _Reader has read."""
    voices = [voice.bars for voice in reader.voices.values() if voice.bars]
    lengths, meters, starts = bar_plan(voices, reader.mended)
    bars = np.concatenate([[0], np.cumsum([length for length in lengths])])
    place = {}  # number of the bar as read -> units
    tracks = []
    for number, voice in enumerate(voices):
        for i, bar in enumerate(voice):
            at = place.setdefault(i, starts[i])
            tracks += [
                (number, units(onset) + at, units(onset + duration) + at, min(max(pitch, 0), 127))
                for onset, duration, pitch in bar.notes
                if duration
            ]
    tracks.sort(key=lambda note: (note[0], note[1], note[3]))
    track, on, off, pitch = (np.array(column) for column in zip(*tracks))
    track = np.unique(track, return_inverse=True)[1]
    on, off = on_grid(track, on, off, beat_grid(bars))
    last = starts[-1]
    signatures = [
        (starts[i] if i < len(starts) else last, sharps_of(key), is_minor(words))
        for i, (key, words) in reader.signatures.items()
    ]
    tempos = [(starts[min(i, len(starts) - 1)], tempo) for i, tempo in reader.tempos.items()]
    tempos = tempos or [(0, DEFAULT_TEMPO)]
    notes = track, pitch, on, off
    return write_tune(notes, bars, meters, signatures, tempos, name, max_voices)[0]


def units(ticks):
    """Units of the grid, as a float where they are none."""
    return ticks * QUARTER / TICKS


def bar_plan(voices, mended):
    """(lengths of the bars that are written, [(first bar, (n, d))], place of every bar as read).

    Bars that a repeat sign cuts in two become one; a short bar gets rests, a long one a meter of
    its own, or several bars where it holds several. Lengths and places in units."""
    n_bars = max(map(len, voices))
    if n_bars > MAX_BARS:
        raise _Unreadable(f"more than {MAX_BARS:,} bars")
    rows = []
    for i in range(n_bars):
        own = [voice[i] for voice in voices if i < len(voice)]
        longest = max(units(bar.length) for bar in own)
        length = int(np.ceil(round(longest, 3) / SMALLEST)) * SMALLEST
        meter = next((bar.meter for bar in own if bar.meter), None)
        nominal = round(units(meter)) if meter else length
        rows.append((length, nominal if nominal % SMALLEST == 0 else length))
    lengths, meters, starts, now, i = [], [], [], 0, 0

    def write(length, nominal):
        meter = meter_of_length(nominal, QUARTER)
        if not meters or meters[-1][1] != meter:
            meters.append((len(lengths), meter))
        lengths.append(length)

    while i < n_bars:
        length, nominal = rows[i]
        starts.append(now)
        if length < nominal and 0 < i < n_bars - 1 and length + rows[i + 1][0] == nominal:
            i += 1
            starts.append(now + length)
            write(nominal, nominal)
            now += nominal
        elif length == nominal or length < nominal and i == 0 and n_bars > 1:  # or a pickup
            write(length, nominal)
            now += length
        elif length < nominal:
            mended["short bars filled up"] += i < n_bars - 1
            write(nominal, nominal)
            now += nominal
        else:
            n_whole = length // nominal if length % nominal == 0 or length > LONGEST_BAR else 0
            for _ in range(n_whole):
                write(nominal, nominal)
            left = length - n_whole * nominal
            if left:
                mended["long bars with a meter of their own"] += 1
                write(left, left)
            now += length
        i += 1
    return lengths, meters, starts


def on_grid(track, on, off, beats):
    """Onsets and ends as ints on a grid that can be written: exact in 64ths and in tuplets of 3, 5,
    6, 7 and 9 in a beat; others move to the nearest 64th."""
    edges = np.concatenate([on, off])
    exact = np.rint(edges).astype(np.int64)
    odd = (np.abs(edges - exact) > 1e-3) | (exact % SIXTY_FOURTH != 0)
    nearest = np.rint(edges / SIXTY_FOURTH).astype(np.int64) * SIXTY_FOURTH
    beat = np.searchsorted(beats, exact, side="right") - 1
    place = edges - beats[beat]
    cell = np.concatenate([track, track]) * len(beats) + beat
    for number in np.unique(cell[odd]):
        here = odd & (cell == number)
        parts = [place[here] * n / QUARTER for n, _ in TUPLETS.values()]
        fits = [n for n in parts if (np.abs(n - np.rint(n)) < 1e-3).all()]
        if not fits:
            exact[here] = nearest[here]
    on, off = exact[: len(on)], exact[len(on) :]
    return on, np.maximum(off, on + SIXTY_FOURTH)


def sharps_of(key):
    """Sharps of a signature by its alterations, of one with signs of its own the sum."""
    return max(-7, min(7, sum(key)))


def is_minor(words):
    """True if the tonic of a K: value is its scale's minor one."""
    tonic = tonic_of(words)
    return bool(tonic and tonic[1] and "dor" not in words.lower() and "phr" not in words.lower())


def is_normal(raw_text):
    """True for a tune that is in normal form already: by its unit, its signs and its bars."""
    header, _, body = raw_text.partition("\nK:")
    lines = [line for line in header.split("\n") if line]
    if "L:1/16" not in lines or any(line[:2] not in _NORMAL_FIELDS for line in lines):
        return False
    if not _NORMAL_BODY.fullmatch(body.partition("\n")[2]):
        return False
    try:
        tune = read_abc(raw_text)
    except AbcError:
        return False
    return all(bar.length == bar.meter for voice in tune.voices for bar in voice.bars[1:])


_NORMAL_FIELDS = ("X:", "T:", "M:", "L:", "Q:", "R:")
_NORMAL_BODY = re.compile(
    r"(?:\[(?:V:\d+|M:\d+/\d+|Q:1/4=\d+|K:[A-G][#b]?m?)\]|\(\d(?::\d?:\d+)?"
    r"|[A-Ga-gzZ0-9/|,'^_=\-\n]"
    r"|\[(?:[_=^]?[A-Ga-g][,']*-?)+\])*"
)


def read_people(data, name="", max_voices=MAX_VOICES):
    """[PeoplesTune] of an ABC file's bytes (or text); never raises.

    A tune that is in normal form already stays as it is. name: for tunes without T:."""
    if isinstance(data, str):
        text, of_file = data, Counter()
    else:
        text, of_file = decoded(data)
    raws, in_book = split_book(text)
    tunes = []
    for raw in raws:
        raw_text = "\n".join(line for _, line in raw.lines) + "\n"
        n_voices = len(set(re.findall(r"\[V:(\d+)\]", raw_text)))
        if not raw.mended and n_voices <= max_voices and is_normal(raw_text):
            title = re.search(r"(?m)^T:[ \t]*(.*)$", raw_text)
            found = title.group(1) if title else ""
            tunes.append(PeoplesTune(found, raw.lines[0][0], raw_text, "", {}))
        else:
            tunes.append(normal_form(raw, name, max_voices))
        fields = {line[0]: line[2:].strip() for _, line in reversed(raw.lines) if is_field(line)}
        about = {"composer": fields.get("C", ""), "rights": fields.get("R", "")}
        tunes[-1] = tunes[-1]._replace(**about)
    if tunes:
        tunes[0].mended.update(of_file + in_book)
    return tunes


def tune_midi(text):
    """MIDI bytes of a tune in normal form, for stage 02: with its key signatures, and with rests
    before a pickup, so that bar lines fall where they are."""
    tune = read_abc(text)
    score = symusic.Score.from_midi(midi_bytes(tune))
    meter, first = parse_meter(tune.meter)[0], tune.voices[0].bars[0]
    gap = round(max(0, Fraction(meter or 0, TICKS) - first.length) * MIDI_TICKS)
    for track in score.tracks:
        for note in track.notes:
            note.time += gap
    for event in [*score.tempos, *score.time_signatures]:
        event.time += gap if event.time else 0
    for onset, key in tune.keys:
        at = round(onset * MIDI_TICKS) + (gap if onset else 0)
        signature = symusic.KeySignature(at, sharps_of(parse_key(key)), int(is_minor(key)))
        score.key_signatures.append(signature)
    return score.dumps_midi()
