"""What stats.json says of the training data: lengths, music, vocabulary, and what val and test
share with train.

*Overlap* is the share of a tune's windows of WINDOW characters, inside its sequences, that stand
    somewhere in the
training text. Counting goes once through the training characters, in blocks, and knows the asked
windows only (see baselines.py, also for what a *file of characters* is).
"""

from collections import Counter

from study.stages.process import progress, worker_pool

import numpy as np

from common import BEGIN, END
from music.windows import build_lookup, look_up, window_hashes
from study.prepare import baselines

WINDOW = 32  # characters; shorter ones are shared by all music, longer ones only by copies
N_WORST = 10  # tunes with the largest overlap that stats.json names


# ---------------------------------------------------------------- distributions


def spread(values):
    """Quantiles of the values that are known, or None if none is."""
    values = np.array([value for value in values if value is not None], dtype=float)
    if not len(values):
        return None
    names = ("min", "5%", "25%", "median", "75%", "95%", "max")
    quantiles = {
        name: float(np.quantile(values, q))
        for name, q in zip(names, (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1))
    }
    return {"n": len(values), "mean": float(values.mean()), **quantiles}


def shares(values, most=24):
    """{value: number} of the most frequent known values, or None if none is known."""
    counts = Counter(value for value in values if value is not None)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    rest = sum(count for _, count in ordered[most:])
    return {**dict(ordered[:most]), **({"other": rest} if rest else {})} if counts else None


def is_music(tunes):
    """True unless most of the text is not ABC."""
    return sum(tune["is_abc"] for tune in tunes) * 2 >= len(tunes)


def music_statistics(tunes):
    """Spread of what is musical in the tunes; every value is None if most of the text is not
    ABC."""
    if not is_music(tunes):
        tunes = []
    density = [tune["n_notes"] / tune["quarters"] if tune["quarters"] else None for tune in tunes]
    return {
        "notes_per_tune": spread(t["n_notes"] for t in tunes),
        "bars_per_tune": spread(t["n_bars"] for t in tunes),
        "voices": shares(t["n_voices"] for t in tunes),
        "keys": shares(t["key"] for t in tunes),
        "meters": shares(t["meter"] for t in tunes),
        "tempo_quarters_per_minute": spread(t["tempo"] for t in tunes),
        "notes_per_quarter": spread(density),
        "rest_share": spread(t["rest_share"] for t in tunes),
        "not_read_strictly": sum(t["rest_share"] is None for t in tunes) if tunes else None,
    }


# ---------------------------------------------------------------- overlap


def sequence_starts(sequences):
    """Places of the sequences in a file of characters, where each has a BEGIN and an END around
    it."""
    return np.cumsum([0] + [sequence["chars"] + 2 for sequence in sequences])[:-1]


def windows_of(characters):
    """(starts, hashes) of all windows of WINDOW characters that lie inside one sequence."""
    if len(characters) < WINDOW:
        return np.empty(0, np.int64), np.empty(0, np.uint64)
    ends = np.append(0, np.cumsum((characters == BEGIN) | (characters == END)))
    inside = np.flatnonzero(ends[WINDOW:] == ends[:-WINDOW])
    return inside, window_hashes(characters, WINDOW)[inside]


def shared_windows(train_path, asked_paths):
    """[(starts, shared)] per asked split: the windows inside its sequences, and whether the
    training text has them."""
    asked = [windows_of(np.load(path)) for path in asked_paths]
    lookup = build_lookup(np.concatenate([hashes for _, hashes in asked]))
    shared = np.zeros(len(lookup[0]) + 1, bool)
    train = np.load(train_path, mmap_mode="r")
    for start in range(0, len(train), baselines.BLOCK):
        part = np.array(train[max(0, start - WINDOW + 1) : start + baselines.BLOCK])
        shared[look_up(lookup, window_hashes(part, WINDOW))[1]] = True
    return [(starts, shared[np.searchsorted(lookup[0], hashes)]) for starts, hashes in asked]


