"""Stage 03: ABC tunes become training text: groups of the same song, leak-free splits, sequences,
tokens, baselines.

Reads:  data/abc_notation/**/*.abc (stage 02), or --abc DIR (.abc files, tunebooks), or
    --from-splits DIR (ready text)
Writes: data/{train,val,test}.txt             tunebooks: sequences of 101 to 4,999 characters, an
    empty line between
        data/tokenizer.pkl                    vocabulary: the characters of train.txt, or what
            --vocab says
        data/{train,val,test}_tokens.npy      1-D, smallest integer type: BEGIN sequence END BEGIN
            sequence END ...
        data/{train,val,test}_sequences.tsv   where each comes from: file, group, piece, first bar,
            place in the tokens
        data/baselines.json                   uniform, unigram, 6-gram, PPMd, xz: bits per
            character of val, test
        data/stats.json, data/figures/data.png|svg   duplicates, filters, lengths, music, overlap
            with train
Run:    python 03_tokenize_split.py [--limit-chars N] [--collections NAME,NAME] [--holdout FILE]
    [--abc PATH] ...
        --tag collection names the collection in the headers (R:bach), for one model of all styles
Prints last: tunes, groups, what was left out, characters per split, vocabulary, strongest baseline,
worst overlap.

Which split a tune lands in depends on its group (see study/prepare/groups.py) and the seed alone;
the bytes of all files do not depend on the number of workers or the order of files on disk.
"""

import tempfile
from pathlib import Path

# first of all: from here on Ctrl-C shows no traceback, however long the rest takes to load
from study.stages.arguments import (
    existing,
    fail,
    name_list,
    number,
    resolve_root,
    stage_parser,
    whole,
)
from study.stages.files import (
    TEMPORARY,
    file_digest,
    tree_files,
    value_digest,
    write_bytes,
    write_json,
    write_text,
)
from study.stages.process import cpu_count, run
from study.stages.stage import Stage

from common import TOKENIZERS
from study.prepare import baselines, data_report, groups, reading, selection, split_files
from study.prepare.figures import draw_data
from study.prepare.selection import SPLITS

ME = "03_tokenize_split.py"
TOKENIZER = "char"  # of the study; one of common.TOKENIZERS
MIN_CHARS, MAX_CHARS = 101, 4999  # of a sequence: shorter ones are little more than a header
MIN_NOTES = 16  # of a tune: the least that `check_abc` calls music
LARGE_TEXT = 50  # MB of ready text, from which the time is said beforehand
# training characters below which a model trained from nothing learns little
SMALL_TEXT = 100_000
# of one core; of memory: 1.4 kB for every tune of 300 characters
SECONDS_PER_MB, KB_PER_MB = 8, 4700
# of the time of a tune's voices: beyond it a tune teaches only how to write rests
MAX_REST_SHARE = 0.95


