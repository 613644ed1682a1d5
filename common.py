"""What the stages share: tokenizers, model classes and the choice of device.

Shapes: B texts of a batch, T tokens of each, V tokens of the vocabulary, d the width of a model.
"""

import hashlib
import io
import json
import math
import os
import pickle
import re
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from music.events import nominal_chars, parts_of, texts_of

# ---------------------------------------------------------------- tokenizer
# Text <-> token numbers, with tokens for the two ends of a tune.

BEGIN, END, UNKNOWN = 0, 1, 2  # first tokens of every vocabulary
N_SPECIAL = 3
SPECIAL_CHARS = 0, 1, 1  # a tune begins for free, but that it ends here is a prediction
TOKENIZER_LIMIT_BYTES = 4 << 20  # every character of Unicode would fit
RARE = 5  # occurrences in the training text: no model could learn a token that has fewer
_LENGTH = r"\d*(?:/+\d*)?"
# what may have a token of its own in the note tokenizer
_UNIT = re.compile(
    r"^[A-Za-z]:[^|\n]*\n"  # a header field with its line end
    r"|\[[A-Za-z]:[^][|\n]*\]"  # a voice tag, or another field inside a line
    # a note or chord member: accidental, octave, length
    rf"|(?:\^\^?|__?|=)?[A-Ga-g](?:,+|'+)?{_LENGTH}"
    # a rest; a chord's end with its length; a tuplet
    rf"|[zxZX]{_LENGTH}|\]{_LENGTH}|\(\d" r"|[\s\S]",
    re.ASCII | re.MULTILINE,
)


class CharTokenizer:
    """Character-level vocabulary, learned from a training text.

    Tokens: begin and end of a tune, an unknown character, the sorted `characters`, and the *pieces*
    of several characters that subclasses `learn`. Of each (V,): `texts`, and `token_chars`, the
    characters that it stands for (losses are per character). text: what to learn from; or the
    characters, with the pieces that were saved.

    >>> t = CharTokenizer("ABC|")
    >>> t.encode("AB|?").tolist(), t.decode([0, 3, 4, 6, 1]), t.token_chars.tolist()
    ([3, 4, 6, 2], 'AB|', [0, 1, 1, 1, 1, 1, 1])
    """

    kind = "char"
    chars_of = staticmethod(len)  # of the text that a token stands for
    numbers = None  # {text of a token: its number}, once it has learned

    def __init__(self, text, pieces=None):
        self.characters = "".join(sorted(set(text)))
        self.pieces = self.learn(text) if pieces is None else pieces
        self.texts = ["", "", "\ufffd", *self.characters, *self.pieces]
        own = self.texts[N_SPECIAL:]
        self.numbers = {text: number for number, text in enumerate(own, start=N_SPECIAL)}
        self.token_chars = np.array([*SPECIAL_CHARS, *map(self.chars_of, own)])
        self.vocab_size = len(self.texts)
        self.dtype = np.min_scalar_type(self.vocab_size - 1)  # the smallest that holds the numbers
        points = [ord(character) for character in self.characters]
        self._of_point = np.full(max(points, default=-1) + 2, UNKNOWN, self.dtype)
        self._of_point[points] = range(N_SPECIAL, N_SPECIAL + len(points))

    def learn(self, text):
        """Returns the pieces of a text."""
        return []

    def encode(self, text):
        """Returns the token numbers of a text (T,)."""
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        return self._of_point[np.minimum(points, len(self._of_point) - 1)]

    def texts_of(self, tokens):
        """Returns the text of each token; begin and end give "", unknown gives U+FFFD."""
        return [self.texts[token] for token in tokens]

    def decode(self, tokens):
        return "".join(self.texts_of(tokens))

    @property
    def digest(self):
        """SHA-256 that identifies the vocabulary in every file made with it."""
        digest = hashlib.sha256(f"{self.kind}/{N_SPECIAL}/{self.characters}".encode()).hexdigest()
        if self.pieces:
            digest = hashlib.sha256(f"{digest}/{json.dumps(self.pieces)}".encode()).hexdigest()
        return digest

    def dumps(self):
        """Returns the bytes of tokenizer.pkl, for `load_tokenizer`."""
        saved = {
            "format": 1,
            "kind": self.kind,
            "special": {"begin": BEGIN, "end": END, "unknown": UNKNOWN},
            "characters": self.characters,
            "vocab_size": self.vocab_size,
            "digest": self.digest,
        }
        if self.pieces:
            saved["pieces"] = self.pieces
        return pickle.dumps(saved, protocol=4)


