"""Writes docs/how_it_works.md: one tune on its way from MIDI to a sample of the model, with text
and picture at every station. All numbers are those of the root it is made from.

Reads:  a finished root: data/, checkpoints/best_model.pt, the chosen sampler
Writes: OUT/how_it_works.md, OUT/how_it_works/{midi,score,surprisal,sample}.png
Run:    python -m benchmarks.how_it_works --root quick [--tune "Ryan's Mammoth/STEEPLE CHASE --
    REEL.abc"] [--out docs]
"""

import argparse
import io
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from study.stages.arguments import folder, whole
from study.stages.stage import HERE, read_json, write_bytes, write_text

import matplotlib
import numpy as np
import symusic

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from common import BEGIN, load_tokenizer
from music.abc_text import Check, check_abc, read_abc
from music.excerpts import first_bars
from music.midi_to_abc import convert
from music.notation import pictures, to_png
from music.novelty import Novelty, run_in_words
from music.tunebook import body_start, split_tunebook
from music.validity import LEVELS, judge_texts, level_in_words
from study.evaluate import measurements
from study.evaluate.evaluation import load_player, sequence_rows
from study.evaluate.sampling import MODEL_ITSELF, Request, describe_sampler, generate
from study.prepare.conversion import plan
from study.train.loop import BLOCK_SIZE, load_data, n_windows

TUNE_CHARS = 240, 420  # of a tune that a page can show whole
PROMPT_BARS = 2  # of the tune, given to the model
SAMPLE_CHARS = 600  # drawn at most
SCORE_PIXELS = 1000  # width of a score's picture: 40-80 kB
SHOWN_NOTES = 6  # of the MIDI file
SHOWN_TOKENS = 12
LINE_CHARS = 110  # of ABC on the page
PAGE_CHARS = 118  # of a line of prose
WORST = 6  # most surprising characters that are listed


class Station(NamedTuple):
    """What the page tells of: a held-out tune, everything that became of it, and a sample that
    continues it."""

    origin: str  # path of its ABC file below data/abc_notation
    midi: bytes
    abc: str  # as stage 02 wrote it
    text: str  # as stage 03 wrote it: the training text's form
    row: dict  # of data/test_sequences.tsv
    stats: dict  # data/stats.json
    data: Any  # study.train.loop.Data
    tokenizer: Any
    bits: list  # surprisal of every character of `text` under the best model, and of its end
    sample: dict  # of study.evaluate.sampling.generate
    sampler: dict
    train_text: str


# ---------------------------------------------------------------- collecting


def pick_tune(rows, texts, wanted):
    """(row, text) of the tune `wanted` (its origin), or of the first of a length to be shown that
    is music in one voice and has one piece; ends the script if there is none."""
    for row, text in zip(rows, texts):
        if wanted and row["origin"] == wanted:
            return row, text
        check = check_abc(text)
        if (
            not wanted
            and row["n_pieces"] == "1"
            and check.n_voices == 1
            and check.level == len(LEVELS)
            and TUNE_CHARS[0] <= len(text) <= TUNE_CHARS[1]
            and first_bars(text, PROMPT_BARS)
        ):
            return row, text
    sys.exit(
        "benchmarks.how_it_works: no such tune in the test split"
        f" ({wanted or 'one voice, short'})\n  -> --tune takes an origin from"
        " data/test_sequences.tsv"
    )


