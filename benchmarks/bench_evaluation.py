"""The judges measured: speed of the ABC reader, its agreement with abc2midi, what levels 1 to 5 let
pass, and the time to evaluate 100 samples.

Run: python -m benchmarks.bench_evaluation ABC_FOLDER [--files N] [--seed S]
     ABC_FOLDER: what stage 02 wrote (data/abc_notation), or any folder of .abc files with one tune
     each
Prints a table; benchmarks/evaluation.md holds the figures.
"""

import argparse
import random
import re
import subprocess
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

from music import metrics, validity
from music.abc_bar import read_short_stretch
from music.abc_text import check_abc, read_abc
from music.floors import floors as make_floors
from music.novelty import Novelty, diversity
from music.tunebook import cut_tune

MAX_CHARS = 4900  # of a sequence, as in stage 03
SAMPLE_CHARS = 1000  # of a sample in the timed evaluation
HELD_OUT_SHARE = 0.2  # files that serve as held-out music
# quarter notes: abc2midi starts the notes of a chord one after another, 1/48 apart
LATE = 0.15


def timed(function, *arguments, **keywords):
    started, cpu = time.perf_counter(), time.process_time()
    result = function(*arguments, **keywords)
    return result, time.perf_counter() - started, time.process_time() - cpu


def agreement(texts):
    """(notes, notes that abc2midi does not have, notes that only abc2midi has, share of files
    without a difference)."""
    import symusic

    n, missing, extra, alike = 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for text in texts:
            Path(folder, "t.abc").write_text(text, encoding="utf-8")
            subprocess.run(
                [validity.find_abc2midi(), "t.abc", "-o", "t.mid"], cwd=folder, capture_output=True
            )
            score = symusic.Score(f"{folder}/t.mid")
            theirs = defaultdict(list)
            for track in score.tracks:
                for note in track.notes:
                    theirs[note.pitch].append(note.time / score.tpq)
            tune = read_abc(text)
            before = missing + extra
            for voice in tune.voices:
                for note in voice.notes:
                    found = [t for t in theirs[note.pitch] if -0.03 < t - float(note.onset) < LATE]
                    if found:
                        theirs[note.pitch].remove(
                            min(found, key=lambda t: abs(t - float(note.onset)))
                        )
                    missing += not found
                    n += 1
            extra += sum(map(len, theirs.values()))
            alike += missing + extra == before
    return n, missing, extra, alike / len(texts)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("abc_folder", type=Path)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    paths = sorted(args.abc_folder.rglob("*.abc"))
    random.Random(args.seed).shuffle(paths)
    texts = [
        re.sub(r"^T:.*\n", "", path.read_text(encoding="utf-8"), flags=re.M)
        for path in paths[: args.files]
    ]
    n_chars = sum(map(len, texts))
    print(f"{len(texts)} tunes, {n_chars:,} characters")

    for name, function in (
        ("check_abc", check_abc),
        ("read_abc", read_abc),
        ("cut_tune", lambda text: cut_tune(text, MAX_CHARS)),
    ):
        read_short_stretch.cache_clear()
        _, _, cpu = timed(lambda: [function(text) for text in texts])
        print(f"{name}: {n_chars / cpu / 1e3:.0f} kB/s")
    print("levels of whole tunes:", dict(Counter(check_abc(text).level for text in texts)))
    print("notes, not in abc2midi, only in abc2midi, files alike:", agreement(texts[:100]))

    n_held = max(1, int(HELD_OUT_SHARE * len(texts)))
    held, train = (
        [piece for text in part for _, piece in cut_tune(text, MAX_CHARS)]
        for part in (texts[:n_held], texts[n_held:])
    )
    floors, wall, _ = timed(make_floors, train, 100, args.seed, SAMPLE_CHARS)
    print(f"floors: {wall:.1f} s")
    cut = [
        {"text": text[:SAMPLE_CHARS], "truncated": len(text) > SAMPLE_CHARS} for text in held[:100]
    ]
    print(
        "name | n | "
        + " | ".join(validity.LEVELS)
        + " | bar accuracy | rest bars | cut | abc2midi | header regex"
    )
    for name, samples in {"real": held, "real, cut": cut, **floors}.items():
        rates = validity.rate_samples(samples)
        row = [
            *rates["level_rates"].values(),
            rates["bar_accuracy"],
            rates["rest_bar_share"],
            rates["without_unfinished_bar"]["rate"],
            rates["abc2midi_clean_rate"],
            rates["header_regex_rate"],
        ]
        print(
            name,
            "|",
            rates["n"],
            "|",
            " | ".join("–" if value is None else f"{value:.2f}" for value in row),
        )
    copied, wall, _ = timed(Novelty, "\n".join(train))
    print(f"index of {sum(map(len, train)):,} training characters: {wall:.2f} s")
    ngrams = [(name, samples) for name, samples in floors.items() if name.endswith("gram")]
    for name, samples in (("held-out", held[:100]), ("training", train[:100]), *ngrams):
        found = copied.measure(samples)
        print(name, {key: value for key, value in found.items() if key != "samples"})

    samples = floors["8-gram"]
    for name, function in (
        ("rates and judge", lambda: validity.rate_samples(samples)),
        ("metrics, 200 resamples", lambda: metrics.compare_sets(samples, held[:100])),
        ("novelty", lambda: copied.measure(samples)),
        ("skills", lambda: metrics.skills(samples)),
        ("diversity", lambda: diversity(samples)),
    ):
        _, wall, cpu = timed(function)
        print(
            f"100 samples of {SAMPLE_CHARS} characters, {name}: {wall:.2f} s (own CPU {cpu:.2f} s)"
        )


if __name__ == "__main__":
    main()