class NoteTokenizer(CharTokenizer):
    """Note-level vocabulary: one token a note or chord member with its octave and length, a rest, a
    field, a voice tag (`_UNIT`). What is no piece is written in characters. A text has
    other spellings, too: a model's loss is an upper bound of what it needs.

    >>> t = NoteTokenizer("K:C\\nG,2[E2c2]3|\\n" * RARE)
    >>> [t.decode([token]) for token in t.encode("K:C\\nG,2[E2c3]3|")]
    ['K:C\\n', 'G,2', '[', 'E2', 'c', '3', ']3', '|']
    """

    kind = "note"

    def units(self, text):
        """Returns the parts of a text that may be pieces."""
        return _UNIT.findall(text)

    def learn(self, text):
        """Returns the units that occur RARE times at least, the most frequent first."""
        counts = Counter(unit for unit in self.units(text) if len(unit) > 1)
        ranked = sorted(counts, key=lambda unit: (-counts[unit], unit))
        return [unit for unit in ranked if counts[unit] >= RARE]

    def encode(self, text):
        tokens = []
        for unit in self.units(text):
            parts = [unit] if unit in self.numbers else unit
            tokens += [self.numbers.get(part, UNKNOWN) for part in parts]
        return np.array(tokens, self.dtype)


class EventTokenizer(NoteTokenizer):
    """Event vocabulary, REMI-like (`music/events.py`): position, pitch and duration of every note;
    all else as it stands. A stretch of music that its events do not give back is written in
    characters. What a token stands for depends on its bar: `token_chars` is nominal, `texts_of`
    exact.

    >>> t = EventTokenizer("K:G\\nG4F2z2|\\n" * RARE)
    >>> [t.texts[token] for token in t.encode("K:G\\nG4F2z2|")]
    ['K:G\\n', 'Pos 0', 'Pitch 67', 'Dur 1', 'Pos 1', 'Pitch 66', 'Dur 1/2', 'Pos 2', '|']
    """

    kind = "event"
    chars_of = staticmethod(nominal_chars)

    def units(self, text):
        """Yields the events of each stretch of music, if all of them are known, else its units."""
        for events, part in parts_of(text):
            is_known = self.numbers is None or all(name in self.numbers for name in events)
            yield from events if events and is_known else _UNIT.findall(part)

    def texts_of(self, tokens):
        """Returns the text of each token: a bar's is divided among its events."""
        return texts_of([self.texts[token] for token in tokens])


TOKENIZERS = {kind.kind: kind for kind in (CharTokenizer, NoteTokenizer, EventTokenizer)}


def load_tokenizer(path):
    """Returns the tokenizer in a file, nothing of which is executed; ValueError if it has none."""
    path = Path(path)
    try:
        if path.stat().st_size > TOKENIZER_LIMIT_BYTES:
            raise ValueError("it is too large for a vocabulary")
        saved = _BuiltinsOnly(io.BytesIO(path.read_bytes())).load()
        kind, characters, pieces = saved.get("kind"), saved["characters"], saved.get("pieces", [])
        if kind not in TOKENIZERS:
            raise ValueError(f"it is of the kind {kind!r}; known are {', '.join(TOKENIZERS)}")
        if not all(isinstance(text, str) and text for text in (*characters, *pieces)):
            raise ValueError("it holds no vocabulary")
        tokenizer = TOKENIZERS[kind](characters, pieces)
        if saved.get("digest") != tokenizer.digest:
            raise ValueError("its digest does not fit its vocabulary")
    except Exception as error:  # hostile bytes raise errors of a dozen kinds
        raise ValueError(f"{path.name} is not a tokenizer of this project: {error}") from None
    return tokenizer


