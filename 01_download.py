"""Collects MIDI files from an archive, a folder, a URL or the music21 package into one folder.

Reads:  --source: lakh (default; clean_midi, about 17,000 files), lakh-full (176,581 files), music21 (real music from
        inside the music21 package, no network; the default with --quick), a folder, a .tar.gz/.tgz/.tar/.zip or a URL
Writes: data/raw_midi/<artist or collection>/<title>.mid   Standard MIDI files
        data/downloads/<archive>                           what came over the network (kept; interrupted ones resume)
        data/01_download.manifest.json                     counts, SHA-256, every reason for a file left out
Run:    python 01_download.py [--source music21] [--collections bach,essen] [--limit N] [--sha256 HEX]
Prints last: the number of files and bytes, files left out by reason, the next command.
"""

import bz2
import collections
import contextlib
import email.utils
import errno
import gzip
import hashlib
import http.client
import lzma
import multiprocessing
import os
import re
import shutil
import signal
import stat as stat_modes
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from study.stage import Stage, fail, file_digest, progress, read_json, run, stage_parser, value_digest, write_json

ARCHIVES = {"lakh": "http://hog.ee.columbia.edu/craffel/lmd/clean_midi.tar.gz",
            "lakh-full": "http://hog.ee.columbia.edu/craffel/lmd/lmd_full.tar.gz"}
MIDI_SUFFIXES = (".mid", ".midi", ".kar")
MAX_FILES = 1_000_000            # MIDI files of one corpus; lakh-full, the largest in public use, has 176,581
MAX_MEMBERS = 2_000_000          # members of an archive, taken or not
MAX_FILE_BYTES = 16 << 20        # of one MIDI file; the largest of lakh-full is about 3 MB
MAX_TOTAL_BYTES = 64 << 30       # of a corpus; lakh-full holds about 6 GB
MAX_INFLATION = 100              # unpacked : packed bytes; MIDI compresses 3-5 : 1, a gzip bomb 1000 : 1
MAX_NAME_BYTES = 200             # of one file name; 255 is the limit of file systems, .abc and .1 must still fit
ATTEMPTS = 6                     # tries in a row that bring next to nothing: with doubling waits about 30 s
MAX_WAIT_SECONDS = 300           # longest wait that a server may ask for (Retry-After)
MIN_BYTES_PER_SECOND = 200       # a connection that brings less than this is cut and opened again
BLOCK_BYTES = 1 << 18            # read and written at a time
RESERVED = {"<": "(", ">": ")", ":": " -", '"': "'", "|": "-", "?": "", "*": ""}  # not in names on every system

BOOKS = {                        # single-voice collections of the music21 package: old tunes in ABC notation
    "oneills": ("O'Neill 1850", "oneills1850"),
    "ryans": ("Ryan's Mammoth", "ryansMammoth"),
    "airds": ("Aird's Airs", "airdsAirs"),
    "miscfolk": ("Folk", "miscFolk"),
    "essen": ("Essen", "essenFolksong"),
}
SCORES = {                       # collections with several voices: MusicXML or Humdrum Kern
    "bach": ("Bach Chorales", "bach", ".mxl"),
    "palestrina": ("Palestrina", "palestrina", ".krn"),
    "trecento": ("Trecento", "trecento", ".xml"),
    "monteverdi": ("Monteverdi", "monteverdi", ".mxl"),
}
DEFAULT_COLLECTIONS = ("oneills", "ryans", "airds", "miscfolk", "bach")
NOTICES = {
    "essen": "Essen folk songs: non-commercial use only (music21/corpus/essenFolksong/license.txt)",
    "palestrina": "Palestrina masses: the licence conditions stand in the Kern files and in music21/corpus/license.txt",
    "trecento": "Trecento pieces: encodings with their own conditions (music21/corpus/license.txt)",
    "monteverdi": "Monteverdi madrigals: encodings with their own conditions (music21/corpus/license.txt)",
}
QUICK_TUNES = 690                # single-voice tunes of --quick: 165,000 characters of ABC, of which 85 % train
QUICK_SCORES = 212               # pieces with several voices of --quick: 165,000 characters, too
TICKS = 480                      # per quarter note, in the MIDI files written here; divisible by 2, 3 and 5
TUNES_PER_CALL = 250             # of abc2midi: a crash costs no more than these


# ---------------------------------------------------------------- names and bounds

class Refused(Exception):
    """The source cannot be used; the message says why."""


