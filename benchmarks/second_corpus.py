"""Does the law hold on a second kind of music? A prediction, written before, and what came.

Reads:  docs/study/{runs,repeats}.csv (the law is fitted to them), ROOT/data (stage 03 of another
        corpus), and for `compare` ROOT/checkpoints (stages 04 and 05, --suite ladder)
Writes: docs/study/second_corpus_prediction.json (`predict`: once, before any run),
        docs/study/second_corpus_runs.csv and docs/study/second_corpus.json (`compare`)
Run:    python -m benchmarks.second_corpus predict --root ROOT --first FIRST_ROOT
        python -m benchmarks.second_corpus compare --root ROOT
Prints what was predicted; after `compare` what came beside it.
"""

import argparse
import csv
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from music.abc_text import Reader
from study.fit import shared_law
from study.fit.answer import saved_of_rows
from study.fit.copying import onset
from study.fit.records import csv_text

STUDY = Path("docs/study")
PREDICTION = STUDY / "second_corpus_prediction.json"
WINDOW = 512  # characters: the validation loss reads windows that do not overlap
EXPONENTS = ("alpha", "beta", "order")
WITHIN = 2.0  # the place of the step is predicted to this factor
COLUMNS = ("family", "size", "seed", "params_non_embedding", "n_chars_seen", "train_chars")
COLUMNS += ("val_nats_per_char", "test_nats_per_char", "suite")


def share_in_windows(path):
    """Counts characters of bars that stand for the second time, in their voice, in a window.

    Returns {"characters", "second", "share"}; windows run over the tunes of the file in order, as
    the validation loss reads them.
    """
    tunes = [tune.strip("\n") for tune in path.read_text("utf-8").split("\n\n") if tune.strip()]
    at, second = 0, 0
    for tune in tunes:
        seen = Counter()
        for bar in Reader(tune, strict=False).order:
            first, last = (at + bar.start) // WINDOW, (at + bar.end - 1) // WINDOW
            if bar.n_notes and first == last:
                key = first, bar.voice, tune[bar.start : bar.end]
                seen[key] += 1
                if seen[key] == 2:
                    second += bar.end - bar.start
        at += len(tune) + 2  # BEGIN and END
    characters = sum(map(len, tunes))
    return {"characters": characters, "second": second, "share": second / characters}


def rows_of(path):
    """Returns the ladder's rows of a CSV of runs, with numbers."""
    rows = []
    for row in csv.DictReader(path.read_text("utf-8").splitlines()):
        if row["suite"] == "ladder":
            numbers = {key: float(row[key]) for key in COLUMNS[3:-1] if row[key]}
            rows.append({**row, **numbers})
    return rows


def fitted(rows, repeats):
    """Returns (fit of the shared law, its points)."""
    points = shared_law.points_of(rows, saved_of_rows(repeats))
    return shared_law.fit(points), points


def predict(root, first_root):
    """Writes the prediction; raises FileExistsError if there is one."""
    if PREDICTION.exists():
        raise FileExistsError(f"{PREDICTION} is there: a prediction is written once")
    answer = json.loads((STUDY / "fits.json").read_text("utf-8"))["answer"]["numbers"]
    own, first = (share_in_windows(place / "data/val.txt") for place in (root, first_root))
    kappa = answer["kappa"]["value"] * own["share"] / first["share"]
    center = answer["copies_from_n_times_d"]["value"]
    written = {
        "counted": {"second corpus": own, "first corpus": first},
        "alpha": answer["alpha"],
        "beta": answer["beta"],
        "scatter_with_first_exponents": {"at_most": 0.02},
        "kappa": {"value": kappa, "interval": [0.7 * kappa, 1.3 * kappa]},
        "kappa_from_text": math.log(2) * own["share"],
        "copies_from_n_times_d": {
            "value": center,
            "interval": [center / WITHIN, center * WITHIN],
        },
        "saved_by_lstms_at_most": 0.2,
    }
    PREDICTION.write_text(json.dumps(written, indent=1) + "\n", "utf-8")
    return written


