"""Fits scaling laws to the runs of 04 and 05: exponents with intervals, a verdict, the two families compared.

Reads:  checkpoints/<family>_<size>*.json and .curve.jsonl (run records, nats per character) listed by 04 and 05
Writes: part4_outputs/runs.csv        one row per run: every figure and number below comes from it
        part4_outputs/fits.json       fits, intervals, verdicts, comparisons (same bytes: checkpoints/scaling_fits.json)
        part4_outputs/figures/*.png, *.svg
        part4_outputs/joint_bootstrap.csv  (only if the training data were varied) draws of the joint law
Run:    python 06_fit_scaling.py [--quick]
        python 06_fit_scaling.py --budget 1e15          what to train with 1e15 FLOPs, from the joint law
        python 06_fit_scaling.py --table my_runs.csv    the same fits for a table with the columns family,N,D,seed,loss
Prints last: the headline, alpha with its interval per family, and the next command.
"""

import csv
import io
import json
import math
import os
import re
from pathlib import Path

# first of all: from here on Ctrl-C shows no traceback, however long the rest takes to load
from study.stage import (Stage, fail, load_manifest, read_json, resolve_root, run, stage_parser, write_bytes, write_json,
                   write_text)

import numpy as np

from study import scaling_law as law

N_RESAMPLES = 1000            # of every bootstrap; 0.3 s per family, tens of seconds for a joint law
BAND_PERCENT = 80             # of the compute-optimal frontier, as in Hoffmann et al. 2022 (10th to 90th)
SHORT_CONTEXT = (64, 128)     # positions whose loss is compared with ...
LONG_CONTEXT = (384, 512)     # ... the end of the context: what a family gains from the far past
FLOPS_PER_ND = 6.0            # C = 6 N D, the convention of the published joint laws
NAMES = {"transformer": "Transformer", "lstm": "LSTM"}
COLORS = {"transformer": "#0072B2", "lstm": "#D55E00"}  # Okabe-Ito: distinct for all common colour blindness, in grey
OTHER_COLORS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = {"transformer": "o", "lstm": "s"}
COLUMNS = ("name", "family", "size", "seed", "recipe", "suite", "data_fraction", "params_total", "params_non_embedding",
           "train_chars", "epochs", "n_chars_seen", "train_flops", "train_flops_6nd", "steps", "seconds",
           "tokens_per_second", "peak_memory_bytes", "device", "learning_rate", "optimizer", "train_nats_per_char",
           "val_nats_per_char", "val_bits_per_char", "test_nats_per_char", "curve")
COSTS = {"params_total": "parameters", "train_flops": "training FLOPs", "seconds": "training seconds"}


# ---------------------------------------------------------------- reading runs

def read_records(root):
    """Run records listed in the manifests of 04 and 05; a file that is not a run record is left out."""
    records = []
    for stage in ("04_train_transformers", "05_train_lstms"):
        for name in load_manifest(root, stage)["outputs"]:
            record = read_json(root / name) if name.endswith(".json") else None
            if isinstance(record, dict) and "family" in record and "params_total" in record:
                records.append(record)
    return sorted(records, key=lambda r: (r["family"], r["params_total"], r.get("data_fraction") or 1,
                                          r.get("seed") or 0, str(r.get("name"))))


def mixed_inputs(records):
    """Why these records must not be fitted together, or None: one vocabulary and one data set are a condition."""
    for key, what in (("tokenizer_digest", "tokenizers"), ("data_digest", "data sets")):
        groups = {}
        for record in records:
            groups.setdefault(record.get(key), []).append(record.get("name"))
        if len(groups) > 1:
            rows = "; ".join(f"{str(digest)[:8]}: {', '.join(map(str, names))}" for digest, names in groups.items())
            return f"the runs come from {len(groups)} different {what}, so their losses cannot be compared ({rows})"
    return None


def runs_of_records(records):
    """Rows with the columns of runs.csv; n_chars_seen = characters x epochs is the D of the joint law."""
    rows = []
    for record in records:
        row = {column: record.get(column) for column in COLUMNS}
        row["seed"] = row["seed"] or 0
        if row["train_chars"] is not None:
            row["n_chars_seen"] = round(row["train_chars"] * (1 if row["epochs"] is None else row["epochs"]))
        rows.append(row)
    return rows


def runs_of_table(path):
    """Rows from a user's CSV with the columns family, N, D, seed, loss (D and seed may be left out).

    Raises ValueError with the line and the reason.
    """
    text = Path(path).read_text(encoding="utf-8-sig")
    reader = csv.DictReader(io.StringIO(text))
    fields = {name.strip().lower(): name for name in reader.fieldnames or []}
    missing = [name for name in ("family", "n", "loss") if name not in fields]
    if missing:
        raise ValueError(f"line 1: no column {', '.join(missing)} (needed: family,N,D,seed,loss)")
    rows = []
    for number, line in enumerate(reader, 2):
        def value(name, default=None):
            word = (line.get(fields.get(name, "")) or "").strip()
            if not word:
                return default
            try:
                return float(word)
            except ValueError:
                raise ValueError(f"line {number}: {name} is {word!r}, not a number") from None
        n, d, loss, seed = value("n"), value("d"), value("loss", math.nan), value("seed", 0.0)
        if n is None or not math.isfinite(n) or n <= 0 or (d is not None and not (math.isfinite(d) and d > 0)):
            raise ValueError(f"line {number}: N and D must be positive numbers")
        if not float(seed).is_integer():
            raise ValueError(f"line {number}: seed is {seed}, not a whole number")
        family = (line.get(fields["family"]) or "").strip()
        if not family:
            raise ValueError(f"line {number}: no family")
        rows.append({**dict.fromkeys(COLUMNS), "name": f"line {number}", "family": family, "size": f"{n:g}",
                     "seed": int(seed), "params_total": n, "n_chars_seen": d, "val_nats_per_char": loss})
    if not rows:
        raise ValueError("no runs: the table is empty")
    return sorted(rows, key=lambda r: (r["family"], r["params_total"], r["n_chars_seen"] or 0, r["seed"]))


def unusable(rows):
    """Why a family's losses cannot even be compared, in words, or None."""
    bad = [str(row["name"]) for row in rows if not _positive(row["val_nats_per_char"])]
    if bad:
        return f"no finite positive loss in {', '.join(bad)}"
    seen = {}
    for row in rows:
        key = row["params_total"], row["n_chars_seen"], row["seed"], row["recipe"]
        if key in seen:
            return f"the size N = {key[0]:,.0f} occurs twice with seed {key[2]} ({seen[key]}, {row['name']})"
        seen[key] = row["name"]
    return None


