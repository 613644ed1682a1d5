"""Evaluates a trained model: held-out loss, sets of samples, validity, copying, music.

Sets below evaluation/drawn/: unprompted (temperature 1), chosen (the sampler of the sweep), right
(wrong bars drawn again), header and bars (prompted with held-out tunes), sweep, ten (to look at),
and one for each model of the suite. Beside drawn/ lie test, tunes, sweep, baselines, answer;
rates/, music/, copying/, skills/, control/ of sets; repeats/ and heads/ of models.
"""

from study.stages.files import file_digest
from study.stages.manifest import BEST

from music.metrics import compare_sets, skills
from music.right_bars import RightBars
from music.samples import mean_of_known
from study.evaluate import ladder_copying, measurements
from study.evaluate.heads import has_heads, heads
from study.evaluate.induction import repeats
from study.evaluate.measurements import Digested
from study.evaluate.models import load_model
from study.evaluate.prompts import held_out, prompts_from, sequence_rows
from study.evaluate.rating import (
    control,
    copying,
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


class Evaluation:
    """What every draw and measurement of a run of stage 07 needs.

    loaded: the best model; budget: BUDGETS of the script; first_seeds: of every set, counted from
    `seed`; force: make everything anew. used: names of what this run measured.
    """

    def __init__(self, root, loaded, data, budget, seed, first_seeds, force):
        self.root, self.loaded, self.budget, self.seed = root, loaded, budget, seed
        self.seeds = {name: seed + first for name, first in first_seeds.items()}
        self.force, self.used = force, set()
        self.val_tunes = held_out(root, "val", budget["n_real"], seed)
        self.test_tunes = held_out(root, "test", budget["n_real"], seed)
        path = root / "data/train.txt"
        self.train = Digested(path.read_text(encoding="utf-8"), file_digest(path))
        self.val_tokens = Digested(data.val, digest_tokens(data.val))
        self.test_tokens = Digested(data.test, digest_tokens(data.test))

    def cached(self, name, function, *arguments):
        """Makes a draw or measurement; see `measurements.cached`."""
        self.used.add(name)
        return measurements.cached(self.root, name, function, *arguments, force=self.force)

    def load(self, name):
        return load_model(self.root, name, self.loaded.tokenizer, self.loaded.device)

    def measure_copying(self, name, loaded, with_heads=True):
        """Measures what bars cost a model and, with_heads, without each head."""
        self.cached(f"repeats/{name}", repeats, loaded, self.val_tokens)
        if with_heads:
            self.cached(f"heads/{name}", heads, loaded, self.val_tokens)

    def drawn(self, name, loaded, requests, surprisal=False):
        """Draws the samples of a set, or takes them from the file."""
        rows = [request._asdict() for request in requests]
        function = draw_right if any(request.bars == "right" for request in requests) else draw
        return self.cached(f"drawn/{name}", function, loaded, rows, surprisal)


# ---------------------------------------------------------------- drawing


def draw(loaded, requests, surprisal, right_bars=None):
    """Draws requests (dicts), with their mean surprisal, or that of each character besides."""
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
    """Draws right bars; apart, so that an edit of their judge leaves free samples alone."""
    return draw(loaded, requests, surprisal, RightBars)


def requests_from(prompts, n, first_seed, max_chars, **sampler):
    """Returns n requests that take turns with prompts of `prompts_from`."""
    return [
        Request(prompts[i % len(prompts)][0], first_seed + i, max_chars=max_chars, **sampler)
        for i in range(n)
    ]


def draw_prompted(evaluation, kind):
    """Draws samples that go on from held-out tunes."""
    prompts = prompts_from(evaluation.test_tunes, kind, evaluation.loaded.tokenizer)
    budget, first = evaluation.budget, evaluation.seeds[kind]
    n = budget["n_prompted"] if prompts else 0
    requests = requests_from(prompts, n, first, budget["prompted_chars"])
    return evaluation.drawn(kind, evaluation.loaded, requests)


def sweep(evaluation, settings, limits):
    """Draws every setting from headers of validation tunes and chooses; see `sweep_table`."""
    budget, loaded, first = evaluation.budget, evaluation.loaded, evaluation.seeds["sweep"]
    n, max_chars = budget["n_sweep"], budget["sweep_chars"]
    prompts = prompts_from(evaluation.val_tunes, "header", loaded.tokenizer) or [("", None)]
    requests = [
        request
        for setting in settings
        for request in requests_from(prompts, n, first, max_chars, **setting)
    ]
    samples = judged(evaluation.drawn("sweep", loaded, requests))
    real = real_samples(evaluation.val_tunes, max_chars)
    return evaluation.cached(
        "sweep", sweep_table, samples, real, settings, limits, evaluation.train
    )


# ---------------------------------------------------------------- measuring


def test_loss(loaded, tokens):
    return evaluate(loaded.model, tokens.content, loaded.tokenizer.token_chars, loaded.device)


def evaluate_best(evaluation, settings, limits):
    """Measures the best model. settings, limits: of the sweep."""
    budget, train, seed = evaluation.budget, evaluation.train, evaluation.seed
    cached, loaded = evaluation.cached, evaluation.loaded
    cached("test", test_loss, loaded, evaluation.test_tokens)
    evaluation.measure_copying(BEST, loaded)
    samplers = {"unprompted": MODEL_ITSELF, "chosen": sweep(evaluation, settings, limits)["chosen"]}
    # without tunes the text is no ABC, and a model of it would look for right bars for hours
    if evaluation.test_tunes:
        samplers["right"] = {**MODEL_ITSELF, "bars": "right"}
    free = {}
    for name, sampler in samplers.items():
        first, max_chars = evaluation.seeds[name], budget["rated_chars"]
        requests = unprompted(budget["n_rated"], first, max_chars, **sampler)
        free[name] = judged(evaluation.drawn(name, loaded, requests))
    prompted = {kind: judged(draw_prompted(evaluation, kind)) for kind in ("header", "bars")}
    real = real_samples(evaluation.test_tunes)
    for name, samples in {**free, **prompted, "real": real}.items():
        cached(f"rates/{name}", rate, samples)
    cached("baselines", rate_baselines, train, budget["n_rated"], seed, budget["rated_chars"])
    for name, samples in free.items():
        cached(f"music/{name}", compare_sets, samples, real, seed)
    for name, samples in {**free, "real": real}.items():
        cached(f"copying/{name}", copying, samples, train)


def evaluate_suite(evaluation, names):
    """Measures the suite's models, beside real tunes of the same length ("real_cut")."""
    n, max_chars = evaluation.budget["n_skills"], evaluation.budget["skills_chars"]
    train, cached = evaluation.train, evaluation.cached
    cached("skills/baselines", skills_of_ngrams, train, n, evaluation.seed, max_chars)
    sets = {"real_cut": real_samples(evaluation.test_tunes, max_chars)}
    requests = unprompted(n, evaluation.seeds["skills"], max_chars)
    for name in names:
        loaded = evaluation.load(name)
        sets[name] = judged(evaluation.drawn(name, loaded, requests))
        evaluation.measure_copying(name, loaded)
    for name, samples in sets.items():
        cached(f"skills/{name}", skills, samples)
        cached(f"control/{name}", control, samples)
        cached(f"copying/{name}", copying, samples, train)


def evaluate_ladder(evaluation):
    """Measures in-context copying of the ladder, and the law with its term."""
    rows = ladder_copying.ladder_rows(evaluation.root)
    most = max((row["n_chars_seen"] for row in rows), default=0)
    first_seed = min((row["seed"] for row in rows), default=0)
    for row in rows:
        loaded = evaluation.load(row["name"])
        # heads where there was most text
        with_heads = (row["n_chars_seen"], row["seed"]) == (most, first_seed)
        evaluation.measure_copying(row["name"], loaded, with_heads and has_heads(loaded.model))
    text = (evaluation.root / "data/val.txt").read_text(encoding="utf-8")
    rows = ladder_copying.rows_of(evaluation.root)
    evaluation.cached("answer", ladder_copying.answer_of, rows, text)


def compare_losses(evaluation, records):
    """Compares losses on the test split, the best model's and the suite's; see `losses_by_tune`."""
    of_best = measurements.read(evaluation.root, "test")
    chars = of_best["chars_by_sequence"]
    nats = {BEST: of_best["nats_by_sequence"]}
    nats |= {record["name"]: record["test_nats_by_sequence"] for record in records}
    tune_of = [row["origin"] for row in sequence_rows(evaluation.root, "test")]
    if len(tune_of) != len(chars):
        tune_of = [str(i) for i in range(len(chars))]
    evaluation.cached("tunes", losses_by_tune, nats, chars, tune_of, evaluation.seed)
