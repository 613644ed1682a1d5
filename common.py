"""What the stages share: tokenizer, model classes and the choice of device. (The stage contract is in stage.py,
ABC text in abc_text.py, the training loop in training.py; their public names can be had from here too.)"""

import hashlib
import io
import os
import pickle
from pathlib import Path

import numpy as np

from stage import (Stage, atomic, fail, load_manifest, progress, read_json, run, stage_parser,  # noqa: F401
                   write_bytes, write_json, write_text)

# ---------------------------------------------------------------- tokenizer
# Text <-> token numbers, one token a character, with tokens for the two ends of a tune.

BEGIN, END, UNKNOWN = 0, 1, 2  # first tokens of every vocabulary
N_SPECIAL = 3
TOKENIZER_LIMIT_BYTES = 4 << 20  # every character of Unicode would fit


class _BuiltinsOnly(pickle.Unpickler):
    """Reads pickles of numbers, text, lists and dicts; refuses every name that would have to be imported."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


class Tokenizer:
    """Character-level vocabulary.

    Token 0 begins a tune, 1 ends it, 2 stands for a character that the training text does not have; character
    number i of the sorted `characters` is token 3 + i.

    >>> t = Tokenizer("ABC|")
    >>> t.encode("AB|?").tolist(), t.decode([0, 3, 4, 6, 1])
    ([3, 4, 6, 2], 'AB|')
    """

    def __init__(self, characters):
        self.characters = "".join(sorted(set(characters)))
        self.vocab_size = N_SPECIAL + len(self.characters)
        self.dtype = np.uint8 if self.vocab_size <= 256 else np.uint16
        self._codes = np.array([ord(c) for c in self.characters], dtype=np.uint32)

    def encode(self, text):
        """Token numbers of a text, without begin and end; shape (len(text),), the smallest integer type."""
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        if not len(self._codes):
            return np.full(len(points), UNKNOWN, self.dtype)
        place = np.minimum(np.searchsorted(self._codes, points), len(self._codes) - 1)
        return np.where(self._codes[place] == points, place + N_SPECIAL, UNKNOWN).astype(self.dtype)

    def decode(self, tokens):
        """Text of token numbers; begin and end give nothing, unknown gives U+FFFD."""
        table = ["", "", "\ufffd", *self.characters]
        return "".join(table[token] for token in tokens)

    @property
    def digest(self):
        """SHA-256 that identifies the vocabulary in every file made with it."""
        return hashlib.sha256(f"char/{N_SPECIAL}/{self.characters}".encode()).hexdigest()

    def save(self, path):
        """Writes tokenizer.pkl: one dict of built-in types."""
        write_bytes(path, pickle.dumps({
            "format": 1, "kind": "char", "special": {"begin": BEGIN, "end": END, "unknown": UNKNOWN},
            "characters": self.characters, "vocab_size": self.vocab_size, "digest": self.digest}, protocol=4))

    @classmethod
    def load(cls, path):
        """Reads tokenizer.pkl without executing anything; ValueError says what is wrong with it."""
        path = Path(path)
        try:
            if path.stat().st_size > TOKENIZER_LIMIT_BYTES:
                raise ValueError("it is too large for a vocabulary")
            saved = _BuiltinsOnly(io.BytesIO(path.read_bytes())).load()
            if not isinstance(saved, dict) or not isinstance(saved.get("characters"), str):
                raise ValueError("it holds no vocabulary")
            tokenizer = cls(saved["characters"])
            if saved.get("digest") != tokenizer.digest:
                raise ValueError("its digest does not fit its characters")
        except (pickle.UnpicklingError, ValueError, EOFError, AttributeError, IndexError, KeyError,
                TypeError, MemoryError, OverflowError, OSError) as error:
            raise ValueError(f"{path.name} is not a tokenizer of this project: {error}") from None
        return tokenizer
