"""The model ladder: sizes of one depth from which a law can be read, and the rule of their rates.

Named by the Transformer's width, d008 to d256: a factor of 900 in parameters. Under the same name
every family has as many parameters (but embeddings), within 1 %. Width 4 lies above the law of the
others.
"""

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
LEFT_OUT_OF_QUICK = ("d192", "d256")
RULE_WIDTH = 64  # at which the rule's r is the rate
# {family: loss of the grid's largest run, written before its training}
PREDICTION = "checkpoints/prediction.json"


def width_of(size):
    return LADDER[size]["d_model"]


def ladder_sizes(model, vocab_size):
    """Returns {size: shape} of a family's ladder; ValueError if its class has no rule."""
    if model.family == "transformer":
        return LADDER
    return {
        size: model.shape_of_size(parameters(shape, vocab_size), vocab_size)
        for size, shape in LADDER.items()
    }


def parameters(shape, vocab_size):
    """Returns a Transformer's parameters but its embeddings; by hand, since a call of the class
    would make every family's sizes follow its code."""
    d = shape["d_model"]
    return shape["n_layer"] * (4 * d * d + 2 * d * shape["d_ff"] + 2 * d) + d + d * vocab_size


def rule_rate(rule, size):
    """Returns the peak learning rate that a rule (r, b) gives a size.

    >>> rule_rate((0.02, 0.5), "d016"), rule_rate((0.02, 0.5), "d064")
    (0.04, 0.02)
    """
    rate, exponent = rule
    return rate * (width_of(size) / RULE_WIDTH) ** -exponent
