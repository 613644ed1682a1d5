"""Stage 07: prompts, repair, MIDI, the chosen sampler, the results file and what happens when it is
run again."""

import importlib
import json
import math
import random
import shutil

from study.stages.arguments import stage_parser
from study.stages.code_key import HERE
from study.stages.files import plain
from study.stages.manifest import manifest_path
from study.stages.stage import Stage

import numpy as np
import pytest
import torch

from benchmarks.readme_numbers import read_tables
from common import BEGIN, END, CharTokenizer
from music.abc_check import check_abc
from music.abc_text import read_abc
from music.excerpts import first_bars, repaired
from music.notation import midi_score
from music.validity import count_midi_notes, rate_samples
from results_contract import MOST_BYTES, check_results
from study import figures
from study.evaluate import evaluation, measurements, prompts, rating, sampler_sweep, sampling
from study.evaluate import samples as generated
from study.evaluate.ladder_copying import answer_of
from study.fit import figures as fit_figures
from study.fit import sentences
from study.fit.analysis import analyse
from study.fit.headline_runs import choose_headline
from study.fit.records import COLUMNS, csv_text, read_records, rows_of_records
from study.report import headline
from study.report.content import describe_fits, licences, may_share, results
from study.report.tables import TABLES, run_records
from study.train import runs
from study.train.checkpoints import load_checkpoint
from study.train.data import load_data
from study.train.loss import evaluate

stage07 = importlib.import_module("07_train_best_and_generate")

JIG = "X:1\nM:6/8\nL:1/16\nQ:1/4=120\nK:G\nG4B2d4B2|c4A2F4D2|G4B2d4g2|f4d2G6|\nB4d2g4d2|e4c2A4c2|B4G2F4A2|G6G6|\n"
DUO = (
    "X:1\nM:2/4\nL:1/16\nK:C\n[V:1]c4e4|d4f4|[V:2]C8|D8|\n[V:1]e4g4|c8|[V:2]E8|C8|\n"
    "[V:1]d4f4|e4g4|[V:2]D8|E8|\n"
)


# ---------------------------------------------------------------- prompts, repair, MIDI


def test_prompts_are_four_bars_of_every_voice():
    assert first_bars(JIG, 4) == JIG[: JIG.index("\nB4d2")]
    assert first_bars(DUO, 4) == DUO[: DUO.index("\n[V:1]d4f4|e4")]
    assert first_bars("no music at all | | | |", 4) is None
    # nothing would be left to generate
    assert first_bars(JIG[: JIG.index("\nB4d2")] + "\n", 4) is None


def test_repair_keeps_the_bars_before_the_error():
    assert repaired(JIG) is None
    cut = repaired(JIG.replace("A4c2|B4G2", "A4c2|B4G2c2"))  # an over-full seventh bar
    assert cut.endswith("e4c2A4c2|\n") and check_abc(cut).level >= 4
    assert repaired(JIG[:-4] + "[Bd").endswith("B4G2F4A2|\n")  # stopped in the middle of a chord
    assert repaired("X:1\nthis is no music") == ""


def test_midi_has_the_notes_of_the_text():
    tune = read_abc(DUO)
    assert (
        count_midi_notes(midi_score(tune).dumps_midi())
        == sum(len(v.notes) for v in tune.voices)
        == 17
    )


def test_a_text_without_notes_gives_no_midi(tmp_path):
    written = generated.write_music(tmp_path, "x", "X:1\nK:C\nz8|z8|\n")
    assert written["midi"] is None and not (tmp_path / "x.mid").exists()


@pytest.mark.parametrize("drifting", [{"rest_bar_share": 0.5}, {"bar_repetition": 0.9}])
def test_a_sampler_that_drifts_into_rests_or_repeats_is_not_chosen(drifting):
    plain = {"rate": 0.5, "bar_accuracy": 0.8, "rest_bar_share": 0.1, "bar_repetition": 0.3}
    rows = [
        {
            **sampling.MODEL_ITSELF,
            "temperature": 0.7,
            **plain,
            "rate": 1.0,
            "bar_accuracy": 1.0,
            **drifting,
        },
        {**sampling.MODEL_ITSELF, "temperature": 0.9, **plain, "rate": 0.6},
        {**sampling.MODEL_ITSELF, "temperature": 1.0, **plain},
    ]
    limits = stage07.SWEEP_LIMITS
    assert sampler_sweep.choose_sampler(rows, plain, limits) == {
        **sampling.MODEL_ITSELF,
        "temperature": 0.9,
    }
    assert sampler_sweep.choose_sampler(rows[:1], plain, limits) == sampling.MODEL_ITSELF


