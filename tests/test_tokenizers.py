"""Alphabets beside characters: nothing is lost, losses are per character and per note, and samples
keep their bars."""

import importlib
import importlib.util
import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common import (
    BEGIN,
    END,
    N_SPECIAL,
    RARE,
    TOKENIZERS,
    UNKNOWN,
    CharTokenizer,
    NoteTokenizer,
    load_tokenizer,
)
from music.abc_check import check_abc
from music.abc_text import read_abc
from music.right_bars import RightBars
from music.training_text import training_text
from music.tunebook import split_tunebook
from study.evaluate.sampling import Request, generate
from study.families import build_model
from study.prepare.split_files import count_notes
from study.report import content as results
from study.report.attention import attention_map
from study.train import runs
from study.train.data import Data, load_data
from study.train.loss import evaluate
from tunes import C_MAJOR_HEADER, TWO_VOICES, VALID_TUNES, long_tune

HERE = Path(__file__).resolve().parent.parent
STAGE = importlib.import_module("03_tokenize_split")
LETTERS = "A note is no note. 春眠不覺曉，處處聞啼鳥。夜來風雨聲，花落知多少。|\n"


@pytest.fixture(scope="module")
def tunes():
    """2,000 tunes that people wrote down, as training text."""
    folder = Path(importlib.util.find_spec("music21").submodule_search_locations[0]) / "corpus"
    books = sorted(folder.glob("oneills1850/*.abc")) + sorted(folder.glob("ryansMammoth/*.abc"))
    raw = [
        tune
        for path in books
        for tune in split_tunebook(path.read_bytes().decode("utf-8", "replace"))
    ]
    return [training_text(tune) for tune in raw[:2000]]


@pytest.fixture(scope="module")
def tokenizers(tunes):
    """Of every kind, learnt from the first half of them."""
    return {kind: TOKENIZERS[kind]("\n".join(tunes[:1000])) for kind in TOKENIZERS}


def stream_of(texts, tokenizer):
    return np.concatenate(
        [part for text in texts for part in ([BEGIN], tokenizer.encode(text), [END])]
    ).astype(tokenizer.dtype)


def data_of(texts, tokenizer):
    third = len(texts) // 3
    return Data(
        *(stream_of(texts[i : i + third], tokenizer) for i in (0, third, 2 * third)),
        tokenizer.digest,
        tokenizer.vocab_size,
        tokenizer.token_chars,
    )


def model_of(tokenizer, **shape):
    torch.manual_seed(0)
    return build_model(
        {
            "family": "transformer",
            "vocab_size": tokenizer.vocab_size,
            "block_size": 512,
            "n_layer": 2,
            "n_head": 2,
            "d_model": 16,
            "d_ff": 32,
            "dropout": 0.0,
            "rotary": True,
            "qk_norm": True,
            "token_shift": True,
            **shape,
        }
    )


# ---------------------------------------------------------------- nothing is lost


def test_2000_tunes_come_back_and_what_is_unknown_is_as_with_characters(tunes, tokenizers):
    tokenizer, by_character = tokenizers["note"], tokenizers["char"]
    n_tokens = 0
    for tune in tunes:
        tokens = tokenizer.encode(tune)
        assert tokenizer.decode(tokens) == by_character.decode(by_character.encode(tune))
        assert tokenizer.token_chars[tokens].sum() == len(tune) and tokens.dtype == tokenizer.dtype
        n_tokens += len(tokens)
    assert all(tokenizer.decode(tokenizer.encode(tune)) == tune for tune in tunes[:1000])
    assert 1.1 < sum(map(len, tunes)) / n_tokens < 4
    assert tokenizer.texts[N_SPECIAL:][: len(by_character.characters)] == list(
        by_character.characters
    )
    assert len(set(tokenizer.texts[N_SPECIAL:])) == len(tokenizer.texts) - N_SPECIAL


