"""What a trained model's music is worth: held-out tunes and prompts, sets of samples, and what is
measured of them.

Drawing stands apart from measuring. Every set of samples is drawn once and kept under a key of what
decides the draw
(requests, weights, vocabulary, the code of `draw` and of the model's class); every measurement is kept under a key of
the texts that it measures, its settings and its own code (`study/evaluate/measurements.py`). So an
edited metric measures the samples that are there, a retrained model of equal weights draws nothing,
and a sample drawn anew that says the same is not measured again.

Sets below evaluation/drawn/: unprompted (temperature 1), chosen (the sampler of the sweep), right
(temperature 1, wrong bars drawn again), header and bars (prompted with held-out tunes), sweep, ten
(those to look at), and one for each model of the suite. Measurements: test, tunes, sweep, floors,
and rates/, music/, copying/, diversity/, skills/, control/ with a file for each set, and repeats/
with one for each model.
"""

import csv
import functools
import math
import random
from pathlib import Path
from typing import Any, NamedTuple

from study.stages.stage import file_digest, value_digest

import numpy as np

from common import UNKNOWN
from music.excerpts import first_bars, header_of
from music.floors import floors
from music.metrics import as_tune, compare_sets, repetition, skills
from music.novelty import Novelty, diversity
from music.right_bars import RightBars, first_draws
from music.samples import as_sample, mean_of_known
from music.tunebook import split_tunebook
from music.validity import rate_samples, share, standard_error
from study.evaluate import measurements, new_bars
from study.evaluate.induction import repeats
from study.evaluate.measurements import Digested
from study.evaluate.sampling import MODEL_ITSELF, Request, generate, truncation, unprompted
from study.train import loop as training
from study.train.checkpoints import load_checkpoint

# of every voice: enough to say key, meter and texture, and too little to say the tune
PROMPT_BARS = 4
# sets of tunes drawn for an interval: its ends move by 2 % of its width from seed to seed
BOOTSTRAP = 2000
SUITE_RESAMPLES = 20  # for the distances of a model of the suite, of which only the mean is given


class Player(NamedTuple):
    """A trained model with what it needs to play; the digest of weights, configuration and
    vocabulary stands for it in keys. The device does not count: its last bits differ, as those of
    two CPUs do."""

    model: Any
    tokenizer: Any
    device: Any
    digest: str

    @property
    def classes(self):
        """What the code of a draw depends on without naming it."""
        return type(self.model), type(self.tokenizer)


class Evaluation(NamedTuple):
    """What every draw and measurement of a run of stage 07 needs."""

    root: Path
    player: Player  # the best model
    budget: dict  # numbers of samples (n_*) and characters (*_chars): BUDGETS of the script
    seed: int
    first_seeds: dict  # first seed of every set, counted from `seed`: SEEDS of the script
    val_tunes: list  # [{"origin", "text"}]: the sampler is chosen on these
    test_tunes: list  # real music to compare with, and prompts
    train: Digested  # the training text: where a sample may have been copied from
    val_tokens: Digested
    test_tokens: Digested
    again: bool  # --force: make what is kept anew
    used: set  # names of what this run kept

    def kept(self, name, function, *arguments, code=()):
        """A draw or measurement of this run; see `measurements.kept`."""
        self.used.add(name)
        return measurements.kept(self.root, name, function, *arguments, code=code, again=self.again)

    def drawn(self, name, player, requests, surprisal=False):
        """The samples of a set, drawn or as they were kept."""
        rows = [request._asdict() for request in requests]
        function = draw_right if any(request.bars == "right" for request in requests) else draw
        return self.kept(f"drawn/{name}", function, player, rows, surprisal, code=player.classes)


def load_player(root, name, tokenizer, device="cpu"):
    """The model of a checkpoint; ValueError if it is damaged or was made with another
    vocabulary."""
    model, checkpoint = load_checkpoint(root / f"checkpoints/{name}.pt", device)
    if checkpoint["tokenizer_digest"] != tokenizer.digest:
        raise ValueError(
            f"checkpoints/{name}.pt was trained with another vocabulary than data/tokenizer.pkl"
        )
    digest = value_digest([checkpoint["weights_digest"], checkpoint["config"], tokenizer.digest])
    return Player(model, tokenizer, device, digest)


