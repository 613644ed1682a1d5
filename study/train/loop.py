"""The training loop: the controlled variable of the study, since every family goes through it.

    loop = Loop(run, load_data(root), "cpu")  # run: a plan of `study/train/runs.py`
    while not loop.ended:
        loop.advance()
    losses = loop.measure()

Everything random is a function of (seed, epoch, step): a loop that was saved and restored ends with
the very weights on CPU. An edit of what `Loop` reaches trains all models again.
"""

import math
import sys
import time
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from common import IGNORE, autocast
from study.families import build_model
from study.train import machine
from study.train.data import BLOCK_SIZE, cut_windows, epoch_windows, subset, target_chars, to_tensor
from study.train.loss import Meter, evaluate
from study.train.optimizer import make_optimizers, schedule

CLIP_NORM = 1.0
EVALUATIONS = 8  # points of the validation curve in one epoch
CURVE_WINDOWS = 8  # of the validation split, evenly spread, for these points
TRAIN_SAMPLE_WINDOWS = 16  # of the training text, evenly spread, evaluated at the end of a run
NUMBERS_ASKED_EVERY = 20  # steps between checks for infinite losses on a GPU, which wait for it


class Stopped(RuntimeError):
    """A run must not go on; the message is for the user."""


@dataclass
class LoopState:
    """Where a run stands after a step: what is saved beside weights and optimizers."""

    step: int = 0  # steps done
    seconds: float = 0.0  # of training, without evaluation
    evaluation_seconds: float = 0.0
    sums: tuple = (0.0, 0.0)  # of the training loss since the last evaluation, see `Meter`
    curve: list = field(default_factory=list)  # a dict for each evaluation
    best: dict | None = None  # line of the lowest validation loss, with the weights as "model"
    out_of_time: bool = False  # max_minutes are over