def test_any_text_comes_back(tokenizers):
    draw, learnt = random.Random(0), NoteTokenizer(LETTERS * RARE)
    assert learnt.decode(learnt.encode(LETTERS * 3)) == LETTERS * 3
    strange = [
        "",
        "\n\n",
        "\n",
        "|",
        "||\n|",
        "\x00\r\n",
        LETTERS,
        "K:",
        "[V:",
        "A:|\n",
        "🎵|🎵",
        "=" * 9,
        "(3(3",
    ]
    for tokenizer, characters in (
        (learnt, CharTokenizer(LETTERS)),
        (tokenizers["note"], tokenizers["char"]),
    ):
        for text in strange + [
            "".join(draw.choices("ABcz24|[]:V1\n/',^=(3é\u2028", k=60)) for _ in range(50)
        ]:
            tokens = tokenizer.encode(text)
            assert tokenizer.decode(tokens) == characters.decode(characters.encode(text))
            assert tokenizer.token_chars[tokens].sum() == len(text)
            assert (tokens == UNKNOWN).sum() == (characters.encode(text) == UNKNOWN).sum()


def test_no_piece_goes_on_after_a_bar_line(tokenizers):
    pieces = tokenizers["note"].texts[N_SPECIAL:]
    assert not [piece for piece in pieces if set("|\n") & set(piece[:-1])]


def test_notes_are_tokens_and_rare_ones_are_characters(tunes):
    text = "M:3/4\nK:Am\n[V:1]^c,2[Ec2]3z/2|(3abc A-A2|\n" * RARE + "G7|" * (RARE - 1)
    tokenizer = NoteTokenizer(text)
    assert [
        tokenizer.decode([token])
        for token in tokenizer.encode("M:3/4\nK:Am\n[V:1]^c,2[Ec2]3z/2|(3abcA-A2|G7|")
    ] == [
        "M:3/4\n",
        "K:Am\n",
        "[V:1]",
        "^c,2",
        "[",
        "E",
        "c2",
        "]3",
        "z/2",
        "|",
        "(3",
        "a",
        "b",
        "c",
        "A",
        "-",
        "A2",
        "|",
        "G",
        "7",
        "|",
    ]
    assert (
        NoteTokenizer("\n".join(tunes[:100])).digest == NoteTokenizer("\n".join(tunes[:100])).digest
    )


# ---------------------------------------------------------------- files


def test_a_saved_vocabulary_is_the_same(tmp_path, tokenizers):
    path, tokenizer = tmp_path / "tokenizer.pkl", tokenizers["note"]
    path.write_bytes(tokenizer.dumps())
    loaded = load_tokenizer(path)
    assert (
        type(loaded) is type(tokenizer)
        and loaded.digest == tokenizer.digest
        and loaded.texts == tokenizer.texts
    )
    assert np.array_equal(loaded.encode(TWO_VOICES), tokenizer.encode(TWO_VOICES))
    assert len({other.digest for other in tokenizers.values()}) == len(TOKENIZERS)


@pytest.mark.parametrize(
    "pieces",
    [Path("x"), ["C2", ("D2",)], [np.str_("C2")], [1], [""], "C2", None],
    ids=["path", "tuple", "numpy", "number", "empty", "text", "nothing"],
)
def test_a_foreign_vocabulary_is_refused(tmp_path, pieces):
    saved = pickle.loads(NoteTokenizer("abc|").dumps())
    (tmp_path / "tokenizer.pkl").write_bytes(pickle.dumps({**saved, "pieces": pieces}))
    with pytest.raises(ValueError, match="tokenizer.pkl is not a tokenizer of this project"):
        load_tokenizer(tmp_path / "tokenizer.pkl")


@pytest.mark.parametrize("kind", ["note", "event"])
def test_stage_03_in_another_kind(tmp_path, capfd, kind):
    (tmp_path / "text").mkdir()
    for split, part in (
        ("train", VALID_TUNES[:20]),
        ("val", VALID_TUNES[20:25]),
        ("test", VALID_TUNES[25:30]),
    ):
        (tmp_path / f"text/{split}.txt").write_text("\n".join(part))
    STAGE.main(
        [
            "--root",
            str(tmp_path),
            "--from-splits",
            str(tmp_path / "text"),
            "--vocab",
            kind,
            "--workers",
            "1",
        ]
    )
    assert not capfd.readouterr().err
    stats, data = json.loads((tmp_path / "data/stats.json").read_text()), load_data(tmp_path)
    tokenizer = load_tokenizer(tmp_path / "data/tokenizer.pkl")
    assert tokenizer.kind == kind and tokenizer.decode(data.val) == "".join(VALID_TUNES[20:25])
    notes = sum(len(pitches) for tune in VALID_TUNES[20:25] for *_, pitches in read_abc(tune).ticks)
    assert stats["splits"]["val"]["notes"] == notes and stats["splits"]["val"]["tokens"] == len(
        data.val
    )
    described = results.describe_tokenizer(tmp_path)
    assert (described["kind"], described["remark"]) == (kind, results.REMARKS[kind])


