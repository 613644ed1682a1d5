"""Writes the files of a split: its text, its tokens, a table of where each sequence comes from."""

import contextlib
import re
import tempfile
from collections import Counter
from pathlib import Path

from study.stages.files import atomic

import numpy as np

from common import BEGIN, END, CharTokenizer
from study.prepare.reading import NO_NOTES, text_of

COLUMNS = "index origin group piece n_pieces first_bar token_offset characters".split()


def count_notes(text):
    """Counts notes of ABC text, each member of a chord and each part of a tied note."""
    return len(re.findall("[A-Ga-g]", NO_NOTES.sub("", text)))


def write_split(data, split, sequences, spool):
    """Writes <split>.txt, sequences with an empty line between; returns (Counter of characters,
    number of notes)."""
    counts, n_notes = Counter(), 0
    with atomic(data / f"{split}.txt") as file:
        for i, sequence in enumerate(sequences):
            text = text_of(sequence, spool)
            counts.update(text)
            n_notes += count_notes(text)
            file.write(("\n" if i else "") + text)
    return counts, n_notes


def write_tokens(folder, split, sequences, spool, tokenizer):
    """Writes <split>_tokens.npy, BEGIN sequence END BEGIN ..., and <split>_sequences.tsv; returns
    the number of tokens."""
    tokens, offset = [], 0
    with atomic(folder / f"{split}_sequences.tsv") as table:
        table.write("\t".join(COLUMNS) + "\n")
        for i, sequence in enumerate(sequences):
            encoded = tokenizer.encode(text_of(sequence, spool))
            tokens.append(np.concatenate([[BEGIN], encoded, [END]]).astype(tokenizer.dtype))
            row = {**sequence, "index": i, "token_offset": offset, "characters": sequence["chars"]}
            if sequence["first_bar"] is None:
                row["first_bar"] = ""
            table.write("\t".join(str(row[column]) for column in COLUMNS) + "\n")
            offset += len(tokens[-1])
    with atomic(folder / f"{split}_tokens.npy", "wb") as file:
        np.save(file, np.concatenate(tokens))
    return offset


@contextlib.contextmanager
def character_files(data, parts, spool, tokenizer, characters):
    """Yields (folder with a file of characters per split, size of their vocabulary): the token
    files, or temporary ones if tokens are no characters. characters: of the training text."""
    if tokenizer.kind == CharTokenizer.kind:
        yield data, tokenizer.vocab_size
        return
    by_character = CharTokenizer(characters)
    with tempfile.TemporaryDirectory() as folder:
        for split, sequences in parts.items():
            write_tokens(Path(folder), split, sequences, spool, by_character)
        yield Path(folder), by_character.vocab_size