def test_prompts_that_the_vocabulary_cannot_write_are_left_out_and_counted():
    tunes = [{"origin": "a", "text": JIG}, {"origin": "b", "text": JIG.replace("K:G", "K:F#m")}]
    vocabulary = CharTokenizer(JIG)
    assert [origin for _, origin in prompts.prompts_from(tunes, "header", vocabulary)] == ["a"]
    requests = generated.ten_requests(
        tunes[1:], stage07.TEN, sampling.MODEL_ITSELF, 50, 70, vocabulary
    )
    assert {kind for kind, *_ in requests} == {"unconditional"} and {
        request.prompt for *_, request in requests
    } == {""}


def test_the_ten_samples_have_different_prompts_and_temperatures():
    tunes = [
        {"origin": f"{i}.abc", "text": JIG.replace("K:G", f"K:{key}")}
        for i, key in enumerate("GDACFEB")
    ]
    requests = generated.ten_requests(
        tunes,
        stage07.TEN,
        {**sampling.MODEL_ITSELF, "top_p": 0.95},
        50,
        70,
        CharTokenizer("".join(tune["text"] for tune in tunes)),
    )
    assert len(requests) == 10 and len({request.seed for *_, request in requests}) == 10
    assert len({request.temperature for *_, request in requests}) >= 4
    assert {kind for kind, *_ in requests} == {"unconditional", "header", "bars"}
    assert len({request.prompt for *_, request in requests}) == 8


# ---------------------------------------------------------------- words


def parts(best=1.0, run=1.2, ngram=1.5, ppmd=2.0, rate=0.5, floor=0.0):
    """The parts of RESULTS.json that the headline reads, and the runs; losses in bits."""

    def row(name, bits):
        nats = bits * math.log(2)
        return {
            "name": name,
            "family": "lstm",
            "size": "tiny",
            "epochs": 2,
            "val_nats_per_char": nats,
            "test_nats_per_char": nats,
            "test_bits_per_char": bits,
            "test_bits_per_char_interval": [bits - 0.05, bits + 0.05],
        }

    def rates(rate):
        pair = [rate - 0.05, rate + 0.05]
        return {
            "n": 100,
            "rate": rate,
            "interval": pair,
            "bar_accuracy": rate,
            "bar_accuracy_interval": pair,
        }

    baselines = {
        "unigram": {"label": "unigram", "bits_per_char": 4.0},
        "ngram": {"label": "6-gram", "bits_per_char": ngram},
        "ppmd": {"label": "PPMd", "bits_per_char": ppmd},
    }
    samples = {
        "unprompted": rates(rate),
        "right_bars": None,
        "real_music": None,
        "baselines": {"6-gram": rates(floor), "3-gram": rates(0.0)},
    }
    found = {
        "baselines": {"val": baselines, "test": baselines},
        "best": row("best_model", best),
        "samples": samples,
        "fits": {"joint": None},
    }
    return found, [row("lstm_tiny", run)]


def test_the_strongest_baseline_is_the_one_to_beat():
    assert headline.strongest_baseline(parts()[0]["baselines"], "test") == ("6-gram", 1.5)
    assert headline.strongest_baseline(parts(ppmd=1.3)[0]["baselines"], "test") == ("PPMd", 1.3)
    assert headline.not_beaten(*parts()) == {"sentence": "", "rows": []}
    found = headline.not_beaten(*parts(ppmd=1.1))
    assert [(row["baseline"], row["split"], list(row["models"])) for row in found["rows"]] == [
        ("PPMd", "test", ["lstm_tiny"]),
        ("PPMd", "val", ["lstm_tiny"]),
    ]
    assert found["rows"][0]["models"]["lstm_tiny"] == pytest.approx(1.2)
    assert (
        found["sentence"]
        == "PPMd on the test split by lstm_tiny; PPMd on the val split by lstm_tiny"
    )


def test_above_a_baseline_is_a_test_and_not_a_larger_number():
    rows = headline.not_beaten(*parts(rate=0.03, floor=0.01))["rows"]
    assert {row["measure"] for row in rows} == {
        "valid at the first try",
        "bars of the right length",
    }
    assert headline.not_beaten(*parts(rate=0.12, floor=0.01))["rows"] == []
    found, records = parts(rate=0.0)
    found["samples"]["baselines"] = {}
    assert headline.not_beaten(found, records)["rows"] == []


