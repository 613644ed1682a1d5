"""Figures of music: of one tune, of a set of tunes beside another, and the skills of a model.

Tunes are texts, samples (see `as_sample`) or Tunes. Values are for JSON; what is undefined is None.
"""

import re

import numpy as np

from music.abc_fields import TICKS, parse_key, tonic_of
from music.abc_check import check_abc
from music.abc_text import Tune, read_abc
from music.samples import as_sample, mean_of_known, ratio
from music.theory import SCALES, SEMITONES, best_key
from music.validity import VALID_LEVEL

CAP_NOTES = 250  # a piece's weight in pooled histograms, at most
POSITIONS = 4  # of onsets, in a quarter note
LEAP = 4  # semitones: a larger melodic interval is a leap
EPSILON = 1e-9  # quarter notes: onsets that are equal but for rounding

METRICS = (
    "pitch_class_entropy scale_consistency in_key_share groove_consistency polyphony"
    " notes_per_bar pitch_range rest_share bar_repetition leap_share"
).split()
HISTOGRAMS = {"duration": 193, "interval": 49, "onset": 64}  # number of classes


def as_tune(tune):
    """Returns the Tune of a text, a sample or a Tune, as far as it can be read."""
    return tune if isinstance(tune, Tune) else read_abc(as_sample(tune).text, strict=False)


def _note_arrays(tune):
    """Returns arrays: onsets, durations (quarter notes), pitches, voice numbers."""
    voices = [
        np.array([onsets, durations, pitches, [i] * len(onsets)], int)
        for i, (_, onsets, durations, pitches) in enumerate(tune.ticks)
    ]
    onsets, durations, pitches, voices = np.concatenate([np.zeros((4, 0), int), *voices], axis=1)
    return onsets / TICKS, durations / TICKS, pitches, voices


def entropy(counts):
    """Returns the Shannon entropy of a histogram in bits; None if it is empty."""
    counts = np.asarray(counts, float)
    if not counts.sum():
        return None
    p = counts[counts > 0] / counts.sum()
    return float(max(0.0, -(p * np.log2(p)).sum()))


def music_metrics(tune):
    """Returns the figures of a tune, {name in METRICS: number or None}.

    pitch_class_entropy: bits; scale_consistency: largest share of notes in any major or natural
    minor scale (Mogren 2016); groove_consistency: 1 - mean share of the positions (16 in a 4/4 bar)
    where one of two neighbouring bars of one meter has an onset and the other none (as MusPy, on
    another grid); polyphony: mean number of notes while any sounds; pitch_range: semitones;
    rest_share: of the time, without any sound; leap_share: of the melodic intervals.
    """
    tune = as_tune(tune)
    onsets, durations, pitches, voices = _note_arrays(tune)
    if not len(pitches):
        return dict.fromkeys(METRICS)
    classes = np.bincount(pitches % 12, minlength=12)
    n_bars = max(len(voice.bars) for voice in tune.voices)
    sounding, polyphony = _polyphony(onsets, durations)
    ends = [float(voice.bars[-1].onset + voice.bars[-1].length) for voice in tune.voices]
    total = max(float((onsets + durations).max()), *ends)  # ties lead beyond a last bar
    intervals = np.abs(_intervals(onsets, pitches, voices))
    return {
        "pitch_class_entropy": entropy(classes),
        "scale_consistency": float((SCALES @ classes).max() / len(pitches)),
        "in_key_share": in_key_share(tune),
        "groove_consistency": _groove(tune, onsets),
        "polyphony": polyphony,
        "notes_per_bar": len(pitches) / n_bars,
        "pitch_range": int(pitches.max() - pitches.min()),
        "rest_share": max(0.0, 1 - sounding / total) if total > 0 else None,
        "bar_repetition": repeated_bars(tune),
        "leap_share": float((intervals > LEAP).mean()) if len(intervals) else None,
    }


def repeated_bars(tune):
    """Returns the share of sounding bars that stood before in their voice, or None."""
    sounding = [
        [re.sub(r"\[[A-Za-z]:[^\]]*\]|\s+", "", bar.text) for bar in voice.bars if bar.n_notes]
        for voice in tune.voices
    ]
    n = sum(map(len, sounding))
    return 1 - sum(len(set(bars)) for bars in sounding) / n if n else None


def _polyphony(onsets, durations):
    """Returns (quarter notes with any sound, mean number of notes in them)."""
    times = np.concatenate([onsets, onsets + durations])
    order = np.argsort(times, kind="stable")
    count = np.cumsum(np.repeat([1, -1], len(onsets))[order])[:-1]
    length = np.diff(times[order])
    sounding = float(length[count > 0].sum())
    return sounding, float((length * count).sum() / sounding) if sounding > 0 else None


