"""How much of the bar is left at every note of a text: what a writer has to know to fill bars, and
never writes down.

    places_left("X:1\\nM:3/4\\nL:1/4\\nK:C\\nC2D|EFG|")     # [(24, 1.0), (28, 2.0), (29, 1.0)]
"""

import re

from music.abc_bar import read_short_stretch
from music.abc_fields import TICKS, parse_meter, parse_unit
from music.abc_text import Reader

# bars without words, graces and broken rhythms: lengths stand at their notes
_PLAIN = re.compile(r'[^"!{+<>&]*')
_ONSET = re.compile(r"\[[^\]]*\]|(?:\^\^?|__?|=)?[A-Ga-gzx]", re.ASCII)  # a chord is one


def places_left(text):
    """[(place of the first character of a note, chord or rest, quarter notes left in its bar when
    it begins)], for the bars that are exactly as long as their meter; not for the first of a bar:
    the bar line beside it says all."""
    places = []
    for bar in Reader(text, strict=False).order:
        is_whole = (
            bar.ok
            and bar.meter
            and bar.length == bar.meter
            and text[bar.start : bar.end] == bar.text
        )
        if not (is_whole and _PLAIN.fullmatch(bar.text)):
            continue
        meter, _, unit, _ = bar.after
        for onset in _ONSET.finditer(bar.text):
            before = read_short_stretch(
                bar.text[: onset.start()], (0,) * 7, parse_unit(unit), parse_meter(meter)[1], ()
            )
            if before.length:
                places.append((bar.start + onset.start(), (bar.length - before.length) / TICKS))
    return places
