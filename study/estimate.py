"""Estimates what `make run` will take on this machine, from seconds of it.

    python -m study.estimate     # prints {stage: minutes} as JSON

Training is planned as 04 and 05 plan it, on made-up text. In each family a step of two sizes is
timed; the others lie on the line through both. Other stages are scaled by a loop of plain Python.
"""

import importlib
import json
import timeit
from types import SimpleNamespace

import numpy as np
import torch

from study.stages.process import cpu_count

from common import BEGIN, END
from study.families import FAMILIES, model_class
from study.train import plan, suite
from study.train.calibrate import calibrate

SPLITS = {"train": 1_352_000, "val": 27_500, "test": 30_500}  # characters of the embedded corpus
VOCABULARY = 50
TUNE_CHARS = 600
TIMED_SIZES = ("d008", "medium")  # cheap enough for a slow machine, and far apart
SECONDS_EACH = 0.3
SHARED_GAIN = 0.6  # n cores that share one run are n ** 0.6 times as fast
EVALUATION = 1.1  # minutes of a run with its evaluations, for each minute of its steps
# minutes on a machine that takes LOOP_SECONDS for LOOP: that of README's table
OTHER_MINUTES = {
    "01_download": 0.13,
    "02_midi_to_abc": 0.1,
    "03_tokenize_split": 0.25,
    "06_fit_scaling": 0.2,
    "07_train_best_and_generate": 3.0,
}
LOOP, LOOP_SECONDS = "sum(number * number % 7 for number in range(1_000_000))", 0.052
BEST = "07_train_best_and_generate"


def made_up_data():
    """Returns what `load_data` does, of tunes of one length."""
    token_chars = np.ones(VOCABULARY, dtype=np.int64)
    token_chars[BEGIN] = 0
    data = SimpleNamespace(tokenizer_digest="", vocab_size=VOCABULARY, token_chars=token_chars)
    for split, n_chars in SPLITS.items():
        tokens = (np.arange(n_chars) % (VOCABULARY - 3) + 3).astype(np.uint8)
        tokens[::TUNE_CHARS], tokens[TUNE_CHARS - 1 :: TUNE_CHARS] = BEGIN, END
        setattr(data, split, tokens)
    return data


def planned_runs(family, words, data):
    script = importlib.import_module(FAMILIES[family].stage)
    ladder_rate = getattr(script, "LADDER_RATE", None)
    asked = plan.Suite(model_class(family), script.SIZES, script.LEARNING_RATES, ladder_rate)
    args = suite.suite_parser("").parse_args(words)
    suite.check_suite(args, asked)
    return plan.plan_suite(args, asked, data)


def minutes_of_runs(runs, data):
    """Returns the minutes of each run of one family on one thread (an array)."""
    timed = [run for run in runs if run["size"] in TIMED_SIZES]
    costs = [1 / calibrate(run, data, "cpu", SECONDS_EACH) for run in timed]
    line = np.polyfit([run["flops_per_token"] for run in timed], costs, 1)
    costs = np.polyval(line, [run["flops_per_token"] for run in runs])
    tokens = np.array([run["train_tokens"] * run["epochs"] for run in runs])
    return EVALUATION * tokens * costs / 60


def best_minutes(runs, data):
    """Returns the minutes of the best model's training, from a step on one core."""
    best = importlib.import_module(BEST)
    args = best.parse_arguments(["--quick"])
    size = next(run for run in runs if run["size"] == args.best["size"])
    epochs = args.best["epochs"]
    windows = args.best["windows"] or best.runs.windows_per_step(SPLITS["train"] * epochs)
    tokens_per_step = size["tokens_per_step"] // size["batch_windows"] * windows
    step = {**size, "batch_windows": windows, "tokens_per_step": tokens_per_step}
    speed = calibrate(step, data, "cpu", SECONDS_EACH) * cpu_count() ** SHARED_GAIN
    return SPLITS["train"] * epochs / speed / 60


def main():
    data, jobs = made_up_data(), cpu_count()
    slower = min(timeit.repeat(LOOP, number=1, repeat=5)) / LOOP_SECONDS
    expected = {name: alone * slower for name, alone in OTHER_MINUTES.items()}
    torch.set_num_threads(1)
    for family, row in FAMILIES.items():
        if not row.optional:
            runs = planned_runs(family, ["--quick"], data)
            each = minutes_of_runs(runs, data)
            expected[row.stage] = max(each.sum() / jobs, each.max())
            if family == "transformer":
                expected[BEST] += best_minutes(runs, data)
    print(json.dumps({name: round(value, 2) for name, value in expected.items()}))


if __name__ == "__main__":
    main()
