"""Files exchanged for others: refused with the reason, and nothing in them is executed."""

import copy
import importlib
import io
import json
import os
import pickle
import random
import shutil

from study.stages.files import file_digest, read_json, value_digest
from study.stages.manifest import input_problems, manifest_path, seal

import numpy as np
import pytest

from common import load_tokenizer
from fault_roots import outputs, run_stage
from study.train import checkpoints

pytestmark = pytest.mark.faults


class Code:
    """Pickles to a call of os.system."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def forge(root, name):
    """Makes the manifest of stage `name` fit files that were changed: a forger who knows the
    format."""
    path = manifest_path(root, name)
    manifest = json.loads(path.read_text())
    for output, expected in manifest["outputs"].items():
        if "files" not in expected:
            expected.update(bytes=(root / output).stat().st_size, sha256=file_digest(root / output))
    manifest["output_digest"] = value_digest(manifest["outputs"])
    manifest["seal"] = seal(manifest)
    path.write_text(json.dumps(manifest))


@pytest.fixture
def canary(tmp_path):
    """A command that leaves a file if it is executed."""
    yield f"touch {tmp_path}/executed"
    assert not (tmp_path / "executed").exists()


def refusal(name, root):
    """What a stage says when it refuses its input; in this process, because loading torch takes
    seconds."""
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(name).main(
            ["--root", str(root), "--quick", "--only", "tiny", "--device", "cpu"]
        )
    return str(stop.value.code)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_tokenizer_with_code(tmp_path, canary, protocol):
    (tmp_path / "tokenizer.pkl").write_bytes(pickle.dumps(Code(canary), protocol=protocol))
    with pytest.raises(ValueError, match="tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.pkl")


def test_stage_refuses_a_tokenizer_with_code(root_for, canary):
    """Whether or not the manifest was forged to fit."""
    root = root_for("04_train_transformers")
    (root / "data/tokenizer.pkl").write_bytes(pickle.dumps(Code(canary)))
    assert "damaged: data/tokenizer.pkl" in refusal("04_train_transformers", root)
    forge(root, "03_tokenize_split")
    assert "tokenizer.pkl is not a tokenizer" in refusal("04_train_transformers", root)
    assert not list(root.glob("checkpoints/*.pt"))


@pytest.mark.parametrize("what", ["out of vocabulary", "with code", "not an array", "cut", "empty"])
def test_tokens(root_for, canary, what):
    root = root_for("04_train_transformers")
    path = root / "data/train_tokens.npy"
    tokens = np.load(path)
    if what == "out of vocabulary":
        tokens[len(tokens) // 2] = 250
    elif what == "empty":
        tokens = tokens[:0]
    np.save(path, np.array([Code(canary)], dtype=object) if what == "with code" else tokens)
    if what == "not an array":
        path.write_bytes(b"hello")
    elif what == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    forge(root, "03_tokenize_split")
    assert "token" in refusal("04_train_transformers", root)
    assert not list(root.glob("checkpoints/*.pt"))


def test_checkpoint_with_code(tmp_path, canary):
    torch = importlib.import_module("torch")
    buffer = io.BytesIO()
    torch.save({"format": 1, "config": {}, "model": Code(canary)}, buffer)
    for data in (pickle.dumps(Code(canary)), buffer.getvalue(), b"", b"PK\3\4", os.urandom(500)):
        (tmp_path / "x.pt").write_bytes(data)
        with pytest.raises(ValueError, match="x.pt"):
            checkpoints.load_checkpoint(tmp_path / "x.pt")


@pytest.mark.slow
def test_checkpoints(root_for, canary):
    """Two checkpoints exchanged, one with code in its place, one of another tokenizer: 06 and 07
    refuse."""
    root = root_for("06_fit_scaling")
    one, other, aside = (
        root / f"checkpoints/{name}" for name in ("transformer_tiny.pt", "lstm_tiny.pt", "aside")
    )
    shutil.copy(one, aside)
    shutil.copy(other, one)
    shutil.copy(aside, other)
    assert "transformer_tiny.pt" in run_stage("06_fit_scaling", root, code=1)
    root = root_for("07_train_best_and_generate")
    run_stage("07_train_best_and_generate", root)
    best = root / "checkpoints/best_model.pt"
    best.write_bytes(pickle.dumps(Code(canary)))
    before = outputs(root)
    assert "best_model.pt" in run_stage(
        "07_train_best_and_generate", root, "--num-samples", 1, code=1
    )
    assert outputs(root) == before
    shutil.copy(root / "checkpoints/lstm_tiny.pt", best)
    run_stage("07_train_best_and_generate", root)  # makes it anew


def edits(manifest, chance):
    """A manifest after one random edit by hand: an entry gone, of another type, or with another
    value."""
    changed = copy.deepcopy(manifest)
    place = changed
    while True:
        key = (
            chance.choice(list(place)) if isinstance(place, dict) else chance.randrange(len(place))
        )
        if isinstance(place[key], (dict, list)) and place[key] and chance.random() < 0.6:
            place = place[key]
            continue
        if chance.random() < 0.3 and isinstance(place, dict):
            del place[key]
        else:
            place[key] = chance.choice(
                [None, 0, -1, 1e9, "", "x", "../../etc/passwd", [], {}, [1], {"a": 1}, True]
            )
        return changed


@pytest.mark.parametrize("n", [150, pytest.param(5000, marks=pytest.mark.slow)])
def test_edited_manifests_never_surprise(root_for, n):
    """No edit is believed, and none ends in an exception."""
    root, chance = root_for("03_tokenize_split"), random.Random(n)
    path = manifest_path(root, "02_midi_to_abc")
    text = path.read_text()
    original = json.loads(text)
    for _ in range(n):
        manifest = edits(original, chance)
        path.write_text(json.dumps(manifest))
        problems = input_problems(root, "02_midi_to_abc")
        assert all(isinstance(words, str) for problem in problems for words in problem)
        assert problems or manifest == original
    for _ in range(n):  # bytes changed
        data = bytearray(text.encode())
        data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
        assert input_problems(root, "02_midi_to_abc") or read_json(path) == original
    for garbage in (
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"output_digest": 1}',
        b"1e999",
    ):
        path.write_bytes(garbage)
        assert input_problems(root, "02_midi_to_abc")
    path.write_text(text)
    assert not input_problems(root, "02_midi_to_abc")


def test_changed_output_is_damaged(root_for):
    root = root_for("03_tokenize_split")
    victim = next((root / "data/abc_notation").rglob("*.abc"))
    text = victim.read_text()
    victim.write_text(text.replace("|", "||", 1))
    assert "damaged" in run_stage("03_tokenize_split", root, code=1)
    victim.unlink()
    assert "files instead of" in run_stage("03_tokenize_split", root, code=1)
    run_stage("02_midi_to_abc", root)
    assert victim.read_text() == text
