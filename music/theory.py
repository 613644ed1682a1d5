"""Keys, scales, meters and spelling.

Keys are numbers of sharps, flats negative. Notes are places on the line of fifths: F -1, C 0, G 1
... B 5, F sharp 6. To spell a pitch is to choose among places twelve apart.
"""

from fractions import Fraction
from functools import cache

import numpy as np

LETTERS = "CDEFGAB"
SEMITONES = (0, 2, 4, 5, 7, 9, 11)  # of LETTERS above C
SEMITONES_OF = dict(zip(LETTERS, SEMITONES))
FIFTHS = "FCGDAEB"  # letters along the line of fifths
TEMPOS = (10, 999)  # quarter notes a minute that are believed
SIGNS = {"^^": 2, "^": 1, "=": 0, "_": -1, "__": -2}  # in semitones
# sharps of a key beyond those of the major key on the same tonic
MODES = {"": 0} | dict(lyd=1, maj=0, ion=0, mix=-1, dor=-2, m=-3, min=-3, aeo=-3, phr=-4, loc=-5)

# how well each pitch class above the tonic fits a major and a minor key (Krumhansl and Kessler
# 1982, table 1)
KEY_PROFILES = np.array(
    [
        [6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88],
        [6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17],
    ]
)
# (tonic, pitch class): 1 in the major scale
SCALES = np.array([np.isin((np.arange(12) - tonic) % 12, SEMITONES) for tonic in range(12)], int)
SIGNATURE_SLACK = 0.05  # share of notes by which a given signature may be worse than the best


def bar_length(meter, quarter):
    """Returns the length of a bar of a meter (n, d)."""
    return meter[0] * 4 * quarter // meter[1]


def meter_of_length(length, quarter):
    """Returns the meter (n, d) of a bar of this length.

    >>> meter_of_length(60, 24), meter_of_length(72, 24)
    ((5, 8), (3, 4))
    """
    share = Fraction(length, 4 * quarter)
    d = max(4, share.denominator)
    return int(share * d), d


def key_name(sharps, minor):
    """Returns a key as K: writes it.

    >>> key_name(-3, False), key_name(-3, True), key_name(6, False)
    ('Eb', 'Cm', 'F#')
    """
    letter, alteration = note_at(sharps + 3 * minor)
    return letter + "b" * -alteration + "#" * alteration + "m" * minor


def place_of(letter, alteration=0):
    """Returns the place of a note on the line of fifths: the sharps of its major key.

    >>> place_of("C"), place_of("F"), place_of("F", 1), place_of("B", -1)
    (0, -1, 6, -2)
    """
    return FIFTHS.index(letter) - 1 + 7 * alteration


def note_at(place):
    """Returns (letter, alteration) of a place: the inverse of `place_of`."""
    return FIFTHS[(place + 1) % 7], (place + 1) // 7


@cache
def key_alterations(sharps):
    """Returns the alterations of C D E F G A B in a key.

    >>> key_alterations(2)
    (1, 0, 0, 1, 0, 0, 0)
    """
    alteration = dict(note_at(place) for place in range(sharps - 1, sharps + 6))
    return tuple(alteration[letter] for letter in LETTERS)


def best_key(histogram):
    """Returns (pitch class of the tonic, 0 major or 1 minor) of the key whose profile correlates
    best with twelve weights (Krumhansl 1990, chapter 4)."""
    fits = [
        np.corrcoef(np.roll(profile, tonic), histogram)[0, 1]
        for tonic in range(12)
        for profile in KEY_PROFILES
    ]
    return divmod(int(np.argmax(fits)), 2)


def best_signature(histogram, given=None):
    """Returns (sharps, minor) of the key to write a pitch-class histogram in: `given` if it fits,
    else the scale that holds most notes, major or minor by the profiles.

    >>> best_signature(np.array([9, 0, 5, 0, 8, 4, 0, 9, 0, 4, 0, 3]))
    (0, False)
    """
    total = max(histogram.sum(), 1)
    share = {sharps: SCALES[7 * sharps % 12] @ histogram / total for sharps in range(-7, 8)}
    best = max(range(-5, 7), key=lambda sharps: (share[sharps], -abs(sharps)))
    if given and share[given[0]] >= share[best] - SIGNATURE_SLACK:
        return given
    major, minor = (
        float(np.roll(profile, 7 * best % 12 + above) @ histogram) / profile.sum()
        for profile, above in zip(KEY_PROFILES, (0, 9))
    )
    return best, bool(minor > major)


def spell(pitch, sharps):
    """Returns (letter, alteration, octave) of a MIDI pitch in a key; octave 4 begins at middle C.

    Places reach from three fifths below the major tonic to eight above, the raised seventh degree
    of minor. No note has a double accidental.

    >>> spell(70, -3), spell(66, 1), spell(68, 0)
    (('B', -1, 4), ('F', 1, 4), ('G', 1, 4))
    """
    place = sharps - 3 + (7 * pitch - sharps + 3) % 12
    letter, alteration = note_at(place)
    if abs(alteration) > 1:  # the same pitch has a plain name twelve fifths away
        letter, alteration = note_at(place - 12 if alteration > 0 else place + 12)
    return letter, alteration, (pitch - alteration) // 12 - 1
