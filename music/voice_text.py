"""One voice as ABC text: note heads and rests, tuplets, ties and accidentals, bar by bar.

    bars = voice_text(voice, bars, beats, meters, keys)    # ['D4G4B4d4', 'Z', ...]

Times are in units of the grid (`music/quantise.py`), QUARTER to the quarter note.
"""

from fractions import Fraction
from functools import cache
from typing import NamedTuple

import numpy as np

from music.quantise import QUARTER, SIXTEENTH, SIXTY_FOURTH, SMALLEST, differs, distinct
from music.theory import LETTERS, bar_length, key_alterations, spell

LONGEST_BAR = 16 * QUARTER  # units; longer "bars" (255/1) are errors in the file

# ---------------------------------------------------------------- pitches and lengths


class PitchText(NamedTuple):
    """How one MIDI pitch is written in a key: letter as its number in LETTERS, alteration in
    semitones, text without and with its accidental."""

    letter: int
    alteration: int
    bare: str
    marked: str


@cache
def pitch_texts(sharps):
    """Returns the PitchText of each of the 128 MIDI pitches in a key.

    >>> pitch_texts(-3)[63].bare, pitch_texts(-3)[61].marked, pitch_texts(2)[61].bare
    ('E', '_D', 'C')
    """
    table = []
    for pitch in range(128):
        letter, alteration, octave = spell(pitch, sharps)
        # C is middle C
        bare = letter.lower() + "'" * (octave - 5) if octave >= 5 else letter + "," * (4 - octave)
        marked = "_=^"[alteration + 1] + bare
        table.append(PitchText(LETTERS.index(letter), alteration, bare, marked))
    return table


