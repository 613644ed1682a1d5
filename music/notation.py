"""Writes tunes of `read_abc` as MIDI, MusicXML and notes in seconds.

music21 writes the MusicXML, but does not read the ABC: 18 % of its notes are not in the source.
In every form bars of all voices begin together (`at_bar_lines`).
"""

import bisect
import contextlib
import itertools
import re
import statistics
from fractions import Fraction

from music.abc_fields import meter_numbers, parse_key, sharps_of
from music.abc_text import AbcError, read_abc
from music.theory import LETTERS, key_alterations, spell

PREFIX_BARS = 200  # given up, one by one, to find a readable prefix
WRONG = "#b3261e"  # notes of bars without their meter's length
GIVEN = "#7d7d7d"  # notes of the prompt, on white paper and on dark
MIDI_TICKS = 480  # per quarter note
MIDI_VELOCITY = 80


def readable(text):
    """Returns (tune, n_chars, reason): the tune in a text or its longest prefix of whole bars, None
    without notes; the prefix's length; why the rest cannot be read, or None."""
    try:
        return _with_notes(read_abc(text)), len(text), None
    except AbcError as error:
        reason = str(error)
        end = len("\n".join(text.split("\n")[: error.line])) + 1
    bar_ends = [match.end() for match in re.finditer(r"\|", text[:end])]
    for cut in [min(end, len(text)), *bar_ends[::-1][:PREFIX_BARS]]:
        with contextlib.suppress(AbcError):
            if tune := _with_notes(read_abc(text[:cut] + "\n")):
                return tune, cut, reason
    return None, 0, reason


def _with_notes(tune):
    return tune if any(voice.notes for voice in tune.voices) else None


def given_bars(text, n_chars):
    """Returns {voice: whole bars} in the first n_chars of a text."""
    prompt = read_abc(text[: text.rfind("|", 0, n_chars) + 1], strict=False)
    return {voice.name: len(voice.bars) for voice in prompt.voices}


def bar_starts(tune):
    """Returns where each bar begins, as long as the longest voice's, and where the last ends."""
    lengths = ([bar.length for bar in voice.bars] for voice in tune.voices)
    longest = map(max, itertools.zip_longest(*lengths, fillvalue=Fraction(0)))
    return list(itertools.accumulate(longest, initial=Fraction(0)))


def at_bar_lines(tune):
    """Returns the tune with every voice's bars where the score has them (itself if they are there),
    but for `keys` and `ticks`. A note tied over a wrong bar sounds up to the bar line."""
    starts = bar_starts(tune)
    if all(bar.onset == start for voice in tune.voices for bar, start in zip(voice.bars, starts)):
        return tune
    onsets = {voice.name: [bar.onset for bar in voice.bars] for voice in tune.voices}

    def moved(name, at, is_end=False):
        """Moves a time with its bar; is_end: the end of a bar is in it."""
        find = bisect.bisect_left if is_end else bisect.bisect_right
        i = max(find(onsets[name], at) - 1, 0)
        return starts[i] + at - onsets[name][i]

    def moved_changes(changes, letter):
        """Moves changes of a field with the voice that they stand in."""
        places = {}
        for at, value in changes:
            inside = (
                voice.name
                for voice in tune.voices
                for bar in voice.bars
                if bar.onset <= at <= bar.onset + bar.length and f"[{letter}:" in bar.text
            )
            places.setdefault(moved(next(inside, tune.voices[0].name), at), value)
        return sorted(places.items())

    voices = []
    for voice in tune.voices:
        notes = []
        for note in voice.notes:
            onset = moved(voice.name, note.onset)
            end = moved(voice.name, note.onset + note.duration, is_end=True)
            notes.append(note._replace(onset=onset, duration=end - onset))
        bars = [bar._replace(onset=start) for bar, start in zip(voice.bars, starts)]
        voices.append(voice._replace(notes=notes, bars=bars))
    return tune._replace(
        voices=voices,
        tempos=moved_changes(tune.tempos, "Q"),
        meters=moved_changes(tune.meters, "M"),
    )