class Corpus:
    """The folder that fills up with MIDI files: safe unique names, bounds, and a count of what was left out."""

    def __init__(self, folder):
        self.folder, self.files, self.bytes = folder, 0, 0
        self.left_out, self.renamed = collections.Counter(), 0
        self.taken, self.folders = set(), set()

    def add(self, name, data):
        """Writes one MIDI file under a safe name that is made from `name` ("Artist/Title.mid")."""
        if self.files >= MAX_FILES or self.bytes + len(data) > MAX_TOTAL_BYTES:
            raise Refused(f"more than {MAX_FILES:,} files or {MAX_TOTAL_BYTES >> 30} GB of MIDI: not a corpus")
        path = self.folder / self.unique(name)
        if str(path.parent) not in self.folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.folders.add(str(path.parent))
        with open(path, "xb") as file:
            file.write(data)
        self.files, self.bytes = self.files + 1, self.bytes + len(data)

    def unique(self, name):
        """A relative path for `name` that no other file has, even where letter case does not count."""
        parts = [safe_name(part) for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
        stem = re.sub(r"\.(midi?|kar)$", "", parts[-1], flags=re.IGNORECASE) or "untitled"
        folders = []
        for part in parts[:-1]:  # a folder must not have the name of a file
            while fold("/".join([*folders, part])) in self.taken:
                part += "_"
            folders.append(part)
        for number in range(len(self.taken) + 2):
            path = "/".join([*folders, f"{stem}.{number}.mid" if number else f"{stem}.mid"])
            if fold(path) not in self.taken and str(self.folder / path) not in self.folders:
                break
        self.renamed += number > 0
        self.taken.add(fold(path))
        return path


def fold(path):
    """Paths that are one file on some file system (letter case, Unicode form) give one value."""
    return hash(unicodedata.normalize("NFC", path).casefold())


def safe_name(name):
    """One path component: no control or reserved characters, valid Unicode, short enough for every file system.

    >>> safe_name("AC: DC?\\x07")
    'AC - DC'
    """
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8: old archives hold Latin-1 names
        name = name.encode("utf-8", "surrogateescape").decode("latin-1")
    name = unicodedata.normalize("NFC", name)
    name = "".join(RESERVED.get(character, character)
                   for character in name if unicodedata.category(character)[0] != "C").strip()
    suffix = re.search(r"\.\w{1,5}$", name)
    suffix = suffix.group() if suffix else ""
    stem = name[:len(name) - len(suffix)].encode()[:MAX_NAME_BYTES - len(suffix.encode())].decode("utf-8", "ignore")
    return (stem.lstrip(".").rstrip(". ") or "untitled") + suffix


def refusal(name):
    """Why a member of this name is not taken, or None."""
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[/\\]", name):
        return "absolute path"
    if ".." in parts:
        return "path with .."
    if parts[-1].startswith("._") or "__MACOSX" in parts:
        return "not MIDI"  # resource forks that macOS puts into archives
    return None if name.lower().endswith(MIDI_SUFFIXES) else "not MIDI"


def sample(names, limit, seed):
    """The `limit` names of a seeded random sample; it does not depend on their order."""
    if limit is None:
        return None
    return set(sorted(names, key=lambda name: value_digest([seed, os.fsencode(name).hex()]))[:limit])


# ---------------------------------------------------------------- download

def download(url, folder, sha256, timeout_seconds, wait_seconds):
    """The file behind `url` as a path in `folder`; resumes what an earlier call has begun, retries, checks the size."""
    folder.mkdir(parents=True, exist_ok=True)
    name = safe_name(urllib.parse.unquote(urllib.parse.urlsplit(url).path.rstrip("/").split("/")[-1]) or "archive")
    path, part, state_path = folder / name, folder / f"{name}.part", folder / f"{name}.json"
    state = read_json(state_path)
    if not isinstance(state, dict) or state.get("url") != value_digest(url):
        state = {"url": value_digest(url)}
        path.unlink(missing_ok=True)
        part.unlink(missing_ok=True)
    if path.exists():
        if state.get("sha256") == file_digest(path):
            check_digest(path, state["sha256"], sha256)
            return path
        path.unlink()
    failures, furthest = 0, part.stat().st_size if part.exists() else 0
    while True:
        started = time.monotonic()
        try:
            fetch(url, part, state, state_path, timeout_seconds)
            break
        except urllib.error.HTTPError as error:
            if error.code == 416 and part.exists():  # what we have does not belong to what the server has
                part.unlink()
                reason, asked = "the range was refused", 0
            elif error.code in (408, 425, 429) or error.code >= 500:
                reason, asked = f"HTTP {error.code} {error.reason}", retry_after(error.headers.get("Retry-After"))
            else:
                raise Refused(f"the server answers HTTP {error.code} {error.reason}") from None
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason, asked = str(getattr(error, "reason", None) or error or type(error).__name__), 0
        size = part.stat().st_size if part.exists() else 0
        useful = size - furthest > MIN_BYTES_PER_SECOND * (time.monotonic() - started)
        failures, furthest = 0 if useful else failures + 1, max(furthest, size)
        if failures >= ATTEMPTS:
            raise Refused(f"given up after {ATTEMPTS} attempts: {reason}")
        wait = min(max(wait_seconds * 2 ** max(failures - 1, 0), asked), MAX_WAIT_SECONDS)
        print(f"01_download: {reason}; {size:,} bytes are here, going on in {wait:.3g} s", file=sys.stderr)
        time.sleep(wait)
    digest = file_digest(part)
    check_digest(part, digest, sha256)
    write_json(state_path, {**state, "bytes": part.stat().st_size, "sha256": digest})
    os.replace(part, path)
    return path


def fetch(url, part, state, state_path, timeout_seconds):
    """One connection: appends to `part` what is missing. Raises if the transfer ends early; `state` keeps ETag and
    date of the version begun, so that bytes of two versions are never mixed."""
    have = part.stat().st_size if part.exists() else 0
    version = state.get("etag") or state.get("modified")
    if have and not version:  # nothing to recognise the version by
        have = 0
    headers = {"User-Agent": "music-scaling", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if not version.startswith("W/"):  # a weak ETag must not stand in If-Range; it is compared below
            headers["If-Range"] = version
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout_seconds) as answer:
        if urllib.parse.urlsplit(answer.url).scheme not in ("http", "https"):
            raise Refused("the address leads away from http(s)")
        now = {"etag": answer.headers.get("ETag"), "modified": answer.headers.get("Last-Modified")}
        length = answer.headers.get("Content-Length")
        total = int(length) if length and length.isdigit() else None
        if have and answer.status == 206:
            content_range = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
            same = all(now[what] in (None, state.get(what)) for what in now)
            if not content_range or int(content_range[1]) != have or not same:
                part.unlink()
                raise ConnectionError("the file on the server has changed; starting again")
            total = int(content_range[2]) if content_range[2] != "*" else total and have + total
        elif answer.status == 200:
            have = 0
            state.update(now)
            write_json(state_path, state)
        else:
            raise Refused(f"the server answers HTTP {answer.status} to a plain request")
        free = shutil.disk_usage(part.parent).free
        if total and total - have > free:
            raise Refused(f"the archive needs {total - have:,} bytes and the disk has {free:,} left")
        copy_answer(answer, part, have, total, timeout_seconds)
    if total is not None and part.stat().st_size != total:
        raise ConnectionError(f"the connection ended at {part.stat().st_size:,} of {total:,} bytes")


def copy_answer(answer, part, have, total, timeout_seconds):
    """Streams a response into `part` from byte `have` on."""
    window_start, window_bytes = time.monotonic(), 0
    with open(part, "r+b" if have else "wb") as file, \
            progress(total=total, desc=part.stem, unit="B") as bar:
        file.seek(have)
        file.truncate()
        bar.update(have)
        while block := answer.read1(BLOCK_BYTES):
            if have == 0 and re.match(rb"\s*(<!doctype|<html|<head|<\?xml)", block[:200], re.IGNORECASE):
                raise Refused("the server sent a web page in place of an archive")
            file.write(block)
            have += len(block)
            if have > MAX_TOTAL_BYTES:
                raise Refused(f"the server sends more than {MAX_TOTAL_BYTES >> 30} GB")
            bar.update(len(block))
            window_bytes += len(block)
            if time.monotonic() - window_start > timeout_seconds:
                if window_bytes < MIN_BYTES_PER_SECOND * timeout_seconds:
                    raise ConnectionError(f"only {window_bytes:,} bytes in {timeout_seconds:.3g} s")
                window_start, window_bytes = time.monotonic(), 0


def retry_after(value):
    """Seconds that a Retry-After header asks for (a number or a date); 0 if it says nothing."""
    if not value:
        return 0
    with contextlib.suppress(ValueError):
        return max(0, int(value))
    with contextlib.suppress(ValueError, TypeError):
        return max(0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return 0


def check_digest(path, digest, wanted):
    """Ends the script if the archive is not the one that --sha256 names."""
    if wanted and digest != wanted.lower():
        path.unlink()
        raise Refused(f"the archive has SHA-256 {digest} and not {wanted.lower()}; it was deleted")


# ---------------------------------------------------------------- archives and folders

class Bounded:
    """A readable stream that ends with Refused when more than `limit` bytes were read from it."""

    def __init__(self, file, limit):
        self.file, self.left = file, limit

    def read(self, size=-1):
        data = self.file.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise Refused("the archive unpacks to far more than MIDI files do (a bomb?)")
        return data


def archive_kind(path):
    """"zip", "tar" or the reason why the file is neither."""
    with open(path, "rb") as file:
        head = file.read(512)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")) or head[257:262] == b"ustar":
        return "tar"
    if head.startswith(b"MThd"):
        raise Refused("this is a single MIDI file: give its folder")
    what = "a web page" if head.lstrip()[:1] == b"<" else "empty" if not head else "no .tar.gz, .tar or .zip"
    raise Refused(f"the archive is {what}")


def tar_members(path, corpus):
    """Yields (name, read) of the regular members of a tar file in one pass over the stream; names may be hostile."""
    with open(path, "rb") as raw:
        head = raw.read(6)
        raw.seek(0)
        opener = next((opener for magic, opener in ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open),
                                                    (b"\xfd7zXZ", lzma.open)) if head.startswith(magic)), None)
        limit = (64 << 20) + MAX_INFLATION * path.stat().st_size
        stream = Bounded(opener(raw) if opener else raw, limit)
        with tarfile.open(fileobj=stream, mode="r|", errors="surrogateescape") as tar:
            for number, member in enumerate(tar):
                tar.members = []  # else 200,000 members stay in memory
                if number >= MAX_MEMBERS:
                    raise Refused(f"the archive has more than {MAX_MEMBERS:,} members")
                if member.isdir():
                    continue
                kind = ("link" if member.issym() or member.islnk() else
                        "device or special file" if not member.isreg() or member.issparse() else None)
                if kind or member.size > MAX_FILE_BYTES:
                    corpus.left_out[kind or "too large"] += 1
                    continue
                yield member.name, lambda: tar.extractfile(member).read()
            while rest := stream.read(BLOCK_BYTES):  # to the end, so that the checksum of gzip is compared
                if rest.strip(b"\0"):
                    raise tarfile.ReadError("data after the end of the archive")


