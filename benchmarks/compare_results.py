"""Compares two finished roots: after a change that should change no number, is every number the
same?

Reads:  OLD_ROOT and NEW_ROOT: data/, checkpoints/*.json and *.curve.jsonl, part4_outputs/
        (RESULTS.json, the tables beside it, fits.json, training_history.json, generated/,
        evaluation/)
Writes: nothing
Run:    python -m benchmarks.compare_results OLD_ROOT NEW_ROOT [--most 40]
Prints every value that differs or is missing, then a line of counts; exit code 1 if there is one.

Times, speeds, memory, digests, keys, commands and the environment differ between equal runs and are
not compared. Everything else must be equal to the last digit. What only the new root has is listed
and is no difference. Keys of another version of RESULTS.json: docs/results_keys.md.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

# keys below which nothing is compared
RUN_DEPENDENT = set(
    "seconds tokens_per_second peak_memory_bytes environment key keys digest sha256 seal command"
    " finished threads minutes draws_per_second".split()
)
SUFFIXES = ("_digest", "_sha256", "_seconds", "_per_second")
VALUE_FILES = (
    "data/stats.json",
    "data/baselines.json",
    "checkpoints/*.json",
    "checkpoints/*.curve.jsonl",
    "part4_outputs/*.json",
    "part4_outputs/*.csv",
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
    """Returns {path: value} of all single values in a JSON value; lists count with their length.

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
    found = {}
    for key, part in items:
        found |= flat(part, (*path, key))
    return found


def read_values(path):
    """Returns `flat` of a .json file, or of the lines of a .jsonl or .csv file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".csv":
        return flat(list(csv.DictReader(text.splitlines())))
    if path.suffix == ".jsonl":
        return flat([json.loads(line) for line in text.splitlines()])
    return flat(json.loads(text))


def files(root, patterns):
    """Returns {path below the root: path} of the files of these patterns, but for manifests."""
    paths = [path for pattern in patterns for path in sorted(root.glob(pattern))]
    return {
        path.relative_to(root).as_posix(): path
        for path in paths
        if not path.name.endswith(NOT_RESULTS) and not path.name.startswith(".")
    }


def texts(root):
    """Returns {name: the texts} of every list of samples in part4_outputs/evaluation."""
    found = {}
    for name, path in files(root, ["part4_outputs/evaluation/**/*.json"]).items():
        waiting = [json.loads(path.read_text(encoding="utf-8"))]
        while waiting:
            value = waiting.pop(0)
            if isinstance(value, dict):
                waiting += value.values()
            elif isinstance(value, list) and value and isinstance(value[0], dict):
                if all("text" in row for row in value):
                    samples = tuple(row["text"] for row in value)
                    found[f"{name} samples {len(found)}"] = samples
    return found


def compare_maps(where, old, new, differences, additions):
    """Appends a line for every entry of `old` that is another or missing in `new`, and for those
    that are added."""
    for place, value in old.items():
        name = _name(where, place)
        if place not in new:
            differences.append(f"{name} is missing (was {short(value)})")
        elif new[place] != value or isinstance(new[place], bool) != isinstance(value, bool):
            differences.append(f"{name}: {short(value)} -> {short(new[place])}")
    additions += [_name(where, place) for place in new if place not in old]


def _name(where, place):
    return f"{where}: {'.'.join(map(str, place))}" if isinstance(place, tuple) else place


def short(value):
    """Returns a value in at most 100 characters."""
    text = f"{len(value):,} bytes" if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


def compare(old_root, new_root):
    """Returns (differences, additions, number of values compared), the first two as lines."""
    differences, additions, n_values = [], [], 0
    old_files, new_files = files(old_root, VALUE_FILES), files(new_root, VALUE_FILES)
    for name, path in old_files.items():
        if name not in new_files:
            differences.append(f"{name} is missing")
            continue
        old = read_values(path)
        compare_maps(name, old, read_values(new_files[name]), differences, additions)
        n_values += len(old)
    additions += sorted(new_files.keys() - old_files.keys())
    old_bytes, new_bytes = (
        {name: path.read_bytes() for name, path in files(root, BYTE_FILES).items()}
        for root in (old_root, new_root)
    )
    compare_maps("files", old_bytes, new_bytes, differences, additions)
    old_texts, new_texts = texts(old_root), texts(new_root)
    drawn = set(new_texts.values())  # wherever they stand: measurements may be cut in another way
    for name, samples in old_texts.items():
        if drawn and samples not in drawn:
            differences.append(f"{name}: these {len(samples)} texts are not in the new root")
    n_values += len(old_bytes) + sum(map(len, old_texts.values()))
    return differences, additions, n_values


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path, metavar="OLD_ROOT")
    parser.add_argument("new", type=Path, metavar="NEW_ROOT")
    parser.add_argument("--most", type=int, default=40, metavar="N", help="lines of each kind")
    args = parser.parse_args(argv)
    for root in (args.old, args.new):
        if not (root / "part4_outputs/RESULTS.json").exists():
            print(f"note: {root} has no part4_outputs/RESULTS.json", file=sys.stderr)
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
            print(f"{title}: ... {len(lines) - args.most:,} more")
    print(
        f"values and texts compared: {n_values:,}\ndifferences: {len(differences):,}\n"
        f"only in the new root: {len(additions):,}"
    )
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
