"""Pictures, MusicXML files and page on a finished root: do they hold exactly the tunes' own notes,
and at what cost?

Run: python -m benchmarks.bench_report ROOT              (pictures and page)
     python -m benchmarks.bench_report ROOT --read-back  (MusicXML of whole tunes, read by music21)
     python -m benchmarks.bench_report ROOT --read-back --midi FOLDER  (of its first 200 files,
         converted)
Reads:  ROOT/data/val.txt, test.txt, ROOT/part4_outputs
Prints: tunes engraved, seconds and bytes of a picture and of the page; benchmarks/report.md holds
the figures.
"""

import argparse
import time
from pathlib import Path

from music import notation
from music.abc_text import read_abc
from music.midi_to_abc import ConversionError, convert
from music.tunebook import split_tunebook
from study.report.page import data_uri, write_report
from tests.test_notation import events, read_back, sounding

N_TUNES = 100
N_MIDI = 200
TOLERANCE = 0.01  # quarter notes: MusicXML rounds tuplets to its divisions


def expected(tune, n_bars):
    """Notes of the first bars of every voice, cut at the last of them: [(onset, pitch,
    duration)]."""
    voices = []
    for voice in tune.voices:
        bar = voice.bars[min(n_bars, len(voice.bars)) - 1]
        end = bar.onset + bar.length
        voices.append(
            sorted(
                (n.onset, n.pitch, min(n.duration, end - n.onset))
                for n in voice.notes
                if n.onset < end
            )
        )
    return voices


def same(heard, wanted):
    return all(
        len(a) == len(b)
        and all(
            x[1] == y[1] and abs(x[0] - y[0]) < TOLERANCE and abs(x[2] - y[2]) < TOLERANCE
            for x, y in zip(a, b)
        )
        for a, b in zip(heard, wanted)
    )


def converted(folder):
    """Up to N_MIDI texts of the MIDI files below a folder, those left out that stage 02 refuses."""
    texts = []
    for path in sorted(folder.rglob("*.mid")):
        try:
            texts += [convert(path.read_bytes())[0]] if len(texts) < N_MIDI else []
        except ConversionError as error:
            print("not converted:", path.name, error)
    return texts


def check_files(texts):
    """Reads the MusicXML of whole tunes back and prints how many have the notes that were
    written."""
    tunes = [tune for tune in map(read_abc, texts) if notation.has_notes(tune)]
    n_right, n_notes, writing, reading = 0, 0, 0.0, 0.0
    for i, tune in enumerate(tunes):
        start = time.process_time()
        xml = notation.musicxml(tune, title="a tune")
        written = time.process_time()
        found, wanted = read_back(xml), events(tune)
        writing, reading = writing + written - start, reading + time.process_time() - written
        n_right, n_notes = n_right + (found == wanted), n_notes + sum(map(len, wanted))
        if found != wanted:
            print("other notes in tune", i)
    print(
        f"MusicXML: tunes {len(tunes)}, notes {n_notes:,}, exact {n_right}; CPU seconds a tune: "
        f"written {writing / len(tunes):.2f}, read {reading / len(tunes):.2f}"
    )


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, metavar="ROOT")
    parser.add_argument(
        "--read-back", action="store_true", help="MusicXML of whole tunes, no pictures and page"
    )
    parser.add_argument(
        "--midi", type=Path, metavar="FOLDER", help="of these files instead of the held-out tunes"
    )
    args = parser.parse_args(argv)
    if args.read_back:
        held_out = "".join(
            (args.root / f"data/{split}.txt").read_text(encoding="utf-8")
            for split in ("val", "test")
        )
        return check_files(converted(args.midi) if args.midi else split_tunebook(held_out))
    draw_and_time(args.root)


def draw_and_time(root):
    """Engraves held-out tunes, compares their notes, makes the page, and prints what that took."""
    tunes = [
        read_abc(text)
        for text in split_tunebook((root / "data/test.txt").read_text(encoding="utf-8"))
    ]
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
    print(
        f"tunes {n}, of several voices {sum(voices > 1 for voices in n_voices)}, exact notes"
        f" {n_right}, drawn {len(sizes)}"
    )
    print(
        "seconds a tune:", ", ".join(f"{what} {total / n:.2f}" for what, total in seconds.items())
    )
    print(
        "kB a score, as file and in the page:",
        " ".join(f"{sum(size) / len(size) / 1000:.0f}" for size in zip(*sizes)),
    )
    start = time.process_time()
    page = write_report(root)
    print(
        f"page: {page.stat().st_size / 1000:.0f} kB in {time.process_time() - start:.1f} CPU"
        " seconds"
    )


if __name__ == "__main__":
    main()