# lengths of one head in quarter notes: plain, with a dot (3), in a triplet
ONE_HEAD = {Fraction(2) ** k * n for k in range(-4, 3) for n in (1, 3, Fraction(2, 3))} - {12}
TIED_HEADS = tuple(Fraction(n, 8) for n in (32, 24, 16, 12, 8, 6, 4, 2, 1))  # of other lengths


def split_length(start, length, beat=Fraction(1)):
    """Returns a length (quarter notes, from `start` in its bar) as tied heads, split at beats.

    >>> [str(x) for x in split_length(Fraction(0), Fraction(5, 4))]
    ['1', '1/4']
    """
    pieces = []
    while length > 0:
        to_beat = beat - start % beat
        off_beat = start % (beat / 2) != 0 and to_beat < length
        # a syncopation from half a beat is read without a tie
        if length in ONE_HEAD and not off_beat:
            heads = [length]
        elif start % beat and to_beat <= length:
            heads = [to_beat]
            is_binary = start.denominator & (start.denominator - 1) == 0
            if to_beat not in ONE_HEAD and beat > Fraction(1, 8) and is_binary:
                heads = split_length(start, to_beat, Fraction(1, 2) if beat > 1 else beat / 2)
        else:
            head = next((value for value in TIED_HEADS if value <= length), length)
            whole_beats = length - length % beat
            # the triplet's part stands apart from the full beats
            if whole_beats and length.denominator % 3 == 0:
                head = min(head, whole_beats)
                head = head if head in ONE_HEAD else beat
            heads = [head]
        pieces += heads
        start, length = start + sum(heads), length - sum(heads)
    return pieces


def bar_slices(notes, *lines):
    """Returns [(onset in the bar, length, [(pitch, tied from before, tied on)])] of a bar, cut at
    `lines` (start, ..., end) and wherever a note begins or ends."""
    start, stop = lines[0], lines[-1]
    spans = [(note.onset, note.onset + note.duration, note.pitch) for note in notes]
    spans = [span for span in spans if span[0] < stop and span[1] > start]
    edges = {*lines, *(edge for span in spans for edge in span[:2] if start < edge < stop)}
    slices = []
    for begin, end in itertools.pairwise(sorted(edges)):
        chord = sorted(
            (pitch, onset < begin, offset > end)
            for onset, offset, pitch in spans
            if onset <= begin and offset >= end
        )
        slices.append((begin - start, end - begin, chord))
    return slices


def is_wrong(voice, i):
    """Returns whether bar i has a wrong length; the first and the last may be short."""
    bar = voice.bars[i]
    if bar.meter is None or bar.length == bar.meter:
        return False
    return bar.length > bar.meter or 0 < i < len(voice.bars) - 1


def musicxml(tune, n_bars=None, title=None, given=None):
    """Returns a tune, or its first bars, as MusicXML (bytes), the same for the same tune.

    Hidden rests fill short bars up. title: with one, parts have names. given: {voice: bars} of a
    prompt, in grey before a double bar line. Raises what music21 raises on odd lengths.
    """
    from music21 import layout, metadata, stream, tempo  # takes 0.3 s
    from music21.musicxml.m21ToXml import GeneralObjectExporter

    tune, score = at_bar_lines(tune), stream.Score()
    starts = bar_starts(tune)[: None if n_bars is None else n_bars + 1]
    for voice in tune.voices:
        score.insert(0, _part(voice, tune, starts, given or {}))
        if title:
            score.parts[-1].partName = f"Voice {voice.name}"
    measures = list(score.parts[0].getElementsByClass("Measure"))
    for onset, quarters in tune.tempos:
        i = bisect.bisect_right(starts, onset) - 1
        if quarters and i < len(measures):
            mark = tempo.MetronomeMark(number=round(quarters, 1 if quarters % 1 else None))
            measures[i].insert(onset - starts[i], mark)
    if len(tune.voices) > 1:
        score.insert(0, layout.StaffGroup(list(score.parts), symbol="bracket"))
    score.metadata = metadata.Metadata(title=title or tune.fields.get("T") or "Untitled")
    exporter = GeneralObjectExporter()
    exporter.makeNotation = False  # it would spell, tie and beam anew
    # the day, music21 as composer; then random names of parts
    xml = re.sub(rb"\s*<(encoding-date|creator).*?</\1>", b"", exporter.parse(score))
    for i, name in enumerate(dict.fromkeys(re.findall(rb'<score-part id="([^"]+)"', xml)), 1):
        xml = xml.replace(b'id="%s"' % name, b'id="P%d"' % i)
    return xml


