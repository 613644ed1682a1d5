"""Evaluates a trained model: held-out loss, sets of samples, validity, copying, music.

Drawing is apart from measuring. Every set of samples is drawn once and cached under a key of what
decides the draw: requests, weights, vocabulary, the code of `draw` and of the model's class. Every
measurement is cached under a key of the texts that it measures, its settings and its own code
(`study/evaluate/measurements.py`). So an edited metric measures the samples that are there, a
retrained model of equal weights draws nothing, and a new sample of the same text is not measured
again.

Sets below evaluation/drawn/: unprompted (temperature 1), chosen (the sampler of the sweep), right
(temperature 1, wrong bars drawn again), header and bars (prompted with held-out tunes), sweep, ten
(those to look at), and one for each model of the suite. Measurements: test, tunes, sweep, floors,
and rates/, music/, copying/, skills/, control/ with a file for each set; repeats/
(in-context copying) with one for each model, and heads/ (knock-outs) for Transformers.
"""

from pathlib import Path
from typing import NamedTuple

from study.stages.files import file_digest
from study.stages.manifest import BEST

from music.metrics import compare_sets, skills
from music.right_bars import RightBars
from music.samples import mean_of_known
from study.evaluate import ladder_copying, measurements
from study.evaluate.heads import has_heads, heads
from study.evaluate.induction import repeats
from study.evaluate.measurements import Digested
from study.evaluate.models import LoadedModel, load_model
from study.evaluate.prompts import held_out, prompts_from, sequence_rows, text_of
from study.evaluate.rating import (
    control,
    copying,
    cost_of_draws,
    floor_rates,
    floor_skills,
    judged,
    losses_by_tune,
    rate,
    real_samples,
)
from study.evaluate.sampler_sweep import sweep_table
from study.evaluate.sampling import MODEL_ITSELF, Request, generate, unprompted
from study.train.data import digest_tokens
from study.train.loss import evaluate


class Evaluation(NamedTuple):
    """What every draw and measurement of a run of stage 07 needs."""

    root: Path
    loaded: LoadedModel  # the best model
    budget: dict  # numbers of samples (n_*) and characters (*_chars): BUDGETS of the script
    seed: int
    first_seeds: dict  # first seed of every set, counted from `seed`: SEEDS of the script
    val_tunes: list  # [{"origin", "text"}]: the sampler is chosen on these
    test_tunes: list  # real music to compare with, and prompts
    train: Digested  # the training text: where a sample may have been copied from
    val_tokens: Digested
    test_tokens: Digested
    force: bool  # make everything anew
    used: set  # names of what this run measured

    def cached(self, name, function, *arguments, code=()):
        """A draw or measurement of this run; see `measurements.cached`."""
        self.used.add(name)
        return measurements.cached(
            self.root, name, function, *arguments, code=code, force=self.force
        )

    def knock_out(self, name, loaded):
        """What each attention head is worth to a model; see `heads.heads`."""
        self.cached(f"heads/{name}", heads, loaded, self.val_tokens, code=loaded.classes)

    def drawn(self, name, loaded, requests, surprisal=False):
        """The samples of a set, drawn or from the file."""
        rows = [request._asdict() for request in requests]
        function = draw_right if any(request.bars == "right" for request in requests) else draw
        return self.cached(f"drawn/{name}", function, loaded, rows, surprisal, code=loaded.classes)


def set_up(root, loaded, data, budget, seed, first_seeds, force):
    """The Evaluation of a root whose stages before 07 are done."""
    val_tunes, test_tunes = (
        held_out(root, split, budget["n_real"], seed) for split in ("val", "test")
    )
    train = Digested(text_of(root / "data/train.txt"), file_digest(root / "data/train.txt"))
    return Evaluation(
        root,
        loaded,
        budget,
        seed,
        first_seeds,
        val_tunes,
        test_tunes,
        train,
        *(Digested(tokens, digest_tokens(tokens)) for tokens in (data.val, data.test)),
        force,
        set(),
    )


# ---------------------------------------------------------------- drawing


