"""Compares characters, whole notes and events as tokens, in nats per note of the same tunes.

Reads:  ROOT/data/{train,val,test}.txt (stage 03, of whatever tokens)
Writes: OUT/events.csv, a row for each run; a run that has a row is not repeated
Run:    OMP_NUM_THREADS=1 python -m benchmarks.bench_events --root quick --out quick/events
            [--kinds char,note,event] [--models transformer:tiny,lstm:small] [--seeds 2,3] [--chars N]
            [--windows N] [--epochs N] [--rate-factor X] [--tunes 100]
        python -m benchmarks.bench_events --out quick/events --table    (the tables alone)
Prints tables in Markdown over all rows in OUT. All kinds train on the same tunes, at the rates
swept for characters unless --rate-factor says otherwise, and learn their vocabulary there. Nats are summed over a whole split and
divided by its notes as written; those of headers, of the layout (bar lines, line ends, voices,
changes of key and meter, ends of tunes) and of the music between them stand beside their sum. With
--tunes each model also draws so many, which are judged as stage 07 judges them.
"""

import argparse
import csv
import importlib
import re
import time
from pathlib import Path

import numpy as np
import symusic
import torch
import torch.nn.functional as F
from scipy import stats

from study.stages.arguments import list_of
from study.stages.files import write_text

from common import BEGIN, END, IGNORE, N_SPECIAL, TOKENIZERS, UNKNOWN
from music.abc_text import read_abc
from music.metrics import as_tune, skills
from music.notation import midi_score
from music.samples import mean_of_known
from music.tunebook import split_tunebook
from study.evaluate.induction import costs_of_bars, read_tunes, repeats_of
from study.evaluate.models import LoadedModel
from study.evaluate.rating import control
from study.evaluate.sampling import generate, unprompted
from study.families import FAMILIES, label
from study.fit.records import csv_text
from study.prepare.split_files import count_notes
from study.train.data import BLOCK_SIZE, Data, cut_windows, n_windows
from study.train.loop import Loop
from study.train.runs import RunSpec, plan_run

MODELS = "transformer:tiny,transformer:small,lstm:tiny,lstm:small"
LAYOUT = re.compile(r"\||\n|\[[A-Za-z]:[^]]*\]")
PARTS = ("music", "layout", "header")
MIDITOK = ("REMI", "TSD")  # further kinds, of MidiTok
KEYS = ("kind", "family", "size", "seed", "n_chars")
CONSONANT = (0, 3, 4, 7, 8, 9)  # semitones above the bass, without octaves: Fux's consonances
SAMPLE_CHARS = 1500


def tunes_of(root, split):
    """The sequences of a split as text."""
    text = (root / f"data/{split}.txt").read_bytes().decode()
    return split_tunebook(text, any_text=True)


def chosen(tunes, max_chars):
    """Tunes with so many characters together, drawn as `subset` draws sequences."""
    if max_chars is None:
        return tunes
    order = np.random.default_rng(0).permutation(len(tunes))
    fits = np.cumsum([len(tunes[i]) for i in order]) <= max_chars
    return [tunes[i] for i in sorted(order[fits])]


def stream(tunes, tokenizer):
    """The token stream of tunes."""
    parts = [np.concatenate([[BEGIN], tokenizer.encode(tune), [END]]) for tune in tunes]
    return np.concatenate(parts).astype(tokenizer.dtype)


@torch.inference_mode()
def token_nats(model, tokens):
    """What each token of a stream costs, in windows side by side; 0 for BEGIN."""
    padded = torch.from_numpy(np.append(tokens, np.full(BLOCK_SIZE + 1, BEGIN)).astype(np.int64))
    nats = [torch.zeros(1)]
    for start in range(n_windows(len(tokens))):
        x, y = cut_windows(padded, torch.tensor([start * BLOCK_SIZE]))
        logits = model(x)[0].float().transpose(1, 2)
        nats.append(F.cross_entropy(logits, y, ignore_index=IGNORE, reduction="none")[0])
    return torch.cat(nats)[: len(tokens)].double().numpy()


def parts_of(tune, tokenizer, tokens):
    """For each token of a tune and its END, the number of its part in PARTS."""
    if tokenizer.texts_of is None:
        return np.zeros(len(tokens) + 1, int)
    kinds = np.zeros(len(tune) + 1, int)
    for match in LAYOUT.finditer(tune):
        kinds[match.start() : match.end()] = 1
    kinds[-1] = 1
    kinds[: re.search(r"^K:.*\n", tune, re.MULTILINE).end()] = 2
    lengths = [len(text) for text in tokenizer.texts_of(tokens)]
    # a token unknown to the training text may have another length: at most some places are off
    return kinds[np.minimum(np.append(0, np.cumsum(lengths)), len(tune))]


