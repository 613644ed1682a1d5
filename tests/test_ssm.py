"""The linear recurrent family: a memory in chunks is the recurrence token by token; its sizes are
the Transformers'.

What every family has to do (causality, rows of a cache, going back, overfitting a batch) stands in
test_models.py.
"""

import importlib
import math

import pytest
import torch

import common
from study.families import build_model
from study.train.ladder import LADDER, parameters, ssm_shape

SIZES = {
    stage: importlib.import_module(stage).SIZES
    for stage in ("04_train_transformers", "05b_train_ssms")
}
TINY = {
    "family": "ssm",
    "vocab_size": 75,
    "block_size": 512,
    "dropout": 0.0,
    "n_layer": 2,
    "n_head": 4,
    "d_model": 32,
    "d_ff": 64,
}


def built(shape, family="ssm"):
    with torch.device("meta"):
        return build_model(
            {
                "family": family,
                "vocab_size": 75,
                "block_size": 512,
                "dropout": 0.0,
                "rotary": True,
                "qk_norm": True,
                "token_shift": True,
                **shape,
            }
        ).count_parameters()


def scrambled(seed=0):
    torch.manual_seed(seed)
    model = build_model(TINY).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model


@pytest.mark.parametrize("T", [1, 5, 64, 65, 200])
def test_chunks_are_the_recurrence(T):
    """Token by token as the docstring says it, from a memory that is not empty, with gates from
    shut to open; fp64."""
    random = torch.Generator().manual_seed(T)
    B, H, N, P = 2, 3, 8, 4
    q, k, v, gates, memory = (
        torch.randn(shape, generator=random, dtype=torch.float64)
        for shape in ((B, T, H, N), (B, T, H, N), (B, T, H, P), (B, T, H), (B, H, N, P))
    )
    log_kept, S = torch.nn.functional.logsigmoid(5 * gates), memory
    wanted = []
    for t in range(T):
        S = S * log_kept[:, t].exp()[..., None, None] + k[:, t, ..., None] * v[:, t, :, None]
        wanted.append(torch.einsum("bhnp,bhn->bhp", S, q[:, t]))
    y, after = common.linear_memory(q, k, v, log_kept, memory)
    torch.testing.assert_close(y, torch.stack(wanted, dim=1), atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(after, S, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    "parts", [[1] * 150, [64, 64, 22], [63, 2, 85], [149, 1], [7, 1, 100, 1, 41]]
)
def test_any_split_gives_what_one_pass_gives(parts):
    model, idx = scrambled(), torch.randint(75, (2, 150))
    with torch.no_grad():
        full, state, at = model(idx)[0], None, 0
        for n in parts:
            features, state = model._run(idx[:, at : at + n], state)
            at += n
            logits = model.head(features[:, -1])
            torch.testing.assert_close(logits, full[:, at - 1], atol=1e-5, rtol=1e-5)


def test_the_state_has_one_size_whatever_was_read():
    model = scrambled()
    with torch.no_grad():
        shapes = {
            tuple(part.shape for part in model._run(torch.randint(75, (3, n)))[1])
            for n in (1, 2, 64, 300)
        }
    assert shapes == {((2, 3, 4, 8, 8), (2, 3, 2, 3, 32))}


def test_new_heads_remember_from_eight_to_512_tokens():
    block = build_model(TINY).blocks[0]
    # the same for every token
    kept = torch.sigmoid(block.forget(torch.randn(10, 32)) + block.forget_bias)
    torch.testing.assert_close(
        1 / (1 - kept[0]), torch.tensor([8.0, 32.0, 128.0, 512.0]), rtol=1e-3, atol=0
    )
    assert (kept == kept[0]).all()


@pytest.mark.parametrize("size", SIZES["04_train_transformers"])
def test_sizes_are_the_transformers_within_one_percent(size):
    ours, theirs = built(SIZES["05b_train_ssms"][size]), built(
        SIZES["04_train_transformers"][size], "transformer"
    )
    assert abs(ours["total"] / theirs["total"] - 1) < 0.01


@pytest.mark.parametrize("size", LADDER)
def test_the_ladder_is_the_transformers_within_one_percent(size):
    n = parameters(LADDER[size], 75)
    shape = ssm_shape(n, 75)
    assert (
        abs(built(shape)["non_embedding"] / n - 1) < 0.01
        and 1 < shape["d_ff"] / shape["d_model"] < 8
    )


def test_training_precision_is_near_fp32():
    """The norms' epsilon is the same in both."""
    model, idx = scrambled(), torch.randint(75, (2, 100))
    with torch.no_grad(), common.autocast("cpu"):
        rough = model(idx, idx)[1].item()
    with torch.no_grad():
        assert math.isclose(model(idx, idx)[1].item(), rough, rel_tol=0.02)
