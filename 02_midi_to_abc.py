"""Stage 02: every MIDI file below data/raw_midi becomes one ABC tune that a language model can
read.

Reads:  data/raw_midi/**/*.mid, data/raw_midi.tsv (stage 01)
Writes: data/abc_notation/<same relative path>.abc   one tune each, voices interleaved by short
    groups of bars
        data/failed_midi.txt   path, reason, detail of every file that gave no ABC (tab-separated)
        data/conversion.tsv    one row per converted file: characters, bars, voices, tracks, notes
            written, doubled
                               (the same note twice in one track, written once) and dropped (in voices left out), drum
                               notes, median distance of the onsets from the grid in quarter
                               notes; composer, work and licence as in raw_midi.tsv
Run:    python 02_midi_to_abc.py [--workers N] [--max-voices N] [--timeout SECONDS] [--only GLOB]
    [--check-all]
        python 02_midi_to_abc.py song.mid [-o DIR] [--to midi|musicxml]   files alone, without a root:
            MIDI, MusicXML, kern or ABC in, ABC (or what --to says) out, beside it; `-` writes to
            standard output
Prints last: files, converted, failed, what was counted above, files off the beat, files per second.

Six voices are kept by default. On a sample of real songs that is 95 % of all pitched notes, a
512-character window of the model spans 5.4 bars of all voices in the median and 3.0 or more in nine
files of ten. Four voices keep 84 % (6.5 bars), fifteen 99.9 % (5.1 bars, but 2.4 in the densest
tenth): benchmarks/conversion.md.
"""

import fnmatch
import sys
import time
from collections import Counter
from pathlib import Path

from study.stages.arguments import fail, number, stage_parser, whole
from study.stages.files import write_bytes, write_text
from study.stages.manifest import input_problems, load_manifest
from study.stages.process import cpu_count, progress, run
from study.stages.stage import Stage

from music.midi_to_abc import MAX_VOICES
from study.prepare import one_file
from study.prepare.conversion import (
    CrewLost,
    Settings,
    convert_all,
    journaled,
    plan,
    printable,
    read_journal,
    remove_others,
)

DEFAULT_VOICES = 6  # see the docstring
TIMEOUT = 20  # seconds of processor time for one file; the slowest real one seen needs under one
MAX_TIMEOUT = 86_400  # seconds: a day; the system's timer takes no more than a number of its own
MAX_FAILED_SHARE = 0.75  # of at least 10 files: beyond this the input is not what the user believes
# of the files are read back in every run; reading one takes longer than writing it
CHECKED_SHARE = 1 / 32
# quarter notes: a file whose onsets lie further off the grid in the median was not played to its
# beat;
OFF_BEAT = 0.03
# onsets without any regard to the beat give 0.033, nine real songs of ten less than 0.026
MAX_LISTED = 100  # files off the beat that the manifest names; conversion.tsv has all
# of conversion.tsv
TABLE = (
    "chars",
    "bars",
    "voices",
    "tracks",
    "notes",
    "doubled",
    "dropped",
    "drums",
    "together",
    "error",
)
ORIGIN = ("composer", "work", "licence")  # also of conversion.tsv, from raw_midi.tsv


def parse_arguments(argv):
    parser = stage_parser(__doc__)
    parser.add_argument("files", nargs="*", metavar="FILE", help="convert these files alone")
    parser.add_argument(
        "-o", "--out", metavar="DIR", help="of files given alone: where to write (default: beside)"
    )
    parser.add_argument(
        "--to",
        choices=tuple(one_file.ENDINGS),
        default="abc",
        help="of files given alone: what to write (default: abc)",
    )
    parser.add_argument(
        "--workers",
        type=whole(1),
        metavar="N",
        default=cpu_count(),
        help=(
            "processes, at most one a core (default: all cores, here %(default)s); changes nothing "
            "but the time"
        ),
    )
    parser.add_argument(
        "--max-voices",
        type=whole(1, MAX_VOICES),
        metavar="N",
        default=DEFAULT_VOICES,
        help=f"voices kept a tune, 1-{MAX_VOICES} (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=number(above=0, most=MAX_TIMEOUT),
        metavar="SECONDS",
        default=TIMEOUT,
        help="processor time for one file (default: %(default)s)",
    )
    parser.add_argument(
        "--check-all",
        action="store_true",
        help=f"read every ABC file back, not just one in {1 / CHECKED_SHARE:.0f}",
    )
    parser.add_argument(
        "--only", metavar="GLOB", help="redo the files whose path below data/raw_midi matches"
    )
    return parser.parse_args(argv)