def test_the_headline_is_one_sentence_and_eight_numbers():
    found, _ = parts()
    head = headline.headline(found)
    assert len(head["numbers"]) == 8 and len(head["sentence"].split()) <= 30
    shown = dict(headline.rows({"headline": head}))
    assert shown["answer"] == head["sentence"] and len(shown) == 10
    assert (
        shown["bits per character of unseen music"]
        == "1.00 (95 %: 0.95 to 1.05); LSTM tiny, 2 epochs"
    )
    assert shown["valid with right bars"] == "not measured"


def test_no_law_at_one_amount_of_text_is_quoted_beside_a_grid():
    law = {"alpha": 0.3, "alpha_interval": [0.2, 0.4], "verdict": "one amount"}
    answer = {
        "sentence": "It copies.",
        "numbers": {"alpha": {"value": 0.15, "interval": [0.14, 0.16]}},
    }
    found, _ = parts()
    head = headline.headline({**found, "fits": {"lstm": law, "answer": {"numbers": {}}}})
    assert head["numbers"]["alpha"] == {"value": None}
    head = headline.headline({**found, "fits": {"lstm": law, "answer": answer}})
    assert head["numbers"]["alpha"] == {"value": 0.15, "interval": [0.14, 0.16]}
    assert head["sentence"] == "It copies."


def ladder_of_one_seed(family, n_sizes=10, text=279_000):
    """Runs of a family at one amount of text; the small LSTMs are clearly better."""
    rng = np.random.default_rng(3)
    rows = []
    for i, n in enumerate(np.geomspace(4e3, 8e5, n_sizes).round()):
        loss = 1 + (8 * n**-0.3 if family == "transformer" else 4.2 * n**-0.25)
        row = dict.fromkeys(COLUMNS) | {"name": f"{family}_{i}", "family": family, "size": f"d{i}"}
        row |= {"suite": "ladder", "recipe": "tuned", "seed": 0, "train_chars": text}
        row |= dict.fromkeys(("params_total", "params_non_embedding", "params_blocks"), n)
        row |= {"n_chars_seen": text, "val_nats_per_char": loss + 0.003 * rng.standard_normal()}
        rows.append(row)
    return rows


def test_a_short_run_says_the_same_everywhere():
    rows = [row for family in ("transformer", "lstm") for row in ladder_of_one_seed(family)]
    found = analyse(rows, 0)
    fits = describe_fits(found.result)
    head = headline.headline({**parts()[0], "fits": fits})
    amounts, table = headline.winners({"fits": fits})
    cells = [cell for _, row in table for cell, _ in row]
    assert amounts == ["279k"] and 0 < cells.count("LSTM") < 10
    counts = f"LSTMs at {cells.count('LSTM')}, draws at {cells.count('draw')} of 10 points"
    assert head["sentence"].endswith(f"lowest loss: {counts}.")
    assert head["sentence"] == found.result["answer"]["sentence"]
    assert plain(answer_of(rows, ""), 10) == found.result["answer"]

    words = dict(headline.rows({"headline": head}))["exponent α of model size"]
    value, where = words.split("; ")
    assert value.startswith("0.3") and where == "Transformer at 279k characters of text"
    line = sentences.summary(found.result)[where]
    assert line.startswith(f"alpha identified, {value}")
    assert f"{where}: alpha identified, {value}" in found.result["headline"]
    chosen = {"transformer": choose_headline(rows[:10])}
    study = fit_figures.Study(rows[:10], chosen, found.result, found.laws, {})
    legend = fit_figures.draw_scaling(figures.pyplot(), study)[0].axes[0].get_legend()
    assert legend.get_texts()[0].get_text().endswith(f"α identified, {value}")


def test_without_a_measure_of_scatter_no_winner_is_named():
    rows = [row for family in ("transformer", "lstm") for row in ladder_of_one_seed(family, 3)]
    answer = analyse(rows, 0).result["answer"]
    assert "lowest loss" not in answer["sentence"]
    _, table = headline.winners({"fits": {"answer": answer}})
    assert [cells for _, cells in table] == [[("not known", "")]] * 3


def test_a_fit_that_was_refused_is_null_with_its_reason():
    fits = describe_fits(
        {"families": {"transformer": {"alpha": 0.3}}, "refused": {"lstm": "losses rise"}}
    )
    assert fits["transformer"]["alpha"] == 0.3 and fits["lstm"]["alpha_interval"] is None
    assert fits["lstm"]["alpha"] is None and fits["lstm"]["reason"] == "losses rise"


def test_the_licences_are_those_of_stage_01():
    rows = [
        {"name": "openscore", "licence": "CC0 1.0", "may_share": True},
        {"name": "mine", "licence": None, "may_share": False},
    ]
    assert licences({"sources": rows}) == ["openscore: CC0 1.0", "mine: not stated"]
    assert may_share({"sources": rows}) is False and may_share({"sources": rows[:1]}) is True
    assert licences({}) == [] and may_share({}) is None


