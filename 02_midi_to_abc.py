"""Stage 02: every MIDI file below data/raw_midi becomes one ABC tune that a language model can read.

Reads:  data/raw_midi/**/*.mid (stage 01)
Writes: data/abc_notation/<same relative path>.abc   one tune each, voices interleaved by short groups of bars
        data/failed_midi.txt   path, reason, detail of every file that gave no ABC (tab-separated)
        data/conversion.tsv    one row per converted file: characters, bars, voices, tracks, notes written, doubled
                               (the same note twice in one track, written once) and dropped (in voices left out), drum
                               notes, median distance of the onsets from the grid in quarter notes
Run:    python 02_midi_to_abc.py [--workers N] [--max-voices N] [--timeout SECONDS] [--only GLOB] [--check-all]
Prints last: files, converted, failed, what was counted above, files off the beat, files per second.

Six voices are kept by default. On a sample of real songs that is 95 % of all pitched notes, a 512-character window of
the model spans 5.4 bars of all voices in the median and 3.0 or more in nine files of ten. Four voices keep 84 % (6.5
bars), fifteen 99.9 % (5.1 bars, but 2.4 in the densest tenth): benchmarks/conversion.md.

What is written is what abc2midi, the reference reader, reads back right. Three of its ways shape the text: it strums
chords (each note 1/48 quarter after the one below), it joins ties of changing chords to wrong notes once a bar line
lies between, and it reads an unmarked MIDI pitch 0 in a flat key as -1.
"""

import fnmatch
import gc
import json
import multiprocessing
import os
import re
import resource
import signal
import time
import zlib
from collections import Counter, deque
from contextlib import suppress
from functools import cache
from multiprocessing import connection
from pathlib import Path

import numpy as np
import symusic

from music.abc_text import AbcError, read_abc
from study.stage import Stage, cpu_count, fail, input_problems, load_manifest, progress, run, stage_parser, tree_files, write_text

SUFFIXES = (".mid", ".midi", ".kar")
DEFAULT_VOICES = 6  # see the docstring
MAX_VOICES = 15  # a MIDI file has 16 channels and one is drums
MAX_BARS = 4000  # of 4/4: over two hours of music; longer files are endless loops or broken time stamps
TIMEOUT = 20  # seconds of processor time for one file; the slowest real one seen needs under one
MIDI_BYTES = 16 << 20  # the largest real song files are a twentieth of this; beyond it is not a song
ABC_CHARS = 4_000_000  # the longest real song gives a tenth of this
MEMORY_BYTES = 2 << 30  # what one worker may allocate before a file counts as too large
BATCH = 16  # files handed to a worker at once, so that it need not wait for the next
MAX_FAILED_SHARE = 0.75  # of at least 10 files: beyond this the input is not what the user believes
CHECKED_SHARE = 1 / 32  # of the files are read back in every run; reading one takes longer than writing it
MAX_LISTED = 100  # files off the beat that the manifest names; conversion.tsv has all

# Time is counted in integer units, QUARTER to the quarter note: 1/32 notes are 3, triplets 8, sextuplets 4.
QUARTER = 24
LATEST = 1 << 20  # later than any time in units
SIXTEENTH = QUARTER // 4  # the unit note length, L:1/16
SMALLEST = 3  # units; what binary onsets, ends and bars are multiples of
BINARY, TERNARY, THIRTY_SECOND, SEXTUPLET = 6, 8, 3, 4  # step of the grid of one beat, in units
GRID_COST = {THIRTY_SECOND: (1.0, 1.0), SEXTUPLET: (0.8, 1.0)}  # units of error (per onset, per beat) that a finer grid
# must save before it is used: with less, hand-played sixteenths turn into ragged 32nds
TERNARY_COST = 3.0  # the same per beat for triplets, times the share of the triplet grid in the file's total error
FAR = 3.0  # units: an onset that a grid moves further than this (an eighth of a beat) speaks against that grid
OFF_BEAT = 0.03  # quarter notes: a file whose onsets lie further off the grid in the median was not played to its beat;
# onsets without any regard to the beat give 0.033, nine real songs of ten less than 0.026

HEADS_PER_UNIT = 2  # abc2midi strums: each note of a chord 1/48 quarter after the one below it. A chord with more
# notes than fit before its end throws its voice off the beat to the end of the tune
TIED_CHARS = 4.0  # what a tied head costs: letter, octave mark, tie, its share of brackets and length
CUT_CHARS = 6.0  # what cutting a note short at a bar line may cost to be avoided
VOICE_CHARS = 4.0  # what one more voice costs a bar: its share of the tag, rests around what sounds

GROUP_BARS = (4, 3, 2, 1)  # bars of one voice that stand together before the next voice's
TEMPOS = (10, 999)  # quarter notes a minute that are believed
TEMPO_STEP = 0.1  # a smaller change of tempo is a player's rubato and not written
MERGE_REACH = 16  # semitones between the mean pitches of two parts that may share a voice
LINE_CHARS = 340  # all voices of a group of bars should be heard in one 512-character window of the model


class ConversionError(Exception):
    """A file that gives no ABC; args: stable reason code, detail."""


# ---------------------------------------------------------------- reading

def read_midi(data):
    """symusic.Score of MIDI bytes. Values beyond 7 bits, which real files have, are clamped rather than refused."""
    if not data:
        raise ConversionError("empty", "no bytes")
    if not data.startswith((b"MThd", b"RIFF")):
        raise ConversionError("not_midi", f"starts with {data[:8]!r}")
    if data[12:13] >= b"\x80":
        raise ConversionError("time_division", "time code (SMPTE) instead of beats")
    try:
        score = symusic.Score.from_midi(data, sanitize_data=True)
    except MemoryError:
        raise
    except Exception as error:
        raise ConversionError("damaged", str(error).split("\n")[0][:200]) from None
    if score.tpq <= 0:
        raise ConversionError("time_division", f"{score.tpq} ticks per quarter note")
    return score


def read_notes(score):
    """(track, pitch, onset, end) of all pitched notes, onset and end in units (float arrays, sorted by onset within
    each track), and the number of drum notes."""
    columns, n_drums, n_tracks, scale = [], 0, 0, QUARTER / score.tpq
    for track in score.tracks:
        if track.is_drum:
            n_drums += len(track.notes)
        elif len(track.notes):
            a = track.notes.numpy()
            onset, duration = a["time"] * scale, np.maximum(a["duration"], 0) * scale
            order = np.lexsort((a["pitch"], onset))
            columns.append((np.full(len(onset), n_tracks), a["pitch"].astype(np.int64)[order], onset[order],
                            (onset + duration)[order]))
            n_tracks += 1
    if not columns:
        raise ConversionError("no_notes", f"{n_drums} drum notes" if n_drums else "no notes at all")
    return (*(np.concatenate(column) for column in zip(*columns)), n_drums)