def refusal(rows):
    """Why no law is fitted to a family's runs, in words, or None."""
    if reason := unusable(rows):
        return reason
    sizes = {row["params_total"] for row in rows}
    if len(sizes) < law.MIN_SIZES:
        return f"{len(sizes)} sizes; a law with three parameters needs at least {law.MIN_SIZES}"
    at_one_d = headline_rows(rows)
    n_sizes = len({row["params_total"] for row in at_one_d})
    if n_sizes < law.MIN_SIZES:
        return (f"at most {n_sizes} sizes share one amount of training data, so L(N) at fixed D cannot be fitted "
                f"(at least {law.MIN_SIZES} are needed)")
    n, loss = _columns(at_one_d)
    if law.fit_line(n, loss, "log_linear")["slope"] <= 0:
        how = "rise with N" if loss.max() > loss.min() else "are all the same"
        return (f"the losses {how} (from {loss[n == n.min()].mean():.4f} at N = {n.min():,.0f} to "
                f"{loss[n == n.max()].mean():.4f} at N = {n.max():,.0f}): no law of diminishing loss applies")
    return None


def _positive(value):
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0


def headline_rows(rows):
    """The runs of the L(N) fit: one recipe and one D, those with the most sizes (of equals: the largest D)."""
    groups = {}
    for row in rows:
        groups.setdefault((row["recipe"] != "classic", row["n_chars_seen"] or 0, str(row["recipe"])), []).append(row)
    return max(groups.items(), key=lambda g: (len({r["params_total"] for r in g[1]}), g[0]))[1]


def _columns(rows, n="params_total", loss="val_nats_per_char"):
    return (np.array([row[n] for row in rows], float), np.array([row[loss] for row in rows], float))


# ---------------------------------------------------------------- fits of one family

def fit_family(rows, n_resamples, rng):
    """The JSON entry of one family (see `main`), and the fit itself."""
    n, loss = _columns(rows)
    fit = law.fit_power_law(n, loss)
    identified, reason = law.verdict(fit)
    huber, power, line = law.fit_huber(n, loss), law.fit_line(n, loss, "power"), law.fit_line(n, loss, "log_linear")
    held_out = law.hold_out_largest(n, loss)
    loo, without = law.leave_one_size_out(n, loss)
    curve = fit.a * fit.sizes ** -fit.alpha + fit.c
    _, low, high = law.predict(fit, fit.sizes)
    _, new_low, new_high = law.predict(fit, fit.sizes, runs=1)
    spread = _spread(n, loss)
    sizes = [{"size": next(r["size"] for r in rows if r["params_total"] == size), "n": size, "n_seeds": int(weight),
              "loss": mean, "sd": sd, "fitted": fitted, "residual": mean - fitted, "curve_interval": [lo, hi],
              "new_run_interval": [lo1, hi1]}
             for size, weight, mean, sd, fitted, lo, hi, lo1, hi1
             in zip(fit.sizes, fit.weights, fit.means, spread, curve, low, high, new_low, new_high)]
    errors = held_out["forms"] if held_out else None
    entry = {
        "alpha": fit.alpha, "a": fit.a, "c": fit.c, "r_squared": fit.r_squared, "alpha_interval": fit.alpha_interval,
        "c_interval": fit.c_interval, "identified": identified, "reason": reason,
        "n_sizes": len(fit.sizes), "n_runs": fit.n_runs, "n_seeds": len({row["seed"] for row in rows}),
        "n_chars_seen": rows[0]["n_chars_seen"], "recipe": rows[0]["recipe"],
        "noise": {"sd_nats": fit.noise_sd, "degrees_of_freedom": fit.noise_dof, "source": fit.noise_source,
                  "lack_of_fit_p": fit.lack_of_fit_p},
        "falls_with_n": bool((np.diff(fit.means) < 0).all()),
        "forms": {"power_floor": {"formula": "a N^-alpha + c", "alpha": fit.alpha, "a": fit.a, "c": fit.c,
                                  "alpha_interval": fit.alpha_interval, "r_squared": fit.r_squared},
                  "power": {"formula": "a N^-alpha", **power},
                  "log_linear": {"formula": "intercept - slope ln N", **line}},
        "huber": {**huber, "inside_interval": _inside(huber["alpha"], fit.alpha_interval)},
        "best_predicting_form": {"held_out_largest": min(errors, key=lambda f: abs(errors[f])) if errors else None,
                                 "leave_one_size_out": min(loo, key=loo.get) if loo["power"] is not None else None,
                                 "leave_one_size_out_rms": loo},
        "held_out": held_out, "alpha_without_size": {f"{size:.0f}": alpha for size, alpha in without.items()},
        "bootstrap": law.bootstrap_power_law(n, loss, fit, n_resamples, rng), "sizes": sizes,
    }
    return entry, fit


def _spread(n, loss):
    """Standard deviation over the seeds of each size, None for one run."""
    return [float(loss[n == size].std(ddof=1)) if (n == size).sum() > 1 else None for size in np.unique(n)]


def _inside(value, interval):
    return (interval[0] is None or value >= interval[0]) and (interval[1] is None or value <= interval[1])


def alpha_choices(rows, all_rows):
    """How alpha moves with each choice that a study can make: a list of {"choice", "group", alpha, interval, ...}."""
    choices = []

    def add(group, choice, some, n="params_total", loss="val_nats_per_char", form="power_floor"):
        if any(not _positive(row[n]) or not _positive(row[loss]) for row in some):
            return
        x, y = _columns(some, n, loss)
        if len(np.unique(x)) < law.MIN_SIZES:
            return
        if form == "power_floor":
            fit = law.fit_power_law(x, y)
            alpha, c, interval, known = fit.alpha, fit.c, fit.alpha_interval, law.verdict(fit)[0]
        elif form == "huber":
            alpha, c, interval, known = *(law.fit_huber(x, y)[key] for key in ("alpha", "c")), None, None
        else:
            line = law.fit_line(x, y, form)
            alpha, c, interval, known = line["alpha"], 0.0, line["alpha_interval"], None
        choices.append({"group": group, "choice": choice, "alpha": alpha, "c": c, "alpha_interval": interval,
                        "identified": known, "n_sizes": len(np.unique(x)), "n_runs": len(x)})

    add("headline", "total N, c free, all sizes", rows)
    add("counting", "non-embedding N", rows, n="params_non_embedding")
    add("counting", "FLOPs from real shapes", rows, n="train_flops")
    add("counting", "FLOPs as 6ND", rows, n="train_flops_6nd")
    add("form", "c = 0", rows, form="power")
    add("form", "c = 0, non-embedding N", rows, n="params_non_embedding", form="power")
    add("estimator", "Huber on log loss", rows, form="huber")
    add("loss", "test split", rows, loss="test_nats_per_char")
    sizes = sorted({row["params_total"] for row in rows})
    label = {row["params_total"]: row["size"] for row in rows}
    for size in sizes:
        add("subset", f"without {label[size]}", [row for row in rows if row["params_total"] != size])
    seeds = sorted({row["seed"] for row in rows})
    for seed in seeds if len(seeds) > 1 else []:
        add("seed", f"seed {seed} alone", [row for row in rows if row["seed"] == seed])
    chosen = rows[0]["recipe"], rows[0]["n_chars_seen"]
    others = sorted({(str(r["recipe"]), r["n_chars_seen"] or 0) for r in all_rows
                     if (r["recipe"], r["n_chars_seen"]) != chosen})
    for recipe, d in others:
        some = [r for r in all_rows if str(r["recipe"]) == recipe and (r["n_chars_seen"] or 0) == d]
        what = f"recipe {recipe}" if recipe != str(chosen[0]) else f"D = {d:,.0f}"
        if len(some) and law.fit_line(*_columns(some), "log_linear")["slope"] > 0:
            add("recipe" if recipe != str(chosen[0]) else "data", what, some)
    return choices


