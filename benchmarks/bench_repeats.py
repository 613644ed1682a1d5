"""When does a model learn to repeat? One size, trained for more and more passes over one text.

Reads:  ROOT/data (stage 03)
Writes: OUT/checkpoints/ (a run that is finished there is not repeated)
Run:    OMP_NUM_THREADS=1 python -m benchmarks.bench_repeats [--root study_run] [--out ROOT/repeats] [--size small]
        [--families transformer,lstm] [--epochs 1,2,4,8] [--chars 300000] [--seed 2]
Prints a table in Markdown: for each family and number of epochs, each a run with a schedule of its own, the validation
loss, bits per character of the bars that come back at their first and their second occurrence (`study/repeats.py`), and
the share of bars heard before in 100 unprompted tunes at temperature 1. By size and amount of text: stage 07,
figures/looking_back.png.
"""

import argparse
import importlib
from pathlib import Path

from common import load_tokenizer, pick_device
from music.metrics import as_tune, repetition
from music.samples import mean_of_known
from study.arguments import list_of, whole
from study.evaluation import judged, load_player
from study.families import FAMILIES
from study.figures import label
from study.measurements import Digested
from study.repeats import repeats
from study.runs import plan_run, train
from study.sampling import generate, unprompted
from study.stage import HERE, write_bytes
from study.training import digest_tokens, load_data

N_TUNES, MAX_CHARS = 100, 1000


def measure(args, family, epochs, data):
    """One run: {"family", "epochs", "loss", "first", "second", "heard"}."""
    module = importlib.import_module(FAMILIES[family].stage)
    run = plan_run(data, family, args.size, module.SIZES[args.size], module.LEARNING_RATES["muon"][args.size],
                   seed=args.seed, epochs=epochs, max_train_chars=args.chars,
                   name=f"{family}_{args.size}_{epochs}x{args.chars}")
    record = train(args.out, run, data, pick_device("cpu"))
    player = load_player(args.out, run["name"], load_tokenizer(args.out / "data/tokenizer.pkl"))
    samples = judged(generate(player.model, player.tokenizer, unprompted(N_TUNES, 0, MAX_CHARS)))
    heard = mean_of_known([repetition(as_tune(sample))["bar_repetition"] for sample in samples])
    return {"family": family, "epochs": epochs, "loss": record["val_nats_per_char"], "heard": heard,
            **repeats(player, Digested(data.val, digest_tokens(data.val)))}


def main(argv=None):
    """Trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--root", type=Path, default=HERE / "study_run")
    add("--out", type=Path, help="default: ROOT/repeats")
    add("--size", default="small")
    add("--families", type=list_of(str), default="transformer,lstm")
    add("--epochs", type=list_of(whole(1)), default="1,2,4,8")
    add("--chars", type=whole(1), default=300_000, metavar="N", help="characters of training text at most")
    add("--seed", type=whole(), default=2)
    args = parser.parse_args(argv)
    data = load_data(args.root)
    args.out = args.out or args.root / "repeats"
    write_bytes(args.out / "data/tokenizer.pkl", (args.root / "data/tokenizer.pkl").read_bytes())
    print("| model | passes | validation, nats per character | first time, bits per character | second time | bars "
          "heard before |\n|---|---|---|---|---|---|")
    for family in args.families:
        for epochs in args.epochs:
            row = measure(args, family, epochs, data)
            print(f"| {label(row['family'])} {args.size} | {row['epochs']} | {row['loss']:.3f} | {row['first']:.2f} | "
                  f"{row['second']:.2f} | {row['heard']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
