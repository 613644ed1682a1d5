"""What samples are worth: rates of validity with their ceiling and floors, musical figures, copying from training.

    rates = rate_samples(samples)                  # share of samples at each level, bar accuracy, abc2midi's verdict
    figures = compare_sets(samples, test_tunes)    # musical metrics beside real music and beside real-against-real
    copied = Novelty(train_text).measure(samples)  # longest copied run, copied share, new four-bar sequences
    bottom = floors(train_tunes, n=100, seed=0)    # random characters, shuffled music, rests, n-grams: rate them too

A *sample* is a text or a dict with `text` and, where they matter, `prompt_chars` (given, not generated) and
`truncated` (stopped by its budget). Every function is pure, gives JSON values, and says None for what is undefined
(the groove of a tune of one bar), never NaN and never a made-up zero.
"""

import re
import shutil
import subprocess
import tempfile
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from music.abc_text import TICKS, Tune, check_abc, parse_key, read_abc, trim_to_bars

LEVELS = ("header", "tokens", "content", "meter", "aligned")
VALID_LEVEL = 4          # a sample is valid if it reaches this level
JUDGE_SECONDS = 10       # time limit of abc2midi for one text; real tunes take 5 ms
JUDGE_BLOCKS = 40_000    # its files may have this many blocks of 512 bytes: one text in a million asks for a gigabyte
CAP_NOTES = 250          # a piece weighs at most this many notes in pooled histograms: long pieces must not be the set
POSITIONS = 4            # per quarter note (16 in a 4/4 bar) for groove and onset positions; finer says 0.99 of all
LEAP = 4                 # semitones: a larger melodic interval is a leap
COPY_CHARS = 32          # shorter runs are shared by any two tunes
SEEDS = 32               # places in the training text remembered for one window; the rest are boilerplate such as rests
CHUNK_CHARS = 4_000_000  # of training text hashed at a time: 130 MB of work memory
INDEX_CHARS = 32_000_000  # largest training text with an index of its windows: 16 bytes a character
NGRAM_CHARS = 20_000_000  # training text an n-gram floor is made from; more changes nothing it can do


def _sample(sample):
    """(text, number of prompt characters, truncated) of a text or a dict."""
    if isinstance(sample, str):
        return sample, 0, False
    prompt_chars = sample.get("prompt_chars")
    if prompt_chars is None:
        prompt_chars = len(sample.get("prompt") or "")
    return sample["text"], prompt_chars, bool(sample.get("truncated", sample.get("stop_reason", "end") != "end"))


# ---------------------------------------------------------------- rates

def wilson(k, n, z=1.959964):
    """[low, high]: Wilson's 95 % interval of a share k/n (Wilson 1927); None if n is 0.

    >>> [round(bound, 3) for bound in wilson(10, 10)]
    [0.722, 1.0]
    """
    if not n:
        return None
    share, scale = k / n, 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = z / scale * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return [0.0 if k == 0 else max(0.0, middle - half), 1.0 if k == n else min(1.0, middle + half)]


def share(k, n):
    """{"k", "n", "rate", "interval"}: a share with Wilson's interval; rate and interval None if n is 0."""
    return {"k": int(k), "n": int(n), "rate": k / n if n else None, "interval": wilson(k, n)}


def rate_samples(samples, judge=True, workers=2):
    """Validity of a set of samples, every one counted: the JSON block for RESULTS.json.

    rate, interval: level 4 with Wilson's interval; by_level: the five cumulative rates; flags: each criterion alone;
    bar_accuracy: share of all sounding generated bars that are exactly as long as their meter;
    cut: the same rates after truncated samples lost their unfinished last bar, cut_group: ... and the bars that not
    every voice has; judge: share of texts that abc2midi compiles to notes without an error or a bar-length warning
    (None where it is not installed); header_regex_rate: what a check for `X:`, `K:` and one `|` calls valid.
    """
    triples = [_sample(sample) for sample in samples]
    checks = [check_abc(text, prompt_chars) for text, prompt_chars, _ in triples]
    n = len(checks)
    levels = np.array([check.level for check in checks], int)
    n_truncated = sum(truncated for *_, truncated in triples)
    sounding, right = sum(c.n_sounding_bars for c in checks), sum(c.n_right_bars for c in checks)
    voice_bars = sum(c.n_voice_bars for c in checks)
    rest_bars = sum(round((c.rest_bar_share or 0) * c.n_voice_bars) for c in checks)

    def after(all_voices):
        cut = [check_abc(trim_to_bars(text, all_voices) if truncated else text, prompt_chars).level
               for text, prompt_chars, truncated in triples] if n_truncated else levels
        return {**share(int(np.sum(np.array(cut, int) >= VALID_LEVEL)), n), "by_level": _by_level(cut)}

    verdicts = judge_texts([text for text, *_ in triples], workers) if judge else None
    return {
        "definition": "level 4: header, tokens, content and meter, over all first-try samples, generated part only",
        **share(int((levels >= VALID_LEVEL).sum()), n),
        "by_level": _by_level(levels),
        "levels": {name: share(int((levels > i).sum()), n) for i, name in enumerate(LEVELS)},
        "flags": {name: share(sum(getattr(c, name) for c in checks), n) for name in LEVELS},
        "bar_accuracy": right / sounding if sounding else None, "n_sounding_bars": sounding,
        "bar_accuracy_per_sample": _mean([c.bar_accuracy for c in checks]),
        "rest_bar_share": rest_bars / voice_bars if voice_bars else None,
        "truncated_share": n_truncated / n if n else None,
        "cut": after(False), "cut_group": after(True),
        "judge": _judge_rate(verdicts), "judge_rate": None if not verdicts else _judge_rate(verdicts)["rate"],
        "header_regex_rate": sum(bool(re.search(r"(?s)^X:.*^K:.*\|", text, re.M)) for text, *_ in triples) / n
        if n else None,
        "error_kinds": dict(Counter(kind for c in checks for kind in sorted({e[1] for e in c.errors})).most_common(8)),
        "n_notes_mean": _mean([c.n_notes for c in checks]), "n_bars_mean": _mean([c.n_bars for c in checks]),
        "n_voices_mean": _mean([c.n_voices for c in checks]),
        "multi_voice_share": sum(c.n_voices > 1 for c in checks) / n if n else None,
    }


