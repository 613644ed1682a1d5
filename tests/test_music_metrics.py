"""Rates, musical figures and novelty, each against values worked out by hand or planted."""

import json
import math
import random

import numpy as np
import pytest

from music import music_metrics as metrics
from music.abc_text import check_abc, trim_to_bars

HEADER = "X:1\nM:4/4\nL:1/16\nQ:1/4=120\nK:C\n"
SCALE = HEADER + "C2D2E2F2G2A2B2c2|C2D2E2F2G2A2B2c2|\n"


def tune(seed=0, n_bars=8, header=HEADER, voices=1):
    """A valid tune: random quarter notes of the scale, the last one the tonic."""
    draw = random.Random(seed)
    lines = []
    for bar in range(n_bars):
        parts = []
        for voice in range(voices):
            notes = [draw.choice("CDEFGABcdefg") + draw.choice(["4", "4", "2z2"]) for _ in range(4)]
            notes[-1] = "C4" if bar == n_bars - 1 else notes[-1]
            parts.append((f"[V:{voice + 1}]" if voices > 1 else "") + "".join(notes) + "|")
        lines.append("".join(parts))
    return header + "\n".join(lines) + "\n"


TUNES = [tune(seed, 12, voices=1 + seed % 2) for seed in range(60)]


def strict(value):
    return json.loads(json.dumps(value, allow_nan=False))


# ---------------------------------------------------------------- rates

def test_wilson_known_values():
    assert [round(x, 3) for x in metrics.wilson(9, 10)] == [0.596, 0.982]
    assert [round(x, 3) for x in metrics.wilson(100, 100)] == [0.963, 1.0]
    assert metrics.wilson(0, 20)[0] == 0.0 and metrics.wilson(0, 0) is None


def test_real_music_reaches_the_ceiling():
    rates = strict(metrics.rate_samples(TUNES))
    assert rates["rate"] == 1 and rates["n"] == 60 and rates["by_level"] == [1.0] * 5 and rates["bar_accuracy"] == 1
    assert rates["truncated_share"] == 0 and rates["error_kinds"] == {}
    if rates["judge"]:
        assert rates["judge_rate"] == 1 and rates["judge"]["timed_out"] == 0


def test_floors_stay_on_the_floor():
    floors = metrics.floors(TUNES, n=30, seed=1, max_chars=500)
    assert set(floors) == {"random", "printable", "shuffled", "rests", "3-gram", "5-gram", "8-gram"}
    for name in ("random", "printable", "shuffled", "rests"):
        rates = strict(metrics.rate_samples(floors[name], judge=False))
        assert rates["n"] == 30 and rates["k"] == 0, name
        assert rates["header_regex_rate"] == 1  # what a check of headers would have said
    assert metrics.rate_samples(floors["rests"], judge=False)["rest_bar_share"] == 1
    again = metrics.floors(TUNES, n=30, seed=1, max_chars=500)
    assert again == floors and metrics.floors(TUNES, n=30, seed=2, max_chars=500) != floors
    assert metrics.floors([], 10) == {}


def test_frauds_do_not_raise_the_rate():
    header_only = {"text": HEADER, "prompt": HEADER}
    rests = {"text": HEADER + "z16|" * 115, "prompt": ""}
    prompted = {"text": tune(), "prompt": tune(), "truncated": False}  # all of it was given
    rates = metrics.rate_samples([header_only, rests, prompted], judge=True)
    assert rates["k"] == 0 and rates["by_level"][1] == 1
    if rates["judge"]:
        assert rates["judge"]["k"] <= 1  # abc2midi cannot know that the prompt was a prompt


def test_every_sample_counts_and_cuts_are_apart():
    whole = tune(3)
    broken = {"text": whole[:-7] + "[C", "prompt": "", "truncated": True}
    rates = metrics.rate_samples([whole, broken, ""], judge=False)
    assert rates["n"] == 3 and rates["k"] == 1 and rates["truncated_share"] == pytest.approx(1 / 3)
    assert rates["cut"]["k"] == 2
    assert metrics.rate_samples([], judge=True)["rate"] is None
    strict(metrics.rate_samples([]))