def parse_arguments(argv):
    parser = stage_parser(__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--abc",
        type=existing,
        metavar="PATH",
        help=(
            "read this tunebook, or the .abc files below this folder, instead of stage 02's output"
        ),
    )
    source.add_argument(
        "--from-splits",
        type=existing,
        metavar="DIR",
        help=(
            "take DIR/train.txt, val.txt and test.txt as they are (any text; its parts are"
            " separated by empty lines or begin with an X: line)"
        ),
    )
    parser.add_argument(
        "--abc-raw",
        action="store_true",
        help=(
            "with --abc: keep the text as it is written (default: mend it and set it in the form in"
            " which stage 02 writes ABC)"
        ),
    )
    parser.add_argument(
        "--limit-chars",
        type=whole(1),
        metavar="N",
        help=(
            "budget in characters, all splits together, spread evenly over the groups (default:"
            " all)"
        ),
    )
    parser.add_argument(
        "--collections",
        type=name_list,
        metavar="NAME[,NAME]",
        help="first-level folders to keep; to drop some: --collections=-NAME,-NAME (default: all)",
    )
    parser.add_argument(
        "--holdout",
        type=Path,
        metavar="FILE",
        help=(
            "groups whose split is fixed: lines `val|test|train TAB path, artist/title or group`; a"
            " line without TAB means test"
        ),
    )
    parser.add_argument(
        "--tag",
        choices=("collection",),
        help=(
            "name each tune's collection (first-level folder) in its header, R:bach, but for "
            f"{reading.UNTAGGED:.0%}% of the groups; stage 07 then plays --style bach (default: no)"
        ),
    )
    parser.add_argument(
        "--min-notes",
        type=whole(),
        default=MIN_NOTES,
        metavar="N",
        help=f"leave out tunes with fewer notes (default: {MIN_NOTES})",
    )
    parser.add_argument(
        "--max-rest-share",
        type=number(0, 1),
        default=MAX_REST_SHARE,
        metavar="SHARE",
        help=(
            "leave out tunes whose voices rest for more of the time, 0 to 1 "
            f"(default: {MAX_REST_SHARE})"
        ),
    )
    parser.add_argument(
        "--vocab",
        choices=tuple(TOKENIZERS),
        default=TOKENIZER,
        help=(
            "what a token is: a character; a whole note, rest or field; an event (position, pitch or"
            f" duration of a note; compare it in nats per note) (default: {TOKENIZER})"
        ),
    )
    parser.add_argument(
        "--workers",
        type=whole(1),
        metavar="N",
        help="processes, at most one per core (default: that)",
    )
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="print last what was left out by name, and every baseline",
    )
    args = parser.parse_args(argv)
    if args.abc_raw and not args.abc:
        parser.error("--abc-raw goes with --abc")
    if args.from_splits and (args.limit_chars or args.collections or args.holdout or args.tag):
        parser.error(
            "--from-splits takes the text as it is: --limit-chars, --collections, --holdout and"
            " --tag do not apply"
        )
    return args


def source_files(args):
    """(folder, relative paths) of what is to be read; ends the script if what was asked for is not
    there."""
    folder = args.abc or args.from_splits or resolve_root(args) / "data/abc_notation"
    if args.from_splits:
        names = [f"{split}.txt" for split in SPLITS]
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            fail(
                ME,
                f"--from-splits {folder}: no {', '.join(missing)}",
                "name a folder with train.txt, val.txt and test.txt",
            )
        return folder, names
    if args.abc and args.abc.is_file():
        return folder.parent, [folder.name]
    names = (
        [name for name in tree_files(folder) if name.lower().endswith(".abc")]
        if folder.is_dir()
        else []
    )
    if args.collections and names:
        names = selection.chosen_folders(names, args.collections)
    return folder, names


def open_stage(args, holdout):
    """(stage, folder, relative paths of what it reads); ends the script if there is nothing to
    read."""
    config = {
        "limit_chars": args.limit_chars,
        "collections": args.collections,
        "min_notes": args.min_notes,
        "max_rest_share": args.max_rest_share,
        "holdout": holdout,
        "abc": bool(args.abc),
        "abc_raw": args.abc_raw,
        "from_splits": bool(args.from_splits),
        "vocab": args.vocab,
        "tag": args.tag,
    }
    outside = args.abc or args.from_splits
    # first, as it says what stage 02 has left undone
    stage = None if outside else Stage(__file__, args, config)
    folder, names = source_files(args)
    if not names:
        fail(
            ME,
            f"there is no .abc file in {folder.name}",
            None if outside else "run: python 02_midi_to_abc.py" + stage.flags,
        )
    if outside:  # no manifest tells what is in there
        digests = [(name, file_digest(folder / name)) for name in names]
        stage = Stage(__file__, args, {**config, "source": value_digest(digests)}, reads=())
    return stage, folder, names


