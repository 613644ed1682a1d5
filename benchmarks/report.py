"""Checks and times the pictures and the page on a finished root: python benchmarks/report.py ROOT

Reads:  ROOT/data/test.txt, ROOT/part4_outputs
Prints: how many held-out tunes are engraved with exactly their own notes, seconds for each picture and for the page.
"""

import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from study import report  # noqa: E402
from music.abc_text import read_abc, split_tunebook  # noqa: E402
from test_report import sounding  # noqa: E402

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


def same(found, wanted):
    return all(len(a) == len(b) and all(x[1] == y[1] and abs(x[0] - y[0]) < TOLERANCE and abs(x[2] - y[2]) < TOLERANCE
                                        for x, y in zip(a, b)) for a, b in zip(found, wanted))


def main(root):
    tunes = [read_abc(text) for text in split_tunebook((root / "data/test.txt").read_text(encoding="utf-8"))]
    tunes = [tune for tune in tunes if any(voice.notes for voice in tune.voices)][:N_TUNES]
    right, drawn, seconds = 0, 0, {"music21": 0.0, "verovio": 0.0, "PNG": 0.0}
    sizes = []
    for tune in tunes:
        n_bars, start = report.bars_to_draw(tune), time.process_time()
        xml = report.musicxml(tune, n_bars)
        seconds["music21"] += time.process_time() - start
        right += same(sounding(xml), expected(tune, n_bars))
        start = time.perf_counter()
        svg, why = report.engrave(xml)
        seconds["verovio"] += time.perf_counter() - start
        if svg:
            drawn, start = drawn + 1, time.process_time()
            report.to_png(svg, report.SCORE_PIXELS)
            seconds["PNG"] += time.process_time() - start
            sizes.append((len(svg), len(report.inline_svg(svg, "a-", "score"))))
        else:
            print("not engraved:", why)
    n = len(tunes)
    print(f"tunes {n}, of several voices {sum(len(tune.voices) > 1 for tune in tunes)}, exact notes {right}, drawn {drawn}")
    print("seconds a tune:", ", ".join(f"{what} {total / n:.2f}" for what, total in seconds.items()))
    print("kB a score, as file and in the page:", " ".join(f"{sum(size) / len(size) / 1000:.0f}" for size in zip(*sizes)))
    start = time.process_time()
    page = report.write_report(root)
    print(f"page: {page.stat().st_size / 1000:.0f} kB in {time.process_time() - start:.1f} CPU seconds")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