def test_trim_to_bars():
    two = HEADER + "[V:1]C16|D16|[V:2]E16|F16|\n[V:1]G16|A16|[V:2]c1"
    assert trim_to_bars(two) == HEADER + "[V:1]C16|D16|[V:2]E16|F16|\n[V:1]G16|A16|\n"
    assert trim_to_bars(two, all_voices=True) == HEADER + "[V:1]C16|D16|[V:2]E16|F16|\n"
    assert check_abc(trim_to_bars(two, all_voices=True)).aligned
    assert trim_to_bars("junk") == "junk"


def test_judge_reads_words_not_exit_codes():
    verdicts = metrics.judge_texts([tune(1), HEADER + "C4D4|E16F4|" * 4, HEADER + "z16|" * 8, "no music", "", "\0\xff"])
    if verdicts is None:
        pytest.skip("abc2midi is not installed")
    assert [v["clean"] for v in verdicts] == [True, False, False, False, False, False]
    assert verdicts[1]["bar_warnings"] and verdicts[2]["notes"] == 0 and verdicts[0]["notes"] == 32


def test_judge_is_stopped_when_it_does_not_end(monkeypatch, tmp_path):
    slow = tmp_path / "abc2midi"
    slow.write_text("#!/bin/sh\nexec sleep 20\n")
    slow.chmod(0o755)
    monkeypatch.setattr(metrics, "find_abc2midi", lambda: str(slow))
    monkeypatch.setattr(metrics, "JUDGE_SECONDS", 1)
    verdict, = metrics.judge_texts([tune()])
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
    assert metrics.count_midi_notes(data) == 7
    draw = random.Random(0)
    for _ in range(200):  # damaged files count what is there and never raise
        damaged = bytearray(data)
        damaged[draw.randrange(len(data))] = draw.randrange(256)
        metrics.count_midi_notes(bytes(damaged)[:draw.randrange(len(data) + 1)])


# ---------------------------------------------------------------- music

def test_metrics_of_a_scale_by_hand():
    found = strict(metrics.music_metrics(SCALE))
    seven = -(6 * (2 / 16) * math.log2(2 / 16) + (4 / 16) * math.log2(4 / 16))  # C twice as often as the others
    assert found["pitch_class_entropy"] == pytest.approx(seven)
    assert metrics.entropy([1] * 7 + [0] * 5) == pytest.approx(math.log2(7))
    assert found["scale_consistency"] == 1 and found["in_key_share"] == 1
    assert found["groove_consistency"] == 1 and found["bar_repetition"] == 0.5 and found["bar_repetition_lag_1"] == 1
    assert found["bar_repetition_lag_2"] is None
    assert found["polyphony"] == 1 and found["polyphony_rate"] == 0 and found["rest_share"] == 0
    assert found["notes_per_bar"] == 8 and found["notes_per_quarter"] == 2
    assert found["pitch_range"] == 12 and found["n_pitches"] == 8
    assert found["leap_share"] == pytest.approx(1 / 15)  # the way back from c to C
    assert found["mean_interval"] == pytest.approx((12 + 12 + 12) / 15)
    assert found["pitch_class_entropy_4_bars"] is None


def test_metrics_of_chords_rests_and_voices():
    found = metrics.music_metrics(HEADER + "[CE]8z8|[CEG]8z8|\n")
    assert found["polyphony"] == 2.5 and found["polyphony_rate"] == 1 and found["rest_share"] == 0.5
    two = metrics.music_metrics(HEADER + "[V:1]C8z8|[V:2]z8E8|\n")
    assert two["rest_share"] == 0 and two["voice_rest_share"] == 0.5 and two["n_voices"] == 2


def test_groove_by_hand():
    found = metrics.music_metrics(HEADER + "C4C4C4C4|C4C4C8|")
    assert found["groove_consistency"] == pytest.approx(1 - 1 / 16)
    assert metrics.music_metrics(HEADER + "C16|[M:3/4]C12|")["groove_consistency"] is None


def test_in_key_share_follows_key_changes():
    assert metrics.music_metrics(HEADER + "F4F4F4F4|[K:G]F4F4=F4F4|")["in_key_share"] == pytest.approx(6 / 8)


