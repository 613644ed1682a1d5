"""Makes training text of ABC tunes: groups of the same song, leak-free splits, tokens, baselines.

Reads:  data/abc_notation/**/*.abc (stage 02), or --abc PATH (.abc files, tunebooks), or
            --from-splits DIR (ready text)
Writes, in data/:
        {train,val,test}.txt             sequences of 101 to 4,999 characters, an empty line between
        tokenizer.pkl                    vocabulary: the characters of train.txt, or see --vocab
        {train,val,test}_tokens.npy      1-D, smallest integer type: BEGIN sequence END BEGIN ...
        {train,val,test}_sequences.tsv   file, group, piece, first bar, place in the tokens
        baselines.json                   uniform, unigram, 6-gram, PPMd, xz: bits per character
        stats.json, figures/data.*       duplicates, filters, lengths, music, overlap with train
        failed_abc.txt                   with --abc: tunes that cannot be read, line and reason
Run:    python 03_tokenize_split.py [--limit-chars N] [--abc PATH] ...
Prints last: tunes, groups, what was left out, characters per split, strongest baseline, overlap.

Which split a tune lands in depends on its group (see study/prepare/groups.py) and the seed alone;
no file depends on the number of workers or the order of files on disk.
"""

import functools
import tempfile

# first of all: from here on Ctrl-C shows no traceback, however long the rest takes to load
from study.stages.arguments import existing, fail, resolve_root, stage_parser, whole
from study.stages.files import (
    TEMPORARY,
    file_digest,
    tree_files,
    value_digest,
    write_bytes,
    write_json,
    write_text,
)
from study.stages.process import add_workers, run
from study.stages.stage import Stage

from common import TOKENIZERS
from study.prepare import baselines, data_report, groups, reading, selection, split_files
from study.prepare.fetch import in_words
from study.prepare.figures import draw_data
from study.prepare.reading import MAX_CHARS
from study.prepare.selection import SPLITS

ME = "03_tokenize_split.py"
TOKENIZER = "char"  # of the study; one of common.TOKENIZERS
SMALL_TEXT = 100_000  # training characters from which a model trained from nothing learns little


def parse_arguments(argv):
    parser = stage_parser(__doc__)
    source, add = parser.add_mutually_exclusive_group(), parser.add_argument
    tunes = "read this tunebook, or the .abc files below this folder, e.g. ~/tunes"
    source.add_argument("--abc", type=existing, metavar="PATH", help=tunes)
    ready = "take train.txt, val.txt and test.txt of a folder as they are, e.g. ~/text"
    source.add_argument("--from-splits", type=existing, metavar="DIR", help=ready)
    add("--abc-raw", action="store_true", help="with --abc: keep the text as it is (default: mend)")
    limit = "characters of all splits together, spread evenly over the groups (default: all)"
    add("--limit-chars", type=whole(1), metavar="N", help=limit)
    tag = "name each tune's first-level folder in its header, for prompts like R:bach"
    add("--tag", choices=("collection",), help=tag)
    token = "a character, a whole note, or an event (compare events in nats per note)"
    vocab = {"choices": tuple(TOKENIZERS), "default": TOKENIZER}
    add("--vocab", **vocab, help=f"what a token is: {token} (default: {TOKENIZER})")
    add_workers(parser)
    args = parser.parse_args(argv)
    args.mend = bool(args.abc) and not args.abc_raw
    if args.abc_raw and not args.abc:
        parser.error("--abc-raw goes with --abc")
    if args.from_splits and (args.limit_chars or args.tag):
        parser.error("--from-splits takes the text as it is: --limit-chars and --tag do not apply")
    return args


