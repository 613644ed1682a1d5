"""Converting very many MIDI files: worker processes, limits on time and memory, a journal to go on
from.

A file is hostile until shown otherwise: it costs a counted row, never the run. A worker that dies
or hangs costs the file it was at; the parser is C++ code, and a crash in it cannot be caught inside
the process.
"""

import gc
import json
import multiprocessing
import os
import resource
import signal
import time
import zlib
from collections import deque
from contextlib import suppress
from multiprocessing import connection
from pathlib import Path
from typing import NamedTuple

from study.stages.files import tree_files, write_text
from study.stages.process import cpu_count, die_with_parent

from music.midi_to_abc import ConversionError, convert, self_check

SUFFIXES = (".mid", ".midi", ".kar", ".rmi")
# the largest real song files are a twentieth of this; beyond it is not a song
MIDI_BYTES = 16 << 20
ABC_CHARS = 4_000_000  # the longest real song gives a tenth of this
MEMORY_BYTES = 2 << 30  # what one worker may allocate before a file counts as too large
BATCH = 16  # files handed to a worker at once, so that it need not wait for the next
# of workers, at one file each and none done between: it is the machine, not the files
MAX_DEATHS = 20


class Settings(NamedTuple):
    """What every worker is told. raw, target: folders of MIDI and ABC; checked_share: of the files
    are read back, the same ones for a seed; timeout_seconds: processor time for one file."""

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
    """Deletes the ABC files that no MIDI file stands for any more, and folders left empty."""
    for name in tree_files(folder):
        if name.endswith(".abc") and name not in keep:
            (folder / name).unlink()
    for below, _, _ in os.walk(folder, topdown=False):
        if below != str(folder):
            with suppress(OSError):
                os.rmdir(below)


