"""The ladder: sizes of one depth from which a law can be read, the same in every family, and the
rule of their rates.

Named by the Transformer's width, d008 to d256: 900 times as many parameters at the top as at the
foot. Every family has, under the same name, the Transformer's parameters but embeddings within 1 %.
No learned position table: at width 16 it would be larger than two blocks. Width 4 was tried and
lies above the law of the others. The learning rate follows a rule, rate = r * (width / 64)^-b,
fitted to sweeps at a few widths and checked at one that was left out.
"""

import numpy as np

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
LEFT_OUT = "d064"  # swept, but not fitted: here the rule is checked
# {family: loss of the grid's largest run, written before its training}
PREDICTION = "checkpoints/prediction.json"
NEAR_NATS = 0.1  # above a size's best loss: points farther up lie on no parabola


def width_of(size):
    """The width that a size of the ladder is named by.

    >>> width_of("d016")
    16
    """
    return LADDER[size]["d_model"]


def ladder_sizes(model, vocab_size):
    """{size: shape} of a family's ladder; ValueError if its class has no rule for a given number of
    parameters."""
    if model.family == "transformer":
        return LADDER
    return {
        size: model.shape_of_size(parameters(shape, vocab_size), vocab_size)
        for size, shape in LADDER.items()
    }


def parameters(shape, vocab_size):
    """Parameters of a Transformer but its embeddings, by hand: this file names no family's class,
    or an edit of the Transformer would count as one of every script."""
    d = shape["d_model"]
    return shape["n_layer"] * (4 * d * d + 2 * d * shape["d_ff"] + 2 * d) + d + d * vocab_size


def rule_rate(rule, size):
    """The peak learning rate that a rule (r, b) gives a size.

    >>> rule_rate((0.02, 0.5), "d016"), rule_rate((0.02, 0.5), "d064")
    (0.04, 0.02)
    """
    rate, exponent = rule
    return rate * (width_of(size) / RULE_WIDTH) ** -exponent


def fit_rule(outcomes):
    """The rule of a family from its sweeps: {"rate" (r), "exponent" (b), "sizes", "checked"}; None
    if they have no common minimum, or are of fewer than three widths.

    outcomes: {size: {"runs": [{"learning_rate", "val_nats_per_char"}]}}. Least squares over all
    points near their size's best: loss = A_size + k (ln rate - ln r + b ln(width / 64))^2, one
    curvature for all. "checked": for LEFT_OUT its own best rate, the rule's, and what the rule
    loses by that in nats per character; None if it was not swept.
    """
    sizes = [size for size in outcomes if size != LEFT_OUT]
    points = [(size, *point) for size in sizes for point in _near_best(outcomes[size])]
    if len(sizes) < 3 or len(points) < len(sizes) + 3:
        return None
    x = np.array([rate for _, rate, _ in points])
    width = np.array([np.log(width_of(size) / RULE_WIDTH) for size, *_ in points])
    columns = [x * x, x, x * width, *([point[0] == size for point in points] for size in sizes)]
    k, p, q = np.linalg.lstsq(
        np.array(columns, float).T, np.array([loss for *_, loss in points]), rcond=None
    )[0][:3]
    if k <= 0:
        return None
    rule = float(np.exp(-p / (2 * k))), float(q / (2 * k))
    return {
        "rate": float(f"{rule[0]:.4g}"),
        "exponent": round(rule[1], 4),
        "sizes": sizes,
        "checked": _check(outcomes[LEFT_OUT], rule) if LEFT_OUT in outcomes else None,
    }


def _near_best(outcome):
    """[(ln rate, loss)] of a sweep, but for what lies far above its best."""
    points = [
        (np.log(run["learning_rate"]), run["val_nats_per_char"])
        for run in outcome["runs"]
        if run["val_nats_per_char"] is not None
    ]
    best = min((loss for _, loss in points), default=0)
    return [(rate, loss) for rate, loss in points if loss <= best + NEAR_NATS]


def _check(outcome, rule):
    """The rule beside the parabola of the size that was left out."""
    points = _near_best(outcome)
    if len(points) < 3:
        return None
    k, p, _ = np.polyfit(*zip(*points), 2)
    if k <= 0:
        return None
    own, given = -p / (2 * k), np.log(rule_rate(rule, LEFT_OUT))
    return {
        "size": LEFT_OUT,
        "best": float(f"{np.exp(own):.4g}"),
        "rule": float(f"{np.exp(given):.4g}"),
        "nats_above_best": round(float(k * (given - own) ** 2), 5),
    }