def collect(root, wanted, seed):
    """Everything that the page tells, from a finished root; ends the script if it is not
    finished."""
    try:
        tokenizer = load_tokenizer(root / "data/tokenizer.pkl")
        player, data = load_player(root, "best_model", tokenizer), load_data(root)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(
            f"benchmarks.how_it_works: {error}\n  -> --root is the folder of a finished run, e.g."
            " quick"
        )
    texts = split_tunebook((root / "data/test.txt").read_text(encoding="utf-8"), any_text=True)
    row, text = pick_tune(sequence_rows(root, "test"), texts, wanted)
    raw = root / "data/raw_midi"
    midi = (raw / {abc: midi for midi, abc in plan(raw)}[row["origin"]]).read_bytes()
    sampler = (measurements.read(root, "sweep") or {}).get("chosen") or MODEL_ITSELF
    sampler = {key: sampler[key] for key in MODEL_ITSELF}
    # the whole tune as a prompt gives the surprisal of its every character, in the context that
    # training had
    read, sample = generate(
        player.model,
        tokenizer,
        [
            Request(prompt=text, max_chars=1),
            Request(
                prompt=first_bars(text, PROMPT_BARS), seed=seed, max_chars=SAMPLE_CHARS, **sampler
            ),
        ],
    )
    abc = (root / "data/abc_notation" / row["origin"]).read_text(encoding="utf-8")
    return Station(
        row["origin"],
        midi,
        abc,
        text,
        row,
        read_json(root / "data/stats.json"),
        data,
        tokenizer,
        read["surprisal_bits"][: len(text)],
        sample,
        sampler,
        (root / "data/train.txt").read_text(encoding="utf-8"),
    )


# ---------------------------------------------------------------- pictures


def png(figure):
    """The figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def midi_picture(data):
    """The notes of a MIDI file as boxes: time to the right, pitch upward."""
    score = symusic.Score.from_midi(data)
    figure, roll = plt.subplots(figsize=(10, 2.6), layout="constrained")
    for track in score.tracks:
        for note in track.notes:
            roll.add_patch(
                plt.Rectangle(
                    (note.time / score.tpq, note.pitch - 0.5),
                    note.duration / score.tpq,
                    1,
                    facecolor="#1b6ca8",
                    edgecolor="white",
                    linewidth=0.5,
                )
            )
    roll.autoscale()
    roll.set(xlabel="quarter notes from the start", ylabel="MIDI pitch (60: middle C)")
    return png(figure)


def surprisal_picture(text, bits):
    """A text on a grid, every character on a ground that is the darker the less the model expected
    it."""
    lines, line = [], []
    for character, surprise in zip(text, bits):
        line.append(("⏎" if character == "\n" else character, surprise))
        if character == "\n":
            lines, line = [*lines, line], []
    lines += [line] if line else []
    width, colours = max(map(len, lines)), plt.get_cmap("YlOrRd")
    figure, grid = plt.subplots(figsize=(10, 0.3 * len(lines) + 0.7), layout="constrained")
    for y, line in enumerate(lines):
        for x, (character, surprise) in enumerate(line):
            strength = min(surprise / 6, 1)  # six bits: the character had one chance in 64
            grid.add_patch(
                plt.Rectangle((x, -y), 1, 1, color=colours(strength * 0.85), linewidth=0)
            )
            grid.text(
                x + 0.5,
                0.42 - y,
                character,
                ha="center",
                va="center",
                family="DejaVu Sans Mono",
                fontsize=8,
            )
    grid.set(xlim=(0, width), ylim=(1 - len(lines), 1))
    grid.axis("off")
    figure.colorbar(
        plt.cm.ScalarMappable(
            plt.Normalize(0, 6), matplotlib.colors.ListedColormap(colours(np.linspace(0, 0.85, 64)))
        ),
        ax=grid,
        orientation="horizontal",
        aspect=60,
        pad=0.02,
        label="bits: -log2 of the probability that the model gave the character",
    )
    return png(figure)


def score_picture(text, n_given=0):
    """The engraved score of a text as PNG bytes, its first n_given characters in grey; ends the
    script without one."""
    drawn = pictures(text, n_given)
    if not drawn.score_svg:
        sys.exit(
            f"benchmarks.how_it_works: no score: {drawn.reasons}\n  -> pip install -r"
            " requirements.txt"
        )
    return to_png(drawn.score_svg, SCORE_PIXELS)


# ---------------------------------------------------------------- the page


def block(text):
    """A code block whose long lines go on in the next."""
    lines = [
        part
        for line in text.rstrip("\n").split("\n")
        for part in textwrap.wrap(
            line, LINE_CHARS, break_on_hyphens=False, drop_whitespace=False
        ) or [""]
    ]
    return "\n".join(["```text", *lines, "```"])


def table(head, *rows):
    """A Markdown table; a bar in a cell does not end it."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in (head, *rows)]
    return "\n".join(
        "| " + " | ".join(row) + " |" for row in (cells[0], ["---"] * len(head), *cells[1:])
    )


