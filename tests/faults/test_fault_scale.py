"""Very many files, and fuzzed ones: slow; `make test-faults` runs them."""

import os
import subprocess
import sys
import time

import pytest

from fault_roots import HERE, SINGLE_THREAD
from loopback import midi

pytestmark = [pytest.mark.faults, pytest.mark.slow]


def write_corpus(folder, n):
    """n small files in 250 folders, each with different notes."""
    for number in range(n):
        if number < 250:
            (folder / f"artist {number}").mkdir(parents=True)
        notes = b"".join(
            bytes([0, 0x90, 40 + number * step % 50, 80, 60, 0x80, 40 + number * step % 50, 0])
            for step in range(1, 21)
        )
        track = notes + bytes.fromhex("00ff2f00")
        (folder / f"artist {number % 250}/{number}.mid").write_bytes(
            midi(0)[:14] + b"MTrk" + len(track).to_bytes(4, "big") + track
        )


def measured(name, root, *flags):
    """(processor seconds, peak MiB of the largest process) of a stage."""
    script = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:],"
        " stdout=subprocess.DEVNULL).returncode; used ="
        " resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_utime + used.ru_stime,"
        " used.ru_maxrss); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, sys.executable, HERE / f"{name}.py", "--root", root, *flags],
        capture_output=True,
        text=True,
        env=SINGLE_THREAD,
    )
    assert done.returncode == 0, done.stderr
    seconds, kibibytes = done.stdout.split()
    return float(seconds), int(kibibytes) / 1024


@pytest.mark.parametrize("n", [int(os.environ.get("FAULT_SCALE_FILES", 200_000))])
def test_two_hundred_thousand_files(tmp_path, n):
    """01 and 02 on a local folder: memory by the names only, time linear, 02 goes on where it was
    killed."""
    sizes = {}
    for files in (n // 10, n):
        write_corpus(tmp_path / f"music{files}", files)
        root = tmp_path / f"root{files}"
        sizes[files] = [measured("01_download", root, "--source", tmp_path / f"music{files}")]
        child = subprocess.Popen(
            [sys.executable, HERE / "02_midi_to_abc.py", "--root", root], env=SINGLE_THREAD
        )
        journal = root / "data/.02_midi_to_abc.journal.jsonl"
        while child.poll() is None and not (
            journal.exists() and journal.stat().st_size > 100 * files // 3
        ):
            time.sleep(0.05)
        child.kill()
        child.wait()
        sizes[files].append(measured("02_midi_to_abc", root))
        assert "up to date" in run_stage_plain("02_midi_to_abc", root)
    print(sizes)
    for stage in (0, 1):
        (few_seconds, few_mebibytes), (seconds, mebibytes) = sizes[n // 10][stage], sizes[n][stage]
        assert mebibytes < few_mebibytes + n * 2000 / 2**20
        assert seconds < 20 * few_seconds + 10


def run_stage_plain(name, root):
    done = subprocess.run(
        [sys.executable, HERE / f"{name}.py", "--root", root],
        capture_output=True,
        text=True,
        env=SINGLE_THREAD,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("n", [int(os.environ.get("FAULT_FUZZ_FILES", 200_000))])
def test_fuzzed_midi(before, n):
    """benchmarks/bench_fuzz_midi.py finds nothing."""
    seeds = before("02_midi_to_abc") / "data/raw_midi"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_fuzz_midi", seeds, "--files", str(n)],
        capture_output=True,
        text=True,
        cwd=HERE,
    )
    assert done.returncode == 0, done.stdout
