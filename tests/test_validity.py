"""Rates of validity and their intervals, the frauds that must not raise them, and the independent
judge."""

import json
import os
import random

import numpy as np
import pytest

from music.samples import Sample
from music.validity import (
    LEVELS,
    count_midi_notes,
    is_above,
    judge_texts,
    rate_samples,
    share,
    standard_error,
    wilson,
)
from tunes import C_MAJOR_HEADER as HEADER
from tunes import VALID_TUNES, valid_tune


def strict(value):
    return json.loads(json.dumps(value, allow_nan=False))


# ---------------------------------------------------------------- rates


def test_wilson_known_values():
    assert [round(x, 3) for x in wilson(9, 10)] == [0.596, 0.982]
    assert [round(x, 3) for x in wilson(100, 100)] == [0.963, 1.0]
    assert wilson(0, 20)[0] == 0.0 and wilson(0, 0) is None


def test_real_music_reaches_the_ceiling():
    rates = strict(rate_samples(VALID_TUNES))
    assert rates["rate"] == 1 and rates["n"] == 60 and rates["bar_accuracy"] == 1
    assert set(rates["level_rates"].values()) == {1.0}
    assert rates["truncated_share"] == 0
    assert list(rates["level_rates"]) == list(LEVELS) and rates["bar_accuracy_interval"] == [1, 1]
    assert rates["abc2midi_clean_rate"] in (1, None)  # None: abc2midi is not installed


def test_frauds_do_not_raise_the_rate():
    header_only = Sample(HEADER, len(HEADER))
    rests = HEADER + "z16|" * 115
    # all of it was given
    prompted = Sample(valid_tune(), len(valid_tune()))
    rates = rate_samples([header_only, rests, prompted], judge=True)
    assert rates["count"] == 0 and rates["level_rates"]["tokens"] == 1
    # abc2midi cannot know that the prompt was a prompt
    assert (rates["abc2midi_clean_rate"] or 0) <= 1 / 3


def test_above_means_by_more_than_chance():
    """Newcombe's method 10; its paper's example: 56/70 against 48/80 gives 0.0524 to 0.3339."""
    assert is_above(share(56, 70), share(48, 80)) and not is_above(share(54, 70), share(51, 80))
    assert not is_above(share(3, 100), share(0, 100)) and not is_above(share(0, 100), share(0, 100))
    assert not is_above(share(0, 0), share(0, 100))


def test_bars_of_one_sample_are_not_as_many_draws():
    # each sample is right or wrong throughout
    right, whole = np.array([10.0, 0.0, 10.0, 0.0]), np.full(4, 10.0)
    # as of four draws, not of forty
    assert standard_error(right, whole) == pytest.approx(np.sqrt(0.25 / 3))
    draws = np.random.default_rng(0)
    sizes = draws.integers(1, 20, (500, 60))
    right = draws.binomial(sizes, 0.7)
    spread = (right.sum(1) / sizes.sum(1)).std()
    assert np.mean([standard_error(*pair) for pair in zip(right, sizes)]) == pytest.approx(
        spread, rel=0.1
    )
    assert standard_error(right[0, :1], sizes[0, :1]) is None


def test_every_sample_counts_and_cuts_are_apart():
    whole = valid_tune(3)
    broken = Sample(whole[:-7] + "[C", truncated=True)
    rates = rate_samples([whole, broken, ""], judge=False)
    assert (
        rates["n"] == 3 and rates["count"] == 1 and rates["truncated_share"] == pytest.approx(1 / 3)
    )
    assert rates["without_unfinished_bar"]["count"] == 2
    assert rate_samples([], judge=True)["rate"] is None
    strict(rate_samples([]))


# ---------------------------------------------------------------- the independent judge


def test_judge_reads_words_not_exit_codes():
    verdicts = judge_texts(
        [valid_tune(1), HEADER + "C4D4|E16F4|" * 4, HEADER + "z16|" * 8, "no music", "", "\0\xff"]
    )
    if verdicts is None:
        pytest.skip("abc2midi is not installed")
    assert [v["clean"] for v in verdicts] == [True, False, False, False, False, False]
    assert verdicts[1]["bar_warnings"] and verdicts[2]["notes"] == 0 and verdicts[0]["notes"] == 32


def test_judge_is_stopped_when_it_does_not_end(monkeypatch, tmp_path):
    slow = tmp_path / "abc2midi"
    slow.write_text("#!/bin/sh\nexec sleep 20\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("music.validity.JUDGE_SECONDS", 1)
    (verdict,) = judge_texts([valid_tune()])
    assert verdict["timed_out"] and not verdict["clean"]


def test_counts_notes_of_midi_files(tmp_path):
    symusic = pytest.importorskip("symusic")
    score = symusic.Score(480)
    track = symusic.Track()
    for i in range(7):
        track.notes.append(symusic.Note(480 * i, 400, 60 + i, 64))
    score.tracks.append(track)
    score.dump_midi(str(tmp_path / "a.mid"))
    data = (tmp_path / "a.mid").read_bytes()
    assert count_midi_notes(data) == 7
    draw = random.Random(0)
    for _ in range(200):  # damaged files count what is there and never raise
        damaged = bytearray(data)
        damaged[draw.randrange(len(data))] = draw.randrange(256)
        count_midi_notes(bytes(damaged)[: draw.randrange(len(data) + 1)])
