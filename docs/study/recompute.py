"""Recomputes every number of the study's answer from the rows beside this file.

Needs numpy and scipy, nothing of this project. Reads runs.csv (one run a row), repeats.csv (bits
saved on a repeated bar) and second_occurrences.csv (counted in the text); prints JSON.

L = E + ((A_f / N^alpha)^k + (B_f / D^beta)^k)^(1/k) - kappa (saved - 0.05), least squares of ln L.
"""

import csv
import json
from operator import itemgetter
from pathlib import Path

import numpy as np
from scipy import optimize, special, stats

FAMILIES = ["transformer", "lstm", "ssm"]
START = {"a": (-9, 5, -0.5), "b": (-9, 5, -0.5), "alpha": (0.01, 3, 0.16)}  # lowest, highest, first
START |= {"beta": (0.01, 3, 0.27), "inverse": (0.05, 2, 0.45), "E": (0, 0.8, 0.3)}


def read(name):
    return list(csv.DictReader((Path(__file__).parent / name).read_text().splitlines()))


def points(loss):
    """Returns family, ln N, ln D, loss and bits saved above 0.05 (Transformers) of the ladder."""
    cell = itemgetter("family", "params_non_embedding", "n_chars_seen")
    saved = {cell(row): float(row["saved"]) - 0.05 for row in read("repeats.csv")}
    rows = [row for row in read("runs.csv") if row["suite"] == "ladder"]
    keys = ("params_non_embedding", "n_chars_seen", loss)
    n, d, y = (np.array([float(row[key]) for row in rows]) for key in keys)
    family = [FAMILIES.index(row["family"]) for row in rows]
    s = [saved[cell(row)] if row["family"] == "transformer" else 0 for row in rows]
    return np.array([family, np.log(n), np.log(d), y, s])


def fit(data, own=False, one_E=False, kappa=None, weights=1.0, start=None):
    """Fits the law; own: each family's own parameters; one_E: E and kappa are shared."""
    family, x, z, loss, saved = data
    present = np.unique(family)
    f, count = np.searchsorted(present, family), len(present)
    x, z, y = x - CENTER[0], z - CENTER[1], np.log(loss)
    place, bounds = {}, []
    for name, row in START.items():
        each = name in "ab" or own or (one_E and name != "E")
        place[name] = len(bounds) + (np.arange(count) if each else np.zeros(count, int))
        bounds += [row] * (count if each else 1)
    free_kappa = bool(kappa is None and saved.any())
    low, high, first = np.array(bounds + [(0, 1, 0.08)] * free_kappa).T

    def law(p, f, x, z, saved):
        a, b, alpha, beta, inverse, e = (p[place[name]][f] for name in START)
        terms = np.logaddexp((a - alpha * x) / inverse, (b - beta * z) / inverse)
        return e + np.exp(inverse * terms) - (p[-1] if free_kappa else kappa or 0) * saved

    def residuals(p):
        return y - np.log(np.maximum(law(p, f, x, z, saved), 1e-3))

    best = optimize.least_squares(
        lambda p: np.sqrt(weights) * residuals(p), first if start is None else start,
        bounds=(low, high), x_scale="jac", xtol=1e-12, ftol=1e-12, gtol=1e-12).x
    families = {name: best[place[name]] for name in ("alpha", "beta", "E")}
    families["order"] = 1 / best[place["inverse"]]
    families["kappa"] = np.full(count, best[-1] if free_kappa else kappa or 0)
    return {"p": best, "residuals": residuals(best), "law": law, "free": len(best),
            "values": {name: float(v[0]) for name, v in families.items()}, "families": families}


def misfit(data, found):
    """Returns how far the law misses cells, over what seeds scatter, and p of the F test."""
    cells = np.unique(data[:3], axis=1, return_inverse=True)[1].ravel()
    count, r = np.bincount(cells), found["residuals"]
    means, dof = np.bincount(cells, r) / count, len(count) - found["free"]
    seeds = ((r - means[cells]) ** 2).sum() / (len(r) - len(count))
    ratio = (count * means**2).sum() / dof / seeds
    p = special.fdtrc(dof, len(r) - len(count), ratio)
    return {"misfit_over_seeds": float(np.sqrt(ratio)), "p": float(p)}