def test_an_end_without_bound_is_a_word_and_rows_stay_in_fits_json():
    law = {"alpha": None, "alpha_interval": [0.1, None], "held_out": {"n": 1}}
    fits = describe_fits({"families": {"lstm": law}, "counting": {"lstm": []}})
    assert fits["lstm"] == {"alpha": None, "alpha_interval": [0.1, "unbounded"]}
    assert "counting" not in fits and fits["answer"] is None


def test_portable_values_are_strict_json():
    value = plain({"a": float("nan"), "b": (1, np.float64(2.5)), 3: np.int64(4), "c": float("inf")})
    assert json.dumps(value, allow_nan=False) == '{"a": null, "b": [1, 2.5], "3": 4, "c": null}'


# ---------------------------------------------------------------- losses by tune


def test_models_on_the_same_tunes_differ_by_less_than_chance_moves_them():
    chance = np.random.default_rng(0)
    chars, hard = chance.integers(50, 500, 120), chance.normal(1.0, 0.4, 120)
    nats = {
        name: (chars * (hard + shift + chance.normal(0, 0.01, 120))).tolist()
        for name, shift in (("best", 0.0), ("other", 0.02))
    }
    tunes = [f"tune {i // 2}" for i in range(120)]  # two sequences each
    found = rating.losses_by_tune(nats, chars.tolist(), tunes, seed=0)
    assert found["n_tunes"] == 60
    loss, (pair,) = found["losses"]["best"], found["differences"]
    assert loss["nats_per_char"] == pytest.approx(sum(nats["best"]) / chars.sum())
    ratio = np.array(
        [[sum(nats["best"][i : i + 2]), sum(chars[i : i + 2])] for i in range(0, 120, 2)]
    )
    deviations = ratio[:, 0] - loss["nats_per_char"] * ratio[:, 1]
    assert loss["se"] == pytest.approx(np.sqrt((deviations**2).sum()) / chars.sum(), rel=0.1)
    assert (pair["model"], pair["less"]) == ("other", "best")
    assert pair["nats_per_char"] == pytest.approx(0.02, abs=0.005)
    assert pair["se"] < loss["se"] / 10 and pair["interval"][0] > 0


# ---------------------------------------------------------------- what is kept


def count_bars(texts, letter):
    return {"n": sum(text.count("|") for text in texts), "letter": letter}


def test_a_measurement_is_made_once_and_again_when_what_decides_it_changes(tmp_path):
    calls = []

    class Model:
        digest = "of its weights"

    def measure(*arguments):
        calls.append(arguments)
        return len(calls), float("nan")

    assert measurements.cached(tmp_path, "a/b", measure, ["x"], Model()) == [1, None]
    assert (
        measurements.cached(tmp_path, "a/b", measure, ["x"], Model())
        == [1, None]
        == measurements.read(tmp_path, "a/b")
    )
    assert measurements.cached(tmp_path, "a/b", measure, ["y"], Model()) == [2, None]
    # other code
    assert measurements.cached(tmp_path, "a/b", count_bars, ["|x|"], "y") == {"n": 2, "letter": "y"}
    assert measurements.cached(tmp_path, "a/b", measure, ["y"], Model(), force=True) == [3, None]
    assert measurements.read(tmp_path, "c") is None
    (tmp_path / measurements.FOLDER / "a/b.json").write_text("[1]")  # edited by hand
    assert measurements.read(tmp_path, "a/b") is None
    assert measurements.cached(tmp_path, "a/b", measure, ["y"], Model()) == [4, None]
    measurements.remove_others(tmp_path, {"c"})
    assert measurements.read(tmp_path, "a/b") is None


# ---------------------------------------------------------------- the stage on a small root


def tunes_of(n, seed):
    """Little jigs that add up, each another."""
    chance, found = random.Random(seed), []
    for _ in range(n):
        rhythms = [chance.choice([(4, 2, 4, 2), (6, 6), (2,) * 6]) for _ in range(8)]
        bars = [
            "".join(f"{chance.choice('GABcdefg')}{length}" for length in rhythm)
            for rhythm in rhythms
        ]
        found.append(
            "X:1\nM:6/8\nL:1/16\nQ:1/4=120\nK:G\n"
            + "|".join(bars[:4])
            + "|\n"
            + "|".join(bars[4:])
            + "|\n"
        )
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A root in which the stages before 07 are done: real files, models hardly trained, made-up
    fits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield make_root(tmp_path_factory.mktemp("root"))
    torch.set_num_threads(threads)


