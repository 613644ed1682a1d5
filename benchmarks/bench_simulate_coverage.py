"""Simulates studies with a known law and counts how often the intervals and the words of stage 06
hold the truth.

Each study draws sizes x seeds from a N^-alpha + c, or from a line in ln N, with normal noise and
fits it as 06 does. Prints six markdown tables. Words: how often a study is called open, bounded or
identified, how often the interval of the identified holds the truth, and how often a rival is
rejected. Intervals: coverage of the 95 % intervals of alpha and c, median interval, root mean
square error of log alpha for least squares and for Huber, and how often the largest size lies
inside the interval predicted from the others. Differences: coverage of the difference of two
families at equal N, with and without noise that the seeds of both families share. Short: the ladder
of a short run with the original suite, fitted together where one law holds. Grids: coverage of the
intervals of a family's own law of size and text. Shared: the same of the law of three families.

Run: python -m benchmarks.bench_simulate_coverage [--studies 500] [--seed 0] [--table words]
"""

import argparse
import itertools
import math
from collections import defaultdict

import numpy as np

from study.fit import analysis, compare, headline_runs, joint_fit, shared_law
from study.fit import power_law as law
from study.fit.records import COLUMNS
from study.fit.verdict import RIVALS, verdict

PAIRS = [
    (1, 0.005, 0.0),
    (3, 0.005, 0.0),
    (3, 0.005, 0.5),
    (5, 0.005, 0.5),
    (1, 0.02, 0.0),
    (3, 0.02, 0.5),
]
SIZES = {
    "original 5": np.array([142_411, 679_627, 1_906_635, 4_118_347, 7_609_675]),
    "4 of the LSTM": np.array([245_899, 950_475, 3_296_523, 5_837_131]),
    "factor 1.3 wide": np.geomspace(1e6, 1.3e6, 5),
    **{f"{k} sizes, 10k-1.3M": np.geomspace(1e4, 1.3e6, k).round() for k in (7, 8)},
}
LAWS = {
    "0.148, c 0.82": (5.34, 0.1483, 0.821),
    "0.40, c 1.0": (60.0, 0.40, 1.0),
    "0.07, c 0": (3.86, 0.0676, 0.0),
    "flat": (1e-9, 0.3, 1.4),
    "0.30, c 1.0": (12.0, 0.30, 1.0),
    "0.15, c 0": (8.0, 0.15, 0.0),
    "0.486, c 0.96": (35.3, 0.486, 0.956),
    "0.351, c 1.27": (5.9, 0.351, 1.273),
    "0.70, c 1.11": (97.9, 0.70, 1.111),
    "line in ln N": None,
}
# noise of a run below and above 0.8M parameters, as this project's own runs show it
BY_SIZE = "0.012/0.006"
WORDS = [
    *(
        ("original 5", "line in ln N", seeds, noise)
        for seeds in (1, 3)
        for noise in (0.003, 0.006, 0.012, 0.02)
    ),
    ("4 of the LSTM", "line in ln N", 1, 0.02),
    ("8 sizes, 10k-1.3M", "line in ln N", 3, BY_SIZE),
    ("original 5", "flat", 3, 0.02),
    ("factor 1.3 wide", "0.148, c 0.82", 3, 0.02),
    ("original 5", "0.07, c 0", 3, 0.005),
    ("8 sizes, 10k-1.3M", "0.15, c 0", 3, BY_SIZE),
    *(
        ("original 5", "0.30, c 1.0", seeds, noise)
        for seeds in (1, 3)
        for noise in (0.003, 0.006, 0.012, 0.02)
    ),
    ("original 5", "0.148, c 0.82", 3, 0.005),
    ("4 of the LSTM", "0.30, c 1.0", 1, 0.012),
    *(
        ("8 sizes, 10k-1.3M", truth, seeds, BY_SIZE)
        for truth in ("0.486, c 0.96", "0.351, c 1.27", "0.70, c 1.11")
        for seeds in (1, 2, 3)
    ),
    ("7 sizes, 10k-1.3M", "0.486, c 0.96", 1, BY_SIZE),
]
CELLS = [
    ("original 5", "0.148, c 0.82", seeds, noise) for noise in (0.005, 0.02) for seeds in (1, 3, 5)
]
MORE = [
    ("original 5", "0.40, c 1.0", 1, 0.005),
    ("original 5", "0.40, c 1.0", 3, 0.005),
    ("original 5", "0.40, c 1.0", 3, 0.02),
    ("4 of the LSTM", "0.148, c 0.82", 3, 0.005),
    ("4 of the LSTM", "0.148, c 0.82", 1, 0.02),
    ("original 5", "0.07, c 0", 3, 0.005),
    ("original 5", "flat", 3, 0.02),
    ("factor 1.3 wide", "0.148, c 0.82", 3, 0.02),
    ("8 sizes, 10k-1.3M", "0.486, c 0.96", 3, BY_SIZE),
]
# N of matrices and head: ladder of width 6 to 48 and the original suite, of the LSTM hidden 12 to
# 96 and more
LADDERS = {
    "transformer": [2082, 3544, 7620, 13232, 29064, 51040, 113424],
    "lstm": [2616, 4384, 9264, 15936, 34656, 60544, 133824],
}
LARGER = {"transformer": [200384, 448032], "lstm": [295200, 606944]}
SUITES = {
    "transformer": [101824, 597120, 1780800, 3947776, 7392960],
    "lstm": [235776, 930304, 3263232, 5792768],
}
# as 300k characters of folk tunes gave them: law, noise of a run of the ladder and of the suite
FOUND = {
    "transformer": ((3.23, 0.223, 1.019), 0.0075, 0.0075),
    "lstm": ((2.99, 0.256, 1.094), 0.0075, 0.025),
}
SHORT = [
    ("transformer", 1, 0, True),
    ("transformer", 1, 0, False),
    ("transformer", 1, 2, True),
    ("lstm", 1, 0, True),
    ("lstm", 1, 2, True),
    ("lstm", 2, 0, True),
    ("lstm", 2, 2, True),
    ("lstm", 3, 2, True),
]
GRIDS = {
    "alpha 0.49, beta 0.30": (0.75, 35.3, 17.3, 0.486, 0.30, 1.0),
    "alpha 0.25, beta 0.28": (0.60, 3.5, 14.0, 0.25, 0.28, 1.0),
    "alpha 0.13, beta 0.19, order 2.9": (0.0, 3.9, 12.0, 0.13, 0.19, 2.9),
}
STUDY_SIZES = np.array(
    [3544, 5390, 7620, 13232, 29064, 51040, 113424, 200384, 448032, 793984, 1780800], float
)
GRID_SIZES, GRID_CHARS = np.geomspace(1e4, 2e6, 8).round(), 1.35e6 / 2.0 ** np.arange(5)
RESAMPLES = 400


