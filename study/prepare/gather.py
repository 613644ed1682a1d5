"""Music of every kind into one folder of MIDI: MIDI as it is, scores and ABC as they are printed.

Files go through in batches, so that memory holds one batch and the order of names does not depend
on which core was faster. A file that cannot be read is a counted row.
"""

from collections import Counter

from study.stages.process import cpu_count, worker_pool

from music import corpus
from music.abc_people import read_people, tune_midi
from music.scores import SUFFIXES as SCORE_SUFFIXES
from music.scores import convert_score
from study.prepare.conversion import SUFFIXES, limit_memory, printable
from study.prepare.sources import licence_of, place_of

MUSIC_SUFFIXES = (*SUFFIXES, *SCORE_SUFFIXES, ".abc")
BATCH_FILES = 512
BATCH_BYTES = 64 << 20
MAX_NAMED = 100  # files left out that the manifest names
COLUMNS = ("path", "licence", "composer", "work", "from")


class Collected:
    """What was taken: the folder of MIDI, a table with a row a file, and what was left out.

    midi: a MidiFolder; table: an open text file; licence: of the source, None if its files say."""

    def __init__(self, midi, table, licence=None):
        self.midi, self.table, self.licence = midi, table, licence
        self.unread = []  # [path, reason], the first MAX_NAMED
        table.write("\t".join(COLUMNS) + "\n")

    def take(self, name, data, origin="", rights="", composer="", work=""):
        """Adds a MIDI file and its row."""
        path = self.midi.add(name, data)
        licence = self.licence or licence_of(rights)
        row = (path, licence, composer, work, origin or name)
        self.table.write("\t".join(map(printable, row)) + "\n")

    def leave_out(self, name, kind, reason):
        """Counts a file that gave no MIDI."""
        self.midi.left_out[kind] += 1
        if len(self.unread) < MAX_NAMED:
            self.unread.append([name, reason])


def gather(members, collected):
    """Adds all (name, bytes) of `members` to a Collected."""
    with worker_pool(cpu_count(), cpu_count()) as pool:
        for batch in batches(members):
            scores = [row for row in batch if row[0].lower().endswith(SCORE_SUFFIXES)]
            converted = pool.map(_convert, scores, chunksize=4) if scores else iter(())
            for name, data in batch:
                if name.lower().endswith(SUFFIXES):
                    place = place_of(name)
                    collected.take(place.path, data, name)
                elif name.lower().endswith(".abc"):
                    take_tunes(name, data, collected)
                else:
                    take_score(name, next(converted), collected)


def batches(members):
    """Lists of members of at most BATCH_FILES, or about BATCH_BYTES."""
    batch, n_bytes = [], 0
    for name, data in members:
        batch.append((name, data))
        n_bytes += len(data)
        if len(batch) == BATCH_FILES or n_bytes > BATCH_BYTES:
            yield batch
            batch, n_bytes = [], 0
    yield batch


def _convert(row):
    limit_memory()
    return convert_score(*row)


def take_score(name, row, collected):
    """Adds a score that was converted, or counts why there is none."""
    if row.midi is None:
        collected.leave_out(name, "unreadable score", row.reason)
        return
    place = place_of(name)
    collected.take(
        place.path,
        row.midi,
        name,
        rights=row.rights,
        composer=place.composer or row.composer,
        work=place.work or row.work,
    )


def take_tunes(name, data, collected):
    """Adds the tunes of an ABC file, mended where they have faults, as printed; a book's are named
    by their titles."""
    tunes = read_people(data, name)
    if not tunes:
        collected.leave_out(name, "unreadable ABC", "no tune: no line begins with X:")
    for number, tune in enumerate(tunes, 1):
        title = (tune.title or str(number)).replace("/", "-")
        path = name if len(tunes) == 1 else f"{name[:-4]}/{title}.abc"
        if tune.text is None:
            collected.leave_out(f"{name}#{number}", "unreadable ABC", tune.reason)
        else:
            midi = tune_midi(tune.text)
            collected.take(path, midi, name, rights=tune.rights, composer=tune.composer)


def take_embedded(names, limit, seed, collected, sample):
    """Adds the collections of the music21 package of these names, all or a seeded sample."""
    pieces = {f"tune {index}": tune for index, tune in enumerate(corpus.tunes_of(names))}
    pieces |= {f"score {index}": score for index, score in enumerate(corpus.scores_of(names))}
    chosen = sample([*pieces], limit, seed) or set(pieces)
    pieces = [piece for key, piece in pieces.items() if key in chosen]
    with worker_pool(cpu_count(), len(pieces)) as pool:
        rows = pool.map(corpus.convert_piece, pieces, chunksize=8)
        for (collection, _), (name, row) in zip(pieces, rows):
            collected.licence = corpus.NOTICES.get(collection, "public domain")
            if row.midi is None:
                collected.leave_out(name, f"{collection}: unreadable", row.reason)
            else:
                collected.take(name, row.midi, composer=row.composer)


def licences_in(path):
    """{licence: files} of a table of files, most first."""
    with open(path, encoding="utf-8") as table:
        next(table)
        return dict(Counter(line.split("\t")[1] for line in table).most_common(20))
