"""MIDI bytes to one ABC tune: events -> bars -> voices -> text.

    text, counts = convert(data, "Title", max_voices=6)    # ConversionError(reason, detail) says
        why there is none

What is written is what abc2midi, the reference reader, reads back right. Three of its ways shape
the text: it strums chords (each note 1/48 quarter after the one below), it joins ties of changing
chords to wrong notes once a bar line lies between, and it reads an unmarked MIDI pitch 0 in a flat
key as -1.

Steps with a file of their own: `music/quantise.py` (the grid), `music/voices.py` (tracks to
voices), `music/theory.py`
(keys and spelling). Times are in units of the grid, QUARTER to the quarter note.
"""

import os
import re
from functools import cache
from typing import NamedTuple

import numpy as np
import symusic

from music.abc_text import AbcError, read_abc
from music.midi_bytes import mend
from music.quantise import (
    QUARTER,
    SIXTEENTH,
    SIXTY_FOURTH,
    SMALLEST,
    beat_grid,
    differs,
    distinct,
    quantise,
)
from music.theory import LETTERS, best_signature, key_alterations, key_name, spell
from music.voices import make_voices

MAX_VOICES = 15  # a MIDI file has 16 channels and one is drums
# of 4/4: over two hours of music; longer files are endless loops or broken time stamps
MAX_BARS = 4000
# meters in shorter beats come from programs that count in ticks: 64/128 is read as 2/4
SHORTEST_BEAT = 16
LONGEST_BAR = 16 * QUARTER  # units; longer "bars" (255/1) are errors in the file
KEY_BARS = 4  # a key that lasts less is a passing one and gets accidentals
TEMPOS = (10, 999)  # quarter notes a minute; what lies beyond is set to the nearer one
MAX_LEAD = 8  # silent bars before the music that stay
ROLLED = QUARTER / 12  # units between two notes that were played one after the other (42 ms at 120)
TEMPO_STEP = 0.1  # a smaller change of tempo is a player's rubato and not written
GROUP_BARS = (4, 3, 2, 1)  # bars of one voice that stand together before the next voice's
# all voices of a group of bars should be heard in one 512-character window of the model
LINE_CHARS = 340


class ConversionError(Exception):
    """A file that gives no ABC; args: stable reason code, detail."""


def convert(data, name="", max_voices=MAX_VOICES):
    """MIDI bytes to (ABC text, {what was counted}); ConversionError says why there is none.

    name: for T:, any string; max_voices: 1 to MAX_VOICES. Counted are bars, voices, tracks with
    pitched notes, notes written, doubled and dropped, drum notes; `error`, the median distance of
    the onsets from the grid in quarter notes; `together`, notes that were played one after the
    other and are written as a chord; `onsets`, different times at which notes begin; `start`,
    quarter notes of silence cut at the beginning; `mended`, {kind of fault: how often}.
    """
    data, mended = mend(unwrapped(data))
    score = parse_midi(data)
    track, pitch, onset, end, n_drums = read_notes(score)
    check_length(onset, end)
    n_tracks = int(track[-1]) + 1
    bars, meters = bar_grid(meter_changes(score), float(max(end.max(), onset.max())) + SIXTEENTH)
    start, bars, meters = without_lead(bars, meters, float(onset.min()))
    if start:
        mended["bars of silence before the music"] = round(start / (bars[1] - bars[0]))
    onset, end = onset - start, end - start
    beats = beat_grid(bars)
    on, off = quantise(track, pitch, onset, end, beats, n_tracks)
    scale = QUARTER / score.tpq
    signatures = [
        (signature.time * scale - start, signature.key, bool(signature.tonality))
        for signature in score.key_signatures
    ]
    tempos = [(tempo.time * scale - start, tempo.qpm) for tempo in score.tempos]
    n_wild = sum(not TEMPOS[0] <= qpm <= TEMPOS[1] for _, qpm in tempos)
    if n_wild:
        mended["tempos out of range"] = n_wild
    notes = track, pitch, on, off
    text, counts = write_tune(notes, bars, meters, signatures, tempos, name, max_voices)
    return text, {
        **counts,
        "tracks": n_tracks,
        "drums": n_drums,
        "error": round(float(np.median(np.abs(on - onset))) / QUARTER, 4),
        "together": n_together(track, onset, on),
        "start": start / QUARTER,
        "mended": dict(mended),
    }