def study(sizes, truth, n_seeds, noise, rng):
    """One simulated study: N and loss of each run. truth: (a, alpha, c), or None for a line in ln
    N."""
    n = np.repeat(sizes, n_seeds).astype(float)
    curve = truth[0] * n ** -truth[1] + truth[2] if truth else 3 - 0.1 * np.log(n)
    sd = np.where(n < 8e5, 0.012, 0.006) if noise == BY_SIZE else noise
    return n, curve + sd * rng.standard_normal(len(n))


def inside(value, interval):
    return (interval[0] is None or interval[0] <= value) and (
        interval[1] is None or value <= interval[1]
    )


def simulate_words(sizes, truth, n_seeds, noise, n_studies, rng):
    """Shares over `n_studies` studies: one row of the table of words as a dict."""
    words, right, rejected, before = [], [], {form: 0 for form in RIVALS}, 0
    for _ in range(n_studies):
        fit = law.fit_power_law(*study(sizes, truth, n_seeds, noise, rng))
        found = verdict(fit)
        words.append(found.word)
        right.append(bool(truth) and inside(truth[1], fit.alpha_interval))
        # what the word meant at first
        before += None not in fit.alpha_interval and 0 < fit.c < fit.means.min()
        for form in RIVALS:
            rejected[form] += found.rivals[form]["rejected"]
    known = [held for word, held in zip(words, right) if word == "identified"]
    return {
        **{word: words.count(word) / n_studies for word in ("open", "bounded", "identified")},
        "right": np.mean(known) if truth and len(known) >= 5 else None,
        "wrong": known.count(False) / n_studies,
        "before": before / n_studies,
        **{form: count / n_studies for form, count in rejected.items()},
    }


