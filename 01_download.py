"""Collects music from an archive, a folder, a file, a URL or the music21 package into one folder of
MIDI files.

Reads:  --source: lakh (default; clean_midi, about 17,000 files), lakh-full (176,581 files),
            openscore (1,500 songs and quartets, CC0), polish (8,000 scores, CC BY), music21 (real
            music from inside the music21 package, no network; the default with --quick), a file, a
            folder, a .tar.gz/.tgz/.tar/.zip or a URL. MIDI, MusicXML (.mxl, .musicxml, .xml), kern
            (.krn) and ABC (.abc), mixed as they come; scores are read as printed
Writes: data/raw_midi/<artist or collection>/<title>.mid   Standard MIDI files
        data/raw_midi.tsv                    one row a file: licence, composer, work, where it is from
        data/downloads/<archive>             what came over the network (kept; interrupted ones
            resume)
        data/01_download.manifest.json       counts, sources with their licences, SHA-256, every
            reason for a file left out
Run:    python 01_download.py [--source openscore] [--collections bach,essen] [--limit N]
    [--sha256 HEX]
Prints last: the number of files and bytes, licences, files left out by reason, the next command.
"""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from study.stages.arguments import fail, name_list, number, stage_parser, whole
from study.stages.files import atomic, file_digest, value_digest
from study.stages.process import run
from study.stages.stage import Stage

from music import corpus
from study.prepare.fetch import (
    MidiFolder,
    Refused,
    download,
    hoist,
    in_words,
    listing_digest,
    music_members,
    sample,
)
from study.prepare.gather import (
    MUSIC_SUFFIXES,
    Collected,
    gather,
    licences_in,
    take_embedded,
)
from study.prepare.sources import CLOSED, NAMES, SOURCES, source_rows

DEFAULT_COLLECTIONS = ("oneills", "ryans", "airds", "miscfolk", "bach")
MAX_SECONDS = 86_400  # a day, of --timeout and --retry-wait


def parse_arguments(argv):
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--source",
        metavar="SOURCE",
        help=(
            f"{', '.join(NAMES)}, a file or folder of MIDI, MusicXML, kern or ABC, a .tar.gz, .tar or "
            ".zip of them, or a URL (default: lakh; with --quick: music21)"
        ),
    )
    parser.add_argument(
        "--collections",
        type=name_list,
        metavar="NAME[,NAME]",
        help=(
            f"of --source music21: {', '.join([*corpus.BOOKS, *corpus.SCORES])} "
            f"(default: {','.join(DEFAULT_COLLECTIONS)})"
        ),
    )
    parser.add_argument(
        "--limit", type=whole(1), metavar="N", help="take a seeded random sample of N files"
    )
    parser.add_argument("--sha256", metavar="HEX", help="refuse an archive with another SHA-256")
    parser.add_argument(
        "--timeout",
        type=number(above=0, most=MAX_SECONDS),
        default=60,
        metavar="SECONDS",
        help="a connection that is silent for so long is opened again (default: 60)",
    )
    parser.add_argument(
        "--retry-wait",
        type=number(least=0, most=MAX_SECONDS),
        default=1,
        metavar="SECONDS",
        help="wait before the first retry, doubled for each further one (default: 1)",
    )
    args = parser.parse_args(argv)
    if args.source is None:
        args.source = "music21" if args.quick else "lakh"
    if args.collections and args.source != "music21":
        parser.error(
            "--collections is of --source music21 alone; 03_tokenize_split.py has one for folders"
        )
    args.urls = ()
    if args.source in SOURCES:
        args.urls = SOURCES[args.source].urls
    elif re.match(r"https?://", args.source):
        args.urls = (args.source,)
    names = args.collections.split(",") if args.collections else DEFAULT_COLLECTIONS
    args.names = list(dict.fromkeys(name.strip().lower() for name in names))
    return args


def check_arguments(args):
    """Ends the script, before anything is written, if the source cannot be what the user means."""
    unknown = [
        name for name in args.names if name not in corpus.BOOKS and name not in corpus.SCORES
    ]
    if unknown:
        fail(
            "01_download.py",
            f"--collections: there is no {', '.join(unknown)}",
            f"choose from {', '.join([*corpus.BOOKS, *corpus.SCORES])}",
        )
    if args.source in CLOSED and not Path(args.source).exists():
        fail(
            "01_download.py",
            CLOSED[args.source],
            "other folk tunes: --source music21 --collections oneills,ryans,airds",
        )
    if args.sha256 and len(args.urls) > 1:
        fail("01_download.py", f"--sha256: --source {args.source} is more than one archive")
    if args.sha256 and not re.fullmatch("[0-9a-fA-F]{64}", args.sha256):
        fail("01_download.py", "--sha256 needs 64 hexadecimal digits", "see `sha256sum ARCHIVE`")
    if args.source == "music21" and not corpus.corpus_folder():
        fail(
            "01_download.py",
            "the music21 package is not installed, or without its corpus",
            "pip install -r requirements.txt",
        )
    if args.source != "music21" and not args.urls:
        path = Path(args.source)
        if not args.source or not path.exists():
            fail(
                "01_download.py",
                f"--source {shlex.quote(args.source)}: there is no such file or folder",
                f"give {', '.join(NAMES)}, a file, a folder, an archive or a URL",
            )
        if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
            fail(
                "01_download.py",
                f"--source {args.source}: no permission to read it",
                f"chmod -R u+rX {args.source}",
            )


