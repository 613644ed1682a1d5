"""One voice as ABC text: heads and rests, tuplets, ties and accidentals, bar by bar.

bars = voice_text(voice, bars, beats, meters, keys)    # ['D4G4B4d4', 'Z', ...]
"""

from fractions import Fraction
from functools import cache
from typing import NamedTuple

import numpy as np

from music.quantise import QUARTER, SIXTEENTH, SIXTY_FOURTH, SMALLEST, differs, distinct
from music.theory import LETTERS, bar_length, key_alterations, spell

LONGEST_BAR = 16 * QUARTER  # longer ones (255/1) are errors in the file
# lengths of one head with at most three dots
IS_SHOWN = np.isin(
    np.arange(2 * LONGEST_BAR + 1),
    [n * 2**k * SIXTY_FOURTH for n in (1, 3, 7, 15) for k in range(10)],
)
# {notes of a tuplet: (parts of the beat where its notes may begin, in the time of how many)}
TUPLETS = {3: (6, 2), 5: (5, 4), 7: (7, 4), 9: (9, 8)}


class Heads(NamedTuple):
    """Note heads, chords and rests of one voice, as arrays. start, stop: units; event: the last
    begun; sounds: it has not ended; over, under: of its tuplet (5, 4), else 1, 1."""

    start: np.ndarray
    stop: np.ndarray
    event: np.ndarray
    sounds: np.ndarray
    bar: np.ndarray
    over: np.ndarray
    under: np.ndarray

    def lengths(self):
        return (self.stop - self.start) * self.over // self.under


