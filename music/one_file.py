"""One file by itself: MIDI, a score or ABC in; ABC, MIDI or MusicXML out.

opened = open_file(bytes_of(path), path.name, 6)        # ValueError says what is wrong
xml = converted(opened, "musicxml", path.stem)
"""

from fractions import Fraction
from typing import NamedTuple

from music.abc_people import read_people
from music.abc_text import read_abc
from music.midi_to_abc import MIDI_BYTES, ConversionError, convert
from music.notation import midi_score, musicxml
from music.scores import SUFFIXES as SCORE_SUFFIXES
from music.scores import convert_score

ENDINGS = {"abc": ".abc", "midi": ".mid", "musicxml": ".musicxml"}


class Opened(NamedTuple):
    """The music of a file. texts: ABC in normal form, of a tunebook a text a tune; midi: of a MIDI
    file or a score, None for ABC; start: where the text begins in it, quarter notes; mended: {kind
    of fault of the first tune: how often}."""

    texts: list
    midi: bytes | None = None
    is_score: bool = False
    start: Fraction = Fraction(0)
    mended: dict = {}


def bytes_of(path):
    """Returns the bytes of a file; ValueError if it cannot be read or is too large."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    if len(data) > MIDI_BYTES:
        raise ValueError(f"more than {MIDI_BYTES:,} bytes")
    return data


def open_file(data, name, max_voices):
    """Returns the Opened of a file's bytes; ValueError says what is wrong."""
    stem, is_score = name.rsplit(".", 1)[0], name.lower().endswith(SCORE_SUFFIXES)
    if name.lower().endswith((".abc", ".txt")):
        tunes = read_people(data, stem, max_voices)
        readable = [tune for tune in tunes if tune.text]
        if not tunes:
            raise ValueError("no tune: no line begins with X:")
        if not readable:
            raise ValueError(f"cannot be read as ABC: {tunes[0].reason}")
        return Opened([tune.text for tune in readable], mended=readable[0].mended)
    if is_score:
        score = convert_score(name, data)
        if score.midi is None:
            raise ValueError(f"the score cannot be read: {score.reason}")
        data, stem = score.midi, score.title or stem
    try:
        text, counts = convert(data, stem, max_voices)
    except ConversionError as error:
        reason, detail = error.args
        raise ValueError(f"{reason.replace('_', ' ')}: {detail}") from None
    return Opened([text], data, is_score, Fraction(counts["start"]), counts["mended"])


def converted(opened, form, title):
    """Returns the bytes of an Opened in a form (a key of ENDINGS), of a tunebook the first tune as
    MIDI or MusicXML; ValueError says why there are none."""
    if form == "abc":
        return "\n".join(opened.texts).encode()
    if form == "midi" and opened.is_score:
        return opened.midi
    try:
        tune = read_abc(opened.texts[0], strict=False)
        if form == "midi":
            return midi_score(tune).dumps_midi()
        return musicxml(tune, title=tune.fields.get("T") or title)
    except Exception as error:  # of music21, on lengths that it cannot write
        raise ValueError(f"cannot be written: {error}") from None