def zip_members(path, corpus):
    """Yields (name, read) of the regular members of a zip file."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > MAX_MEMBERS:
            raise Refused(f"the archive has more than {MAX_MEMBERS:,} members")
        if sum(member.file_size for member in members) > (64 << 20) + MAX_INFLATION * path.stat().st_size:
            raise Refused("the archive unpacks to far more than MIDI files do (a bomb?)")
        for member in members:
            mode = stat_modes.S_IFMT(member.external_attr >> 16)
            if member.is_dir():
                continue
            kind = ("link" if mode == stat_modes.S_IFLNK else "encrypted" if member.flag_bits & 1 else
                    "device or special file" if mode not in (0, stat_modes.S_IFREG) else None)
            if kind or member.file_size > MAX_FILE_BYTES:
                corpus.left_out[kind or "too large"] += 1
                continue
            yield member.filename, lambda: read_bounded(archive, member)


def read_bounded(archive, member):
    """A zip member's bytes; the size in its header is not believed."""
    with archive.open(member) as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise Refused(f"a member of the archive is larger than it says")
    return data


def folder_members(path, corpus):
    """Yields (name, read) of the files below a folder in sorted order; links are not followed."""
    folders = [""]
    while folders:
        below = folders.pop()
        try:
            entries = sorted(os.scandir(path / below), key=lambda entry: entry.name)
        except PermissionError:
            corpus.left_out["unreadable folder"] += 1
            continue
        folders += [below + entry.name + "/" for entry in reversed(entries) if entry.is_dir(follow_symlinks=False)]
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                continue
            if not entry.is_file(follow_symlinks=False):
                corpus.left_out["link" if entry.is_symlink() else "device or special file"] += 1
            elif entry.name.lower().endswith(MIDI_SUFFIXES) and entry.stat().st_size > MAX_FILE_BYTES:
                corpus.left_out["too large"] += 1
            else:
                yield below + entry.name, lambda: (path / below / entry.name).read_bytes()


