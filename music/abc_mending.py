"""Mends people's ABC before it is read: the text of a file, its tunes, and lines of music.

Faults of web pages, word processors, e-mail and programs are counted by their kind.
"""

import html
import math
import re
from collections import Counter
from typing import NamedTuple


def decoded(data):
    """Returns (text with plain line ends, Counter of what was mended) of an ABC file's bytes."""
    encoding = "utf-8"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif data[1:4:2] == b"\0\0":
        encoding = "utf-16-le"
    elif data[:4:2] == b"\0\0":
        encoding = "utf-16-be"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode("latin-1" if encoding == "utf-8" else encoding, "replace")
    mended = Counter()
    mended["texts in UTF-16"] += encoding != "utf-8"
    mended["files with doubled line ends"] += "\r\r\n" in text
    return re.sub(r"\r+\n|\r", "\n", text.lstrip("\ufeff").replace("\0", "")), +mended


class RawTune(NamedTuple):
    """Lines of a tune, [(number in the book, line)], and what was mended."""

    lines: list
    mended: Counter


def split_book(text):
    """Returns ([RawTune], Counter of what was mended) of a book.

    A tune begins with X: (in a book without any, with another field); an empty line ends it unless
    music follows. M:, L:, K: and Q: above the first X: hold for tunes without."""
    mended = Counter()
    text = _mend(text, _LEFT_OVERS, mended)
    blocks, begin_text = [[]], False
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith(("%%begin", "%%end")):
            begin_text = line.startswith("%%begin")
        elif not line.strip() and not begin_text:
            blocks.append([])
        elif not begin_text and not line.lstrip().startswith("%"):
            if re.match(r"[ \t]+[A-Za-z+]:(?![|:])", line):
                line = line.lstrip()
                mended["blanks before a field"] += 1
            if line.startswith("X:") and blocks[-1]:
                blocks.append([])
            if blocks[-1] and _OPEN_CHORD.fullmatch(blocks[-1][-1][1]):
                number, line = blocks[-1][-1][0], blocks[-1].pop()[1] + line
                mended["chords cut by a line end"] += 1
            blocks[-1].append((number, line))
    blocks = [block for block in blocks if block]
    has_numbers = any(line.startswith("X:") for block in blocks for _, line in block)
    tunes, defaults = [], {}
    for block in blocks:
        first = block[0][1]
        is_start = first.startswith("X:") if has_numbers else first[:2] in ("T:", "M:", "L:", "K:")
        has_music = any(is_music(line) for _, line in block)
        if is_start and (has_numbers or has_music):
            tunes.append(RawTune(block, Counter([] if has_numbers else ["tunes without X:"])))
        elif tunes and has_music and all(is_field(line) or is_music(line) for _, line in block):
            tunes[-1].lines.extend(block)
            tunes[-1].mended["empty lines inside a tune"] += 1
        elif not tunes:
            fields = [row for row in block if is_field(row[1]) and row[1][0] in "MLKQ"]
            defaults.update({row[1][0]: row for row in fields})
    for tune in tunes:
        own = {line[0] for _, line in tune.lines if is_field(line)}
        given = [row for letter, row in defaults.items() if letter not in own]
        if given:
            tune.lines[1:1] = sorted(given, key=lambda row: row[1][0] == "K")
            tune.mended["fields given once for the file"] += len(given)
    return tunes, mended