# ---------------------------------------------------------------- bars

def meter_changes(score):
    """[(position, bar length, numerator, denominator)] in units, first at 0; signatures that no bar can have are
    passed over, and a file without any is in 4/4."""
    changes = [(0, 4 * QUARTER, 4, 4)]
    for signature in sorted(score.time_signatures, key=lambda s: s.time):
        n, d = signature.numerator, signature.denominator
        while signature.denominator > 16 and n % 2 == 0 and d > 4:
            n, d = n // 2, d // 2
        length = n * 4 * QUARTER / d if d > 0 else 0
        if length % SMALLEST or not 2 * SIXTEENTH <= length <= 16 * QUARTER:
            continue
        at = round(signature.time * QUARTER / SMALLEST / score.tpq) * SMALLEST
        if changes[-1][0] == at:
            changes.pop()
        if not changes or changes[-1][2:] != (n, d):
            changes.append((at, int(length), n, d))
    return changes


def meter_text(length):
    """Meter of a bar that has none of its own, e.g. a bar cut short by a meter change: 60 units -> (5, 8)."""
    n, d = length // SMALLEST, 32
    while d > 4 and n % 2 == 0:
        n, d = n // 2, d // 2
    return n, d


def bar_grid(changes, end):
    """Bar lines in units (one more than bars) that cover everything up to `end`, and [(first bar, (n, d))].

    A meter change inside a bar ends it there. A short first bar before a longer meter is a pickup: it keeps its
    length and takes the meter of what follows.
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
        if until is not None and position < until:
            meters.append((len(lines), meter_text(until - position)))
            lines.append(position)
            position = until
    lines.append(position)
    if len(meters) > 1 and meters[1][0] == 1 and lines[1] * meters[1][1][1] < meters[1][1][0] * 4 * QUARTER:
        meters[:2] = [(0, meters[1][1])]
    kept = [meters[0]]
    for meter in meters[1:]:
        if meter[1] != kept[-1][1]:
            kept.append(meter)
    return np.array(lines), kept


def beat_grid(bars):
    """Starts of all beats (quarter notes from each bar line, the last of a bar may be shorter), one more than beats."""
    lengths = np.diff(bars)
    n_beats = -(-lengths // QUARTER)
    first = np.cumsum(n_beats) - n_beats
    within = np.arange(n_beats.sum()) - np.repeat(first, n_beats)
    return np.append(np.repeat(bars[:-1], n_beats) + within * QUARTER, bars[-1])


# ---------------------------------------------------------------- quantisation

def snap(place, step, length):
    """Places within a beat moved to the nearest multiple of step, at most to the end of the beat."""
    return np.minimum(np.rint(place / step).astype(np.int64) * step, length)


def choose_grids(cell, place, length, n_cells):
    """The step of the grid of every cell (a beat of a track), by the error of the onsets in it."""
    def cost(step):
        error = np.abs(place - step * np.rint(place / step))
        return error + 2 * np.maximum(error - FAR, 0) + np.where(length % (3 * step) == 0, 0, 1e6) * (step % 3 > 0)
    errors = {step: cost(step) for step in (BINARY, TERNARY, THIRTY_SECOND, SEXTUPLET)}
    binary, ternary = np.abs(errors[BINARY]).sum(), np.minimum(errors[TERNARY], QUARTER).sum()
    per_beat = {TERNARY: (0.1, TERNARY_COST * ternary / (binary + ternary + 1e-9)), **GRID_COST}
    best = np.bincount(cell, errors[BINARY], n_cells)
    choice = np.full(n_cells, BINARY)
    for step, (per_onset, beat_cost) in per_beat.items():
        total = np.bincount(cell, errors[step] + per_onset, n_cells) + beat_cost
        better = total < best - 1e-9
        best[better], choice[better] = total[better], step
    return choice


def quantise(track, pitch, onset, end, beats, n_tracks):
    """Onsets and ends on the grid (int arrays), and the steps chosen: (n_tracks, n_beats).

    Two notes of one pitch in one track that fall on one place though the MIDI has them apart (a trill, a repeated
    note) take their beat to the 32nd grid.
    """
    n_beats = len(beats) - 1
    beat = np.searchsorted(beats, onset + 1e-6, side="right") - 1
    place, length = onset - beats[beat], beats[beat + 1] - beats[beat]
    cell = track * n_beats + beat
    choice = choose_grids(cell, place, length, n_tracks * n_beats)
    on = beats[beat] + snap(place, choice[cell], length)
    order = np.lexsort((onset, pitch, track))
    same = (np.diff(track[order]) == 0) & (np.diff(pitch[order]) == 0) & (np.diff(on[order]) == 0)
    apart = same & (np.diff(onset[order]) >= 1.5)
    if apart.any():
        choice[np.concatenate([cell[order[:-1][apart]], cell[order[1:][apart]]])] = THIRTY_SECOND
        on = beats[beat] + snap(place, choice[cell], length)
    end = unify_ends(track, on, np.maximum(end, onset))
    beat = np.minimum(np.searchsorted(beats, end, side="right") - 1, n_beats - 1)
    step = choice[track * n_beats + beat]
    off = beats[beat] + snap(end - beats[beat], step, beats[beat + 1] - beats[beat])
    beat = np.minimum(np.searchsorted(beats, on, side="right") - 1, n_beats - 1)
    off = np.where(off <= on, np.minimum(on + choice[track * n_beats + beat], beats[beat + 1]), off)
    return on, off, choice.reshape(n_tracks, n_beats)


def unify_ends(track, on, end):
    """Ends of the notes of one chord that lie within a sixteenth of their mean become one."""
    new = np.flatnonzero(differs(on, track))
    sizes = np.diff(np.append(new, len(on)))
    mean = np.repeat(np.add.reduceat(end, new) / sizes, sizes)
    near = np.logical_and.reduceat(np.abs(end - mean) <= SIXTEENTH, new)
    return np.where(np.repeat(near, sizes), mean, end)


# ---------------------------------------------------------------- voices
# A voice is a list of events without overlap: arrays of onsets and ends, a list of chords (tuples of pitches, low to
# high), and {event: tuple of bools} for the events of which only some notes are tied to the next.

def differs(*columns):
    """True at the first element and where one of the columns differs from the element before."""
    changed = np.ones(len(columns[0]), bool)
    np.not_equal(columns[0][1:], columns[0][:-1], out=changed[1:])
    for column in columns[1:]:
        changed[1:] |= column[1:] != column[:-1]
    return changed


def distinct(*times):
    """The sorted distinct values of int arrays."""
    values = np.sort(np.concatenate(times))
    return values[differs(values)]


def tidy(pitch, on, off):
    """Notes of one track, sorted by onset and pitch: doubled notes once, a note ends where its pitch starts again,
    and overlaps of up to a sixteenth that only come from legato playing are removed."""
    order = np.argsort((pitch * LATEST + on) * LATEST - off)  # by pitch, onset, the longest first
    pitch, on, off = pitch[order], on[order], off[order]
    keep = differs(pitch, on)
    pitch, on, off = pitch[keep], on[keep], off[keep]
    again = np.flatnonzero(pitch[1:] == pitch[:-1])
    off[again] = np.minimum(off[again], on[again + 1])
    order = np.argsort(on * 128 + pitch)
    pitch, on, off = pitch[order], on[order], off[order]
    onsets = distinct(on)
    before = onsets[np.searchsorted(onsets, off, side="right") - 1]
    off = np.where((off - before <= SIXTEENTH) & (before > on), before, off)
    first = np.searchsorted(on, onsets)
    sizes = np.diff(np.append(first, len(on)))
    crowded = np.flatnonzero(sizes > HEADS_PER_UNIT * (np.minimum.reduceat(off, first) - onsets))
    if len(crowded):
        keep = np.ones(len(on), bool)
        for i in crowded.tolist():
            chord = slice(first[i], first[i] + sizes[i])
            if i + 1 < len(onsets) and onsets[i + 1] - onsets[i] <= QUARTER:
                off[chord] = np.maximum(off[chord], onsets[i + 1])
            most = HEADS_PER_UNIT * int(off[chord].min() - onsets[i])
            keep[first[i] + 1 + most // 2:first[i] + sizes[i] - (most - 1) // 2] &= sizes[i] <= most
        pitch, on, off = pitch[keep], on[keep], off[keep]
    return pitch, on, off


def has_overlap(on, off):
    """True if one voice of plain chords cannot hold these notes (sorted by onset)."""
    same = on[1:] == on[:-1]
    return bool(np.where(same, off[1:] != off[:-1], off[:-1] > on[1:]).any())


def chords_of(pitch, on, off):
    """The voice of notes without overlap."""
    first = np.flatnonzero(differs(on))
    pitches, bounds = pitch.tolist(), np.append(first, len(on)).tolist()
    return on[first], off[first], [tuple(pitches[a:b]) for a, b in zip(bounds, bounds[1:])], {}


def end_at_bars(on, off, bars):
    """Ends of the notes of one voice where those that overlap others end at the next bar line: abc2midi joins ties of
    changing chords to wrong notes once a bar line lies between."""
    bar = bars[np.searchsorted(bars, on, side="right")]
    if not (off > bar).any():
        return off
    new = np.flatnonzero(differs(on))
    before = np.concatenate([[0], np.maximum.accumulate(off)[new[1:] - 1]])
    chord = np.repeat(np.arange(len(new)), np.diff(np.append(new, len(on))))
    longest, shortest = np.maximum.reduceat(off, new), np.minimum.reduceat(off, new)
    after = np.append(on[new[1:]], off.max())
    alone = (longest == shortest) & (longest <= after) & (before <= on[new])
    return np.where(alone[chord], off, np.minimum(off, bar))


def tied_chords_of(pitch, on, off):
    """The voice of overlapping notes: cut wherever a note starts or ends, and tied over the cuts."""
    cuts = distinct(on, off)
    first, last = np.searchsorted(cuts, on), np.searchsorted(cuts, off)
    n_heads = last - first
    note = np.repeat(np.arange(len(on)), n_heads)
    stretch = np.arange(len(note)) - np.repeat(np.cumsum(n_heads) - n_heads, n_heads) + first[note]
    order = np.argsort(stretch * 128 + pitch[note], kind="stable")
    note, stretch = note[order], stretch[order]
    tied = last[note] > stretch + 1
    start = np.flatnonzero(differs(stretch))
    bounds = np.append(start, len(note)).tolist()
    pitches, flags, some = pitch[note].tolist(), tied.tolist(), np.logical_or.reduceat(tied, start).tolist()
    chords = [tuple(pitches[a:b]) for a, b in zip(bounds, bounds[1:])]
    ties = {i: tuple(flags[bounds[i]:bounds[i + 1]]) for i, any_tied in enumerate(some) if any_tied}
    return cuts[stretch[start]], cuts[stretch[start] + 1], chords, ties


def tying_chars(on, off, bars):
    """What overlaps cost in one voice: characters of the tied heads beyond one a note, and of the notes cut short."""
    whole, off = off, end_at_bars(on, off, bars)
    cuts = distinct(on, off)
    n_heads = int((np.searchsorted(cuts, off) - np.searchsorted(cuts, on)).sum())
    return TIED_CHARS * (n_heads - len(on)) + CUT_CHARS * int((off < whole).sum())


def part_notes(pitch, on, off, n_parts):
    """Deals the notes of a track into n_parts voices, each chord to the first voice that is free, the highest chord
    first: part of each note."""
    order = np.lexsort((-pitch, off, on))
    new = differs(on[order], off[order])
    top = order[new]  # the highest note of each chord
    by_turn = np.lexsort((-pitch[top], on[top]))
    chord_part, busy = np.zeros(len(top), np.int64), [0] * n_parts
    for i, a, b in zip(by_turn.tolist(), on[top][by_turn].tolist(), off[top][by_turn].tolist()):
        for v, until in enumerate(busy):
            if until <= a:
                break
        else:
            v = busy.index(min(busy))
        if busy[v] < b:
            busy[v] = b
        chord_part[i] = v
    part = np.zeros(len(on), np.int64)
    part[order] = chord_part[np.cumsum(new) - 1]
    return part


def split_track(pitch, on, off, bars):
    """[(characters it costs, [part of each note])] for the ways to write a track: one voice with ties, or more."""
    n_bars = len(bars) - 1
    ways = [(tying_chars(on, off, bars), np.zeros(len(on), np.int64))]
    for n_parts in (2, 3, 4):
        if ways[-1][0] <= VOICE_CHARS * n_bars * (n_parts - 1):
            break
        part = part_notes(pitch, on, off, n_parts)
        cost = sum(tying_chars(on[part == v], off[part == v], bars) for v in range(n_parts))
        ways.append((cost + (n_parts - 1) * VOICE_CHARS * n_bars, part))
    return ways


def merge_voices(voices, bars, most):
    """[(voice, mean pitch, note heads)]. Joins voices that never sound in the same bar (one part changing its instrument): always if their mean pitches
    lie within MERGE_REACH, and at any distance while there are more than `most`."""
    entries = []
    for on, off, chords, ties in voices:
        change = np.zeros(len(bars) + 1, np.int64)
        np.add.at(change, np.searchsorted(bars, on, side="right") - 1, 1)
        np.add.at(change, np.searchsorted(bars, off, side="left"), -1)
        n_heads = sum(map(len, chords))
        entries.append([(on, off, chords, ties), np.cumsum(change) > 0, sum(map(sum, chords)) / n_heads, n_heads])
    for reach in (MERGE_REACH, 128):
        if reach == 128 and len(entries) <= most:
            break
        i = 0
        while i < len(entries):
            voice, mask, pitch, size = entries[i]
            fits = [(abs(other[2] - pitch), j) for j, other in enumerate(entries[:i])
                    if abs(other[2] - pitch) <= reach and not (mask & other[1]).any()]
            if fits:
                other = entries[min(fits)[1]]
                other[0] = join(other[0], voice)
                other[1] = other[1] | mask
                other[2] = (other[2] * other[3] + pitch * size) / (other[3] + size)
                other[3] += size
                del entries[i]
            else:
                i += 1
    return [(voice, pitch, n_heads) for voice, _, pitch, n_heads in entries]


def join(a, b):
    """One voice of two that do not overlap."""
    on, off = np.concatenate([a[0], b[0]]), np.concatenate([a[1], b[1]])
    chords, order = a[2] + b[2], np.argsort(on, kind="stable")
    ties = {**a[3], **{len(a[2]) + i: tied for i, tied in b[3].items()}}
    place = {int(old): new for new, old in enumerate(order)} if ties else {}
    return on[order], off[order], [chords[i] for i in order.tolist()], {place[i]: tied for i, tied in ties.items()}


def choose_parts(pitches, sizes, most):
    """Which of the parts stay when there are more than `most`: the top line, the bass, then those with most notes.
    A part of fewer than a tenth of the largest part's notes is an effect, not the top line or the bass."""
    by_size = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    real = [i for i in by_size if sizes[i] * 10 >= sizes[by_size[0]]]
    outer = [max(real, key=lambda i: pitches[i]), min(real, key=lambda i: pitches[i])]
    return sorted(list(dict.fromkeys(outer + by_size))[:most])


