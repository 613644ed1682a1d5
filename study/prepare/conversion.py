"""Converts very many MIDI files: worker processes, limits on time and memory, a journal to go on
from.

A file is hostile until shown otherwise: it costs a counted row, never the run. The parser is C++
code, and a crash in it cannot be caught inside the process, so a worker that dies or hangs costs
the file it was at.
"""

import csv
import gc
import itertools
import json
import math
import multiprocessing
import os
import resource
import signal
import time
import zlib
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import NamedTuple

from study.stages.files import tree_files, write_text
from study.stages.process import cpu_count, die_with_parent

from music.midi_to_abc import ConversionError, convert, self_check

SUFFIXES = (".mid", ".midi", ".kar", ".rmi")
MIDI_BYTES = 16 << 20  # the largest real song files are a twentieth of this
ABC_CHARS = 4_000_000  # the longest real song gives a tenth of this
MEMORY_BYTES = 2 << 30  # what one worker may allocate before a file counts as too large
FILES_A_WORKER = 16  # at least: a worker takes a second to start
MAX_DEATHS = 20  # of workers, with no file done between: it is the machine, not the files


class Settings(NamedTuple):
    """What every worker is told. raw, target: folders of MIDI and ABC; checked_share: of the files
    that are read back; timeout_seconds: of processor time."""

    raw: str
    target: str
    max_voices: int
    seed: int
    checked_share: float
    timeout_seconds: float


# ---------------------------------------------------------------- the files


def plan(raw):
    """[(MIDI name, ABC name)] below data/raw_midi; Song.mid and Song.MID in one folder give
    Song.abc, Song.MID.abc."""
    tasks, taken = [], set()
    for name in tree_files(raw):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in SUFFIXES:
            abc = stem + ".abc" if stem + ".abc" not in taken else name + ".abc"
            taken.add(abc)
            tasks.append((name, abc))
    return tasks


def remove_others(folder, keep):
    """Deletes the ABC files whose MIDI file is gone, and folders left empty."""
    for name in tree_files(folder):
        if name.endswith(".abc") and name not in keep:
            (folder / name).unlink()
    for below, _, _ in os.walk(folder, topdown=False):
        if below != str(folder):
            with suppress(OSError):
                os.rmdir(below)