class MidiTokens:
    """MidiTok's own tokens of the MIDI that the ABC gives back, all voices in one track: the field's
    way, which keeps neither key, spelling nor voices. Types that the training text lacks are one.

    `pip install --target FOLDER miditok==3.1.0`, and FOLDER in PYTHONPATH."""

    texts_of = None

    def __init__(self, kind, tunes):
        import miditok

        self.kind = kind
        signatures = {d: list(range(1, 33)) for d in (1, 2, 4, 8, 16, 32)}
        config = miditok.TokenizerConfig(
            pitch_range=(0, 127),
            beat_res={(0, 64): 24},
            use_velocities=False,
            use_time_signatures=True,
            time_signature_range=signatures,
            use_rests=kind == "TSD",
            beat_res_rest={(0, 64): 24},
        )
        self.tokenizer = getattr(miditok, kind)(config)
        seen = sorted({number for tune in tunes for number in self.numbers(tune)})
        self.known = {number: N_SPECIAL + i for i, number in enumerate(seen)}
        self.vocab_size = N_SPECIAL + len(seen)
        self.dtype = np.min_scalar_type(self.vocab_size)
        self.token_chars = np.array([0, *[1] * (self.vocab_size - 1)])
        self.digest = f"miditok {kind} {seen}"

    def numbers(self, tune):
        """MidiTok's token numbers of a tune."""
        score = symusic.Score.from_midi(midi_score(read_abc(tune)).dumps_midi())
        for track in score.tracks[1:]:
            score.tracks[0].notes.extend(track.notes)
        score.tracks = score.tracks[:1]
        score.tracks[0].sort()
        found = self.tokenizer.encode(score)
        return (found[0] if isinstance(found, list) else found).ids

    def encode(self, tune):
        return [self.known.get(number, UNKNOWN) for number in self.numbers(tune)]


def measured(model, tunes, tokenizer):
    """{part: nats per note, "note": all of them, "quarter": nats per quarter note, "notes",
    "tokens_per_note"} of a split."""
    tokens = stream(tunes, tokenizer)
    nats, sums = token_nats(model, tokens), np.zeros(len(PARTS))
    starts = np.flatnonzero(tokens == BEGIN)
    for tune, start, stop in zip(tunes, starts, [*starts[1:], len(tokens)]):
        parts = parts_of(tune, tokenizer, tokens[start + 1 : stop - 1])
        sums += np.bincount(parts, nats[start + 1 : stop], minlength=len(PARTS))
    notes = sum(map(count_notes, tunes))
    last = [read_abc(tune).voices[0].bars[-1] for tune in tunes]
    quarters = float(sum(bar.onset + bar.length for bar in last))
    return {
        **dict(zip(PARTS, sums / notes)),
        "note": sums.sum() / notes,
        "quarter": sums.sum() / quarters,
        "notes": notes,
        "tokens_per_note": len(tokens) / notes,
    }


def harmony(tune):
    """Share of the notes that begin while a lower one of another voice sounds and are consonant
    with the lowest of those; None without any."""
    notes = [
        (onset, onset + duration, pitch, i)
        for i, (_, *arrays) in enumerate(as_tune(tune).ticks)
        for onset, duration, pitch in zip(*arrays)
    ]
    good = []
    for onset, _, pitch, voice in notes:
        below = [p for a, b, p, v in notes if a <= onset < b and v != voice and p < pitch]
        if below:
            good.append((pitch - min(below)) % 12 in CONSONANT)
    return mean_of_known(good)


def drawn(loaded, n):
    """{measure: of n tunes drawn unprompted from a model}: valid and right bars as stage 07 judges
    them, the others as `skills` and `harmony` say."""
    free = generate(loaded.model, loaded.tokenizer, unprompted(n, 70_000, SAMPLE_CHARS))
    found = skills(free)
    return {
        "valid": found["valid"],
        "next_bar": control(free)["rate"],
        "repetition": found["repetition"],
        "in_key": found["in_key"],
        "ended": found["ended"],
        "harmony": mean_of_known([harmony(sample["text"]) for sample in free]),
    }


