"""What decides a loss: windows of the data, optimizer, schedule, the one training loop, evaluation.

The loop is the controlled variable of the study: every family goes through it. It takes a plan
(`study/train/runs.py`) and
writes no file: `Loop.advance` takes one step, and between steps its caller may save it, show it or
stop it. Everything random is a function of (seed, epoch, step), so a loop that was saved and
restored ends with the very weights of an uninterrupted one on CPU.

    loop = Loop(run, load_data(root), "cpu")
    while not loop.ended:
        loop.advance()
    losses = loop.measure()

One epoch is every training token exactly once: the sequences are shuffled, joined and cut into
windows of the context's length (512), and the windows are shuffled again.

The digest of `Loop` is in the key of every run: what is reached from it trains all models again
when it changes, so plans, files, messages and clocks stand elsewhere.
"""

import contextlib
import hashlib
import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from common import BEGIN, END, IGNORE, autocast, load_tokenizer, product_dtype
from study.families import build_model
from study.train import machine

BLOCK_SIZE = 512  # tokens of context
WARMUP_SHARE = 0.05  # of the run
CLIP_NORM = 1.0
MOMENTUM = 0.95
BETAS = (0.9, 0.95)
MUON_COEFFICIENTS = 3.4445, -4.7750, 2.0315  # Newton-Schulz (Jordan 2024)
# 5 is usual; at 1,024 tokens a step they cost as much as the model, and losses differ by < 0.01
# nats
MUON_STEPS = 3
GRAM_FROM = 1.5  # columns over rows from which Newton-Schulz works on x x^T instead of x
EVALUATIONS = 8  # points of the validation curve in one epoch
CURVE_WINDOWS = 8  # of the validation split, evenly spread, for these points
TRAIN_SAMPLE_WINDOWS = 16  # of the training text, evenly spread, evaluated at the end of a run
POSITION_BINS = 64
COUNTED_TOKENS = 1 << 24  # at a time: as indices they take 8 bytes each
# steps on a GPU between checks for infinite losses: asking means waiting for it
NUMBERS_ASKED_EVERY = 20


class Stopped(RuntimeError):
    """A run that must not go on; its message is for the user."""


# ---------------------------------------------------------------- data
# Token streams, nested subsets of them, and the windows of a step.


