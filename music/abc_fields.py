"""Reads the fields K: M: L: Q: of ABC; values that cannot be read raise ValueError.

Time is counted in integer ticks, TICKS to the quarter note.
"""

import re
from fractions import Fraction
from functools import lru_cache

from music.theory import LETTERS, MODES, SEMITONES_OF, SIGNS, key_alterations, place_of

# whole numbers for 1/1024 notes, tuplets of 3 to 9, 11 and 13
TICKS = 2**8 * 3**3 * 5 * 7 * 11 * 13
WHOLE = 4 * TICKS

_KEY = re.compile(r"([A-G])([#b]?)[ \t]*([A-Za-z]*)")  # tonic and mode
_ALTERATIONS = {"": 0, "#": 1, "b": -1}
# what may follow: `exp`, accidentals, words about the staff
_KEY_REST = re.compile(
    r"[ \t]*(exp\b)?((?:[ \t]*(?:\^\^?|__?|=)[A-Ga-g])*)"
    r"(?:[ \t]*(?:(?:clef|middle|m|stafflines|name|style|octave|transpose|t)[ \t]*=[ \t]*\S+|"
    r"(?:treble|bass|alto|tenor|perc|none)\d?(?:[+-]8)?))*[ \t]*"
)
_STAFF_WORDS = "clef exp middle treble bass alto tenor perc octave transpose".split()


def shift_of(text):
    """Returns the semitones by which notes sound above what is written, by a K: or V: value such as
    `clef=treble-8`, `transpose=-24`."""
    shift = 0
    for word, number in re.findall(r"\b(octave|transpose|t)\s*=\s*([+-]?\d{1,3})\b", text[:200]):
        shift += int(number) * (12 if word == "octave" else 1)
    clef = re.search(r"(?:treble|alto|tenor|bass)\d?([+-])8", text[:200])
    return shift + (int(clef[1] + "12") if clef else 0)


@lru_cache(maxsize=512)
def parse_key(text):
    """Returns the alterations of LETTERS by a K: value of at most seven sharps or flats, without
    transposition."""
    text = text[:200].strip()
    if shift_of(text):
        raise ValueError(f"transposing is not supported: {text[:40]}")
    if text[:2] in ("HP", "Hp") and _KEY_REST.fullmatch(text, 2):
        return (0,) * 7 if text[1] == "P" else key_alterations(2)  # Highland pipes
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
    sharps = place_of(tonic, _ALTERATIONS[accidental]) + MODES[mode]
    if abs(sharps) > 7:
        raise ValueError(f"a key of {abs(sharps)} accidentals: {text[:40]!r}")
    explicit, own = rest.group(1), rest.group(2) or ""
    alterations = [0] * 7 if explicit else list(key_alterations(sharps))
    # `K:D exp _B ^f`, `K:D =c`: klezmer, Balkan music
    for sign, letter in re.findall(r"(\^\^?|__?|=)([A-Ga-g])", own):
        alterations[LETTERS.index(letter.upper())] = SIGNS[sign]
    return tuple(alterations)


def sharps_of(alterations):
    """Returns the sharps (flats negative) of a signature."""
    return max(-7, min(7, sum(alterations)))


def tonic_of(key):
    """Returns (pitch class of the tonic, 1 for a minor third, else 0) of a K: value, or None.

    >>> tonic_of("F#m"), tonic_of("Bb"), tonic_of("none")
    ((6, 1), (10, 0), None)
    """
    match = _KEY.match(key or "")
    if not match:
        return None
    letter, sign, mode = match.groups()
    minor = MODES.get(mode.lower()[:3], 0) <= MODES["dor"]  # the other modes have more sharps
    return (SEMITONES_OF[letter] + _ALTERATIONS[sign]) % 12, int(minor)


def is_minor(key):
    """Returns True if a K: value is a minor key."""
    match = _KEY.match(key)
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
    """Returns (ticks of a bar, compound) of an M: value, (None, False) for a free meter. In compound
    ones (6/8, 9/8, 12/8) `(5`, `(7` and `(9` fill the time of three notes, else of two."""
    numbers = meter_numbers(text)
    if numbers is None:
        return None, False
    beats, kind = numbers
    return beats * WHOLE // kind, beats % 3 == 0 and beats > 3 and kind >= 8


@lru_cache(maxsize=64)
def parse_unit(text):
    """Returns ticks of an L: value."""
    match = re.fullmatch(r"(\d{1,3})(?:[ \t]*/[ \t]*(\d{1,3}))?", text[:20].strip(), re.ASCII)
    over, under = (int(match.group(1)), int(match.group(2) or 1)) if match else (0, 1)
    if not 0 < over <= 4 or not 0 < under <= 512 or under & (under - 1):
        raise ValueError(f"no unit note length: {text[:40]!r}")
    return WHOLE * over // under


def default_unit(meter):
    """Returns ticks of the unit note without L:, by those of a bar or None: a sixteenth below 3/4,
    else an eighth (ABC 2.1, section 3.1.7)."""
    return WHOLE // 16 if meter is not None and meter * 4 < WHOLE * 3 else WHOLE // 8


@lru_cache(maxsize=512)
def parse_tempo(text, unit=WHOLE // 8):
    """Returns quarter notes per minute of a Q: value, None for words only. In `1/4 3/8=40` beats add
    up; `120` counts unit notes (of `unit` ticks), `C3=120` three of them."""
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
    beat, speed = match.groups() if match else (None, 0)
    try:
        if beat is None or beat.startswith("C"):
            quarters = Fraction(unit, TICKS) * Fraction((beat or "")[1:] or 1)
        else:
            quarters = 4 * sum(map(Fraction, beat.split()))
    except ZeroDivisionError:
        quarters = 0
    tempo = float(quarters * Fraction(speed))
    if not tempo:
        raise ValueError(f"no tempo: {text[:40]!r}")
    return tempo
