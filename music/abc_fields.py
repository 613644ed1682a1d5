"""What the fields K: M: L: Q: of ABC say: alterations of the key, ticks of a bar and of the unit
note, tempo.

Time is counted in integer ticks, TICKS to the quarter note. Every parser raises ValueError for a
value that it cannot read: nothing is guessed.
"""

import re
from fractions import Fraction
from functools import lru_cache

from music.theory import LETTERS, MODES, SEMITONES, SIGNS, key_alterations, place_of

# per quarter note: 1/1024 notes, tuplets of 3 to 9, 11 and 13 are whole numbers
TICKS = 2**8 * 3**3 * 5 * 7 * 11 * 13
WHOLE = 4 * TICKS

# tonic and mode; what may follow them: `exp` and accidentals of its own, then words about the look
# of the staff
_KEY = re.compile(r"([A-G])([#b]?)[ \t]*([A-Za-z]*)")
_KEY_REST = re.compile(
    r"[ \t]*(exp\b)?((?:[ \t]*(?:\^\^?|__?|=)[A-Ga-g])*)"
    r"(?:[ \t]*(?:(?:clef|middle|m|stafflines|name|style|octave|transpose|t)[ \t]*=[ \t]*\S+|"
    r"(?:treble|bass|alto|tenor|perc|none)\d?(?:[+-]8)?))*[ \t]*"
)
_STAFF_WORDS = "clef exp middle treble bass alto tenor perc octave transpose".split()


def shift_of(text):
    """Returns semitones by which a K: or V: value asks notes to sound above what is written:
    `clef=treble-8`, `transpose=-24`. Players disagree about it: the strict reader refuses it."""
    shift = 0
    for word, number in re.findall(r"\b(octave|transpose|t)\s*=\s*([+-]?\d{1,3})\b", text[:200]):
        shift += int(number) * (12 if word == "octave" else 1)
    clef = re.search(r"(?:treble|alto|tenor|bass)\d?([+-])8", text[:200])
    return shift + (int(clef[1] + "12") if clef else 0)


@lru_cache(maxsize=512)
def parse_key(text):
    """Returns alterations of C D E F G A B in semitones by a K: value, e.g. `G` -> (0, 0, 0, 1, 0,
    0, 0); ValueError beyond seven sharps or flats and for a transposition."""
    text = text[:200].strip()
    if shift_of(text):
        raise ValueError(f"transposing is not supported: {text[:40]}")
    # Highland pipes: HP writes no signature
    if text[:2] in ("HP", "Hp") and _KEY_REST.fullmatch(text, 2):
        return (0,) * 7 if text[1] == "P" else (1, 0, 0, 1, 0, 0, 0)
    if text == "none" or re.match(r"clef[ \t]*=|none[ \t]", text) and _KEY_REST.fullmatch(text):
        return (0,) * 7
    match = _KEY.match(text)
    if not match:
        raise ValueError(f"no key: {text[:40]!r}")
    tonic, accidental, word = match.groups()
    mode, end = word.lower()[:3], match.end()  # three letters decide: `Mixolydian`, `mix`
    if word.lower() in _STAFF_WORDS:
        mode, end = "", match.start(3)
    rest = _KEY_REST.fullmatch(text, end)
    if mode not in MODES or not rest:
        raise ValueError(f"no key: {text[:40]!r}")
    sharps = place_of(tonic, {"": 0, "#": 1, "b": -1}[accidental]) + MODES[mode]
    if abs(sharps) > 7:
        raise ValueError(f"a key of {abs(sharps)} accidentals: {text[:40]!r}")
    explicit, own = rest.group(1), rest.group(2) or ""
    alterations = [0] * 7 if explicit else list(key_alterations(sharps))
    # `K:D exp _B ^f`, `K:D =c`: klezmer, Balkan music
    for sign, letter in re.findall(r"(\^\^?|__?|=)([A-Ga-g])", own):
        alterations[LETTERS.index(letter.upper())] = SIGNS[sign]
    return tuple(alterations)


def sharps_of(alterations):
    """Returns sharps (+) or flats (-) of a signature; of one with signs of its own their sum."""
    return max(-7, min(7, sum(alterations)))