def simulate(sizes, truth, n_seeds, noise, n_studies, rng):
    """Counts over `n_studies` studies: one row of the table of intervals as a dict."""
    _, alpha, c = truth
    alpha_in, c_in, lows, highs, errors, huber_errors, held_out = [], [], [], [], [], [], []
    for i in range(n_studies):
        n, loss = study(sizes, truth, n_seeds, noise, rng)
        fit = law.fit_power_law(n, loss)
        alpha_in.append(inside(alpha, fit.alpha_interval))
        c_in.append(inside(c, fit.c_interval))
        lows.append(fit.alpha_interval[0] or 0.0)
        highs.append(np.inf if fit.alpha_interval[1] is None else fit.alpha_interval[1])
        errors.append(np.log(fit.alpha / alpha))
        if i < 200:
            held_out.append(law.hold_out_largest(n, loss)["measured_inside_interval"])
            huber = law.fit_huber(n, loss) or {"alpha": law.ALPHA_RANGE[1]}
            huber_errors.append(np.log(huber["alpha"] / alpha))
    rms = lambda e: float(np.sqrt(np.mean(np.square(e))))
    return {
        "alpha": np.mean(alpha_in),
        "c": np.mean(c_in),
        "low": np.median(lows),
        "high": np.median(highs),
        "rms": rms(errors[:200]),
        "rms_huber": rms(huber_errors),
        "held_out": (
            None if held_out.count(None) > 100 else np.mean([h for h in held_out if h is not None])
        ),
    }


def simulate_difference(n_seeds, noise, shared, n_studies, rng):
    """(coverage, mean width) of the intervals of the loss difference of two families at five equal
    N."""
    truth, gap = LAWS["0.148, c 0.82"], 0.05
    (a, alpha, c), covered, widths = truth, [], []
    for _ in range(n_studies):
        common = math.sqrt(shared) * noise * rng.standard_normal(n_seeds)
        runs = []
        for sizes, shift in ((SIZES["original 5"], 0.0), (SIZES["4 of the LSTM"], gap)):
            own = noise * math.sqrt(1 - shared) * rng.standard_normal((len(sizes), n_seeds))
            loss = (a * sizes.astype(float) ** -alpha + c + shift)[:, None] + own + common
            runs.append(
                [(n, s, loss[i, s], n) for i, n in enumerate(sizes) for s in range(n_seeds)]
            )
        families = [[row_of(n, 1, seed, y) for n, seed, y, _ in own] for own in runs]
        found = compare.compare_families(*runs, compare.noise_of_runs(families))
        for point in found["points"]:
            low, high = point["interval"]
            covered.append(low <= -gap <= high)
            widths.append(high - low)
    return np.mean(covered), np.mean(widths)


def row_of(n, d, seed, loss, suite="ladder"):
    """A row as `study.fit.records` makes them from a run."""
    return {
        **dict.fromkeys(COLUMNS),
        "name": f"{suite}_{n:.0f}_{d:.0f}_{seed}",
        "family": "transformer",
        "seed": seed,
        "size": f"{n:.0f}",
        "suite": suite,
        "recipe": "tuned",
        "params_total": n,
        "params_non_embedding": n,
        "n_chars_seen": d,
        "train_chars": d,
        "val_nats_per_char": float(loss),
    }


def simulate_short(family, n_seeds, n_larger, with_suite, n_studies, rng):
    """Shares of studies of the short run's design: joined with the suite, cut, identified, of those
    right, wrong."""
    (a, alpha, c), noise, suite_noise = FOUND[family]
    joined, cut, words, right = 0, 0, [], []
    for _ in range(n_studies):
        rows = [
            row_of(n, 3e5, seed, a * n**-alpha + c + noise * rng.standard_normal())
            for n in LADDERS[family] + LARGER[family][:n_larger]
            for seed in range(n_seeds)
        ]
        rows += (
            [
                row_of(
                    n, 3e5, 0, a * n**-alpha + c + suite_noise * rng.standard_normal(), "classical"
                )
                for n in SUITES[family]
            ]
            if with_suite
            else []
        )
        chosen = headline_runs.choose_headline(rows)
        entry, fit = analysis.fit_family(chosen._replace(nine=[]))
        joined, cut = joined + ("classical" in chosen.suite), cut + (chosen.bends_below is not None)
        words.append(entry["verdict"])
        right.append(inside(alpha, fit.alpha_interval))
    known = [held for word, held in zip(words, right) if word == "identified"]
    return {
        "joined": joined / n_studies,
        "cut": cut / n_studies,
        "identified": len(known) / n_studies,
        "covered": np.mean(right),
        "right": np.mean(known) if len(known) >= 5 else None,
        "wrong": known.count(False) / n_studies,
    }


