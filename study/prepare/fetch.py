"""Takes music files out of downloads, archives and folders, one by one.

A source is hostile until shown otherwise. Of an archive only regular files with the right endings
are read, and bytes and inflation are bounded. What cannot be used raises Refused.
"""

import errno
import gzip
import lzma
import os
import re
import stat
import struct
import tarfile
import time
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from study.stages.files import file_digest, read_json, value_digest, write_json
from study.stages.process import progress

from music.scores import SUFFIXES as SCORE_SUFFIXES
from study.prepare.conversion import MIDI_BYTES, SUFFIXES

MUSIC_SUFFIXES = (*SUFFIXES, *SCORE_SUFFIXES, ".abc")
MAX_TOTAL_BYTES = 64 << 30  # of a corpus; lakh-full holds about 6 GB
# unpacked : packed bytes; MIDI compresses 3-5 : 1, scores 20 : 1, a gzip bomb 1000 : 1
MAX_INFLATION = 100
MAX_NAME_BYTES = 200  # 255 is the limit of file systems, .abc and .1 must still fit
ATTEMPTS = 6  # in a row that bring nothing
WAIT_SECONDS = 1  # before the second attempt, doubled for each further one: 31 s in all
TIMEOUT_SECONDS = 60  # of silence, before a connection is opened again
BLOCK_BYTES = 1 << 18  # read and written at a time
# characters that some system does not take in names
RESERVED = str.maketrans({"<": "(", ">": ")", ":": " -", '"': "'", "|": "-", "?": "", "*": ""})


class Refused(Exception):
    """The source cannot be used; the message says why."""


def in_words(left_out):
    """Returns {kind: number} in words.

    >>> in_words({"link": 2, "not music": 1})
    '2 links, 1 not music'
    """
    things = (LINK, SPECIAL, "unreadable file", "unreadable folder")  # others have no plural
    return ", ".join(
        f"{n:,} {reason}" + "s" * (n > 1 and reason in things) for reason, n in left_out.items()
    )


def safe_name(name):
    """Returns a path component that every file system takes."""
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8: old archives hold Latin-1 names
        name = name.encode("utf-8", "surrogateescape").decode("latin-1")
    name = unicodedata.normalize("NFC", name).translate(RESERVED)
    name = "".join(c for c in name if unicodedata.category(c)[0] != "C").strip()
    suffix = "".join(re.findall(r"\.\w{1,5}$", name))
    stem = name.removesuffix(suffix).encode()[: MAX_NAME_BYTES - len(suffix.encode())]
    return (stem.decode("utf-8", "ignore").lstrip(".").rstrip(". ") or "untitled") + suffix


def sample(names, limit, seed):
    """Draws a seeded random sample of `limit` names, whatever their order."""
    order = sorted(names, key=lambda name: value_digest([seed, os.fsencode(name).hex()]))
    return set(order[:limit])


