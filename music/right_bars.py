"""Rejection sampling of bars: is the bar that a text ends with right?

    judge("X:1\\nM:4/4\\nL:1/4\\nK:C\\nCDEF|")     # Judged(verdict="right", ...)

*Right*: the strict reader (`abc_text`) finds no error, and the bar is as long as its meter. A
shorter one may be the tune's last: "open". A whole tune is right at level 5 of `check_abc`. Voices
come in turns, as this project writes them: `[V:1]` some bars, `[V:2]` as many, and again.
"""

import re
from typing import NamedTuple

from music.abc_check import check_abc
from music.abc_text import Reader
from music.tunebook import body_start
from music.validity import LEVELS


class RightBars:
    """Follows a text while it is drawn, and says at every bar line whether it may stay.

    n_wanted: bars of every voice to come after the prompt, 0: any number; n_wanted_in_all: of all
    voices. is_level: all voices have equally many bars; is_done: those wanted are there; n_kept:
    bars kept, with header and end; n_tries: draws of the present one; draws: of each before it,
    counted by all copies together.
    """

    MAX_CHARS = 600  # a longer header or bar is wrong; the default corpus has bars of up to 45
    is_masked = False  # whether only what its `allows` lets pass is drawn

    def __init__(self, prompt, n_wanted=0):
        given = judge(prompt)
        self.n_given, self.n_bars, self.n_chars = len(prompt), given.n_bars, 0
        self.n_wanted, self.n_last = n_wanted, given.n_each + n_wanted
        self.n_wanted_in_all = n_wanted * (given.n_bars // (given.n_each or 1) or 1)
        self.in_header, self.is_level, self.is_done = not body_start(prompt), True, False
        self.n_kept, self.n_tries, self.draws = 0, 0, []

    def is_too_long(self, n_chars):
        """Returns whether more was drawn since the last right bar than a bar may have."""
        return n_chars - self.n_chars > self.MAX_CHARS

    def is_due(self, newest, n_chars):
        """Returns whether the text is to be judged: its header or a bar may have ended, or it is too
        long. n_chars: drawn after the prompt."""
        end = "\n" if self.in_header else "|"
        return end in newest or self.is_too_long(n_chars)

    def judge(self, text, n_chars, ended):
        """Returns "right", "wrong" or "open" of what came after the last right bar."""
        judged = judge(text, self.n_given, self.n_bars, ended)
        verdict = judged.verdict
        if verdict == "open" and self.is_too_long(n_chars):
            verdict = "wrong"
        self.n_tries += verdict != "open"
        if verdict == "right":
            self.give_up()
            self.n_kept, self.n_bars, self.n_chars = self.n_kept + 1, judged.n_bars, n_chars
            self.in_header, self.is_level = False, judged.level
            self.is_done = judged.level and 0 < self.n_wanted and judged.n_each >= self.n_last
        return verdict

    def give_up(self):
        """Ends the draws of the present bar."""
        self.draws.append(self.n_tries)
        self.n_tries = 0

    @staticmethod
    def what_is_wrong(prompt):
        """Returns what keeps every continuation of a prompt from being right, or None."""
        header = prompt[: body_start(prompt)]
        text = prompt[: max(prompt.rfind("|") + 1, len(header))]
        judged = judge(text)
        if judged.verdict == "wrong":
            for _, kind, message in check_abc(text).errors:
                if kind not in ("slur", "aligned"):
                    return message
        for voice in Reader(prompt).sounding_voices():
            if voice.meter and voice.bars[-1].length > voice.meter:
                return f"the last bar of voice {voice.name} is longer than its meter"
        if judged.verdict == "right" or not judged.n_bars and judged.verdict == "open":
            return None
        if text == header:
            return "its header gives no meter"
        if judged.verdict == "open":
            return "its last bar is shorter than its meter"
        return "its voices do not come in turns of equally many bars"


class Judged(NamedTuple):
    """verdict: "right", "wrong" or "open" (more text will tell); n_bars: closed ones, of all
    voices; level: whether all voices have equally many; n_each: that every voice has."""

    verdict: str
    n_bars: int = 0
    level: bool = False
    n_each: int = 0


def judge(text, n_given=0, n_before=0, ended=False):
    """Returns the Judged of a text's newest header, bar or end.

    n_given: characters whose bars are not judged; n_before: bars closed when the text was last
    right; ended: the tune ends here.
    """
    if ended:
        is_whole = check_abc(text, n_given).level == len(LEVELS)
        return Judged("right" if is_whole else "wrong", n_before, True)
    start = body_start(text)
    if not start or "|" not in text[start:]:
        return _judge_header(text, start)
    text = text[: text.rindex("|") + 1]
    if text[text.rfind("\n") + 1 :].count('"') % 2:  # `"A|B"`: words over the music
        return Judged("open")
    reader = Reader(text)
    voices = reader.sounding_voices()
    # a slur may be open up to the end of the tune
    if reader.n_errors > sum(voice.slur > 0 for voice in voices):
        return Judged("wrong")
    closed = [voice.bars if voice.bars[-1].closing else voice.bars[:-1] for voice in voices]
    n_bars = sum(map(len, closed))
    if n_bars <= n_before:
        return Judged("open", n_bars)
    in_turns, level = _turns(reader.order[:n_bars])
    fits = [
        _fits(bar, i, i == len(bars) - 1)
        for bars in closed
        for i, bar in enumerate(bars)
        if bar.end > n_given
    ]
    if not in_turns or "wrong" in fits:
        return Judged("wrong")
    if "open" in fits:
        return Judged("open", n_bars, level, min(map(len, closed)))
    # a change of meter has come in all voices
    lengths = [[bar.length for bar in bars] for bars in closed]
    longest = max(lengths, key=len)
    if any(own != longest[: len(own)] for own in lengths):
        return Judged("wrong")
    return Judged("right", n_bars, level, min(map(len, closed)))


def first_draws(text, ended):
    """Returns (bars that are right, bars that were judged) of a text after its first bar, which may
    be a pickup, up to its first wrong one. ended: a whole tune, whose end is judged as a bar."""
    bars, start = RightBars(""), body_start(text)
    ends = [start + match.end() for match in re.finditer(r"\|", text[start:])]
    verdict = "open" if start else "wrong"
    for n_chars in [start, *ends]:
        if verdict != "wrong":
            verdict = bars.judge(text[:n_chars], n_chars, False)
    if ended and verdict != "wrong":
        verdict = bars.judge(text, len(text), True)
    n_right = max(bars.n_kept - 2, 0)  # without header and first bar
    return n_right, n_right + (verdict == "wrong" and bars.n_kept >= 2)


def _judge_header(text, start):
    """Returns the Judged of a header: right if it can be read and gives a meter."""
    if start:
        reader = Reader(text[:start])
        is_right = reader.meter is not None and not reader.n_header_errors
        return Judged("right" if is_right else "wrong", 0, True)
    lines = text.split("\n")[:-1]
    return Judged("open" if all(line[1:2] == ":" or line[:1] == "%" for line in lines) else "wrong")


def _fits(bar, index, is_newest):
    """Returns the verdict on a bar: a first one may be a pickup, the newest its voice's last."""
    if not bar.ok or bar.meter is None or bar.length > bar.meter:
        return "wrong"
    if bar.length == bar.meter or index == 0:
        return "right"
    return "open" if is_newest else "wrong"


def _turns(bars):
    """Returns whether the voices come in turns of equally many bars, and whether all have equally
    many at the end. bars: of all voices as written."""
    counts, n_turns, voice, leader = {}, 0, None, None
    for bar in bars:
        most, own = max(counts.values(), default=0), counts.get(bar.voice, 0)
        is_wrong = bar.voice != voice and counts.get(voice, most) < most
        if own < most:
            leader = None
            is_wrong |= not own and n_turns > 1
        elif bar.voice != leader:
            leader, n_turns = bar.voice, n_turns + 1
            is_wrong |= len(set(counts.values())) > 1
        if is_wrong:
            return False, False
        voice = bar.voice
        counts[voice] = own + 1
    return True, len(set(counts.values())) == 1