class Loop:
    """A run under way. micro_batch: windows per forward pass and process."""

    def __init__(self, run, data, device):
        self.run, self.data, self.device = run, data, torch.device(device)
        limits = run["data_fraction"], run["max_train_chars"]
        self.tokens = subset(data.train, data.token_chars, *limits)
        self.token_chars = torch.from_numpy(np.asarray(data.token_chars)).to(self.device)
        torch.manual_seed(run["seed"])
        self.model = build_model(run["config"]).to(self.device)
        self.optimizers = make_optimizers(self.model, run)
        self.forward = machine.parallel(self.model, self.device)
        self.micro_batch = math.ceil(run["batch_windows"] / machine.n_processes())
        self.state, self.meter = LoopState(), Meter(self.device)
        self._evaluate_after, self._epoch, self._last_val = evaluation_steps(run), None, None
        self._began = time.monotonic()
        self.model.train()

    def restore(self, saved):
        """Goes on from what `to_save` returned; uses up the dict."""
        self.model.load_state_dict(saved.pop("model"))
        for optimizer, state in zip(self.optimizers, saved.pop("optimizers")):
            optimizer.load_state_dict(state)
        self.state = LoopState(**saved)
        self.meter = Meter(self.device, self.state.sums)
        self._began = time.monotonic() - self.state.seconds

    def to_save(self):
        """Returns what the rest of the run depends on."""
        self.state.seconds, self.state.sums = self.seconds, self.meter.sums.tolist()
        return {
            **vars(self.state),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    @property
    def seconds(self):
        """Seconds of training so far, without evaluation."""
        return time.monotonic() - self._began

    @property
    def ended(self):
        """True after the last step, by plan or by time."""
        return self.state.step >= self.run["steps"] or self.state.out_of_time

    def advance(self):
        """Takes one step; returns a new line of the curve or None. Raises Stopped when the loss is
        no number or memory is short."""
        run, state = self.run, self.state
        x, y = self._next_windows()
        rate = run["learning_rate"] * schedule(self._share_done())
        if run["config"]["dropout"]:
            draw = np.random.default_rng([run["seed"], state.step, machine.rank()])
            torch.manual_seed(int(draw.integers(2**62)))
        nats, chars, self.micro_batch = gradient(
            self.forward, x, y, self.token_chars, self.micro_batch, run["name"]
        )
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.meter.add(nats, chars, norm, state.step)
        if self.device.type != "cuda" or state.step % NUMBERS_ASKED_EVERY == 0:
            self.stop_if_no_number()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            optimizer.step()
        state.step += 1
        if state.step in self._evaluate_after or state.out_of_time:
            self.stop_if_no_number()
            return self._add_to_curve(rate)
        return None

    def _next_windows(self):
        """Returns inputs and targets of the next step."""
        epoch, step = divmod(self.state.step, self.run["steps_per_epoch"])
        if epoch != self._epoch:
            stream, starts = epoch_windows(self.tokens, self.run["seed"], epoch)
            self._stream = to_tensor(stream, self.device)
            self._starts = torch.from_numpy(starts).to(self.device)
            self._epoch = epoch
        first = step * self.run["batch_windows"]
        return cut_windows(self._stream, self._starts[first : first + self.run["batch_windows"]])

    def _share_done(self):
        """Returns the share of the run at the middle of the next step, by steps or by the clock;
        sets out_of_time."""
        done = (self.state.step + 0.5) / self.run["steps"]
        if self.run["max_minutes"]:
            seconds = machine.of_first_process(self.seconds)
            done = min(1.0, max(done, seconds / (60 * self.run["max_minutes"])))
            self.state.out_of_time = done == 1.0
        return done

    def _add_to_curve(self, rate):
        """Adds a line to the curve and returns it; keeps the weights if they are the best so far.
        Losses are of a part of the validation split, and shifted by how far it is off at the end.
        """
        run, state = self.run, self.state
        train_nats, seconds = self.meter.mean(), self.seconds
        val_nats = self._evaluated(self.data.val, at_most=CURVE_WINDOWS)["nats_per_char"]
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
            weights = self.model.state_dict().items()
            kept = {name: tensor.detach().cpu().clone() for name, tensor in weights}
            state.best = {**line, "model": kept}
        if self.ended:
            self._last_val = self._evaluated(self.data.val)
            shift = self._last_val["nats_per_char"] - val_nats
            for point in [*state.curve, state.best] if state.best else state.curve:
                point["val_nats_per_char"] += shift
        return line

    def stop_if_no_number(self):
        """Raises Stopped if a loss or gradient was not finite."""
        bad = int(self.meter.bad)
        if bad <= self.state.step:
            rate, steps = f"{self.run['learning_rate']:.3g}", f"{bad:,} of {self.run['steps']:,}"
            raise Stopped(
                f"{self.run['name']}: the loss or its gradient is no finite number at step {steps}"
                f" (learning rate: {rate}); the last saved state is from before; try a lower rate"
            )

    def measure(self):
        """Returns {split: what `evaluate` returns}; keep_best: of the best weights, which the model
        then has."""
        if self.run["keep_best"]:
            self.model.load_state_dict(self.state.best["model"])
            self._last_val = None
        return {
            "val": self._last_val or self._evaluated(self.data.val),
            "test": self._evaluated(self.data.test),
            "train": self._evaluated(self.tokens, at_most=TRAIN_SAMPLE_WINDOWS),
        }

    def _evaluated(self, tokens, at_most=None):
        """Returns the loss over a stream; its time is no training."""
        started, chars = time.monotonic(), self.data.token_chars
        result = evaluate(self.model, tokens, chars, self.device, precise=False, at_most=at_most)
        spent = time.monotonic() - started
        self.state.evaluation_seconds += spent
        self._began += spent
        return result


def evaluation_steps(run):
    """Returns the steps before evaluations: evenly spaced, and the ends of epochs."""
    per_epoch, n_steps = max(1, EVALUATIONS // run["epochs"]), run["steps_per_epoch"]
    within = [max(1, round(n_steps * (i + 1) / per_epoch)) for i in range(per_epoch)]
    return {epoch * n_steps + step for epoch in range(run["epochs"]) for step in within}


def gradient(forward, x, y, token_chars, micro_batch, name):
    """Sets the gradient of the mean loss over a step's x, y (windows, BLOCK_SIZE); returns this
    process's sum of nats, its targets' characters, and the micro_batch that memory sufficed for.
    Raises Stopped when one window is too much."""
    n_targets = (y != IGNORE).sum().clamp(min=1)
    # this process's windows; those that fill up have no targets
    rank, world = machine.rank(), machine.n_processes()
    below = (0, 0, 0, -len(x) % world)
    x, y = F.pad(x, below)[rank::world], F.pad(y, below, value=IGNORE)[rank::world]
    while True:
        try:
            forward.zero_grad(set_to_none=True)
            nats = _accumulate(forward, x, y, n_targets, micro_batch)
            return nats, target_chars(y, token_chars).sum(), micro_batch
        except Exception as error:
            if not machine.is_out_of_memory(error):
                raise
            if micro_batch == 1:
                problem = f"memory does not suffice for one window of {BLOCK_SIZE} tokens"
                raise Stopped(f"{name}: {problem}") from None
            micro_batch = (micro_batch + 1) // 2
            now = f"goes on with {micro_batch} windows per forward pass, the same tokens a step"
            print(f"{name}: out of memory; {now}", file=sys.stderr)
        # after the handler: the error holds on to the tensors of its frames
        if x.device.type == "cuda":
            torch.cuda.empty_cache()


def _accumulate(forward, x, y, n_targets, micro_batch):
    """Adds up gradients over forward passes; returns the sum of nats."""
    nats = torch.zeros((), device=x.device)
    for inputs, targets in zip(x.split(micro_batch), y.split(micro_batch)):
        with autocast(x.device):
            _, loss = forward(inputs, targets)
        part = loss * (targets != IGNORE).sum()
        # DistributedDataParallel takes the mean over processes
        (part * (machine.n_processes() / n_targets)).backward()
        nats = nats + part.detach()
    return nats