def noise_of_runs(families, fits):
    """(standard deviation of one run, degrees of freedom): from the seeds of both families if enough runs were
    repeated, else from the residuals of the fits; None if neither can tell."""
    ss, dof = 0.0, 0
    for rows in families.values():
        n, loss = _columns(rows)
        ss, dof = ss + law.group_by_size(n, loss)[3], dof + len(n) - len(np.unique(n))
    if dof >= law.MIN_NOISE_DOF:
        return math.sqrt(ss / dof), dof
    known = [fit for fit in fits.values() if fit.noise_sd]
    dof = sum(fit.noise_dof for fit in known)
    return (math.sqrt(sum(fit.noise_sd ** 2 * fit.noise_dof for fit in known) / dof), dof) if known else None


def compare(families, fits, n_resamples, rng):
    """The two families at equal parameters, FLOPs and seconds; None unless there are two."""
    if len(families) != 2:
        return None
    (first, rows1), (second, rows2) = sorted(families.items(), key=lambda f: f[0] != "transformer")
    noise = noise_of_runs(families, fits)
    out = {"first": first, "second": second, "difference": f"loss of {first} - loss of {second}, nats per character"}
    for cost, what in COSTS.items():
        usable = all(_positive(row[cost]) for row in rows1 + rows2)
        devices = {row["device"] for row in rows1 + rows2}
        if cost == "seconds" and len(devices) > 1:
            out[cost] = {"what": what,
                         "reason": f"the runs were timed on different devices ({', '.join(map(str, devices))})"}
            continue
        runs = [[(row[cost], row["seed"], row["val_nats_per_char"], row["params_total"]) for row in rows]
                for rows in (rows1, rows2)] if usable else None
        found = law.compare_families(*runs, noise, n_resamples, rng) if usable else None
        out[cost] = {"what": what, **found} if found else {
            "what": what, "reason": "the ranges do not overlap" if usable else "not recorded for every run"}
    return out


def by_position(rows):
    """Validation loss by position in the context for each size (mean over seeds), and what the far context is worth."""
    sizes = {}
    for row, profile in rows:
        if isinstance(profile, list) and profile and all(_positive(v) for v in profile):
            sizes.setdefault((row["params_total"], row["size"]), []).append(profile)
    out = {}
    for (_, size), profiles in sorted(sizes.items()):
        if len({len(p) for p in profiles}) > 1:
            continue
        mean = np.mean(profiles, 0)
        width = 512 / len(mean)
        part = lambda span: float(mean[int(span[0] / width):max(int(span[1] / width), int(span[0] / width) + 1)].mean())
        out[size] = {"positions_per_bin": width, "loss": mean.tolist(), "n_seeds": len(profiles),
                     "gain_from_far_context": part(SHORT_CONTEXT) - part(LONG_CONTEXT)}
    return out


# ---------------------------------------------------------------- the joint law

def fit_joint_family(rows, n_resamples, rng):
    """E + A/N^alpha + B/D^beta of one family: (JSON entry, draws), or (reason, None) if these runs cannot give it."""
    some = [row for row in rows if _positive(row["n_chars_seen"]) and _positive(row["val_nats_per_char"])]
    if not some:
        return "the amount of training data (D) is not given", None
    n, loss = _columns(some)
    d = np.array([row["n_chars_seen"] for row in some], float)
    if len(np.unique(d)) < 3 or len(np.unique(n)) < 3 or len(some) < 7:
        return (f"{len(np.unique(n))} sizes, {len(np.unique(d))} amounts of data and {len(some)} runs; three of each "
                "and seven runs are needed"), None
    parameters, objective, optimum = law.fit_joint(n, d, loss)
    draws = law.bootstrap_joint(n, d, loss, optimum, n_resamples, rng)
    tails = [50 * (1 - law.LEVEL), 50 * (1 + law.LEVEL)]
    intervals = np.percentile(draws, tails, axis=0).T if len(draws) else [None] * 5
    fitted = law.joint_loss(parameters, n, d)
    r2 = 1 - ((loss - fitted) ** 2).sum() / ((loss - loss.mean()) ** 2).sum()
    low, high = law.EXPONENT_BOUNDS
    exponents = np.concatenate([parameters[None, 3:], draws[:, 3:]])
    on_bound = ((exponents < 1.01 * low) | (exponents > high / 1.01)).any(1)
    problems = []
    if on_bound[0] or parameters[0] <= 0:
        problems.append("the best fit lies on a bound")
    if on_bound[1:].mean() > 1 - law.LEVEL if len(draws) else False:
        problems.append(f"{100 * on_bound[1:].mean():.0f} % of the resamples put an exponent on a bound")
    if not len(draws):
        problems.append("no bootstrap was made, so nothing says how firm the parameters are")
    entry = {**{name: {"value": v, "interval": i, "standard_error": s} for name, v, i, s in zip(
                 law.JOINT, parameters, intervals, draws.std(0) if len(draws) else [None] * 5)},
             "r_squared": r2, "objective": objective, "n_runs": len(some), "n_sizes": len(np.unique(n)),
             "n_amounts_of_data": len(np.unique(d)), "n_range": [n.min(), n.max()], "d_range": [d.min(), d.max()],
             "flops_range": [FLOPS_PER_ND * (n * d).min(), FLOPS_PER_ND * (n * d).max()], "resamples": len(draws),
             "identified": not problems, "reason": "; ".join(problems) or "no parameter lies on a bound",
             "n_opt_exponent": _with_band(parameters[4] / (parameters[3] + parameters[4]),
                                          draws[:, 4] / (draws[:, 3] + draws[:, 4]))}
    budgets = np.geomspace(entry["flops_range"][0], 100 * entry["flops_range"][1], 25)
    entry["frontier"] = [recommend(parameters, draws, budget, entry) for budget in budgets]
    return entry, draws


def _with_band(value, draws):
    tails = [50 - BAND_PERCENT / 2, 50 + BAND_PERCENT / 2]
    return {"value": value, "band": np.percentile(draws, tails).tolist() if len(draws) else None}


def recommend(parameters, draws, flops, entry):
    """Compute-optimal N, D and loss at a budget with their bands; `extrapolates` if outside the runs fitted."""
    n, d, loss = law.optimal_split(parameters, flops, FLOPS_PER_ND)
    many = law.optimal_split(draws, flops, FLOPS_PER_ND) if len(draws) else [np.empty(0)] * 3
    inside = (entry["n_range"][0] <= n <= entry["n_range"][1]) and (entry["d_range"][0] <= d <= entry["d_range"][1])
    return {"flops": flops, "n_opt": _with_band(n, many[0]), "d_opt": _with_band(d, many[1]),
            "loss": _with_band(loss, many[2]), "extrapolates": not inside}


