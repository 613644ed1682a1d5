"""Scores in Humdrum **kern, read as printed: a column is a spine (a staff or a voice of one), a
line is a moment.

Graces (q) are left out, and notes without a length, as in chant. Hidden notes (yy) are read: they
stand for a sign of repetition, or for what another part plays. Other spines only keep their place.
A file is hostile until shown otherwise: what does not fit is a ScoreError with its line.
"""

import re
from functools import lru_cache

from music.score import BPM, MAX_QUARTERS, TICKS, Score, ScoreError, bar_length

MAX_CHARS = 32 << 20  # the longest opera act has 3 million
MAX_SPINES = 400
NOTE = re.compile(r"([a-g]+|[A-G]+)(#+|-+)?")
DURATION = re.compile(r"(\d+)(?:%(\d+))?")
TREMOLO = re.compile(r"@+\d*@*")
SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
RECORDS = {"OTL": "title", "COM": "composer", "OPR": "work", "YEM": "rights", "YEC": "copyright"}
MAJOR_SHARPS = {"c": 0, "d": 2, "e": 4, "f": -1, "g": 1, "a": 3, "b": 5}


class Spine:
    """A column. part: number of the column it began as; is_kern: whether it holds notes; end: ticks
    from the start of the score at which its last note ends."""

    def __init__(self, part, is_kern, end=0.0, is_drums=False):
        self.part, self.is_kern, self.end, self.is_drums = part, is_kern, end, is_drums

    def copy(self):
        return Spine(self.part, self.is_kern, self.end, self.is_drums)


def read_kern(text):
    """The Score in the text of a .krn file; ScoreError says why there is none."""
    if len(text) > MAX_CHARS:
        raise ScoreError(f"more than {MAX_CHARS >> 20} million characters")
    reader = _Reader()
    for number, line in enumerate(text.splitlines(), 1):
        try:
            reader.read_line(line)
        except ScoreError as error:
            raise ScoreError(f"line {number}: {error}") from None
    reader.close_measure(reader.last_end())
    reader.score.rights = reader.score.rights or reader.copyright
    return reader.score