def set_up(root, player, data, budget, seed, first_seeds, again):
    """The Evaluation of a root whose stages before 07 are done."""
    val_tunes, test_tunes = (
        held_out(root, split, budget["n_real"], seed) for split in ("val", "test")
    )
    train = Digested(_text(root / "data/train.txt"), file_digest(root / "data/train.txt"))
    return Evaluation(
        root,
        player,
        budget,
        seed,
        first_seeds,
        val_tunes,
        test_tunes,
        train,
        *(Digested(tokens, training.digest_tokens(tokens)) for tokens in (data.val, data.test)),
        again,
        set(),
    )


# ---------------------------------------------------------------- held-out tunes and prompts


def held_out(root, split, n, seed):
    """Up to n tunes of a split in a seeded random order: [{"origin", "text"}], one piece per
    tune."""
    tunes = split_tunebook(_text(root / f"data/{split}.txt"))
    rows = sequence_rows(root, split)
    if len(rows) != len(tunes):  # text that is not ABC has no tunes to prompt with
        return []
    firsts = [i for i, row in enumerate(rows) if int(row["piece"]) == 1]
    random.Random(seed).shuffle(firsts)
    return [{"origin": rows[i]["origin"], "text": tunes[i]} for i in firsts[:n]]


def sequence_rows(root, split):
    """What stage 03 says of every sequence of a split: rows of its table as dicts of text."""
    return list(
        csv.DictReader(
            _text(root / f"data/{split}_sequences.tsv").splitlines(),
            delimiter="\t",
            quoting=csv.QUOTE_NONE,
        )
    )


def _text(path):
    return path.read_text(encoding="utf-8") if path.exists() else ""


def prompts_from(tunes, kind, tokenizer):
    """[(prompt, origin)] of one kind, "header" or "bars", from held-out tunes that have it and
    whose prompt can be written in the vocabulary."""
    return [
        (prompt, origin)
        for prompt, origin in _beginnings(tunes, kind)
        if UNKNOWN not in tokenizer.encode(prompt)
    ]


def prompts_left_out(tunes, tokenizer):
    """{kind: how many prompts have a character that the training text, and so the vocabulary,
    lacks}."""
    return {
        kind: len(_beginnings(tunes, kind)) - len(prompts_from(tunes, kind, tokenizer))
        for kind in ("header", "bars")
    }


def _beginnings(tunes, kind):
    prompts = [
        (
            header_of(tune["text"]) if kind == "header" else first_bars(tune["text"], PROMPT_BARS),
            tune["origin"],
        )
        for tune in tunes
    ]
    return [(prompt, origin) for prompt, origin in prompts if prompt]


# ---------------------------------------------------------------- drawing


def draw(player, requests, surprisal, right_bars=None):
    """Samples of these requests (a list of dicts), with or without the surprisal of every
    character; with its mean over the drawn ones in any case (None if none was drawn)."""
    samples = generate(
        player.model,
        player.tokenizer,
        [Request(**request) for request in requests],
        player.device,
        right_bars=right_bars,
    )
    for sample in samples:
        sample["bits_per_char"] = mean_of_known(sample["surprisal_bits"][len(sample["prompt"]) :])
    left_out = () if surprisal else ("surprisal_bits", "end_bits")
    return [
        {key: value for key, value in sample.items() if key not in left_out} for sample in samples
    ]


def draw_right(player, requests, surprisal):
    """The same for requests with right bars. A function of its own, so that an edit of their judge,
    or of the reader behind it, leaves free samples as they are."""
    return draw(player, requests, surprisal, RightBars)


def draw_prompted(evaluation, kind):
    """Samples that go on from held-out tunes; none if no tune has such a beginning."""
    prompts = prompts_from(evaluation.test_tunes, kind, evaluation.player.tokenizer)
    budget = evaluation.budget
    first = evaluation.seed + evaluation.first_seeds[kind]
    return evaluation.drawn(
        kind,
        evaluation.player,
        [
            Request(prompts[i % len(prompts)][0], first + i, max_chars=budget["prompted_chars"])
            for i in range(budget["n_prompted"] if prompts else 0)
        ],
    )


def judged(samples):
    """What a measurement may see of samples: the text, what of it was given, and whether the budget
    cut it off. Their seeds and seconds are not measured, and must not decide its key."""
    return [{key: sample[key] for key in ("text", "prompt", "stop_reason")} for sample in samples]