_OPEN_CHORD = re.compile(r"(?![A-Za-z]:).{,200}\[[A-Ga-g\d^_=,'/ ]{,20}")
_TYPOGRAPHY = {
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033", '"'),
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u00b4\u2032", "'"),
    **dict.fromkeys("\u00a0\u2002\u2003\u2007\u2009\u202f\u3000", " "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", ""),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
    "\u266f": "#",
    "\u266d": "b",
    "\u2028": "\n",
}
_LEFT_OVERS = (
    (
        "HTML left-overs",
        r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{1,6}|#x[0-9a-fA-F]{1,5});",
        lambda match: html.unescape(match.group()),
    ),
    (  # tags that notes cannot be taken for: `a<b>c` is rhythm
        "HTML left-overs",
        r"(?i)</?(?:br|pre|p|div|span|font|td|tr|table|html|body|code|a\s+href[^<>]*)\s*/?>",
        "",
    ),
    (
        "typographic quotes and blanks",
        f"[{''.join(_TYPOGRAPHY)}]",
        lambda match: _TYPOGRAPHY[match.group()],
    ),
    ("e-mail left-overs", r"(?m)=(?:20)?(?=[ \t|]*$)", ""),
    ("e-mail left-overs", "=3D", "="),
)


def _mend(text, table, mended):
    """Returns a text after substitutions, (kind of fault to count in `mended` or None, pattern,
    replacement)."""
    for kind, pattern, replacement in table:
        text, n = re.subn(pattern, replacement, text)
        if n and kind:
            mended[kind] += n
    return text


def is_field(line):
    """Returns True for `M:3/4`, not for `G:|`."""
    return re.match(r"[A-Za-z+]:(?![|:\]])", line) is not None


_WORDS = re.compile(r"\"[^\"]*\"|![^!\n]*!|\+[^+|\n]{1,40}\+|\[[A-Za-z]:[^\]]*\]|\{[^}]*\}|%.*")


def is_music(line):
    """Returns True if nearly all signs of a line are notes, lengths and bar lines."""
    if is_field(line) or line.startswith("%"):
        return False
    bare = re.sub(r"\s", "", _WORDS.sub("", line))
    plain = re.sub(r"[A-Ga-gzxZX0-9/|:\[\](),'^_=<>\-.~&$!*\\`yuvkTHLMOPSJR]", "", bare)
    return len(plain) <= 0.1 * len(bare) and (
        "|" in line or len(re.findall("[A-Ga-g]", bare)) > 3 and not re.search("[a-z]{7}", line)
    )


def is_words(line):
    """Returns True if a line is a sentence or numbers alone."""
    bare = _WORDS.sub(" ", line)
    letters, foreign = (len(re.findall(kind, bare)) for kind in ("[A-Za-z]", "[IKNQUVWh-jl-t]"))
    return foreign > max(2, 0.3 * letters) or bool(re.fullmatch(r"[-\d\s.\\]+", line))


def _accidental(match):
    """Returns a microtone as the next semitone towards the natural."""
    sign, over, slash, under = match.groups()
    size = int(over or 1) / max(1, int(under or 2 ** len(slash)))
    return "=" if sign == "=" else sign[0] * min(int(size), 2) or "="


def _octave_marks(match):
    """Returns what is left of marks such as `,'`."""
    n = match.group().count("'") - match.group().count(",")
    return "'" * n if n > 0 else "," * -n


def _tuplet(match):
    """Returns a tuplet of at most nine (`(10:6:10` is `(5:3:10`), with \\1 for the bracket."""
    p, q, r = match.groups()
    if len(p) == 1:
        return match.group().replace("(", "\1")
    p, q = int(p), int(q or 0) or 2
    r = int(r or 0) or p
    divisor = math.gcd(p, q)
    return f"\1{p // divisor}:{q // divisor}:{r}" if p // divisor <= 9 else "\1"


FIELD = re.compile(r"(\[[A-Za-z]:[^\]\n]*\])")
_HEAD = r"[_^=]*[A-Ga-gzx][,']*"
# mended before slurs and chords, and after them
_SIGNS = (
    (None, r"![^!|\s]{1,40}!|\+[A-Za-z][A-Za-z0-9.()<>]{0,39}\+", ""),  # decorations
    ("line-break signs", r"[$!*]", ""),
    (None, r"\{[^}|]*\}|[.~`H-WYh-w]|y[\d/]*|\\", ""),  # graces, marks, spacers
    ("microtones", r"(\^+|_+|=)(\d*)(/*)(\d*)(?<=[\d/])(?=[A-Ga-g])", _accidental),
    (None, r"(?<![_^])(\^\^|__)[_^]+", r"\1"),
    (None, r"(?<=[A-Ga-g])[,']{2,}", _octave_marks),
    ("notes without length", rf"(?:{_HEAD}|\[[^\]|:]*\])0+(?![\d/.])-?", ""),
    (None, r"\((\d{1,2})(?::(\d{0,2}))?(?::(\d{0,2}))?", _tuplet),
)
_RHYTHM = (
    ("unclosed chords", r"\[(?=[^\]|:\d]*(?:\||$))(?![|:\d])", ""),
    (None, r"[ \t]+(?=-)|(?<=[<>])[ \t]+|[ \t]+(?=[<>])", ""),
    ("lengths behind a tie", r"(?<=[A-Ga-g,'])-(\d)", r"\1-"),
    ("stray signs", r"(?<![A-Ga-g0-9,'/\]])-|[=^_]+(?![\^_=]*[A-Ga-g])", ""),
    # d>c/B/ means d3/2c/4B/4, and d>c/ means d>c
    (
        "old shorthand of rhythm",
        rf"({_HEAD})>({_HEAD})/({_HEAD})/(?![\d/])",
        r"\g<1>3/2\2/4\3/4",
    ),
    ("old shorthand of rhythm", rf"({_HEAD}>{_HEAD})/(?![\d/])", r"\1"),
)


def clean_music(line, mended):
    """Returns a line of music for `read_stretch`, without words, marks and comments."""
    line = _mend(line, [(None, r'"[^"]*"', ""), ("unclosed quotes", r'"[^"\s|]*', "")], mended)
    line = line.split("%")[0].rstrip().removesuffix("\\")
    parts = enumerate(FIELD.split(line))
    return "".join(part if i % 2 else _clean_part(part, mended) for i, part in parts)


def _clean_part(text, mended):
    def chord(match):
        inside = re.sub(r"\s", "", match.group(1))
        notes = re.sub(r"[zx][\d/]*-?", "", inside)
        if notes != inside:
            mended["rests inside chords"] += 1
        if not re.search("[A-Ga-g]", notes):
            return "z" if inside else ""
        return f"[{notes}]"

    text = _mend(text, _SIGNS, mended)
    if text.count("(") != text.count(")"):
        mended["unclosed slurs"] += 1
    text = re.sub(r"[()]", "", text).replace("\1", "(")
    text = re.sub(r"\[(?![A-Za-z]:)([^\[\]|]*)\]", chord, text)
    return _mend(text, _RHYTHM, mended)