def length_text(units):
    """Returns a length as ABC writes it over L:1/16: a sixteenth '', an eighth '2'.

    >>> [length_text(n * QUARTER // 16) for n in (4, 8, 2, 6, 1, 3)]
    ['', '2', '/', '3/', '/4', '3/4']
    """
    count, parts = Fraction(units, SIXTEENTH).as_integer_ratio()
    below = {1: "", 2: "/"}.get(parts, f"/{parts}")
    return below if count == 1 else f"{count}{below}"


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
    """Returns the Tuplets of one voice: beats, or halves of beats, with events off the binary
    grid."""
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
    """Returns the length of the first of the two heads that a length no single head has is written
    with; all in 1/32 (or all in 1/64), place from the bar line. They meet on a pulse of a compound
    meter, else on the strongest beat there is.

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
    """Returns what the heads of a tied length should meet on, in 1/32, for every bar: the dotted
    beat of a compound meter (6/8: 12), else 1, as simple meters go by powers of two."""
    pulses = np.ones(n_bars, int)
    for bar, (n, d) in meters:
        pulses[bar:] = 3 * 32 // d if n % 3 == 0 and n > 3 else 1
    return pulses


# ---------------------------------------------------------------- heads


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
    """Returns the text of every bar of one voice, e.g. ['D4G4B4d4', 'Z', ...]; Z is a silent
    bar."""
    tuplets = tuplets_of(voice.on, voice.off, beats)
    has_pickup = bars[1] != bar_length(meters[0][1], QUARTER)
    heads = cut_voice(voice, bars, tuplets, has_pickup)
    heads = cut_lengths(heads, bars, pulses_of(meters, len(bars) - 1), tuplets)
    return bar_texts(voice, heads, tuplet_prefixes(heads, tuplets), keys, len(bars) - 1)


def cut_voice(voice, bars, tuplets, has_pickup):
    """Returns the Heads of a voice: cut at every bar line, event and edge of a tuplet; silent bars
    left out, but not a pickup, which Z would make as long as its meter."""
    on, off, first, size = voice.on, voice.off, tuplets.first, tuplets.size
    cuts = distinct(bars, on, off, first, first + size)
    start, stop = cuts[:-1], cuts[1:]
    event = np.searchsorted(on, start, side="right") - 1
    sounds = (event >= 0) & (off[event] > start)
    bar = np.searchsorted(bars, start, side="right") - 1
    is_kept = sounds | (start != bars[bar]) | (stop != bars[bar + 1])
    is_kept[0] |= has_pickup
    tuplet = np.full(len(start), -1)
    if len(first):
        tuplet = np.searchsorted(first, start, side="right") - 1
        tuplet[start >= first[tuplet] + size[tuplet]] = -1
    columns = (column[is_kept] for column in (start, stop, event, sounds, bar, tuplet))
    return with_lengths(tuplets, *columns)


def with_lengths(tuplets, start, stop, event, sounds, bar, tuplet):
    """Returns Heads of these columns, with the lengths as they are written."""
    over, under = np.append(tuplets.over, 1), np.append(tuplets.under, 1)  # the last: no tuplet
    length = (stop - start) * over[tuplet] // under[tuplet]
    return Heads(start, stop, event, sounds, bar, tuplet, length)


def cut_lengths(heads, bars, pulses, tuplets):
    """Returns the Heads with every length that no single head has cut in two, again until all are
    shown. pulses: of each bar, see `pulses_of`."""
    over, under = np.append(tuplets.over, 1), np.append(tuplets.under, 1)
    while (odd := ~IS_SHOWN[heads.length]).any():
        start, _, _, _, bar, tuplet, length = (column[odd] for column in heads)
        place = start - bars[bar]
        by_64ths = (length % SMALLEST > 0) | (tuplet < 0) & (place % SMALLEST > 0)
        grain = np.where(by_64ths, SIXTY_FOURTH, SMALLEST)
        sizes = (place // grain, length // grain, pulses[bar] * SMALLEST // grain)
        first = [first_head(*size) for size in np.transpose(sizes).tolist()]
        cut = start + np.array(first) * grain * under[tuplet] // over[tuplet]
        heads = with_lengths(
            tuplets,
            np.sort(np.append(heads.start, cut)),
            np.sort(np.append(heads.stop, cut)),
            *(np.repeat(column, 1 + odd) for column in heads[2:-1]),
        )
    return heads


def tuplet_prefixes(heads, tuplets):
    """Returns what stands before each head: '(3', '(3::5' (triplet time for five heads), '(5:4:5'
    or ''."""
    prefixes = [""] * len(heads.event)
    counts = np.bincount(heads.tuplet[heads.tuplet >= 0], minlength=len(tuplets.first))
    places = np.searchsorted(heads.start, tuplets.first)
    for i, n_heads, over, under in zip(places, counts, tuplets.over, tuplets.under):
        if over != 3:
            prefixes[i] = f"({over}:{under}:{n_heads}"
        else:
            prefixes[i] = "(3" if n_heads == 3 else f"(3::{n_heads}"
    return prefixes


def bar_texts(voice, heads, prefixes, keys, n_bars):
    """Returns the text of every bar from its heads; an accidental holds for its letter to the end
    of the bar."""
    tied_on = heads.sounds & (voice.off[heads.event] > heads.stop)
    columns = (heads.bar, heads.event, heads.sounds, tied_on, heads.length)
    bars, keys = [[] for _ in range(n_bars)], list(keys)
    current = -1
    for bar, event, sounds, tied, units, prefix in zip(
        *(column.tolist() for column in columns), prefixes
    ):
        if bar != current:
            current = bar
            while len(keys) > 1 and keys[1][0] <= bar:
                keys.pop(0)
            table, in_force = pitch_texts(keys[0][1]), list(key_alterations(keys[0][1]))
        head = "z"
        if sounds:
            # a chord cut by its end is tied as a whole
            ties = () if tied else voice.ties.get(event, ())
            if ties and all(ties):
                tied, ties = True, ()
            head = chord_text(voice.chords[event], table, in_force, ties)
        bars[bar].append(prefix + head + LENGTHS[units] + "-" * tied)
    return ["".join(texts) or "Z" for texts in bars]


def chord_text(chord, table, in_force, ties):
    """Returns the text of a chord without its length. in_force: alterations of the letters at this
    place of the bar, brought up to date; ties: whether each note has one of its own, or ()."""
    heads = []
    for pitch in chord:
        letter, alteration, bare, marked = table[pitch]
        # abc2midi reads an unmarked MIDI pitch 0 in a flat key as -1
        if in_force[letter] == alteration and pitch:
            heads.append(bare)
        else:
            in_force[letter] = alteration
            heads.append(marked)
    if ties:
        heads = [head + "-" * tied for head, tied in zip(heads, ties)]
    return heads[0] if len(heads) == 1 else "[" + "".join(heads) + "]"
