"""ABC as people write it, set in the project's normal form: the text that stage 02 makes of MIDI.

Faults are mended (`abc_mending`). Repeats are written once, without ornaments, words and chord
symbols.
"""

import math
import re
from collections import Counter
from fractions import Fraction
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import symusic

from music.abc_bar import read_stretch
from music.abc_fields import (
    TICKS,
    default_unit,
    is_minor,
    meter_numbers,
    parse_key,
    parse_meter,
    parse_tempo,
    parse_unit,
    sharps_of,
    shift_of,
)
from music.abc_mending import FIELD, clean_music, decoded, is_field, is_music, is_words, split_book
from music.abc_text import AbcError, read_abc
from music.midi_to_abc import MAX_BARS, MAX_VOICES, write_tune
from music.notation import MIDI_TICKS, midi_score
from music.quantise import QUARTER, SIXTY_FOURTH, SMALLEST, beat_grid
from music.theory import bar_length, meter_of_length
from music.voice_text import LONGEST_BAR, TUPLETS

MAX_FOREIGN_SHARE = 0.25  # unreadable signs a note, beyond which a text is no music
SLOWEST = 40  # quarter notes a minute


class PeoplesTune(NamedTuple):
    """A tune of a book. line: its first; text: in normal form, None if it cannot be read for
    `reason`; mended: {kind of fault: how often}; composer, rights: C: and R:."""

    title: str
    line: int
    text: str | None
    reason: str
    mended: dict
    composer: str = ""
    rights: str = ""


class _Unreadable(ValueError):
    """A tune that cannot be read: "line N: why"."""


class _Bar(NamedTuple):
    """A bar of a voice. notes: [[onset in the bar, duration, pitch]], in ticks; meter: of M:."""

    notes: list
    length: int
    meter: str


class _Voice:
    """A voice while it is read. text, line: of the open bar; first_ending: its first bar, in this
    section; ties: {layer of an overlay: [(step, pitch, its note)]}."""

    def __init__(self, tune):
        self.key, self.unit, self.meter, self.shift = tune.key, tune.unit, tune.meter, tune.shift
        self.text, self.line, self.bars, self.first_ending, self.ties = "", 0, [], None, {}

    def notes_of(self, read, layer, now):
        """Returns the notes of a Stretch that begins at `now`; ties lengthen earlier ones."""
        notes = [
            [now + onset, duration, pitch + self.shift]
            for onset, duration, pitch in zip(read.onsets, read.durations, read.pitches)
        ]
        before = self.ties.get(layer, ())
        for i, ticks in read.joined:
            before[i][2][1] += ticks
        if read.timed:
            self.ties[layer] = [
                (*tie, notes[i] if i >= 0 else before[i][2])
                for tie, i in zip(read.open, read.open_notes)
            ]
        return notes

    def end_section(self, bar_line):
        """Puts a second ending in the first one's place; a double bar ends the section."""
        number = re.search(r"\d", bar_line)
        if number and number.group() == "1":
            self.first_ending = len(self.bars)
        elif number and self.first_ending is not None:
            del self.bars[self.first_ending :]
        elif not number and len(bar_line) > 1 and ":" not in bar_line:
            self.first_ending = None


_ENDING = r"\d(?:[-,.]?\d)*"
_BAR_LINE = re.compile(rf"((?:[:|]*\[?\|[|\]:]*|::+)(?:[ \t]*\[?{_ENDING})?|\[{_ENDING})")


