"""From tracks to voices, which have no two events at once. Times are in units (`quantise.py`).

A track whose notes overlap is written with ties or dealt out to several voices, whichever takes
fewer characters. Voices that never sound together become one.
"""

import math
from itertools import compress, pairwise
from typing import NamedTuple

import numpy as np

from music.quantise import QUARTER, SIXTEENTH, differs, distinct, runs

# abc2midi begins each note of a chord 1/48 quarter after the one below; one with more notes than
# fit before its end throws its voice off the beat
STRUM = QUARTER // 48
TIED_CHARS = 4.0  # of a tied head
CUT_CHARS = 6.0  # of a note that is cut short at a bar line
VOICE_CHARS = 4.0  # of one more voice, a bar: tag and rests
MAX_PARTS = 4  # voices that one track may become; a keyboard fugue has four
MERGE_REACH = 16  # semitones between the mean pitches of two parts that may share a voice
EFFECT_SHARE = 10  # a part with less than a tenth of the fullest's notes is no line


class Voice(NamedTuple):
    """Events. on, off: int arrays; chords: tuples of pitches, low to high; ties: {event: (whether a
    note is tied on, ...)}, of events that have such."""

    on: np.ndarray
    off: np.ndarray
    chords: list
    ties: dict

    def n_notes(self):
        return sum(map(len, self.chords)) - sum(map(sum, self.ties.values()))

    def onsets(self):
        """Returns the times at which a note begins."""
        begins = np.ones(len(self.on), bool)
        for i, flags in self.ties.items():
            if self.off[i] == self.on[i + 1]:
                tied = set(compress(self.chords[i], flags))
                begins[i + 1] = not tied.issuperset(self.chords[i + 1])
        return self.on[begins]


def make_voices(track, pitch, on, off, bars, max_voices):
    """Returns (at most `max_voices` Voices, high to low; number of doubled notes; of notes left out
    with their voice). track, pitch, on, off: int arrays, by track and onset; bars: bar lines."""
    tracks = [tidy(pitch[a : a + n], on[a : a + n], off[a : a + n]) for a, n in zip(*runs(track))]
    n_doubled = len(on) - sum(len(pitches) for pitches, _, _ in tracks)
    voices = voices_of_tracks(tracks, bars, max_voices)
    parts = merge_parts([part_of(voice, bars) for voice in voices], bars, MERGE_REACH)
    if len(parts) > max_voices:
        parts = merge_parts(parts, bars, math.inf)
    kept = sorted(choose_parts(parts, max_voices), key=lambda part: -part.pitch)
    n_all, n_kept = (sum(part.voice.n_notes() for part in some) for some in (parts, kept))
    return [part.voice for part in kept], n_doubled, n_all - n_kept


def tidy(pitch, on, off):
    """Returns notes by onset and pitch: doubled ones once, ended where their pitch starts again,
    without overlaps of up to a sixteenth (legato playing)."""
    order = np.lexsort((-off, on, pitch))
    order = order[differs(pitch[order], on[order])]
    pitch, on, off = pitch[order], on[order], off[order]
    again = np.flatnonzero(pitch[1:] == pitch[:-1])
    off[again] = np.minimum(off[again], on[again + 1])
    order = np.lexsort((pitch, on))
    pitch, on, off = pitch[order], on[order], off[order]
    onsets = distinct(on)
    last = onsets[np.searchsorted(onsets, off, side="right") - 1]  # before the end
    off = np.where((off - last <= SIXTEENTH) & (last > on), last, off)
    return thin_chords(pitch, on, off)