class Data(NamedTuple):
    """Three token streams (BEGIN text END BEGIN text END ..., 1-D numpy) and what their tokens
    mean."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    tokenizer_digest: str
    vocab_size: int
    token_chars: np.ndarray  # (vocab_size,): characters that each token stands for; BEGIN 0, END 1


def load_data(root):
    """The splits of stage 03 as memory-mapped arrays; ValueError if they do not belong together."""
    folder = Path(root) / "data"
    tokenizer = load_tokenizer(folder / "tokenizer.pkl")
    splits = {}
    for name in ("train", "val", "test"):
        tokens = np.load(folder / f"{name}_tokens.npy", mmap_mode="r")
        if (
            tokens.ndim != 1
            or len(tokens) < 2
            or tokens[0] != BEGIN
            or int(tokens.max()) >= tokenizer.vocab_size
        ):
            raise ValueError(f"data/{name}_tokens.npy is no token stream of this tokenizer")
        splits[name] = tokens
    return Data(
        **splits,
        tokenizer_digest=tokenizer.digest,
        vocab_size=tokenizer.vocab_size,
        token_chars=tokenizer.token_chars,
    )


def sequence_bounds(tokens):
    """Where sequences begin, and the end of the last: shape (number of sequences + 1,)."""
    return np.append(np.flatnonzero(np.asarray(tokens) == BEGIN), len(tokens))


def text_chars(tokens, token_chars):
    """Characters of text that each token of a stream stands for: those of `token_chars`, but END is
    no text."""
    chars = token_chars.astype(np.min_scalar_type(token_chars.max()))
    chars[END] = 0
    return np.concatenate(
        [chars[block] for block in np.array_split(tokens, 1 + len(tokens) // COUNTED_TOKENS)]
    )


def count_chars(tokens, token_chars):
    """Characters of text in a stream."""
    return int(text_chars(tokens, token_chars).sum(dtype=np.int64))


def subset(tokens, token_chars, fraction=1.0, max_chars=None):
    """Whole sequences that make up `fraction` of the stream's tokens, at most `max_chars`
    characters of text.

    The sequences are taken in one fixed random order, the same for every seed and fraction, so that
    smaller subsets lie within larger ones; they come back in the order of the file. ValueError if
    not one of them fits.
    """
    if fraction >= 1 and max_chars is None:
        return np.asarray(tokens)
    bounds = sequence_bounds(tokens)
    lengths = np.diff(bounds)
    order = np.random.default_rng(0).permutation(len(lengths))
    fits = np.cumsum(lengths[order]) <= fraction * len(tokens)
    if max_chars is not None:
        chars = np.add.reduceat(text_chars(tokens, token_chars), bounds[:-1], dtype=np.int64)
        fits &= np.cumsum(chars[order]) <= max_chars
    if not fits[0]:
        first = count_chars(tokens[bounds[order[0]] : bounds[order[0] + 1]], token_chars)
        raise ValueError(
            f"so little training text holds no whole sequence: the first to be taken has {first:,} "
            "characters"
        )
    chosen = np.sort(order[: int(fits.sum())])
    return np.concatenate([tokens[bounds[i] : bounds[i + 1]] for i in chosen])


def epoch_windows(tokens, seed, epoch):
    """(stream, starts): the sequences in this epoch's order, and where its windows start, in order
    of use.

    The stream is followed by BEGIN tokens, which are never targets: the last window may be short.
    """
    bounds, rng = sequence_bounds(tokens), np.random.default_rng([seed, epoch])
    order = rng.permutation(len(bounds) - 1)
    parts = [tokens[bounds[i] : bounds[i + 1]] for i in order]
    stream = np.concatenate(parts + [np.full(BLOCK_SIZE + 1, BEGIN, tokens.dtype)])
    return stream, rng.permutation(n_windows(len(tokens))) * BLOCK_SIZE


def n_windows(n_tokens):
    """Windows of a stream: every token but the first is a target once."""
    return -(-(n_tokens - 1) // BLOCK_SIZE)


def cut_windows(stream, starts, length=BLOCK_SIZE):
    """Inputs and targets (int64, shape (len(starts), length)); BEGIN is no target."""
    window = stream[starts[:, None] + torch.arange(length + 1, device=stream.device)].long()
    targets = window[:, 1:]
    return window[:, :-1], targets.masked_fill(targets == BEGIN, IGNORE)


def to_tensor(tokens, device):
    """A token stream on the device, in the smallest integer type that can be indexed there."""
    tokens = np.array(tokens)  # a copy: memory maps are read-only
    return torch.from_numpy(tokens if tokens.dtype == np.uint8 else tokens.astype(np.int32)).to(
        device
    )


def target_chars(targets, token_chars):
    """Characters that targets (int64, any shape) stand for; 0 where a target counts for nothing.
    token_chars: tensor
    (vocab_size,) on their device."""
    return token_chars[targets.clamp(min=0)].masked_fill(targets == IGNORE, 0)


def digest_tokens(*streams):
    """SHA-256 over token streams."""
    digest = hashlib.sha256()
    for stream in streams:
        digest.update(f"{stream.dtype} {len(stream)}\n".encode())
        digest.update(np.ascontiguousarray(stream).data)
    return digest.hexdigest()


# ---------------------------------------------------------------- schedule and optimizer
# Muon for the hidden matrices, AdamW for the rest; or AdamW alone. Which is which says the model.


def schedule(done):
    """Learning rate as a share of its peak after the share `done` of the run: linear warm-up, then
    linear decay to 0
    (Bergsma et al. 2025: to zero beats to a tenth)."""
    return min(done / WARMUP_SHARE, (1 - done) / (1 - WARMUP_SHARE), 1.0)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal by Newton-Schulz iterations (Jordan et al. 2024).

    Computes what torch.optim.Muon does with adjust_lr_fn="match_rms_adamw" (tested), so that one
    learning rate fits Muon and AdamW (Liu et al. 2025), but handles all matrices of one shape in
    the same calls. A parameter stacked of several matrices (q, k, v; the four gates of an LSTM) is
    treated as these: the group's "blocks" say how many lie one above the other.
    """

    def __init__(self, groups, lr, momentum=MOMENTUM, weight_decay=0.0):
        super().__init__(
            groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "blocks": 1}
        )

    @torch.no_grad()
    def step(self):
        waiting = {}  # (rows, columns) -> [(matrix to change, learning rate, update)]
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                momentum = self.state[p]["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(momentum, group["momentum"])  # Nesterov
                if group["weight_decay"]:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                for matrix, change in zip(p.chunk(group["blocks"]), update.chunk(group["blocks"])):
                    if matrix.size(0) > matrix.size(1):
                        matrix, change = matrix.T, change.T
                    waiting.setdefault(tuple(matrix.shape), []).append(
                        (matrix, group["lr"], change)
                    )
        for (rows, columns), entries in waiting.items():
            updates = orthogonalize(torch.stack([change for *_, change in entries]))
            for (matrix, rate, _), update in zip(entries, updates.to(entries[0][0].dtype)):
                matrix.sub_(update, alpha=rate * 0.2 * math.sqrt(columns))


def orthogonalize(x):
    """Brings the singular values of each matrix of x (n, rows <= columns, columns) near 1.

    A step of Newton-Schulz is x <- p x with p = a + b (x x^T) + c (x x^T)^2. Every p is a
    polynomial of the first x x^T, so that for wide matrices all steps are taken on the small side's
    (rows, rows) and applied once: at four times as many columns as rows the products cost 0.58 of
    those of the plain iteration, at equal sides 1.2.
    """
    x = x.to(product_dtype(x.device))
    x = x / x.float().norm(dim=(1, 2), keepdim=True).clamp(min=1e-7).to(x.dtype)
    a, b, c = MUON_COEFFICIENTS
    if x.size(2) < GRAM_FROM * x.size(1):
        for _ in range(MUON_STEPS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x
    gram, every = x @ x.mT, None
    for step in range(MUON_STEPS):
        if step:
            gram = p @ gram @ p
        p = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        p.diagonal(dim1=1, dim2=2).add_(a)
        every = p if every is None else p @ every
    return every @ x


def make_optimizers(model, run):
    """The run's optimizers for a model. Learning rates are set by the loop as rate *
    group["scale"]."""
    matrices, rest = model.parameter_groups()
    scale = 1.0 if run["recipe"] == "classic" else model.EMBEDDING_RATE[run["optimizer"]]
    groups = [{"params": rest, "scale": scale}]
    decay = {"scale": 1.0, "weight_decay": run["weight_decay"]}  # of the hidden matrices alone
    if run["optimizer"] == "adamw":
        groups.append({"params": [parameter for parameter, _ in matrices], **decay})
    optimizers = [
        torch.optim.AdamW(
            groups,
            lr=run["learning_rate"],
            betas=BETAS,
            weight_decay=0.0,
            fused=rest[0].device.type in ("cpu", "cuda"),
        )
    ]
    if run["optimizer"] == "muon":
        optimizers.append(
            Muon(
                [
                    {"params": [parameter], "blocks": blocks, **decay}
                    for parameter, blocks in matrices
                ],
                run["learning_rate"],
            )
        )
    return optimizers


# ---------------------------------------------------------------- evaluation


@torch.no_grad()
def evaluate(
    model,
    tokens,
    token_chars,
    device,
    batch_windows=16,
    precise=True,
    by_sequence=False,
    at_most=None,
):
    """Loss over a whole token stream: non-overlapping windows of the context's length, every token
    but BEGIN is a target once. Deterministic.

    token_chars: numpy (vocab_size,), characters of each token: the loss is the sum of nats over all
    targets by the characters that these stand for, so that models of different alphabets can be
    compared.
    precise: fp32, so that the number does not depend on what the hardware does with bf16. (The
    loop's own numbers are
    not: they cost half and differ by 0.0001 nats; benchmarks/training.md.) by_sequence: adds
    "nats_by_sequence" and "chars_by_sequence", the sums over the targets of each sequence of the
    stream; at_most: so many windows, evenly spread over the stream, instead of all.

    Returns {"nats_per_char", "bits_per_char", "perplexity" (of a character), "n_chars" (of the
    targets: text, and one for each END), "n_tokens" (targets), "loss_by_position" (nats per
    character, 64 bins of 8 positions; None where nothing was predicted)}. ValueError if there is
    nothing to predict.
    """
    was_training = model.training
    model.eval()
    stream = to_tensor(
        np.append(np.asarray(tokens), np.full(BLOCK_SIZE + 1, BEGIN, tokens.dtype)), device
    )
    every = n_windows(len(tokens))
    n = min(every, at_most or every)
    starts = torch.arange(n, device=device) * every // max(1, n) * BLOCK_SIZE
    chars_of = torch.from_numpy(np.asarray(token_chars)).to(device)
    sums = torch.zeros(3, BLOCK_SIZE, dtype=torch.float64)  # nats, characters, targets by position
    if by_sequence:
        sequence = np.cumsum(np.asarray(tokens) == BEGIN) - 1  # of each token
        # nats, characters of each
        by_number = torch.zeros(2, int(sequence[-1]) + 1, dtype=torch.float64)
        sequence = torch.from_numpy(np.append(sequence, np.full(BLOCK_SIZE + 1, sequence[-1])))
    for batch in starts.split(batch_windows)[machine.rank() :: machine.n_processes()]:
        x, y = cut_windows(stream, batch)
        with contextlib.nullcontext() if precise else autocast(device):
            logits, _ = model(x)
        loss = F.cross_entropy(
            logits.float().transpose(1, 2), y, ignore_index=IGNORE, reduction="none"
        )
        chars = target_chars(y, chars_of)
        sums += torch.stack((loss.sum(0), chars.sum(0), (y != IGNORE).sum(0))).cpu().double()
        if by_sequence:
            numbers = sequence[batch.cpu()[:, None] + torch.arange(1, BLOCK_SIZE + 1)].flatten()
            by_number.index_add_(
                1, numbers, torch.stack((loss.flatten(), chars.flatten())).cpu().double()
            )
    sums = machine.sum_over_processes(sums, device)
    model.train(was_training)
    total, n_chars, n_tokens = sums.sum(1).tolist()
    if not n_chars:
        raise ValueError("nothing to evaluate: the token stream holds no character")
    nats_by_position, chars_by_position, _ = sums.view(3, POSITION_BINS, -1).sum(2).tolist()
    nats = total / n_chars
    return {
        "nats_per_char": nats,
        "bits_per_char": nats / math.log(2),
        "perplexity": math.exp(min(nats, 700)),
        "n_chars": int(n_chars),
        "n_tokens": int(n_tokens),
        "loss_by_position": [
            n / k if k else None for n, k in zip(nats_by_position, chars_by_position)
        ],
        **_sums_by_sequence(by_number if by_sequence else None, device),
    }


def _sums_by_sequence(sums, device):
    """The two lists that `evaluate` adds, from this process's sums (nats, characters), shape (2,
    sequences)."""
    if sums is None:
        return {}
    nats, chars = machine.sum_over_processes(sums, device).tolist()
    return {
        "nats_by_sequence": [round(n, 4) for n in nats],
        "chars_by_sequence": [int(n) for n in chars],
    }


# ---------------------------------------------------------------- the loop


@dataclass
class LoopState:
    """Where a run stands after a step: what is saved of it beside weights and optimizers."""

    step: int = 0  # steps done
    seconds: float = 0.0  # of training, over all processes that had a part in it
    evaluation_seconds: float = 0.0  # of evaluation, which is no part of them
    nats: float = 0.0  # training loss since the last evaluation, summed
    chars: int = 0  # characters that it was summed over
    curve: list = field(default_factory=list)  # a dict for each evaluation
    # the line of the curve with the lowest validation loss, and "model": the weights then
    best: dict | None = None
    out_of_time: bool = False  # max_minutes are over


class Loop:
    """A run under way: one step at a time.

    run: a plan; data: `Data`; micro_batch: windows per forward pass and process at most (halved
    when memory runs out; the tokens of a step stay the same). Attributes: state (`LoopState`),
    model, micro_batch.
    """

    def __init__(self, run, data, device, micro_batch=None, compile=False):
        self.run, self.data, self.device = run, data, torch.device(device)
        self.tokens = subset(
            data.train, data.token_chars, run["data_fraction"], run["max_train_chars"]
        )
        self.token_chars = torch.from_numpy(np.asarray(data.token_chars)).to(self.device)
        torch.manual_seed(run["seed"])
        self.model = build_model(run["config"]).to(self.device)
        self.optimizers = make_optimizers(self.model, run)
        self.forward = machine.parallel(
            torch.compile(self.model) if compile else self.model, self.device
        )
        share = -(-run["batch_windows"] // machine.n_processes())
        self.micro_batch = min(micro_batch or share, share)
        self.state, self.meter = LoopState(), Meter(self.device)
        self._evaluate_after, self._epoch, self._last_val = evaluation_steps(run), None, None
        self._began = time.monotonic()
        self.model.train()

    def restore(self, saved):
        """Goes on from what `to_save` gave; uses up the dict."""
        self.model.load_state_dict(saved.pop("model"))
        for optimizer, state in zip(self.optimizers, saved.pop("optimizers")):
            optimizer.load_state_dict(state)
        self.state = LoopState(**saved)
        self.meter = Meter(self.device, self.state.nats, self.state.chars)
        self._began = time.monotonic() - self.state.seconds

    def to_save(self):
        """All that the rest of the run depends on, as a dict; brings `state` up to date."""
        self.state.seconds, (self.state.nats, self.state.chars) = self.seconds, self.meter.read()
        return {
            **vars(self.state),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    @property
    def seconds(self):
        """Seconds of training so far: without evaluation, whose share would differ from family to
        family."""
        return time.monotonic() - self._began

    @property
    def ended(self):
        """True after the last step, be it the planned one or the last in time."""
        return self.state.step >= self.run["steps"] or self.state.out_of_time

    def advance(self):
        """Takes one step. Returns a line of the curve (dict) if the validation split was evaluated
        after it, else None; raises Stopped when the loss is no number or memory does not suffice
        for one window."""
        run, state = self.run, self.state
        x, y = self._next_windows()
        rate = run["learning_rate"] * schedule(self._share_done())
        if run["config"]["dropout"]:
            torch.manual_seed(
                int(
                    np.random.default_rng([run["seed"], state.step, machine.rank()]).integers(2**62)
                )
            )
        nats, chars, self.micro_batch = gradient(
            self.forward, x, y, self.token_chars, self.micro_batch, run["name"]
        )
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.meter.add(nats, chars)
        self.meter.check(nats, state.step)
        self.meter.check(norm, state.step)
        if self.device.type != "cuda" or state.step % NUMBERS_ASKED_EVERY == 0:
            self.stop_if_no_number()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            optimizer.step()
        state.step += 1
        if state.step in self._evaluate_after or state.out_of_time:
            self.stop_if_no_number()
            return self._evaluate(rate)
        return None

    def _next_windows(self):
        """Inputs and targets of the next step; a new epoch is shuffled when its first step
        comes."""
        epoch, step = divmod(self.state.step, self.run["steps_per_epoch"])
        if epoch != self._epoch:
            stream, starts = epoch_windows(self.tokens, self.run["seed"], epoch)
            self._stream, self._starts = to_tensor(stream, self.device), torch.from_numpy(
                starts
            ).to(self.device)
            self._epoch = epoch
        first = step * self.run["batch_windows"]
        return cut_windows(self._stream, self._starts[first : first + self.run["batch_windows"]])

    def _share_done(self):
        """The share of the run at the middle of the next step, by steps or, with max_minutes, by
        the clock if that is
        further: so the schedule always ends at zero. Sets out_of_time."""
        done = (self.state.step + 0.5) / self.run["steps"]
        if self.run["max_minutes"]:
            done = min(
                1.0,
                max(done, machine.of_first_process(self.seconds) / (60 * self.run["max_minutes"])),
            )
            self.state.out_of_time = done == 1.0
        return done

    def _evaluate(self, rate):
        """Adds a line to the curve, keeps the weights if they are the best so far, and returns the
        line.

        The points are losses of a part of the validation split. After the last step the whole is
        evaluated, too, and
        the curve shifted by the difference: which tunes are in the part moves all points alike.
        """
        run, state = self.run, self.state
        train_nats, seconds = self.meter.mean(), self.seconds
        val_nats = self._evaluated(evaluate, self.data.val, at_most=CURVE_WINDOWS)["nats_per_char"]
        tokens = min(state.step * run["tokens_per_step"], run["train_tokens"] * run["epochs"])
        line = {
            "step": state.step,
            "epoch": state.step / run["steps_per_epoch"],
            "tokens": tokens,
            "chars": round(tokens * run["train_chars"] / run["train_tokens"]),
            "seconds": round(seconds, 3),
            "flops": run["train_flops"] * state.step / run["steps"],
            "learning_rate": rate,
            "train_nats_per_char": train_nats,
            "val_nats_per_char": val_nats,
        }
        state.curve.append(line)
        if run["keep_best"] and (state.best is None or val_nats < state.best["val_nats_per_char"]):
            weights = {
                name: tensor.detach().cpu().clone()
                for name, tensor in self.model.state_dict().items()
            }
            state.best = {**line, "model": weights}
        if self.ended:
            self._last_val = self._evaluated(evaluate, self.data.val)
            shift = self._last_val["nats_per_char"] - val_nats
            for point in (*state.curve, *filter(None, [state.best])):
                point["val_nats_per_char"] += shift
        return line

    def stop_if_no_number(self):
        """Raises Stopped if a loss or gradient was not finite at a step so far; to be called before
        anything is saved."""
        bad = int(self.meter.bad)
        if bad <= self.state.step:
            raise Stopped(
                f"{self.run['name']}: the loss or its gradient is not a finite number at step"
                f" {bad:,} of {self.run['steps']:,} (peak of the learning rate:"
                f" {self.run['learning_rate']:.3g}); the last state saved on disk, if any, is from"
                " before that step; try a lower learning rate"
            )

    def measure(self):
        """Losses of the ended run, {"val", "test" (the whole of each), "train" (windows all over
        its text)}: dicts of `evaluate`. With keep_best of the best weights, which the model then
        has."""
        best = self.state.best
        if self.run["keep_best"]:
            self.model.load_state_dict(best["model"])
        known = (
            self._last_val if not self.run["keep_best"] or best["step"] == self.state.step else None
        )
        val = known or self._evaluated(evaluate, self.data.val)
        test = self._evaluated(evaluate, self.data.test, by_sequence=True)
        return {
            "val": val,
            "test": test,
            "train": self._evaluated(evaluate, self.tokens, at_most=TRAIN_SAMPLE_WINDOWS),
        }

    def _evaluated(self, function, tokens, **options):
        """What an evaluation of the model gives, in the precision that it is trained in; its time
        counts as evaluation_seconds, not as seconds."""
        started = time.monotonic()
        result = function(
            self.model, tokens, self.data.token_chars, self.device, precise=False, **options
        )
        spent = time.monotonic() - started
        self.state.evaluation_seconds += spent
        self._began += spent
        return result


def evaluation_steps(run):
    """The steps after which the validation split is evaluated: evenly spaced, ends of epochs and
    run included."""
    per_epoch = max(1, EVALUATIONS // run["epochs"])
    return {
        epoch * run["steps_per_epoch"] + max(1, round(run["steps_per_epoch"] * (i + 1) / per_epoch))
        for epoch in range(run["epochs"])
        for i in range(per_epoch)
    }


def gradient(forward, x, y, token_chars, micro_batch, name):
    """Sets the gradient of the mean loss over a step's windows.

    x, y: inputs and targets (windows, BLOCK_SIZE); micro_batch: windows per forward pass, halved
    until memory suffices. Returns (sum of nats, characters of the targets, micro_batch that
    sufficed); the first two lie on the device and are those of this process. Raises Stopped when
    one window is too much.
    """
    n_targets = (y != IGNORE).sum().clamp(min=1)
    x, y = share_of_process(x, y)
    while True:
        try:
            forward.zero_grad(set_to_none=True)
            nats = _accumulate(forward, x, y, n_targets, micro_batch)
            return nats, target_chars(y, token_chars).sum(), micro_batch
        except Exception as error:
            if not machine.is_out_of_memory(error):
                raise
            if micro_batch == 1:
                raise Stopped(
                    f"{name}: memory does not suffice for one window of {BLOCK_SIZE} tokens"
                ) from None
            micro_batch = (micro_batch + 1) // 2
            print(
                f"{name}: out of memory; goes on with {micro_batch} windows per forward pass (the"
                " step's tokens are unchanged)",
                file=sys.stderr,
            )
        # after the handler: the error holds on to the tensors of its frames
        if x.device.type == "cuda":
            torch.cuda.empty_cache()


def share_of_process(x, y):
    """This process's windows of a step. Each gets as many; those that fill up have no targets."""
    rank, world = machine.rank(), machine.n_processes()
    if world == 1:
        return x, y
    missing = -len(x) % world
    return (
        torch.cat((x, x[:1].expand(missing, -1)))[rank::world],
        torch.cat((y, torch.full_like(y[:1], IGNORE).expand(missing, -1)))[rank::world],
    )


def _accumulate(forward, x, y, n_targets, micro_batch):
    """Adds up gradients over forward passes of micro_batch windows; returns the sum of nats, on the
    device."""
    world, nats = machine.n_processes(), torch.zeros((), device=x.device)
    parts = list(zip(x.split(micro_batch), y.split(micro_batch)))
    for i, (inputs, targets) in enumerate(parts):
        with forward.no_sync() if world > 1 and i + 1 < len(parts) else contextlib.nullcontext():
            with autocast(x.device):
                _, loss = forward(inputs, targets)
            part = loss * (targets != IGNORE).sum()
            # DistributedDataParallel takes the mean over processes
            (part * (world / n_targets)).backward()
        nats = nats + part.detach()
    return nats


class Meter:
    """Sums of the training loss since the last evaluation, and the first step without a number; on
    the device, so that a GPU need not be waited for."""

    def __init__(self, device, nats=0.0, chars=0):
        kind = torch.float32 if device.type == "mps" else torch.float64
        self.nats = torch.tensor(nats, dtype=kind, device=device)
        self.chars = torch.tensor(chars, device=device)
        # first step whose loss or gradient is no number
        self.bad = torch.tensor(2**31 - 1, device=device)

    def add(self, nats, chars):
        """Counts a step's loss: sum of nats, and the characters of its targets."""
        self.nats, self.chars = self.nats + nats, self.chars + chars

    def check(self, value, step):
        """Notes a step whose value is not finite."""
        self.bad = torch.where(torch.isfinite(value), self.bad, self.bad.clamp(max=step))

    def read(self):
        """(sum of nats, characters) of this process."""
        return float(self.nats), int(self.chars)

    def mean(self):
        """Mean loss in nats per character since the last call, over all processes."""
        sums = machine.sum_over_processes(
            torch.stack((self.nats, self.chars.to(self.nats.dtype))), self.nats.device
        )
        self.nats, self.chars = torch.zeros_like(self.nats), torch.zeros_like(self.chars)
        nats, chars = sums.tolist()
        return nats / chars if chars else None
