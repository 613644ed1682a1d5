"""A machine that fails: full disk, read-only folder, little memory, a clock that jumps, two runs at
once."""

import ctypes
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from fault_roots import HERE, SINGLE_THREAD, STAGES, command, outputs, run_stage, times_apart
from loopback import server  # noqa: F401 (server is a fixture)

pytestmark = pytest.mark.faults
EVERY_STAGE = [*STAGES[:3], *(pytest.param(name, marks=pytest.mark.slow) for name in STAGES[3:])]


def limited(what, value):
    return {"preexec_fn": lambda: resource.setrlimit(what, (value, value))}


def without_override():
    """Even root must keep to the permissions of files: CAP_DAC_OVERRIDE (1) leaves the bounding
    set."""
    if os.geteuid() == 0 and ctypes.CDLL(None, use_errno=True).prctl(24, 1, 0, 0, 0):
        os._exit(99)


@pytest.mark.parametrize("name", EVERY_STAGE)
@pytest.mark.parametrize(
    "limit",
    [
        2000,
        pytest.param(0, marks=pytest.mark.slow),
        pytest.param(700, marks=pytest.mark.slow),
        pytest.param(20_000, marks=pytest.mark.slow),
    ],
)
def test_disk_full(name, limit, root_for):
    """No file may grow beyond `limit` bytes: first on an empty root, then on one that has the
    outputs already."""
    root = root_for(name)
    had = outputs(root)
    output = run_stage(name, root, code=None, **limited(resource.RLIMIT_FSIZE, limit))
    if "next:" in output:
        pytest.skip("no file was that large")
    assert re.search("size limit|disk is full", output) and "->" in output
    assert had.items() <= outputs(root).items()
    run_stage(name, root)
    complete = times_apart(root)
    run_stage(name, root, "--force", code=None, **limited(resource.RLIMIT_FSIZE, limit))
    now = times_apart(root)
    assert {path: now.get(path) for path in complete} == complete
    run_stage(name, root)
    assert times_apart(root) == complete


@pytest.mark.parametrize(
    "name", [STAGES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in STAGES[1:3])]
)
def test_tmpfs_full(name, root_for, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    root = root_for(name)
    used = sum(path.stat().st_size + 4096 for path in root.rglob("*"))
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={used + 60_000}", "tmpfs", disk],
            stderr=subprocess.DEVNULL,
        ).returncode
    ):
        pytest.skip("only root can mount a small disk")
    try:
        shutil.copytree(root, disk / "root")
        output = run_stage(name, disk / "root", code=1)
        assert "disk is full" in output and "->" in output
        subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
        run_stage(name, disk / "root")
        run_stage(name, root)
        assert outputs(disk / "root") == outputs(root)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("name", EVERY_STAGE)
def test_read_only_folder(name, root_for):
    """The output folders cannot be written."""
    root = root_for(name)
    had = outputs(root)
    try:
        for path in [root, *root.rglob("*")]:
            os.chmod(path, 0o555 if path.is_dir() else 0o444)
        output = run_stage(name, root, code=1, preexec_fn=without_override)
        assert re.search("permission denied|read-only", output) and "->" in output
        assert outputs(root) == had
    finally:
        for path in [root, *root.rglob("*")]:
            os.chmod(path, 0o755 if path.is_dir() else 0o644)


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_little_memory(name, root_for):
    """Address-space limits from hopeless to enough: the stage ends with a message or succeeds, and
    never hangs."""
    root, ended = root_for(name), []
    run_stage(name, root)
    expected = times_apart(root)
    for mebibytes in (120, 300, 600, 1000):
        done = subprocess.run(
            command(name, root, "--force"),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=300,
            env=SINGLE_THREAD,
            **limited(resource.RLIMIT_AS, mebibytes << 20),
        )
        ended.append((mebibytes, done.returncode, done.stderr[-300:]))
        now = times_apart(root)
        assert {path: now.get(path) for path in expected} == expected, ended
        if done.returncode:
            run_stage(name, root)
            assert times_apart(root) == expected
    assert all(code == 0 or words for _, code, words in ended), ended


def test_clock_goes_backwards(root_for, tmp_path):
    """Time stamps from the future on every input, and time.time() that runs backwards: nothing is
    done twice, nothing is refused, and the outputs are the same."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(
        "import itertools, time\nbackwards = itertools.count()\ntime.time = lambda: 2e9 - 100 *"
        " next(backwards)\n"
    )
    backwards = {**SINGLE_THREAD, "PYTHONPATH": str(tmp_path / "site")}
    straight, crooked = root_for("01_download"), root_for("01_download")
    for name in STAGES[:2]:
        run_stage(name, straight)
        run_stage(name, crooked, env=backwards)
        for path in crooked.rglob("*"):
            os.utime(path, (2**31 - 1, 2**31 - 1))
    assert outputs(crooked) == outputs(straight)
    for name in STAGES[:2]:
        assert "up to date" in run_stage(name, crooked)


def test_two_runs_at_once(root_for, tmp_path, server):  # noqa: F811
    """The second names the first and touches nothing; the first goes on to the end."""
    root = root_for("01_download")
    meanwhile = threading.Event()
    server.faults = [lambda handler: meanwhile.wait(100) and None]
    flags = [sys.executable, HERE / "01_download.py", "--root", root, "--source", server.url]
    first = subprocess.Popen(flags, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (root / "data/01_download.running.json").exists():
        time.sleep(0.02)
    second = subprocess.run(flags, capture_output=True, text=True)
    assert (
        second.returncode == 1 and f"process {first.pid}" in second.stderr and "->" in second.stderr
    )
    third = run_stage("02_midi_to_abc", root, code=1)
    assert "01_download" in third
    meanwhile.set()
    assert first.wait() == 0, first.stdout.read()
    assert "up to date" in subprocess.run(flags, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    "name", ["02_midi_to_abc", pytest.param("03_tokenize_split", marks=pytest.mark.slow)]
)
def test_second_run_while_the_first_is_stopped(name, root_for):
    """The first is frozen in the middle of its work (a laptop's lid): its lock holds; thawed, it
    completes."""
    root = root_for(name)
    first = subprocess.Popen(command(name, root), env=SINGLE_THREAD, stdout=subprocess.DEVNULL)
    try:
        while not (root / f"data/{name}.running.json").exists():
            assert first.poll() is None
            time.sleep(0.002)
        first.send_signal(signal.SIGSTOP)
        output = run_stage(name, root, code=None)
        if "up to date" in output:
            pytest.skip("the first run had ended")
        assert f"in use in this root by process {first.pid}" in output
    finally:
        first.send_signal(signal.SIGCONT)
    assert first.wait() == 0
    reference = root_for(name)
    run_stage(name, reference)
    assert outputs(root) == outputs(reference)