def print_budget(fits, flops, flags):
    """What to train with `flops`: read from the frontier's draws, one line per family."""
    if not fits["joint"]:
        reasons = "; ".join(f"{_name(f)}: {r}" for f, r in fits["joint_refused"].items())
        fail("06_fit_scaling.py", f"no joint law to recommend from ({reasons or 'no runs'})",
             f"run: python 04_train_transformers.py{flags} --data-fractions 0.25,0.5,1 (05 likewise), then this again")
    for family, entry in fits["joint"].items():
        draws = np.array(entry["draws"])
        best = recommend([entry[name]["value"] for name in law.JOINT], draws, flops, entry)
        text = [f"{what} {_si(best[key]['value'])}" + (f" ({BAND_PERCENT} % band {_si(best[key]['band'][0])} to "
                f"{_si(best[key]['band'][1])})" if best[key]["band"] else "")
                for key, what in (("n_opt", "N"), ("d_opt", "D"), ("loss", "loss"))]
        print(f"{_name(family)} with {flops:.3g} FLOPs (C = 6ND): {', '.join(text)}"
              + (" -- outside the sizes or data that were measured: an extrapolation" if best["extrapolates"] else ""))


# ---------------------------------------------------------------- the whole analysis

def analyse(rows, profiles=None, n_resamples=N_RESAMPLES, seed=0):
    """Everything that fits.json holds, from the rows of runs.csv; also the fits, for the figures.

    profiles: validation loss by position of each row, or None.
    """
    rng = np.random.default_rng(seed)
    everything, families, entries, fits, refused, counting = {}, {}, {}, {}, {}, {}
    for row in sorted(rows, key=lambda row: row["family"] != "transformer"):
        everything.setdefault(row["family"], []).append(row)
    for family, some in everything.items():
        if not unusable(some):  # a family without a law can still be compared at equal cost
            families[family] = headline_rows(some)
        if reason := refusal(some):
            refused[family] = reason
            continue
        entries[family], fits[family] = fit_family(families[family], n_resamples, rng)
        counting[family] = alpha_choices(families[family], some)
    joint, joint_refused, draws = {}, {}, {}
    for family, some in everything.items():
        recipe = headline_rows(some)[0]["recipe"]  # the joint law is that of one way of training
        entry, found = fit_joint_family([row for row in some if row["recipe"] == recipe], n_resamples, rng)
        if found is None:
            joint_refused[family] = entry
        else:
            joint[family], draws[family] = entry, found
    position = {}
    for family, some in families.items():
        own = {id(row) for row in some}
        found = by_position([(row, p) for row, p in zip(rows, profiles or [None] * len(rows)) if id(row) in own])
        if found:
            position[family] = found
    compared = compare(families, fits, n_resamples, rng)
    result = {
        "headline": headline(entries, refused, compared, joint),
        "loss": "validation loss, nats per character" if profiles is not None else "loss of the table",
        "level": law.LEVEL, "n_runs": len(rows), "families": entries, "refused": refused, "comparison": compared,
        "counting": counting, "loss_by_position": position or None, "joint": joint or None,
        "joint_refused": joint_refused, "warnings": warnings(entries, compared),
        "method": {
            "fit": "least squares of a N^-alpha + c (N: total parameters) by variable projection over all local minima",
            "interval": "profile likelihood, F(1, degrees of freedom of the noise); see benchmarks/scaling.md",
            "huber": f"cross-check: summed Huber loss on log L, delta {law.HUBER_DELTA:g}, multi-start",
            "not_covered": "the intervals cover the noise of runs, not what another corpus, recipe or validation set "
                           "would change", "resamples": n_resamples, "seed": seed, "alpha_range": law.ALPHA_RANGE},
    }
    return plain(result), fits, draws


def plain(value):
    """The same with NumPy types turned into Python's, ten digits, and NaN turned into None."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, (np.integer, np.floating)):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.10g}") if math.isfinite(value) else None
    return value


def headline(entries, refused, compared, joint):
    """The answer in a few sentences, true whatever the numbers are."""
    sentences = []
    for family in sorted(set(entries) | set(refused), key=lambda f: (f != "transformer", f)):
        if family in refused:
            sentences.append(f"{_name(family)}: not fitted: {refused[family]}.")
            continue
        entry = entries[family]
        runs = f"{entry['n_sizes']} sizes, {entry['n_runs']} runs"
        if entry["identified"]:
            low, high = entry["alpha_interval"]
            sentences.append(f"{_name(family)}: loss = {entry['a']:.3g} N^-{entry['alpha']:.2f} + {entry['c']:.2f}, "
                             f"alpha {entry['alpha']:.2f} ({100 * law.LEVEL:.0f} % interval {low:.2f} to {high:.2f}; "
                             f"R2 {entry['r_squared']:.3f}; {runs}).")
        else:
            sentences.append(f"{_name(family)}: these {runs} do not identify alpha: {entry['reason']} (best fit: alpha "
                             f"{entry['alpha']:.2f}, R2 {entry['r_squared']:.3f}).")
    for cost, found in (compared or {}).items():
        if cost in COSTS and "points" in found:
            sentences.append(compared_sentence(compared["first"], compared["second"], COSTS[cost], found))
    for family, entry in joint.items():
        exponent = entry["n_opt_exponent"]
        law_text = (f"alpha {entry['alpha']['value']:.2f}, beta {entry['beta']['value']:.2f}, compute-optimal N grows "
                    f"as C^{exponent['value']:.2f}")
        sentences.append(f"{_name(family)}, sizes and data varied ({entry['n_runs']} runs): " + (
            f"{law_text} ({BAND_PERCENT} % band {exponent['band'][0]:.2f} to {exponent['band'][1]:.2f})."
            if entry["identified"] else f"the joint law is not identified: {entry['reason']}."))
    return " ".join(sentences)


def compared_sentence(first, second, what, found):
    """One sentence on who has the lower loss at equal cost, as far as the intervals carry it."""
    points = found["points"]
    scale = f"between {_si(found['range'][0])} and {_si(found['range'][1])} {what}"
    differences = [p["difference"] for p in points]
    if any(p["interval"] is None for p in points):
        return f"At equal {what} the differences have no interval ({found['method']})."
    below, above = (sum(p["interval"][1] < 0 for p in points), sum(p["interval"][0] > 0 for p in points))
    sizes = f"{min(map(abs, differences)):.3f} to {max(map(abs, differences)):.3f} nats"
    for count, better, worse in ((below, first, second), (above, second, first)):
        if count == len(points):
            return f"At equal {what} the {_name(better)} has the lower loss everywhere {scale}, by {sizes}."
    if not below and not above:
        return f"At equal {what} no difference between the families can be told from noise {scale}."
    parts = [f"the {_name(better)} is lower at {count} of {len(points)} points"
             for count, better in ((below, first), (above, second)) if count]
    rest = "" if below + above == len(points) else "; elsewhere noise hides the difference"
    cross = found["crossover"]
    if cross["at"] is not None and below and above:
        rest += f"; the curves cross at {_si(cross['at'])} {what}"
        if cross["interval"]:
            rest += f" ({100 * law.LEVEL:.0f} % interval {_si(cross['interval'][0])} to {_si(cross['interval'][1])})"
    return f"At equal {what} {' and '.join(parts)} {scale}{rest}."


def warnings(entries, compared):
    """What a reader should know before quoting a number."""
    out = []
    for family, entry in entries.items():
        if entry["n_runs"] == entry["n_sizes"]:
            out.append(f"{_name(family)}: one seed per size, so the noise is guessed from {entry['n_sizes']} residuals "
                       f"of a 3-parameter curve")
        if not entry["falls_with_n"]:
            out.append(f"{_name(family)}: the loss does not fall from each size to the next")
        if not entry["huber"]["inside_interval"]:
            out.append(f"{_name(family)}: the Huber cross-check (alpha {entry['huber']['alpha']:.3g}) lies outside the "
                       f"interval: a single run may dominate")
        if entry["noise"]["source"] == "lack of fit":
            out.append(f"{_name(family)}: the curve misses the means by more than the seeds explain "
                       f"(p = {entry['noise']['lack_of_fit_p']:.2g})")
    if compared and all(compared.get(cost, {}).get("paired_seeds", 0) < 3 for cost in COSTS):
        out.append("fewer than three common seeds: the families are compared with pooled noise, not by pairs")
    return out


def _name(family):
    return NAMES.get(family, family)


def _si(value):
    """Three digits with k, M, G, T or P."""
    if not 1e-3 <= value < 1e18:
        return f"{value:.3g}"
    for limit, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def csv_text(rows, columns):
    """CSV with LF line ends; None becomes an empty cell."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows([{column: row[column] for column in columns} for row in rows])
    return out.getvalue()