def measured(root):
    """Returns the rows of runs, with what each saves on a repeated bar, of a root's ladder."""
    from common import load_tokenizer
    from study.evaluate.induction import costs_of_bars, read_tunes, repeats_of
    from study.evaluate.models import load_model
    from study.fit.records import read_records, rows_of_records
    from study.train.data import load_data

    rows = [row for row in rows_of_records(read_records(root)) if row["suite"] == "ladder"]
    tokenizer, data = load_tokenizer(root / "data/tokenizer.pkl"), load_data(root)
    kept = []
    for row in rows:
        loaded = load_model(root, row["name"], tokenizer)
        own = repeats_of(costs_of_bars(loaded, read_tunes(loaded, data.val)))
        kept.append({**{key: row[key] for key in COLUMNS}, "saved": own["saved"]})
        print(row["name"], round(row["val_nats_per_char"], 4), round(own["saved"], 3), flush=True)
    return kept


def compare(root):
    """Writes and returns what came beside what was predicted."""
    path = STUDY / "second_corpus_runs.csv"
    if root:
        rows = measured(root)
        path.write_text(csv_text(rows, (*COLUMNS, "saved")), encoding="utf-8")
    rows = rows_of(path)
    expected = json.loads(PREDICTION.read_text("utf-8"))
    found, points = fitted(rows, rows)
    other = shared_law.spread(found, points)
    came = {"runs": len(rows), "scatter": found.scatter}
    for name, value in shared_law.quoted(found).items():
        interval = other.interval(value, lambda p, name=name: shared_law.values(found, p)[name])
        came[name] = {"value": value, "interval": interval}
    starts = onset(points)
    came["copies_from_n_times_d"] = starts and {"value": starts.center, "slope": starts.slope}
    kappa = expected["kappa"]["value"]
    came["scatter_with_predicted_kappa"] = shared_law.fit(
        points, shared_law.Shape(kappa=kappa)
    ).scatter
    came["scatter_without_copying_term"] = shared_law.fit(
        points, shared_law.Shape(kappa=0.0)
    ).scatter
    came["scatter_with_first_exponents"] = scatter_with_first_exponents(points)
    came["most_saved"] = {
        family: max(float(row["saved"]) for row in rows if row["family"] == family)
        for family in points.families
    }
    result = {"predicted": expected, "came": came}
    text = json.dumps(result, indent=1, default=float)
    (STUDY / "second_corpus.json").write_text(text + "\n", "utf-8")
    return result


def scatter_with_first_exponents(points):
    """Returns the relative scatter of a law with the first corpus's exponents and order; A, B of
    each family, E and kappa are fitted."""
    repeats = list(csv.DictReader((STUDY / "repeats.csv").read_text("utf-8").splitlines()))
    first, _ = fitted(rows_of(STUDY / "runs.csv"), repeats)
    alpha, beta, k = (shared_law.quoted(first)[name] for name in EXPONENTS)
    n_families = len(points.families)

    def residuals(p):
        a, b = np.exp(p[:n_families]), np.exp(p[n_families : 2 * n_families])
        irreducible, kappa = p[-2:]
        size = a[points.family] / points.n**alpha
        text = b[points.family] / points.d**beta
        loss = irreducible + (size**k + text**k) ** (1 / k) - kappa * points.saved
        return np.log(np.maximum(loss, 1e-3)) - np.log(points.loss)

    start = [*np.full(n_families, 1.5), *np.full(n_families, 3.0), 0.3, 0.08]
    low = [*np.full(2 * n_families, -10.0), 0, 0]
    high = [*np.full(2 * n_families, 20.0), points.loss.min(), 1]
    best = least_squares(residuals, start, bounds=(low, high))
    return math.sqrt(2 * best.cost / (len(points.loss) - len(start)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("predict", "compare"))
    parser.add_argument("--root", type=Path, help="of the second corpus, e.g. openscore")
    parser.add_argument("--first", type=Path, help="of the first corpus, for what is counted in it")
    args = parser.parse_args()
    result = predict(args.root, args.first) if args.what == "predict" else compare(args.root)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
