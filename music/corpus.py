"""The embedded corpus: real music that ships inside the music21 package, turned into MIDI.

Two kinds: books of old tunes in ABC notation, one voice each, and scores with several voices in
MusicXML or Humdrum Kern. All of it is set as printed: repeats once, ornaments and chord symbols
left out, bars where the score has them, so that what stage 02 makes of the MIDI can be told from
what is in the music.

Nothing is written here but in a work folder that the caller gives to `convert_tunes`: abc2midi,
which compiles the tunes, reads and writes files only.
"""

import contextlib
import re
import shutil
import subprocess
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from music.theory import LETTERS, SEMITONES
from music.tunebook import split_tunebook

# single-voice collections of the music21 package: old tunes in ABC notation
BOOKS = {
    "oneills": ("O'Neill 1850", "oneills1850"),
    "ryans": ("Ryan's Mammoth", "ryansMammoth"),
    "airds": ("Aird's Airs", "airdsAirs"),
    "miscfolk": ("Folk", "miscFolk"),
    "essen": ("Essen", "essenFolksong"),
}
SCORES = {  # collections with several voices: MusicXML or Humdrum Kern
    "bach": ("Bach Chorales", "bach", ".mxl"),
    "palestrina": ("Palestrina", "palestrina", ".krn"),
    "trecento": ("Trecento", "trecento", ".xml"),
    "monteverdi": ("Monteverdi", "monteverdi", ".mxl"),
}
NOTICES = {
    "essen": "Essen folk songs: non-commercial use only (music21/corpus/essenFolksong/license.txt)",
    "palestrina": (
        "Palestrina masses: the licence conditions stand in the Kern files and in"
        " music21/corpus/license.txt"
    ),
    "trecento": "Trecento pieces: encodings with their own conditions (music21/corpus/license.txt)",
    "monteverdi": (
        "Monteverdi madrigals: encodings with their own conditions (music21/corpus/license.txt)"
    ),
}
# per quarter note, in the MIDI files written here; divisible by 2, 3 and 5
TICKS = 480
TUNES_PER_CALL = 250  # of abc2midi: a crash costs no more than these
ABC2MIDI_SECONDS = 120  # for TUNES_PER_CALL tunes
DEFAULT_BPM = 100  # of a score that gives none
VELOCITY = 90  # of all notes: the ABC made of them has no dynamics


class BookTune(NamedTuple):
    """A tune of an ABC book. header: {letter: first value}; body: lines of music and of the fields
    K, M, L, Q, V."""

    collection: str
    title: str
    header: dict
    body: list


# ---------------------------------------------------------------- what there is


def corpus_folder():
    """The corpus folder inside the music21 package, which is not imported (1 s); None if there is
    none."""
    spec = find_spec("music21")
    folder = spec and Path(spec.origin).parent / "corpus"
    return folder if folder and folder.is_dir() else None