def ladder_row(name, kind, rates):
    """A row of the table that shows a model between floors and ceiling; kind: model, real, ngram, random, ..."""
    return {"name": name, "kind": kind, **{key: rates[key] for key in (
        "n", "rate", "interval", "by_level", "bar_accuracy", "rest_bar_share", "truncated_share", "judge_rate",
        "header_regex_rate")}, "cut_rate": rates["cut"]["rate"]}


def check_record(check):
    """A Check as JSON values, for a sample's row in metadata.json."""
    return {**check._asdict(), "errors": [list(error) for error in check.errors],
            "warnings": [list(warning) for warning in check.warnings]}


def _by_level(levels):
    levels = np.asarray(levels, int)
    return [float((levels > i).mean()) if len(levels) else None for i in range(len(LEVELS))]


def _mean(values):
    values = [value for value in values if value is not None]
    return float(np.mean(values)) if values else None


# ---------------------------------------------------------------- the independent judge

def find_abc2midi():
    """Path of abc2midi: from the PATH, else the copy in the symusic wheel; None if there is none."""
    found = shutil.which("abc2midi")
    if found:
        return found
    try:
        import symusic
    except ImportError:
        return None
    program = Path(symusic.__file__).parent / "bin" / "abc2midi"
    return str(program) if program.exists() else None


def judge_texts(texts, workers=2):
    """[{"notes", "errors", "bar_warnings", "timed_out", "clean", "first"}] by abc2midi, one child process a text.

    Its exit code says nothing (0 for random characters), so its words are read: clean means notes in the MIDI file, no
    line `Error` and no bar that is longer or shorter than its meter. None if abc2midi is not installed.
    """
    program = find_abc2midi()
    if program is None:
        return None
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda text: _judge(program, text), texts))


def _judge(program, text):
    limits = f'ulimit -f {JUDGE_BLOCKS}; ulimit -t {JUDGE_SECONDS}; exec "$0" t.abc -o t.mid'
    timed_out = False
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "t.abc").write_text(text, encoding="utf-8", errors="replace")
        with open(Path(folder, "log"), "wb") as log:
            try:  # /bin/sh sets the limits: a child forked from a process that holds torch would cost 30 ms
                subprocess.run(["/bin/sh", "-c", limits, program], cwd=folder, stdout=log, stderr=log,
                               stdin=subprocess.DEVNULL, timeout=JUDGE_SECONDS)
            except subprocess.TimeoutExpired:
                timed_out = True
        words = Path(folder, "log").read_bytes()[:1_000_000].decode("utf-8", "replace")
        midi = Path(folder, "t.mid")
        notes = 0 if timed_out or not midi.exists() else count_midi_notes(midi.read_bytes())
    complaints = re.findall(r"^(?:Error|Warning).*", words, re.M)
    errors = sum(line.startswith("Error") for line in complaints)
    bars = sum("time units while the time signature" in line for line in complaints)
    return {"notes": notes, "errors": errors, "bar_warnings": bars, "timed_out": timed_out,
            "clean": notes > 0 and not errors and not bars and not timed_out,
            "first": complaints[0][:120] if complaints else None}


def count_midi_notes(data):
    """Number of note-on events (velocity above 0) in the bytes of a MIDI file; 0 if it is none."""
    n_notes, at = 0, 14
    if data[:4] != b"MThd":
        return 0
    while data[at:at + 4] == b"MTrk":
        end = min(len(data), at + 8 + int.from_bytes(data[at + 4:at + 8], "big"))
        at, status = at + 8, 0
        try:
            while at < end:
                while data[at] & 0x80:  # delta time
                    at += 1
                at += 1
                if data[at] & 0x80:
                    status = data[at]
                    at += 1
                if status >= 0xF0:
                    at += status == 0xFF
                    length = 0
                    while data[at] & 0x80:
                        length, at = (length << 7) | (data[at] & 0x7F), at + 1
                    at += 1 + ((length << 7) | data[at])
                else:
                    n_notes += status & 0xF0 == 0x90 and data[at + 1] > 0
                    at += 1 if status & 0xE0 == 0xC0 else 2
        except IndexError:
            return n_notes
        at = end
    return n_notes


def _judge_rate(verdicts):
    if verdicts is None:
        return None
    n = len(verdicts)
    return {**share(sum(v["clean"] for v in verdicts), n),
            "with_notes": share(sum(v["notes"] > 0 for v in verdicts), n),
            "timed_out": sum(v["timed_out"] for v in verdicts)}


# ---------------------------------------------------------------- music, per tune

_MAJOR = np.array([1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1])
_SCALES = np.array([np.roll(_MAJOR, tonic) for tonic in range(12)])  # natural minor has the notes of a major scale
_LETTER_PITCHES = np.array([0, 2, 4, 5, 7, 9, 11])
# how much of each scale degree a listener expects (Krumhansl and Kessler 1982), major and minor
_PROFILES = np.array([[6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88],
                      [6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17]])