# ---------------------------------------------------------------- figures

def draw_all(folder, rows, fits, laws, draws, curves):
    """Draws every figure the data allow; returns [{"name", "caption"}]. curves: {name of run: list of curve points}."""
    import matplotlib  # here, not above: a stage that is up to date should not load it
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    style = {"svg.hashsalt": "music-scaling", "font.size": 9, "axes.grid": True, "grid.color": "0.9",
             "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
             "figure.constrained_layout.use": True, "savefig.dpi": 150, "legend.frameon": False,
             "lines.linewidth": 1.6, "axes.titlesize": 10}
    drawn = []
    with plt.rc_context(style):
        for name, draw in (("scaling", draw_scaling), ("curves", draw_curves), ("efficiency", draw_efficiency),
                           ("loss_by_position", draw_by_position), ("residuals", draw_residuals),
                           ("alpha_choices", draw_choices), ("joint_region", draw_region), ("frontier", draw_frontier)):
            figure, caption = draw(plt, rows, fits, laws, draws, curves) or (None, None)
            if figure is None:  # and none from an earlier run may stay in its place
                for kind in ("png", "svg"):
                    (folder / f"{name}.{kind}").unlink(missing_ok=True)
                continue
            for kind in ("png", "svg"):
                data = io.BytesIO()
                figure.savefig(data, format=kind, metadata={"Software": None} if kind == "png" else {"Date": None})
                figure.set_layout_engine("none")  # the layout stays as the first drawing made it
                write_bytes(folder / f"{name}.{kind}", data.getvalue())
            plt.close(figure)
            drawn.append({"name": name, "caption": caption})
    return drawn


def _look(family, others=()):
    """Colour, marker and line style of a family; unknown names get the remaining colours in order of appearance."""
    if family in COLORS:
        return COLORS[family], MARKERS[family], "-" if family == "transformer" else "--"
    place = list(others).index(family) if family in others else 0
    return OTHER_COLORS[place % len(OTHER_COLORS)], "D^vP"[place % 4], ("-.", ":")[place % 2]


def _log_axes(axes, x=None, y=None):
    """Logarithmic axes with labels such as 200k and 1.5: few ticks, none of them overlapping."""
    from matplotlib import ticker
    for name, axis, form in (("x", axes.xaxis, x), ("y", axes.yaxis, y)):
        if form:
            axes.set(**{f"{name}scale": "log"})
            low, high = axes.get_xlim() if name == "x" else axes.get_ylim()
            decades = math.log10(high / low)
            subs = (1,) if decades > 2.5 else (1, 3) if decades > 1.5 else (1, 2, 5)
            wide = decades > 0.8
            axis.set_major_locator(ticker.LogLocator(subs=subs) if wide else
                                   ticker.MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
            axis.set_major_formatter(ticker.FuncFormatter(lambda v, _, form=form: form(v)))
            axis.set_minor_locator(ticker.LogLocator(subs=tuple(range(1, 10))) if wide else ticker.NullLocator())
            axis.set_minor_formatter(ticker.NullFormatter())


def _number(value):
    return f"{value:.3g}"


def _count(rows):
    """"5 sizes x 3 seeds" or "5 sizes, 12 runs"."""
    n_sizes = len({row["params_total"] for row in rows})
    n_seeds = len(rows) / n_sizes
    return f"{n_sizes} sizes, 1 seed" if n_seeds == 1 else (
        f"{n_sizes} sizes x {n_seeds:.0f} seeds" if n_seeds.is_integer() else f"{n_sizes} sizes, {len(rows)} runs")


def _groups(rows, fits):
    """{family: headline runs with a loss}, the fitted ones and the refused ones alike."""
    families = {}
    for row in rows:
        if _positive(row["val_nats_per_char"]):
            families.setdefault(row["family"], []).append(row)
    return {family: headline_rows(some) for family, some in
            sorted(families.items(), key=lambda f: (f[0] != "transformer", f[0]))}


def draw_scaling(plt, rows, fits, laws, draws, curves):
    """Loss against N: runs, means, fitted law with its band."""
    groups = _groups(rows, fits)
    if not groups:
        return None
    figure, axes = plt.subplots(figsize=(6.4, 4.4))
    largest = max(row["params_total"] for some in groups.values() for row in some)
    for family, some in groups.items():
        color, marker, line = _look(family, list(groups))
        n, loss = _columns(some)
        label = f"{_name(family)} ({_count(some)})"
        if family in laws:
            fit, entry = laws[family], fits["families"][family]
            grid = np.append(np.geomspace(n.min(), n.max(), 80), np.geomspace(n.max(), 2.5 * largest, 40)[1:])
            value, low, high = law.predict(fit, grid)
            inside = grid <= n.max()
            axes.plot(grid[inside], value[inside], color=color, ls=line)
            axes.plot(grid[~inside], value[~inside], color=color, ls=":")
            if fit.noise_sd is not None:
                axes.fill_between(grid, low, high, color=color, alpha=0.15 if entry["identified"] else 0.08, lw=0)
                for edge in (low, high):
                    axes.plot(grid, edge, color=color, lw=0.6, alpha=0.5)
            label += "\n" + (f"α = {fit.alpha:.2f} [{fit.alpha_interval[0]:.2f}, {fit.alpha_interval[1]:.2f}]"
                             if entry["identified"] else "α not identified")
        else:
            label += "\nnot fitted"
        mean, spread = _mean_and_spread(n, loss)
        axes.plot(n, loss, ls="none", marker=marker, ms=4, mfc="none", mec=color, mew=0.8, alpha=0.6)
        axes.errorbar(np.unique(n), mean, yerr=spread, ls="none", marker=marker, ms=6.5, color=color, capsize=3)
        axes.plot([], [], color=color, ls=line, marker=marker, label=label)
    axes.set(xlabel="parameters N (total)", ylabel="validation loss (nats per character)")
    all_losses = np.concatenate([_columns(some)[1] for some in groups.values()])
    room = 0.35 * np.log(all_losses.max() / all_losses.min()) + 0.02
    axes.set_ylim(all_losses.min() * math.exp(-room), all_losses.max() * math.exp(room))
    _log_axes(axes, _si, _number)
    axes.legend(loc="upper right", fontsize=8)
    counts = "; ".join(f"{_name(f)}: {_count(s)}" for f, s in groups.items())
    return figure, (f"Validation loss against parameters. {counts}. Open marks: runs; filled: means with the standard "
                    "deviation over seeds where there are several. Lines: a N^-alpha + c, dotted beyond "
                    f"the largest size; bands: {100 * law.LEVEL:.0f} % profile "
                    "interval of the curve (cut off at the frame where it is wider).")


def _mean_and_spread(n, loss):
    return (np.array([loss[n == size].mean() for size in np.unique(n)]),
            [s or 0.0 for s in _spread(n, loss)])


def draw_curves(plt, rows, fits, laws, draws, curves):
    """Validation loss during training over characters, FLOPs and seconds."""
    groups = {f: [r for r in some if curves.get(r["name"])] for f, some in _groups(rows, fits).items()}
    if not any(groups.values()):
        return None
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.6), sharey=True)
    n_runs = 0
    for family, some in groups.items():
        color, _, line = _look(family, list(groups))
        first_seed = sorted((row for row in some if row["seed"] == min(r["seed"] for r in some)),
                            key=lambda row: row["params_total"])
        for i, row in enumerate(first_seed):
            points = [p for p in curves[row["name"]] if _positive(p.get("val_nats_per_char"))]
            n_runs += bool(points)
            shade = 0.25 + 0.75 * i / max(len(first_seed) - 1, 1)
            for axis, key in zip(axes, ("tokens", "flops", "seconds")):
                some_points = [(p[key], p["val_nats_per_char"]) for p in points if _positive(p.get(key))]
                if some_points:
                    axis.plot(*zip(*some_points), color=color, ls=line, alpha=shade, lw=1.2,
                              label=f"{_name(family)} {row['size']}" if axis is axes[0] else None)
    if not n_runs:
        return None
    for axis, label in zip(axes, ("training characters", "training FLOPs", "training time (s)")):
        axis.set_xlabel(label)
        _log_axes(axis, _si, _number)
    axes[0].set_ylabel("validation loss (nats per character)")
    figure.legend(loc="outside right center", fontsize=8)
    return figure, f"Loss curves of {n_runs} runs (lowest seed of each size; darker = larger model)."


