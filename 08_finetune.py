"""Fine-tunes a trained model to your own music: a folder, an archive or a file.

Reads:  SOURCE (MIDI, scores or ABC); data/ (stage 03), the checkpoint of --model
Writes: checkpoints/finetuned_NAME.pt, .json, .curve.jsonl, .tokenizer.pkl (its vocabulary)
        finetuned/NAME/{train,test}.txt   your music as training text; test is held out
        finetuned/NAME/generated/         ten samples with right bars, pictures, metadata
        finetuned/NAME/report.json        what was gained and what forgotten
Run:    python 08_finetune.py ~/my_midi [--quick] [--name NAME] [--model best_model]
        python 07_train_best_and_generate.py --model finetuned_NAME     (plays with it)
The base model and the run's own data stay as they are. A song is either trained on or held out, in
all its versions. Prints the expected minutes first, what was gained and what was forgotten last.
"""

import re
import tempfile
from pathlib import Path

# first of all: from here on Ctrl-C shows no traceback, however long the rest takes to load
from study.stages.arguments import existing, fail, name_list, resolve_root, root_flags, stage_parser
from study.stages.files import file_digest, plain, write_bytes, write_json, write_text
from study.stages.manifest import BEST
from study.stages.process import run
from study.stages.stage import Stage

from common import pick_device
from study.evaluate import models
from study.finetune import finetune
from study.prepare.fetch import Refused, listing_digest
from study.train import runs
from study.train.calibrate import expected_minutes
from study.train.data import load_data
from study.train.loop import Stopped

LIMIT_CHARS, QUICK_CHARS = 3_000_000, 250_000  # of new training text, spread evenly over groups
N_SAMPLES, SAMPLE_CHARS = 10, 2000  # to look at and hear, with right bars
FIRST_SEED = 90_000  # of the samples: no other set's
MEASURING_MINUTES = 1.0  # what follows the training
ME = "08_finetune.py"


def parse_arguments(argv):
    """Returns the arguments; the model's name is made from the source's if none is given."""
    parser = stage_parser(__doc__, training=True)
    add = parser.add_argument
    kinds = "folder, .tar.gz, .tar, .zip or a single file: MIDI, MusicXML, kern or ABC"
    add("source", type=existing, metavar="SOURCE", help=kinds)
    name = "of the model, finetuned_NAME (default: made from the source's)"
    add("--name", metavar="NAME", help=name)
    base = f"start from checkpoints/BASE.pt, or study, the model that ships (default: {BEST})"
    add("--model", type=name_list, default=BEST, metavar="BASE", help=base)
    args = parser.parse_args(argv)
    if args.name is None:
        source = args.source.resolve().name.split(".")[0]
        args.name = re.sub(r"[^a-z0-9]+", "_", source.lower()).strip("_")[:40] or "mine"
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", args.name):
        parser.error(f"--name {args.name}: letters, digits, - and _ only, at most 40")
    return args


def read_texts(root, args, base):
    """Returns (Music, Data of the root); ends the script if one of them cannot be had."""
    limit = QUICK_CHARS if args.quick else LIMIT_CHARS
    try:
        old = load_data(root)
        if old.tokenizer_digest != base.tokenizer.digest:
            raise ValueError(f"{args.model} has another vocabulary than data/tokenizer.pkl")
        with tempfile.TemporaryDirectory() as work:
            source, folder = args.source, Path(work)
            return finetune.read_source(source, folder, base.tokenizer, args.seed, limit), old
    except Refused as error:
        mend = "give a folder, an archive or a file of MIDI, scores or ABC"
        fail(ME, f"{args.source}: {error}", mend)
    except ValueError as error:
        fail(ME, str(error), "nothing was changed")