def source_files(args):
    """Returns (folder, relative paths) of what is to be read."""
    folder = args.abc or args.from_splits or resolve_root(args) / "data/abc_notation"
    if args.from_splits:
        names = [f"{split}.txt" for split in SPLITS]
        missing = ", ".join(name for name in names if not (folder / name).is_file())
        if missing:
            mend = "name a folder with train.txt, val.txt and test.txt"
            fail(ME, f"--from-splits {folder}: no {missing}", mend)
        return folder, names
    if folder.is_file():
        return folder.parent, [folder.name]
    names = tree_files(folder) if folder.is_dir() else []
    return folder, [name for name in names if name.lower().endswith(".abc")]


def open_stage(args):
    """Returns (stage, folder, relative paths of what it reads); ends the script if there is none."""
    config = {flag: getattr(args, flag) for flag in ("limit_chars", "abc_raw", "vocab", "tag")}
    config |= {"abc": bool(args.abc), "from_splits": bool(args.from_splits)}
    outside = args.abc or args.from_splits
    # first, as it says what stage 02 has left undone
    stage = None if outside else Stage(__file__, args, config)
    folder, names = source_files(args)
    if not names:
        mend = None if outside else "run: python 02_midi_to_abc.py" + stage.flags
        fail(ME, f"there is no .abc file in {folder.name}", mend)
    if outside:  # no manifest tells what is in there
        digests = [(name, file_digest(folder / name)) for name in names]
        stage = Stage(__file__, args, {**config, "source": value_digest(digests)}, reads=())
    return stage, folder, names


def read_and_split(args, folder, names, spool):
    """Returns ({split: sequences}, all tunes, tunes that stay, report for stats.json)."""
    if args.from_splits:
        texts = [(name, (folder / name).read_bytes()) for name in names]
        jobs = [(name, part) for name, text in texts for part in reading.ready_parts(text)]
        tunes = reading.read_all(reading.read_ready, jobs, args.workers, spool)
        return selection.split_ready(tunes, args.seed), tunes, tunes, {"groups": None}
    jobs = [(str(folder / name), name) for name in names]
    max_chars = MAX_CHARS - (reading.TAG_CHARS + 3 if args.tag else 0)  # a line R: more
    reader = functools.partial(reading.read_file, mend=args.mend, max_chars=max_chars)
    tunes = reading.read_all(reader, jobs, args.workers, spool)
    if not tunes:
        fail(ME, f"there is no tune in the .abc files of {folder.name}")
    if not args.abc:
        groups.name_by_works(tunes, selection.read_works(folder.parent / "conversion.tsv"))
    parts, kept, report = selection.split_groups(tunes, args.seed, args.limit_chars)
    if args.tag:
        n_tagged, n = reading.tag_sequences(parts, spool, args.seed), sum(map(len, parts.values()))
        print(f"the collection stands in the headers of {n_tagged:,} of {n:,} sequences (R:)")
    n_train = sum(sequence["chars"] for sequence in parts["train"])
    if n_train < SMALL_TEXT:
        print(
            f"{n_train:,} characters are little: a model trained on them alone learns to keep bars"
            " and to recite; 08_finetune.py goes on from a trained model with your music"
        )
    return parts, tunes, kept, report


def write_splits(data, parts, spool, vocab):
    """Writes the splits' text, the vocabulary of the training text, and tokens; returns (tokenizer,
    {split: (Counter of characters, notes, tokens)})."""
    written = {split: split_files.write_split(data, split, parts[split], spool) for split in SPLITS}
    tokenizer = TOKENIZERS[vocab]((data / "train.txt").read_bytes().decode())
    write_bytes(data / "tokenizer.pkl", tokenizer.dumps())
    for split in SPLITS:
        n_tokens = split_files.write_tokens(data, split, parts[split], spool, tokenizer)
        written[split] += (n_tokens,)
    return tokenizer, written


