"""The model families: sizes counted by hand, causality, generation step by step, determinism of
what they cost."""

import importlib
import math
import pickle

import pytest
import torch

import common
from study.families import FAMILIES, build_model, model_class

SIZES = {name: importlib.import_module(family.stage).SIZES for name, family in FAMILIES.items()}
TABLE = {
    "transformer": {"tiny": 0.14e6, "small": 0.67e6, "medium": 1.9e6, "large": 4.1e6, "xl": 7.6e6},
    "lstm": {"tiny": 0.24e6, "small": 0.95e6, "medium": 3.2e6, "large": 5.8e6},
}
TABLE["ssm"] = TABLE["transformer"]
MODELS = [(family, size) for family in SIZES for size in SIZES[family]]


def config_of(family, size="tiny", **change):
    return {
        "family": family,
        "vocab_size": 75,
        "block_size": 512,
        "dropout": 0.0,
        "rotary": True,
        "qk_norm": True,
        "token_shift": True,
        **SIZES[family][size],
        **change,
    }


def scrambled(config, seed=0):
    """A model whose every trained weight matters (new models have an output layer of zeros)."""
    torch.manual_seed(seed)
    model = build_model(config).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.15)
    return model


def parameters_by_hand(family, shape, V=75, T=512):
    if family == "transformer":
        d, d_ff = shape["d_model"], shape["d_ff"]
        layer = 3 * d * d + d * d + 2 * d * d_ff + 2 * d  # q k v, output, feed-forward, two norms
        return V * d + T * d + shape["n_layer"] * layer + d + d * V
    if family == "ssm":
        d, d_ff = shape["d_model"], shape["d_ff"]
        # q k v, gate and output, forget, ...
        layer = 3 * d * d + 2 * d * d + shape["n_head"] * d + 2 * d * d_ff + 2 * d
        return V * d + shape["n_layer"] * layer + d + d * V
    E, H = shape["d_embedding"], shape["d_hidden"]
    return V * E + 4 * H * (E + H) + (shape["n_layer"] - 1) * 4 * H * (H + H) + H * V


def matrix_flops_by_hand(family, shape, V=75, T=512):
    """Forward and backward, per token of a full window, from the shapes of the products."""
    if family == "transformer":
        d, d_ff = shape["d_model"], shape["d_ff"]
        # q k and weights v, causal
        attention = sum(2 * 2 * d * (position + 1) for position in range(T)) / T
        layer = 2 * d * 3 * d + attention + 2 * d * d + 2 * 2 * d * d_ff
        return 3 * (shape["n_layer"] * layer + 2 * d * V)
    if family == "ssm":
        d, d_ff, head = shape["d_model"], shape["d_ff"], shape["d_model"] // shape["n_head"]
        # q k and weights v, causal
        within = sum(2 * 2 * d * (position % 64 + 1) for position in range(T)) / T
        # written and read
        layer = 2 * d * (5 * d + shape["n_head"] + 2 * d_ff) + within + 2 * 2 * head * d
        return 3 * (shape["n_layer"] * layer + 2 * d * V)
    E, H = shape["d_embedding"], shape["d_hidden"]
    return 3 * (2 * 4 * H * (E + H) + (shape["n_layer"] - 1) * 2 * 4 * H * 2 * H + 2 * H * V)


@pytest.mark.parametrize("family,size", MODELS)
def test_parameters_and_flops_by_hand(family, size):
    with torch.device("meta"):
        model = build_model(config_of(family, size))
    counts = model.count_parameters()
    assert counts["total"] == parameters_by_hand(family, SIZES[family][size])
    tables = [p.numel() for name, p in model.named_parameters() if "embedding" in name]
    assert counts["non_embedding"] == counts["total"] - sum(tables)
    assert model.flops_per_token() == pytest.approx(
        matrix_flops_by_hand(family, SIZES[family][size])
    )
    # three layers of 384 are 3.29M: the table's own columns do not give its 3.2M
    tolerance = 0.028 if (family, size) == ("lstm", "medium") else 0.02
    assert abs(counts["total"] / TABLE[family][size] - 1) < tolerance


@pytest.mark.parametrize("family", SIZES)
def test_first_loss_is_ln_v(family):
    torch.manual_seed(0)
    model = build_model(config_of(family))
    idx = torch.randint(75, (2, 64))
    assert model(idx, idx)[1].item() == pytest.approx(math.log(75), abs=1e-4)


