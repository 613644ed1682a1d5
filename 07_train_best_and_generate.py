"""Trains the best model, draws music from it, measures that music and writes the results.

Reads:  data/ (stage 03), the checkpoints and records of the training stages,
        part4_outputs/fits.json (stage 06)
Writes: checkpoints/best_model.{pt,json,curve.jsonl}
        part4_outputs/checkpoints/best_model.pt, training_history.json (nats per character by epoch
            and step)
        part4_outputs/generated/sample_000..009.abc (as drawn), .mid, .musicxml, .svg, .png,
            _roll.svg, _roll.png, metadata.json; repaired/sample_*.abc where a sample was cut to be
            readable
        part4_outputs/evaluation/ (samples and measurements)
        part4_outputs/figures/{sampler,skills,cost_of_control,repeated_bars,heads}.{png,svg},
            RESULTS.json, report.html, compose.html, music.csv, differences.csv,
            loss_by_position.csv, repeats.csv, skills.csv
Run:    python 07_train_best_and_generate.py [--quick] [--best xl:10]
        python 07_train_best_and_generate.py --model transformer_tiny --num-samples 3 --key D
        python 07_train_best_and_generate.py --continue song.mid [--bars-given 8] [--bars-new 16]
The second form plays with a finished model, from its checkpoint and data/tokenizer.pkl, and writes
generated/play_NNN.* and played.html. The third continues the last bars of a MIDI file, a score or
ABC and writes generated/continued_NNN.abc, .mid and .musicxml, with a mark where the new bars
begin. Prints the headline block of RESULTS.json last.
"""

import argparse
import os
from pathlib import Path

# first of all: from here on Ctrl-C shows no traceback, however long the rest takes to load
from study.stages.arguments import (
    mended_by,
    name_list,
    number,
    resolve_root,
    root_flags,
    stage_parser,
    whole,
)
from study.stages.files import read_json, write_bytes, write_json, write_text
from study.stages.manifest import BEST
from study.stages.process import run
from study.stages.stage import Stage

from common import load_tokenizer, pick_device
from music.validity import level_in_words
from study.evaluate import evaluation, figures, ladder_copying, measurements, models, play
from study.evaluate import samples as generated
from study.evaluate.sampling import MODEL_ITSELF, describe_sampler
from study.fit.records import read_curves
from study.prepare.fetch import in_words
from study.report import compose, headline
from study.report.content import results
from study.report.page import write_played_page, write_report
from study.report.tables import TABLES, describe_skills, suite_records, tables, training_history
from study.train import runs
from study.train.calibrate import expected_minutes
from study.train.checkpoints import finished
from study.train.data import load_data
from study.train.loop import Stopped

# SIZE:EPOCHS[:WINDOWS of 512 tokens a step, by default as suits the text] of the best model, which
# reads all the training text
BEST_MODEL = {"full": "xl:10", "quick": "small:5"}
BEST_FAMILY = "transformer"
BUDGETS = {  # n_*: samples; *_chars: characters drawn at most; in full, and with --quick
    "n_rated": (200, 100),
    "rated_chars": (5000, 1500),
    "n_prompted": (100, 20),
    "prompted_chars": (2000, 500),
    "n_sweep": (100, 21),
    "sweep_chars": (1000, 500),
    "n_skills": (100, 60),
    "skills_chars": (1000, 300),
    "n_real": (200, 100),
    "sample_chars": (3000, 1000),
}
# equal steps, to fit a line through; at equal validity a lower temperature repeats more than min-p
# (benchmarks/sampling.md)
SWEEP = [{**MODEL_ITSELF, "min_p": step / 40} for step in range(6)]
# shares of bars: how far a sampler may lie above the validation tunes
SWEEP_LIMITS = {"rest_bar_share": 0.10, "bar_repetition": 0.03}
# the samples to look at: prompt, the sampler's temperature (None: the chosen sampler), bars
TEN = [
    ("unconditional", None, "free"),
    ("unconditional", 1.0, "free"),
    ("header", 0.9, "free"),
    ("bars", 1.0, "free"),
    ("unconditional", 1.0, "right"),
    ("header", None, "right"),
    ("header", 1.0, "right"),
    ("bars", None, "right"),
    ("bars", 0.8, "right"),
    ("bars", 0.7, "right"),
]
SEEDS = {  # first seed of every set, so that no two sets share a random stream
    "unprompted": 10_000,
    "chosen": 20_000,
    "right": 25_000,
    "header": 30_000,
    "bars": 40_000,
    "sweep": 50_000,
    "skills": 60_000,
    "ten": 70_000,
}
PLAY_CHARS = 2000
PLAY_FLAGS = "model source prompt meter key num_samples temperature bars max_chars".split()
ME = "07_train_best_and_generate.py"


