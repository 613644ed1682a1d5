"""Runs: what decides one (its plan and key), and how it is carried out in a root, from the lock to
the record.

A *plan* is a dict of JSON values that decides the result; its key is their digest together with
that of the data and of the code. `train` carries a plan out, continues an interrupted run from its
last state, and returns the record of a finished one without training.

    data = load_data(root)
    run = plan_run(data, RunSpec("transformer", "tiny", SIZES["tiny"], learning_rate=0.01))
    record = train(root, run, data, pick_device("auto"))
    model, checkpoint = load_checkpoint(root / "checkpoints/transformer_tiny.pt")
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
from dataclasses import dataclass
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

# name -> optimizer; dropout and flags stand in the model's class
RECIPES = {"tuned": "muon", "classic": "adamw"}
# windows a step on the smallest corpus; benchmarks/training.md: 4 lose 0.04-0.06 nats in one epoch
BATCH_WINDOWS = 2
# training tokens for which that was measured; batches grow as the root of the tokens
BATCH_TOKENS = 600_000
# of hidden matrices where text is read more than once, times the rate; benchmarks/training.md
WEIGHT_DECAY = 0.5
# of training where nothing else is asked: the learning rates were chosen with seeds 0 and 1
HEADLINE_SEED = 2
# with --quick each model of the suite trains on so much of the text: minutes on two cores
QUICK_TRAIN_CHARS = 280_000
CHECKPOINT_SECONDS = 60  # between saved states of a run


# ---------------------------------------------------------------- plan
# What a run is: all that decides its result.


@dataclass(frozen=True)
class RunSpec:
    """What is asked of a run. The rest of its plan follows from the data and the code."""

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
    # of training, evaluation not counted: the run ends then, with the schedule shaped for that
    max_minutes: float | None = None
    optimizer: str | None = None  # default: the recipe's
    keep_best: bool = False  # the checkpoint is that of the lowest validation loss, not the last
    batch_windows: int | None = None  # a step; default: by the amount of text
    name: str | None = None  # of its files; default: family_size and what differs from the default
    dropout: float | None = None  # default: the family's
    start: str | None = None  # digest of the weights to start from; default: drawn by the seed
    # of the hidden matrices; default: WEIGHT_DECAY for several epochs of the tuned recipe from
    # nothing, else none
    weight_decay: float | None = None


def plan_run(data, spec):
    """Plans a run: returns a dict of JSON values with its name, model configuration, budget, costs
    and key. ValueError if data_fraction and max_train_chars leave less than one window of text."""
    family_class = model_class(spec.family)
    tokens = subset(data.train, data.token_chars, spec.data_fraction, spec.max_train_chars)
    if len(tokens) <= BLOCK_SIZE < len(data.train):
        raise ValueError(
            f"so little training text holds no window of {BLOCK_SIZE} tokens: it has"
            f" {len(tokens):,}"
        )
    dropout = family_class.DROPOUT[spec.recipe] if spec.dropout is None else spec.dropout
    weight_decay = spec.weight_decay
    if weight_decay is None:
        decays = spec.epochs > 1 and spec.recipe == "tuned" and not spec.start
        weight_decay = WEIGHT_DECAY if decays else 0.0
    batch_windows = spec.batch_windows or windows_per_step(
        len(tokens) * spec.epochs, mean_chars(tokens, data.token_chars)
    )
    run = {
        "family": spec.family,
        "size": spec.size,
        "seed": spec.seed,
        "suite": spec.suite,
        "recipe": spec.recipe,
        "config": {
            "family": spec.family,
            "vocab_size": data.vocab_size,
            "block_size": BLOCK_SIZE,
            **spec.shape,
            "dropout": dropout,
            **family_class.recipe_flags(spec.recipe),
        },
        "learning_rate": spec.learning_rate,
        "optimizer": spec.optimizer or RECIPES[spec.recipe],
        "weight_decay": weight_decay,
        "data_fraction": spec.data_fraction,
        "max_train_chars": spec.max_train_chars,
        "max_minutes": spec.max_minutes,
        "epochs": spec.epochs,
        "keep_best": spec.keep_best,
        "batch_windows": batch_windows,
        "data_digest": digest_tokens(tokens, data.val, data.test),
        "tokenizer_digest": data.tokenizer_digest,
        "code_digest": run_code(spec.family),
    }
    if spec.start:
        run["start"] = spec.start
    planned = costs(run, tokens, data.token_chars)
    run["key"] = value_digest({**run, **planned})
    return {"name": spec.name or run_name(run), **run, **planned}


def costs(run, tokens, token_chars):
    """What a run takes if it is carried out to its end: steps, text, parameters, floating-point
    operations."""
    with torch.device("meta"):
        model = build_model(run["config"])
    counts, flops_per_token = model.count_parameters(), model.flops_per_token()
    steps_per_epoch = math.ceil(n_windows(len(tokens)) / run["batch_windows"])
    return {
        "steps": steps_per_epoch * run["epochs"],
        "steps_per_epoch": steps_per_epoch,
        "tokens_per_step": run["batch_windows"] * BLOCK_SIZE,
        "train_chars": count_chars(tokens, token_chars),
        "train_tokens": len(tokens),
        "params_total": counts["total"],
        "params_non_embedding": counts["non_embedding"],
        "flops_per_token": flops_per_token,
        "train_flops": flops_per_token * len(tokens) * run["epochs"],
        "train_flops_6nd": 6.0 * counts["total"] * len(tokens) * run["epochs"],
    }


def windows_per_step(n_tokens, chars_per_token=1.0):
    """Windows a step for a run over so many tokens: a power of two times BATCH_WINDOWS where a
    token is a character.

    With tokens of several characters as many windows as hold that much text, so that models of all
    alphabets take
    equally many steps over a text: rounded, and at least one. (A window of 512 tokens is more music
    then; that is what such an alphabet brings.)

    >>> windows_per_step(600_000), windows_per_step(300_000, 2.0), windows_per_step(2_400_000, 2.6)
    (2, 1, 3)
    """
    windows = BATCH_WINDOWS * 2 ** max(
        0, round(math.log2(math.sqrt(n_tokens * chars_per_token / BATCH_TOKENS)))
    )
    return max(1, round(windows / chars_per_token))


def mean_chars(tokens, token_chars):
    """Characters that a target of the training loss stands for, in the mean over a stream: 1 if
    tokens are characters.
    """
    n_ends = int((np.asarray(tokens) == END).sum())  # each with a BEGIN, which is no target
    return (count_chars(tokens, token_chars) + n_ends) / (len(tokens) - n_ends)


@functools.cache
def run_code(family):
    """Digest of the code that decides what a run of this family gives: the loop, the record and the
    family's class. Size tables, plans (their values are in the key), files, messages and other
    families are not part of it."""
    return code_digest((Loop, make_record, model_class(family)))


def run_name(run):
    """family_size, and what differs from the headline's seed, the tuned recipe and all
    sequences."""
    return (
        f"{run['family']}_{run['size']}"
        + ("" if run["recipe"] == "tuned" else f"_{run['recipe']}")
        + (f"_seed{run['seed']}" if run["seed"] != HEADLINE_SEED else "")
        + (f"_frac{run['data_fraction']:g}" if run["data_fraction"] < 1 else "")
    )


def shape_of(config):
    """The entries of a run's configuration that are its size's (those of SIZES)."""
    others = {
        "family",
        "vocab_size",
        "block_size",
        "dropout",
        *(
            flag
            for recipe in RECIPES
            for flag in model_class(config["family"]).recipe_flags(recipe)
        ),
    }
    return {key: value for key, value in config.items() if key not in others}


# ---------------------------------------------------------------- carrying out


def train(root, run, data, device, again=False, weights=None):
    """Carries out a run and returns its record (a dict). weights: the state dict that the plan's
    `start` stands for.

    Writes below root/checkpoints: NAME.pt, NAME.json (the record, last), NAME.curve.jsonl; while it
    runs .NAME.state. A finished run is not repeated unless `again`; an interrupted one continues. Raises
    Stopped when the loss is no number, when memory does not suffice for one window, or when another
    process has this run.
    """
    folder = Path(root) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f".{run['name']}.lock", "a+") as lock:
        if machine.rank() == 0:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise Stopped(
                    f"{run['name']} is being trained in this root by {lock.read()}; wait until it"
                    " has ended, or stop it"
                ) from None
            lock.truncate(0)
            lock.write(f"process {os.getpid()}, started {time.strftime('%F %T')}")
            lock.flush()
        record = None if again else finished(root, run)
        if record is None:
            if again and machine.rank() == 0:
                remove_state(folder, run["name"])
            machine.wait_for_all()
            machine.reset_peak_memory(device)
            loop = Loop(run, data, device)
            if weights is not None:  # before a saved state is restored, which lies further on
                loop.model.load_state_dict(weights)
            with _flag_on_signal() as asked_to_stop:
                _to_the_end(loop, folder, asked_to_stop)
            record = _write_record(loop, folder)
    return record


def _to_the_end(loop, folder, asked_to_stop):
    """Takes the steps of a run that are left, with a bar on the terminal; saves its state once a
    minute, after the last step, and before it ends because a signal came."""
    name, n_steps = loop.run["name"], loop.run["steps"]
    saved = load_state(folder, name, loop.run["key"])
    if saved is not None:
        del saved["key"]
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
                bar.set_postfix(
                    train=f"{line['train_nats_per_char']:.3f}",
                    val=f"{line['val_nats_per_char']:.3f}",
                )
                if machine.rank() == 0:
                    write_text(
                        folder / f"{name}.curve.jsonl",
                        "".join(json.dumps(line) + "\n" for line in loop.state.curve),
                    )
            if asked_to_stop or time.monotonic() - saved_at > CHECKPOINT_SECONDS:
                save()
                saved_at = time.monotonic()
            if asked_to_stop:
                break
    if asked_to_stop:
        print(
            f"\n{name}: state saved after step {loop.state.step:,} of {n_steps:,}", file=sys.stderr
        )
        raise KeyboardInterrupt("terminated" if asked_to_stop[0] == signal.SIGTERM else "")
    save()


@contextlib.contextmanager
def _flag_on_signal():
    """Yields a list that gets the signal when SIGTERM or SIGINT comes: the loop ends after the step
    at hand."""
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


# ---------------------------------------------------------------- record


def _write_record(loop, folder):
    """Evaluates and writes a completed run; the record is written last."""
    name, device = loop.run["name"], loop.device
    record = make_record(
        loop.run,
        loop.state,
        loop.measure(),
        {
            "peak_memory_bytes": machine.peak_memory_bytes(device),
            "device": machine.device_name(device),
            "n_processes": machine.n_processes(),
            "precision": precision(device),
            "threads": torch.get_num_threads(),
        },
    )
    if machine.rank() == 0:
        save_checkpoint(folder / f"{name}.pt", loop.model.state_dict(), loop.run, record)
        record["checkpoint_sha256"] = file_digest(folder / f"{name}.pt")
        write_json(folder / f"{name}.json", record)
        remove_state(folder, name)
    if machine.n_processes() > 1:
        machine.wait_for_all()
        record = read_json(folder / f"{name}.json")
    return record


def make_record(run, state, measured, measured_by):
    """The record of an ended run: its plan, what was done of it, its losses in nats per character.

    state: `LoopState`; measured: {split: dict of `evaluate`}; measured_by: entries about machine
    and memory.
    """
    last = state.curve[-1]
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
        "train_eval_chars": measured["train"]["n_chars"],
        "train_eval_tokens": measured["train"]["n_tokens"],
        "val_nats_per_char": measured["val"]["nats_per_char"],
        "val_bits_per_char": measured["val"]["bits_per_char"],
        "val_chars": measured["val"]["n_chars"],
        "val_tokens": measured["val"]["n_tokens"],
        "val_loss_by_position": measured["val"]["loss_by_position"],
        "test_nats_per_char": measured["test"]["nats_per_char"],
        "test_bits_per_char": measured["test"]["bits_per_char"],
        "test_chars": measured["test"]["n_chars"],
        "test_tokens": measured["test"]["n_tokens"],
        "test_nats_by_sequence": measured["test"]["nats_by_sequence"],
        "best_epoch": state.best["epoch"] if run["keep_best"] else None,
        "curve": f"{run['name']}.curve.jsonl",
    }
