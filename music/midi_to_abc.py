"""Converts MIDI to one ABC tune: events -> bars -> voices -> text.

    text, counts = convert(data, "Title", max_voices=6)    # ConversionError(reason, detail)

abc2midi, the reference reader, must read it back right. Times are in units (`quantise.py`).
"""

import math
import os
import re
from collections import defaultdict
from itertools import accumulate, groupby, pairwise

import numpy as np
import symusic

from music.abc_text import AbcError, read_abc
from music.midi_bytes import mend
from music.quantise import QUARTER, SIXTEENTH, SMALLEST, beat_grid, distinct, quantise
from music.theory import TEMPOS, bar_length, best_signature, key_name, meter_of_length
from music.voice_text import LONGEST_BAR, pitch_texts, voice_text
from music.voices import make_voices

MAX_VOICES = 15  # a MIDI file has 16 channels and one is drums
MIDI_BYTES = 16 << 20  # of a file; the largest real song has a twentieth of it
MAX_BARS = 4000  # of 4/4: two hours; longer files are loops, or damaged
SHORTEST_BEAT = 16  # meters of shorter ones are halved: 64/128 is read as 2/4
KEY_BARS = 4  # a shorter key is written as accidentals
MAX_LEAD = 8  # silent bars before the music that stay
ROLLED = QUARTER / 12  # notes this far apart were played one after the other
TEMPO_STEP = 0.1  # a smaller change of tempo is a player's rubato
GROUP_BARS = (4, 3, 2, 1)  # of one voice before the next voice's
LINE_CHARS = 340  # so that a window of 512 characters hears all voices of a group


class ConversionError(Exception):
    """Why a file gives no ABC; args: reason code, detail."""


def convert(data, name="", max_voices=MAX_VOICES):
    """Returns (ABC text, counts) of MIDI bytes; raises ConversionError. name: for T:, any string.

    counts: of `write_tune`; tracks; drums: notes; error: median distance of onsets from the grid;
    together: notes written as a chord with one played ROLLED or more before; start: silence cut;
    mended: {kind of fault: how often}. Times in quarter notes.
    """
    score, mended = read_midi(data)
    track, pitch, onset, end, n_drums = read_notes(score)
    bars, meters = bar_grid(meter_changes(score), float(end.max()) + SIXTEENTH)
    start, bars, meters = without_lead(bars, meters, float(onset.min()))
    mended["bars of silence before the music"] += round(start / (bars[1] - bars[0]))
    onset, end = onset - start, end - start
    on, off = quantise(track, pitch, onset, end, beat_grid(bars))
    scale = QUARTER / score.tpq
    signatures = [
        (mark.time * scale - start, mark.key, bool(mark.tonality)) for mark in score.key_signatures
    ]
    tempos = [(mark.time * scale - start, mark.qpm) for mark in score.tempos]
    mended["tempos out of range"] += sum(not TEMPOS[0] <= qpm <= TEMPOS[1] for _, qpm in tempos)
    notes = track, pitch, on, off
    text, counts = write_tune(notes, bars, meters, signatures, tempos, name, max_voices)
    together = (np.diff(onset) >= ROLLED) & (np.diff(on) == 0) & (np.diff(track) == 0)
    return text, {
        **counts,
        "tracks": int(track[-1]) + 1,
        "drums": n_drums,
        "error": round(float(np.median(np.abs(on - onset))) / QUARTER, 4),
        "together": int(together.sum()),
        "start": start / QUARTER,
        "mended": dict(+mended),
    }