def parse_arguments(argv):
    parser = stage_parser(__doc__, training=True)
    add = parser.add_argument
    add(
        "--best",
        type=best_model,
        metavar="SIZE:EPOCHS[:WINDOWS]",
        help=f"train this, e.g. small:4 or small:4:8 with 8 windows a step (default: {BEST_MODEL})",
    )
    add_play_flags(parser.add_argument_group("play with a finished model (measures nothing)"))
    args = parser.parse_args(argv)
    args.best = args.best or best_model(BEST_MODEL["quick" if args.quick else "full"])
    header = args.meter or args.key
    if args.prompt is not None and header:
        parser.error("--prompt is the whole beginning: it does not go with --meter or --key")
    if args.source and (args.prompt is not None or header or args.bars):
        parser.error(
            "--continue takes meter and key from the file and draws right bars: it does not go with"
            " --prompt, --meter, --key or --bars"
        )
    if args.source and args.source.is_dir():
        parser.error(
            f"--continue {args.source}: that is a folder; it takes one file: MIDI, a score or ABC"
        )
    if args.source and not args.source.is_file():
        parser.error(f"--continue {args.source}: no such file")
    return args


def add_play_flags(group):
    add = group.add_argument
    add(
        "--model",
        type=name_list,
        metavar="NAME",
        help=f"of checkpoints/NAME.pt, or study, the model that ships (default: {BEST})",
    )
    add(
        "--continue",
        dest="source",
        type=Path,
        metavar="FILE",
        help="continue the last bars of this MIDI file, score or ABC",
    )
    bars = {"type": whole(1, 1000), "metavar": "N"}
    add("--bars-given", default=8, **bars, help="bars of it at least to show (default: 8)")
    add("--bars-new", default=16, **bars, help="bars to write after them (default: 16)")
    add("--prompt", metavar="TEXT", help=r"what the samples begin with; \n stands for a line end")
    add("--meter", metavar="M", help="meter of the samples, e.g. 6/8")
    add("--key", metavar="K", help="key of the samples, e.g. D, Am, Bb")
    add("--num-samples", type=whole(1, 10_000), metavar="N", help="how many (default: 1)")
    add("--temperature", type=number(0, 100), help="default: that of the chosen sampler")
    add(
        "--bars",
        choices=("free", "right"),
        help="right (default): a bar that its meter does not allow is drawn again; free: as drawn",
    )
    add(
        "--max-chars",
        type=whole(1, 1_000_000),
        metavar="N",
        help=f"characters at most (default: {PLAY_CHARS})",
    )


def best_model(text):
    """Reads SIZE:EPOCHS[:WINDOWS], e.g. small:4."""
    size, *numbers = name_list(text).split(":")
    if len(numbers) not in (1, 2):
        raise argparse.ArgumentTypeError(f"{text!r} is not SIZE:EPOCHS[:WINDOWS], e.g. small:4")
    epochs, windows = [*(whole(1, 1000)(part) for part in numbers), None][:2]
    return {"size": size, "epochs": epochs, "windows": windows}


# ---------------------------------------------------------------- the best model


