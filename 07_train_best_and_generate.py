"""Trains the best model, draws music from it, measures that music and writes the results.

Reads:  data/ (stage 03), the checkpoints and records of the training stages,
    part4_outputs/fits.json (stage 06)
Writes: checkpoints/best_model.{pt,json,curve.jsonl}
        part4_outputs/checkpoints/best_model.pt, training_history.json (nats per character by epoch
        and step) part4_outputs/generated/sample_000..009.abc (as drawn), .mid, .musicxml, .svg,
        .png, _roll.svg, _roll.png, metadata.json, repaired/sample_*.abc (only where a sample had to
        be cut to be readable) part4_outputs/evaluation/ (samples and measurements, each kept under
        a key: an interrupted run goes on after the last, and an edit re-makes what it changes)
        part4_outputs/figures/{sampler,skills,cost_of_control,repeated_bars,heads}.{png,svg},
        RESULTS.json, report.html, compose.html, music.csv, differences.csv, loss_by_position.csv
Run:    python 07_train_best_and_generate.py [--quick] [--best xl:10] [--skip-training]
        python 07_train_best_and_generate.py --samples-only
        python 07_train_best_and_generate.py --model transformer_tiny --num-samples 3 --meter 6/8
        --key D python 07_train_best_and_generate.py --continue song.mid [--bars-given 8]
        [--bars-new 16]
The best model is a Transformer of the size and epochs in BEST_MODEL below, on all the training
text: the same on every machine. --samples-only draws the ten
samples and measures nothing. The third form
plays with any finished model: it needs its checkpoint and data/tokenizer.pkl, and writes
generated/play_NNN.* and played.html. The fourth goes on from the last bars of a MIDI or ABC file
and writes generated/continued_NNN.abc, .mid
(with the drums and tempos of the bars given) and .musicxml, the given bars and the new ones with a mark between them.
Prints the headline block of RESULTS.json last.
"""

import argparse
import contextlib
import os
from pathlib import Path

# first of all: from here on Ctrl-C shows no traceback, however long the rest takes to load
from study.stages.arguments import (
    fail,
    name_list,
    number,
    resolve_root,
    root_flags,
    stage_parser,
    whole,
)
from study.stages.files import file_digest, read_json, write_bytes, write_json, write_text
from study.stages.manifest import BEST, load_manifest
from study.stages.process import run
from study.stages.stage import Stage

from common import UNKNOWN, load_tokenizer, pick_device
from music.abc_check import check_abc
from music.abc_text import read_abc
from music.continuation import NextBars, last_bars, read_source
from music.midi_to_abc import MAX_VOICES
from music.right_bars import RightBars
from music.validity import level_in_words
from study.evaluate import evaluation, ladder_copying, measurements, models
from study.evaluate import figures as evaluate_figures
from study.evaluate import samples as generated
from study.evaluate.play import Asked
from study.evaluate.play import prompt_of as play_prompt
from study.evaluate.sampling import MODEL_ITSELF, Request, describe_sampler, generate
from study.families import FAMILIES
from study.fit.records import read_curves
from study.report import compose, headline
from study.report.content import results
from study.report.page import write_played_page, write_report
from study.report.required import check_results, suite_runs
from study.report.tables import (
    TABLES,
    describe_skills,
    run_rows,
    tables,
    training_history,
)
from study.train import runs
from study.train import loop as training
from study.train.calibrate import expected_minutes
from study.train.checkpoints import finished, tokenizer_path
from study.train.data import load_data

