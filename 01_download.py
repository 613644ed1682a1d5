"""Collects MIDI files from an archive, a folder, a URL or the music21 package into one folder.

Reads:  --source: lakh (default; clean_midi, about 17,000 files), lakh-full (176,581 files), music21
    (real music from
        inside the music21 package, no network; the default with --quick), a folder, a
        .tar.gz/.tgz/.tar/.zip or a URL
Writes: data/raw_midi/<artist or collection>/<title>.mid   Standard MIDI files
        data/downloads/<archive>                           what came over the network (kept;
            interrupted ones resume)
        data/01_download.manifest.json                     counts, SHA-256, every reason for a file
            left out
Run:    python 01_download.py [--source music21] [--collections bach,essen] [--limit N] [--sha256
    HEX]
Prints last: the number of files and bytes, files left out by reason, the next command.
"""

import os
import re
import shlex
import shutil
from pathlib import Path

from study.stages.arguments import fail, name_list, number, stage_parser, whole
from study.stages.stage import (
    Stage,
    cpu_count,
    file_digest,
    progress,
    run,
    value_digest,
    worker_pool,
)

from music import corpus
from study.prepare.fetch import (
    MidiFolder,
    Refused,
    download,
    hoist,
    in_words,
    listing_digest,
    sample,
    unpack,
)

ARCHIVES = {
    "lakh": "http://hog.ee.columbia.edu/craffel/lmd/clean_midi.tar.gz",
    "lakh-full": "http://hog.ee.columbia.edu/craffel/lmd/lmd_full.tar.gz",
}
DEFAULT_COLLECTIONS = ("oneills", "ryans", "airds", "miscfolk", "bach")
MAX_SECONDS = 86_400  # a day, of --timeout and --retry-wait
SCORES_PER_TASK = 8  # of a worker process


def parse_arguments(argv):
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--source",
        metavar="SOURCE",
        help=(
            "lakh, lakh-full, music21, a folder, a .tar.gz, .tar or .zip file, or a URL "
            "(default: lakh; with --quick: music21)"
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
    args.url = ARCHIVES.get(args.source) or (
        args.source if re.match(r"https?://", args.source) else None
    )
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
    if args.sha256 and not re.fullmatch("[0-9a-fA-F]{64}", args.sha256):
        fail("01_download.py", "--sha256 needs 64 hexadecimal digits", "see `sha256sum ARCHIVE`")
    if args.source == "music21" and not corpus.corpus_folder():
        fail(
            "01_download.py",
            "the music21 package is not installed, or without its corpus",
            "pip install -r requirements.txt",
        )
    if args.source != "music21" and not args.url:
        path = Path(args.source)
        if not args.source or not path.exists():
            fail(
                "01_download.py",
                f"--source {shlex.quote(args.source)}: there is no such file or folder",
                "give lakh, lakh-full, music21, a folder, an archive or a URL",
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
    if args.source not in ("music21", *ARCHIVES) and not args.url and Path(args.source).is_dir():
        source = Path(args.source).resolve()
        if source in (final, *final.parents) or final in source.parents:
            fail(
                "01_download.py",
                f"--source {args.source} overlaps data/raw_midi, where this stage writes",
                "move your MIDI files elsewhere, or give another --root",
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
    if args.url:
        return {
            "source": args.source if args.source in ARCHIVES else "url",
            "url": value_digest(args.url),
            "sha256": (args.sha256 or "").lower() or None,
        }
    path = Path(args.source)
    if path.is_file():
        return {"source": "archive", "sha256": file_digest(path)}
    return {"source": "folder", "listing": listing_digest(path)}


def collect_embedded(args, midi, work):
    """Fills `midi` from the collections of the music21 package; work: a folder for abc2midi."""
    work.mkdir(exist_ok=True)
    tunes = {f"tune {index}": tune for index, tune in enumerate(corpus.tunes_of(args.names))}
    scores = {f"score {index}": score for index, score in enumerate(corpus.scores_of(args.names))}
    chosen = sample([*tunes, *scores], args.limit, args.seed) or {*tunes, *scores}
    tunes = {number: tune for number, (key, tune) in enumerate(tunes.items(), 1) if key in chosen}
    scores = [score for key, score in scores.items() if key in chosen]
    for name, data, reason in corpus.convert_tunes(tunes, work, cpu_count()):
        midi.take(name, data, reason)
    with worker_pool(cpu_count(), -(-len(scores) // SCORES_PER_TASK)) as pool:
        converted = pool.map(corpus.convert_score, scores, chunksize=SCORES_PER_TASK)
        for row in progress(converted, total=len(scores), desc="scores", unit="score"):
            midi.take(*row)


def collect(args, data, midi):
    """Fills `midi` from the source; returns the archive's SHA-256, or None."""
    if args.source == "music21":
        collect_embedded(args, midi, data / ".raw_midi.work")
        return None
    path = Path(args.source)
    if args.url:
        path = download(args.url, data / "downloads", args.sha256, args.timeout, args.retry_wait)
    elif path.is_file() and args.sha256:
        digest = file_digest(path)
        if digest != args.sha256.lower():
            raise Refused(f"the archive has SHA-256 {digest} and not {args.sha256.lower()}")
    try:
        unpack(path, midi, args.limit, args.seed)
    except Refused:
        if args.url:
            path.unlink()  # the next run fetches it anew
        raise
    return None if path.is_dir() else file_digest(path)


def main(argv=None):
    args = parse_arguments(argv)
    check_arguments(args)
    stage = Stage(__file__, args, config={**source_identity(args), "limit": args.limit})
    if stage.up_to_date():
        return
    data = stage.root / "data"
    new, old, final, work = (
        data / name for name in (".raw_midi.new", ".raw_midi.old", "raw_midi", ".raw_midi.work")
    )
    check_overlap(args, final)
    for name in args.names if args.source == "music21" else []:
        if name in corpus.NOTICES:
            print(f"notice: {corpus.NOTICES[name]}")
    with stage.writing():
        try:
            for folder in (new, work):
                shutil.rmtree(folder, ignore_errors=True)
            if old.exists() and not final.exists():  # killed between the two renames below
                os.replace(old, final)
            shutil.rmtree(old, ignore_errors=True)
            new.mkdir()
            midi = MidiFolder(new)
            digest = collect(args, data, midi)
            if not midi.files:
                raise Refused(
                    "it holds no MIDI file"
                    + (f", only {in_words(midi.left_out)}" if midi.left_out else "")
                    + (": give the folder that the links lead to" if midi.left_out["link"] else "")
                )
        except BaseException as error:  # nothing was changed yet: what was there before stays valid
            for folder in (new, work):
                shutil.rmtree(folder, ignore_errors=True)
            stage.marker.unlink(missing_ok=True)
            if isinstance(error, Refused):
                fail(
                    f"{stage.name}.py",
                    f"--source {args.source}: {error}",
                    "other sources: --source music21 (no network), --source FOLDER or ARCHIVE (your"
                    " own MIDI)",
                )
            raise
        if final.exists():
            os.replace(final, old)
        os.replace(hoist(new), final)
        for folder in (new, old, work):
            shutil.rmtree(folder, ignore_errors=True)
        left_out = dict(midi.left_out.most_common())
        stage.finish(
            outputs=["data/raw_midi"],
            skipped=left_out,
            extra={"archive_sha256": digest},
            counts={"files": midi.files, "bytes": midi.bytes, "renamed": midi.renamed},
            summary={
                "source": args.source,
                "files": midi.files,
                "bytes": midi.bytes,
                "left out": in_words(left_out) or "none",
            },
        )


if __name__ == "__main__":
    run(main)
