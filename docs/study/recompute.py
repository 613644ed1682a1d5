"""Recomputes every number of the study's answer from the rows beside this file, and prints JSON.

Needs numpy and scipy, nothing of this project. Fits the law to runs.csv, with repeats.csv (bits
saved on a repeated bar), and to second_corpus_runs.csv; recompute_rows.py has what needs no fit.

L = E + ((A_f / N^alpha)^k + (B_f / D^beta)^k)^(1/k) - kappa (saved - 0.05), least squares of ln L.
"""

import json

import numpy as np
from recompute_rows import FAMILIES, from_rows, points, read
from scipy import optimize, special, stats

START = {"a": (-9, 5, -0.5), "b": (-9, 5, -0.5), "alpha": (0.01, 3, 0.16)}  # lowest, highest, first
START |= {"beta": (0.01, 3, 0.27), "inverse": (0.05, 2, 0.45), "E": (0, 0.8, 0.3)}


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
    squares = (residuals(best) ** 2).sum() / max(len(y) - len(best), 1)
    return {"p": best, "residuals": residuals(best), "law": law, "free": len(best),
            "scatter": float(np.sqrt(squares)), "options": {"own": own, "kappa": kappa},
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


def spread(data, found):
    """Returns fits without each cell, without each amount of text, and with each text redrawn."""
    cells = np.unique(data[:3], axis=1, return_inverse=True)[1].ravel()
    texts, amount = np.unique(data[2], return_inverse=True)
    again = {**found["options"], "start": found["p"]}
    left = [[fit(data, weights=1.0 * (own.ravel() != g), **again) for g in range(own.max() + 1)]
            for own in (cells, amount)]
    # another draw of 84k characters moves the loss by 1.05 %
    shifts = [1 + np.expm1(0.0105 * 84e3 / np.exp(text)) * (data[2] == text) for text in texts]
    drawn = [fit(np.array([*data[:3], data[3] * by, data[4]]), **again) for by in shifts]
    return *left, drawn


def half(value, left, drawn, scatter=0.0):
    """Returns half of a number's interval from it without each cell and with texts redrawn."""
    error = np.sqrt((len(left) - 1) * np.var(left) + ((np.array(drawn) - value) ** 2).sum())
    return stats.t.ppf(0.975, 30) * np.hypot(error, scatter)


def interval(name, found, cells, texts, drawn, forms=()):
    """Cells left out and text drawn; widened to hold each amount left out and each form."""
    value, of = found["values"][name], lambda fits: [other["values"][name] for other in fits]
    width, others = half(value, of(cells), of(drawn)), of(texts) + [form[name] for form in forms]
    return [max(min(value - width, *others), 0.0), max(value + width, *others)]


def onset(own):
    """N x D at which half of the plateau is saved, by a logistic in ln(N x D)."""
    height = np.clip(own[4] / (max(own[4].max() + 0.05, 1.1) - 0.05), 0, 1)
    x = own[1] + own[2]
    p = optimize.least_squares(lambda p: special.expit(p[1] * (x - p[0])) - height, [27.5, 1.5]).x
    return float(np.exp(p[0]))


def largest(family, data, kappa):
    """The largest run of a family on all the text, from runs smaller in both; families apart."""
    f = np.array([FAMILIES.index(family)])
    own = data[:, data[0] == f]
    top, most = own[1].max(), own[2].max()
    seen = data[:, (data[1] < top + np.log(0.97)) & (data[2] < most)]
    found = fit(seen, own=True, kappa=kappa)
    of = lambda one: float(np.log(one["law"](one["p"], f, top - CENTER[0], most - CENTER[1], 0)[0]))
    cells, _, drawn = ([of(other) for other in fits] for fits in spread(seen, found))
    measured = own[3][(own[1] == top) & (own[2] == most)]
    width = half(of(found), cells, drawn, found["scatter"] / np.sqrt(len(measured)))
    value, low, high = (float(np.exp(of(found) + w)) for w in (0, -width, width))
    copies = [value - 1.05 * kappa, low - 1.15 * kappa, high - 0.95 * kappa]
    found = {"if_copies": copies} if kappa else {}
    return {"if_not": [value, low, high], "measured": float(measured.mean())} | found


def main():
    data = points("val_nats_per_char")
    found = fit(data)
    refits = spread(data, found)
    (share,) = [float(r["share"]) for r in read("second_occurrences.csv") if r["split"] == "val"]
    kappa = float(np.log(2) * share)
    one_E, separate = fit(data, one_E=True), fit(data, own=True)
    forms = [fit(data, kappa=kappa), fit(points("test_nats_per_char"))]
    forms = [f["values"] for f in (*forms, fit(data[:, data[4] + 0.05 <= 0.3]))]
    forms += [{name: v[i] for name, v in one_E["families"].items()} for i in range(3)]
    answer = {name: {"value": value, "interval": interval(name, found, *refits, forms)}
              for name, value in found["values"].items()}
    answer["kappa_from_text"] = {"value": kappa}
    answer["scatter"] = {"value": found["scatter"]}
    answer["copies_from_n_times_d"] = {"value": onset(data[:, data[4] != 0])}
    own = data[:, data[0] == 0]
    for name, rows in (("plain", own * [[1], [1], [1], [1], [0]]), ("with_copying", own)):
        answer[f"transformers_{name}"] = misfit(rows, fit(rows)) | fit(rows)["values"]
    for name, general in (("one_E", one_E), ("nothing_shared", separate)):
        extra, dof = general["free"] - found["free"], data.shape[1] - general["free"]
        squares, less = ((one["residuals"] ** 2).sum() for one in (found, general))
        p = special.fdtrc(extra, dof, (squares - less) / extra / (less / dof))
        answer[f"shared_against_{name}"] = {"p": float(p), "scatter": general["scatter"]}
    answer["largest_transformer"] = largest("transformer", data, kappa)
    answer["largest_lstm"] = largest("lstm", data, 0.0)
    second = points("val_nats_per_char", *["second_corpus_runs.csv"] * 2)
    other = fit(second)
    answer["second_corpus"] = {**other["values"], "scatter": other["scatter"]}
    answer["second_corpus"]["copies_from_n_times_d"] = onset(second[:, second[0] == 0])
    print(json.dumps(answer | from_rows(), indent=1))


CENTER = points("val_nats_per_char")[1:3].mean(1)
if __name__ == "__main__":
    main()