METRICS = ("n_notes", "n_bars", "n_voices", "pitch_class_entropy", "pitch_class_entropy_4_bars", "scale_consistency",
           "in_key_share", "groove_consistency", "polyphony", "polyphony_rate", "notes_per_bar", "notes_per_quarter",
           "pitch_range", "n_pitches", "rest_share", "voice_rest_share", "bar_repetition", "bar_repetition_lag_1",
           "bar_repetition_lag_2", "bar_repetition_lag_4", "bar_repetition_lag_8", "leap_share", "mean_interval",
           "mean_duration", "compression_ratio")


def _tune(tune):
    """The tune of a text, a sample or a Tune; text that is not ABC gives what can be read of it."""
    return tune if isinstance(tune, Tune) else read_abc(_sample(tune)[0], strict=False)


def _notes(tune):
    """(onsets, durations, pitches, voice numbers) of a tune as arrays; times in quarter notes."""
    columns = [(np.array(onsets, float), np.array(durations, float), np.array(pitches, int), np.full(len(onsets), i))
               for i, (_, onsets, durations, pitches) in enumerate(tune.ticks)]
    if not columns:
        return np.zeros(0), np.zeros(0), np.zeros(0, int), np.zeros(0, int)
    onsets, durations, pitches, voices = (np.concatenate(column) for column in zip(*columns))
    return onsets / TICKS, durations / TICKS, pitches, voices


def entropy(counts):
    """Shannon entropy in bits of a histogram; None if it is empty."""
    counts = np.asarray(counts, float)
    p = counts[counts > 0] / counts.sum() if counts.sum() else None
    return None if p is None else float(max(0.0, -(p * np.log2(p)).sum()))


def music_metrics(tune):
    """Musical figures of one tune (a text, a sample or a Tune): {name in METRICS: number or None}.

    pitch_class_entropy         bits over the 12 pitch classes, one count a note (at most 3.585)
    pitch_class_entropy_4_bars  the mean of the same over windows of four bars (Wu and Yang 2020): shows a lost key
    scale_consistency           largest share of notes in any major or natural minor scale (Mogren 2016); ABC's key
                                signature makes random letters score 0.9, so no proof of anything
    in_key_share                share of notes in the scale of the key that K: gives
    groove_consistency          1 - mean share of the positions (16 in a 4/4 bar) in which neighbouring bars of one
                                meter differ in having an onset (MusPy, there with another grid)
    polyphony, polyphony_rate   mean number of notes while any sounds; share of that time with two or more
    rest_share                  share of the time in which no voice sounds; voice_rest_share: mean over the voices
    bar_repetition              1 - distinct/all sounding bars of a voice (by their text); lag k: share of sounding
                                bars equal to the one k bars before in the same voice
    leap_share                  share of melodic intervals (tops of successive onsets of a voice) above 4 semitones
    mean_interval               mean size of those intervals, semitones; mean_duration: quarter notes
    compression_ratio           zlib bytes/characters of the music text: low for loops, high for noise
    """
    tune_ = _tune(tune)
    onsets, durations, pitches, voices = _notes(tune_)
    n_bars = max((len(voice.bars) for voice in tune_.voices), default=0)
    out = dict.fromkeys(METRICS)
    out.update(n_notes=len(pitches), n_bars=n_bars, n_voices=len(tune_.voices))
    texts = [[_bar_text(bar.text) for bar in voice.bars] for voice in tune_.voices]
    body = "|".join("|".join(voice) for voice in texts).encode("ascii", "replace")
    if len(body) >= 64:
        out["compression_ratio"] = len(zlib.compress(body, 9)) / len(body)
    if not len(pitches):
        return out
    classes = np.bincount(pitches % 12, minlength=12)
    total = max(float((onsets + durations).max()),
                max(float(voice.bars[-1].onset + voice.bars[-1].length) for voice in tune_.voices if voice.bars))
    intervals = np.concatenate([melodic_intervals(onsets[voices == i], pitches[voices == i])
                                for i in range(len(tune_.voices))])
    sounding, polyphony, two_or_more = _polyphony(onsets, durations)
    silent = [1 - _polyphony(onsets[voices == i], durations[voices == i])[0] / total
              for i in range(len(tune_.voices))] if total > 0 else [None]
    out.update(
        pitch_class_entropy=entropy(classes), pitch_class_entropy_4_bars=_windowed_entropy(tune_, onsets, pitches),
        scale_consistency=float((_SCALES @ classes).max() / len(pitches)),
        in_key_share=in_key_share(tune_, onsets, pitches), groove_consistency=_groove(tune_, onsets),
        polyphony=polyphony, polyphony_rate=two_or_more, notes_per_bar=len(pitches) / n_bars if n_bars else None,
        notes_per_quarter=len(pitches) / total if total > 0 else None,
        pitch_range=int(pitches.max() - pitches.min()), n_pitches=len(np.unique(pitches)),
        rest_share=max(0.0, 1 - sounding / total) if total > 0 else None, voice_rest_share=_mean(silent),
        leap_share=float((np.abs(intervals) > LEAP).mean()) if len(intervals) else None,
        mean_interval=float(np.abs(intervals).mean()) if len(intervals) else None,
        mean_duration=float(durations.mean()), **_repetition(tune_, texts))
    return out


def _bar_text(text):
    """A bar's text without blanks and inline fields."""
    return re.sub(r"\[[A-Za-z]:[^\]]*\]|\s+", "", text)


