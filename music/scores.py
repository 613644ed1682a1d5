"""A score file of any kind as MIDI: MusicXML, plain or packed, and Humdrum kern."""

from typing import NamedTuple

from music.kern import read_kern
from music.musicxml_in import read_musicxml
from music.score import ScoreError, score_midi

SUFFIXES = (".mxl", ".musicxml", ".xml", ".krn")


class Converted(NamedTuple):
    """What became of a score. midi: bytes, or None for `reason`; title, composer, work, rights: as
    the file says, '' where it does not."""

    midi: bytes | None
    reason: str = ""
    title: str = ""
    composer: str = ""
    work: str = ""
    rights: str = ""


def convert_score(name, data):
    """Returns the Converted of the bytes of a file of this name; it never raises, for a corpus goes
    on."""
    try:
        if name.lower().endswith(".krn"):
            score = read_kern(decoded(data))
        else:
            score = read_musicxml(data)
        midi = score_midi(score)
    except ScoreError as error:
        return Converted(None, str(error))
    except MemoryError:
        return Converted(None, "needs too much memory")
    except Exception as error:  # a surprise in one file must not end the run
        return Converted(None, f"{type(error).__name__}: {error}"[:200])
    return Converted(midi, "", score.title, score.composer, score.work, score.rights)


def decoded(data):
    """Returns the text of a kern file; old ones are in Latin-1."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")
