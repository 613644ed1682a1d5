"""What training costs on this machine: a few steps of each size, timed."""

import math
import time

import numpy as np
import torch

from study.families import build_model
from study.train.data import BLOCK_SIZE, cut_windows, to_tensor
from study.train.loop import gradient
from study.train.optimizer import make_optimizers

CALIBRATION_SECONDS = 3.0  # for all runs of a plan together


def calibrate(run, data, device, seconds):
    """Returns the tokens per second of a run's steps on this machine, timed for about `seconds`."""
    model = build_model(run["config"]).to(device)
    optimizers = make_optimizers(model, run)
    n_tokens = run["tokens_per_step"] + 1
    tokens = np.resize(np.asarray(data.train[:n_tokens]), n_tokens)
    starts = torch.arange(run["batch_windows"], device=device) * BLOCK_SIZE
    x, y = cut_windows(to_tensor(tokens, device), starts)
    token_chars = torch.from_numpy(np.asarray(data.token_chars)).to(device)
    micro_batch, times = run["batch_windows"], []
    while len(times) < 3 or sum(times) < seconds:
        started = time.monotonic()
        *_, micro_batch = gradient(model, x, y, token_chars, micro_batch, run["name"])
        for optimizer in optimizers:
            optimizer.step()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.monotonic() - started)
    return run["tokens_per_step"] / float(np.median(times[1:]))  # the first step warms up


def expected_minutes(runs, data, device):
    """Returns the minutes of training of each run on this machine."""

    def kind(run):
        return run["family"], run["size"], run["batch_windows"]

    kinds = {kind(run): run for run in runs}
    seconds = CALIBRATION_SECONDS / len(kinds)
    speeds = {key: calibrate(run, data, device, seconds) for key, run in kinds.items()}
    minutes = []
    for run in runs:
        without_limit = run["train_tokens"] * run["epochs"] / speeds[kind(run)] / 60
        minutes.append(min(without_limit, run["max_minutes"] or math.inf))
    return minutes