def make_voices(track, pitch, on, off, bars, most):
    """At most `most` voices, high to low; how many notes are doubled and how many are left out."""
    tracks, n_all = [], len(on)
    first = np.flatnonzero(differs(track))
    for a, b in zip(first, np.append(first[1:], n_all)):
        tracks.append(tidy(pitch[a:b], on[a:b], off[a:b]))
    n_kept = sum(len(notes[0]) for notes in tracks)
    ways = []
    for notes in tracks:
        ways.append(split_track(*notes, bars) if has_overlap(*notes[1:]) else None)
    chosen = [min(range(len(way)), key=lambda i: way[i][0]) if way else 0 for way in ways]
    room = max(most, len(tracks))
    while len(tracks) + sum(chosen) > room:
        gains = [(ways[i][0][0] - ways[i][n][0], i) for i, n in enumerate(chosen) if n]
        chosen[min(gains)[1]] = 0
    voices = []
    for (pitch, on, off), way, n in zip(tracks, ways, chosen):
        if way is None:
            voices.append(chords_of(pitch, on, off))
            continue
        part = way[n][1]
        for v in range(int(part.max()) + 1):
            mine = part == v
            ends = end_at_bars(on[mine], off[mine], bars)
            build = tied_chords_of if has_overlap(on[mine], ends) else chords_of
            voices.append(build(pitch[mine], on[mine], ends))
    voices = merge_voices(voices, bars, most)
    n_dropped = 0
    if len(voices) > most:
        keep = choose_parts([pitch for _, pitch, _ in voices], [n_heads for *_, n_heads in voices], most)
        n_dropped = sum(n_notes(voices[i][0]) for i in range(len(voices)) if i not in keep)
        voices = [voices[i] for i in keep]
    voices.sort(key=lambda entry: -entry[1])
    return [voice for voice, *_ in voices], n_all - n_kept, n_dropped