def printable(name):
    """A name as one line of UTF-8, with escapes for control characters and undecodable bytes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def table_rows(path):
    """The rows of a table of files (tab-separated, a head line) as dicts; none of a missing one."""
    if path.exists():
        with open(path, encoding="utf-8") as table:
            yield from csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE)


# ---------------------------------------------------------------- one file


def convert_file(midi, abc, settings):
    """Converts one file; returns its row: {"chars", "notes", ...} or {"reason", "detail"}.

    Raises OSError if the ABC cannot be written, e.g. on a full disk: no fault of the file.
    """
    source = Path(settings.raw, midi)
    # the same files are read back whatever the order of work
    number = zlib.crc32(f"{settings.seed} {midi}".encode("utf-8", "surrogateescape"))
    try:
        with open(source, "rb") as file:
            data = file.read(MIDI_BYTES + 1)
        if len(data) > MIDI_BYTES:
            raise ConversionError("too_large", f"more than {MIDI_BYTES:,} bytes")
        text, row = convert(data, source.stem, settings.max_voices)
        if len(text) > ABC_CHARS:
            raise ConversionError("too_large", f"{len(text):,} characters of ABC")
        if number < settings.checked_share * 2**32:
            self_check(text, row)
    except ConversionError as error:
        return {"reason": error.args[0], "detail": error.args[1]}
    except MemoryError:
        return {"reason": "memory", "detail": f"needs more than {MEMORY_BYTES >> 20:,} MiB"}
    except OSError as error:
        return {"reason": "unreadable", "detail": error.strerror}
    except Exception as error:  # a surprise in one file must not end the run
        return {"reason": "internal", "detail": f"{type(error).__name__}: {error}"}
    write_text(Path(settings.target, abc), text, durable=False)
    return {"chars": len(text), **row}


# ---------------------------------------------------------------- one worker


def work(pipe, settings):
    """A worker: answers every (MIDI name, ABC name) from the pipe with a row."""
    die_with_parent()
    limit_memory()

    def too_slow(*_):
        raise ConversionError(
            "timeout", f"more than {settings.timeout_seconds:g} seconds of processor time"
        )

    signal.signal(signal.SIGPROF, too_slow)
    gc.disable()  # a file leaves no cycles worth the search: 5 % of the time
    gc.freeze()
    with suppress(EOFError, ConnectionError):  # no more files, or the run was killed
        for number in itertools.count():
            midi, abc = pipe.recv()
            if number % 16 == 0:
                gc.collect()
            try:
                signal.setitimer(signal.ITIMER_PROF, settings.timeout_seconds)
                row = convert_file(midi, abc, settings)
                signal.setitimer(signal.ITIMER_PROF, 0)
            except ConversionError as error:
                row = {"reason": error.args[0], "detail": error.args[1]}
            except OSError as error:  # while writing: stops the run
                row = error
            pipe.send(row)


def limit_memory():
    """Bounds what this process may allocate. Where the system has no such limit (macOS), a hostile
    file can cost gigabytes, but not a wrong row."""
    with suppress(AttributeError, ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))


# ---------------------------------------------------------------- all workers


def convert_all(tasks, n_workers, settings):
    """Yields (task, row) as files are done; tasks: (MIDI name, ABC name). Raises the OSError of a
    worker that cannot write, and CrewLost.

    No pool of the library: none survives a worker that dies and says which file it was at. That
    file is tried again at the end (the worker may have been killed for want of memory); a second
    death is its row.
    """
    crew = _Crew(tasks, settings)
    try:
        for _ in range(min(n_workers, cpu_count(), math.ceil(len(crew.waiting) / FILES_A_WORKER))):
            crew.start_worker()
        while crew.workers:
            ready = connection.wait(list(crew.workers), timeout=1)
            for pipe, worker in list(crew.workers.items()):
                task = worker.task
                row = crew.answer(pipe, worker) if pipe in ready else crew.silence(worker)
                if row is None:
                    continue
                if not crew.tried_again(task, row):
                    yield task, row
                crew.go_on(pipe, worker)
    finally:
        for worker in crew.workers.values():
            worker.process.kill()


class CrewLost(Exception):
    """The workers die whatever they are given; the message says how."""


@dataclass
class _Worker:
    """A worker process and the task that it has not answered for."""

    process: multiprocessing.Process
    task: tuple = ()
    last_heard: float = 0.0
    died: bool = False


class _Crew:
    """The workers by their pipes, the tasks that wait, and those at which a worker died."""

    def __init__(self, tasks, settings):
        self.waiting, self.settings, self.workers = deque(tasks), settings, {}
        # deaths: in a row, with no file done between
        self.crashed, self.deaths = set(), 0
        # as on macOS; a fork would share this process's threads
        self.context = multiprocessing.get_context("spawn")

    def start_worker(self):
        pipe, theirs = self.context.Pipe()
        process = self.context.Process(target=work, args=(theirs, self.settings), daemon=True)
        process.start()
        theirs.close()
        self.workers[pipe] = _Worker(process)
        self.feed(pipe, self.workers[pipe])

    def feed(self, pipe, worker):
        """Gives a worker the next task."""
        worker.task = self.waiting.popleft()
        worker.last_heard = time.monotonic()
        with suppress(BrokenPipeError):  # it has just died: the next answer says so
            pipe.send(worker.task)

    def answer(self, pipe, worker):
        """The row that a worker sends, or that its death is."""
        try:
            row = pipe.recv()
        except (EOFError, ConnectionResetError):
            worker.died = True
            worker.process.join()
            code = worker.process.exitcode
            return {"reason": "crash", "detail": f"the worker ended with code {code}"}
        if isinstance(row, OSError):
            raise row
        return row

    def silence(self, worker):
        """The row of a worker that does not answer (its own timer waits for C code); None: be
        patient."""
        patience_seconds = 10 * self.settings.timeout_seconds + 60
        if time.monotonic() - worker.last_heard <= patience_seconds:
            return None
        worker.died = True
        worker.process.kill()
        worker.process.join()
        return {"reason": "timeout", "detail": f"no answer in {patience_seconds:g} seconds"}

    def tried_again(self, task, row):
        """True if a worker died at this file for the first time; then it waits again."""
        again = row.get("reason") == "crash" and task not in self.crashed
        self.deaths = self.deaths + 1 if again else 0
        if again:
            self.crashed.add(task)
            self.waiting.append(task)
        if self.deaths >= MAX_DEATHS:
            raise CrewLost(f"{self.deaths} workers died one after another ({row['detail']})")
        return again

    def go_on(self, pipe, worker):
        """Gives a worker more to do or sends it off; replaces one that died."""
        if self.waiting and not worker.died:
            self.feed(pipe, worker)
            return
        pipe.close()
        del self.workers[pipe]
        if self.waiting:
            self.start_worker()


# ---------------------------------------------------------------- the journal


def read_journal(path, target):
    """{MIDI name: row} of what an earlier run finished and is still there; not of crashes, which
    may have been the machine's."""
    rows = {}
    if path.exists():
        with open(path, encoding="utf-8", errors="replace") as journal:
            for line in journal:
                with suppress(ValueError):  # the torn last line of a killed run
                    midi, abc, row = json.loads(line)
                    if row.get("reason") == "crash":
                        rows.pop(midi, None)
                    elif "reason" in row or (target / abc).exists():
                        rows[midi] = row
    return rows


def journaled(results, path, resume):
    """Passes (task, row) through and keeps each in the journal, from which a killed run goes on."""
    with open(path, "a" if resume else "w", encoding="utf-8") as journal:
        for (midi, abc), row in results:
            journal.write(json.dumps([midi, abc, row]) + "\n")
            journal.flush()
            yield (midi, abc), row
