"""Converts mutated MIDI files by the thousand: no file may end the run, hang it, or leave without
ABC or a reason.

Reads:  a folder of MIDI files as seeds (default: quick/data/raw_midi)
Writes: nothing; with --keep DIR the files that crashed a worker, ran out of memory or (below 1 MB)
    of time, raised
        what the converter does not foresee ("internal"), or whose ABC does not read
Run:    nice python -m benchmarks.bench_fuzz_midi [SEEDS] [--files N] [--seed N] [--workers N]
    [--keep DIR]
Prints the number of files by outcome, findings and files per second. File i of seed s is always the
same.
"""

import argparse
import random
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from music.abc_text import AbcError, read_abc
from study.prepare.conversion import Settings, convert_all

BATCH = 1000  # files on disk at a time
VOICES = 6  # the same
READ_EVERY = 5  # of the tunes that come out, one in so many is read back
FINDINGS = ("crash", "timeout", "memory", "internal")  # reasons that need a look
# bytes; a file of so many (a mutation repeats tracks by the thousand) may run out of time
LARGE = 1 << 20
# meter, key, tempo, end
META = {b"\xff\x58\x04": 4, b"\xff\x59\x02": 2, b"\xff\x51\x03": 3, b"\xff\x2f\x00": 1}
BYTES = (0, 1, 2, 4, 9, 10, 64, 127, 128, 144, 192, 240, 247, 255)
WORDS = (0, 1, 2, 24, 96, 480, 0x7FFF, 0x8000, 0xE728, 0xFFFF)


def mutated(seeds, number, seed):
    """Bytes of fuzz file `number`: a seed after one to five changes of structure or of bytes."""
    chance = random.Random(seed << 32 | number)
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5))):
        chance.choice(CHANGES)(data, chance, seeds)
    return bytes(data)


def find_all(data, pattern):
    at, found = data.find(pattern), []
    while at >= 0:
        found.append(at)
        at = data.find(pattern, at + 1)
    return found


def change_header(data, chance, _):
    if len(data) >= 14:
        at = chance.choice((8, 10, 12, 12))  # format, tracks, division
        data[at : at + 2] = struct.pack(">H", chance.choice(WORDS))


def change_track_length(data, chance, _):
    if found := find_all(data, b"MTrk"):
        at = chance.choice(found) + 4
        data[at : at + 4] = struct.pack(
            ">I", chance.choice((0, 1, 7, 2**31, 2**32 - 1, chance.randrange(5000)))
        )


def change_meta(data, chance, _):
    pattern = chance.choice(list(META))
    if found := find_all(data, pattern):
        at = chance.choice(found) + 3
        for place in range(at, min(at + META[pattern], len(data))):
            if chance.random() < 0.6:
                data[place] = chance.choice(BYTES)


def insert_meta(data, chance, _):
    pattern = chance.choice(list(META))
    if found := find_all(data, b"\x00\xff"):
        at = chance.choice(found)
        body = bytes(chance.choice(BYTES) for _ in range(META[pattern]))
        data[at:at] = (b"\x00" + pattern + body) * chance.choice((1, 1, 1, 300))


def insert_delta(data, chance, _):
    """A long wait (up to 2^28 ticks) in front of an event."""
    at = chance.randrange(min(22, len(data)), len(data) + 1)
    data[at:at] = chance.choice(
        (b"\xff\xff\xff\x7f", b"\x87\x40", b"\xff\xff\xff\xff\xff", b"\xbd\x84\x40")
    )


def insert_events(data, chance, _):
    event = chance.choice(
        (
            b"\x00\x90\x3c\x50",
            b"\x00\x80\x3c\x00",
            b"\x00\x99\x24\x7f",
            b"\x00\xc0\x7f",
            b"\x00\xf0\x05abc",
            b"\x00\xb0\x40\x7f",
            b"\x00\xe0\x00\x7f",
            b"\x00\x90\x00\x01",
            b"\x00\x90\x7f\x7f",
            b"\x01\x3c\x00",
        )
    )
    at = chance.randrange(min(22, len(data)), len(data) + 1)
    data[at:at] = event * chance.choice((1, 1, 5, 2000))


