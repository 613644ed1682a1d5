"""The ladder: sizes of one depth from which a law can be read, the same in every family, and the
rule of their rates.

Named by the Transformer's width, d008 to d256: 900 times as many parameters at the top as at the
foot. Every family has, under the same name, the Transformer's parameters but embeddings within 1 %.
No learned position table: at width 16 it would be larger than two blocks. Width 4 was tried and
lies above the law of the others.
"""

# the Transformer's
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
QUICK_WIDTH = 128  # the widest of the short run
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
    """Returns a Transformer's parameters but its embeddings, by hand: named here, an edit of the
    class would count as one of every script."""
    d = shape["d_model"]
    return shape["n_layer"] * (4 * d * d + 2 * d * shape["d_ff"] + 2 * d) + d + d * vocab_size


def rule_rate(rule, size):
    """Returns the peak learning rate that a rule (r, b) gives a size.

    >>> rule_rate((0.02, 0.5), "d016"), rule_rate((0.02, 0.5), "d064")
    (0.04, 0.02)
    """
    rate, exponent = rule
    return rate * (width_of(size) / RULE_WIDTH) ** -exponent