# SIZE:EPOCHS[:WINDOWS] of the best model; without WINDOWS a step has as many windows of 512 tokens
# as suit the amount of text
BEST_MODEL = {"full": "xl:10", "quick": "small:5"}
BEST_FAMILY = "transformer"
BUDGETS = {  # n_*: samples; *_chars: characters drawn at most
    "full": {
        "n_rated": 200,
        "rated_chars": 5000,
        "n_prompted": 100,
        "prompted_chars": 2000,
        "n_sweep": 100,
        "sweep_chars": 1000,
        "n_skills": 100,
        "skills_chars": 1000,
        "n_real": 200,
        "sample_chars": 3000,
    },
    "quick": {
        "n_rated": 100,
        "rated_chars": 1500,
        "n_prompted": 20,
        "prompted_chars": 500,
        "n_sweep": 21,
        "sweep_chars": 500,
        "n_skills": 100,
        "skills_chars": 300,
        "n_real": 100,
        "sample_chars": 1000,
    },
}
# one path of equal steps, so that a line through all of them can be taken: of fifteen settings with
# 8 samples each the best was chance. Min-p, because at equal validity a lower temperature repeats
# more (benchmarks/sampling.md)
SWEEP = [{**MODEL_ITSELF, "min_p": step / 40} for step in range(6)]
# shares of bars: how far a sampler may lie above the
SWEEP_LIMITS = {"rest_bar_share": 0.10, "bar_repetition": 0.03}
# validation tunes; the likeliest tokens are rests and the bar before, so strict samplers look valid
# by saying nothing
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
# texts drawn for each sample that shall have so many voices: how many a tune has, no header says
VOICE_DRAWS = 4
# of one voice, drawn at most to continue a tune; the longest of the default corpus has 45
CHARS_PER_BAR = 100
PLAY_FLAGS = (
    "model",
    "source",
    "prompt",
    "style",
    "meter",
    "key",
    "voices",
    "num_samples",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "max_chars",
    "bars",
)
ME = "07_train_best_and_generate.py"


def parse_arguments(argv):
    """The command line."""
    parser = stage_parser(__doc__, training=True)
    add = parser.add_argument
    add(
        "--best",
        type=asked_for,
        metavar="SIZE:EPOCHS[:WINDOWS]",
        help=(
            "train this, e.g. small:4 or small:4:8 with 8 windows of 512 tokens a step (default:"
            f" {BEST_MODEL['full']}; with --quick {BEST_MODEL['quick']})"
        ),
    )
    add(
        "--skip-training",
        action="store_true",
        help="sample and evaluate with the best_model.pt that exists, whatever it was trained on",
    )
    add(
        "--samples-only",
        action="store_true",
        help="train, and draw the ten samples; no rates, no results",
    )
    add(
        "--check",
        action="store_true",
        help="only check that RESULTS.json holds all that it promises",
    )
    add("--headline", action="store_true", help="only print the headline block of RESULTS.json")
    add_play_flags(
        parser.add_argument_group(
            "play with a finished model (writes generated/play_NNN.*, measures nothing)"
        )
    )
    args = parser.parse_args(argv)
    if args.best is None:
        args.best = asked_for(BEST_MODEL["quick" if args.quick else "full"])
    if args.prompt is not None and (args.style or args.meter or args.key or args.voices):
        parser.error(
            "--prompt is the whole beginning: it does not go with --style, --meter, --key or"
            " --voices"
        )
    if args.source and any(
        value is not None
        for value in (args.prompt, args.style, args.meter, args.key, args.voices, args.bars)
    ):
        parser.error(
            "--continue takes meter, key and voices from the file and draws right bars: it does not"
            " go with --prompt, --style, --meter, --key, --voices or --bars"
        )
    if args.source and not args.source.is_file():
        parser.error(
            f"--continue {args.source}: "
            + (
                "that is a folder; it takes one file: MIDI, a score or ABC"
                if args.source.is_dir()
                else "there is no such file"
            )
        )
    return args


def add_play_flags(play):
    """The flags of PLAY_FLAGS, to an argument group."""
    add = play.add_argument
    add(
        "--model",
        type=name_list,
        metavar="NAME",
        help=(
            f"play with checkpoints/NAME.pt, e.g. transformer_tiny (default: {BEST}), or with the"
            " model that ships: study"
        ),
    )
    add(
        "--continue",
        dest="source",
        type=Path,
        metavar="FILE",
        help="go on from the last bars of this MIDI or ABC file (writes generated/continued_NNN.*)",
    )
    add(
        "--bars-given",
        type=whole(1, 1000),
        metavar="N",
        default=8,
        help="bars of that file at least that the model sees (default: %(default)s)",
    )
    add(
        "--bars-new",
        type=whole(1, 1000),
        metavar="N",
        default=16,
        help="bars to write after them (default: %(default)s)",
    )
    add("--prompt", metavar="TEXT", help=r"what the samples begin with; \n stands for a line end")
    add(
        "--style",
        type=name_list,
        metavar="NAME",
        help=(
            "collection of the samples, e.g. bach; of a model whose text was made by 03 --tag"
            " collection"
        ),
    )
    add("--meter", metavar="M", help="meter of the samples, e.g. 6/8")
    add("--key", metavar="K", help="key of the samples, e.g. D, Am, Bb")
    add(
        "--voices",
        type=whole(1, 16),
        metavar="N",
        help=(
            f"voices of the samples: of {VOICE_DRAWS} texts for each sample one is kept that has as"
            " many"
        ),
    )
    add("--num-samples", type=whole(1, 10_000), metavar="N", help="how many (default: 1)")
    add(
        "--temperature",
        type=number(0, 100),
        help="default of all four: the sampler that the sweep chose",
    )
    add("--top-k", type=whole(0), metavar="K", help="draw among the K likeliest tokens; 0: all")
    add(
        "--top-p",
        type=number(above=0, most=1),
        metavar="P",
        help="draw among the likeliest that make up this share; 1: all",
    )
    add(
        "--min-p",
        type=number(0, 1),
        metavar="P",
        help="leave out what has less than this times the likeliest; 0: nothing",
    )
    add(
        "--bars",
        choices=("free", "right"),
        help=(
            "right (default): a bar that its meter does not allow is drawn again; free: as the"
            " model draws"
        ),
    )
    add(
        "--max-chars",
        type=whole(1, 1_000_000),
        metavar="N",
        help=f"characters at most (default: {PLAY_CHARS})",
    )


