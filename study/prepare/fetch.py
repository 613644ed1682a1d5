"""Downloads, archives and folders: music files from anywhere, one by one, and a folder of files
with safe names.

A source is hostile until shown otherwise. A download goes on where it broke, across runs too, and
is checked by size and digest. From an archive nothing but regular files with the endings that were
asked for is read, and what is written gets a name made here: no path, link or device of an archive
ever reaches the disk, and bytes and inflation are bounded.

A function that cannot go on raises Refused; nothing here prints or ends a script.
"""

import collections
import errno
import gzip
import hashlib
import http.client
import os
import re
import shutil
import stat as stat_modes
import struct
import tarfile
import time
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from pathlib import Path

from study.stages.files import file_digest, read_json, value_digest, write_json
from study.stages.process import progress

from study.prepare.conversion import MIDI_BYTES, SUFFIXES

# music files of one corpus; lakh-full, the largest in public use, has 176,581
MAX_FILES = 1_000_000
MAX_FILE_BYTES = MIDI_BYTES  # of one file
MAX_TOTAL_BYTES = 64 << 30  # of a corpus; lakh-full holds about 6 GB
# unpacked : packed bytes; MIDI compresses 3-5 : 1, scores 20 : 1, a gzip bomb 1000 : 1
MAX_INFLATION = 100
# of one file name; 255 is the limit of file systems, .abc and .1 must still fit
MAX_NAME_BYTES = 200
# tries in a row that bring next to nothing: with doubling waits about 30 s
ATTEMPTS = 6
LEAST_BYTES = 64  # that a try must bring to count as one
MAX_WAIT_SECONDS = 300  # longest wait that a server may ask for (Retry-After)
BLOCK_BYTES = 1 << 18  # read and written at a time
# not in names on every system
RESERVED = {"<": "(", ">": ")", ":": " -", '"': "'", "|": "-", "?": "", "*": ""}


ENDINGS = re.compile(r"(?i)\.(midi?|kar|rmi|abc|mxl|musicxml|xml|krn)$")


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
        """Writes one file under a safe name that is made from `name` ("Artist/Title.mid"); returns
        its path below the folder."""
        if self.files >= MAX_FILES or self.bytes + len(data) > MAX_TOTAL_BYTES:
            raise Refused(
                f"more than {MAX_FILES:,} files or {MAX_TOTAL_BYTES >> 30} GB of MIDI: not a corpus"
            )
        relative = self.unique(name)
        path = self.folder / relative
        if str(path.parent) not in self.folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.folders.add(str(path.parent))
        with open(path, "xb") as file:
            file.write(data)
        self.files, self.bytes = self.files + 1, self.bytes + len(data)
        return relative

    def unique(self, name):
        """A relative path for `name` that no other file has, even where letter case does not
        count."""
        parts = [
            safe_name(part) for part in name.replace("\\", "/").split("/") if part not in ("", ".")
        ]
        stem = ENDINGS.sub("", parts[-1]) or "untitled"
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

    >>> in_words({"link": 2, "not music": 1})
    '2 links, 1 not music'
    """
    things = ("link", "file", "folder")  # the others are no nouns: "not music", "too large"
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


def refusal(name, suffixes):
    """Why a member of this name is not taken, or None. suffixes: those that are."""
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[/\\]", name):
        return "absolute path"
    if ".." in parts:
        return "path with .."
    if parts[-1].startswith("._") or "__MACOSX" in parts:
        return "not music"  # resource forks that macOS puts into archives
    return None if name.lower().endswith(suffixes) else "not music"


def sample(names, limit, seed):
    """The `limit` names of a seeded random sample; it does not depend on their order."""
    if limit is None:
        return None
    return set(
        sorted(names, key=lambda name: value_digest([seed, os.fsencode(name).hex()]))[:limit]
    )


# ---------------------------------------------------------------- download


def download(url, folder, sha256, timeout_seconds, wait_seconds, say):
    """The file behind `url` as a path in `folder`; resumes what an earlier call has begun, retries,
    checks the size.

    sha256: refuse any other file, or None. timeout_seconds: of silence before a connection is
    opened again; wait_seconds: before the first retry, doubled for each further one; say: is called
    with a sentence before each wait. Raises Refused.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = file_name_of(url)
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
    fetch_all(url, part, state, state_path, timeout_seconds, wait_seconds, say)
    digest = file_digest(part)
    check_digest(part, digest, sha256)
    write_json(state_path, {**state, "bytes": part.stat().st_size, "sha256": digest})
    os.replace(part, path)
    return path