def shown(character):
    """A character in a table."""
    return "line end" if character == "\n" else f"`{character}`"


def mean(values):
    """Mean of the bits of some characters, two digits."""
    return f"{np.mean(values):.2f}" if len(values) else "none"


def midi_section(tale):
    score, (_, counts) = symusic.Score.from_midi(tale.midi), convert(tale.midi, "tune")
    n_read = sum(len(voice.notes) for voice in read_abc(tale.abc).voices)
    notes = sorted(
        (note.time, note.pitch, note.duration) for track in score.tracks for note in track.notes
    )
    return f"""## 1. A MIDI file

Stage 01 collects MIDI files. Such a file holds key strokes and nothing of a score: when a key goes down, which one, and
for how long. Time is counted in ticks, {score.tpq} to the quarter note here. The first of {len(notes)} notes:

{table(["starts at tick", "pitch", "lasts ticks"], *notes[:SHOWN_NOTES])}

![All notes of the file](how_it_works/midi.png)

## 2. The same tune as text

Stage 02 finds the beats, puts every onset on a grid, spells the pitches in a key and writes ABC. `M:` is the meter,
`L:` the length that a letter without a number has, `K:` the key; `c2` lasts two of these lengths, `|` ends a bar.

{block(tale.abc)}

![The text, engraved](how_it_works/score.png)

Read back, the text has {n_read} notes in {counts["bars"]} bars. In the median an onset was moved by
{counts["error"]:.3f} quarter notes."""


def text_section(tale):
    splits, n = tale.stats["splits"], len(tale.data.train)
    return f"""## 3. Training text

Stage 03 takes the title away, so that no model can learn it by heart. It finds copies and other settings of the same
song, and puts each such group whole into one split. This tune's group is `{tale.row["group"]}`; it landed in the test
split, so no model was trained on it.

{table(["split", "tunes", "characters"], *([split, f"{splits[split]['tunes']:,}", f"{splits[split]['characters']:,}"]
                                           for split in ("train", "val", "test")))}

## 4. Tokens

A token is a character. The vocabulary is what the training text has: {tale.tokenizer.vocab_size} tokens with three
that are no character (0 begins a tune, 1 ends it, 2 is a character never seen). The tune becomes {len(tale.text) + 2}
numbers:

{table(["character", "begin", *map(shown, tale.text[:SHOWN_TOKENS]), "..."],
       ["token", BEGIN, *tale.tokenizer.encode(tale.text[:SHOWN_TOKENS]).tolist(), "..."])}

## 5. Windows

The training text is one row of {n:,} tokens. An epoch shuffles its tunes, joins them and cuts them into
{n_windows(n):,} windows of {BLOCK_SIZE} tokens. In a window the model predicts every token from those before it, all
at once: after `X` comes `:`, after `X:` comes `1`, and so on. Each token is a target once in an epoch."""


def loss_section(tale):
    bits, start = np.array(tale.bits), body_start(tale.text)
    middle = (start + len(tale.text)) // 2
    worst = sorted(np.argsort(-bits)[:WORST])
    rows = [
        [
            f"`{tale.text[max(0, i - 12):i]}`".replace("\n", " "),
            shown(tale.text[i]),
            f"{bits[i]:.1f}",
            f"{2 ** -bits[i]:.2%}",
        ]
        for i in worst
    ]
    return f"""## 6. Loss

The best model gives every character a probability. Its surprisal is -log2 of that, in bits: 0 if the model was sure,
1 if it gave one half. The loss is the mean. For this tune it is {mean(bits)} bits per character: {mean(bits[:start])}
in the header, {mean(bits[start:middle])} in the first half of the music, {mean(bits[middle:])} in the second.

![Surprisal of every character](how_it_works/surprisal.png)

{table([f"the {WORST} greatest surprises come after", "character", "bits", "probability"], *rows)}"""