def asked_for(text):
    """A kind of argument: SIZE:EPOCHS[:WINDOWS] as {"size", "epochs", "windows" (None: by the
    amount of text)}."""
    size, *numbers = name_list(text).split(":")
    if len(numbers) not in (1, 2):
        raise argparse.ArgumentTypeError(f"{text!r} is not SIZE:EPOCHS[:WINDOWS], e.g. small:4")
    epochs, windows = [*(whole(1, 1000)(part) for part in numbers), None][:2]
    return {"size": size, "epochs": epochs, "windows": windows}


# ---------------------------------------------------------------- the best model


def suite_records(root):
    """Records of the study's own models, one a family and size."""
    names = [row["name"] for row in suite_runs(run_rows(root))]
    return [read_json(root / f"checkpoints/{name}.json") for name in names]


def plan_best(args, root, data):
    """Plans the best model, with the learning rate and recipe of the suite's run of its size.

    Returns the run, see `study/train/runs.py`; raises ValueError if there is no such record.
    """
    name = f"{BEST_FAMILY}_{args.best['size']}"
    record = read_json(root / f"checkpoints/{name}.json")
    if record is None:
        raise ValueError(f"there is no record of {name}")
    return runs.plan_run(
        data,
        runs.RunSpec(
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
        ),
    )


def taken_as_it_is(args):
    """Digest of the best model that --skip-training takes although training would give another one;
    else None."""
    root = resolve_root(args)
    if not args.skip_training:
        return None
    # what is wrong with the data says the stage
    with contextlib.suppress(ValueError, OSError, KeyError, TypeError):
        if finished(root, plan_best(args, root, load_data(root))):
            return None
    return file_digest(root / f"checkpoints/{BEST}.pt")


def train_best(stage, planned, data, device):
    """Trains the best model unless it stands there; says what it will take."""
    args = stage.args
    if finished(stage.root, planned) is None or args.force:
        minutes = expected_minutes([planned], data, device)[0]
        print(
            f"best model: {BEST_FAMILY} {planned['size']}, {planned['epochs']} epochs over"
            f" {planned['train_chars']:,} characters, {planned['batch_windows']} windows a step:"
            f" about {minutes:.1f} minutes of training",
            flush=True,
        )
    try:
        runs.train(stage.root, planned, data, device, again=args.force)
    except training.Stopped as error:
        fail(ME, str(error), "the last good state is kept; see --help for smaller budgets")


def copy_best(root):
    """The best model and its history, beside the results."""
    folder, record = (
        root / "part4_outputs/checkpoints",
        read_json(root / f"checkpoints/{BEST}.json") or {},
    )
    curve = read_curves(root, [{"name": BEST, "curve": f"{BEST}.curve.jsonl"}]).get(BEST, [])
    write_json(folder / "training_history.json", training_history(record, curve))
    write_bytes(folder / f"{BEST}.pt", (root / f"checkpoints/{BEST}.pt").read_bytes())


# ---------------------------------------------------------------- results for people


