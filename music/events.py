"""Event tokens: the music between two bar lines as REMI-like events, and back to the same text.

A note is three tokens, as in REMI (Huang & Yang 2020, arXiv:2002.00212, without velocities):
`Pos 3/2` (quarter notes from the bar line), `Pitch 66` (MIDI) and `Dur 1/2`; `Tie` where it goes on
after the bar line. A `Pos` without a note ends a bar shorter than its meter. All else is its own
text: `K:D` with its line end, `[V:2]`, `Z4`, `|`, music that stage 02 would write in another way.
"""

import re
from fractions import Fraction
from functools import lru_cache
from itertools import islice, pairwise

import numpy as np

from music import abc_bar
from music.abc_fields import TICKS, WHOLE
from music.notation import sharps_of_key
from music.quantise import QUARTER, SIXTEENTH, beat_grid
from music.theory import key_alterations
from music.voice_text import LONGEST_BAR, chord_text, pitch_texts, voice_text
from music.voices import Voice

UNITS = TICKS // QUARTER  # ticks of a unit
# what has no events
LITERAL = re.compile(
    r"(^[A-Za-z]:[^|\n]*\n|\[[A-Za-z]:[^][|\n]*\]|\||\n|Z\d{0,4}(?=\|))", re.ASCII | re.MULTILINE
)
_EVENT = re.compile(r"(Pos|Dur) (\d{1,2}(?:/[1-9]\d{0,3})?)|(Pitch) (1?\d{1,2})|Tie", re.ASCII)
_FIELD = re.compile(r"[\n[]([KM]):([^]\n]*)")
START = "C", "4/4"  # K: and M: of a tune that gives none
CACHED = 1 << 14  # stretches: music repeats itself


def parts_of(text):
    """Returns [(events, text)] of a text's parts; events: names, () if it is its own text."""
    parts, before, literals = [], START, "\n"
    pieces = LITERAL.split(text)
    for i, piece in enumerate(pieces):
        events = ()
        if i % 2 == 0 and piece:
            now = in_force(before, literals)
            events = events_of(piece, *now, pieces[i + 1 : i + 2] == ["|"])
            if events:
                before, literals = now, ""
        if not events:
            literals += piece
        if piece:
            parts.append((events, piece))
    return parts