def convert_given(args):
    """Converts the files that were named on the command line, each by itself."""
    paths = [Path(name) for name in args.files if name != "-"]
    to_stdout, failed = "-" in args.files, []
    if not paths:
        fail("02_midi_to_abc.py", "name a file", "python 02_midi_to_abc.py song.mid -")
    for path in paths:
        try:
            data = one_file.convert_file(path, args.to, args.max_voices)
            if to_stdout:
                sys.stdout.buffer.write(data)
            else:
                folder = path.parent if args.out is None else Path(args.out)
                target = folder / (path.stem + one_file.ENDINGS[args.to])
                if target.exists() and not args.force:
                    raise one_file.CannotConvert(f"{target} exists; --force writes over it")
                write_bytes(target, data, durable=False)
                print(target)
        except one_file.CannotConvert as error:
            failed.append(f"{path}: {error}")
    if failed:
        fail("02_midi_to_abc.py", "\n".join(failed))


def read_origins(path):
    """{MIDI name: [composer, work, licence]} of the table that stage 01 wrote, if there is one."""
    if not path.exists():
        return {}
    with open(path, encoding="utf-8") as table:
        columns = next(table).rstrip("\n").split("\t")
        places = [columns.index(name) for name in ORIGIN]
        rows = (line.rstrip("\n").split("\t") for line in table)
        return {row[0]: [row[place] for place in places] for row in rows}


def finished(stage):
    """True if there is a finished conversion with these settings."""
    manifest = load_manifest(stage.root, stage.name)
    return (
        bool(manifest)
        and manifest["key"] == stage.key
        and not input_problems(stage.root, stage.name)
    )


def check_only(args, stage, tasks):
    """Ends the script if --only matches nothing, or has no finished conversion to redo files of."""
    if not finished(stage):
        fail(
            "02_midi_to_abc.py",
            "--only redoes files of a finished conversion with these settings; there is none",
            f"run: python 02_midi_to_abc.py{stage.flags}",
        )
    if not any(fnmatch.fnmatchcase(midi, args.only) for midi, _ in tasks):
        fail(
            "02_midi_to_abc.py",
            f"--only {args.only} matches none of the {len(tasks):,} files below data/raw_midi",
            f"give a path or a pattern such as '{tasks[0][0].split('/')[0]}/*'",
        )


def write_tables(root, tasks, rows):
    """failed_midi.txt and conversion.tsv, sorted by path."""
    failed, converted = [], ["\t".join(["path", *TABLE, *ORIGIN])]
    origins, unknown = read_origins(root / "data/raw_midi.tsv"), [""] * len(ORIGIN)
    for midi, abc in tasks:
        row = rows[midi]
        if "reason" in row:
            failed.append(f"{printable(midi)}\t{row['reason']}\t{printable(row['detail'])}")
        else:
            values = [str(row[key]) for key in TABLE]
            converted.append("\t".join([printable(abc), *values, *origins.get(midi, unknown)]))
    write_text(root / "data/failed_midi.txt", "".join(line + "\n" for line in failed))
    write_text(root / "data/conversion.tsv", "\n".join(converted) + "\n")