def sharps_of_key(key):
    """Returns the sharps of a K: value (flats: negative); 0 if it cannot be read."""
    with contextlib.suppress(ValueError):
        return sharps_of(parse_key(key))
    return 0


def _part(voice, tune, starts, given):
    """Returns a voice as a music21 part."""
    from music21 import key, meter, stream

    part, sharps, meter_sign = stream.Part(), sharps_of_key(tune.key), tune.meter
    for i, (start, stop) in enumerate(itertools.pairwise(starts)):
        measure = stream.Measure(number=i + 1)
        bar = voice.bars[i] if i < len(voice.bars) else None
        text = bar.text if bar else ""
        new_key, new_meter = (re.search(rf"\[{letter}:([^\]]*)\]", text) for letter in "KM")
        if new_key:
            sharps = sharps_of_key(new_key[1])
        if i == 0:
            measure.insert(0, _clef(voice))
        if i == 0 or new_key:
            measure.insert(0, key.KeySignature(sharps))
        if i == 0 or new_meter:
            meter_sign = new_meter[1].strip() if new_meter else meter_sign
            with contextlib.suppress(Exception):  # M:none has no sign
                measure.insert(0, meter.TimeSignature("%d/%d" % meter_numbers(meter_sign)))
        sounds = any(
            note.onset < stop and note.onset + note.duration > start for note in voice.notes
        )
        if bar is None or not sounds:
            meters = (other.bars[i].meter for other in tune.voices if i < len(other.bars))
            _write_rest(measure, stop - start, bar.meter if bar else next(meters))
        else:
            colour = GIVEN if i < given.get(voice.name, 0) else None
            colour = WRONG if is_wrong(voice, i) else colour
            _write_notes(measure, voice, i, stop, sharps, meter_sign, colour)
        if i + 1 == max(given.values(), default=0):
            measure.rightBarline = "double"
        part.append(measure)
    with contextlib.suppress(Exception):  # an over-full bar has no beams
        part.makeBeams(inPlace=True)
    return part


def _clef(voice):
    """Returns the clef for the median pitch of a voice."""
    from music21 import clef

    pitches = [note.pitch for note in voice.notes]
    middle = statistics.median(pitches) if pitches else 64
    if middle < 57:
        return clef.BassClef() if middle >= 36 else clef.Bass8vbClef()
    return clef.TrebleClef() if middle <= 88 else clef.Treble8vaClef()


def _write_rest(measure, length, meter):
    """Writes a silent bar; one of another length than its meter's as shorter rests, since readers
    take a lone whole rest for a full bar."""
    from music21 import note

    if length == meter:
        measure.append(note.Rest(length, fullMeasure=True))
        return
    for piece in split_length(Fraction(0), length):
        for part in (piece / 2, piece / 2) if piece == 4 else (piece,):
            measure.append(note.Rest(part))


