"""What samples share with the training text: copied runs, new four-bar sequences.

The same figures of held-out tunes belong beside it (Yin, Reuben, Stepney and Collins 2022).
"""

import re
from collections import defaultdict

import numpy as np

from music.samples import as_sample, ratio
from music.tunebook import body_start
from music.windows import look_up, window_hashes

COPY_CHARS = 32  # shorter runs are shared by any two tunes
SEEDS = 32  # places in the training text that count for a window; more are rests and the like
CHUNK_CHARS = 4_000_000  # of training text hashed at a time: 130 MB of memory


def run_in_words(n_chars):
    """Returns the length of a copied run in words.

    >>> run_in_words(0), run_in_words(1234)
    ('under 32', '1,234')
    """
    return f"under {COPY_CHARS}" if n_chars < COPY_CHARS else f"{n_chars:,}"


def character_codes(text):
    """Returns one byte a character; what is not ASCII becomes `?`."""
    return np.frombuffer(text.encode("ascii", "replace"), np.uint8)


_NO_MUSIC = re.compile(r"^[A-UW-Za-z]:.*$|%.*$|\[[A-UW-Z]:[^\]]*\]", re.M)
_VOICE_TAG = re.compile(r"\[V:\s*([^\]\s|]*)[^\]|]*\]|^V:\s*(\S*).*$", re.M)


def four_bar_sequences(text):
    """Returns the sequences of four sounding bars of a voice, without blanks and fields."""
    sequences = []
    for tune in re.split(r"\n[ \t\r]*\n|^X:.*$", text, flags=re.M):
        first, *pieces = _VOICE_TAG.split(_NO_MUSIC.sub("", tune))
        voices = defaultdict(list)
        stretches = zip(["", *pieces[::3]], ["", *pieces[1::3]], [first, *pieces[2::3]])
        for inline, on_a_line, music in stretches:
            bars = re.split(r"[|:]+", re.sub(r"\s+", "", music))
            voices[inline or on_a_line] += [bar for bar in bars if re.search("[A-Ga-g]", bar)]
        for bars in voices.values():
            sequences += ["|".join(bars[i : i + 4]) for i in range(len(bars) - 3)]
    return sequences


class Novelty:
    """Finds in samples what was copied from a training text: runs of COPY_CHARS characters."""

    def __init__(self, train_text):
        self.train = character_codes(train_text)
        self.sequences = set(four_bar_sequences(train_text))

    def measure(self, samples):
        """Returns figures of the set and, in "samples", of every sample, without header and prompt.
        A longest run below COPY_CHARS is 0."""
        samples = [as_sample(sample) for sample in samples]
        starts = [max(sample.prompt_chars, body_start(sample.text)) for sample in samples]
        bodies = [sample.text[start:] for sample, start in zip(samples, starts)]
        longest, copied = self._copied(bodies)
        rows, n_new, n_sequences = [], 0, 0
        for body, run, n_copied in zip(bodies, longest, copied):
            sequences = four_bar_sequences(body)
            new = sum(sequence not in self.sequences for sequence in sequences)
            n_new, n_sequences = n_new + new, n_sequences + len(sequences)
            rows.append(
                {
                    "longest_copied_chars": run,
                    "copied_share": ratio(n_copied, len(body)),
                    "new_4_bar_share": ratio(new, len(sequences)),
                    "n_chars": len(body),
                }
            )
        total = sum(map(len, bodies))
        return {
            "samples": rows,
            "n": len(rows),
            "n_chars": total,
            "longest_copied_chars": max(longest, default=None),
            "copied_share": ratio(sum(copied), total),
            "new_4_bar_share": ratio(n_new, n_sequences),
        }

    def _copied(self, bodies):
        """Returns the longest copied run and the number of copied characters of every text."""
        joined = character_codes("".join(body + "\0" for body in bodies))  # zeros keep them apart
        starts = np.cumsum([0] + [len(body) + 1 for body in bodies])
        longest = np.zeros(len(bodies), np.int64)
        wanted, window_of = np.unique(window_hashes(joined, COPY_CHARS), return_inverse=True)
        which, places = self._places(wanted)
        copied = np.flatnonzero(np.isin(window_of, which))
        inside = np.zeros(len(joined) + 1, np.int64)  # +1 where a copied window begins, -1 after it
        inside[copied] += 1
        inside[copied + COPY_CHARS] -= 1
        n_before = np.concatenate([[0], np.cumsum(np.cumsum(inside) > 0)])
        at, length = self._longest_runs(joined, copied, window_of, which, places)
        np.maximum.at(longest, np.searchsorted(starts, at, "right") - 1, length)
        return longest.tolist(), (n_before[starts[1:] - 1] - n_before[starts[:-1]]).tolist()

    def _places(self, wanted):
        """Returns (indices in wanted, at most SEEDS places in the training text each). wanted:
        sorted hashes, each once."""
        numbers, places, n_seen = [], [], np.zeros(len(wanted), np.int64)
        for start in range(0, len(self.train), CHUNK_CHARS):
            chunk = self.train[start : start + CHUNK_CHARS + COPY_CHARS - 1]
            place, number = look_up(wanted, window_hashes(chunk, COPY_CHARS))
            order = np.lexsort((place, number))
            place, number = place[order], number[order]
            rank = np.arange(len(number)) - np.searchsorted(number, number)
            keep = n_seen[number] + rank < SEEDS
            n_seen += np.bincount(number, minlength=len(wanted))
            numbers.append(number[keep])
            places.append(place[keep] + start)
        none = np.empty(0, np.int64)
        return np.concatenate([none, *numbers]), np.concatenate([none, *places])

    def _longest_runs(self, joined, here, window_of, which, there):
        """Returns the places in the samples and the lengths of copied runs."""
        order = np.argsort(which, kind="stable")
        which, there = which[order], there[order]
        first = np.searchsorted(which, window_of[here])
        n_places = np.searchsorted(which, window_of[here], "right") - first
        # equal windows: place in samples, in train
        rank = np.arange(n_places.sum()) - np.repeat(np.cumsum(n_places) - n_places, n_places)
        i, p = np.repeat(here, n_places), there[np.repeat(first, n_places) + rank]
        pair, one_on = i * (len(self.train) + 1) + p, len(self.train) + 2
        begins = ~np.isin(pair - one_on, pair)  # not equal one character before
        i, p = i[begins], p[begins]
        back = _extend(joined, self.train, i - 1, p - 1, -1)
        onward = _extend(joined, self.train, i + COPY_CHARS, p + COPY_CHARS, 1)
        return i - back, back + COPY_CHARS + onward


def _extend(a, b, i, j, step):
    """Returns how many characters agree from each (i, j) on, in direction `step`."""
    n, active = np.zeros(len(i), np.int64), np.arange(len(i))
    while len(active):
        x, y = i[active] + step * n[active], j[active] + step * n[active]
        good = (x >= 0) & (y >= 0) & (x < len(a)) & (y < len(b))
        good[good] = (a[x[good]] == b[y[good]]) & (a[x[good]] != 0)
        active = active[good]
        n[active] += 1
    return n
