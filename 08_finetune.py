"""Fine-tunes a trained model to your own music: a folder, an archive or a file of MIDI or ABC, or a
collection.

Reads:  SOURCE, or --collections of the corpus at hand; data/ (stage 03), the checkpoint of --model
Writes: checkpoints/finetuned_NAME.pt, .json, .curve.jsonl (as any model's), .tokenizer.pkl (its
    vocabulary)
        finetuned/NAME/{train,test}.txt       your music as training text; test is held out
        finetuned/NAME/generated/             ten samples with right bars: .abc, .mid, .musicxml,
            pictures, metadata
        finetuned/NAME/report.json            what came of it
Run:    python 08_finetune.py ~/my_midi [--quick] [--name NAME] [--model best_model]
        python 08_finetune.py --collections bach,airds
        python 07_train_best_and_generate.py --model finetuned_NAME     (plays with it)
The base model and the run's own data stay as they are. Songs that are versions of one another stay
together: a song is either trained on or held out. Prints the expected minutes first, and last what
was gained, what was forgotten, and how much the model recites.
"""

import re
import shutil
import tempfile
from pathlib import Path

# first of all: from here on Ctrl-C shows no traceback, however long the rest takes to load
from study.stages.arguments import (
    existing,
    fail,
    name_list,
    number,
    resolve_root,
    root_flags,
    stage_parser,
    whole,
)
from study.stages.files import file_digest, plain, write_json, write_text
from study.stages.manifest import BEST
from study.stages.process import cpu_count, run
from study.stages.stage import Stage

from common import load_tokenizer, pick_device
from study.evaluate import models
from study.finetune import finetune
from study.prepare.fetch import Refused, listing_digest
from study.report.tables import DIGITS
from study.train import loop as training
from study.train import runs
from study.train.calibrate import calibrate
from study.train.checkpoints import load_checkpoint, tokenizer_path, weights_digest
from study.train.data import load_data

# of new training text; spread evenly over the groups
LIMIT_CHARS = {"full": 3_000_000, "quick": 250_000}
REPLAY = 0.5  # old characters read again, for each new one
MIN_CHARS, MAX_CHARS = 101, 4999  # of a sequence, as in stage 03
MIN_NOTES, MAX_REST_SHARE = 16, 0.95
MAX_VOICES, TIMEOUT = 6, 20  # of a MIDI file, as in stage 02; seconds for one
N_FREE, FREE_CHARS = 40, 1500  # samples that are rated, and characters drawn at most
N_SAMPLES, SAMPLE_CHARS = 10, 2000  # to look at and hear, with right bars
SEED_FREE, SEED_RIGHT = 80_000, 90_000  # first seeds of the samples: no other set's
MEASURING_MINUTES = 1.5  # what follows the training
ME = "08_finetune.py"


def parse_arguments(argv):
    """The command line."""
    parser = stage_parser(__doc__)
    add = parser.add_argument
    add(
        "source",
        nargs="?",
        type=existing,
        metavar="SOURCE",
        help="folder, .tar.gz, .tar, .zip or a single file: MIDI or ABC",
    )
    add(
        "--collections",
        type=name_list,
        metavar="NAME[,NAME]",
        help="instead of SOURCE: collections of the corpus at hand, e.g. bach,airds",
    )
    add(
        "--name",
        metavar="NAME",
        help="of the model, finetuned_NAME (default: made from the source's)",
    )
    add(
        "--model",
        type=name_list,
        default=BEST,
        metavar="BASE",
        help=f"checkpoint to start from, e.g. transformer_small (default: {BEST})",
    )
    add(
        "--replay",
        type=number(0, 10),
        default=REPLAY,
        metavar="SHARE",
        help=(
            "old characters read again for each new one, lest the rest be forgotten (default:"
            f" {REPLAY})"
        ),
    )
    add(
        "--limit-chars",
        type=whole(1000),
        metavar="N",
        help=(
            f"new characters trained on at most (default: {LIMIT_CHARS['full']:,}; with --quick "
            f"{LIMIT_CHARS['quick']:,})"
        ),
    )
    add(
        "--workers",
        type=whole(1),
        default=cpu_count(),
        metavar="N",
        help="processes (default: one a core)",
    )
    add(
        "--device",
        choices=("auto", "cpu", "cuda", "mps"),
        default="auto",
        help="where to compute (default: auto = cuda, else mps, else cpu)",
    )
    args = parser.parse_args(argv)
    if bool(args.source) == bool(args.collections):
        parser.error("give either SOURCE or --collections")
    made = (
        re.sub(r"\W+", "_", args.collections or args.source.resolve().name.split(".")[0])
        .strip("_")
        .lower()
    )
    args.name = args.name or made[:40] or "mine"
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", args.name):
        parser.error(f"--name {args.name}: letters, digits, - and _ only, at most 40")
    args.limit_chars = args.limit_chars or LIMIT_CHARS["quick" if args.quick else "full"]
    return args