def download(url, folder, say):
    """Returns the path of the file behind `url`; goes on where an earlier call broke off. say:
    called with a sentence before each wait."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name_of(url)
    part, state_path = (folder / f"{path.name}{end}" for end in (".part", ".json"))
    state = read_json(state_path)
    if not isinstance(state, dict) or state.get("url") != value_digest(url):
        state = {"url": value_digest(url)}
        part.write_bytes(b"")
    if path.exists() and state.get("sha256") == file_digest(path):
        return path
    part.touch()
    failures, furthest = 0, part.stat().st_size
    while reason := fetch_rest(url, part, state, state_path):
        have = part.stat().st_size
        failures = failures + 1 if have <= furthest else 0
        furthest = max(furthest, have)
        if failures >= ATTEMPTS:
            raise Refused(f"given up after {ATTEMPTS} attempts: {reason}")
        wait = WAIT_SECONDS * 2 ** (failures - 1)
        say(f"{reason}; {have:,} bytes are here, going on in {wait:.3g} s")
        time.sleep(wait)
    write_json(state_path, {**state, "sha256": file_digest(part)})
    os.replace(part, path)
    return path


def file_name_of(url):
    """Returns the name under which a download is kept.

    >>> file_name_of("https://github.com/OpenScore/Lieder/archive/refs/heads/main.zip")
    'Lieder-main.zip'
    """
    path = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rstrip("/")
    repository = re.search(r"/([^/]+)/archive/(?:refs/heads/)?([^/]+)$", path)
    if repository:
        return safe_name(f"{repository[1]}-{repository[2]}")
    return safe_name(path.split("/")[-1] or "archive")


def fetch_rest(url, part, state, state_path):
    """Connects once; returns why it has to be done again, or None. Refused if that cannot help."""
    try:
        receive(url, part, state, state_path)
    except urllib.error.HTTPError as error:
        answer = f"HTTP {error.code} {error.reason}"
        if error.code == 416:  # what is here is no part of what the server has
            part.write_bytes(b"")
        elif error.code < 500 and error.code not in (408, 425, 429):
            raise Refused(f"the server answers {answer}")
        return answer
    except (urllib.error.URLError, HTTPException, ConnectionError, TimeoutError) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__


def receive(url, part, state, state_path):
    """Appends what is missing of the version begun, whose ETag or date is in `state`; of another
    version the server sends all."""
    have, headers = part.stat().st_size, {"User-Agent": "music-scaling"}
    if have and state.get("version"):
        headers |= {"Range": f"bytes={have}-", "If-Range": state["version"]}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        if not answer.url.startswith(("http:", "https:")):
            raise Refused("the address leads away from http(s)")
        if answer.status != 206:
            have, state["version"] = 0, answer.headers.get("ETag", "W/")
            # a weak ETag does not tell two versions apart byte by byte
            if state["version"].startswith("W/"):
                state["version"] = answer.headers.get("Last-Modified")
            write_json(state_path, state)
        total = None if answer.length is None else have + answer.length
        with (
            open(part, "ab" if have else "wb") as file,
            progress(total=total, desc=part.stem, unit="B") as bar,
        ):
            bar.update(have)
            while block := answer.read1(BLOCK_BYTES):
                file.write(block)
                bar.update(len(block))
                if file.tell() > MAX_TOTAL_BYTES:
                    raise Refused(f"the server sends more than {MAX_TOTAL_BYTES >> 30} GB")
    have = part.stat().st_size
    if total not in (None, have):
        raise ConnectionError(f"the connection ended at {have:,} of {total:,} bytes")


# what libraries raise that read archives
DAMAGES = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error)
DAMAGES += (EOFError, ValueError, RuntimeError)
BOMB = "the archive unpacks to far more than music does (a bomb?)"
LINK, SPECIAL = "link", "device or special file"


class Member(NamedTuple):
    """A file of a source. fault: why it is not taken, or None; read: returns its bytes."""

    name: str
    fault: str | None
    n_bytes: int
    read: Callable


class Bounded:
    """A readable stream that raises Refused when more than `limit` bytes were read from it."""

    def __init__(self, file, limit):
        self.file, self.left = file, limit

    def read(self, size=-1):
        data = self.file.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise Refused(BOMB)
        return data


def most_bytes(path):
    """Returns what an archive may unpack to."""
    return (64 << 20) + MAX_INFLATION * path.stat().st_size


def members_of(path):
    """Returns the function that yields the members of this folder, archive or single file."""
    if path.is_dir():
        return folder_members
    if path.name.lower().endswith(MUSIC_SUFFIXES):
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


def single_member(path):
    yield Member(path.name, None, path.stat().st_size, path.read_bytes)


def tar_members(path):
    """Yields the members of a tar file in one pass."""
    with open(path, "rb") as raw:
        packed = raw.peek(2).startswith(b"\x1f\x8b")
        stream = Bounded(gzip.open(raw) if packed else raw, most_bytes(path))
        with tarfile.open(fileobj=stream, mode="r|", errors="surrogateescape") as tar:
            for info in tar:
                tar.members = []  # else 200,000 members stay in memory
                fault = None if info.isreg() and not info.issparse() else SPECIAL
                if info.issym() or info.islnk():
                    fault = LINK
                if not info.isdir():
                    yield Member(info.name, fault, info.size, lambda: tar.extractfile(info).read())
        while stream.read(BLOCK_BYTES):  # to the end, so that the checksum of gzip is compared
            pass


def zip_members(path):
    """Yields the members of a zip file; none has more bytes than its header says."""
    with zipfile.ZipFile(path) as archive:
        files = [info for info in archive.infolist() if not info.is_dir()]
        if sum(info.file_size for info in files) > most_bytes(path):
            raise Refused(BOMB)
        for info in files:
            fault = fault_of(info.external_attr >> 16)
            if info.flag_bits & 1:
                fault = "encrypted"
            yield Member(info.filename, fault, info.file_size, lambda: archive.read(info))


def folder_members(path):
    """Yields the members of a folder, then the folders in it that cannot be read."""
    unreadable = []
    for file, status in files_below(path, unreadable.append):
        name, fault = str(file.relative_to(path)), fault_of(status.st_mode)
        yield Member(name, fault, status.st_size, file.read_bytes)
    for error in unreadable:
        yield Member(error.filename, "unreadable folder", 0, None)


def fault_of(mode):
    """Returns why a file of this st_mode is not taken, or None."""
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFLNK:
        return LINK
    return None if kind in (0, stat.S_IFREG) else SPECIAL


def files_below(folder, onerror=None):
    """Yields (path, its lstat) of all files below a folder, sorted in each; links are files."""
    for below, folders, names in os.walk(folder, onerror=onerror):
        folders.sort()
        links = [name for name in folders if os.path.islink(f"{below}/{name}")]
        for name in sorted(links + names):
            path = Path(below, name)
            yield path, path.lstat()


def refusal(member):
    """Returns why a member is not taken, or None."""
    parts = re.split(r"[/\\]", member.name)
    if member.fault:
        return member.fault
    if not parts[0] or re.match(r"[A-Za-z]:[/\\]", member.name):
        return "absolute path"
    if ".." in parts:
        return "path with .."
    is_fork = parts[-1].startswith("._") or "__MACOSX" in parts  # macOS puts them into archives
    if is_fork or not member.name.lower().endswith(MUSIC_SUFFIXES):
        return "not music"
    return "too large" if member.n_bytes > MIDI_BYTES else None


def music_members(path, left_out, limit=None, seed=0):
    """Yields (name, bytes) of the music in a folder or an archive, or of a single file. left_out: a
    Counter of what is passed over. limit: of a seeded sample, for which the names are read first.
    """
    members = members_of(path)
    try:
        chosen = None
        if limit is not None:
            names = [member.name for member in members(path) if not refusal(member)]
            chosen = sample(names, limit, seed)
        for member in progress(members(path), desc="files", unit="file"):
            reason = refusal(member)
            if not reason and (chosen is None or member.name in chosen):
                try:
                    data = member.read()
                except PermissionError:
                    reason = "unreadable file"
                else:
                    yield member.name, data
            if reason:
                left_out[reason] += 1
    except DAMAGES as error:
        raise Refused(f"the archive is damaged: {error}") from None
    except OSError as error:  # of a seek to where a broken zip file points; not of the disk
        if error.errno in (None, errno.EINVAL):
            raise Refused(f"the archive is damaged: {error}") from None
        raise


def listing_digest(folder):
    """Returns a digest of names, sizes and times of all files below a folder; reads none."""
    return value_digest(
        [
            [str(path.relative_to(folder)), status.st_size, status.st_mtime_ns]
            for path, status in files_below(folder)
        ]
    )


def hoist(folder):
    """Returns the folder to keep, without those that hold one folder of folders (clean_midi/)."""
    below = list(folder.iterdir())
    while len(below) == 1 and below[0].is_dir() and all(p.is_dir() for p in below[0].iterdir()):
        folder, below = below[0], list(below[0].iterdir())
    return folder
