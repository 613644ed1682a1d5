"""Converts every MIDI file below data/raw_midi to one ABC tune that a language model can read.

Reads:  data/raw_midi/**/*.mid, data/raw_midi.tsv (stage 01)
Writes: data/abc_notation/<same relative path>.abc   voices interleaved by short groups of bars
        data/failed_midi.txt   path, reason, detail of every file that gave no ABC (tab-separated)
        data/conversion.tsv    one row per converted file: characters, bars, voices, tracks; notes
            written, doubled (twice in one track, written once) and dropped (in voices left out);
            drum notes; median distance of the onsets from the grid in quarter notes
Run:    python 02_midi_to_abc.py [--workers N] [--max-voices N]
        python 02_midi_to_abc.py song.mid [-o DIR] [--to midi|musicxml]   files alone, without a root:
            MIDI, MusicXML, kern or ABC in, ABC (or what --to says) out; `-` writes to the terminal
Prints last: files, converted, failed, what was counted above, files off the beat, files per second.

Six voices, the default, keep 95 % of all pitched notes of real songs: benchmarks/conversion.md.
"""

import statistics
import sys
import time
from collections import Counter
from pathlib import Path

from study.stages.arguments import fail, stage_parser, whole
from study.stages.files import table_rows, write_bytes, write_text
from study.stages.process import add_workers, progress, run
from study.stages.stage import Stage

from music.midi_to_abc import MAX_VOICES
from music.one_file import ENDINGS, bytes_of, converted, open_file
from study.prepare import conversion
from study.prepare.conversion import printable
from study.prepare.fetch import in_words

ME = "02_midi_to_abc.py"
MAX_FAILED_SHARE = 0.75  # beyond this the input is not what the user believes
CHECKED_SHARE = 1 / 32  # of the files are read back
OFF_BEAT = 0.03  # quarter notes off the grid; random onsets: 0.033, nine songs of ten: below 0.026
# of conversion.tsv; the last three from raw_midi.tsv
TABLE = "chars bars voices tracks notes doubled dropped drums together error".split()
ORIGIN = ("composer", "work", "licence")


def parse_arguments(argv):
    parser = stage_parser(__doc__)
    add, alone = parser.add_argument, "of files given alone:"
    add("files", nargs="*", metavar="FILE", help="convert these files alone")
    add("-o", "--out", metavar="DIR", help=f"{alone} where to write (default: beside)")
    what = f"{alone} what to write (default: abc)"
    add("--to", choices=tuple(ENDINGS), default="abc", help=what)
    add_workers(parser)
    voices = {"type": whole(1, MAX_VOICES), "metavar": "N", "default": conversion.DEFAULT_VOICES}
    add("--max-voices", **voices, help=f"kept a tune, 1-{MAX_VOICES} (default: %(default)s)")
    return parser.parse_args(argv)


def convert_given(args):
    """Converts files that were named on the command line."""
    paths = [Path(name) for name in args.files if name != "-"]
    to_stdout, failed = "-" in args.files, []
    if not paths:
        fail(ME, "name a file", "python 02_midi_to_abc.py song.mid -")
    for path in paths:
        try:
            opened = open_file(bytes_of(path), path.name, args.max_voices)
            data = converted(opened, args.to, path.stem)
            if to_stdout:
                sys.stdout.buffer.write(data)
            else:
                folder = path.parent if args.out is None else Path(args.out)
                target = folder / (path.stem + ENDINGS[args.to])
                if target.exists() and not args.force:
                    raise ValueError(f"{target} exists; --force writes over it")
                write_bytes(target, data, durable=False)
                print(target)
        except ValueError as error:
            failed.append(f"{path}: {error}")
    if failed:
        fail(ME, "\n".join(failed))


def write_tables(root, tasks, rows):
    """Writes failed_midi.txt and conversion.tsv, sorted by path."""
    failed, converted = [], ["\t".join(["path", *TABLE, *ORIGIN])]
    origins = {row["path"]: row for row in table_rows(root / "data/raw_midi.tsv")}
    for midi, abc in tasks:
        row = rows[midi]
        if "reason" in row:
            failed.append(f"{printable(midi)}\t{row['reason']}\t{printable(row['detail'])}")
        else:
            origin = origins.get(printable(midi), {})
            values = [row[key] for key in TABLE] + [origin.get(key, "") for key in ORIGIN]
            converted.append("\t".join([printable(abc), *map(str, values)]))
    write_text(root / "data/failed_midi.txt", "".join(line + "\n" for line in failed))
    write_text(root / "data/conversion.tsv", "\n".join(converted) + "\n")


def count(rows):
    """Returns counts of a run's rows, and {reason: files} of those that failed; ends the script if
    too many did."""
    good = [row for row in rows.values() if "reason" not in row]
    reasons = Counter(row["reason"] for row in rows.values() if "reason" in row)
    reasons, n_failed = dict(reasons.most_common()), reasons.total()
    if not good or (len(rows) >= 10 and n_failed > MAX_FAILED_SHARE * len(rows)):
        mend = "see data/failed_midi.txt; check what is in data/raw_midi"
        fail(ME, f"{n_failed:,} of {len(rows):,} files gave no ABC: {in_words(reasons)}", mend)
    total = {key: sum(row[key] for row in good) for key in TABLE if key != "error"}
    mended = sum((Counter(row["mended"]) for row in good), Counter())
    return {
        "files": len(rows),
        "converted": len(good),
        "failed": n_failed,
        **total,
        "mended": dict(mended),
        "off_beat": sum(row["error"] > OFF_BEAT for row in good),
        "median_error": statistics.median_high(row["error"] for row in good),
    }, reasons


def main(argv=None):
    args = parse_arguments(argv)
    if args.files:
        convert_given(args)
        return
    stage = Stage(__file__, args, {"max_voices": args.max_voices})
    raw, target = stage.root / "data/raw_midi", stage.root / "data/abc_notation"
    journal = stage.root / "data/.02_midi_to_abc.journal.jsonl"
    if stage.up_to_date():
        return
    tasks = conversion.plan(raw)
    if not tasks:
        mend = f"run: python 01_download.py{stage.flags} --force"
        fail(ME, "data/raw_midi holds no MIDI file", mend)
    with stage.writing():
        rows = conversion.read_journal(journal, target) if stage.resuming else {}
        todo = [task for task in tasks if task[0] not in rows]
        target.mkdir(parents=True, exist_ok=True)
        settings = conversion.Settings(raw, target, args.max_voices, args.seed, CHECKED_SHARE)
        began = time.monotonic()
        results = conversion.convert_all(todo, args.workers, settings)
        results = conversion.journaled(results, journal, resume=bool(rows))
        try:
            for (midi, _), row in progress(results, len(todo), "MIDI to ABC", "file"):
                rows[midi] = row
        except ChildProcessError as problem:
            fail(ME, str(problem), "see whether memory suffices, give fewer --workers")
        seconds = time.monotonic() - began
        rows = {midi: rows[midi] for midi, _ in tasks}
        conversion.remove_others(target, {abc for midi, abc in tasks if "reason" not in rows[midi]})
        write_tables(stage.root, tasks, rows)
        counts, reasons = count(rows)
        summary = {
            **counts,
            "mended": in_words(counts["mended"]) or "none",
            "reasons": in_words(reasons) or "none",
            "files per second": f"{len(todo) / max(seconds, 1e-3):.1f}",
        }
        made = ["data/abc_notation", "data/failed_midi.txt", "data/conversion.tsv"]
        stage.finish(made, counts, reasons, summary)


if __name__ == "__main__":
    run(main)