def simulate_grid(truth, sizes, n_seeds, n_studies, rng):
    """Coverage and mean half-width of the intervals of a family's law of size and text, as two
    dicts."""
    known = dict(zip(shared_law.JOINT, truth))
    known["n_opt_exponent"] = known["beta"] / (known["alpha"] + known["beta"])
    covered, halves = defaultdict(list), defaultdict(list)
    for _ in range(n_studies):
        rows = []
        for n, d, seed in itertools.product(sizes, GRID_CHARS, range(n_seeds)):
            noise = (0.012 if n < 8e5 else 0.006) * rng.standard_normal()
            rows.append(row_of(n, d, seed, shared_law.joint_loss(n, d, *truth) + noise))
        entry, _, _ = joint_fit.fit_grid(rows, RESAMPLES, rng)
        for name in ("alpha", "beta", "E", "n_opt_exponent"):
            low, high = entry[name]["interval"]
            covered[name].append(low <= known[name] <= high)
            halves[name].append((high - low) / 2)
        covered["form"].append(entry["form"] == ("sum" if truth[5] == 1 else "order free"))
        p = entry["lack_of_fit"]["p"]
        covered["refused"].append(p is not None and p < joint_fit.MISFIT_LEVEL)
    return [
        {name: np.mean(values) for name, values in found.items()} for found in (covered, halves)
    ]


def percent(share, digits=0):
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def print_words(args):
    print(
        "| sizes | truth (alpha) | seeds | noise | open | bounded | identified | of those, covered "
        "| identified and wrong | line rejected | c = 0 rejected | a bounded interval alone |\n|"
        + "---|" * 12
    )
    for number, (sizes, truth, n_seeds, noise) in enumerate(WORDS):
        rng = np.random.default_rng([args.seed, 200 + number])
        r = simulate_words(SIZES[sizes], LAWS[truth], n_seeds, noise, args.studies, rng)
        print(
            f"| {sizes} | {truth} | {n_seeds} | {noise} | {percent(r['open'], 1)} |"
            f" {percent(r['bounded'])} | **{percent(r['identified'])}** | {percent(r['right'])} |"
            f" {percent(r['wrong'], 1)} | {percent(r['log_linear'], 1)} | {percent(r['power'], 1)}"
            f" | {percent(r['before'])} |",
            flush=True,
        )


def print_intervals(args):
    print(
        "\n| sizes | truth (alpha) | seeds | noise | alpha covered | c covered | median interval |"
        " rms log error: LS | Huber | largest size inside |\n|"
        + "---|" * 10
    )
    for number, (sizes, truth, n_seeds, noise) in enumerate(CELLS + MORE):
        rng = np.random.default_rng([args.seed, number])
        r = simulate(SIZES[sizes], LAWS[truth], n_seeds, noise, args.studies, rng)
        high = f"{r['high']:.2f}" if np.isfinite(r["high"]) else "unbounded"
        print(
            f"| {sizes} | {truth} | {n_seeds} | {noise} | **{percent(r['alpha'], 1)}** |"
            f" {percent(r['c'], 1)} | {r['low']:.2f} to {high} | {r['rms']:.2f} |"
            f" {r['rms_huber']:.2f} | {percent(r['held_out'])} |",
            flush=True,
        )


def print_differences(args):
    print(
        "\n| seeds | noise of a run | of it shared by a seed | difference covered | mean width,"
        " nats |\n|---|---|---|---|---|"
    )
    for number, (n_seeds, noise, shared) in enumerate(PAIRS):
        covered, width = simulate_difference(
            n_seeds, noise, shared, args.studies, np.random.default_rng([args.seed, 100 + number])
        )
        print(
            f"| {n_seeds} | {noise} | {percent(shared)} | **{percent(covered, 1)}** |"
            f" {width:.4f} |",
            flush=True,
        )


def print_short(args):
    print(
        "\n| family | seeds of the ladder | sizes above it | original suite | joined | cut |"
        " identified | covered | of the identified, covered | identified and wrong |\n|"
        + "---|" * 10
    )
    for number, (family, n_seeds, n_larger, with_suite) in enumerate(SHORT):
        r = simulate_short(
            family,
            n_seeds,
            n_larger,
            with_suite,
            args.studies,
            np.random.default_rng([args.seed, 300 + number]),
        )
        print(
            f"| {family} | {n_seeds} | {n_larger} | {'yes' if with_suite else 'no'} |"
            f" {percent(r['joined'])} | {percent(r['cut'], 1)} | **{percent(r['identified'])}** |"
            f" {percent(r['covered'], 1)} | {percent(r['right'])} | {percent(r['wrong'], 1)} |",
            flush=True,
        )