@pytest.mark.parametrize("family", SIZES)
@pytest.mark.parametrize("classic", [False, True])
def test_causality(family, classic):
    model = scrambled(
        config_of(family, rotary=not classic, qk_norm=not classic, token_shift=not classic)
    )
    idx = torch.randint(75, (1, 48))
    changed = idx.clone()
    changed[:, 30:] = (changed[:, 30:] + 1) % 75
    with torch.no_grad():
        before, after = model(idx)[0], model(changed)[0]
    assert torch.equal(before[:, :30], after[:, :30])
    assert not torch.allclose(before[:, 30:], after[:, 30:])


def test_a_quarter_of_the_channels_from_each_of_four_tokens():
    block = scrambled(config_of("transformer")).blocks[0]
    h = torch.arange(1.0, 7)[None, :, None].expand(2, 6, 64)  # every channel of token n holds n
    shifted = block._shift(h, None, 0)
    for quarter, distance in zip(shifted.chunk(4, dim=-1), (0, 1, 2, 3)):
        assert torch.equal(quarter, (h[:, :, :16] - distance).clamp(min=0))
    assert (
        block.token_shift
        and not scrambled(config_of("transformer", token_shift=False)).blocks[0].token_shift
    )


@pytest.mark.parametrize("family", SIZES)
def test_order_of_the_past_matters(family):
    model = scrambled(config_of(family))
    idx = torch.randint(75, (1, 20))
    swapped = idx[:, [1, 0, *range(2, 20)]]
    with torch.no_grad():
        assert not torch.allclose(model(idx)[0][:, -1], model(swapped)[0][:, -1], atol=1e-5)


@pytest.mark.parametrize("family", SIZES)
def test_targets_that_do_not_count(family):
    model = scrambled(config_of(family))
    idx = torch.randint(75, (2, 16))
    targets = idx.clone()
    targets[0, 5:] = common.IGNORE
    logits, loss = model(idx, targets)
    wanted = torch.nn.functional.cross_entropy(
        logits[targets != common.IGNORE], targets[targets != common.IGNORE]
    )
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert model(idx, torch.full_like(idx, common.IGNORE))[1].item() == 0


def steps(model, texts, first=2):
    """Logits (B, V) after each token of texts of equal length, from token number `first` on."""
    cache = None
    for n in range(first, len(texts[0]) + 1):
        logits, cache = model.step_rows([text[:n] for text in texts], cache)
        yield n, logits


@pytest.mark.parametrize("family", SIZES)
@pytest.mark.parametrize("first", [2, 7, 30])
def test_generation_step_by_step_is_the_forward_pass(family, first):
    model = scrambled(config_of(family, block_size=32))
    idx = torch.randint(75, (3, 30))
    with torch.no_grad():
        full = model(idx)[0]
        for n, logits in steps(model, idx.tolist(), first):
            torch.testing.assert_close(logits, full[:, n - 1], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("family", ["lstm", "ssm"])
def test_a_recurrent_model_carries_its_state_beyond_the_window(family):
    model, idx = scrambled(config_of(family, block_size=32)), torch.randint(75, (2, 100))
    with torch.no_grad():
        *_, (_, logits) = steps(model, idx.tolist(), 40)
        torch.testing.assert_close(logits, model(idx)[0][:, -1], atol=1e-4, rtol=1e-3)


def test_window_is_re_anchored():
    """Beyond the context a Transformer reads the newest half again; where generation began does not
    matter."""
    model = scrambled(config_of("transformer", block_size=32))
    idx = torch.randint(75, (2, 90))
    with torch.no_grad():
        for n, logits in steps(model, idx.tolist()):
            start = 0 if n <= 32 else 16 * math.ceil((n - 32) / 16)
            torch.testing.assert_close(
                logits, model(idx[:, start:n])[0][:, -1], atol=2e-4, rtol=1e-3
            )
        torch.testing.assert_close(model.step_rows(idx.tolist())[0], logits, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("family", SIZES)
def test_overfits_one_batch(family):
    torch.manual_seed(0)
    model = build_model(config_of(family, vocab_size=20, block_size=32))
    idx = torch.randint(20, (2, 33))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(idx[:, :-1], idx[:, 1:])[1]
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2


@pytest.mark.parametrize("T", [2, 7, 64])
def test_attention_in_halves_is_attention(T):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, T, 8) for _ in range(3))
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(common.causal_attention(q, k, v), wanted, atol=1e-5, rtol=1e-4)


