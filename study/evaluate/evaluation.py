"""Evaluates a trained model: held-out loss, sets of samples, validity, copying, music.

Drawing is apart from measuring: each draw and each measurement is cached under a key of what
decides it (`study/evaluate/measurements.py`). So an edited metric measures the samples that are
there, and a new sample of the same text is not measured again.

Sets below evaluation/drawn/: unprompted (temperature 1), chosen (the sampler of the sweep), right
(temperature 1, wrong bars drawn again), header and bars (prompted with held-out tunes), sweep, ten
(those to look at), and one for each model of the suite. Measurements: test, tunes, sweep,
baselines, answer; rates/, music/, copying/, skills/, control/ with a file for each set; repeats/
(in-context copying) and heads/ (knock-outs) with one for each model.
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
    judged,
    losses_by_tune,
    rate,
    rate_baselines,
    real_samples,
    skills_of_ngrams,
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
    seeds: dict  # first seed of every set
    val_tunes: list  # [{"origin", "text"}]: the sampler is chosen on these
    test_tunes: list  # real music to compare with, and prompts
    train: Digested  # the training text: where a sample may have been copied from
    val_tokens: Digested
    test_tokens: Digested
    force: bool  # make everything anew
    used: set  # names of what this run measured

    def cached(self, name, function, *arguments, code=()):
        """Makes a draw or measurement of this run; see `measurements.cached`."""
        self.used.add(name)
        return measurements.cached(
            self.root, name, function, *arguments, code=code, force=self.force
        )

    def load(self, name):
        """Loads another model of the run."""
        return load_model(self.root, name, self.loaded.tokenizer, self.loaded.device)

    def repeats_of(self, name, loaded):
        """Measures what bars cost a model; see `induction.repeats`."""
        self.cached(f"repeats/{name}", repeats, loaded, self.val_tokens, code=loaded.classes)

    def knock_out(self, name, loaded):
        """Measures what each attention head does for a model; see `heads.heads`."""
        self.cached(f"heads/{name}", heads, loaded, self.val_tokens, code=loaded.classes)

    def drawn(self, name, loaded, requests, surprisal=False):
        """Draws the samples of a set, or takes them from the file."""
        rows = [request._asdict() for request in requests]
        function = draw_right if any(request.bars == "right" for request in requests) else draw
        return self.cached(f"drawn/{name}", function, loaded, rows, surprisal, code=loaded.classes)


def set_up(root, loaded, data, budget, seed, first_seeds, force):
    """Returns the Evaluation of a root whose stages before 07 are done. first_seeds: of every set,
    counted from `seed`."""
    path = root / "data/train.txt"
    return Evaluation(
        root,
        loaded,
        budget,
        seed,
        {name: seed + first for name, first in first_seeds.items()},
        held_out(root, "val", budget["n_real"], seed),
        held_out(root, "test", budget["n_real"], seed),
        Digested(text_of(path), file_digest(path)),
        Digested(data.val, digest_tokens(data.val)),
        Digested(data.test, digest_tokens(data.test)),
        force,
        set(),
    )


# ---------------------------------------------------------------- drawing


def draw(loaded, requests, surprisal, right_bars=None):
    """Draws samples of these requests (a list of dicts), with or without the surprisal of every
    character drawn, and with its mean."""
    requests = [Request(**request) for request in requests]
    samples = generate(
        loaded.model, loaded.tokenizer, requests, loaded.device, right_bars=right_bars
    )
    for sample in samples:
        sample["bits_per_char"] = mean_of_known(sample["surprisal_bits"])
        if not surprisal:
            del sample["surprisal_bits"]
    return samples


def draw_right(loaded, requests, surprisal):
    """Draws right bars. A function of its own, so that an edit of their judge leaves free samples
    as they are."""
    return draw(loaded, requests, surprisal, RightBars)


def draw_prompted(evaluation, kind):
    """Draws samples that go on from held-out tunes; none if no tune has such a beginning."""
    prompts = prompts_from(evaluation.test_tunes, kind, evaluation.loaded.tokenizer)
    budget, first = evaluation.budget, evaluation.seeds[kind]
    requests = [
        Request(prompts[i % len(prompts)][0], first + i, max_chars=budget["prompted_chars"])
        for i in range(budget["n_prompted"] if prompts else 0)
    ]
    return evaluation.drawn(kind, evaluation.loaded, requests)


def sweep(evaluation, settings, limits):
    """Draws every setting from the headers of validation tunes in one batch and chooses; see
    `sweep_table`."""
    budget, loaded, first = evaluation.budget, evaluation.loaded, evaluation.seeds["sweep"]
    prompts = prompts_from(evaluation.val_tunes, "header", loaded.tokenizer) or [("", None)]
    requests = [
        Request(prompts[i % len(prompts)][0], first + i, max_chars=budget["sweep_chars"], **setting)
        for setting in settings
        for i in range(budget["n_sweep"])
    ]
    samples = judged(evaluation.drawn("sweep", loaded, requests))
    real = real_samples(evaluation.val_tunes, budget["sweep_chars"])
    return evaluation.cached(
        "sweep", sweep_table, samples, real, settings, limits, evaluation.train
    )


# ---------------------------------------------------------------- measuring


def test_loss(loaded, tokens):
    """Measures the loss on the test split by the one evaluation function, here as in training."""
    return evaluate(
        loaded.model, tokens.content, loaded.tokenizer.token_chars, loaded.device, by_sequence=True
    )


def evaluate_best(evaluation, settings, limits):
    """Makes every measurement of the best model; returns the chosen sampler.

    settings: the samplers of the sweep; limits: see `choose_sampler`."""
    budget, seed, train = evaluation.budget, evaluation.seed, evaluation.train
    cached, loaded = evaluation.cached, evaluation.loaded
    cached("test", test_loss, loaded, evaluation.test_tokens, code=loaded.classes)
    evaluation.repeats_of(BEST, loaded)
    evaluation.knock_out(BEST, loaded)
    chosen = sweep(evaluation, settings, limits)["chosen"]
    ways = {"unprompted": MODEL_ITSELF, "chosen": chosen}
    # else the text is no ABC, and a model of it would look for right bars for hours
    if evaluation.test_tunes:
        ways["right"] = {**MODEL_ITSELF, "bars": "right"}
    texts = {}
    for name, sampler in ways.items():
        first, max_chars = evaluation.seeds[name], budget["rated_chars"]
        requests = unprompted(budget["n_rated"], first, max_chars, **sampler)
        samples = evaluation.drawn(name, loaded, requests)
        texts[name] = judged(samples)
        if name == "right":
            draws = [sample["draws"][1:] for sample in samples]  # but the header
            cached("control/right", cost_of_draws, draws)
    prompted = {kind: judged(draw_prompted(evaluation, kind)) for kind in ("header", "bars")}
    real = real_samples(evaluation.test_tunes)
    for name, samples in {**texts, **prompted, "real": real}.items():
        cached(f"rates/{name}", rate, samples)
    cached("baselines", rate_baselines, train, budget["n_rated"], seed, budget["rated_chars"])
    for name, samples in texts.items():
        cached(f"music/{name}", compare_sets, samples, real, seed)
    for name, samples in {**texts, "real": real}.items():
        cached(f"copying/{name}", copying, samples, train)
    return chosen


def evaluate_suite(evaluation, names):
    """Measures skills, control and copying of the suite's models in a small set of unprompted
    samples of each, beside real tunes of the same length ("real_cut"); and what each saves on
    repeated bars."""
    n, max_chars = evaluation.budget["n_skills"], evaluation.budget["skills_chars"]
    train, cached = evaluation.train, evaluation.cached
    cached("skills/baselines", skills_of_ngrams, train, n, evaluation.seed, max_chars)
    sets = {"real_cut": real_samples(evaluation.test_tunes, max_chars)}
    requests = unprompted(n, evaluation.seeds["skills"], max_chars)
    for name in names:
        loaded = evaluation.load(name)
        sets[name] = judged(evaluation.drawn(name, loaded, requests))
        evaluation.repeats_of(name, loaded)
        evaluation.knock_out(name, loaded)
    for name, samples in sets.items():
        cached(f"skills/{name}", skills, samples)
        cached(f"control/{name}", control, samples)
        cached(f"copying/{name}", copying, samples, train)


def evaluate_ladder(evaluation):
    """Measures what each model of the ladder saves on repeated bars, the heads of the largest ones,
    and the law with that term in it."""
    rows = ladder_copying.ladder_rows(evaluation.root)
    most = max((row["n_chars_seen"] for row in rows), default=0)
    first_seed = min((row["seed"] for row in rows), default=0)
    for row in rows:
        loaded = evaluation.load(row["name"])
        evaluation.repeats_of(row["name"], loaded)
        if (row["n_chars_seen"], row["seed"]) == (most, first_seed) and has_heads(loaded.model):
            evaluation.knock_out(row["name"], loaded)
    text = text_of(evaluation.root / "data/val.txt")
    rows = ladder_copying.rows_of(evaluation.root)
    evaluation.cached("answer", ladder_copying.answer_of, rows, text)


def compare_losses(evaluation, records):
    """Compares losses on the test split, the best model's and those of the suite's records; see
    `losses_by_tune`. A record without sums by sequence is left out."""
    of_best = measurements.read(evaluation.root, "test")
    n = len(of_best["chars_by_sequence"])
    nats = {BEST: of_best["nats_by_sequence"]}
    for record in records:
        values = record.get("test_nats_by_sequence") or []
        if len(values) == n:
            nats[record["name"]] = values
    rows = sequence_rows(evaluation.root, "test")
    tune_of = [row["origin"] for row in rows] if len(rows) == n else [str(i) for i in range(n)]
    evaluation.cached(
        "tunes", losses_by_tune, nats, of_best["chars_by_sequence"], tune_of, evaluation.seed
    )
