"""MIDI bytes to one ABC tune: events -> bars -> voices -> text.

    text, counts = convert(data, "Title", max_voices=6)    # ConversionError(reason, detail)

abc2midi, the reference reader, must read it back right. It strums chords (each note 1/48 quarter
after the one below), joins ties of changing chords to wrong notes once a bar line lies between, and
reads an unmarked MIDI pitch 0 in a flat key as -1. Times are in units of the grid (`quantise.py`).
"""

import math
import os
import re
from collections import defaultdict
from itertools import groupby, pairwise

import numpy as np
import symusic

from music.abc_text import AbcError, read_abc
from music.midi_bytes import mend
from music.quantise import QUARTER, SIXTEENTH, SMALLEST, beat_grid, distinct, quantise
from music.theory import TEMPOS, bar_length, best_signature, key_name, meter_of_length
from music.voice_text import LONGEST_BAR, pitch_texts, voice_text
from music.voices import make_voices

MAX_VOICES = 15  # a MIDI file has 16 channels and one is drums
MAX_BARS = 4000  # of 4/4: over two hours; longer files are endless loops or broken time stamps
SHORTEST_BEAT = 16  # programs that count in ticks write shorter ones: 64/128 is read as 2/4
KEY_BARS = 4  # a key that lasts less is a passing one and gets accidentals
MAX_LEAD = 8  # silent bars before the music that stay
ROLLED = QUARTER / 12  # units between two notes that were played one after the other (42 ms at 120)
TEMPO_STEP = 0.1  # a smaller change of tempo is a player's rubato and not written
GROUP_BARS = (4, 3, 2, 1)  # bars of one voice that stand together before the next voice's
LINE_CHARS = 340  # so that one 512-character window of the model hears all voices of a group


class ConversionError(Exception):
    """A file that gives no ABC; args: stable reason code, detail."""


def convert(data, name="", max_voices=MAX_VOICES):
    """Returns (ABC text, {what was counted}) of MIDI bytes, or raises ConversionError.

    name: for T:, any string; max_voices: 1 to MAX_VOICES. Counted besides what `write_tune` counts:
    tracks, drum notes; `error`, the median distance of onsets from the grid, quarter notes;
    `together`, notes played at least ROLLED after the one before and written as a chord with it;
    `start`, quarter notes of silence cut at the beginning; `mended`, {kind of fault: how often}.
    """
    score, mended = read_midi(data)
    track, pitch, onset, end, n_drums = read_notes(score)
    n_tracks = int(track[-1]) + 1
    bars, meters = bar_grid(meter_changes(score), float(max(end.max(), onset.max())) + SIXTEENTH)
    start, bars, meters = without_lead(bars, meters, float(onset.min()))
    if start:
        mended["bars of silence before the music"] = round(start / (bars[1] - bars[0]))
    onset, end = onset - start, end - start
    on, off = quantise(track, pitch, onset, end, beat_grid(bars), n_tracks)
    scale = QUARTER / score.tpq
    signatures = [
        (mark.time * scale - start, mark.key, bool(mark.tonality)) for mark in score.key_signatures
    ]
    tempos = [(mark.time * scale - start, mark.qpm) for mark in score.tempos]
    n_wild = sum(not TEMPOS[0] <= qpm <= TEMPOS[1] for _, qpm in tempos)
    if n_wild:
        mended["tempos out of range"] = n_wild
    notes = track, pitch, on, off
    text, counts = write_tune(notes, bars, meters, signatures, tempos, name, max_voices)
    order = np.lexsort((onset, track))
    rolled = (np.diff(onset[order]) >= ROLLED) & (np.diff(track[order]) == 0)
    return text, {
        **counts,
        "tracks": n_tracks,
        "drums": n_drums,
        "error": round(float(np.median(np.abs(on - onset))) / QUARTER, 4),
        "together": int((rolled & (np.diff(on[order]) == 0)).sum()),
        "start": start / QUARTER,
        "mended": dict(mended),
    }


