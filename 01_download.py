"""Collects music from an archive, a folder, a file, a URL or music21 into one folder of MIDI files.

Reads:  --source: lakh (default; clean_midi, about 17,000 files), lakh-full (176,581 files),
            openscore (1,500 songs and quartets, CC0), polish (8,000 scores, CC BY), music21 (music
            inside that package, no network; the default with --quick), a file, a folder, a .tar.gz,
            .tar or .zip, or a URL: MIDI, MusicXML (.mxl, .musicxml, .xml), kern (.krn), ABC, mixed
Writes: data/raw_midi/<artist or collection>/<title>.mid
        data/raw_midi.tsv               one row a file: licence, composer, work, where it is from
        data/downloads/<archive>        what came over the network; interrupted ones resume
        data/01_download.manifest.json  counts, sources with licences, SHA-256, files left out
Run:    python 01_download.py [--source openscore] [--collections bach,essen] [--limit N]
Prints last: files, bytes, licences, files left out by reason.
"""

import functools
import os
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from study.stages.arguments import fail, name_list, resolve_root, stage_parser, whole
from study.stages.files import atomic, file_digest, value_digest
from study.stages.process import run
from study.stages.stage import Stage

from music import corpus
from study.prepare.fetch import Refused, download, hoist, in_words, listing_digest
from study.prepare.gather import Collected, gather, take_embedded
from study.prepare.sources import NAMES, SOURCES, THE_SESSION, source_rows

ME = "01_download.py"
DEFAULT_COLLECTIONS = "oneills,ryans,airds,miscfolk,bach"
ALL_COLLECTIONS = ", ".join(corpus.BOOKS | corpus.SCORES)
OTHERS = "other sources: --source music21 (no network), --source FOLDER or ARCHIVE (your own music)"


def parse_arguments(argv):
    parser = stage_parser(__doc__)
    add = parser.add_argument
    kinds = "a file, folder, .tar.gz, .tar or .zip of MIDI, MusicXML, kern and ABC, or a URL"
    default = "default: lakh; with --quick: music21"
    add("--source", metavar="SOURCE", help=f"{', '.join(NAMES)}, {kinds} ({default})")
    of_music21 = f"of --source music21: {ALL_COLLECTIONS} (default: {DEFAULT_COLLECTIONS})"
    add("--collections", type=name_list, metavar="NAME[,NAME]", help=of_music21)
    add("--limit", type=whole(1), metavar="N", help="take a seeded random sample of N files")
    add("--sha256", type=str.lower, metavar="HEX", help="refuse an archive with another SHA-256")
    args = parser.parse_args(argv)
    if args.source is None:
        args.source = "music21" if args.quick else "lakh"
    if args.collections and args.source != "music21":
        parser.error("--collections is of --source music21 alone")
    args.urls, args.names = (), []
    if args.source in SOURCES:
        args.urls = SOURCES[args.source].urls
    elif re.match(r"https?://", args.source):
        args.urls = (args.source,)
    elif args.source == "music21":
        names = (args.collections or DEFAULT_COLLECTIONS).split(",")
        args.names = list(dict.fromkeys(name.strip().lower() for name in names))
    return args


def check_arguments(args, final):
    """Ends the script if the source cannot be meant. final: the folder of MIDI."""
    unknown = ", ".join(name for name in args.names if name not in corpus.BOOKS | corpus.SCORES)
    is_there, is_local = os.path.exists(args.source), not args.urls and args.source != "music21"
    if unknown:
        fail(ME, f"--collections: there is no {unknown}", f"choose from {ALL_COLLECTIONS}")
    if args.sha256 and len(args.urls) > 1:
        fail(ME, f"--sha256: --source {args.source} is more than one archive")
    if args.sha256 and not re.fullmatch("[0-9a-f]{64}", args.sha256):
        fail(ME, "--sha256 needs 64 hexadecimal digits", "see `sha256sum ARCHIVE`")
    if args.source == "music21" and not corpus.corpus_folder():
        problem = "the music21 package is not installed, or without its corpus"
        fail(ME, problem, "pip install -r requirements.txt")
    if args.source == "thesession" and not is_there:
        mend = "other folk tunes: --source music21 --collections oneills,ryans,airds"
        fail(ME, THE_SESSION, mend)
    if is_local and not is_there:
        problem = f"--source {shlex.quote(args.source)}: there is no such file or folder"
        fail(ME, problem, f"give {', '.join(NAMES)}, a file, a folder, an archive or a URL")
    folder = Path(args.source).resolve()
    overlaps = folder.is_relative_to(final) or final.is_relative_to(folder)
    if is_local and folder.is_dir() and overlaps:
        problem = f"--source {args.source} overlaps data/raw_midi, where this stage writes"
        fail(ME, problem, "move your music elsewhere, or give another --root")


