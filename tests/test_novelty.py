"""What is copied from a training text is found, planted copies to the character; and the
baselines made from it."""

import json
import random

import pytest

from music import novelty
from music.baseline_texts import baseline_samples, ngram_samples
from music.novelty import Novelty, four_bar_sequences, run_in_words
from music.samples import Sample
from music.validity import rate_samples
from tunes import C_MAJOR_HEADER as HEADER
from tunes import VALID_TUNES


def strict(value):
    return json.loads(json.dumps(value, allow_nan=False))


# ---------------------------------------------------------------- novelty


def letters(seed, n):
    draw = random.Random(seed)
    return "".join(draw.choice("ABCDEFGabcdefg234/|z") for _ in range(n))


@pytest.mark.parametrize("chunk_chars", [1000, 4_000_000])
def test_a_planted_copy_is_found_exactly(chunk_chars, monkeypatch):
    monkeypatch.setattr(novelty, "CHUNK_CHARS", chunk_chars)
    train = letters(0, 20_000)
    copied = Novelty(train)
    for length, at in ((77, 5000), (32, 0), (500, 19_500), (900, 960)):
        text = (
            "K:C\n" + "~" + letters(1, 300) + "~" + train[at : at + length] + "~" + letters(2, 200)
        )
        row = copied.measure([letters(3, 50), text])["samples"][1]
        assert row["longest_copied_chars"] == length
        assert row["copied_share"] == pytest.approx(length / row["n_chars"])
    found = copied.measure(["~" + train[10:41] + "~"])
    row = found["samples"][0]
    # 31 characters are no copy
    assert row["longest_copied_chars"] == 0 and row["copied_share"] == 0
    assert run_in_words(row["longest_copied_chars"]) == "under 32"


def test_training_tunes_are_copies_and_others_are_not():
    copied = Novelty("\n".join(VALID_TUNES[:40]))
    known, new = copied.measure(VALID_TUNES[:5]), copied.measure(VALID_TUNES[40:])
    assert known["copied_share"] == 1 and known["new_4_bar_share"] == 0
    assert known["longest_copied_chars"] >= max(len(text) - len(HEADER) for text in VALID_TUNES[:5])
    assert new["copied_share"] < 0.2 and new["new_4_bar_share"] == 1
    assert copied.measure([])["copied_share"] is None
    prompted = copied.measure([Sample(VALID_TUNES[0] + "~", len(VALID_TUNES[0]))])
    assert prompted["copied_share"] == 0  # what was given is not copied


def test_boilerplate_everywhere_is_handled():
    rests = "z16|" * 5000
    found = Novelty(HEADER + rests).measure([HEADER + "z16|" * 100])
    assert found["copied_share"] == 1 and found["longest_copied_chars"] == 400
    assert found["new_4_bar_share"] is None


def test_four_bar_sequences_know_voices_in_both_layouts():
    lines = HEADER + "[V:1]C16|D16|[V:2]E16|F16|\n[V:1]z16|G16|A16|[V:2][CE]16|z16|B16|\n"
    blocks = HEADER + "V:1\nC16|D16|z16|G16|\nA16|\nV:2\nE16|F16|[CE]16|z16|B16|\n"
    expected = ["C16|D16|G16|A16", "E16|F16|[CE]16|B16"]
    assert sorted(four_bar_sequences(lines)) == expected
    assert sorted(four_bar_sequences(blocks)) == expected
    assert four_bar_sequences(lines + "\n" + lines) == 2 * four_bar_sequences(lines)
    assert four_bar_sequences("A1|[K:G]B2|c3|d4|") == ["A1|B2|c3|d4"]


# ---------------------------------------------------------------- baselines


def test_baselines_are_never_valid():
    baselines = baseline_samples(VALID_TUNES, n=30, seed=1, max_chars=500)
    assert set(baselines) == {
        "random",
        "printable",
        "shuffled",
        "rests",
        "3-gram",
        "5-gram",
        "8-gram",
        "10-gram",
        "12-gram",
    }
    for name in ("random", "printable", "shuffled", "rests"):
        rates = strict(rate_samples(baselines[name], judge=False))
        assert rates["n"] == 30 and rates["count"] == 0, name
    assert rate_samples(baselines["rests"], judge=False)["rest_bar_share"] == 1
    again = baseline_samples(VALID_TUNES, n=30, seed=1, max_chars=500)
    assert (
        again == baselines
        and baseline_samples(VALID_TUNES, n=30, seed=2, max_chars=500) != baselines
    )
    assert baseline_samples([], 10) == {}


def test_long_ngrams_keep_more_bars_right_and_copy_more():
    baselines, copied = baseline_samples(VALID_TUNES, n=30, seed=1, max_chars=400), Novelty(
        "\n".join(VALID_TUNES)
    )
    right, share = (
        [figures(baselines[f"{order}-gram"]) for order in (3, 8, 12)]
        for figures in (
            lambda samples: rate_samples(samples, judge=False)["bar_accuracy"] or 0,
            lambda samples: copied.measure(samples)["copied_share"],
        )
    )
    assert (
        right == sorted(right)
        and right[0] < right[2]
        and share == sorted(share)
        and share[0] < 0.1 < share[2]
    )


def test_ngram_samples_follow_the_text():
    only = ngram_samples([VALID_TUNES[0]], 12, 5, 2000, seed=1)
    assert all(sample.text[:60] == VALID_TUNES[0][:60] for sample in only)
    for sample in ngram_samples(VALID_TUNES, 4, 10, 300, seed=2):
        book = "\n".join(VALID_TUNES)
        assert all(sample.text[i : i + 4] in book for i in range(len(sample.text) - 4))
        assert len(sample.text) <= 300 and sample.truncated == (len(sample.text) == 300)
    assert len(ngram_samples(VALID_TUNES, 2, 3, 50)) == 3
