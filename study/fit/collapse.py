"""Do the loss curves of all sizes collapse when each is scaled by its end and its compute?

Supercollapse (Qiu et al. 2025): where rates and schedules suit every size the scaled curves are
one, and a size whose curve leaves the others was badly tuned. That holds along compute-optimal
runs; at one amount of text a larger model has more left to learn at the same share, so the scaled
curves drift with ln N, and a size is named that leaves the drift.
"""

import numpy as np

from study.families import in_order
from study.fit.records import count_of, is_positive

# of the compute of a run: before, the rate still rises; at the end all curves are 1
SHARES = (0.25, 0.95)
N_POINTS = 15
# of the loss at the end: three standard deviations of what the noise of small runs does
MOST_APART = 0.04
MIN_CURVES = 5  # a line through the others needs some


def scaled(points):
    """(share of compute, loss over its end) of a loss curve's points; None with fewer than three of
    them."""
    points = [
        point
        for point in points
        if is_positive(point.get("flops")) and is_positive(point.get("val_nats_per_char"))
    ]
    if len(points) < 3:
        return None
    compute, loss = (
        np.array([point[key] for point in points]) for key in ("flops", "val_nats_per_char")
    )
    return compute / compute[-1], loss / loss[-1]


def collapse_of_families(families, curves):
    """{family: {"at", "sizes": [{"size", "n", "curve", "apart"}], "most_apart", "apart": names of
    the sizes that do not collapse}} from rows at one amount of text; apart: largest distance from
    the line in ln N of all others over SHARES.
    """
    found, at = {}, np.linspace(*SHARES, N_POINTS)
    for family in in_order(families):
        count, sizes = count_of(families[family]), {}
        for row in families[family]:
            curve = scaled(curves.get(row["name"], ()))
            if curve:
                sizes.setdefault((row[count], row["size"]), []).append(np.interp(at, *curve))
        if len(sizes) >= MIN_CURVES:
            keys = sorted(sizes)
            means = np.array([np.mean(sizes[key], 0) for key in keys])
            distances = _distances(means, np.log([n for n, _ in keys]))
            rows = [
                {"size": size, "n": n, "curve": curve, "apart": distance}
                for (n, size), curve, distance in zip(keys, means, distances)
            ]
            found[family] = {
                "at": at,
                "sizes": rows,
                "most_apart": MOST_APART,
                "apart": [row["size"] for row in rows if row["apart"] > MOST_APART],
            }
    return found


def _distances(curves, log_n):
    """Largest distance of each curve (K, M) from the line in ln N through the others; one that is
    apart is taken out of the others, the farthest first, or it would draw the line away from its
    neighbours."""
    x, kept = np.stack([np.ones(len(log_n)), log_n], 1), np.ones(len(log_n), bool)

    def from_others(k):
        others = kept & (np.arange(len(log_n)) != k)
        line = np.linalg.lstsq(x[others], curves[others], rcond=None)[0]
        return float(np.abs(curves[k] - x[k] @ line).max())

    while True:
        distances = np.array([from_others(k) for k in range(len(log_n))])
        worst = int(np.argmax(np.where(kept, distances, 0)))
        if distances[worst] <= MOST_APART or kept.sum() < MIN_CURVES:
            return distances
        kept[worst] = False
