"""The embedded corpus: real music inside the music21 package, books of old tunes in ABC and scores
in MusicXML or kern.
"""

from importlib.util import find_spec
from pathlib import Path

from music.abc_mending import decoded, split_book
from music.abc_people import read_tune, tune_midi
from music.scores import Converted, convert_score

BOOKS = {  # name: (folder to write, folder of the package); ABC, of one voice
    "oneills": ("O'Neill 1850", "oneills1850"),
    "ryans": ("Ryan's Mammoth", "ryansMammoth"),
    "airds": ("Aird's Airs", "airdsAirs"),
    "miscfolk": ("Folk", "miscFolk"),
    "essen": ("Essen", "essenFolksong"),
}
SCORES = {  # name: (folder to write, folder of the package, files); of several voices
    "bach": ("Bach Chorales", "bach", ".mxl"),
    "palestrina": ("Palestrina", "palestrina", ".krn"),
    "trecento": ("Trecento", "trecento", ".xml"),
    "monteverdi": ("Monteverdi", "monteverdi", ".mxl"),
}
OWN_CONDITIONS = "encodings with their own conditions (music21/corpus/license.txt)"
NOTICES = {  # of collections that may not be shared freely
    "essen": "Essen folk songs: non-commercial use only (music21/corpus/essenFolksong/license.txt)",
    "palestrina": (
        "Palestrina masses: the licence conditions stand in the Kern files and in"
        " music21/corpus/license.txt"
    ),
    "trecento": f"Trecento pieces: {OWN_CONDITIONS}",
    "monteverdi": f"Monteverdi madrigals: {OWN_CONDITIONS}",
}


def corpus_folder():
    """Returns the corpus folder inside the music21 package, or None."""
    # importing the package takes 1 s
    spec = find_spec("music21")
    folder = spec and Path(spec.origin).parent / "corpus"
    return folder if folder and folder.is_dir() else None


def collection_files(names):
    """Returns [[path in the corpus folder, bytes]] of all files of these collections."""
    package = corpus_folder()
    folders = [package / (BOOKS | SCORES)[name][1] for name in names]
    return [
        [str(path.relative_to(package)), path.stat().st_size]
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


def tunes_of(names):
    """Returns [(collection, RawTune)] of the books among these collections."""
    return [
        (name, tune)
        for name in names
        if name in BOOKS
        for book in sorted((corpus_folder() / BOOKS[name][1]).glob("*.abc"))
        for tune in split_book(decoded(book.read_bytes())[0])[0]
    ]


def scores_of(names):
    """Returns [(collection, path)] of the scores among these collections."""
    return [
        (name, path)
        for name in names
        if name in SCORES
        for path in sorted((corpus_folder() / SCORES[name][1]).rglob("*" + SCORES[name][2]))
    ]


def convert_piece(piece):
    """Returns (`Folder/Title.mid`, Converted) of a row of `tunes_of` or `scores_of`."""
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