def read_and_split(args, folder, names, holdout, spool):
    """({split: sequences}, all tunes, tunes that stay, report for stats.json); the sequences' text
    goes to `spool`."""
    workers = args.workers or cpu_count()
    limits = {
        "max_chars": MAX_CHARS - (reading.TAG_CHARS + 3 if args.tag else 0),
        "min_chars": MIN_CHARS,
    }
    if args.from_splits:
        jobs = [job for split in SPLITS for job in reading.ready_jobs(folder / f"{split}.txt")]
        megabytes = len(jobs) * reading.JOB_BYTES / 1e6
        if megabytes > LARGE_TEXT:
            print(
                f"{megabytes:.0f} MB of text: some"
                f" {megabytes * SECONDS_PER_MB / 60 / min(workers, cpu_count()):.0f} minutes, and"
                f" {1 + megabytes * KB_PER_MB / 1e6:.1f} GB of memory",
                flush=True,
            )
        tunes = reading.read_all(reading.read_ready, jobs, workers, spool, **limits)
        return (
            selection.split_ready(tunes, args.seed),
            tunes,
            tunes,
            {"groups": None, "floor": None},
        )
    jobs = [(str(folder / name), name) for name in names]
    reader = reading.read_people_file if as_people_write(args) else reading.read_file
    tunes = reading.read_all(reader, jobs, workers, spool, **limits)
    if not tunes:
        fail(ME, f"there is no tune in the .abc files of {folder.name}")
    if not args.abc:
        groups.name_by_works(tunes, selection.read_works(folder.parent / "conversion.tsv"))
    parts, kept, report = selection.split_groups(
        tunes,
        holdout,
        args.seed,
        min_notes=args.min_notes,
        max_rest_share=args.max_rest_share,
        min_chars=MIN_CHARS,
        limit_chars=args.limit_chars,
    )
    return parts, tunes, kept, report


def as_people_write(args):
    """True if the tunes are to be set in normal form first."""
    return bool(args.abc) and not args.abc_raw


def write_failed(path, tunes):
    """A line for every tune that cannot be read: where it stands, its line in the file, and why."""
    rows = [f"{tune['origin']}\t{tune['reason']}\n" for tune in tunes if tune.get("reason")]
    write_text(path, "".join(rows))


def closing_block(stats, marks, verbose=False):
    """{key: value} that the stage prints last: at most eight lines, and with `verbose` everything
    that was left out by name and every baseline."""
    splits, names = stats["splits"], stats.get("dropped_names", {})
    counts = {
        **{reason: len(origins) for reason, origins in names.items()},
        **stats.get("dropped_tunes", {}),
    }
    left_out = {
        reason: (
            f"{n:,}"
            + (
                f" ({selection.named(names[reason], n, selection.NAMES if verbose else 3)})"
                if reason in names
                else ""
            )
        )
        for reason, n in counts.items()
    }
    characters = {split: splits[split]["characters"] for split in SPLITS}
    unknown = sum(n for part in stats["vocabulary"]["unknown_in"].values() for n in part.values())
    worst = [
        row for split in ("val", "test") for row in stats["overlap_with_train"][split]["worst"][:1]
    ]
    best = min(marks["test"], key=lambda name: marks["test"][name]["bits_per_char"])
    shown = list(marks["test"]) if verbose else dict.fromkeys([best, "ngram"])
    return {
        "tunes": (
            f"{stats['tunes']:,}"
            + (f" in {stats['groups']:,} groups (songs)" if stats["groups"] else "")
        ),
        **(
            {f"left out, {reason}": words for reason, words in left_out.items()}
            if verbose
            else (
                {"left out": "; ".join(f"{reason}: {words}" for reason, words in left_out.items())}
                if left_out
                else {}
            )
        ),
        **(
            {"mended": ", ".join(f"{n:,} {kind}" for kind, n in stats["mended"].items())}
            if stats.get("mended")
            else {}
        ),
        "characters": (
            ", ".join(f"{n:,} {split}" for split, n in characters.items())
            + f": {round(100 * characters['train'] / sum(characters.values()))} of 100 train"
        ),
        "vocabulary": f"{stats['vocabulary']['size']}, {unknown:,} characters unknown to train",
        **{
            ("strongest baseline, " if name == best else "")
            + marks["test"][name]["label"]: (
                f"{marks['val'][name]['bits_per_char']:.3f} bits per character on val, "
                f"{marks['test'][name]['bits_per_char']:.3f} on test"
            )
            for name in shown
        },
        "worst overlap with train": "; ".join(
            f"{row['share']:.2f} ({row['tune']})" for row in worst
        ),
        **(
            {
                "lines of --holdout that name no tune": selection.named(
                    lost, len(lost), selection.NAMES
                )
            }
            if (lost := stats.get("holdout", {}).get("lines_without_a_tune"))
            else {}
        ),
    }