def unpack(path, corpus, limit, seed):
    """Fills `corpus` from a folder or an archive; a `limit` costs a first pass over the names."""
    members = folder_members if path.is_dir() else {"tar": tar_members, "zip": zip_members}[archive_kind(path)]
    try:
        chosen = sample((name for name, _ in members(path, Corpus(None)) if not refusal(name)), limit, seed)
        for name, read in progress(members(path, corpus), desc="files", unit="file"):
            reason = refusal(name)
            if reason:
                corpus.left_out[reason] += 1
            elif chosen is None or name in chosen:
                try:
                    data = read()
                except PermissionError:
                    corpus.left_out["unreadable file"] += 1
                    continue
                corpus.add(os.fsencode(name).decode("utf-8", "surrogateescape"), data)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, ValueError,
            struct.error, RuntimeError) as error:
        raise Refused(f"the archive is damaged: {error}") from None
    except OSError as error:  # of bz2 (no number) or of a seek to where a broken zip file points; not of the disk
        if error.errno in (None, errno.EINVAL):
            raise Refused(f"the archive is damaged: {error}") from None
        raise


def hoist(folder):
    """The folder to keep: one that holds nothing but a single folder of folders (clean_midi/<Artist>/) is left out."""
    entries = list(os.scandir(folder))
    while len(entries) == 1 and entries[0].is_dir():
        below = list(os.scandir(entries[0].path))
        if not below or not all(entry.is_dir() for entry in below):
            break
        folder, entries = Path(entries[0].path), below
    return folder


# ---------------------------------------------------------------- the embedded corpus: tunes in ABC

HEAD = r"[_^=]*[A-Ga-gzx][,']*"
ORNAMENT = re.compile(  # chord symbols and fingerings, graces, decorations, spacers, line continuations; not fields
    r"""(?P<field>\[[A-Za-z]:[^\]]*\])|"[^"\n]*"|\{[^}\n]*\}|![a-zA-Z][^!\s]*!|[H-Wh-wy`~.!*]|\\$""", re.MULTILINE)
NOTE = re.compile(r"([_^=]*[A-Ga-gzx][,']*|\[[^\]:]*\])(\d*)(/*)(\d*)")
TOKEN = re.compile(r"\[(?P<field>[A-Za-z]:[^\]]*)\]|\((?P<tuplet>\d)(?::(?P<q>\d?))?(?::(?P<r>\d?))?"
                   rf"|(?P<note>{NOTE.pattern})|(?P<broken>>+|<+)")
BAR_LINE = re.compile(r"(:*\|[|\]:]*(?:\[?[1-9][-,\d]*)?|::+|\[\||\[[1-9][-,\d]*)")


def tunes_of(text):
    """[(title, header fields, body lines)] of an ABC book."""
    tunes = []
    for block in re.split(r"(?m)^(?=X:)", text.replace("\r\n", "\n").replace("\r", "\n"))[1:]:
        header, body = {}, []
        for line in block.split("\n"):
            line = re.sub(r"(?<!\\)%.*", "", line).rstrip()
            field = re.match(r"([A-Za-z]):\s*(.*)", line)
            if field and "K" not in header:
                header.setdefault(field[1], field[2])
            elif line and "K" in header:
                if not field or field[1] in "KMLQV":
                    body.append(line)
            elif not line and "K" in header and body:
                break
        tunes.append((header.get("T", "") or "untitled", header, body))
    return tunes