def melodic_intervals(onsets, pitches):
    """Semitones between the highest notes of successive onsets of one voice."""
    if len(onsets) < 2:
        return np.zeros(0, int)
    order = np.lexsort((-pitches, onsets))
    first = np.concatenate(([True], np.diff(onsets[order]) > 1e-9))
    return np.diff(pitches[order][first])


def _polyphony(onsets, durations):
    """(quarter notes in which anything sounds, mean number of notes then, share of it with two or more)."""
    times = np.concatenate([onsets, onsets + durations])
    order = np.argsort(times, kind="stable")
    count = np.cumsum(np.repeat([1, -1], len(onsets))[order])[:-1]
    length = np.diff(times[order])
    sounding = float(length[count > 0].sum())
    if not sounding > 0:
        return 0.0, None, None
    return sounding, float((length * count).sum() / sounding), float(length[count > 1].sum() / sounding)


def in_key_share(tune, onsets=None, pitches=None):
    """Share of notes that belong to the scale of the key in force where they begin; None without notes."""
    if onsets is None:
        onsets, _, pitches, _ = _notes(tune)
    if not len(pitches):
        return None
    starts = np.array([float(at) for at, _ in tune.keys])
    scales = np.array([np.isin(np.arange(12), (_LETTER_PITCHES + _alters(key)) % 12) for _, key in tune.keys])
    return float(scales[np.searchsorted(starts, onsets + 1e-9, "right") - 1, pitches % 12].mean())


def _alters(key):
    try:
        return np.array(parse_key(key))
    except ValueError:
        return np.zeros(7, int)


def tonic_of(key):
    """(pitch class of the tonic, 1 if the mode is minor-like else 0) of a K: value; None without a tonic.

    >>> tonic_of("F#m"), tonic_of("Bb"), tonic_of("none")
    ((6, 1), (10, 0), None)
    """
    match = re.match(r"([A-G])([#b]?)\s*([A-Za-z]*)", key or "")
    if not match or key.startswith(("HP", "Hp")):
        return None
    letter, sign, mode = match.groups()
    minor = mode == "m" or mode.lower()[:3] in ("min", "dor", "aeo", "phr", "loc")
    return (int(_LETTER_PITCHES["CDEFGAB".index(letter)]) + {"#": 1, "b": -1, "": 0}[sign]) % 12, int(minor)


def best_key(durations, pitches):
    """(tonic pitch class, 0 major or 1 minor): the key whose profile the notes fit best, weighted by duration."""
    weights = np.bincount(pitches % 12, weights=durations, minlength=12)
    if len(np.unique(pitches % 12)) < 2:
        return None
    fits = [[np.corrcoef(np.roll(profile, tonic), weights)[0, 1] for profile in _PROFILES] for tonic in range(12)]
    tonic, mode = np.unravel_index(int(np.argmax(fits)), (12, 2))
    return int(tonic), int(mode)


def _bar_grid(tune):
    """(onsets, meters) of the bars of the voice that has most, quarter notes; meter 0: free."""
    bars = max((voice.bars for voice in tune.voices), key=len, default=[])
    return np.array([float(bar.onset) for bar in bars]), np.array([float(bar.meter or 0) for bar in bars])


def _windowed_entropy(tune, onsets, pitches, n_bars=4):
    starts, _ = _bar_grid(tune)
    if len(starts) < n_bars:
        return None
    bar = np.clip(np.searchsorted(starts, onsets + 1e-9, "right") - 1, 0, len(starts) - 1)
    counts = np.zeros((len(starts), 12))
    np.add.at(counts, (bar, pitches % 12), 1)
    total = np.concatenate([np.zeros((1, 12)), counts.cumsum(0)])
    return _mean([entropy(window) for window in total[n_bars:] - total[:-n_bars]])


def _groove(tune, onsets):
    starts, meters = _bar_grid(tune)
    if len(starts) < 2:
        return None
    bar = np.clip(np.searchsorted(starts, onsets + 1e-9, "right") - 1, 0, len(starts) - 1)
    width = int(min(64, max(1, round(meters.max() * POSITIONS))))
    position = np.floor((onsets - starts[bar]) * POSITIONS + 1e-6).astype(int)
    inside = (position >= 0) & (position < width)
    grid = np.zeros((len(starts), width), bool)
    grid[bar[inside], position[inside]] = True
    same = (meters[1:] == meters[:-1]) & (meters[1:] > 0)
    if not same.any():
        return None
    return float(1 - ((grid[1:] ^ grid[:-1]).sum(1)[same] / np.maximum(1, meters[1:][same] * POSITIONS)).mean())


def _repetition(tune, texts):
    sounding = [[text if bar.n_notes else None for bar, text in zip(voice.bars, bar_texts)]
                for voice, bar_texts in zip(tune.voices, texts)]
    out, n, distinct = {}, 0, 0
    for bars in sounding:
        heard = [bar for bar in bars if bar is not None]
        n, distinct = n + len(heard), distinct + len(set(heard))
    out["bar_repetition"] = 1 - distinct / n if n else None
    for lag in (1, 2, 4, 8):
        pairs = [(bars[i - lag], bars[i]) for bars in sounding for i in range(lag, len(bars)) if bars[i] is not None]
        out[f"bar_repetition_lag_{lag}"] = sum(a == b for a, b in pairs) / len(pairs) if pairs else None
    return out


# ---------------------------------------------------------------- music, sets

HISTOGRAMS = {"duration": 193, "interval": 49, "onset": 64, "pitch_class": 12}  # name: number of classes