def real_samples(tunes, max_chars=None):
    """Held-out tunes in the form of samples, to be judged by the same functions; under the same
    limit of length, if one is given, as the samples that they stand beside."""
    return [
        {
            "text": tune["text"][:max_chars],
            "prompt": "",
            "stop_reason": (
                "end" if max_chars is None or len(tune["text"]) <= max_chars else "budget"
            ),
        }
        for tune in tunes
    ]


# ---------------------------------------------------------------- measuring
# Each is a function of texts and settings alone, so that its code and its arguments are all that
# decides it.


def test_loss(player, tokens):
    """Loss on the test split by the one evaluation function, here as in training."""
    return training.evaluate(
        player.model, tokens.content, player.tokenizer.token_chars, player.device, by_sequence=True
    )


def losses_by_tune(nats, chars, tune_of, seed):
    """Losses of models on one split with their intervals, and the differences between any two.

    nats: {model: nats of each sequence}; chars: characters of each; tune_of: its tune. What is
    drawn at random are tunes, so they are drawn again (bootstrap), with all their sequences. Two
    models find the same tunes hard: their paired difference is known far better than either loss.
    Returns {"n_tunes", "losses": {model: {"nats_per_char", "se", "interval"}}, "differences":
    [{"model", "less", "nats_per_char" (model - less), "se", "interval"}]}.
    """
    tunes = {tune: i for i, tune in enumerate(dict.fromkeys(tune_of))}
    which = [tunes[tune] for tune in tune_of]
    drawn = np.random.default_rng(seed).multinomial(
        len(tunes), [1 / len(tunes)] * len(tunes), BOOTSTRAP
    )
    total_chars = drawn @ np.bincount(which, chars)
    resampled = {
        name: drawn @ np.bincount(which, values) / total_chars for name, values in nats.items()
    }
    measured = {name: sum(values) / sum(chars) for name, values in nats.items()}
    names = list(nats)
    return {
        "n_tunes": len(tunes),
        "losses": {name: _with_interval(measured[name], resampled[name]) for name in names},
        "differences": [
            {
                "model": a,
                "less": b,
                **_with_interval(measured[a] - measured[b], resampled[a] - resampled[b]),
            }
            for i, b in enumerate(names)
            for a in names[i + 1 :]
        ],
    }


def _with_interval(value, resampled):
    return {
        "nats_per_char": value,
        "se": float(resampled.std()),
        "interval": np.quantile(resampled, (0.025, 0.975)).tolist(),
    }


def rate(samples):
    """Rates of validity, first try, none left out; None without samples."""
    return rate_samples(samples) if samples else None


def control(samples):
    """How likely the next bar is to be right after nothing but right ones, from free samples
    (`first_draws`): the share of such bars with its interval, and "log2" of it, the luck in bits
    that a right bar takes, which tells models apart whose tunes are never valid. None where no bar
    was right, or none judged."""
    counts = [first_draws(sample.text, not sample.truncated) for sample in map(as_sample, samples)]
    right, judged_bars = np.sum(counts, axis=0) if counts else (0, 0)
    row = share(right, judged_bars)
    return {
        **row,
        "log2": math.log2(row["rate"]) if right else None,
        "log2_interval": [math.log2(end) for end in row["interval"]] if right else None,
    }


def cost_of_draws(draws):
    """Mean log2 of the probability that a bar is right, with its standard error over texts, from
    how often each bar of
    each text was drawn until it was right: {"log2", "se"}.

    For n draws -(1 + 1/2 + ... + 1/(n - 1)) is an unbiased estimate of the logarithm (inverse
    binomial sampling: van Opheusden, Acerbi and Ma 2020); a bar given up counts as if its last draw
    had been right: a little too high.
    """
    sums = np.array(
        [(sum(1 / k for n in text for k in range(1, n)), len(text)) for text in draws if text],
        float,
    )
    if not len(sums):
        return {"log2": None, "se": None}
    error = standard_error(*sums.T)
    return {
        "log2": -sums[:, 0].sum() / sums[:, 1].sum() / math.log(2),
        "se": error and error / math.log(2),
    }


def copying(samples, train):
    """What the samples share with the training text, as a set."""
    return {
        key: value
        for key, value in _novelty(train.content).measure(samples).items()
        if key != "samples"
    }


def copying_of_each(samples, train):
    """What each sample shares with the training text."""
    return _novelty(train.content).measure(samples)["samples"]


@functools.lru_cache(maxsize=1)
def _novelty(train_text):
    return Novelty(train_text)