def collection_files(names):
    """[[path below the corpus folder, bytes]] of everything in these collections: what their MIDI
    is made from."""
    package = corpus_folder()
    folders = [package / (BOOKS.get(name) or SCORES[name])[1] for name in names]
    return [
        [str(path.relative_to(package)), path.stat().st_size]
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


def tunes_of(names):
    """All BookTunes of those of the collections that are books."""
    return [
        tune
        for name in names
        if name in BOOKS
        for book in sorted((corpus_folder() / BOOKS[name][1]).glob("*.abc"))
        for tune in read_book(name, book.read_text(encoding="utf-8", errors="replace"))
    ]


def scores_of(names):
    """[(collection, path)] of those of the collections that are scores."""
    return [
        (name, path)
        for name in names
        if name in SCORES
        for path in sorted((corpus_folder() / SCORES[name][1]).rglob("*" + SCORES[name][2]))
    ]


# ---------------------------------------------------------------- tunes in ABC
# The books were typed by many hands: bars that do not add up, endings without repeats, leftovers of
# e-mail. The strict reader of music/abc_text.py refuses such tunes (261 of the 4,433 in all books
# but Essen); here they are mended.

HEAD = r"[_^=]*[A-Ga-gzx][,']*"
# chord symbols and fingerings, graces, decorations, spacers, line continuations; not fields
ORNAMENT = re.compile(
    r"""(?P<field>\[[A-Za-z]:[^\]]*\])|"[^"\n]*"|\{[^}\n]*\}|![a-zA-Z][^!\s]*!|[H-Wh-wy`~.!*]|\\$""",
    re.MULTILINE,
)
NOTE = re.compile(r"([_^=]*[A-Ga-gzx][,']*|\[[^\]:]*\])(\d*)(/*)(\d*)")
TOKEN = re.compile(
    r"\[(?P<field>[A-Za-z]:[^\]]*)\]|\((?P<tuplet>\d)(?::(?P<q>\d?))?(?::(?P<r>\d?))?"
    rf"|(?P<note>{NOTE.pattern})|(?P<broken>>+|<+)"
)
BAR_LINE = re.compile(r"(:*\|[|\]:]*(?:\[?[1-9][-,\d]*)?|::+|\[\||\[[1-9][-,\d]*)")


def read_book(collection, text):
    """The BookTunes of an ABC book."""
    tunes = []
    for tune in split_tunebook(text):
        header, body = {}, []
        for line in tune.split("\n"):
            line = re.sub(r"(?<!\\)%.*", "", line).rstrip()
            field = re.match(r"([A-Za-z]):\s*(.*)", line)
            if field and "K" not in header:
                header.setdefault(field[1], field[2])
            elif line and "K" in header:
                if not field or field[1] in "KMLQV":
                    body.append(line)
            elif not line and "K" in header and body:
                break
        tunes.append(BookTune(collection, header.get("T", "") or "untitled", header, body))
    return tunes


def mended(body):
    """The music of a tune as one line: fields inline, without chord symbols, graces and ornaments,
    and with what old e-mail and old shorthand left behind set right."""
    text = re.sub(r"(?m)^([KMLQ]):\s*(.*)$", r"[\1:\2]", "\n".join(body))
    # quoted-printable
    text = re.sub(r"=20|(?<=\s)=(?=\s|\|?$)", "", text.replace("[|]", "|"), flags=re.MULTILINE)
    text = text.replace("=3D", "=")
    text = ORNAMENT.sub(lambda match: match["field"] or "", text)
    # `["1" c2`: a chord that never ends, after which abc2midi plays the next tune at lengths that
    # differ from run to run
    text = re.sub(r"\[(?=[ \t])", "", text).replace("\n", " ")
    # d>c/B/ means d3/2c/4B/4
    text = re.sub(rf"({HEAD})>({HEAD})/({HEAD})/(?![\d/])", r"\g<1>3/2\2/4\3/4", text)
    # d>c/ means d3/2c/
    return re.sub(rf"({HEAD}>{HEAD})/(?![\d/])", r"\1", text)


def played_once(body):
    """Bars of a tune as printed, each section once: repeat signs go, of several endings the last
    one stays.

    A repeat played out says everything twice: it doubles the text, brings no new music and teaches
    a model to copy. Returns [(bar line before, text)].
    """
    # first_ending: its first bar, while no double bar has closed the section
    bars, first_ending, line = [], None, ""
    for index, piece in enumerate(BAR_LINE.split(mended(body))):
        if index % 2:  # a bar line
            number = re.search(r"[1-9]", piece)
            if number and number[0] == "1":
                first_ending = len(bars)
            elif (
                number and first_ending is not None
            ):  # another ending takes the place of the one before, but its
                fields = "".join(
                    re.findall(
                        r"\[[KML]:[^\]]*\]", "".join(text for _, text in bars[first_ending:])
                    )
                )
                del bars[first_ending:]  # changes of key and meter hold on
                bars += [("|", fields)] if fields else []
            elif not number and len(piece) > 1 and ":" not in piece:
                first_ending = None
            line = piece
        elif piece.strip():
            if bars and not NOTE.search(re.sub(r"\[[A-Za-z]:[^\]]*\]", "", bars[-1][1])):
                piece = bars.pop()[1] + piece  # a "bar" of fields alone belongs to the next
            bars.append((line, piece.strip()))
    return bars


def bar_length(text, unit):
    """(length of a bar in whole notes, unit note length after it); the unit changes with inline L:
    fields."""
    lengths, tuplet_left, tuplet_factor, broken = [], 0, Fraction(1), None
    for token in TOKEN.finditer(text):
        if token["field"]:
            if token["field"].startswith("L:"):
                unit = Fraction(token["field"][2:].strip())
        elif token["tuplet"]:
            p = int(token["tuplet"])
            q = int(token["q"] or {2: 3, 3: 2, 4: 3, 6: 2, 8: 3}.get(p, 2))
            tuplet_left, tuplet_factor = int(token["r"] or p), Fraction(q, max(p, 1))
        elif token["broken"]:
            broken = token["broken"]
        elif token["note"]:
            _, times, slashes, over = NOTE.fullmatch(token["note"]).groups()
            length = unit * int(times or 1) / (int(over) if over else 2 ** len(slashes))
            if token["note"].startswith("["):  # a chord's length is its first note's, times its own
                inner = NOTE.search(token["note"][1:])
                if inner and (inner[2] or inner[3]):
                    length *= Fraction(int(inner[2] or 1), int(inner[4] or 2 ** len(inner[3])))
            if tuplet_left:
                length, tuplet_left = length * tuplet_factor, tuplet_left - 1
            if broken and lengths:
                small = Fraction(1, 2 ** len(broken))
                long, short = (2 - small, small) if broken[0] == ">" else (small, 2 - small)
                lengths[-1], length = lengths[-1] * long, length * short
            broken = None
            lengths.append(length)
    return sum(lengths, Fraction(0)), unit


def meter_of(text):
    """The length of a bar in whole notes; None if the meter is free or cannot be read."""
    text = text.strip()
    if text in ("C", "C|"):
        return Fraction(1)
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    return (
        Fraction(int(match[1]), int(match[2]))
        if match and int(match[1]) and int(match[2])
        else None
    )


def set_in_bars(bars, meter_text, unit):
    """ABC text of the bars, with rests where the bars do not add up, so that bar lines in MIDI fall
    where they are.

    A pickup gets rests before it. A short bar whose rest is the pickup of the next section is left
    alone; other short bars are filled up. An overlong bar gets a meter of its own.
    """
    if not meter_of(meter_text):
        return " | ".join(text for _, text in bars)
    rows = []
    for _, text in bars:
        length, unit = bar_length(text, unit)
        for field in re.findall(r"\[M:([^\]]*)\]", text):
            meter_text = field if meter_of(field) else meter_text
        rows.append((text, length, meter_text, unit))
    written, index = [], 0
    while index < len(rows):
        text, length, meter_text, unit = rows[index]
        gap = meter_of(meter_text) - length
        if gap > 0 and index == 0:
            text = re.sub(
                r"^((?:\[[A-Za-z]:[^\]]*\]\s*)*)",
                lambda fields: fields[0] + rest(gap, unit) + " ",
                text,
            )
        elif gap > 0 and index + 1 < len(rows):
            if rows[index + 1][1] == gap:  # the next bar is what is missing here
                written.append(text)
                index += 1
                text = rows[index][0]
            else:
                text += " " + rest(gap, unit)
        elif gap < 0 and length % meter_of(meter_text):
            text = f"[M:{length.numerator}/{length.denominator}]{text}|[M:{meter_text}]"
        written.append(text)
        index += 1
    return "|\n".join(written) + "|"


def rest(length, unit):
    """An ABC rest of `length` whole notes."""
    units = length / unit
    return f"z{units.numerator}/{units.denominator}"


def prepared_tune(number, header, body):
    """ABC text for abc2midi: no chord symbols, graces, ornaments, repeats or swing; bars as
    printed."""
    if "K" not in header:
        raise ValueError("no K: field")
    meter_text = re.sub(r"\s+", "", header.get("M", "4/4"))
    meter = meter_of(meter_text)
    unit = (
        Fraction(re.sub(r"\s+", "", header["L"]))
        if re.fullmatch(r"\s*1\s*/\s*\d+\s*", header.get("L", ""))
        else Fraction(1, 16) if meter is not None and meter < Fraction(3, 4) else Fraction(1, 8)
    )
    tempo = [f"Q:{header['Q']}"] if "Q" in header else []
    fields = [
        f"X:{number}",
        f"M:{meter_text}",
        f"L:{unit}",
        *tempo,
        "%%MIDI chordattack 0",
        f"K:{header['K']}",
    ]
    if any(line.startswith("V:") for line in body):  # voices line by line: left as they are
        text = re.sub(r'"[^"\n]*"|\{[^}\n]*\}|:(?=\|)|(?<=\|):', "", "\n".join(body))
    else:
        text = set_in_bars(played_once(body), meter_text, unit)
    if not re.search(r"[A-Ga-g]", re.sub(r"\[[A-Za-z]:[^\]]*\]", "", text)):
        raise ValueError("no notes")
    return "\n".join([*fields, text]) + "\n\n"


def convert_tunes(tunes, work, n_workers):
    """Compiles {number: BookTune} with abc2midi; yields (file name, MIDI bytes, None) or (None,
    None, reason).

    The program is the copy inside the symusic package, whatever the PATH has: all machines get the
    same bytes. It runs in folders below `work`, where it writes one MIDI file a tune, named by its
    number.
    """
    prepared = []
    for number, tune in tunes.items():
        try:
            prepared.append((number, prepared_tune(number, tune.header, tune.body)))
        except (ValueError, ZeroDivisionError) as error:
            yield None, None, f"{tune.collection}: {error}"
    abc2midi = Path(find_spec("symusic").origin).parent / "bin" / "abc2midi"
    calls = [
        prepared[start : start + TUNES_PER_CALL]
        for start in range(0, len(prepared), TUNES_PER_CALL)
    ]
    with ThreadPoolExecutor(n_workers) as pool:
        for call, midi in zip(
            calls, pool.map(lambda call: compile_tunes(abc2midi, work, call), calls)
        ):
            for number, _ in call:
                tune = tunes[number]
                if number in midi:
                    yield file_name(BOOKS, tune.collection, tune.title), midi[number], None
                else:
                    yield None, None, f"{tune.collection}: abc2midi wrote nothing"


def compile_tunes(abc2midi, work, tunes):
    """Compiles prepared tunes [(number, text)] in a folder of their own below `work`; {number: MIDI
    bytes}."""
    folder = Path(tempfile.mkdtemp(dir=work))
    (folder / "tunes.abc").write_text("".join(text for _, text in tunes), encoding="utf-8")
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [abc2midi, "tunes.abc", "-NGUI", "-NGRA", "-NFER", "-NCOM", "-silent"],
            cwd=folder,
            timeout=ABC2MIDI_SECONDS,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    written = {number: folder / f"tunes{number}.mid" for number, _ in tunes}
    midi = {number: path.read_bytes() for number, path in written.items() if path.exists()}
    shutil.rmtree(folder, ignore_errors=True)
    return midi


def file_name(table, collection, title):
    """`Folder/Title.mid`; table: BOOKS or SCORES."""
    return f"{table[collection][0]}/{title.replace('/', '-')}.mid"


# ---------------------------------------------------------------- scores


def convert_score(score):
    """What `convert_tunes` yields, of a (collection, path); never raises: a score that cannot be
    read is one counted row."""
    collection, path = score
    try:
        title, data = (kern_to_midi if path.suffix == ".krn" else score_to_midi)(path)
    except Exception as error:
        return None, None, f"{collection}: score: {type(error).__name__}"
    # "bwv66.6.mxl"
    title = path.stem if not title or path.stem in title else f"{title} ({path.stem})"
    return file_name(SCORES, collection, title), data, None


def kern_to_midi(path):
    """(title, MIDI bytes) of a Humdrum Kern score, by way of music21 (0.5 s a piece)."""
    from music21 import converter, midi

    score = converter.parse(path, forceSource=True)
    title = getattr(score.metadata, "title", None) or path.stem
    return f"{title} {path.stem}", midi.translate.music21ObjectToMidiFile(score).writestr()


def score_to_midi(path):
    """(title, MIDI bytes) of a score in MusicXML (plain or .mxl): a track per part and voice, bars
    as in the score, repeats played once. Graces are left out. Raises ValueError if it has no
    notes."""
    from symusic import Note, Score, Tempo, Track

    xml = read_musicxml(path)
    parts = xml.findall("part")
    names = {
        part.get("id"): (part.findtext("part-name") or "").strip()
        for part in xml.iter("score-part")
    }
    starts, pickup = measure_starts(parts)
    score, voices = Score(TICKS), {}
    for part in parts:
        read_part(part, starts, pickup, score, voices)
    for (part, _), notes in voices.items():
        track = Track(names.get(part, ""), 0, False)
        for start, end, pitch in notes:
            track.notes.append(
                Note(ticks(start + pickup), ticks(end) - ticks(start), pitch, VELOCITY)
            )
        score.tracks.append(track)
    if not voices:
        raise ValueError("no notes")
    if not score.tempos:
        score.tempos.append(Tempo(0, DEFAULT_BPM))
    return (
        xml.findtext("movement-title") or xml.findtext("work/work-title") or "",
        score.dumps_midi(),
    )


def read_musicxml(path):
    """The root of a MusicXML file; in an .mxl archive the container says which member it is."""
    if path.suffix != ".mxl":
        return ElementTree.parse(path).getroot()
    with zipfile.ZipFile(path) as archive:
        container = ElementTree.fromstring(archive.read("META-INF/container.xml"))
        return ElementTree.fromstring(
            archive.read(container.find(".//{*}rootfile").get("full-path"))
        )


def read_part(part, starts, pickup, score, voices):
    """Adds a part's signatures and tempo to `score`, and its notes to voices: {(part, voice):
    [[onset, end, pitch]]} in quarter notes, tied heads joined. starts, pickup: see
    `measure_starts`."""
    from symusic import Tempo

    transpose, ties = 0, {}  # ties: the last note of each pitch
    for element, onset, length in timed_elements(part, starts):
        if element.tag == "attributes":
            if element.find("transpose") is not None:
                transpose = int(element.findtext("transpose/chromatic") or 0) + 12 * int(
                    element.findtext("transpose/octave-change") or 0
                )
            # a transposing instrument's written key is not the key of the music
            add_signatures(
                element, ticks(onset + pickup) if onset else 0, score, with_key=not transpose
            )
        elif element.tag == "direction":
            sound = element.find("sound")
            if sound is not None and sound.get("tempo") and not score.tempos:
                score.tempos.append(Tempo(0, float(sound.get("tempo"))))
        elif element.find("pitch") is not None and element.find("cue") is None:
            pitch = transpose + midi_pitch(element.find("pitch"))
            notes = voices.setdefault((part.get("id"), element.findtext("voice") or "1"), [])
            tie = {end.get("type") for end in element.findall("tie")}
            if "stop" in tie and pitch in ties and ties[pitch][1] == onset:
                ties[pitch][1] = onset + length
            else:
                notes.append([onset, onset + length, pitch])
                ties[pitch] = notes[-1]


def timed_elements(part, starts):
    """Yields (element, onset, length), times in quarter notes, of the notes, directions and
    attributes of a part.

    A measure is a cursor that notes move on and <backup> and <forward> move about; a <chord> note
    starts where the note before it did. Graces, which have no time, are left out.
    """
    divisions = 1
    for start, measure in zip(starts, part.findall("measure")):
        cursor = onset = start
        for element in measure:
            if element.tag == "attributes":
                divisions = int(element.findtext("divisions") or divisions)
                yield element, start, 0
            elif element.tag == "direction":
                yield element, cursor, 0
            elif element.tag in ("backup", "forward"):
                step = Fraction(element.findtext("duration")) / divisions
                cursor += step if element.tag == "forward" else -step
            elif element.tag == "note" and element.find("grace") is None:
                length = Fraction(element.findtext("duration") or 0) / divisions
                if element.find("chord") is None:
                    onset, cursor = cursor, cursor + length
                yield element, onset, length


def add_signatures(attributes, at, score, with_key):
    """Adds the time and the key signature of an <attributes> element at tick `at`, where no part
    had one before."""
    from symusic import KeySignature, TimeSignature

    has_time = any(signature.time == at for signature in score.time_signatures)
    has_key = any(signature.time == at for signature in score.key_signatures)
    if attributes.find("time/beats") is not None and not has_time:
        # "3+2" is 5
        beats = sum(int(beat) for beat in attributes.findtext("time/beats").split("+"))
        score.time_signatures.append(
            TimeSignature(at, beats, int(attributes.findtext("time/beat-type")))
        )
    if attributes.find("key/fifths") is not None and with_key and not has_key:
        minor = attributes.findtext("key/mode") == "minor"
        score.key_signatures.append(
            KeySignature(at, int(attributes.findtext("key/fifths")), int(minor))
        )


def measure_starts(parts):
    """Onsets (quarter notes) of the measures, from the longest part in each, and the rest before a
    pickup measure."""
    lengths, meter = [], Fraction(4)
    for part in parts:
        divisions = 1
        for index, measure in enumerate(part.findall("measure")):
            cursor = longest = Fraction(0)
            for element in measure:
                if element.tag == "attributes":
                    divisions = int(element.findtext("divisions") or divisions)
                    if index == 0 and element.find("time/beats") is not None:
                        meter = Fraction(
                            sum(int(beat) for beat in element.findtext("time/beats").split("+"))
                            * 4,
                            int(element.findtext("time/beat-type")),
                        )
                elif element.find("duration") is not None and element.find("chord") is None:
                    step = Fraction(element.findtext("duration")) / divisions
                    cursor += -step if element.tag == "backup" else step
                    longest = max(longest, cursor)
            lengths += [Fraction(0)] * (index + 1 - len(lengths))
            lengths[index] = max(lengths[index], longest)
    starts = [sum(lengths[:index], Fraction(0)) for index in range(len(lengths))]
    return starts, max(meter - lengths[0], Fraction(0)) if lengths else Fraction(0)


def midi_pitch(pitch):
    """The MIDI number of a MusicXML <pitch>."""
    step = SEMITONES[LETTERS.index(pitch.findtext("step"))]
    return (
        12 * (int(pitch.findtext("octave")) + 1) + step + round(float(pitch.findtext("alter") or 0))
    )


def ticks(quarters):
    """MIDI ticks of a time in quarter notes."""
    return round(quarters * TICKS)
