"""Reads scores in MusicXML, plain or packed (.mxl), as printed: repeats once, without graces, cue
notes and hidden notes. Files are hostile: entities are refused, sizes bounded.
"""

import gc
import io
import math
import zipfile
import zlib
from xml.etree import ElementTree

from music.score import MAX_QUARTERS, TICKS, Score, ScoreError
from music.theory import SEMITONES_OF

CONTAINER = "META-INF/container.xml"  # names the main file
MAX_XML_BYTES = 64 << 20  # the largest quartet has 12 million
MAX_DIVISIONS = 1 << 24  # of a quarter note; exporters use at most 16,384
TIES = {"start": "[", "stop": "]", "startstop": "_"}


def read_musicxml(data):
    """Returns the Score in a file's bytes; ScoreError says why there is none."""
    gc.disable()  # searching a large tree of XML for cycles takes half of the time
    try:
        return _read(data)
    finally:
        gc.enable()


def _read(data):
    root = parse(unpacked(data) if data.startswith(b"PK") else data)
    score = Score()
    work = text_of(root, "work/work-title")
    score.title = text_of(root, "movement-title") or work
    score.work = work.replace(score.title, "")
    score.composer = text_of(root, "identification/creator[@type='composer']")
    score.rights = text_of(root, "identification/rights")
    for part in root.findall("part-list/score-part"):
        score.names[part.get("id")] = text_of(part, "part-name")
    for part, measures in parts_of(root):
        _Part(score, part).read(measures)
    return score


def unpacked(data):
    """Returns the XML in an .mxl archive."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            if CONTAINER in names:
                roots = parse(_member(archive, CONTAINER)).iter("rootfile")
                names = [root.get("full-path", "") for root in roots] + names
            for name in names:
                if name != CONTAINER and name.lower().endswith((".xml", ".musicxml")):
                    return _member(archive, name)
    # RuntimeError: encrypted, or an unknown compression
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError, RuntimeError) as error:
        raise ScoreError(f"the archive cannot be unpacked: {error}") from None
    raise ScoreError("an archive without MusicXML")


def _member(archive, name):
    with archive.open(name) as file:
        return file.read(MAX_XML_BYTES + 1)


def parse(data):
    """Returns the root of an XML document, its tags without name spaces."""
    if len(data) > MAX_XML_BYTES:
        raise ScoreError(f"more than {MAX_XML_BYTES >> 20} MB of XML")
    # they can make a kilobyte grow to gigabytes; zeros: of UTF-16
    if b"<!ENTITY" in data.replace(b"\0", b""):
        raise ScoreError("the XML declares entities")
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ScoreError(f"no XML: {error}") from None
    if "}" in root.tag:
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
    return root


def parts_of(root):
    """Returns [(id of a part, its measures)], however the score is written."""
    if root.tag == "score-partwise":
        return [(part.get("id"), part.findall("measure")) for part in root.findall("part")]
    if root.tag != "score-timewise":
        raise ScoreError(f"XML, but no score: <{root.tag[:40]}>")
    parts = {}
    for number, measure in enumerate(root.findall("measure")):
        for part in measure.findall("part"):
            measures = parts.setdefault(part.get("id"), [])
            measures += [()] * (number - len(measures)) + [part]
    return list(parts.items())


def text_of(element, path):
    """Returns the text at a path as one line, or ''."""
    return " ".join((element.findtext(path) or "").split())


def number_of(text, least, most):
    """Returns the number in a text; ScoreError if it is not within these bounds."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not least <= value <= most:
        raise ScoreError(f"{(text or '')[:20]!r} in place of a number from {least} to {most}")
    return value


