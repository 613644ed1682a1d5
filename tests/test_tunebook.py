"""Tunebooks are split into tunes and tunes cut, and the music stays the same."""

import pytest
from hypothesis import given, settings

from music.abc_check import check_abc
from music.abc_text import AbcError, read_abc
from music.tunebook import cut_tune, split_tunebook, trim_to_bars
from tunes import C_MAJOR_HEADER as HEADER
from tunes import TWO_VOICES, long_tune, music, mutated_tunes, tune

# ---------------------------------------------------------------- books


def test_split_tunebook():
    book = "A collection\n\n" + music(4, 1) + "\n" + music(4, 2) + "X:3\nK:C\nCDEF|\n\nsome words\n"
    assert split_tunebook(book) == [music(4, 1), music(4, 2), "X:3\nK:C\nCDEF|\n"]
    assert split_tunebook("") == []
    # line ends of all systems
    assert split_tunebook("\ufeff" + book.replace("\n", "\r\n")) == split_tunebook(book)
    assert split_tunebook(book.replace("\n", "\r")) == split_tunebook(book)


def test_text_without_tunes():
    poem = "first\nverse\n \t\nsecond verse\n"
    assert split_tunebook(poem) == [] and split_tunebook("", any_text=True) == []
    assert split_tunebook(poem, any_text=True) == ["first\nverse\n", "second verse\n"]
    assert split_tunebook(poem + "\nX:1\nK:C\nC|", any_text=True) == ["X:1\nK:C\nC|\n"]


# ---------------------------------------------------------------- cutting


def test_trim_to_bars():
    two = HEADER + "[V:1]C16|D16|[V:2]E16|F16|\n[V:1]G16|A16|[V:2]c1"
    assert trim_to_bars(two) == HEADER + "[V:1]C16|D16|[V:2]E16|F16|\n[V:1]G16|A16|\n"
    assert trim_to_bars("junk") == "junk"


@pytest.mark.parametrize("n_voices", [1, 2, 4])
@pytest.mark.parametrize("seed", range(6))
def test_cut_pieces_are_the_same_music(seed, n_voices):
    text = long_tune(seed, n_voices)
    whole = read_abc(text)
    pieces = cut_tune(text, 500 + 250 * n_voices, 100)
    assert len(pieces) > 1 and pieces[0][0] == 0
    n_bars = len(whole.voices[0].bars)
    firsts = [first for first, _ in pieces] + [n_bars]
    assert firsts == sorted(set(firsts))
    for (first, piece), stop in zip(pieces, firsts[1:]):
        assert len(piece) <= 500 + 250 * n_voices
        part = read_abc(piece)
        assert check_abc(piece).warnings == check_abc(text).warnings == []
        assert [v.name for v in part.voices] == [v.name for v in whole.voices]
        for voice, original in zip(part.voices, whole.voices):
            start, end = (
                original.bars[first].onset,
                original.bars[stop - 1].onset + original.bars[stop - 1].length,
            )
            assert [b.length for b in voice.bars] == [b.length for b in original.bars[first:stop]]
            assert [b.meter for b in voice.bars] == [b.meter for b in original.bars[first:stop]]
            cut_notes = {
                (
                    max(n.onset, start) - start,
                    min(n.onset + n.duration, end) - max(n.onset, start),
                    n.pitch,
                )
                for n in original.notes
                if n.onset < end and n.onset + n.duration > start
            }
            assert {(n.onset, n.duration, n.pitch) for n in voice.notes} == cut_notes
    sizes = [len(piece) for _, piece in pieces]
    assert min(sizes) > max(sizes) / 3


def test_cut_leaves_short_tunes_alone():
    assert cut_tune(TWO_VOICES, 5000, 100) == [(0, TWO_VOICES)]


def test_cut_does_not_divide_rests_of_whole_bars():
    text = tune("C16|Z4|D16|Z3|\n" * 20)
    pieces = cut_tune(text, 120)
    counts = [len(read_abc(piece).voices[0].bars) for _, piece in pieces]
    assert sum(counts) == 180 and [first for first, _ in pieces] == [
        sum(counts[:i]) for i in range(len(counts))
    ]


def test_cut_repeats_the_key_and_meter_in_force():
    text = tune("[K:D][M:3/4]" + "C4D4E4|F4G4A4|\n" * 30, key="G")
    for first, piece in cut_tune(text, 200)[1:]:
        assert "K:D\n" in piece and "M:3/4\n" in piece and "[K:" not in piece


@settings(max_examples=100, deadline=None)
@given(mutated_tunes())
def test_mutated_tunes_are_cut_or_refused(text):
    trim_to_bars(text)
    try:
        read_abc(text)
        cut_tune(text, 120, 20)
    except AbcError:
        pass
