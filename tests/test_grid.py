"""Stage 06 with a ladder: one law for ladder and original suite or not, the bend, the grid of sizes
and amounts of text, its largest run."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from study import figures
from study.evaluate import figures as evaluate_figures
from study.evaluate import ladder_copying
from study.fit import answer as study_answer
from study.fit import (
    analysis,
    copying,
    headline_runs,
    joint_fit,
    predictions,
    records,
    robust,
    sentences,
    shared_law,
)
from study.fit import figures as fit_figures

HERE = Path(__file__).resolve().parent.parent
TRUTH = (0.75, 35.3, 17.3, 0.486, 0.30, 1.0)  # E, A, B, alpha, beta, order
LADDER = np.geomspace(3e3, 3e5, 7).round()
NINE = np.array([1e5, 6e5, 1.8e6, 4e6, 7.4e6])


def row_of(n, d=3e5, loss=None, suite="ladder", family="transformer", seed=0, **more):
    return {
        **dict.fromkeys(records.COLUMNS),
        "name": f"{family}_{suite}_{n:.0f}_{d:.0f}_{seed}",
        "family": family,
        "size": f"{suite}{n:.0f}",
        "seed": seed,
        "suite": suite,
        "recipe": "tuned",
        "params_non_embedding": n,
        "params_total": n + 150 * (n / 48) ** 0.5,
        "params_blocks": n - 75 * (n / 48) ** 0.5,
        "n_chars_seen": d,
        "train_chars": d,
        "val_nats_per_char": loss,
        "test_nats_per_char": loss + 0.01,
        **more,
    }


def ladder_and_nine(shift=0.0, bend=0.0, family="transformer", alpha=0.3, noise=0.004, seed=0):
    """A ladder and the original suite on 12 N^-alpha + 1; the suite `shift` off it, the smallest
    size `bend` off it."""
    rng = np.random.default_rng(seed)
    curve = lambda n: 12 * n**-alpha + 1 + noise * rng.standard_normal()
    rows = [row_of(n, loss=curve(n) + bend * (n == LADDER[0]), family=family) for n in LADDER]
    return rows + [
        row_of(n, loss=curve(n) + shift * (-1) ** i, suite="classical", family=family)
        for i, n in enumerate(NINE)
    ]


def law(truth, n, d):
    return shared_law.joint_loss(n, d, *truth)


def grid(truth=TRUTH, n_seeds=2, noise=0.008, family="transformer", seed=0):
    rng, sizes = np.random.default_rng(seed), np.geomspace(1e4, 2e6, 8).round()
    return [
        row_of(
            n,
            d,
            law(truth, n, d) + noise * rng.standard_normal(),
            family=family,
            seed=s,
        )
        for n in sizes
        for d in 8e4 * 2.0 ** np.arange(5)
        for s in range(n_seeds)
    ]


def analyse(rows, n_resamples=100, **more):
    return analysis.analyse(rows, n_resamples, **more)


def fit_grid(rows, n_resamples):
    return joint_fit.fit_grid(rows, n_resamples, np.random.default_rng(0))


# ---------------------------------------------------------------- ladder and original suite


def test_ladder_and_suite_share_a_law_and_the_suite_keeps_its_own():
    result = analyse(ladder_and_nine()).result
    entry = result["families"]["transformer"]
    assert entry["suite"] == "ladder + classical" and entry["count"] == "params_non_embedding"
    assert entry["n_sizes"] == 12 and entry["common_law"]["holds"] and entry["bends_below"] is None
    assert (
        entry["verdict"] == "identified"
        and entry["alpha_interval"][0] < 0.3 < entry["alpha_interval"][1]
    )
    assert entry["classical"]["n_sizes"] == 5 and entry["classical"]["verdict"] == "bounded"
    assert (
        entry["classical"]["count"] == "params_total" and "alpha identified" in result["headline"]
    )
    assert result["answer"]["numbers"] == {} and result["answer"]["law"] is None
    groups = {(choice["group"], choice["choice"]) for choice in result["counting"]["transformer"]}
    assert {
        ("counting", "total N"),
        ("counting", "N without head"),
        ("estimator", "Huber on log loss"),
    } <= groups
    assert "original study's fit" in " ".join(sentences.summary(result))


def test_a_suite_on_another_law_is_left_out_and_named():
    result = analyse(ladder_and_nine(shift=0.08)).result
    entry = result["families"]["transformer"]
    assert entry["suite"] == "ladder" and entry["n_sizes"] == 7 and not entry["common_law"]["holds"]
    assert any("do not lie on one law" in text for text in result["warnings"])
    other = [
        dict(row, train_chars=4e5, n_chars_seen=4e5) if row["suite"] == "classical" else row
        for row in ladder_and_nine()
    ]
    # another text: not even compared
    assert analyse(other).result["families"]["transformer"]["common_law"] is None


def test_a_ladder_that_bends_is_fitted_above_the_bend():
    result = analyse(ladder_and_nine(bend=0.15)).result
    entry = result["families"]["transformer"]
    assert entry["bends_below"] == LADDER[1] and entry["runs_below"] == 1 and entry["n_sizes"] == 11
    assert any("bends below" in text for text in result["warnings"])
    below = [
        choice for choice in result["counting"]["transformer"] if choice.get("at_n") == LADDER[0]
    ]
    assert not below[0]["counts"]


def test_records_say_how_many_parameters_the_blocks_have():
    record = {
        "family": "lstm",
        "params_non_embedding": 1000,
        "config": {"d_hidden": 4, "vocab_size": 50},
    }
    assert records.rows_of_records([record, {"family": "lstm"}])[0]["params_blocks"] == 800
    assert records.rows_of_records([{"family": "lstm"}])[0]["params_blocks"] is None


def test_a_grid_gives_both_exponents_and_no_verdict_at_one_amount():
    result = analyse(grid()).result
    entry, numbers = result["joint"]["transformer"], result["answer"]["numbers"]
    assert entry["identified"] and entry["form"] == "sum" and entry["lack_of_fit"]["p"] > 0.01
    assert entry["count"] == "params_non_embedding"
    for name, true in (("alpha", 0.486), ("beta", 0.30)):
        low, high = numbers[name]["interval"]
        assert low < true < high and low < numbers[name]["value"] < high
    assert result["families"]["transformer"]["verdict"] == "one amount"
    assert "alpha identified" not in result["headline"]  # one exponent a family
    json.dumps(result, allow_nan=False)


def test_least_squares_and_huber_find_the_truth_without_noise():
    points = shared_law.points_of(grid(noise=0))
    for delta in (robust.SQUARES, robust.HUBER_DELTA):
        shape = shared_law.Shape((), 0.0, sum=True, delta=delta)
        found = shared_law.values(shared_law.fit(points, shape))
        assert [found[name] for name in shared_law.JOINT] == pytest.approx(TRUTH, rel=1e-3)


NORM = (0.0, 3.9, 12.0, 0.13, 0.19, 2.9)


def test_terms_that_do_not_add_up_are_found_with_their_order():
    """A grid of the law of Kaplan et al. 2020: no sum fits it, and no E is needed."""
    entry, found, draws = fit_grid(grid(NORM), 200)
    assert entry["form"] == "order free" and entry["identified"] and entry["form_p"] < 1e-6
    for name, true in zip(shared_law.JOINT[3:], NORM[3:]):
        low, high = entry[name]["interval"]
        assert low < true < high and high < 1.5 * low
    n, d, loss = joint_fit.optimal_split(1e13, *NORM)
    for factor in (0.9, 1.1):
        assert law(NORM, n * factor, d / factor) > loss
    best, extrapolates = joint_fit.recommend(entry, found, draws, 2e11)
    low, high = best["loss"][1]
    assert low < best["loss"][0] < high
    assert not extrapolates and joint_fit.recommend(entry, found, draws, 1e20)[1]
    with_floor = grid((0.5, 3.9, 12.0, 0.25, 0.35, 2.5), noise=0.002)
    assert fit_grid(with_floor, 20)[0]["form"] == "order free"


def test_the_slopes_of_the_law_are_those_of_its_numbers():
    rows, saved = copying_grid()
    points = shared_law.points_of(rows, saved)
    shape = shared_law.Shape(("E",))
    columns = shared_law._columns(shape, 2)
    n_parameters = columns["kappa"][0] + 1
    model = shared_law._model(points, columns, (12.0, 13.0))
    p = np.full((1, n_parameters), 0.1)
    p[0, columns["alpha"]], p[0, columns["beta"]], p[0, columns["inverse_order"]] = 0.2, 0.3, 0.4
    value, slopes = model(p)
    found = shared_law.Fit(shape, p[0], columns, value[0], 0, (12.0, 13.0))
    of_lstm = points.family == 1
    loss = shared_law.joint_loss(points.n, points.d, **shared_law.values(found, family=1))
    assert value[0, of_lstm] == pytest.approx(np.log(loss[of_lstm]))
    for i in range(n_parameters):
        moved = p + 1e-6 * (np.arange(n_parameters) == i)
        assert (model(moved)[0] - value) / 1e-6 == pytest.approx(slopes[..., i], abs=1e-4)


def test_a_grid_that_leaves_every_law_is_not_identified():
    """Large models on much text lie 10 % below: what seeds scatter says that no law is missed by
    chance."""
    rows = [
        dict(
            row,
            val_nats_per_char=row["val_nats_per_char"]
            * (0.9 if row["params_non_embedding"] > 2e5 and row["n_chars_seen"] > 5e5 else 1),
        )
        for row in grid()
    ]
    entry, _, _ = fit_grid(rows, 50)
    assert (
        not entry["identified"]
        and "misses the runs" in entry["reason"]
        and entry["lack_of_fit"]["ratio"] > 1.5
    )


def test_the_largest_run_is_predicted_from_smaller_runs_alone():
    rows = grid()
    n, d = (max(row[key] for row in rows) for key in ("params_non_embedding", "n_chars_seen"))
    written = predictions.predict_run(rows, n, d, share=0.1, runs=2)
    low, high = written["if_not"]["interval"]
    assert written["n_runs"] == 7 * 4 * 2 and low < written["if_not"]["value"] < high
    assert written["if_copies"]["value"] < written["if_not"]["value"]
    assert written["p_copies"] is None  # no smaller run says when models copy
    seen = [row for row in rows if row["params_non_embedding"] < n and row["n_chars_seen"] < d]
    # what was trained since changes nothing
    assert predictions.predict_run(seen, n, d, share=0.1, runs=2) == written
    moved = [dict(row, val_nats_per_char=row["val_nats_per_char"] + 1e-9) for row in seen]
    assert predictions.predict_run(moved, n, d)["digest"] != written["digest"]
    with pytest.raises(ValueError, match="four sizes"):
        predictions.predict_run(rows, sorted({row["params_non_embedding"] for row in rows})[3], d)
    result = analyse(rows, 2, predicted={"transformer": written}).result
    said = result["joint"]["transformer"]["prediction"]
    assert said["digest"] == written["digest"] and said["measured_runs"] == 2
    assert said["inside"] and not said["inside_if_copies"] and abs(said["relative_error"]) < 0.02
    (held_out,) = result["answer"]["prediction"]["held_out"]
    assert held_out["inside"] and abs(held_out["relative_error"]) < 0.02
    assert predictions.beside_measured(written, seen) is None
    lstm = predictions.predict_run([dict(row, family="lstm") for row in rows], n, d, share=0.1)
    assert lstm["if_copies"] is None


def test_what_copying_saves_is_a_term_of_the_law(tmp_path):
    """Large models on much text save on repeated bars: the loss leaves the law by that much."""
    rows = [dict(row, saved=0.05) for row in grid(NORM)]
    for row in rows:
        if row["params_non_embedding"] > 2e5 and row["n_chars_seen"] > 5e5:
            row.update(val_nats_per_char=row["val_nats_per_char"] - 0.08 * 0.95, saved=1.0)
    found = ladder_copying.answer_of(rows, "X:1\nM:4/4\nL:1/8\nK:C\nCDEFGABc|CDEFGABc|\n")
    assert abs(found["numbers"]["kappa"]["value"] - 0.08) < 0.02
    assert abs(found["numbers"]["alpha"]["value"] - 0.13) < 0.03
    assert found["numbers"]["kappa_from_text"]["value"] > 0.1
    assert ladder_copying.answer_of([], "") is None
    assert set(evaluate_figures.draw_repeated_bars(tmp_path, rows)) == {
        "repeated_bars.png",
        "repeated_bars.svg",
    }
    assert evaluate_figures.draw_repeated_bars(tmp_path, []) == [] and not list(tmp_path.iterdir())


# ---------------------------------------------------------------- figures


def drawn(rows, n_resamples=10):
    """Names of the figures that the data allow, drawn and not written."""
    result, laws = analyse(rows, n_resamples)
    chosen = {
        family: headline_runs.choose_headline([row for row in rows if row["family"] == family])
        for family in {row["family"] for row in rows}
    }
    study = fit_figures.Study(rows, chosen, result, laws, {})
    return {
        name for name in ("scaling", "grid") if fit_figures.DRAWINGS[name](figures.pyplot(), study)
    }


def test_the_grid_is_drawn():
    rows = grid() + grid((0.75, 97.9, 17.3, 0.6, 0.3, 1.0), family="lstm", seed=1)
    assert drawn(rows) == {"scaling", "grid"}


# ---------------------------------------------------------------- the study that ships


def test_the_answer_is_recomputed_from_the_rows_that_ship():
    """A script without this project finds every number of the answer in the rows beside it."""
    study = HERE / "docs/study"
    done = subprocess.run(
        [sys.executable, study / "recompute.py"], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    answer = json.loads((study / "fits.json").read_text())["answer"]
    for name, number in answer["numbers"].items():
        assert found[name]["value"] == pytest.approx(number["value"], rel=1e-3), name
        if "interval" in number:
            assert found[name]["interval"] == pytest.approx(number["interval"], rel=5e-3), name
    (alone,) = [row for row in answer["law"]["each_family"] if row["family"] == "transformer"]
    with_copying = found["transformers_with_copying"]
    assert with_copying["misfit_over_seeds"] == pytest.approx(
        alone["regions"][0]["ratio"], rel=1e-3
    )
    assert with_copying["p"] > 0.3 and found["transformers_plain"]["p"] < 1e-5
    tests = {row["law"]: row["test"] for row in answer["law"]["rivals"]}
    for name, law in (
        ("one_E", "exponents of each family, one E"),
        ("nothing_shared", "all of each family"),
    ):
        assert found[f"shared_against_{name}"]["p"] == pytest.approx(tests[law]["p"], rel=0.05)
    for held_out in answer["prediction"]["held_out"][:2]:
        own = found[f"largest_{held_out['family']}"]
        assert own["measured"] == pytest.approx(held_out["measured"], rel=1e-6)
        for key in ("if_copies", "if_not"):
            if number := held_out[key]:
                assert own[key] == pytest.approx([number["value"], *number["interval"]], rel=1e-4)
    own = {(round(n), d): rest for n, d, *rest in found["winners"]}
    for row in answer["winners"]:
        margin = pytest.approx(row["margin"], rel=1e-6)
        assert own[round(row["n"]), row["d"]] == [row["winner"], margin, not row["clear"]]
    second = json.loads((study / "second_corpus.json").read_text())["came"]
    for name in ("alpha", "beta", "order", "E", "kappa", "copies_from_n_times_d"):
        assert found["second_corpus"][name] == pytest.approx(second[name]["value"], rel=1e-3)
    assert found["second_corpus_most_saved"] == second["most_saved"]
    for script in study.glob("recompute*.py"):
        lines = script.read_text().splitlines()
        assert len(lines) < 150 and not any("study." in line for line in lines if "import" in line)


def copying_grid(kappa=0.08, seed=0):
    """Two families of one law; the first copies from N x D = 1e11 on, and saves up to 1.1 bits."""
    rows, saved = [], {}
    for family in ("transformer", "lstm"):
        for row in grid(NORM, family=family, seed=seed):
            n, d = row["params_non_embedding"], row["n_chars_seen"]
            bits = 0.05 + (1.05 / (1 + (1e11 / (n * d)) ** 3) if family == "transformer" else 0)
            loss = row["val_nats_per_char"] - kappa * (bits - 0.05)
            rows.append({**row, "val_nats_per_char": loss, "test_nats_per_char": loss})
            saved[family, n, d] = bits
    return rows, saved


def test_copying_is_a_term_of_one_law():
    rows, saved = copying_grid()
    found = study_answer.answer(rows, saved, share=0.08 / math.log(2))
    numbers = found["numbers"]
    for name, true in (("alpha", 0.13), ("beta", 0.19), ("kappa", 0.08), ("order", 2.9)):
        low, high = numbers[name]["interval"]
        assert low < true < high, name
    assert numbers["kappa_from_text"]["value"] == pytest.approx(0.08)
    assert numbers["copies_from_n_times_d"]["value"] == pytest.approx(1e11, rel=0.05)
    assert len(numbers) <= 8 and len(found["sentence"].split()) <= 30
    rivals = {row["law"]: row for row in found["law"]["rivals"]}
    assert rivals["no copying term"]["test"]["p"] < 1e-6
    assert rivals["all of each family"]["test"]["p"] > 1e-3
    transformer, lstm = found["prediction"]["next"]
    assert transformer["p_copies"] > 0.9 and lstm["if_copies"] is None
    assert transformer["if_copies"]["value"] < transformer["if_not"]["value"] - 0.07
    assert found["winners"][-1]["winner"] == "transformer" and found["winners"][-1]["clear"]


def test_without_a_measure_of_copying_nothing_is_said_of_it():
    rows, _ = copying_grid(kappa=0.0)
    found = study_answer.answer(rows)
    assert "kappa" not in found["numbers"] and "copy" not in found["sentence"]
    assert all(row["p_copies"] is None for row in found["prediction"]["next"])
    one_amount = [row for row in rows if row["n_chars_seen"] == rows[0]["n_chars_seen"]]
    short = study_answer.answer(one_amount)
    assert short["numbers"] == {} and short["prediction"] is None and short["winners"]


def test_second_occurrences_are_counted_within_the_context(monkeypatch):
    tune = "X:1\nM:4/4\nL:1/8\nK:C\nCDEFGABc|CDEFGABc|CDEFGABc|c8|\n"
    share = copying.second_occurrences(tune + "\n" + tune)
    assert share == len("CDEFGABc") / len(tune.strip())
    monkeypatch.setattr(copying, "CONTEXT", 30)
    assert copying.second_occurrences(tune) == 0