class _Part:
    """Reads a part into a Score. Notes, <backup> and <forward> move a cursor in the measure, in
    ticks; a <chord> note starts where the one before did."""

    def __init__(self, score, part):
        self.score, self.part = score, part
        self.ticks = TICKS  # of one division
        self.transpose = {}  # {staff: semitones}; None: of all staves
        self.is_drums = {}  # {staff: whether it has a percussion clef}
        self.measure, self.cursor, self.onset = 0, 0.0, 0.0

    def read(self, measures):
        for self.measure, measure in enumerate(measures):
            self.cursor = self.onset = longest = 0.0
            for element in measure:
                tag = element.tag
                if tag == "note":
                    self.read_note(element)
                elif tag == "backup":
                    self.cursor = max(0.0, self.cursor - self.duration(element))
                elif tag == "forward":
                    self.cursor += self.duration(element)
                elif tag == "attributes":
                    self.read_attributes(element)
                elif tag in ("direction", "sound"):
                    self.read_tempo(element if tag == "sound" else element.find("sound"))
                longest = max(longest, self.cursor)
            self.score.reach(self.measure, round(longest))

    def duration(self, element):
        most = MAX_QUARTERS * TICKS / self.ticks
        return self.ticks * number_of(element.findtext("duration"), 0, most)

    def read_note(self, note):
        tags = {child.tag: child for child in note}
        if "grace" in tags:
            return
        length = self.duration(note) if "duration" in tags else 0.0
        if "chord" not in tags:
            self.onset = self.cursor
            self.cursor += length
        if not length or tags.keys() & {"rest", "cue"} or note.get("print-object") == "no":
            return
        place = self.measure, round(self.onset)
        staff = note.findtext("staff", "1")
        if "pitch" not in tags or self.is_drums.get(staff):
            self.score.drums.append(place)
            return
        tie = TIES.get("".join(sorted({end.get("type", "") for end in note.iterfind("tie")})), "")
        pitch, written = self.transpose.get(staff, self.transpose.get(None, 0)), tags["pitch"]
        pitch += SEMITONES_OF.get(written.findtext("step"), 1000)
        pitch += 12 + 12 * int(number_of(written.findtext("octave"), -1, 10))
        pitch += round(number_of(written.findtext("alter", "0"), -4, 4))
        length = round(self.onset + length) - place[1]
        self.score.add_note(self.part, note.findtext("voice", "1"), place, length, pitch, tie)

    def read_attributes(self, attributes):
        score, place = self.score, (self.measure, round(self.cursor))
        for element in attributes:
            if element.tag == "divisions":
                self.ticks = TICKS / number_of(element.text, 0.25, MAX_DIVISIONS)
            elif element.tag == "transpose":
                semitones = number_of(element.findtext("chromatic", "0"), -60, 60)
                octaves = number_of(element.findtext("octave-change", "0"), -5, 5)
                self.transpose[element.get("number")] = round(semitones + 12 * octaves)
            elif element.tag == "clef":
                staff = element.get("number") or "1"
                self.is_drums[staff] = element.findtext("sign") == "percussion"
            elif element.tag == "time" and self.measure not in score.meters:
                score.meters[self.measure] = read_meter(element)
        # a transposing instrument's written key is not the key of the music
        fifths = attributes.findtext("key/fifths")
        if fifths is not None and place not in score.keys and not any(self.transpose.values()):
            minor = attributes.findtext("key/mode") == "minor"
            score.keys[place] = int(number_of(fifths, -14, 14)), minor

    def read_tempo(self, sound):
        if sound is not None and sound.get("tempo"):
            tempo = number_of(sound.get("tempo"), 0, math.inf)
            self.score.add_tempo((self.measure, round(self.cursor)), tempo)


def read_meter(time):
    """Returns (beats, beat type) of a <time>, (5, 8) of 3+2/8; None for free time."""
    if time.find("senza-misura") is not None or time.find("beats") is None:
        return None
    meters = []
    for beats, beat_type in zip(time.findall("beats"), time.findall("beat-type")):
        count = sum(number_of(part, 1, 1000) for part in (beats.text or "").split("+"))
        meters.append((int(count), int(number_of(beat_type.text, 1, 128))))
    finest = max(beat_type for _, beat_type in meters)
    if any(finest % beat_type for _, beat_type in meters) or finest & (finest - 1):
        raise ScoreError(f"no meter: {meters}")
    return sum(beats * finest // beat_type for beats, beat_type in meters), finest