class _Reader:
    """Reads a RawTune. signatures, tempos: {number of the bar: value}; n_foreign, first_foreign:
    signs that are no music; (line, message) of the first."""

    def __init__(self, raw, last_endings):
        self.mended, self.last_endings = Counter(raw.mended), last_endings
        self.voices, self.voice = {}, None
        self.key, self.unit, self.meter, self.shift = (0,) * 7, None, "4/4", 0
        self.in_header, self.has_key = True, False
        self.signatures, self.tempos, self.n_foreign, self.first_foreign = {}, {}, 0, None
        for number, line in raw.lines:
            if is_field(line):
                self.field(line[0], line[2:].split("%")[0].strip())
            else:
                self.music_line(line, number)
        for voice in self.voices.values():
            self.close_bar(voice)
        self.mended["tunes without K:"] += not self.has_key

    def field(self, letter, value):
        if letter == "V":
            self.choose_voice(value)
            return
        try:
            if letter == "M":
                meter_numbers(value)  # or ValueError
                self.set(meter=value)
            elif letter == "L":
                self.set(unit=parse_unit(value))
            elif letter == "K":
                self.choose_key(value)
            elif letter == "Q":
                self.choose_tempo(value)
        except ValueError:
            self.mended[f"{letter}: that cannot be read"] += 1

    def set(self, **values):
        """Sets values of the present voice, or of the tune and all voices."""
        for target in [self.voice] if self.voice else [self, *self.voices.values()]:
            vars(target).update(values)

    def choose_key(self, value):
        """Reads a key (a clef alone changes none), which ends the header."""
        if re.match(r"[a-g][#b]?(?:m|min|maj|dor|mix|\s|$)", value):
            value = value[0].upper() + value[1:]
        words = re.sub(r"\b\w+\s*=\s*\S+|\b(?:treble|alto|tenor|bass|perc)\d?([+-]8)?", "", value)
        words, self.has_key = words.strip(), True
        if words or not value:
            key = self.key_of(words)
            self.set(key=key)
            self.signatures.setdefault(self.place(), (key, words))
        if shift := shift_of(value):
            self.set(shift=shift)
        self.in_header = False
        if len(self.voices) == 1:
            self.voice = self.voice or next(iter(self.voices.values()))

    def key_of(self, words):
        """Returns alterations of a K: value without its clef, else of its beginning. Pipes sound F
        and C sharp."""
        try:
            return parse_key("Hp" if words[:2] == "HP" else words or "C")
        except ValueError:
            modes = r"m(?![a-z])|\s*(?:min|maj|mix|dor|phr|lyd|loc)\w*"
            tonic = re.match(f"[A-G][#b]?(?:{modes})?", words)
            if not tonic:
                raise
            self.mended["K: read by its beginning"] += 1
            return parse_key(tonic.group())

    def choose_tempo(self, value):
        try:
            tempo = parse_tempo(value, self.unit or default_unit(parse_meter(self.meter)[0]))
        except ValueError:
            speed = re.search(r"=\D*(\d{2,3})\b", value)
            if not speed:
                raise
            tempo = float(speed.group(1))
            self.mended["Q: read by its number"] += 1
        if tempo and tempo < SLOWEST and value.isdecimal():
            tempo = float(value)  # meant were quarter notes, not unit notes
        if tempo:
            self.tempos.setdefault(self.place(), tempo)

    def place(self):
        return len(self.voice.bars) if self.voice else 0

    def choose_voice(self, value):
        """Goes to the voice that V: names; in the header only makes it."""
        match = re.match(r"\s*([^\s=\"\]]+)", value)
        if not match:
            return
        name = match.group(1)
        if name not in self.voices:
            if len(self.voices) >= 99:
                raise _Unreadable("more than 99 voices")
            self.voices[name] = _Voice(self)
        voice = self.voices[name]
        voice.shift = shift_of(value) or voice.shift
        if not self.in_header:
            self.voice = voice

    def music_line(self, line, number):
        """Reads a line of fields, bar lines and stretches of music."""
        if not is_music(line) and is_words(line):
            self.mended["lines of words"] += 1
            return
        self.in_header = False
        for i, part in enumerate(FIELD.split(clean_music(line, self.mended))):
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
        """Reads bar lines and the stretches of music between them."""
        for i, piece in enumerate(_BAR_LINE.split(part)):
            if i % 2:
                self.close_bar(self.present_voice())
                if self.last_endings:
                    self.voice.end_section(piece)
            elif piece.strip():
                voice = self.present_voice()
                voice.text += piece + " "
                voice.line = voice.line or number

    def present_voice(self):
        if self.voice is None:
            self.choose_voice(next(iter(self.voices), "1"))
        return self.voice

    def close_bar(self, voice):
        """Reads a voice's bar; the layers of an overlay begin together."""
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
            for i, part in enumerate(FIELD.split(layer)):
                if i % 2:
                    self.field(part[1], part[3:-1].strip())
                    alterations = voice.key if part[1] == "K" else alterations
                    continue
                read = self.read_part(voice, number, part, alterations, line)
                notes += voice.notes_of(read, number, now)
                alterations, now = read.alterations, now + read.length
                n_rests = max(n_rests, read.rest_bars)
            length = max(length, now)
        if length:
            voice.bars.append(_Bar(notes, length, voice.meter))
        elif bar_ticks := parse_meter(voice.meter)[0]:
            voice.bars += [_Bar([], bar_ticks, voice.meter)] * min(n_rests, MAX_BARS)

    def read_part(self, voice, layer, text, alterations, line):
        """Returns the Stretch of a text; counts its errors."""
        length, compound = parse_meter(voice.meter)
        ties = tuple(tie[:2] for tie in voice.ties.get(layer, ()))
        unit = voice.unit or default_unit(length)
        read = read_stretch(text, alterations, unit, compound, ties)
        for kind, message in read.errors:
            if message.startswith("cannot read"):
                self.n_foreign += 1
                self.first_foreign = self.first_foreign or (line, message)
            else:
                self.mended[message if len(message) < 40 else kind] += 1
        return read