def check_overlap(args, final):
    """Ends the script if the source is a folder in which, or in a part of which, this stage
    writes."""
    if args.source not in NAMES and not args.urls and Path(args.source).is_dir():
        source = Path(args.source).resolve()
        if source in (final, *final.parents) or final in source.parents:
            fail(
                "01_download.py",
                f"--source {args.source} overlaps data/raw_midi, where this stage writes",
                "move your music elsewhere, or give another --root",
            )


def source_identity(args):
    """What decides the corpus, as a JSON value: content of a local source, address of a remote one;
    no paths."""
    if args.source == "music21":
        return {
            "source": "music21",
            "collections": args.names,
            "files": value_digest(corpus.collection_files(args.names)),
        }
    if args.urls:
        return {
            "source": args.source if args.source in SOURCES else "url",
            "url": value_digest(args.urls),
            "sha256": (args.sha256 or "").lower() or None,
        }
    path = Path(args.source)
    if path.is_file():
        return {"source": "archive", "sha256": file_digest(path)}
    return {"source": "folder", "listing": listing_digest(path)}


def collect(args, data, collected):
    """Fills a Collected from the source; returns {archive: SHA-256}, of nothing but archives."""
    if args.source == "music21":
        take_embedded(args.names, args.limit, args.seed, collected, sample)
        return {}
    if args.source in SOURCES:
        collected.licence = SOURCES[args.source].licence
    paths = [Path(args.source)]
    if args.urls:
        paths = [
            download(url, data / "downloads", args.sha256, args.timeout, args.retry_wait, say)
            for url in args.urls
        ]
    elif paths[0].is_file() and args.sha256:
        digest = file_digest(paths[0])
        if digest != args.sha256.lower():
            raise Refused(f"the archive has SHA-256 {digest} and not {args.sha256.lower()}")
    left_out = collected.midi.left_out
    for path in paths:
        try:
            members = music_members(path, left_out, args.limit, args.seed, MUSIC_SUFFIXES)
            gather(members, collected)
        except Refused:
            if args.urls:
                path.unlink()  # the next run fetches it anew
            raise
    return {path.name: file_digest(path) for path in paths if path.is_file()}


def say(sentence):
    """Prints what a download waits for."""
    print(f"01_download: {sentence}", file=sys.stderr)


def write_table(path, table, below):
    """Writes the table of files; below: the folder that `hoist` left out of their paths."""
    with open(table, encoding="utf-8") as rows, atomic(path) as file:
        for row in rows:
            file.write(row.removeprefix(below))


def without_music(left_out):
    """Why a source gave nothing, in words."""
    words = "it holds no music that can be read"
    if left_out:
        words += f", only {in_words(left_out)}"
    if left_out["link"]:
        words += ": give the folder that the links lead to"
    return words


def main(argv=None):
    args = parse_arguments(argv)
    check_arguments(args)
    stage = Stage(__file__, args, config={**source_identity(args), "limit": args.limit})
    if stage.up_to_date():
        return
    data = stage.root / "data"
    new, old, final = data / ".raw_midi.new", data / ".raw_midi.old", data / "raw_midi"
    table = data / ".raw_midi.tsv.new"
    check_overlap(args, final)
    for name in args.names if args.source == "music21" else []:
        if name in corpus.NOTICES:
            print(f"notice: {corpus.NOTICES[name]}")
    with stage.writing():
        try:
            shutil.rmtree(new, ignore_errors=True)
            if old.exists() and not final.exists():  # killed between the two renames below
                os.replace(old, final)
            shutil.rmtree(old, ignore_errors=True)
            new.mkdir()
            with open(table, "w", encoding="utf-8") as file:
                collected = Collected(MidiFolder(new), file)
                digests = collect(args, data, collected)
            midi = collected.midi
            if not midi.files:
                raise Refused(without_music(midi.left_out))
            kept = hoist(new)
        except BaseException as error:  # nothing was changed yet: what was there before stays valid
            shutil.rmtree(new, ignore_errors=True)
            table.unlink(missing_ok=True)
            stage.marker.unlink(missing_ok=True)
            if isinstance(error, Refused):
                fail(
                    f"{stage.name}.py",
                    f"--source {args.source}: {error}",
                    "other sources: --source music21 (no network), --source FOLDER or ARCHIVE (your"
                    " own music)",
                )
            raise
        if final.exists():
            os.replace(final, old)
        below = "" if kept == new else f"{kept.relative_to(new)}/"
        os.replace(kept, final)
        write_table(data / "raw_midi.tsv", table, below)
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)
        table.unlink()
        left_out = dict(midi.left_out.most_common())
        licences = licences_in(data / "raw_midi.tsv")
        stage.finish(
            outputs=["data/raw_midi", "data/raw_midi.tsv"],
            skipped=left_out,
            extra={
                "archive_sha256": digests,
                "sources": source_rows(args.source, args.names),
                "licences": licences,
                "left_out_files": collected.unread,
            },
            counts={"files": midi.files, "bytes": midi.bytes, "renamed": midi.renamed},
            summary={
                "source": args.source,
                "files": midi.files,
                "bytes": midi.bytes,
                "licences": ", ".join(f"{n:,} {licence}" for licence, n in licences.items()),
                "left out": in_words(left_out) or "none",
            },
        )


if __name__ == "__main__":
    run(main)