def draw_efficiency(plt, rows, fits, laws, draws, curves):
    """Final loss against training time and against peak memory."""
    groups = _groups(rows, fits)
    panels = [(key, scale, label) for key, scale, label in (
        ("seconds", 1, "training time (s)"), ("train_flops", 1, "training FLOPs"),
        ("peak_memory_bytes", 1 / 2 ** 20, "peak memory (MiB)"))
        if any(_positive(row[key]) for some in groups.values() for row in some)]
    if not panels:
        return None
    figure, axes = plt.subplots(1, len(panels), figsize=(3.2 * len(panels), 3.4), sharey=True, squeeze=False)
    for axis, (key, scale, label) in zip(axes[0], panels):
        for family, some in groups.items():
            color, marker, line = _look(family, list(groups))
            sizes = {}
            for row in some:
                if _positive(row[key]):
                    sizes.setdefault(row["params_total"], []).append((row[key] * scale, row["val_nats_per_char"]))
            if sizes:
                x, y = np.array([np.mean(sizes[n], 0) for n in sorted(sizes)]).T
                bars = [np.std(sizes[n], 0, ddof=1) if len(sizes[n]) > 1 else (0, 0) for n in sorted(sizes)]
                axis.errorbar(x, y, yerr=[b[1] for b in bars], xerr=[b[0] for b in bars], color=color, ls=line, lw=1,
                              marker=marker, ms=5.5, capsize=2.5)
                axis.plot([], [], color=color, ls=line, lw=1, marker=marker, ms=5.5,
                          label=f"{_name(family)} ({_count(some)})")
        axis.set_xlabel(label)
        _log_axes(axis, _si, _number)
    axes[0, 0].set_ylabel("validation loss (nats per character)")
    axes[0, 0].legend(fontsize=8)
    devices = sorted({str(row["device"]) for some in groups.values() for row in some})
    return figure, ("Loss at the end of training against what it cost. " + "; ".join(
        f"{_name(f)}: {_count(s)}" for f, s in groups.items()) + f". Device: {', '.join(devices)}. "
        "Bars: standard deviation over seeds where there are several.")


def draw_by_position(plt, rows, fits, laws, draws, curves):
    """Loss by position in the context: the largest models, and the gain from the far context by size."""
    found = fits["loss_by_position"]
    if not found:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.6), gridspec_kw={"width_ratios": [1.6, 1]})
    labels = {(row["family"], row["size"]): row["params_total"] for row in rows}
    for family, sizes in sorted(found.items(), key=lambda f: f[0] != "transformer"):
        color, marker, line = _look(family, list(found))
        names = list(sizes)
        for i, size in enumerate(names):
            entry = sizes[size]
            edges = np.unique(np.geomspace(1, len(entry["loss"]) + 1, 18).astype(int)) - 1  # bins even in log position
            x = [(a + b) / 2 * entry["positions_per_bin"] for a, b in zip(edges, edges[1:])]
            y = [np.mean(entry["loss"][a:b]) for a, b in zip(edges, edges[1:])]
            last = i == len(names) - 1
            axes[0].plot(x, y, color=color, ls=line, lw=1.8 if last else 0.7, alpha=1 if last else 0.35,
                         label=f"{_name(family)} {size}" if last else None)
        axes[1].plot([labels[family, size] for size in names], [sizes[s]["gain_from_far_context"] for s in names],
                     color=color, ls=line, marker=marker, label=_name(family))
    axes[0].set(xlabel="position in the context (characters)", ylabel="validation loss (nats per character)")
    _log_axes(axes[0], _si, _number)
    axes[0].legend(fontsize=8)
    axes[1].axhline(0, color="0.4", lw=0.8)
    _log_axes(axes[1], _si)
    near, far = ("{}-{}".format(*span) for span in (SHORT_CONTEXT, LONG_CONTEXT))
    axes[1].set(xlabel="parameters N (total)", ylabel="gain from far context (nats)",
                title=f"loss at positions {near}\nminus {far}")
    return figure, ("Loss by position in the context, mean over the validation split. Thick: largest size, thin: "
                    "smaller sizes. Right: what the far context is worth to each size.")