def normal_form(raw, name, max_voices, last_endings):
    """Returns (text, {kind of fault: how often}); raises _Unreadable."""
    reader = _Reader(raw, last_endings)
    voices = [voice.bars for voice in reader.voices.values() if voice.bars]
    n_notes = sum(len(bar.notes) for voice in voices for bar in voice)
    if reader.n_foreign > max(3, MAX_FOREIGN_SHARE * n_notes):
        raise _Unreadable("line %d: %s" % reader.first_foreign)
    reader.mended["signs that are no music"] += reader.n_foreign
    if not n_notes:
        raise _Unreadable(f"line {raw.lines[0][0]}: a tune without notes")
    bars, meters, starts = bar_plan(voices, reader.mended)
    notes = [
        (number, units(onset) + start, units(onset + duration) + start, min(max(pitch, 0), 127))
        for number, voice in enumerate(voices)
        for start, bar in zip(starts, voice)
        for onset, duration, pitch in bar.notes
        if duration
    ]
    notes.sort(key=lambda note: (note[0], note[1], note[3]))
    track, on, off, pitch = (np.array(column) for column in zip(*notes))
    track = np.unique(track, return_inverse=True)[1]
    on, off = on_grid(track, on, np.minimum(off, bars[-1]), beat_grid(bars))
    last = len(starts) - 1
    signatures = [
        (starts[min(i, last)], sharps_of(key), is_minor(words))
        for i, (key, words) in reader.signatures.items()
    ]
    tempos = [(starts[min(i, last)], tempo) for i, tempo in reader.tempos.items()]
    notes = track, pitch, on, off
    text, _ = write_tune(notes, bars, meters, signatures, tempos, name, max_voices)
    return text, dict(+reader.mended)


def units(ticks):
    return ticks * QUARTER / TICKS


def bar_plan(voices, mended):
    """Returns (bar lines to write, meter of every bar, place of every bar as read), in units.

    Two parts that fill a bar become one; a short bar gets rests, a long one a meter of its own, or
    becomes several."""
    n_bars = max(map(len, voices))
    if n_bars > MAX_BARS:
        raise _Unreadable(f"more than {MAX_BARS:,} bars")
    rows = []
    for column in zip_longest(*voices):
        own = [bar for bar in column if bar]
        longest = max(units(bar.length) for bar in own)
        length = math.ceil(round(longest, 3) / SMALLEST) * SMALLEST
        meter = next(filter(None, [meter_numbers(bar.meter) for bar in own]), None)
        if not meter or bar_length(meter, QUARTER) % SMALLEST:
            meter = meter_of_length(length, QUARTER)
        if bar_length(meter, QUARTER) > LONGEST_BAR:
            meter = 4, 4
        rows.append((length, bar_length(meter, QUARTER), meter))
    bars, meters, starts, i = [0], [], [], 0

    def write(length, meter):
        meters.append(meter)
        bars.append(bars[-1] + length)

    while i < n_bars:
        length, nominal, meter = rows[i]
        starts.append(bars[-1])
        if length < nominal and 0 < i < n_bars - 1 and length + rows[i + 1][0] == nominal:
            i += 1
            starts.append(bars[-1] + length)
            write(nominal, meter)
        elif length < nominal and i == 0 and n_bars > 1:  # a pickup
            write(length, meter)
        elif length < nominal:
            mended["short bars filled up"] += i < n_bars - 1
            write(nominal, meter)
        else:
            n_whole = length // nominal if length % nominal == 0 or length > LONGEST_BAR else 0
            for _ in range(n_whole):
                write(nominal, meter)
            if left := length - n_whole * nominal:
                mended["long bars with a meter of their own"] += 1
                write(left, meter_of_length(left, QUARTER))
        i += 1
    return np.array(bars), meters, starts