def describe_music(music):
    """Says what was found, and what of it is held out."""
    n, trained = music.counts, sum(len(row["text"]) for row in music.train)
    left_out = "".join(f"; left out: {k:,} {why}" for why, k in music.left_out.items())
    held = f"{n['held_out_groups']} of {n['groups']} groups are held out"
    if not music.test:
        held = (
            "only one song: nothing is held out, and what is learned of it cannot be told from"
            " what is learned by heart"
        )
    return (
        f"{n['files']:,} files, {n['tunes']:,} tunes in {n['groups']:,} groups (songs),"
        f" {n['characters']:,} characters{left_out}\n{trained:,} characters are trained on\n{held}"
    )


def train_on(stage, base, data, name):
    """Trains on from the base model's weights; returns the record."""
    planned = finetune.plan_training(data, base, stage.args.seed, name)
    minutes = expected_minutes([planned], data, base.device)[0] + MEASURING_MINUTES
    work = f"{planned['epochs']} epochs of {len(data.train):,} tokens"
    print(f"about {minutes:.1f} minutes on this machine: {work}", flush=True)
    try:
        again, weights = stage.args.force, base.model.state_dict()
        return runs.train(stage.root, planned, data, base.device, again, weights)
    except Stopped as error:
        fail(ME, str(error), "the last good state is kept; the base model is as it was")


def in_words(report):
    """Returns {key: value} that the stage prints last."""
    held, shown, bits = report["held_out"], {}, "{before:.3f} before, {after:.3f} after"
    if held:
        low, high = held["gain_bits_per_char_interval"]
        interval = f"95 % interval of the gain: {low:.3f} to {high:.3f}"
        gain = bits.format(**held["bits_per_char"])
        shown["held-out music, bits per character"] = f"{gain} ({interval})"
    shown["old validation text, bits per character"] = bits.format(**report["old_text"])
    return shown


def main(argv=None):
    args = parse_arguments(argv)
    root = resolve_root(args)
    try:
        base = models.open_model(root, args.model, pick_device(args.device))
    except ValueError as error:
        mend = f"run: python 07_train_best_and_generate.py{root_flags(args)}"
        fail(ME, str(error), f"{mend}, or give another --model")
    digest = listing_digest if args.source.is_dir() else file_digest
    config = {"source": digest(args.source), "name": args.name, "base": base.digest}
    stage = Stage(__file__, args, config, part=args.name)
    if stage.up_to_date():
        return
    name, folder = f"finetuned_{args.name}", root / f"finetuned/{args.name}"
    music, old = read_texts(root, args, base)
    print(describe_music(music), flush=True)
    data = finetune.mixed_data(music, old, base.tokenizer, args.seed)
    with stage.writing():
        for split in ("train", "test"):
            texts = [row["text"] for row in getattr(music, split)]
            write_text(folder / f"{split}.txt", "\n".join(texts))
        record = train_on(stage, base, data, name)
        write_bytes(root / f"checkpoints/{name}.tokenizer.pkl", base.tokenizer.dumps())
        tuned = models.load_model(root, name, base.tokenizer, base.device)
        seed = FIRST_SEED + args.seed
        generated = folder / "generated"
        rows = finetune.write_samples(generated, tuned, music, N_SAMPLES, SAMPLE_CHARS, seed)
        write_json(generated / "metadata.json", plain({"model": name, "samples": rows}))
        report = {
            "name": name,
            "base": args.model,
            "music": {**music.counts, "left_out": music.left_out},
            "train_chars": record["train_chars"],
            "learning_rate": record["learning_rate"],
            "epochs": record["epochs_planned"],
            "seconds_of_training": record["seconds"],
            **finetune.gains(base, tuned, music, old),
            "samples": [row["file"] for row in rows],
        }
        write_json(folder / "report.json", plain(report, digits=6))
        ends = (".pt", ".json", ".curve.jsonl", ".tokenizer.pkl")
        parts = ("train.txt", "test.txt", "report.json", "generated")
        made = [f"checkpoints/{name}{end}" for end in ends]
        made += [f"finetuned/{args.name}/{part}" for part in parts]
        device = str(base.device)
        stage.finish(made, music.counts, music.left_out, in_words(report), device)
        flags = f"{root_flags(args)} --model {name}"
        print(f"play with it: python 07_train_best_and_generate.py{flags}")


if __name__ == "__main__":
    run(main)
