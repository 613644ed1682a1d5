"""Judges the readers of scores by music21: the same notes in the same places of the same measures?

    python -m benchmarks.bench_scores FOLDER [--n 200] [--seed 0]

FOLDER holds .mxl, .musicxml, .xml or .krn files. A note counts as right if place, pitch and duration
(tied heads joined) agree to a 48th of a quarter note. A place is a measure and an onset in it; in
kern it is the time from the start, since notes cross bar lines there. Graces, cue notes, notes
without a length (chant), hidden notes of MusicXML and chord symbols are no notes.

In kern the judge itself is judged by the file: a line is one moment, so all parts must end together,
and there must be as many heads as the file has tokens. A score where music21 fails is counted apart
under "music21 wrong", with the reason.
Prints each file below 0.995, F1 of all notes, and how many scores a second our reader takes
(processor time, one core).
"""

import argparse
import random
import re
import time
import warnings
from collections import Counter
from pathlib import Path

from music.abc_mending import decoded
from music.kern import read_kern
from music.musicxml_in import read_musicxml
from music.score import TICKS, ScoreError, score_midi

STEPS = 48  # of a quarter note


def our_notes(score, by_measure):
    """Counter of (measure, onset, pitch, duration) of a Score, in steps; measure 0 for all where
    the time from the start counts."""
    scale, starts = STEPS / TICKS, [0]
    for length in score.lengths:
        starts.append(starts[-1] + length)
    return Counter(
        (
            measure if by_measure else 0,
            round((offset if by_measure else starts[measure] + offset) * scale),
            pitch,
            round(length * scale),
        )
        for notes in score.voices.values()
        for measure, offset, length, pitch in notes
    )


def judge_notes(path, by_measure):
    """(Counter like `our_notes` of music21's reader, why it is wrong or "")."""
    from music21 import converter, stream

    score = converter.parse(path, forceSource=True)
    found, ends, n_heads = [], set(), 0
    for part in score.parts:
        heads = []
        for number, measure in enumerate(part.getElementsByClass(stream.Measure)):
            start = measure.getOffsetBySite(part)
            for note in filter(is_counted, measure.recurse().notes):
                offset = note.getOffsetInHierarchy(measure)
                for member in getattr(note, "notes", [note]):
                    heads.append(
                        [start, number, offset, member.pitch.midi, note.quarterLength, member.tie]
                    )
        ends.add(round(part.highestTime * STEPS))
        n_heads += len(heads)
        found += joined(heads)
    notes = Counter(
        (
            number if by_measure else 0,
            round((offset if by_measure else start + offset) * STEPS),
            pitch,
            round(length * STEPS),
        )
        for start, number, offset, pitch, length in found
    )
    if path.suffix != ".krn":
        return notes, ""
    n_tokens, n_bare = heads_in(decoded(path.read_bytes())[0])
    if n_bare:
        return notes, "notes without a length read as quarters"
    if n_heads != n_tokens:
        return notes, f"{n_heads:,} heads read of {n_tokens:,}"
    return notes, "parts end apart" if len(ends) > 1 else ""


def heads_in(text):
    """(note heads with a length, note heads without) in the kern columns of a text, graces left
    out; counted apart from any reader."""
    n_heads = n_bare = 0
    columns = []
    for line in text.splitlines():
        fields = line.split("\t")
        if fields[0].startswith("**"):
            columns = list(enumerate(fields))
        elif line[:1] == "*":
            kept, before = [], None
            for column, field in zip(columns, fields):
                if field != "*v" or before != (field, column):
                    kept += [column] * (2 if field == "*^" else field != "*-")
                before = field, column
            columns = kept
        elif line[:1] not in ("", "!", "="):
            for (_, kind), field in zip(columns, fields):
                heads = field.split(" ") if kind == "**kern" else []
                for head in heads:
                    if re.search("[a-gA-G]", head) and not re.search("[rq]", head):
                        has_length = re.search(r"\d", head) or re.search(r"\d", heads[0])
                        n_heads, n_bare = n_heads + bool(has_length), n_bare + (not has_length)
    return n_heads, n_bare


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
    """Notes of one part [[start of measure, measure, onset, pitch, length]] from its heads, ties
    joined."""
    notes, held = [], {}
    for start, number, offset, pitch, length, tie in sorted(heads, key=lambda head: head[1:4]):
        kind, at = tie.type if tie else None, start + offset
        earlier = held.get((pitch, round(at * STEPS))) if kind in ("stop", "continue") else None
        if earlier:
            note = earlier.pop()
            note[4] += length
        else:
            note = [start, number, offset, pitch, length]
            notes.append(note)
        if kind in ("start", "continue"):
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
    sums = {True: Counter(), False: Counter()}  # by whether music21 is right
    seconds, unread = 0.0, []
    for path in paths:
        data, began = path.read_bytes(), time.process_time()
        by_measure = path.suffix != ".krn"
        try:
            score = read_musicxml(data) if by_measure else read_kern(decoded(data)[0])
            score_midi(score)
        except ScoreError as error:
            unread.append(f"{path.name}: {error}")
            continue
        seconds += time.process_time() - began
        try:
            judged, reason = judge_notes(path, by_measure)
        except Exception as error:  # of music21
            unread.append(f"{path.name}: music21: {type(error).__name__}: {error}"[:150])
            continue
        ours = our_notes(score, by_measure)
        n_same, n_ours, n_judged = (ours & judged).total(), ours.total(), judged.total()
        f1 = 2 * n_same / max(1, n_ours + n_judged)
        sums[not reason] += Counter(
            scores=1, same=n_same, ours=n_ours, judged=n_judged, below=int(f1 < 0.995)
        )
        if f1 < 0.995 or reason:
            words = f"  music21 wrong: {reason}" if reason else ""
            print(
                f"{f1:.4f}  {n_ours:,} notes, music21 {n_judged:,}  {path.name}{words}", flush=True
            )
    print(*unread, sep="\n")
    for is_right, words in ((True, "judged"), (False, "music21 wrong")):
        row = sums[is_right]
        print(
            f"{words}: {row['scores']} scores, {row['ours']:,} notes, music21 {row['judged']:,}: F1"
            f" {2 * row['same'] / max(1, row['ours'] + row['judged']):.5f};"
            f" {row['below']} scores below 0.995"
        )
    print(f"{len(paths) / seconds:.0f} scores a second")


if __name__ == "__main__":
    main()