def file_name_of(url):
    """The name under which a download is kept; of a repository's archive with the repository's.

    >>> file_name_of("https://x.org/a%20b.zip?v=2")
    'a b.zip'
    >>> file_name_of("https://github.com/OpenScore/Lieder/archive/refs/heads/main.zip")
    'Lieder-main.zip'
    """
    path = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rstrip("/")
    repository = re.search(r"/([^/]+)/archive/(?:refs/heads/)?([^/]+)$", path)
    if repository:
        return safe_name(f"{repository[1]}-{repository[2]}")
    return safe_name(path.split("/")[-1] or "archive")


def size_of(path):
    """Bytes of a file, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def fetch_all(url, part, state, state_path, timeout_seconds, wait_seconds, say):
    """Connections until `part` is complete. Only those that bring next to nothing count as
    failures: a line that drops every minute still gets through. Refused after ATTEMPTS of them in a
    row."""
    failures, furthest = 0, size_of(part)
    while True:
        try:
            return fetch_rest(url, part, state, state_path, timeout_seconds)
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            ConnectionError,
            TimeoutError,
        ) as error:
            reason, asked_seconds = why_again(error, part)
        failures = 0 if size_of(part) > furthest + LEAST_BYTES else failures + 1
        furthest = max(furthest, size_of(part))
        if failures >= ATTEMPTS:
            raise Refused(f"given up after {ATTEMPTS} attempts: {reason}")
        wait = min(max(wait_seconds * 2 ** max(failures - 1, 0), asked_seconds), MAX_WAIT_SECONDS)
        say(f"{reason}; {size_of(part):,} bytes are here, going on in {wait:.3g} s")
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
        asked = error.headers.get("Retry-After", "")
        return f"HTTP {error.code} {error.reason}", int(asked) if asked.isdecimal() else 0
    raise Refused(f"the server answers HTTP {error.code} {error.reason}")


def fetch_rest(url, part, state, state_path, timeout_seconds):
    """One connection: appends to `part` what is missing. Raises if the transfer ends early. `state`
    keeps the ETag or date of the version begun: the server is asked for the rest of that one, and
    sends all of another."""
    version, have = state.get("version"), size_of(part)
    headers = {"User-Agent": "music-scaling", "Accept-Encoding": "identity"}
    if have and version:
        headers.update({"Range": f"bytes={have}-", "If-Range": version})
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=timeout_seconds) as answer:
        if urllib.parse.urlsplit(answer.url).scheme not in ("http", "https"):
            raise Refused("the address leads away from http(s)")
        if answer.status == 206:
            if not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                part.unlink()
                raise ConnectionError("the server sends another part of the file; starting again")
        elif answer.status == 200:
            have, tag = 0, answer.headers.get("ETag") or ""
            # a weak ETag does not tell two versions apart byte by byte
            state["version"] = answer.headers.get("Last-Modified") if tag[:2] == "W/" else tag
            state["version"] = state["version"] or answer.headers.get("Last-Modified")
            write_json(state_path, state)
        else:
            raise Refused(f"the server answers HTTP {answer.status} to a plain request")
        length = answer.headers.get("Content-Length") or ""
        total = have + int(length) if length.isdecimal() else None
        free = shutil.disk_usage(part.parent).free
        if total and total - have > free:
            raise Refused(f"the file needs {total - have:,} bytes and the disk has {free:,} left")
        copy_answer(answer, part, have, total)
    if total is not None and size_of(part) != total:
        raise ConnectionError(f"the connection ended at {size_of(part):,} of {total:,} bytes")


def copy_answer(answer, part, have, total):
    """Streams a response into `part` from byte `have` on."""
    with open(part, "r+b" if have else "wb") as file, progress(
        total=total, desc=part.stem, unit="B"
    ) as bar:
        file.seek(have)
        file.truncate()
        bar.update(have)
        while block := answer.read1(BLOCK_BYTES):
            if have == 0 and re.match(rb"\s*(<!doctype html|<html|<head)", block[:200], re.I):
                raise Refused("the server sent a web page in place of music")
            file.write(block)
            have += len(block)
            if have > MAX_TOTAL_BYTES:
                raise Refused(f"the server sends more than {MAX_TOTAL_BYTES >> 30} GB")
            bar.update(len(block))


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
            raise Refused("the archive unpacks to far more than music does (a bomb?)")
        return data


def most_bytes(path):
    """What an archive may unpack to."""
    return (64 << 20) + MAX_INFLATION * path.stat().st_size


def members_of(path, suffixes):
    """The function that yields (name, read) of a folder, an archive or a single file; Refused if it
    is none. read: gives the bytes."""
    if path.is_dir():
        return folder_members
    if path.name.lower().endswith(suffixes):
        return single_member
    with open(path, "rb") as file:
        head = file.read(512)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return zip_members
    if head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar":
        return tar_members
    what = "no .tar.gz, .tar or .zip"
    if head.startswith((b"MThd", b"RIFF")):
        what = "a MIDI file without its ending: call it .mid"
    elif head.lstrip()[:1] == b"<":
        what = "a web page"
    elif not head:
        what = "empty"
    raise Refused(f"the archive is {what}")


def single_member(path, left_out):
    """Yields (name, read) of one file."""
    yield path.name, path.read_bytes


def tar_members(path, left_out):
    """Yields (name, read) of the regular members of a tar file in one pass over the stream; names
    may be hostile. left_out: counts what is passed over."""
    with open(path, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = Bounded(gzip.open(raw) if packed else raw, most_bytes(path))
        with tarfile.open(fileobj=stream, mode="r|", errors="surrogateescape") as tar:
            for member in tar:
                tar.members = []  # else 200,000 members stay in memory
                if member.isdir():
                    continue
                if member.issym() or member.islnk():
                    left_out["link"] += 1
                elif not member.isreg() or member.issparse():
                    left_out["device or special file"] += 1
                elif member.size > MAX_FILE_BYTES:
                    left_out["too large"] += 1
                else:
                    yield member.name, lambda: tar.extractfile(member).read()
            # to the end, so that the checksum of gzip is compared
            while rest := stream.read(BLOCK_BYTES):
                if rest.strip(b"\0"):
                    raise tarfile.ReadError("data after the end of the archive")


def zip_members(path, left_out):
    """Yields (name, read) of the regular members of a zip file."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > most_bytes(path):
            raise Refused("the archive unpacks to far more than music does (a bomb?)")
        for member in members:
            mode = stat_modes.S_IFMT(member.external_attr >> 16)
            if member.is_dir():
                continue
            if mode == stat_modes.S_IFLNK:
                left_out["link"] += 1
            elif member.flag_bits & 1:
                left_out["encrypted"] += 1
            elif mode not in (0, stat_modes.S_IFREG):
                left_out["device or special file"] += 1
            elif member.file_size > MAX_FILE_BYTES:
                left_out["too large"] += 1
            else:
                yield member.filename, lambda: read_bounded(archive, member)