SIZES = {
    "transformer": ("tiny", "small", "medium", "large", "xl"),
    "lstm": ("tiny", "small", "medium", "large"),
}


def make_root(root):
    data, checkpoints, outputs = root / "data", root / "checkpoints", root / "part4_outputs"
    for folder in (data, checkpoints, outputs):
        folder.mkdir()
    texts = {"train": tunes_of(24, 0), "val": tunes_of(8, 1), "test": tunes_of(8, 2)}
    tokenizer = CharTokenizer("".join(texts["train"]))
    (data / "tokenizer.pkl").write_bytes(tokenizer.dumps())
    for split, tunes in texts.items():
        (data / f"{split}.txt").write_text("\n".join(tunes))
        rows = ["index\torigin\tgroup\tpiece\tn_pieces\tfirst_bar\ttoken_offset\tcharacters"]
        rows += [
            f"{i}\tbook/tune {split} {i}.abc\tg{i}\t1\t1\t0\t0\t{len(tune)}"
            for i, tune in enumerate(tunes)
        ]
        (data / f"{split}_sequences.tsv").write_text("\n".join(rows) + "\n")
        np.save(
            data / f"{split}_tokens.npy",
            np.concatenate(
                [np.concatenate([[BEGIN], tokenizer.encode(tune), [END]]) for tune in tunes]
            ).astype(tokenizer.dtype),
        )
    names = {"uniform": 5.0, "unigram": 4.0, "xz": 2.5, "ngram": 2.2}
    (data / "baselines.json").write_text(
        json.dumps(
            {
                split: {
                    name: {"label": name, "bits_per_char": bits} for name, bits in names.items()
                }
                for split in ("val", "test")
            }
        )
    )
    (data / "stats.json").write_text(
        json.dumps(
            {
                "splits": {
                    split: {"characters": sum(map(len, tunes))} for split, tunes in texts.items()
                }
            }
        )
    )
    finish(
        root,
        "03_tokenize_split",
        [f"data/{path.name}" for path in data.iterdir() if not path.name.startswith(".")],
    )
    streams = load_data(root)
    shapes = {
        "transformer": {"n_layer": 1, "n_head": 2, "d_model": 16, "d_ff": 32},
        "lstm": {"n_layer": 1, "d_embedding": 8, "d_hidden": 16},
    }
    for stage_name, family in (
        ("04_train_transformers", "transformer"),
        ("05_train_lstms", "lstm"),
    ):
        outputs_of = []
        for size in SIZES[family]:
            run = runs.plan_run(streams, runs.RunSpec(family, size, shapes[family], 0.01))
            if size == "tiny":
                record = runs.train(root, run, streams, "cpu")
            else:  # the others are copies under their own names
                record = {
                    **json.loads((checkpoints / f"{family}_tiny.json").read_text()),
                    "name": f"{family}_{size}",
                    "size": size,
                }
                record["params_total"] *= 1 + SIZES[family].index(size)
                shutil.copy(checkpoints / f"{family}_tiny.pt", checkpoints / f"{family}_{size}.pt")
                (checkpoints / f"{family}_{size}.json").write_text(json.dumps(record))
            outputs_of += [f"checkpoints/{family}_{size}.pt", f"checkpoints/{family}_{size}.json"]
        finish(root, stage_name, outputs_of)
    fit = {
        "alpha": 0.3,
        "alpha_interval": [0.1, None],
        "r_squared": 0.99,
        "identified": True,
        "verdict": "identified",
        "reason": None,
    }
    (outputs / "fits.json").write_text(
        json.dumps(
            {
                "families": {"transformer": fit, "lstm": fit},
                "refused": {},
                "comparison": {"n": 1},
            }
        )
    )
    rows = rows_of_records(read_records(root))
    (outputs / "runs.csv").write_text(csv_text(rows, COLUMNS))
    finish(root, "06_fit_scaling", ["part4_outputs/fits.json", "part4_outputs/runs.csv"])
    return root


def finish(root, name, outputs):
    args = stage_parser("").parse_args(["--root", str(root)])
    stage = Stage(HERE / f"{name}.py", args, config={}, reads=())
    with stage.writing():
        stage.finish(outputs)


