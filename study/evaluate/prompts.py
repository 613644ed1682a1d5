"""Held-out tunes, and the prompts that are made from them."""

import csv
import random

from common import UNKNOWN
from music.excerpts import first_bars, header_of
from music.tunebook import split_tunebook

# of every voice: enough to say key, meter and texture, and too little to say the tune
PROMPT_BARS = 4


def held_out(root, split, n, seed):
    """Up to n tunes of a split in a seeded random order: [{"origin", "text"}], one piece per
    tune."""
    tunes = split_tunebook(text_of(root / f"data/{split}.txt"))
    rows = sequence_rows(root, split)
    if len(rows) != len(tunes):  # text that is not ABC has no tunes to prompt with
        return []
    firsts = [i for i, row in enumerate(rows) if int(row["piece"]) == 1]
    random.Random(seed).shuffle(firsts)
    return [{"origin": rows[i]["origin"], "text": tunes[i]} for i in firsts[:n]]


def sequence_rows(root, split):
    """What stage 03 says of every sequence of a split: rows of its table as dicts of text."""
    return list(
        csv.DictReader(
            text_of(root / f"data/{split}_sequences.tsv").splitlines(),
            delimiter="\t",
            quoting=csv.QUOTE_NONE,
        )
    )


def text_of(path):
    return path.read_text(encoding="utf-8") if path.exists() else ""


def prompts_from(tunes, kind, tokenizer):
    """[(prompt, origin)] of one kind, "header" or "bars", from held-out tunes that have it and
    whose prompt can be written in the vocabulary."""
    return [
        (prompt, origin)
        for prompt, origin in _beginnings(tunes, kind)
        if UNKNOWN not in tokenizer.encode(prompt)
    ]


def prompts_left_out(tunes, tokenizer):
    """{kind: how many prompts have a character that the training text, and so the vocabulary,
    lacks}."""
    return {
        kind: len(_beginnings(tunes, kind)) - len(prompts_from(tunes, kind, tokenizer))
        for kind in ("header", "bars")
    }


def _beginnings(tunes, kind):
    prompts = [
        (
            header_of(tune["text"]) if kind == "header" else first_bars(tune["text"], PROMPT_BARS),
            tune["origin"],
        )
        for tune in tunes
    ]
    return [(prompt, origin) for prompt, origin in prompts if prompt]
