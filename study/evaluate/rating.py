"""Rates texts, and compares losses: functions of texts and settings alone, so that their code and
arguments are all that decides a measurement."""

import functools
import math

import numpy as np

from music.baseline_texts import baseline_samples
from music.metrics import skills
from music.novelty import Novelty
from music.right_bars import first_draws
from music.samples import as_sample
from music.tunebook import split_tunebook
from music.validity import rate_samples, share, standard_error

# sets of tunes drawn for an interval: its ends move by 2 % of its width from seed to seed
BOOTSTRAP = 2000


# ---------------------------------------------------------------- samples and tunes


def judged(samples):
    """What a measurement may see of samples: the text, what of it was given, and whether the budget
    cut it off. Their seeds and seconds are not measured, and must not decide its key."""
    return [{key: sample[key] for key in ("text", "prompt", "stop_reason")} for sample in samples]


def real_samples(tunes, max_chars=None):
    """Held-out tunes in the form of samples, to be judged by the same functions; under the same
    limit of length, if one is given, as the samples that they stand beside."""
    return [
        {
            "text": tune["text"][:max_chars],
            "prompt": "",
            "stop_reason": (
                "end" if max_chars is None or len(tune["text"]) <= max_chars else "budget"
            ),
        }
        for tune in tunes
    ]


# ---------------------------------------------------------------- validity and control


def rate(samples):
    """Rates of validity, first try, none left out; None without samples."""
    return rate_samples(samples) if samples else None


def control(samples):
    """How likely the next bar is to be right after nothing but right ones, from free samples
    (`first_draws`): the share of such bars with its interval, and "log2" of it, the luck in bits
    that a right bar takes, which tells models apart whose tunes are never valid. None where no bar
    was right, or none judged."""
    counts = [first_draws(sample.text, not sample.truncated) for sample in map(as_sample, samples)]
    right, judged_bars = np.sum(counts, axis=0) if counts else (0, 0)
    row = share(right, judged_bars)
    return {
        **row,
        "log2": math.log2(row["rate"]) if right else None,
        "log2_interval": [math.log2(end) for end in row["interval"]] if right else None,
    }


def cost_of_draws(draws):
    """Mean log2 of the probability that a bar is right, with its standard error over texts, from
    how often each bar of
    each text was drawn until it was right: {"log2", "se"}.

    For n draws -(1 + 1/2 + ... + 1/(n - 1)) is an unbiased estimate of the logarithm (inverse
    binomial sampling: van Opheusden, Acerbi and Ma 2020); a bar given up counts as if its last draw
    had been right: a little too high.
    """
    sums = np.array(
        [(sum(1 / k for n in text for k in range(1, n)), len(text)) for text in draws if text],
        float,
    )
    if not len(sums):
        return {"log2": None, "se": None}
    error = standard_error(*sums.T)
    return {
        "log2": -sums[:, 0].sum() / sums[:, 1].sum() / math.log(2),
        "se": error and error / math.log(2),
    }


# ---------------------------------------------------------------- copying from the training text


def copying(samples, train):
    """What the samples share with the training text, as a set."""
    return {
        key: value
        for key, value in novelty_of(train.content).measure(samples).items()
        if key != "samples"
    }


def copying_of_each(samples, train):
    """What each sample shares with the training text."""
    return novelty_of(train.content).measure(samples)["samples"]


@functools.lru_cache(maxsize=1)
def novelty_of(train_text):
    return Novelty(train_text)


# ---------------------------------------------------------------- texts that are no music


def floor_rates(train, n, seed, max_chars):
    """Rates of what any judge has to refuse, and what it copies: {kind: rates with
    "copied_share"}."""
    return {
        name: {**rate_samples(samples), "copied_share": copying(samples, train)["copied_share"]}
        for name, samples in baseline_samples(
            split_tunebook(train.content), n, seed, max_chars
        ).items()
    }


def floor_skills(train, n, seed, max_chars):
    """{n-gram: its skills and what it copies}, under the limit of length of the suite's samples."""
    return {
        name: {
            **skills(samples),
            "control": control(samples),
            "copied_share": copying(samples, train)["copied_share"],
        }
        for name, samples in baseline_samples(
            split_tunebook(train.content), n, seed, max_chars
        ).items()
        if name.endswith("gram")
    }


# ---------------------------------------------------------------- losses


def losses_by_tune(nats, chars, tune_of, seed):
    """Losses of models on one split with their intervals, and the differences between any two.

    nats: {model: nats of each sequence}; chars: characters of each; tune_of: its tune. What is
    drawn at random are tunes, so they are drawn again (bootstrap), with all their sequences. Two
    models find the same tunes hard: their paired difference is known far better than either loss.
    Returns {"n_tunes", "losses": {model: {"nats_per_char", "se", "interval"}}, "differences":
    [{"model", "less", "nats_per_char" (model - less), "se", "interval"}]}.
    """
    tunes = {tune: i for i, tune in enumerate(dict.fromkeys(tune_of))}
    which = [tunes[tune] for tune in tune_of]
    drawn = np.random.default_rng(seed).multinomial(
        len(tunes), [1 / len(tunes)] * len(tunes), BOOTSTRAP
    )
    total_chars = drawn @ np.bincount(which, chars)
    resampled = {
        name: drawn @ np.bincount(which, values) / total_chars for name, values in nats.items()
    }
    measured = {name: sum(values) / sum(chars) for name, values in nats.items()}
    names = list(nats)
    return {
        "n_tunes": len(tunes),
        "losses": {name: _with_interval(measured[name], resampled[name]) for name in names},
        "differences": [
            {
                "model": a,
                "less": b,
                **_with_interval(measured[a] - measured[b], resampled[a] - resampled[b]),
            }
            for i, b in enumerate(names)
            for a in names[i + 1 :]
        ],
    }


def _with_interval(value, resampled):
    return {
        "nats_per_char": value,
        "se": float(resampled.std()),
        "interval": np.quantile(resampled, (0.025, 0.975)).tolist(),
    }
