"""The ladder: sizes alike in every family, the rule of their rates, the order of a grid, runs side
by side."""

import importlib
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from study.stages.files import read_json
from study.stages.process import cpu_count, is_alive

import numpy as np
import pytest
import torch
from PIL import Image  # of matplotlib
from test_training import environment, make_root, stage_root

import common
from benchmarks.sweep_learning_rates import fit_rule
from study import full_study as reference
from study.families import build_model, model_class
from study.train import jobs, ladder, plan, suite
from study.train.checkpoints import load_checkpoint
from study.train.data import BLOCK_SIZE
from study.train.runs import RunSpec, plan_run, train

FAMILIES = common.Transformer, common.LSTM
CLASSICAL = {"tiny": {"n_layer": 2, "n_head": 2, "d_model": 64, "d_ff": 256}}
NANO = {"n_layer": 1, "n_head": 2, "d_model": 8, "d_ff": 16, "learned_positions": False}
pytestmark = pytest.mark.usefixtures("one_thread")


def config(shape, family="transformer", vocab_size=50, block_size=BLOCK_SIZE):
    return {
        "family": family,
        "vocab_size": vocab_size,
        "block_size": block_size,
        "dropout": 0.0,
        **dict.fromkeys(model_class(family).FLAGS, True),
        **shape,
    }


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize("vocab_size", [50, 75, 1000])
def test_sizes_are_the_same_in_every_family(vocab_size):
    counts = []
    with torch.device("meta"):
        for model in FAMILIES:
            sizes = ladder.ladder_sizes(model.family, vocab_size)
            assert list(sizes) == list(ladder.LADDER)
            counts.append(
                [
                    build_model(config(shape, model.family, vocab_size)).count_parameters()[
                        "non_embedding"
                    ]
                    for shape in sizes.values()
                ]
            )
    for shape, *pair in zip(ladder.LADDER.values(), *counts):
        assert pair[0] == ladder.parameters(shape, vocab_size)
        # with many tokens nearly all of the smallest LSTMs is their head, which grows in large
        # steps
        assert abs(pair[1] / pair[0] - 1) < (
            0.01 if vocab_size < 100 or shape["d_model"] >= 16 else 0.025
        )
    assert counts[0][-1] > 100 * counts[0][0]


def test_a_family_without_a_rule_keeps_to_its_own_sizes():
    model = type("GRU", (common.Model,), {"family": "gru"})
    with pytest.raises(ValueError, match="no rule"):
        ladder.ladder_sizes("gru", 75)
    args = suite.suite_parser("").parse_args([])
    suite.check_suite(args, plan.Suite(model, CLASSICAL, {}))
    assert args.sizes == ["tiny"] and args.suite == ["classical"]


def test_without_a_position_table_steps_are_those_of_the_whole_window():
    torch.manual_seed(0)
    model = build_model(config(NANO, block_size=16)).eval()
    assert not any("position" in name for name, _ in model.named_parameters())
    torch.nn.init.normal_(model.head.weight)
    for block in model.blocks:
        torch.nn.init.normal_(block.attention_out.weight)
    idx = torch.randint(3, 50, (2, 30))
    with torch.no_grad():
        whole, cache, texts = model(idx[:, :16])[0], None, idx.tolist()
        for n in range(2, 31):  # past the window's end too
            logits, cache = model.step_rows([text[:n] for text in texts], cache)
            start = 0 if n <= 16 else 8 * math.ceil((n - 16) / 8)
            assert torch.allclose(logits, model(idx[:, start:n])[0][:, -1], atol=1e-5)
    swapped = idx[:, [1, 0, *range(2, 16)]]
    assert not torch.allclose(model(swapped)[0][:, -1], whole[:, -1], atol=1e-3)  # order is seen


# ---------------------------------------------------------------- rates


