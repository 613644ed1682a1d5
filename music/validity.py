"""How many samples (see `as_sample`) are valid music, and the verdict of an independent judge.

Values are for JSON; what is undefined is None.
"""

import math
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import symusic

from music.abc_check import check_abc
from music.midi_bytes import chunks, read_track
from music.samples import as_sample, mean_of_known, ratio
from music.tunebook import trim_to_bars

LEVELS = ("header", "tokens", "content", "meter", "aligned")  # cumulative: see `check_abc`
Z = 1.959964  # half of a 95 % interval, in standard errors
VALID_LEVEL = 4  # at least
JUDGE_SECONDS = 10  # of abc2midi for a text; real tunes take 5 ms
JUDGES = 2  # at a time
JUDGE_BLOCKS = 40_000  # of 512 bytes a file: some texts ask for a gigabyte


def wilson(k, n):
    """Returns the 95 % interval [low, high] of a share k/n (Wilson 1927); None if n is 0.

    >>> [round(bound, 3) for bound in wilson(10, 10)]
    [0.722, 1.0]
    """
    if not n:
        return None
    rate, scale = k / n, 1 + Z * Z / n
    middle = (rate + Z * Z / (2 * n)) / scale
    half = Z / scale * (rate * (1 - rate) / n + Z * Z / (4 * n * n)) ** 0.5
    return [0.0 if k == 0 else max(0.0, middle - half), 1.0 if k == n else min(1.0, middle + half)]


def share(k, n):
    """Returns {"count", "n", "rate", "interval"} of a share k/n."""
    k, n = int(k), int(n)
    return {"count": k, "n": n, "rate": ratio(k, n), "interval": wilson(k, n)}


def is_above(ours, theirs):
    """Returns whether the share `ours` lies above `theirs` by the 95 % interval of their difference
    (Newcombe 1998, method 10). False where one has no n.

    >>> is_above(share(3, 100), share(0, 100)), is_above(share(9, 100), share(0, 100))
    (False, True)
    """
    if not (ours["n"] and theirs["n"]):
        return False
    low, high = ours["rate"] - ours["interval"][0], theirs["interval"][1] - theirs["rate"]
    return ours["rate"] - theirs["rate"] > math.hypot(low, high)


def rate_samples(samples, judge=True):
    """Returns the validity of a set of samples. rate, interval: of level 4; bar_accuracy: share of
    the sounding generated bars that are right; without_unfinished_bar: the rate after truncated
    samples lost theirs; abc2midi_clean_rate: see `judge_texts`."""
    samples = [as_sample(sample) for sample in samples]
    checks = [check_abc(sample.text, sample.prompt_chars) for sample in samples]
    finished = [
        check_abc(trim_to_bars(sample.text), sample.prompt_chars) if sample.truncated else check
        for sample, check in zip(samples, checks)
    ]
    verdicts = judge_texts([sample.text for sample in samples]) if judge else None
    return {
        **_valid_share(checks),
        "level_rates": {
            name: mean_of_known([check.level > i for check in checks])
            for i, name in enumerate(LEVELS)
        },
        **_bar_rates(checks),
        "truncated_share": mean_of_known([sample.truncated for sample in samples]),
        "without_unfinished_bar": _valid_share(finished),
        "abc2midi_clean_rate": mean_of_known([verdict["clean"] for verdict in verdicts or []]),
    }


def _valid_share(checks):
    return share(sum(check.level >= VALID_LEVEL for check in checks), len(checks))


def _bar_rates(checks):
    right = np.array([check.n_right_bars for check in checks], float)
    sounding = np.array([check.n_sounding_bars for check in checks], float)
    n_sounding, n_bars = int(sounding.sum()), sum(check.n_voice_bars for check in checks)
    accuracy = ratio(float(right.sum()), n_sounding)
    error, interval = standard_error(right, sounding), None
    if error is not None:
        interval = [max(0.0, accuracy - Z * error), min(1.0, accuracy + Z * error)]
    return {
        "bar_accuracy": accuracy,
        "bar_accuracy_se": error,
        "bar_accuracy_interval": interval,
        "n_sounding_bars": n_sounding,
        "rest_bar_share": ratio(n_bars - n_sounding, n_bars),
    }


def standard_error(parts, wholes):
    """Returns the standard error of sum(parts) / sum(wholes), a pair for each text drawn at random;
    None for fewer than two. The ratio is linearised (Cochran 1977, section 2.11)."""
    if len(parts) < 2 or not wholes.sum():
        return None
    deviations = parts - parts.sum() / wholes.sum() * wholes
    return float(np.sqrt((deviations**2).sum() * len(parts) / (len(parts) - 1)) / wholes.sum())


def level_in_words(level):
    """Returns what a level says of a text.

    >>> level_in_words(3)
    'level 3 of 5 (header, tokens, content; not meter)'
    """
    reached, missed = ", ".join(LEVELS[:level]) or "nothing readable", LEVELS[level : level + 1]
    return f"level {level} of {len(LEVELS)} ({reached}{f'; not {missed[0]}' if missed else ''})"


def judge_texts(texts):
    """Returns abc2midi's verdict on every text, a child process each; None if it is neither on the
    PATH nor in the symusic wheel. Its exit code says nothing, so its words are read. clean: notes
    in the MIDI file, no line `Error`, every bar as long as its meter."""
    program = shutil.which("abc2midi") or Path(symusic.__file__).parent / "bin" / "abc2midi"
    if not Path(program).exists():
        return None
    with ThreadPoolExecutor(JUDGES) as pool:
        return list(pool.map(lambda text: _judge(str(program), text), texts))


def _judge(program, text):
    # /bin/sh sets the limits: a child forked from a process that holds torch would cost 30 ms
    limits = f'ulimit -f {JUDGE_BLOCKS}; ulimit -t {JUDGE_SECONDS}; exec "$0" t.abc -o t.mid'
    command = ["/bin/sh", "-c", limits, program]
    timed_out, n_notes = False, 0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "t.abc").write_text(text, encoding="utf-8", errors="replace")
        with open(folder / "log", "wb") as log:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            try:
                subprocess.run(command, cwd=folder, timeout=JUDGE_SECONDS, **streams)
            except subprocess.TimeoutExpired:
                timed_out = True
        words = (folder / "log").read_bytes()[:1_000_000].decode("utf-8", "replace")
        midi = folder / "t.mid"
        if midi.exists() and not timed_out:
            n_notes = count_midi_notes(midi.read_bytes())
    complaints = re.findall(r"^(?:Error|Warning).*", words, re.M)
    n_errors = sum(line.startswith("Error") for line in complaints)
    n_bars = sum("time units while the time signature" in line for line in complaints)
    return {
        "notes": n_notes,
        "errors": n_errors,
        "bar_warnings": n_bars,
        "timed_out": timed_out,
        "clean": n_notes > 0 and not n_errors and not n_bars,
        "first": complaints[0][:120] if complaints else None,
    }


def count_midi_notes(data):
    """Returns the number of note-on events in a MIDI file's bytes; 0 if they are none. symusic
    refuses a file for one pitch above 127."""
    try:
        tracks = [read_track(track, Counter()) for track in chunks(data, Counter())[1]]
    except (ValueError, IndexError):
        return 0
    return sum(
        status & 0xF0 == 0x90 and body[1] > 0 for events in tracks for _, status, body in events
    )
