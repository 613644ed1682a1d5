"""Made-up tunes that several tests read: random, but always the same."""

import random

from hypothesis import strategies as st

HEADER = "X:1\nM:4/4\nL:1/16\nQ:1/4=120\nK:{key}\n"
TWO_VOICES = (
    HEADER.format(key="G")
    + "[V:1]D4G4B4d4|[V:2][G,B,]8[D,F,]8|\n[V:1](3e2d2c2B8z4|[V:2]G,16|\n"
    "[V:1]^F4f4=f4F4|[V:2]_B,16-|\n[V:1]c16|[V:2]B,8B,8|\n"
    "[V:1]e2f2g2a2b2a2g2f2|[V:2]E,4z4E,4z4|\n"
)


def tune(body, key="C", meter="4/4", unit="1/16"):
    return f"X:1\nM:{meter}\nL:{unit}\nQ:1/4=120\nK:{key}\n{body}\n"


def music(n_bars=8, seed=0):
    """A valid one-voice tune of n bars."""
    draw = random.Random(seed)
    return tune(
        "|".join("".join(draw.choice("CDEFGAB") + "4" for _ in range(4)) for _ in range(n_bars))
        + "|"
    )


def long_tune(seed, n_voices, n_bars=60, changes=True):
    """A tune with ties over bar lines, accidentals, chords and changes of key, meter and tempo."""
    draw, lines, length, tied = random.Random(seed), [], 16, [None] * n_voices
    for bar in range(n_bars):
        change = ""
        if changes and bar and bar % 17 == 0:
            key = draw.choice(["D", "F", "Am", "Eb"])
            length = draw.choice([12, 16])
            change = f"[M:{length // 4}/4][K:{key}]"
        voices = []
        for voice in range(n_voices):
            notes, left = [], length
            while left:
                n = draw.choice([n for n in (1, 2, 3, 4, 8) if n <= left])
                left -= n
                letter = tied[voice] or draw.choice("CDEFGABcdef") + draw.choice(["", "+"])
                sign = "" if tied[voice] else draw.choice(["", "", "^", "_", "="])
                goes_on = tied[voice]
                head = f"[{sign}{letter[0]}{n}g{n}]" if letter[1:] else f"{sign}{letter}{n}"
                tied[voice] = (
                    letter if not left and bar < n_bars - 1 and draw.random() < 0.6 else None
                )
                if not goes_on and not tied[voice] and head[0] in "ABC" and draw.random() < 0.3:
                    head = f"z{n}"
                notes.append(head + ("-" if tied[voice] else ""))
            tempo = f"[Q:1/4={90 + bar}]" if changes and bar % 23 == 22 and voice == 0 else ""
            voices.append(
                (f"[V:{voice + 1}]" if n_voices > 1 else "") + tempo + change + "".join(notes) + "|"
            )
        lines.append("".join(voices) + ("\n" if n_voices > 1 or bar % 4 == 3 else ""))
    return tune("".join(lines).rstrip(), key="G")


# ---------------------------------------------------------------- tunes that pass every check

C_MAJOR_HEADER = "X:1\nM:4/4\nL:1/16\nQ:1/4=120\nK:C\n"


def valid_tune(seed=0, n_bars=8, header=C_MAJOR_HEADER, voices=1):
    """A valid tune: random quarter notes of the scale, the last one the tonic."""
    draw = random.Random(seed)
    lines = []
    for bar in range(n_bars):
        parts = []
        for voice in range(voices):
            notes = [draw.choice("CDEFGABcdefg") + draw.choice(["4", "4", "2z2"]) for _ in range(4)]
            notes[-1] = "C4" if bar == n_bars - 1 else notes[-1]
            parts.append((f"[V:{voice + 1}]" if voices > 1 else "") + "".join(notes) + "|")
        lines.append("".join(parts))
    return header + "\n".join(lines) + "\n"


VALID_TUNES = [valid_tune(seed, 12, voices=1 + seed % 2) for seed in range(60)]


@st.composite
def mutated_tunes(draw):
    """TWO_VOICES with up to four characters changed for some that mean something in ABC."""
    text = TWO_VOICES
    for place, character in draw(
        st.lists(
            st.tuples(st.integers(0, 400), st.sampled_from('|[]()-^z3/\n:"V{}&\x00')), max_size=4
        )
    ):
        text = text[: place % len(text)] + character + text[place % len(text) + 1 :]
    return text