def read_bounded(archive, member):
    """A zip member's bytes; the size in its header is not believed."""
    with archive.open(member) as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise Refused("a member of the archive is larger than it says")
    return data


def folder_members(path, left_out):
    """Yields (name, read) of the files below a folder in sorted order; links are not followed."""
    folders = [""]
    while folders:
        below = folders.pop()
        try:
            entries = sorted(os.scandir(path / below), key=lambda entry: entry.name)
        except PermissionError:
            left_out["unreadable folder"] += 1
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
                left_out["link" if entry.is_symlink() else "device or special file"] += 1
            elif ENDINGS.search(entry.name) and entry.stat().st_size > MAX_FILE_BYTES:
                left_out["too large"] += 1
            else:
                yield below + entry.name, lambda: (path / below / entry.name).read_bytes()


def music_members(path, left_out, limit, seed, suffixes=SUFFIXES):
    """Yields (name, bytes) of the files in a folder or an archive, or of a single file, whose names
    end in one of `suffixes`. left_out: a Counter of what is passed over. A `limit` takes a seeded
    sample and costs a first pass over the names. Raises Refused."""
    members = members_of(path, suffixes)
    try:
        chosen = None
        if limit is not None:
            names = (name for name, _ in members(path, collections.Counter()))
            chosen = sample((name for name in names if not refusal(name, suffixes)), limit, seed)
        for name, read in progress(members(path, left_out), desc="files", unit="file"):
            reason = refusal(name, suffixes)
            if reason:
                left_out[reason] += 1
            elif chosen is None or name in chosen:
                try:
                    data = read()
                except PermissionError:
                    left_out["unreadable file"] += 1
                    continue
                yield os.fsencode(name).decode("utf-8", "surrogateescape"), data
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        ValueError,
        struct.error,
        RuntimeError,
    ) as error:
        raise Refused(f"the archive is damaged: {error}") from None
    except OSError as error:  # of a seek to where a broken zip file points; not of the disk
        if error.errno in (None, errno.EINVAL):
            raise Refused(f"the archive is damaged: {error}") from None
        raise


def unpack(path, midi, limit, seed, abc=None):
    """Fills `midi` from a folder or an archive. abc: a second MidiFolder, which takes the .abc
    files (default: they are left out)."""
    suffixes = SUFFIXES if abc is None else (*SUFFIXES, ".abc")
    for name, data in music_members(path, midi.left_out, limit, seed, suffixes):
        (abc if name.lower().endswith(".abc") else midi).add(name, data)


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
