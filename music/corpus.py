"""The embedded corpus, real music that ships inside the music21 package, and old tunes in ABC turned
into MIDI.

The corpus is of two kinds: books of old tunes in ABC notation, one voice each, and scores with
several voices in MusicXML or Humdrum kern, which music/scores.py reads. Tunes are set as printed:
repeats once, ornaments and chord symbols left out, bars where the book has them, so that what stage
02 makes of the MIDI can be told from what is in the music.

Nothing is written here but in a work folder that the caller gives to `convert_tunes`: abc2midi,
which compiles the tunes, reads and writes files only.
"""

import contextlib
import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

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
TUNES_PER_CALL = 250  # of abc2midi: a crash costs no more than these
ABC2MIDI_SECONDS = 120  # for TUNES_PER_CALL tunes


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
    """Compiles {number: BookTune} with abc2midi; yields (number, MIDI bytes, None) or (number, None,
    reason).

    The program is the copy inside the symusic package, whatever the PATH has: all machines get the
    same bytes. It runs in folders below `work`, where it writes one MIDI file a tune, named by its
    number.
    """
    prepared = []
    for number, tune in tunes.items():
        try:
            prepared.append((number, prepared_tune(number, tune.header, tune.body)))
        except (ValueError, ZeroDivisionError) as error:
            yield number, None, str(error)
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
                reason = None if number in midi else "abc2midi wrote nothing"
                yield number, midi.get(number), reason


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