def run_of(root, kind, family, size, seed, args):
    """Trains one model and measures it: a row of events.csv."""
    n_chars = args.chars
    tunes = {split: tunes_of(root, split) for split in ("train", "val", "test")}
    tunes["train"] = chosen(tunes["train"], n_chars)
    if kind in TOKENIZERS:
        tokenizer = TOKENIZERS[kind]("\n".join(tunes["train"]))
    else:
        tokenizer = MidiTokens(kind, tunes["train"])
    data = Data(
        *(stream(part, tokenizer) for part in tunes.values()),
        tokenizer.digest,
        tokenizer.vocab_size,
        tokenizer.token_chars,
    )
    module = importlib.import_module(FAMILIES[family].stage)
    rate = module.LEARNING_RATES["muon"][size] * args.rate_factor
    shape = module.SIZES[size]
    how = {"seed": seed, "batch_windows": args.windows, "epochs": args.epochs}
    plan = plan_run(data, RunSpec(family, size, shape, rate, **how))
    loop, began = Loop(plan, data, "cpu"), time.process_time()
    while not loop.ended:
        loop.advance()
    seconds, model = time.process_time() - began, loop.model.eval()
    val = measured(model, tunes["val"], tokenizer)
    test = measured(model, tunes["test"], tokenizer)
    saved, music = None, {}
    if tokenizer.texts_of:
        loaded = LoadedModel(model, tokenizer, "cpu", "")
        saved = round(repeats_of(costs_of_bars(loaded, read_tunes(loaded, data.val)))["saved"], 4)
        music = drawn(loaded, args.tunes) if args.tunes else {}
    return {
        **dict(zip(KEYS, (kind, family, size, seed, sum(map(len, tunes["train"]))))),
        "vocab_size": tokenizer.vocab_size,
        "params_total": plan["params_total"],
        "steps": plan["steps"],
        "windows": plan["batch_windows"],
        "tokens": len(data.train),
        "seconds": round(seconds, 1),
        **{f"val_{name}": round(float(value), 4) for name, value in val.items()},
        **{f"test_{name}": round(float(value), 4) for name, value in test.items()},
        "saved": saved and float(saved),
        **{name: value if value is None else round(value, 4) for name, value in music.items()},
    }


def mean_and_half(values):
    """A mean, with half of its 95 % t interval where there are several values."""
    n = len(values)
    text = f"{np.mean(values):.3f}"
    if n > 1:
        text += f" ± {stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5:.3f}"
    return text


def tables(rows):
    """The lines of the tables: nats per note, of each kind, and their differences to `char`."""
    groups = {}
    for row in rows:
        group = groups.setdefault((row["family"], row["size"], row["n_chars"]), {})
        group.setdefault(row["kind"], {})[row["seed"]] = row
    columns = ("val_note", "test_note", "val_music", "val_layout", "val_header", "val_quarter")
    yield (
        "| model | characters | tokens | seeds | val | test | music | layout | headers | per"
        " quarter | minus `char` | saved | seconds |"
    )
    yield "|---" * 13 + "|"
    for (family, size, n_chars), kinds in groups.items():
        for kind in (name for name in [*TOKENIZERS, *MIDITOK] if name in kinds):
            runs, base = kinds[kind], kinds.get("char", {})
            both = sorted(runs.keys() & base.keys())
            less = [float(runs[s]["val_note"]) - float(base[s]["val_note"]) for s in both]
            cells = [mean_and_half([float(row[name]) for row in runs.values()]) for name in columns]
            yield " | ".join(
                [
                    f"| {label(family)} {size}",
                    f"{int(n_chars):,}",
                    f"`{kind}`",
                    ", ".join(sorted(runs)),
                    *cells,
                    mean_and_half(less) if less and kind != "char" else "",
                    mean_and_half([float(row["saved"] or "nan") for row in runs.values()]),
                    f"{np.median([float(row['seconds']) for row in runs.values()]):.0f} |",
                ]
            )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=Path, default=Path("quick"))
    parser.add_argument("--out", type=Path, default=Path("quick/events"))
    parser.add_argument("--kinds", type=list_of(str), default=list(TOKENIZERS))
    parser.add_argument("--models", type=list_of(str), default=MODELS.split(","))
    parser.add_argument("--seeds", type=list_of(int), default=[2, 3])
    parser.add_argument("--chars", type=int, help="of training text (default: all)")
    parser.add_argument("--windows", type=int, help="a step (default: by characters a token)")
    parser.add_argument("--epochs", type=int, default=1, help="passes over the text")
    parser.add_argument("--rate-factor", type=float, default=1.0, help="times the learning rate")
    parser.add_argument("--tunes", type=int, default=0, help="to draw from each model and judge")
    parser.add_argument("--table", action="store_true", help="print the tables only")
    args = parser.parse_args(argv)
    path, rows = args.out / "events.csv", []
    if path.exists():
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    asked = [
        (kind, *model.split(":"), seed)
        for seed in args.seeds
        for model in args.models
        for kind in args.kinds
    ]
    for run in [] if args.table else asked:
        done = [tuple(row[key] for key in KEYS[:4]) for row in rows]
        if tuple(map(str, run)) not in done:
            row = run_of(args.root, *run, args)
            texts = {key: "" if value is None else str(value) for key, value in row.items()}
            rows.append(texts)
            write_text(path, csv_text(rows, list(rows[0])))
            print(row, flush=True)
    print("\n".join(tables(rows)))


if __name__ == "__main__":
    main()
