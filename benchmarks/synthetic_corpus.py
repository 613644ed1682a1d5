"""A large corpus of ABC for measuring speed: tunes put together from lines of real multi-voice
tunes.

Run:    python -m benchmarks.synthetic_corpus ABC_DIR OUT_DIR CHARACTERS
Every tune takes the header of a real tune, about as many lines, drawn from all tunes with as many
voices in 4/4, and moves all its note letters up by the same random step, so that texts repeat about
as rarely as music does.
"""

import argparse
import random
import re
from pathlib import Path

LETTERS = "ABCDEFG"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="ABC_DIR")
    parser.add_argument("target", type=Path, metavar="OUT_DIR")
    parser.add_argument("wanted", type=int, metavar="CHARACTERS")
    args = parser.parse_args()
    draw = random.Random(1)
    tunes, lines = [], {}
    for path in sorted(args.source.rglob("*.abc")):
        header, *body = re.split(r"(?<=\n)(?=\[V:)", path.read_text(), maxsplit=1)
        if not body:  # of one voice
            continue
        body = body[0]
        voices = len(set(re.findall(r"\[V:(\d+)\]", body)))
        if "M:4/4\n" in header and "[M:" not in body and "[K:" not in body:
            body = body.splitlines()
            tunes.append((header, voices, len(body)))
            lines.setdefault(voices, []).extend(body)
    written = number = 0
    while written < args.wanted:
        header, voices, n_lines = draw.choice(tunes)
        step = draw.randrange(7)
        table = str.maketrans(
            LETTERS + LETTERS.lower(),
            LETTERS[step:] + LETTERS[:step] + (LETTERS[step:] + LETTERS[:step]).lower(),
        )
        body = (
            "\n".join(draw.choice(lines[voices]) for _ in range(n_lines))
            .replace("V:", "\0")
            .translate(table)
        )
        text = header + body.replace("\0", "V:") + "\n"
        path = args.target / f"artist {number % 997}" / f"piece {number:06}.abc"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        written, number = written + len(text), number + 1
    print(f"tunes: {number:,}\ncharacters: {written:,}")


if __name__ == "__main__":
    main()
