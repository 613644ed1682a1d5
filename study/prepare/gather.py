"""Gathers music of every kind in one folder of MIDI: MIDI as it is, scores and ABC as printed.

Memory holds one batch of files. A file that cannot be read is counted.
"""

import itertools
from collections import Counter

from study.stages.process import cpu_count, worker_pool

from music import corpus
from music.abc_people import read_people, tune_midi
from music.scores import SUFFIXES as SCORE_SUFFIXES
from music.scores import convert_score
from study.prepare.conversion import SUFFIXES, limit_memory, printable
from study.prepare.fetch import sample
from study.prepare.sources import PUBLIC_DOMAIN, licence_of, place_of

MUSIC_SUFFIXES = (*SUFFIXES, *SCORE_SUFFIXES, ".abc")
BATCH_FILES = 128
MAX_NAMED = 100  # files left out that the manifest names
COLUMNS = ("path", "licence", "composer", "work", "from")


class Collected:
    """What was taken: a MidiFolder, a table with a row a file (an open text file), the licence of
    the source (None: its files say), and [path, reason] of the first files left out."""

    def __init__(self, midi, table):
        self.midi, self.table, self.licence = midi, table, None
        self.licences, self.unread = Counter(), []
        table.write("\t".join(COLUMNS) + "\n")

    def take(self, name, data, origin="", rights="", composer="", work=""):
        """Adds a MIDI file and its row."""
        path, licence = self.midi.add(name, data), printable(self.licence or licence_of(rights))
        self.licences[licence] += 1
        row = (path, licence, composer, work, origin or name)
        self.table.write("\t".join(map(printable, row)) + "\n")

    def leave_out(self, name, kind, reason):
        """Counts a file that gave no MIDI."""
        self.midi.left_out[kind] += 1
        if len(self.unread) < MAX_NAMED:
            self.unread.append([name, reason])


def gather(members, collected):
    """Adds all (name, bytes) of `members` to a Collected."""
    members = iter(members)
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
    """Adds the tunes of an ABC file, mended where they have faults; a book's by their titles."""
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
    """Adds collections of the music21 package, all of their pieces or a seeded sample."""
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