def _intervals(onsets, pitches, voices):
    """Returns the intervals (semitones) between the highest notes of a voice's onsets."""
    order = np.lexsort((-pitches, onsets, voices))
    onsets, pitches, voices = onsets[order], pitches[order], voices[order]
    other_voice = np.diff(voices, prepend=-1) != 0
    top = other_voice | (np.diff(onsets, prepend=-1) > EPSILON)
    return np.diff(pitches[top])[~other_voice[top][1:]]


def in_key_share(tune):
    """Returns the share of notes in the scale of the key in force, or None."""
    onsets, _, pitches, _ = _note_arrays(tune)
    if not len(pitches):
        return None
    starts = np.array([float(at) for at, _ in tune.keys])
    key = np.searchsorted(starts, onsets + EPSILON, "right") - 1
    scales = np.array([np.isin(np.arange(12), _scale(key)) for _, key in tune.keys])
    return float(scales[key, pitches % 12].mean())


def _scale(key):
    """Returns the pitch classes of a K: value; if it is no key, of C major."""
    try:
        return np.add(SEMITONES, parse_key(key)) % 12
    except ValueError:
        return SEMITONES


def _bars_of(tune, onsets):
    """Returns the longest voice's bars: starts, meters (0: free), and that of each onset."""
    bars = max((voice.bars for voice in tune.voices), key=len)
    starts = np.array([float(bar.onset) for bar in bars])
    meters = np.array([float(bar.meter or 0) for bar in bars])
    bar = np.searchsorted(starts, onsets + EPSILON, "right") - 1
    return starts, meters, np.clip(bar, 0, len(starts) - 1)


def _groove(tune, onsets):
    starts, meters, bar = _bars_of(tune, onsets)
    same = (meters[1:] == meters[:-1]) & (meters[1:] > 0)
    if not same.any():
        return None
    width = int(min(64, max(1, round(meters.max() * POSITIONS))))
    position = np.floor((onsets - starts[bar]) * POSITIONS + 1e-6).astype(int)
    inside = (position >= 0) & (position < width)
    grid = np.zeros((len(starts), width), bool)
    grid[bar[inside], position[inside]] = True
    n_changed = (grid[1:] ^ grid[:-1]).sum(1)[same]
    return float(1 - (n_changed / np.maximum(1, meters[1:][same] * POSITIONS)).mean())


def note_histograms(tune):
    """Returns {name in HISTOGRAMS: counts}, of a long piece as of CAP_NOTES notes: durations in
    1/24 of a quarter note; melodic intervals from -24 to 24 semitones; positions of onsets in the
    bar."""
    tune = as_tune(tune)
    onsets, durations, pitches, voices = _note_arrays(tune)
    if not len(pitches):
        return {name: np.zeros(size) for name, size in HISTOGRAMS.items()}
    starts, _, bar = _bars_of(tune, onsets)
    classes = {
        "duration": np.round(np.minimum(durations, 8) * 24),
        "interval": np.clip(_intervals(onsets, pitches, voices), -24, 24) + 24,
        "onset": np.clip(np.floor((onsets - starts[bar]) * POSITIONS + 1e-6), 0, 63),
    }
    weight = min(1.0, CAP_NOTES / len(pitches))
    return {
        name: weight * np.bincount(classes[name].astype(int), minlength=size)
        for name, size in HISTOGRAMS.items()
    }


def jensen_shannon(p, q):
    """Returns the Jensen-Shannon divergence of two histograms in bits; None if one is empty."""
    if not np.sum(p) or not np.sum(q):
        return None
    p, q = np.divide(p, np.sum(p)), np.divide(q, np.sum(q))
    value = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
    return float(min(1.0, max(0.0, value)))


