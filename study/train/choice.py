"""Which model to train in so many minutes: size, epochs and batch, by the speed of this machine and
a law of the loss.

    choice = choose(root, data, device, minutes=5)     # {"chosen", "rivals", "law", "minutes",
        "rule"}
    planned = plan(data, choice, seed=2)               # the run, see `study/train/runs.py`

The suite has trained every size for one epoch, so what size does to the loss is known from this
root's own records.
What more text, more epochs and more steps take off that loss is said by a law measured once:

    loss = loss of the record + K (D / D0)^-b + C / steps, both terms as a change from those of the
    record

D: characters that count, where an epoch more counts less than the one before it (Muennighoff et al.
2023, equation 5). It says what four longer runs reached within 0.04 nats; which of two plans is
better by less than that is not known. A choice is made by the clock, so it is kept in
checkpoints/best_choice.json and used again: the same command gives the same model, and `--best
SIZE:EPOCHS:WINDOWS` gives it on any machine.
"""

import math

from study.stages.code_key import code_digest
from study.stages.stage import CHOICE as FILE
from study.stages.stage import read_json, value_digest, write_json

from study.train import runs
from study.train.loop import (
    BLOCK_SIZE,
    CURVE_WINDOWS,
    TRAIN_SAMPLE_WINDOWS,
    count_chars,
    evaluation_steps,
    n_windows,
    subset,
)
from study.train.suite import calibrate

# of the best model, as in the study; what others would reach stands among the rivals
FAMILY = "transformer"
EPOCHS = tuple(range(1, 9))
WINDOWS = (2, 4, 8)  # of 512 tokens, a step
MARGIN = 0.9  # of the minutes: so much of them a plan may be expected to take
CALIBRATION_SECONDS = 0.3  # a size and batch, at least three steps
PASS_COST = 1 / 3  # of a token evaluated, in tokens trained: no backward pass

# Fitted to validation losses on the public-domain corpus, of three states of it and of the recipe.
# Token shift by one: XL, one epoch of 294,000 characters: 1.090, two: 0.970; small, one: 1.122,
# six: 0.907. By four distances and with weight decay: small, one epoch of 299,000 characters:
# 1.171; 5 epochs of 8 windows on 1.35 million: 0.744. The law gives 0.960, 0.906 and 0.744.
# (Without decay small reached 0.767.) Small LSTM, without decay, 1.053 after one epoch, 4 epochs of
# 8 windows on 1.35 million: 0.895.
# K, nats: what is lost at D0 characters for want of text
DATA_TERM = {"transformer": 1.0, "lstm": 0.32}
DATA_CHARS = 294_000  # D0
DATA_EXPONENT = 0.2  # b
# R*: epochs after which another one adds little. 15 in Muennighoff et al. 2023, whose models
EPOCH_WORTH = 2.0
#                              are larger and whose epochs fewer
# of text, that these runs had: beyond, an expected loss is an extrapolation
MEASURED_CHARS = 294_000, 1_350_000
# C, nats x steps: benchmarks/training.md has 144 steps 0.05 above 288, 72 above 144 0.08
STEP_TERM = 12.0


# ---------------------------------------------------------------- the law


def effective_chars(chars, epochs):
    """Characters of new text that are worth as much as `epochs` passes over `chars` characters.

    >>> round(effective_chars(1000, 1)), round(effective_chars(1000, 4)), round(effective_chars(1000, 0.5))
    (1000, 2554, 500)
    """
    if epochs <= 1:
        return chars * epochs
    return chars * (1 + EPOCH_WORTH * (1 - math.exp(-(epochs - 1) / EPOCH_WORTH)))


def law_of(family, fits):
    """{"scale", "exponent", "source"}: the loss for want of text is scale * D^-exponent. From the
    joint law of stage 06 where it found one that is a sum, else from the table above; a family
    without a row there gets the Transformer's."""
    joint = (fits.get("joint") or {}).get(family) or {}
    if (
        joint.get("identified")
        and joint["form"] == "sum"
        and joint["B"]["value"]
        and joint["beta"]["value"]
    ):
        return {
            "scale": joint["B"]["value"],
            "exponent": joint["beta"]["value"],
            "source": "joint law of stage 06",
        }
    loss = DATA_TERM.get(family, DATA_TERM["transformer"])
    return {
        "scale": loss * DATA_CHARS**DATA_EXPONENT,
        "exponent": DATA_EXPONENT,
        "source": "table in study/train/choice.py",
    }