def draw_residuals(plt, rows, fits, laws, draws, curves):
    """Residuals of the three forms at each size."""
    if not laws:
        return None
    figure, axes = plt.subplots(1, len(laws), figsize=(4.2 * len(laws), 3.4), sharey=True, squeeze=False)
    for axis, (family, fit) in zip(axes[0], sorted(laws.items(), key=lambda f: (f[0] != "transformer", f[0]))):
        n, loss = _columns(headline_rows([row for row in rows if row["family"] == family]))
        forms = fits["families"][family]["forms"]
        lines = (("a N^-α + c", fit.a * fit.sizes ** -fit.alpha + fit.c, "#0072B2", "o"),
                 ("a N^-α", forms["power"]["a"] * fit.sizes ** -forms["power"]["alpha"], "#D55E00", "^"),
                 ("log-linear", forms["log_linear"]["intercept"] - forms["log_linear"]["slope"] * np.log(fit.sizes),
                  "#009E73", "s"))
        if fit.noise_sd:
            half = fit.noise_sd
            axis.axhspan(-1e3 * half, 1e3 * half, color="0.85", lw=0, zorder=0)
        for shift, (_, fitted, color, marker) in zip((0.93, 1, 1.07), lines):
            _, spread = _mean_and_spread(n, loss)
            axis.errorbar(fit.sizes * shift, 1e3 * (fit.means - fitted), yerr=1e3 * np.array(spread), ls="none",
                          marker=marker, ms=6, capsize=2, color=color)
        axis.axhline(0, color="0.3", lw=0.8)
        axis.set(xlabel="parameters N (total)", title=f"{_name(family)} (n = {len(n)} runs)")
        axis.set_xlim(fit.sizes.min() / 1.5, fit.sizes.max() * 1.5)
        _log_axes(axis, _si)
        axis.grid(False)
    axes[0, 0].set_ylabel("measured - fitted loss\n(millinats per character)")
    handles = [axes[0, 0].errorbar([], [], ls="none", marker=m, ms=6, color=c, label=t) for t, _, c, m in lines]
    handles.append(axes[0, 0].fill_between([], [], color="0.85", label="±1 sd of a run"))
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=8)
    return figure, ("Residuals of the three forms, bars: standard deviation over seeds where there are several. Grey: "
                    "standard deviation of one run as used for the intervals.")


def draw_choices(plt, rows, fits, laws, draws, curves):
    """How alpha moves with each choice."""
    counting = fits["counting"]
    if not counting:
        return None
    families = sorted(counting, key=lambda f: (f != "transformer", f))
    names = list(dict.fromkeys(choice["choice"] for family in families for choice in counting[family]))
    groups = {choice["choice"]: choice["group"] for family in families for choice in counting[family]}
    order = ("headline", "counting", "form", "estimator", "loss", "recipe", "data", "subset", "seed")
    names.sort(key=lambda name: order.index(groups[name]))
    figure, axes = plt.subplots(figsize=(6.8, 1.2 + 0.27 * len(names)))
    low_edge, high_edge = law.ALPHA_RANGE[0], law.ALPHA_RANGE[1]
    left = 0.01
    for k, family in enumerate(families):
        color, marker, _ = _look(family, families)
        for choice in counting[family]:
            y = names.index(choice["choice"]) + (k - (len(families) - 1) / 2) * 0.28
            if choice["alpha_interval"]:
                low, high = choice["alpha_interval"]
                low, high = max(low or low_edge, left), high or high_edge
                axes.plot([low, high], [y, y], color=color, lw=1.3, alpha=0.8)
                for open_end, at, arrow in ((choice["alpha_interval"][0] is None or low == left, left, "<"),
                                            (choice["alpha_interval"][1] is None, high_edge, ">")):
                    if open_end:
                        axes.plot(at, y, marker=arrow, ms=5, color=color, clip_on=False)
            axes.plot(min(max(choice["alpha"], left), high_edge), y, marker=marker, ms=5.5, color=color, ls="none",
                      mfc="white" if choice["identified"] is False else color, clip_on=False)
    for i, name in enumerate(names):
        if i and groups[name] != groups[names[i - 1]]:
            axes.axhline(i - 0.5, color="0.7", lw=0.7)
    for k, family in enumerate(families):
        color, marker, _ = _look(family, families)
        axes.plot([], [], color=color, marker=marker, label=_name(family))
    axes.plot([], [], color="0.3", marker="o", mfc="white", ls="none", label="α not identified")
    axes.plot([], [], color="0.3", marker=">", ls="none", label="interval goes on")
    axes.set(xlim=(left, high_edge), yticks=range(len(names)), yticklabels=names, xlabel="exponent α")
    axes.set_ylim(len(names) - 0.4, -0.6)
    _log_axes(axes, _number)
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=len(families) + 2, fontsize=8)
    return figure, (f"How alpha moves with each choice. Bars: {100 * law.LEVEL:.0f} % intervals (none for the Huber "
                    "estimate); open marks: alpha not identified under that choice (not judged for c = 0 and Huber).")


def draw_region(plt, rows, fits, laws, draws, curves):
    """The joint region of (alpha, c)."""
    laws = {f: fit for f, fit in laws.items() if fit.noise_sd is not None}
    if not laws:
        return None
    figure, axes = plt.subplots(1, len(laws), figsize=(4.0 * len(laws), 3.5), squeeze=False)
    for axis, (family, fit) in zip(axes[0], sorted(laws.items(), key=lambda f: (f[0] != "transformer", f[0]))):
        color, _, _ = _look(family, list(laws))
        alphas, floors, ss = law.joint_region(fit)
        variance = max(fit.noise_sd, 1e-9) ** 2
        levels = [fit.ss + variance * 2 * law.f_quantile(level, 2, fit.noise_dof) for level in (0.5, 0.95)]
        axis.contourf(alphas, floors, ss, levels=[-1, levels[0], levels[1]], colors=[color, color], alpha=0.25)
        axis.contourf(alphas, floors, ss, levels=[-1, levels[0]], colors=[color], alpha=0.35)
        axis.plot(fit.alpha, fit.c, marker="+", ms=11, mew=2, color="k", clip_on=False)
        if floors[0] < fit.means.min() < floors[-1]:
            axis.axhline(fit.means.min(), color="0.3", lw=0.9, ls="--")
            axis.annotate("lowest loss measured", (0.02, fit.means.min()), xycoords=("axes fraction", "data"), va="top",
                          fontsize=7.5, color="0.3")
        axis.set(xlabel="exponent α", ylabel="floor c (nats per character)", ylim=(floors[0], floors[-1]),
                 title=f"{_name(family)} (n = {fit.n_runs} runs)")
        _log_axes(axis, _number)
    return figure, ("Joint region of alpha and c: 50 % (dark) and 95 % (light), cross: best fit. Alpha and c move "
                    "together: neither has a meaning without the other.")


