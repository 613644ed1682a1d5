"""Stages killed at random moments and run again: the outputs are those of an undisturbed run, byte
for byte."""

import contextlib
import importlib
import multiprocessing
import os
import random
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from study.stages.files import read_json
from study.stages.manifest import marker_path

import pytest

from fault_roots import SINGLE_THREAD, STAGES, command, outputs, run_stage, times_apart

pytestmark = pytest.mark.faults
FORK = multiprocessing.get_context("fork")


class Forked:
    """A script that runs in a fork of this process, where torch is loaded (that takes longer than
    the work of a tiny model), and saves the state of training every 0.1 instead of 60 seconds.
    Otherwise like a subprocess.Popen."""

    def __init__(self, words):
        importlib.import_module("study.train.suite")
        importlib.import_module("torch._dynamo")  # the optimizers load it
        self.log = tempfile.TemporaryFile("w+")
        self.process = FORK.Process(target=self.run, args=([str(word) for word in words[1:]],))
        self.process.start()
        self.pid = self.process.pid

    def run(self, words):
        os.setsid()
        os.dup2(self.log.fileno(), 2)
        sys.stdout, sys.stderr, sys.argv = open(os.devnull, "w"), open(2, "w", closefd=False), words
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # as in a script that is loading
        importlib.import_module("study.train.runs").CHECKPOINT_SECONDS = 0.1
        importlib.import_module("study.train.calibrate").CALIBRATION_SECONDS = 0.1
        torch = importlib.import_module("torch")
        torch.set_num_threads(1)
        runpy.run_path(words[0], run_name="__main__")

    def poll(self):
        return self.process.exitcode

    returncode = property(poll)

    def wait(self, timeout=None):
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.process.name, timeout)

    def communicate(self, timeout=None):
        self.wait(timeout)
        self.log.seek(0)
        return None, self.log.read()

    def send_signal(self, how):
        if self.returncode is None:
            os.kill(self.pid, how)


def start(name, root):
    """The stage as the leader of a process group."""
    words = command(name, root)
    if name in STAGES[3:]:
        return Forked(words)
    return subprocess.Popen(
        words,
        env=SINGLE_THREAD,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def finish(child):
    error = child.communicate()[1]
    assert child.returncode == 0 and not error, error


def before_any_line(pid):
    """Python itself is starting: it takes SIGINT already (with a traceback), and nothing of the
    project is loaded."""
    caught = int(re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())[1], 16)
    return caught >> signal.SIGINT - 1 & 1 and not caught >> signal.SIGTERM - 1 & 1


def interrupted(name, root_for, how, n_times, same=outputs, longest=1.05):
    """Ends `name` n_times at random moments of its work, each time in a fresh root or in the one
    that the last signal left. `longest`: of the moments, as a share of an undisturbed run. Signals
    while the script is loading (one in ten) or after it has ended do not count. SIGINT goes to all
    processes of the stage, as from a keyboard."""
    chance = random.Random(f"{name} {how} {n_times}")

    def at_work(child, root):
        return (read_json(marker_path(root, name)) or {}).get("pid") == child.pid

    def until_at_work(child, root):
        while child.poll() is None and not at_work(child, root):
            time.sleep(0.002)
        return time.monotonic()

    reference, root = root_for(name), root_for(name)
    run_stage(name, reference)
    began, expected = time.monotonic(), same(reference)
    child = start(name, root)
    loaded = until_at_work(child, root)
    finish(child)
    loading, seconds = loaded - began, time.monotonic() - loaded
    assert same(root) == expected
    root, fresh, hits, signals, roots = root_for(name), True, 0, 0, 1
    while hits < n_times:
        child, signals = start(name, root), signals + 1
        if chance.random() < 0.1:
            time.sleep(chance.uniform(0.05, loading))
        else:
            began = until_at_work(child, root)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(chance.uniform(0, longest * seconds))
                if fresh:  # the first run met a busier machine
                    seconds = min(seconds, time.monotonic() - began)
        while how == signal.SIGINT and child.poll() is None and before_any_line(child.pid):
            time.sleep(0.001)
        hit = at_work(child, root)
        if how == signal.SIGINT and hit:
            with contextlib.suppress(ProcessLookupError):  # it has ended at this very moment
                os.killpg(child.pid, how)
        else:
            child.send_signal(how)
        error = child.communicate(timeout=60 + 20 * seconds)[1]
        hits += hit and child.returncode != 0
        if child.returncode and how != signal.SIGKILL:
            assert "Traceback" not in error, error
            # -how: before the script could say anything
            assert child.returncode in (128 + how, -how), error
        assert signals < 10 * n_times + 20
        fresh = False
        if chance.random() < 0.2 * longest or child.returncode == 0:
            finish(start(name, root))
            assert same(root) == expected
            assert not marker_path(root, name).exists()
            root, fresh, roots = root_for(name), True, roots + 1
    finish(start(name, root))
    assert same(root) == expected
    print(
        f"{name}: {hits} signals {how} at work, {signals - hits} before or after; {roots} roots"
        f" finished; one undisturbed run {seconds:.1f} s and {loading:.1f} s of loading"
    )


@pytest.mark.parametrize("name", STAGES[:3])
@pytest.mark.parametrize(
    "how, n_times",
    [
        (signal.SIGKILL, 2),
        (signal.SIGTERM, 1),
        pytest.param(signal.SIGINT, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, 30, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 10, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 10, marks=pytest.mark.slow),
    ],
)
def test_data_stages(name, how, n_times, root_for):
    interrupted(name, root_for, how, n_times)


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES[3:])
@pytest.mark.parametrize(
    "how, n_times", [(signal.SIGKILL, 30), (signal.SIGTERM, 10), (signal.SIGINT, 10)]
)
def test_model_stages(name, how, n_times, root_for):
    """07 has the longest run and keeps every measurement: it is killed several times on its way to
    the end."""
    interrupted(name, root_for, how, n_times, times_apart, 0.5 if name.startswith("07") else 1.05)


def test_the_next_stage_refuses_half_made_input(root_for):
    """01 dies while it replaces one corpus by another; 02 does not take what it finds."""
    root = root_for("02_midi_to_abc")
    child = subprocess.Popen(
        command("01_download", root, "--force"),
        env=SINGLE_THREAD,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while child.poll() is None and not marker_path(root, "01_download").exists():
        time.sleep(0.002)
    child.kill()
    assert child.wait() and marker_path(root, "01_download").exists()
    assert "unfinished" in run_stage("02_midi_to_abc", root, code=1)
    run_stage("01_download", root)
    run_stage("02_midi_to_abc", root)
