"""Trains the largest Transformer for ten epochs, draws music from it, measures that music and writes the results.

Reads:  data/ (stage 03), the checkpoints and records of the training stages, part4_outputs/fits.json (stage 06)
Writes: checkpoints/best_model.{pt,json,curve.jsonl}
        part4_outputs/checkpoints/best_model.pt, training_history.json (nats per character by epoch and step)
        part4_outputs/generated/sample_000..009.abc (as drawn), .mid, .svg, .png, _roll.svg, _roll.png, metadata.json,
        repaired/sample_*.abc (only where a sample had to be cut to be readable)
        part4_outputs/evaluation/ (samples and measurements, each kept under a key: an interrupted run goes on after the
        last, and an edit re-makes what it changes)
        part4_outputs/figures/{sampler,ladder,skills,best_by_position}.{png,svg}, RESULTS.json, report.html
Run:    python 07_train_best_and_generate.py [--quick] [--skip-training]
        python 07_train_best_and_generate.py --num-samples 3 --prompt "X:1\\nM:6/8\\nL:1/16\\n" --temperature 0.9
The second form plays with a finished model: it writes generated/play_NNN.abc, .mid and .json and nothing else.
Prints the headline block of RESULTS.json last.
"""

import contextlib
import os

# first of all: from here on Ctrl-C shows no traceback, however long the rest takes to load
from study.arguments import fail, resolve_root, root_flags, stage_parser
from study.stage import Stage, file_digest, read_json, run, write_bytes, write_json

from common import load_tokenizer, pick_device
from study import evaluation, figures, generated, measurements, results, runs, training
from study.checkpoints import finished
from study.page.report import template_digest, write_report
from study.records import read_curves
from study.results import BEST
from study.sampling import MODEL_ITSELF, Request, describe_sampler, generate

FAMILY, SIZE = "transformer", "xl"  # of the best model; --only takes another size
EPOCHS = {"full": 10, "quick": 2}
BUDGETS = {  # n_*: samples; *_chars: characters drawn at most
    "full": {"n_rated": 200, "rated_chars": 5000, "n_prompted": 100, "prompted_chars": 2000, "n_sweep": 40,
             "sweep_chars": 600, "n_skills": 100, "skills_chars": 1000, "n_real": 200, "sample_chars": 3000},
    "quick": {"n_rated": 100, "rated_chars": 1500, "n_prompted": 20, "prompted_chars": 500, "n_sweep": 8,
              "sweep_chars": 320, "n_skills": 100, "skills_chars": 300, "n_real": 100, "sample_chars": 1000},
}
SWEEP = [{**MODEL_ITSELF, "temperature": temperature, **cut}
         for temperature in (0.7, 0.8, 0.9, 1.0, 1.1) for cut in ({}, {"top_p": 0.95}, {"min_p": 0.05})]
SWEEP_LIMITS = {"rest_bar_share": 0.10, "bar_repetition": 0.15}  # shares of bars: how far a sampler may lie above the
# validation tunes; the likeliest tokens are rests and the bar before, so low temperatures look valid by saying nothing
TEN = [  # the samples to look at: prompt, and the sampler's temperature (None: the chosen sampler)
    ("unconditional", None), ("unconditional", 1.0), ("unconditional", 0.8),
    ("header", None), ("header", 1.0), ("header", 0.9),
    ("bars", None), ("bars", 1.0), ("bars", 0.8), ("bars", 0.7)]
SEEDS = {"unprompted": 10_000, "chosen": 20_000, "header": 30_000, "bars": 40_000, "sweep": 50_000, "skills": 60_000,
         "ten": 70_000}  # first seed of every set, so that no two sets share a random stream
PLAY_CHARS = 2000
PLAY_FLAGS = ("prompt", "num_samples", "temperature", "top_k", "top_p", "min_p", "max_chars")
ME = "07_train_best_and_generate.py"


def parse_arguments(argv):
    """The command line."""
    parser = stage_parser(__doc__, training=True)
    for action in parser._actions:
        if action.dest == "only":
            action.metavar, action.help = "SIZE", f"size of the Transformer to train on as the best (default: {SIZE})"
    parser.add_argument("--skip-training", action="store_true",
                        help="sample and evaluate with the best_model.pt that exists, whatever it was trained on")
    parser.add_argument("--check", action="store_true", help="only check that RESULTS.json holds all that it promises")
    parser.add_argument("--headline", action="store_true", help="only print the headline block of RESULTS.json")
    play = parser.add_argument_group("play with a finished model (writes generated/play_NNN.*, measures nothing)")
    play.add_argument("--prompt", metavar="TEXT", help=r"what the samples begin with; \n stands for a line end")
    play.add_argument("--num-samples", type=int, metavar="N", help="how many (default: 1)")
    play.add_argument("--temperature", type=float, help="default of all four: the sampler that the sweep chose")
    play.add_argument("--top-k", type=int, help="draw among the K likeliest tokens; 0: all")
    play.add_argument("--top-p", type=float, help="draw among the likeliest that make up this share; 1: all")
    play.add_argument("--min-p", type=float, help="leave out what has less than this times the likeliest; 0: nothing")
    play.add_argument("--max-chars", type=int, metavar="N", help=f"characters at most (default: {PLAY_CHARS})")
    return parser.parse_args(argv)


