"""Describes the sources that have a name: what may be done with them, where a file is put."""

import re
from typing import NamedTuple

from music import corpus

GITHUB = "https://github.com/{}/archive/refs/heads/main.zip"
LAKH = "http://hog.ee.columbia.edu/craffel/lmd/"
FROM_THE_WEB = "files collected from the web, rights with their authors; for research"
PUBLIC_DOMAIN, CC0, NOT_STATED = "public domain", "CC0 1.0", "not stated"


class Source(NamedTuple):
    """A source with a name."""

    urls: tuple  # of archives
    licence: str
    may_share: bool  # whether what is made of it may be passed on


OPENSCORE = (GITHUB.format("OpenScore/Lieder"), GITHUB.format("OpenScore/StringQuartets"))
POLISH = (GITHUB.format("pl-wnifc/humdrum-polish-scores"),)
CHOPIN_INSTITUTE = "CC BY 4.0, Fryderyk Chopin Institute, polishscores.org"
SOURCES = {
    "lakh": Source((LAKH + "clean_midi.tar.gz",), FROM_THE_WEB, False),
    "lakh-full": Source((LAKH + "lmd_full.tar.gz",), FROM_THE_WEB, False),
    "openscore": Source(OPENSCORE, CC0, True),
    "polish": Source(POLISH, CHOPIN_INSTITUTE, True),
}
# why the name that people will try has nothing behind it
THE_SESSION = (
    "The Session's licence forbids to train language models on its tunes"
    " (LICENSE.md of github.com/adactio/TheSession-data)"
)
NAMES = (*SOURCES, "music21")


def source_rows(name, collections=(), said=()):
    """Returns [{name, licence, url, may_share (None: nobody says)}] of a source, one for each
    archive or collection. said: licences that the files of another source state."""
    if name == "music21":
        return [
            {
                "name": f"music21/{collection}",
                "licence": corpus.NOTICES.get(collection, PUBLIC_DOMAIN),
                "url": "https://github.com/cuthbertLab/music21",
                "may_share": collection not in corpus.NOTICES,
            }
            for collection in collections
        ]
    if name in SOURCES:
        urls, licence, may_share = SOURCES[name]
        row = {"name": name, "licence": licence, "may_share": may_share}
        return [{**row, "url": url} for url in urls]
    may_share = True if said and set(said) <= {CC0, PUBLIC_DOMAIN} else None
    licence = ", ".join(said) or NOT_STATED
    return [{"name": "own files", "licence": licence, "url": None, "may_share": may_share}]


def licence_of(rights):
    """Returns the licence that a file's own words name; the words if they name none.

    >>> licence_of("OpenScore (CC0)"), licence_of("License CC-BY-4.0"), licence_of("")
    ('CC0 1.0', 'CC BY 4.0', 'not stated')
    """
    if re.search(r"\bCC[0O]\b", rights):
        return CC0
    match = re.search(r"(?i)\bCC[- ](BY(?:[- ](?:NC|SA|ND))*)[- ](\d\.\d)", rights)
    if match:
        return f"CC {match[1].upper().replace(' ', '-')} {match[2]}"
    return re.sub(r"\s+", " ", rights).strip()[:120] or NOT_STATED


class Place(NamedTuple):
    """Where a file is put, and what its path says of it."""

    path: str  # below data/raw_midi
    composer: str = ""
    work: str = ""  # the song cycle, quartet or mass that it belongs to


def place_of(name):
    """Returns the Place of a member of a source. Known layouts become Composer/Work/Title.

    >>> place_of("Lieder-main/scores/Wolf,_Hugo/Lieder/1_Im_Lenz/lc12.mxl")
    Place(path='Wolf, Hugo/Lieder/1 Im Lenz.mxl', composer='Wolf, Hugo', work='Lieder')
    """
    folders, _, file = name.rpartition("/")
    folders = folders.replace("_", " ").split("/")
    if re.fullmatch(r"(?i)(lc|sq)\d+\.mxl", file):  # OpenScore
        for top in ("scores", "lieder", "quartets"):
            if top in folders:
                folders = folders[folders.index(top) + 1 :]
        if file.lower().startswith("sq") and len(folders) >= 2:
            composer, work = folders[:2]
            return Place(f"{composer}/{work}.mxl", composer, work)
        if len(folders) >= 3:
            composer, work, title = folders[0], folders[1].strip(), folders[-1]
            parts = filter(None, (composer, work, title))  # work "_": a song of no set
            return Place("/".join(parts) + ".mxl", composer, work)
    # siglum--shelfmark--piece-part_composer--title of the Polish collection
    polish = re.fullmatch(r"(.+--.*?)(?:-\d{3})?_([^_]+)--(.+)\.krn", file)
    if polish and re.match(r"[a-z]+-[a-z]+--", file):
        composer = polish[2].replace("-", " ").title()
        return Place(f"{composer}/{file}", composer, polish[1] if "-0" in file else "")
    return Place(name)
