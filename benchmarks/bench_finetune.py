"""Is it that style? Fine-tunes a model to each collection of a root, and asks two judges what came
of it.

Run: python -m benchmarks.bench_finetune --root quick [--styles bach,oneills,ryans,airds]
    [--limit-chars 60000]
     python -m benchmarks.bench_finetune --root ROOT --tags NAME --beside PLAIN
First judge: the fine-tuned model under which a held-out tune is likeliest, each tune read alone.
Second judge, of
samples: PPMd given equally much training text of each collection; it knows nothing of the models.
--tags: a model of text that 03 --tag collection made, beside the model of that name in a root
    without tags.
Prints tables; benchmarks/finetune.md holds the figures.
"""

import argparse
import re
import tempfile
from pathlib import Path

import numpy as np

from common import load_tokenizer
from music.training_text import tagged
from music.validity import share
from study.evaluate import evaluation
from study.finetune import finetune
from study.prepare.reading import style_of
from study.train import loop as training
from study.train import runs
from study.train.checkpoints import load_checkpoint, weights_digest

# samples a style, characters drawn at most; held-out tunes a style at most
N_SAMPLES, CHARS, N_HELD = 20, 600, 60
REPLAY = 0.5  # as in 08_finetune.py


def in_words(row):
    """A share with its interval."""
    low, high = row["interval"]
    return f"{row['rate']:.0%} ({low:.0%} to {high:.0%}), n = {row['n']}"


def tuned(root, base, name, limit_chars):
    """The base model of a root fine-tuned to a collection, as stage 08 does it, without what it
    measures. Kept below root/finetuned/bench, so that a run that was stopped goes on."""
    tokenizer, old = load_tokenizer(root / "data/tokenizer.pkl"), training.load_data(root)
    model, checkpoint = load_checkpoint(root / f"checkpoints/{base}.pt")
    music = finetune.read_collections(root, name, limit_chars, 0)
    places = finetune.places_in(tokenizer, tokenizer)
    weights = finetune.grown_weights(model, checkpoint["config"], places, tokenizer.vocab_size)
    data, _ = finetune.mixed_data(music, old, places, tokenizer, REPLAY, 0)
    folder = root / f"finetuned/bench/{base}/{name}"
    records = [
        runs.train(folder, run, data, "cpu", weights=weights)
        for run in finetune.plan_runs(data, checkpoint, weights_digest(weights), 0, False)
    ]
    best = min(records, key=lambda record: record["val_nats_per_char"])
    print(
        f"{name}: {len(data.train):,} tokens, {best['name']}; held out"
        f" {best['test_bits_per_char']:.3f} bits per character, before"
        f" {training.evaluate(model, data.test, data.token_chars, 'cpu')['bits_per_char']:.3f}",
        flush=True,
    )
    return evaluation.load_player(folder, best["name"], tokenizer)