def on_grid(track, on, off, beats):
    """Returns onsets and ends as ints: a voice's in a beat stay if all are 64ths or on one tuplet,
    else they move to the nearest 64th."""
    edges = np.concatenate([on, off])
    exact = np.rint(edges).astype(np.int64)
    odd = (np.abs(edges - exact) > 1e-3) | (exact % SIXTY_FOURTH != 0)
    beat = np.searchsorted(beats, exact, side="right") - 1
    place, sizes = edges - beats[beat], np.append(np.diff(beats), QUARTER)
    cell = np.concatenate([track, track]) * len(beats) + beat
    for number in np.unique(cell[odd]):
        here = odd & (cell == number)
        size = sizes[number % len(beats)]
        parts = [
            place[here] * n_parts / QUARTER
            for over, (n_parts, under) in TUPLETS.items()
            if size * over % (under * SIXTY_FOURTH) == 0
        ]
        if not any((np.abs(part - np.rint(part)) < 1e-3).all() for part in parts):
            exact[here] = np.rint(edges[here] / SIXTY_FOURTH) * SIXTY_FOURTH
    on, off = exact[: len(on)], exact[len(on) :]
    return on, np.maximum(off, on + SIXTY_FOURTH)


_NORMAL = re.compile(
    r"(?:(?:[XTMLQR]:.*)?\n)*K:.*\n"
    r"(?:\[(?:V:\d+|M:\d+/\d+|Q:1/4=\d+|K:[A-G][#b]?m?)\]|\(\d(?::\d?:\d+)?"
    r"|[A-Ga-gzZ0-9/|,'^_=\-\n]"
    r"|\[(?:[_=^]?[A-Ga-g][,']*-?)+\])*"
)


def is_normal(raw_text):
    """Returns True for a tune in normal form, by its unit, its signs and its bars."""
    if "\nL:1/16\n" not in raw_text or not _NORMAL.fullmatch(raw_text):
        return False
    try:
        tune = read_abc(raw_text)
    except AbcError:
        return False
    return all(bar.length == bar.meter for voice in tune.voices for bar in voice.bars[1:])


def read_people(data, name="", max_voices=MAX_VOICES):
    """Returns [PeoplesTune] of an ABC file's bytes or text; never raises. name: of tunes without
    T:."""
    text, of_file = (data, Counter()) if isinstance(data, str) else decoded(data)
    raws, in_book = split_book(text)
    tunes = [read_tune(raw, name, max_voices) for raw in raws]
    if tunes:
        tunes[0].mended.update(of_file + in_book)
    return tunes


def read_tune(raw, name="", max_voices=MAX_VOICES, last_endings=False):
    """Returns the PeoplesTune of a RawTune; normal form stays. last_endings: of several endings
    only the last is written."""
    raw_text = "\n".join(line for _, line in raw.lines) + "\n"
    fields = {line[0]: line[2:].strip() for _, line in reversed(raw.lines) if is_field(line)}
    title, *about = (fields.get(letter, "") for letter in "TCR")
    text, reason, mended = raw_text, "", {}
    n_voices = len(set(re.findall(r"\[V:(\d+)\]", raw_text)))
    first_line = next((line for _, line in raw.lines if "[V:" in line), "")
    in_blocks = first_line.count("[V:") < n_voices  # nowhere to cut
    if raw.mended or n_voices > max_voices or in_blocks or not is_normal(raw_text):
        try:
            text, mended = normal_form(raw, title or name, max_voices, last_endings)
        except _Unreadable as error:
            text, reason, mended = None, str(error), dict(raw.mended)
        except Exception as error:  # one tune must not end the run
            text, reason = None, f"{type(error).__name__}: {error}"[:200]
    return PeoplesTune(title, raw.lines[0][0], text, reason, mended, *about)


def tune_midi(text):
    """Returns MIDI bytes of a tune in normal form, with key signatures, and rests before a pickup
    that keep the bar lines in place."""
    tune = read_abc(text)
    score = midi_score(tune)
    meter, first = parse_meter(tune.meter)[0], tune.voices[0].bars[0]
    gap = round(max(0, Fraction(meter or 0, TICKS) - first.length) * MIDI_TICKS)
    for track in score.tracks:
        notes = track.notes.numpy()
        # a tick late, as abc2midi: of two notes a 32nd apart the second goes to the next sixteenth
        notes["time"] += gap + 1
        notes["duration"] = np.maximum(notes["duration"] - 1, 1)
        track.notes = symusic.Note.from_numpy(**notes)
    for event in [*score.tempos, *score.time_signatures]:
        event.time += gap if event.time else 0
    for onset, key in tune.keys:
        at = round(onset * MIDI_TICKS) + (gap if onset else 0)
        signature = symusic.KeySignature(at, sharps_of(parse_key(key)), int(is_minor(key)))
        score.key_signatures.append(signature)
    return score.dumps_midi()