def played_once(body):
    """Bars of a tune as printed, each section once: repeat signs go, of several endings the last one stays.

    A repeat played out says everything twice: it doubles the text, brings no new music and teaches a model to copy.
    Returns [(bar line before, text)].
    """
    text = re.sub(r"(?m)^([KMLQ]):\s*(.*)$", r"[\1:\2]", "\n".join(body))
    text = re.sub(r"=20|(?<=\s)=(?=\s|\|?$)", "", text.replace("[|]", "|"), flags=re.MULTILINE)  # left by old e-mail
    text = text.replace("=3D", "=")
    text = ORNAMENT.sub(lambda match: match["field"] or "", text).replace("\n", " ")
    text = re.sub(rf"({HEAD})>({HEAD})/({HEAD})/(?![\d/])", r"\g<1>3/2\2/4\3/4", text)  # d>c/B/ means d3/2c/4B/4
    text = re.sub(rf"({HEAD}>{HEAD})/(?![\d/])", r"\1", text)                             # d>c/ means d3/2c/
    pieces = BAR_LINE.split(text)
    bars, ending, before = [], None, ""
    for index, piece in enumerate(pieces):
        if index % 2:
            number = re.search(r"[1-9]", piece)
            if number:
                if number[0] == "1":
                    ending = len(bars)
                elif ending is not None:
                    fields = "".join(re.findall(r"\[[KML]:[^\]]*\]", "".join(bar for _, bar in bars[ending:])))
                    del bars[ending:]
                    bars += [("|", fields)] if fields else []
            elif len(piece) > 1:
                ending = None if ":" not in piece else ending
            before = piece
        elif piece.strip():
            if bars and not NOTE.search(re.sub(r"\[[A-Za-z]:[^\]]*\]", "", bars[-1][1])):
                piece = bars.pop()[1] + piece
            bars.append((before, piece.strip()))
    return bars


def bar_length(text, unit):
    """(length of a bar in whole notes, unit note length after it); the unit changes with inline L: fields."""
    lengths, tuplet_left, tuplet_factor, broken = [], 0, Fraction(1), None
    for token in TOKEN.finditer(text):
        if token["field"]:
            if token["field"].startswith("L:"):
                unit = Fraction(token["field"][2:].strip())
        elif token["tuplet"]:
            p = int(token["tuplet"])
            q = int(token["q"] or {2: 3, 3: 2, 4: 3, 6: 2, 8: 3}.get(p, 2))
            tuplet_left, tuplet_factor = int(token["r"] or p), Fraction(q, max(p, 1))
        elif token["broken"]:
            broken = token["broken"]
        elif token["note"]:
            _, times, slashes, over = NOTE.fullmatch(token["note"]).groups()
            length = unit * int(times or 1) / (int(over) if over else 2 ** len(slashes))
            if token["note"].startswith("["):
                inner = NOTE.search(token["note"][1:])
                if inner and (inner[2] or inner[3]):
                    length *= Fraction(int(inner[2] or 1), int(inner[4] or 2 ** len(inner[3])))
            if tuplet_left:
                length, tuplet_left = length * tuplet_factor, tuplet_left - 1
            if broken and lengths:
                small = Fraction(1, 2 ** len(broken))
                long, short = (2 - small, small) if broken[0] == ">" else (small, 2 - small)
                lengths[-1], length = lengths[-1] * long, length * short
            broken = None
            lengths.append(length)
    return sum(lengths, Fraction(0)), unit


def meter_of(text):
    """The length of a bar in whole notes; None if the meter is free or cannot be read."""
    text = text.strip()
    if text in ("C", "C|"):
        return Fraction(1)
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    return Fraction(int(match[1]), int(match[2])) if match and int(match[1]) and int(match[2]) else None


def set_in_bars(bars, meter_text, unit):
    """ABC text of the bars, with rests where the bars do not add up, so that bar lines in MIDI fall where they are.

    A pickup gets rests before it. A short bar whose rest is the pickup of the next section is left alone; other
    short bars are filled up. An overlong bar gets a meter of its own.
    """
    if not meter_of(meter_text):
        return " | ".join(text for _, text in bars)
    rows = []
    for _, text in bars:
        length, unit = bar_length(text, unit)
        for field in re.findall(r"\[M:([^\]]*)\]", text):
            meter_text = field if meter_of(field) else meter_text
        rows.append((text, length, meter_text, unit))
    done, index = [], 0
    while index < len(rows):
        text, length, meter_text, unit = rows[index]
        gap = meter_of(meter_text) - length
        if gap > 0 and index == 0:
            text = re.sub(r"^((?:\[[A-Za-z]:[^\]]*\]\s*)*)", lambda fields: fields[0] + rest(gap, unit) + " ", text)
        elif gap > 0 and index + 1 < len(rows):
            if rows[index + 1][1] == gap:
                done.append(text)
                index += 1
                text = rows[index][0]
            else:
                text += " " + rest(gap, unit)
        elif gap < 0 and length % meter_of(meter_text):
            text = f"[M:{length.numerator}/{length.denominator}]{text}|[M:{meter_text}]"
        done.append(text)
        index += 1
    return "|\n".join(done) + "|"


def rest(length, unit):
    """An ABC rest of `length` whole notes."""
    units = length / unit
    return f"z{units.numerator}/{units.denominator}"


def prepared_tune(number, header, body):
    """ABC text for abc2midi: no chord symbols, graces, ornaments, repeats or swing; bars as printed."""
    if "K" not in header:
        raise ValueError("no K: field")
    meter_text = re.sub(r"\s+", "", header.get("M", "4/4"))
    meter = meter_of(meter_text)
    unit = Fraction(re.sub(r"\s+", "", header["L"])) if re.fullmatch(r"\s*1\s*/\s*\d+\s*", header.get("L", "")) else \
        Fraction(1, 16) if meter is not None and meter < Fraction(3, 4) else Fraction(1, 8)
    tempo = [f"Q:{header['Q']}"] if "Q" in header else []
    fields = [f"X:{number}", f"M:{meter_text}", f"L:{unit}", *tempo, "%%MIDI chordattack 0", f"K:{header['K']}"]
    if any(line.startswith("V:") for line in body):  # voices line by line: left as they are
        text = re.sub(r'"[^"\n]*"|\{[^}\n]*\}|:(?=\|)|(?<=\|):', "", "\n".join(body))
    else:
        text = set_in_bars(played_once(body), meter_text, unit)
    if not re.search(r"[A-Ga-g]", re.sub(r"\[[A-Za-z]:[^\]]*\]", "", text)):
        raise ValueError("no notes")
    return "\n".join([*fields, text]) + "\n\n"


