"""Compares a training step with plain eager code in nanoGPT's style: same sizes, same batch, in one
run.

Run:    python -m benchmarks.bench_plain_transformer [--threads N] [--clock cpu] [--sizes
    tiny,medium,xl] [--rounds N]
Prints seconds a step (gradient, clipping, optimizer; best of the rounds) in Markdown. The plain
model is what a reader would write (Karpathy's nanoGPT: learned positions, LayerNorm, biases, fused
QKV, fused attention, GELU, AdamW); ours has rotary positions, QK-norm and token shift on top.
"""

import argparse
import importlib
import os
import time

import torch
from torch import nn
from torch.nn import functional as F

from common import N_SPECIAL, CharTokenizer
from study.families import build_model
from study.train.loop import BETAS, BLOCK_SIZE, CLIP_NORM, Data, gradient, make_optimizers
from study.train.runs import BATCH_WINDOWS, plan_run

VOCABULARY = 75


class PlainBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, d_model, n_head, d_ff):
        super().__init__()
        self.n_head = n_head
        self.norms = nn.ModuleList([nn.LayerNorm(d_model), nn.LayerNorm(d_model)])
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.up, self.down = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model)

    def forward(self, x):
        batch, time_steps, width = x.shape
        q, k, v = (
            part.view(batch, time_steps, self.n_head, -1).transpose(1, 2)
            for part in self.qkv(self.norms[0](x)).split(width, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, time_steps, width))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class PlainTransformer(nn.Module):
    """Decoder-only Transformer; returns the mean loss."""

    def __init__(self, n_layer, n_head, d_model, d_ff):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, d_model), nn.Embedding(
            BLOCK_SIZE, d_model
        )
        self.blocks = nn.ModuleList([PlainBlock(d_model, n_head, d_ff) for _ in range(n_layer)])
        self.norm, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x, y):
        h = self.tokens(x) + self.positions.weight[: x.shape[1]]
        for block in self.blocks:
            h = block(h)
        return F.cross_entropy(self.head(self.norm(h)).flatten(0, 1), y.flatten())


def plain_step(shape, x, y, bf16):
    """A function that does one step of the plain model."""
    model = PlainTransformer(**shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=BETAS, fused=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()

    return step


def our_step(data, shape, x, y, optimizer):
    """A function that does one step of ours."""
    run = plan_run(
        data, "transformer", "any", shape, 1e-3, optimizer=optimizer, batch_windows=len(x)
    )
    model = build_model(run["config"])
    optimizers, token_chars = make_optimizers(model, run), torch.from_numpy(data.token_chars)

    def step():
        gradient(model, x, y, token_chars, len(x), "any")
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        for each in optimizers:
            each.step()

    return step


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--sizes", default="tiny,small,medium,large,xl")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    sizes = importlib.import_module("04_train_transformers").SIZES
    tokens = torch.randint(3, VOCABULARY, (BATCH_WINDOWS, BLOCK_SIZE + 1))
    x, y = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    flat = tokens.flatten().to(torch.uint8).numpy()
    flat[0] = 0
    tokenizer = CharTokenizer(map(chr, range(33, 33 + VOCABULARY - N_SPECIAL)))
    data = Data(flat, flat, flat, tokenizer.digest, tokenizer.vocab_size, tokenizer.token_chars)
    print(
        f"{args.threads} threads, {args.clock} clock, {len(x)} x {BLOCK_SIZE} tokens a step;"
        " seconds"
    )
    print(
        "| size | plain, bf16 | plain, fp32 | ours, AdamW | ours, Muon | tokens/s against plain"
        " bf16 | fp32 |"
    )
    print("|---|---|---|---|---|---|---|")
    for size in args.sizes.split(","):
        steps = [
            plain_step(sizes[size], x, y, True),
            plain_step(sizes[size], x, y, False),
            our_step(data, sizes[size], x, y, "adamw"),
            our_step(data, sizes[size], x, y, "muon"),
        ]
        best = [float("inf")] * len(steps)
        for turn in range(args.rounds + 1):
            for i, step in enumerate(steps):
                started = clock()
                step()
                if turn:  # the first is for warming up
                    best[i] = min(best[i], clock() - started)
        print(
            f"| {size} | "
            + " | ".join(f"{seconds:.3f}" for seconds in best)
            + f" | {best[0] / best[2]:.2f} | {best[1] / best[2]:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