def write_tune(notes, bars, meters, signatures, tempos, name="", max_voices=MAX_VOICES):
    """(ABC text, {bars, voices, notes, doubled, dropped, onsets}) of notes on the grid.

    notes: (track, pitch, on, off), int arrays sorted by track and onset; bars: the bar lines, one
    more than bars; meters: [(first bar, (n, d))]; signatures: [(time, sharps, is minor)]; tempos:
    [(time, quarter notes a minute)].
    """
    track, pitch, on, off = notes
    beats = beat_grid(bars)
    # none after the last sound
    bars = bars[: max(2, int(np.searchsorted(bars, off.max(), side="left")) + 1)]
    n_bars = len(bars) - 1
    meters = [meter for meter in meters if meter[0] < n_bars]
    voices, n_doubled, n_dropped = make_voices(track, pitch, on, off, bars, max_voices)
    keys = choose_keys(signatures, bars, pitch, on)
    end_at_respelling(voices, bars, keys)
    qpm, tempos = tempo_marks(tempos, bars)
    texts = [voice_text(voice, bars, beats, meters, keys) for voice in voices]
    head = [
        "X:1",
        f"T:{title_of(name)}",
        "M:%d/%d" % meters[0][1],
        "L:1/16",
        f"Q:1/4={qpm}",
        f"K:{key_name(*keys[0][1:])}",
    ]
    text = "\n".join(head + layout(texts, changes_at_bars(meters, keys, tempos), n_bars)) + "\n"
    return text, {
        "bars": n_bars,
        "voices": len(voices),
        "notes": len(on) - n_doubled - n_dropped,
        "doubled": n_doubled,
        "dropped": n_dropped,
        "onsets": len(distinct(*(voice.onsets() for voice in voices))),
    }


def n_together(track, onset, on):
    """How many notes were played at least ROLLED after the note before them in their track, and
    are written at the same time."""
    order = np.lexsort((onset, track))
    later = (np.diff(onset[order]) >= ROLLED) & (np.diff(track[order]) == 0)
    return int((later & (np.diff(on[order]) == 0)).sum())


def self_check(text, counts):
    """Reads ABC back; ConversionError if it is not what was meant: every bar its meter, every note
    once, and at one time what shall sound together."""
    try:
        tune = read_abc(text)
    except AbcError as error:
        raise ConversionError("self_check", str(error)) from None
    shapes = {tuple((bar.onset, bar.length) for bar in voice.bars) for voice in tune.voices}
    if len(shapes) != 1 or any(bar.length != bar.meter for bar in tune.voices[0].bars[1:]):
        raise ConversionError("self_check", "bars do not fit their meter")
    n_notes = sum(len(voice.notes) for voice in tune.voices)
    if n_notes != counts["notes"]:
        raise ConversionError("self_check", f"{n_notes} notes instead of {counts['notes']}")
    n_onsets = len({note.onset for voice in tune.voices for note in voice.notes})
    if n_onsets != counts["onsets"]:
        raise ConversionError("self_check", f"{n_onsets} onsets instead of {counts['onsets']}")


# ---------------------------------------------------------------- reading


def read_midi(data):
    """symusic.Score of MIDI bytes, mended where they have faults (`music/midi_bytes.py`)."""
    return parse_midi(mend(unwrapped(data))[0])