def draw(loaded, requests, surprisal, right_bars=None):
    """Samples of these requests (a list of dicts), with or without the surprisal of every
    character; with its mean over the drawn ones in any case (None if none was drawn)."""
    samples = generate(
        loaded.model,
        loaded.tokenizer,
        [Request(**request) for request in requests],
        loaded.device,
        right_bars=right_bars,
    )
    for sample in samples:
        sample["bits_per_char"] = mean_of_known(sample["surprisal_bits"][len(sample["prompt"]) :])
    left_out = () if surprisal else ("surprisal_bits", "end_bits")
    return [
        {key: value for key, value in sample.items() if key not in left_out} for sample in samples
    ]


def draw_right(loaded, requests, surprisal):
    """The same for requests with right bars. A function of its own, so that an edit of their judge,
    or of the reader behind it, leaves free samples as they are."""
    return draw(loaded, requests, surprisal, RightBars)


def draw_prompted(evaluation, kind):
    """Samples that go on from held-out tunes; none if no tune has such a beginning."""
    prompts = prompts_from(evaluation.test_tunes, kind, evaluation.loaded.tokenizer)
    budget = evaluation.budget
    first = evaluation.seed + evaluation.first_seeds[kind]
    return evaluation.drawn(
        kind,
        evaluation.loaded,
        [
            Request(prompts[i % len(prompts)][0], first + i, max_chars=budget["prompted_chars"])
            for i in range(budget["n_prompted"] if prompts else 0)
        ],
    )


def sweep(evaluation, settings, limits):
    """Draws every setting from the headers of validation tunes in one batch and chooses; see
    `sweep_table`."""
    budget, first = evaluation.budget, evaluation.seed + evaluation.first_seeds["sweep"]
    prompts = prompts_from(evaluation.val_tunes, "header", evaluation.loaded.tokenizer) or [
        ("", None)
    ]
    n = budget["n_sweep"]
    samples = evaluation.drawn(
        "sweep",
        evaluation.loaded,
        [
            Request(
                prompt=prompts[i % len(prompts)][0],
                seed=first + i,
                max_chars=budget["sweep_chars"],
                **setting,
            )
            for setting in settings
            for i in range(n)
        ],
    )
    real = real_samples(evaluation.val_tunes, budget["sweep_chars"])
    return evaluation.cached(
        "sweep", sweep_table, judged(samples), real, settings, limits, evaluation.train
    )


# ---------------------------------------------------------------- measuring


def test_loss(loaded, tokens):
    """Loss on the test split by the one evaluation function, here as in training."""
    return evaluate(
        loaded.model, tokens.content, loaded.tokenizer.token_chars, loaded.device, by_sequence=True
    )


def evaluate_best(evaluation, settings, limits):
    """Every measurement of the best model; returns the chosen sampler.

    settings: the samplers of the sweep; limits: see `choose_sampler`."""
    budget, seed, train, cached = (
        evaluation.budget,
        evaluation.seed,
        evaluation.train,
        evaluation.cached,
    )
    cached(
        "test", test_loss, evaluation.loaded, evaluation.test_tokens, code=evaluation.loaded.classes
    )
    cached(
        "repeats/best_model",
        repeats,
        evaluation.loaded,
        evaluation.val_tokens,
        code=evaluation.loaded.classes,
    )
    evaluation.knock_out(BEST, evaluation.loaded)
    chosen = sweep(evaluation, settings, limits)["chosen"]
    ways = {"unprompted": MODEL_ITSELF, "chosen": chosen}
    # else the text is no ABC, and a model of it would look for right bars for hours
    if evaluation.test_tunes:
        ways["right"] = {**MODEL_ITSELF, "bars": "right"}
    drawn = {
        name: evaluation.drawn(
            name,
            evaluation.loaded,
            unprompted(
                budget["n_rated"],
                seed + evaluation.first_seeds[name],
                budget["rated_chars"],
                **sampler,
            ),
        )
        for name, sampler in ways.items()
    }
    texts = {name: judged(samples) for name, samples in drawn.items()}
    if "right" in drawn:
        # but the header
        cached("control/right", cost_of_draws, [sample["draws"][1:] for sample in drawn["right"]])
    prompted = {kind: judged(draw_prompted(evaluation, kind)) for kind in ("header", "bars")}
    real = real_samples(evaluation.test_tunes)
    for name, samples in {**texts, **prompted, "real": real}.items():
        cached(f"rates/{name}", rate, samples)
    cached("floors", floor_rates, train, budget["n_rated"], seed, budget["rated_chars"])
    for name, samples in texts.items():
        cached(f"music/{name}", compare_sets, samples, real, seed)
    for name, samples in {**texts, "real": real}.items():
        cached(f"copying/{name}", copying, samples, train)
    return chosen


