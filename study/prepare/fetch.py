"""Downloads, archives and folders: MIDI files from anywhere into one folder of files with safe
names.

A source is hostile until shown otherwise. A download goes on where it broke, across runs too, never
mixes two versions of a file, and is checked by size and digest. From an archive nothing but regular
MIDI files is taken, under names made
here: no path, link or device of an archive ever reaches the disk, and members, bytes and inflation
are bounded.

Both are our own because the libraries do one half each: none of those that this project needs
anyway resumes a download by its validators, and `tarfile.extractall(filter="data")` keeps names,
has no bounds, and unpacks what is no MIDI.
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
import os
import re
import shutil
import stat as stat_modes
import struct
import sys
import tarfile
import time
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from pathlib import Path

from study.stages.stage import file_digest, progress, read_json, value_digest, write_json

MIDI_SUFFIXES = (".mid", ".midi", ".kar", ".rmi")
# MIDI files of one corpus; lakh-full, the largest in public use, has 176,581
MAX_FILES = 1_000_000
MAX_MEMBERS = 2_000_000  # members of an archive, taken or not
MAX_FILE_BYTES = 16 << 20  # of one MIDI file; the largest of lakh-full is about 3 MB
MAX_TOTAL_BYTES = 64 << 30  # of a corpus; lakh-full holds about 6 GB
# unpacked : packed bytes; MIDI compresses 3-5 : 1, a gzip bomb 1000 : 1
MAX_INFLATION = 100
# of one file name; 255 is the limit of file systems, .abc and .1 must still fit
MAX_NAME_BYTES = 200
# tries in a row that bring next to nothing: with doubling waits about 30 s
ATTEMPTS = 6
MAX_WAIT_SECONDS = 300  # longest wait that a server may ask for (Retry-After)
MIN_BYTES_PER_SECOND = 200  # a connection that brings less than this is cut and opened again
BLOCK_BYTES = 1 << 18  # read and written at a time
# not in names on every system
RESERVED = {"<": "(", ">": ")", ":": " -", '"': "'", "|": "-", "?": "", "*": ""}


class Refused(Exception):
    """The source cannot be used; the message says why."""


# ---------------------------------------------------------------- names and bounds


class MidiFolder:
    """The folder that fills up with MIDI files: safe unique names, bounds, and a count of what was
    left out.

    suffix: of the files' names here; another one than .mid if the folder takes other files."""

    def __init__(self, folder, suffix=".mid"):
        self.folder, self.suffix, self.files, self.bytes = folder, suffix, 0, 0
        self.left_out, self.renamed = collections.Counter(), 0
        self.taken, self.folders = set(), set()

    def add(self, name, data):
        """Writes one MIDI file under a safe name that is made from `name` ("Artist/Title.mid")."""
        if self.files >= MAX_FILES or self.bytes + len(data) > MAX_TOTAL_BYTES:
            raise Refused(
                f"more than {MAX_FILES:,} files or {MAX_TOTAL_BYTES >> 30} GB of MIDI: not a corpus"
            )
        path = self.folder / self.unique(name)
        if str(path.parent) not in self.folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.folders.add(str(path.parent))
        with open(path, "xb") as file:
            file.write(data)
        self.files, self.bytes = self.files + 1, self.bytes + len(data)

    def take(self, name, data, reason):
        """Adds a file, or counts the reason why there is none."""
        if data is None:
            self.left_out[reason] += 1
        else:
            self.add(name, data)

    def unique(self, name):
        """A relative path for `name` that no other file has, even where letter case does not
        count."""
        parts = [
            safe_name(part) for part in name.replace("\\", "/").split("/") if part not in ("", ".")
        ]
        stem = re.sub(r"\.(midi?|kar|rmi|abc)$", "", parts[-1], flags=re.IGNORECASE) or "untitled"
        folders = []
        for part in parts[:-1]:  # a folder must not have the name of a file
            while fold("/".join([*folders, part])) in self.taken:
                part += "_"
            folders.append(part)
        for number in range(len(self.taken) + 2):
            path = "/".join(
                [*folders, f"{stem}.{number}{self.suffix}" if number else f"{stem}{self.suffix}"]
            )
            if fold(path) not in self.taken and str(self.folder / path) not in self.folders:
                break
        self.renamed += number > 0
        self.taken.add(fold(path))
        return path