def floor_rates(train, n, seed, max_chars):
    """Rates of what any judge has to refuse, and what it copies: {kind: rates with
    "copied_share"}."""
    return {
        name: {**rate_samples(samples), "copied_share": copying(samples, train)["copied_share"]}
        for name, samples in floors(split_tunebook(train.content), n, seed, max_chars).items()
    }


def floor_skills(train, n, seed, max_chars):
    """{n-gram: its skills and what it copies}, under the limit of length of the suite's samples."""
    return {
        name: {
            **skills(samples),
            "control": control(samples),
            "copied_share": copying(samples, train)["copied_share"],
        }
        for name, samples in floors(split_tunebook(train.content), n, seed, max_chars).items()
        if name.endswith("gram")
    }


# ---------------------------------------------------------------- the sweep of the sampler


def sweep_table(samples, real, settings, limits, train):
    """Figures of every sampler from the same prompts, and the one to choose.

    samples: as many for each of `settings`, in their order; real: validation tunes under the same
    limit of length. Returns {"rows", "real" (the same figures of the tunes), "n" (samples a row),
    "chosen", "rule"}.
    """
    n = len(samples) // len(settings)
    rows = [
        {
            **setting,
            "truncation": truncation(setting),
            **sweep_row(samples[k * n : (k + 1) * n], train),
        }
        for k, setting in enumerate(settings)
    ]
    of_real = sweep_row(real, train)
    return {
        "rows": rows,
        "real": of_real,
        "n": n,
        "chosen": choose_sampler(smoothed(rows), of_real, limits),
        "rule": (
            "largest mean of validity and bar accuracy among the settings whose rest bars are at"
            f" most {limits['rest_bar_share']} and whose repeated bars are at most"
            f" {limits['bar_repetition']} above those of validation tunes, each figure taken from a"
            " straight line through all settings; of equals the one nearest to the model itself"
        ),
    }


def smoothed(rows):
    """The rows with their shares on a straight line (least squares) over their place: the settings
    are steps of one path, and a share of one step alone is uncertain by more than what the next
    step changes."""
    fitted = [dict(row) for row in rows]
    for key in ("rate", "bar_accuracy", "rest_bar_share", "bar_repetition"):
        known = [(i, row[key]) for i, row in enumerate(rows) if row[key] is not None]
        if len(known) > 2:
            slope, start = np.polyfit(*zip(*known), 1)
            for i, _ in known:
                fitted[i][key] = min(max(start + slope * i, 0.0), 1.0)
    return fitted


def sweep_row(samples, train):
    """The figures by which samplers are compared. A text stopped by its budget is judged without
    its unfinished bar: these texts are short, and that bar says nothing about the sampler."""
    rates = rate_samples(samples, judge=False)
    repeated = [repetition(as_tune(sample))["bar_repetition"] for sample in samples]
    valid = rates["without_unfinished_bar"]
    return {
        "n": rates["n"],
        "rate": valid["rate"],
        "interval": valid["interval"],
        "rate_se": (
            (valid["rate"] * (1 - valid["rate"]) / valid["n"]) ** 0.5 if valid["n"] else None
        ),
        "bar_accuracy": rates["bar_accuracy"],
        "bar_accuracy_se": rates["bar_accuracy_se"],
        "rest_bar_share": rates["rest_bar_share"],
        "bar_repetition": mean_of_known(repeated),
        "copied_share": _novelty(train.content).measure(samples)["copied_share"],
    }


def choose_sampler(rows, real, limits):
    """The setting of the best row (see the rule in `sweep_table`); the model itself if every row
    drifts away.

    limits: {figure: how far above that of real music it may lie}. A sampler that drifts into rests
    or into one bar repeated is no better sampler, however valid its bars.
    """

    def drifts(row):
        return any(
            (row[figure] or 0) > (real[figure] or 0) + limit for figure, limit in limits.items()
        )

    def merit(row):
        is_whole = all(row[key] == MODEL_ITSELF[key] for key in ("top_k", "top_p", "min_p"))
        return (
            (row["rate"] or 0) + (row["bar_accuracy"] or 0),
            -abs(row["temperature"] - 1),
            is_whole,
        )

    best = max((row for row in rows if not drifts(row)), key=merit, default=MODEL_ITSELF)
    return {key: best[key] for key in MODEL_ITSELF}


