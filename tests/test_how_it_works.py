"""docs/how_it_works.md: its script walks one tune of a small root from MIDI to sample, and the page
fits its bounds."""

import importlib
import re

import pytest

from benchmarks import how_it_works
from common import Transformer, load_tokenizer
from study.families import build_model
from study.train.checkpoints import save_checkpoint

SIZE = {"n_layer": 1, "n_head": 2, "d_model": 16, "d_ff": 32}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A root with real text and an untrained best model."""
    root = tmp_path_factory.mktemp("root")
    for name, *flags in (
        ("01_download", "--source", "music21", "--collections", "airds", "--limit", "80"),
        ("02_midi_to_abc",),
        ("03_tokenize_split",),
    ):
        importlib.import_module(name).main(["--root", str(root), *flags])
    tokenizer = load_tokenizer(root / "data/tokenizer.pkl")
    config = {
        "family": "transformer",
        "vocab_size": tokenizer.vocab_size,
        "block_size": 512,
        "dropout": 0.0,
        **SIZE,
        **Transformer.recipe_flags("tuned"),
    }
    save_checkpoint(
        root / "checkpoints/best_model.pt",
        build_model(config).state_dict(),
        {"config": config, "tokenizer_digest": tokenizer.digest},
        {},
    )
    return root


def test_one_tune_from_midi_to_sample(root, tmp_path, monkeypatch):
    monkeypatch.setattr(how_it_works, "TUNE_CHARS", (150, 1000))
    monkeypatch.setattr(how_it_works, "SAMPLE_CHARS", 60)
    how_it_works.main(["--root", str(root), "--out", str(tmp_path)])
    text = (tmp_path / "how_it_works.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150 and max(map(len, text.splitlines())) <= 200
    assert re.findall(r"(?m)^## (\d)", text) == list("12345678")
    pictures = [tmp_path / target for target in re.findall(r"!\[.*\]\((.*)\)", text)]
    assert len(pictures) == 4 and sum(path.stat().st_size for path in pictures) < 400_000
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    blocks = re.findall(r"(?s)```text\n(.*?)```", text)
    assert [block.startswith("X:1\n") for block in blocks] == [True, True]


def test_what_is_not_there_is_said(root, tmp_path):
    with pytest.raises(SystemExit, match="no such tune"):
        how_it_works.main(["--root", str(root), "--tune", "x.abc", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="folder of a finished run"):
        how_it_works.main(["--root", str(tmp_path), "--out", str(tmp_path)])
