"""Turns tunes into training text: one order of fields, no titles and words, cut at bars."""

import math

from music.abc_text import AbcError
from music.tunebook import cut_tune

TEXT_FIELDS = "ABCDFGHNORSTUWXZmrsw+"  # lines in a tune that hold no music


def training_text(raw):
    """Returns a tune as training text: X:1, M: L: Q: K:, then its music.

    >>> training_text("X:7\\nT:Air\\nQ:1/4=90\\nM:3/4\\nL:1/8\\nK:G\\nGAB|c3|\\nw:la la la\\n")
    'X:1\\nM:3/4\\nL:1/8\\nQ:1/4=90\\nK:G\\nGAB|c3|\\n'
    """
    lines = (line.split("%")[0].rstrip() for line in raw.splitlines())
    header, voices = {}, []
    for line in lines:
        if line[1:2] == ":" and line[0] in "MLQK":
            header[line[0]] = line
        elif line[:2] == "V:":
            voices.append(line)
        if line[:2] == "K:":
            break
    music = [line for line in lines if line and not (line[1:2] == ":" and line[0] in TEXT_FIELDS)]
    fields = [header[field] for field in "MLQ" if field in header]
    return "\n".join(["X:1", *fields, *voices, header.get("K", "K:C"), *music]) + "\n"


def tagged(text, style):
    """Returns a training text with its style in a line R: after X:1."""
    return text.replace("X:1\n", f"X:1\nR:{style}\n", 1) if text.startswith("X:1\n") else text


def cut(text, max_chars, min_chars):
    """Returns [(bars before the piece, piece)] of a text, no piece longer than max_chars, none
    shorter than min_chars where the bars allow it. What is no ABC is cut at lines (bars: None)."""
    if len(text) <= max_chars:
        return [(0, text)]
    try:
        pieces = cut_tune(text, max_chars, min_chars)
    except AbcError:
        pieces = [(None, text)]
    # a group of bars alone may be too long
    return [(bar, part) for bar, piece in pieces for part in cut_lines(piece, max_chars)]


def cut_lines(text, max_chars):
    """Returns even pieces of a text, cut at line ends; too long a line is cut at a blank."""
    lines = []
    for line in text.splitlines(keepends=True):
        while len(line) > max_chars - 1:
            at = line.rfind(" ", max_chars // 2, max_chars - 1) + 1 or max_chars - 1
            lines.append(line[:at] + "\n")
            line = line[at:]
        lines.append(line)
    n_pieces = math.ceil(len(text) / max_chars)
    # as few as are short enough; of hundreds up to 2 % too many
    while n_pieces <= len(lines):
        pieces = [""]
        for line in lines:
            if pieces[-1] and len(pieces[-1]) + len(line) / 2 > len(text) / n_pieces:
                pieces.append("")
            pieces[-1] += line
        if max(map(len, pieces)) <= max_chars:
            return pieces
        n_pieces += 1 + n_pieces // 50
    return lines
