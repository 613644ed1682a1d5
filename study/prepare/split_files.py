"""The files of a split: its text, its tokens, and a table that says where each sequence comes from.

The sequences' text is read from the *spool*, the temporary file that `reading.read_all` filled, by
place and bytes.
"""

import contextlib
import os
import re
import tempfile
from collections import Counter
from pathlib import Path

from study.stages.files import atomic

import numpy as np

from common import BEGIN, END, CharTokenizer

COLUMNS = (
    "index",
    "origin",
    "group",
    "piece",
    "n_pieces",
    "first_bar",
    "token_offset",
    "characters",
)
# letters in them are words
NO_NOTES = re.compile(r'(?m)^[A-Za-z]:.*$|"[^"]*"|![^!]*!|\[[A-Za-z]:[^\]]*\]')


def count_notes(text):
    """Notes as they are written in ABC text, each member of a chord and each part of a tied note; 0
    to text's letters in what is no ABC.

    >>> count_notes("X:1\\nK:C\\n[V:1]C2[EG]2-|[EG]2z2|")
    5
    """
    return len(re.findall("[A-Ga-g]", NO_NOTES.sub("", text)))


def write_split(data, split, sequences, spool):
    """Writes <split>.txt, a tunebook with an empty line between sequences; returns how often each
    character occurs in them, and how many notes they have."""
    counts, n_notes = Counter(), 0
    with atomic(data / f"{split}.txt", "wb") as file:
        for i, sequence in enumerate(sequences):
            encoded = os.pread(spool.fileno(), sequence["bytes"], sequence["at"])
            text = encoded.decode()
            counts.update(text)
            n_notes += count_notes(text)
            file.write((b"\n" if i else b"") + encoded)
    return counts, n_notes


def write_tokens(folder, split, sequences, spool, tokenizer):
    """Writes <split>_tokens.npy, BEGIN sequence END BEGIN ..., and <split>_sequences.tsv; returns
    the number of tokens.

    The array is written sequence by sequence, so memory holds one of them. How many tokens there
    are is known at the
    end: numpy pads the head of its files such that the length of an array can be written over.
    """
    offset = 0
    with atomic(folder / f"{split}_tokens.npy", "wb") as file, atomic(
        folder / f"{split}_sequences.tsv"
    ) as table:
        head_bytes = _write_head(file, tokenizer.dtype, 0)
        table.write("\t".join(COLUMNS) + "\n")
        for i, sequence in enumerate(sequences):
            text = os.pread(spool.fileno(), sequence["bytes"], sequence["at"]).decode()
            tokens = np.concatenate([[BEGIN], tokenizer.encode(text), [END]]).astype(
                tokenizer.dtype
            )
            file.write(tokens.tobytes())
            first = "" if sequence["first_bar"] is None else sequence["first_bar"]
            row = (
                i,
                sequence["origin"],
                sequence["group"],
                sequence["piece"],
                sequence["n_pieces"],
                first,
                offset,
                sequence["chars"],
            )
            table.write("\t".join(map(str, row)) + "\n")
            offset += len(tokens)
        file.seek(0)
        assert (
            _write_head(file, tokenizer.dtype, offset) == head_bytes
        ), "the head of a numpy file has no fixed size"
    return offset


def _write_head(file, dtype, n):
    """Writes the head of a numpy file of n numbers; returns its bytes."""
    np.lib.format.write_array_header_1_0(
        file,
        {
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
            "fortran_order": False,
            "shape": (n,),
        },
    )
    return file.tell()


@contextlib.contextmanager
def character_files(data, parts, spool, tokenizer, characters):
    """(folder with a file of characters per split, size of their vocabulary): what baselines and
    overlap count on.

    With a tokenizer of characters these are the token files themselves; else they are made for as
    long as they are needed. characters: those of the training text.
    """
    if tokenizer.kind == CharTokenizer.kind:
        yield data, tokenizer.vocab_size
        return
    by_character = CharTokenizer(characters)
    with tempfile.TemporaryDirectory() as folder:
        for split, sequences in parts.items():
            write_tokens(Path(folder), split, sequences, spool, by_character)
        yield Path(folder), by_character.vocab_size
