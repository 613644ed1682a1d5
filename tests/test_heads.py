"""Knocking out attention heads, and the scores beside it."""

import numpy as np
import pytest
import torch

from benchmarks import bench_heads
from common import BEGIN, END, CharTokenizer
from study.evaluate import figures, heads
from study.evaluate.induction import KINDS, bars_of, read_tunes
from study.evaluate.measurements import Digested
from study.evaluate.models import LoadedModel
from study.families import build_model
from tunes import music

TOKENIZER = CharTokenizer(music(8))


@pytest.fixture
def loaded():
    torch.manual_seed(0)
    shape = {"n_layer": 2, "n_head": 3, "d_model": 24, "d_ff": 32, "token_shift": True}
    config = {"family": "transformer", "vocab_size": TOKENIZER.vocab_size, "block_size": 256}
    model = build_model({**config, **shape, "dropout": 0.0, "rotary": True, "qk_norm": True})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return LoadedModel(model.eval(), TOKENIZER, "cpu", "")


def stream(*texts):
    parts = [np.concatenate(([BEGIN], TOKENIZER.encode(text), [END])) for text in texts]
    return np.concatenate(parts)


def test_a_head_that_is_off_gives_nothing_and_is_on_again_afterwards(loaded):
    tokens = torch.as_tensor(stream(music(8)))[None, :64]
    before = loaded.model(tokens)[0]
    with heads.knocked_out(loaded.model, [(1, 2)]):
        off = loaded.model(tokens)[0]
    assert torch.equal(loaded.model(tokens)[0], before)
    with torch.no_grad():
        loaded.model.blocks[1].attention_out.weight[:, 16:] = 0  # what leads away from head 3
    assert torch.allclose(loaded.model(tokens)[0], off, atol=1e-6)
    assert not torch.allclose(before, off, atol=1e-3)


def test_the_mean_of_a_head_stands_in_for_it(loaded):
    tunes = read_tunes(loaded, stream(music(8)))
    means = bench_heads.mean_outputs(loaded.model, tunes)
    seen = []
    block = loaded.model.blocks[1]
    hook = block.attention_out.register_forward_pre_hook(lambda module, x: seen.append(x[0]))
    tokens = torch.as_tensor(tunes[0].tokens[None, :-1])
    loaded.model(tokens)
    hook.remove()
    assert torch.allclose(means[1], seen[0][0].mean(0), atol=1e-5)
    output = block.attention_out
    hook = output.register_forward_hook(lambda module, x, y: seen.append(x[0]))
    with bench_heads.at_its_mean(loaded.model, (1, 0), means):
        loaded.model(tokens)
    hook.remove()
    assert torch.allclose(seen[1][0, :, :8], means[1][:8].expand(tokens.shape[1], 8))
    assert torch.allclose(seen[1][..., 8:], seen[0][..., 8:], atol=1e-5)


def test_matches_are_the_last_earlier_places_of_the_newest_tokens():
    tokens = np.array([9, 1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4, 5, 8, 8, 1, 2, 3, 4])
    now, then = heads.matches(tokens)
    assert list(zip(now, then)) == [(11, 4), (12, 5), (18, 11)]
    assert heads.matches(np.arange(20))[0].size == 0


def test_scores_are_mean_attention_after_a_match(loaded):
    text = music(4).rstrip() + "C4D4E4F4|C4D4E4F4|\n"
    tune = read_tunes(loaded, stream(text))[0]
    found = bench_heads.scores(loaded, [tune])
    now, then = heads.matches(tune.tokens[:-1])
    weights = heads.attention_weights(loaded.model, torch.as_tensor(tune.tokens[:-1]))
    by_hand = [float(np.mean([weights[1][2, i, j + 2] for i, j in zip(now, then)]))]
    assert found[1, 2]["attention"][2] == pytest.approx(by_hand[0], rel=1e-4)
    assert found[1, 2]["even"] == pytest.approx(np.mean(1 / (now + 1)))
    assert all(np.isfinite(row["copying"]) for row in found.values())


def test_every_head_is_knocked_out_once_and_a_model_that_saves_nothing_none(loaded, monkeypatch):
    text = "X:1\nM:4/4\nL:1/16\nQ:1/4=120\nK:C\n" + "C4D4E4F4|G4A4B4F4|C4D4E4F4|B4G4F4D4|\n"
    tokens = Digested(stream(text, music(8)), "")
    monkeypatch.setattr(heads, "LEAST_SAVED", -99)
    found = heads.heads(loaded, tokens)
    assert [row["heads"] for row in found["heads"]] == [[[i, j]] for i in (0, 1) for j in range(3)]
    assert found["best"]["saved"] == min(row["saved"] for row in found["heads"])
    pair, other = found["pair"]["heads"], found["control"]["heads"]
    assert len(pair) == len(other) == 2 and not any(head in pair for head in other)
    monkeypatch.setattr(heads, "LEAST_SAVED", 99)
    few = heads.heads(loaded, tokens)
    assert few["heads"] == [] and few["best"] is None and few["all"]["n_bars"] == 1
    shape = {"family": "lstm", "n_layer": 1, "d_embedding": 4, "d_hidden": 4, "dropout": 0.0}
    lstm = build_model({**shape, "vocab_size": TOKENIZER.vocab_size, "block_size": 64})
    assert heads.heads(loaded._replace(model=lstm), tokens) is None


def test_bars_are_told_apart_by_whether_and_where_they_were_heard():
    head = "X:1\nM:4/4\nL:1/16\nK:C\n"
    far = "".join(f"{note}8{other}8|" for note in "cdefgabABD" for other in "CEG")
    text = head + "C4D4E4F4|C4D4E4F4|C4D4E4F4|C4D4E4A4|" + "G4B4c4e4|" + far + "G4B4c4e4|\n"
    kinds = {
        text[start:end] + str(i): kinds for i, (start, end, kinds) in enumerate(bars_of(text, 999))
    }
    named = [kind for kinds in kinds.values() for kind in kinds]
    assert named.count("first") == 2 and named.count("later") == 1
    assert named.count("near") == 1 and named.count("far_first") == 1
    assert any("similar" in kind for key, kind in kinds.items() if key.startswith("C4D4E4A4"))
    assert set(named) <= set(KINDS)


def test_the_figure_of_heads(tmp_path):
    row = {"heads": ["1.2"], "saved": 0.1, "bits_per_char": 1.5}
    models = {"transformer_small": {"all": row, "best": row}, "transformer_medium": {"all": row}}
    models["transformer_medium"] |= {"best": row, "pair": row, "control": row}
    assert figures.draw_heads(tmp_path, models) == ["heads.png", "heads.svg"]
    assert figures.draw_heads(tmp_path, {}) == [] and not list(tmp_path.iterdir())
