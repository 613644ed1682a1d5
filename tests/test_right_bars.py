"""The judge of right bars: accepts what the strict checker accepts, refuses at once what no later
bar could mend."""

import pytest

from music.abc_check import check_abc
from music.right_bars import RightBars, judge
from tunes import C_MAJOR_HEADER, VALID_TUNES, long_tune

HEADER = "X:1\nM:2/4\nL:1/4\nK:C\n"


def walk(text):
    """(verdicts at every place where a bar may end, verdict of the end) for a text that comes
    character by character."""
    bars, verdicts = RightBars(""), []
    for n in range(1, len(text) + 1):
        if bars.is_due(text[n - 1], n):
            verdicts.append(bars.judge(text[:n], n, ended=False))
    return verdicts, bars.judge(text, len(text), ended=True)


@pytest.mark.parametrize(
    "text",
    [
        *VALID_TUNES[:12],
        long_tune(1, 2, 30),
        long_tune(2, 3, 20),
        long_tune(3, 1, 40),
        # pickup, and a short last bar
        HEADER + "C|" + "CD|EF|GA|" * 6 + "C|\n",
        # words with a |, slurs over bars
        HEADER + '|: "C|G"CD|(EF|GA):|' + "CD|EF|GA|" * 5 + "C2|]\n",
        # turns of four bars
        HEADER + "".join(f"[V:{v}]" + "CD|EF|" * 2 + "\n" for _ in range(3) for v in (1, 2)),
        # voice after voice
        HEADER + "[V:1]" + "CD|EF|GA|" * 4 + "\n[V:2]" + "CD|EF|GA|" * 4 + "\n",
        HEADER + "CD|[M:3/4]EFG|" + "CDE|" * 8,
    ],
)
def test_what_the_checker_calls_right_is_right_at_every_bar(text):
    assert check_abc(text).level == 5
    verdicts, end = walk(text)
    assert "wrong" not in verdicts and end == "right"


@pytest.mark.parametrize(
    "body",
    [
        "CDE|",
        "CD|E|FG|",
        "CD|E2F|",
        "CD|(3CD|",
        "CD|^|",
        "CD|[CE|",
        "CD|z9|",
        "CD||E|F|",
        "[V:1]CD|[V:2]EF|[V:1]CD|EF|[V:2]EF|[V:1]CD|",  # voice 2 is left a bar behind
        # a voice that does not finish its turn
        "[V:1]CD|EF|[V:2]CD|EF|[V:3]CD|[V:1]CD|",
        "[V:1]CD|[V:2]EF|[V:1]CD|[V:2]EF|[V:3]CD|",  # a voice that joins late
        "[V:1]CD|[V:2]EF|[V:1][M:3/4]CDE|[V:2]EF|",  # a change of meter in one voice only
        "[V:1]C|[V:2]EF|",
    ],
)  # a pickup in one voice only
def test_what_no_later_bar_could_mend_is_wrong_at_once(body):
    verdicts, _ = walk(HEADER + body)
    assert verdicts[-1] == "wrong" and "wrong" not in verdicts[:-1]


def test_a_short_bar_is_open_until_the_tune_ends_or_goes_on():
    text = HEADER + "CD|EF|GA|" * 6 + "C|"
    assert judge(text).verdict == "open" and judge(text, ended=True).verdict == "right"
    assert judge(text + "CD|").verdict == "wrong"


@pytest.mark.parametrize(
    "body", ["CD|EF|GA|", "CD|" * 20, "[V:1]" + "CD|EF|" * 6 + "[V:2]" + "CD|EF|" * 5]
)
def test_a_tune_may_not_end_before_it_is_one(body):
    # too few notes, too few pitches, voices of unequal length
    assert walk(HEADER + body)[1] == "wrong"


@pytest.mark.parametrize(
    "header, verdict",
    [
        (C_MAJOR_HEADER, "right"),
        ("X:1\nL:1/4\nK:C\n", "wrong"),
        ("X:1\nM:none\nK:C\n", "wrong"),
        ("M:4/4\nK:C\n", "wrong"),
        ("X:1\nM:4/4\nK:H\n", "wrong"),
        ("X:1\nCDEF\n", "wrong"),
        ("X:1\nM:4/4\n", "open"),
    ],
)
def test_a_header_is_right_if_it_can_be_read_and_gives_a_meter(header, verdict):
    assert walk(header)[0][-1] == verdict


def test_bars_are_counted_and_too_long_ones_are_wrong():
    bars = RightBars("")
    for text in (HEADER, HEADER + "CD|", HEADER + "CD|EFG|", HEADER + "CD|EF|"):
        bars.judge(text, len(text), ended=False)
    assert (bars.n_kept, bars.draws, bars.n_tries, bars.is_level) == (3, [1, 1, 2], 0, True)
    endless = HEADER + "CD|EF|" + " " * (RightBars.MAX_CHARS + 1)
    assert (
        bars.is_due(" ", len(endless)) and bars.judge(endless, len(endless), ended=False) == "wrong"
    )
