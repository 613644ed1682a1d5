"""Stage 02: every MIDI file below data/raw_midi becomes one ABC tune that a language model can read.

Reads:  data/raw_midi/**/*.mid (stage 01)
Writes: data/abc_notation/<same relative path>.abc   one tune each, voices interleaved by short groups of bars
        data/failed_midi.txt       path, reason, detail of every file that gave no ABC (tab-separated)
        data/conversion.tsv        one row per converted file: voices, notes, what was left out, quantisation error
Run:    python 02_midi_to_abc.py [--workers N] [--max-voices N] [--timeout SECONDS] [--only GLOB]
Prints last: files, converted, failed, voices, notes, drum notes dropped, quantisation error, files per second.
"""

import fnmatch
import json
import multiprocessing
import os
import re
import resource
import signal
import time
from collections import Counter, deque
from contextlib import suppress
from multiprocessing import connection
from pathlib import Path

import numpy as np
import symusic

from stage import Stage, fail, input_problems, load_manifest, progress, run, stage_parser, tree_files, write_text

SUFFIXES = (".mid", ".midi", ".kar")
TIMEOUT = 20  # seconds for one file; the slowest real one seen needs under one
MIDI_BYTES = 16 << 20  # the largest real song files are a twentieth of this; beyond it is not a song
ABC_CHARS = 4_000_000  # the longest real song gives a tenth of this
MEMORY_BYTES = 2 << 30  # what one worker may allocate before a file counts as too large
BATCH = 16  # files handed to a worker at once, so that it need not wait for the next
MAX_FAILED_SHARE = 0.5  # of at least 10 files: beyond this the input is not what the user believes

QUARTER = 24  # units in a quarter note: holds 1/32 (3 units), triplets (8) and sextuplets (4) exactly
SIXTEENTH = QUARTER // 4  # the unit note length L:1/16
MAX_BARS = 4000  # four hours at a slow tempo; longer files are endless loops or broken time stamps
DEFAULT_VOICES = 4  # see the docstring
MAX_VOICES = 15  # a MIDI file has 16 channels and one is drums


class ConversionError(Exception):
    """A file that gives no ABC; args: stable reason code, detail."""


# ---------------------------------------------------------------- reading

def read_midi(data):
    """symusic.Score of MIDI bytes."""
    try:
        return symusic.Score.from_midi(data, sanitize_data=True)
    except Exception as error:
        raise ConversionError("unreadable", str(error)) from None


def read_tracks(score):
    """[(pitches, onsets, ends)] of the pitched tracks in units (float), sorted by onset; and the drum notes' number."""
    tracks, n_drums = [], 0
    scale = QUARTER / score.tpq
    for track in score.tracks:
        if track.is_drum:
            n_drums += len(track.notes)
            continue
        if not len(track.notes):
            continue
        a = track.notes.numpy()
        onset = a["time"] * scale
        tracks.append((a["pitch"].astype(np.int64), onset, onset + np.maximum(a["duration"], 0) * scale))
    return tracks, n_drums


# ---------------------------------------------------------------- bars

def bar_grid(score, end):
    """Starts of bars in units (int array, one more than bars) and [(first bar, numerator, denominator)]."""
    changes = []
    for s in sorted(score.time_signatures, key=lambda s: s.time):
        n, d = s.numerator, s.denominator
        length = n * 4 * QUARTER / d if d else 0
        if length != int(length) or length % SIXTEENTH or not 2 * SIXTEENTH <= length <= 16 * QUARTER:
            continue
        at = int(round(s.time * 4 / score.tpq)) * SIXTEENTH
        if changes and changes[-1][0] == at:
            changes.pop()
        changes.append((at, n, d))
    if not changes or changes[0][0] > 0:
        changes.insert(0, (0, 4, 4))
    starts, meters, position = [], [], 0
    for i, (at, n, d) in enumerate(changes):
        if position > end and position:
            break
        until = changes[i + 1][0] if i + 1 < len(changes) else None
        length = n * 4 * QUARTER // d
        stop = max(end, at + 1) if until is None else until
        if not meters or meters[-1][1:] != (n, d):
            meters.append((len(starts), n, d))
        while position + length <= stop or (until is None and position < stop):
            starts.append(position)
            position += length
        if until is not None and position < until:  # a change inside a bar: the bar before it is cut short
            rest = (until - position) // SIXTEENTH
            d = 16
            while rest % 2 == 0 and d > 4:
                rest, d = rest // 2, d // 2
            if meters[-1][0] == len(starts):
                meters.pop()
            meters.append((len(starts), rest, d))
            starts.append(position)
            position = until
    starts.append(position)
    return np.array(starts), meters


