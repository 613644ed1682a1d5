"""Any text at all as ABC: the reader answers or raises AbcError, the checker answers, and both in
linear time."""

import random
import string

import pytest

from music.abc_check import check_abc
from music.abc_text import AbcError, read_abc
from music.tunebook import cut_tune, split_tunebook
from starts import an_end

pytestmark = pytest.mark.faults
PIECES = [
    "[V:1]",
    "[V:2]",
    "|",
    "||",
    ":|",
    "|:",
    "(3",
    "(3:2:2",
    "(9",
    "[CEG]",
    "[",
    "]",
    "z4",
    "Z",
    "Z9999999",
    "-",
    "C",
    "^c'",
    "__B,",
    "=f/",
    "d3/2",
    "e//",
    "g99999999999",
    "a/0",
    ">",
    "<",
    "{ga}",
    '"Gm"',
    "!trill!",
    "[M:3/4]",
    "[M:0/0]",
    "[K:Eb]",
    "[K:none]",
    "[L:1/0]",
    "[Q:1/4=0]",
    "K:G\n",
    "M:C|\n",
    "X:1\n",
    "\n",
    "\n\n",
    " ",
    "%x\n",
    "\\\n",
    "w: la\n",
    "V:3\n",
    "\0",
    "é",
    "\u2028",
    "x",
    "y",
    "&",
    "$",
    "+",
    "~",
    "*",
    "[r:x]",
    "P:A\n",
    "I:abc\n",
    "%%MIDI x\n",
]
HEADER = "X:1\nM:4/4\nL:1/16\nQ:1/4=120\nK:G\n"


@pytest.fixture(scope="module")
def tunes(before):
    root = before("03_tokenize_split")
    return [path.read_text() for path in sorted((root / "data/abc_notation").rglob("*.abc"))]


def hostile(chance, tunes):
    """A random text, a random run of ABC pieces, or a real tune with something changed."""
    kind = chance.random()
    if kind < 0.15:
        return "".join(chance.choices(string.printable + "|[]^_=,'é\0", k=chance.randrange(400)))
    if kind < 0.45:
        return HEADER * (chance.random() < 0.8) + "".join(
            chance.choices(PIECES, k=chance.randrange(200))
        )
    text = chance.choice(tunes)
    for _ in range(chance.choice((1, 1, 2, 5, 30))):
        at, to = sorted(chance.randrange(len(text) + 1) for _ in range(2))
        change = chance.random()
        if change < 0.3:
            text = text[:at] + chance.choice(PIECES) + text[at:]
        elif change < 0.6:
            text = text[:at] + text[at + chance.choice((1, 2, 50)) :]
        elif change < 0.8:
            text = text[:at] + chr(chance.randrange(1, 0x250)) + text[at + 1 :]
        else:
            text = (
                text[:at] + text[at:to] + text[at:to] + text[to:] if to - at < 3000 else text[:to]
            )
    return text


@pytest.mark.parametrize("n", [800, pytest.param(100_000, marks=pytest.mark.slow)])
def test_no_text_surprises(n, tunes):
    chance, read = random.Random(n), 0
    for _ in range(n):
        text = hostile(chance, tunes)
        with an_end():
            try:
                read_abc(text)
                read += 1
            except AbcError as error:
                assert error.line >= 1 and error.reason
            check = check_abc(text, prompt_chars=chance.choice((0, 0, 50, len(text) + 9)))
            assert 0 <= check.level <= 5
            split_tunebook(text)
    assert read > n / 100


@pytest.mark.parametrize("n", [100, pytest.param(3000, marks=pytest.mark.slow)])
def test_cutting_any_readable_text(n, tunes):
    """Every piece of a text that reads, reads."""
    chance = random.Random(n)
    for _ in range(n):
        text = hostile(chance, tunes)
        try:
            read_abc(text)
        except AbcError:
            continue
        for _, piece in cut_tune(text, 500, 100):
            read_abc(piece)


@pytest.mark.parametrize(
    "piece",
    [
        *PIECES,
        "[[",
        "(((",
        "C-",
        "[V:1]C|[V:2]",
        "C>",
        "{",
        '"',
        "[CE",
        "(3(3",
        "[K:G][M:3/4]",
        "a,,,,",
    ],
)
def test_repetition_comes_to_an_end(piece):
    """Where time grows with the square of the length, so much text takes minutes."""
    with an_end():
        check_abc(HEADER + piece * (100_000 // len(piece)))
