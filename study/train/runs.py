"""Runs: what decides one (its plan and key), and how it is carried out, from lock to record.

    data = load_data(root)
    run = plan_run(data, RunSpec("transformer", "tiny", SIZES["tiny"], learning_rate=0.01))
    record = train(root, run, data, pick_device("auto"))

A *plan* is a dict of the JSON values that decide the result; its key is their digest.
"""

import contextlib
import fcntl
import functools
import json
import math
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from study.stages.code_key import code_digest
from study.stages.files import file_digest, read_json, value_digest, write_json, write_text
from study.stages.process import progress

import numpy as np
import torch

from common import END, precision
from study.families import build_model, model_class
from study.train import machine
from study.train.checkpoints import finished, load_state, remove_state, save_checkpoint, save_state
from study.train.data import BLOCK_SIZE, count_chars, digest_tokens, n_windows, subset
from study.train.loop import Loop, Stopped

RECIPES = {"tuned": "muon", "classic": "adamw"}  # optimizers; the rest stands in the model's class
BATCH_WINDOWS = 2  # a step, on BATCH_TOKENS of text and less; more by the root of the text
BATCH_TOKENS = 600_000
WEIGHT_DECAY = 0.5  # times the rate, of hidden matrices, if epochs > 1; benchmarks/training.md
HEADLINE_SEED = 2  # the learning rates were chosen with seeds 0 and 1
QUICK_TRAIN_CHARS = 250_000  # of each model of the suite with --quick: minutes on two cores
CHECKPOINT_SECONDS = 60  # between saved states of a run


# ---------------------------------------------------------------- plan


@dataclass(frozen=True)
class RunSpec:
    """What is asked of a run; the rest of its plan follows from data and code."""

    family: str
    size: str
    shape: dict  # the size's entries of the configuration: n_layer, d_model, ...
    learning_rate: float  # at its peak
    seed: int = HEADLINE_SEED
    recipe: str = "tuned"
    suite: str = "classical"
    epochs: int = 1  # passes over the text
    data_fraction: float = 1.0
    max_train_chars: int | None = None
    max_minutes: float | None = None  # of training, evaluation not counted
    optimizer: str | None = None  # default: the recipe's
    keep_best: bool = False  # the checkpoint is that of the lowest validation loss, not the last
    batch_windows: int | None = None  # a step; default: by the amount of text
    name: str | None = None  # of its files; default: family_size and what differs from the default
    dropout: float | None = None  # default: the family's
    start: str | None = None  # digest of the weights to start from; default: drawn by the seed


def plan_run(data, spec):
    """Returns the plan of a run: what is asked, model configuration, digests of data and code,
    costs and key. ValueError if there is less than one window of text."""
    family_class = model_class(spec.family)
    tokens = subset(data.train, data.token_chars, spec.data_fraction, spec.max_train_chars)
    if len(tokens) <= BLOCK_SIZE < len(data.train):
        problem = f"so little training text holds no window of {BLOCK_SIZE} tokens"
        raise ValueError(f"{problem}: it has {len(tokens):,}")
    run = asdict(spec)
    shape, dropout, name, start = (run.pop(key) for key in ("shape", "dropout", "name", "start"))
    if dropout is None:
        dropout = family_class.DROPOUT[spec.recipe]
    if start:
        run["start"] = start
    if spec.optimizer is None:
        run["optimizer"] = RECIPES[spec.recipe]
    decays = spec.epochs > 1 and spec.recipe == "tuned" and not start
    run["weight_decay"] = WEIGHT_DECAY if decays else 0.0
    if spec.batch_windows is None:
        chars_per_token = mean_chars(tokens, data.token_chars)
        run["batch_windows"] = windows_per_step(len(tokens) * spec.epochs, chars_per_token)
    run["config"] = {
        "family": spec.family,
        "vocab_size": data.vocab_size,
        "block_size": BLOCK_SIZE,
        **shape,
        "dropout": dropout,
        **dict.fromkeys(family_class.FLAGS, spec.recipe == "tuned"),
    }
    run["data_digest"] = digest_tokens(tokens, data.val, data.test)
    run["tokenizer_digest"] = data.tokenizer_digest
    run["code_digest"] = run_code(spec.family)
    run |= costs(run, tokens, data.token_chars)
    return {"name": name or run_name(run), **run, "key": value_digest(run)}