def test_lstm_biases_are_constants():
    model = build_model(config_of("lstm"))
    assert all(not p.requires_grad for name, p in model.named_parameters() if "bias" in name)
    H = SIZES["lstm"]["tiny"]["d_hidden"]
    assert (
        model.lstm.bias_ih_l0[H : 2 * H] == common.FORGET_BIAS
    ).all() and model.lstm.bias_ih_l0.sum() == H


def test_the_table_of_families_fits_the_classes():
    assert (
        [model_class(name).family for name in FAMILIES]
        == list(FAMILIES)
        == ["transformer", "lstm", "ssm"]
    )
    with pytest.raises(ValueError, match="transformer, lstm"):
        model_class("rnn")
    for name in FAMILIES:
        assert {"tuned", "classic"} == set(model_class(name).DROPOUT)


def test_a_tokenizer_of_another_kind_is_named(tmp_path):
    saved = pickle.loads(common.CharTokenizer("abc").dumps())
    (tmp_path / "tokenizer.pkl").write_bytes(pickle.dumps({**saved, "kind": "word"}))
    with pytest.raises(ValueError, match="'word'; known are char"):
        common.load_tokenizer(tmp_path / "tokenizer.pkl")


def test_devices():
    assert common.pick_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="cuda"):
            common.pick_device("cuda")


# what the hardware says: (torch's CPU capability, AVX512-BF16, AMX) -> precision on the CPU
CPUS = {
    "zen4": ("AVX512", True, False, "bf16"),
    "sapphire-rapids": ("AVX512", True, True, "bf16"),
    "skylake-server": ("AVX512", False, False, "fp32"),
    "zen3": ("AVX2", False, False, "fp32"),
    "imitated-zen3": ("AVX2", True, False, "fp32"),
    "apple-or-arm": ("DEFAULT", False, False, "fp32"),
}


@pytest.mark.parametrize("kind", CPUS)
def test_precision_is_what_the_hardware_multiplies(monkeypatch, kind):
    capability, bf16, amx, wanted = CPUS[kind]
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert common.precision("cpu") == wanted
    with common.autocast("cpu"):
        product = torch.ones(8, 8) @ torch.ones(8, 8)
    assert product.dtype == common.product_dtype("cpu")
    assert (product.dtype == torch.float32) == (wanted == "fp32")


def test_precision_of_gpus_and_of_apples(monkeypatch):
    for capability, wanted in (((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        assert common.precision("cuda") == wanted
    assert common.precision("mps") == "fp32"


@pytest.mark.parametrize("family", SIZES)
def test_rows_at_places_of_their_own(family):
    """For rows of unequal lengths: beyond a context of 32, after going back (over an anchor too),
    for a part of the rows; and whatever stands beside a row changes no bit of it."""
    model = scrambled(config_of(family, block_size=32))
    tokens = torch.randint(75, (8, 70)).tolist()
    n = [2, 31, 32, 33, 40, 48, 49, 60]
    back = [0, 3, 5, 6]

    def texts(lengths):
        return [text[:length] for text, length in zip(tokens, lengths)]

    def is_right(logits, lengths, rows):
        for row in rows:
            alone, _ = model.step_rows(texts(lengths)[row : row + 1])
            torch.testing.assert_close(logits[row], alone[0], atol=2e-4, rtol=1e-3)

    with torch.no_grad():
        logits, cache = model.step_rows(texts(n))
        model.mark(cache, torch.arange(8))  # all but the newest token are read here
        marked, first = n, logits
        for _ in range(5):
            n = [length + 1 for length in n]
            logits, cache = model.step_rows(texts(n), cache)
        is_right(logits, n, range(8))
        model.rewind(cache, torch.tensor(back))
        n = [marked[row] + 1 if row in back else n[row] + 1 for row in range(8)]
        logits, cache = model.step_rows(texts(n), cache)
        is_right(logits, n, range(8))
        cache = model.take_rows(cache, torch.tensor(back))
        n = [length + 1 for length in n]
        few, _ = model.step_rows([texts(n)[row] for row in back], cache)
        logits[back] = few
        is_right(logits, n, back)
        others = [tokens[0][:2], *torch.randint(75, (7, 60)).tolist()]
        assert torch.equal(model.step_rows(others)[0][0], first[0])
