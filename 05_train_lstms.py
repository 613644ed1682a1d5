"""Trains the four LSTMs of the study, one epoch each.

Reads:  data/{train,val,test}_tokens.npy, data/tokenizer.pkl (stage 03)
Writes: checkpoints/lstm_<size>.pt (weights, configuration), .json (the run's record),
            .curve.jsonl (losses in nats per character); names say what differs from the
            default: _classic, _seedK, _fracF
Run:    python 05_train_lstms.py [--quick] [--only tiny,small] [--seeds 0,1,2]
        torchrun --standalone --nproc-per-node=8 05_train_lstms.py
The loop of all families is `Loop` in study/train/loop.py. Prints the plan with expected minutes, a
line for each run, and the best validation loss last.
"""

from study.stages.process import run

from common import LSTM
from study.train.suite import suite_main

SIZES = {  # about 0.24M, 0.95M, 3.3M and 5.8M parameters at a vocabulary of 75
    "tiny": {"n_layer": 2, "d_embedding": 64, "d_hidden": 128},
    "small": {"n_layer": 2, "d_embedding": 128, "d_hidden": 256},
    "medium": {"n_layer": 3, "d_embedding": 192, "d_hidden": 384},
    "large": {"n_layer": 3, "d_embedding": 256, "d_hidden": 512},
}
LEARNING_RATES = {  # peak; found by benchmarks/sweep_learning_rates.py
    # medium and large: half of what is best on 0.3M characters, as more text wants
    "muon": {"tiny": 0.04, "small": 0.015, "medium": 0.01, "large": 0.008},
    "adamw": {"tiny": 0.016, "small": 0.008, "medium": 0.006, "large": 0.004},
}
# r, b: peak rate of the ladder = r * (width / 64)^-b; found likewise
LADDER_RATE = 0.022, 0.69


def main(argv=None):
    suite_main(__file__, LSTM, SIZES, LEARNING_RATES, __doc__, argv, LADDER_RATE)


if __name__ == "__main__":
    run(main)