def in_words(left_out):
    """{reason: number of files} as a part of a sentence.

    >>> in_words({"link": 2, "not MIDI": 1})
    '2 links, 1 not MIDI'
    """
    things = ("link", "file", "folder")  # the others are no nouns: "not MIDI", "too large"
    return ", ".join(
        f"{n:,} {reason}" + "s" * (n > 1 and reason.endswith(things))
        for reason, n in left_out.items()
    )


def fold(path):
    """Paths that are one file on some file system (letter case, Unicode form) give one value: a
    number, to spare memory with very many files (a chance collision costs a name a needless
    `.1`)."""
    return hash(unicodedata.normalize("NFC", path).casefold())


def safe_name(name):
    """One path component: no control or reserved characters, valid Unicode, short enough for every
    file system.

    >>> safe_name("AC: DC?\\x07")
    'AC - DC'
    """
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8: old archives hold Latin-1 names
        name = name.encode("utf-8", "surrogateescape").decode("latin-1")
    name = unicodedata.normalize("NFC", name)
    name = "".join(
        RESERVED.get(character, character)
        for character in name
        if unicodedata.category(character)[0] != "C"
    ).strip()
    suffix = re.search(r"\.\w{1,5}$", name)
    suffix = suffix.group() if suffix else ""
    stem = (
        name[: len(name) - len(suffix)]
        .encode()[: MAX_NAME_BYTES - len(suffix.encode())]
        .decode("utf-8", "ignore")
    )
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
    return set(
        sorted(names, key=lambda name: value_digest([seed, os.fsencode(name).hex()]))[:limit]
    )


# ---------------------------------------------------------------- download