def draw_frontier(plt, rows, fits, laws, draws, curves):
    """Compute-optimal N and D against the budget, with bands."""
    if not fits["joint"]:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(8.2, 3.6))
    for family, entry in sorted(fits["joint"].items(), key=lambda f: f[0] != "transformer"):
        color, marker, line = _look(family, list(fits["joint"]))
        flops = np.array([p["flops"] for p in entry["frontier"]])
        for axis, key, column in ((axes[0], "n_opt", "params_total"), (axes[1], "d_opt", "n_chars_seen")):
            axis.plot(flops, [p[key]["value"] for p in entry["frontier"]], color=color, ls=line, label=_name(family))
            if entry["frontier"][0][key]["band"]:
                axis.fill_between(flops, *np.array([p[key]["band"] for p in entry["frontier"]]).T, color=color,
                                  alpha=0.15, lw=0)
            own = [row for row in rows if row["family"] == family and _positive(row["n_chars_seen"])]
            axis.plot([FLOPS_PER_ND * r["params_total"] * r["n_chars_seen"] for r in own], [r[column] for r in own],
                      ls="none", marker=marker, ms=3, color=color, alpha=0.5)
            axis.set_xlabel("budget C = 6ND (FLOPs)")
    for axis in axes:
        _log_axes(axis, _si, _si)
    axes[0].set_ylabel("compute-optimal parameters N")
    axes[1].set_ylabel("compute-optimal characters D")
    axes[0].legend(fontsize=8)
    return figure, (f"Compute-optimal model and data from the joint law, {BAND_PERCENT} % bootstrap bands; points: the "
                    "runs it was fitted to. Where no points are near, it is an extrapolation.")


# ---------------------------------------------------------------- the stage

def parser():
    options = stage_parser(__doc__)
    options.add_argument("--bootstrap", type=int, default=N_RESAMPLES, metavar="N",
                         help=f"resamples of every bootstrap (default: {N_RESAMPLES}; 0: none)")
    options.add_argument("--budget", type=float, metavar="FLOPS",
                         help="recommend a size and an amount of data for FLOPS")
    options.add_argument("--table", type=Path, metavar="FILE",
                         help="fit a CSV with the columns family,N,D,seed,loss instead of the project's runs")
    options.add_argument("--output", type=Path, metavar="DIR",
                         help="with --table: where to write (default: part4_outputs/<name of the table>/ in the root)")
    return options


def write_results(folder, rows, columns, result, laws, draws, curves):
    """Writes runs.csv, the figures, the joint law's draws and fits.json; returns the names written."""
    write_text(folder / "runs.csv", csv_text(rows, columns))
    result["figures"] = draw_all(folder / "figures", rows, result, laws, draws, curves)
    names = ["runs.csv", "fits.json"]
    names += [f"figures/{figure['name']}.{kind}" for figure in result["figures"] for kind in ("png", "svg")]
    if draws:
        lines = ["family," + ",".join(law.JOINT)]
        lines += [f"{family}," + ",".join(f"{v:.8g}" for v in draw) for family, many in draws.items() for draw in many]
        write_text(folder / "joint_bootstrap.csv", "\n".join(lines) + "\n")
        names.append("joint_bootstrap.csv")
    else:
        (folder / "joint_bootstrap.csv").unlink(missing_ok=True)
    write_json(folder / "fits.json", result)
    return names


def read_results(folder):
    """fits.json with the draws of the joint law put back for `print_budget`."""
    result = read_json(folder / "fits.json")
    for family, entry in (result["joint"] or {}).items():
        entry["draws"] = []
    if result["joint"] and (folder / "joint_bootstrap.csv").exists():
        for line in csv.reader((folder / "joint_bootstrap.csv").read_text().splitlines()[1:]):
            result["joint"][line[0]]["draws"].append([float(v) for v in line[1:]])
    return result


def read_curve(path):
    """Points of a loss curve (JSON lines); empty if there is none."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def summary(result):
    """The closing block: the classical numbers per family, with their interval."""
    out = {}
    for family, entry in result["families"].items():
        low, high = entry["alpha_interval"]
        ends = f"{'unbounded' if low is None else f'{low:.3f}'} to {'unbounded' if high is None else f'{high:.3f}'}"
        out[_name(family)] = (f"alpha {entry['alpha']:.3f} (95 % {ends}), c {entry['c']:.3f}, "
                              f"R2 {entry['r_squared']:.4f}, "
                              f"{'identified' if entry['identified'] else 'NOT identified'}")
    out.update({_name(family): f"not fitted: {reason}" for family, reason in result["refused"].items()})
    return out | {"headline": result["headline"]}


def fit_table(args):
    """--table: the same analysis for a user's CSV, outside the chain of stages."""
    name = "06_fit_scaling.py"
    if not args.table.is_file():
        fail(name, f"{args.table} is not a file", "pass the path of a CSV with the columns family,N,D,seed,loss")
    try:
        rows = runs_of_table(args.table)
    except (ValueError, csv.Error) as error:
        fail(name, f"{args.table}: {error}", "a table has the columns family,N,D,seed,loss, one run a line")
    result, laws, draws = analyse(rows, None, args.bootstrap, args.seed)
    if not result["families"] and not result["joint"]:
        fail(name, "\n".join(f"{args.table}: {family}: {reason}" for family, reason in result["refused"].items()),
             "mend the table: nothing in it can be fitted")
    folder = args.output or resolve_root(args) / "part4_outputs" / re.sub(r"[^\w.-]", "_", args.table.stem)
    columns = ("family", "params_total", "n_chars_seen", "seed", "val_nats_per_char")
    write_results(folder, rows, columns, result, laws, draws, {})
    for key, value in summary(result).items():
        print(f"{key}: {value}")
    for family, entry in (result["joint"] or {}).items():
        print(f"{_name(family)} joint law: " + ", ".join(f"{k} {entry[k]['value']:.4g}" for k in law.JOINT))
    print(f"look at: {os.path.relpath(folder)}/fits.json and figures/")
    if args.budget:
        print_budget(read_results(folder), args.budget, "")


def main(argv=None):
    args = parser().parse_args(argv)
    if args.bootstrap < 0 or (args.budget is not None and not (math.isfinite(args.budget) and args.budget > 0)):
        fail("06_fit_scaling.py", "--bootstrap must be 0 or more and --budget a positive number of FLOPs", "see --help")
    if args.table:
        return fit_table(args)
    stage = Stage(__file__, args, config={"resamples": args.bootstrap})
    folder = stage.root / "part4_outputs"
    if not stage.up_to_date():
        records = read_records(stage.root)
        problem = "no run records are listed by 04 and 05" if not records else mixed_inputs(records)
        if problem:
            fail(f"{stage.name}.py", problem, f"run: python 04_train_transformers.py{stage.flags} && "
                                              f"python 05_train_lstms.py{stage.flags}")
        rows = runs_of_records(records)
        curves = {r["name"]: read_curve(stage.root / "checkpoints" / Path(r["curve"]).name)
                  for r in records if r.get("curve")}
        with stage.writing():
            profiles = [record.get("val_loss_by_position") for record in records]
            result, laws, draws = analyse(rows, profiles, args.bootstrap, args.seed)
            result = {"quick": args.quick, **result}
            names = write_results(folder, rows, COLUMNS, result, laws, draws, curves)
            write_json(stage.root / "checkpoints/scaling_fits.json", result)
            stage.finish(outputs=["checkpoints/scaling_fits.json", *(f"part4_outputs/{name}" for name in names)],
                         counts={"runs": len(rows), "families_fitted": len(laws)},
                         skipped={reason: 1 for reason in result["refused"].values()}, summary=summary(result))
    if args.budget:
        print_budget(read_results(folder), args.budget, stage.flags)


if __name__ == "__main__":
    run(main)