# ---------------------------------------------------------------- the best model

def plan_best(root, data, size, quick, seed):
    """The run of the best model: configuration and recipe of the one-epoch model of this size, more epochs."""
    record = read_json(root / f"checkpoints/{FAMILY}_{size}.json")
    if record is None:
        have = sizes_of_records(root)
        raise ValueError(f"there is no record of {FAMILY}_{size}; trained are: {', '.join(have) or 'none'}")
    return runs.plan_run(data, FAMILY, size, runs.shape_of(record["config"]), record["learning_rate"], seed=seed,
                         recipe=record["recipe"], optimizer=record["optimizer"], keep_best=True, name=BEST,
                         epochs=EPOCHS["quick" if quick else "full"], max_train_chars=record["max_train_chars"])


def sizes_of_records(root):
    """Sizes of the family that were trained, the smallest first."""
    return [row["size"] for row in results.suite_runs(results.run_rows(root)) if row["family"] == FAMILY]


def taken_as_it_is(args, size):
    """Digest of the best model that --skip-training takes although training would give another one; else None."""
    root = resolve_root(args)
    if not args.skip_training:
        return None
    with contextlib.suppress(ValueError, OSError):  # what is wrong with the data is said by the stage
        if finished(root, plan_best(root, training.load_data(root), size, args.quick, args.seed)):
            return None
    return file_digest(root / f"checkpoints/{BEST}.pt")


def train_best(stage, planned, data, device):
    """Trains the best model unless it stands there."""
    args = stage.args
    if args.skip_training:
        return
    try:
        runs.train(stage.root, planned, data, device, micro_batch=args.micro_batch, again=args.force)
    except training.Stopped as error:
        fail(ME, str(error), "the last good state is kept; see --help for smaller budgets")


def copy_best(root):
    """The best model and its history, beside the results."""
    folder, record = root / "part4_outputs/checkpoints", read_json(root / f"checkpoints/{BEST}.json") or {}
    curve = read_curves(root, [{"name": BEST, "curve": f"{BEST}.curve.jsonl"}]).get(BEST, [])
    write_json(folder / "training_history.json", results.training_history(record, curve))
    write_bytes(folder / f"{BEST}.pt", (root / f"checkpoints/{BEST}.pt").read_bytes())


# ---------------------------------------------------------------- results for people

def draw_figures(root, content):
    """The figures of this stage; returns their names below the root."""
    folder, sweep = root / "part4_outputs/figures", measurements.read(root, "sweep")
    names = figures.draw_sampler(folder, sweep, describe_sampler(sweep["chosen"]))
    names += figures.draw_ladder(folder, content["samples"]["ladder"]) if content["samples"]["ladder"] else []
    names += figures.draw_skills(folder, content["skills"]) if content["skills"] else []
    losses, record = content["best"]["test_loss_by_position"], read_json(root / f"checkpoints/{BEST}.json")
    names += figures.draw_best_by_position(folder, losses, record["config"]["block_size"]) if losses else []
    return [f"part4_outputs/figures/{name}" for name in names]


def output_names(root, kept):
    """The files of this stage that its manifest vouches for; what a user played is not among them.

    kept: names of the measurements."""
    names = [f"checkpoints/{BEST}{end}" for end in (".pt", ".json", ".curve.jsonl")]
    names += [f"part4_outputs/{name}" for name in (
        f"checkpoints/{BEST}.pt", "checkpoints/training_history.json", "RESULTS.json", "report.html",
        "generated/metadata.json")]
    names += [f"{measurements.FOLDER}/{name}.json" for name in kept]
    names += [str(path.relative_to(root)) for pattern in ("sample_*", "repaired/sample_*")
              for path in sorted((root / generated.FOLDER).glob(pattern))]
    return [name for name in names if (root / name).exists()]


