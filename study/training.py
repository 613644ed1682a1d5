"""The one training loop: data order, recipe, optimizer, evaluation, checkpoints, run records; for 04, 05 and 07.

A *run* is a dict of JSON values that decides the result (`plan_run`); its key is their digest together with the data
and the code. `train` carries a run out, continues an interrupted one from its last state, and returns the record of
a finished one without training. Everything random is a function of (seed, epoch, step), so an interrupted run ends
with the very weights of an uninterrupted one on CPU.

    data = load_data(root)
    run = plan_run(data, "transformer", "tiny", SIZES["tiny"], learning_rate=0.01)
    record = train(root, run, data, pick_device("auto"))
    model, checkpoint = load_checkpoint(root / "checkpoints/transformer_tiny.pt")

One epoch is every training token exactly once: the sequences are shuffled, joined and cut into windows of the
context's length (512), and the windows are shuffled again.
"""

import contextlib
import fcntl
import functools
import hashlib
import io
import json
import math
import os
import signal
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

import common
from common import BEGIN, END, IGNORE, Tokenizer, autocast, build_model
from study.code_key import code_digest
from study.stage import (HERE, Stage, atomic, fail, file_digest, progress, read_json, stage_parser, value_digest,
                   write_json, write_text)

BLOCK_SIZE = 512  # tokens of context
BATCH_WINDOWS = 2  # windows a step on the smallest corpus; benchmarks/training.md: 4 lose 0.04-0.06 nats in one epoch
BATCH_TOKENS = 600_000  # training tokens for which that was measured; batches grow as the root of the tokens
WARMUP_SHARE = 0.05  # of the run
WEIGHT_DECAY = 0.0  # one epoch does not overfit
CLIP_NORM = 1.0
MOMENTUM = 0.95
BETAS = (0.9, 0.95)
EMBEDDING_RATE = {"muon": {"transformer": 3.0, "lstm": 3.0},  # embeddings, head and norms against hidden matrices
                  "adamw": {"transformer": 1.0, "lstm": 8.0}}  # see benchmarks/training.md
EVALUATIONS = 8  # points of the validation curve in one epoch
TRAIN_SAMPLE_WINDOWS = 32  # of the training split, evaluated at the end of a run
CHECKPOINT_SECONDS = 60
CALIBRATION_SECONDS = 3.0  # for all runs of a plan together
POSITION_BINS = 64

RECIPES = {
    "tuned": {"optimizer": "muon", "rotary": True, "qk_norm": True, "token_shift": True,
              "dropout": {"transformer": 0.0, "lstm": 0.0}},
    "classic": {"optimizer": "adamw", "rotary": False, "qk_norm": False, "token_shift": False,
                "dropout": {"transformer": 0.1, "lstm": 0.2}},
}
CLASSIC_LEARNING_RATE = 3e-4  # of the original study, for every size
MUON_COEFFICIENTS = 3.4445, -4.7750, 2.0315  # Newton-Schulz (Jordan 2024)
MUON_STEPS = 3  # 5 is usual; at 1,024 tokens a step they cost as much as the model, and losses differ by < 0.01 nats


# ---------------------------------------------------------------- data
# Token streams, nested subsets of them, and the windows of a step.

Data = namedtuple("Data", "train val test tokenizer_digest vocab_size")
Data.__doc__ = """Three token streams (BEGIN text END BEGIN text END ..., 1-D numpy) and their vocabulary."""


def load_data(root):
    """The splits of stage 03 as memory-mapped arrays; ValueError if they do not belong together."""
    folder = Path(root) / "data"
    tokenizer = Tokenizer.load(folder / "tokenizer.pkl")
    splits = {}
    for name in ("train", "val", "test"):
        tokens = np.load(folder / f"{name}_tokens.npy", mmap_mode="r")
        if tokens.ndim != 1 or len(tokens) < 2 or tokens[0] != BEGIN or int(tokens.max()) >= tokenizer.vocab_size:
            raise ValueError(f"data/{name}_tokens.npy is no token stream of this tokenizer")
        splits[name] = tokens
    return Data(**splits, tokenizer_digest=tokenizer.digest, vocab_size=tokenizer.vocab_size)


def sequence_bounds(tokens):
    """Where sequences begin, and the end of the last: shape (number of sequences + 1,)."""
    return np.append(np.flatnonzero(np.asarray(tokens) == BEGIN), len(tokens))


def subset(tokens, fraction=1.0, max_chars=None):
    """Whole sequences that make up `fraction` of the stream, at most `max_chars` characters.

    The sequences are taken in one fixed random order, the same for every seed and fraction, so that smaller subsets
    lie within larger ones; they come back in the order of the file. At least one sequence is taken.
    """
    if fraction >= 1 and max_chars is None:
        return np.asarray(tokens)
    bounds = sequence_bounds(tokens)
    lengths = np.diff(bounds)
    order = np.random.default_rng(0).permutation(len(lengths))
    total = np.cumsum(lengths[order])
    fits = total <= fraction * len(tokens)
    if max_chars is not None:
        fits &= total - 2 * np.arange(1, len(total) + 1) <= max_chars
    chosen = np.sort(order[:max(1, int(fits.sum()))])
    return np.concatenate([tokens[bounds[i]:bounds[i + 1]] for i in chosen])


def epoch_windows(tokens, seed, epoch):
    """(stream, starts): the sequences in this epoch's order, and where its windows start, in order of use.

    The stream is followed by BEGIN tokens, which are never targets: the last window may be short.
    """
    bounds, rng = sequence_bounds(tokens), np.random.default_rng([seed, epoch])
    order = rng.permutation(len(bounds) - 1)
    parts = [tokens[bounds[i]:bounds[i + 1]] for i in order]
    stream = np.concatenate(parts + [np.full(BLOCK_SIZE + 1, BEGIN, tokens.dtype)])
    return stream, rng.permutation(n_windows(len(tokens))) * BLOCK_SIZE


