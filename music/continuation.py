"""A user's tune to go on from: its last bars as a prompt, and given and new bars as one file."""

import itertools
import re
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

import symusic

from music.abc_bar import read_tuplet
from music.abc_fields import TICKS, parse_meter
from music.abc_text import Reader, read_abc
from music.midi_to_abc import read_midi
from music.notation import MIDI_TICKS, midi_score
from music.right_bars import RightBars
from music.tunebook import body_start, piece_of_bars

# music in the form of stage 02; open: what may be the beginning of it
_NOTE = r"[_=^]?(?:[A-G],{0,4}|[a-g]'{0,3})"
_OPEN = rf"\((?:[2-9]:[2-9]?:?)?|[_=^]|\[(?:{_NOTE}-?){{0,9}}(?:{_NOTE}-?|[_=^])?"
_SOUND = rf"z|{_NOTE}|\[(?:{_NOTE}-?){{1,10}}\]"
_ITEM = re.compile(
    rf"(?P<open>(?:{_OPEN})\Z)|(?P<tuplet>\([2-9](?::[2-9]?:[1-9])?)"
    rf"|(?:{_SOUND})(?P<length>(?:[1-9]\d?)?(?:/4?)?)(?P<tie>-?)|(?P<other>.)",
    re.DOTALL,
)
_FIELDS = re.compile(
    r"((?:\[M:[1-9]\d?/(?:2|4|8|16)\])?(?:\[K:[A-G][#b]?m?\])?(?:\[Q:1/4=\d{2,3}\])?)(.*)",
    re.DOTALL,
)
_OPEN_FIELD = re.compile(
    r"(?:\[(?:K(?::(?:[A-G][#b]?m?)?)?|M(?::(?:[1-9]\d?(?:/(?:[248]|16?)?)?)?)?"
    r"|Q(?::[\d/=]{0,7})?)?)?"
)
# {length in normal form: (count, part)}, in unit notes: 3/ is (3, 2)
_LENGTHS = {
    f"{count if count > 1 else ''}{below}": (count, part)
    for part, below in ((1, ""), (2, "/"), (4, "/4"))
    for count in range(1, 100)
    if part == 1 or count % 2
}
MARK = "new bars begin"  # stands between the given bars and the new ones, in every format


class Given(NamedTuple):
    """The last bars of a tune. text: a prompt; n_bars: of every voice; onset: of the first, quarter
    notes; n_left_out: bars behind them."""

    text: str
    n_bars: int
    onset: Fraction
    n_left_out: int


def last_bars(text, n_bars, meters=()):
    """Returns Given: at least the last n_bars bars of a tune, cut where all voices end a bar,
    without a short last one; ValueError if there is no whole bar. meters: that a model knows: the
    last bars in these."""
    reader = Reader(text, strict=True)
    voices = reader.sounding_voices()
    n_whole = min(
        (len(voice.bars) - (voice.bars[-1].length != voice.bars[-1].meter) for voice in voices),
        default=0,
    )
    first, last = known_run(voices[0].bars[:n_whole], n_bars, meters) if n_whole else (0, 0)
    piece, first, last = piece_of_bars(reader, first, last)
    if last == first:
        raise ValueError("the tune is too short: it has no whole bar that all its voices end")
    onset = Fraction(voices[0].bars[first].onset, TICKS)
    n_left_out = max(len(voice.bars) for voice in voices) - last
    return Given(piece.rstrip("\n"), last - first, onset, n_left_out)


def known_run(bars, n_bars, meters):
    """Returns (first, stop) of the last n_bars of a voice's bars, of the last in known meters."""
    known = [not meters or bar.after[0] in meters for bar in bars]
    if not any(known):
        known = [True] * len(bars)
    stop = len(bars) - known[::-1].index(True)
    first = stop
    while first > max(0, stop - n_bars) and known[first - 1]:
        first -= 1
    return first, stop


class Next(NamedTuple):
    """What may come after a right bar. before: line end and tag; voice: its reader; n_bars: of a
    rest, at most; meter: the field that must come, "": none, None: any (of the first voice)."""

    before: str
    voice: Any
    n_bars: int
    meter: str | None = None


