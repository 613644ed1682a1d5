"""Downloads that break in every way: the exact bytes arrive, or one clear error; the corpus before
stays valid."""

import gzip
import hashlib
import random
import socket
import subprocess
import sys
import tarfile
import threading
import time

import pytest

from loopback import (  # noqa: F401
    HERE,
    break_after,
    corpus,
    download,
    lie,
    midi,
    server,
    stall_after,
    status,
    tar_bytes,
)

pytestmark = pytest.mark.faults
BIG = {
    f"a{number % 7}/{number}.mid": midi(number) + random.Random(number).randbytes(400)
    for number in range(400)
}


def arrives(tmp_path, server, faults):
    """Downloads a 170 kB archive through `faults`: all of it arrives, byte for byte."""
    server.body, server.faults = tar_bytes(BIG), list(faults)
    output = download(
        tmp_path,
        "--source",
        server.url,
        "--sha256",
        hashlib.sha256(server.body).hexdigest(),
    )
    assert corpus(tmp_path) == BIG
    assert (tmp_path / "data/downloads/music.tar.gz").read_bytes() == server.body
    return output


@pytest.mark.parametrize("n", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_resets_at_random_bytes(tmp_path, server, n):
    chance = random.Random(n)
    arrives(tmp_path, server, [break_after(chance.randrange(3000), reset=True) for _ in range(n)])
    assert len(server.requests) == n + 1
    positions = [int(asked[6:-1]) for asked in server.requests if asked]
    assert positions == sorted(positions)  # it went on, never back


@pytest.mark.parametrize(
    "faults",
    [
        [stall_after(5000, 2)],
        [stall_after(0, 2)],
        [break_after(9), break_after(0)],
        [lie(Content_Length=10**6)],
        [status(500)] * 3,
        [status(503, [("Retry-After", "1")])],
        [status(429, [("Retry-After", "0")])],
        [status(408)],
        [break_after(5000), status(416)],
        [break_after(5000), lie(ETag='"another"')],
        [break_after(5000), lambda handler: setattr(handler, "start", lambda: 0)],
        [lambda handler: handler.answer(head=2000, pause=0.02) or True],
    ],
    ids=[
        "stall",
        "silence",
        "short",
        "longer length",
        "500",
        "503 with Retry-After",
        "429",
        "408",
        "range refused",
        "changed between ranges",
        "no range support",
        "trickle",
    ],
)
def test_recovers(tmp_path, server, faults):
    arrives(tmp_path, server, faults)


def test_no_validators_means_starting_again(tmp_path, server):
    arrives(
        tmp_path,
        server,
        [lambda handler: handler.answer(head=5000, ETag=None) or True, lie(ETag=None)],
    )
    assert server.requests == [None, None]


def test_a_killed_download_goes_on(tmp_path, server):
    server.body, server.faults = tar_bytes(BIG), [stall_after(60_000, 3)]
    child = subprocess.Popen(
        [sys.executable, HERE / "01_download.py", "--root", tmp_path, "--source", server.url]
    )
    part = tmp_path / "data/downloads/music.tar.gz.part"
    while not (part.exists() and part.stat().st_size >= 50_000):
        time.sleep(0.02)
    child.kill()
    child.wait()
    have = part.stat().st_size
    download(tmp_path, "--source", server.url)
    assert corpus(tmp_path) == BIG and server.requests == [None, f"bytes={have}-"]


def test_redirects(tmp_path, server):
    path = server.url.rsplit("/", 1)[0]
    arrives(
        tmp_path,
        server,
        [
            status(301, [("Location", "/b")]),
            status(302, [("Location", path + "/c")]),
            status(307, [("Location", "/d.tgz")]),
        ],
    )


@pytest.mark.parametrize(
    "fault, words",
    [
        (status(404), "404"),
        (status(403), "403"),
        (status(410), "410"),
        (status(204), "empty"),
        (status(302, [("Location", "file:///etc/passwd")]), ""),
        (lie(Content_Length=150), "damaged"),
        (lie(Content_Length=900), "given up"),
    ],
)
def test_hopeless(tmp_path, server, fault, words):
    server.faults = [fault] * 50
    output = download(tmp_path, "--source", server.url, code=1)
    assert (
        words in output
        and "--source music21" in output
        and not (tmp_path / "data/raw_midi").exists()
    )
    server.faults = []
    download(tmp_path, "--source", server.url)  # nothing of the failure stands in the way


@pytest.mark.parametrize(
    "fault",
    [status(302, [("Location", "/loop")]), status(503), break_after(0)],
    ids=["redirect loop", "503", "closed"],
)
def test_faults_that_never_end_do(tmp_path, server, fault):
    server.faults = [fault] * 1000
    output = download(tmp_path, "--source", server.url, code=1)
    assert "--source music21" in output


def test_garbage_in_place_of_http(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            for _ in range(6):
                connection = listener.accept()[0]
                connection.recv(1000)
                connection.sendall(b"220 mail.example ESMTP\r\n" + random.randbytes(200))
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        output = download(
            tmp_path,
            "--source",
            f"http://127.0.0.1:{listener.getsockname()[1]}/a.zip",
            code=1,
        )
    assert "given up" in output


def test_bomb(tmp_path, server):
    """10 GB of zeros in 10 MB: ends within seconds and a few hundred MB."""
    member = tarfile.TarInfo("zeros.mid")
    member.size = 10 << 30
    zeros = bytes(1 << 20)
    packed = gzip.compress(zeros, 9)
    server.body = gzip.compress(member.tobuf()) + packed * 512  # a gzip file may have many parts
    output = download(tmp_path, "--source", server.url, code=1)
    assert "bomb" in output and not (tmp_path / "data/raw_midi").exists()


def test_disk_full_keeps_what_arrived(tmp_path, server):
    server.body = tar_bytes(BIG)
    script = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000));"
        f" sys.argv = ['01_download.py', '--root', {str(tmp_path)!r}, '--source', {server.url!r}];"
        f" sys.path.insert(0, {str(HERE)!r}); runpy.run_path({str(HERE / '01_download.py')!r},"
        " run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1 and "size limit" in done.stderr and "Traceback" not in done.stderr
    have = (tmp_path / "data/downloads/music.tar.gz.part").stat().st_size
    assert have > 0
    download(tmp_path, "--source", server.url)
    assert corpus(tmp_path) == BIG and server.requests[-1] == f"bytes={have}-"