class _Reader:
    def __init__(self):
        self.score, self.spines, self.copyright = Score(), [], ""
        self.measure, self.start, self.now = 0, 0.0, -1.0  # start: of the measure, ticks
        self.meter, self.tonic = None, None
        self.parts = 0  # columns that have begun

    def read_line(self, line):
        """Reads one line."""
        if line.startswith("!!"):
            record = re.match(r"!!!([A-Z]{3})(?:@+[A-Z]+)?:\s*(.*)", line)
            if record and record[1] in RECORDS:
                target = self if record[1] == "YEC" else self.score
                if not getattr(target, RECORDS[record[1]]):
                    setattr(target, RECORDS[record[1]], record[2].strip())
            return
        if not line.strip() or line[0] == "!":
            return
        fields = line.split("\t")
        if fields[0].startswith("**"):
            self.begin(fields)
        elif not self.spines:
            raise ScoreError("music before any **kern")
        elif len(fields) != len(self.spines):
            raise ScoreError(f"{len(fields)} columns instead of {len(self.spines)}")
        elif line[0] == "*":
            self.read_interpretations(fields)
        elif line[0] == "=":
            self.close_measure(self.end_of_measure())
        else:
            self.read_data(fields)

    def begin(self, fields):
        """The columns of a score, or of its next movement."""
        if len(fields) > MAX_SPINES:
            raise ScoreError(f"more than {MAX_SPINES} columns")
        end = self.last_end()
        self.spines = []
        for number, field in enumerate(fields):
            self.spines.append(Spine(number, field == "**kern", end))
        if not any(spine.is_kern for spine in self.spines):
            raise ScoreError("no **kern column")

    # ------------------------------------------------------------ time

    def last_end(self):
        """The latest end of a note so far."""
        return max((spine.end for spine in self.spines if spine.is_kern), default=self.start)

    def end_of_measure(self):
        """Where a bar line stands: at the end of the last notes, but a note may sound on across it,
        and a voice may have stopped before. The first end that fills the meter counts, or the
        next end after what was read last."""
        ends = [spine.end for spine in self.spines if spine.is_kern and spine.end > self.now + 0.5]
        if self.meter:
            full = self.start + bar_length(self.meter)
            if any(abs(end - full) < 1 for end in ends):
                return full
        return min(ends, default=self.start)

    def close_measure(self, at):
        """Ends the measure here; nothing if nothing was in it."""
        length = round(at - self.start)
        if length > 0:
            if length > MAX_QUARTERS * TICKS:
                raise ScoreError("a measure that is too long")
            self.score.reach(self.measure, length)
            self.measure, self.start = self.measure + 1, at
        for spine in self.spines:
            spine.end = max(spine.end, at)

    # ------------------------------------------------------------ notes

    def read_data(self, fields):
        """The notes of one moment."""
        lengths = [
            0.0 if field == "." or not spine.is_kern else token_ticks(field)
            for field, spine in zip(fields, self.spines)
        ]
        sounding = [spine for spine, length in zip(self.spines, lengths) if length]
        if not sounding:
            return
        at = max(spine.end for spine in sounding)
        if at <= self.now:  # voices that had a gap begin here: at the next end of the others
            later = [s.end for s in self.spines if s.is_kern and s.end > self.now]
            at = min(later, default=at)
        self.now = at
        voices = {}
        for spine, field, length in zip(self.spines, fields, lengths):
            if not spine.is_kern:
                continue
            voice = voices[spine.part] = voices.get(spine.part, 0) + 1
            if length:
                self.add_notes(spine, voice, field, at)
                spine.end = at + length

    def add_notes(self, spine, voice, field, at):
        """The notes of one token."""
        offset, place = round(at - self.start), self.measure
        for head in TREMOLO.sub("", field).split(" "):
            length = token_ticks(head) or token_ticks(field)
            if "r" in head or "q" in head:
                continue
            note = NOTE.search(head)
            if note is None or spine.is_drums:
                if note or "R" in head:
                    self.score.drums.append((place, offset))
                continue
            tie = "[" if "[" in head else "_" if "_" in head else "]" if "]" in head else ""
            ticks = round(at + length) - round(at)
            pitch = midi_pitch(*note.groups())
            self.score.add_note(spine.part, voice, (place, offset), ticks, pitch, tie)

    # ------------------------------------------------------------ interpretations

    def read_interpretations(self, fields):
        """Meters, keys, tempos, names, and how the columns change."""
        score, place = self.score, (self.measure, round(self.last_end() - self.start))
        spines, i = [], 0
        while i < len(fields):
            field, spine = fields[i], self.spines[i]
            i += 1
            if field == "*^":
                spines += [spine, spine.copy()]
            elif field == "*v":
                joined = [spine]
                while i < len(fields) and fields[i] == "*v" and self.spines[i].part == spine.part:
                    joined.append(self.spines[i])
                    i += 1
                spine.end = max(one.end for one in joined)
                spines.append(spine)
            elif field == "*x" and i < len(fields) and fields[i] == "*x":
                spines += [self.spines[i], spine]
                i += 1
            elif field == "*+":
                spines += [spine, Spine(spine.part, False, spine.end)]
            elif field.startswith("**"):
                spine.is_kern = field == "**kern"
                spines.append(spine)
            elif field != "*-":
                spines.append(spine)
                if spine.is_kern:
                    self.read_interpretation(field, spine, score, place)
        if len(spines) > MAX_SPINES:
            raise ScoreError(f"more than {MAX_SPINES} columns")
        if not spines:
            self.close_measure(self.last_end())
        self.spines = spines

    def read_interpretation(self, field, spine, score, place):
        """One interpretation of a kern column."""
        if field.startswith("*clef"):
            spine.is_drums = field.startswith("*clefX")
        elif meter := re.fullmatch(r"\*M(\d{1,3})(?:/(\d{1,3}))?", field):
            beats, beat_type = int(meter[1]), int(meter[2] or 4)
            if beats and beat_type and not 4 * TICKS % beat_type:
                self.meter = beats, beat_type
                score.meters[self.measure] = self.meter
        elif field.startswith("*MX"):
            self.meter = None
            score.meters[self.measure] = None
        elif field.startswith("*MM"):
            number = re.match(r"\d+(\.\d+)?", field[3:])
            if number and BPM[0] <= float(number[0]) <= BPM[1]:
                score.tempos.setdefault(place, float(number[0]))
        elif field.startswith("*k["):
            sharps = field.count("#") - field.count("-")
            score.keys.setdefault(place, (sharps, False))
        elif tonic := re.fullmatch(r"\*([A-Ga-g])([#-]?):", field):
            minor = tonic[1].islower()
            score.keys[place] = key_of(tonic[1].lower(), tonic[2], minor), minor
        elif field.startswith('*I"'):
            score.names.setdefault(spine.part, field[3:].strip())


def key_of(letter, accidental, minor):
    """Sharps of a key, negative for flats.

    >>> key_of("b", "-", False), key_of("f", "#", True)
    (-2, 3)
    """
    return MAJOR_SHARPS[letter] + {"": 0, "#": 7, "-": -7}[accidental] - 3 * minor


@lru_cache(1 << 14)
def midi_pitch(letters, accidentals):
    """MIDI number of a kern pitch.

    >>> midi_pitch("c", None), midi_pitch("CC", "#"), midi_pitch("bb", "-")
    (60, 37, 82)
    """
    octave = 4 + len(letters) if letters.islower() else 5 - len(letters)
    alter = len(accidentals or "") * (-1 if accidentals and accidentals[0] == "-" else 1)
    return 12 * octave + SEMITONES[letters[0].upper()] + alter


def token_ticks(token):
    """Ticks of a token's first note or rest; 0.0 for a grace, or where no length stands.

    >>> token_ticks("8.cc#L") / TICKS, token_ticks("3%2r") / TICKS, token_ticks("0c 0e") / TICKS
    (0.75, 2.6666666666666665, 8.0)
    """
    head = TREMOLO.sub("", token.partition(" ")[0]) if "@" in token else token.partition(" ")[0]
    return _ticks(head)


@lru_cache(1 << 14)
def _ticks(head):
    match = DURATION.search(head)
    if not match or "q" in head:
        return 0.0
    digits = match[1][:9]
    if digits.strip("0") == "":  # 0 is a breve, 00 a long, 000 a maxima
        ticks = 4.0 * TICKS * 2 ** min(len(digits), 3)
    else:
        ticks = 4 * TICKS * int(match[2] or 1) / int(digits)
    return ticks * (2 - 0.5 ** min(head.count("."), 4))