def interval(name, found, cells, texts, drawn, forms):
    """Cells left out and text drawn; widened to hold each amount left out and each form."""
    value = found["values"][name]
    left, shift, others = (np.array([other[name] for other in fits])
                           for fits in (cells, drawn, texts + forms))
    error = np.sqrt((len(left) - 1) * left.var() + ((shift - value) ** 2).sum())
    half = stats.t.ppf(0.975, 30) * error
    return [max(min(value - half, others.min()), 0.0), max(value + half, others.max())]


def onset(own):
    """N x D at which half of the plateau is saved, by a logistic in ln(N x D)."""
    height = np.clip(own[4] / (max(own[4].max() + 0.05, 1.1) - 0.05), 0, 1)
    x = own[1] + own[2]
    p = optimize.least_squares(lambda p: special.expit(p[1] * (x - p[0])) - height, [27.5, 1.5]).x
    return float(np.exp(p[0]))


def largest(data, kappa):
    """The largest Transformer on all the text from the Transformers smaller in both."""
    top, most = data[1][data[0] == 0].max(), data[2].max()
    smaller = (data[0] == 0) & (data[1] < top + np.log(0.97)) & (data[2] < most)
    law = fit(data[:, smaller], kappa=kappa)
    at = np.array([[top - CENTER[0]], [most - CENTER[1]], [0]])
    if_not = float(law["law"](law["p"], np.array([0]), *at)[0])
    measured = float(data[3][(data[0] == 0) & (data[1] == top) & (data[2] == most)].mean())
    return {"if_not": if_not, "if_copies": if_not - kappa * 1.05, "measured": measured}


def main():
    data = points("val_nats_per_char")
    found = fit(data)
    cells = np.unique(data[:3], axis=1, return_inverse=True)[1].ravel()
    texts, amount = np.unique(data[2], return_inverse=True)
    groups = (cells.ravel(), cells.max() + 1), (amount.ravel(), len(texts))
    left = [[fit(data, weights=1.0 * (own != g), start=found["p"])["values"]
             for g in range(n)] for own, n in groups]
    drawn = []
    for a, text in enumerate(texts):  # another draw of 84k characters moves the loss by 1.05 %
        shift = np.exp(0.0105 * 84e3 / np.exp(text) * (amount.ravel() == a))
        moved = np.array([*data[:3], data[3] * shift, data[4]])
        drawn.append(fit(moved, start=found["p"])["values"])
    (share,) = [float(r["share"]) for r in read("second_occurrences.csv") if r["split"] == "val"]
    kappa = float(np.log(2) * share)
    one_E, separate = fit(data, one_E=True), fit(data, own=True)
    forms = [fit(data, kappa=kappa), fit(points("test_nats_per_char"))]
    forms = [f["values"] for f in (*forms, fit(data[:, data[4] + 0.05 <= 0.3]))]
    forms += [{name: v[i] for name, v in one_E["families"].items()} for i in range(3)]
    answer = {name: {"value": value, "interval": interval(name, found, *left, drawn, forms)}
              for name, value in found["values"].items()}
    answer["kappa_from_text"] = {"value": kappa}
    squares, n_runs = (found["residuals"] ** 2).sum(), data.shape[1]
    answer["scatter"] = {"value": float(np.sqrt(squares / (n_runs - found["free"])))}
    answer["copies_from_n_times_d"] = {"value": onset(data[:, data[4] != 0])}
    own = data[:, data[0] == 0]
    for name, rows in (("plain", own * [[1], [1], [1], [1], [0]]), ("with_copying", own)):
        answer[f"transformers_{name}"] = misfit(rows, fit(rows)) | fit(rows)["values"]
    for name, general in (("one_E", one_E), ("nothing_shared", separate)):
        extra, dof = general["free"] - found["free"], n_runs - general["free"]
        less = (general["residuals"] ** 2).sum()
        p = special.fdtrc(extra, dof, (squares - less) / extra / (less / dof))
        answer[f"shared_against_{name}"] = {"p": float(p)}
    answer["largest_transformer"] = largest(data, kappa)
    print(json.dumps(answer, indent=1))


CENTER = points("val_nats_per_char")[1:3].mean(1)
if __name__ == "__main__":
    main()
