"""Reading a corpus: every tune in one row, what it is called, what it sounds like, and its text, cut into pieces.

A *tune* is a dict of built-in values:

    origin      path of its file below the folder, `#number` behind it in a tunebook     name   see groups.name_key
    exact, free digests of its notes, and of its notes in any key at any speed           group  once it has one
    signature, n_shingles    fingerprint of its melodies (groups.py)
    chars, compressed        characters of its training text; zlib's bytes by those of the text
    is_abc      whether it looks like ABC at all; key, meter, tempo, n_notes, n_bars, n_voices, quarters, rest_share:
                its music, None where the strict reader refuses it
    pieces      [(first bar, text)]; after `read_all` [(first bar, place, bytes, characters)] in the spool
"""

import functools
import hashlib
import multiprocessing
import os
import re
import signal
import zlib
from pathlib import Path

import numpy as np

from music.abc_fields import TICKS
from music.abc_text import AbcError, read_abc
from music.training_text import cut, training_text
from music.tunebook import split_tunebook
from study import groups
from study.stage import progress

JOB_BYTES = 1 << 18  # of ready-made text per pool job


# ---------------------------------------------------------------- one tune

def guess_voices(text):
    """Letters and octave marks of a text that the strict reader refuses, as one voice of equal notes: enough to
    recognise a tune. Keys and accidentals are left out: the melody's outline decides."""
    music = re.sub(r'(?m)^[A-Za-z]:.*$|"[^"]*"|![^!]*!|\[[A-Za-z]:[^\]]*\]', "", text)
    pitches = [(60, 62, 64, 65, 67, 69, 71)["CDEFGAB".index(letter.upper())] + 12 * letter.islower()
               + 12 * (marks.count("'") - marks.count(",")) for letter, marks in re.findall("([A-Ga-g])([,']*)", music)]
    n = len(pitches)
    return [(np.arange(n), np.ones(n, np.int64), np.array(pitches, dtype=np.int64))] if n else []


def rest_share(tune, voices):
    """Share of the time of all voices in which they rest; 1 for a tune without notes.

    A voice sounds from an onset to the end of the notes that start there, or to its next onset if that comes first:
    overlapping notes of one voice count once.
    """
    span = max((sum(float(bar.length) for bar in voice.bars) for voice in tune.voices), default=0)
    sounding = 0
    for onsets, durations, _ in voices:
        starts, index = np.unique(onsets, return_index=True)
        ends = np.minimum(starts + durations[index], np.append(starts[1:], 2**62))
        sounding += float((ends - starts).sum()) / TICKS
    total = span * len(tune.voices)
    return max(0.0, 1 - sounding / total) if total else 1.0


def read_tune(origin, name, text, max_chars, min_chars):
    """The row (a dict, see above) of a tune's training text, cut into pieces of min_chars to max_chars characters."""
    fields = dict(reversed(re.findall(r"(?m)^([MK]):[ \t]*(\S.*)$", text)))
    is_abc = "K" in fields and text.startswith("X:")
    row = {"origin": origin, "name": name, "is_abc": is_abc, "chars": len(text),
           "pieces": cut(text, max_chars, min_chars),
           "compressed": len(zlib.compress(text.encode(), 9)) / len(text.encode()), "rest_share": None,
           "tempo": None, "n_bars": None, "quarters": None, "n_voices": None, "key": fields.get("K"),
           "meter": fields.get("M")}
    try:
        tune = read_abc(text)
        voices = [tuple(np.array(part, dtype=np.int64) for part in voice[1:]) for voice in tune.ticks if len(voice[1])]
        row.update(rest_share=rest_share(tune, voices), tempo=tune.tempo, n_voices=len(tune.voices),
                   n_bars=max((len(voice.bars) for voice in tune.voices), default=0),
                   quarters=max((sum(float(bar.length) for bar in voice.bars) for voice in tune.voices), default=0.0))
    except AbcError:
        tune, voices = None, guess_voices(text) if is_abc else []
    if tune is not None and voices:
        row["exact"], row["free"] = groups.note_digests(voices)
    else:  # what is guessed or silent equals only the same text
        row["exact"] = row["free"] = hashlib.blake2b(text.encode(), digest_size=16).digest()
    hashes = groups.shingles(voices)
    row.update(n_notes=sum(len(onsets) for onsets, _, _ in voices) if is_abc else None, n_shingles=len(hashes),
               signature=groups.signature(hashes))
    return row


# ---------------------------------------------------------------- files, in a pool of processes

def read_text(path):
    """Text of a file; bytes that are not UTF-8 are taken as Latin-1, as old tunebooks are."""
    data = Path(path).read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_file(job, **limits):
    """Pool worker: all tunes of one .abc file, (path, path below the folder). In a tunebook every tune is named by
    the book and its title, else by the path."""
    path, relative = job
    origin = re.sub(r"[\t\r\n]", " ", os.fsencode(relative).decode("utf-8", "replace"))
    tunes = split_tunebook(read_text(path), any_text=True)
    if len(tunes) == 1:
        return [read_tune(origin, groups.path_key(origin), training_text(tunes[0]), **limits)]
    rows = []
    for number, raw in enumerate(tunes, 1):
        title = re.search(r"(?m)^T:[ \t]*(\S.*)$", raw)
        name = groups.name_key(origin.removesuffix(".abc"), title.group(1)) if title else None
        rows.append(read_tune(f"{origin}#{number}", name, training_text(raw), **limits))
    return rows


def read_ready(job, **limits):
    """Pool worker: tunes of ready-made text, [(origin, text)], taken as they are."""
    return [read_tune(origin, None, text, **limits) for origin, text in job]


def ready_jobs(folder, splits):
    """Jobs for `read_ready` and the number of tunes per split of a folder with ready-made splits."""
    jobs, n_tunes = [], {}
    for split in splits:
        texts = split_tunebook(read_text(folder / f"{split}.txt"), any_text=True)
        tunes = [(f"{split}.txt#{number}", text) for number, text in enumerate(texts, 1)]
        n_tunes[split], job, size = len(tunes), [], 0
        for tune in tunes:
            job, size = job + [tune], size + len(tune[1])
            if size > JOB_BYTES:
                jobs, job, size = jobs + [job], [], 0
        jobs += [job] if job else []
    return jobs, n_tunes


def start_worker():
    """Pool initialiser: a worker ends silently with its parent."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def read_all(reader, jobs, workers, spool, **limits):
    """All tunes in the order of the jobs; their pieces go to the file `spool` and leave (first bar, place, bytes,
    characters) behind, so that memory holds no text. limits: max_chars and min_chars of a piece."""
    tunes, chunk = [], max(1, min(32, len(jobs) // (8 * workers)))
    with multiprocessing.Pool(workers, start_worker) as pool:
        answers = pool.imap(functools.partial(reader, **limits), jobs, chunksize=chunk)
        for tune in (tune for rows in progress(answers, len(jobs), "reading", "file") for tune in rows):
            places = []
            for first_bar, text in tune["pieces"]:
                encoded = text.encode("utf-8", "replace")
                places.append((first_bar, spool.tell(), len(encoded), len(text)))
                spool.write(encoded)
            tunes.append({**tune, "pieces": places})
    spool.flush()
    return tunes