def download(url, folder, sha256, timeout_seconds, wait_seconds):
    """The file behind `url` as a path in `folder`; resumes what an earlier call has begun, retries,
    checks the size.

    sha256: refuse any other file, or None. timeout_seconds: of silence before a connection is
    opened again;
    wait_seconds: before the first retry, doubled for each further one. Raises Refused.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = safe_name(
        urllib.parse.unquote(urllib.parse.urlsplit(url).path.rstrip("/").split("/")[-1])
        or "archive"
    )
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
    fetch_all(url, part, state, state_path, timeout_seconds, wait_seconds)
    digest = file_digest(part)
    check_digest(part, digest, sha256)
    write_json(state_path, {**state, "bytes": part.stat().st_size, "sha256": digest})
    os.replace(part, path)
    return path


def fetch_all(url, part, state, state_path, timeout_seconds, wait_seconds):
    """Connections until `part` is complete. Only those that bring next to nothing count as
    failures: a line that drops every minute still gets through; Refused after ATTEMPTS of them in a
    row."""
    failures, furthest = 0, part.stat().st_size if part.exists() else 0
    while True:
        started = time.monotonic()
        try:
            return fetch_rest(url, part, state, state_path, timeout_seconds)
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            ConnectionError,
            TimeoutError,
        ) as error:
            reason, asked_seconds = why_again(error, part)
        size = part.stat().st_size if part.exists() else 0
        useful = size - furthest > MIN_BYTES_PER_SECOND * (time.monotonic() - started)
        failures, furthest = 0 if useful else failures + 1, max(furthest, size)
        if failures >= ATTEMPTS:
            raise Refused(f"given up after {ATTEMPTS} attempts: {reason}")
        wait = min(max(wait_seconds * 2 ** max(failures - 1, 0), asked_seconds), MAX_WAIT_SECONDS)
        print(
            f"01_download: {reason}; {size:,} bytes are here, going on in {wait:.3g} s",
            file=sys.stderr,
        )
        time.sleep(wait)


def why_again(error, part):
    """(reason in words, seconds that the server asks to wait) of an error that another try may
    mend; else Refused."""
    if not isinstance(error, urllib.error.HTTPError):
        return str(getattr(error, "reason", None) or error or type(error).__name__), 0
    if error.code == 416 and part.exists():  # what we have does not belong to what the server has
        part.unlink()
        return "the range was refused", 0
    if error.code in (408, 425, 429) or error.code >= 500:
        return f"HTTP {error.code} {error.reason}", retry_after(error.headers.get("Retry-After"))
    raise Refused(f"the server answers HTTP {error.code} {error.reason}")


def fetch_rest(url, part, state, state_path, timeout_seconds):
    """One connection: appends to `part` what is missing. Raises if the transfer ends early; `state`
    keeps ETag and date of the version begun, so that bytes of two versions are never mixed."""
    have = part.stat().st_size if part.exists() else 0
    version = state.get("etag") or state.get("modified")
    if have and not version:  # nothing to recognise the version by
        have = 0
    headers = {"User-Agent": "music-scaling", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        # a weak ETag must not stand in If-Range; it is compared below
        if not version.startswith("W/"):
            headers["If-Range"] = version
    with urllib.request.urlopen(
        urllib.request.Request(url, headers=headers), timeout=timeout_seconds
    ) as answer:
        if urllib.parse.urlsplit(answer.url).scheme not in ("http", "https"):
            raise Refused("the address leads away from http(s)")
        sent = {"etag": answer.headers.get("ETag"), "modified": answer.headers.get("Last-Modified")}
        length = answer.headers.get("Content-Length")
        total = int(length) if length and length.isdigit() else None
        if have and answer.status == 206:
            content_range = re.fullmatch(
                r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", "")
            )
            same = all(sent[what] in (None, state.get(what)) for what in sent)
            if not content_range or int(content_range[1]) != have or not same:
                part.unlink()
                raise ConnectionError("the file on the server has changed; starting again")
            total = int(content_range[2]) if content_range[2] != "*" else total and have + total
        elif answer.status == 200:
            have = 0
            state.update(sent)
            write_json(state_path, state)
        else:
            raise Refused(f"the server answers HTTP {answer.status} to a plain request")
        free = shutil.disk_usage(part.parent).free
        if total and total - have > free:
            raise Refused(
                f"the archive needs {total - have:,} bytes and the disk has {free:,} left"
            )
        copy_answer(answer, part, have, total, timeout_seconds)
    if total is not None and part.stat().st_size != total:
        raise ConnectionError(f"the connection ended at {part.stat().st_size:,} of {total:,} bytes")


def copy_answer(answer, part, have, total, timeout_seconds):
    """Streams a response into `part` from byte `have` on."""
    window_start, window_bytes = time.monotonic(), 0
    with open(part, "r+b" if have else "wb") as file, progress(
        total=total, desc=part.stem, unit="B"
    ) as bar:
        file.seek(have)
        file.truncate()
        bar.update(have)
        while block := answer.read1(BLOCK_BYTES):
            if have == 0 and re.match(
                rb"\s*(<!doctype|<html|<head|<\?xml)", block[:200], re.IGNORECASE
            ):
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
    """Refused, and the archive deleted, if it is not the one that --sha256 names."""
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
    """ "zip", "tar" or the reason why the file is neither."""
    with open(path, "rb") as file:
        head = file.read(512)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")) or head[257:262] == b"ustar":
        return "tar"
    if head.startswith((b"MThd", b"RIFF")):
        raise Refused("this is a single MIDI file: give its folder")
    what = (
        "a web page"
        if head.lstrip()[:1] == b"<"
        else "empty" if not head else "no .tar.gz, .tar or .zip"
    )
    raise Refused(f"the archive is {what}")


def tar_members(path, midi):
    """Yields (name, read) of the regular members of a tar file in one pass over the stream; names
    may be hostile."""
    with open(path, "rb") as raw:
        head = raw.read(6)
        raw.seek(0)
        opener = next(
            (
                opener
                for magic, opener in (
                    (b"\x1f\x8b", gzip.open),
                    (b"BZh", bz2.open),
                    (b"\xfd7zXZ", lzma.open),
                )
                if head.startswith(magic)
            ),
            None,
        )
        limit = (64 << 20) + MAX_INFLATION * path.stat().st_size
        stream = Bounded(opener(raw) if opener else raw, limit)
        with tarfile.open(fileobj=stream, mode="r|", errors="surrogateescape") as tar:
            for number, member in enumerate(tar):
                tar.members = []  # else 200,000 members stay in memory
                if number >= MAX_MEMBERS:
                    raise Refused(f"the archive has more than {MAX_MEMBERS:,} members")
                if member.isdir():
                    continue
                kind = (
                    "link"
                    if member.issym() or member.islnk()
                    else (
                        "device or special file"
                        if not member.isreg() or member.issparse()
                        else None
                    )
                )
                if kind or member.size > MAX_FILE_BYTES:
                    midi.left_out[kind or "too large"] += 1
                    continue
                yield member.name, lambda: tar.extractfile(member).read()
            # to the end, so that the checksum of gzip is compared
            while rest := stream.read(BLOCK_BYTES):
                if rest.strip(b"\0"):
                    raise tarfile.ReadError("data after the end of the archive")


def zip_members(path, midi):
    """Yields (name, read) of the regular members of a zip file."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > MAX_MEMBERS:
            raise Refused(f"the archive has more than {MAX_MEMBERS:,} members")
        if (
            sum(member.file_size for member in members)
            > (64 << 20) + MAX_INFLATION * path.stat().st_size
        ):
            raise Refused("the archive unpacks to far more than MIDI files do (a bomb?)")
        for member in members:
            mode = stat_modes.S_IFMT(member.external_attr >> 16)
            if member.is_dir():
                continue
            kind = (
                "link"
                if mode == stat_modes.S_IFLNK
                else (
                    "encrypted"
                    if member.flag_bits & 1
                    else "device or special file" if mode not in (0, stat_modes.S_IFREG) else None
                )
            )
            if kind or member.file_size > MAX_FILE_BYTES:
                midi.left_out[kind or "too large"] += 1
                continue
            yield member.filename, lambda: read_bounded(archive, member)