def plan_best(args, root, data):
    """Returns the plan of the best model (`study/train/runs.py`), with the learning rate and recipe
    of the suite's run of its size; ValueError if there is none."""
    own = [record for record in suite_records(root) if record["family"] == BEST_FAMILY]
    records = {record["size"]: record for record in own}
    record = records.get(args.best["size"])
    if record is None:
        raise ValueError(
            f"--best {args.best['size']}: no model of this size was trained; there are"
            f" {', '.join(records) or 'none'}"
        )
    spec = runs.RunSpec(
        BEST_FAMILY,
        record["size"],
        runs.shape_of(record["config"]),
        record["learning_rate"],
        seed=runs.HEADLINE_SEED + args.seed,
        recipe=record["recipe"],
        optimizer=record["optimizer"],
        keep_best=True,
        name=BEST,
        epochs=args.best["epochs"],
        batch_windows=args.best["windows"],
    )
    return runs.plan_run(data, spec)


def train_best(stage, planned, data, device):
    """Trains the best model unless it is there."""
    force = stage.args.force
    if force or finished(stage.root, planned) is None:
        minutes = expected_minutes([planned], data, device)[0]
        print(
            f"best model: {BEST_FAMILY} {planned['size']}, {planned['epochs']} epochs over"
            f" {planned['train_chars']:,} characters, {planned['batch_windows']} windows a step:"
            f" about {minutes:.1f} minutes of training",
            flush=True,
        )
    mend = "the last good state is kept; see --help for smaller budgets"
    with mended_by(ME, mend, kind=Stopped):
        runs.train(stage.root, planned, data, device, again=force)


def copy_best(root):
    """Writes the best model and its history beside the results."""
    folder = root / "part4_outputs/checkpoints"
    record = read_json(root / f"checkpoints/{BEST}.json")
    curve = read_curves(root, [record])[BEST]
    write_json(folder / "training_history.json", training_history(record, curve))
    write_bytes(folder / f"{BEST}.pt", (root / f"checkpoints/{BEST}.pt").read_bytes())


# ---------------------------------------------------------------- the results


def evaluate(study):
    evaluation.evaluate_best(study, SWEEP, SWEEP_LIMITS)
    records = suite_records(study.root)
    evaluation.evaluate_suite(study, [record["name"] for record in records])
    evaluation.evaluate_ladder(study)
    evaluation.compare_losses(study, records)


def write_results(root):
    """Writes RESULTS.json, tables, figures and pages; returns its content and the figures."""
    content = results(root)
    write_json(root / "part4_outputs/RESULTS.json", content)
    for name, text in tables(root).items():
        write_text(root / f"part4_outputs/{name}", text)
    drawn = draw_figures(root, content)
    compose.write_compose(root)
    write_report(root)  # it leads to compose.html
    return content, drawn


def draw_figures(root, content):
    """Draws the figures of this stage; returns their names below the root."""
    folder, sweep = root / "part4_outputs/figures", measurements.read(root, "sweep")
    names = figures.draw_sampler(folder, sweep, describe_sampler(sweep["chosen"]))
    skills = describe_skills(root)
    names += figures.draw_skills(folder, skills)
    names += figures.draw_cost_of_control(folder, skills)
    names += figures.draw_repeated_bars(folder, ladder_copying.rows_of(root))
    names += figures.draw_heads(folder, content["in_context_copying"]["heads"])
    return [f"part4_outputs/figures/{name}" for name in names]


def output_names(root, kept):
    """Returns the files that the manifest vouches for. kept: names of the measurements."""
    outputs = ["RESULTS.json", "report.html", "compose.html", "generated/metadata.json", *TABLES]
    outputs += [f"checkpoints/{BEST}.pt", "checkpoints/training_history.json"]
    names = [f"checkpoints/{BEST}{end}" for end in (".pt", ".json", ".curve.jsonl")]
    names += [f"part4_outputs/{name}" for name in outputs]
    names += [f"{measurements.FOLDER}/{name}.json" for name in kept]
    for pattern in ("sample_*", "repaired/sample_*"):
        paths = sorted((root / generated.FOLDER).glob(pattern))
        names += [str(path.relative_to(root)) for path in paths]
    return [name for name in names if (root / name).exists()]


# ---------------------------------------------------------------- play


