"""Compares two finished roots: after a change that should change no number, is every number what it
was?

Reads:  OLD_ROOT and NEW_ROOT: data/, checkpoints/*.json and *.curve.jsonl, part4_outputs/
    (RESULTS.json, fits.json,
        training_history.json, generated/, evaluation/)
Writes: nothing
Run:    python -m benchmarks.compare_results OLD_ROOT NEW_ROOT [--most 40]
Prints every value that differs or is missing, then a line of counts; exit code 1 if there is one.

Apart from times, speeds, memory, digests, keys, commands and the environment, which differ between
equal runs, and from `evaluation` in RESULTS.json, a repeat that newer code leaves out, everything
must be equal to the last digit. What only the new root has is listed and is no difference.
"""

import argparse
import json
import sys
from pathlib import Path

# parts of a path in JSON below which nothing is compared
RUN_DEPENDENT = {
    "seconds",
    "tokens_per_second",
    "peak_memory_bytes",
    "environment",
    "key",
    "keys",
    "digest",
    "sha256",
    "seal",
    "command",
    "finished",
    "threads",
    "minutes",
    "draws_per_second",
}
SUFFIXES = ("_digest", "_sha256", "_seconds", "_per_second")
DROPPED = {"part4_outputs/RESULTS.json": ("evaluation",)}  # once a repeat of other values
JSON_FILES = (
    "data/stats.json",
    "data/baselines.json",
    "checkpoints/*.json",
    "checkpoints/*.curve.jsonl",
    "part4_outputs/RESULTS.json",
    "part4_outputs/fits.json",
    "part4_outputs/generated/metadata.json",
    "part4_outputs/checkpoints/training_history.json",
)
BYTE_FILES = (
    "data/*.txt",
    "data/*_tokens.npy",
    "data/*_sequences.tsv",
    "part4_outputs/generated/*.abc",
)
NOT_RESULTS = (".manifest.json", ".running.json")


def flat(value, path=()):
    """{path: value} of all single values in a JSON value; lists and dicts count with their length,
    too.

    >>> flat({"a": [1.5, {"seconds": 3}]})
    {('a', '#'): 2, ('a', 0): 1.5}
    """
    if path and (path[-1] in RUN_DEPENDENT or str(path[-1]).endswith(SUFFIXES)):
        return {}
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = [("#", len(value)), *enumerate(value)]
    else:
        return {path: value}
    return {place: leaf for key, part in items for place, leaf in flat(part, (*path, key)).items()}


def read_values(path, name):
    """`flat` of a .json file, or of the lines of a .jsonl file."""
    text = path.read_text(encoding="utf-8")
    value = (
        [json.loads(line) for line in text.splitlines()]
        if path.suffix == ".jsonl"
        else json.loads(text)
    )
    return {
        place: leaf for place, leaf in flat(value).items() if place[0] not in DROPPED.get(name, ())
    }


def files(root, patterns):
    """{path below the root: path} of the files of these patterns, records of the run itself left
    out."""
    return {
        path.relative_to(root).as_posix(): path
        for pattern in patterns
        for path in sorted(root.glob(pattern))
        if not path.name.endswith(NOT_RESULTS) and not path.name.startswith(".")
    }


def texts(root):
    """{file: tuple of the samples' texts} of part4_outputs/evaluation, every list of samples for
    itself."""

    def lists(value):
        if isinstance(value, dict):
            value = list(value.values())
        elif (
            isinstance(value, list)
            and value
            and all(isinstance(part, dict) and "text" in part for part in value)
        ):
            yield tuple(part["text"] for part in value)
        for part in value if isinstance(value, list) else ():
            yield from lists(part)

    found = {}
    for name, path in files(root, ["part4_outputs/evaluation/*.json"]).items():
        for number, samples in enumerate(lists(json.loads(path.read_text(encoding="utf-8")))):
            found[f"{name} samples {number}"] = samples
    return found


def compare_maps(where, old, new, differences, additions):
    """Appends a line for every entry of `old` that is another or missing in `new`, and for those
    that are added."""
    for place, value in old.items():
        name = f"{where}: {'.'.join(map(str, place))}" if isinstance(place, tuple) else place
        if place not in new:
            differences.append(f"{name} is missing (was {short(value)})")
        elif new[place] != value or isinstance(new[place], bool) != isinstance(value, bool):
            differences.append(f"{name}: {short(value)} -> {short(new[place])}")
    additions += [f"{where}: {'.'.join(map(str, place))}" for place in new if place not in old]


def short(value):
    """A value in at most 100 characters."""
    text = f"{len(value):,} bytes" if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


def compare(old_root, new_root):
    """(differences, additions, number of values compared), the first two as lists of lines."""
    differences, additions, n_values = [], [], 0
    old_files, new_files = files(old_root, JSON_FILES), files(new_root, JSON_FILES)
    for name, path in old_files.items():
        if name not in new_files:
            differences.append(f"{name} is missing")
            continue
        old = read_values(path, name)
        compare_maps(name, old, read_values(new_files[name], name), differences, additions)
        n_values += len(old)
    old_bytes, new_bytes = (
        {name: path.read_bytes() for name, path in files(root, BYTE_FILES).items()}
        for root in (old_root, new_root)
    )
    compare_maps("files", old_bytes, new_bytes, differences, additions)
    additions += [name for name in new_files.keys() - old_files.keys()]
    old_texts, new_texts = texts(old_root), texts(new_root)
    # wherever they stand now: files of measurements may be cut in another way
    drawn = set(new_texts.values())
    for name, samples in old_texts.items() if new_texts else ():
        if samples not in drawn:
            differences.append(f"{name}: these {len(samples)} texts are not in the new root")
    return differences, additions, n_values + len(old_bytes) + sum(map(len, old_texts.values()))


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path, metavar="OLD_ROOT")
    parser.add_argument("new", type=Path, metavar="NEW_ROOT")
    parser.add_argument(
        "--most",
        type=int,
        default=40,
        metavar="N",
        help="lines to print of each kind (default: 40)",
    )
    args = parser.parse_args(argv)
    for root in (args.old, args.new):
        if not (root / "part4_outputs/RESULTS.json").exists():
            print(
                f"note: {root} is not finished: it has no part4_outputs/RESULTS.json",
                file=sys.stderr,
            )
    differences, additions, n_values = compare(args.old, args.new)
    if not n_values:
        sys.exit(
            f"benchmarks.compare_results: {args.old} holds no results\n"
            "  -> name the root of a finished run, e.g. quick"
        )
    for title, lines in (("differs", differences), ("new", additions)):
        for line in lines[: args.most]:
            print(f"{title}: {line}")
        if len(lines) > args.most:
            print(f"{title}: ... {len(lines) - args.most:,} more (--most {len(lines)} shows all)")
    print(
        f"values and texts compared: {n_values:,}\ndifferences: {len(differences):,}\n"
        f"only in the new root: {len(additions):,}"
    )
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
