"""Reads a corpus: what every tune is called, what it sounds like, and its text, cut into pieces.

A *tune* is a dict:

    origin      path of its file below the folder, `#number` behind it in a tunebook
    name        see groups.name_key
    group       once it has one
    exact, free digests of its notes, and of its notes in any key at any speed
    signature, n_shingles, melody_signature, n_melody    fingerprints of all voices, of the top one
    is_abc      whether it looks like ABC at all
    key, meter, n_notes, n_voices, rest_share    None where unknown
    mended      {kind of fault: how often}
    reason      why it cannot be read, or ""
    pieces      [(first bar, text)]; after `read_all` [(first bar, place, bytes, characters)]
"""

import hashlib
import itertools
import os
import re
from pathlib import Path

from study.stages.process import progress, worker_pool

import numpy as np

from music import corpus
from music.abc_fields import TICKS
from music.abc_mending import decoded
from music.abc_people import PeoplesTune, read_people
from music.abc_text import AbcError, read_abc
from music.training_text import cut, tagged, training_text
from music.tunebook import split_tunebook
from study.prepare import groups

MIN_CHARS, MAX_CHARS = 101, 4999  # of a sequence: less is little more than a header
# of ABC text; letters in them are words
NO_NOTES = re.compile(r'(?m)^[A-Za-z]:.*$|"[^"]*"|![^!]*!|\[[A-Za-z]:[^\]]*\]')
SCALE = (60, 62, 64, 65, 67, 69, 71)  # MIDI pitches of C to B
UNTAGGED = 0.15  # of the groups, so that a model can do without the collection's name
TAG_CHARS = 30  # of a collection's name, at most
SHORT_NAMES = {row[0]: name for name, row in {**corpus.BOOKS, **corpus.SCORES}.items()}


def guess_voices(text):
    """Returns the letters of a text that cannot be read as one voice of equal notes: enough of an
    outline to recognise it."""
    pitches = []
    for letter, marks in re.findall("([A-Ga-g])([,']*)", NO_NOTES.sub("", text)):
        octave = letter.islower() + marks.count("'") - marks.count(",")
        pitches.append(12 * octave + SCALE["CDEFGAB".index(letter.upper())])
    n = len(pitches)
    return [(np.arange(n), np.ones(n, np.int64), np.array(pitches, dtype=np.int64))] if n else []


def rest_share(tune, voices):
    """Returns the share of all voices' time in which they rest; 1 without notes."""
    span = max((sum(float(bar.length) for bar in voice.bars) for voice in tune.voices), default=0)
    sounding = 0
    for onsets, durations, _ in voices:
        starts, index = np.unique(onsets, return_index=True)
        ends = np.minimum(starts + durations[index], np.append(starts[1:], 2**62))
        sounding += float((ends - starts).sum()) / TICKS
    total = span * len(tune.voices)
    return max(0.0, 1 - sounding / total) if total else 1.0


def read_tune(origin, name, text, max_chars, compare=True):
    """Returns the row (see above) of a tune's training text; compare: with the fingerprints by
    which tunes are grouped."""
    fields = dict(reversed(re.findall(r"(?m)^([MK]):[ \t]*(\S.*)$", text)))
    is_abc = "K" in fields and text.startswith("X:")
    row = {"origin": origin, "name": name, "mended": {}, "reason": "", "is_abc": is_abc}
    row |= {"key": fields.get("K"), "meter": fields.get("M")}
    row |= dict.fromkeys(("rest_share", "n_voices", "n_notes"))
    row["pieces"] = cut(text, max_chars, MIN_CHARS)
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
    row |= {"exact": digest, "free": digest}  # what is guessed or silent equals the same text alone
    try:
        tune = read_abc(text)
        voices = [np.array(voice[1:], dtype=np.int64) for voice in tune.ticks if len(voice[1])]
        row["rest_share"], row["n_voices"] = rest_share(tune, voices), len(tune.voices)
        if voices:
            row["exact"], row["free"] = groups.note_digests(voices)
    except AbcError:
        voices = guess_voices(text) if is_abc else []
    if is_abc:
        row["n_notes"] = sum(len(onsets) for onsets, _, _ in voices)
    return row | _fingerprints(voices) if compare else row


def _fingerprints(voices):
    hashes = groups.shingles(voices)
    row = {"n_shingles": len(hashes), "signature": groups.signature(hashes)}
    row.update(n_melody=len(hashes), melody_signature=row["signature"])
    if len(voices) > 1:
        top = groups.shingles([groups.top_voice(voices)])
        row.update(n_melody=len(top), melody_signature=groups.signature(top))
    return row