def sweep(size, rule, noise=(), curvature=0.03):
    """The outcome of a sweep whose parabola has its minimum where the rule says."""
    best = np.log(ladder.rule_rate(rule, size))
    rates = np.exp(best + np.log(2) * (np.arange(-2, 3) + 0.4))
    losses = 1 + curvature * (np.log(rates) - best) ** 2 + np.resize([*noise, 0], 5)
    return {
        "runs": [
            *(
                {"learning_rate": float(rate), "val_nats_per_char": float(loss)}
                for rate, loss in zip(rates, losses)
            ),
            {"learning_rate": 1.0, "val_nats_per_char": None},  # had no number
            {"learning_rate": 0.5, "val_nats_per_char": 2.0},
        ]
    }  # lies on no parabola


def test_the_rule_is_found_again_and_checked_where_it_was_not_fitted():
    outcomes = {size: sweep(size, (0.02, 0.4)) for size in ("d016", "d048", "d128")}
    outcomes["d064"] = sweep("d064", (0.03, 0.4))
    rule = fit_rule(outcomes)
    assert (rule["rate"], rule["exponent"], rule["sizes"]) == (0.02, 0.4, ["d016", "d048", "d128"])
    assert (
        rule["checked"]["best"] == pytest.approx(0.03, rel=1e-3) and rule["checked"]["rule"] == 0.02
    )
    assert rule["checked"]["nats_above_best"] == pytest.approx(0.03 * np.log(1.5) ** 2, rel=1e-2)
    # two widths fit any rule
    assert fit_rule({size: outcomes[size] for size in ("d016", "d048")}) is None
    assert (
        fit_rule(
            {size: sweep(size, (0.02, 0.4), curvature=-0.01) for size in ("d016", "d048", "d128")}
        )
        is None
    )


def test_rates_go_by_the_rule_and_without_one_by_width():
    tuned = plan.Suite(common.Transformer, CLASSICAL, {"muon": {"tiny": 0.03}}, (0.02, 0.5))
    d016 = ladder.LADDER["d016"]
    assert plan.choose_rate(tuned, "d016", d016) == pytest.approx(0.04)
    assert plan.choose_rate(tuned, "tiny", CLASSICAL["tiny"]) == 0.03
    assert plan.choose_rate(tuned._replace(rule=None), "d016", d016) == 0.03


# ---------------------------------------------------------------- plan


@pytest.mark.parametrize(
    "flags, suites, names",
    [
        ([], ["classical", "ladder"], ["tiny", *ladder.LADDER]),
        (
            ["--quick"],
            ["classical", "ladder"],
            [
                "tiny",
                "d008",
                "d010",
                "d012",
                "d016",
                "d024",
                "d032",
                "d048",
                "d064",
                "d096",
                "d128",
                "d192",
            ],
        ),
        (["--quick", "--only", "d256"], ["classical", "ladder"], ["d256"]),
        (["--suite", "ladder"], ["ladder"], list(ladder.LADDER)),
        (["--recipe", "classic"], ["classical"], ["tiny"]),
    ],
)
def test_what_is_trained_by_default(flags, suites, names):
    args = suite.suite_parser("").parse_args(flags)
    suite.check_suite(args, plan.Suite(common.Transformer, CLASSICAL, {}))
    assert args.sizes == names and args.suite == suites
    assert args.jobs == (cpu_count() if "--quick" in flags else 1)


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--suite", "wide"], "no suite 'wide'; there are classical, ladder"),
        (["--suite", "ladder", "--recipe", "classic"], "no learned positions"),
        (["--jobs", "0"], "--jobs: 0 is below 1"),
    ],
)
def test_what_is_refused(flags, said, capsys):
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("04_train_transformers").main(["--device", "cpu", *flags])
    assert said in str(ended.value.code)


@pytest.mark.parametrize("jobs", [1, 2])
def test_runs_are_ordered_by_seed_and_cost(tmp_path, jobs):
    data = make_root(tmp_path, n_tunes=100)
    flags = f"--suite ladder --seeds 3,2 --data-fractions 1,0.5 --only d016,d008 --jobs {jobs}"
    planned = reference.planned_runs("transformer", flags.split(), data)
    assert [run["seed"] for run in planned] == [3] * 4 + [2] * 4
    costs = [run["train_flops"] for run in planned[:4]]
    assert costs == sorted(costs, reverse=jobs > 1)