def main(argv=None):
    args = parse_arguments(argv)
    holdout = selection.read_holdout(args.holdout) if args.holdout else []
    stage, folder, names = open_stage(args, holdout)
    if stage.up_to_date():
        return
    data = stage.root / "data"
    data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=data, prefix=TEMPORARY) as spool:
        parts, tunes, kept, report = read_and_split(args, folder, names, holdout, spool)
        if args.tag:
            print(
                "the collection stands in the headers of"
                f" {reading.tag_sequences(parts, spool, args.seed):,} of"
                f" {sum(map(len, parts.values())):,} sequences (R:)",
                flush=True,
            )
        n_train = sum(sequence["chars"] for sequence in parts["train"])
        if n_train < SMALL_TEXT and not args.from_splits:
            print(
                f"{n_train:,} characters are little: a model trained on them from nothing learns to"
                " keep bars and to recite; 08_finetune.py goes on from a trained model with your"
                " music",
                flush=True,
            )
        with stage.writing():
            # text, its vocabulary, its tokens
            counts, n_notes = {}, {}
            for split in SPLITS:
                counts[split], n_notes[split] = split_files.write_split(
                    data, split, parts[split], spool
                )
            tokenizer = TOKENIZERS[args.vocab]((data / "train.txt").read_bytes().decode())
            write_bytes(data / "tokenizer.pkl", tokenizer.dumps())
            n_tokens = {
                split: split_files.write_tokens(data, split, parts[split], spool, tokenizer)
                for split in SPLITS
            }
            # what a model must beat, and what it could know by heart
            with split_files.character_files(data, parts, spool, tokenizer, counts["train"]) as (
                arrays,
                n_characters,
            ):
                results = data_report.measure_all(
                    data, arrays, n_characters, args.workers or cpu_count()
                )
                rows = {
                    split: data_report.overlap_by_tune(shared, parts[split])
                    for split, shared in zip(("val", "test"), results["overlap"])
                }
                overlap = {split: data_report.overlap_statistics(rows[split]) for split in rows}
            stats = data_report.statistics(
                tunes, kept, report, parts, counts, n_notes, n_tokens, tokenizer, overlap
            )
            targets = {
                split: stats["splits"][split]["characters"] + len(parts[split])
                for split in ("val", "test")
            }
            marks = baselines.summarise(results, n_characters, targets)
            write_json(data / "baselines.json", {**marks, "tokenizer_digest": tokenizer.digest})
            write_json(data / "stats.json", stats)
            drawn = draw_data(data / "figures", kept, parts, rows, MAX_CHARS)
            failed = ["data/failed_abc.txt"] if as_people_write(args) else []
            for name in failed:
                write_failed(stage.root / name, tunes)
            stage.finish(
                ["data/tokenizer.pkl", "data/baselines.json", "data/stats.json"]
                + [
                    f"data/{split}{end}"
                    for split in SPLITS
                    for end in (".txt", "_tokens.npy", "_sequences.tsv")
                ]
                + [f"data/figures/{name}" for name in drawn]
                + failed,
                counts={
                    "tunes": len(tunes),
                    "groups": stats["groups"],
                    **{
                        f"{split}_{what}": stats["splits"][split][what]
                        for split in SPLITS
                        for what in ("characters", "tokens", "sequences", "groups")
                    },
                },
                skipped={
                    **stats.get("dropped_tunes", {}),
                    "short sequences": stats.get("short_sequences", 0),
                },
                extra={"tokenizer_digest": tokenizer.digest, "floor": stats["floor"]},
                summary=closing_block(stats, marks, args.verbose),
            )


if __name__ == "__main__":
    run(main)