class _BuiltinsOnly(pickle.Unpickler):
    """Reads pickles of numbers, text, lists and dicts; refuses what would have to be imported."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


# ---------------------------------------------------------------- models
# None has trained biases; all start with an output layer of zeros: the first loss is exactly ln V.

IGNORE = -1  # target that counts for nothing: what follows the end of a tune is no music
TOKEN_STD, POSITION_STD = 0.5, 0.02  # spreads of new embeddings; benchmarks/training.md
KEY_BLOCK = 64  # rows of unequal lengths attend to a multiple of it: masked keys change no bit
ROTARY_BASE = 500.0  # longest wavelength over 2 pi, tokens (10,000 was 0.01-0.03 nats worse)
SHIFTS = 0, 1, 2, 3  # tokens before: a quarter of the channels from each; benchmarks/training.md
FORGET_BIAS = 1.0  # constant bias of the LSTM's forget gates (Jozefowicz et al. 2015)
CHUNK = 64  # tokens that a linear memory takes at a time: 32 is as fast; benchmarks/families.md
MEMORY = 8, 512  # tokens after which the first and last head of a new SSM keep 1 / e
NORM_EPS = 1e-5  # torch's own is 0.008 in bf16: training and evaluation would differ


class Model(nn.Module):
    """What the families share: loss, cache and accounts.

    config: "family", "vocab_size", "block_size", "n_layer", "dropout", and what a family adds. A
    family is a subclass with a `head` and

    features(idx): what the head reads, (B, T, d), of token numbers (B, T);
    step_rows(texts, cache=None): logits (B, V) after each of B lists of two tokens or more, all but
        the newest read by the cache, and the cache, changed in place. No row depends on others.

    A cache is {name: tensors with the batch in dimension 1}: "now" decides the next logits,
    "marked" is the same at the time of `mark`. rows: a 1-D tensor of indices into the batch.
    """

    family = None  # its name in study/families.py
    FLAGS = ()  # entries of the configuration: on in the tuned recipe, off in the classic one
    DROPOUT = {"tuned": 0.0, "classic": 0.1}  # by recipe
    # learning rate of all but hidden matrices, over theirs; tuned recipe; benchmarks/training.md
    EMBEDDING_RATE = {"muon": 3.0, "adamw": 1.0}
    MATRICES = {}  # hidden ones: part of a parameter's name -> matrices stacked in it
    DRAWN = ()  # those that read what a block is given: `draw_weights`

    def __init__(self, config):
        super().__init__()
        self.config = config

    def forward(self, idx, targets=None):
        """idx (B, T), T <= block_size; targets (B, T): the next tokens, or IGNORE -> logits (B, T,
        V), mean cross-entropy in nats of the targets that count (0 if none does)."""
        logits = self.head(self.features(idx))
        if targets is None:
            return logits, None
        flat = logits.flatten(0, 1).float(), targets.flatten().long()
        total = F.cross_entropy(*flat, ignore_index=IGNORE, reduction="sum")
        return logits, total / (targets != IGNORE).sum().clamp(min=1)

    def draw_weights(self):
        """Draws tables and DRAWN; other matrices are zeros: each block starts as the identity."""
        for name, weight in self.named_parameters():
            if "embedding" in name:
                nn.init.normal_(weight, std=POSITION_STD if "position" in name else TOKEN_STD)
            elif name.split(".")[-2] in self.DRAWN:
                nn.init.normal_(weight, std=weight.size(1) ** -0.5)
            elif weight.ndim == 2:
                nn.init.zeros_(weight)

    @staticmethod
    def mark(cache, rows):
        """Remembers where these rows are."""
        for now, marked in zip(cache["now"], cache["marked"]):
            marked[:, rows] = now[:, rows]

    @staticmethod
    def rewind(cache, rows):
        """Puts these rows back where they were marked."""
        for now, marked in zip(cache["now"], cache["marked"]):
            now[:, rows] = marked[:, rows]

    @staticmethod
    def take_rows(cache, rows):
        """The cache of these rows alone."""
        return {
            name: tuple(part.index_select(1, rows) for part in parts)
            for name, parts in cache.items()
        }

    def parameter_groups(self):
        """Returns [(hidden parameter, matrices stacked in it)], and the other trained parameters:
        Muon's orthogonal updates are wrong for tables, states and gains."""
        matrices, rest = [], []
        for name, parameter in self.named_parameters():
            n_stacked = sum(n for part, n in self.MATRICES.items() if part in name)
            if "qkv" in name:  # a head's map is a matrix of its own
                n_stacked *= self.config["n_head"]
            if parameter.requires_grad and n_stacked:
                matrices.append((parameter, n_stacked))
            elif parameter.requires_grad:
                rest.append(parameter)
        return matrices, rest

    def count_parameters(self):
        """Trained parameters: "total"; "non_embedding": without token and position tables;
        "matrices": what of these is multiplied with every token."""
        counts = {"total": 0, "non_embedding": 0, "matrices": 0}
        for name, parameter in self.named_parameters():
            n, is_table = parameter.numel() * parameter.requires_grad, "embedding" in name
            counts["total"] += n
            counts["non_embedding"] += 0 if is_table else n
            counts["matrices"] += 0 if is_table or parameter.ndim < 2 else n
        return counts

    def flops_per_token(self):
        """Floating-point operations, forward and backward, per token of a full window: 6 for each
        multiplied weight; subclasses add what is multiplied with no weight."""
        return 6 * self.count_parameters()["matrices"]


