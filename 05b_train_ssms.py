"""Trains the five SSMs of the study, one epoch each.

An optional stage: 06 and 07 take its runs if they are there; `make run` does without it.

Reads:  data/{train,val,test}_tokens.npy, data/tokenizer.pkl (stage 03)
Writes: checkpoints/ssm_<size>.pt (weights, configuration), .json (the run's record),
            .curve.jsonl (losses in nats per character); names say what differs from the
            default: _classic, _seedK, _fracF
Run:    python 05b_train_ssms.py [--quick] [--only tiny,small] [--seeds 0,1,2]
        torchrun --standalone --nproc-per-node=8 05b_train_ssms.py
The loop of all families is `Loop` in study/train/loop.py. Prints the plan with expected minutes, a
line for each run, and the best validation loss last.
"""

from study.stages.process import run

from common import SSM
from study.train.suite import suite_main

SIZES = {  # shape and, within 1 % at a vocabulary of 75, parameters of the Transformers
    "tiny": {"n_layer": 2, "n_head": 2, "d_model": 64, "d_ff": 352},
    "small": {"n_layer": 3, "n_head": 2, "d_model": 128, "d_ff": 532},
    "medium": {"n_layer": 4, "n_head": 4, "d_model": 192, "d_ff": 736},
    "large": {"n_layer": 5, "n_head": 4, "d_model": 256, "d_ff": 944},
    "xl": {"n_layer": 6, "n_head": 4, "d_model": 320, "d_ff": 1160},
}
LEARNING_RATES = {  # peak; found by benchmarks/sweep_learning_rates.py
    "muon": {"tiny": 0.01, "small": 0.01, "medium": 0.003, "large": 0.004, "xl": 0.003},
    "adamw": {"tiny": 0.016, "small": 0.004, "medium": 0.003, "large": 0.002, "xl": 0.002},
}
# r, b: peak rate of the ladder = r * (width / 64)^-b; found likewise
LADDER_RATE = 0.00974, 0.65


def main(argv=None):
    suite_main(__file__, SSM, SIZES, LEARNING_RATES, __doc__, argv, LADDER_RATE)


if __name__ == "__main__":
    run(main)