def note_histograms(tune):
    """{name in HISTOGRAMS: counts}, a long piece scaled down to CAP_NOTES notes.

    duration: in 1/24 of a quarter note, the last class is 8 quarter notes and more; interval: melodic, -24 to 24
    semitones and more; onset: position in the bar in quarters of a quarter note; pitch_class: 12."""
    tune_ = _tune(tune)
    onsets, durations, pitches, voices = _notes(tune_)
    if not len(pitches):
        return {name: np.zeros(size) for name, size in HISTOGRAMS.items()}
    starts, _ = _bar_grid(tune_)
    bar = np.clip(np.searchsorted(starts, onsets + 1e-9, "right") - 1, 0, max(0, len(starts) - 1))
    inside = (onsets - starts[bar]) * POSITIONS if len(starts) else onsets * POSITIONS
    intervals = np.concatenate([melodic_intervals(onsets[voices == i], pitches[voices == i])
                                for i in range(len(tune_.voices))])
    classes = {"duration": np.round(np.minimum(durations, 8) * 24), "interval": np.clip(intervals, -24, 24) + 24,
               "onset": np.clip(np.floor(inside + 1e-6), 0, 63), "pitch_class": pitches % 12}
    weight = min(1.0, CAP_NOTES / len(pitches))
    return {name: weight * np.bincount(classes[name].astype(int), minlength=size)
            for name, size in HISTOGRAMS.items()}


def jensen_shannon(p, q):
    """Jensen-Shannon divergence of two histograms, base 2: 0 for equal, 1 for disjoint; None if one is empty."""
    p, q = np.asarray(p, float), np.asarray(q, float)
    if not p.sum() or not q.sum():
        return None
    p, q = p / p.sum(), q / q.sum()
    value = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
    return float(min(1.0, max(0.0, value)))


def wasserstein(a, b):
    """Wasserstein-1 distance of two samples of numbers (area between their distribution functions)."""
    a, b = np.sort(np.asarray(a, float)), np.sort(np.asarray(b, float))
    every = np.sort(np.concatenate([a, b]))
    gap = np.searchsorted(a, every[:-1], "right") / len(a) - np.searchsorted(b, every[:-1], "right") / len(b)
    return float((np.abs(gap) * np.diff(every)).sum())


