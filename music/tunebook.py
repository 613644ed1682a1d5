"""Splits books into tunes, and cuts tunes at bar lines."""

import math
import re

from music.abc_bar import HEAD, LENGTH, NOTE, read_head
from music.abc_fields import parse_key
from music.abc_text import Reader, clean_line
from music.theory import SIGNS


def split_tunebook(text, any_text=False):
    """Returns the tunes of a book, each from a line `X:` to an empty line or the next `X:`.
    any_text: a text without `X:` is split at empty lines."""
    text = text.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    starts = [match.start() for match in re.finditer(r"^X:", text, re.MULTILINE)]
    if any_text and not starts:
        return [part.strip("\n") + "\n" for part in re.split(r"\n[ \t]*\n", text) if part.strip()]
    return [
        re.split(r"\n[ \t]*\n", text[start:stop], maxsplit=1)[0].rstrip("\n") + "\n"
        for start, stop in zip(starts, starts[1:] + [len(text)])
    ]


def body_start(text):
    """Returns the place after the line K:; 0 if there is none."""
    match = re.search(r"^K:[^\n]*\n", text, re.MULTILINE)
    return match.end() if match else 0


def trim_to_bars(text):
    """Returns a text without the unfinished bar at its end; one without a finished bar stays."""
    ends = [bar.closed for bar in Reader(text).order if bar.closing]
    return text[: max(ends)] + "\n" if ends else text


def cut_tune(text, max_chars, min_chars=0):
    """Returns [(bars before the piece, its ABC text)]: a tune in even pieces of whole bars, each
    with the header, and the meter, key and tempo that hold there. Raises AbcError.

    max_chars and min_chars are kept where the bars allow. A note tied over a cut is struck again.
    """
    reader = Reader(text, strict=True)
    header_chars = sum(len(line) + 1 for line in _header_lines(reader))
    room = max(1, max_chars - header_chars - 24)  # 24: a longer key, tempo or accidental
    points = [*_cut_points(reader), (len(text.rstrip()), _n_bars(reader), {})]
    chosen = _even_cuts([place for place, *_ in points], room, min_chars - header_chars)
    return [
        (points[start][1], _piece(reader, points[start], points[stop]))
        for start, stop in zip(chosen, chosen[1:])
    ]


def piece_of_bars(reader, first, stop):
    """Returns (ABC text of a tune's bars `first` to `stop` - 1, from 0; bars before it; bars before
    its end), cut at the last places up to these where all voices are at a bar line."""
    points = _cut_points(reader, _n_bars(reader))
    begin, end = ([point for point in points if point[1] <= max(n, 0)][-1] for n in (first, stop))
    return _piece(reader, begin, end), begin[1], end[1]


def _n_bars(reader):
    return max((len(voice.bars) for voice in reader.sounding_voices()), default=0)


def _header_lines(reader):
    return [line for line in reader.text[: reader.body_from].split("\n") if line.strip()]


def _even_cuts(places, room, least):
    """Returns indices of the places to cut at, with the first and the last: few even pieces of at
    most `room` characters, the last of at least `least`, where that can be."""
    chosen = [0]
    while chosen[-1] < len(places) - 1:
        first = chosen[-1]
        left = places[-1] - places[first]
        aim, last = places[first] + left / math.ceil(left / room), first + 1
        while (
            last < len(places) - 1
            and places[last + 1] - places[first] <= room
            and abs(places[last + 1] - aim) <= abs(places[last] - aim)
        ):
            last += 1
        while first + 1 < last < len(places) - 1 and places[-1] - places[last] < least:
            last -= 1
        chosen.append(last)
    return chosen


def _cut_points(reader, total=None):
    """Returns [(place in the text, bars before it, {voice: its bar before it})]: the start, and
    where all voices are at a bar line; without `total` (bars) but those that have ended."""
    totals = {voice.name: total or len(voice.bars) for voice in reader.sounding_voices()}
    counts, before, points, n_now = dict.fromkeys(totals, 0), {}, [], 0
    for bar in reader.order:
        counts[bar.voice] += 1
        before[bar.voice] = bar
        n_now = max(n_now, counts[bar.voice])
        if not bar.closing or any(counts[name] < n_now <= n for name, n in totals.items()):
            continue
        level = {name: last for name, last in before.items() if counts[name] == n_now}
        in_slur = any(last.slurs for last in level.values())
        # one header has to do for all voices
        if not in_slur and len({last.after[:3] for last in level.values()}) == 1:
            points.append((bar.closed, n_now, level))
    if not total:
        points = [point for point in points if point[0] < reader.order[-1].end]
    return [(reader.body_from, 0, {}), *points]


_LEADING_FIELDS = re.compile(r"(?:\[[MKQ]:[^\[\]]*\])*")
_INLINE_FIELD = re.compile(r"\[([MKQ]):([^\[\]]*)\]")