def sample_section(tale):
    sample, n_given = tale.sample, len(tale.sample["prompt"])
    copied, own = Novelty(tale.train_text).measure([sample, tale.text])["samples"]
    checks = check_abc(sample["text"], n_given), check_abc(tale.text)
    verdicts = judge_texts([sample["text"], tale.text]) or [None, None]
    ended = {
        "end": "The model ended the tune",
        "budget": f"It was stopped after {SAMPLE_CHARS} characters",
        "stuck": "It found no right bar any more",
    }[sample["stop_reason"]]

    def row(words, value):
        return [words, *map(value, checks)]

    names = {
        "header": "the header can be read",
        "tokens": "every character is ABC",
        "content": "there is enough music",
        "meter": "every bar has its meter's length",
        "aligned": "all voices have the same bars",
    }
    assert set(names) == set(LEVELS) <= set(Check._fields), "a check without words"
    rows = [
        row(names[level], lambda check, level=level: "yes" if getattr(check, level) else "no")
        for level in LEVELS
    ]
    judged = [
        "not installed" if verdict is None else "yes" if verdict["clean"] else "no"
        for verdict in verdicts
    ]
    return f"""## 7. A sample

Stage 07 gives a model a beginning and draws one character after the other. Here: the header and the first {PROMPT_BARS}
bars of the tune, {describe_sampler(tale.sampler)}, seed {sample["seed"]}. {ended}.

{block(sample["text"])}

![The sample, engraved; grey is what was given](how_it_works/sample.png)

## 8. Its checks

Only what the model wrote is judged. Beside it stands the tune itself, by a human.

{table(["question", "sample", "tune"], *rows, ["abc2midi reads it without a complaint", *judged],
       ["notes", checks[0].n_notes, checks[1].n_notes],
       ["longest run copied from the training text, characters", run_in_words(copied["longest_copied_chars"]),
        run_in_words(own["longest_copied_chars"])],
       ["bits per character under the model", mean(sample["surprisal_bits"][n_given:]), mean(tale.bits)])}

The sample reaches {level_in_words(checks[0].level)}. Stages 04 to 06 ask how the loss of station 6 falls with the
size of the model; stage 07 asks what of these checks comes with it."""


def reflowed(text):
    """Markdown whose paragraphs are filled anew, after numbers were put into them; code, tables and
    pictures stay."""
    return "\n\n".join(
        (
            part
            if part.startswith(("```", "|", "#", "!", "<"))
            else textwrap.fill(part, PAGE_CHARS, break_long_words=False, break_on_hyphens=False)
        )
        for part in text.split("\n\n")
    )


def page(tale):
    """The page's text, at most 150 lines."""
    begin = f"""# How it works: one tune from MIDI to sample

<!-- written by `python -m benchmarks.how_it_works --root ROOT`; every number is that run's -->

*{Path(tale.origin).stem}*, from the collection *{Path(tale.origin).parent}*, goes through all stations of the study."""
    return (
        reflowed(
            "\n\n".join(
                [
                    begin,
                    midi_section(tale),
                    text_section(tale),
                    loss_section(tale),
                    sample_section(tale),
                ]
            )
        )
        + "\n"
    )


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=folder, default=HERE / "quick", metavar="DIR")
    parser.add_argument(
        "--tune", metavar="ORIGIN", help="of the test split (default: the first that fits a page)"
    )
    parser.add_argument(
        "--seed", type=whole(0), default=0, metavar="N", help="of the sample (default: 0)"
    )
    parser.add_argument("--out", type=folder, default=HERE / "docs", metavar="DIR")
    args = parser.parse_args(argv)
    tale = collect(args.root, args.tune, args.seed)
    drawn = {
        "midi": midi_picture(tale.midi),
        "score": score_picture(tale.text),
        "surprisal": surprisal_picture(tale.text, tale.bits),
        "sample": score_picture(tale.sample["text"], len(tale.sample["prompt"])),
    }
    for name, data in drawn.items():
        write_bytes(args.out / f"how_it_works/{name}.png", data)
    text = page(tale)
    write_text(args.out / "how_it_works.md", text)
    print(
        f"{args.out}/how_it_works.md: {len(text.splitlines())} lines, {len(drawn)} pictures of "
        f"{sum(map(len, drawn.values())) / 1000:.0f} kB together"
    )


if __name__ == "__main__":
    main()