def test_undefined_is_none():
    for text in (HEADER + "z16|z16|", HEADER, "", "! ! !"):
        found = strict(metrics.music_metrics(text))
        assert set(found) == set(metrics.METRICS)
        assert found["groove_consistency"] is None and found["pitch_class_entropy"] is None
        assert found["polyphony"] is None and found["n_notes"] == 0


def test_metrics_never_raise_on_bad_text():
    draw = random.Random(5)
    bad = ["".join(draw.choice("ABCabc|[]()z23/>-^_=,'{}:\" \n") for _ in range(300)) for _ in range(60)]
    for text in bad:
        strict(metrics.music_metrics(HEADER + text))
    strict(metrics.skills([{"text": HEADER + text, "truncated": True} for text in bad]))
    strict(metrics.compare_sets(bad[:10], bad[10:30], resamples=5))
    strict(metrics.Novelty("\n".join(bad)).measure(bad + ["", "\u00e9\u00e9"]))
    strict(metrics.diversity(bad))


def test_jensen_shannon_and_wasserstein():
    assert metrics.jensen_shannon([1, 0], [0, 2]) == 1 and metrics.jensen_shannon([1, 3], [2, 6]) == 0
    assert metrics.jensen_shannon([0, 0], [1, 1]) is None
    half = metrics.jensen_shannon([1, 1], [1, 0])
    assert half == pytest.approx(metrics.entropy([3, 1]) - 0.5)
    assert metrics.wasserstein([0, 1], [2, 3]) == 2 and metrics.wasserstein([1, 2, 3], [3, 1, 2]) == 0
    assert metrics.wasserstein([0], [0, 0, 0, 4]) == 1


def test_sets_tell_other_music_from_the_same_music():
    same = strict(metrics.compare_sets(TUNES[:30], TUNES[30:], seed=0, resamples=40))
    other = [tune(seed).replace("4", "1") for seed in range(30)]
    different = metrics.compare_sets(other, TUNES[30:], seed=0, resamples=40)
    assert same["n"] == 30 and same["n_real_vs_real"] == 15
    for table, key in (("jsd", "duration"), ("jsd", "onset")):
        assert different[table][key]["generated"] > 3 * different[table][key]["real_vs_real_p95"]
        assert same[table][key]["generated"] <= 2 * same[table][key]["real_vs_real_p95"]
    longer = different["metrics"]["mean_duration"]
    assert longer["w1_over_sd"] > longer["real_vs_real_p95"]
    assert metrics.compare_sets(TUNES[:30], TUNES[30:], seed=0, resamples=40) == same
    strict(metrics.compare_sets([], TUNES[:3], resamples=3))
    strict(metrics.compare_sets(TUNES[:3], [], resamples=3))


def test_a_long_piece_is_not_the_set():
    long = metrics.note_histograms(HEADER + "C1" * 3000 + "|")
    assert long["pitch_class"].sum() == pytest.approx(metrics.CAP_NOTES)


def test_keys():
    assert [metrics.tonic_of(key) for key in ("Bb", "F#m", "Ador", "none")] == [(10, 0), (6, 1), (9, 1), None]
    scale = np.array([60, 62, 64, 65, 67, 69, 71, 72])
    assert metrics.best_key(np.ones(8), scale) == (0, 0)
    assert metrics.best_key(np.ones(8), scale + 5) == (5, 0)


def test_skills():
    music = HEADER + "C4E4G4c4|G4E4D4C4|F4E4D4G,4|C4G4E4C4|" * 2
    found = metrics.skills([music, {"text": music[:-3] + "_D4|", "truncated": False}])
    assert found["meter"] == 1 and found["key"] == 1 and found["cadence"] == 0.5 and found["ended"] == 1
    assert found["repetition"] == 0.4375 and found["valid"] == 1  # (4 of 8 + 3 of 8) / 2
    cut = metrics.skills([{"text": music[:-9], "truncated": True}])
    assert cut["cadence"] is None and cut["ended"] == 0
    nothing = strict(metrics.skills([]))
    assert nothing["n"] == 0 and nothing["meter"] is None