def source_identity(args):
    """Returns what decides the corpus: content of a local source, address of a remote one."""
    if args.source == "music21":
        files = value_digest(corpus.collection_files(args.names))
        return {"source": "music21", "collections": args.names, "files": files}
    if args.urls:
        name = args.source if args.source in SOURCES else "url"
        return {"source": name, "url": value_digest(args.urls), "sha256": args.sha256}
    if os.path.isfile(args.source):
        return {"source": "archive", "sha256": file_digest(args.source)}
    return {"source": "folder", "listing": listing_digest(args.source)}


def collect(args, data, collected):
    """Fills a Collected; returns {archive: SHA-256}."""
    if args.source == "music21":
        take_embedded(args.names, args.limit, args.seed, collected)
        return {}
    if args.source in SOURCES:
        collected.licence = SOURCES[args.source].licence
    digests, say = {}, functools.partial(print, "01_download:", file=sys.stderr)
    paths = [download(url, data / "downloads", say) for url in args.urls]
    for path in paths or [Path(args.source)]:
        try:
            if path.is_file():
                digests[path.name] = digest = file_digest(path)
                if args.sha256 and digest != args.sha256:
                    raise Refused(f"the archive has SHA-256 {digest} and not {args.sha256}")
            gather(path, collected, args.limit, args.seed)
        except Refused:
            if args.urls:
                path.unlink()  # the next run fetches it anew
            raise
    collected.check()
    return digests


def replace(final, new, old, table):
    """Puts the new corpus, with its table, into the place of the old one."""
    kept = hoist(new)
    below = f"{kept.relative_to(new)}/"
    if final.exists():
        os.replace(final, old)
    os.replace(kept, final)
    table.seek(0)
    with atomic(final.with_name("raw_midi.tsv")) as file:
        file.writelines(row.removeprefix(below) for row in table)
    restore(final, new, old)


def restore(final, new, old):
    """Removes what a run may have left: a half-made corpus, one set aside."""
    if old.exists() and not final.exists():  # killed between the two renames of `replace`
        os.replace(old, final)
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)


def main(argv=None):
    args = parse_arguments(argv)
    final = resolve_root(args) / "data/raw_midi"
    check_arguments(args, final)
    stage = Stage(__file__, args, config={**source_identity(args), "limit": args.limit})
    if stage.up_to_date():
        return
    new, old = (final.with_name(f".raw_midi.{age}") for age in ("new", "old"))
    for name in args.names:
        if name in corpus.NOTICES:
            print(f"notice: {corpus.NOTICES[name]}")
    with stage.writing(), tempfile.TemporaryFile("w+", encoding="utf-8") as table:
        try:
            restore(final, new, old)
            new.mkdir()
            collected = Collected(new, table)
            digests = collect(args, final.parent, collected)
        except BaseException as error:  # nothing was changed yet: what was there before stays valid
            shutil.rmtree(new, ignore_errors=True)
            stage.marker.unlink(missing_ok=True)
            if isinstance(error, Refused):
                fail(ME, f"--source {args.source}: {error}", OTHERS)
            raise
        replace(final, new, old, table)
        licences = dict(collected.licences.most_common(20))
        left_out = dict(collected.left_out.most_common())
        counts = {"files": collected.files, "bytes": collected.bytes}
        words = {"licences": in_words(licences), "left out": in_words(left_out) or "none"}
        summary = {"source": args.source, **counts, **words}
        extra = {
            "archive_sha256": digests,
            "sources": source_rows(args.source, args.names, licences),
            "licences": licences,
            "left_out_files": collected.unread,
        }
        made = ["data/raw_midi", "data/raw_midi.tsv"]
        stage.finish(made, counts, left_out, summary, extra=extra)


if __name__ == "__main__":
    run(main)