def count(rows):
    """What the manifest and the last lines of a run say of its rows, and {reason: files} of those
    that failed. Ends the script if too many failed."""
    good = [row for row in rows.values() if "reason" not in row]
    reasons = dict(Counter(row["reason"] for row in rows.values() if "reason" in row).most_common())
    n_failed = len(rows) - len(good)
    if not good or (len(rows) >= 10 and n_failed > MAX_FAILED_SHARE * len(rows)):
        fail(
            "02_midi_to_abc.py",
            f"{n_failed:,} of {len(rows):,} files gave no ABC: "
            + ", ".join(f"{n:,} {reason}" for reason, n in reasons.items()),
            "see data/failed_midi.txt; check what is in data/raw_midi",
        )
    total = {key: sum(row[key] for row in good) for key in TABLE if key != "error"}
    mended = sum((Counter(row["mended"]) for row in good), Counter())
    return {
        "files": len(rows),
        "converted": len(good),
        "failed": n_failed,
        **total,
        "mended": dict(mended),
        "off_beat": sum(row["error"] > OFF_BEAT for row in good),
        "median_error": sorted(row["error"] for row in good)[len(good) // 2],
    }, reasons


def main(argv=None):
    args = parse_arguments(argv)
    if args.files:
        convert_given(args)
        return
    stage = Stage(__file__, args, {"max_voices": args.max_voices})
    raw, target = stage.root / "data/raw_midi", stage.root / "data/abc_notation"
    journal = stage.root / "data/.02_midi_to_abc.journal.jsonl"
    # files that killed their worker get another chance in the next run, in case it was the machine;
    # then they are done
    before = load_manifest(stage.root, stage.name) or {}
    second_chance = not args.force and before.get("second_chance", False) and finished(stage)
    if not (args.only or second_chance) and stage.up_to_date():
        return
    tasks = plan(raw)
    if not tasks:
        fail(
            "02_midi_to_abc.py",
            "data/raw_midi holds no MIDI file",
            f"run: python 01_download.py{stage.flags} --force",
        )
    if args.only:
        check_only(args, stage, tasks)
    with stage.writing():
        rows = read_journal(journal, target) if stage.resuming or args.only or second_chance else {}
        rows = {
            midi: row
            for midi, row in rows.items()
            if not (args.only and fnmatch.fnmatchcase(midi, args.only))
        }
        todo = [task for task in tasks if task[0] not in rows]
        target.mkdir(parents=True, exist_ok=True)
        settings = Settings(
            str(raw),
            str(target),
            args.max_voices,
            args.seed,
            1 if args.check_all else CHECKED_SHARE,
            args.timeout,
        )
        began = time.monotonic()
        results = journaled(convert_all(todo, args.workers, settings), journal, resume=bool(rows))
        try:
            for (midi, _), row in progress(
                results, total=len(todo), desc="MIDI to ABC", unit="file"
            ):
                rows[midi] = row
        except CrewLost as problem:
            fail(
                "02_midi_to_abc.py",
                str(problem),
                "see whether memory suffices, give fewer --workers, run it again",
            )
        seconds = time.monotonic() - began
        rows = {midi: rows[midi] for midi, _ in tasks}
        remove_others(target, {abc for midi, abc in tasks if "reason" not in rows[midi]})
        write_tables(stage.root, tasks, rows)
        counts, reasons = count(rows)
        off_beat = [printable(midi) for midi, row in rows.items() if row.get("error", 0) > OFF_BEAT]
        stage.finish(
            ["data/abc_notation", "data/failed_midi.txt", "data/conversion.tsv"],
            counts=counts,
            skipped=reasons,
            extra={
                "off_beat_files": off_beat[:MAX_LISTED],
                "second_chance": "crash" in reasons and not second_chance,
            },
            summary={
                **counts,
                "mended": ", ".join(f"{n:,} {why}" for why, n in counts["mended"].items()) or "none",
                "reasons": ", ".join(f"{n} {why}" for why, n in reasons.items()) or "none",
                "files per second": f"{len(todo) / max(seconds, 1e-3):.1f}",
            },
        )


if __name__ == "__main__":
    run(main)