# ---------------------------------------------------------------- the study


def test_the_study_meets_its_largest_size_and_all_its_text_last(tmp_path):
    data = make_root(tmp_path, n_tunes=400)

    def grid_of(part):
        runs = [
            run
            for family, words in reference.training(part, ["lstm"], [])
            for run in reference.planned_runs(family, words, data)
            if run["suite"] == "ladder"
        ]
        return {run["name"]: run for run in runs}

    first, second = grid_of("before"), grid_of("after")
    assert len(first) == 11 * 4 * 2 and len(second) == 12 * 5 * 2 and first.keys() < second.keys()
    largest = max(run["params_total"] for run in second.values())
    assert all(run["params_total"] < largest and run["data_fraction"] < 1 for run in first.values())


def test_the_study_says_and_keeps_what_it_plans(tmp_path, capsys):
    make_root(tmp_path, n_tunes=400)
    commands = [
        command
        for part in ("before", "after")
        for command in reference.training(part, ["transformer"], [])
    ]
    largest = reference.write_plan(tmp_path, ["transformer"], commands)
    assert largest["transformer"]["name"] == "transformer_d256"
    kept = read_json(tmp_path / reference.KEPT)
    assert kept["plan"] == reference.PLAN and kept["runs"] == 5 + 3 * 2 + 120 + 1
    assert "132 runs" in capsys.readouterr().out


def test_the_law_is_fitted_again_with_the_copying_that_stage_07_measures(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(reference, "run_stage", lambda stage, words: ran.append(stage[:2]))
    monkeypatch.setattr(reference, "write_plan", lambda *_: {})
    monkeypatch.setattr(reference, "predict", lambda *_: None)
    reference.main(["--root", str(tmp_path)])
    assert ran[:3] == ["01", "02", "03"] and ran[-4:] == ["06", "07", "06", "07"]


def test_a_prediction_is_written_once_and_stands_in_the_manifest(tmp_path, monkeypatch):
    asked = []
    found = {
        "family": "transformer",
        "n": 100,
        "d": 1000,
        "if_not": {"value": 1.1, "interval": [1.0, 1.2]},
        "if_copies": None,
        "p_copies": None,
    }
    said = lambda rows, n, d, share, runs: asked.append((len(rows), n, d, share, runs)) or found
    monkeypatch.setattr(reference, "predict_run", said)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "data").mkdir()
    tune = "X:1\nM:4/4\nL:1/8\nK:C\nCDEFGABc|CDEFGABc|\n"
    (tmp_path / "data/val.txt").write_text(tune)
    assert suite.prediction_of(tmp_path, "transformer") == {}
    largest = {
        "name": "transformer_d256",
        "size": "d256",
        "params_non_embedding": 100,
        "train_chars": 1000,
    }
    for _ in range(2):
        reference.predict(tmp_path, {"transformer": largest})
    (only,) = asked
    assert only == (0, 100, 1000, pytest.approx(8 / 35, abs=0.05), 2)
    written = read_json(tmp_path / ladder.PREDICTION)
    assert written["transformer"]["if_not"]["value"] == 1.1
    assert suite.prediction_of(tmp_path, "lstm") == {}
    said = suite.prediction_of(tmp_path, "transformer")["prediction"]
    assert said["written"] == written["transformer"]["written"] and len(said["sha256"]) == 64