def parse_midi(data):
    """symusic.Score of MIDI bytes. Values beyond 7 bits, which real files have, are clamped rather
    than refused."""
    if not data:
        raise ConversionError("empty", "no bytes")
    if not data.startswith(b"MThd"):
        raise ConversionError("not_midi", f"starts with {data[:8]!r}")
    if data[12:13] >= b"\x80":
        raise ConversionError("time_division", "time code (SMPTE) instead of beats")
    try:
        score = symusic.Score.from_midi(data, sanitize_data=True)
    except MemoryError:
        raise
    except Exception as error:  # whatever the parser says about hostile bytes is about the file
        raise ConversionError("damaged", str(error).split("\n")[0][:200]) from None
    if score.tpq <= 0:
        raise ConversionError("time_division", f"{score.tpq} ticks per quarter note")
    return score


def unwrapped(data):
    """The MIDI file inside an RMID file (RIFF chunks, the MIDI in one called `data`); other bytes
    as they are."""
    if data[:4] + data[8:12] != b"RIFFRMID":
        return data
    at = 12
    while at + 8 <= len(data):
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if kind == b"data":
            return data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    raise ConversionError("damaged", "RMID without a data chunk")


def read_notes(score):
    """(track, pitch, onset, end) of all pitched notes, onset and end in units (float arrays, sorted
    by onset within each track), and the number of drum notes."""
    columns, n_drums, n_tracks, scale = [], 0, 0, QUARTER / score.tpq
    for track in score.tracks:
        if track.is_drum:
            n_drums += len(track.notes)
        elif len(track.notes):
            notes = track.notes.numpy()
            onset, duration = notes["time"] * scale, np.maximum(notes["duration"], 0) * scale
            order = np.lexsort((notes["pitch"], onset))
            columns.append(
                (
                    np.full(len(onset), n_tracks),
                    notes["pitch"].astype(np.int64)[order],
                    onset[order],
                    (onset + duration)[order],
                )
            )
            n_tracks += 1
    if not columns:
        raise ConversionError("no_notes", f"{n_drums} drum notes" if n_drums else "no notes at all")
    return (*(np.concatenate(column) for column in zip(*columns)), n_drums)


def check_length(onset, end):
    """ConversionError if the notes lie where no music does."""
    latest = float(max(end.max(), onset.max()))
    if latest > MAX_BARS * 4 * QUARTER:
        raise ConversionError("too_long", f"{latest / QUARTER:.0f} quarter notes")
    if onset.min() < 0:
        raise ConversionError("too_long", "more ticks than the reader's 32 bits hold")


# ---------------------------------------------------------------- bars


def meter_changes(score):
    """[(position, bar length, numerator, denominator)] in units, first at 0; signatures that no bar
    can have are passed over, and a file without any is in 4/4."""
    changes = [(0, 4 * QUARTER, 4, 4)]
    for signature in sorted(score.time_signatures, key=lambda signature: signature.time):
        n, d = signature.numerator, signature.denominator
        while signature.denominator > SHORTEST_BEAT and n % 2 == 0 and d > 4:
            n, d = n // 2, d // 2
        length = n * 4 * QUARTER / d if d > 0 else 0
        if length % SMALLEST or not 2 * SIXTEENTH <= length <= LONGEST_BAR:
            continue
        at = round(signature.time * QUARTER / SMALLEST / score.tpq) * SMALLEST
        if changes[-1][0] == at:
            changes.pop()
        if not changes or changes[-1][2:] != (n, d):
            changes.append((at, int(length), n, d))
    return changes


def meter_of_length(length):
    """Meter of a bar that has none of its own, e.g. a bar cut short by a meter change: 2.5 quarters ->
    (5, 8)."""
    n, d = length // SMALLEST, 32
    while d > 4 and n % 2 == 0:
        n, d = n // 2, d // 2
    return n, d