def thin_chords(pitch, on, off):
    """Returns notes without chords too short for abc2midi: they last to the next onset if that is
    near, else inner notes go."""
    first, sizes = runs(on)
    onsets = on[first]
    crowded = np.flatnonzero(STRUM * sizes > np.minimum.reduceat(off, first) - onsets)
    keep = np.ones(len(on), bool)
    for i in crowded.tolist():
        chord = slice(first[i], first[i] + sizes[i])
        if i + 1 < len(onsets) and onsets[i + 1] - onsets[i] <= QUARTER:
            off[chord] = np.maximum(off[chord], onsets[i + 1])
        room = int(off[chord].min() - onsets[i]) // STRUM
        keep[first[i] + 1 + room // 2 : first[i] + sizes[i] - (room - 1) // 2] &= sizes[i] <= room
    return pitch[keep], on[keep], off[keep]


def tied_voice(pitch, on, off):
    """Returns the Voice of notes, cut where any starts or ends."""
    cuts = distinct(on, off)
    first, last = np.searchsorted(cuts, on), np.searchsorted(cuts, off)
    n_heads = last - first
    note = np.repeat(np.arange(len(on)), n_heads)
    stretch = np.arange(len(note)) + np.repeat(last - np.cumsum(n_heads), n_heads)
    order = np.lexsort((pitch[note], stretch))
    note, stretch = note[order], stretch[order]
    tied = last[note] > stretch + 1
    start = np.flatnonzero(differs(stretch))
    bounds = [*start.tolist(), len(note)]
    chords, flags = (
        [tuple(column[a:b]) for a, b in pairwise(bounds)]
        for column in (pitch[note].tolist(), tied.tolist())
    )
    ties = {i: row for i, row in enumerate(flags) if any(row)}
    return Voice(cuts[stretch[start]], cuts[stretch[start] + 1], chords, ties)


def end_at_bars(on, off, bars):
    """Returns ends of one voice's notes; of overlapping ones at the bar line, over which abc2midi
    ties changing chords wrongly."""
    bar = bars[np.searchsorted(bars, on, side="right")]
    if not (off > bar).any():
        return off
    first, sizes = runs(on)
    before = np.concatenate([[0], np.maximum.accumulate(off)[first[1:] - 1]])
    longest, shortest = np.maximum.reduceat(off, first), np.minimum.reduceat(off, first)
    after = np.append(on[first[1:]], off.max())
    alone = (longest == shortest) & (longest <= after) & (before <= on[first])
    return np.where(np.repeat(alone, sizes), off, np.minimum(off, bar))


def voices_of_tracks(tracks, bars, max_voices):
    """Returns the Voices of tracks, each written the cheapest way; if these are too many, the
    tracks that gain least by a split get ties."""
    ways = [ways_to_write(*notes, bars) for notes in tracks]
    chosen = [min(range(len(way)), key=lambda i: way[i][0]) for way in ways]
    while sum(chosen) > max(max_voices - len(tracks), 0):
        split = [i for i, n_splits in enumerate(chosen) if n_splits]
        chosen[min(split, key=lambda i: ways[i][0][0] - ways[i][chosen[i]][0])] = 0
    voices = []
    for (pitch, on, off), way, n_splits in zip(tracks, ways, chosen):
        part = way[n_splits][1]
        for number in range(int(part.max()) + 1):
            own = part == number
            ends = end_at_bars(on[own], off[own], bars)
            voices.append(tied_voice(pitch[own], on[own], ends))
    return voices


def ways_to_write(pitch, on, off, bars):
    """Returns [(cost, part of each note)] of a track as one voice, as two, three ..."""
    ways = [(tying_chars(on, off, bars), np.zeros(len(on), np.int64))]
    for n_parts in range(2, MAX_PARTS + 1):
        voices_cost = VOICE_CHARS * (len(bars) - 1) * (n_parts - 1)
        if ways[-1][0] <= voices_cost:
            break
        part = deal_notes(pitch, on, off, n_parts)
        ties_cost = sum(tying_chars(on[part == n], off[part == n], bars) for n in range(n_parts))
        ways.append((ties_cost + voices_cost, part))
    return ways


def tying_chars(on, off, bars):
    """Returns the cost of overlaps in one voice: tied heads, notes cut short."""
    whole, off = off, end_at_bars(on, off, bars)
    cuts = distinct(on, off)
    n_heads = int((np.searchsorted(cuts, off) - np.searchsorted(cuts, on)).sum())
    return TIED_CHARS * (n_heads - len(on)) + CUT_CHARS * int((off < whole).sum())


def deal_notes(pitch, on, off, n_parts):
    """Returns the part of each note: the first free one, the highest chord first, so that a melody
    stays in the first part."""
    order = np.lexsort((-pitch, off, on))
    new = differs(on[order], off[order])
    top = order[new]  # the highest note of each chord
    by_turn = np.lexsort((-pitch[top], on[top]))
    chord_part, busy_until = np.zeros(len(top), np.int64), [0] * n_parts
    turns = np.stack([by_turn, on[top][by_turn], off[top][by_turn]], 1)
    for chord, start, stop in turns.tolist():
        free = [part for part, until in enumerate(busy_until) if until <= start]
        part = free[0] if free else busy_until.index(min(busy_until))
        busy_until[part] = max(busy_until[part], stop)
        chord_part[chord] = part
    return chord_part[np.cumsum(new) - 1][np.argsort(order)]


class Part(NamedTuple):
    """A voice; whether it sounds in each bar; its mean pitch; number of heads."""

    voice: Voice
    sounds: np.ndarray
    pitch: float
    n_heads: int


def part_of(voice, bars):
    change = np.zeros(len(bars) + 1, np.int64)
    np.add.at(change, np.searchsorted(bars, voice.on, side="right") - 1, 1)
    np.add.at(change, np.searchsorted(bars, voice.off, side="left"), -1)
    n_heads = sum(map(len, voice.chords))
    return Part(voice, np.cumsum(change) > 0, sum(map(sum, voice.chords)) / n_heads, n_heads)


def merge_parts(parts, bars, reach):
    """Returns Parts, two joined where they never sound in the same bar (an instrument changes) and
    lie at most `reach` semitones apart."""
    merged = []
    for part in parts:
        fits = [
            (abs(other.pitch - part.pitch), i)
            for i, other in enumerate(merged)
            if abs(other.pitch - part.pitch) <= reach and not (part.sounds & other.sounds).any()
        ]
        if fits:
            nearest = min(fits)[1]
            merged[nearest] = part_of(join_voices(merged[nearest].voice, part.voice), bars)
        else:
            merged.append(part)
    return merged


def join_voices(a, b):
    """Returns one Voice of two that do not overlap."""
    on, off = np.concatenate([a.on, b.on]), np.concatenate([a.off, b.off])
    chords, order = a.chords + b.chords, np.argsort(on, kind="stable").tolist()
    ties = a.ties | {len(a.chords) + i: tied for i, tied in b.ties.items()}
    ties = {new: ties[old] for new, old in enumerate(order) if old in ties}
    return Voice(on[order], off[order], [chords[i] for i in order], ties)


def choose_parts(parts, max_voices):
    """Returns at most `max_voices` of the parts: the top line, the bass, then the fullest."""
    by_size = sorted(range(len(parts)), key=lambda i: -parts[i].n_heads)
    least = parts[by_size[0]].n_heads / EFFECT_SHARE
    lines = [i for i in by_size if parts[i].n_heads >= least]
    top, bass = (choose(lines, key=lambda i: parts[i].pitch) for choose in (max, min))
    kept = list(dict.fromkeys([top, bass, *by_size]))[:max_voices]
    return [parts[i] for i in sorted(kept)]