def n_notes(voice):
    """Notes of a voice, heads tied together counted once."""
    return sum(map(len, voice[2])) - sum(map(sum, voice[3].values()))


# ---------------------------------------------------------------- key and spelling

SCALE = (0, 2, 4, 5, 7, 9, 11)
FIFTHS = "FCGDAEB"  # letters along the line of fifths: F is -1, C 0, F sharp 6
LETTERS = "CDEFGAB"
NATURAL = dict(zip(LETTERS, SCALE))
MAJOR = ("Cb", "Gb", "Db", "Ab", "Eb", "Bb", "F", "C", "G", "D", "A", "E", "B", "F#", "C#")  # 7 flats to 7 sharps
MINOR = ("Abm", "Ebm", "Bbm", "Fm", "Cm", "Gm", "Dm", "Am", "Em", "Bm", "F#m", "C#m", "G#m", "D#m", "A#m")
MAJOR_PROFILE = np.array([6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88])  # Krumhansl and
MINOR_PROFILE = np.array([6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17])  # Kessler 1982
KEY_SLACK = 0.05  # a signature in the file is believed if its scale holds at most this share fewer notes than the best
KEY_BARS = 4  # a key that lasts less is a passing one and gets accidentals


def best_key(histogram, given=None):
    """(sharps or minus flats, minor) that a pitch-class histogram asks for; `given` wins if it fits.

    >>> best_key(np.array([9, 0, 5, 0, 8, 4, 0, 9, 0, 4, 0, 3]))
    (0, False)
    """
    total = max(histogram.sum(), 1)
    share = {sharps: sum(histogram[(step + 7 * sharps) % 12] for step in SCALE) / total for sharps in range(-7, 8)}
    best = max(range(-5, 7), key=lambda sharps: (share[sharps], -abs(sharps)))
    if given and share[given[0]] >= share[best] - KEY_SLACK:
        return given
    tonic = 7 * best % 12
    major = float(np.roll(MAJOR_PROFILE, tonic) @ histogram) / MAJOR_PROFILE.sum()
    minor = float(np.roll(MINOR_PROFILE, tonic + 9) @ histogram) / MINOR_PROFILE.sum()
    return best, bool(minor > major)