def test_what_is_shown_of_the_study_is_small_and_replaces_what_was_there(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "HERE", tmp_path)
    outputs, shown = tmp_path / "root/part4_outputs", tmp_path / "docs/study"
    for name in ("RESULTS.json", "figures/a.png", "generated/sample_000.abc", "best_model.pt"):
        (outputs / name).parent.mkdir(parents=True, exist_ok=True)
        (outputs / name).write_text(name)
    (outputs / "report.html").write_text('<a href="compose.html">')
    (outputs / "compose.html").write_text("a model")
    pixels = np.random.default_rng(0).integers(256, size=(64, 64, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(outputs / "figures/a.png")
    (shown / "figures").mkdir(parents=True)
    (shown / "figures/old.png").write_text("old")
    (shown / "recompute.py").write_text("stays: no stage makes it")
    reference.publish(tmp_path / "root", shown)
    assert {str(path.relative_to(shown)) for path in shown.rglob("*") if path.is_file()} == {
        "RESULTS.json",
        "figures/a.png",
        "generated/sample_000.abc",
        "recompute.py",
        "report.html",
    }
    assert (shown / "report.html").read_text() == '<a href="../compose.html">'
    assert (shown.parent / "compose.html").read_text() == "a model"
    with Image.open(shown / "figures/a.png") as image:
        assert image.size == (64, 64) and (shown / "figures/a.png").stat().st_size < pixels.size / 2


# ---------------------------------------------------------------- side by side


def digests(root, names):
    return [load_checkpoint(root / f"checkpoints/{name}.pt")[1]["weights_digest"] for name in names]


def test_side_by_side_gives_the_bytes_of_one_by_one(tmp_path):
    data = make_root(tmp_path / "one")
    make_root(tmp_path / "two")
    plans = [
        plan_run(data, RunSpec("transformer", f"n{i}", NANO, 0.01, data_fraction=share, seed=seed))
        for i, (share, seed) in enumerate([(0.5, 2), (1, 2), (1, 3)])
    ]
    names = [plan["name"] for plan in plans]
    for plan in plans:
        train(tmp_path / "one", plan, data, "cpu")
    records = list(jobs.train_side_by_side(tmp_path / "two", plans, "cpu", jobs=cpu_count()))
    assert {record["name"] for record in records} == set(names) and {
        record["threads"] for record in records
    } == {1}
    assert digests(tmp_path / "one", names) == digests(tmp_path / "two", names)
    for name in names:
        one, two = (
            read_json(tmp_path / f"{root}/checkpoints/{name}.json") for root in ("one", "two")
        )
        assert one["test_nats_by_sequence"] == two["test_nats_by_sequence"]


SCRIPT = """
import importlib, sys
from study.stages.process import run
from study.train import calibrate, suite
if __name__ == "__main__":
    calibrate.CALIBRATION_SECONDS = 0.01
    sys.argv = ["04_train_transformers.py", *{arguments!r}]
    run(importlib.import_module("04_train_transformers").main)
"""


def started(root):
    """Stage 04 at two long runs side by side, and its two workers once both have begun to train."""
    (root / "script.py").write_text(
        SCRIPT.format(
            arguments=[
                "--root",
                str(root),
                "--device",
                "cpu",
                "--suite",
                "ladder",
                "--only",
                "d016",
                "--seeds",
                "2,3",
                "--epochs",
                "3000",
                "--jobs",
                "2",
            ]
        )
    )
    process = subprocess.Popen(
        [sys.executable, str(root / "script.py")],
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    curves = [root / f"checkpoints/transformer_d016{end}.curve.jsonl" for end in ("", "_seed3")]
    deadline = time.monotonic() + 120
    while (
        not all(curve.exists() for curve in curves)
        and time.monotonic() < deadline
        and process.poll() is None
    ):
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return process, [
        int(pid) for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_a_process_that_dies_ends_the_others_with_their_states_saved(tmp_path):
    process, workers = started(stage_root(tmp_path))
    os.kill(workers[0], signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert (
        process.returncode == 1 and "give fewer --jobs" in said and "goes on from there" in said
    ), said
    assert said.count("state saved after step") == 1 and "Traceback" not in said
    assert len(list((tmp_path / "checkpoints").glob(".*.state"))) == 1
    assert len(workers) == 2 and not any(is_alive(pid) for pid in workers)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_all_processes_end_with_the_first(tmp_path):
    process, workers = started(stage_root(tmp_path))
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 20
    while any(is_alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(workers) == 2 and not any(is_alive(pid) for pid in workers)
