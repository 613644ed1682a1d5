"""Stage 03: what belongs together stays together, splits stay put, and every file says what it
should."""

import contextlib
import importlib
import io
import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
from collections import Counter, defaultdict
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pyppmd
import pytest

from common import BEGIN, END, UNKNOWN, CharTokenizer, load_tokenizer
from music.training_text import cut, cut_lines, training_text
from music.windows import look_up, window_hashes
from study.prepare import baselines, data_report, groups, reading
from study.prepare.selection import SPLITS, limit_sequences
from starts import an_end

stage03 = importlib.import_module("03_tokenize_split")
SCALE = [0, 2, 4, 5, 7, 9, 11, 12, 14, 16, 17, 19, 21, 23, 24]
NAMES = "C ^C D ^D E F ^F G ^G A ^A B".split()


# ---------------------------------------------------------------- made-up music


def make_melody(seed, n=96):
    """A random walk on a scale: [(sixteenths, MIDI pitch)] of n notes."""
    draw = random.Random(seed)
    place, melody = 7, []
    for _ in range(n):
        place = min(14, max(0, place + draw.choice((-4, -3, -2, -2, -1, -1, 1, 1, 2, 2, 3, 4))))
        melody.append((draw.choice((2, 2, 4)), 60 + SCALE[place]))
    return melody


def note(pitch, length):
    name = NAMES[pitch % 12] if "^" in NAMES[pitch % 12] else "=" + NAMES[pitch % 12]
    octave = pitch // 12 - 5
    return (name.lower() + "'" * (octave - 1) if octave > 0 else name + "," * -octave) + str(length)


def make_abc(voices, title="x", tempo=120):
    """ABC text of voices [(sixteenths, pitch)], one bar a line and voice, bars of free length."""
    bars = [
        [
            "".join(note(pitch, length) for length, pitch in voice[i : i + 8])
            for i in range(0, len(voice), 8)
        ]
        for voice in voices
    ]
    lines = [
        (
            "".join(f"[V:{n}]{bar}|" for n, bar in enumerate(row, 1))
            if len(voices) > 1
            else row[0] + "|"
        )
        for row in zip(*bars)
    ]
    return f"X:1\nT:{title}\nM:none\nL:1/16\nQ:1/4={tempo}\nK:C\n" + "\n".join(lines) + "\n"


def piece(seed, n_voices=2, n=96):
    return [make_melody(1000 * seed + voice, n) for voice in range(n_voices)]


def altered(voices, seed):
    draw = random.Random(seed)
    return [
        [
            (length, pitch + draw.choice((-2, -1, 1, 2)) if draw.random() < 0.05 else pitch)
            for length, pitch in voice
        ]
        for voice in voices
    ]


COPIES = {
    "exact": lambda v: make_abc(v),
    "transposed": lambda v: make_abc([[(d, p + 3) for d, p in voice] for voice in v]),
    "other tempo": lambda v: make_abc(v, tempo=93),
    "twice as slow": lambda v: make_abc([[(2 * d, p) for d, p in voice] for voice in v]),
    "one voice removed": lambda v: make_abc(v[1:]),
    "notes changed": lambda v: make_abc(altered(v, 5)),
}


def write_corpus(folder, seeds, n_voices=2):
    for seed in seeds:
        path = folder / f"Artist {seed % 7}" / f"Piece {'abcdefghij'[seed % 10]} {seed}.abc"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(make_abc(piece(seed, n_voices), title=f"Piece {seed}"))


def draw_nothing(folder, *_):
    folder.mkdir(exist_ok=True)
    for name in ("data.png", "data.svg"):
        (folder / name).write_text("no figure")
    return ["data.png", "data.svg"]


def run_stage(root, *flags, quickly=True):
    """Runs the stage in this process (a process of its own spends seconds on importing torch);
    quickly: without the figure, and with short contexts in the n-gram."""
    out, error, code = io.StringIO(), "", 0
    with contextlib.ExitStack() as changes:
        changes.enter_context(contextlib.redirect_stdout(out))
        if quickly:
            changes.enter_context(mock.patch.object(stage03, "draw_data", draw_nothing))
        try:
            stage03.main(["--root", str(root), *map(str, flags)])
        except SystemExit as stop:
            error, code = (stop.code, 1) if isinstance(stop.code, str) else ("", stop.code)
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=error)


def rows(root, split):
    head, *lines = (root / f"data/{split}_sequences.tsv").read_text().splitlines()
    return [dict(zip(head.split("\t"), line.split("\t"))) for line in lines]


