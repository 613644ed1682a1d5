"""Caches measurements on disk.

    value = cached(root, "rates/unprompted", rate, samples)  # runs rate(samples) or reads the file
    value = read(root, "rates/unprompted")                   # None if it was not measured

They stand in part4_outputs/evaluation/<name>.json as {"key", "value"}; the key is the digest of the
arguments and of the code that the function reaches.
"""

import functools
import json
from typing import Any, NamedTuple

from study.stages.code_key import code_digest
from study.stages.files import plain, read_json, value_digest, write_json

FOLDER = "part4_outputs/evaluation"


class Digested(NamedTuple):
    """An argument that is large or no JSON value, with the digest that stands for it in keys."""

    content: Any
    digest: str


def cached(root, name, function, *arguments, force=False):
    """Returns function(*arguments), a JSON value; from the file if the key is the same.

    arguments: JSON values, or objects with a `digest` and, if the function uses classes without
    naming them (of a model, of a tokenizer), with these as `classes`; force: make it in any case.
    """
    path = root / FOLDER / f"{name}.json"
    digests = [getattr(argument, "digest", argument) for argument in arguments]
    classes = [part for argument in arguments for part in getattr(argument, "classes", ())]
    key = value_digest({"arguments": digests, "code": _code(function, *classes)})
    entry = _entry(path)
    if force or entry.get("key") != key:
        entry = {"key": key, "value": plain(function(*arguments))}
        # through JSON: a value just made and one read from disk must not differ
        entry = json.loads(json.dumps(entry, allow_nan=False))
        write_json(path, entry)
    return entry["value"]


def _entry(path):
    """Returns what is cached in a file, {} where that cannot be read."""
    entry = read_json(path)
    return entry if isinstance(entry, dict) else {}


@functools.cache
def _code(*roots):
    return code_digest(roots)


def read(root, name):
    """Returns a measurement's value, None if it was not made."""
    return _entry(root / FOLDER / f"{name}.json").get("value")


def remove_others(root, names):
    """Deletes measurements under other names: of runs that are gone."""
    folder = root / FOLDER
    for path in folder.rglob("*.json"):
        if path.relative_to(folder).with_suffix("").as_posix() not in names:
            path.unlink()