def styles(root, base, names, limit_chars):
    """Fine-tunes to each collection, then prints both judges' tables."""
    players, held, texts = {}, {}, {}
    for name in names:
        players[name] = tuned(root, base, name, limit_chars)
        music = finetune.read_collections(root, name, 10**9, 0)
        held[name] = [row["text"] for row in [*music.test, *music.val]][:N_HELD]
        texts[name] = "\n".join(row["text"] for row in music.train)
    nats = {
        name: np.stack(
            [
                finetune.nats_by_tune(
                    player,
                    [finetune.stream([{"text": text}], player.tokenizer) for text in held[name]],
                )
                for player in players.values()
            ]
        )
        for name in names
    }
    folk = [i for i, name in enumerate(names) if name != "bach"]
    right = {
        name: share(int((table.argmin(0) == i).sum()), table.shape[1])
        for i, (name, table) in enumerate(nats.items())
    }
    print(
        "likeliest of all models:",
        *(f"{name} {in_words(row)}" for name, row in right.items()),
        sep="\n  ",
    )
    if "bach" in names:
        bach, hits = names.index("bach"), []
        for name, table in nats.items():
            hits += ((table[bach] < table[folk].min(0)) == (name == "bach")).tolist()
        print("Bach against folk:", in_words(share(sum(hits), len(hits))))
    hits = [
        hit for i in folk for hit in (np.array(folk)[nats[names[i]][folk].argmin(0)] == i).tolist()
    ]
    print("among the folk books:", in_words(share(sum(hits), len(hits))))
    with tempfile.TemporaryDirectory() as work:
        for what in ("held-out tunes", "samples"):
            table = {}
            for name in names:
                given = held[name]
                if what == "samples":
                    prompts = finetune.prompts_of(
                        finetune.read_collections(root, name, 10**9, 0), players[name].tokenizer
                    )
                    given = [
                        row["text"]
                        for row in finetune.draw(players[name], prompts, N_SAMPLES, CHARS, 0)
                    ]
                table[name] = finetune.assigned(given, texts, Path(work))
            hits = [hit for i, name in enumerate(names) for hit in (table[name] == i).tolist()]
            print(
                f"PPMd's judgement of {what}:",
                in_words(share(sum(hits), len(hits))),
                *(
                    f"  {name}: "
                    + ", ".join(
                        f"{n} {other}"
                        for other, n in zip(
                            names, np.bincount(table[name], minlength=len(names)).tolist()
                        )
                    )
                    for name in names
                ),
                sep="\n",
            )


def tags(root, name, beside):
    """Bits per character of the validation text by a model of tagged text: with the true collection
    in the header, with another one, and without; beside the model of this name in another root,
    which never saw a tag."""
    player, plain = (
        evaluation.load_player(place, name, load_tokenizer(place / "data/tokenizer.pkl"))
        for place in (root, beside)
    )
    rows = evaluation.sequence_rows(root, "val")
    texts = [
        player.tokenizer.decode(part[1:-1])
        for part in finetune.sequences_of(training.load_data(root).val)
    ]
    true = [style_of(row["origin"]) for row in rows]
    every = sorted(set(true))
    bare = [re.sub(r"^X:1\nR:.*\n", "X:1\n", text) for text in texts]

    def bits_of_body(given, player=player):
        """Bits by tune of what follows the tag and `M:`, so that whether there is a tag costs
        nothing."""
        tokens = [finetune.stream([{"text": text}], player.tokenizer) for text in given]
        heads = [re.match(r"X:1\n(R:.*\n)?(M:)?", text).end() for text in given]
        whole = finetune.nats_by_tune(player, tokens)
        head = finetune.nats_by_tune(player, [part[: 1 + n] for part, n in zip(tokens, heads)])
        return (whole - head) / np.log(2)

    with_tag = {style: bits_of_body([tagged(text, style) for text in bare]) for style in every}
    none, never = bits_of_body(bare), bits_of_body(bare, plain)
    # without X:1, its line's end and M:, with the end of the tune
    n_chars = sum(len(text) - 5 for text in bare)
    right = sum(with_tag[style][i] for i, style in enumerate(true))
    wrong = sum(
        np.mean([with_tag[style][i] for style in every if style != true[i]])
        for i in range(len(bare))
    )
    guessed = [
        min(every, key=lambda style: with_tag[style][i]) == true[i] for i in range(len(bare))
    ]
    print(
        f"bits per character: true tag {right / n_chars:.4f}, wrong tag {wrong / n_chars:.4f}, no"
        f" tag {none.sum() / n_chars:.4f}; a model without tags {never.sum() / n_chars:.4f}; the"
        f" true tag is the likeliest: {in_words(share(sum(guessed), len(guessed)))}"
    )


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument(
        "--model", default="best_model", help="that is fine-tuned (default: %(default)s)"
    )
    parser.add_argument("--styles", default="bach,oneills,ryans,airds")
    parser.add_argument("--limit-chars", type=int, default=60_000)
    parser.add_argument("--tags", metavar="NAME")
    parser.add_argument("--beside", type=Path, metavar="PLAIN")
    args = parser.parse_args()
    if args.tags:
        tags(args.root, args.tags, args.beside)
    else:
        styles(args.root, args.model, args.styles.split(","), args.limit_chars)


if __name__ == "__main__":
    main()