def show(root, args):
    """--check and --headline: what RESULTS.json lacks, or its first block."""
    content, again = read_json(root / "part4_outputs/RESULTS.json"), f"run: python {ME}{root_flags(args)}"
    if content is None:
        fail(ME, "there is no part4_outputs/RESULTS.json", again)
    if args.check:
        missing = results.check_results(content, results.planned_runs(root))
        if missing:
            fail(ME, "RESULTS.json is incomplete:\n" + "\n".join(missing),
                 f"{again} --force, after the stages before it")
        print("RESULTS.json holds all that it promises")
    if args.headline:
        print("\n".join(results.headline_lines(content)))


def play(root, args):
    """Draws samples as a user wants them from a finished best model; leaves results and evaluation alone."""
    try:
        player = evaluation.load_player(root, BEST, load_tokenizer(root / "data/tokenizer.pkl"),
                                        pick_device(args.device))
    except ValueError as error:
        fail(ME, str(error), f"run: python {ME}{root_flags(args)}")
    chosen = (measurements.read(root, "sweep") or {}).get("chosen") or MODEL_ITSELF
    sampler = {key: chosen[key] if getattr(args, key) is None else getattr(args, key) for key in MODEL_ITSELF}
    prompt, n = (args.prompt or "").replace("\\n", "\n"), 1 if args.num_samples is None else args.num_samples
    max_chars = PLAY_CHARS if args.max_chars is None else args.max_chars
    if n < 1:
        fail(ME, "--num-samples must be 1 or more", "see --help")
    try:
        samples = generate(player.model, player.tokenizer,
                           [Request(prompt=prompt, seed=args.seed + i, max_chars=max_chars, **sampler)
                            for i in range(n)], player.device)
    except ValueError as error:
        fail(ME, str(error), "see --help")
    for row in generated.write_played(root, samples):
        print(f"{row['text'].rstrip()}\n--- {row['file']}: level {row['validity']['level']} of 5, seed {row['seed']}, "
              f"{describe_sampler(sampler)}, ended by {row['stop_reason']}\n")
    print(f"look at: {os.path.relpath(root / generated.FOLDER)}/play_*.abc, .mid")


# ---------------------------------------------------------------- the stage

def check_flags(root, args):
    """Ends the script if a flag asks for what is not there."""
    sizes = sizes_of_records(root)
    if args.only and sizes and args.only not in sizes:
        fail(ME, f"--only {args.only}: there is no such size", "choose one of " + ", ".join(sizes))
    if args.skip_training and not (root / f"checkpoints/{BEST}.pt").exists():
        fail(ME, f"--skip-training: there is no checkpoints/{BEST}.pt", f"run: python {ME}{root_flags(args)}")


def main(argv=None):
    """Trains, draws, measures, and writes the results; or shows or plays with what is there."""
    args = parse_arguments(argv)
    root = resolve_root(args)
    if args.check or args.headline:
        return show(root, args)
    if any(getattr(args, flag) is not None for flag in PLAY_FLAGS):
        return play(root, args)
    check_flags(root, args)
    size, budget = args.only or SIZE, BUDGETS["quick" if args.quick else "full"]
    stage = Stage(__file__, args, config={"size": size, "budget": budget, "page": template_digest(),
                                          "taken_as_it_is": taken_as_it_is(args, size)})
    if stage.up_to_date():
        return
    try:
        device = pick_device(args.device)
        data, tokenizer = training.load_data(root), load_tokenizer(root / "data/tokenizer.pkl")
        if args.skip_training:
            evaluation.load_player(root, BEST, tokenizer)
        planned = plan_best(root, data, size, args.quick, args.seed)
    except ValueError as error:
        fail(ME, str(error), f"run: python 04_train_transformers.py{stage.flags}, or see --help")
    with stage.writing():
        train_best(stage, planned, data, device)
        copy_best(root)
        best = evaluation.load_player(root, BEST, tokenizer, device)
        study = evaluation.set_up(root, best, data, budget, args.seed, SEEDS, again=args.force)
        chosen = evaluation.evaluate_best(study, SWEEP, SWEEP_LIMITS)
        evaluation.evaluate_suite(study, [row["name"] for row in results.suite_runs(results.run_rows(root))])
        n_samples = generated.write_ten(study, TEN, chosen)
        measurements.remove_others(root, study.used)
        content = results.results(root)
        write_json(root / "part4_outputs/RESULTS.json", content)
        drawn = draw_figures(root, content)
        write_report(root)
        stage.finish(output_names(root, study.used) + drawn, device=str(device), counts={"samples": n_samples},
                     summary=dict(line.split(": ", 1) for line in results.headline_lines(content)))


if __name__ == "__main__":
    run(main)