def tonic_of(key):
    """Returns (pitch class of the tonic, 1 if the mode is minor-like else 0) of a K: value; None
    without a tonic.

    >>> tonic_of("F#m"), tonic_of("Bb"), tonic_of("none")
    ((6, 1), (10, 0), None)
    """
    match = _KEY.match(key or "")
    if not match:
        return None
    letter, sign, mode = match.groups()
    # modes with a minor third
    minor = mode.lower()[:3] in ("m", "min", "dor", "aeo", "phr", "loc")
    return (SEMITONES[LETTERS.index(letter)] + {"#": 1, "b": -1, "": 0}[sign]) % 12, int(minor)


def is_minor(key):
    """Returns True if the key of a K: value is minor: no other mode with a minor third."""
    match = _KEY.match(key or "")
    return bool(match) and MODES.get(match.group(3).lower()[:3]) == MODES["m"]


@lru_cache(maxsize=512)
def meter_numbers(text):
    """Returns (beats, kind of note) of an M: value, None for a free meter.

    >>> meter_numbers("6/8"), meter_numbers("C|"), meter_numbers("(2+3)/8"), meter_numbers("none")
    ((6, 8), (2, 2), (5, 8), None)
    """
    text = text[:60].strip()
    if text in ("none", ""):
        return None
    match = re.fullmatch(
        r"\(?[ \t]*(\d{1,3}(?:[ \t]*\+[ \t]*\d{1,3})*)[ \t]*\)?[ \t]*/[ \t]*(\d{1,3})",
        {"C": "4/4", "C|": "2/2"}.get(text, text),
        re.ASCII,
    )
    beats = sum(int(n) for n in match.group(1).split("+")) if match else 0
    if not 0 < beats <= 256 or int(match.group(2)) not in (1, 2, 4, 8, 16, 32, 64, 128):
        raise ValueError(f"no meter: {text[:40]!r}")
    return beats, int(match.group(2))


def parse_meter(text):
    """Returns (ticks of a bar, None for a free meter; compound: True for 6/8, 9/8, 12/8) of an M:
    value.

    In compound meters `(5`, `(7` and `(9` fill the time of three notes, else of two."""
    beats, kind = meter_numbers(text) or (None, None)
    if beats is None:
        return None, False
    return beats * WHOLE // kind, beats % 3 == 0 and beats > 3 and kind >= 8


@lru_cache(maxsize=64)
def parse_unit(text):
    """Returns ticks of the unit note length of an L: value."""
    match = re.fullmatch(r"(\d{1,3})(?:[ \t]*/[ \t]*(\d{1,3}))?", text[:20].strip(), re.ASCII)
    over, under = (int(match.group(1)), int(match.group(2) or 1)) if match else (0, 1)
    if not 0 < over <= 4 or not 0 < under <= 512 or under & (under - 1):
        raise ValueError(f"no unit note length: {text[:40]!r}")
    return WHOLE * over // under


def default_unit(meter):
    """Returns ticks of the unit note length of a tune without L:, by the ticks of its bar (None:
    free): a sixteenth if the meter is less than 3/4, else an eighth (ABC 2.1, section 3.1.7)."""
    return WHOLE // 16 if meter is not None and meter * 4 < WHOLE * 3 else WHOLE // 8


@lru_cache(maxsize=512)
def parse_tempo(text, unit=WHOLE // 8):
    """Returns quarter notes per minute of a Q: value (None if it holds words only).

    `1/4=120`; several beats add up (`1/4 3/8=40`); `120` counts unit notes (`unit` ticks each),
    `C3=120` three of them."""
    bare = re.sub(r'"[^"]*"', " ", text[:200]).strip()
    if not bare:
        if text.strip():
            return None
        raise ValueError("an empty tempo")
    match = re.fullmatch(
        r"(?:((?:\d{1,3}/\d{1,3}[ \t]*)+|C(?:\d{1,2}(?:/\d{1,2})?)?)[ \t]*=[ \t]*)?"
        r"(\d{1,4}(?:\.\d{1,6})?)",
        bare,
        re.ASCII,
    )
    if not match or not float(match.group(2)):
        raise ValueError(f"no tempo: {text[:40]!r}")
    beat, speed = match.groups()
    try:
        if beat is None or beat.startswith("C"):
            quarters = Fraction(unit, TICKS) * Fraction((beat or "")[1:] or 1)
        else:
            quarters = 4 * sum(map(Fraction, beat.split()))
    except ZeroDivisionError:
        quarters = 0
    if not quarters:
        raise ValueError(f"no tempo: {text[:40]!r}")
    return float(quarters * Fraction(speed))
