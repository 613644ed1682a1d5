"""A printed score, filled by the readers of MusicXML and kern, and its MIDI.

Times are ticks from the start of a measure: a voice of a wrong length disturbs one measure.
"""

import math
from collections import defaultdict, deque

import numpy as np
import symusic

from music.theory import TEMPOS, bar_length, meter_of_length

TICKS = 10080  # per quarter note: tuplets of 3, 5, 7 and 9 are exact
SNAP = TICKS // 24  # a measure that misses its meter by less was rounded
SHORTEST_BAR = TICKS // 2
BAR_STEP = TICKS // 8  # an odd bar is a multiple of this
MAX_MEASURES = 20_000  # the longest opera act has a tenth of this
MAX_QUARTERS = 100_000  # of a whole score
DEFAULT_TEMPO = 100  # quarter notes a minute
MAX_HELD = 32  # measures that a note may last, and open ties of one pitch
VELOCITY = 90


class ScoreError(ValueError):
    """Why a score cannot be read."""


class Score:
    """A printed score. A place is (measure, offset)."""

    def __init__(self):
        self.title = self.composer = self.work = self.rights = ""  # work: this is a part of it
        self.lengths = []  # of the measures, of each its longest voice's
        self.meters = {}  # {measure: (beats, beat type), or None for free time}
        self.keys = {}  # {place: (sharps, minor)}
        self.tempos = {}  # {place: quarter notes a minute}
        self.voices = {}  # {(part, voice): [[measure, offset, length, pitch]]}
        self.names = {}  # {part: name}
        self.drums = []  # places of strokes without a pitch
        # of ties, {(part, pitch): [[note, voice, place where it ends so far]]}
        self._open = defaultdict(lambda: deque(maxlen=MAX_HELD))

    def reach(self, measure, offset):
        """Makes a measure at least `offset` ticks long."""
        if measure >= MAX_MEASURES:
            raise ScoreError(f"more than {MAX_MEASURES:,} measures")
        self.lengths += [0] * (measure + 1 - len(self.lengths))
        self.lengths[measure] = max(self.lengths[measure], offset)

    def add_tempo(self, place, tempo):
        if TEMPOS[0] <= tempo <= TEMPOS[1]:
            self.tempos.setdefault(place, tempo)

    def add_note(self, part, voice, place, length, pitch, tie):
        """Adds a note, or makes the one it is tied to longer. tie: "[" (goes on), "_" (both), "]"
        (ends) or ""."""
        if not 0 <= pitch <= 127:
            return
        held = self._tied_from(part, voice, place, pitch) if tie in ("_", "]") else None
        if held is None:
            held = [[*place, 0, pitch], voice, None]
            self.voices.setdefault((part, voice), []).append(held[0])
            if tie in ("[", "_"):
                self._open[part, pitch].append(held)
        elif tie == "]":
            self._open[part, pitch].remove(held)
        held[0][2] += length
        held[2] = place[0], place[1] + length

    def _tied_from(self, part, voice, place, pitch):
        """Returns the open tie that a note continues, of its own voice if possible, or None."""
        found = None
        for held in self._open[part, pitch]:
            measure, end = held[2]
            gap = sum(self.lengths[measure : min(place[0], measure + MAX_HELD)]) + place[1] - end
            is_next = abs(gap) <= SNAP or place == (measure + 1, 0)
            if is_next and (found is None or held[1] == voice):
                found = held
        return found


def place_bars(lengths, meters):
    """Returns (start of each measure, [(tick, beats, beat type)]). Measures that fill a bar
    together (around a repeat) are one; another odd one gets a meter of its own."""
    starts, signatures, at, meter, i = [], [], 0, (4, 4), 0

    def sign(tick, meter):
        if not signatures or signatures[-1][1:] != meter:
            signatures.append((tick, *meter))

    lengths = list(lengths)
    while i < len(lengths):
        meter = meters.get(i, meter)
        whole = bar_length(meter, TICKS) if meter else 0
        if whole and abs(lengths[i] - whole) <= SNAP:
            lengths[i] = whole
        n = _measures_of_a_bar(lengths, meters, i, whole)
        is_last = i + 1 == len(lengths)
        if n > 1 or 0 < lengths[i] == whole or is_last and 0 < lengths[i] < whole:
            sign(at, meter)
        elif lengths[i]:
            lengths[i] = max(SHORTEST_BAR, math.ceil(lengths[i] / BAR_STEP) * BAR_STEP)
            usual, start, end = meter or (4, 4), at, at + lengths[i]
            while end - start > 8 * TICKS:  # longer than any usual bar: several
                sign(start, usual)
                start += bar_length(usual, TICKS)
            if start < end:
                sign(start, meter_of_length(end - start, TICKS))
        for length in lengths[i : i + n]:
            starts.append(at)
            at += length
        i += n
    if at > MAX_QUARTERS * TICKS:
        raise ScoreError(f"{at // TICKS:,} quarter notes long")
    return starts, signatures


def _measures_of_a_bar(lengths, meters, first, whole):
    """Returns how many measures from `first` on fill one bar together, else 1."""
    total = lengths[first]
    for i in range(first + 1, min(first + 4, len(lengths))):
        if total >= whole or i in meters or not lengths[i]:
            break
        total += lengths[i]
        if total == whole:
            return i - first + 1
    return 1


def score_midi(score):
    """Returns MIDI bytes of a Score, a track a voice; ScoreError if it has no notes."""
    if not score.voices:
        raise ScoreError(f"{len(score.drums)} drum notes only" if score.drums else "no notes")
    starts, signatures = place_bars(score.lengths, score.meters)
    starts = np.array(starts)

    def tick(place):
        return int(starts[place[0]]) + place[1]

    midi = symusic.Score(TICKS)
    midi.time_signatures = [symusic.TimeSignature(*signature) for signature in signatures]
    for place, (sharps, minor) in sorted(score.keys.items()):
        midi.key_signatures.append(symusic.KeySignature(tick(place), sharps, int(minor)))
    for place, tempo in sorted(score.tempos.items()) or [((0, 0), DEFAULT_TEMPO)]:
        midi.tempos.append(symusic.Tempo(tick(place), tempo))
    for (part, _), notes in score.voices.items():
        measure, onset, length, pitch = np.array(notes).T
        onset = onset + starts[measure]
        order = np.lexsort((pitch, onset))
        columns = onset, np.maximum(length, 1), pitch, np.full(len(pitch), VELOCITY)
        track = symusic.Track(score.names.get(part, ""), 0, False)
        track.notes = symusic.Note.from_numpy(*(column[order] for column in columns))
        midi.tracks.append(track)
    if score.drums:
        track = symusic.Track("drums", 0, True)
        for place in score.drums:
            track.notes.append(symusic.Note(tick(place), TICKS // 4, 38, VELOCITY))
        midi.tracks.append(track)
    return midi.dumps_midi()
