"""Gathers music of every kind in one folder of MIDI: MIDI as it is, scores and ABC as printed.

Memory holds one batch of files. A file that cannot be read is counted.
"""

import itertools
import os
import re
import unicodedata
from collections import Counter

from study.stages.process import cpu_count, worker_pool

from music import corpus
from music.abc_people import read_people, tune_midi
from music.scores import SUFFIXES as SCORE_SUFFIXES
from music.scores import convert_score
from study.prepare.conversion import SUFFIXES, limit_memory, printable
from study.prepare.fetch import (
    MAX_TOTAL_BYTES,
    Refused,
    in_words,
    music_members,
    safe_name,
    sample,
)
from study.prepare.sources import PUBLIC_DOMAIN, licence_of, place_of

MAX_FILES = 1_000_000  # lakh-full, the largest corpus in public use, has 176,581
MAX_DEPTH = 12  # folders of a path, the last ones: a path may have 4,096 bytes
BATCH_FILES = 128
MAX_NAMED = 100  # files left out that the manifest names
COLUMNS = ("path", "licence", "composer", "work", "from")


class Collected:
    """A folder that fills up with MIDI files under safe unique names, and a table of them (an open
    text file). licence: of the source (None: its files say); left_out: {reason: files}; unread:
    [path, reason] of the first of them."""

    def __init__(self, folder, table):
        self.folder, self.table, self.licence = folder, table, None
        self.files, self.bytes, self.taken = 0, 0, set()
        self.left_out, self.licences, self.unread = Counter(), Counter(), []
        table.write("\t".join(COLUMNS) + "\n")

    def take(self, name, data, origin="", rights="", composer="", work=""):
        """Writes a MIDI file under a safe form of its name, and its row."""
        if self.files >= MAX_FILES or self.bytes + len(data) > MAX_TOTAL_BYTES:
            most = f"{MAX_FILES:,} files or {MAX_TOTAL_BYTES >> 30} GB of MIDI"
            raise Refused(f"more than {most}: not a corpus")
        relative = self._unique(name)
        path = self.folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.files, self.bytes = self.files + 1, self.bytes + len(data)
        licence = printable(self.licence or licence_of(rights))
        self.licences[licence] += 1
        row = (relative, licence, composer, work, origin or name)
        self.table.write("\t".join(map(printable, row)) + "\n")

    def _unique(self, name):
        """Returns a path that no other file has, even where letter case does not count."""
        parts = [safe_name(part) for part in re.split(r"[/\\]", name) if part not in ("", ".")]
        *folders, file = parts[-MAX_DEPTH:]
        # a folder must not have the name of a file
        folders = [folder + "_" * folder.lower().endswith(".mid") for folder in folders]
        stem = "/".join([*folders, os.path.splitext(file)[0]])
        for number in itertools.count():
            path = f"{stem}.{number}.mid" if number else f"{stem}.mid"
            key = unicodedata.normalize("NFC", path).casefold()
            if key not in self.taken:
                self.taken.add(key)
                return path

    def leave_out(self, name, kind, reason):
        """Counts a file that gave no MIDI."""
        self.left_out[kind] += 1
        if len(self.unread) < MAX_NAMED:
            self.unread.append([name, reason])

    def check(self):
        """Raises Refused, with what was left out, if there is no music."""
        if not self.files:
            words = f", only {in_words(self.left_out)}" if self.left_out else ""
            if self.left_out["link"]:
                words += ": give the folder that the links lead to"
            raise Refused(f"it holds no music that can be read{words}")


def gather(source, collected, limit=None, seed=0):
    """Adds the music of a folder, an archive or a file (see `fetch.music_members`)."""
    members = music_members(source, collected.left_out, limit, seed)
    with worker_pool(cpu_count(), cpu_count()) as pool:
        while batch := list(itertools.islice(members, BATCH_FILES)):
            scores = [row for row in batch if row[0].lower().endswith(SCORE_SUFFIXES)]
            converted = pool.map(_convert, scores, chunksize=4)
            for name, data in batch:
                if name.lower().endswith(SUFFIXES):
                    collected.take(place_of(name).path, data, name)
                elif name.lower().endswith(".abc"):
                    take_tunes(name, data, collected)
                else:
                    take_score(name, next(converted), collected)


def _convert(row):
    limit_memory()
    return convert_score(*row)


def take_score(name, row, collected):
    """Adds a score that was converted, or counts why there is none."""
    if row.midi is None:
        collected.leave_out(name, "unreadable score", row.reason)
        return
    place = place_of(name)
    composer, work = place.composer or row.composer, place.work or row.work
    collected.take(place.path, row.midi, name, row.rights, composer, work)


def take_tunes(name, data, collected):
    """Adds the tunes of an ABC file, mended; a book's are named by their titles."""
    tunes = read_people(data, name)
    if not tunes:
        collected.leave_out(name, "unreadable ABC", "no tune: no line begins with X:")
    for number, tune in enumerate(tunes, 1):
        title = (tune.title or str(number)).replace("/", "-")
        path = name if len(tunes) == 1 else f"{name[:-4]}/{title}.abc"
        if tune.text is None:
            collected.leave_out(f"{name}#{number}", "unreadable ABC", tune.reason)
        else:
            collected.take(path, tune_midi(tune.text), name, tune.rights, tune.composer)


def take_embedded(names, limit, seed, collected):
    """Adds collections of the music21 package, or a seeded sample of them."""
    pieces = {f"tune {index}": tune for index, tune in enumerate(corpus.tunes_of(names))}
    pieces |= {f"score {index}": score for index, score in enumerate(corpus.scores_of(names))}
    chosen = pieces if limit is None else sample(pieces, limit, seed)
    pieces = [piece for key, piece in pieces.items() if key in chosen]
    with worker_pool(cpu_count(), len(pieces)) as pool:
        rows = pool.map(corpus.convert_piece, pieces, chunksize=8)
        for (collection, _), (name, row) in zip(pieces, rows):
            collected.licence = corpus.NOTICES.get(collection, PUBLIC_DOMAIN)
            if row.midi is None:
                collected.leave_out(name, f"{collection}: unreadable", row.reason)
            else:
                collected.take(name, row.midi, composer=row.composer)