# ---------------------------------------------------------------- novelty

def letters(seed, n):
    draw = random.Random(seed)
    return "".join(draw.choice("ABCDEFGabcdefg234/|z") for _ in range(n))


@pytest.mark.parametrize("indexed", [True, False])
def test_a_planted_copy_is_found_exactly(indexed, monkeypatch):
    if not indexed:
        monkeypatch.setattr(metrics, "INDEX_CHARS", 0)
        monkeypatch.setattr(metrics, "CHUNK_CHARS", 1000)
    train = letters(0, 20_000)
    copied = metrics.Novelty(train)
    for length, at in ((77, 5000), (32, 0), (500, 19_500), (900, 960)):
        text = "K:C\n" + "~" + letters(1, 300) + "~" + train[at:at + length] + "~" + letters(2, 200)
        row = copied.measure([letters(3, 50), text])["samples"][1]
        assert row["longest_copied_chars"] == length
        assert row["copied_share"] == pytest.approx(length / row["n_chars"])
    row = copied.measure(["~" + train[10:41] + "~"])["samples"][0]
    assert row["longest_copied_chars"] == 0 and row["copied_share"] == 0  # 31 characters are no copy


def test_training_tunes_are_copies_and_others_are_not():
    copied = metrics.Novelty("\n".join(TUNES[:40]))
    known, new = copied.measure(TUNES[:5]), copied.measure(TUNES[40:])
    assert known["copied_share"] == 1 and known["new_4_bar_share"] == 0
    assert known["longest_copied_chars"] >= max(len(text) - len(HEADER) for text in TUNES[:5])
    assert new["copied_share"] < 0.2 and new["new_4_bar_share"] == 1
    assert copied.measure([])["copied_share"] is None
    prompted = copied.measure([{"text": TUNES[0] + "~", "prompt_chars": len(TUNES[0])}])
    assert prompted["copied_share"] == 0  # what was given is not copied


def test_boilerplate_everywhere_is_handled():
    rests = "z16|" * 5000
    found = metrics.Novelty(HEADER + rests).measure([HEADER + "z16|" * 100])
    assert found["copied_share"] == 1 and found["longest_copied_chars"] == 400
    assert found["new_4_bar_share"] is None


def test_four_bar_sequences_know_voices_in_both_layouts():
    lines = HEADER + "[V:1]C16|D16|[V:2]E16|F16|\n[V:1]z16|G16|A16|[V:2][CE]16|z16|B16|\n"
    blocks = HEADER + "V:1\nC16|D16|z16|G16|\nA16|\nV:2\nE16|F16|[CE]16|z16|B16|\n"
    expected = ["C16|D16|G16|A16", "E16|F16|[CE]16|B16"]
    assert sorted(metrics.four_bar_sequences(lines)) == expected
    assert sorted(metrics.four_bar_sequences(blocks)) == expected
    assert metrics.four_bar_sequences(lines + "\n" + lines) == 2 * metrics.four_bar_sequences(lines)
    assert metrics.four_bar_sequences("A1|[K:G]B2|c3|d4|") == ["A1|B2|c3|d4"]


def test_diversity():
    assert metrics.diversity([TUNES[0]] * 3) == {"n_unique": 1, "mean_jaccard": 1.0}
    assert metrics.diversity(TUNES[:5])["mean_jaccard"] < 0.5
    assert metrics.diversity(["a"])["mean_jaccard"] is None


def test_ngram_samples_follow_the_text():
    only = metrics.ngram_samples([TUNES[0]], 12, 5, 2000, seed=1)
    assert all(sample["text"][:60] == TUNES[0][:60] for sample in only)
    for sample in metrics.ngram_samples(TUNES, 4, 10, 300, seed=2):
        book = "\n".join(TUNES)
        assert all(sample["text"][i:i + 4] in book for i in range(len(sample["text"]) - 4))
        assert len(sample["text"]) <= 300 and sample["truncated"] == (len(sample["text"]) == 300)
    assert len(metrics.ngram_samples(TUNES, 1, 3, 50)) == 3