def printable(name):
    """A file name as one line of UTF-8: control characters, tabs and undecodable bytes as backslash
    escapes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


# ---------------------------------------------------------------- one file


def convert_file(source, target, max_voices, check):
    """Converts one file; returns its row: {"chars", "notes", ...} or {"reason", "detail"}.

    Raises OSError if the ABC cannot be written, e.g. on a full disk: no fault of the file.
    """
    try:
        with open(source, "rb") as file:
            data = file.read(MIDI_BYTES + 1)
        if len(data) > MIDI_BYTES:
            raise ConversionError("too_large", f"more than {MIDI_BYTES:,} bytes")
        text, row = convert(data, Path(source).stem, max_voices)
        if len(text) > ABC_CHARS:
            raise ConversionError("too_large", f"{len(text):,} characters of ABC")
        if check:
            self_check(text, row)
    except ConversionError as error:
        return {"reason": error.args[0], "detail": error.args[1]}
    except MemoryError:
        return {"reason": "memory", "detail": f"needs more than {MEMORY_BYTES >> 20:,} MiB"}
    except OSError as error:
        return {"reason": "unreadable", "detail": error.strerror}
    except (
        Exception
    ) as error:  # a surprise in one file must not end the run; it is counted, and its kind is kept
        return {"reason": "internal", "detail": f"{type(error).__name__}: {error}"}
    write_text(target, text, durable=False)
    return {"chars": len(text), **row}


def is_checked(name, seed, share):
    """True for the given share of names, the same ones whatever the order of work."""
    return zlib.crc32(f"{seed} {name}".encode("utf-8", "surrogateescape")) < share * 2**32


# ---------------------------------------------------------------- one worker


def work(pipe, settings):
    """A worker: takes batches of (MIDI name, ABC name) from the pipe and answers with one row a
    file."""
    die_with_parent()
    limit_memory()

    def too_slow(*_):
        raise ConversionError(
            "timeout", f"more than {settings.timeout_seconds:g} seconds of processor time"
        )

    signal.signal(signal.SIGPROF, too_slow)
    gc.disable()  # a file leaves no cycles worth the search: 5 % of the time
    gc.freeze()  # what is collected between batches is theirs alone
    with suppress(EOFError, ConnectionError):  # the run was killed
        while batch := pipe.recv():
            gc.collect()
            for midi, abc in batch:
                try:
                    signal.setitimer(signal.ITIMER_PROF, settings.timeout_seconds)
                    row = convert_file(
                        f"{settings.raw}/{midi}",
                        f"{settings.target}/{abc}",
                        settings.max_voices,
                        is_checked(midi, settings.seed, settings.checked_share),
                    )
                    signal.setitimer(signal.ITIMER_PROF, 0)
                except ConversionError as error:
                    row = {"reason": error.args[0], "detail": error.args[1]}
                except OSError as error:  # while writing: stops the run
                    row = error
                pipe.send(row)


def limit_memory():
    """Bounds what this process may allocate. Where the system has no such limit or does not keep it
    (macOS), MIDI_BYTES
    and the bounds of the converter are all that holds: a hostile file can then cost gigabytes, but
    not a wrong row."""
    with suppress(AttributeError, ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))


# ---------------------------------------------------------------- all workers


def convert_all(tasks, n_workers, settings):
    """Yields (task, row) as files are done; tasks: (MIDI name, ABC name). Raises the OSError of a
    worker that cannot write, and CrewLost. No pool of the library: none survives a worker that dies
    and says which file it was at.

    A worker may be killed from outside (for want of memory, by a user): the file that it was at is
    tried again at the end, with a worker of its own, and a second death is its row.
    """
    crew = _Crew(tasks, settings)
    try:
        for _ in range(min(n_workers, cpu_count(), -(-len(crew.waiting) // BATCH))):
            crew.start_worker()
        while crew.workers:
            ready = connection.wait(list(crew.workers), timeout=1)
            for pipe in list(crew.workers):
                worker = crew.workers[pipe]
                row = crew.answer(pipe, worker) if pipe in ready else crew.silence(worker)
                if row is None:
                    continue
                if worker.batch:
                    worker.last_heard, task = time.monotonic(), worker.batch.popleft()
                    if not crew.tried_again(task, row):
                        yield task, row
                crew.go_on(pipe, worker)
    finally:
        for worker in crew.workers.values():
            worker.process.kill()


class CrewLost(Exception):
    """The workers die whatever they are given; the message says how."""


class _Worker:
    """A worker process and the files it was given and has not answered for; the first is the one it
    is at."""

    def __init__(self, process):
        self.process, self.batch, self.last_heard, self.died = (
            process,
            deque(),
            time.monotonic(),
            False,
        )


class _Crew:
    """The workers by their pipes, the tasks that wait for one, and the suspects: tasks whose worker
    died."""

    def __init__(self, tasks, settings):
        self.waiting, self.settings, self.workers = deque(tasks), settings, {}
        # deaths: since a file was last done
        self.suspects, self.retried, self.deaths = deque(), set(), 0
        # as on macOS; a fork would share this process's threads
        self.context = multiprocessing.get_context("spawn")

    def start_worker(self):
        pipe, theirs = self.context.Pipe()
        process = self.context.Process(target=work, args=(theirs, self.settings), daemon=True)
        process.start()
        theirs.close()
        self.workers[pipe] = _Worker(process)
        self.feed(pipe)

    def feed(self, pipe):
        worker, alone = self.workers[pipe], not self.waiting
        source, n = (self.suspects, 1) if alone else (self.waiting, min(BATCH, len(self.waiting)))
        worker.batch = deque(source.popleft() for _ in range(n))
        self.retried.update(worker.batch if alone else ())
        worker.last_heard = time.monotonic()
        with suppress(BrokenPipeError):  # it has just died: the next answer says so
            pipe.send(list(worker.batch))

    def answer(self, pipe, worker):
        """The row that a worker sends, or that its death is."""
        try:
            row = pipe.recv()
        except (EOFError, ConnectionResetError):
            worker.died = True
            worker.process.join()
            return {
                "reason": "crash",
                "detail": f"the worker ended with code {worker.process.exitcode}",
            }
        if isinstance(row, OSError):
            raise row
        return row

    def silence(self, worker):
        """The row of a worker that is not even computing (its own timer counts processor time);
        None: be patient."""
        patience_seconds = 10 * self.settings.timeout_seconds + 60
        if time.monotonic() - worker.last_heard <= patience_seconds:
            return None
        worker.died = True
        worker.process.kill()
        worker.process.join()
        return {"reason": "timeout", "detail": f"no answer in {patience_seconds:g} seconds"}

    def tried_again(self, task, row):
        """True if this row is the first death of a worker at this file, which then waits among the
        suspects."""
        again = row.get("reason") == "crash" and task not in self.retried
        self.deaths = self.deaths + 1 if again else 0
        if again:
            self.suspects.append(task)
        if self.deaths >= MAX_DEATHS:
            raise CrewLost(f"{self.deaths} workers died one after another ({row['detail']})")
        return again

    def go_on(self, pipe, worker):
        """After an answer: a dead worker is replaced and its other files wait again, an idle one is
        fed or sent off."""
        if worker.died:
            self.waiting.extendleft(reversed(worker.batch))
            del self.workers[pipe]
            if self.waiting or self.suspects:
                self.start_worker()
        elif not worker.batch and (self.waiting or self.suspects):
            self.feed(pipe)
        elif not worker.batch:
            with suppress(BrokenPipeError):
                pipe.send([])
            del self.workers[pipe]


# ---------------------------------------------------------------- the journal


def read_journal(path, target):
    """{MIDI name: row} of what an earlier run finished and is still there; not of crashes, which
    may have been the machine's. target: folder of the ABC files."""
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
    """Passes (task, row) through and keeps each in the journal, flushed, so that a killed run goes
    on from there."""
    with open(path, "a" if resume else "w", encoding="utf-8") as journal:
        for (midi, abc), row in results:
            journal.write(json.dumps([midi, abc, row]) + "\n")
            journal.flush()
            yield (midi, abc), row
