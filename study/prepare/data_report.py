"""Says what stats.json does of the training data: lengths, music, vocabulary, overlap.

*Overlap* is the share of windows of val and test, inside their sequences, that stand somewhere in
the training text, with and without those that are one repeated figure, such as the same chord eight
times, which is alike in all music. baselines.py says what a *file of characters* is.
"""

import re
from collections import Counter

from study.stages.process import progress, worker_pool

import numpy as np

from common import BEGIN, END
from music.windows import build_lookup, look_up, window_hashes
from study.prepare.baselines import ASKED, BLOCK, jobs_of

WIDTHS = (32, 48)  # characters: all music shares shorter windows, only copies longer ones
LEAST_FIGURES = 3  # different notes or chords: a window with fewer is a repeated figure
NOTE_OR_CHORD = re.compile(r"\[[^\]:]*\]|[_^=]*[A-Ga-g][,']*")
# chords and fields that begin or end outside the window, and whole fields
NO_FIGURE = re.compile(r"^[^\[]*\]|\[[^\]]*$|\[[A-Za-z]:[^\]]*\]")
QUANTILES = {"min": 0, "5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "max": 1}


def spread(values):
    """Quantiles of the values that are known, or None if none is."""
    values = np.array([value for value in values if value is not None], dtype=float)
    if not len(values):
        return None
    quantiles = np.quantile(values, list(QUANTILES.values())).tolist()
    return {"n": len(values), "mean": float(values.mean()), **dict(zip(QUANTILES, quantiles))}


def shares(values, most=24):
    """{value: number} of the most frequent known values, or None if none is known."""
    counts = Counter(value for value in values if value is not None)
    frequent = dict(counts.most_common(most))
    if len(counts) > most:
        frequent["other"] = counts.total() - sum(frequent.values())
    return frequent or None


def is_music(tunes):
    """True unless most of the text is not ABC."""
    return sum(tune["is_abc"] for tune in tunes) * 2 >= len(tunes)


def music_statistics(tunes):
    """Spread of what is musical in the tunes; of none if most of the text is not ABC."""
    if not is_music(tunes):
        tunes = []
    return {
        "voices": shares(t["n_voices"] for t in tunes),
        "keys": shares(t["key"] for t in tunes),
        "meters": shares(t["meter"] for t in tunes),
        "rest_share": spread(t["rest_share"] for t in tunes),
    }


def windows_of(characters, width):
    """(starts, hashes) of all windows of `width` characters that lie inside one sequence."""
    if len(characters) < width:
        return np.empty(0, np.int64), np.empty(0, np.uint64)
    ends = np.append(0, np.cumsum((characters == BEGIN) | (characters == END)))
    inside = np.flatnonzero(ends[width:] == ends[:-width])
    return inside, window_hashes(characters, width)[inside]


def shared_windows(train_path, asked_paths, width):
    """[(starts, shared)] per asked split: its windows, and whether the training text has them."""
    asked = [windows_of(np.load(path), width) for path in asked_paths]
    lookup = build_lookup(np.concatenate([hashes for _, hashes in asked]))
    shared = np.zeros(len(lookup[0]) + 1, bool)
    train = np.load(train_path, mmap_mode="r")
    for start in range(0, len(train), BLOCK):
        part = np.array(train[max(0, start - width + 1) : start + BLOCK])
        shared[look_up(lookup, window_hashes(part, width))[1]] = True
    return [(starts, shared[np.searchsorted(lookup[0], hashes)]) for starts, hashes in asked]


def n_figures(window):
    """Different notes and chords that stand whole in a window of ABC text.

    >>> n_figures("C,]2[C,,C,]2[C,,C,]2|[V:2][M:1/4]A,2A,2|[C,,")
    2
    """
    return len(set(NOTE_OR_CHORD.findall(NO_FIGURE.sub("", window))))


def overlap_statistics(shared, text, sequences, width):
    """The share of a split's windows that train has, with and without repeated figures. shared:
    from `shared_windows`; text: of the split, its sequences with one character between."""
    at, marked = 0, []
    for sequence in sequences:  # as in the file of characters: a sign before and after each
        marked.append(f"\0{text[at : at + sequence['chars']]}\0")
        at += sequence["chars"] + 1
    marked, (starts, found) = "".join(marked), shared
    windows = [marked[start : start + width] for start in starts[found].tolist()]
    n_telling = sum(n_figures(window) >= LEAST_FIGURES for window in windows)
    n = max(1, len(starts))
    return {
        "windows": len(starts),
        "share_of_all_windows": len(windows) / n,
        "share_without_repeated_figures": n_telling / n,
    }


def measure_all(texts, arrays, vocab_size, workers):
    """{what: result} of `baselines.jobs_of`, and of `shared_windows` by width."""
    jobs = jobs_of(texts, arrays, vocab_size)
    train, *asked = [arrays / f"{split}_tokens.npy" for split in ("train", *ASKED)]
    jobs |= {width: (shared_windows, train, asked, width) for width in WIDTHS}
    with worker_pool(workers, len(jobs)) as pool:
        running = {what: pool.submit(*job) for what, job in jobs.items()}
        done = progress(running.items(), len(jobs), "baselines", "baseline")
        return {what: future.result() for what, future in done}


def statistics(tunes, kept, report, parts, written, tokenizer, overlap):
    """Content of stats.json. tunes, kept: all, and those that stay; report: of `split_groups`;
    parts: {split: sequences}; written: {split: (Counter of characters, notes, tokens)}; overlap:
    {split: {width: from `overlap_statistics`}}."""
    splits = {}
    for split, part in parts.items():
        _, n_notes, n_tokens = written[split]
        splits[split] = {
            "characters": sum(s["chars"] for s in part),
            "tokens": n_tokens,
            "notes": n_notes if is_music(kept) else None,
            "sequences": len(part),
            "tunes": len({s["origin"] for s in part}),
            "groups": len({s["group"] for s in part}) if report["groups"] else None,
            "characters_per_sequence": spread(s["chars"] for s in part),
        }
    known, unknown = written["train"][0], {}
    for split in ASKED:
        counts = sorted(written[split][0].items())
        unknown[split] = {character: n for character, n in counts if character not in known}
    vocabulary = {"size": tokenizer.vocab_size, "characters": "".join(sorted(known))}
    return {
        "tunes": len(tunes),
        "tunes_kept": len(kept),
        **report,
        "splits": splits,
        "vocabulary": {**vocabulary, "unknown_in": unknown},
        "music": music_statistics(kept),
        "overlap_with_train": overlap,
    }
