"""Converts score files to MIDI: MusicXML, plain or packed, and Humdrum kern."""

from typing import NamedTuple

from music.abc_mending import decoded
from music.kern import read_kern
from music.musicxml_in import read_musicxml
from music.score import ScoreError, score_midi

SUFFIXES = (".mxl", ".musicxml", ".xml", ".krn")


class Converted(NamedTuple):
    """What became of a score. midi: bytes, or None for `reason`; the others: as the file says."""

    midi: bytes | None
    reason: str = ""
    title: str = ""
    composer: str = ""
    work: str = ""
    rights: str = ""


def convert_score(name, data):
    """Returns the Converted of a file's bytes; never raises: one file must not end a run."""
    try:
        if name.lower().endswith(".krn"):
            score = read_kern(decoded(data)[0])
        else:
            score = read_musicxml(data)
        midi = score_midi(score)
    except ScoreError as error:
        return Converted(None, str(error))
    except MemoryError:
        return Converted(None, "needs too much memory")
    except Exception as error:
        return Converted(None, f"{type(error).__name__}: {error}"[:200])
    return Converted(midi, "", score.title, score.composer, score.work, score.rights)