def compile_tunes(abc2midi, folder, tunes):
    """Compiles prepared tunes [(number, text)] with abc2midi in a folder of their own; {number: MIDI bytes}."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    (folder / "tunes.abc").write_text("".join(text for _, text in tunes), encoding="utf-8")
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run([abc2midi, "tunes.abc", "-NGUI", "-NGRA", "-NFER", "-NCOM", "-silent"], cwd=folder, timeout=120,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    found = {number: folder / f"tunes{number}.mid" for number, _ in tunes}
    midi = {number: path.read_bytes() for number, path in found.items() if path.exists()}
    shutil.rmtree(folder, ignore_errors=True)
    return midi


# ---------------------------------------------------------------- the embedded corpus: scores

def score_to_midi(path):
    """MIDI bytes of a score in MusicXML (plain or .mxl): a track per part and voice, bars as in the score, repeats
    played once. Graces are left out. Raises ValueError if it has no notes."""
    from symusic import KeySignature, Note, Score, Tempo, TimeSignature, Track
    if path.suffix == ".mxl":
        with zipfile.ZipFile(path) as archive:
            container = ElementTree.fromstring(archive.read("META-INF/container.xml"))
            xml = ElementTree.fromstring(archive.read(container.find(".//{*}rootfile").get("full-path")))
    else:
        xml = ElementTree.parse(path).getroot()
    title = xml.findtext("movement-title") or xml.findtext("work/work-title") or ""
    parts = xml.findall("part")
    names = {part.get("id"): (part.findtext("part-name") or "").strip() for part in xml.iter("score-part")}
    starts, pickup = measure_starts(parts)
    score, seen, voices = Score(TICKS), set(), {}
    for part in parts:
        divisions, transpose, ties = 1, 0, {}
        for start, measure in zip(starts, part.findall("measure")):
            now, onset = start, start
            for element in measure:
                if element.tag == "attributes":
                    divisions = int(element.findtext("divisions") or divisions)
                    if element.find("transpose") is not None:
                        transpose = int(element.findtext("transpose/chromatic") or 0) + 12 * int(
                            element.findtext("transpose/octave-change") or 0)
                    at = ticks(start + pickup) if start else 0
                    if element.find("time/beats") is not None and ("M", at) not in seen:
                        seen.add(("M", at))
                        beats = sum(int(beat) for beat in element.findtext("time/beats").split("+"))
                        score.time_signatures.append(TimeSignature(at, beats, int(element.findtext("time/beat-type"))))
                    if element.find("key/fifths") is not None and ("K", at) not in seen and not transpose:
                        seen.add(("K", at))
                        minor = element.findtext("key/mode") == "minor"
                        score.key_signatures.append(KeySignature(at, int(element.findtext("key/fifths")), int(minor)))
                elif element.tag in ("backup", "forward"):
                    step = Fraction(element.findtext("duration")) / divisions
                    now += step if element.tag == "forward" else -step
                elif element.tag == "direction" and element.find("sound") is not None:
                    tempo = element.find("sound").get("tempo")
                    if tempo and not score.tempos:
                        score.tempos.append(Tempo(0, float(tempo)))
                elif element.tag == "note" and element.find("grace") is None:
                    length = Fraction(element.findtext("duration") or 0) / divisions
                    if element.find("chord") is None:
                        onset, now = now, now + length
                    if element.find("pitch") is None or element.find("cue") is not None:
                        continue
                    pitch = transpose + midi_pitch(element.find("pitch"))
                    notes = voices.setdefault((part.get("id"), element.findtext("voice") or "1"), [])
                    tie = {end.get("type") for end in element.findall("tie")}
                    if "stop" in tie and pitch in ties and ties[pitch][1] == onset:
                        ties[pitch][1] = onset + length
                    else:
                        notes.append([onset, onset + length, pitch])
                        ties[pitch] = notes[-1]
    for (part, _), notes in voices.items():
        track = Track(names.get(part, ""), 0, False)
        for start, end, pitch in notes:
            track.notes.append(Note(ticks(start + pickup), ticks(end) - ticks(start), pitch, 90))
        score.tracks.append(track)
    if not voices:
        raise ValueError("no notes")
    if not score.tempos:
        score.tempos.append(Tempo(0, 100))
    return title, score.dumps_midi()


def measure_starts(parts):
    """Onsets (quarter notes) of the measures, from the longest part in each, and the rest before a pickup measure."""
    lengths, meter = [], Fraction(4)
    for part in parts:
        divisions = 1
        for index, measure in enumerate(part.findall("measure")):
            now = longest = Fraction(0)
            for element in measure:
                if element.tag == "attributes":
                    divisions = int(element.findtext("divisions") or divisions)
                    if index == 0 and element.find("time/beats") is not None:
                        meter = Fraction(sum(int(beat) for beat in element.findtext("time/beats").split("+")) * 4,
                                         int(element.findtext("time/beat-type")))
                elif element.find("duration") is not None and element.find("chord") is None:
                    now += Fraction(element.findtext("duration")) / divisions * (-1 if element.tag == "backup" else 1)
                    longest = max(longest, now)
            lengths += [Fraction(0)] * (index + 1 - len(lengths))
            lengths[index] = max(lengths[index], longest)
    starts = [sum(lengths[:index], Fraction(0)) for index in range(len(lengths))]
    return starts, max(meter - lengths[0], Fraction(0)) if lengths else Fraction(0)


def midi_pitch(pitch):
    """The MIDI number of a MusicXML <pitch>."""
    step = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}[pitch.findtext("step")]
    return 12 * (int(pitch.findtext("octave")) + 1) + step + round(float(pitch.findtext("alter") or 0))


def ticks(quarters):
    return round(quarters * TICKS)


def kern_to_midi(path):
    """MIDI bytes of a Humdrum Kern score, by way of music21 (0.5 s a piece)."""
    from music21 import converter, midi
    score = converter.parse(path, forceSource=True)
    title = getattr(score.metadata, "title", None) or path.stem
    return f"{title} {path.stem}", midi.translate.music21ObjectToMidiFile(score).writestr()


def convert_score(path):
    """(title, MIDI bytes or None, reason); never raises: a score that cannot be read is one counted row."""
    try:
        title, data = (kern_to_midi if path.suffix == ".krn" else score_to_midi)(path)
        return title, data, None
    except Exception as error:
        return path.stem, None, f"score: {type(error).__name__}"


def start_worker():
    """Pool initialiser: Ctrl-C is the parent's business, and a worker ends with its parent."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


