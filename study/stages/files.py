"""Files of a stage: written whole or not at all, read without trust, known by their digests."""

import contextlib
import csv
import hashlib
import itertools
import json
import math
import os
from fractions import Fraction
from pathlib import Path

from study.stages.process import is_alive

TEMPORARY = ".tmp-"  # prefix of files being written
_temporary_number = itertools.count()


@contextlib.contextmanager
def atomic(path, mode="w", durable=True):
    """Opens a temporary file that is renamed to `path` when complete: a kill leaves the old file or
    the new one. durable: flush to disk first; thousands of files leave that to `Stage.finish`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{next(_temporary_number)}"
    # a byte of a path that is no UTF-8 is written as \udcff, which JSON reads back
    text = {"encoding": "utf-8", "newline": "\n", "errors": "backslashreplace"}
    try:
        with open(temporary, mode, **({} if "b" in mode else text)) as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path, text, durable=True):
    """Writes text (UTF-8, LF) atomically."""
    with atomic(path, durable=durable) as file:
        file.write(text)


def write_bytes(path, data, durable=True):
    """Writes bytes atomically."""
    with atomic(path, "wb", durable=durable) as file:
        file.write(data)


def write_json(path, value):
    """Writes strict JSON atomically; NaN and Infinity raise ValueError."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path):
    """Returns the value in a JSON file; None if it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None


def table_rows(path):
    """Yields the rows of a tab-separated table as dicts; none if it is missing."""
    if path.exists():
        with open(path, encoding="utf-8") as table:
            yield from csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE)


def plain(value, digits=None):
    """Returns a value as strict JSON: tuples as lists, NumPy's types and fractions as numbers (of
    so many digits), keys as text, None for what is not finite.

    >>> plain({3: (float("nan"), Fraction(1, 2))})
    {'3': [None, 0.5]}
    """
    if isinstance(value, dict):
        return {str(key): plain(item, digits) for key, item in value.items()}
    if hasattr(value, "tolist"):  # a NumPy array or number
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(item, digits) for item in value]
    if isinstance(value, Fraction):
        value = float(value)
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    return value if digits is None else float(f"{value:.{digits}g}")


def tree_files(folder):
    """Returns the files under a folder as sorted relative paths (str); no links are followed."""
    files, folders = [], [""]
    while folders:
        below = folders.pop()
        with os.scandir(folder / below) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(below + entry.name + "/")
                elif not entry.name.startswith(TEMPORARY):
                    files.append(below + entry.name)
    return sorted(files)


def remove_temporaries(folder):
    """Deletes what killed writers left; files of living processes stay."""
    for path in folder.rglob(TEMPORARY + "*"):
        pid = path.name[len(TEMPORARY) :].split("-")[0]
        if not (pid.isdigit() and int(pid) != os.getpid() and is_alive(int(pid))):
            path.unlink(missing_ok=True)


def file_digest(path):
    """Returns the SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def value_digest(value):
    """Returns the SHA-256 of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def describe(path, index, renew=False):
    """Returns what a manifest says of an output: {"bytes", "sha256"}, of a folder "files" too.
    index: the list of a folder's files; those of the size and time in it are not read again.
    renew: write it anew."""
    if not path.is_dir():
        return {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    rows = _tree_rows(path, index)
    if renew:
        with atomic(index) as file:
            for size, mtime, digest, relative in rows:
                file.write(f"{size}\t{mtime}\t{digest}\t{json.dumps(relative)}\n")
    listing = "".join(f"{json.dumps(relative)}\t{digest}\n" for _, _, digest, relative in rows)
    return {
        "files": len(rows),
        "bytes": sum(size for size, *_ in rows),
        "sha256": hashlib.sha256(listing.encode()).hexdigest(),
    }


def _tree_rows(folder, index):
    """Returns [(bytes, time of writing in ns, SHA-256, relative path)] of a folder's files."""
    known, rows = {}, []
    lines = index.read_text(encoding="utf-8").splitlines() if index.exists() else ()
    for line in lines:
        with contextlib.suppress(ValueError):  # a damaged line: that one file is read again
            size, mtime, digest, relative = line.split("\t", 3)
            known[json.loads(relative), int(size), int(mtime)] = digest
    for relative in tree_files(folder):
        stat = os.stat(folder / relative)
        size, mtime = stat.st_size, stat.st_mtime_ns
        digest = known.get((relative, size, mtime)) or file_digest(folder / relative)
        rows.append((size, mtime, digest, relative))
    return rows