def repeat_tracks(data, chance, _):
    found = find_all(data, b"MTrk")
    if found and len(data) < 200_000:
        at = chance.choice(found)
        data += data[at:] * chance.choice((1, 3, 40))
        data[10:12] = struct.pack(">H", min(65535, len(find_all(data, b"MTrk"))))


def change_bytes(data, chance, _):
    for _ in range(chance.choice((1, 2, 8, 60))):
        if data:
            data[chance.randrange(len(data))] = (
                chance.choice(BYTES) if chance.random() < 0.5 else chance.randrange(256)
            )


def flip_bit(data, chance, _):
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def cut(data, chance, _):
    at = chance.randrange(len(data) + 1)
    del data[at : at + chance.choice((1, 2, 10, 500, len(data)))]


def splice(data, chance, seeds):
    other = chance.choice(seeds)
    at = chance.randrange(len(data) + 1)
    data[at:] = other[chance.randrange(len(other)) :]


def repeat_bytes(data, chance, _):
    if data and len(data) < 200_000:
        at = chance.randrange(len(data))
        data[at:at] = data[at : at + chance.choice((1, 4, 40, 400))] * chance.choice((1, 10, 200))


CHANGES = (
    change_header,
    change_track_length,
    change_meta,
    change_meta,
    insert_meta,
    insert_delta,
    insert_events,
    repeat_tracks,
    change_bytes,
    change_bytes,
    flip_bit,
    flip_bit,
    cut,
    splice,
    repeat_bytes,
)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seeds", nargs="?", type=Path, default=Path("quick/data/raw_midi"))
    parser.add_argument("--files", type=int, default=10_000, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, metavar="DIR")
    args = parser.parse_args(argv)
    seeds = [path.read_bytes() for path in sorted(args.seeds.rglob("*.mid"))]
    if not seeds:
        sys.exit(
            f"benchmarks.bench_fuzz_midi: there are no .mid files in {args.seeds}\n"
            "  -> run: python 01_download.py --quick"
        )
    outcomes, findings, began = Counter(), 0, time.monotonic()
    for start in range(0, args.files, BATCH):
        with tempfile.TemporaryDirectory() as folder:
            raw, target = Path(folder, "raw"), Path(folder, "abc")
            raw.mkdir()
            target.mkdir()
            numbers = range(start, min(start + BATCH, args.files))
            for number in numbers:
                (raw / f"{number}.mid").write_bytes(mutated(seeds, number, args.seed))
            tasks, answered = [(f"{number}.mid", f"{number}.abc") for number in numbers], 0
            settings = Settings(raw, target, VOICES)
            for (midi, abc), row in convert_all(tasks, args.workers, settings):
                answered += 1
                reason = row.get("reason")
                if reason is None and int(midi[:-4]) % READ_EVERY == 0:
                    try:
                        read_abc((target / abc).read_text(encoding="utf-8"))
                    except AbcError as error:
                        reason = f"ABC does not read: {error}"
                outcomes[reason or "converted"] += 1
                slow = reason == "timeout" and (raw / midi).stat().st_size > LARGE
                if reason in FINDINGS and not slow or (reason or "").startswith("ABC"):
                    findings += 1
                    print(
                        f"finding: --seed {args.seed} file {midi}: {reason}:"
                        f" {row.get('detail', '')}",
                        flush=True,
                    )
                    if args.keep:
                        args.keep.mkdir(parents=True, exist_ok=True)
                        (args.keep / f"{args.seed}-{midi}").write_bytes((raw / midi).read_bytes())
            assert answered == len(tasks), f"{len(tasks) - answered} files left without an answer"
    seconds = time.monotonic() - began
    for reason, n in outcomes.most_common():
        print(f"{reason}: {n:,}")
    print(
        f"files: {args.files:,}\nfindings: {findings:,}\nfiles per second:"
        f" {args.files / seconds:.0f}"
    )
    return findings


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