# ---------------------------------------------------------------- losses


def test_nats_per_character_by_hand(tunes, tokenizers):
    tokenizer = tokenizers["note"]
    data, model = data_of(tunes[:9], tokenizer), model_of(tokenizer)
    nn.init.normal_(model.head.weight, std=0.5)
    measured = evaluate(model, data.val, data.token_chars, "cpu")
    nats, chars = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(data.val) - 1, 512):
            window = torch.from_numpy(data.val[start : start + 513].astype(int))
            logits = model(window[None, :-1])[0][0].log_softmax(-1)
            for i, target in enumerate(window[1:].tolist()):
                if target != BEGIN:
                    nats -= float(logits[i, target])
                    chars += 1 if target == END else len(tokenizer.decode([target]))
    assert chars == sum(map(len, tunes[3:6])) + 3 == measured["n_chars"]
    assert measured["nats_per_char"] == pytest.approx(nats / chars, rel=1e-5)


def test_notes_are_counted_as_written():
    assert count_notes(TWO_VOICES) == 4 + 2 + 2 + 4 + 1 + 4 + 1 + 1 + 2 + 8 + 2
    assert count_notes('X:1\nK:Gm\n"Am"!fade!A[V:2][EG]2-|[EG]z2|[K:D]d\nw:deaf\n') == 6


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_step_holds_the_text_of_two_windows_of_characters_or_the_nearest(tunes, tokenizers, kind):
    data = data_of(tunes[:300], tokenizers[kind])
    per_token = runs.mean_chars(data.train, data.token_chars)
    shape = {"n_layer": 1, "n_head": 1, "d_model": 8, "d_ff": 8}
    run = runs.plan_run(data, runs.RunSpec("transformer", "nano", shape, 0.01))
    assert run["batch_windows"] == max(1, round(2 / per_token))
    assert per_token == (
        1.0
        if kind == "char"
        else pytest.approx(
            len("".join(tunes[:100]))
            / sum(len(tokenizers[kind].encode(tune)) for tune in tunes[:100]),
            rel=0.1 if kind == "event" else 0.02,  # whose characters are nominal
        )
    )
    large = runs.windows_per_step(40_000_000 / per_token, per_token)  # 16 windows of characters
    assert large == round(16 / per_token) and 0.9 < large * per_token / 16 < 1.1


# ---------------------------------------------------------------- samples and page


def test_right_bars_in_notes_are_right(tokenizers):
    """A model that knows nothing but how often a bar ends: what it finishes is valid, what it
    cannot finish is stuck."""
    tokenizer = NoteTokenizer("\n".join(VALID_TUNES))
    model = model_of(tokenizer).eval()
    model.head = nn.Linear(model.head.in_features, tokenizer.vocab_size)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.fill_(-4)
        model.head.bias[tokenizer.encode("C4D4E4F4G4A4B4c4").astype(int)] = 2
        model.head.bias[tokenizer.encode("|").astype(int)], model.head.bias[END] = 3.4, 2
    header = C_MAJOR_HEADER.replace("4/4", "2/4")  # two notes a bar
    prompts = [header, header + "C4D4|E4F4|"]
    samples = generate(
        model,
        tokenizer,
        [Request(prompts[i % 2], seed=i, max_chars=120, bars="right") for i in range(8)],
        right_bars=RightBars,
    )
    ended = [sample for sample in samples if sample["stop_reason"] == "end"]
    assert len(ended) > 3 and all(
        check_abc(sample["text"], len(sample["prompt"])).level >= 4 for sample in ended
    )
    assert {sample["stop_reason"] for sample in samples} <= {"end", "budget", "stuck"}
    for sample in samples:
        assert len(sample["surprisal_bits"]) == sample["new_chars"] <= 150
        assert sample["text"] == sample["prompt"] or check_abc(sample["text"]).meter


def test_the_attention_map_has_a_row_a_token(tokenizers):
    text = long_tune(1, 1, 20)
    best = attention_map(model_of(tokenizers["note"]), tokenizers["note"], text, 0, 0)
    assert text.startswith("".join(best["tokens"])) and "[M:3/4]" in best["tokens"] + ["[M:3/4]"]
    assert (
        best["weights"].shape == (len(best["tokens"]) + 1,) * 2
        and max(map(len, best["tokens"])) > 2
    )