@pytest.fixture(scope="module")
def done(made):
    """The same root after stage 07 with the smallest budgets."""
    patch = pytest.MonkeyPatch()
    small = {"n_rated": 10, "n_prompted": 4, "n_sweep": 1, "n_skills": 4, "n_real": 8}
    small |= {"rated_chars": 120, "sample_chars": 80}
    budgets = {name: (small.get(name, 60), 0) for name in stage07.BUDGETS}
    patch.setattr(stage07, "BUDGETS", budgets)
    patch.setitem(stage07.BEST_MODEL, "full", "xl:1")
    patch.setattr(sampling, "MAX_TRIES", 8)  # hardly trained models have no right bars
    run07(made)
    yield made
    patch.undo()


def run07(root, *flags):
    stage07.main(["--root", str(root), "--device", "cpu", *flags])


def results_of(root):
    return json.loads((root / "part4_outputs/RESULTS.json").read_text())


def test_results_hold_what_they_say(done):
    missing = check_results(results_of(done))
    small = {"samples.unprompted.n is below 100", "samples.chosen_sampler.n is below 100"}
    # the stages before 03 were not run here
    assert set(missing) - small <= {"data.sources is missing", "data.conversion is missing"}
    assert (done / "part4_outputs/RESULTS.json").stat().st_size < MOST_BYTES


def test_a_missing_key_is_named(done):
    content = results_of(done)
    content["best"]["test_perplexity"] = None
    content["samples"]["files"].pop()
    assert {
        "best.test_perplexity is missing",
        "samples.files has fewer than 10 entries",
    } <= set(check_results(content))
    assert len(check_results({})) > 30


def test_results_are_a_function_of_what_stands_on_disk(done):
    assert results(done) == results_of(done)


def test_long_tables_stand_beside_the_results(done):
    found = read_tables(done / "part4_outputs")
    assert "repeats.csv" not in found  # no ladder was trained here
    for name in set(TABLES) - {"repeats.csv"}:
        assert found[name] and list(found[name][0]) == list(TABLES[name])
    models = {row["name"] for row in found["runs.csv"]}
    assert {row["set"] for row in found["music.csv"]} == {"unprompted", "chosen", "right"}
    assert models < {row["name"] for row in found["skills.csv"]}
    skill = next(row for row in found["skills.csv"] if row["name"] == "lstm_tiny")
    assert isinstance(skill["params_total"], int) and 0 <= skill["meter"] <= 1


def test_the_best_model_stands_with_its_interval(done):
    best = results_of(done)["best"]
    assert (best["size"], best["epochs"], best["seed"]) == ("xl", 1, runs.HEADLINE_SEED)
    low, high = best["test_bits_per_char_interval"]
    assert low < best["test_bits_per_char"] < high
    rows = read_tables(done / "part4_outputs")["differences.csv"]
    models = {row["model"] for row in rows if row["less"] == "best_model"}
    assert models == {row["name"] for row in run_records(done)}


def test_the_best_model_is_a_size_and_epochs_from_a_table(made):
    data = load_data(made)

    def planned(*flags):
        args = stage07.parse_arguments(["--root", str(made), *flags])
        return stage07.plan_best(args, made, data)

    quick, full = planned("--quick"), planned("--best", "xl:10")
    assert (quick["size"], quick["epochs"]) == ("small", 5) and quick["max_minutes"] is None
    assert (full["size"], full["epochs"]) == ("xl", 10) and full["keep_best"]
    asked = planned("--best", "small:3:4")
    assert (asked["size"], asked["epochs"], asked["batch_windows"]) == ("small", 3, 4)
    with pytest.raises(ValueError, match="no model of this size was trained"):
        planned("--best", "huge:1")


def test_test_loss_is_that_of_the_one_evaluation_function(done):
    model, _ = load_checkpoint(done / "checkpoints/best_model.pt")
    data = load_data(done)
    measured = evaluate(model, data.test, data.token_chars, "cpu")
    best = results_of(done)["best"]
    assert best["test_perplexity"] == pytest.approx(measured["perplexity"], rel=1e-5)
    assert best["test_bits_per_char"] == pytest.approx(math.log2(best["test_perplexity"]), rel=1e-6)


def test_samples_stand_as_drawn_with_their_metadata(done):
    folder = done / "part4_outputs/generated"
    rows = json.loads((folder / "metadata.json").read_text())["samples"]
    assert len(rows) == 10 == len(list(folder.glob("sample_*.abc")))
    for row in rows:
        text = (folder / row["file"]).read_text()
        assert (
            text == row["text"]
            and text.startswith(row["prompt"])
            and len(row["surprisal_bits"]) == row["new_chars"]
        )
        assert row["validity"]["level"] == check_abc(text, len(row["prompt"])).level
        assert (row["repaired"] is None) == (not (folder / f"repaired/{row['file']}").exists())
        assert (
            row["stop_reason"] in ("end", "budget", "stuck")
            and row["novelty"]["longest_copied_chars"] >= 0
        )
        assert row["midi"] is None or (folder / row["midi"]).read_bytes()[:4] == b"MThd"
    assert {row["type"] for row in rows} == {"unconditional", "header", "bars"}


