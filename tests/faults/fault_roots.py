"""What the fault tests share: small roots with some stages done, and the digests of what a stage
has written."""

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from starts import start

HERE = Path(__file__).resolve().parent.parent.parent
STAGES = importlib.import_module("study.pipeline").REQUIRED
TINY = {  # flags that make a stage small; every call of a stage in these tests has them
    "01_download": ("--source", "music21", "--limit", "70"),
    "02_midi_to_abc": ("--workers", "2"),
    "04_train_transformers": ("--only", "tiny", "--device", "cpu"),
    "05_train_lstms": ("--only", "tiny", "--device", "cpu"),
    "07_train_best_and_generate": ("--best", "tiny:1", "--device", "cpu"),
}
MEASURED = {
    "seconds",
    "tokens_per_second",
    "peak_memory_bytes",  # in the records of a run
    "checkpoint_sha256",
    "sha256",
    "key",
}  # digests of files that hold such a number
SINGLE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # several tests run at once on two cores


def command(name, root, *flags):
    return [
        sys.executable,
        HERE / f"{name}.py",
        "--root",
        root,
        "--quick",
        *TINY.get(name, ()),
        *map(str, flags),
    ]


def run_stage(name, root, *flags, code=0, **popen):
    """Runs a stage as a user does, checks its exit code and that no traceback is shown; returns its
    output."""
    words = command(name, root, *flags)
    done = (
        start(words[1:])
        if not popen
        else subprocess.run(
            words,
            capture_output=True,
            text=True,
            errors="replace",
            **{"env": SINGLE_THREAD, **popen},
        )
    )
    assert code is None or done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def outputs(root):
    """{path: SHA-256} of everything below a root but records of the run itself (manifests, locks,
    indexes)."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.name
        if (
            path.is_file()
            and not name.startswith(".")
            and not name.endswith((".manifest.json", ".running.json"))
            and "downloads" not in path.parts
        ):
            found[str(path.relative_to(root))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def times_apart(root):
    """The digests of `outputs`, for JSON and checkpoints those of what is in them but times, speeds
    and memory."""
    torch, checkpoints = importlib.import_module("torch"), importlib.import_module(
        "study.train.checkpoints"
    )
    found = outputs(root)
    for name in found:
        path = root / name
        if path.suffix == ".pt":
            content = torch.load(path, weights_only=True)
            content["model"] = checkpoints.weights_digest(content["model"])
            found[name] = without_times(content)
        elif path.suffix in (".json", ".jsonl"):
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            found[name] = [without_times(json.loads(line)) for line in lines]
    return found


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(part) for key, part in value.items() if key not in MEASURED}
    return [without_times(part) for part in value] if isinstance(value, list) else value


@pytest.fixture(scope="session")
def before(tmp_path_factory):
    """before("03_tokenize_split") is a root in which the stages before it are done; copy it, do not
    change it."""
    base, made = tmp_path_factory.mktemp("pipeline"), {}

    def root_before(name):
        number = STAGES.index(name)
        if name not in made:
            root = base / f"before-{name}"
            if number:
                shutil.copytree(root_before(STAGES[number - 1]), root, symlinks=True)
                if not (HERE / f"{STAGES[number - 1]}.py").exists():
                    pytest.skip(f"{STAGES[number - 1]}.py is not there")
                run_stage(STAGES[number - 1], root)
            else:
                root.mkdir()
            made[name] = root
        return made[name]

    return root_before


@pytest.fixture
def root_for(before, tmp_path):
    """root_for("03_tokenize_split") is a fresh copy of that root, each call another."""

    def copy(name):
        root = tmp_path / f"root{len(list(tmp_path.iterdir()))}"
        shutil.copytree(before(name), root, symlinks=True)
        return root

    return copy
