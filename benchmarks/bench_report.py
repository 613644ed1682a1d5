"""Pictures and page on a finished root: are held-out tunes engraved with exactly their own notes, and at what cost?

Run: python -m benchmarks.bench_report ROOT
Reads:  ROOT/data/test.txt, ROOT/part4_outputs
Prints: tunes engraved, seconds and bytes of a picture and of the page; benchmarks/report.md holds the figures.
"""

import argparse
import time
from pathlib import Path

from music import notation
from music.abc_text import read_abc
from music.tunebook import split_tunebook
from study.page.report import data_uri, write_report
from tests.test_notation import sounding

N_TUNES = 100
TOLERANCE = 0.01  # quarter notes: MusicXML rounds tuplets to its divisions


def expected(tune, n_bars):
    """Notes of the first bars of every voice, cut at the last of them: [(onset, pitch, duration)]."""
    voices = []
    for voice in tune.voices:
        bar = voice.bars[min(n_bars, len(voice.bars)) - 1]
        end = bar.onset + bar.length
        voices.append(sorted((n.onset, n.pitch, min(n.duration, end - n.onset)) for n in voice.notes if n.onset < end))
    return voices


def same(heard, wanted):
    return all(len(a) == len(b) and all(x[1] == y[1] and abs(x[0] - y[0]) < TOLERANCE and abs(x[2] - y[2]) < TOLERANCE
                                        for x, y in zip(a, b)) for a, b in zip(heard, wanted))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="ROOT")
    root = parser.parse_args(argv).root
    tunes = [read_abc(text) for text in split_tunebook((root / "data/test.txt").read_text(encoding="utf-8"))]
    tunes = [tune for tune in tunes if notation.has_notes(tune)][:N_TUNES]
    n_right, sizes, seconds = 0, [], {"music21": 0.0, "verovio": 0.0, "PNG": 0.0}
    for tune in tunes:
        n_bars, start = notation.bars_to_draw(tune), time.process_time()
        xml = notation.musicxml(tune, n_bars)
        seconds["music21"] += time.process_time() - start
        n_right += same(sounding(xml), expected(tune, n_bars))
        start = time.perf_counter()
        svg, why = notation.engrave(xml)
        seconds["verovio"] += time.perf_counter() - start
        if svg:
            start = time.process_time()
            notation.to_png(svg, notation.SCORE_PIXELS)
            seconds["PNG"] += time.process_time() - start
            sizes.append((len(svg), len(data_uri("image/svg+xml", svg))))
        else:
            print("not engraved:", why)
    n, n_voices = len(tunes), [len(tune.voices) for tune in tunes]
    print(f"tunes {n}, of several voices {sum(voices > 1 for voices in n_voices)}, exact notes {n_right}, "
          f"drawn {len(sizes)}")
    print("seconds a tune:", ", ".join(f"{what} {total / n:.2f}" for what, total in seconds.items()))
    print("kB a score, as file and in the page:",
          " ".join(f"{sum(size) / len(size) / 1000:.0f}" for size in zip(*sizes)))
    start = time.process_time()
    page = write_report(root)
    print(f"page: {page.stat().st_size / 1000:.0f} kB in {time.process_time() - start:.1f} CPU seconds")


if __name__ == "__main__":
    main()
