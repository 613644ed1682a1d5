"""The names of the tests are the same in every process: two that share the work must agree."""

import os
import subprocess
import sys

from study.stages.code_key import HERE


def collect(hash_seed):
    """The names of all tests, as a process with this PYTHONHASHSEED finds them."""
    words = ["--collect-only", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=HERE,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return [line for line in done.stdout.splitlines() if "::" in line]


def test_two_processes_one_after_the_other_find_the_same_tests():
    names = collect("0")
    assert names == collect("1") and len(names) == len(set(names)) > 500