def test_rates_count_every_sample_and_only_what_was_generated(done):
    samples = measurements.read(done, "drawn/unprompted")
    assert results_of(done)["samples"]["unprompted"]["n"] == len(samples) == 10
    assert all(sample["prompt"] == "" and sample["temperature"] == 1 for sample in samples)
    seeds = [sample["seed"] for sample in samples]
    assert seeds == list(range(seeds[0], seeds[0] + 10))
    header = JIG[: JIG.index("G4B2")]
    header_only = [{"text": header, "prompt": header, "stop_reason": "end"}]
    assert rate_samples(header_only, judge=False)["rate"] == 0


def test_history_and_figures(done):
    history = json.loads((done / "part4_outputs/checkpoints/training_history.json").read_text())
    assert history["epochs"][-1]["val_perplexity"] > 1 and history["best_val_nats_per_char"] > 0
    for name in ("sampler", "skills"):
        assert (done / f"part4_outputs/figures/{name}.svg").read_text().startswith("<?xml")
        assert (done / f"part4_outputs/figures/{name}.png").stat().st_size > 5000
    assert (done / "part4_outputs/report.html").stat().st_size < 3_000_000


def test_run_again_does_nothing(done, capsys):
    run07(done)
    assert "up to date" in capsys.readouterr().out


def evaluation_files(root):
    folder = root / measurements.FOLDER
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in folder.rglob("*.json")
    }


@pytest.fixture
def copy(done, tmp_path):
    """A copy of the finished root that looks unfinished."""
    shutil.copytree(done, tmp_path / "root")
    manifest_path(tmp_path / "root", "07_train_best_and_generate").unlink()
    return tmp_path / "root"


def test_an_interrupted_run_goes_on_after_the_last_measurement(done, copy):
    (copy / "part4_outputs/RESULTS.json").unlink()
    (copy / "part4_outputs/evaluation/drawn/header.json").unlink()
    before = evaluation_files(copy)
    run07(copy)
    after = evaluation_files(copy)
    assert {name for name in after if after[name] != before.get(name)} == {"drawn/header.json"}
    first, second = results_of(done), results_of(copy)
    assert first["samples"] == second["samples"] and first["headline"] == second["headline"]


def test_samples_that_say_something_else_are_measured_again_and_nothing_else_is(copy):
    path = copy / "part4_outputs/evaluation/drawn/chosen.json"
    entry = json.loads(path.read_text())
    entry["value"][0]["text"] += "|"
    path.write_text(json.dumps(entry))
    before = evaluation_files(copy)
    run07(copy)
    after = evaluation_files(copy)
    assert {name for name in after if after[name] != before[name]} == {
        f"{measure}/chosen.json" for measure in ("rates", "music", "copying")
    }


def test_results_follow_the_runs_that_the_manifests_list(copy):
    """A size that is new in a script's table, and one that is no longer there."""
    folder = copy / "checkpoints"
    record = json.loads((folder / "transformer_tiny.json").read_text())
    (folder / "transformer_mini.json").write_text(
        json.dumps({**record, "name": "transformer_mini", "size": "mini"})
    )
    shutil.copy(folder / "transformer_tiny.pt", folder / "transformer_mini.pt")
    for stage, family, sizes in (
        ("04_train_transformers", "transformer", ("mini", "tiny", "xl")),
        ("05_train_lstms", "lstm", ("tiny", "small", "medium")),
    ):
        finish(
            copy,
            stage,
            [f"checkpoints/{family}_{size}{end}" for size in sizes for end in (".pt", ".json")],
        )
    run07(copy)
    names = {"transformer_mini", "transformer_tiny", "transformer_xl"}
    names |= {"lstm_tiny", "lstm_small", "lstm_medium"}
    assert (
        results_of(copy)["runs"]["n"] == 6 and {row["name"] for row in run_records(copy)} == names
    )
    assert names < {row["name"] for row in read_tables(copy / "part4_outputs")["skills.csv"]}
    assert not (copy / "part4_outputs/evaluation/skills/lstm_large.json").exists()
    with pytest.raises(SystemExit, match="mini, tiny, xl"):
        run07(copy, "--best", "medium:1")