# ---------------------------------------------------------------- quantisation

GRIDS = ((6, 0.0), (8, 0.35), (3, 0.5), (4, 0.7))  # step in units, penalty per onset in units


def quantise(track, span_starts):
    """Onsets and ends on the grid (int arrays), and the step chosen for every span (0: binary)."""
    pitch, onset, end = track
    span = np.searchsorted(span_starts, onset + 1e-6, side="right") - 1
    length = span_starts[span + 1] - span_starts[span]
    place = onset - span_starts[span]
    n_spans = len(span_starts) - 1
    best, choice = np.full(n_spans, np.inf), np.full(n_spans, 6)
    for step, penalty in GRIDS:
        error = np.abs(place - step * np.rint(place / step)) + penalty
        if step in (8, 4):
            error = error + np.where(length % (3 * step) == 0, 0, 1e6)
        total = np.bincount(span, error, n_spans)
        better = total < best - 1e-9
        best[better], choice[better] = total[better], step
    step = choice[span]
    on = span_starts[span] + np.minimum((step * np.rint(place / step)).astype(int), length)
    span_end = np.minimum(np.searchsorted(span_starts, end, side="right") - 1, n_spans - 1)
    step = choice[span_end]
    place = end - span_starts[span_end]
    off = span_starts[span_end] + np.minimum((step * np.rint(place / step)).astype(int),
                                             span_starts[span_end + 1] - span_starts[span_end])
    span_on = np.minimum(np.searchsorted(span_starts, on, side="right") - 1, n_spans - 1)
    off = np.where(off <= on, on + choice[span_on], off)
    return pitch, on, off, choice


# ---------------------------------------------------------------- voices

def streams_of(pitch, on, off, most):
    """Splits one track into at most `most` voices of chords; [[on, off, (pitches)]] each without overlap."""
    groups = {}
    for p, a, b in sorted(zip(pitch.tolist(), on.tolist(), off.tolist()), key=lambda x: (x[1], -x[0])):
        groups.setdefault(a, {}).setdefault(p, b)
    voices = [[] for _ in range(most)]
    for a, notes in groups.items():
        by_end = {}
        for p, b in notes.items():
            by_end.setdefault(b, []).append(p)
        parts = [[b, ps] for b, ps in by_end.items()]
        free = [v for v in voices if not v or v[-1][1] <= a]
        if not free:
            voices[0][-1][1] = a
            free = [voices[0]]
        while len(parts) > len(free):
            b, ps = parts.pop()
            parts[-1][1] += ps
        for voice, (b, ps) in zip(free, parts):
            voice.append([a, b, tuple(sorted(ps))])
    return [v for v in voices if v]


# ---------------------------------------------------------------- key

SHARP_ORDER, FLAT_ORDER = "FCGDAEB", "BEADGCF"
MAJOR_NAMES = {-7: "Cb", -6: "Gb", -5: "Db", -4: "Ab", -3: "Eb", -2: "Bb", -1: "F", 0: "C", 1: "G", 2: "D", 3: "A",
               4: "E", 5: "B", 6: "F#", 7: "C#"}
MINOR_NAMES = {-7: "Abm", -6: "Ebm", -5: "Bbm", -4: "Fm", -3: "Cm", -2: "Gm", -1: "Dm", 0: "Am", 1: "Em", 2: "Bm",
               3: "F#m", 4: "C#m", 5: "G#m", 6: "D#m", 7: "A#m"}
LETTER_PC = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
ACCIDENTALS = {-1: "_", 0: "=", 1: "^"}


