"""Stage 08: songs that stay together, what is gained and forgotten, resuming, and every bad
source."""

import contextlib
import importlib
import io
import json
import tarfile

from study.stages.arguments import stage_parser
from study.stages.code_key import HERE
from study.stages.manifest import load_manifest
from study.stages.stage import Stage

import numpy as np
import pytest
import torch

from common import BEGIN, END, CharTokenizer, load_tokenizer
from music.abc_text import read_abc
from music.midi_to_abc import convert
from music.notation import midi_score
from study.evaluate import models
from study.evaluate import samples as generated
from study.finetune import finetune
from study.prepare import reading
from study.train import loop as training
from study.train import runs
from study.train.checkpoints import load_checkpoint
from study.train.data import load_data
from tunes import valid_tune

stage08 = importlib.import_module("08_finetune")
stage07 = importlib.import_module("07_train_best_and_generate")
SHAPES = {
    "transformer": {"n_layer": 1, "n_head": 2, "d_model": 16, "d_ff": 32},
    "lstm": {"n_layer": 1, "d_embedding": 8, "d_hidden": 16},
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def base_root(tmp_path_factory):
    """A root with the text of two collections and a model hardly trained, of which 03 has a
    manifest."""
    root = tmp_path_factory.mktemp("root")
    data = root / "data"
    data.mkdir()
    texts = {
        split: [valid_tune(seed, 6, voices=1 + seed % 2) for seed in seeds]
        for split, seeds in (("train", range(20)), ("val", range(20, 26)), ("test", range(26, 30)))
    }
    known = set(map(chr, range(32, 127))) - {"^"} | {"\n"}  # all of ASCII but the sharp
    tokenizer = CharTokenizer(known)
    (data / "tokenizer.pkl").write_bytes(tokenizer.dumps())
    for split, tunes in texts.items():
        (data / f"{split}.txt").write_text("\n".join(tunes))
        rows = ["index\torigin\tgroup\tpiece\tn_pieces\tfirst_bar\ttoken_offset\tcharacters"]
        rows += [
            f"{i}\ttune {split} {i}.abc\t{split}{i}\t1\t1\t0\t0\t{len(tune)}"
            for i, tune in enumerate(tunes)
        ]
        (data / f"{split}_sequences.tsv").write_text("\n".join(rows) + "\n")
        np.save(
            data / f"{split}_tokens.npy",
            finetune.stream([{"text": tune} for tune in tunes], tokenizer),
        )
    stage = Stage(
        HERE / "03_tokenize_split.py",
        stage_parser("").parse_args(["--root", str(root)]),
        {},
        reads=(),
    )
    names = [f"data/{path.name}" for path in data.iterdir()]
    with stage.writing():
        stage.finish(names)
    streams = load_data(root)
    runs.train(
        root,
        runs.plan_run(
            streams,
            runs.RunSpec(
                "transformer",
                "tiny",
                SHAPES["transformer"],
                0.01,
                epochs=2,
                name="best_model",
            ),
        ),
        streams,
        "cpu",
    )
    return root


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Four songs, two of them in two versions: a MIDI file of that name, and the notes twice as
    long; and no music."""
    folder = tmp_path_factory.mktemp("songs")
    for seed in range(4):
        (folder / f"Song {'abcd'[seed]}.abc").write_text(valid_tune(100 + seed, 8))
    # the name makes them one
    (folder / "Song a.mid").write_bytes(midi_score(read_abc(valid_tune(200, 8))).dumps_midi())
    (folder / "Other b.abc").write_text(
        valid_tune(101, 8, header="X:1\nM:8/4\nL:1/8\nQ:1/4=97\nK:C\n")
    )
    (folder / "readme.txt").write_text("no music")
    (folder / "prose.abc").write_text("This is no tune.\n" * 20)
    return folder


def shrink(patch):
    """The smallest budgets, and no pictures."""
    patch.setattr(finetune, "LEAST_STEPS", 1)
    patch.setattr(stage08, "N_SAMPLES", 2)
    patch.setattr(stage08, "SAMPLE_CHARS", 60)
    patch.setattr(generated, "write_pictures", lambda *_: {})


@pytest.fixture(autouse=True)
def small(monkeypatch):
    shrink(monkeypatch)


def run08(root, *flags):
    stage08.main([*map(str, flags), "--root", str(root), "--device", "cpu"])


def refusal(root, *flags):
    """What the script ends with."""
    with pytest.raises(SystemExit) as ended:
        run08(root, *flags)
    assert isinstance(ended.value.code, str) and "Traceback" not in ended.value.code
    return ended.value.code


# ---------------------------------------------------------------- held out, replayed


def test_groups_are_held_out_whole_and_the_largest_trains():
    for n in (2, 3, 12, 40):
        held = finetune.hold_out({f"g{i}": 100 + i for i in range(n)}, seed=1)
        assert f"g{n - 1}" not in held and len(held) == max(1, round(n / 5))
    assert finetune.hold_out({"one": 5}, seed=0) == set()


def test_replay_is_seeded_whole_and_as_long_as_asked():
    tokens = np.tile([BEGIN, *[7] * 8, END], 100)
    tokens[1::10] = 10 + np.arange(100)  # tells the sequences apart
    some, again, other = (finetune.replayed(tokens, 200, seed) for seed in (0, 0, 1))
    assert 200 <= len(some) <= 210 and len(set(some[1::10])) == len(some) // 10
    assert (some[0::10] == BEGIN).all() and (some[9::10] == END).all()
    assert np.array_equal(some, again) and not np.array_equal(some, other)


# ---------------------------------------------------------------- the stage


@pytest.fixture(scope="module")
def tuned(base_root, songs):
    """The root after one run on the songs, and what it printed; the base model's bytes from
    before."""
    patch, out = pytest.MonkeyPatch(), io.StringIO()
    shrink(patch)
    before = (base_root / "checkpoints/best_model.pt").read_bytes()
    with contextlib.redirect_stdout(out):
        run08(base_root, songs, "--name", "mine")
    patch.undo()
    return base_root, out.getvalue(), before


def test_the_report_says_what_was_gained_and_what_forgotten(tuned):
    root, printed, before = tuned
    report = json.loads((root / "finetuned/mine/report.json").read_text())
    assert (root / "checkpoints/best_model.pt").read_bytes() == before
    assert (
        report["music"]["files"] == 6
        and report["music"]["groups"] == 4
        and report["music"]["held_out_groups"] == 1
    )
    assert report["music"]["left_out"] == {"not music": 1, "unreadable ABC": 1}
    held = report["held_out"]
    low, high = held["gain_bits_per_char_interval"]
    gain = held["bits_per_char"]["before"] - held["bits_per_char"]["after"]
    assert 0 < gain and low <= gain + 1e-6 and gain <= high + 1e-6
    assert report["old_text"]["before"] > 0 and report["old_text"]["after"] > 0
    for words in ("about ", "held-out music", "old validation text", "--model finetuned_mine"):
        assert words in printed
    assert (
        sorted(path.suffix for path in (root / "finetuned/mine/generated").glob("sample_000.*"))[0]
        == ".abc"
    )


def test_no_song_stands_on_two_sides(tuned, songs):
    """Neither two files of one name nor two texts of the same notes do."""
    train, held = (
        (tuned[0] / f"finetuned/mine/{split}.txt").read_text() for split in ("train", "test")
    )

    def bars(midi):
        return convert(midi, "x", 6)[0].split("\nK:")[1].split("\n", 1)[1].strip()

    for name, other in (("Song a.abc", "Song a.mid"), ("Song b.abc", "Other b.abc")):
        music = [
            bars(
                path.read_bytes()
                if path.suffix == ".mid"
                else midi_score(read_abc(path.read_text())).dumps_midi()
            )
            for path in (songs / name, songs / other)
        ]
        assert all(part in train for part in music) or all(part in held for part in music)


def test_unchanged_it_does_nothing_and_the_model_plays(tuned, songs, capsys):
    root = tuned[0]
    run08(root, songs, "--name", "mine")
    assert capsys.readouterr().out.startswith("08_finetune: up to date")
    assert load_manifest(root, "08_finetune/mine")["counts"]["groups"] == 4
    stage07.main(
        [
            "--root",
            str(root),
            "--device",
            "cpu",
            "--model",
            "finetuned_mine",
            "--max-chars",
            "20",
            "--bars",
            "free",
            "--temperature",
            "1",
        ]
    )
    assert "play_000.abc" in capsys.readouterr().out


def test_killed_it_goes_on_and_ends_with_the_same_bytes(tuned, songs, monkeypatch):
    root = tuned[0]
    whole = load_checkpoint(root / "checkpoints/finetuned_mine.pt")[1]["weights_digest"]
    monkeypatch.setattr(runs, "CHECKPOINT_SECONDS", 0)  # a state after each step
    advance, steps = training.Loop.advance, []

    def killed(loop):
        steps.append(loop.state.step)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return advance(loop)

    monkeypatch.setattr(training.Loop, "advance", killed)
    with pytest.raises(KeyboardInterrupt):
        run08(root, songs, "--name", "again")
    assert not (root / "checkpoints/finetuned_again.pt").exists()
    run08(root, songs, "--name", "again")
    assert steps[3] == steps[2] > 0  # it went on from the step that was not taken
    assert load_checkpoint(root / "checkpoints/finetuned_again.pt")[1]["weights_digest"] == whole


def test_a_start_is_part_of_a_runs_key_only_if_there_is_one(base_root):
    streams = load_data(base_root)
    plans = [
        runs.plan_run(streams, runs.RunSpec("lstm", "tiny", SHAPES["lstm"], 0.01, start=start))
        for start in (None, "a", "b")
    ]
    assert len({plan["key"] for plan in plans}) == 3 and "start" not in plans[0]


def test_the_model_that_ships_has_all_that_a_base_needs(base_root):
    base = models.open_model(base_root, models.STUDY)
    plan = finetune.plan_training(load_data(base_root), base, 0, "mine")
    assert (plan["family"], plan["size"], plan["recipe"]) == ("transformer", "medium", "tuned")
    assert plan["learning_rate"] == base.record["learning_rate"] / 2 and plan["start"]


def test_one_tune_is_trained_on_without_a_held_out_part(base_root, tmp_path, capsys):
    text = valid_tune(300, 20)
    for i in range(12):
        (tmp_path / f"copy {i}.abc").write_text(text)
    (tmp_path / "other.abc").write_text(valid_tune(301, 8).replace("F", "^F"))  # unknown to it
    run08(base_root, tmp_path, "--name", "one")
    printed = capsys.readouterr().out
    assert (
        "13 files, 13 tunes in 2 groups" in printed
        and "1 pieces with characters that the base model does not know" in printed
    )
    assert "held-out music, bits" not in printed and "old validation text" in printed
    own = load_tokenizer(base_root / "checkpoints/finetuned_one.tokenizer.pkl")
    assert own.digest == load_tokenizer(base_root / "data/tokenizer.pkl").digest
    assert json.loads((base_root / "finetuned/one/report.json").read_text())["held_out"] is None


# ---------------------------------------------------------------- bad sources


def bad_source(kind, folder):
    if kind == "empty folder":
        return folder, "it holds no music that can be read"
    if kind == "no music":
        (folder / "a.txt").write_text("x")
        return folder, "it holds no music that can be read, only 1 not music"
    if kind == "no archive":
        (folder / "a.jpg").write_bytes(b"\xff\xd8\xff" * 100)
        return folder / "a.jpg", "the archive is no .tar.gz, .tar or .zip"
    if kind == "broken MIDI":
        (folder / "a.mid").write_bytes(b"MThd" + bytes(20))
        return folder / "a.mid", "no tune in it can be used"
    if kind == "prose":
        (folder / "a.abc").write_text("Nothing but bad words.\n" * 30)
        return folder / "a.abc", "it holds no music that can be read, only 1 unreadable ABC"
    with tarfile.open(folder / "a.tar.gz", "w:gz") as tar:
        tar.add(__file__, "x.py")
    return folder / "a.tar.gz", "it holds no music that can be read"


@pytest.mark.parametrize(
    "kind",
    [
        "empty folder",
        "no music",
        "no archive",
        "broken MIDI",
        "prose",
        "an archive without music",
    ],
)
def test_a_bad_source_is_one_sentence_and_changes_nothing(kind, base_root, tmp_path):
    source, words = bad_source(kind, tmp_path)
    before = sorted(path for path in base_root.rglob("*"))
    assert words in refusal(base_root, source, "--name", "bad")
    assert sorted(path for path in base_root.rglob("*")) == before


def test_what_is_asked_for_must_be_there(base_root, tmp_path, songs):
    assert "source" in refusal(base_root).lower()
    assert "no checkpoints/xl.pt; there are: best_model" in refusal(
        base_root, songs, "--model", "xl"
    )
    assert "letters, digits" in refusal(base_root, songs, "--name", "../x")
    assert "there is no checkpoints/best_model.pt" in refusal(tmp_path, songs)
    assert "study has another vocabulary" in refusal(base_root, songs, "--model", "study")
    other = CharTokenizer("another alphabet")
    checkpoint = torch.load(base_root / "checkpoints/best_model.pt", weights_only=True)
    torch.save(
        {**checkpoint, "tokenizer_digest": other.digest}, base_root / "checkpoints/foreign.pt"
    )
    assert "trained with another vocabulary" in refusal(base_root, songs, "--model", "foreign")
    (base_root / "checkpoints/foreign.pt").unlink()


# ---------------------------------------------------------------- collections in the header


def test_tags_name_the_collection_but_for_a_share_of_the_groups(tmp_path):
    rows = [{"origin": f"Bach Chorales/{i}.abc", "group": f"g{i}"} for i in range(200)] + [
        {"origin": "loose.abc", "group": "h"}
    ]
    with open(tmp_path / "spool", "w+b") as spool:
        for row in rows:
            text = valid_tune(1, 4).encode()
            row.update(at=spool.tell(), bytes=len(text), chars=len(text))
            spool.write(text)
        spool.flush()
        n_tagged = reading.tag_sequences({"train": rows}, spool, 0)
        spool.seek(0)
        content = spool.read()
    texts = [content[row["at"] : row["at"] + row["bytes"]].decode() for row in rows]
    assert 150 < n_tagged == sum(text.startswith("X:1\nR:bach\nM:4/4\n") for text in texts) < 190
    assert (
        all(len(text) == row["chars"] for text, row in zip(texts, rows)) and "R:" not in texts[-1]
    )