def texts_of(names):
    """Returns the text of each of these names; that of a stretch is divided among its events. The
    empty name begins and ends a tune."""
    texts, events, before, literals = [], [], START, "\n"
    for name in [*names, ""]:
        if _EVENT.fullmatch(name):
            events.append(name)
            continue
        if events:
            before, literals = in_force(before, literals), ""
            text = text_of(tuple(events), *before, name == "|")
            cuts = [len(text) * i // len(events) for i in range(len(events) + 1)]
            texts += [text[a:b] for a, b in pairwise(cuts)]
            events = []
        texts.append(name)
        literals += name
        if not name:
            before, literals = START, "\n"
    return texts[:-1]


def in_force(before, literals):
    """Returns (K:, M:) after a text, given those before it."""
    found = dict(zip("KM", before))
    found.update((letter, value.strip()) for letter, value in _FIELD.findall(literals))
    return found["K"], found["M"]


def nominal_chars(name):
    """Returns the characters that a name stands for, without rests, accidentals and chords.

    >>> [nominal_chars(name) for name in ("Pos 1", "Pitch 48", "Dur 1/2", "Tie", "K:D", "|")]
    [0, 2, 1, 1, 3, 1]
    """
    event = _EVENT.fullmatch(name)
    if not event:
        return len(name)
    if event[3]:
        return len(pitch_texts(0)[min(int(event[4]), 127)][2])
    return int(event[1] != "Pos")


@lru_cache(maxsize=CACHED)
def events_of(text, key, meter, closed):
    """Returns the names of the events of a stretch of music; () if these do not give it back. key,
    meter: K: and M: in force; closed: a bar line ends it."""
    heads, end = read_heads(text, key)
    for chords in (joined(heads), heads):
        names = [name for chord in chords for name in names_of(*chord)]
        if chords and end != (bar_of(meter)[0] if closed else chords[-1][1]):
            names.append(f"Pos {Fraction(end, QUARTER)}")
        names = tuple(names)
        has_names = chords and all(map(_EVENT.fullmatch, names))  # not 100 quarter notes
        if has_names and text_of(names, key, meter, closed) == text:
            return names
    return ()


def read_heads(text, key):
    """Returns ([(on, off, pitches, ties)], end) of a stretch, in units of the converter's grid; no
    heads if it holds anything but notes and rests."""
    alterations = key_alterations(sharps_of_key(key))
    # without ties every head is a note of its own
    stretch = abc_bar.read_stretch(text.replace("-", ""), alterations, WHOLE // 16, False, ())
    tokens = [abc_bar.read_token(match.group()) for match in abc_bar.TOKEN.finditer(text)]
    ties = [
        [head.tied or all_tied for head in heads] for _, heads, _, _, all_tied in tokens if heads
    ]
    times = [*stretch.onsets, *stretch.durations, stretch.length]
    is_off_grid = any(time % UNITS for time in times)
    if stretch.errors or is_off_grid or len(stretch.pitches) != sum(map(len, ties)):
        return [], 0
    heads, notes = [], zip(stretch.onsets, stretch.durations, stretch.pitches)
    for flags in ties:
        onsets, durations, pitches = zip(*islice(notes, len(flags)))
        on = onsets[0] // UNITS
        heads.append((on, on + durations[0] // UNITS, pitches, tuple(flags)))
    return heads, stretch.length // UNITS


def joined(heads):
    """Returns the heads, wholly tied ones in one."""
    chords = []
    for head in heads:
        if chords and all(chords[-1][3]) and chords[-1][1:3] == (head[0], head[2]):
            head = (chords.pop()[0], *head[1:])
        chords.append(head)
    return chords


def names_of(on, off, pitches, ties):
    names = [f"Pos {Fraction(on, QUARTER)}"]
    for pitch, tied in zip(pitches, ties):
        names += [f"Pitch {pitch}", f"Dur {Fraction(off - on, QUARTER)}", *["Tie"] * tied]
    return names


@lru_cache(maxsize=CACHED)
def text_of(names, key, meter, closed):
    """Returns the text of a stretch; any events give one. A note that begins before the last has
    ended is put behind it; a chord is as long as its first note."""
    chords, end = read_events(names)
    if not chords:
        return ""
    last, bar = chords[-1][1], bar_of(meter)
    end = max(last, end or (bar[0] if closed else last))
    sharps = sharps_of_key(key)
    on, off, pitches, ties = zip(*chords)
    voice = Voice(np.array(on), np.array(off), pitches, dict(enumerate(ties)))
    bars = np.array([0, end])
    try:
        return voice_text(voice, bars, beat_grid(bars), [bar[1]], [(sharps, False)])[0]
    except (IndexError, KeyError, ValueError):  # no grid holds these places: fractions do
        return fractions_text(chords, end, sharps)


def read_events(names):
    """Returns ([(on, off, pitches, ties)], end or 0 without its `Pos`) of events."""
    notes, place, is_new = [], 0, True
    for event in map(_EVENT.fullmatch, names):
        kind = event[1] or event[3] or "Tie"
        if kind == "Pos":
            place, is_new = units_of(event[2]), True
        elif kind == "Pitch":
            notes.append([place, is_new, min(int(event[4]), 127), SIXTEENTH, False])
            is_new = False
        elif notes and kind == "Dur":
            notes[-1][3] = units_of(event[2]) or SIXTEENTH
        elif notes:
            notes[-1][4] = True
    chords = []
    for on, begins, pitch, duration, tied in notes:
        if begins:
            on = max(on, chords[-1][1] if chords else 0)
            chords.append((on, on + duration, (), ()))
        on, off, pitches, ties = chords[-1]
        chords[-1] = on, off, (*pitches, pitch), (*ties, tied)
    return chords, place if is_new else 0


def units_of(quarters):
    return min(int(Fraction(quarters) * QUARTER), LONGEST_BAR)


def bar_of(meter):
    """Returns (units of a bar, (n, d)) of an M: value, else of 4/4."""
    found = re.fullmatch(r"(\d{1,3})/(1|2|4|8|16|32)", meter, re.ASCII)
    n, d = (max(1, int(found[1])), int(found[2])) if found else (4, 4)
    return min(n * 4 * QUARTER // d, LONGEST_BAR), (n, d)


def fractions_text(chords, end, sharps):
    """Returns the text of chords at any places, lengths as fractions."""
    table, signature = pitch_texts(sharps), list(key_alterations(sharps))
    texts, now = [], 0

    def length(units):
        fraction = Fraction(units, SIXTEENTH)
        return "" if fraction == 1 else str(fraction)

    for on, off, pitches, ties in chords:
        if on > now:
            texts.append("z" + length(on - now))
        texts.append(chord_text(pitches, table, signature, ties) + length(off - on))
        now = off
    if end > now:
        texts.append("z" + length(end - now))
    return "".join(texts)
