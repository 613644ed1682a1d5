"""From played to written time: the grid of every beat, and the onsets and ends of notes on it.

Times are in *units*, of which 1/64 notes and tuplets of 3, 5, 6, 7 and 9 have a whole number.
*onset* and *end* are times as played (floats), *on* and *off* lie on the grid (ints).
"""

import numpy as np

QUARTER = 5040
SIXTEENTH = QUARTER // 4  # the unit note length
THIRTY_SECOND, SIXTY_FOURTH = QUARTER // 8, QUARTER // 16
SMALLEST = THIRTY_SECOND  # bars and changes of meter are multiples of this
BINARY, TERNARY, SEXTUPLET = SIXTEENTH, QUARTER // 3, QUARTER // 6  # steps of a beat's grid

POINT = QUARTER // 24  # of all costs and errors below
# cost (per onset, per beat) of a finer grid: with less, hand-played sixteenths become ragged 32nds
GRID_COST = {THIRTY_SECOND: (1.0, 1.0), SEXTUPLET: (0.8, 1.0)}
TERNARY_ONSET_COST = 0.1  # a beat that fits both grids equally well is binary
# per beat, times the triplet grid's share of the file's error: among straight beats a "triplet" is
# a late sixteenth
TERNARY_COST = 3.0
FAR = 3.0  # an error beyond this (an eighth of a beat) counts threefold
APART = 1.5  # two closer onsets of one pitch are a doubled note
# {step: (least onsets in the beat, cost per onset)}: a beat takes one only if every onset lies on
# it; else five hurried sixteenths would become a quintuplet
RARE_GRIDS = {
    QUARTER // 5: (4, 0.5),
    QUARTER // 7: (5, 0.5),
    QUARTER // 9: (7, 0.5),
    SIXTY_FOURTH: (6, 1.1),
}
RARE_ERROR = 0.3  # of every onset at most; a file of 24 ticks a quarter note has 0.4
RARE_COST = 1.5  # per beat


def beat_grid(bars):
    """Returns the starts of all beats and their end: quarter notes from each bar line on."""
    beats = [np.arange(start, end, QUARTER) for start, end in zip(bars, bars[1:])]
    return np.concatenate([*beats, bars[-1:]])


def quantise(track, pitch, onset, end, beats):
    """Returns (on, off) of notes, each at least one step long, by a grid for each beat of a track.
    Notes of one pitch on one place that were played apart (a trill) make it finer."""
    n_beats = len(beats) - 1
    beat = np.searchsorted(beats, onset + 1e-4, side="right") - 1
    place, length = onset - beats[beat], beats[beat + 1] - beats[beat]
    cell = track * n_beats + beat
    step = choose_grids(cell, place, length, (int(track[-1]) + 1) * n_beats)
    on = beats[beat] + snap(place, step[cell], length)
    order = np.lexsort((onset, pitch, track))
    again = (np.diff(track[order]) == 0) & (np.diff(pitch[order]) == 0)
    again &= np.diff(onset[order]) >= APART * POINT
    for finer in (THIRTY_SECOND, SIXTY_FOURTH):
        doubled = again & (np.diff(on[order]) == 0)
        step[cell[order[:-1]][doubled]] = step[cell[order[1:]][doubled]] = finer
        on = beats[beat] + snap(place, step[cell], length)
    return on, quantised_ends(track, on, end, beats, step)


def choose_grids(cell, place, length, n_cells):
    """Returns the step of least error of every cell (a beat of a track). cell, place, length: of
    every onset, its cell, its place in its beat and the beat's length."""

    def distance(step):
        return np.abs(place - step * np.rint(place / step)) / POINT

    def error_on(step):
        error = distance(step)
        # three do not divide every short last beat
        unfit = (length % (3 * step) != 0) & (step in (TERNARY, SEXTUPLET))
        return error + 2 * np.maximum(error - FAR, 0) + np.where(unfit, 1e6, 0)

    def choose(step, errors, per_beat, allowed=True):
        total = np.bincount(cell, errors, n_cells) + per_beat
        better = allowed & (total < least - 1e-9)
        least[better], chosen[better] = total[better], step

    binary, ternary = error_on(BINARY), error_on(TERNARY)
    least, chosen = np.bincount(cell, binary, n_cells), np.full(n_cells, BINARY)
    swing = np.minimum(ternary, 24).sum()
    swing_share = swing / (binary.sum() + swing + 1e-9)
    choose(TERNARY, ternary + TERNARY_ONSET_COST, TERNARY_COST * swing_share)
    for step, (per_onset, per_beat) in GRID_COST.items():
        choose(step, error_on(step) + per_onset, per_beat)
    for step, (n_least, per_onset) in RARE_GRIDS.items():
        error, places = distance(step), np.rint(place / step).astype(np.int64)
        off_grid = np.bincount(cell, (error > RARE_ERROR) | (length != QUARTER), n_cells)
        n_places = np.bincount(distinct(cell * 64 + places) // 64, minlength=n_cells)
        choose(step, error + per_onset, RARE_COST, (off_grid == 0) & (n_places >= n_least))
    return chosen


def quantised_ends(track, on, end, beats, step):
    """Returns ends on the grid of their beat. step: of every cell."""
    n_beats = len(beats) - 1

    def beat_and_step(at):
        beat = np.minimum(np.searchsorted(beats, at, side="right") - 1, n_beats - 1)
        return beat, step[track * n_beats + beat]

    end = unify_ends(track, on, end)
    beat, own = beat_and_step(end)
    place = end - beats[beat] + own * 1e-6  # half a step is rounded up
    off = beats[beat] + snap(place, own, beats[beat + 1] - beats[beat])
    beat, own = beat_and_step(on)
    return np.where(off <= on, np.minimum(on + own, beats[beat + 1]), off)


def unify_ends(track, on, end):
    """Returns ends; a chord's become one if near, else they would be written as a row of ties."""
    first, sizes = runs(on, track)
    mean = np.repeat(np.add.reduceat(end, first) / sizes, sizes)
    near = np.logical_and.reduceat(np.abs(end - mean) <= SIXTEENTH, first)
    return np.where(np.repeat(near, sizes), mean, end)


def snap(place, step, length):
    """Returns the nearest multiples of step to places in a beat, at most the beat's end."""
    return np.minimum(np.rint(place / step).astype(np.int64) * step, length)


def differs(*columns):
    """Returns whether any column differs from the element before: True at the first."""
    changed = np.ones(len(columns[0]), bool)
    changed[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return changed


def runs(*columns):
    """Returns (first indices, lengths) of the runs of equal elements, as arrays."""
    first = np.flatnonzero(differs(*columns))
    return first, np.diff(np.append(first, len(columns[0])))


def distinct(*times):
    """Returns the sorted distinct values of int arrays, several times as fast as np.unique."""
    values = np.sort(np.concatenate(times))
    return values[differs(values)]