def _write_notes(measure, voice, i, stop, sharps, meter_sign, colour):
    """Writes the notes of bar i into a measure that ends at `stop`."""
    from music21 import chord, duration, note
    from music21.stream.makeNotation import makeTupletBrackets

    bar = voice.bars[i]
    beat = Fraction(3, 2) if meter_sign in ("6/8", "9/8", "12/8") else Fraction(1)
    missing = max(bar.meter - (stop - bar.onset), 0) if i == 0 and bar.meter else 0  # of a pickup
    if missing:
        measure.paddingLeft = missing
    in_force = {}
    for onset, length, sounding in bar_slices(voice.notes, bar.onset, bar.onset + bar.length, stop):
        pieces = split_length(onset + missing, length, beat)
        for k, piece in enumerate(pieces):
            value = duration.Duration(piece)
            if value.type in ("inexpressible", "complex"):
                raise ValueError(f"bar {i + 1} has a note of {piece} quarters: no head can show it")
            if not sounding:
                rest = note.Rest(duration=value)
                rest.style.hideObjectOnPrint = onset >= bar.length  # the text has no rest there
                measure.append(rest)
                continue
            more = k + 1 < len(pieces)
            heads = [
                _head(pitch, sharps, tied_in or k > 0, tied_on or more, in_force)
                for pitch, tied_in, tied_on in sounding
            ]
            event = heads[0] if len(heads) == 1 else chord.Chord(heads)
            event.duration = value
            for coloured in (*heads, event) if colour else ():
                coloured.style.color = colour
            measure.append(event)
    makeTupletBrackets(measure, inPlace=True)


def _head(midi_pitch, sharps, tied_in, tied_on, in_force):
    """Returns a note head, with an accidental unless the bar so far, the key or a tie says it.
    in_force: {(letter, octave): alteration} of the bar, updated."""
    from music21 import note, pitch, tie

    letter, alteration, octave = spell(midi_pitch, sharps)
    head = note.Note(pitch.Pitch(step=letter, octave=octave, accidental=alteration))
    by_key = key_alterations(sharps)[LETTERS.index(letter)]
    is_shown = not tied_in and in_force.get((letter, octave), by_key) != alteration
    head.pitch.accidental.displayStatus = is_shown
    in_force[letter, octave] = alteration
    if tied_in or tied_on:
        head.tie = tie.Tie("continue" if tied_in and tied_on else "stop" if tied_in else "start")
    return head


def notes_in_seconds(tune):
    """Returns [[onset, duration, pitch, voice number]] in seconds, by onset."""
    tune = at_bar_lines(tune)

    def seconds(at):
        total, last, tempo = 0.0, Fraction(0), tune.tempo or 120.0
        for onset, new in tune.tempos:
            if onset >= at:
                break
            if new:
                total, last, tempo = total + float(onset - last) * 60 / tempo, onset, new
        return total + float(at - last) * 60 / tempo

    notes = []
    for v, voice in enumerate(tune.voices):
        for note in voice.notes:
            start, end = seconds(note.onset), seconds(note.onset + note.duration)
            notes.append([round(start, 3), round(end - start, 3), note.pitch, v])
    return sorted(notes)


def midi_score(tune):
    """Returns a tune as a symusic.Score, a track a voice."""
    import symusic

    def ticks(quarters):
        return round(quarters * MIDI_TICKS)

    tune, score = at_bar_lines(tune), symusic.Score(MIDI_TICKS)
    for onset, tempo in tune.tempos:
        if tempo:  # the file format has three bytes for it
            score.tempos.append(symusic.Tempo(ticks(onset), float(min(max(tempo, 4), 960))))
    for onset, meter in tune.meters:
        numbers = meter_numbers(meter)
        if numbers and numbers[0] < 256 and numbers[1] <= 64:  # what the file format can hold
            score.time_signatures.append(symusic.TimeSignature(ticks(onset), *numbers))
    for voice in tune.voices:
        track = symusic.Track(voice.name, 0, False)
        for note in voice.notes:
            start = ticks(note.onset)
            length = max(1, ticks(note.onset + note.duration) - start)
            track.notes.append(symusic.Note(start, length, note.pitch, MIDI_VELOCITY))
        if voice.notes:
            score.tracks.append(track)
    return score