def choose_keys(score, bars, pitch, on):
    """[(first bar, sharps, minor)] from the signatures where they fit the notes, else from the notes."""
    given = {}
    for signature in sorted(score.key_signatures, key=lambda s: s.time):
        if -7 <= signature.key <= 7:
            bar = int(np.argmin(np.abs(bars[:-1] - signature.time * QUARTER / score.tpq)))
            given[bar] = (signature.key, bool(signature.tonality))
    starts = [0] + [bar for bar in sorted(given) if bar >= KEY_BARS and bar + KEY_BARS < len(bars)]
    starts = [bar for bar, after in zip(starts, starts[1:] + [1 << 30]) if after - bar >= KEY_BARS or bar == 0]
    keys = []
    for first, stop in zip(starts, starts[1:] + [len(bars) - 1]):
        inside = (on >= bars[first]) & (on < bars[stop])
        if inside.any():
            key = best_key(np.bincount(pitch[inside] % 12, minlength=12), given.get(first))
            if not keys or keys[-1][1:] != key:
                keys.append((0 if not keys else first, *key))
    return keys


def spelling(sharps):
    """([alteration of the letters C to B in this key], [(letter number, alteration, text, text with accidental)] of
    the 128 pitches). The twelve pitch classes are spelled from three fifths below the key's flattest note to one above
    its sharpest leading note, so flat keys have flats and a minor key's seventh degree is raised."""
    alterations = [0] * 7
    for fifth in range(sharps - 1, sharps + 6):
        alterations[LETTERS.index(FIFTHS[(fifth + 1) % 7])] = (fifth + 1) // 7
    classes = {}
    for fifth in range(sharps - 3, sharps + 9):
        fifth += 12 if (fifth + 1) // 7 < -1 else -12 if (fifth + 1) // 7 > 1 else 0
        letter, alteration = FIFTHS[(fifth + 1) % 7], (fifth + 1) // 7
        classes[(NATURAL[letter] + alteration) % 12] = (letter, alteration)
    table = []
    for pitch in range(128):
        letter, alteration = classes[pitch % 12]
        octave = (pitch - alteration) // 12
        text = letter.lower() + "'" * (octave - 6) if octave >= 6 else letter + "," * (5 - octave)
        table.append((LETTERS.index(letter), alteration, text, "_=^"[alteration + 1] + text))
    return alterations, table


SPELLINGS = {sharps: spelling(sharps) for sharps in range(-7, 8)}


# ---------------------------------------------------------------- writing

def length_text(units):
    """Length as ABC writes it over L:1/16: 6 units -> '', 12 -> '2', 3 -> '/', 9 -> '3/'."""
    n, odd = divmod(units, SIXTEENTH)
    if odd:
        return f"{units // SMALLEST}/" if units > SMALLEST else "/"
    return str(n) if n > 1 else ""


LENGTHS = [length_text(units) if units % SMALLEST == 0 else None for units in range(16 * QUARTER + 1)]


def tuplets_of(on, off, beats):
    """Starts and lengths (units) of the stretches of one voice that need tuplets: beats, or halves of beats, with
    events that lie off the binary grid."""
    if not ((on % SMALLEST).any() or (off % SMALLEST).any()):
        return on[:0], on[:0]
    edges = distinct(on, off)
    odd = edges[edges % SMALLEST != 0]
    begin = beats[np.searchsorted(beats, odd, side="right") - 1]
    starts, beat = np.unique(begin, return_inverse=True)
    lengths = beats[np.searchsorted(beats, starts, side="right")] - starts
    half = QUARTER // 2
    middle = np.minimum(np.searchsorted(edges, starts + half), len(edges) - 1)
    halved = ((lengths == QUARTER) & (edges[middle] == starts + half))[beat]
    first = np.where(halved, odd - (odd - begin) % half, begin)
    new = differs(first)
    return first[new], np.where(halved, half, lengths[beat])[new]


SHOWN = np.array([text is not None and units // SMALLEST in {n << k for n in (1, 3, 7, 15) for k in range(9)}
                  for units, text in enumerate(LENGTHS)])  # lengths that one head with at most three dots has


@cache
def first_head(place, length, pulse):
    """Length of the first of the two heads that a length no single head has is written with; all in 1/32, place
    from the bar line. They meet on a pulse of a compound meter, else on the strongest beat there is.

    >>> first_head(0, 10, 1), first_head(6, 10, 1), first_head(0, 20, 12)
    (8, 2, 12)
    """
    def merit(cut):
        shown = bool(SHOWN[cut * SMALLEST]) + bool(SHOWN[(length - cut) * SMALLEST])
        meet = place + cut
        return shown, min(cut, length - cut) > 1, meet % pulse == 0, meet & -meet
    return max(range(1, length), key=merit)