def costs(run, tokens, token_chars):
    """Returns steps, text, parameters and floating-point operations of a run."""
    with torch.device("meta"):
        model = build_model(run["config"])
    counts, flops_per_token = model.count_parameters(), model.flops_per_token()
    steps_per_epoch = math.ceil(n_windows(len(tokens)) / run["batch_windows"])
    tokens_read = len(tokens) * run["epochs"]
    return {
        "steps": steps_per_epoch * run["epochs"],
        "steps_per_epoch": steps_per_epoch,
        "tokens_per_step": run["batch_windows"] * BLOCK_SIZE,
        "train_chars": count_chars(tokens, token_chars),
        "train_tokens": len(tokens),
        "params_total": counts["total"],
        "params_non_embedding": counts["non_embedding"],
        "flops_per_token": flops_per_token,
        "train_flops": flops_per_token * tokens_read,
        "train_flops_6nd": 6.0 * counts["total"] * tokens_read,
    }


def windows_per_step(n_tokens, chars_per_token=1.0):
    """Returns the windows of a step: BATCH_WINDOWS times a power of two, divided by the characters
    of a token, so that all tokenizers take equally many steps.

    >>> windows_per_step(600_000), windows_per_step(300_000, 2.0), windows_per_step(2_400_000, 2.6)
    (2, 1, 3)
    """
    doublings = round(math.log2(math.sqrt(n_tokens * chars_per_token / BATCH_TOKENS)))
    return max(1, round(BATCH_WINDOWS * 2 ** max(0, doublings) / chars_per_token))


def mean_chars(tokens, token_chars):
    """Returns the mean characters of a target."""
    n_ends = int((np.asarray(tokens) == END).sum())  # each with a BEGIN, which is no target
    return (count_chars(tokens, token_chars) + n_ends) / (len(tokens) - n_ends)


@functools.cache
def run_code(family):
    """Returns the digest of the code that decides a result; that of plans counts by its values."""
    return code_digest((Loop, make_record, model_class(family)))


def run_name(run):
    name = f"{run['family']}_{run['size']}"
    if run["recipe"] != "tuned":
        name += f"_{run['recipe']}"
    if run["seed"] != HEADLINE_SEED:
        name += f"_seed{run['seed']}"
    if run["data_fraction"] < 1:
        name += f"_frac{run['data_fraction']:g}"
    return name


def shape_of(config):
    """Returns those entries of a configuration that stand in SIZES."""
    others = {"family", "vocab_size", "block_size", "dropout", *model_class(config["family"]).FLAGS}
    return {key: value for key, value in config.items() if key not in others}


# ---------------------------------------------------------------- carrying out


def train(root, run, data, device, again=False, weights=None):
    """Carries out a run and returns its record. weights: the state dict that `start` stands for.

    Writes below root/checkpoints: NAME.pt, NAME.curve.jsonl and, last, NAME.json (the record);
    while it runs .NAME.state, from which an interrupted run continues. A finished run is not
    repeated unless `again`. Raises Stopped, also when another process has this run.
    """
    folder = Path(root) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f".{run['name']}.lock", "a+") as lock:
        if machine.rank() == 0:
            _lock(lock, run["name"])
        record = None if again else finished(root, run)
        if record is None:
            if again and machine.rank() == 0:
                remove_state(folder, run["name"])
            machine.wait_for_all()
            machine.reset_peak_memory(device)
            loop = Loop(run, data, device)
            if weights is not None:
                loop.model.load_state_dict(weights)
            with _flag_on_signal() as asked_to_stop:
                _to_the_end(loop, folder, asked_to_stop)
            record = _write_record(loop, folder)
    return record