def split_of(root):
    """{file: split}."""
    return {row["origin"]: split for split in SPLITS for row in rows(root, split)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """(root, folder) of a run on 130 pieces and five planted copies of twelve of them under other
    names."""
    folder = tmp_path_factory.mktemp("abc")
    write_corpus(folder, range(130))
    for seed, (kind, copy) in itertools.product(range(0, 24, 2), COPIES.items()):
        path = folder / "Elsewhere" / f"{kind} {seed}.abc"
        path.parent.mkdir(exist_ok=True)
        path.write_text(copy(piece(seed)))
    root = tmp_path_factory.mktemp("root")
    done = run_stage(root, "--abc", folder, "--workers", 2, quickly=False)
    assert done.returncode == 0, done.stderr
    return root, folder


# ---------------------------------------------------------------- groups


@pytest.mark.parametrize(
    "one, other",
    [
        ("Rod Stewart/Sailing.abc", "Stewart,Rod/Sailing.1.abc"),
        ("ABBA/Fernando.abc", "abba/FERNANDO!.3.abc"),
        ("The Beatles/Yesterday.abc", "Beatles/Yesterday (live).abc"),
        ("Eagles/Hotel California.abc", "Eagles/Hotel California (unplugged).2.abc"),
        ("Céline Dion/Où.abc", "Dion Celine/Ou.abc"),
        ("ABBA/Dancing Queen.abc", "Various/ABBA - Dancing Queen.abc"),
        ("Guns N' Roses/Civil War.abc", "Guns N Roses/Civil War (2).abc"),
    ],
)
def test_versions_of_a_song_have_one_name(one, other):
    assert groups.path_key(one) == groups.path_key(other) is not None


@pytest.mark.parametrize(
    "one, other",
    [
        ("Blur/Song 2.abc", "Blur/Song 3.abc"),
        ("A/Another Brick in the Wall (Part 1).abc", "A/Another Brick in the Wall (Part 2).abc"),
        ("Sinatra/Live and Let Die.abc", "Sinatra/Let.abc"),
        ("book/Reel.abc", "book/Reel.abc"),
        ("book/Untitled.abc", "book/Untitled.1.abc"),
        ("A/One.abc", "B/One.abc"),
    ],
)
def test_other_names_do_not_join(one, other):
    first, second = groups.path_key(one), groups.path_key(other)
    assert first is None or first != second


def test_planted_copies_never_straddle(corpus):
    root, _ = corpus
    found = {row["origin"]: row["group"] for split in SPLITS for row in rows(root, split)}
    stats = json.loads((root / "data/stats.json").read_text())
    # the exact ones and those that differ in the tempo alone
    assert stats["dropped_tunes"]["exact duplicate of another tune"] == 12 * 2
    for seed in range(0, 24, 2):
        original = f"Artist {seed % 7}/Piece {'abcdefghij'[seed % 10]} {seed}.abc"
        for kind in ("transposed", "twice as slow", "one voice removed", "notes changed"):
            assert found[f"Elsewhere/{kind} {seed}.abc"] == found[original], (kind, seed)
    assert stats["groups"] == 130  # and nothing else is taken for a copy


def test_exact_copies_leave_the_path_that_comes_first(corpus):
    assert not any(
        row["origin"].startswith("Elsewhere/exact")
        for split in SPLITS
        for row in rows(corpus[0], split)
    )


def test_fingerprint_ignores_key_speed_and_repeated_notes():
    melody = [
        np.array(part)
        for part in zip(*[(i, 1, pitch) for i, (_, pitch) in enumerate(make_melody(1))])
    ]
    plain = groups.shingles([tuple(melody)])
    other = groups.shingles([(melody[0] * 7, melody[1], melody[2] + 5)])
    doubled = groups.shingles(
        [(np.arange(2 * len(melody[0])), np.ones(2 * len(melody[0])), np.repeat(melody[2], 2))]
    )
    assert len(plain) > 60 and np.array_equal(plain, other) and np.array_equal(plain, doubled)


def test_two_harmonisations_of_one_melody_are_one_group(tmp_path):
    """The top voice is the same, in another key and with passing notes; the three below are
    different: the likeness of all voices does not find it."""

    def harmonised(hymn, seed):
        below = [[(length, pitch - 24) for length, pitch in voice] for voice in piece(seed, 3)]
        return make_abc([hymn, *below])

    for seed in range(30):
        hymn = make_melody(seed)
        path = tmp_path / f"abc/Chorales/hymn {'abcdefghij'[seed % 10]}{seed}.abc"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(harmonised(hymn, 100 + seed))
        if seed < 10:
            other = [(length, pitch + 2 + (i % 31 == 30)) for i, (length, pitch) in enumerate(hymn)]
            (path.parent / f"again {'klmnopqrst'[seed]}{seed}.abc").write_text(
                harmonised(other, 200 + seed)
            )
    done = run_stage(tmp_path / "root", "--abc", tmp_path / "abc")
    assert done.returncode == 0, done.stderr
    stats = json.loads((tmp_path / "root/data/stats.json").read_text())
    assert stats["groups"] == 30


def test_numbers_of_a_catalogue_are_no_copy_numbers():
    assert groups.path_key("Bach/bwv244.62.abc") != groups.path_key("Bach/bwv244.15.abc")
    assert groups.path_key("ABBA/SOS.2.abc") == groups.path_key("ABBA/SOS.abc")


def test_similar_pairs_agrees_with_comparing_all():
    draw = np.random.default_rng(0)
    base = draw.integers(0, 2**63, (40, 200), dtype=np.uint64)
    sets = [
        np.unique(np.concatenate([base[i // 2][: 120 + 80 * (i % 2)], base[(7 * i) % 40][:20]]))
        for i in range(80)
    ]
    signatures = np.stack([groups.signature(part) for part in sets])
    pairs = groups.similar_pairs(signatures, np.full(80, 200), groups.MATCH)
    alike = {
        (i, j): (signatures[i] == signatures[j]).mean()
        for i, j in itertools.combinations(range(80), 2)
    }
    assert {tuple(pair) for pair in pairs.tolist()} == {
        pair for pair, value in alike.items() if value >= groups.MATCH
    }
    for i, j in pairs.tolist():
        true = len(np.intersect1d(sets[i], sets[j])) / len(np.union1d(sets[i], sets[j]))
        assert abs(alike[i, j] - true) < 0.15


def test_groups_are_joined_by_names_notes_and_likeness():
    names, notes = ["a", None, "b", "a", None, None], [b"1", b"2", b"3", b"4", b"2", b""]
    found = groups.find_groups([names, notes], np.array([[2, 4]]))
    assert found[0] == found[3] and found[1] == found[4] == found[2] and len(set(found)) == 3


# ---------------------------------------------------------------- splits


def test_splits_take_one_percent_each_by_hash():
    chars = {f"group {i}": 300 for i in range(20_000)}
    splits, shares = groups.assign_splits(chars, 0)
    counts = Counter(splits.values())
    assert shares == {"val": 0.01, "test": 0.01}
    assert all(150 < counts[split] < 250 for split in ("val", "test"))
    assert splits != groups.assign_splits(chars, 1)[0]


def test_splits_of_old_groups_stay_when_groups_come_and_go():
    chars = {f"group {i}": 300 for i in range(20_000)}
    before, _ = groups.assign_splits(chars, 0)
    more, _ = groups.assign_splits({**chars, **{f"new {i}": 900 for i in range(5000)}}, 0)
    fewer, _ = groups.assign_splits(dict(list(chars.items())[::2]), 0)
    assert all(more[group] == split for group, split in before.items())
    assert all(before[group] == split for group, split in fewer.items())


@pytest.mark.parametrize("n", [3, 10, 60, 200, 1000])
def test_floors_of_small_corpora(n):
    splits, shares = groups.assign_splits({f"group {i}": 1500 for i in range(n)}, 0)
    counts = Counter(splits.values())
    assert counts["train"] >= (0.7 * n if n >= 10 else 1)
    assert all(counts[split] >= (20 if n >= 1000 else max(1, n // 16)) for split in ("val", "test"))
    assert max(shares.values()) > 0.01


@pytest.mark.parametrize("n, least", [(3, 0.33), (12, 0.75), (69, 0.68)])
def test_small_corpora_keep_most_for_training(n, least):
    """23, 67 and 58 % were left of corpora of these sizes."""
    for seed in range(20):
        chars = {f"song {i}": 3000 + 500 * (i % 9) for i in range(n)}
        splits, _ = groups.assign_splits(chars, seed)
        kept = sum(chars[song] for song, split in splits.items() if split == "train")
        assert set(splits.values()) == set(SPLITS) and kept >= least * sum(chars.values())


def test_adding_files_moves_no_old_tune(corpus, tmp_path):
    root, folder = corpus
    grown = tmp_path / "abc"
    shutil.copytree(folder, grown)
    write_corpus(grown, range(1000, 1100))
    (grown / "Artist 3").rename(grown / "Artist 3 of another name")  # other files renamed
    done = run_stage(tmp_path / "root", "--abc", grown)
    assert done.returncode == 0, done.stderr
    before, after = split_of(root), split_of(tmp_path / "root")
    old, new = [
        json.loads((r / "data/stats.json").read_text())["held_out_share_of_groups"]
        for r in (root, tmp_path / "root")
    ]
    held_out = ("val", "test")
    # a tune moves only where a share changed, between train and that split
    for origin, split in before.items():
        if origin in after:
            assert after[origin] in {
                split,
                *("train" for name in held_out if name == split and new[name] < old[name]),
                *(name for name in held_out if split == "train" and new[name] > old[name]),
            }


def test_a_copy_under_another_name_leaves_the_group_where_it_is():
    """The name of a group does not change with what usually joins."""

    def tune(name, n_notes, n_shingles):
        return {"name": name, "n_notes": n_notes, "n_shingles": n_shingles}

    original = tune("artist/song", 200, 150)
    for joined in [
        tune("artist/song", 500, 300),
        tune("other/thing", 150, 120),
        tune("other/thing", 200, 190),
        tune("copies/copy 17", 200, 150),
    ]:
        assert (
            groups.name_group([original, joined])
            == groups.name_group([joined, original])
            == groups.name_group([original])
        )


def test_bytes_do_not_depend_on_workers_or_file_order(corpus, tmp_path):
    root, folder = corpus
    shuffled = tmp_path / "abc"
    paths = sorted(folder.rglob("*.abc"))
    for path in random.Random(3).sample(paths, len(paths)):
        target = shuffled / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    done = run_stage(tmp_path / "root", "--abc", shuffled, "--workers", 5, quickly=False)
    assert done.returncode == 0, done.stderr
    files = [
        path.relative_to(root)
        for path in sorted((root / "data").rglob("*"))
        if path.is_file()
        and path.suffix in (".txt", ".npy", ".tsv", ".pkl", ".json", ".png", ".svg")
        and "manifest" not in path.name
    ]
    assert len(files) >= 14
    for name in files:
        assert (root / name).read_bytes() == (tmp_path / "root" / name).read_bytes(), name


# ---------------------------------------------------------------- sequences and tokens


def test_tokens_tables_and_text_agree(corpus):
    root, _ = corpus
    tokenizer = load_tokenizer(root / "data/tokenizer.pkl")
    for split in SPLITS:
        tokens = np.load(root / f"data/{split}_tokens.npy", mmap_mode="r")
        text = (root / f"data/{split}.txt").read_text()
        table = rows(root, split)
        assert tokens.dtype == np.uint8 and isinstance(tokens, np.memmap)
        sequences = re.split(r"(?<=\n)\n", text)
        assert len(sequences) == len(table) == (tokens == BEGIN).sum() == (tokens == END).sum()
        for sequence, row in zip(sequences, table):
            at, n = int(row["token_offset"]), int(row["characters"])
            assert tokens[at] == BEGIN and tokens[at + n + 1] == END
            assert tokenizer.decode(tokens[at : at + n + 2]) == sequence and len(sequence) == n
            assert 100 < n < 5000 and "T:" not in sequence and sequence.startswith("X:1\nM:")
    assert tokenizer.characters == "".join(sorted(set((root / "data/train.txt").read_text())))


def test_long_tunes_are_cut_at_bars_into_even_pieces():
    text = training_text(make_abc(piece(1, 3, 2400)))
    pieces = cut(text, 4999, 101)
    sizes = [len(part) for _, part in pieces]
    assert len(pieces) > 3 and max(sizes) <= 4999 and min(sizes) > 0.7 * max(sizes)
    assert pieces[0][0] == 0 and [bar for bar, _ in pieces] == sorted({bar for bar, _ in pieces})
    header = "X:1\nM:none\nL:1/16\nQ:1/4=120\nK:C\n"
    assert all(part.startswith(header) for _, part in pieces)
    assert "".join(part.removeprefix(header) for _, part in pieces) == text.removeprefix(header)


def test_text_that_is_no_abc_is_cut_at_lines():
    text = "".join(f"line {i} of a long play\n" for i in range(2000)) + "w" * 12_000 + "\n"
    pieces = cut_lines(text, 4999)
    assert max(map(len, pieces)) < 5000
    assert "".join(pieces).replace("\n", "") == text.replace("\n", "")


def test_training_text_has_one_order_of_fields():
    raw = (
        "X:12\nT:Air\nC:Trad\nQ:1/4=90\nL:1/8\nM:3/4\nR:waltz\nK:G % home\nGAB|c3|\nw:la"
        " la\n%%text\n|:c3:|\nK:D\nd3|\n"
    )
    assert training_text(raw) == "X:1\nM:3/4\nL:1/8\nQ:1/4=90\nK:G\nGAB|c3|\n|:c3:|\nK:D\nd3|\n"


def test_splits_compile_as_tunebooks(corpus, tmp_path):
    symusic = pytest.importorskip("symusic")
    abc2midi = Path(symusic.__file__).parent / "bin/abc2midi"
    if not abc2midi.exists():
        pytest.skip("this platform's symusic has no abc2midi")
    for split in SPLITS:
        shutil.copyfile(corpus[0] / f"data/{split}.txt", tmp_path / f"{split}.abc")
        done = subprocess.run(
            [abc2midi, f"{split}.abc"], cwd=tmp_path, capture_output=True, text=True
        )
        assert "rror" not in done.stdout, done.stdout[:2000]
        # abc2midi names files by X:, and all sequences are X:1; it reports every tune that it reads
        assert done.stdout.count("writing MIDI file") == len(rows(corpus[0], split))


class PairTokenizer(CharTokenizer):
    """Two characters a token where the pair is frequent in the training text: tokens are not
    characters."""

    kind = "pairs"

    def __init__(self, text):
        super().__init__(text)
        self.pairs = [
            pair for pair, _ in Counter(a + b for a, b in zip(text, text[1:])).most_common(20)
        ]
        self.token_chars = np.append(self.token_chars, [2] * len(self.pairs))
        self.vocab_size += len(self.pairs)

    def encode(self, text):
        tokens, singles, at = [], super().encode(text).tolist(), 0
        while at < len(text):
            pair = text[at : at + 2]
            known = pair in self.pairs
            tokens.append(
                self.vocab_size - len(self.pairs) + self.pairs.index(pair) if known else singles[at]
            )
            at += 2 if known else 1
        return np.array(tokens, self.dtype)


def test_tokens_that_are_no_characters(corpus, tmp_path, monkeypatch):
    """Counts carry both, offsets are of tokens, and what is measured on characters stays what it
    was."""
    root, folder = corpus
    monkeypatch.setattr(stage03, "TOKENIZER", "pairs")
    monkeypatch.setitem(stage03.TOKENIZERS, "pairs", PairTokenizer)
    done = run_stage(tmp_path, "--abc", folder)
    assert done.returncode == 0, done.stderr
    by_character, by_pair = (
        json.loads((r / "data/stats.json").read_text()) for r in (root, tmp_path)
    )
    marks, marks_of_pairs = (
        json.loads((r / "data/baselines.json").read_text())["val"] for r in (root, tmp_path)
    )
    assert by_pair["overlap_with_train"] == by_character["overlap_with_train"]
    assert marks_of_pairs == marks
    tokenizer = PairTokenizer((tmp_path / "data/train.txt").read_text())
    for split in SPLITS:
        counts, tokens = by_pair["splits"][split], np.load(tmp_path / f"data/{split}_tokens.npy")
        assert counts["characters"] == by_character["splits"][split]["characters"]
        assert counts["tokens"] == len(tokens) < by_character["splits"][split]["tokens"]
        assert tokenizer.token_chars[tokens].sum() == counts["characters"] + counts["sequences"]
        assert [int(row["token_offset"]) for row in rows(tmp_path, split)] == np.flatnonzero(
            tokens == BEGIN
        ).tolist()


# ---------------------------------------------------------------- choice of data


def test_rests_and_scraps_are_left_out_and_counted(tmp_path):
    write_corpus(tmp_path / "abc", range(30))
    rests = make_abc(piece(99, 1, 40)).rstrip() + "\n" + "z16|" * 400 + "\n"
    (tmp_path / "abc/Artist 1/rests.abc").write_text(rests)
    (tmp_path / "abc/Artist 1/scrap.abc").write_text(make_abc([make_melody(98, 8)]))
    done = run_stage(tmp_path / "root", "--abc", tmp_path / "abc", "--abc-raw")
    assert done.returncode == 0, done.stderr
    dropped = json.loads((tmp_path / "root/data/stats.json").read_text())["dropped_tunes"]
    assert dropped == {"rests for more than 0.95 of the time": 1, "fewer than 16 notes": 1}
    assert not {"Artist 1/rests.abc", "Artist 1/scrap.abc"} & set(split_of(tmp_path / "root"))


def test_abc_of_people_becomes_normal_form_and_what_cannot_be_read_is_a_row(tmp_path):
    write_corpus(tmp_path / "abc", range(30))
    letter = "X:1\nT:A letter\nK:C\nDear friend, this is no tune at all.\n"
    (tmp_path / "abc/Artist 1/letter.abc").write_text(letter)
    html = "X:1\nM:4/4\nL:1/8\nK:G\n" + '"Em"GA&lt;Bc dedB|<br>' * 16 + "\n"
    (tmp_path / "abc/Artist 1/page.abc").write_text(html)
    done = run_stage(tmp_path / "root", "--abc", tmp_path / "abc")
    assert done.returncode == 0, done.stderr
    data = tmp_path / "root/data"
    assert (
        data / "failed_abc.txt"
    ).read_text() == "Artist 1/letter.abc\tline 1: a tune without notes\n"
    stats = json.loads((data / "stats.json").read_text())
    assert stats["dropped_tunes"] == {"cannot be read as ABC": 1}
    assert stats["mended"]["HTML left-overs"] == 32 and "32 HTML left-overs" in done.stdout
    text = "".join((data / f"{split}.txt").read_text() for split in ("train", "val", "test"))
    assert "G2AB3c2d2e2d2B2|" in text and "&" not in text and "Em" not in text


def test_budget_is_spread_over_groups_and_nested():
    sequences = [
        {
            "group": f"g{g}",
            "turn": groups.hash_number(g, i),
            "origin": f"{g}",
            "piece": i,
            "chars": 1000,
        }
        for g in range(10)
        for i in range(1 + 3 * (g % 2))
    ]
    small, large = (limit_sequences(sequences, limit, 0) for limit in (10_000, 14_500))
    assert Counter(s["group"] for s in small) == {f"g{g}": 1 for g in range(10)}
    assert len(large) == 14 and [s for s in small if s not in large] == []


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--abc", "nowhere"], "there is no such file or folder"),
        (["--from-splits", "."], "no train.txt"),
        (["--abc", ""], "an empty name"),
        (["--abc", "one", "--workers", "0"], "below 1"),
        (["--abc", "one", "--limit-chars", "many"], "no whole number"),
        (["--abc", "empty"], "no .abc file"),
        (["--abc", "one"], "too few"),
        ([], "02_midi_to_abc"),
    ],
)
def test_bad_input_ends_in_one_line(tmp_path, monkeypatch, flags, words):
    (tmp_path / "empty").mkdir()
    write_corpus(tmp_path / "one", [1])
    monkeypatch.chdir(tmp_path)
    done = run_stage(tmp_path / "root", *flags)
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3
    assert not list((tmp_path / "root").rglob("*.running.json"))


def test_too_few_groups_say_why(tmp_path):
    """`2 group(s) are left` of a book with four tunes told neither which are one song nor what was
    left out."""
    book = [
        make_abc(voices)
        for voices in (piece(1, 1), altered(piece(1, 1), 3), piece(2, 1), [make_melody(3, 9)])
    ]
    path = tmp_path / "book.abc"
    path.write_text(
        "\n".join(
            tune.replace("X:1\nT:x", f"X:{i}\nT:{name}")
            for i, (tune, name) in enumerate(zip(book, ("Ay", "Bee", "Cee", "Dee")), 1)
        )
    )
    done = run_stage(tmp_path / "root", "--abc", path)
    assert done.returncode == 1 and "of 4 tunes, 2 different songs are left" in done.stderr
    assert "one song in several versions: book.abc#1, book.abc#2" in done.stderr
    assert "1 left out, fewer than 16 notes" in done.stderr


def test_the_last_lines_say_what_was_held_out_and_left_out(tmp_path):
    write_corpus(tmp_path / "abc", range(12))
    (tmp_path / "abc/scrap.abc").write_text(make_abc([make_melody(98, 8)]))
    done = run_stage(tmp_path / "root", "--abc", tmp_path / "abc")
    assert done.returncode == 0 and len(done.stdout.splitlines()) <= 11, done.stdout
    share = int(re.search(r"characters: .*: (\d+) of 100 train", done.stdout).group(1))
    assert share >= 80 and "tunes: 13 in 13 groups" in done.stdout
    assert "left out: fewer than 16 notes: 1 (scrap.abc)" in done.stdout
    assert re.search(r"strongest baseline, .+: [\d.]+ bits per character on val", done.stdout)


def test_a_book_alone_is_a_corpus(tmp_path):
    path = tmp_path / "book.abc"
    path.write_text(
        "\n".join(make_abc(piece(i, 1), title=f"Tune {'abcdefgh'[i]}") for i in range(8))
    )
    done = run_stage(tmp_path / "root", "--abc", path, "--workers", 10_000)
    assert done.returncode == 0, done.stderr
    assert set(split_of(tmp_path / "root")) == {f"book.abc#{i}" for i in range(1, 9)}


def kill_itself(job, **_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_workers_end_the_reading(tmp_path):
    """A multiprocessing.Pool started new ones for ever."""
    with pytest.raises(BrokenProcessPool), open(tmp_path / "spool", "wb") as spool:
        reading.read_all(kill_itself, list(range(20)), 10_000, spool)


# ---------------------------------------------------------------- ready-made text, tunebooks


def test_text_that_is_no_music(tmp_path):
    draw = random.Random(0)
    for split, n in (("train", 300), ("val", 30), ("test", 30)):
        tunes = ["".join(draw.choice("thecatsatonamat") for _ in range(150)) for _ in range(n)]
        (tmp_path / f"{split}.txt").write_text(
            "\n\n".join(tunes) + ("\n\u00e9t\u00e9\n" if split == "val" else "\n")
        )
    root = tmp_path / "root"
    done = run_stage(root, "--from-splits", tmp_path, quickly=False)
    assert done.returncode == 0, done.stderr
    stats = json.loads((root / "data/stats.json").read_text())
    assert {split: stats["splits"][split]["sequences"] for split in SPLITS} == {
        "train": 300,
        "val": 30,
        "test": 30,
    }
    assert set(stats["music"].values()) == {None}
    assert stats["vocabulary"]["unknown_in"] == {"val": {"\u00e9": 2}, "test": {}}
    assert (np.load(root / "data/val_tokens.npy") == UNKNOWN).sum() == 2
    assert run_stage(root, "--from-splits", tmp_path).stdout.startswith(
        "03_tokenize_split: up to date"
    )
    (tmp_path / "val.txt").write_text("other text\n")
    assert "up to date" not in run_stage(root, "--from-splits", tmp_path).stdout


def test_ready_text_keeps_what_stands_outside_tunes(tmp_path):
    """Once a line began with X:, everything outside such tunes was gone: 24,698 characters became
    321."""
    prose = "\n\n".join(f"Paragraph {i} of a preface,\nin two lines." for i in range(20))
    tune = make_abc([make_melody(1, 20)])
    text = prose + "\n\n" + tune + tune.replace("X:1", "X:2") + "\n \nafterword\n"
    for split in SPLITS:
        (tmp_path / f"{split}.txt").write_bytes(
            text.replace("\n", "\r\n" if split == "val" else "\n").encode()
        )
    done = run_stage(tmp_path / "root", "--from-splits", tmp_path)
    assert done.returncode == 0, done.stderr
    for split in SPLITS:
        written = (tmp_path / f"root/data/{split}.txt").read_text()
        assert [line for line in written.splitlines() if line] == [
            line for line in text.splitlines() if line.strip()
        ]
    table = rows(tmp_path / "root", "test")
    assert [row["origin"] for row in table] == [f"test.txt#{i}" for i in range(1, 24)]


def test_ready_text_is_cut_between_its_parts(tmp_path):
    tunes = [make_abc([make_melody(i, 12)]) for i in range(40)]
    for newline, name in (("\n", "utf-8"), ("\r\n", "latin-1")):
        text = "caf\u00e9\n\n" + "\n".join(tunes[:20]) + "".join(tunes[20:])
        path = tmp_path / "train.txt"
        path.write_bytes(text.replace("\n", newline).encode(name))
        parts = reading.ready_parts(path.read_bytes())
        rows_of_parts = [row for part in parts for row in reading.read_ready(("train.txt", part))]
        found = [row["pieces"][0][1] for row in rows_of_parts]
        assert found == ["caf\u00e9\n", *tunes]


def test_a_text_without_empty_lines_is_cut_in_time():
    """Ten thousand lines of uneven length: every number of pieces from the least on was tried, each
    with all lines."""
    draw = random.Random(1)
    text = "".join("w" * draw.choice((5, 4000)) + "\n" for _ in range(10_000))
    with an_end():
        pieces = cut_lines(text, 4999)
    assert max(map(len, pieces)) <= 4999 and "".join(pieces) == text


def test_tunebooks_are_read_tune_by_tune(tmp_path):
    (tmp_path / "abc").mkdir()
    for book in range(2):
        text = "%abc-2.1\nprose\n\n" + "\n".join(
            make_abc(piece(40 * book + i, 1), title=f"Tune {'abcdefgh'[i % 8]}{i}").replace(
                "X:1", f"X:{i + 1}"
            )
            for i in range(40)
        )
        (tmp_path / f"abc/book{book}.abc").write_text(text)
    done = run_stage(tmp_path / "root", "--abc", tmp_path / "abc")
    assert done.returncode == 0, done.stderr
    assert set(split_of(tmp_path / "root")) == {
        f"book{b}.abc#{i}" for b in range(2) for i in range(1, 41)
    }


# ---------------------------------------------------------------- baselines and overlap


@pytest.mark.parametrize("k", [1, 2, 3, 7, 16, 32])
def test_window_hashes_tell_windows_apart(k):
    symbols = np.random.default_rng(0).integers(0, 3, (2, 200)).astype(np.uint8)
    hashes = window_hashes(symbols, k)
    assert hashes.shape == (2, 201 - k) and window_hashes(symbols[:, : k - 1], k).shape == (2, 0)
    windows = [bytes(row[i : i + k]) for row in symbols for i in range(201 - k)]
    assert (
        len(set(zip(windows, hashes.ravel().tolist())))
        == len(set(windows))
        == len(set(hashes.ravel().tolist()))
    )
    positions, numbers = look_up(np.unique(hashes[0]), hashes[1])
    known = sorted(set(hashes[0].tolist()))
    assert {(i, known[n]) for i, n in zip(positions.tolist(), numbers.tolist())} == {
        (i, value) for i, value in enumerate(hashes[1].tolist()) if value in set(known)
    }


@pytest.fixture
def token_files(tmp_path):
    draw = np.random.default_rng(0)
    texts = {}
    for split, n in (("train", 400), ("val", 12), ("test", 12)):
        parts = []
        for _ in range(n):
            letters = [3]
            for _ in range(60):
                letters.append(
                    3 + (letters[-1] - 3 + int(draw.choice([1, 2, 3], p=[0.7, 0.2, 0.1]))) % 5
                )
            parts.append(np.array([BEGIN, *letters, END], np.uint8))
        texts[split] = np.concatenate(parts)
        np.save(tmp_path / f"{split}_tokens.npy", texts[split])
        (tmp_path / f"{split}.txt").write_text("".join(map(chr, texts[split] + 60)))
    return tmp_path, texts


def test_ngram_finds_the_source_of_a_markov_chain(token_files):
    data, texts = token_files
    results = data_report.measure_all(data, data, 9, 2)
    n = {split: int((texts[split] != BEGIN).sum()) for split in ("val", "test")}
    found = baselines.summarise(results, 9, n)
    entropy = -(0.7 * math.log2(0.7) + 0.2 * math.log2(0.2) + 0.1 * math.log2(0.1))
    for split in ("val", "test"):
        bits = {
            name: found[split][name]["bits_per_char"]
            for name in ("uniform", "unigram", "ngram", "xz")
        }
        assert bits["uniform"] == 3 and entropy * 0.9 < bits["ngram"] < entropy * 1.1 + 0.1
        assert bits["ngram"] < bits["unigram"] < bits["uniform"] and bits["ngram"] < bits["xz"]


def count_by_hand(train, asked, n_outcomes):
    """Bits of every asked character under an interpolated 6-gram of Witten and Bell, with
    dictionaries."""
    longest = baselines.NGRAM_ORDER - 1
    followers = defaultdict(Counter)
    padded = [END] * longest + list(train)
    for place in range(longest, len(padded)):
        for k in range(longest + 1):
            if padded[place] != BEGIN:
                followers[tuple(padded[place - k : place])][padded[place]] += 1

    def probability(context, target):
        lower = probability(context[1:], target) if context else 1 / n_outcomes
        seen = followers.get(context)
        if not seen:
            return lower
        return (seen[target] + len(seen) * lower) / (sum(seen.values()) + len(seen))

    padded = [END] * longest + list(asked)
    return [
        -math.log2(probability(tuple(padded[place - longest : place]), padded[place]))
        for place in range(longest, len(padded))
        if padded[place] != BEGIN
    ]


@pytest.mark.parametrize("block", [7, 1 << 22])
def test_ngram_equals_a_count_by_hand(tmp_path, monkeypatch, block):
    monkeypatch.setattr(baselines, "BLOCK", block)
    draw = random.Random(11)
    texts, paths = {}, []
    for split, n in (("train", 40), ("val", 2), ("test", 1)):
        tokens = []
        for _ in range(n):
            letters = [3 + min(int(draw.paretovariate(0.7)), 5) for _ in range(25)]
            tokens += [BEGIN, *letters, END]
        texts[split] = np.array(tokens, np.uint8)
        paths.append(tmp_path / f"{split}_tokens.npy")
        np.save(paths[-1], texts[split])
    found = baselines.ngram_bits(paths[0], paths[1:], 60)
    for bits, split in zip(found, ("val", "test")):
        by_hand = count_by_hand(texts["train"].tolist(), texts[split].tolist(), 59)
        assert bits == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-6)


def test_compressors_know_the_training_text(token_files):
    data, _ = token_files
    (data / "train.txt").write_text(
        "".join(random.Random(0).choice("abcdefgh") for _ in range(30_000))
    )
    (data / "copy.txt").write_text((data / "train.txt").read_text()[-20_000:])
    for name in ("xz", "ppmd"):
        (bits,) = baselines.conditional_bits(
            name, data / "train.txt", [(data / "copy.txt").read_bytes()]
        )
        assert bits < 0.5 * 3 * 20_000


def test_ppmd_is_the_growth_of_the_librarys_own_stream(corpus):
    data = corpus[0] / "data"
    marks = json.loads((data / "baselines.json").read_text())

    def stream(text):
        coder = pyppmd.Ppmd8Encoder(16, 1 << 29, pyppmd.PPMD8_RESTORE_METHOD_CUT_OFF)
        return len(coder.encode(text) + coder.flush())

    train = (data / "train.txt").read_bytes()
    alone = stream(train)
    for split in ("val", "test"):
        text = (data / f"{split}.txt").read_text()
        tunes = re.split(r"(?<=\n)\n", text)
        ends = len(rows(corpus[0], split))
        assert len(tunes) == ends and marks["n_chars"][split] == sum(map(len, tunes)) + ends
        found = marks[split]["ppmd"]
        assert found["bits_per_char"] * marks["n_chars"][split] == pytest.approx(
            8 * (stream(train + b"\n" + text.encode()) - alone)
        )
        assert found["label"] == "PPMd (order 16)"


def test_overlap_counts_windows_and_leaves_repeated_figures_out(token_files):
    data, texts = token_files
    sequence = texts["train"][63 * 7 : 63 * 8]
    np.save(data / "val_tokens.npy", np.concatenate([sequence, texts["val"][:63]]))
    paths = [data / f"{split}_tokens.npy" for split in ("train", "val", "test")]
    (starts, found), _ = data_report.shared_windows(paths[0], paths[1:], 32)
    windows = [bytes(texts["train"][i : i + 32]) for i in range(len(texts["train"]) - 31)]
    val = np.load(data / "val_tokens.npy")
    assert found.tolist() == [bytes(val[i : i + 32]) in set(windows) for i in starts]
    assert found[:30].all() and len(starts) == 2 * 30
    # the first sequence is a tune, the second the same chord again and again
    texts = [("CDEFGABc" * 8)[:61], ("[CEG]2" * 11)[:61]]
    overlap = data_report.overlap_statistics((starts, np.ones(60, bool)), texts, 32)
    assert list(overlap.values()) == [60, 1.0, 0.5]


def test_baselines_file_has_every_mark(corpus):
    found = json.loads((corpus[0] / "data/baselines.json").read_text())
    for split in ("val", "test"):
        assert {"uniform", "unigram", "ngram", "ppmd", "xz"} == set(found[split])
        assert all(0 < found[split][name]["bits_per_char"] < 10 for name in found[split])