def expected_loss(record, law, chars, epochs, steps):
    """Validation loss, nats per character, of a run that differs from a record's in text, epochs
    and steps."""

    def wanting(chars, epochs, steps):
        return law["scale"] * effective_chars(chars, epochs) ** -law["exponent"] + STEP_TERM / steps

    return (
        record["val_nats_per_char"]
        + wanting(chars, epochs, steps)
        - wanting(record["train_chars"], record["epochs"], record["steps"])
    )


# ---------------------------------------------------------------- candidates


def candidates(record, seconds_of_step, text, minutes, law, epochs=EPOCHS, windows=WINDOWS):
    """What could be trained of a record's size: [{"family", "size", "epochs", "windows", "minutes"
    (expected), "val_nats_per_char" (expected), "fits", "by_clock"}].

    seconds_of_step: {windows: seconds}; text: {"chars", "tokens", "val_tokens", "test_tokens"}. A
    plan of which not even one epoch fits into the minutes stands there bounded by them (by_clock):
    its epoch ends early.
    """
    limit, rows = MARGIN * minutes, []
    for n, seconds in seconds_of_step.items():
        if n not in windows:
            continue
        steps_per_epoch = -(-n_windows(text["tokens"]) // n)
        for n_epochs in epochs:
            points = len(evaluation_steps({"epochs": n_epochs, "steps_per_epoch": steps_per_epoch}))
            # with long context every token is read twice
            evaluated = (
                text["val_tokens"]
                + 3 * text["test_tokens"]
                + (points * CURVE_WINDOWS + TRAIN_SAMPLE_WINDOWS) * BLOCK_SIZE
            )
            expected = (
                (text["tokens"] * n_epochs + PASS_COST * evaluated)
                * seconds
                / (n * BLOCK_SIZE)
                / 60
            )
            by_clock = n_epochs == min(epochs) and expected > limit
            share = limit / expected if by_clock else 1
            rows.append(
                {
                    "family": record["family"],
                    "size": record["size"],
                    "epochs": n_epochs,
                    "windows": n,
                    "minutes": expected * share,
                    "val_nats_per_char": expected_loss(
                        record,
                        law,
                        text["chars"],
                        n_epochs * share,
                        max(1, steps_per_epoch * n_epochs * share),
                    ),
                    "fits": expected <= limit,
                    "by_clock": by_clock,
                }
            )
    return rows


def best_of(rows):
    """The plan of lowest expected loss among those that fit; where none fits, among those that end
    by the clock; the shortest of all where there is none of these either."""
    fitting = [row for row in rows if row["fits"]] or [row for row in rows if row["by_clock"]]
    if not fitting:
        return min(rows, key=lambda row: row["minutes"])
    return min(fitting, key=lambda row: (row["val_nats_per_char"], row["minutes"]))


def measured_seconds(record, data, device, windows):
    """{windows: seconds of a step} of a size on this machine: measured at the smallest and the
    largest batch; between them the time of a step rises evenly."""
    ends = sorted({min(windows), max(windows)})
    times = {}
    for n in ends:
        run = {**record, "batch_windows": n, "tokens_per_step": n * BLOCK_SIZE}
        times[n] = run["tokens_per_step"] / calibrate(run, data, device, CALIBRATION_SECONDS)
    low, high = ends[0], ends[-1]
    return {
        n: times[low] + (times[high] - times[low]) * (n - low) / max(1, high - low)
        for n in sorted(windows)
    }


# ---------------------------------------------------------------- the choice


def choose(
    root,
    data,
    device,
    records,
    fits,
    minutes,
    max_train_chars=None,
    sizes=None,
    best=None,
    again=False,
):
    """The plan to carry out, its rivals, and what each is expected to take and to reach; kept, see
    above.

    records: the suite's own, one a family and size; sizes: of the best model's family, to choose
    from (default: all);
    minutes: None for no limit; best: {"size", "epochs", "windows" (None: by the amount of text)} to
    take without a choice; again: do not use what is kept. Returns {"chosen", "rivals" (the best
    plan of every size of every family), "law", "minutes", "rule"}; without a limit there are no
    "minutes". ValueError if there is no record to start from.
    """
    own = [
        record
        for record in records
        if record["family"] == FAMILY and record["size"] in (sizes or [record["size"]])
    ]
    if not own:
        have = ", ".join(record["size"] for record in records if record["family"] == FAMILY)
        raise ValueError(
            f"there is no record of {FAMILY} {' or '.join(sizes or ['of any size'])}; trained are: "
            f"{have or 'none'}"
        )
    tokens = subset(data.train, data.token_chars, max_chars=max_train_chars)
    text = {
        "chars": count_chars(tokens, data.token_chars),
        "tokens": len(tokens),
        "val_tokens": len(data.val),
        "test_tokens": len(data.test),
    }
    key = value_digest(
        [
            minutes,
            best,
            text,
            data.tokenizer_digest,
            [record["config"] for record in own],
            code_digest((candidates, best_of, law_of)),
        ]
    )
    kept = kept_choice(root)
    if not again and kept.get("key") == key:
        return kept
    epochs, windows = EPOCHS, WINDOWS
    if best:
        epochs = (best["epochs"],)
        windows = (
            best["windows"]
            or runs.windows_per_step(
                len(tokens) * best["epochs"], runs.mean_chars(tokens, data.token_chars)
            ),
        )
    laws = {record["family"]: law_of(record["family"], fits) for record in records}
    every = {
        record["name"]: candidates(
            record,
            measured_seconds(record, data, device, windows),
            text,
            minutes or math.inf,
            laws[record["family"]],
            epochs,
            windows,
        )
        for record in (own if best else records)
    }
    chosen = best_of([row for record in own for row in every[record["name"]]])
    choice = {
        "key": key,
        **({"minutes": minutes} if minutes else {}),
        "text": text,
        "chosen": chosen,
        "rivals": [best_of(rows) for rows in every.values()],
        "law": {
            **laws[FAMILY],
            "extrapolates": not MEASURED_CHARS[0] <= text["chars"] <= MEASURED_CHARS[1],
        },
        "rule": (
            "as asked with --best"
            if best
            else (
                f"lowest expected validation loss among the plans that should take {MARGIN:.0%} of"
                " the minutes at most"
            )
        ),
    }
    write_json(root / FILE, choice)
    return choice


def kept_choice(root):
    """The choice that stands in a root; {} if there is none."""
    kept = read_json(root / FILE)
    return kept if isinstance(kept, dict) else {}


def plan(data, choice, record, name, seed, max_train_chars=None, max_minutes=None):
    """The run of a choice. record: of the size's one-epoch model, whose rate and recipe it
    takes."""
    chosen = choice["chosen"]
    limits = [limit for limit in (chosen["by_clock"] and choice["minutes"], max_minutes) if limit]
    return runs.plan_run(
        data,
        FAMILY,
        chosen["size"],
        runs.shape_of(record["config"]),
        record["learning_rate"],
        seed=seed,
        recipe=record["recipe"],
        optimizer=record["optimizer"],
        keep_best=True,
        name=name,
        epochs=chosen["epochs"],
        batch_windows=chosen["windows"],
        max_train_chars=max_train_chars,
        max_minutes=min(limits, default=None),
    )


def in_words(choice):
    """Lines for people: what is about to be trained, and its rivals."""

    def line(row):
        return (
            f"{row['family']} {row['size']}, {row['epochs']} epoch{'s' * (row['epochs'] != 1)},"
            f" {row['windows']} windows a step: {row['minutes']:.1f} minutes,"
            f" {row['val_nats_per_char']:.3f} nats per character expected"
        )

    rivals = sorted(
        (row for row in choice["rivals"] if row != choice["chosen"]),
        key=lambda row: row["val_nats_per_char"],
    )
    doubt = (
        "; the law was not measured on so much text or so little"
        if choice["law"]["extrapolates"]
        else ""
    )
    return [
        f"best model: {line(choice['chosen'])}{doubt}",
        *(f"  instead of {line(row)}" for row in rivals[:2]),
    ]
