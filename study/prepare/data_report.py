"""Measures what stats.json says of the training data: lengths, music, vocabulary, overlap.

*Overlap* is the share of windows of val and test, inside their sequences, that stand somewhere in
the training text, with and without those that are one repeated figure, such as the same chord eight
times. baselines.py says what a *file of characters* is.
"""

import re
from collections import Counter

from study.stages.process import progress, worker_pool

import numpy as np

from common import BEGIN, END
from music.windows import look_up, window_hashes
from study.prepare.baselines import ASKED, BLOCK, conditional_bits, ngram_bits, unigram_bits

WIDTHS = (32, 48)  # characters: all music shares shorter windows, only copies longer ones
LEAST_FIGURES = 3  # different notes or chords: a window with fewer is a repeated figure
NOTE_OR_CHORD = re.compile(r"\[[^\]:]*\]|[_^=]*[A-Ga-g][,']*")
# chords and fields that begin or end outside the window, and whole fields
NO_FIGURE = re.compile(r"^[^\[]*\]|\[[^\]]*$|\[[A-Za-z]:[^\]]*\]")
QUANTILES = {"min": 0, "5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "max": 1}


def spread(values):
    """Returns quantiles of the known values; None if there are none."""
    values = np.array([value for value in values if value is not None], dtype=float)
    if not len(values):
        return None
    quantiles = np.quantile(values, list(QUANTILES.values())).tolist()
    return {"n": len(values), "mean": float(values.mean()), **dict(zip(QUANTILES, quantiles))}


def shares(values, most=24):
    """Returns {value: number} of the most frequent known values; None if there are none."""
    counts = Counter(value for value in values if value is not None)
    frequent = dict(counts.most_common(most))
    if len(counts) > most:
        frequent["other"] = counts.total() - sum(frequent.values())
    return frequent or None


def windows_of(characters, width):
    """Returns (starts, hashes) of all windows of `width` characters inside one sequence."""
    ends = np.append(0, np.cumsum((characters == BEGIN) | (characters == END)))
    inside = np.flatnonzero(ends[width:] == ends[:-width])
    return inside, window_hashes(characters, width)[inside]


def shared_windows(train_path, asked_paths, width):
    """Returns [(starts of its windows, whether the training text has them)] per asked split."""
    asked = [windows_of(np.load(path), width) for path in asked_paths]
    known = np.unique(np.concatenate([hashes for _, hashes in asked]))
    shared = np.zeros(len(known) + 1, bool)
    train = np.load(train_path, mmap_mode="r")
    for start in range(0, len(train), BLOCK):
        part = np.array(train[max(0, start - width + 1) : start + BLOCK])
        shared[look_up(known, window_hashes(part, width))[1]] = True
    return [(starts, shared[np.searchsorted(known, hashes)]) for starts, hashes in asked]


def n_figures(window):
    """Counts different notes and chords that stand whole in a window of ABC text.

    >>> n_figures("C,]2[C,,C,]2[C,,C,]2|[V:2][M:1/4]A,2A,2|[C,,")
    2
    """
    return len(set(NOTE_OR_CHORD.findall(NO_FIGURE.sub("", window))))


def overlap_statistics(shared, texts, width):
    """Returns the share of windows that train has, with and without repeated figures. shared: from
    `shared_windows`; texts: of the split's sequences."""
    starts, found = shared
    marked = "".join(f"\0{text}\0" for text in texts)  # as in the file of characters
    windows = [marked[start : start + width] for start in starts[found].tolist()]
    n_telling = sum(n_figures(window) >= LEAST_FIGURES for window in windows)
    n = max(1, len(starts))
    return {
        "windows": len(starts),
        "share_of_all_windows": len(windows) / n,
        "share_without_repeated_figures": n_telling / n,
    }


def measure_all(texts, arrays, vocab_size, workers):
    """Returns {baseline: bits of each asked split; width: result of `shared_windows`}. texts,
    arrays: folders of the texts and of the files of characters; vocab_size: of the latter."""
    asked_texts = [b"\n" + (texts / f"{split}.txt").read_bytes() for split in ASKED]
    train, *asked = [arrays / f"{split}_tokens.npy" for split in ("train", *ASKED)]
    jobs = {  # the longest first
        "ppmd": (conditional_bits, "ppmd", texts / "train.txt", asked_texts),
        "xz": (conditional_bits, "xz", texts / "train.txt", asked_texts),
        "ngram": (ngram_bits, train, asked, vocab_size),
        "unigram": (unigram_bits, train, asked, vocab_size),
        **{width: (shared_windows, train, asked, width) for width in WIDTHS},
    }
    with worker_pool(workers, len(jobs)) as pool:
        running = {what: pool.submit(*job) for what, job in jobs.items()}
        done = progress(running.items(), len(jobs), "baselines", "baseline")
        return {what: future.result() for what, future in done}


def statistics(tunes, kept, report, parts, written, tokenizer, overlap):
    """Returns the content of stats.json. tunes, kept: all, and those that stay; report, parts: of
    `split_groups`; written: {split: (Counter of characters, notes, tokens)}; overlap: {split:
    {width: from `overlap_statistics`}}."""
    is_music = 2 * sum(tune["is_abc"] for tune in kept) >= len(kept)
    musical, splits = kept if is_music else [], {}
    for split, part in parts.items():
        _, n_notes, n_tokens = written[split]
        splits[split] = {
            "characters": sum(s["chars"] for s in part),
            "tokens": n_tokens,
            "notes": n_notes if is_music else None,
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
        "music": {
            "voices": shares(tune["n_voices"] for tune in musical),
            "keys": shares(tune["key"] for tune in musical),
            "meters": shares(tune["meter"] for tune in musical),
            "rest_share": spread(tune["rest_share"] for tune in musical),
        },
        "overlap_with_train": overlap,
    }