def write_tune(notes, bars, meters, signatures, tempos, name, max_voices):
    """Returns (ABC text, counts) of notes on the grid. counts: bars; voices; notes written, doubled
    and dropped with their voice; onsets: different times at which notes begin.

    notes: (track, pitch, on, off), int arrays by track and onset; bars: bar lines; meters: (n, d)
    of every bar; signatures: [(time, sharps, is minor)]; tempos: [(time, quarter notes a minute)].
    """
    track, pitch, on, off = notes
    beats = beat_grid(bars)
    n_bars = max(1, int(np.searchsorted(bars[:-1], off.max())))
    bars, meters = bars[: n_bars + 1], meters[:n_bars]
    voices, n_doubled, n_dropped = make_voices(track, pitch, on, off, bars, max_voices)
    keys = choose_keys(signatures, bars, pitch, on)
    end_at_respelling(voices, bars, keys)
    tempos = tempo_marks(tempos, bars)
    texts = [voice_text(voice, bars, beats, meters, keys) for voice in voices]
    lines = [
        "X:1",
        f"T:{title_of(name)}",
        "M:%d/%d" % meters[0],
        "L:1/16",
        f"Q:1/4={tempos[0]}",
        f"K:{key_name(*keys[0])}",
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
    """Raises ConversionError if a text is not read back with these counts, in whole bars."""
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
    """Returns (symusic.Score, Counter of mended faults); values beyond 7 bits are clamped."""
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
    except Exception as error:  # of any kind, on hostile bytes
        raise ConversionError("damaged", str(error).split("\n")[0][:200]) from None
    if score.tpq <= 0:
        raise ConversionError("time_division", f"{score.tpq} ticks per quarter note")
    return score, mended


def read_notes(score):
    """Returns (track, pitch, onset, end, number of drum notes), arrays by track and onset."""
    columns, n_drums, scale = [], 0, QUARTER / score.tpq
    for track in score.tracks:
        if track.is_drum:
            n_drums += len(track.notes)
        elif len(track.notes):
            notes = track.notes.numpy()
            order = np.lexsort((notes["pitch"], notes["time"]))
            onset, pitch = notes["time"][order] * scale, notes["pitch"][order].astype(np.int64)
            end = onset + np.maximum(notes["duration"][order], 0) * scale
            columns.append((np.full(len(order), len(columns)), pitch, onset, end))
    if not columns:
        raise ConversionError("no_notes", f"{n_drums} drum notes" if n_drums else "no notes at all")
    track, pitch, onset, end = map(np.concatenate, zip(*columns))
    if end.max() > MAX_BARS * 4 * QUARTER:
        raise ConversionError("too_long", f"{end.max() / QUARTER:.0f} quarter notes")
    if onset.min() < 0:
        raise ConversionError("too_long", "more ticks than the reader's 32 bits hold")
    return track, pitch, onset, end, n_drums


def meter_changes(score):
    """Returns [(position, (n, d))] from 0 on, without meters that no bar can have."""
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
    """Returns (bar lines to `end` or beyond, meter of every bar). A meter change ends its bar; a
    short first bar is a pickup of the next meter."""
    lines, meters = [0], []
    for (start, meter), (until, _) in pairwise([*changes, (None, None)]):
        if start >= end and meters:
            break
        length = bar_length(meter, QUARTER)
        n_bars, rest = max(1, math.ceil((end - start) / length)), 0
        if until is not None:
            n_bars, rest = divmod(until - start, length)
        if len(meters) + n_bars > 2 * MAX_BARS:
            raise ConversionError("too_long", f"more than {2 * MAX_BARS:,} bars")
        meters += [meter] * n_bars
        lines += [start + length * bar for bar in range(1, n_bars + 1)]
        if rest:
            meters.append(meter_of_length(rest, QUARTER))
            lines.append(until)
    if len(meters) > 1 and lines[1] < bar_length(meters[1], QUARTER):
        meters[0] = meters[1]
    return np.array(lines), meters


def without_lead(bars, meters, first):
    """Returns (silence cut, bars, meters); up to MAX_LEAD silent bars are a count-in and stay."""
    n_silent = int(np.searchsorted(bars, first + 1, side="right")) - 1
    if n_silent <= MAX_LEAD:
        return 0, bars, meters
    start = int(bars[n_silent])
    return start, bars[n_silent:] - start, meters[n_silent:]


def tempo_marks(tempos, bars):
    """Returns the tempo of every bar."""
    times, qpm = zip(*(sorted(tempos) or [(0, 120)]))
    # a mark up to a sixteenth after a bar line is meant for that bar
    mark = np.searchsorted(times, bars[:-1] + SIXTEENTH, side="right") - 1
    qpm_of_bars = np.rint(np.clip(qpm, *TEMPOS)).astype(int)[np.maximum(mark, 0)].tolist()

    def written(before, qpm):
        return qpm if abs(qpm - before) > TEMPO_STEP * before else before

    return list(accumulate(qpm_of_bars, written))


def choose_keys(signatures, bars, pitch, on):
    """Returns (sharps, minor) of every bar: the signature if it fits the notes, else theirs."""
    given = {}
    for time, sharps, is_minor in sorted(signatures, key=lambda signature: signature[0]):
        if -7 <= sharps <= 7:
            given[int(np.argmin(np.abs(bars[:-1] - time)))] = sharps, is_minor
    n_bars = len(bars) - 1
    starts = [bar for bar in sorted(given) if KEY_BARS <= bar <= n_bars - KEY_BARS]
    starts = [bar for bar, after in pairwise([*starts, math.inf]) if after - bar >= KEY_BARS]
    keys, key = [], None
    for first, stop in pairwise([0, *starts, n_bars]):
        inside = (on >= bars[first]) & (on < bars[stop])
        if inside.any():
            key = best_signature(np.bincount(pitch[inside] % 12, minlength=12), given.get(first))
        if key:  # the first key begins with the tune
            keys += [key] * (stop - len(keys))
    return keys


def end_at_respelling(voices, bars, keys):
    """Ends chords at a key change that respells them: nobody ties C sharp to D flat."""
    for line, (before, _), (after, _) in zip(bars[1:], keys, keys[1:]):
        if before == after:
            continue
        old, new = pitch_texts(before), pitch_texts(after)
        for voice in voices:
            i = int(np.searchsorted(voice.on, line)) - 1
            goes_on = i >= 0 and voice.off[i] > line
            if goes_on and any(old[pitch][:2] != new[pitch][:2] for pitch in voice.chords[i]):
                voice.off[i] = line


def changes_at_bars(meters, keys, tempos):
    """Returns {bar: [fields for every voice, for the first]} of changes after the start."""
    changes = defaultdict(lambda: ["", ""])
    for bar in range(1, len(meters)):
        if meters[bar] != meters[bar - 1]:
            changes[bar][0] += "[M:%d/%d]" % meters[bar]
        if keys[bar] != keys[bar - 1]:
            changes[bar][0] += f"[K:{key_name(*keys[bar])}]"
        if tempos[bar] != tempos[bar - 1]:
            changes[bar][1] += f"[Q:1/4={tempos[bar]}]"
    return changes


def layout(voices, changes, n_bars):
    """Returns the music lines: groups of bars of every voice; changes stand at line starts."""
    per_bar = sum(sum(map(len, voice)) for voice in voices) / n_bars + len(voices)
    room = LINE_CHARS - len("[V:1]") * len(voices)
    group = next((n for n in GROUP_BARS if per_bar * n <= room), 1)
    tags = [f"[V:{number}]" if len(voices) > 1 else "" for number in range(1, len(voices) + 1)]
    breaks, rests = {0, n_bars, *changes}, set()
    is_silent = [set(bars) == {"Z"} for bars in zip(*voices)]
    for silent, run in groupby(range(n_bars), is_silent.__getitem__):
        run = list(run)
        if silent and len(run) > GROUP_BARS[0]:  # one rest in one line
            breaks |= {run[0], run[-1] + 1}
            rests.update(run)
    lines = []
    for begin, end in pairwise(sorted(breaks)):
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
    """Returns a name as one harmless line for T:.

    >>> title_of('a\\nK:C%%"x" (live).1')
    'a K C x (live).1'
    """
    text = os.fsencode(name).decode("utf-8", "replace")
    return re.sub(r"\s+", " ", re.sub(r"[^\w '(),.!&-]+|_", " ", text)).strip()[:80] or "Untitled"