def closing_block(stats, baseline_rows):
    """Returns {key: value} that the stage prints last."""
    n_chars = {split: stats["splits"][split]["characters"] for split in SPLITS}
    unknown = sum(sum(part.values()) for part in stats["vocabulary"]["unknown_in"].values())
    of_test = baseline_rows["test"]
    best = min(of_test, key=lambda name: of_test[name]["bits_per_char"])
    left_out, bits, leaks = [], [], []
    for reason, n in stats.get("dropped_tunes", {}).items():
        origins = stats["dropped_names"].get(reason)
        names = f" ({selection.named(origins, n)})" if origins else ""
        left_out.append(f"{reason}: {n:,}{names}")
    for split in baselines.ASKED:
        loss = baseline_rows[split][best]["bits_per_char"]
        bits.append(f"{loss:.3f} bits per character on {split}")
        leak = stats["overlap_with_train"][split]["48"]
        leaks.append(
            f"{leak['share_of_all_windows']:.3%} of {split}'s windows of 48 characters,"
            f" {leak['share_without_repeated_figures']:.3%} without repeated figures"
        )
    in_groups = f" in {stats['groups']:,} groups (songs)" if stats["groups"] else ""
    characters = ", ".join(f"{n:,} {split}" for split, n in n_chars.items())
    train_share = round(100 * n_chars["train"] / sum(n_chars.values()))
    return {
        "tunes": f"{stats['tunes']:,}{in_groups}",
        "left out": "; ".join(left_out) or "none",
        "mended": in_words(stats.get("mended", {})) or "none",
        "characters": f"{characters}: {train_share} of 100 train",
        "vocabulary": f"{stats['vocabulary']['size']}, {unknown:,} characters unknown to train",
        f"strongest baseline, {of_test[best]['label']}": ", ".join(bits),
        "also in train": "; ".join(leaks),
    }


def main(argv=None):
    args = parse_arguments(argv)
    stage, folder, names = open_stage(args)
    if stage.up_to_date():
        return
    data = stage.root / "data"
    data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=data, prefix=TEMPORARY) as spool:
        parts, tunes, kept, report = read_and_split(args, folder, names, spool)
        with stage.writing():
            tokenizer, written = write_splits(data, parts, spool, args.vocab)
            files = split_files.character_files(data, parts, spool, tokenizer, written["train"][0])
            with files as (arrays, n_characters):
                results = data_report.measure_all(data, arrays, n_characters, args.workers)
            overlap, n_chars = {}, {}
            for i, split in enumerate(baselines.ASKED):
                texts = [reading.text_of(sequence, spool) for sequence in parts[split]]
                n_chars[split] = sum(map(len, texts)) + len(texts)
                overlap[split] = {
                    f"{width}": data_report.overlap_statistics(results[width][i], texts, width)
                    for width in data_report.WIDTHS
                }
            stats = data_report.statistics(tunes, kept, report, parts, written, tokenizer, overlap)
            baseline_rows = baselines.summarise(results, n_characters, n_chars)
            digest = {"tokenizer_digest": tokenizer.digest}
            write_json(data / "baselines.json", {**baseline_rows, **digest})
            write_json(data / "stats.json", stats)
            outputs = ["tokenizer.pkl", "baselines.json", "stats.json"]
            for split in SPLITS:
                outputs += [f"{split}{end}" for end in (".txt", "_tokens.npy", "_sequences.tsv")]
            drawn = draw_data(data / "figures", kept, parts, overlap)
            outputs += [f"figures/{name}" for name in drawn]
            if args.mend:
                failed = [f"{t['origin']}\t{t['reason']}\n" for t in tunes if t["reason"]]
                write_text(data / "failed_abc.txt", "".join(failed))
                outputs.append("failed_abc.txt")
            counts = {"tunes": len(tunes), "groups": stats["groups"]}
            for split in SPLITS:
                for what in ("characters", "tokens", "sequences", "groups"):
                    counts[f"{split}_{what}"] = stats["splits"][split][what]
            skipped = dict(stats.get("dropped_tunes", {}))
            skipped["short sequences"] = stats.get("short_sequences", 0)
            made = [f"data/{name}" for name in outputs]
            summary = closing_block(stats, baseline_rows)
            stage.finish(made, counts, skipped, summary, extra=digest)


if __name__ == "__main__":
    run(main)