def _shifted(h, before=None):
    """Token shift: a quarter of the channels stays, the others come from one, two and three tokens
    before (Peng 2021, RWKV, has half from one), so that attention finds "what came after these
    characters" in one layer instead of two. h (B, T, d), and what comes before it (B, max(SHIFTS),
    d; None: zeros) -> h shifted, and what comes before the next tokens."""
    far, T = max(SHIFTS), h.size(1)
    if before is None:
        before = h.new_zeros(h.size(0), far, h.size(2))
    line = torch.cat((before.to(h.dtype), h), dim=1)
    quarters = zip(SHIFTS, line.chunk(len(SHIFTS), dim=-1))
    shifted = [part[:, far - shift : far - shift + T] for shift, part in quarters]
    return torch.cat(shifted, dim=-1), line[:, -far:]


class _Block(nn.Module):
    """Pre-norm attention and GELU feed-forward (Vaswani et al. 2017; pre-norm as in GPT-2)."""

    def __init__(self, config):
        super().__init__()
        d, self.n_head, self.dropout = config["d_model"], config["n_head"], config["dropout"]
        self.rotary, self.qk_norm = config["rotary"], config["qk_norm"]
        self.token_shift = config["token_shift"]
        self.norm_attention = nn.RMSNorm(d)
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.attention_out = nn.Linear(d, d, bias=False)
        self.norm_mlp = nn.RMSNorm(d)
        self.mlp_in = nn.Linear(d, config["d_ff"], bias=False)
        self.mlp_out = nn.Linear(config["d_ff"], d, bias=False)

    def forward(self, x, cos, sin, store=None, last=None, past=None):
        """x (B, T, d) -> (B, T, d); cos, sin (T, head size): the rotation of these positions.

        For generation, written in place: store (B, 2, n_head, room, head size), keys and values;
        last (B, 2, max(SHIFTS), d), what is shifted, of the tokens just before. past: None for a
        window from its start, or how many keys each row has (B,), then T = 1.
        """
        B, T, d = x.shape
        h = self._shift(self.norm_attention(x), last, 0)
        q, k, v = self.qkv(h).view(B, T, 3, self.n_head, d // self.n_head).unbind(2)
        # keeps attention logits bounded at the high rates Muon likes (Henry et al. 2020)
        if self.qk_norm:
            q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        if self.rotary:
            q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        # CUDA's autocast makes rms_norm fp32
        q, k, v = (part.to(v.dtype).transpose(1, 2) for part in (q, k, v))
        seen, dropout = None, self.dropout * self.training
        if store is not None:
            k, v, seen = _with_past(store, k, v, past)
        if store is None and v.dtype != torch.float32 and x.device.type == "cpu" and T > 1:
            y = causal_attention(q, k, v, dropout)
        else:
            y = F.scaled_dot_product_attention(
                q, k, v, attn_mask=seen, is_causal=past is None and T > 1, dropout_p=dropout
            )
        y = self.attention_out(y.transpose(1, 2).reshape(B, T, d))
        x = x + F.dropout(y, self.dropout, self.training)
        y = self.mlp_out(F.gelu(self.mlp_in(self._shift(self.norm_mlp(x), last, 1))))
        return x + F.dropout(y, self.dropout, self.training)

    def _shift(self, h, last, which):
        """`_shifted`, if that is on; keeps in `last` what comes before the next tokens."""
        if not self.token_shift:
            return h
        if last is None:
            return _shifted(h)[0]
        h, last[:, which] = _shifted(h, last[:, which])
        return h


def _with_past(store, k, v, past):
    """Stores new keys and values (B, n_head, T, head size); returns all, and which may be seen."""
    if past is None:
        store[:, 0, :, : k.size(2)], store[:, 1, :, : k.size(2)] = k, v
        return k, v, None
    rows = torch.arange(len(past), device=past.device)
    store[rows, :, :, past] = torch.stack((k[:, :, 0], v[:, :, 0]), dim=1)
    n = KEY_BLOCK * (int(past.max()) // KEY_BLOCK + 1)
    seen = (torch.arange(n, device=past.device) <= past[:, None])[:, None, None]
    return store[:, 0, :, :n], store[:, 1, :, :n], seen


def causal_attention(q, k, v, dropout=0.0):
    """Attention of (B, n_head, T, head size), by halves of the queries: the earlier needs half the
    keys. In bf16 on CPUs it takes half the time of the fused kernel (benchmarks/training.md)."""
    T, parts = q.size(2), []
    q = q * q.size(-1) ** -0.5
    future = torch.full((T, T), -torch.inf, dtype=q.dtype, device=q.device).triu(1)
    for start, end in ((0, (T + 1) // 2), ((T + 1) // 2, T)):
        weights = (q[:, :, start:end] @ k[:, :, :end].mT + future[start:end, :end]).softmax(-1)
        parts.append(F.dropout(weights, dropout, dropout > 0) @ v[:, :, :end])
    return torch.cat(parts, dim=2)


def _rotate(x, cos, sin):
    """Turns pairs (i, i + half) of x (B, T, n_head, size of a head), as Su et al. 2021."""
    a, b = x.chunk(2, dim=-1)
    return x * cos.unsqueeze(-2) + torch.cat((-b, a), dim=-1) * sin.unsqueeze(-2)


class Transformer(Model):
    """Decoder-only Transformer: learned positions, untied output head. config: "n_head", "d_model",
    "d_ff", FLAGS; "learned_positions" (not there: True) may be False beside rotary ones."""

    family = "transformer"
    FLAGS = "rotary", "qk_norm", "token_shift"
    MATRICES = {"qkv": 3, "attention_out": 1, "mlp_in": 1, "mlp_out": 1}
    DRAWN = "qkv", "mlp_in"

    def __init__(self, config):
        super().__init__(config)
        d, V, T = config["d_model"], config["vocab_size"], config["block_size"]
        self.token_embedding = nn.Embedding(V, d)
        has_table = config.get("learned_positions", True)
        self.position_embedding = nn.Embedding(T, d) if has_table else None
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config["n_layer"]))
        self.norm = nn.RMSNorm(d)
        self.head = nn.Linear(d, V, bias=False)
        half = d // config["n_head"] // 2
        angle = torch.arange(T)[:, None] * ROTARY_BASE ** (-torch.arange(half) / half)[None]
        self.register_buffer("cos", angle.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sin", angle.sin().repeat(1, 2), persistent=False)
        self.draw_weights()

    def features(self, idx, store=None, last=None, past=None):
        """What the head reads, (B, T, d). store, last: those of all blocks; past (B,): idx has one
        token a row, at these positions."""
        here = slice(idx.size(1)) if past is None else past[:, None]
        x = self.token_embedding(idx)
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[here]
        x = F.dropout(x, self.config["dropout"], self.training)
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        cos, sin = self.cos[here].to(dtype), self.sin[here].to(dtype)
        for layer, block in enumerate(self.blocks):
            kept = () if store is None else (store[layer], last[layer], past)
            x = block(x, cos, sin, *kept)
        return self.norm(x)

    def step_rows(self, texts, cache=None):
        """See `Model`. Positions are learned, so a window cannot slide one by one: once the context
        is full its newest half is read again from position 0. A row whose window is not the one in
        the cache is read again, alone."""
        c, T, half = self.config, self.config["block_size"], self.config["block_size"] // 2
        device, B = self.head.weight.device, len(texts)
        n = torch.tensor([len(text) for text in texts], device=device)
        # where in its text a row's window begins: half * ceil((n - T) / half)
        anchor = ((n - T + half - 1) // half * half).clamp(min=0)
        if cache is None:
            room = KEY_BLOCK * math.ceil(T / KEY_BLOCK)
            keys = c["n_layer"], B, 2, c["n_head"], room, c["d_model"] // c["n_head"]
            shifted = c["n_layer"], B, 2, max(SHIFTS), c["d_model"]
            now = torch.full_like(n, -1)[None], torch.zeros(shifted, device=device)
            # what is behind a mark in the store is written over
            cache = {"now": now, "store": (torch.zeros(keys, device=device),)}
        (anchors, last), (store,), read = cache["now"], cache["store"], {}
        for row in (anchor != anchors[0]).nonzero().flatten().tolist():
            window = tuple(texts[row][anchor[row] : -1])
            same = read.setdefault(window, row)  # many rows begin alike
            if same == row:
                last[:, row] = 0
                idx = torch.tensor([window], device=device)
                self.features(idx, store[:, row : row + 1], last[:, row : row + 1])
            else:
                store[:, row], last[:, row] = store[:, same], last[:, same]
        anchors[0] = anchor
        if "marked" not in cache:
            cache["marked"] = anchors.clone(), last.clone()
        newest = torch.tensor([text[-1:] for text in texts], device=device)
        x = self.features(newest, store, last, n - 1 - anchor)
        return self.head(x[:, -1]), cache

    @staticmethod
    def rewind(cache, rows):
        """Puts these rows back; those whose window has moved are read again."""
        anchors, marked = cache["now"][0], cache["marked"][0]
        moved = rows[anchors[0, rows] != marked[0, rows]]
        Model.rewind(cache, rows)
        anchors[:, moved] = -1

    def flops_per_token(self):
        """Beside the weights 4 d for each query-key pair, (T + 1) / 2 per token and layer; the
        backward pass costs twice the forward pass."""
        c = self.config
        attention = c["n_layer"] * 4 * c["d_model"] * (c["block_size"] + 1) / 2
        return super().flops_per_token() + 3 * attention


class Recurrent(Model):
    """A family that carries a state from token to token. Its `_run(idx, state=None)` returns what
    the head reads, (B, T, d), and the state after it: tensors with the batch in dimension 1."""

    def features(self, idx):
        return self._run(idx)[0]

    def step_rows(self, texts, cache=None):
        device = self.head.weight.device
        if cache is None:  # each row alone, so that none depends on the lengths of the others
            read = [tuple(text[:-1]) for text in texts]
            states = {text: self._run(torch.tensor([text], device=device))[1] for text in set(read)}
            parts = zip(*(states[text] for text in read))
            state = tuple(torch.cat(part, dim=1) for part in parts)
            cache = {"now": state, "marked": tuple(part.clone() for part in state)}
        newest = torch.tensor([text[-1:] for text in texts], device=device)
        y, cache["now"] = self._run(newest, cache["now"])
        return self.head(y[:, -1]), cache


class LSTM(Recurrent):
    """Embedding, a stack of LSTM layers, linear head. The gates' biases are constants. config:
    "d_embedding", "d_hidden"."""

    family = "lstm"
    DROPOUT = {"tuned": 0.0, "classic": 0.2}
    EMBEDDING_RATE = {"muon": 3.0, "adamw": 8.0}
    MATRICES = {"weight_ih": 4, "weight_hh": 4}  # one for each gate

    def __init__(self, config):
        super().__init__(config)
        E, H, V = config["d_embedding"], config["d_hidden"], config["vocab_size"]
        between = config["dropout"] if config["n_layer"] > 1 else 0.0
        self.embedding = nn.Embedding(V, E)
        self.lstm = nn.LSTM(E, H, config["n_layer"], batch_first=True, dropout=between)
        self.head = nn.Linear(H, V, bias=False)
        self.draw_weights()
        for name, weight in self.lstm.named_parameters():
            if name.startswith("bias"):
                weight.requires_grad_(False).zero_()
            if name.startswith("bias_ih"):
                weight[H : 2 * H] = FORGET_BIAS
            for gate in weight.data.chunk(4):
                if name.startswith("weight_hh"):
                    nn.init.orthogonal_(gate)
                elif name.startswith("weight_ih"):
                    nn.init.normal_(gate, std=gate.size(1) ** -0.5)

    def _run(self, idx, state=None):
        """The state: h and c, (n_layer, B, d_hidden)."""
        x = F.dropout(self.embedding(idx), self.config["dropout"], self.training)
        # on CPUs of either kind fp32 gates are faster; benchmarks/training.md
        with torch.autocast(x.device.type, enabled=x.device.type == "cuda"):
            y, state = self.lstm(x.float(), state)
        return F.dropout(y, self.config["dropout"], self.training), state


class _MemoryBlock(nn.Module):
    """The Transformer's block with another way to look back: a linear memory."""

    def __init__(self, config):
        super().__init__()
        d, self.n_head, self.dropout = config["d_model"], config["n_head"], config["dropout"]
        self.norm_memory = nn.RMSNorm(d)
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.gate = nn.Linear(d, d, bias=False)
        self.forget = nn.Linear(d, self.n_head, bias=False)
        self.memory_out = nn.Linear(d, d, bias=False)
        self.norm_mlp = nn.RMSNorm(d)
        self.mlp_in = nn.Linear(d, config["d_ff"], bias=False)
        self.mlp_out = nn.Linear(config["d_ff"], d, bias=False)
        tokens = torch.logspace(math.log2(MEMORY[0]), math.log2(MEMORY[1]), self.n_head, base=2)
        self.register_buffer("forget_bias", (tokens - 1).log(), persistent=False)

    def forward(self, x, memory=None, last=None):
        """x (B, T, d); memory (B, n_head, head size, head size) and last, what is shifted, (B, 2,
        max(SHIFTS), d), of the tokens before it (None: zeros) -> all three after it."""
        B, T, d = x.shape
        last_memory, last_mlp = (None, None) if last is None else last.unbind(1)
        h, last_memory = _shifted(self.norm_memory(x), last_memory)
        q, k, v = self.qkv(h).view(B, T, 3, self.n_head, d // self.n_head).unbind(2)
        q, k = (F.rms_norm(part, part.shape[-1:], eps=NORM_EPS).to(v.dtype) for part in (q, k))
        log_kept = F.logsigmoid(self.forget(h).float() + self.forget_bias)
        y, memory = linear_memory(q * q.size(-1) ** -0.5, k, v, log_kept, memory)
        y = F.rms_norm(y, y.shape[-1:], eps=NORM_EPS).reshape(B, T, d) * F.silu(self.gate(h))
        x = x + F.dropout(self.memory_out(y), self.dropout, self.training)
        h, last_mlp = _shifted(self.norm_mlp(x), last_mlp)
        x = x + F.dropout(self.mlp_out(F.gelu(self.mlp_in(h))), self.dropout, self.training)
        return x, memory, torch.stack((last_memory, last_mlp), dim=1)


def linear_memory(q, k, v, log_kept, memory=None):
    """What a memory that forgets gives back: S_t = a_t S_(t-1) + k_t v_t', y_t = S_t' q_t for every
    head, computed in chunks by matrix products (Dao & Gu 2024, section 6). Within a chunk y_t = sum
    over s <= t of (q_t' k_s) exp(ln a_(s+1) + ... + ln a_t) v_s: attention with decay.

    q, k (B, T, H, N), v (B, T, H, P); log_kept (B, T, H): ln a_t <= 0, fp32; memory (B, H, N, P): S
    before the first token (None: zeros). Returns y (B, T, H, P) and S after the last token.
    """
    B, T, H, P = v.shape
    size = min(CHUNK, T)
    n, dtype = math.ceil(T / size), v.dtype
    q, k, v, log_kept = (
        F.pad(x, (0, 0, 0, 0, 0, n * size - T)).view(B, n, size, H, -1).transpose(2, 3)
        # what fills up writes and forgets nothing
        for x in (q, k, v, log_kept[..., None])
    )
    sums = log_kept.squeeze(-1).cumsum(-1)  # (B, n, H, size): since the chunk's start
    y = (q @ k.mT * _decay(sums).to(dtype)) @ v
    # by each chunk, as left at its end
    written = k.mT @ (v * (sums[..., -1:] - sums).exp().to(dtype)[..., None])
    before = torch.zeros_like(written[:, :1]) if memory is None else memory[:, None].to(dtype)
    ends = F.pad(sums[..., -1], (0, 0, 1, 0)).cumsum(1).mT  # (B, H, n + 1): since the beginning
    written = torch.cat((before, written), dim=1).transpose(1, 2).flatten(3)
    memories = _decay(ends).to(dtype) @ written
    memories = memories.view(B, H, n + 1, -1, P).transpose(1, 2)
    y = y + (q @ memories[:, :-1]) * sums.exp().to(dtype)[..., None]
    return y.transpose(2, 3).reshape(B, n * size, H, P)[:, :T], memories[:, -1]


def _decay(sums):
    """exp(sums_t - sums_s) for s <= t, else 0: shape (..., t, s)."""
    future = torch.full((sums.size(-1), sums.size(-1)), -torch.inf, device=sums.device).triu(1)
    return (sums[..., :, None] - sums[..., None, :] + future).exp()


class SSM(Recurrent):
    """A linear recurrent network: in place of attention each head has a matrix that keeps k v' of
    every token and forgets at a rate of its own for each (Mamba-2's state-space model with scalar
    decay, Dao & Gu 2024; the forget gate is the mLSTM's sigmoid, Beck et al. 2024). config:
    "n_head", "d_model", "d_ff"."""

    family = "ssm"
    MATRICES = {"qkv": 3, "gate": 1, "memory_out": 1, "mlp_in": 1, "mlp_out": 1}
    DRAWN = "qkv", "gate", "mlp_in"  # "forget" is not: memories of known length

    def __init__(self, config):
        super().__init__(config)
        d, V = config["d_model"], config["vocab_size"]
        self.token_embedding = nn.Embedding(V, d)
        self.blocks = nn.ModuleList(_MemoryBlock(config) for _ in range(config["n_layer"]))
        self.norm = nn.RMSNorm(d)
        self.head = nn.Linear(d, V, bias=False)
        self.draw_weights()

    def _run(self, idx, state=None):
        """The state: those of `_MemoryBlock.forward`, layers first."""
        x = F.dropout(self.token_embedding(idx), self.config["dropout"], self.training)
        states = []
        for block, memory, last in zip(self.blocks, *(state or [[None] * len(self.blocks)] * 2)):
            x, *after = block(x, memory, last)
            states.append(after)
        return self.norm(x), tuple(map(torch.stack, zip(*states)))

    def flops_per_token(self):
        """Beside the weights, forward, for each layer and channel: 4 for each channel of its head,
        and 4 for each of (CHUNK + 1) / 2 tokens of its chunk; 1 % is left out, chunk to chunk."""
        c, d = self.config, self.config["d_model"]
        memory = 4 * d * d / c["n_head"] + 4 * d * (CHUNK + 1) / 2
        return super().flops_per_token() + 3 * c["n_layer"] * memory


# ---------------------------------------------------------------- device


def pick_device(name="auto"):
    """Returns a torch.device, the local rank's GPU for "cuda"; ValueError if there is none."""
    backends = {"cuda": torch.cuda, "mps": torch.backends.mps}
    have = [*(kind for kind, backend in backends.items() if backend.is_available()), "cpu"]
    name = have[0] if name == "auto" else name
    if name not in have:
        raise ValueError(f"--device {name}: this machine has {' and '.join(have)} only")
    if name != "cuda":
        return torch.device(name)
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
    return device


def precision(device):
    """Returns "bf16" where the hardware multiplies it, at twice the speed, else "fp32": emulated it
    takes 25 to 90 times as long (benchmarks/training.md). Ampere GPUs and later have it, and CPUs
    with AVX512-BF16 or AMX, unless ATEN_CPU_CAPABILITY=avx2 imitates an older one."""
    kind, fast = torch.device(device).type, False
    if kind == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    elif kind == "cpu" and torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if fast else "fp32"


def product_dtype(device):
    """Returns the torch.dtype of matrix products on a device."""
    return torch.bfloat16 if precision(device) == "bf16" else torch.float32


def autocast(device):
    """Returns a context in which products have `product_dtype`."""
    enabled = precision(device) == "bf16"
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=enabled)
