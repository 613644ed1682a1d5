"""Held-out tunes, and the prompts that are made from them."""

import random

from study.stages.files import table_rows

from common import UNKNOWN
from music.excerpts import first_bars
from music.tunebook import body_start, split_tunebook

PROMPT_BARS = 4  # of every voice: they say key, meter and texture, but not the tune


def held_out(root, split, n, seed):
    """Returns first pieces of up to n tunes of a split, in seeded order: [{"origin", "text"}]."""
    tunes = split_tunebook((root / f"data/{split}.txt").read_text(encoding="utf-8"))
    rows = sequence_rows(root, split)
    if len(rows) != len(tunes):  # text that is not ABC has no tunes to prompt with
        return []
    firsts = [i for i, row in enumerate(rows) if int(row["piece"]) == 1]
    random.Random(seed).shuffle(firsts)
    return [{"origin": rows[i]["origin"], "text": tunes[i]} for i in firsts[:n]]


def sequence_rows(root, split):
    """Returns the table of stage 03 on the sequences of a split."""
    return list(table_rows(root / f"data/{split}_sequences.tsv"))


def prompts_from(tunes, kind, tokenizer):
    """Returns [(prompt, origin)] of the tunes that have one of this kind, "header" or "bars", in
    the vocabulary."""
    prompts = []
    for tune in tunes:
        text = tune["text"]
        prompt = text[: body_start(text)] if kind == "header" else first_bars(text, PROMPT_BARS)
        if prompt and UNKNOWN not in tokenizer.encode(prompt):
            prompts.append((prompt, tune["origin"]))
    return prompts