def open_base(root, args):
    """(loaded, checkpoint) of the base model; ends the script if there is none that can be gone on
    with."""
    again = f"python 07_train_best_and_generate.py{root_flags(args)}"
    if not (root / f"checkpoints/{args.model}.pt").exists():
        have = (
            ", ".join(sorted(path.stem for path in (root / "checkpoints").glob("*.pt"))) or "none"
        )
        fail(
            ME,
            f"there is no base model checkpoints/{args.model}.pt; there are: {have}",
            f"run: {again}, or give one of them to --model",
        )
    try:
        tokenizer = load_tokenizer(tokenizer_path(root, args.model))
        loaded = models.load_model(root, args.model, tokenizer, pick_device(args.device))
    except ValueError as error:
        fail(ME, str(error), f"run: {again}, or give another --model")
    return loaded, load_checkpoint(root / f"checkpoints/{args.model}.pt")[1]


def identity(source):
    """What decides the new text, as a JSON value without paths."""
    return (
        None
        if source is None
        else listing_digest(source) if source.is_dir() else file_digest(source)
    )


def read_music(root, args):
    """The new text; ends the script, before anything is written, if there is none."""
    try:
        if args.collections:
            return finetune.read_collections(root, args.collections, args.limit_chars, args.seed)
        with tempfile.TemporaryDirectory() as work:
            return finetune.read_source(
                args.source,
                Path(work),
                args.seed,
                args.workers,
                max_voices=MAX_VOICES,
                timeout=TIMEOUT,
                min_notes=MIN_NOTES,
                max_rest_share=MAX_REST_SHARE,
                limit_chars=args.limit_chars,
                min_chars=MIN_CHARS,
                max_chars=MAX_CHARS,
            )
    except Refused as error:
        fail(ME, f"{args.source}: {error}", "give a folder, an archive or a file of MIDI or ABC")
    except ValueError as error:
        fail(ME, f"--collections: {error}")


def describe_music(music, args):
    """Lines on what was found, and what of it is held out."""
    n, trained = music.counts, sum(len(row["text"]) for row in music.train)
    lines = [
        f"{n['files']:,} files, {n['tunes']:,} tunes in {n['groups']:,} groups (songs),"
        f" {n['characters']:,} characters"
        + "".join(f"; left out: {k:,} {why}" for why, k in music.left_out.items()),
        f"{trained:,} characters are trained on"
        + (f" (--limit-chars {args.limit_chars})" if trained > 0.9 * args.limit_chars else ""),
    ]
    if not music.test:
        return lines + [
            "only one song: nothing is held out, and what is learned of it cannot be told from"
            " what is learned by heart"
        ]
    return lines + [f"{n['held_out_groups']} of {n['groups']} groups are held out"]


def train_on(stage, folder, data, checkpoint, base):
    """Trains on from the base model's weights; returns the record."""
    weights = base.model.state_dict()
    start = weights_digest(weights)
    planned = finetune.plan_training(data, checkpoint, start, stage.args.seed)
    speed = calibrate(planned, data, base.device, 1.0)
    minutes = planned["epochs"] * len(data.train) / speed / 60 + MEASURING_MINUTES
    print(
        f"about {minutes:.1f} minutes on this machine: {planned['epochs']} epochs of"
        f" {len(data.train):,} tokens",
        flush=True,
    )
    try:
        return runs.train(
            folder, planned, data, base.device, again=stage.args.force, weights=weights
        )
    except training.Stopped as error:
        fail(ME, str(error), "the last good state is kept; the base model is as it was")