def read_file(job, mend=False, max_chars=MAX_CHARS):
    """Reads the tunes of an .abc file, (path, path below the folder), named by the path, in a
    tunebook by their titles. mend: into the project's normal form, if it has any tune."""
    path, relative = job
    origin = re.sub(r"[\t\r\n]", " ", os.fsencode(relative).decode("utf-8", "replace"))
    data = Path(path).read_bytes()
    tunes = read_people(data, Path(relative).stem) if mend else []
    if not tunes:
        raw_tunes = split_tunebook(decoded(data)[0], any_text=True)
        titles = ["".join(re.findall(r"(?m)^T:[ \t]*(\S.*)$", raw)[:1]) for raw in raw_tunes]
        tunes = [PeoplesTune(title, 0, raw, "", {}) for title, raw in zip(titles, raw_tunes)]
    rows = []
    for number, tune in enumerate(tunes, 1):
        place, name = origin, groups.path_key(origin)
        if len(tunes) > 1:
            place = f"{origin}#{number}"
            name = tune.title and groups.name_key(origin.removesuffix(".abc"), tune.title)
        text = training_text(tune.text or "X:1\nK:C\n")
        row = read_tune(place, name, text, max_chars)
        rows.append({**row, "mended": tune.mended, "reason": tune.reason})
    return rows


def read_ready(job):
    """Reads a part of ready-made text, (name of the file, part), as it is."""
    name, part = job
    return [read_tune(name, None, part, MAX_CHARS, compare=False)]


def ready_parts(data):
    """Splits the bytes of ready-made text at empty lines and before a line `X:`.

    >>> ready_parts(b"Jigs\\n\\nX:1\\nK:C\\nC|\\nX:2\\nK:G\\nG|\\n\\n\\nby ear")
    ['Jigs\\n', 'X:1\\nK:C\\nC|\\n', 'X:2\\nK:G\\nG|\\n', 'by ear\\n']
    """
    parts = re.split(r"\n[ \t]*(?=\n)|\n(?=X:)", decoded(data)[0])
    return [part.strip("\n") + "\n" for part in parts if part.strip()]


def read_all(reader, jobs, workers, spool):
    """Returns all tunes in the order of the jobs; their pieces' text goes to the file `spool`."""
    tunes, chunk = [], max(1, min(32, len(jobs) // (8 * workers)))
    with worker_pool(workers, len(jobs)) as pool:
        answers = progress(pool.map(reader, jobs, chunksize=chunk), len(jobs), "reading", "file")
        for tune in itertools.chain.from_iterable(answers):
            places = []
            for first_bar, text in tune["pieces"]:
                encoded = text.encode("utf-8", "replace")
                places.append((first_bar, spool.tell(), len(encoded), len(text)))
                spool.write(encoded)
            tunes.append({**tune, "pieces": places})
    spool.flush()
    return tunes


def text_of(sequence, spool):
    """Returns the text of a sequence, from the spool."""
    return os.pread(spool.fileno(), sequence["bytes"], sequence["at"]).decode()


def style_of(origin):
    """Returns what R: says of a file: the short name of its collection, or its first folder.

    >>> style_of("Bach Chorales/bwv1.6.abc"), style_of("AC-DC/T.N.T..abc"), style_of("x.abc")
    ('bach', 'ac_dc', None)
    """
    folder, slash, _ = origin.partition("/")
    name = SHORT_NAMES.get(folder) or re.sub(r"\W+", "_", folder.lower()).strip("_")[:TAG_CHARS]
    return name if slash and name else None


def tag_sequences(parts, spool, seed):
    """Names the collection in the headers of sequences, but for UNTAGGED of the groups; returns how
    many were tagged. The new text goes to the end of the spool."""
    n_tagged, end = 0, spool.seek(0, os.SEEK_END)
    for sequence in itertools.chain(*parts.values()):
        style = style_of(sequence["origin"])
        if style and groups.hash_number(seed, sequence["group"], "tag") >= UNTAGGED:
            text = tagged(text_of(sequence, spool), style)
            encoded = text.encode()
            sequence.update(at=end, bytes=len(encoded), chars=len(text))
            end += spool.write(encoded)
            n_tagged += 1
    spool.flush()
    return n_tagged