def overlap_by_tune(shared, sequences):
    """[(share of its windows that train has, number of windows, origin)] of a split's tunes, the
    largest share first.

    shared: (starts of windows, whether train has them) from `shared_windows`."""
    owner = np.searchsorted(sequence_starts(sequences), shared[0], side="right") - 1
    n_windows = np.bincount(owner, minlength=len(sequences))
    n_shared = np.bincount(owner, shared[1], minlength=len(sequences))
    totals = {}
    for i, sequence in enumerate(sequences):
        tune = totals.setdefault(sequence["origin"], [0, 0])
        tune[0] += int(n_shared[i])
        tune[1] += int(n_windows[i])
    return sorted(
        ((a / b, b, origin) for origin, (a, b) in totals.items() if b),
        key=lambda row: (-row[0], row[2]),
    )


def overlap_statistics(rows):
    """Returns what one split shares with train: over all windows, per tune, and the N_WORST tunes
    by name. rows: from `overlap_by_tune`."""
    n_windows = sum(row[1] for row in rows)
    worst = [row for row in rows[:N_WORST] if row[0] > 0]
    return {
        "tunes": len(rows),
        "windows": n_windows,
        "share_of_all_windows": sum(row[0] * row[1] for row in rows) / max(1, n_windows),
        "per_tune": spread(row[0] for row in rows),
        "per_tune_90%": float(np.quantile([row[0] for row in rows], 0.9)) if rows else None,
        "worst": [{"tune": origin, "share": share, "windows": n} for share, n, origin in worst],
    }


# ---------------------------------------------------------------- all of it


def measure(job):
    """Pool worker: `baselines.measure`, or the windows that val and test share with train (what:
    `overlap`)."""
    what, _, arrays, _ = job
    if what == "overlap":
        train, *asked = [arrays / f"{split}_tokens.npy" for split in ("train", "val", "test")]
        return what, shared_windows(train, asked)
    return baselines.measure(job)


def measure_all(texts, arrays, vocab_size, workers):
    """{what: result} of the baselines and of `overlap`.

    texts: folder of the texts; arrays: folder of the files of characters; vocab_size: of those.
    """
    jobs = [
        *baselines.jobs(texts, arrays, vocab_size),
        ("overlap", texts, arrays, vocab_size),
    ]
    with worker_pool(workers, len(jobs)) as pool:
        return dict(progress(pool.map(measure, jobs), len(jobs), "baselines", "baseline"))


def statistics(tunes, kept, report, parts, counts, n_notes, n_tokens, tokenizer, overlap):
    """Content of stats.json.

    tunes, kept: all tunes and those that stay; report: from `selection.split_groups`; parts:
    {split: sequences};
    counts: {split: {character: number}}; n_notes, n_tokens: {split: number}; overlap: {split: from
    `overlap_statistics`}.
    """
    splits = {
        split: {
            "characters": sum(s["chars"] for s in part),
            "tokens": n_tokens[split],
            "notes": n_notes[split] if is_music(kept) else None,
            "sequences": len(part),
            "tunes": len({s["origin"] for s in part}),
            "groups": len({s["group"] for s in part}) if report["groups"] else None,
            "characters_per_sequence": spread(s["chars"] for s in part),
        }
        for split, part in parts.items()
    }
    unknown = {
        split: {c: n for c, n in sorted(counts[split].items()) if c not in counts["train"]}
        for split in ("val", "test")
    }
    return {
        "tunes": len(tunes),
        "tunes_kept": len(kept),
        **report,
        "splits": splits,
        "vocabulary": {
            "size": tokenizer.vocab_size,
            "characters": "".join(sorted(counts["train"])),
            "digest": tokenizer.digest,
            "counts_in_train": dict(sorted(counts["train"].items())),
            "unknown_in": unknown,
        },
        "music": music_statistics(kept),
        "compression_ratio": spread(tune["compressed"] for tune in kept),
        "overlap_with_train": {"window_characters": WINDOW, **overlap},
    }