def print_grids(args):
    names = ("alpha", "beta", "E", "n_opt_exponent")
    print(
        "\n| truth | runs | covered: alpha | beta | E | a | half-width: alpha | beta | E | a |"
        " form found | called none |\n|"
        + "---|" * 12
    )
    for number, (words, truth) in enumerate(GRIDS.items()):
        rng = np.random.default_rng([args.seed, 400 + number])
        covered, halves = simulate_grid(truth, GRID_SIZES, 2, args.studies, rng)
        cells = [f"**{percent(covered[name], 1)}**" for name in names]
        cells += [f"{halves[name]:.3f}" for name in names]
        cells += [percent(covered["form"]), percent(covered["refused"], 1)]
        n_runs = 2 * len(GRID_SIZES) * len(GRID_CHARS)
        print(f"| {words} | {n_runs} | {' | '.join(cells)} |", flush=True)


def simulate_shared(sources, n_studies, rng):
    """Returns ({name: share of intervals that hold the truth}, {name: mean half-width}) of the law
    of three families: studies as the one that ships, with the sources of error that are named.

    sources: {"seeds", "text", "form"}: standard deviations of log loss of a run; of a draw of 84k
    characters (falling as 1 / D, the same for all runs of an amount); of a cell.
    """
    covered, halves = {}, {}
    known = {"alpha": 0.154, "beta": 0.265, "order": 2.26, "E": 0.33, "kappa": 0.08}
    for _ in range(n_studies):
        points = _shared_study(known, sources, rng)
        found = shared_law.fit(points)
        other = shared_law.spread(found, points)
        for name, true in known.items():
            value = shared_law.quoted(found)[name]
            low, high = other.interval(
                value, lambda p, name=name: shared_law.values(found, p)[name]
            )
            covered.setdefault(name, []).append(low <= true <= high)
            halves.setdefault(name, []).append((high - low) / 2)
    return tuple({k: np.mean(v) for k, v in found.items()} for found in (covered, halves))


def _shared_study(known, sources, rng):
    """Points of three families, 11 sizes, 5 amounts of text; two seeds, the third family one."""
    rows = []
    draws = {d: rng.standard_normal() for d in GRID_CHARS}
    for family, (a, b) in enumerate(((3.58, 20.7), (3.14, 21.8), (3.38, 21.2))):
        for n in STUDY_SIZES:
            for d in GRID_CHARS:
                saved = 1.05 / (1 + (8e11 / (n * d)) ** 2.2) if family == 0 else 0.0
                terms = (a * n ** -known["alpha"], b * d ** -known["beta"])
                reducible = sum(term ** known["order"] for term in terms) ** (1 / known["order"])
                loss = known["E"] + reducible - known["kappa"] * saved
                cell = sources["form"] * rng.standard_normal()
                text = sources["text"] * 84e3 / d * draws[d]
                for _ in range(1 if family == 2 else 2):
                    error = cell + text + sources["seeds"] * rng.standard_normal()
                    rows.append((family, n, d, loss * math.exp(error), saved))
    family, n, d, loss, saved = np.array(rows).T
    names = ["transformer", "lstm", "ssm"]
    return shared_law.Points(names, family.astype(int), n, d, loss, saved)


def print_shared(args):
    names = ("alpha", "beta", "order", "E", "kappa")
    print(
        "\n| seeds | text drawn, 84k | form, a cell | covered: "
        + " | ".join(names)
        + " | half-width: "
        + " | ".join(names)
        + " |\n|"
        + "---|" * 13
    )
    for number, (seeds, text, form) in enumerate(SHARED_SOURCES):
        sources, rng = {"seeds": seeds, "text": text, "form": form}, np.random.default_rng(
            [args.seed, 600 + number]
        )
        covered, halves = simulate_shared(sources, args.studies, rng)
        print(
            f"| {100 * seeds:.1f} % | {100 * text:.2f} % | {100 * form:.1f} % | "
            + " | ".join(f"**{percent(covered[name])}**" for name in names)
            + " | "
            + " | ".join(f"{halves[name]:.3f}" for name in names)
            + " |",
            flush=True,
        )


# standard deviations of log loss: seeds, text drawn at 84k characters, form
SHARED_SOURCES = ((0.006, 0.0, 0.0), (0.006, 0.0105, 0.0), (0.007, 0.0105, 0.008))


TABLES = {
    "words": print_words,
    "intervals": print_intervals,
    "differences": print_differences,
    "short": print_short,
    "grids": print_grids,
    "shared": print_shared,
}


def main(argv=None):
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--studies", type=int, default=500, help="studies per cell (default: 500)")
    options.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    options.add_argument("--table", choices=TABLES, help="this table only (default: all)")
    args = options.parse_args(argv)
    for name, print_table in TABLES.items():
        if args.table in (None, name):
            print_table(args)


if __name__ == "__main__":
    main()