def compare_sets(generated, real, seed=0, resamples=200):
    """Generated beside real music, and real beside real at the same n.

    generated, real: lists of texts, samples or Tunes. Returns {"n", "n_real", "n_real_vs_real", "metrics": {name:
    {generated_mean, generated_sd, real_mean, real_sd, w1_over_sd, real_vs_real_mean, real_vs_real_p95}}, "jsd": {name:
    {generated, real_vs_real_mean, real_vs_real_p95}}}. w1_over_sd: Wasserstein-1 distance over the standard deviation
    of the real set. real_vs_real: n random real tunes against the other real ones, `resamples` times (n is halved to
    the size of the real set where it is small): a distance below its 95th percentile is no difference.
    """
    rng = np.random.default_rng(seed)
    sides = [[_tune(tune) for tune in tunes] for tunes in (generated, real)]
    rows = [[music_metrics(tune) for tune in side] for side in sides]
    histograms = [[note_histograms(tune) for tune in side] for side in sides]
    n, n_real = len(sides[0]), len(sides[1])
    n_subset = min(n, n_real // 2)
    subsets = [rng.permutation(n_real) for _ in range(resamples)] if n_subset else []
    out = {"n": n, "n_real": n_real, "n_real_vs_real": n_subset, "metrics": {}, "jsd": {}}
    for name in METRICS:
        ours = np.array([row[name] for row in rows[0] if row[name] is not None], float)
        theirs = np.array([np.nan if row[name] is None else row[name] for row in rows[1]], float)
        known = theirs[~np.isnan(theirs)]
        spread = float(known.std()) if len(known) > 1 else 0.0
        among = []
        for order in subsets if spread else []:
            a, b = theirs[order[:n_subset]], theirs[order[n_subset:]]
            a, b = a[~np.isnan(a)], b[~np.isnan(b)]
            if len(a) and len(b):
                among.append(wasserstein(a, b) / spread)
        out["metrics"][name] = {
            "generated_mean": _mean(ours), "generated_sd": float(ours.std()) if len(ours) > 1 else None,
            "real_mean": _mean(known), "real_sd": spread if len(known) > 1 else None,
            "w1_over_sd": wasserstein(ours, known) / spread if len(ours) and spread else None, **_real_vs_real(among)}
    for name in HISTOGRAMS:
        ours = np.sum([row[name] for row in histograms[0]], 0) if n else np.zeros(1)
        theirs = np.array([row[name] for row in histograms[1]]).reshape(n_real, HISTOGRAMS[name])
        among = [jensen_shannon(theirs[order[:n_subset]].sum(0), theirs[order[n_subset:]].sum(0)) for order in subsets]
        out["jsd"][name] = {"generated": jensen_shannon(ours, theirs.sum(0)) if n and n_real else None,
                            **_real_vs_real([value for value in among if value is not None])}
    return out


def _real_vs_real(values):
    return {"real_vs_real_mean": _mean(values),
            "real_vs_real_p95": float(np.quantile(values, 0.95)) if len(values) else None}


def skills(samples):
    """One number a skill, for the figure that shows which appears at which model size; None where undefined.

    meter       share of sounding bars that are exactly as long as their meter
    key         share of tunes whose notes fit the key of their K: better than the other 23 (or its relative)
    in_key      share of notes in the scale of their key, mean over tunes (near 0.9 even for random letters)
    cadence     share of the tunes that end by themselves whose last sounding notes have the tonic in the bass
    repetition  mean share of sounding bars that were heard before in their voice
    valid       share at level 4; ended: share that ended by themselves; content: share with enough music in them
    """
    triples = [_sample(sample) for sample in samples]
    checks = [check_abc(text, prompt_chars) for text, prompt_chars, _ in triples]
    tunes = [read_abc(text, strict=False) for text, *_ in triples]
    sounding = sum(check.n_sounding_bars for check in checks)
    found, cadences, repetitions, in_key = [], [], [], []
    for tune, (_, _, truncated) in zip(tunes, triples):
        onsets, durations, pitches, _ = _notes(tune)
        in_key.append(in_key_share(tune, onsets, pitches))
        repetitions.append(_repetition(tune, [[_bar_text(bar.text) for bar in v.bars] for v in tune.voices])
                           ["bar_repetition"])
        key = tonic_of(tune.key)
        if key:
            tonic, minor = key
            relative = ((tonic + 3) % 12, 0) if minor else ((tonic + 9) % 12, 1)
            found.append(len(pitches) > 0 and best_key(durations, pitches) in (key, relative))
        if not truncated:
            cadences.append(bool(key and ends_on(tune, tonic_of(tune.keys[-1][1]) or key)))
    n = len(checks)
    return {"n": n, "meter": sum(c.n_right_bars for c in checks) / sounding if sounding else None,
            "key": _mean(found), "in_key": _mean(in_key), "cadence": _mean(cadences), "repetition": _mean(repetitions),
            "valid": sum(c.level >= VALID_LEVEL for c in checks) / n if n else None,
            "content": sum(c.content for c in checks) / n if n else None,
            "ended": sum(not truncated for *_, truncated in triples) / n if n else None}


def ends_on(tune, key):
    """True if the lowest of the notes that sound last is the tonic of `key` (pitch class, mode)."""
    onsets, durations, pitches, _ = _notes(tune)
    if not len(pitches):
        return False
    last = (onsets + durations) > (onsets + durations).max() - 1e-6
    return int(pitches[last].min() % 12) == key[0]


# ---------------------------------------------------------------- novelty

_ODD = np.uint64(0x9E3779B97F4A7C15)


def _window_hashes(codes, k):
    """64-bit hashes of all windows of k characters along the last axis, uint64 of shape (..., T - k + 1).

    By doubling: the hash of 2m characters is made from two hashes of m, so the cost is log2(k) passes."""
    n_windows = max(0, codes.shape[-1] - k + 1)
    if not n_windows:
        return np.zeros((*codes.shape[:-1], 0), np.uint64)
    whole, width, at = None, 0, 0
    power, size = codes.astype(np.uint64) + np.uint64(1), 1
    while True:
        if k & size:  # append this block to what is there
            if whole is None:
                whole, width = power, size
            else:
                n = min(whole.shape[-1], power.shape[-1] - width)
                whole = _pair(whole[..., :n], power[..., width:width + n], 2 * size)
                width += size
        if 2 * size > k:
            return whole[..., :n_windows]
        power = _pair(power[..., :-size], power[..., size:], 4 * size)
        size *= 2


def _pair(first, second, salt):
    return first * (_ODD + np.uint64(salt)) + (second ^ (second >> np.uint64(29)))


def _codes(text):
    """One byte a character; what is not ASCII becomes `?`."""
    return np.frombuffer(text.encode("ascii", "replace"), np.uint8)


def body_start(text):
    """Where the music begins: after the line K: of the header (0 if there is none)."""
    match = re.search(r"^K:[^\n]*\n", text, re.M)
    return match.end() if match else 0


def four_bar_sequences(text, n_bars=4):
    """Sequences of n sounding bars of one voice, as strings; blanks, fields and rest bars left out.

    Found by splitting at bar lines and voice tags, without reading the notes: the training text may be large."""
    out = []
    for tune in re.split(r"\n[ \t\r]*\n|^X:.*$", text, flags=re.M):
        pieces = _VOICE_TAG.split(_NO_MUSIC.sub("", tune))
        voices = {}
        for name, music in zip(["", *(a or b for a, b in zip(pieces[1::3], pieces[2::3]))], pieces[::3]):
            voices.setdefault(name, []).extend(
                bar for bar in re.split(r"[|:]+", re.sub(r"\s+", "", music)) if re.search("[A-Ga-g]", bar))
        for bars in voices.values():
            out += ["|".join(bars[i:i + n_bars]) for i in range(len(bars) - n_bars + 1)]
    return out


_NO_MUSIC = re.compile(r"^[A-UW-Za-z]:.*$|%.*$|\[[A-UW-Z]:[^\]]*\]", re.M)
_VOICE_TAG = re.compile(r"\[V:\s*([^\]\s|]*)[^\]|]*\]|^V:\s*(\S*).*$", re.M)


def _hashes_of(sequences):
    return np.array([hash(sequence) for sequence in sequences], np.int64)


class Novelty:
    """Finds in samples what was copied from a training text (str).

    A run of 32 characters that also stands in the training text counts as copied, wherever it stands there. Compare
    with the same figures of held-out tunes: real music repeats others' phrases too (Yin et al. 2022).
    """

    def __init__(self, train_text):
        self.train = _codes(train_text)
        self.sequences = np.unique(_hashes_of(four_bar_sequences(train_text)))
        self.index = None  # (hashes of the windows, sorted; their places)
        if len(self.train) <= INDEX_CHARS:
            hashes = _window_hashes(self.train, COPY_CHARS)
            order = np.argsort(hashes, kind="stable")
            self.index = hashes[order], order

    def measure(self, samples):
        """Figures of every sample and of the set, on the generated music text (header and prompt left out).

        {"samples": [{longest_copied_chars, copied_share, new_4_bar_share, n_chars}], longest_copied_chars (largest),
         longest_copied_chars_median, copied_share (of all characters), new_4_bar_share (of all sequences), n_chars}
        """
        triples = [_sample(sample) for sample in samples]
        bodies = [text[max(prompt_chars, body_start(text)):] for text, prompt_chars, _ in triples]
        longest, copied = self._copied([_codes(body) for body in bodies])
        rows, n_new, n_sequences = [], 0, 0
        for body, run, covered in zip(bodies, longest, copied):
            sequences = _hashes_of(four_bar_sequences(body))
            new = len(sequences) - int(_count_in(self.sequences, sequences)[1].astype(bool).sum())
            n_new, n_sequences = n_new + new, n_sequences + len(sequences)
            rows.append({"longest_copied_chars": int(run), "copied_share": covered / len(body) if body else None,
                         "new_4_bar_share": new / len(sequences) if len(sequences) else None, "n_chars": len(body)})
        total = sum(len(body) for body in bodies)
        runs = [row["longest_copied_chars"] for row in rows]
        return {"samples": rows, "n": len(rows), "n_chars": total,
                "longest_copied_chars": max(runs, default=None),
                "longest_copied_chars_median": float(np.median(runs)) if runs else None,
                "copied_share": sum(copied) / total if total else None,
                "new_4_bar_share": n_new / n_sequences if n_sequences else None, "n_4_bar_sequences": n_sequences}

    def _copied(self, codes):
        """(longest copied run, number of characters in copied runs of at least COPY_CHARS) of every code array."""
        longest, covered = [0] * len(codes), [0] * len(codes)
        starts = np.cumsum([0] + [len(c) + 1 for c in codes])  # a zero keeps the samples apart
        joined = np.zeros(starts[-1], np.uint8)
        for start, c in zip(starts, codes):
            joined[start:start + len(c)] = c
        hashes = _window_hashes(joined, COPY_CHARS)
        if not len(hashes):
            return longest, covered
        wanted = np.unique(hashes)
        which, places = self._indexed(wanted) if self.index else self._scanned(wanted)
        seen = np.bincount(which, minlength=len(wanted))
        window_of = np.searchsorted(wanted, hashes)
        exists = seen[window_of] > 0
        inside = np.zeros(len(joined) + 1, np.int64)
        np.add.at(inside, np.flatnonzero(exists), 1)
        np.add.at(inside, np.flatnonzero(exists) + COPY_CHARS, -1)
        copied = np.concatenate([[0], np.cumsum(np.cumsum(inside[:-1]) > 0)])
        covered = [int(copied[start + len(c)] - copied[start]) for start, c in zip(starts, codes)]
        for place, length in self._longest_runs(joined, np.flatnonzero(exists), window_of, which, places):
            sample = int(np.searchsorted(starts, place, "right") - 1)
            longest[sample] = max(longest[sample], length)
        return longest, covered

    def _indexed(self, wanted):
        """(numbers of wanted hashes, places in the training text), up to SEEDS places each, by the index."""
        hashes, order = self.index
        first, n_places = _count_in(hashes, wanted)
        n_places = np.minimum(n_places, SEEDS)
        return np.repeat(np.arange(len(wanted)), n_places), order[_ranges(first, n_places)]

    def _scanned(self, wanted):
        """The same by one pass over a training text that is too large for an index."""
        table = np.zeros(1 << 20, bool)  # turns most windows of the training text away by one look-up
        table[(wanted >> np.uint64(44)).astype(np.int64)] = True
        places, which, seen = [], [], np.zeros(len(wanted), np.int64)
        for at in range(0, len(self.train), CHUNK_CHARS):
            found = _window_hashes(self.train[at:at + CHUNK_CHARS + COPY_CHARS - 1], COPY_CHARS)
            candidates = np.flatnonzero(table[(found >> np.uint64(44)).astype(np.int64)])
            index = np.minimum(np.searchsorted(wanted, found[candidates]), len(wanted) - 1)
            hit = wanted[index] == found[candidates]
            candidates, index = candidates[hit], index[hit]
            order = np.argsort(index, kind="stable")
            index, candidates = index[order], candidates[order]
            keep = np.arange(len(index)) - np.searchsorted(index, index) + seen[index] < SEEDS
            np.add.at(seen, index, 1)
            places.append(candidates[keep] + at)
            which.append(index[keep])
        return np.concatenate(which), np.concatenate(places)

    def _longest_runs(self, joined, here, window_of, which, there):
        """[(place in the samples, length)] of the copied runs: pairs of equal windows on one diagonal, joined up."""
        order = np.argsort(which, kind="stable")
        which, there = which[order], there[order]
        first, n_places = _count_in(which, window_of[here])
        i, p = np.repeat(here, n_places), there[_ranges(first, n_places)]
        order = np.lexsort((i, p - i))
        i, p = i[order], p[order]
        if not len(i):
            return []
        begins = np.concatenate(([True], (np.diff(p - i) != 0) | (np.diff(i) != 1)))
        start, lengths = np.flatnonzero(begins), np.diff(np.append(np.flatnonzero(begins), len(i)))
        left_i, left_p = i[start].copy(), p[start].copy()
        length = lengths + COPY_CHARS - 1
        length += _extend(joined, self.train, left_i + length, left_p + length, 1)
        back = _extend(joined, self.train, left_i - 1, left_p - 1, -1)
        return list(zip((left_i - back).tolist(), (length + back).tolist()))


def _count_in(ranked, values):
    """(first place, number) of each value in a sorted array."""
    first = np.searchsorted(ranked, values)
    return first, np.searchsorted(ranked, values, "right") - first


def _ranges(first, lengths):
    """The numbers first[0], first[0] + 1, ... (lengths[0] of them), first[1], ..."""
    return np.repeat(first - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())


def _extend(a, b, i, j, step):
    """How many characters agree from (i, j) on in direction `step`, for arrays of places."""
    n, active = np.zeros(len(i), np.int64), np.arange(len(i))
    while len(active):
        x, y = i[active] + step * n[active], j[active] + step * n[active]
        good = (x >= 0) & (y >= 0) & (x < len(a)) & (y < len(b))
        good[good] = (a[x[good]] == b[y[good]]) & (a[x[good]] != 0)
        active = active[good]
        n[active] += 1
    return n


def diversity(samples, k=8):
    """{"n_unique", "mean_jaccard"}: distinct texts, and how alike two samples are (shared k-grams over all k-grams)."""
    grams = [np.unique(_window_hashes(_codes(_sample(sample)[0]), k)) for sample in samples]
    pairs = [(i, j) for i in range(len(grams)) for j in range(i)]
    if len(pairs) > 2000:
        rng = np.random.default_rng(0)
        pairs = [pairs[i] for i in rng.choice(len(pairs), 2000, replace=False)]
    likeness = []
    for i, j in pairs:
        shared = len(np.intersect1d(grams[i], grams[j], assume_unique=True))
        either = len(grams[i]) + len(grams[j]) - shared
        if either:
            likeness.append(shared / either)
    return {"n_unique": len({_sample(sample)[0] for sample in samples}), "mean_jaccard": _mean(likeness)}


# ---------------------------------------------------------------- floors

def floors(train_tunes, n, seed=0, max_chars=1000, orders=(3, 5, 8)):
    """What any judge has to refuse: {name: [sample]} with n samples each, ready for `rate_samples`.

    random: a real header and characters drawn evenly from those of the training text; printable: ... from printable
    ASCII; shuffled: a real tune, its music's characters shuffled; rests: a real header and bars of rest; 3-gram, ...:
    drawn from a maximum-likelihood character model of that order, from the first character to the end of a tune.
    """
    rng = np.random.default_rng(seed)
    tunes = [tune for tune in train_tunes if body_start(tune)]
    if not tunes or n <= 0:
        return {}
    alphabet = sorted(set("".join(tunes[i] for i in rng.choice(len(tunes), min(200, len(tunes)), replace=False))))
    alphabet = [character for character in alphabet if character != "\n"]
    out = {"random": [], "printable": [], "shuffled": [], "rests": []}
    for i in rng.choice(len(tunes), n):
        header, body = tunes[i][:body_start(tunes[i])], tunes[i][body_start(tunes[i]):].strip()[:max_chars]
        length = max(1, max_chars - len(header))
        meter = re.search(r"^M:\s*(\d+)/(\d+)", header, re.M)
        rest = f"z{16 * int(meter.group(1)) // int(meter.group(2))}|" if meter and int(meter.group(2)) else "z16|"
        bodies = {"random": "".join(rng.choice(alphabet, length)),
                  "printable": "".join(map(chr, rng.integers(32, 127, length))),
                  "shuffled": "".join(rng.permutation(list(body))) if body else "",
                  "rests": rest * max(4, length // len(rest))}
        for name, music in bodies.items():
            out[name].append({"text": header + music + "\n", "prompt_chars": len(header), "truncated": False})
    text = _limited(tunes, rng)
    for order in orders:
        out[f"{order}-gram"] = ngram_samples(text, order, n, max_chars, int(rng.integers(2**32)))
    return out


def _limited(tunes, rng):
    """Tunes in random order, as many as NGRAM_CHARS allow."""
    chosen, n_chars = [], 0
    for i in rng.permutation(len(tunes)):
        chosen.append(tunes[i])
        n_chars += len(tunes[i])
        if n_chars > NGRAM_CHARS:
            break
    return chosen


def ngram_samples(tunes, order, n, max_chars, seed=0):
    """n samples of a character model of this order: the next character follows a random occurrence of the last
    order - 1 characters in the tunes (that is sampling from the maximum-likelihood model)."""
    k, rng = order - 1, np.random.default_rng(seed)
    pad = "\0" * max(1, k)
    codes = _codes(pad + pad.join(tune.rstrip("\n") + "\n" for tune in tunes) + pad)
    hashes = _window_hashes(codes, k)[:len(codes) - k] if k else np.zeros(len(codes), np.uint64)
    order_ = np.argsort(hashes, kind="stable")
    ranked = hashes[order_]
    state = np.zeros((n, max(1, k)), np.uint8)
    drawn, alive = np.zeros((n, max_chars), np.uint8), np.ones(n, bool)
    for step in range(max_chars):
        context = _window_hashes(state, k)[:, 0] if k else np.zeros(n, np.uint64)
        low, high = np.searchsorted(ranked, context), np.searchsorted(ranked, context, "right")
        chosen = order_[low + (rng.random(n) * (high - low)).astype(int)] + k
        character = np.where(alive, codes[chosen], 0)
        alive &= character != 0
        drawn[:, step] = np.where(alive, character, 0)
        state = np.concatenate([state[:, 1:], character[:, None]], 1)
        if not alive.any():
            break
    texts = [bytes(row[row != 0]).decode("ascii") for row in drawn]
    return [{"text": text, "prompt_chars": 0, "truncated": bool(going)} for text, going in zip(texts, alive)]