def spelling(signature):
    """({letter: alteration of the key}, [(letter, alteration, octave shift)] for the 12 pitch classes)."""
    key = dict.fromkeys("CDEFGAB", 0)
    for letter in (SHARP_ORDER[:signature] if signature > 0 else FLAT_ORDER[:-signature]):
        key[letter] = 1 if signature > 0 else -1
    table = [None] * 12
    for letter, alteration in key.items():
        pc = LETTER_PC[letter] + alteration
        table[pc % 12] = (letter, alteration, -(pc // 12))
    for pc in range(12):
        if table[pc] is None:
            for alteration in (0, 1, -1) if signature >= 0 else (0, -1, 1):
                letter = next((c for c in LETTER_PC if LETTER_PC[c] == (pc - alteration) % 12), None)
                if letter:
                    table[pc] = (letter, alteration, -((LETTER_PC[letter] + alteration) // 12))
                    break
    return key, table


def letter_text(letter, octave):
    """ABC letter with octave marks; octave 5 is middle C's (MIDI 60 = C)."""
    if octave >= 6:
        return letter.lower() + "'" * (octave - 6)
    return letter + "," * (5 - octave)


def note_table(table):
    """[(letter, alteration, text)] for the 128 pitches."""
    out = []
    for p in range(128):
        letter, alteration, shift = table[p % 12]
        out.append((letter, alteration, letter_text(letter, p // 12 + shift)))
    return out


def choose_key(score, histogram):
    """Number of sharps (negative: flats) and ABC name."""
    masks = {}
    for sig in range(-5, 7):
        masks[sig] = sum(histogram[(pc + 7 * sig) % 12] for pc in (0, 2, 4, 5, 7, 9, 11))
    best = max(masks, key=lambda s: (masks[s], -abs(s)))
    sigs = score.key_signatures
    minor = None
    if len(sigs) and -7 <= sigs[0].key <= 7:
        given = sigs[0].key
        fit = sum(histogram[(pc + 7 * given) % 12] for pc in (0, 2, 4, 5, 7, 9, 11))
        if fit >= masks[best] - 0.02 * histogram.sum():
            best, minor = given, bool(sigs[0].tonality)
    if minor is None:
        tonic = 7 * best % 12
        minor = histogram[(tonic + 9) % 12] + histogram[(tonic + 4) % 12] > histogram[tonic] + histogram[(tonic + 7) % 12]
    return best, (MINOR_NAMES if minor else MAJOR_NAMES)[best]


# ---------------------------------------------------------------- writing

def length_text(units):
    """Length in sixteenths as ABC writes it: 6 units -> '', 12 -> '2', 3 -> '/', 9 -> '3/2'."""
    n, rest = divmod(units, SIXTEENTH)
    if rest == 0:
        return "" if n == 1 else str(n)
    assert rest == 3, units
    n = units // 3
    return "/" if n == 1 else f"{n}/"


LENGTHS = {units: length_text(units) for units in range(3, 40 * QUARTER, 3)}


def tuplets_of(on, off, spans, choice):
    """(starts, lengths) of the stretches of one voice that need tuplets: half or whole beats with boundaries off the
    binary grid."""
    edges = np.unique(np.concatenate([on, off]))
    span = np.minimum(np.searchsorted(spans, edges, side="right"), len(spans) - 1) - 1
    place = edges - spans[span]
    off_grid = np.flatnonzero((place % 3 != 0) & (choice[span] % 4 == 0))
    beats = np.unique(span[off_grid])
    if not len(beats):
        return beats, beats
    starts, lengths = spans[beats], spans[beats + 1] - spans[beats]
    half = QUARTER // 2
    halved = (lengths == QUARTER) & np.isin(starts + half, edges)
    first = np.unique(np.concatenate([starts[~halved], edges[off_grid] - place[off_grid] % half]))
    keep = np.isin(first, np.concatenate([starts, starts[halved] + half]))
    first = first[keep]
    whole = np.isin(first, starts[~halved])
    at = np.searchsorted(starts, first, side="right") - 1
    inside = ~whole & ~halved[at]
    first, whole, at = first[~inside], whole[~inside], at[~inside]
    return first, np.where(whole, lengths[at], half)


def write_voice(stream, bars, tuplets, notes, key):
    """Text of every bar of one voice, e.g. ['D4G4B4d4', 'Z', ...]; Z is a silent bar.

    stream: (onsets, ends, [pitches]) without overlap; bars: starts, one more than bars.
    """
    on, off, chords = stream
    first, lengths = tuplets
    cuts = np.unique(np.concatenate([bars, on, off, first, first + lengths]))
    start, stop = cuts[:-1], cuts[1:]
    event = np.searchsorted(on, start, side="right") - 1
    sounding = (event >= 0) & (off[event] > start)
    tie = sounding & (off[event] > stop)
    bar = np.searchsorted(bars, start, side="right") - 1
    length = stop - start
    prefix = [""] * len(start)
    if len(first):
        group = np.searchsorted(first, start, side="right") - 1
        inside = (group >= 0) & (start < first[group] + lengths[group])
        counts = np.bincount(group[inside], minlength=len(first))
        begins = np.searchsorted(start, first)
        for i, n in zip(begins.tolist(), counts.tolist()):
            prefix[i] = "(3" if n == 3 else f"(3::{n}"
        length = np.where(inside, length // 4 * SIXTEENTH, length)
    silent = ~sounding & (start == bars[bar]) & (stop == bars[bar + 1])
    texts = [[] for _ in range(len(bars) - 1)]
    current, state, out = -1, None, None
    for b, e, sounds, quiet, tied, units, before in zip(bar.tolist(), event.tolist(), sounding.tolist(),
                                                        silent.tolist(), tie.tolist(), length.tolist(), prefix):
        if b != current:
            current, state, out = b, key.copy(), texts[b]
        if not sounds:
            out.append("Z" if quiet else before + "z" + LENGTHS[units])
            continue
        chord = chords[e]
        body = ""
        for p in chord:
            letter, alteration, text = notes[p]
            if state[letter] != alteration or not p:  # abc2midi needs the sign on MIDI pitch 0
                state[letter] = alteration
                text = ACCIDENTALS[alteration] + text
            body += text
        if len(chord) > 1:
            body = "[" + body + "]"
        out.append(before + body + LENGTHS[units] + ("-" if tied else ""))
    return ["".join(out) for out in texts]


def merge_disjoint(streams, bars):
    """Joins voices that never sound in the same bar, first fit, in order."""
    out, masks = [], []
    for on, off, chords in streams:
        delta = np.zeros(len(bars), int)
        np.add.at(delta, np.searchsorted(bars, on, side="right") - 1, 1)
        np.add.at(delta, np.searchsorted(bars, off, side="left"), -1)
        mask = np.cumsum(delta)[:-1] > 0
        for i, other in enumerate(masks):
            if not (mask & other).any():
                masks[i] = mask | other
                out[i].append((on, off, chords))
                break
        else:
            masks.append(mask)
            out.append([(on, off, chords)])
    joined = []
    for parts in out:
        if len(parts) == 1:
            joined.append(parts[0])
            continue
        on = np.concatenate([p[0] for p in parts])
        order = np.argsort(on, kind="stable")
        chords = [c for p in parts for c in p[2]]
        joined.append((on[order], np.concatenate([p[1] for p in parts])[order], [chords[i] for i in order]))
    return joined


GROUP_BARS = (4, 3, 2, 1)  # bars of a voice that stand together
LINE_CHARS = 240  # a line of all voices should fill at most half of the model's 512-character window


def layout(voices, meters, tempos, n_bars):
    """Music lines: voices interleaved by groups of bars."""
    breaks = sorted({first for first, *_ in meters} | {0, n_bars})
    total = sum(len(text) + 1 for voice in voices for text in voice)
    group = next((g for g in GROUP_BARS if total / n_bars * g + 5 * len(voices) <= LINE_CHARS), 1)
    inline = {first: f"[M:{n}/{d}]" for first, n, d in meters[1:]}
    lines = []
    for begin, end in zip(breaks, breaks[1:]):
        for first in range(begin, end, group):
            last = min(first + group, end)
            line = []
            for v, voice in enumerate(voices):
                head = f"[V:{v + 1}]" if len(voices) > 1 else ""
                head += inline.get(first, "")
                texts = voice[first:last]
                if v == 0:
                    texts = [tempos.get(first + i, "") + text for i, text in enumerate(texts)]
                out, silent = [], 0
                for text in texts + [""]:
                    if text == "Z":
                        silent += 1
                        continue
                    if silent:
                        out.append(f"Z{silent}|" if silent > 1 else "Z|")
                        silent = 0
                    if text:
                        out.append(text + "|")
                line.append(head + "".join(out))
            lines.append("".join(line))
    return lines


def title_of(name):
    """A file's name as one harmless line for T:."""
    text = re.sub(r"[^\w '(),.!&-]+", " ", name.encode("utf-8", "replace").decode("utf-8", "replace")).strip()
    return re.sub(r"\s+", " ", text)[:80] or "Untitled"


def tempo_marks(score, bars):
    """Quarter notes a minute at the start, and {bar: '[Q:1/4=90]'} where it changes by more than a tenth."""
    marks = sorted((t.time * QUARTER / score.tpq, t.qpm) for t in score.tempos)
    marks = [(t, q) for t, q in marks if np.isfinite(q) and 10 <= q <= 1000] or [(0, 120)]
    times = np.array([t for t, _ in marks])
    at = np.maximum(np.searchsorted(times, bars[:-1] + SIXTEENTH / 2, side="right") - 1, 0)
    first = current = round(marks[at[0]][1])
    changes = {}
    for b in np.flatnonzero(np.diff(at)) + 1:
        qpm = round(marks[at[b]][1])
        if abs(qpm - current) > current / 10:
            changes[int(b)], current = f"[Q:1/4={qpm}]", qpm
    return first, changes


def convert(data, name="", max_voices=MAX_VOICES):
    """MIDI bytes to (ABC text, {what was counted}); ConversionError says why not."""
    score = read_midi(data)
    if score.tpq <= 0:
        raise ConversionError("time_division", f"{score.tpq} ticks per quarter")
    tracks, n_drums = read_tracks(score)
    if not tracks:
        raise ConversionError("no_notes", f"{n_drums} drum notes")
    end = max(float(t[2].max()) for t in tracks)
    if end > MAX_BARS * 4 * QUARTER:
        raise ConversionError("too_long", f"{end / QUARTER:.0f} quarter notes")
    bars, meters = bar_grid(score, end)
    spans = np.unique(np.concatenate([np.arange(a, b, QUARTER) for a, b in zip(bars, bars[1:])] + [bars[-1:]]))
    histogram, streams = np.zeros(12), []
    for track in tracks:
        pitch, on, off, choice = quantise(track, spans)
        histogram += np.bincount(pitch % 12, minlength=12)
        most = max(1, min(4, max_voices // len(tracks)))
        for voice in streams_of(pitch, on, off, most):
            a, b, chords = zip(*voice)
            streams.append((np.array(a), np.array(b), list(chords), choice))
    n_notes = sum(len(t[0]) for t in tracks)
    tuplets = []
    streams = sorted(streams, key=lambda s: -sum(map(sum, s[2])) / sum(map(len, s[2])))
    if len(streams) > max_voices:
        by_size = sorted(range(1, len(streams) - 1), key=lambda i: -sum(map(len, streams[i][2])))
        keep = sorted([0, len(streams) - 1][:max_voices] + by_size[:max(0, max_voices - 2)])
        streams = [streams[i] for i in keep]
    last = max(int(s[1].max()) for s in streams)
    bars = bars[:max(2, int(np.searchsorted(bars, last, side="left")) + 1)]
    meters = [m for m in meters if m[0] < len(bars) - 1]
    for s in streams:
        s[1][:] = np.minimum(s[1], bars[-1])
    signature, key_name = choose_key(score, histogram)
    key, table = spelling(signature)
    notes = note_table(table)
    voices = [write_voice(s[:3], bars, tuplets_of(s[0], s[1], spans, s[3]), notes, key) for s in streams]
    qpm, tempos = tempo_marks(score, bars)
    head = [f"X:1", f"T:{title_of(name)}", f"M:{meters[0][1]}/{meters[0][2]}", "L:1/16", f"Q:1/4={qpm}",
            f"K:{key_name}"]
    text = "\n".join(head + layout(voices, meters, tempos, len(bars) - 1)) + "\n"
    return text, {"notes": n_notes, "drums": n_drums, "voices": len(voices)}


# ---------------------------------------------------------------- files

def convert_file(source, target, max_voices):
    """Converts one file; returns its row: {"chars", "notes", ...} or {"reason", "detail"}."""
    try:
        with open(source, "rb") as file:
            data = file.read(MIDI_BYTES + 1)
        if len(data) > MIDI_BYTES:
            raise ConversionError("too_large", f"more than {MIDI_BYTES:,} bytes")
        text, row = convert(data, Path(source).stem, max_voices)
        if len(text) > ABC_CHARS:
            raise ConversionError("too_large", f"{len(text):,} characters of ABC")
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


def work(pipe, raw, target, max_voices, timeout):
    """A worker: takes batches of (MIDI name, ABC name) from the pipe and answers with one row a file."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))

    def too_slow(*_):
        raise ConversionError("timeout", f"more than {timeout:g} seconds")
    signal.signal(signal.SIGALRM, too_slow)
    with suppress(EOFError, BrokenPipeError):
        while batch := pipe.recv():
            for midi, abc in batch:
                try:
                    signal.setitimer(signal.ITIMER_REAL, timeout)
                    row = convert_file(f"{raw}/{midi}", f"{target}/{abc}", max_voices)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except ConversionError as error:
                    row = {"reason": error.args[0], "detail": error.args[1]}
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
                    except (EOFError, ConnectionResetError):
                        died = True
                        process.join()
                        row = {"reason": "crash", "detail": f"the worker ended with code {process.exitcode}"}
                elif time.monotonic() - since > 2 * timeout + 30:
                    died = True
                    process.kill()
                    process.join()
                    row = {"reason": "timeout", "detail": f"more than {timeout:g} seconds"}
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
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # the torn last line of a killed run
                midi, abc, row = json.loads(line)
                if "reason" in row or (target / abc).exists():
                    rows[midi] = row
    return rows


# ---------------------------------------------------------------- the stage

TABLE = ("chars", "notes", "voices", "drums")


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
    parser.add_argument("--workers", type=int, metavar="N", default=len(os.sched_getaffinity(0)),
                        help="processes (default: all cores, here %(default)s); changes nothing but the time")
    parser.add_argument("--max-voices", type=int, metavar="N", default=DEFAULT_VOICES, choices=range(1, 16),
                        help="voices kept a tune, 1-15 (default: %(default)s)")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", default=TIMEOUT,
                        help="time for one file (default: %(default)s)")
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
        fail("02_midi_to_abc.py", "data/raw_midi holds no MIDI file", f"run: python 01_download.py{stage.flags} --force")
    with stage.writing():
        rows = read_journal(journal, target) if stage.resuming or args.only else {}
        rows = {midi: row for midi, row in rows.items() if not (args.only and fnmatch.fnmatchcase(midi, args.only))}
        todo = [task for task in tasks if task[0] not in rows]
        target.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with open(journal, "a" if rows else "w", encoding="utf-8") as log:
            done = convert_all(todo, args.workers, (str(raw), str(target), args.max_voices), args.timeout)
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
        total = {key: sum(row[key] for row in good) for key in TABLE}
        counts = {"files": len(tasks), "converted": len(good), "failed": failed, **total}
        stage.finish(["data/abc_notation", "data/failed_midi.txt", "data/conversion.tsv"], counts=counts,
                     skipped=dict(reasons.most_common()),
                     summary={**counts, "files per second": f"{len(todo) / max(seconds, 1e-3):.1f}"})


if __name__ == "__main__":
    run(main)
