"""The optimizer: Muon for the hidden matrices (`Model.parameter_groups`), AdamW for the rest; or
AdamW alone."""

import math

import torch

from common import product_dtype

WARMUP_SHARE = 0.05  # of the run
MOMENTUM = 0.95
BETAS = (0.9, 0.95)
MUON_COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of Newton-Schulz (Jordan et al. 2024)
MUON_STEPS = 3  # 5 is usual, costs as much as the model, and changes losses by < 0.01 nats
GRAM_FROM = 1.5  # columns over rows from which Newton-Schulz works on x x^T instead of x


def schedule(done):
    """Returns the share of the peak learning rate at a share of the run: warm-up, then linear decay
    to 0 (Bergsma et al. 2025: better than to a tenth)."""
    return min(done / WARMUP_SHARE, (1 - done) / (1 - WARMUP_SHARE), 1.0)


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for all matrices of one shape at once. Momentum says where a matrix
    should go; Newton-Schulz makes that step orthogonal: equally far in all directions.

    "blocks" of a group: matrices stacked in one parameter (q, k, v of each head; gates)."""

    def __init__(self, groups, lr):
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "blocks": 1})

    @torch.no_grad()
    def step(self):
        waiting = {}  # (rows, columns) -> [(matrix to change, update, learning rate)]
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                momentum = self.state[p]["momentum_buffer"].lerp_(p.grad, 1 - MOMENTUM)
                update = p.grad.lerp(momentum, MOMENTUM)  # Nesterov
                if group["weight_decay"]:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                for matrix, change in zip(p.chunk(group["blocks"]), update.chunk(group["blocks"])):
                    if matrix.size(0) > matrix.size(1):
                        matrix, change = matrix.T, change.T
                    entry = matrix, change, group["lr"]
                    waiting.setdefault(tuple(matrix.shape), []).append(entry)
        for (_, columns), entries in waiting.items():
            matrices, changes, rates = zip(*entries)
            updates = orthogonalize(torch.stack(changes)).to(matrices[0].dtype)
            for matrix, update, rate in zip(matrices, updates, rates):
                # as long as AdamW's (Liu et al. 2025), so that one learning rate fits both
                matrix.sub_(update, alpha=rate * 0.2 * math.sqrt(columns))


def orthogonalize(x):
    """Brings the singular values of each matrix of x (n, rows <= columns, columns) near 1: by steps
    x <- p x with p = a + b (x x^T) + c (x x^T)^2. For wide matrices all p are multiplied first: at
    four times as many columns as rows 0.58 of the plain cost."""
    x = x.to(product_dtype(x.device))
    x = x / x.float().norm(dim=(1, 2), keepdim=True).clamp(min=1e-7).to(x.dtype)
    a, b, c = MUON_COEFFICIENTS
    if x.size(2) < GRAM_FROM * x.size(1):  # plainly
        for _ in range(MUON_STEPS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x
    gram, every = x @ x.mT, None
    for step in range(MUON_STEPS):
        if step:
            gram = p @ gram @ p
        p = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        p.diagonal(dim1=1, dim2=2).add_(a)
        every = p if every is None else p @ every
    return every @ x


def make_optimizers(model, run):
    """Returns the optimizers; the loop sets each learning rate to rate * group["scale"]."""
    matrices, rest = model.parameter_groups()
    scale = 1.0 if run["recipe"] == "classic" else model.EMBEDDING_RATE[run["optimizer"]]
    groups = [{"params": rest, "scale": scale}]
    decay = {"scale": 1.0, "weight_decay": run["weight_decay"]}  # of the hidden matrices alone
    if run["optimizer"] == "adamw":
        groups.append({"params": [parameter for parameter, _ in matrices], **decay})
    fused = rest[0].device.type in ("cpu", "cuda")
    rate = run["learning_rate"]
    adamw = torch.optim.AdamW(groups, lr=rate, betas=BETAS, weight_decay=0.0, fused=fused)
    if run["optimizer"] == "adamw":
        return [adamw]
    stacks = [{"params": [stack], "blocks": blocks, **decay} for stack, blocks in matrices]
    return [adamw, Muon(stacks, rate)]
