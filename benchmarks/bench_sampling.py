"""Speed of generation: the key/value cache against recomputing everything, and 100 samples of 1,000
characters.

Run: python -m benchmarks.bench_sampling [--checkpoint checkpoints/transformer_xl.pt --tokenizer
    data/tokenizer.pkl]
     [--threads 2]. Without a checkpoint an XL Transformer with random weights is timed, whose samples never end early.
     python -m benchmarks.bench_sampling --rates best_model lstm_small [--root quick]: validity with
     free and right bars.
Prints a table; benchmarks/sampling.md holds the figures.
"""

import argparse
import os
import time
from pathlib import Path

import torch

from common import BEGIN, END, UNKNOWN, CharTokenizer, load_tokenizer
from music.right_bars import RightBars
from music.validity import rate_samples
from study.evaluate.sampling import draw, filtered_weights, generate, unprompted
from study.families import build_model
from study.report.results import draws_per_bar

XL = {
    "family": "transformer",
    "block_size": 512,
    "n_layer": 6,
    "n_head": 4,
    "d_model": 320,
    "d_ff": 1280,
    "dropout": 0.0,
    "rotary": True,
    "qk_norm": True,
}
LSTM = {
    "family": "lstm",
    "block_size": 512,
    "n_layer": 3,
    "d_embedding": 256,
    "d_hidden": 512,
    "dropout": 0.0,
}


class NeverEnds(torch.nn.Module):
    """The head of a model whose tunes do not end, so that every sample has its full length."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, x):
        logits = self.head(x)
        logits[..., END] = -1e9
        return logits


@torch.inference_mode()
def naive(model, n_chars, seed=0):
    """One sample the plain way: a whole forward pass over the last 512 characters for every new
    one."""
    tokens, stream = [END, BEGIN], torch.Generator().manual_seed(seed)
    for _ in range(n_chars):
        logits = model(torch.tensor([tokens[-model.config["block_size"] :]]))[0][:, -1]
        logits[:, [BEGIN, UNKNOWN]] = -torch.inf
        u = torch.rand(1, dtype=torch.float64, generator=stream)
        tokens.append(int(draw(filtered_weights(logits, 1.0, 0, 1.0, 0.0), u)))


def rates(root, names, n, max_chars):
    """One line a model and way of drawing: what right bars cost and give, beside free samples at
    temperature 1."""
    from study.train.checkpoints import load_checkpoint

    tokenizer = load_tokenizer(root / "data/tokenizer.pkl")
    for name in names:
        model = load_checkpoint(root / f"checkpoints/{name}.pt")[0]
        for bars in ("free", "right"):
            started = time.process_time()
            samples = generate(
                model, tokenizer, unprompted(n, 0, max_chars, bars=bars), right_bars=RightBars
            )
            seconds = time.process_time() - started
            rated = rate_samples(samples)
            bits = [bit for sample in samples for bit in sample["surprisal_bits"]]
            draws = draws_per_bar(samples) if bars == "right" else 1
            levels, ended = rated["level_rates"], sum(
                sample["stop_reason"] == "end" for sample in samples
            )
            print(
                f"{name}, bars {bars}: level 4 {levels['meter']:.3f}, level 5"
                f" {levels['aligned']:.3f}, judge {rated['abc2midi_clean_rate']}, bars right"
                f" {rated['bar_accuracy'] or 0:.3f}, draws a bar {draws or 1:.2f}, ended {ended},"
                f" stuck {sum(sample['stop_reason'] == 'stuck' for sample in samples)} of {n}, bits"
                f" a character {sum(bits) / max(len(bits), 1):.3f}, characters {len(bits)},"
                f" {seconds:.1f} CPU s",
                flush=True,
            )


def timed(function, *args):
    """Seconds of the clock and of the processors (the first is worth nothing on a busy machine)."""
    started = time.perf_counter(), time.process_time()
    function(*args)
    return time.perf_counter() - started[0], time.process_time() - started[1]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--family", choices=("transformer", "lstm"), default="transformer")
    parser.add_argument("--naive-chars", type=int, default=1000)
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument(
        "--rates", nargs="+", metavar="NAME", help="rate these checkpoints with free and right bars"
    )
    parser.add_argument(
        "--root", type=Path, default=Path("quick"), help="where their checkpoints/ and data/ are"
    )
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--chars", type=int, default=700)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.rates:
        return rates(args.root, args.rates, args.n, args.chars)
    if args.checkpoint:
        from study.train.checkpoints import load_checkpoint

        model, tokenizer = load_checkpoint(args.checkpoint)[0], load_tokenizer(args.tokenizer)
    else:
        tokenizer = CharTokenizer(map(chr, range(33, 105)))
        torch.manual_seed(0)
        shape = XL if args.family == "transformer" else LSTM
        model = build_model({**shape, "vocab_size": tokenizer.vocab_size}).eval()
        torch.nn.init.normal_(model.head.weight, std=0.1)
    model.head = NeverEnds(model.head)
    print(
        f"{args.family}, {model.count_parameters()['total']:,} parameters, {args.threads} threads"
    )
    generate(model, tokenizer, unprompted(8, 0, 20))  # warm-up
    plain, plain_cpu = timed(naive, model, args.naive_chars)
    print(
        f"recompute everything, 1 sample x {args.naive_chars}: {plain:.1f} s ({plain_cpu:.1f} s"
        f" CPU), {args.naive_chars / plain:.0f} characters/s"
    )
    for n in args.samples:
        seconds, cpu = timed(generate, model, tokenizer, unprompted(n, 0, 1000))
        print(
            f"cache, {n} samples x 1000: {seconds:.1f} s ({cpu:.1f} s CPU),"
            f" {n * 1000 / seconds:.0f} characters/s,"
            f" {n * 1000 / seconds * plain / args.naive_chars:.0f} x the plain loop by the clock,"
            f" {n * 1000 / cpu * plain_cpu / args.naive_chars:.0f} x by CPU time"
        )


if __name__ == "__main__":
    main()
