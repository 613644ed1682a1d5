"""One file converted by itself: MIDI, a score or ABC in; ABC, MIDI or MusicXML out."""

from music.abc_people import read_people
from music.abc_text import AbcError, read_abc
from music.midi_to_abc import ConversionError, convert
from music.notation import midi_bytes, musicxml
from music.scores import SUFFIXES as SCORE_SUFFIXES
from music.scores import convert_score
from music.tunebook import split_tunebook
from study.prepare.conversion import MIDI_BYTES

ENDINGS = {"abc": ".abc", "midi": ".mid", "musicxml": ".musicxml"}


class CannotConvert(Exception):
    """A file that cannot be converted; the message says why."""


def convert_file(path, form, max_voices):
    """The bytes of a file in another form (a key of ENDINGS); CannotConvert says why there are
    none. Of a tunebook the first tune is written as MIDI or MusicXML."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CannotConvert(error.strerror) from None
    if len(data) > MIDI_BYTES:
        raise CannotConvert(f"more than {MIDI_BYTES:,} bytes")
    suffix, title = path.suffix.lower(), path.stem
    if suffix in SCORE_SUFFIXES:
        row = convert_score(path.name, data)
        if row.midi is None:
            raise CannotConvert(row.reason)
        if form == "midi":
            return row.midi
        data, title = row.midi, row.title or title
    text = (abc_of_abc if suffix == ".abc" else abc_of_midi)(data, title, max_voices)
    if form == "abc":
        return text.encode()
    try:
        tune = read_abc(split_tunebook(text)[0], strict=False)
        if form == "midi":
            return midi_bytes(tune)
        return musicxml(tune, title=tune.fields.get("T") or path.stem)
    except (AbcError, IndexError) as error:
        raise CannotConvert(f"cannot be read as ABC: {error}") from None
    except Exception as error:  # whatever music21 says of lengths that it cannot write
        raise CannotConvert(f"cannot be written: {error}") from None


def abc_of_abc(data, title, max_voices):
    """ABC as people write it, in normal form."""
    tunes = read_people(data, title, max_voices)
    texts = [tune.text for tune in tunes if tune.text]
    if not texts:
        raise CannotConvert(tunes[0].reason if tunes else "no tune: no line begins with X:")
    return "\n".join(texts)


def abc_of_midi(data, title, max_voices):
    """ABC text of MIDI."""
    try:
        return convert(data, title, max_voices)[0]
    except ConversionError as error:
        reason, detail = error.args
        raise CannotConvert(f"{reason.replace('_', ' ')}: {detail}") from None