def voice_text(voice, bars, beats, meters, keys):
    """Returns the text of every bar of one voice; Z is a silent bar. meters, keys: (n, d) and
    (sharps, minor) of every bar."""
    tuplets = tuplets_of(voice.on, voice.off, beats)
    has_pickup = bars[1] != bar_length(meters[0], QUARTER)
    heads = cut_voice(voice, bars, tuplets, has_pickup)
    # in 1/32: the dotted beat of a compound meter, else 1
    pulses = np.array([3 * 32 // d if n % 3 == 0 and n > 3 else 1 for n, d in meters])
    heads = cut_lengths(heads, bars, pulses)
    return bar_texts(voice, heads, tuplet_prefixes(heads, tuplets), keys)


def tuplets_of(on, off, beats):
    """Returns the rows start, end, over, under of a voice's tuplets: beats or halves of beats with
    events off the binary grid."""
    edges = distinct(on, off)
    odd = edges[edges % SIXTY_FOURTH != 0]
    if not len(odd):
        return np.zeros((4, 0), np.int64)
    begin = beats[np.searchsorted(beats, odd, side="right") - 1]
    starts, beat = np.unique(begin, return_inverse=True)
    lengths = beats[np.searchsorted(beats, starts, side="right")] - starts
    over, under = np.full(len(starts), 3), np.full(len(starts), 2)
    # thirds are ninths, too: the fewest notes win
    for n_notes, (n_parts, in_time_of) in reversed(TUPLETS.items()):
        misfits = np.bincount(beat, (odd - begin) * n_parts % QUARTER, len(starts))
        over[misfits == 0], under[misfits == 0] = n_notes, in_time_of
    half = QUARTER // 2
    halved = (lengths == QUARTER) & np.isin(starts + half, edges) & (over == 3)
    first = np.where(halved[beat], odd - (odd - begin) % half, begin)
    new = differs(first)
    first, beat = first[new], beat[new]
    return np.stack([first, first + np.where(halved, half, lengths)[beat], over[beat], under[beat]])


def cut_voice(voice, bars, tuplets, has_pickup):
    """Returns the Heads of a voice, cut at every bar line, event and edge of a tuplet, without
    silent bars; a pickup stays, which Z would make as long as its meter."""
    edges = tuplets[:2].T.ravel()
    cuts = distinct(bars, voice.on, voice.off, edges)
    start, stop = cuts[:-1], cuts[1:]
    event = np.searchsorted(voice.on, start, side="right") - 1
    sounds = (event >= 0) & (voice.off[event] > start)
    bar = np.searchsorted(bars, start, side="right") - 1
    factors = np.ones((2, len(edges) + 1), np.int64)  # before, in, behind the first tuplet, ...
    factors[:, 1::2] = tuplets[2:]
    over, under = factors[:, np.searchsorted(edges, start, side="right")]
    is_kept = sounds | (start != bars[bar]) | (stop != bars[bar + 1])
    is_kept[0] |= has_pickup
    return Heads(*(column[is_kept] for column in (start, stop, event, sounds, bar, over, under)))


@cache
def first_head(place, length, pulse):
    """Returns the length of the first of two heads of a length, all in 1/32 or 1/64. They meet on a
    pulse, else on the strongest beat. place: from the bar line.

    >>> first_head(0, 10, 1), first_head(6, 10, 1), first_head(0, 20, 12)
    (8, 2, 12)
    """

    def merit(cut):
        shown = bool(IS_SHOWN[cut * SMALLEST]) + bool(IS_SHOWN[(length - cut) * SMALLEST])
        meet = place + cut
        # last: the largest power of two in it
        return shown, min(cut, length - cut) > 1, meet % pulse == 0, meet & -meet

    return max(range(1, length), key=merit)


def cut_lengths(heads, bars, pulses):
    """Returns the Heads, cut until each has a length that one head shows. pulses: of every bar."""
    while (odd := ~IS_SHOWN[heads.lengths()]).any():
        part = Heads(*(column[odd] for column in heads))
        place, length = part.start - bars[part.bar], part.lengths()
        by_64ths = (length % SMALLEST > 0) | (part.over == 1) & (place % SMALLEST > 0)
        grain = np.where(by_64ths, SIXTY_FOURTH, SMALLEST)
        sizes = place // grain, length // grain, pulses[part.bar] * SMALLEST // grain
        first = np.array([first_head(*size) for size in np.transpose(sizes).tolist()])
        cut = part.start + first * grain * part.under // part.over
        heads = Heads(
            np.sort(np.append(heads.start, cut)),
            np.sort(np.append(heads.stop, cut)),
            *(np.repeat(column, 1 + odd) for column in heads[2:]),
        )
    return heads


@cache
def length_text(units):
    """Returns a length as ABC writes it over L:1/16.

    >>> [length_text(n * QUARTER // 16) for n in (4, 8, 2, 6, 1, 3)]
    ['', '2', '/', '3/', '/4', '3/4']
    """
    count, parts = Fraction(units, SIXTEENTH).as_integer_ratio()
    below = {1: "", 2: "/"}.get(parts, f"/{parts}")
    return below if count == 1 else f"{count}{below}"


@cache
def pitch_texts(sharps):
    """Returns [(index in LETTERS, alteration, text without its accidental, text with it)] of the
    128 MIDI pitches in a key.

    >>> pitch_texts(-3)[63], pitch_texts(-3)[61], pitch_texts(2)[61]
    ((2, -1, 'E', '_E'), (1, -1, 'D', '_D'), (0, 1, 'C', '^C'))
    """
    table = []
    for pitch in range(128):
        letter, alteration, octave = spell(pitch, sharps)
        text = letter.lower() + "'" * (octave - 5) if octave >= 5 else letter + "," * (4 - octave)
        table.append((LETTERS.index(letter), alteration, text, "_=^"[alteration + 1] + text))
    return table


def tuplet_prefixes(heads, tuplets):
    """Returns what stands before each head: '(3', '(3::5' (five heads in triplet time) or ''."""
    prefixes = [""] * len(heads.event)
    for first, stop, (over, under) in zip(
        *np.searchsorted(heads.start, tuplets[:2]), tuplets[2:].T
    ):
        if over != 3:
            prefixes[first] = f"({over}:{under}:{stop - first}"
        else:
            prefixes[first] = "(3" if stop - first == 3 else f"(3::{stop - first}"
    return prefixes


def bar_texts(voice, heads, prefixes, keys):
    """Returns the text of every bar."""
    tied_on = heads.sounds & (voice.off[heads.event] > heads.stop)
    columns = (heads.bar, heads.event, heads.sounds, tied_on, heads.lengths())
    bars, current = [[] for _ in keys], -1
    for bar, event, sounds, tied, units, prefix in zip(
        *(column.tolist() for column in columns), prefixes
    ):
        if bar != current:
            current = bar
            sharps, _ = keys[bar]
            table, in_force = pitch_texts(sharps), list(key_alterations(sharps))
        head = "z"
        if sounds:
            ties = () if tied else voice.ties.get(event, ())
            if ties and all(ties):
                tied, ties = True, ()
            head = chord_text(voice.chords[event], table, in_force, ties)
        bars[bar].append(f"{prefix}{head}{length_text(units)}{'-' if tied else ''}")
    return ["".join(texts) or "Z" for texts in bars]


def chord_text(chord, table, in_force, ties):
    """Returns the text of a chord without its length. in_force: alterations of the letters,
    updated; ties: whether each note is tied, or ()."""
    heads = []
    for pitch in chord:
        letter, alteration, bare, marked = table[pitch]
        # abc2midi reads an unmarked MIDI pitch 0 in a flat key as -1
        is_marked = in_force[letter] != alteration or pitch == 0
        in_force[letter] = alteration
        heads.append(marked if is_marked else bare)
    if ties:
        heads = [head + "-" * tied for head, tied in zip(heads, ties)]
    return heads[0] if len(heads) == 1 else "[" + "".join(heads) + "]"