class NextBars(RightBars):
    """RightBars for a tune whose voices are known: they go on in the order of the given bars, the
    first of them in turns no longer than there.

    Of several voices hardly a bar would be right. Such a bar, and that of one voice after
    FREE_TRIES wrong ones, is masked: a token with which no right bar can begin is not drawn. Since
    every token is renormalised by itself this is not P(bar | the bar is right). Bars have the form
    of stage 02, and fractions of L: only where the given bars have some.
    """

    FREE_TRIES = 8

    def __init__(self, prompt, n_wanted):
        super().__init__(prompt, n_wanted)
        reader = Reader(prompt, strict=False)
        self.names = [voice.name for voice in reader.sounding_voices()]
        turns = itertools.groupby(bar.voice for bar in reader.order)
        self.turn = max(len([*bars]) for name, bars in turns if name == self.names[0])
        self.parts = (1, 2, 4) if "/" in prompt[body_start(prompt) :] else (1,)
        self.look(prompt)

    @property
    def is_masked(self):
        return len(self.names) > 1 or self.n_tries >= self.FREE_TRIES

    def judge(self, text, n_chars, ended):
        if ended:  # where nothing can follow
            self.n_tries += 1
            return "wrong"
        verdict = super().judge(text, n_chars, ended)
        if verdict == "right":
            self.look(text)
        return verdict

    def look(self, text):
        """Notes what may come after the last bar line of a text."""
        self.end = text.rfind("|") + 1
        reader = Reader(text[: self.end], strict=False)
        voices = reader.sounding_voices()
        first, now = voices[0], reader.voice
        n_ahead = len(first.bars) - min(len(voice.bars) for voice in voices)
        n_more = self.n_last - len(first.bars)
        if len(voices) > 1:
            n_more = min(n_more, self.turn - n_ahead)
        if not n_ahead:
            befores = ("", "\n") if len(voices) == 1 else (f"\n[V:{first.name}]",)
            self.nexts = [Next(before, first, n_more) for before in befores]
            return
        self.nexts = [Next("", first, n_more)] if now is first and n_more > 0 else []
        before, voice = "", now
        if len(now.bars) == len(first.bars):
            voice = voices[voices.index(now) + 1]
            before = f"[V:{voice.name}]"
        to_come = first.bars[len(voice.bars) :]
        # rests of several bars end where the meter changes
        same = itertools.takewhile(lambda bar: bar.meter == to_come[0].meter, to_come)
        changes = to_come[0].meter != voice.meter
        meter = f"[M:{to_come[0].after[0]}]" if changes else ""
        self.nexts.append(Next(before, voice, len([*same]), meter))

    def allows(self, text):
        """Returns whether a right bar can begin with what stands after the last one."""
        tail = text[self.end :]
        return any(
            choice.before.startswith(tail)
            or tail.startswith(choice.before)
            and self.begins(tail[len(choice.before) :], choice)
            for choice in self.nexts
        )

    def begins(self, text, choice):
        """Returns whether a bar without its tag can begin with this text."""
        text, closing, _ = text.partition("|")
        asked = choice.meter or ""
        if not text.startswith(asked):
            return asked.startswith(text) and not closing
        fields, music = _FIELDS.fullmatch(text[len(asked) :]).groups()
        if choice.meter is not None and "M" in fields + music:
            return False
        if _OPEN_FIELD.fullmatch(music):
            return not closing
        rest = re.fullmatch(r"Z([1-9]\d?)?", music)
        if rest:
            return int(rest[1] or 1) <= choice.n_bars
        room, compound = choice.voice.meter, choice.voice.compound
        for value in re.findall(r"M:([^]]*)", asked + fields):
            room, compound = parse_meter(value)
        return can_fill(music, closing, room, choice.voice.unit, compound, self.parts)


def can_fill(music, closed, room, unit, compound=False, parts=(1,)):
    """Returns whether a bar of `room` ticks can begin with this music or, if closed, is that bar.
    unit: ticks of L:; parts: into which a note may divide them.

    >>> [can_fill(music, False, 24, 6) for music in ("C2[E", "C3-D", "C3D2", "C4^", "C3(3")]
    [True, True, False, False, False]
    """
    ends, n_left, step, under = [0], 0, unit, 1  # of a tuplet: notes to come, ticks of its unit
    for item in _ITEM.finditer(music):
        is_tuplet = item[0][0] == "("
        tied_rest = item["tie"] and item[0][0] == "z"
        if not ends or item["other"] or tied_rest or n_left and is_tuplet:
            return False
        if is_tuplet:
            n_left, over, under = read_tuplet(item["tuplet"] or "(3", compound)
            step = unit * over // under
            continue
        is_whole = closed or item.end() < len(music) or item["tie"]
        lengths = _lengths(item["length"] or "", is_whole, parts)
        ends = [ends[0] + step * count // part for count, part in lengths]
        n_left = max(0, n_left - 1)
        if not n_left:
            step, under = unit, 1
    if closed:
        return not n_left and ends == [room]
    return any(
        total <= room and total % (unit // parts[-1]) == 0
        for end in ends
        for total in [end + step * (n_left + more) for more in range(under if n_left else 1)]
    )


@cache
def _lengths(text, is_whole, parts):
    """Returns [(count, part)] of the lengths that a text is or, if not whole, may become."""
    return [
        (count, part)
        for written, (count, part) in _LENGTHS.items()
        if part in parts and (written == text or not is_whole and written.startswith(text))
    ]


def marked(text, n_given):
    """Returns the text of given and new bars with a comment between them."""
    return f"{text[:n_given].rstrip()}\n% {MARK}\n{text[n_given:].strip()}\n"


def midi_with_source(text, given, source):
    """Returns MIDI bytes of given and new bars, a marker between them, with the drums and exact
    tempos of a source (an Opened) in MIDI; not its instruments: tracks were split and joined."""
    score = midi_score(read_abc(text, strict=False))
    last = read_abc(given.text, strict=False).voices[0].bars[-1]
    length = (last.onset + last.length) * MIDI_TICKS
    score.markers.append(symusic.TextMeta(round(length), MARK))
    if source.midi is not None:
        played = read_midi(source.midi)[0]
        scale = Fraction(MIDI_TICKS, played.tpq)
        start = (source.start + given.onset) * MIDI_TICKS
        tempos = sorted((tempo.time * scale - start, tempo.qpm) for tempo in played.tempos)
        before = [(0, qpm) for at, qpm in tempos if at <= 0][-1:]
        inside = [(round(at), qpm) for at, qpm in tempos if 0 < at < length]
        if before or inside:
            score.tempos = [symusic.Tempo(*tempo) for tempo in before + inside]
        drums = symusic.Track("drums", 0, True)
        for track in played.tracks:
            for note in track.notes if track.is_drum else ():
                at = note.time * scale - start
                if 0 <= at < length:
                    duration = max(1, round(note.duration * scale))
                    stroke = symusic.Note(round(at), duration, note.pitch, note.velocity)
                    drums.notes.append(stroke)
        if len(drums.notes):
            score.tracks.append(drums)
    return score.dumps_midi()
