"""Caches measurements on disk: one is made anew only when what it was made from, or the code that
makes it, changed.

A measurement is a function of arguments; a drawn set of samples is one, too. It stands in
part4_outputs/evaluation/<name>.json as {"key", "value"}; the key is the digest of the arguments and
of the code that the function reaches.

    value = cached(root, "rates/unprompted", rate, samples)  # runs rate(samples) or reads the file
    value = read(root, "rates/unprompted")                   # None if it was not measured
"""

import functools
import json
from typing import Any, NamedTuple

from study.stages.code_key import code_digest
from study.stages.files import plain, read_json, value_digest, write_json

FOLDER = "part4_outputs/evaluation"


class Digested(NamedTuple):
    """An argument that is no JSON value, or a large one, with its digest, which enters keys."""

    content: Any
    digest: str


def cached(root, name, function, *arguments, code=(), force=False):
    """Returns function(*arguments), a JSON value; from the file if the key is the same.

    arguments: JSON values, or objects with a `digest`; code: classes that the function uses without
    naming them (those of a model and of a tokenizer); force: make it in any case.
    """
    path = root / FOLDER / f"{name}.json"
    key = value_digest(
        {
            "arguments": [getattr(argument, "digest", argument) for argument in arguments],
            "code": _code(function, *code),
        }
    )
    entry = read_json(path)
    if force or not isinstance(entry, dict) or entry.get("key") != key:
        # through JSON: a value just made and one read from disk must not differ
        entry = json.loads(
            json.dumps({"key": key, "value": plain(function(*arguments))}, allow_nan=False)
        )
        write_json(path, entry)
    return entry["value"]


@functools.cache
def _code(*roots):
    return code_digest(roots)


def read(root, name):
    """Returns a measurement's value, None if it was not made."""
    entry = read_json(root / FOLDER / f"{name}.json")
    return entry.get("value") if isinstance(entry, dict) else None


def remove_others(root, names):
    """Deletes what is cached under other names: measurements of runs that are gone."""
    folder = root / FOLDER
    for path in folder.rglob("*.json"):
        if path.relative_to(folder).with_suffix("").as_posix() not in names:
            path.unlink()
