"""Archives that mean harm or are broken: nothing is written outside data/raw_midi, and memory stays
flat."""

import gzip
import io
import os
import random
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from loopback import HERE, corpus, download, midi, tar_bytes
from study.prepare.fetch import Refused
from study.prepare.gather import Collected, gather

pytestmark = pytest.mark.faults


def tree(folder):
    return sorted(str(path) for path in folder.rglob("*"))


def member(name, data=b"", kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info, io.BytesIO(data)


def write_tar(path, members, **how):
    with tarfile.open(path, "w:gz", errors="surrogateescape", **how) as tar:
        for info, data in members:
            tar.addfile(info, data if info.size else None)
    return path


def test_links_do_not_lead_out(tmp_path):
    """A link to a folder outside, then a file "in" that folder: the classical way out."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.mid").write_bytes(b"secret")
    path = write_tar(
        tmp_path / "a.tgz",
        [
            member("x", kind=tarfile.SYMTYPE, link=str(tmp_path / "outside")),
            member("x/evil.mid", midi(1)),
            member("up", kind=tarfile.SYMTYPE, link="../../../.."),
            member("up/evil.mid", midi(2)),
            member("stolen.mid", kind=tarfile.LNKTYPE, link="../../outside/secret.mid"),
            member("zero.mid", kind=tarfile.CHRTYPE),
            member("pipe.mid", kind=tarfile.FIFOTYPE),
            member("a/b.mid", midi(3)),
        ],
    )
    output = download(tmp_path / "root", "--source", path)
    assert corpus(tmp_path / "root") == {
        "x/evil.mid": midi(1),
        "up/evil.mid": midi(2),
        "a/b.mid": midi(3),
    }
    assert tree(tmp_path / "outside") == [str(tmp_path / "outside/secret.mid")]
    assert "3 link" in output and "2 device" in output
    assert not any(found.is_symlink() for found in (tmp_path / "root").rglob("*"))


def test_hostile_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in (
            "../evil.mid",
            "/evil.mid",
            "C:/evil.mid",
            "a/../../evil.mid",
            "ok/a.mid",
            "ok/A.mid",
        ):
            archive.writestr(name, midi(1))
        link = zipfile.ZipInfo("ok/link.mid")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    output = download(tmp_path / "root", "--source", tmp_path / "a.zip")
    assert sorted(corpus(tmp_path / "root")) == ["ok/A.1.mid", "ok/a.mid"]
    assert "1 link" in output and "path with .." in output
    assert not list(tmp_path.parent.glob("evil.mid")) and not Path("/evil.mid").exists()


def test_names_in_every_encoding(tmp_path):
    names = [
        "Bj\udcf6rk/J\udcf3ga.mid",
        "日本/歌.mid",
        "e\u0301/a.mid",
        "é/a.mid",
        "a" * 250 + "/" + "b" * 250 + ".mid",
        "a\nb/c\td.mid",
        ".hidden/.x.mid",
        "con/nul.mid",
        "trailing. /dot..mid",
        "emoji 🎵/x.mid",
        "a//b/./c.mid",
        "\u202egpj/x.mid",
        "a.mid/b.mid",
        "a.mid",
    ]
    path = write_tar(
        tmp_path / "a.tgz",
        [member(name, midi(number)) for number, name in enumerate(names)],
        format=tarfile.GNU_FORMAT,
    )
    download(tmp_path / "root", "--source", path)
    found = corpus(tmp_path / "root")
    assert sorted(found.values()) == sorted(midi(number) for number in range(len(names)))
    assert len({name.casefold() for name in found}) == len(names)
    assert "Björk/Jóga.mid" in found and "日本/歌.mid" in found
    for name in found:
        name.encode()
        assert name.isprintable() and not any(part.startswith(".") for part in name.split("/"))


@pytest.mark.parametrize("n", [40, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_archives_end_in_a_message(tmp_path, n, capsys):
    """Bytes cut, changed or put in at random: either the corpus comes out or the stage says what is
    wrong."""
    chance = random.Random(n)
    files = {f"a/{number}.mid": midi(number) for number in range(30)}
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    seeds = [tar_bytes(files), gzip.decompress(tar_bytes(files)), (tmp_path / "a.zip").read_bytes()]
    whole = 0
    for number in range(n):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 1, 3, 20))):
            at, kind = chance.randrange(len(data)), chance.random()
            if kind < 0.5:
                data[at] = chance.randrange(256)
            elif kind < 0.8:
                del data[at : at + chance.choice((1, 100, len(data)))]
            else:
                data[at:at] = chance.randbytes(chance.choice((1, 50)))
            data = data or bytearray(b"x")
        (tmp_path / "x").write_bytes(data)
        folder = tmp_path / f"out{number}"
        folder.mkdir()
        try:
            gather(tmp_path / "x", Collected(folder, io.StringIO()))
            whole += 1
        except Refused:
            pass
        assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert whole < n


@pytest.mark.parametrize(
    "body, words",
    [
        (b"", "empty"),
        (b"<html>404</html>", "web page"),
        (b"MThd\0\0", "MIDI file without its ending"),
        (b"\0" * 2000, "no .tar.gz"),
        (gzip.compress(b"hello"), "damaged"),
        (b"PK\x05\x06" + bytes(18), "no music that can be read"),
        (b"BZh9garbage", "no .tar.gz"),
    ],
    ids=["nothing", "page", "MIDI", "zeros", "gzip of a text", "zip of nothing", "torn bzip2"],
)
def test_what_is_no_archive(tmp_path, body, words):
    (tmp_path / "a").write_bytes(body)
    assert words in download(tmp_path / "root", "--source", tmp_path / "a", code=1)


def peak_memory(source, root):
    """MiB that a run of stage 01 needs at most."""
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True,"
        " stdout=subprocess.DEVNULL); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            script,
            sys.executable,
            HERE / "01_download.py",
            "--root",
            root,
            "--source",
            source,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout) / 1024


@pytest.mark.parametrize("n_files", [3000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_archive(tmp_path, n_files):
    def members(n):
        return (member(f"lmd/{number % 251:03}/{number}.mid", midi(number)) for number in range(n))

    small = peak_memory(write_tar(tmp_path / "small.tgz", members(300)), tmp_path / "small")
    large = peak_memory(write_tar(tmp_path / "large.tgz", members(n_files)), tmp_path / "large")
    assert len(os.listdir(tmp_path / "large/data/raw_midi")) == 251
    assert large < small + 10 + n_files * 500 / 2**20  # the names, not the files


def test_ten_gigabytes_of_zeros_in_one_member(tmp_path):
    """The member is skipped for its size as it streams past; the archive is refused as a bomb."""
    info, _ = member("zeros.mid")
    info.size = 10 << 30
    zeros = gzip.compress(bytes(1 << 20), 9)
    with open(tmp_path / "a.tgz", "wb") as file:
        file.write(
            gzip.compress(
                member("a/b.mid", midi(1))[0].tobuf() + midi(1).ljust(512, b"\0") + info.tobuf()
            )
        )
        for _ in range(10 << 10):
            file.write(zeros)
    assert "bomb" in download(tmp_path / "root", "--source", tmp_path / "a.tgz", code=1)
    assert not (tmp_path / "root/data/raw_midi").exists()