def bar_grid(changes, end):
    """Bar lines in units (one more than bars) that cover everything up to `end`, and [(first bar,
    (n, d))].

    A meter change inside a bar ends it there. A short first bar before a longer meter is a pickup:
    it keeps its length and takes the meter of what follows.
    """
    lines, meters, position = [], [], 0
    for i, (_, length, n, d) in enumerate(changes):
        until = changes[i + 1][0] if i + 1 < len(changes) else None
        if position >= end and lines:
            break
        stop = max(int(np.ceil(end)), position + 1) if until is None else until
        n_bars = -(-(stop - position) // length) if until is None else (stop - position) // length
        if len(lines) + n_bars > 2 * MAX_BARS:
            raise ConversionError("too_long", f"more than {2 * MAX_BARS:,} bars")
        if n_bars:
            meters.append((len(lines), (n, d)))
        lines.extend(range(position, position + n_bars * length, length))
        position += n_bars * length
        # what is left before the change is a bar of its own
        if until is not None and position < until:
            meters.append((len(lines), meter_of_length(until - position)))
            lines.append(position)
            position = until
    lines.append(position)
    if len(meters) > 1 and meters[1][0] == 1 and lines[1] < bar_units(meters[1][1]):
        meters[:2] = [(0, meters[1][1])]
    return np.array(lines), [
        meter for i, meter in enumerate(meters) if i == 0 or meter[1] != meters[i - 1][1]
    ]


def without_lead(bars, meters, first):
    """(place in units where the music begins, bars and meters from there): silent bars before the
    first onset are cut where they are more than MAX_LEAD; fewer are a count-in."""
    n_silent = int(np.searchsorted(bars, first + 1, side="right")) - 1
    if n_silent <= MAX_LEAD:
        return 0, bars, meters
    before = [meter for bar, meter in meters if bar <= n_silent]
    later = [(bar - n_silent, meter) for bar, meter in meters if bar > n_silent]
    start = int(bars[n_silent])
    return start, bars[n_silent:] - start, [(0, before[-1]), *later]


def bar_units(meter):
    """Length of a bar of this meter (n, d), in units."""
    return meter[0] * 4 * QUARTER / meter[1]


def tempo_marks(tempos, bars):
    """Quarter notes a minute at the start, and {bar: quarter notes a minute} where it changes by
    more than a tenth. tempos: [(time in units, quarter notes a minute)]."""
    low, high = TEMPOS
    marks = [(at, min(max(qpm, low), high)) for at, qpm in sorted(tempos)] or [(0, 120)]
    # a mark less than a sixteenth after a bar line is meant for that bar
    mark = np.searchsorted([at for at, _ in marks], bars[:-1] + SIXTEENTH, side="right") - 1
    qpm_of_bars = [round(marks[max(i, 0)][1]) for i in mark.tolist()]
    current, changes = qpm_of_bars[0], {}
    for bar, qpm in enumerate(qpm_of_bars):
        if abs(qpm - current) > TEMPO_STEP * current:
            changes[bar] = current = qpm
    return qpm_of_bars[0], changes


# ---------------------------------------------------------------- keys and spelling


def choose_keys(signatures, bars, pitch, on):
    """[(first bar, sharps, minor)] from the signatures [(time in units, sharps, is minor)] where
    they fit the notes, else from the notes."""
    given = {}
    for time, sharps, is_minor in sorted(signatures, key=lambda signature: signature[0]):
        if -7 <= sharps <= 7:
            given[int(np.argmin(np.abs(bars[:-1] - time)))] = sharps, is_minor
    starts = [0] + [bar for bar in sorted(given) if bar >= KEY_BARS and bar + KEY_BARS < len(bars)]
    starts = [
        bar
        for bar, after in zip(starts, starts[1:] + [1 << 30])
        if after - bar >= KEY_BARS or bar == 0
    ]
    keys = []
    for first, stop in zip(starts, starts[1:] + [len(bars) - 1]):
        inside = (on >= bars[first]) & (on < bars[stop])
        if inside.any():
            key = best_signature(np.bincount(pitch[inside] % 12, minlength=12), given.get(first))
            if not keys or keys[-1][1:] != key:
                keys.append((0 if not keys else first, *key))
    return keys


class PitchText(NamedTuple):
    """How one MIDI pitch is written in a key: letter as its number in LETTERS, alteration in
    semitones, text without and with its accidental."""

    letter: int
    alteration: int
    bare: str
    marked: str


@cache
def pitch_texts(sharps):
    """PitchText of each of the 128 MIDI pitches in a key.

    >>> pitch_texts(-3)[63].bare, pitch_texts(-3)[61].marked, pitch_texts(2)[61].bare
    ('E', '_D', 'C')
    """
    table = []
    for pitch in range(128):
        letter, alteration, octave = spell(pitch, sharps)
        # C is middle C
        bare = letter.lower() + "'" * (octave - 5) if octave >= 5 else letter + "," * (4 - octave)
        table.append(
            PitchText(LETTERS.index(letter), alteration, bare, "_=^"[alteration + 1] + bare)
        )
    return table


def end_at_respelling(voices, bars, keys):
    """Ends chords at a key change that spells one of their notes anew: no reader ties C sharp to D
    flat."""
    for (_, before, _), (bar, after, _) in zip(keys, keys[1:]):
        line, old, new = bars[bar], pitch_texts(before), pitch_texts(after)
        for voice in voices:
            i = int(np.searchsorted(voice.on, line)) - 1
            if (
                i >= 0
                and voice.off[i] > line
                and any(old[p][:2] != new[p][:2] for p in voice.chords[i])
            ):
                voice.off[i] = line


# ---------------------------------------------------------------- lengths and tuplets


def length_text(units):
    """Length as ABC writes it over L:1/16: a sixteenth '', an eighth '2', a dotted sixteenth '3/'.

    >>> [length_text(n * QUARTER // 16) for n in (4, 8, 2, 6, 1, 3)]
    ['', '2', '/', '3/', '/4', '3/4']
    """
    n, odd = divmod(units, SIXTEENTH)
    if odd % SMALLEST:
        n = units // SIXTY_FOURTH
        return f"{n}/4" if n > 1 else "/4"
    if odd:
        return f"{units // SMALLEST}/" if units > SMALLEST else "/"
    return str(n) if n > 1 else ""


LENGTHS = {units: length_text(units) for units in range(0, LONGEST_BAR + 1, SIXTY_FOURTH)}
# lengths that one head with at most three dots has
IS_SHOWN = np.isin(
    np.arange(2 * LONGEST_BAR + 1),
    [n * 2**k * SIXTY_FOURTH for n in (1, 3, 7, 15) for k in range(10)],
)
# {notes of a tuplet: (parts of the beat that its notes may begin on, time of how many it fills)}
TUPLETS = {3: (6, 2), 5: (5, 4), 7: (7, 4), 9: (9, 8)}


class Tuplets(NamedTuple):
    """Stretches of one voice, as arrays. first, size: start and length in units; over, under: so
    many notes are written in the time of so many."""

    first: np.ndarray
    size: np.ndarray
    over: np.ndarray
    under: np.ndarray


def tuplets_of(on, off, beats):
    """The Tuplets of one voice: beats, or halves of beats, with events off the binary grid."""
    if not ((on % SIXTY_FOURTH).any() or (off % SIXTY_FOURTH).any()):
        return Tuplets(on[:0], on[:0], on[:0], on[:0])
    edges = distinct(on, off)
    odd = edges[edges % SIXTY_FOURTH != 0]
    begin = beats[np.searchsorted(beats, odd, side="right") - 1]
    starts, beat = np.unique(begin, return_inverse=True)
    lengths = beats[np.searchsorted(beats, starts, side="right")] - starts
    over, under = np.full(len(starts), 3), np.full(len(starts), 2)
    for n_notes in (9, 7, 5, 3):  # thirds are ninths, too: the fewest notes that hold all edges
        n_parts, in_time_of = TUPLETS[n_notes]
        misfits = np.bincount(beat, (odd - begin) * n_parts % QUARTER, len(starts))
        over[misfits == 0], under[misfits == 0] = n_notes, in_time_of
    half = QUARTER // 2
    middle = np.minimum(np.searchsorted(edges, starts + half), len(edges) - 1)
    halved = (lengths == QUARTER) & (edges[middle] == starts + half) & (over == 3)
    first = np.where(halved[beat], odd - (odd - begin) % half, begin)
    new = differs(first)
    beat = beat[new]
    return Tuplets(first[new], np.where(halved, half, lengths)[beat], over[beat], under[beat])


@cache
def first_head(place, length, pulse):
    """Length of the first of the two heads that a length no single head has is written with; all in
    1/32 (or all in 1/64), place from the bar line. They meet on a pulse of a compound meter, else
    on the strongest beat there is.

    >>> first_head(0, 10, 1), first_head(6, 10, 1), first_head(0, 20, 12)
    (8, 2, 12)
    """

    def merit(cut):
        shown = bool(IS_SHOWN[cut * SMALLEST]) + bool(IS_SHOWN[(length - cut) * SMALLEST])
        meet = place + cut
        # the last: its largest power of two
        return shown, min(cut, length - cut) > 1, meet % pulse == 0, meet & -meet

    return max(range(1, length), key=merit)


def pulses_of(meters, n_bars):
    """What the heads of a tied length should meet on, in 1/32, for every bar: the dotted beat of a
    compound meter
    (6/8: 12), else 1, as simple meters go by powers of two."""
    pulses = np.ones(n_bars, int)
    for bar, (n, d) in meters:
        pulses[bar:] = 3 * 32 // d if n % 3 == 0 and n > 3 else 1
    return pulses


# ---------------------------------------------------------------- one voice's text


class Heads(NamedTuple):
    """What one voice has between two cuts: a note head, a chord or a rest. Arrays; start, stop,
    length: units; event: of the voice, the last begun; sounds: True if it has not ended; tuplet:
    its number or -1; length: as it is written (in a tuplet of three, three in the time of two)."""

    start: np.ndarray
    stop: np.ndarray
    event: np.ndarray
    sounds: np.ndarray
    bar: np.ndarray
    tuplet: np.ndarray
    length: np.ndarray


def voice_text(voice, bars, beats, meters, keys):
    """Text of every bar of one voice, e.g. ['D4G4B4d4', 'Z', ...]; Z is a silent bar."""
    tuplets = tuplets_of(voice.on, voice.off, beats)
    pickup = bool(bars[1] != bar_units(meters[0][1]))
    heads = cut_voice(voice, bars, tuplets, pickup)
    heads = cut_lengths(heads, bars, pulses_of(meters, len(bars) - 1), tuplets)
    return bar_texts(voice, heads, tuplet_prefixes(heads, tuplets), keys, len(bars) - 1)


def cut_voice(voice, bars, tuplets, pickup):
    """The Heads of a voice: cut at every bar line, event and edge of a tuplet; silent bars left
    out, but not a pickup, which Z would make as long as its meter."""
    on, off, first, size = voice.on, voice.off, tuplets.first, tuplets.size
    cuts = distinct(bars, on, off, first, first + size)
    start, stop = cuts[:-1], cuts[1:]
    event = np.searchsorted(on, start, side="right") - 1
    sounds = (event >= 0) & (off[event] > start)
    bar = np.searchsorted(bars, start, side="right") - 1
    silent = ~sounds & (start == bars[bar]) & (stop == bars[bar + 1])
    if pickup:
        silent[0] = False
    tuplet = np.full(len(start), -1)
    if len(first):
        tuplet = np.searchsorted(first, start, side="right") - 1
        tuplet[start >= first[tuplet] + size[tuplet]] = -1
    keep = np.flatnonzero(~silent)
    columns = (column[keep] for column in (start, stop, event, sounds, bar, tuplet))
    return with_lengths(tuplets, *columns)


def with_lengths(tuplets, start, stop, event, sounds, bar, tuplet):
    """Heads of these columns, with the lengths as they are written."""
    over, under = np.append(tuplets.over, 1), np.append(tuplets.under, 1)  # the last: no tuplet
    length = (stop - start) * over[tuplet] // under[tuplet]
    return Heads(start, stop, event, sounds, bar, tuplet, length)


def cut_lengths(heads, bars, pulses, tuplets):
    """The Heads with every length that no single head has cut in two, again until all are shown.
    pulses: of each bar, see `pulses_of`."""
    over, under = np.append(tuplets.over, 1), np.append(tuplets.under, 1)
    while (odd := ~IS_SHOWN[heads.length]).any():
        start, stop, event, sounds, bar, tuplet, length = (column[odd] for column in heads)
        place = start - bars[bar]
        by_64ths = (length % SMALLEST > 0) | (tuplet < 0) & (place % SMALLEST > 0)
        grain = np.where(by_64ths, SIXTY_FOURTH, SMALLEST)
        first = map(
            first_head,
            (place // grain).tolist(),
            (length // grain).tolist(),
            (pulses[bar] * SMALLEST // grain).tolist(),
        )
        cut = start + np.fromiter(first, int) * grain * under[tuplet] // over[tuplet]
        start, stop, *columns = heads[:-1]
        heads = with_lengths(
            tuplets,
            np.sort(np.append(start, cut)),
            np.sort(np.append(stop, cut)),
            *(np.repeat(column, 1 + odd) for column in columns),
        )
    return heads


def tuplet_prefixes(heads, tuplets):
    """What stands before each head: '(3', '(3::5' (triplet time for five heads), '(5:4:5' or ''."""
    prefixes = [""] * len(heads.event)
    if len(tuplets.first):
        counts = np.bincount(heads.tuplet[heads.tuplet >= 0], minlength=len(tuplets.first))
        places = np.searchsorted(heads.start, tuplets.first)
        rows = zip(places.tolist(), counts.tolist(), tuplets.over.tolist(), tuplets.under.tolist())
        for i, n_heads, over, under in rows:
            if over != 3:
                prefixes[i] = f"({over}:{under}:{n_heads}"
            else:
                prefixes[i] = "(3" if n_heads == 3 else f"(3::{n_heads}"
    return prefixes


def bar_texts(voice, heads, prefixes, keys, n_bars):
    """The text of every bar from its heads; an accidental holds for its letter to the end of the
    bar.

    Music repeats itself: while a bar has no accidental yet, the text of a chord is remembered until
    the key changes.
    """
    tied_on = heads.sounds & (voice.off[heads.event] > heads.stop)
    chords, ties = voice.chords, voice.ties
    texts = ["Z"] * n_bars
    current, key, out, plain = -1, 0, [], {}
    table, signature = pitch_texts(keys[0][1]), key_alterations(keys[0][1])
    columns = (heads.bar, heads.event, heads.sounds, tied_on, heads.length)
    for bar, event, sounds, tied, units, prefix in zip(
        *(column.tolist() for column in columns), prefixes
    ):
        if bar != current:
            if out:
                texts[current] = "".join(out)
            current, out = bar, []
            while key + 1 < len(keys) and keys[key + 1][0] <= bar:
                key += 1
                table, signature, plain = (
                    pitch_texts(keys[key][1]),
                    key_alterations(keys[key][1]),
                    {},
                )
            in_force, as_signature = list(signature), True
        if not sounds:
            out.append(prefix + "z" + LENGTHS[units])
            continue
        chord = chords[event]
        # a chord cut by its end is tied as a whole
        tied_notes = ties.get(event) if ties and not tied else None
        if tied_notes is not None and all(tied_notes):
            tied, tied_notes = True, None
        text = plain.get(chord) if as_signature and tied_notes is None else None
        if text is None:
            text, unmarked = chord_text(chord, table, in_force, tied_notes)
            if as_signature and unmarked and tied_notes is None:
                plain[chord] = text
            as_signature = as_signature and unmarked
        if prefix or tied:
            text = prefix + text + LENGTHS[units] + ("-" if tied else "")
        else:
            text += LENGTHS[units]
        out.append(text)
    texts[current] = "".join(out)
    return texts


def chord_text(chord, table, in_force, tied_notes):
    """(text of a chord without length, True if it needs no accidental). in_force: alterations of
    the letters at this place of the bar, brought up to date; tied_notes: which of the notes get a
    tie of their own, or None."""
    heads, unmarked = [], True
    for pitch in chord:
        letter, alteration, bare, marked = table[pitch]
        # abc2midi reads an unmarked MIDI pitch 0 in a flat key as -1
        if in_force[letter] == alteration and pitch:
            heads.append(bare)
        else:
            in_force[letter], unmarked = alteration, False
            heads.append(marked)
    if tied_notes is not None:
        heads = [head + "-" if tied else head for head, tied in zip(heads, tied_notes)]
    return heads[0] if len(heads) == 1 else "[" + "".join(heads) + "]", unmarked


# ---------------------------------------------------------------- the whole text


def changes_at_bars(meters, keys, tempos):
    """{bar: (fields for every voice, fields for the first)} of all that changes after the start; a
    tempo is the whole tune's and stands once."""
    changes = {bar: (f"[M:{n}/{d}]", "") for bar, (n, d) in meters[1:]}
    for bar, *key in keys[1:]:
        changes[bar] = (changes.get(bar, ("", ""))[0] + f"[K:{key_name(*key)}]", "")
    for bar, qpm in tempos.items():
        changes[bar] = (changes.get(bar, ("", ""))[0], f"[Q:1/4={qpm}]")
    return changes


def layout(voices, changes, n_bars):
    """Music lines: the voices one after the other, a group of bars at a time. changes: {bar: (text
    for every voice, text for the first)}; a line starts wherever something changes."""
    per_bar = sum(sum(map(len, voice)) for voice in voices) / n_bars + len(voices)
    group = next(
        (n for n in GROUP_BARS if per_bar * n + len("[V:1]") * len(voices) <= LINE_CHARS), 1
    )
    tags = [f"[V:{number}]" if len(voices) > 1 else "" for number in range(1, len(voices) + 1)]
    lines = []
    silences = silent_stretches(voices, n_bars)
    breaks = sorted({0, n_bars, *changes, *(bar for stretch in silences for bar in stretch)})
    for begin, end in zip(breaks, breaks[1:]):
        is_silent = any(start <= begin and end <= stop for start, stop in silences)
        n_together = end - begin if is_silent else group
        for first in range(begin, end, n_together):
            everywhere, once = changes.get(first, ("", ""))
            line, stop = [], min(first + n_together, end)
            for tag, voice in zip(tags, voices):
                line.append(tag + everywhere + once + "|".join(voice[first:stop]) + "|")
                once = ""
            text = "".join(line)
            if "Z|Z|" in text:
                text = re.sub(r"(?:Z\|){2,}", lambda silent: f"Z{len(silent[0]) // 2}|", text)
            lines.append(text)
    return lines


def silent_stretches(voices, n_bars):
    """[(first bar, bar after the last)] where all voices are silent for longer than a group: one
    rest in one line."""
    sounds = [bar for bar in range(n_bars) if any(voice[bar] != "Z" for voice in voices)]
    edges = zip([-1, *sounds], [*sounds, n_bars])
    return [(a + 1, b) for a, b in edges if b - a - 1 > GROUP_BARS[0]]


def title_of(name):
    """A file's name as one harmless line for T:.

    >>> title_of('a\\nK:C%%"x" (live).1')
    'a K C x (live).1'
    """
    text = os.fsencode(name).decode("utf-8", "replace")
    return re.sub(r"\s+", " ", re.sub(r"[^\w '(),.!&-]+|_", " ", text)).strip()[:80] or "Untitled"