# ---------------------------------------------------------------- the embedded corpus

def corpus_folder():
    """The corpus folder inside the music21 package, which is not imported (1 s)."""
    spec = find_spec("music21")
    folder = spec and Path(spec.origin).parent / "corpus"
    return folder if folder and folder.is_dir() else None


def embedded(names, quick, limit, seed, corpus, work):
    """Fills `corpus` from the collections `names` of the music21 package."""
    package = corpus_folder()
    work.mkdir(exist_ok=True)
    tunes = [(name, title, header, body) for name in names if name in BOOKS
             for book in sorted((package / BOOKS[name][1]).glob("*.abc"))
             for title, header, body in tunes_of(book.read_text(encoding="utf-8", errors="replace"))]
    scores = [(name, path) for name in names if name in SCORES
              for path in sorted((package / SCORES[name][1]).rglob("*" + SCORES[name][2]))]
    keys = [f"tune {index}" for index in range(len(tunes))] + [f"score {index}" for index in range(len(scores))]
    chosen = sample(keys, limit, seed) or set(keys)
    if quick and limit is None:
        chosen = sample(keys[:len(tunes)], QUICK_TUNES, seed) | sample(keys[len(tunes):], QUICK_SCORES, seed)
    prepared = []
    for number, (name, title, header, body) in enumerate(tunes, 1):
        if f"tune {number - 1}" in chosen:
            try:
                prepared.append((number, prepared_tune(number, header, body)))
            except (ValueError, ZeroDivisionError) as error:
                corpus.left_out[f"{name}: {error}"] += 1
    abc2midi = Path(find_spec("symusic").origin).parent / "bin" / "abc2midi"
    calls = [prepared[start:start + TUNES_PER_CALL] for start in range(0, len(prepared), TUNES_PER_CALL)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda call: compile_tunes(abc2midi, work, call), calls)
        for call, midi in zip(calls, results):
            for number, _ in call:
                name, title, _, _ = tunes[number - 1]
                if number in midi:
                    corpus.add(f"{BOOKS[name][0]}/{title.replace('/', '-')}.mid", midi[number])
                else:
                    corpus.left_out[f"{name}: abc2midi wrote nothing"] += 1
    scores = [score for index, score in enumerate(scores) if f"score {index}" in chosen]
    workers = min(os.cpu_count(), -(-len(scores) // 8)) or 1
    with multiprocessing.Pool(workers, start_worker) as pool:
        results = pool.imap(convert_score, [path for _, path in scores], chunksize=8)
        for (name, path), (title, data, reason) in progress(zip(scores, results), len(scores), "scores", "score"):
            if data is None:
                corpus.left_out[f"{name}: {reason}"] += 1
            else:
                title = path.stem if not title or path.stem in title else f"{title} ({path.stem})"  # "bwv66.6.mxl"
                corpus.add(f"{SCORES[name][0]}/{title.replace('/', '-')}.mid", data)


# ---------------------------------------------------------------- main

def parse_arguments(argv):
    parser = stage_parser(__doc__)
    parser.add_argument("--source", metavar="SOURCE",
                        help="lakh, lakh-full, music21, a folder, a .tar.gz, .tar or .zip file, or a URL "
                             "(default: lakh; with --quick: music21)")
    parser.add_argument("--collections", metavar="NAME[,NAME]", default=",".join(DEFAULT_COLLECTIONS),
                        help=f"of --source music21: {', '.join([*BOOKS, *SCORES])} "
                             f"(default: {','.join(DEFAULT_COLLECTIONS)})")
    parser.add_argument("--limit", type=int, metavar="N", help="take a seeded random sample of N files")
    parser.add_argument("--sha256", metavar="HEX", help="refuse an archive with another SHA-256")
    parser.add_argument("--timeout", type=float, default=60, metavar="SECONDS",
                        help="a connection that is silent for so long is opened again (default: 60)")
    parser.add_argument("--retry-wait", type=float, default=1, metavar="SECONDS",
                        help="wait before the first retry, doubled for each further one (default: 1)")
    args = parser.parse_args(argv)
    args.source = args.source or ("music21" if args.quick else "lakh")
    args.url = ARCHIVES.get(args.source) or (args.source if re.match(r"https?://", args.source) else None)
    args.names = list(dict.fromkeys(name.strip().lower() for name in args.collections.split(",") if name.strip()))
    return args


def check_arguments(args):
    """Ends the script, before anything is written, if the source cannot be what the user means."""
    unknown = [name for name in args.names if name not in BOOKS and name not in SCORES]
    if unknown or not args.names:
        fail("01_download.py", f"--collections: there is no {', '.join(unknown) or 'name'}",
             f"choose from {', '.join([*BOOKS, *SCORES])}")
    if args.limit is not None and args.limit < 1:
        fail("01_download.py", "--limit must be at least 1", "leave it out for all files")
    if args.sha256 and not re.fullmatch("[0-9a-fA-F]{64}", args.sha256):
        fail("01_download.py", "--sha256 needs 64 hexadecimal digits", "see `sha256sum ARCHIVE`")
    if args.source == "music21" and not corpus_folder():
        fail("01_download.py", "the music21 package is not installed, or without its corpus",
             "pip install -r requirements.txt")
    if args.source != "music21" and not args.url:
        path = Path(args.source)
        if not path.exists():
            fail("01_download.py", f"--source {args.source}: there is no such file or folder",
                 "give lakh, lakh-full, music21, a folder, an archive or a URL")
        if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
            fail("01_download.py", f"--source {args.source}: no permission to read it", f"chmod -R u+rX {args.source}")


def source_identity(args):
    """What decides the corpus, as a JSON value: content of a local source, address of a remote one; no paths."""
    if args.source == "music21":
        folder = corpus_folder()
        books = [folder / (BOOKS.get(name) or SCORES[name])[1] for name in args.names]
        return {"source": "music21", "collections": args.names,
                "files": value_digest([[str(path.relative_to(folder)), path.stat().st_size]
                                       for book in books for path in sorted(book.rglob("*")) if path.is_file()])}
    if args.url:
        return {"source": args.source if args.source in ARCHIVES else "url", "url": value_digest(args.url),
                "sha256": (args.sha256 or "").lower() or None}
    path = Path(args.source)
    if path.is_file():
        return {"source": "archive", "sha256": file_digest(path)}
    listing = hashlib.sha256()
    for below, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            status = os.lstat(os.path.join(below, name))
            listing.update(os.fsencode(f"{os.path.relpath(os.path.join(below, name), path)}\0{status.st_size}\0"
                                       f"{status.st_mtime_ns}\0"))
    return {"source": "folder", "listing": listing.hexdigest()}


def collect(args, data, corpus):
    """Fills the corpus from the source; returns the archive's SHA-256, or None."""
    if args.source == "music21":
        embedded(args.names, args.quick, args.limit, args.seed, corpus, data / ".raw_midi.work")
        return None
    path = Path(args.source)
    if args.url:
        path = download(args.url, data / "downloads", args.sha256, args.timeout, args.retry_wait)
    elif path.is_file() and args.sha256:
        digest = file_digest(path)
        if digest != args.sha256.lower():
            raise Refused(f"the archive has SHA-256 {digest} and not {args.sha256.lower()}")
    try:
        unpack(path, corpus, args.limit, args.seed)
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
    new, old, final, work = (data / name for name in (".raw_midi.new", ".raw_midi.old", "raw_midi", ".raw_midi.work"))
    if args.source not in ("music21", *ARCHIVES) and not args.url and Path(args.source).is_dir():
        source = Path(args.source).resolve()
        if source in (final, *final.parents) or final in source.parents:
            fail(stage.name + ".py", f"--source {args.source} overlaps data/raw_midi, where this stage writes",
                 "move your MIDI files elsewhere, or give another --root")
    for name in args.names if args.source == "music21" else []:
        if name in NOTICES:
            print(f"notice: {NOTICES[name]}")
    with stage.writing():
        try:
            for folder in (new, work):
                shutil.rmtree(folder, ignore_errors=True)
            if old.exists() and not final.exists():  # killed between the two renames below
                os.replace(old, final)
            shutil.rmtree(old, ignore_errors=True)
            new.mkdir()
            corpus = Corpus(new)
            digest = collect(args, data, corpus)
            if not corpus.files:
                raise Refused("it holds no MIDI file" + (f" ({dict(corpus.left_out)})" if corpus.left_out else ""))
        except BaseException as error:  # nothing was changed yet: what was there before stays valid
            for folder in (new, work):
                shutil.rmtree(folder, ignore_errors=True)
            stage.marker.unlink(missing_ok=True)
            if isinstance(error, Refused):
                fail(f"{stage.name}.py", f"--source {args.source}: {error}",
                     "other sources: --source music21 (no network), --source FOLDER or ARCHIVE (your own MIDI)")
            raise
        if final.exists():
            os.replace(final, old)
        os.replace(hoist(new), final)
        for folder in (new, old, work):
            shutil.rmtree(folder, ignore_errors=True)
        left_out = dict(corpus.left_out.most_common())
        stage.finish(outputs=["data/raw_midi"], skipped=left_out, extra={"archive_sha256": digest},
                     counts={"files": corpus.files, "bytes": corpus.bytes, "renamed": corpus.renamed},
                     summary={"source": args.source, "files": corpus.files, "bytes": corpus.bytes,
                              "left out": ", ".join(f"{n:,} {reason}" for reason, n in left_out.items()) or "none"})


if __name__ == "__main__":
    run(main)