def test_a_forced_run_that_fails_keeps_the_old_measurements(copy, monkeypatch):
    before = evaluation_files(copy)

    def failing(*_, **__):
        raise RuntimeError("no more memory")

    monkeypatch.setattr(evaluation, "generate", failing)
    with pytest.raises(RuntimeError):
        run07(copy, "--force")
    assert evaluation_files(copy).keys() == before.keys()


def test_playing_leaves_the_results_alone(done, capsys):
    before = (done / "part4_outputs/RESULTS.json").read_bytes()
    run07(done, "--prompt", "X:1\\nM:6/8\\nL:1/16\\n", "--num-samples", "2", "--max-chars", "30")
    folder = done / "part4_outputs/generated"
    assert (folder / "play_000.abc").read_text().startswith("X:1\nM:6/8\nL:1/16\n")
    assert json.loads((folder / "play_001.json").read_text())["new_chars"] <= 30
    run07(done, "--num-samples", "1", "--max-chars", "10", "--temperature", "0")
    assert (folder / "play_002.abc").exists() and (
        done / "part4_outputs/RESULTS.json"
    ).read_bytes() == before
    capsys.readouterr()
    run07(done)
    assert "up to date" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--prompt", "§§"], "characters that the training text lacks"),
        (["--num-samples", "0"], "--num-samples"),
        (["--best", "nosuch:2"], "tiny, small"),
        (["--best", "tiny:0"], "below 1"),
        (["--temperature", "inf"], "not finite"),
        (["--seed", "99999999999999999999", "--num-samples", "1"], "above"),
        (["--best", "tiny"], "not SIZE:EPOCHS"),
        (["--best", "tiny:2:1:1"], "not SIZE:EPOCHS"),
        (["--meter", "6/8", "--prompt", "X:1"], "does not go"),
        (["--model", "nosuch"], "transformer_tiny"),
        (["--meter", "six"], "meter"),
        (["--key", "H"], "key"),
        (
            # set in normal form: three quarters make it M:3/4, and the text has no 3
            ["--prompt", "X:1\nM:2/4\nL:1/4\nK:G\nGGG|"],
            "characters that the training text lacks: '3'",
        ),
    ],
)
def test_bad_flags_end_in_one_message(done, flags, words):
    with pytest.raises(SystemExit) as stop:
        run07(done, *flags)
    assert words in str(stop.value) and "->" in str(stop.value)


def test_any_model_plays_from_its_checkpoint_and_the_vocabulary_alone(made, tmp_path, capsys):
    for name in ("checkpoints/transformer_tiny.pt", "data/tokenizer.pkl"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(made / name, tmp_path / name)
    run07(
        tmp_path,
        "--model",
        "transformer_tiny",
        "--num-samples",
        "3",
        "--max-chars",
        "20",
        "--meter",
        "6/8",
        "--key",
        "G",
    )
    folder, printed = tmp_path / "part4_outputs/generated", capsys.readouterr().out
    assert "no right bar leads on; --bars free" in printed
    run07(tmp_path, "--model", "transformer_tiny", "--max-chars", "20", "--bars", "free")
    free = json.loads((folder / "play_003.json").read_text())
    assert (free["bars"], free["new_chars"]) == ("free", 20) or free["stop_reason"] == "end"
    assert json.loads((folder / "play_000.json").read_text())["bars"] == "right"
    assert (folder / "play_002.abc").read_text().startswith("X:1\nM:6/8\nL:1/16\nQ:1/4=120\nK:G\n")
    written = {path.name for path in folder.iterdir()}
    announced = {word.strip(":,;.") for word in printed.split() if word.startswith("play_")}
    assert announced <= written and "played.html" in printed and "played.html" in written
    assert all(
        f"level {level} of 5 (" in printed
        for level in {
            json.loads((folder / f"play_00{i}.json").read_text())["validity"]["level"]
            for i in range(3)
        }
    )


def test_a_model_of_another_vocabulary_is_refused(done, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(done, root)
    (root / "data/tokenizer.pkl").write_bytes(CharTokenizer("abc").dumps())
    with pytest.raises(SystemExit, match="another vocabulary"):
        run07(root, "--num-samples", "1")


def test_nothing_is_sampled_without_a_model(tmp_path):
    with pytest.raises(SystemExit) as stop:
        run07(tmp_path, "--prompt", "X:1")
    assert "->" in str(stop.value)
    assert not list(tmp_path.iterdir())


def test_the_headline_is_that_of_the_results(done):
    printed = dict(headline.rows(results_of(done)))
    assert len(printed) == 10
    assert "0.30 (95 %: 0.10 to unbounded)" in printed["exponent α of model size"]
    assert printed["strongest baseline"] == "2.200; ngram"