def draw_figures(root, content):
    """Draws the figures of this stage; returns their names below the root."""
    folder, sweep = root / "part4_outputs/figures", measurements.read(root, "sweep")
    names = evaluate_figures.draw_sampler(folder, sweep, describe_sampler(sweep["chosen"]))
    if skills := describe_skills(root):
        for draw in (evaluate_figures.draw_skills, evaluate_figures.draw_cost_of_control):
            names += draw(folder, skills)
    names += evaluate_figures.draw_repeated_bars(folder, ladder_copying.rows_of(root))
    copying = content["in_context_copying"] or {}
    names += evaluate_figures.draw_heads(folder, copying.get("heads"))
    return [f"part4_outputs/figures/{name}" for name in names]


def output_names(root, kept):
    """The files of this stage that its manifest vouches for; what a user played is not among them.

    kept: names of the measurements."""
    names = [f"checkpoints/{BEST}{end}" for end in (".pt", ".json", ".curve.jsonl")]
    names += [
        f"part4_outputs/{name}"
        for name in (
            f"checkpoints/{BEST}.pt",
            "checkpoints/training_history.json",
            "RESULTS.json",
            "report.html",
            "compose.html",
            "generated/metadata.json",
            *TABLES,
        )
    ]
    names += [f"{measurements.FOLDER}/{name}.json" for name in kept]
    names += [
        str(path.relative_to(root))
        for pattern in ("sample_*", "repaired/sample_*")
        for path in sorted((root / generated.FOLDER).glob(pattern))
    ]
    return [name for name in names if (root / name).exists()]


def show(root, args):
    """--check and --headline: what RESULTS.json lacks, or its first block."""
    folder, again = root / "part4_outputs", f"run: python {ME}{root_flags(args)}"
    content = read_json(folder / "RESULTS.json")
    if content is None:
        fail(ME, "there is no part4_outputs/RESULTS.json", again)
    if args.check:
        missing = check_results(content)
        if missing:
            fail(
                ME,
                "RESULTS.json is incomplete:\n" + "\n".join(missing),
                f"{again} --force, after the stages before it",
            )
        print("RESULTS.json holds all that it promises")
    if args.headline:
        print("\n".join(headline.lines(content)))


# ---------------------------------------------------------------- play


def play(root, args):
    """Draws samples as a user wants them from a finished model; leaves results and evaluation
    alone. It needs the model's checkpoint and the vocabulary, and nothing else."""
    name = args.model or BEST
    try:
        if name == "study":
            loaded = models.study_model(pick_device(args.device))
        else:
            check_model(root, args, name)
            loaded = models.load_model(
                root, name, load_tokenizer(tokenizer_path(root, name)), pick_device(args.device)
            )
    except ValueError as error:
        fail(ME, str(error), f"run: python {ME}{root_flags(args)}")
    chosen = (measurements.read(root, "sweep") or {}).get("chosen") or MODEL_ITSELF
    sampler = {
        key: chosen[key] if getattr(args, key) is None else getattr(args, key)
        for key in MODEL_ITSELF
    }
    if args.source:
        return go_on(root, args, loaded, sampler)
    if args.style and UNKNOWN in loaded.tokenizer.encode("R:"):
        fail(
            ME,
            f"--style {args.style}: {name} was not told of styles",
            "run: python 03_tokenize_split.py"
            f"{root_flags(args)} --tag collection, then train again",
        )
    prompt, n = prompt_of(args), args.num_samples or 1
    # the likeliest bar is the same at every draw
    bars = args.bars or ("right" if sampler["temperature"] else "free")
    requests = [
        Request(
            prompt=prompt,
            seed=args.seed + i,
            max_chars=args.max_chars or PLAY_CHARS,
            bars=bars,
            **sampler,
        )
        for i in range(n * (VOICE_DRAWS if args.voices else 1))
    ]
    try:
        samples = generate(
            loaded.model, loaded.tokenizer, requests, loaded.device, right_bars=RightBars
        )
    except ValueError as error:
        fail(
            ME,
            str(error),
            (
                "mend the prompt, or draw without the judge: --bars free"
                if "right bar" in str(error)
                else "see --help"
            ),
        )
    samples, missed = with_voices(samples, args.voices) if args.voices else (samples, 0)
    show_played(root, generated.write_played(root, samples), sampler)
    n_stuck = sum(sample["stop_reason"] == "stuck" for sample in samples)
    if n_stuck:
        print(f"{n_stuck} of {n} samples are stuck: no right bar leads on; --bars free draws on")
    if missed:
        print(
            f"{missed} of {n} samples have another number of voices: no text drawn for them had"
            f" {args.voices}"
        )