def _lock(lock, name):
    """Takes a run's lock; raises Stopped if another process has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        problem = f"{name} is being trained in this root by {lock.read()}"
        raise Stopped(f"{problem}; wait until it has ended, or stop it") from None
    lock.truncate(0)
    lock.write(f"process {os.getpid()}, started {time.strftime('%F %T')}")
    lock.flush()


def _to_the_end(loop, folder, asked_to_stop):
    """Takes the steps that are left; saves the state now and then, at a signal and at the end."""
    name, n_steps = loop.run["name"], loop.run["steps"]
    saved = load_state(folder, name, loop.run["key"])
    if saved is not None:
        loop.restore(saved)
        print(f"{name}: goes on from step {loop.state.step:,} of {n_steps:,}")

    def save():
        loop.stop_if_no_number()
        state = loop.to_save()
        if machine.rank() == 0:
            save_state(folder, name, {"key": loop.run["key"], **state})

    saved_at = time.monotonic()
    with progress(total=n_steps, desc=name, unit="step") as bar:
        bar.update(loop.state.step)
        while not loop.ended:
            line = loop.advance()
            bar.update()
            if line:
                bar.set_postfix(validation=f"{line['val_nats_per_char']:.3f}")
                if machine.rank() == 0:
                    curve = "".join(json.dumps(line) + "\n" for line in loop.state.curve)
                    write_text(folder / f"{name}.curve.jsonl", curve)
            if asked_to_stop:
                break
            if time.monotonic() - saved_at > CHECKPOINT_SECONDS:
                save()
                saved_at = time.monotonic()
    save()
    if asked_to_stop:
        done = f"state saved after step {loop.state.step:,} of {n_steps:,}"
        print(f"\n{name}: {done}", file=sys.stderr)
        raise KeyboardInterrupt(asked_to_stop[0])


@contextlib.contextmanager
def _flag_on_signal():
    """Yields a list that gets a word at SIGTERM or SIGINT; a second Ctrl-C ends at once."""
    words = []

    def note(number, frame):
        words.append("terminated" if number == signal.SIGTERM else "")
        if len(words) > 1 and number == signal.SIGINT:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield words
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------- record


def _write_record(loop, folder):
    """Evaluates an ended run and writes it, the record last; returns the record."""
    name, device = loop.run["name"], loop.device
    measured = loop.measure()
    measured_by = {
        "peak_memory_bytes": machine.peak_memory_bytes(device),
        "device": machine.device_name(device),
        "n_processes": machine.n_processes(),
        "precision": precision(device),
        "threads": torch.get_num_threads(),
    }
    record = make_record(loop.run, loop.state, measured, measured_by)
    if machine.rank() == 0:
        save_checkpoint(folder / f"{name}.pt", loop.model.state_dict(), loop.run, record)
        record["checkpoint_sha256"] = file_digest(folder / f"{name}.pt")
        write_json(folder / f"{name}.json", record)
        remove_state(folder, name)
    machine.wait_for_all()
    return read_json(folder / f"{name}.json")


def make_record(run, state, measured, measured_by):
    """Returns the record of an ended run: its plan, what was done of it (`LoopState`), its losses
    (of `Loop.measure`), machine and memory."""
    last, val, test = state.curve[-1], measured["val"], measured["test"]
    share = min(1.0, last["step"] / run["steps"])  # below 1: max_minutes were over
    tokens_seen = int(run["train_tokens"] * run["epochs"] * share)
    return {
        **{key: run[key] for key in run if key not in ("steps_per_epoch", "flops_per_token")},
        "steps": last["step"],
        "train_flops": run["train_flops"] * share,
        "train_flops_6nd": run["train_flops_6nd"] * share,
        "epochs": run["epochs"] * share,
        "epochs_planned": run["epochs"],
        "tokens_seen": tokens_seen,
        "chars_seen": int(run["train_chars"] * run["epochs"] * share),
        "seconds": round(state.seconds, 3),
        "evaluation_seconds": round(state.evaluation_seconds, 3),
        "tokens_per_second": round(tokens_seen / state.seconds, 1),
        **measured_by,
        "train_nats_per_char": measured["train"]["nats_per_char"],
        "val_nats_per_char": val["nats_per_char"],
        "val_bits_per_char": val["bits_per_char"],
        "val_chars": val["n_chars"],
        "val_tokens": val["n_tokens"],
        "val_loss_by_position": val["loss_by_position"],
        "test_nats_per_char": test["nats_per_char"],
        "test_bits_per_char": test["bits_per_char"],
        "test_chars": test["n_chars"],
        "test_tokens": test["n_tokens"],
        "test_nats_by_sequence": test["nats_by_sequence"],
        "best_epoch": state.best["epoch"] if run["keep_best"] else None,
        "curve": f"{run['name']}.curve.jsonl",
    }
