"""Simulates studies with a known law and counts how often the intervals of stage 06 hold the truth.

Each study draws 5 sizes x 1, 3 or 5 seeds from a N^-alpha + c with normal noise and fits it as 06 does. Prints a
markdown table: coverage of the 95 % intervals of alpha and c, share of studies called identified (and how often the
interval of those is right), median interval, root mean square error of log alpha for least squares and for Huber, and
how often the largest size lies inside the interval predicted from the others. A second table does the same for the
difference of two families at equal N, with and without noise that the seeds of both families share.

Run: python -m benchmarks.bench_simulate_coverage [--studies 500] [--seed 0]
"""

import argparse
import math
import time

import numpy as np

from study import scaling_fits
from study import scaling_law as law

PAIRS = [(1, 0.005, 0.0), (3, 0.005, 0.0), (3, 0.005, 0.5), (5, 0.005, 0.5), (1, 0.02, 0.0), (3, 0.02, 0.5)]
SIZES = {"original 5": np.array([142_411, 679_627, 1_906_635, 4_118_347, 7_609_675]),
         "4 of the LSTM": np.array([245_899, 950_475, 3_296_523, 5_837_131]),
         "factor 1.3 wide": np.geomspace(1e6, 1.3e6, 5)}
LAWS = {"0.148, c 0.82": (5.34, 0.1483, 0.821), "0.40, c 1.0": (60.0, 0.40, 1.0), "0.07, c 0": (3.86, 0.0676, 0.0),
        "flat": (1e-9, 0.3, 1.4)}
CELLS = [("original 5", "0.148, c 0.82", seeds, noise) for noise in (0.005, 0.02) for seeds in (1, 3, 5)]
MORE = [("original 5", "0.40, c 1.0", 1, 0.005), ("original 5", "0.40, c 1.0", 3, 0.005),
        ("original 5", "0.40, c 1.0", 3, 0.02),
        ("4 of the LSTM", "0.148, c 0.82", 3, 0.005), ("4 of the LSTM", "0.148, c 0.82", 1, 0.02),
        ("original 5", "0.07, c 0", 3, 0.005), ("original 5", "flat", 3, 0.02),
        ("factor 1.3 wide", "0.148, c 0.82", 3, 0.02)]


def study(sizes, truth, n_seeds, noise, rng):
    """One simulated study: N and loss of each run."""
    a, alpha, c = truth
    n = np.repeat(sizes, n_seeds).astype(float)
    return n, a * n ** -alpha + c + noise * rng.standard_normal(len(n))


def inside(value, interval):
    return (interval[0] is None or interval[0] <= value) and (interval[1] is None or value <= interval[1])


def simulate(sizes, truth, n_seeds, noise, n_studies, rng):
    """Counts over `n_studies` studies: one row of the table as a dict."""
    _, alpha, c = truth
    alpha_in, c_in, identified, right, lows, highs, errors, huber_errors = [], [], [], [], [], [], [], []
    held_out = []
    seconds = 0.0
    for i in range(n_studies):
        n, loss = study(sizes, truth, n_seeds, noise, rng)
        start = time.perf_counter()
        fit = law.fit_power_law(n, loss)
        known, _ = law.verdict(fit)
        seconds += time.perf_counter() - start
        alpha_in.append(inside(alpha, fit.alpha_interval))
        c_in.append(inside(c, fit.c_interval))
        identified.append(known)
        right.append(known and alpha_in[-1])
        lows.append(fit.alpha_interval[0] or 0.0)
        highs.append(np.inf if fit.alpha_interval[1] is None else fit.alpha_interval[1])
        errors.append(np.log(fit.alpha / alpha))
        if i < 200:
            held_out.append(law.hold_out_largest(n, loss)["measured_inside_interval"])
            huber_errors.append(np.log(law.fit_huber(n, loss)["alpha"] / alpha))
    rms = lambda e: float(np.sqrt(np.mean(np.square(e))))
    return {"alpha": np.mean(alpha_in), "c": np.mean(c_in), "identified": np.mean(identified),
            "right": np.sum(right) / max(np.sum(identified), 1), "low": np.median(lows), "high": np.median(highs),
            "rms": rms(errors[:200]), "rms_huber": rms(huber_errors),
            "held_out": None if held_out.count(None) > 100 else np.mean([h for h in held_out if h is not None]),
            "ms": 1e3 * seconds / n_studies}


def simulate_difference(n_seeds, noise, shared, n_studies, rng):
    """(coverage, mean width) of the intervals of the loss difference of two families at five equal N."""
    truth, gap = LAWS["0.148, c 0.82"], 0.05
    (a, alpha, c), covered, widths = truth, [], []
    for _ in range(n_studies):
        common = math.sqrt(shared) * noise * rng.standard_normal(n_seeds)
        runs, fits = [], {}
        for sizes, shift in ((SIZES["original 5"], 0.0), (SIZES["4 of the LSTM"], gap)):
            own = noise * math.sqrt(1 - shared) * rng.standard_normal((len(sizes), n_seeds))
            loss = (a * sizes.astype(float) ** -alpha + c + shift)[:, None] + own + common
            runs.append([(n, s, loss[i, s], n) for i, n in enumerate(sizes) for s in range(n_seeds)])
            fits[shift] = law.fit_power_law(np.repeat(sizes, n_seeds), loss.ravel())
        families = {k: [{"params_total": n, "val_nats_per_char": y} for n, _, y, _ in r] for k, r in zip(fits, runs)}
        found = law.compare_families(*runs, scaling_fits.noise_of_runs(families, fits), 0, rng)
        for point in found["points"]:
            low, high = point["interval"]
            covered.append(low <= -gap <= high)
            widths.append(high - low)
    return np.mean(covered), np.mean(widths)


def main(argv=None):
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--studies", type=int, default=500, help="studies per cell (default: 500)")
    options.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    args = options.parse_args(argv)
    print("| sizes | truth (alpha) | seeds | noise | alpha covered | c covered | identified | of those, covered "
          "| median interval | rms log error: LS | Huber | largest size inside | ms/fit |\n"
          "|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    for number, (sizes, truth, n_seeds, noise) in enumerate(CELLS + MORE):
        rng = np.random.default_rng([args.seed, number])
        r = simulate(SIZES[sizes], LAWS[truth], n_seeds, noise, args.studies, rng)
        high = f"{r['high']:.2f}" if np.isfinite(r["high"]) else "unbounded"
        held_out = "-" if r["held_out"] is None else f"{100 * r['held_out']:.0f} %"
        right = f"{100 * r['right']:.1f} %" if r["identified"] else "-"
        print(f"| {sizes} | {truth} | {n_seeds} | {noise} | **{100 * r['alpha']:.1f} %** | {100 * r['c']:.1f} % | "
              f"{100 * r['identified']:.0f} % | {right} | {r['low']:.2f} to {high} | {r['rms']:.2f} | "
              f"{r['rms_huber']:.2f} | {held_out} | "
              f"{r['ms']:.1f} |", flush=True)
    print("\n| seeds | noise of a run | of it shared by a seed | difference covered | mean width, nats |\n"
          "|---|---|---|---|---|")
    for number, (n_seeds, noise, shared) in enumerate(PAIRS):
        covered, width = simulate_difference(n_seeds, noise, shared, args.studies,
                                             np.random.default_rng([args.seed, 100 + number]))
        print(f"| {n_seeds} | {noise} | {100 * shared:.0f} % | **{100 * covered:.1f} %** | {width:.4f} |", flush=True)


if __name__ == "__main__":
    main()
