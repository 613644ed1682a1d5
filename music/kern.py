"""Reads scores in Humdrum **kern: a column is a spine (a staff or a voice of one), a line a moment.

Graces (q) are left out, and notes without a length, as in chant. Hidden notes (yy) are read: a sign
of repetition stands for them, or another part plays them.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import lru_cache

from music.score import MAX_QUARTERS, TICKS, Score, ScoreError
from music.theory import SEMITONES_OF, bar_length, place_of

MAX_CHARS = 32 << 20  # the longest opera act has 3 million
MAX_SPINES = 400
NOTE = re.compile(r"([a-g]+|[A-G]+)(#+|-+|)")
DURATION = re.compile(r"(\d+)(?:%(\d+))?")
METER = re.compile(r"\*M(?:X.*|([1-9]\d{0,2})(?:/(1|2|4|8|16|32|64))?)")
TREMOLO = re.compile(r"@+\d*@*")
RECORD = re.compile(r"!!!([A-Z]{3})(?:@+[A-Z]+)?:\s*(.*\S)")


@dataclass
class Spine:
    part: int  # number of the column it began as
    is_kern: bool  # it holds notes
    end: float  # of its last note, ticks from the start of the score
    is_drums: bool = False


def read_kern(text):
    """Returns the Score in a text; ScoreError names the line and the fault."""
    if len(text) > MAX_CHARS:
        raise ScoreError(f"more than {MAX_CHARS >> 20} million characters")
    reader = _Reader()
    for number, line in enumerate(text.splitlines(), 1):
        try:
            reader.read_line(line)
        except ScoreError as error:
            raise ScoreError(f"line {number}: {error}") from None
    reader.close_measure(reader.last_end())
    score, records = reader.score, reader.records
    score.title, score.composer, score.work = (records[code] for code in ("OTL", "COM", "OPR"))
    score.rights = records["YEM"] or records["YEC"]
    return score


class _Reader:
    def __init__(self):
        self.score, self.spines, self.records = Score(), [], defaultdict(str)
        self.measure, self.start, self.now = 0, 0.0, -1.0  # start: of the measure, ticks
        self.meter, self.is_at_bar = None, False  # whether a bar line was the last

    def read_line(self, line):
        if record := RECORD.match(line):
            self.records.setdefault(*record.groups())
        if not line.strip() or line[0] == "!":
            return
        fields = line.split("\t")
        if len(fields) > MAX_SPINES:
            raise ScoreError(f"more than {MAX_SPINES} columns")
        if fields[0].startswith("**"):  # a score begins, or its next movement
            end = self.last_end()
            self.spines = [Spine(i, field == "**kern", end) for i, field in enumerate(fields)]
            if not self.sounding():
                raise ScoreError("no **kern column")
        elif not self.spines:
            raise ScoreError("music before any **kern")
        elif len(fields) != len(self.spines):
            raise ScoreError(f"{len(fields)} columns instead of {len(self.spines)}")
        elif line[0] == "*":
            self.read_interpretations(fields)
        elif line[0] == "=":
            self.is_at_bar = self.now >= self.start
        else:
            self.read_data(TREMOLO.sub("", line).split("\t"))

    def sounding(self):
        return [spine for spine in self.spines if spine.is_kern]

    def last_end(self):
        return max((spine.end for spine in self.sounding()), default=self.start)

    def end_of_measure(self, at):
        """Returns where the measure before the moment `at` ends: there, or where its meter is full
        if all notes sound on, as in old music."""
        self.meter = self.score.meters.get(self.measure, self.meter)
        full = self.start + bar_length(self.meter, TICKS) if self.meter else at
        return full if self.now < full < at else at

    def close_measure(self, at):
        """Ends the measure at this moment, unless it is empty."""
        self.is_at_bar = False
        length = round(at - self.start)
        if length > MAX_QUARTERS * TICKS:
            raise ScoreError("a measure that is too long")
        if length > 0:
            self.score.reach(self.measure, length)
            self.measure, self.start = self.measure + 1, at
        for spine in self.spines:
            spine.end = max(spine.end, at)

    def read_data(self, fields):
        columns = [
            (spine, field, token_ticks(field))
            for spine, field in zip(self.spines, fields)
            if spine.is_kern
        ]
        starting = [spine for spine, _, length in columns if length]
        if not starting:
            return
        at = max(spine.end for spine in starting)
        if at <= self.now:  # voices after a gap begin at the next end of the others
            later = [spine.end for spine in self.sounding() if spine.end > self.now]
            at = min(later, default=at)
        if self.is_at_bar:
            self.close_measure(self.end_of_measure(at))
        self.now = at
        voices = Counter()
        for spine, field, length in columns:
            voices[spine.part] += 1
            if length:
                self.add_notes(spine, voices[spine.part], field, at)
                spine.end = at + length

    def add_notes(self, spine, voice, field, at):
        place = self.measure, round(at - self.start)
        for head in field.split(" "):
            length = token_ticks(head) or token_ticks(field)
            if "r" in head or "q" in head:
                continue
            note = NOTE.search(head)
            if note and not spine.is_drums:
                pitch = midi_pitch(*note.groups())
                tie = next((sign for sign in "[_]" if sign in head), "")
                ticks = round(at + length) - round(at)
                self.score.add_note(spine.part, voice, place, ticks, pitch, tie)
            elif note or "R" in head:
                self.score.drums.append(place)

    def read_interpretations(self, fields):
        place = self.measure + 1, 0
        if not self.is_at_bar:
            place = self.measure, round(self.last_end() - self.start)
        matches = filter(None, map(METER.fullmatch, fields))
        meters = Counter((match[1], match[2] or "4") for match in matches)
        if meters:  # columns may differ in theirs
            beats, beat_type = meters.most_common(1)[0][0]
            self.score.meters[place[0]] = (int(beats), int(beat_type)) if beats else None
        spines, columns = [], list(zip(self.spines, fields))
        while columns:
            spine, field = columns.pop(0)
            if field == "*^":
                spines += [spine, replace(spine)]
            elif field == "*v":
                while columns and columns[0][1] == "*v" and columns[0][0].part == spine.part:
                    spine.end = max(spine.end, columns.pop(0)[0].end)
                spines.append(spine)
            elif field == "*x" and columns and columns[0][1] == "*x":
                spines += [columns.pop(0)[0], spine]
            elif field == "*+":
                spines += [spine, Spine(spine.part, False, spine.end)]
            elif field != "*-":
                spines.append(spine)
                if field.startswith("**"):
                    spine.is_kern = field == "**kern"
                elif spine.is_kern:
                    self.read_interpretation(field, spine, place)
        if not spines:
            self.close_measure(self.last_end())
        self.spines = spines

    def read_interpretation(self, field, spine, place):
        score = self.score
        if field.startswith("*clef"):
            spine.is_drums = field.startswith("*clefX")
        elif tempo := re.match(r"\*MM(\d+(?:\.\d+)?)", field):
            score.add_tempo(place, float(tempo[1]))
        elif field.startswith("*k["):
            score.keys.setdefault(place, (alteration_of(field), False))
        elif tonic := re.fullmatch(r"\*([A-Ga-g])([#-]?):", field):
            minor = tonic[1].islower()
            sharps = place_of(tonic[1].upper(), alteration_of(tonic[2])) - 3 * minor
            score.keys[place] = sharps, minor
        elif field.startswith('*I"'):
            score.names.setdefault(spine.part, field[3:].strip())


def alteration_of(text):
    """Returns the sharps minus the flats in a text."""
    return text.count("#") - text.count("-")


@lru_cache(1 << 14)
def midi_pitch(letters, accidentals):
    """Returns the MIDI number of a kern pitch.

    >>> midi_pitch("c", ""), midi_pitch("CC", "#"), midi_pitch("bb", "-")
    (60, 37, 82)
    """
    octave = 4 + len(letters) if letters.islower() else 5 - len(letters)
    return 12 * octave + SEMITONES_OF[letters[0].upper()] + alteration_of(accidentals)


@lru_cache(1 << 14)
def token_ticks(token):
    """Returns the ticks of a token's first note or rest; 0.0 for a grace or without a length.

    >>> token_ticks("8.cc#L") / TICKS, token_ticks("3%2r") / TICKS, token_ticks("0c 0e") / TICKS
    (0.75, 2.6666666666666665, 8.0)
    """
    head = token.partition(" ")[0]
    match = DURATION.search(head)
    if not match or "q" in head:
        return 0.0
    digits = match[1][:9]
    if not int(digits):  # 0 is a breve, 00 a long, 000 a maxima
        ticks = 4.0 * TICKS * 2 ** min(len(digits), 3)
    else:
        ticks = 4 * TICKS * int(match[2] or 1) / int(digits)
    return ticks * (2 - 0.5 ** min(head.count("."), 4))
