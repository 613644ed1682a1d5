"""Rates of validity and their intervals, the frauds that must not raise them, and the independent judge."""

import json
import os
import random

import pytest
from tunes import C_MAJOR_HEADER as HEADER, VALID_TUNES, valid_tune

from music.validity import count_midi_notes, judge_texts, rate_samples, wilson


def strict(value):
    return json.loads(json.dumps(value, allow_nan=False))


# ---------------------------------------------------------------- rates

def test_wilson_known_values():
    assert [round(x, 3) for x in wilson(9, 10)] == [0.596, 0.982]
    assert [round(x, 3) for x in wilson(100, 100)] == [0.963, 1.0]
    assert wilson(0, 20)[0] == 0.0 and wilson(0, 0) is None


def test_real_music_reaches_the_ceiling():
    rates = strict(rate_samples(VALID_TUNES))
    assert rates["rate"] == 1 and rates["n"] == 60 and rates["by_level"] == [1.0] * 5 and rates["bar_accuracy"] == 1
    assert rates["truncated_share"] == 0 and rates["error_kinds"] == {}
    if rates["judge"]:
        assert rates["judge_rate"] == 1 and rates["judge"]["timed_out"] == 0


def test_frauds_do_not_raise_the_rate():
    header_only = {"text": HEADER, "prompt": HEADER}
    rests = {"text": HEADER + "z16|" * 115, "prompt": ""}
    prompted = {"text": valid_tune(), "prompt": valid_tune(), "truncated": False}  # all of it was given
    rates = rate_samples([header_only, rests, prompted], judge=True)
    assert rates["k"] == 0 and rates["by_level"][1] == 1
    if rates["judge"]:
        assert rates["judge"]["k"] <= 1  # abc2midi cannot know that the prompt was a prompt


def test_every_sample_counts_and_cuts_are_apart():
    whole = valid_tune(3)
    broken = {"text": whole[:-7] + "[C", "prompt": "", "truncated": True}
    rates = rate_samples([whole, broken, ""], judge=False)
    assert rates["n"] == 3 and rates["k"] == 1 and rates["truncated_share"] == pytest.approx(1 / 3)
    assert rates["cut"]["k"] == 2
    assert rate_samples([], judge=True)["rate"] is None
    strict(rate_samples([]))


# ---------------------------------------------------------------- the independent judge

def test_judge_reads_words_not_exit_codes():
    verdicts = judge_texts([valid_tune(1), HEADER + "C4D4|E16F4|" * 4, HEADER + "z16|" * 8, "no music", "", "\0\xff"])
    if verdicts is None:
        pytest.skip("abc2midi is not installed")
    assert [v["clean"] for v in verdicts] == [True, False, False, False, False, False]
    assert verdicts[1]["bar_warnings"] and verdicts[2]["notes"] == 0 and verdicts[0]["notes"] == 32


def test_judge_is_stopped_when_it_does_not_end(monkeypatch, tmp_path):
    slow = tmp_path / "abc2midi"
    slow.write_text("#!/bin/sh\nexec sleep 20\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    verdict, = judge_texts([valid_tune()], seconds=1)
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
        count_midi_notes(bytes(damaged)[:draw.randrange(len(data) + 1)])