def play_with(root, args):
    """Draws samples as a user wants them from a finished model."""
    seen = (read_json(root / "data/stats.json") or {}).get("music") or {}
    with mended_by(ME, "e.g. --meter 6/8 --key Am"):
        prompt = play.prompt_of(args.prompt, args.meter, args.key, seen)
    with mended_by(ME, f"give another --model, or run: python {ME}{root_flags(args)}"):
        loaded = models.open_model(root, args.model or BEST, pick_device(args.device))
    sampler = (measurements.read(root, "sweep") or {}).get("chosen") or MODEL_ITSELF
    if args.temperature is not None:
        sampler = {**sampler, "temperature": args.temperature}
    seeds = range(args.seed, args.seed + (args.num_samples or 1))
    if args.source:
        return go_on(root, args, loaded, sampler, seeds, seen)
    # the likeliest bar is the same at every draw
    bars = args.bars or ("right" if sampler["temperature"] else "free")
    with mended_by(ME, "mend the prompt, draw without the judge (--bars free), or see --help"):
        samples = play.draw(loaded, prompt, seeds, args.max_chars or PLAY_CHARS, bars, sampler)
    show_played(root, generated.write_played(root, samples), sampler)
    n_stuck = sum(sample["stop_reason"] == "stuck" for sample in samples)
    if n_stuck:
        print(
            f"{n_stuck} of {len(samples)} samples are stuck: no right bar leads on; --bars free"
            " draws on"
        )


def go_on(root, args, loaded, sampler, seeds, seen):
    """Continues the last bars of a user's file."""
    name, n_new = args.source.name, args.bars_new
    mend = "give another file, or a model that was trained on such music"
    with mended_by(ME, mend, f"--continue {args.source}: "):
        source, given = play.open_tune(args.source, args.bars_given, seen)
        samples = play.continue_tune(loaded, given, seeds, n_new, args.max_chars, sampler)
    show_played(root, generated.write_played(root, samples, given, source, name), sampler)
    print(f"given: {given.n_bars} bars of {name}")
    if given.n_left_out:
        print(
            f"left out: its last {given.n_left_out}, which no bar line ends in all voices or which"
            " are short"
        )
    if source.mended:
        print(f"mended: {in_words(source.mended)}")
    n_fewer = sum(sample["stop_reason"] != "bars" for sample in samples)
    if n_fewer:
        print(
            f"{n_fewer} of {len(samples)} have fewer than {n_new} new bars: the model found no"
            " right one, or --max-chars were drawn"
        )


def show_played(root, rows, sampler):
    """Prints what was written, and makes the page of all that was played."""
    for row in rows:
        level = level_in_words(row["validity"]["level"])
        midi = row["midi"] or "no note to hear, so no MIDI file"
        print(
            f"{row['text'].rstrip()}\n--- {row['file']}: {level}, seed {row['seed']},"
            f" {describe_sampler(sampler)}, ended by {row['stop_reason']}; {midi}\n"
        )
    page = write_played_page(root, generated.played_rows(root))
    print(f"look at, and listen to: {os.path.relpath(page)}")


# ---------------------------------------------------------------- the stage


def main(argv=None):
    args = parse_arguments(argv)
    root = resolve_root(args)
    if any(getattr(args, flag) is not None for flag in PLAY_FLAGS):
        return play_with(root, args)
    budget = {name: quick if args.quick else full for name, (full, quick) in BUDGETS.items()}
    stage = Stage(__file__, args, config={"best": args.best, "budget": budget})
    if stage.up_to_date():
        return
    with mended_by(ME, f"run: python 04_train_transformers.py{stage.flags}, or see --help"):
        device = pick_device(args.device)
        data, tokenizer = load_data(root), load_tokenizer(root / "data/tokenizer.pkl")
        planned = plan_best(args, root, data)
    with stage.writing():
        train_best(stage, planned, data, device)
        best = models.load_model(root, BEST, tokenizer, device)
        study = evaluation.Evaluation(root, best, data, budget, args.seed, SEEDS, args.force)
        copy_best(root)
        evaluate(study)
        samples = generated.write_ten(study, TEN, measurements.read(root, "sweep")["chosen"])
        measurements.remove_others(root, study.used)
        content, drawn = write_results(root)
        stage.finish(
            output_names(root, study.used) + drawn,
            device=str(device),
            counts={"samples": len(samples)},
            summary=dict(headline.rows(content)),
        )


if __name__ == "__main__":
    run(main)