def show_played(root, rows, sampler):
    """Prints what was written, and makes the page of all that was played."""
    for row in rows:
        print(
            f"{row['text'].rstrip()}\n--- {row['file']}:"
            f" {level_in_words(row['validity']['level'])}, seed {row['seed']},"
            f" {describe_sampler(sampler)}, ended by {row['stop_reason']}"
            + (f"; {row['midi']}" if row["midi"] else "; no note to hear, so no MIDI file")
            + "\n"
        )
    page = write_played_page(root, generated.played_rows(root))
    print(f"look at, and listen to: {os.path.relpath(page)}")


def go_on(root, args, loaded, sampler):
    """Goes on from the last bars of a user's MIDI file, score or ABC, with right bars."""
    music = (read_json(root / "data/stats.json") or {}).get("music") or {}
    most = (load_manifest(root, "02_midi_to_abc") or {}).get("config", {}).get(
        "max_voices"
    ) or MAX_VOICES
    try:
        source = read_source(
            args.source.read_bytes(),
            args.source.name,
            int(min(most, (music.get("voices") or {}).get("max") or most)),
        )
        given = last_bars(source.text, args.bars_given, music.get("meters") or ())
        tune = read_abc(given.text)
        unseen = [
            meter
            for _, meter in tune.meters
            if music.get("meters") and meter not in music["meters"]
        ]
        if unseen:
            raise ValueError(
                f"the model has never seen the meter {unseen[0]}; it knows"
                f" {', '.join(music['meters'])}"
            )
        n_chars = args.max_chars or args.bars_new * len(tune.voices) * CHARS_PER_BAR
        samples = generate(
            loaded.model,
            loaded.tokenizer,
            [
                Request(
                    given.text,
                    args.seed + i,
                    max_chars=n_chars,
                    bars="right",
                    n_bars=args.bars_new,
                    **sampler,
                )
                for i in range(args.num_samples or 1)
            ],
            loaded.device,
            right_bars=NextBars,
        )
    except OSError as error:
        fail(
            ME,
            f"--continue {args.source}: {error.strerror or error}",
            "give the path of a MIDI file, a score or ABC",
        )
    except ValueError as error:
        fail(
            ME,
            f"--continue {args.source}: {error}",
            "give another file, or a model that was trained on such music",
        )
    show_played(
        root, generated.write_continued(root, samples, given, source, args.source.name), sampler
    )
    print(
        f"given: {given.n_bars} bars of {args.source.name}"
        + (
            f", without its last {given.n_left_out}, which no bar line ends in all voices or which"
            " are short"
            if given.n_left_out
            else ""
        )
    )
    if source.mended:
        print("mended: " + ", ".join(f"{n:,} {kind}" for kind, n in source.mended.items()))
    n_fewer = sum(sample["stop_reason"] != "bars" for sample in samples)
    if n_fewer:
        print(
            f"{n_fewer} of {len(samples)} have fewer than {args.bars_new} new bars: the model found"
            " no right one, or --max-chars were drawn"
        )


def check_model(root, args, name):
    """Ends the script if there is no such checkpoint."""
    if (root / f"checkpoints/{name}.pt").exists():
        return
    have = ", ".join(sorted(path.stem for path in (root / "checkpoints").glob("*.pt"))) or "none"
    mend = (
        f"give one of them or study, the model that ships, to --model; or run: python {ME}"
        f"{root_flags(args)}"
    )
    fail(ME, f"there is no checkpoints/{name}.pt; there are: {have}", mend)


def prompt_of(args):
    """What played samples begin with; ends the script if the model has never seen what is asked
    for."""
    seen = (read_json(resolve_root(args) / "data/stats.json") or {}).get("music") or {}
    asked = Asked(args.prompt, args.style, args.meter, args.key, args.voices)
    try:
        return play_prompt(asked, seen)
    except ValueError as error:
        fail(ME, str(error), "e.g. --meter 6/8 --key Am")


def with_voices(samples, n_voices):
    """(of every VOICE_DRAWS samples the first with so many voices, or the first of all; how many
    have not)."""
    chosen, missed = [], 0
    for first in range(0, len(samples), VOICE_DRAWS):
        few = samples[first : first + VOICE_DRAWS]
        fitting = [sample for sample in few if check_abc(sample["text"]).n_voices == n_voices]
        chosen, missed = chosen + [(fitting or few)[0]], missed + (not fitting)
    return chosen, missed