def write_voice(voice, bars, beats, pulses, keys, pickup):
    """Text of every bar of one voice, e.g. ['D4G4B4d4', 'Z', ...]; Z is a silent bar. pulses: of each bar, in 1/32."""
    on, off, chords, ties = voice
    first, size = tuplets_of(on, off, beats)
    cuts = distinct(bars, on, off, first, first + size)
    start = cuts[:-1]
    event = np.searchsorted(on, start, side="right") - 1
    sounding = (event >= 0) & (off[event] > start)
    bar = np.searchsorted(bars, start, side="right") - 1
    silent = ~sounding & (start == bars[bar]) & (cuts[1:] == bars[bar + 1])
    if pickup:
        silent[0] = False
    tuplet = np.full(len(start), -1)
    if len(first):
        tuplet = np.searchsorted(first, start, side="right") - 1
        tuplet[start >= first[tuplet] + size[tuplet]] = -1
    stretches = np.stack([event, sounding, bar, tuplet])[:, ~silent]
    start, stop = start[~silent], cuts[1:][~silent]
    while True:
        event, sounding, bar, tuplet = stretches
        length = stop - start
        if len(first):
            length = np.where(tuplet >= 0, length * SIXTEENTH // 4, length)  # three are written in the time of two
        odd = ~SHOWN[length]
        if not odd.any():
            break
        place = (start - bars[bar])[odd] // SMALLEST
        heads = map(first_head, place.tolist(), (length[odd] // SMALLEST).tolist(), pulses[bar[odd]].tolist())
        at = start[odd] + np.fromiter(heads, int) * np.where(tuplet[odd] >= 0, 2, SMALLEST)
        start, stop = np.sort(np.append(start, at)), np.sort(np.append(stop, at))
        stretches = np.repeat(stretches, 1 + odd, axis=1)
    more = (sounding > 0) & (off[event] > stop)
    prefix = [""] * len(event)
    if len(first):
        counts = np.bincount(tuplet[tuplet >= 0], minlength=len(first))
        for i, n in zip(np.searchsorted(start, first).tolist(), counts.tolist()):
            prefix[i] = "(3" if n == 3 else f"(3::{n}"
    texts = ["Z"] * (len(bars) - 1)
    current, key, out = -1, 0, []
    plain = {}  # chord -> text where no accidental of the bar's counts, in the present key
    alterations, table = SPELLINGS[keys[0][1]]
    for b, e, sounds, tied, units, before in zip(*(column.tolist() for column in (bar, event, sounding, more, length)),
                                                 prefix):
        if b != current:
            if out:
                texts[current] = "".join(out)
            current, out = b, []
            while key + 1 < len(keys) and keys[key + 1][0] <= b:
                key += 1
                alterations, table = SPELLINGS[keys[key][1]]
                plain = {}
            state, clean = alterations.copy(), True
        if not sounds:
            out.append(before + "z" + LENGTHS[units])
            continue
        chord = chords[e]
        partly = ties.get(e) if ties and not tied else None
        text = plain.get(chord) if clean and partly is None else None
        if text is None:
            heads, was_clean = [], clean
            for p in chord:
                letter, alteration, text, marked = table[p]
                if state[letter] == alteration and p:  # abc2midi reads an unmarked MIDI pitch 0 in a flat key as -1
                    heads.append(text)
                else:
                    state[letter], clean = alteration, False
                    heads.append(marked)
            if partly is not None:
                if all(partly):
                    tied = True
                else:
                    heads = [head + "-" if tie else head for head, tie in zip(heads, partly)]
            text = heads[0] if len(heads) == 1 else "[" + "".join(heads) + "]"
            if was_clean and clean and (partly is None or tied):
                plain[chord] = text
        if before or tied:
            text = before + text + LENGTHS[units] + ("-" if tied else "")
        else:
            text += LENGTHS[units]
        out.append(text)
    texts[current] = "".join(out)
    return texts


def tempo_marks(score, bars):
    """Quarter notes a minute at the start, and {bar: quarter notes a minute} where it changes by more than a tenth."""
    marks = sorted((t.time * QUARTER / score.tpq, t.qpm) for t in score.tempos)
    marks = [(t, q) for t, q in marks if TEMPOS[0] <= q <= TEMPOS[1]] or [(0, 120)]
    at = np.searchsorted([t for t, _ in marks], bars[:-1] + SIXTEENTH, side="right") - 1
    qpm = [round(marks[max(i, 0)][1]) for i in at.tolist()]
    current, changes = qpm[0], {}
    for bar, value in enumerate(qpm):
        if abs(value - current) > TEMPO_STEP * current:
            changes[bar] = current = value
    return qpm[0], changes


def layout(voices, changes, n_bars):
    """Music lines: the voices one after the other, a group of bars at a time. changes: {bar: (text for every voice,
    text for the first)}; a line starts wherever something changes."""
    per_bar = sum(sum(map(len, voice)) for voice in voices) / n_bars + len(voices)
    group = next((g for g in GROUP_BARS if per_bar * g + 5 * len(voices) <= LINE_CHARS), 1)
    tags = [f"[V:{v + 1}]" if len(voices) > 1 else "" for v in range(len(voices))]
    lines, breaks = [], sorted({0, n_bars, *changes})
    for begin, end in zip(breaks, breaks[1:]):
        for first in range(begin, end, group):
            everywhere, once = changes.get(first, ("", ""))
            line, stop = [], min(first + group, end)
            for tag, voice in zip(tags, voices):
                line.append(tag + everywhere + once + "|".join(voice[first:stop]) + "|")
                once = ""
            text = "".join(line)
            if "Z|Z|" in text:
                text = re.sub(r"(?:Z\|){2,}", lambda silent: f"Z{len(silent[0]) // 2}|", text)
            lines.append(text)
    return lines


def title_of(name):
    """A file's name as one harmless line for T:.

    >>> title_of('a\\nK:C%%"x" (live).1')
    'a K C x (live).1'
    """
    text = os.fsencode(name).decode("utf-8", "replace")
    return re.sub(r"\s+", " ", re.sub(r"[^\w '(),.!&-]+|_", " ", text)).strip()[:80] or "Untitled"


def convert(data, name="", max_voices=MAX_VOICES):
    """MIDI bytes to (ABC text, {what was counted}); ConversionError says why there is none."""
    score = read_midi(data)
    track, pitch, onset, end, n_drums = read_notes(score)
    latest = float(max(end.max(), onset.max()))
    if latest > MAX_BARS * 4 * QUARTER:
        raise ConversionError("too_long", f"{latest / QUARTER:.0f} quarter notes")
    if onset.min() < 0:
        raise ConversionError("too_long", "more ticks than the reader's 32 bits hold")
    n_tracks = int(track[-1]) + 1
    bars, meters = bar_grid(meter_changes(score), latest + SIXTEENTH)
    beats = beat_grid(bars)
    on, off, choice = quantise(track, pitch, onset, end, beats, n_tracks)
    error = float(np.median(np.abs(on - onset))) / QUARTER
    bars = bars[:max(2, int(np.searchsorted(bars, off.max(), side="left")) + 1)]
    n_bars = len(bars) - 1
    voices, n_doubled, n_dropped = make_voices(track, pitch, on, off, bars, max_voices)
    keys = choose_keys(score, bars, pitch, on)
    end_at_respelling(voices, bars, keys)
    meters = [meter for meter in meters if meter[0] < n_bars]
    pickup = bool(bars[1] * meters[0][1][1] != meters[0][1][0] * 4 * QUARTER)
    qpm, tempos = tempo_marks(score, bars)
    changes = {}
    for bar, (n, d) in meters[1:]:
        changes[bar] = (f"[M:{n}/{d}]", "")
    for bar, *key in keys[1:]:
        changes[bar] = (changes.get(bar, ("", ""))[0] + f"[K:{key_name(*key)}]", "")
    for bar, value in tempos.items():
        changes[bar] = (changes.get(bar, ("", ""))[0], f"[Q:1/4={value}]")
    pulses = np.ones(n_bars, int)
    for bar, (n, d) in meters:
        pulses[bar:] = 3 * 32 // d if n % 3 == 0 and n > 3 else 1  # the dotted beat of a compound meter
    texts = [write_voice(voice, bars, beats, pulses, keys, pickup) for voice in voices]
    head = ["X:1", f"T:{title_of(name)}", "M:%d/%d" % meters[0][1], "L:1/16", f"Q:1/4={qpm}",
            f"K:{key_name(*keys[0][1:])}"]
    text = "\n".join(head + layout(texts, changes, n_bars)) + "\n"
    return text, {"bars": n_bars, "voices": len(voices), "tracks": n_tracks, "notes": len(on) - n_doubled - n_dropped,
                  "doubled": n_doubled, "dropped": n_dropped, "drums": n_drums, "error": round(error, 4)}


def end_at_respelling(voices, bars, keys):
    """Ends chords at a key change that spells one of their notes anew: no reader ties C sharp to D flat."""
    for (_, before, _), (bar, after, _) in zip(keys, keys[1:]):
        line, old, new = bars[bar], SPELLINGS[before][1], SPELLINGS[after][1]
        for on, off, chords, _ in voices:
            i = int(np.searchsorted(on, line)) - 1
            if i >= 0 and off[i] > line and any(old[p][:2] != new[p][:2] for p in chords[i]):
                off[i] = line


def key_name(sharps, minor):
    return (MINOR if minor else MAJOR)[sharps + 7]


# ---------------------------------------------------------------- files

def self_check(text, row):
    """Reads ABC back; ConversionError if it is not what was meant: every bar its meter, every note once."""
    try:
        tune = read_abc(text)
    except AbcError as error:
        raise ConversionError("self_check", str(error)) from None
    shapes = {tuple((bar.onset, bar.length) for bar in voice.bars) for voice in tune.voices}
    if len(shapes) != 1 or any(bar.length != bar.meter for bar in tune.voices[0].bars[1:]):
        raise ConversionError("self_check", "bars do not fit their meter")
    n_notes = sum(len(voice.notes) for voice in tune.voices)
    if n_notes != row["notes"]:
        raise ConversionError("self_check", f"{n_notes} notes instead of {row['notes']}")


def convert_file(source, target, max_voices, check):
    """Converts one file; returns its row: {"chars", "notes", ...} or {"reason", "detail"}."""
    try:
        with open(source, "rb") as file:
            data = file.read(MIDI_BYTES + 1)
        if len(data) > MIDI_BYTES:
            raise ConversionError("too_large", f"more than {MIDI_BYTES:,} bytes")
        text, row = convert(data, Path(source).stem, max_voices)
        if len(text) > ABC_CHARS:
            raise ConversionError("too_large", f"{len(text):,} characters of ABC")
        if check:
            self_check(text, row)
    except ConversionError as error:
        return {"reason": error.args[0], "detail": error.args[1]}
    except MemoryError:
        return {"reason": "memory", "detail": f"needs more than {MEMORY_BYTES >> 20:,} MiB"}
    except OSError as error:
        return {"reason": "unreadable", "detail": error.strerror}
    except Exception as error:  # a surprise in one file must not end the run; it is counted, and its kind is kept
        return {"reason": "internal", "detail": f"{type(error).__name__}: {error}"}
    write_text(target, text, durable=False)
    return {"chars": len(text), **row}


def is_checked(name, seed, share):
    """True for the given share of names, the same ones whatever the order of work."""
    return zlib.crc32(f"{seed} {name}".encode("utf-8", "surrogateescape")) < share * 2**32


def work(pipe, raw, target, max_voices, seed, checked_share, timeout):
    """A worker: takes batches of (MIDI name, ABC name) from the pipe and answers with one row a file."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))

    def too_slow(*_):
        raise ConversionError("timeout", f"more than {timeout:g} seconds of processor time")
    signal.signal(signal.SIGPROF, too_slow)
    gc.disable()  # a file leaves no cycles worth the search: 5 % of the time
    gc.freeze()  # what is collected between batches is theirs alone
    with suppress(EOFError, ConnectionError):  # the run was killed
        while batch := pipe.recv():
            gc.collect()
            for midi, abc in batch:
                try:
                    signal.setitimer(signal.ITIMER_PROF, timeout)
                    row = convert_file(f"{raw}/{midi}", f"{target}/{abc}", max_voices,
                                       is_checked(midi, seed, checked_share))
                    signal.setitimer(signal.ITIMER_PROF, 0)
                except ConversionError as error:
                    row = {"reason": error.args[0], "detail": error.args[1]}
                except OSError as error:  # while writing, e.g. a full disk: stops the run, is no fault of the file
                    row = error
                pipe.send(row)


def convert_all(tasks, n_workers, arguments, timeout):
    """Yields (task, row) as files are done, from worker processes. A worker that dies or hangs costs the file it
    was at; another takes its place."""
    context = multiprocessing.get_context("spawn")
    todo, workers = deque(tasks), {}

    def feed(pipe):
        process, mine, _ = workers[pipe]
        batch = [todo.popleft() for _ in range(min(BATCH, len(todo)))]
        workers[pipe] = (process, deque(batch), time.monotonic())
        with suppress(BrokenPipeError):
            pipe.send(batch)

    def start():
        pipe, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, *arguments, timeout), daemon=True)
        process.start()
        theirs.close()
        workers[pipe] = (process, deque(), time.monotonic())
        feed(pipe)

    try:
        for _ in range(min(n_workers, -(-len(todo) // BATCH))):
            start()
        while workers:
            ready = connection.wait(list(workers), timeout=1)
            for pipe in list(workers):
                process, mine, since = workers[pipe]
                row, died = None, False
                if pipe in ready:
                    try:
                        row = pipe.recv()
                        if isinstance(row, OSError):
                            raise row
                    except (EOFError, ConnectionResetError):
                        died = True
                        process.join()
                        row = {"reason": "crash", "detail": f"the worker ended with code {process.exitcode}"}
                elif time.monotonic() - since > 10 * timeout + 60:  # not even computing
                    died = True
                    process.kill()
                    process.join()
                    row = {"reason": "timeout", "detail": f"no answer in {10 * timeout + 60:g} seconds"}
                if row is None:
                    continue
                if mine:
                    workers[pipe] = (process, mine, time.monotonic())
                    yield mine.popleft(), row
                if died:
                    todo.extendleft(reversed(mine))
                    del workers[pipe]
                    if todo:
                        start()
                elif not mine and todo:
                    feed(pipe)
                elif not mine:
                    with suppress(BrokenPipeError):
                        pipe.send([])
                    del workers[pipe]
    finally:
        for process, *_ in workers.values():
            process.kill()


def plan(raw):
    """[(MIDI name, ABC name)] below data/raw_midi; Song.mid and Song.MID in one folder give Song.abc, Song.MID.abc."""
    tasks, taken = [], set()
    for name in tree_files(raw):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in SUFFIXES:
            abc = stem + ".abc" if stem + ".abc" not in taken else name + ".abc"
            taken.add(abc)
            tasks.append((name, abc))
    return tasks


def printable(name):
    """A file name as one line of UTF-8: control characters, tabs and undecodable bytes as backslash escapes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def remove_others(folder, keep):
    """Deletes the ABC files that no MIDI file stands for any more, and folders left empty."""
    for name in tree_files(folder):
        if name.endswith(".abc") and name not in keep:
            (folder / name).unlink()
    for below, _, _ in os.walk(folder, topdown=False):
        if below != str(folder):
            with suppress(OSError):
                os.rmdir(below)


def read_journal(path, target):
    """{MIDI name: row} of what an earlier run finished and is still there."""
    rows = {}
    if path.exists():
        with open(path, encoding="utf-8", errors="replace") as journal:
            for line in journal:
                with suppress(ValueError):  # the torn last line of a killed run
                    midi, abc, row = json.loads(line)
                    if "reason" in row or (target / abc).exists():
                        rows[midi] = row
    return rows


# ---------------------------------------------------------------- the stage

TABLE = ("chars", "bars", "voices", "tracks", "notes", "doubled", "dropped", "drums", "error")


def write_tables(root, tasks, rows):
    """failed_midi.txt and conversion.tsv, sorted by path."""
    failed, converted = [], ["path\t" + "\t".join(TABLE)]
    for midi, abc in tasks:
        row = rows[midi]
        if "reason" in row:
            failed.append(f"{printable(midi)}\t{row['reason']}\t{printable(row['detail'])}")
        else:
            converted.append("\t".join([printable(abc), *(str(row[key]) for key in TABLE)]))
    write_text(root / "data/failed_midi.txt", "".join(line + "\n" for line in failed))
    write_text(root / "data/conversion.tsv", "\n".join(converted) + "\n")


def parse_arguments(argv):
    parser = stage_parser(__doc__)
    parser.add_argument("--workers", type=int, metavar="N", default=cpu_count(),
                        help="processes (default: all cores, here %(default)s); changes nothing but the time")
    parser.add_argument("--max-voices", type=int, metavar="N", default=DEFAULT_VOICES, choices=range(1, 16),
                        help="voices kept a tune, 1-15 (default: %(default)s)")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", default=TIMEOUT,
                        help="processor time for one file (default: %(default)s)")
    parser.add_argument("--check-all", action="store_true",
                        help=f"read every ABC file back, not just one in {1 / CHECKED_SHARE:.0f}")
    parser.add_argument("--only", metavar="GLOB", help="redo the files whose path below data/raw_midi matches")
    args = parser.parse_args(argv)
    if args.workers < 1 or args.timeout <= 0:
        parser.error("--workers and --timeout must be positive")
    return args


def main(argv=None):
    args = parse_arguments(argv)
    stage = Stage(__file__, args, {"max_voices": args.max_voices})
    raw, target = stage.root / "data/raw_midi", stage.root / "data/abc_notation"
    journal = stage.root / "data/.02_midi_to_abc.journal.jsonl"
    if args.only:
        manifest = load_manifest(stage.root, stage.name)
        if not manifest or manifest["key"] != stage.key or input_problems(stage.root, stage.name):
            fail("02_midi_to_abc.py", "--only redoes files of a finished conversion with these settings; there is none",
                 f"run: python 02_midi_to_abc.py{stage.flags}")
    elif stage.up_to_date():
        return
    tasks = plan(raw)
    if not tasks:
        fail("02_midi_to_abc.py", "data/raw_midi holds no MIDI file",
             f"run: python 01_download.py{stage.flags} --force")
    with stage.writing():
        rows = read_journal(journal, target) if stage.resuming or args.only else {}
        rows = {midi: row for midi, row in rows.items() if not (args.only and fnmatch.fnmatchcase(midi, args.only))}
        todo = [task for task in tasks if task[0] not in rows]
        target.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with open(journal, "a" if rows else "w", encoding="utf-8") as log:
            arguments = (str(raw), str(target), args.max_voices, args.seed, 1 if args.check_all else CHECKED_SHARE)
            done = convert_all(todo, args.workers, arguments, args.timeout)
            for (midi, abc), row in progress(done, total=len(todo), desc="MIDI to ABC", unit="file"):
                rows[midi] = row
                log.write(json.dumps([midi, abc, row]) + "\n")
                log.flush()
        seconds = time.monotonic() - began
        rows = {midi: rows[midi] for midi, _ in tasks}
        remove_others(target, {abc for midi, abc in tasks if "reason" not in rows[midi]})
        write_tables(stage.root, tasks, rows)
        good = [row for row in rows.values() if "reason" not in row]
        reasons = Counter(row["reason"] for row in rows.values() if "reason" in row)
        failed = len(tasks) - len(good)
        if not good or (len(tasks) >= 10 and failed > MAX_FAILED_SHARE * len(tasks)):
            fail("02_midi_to_abc.py", f"{failed:,} of {len(tasks):,} files gave no ABC: "
                 + ", ".join(f"{n:,} {reason}" for reason, n in reasons.most_common()),
                 "see data/failed_midi.txt; check what is in data/raw_midi")
        total = {key: sum(row[key] for row in good) for key in TABLE if key != "error"}
        off_beat = [printable(midi) for midi, row in rows.items() if row.get("error", 0) > OFF_BEAT]
        counts = {"files": len(tasks), "converted": len(good), "failed": failed, **total, "off_beat": len(off_beat),
                  "median_error": sorted(row["error"] for row in good)[len(good) // 2]}
        stage.finish(["data/abc_notation", "data/failed_midi.txt", "data/conversion.tsv"], counts=counts,
                     skipped=dict(reasons.most_common()), extra={"off_beat_files": off_beat[:MAX_LISTED]},
                     summary={**counts,
                              "reasons": ", ".join(f"{n} {why}" for why, n in reasons.most_common()) or "none",
                              "files per second": f"{len(todo) / max(seconds, 1e-3):.1f}"})


if __name__ == "__main__":
    run(main)