def _piece(reader, start, stop):
    text, voices = reader.text, reader.sounding_voices()
    (begin, first_bar, before), (end, _, last_bars) = start, stop
    values, rewritten = {}, {}
    if before:
        opening = [voice.bars[first_bar] for voice in voices if first_bar < len(voice.bars)]
        values, rewritten = _opening(text, before, opening)
    for bar in last_bars.values():
        if bar.ties:
            rewritten[bar] = _untie(rewritten.get(bar, bar.text))
    parts, at = [], begin
    for bar in sorted(rewritten, key=lambda bar: bar.start):
        if rewritten[bar] != bar.text and _in_one_stretch(text, bar):
            parts += [text[at : bar.start], rewritten[bar]]
            at = bar.end
    body = ("".join(parts) + text[at:end]).strip("\n").rstrip()
    has_voice = re.match(r"\s*(?:\[V:|V:|%|\[?[A-Za-z]:[^\n]*\n\s*(?:\[V:|V:))", body)
    if len(voices) > 1 and not has_voice:
        body = f"[V:{next(bar.voice for bar in reader.order if bar.start >= begin)}]" + body
    return "\n".join(_header_with(_header_lines(reader), values)) + "\n" + body + "\n"


def _opening(text, before, opening):
    """Returns ({field: its value}, {bar: its new text}) after a cut; fields right at it move into
    the header. before: {voice: its last bar before it}; opening: the first bars after."""
    values, rewritten = dict(zip("MKLQ", next(iter(before.values())).after)), {}
    # tempo is of the tune, not of a voice
    values["Q"] = max(before.values(), key=lambda bar: bar.closed).after[3]
    leading = [
        _LEADING_FIELDS.match(bar.text).group() if _in_one_stretch(text, bar) else ""
        for bar in opening
    ]
    changes = [dict(_INLINE_FIELD.findall(fields)) for fields in leading]
    for bar, fields, own in zip(opening, leading, changes):
        kept, music = fields, bar.text[len(fields) :]
        for letter, value in own.items():
            if letter == "Q" or all(other.get(letter) == value for other in changes):
                values[letter] = value.strip()
                kept = kept.replace(f"[{letter}:{value}]", "")
        if bar.voice in before and before[bar.voice].ties:
            key = parse_key(values["K"]) if values.get("K") else (0,) * 7
            music = _respell(music, key, before[bar.voice].ties)
        rewritten[bar] = kept + music
    return values, rewritten


def _header_with(header, values):
    """Returns the lines of a header with these values of fields."""
    lines = []
    for line in header:
        letter = line[0] if line[1:2] == ":" else ""
        value = values.pop(letter, None)
        if letter == "K":  # it ends the header
            lines += [f"{other}:{values.pop(other)}" for other in "MLQ" if values.get(other)]
        if value is not None and clean_line(line)[2:].strip() != value:
            line = f"{letter}:{value}"
        lines.append(line)
    return lines


def _in_one_stretch(text, bar):
    """Returns True if no comment or other voice breaks a bar."""
    return bar.end - bar.start == len(bar.text) and text.startswith(bar.text, bar.start)


_GROUP = re.compile(
    rf'"[^"]*"|![^!]*!|\{{[^{{}}]*\}}|\[[A-Za-z]:[^\]]*\]|'
    rf"(\[[^\[\]]*\]{LENGTH}-?|{NOTE}{LENGTH}-?|[zx])"
)


def _untie(bar_text):
    """Returns a bar without the ties that lead out of it.

    >>> _untie("C4-C4[C-E]8")
    'C4-C4[CE]8'
    """
    groups = [match for match in _GROUP.finditer(bar_text) if match.group(1)]
    if not groups:
        return bar_text
    last = groups[-1]
    return bar_text[: last.start()] + last.group().replace("-", "") + bar_text[last.end() :]


def _respell(bar_text, key, ties):
    """Returns a bar whose first notes were tied to `ties`, with the accidentals that it now needs.

    >>> _respell("F4F4G8", (0,) * 7, ((38, 66),))
    '^F4=F4G8'
    """
    as_read, as_written = list(key), list(key)  # alterations in force
    open_ties, parts, at = dict(ties), [], 0
    signs = {alteration: sign for sign, alteration in SIGNS.items()}
    for group in _GROUP.finditer(bar_text):
        if not group.group(1) or group.group()[0] in "zx":
            open_ties = {} if group.group(1) else open_ties
            continue
        still_open = {}
        for match in HEAD.finditer(bar_text, group.start(), group.end()):
            head = read_head(match.group())
            letter, explicit = head.letter, head.alteration is not None
            if explicit:
                meant = as_read[letter] = head.alteration
            elif head.step in open_ties:
                meant = open_ties[head.step] - head.natural
            else:
                meant = as_read[letter]
            if not explicit and meant != as_written[letter]:
                parts += [bar_text[at : match.start()], signs[meant]]
                at = match.start()
            as_written[letter] = meant
            if head.tied or group.group().endswith("-"):
                still_open[head.step] = head.natural + meant
        open_ties = still_open
    return "".join(parts) + bar_text[at:]
