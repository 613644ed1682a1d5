"""Rates texts, and compares losses: code and arguments alone decide a measurement."""

import functools
import itertools
import math

import numpy as np

from music.baseline_texts import baseline_samples
from music.metrics import skills
from music.novelty import Novelty
from music.right_bars import first_draws
from music.samples import as_sample
from music.tunebook import split_tunebook
from music.validity import rate_samples, share

BOOTSTRAP = 2000  # sets of tunes for an interval: its ends move by 2 % of its width with the seed


def judged(samples):
    """Returns what a measurement may see of samples: no seeds or seconds."""
    return [{key: sample[key] for key in ("text", "prompt", "stop_reason")} for sample in samples]


def real_samples(tunes, max_chars=None):
    """Returns held-out tunes in the form of samples, cut at max_chars."""
    samples = []
    for tune in tunes:
        text = tune["text"][:max_chars]
        reason = "end" if text == tune["text"] else "budget"
        samples.append({"text": text, "prompt": "", "stop_reason": reason})
    return samples


def rate(samples):
    """Returns rates of validity; None without samples."""
    return rate_samples(samples) if samples else None


def control(samples):
    """Measures how likely the next bar is to be right after right ones only (`first_draws`), and
    the log2 of it; None where no bar was right."""
    counts = [first_draws(sample.text, not sample.truncated) for sample in map(as_sample, samples)]
    right, judged_bars = np.sum(counts, axis=0) if counts else (0, 0)
    row = {**share(right, judged_bars), "log2": None, "log2_interval": None}
    if right:
        row["log2"] = math.log2(row["rate"])
        row["log2_interval"] = [math.log2(end) for end in row["interval"]]
    return row


def copying(samples, train):
    """Measures what a set of samples shares with the training text."""
    measured = novelty_of(train.content).measure(samples)
    del measured["samples"]
    return measured


def copying_of_each(samples, train):
    """Measures what each sample shares with the training text."""
    return novelty_of(train.content).measure(samples)["samples"]


@functools.lru_cache(maxsize=1)
def novelty_of(train_text):
    """Returns the index of a training text."""
    return Novelty(train_text)


def rate_baselines(train, n, seed, max_chars):
    """Rates what any judge has to refuse: {kind of text: rates with "copied_share"}."""
    texts = baseline_samples(split_tunebook(train.content), n, seed, max_chars)
    return {
        kind: {**rate_samples(samples), "copied_share": copying(samples, train)["copied_share"]}
        for kind, samples in texts.items()
    }


def skills_of_ngrams(train, n, seed, max_chars):
    """Returns {n-gram: its skills and what it copies}."""
    texts = baseline_samples(split_tunebook(train.content), n, seed, max_chars)
    return {
        kind: {
            **skills(samples),
            "control": control(samples),
            "copied_share": copying(samples, train)["copied_share"],
        }
        for kind, samples in texts.items()
        if kind.endswith("gram")
    }


def losses_by_tune(nats, chars, tune_of, seed):
    """Returns losses of models on one split, and their paired differences, with 95 % intervals from
    a bootstrap over tunes.

    nats: {model: nats of each sequence}; chars: characters of each; tune_of: its tune. Returns
    {"n_tunes", "losses": {model: {"nats_per_char", "se", "interval"}}, "differences": [{"model",
    "less", "nats_per_char" (model - less), "se", "interval"}]}.
    """
    tunes = {tune: i for i, tune in enumerate(dict.fromkeys(tune_of))}
    which, n = [tunes[tune] for tune in tune_of], len(tunes)
    drawn = np.random.default_rng(seed).multinomial(n, [1 / n] * n, BOOTSTRAP)
    total_chars = drawn @ np.bincount(which, chars)
    resampled, measured = {}, {}
    for name, values in nats.items():
        resampled[name] = drawn @ np.bincount(which, values) / total_chars
        measured[name] = sum(values) / sum(chars)
    differences = []
    for b, a in itertools.combinations(nats, 2):
        row = _with_interval(measured[a] - measured[b], resampled[a] - resampled[b])
        differences.append({"model": a, "less": b, **row})
    return {
        "n_tunes": n,
        "losses": {name: _with_interval(measured[name], resampled[name]) for name in nats},
        "differences": differences,
    }


def _with_interval(value, resampled):
    return {
        "nats_per_char": value,
        "se": float(resampled.std()),
        "interval": np.quantile(resampled, (0.025, 0.975)).tolist(),
    }