# ---------------------------------------------------------------- the stage


def check_flags(root, args):
    """Ends the script if a flag asks for what is not there."""
    sizes = [record["size"] for record in suite_records(root) if record["family"] == BEST_FAMILY]
    if sizes and args.best["size"] not in sizes and not args.skip_training:
        fail(
            ME,
            f"--best {args.best['size']}: no model of this size was trained; there are"
            f" {', '.join(sizes)}",
            f"give one of them, e.g. --best {sizes[0]}:5",
        )
    if args.skip_training and not (root / f"checkpoints/{BEST}.pt").exists():
        fail(
            ME,
            f"--skip-training: there is no checkpoints/{BEST}.pt",
            f"run: python {ME}{root_flags(args)}",
        )


def main(argv=None):
    """Trains, draws, measures, and writes the results; or shows or plays with what is there."""
    args = parse_arguments(argv)
    root = resolve_root(args)
    if args.check or args.headline:
        return show(root, args)
    if any(getattr(args, flag) is not None for flag in PLAY_FLAGS):
        return play(root, args)
    check_flags(root, args)
    budget = BUDGETS["quick" if args.quick else "full"]
    stage = Stage(
        __file__,
        args,
        config={
            "best": args.best,
            "budget": budget,
            "taken_as_it_is": taken_as_it_is(args),
        },
        reads=("03_tokenize_split", FAMILIES[BEST_FAMILY].stage) if args.samples_only else None,
    )
    if not args.samples_only and stage.up_to_date():
        return
    try:
        device = pick_device(args.device)
        data, tokenizer = load_data(root), load_tokenizer(root / "data/tokenizer.pkl")
        if args.skip_training:
            models.load_model(root, BEST, tokenizer)
        planned = None if args.skip_training else plan_best(args, root, data)
    except ValueError as error:
        fail(ME, str(error), f"run: python 04_train_transformers.py{stage.flags}, or see --help")
    with stage.writing():
        if planned:
            train_best(stage, planned, data, device)
        best = models.load_model(root, BEST, tokenizer, device)
        study = evaluation.set_up(root, best, data, budget, args.seed, SEEDS, force=args.force)
        if args.samples_only:
            return samples_only(stage, study)
        copy_best(root)
        evaluate(study)
        n_samples = len(generated.write_ten(study, TEN, measurements.read(root, "sweep")["chosen"]))
        measurements.remove_others(root, study.used)
        content, drawn = write_results(root)
        stage.finish(
            output_names(root, study.used) + drawn,
            device=str(device),
            counts={"samples": n_samples},
            summary=dict(headline.rows(content)),
        )


def evaluate(study):
    """Every measurement of the best model and of the suite's."""
    evaluation.evaluate_best(study, SWEEP, SWEEP_LIMITS)
    records = suite_records(study.root)
    evaluation.evaluate_suite(study, [record["name"] for record in records])
    evaluation.evaluate_ladder(study)
    evaluation.compare_losses(study, BEST, records)


def write_results(root):
    """Writes RESULTS.json, the tables beside it, the figures and the page; returns the content, and
    the figures."""
    content = results(root)
    write_json(root / "part4_outputs/RESULTS.json", content)
    for name, text in tables(root).items():
        write_text(root / f"part4_outputs/{name}", text)
    drawn = draw_figures(root, content)
    try:
        compose.write_compose_of(root)
    except compose.NoPage as reason:
        print(f"no compose.html: {reason}")
    write_report(root)  # it leads to compose.html
    return content, drawn


def samples_only(stage, study):
    """Writes the ten samples, with the sampler of the sweep if there was one, and leaves results as
    they are."""
    chosen = (measurements.read(stage.root, "sweep") or {}).get("chosen") or MODEL_ITSELF
    for row in generated.write_ten(study, TEN, chosen):
        print(
            f"{row['file']}: {level_in_words(row['validity']['level'])}, {row['type']}, "
            f"temperature {row['temperature']:g}" + (f"; {row['midi']}" if row["midi"] else "")
        )
    # nothing is unfinished: what stood in the root still stands
    stage.marker.unlink(missing_ok=True)


if __name__ == "__main__":
    run(main)
