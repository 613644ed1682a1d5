"""Converts very many MIDI files: worker processes, limits on time and memory, a journal.

A file is hostile until shown otherwise: it costs a counted row, never the run. The parser is C++
code: a worker that dies or hangs costs the file it was at.
"""

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
from multiprocessing import connection
from pathlib import Path
from typing import NamedTuple

from study.stages.files import tree_files, write_text
from study.stages.process import cpu_count, die_with_parent

from music.midi_to_abc import MIDI_BYTES, ConversionError, convert, self_check

SUFFIXES = (".mid", ".midi", ".kar", ".rmi")
ABC_CHARS = 4_000_000  # the longest real song gives a tenth of this
MEMORY_BYTES = 2 << 30  # that one worker may allocate
FILES_A_WORKER = 16  # at least: a worker takes a second to start
MAX_DEATHS = 20  # of workers with no file done between: it is the machine, not the files
DEFAULT_VOICES = 6  # kept of a tune: see 02_midi_to_abc.py
TIMEOUT = 20  # seconds of processor time a file; the slowest real one seen needs under one


class Settings(NamedTuple):
    """What every worker is told."""

    raw: Path  # folder of MIDI
    target: Path  # of ABC
    max_voices: int = DEFAULT_VOICES
    seed: int = 0
    checked_share: float = 0.0  # of the files, that are read back


def plan(raw):
    """Returns [(MIDI name, ABC name)] of a folder: of Song.mid, Song.MID Song.abc, Song.MID.abc."""
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
    """Returns a name as one line of UTF-8, with escapes for all that cannot be printed."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def convert_file(midi, abc, settings):
    """Converts a file; returns its row, {"chars", "notes", ...} or a `failure`; OSError if the ABC
    cannot be written."""
    source = settings.raw / midi
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
        return failure(*error.args)
    except MemoryError:
        return failure("memory", f"needs more than {MEMORY_BYTES >> 20:,} MiB")
    except OSError as error:
        return failure("unreadable", error.strerror)
    except Exception as error:  # a surprise in one file must not end the run
        return failure("internal", f"{type(error).__name__}: {error}")
    write_text(settings.target / abc, text, durable=False)
    return {"chars": len(text), **row}


def failure(reason, detail):
    """Returns the row of a file that gave no ABC."""
    return {"reason": reason, "detail": detail}


def work(pipe, settings):
    """Runs in a worker: answers every (MIDI name, ABC name) from the pipe with a row."""
    die_with_parent()
    limit_memory()

    def too_slow(*_):
        raise ConversionError("timeout", f"more than {TIMEOUT:g} seconds of processor time")

    signal.signal(signal.SIGPROF, too_slow)
    with suppress(EOFError, ConnectionError):  # no more files, or the run was killed
        while True:
            midi, abc = pipe.recv()
            try:
                signal.setitimer(signal.ITIMER_PROF, TIMEOUT)
                row = convert_file(midi, abc, settings)
                signal.setitimer(signal.ITIMER_PROF, 0)
            except ConversionError as error:
                row = failure(*error.args)
            except OSError as error:  # while writing: stops the run
                row = error
            pipe.send(row)


def limit_memory():
    """Bounds what this process may allocate (not on macOS)."""
    with suppress(AttributeError, ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))


def convert_all(tasks, n_workers, settings):
    """Yields (task, row) as files are done; tasks: (MIDI name, ABC name). Raises the OSError of a
    worker that cannot write; ChildProcessError if workers die whatever they are given.

    No library's pool says which file a worker died at. That file is tried again at the end (memory
    may have been short); a second death is its row.
    """
    waiting, workers = deque(tasks), []
    crashed, deaths = set(), 0
    try:
        for _ in range(min(n_workers, cpu_count(), math.ceil(len(tasks) / FILES_A_WORKER))):
            workers.append(_Worker(settings, waiting.popleft()))
        while workers:
            connection.wait([worker.pipe for worker in workers], timeout=1)
            for worker in list(workers):
                task, row = worker.task, worker.answer()
                if row is None:
                    continue
                if row.get("reason") == "crash" and task not in crashed:
                    crashed.add(task)
                    waiting.append(task)
                    deaths += 1
                else:
                    deaths = 0
                    yield task, row
                if deaths >= MAX_DEATHS:
                    died = f"{deaths} workers died one after another ({row['detail']})"
                    raise ChildProcessError(died)
                if waiting and not worker.died:
                    worker.feed(waiting.popleft())
                    continue
                worker.pipe.close()
                workers.remove(worker)
                if waiting:
                    workers.append(_Worker(settings, waiting.popleft()))
    finally:
        for worker in workers:
            worker.process.kill()


class _Worker:
    """A worker process, its pipe and its open task."""

    def __init__(self, settings, task):
        context = multiprocessing.get_context("spawn")  # a fork would share our threads
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, settings), daemon=True)
        self.process.start()
        theirs.close()
        self.patience_seconds, self.died = 10 * TIMEOUT + 60, False
        self.feed(task)

    def feed(self, task):
        self.task, self.last_heard = task, time.monotonic()
        with suppress(BrokenPipeError):  # it has just died: the next answer says so
            self.pipe.send(task)

    def answer(self):
        """Returns the row that it sends, or that its death or long silence is; None: wait."""
        if self.pipe.poll():
            try:
                row = self.pipe.recv()
            except (EOFError, ConnectionResetError):
                self.died = True
                self.process.join()
                return failure("crash", f"the worker ended with code {self.process.exitcode}")
            if isinstance(row, OSError):
                raise row
            return row
        if time.monotonic() - self.last_heard <= self.patience_seconds:
            return None
        # its own timer waits for C code to end
        self.died = True
        self.process.kill()
        self.process.join()
        return failure("timeout", f"no answer in {self.patience_seconds:g} seconds")


def read_journal(path, target):
    """Returns {MIDI name: row} of what an earlier run finished and is still there; of no crash,
    which may have been the machine's."""
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
    """Passes (task, row) through, and writes each in the journal."""
    with open(path, "a" if resume else "w", encoding="utf-8") as journal:
        for (midi, abc), row in results:
            journal.write(json.dumps([midi, abc, row]) + "\n")
            journal.flush()
            yield (midi, abc), row
