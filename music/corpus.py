"""The embedded corpus: real music that ships inside the music21 package.

It is of two kinds: books of old tunes in ABC, which music/abc_people.py reads, and scores with
several voices in MusicXML or Humdrum kern, which music/scores.py reads. Tunes are set as printed:
repeats once, of several endings the last one, without ornaments and chord symbols.
"""

from importlib.util import find_spec
from pathlib import Path

from music.abc_mending import decoded, split_book
from music.abc_people import read_tune, tune_midi
from music.scores import Converted, convert_score

# single-voice collections of the music21 package: old tunes in ABC notation
BOOKS = {
    "oneills": ("O'Neill 1850", "oneills1850"),
    "ryans": ("Ryan's Mammoth", "ryansMammoth"),
    "airds": ("Aird's Airs", "airdsAirs"),
    "miscfolk": ("Folk", "miscFolk"),
    "essen": ("Essen", "essenFolksong"),
}
SCORES = {  # collections with several voices: MusicXML or Humdrum Kern
    "bach": ("Bach Chorales", "bach", ".mxl"),
    "palestrina": ("Palestrina", "palestrina", ".krn"),
    "trecento": ("Trecento", "trecento", ".xml"),
    "monteverdi": ("Monteverdi", "monteverdi", ".mxl"),
}
NOTICES = {
    "essen": "Essen folk songs: non-commercial use only (music21/corpus/essenFolksong/license.txt)",
    "palestrina": (
        "Palestrina masses: the licence conditions stand in the Kern files and in"
        " music21/corpus/license.txt"
    ),
    "trecento": "Trecento pieces: encodings with their own conditions (music21/corpus/license.txt)",
    "monteverdi": (
        "Monteverdi madrigals: encodings with their own conditions (music21/corpus/license.txt)"
    ),
}


def corpus_folder():
    """Returns the corpus folder inside the music21 package, which is not imported (1 s); None if
    there is none."""
    spec = find_spec("music21")
    folder = spec and Path(spec.origin).parent / "corpus"
    return folder if folder and folder.is_dir() else None


def collection_files(names):
    """Returns [[path below the corpus folder, bytes]] of everything in these collections: what
    their MIDI is made from."""
    package = corpus_folder()
    folders = [package / (BOOKS.get(name) or SCORES[name])[1] for name in names]
    return [
        [str(path.relative_to(package)), path.stat().st_size]
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


def tunes_of(names):
    """Returns [(collection, RawTune)] of those of the collections that are books."""
    return [
        (name, tune)
        for name in names
        if name in BOOKS
        for book in sorted((corpus_folder() / BOOKS[name][1]).glob("*.abc"))
        for tune in split_book(decoded(book.read_bytes())[0])[0]
    ]


def scores_of(names):
    """Returns [(collection, path)] of those of the collections that are scores."""
    return [
        (name, path)
        for name in names
        if name in SCORES
        for path in sorted((corpus_folder() / SCORES[name][1]).rglob("*" + SCORES[name][2]))
    ]


def convert_piece(piece):
    """Returns (name of the MIDI file, `Folder/Title.mid`; Converted) of a piece of `tunes_of` or
    `scores_of`."""
    collection, source = piece
    if collection in BOOKS:
        tune = read_tune(source, last_endings=True)
        row = Converted(tune_midi(tune.text) if tune.text else None, tune.reason)
        folder, title = BOOKS[collection][0], tune.title or "untitled"
    else:
        row = convert_score(source.name, source.read_bytes())
        folder, title = SCORES[collection][0], source.stem  # "bwv66.6"
        if row.title and title not in row.title:
            title = f"{row.title} ({title})"
    return f"{folder}/{title.replace('/', '-')}.mid", row
