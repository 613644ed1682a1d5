"""The model ladder: sizes of one depth from which a law can be read, and the rule of their rates.

Named by the Transformer's width, d008 to d256: a factor of 900 in parameters (width 4 lies above
the law of the others). Under one name every family has as many (but embeddings), within 1 %.
"""

import math

# the Transformer's; a learned position table would be larger than two blocks at width 16
LADDER = {
    f"d{d:03}": {
        "n_layer": 4,
        "n_head": 1 if d % 4 else 2,
        "d_model": d,
        "d_ff": 4 * d,
        "learned_positions": False,
    }
    for d in (8, 10, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
}
LEFT_OUT_OF_QUICK = ("d256",)
RULE_WIDTH = 64  # at which the rule's r is the rate
# {family: loss of the grid's largest run, written before its training}
PREDICTION = "checkpoints/prediction.json"


def width_of(size):
    return LADDER[size]["d_model"]


def ladder_sizes(family, vocab_size):
    """Returns {size: shape} of a family's ladder; ValueError if there is no rule for it."""
    if family == "transformer":
        return LADDER
    if family not in RULES:
        raise ValueError(f"the family {family} has no rule for a given number of parameters")
    return {
        size: RULES[family](parameters(shape, vocab_size), vocab_size)
        for size, shape in LADDER.items()
    }


def parameters(shape, vocab_size):
    """Returns a Transformer's parameters but its embeddings; by hand, or every family's sizes would
    follow the code of its class."""
    d = shape["d_model"]
    return shape["n_layer"] * (4 * d * d + 2 * d * shape["d_ff"] + 2 * d) + d + d * vocab_size


def lstm_shape(n_parameters, vocab_size):
    """Returns the shape of two layers: of the widths that miss the number by at most half a percent
    those nearest E = H / 2, else those that miss it least."""

    def unfit(widths):
        E, H = widths
        off = abs(4 * H * (E + H) + 8 * H * H + H * vocab_size - n_parameters) / n_parameters
        return max(off, 0.005), abs(E / H - 0.5)

    # 14 H^2 + V H weights at E = H / 2
    width = (math.sqrt(vocab_size**2 + 56 * n_parameters) - vocab_size) / 28
    widths = (
        (E, H)
        for H in range(max(2, int(width * 0.95)), int(width * 1.05) + 2)
        for E in range(max(1, int(0.35 * H)), int(0.65 * H) + 1)
    )
    E, H = min(widths, key=unfit)
    return {"n_layer": 2, "d_embedding": E, "d_hidden": H}


def ssm_shape(n_parameters, vocab_size):
    """Returns the shape of four layers of two heads whose feed-forward layer is most nearly four
    times as wide."""

    def shape(d, n_layer=4, n_head=2):
        mlp = (n_parameters - d * (vocab_size + 1)) / n_layer - d * (5 * d + n_head + 2)
        d_ff = max(1, round(mlp / (2 * d)))
        return {"n_layer": n_layer, "n_head": n_head, "d_model": d, "d_ff": d_ff}

    return min(
        map(shape, range(4, 1025, 2)),
        key=lambda s: abs(math.log(s["d_ff"] / (4 * s["d_model"]))),
    )


# of families but the Transformer: non-embedding parameters and vocabulary -> shape, within 1 %
RULES = {"lstm": lstm_shape, "ssm": ssm_shape}


def rule_rate(rule, size):
    """Returns the peak learning rate that a rule (r, b) gives a size.

    >>> rule_rate((0.02, 0.5), "d016"), rule_rate((0.02, 0.5), "d064")
    (0.04, 0.02)
    """
    rate, exponent = rule
    return rate * (width_of(size) / RULE_WIDTH) ** -exponent
