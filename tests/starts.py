"""Scripts in processes of their own, as a user starts them, but forked from a process in which
torch is loaded already: to load it, and what its optimizers load, takes longer than the work of a
tiny model. Nothing of the project is in it."""

import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

HERE = Path(__file__).resolve().parent.parent
SECONDS = 900  # that a script may take, on a busy machine too
LOADED = ("torch._dynamo", "matplotlib.pyplot", "scipy.optimize", "symusic", "jinja2")


@lru_cache(maxsize=1)
def nursery():
    """The process that forks; it ends with this one."""
    return subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def start(words, cwd=HERE, path=()):
    """Like subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True), of a
    script (not -c or
    -m); path: folders of more modules."""
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder) / name for name in ("stdout", "stderr")]
        job = {"words": words, "cwd": cwd, "path": path, "said": said}
        nursery().stdin.write(json.dumps(job, default=str) + "\n")
        nursery().stdin.flush()
        code = int(nursery().stdout.readline())
        stdout, stderr = (path.read_text(errors="replace") for path in said)
    return SimpleNamespace(returncode=code, stdout=stdout, stderr=stderr)


@contextlib.contextmanager
def an_end(seconds=30):
    """Fails what needs more CPU than `seconds`: many times what it should, on any machine."""

    def too_long(*_):
        raise AssertionError(f"it had not ended after {seconds} seconds of CPU")

    signal.signal(signal.SIGVTALRM, too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def become(words, cwd, path, said):
    """Makes this process that of a script."""
    for number, file in enumerate([os.devnull, *said]):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), number)
    os.chdir(cwd)
    signal.alarm(SECONDS)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv, sys.path[:1] = words, [str(Path(words[0]).resolve().parent), *path]
    runpy.run_path(words[0], run_name="__main__")


def main():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in LOADED:
        importlib.import_module(name)
    gc.freeze()  # what a fork writes to has to be copied for it
    for line in sys.stdin:
        child = multiprocessing.get_context("fork").Process(target=become, kwargs=json.loads(line))
        child.start()
        child.join()
        print(child.exitcode, flush=True)


if __name__ == "__main__":
    main()