def write_tune(notes, bars, meters, signatures, tempos, name="", max_voices=MAX_VOICES):
    """Returns (ABC text, counts) of notes on the grid: bars, voices, notes written, doubled and
    dropped with their voice, and onsets, different times at which notes begin.

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
    lines = [
        "X:1",
        f"T:{title_of(name)}",
        "M:%d/%d" % meters[0][1],
        "L:1/16",
        f"Q:1/4={qpm}",
        f"K:{key_name(*keys[0][1:])}",
        *layout(texts, changes_at_bars(meters, keys, tempos), n_bars),
    ]
    return "\n".join(lines) + "\n", {
        "bars": n_bars,
        "voices": len(voices),
        "notes": len(on) - n_doubled - n_dropped,
        "doubled": n_doubled,
        "dropped": n_dropped,
        "onsets": len(distinct(*(voice.onsets() for voice in voices))),
    }


def self_check(text, counts):
    """Raises ConversionError if ABC does not read back with these counts and in whole bars."""
    try:
        tune = read_abc(text)
    except AbcError as error:
        raise ConversionError("self_check", str(error)) from None
    shapes = {tuple((bar.onset, bar.length) for bar in voice.bars) for voice in tune.voices}
    if len(shapes) != 1 or any(bar.length != bar.meter for bar in tune.voices[0].bars[1:]):
        raise ConversionError("self_check", "bars do not fit their meter")
    onsets = [note.onset for voice in tune.voices for note in voice.notes]
    for kind, n in (("notes", len(onsets)), ("onsets", len(set(onsets)))):
        if n != counts[kind]:
            raise ConversionError("self_check", f"{n} {kind} instead of {counts[kind]}")


def read_midi(data):
    """Returns (symusic.Score, Counter of mended faults) of MIDI bytes. Values beyond 7 bits, which
    real files have, are clamped rather than refused."""
    data, mended = mend(data)
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
    return score, mended


def read_notes(score):
    """Returns (track, pitch, onset, end) of all pitched notes, times in units (floats), sorted by
    onset within each track, and the number of drum notes."""
    columns, n_drums, scale = [], 0, QUARTER / score.tpq
    for track in score.tracks:
        if track.is_drum:
            n_drums += len(track.notes)
        elif len(track.notes):
            notes = track.notes.numpy()
            order = np.lexsort((notes["pitch"], notes["time"]))
            onset, pitch = notes["time"][order] * scale, notes["pitch"][order].astype(np.int64)
            end = onset + np.maximum(notes["duration"][order], 0) * scale
            columns.append((np.full(len(onset), len(columns)), pitch, onset, end))
    if not columns:
        raise ConversionError("no_notes", f"{n_drums} drum notes" if n_drums else "no notes at all")
    track, pitch, onset, end = map(np.concatenate, zip(*columns))
    latest = float(max(end.max(), onset.max()))
    if latest > MAX_BARS * 4 * QUARTER:
        raise ConversionError("too_long", f"{latest / QUARTER:.0f} quarter notes")
    if onset.min() < 0:
        raise ConversionError("too_long", "more ticks than the reader's 32 bits hold")
    return track, pitch, onset, end, n_drums


def meter_changes(score):
    """Returns [(position in units, (n, d))], first at 0; signatures that no bar can have are passed
    over, and a file without any is in 4/4."""
    changes = [(0, (4, 4))]
    for mark in sorted(score.time_signatures, key=lambda mark: mark.time):
        n, d = mark.numerator, mark.denominator
        while mark.denominator > SHORTEST_BEAT and n % 2 == 0 and d > 4:
            n, d = n // 2, d // 2
        length = n * 4 * QUARTER / d if d > 0 else 0
        if length % SMALLEST or not 2 * SIXTEENTH <= length <= LONGEST_BAR:
            continue
        at = round(mark.time * QUARTER / SMALLEST / score.tpq) * SMALLEST
        if changes[-1][0] == at:
            changes.pop()
        if not changes or changes[-1][1] != (n, d):
            changes.append((at, (n, d)))
    return changes


def bar_grid(changes, end):
    """Returns bar lines in units (one more than bars) that cover everything up to `end`, and
    [(first bar, (n, d))]. A meter change inside a bar ends it there. A short first bar before a
    longer meter is a pickup: it takes the meter of what follows."""
    lines, meters, position = [], [], 0
    for (_, meter), (until, _) in pairwise([*changes, (None, None)]):
        if position >= end and lines:
            break
        length, rest = bar_length(meter, QUARTER), 0
        if until is None:
            n_bars = max(1, math.ceil((end - position) / length))
        else:
            n_bars, rest = divmod(until - position, length)
        if len(lines) + n_bars > 2 * MAX_BARS:
            raise ConversionError("too_long", f"more than {2 * MAX_BARS:,} bars")
        if n_bars:
            meters.append((len(lines), meter))
        lines.extend(range(position, position + n_bars * length, length))
        position += n_bars * length
        if rest:  # what is left before the change is a bar of its own
            meters.append((len(lines), meter_of_length(rest, QUARTER)))
            lines.append(position)
            position = until
    lines.append(position)
    if len(meters) > 1 and meters[1][0] == 1 and lines[1] < bar_length(meters[1][1], QUARTER):
        meters[:2] = [(0, meters[1][1])]
    runs = groupby(meters, key=lambda meter: meter[1])
    return np.array(lines), [next(run) for _, run in runs]


def without_lead(bars, meters, first):
    """Returns (place in units where the music begins, bars and meters from there): more than
    MAX_LEAD silent bars before the first onset are cut; fewer are a count-in."""
    n_silent = int(np.searchsorted(bars, first + 1, side="right")) - 1
    if n_silent <= MAX_LEAD:
        return 0, bars, meters
    before = [meter for bar, meter in meters if bar <= n_silent]
    later = [(bar - n_silent, meter) for bar, meter in meters if bar > n_silent]
    start = int(bars[n_silent])
    return start, bars[n_silent:] - start, [(0, before[-1]), *later]


def tempo_marks(tempos, bars):
    """Returns the tempo at the start, and {bar: tempo} where it changes by more than a tenth."""
    times, qpm = zip(*(sorted(tempos) or [(0, 120)]))
    # a mark less than a sixteenth after a bar line is meant for that bar
    mark = np.searchsorted(times, bars[:-1] + SIXTEENTH, side="right") - 1
    qpm_of_bars = np.rint(np.clip(qpm, *TEMPOS)).astype(int)[np.maximum(mark, 0)].tolist()
    current, changes = qpm_of_bars[0], {}
    for bar, qpm in enumerate(qpm_of_bars):
        if abs(qpm - current) > TEMPO_STEP * current:
            changes[bar] = current = qpm
    return qpm_of_bars[0], changes


def choose_keys(signatures, bars, pitch, on):
    """Returns [(first bar, sharps, minor)] from the signatures where they fit the notes, else from
    the notes."""
    given = {}
    for time, sharps, is_minor in sorted(signatures, key=lambda signature: signature[0]):
        if -7 <= sharps <= 7:
            given[int(np.argmin(np.abs(bars[:-1] - time)))] = sharps, is_minor
    starts = [0] + [bar for bar in sorted(given) if KEY_BARS <= bar < len(bars) - KEY_BARS]
    afters = starts[1:] + [math.inf]
    starts = [bar for bar, after in zip(starts, afters) if after - bar >= KEY_BARS or bar == 0]
    keys = []
    for first, stop in zip(starts, starts[1:] + [len(bars) - 1]):
        inside = (on >= bars[first]) & (on < bars[stop])
        if inside.any():
            key = best_signature(np.bincount(pitch[inside] % 12, minlength=12), given.get(first))
            if not keys:
                keys.append((0, *key))
            elif keys[-1][1:] != key:
                keys.append((first, *key))
    return keys


def end_at_respelling(voices, bars, keys):
    """Ends chords at a key change that spells one of their notes anew: no reader ties C sharp to D
    flat."""
    for (_, before, _), (bar, after, _) in zip(keys, keys[1:]):
        line, old, new = bars[bar], pitch_texts(before), pitch_texts(after)
        for voice in voices:
            i = int(np.searchsorted(voice.on, line)) - 1
            goes_on = i >= 0 and voice.off[i] > line
            if goes_on and any(old[pitch][:2] != new[pitch][:2] for pitch in voice.chords[i]):
                voice.off[i] = line


def changes_at_bars(meters, keys, tempos):
    """Returns {bar: [fields for every voice, fields for the first]} of all that changes after the
    start; a tempo is the whole tune's and stands once."""
    changes = defaultdict(lambda: ["", ""])
    for bar, (n, d) in meters[1:]:
        changes[bar][0] += f"[M:{n}/{d}]"
    for bar, *key in keys[1:]:
        changes[bar][0] += f"[K:{key_name(*key)}]"
    for bar, qpm in tempos.items():
        changes[bar][1] += f"[Q:1/4={qpm}]"
    return changes


