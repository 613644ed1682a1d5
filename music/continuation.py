"""A user's tune to go on from: its last bars as a prompt, and given and new bars as one file.

source = read_source(data, "song.mid", 6)       # ValueError says why there is none
given = last_bars(source.text, 8)               # given.text is what a model continues
midi = midi_with_source(text, given, source)
"""

import re
from fractions import Fraction
from typing import Any, NamedTuple

import symusic

from music.abc_fields import TICKS
from music.abc_people import read_people
from music.abc_text import Reader, read_abc
from music.midi_to_abc import ConversionError, convert, read_midi
from music.notation import MIDI_TICKS, midi_score
from music.right_bars import RightBars
from music.scores import SUFFIXES, convert_score
from music.training_text import training_text
from music.tunebook import piece_of_bars

VOICE_TAG = re.compile(r"\[V:([^\]\s]+)\]")
MARK = "new bars begin"  # what stands between the given bars and the new ones, in every format


class Source(NamedTuple):
    """A tune to go on from. text: as training text; score: symusic's of the MIDI file, None for
    ABC; start: where the text begins in it, quarter notes; mended: {kind of fault: how often}."""

    text: str
    score: Any = None
    start: Fraction = Fraction(0)
    mended: dict = {}


class Given(NamedTuple):
    """The last bars of a tune. text: a prompt; n_bars: of every voice; onset: of the first of them,
    quarter notes; n_left_out: bars behind them that are short or have no bar line."""

    text: str
    n_bars: int
    onset: Fraction
    n_left_out: int


def read_source(data, name, max_voices):
    """Returns the Source in the bytes of a MIDI file, a score or ABC; ValueError says what is
    wrong. max_voices: that are kept; of a tunebook the first tune that can be read counts."""
    if re.search(r"(?i)\.(abc|txt)$", name):
        tunes = read_people(data, name, max_voices)
        if not tunes:
            raise ValueError(f"{name} holds no tune")
        readable = [tune for tune in tunes if tune.text]
        if not readable:
            raise ValueError(f"{name} cannot be read as ABC: {tunes[0].reason}")
        return Source(training_text(readable[0].text), mended=readable[0].mended)
    if name.lower().endswith(SUFFIXES):
        score = convert_score(name, data)
        if score.midi is None:
            raise ValueError(f"{name}: the score cannot be read: {score.reason}")
        data = score.midi
    try:
        text, counts = convert(data, name, max_voices)
    except ConversionError as error:
        raise ValueError(f"{name} gives no notes to go on from: {', '.join(error.args)}") from None
    start = Fraction(counts["start"])
    return Source(training_text(text), read_midi(data)[0], start, counts["mended"])


def last_bars(text, n_bars, meters=()):
    """Returns Given: at least the last n_bars bars of a tune, whole groups of bars of all voices. A
    short last bar stays away: nothing could follow it. ValueError if there is no whole bar.

    meters: those that a model knows, if any; the bars given are the last ones that have them."""
    reader = Reader(text, strict=True)
    voices = reader.sounding_voices()
    n_whole = min(
        (len(voice.bars) - (voice.bars[-1].length != voice.bars[-1].meter) for voice in voices),
        default=0,
    )
    first, last = known_run(voices[0].bars[:n_whole], n_bars, meters) if n_whole else (0, 0)
    _, _, last = piece_of_bars(reader, 0, last)
    piece, first, last = piece_of_bars(reader, first, last)
    if last == first:
        raise ValueError("the tune is too short: it has no whole bar that all its voices end")
    onset = Fraction(voices[0].bars[first].onset, TICKS)
    n_left_out = max(len(voice.bars) for voice in voices) - last
    return Given(piece.rstrip("\n"), last - first, onset, n_left_out)


def known_run(bars, n_bars, meters):
    """Returns (first, stop) of the last n_bars of a voice's bars, or of the last run of bars in
    known meters where others stand among them."""
    known = [not meters or bar.after[0] in meters for bar in bars]
    if not any(known):
        known = [True] * len(bars)
    stop = len(bars) - known[::-1].index(True)
    first = stop
    while first > max(0, stop - n_bars) and known[first - 1]:
        first -= 1
    return first, stop


class NextBars(RightBars):
    """RightBars for a tune whose voices are known and go on in the order of the given bars: a voice
    out of turn is wrong as soon as its tag stands there, not bars later."""

    def __init__(self, prompt, n_wanted=0):
        super().__init__(prompt, n_wanted)
        names = [voice.name for voice in Reader(prompt, strict=False).sounding_voices()]
        self.next_of = dict(zip(names, [*names[1:], *names[:1]]))

    def is_due(self, newest, n_chars):
        return newest.endswith("]") or super().is_due(newest, n_chars)

    def judge(self, text, n_chars, ended):
        if ended or not text.endswith("]"):
            return super().judge(text, n_chars, ended)
        tags = VOICE_TAG.findall(text[-self.MAX_CHARS :])
        is_tag = VOICE_TAG.search(text, text.rfind("["))
        if is_tag and len(tags) > 1 and self.next_of.get(tags[-2]) != tags[-1]:
            self.n_tries += 1
            return "wrong"
        return "open"


def marked(text, n_given):
    """Returns the text of given and new bars with a comment between them, on a line of its own."""
    return f"{text[:n_given].rstrip()}\n% {MARK}\n{text[n_given:].strip()}\n"


def midi_with_source(text, given, source):
    """Returns MIDI bytes of given and new bars: a marker where the new ones begin; of a source in
    MIDI the drums and exact tempos of the given bars (Given) besides, but no instruments: tracks
    were split and joined."""
    score = midi_score(read_abc(text, strict=False))
    last = read_abc(given.text, strict=False).voices[0].bars[-1]
    length = (last.onset + last.length) * MIDI_TICKS
    score.markers.append(symusic.TextMeta(round(length), MARK))
    if source.score is not None:
        scale = Fraction(MIDI_TICKS, source.score.tpq)
        start = (source.start + given.onset) * MIDI_TICKS
        tempos = sorted((tempo.time * scale - start, tempo.qpm) for tempo in source.score.tempos)
        before = [(0, qpm) for at, qpm in tempos if at <= 0][-1:]
        inside = [(round(at), qpm) for at, qpm in tempos if 0 < at < length]
        if before or inside:
            score.tempos = [symusic.Tempo(*tempo) for tempo in before + inside]
        drums = symusic.Track("drums", 0, True)
        for track in source.score.tracks:
            for note in track.notes if track.is_drum else ():
                at = note.time * scale - start
                if 0 <= at < length:
                    duration = max(1, round(note.duration * scale))
                    stroke = symusic.Note(round(at), duration, note.pitch, note.velocity)
                    drums.notes.append(stroke)
        if len(drums.notes):
            score.tracks.append(drums)
    return score.dumps_midi()
