"""Judges the readers of scores by music21: the same notes in the same places of the same measures?

    python -m benchmarks.bench_scores FOLDER [--n 200] [--seed 0]

FOLDER holds .mxl, .musicxml, .xml or .krn files. A note counts as right if place, pitch and duration
(tied heads joined) agree to a 48th of a quarter note. A place is a measure and an onset in it. In
kern notes cross bar lines, which shifts music21's measures: there the time from the start counts
where more notes agree on it. Graces, cue notes, notes without a length (chant), hidden notes of
MusicXML and chord symbols are no notes.
Prints each file below 0.995, F1 of all notes, and how many
scores a second our reader takes (processor time, one core).
"""

import argparse
import random
import time
import warnings
from collections import Counter
from pathlib import Path

from music.kern import read_kern
from music.musicxml_in import read_musicxml
from music.score import TICKS, ScoreError, score_midi

STEPS = 48  # of a quarter note


def our_notes(score, by_measure):
    """Counter of (measure, onset, pitch, duration) of a Score, in steps."""
    scale, at = STEPS / TICKS, 0
    starts = []
    for length in score.lengths:
        starts.append(at)
        at += length
    return Counter(
        place_of(measure, starts[measure] * scale, offset * scale, by_measure)
        + (pitch, round(length * scale))
        for notes in score.voices.values()
        for measure, offset, length, pitch in notes
    )


def place_of(measure, start, offset, by_measure):
    """What a note's place is compared by."""
    return (measure, round(offset)) if by_measure else (0, round(start + offset))


def judge_notes(path):
    """Notes [(time, measure, onset, pitch, duration)] of music21's reader."""
    from music21 import converter, stream

    score = converter.parse(path, forceSource=True)
    found = []
    for part in score.parts:
        heads = []
        for number, measure in enumerate(part.getElementsByClass(stream.Measure)):
            at = measure.getOffsetBySite(part)
            for note in measure.recurse().notes:
                if not is_counted(note):
                    continue
                offset = note.getOffsetInHierarchy(measure)
                for member in getattr(note, "notes", [note]):
                    tie = member.tie or note.tie
                    heads.append(
                        [at + offset, number, offset, member.pitch.midi, note.quarterLength, tie]
                    )
        found += joined(heads)
    return found


def placed(notes, by_measure):
    """Counter like `our_notes` of music21's notes."""
    return Counter(
        place_of(number, (at - offset) * STEPS, offset * STEPS, by_measure)
        + (pitch, round(length * STEPS))
        for at, number, offset, pitch, length in notes
    )


def is_counted(note):
    """False for what is not printed as a note of the music."""
    return (
        not note.duration.isGrace
        and note.quarterLength > 0
        and "ChordSymbol" not in note.classes
        and "Unpitched" not in note.classes
        and "PercussionChord" not in note.classes
        and not (note.hasStyleInformation and note.style.hideObjectOnPrint)
        and not (note.hasStyleInformation and note.style.noteSize == "cue")
    )


def joined(heads):
    """Notes of one part [(time, measure, onset, pitch, duration)] from its heads, ties joined."""
    notes, held = [], {}
    for at, number, offset, pitch, length, tie in sorted(heads, key=lambda head: head[:4]):
        goes_on = tie is not None and tie.type in ("stop", "continue")
        earlier = held.get((pitch, round(at * STEPS))) if goes_on else None
        if earlier:
            note = earlier.pop()
            note[4] += length
        else:
            note = [at, number, offset, pitch, length]
            notes.append(note)
        if tie is not None and tie.type in ("start", "continue"):
            held.setdefault((pitch, round((at + length) * STEPS)), []).append(note)
    return notes


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    kinds = (".mxl", ".musicxml", ".xml", ".krn")
    paths = sorted(path for path in args.folder.rglob("*") if path.suffix in kinds)
    paths = random.Random(args.seed).sample(paths, min(args.n, len(paths)))
    right = ours = theirs = 0
    seconds, unread, worst = 0.0, [], []
    for path in paths:
        data, began = path.read_bytes(), time.process_time()
        try:
            read = read_kern(data.decode()) if path.suffix == ".krn" else read_musicxml(data)
            score_midi(read)
        except ScoreError as error:
            unread.append(f"{path.name}: {error}")
            continue
        seconds += time.process_time() - began
        ways = [True, False] if path.suffix == ".krn" else [True]
        try:
            judged = judge_notes(path)
        except Exception as error:  # of music21
            unread.append(f"{path.name}: music21: {type(error).__name__}: {error}"[:150])
            continue
        pairs = [(our_notes(read, way), placed(judged, way)) for way in ways]
        same, mine, judged = max(
            ((sum((mine & other).values()), mine, other) for mine, other in pairs),
            key=lambda row: row[0],
        )
        right, ours, theirs = right + same, ours + mine.total(), theirs + judged.total()
        f1 = 2 * same / max(1, mine.total() + judged.total())
        if f1 < 0.995:
            worst.append((f1, mine.total(), judged.total(), path.name))
            print(f"{f1:.4f}  {mine.total():,} notes, music21 {judged.total():,}  {path}", flush=True)
    print(*unread, sep="\n")
    n_judged = len(paths) - len(unread)
    print(f"{n_judged} scores, {ours:,} notes, music21 {theirs:,}: F1 {2 * right / (ours + theirs):.5f}")
    print(f"{len(worst)} scores below 0.995; {len(paths) / seconds:.0f} scores a second")


if __name__ == "__main__":
    main()
