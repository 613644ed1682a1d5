"""Musical figures of a tune and of sets, and skills, against values worked out by hand."""

import json
import math
import random

import numpy as np
import pytest

from music.abc_fields import tonic_of
from music.metrics import (
    CAP_NOTES,
    METRICS,
    compare_sets,
    entropy,
    jensen_shannon,
    music_metrics,
    note_histograms,
    skills,
)
from music.novelty import Novelty
from music.samples import Sample
from music.theory import best_key
from tunes import C_MAJOR_HEADER as HEADER
from tunes import VALID_TUNES, valid_tune

SCALE = HEADER + "C2D2E2F2G2A2B2c2|C2D2E2F2G2A2B2c2|\n"


def strict(value):
    return json.loads(json.dumps(value, allow_nan=False))


def test_metrics_of_a_scale_by_hand():
    found = strict(music_metrics(SCALE))
    # C twice as often as the others
    seven = -(6 * (2 / 16) * math.log2(2 / 16) + (4 / 16) * math.log2(4 / 16))
    assert found["pitch_class_entropy"] == pytest.approx(seven)
    assert entropy([1] * 7 + [0] * 5) == pytest.approx(math.log2(7))
    assert found["scale_consistency"] == 1 and found["in_key_share"] == 1
    assert found["groove_consistency"] == 1 and found["bar_repetition"] == 0.5
    assert found["polyphony"] == 1 and found["rest_share"] == 0
    assert found["notes_per_bar"] == 8 and found["pitch_range"] == 12
    assert found["leap_share"] == pytest.approx(1 / 15)  # the way back from c to C


def test_metrics_of_chords_rests_and_voices():
    found = music_metrics(HEADER + "[CE]8z8|[CEG]8z8|\n")
    assert found["polyphony"] == 2.5 and found["rest_share"] == 0.5
    two = music_metrics(HEADER + "[V:1]C8z8|[V:2]z8E8|\n")
    assert two["rest_share"] == 0 and two["polyphony"] == 1


def test_groove_by_hand():
    found = music_metrics(HEADER + "C4C4C4C4|C4C4C8|")
    assert found["groove_consistency"] == pytest.approx(1 - 1 / 16)
    assert music_metrics(HEADER + "C16|[M:3/4]C12|")["groove_consistency"] is None


def test_in_key_share_follows_key_changes():
    assert music_metrics(HEADER + "F4F4F4F4|[K:G]F4F4=F4F4|")["in_key_share"] == pytest.approx(
        6 / 8
    )


def test_undefined_is_none():
    for text in (HEADER + "z16|z16|", HEADER, "", "! ! !"):
        found = strict(music_metrics(text))
        assert set(found) == set(METRICS)
        assert found["groove_consistency"] is None and found["pitch_class_entropy"] is None
        assert found["polyphony"] is None and found["bar_repetition"] is None


def test_metrics_never_raise_on_bad_text():
    draw = random.Random(5)
    bad = [
        "".join(draw.choice("ABCabc|[]()z23/>-^_=,'{}:\" \n") for _ in range(300))
        for _ in range(60)
    ]
    for text in bad:
        strict(music_metrics(HEADER + text))
    strict(skills([Sample(HEADER + text, truncated=True) for text in bad]))
    strict(compare_sets(bad[:10], bad[10:30], resamples=5))
    strict(Novelty("\n".join(bad)).measure(bad + ["", "\u00e9\u00e9"]))


def test_jensen_shannon():
    assert jensen_shannon([1, 0], [0, 2]) == 1 and jensen_shannon([1, 3], [2, 6]) == 0
    assert jensen_shannon([0, 0], [1, 1]) is None
    half = jensen_shannon([1, 1], [1, 0])
    assert half == pytest.approx(entropy([3, 1]) - 0.5)


def test_sets_tell_other_music_from_the_same_music():
    same = strict(compare_sets(VALID_TUNES[:30], VALID_TUNES[30:], seed=0, resamples=40))
    other = [valid_tune(seed).replace("4", "1") for seed in range(30)]
    different = compare_sets(other, VALID_TUNES[30:], seed=0, resamples=40)
    assert same["n"] == 30 and same["n_compared"] == 15
    for table, key in (("jsd", "duration"), ("jsd", "onset")):
        assert different[table][key]["generated"] > 3 * different[table][key]["real_vs_real_p95"]
        assert same[table][key]["generated"] <= 2 * same[table][key]["real_vs_real_p95"]
    longer = different["metrics"]["notes_per_bar"]
    assert longer["wasserstein_in_sd"] > longer["real_vs_real_p95"]
    assert compare_sets(VALID_TUNES[:30], VALID_TUNES[30:], seed=0, resamples=40) == same
    strict(compare_sets([], VALID_TUNES[:3], resamples=3))
    strict(compare_sets(VALID_TUNES[:3], [], resamples=3))


def test_distances_do_not_depend_on_how_many_were_drawn():
    """The same music in larger sets lay nearer than real music to real music; at equal n it lies as
    near."""
    real = VALID_TUNES[:30]
    few, many = (
        compare_sets(VALID_TUNES[30:] * times, real, seed=0, resamples=60) for times in (1, 6)
    )
    assert few["n_compared"] == many["n_compared"] == 15 and many["n"] == 180
    for name, row in few["jsd"].items():
        assert row["generated"] == pytest.approx(many["jsd"][name]["generated"], rel=0.25), name
        assert row["generated"] <= 2 * row["real_vs_real_mean"], name


def test_a_long_piece_is_not_the_set():
    long = note_histograms(HEADER + "C1" * 3000 + "|")
    assert long["duration"].sum() == pytest.approx(CAP_NOTES)


def test_keys():
    assert [tonic_of(key) for key in ("Bb", "F#m", "Ador", "none")] == [
        (10, 0),
        (6, 1),
        (9, 1),
        None,
    ]
    scale = np.array([60, 62, 64, 65, 67, 69, 71, 72])
    assert best_key(np.bincount(scale % 12, minlength=12)) == (0, 0)
    assert best_key(np.bincount((scale + 5) % 12, minlength=12)) == (5, 0)


def test_skills():
    music = HEADER + "C4E4G4c4|G4E4D4C4|F4E4D4G,4|C4G4E4C4|" * 2
    found = skills([music, music[:-3] + "_D4|"])
    assert (
        found["meter"] == 1
        and found["key"] == 1
        and found["cadence"] == 0.5
        and found["ended"] == 1
    )
    assert found["repetition"] == 0.4375 and found["valid"] == 1  # (4 of 8 + 3 of 8) / 2
    cut = skills([Sample(music[:-9], truncated=True)])
    assert cut["cadence"] is None and cut["ended"] == 0
    nothing = strict(skills([]))
    assert nothing["n"] == 0 and nothing["meter"] is None