def layout(voices, changes, n_bars):
    """Returns the music lines: the voices one after the other, a group of bars at a time; a line
    starts wherever something changes."""
    per_bar = sum(sum(map(len, voice)) for voice in voices) / n_bars + len(voices)
    room = LINE_CHARS - len("[V:1]") * len(voices)
    group = next((n for n in GROUP_BARS if per_bar * n <= room), 1)
    tags = [f"[V:{number}]" if len(voices) > 1 else "" for number in range(1, len(voices) + 1)]
    breaks, rests = {0, n_bars, *changes}, set()
    is_silent = [all(voice[bar] == "Z" for voice in voices) for bar in range(n_bars)]
    for silent, run in groupby(range(n_bars), is_silent.__getitem__):
        run = list(run)
        if silent and len(run) > GROUP_BARS[0]:  # one rest in one line
            breaks |= {run[0], run[-1] + 1}
            rests |= set(run)
    lines, breaks = [], sorted(breaks)
    for begin, end in zip(breaks, breaks[1:]):
        step = end - begin if begin in rests else group
        for first in range(begin, end, step):
            everywhere, once = changes.get(first, ("", ""))
            line, stop = "", min(first + step, end)
            for tag, voice in zip(tags, voices):
                line += tag + everywhere + once + "|".join(voice[first:stop]) + "|"
                once = ""
            lines.append(re.sub(r"(?:Z\|){2,}", lambda rest: f"Z{len(rest[0]) // 2}|", line))
    return lines


def title_of(name):
    """Returns a file's name as one harmless line for T:.

    >>> title_of('a\\nK:C%%"x" (live).1')
    'a K C x (live).1'
    """
    text = os.fsencode(name).decode("utf-8", "replace")
    return re.sub(r"\s+", " ", re.sub(r"[^\w '(),.!&-]+|_", " ", text)).strip()[:80] or "Untitled"