def compare_sets(generated, real, seed=0, resamples=200):
    """Returns generated beside real music, and real beside real: {"n", "n_real", "n_compared",
    "metrics": {name: row}, "jsd": {name: row}}.

    Distances shrink as sets grow, so all are between n_compared tunes and as many others, drawn
    `resamples` times. One below real_vs_real_p95 is no difference.
    """
    rng = np.random.default_rng(seed)
    figures = [
        [music_metrics(tune) | note_histograms(tune) for tune in map(as_tune, tunes)]
        for tunes in (generated, real)
    ]
    n, n_real = map(len, figures)
    size = min(n, n_real // 2)
    draws = []
    for _ in range(resamples if size else 0):
        order = rng.permutation(n_real)
        draws.append((rng.permutation(n)[:size], order[:size], order[size : 2 * size]))

    def row(name, compare):
        return compare(*([of_tune[name] for of_tune in of_set] for of_set in figures), draws)

    return {
        "n": n,
        "n_real": n_real,
        "n_compared": size,
        "metrics": {name: row(name, _compare_metric) for name in METRICS},
        "jsd": {name: row(name, _compare_histogram) for name in HISTOGRAMS},
    }


def _compare_metric(ours, theirs, draws):
    """Returns means, spreads, and Wasserstein-1 distances in spreads of the real set."""
    from scipy.stats import wasserstein_distance

    ours, theirs = np.array(ours, float), np.array(theirs, float)  # None becomes nan
    row = {}
    for name, values in (("generated", ours), ("real", theirs)):
        known = _known(values)
        row[f"{name}_mean"] = mean_of_known(known)
        row[f"{name}_sd"] = float(known.std()) if len(known) > 1 else None
    spread = row["real_sd"]

    def distance(a, b):
        a, b = _known(a), _known(b)
        return wasserstein_distance(a, b) / spread if len(a) and len(b) and spread else None

    return row | _mean_distances("wasserstein_in_sd", distance, ours, theirs, draws)


def _known(values):
    return values[~np.isnan(values)]


def _compare_histogram(ours, theirs, draws):
    """Returns divergences between the summed histograms of sets."""

    def distance(a, b):
        return jensen_shannon(a.sum(0), b.sum(0))

    return _mean_distances("generated", distance, np.array(ours), np.array(theirs), draws)


def _mean_distances(name, distance, ours, theirs, draws):
    """Returns mean distances; draws: [(indices of generated, of real, of other real)]."""
    within = [distance(theirs[b], theirs[c]) for _, b, c in draws]
    within = [value for value in within if value is not None]
    return {
        name: mean_of_known([distance(ours[a], theirs[b]) for a, b, _ in draws]),
        "real_vs_real_mean": mean_of_known(within),
        "real_vs_real_p95": float(np.quantile(within, 0.95)) if within else None,
    }


def skills(samples):
    """Returns shares, one number a skill.

    meter: of right bars; key: of tunes whose notes fit the key of K: (or its relative) best;
    in_key: of notes in the scale of their key (near 0.9 even for random letters); cadence: of whole
    tunes that end with the tonic in the bass; repetition: of repeated bars; valid: of tunes at
    level 4; content: with enough music; ended: by themselves.
    """
    samples = [as_sample(sample) for sample in samples]
    checks = [check_abc(sample.text, sample.prompt_chars) for sample in samples]
    tunes = [as_tune(sample.text) for sample in samples]
    whole = [tune for tune, sample in zip(tunes, samples) if not sample.truncated]
    n_sounding = sum(check.n_sounding_bars for check in checks)
    return {
        "n": len(samples),
        "meter": ratio(sum(check.n_right_bars for check in checks), n_sounding),
        "key": mean_of_known(map(_keeps_key, tunes)),
        "in_key": mean_of_known(map(in_key_share, tunes)),
        "cadence": mean_of_known(map(_ends_at_home, whole)),
        "repetition": mean_of_known(map(repeated_bars, tunes)),
        "valid": mean_of_known([check.level >= VALID_LEVEL for check in checks]),
        "content": mean_of_known([check.content for check in checks]),
        "ended": mean_of_known([not sample.truncated for sample in samples]),
    }


def _keeps_key(tune):
    """Returns whether the key of K: or its relative fits the notes best, None without a tonic."""
    key = tonic_of(tune.key)
    if not key:
        return None
    _, durations, pitches, _ = _note_arrays(tune)
    if len(np.unique(pitches % 12)) < 2:  # no correlation
        return False
    tonic, minor = key
    relative = (tonic + (3 if minor else 9)) % 12, 1 - minor
    return best_key(np.bincount(pitches % 12, weights=durations, minlength=12)) in (key, relative)


def _ends_at_home(tune):
    """Returns whether the lowest of the last notes is the tonic of its key."""
    key = tonic_of(tune.key)
    onsets, durations, pitches, _ = _note_arrays(tune)
    if not key or not len(pitches):
        return False
    tonic, _ = tonic_of(tune.keys[-1][1]) or key
    ends = onsets + durations
    return bool(pitches[ends > ends.max() - 1e-6].min() % 12 == tonic)