def sweep(evaluation, settings, limits):
    """Draws every setting from the headers of validation tunes in one batch and chooses; see
    `sweep_table`."""
    budget, first = evaluation.budget, evaluation.seed + evaluation.first_seeds["sweep"]
    prompts = prompts_from(evaluation.val_tunes, "header", evaluation.player.tokenizer) or [
        ("", None)
    ]
    n = budget["n_sweep"]
    samples = evaluation.drawn(
        "sweep",
        evaluation.player,
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
    return evaluation.kept(
        "sweep", sweep_table, judged(samples), real, settings, limits, evaluation.train
    )


# ---------------------------------------------------------------- everything


def evaluate_best(evaluation, settings, limits):
    """Every measurement of the best model; returns the chosen sampler.

    settings: the samplers of the sweep; limits: see `choose_sampler`."""
    budget, seed, train, kept = (
        evaluation.budget,
        evaluation.seed,
        evaluation.train,
        evaluation.kept,
    )
    kept(
        "test", test_loss, evaluation.player, evaluation.test_tokens, code=evaluation.player.classes
    )
    kept(
        "repeats/best_model",
        repeats,
        evaluation.player,
        evaluation.val_tokens,
        code=evaluation.player.classes,
    )
    chosen = sweep(evaluation, settings, limits)["chosen"]
    ways = {"unprompted": MODEL_ITSELF, "chosen": chosen}
    # else the text is no ABC, and a model of it would look for right bars for hours
    if evaluation.test_tunes:
        ways["right"] = {**MODEL_ITSELF, "bars": "right"}
    drawn = {
        name: evaluation.drawn(
            name,
            evaluation.player,
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
        kept("control/right", cost_of_draws, [sample["draws"][1:] for sample in drawn["right"]])
    prompted = {kind: judged(draw_prompted(evaluation, kind)) for kind in ("header", "bars")}
    real = real_samples(evaluation.test_tunes)
    for name, samples in {**texts, **prompted, "real": real}.items():
        kept(f"rates/{name}", rate, samples)
    kept("floors", floor_rates, train, budget["n_rated"], seed, budget["rated_chars"])
    for name, samples in texts.items():
        kept(f"music/{name}", compare_sets, samples, real, seed)
    for name, samples in {**texts, "real": real}.items():
        kept(f"copying/{name}", copying, samples, train)
    for name, samples in (("unprompted", texts["unprompted"]), ("real", real)):
        kept(f"diversity/{name}", diversity, samples)
    return chosen


def evaluate_suite(evaluation, names):
    """Skills, control, music and copying of the suite's models, from a small set of unprompted
    samples of each, beside real tunes under the same limit of length ("real_cut"); and what each
    saves on repeated bars."""
    budget, seed, train, kept = (
        evaluation.budget,
        evaluation.seed,
        evaluation.train,
        evaluation.kept,
    )
    real = real_samples(evaluation.test_tunes, budget["skills_chars"])
    kept("skills/real_cut", skills, real)
    kept("control/real_cut", control, real)
    kept("copying/real_cut", copying, real, train)
    kept("skills/floors", floor_skills, train, budget["n_skills"], seed, budget["skills_chars"])
    requests = unprompted(
        budget["n_skills"], seed + evaluation.first_seeds["skills"], budget["skills_chars"]
    )
    for name in names:
        player = load_player(
            evaluation.root, name, evaluation.player.tokenizer, evaluation.player.device
        )
        samples = judged(evaluation.drawn(name, player, requests))
        kept(f"skills/{name}", skills, samples)
        kept(f"control/{name}", control, samples)
        kept(f"repeats/{name}", repeats, player, evaluation.val_tokens, code=player.classes)
        kept(f"music/{name}", compare_sets, samples, real, seed, SUITE_RESAMPLES)
        kept(f"copying/{name}", copying, samples, train)


def evaluate_ladder(evaluation):
    """What each model of the ladder gains from having heard a bar, and the law of the bars that
    were not heard before."""
    for name in (row["name"] for row in new_bars.ladder_rows(evaluation.root)):
        player = load_player(
            evaluation.root, name, evaluation.player.tokenizer, evaluation.player.device
        )
        evaluation.kept(
            f"repeats/{name}", repeats, player, evaluation.val_tokens, code=player.classes
        )
    evaluation.kept("new_bars", new_bars.laws, new_bars.rows_of(evaluation.root))


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
    evaluation.kept(
        "tunes",
        losses_by_tune,
        {name: values for name, values in nats.items() if len(values) == n},
        of_best["chars_by_sequence"],
        tune_of,
        evaluation.seed,
    )
