"""Says how good an ABC text is as music, on levels 0 to 5."""

import re
from bisect import bisect_right
from fractions import Fraction
from typing import NamedTuple

from music.abc_bar import HEAD, MAX_ERRORS
from music.abc_fields import TICKS
from music.abc_text import Reader
from music.samples import ratio

# the least that deserves the name of music
MIN_NOTES, MIN_BARS, MIN_PITCHES, MAX_REST_SHARE = 16, 4, 4, 0.75


class Check(NamedTuple):
    """What `check_abc` finds. level: how many of the five flags hold, from the first on;
    bar_accuracy: share of the sounding bars that are read without error and fit their meter;
    rest_bar_share: of the bars of all voices; errors: the first, [(line, kind, message)]."""

    level: int
    header: bool
    tokens: bool
    content: bool
    meter: bool
    aligned: bool
    bar_accuracy: float | None
    n_notes: int
    n_bars: int
    n_voices: int
    n_pitches: int
    rest_bar_share: float | None
    n_sounding_bars: int
    n_right_bars: int
    n_voice_bars: int
    n_errors: int
    errors: list
    warnings: list


def check_abc(text, prompt_chars=0):
    """Returns the Check of an ABC text after its first `prompt_chars` characters. Never raises.

    header   X: first, K: parses and ends the header, M: L: Q: parse where they stand
    tokens   every character is read; brackets, slurs and tuplets closed; pitches within 0-127
    content  at least 16 notes, 4 bars, 4 different pitches; at most 75 % of the bars are rests
    meter    every bar exactly as long as its meter; a voice's first or last may be shorter
    aligned  all voices have the same number of bars, of the same lengths but for the last
    """
    reader = Reader(text)
    voices, prompt_chars = reader.sounding_voices(), max(prompt_chars, 0)
    n_bars, pitches = 0, []
    rests, sounding = [], []  # bars without and with notes: are they right?
    for voice in voices:
        first_bar, first_note = _first_generated(voice, text, prompt_chars)
        n_bars = max(n_bars, len(voice.bars) - first_bar)
        pitches += voice.pitches[first_note:]
        last = len(voice.bars) - 1
        for i in range(first_bar, last + 1):
            bar = voice.bars[i]
            is_right = bar.ok and _fits_meter(bar, i in (0, last))
            (sounding if bar.n_notes else rests).append(is_right)
    n_pitches, n_voice_bars = len(set(pitches)), len(rests) + len(sounding)
    rest_share = ratio(len(rests), n_voice_bars)
    all_fit = all(sounding) and all(rests)
    header = not reader.n_header_errors
    tokens = reader.n_errors == reader.n_header_errors
    content = (
        len(pitches) >= MIN_NOTES
        and n_bars >= MIN_BARS
        and n_pitches >= MIN_PITCHES
        and rest_share <= MAX_REST_SHARE
    )
    # short first and last bars alone show no meter
    meter = all_fit and any(bar.length == bar.meter for voice in voices for bar in voice.bars)
    aligned = _aligned(voices)
    flags = (header, tokens, content, meter, aligned)
    errors = reader.errors
    if not all_fit or not aligned:
        errors = errors + _bar_errors(voices, prompt_chars)[:MAX_ERRORS]
    return Check(
        (*flags, False).index(False),
        *flags,
        ratio(sum(sounding), len(sounding)),
        len(pitches),
        n_bars,
        len(voices),
        n_pitches,
        rest_share,
        len(sounding),
        sum(sounding),
        n_voice_bars,
        reader.n_errors,
        errors,
        reader.warnings,
    )


def _first_generated(voice, text, prompt_chars):
    """Returns the indices of a voice's first bar and first note after the prompt."""
    first_bar = bisect_right(voice.bars, prompt_chars, key=lambda bar: bar.end)
    bars, n_notes = voice.bars[first_bar:], len(voice.pitches)
    if not bars:
        return first_bar, n_notes
    if bars[0].start >= prompt_chars:
        return first_bar, bars[0].first_note
    after = bars[1].first_note if len(bars) > 1 else n_notes
    tail = re.sub(r'"[^"]*"|![^!]*!|\[[A-Za-z]:[^\]]*\]', "", text[prompt_chars : bars[0].end])
    return first_bar, max(bars[0].first_note, after - len(HEAD.findall(tail)))


def _fits_meter(bar, at_end):
    """Returns True for a bar as long as its meter, or shorter at_end (a pickup)."""
    return bar.length == bar.meter or bool(at_end and bar.meter and bar.length < bar.meter)


def _aligned(voices):
    """Returns whether there are voices, all of the same bars."""
    return len({tuple([bar.length for bar in voice.bars[:-1]]) for voice in voices}) == 1


def _bar_errors(voices, prompt_chars):
    """Returns [(line, kind, message)] of wrong bars and of voices that differ."""
    errors = []
    for voice in voices:
        last = len(voice.bars) - 1
        for i, bar in enumerate(voice.bars):
            if len(errors) >= MAX_ERRORS:
                return errors
            if bar.end <= prompt_chars or _fits_meter(bar, i in (0, last)):
                continue
            if bar.meter is None:
                errors.append((bar.line, "meter", "no meter is given"))
                break
            length, meter = Fraction(bar.length, TICKS), Fraction(bar.meter, TICKS)
            message = f"bar {i + 1}: {length} quarter notes instead of {meter}"
            errors.append((bar.line, "meter", f"voice {voice.name}, {message}"))
    if voices and not _aligned(voices):
        counts = ", ".join(f"{voice.name}: {len(voice.bars)}" for voice in voices[:20])
        message = f"the voices do not have the same bars ({counts})"
        errors.append((voices[0].bars[-1].line, "aligned", message))
    return errors