def n_windows(n_tokens):
    """Windows of a stream: every token but the first is a target once."""
    return -(-(n_tokens - 1) // BLOCK_SIZE)


def cut_windows(stream, starts):
    """Inputs and targets (int64, shape (len(starts), BLOCK_SIZE)); BEGIN is no target."""
    window = stream[starts[:, None] + torch.arange(BLOCK_SIZE + 1, device=stream.device)].long()
    targets = window[:, 1:]
    return window[:, :-1], targets.masked_fill(targets == BEGIN, IGNORE)


def to_tensor(tokens, device):
    """A token stream on the device, in the smallest integer type that can be indexed there."""
    tokens = np.array(tokens)  # a copy: memory maps are read-only
    return torch.from_numpy(tokens if tokens.dtype == np.uint8 else tokens.astype(np.int32)).to(device)


def count_chars(tokens):
    """Characters of a stream: all tokens but BEGIN and END."""
    tokens = np.asarray(tokens)
    return int(len(tokens) - (tokens == BEGIN).sum() - (tokens == END).sum())


def digest_tokens(*streams):
    """SHA-256 over token streams."""
    digest = hashlib.sha256()
    for stream in streams:
        digest.update(f"{stream.dtype} {len(stream)}\n".encode())
        digest.update(np.ascontiguousarray(stream).data)
    return digest.hexdigest()


# ---------------------------------------------------------------- plan
# What a run is: all that decides its result.

def plan_run(data, family, size, shape, learning_rate, seed=0, recipe="tuned", suite="classical", epochs=1,
             data_fraction=1.0, max_train_chars=None, max_minutes=None, optimizer=None, keep_best=False,
             batch_windows=None, name=None, dropout=None):
    """A run: a dict of JSON values with its name, model configuration, budget and key.

    shape: the size's entries of the configuration (n_layer, d_model, ...); epochs: passes over the subset;
    max_minutes: end early, with the schedule shaped for that; keep_best: the checkpoint is that of the lowest
    validation loss, not the last; name: of its files (default: family_size and what differs from the default).
    """
    chosen = RECIPES[recipe]
    config = {"family": family, "vocab_size": data.vocab_size, "block_size": BLOCK_SIZE, **shape,
              "dropout": chosen["dropout"][family] if dropout is None else dropout}
    if family == "transformer":
        config.update({flag: chosen[flag] for flag in ("rotary", "qk_norm", "token_shift")})
    tokens = subset(data.train, data_fraction, max_train_chars)
    if batch_windows is None:
        batch_windows = BATCH_WINDOWS * 2 ** max(0, round(math.log2(math.sqrt(len(tokens) * epochs / BATCH_TOKENS))))
    with torch.device("meta"):
        model = build_model(config)
    counts = model.count_parameters()
    run = {
        "family": family, "size": size, "seed": seed, "suite": suite, "recipe": recipe, "config": config,
        "learning_rate": learning_rate, "optimizer": optimizer or chosen["optimizer"],
        "data_fraction": data_fraction, "max_train_chars": max_train_chars, "max_minutes": max_minutes,
        "epochs": epochs, "keep_best": keep_best, "batch_windows": batch_windows,
        "data_digest": digest_tokens(tokens, data.val, data.test), "tokenizer_digest": data.tokenizer_digest,
        "code_digest": _loop_code(),
    }
    steps_per_epoch = -(-n_windows(len(tokens)) // batch_windows)
    run["key"] = value_digest(run)
    return {"name": name or run_name(run), **run,
            "steps": steps_per_epoch * epochs, "steps_per_epoch": steps_per_epoch,
            "tokens_per_step": batch_windows * BLOCK_SIZE, "train_chars": count_chars(tokens),
            "train_tokens": len(tokens), "params_total": counts["total"],
            "params_non_embedding": counts["non_embedding"], "flops_per_token": model.flops_per_token(),
            "train_flops": model.flops_per_token() * len(tokens) * epochs,
            "train_flops_6nd": 6.0 * counts["total"] * len(tokens) * epochs}


@functools.cache
def _loop_code():
    """Digest of the code that decides what a run gives; size tables, file handling and ABC are not part of it."""
    return code_digest([_train])


def run_name(run):
    """family_size, and what differs from seed 0, the tuned recipe and all of the data."""
    return (f"{run['family']}_{run['size']}" + ("" if run["recipe"] == "tuned" else f"_{run['recipe']}")
            + (f"_seed{run['seed']}" if run["seed"] else "")
            + (f"_frac{run['data_fraction']:g}" if run["data_fraction"] < 1 else ""))


def schedule(done):
    """Learning rate as a share of its peak after the share `done` of the run: linear warm-up, then linear decay to 0
    (Bergsma et al. 2025: to zero beats to a tenth)."""
    return min(done / WARMUP_SHARE, (1 - done) / (1 - WARMUP_SHARE), 1.0)


# ---------------------------------------------------------------- optimizer
# Muon for the hidden matrices, AdamW for the rest; or AdamW alone.

class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal by Newton-Schulz iterations (Jordan et al. 2024).

    Computes what torch.optim.Muon does with adjust_lr_fn="match_rms_adamw" (tested), so that one learning rate fits
    Muon and AdamW (Liu et al. 2025), but handles all matrices of one shape in the same calls.
    A parameter stacked of several matrices (q, k, v; the four gates of an LSTM) is treated as these: the group's
    "blocks" say how many lie one above the other.
    """

    def __init__(self, groups, lr, momentum=MOMENTUM, weight_decay=0.0):
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "blocks": 1})

    @torch.no_grad()
    def step(self):
        waiting = {}  # (rows, columns) -> [(matrix to change, learning rate, update)]
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                momentum = self.state[p]["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(momentum, group["momentum"])  # Nesterov
                p.mul_(1 - group["lr"] * group["weight_decay"])
                for matrix, change in zip(p.chunk(group["blocks"]), update.chunk(group["blocks"])):
                    if matrix.size(0) > matrix.size(1):
                        matrix, change = matrix.T, change.T
                    waiting.setdefault(tuple(matrix.shape), []).append((matrix, group["lr"], change))
        for (rows, columns), entries in waiting.items():
            updates = orthogonalize(torch.stack([change for *_, change in entries]))
            for (matrix, rate, _), update in zip(entries, updates.to(entries[0][0].dtype)):
                matrix.sub_(update, alpha=rate * 0.2 * math.sqrt(columns))


def orthogonalize(x):
    """Brings the singular values of each matrix of x (n, rows <= columns, columns) near 1."""
    x = x.bfloat16()
    x = x / x.float().norm(dim=(1, 2), keepdim=True).clamp(min=1e-7).bfloat16()
    a, b, c = MUON_COEFFICIENTS
    for _ in range(MUON_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def make_optimizers(model, run):
    """The run's optimizers for a model. Learning rates are set by the loop as rate * group["scale"]."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    hidden = [(name, p) for name, p in trained if p.ndim == 2 and "embedding" not in name and "head" not in name]
    ids = {id(p) for _, p in hidden}
    rest = [p for _, p in trained if id(p) not in ids]
    scale = 1.0 if run["recipe"] == "classic" else EMBEDDING_RATE[run["optimizer"]][run["family"]]
    groups = [{"params": rest, "scale": scale}]
    if run["optimizer"] == "adamw":
        groups.append({"params": [p for _, p in hidden], "scale": 1.0})
    optimizers = [torch.optim.AdamW(groups, lr=run["learning_rate"], betas=BETAS, weight_decay=WEIGHT_DECAY,
                                    fused=rest[0].device.type in ("cpu", "cuda"))]
    if run["optimizer"] == "muon":
        optimizers.append(Muon([{"params": [p], "scale": 1.0,
                                 "blocks": 3 if "qkv" in name else 4 if "lstm" in name else 1} for name, p in hidden],
                               run["learning_rate"], weight_decay=WEIGHT_DECAY))
    return optimizers


# ---------------------------------------------------------------- evaluation

@torch.no_grad()
def evaluate(model, tokens, device, batch_windows=16, precise=True):
    """Loss over a whole token stream: non-overlapping windows of the context's length, every token but BEGIN is a
    target once. Deterministic.

    Returns {"nats_per_char", "bits_per_char", "perplexity", "n_chars" (targets: characters and END tokens),
    "loss_by_position" (nats, 64 bins of 8 positions; None where nothing was predicted)}.
    precise: fp32, so that the number does not depend on what the hardware does with bf16.
    """
    was_training = model.training
    model.eval()
    rank, world = _rank(), _world()
    stream = to_tensor(np.append(np.asarray(tokens), np.full(BLOCK_SIZE + 1, BEGIN, tokens.dtype)), device)
    starts = torch.arange(n_windows(len(tokens)), device=device) * BLOCK_SIZE
    sums = torch.zeros(2, BLOCK_SIZE, dtype=torch.float64)
    for some in starts.split(batch_windows)[rank::world]:
        x, y = cut_windows(stream, some)
        with contextlib.nullcontext() if precise else autocast(device):
            logits, _ = model(x)
        loss = F.cross_entropy(logits.float().transpose(1, 2), y, ignore_index=IGNORE, reduction="none")
        sums += torch.stack((loss.sum(0), (y != IGNORE).sum(0))).cpu().double()
    if world > 1:
        sums = sums.to(device if torch.device(device).type == "cuda" else "cpu")
        dist.all_reduce(sums)
    model.train(was_training)
    total, count = sums.sum(1).tolist()
    if not count:
        raise ValueError("nothing to evaluate: the token stream holds no character")
    by_position = sums.view(2, POSITION_BINS, -1).sum(2).tolist()
    nats = total / count
    return {"nats_per_char": nats, "bits_per_char": nats / math.log(2), "perplexity": math.exp(min(nats, 700)),
            "n_chars": int(count), "loss_by_position": [n / k if k else None for n, k in zip(*by_position)]}


# ---------------------------------------------------------------- checkpoints
# A finished model (NAME.pt) and the state of an unfinished run (.NAME.state, and the one before it).

def weights_digest(weights):
    """SHA-256 over a state dict."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_checkpoint(path, weights, run, record):
    """Writes weights, configuration, tokenizer digest and record; readable with torch.load(weights_only=True)."""
    buffer = io.BytesIO()
    weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
    torch.save({"format": 1, "config": run["config"], "tokenizer_digest": run["tokenizer_digest"], "model": weights,
                "weights_digest": weights_digest(weights), "record": record}, buffer)
    with atomic(path, "wb") as file:
        file.write(buffer.getbuffer())


def load_checkpoint(path, device="cpu"):
    """(model in evaluation mode, checkpoint: dict with "config", "tokenizer_digest", "record"); ValueError if the
    file is damaged or no checkpoint of this project. Nothing in the file is executed."""
    path = Path(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        weights = checkpoint.pop("model")
        if weights_digest(weights) != checkpoint["weights_digest"]:
            raise ValueError("its weights do not have the digest recorded with them")
        model = build_model(checkpoint["config"])
        model.load_state_dict(weights)
    except FileNotFoundError:
        raise ValueError(f"{path.name} does not exist") from None
    except Exception as error:  # torch.load raises many kinds on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path.name} is damaged or no checkpoint of this project: {reason}") from None
    return model.to(device).eval(), checkpoint


def _state_paths(folder, name):
    return folder / f".{name}.state", folder / f".{name}.state.before"


def save_state(folder, name, state):
    """Writes an unfinished run's state: SHA-256 (64 hexadecimal digits), then what torch.save makes. The state before
    it is kept: at every moment there is a complete one on disk."""
    now, before = _state_paths(folder, name)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    new = folder / f".{name}.state.new"
    with atomic(new, "wb") as file:
        file.write(hashlib.sha256(buffer.getbuffer()).hexdigest().encode())
        file.write(buffer.getbuffer())
    if now.exists():
        os.replace(now, before)
    os.replace(new, now)


def load_state(folder, name, key):
    """The newest intact state of the run with this key, or None; says so on stderr if a damaged one is passed over."""
    for path in _state_paths(folder, name):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        if hashlib.sha256(content[64:]).hexdigest().encode() != content[:64]:
            print(f"{name}: {path.name} is damaged, it is not used", file=sys.stderr)
            continue
        state = torch.load(io.BytesIO(content[64:]), map_location="cpu", weights_only=True)
        if state["key"] == key:
            return state
    return None


def remove_state(folder, name):
    """Deletes the state of a run that is finished."""
    for path in (*_state_paths(folder, name), folder / f".{name}.state.new"):
        path.unlink(missing_ok=True)


def finished(root, run):
    """The record of this very run if it is complete on disk, else None."""
    record = read_json(Path(root) / f"checkpoints/{run['name']}.json")
    path = Path(root) / f"checkpoints/{run['name']}.pt"
    complete = (isinstance(record, dict) and record.get("key") == run["key"] and path.exists()
                and file_digest(path) == record.get("checkpoint_sha256"))
    return record if complete else None


# ---------------------------------------------------------------- machine

def _world():
    return dist.get_world_size() if dist.is_initialized() else 1


def _rank():
    return dist.get_rank() if dist.is_initialized() else 0


@contextlib.contextmanager
def processes(device):
    """Joins the processes that torchrun started, if it did; in all but the first, standard output is silent."""
    if "RANK" not in os.environ or dist.is_initialized():
        yield
        return
    dist.init_process_group("nccl" if torch.device(device).type == "cuda" else "gloo")
    try:
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(null if _rank() else sys.stdout):
            yield
    finally:
        dist.destroy_process_group()


def reset_peak_memory(device):
    """Starts a new measurement of peak memory (where the system can: Linux, CUDA)."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device):
    """Most memory in use since the last reset: of the GPU, or resident memory of the process; None if unknown."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return None


def device_name(device):
    """For the record: "cpu", "cuda NVIDIA H200" and the like."""
    device = torch.device(device)
    name = f"cuda {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type
    return name if _world() == 1 else f"{_world()} x {name}"


def is_out_of_memory(error):
    """True for the ways in which torch says that memory ran out."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(s in str(error) for s in ("not enough memory", "can't allocate memory",
                                                                         "out of memory")))