def read_bounded(archive, member):
    """A zip member's bytes; the size in its header is not believed."""
    with archive.open(member) as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise Refused("a member of the archive is larger than it says")
    return data


def folder_members(path, midi):
    """Yields (name, read) of the files below a folder in sorted order; links are not followed."""
    folders = [""]
    while folders:
        below = folders.pop()
        try:
            entries = sorted(os.scandir(path / below), key=lambda entry: entry.name)
        except PermissionError:
            midi.left_out["unreadable folder"] += 1
            continue
        folders += [
            below + entry.name + "/"
            for entry in reversed(entries)
            if entry.is_dir(follow_symlinks=False)
        ]
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                continue
            if not entry.is_file(follow_symlinks=False):
                midi.left_out["link" if entry.is_symlink() else "device or special file"] += 1
            elif (
                entry.name.lower().endswith(MIDI_SUFFIXES) and entry.stat().st_size > MAX_FILE_BYTES
            ):
                midi.left_out["too large"] += 1
            else:
                yield below + entry.name, lambda: (path / below / entry.name).read_bytes()


def unpack(path, midi, limit, seed, abc=None):
    """Fills `midi` from a folder or an archive; a `limit` costs a first pass over the names. abc: a
    second MidiFolder, which takes the .abc files (default: they are left out)."""
    members = (
        folder_members
        if path.is_dir()
        else {"tar": tar_members, "zip": zip_members}[archive_kind(path)]
    )
    try:
        chosen = sample(
            (name for name, _ in members(path, MidiFolder(None)) if not refusal(name)), limit, seed
        )
        for name, read in progress(members(path, midi), desc="files", unit="file"):
            is_abc = abc is not None and name.lower().endswith(".abc")
            reason = refusal(name[:-4] + ".mid" if is_abc else name)
            if reason:
                midi.left_out[reason] += 1
            elif chosen is None or name in chosen:
                try:
                    data = read()
                except PermissionError:
                    midi.left_out["unreadable file"] += 1
                    continue
                (abc if is_abc else midi).add(
                    os.fsencode(name).decode("utf-8", "surrogateescape"), data
                )
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        NotImplementedError,
        ValueError,
        struct.error,
        RuntimeError,
    ) as error:
        raise Refused(f"the archive is damaged: {error}") from None
    except (
        OSError
    ) as error:  # of bz2 (no number) or of a seek to where a broken zip file points; not of the disk
        if error.errno in (None, errno.EINVAL):
            raise Refused(f"the archive is damaged: {error}") from None
        raise


def listing_digest(folder):
    """Digest of names, sizes and times of all files below a folder: tells that it has changed
    without reading it."""
    listing = hashlib.sha256()
    for below, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(below, name)
            status = os.lstat(path)
            listing.update(
                os.fsencode(
                    f"{os.path.relpath(path, folder)}\0{status.st_size}\0{status.st_mtime_ns}\0"
                )
            )
    return listing.hexdigest()


def hoist(folder):
    """The folder to keep: one that holds nothing but a single folder of folders
    (clean_midi/<Artist>/) is left out."""
    entries = list(os.scandir(folder))
    while len(entries) == 1 and entries[0].is_dir():
        below = list(os.scandir(entries[0].path))
        if not below or not all(entry.is_dir() for entry in below):
            break
        folder, entries = Path(entries[0].path), below
    return folder