def evaluate_suite(evaluation, names):
    """Skills, control and copying of the suite's models, from a small set of unprompted
    samples of each, beside real tunes under the same limit of length ("real_cut"); and what each
    saves on repeated bars."""
    budget, seed, train, cached = (
        evaluation.budget,
        evaluation.seed,
        evaluation.train,
        evaluation.cached,
    )
    real = real_samples(evaluation.test_tunes, budget["skills_chars"])
    cached("skills/real_cut", skills, real)
    cached("control/real_cut", control, real)
    cached("copying/real_cut", copying, real, train)
    cached("skills/floors", floor_skills, train, budget["n_skills"], seed, budget["skills_chars"])
    requests = unprompted(
        budget["n_skills"], seed + evaluation.first_seeds["skills"], budget["skills_chars"]
    )
    for name in names:
        loaded = load_model(
            evaluation.root, name, evaluation.loaded.tokenizer, evaluation.loaded.device
        )
        samples = judged(evaluation.drawn(name, loaded, requests))
        cached(f"skills/{name}", skills, samples)
        cached(f"control/{name}", control, samples)
        cached(f"repeats/{name}", repeats, loaded, evaluation.val_tokens, code=loaded.classes)
        evaluation.knock_out(name, loaded)
        cached(f"copying/{name}", copying, samples, train)


def evaluate_ladder(evaluation):
    """What each model of the ladder saves on repeated bars, the heads of the largest ones, and the
    law with that term in it."""
    rows = ladder_copying.ladder_rows(evaluation.root)
    most = max((row["n_chars_seen"] for row in rows), default=0)
    first_seed = min((row["seed"] for row in rows), default=0)
    for row in rows:
        name = row["name"]
        loaded = load_model(
            evaluation.root, name, evaluation.loaded.tokenizer, evaluation.loaded.device
        )
        evaluation.cached(
            f"repeats/{name}", repeats, loaded, evaluation.val_tokens, code=loaded.classes
        )
        if (row["n_chars_seen"], row["seed"]) == (most, first_seed) and has_heads(loaded.model):
            evaluation.knock_out(name, loaded)
    text = Path(evaluation.root, "data/val.txt").read_text(encoding="utf-8")
    rows = ladder_copying.rows_of(evaluation.root)
    evaluation.cached("answer", ladder_copying.answer_of, rows, text)


def compare_losses(evaluation, best, records):
    """Losses on the test split with intervals, the best model's (its name: `best`) and those of the
    suite's records, and their paired differences; see `losses_by_tune`. A record without sums by
    sequence is left out."""
    of_best = measurements.read(evaluation.root, "test")
    nats = {best: of_best["nats_by_sequence"]} | {
        record["name"]: record["test_nats_by_sequence"]
        for record in records
        if record.get("test_nats_by_sequence")
    }
    rows, n = sequence_rows(evaluation.root, "test"), len(of_best["chars_by_sequence"])
    tune_of = [row["origin"] for row in rows] if len(rows) == n else [str(i) for i in range(n)]
    evaluation.cached(
        "tunes",
        losses_by_tune,
        {name: values for name, values in nats.items() if len(values) == n},
        of_best["chars_by_sequence"],
        tune_of,
        evaluation.seed,
    )