class Stopped(RuntimeError):
    """A run that must not go on; its message is for the user."""


# ---------------------------------------------------------------- the loop

def train(root, run, data, device, micro_batch=None, compile=False, again=False):
    """Carries out a run and returns its record (a dict).

    Writes below root/checkpoints: NAME.pt, NAME.json (the record, last), NAME.curve.jsonl; while it runs
    .NAME.state. A finished run is not repeated unless `again`; an interrupted one continues. Raises Stopped when the
    loss is no number, when memory does not suffice for one window, or when another process has this run.
    """
    folder = Path(root) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f".{run['name']}.lock", "a") as lock:
        if _rank() == 0:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Stopped(f"{run['name']} is being trained by another process in this root") from None
        record = finished(root, run)
        if record is None or again:
            if again and _rank() == 0:
                remove_state(folder, run["name"])
            if _world() > 1:
                dist.barrier()
            with _flag_on_signal() as asked_to_stop:
                record = _train(folder, run, data, device, micro_batch, compile, asked_to_stop)
    return record


@contextlib.contextmanager
def _flag_on_signal():
    """Yields a list that gets the signal when SIGTERM or SIGINT comes: the loop ends after the step at hand."""
    received = []

    def note(number, frame):
        if received:  # the second time: at once
            raise KeyboardInterrupt("terminated" if number == signal.SIGTERM else "")
        received.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread: signals are the caller's
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _train(folder, run, data, device, micro_batch, compile, asked_to_stop):
    device = torch.device(device)
    name, tokens = run["name"], subset(data.train, run["data_fraction"], run["max_train_chars"])
    reset_peak_memory(device)
    torch.manual_seed(run["seed"])
    model = build_model(run["config"]).to(device)
    optimizers = make_optimizers(model, run)
    s = {"key": run["key"], "step": 0, "seconds": 0.0, "nats": 0.0, "chars": 0, "curve": [], "best": None,
         "out_of_time": False}
    state = load_state(folder, name, run["key"])
    if state is not None:
        model.load_state_dict(state.pop("model"))
        for optimizer, saved in zip(optimizers, state.pop("optimizers")):
            optimizer.load_state_dict(saved)
        s.update(state)
        print(f"{name}: goes on from step {s['step']:,} of {run['steps']:,}")
    forward = _parallel(torch.compile(model) if compile else model, device)
    meter = _Meter(device, s["nats"], s["chars"])
    bar = progress(total=run["steps"], desc=name, unit="step")
    bar.update(s["step"])
    evaluate_at = _evaluation_steps(run)
    local = -(-run["batch_windows"] // _world())
    micro = [min(micro_batch or local, local)]
    clock, saved_at, epoch = time.monotonic() - s["seconds"], time.monotonic(), None

    def save():
        s["seconds"], (s["nats"], s["chars"]) = time.monotonic() - clock, meter.read()
        if _rank() == 0:
            save_state(folder, name, {**s, "model": model.state_dict(),
                                      "optimizers": [optimizer.state_dict() for optimizer in optimizers]})

    model.train()
    while s["step"] < run["steps"] and not s["out_of_time"]:
        step = s["step"]
        if step // run["steps_per_epoch"] != epoch:
            epoch = step // run["steps_per_epoch"]
            stream, starts = epoch_windows(tokens, run["seed"], epoch)
            stream, starts = to_tensor(stream, device), torch.from_numpy(starts).to(device)
        first = step % run["steps_per_epoch"] * run["batch_windows"]
        x, y = cut_windows(stream, starts[first:first + run["batch_windows"]])
        done = (step + 0.5) / run["steps"]
        if run["max_minutes"]:
            done = min(1.0, max(done, _of_first_process(time.monotonic() - clock) / (60 * run["max_minutes"])))
            s["out_of_time"] = done == 1.0
        rate = run["learning_rate"] * schedule(done)
        if run["config"]["dropout"]:
            torch.manual_seed(int(np.random.default_rng([run["seed"], step, _rank()]).integers(2**62)))
        meter.add(*_gradient(forward, optimizers, x, y, device, micro, name), step)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        meter.check(norm, step)
        if device.type != "cuda" or step % 20 == 0:  # asking a GPU means waiting for it
            _stop_if_no_number(meter, run, rate, s)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            optimizer.step()
        s["step"] += 1
        bar.update()
        if s["step"] in evaluate_at or s["out_of_time"]:
            _stop_if_no_number(meter, run, rate, s)
            seconds = time.monotonic() - clock
            train_nats = meter.mean()
            result = evaluate(model, data.val, device, precise=s["step"] == run["steps"])
            line = {"step": s["step"], "epoch": s["step"] / run["steps_per_epoch"],
                    "tokens": min(s["step"] * run["tokens_per_step"], run["train_tokens"] * run["epochs"]),
                    "seconds": round(seconds, 3),
                    "flops": run["train_flops"] * s["step"] / run["steps"], "learning_rate": rate,
                    "train_nats_per_char": train_nats, "val_nats_per_char": result["nats_per_char"]}
            s["curve"].append(line)
            bar.set_postfix(train=f"{line['train_nats_per_char']:.3f}", val=f"{line['val_nats_per_char']:.3f}")
            if run["keep_best"] and (s["best"] is None or result["nats_per_char"] < s["best"]["val_nats_per_char"]):
                s["best"] = {**line, "model": {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}}
            if _rank() == 0:
                write_text(folder / f"{name}.curve.jsonl", "".join(json.dumps(x) + "\n" for x in s["curve"]))
        if asked_to_stop or time.monotonic() - saved_at > CHECKPOINT_SECONDS:
            _stop_if_no_number(meter, run, rate, s)
            save()
            saved_at = time.monotonic()
            if asked_to_stop:
                bar.close()
                print(f"\n{name}: state saved after step {s['step']:,} of {run['steps']:,}", file=sys.stderr)
                raise KeyboardInterrupt("terminated" if asked_to_stop[0] == signal.SIGTERM else "")
    bar.close()
    save()
    return _finish(folder, run, data, device, model, s, tokens)


def _evaluation_steps(run):
    """The steps after which the validation split is evaluated: evenly spaced, ends of epochs and run included."""
    per_epoch = max(1, EVALUATIONS // run["epochs"])
    return {epoch * run["steps_per_epoch"] + max(1, round(run["steps_per_epoch"] * (i + 1) / per_epoch))
            for epoch in range(run["epochs"]) for i in range(per_epoch)}


def _of_first_process(number):
    """The first process's number: what is decided by a clock must be the same in all."""
    if _world() == 1:
        return number
    numbers = [number]
    dist.broadcast_object_list(numbers)
    return numbers[0]


def _parallel(model, device):
    if _world() == 1:
        return model
    ids = [torch.device(device).index] if torch.device(device).type == "cuda" else None
    return torch.nn.parallel.DistributedDataParallel(model, device_ids=ids)


def _gradient(forward, optimizers, x, y, device, micro, name):
    """Sets the gradient of the mean loss over a step's windows; returns (sum of nats, number of targets) on the
    device, of this process. micro: [windows per forward pass], halved in place when memory runs out."""
    rank, world = _rank(), _world()
    n_targets = (y != IGNORE).sum().clamp(min=1)
    if world > 1:  # every process gets as many windows; those that fill up have no targets
        missing = -len(x) % world
        x = torch.cat((x, x[:1].expand(missing, -1)))[rank::world]
        y = torch.cat((y, torch.full_like(y[:1], IGNORE).expand(missing, -1)))[rank::world]
    while True:
        try:
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            nats = torch.zeros((), device=device)
            parts = list(zip(x.split(micro[0]), y.split(micro[0])))
            for i, (inputs, targets) in enumerate(parts):
                wait = forward.no_sync() if world > 1 and i + 1 < len(parts) else contextlib.nullcontext()
                with wait:
                    with autocast(device):
                        _, loss = forward(inputs, targets)
                    part = loss * (targets != IGNORE).sum()
                    (part * (world / n_targets)).backward()
                nats = nats + part.detach()
            return nats, (y != IGNORE).sum()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if micro[0] == 1:
                raise Stopped(f"{name}: memory does not suffice for one window of {BLOCK_SIZE} tokens") from None
            micro[0] = (micro[0] + 1) // 2
            print(f"{name}: out of memory; goes on with {micro[0]} windows per forward pass (the step's tokens "
                  f"are unchanged)", file=sys.stderr)
        if torch.device(device).type == "cuda":
            torch.cuda.empty_cache()


class _Meter:
    """Sums of the training loss since the last evaluation, and the first step without a number; on the device, so
    that a GPU need not be waited for."""

    def __init__(self, device, nats=0.0, chars=0):
        kind = torch.float32 if device.type == "mps" else torch.float64
        self.nats = torch.tensor(nats, dtype=kind, device=device)
        self.chars = torch.tensor(chars, device=device)
        self.bad = torch.tensor(2**31 - 1, device=device)  # first step whose loss or gradient is no number

    def add(self, nats, chars, step):
        self.nats, self.chars = self.nats + nats, self.chars + chars
        self.check(nats, step)

    def check(self, value, step):
        self.bad = torch.where(torch.isfinite(value), self.bad, self.bad.clamp(max=step))

    def read(self):
        return float(self.nats), int(self.chars)

    def mean(self):
        """Mean loss in nats per character since the last call, over all processes."""
        sums = torch.stack((self.nats, self.chars.to(self.nats.dtype)))
        if _world() > 1:
            dist.all_reduce(sums)
        self.nats, self.chars = torch.zeros_like(self.nats), torch.zeros_like(self.chars)
        nats, chars = sums.tolist()
        return nats / chars if chars else None


def _stop_if_no_number(meter, run, rate, s):
    bad = int(meter.bad)
    if bad <= s["step"]:
        raise Stopped(f"{run['name']}: the loss or its gradient is not a finite number at step {bad:,} of "
                      f"{run['steps']:,} (learning rate {rate:.3g}); the last state saved on disk, if any, is from "
                      f"before that step; try a lower learning rate")


def _finish(folder, run, data, device, model, s, tokens):
    """Evaluates and writes a completed run; the record is written last."""
    seconds, last = s["seconds"], s["curve"][-1]
    if run["keep_best"]:
        model.load_state_dict(s["best"]["model"])
    share = min(1.0, last["step"] / run["steps"])
    measured = {split: evaluate(model, stream, device)
                for split, stream in (("val", data.val), ("test", data.test), ("train", _sample(tokens)))}
    done = int(run["train_tokens"] * run["epochs"] * share)
    record = {
        **{key: run[key] for key in run if key not in ("steps_per_epoch", "flops_per_token")},
        "steps": last["step"], "train_flops": run["train_flops"] * share,
        "train_flops_6nd": run["train_flops_6nd"] * share, "epochs": run["epochs"] * share,
        "epochs_planned": run["epochs"], "tokens_seen": done,
        "seconds": round(seconds, 3), "tokens_per_second": round(done / seconds, 1),
        "peak_memory_bytes": peak_memory_bytes(device), "device": device_name(device), "n_processes": _world(),
        "precision": common.precision(device), "threads": torch.get_num_threads(),
        "train_nats_per_char": measured["train"]["nats_per_char"],
        "train_eval_chars": measured["train"]["n_chars"],
        "val_nats_per_char": measured["val"]["nats_per_char"], "val_bits_per_char": measured["val"]["bits_per_char"],
        "val_chars": measured["val"]["n_chars"],
        "val_loss_by_position": measured["val"]["loss_by_position"],
        "test_nats_per_char": measured["test"]["nats_per_char"],
        "test_bits_per_char": measured["test"]["bits_per_char"], "test_chars": measured["test"]["n_chars"],
        "best_epoch": s["best"]["epoch"] if run["keep_best"] else None,
        "curve": f"{run['name']}.curve.jsonl",
    }
    if _rank() == 0:
        save_checkpoint(folder / f"{run['name']}.pt", model.state_dict(), run, record)
        record["checkpoint_sha256"] = file_digest(folder / f"{run['name']}.pt")
        write_json(folder / f"{run['name']}.json", record)
        remove_state(folder, run["name"])
    if _world() > 1:
        dist.barrier()
        record = read_json(folder / f"{run['name']}.json")
    return record


def _sample(tokens):
    """The start of the training stream, as much as is evaluated of it."""
    return tokens[:TRAIN_SAMPLE_WINDOWS * BLOCK_SIZE + 1]


# ---------------------------------------------------------------- suites
# What 04 and 05 share: command line, plan, table, the runs one after the other, the learning-rate sweep.

def suite_main(script, family, sizes, rates, doc, argv=None):
    """Trains a family's suite; the main() of 04 and 05.

    sizes: {size: shape}; rates: {optimizer: {size: peak learning rate}}, found with --sweep-lr.
    """
    args = suite_parser(doc).parse_args(argv)
    name = Path(script).stem
    try:
        device = common.pick_device(args.device)
        names = check_suite(args, family, sizes)
    except ValueError as problem:
        fail(f"{name}.py", str(problem), f"see: python {name}.py --help")
    with processes(device):
        stage = Stage(script, args, suite_config(args, sizes, rates), shared=True)
        try:
            data = load_data(stage.root)
        except ValueError as problem:
            fail(f"{name}.py", str(problem), f"run: python 03_tokenize_split.py{stage.flags} --force")
        if args.suite == "wide":
            sizes = wide_sizes(family, data.vocab_size)
        if args.sweep_lr:
            return sweep_learning_rates(stage, args, family, sizes, rates, data, device)
        runs = [run for run in plan_suite(args, family, sizes, rates, data) if run["size"] in names]
        todo = [run for run in runs if args.force or finished(stage.root, run) is None]
        if not todo and stage.up_to_date():
            return None
        with stage.writing() if _rank() == 0 else contextlib.nullcontext():
            if todo:
                print_plan(todo, data, device, args.micro_batch)
            records = []
            for run in todo:
                try:
                    record = train(stage.root, run, data, device, args.micro_batch, args.compile, again=args.force)
                except Stopped as problem:
                    fail(f"{name}.py", str(problem), "what is finished is kept; the same command goes on from there")
                print(f"{run['name']}: validation {record['val_nats_per_char']:.4f} nats per character, "
                      f"{record['seconds']:.0f} s, {record['tokens_per_second']:,.0f} tokens/s")
                records.append(record)
            if _rank() == 0:
                finish_suite(stage, family, sizes, data, runs, device)


def suite_parser(doc):
    """The command line of 04 and 05."""
    parser = stage_parser(doc, training=True)
    add = parser.add_argument
    add("--seeds", metavar="N[,N]", help="one model a size for each of these seeds (default: the one of --seed)")
    add("--suite", choices=("classical", "wide"), default="classical",
        help="classical: the study's sizes; wide: eight sizes from 0.03M to 30M non-embedding parameters, the same "
             "in both families within 1%% (default: classical)")
    add("--recipe", choices=tuple(RECIPES), default="tuned",
        help="classic: learned positions only, AdamW, 3e-4 for every size, dropout, as the original study trained "
             "(default: tuned)")
    add("--data-fractions", metavar="F[,F]", default="1",
        help="train every size on each of these shares of the training sequences; smaller shares lie within larger "
             "ones (default: 1)")
    add("--max-train-chars", type=int, metavar="N", help="characters of training text at most (default: all)")
    add("--epochs", type=int, default=1, metavar="N", help="passes over the training text (default: 1)")
    add("--max-minutes", type=float, metavar="MIN",
        help="minutes for each run at most: the learning rate decays to zero by then (default: no limit)")
    add("--learning-rate", type=float, metavar="LR", help="peak learning rate for all runs (default: as tuned)")
    add("--compile", action="store_true", help="torch.compile the models: pays on GPUs for runs of many minutes")
    add("--sweep-lr", nargs="?", const="muon", choices=("muon", "adamw"), metavar="muon|adamw",
        help="train every size of --only at five or more learning rates a factor of 2 apart and write "
             "docs/lr_sweep.json and docs/lr_sweep.png, instead of the suite")
    return parser


def check_suite(args, family, sizes):
    """The sizes to train; ValueError for values that make no sense. Turns lists in `args` into lists."""
    try:
        args.seeds = [int(s) for s in args.seeds.split(",")] if args.seeds else [args.seed]
        args.data_fractions = [float(f) for f in args.data_fractions.split(",")]
    except ValueError:
        raise ValueError("--seeds takes whole numbers, --data-fractions numbers, separated by commas") from None
    known = list(wide_shapes()) if args.suite == "wide" else list(sizes)
    names = [n.removeprefix(f"{family}_") for n in args.only.split(",")] if args.only else known
    problems = [f"--only {n}: there is no such size; there are {', '.join(known)}" for n in names if n not in known]
    if any(not 0 < f <= 1 for f in args.data_fractions):
        problems.append("--data-fractions must lie above 0 and be at most 1")
    if min(args.seeds) < 0:
        problems.append("--seeds must not be negative")
    for flag in ("max_train_chars", "epochs", "max_minutes", "learning_rate", "micro_batch"):
        if getattr(args, flag) is not None and not 0 < getattr(args, flag) < math.inf:
            problems.append(f"--{flag.replace('_', '-')} must be above 0")
    if problems:
        raise ValueError("\n".join(problems))
    return names


def suite_config(args, sizes, rates):
    """What decides the outputs, for the stage's manifest. --only does not: a suite may be made in parts."""
    flags = ("seeds", "suite", "recipe", "data_fractions", "max_train_chars", "epochs", "max_minutes", "learning_rate")
    return {"sizes": sizes, "learning_rates": rates, **{flag: getattr(args, flag) for flag in flags}}


def plan_suite(args, family, sizes, rates, data):
    """The runs of a suite, smallest first, seed by seed."""
    return [plan_run(data, family, size, shape, choose_rate(args, size, shape, sizes, rates), seed=seed,
                     recipe=args.recipe, suite=args.suite, epochs=args.epochs, data_fraction=fraction,
                     max_train_chars=args.max_train_chars, max_minutes=args.max_minutes)
            for fraction in args.data_fractions for seed in args.seeds for size, shape in sizes.items()]


def choose_rate(args, size, shape, sizes, rates):
    """The peak learning rate of a run: asked for, of the recipe, or tuned; for sizes without a sweep that of the
    tuned size nearest in width."""
    if args.learning_rate:
        return args.learning_rate
    if args.recipe == "classic":
        return CLASSIC_LEARNING_RATE
    tuned = rates[RECIPES[args.recipe]["optimizer"]]
    if size in tuned:
        return tuned[size]
    widths = {"tiny": 64, "small": 128, "medium": 192, "large": 256, "xl": 320}
    width = shape.get("d_model", shape.get("d_hidden", 0) / 2)
    return tuned[min(tuned, key=lambda known: abs(math.log(widths[known] / width)))]


def wide_shapes():
    """The eight Transformers of the wide suite: three decades of non-embedding parameters."""
    return {f"w{i}": {"n_layer": n_layer, "n_head": n_head, "d_model": d, "d_ff": 4 * d}
            for i, (n_layer, n_head, d) in enumerate([(2, 2, 32), (3, 2, 48), (3, 2, 80), (4, 2, 128), (5, 4, 192),
                                                      (6, 6, 288), (7, 8, 416), (8, 8, 576)], start=1)}


def wide_sizes(family, vocab_size):
    """The wide suite's shapes for a family. The LSTMs (two layers) are searched for: hidden and embedding width such
    that the non-embedding parameters are nearest those of the Transformer of the same name."""
    if family == "transformer":
        return wide_shapes()
    shapes = {}
    for name, t in wide_shapes().items():
        d = t["d_model"]
        wanted = t["n_layer"] * (4 * d * d + 2 * d * t["d_ff"] + 2 * d) + d + d * vocab_size
        def excess(E, H):
            return abs(4 * H * (E + H) + 8 * H * H + H * vocab_size - wanted)
        width = math.sqrt(wanted / 14)  # 14 H^2 weights at E = H / 2
        E, H = min(((E, H) for H in range(int(width * 0.9) // 2 * 2, int(width * 1.1) + 2, 2)
                    for E in range(int(0.35 * H), int(0.65 * H))), key=lambda p: excess(*p))
        shapes[name] = {"n_layer": 2, "d_embedding": E, "d_hidden": H}
    return shapes


def calibrate(run, data, device, seconds, micro_batch=None):
    """Tokens per second of a run's steps on this machine, measured for about `seconds` (at least two steps)."""
    torch.manual_seed(0)
    model = build_model(run["config"]).to(device)
    optimizers = make_optimizers(model, run)
    stream = to_tensor(np.resize(np.asarray(data.train[:1 << 16]), run["tokens_per_step"] + 1), device)
    x, y = cut_windows(stream, torch.arange(run["batch_windows"], device=device) * BLOCK_SIZE)
    micro, times = [micro_batch or run["batch_windows"]], []
    while len(times) < 3 or sum(times) < seconds:
        started = time.monotonic()
        _gradient(model, optimizers, x, y, torch.device(device), micro, run["name"])
        for optimizer in optimizers:
            optimizer.step()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.monotonic() - started)
    return _world() * run["tokens_per_step"] / float(np.median(times[1:]))


def print_plan(runs, data, device, micro_batch=None):
    """Prints what is about to be trained, and how long it should take here."""
    print(f"{'run':32} {'parameters':>11} {'non-emb.':>11} {'tokens':>12} {'steps':>8} {'FLOPs':>8} {'minutes':>8}")
    total = 0.0
    for run in runs:
        rate = calibrate(run, data, device, CALIBRATION_SECONDS / len(runs), micro_batch)
        tokens = run["train_tokens"] * run["epochs"]
        minutes = min(tokens / rate / 60, run["max_minutes"] or math.inf)
        total += minutes
        print(f"{run['name']:32} {run['params_total']:11,} {run['params_non_embedding']:11,} {tokens:12,} "
              f"{run['steps']:8,} {run['train_flops']:8.1e} {minutes:8.1f}")
    print(f"expected minutes: {total:.1f} on {device_name(device)}", flush=True)


def finish_suite(stage, family, sizes, data, runs, device):
    """Writes the manifest over every run of this family on disk that was made from this data by this code: a suite
    may be made in parts, by several processes, and seeds or fractions may be added to it."""
    with open(stage.root / f"checkpoints/.{stage.name}.finish.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        planned = {run["name"]: run for run in runs}
        complete = []
        for path in sorted((stage.root / "checkpoints").glob(f"{family}_*.json")):
            record = read_json(path)
            run = planned.get(path.stem) or replan(record, family, sizes, data)
            if run and finished(stage.root, run):
                complete.append(record)
        missing = sorted(set(planned) - {record["name"] for record in complete})
        best = min(complete, key=lambda record: record["val_nats_per_char"], default=None)
        outputs = [f"checkpoints/{r['name']}{end}" for r in complete for end in (".pt", ".json", ".curve.jsonl")]
        stage.finish(outputs, counts={"runs": len(complete)}, extra={"missing": missing}, device=device_name(device),
                     summary={"runs": len(complete), **({"not yet trained": ", ".join(missing)} if missing else {}),
                              **({"best": f"{best['name']}, validation {best['val_nats_per_char']:.4f} nats per "
                                          f"character"} if best else {})})


def replan(record, family, sizes, data):
    """The run that a record on disk would be with today's sizes, data and code; None if it cannot be."""
    try:
        shapes = wide_sizes(family, data.vocab_size) if record["suite"] == "wide" else sizes
        return plan_run(data, family, record["size"], shapes[record["size"]], record["learning_rate"],
                        seed=record["seed"], recipe=record["recipe"], suite=record["suite"],
                        epochs=record["epochs_planned"], data_fraction=record["data_fraction"],
                        max_train_chars=record["max_train_chars"], max_minutes=record["max_minutes"],
                        optimizer=record["optimizer"])
    except (KeyError, TypeError):
        return None


# ---------------------------------------------------------------- learning-rate sweep

SWEEP_FACTOR = 2.0  # between neighbouring learning rates
SWEEP_MAX_RUNS = 9  # a size; more are added at the open end while the best lies at an end


def sweep_learning_rates(stage, args, family, sizes, rates, data, device):
    """Trains each size of --only at learning rates around the present one until the best has neighbours on both
    sides, then the best once more with a fresh seed (the winner of a sweep owes part of its loss to luck); merges
    the outcome into docs/lr_sweep.json and draws docs/lr_sweep.png beside it."""
    optimizer, scratch = args.sweep_lr, stage.root / "checkpoints/.sweep"
    path = HERE / "docs/lr_sweep.json"
    for size in (args.only.split(",") if args.only else sizes):
        def run_at(rate, seed=0):
            run = plan_run(data, family, size, sizes[size], rate, seed=seed, optimizer=optimizer,
                           max_train_chars=args.max_train_chars, name=f"{family}_{size}_{optimizer}_{rate:.3g}_{seed}")
            try:
                record = train(scratch, run, data, device, args.micro_batch)
            except Stopped as problem:
                print(problem, file=sys.stderr)
                return {"learning_rate": rate, "seed": seed, "val_nats_per_char": None, "train_nats_per_char": None}
            print(f"{run['name']}: {record['val_nats_per_char']:.4f}", flush=True)
            return {"learning_rate": rate, "seed": seed, "val_nats_per_char": round(record["val_nats_per_char"], 5),
                    "train_nats_per_char": round(record["train_nats_per_char"], 5)}
        center = rates[optimizer].get(size) or choose_rate(args, size, sizes[size], sizes, rates)
        tried = {k: run_at(center * SWEEP_FACTOR ** k) for k in (0, -1, 1, -2, 2)}
        def loss(k):
            return math.inf if tried[k]["val_nats_per_char"] is None else tried[k]["val_nats_per_char"]
        while (best := min(tried, key=loss)) in (min(tried), max(tried)) and len(tried) < SWEEP_MAX_RUNS:
            k = best - 1 if best == min(tried) else best + 1
            tried[k] = run_at(center * SWEEP_FACTOR ** k)
        outcome = {"best": tried[best]["learning_rate"], "inside": min(tried) < best < max(tried),
                   "runs": [tried[k] for k in sorted(tried)], "fresh_seed": run_at(tried[best]["learning_rate"], 1),
                   "train_chars": count_chars(subset(data.train, 1.0, args.max_train_chars)),
                   "val_chars": len(data.val), "batch_windows": BATCH_WINDOWS}
        swept = read_json(path) or {}
        swept.setdefault(family, {}).setdefault(size, {})[optimizer] = outcome
        write_json(path, swept)
        draw_sweeps(swept, path.with_suffix(".png"))
        print(f"{family} {size} {optimizer}: best learning rate {outcome['best']:.3g}"
              + ("" if outcome["inside"] else " (at the end of the range: not settled)"))
    print(f"wrote: {path.relative_to(HERE)}, {path.with_suffix('.png').relative_to(HERE)}; "
          f"enter the rates in LEARNING_RATES of {stage.name}.py")


def draw_sweeps(swept, path):
    """Loss against learning rate, a panel for each family and optimizer, a line for each size."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter
    panels = [(family, optimizer) for family in sorted(swept, reverse=True) for optimizer in ("muon", "adamw")
              if any(optimizer in sizes for sizes in swept[family].values())]
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.8), sharex=True, sharey=True,
                                squeeze=False)
    for axis, (family, optimizer) in zip(axes[0], panels):
        for size, outcomes in swept[family].items():
            points = [(r["learning_rate"], r["val_nats_per_char"]) for r in outcomes.get(optimizer, {}).get("runs", ())
                      if r["val_nats_per_char"] is not None]
            if points:
                axis.plot(*zip(*points), "o-", label=size)
                axis.plot(*min(points, key=lambda p: p[1]), "k*", markersize=11)
        axis.set(xscale="log", xlabel="peak learning rate", title=f"{family}, {optimizer}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.legend()
    axes[0][0].set_ylabel("validation, nats per character")
    figure.tight_layout()
    with atomic(path, "wb") as file:
        figure.savefig(file, format="png", dpi=120)
    plt.close(figure)