def measure(stage, folder, base, tuned, music, rest):
    """All that the report says of the fine-tuned model, and its samples' files."""
    args = stage.args
    found = finetune.losses(base, tuned, music, rest)
    prompts = finetune.prompts_of(music, tuned.tokenizer)
    free = finetune.draw(tuned, prompts, N_FREE, FREE_CHARS, args.seed + SEED_FREE)
    right = finetune.draw(tuned, prompts, N_SAMPLES, SAMPLE_CHARS, args.seed + SEED_RIGHT, "right")
    rows = finetune.write_samples(folder / "generated", right)
    metadata = {"model": f"finetuned_{args.name}", "samples": rows}
    write_json(folder / "generated/metadata.json", plain(metadata))
    found |= finetune.describe_samples(free, right, music)
    return found | {"samples": [row["file"] for row in rows]}


def in_words(report):
    """{key: value} that the stage prints last."""
    held, old, copying, valid = (
        report[key] for key in ("held_out", "old_text", "copying", "validity")
    )
    shown = {}
    if held:
        char, note = held["bits_per_char"], held["bits_per_note"]
        low, high = held["gain_bits_per_char_interval"]
        shown["held-out music, bits per character"] = (
            f"{char['before']:.3f} before, {char['after']:.3f} after (95 % interval of the gain:"
            f" {low:.3f} to {high:.3f})"
        )
        if held["notes"]:
            shown["bits per note"] = f"{note['before']:.2f} before, {note['after']:.2f} after"
    shown["old validation text, bits per character"] = (
        f"{old['before']:.3f} before, {old['after']:.3f} after"
    )
    sets = {"generated": "of free samples", "held_out": "of held-out music"}
    shown["copied from your music, runs of 32 characters"] = ", ".join(
        f"{copying[key]['copied_share']:.0%} {words}"
        for key, words in sets.items()
        if key in copying
    )
    sets = {"generated": "free", "right_bars": "bars redrawn", "held_out": "held-out music"}
    shown["valid at the first try"] = ", ".join(
        f"{valid[key]['rate']:.0%} {words}" for key, words in sets.items() if key in valid
    )
    return shown


def main(argv=None):
    args = parse_arguments(argv)
    root = resolve_root(args)
    base, checkpoint = open_base(root, args)
    stage = Stage(
        __file__,
        args,
        part=args.name,
        config={
            "source": identity(args.source),
            "collections": args.collections,
            "name": args.name,
            "replay": args.replay,
            "limit_chars": args.limit_chars,
            "base": base.digest,
        },
    )
    if stage.up_to_date():
        return
    folder = root / f"finetuned/{args.name}"
    try:
        old = load_data(root)
        if old.tokenizer_digest != base.tokenizer.digest:
            raise ValueError(f"{args.model} has another vocabulary than data/tokenizer.pkl")
        music = finetune.in_vocabulary(read_music(root, args), base.tokenizer)
    except ValueError as error:
        fail(ME, str(error), "nothing was changed")
    print("\n".join(describe_music(music, args)), flush=True)
    data, rest = finetune.mixed_data(music, old, base.tokenizer, args.replay, args.seed)
    with stage.writing():
        for split in ("train", "test"):
            text = "\n".join(row["text"] for row in getattr(music, split))
            write_text(folder / f"{split}.txt", text)
        record = train_on(stage, folder, data, checkpoint, base)
        record = finetune.adopt(folder, root, record, f"finetuned_{args.name}", base.tokenizer)
        tuned = models.load_model(root, record["name"], base.tokenizer, base.device)
        report = plain(
            {
                "name": record["name"],
                "base": args.model,
                "music": {**music.counts, "left_out": music.left_out},
                "train_chars": record["train_chars"],
                "replay": args.replay,
                "learning_rate": record["learning_rate"],
                "epochs": record["epochs_planned"],
                "seconds_of_training": record["seconds"],
                **measure(stage, folder, base, tuned, music, rest),
            },
            DIGITS,
        )
        write_json(folder / "report.json", report)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        stage.finish(
            [
                f"checkpoints/{record['name']}{end}"
                for end in (".pt", ".json", ".curve.jsonl", ".tokenizer.pkl")
            ]
            + [
                f"finetuned/{args.name}/{name}"
                for name in ("train.txt", "test.txt", "report.json", "generated")
            ],
            counts=music.counts,
            skipped=music.left_out,
            device=str(base.device),
            summary=in_words(report),
        )
        print(
            f"play with it: python 07_train_best_and_generate.py{root_flags(args)} --model"
            f" {record['name']}"
        )


if __name__ == "__main__":
    run(main)
