"""Fine-tuning: music of one's own as new text, a trained model that goes on with it, and what came
of that.

New text is a `Music`: sequences for training, a held-out part that chooses rate and length, and one
that is reported. It goes through the functions of stages 02 and 03, so a song never stands on two
sides. The model reads a mixture: the new text and a share of the old, lest it forget the rest. It
is trained by the one loop (`study/train/runs.py`), from the weights of the base model.

A vocabulary that lacks characters of the new text grows: `grown_weights`.
"""

import contextlib
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from study.stages.stage import file_digest, tree_files, write_bytes, write_json

import numpy as np
import torch

from common import BEGIN, END, UNKNOWN, CharTokenizer
from music import corpus
from music.abc_text import check_abc
from music.excerpts import header_of
from music.novelty import Novelty
from music.right_bars import RightBars
from music.tunebook import split_tunebook
from music.validity import rate_samples, share
from study.evaluate import samples as generated
from study.evaluate.prompts import sequence_rows
from study.evaluate.rating import judged, losses_by_tune, real_samples
from study.evaluate.sampling import Request, generate
from study.families import build_model
from study.prepare import baselines, groups, reading, selection
from study.prepare.conversion import SUFFIXES, Settings, convert_all, plan, printable
from study.prepare.fetch import MAX_FILE_BYTES, MidiFolder, Refused, in_words, unpack
from study.train import runs
from study.train.checkpoints import load_checkpoint, save_checkpoint
from study.train.loop import BLOCK_SIZE, Data, evaluate, sequence_bounds

HELD_SHARE = 0.2  # of the groups, that are not trained on; at least one
TWO_PARTS = 4  # held-out groups from which one half chooses and the other is reported
HELD_CHARS = 100_000  # of a held-out part, at most
MAX_NEW_CHARACTERS = 200  # that a vocabulary may grow by: more is no notation
# (peak learning rate as a share of the base model's own, epochs): the
CANDIDATES = ((0.2, 2), (0.5, 2), (0.5, 4))
# higher the rate and the longer the run, the more a little text is learned by heart; see
# benchmarks/finetune.md
ALONE = (0.5, 2)  # ... where no held-out part can choose
# of an epoch's worth of training: a text that has less is read more often
LEAST_STEPS = 20
DROPOUT = 0.2  # of the base model's 0: a dozen songs are few
BATCH_WINDOWS = 4  # of 512 tokens, a step
OLD_CHARS = 20_000_000  # of the old text that compressors are given, its end
REST_TOKENS = 200_000  # of the old validation split that are looked at, at most
MARKS = ("ppmd", "xz")  # n-grams are left out: slow, and on the study's corpus 0.25 bits behind
EVALUATION_COST = 1 / 3  # of a token evaluated, in tokens trained


# ---------------------------------------------------------------- the music


class Music(NamedTuple):
    """New text: lists of sequences {"origin", "group", "text"}. val and test are one list where
    there are few groups, and empty where there is one. counts: of files, tunes, groups and
    characters; left_out: {what: number}; rest: numbers of the old sequences that are of another
    style, by split (None: all)."""

    train: list
    val: list
    test: list
    counts: dict
    left_out: dict
    rest: dict | None = None


def collect(source, midi, abc):
    """Copies the MIDI and ABC files of a folder, an archive or a single file into two
    `MidiFolder`s; raises Refused."""
    suffix = source.suffix.lower()
    if source.is_file() and suffix in (*SUFFIXES, ".abc"):
        if source.stat().st_size > MAX_FILE_BYTES:
            raise Refused(
                f"{source.name} has more than {MAX_FILE_BYTES:,} bytes: no song is so large"
            )
        (abc if suffix == ".abc" else midi).add(source.name, source.read_bytes())
    else:
        unpack(source, midi, None, 0, abc)
    if not midi.files + abc.files:
        raise Refused(
            "it holds no MIDI or ABC file"
            + (f", only {in_words(midi.left_out)}" if midi.left_out else "")
        )


def read_source(
    source,
    work,
    seed,
    workers,
    *,
    max_voices,
    timeout,
    min_notes,
    max_rest_share,
    limit_chars,
    **limits,
):
    """The Music of a folder, an archive or a file, by the functions of stages 02 and 03; raises
    Refused.

    work: an empty folder for what is made on the way; limit_chars: of training text, spread evenly
    over the groups;
    limits: min_chars and max_chars of a sequence.
    """
    raw, given, made = (work / name for name in ("midi", "given", "made"))
    for folder in (raw, given, made):
        folder.mkdir()
    midi, abc = MidiFolder(raw), MidiFolder(given, ".abc")
    collect(source, midi, abc)
    settings = Settings(str(raw), str(made), max_voices, seed, 0, timeout)
    left_out = Counter(
        row["reason"] for _, row in convert_all(plan(raw), workers, settings) if "reason" in row
    )
    jobs = [(str(folder / name), name) for folder in (made, given) for name in tree_files(folder)]
    with tempfile.TemporaryFile(dir=work) as spool:
        read = reading.read_all(reading.read_file, jobs, workers, spool, **limits) if jobs else []
        tunes = [tune for tune in read if tune["n_bars"] or _has_bars(tune, spool)]
        left_out.update({"no ABC": len(read) - len(tunes)} if len(read) > len(tunes) else {})
        if tunes:
            groups.group_tunes(tunes)
        kept, dropped = selection.filter_tunes(tunes, min_notes, max_rest_share)
        left_out.update({reason: len(origins) for reason, origins in dropped.items()})
        sequences, n_short = selection.make_sequences(kept, seed, limits["min_chars"])
        left_out.update(
            {f"shorter than {limits['min_chars']} characters": n_short} if n_short else {}
        )
        if not sequences:
            raise Refused(
                "no tune in it can be used: "
                + ", ".join(f"{n:,} {why}" for why, n in left_out.items())
            )
        return _music(
            sequences, seed, limit_chars, left_out, spool, midi.files + abc.files, len(tunes)
        )


def _has_bars(tune, spool):
    """True if a text that the strict reader refuses has bar lines: sloppy ABC has, prose has
    not."""
    _, at, n_bytes, _ = tune["pieces"][0]
    return os.pread(spool.fileno(), n_bytes, at).count(b"|") >= 4


def _music(sequences, seed, limit_chars, left_out, spool, n_files, n_tunes):
    chars = Counter()
    for sequence in sequences:
        chars[sequence["group"]] += sequence["chars"]
    splits, parts = hold_out(chars, seed), {}
    for split, limit in (("train", limit_chars), ("val", HELD_CHARS), ("test", HELD_CHARS)):
        own = selection.limit_sequences(
            [s for s in sequences if split in splits[s["group"]]], limit, seed
        )
        own.sort(key=lambda s: (s["order"], s["origin"], s["piece"]))
        parts[split] = [
            {
                "origin": printable(s["origin"]),
                "group": s["group"],
                "text": os.pread(spool.fileno(), s["bytes"], s["at"]).decode(),
            }
            for s in own
        ]
    if not parts["train"]:
        raise Refused(f"no piece of it is as short as {limit_chars:,} characters")
    counts = {
        "files": n_files,
        "tunes": n_tunes,
        "groups": len(chars),
        "characters": sum(chars.values()),
        "held_out_groups": sum("test" in split for split in splits.values()),
    }
    return Music(**parts, counts=counts, left_out=dict(left_out))


def hold_out(chars, seed):
    """{group: set of splits}: which groups train, choose ("val") and are reported ("test").

    chars: {group: characters}. The largest group trains; of the others a share of HELD_SHARE is
    held out, those of lowest hash. Less than TWO_PARTS held-out groups both choose and are
    reported, and one group alone trains.
    """
    ranked = sorted(
        set(chars) - {max(chars, key=lambda group: (chars[group], group))},
        key=lambda group: groups.hash_number(seed, group),
    )
    held = ranked[: max(1, round(HELD_SHARE * len(chars)))]
    both = [{"val"}, {"test"}] if len(held) >= TWO_PARTS else [{"val", "test"}] * 2
    return {group: {"train"} for group in chars} | {
        group: both[i % 2] for i, group in enumerate(held)
    }


def read_collections(root, wanted, limit_chars, seed):
    """The Music of collections (first-level folders) of a root's own corpus: its splits are those
    of stage 03. wanted: names of folders, or of collections of `01_download.py`; limit_chars: of
    training text, the tunes drawn by the seed. ValueError if there is none of a name."""
    short = {name: row[0] for name, row in {**corpus.BOOKS, **corpus.SCORES}.items()}
    tables = {split: sequence_rows(root, split) for split in selection.SPLITS}
    folder_of = {
        split: [row["origin"].split("/")[0] for row in rows] for split, rows in tables.items()
    }
    have = sorted({name for names in folder_of.values() for name in names})
    asked = [short.get(name.strip().lower(), name.strip()) for name in wanted.split(",")]
    unknown = [name for name in asked if name not in have]
    if unknown:
        raise ValueError(
            f"there is no collection {', '.join(unknown)} in this corpus; there are:"
            f" {', '.join(have)}"
        )
    parts, rest = {}, {}
    for split, rows in tables.items():
        texts = split_tunebook((root / f"data/{split}.txt").read_text(encoding="utf-8"))
        parts[split] = [
            {"origin": row["origin"], "group": row["group"], "text": text}
            for row, text, name in zip(rows, texts, folder_of[split])
            if name in asked
        ]
        rest[split] = [i for i, name in enumerate(folder_of[split]) if name not in asked]
    if not all(parts.values()) or not rest["train"]:
        raise ValueError(
            f"{', '.join(asked)}: the corpus has no such tune in one of its splits, or no other"
            " tune"
        )
    every = [row for rows in parts.values() for row in rows]
    order = np.random.default_rng(seed).permutation(len(parts["train"]))
    n_taken = np.searchsorted(
        np.cumsum([len(parts["train"][i]["text"]) for i in order]), limit_chars
    )
    parts["train"] = [parts["train"][i] for i in sorted(order[: max(1, n_taken)])]
    return Music(
        **parts,
        counts={
            "files": len({row["origin"] for row in every}),
            "tunes": len({row["origin"] for row in every}),
            "groups": len({row["group"] for row in every}),
            "characters": sum(len(row["text"]) for row in every),
            "held_out_groups": len({row["group"] for row in parts["test"]}),
        },
        left_out={},
        rest=rest,
    )


# ---------------------------------------------------------------- vocabulary


def grow(tokenizer, music):
    """The tokenizer with the characters of the new training text besides; ValueError if they are
    too many."""
    new = set("".join(row["text"] for row in music.train)) - set(tokenizer.characters)
    if len(new) > MAX_NEW_CHARACTERS:
        raise ValueError(
            f"the new text has {len(new)} characters that the base model does not know: that is no"
            " music"
        )
    return CharTokenizer(tokenizer.characters + "".join(new))


def places_in(tokenizer, grown):
    """Where each token of a vocabulary stands in one that grew from it, (vocab_size,)."""
    return np.append([BEGIN, END, UNKNOWN], grown.encode(tokenizer.characters)).astype(grown.dtype)


def grown_weights(model, config, places, vocab_size):
    """The model's state dict for a vocabulary of vocab_size tokens: old rows, unchanged, at
    `places`; new rows are the mean of the old (Hewitt 2021).

    Whatever has another shape in a model of that vocabulary has a row a token, in any family. Old
    text has the same loss to the last bits among the characters that it can be written in; over
    all, k new rows of mean logits take some 1e-4 k of the probability (measured: 0.003 nats for
    twenty), which the first steps give back. No row takes
    none from any: the head has no bias.
    """
    with torch.device("meta"):
        wanted = build_model({**config, "vocab_size": vocab_size}).state_dict()
    weights = {}
    for name, tensor in model.state_dict().items():
        if tensor.shape != wanted[name].shape:
            rows = tensor.mean(0, keepdim=True).expand(vocab_size, *tensor.shape[1:]).clone()
            rows[torch.from_numpy(places.astype(np.int64))] = tensor
            tensor = rows
        weights[name] = tensor.detach().cpu().clone()
    return weights


# ---------------------------------------------------------------- mixed text


def stream(rows, tokenizer):
    """BEGIN text END BEGIN text END ... of sequences."""
    parts = [np.concatenate([[BEGIN], tokenizer.encode(row["text"]), [END]]) for row in rows]
    return np.concatenate(parts).astype(tokenizer.dtype)


def sequences_of(tokens, which=None):
    """[tokens of a sequence] of a stream; which: their numbers (default: all)."""
    bounds = sequence_bounds(tokens)
    return [
        np.asarray(tokens[bounds[i] : bounds[i + 1]])
        for i in (range(len(bounds) - 1) if which is None else which)
    ]


def replayed(sequences, n_tokens, seed):
    """Some of the old sequences, drawn by the seed until they have n_tokens; at least one unless
    none are wanted."""
    order = np.random.default_rng(seed).permutation(len(sequences))
    total = np.cumsum([len(sequences[i]) for i in order])
    return (
        [sequences[i] for i in order[: int(np.searchsorted(total, n_tokens)) + 1]]
        if n_tokens
        else []
    )


def mixed_data(music, old, places, tokenizer, replay, seed):
    """(Data for the loop, tokens of the rest): new text with a share of the old. replay: old tokens
    for each new one. Without a held-out part the loop watches the rest instead, which is old
    validation text."""
    rest = music.rest or {}
    of_rest = places[np.concatenate(sequences_of(old.val, rest.get("val")))[:REST_TOKENS]]
    new = stream(music.train, tokenizer)
    again = replayed(sequences_of(old.train, rest.get("train")), int(replay * len(new)), seed)
    train = np.concatenate([new, *(places[tokens] for tokens in again)])
    val, test = (stream(part, tokenizer) if part else of_rest for part in (music.val, music.test))
    return (
        Data(train, val, test, tokenizer.digest, tokenizer.vocab_size, tokenizer.token_chars),
        of_rest,
    )


# ---------------------------------------------------------------- the run


def plan_runs(data, checkpoint, start, seed, alone):
    """The runs among which the held-out part chooses; one, if there is none (alone). checkpoint: of
    the base model, whose recipe is gone on with; start: digest of the weights."""
    record, config = checkpoint["record"], checkpoint["config"]
    again = max(1, round(LEAST_STEPS * BATCH_WINDOWS * BLOCK_SIZE / len(data.train)))
    return [
        runs.plan_run(
            data,
            record["family"],
            record["size"],
            runs.shape_of(config),
            rate * record["learning_rate"],
            seed=runs.HEADLINE_SEED + seed,
            recipe=record["recipe"],
            suite="finetuned",
            epochs=epochs * again,
            optimizer=record["optimizer"],
            keep_best=not alone,
            batch_windows=BATCH_WINDOWS,
            name=f"rate{rate:g}_epochs{epochs * again}",
            dropout=DROPOUT,
            start=start,
        )
        for rate, epochs in ((ALONE,) if alone else CANDIDATES)
    ]


def adopt(folder, root, record, name, tokenizer):
    """The chosen run's files below root/checkpoints under the name of the model, with its
    vocabulary; returns the record there."""
    model, _ = load_checkpoint(folder / f"checkpoints/{record['name']}.pt")
    curve = (folder / f"checkpoints/{record['curve']}").read_bytes()
    record = {**record, "name": name, "curve": f"{name}.curve.jsonl"}
    del record["checkpoint_sha256"]
    path = root / f"checkpoints/{name}.pt"
    save_checkpoint(path, model.state_dict(), record, record)
    write_bytes(root / f"checkpoints/{name}.tokenizer.pkl", tokenizer.dumps())
    write_bytes(root / f"checkpoints/{record['curve']}", curve)
    record["checkpoint_sha256"] = file_digest(path)
    write_json(root / f"checkpoints/{name}.json", record)
    return record


def tokens_to_train(planned, data):
    """Tokens that runs take, those evaluated on the way among them at what they cost."""
    # of the curve, and the last measurements
    n_points = {run["name"]: max(8, run["epochs"]) + 3 for run in planned}
    return sum(
        run["train_tokens"] * run["epochs"]
        + EVALUATION_COST * n_points[run["name"]] * len(data.val)
        for run in planned
    )


# ---------------------------------------------------------------- what came of it


def bits(result):
    """Bits in all that `evaluate` found."""
    return result["bits_per_char"] * result["n_chars"]


def losses(base, tuned, music, rest, places):
    """Bits per character and note of the held-out part, and of the old text, before and after.

    base, tuned: `LoadedModel`s; rest: old validation tokens in the new vocabulary. What the base model
    has no character for costs it its unknown token, and the choice among as many new characters as
    there are.
    """
    n_new = max(1, tuned.tokenizer.vocab_size - base.tokenizer.vocab_size)
    back = np.full(tuned.tokenizer.vocab_size, UNKNOWN, base.tokenizer.dtype)
    back[places] = np.arange(len(places))

    def loss(loaded, tokens):
        return evaluate(
            loaded.model, tokens, loaded.tokenizer.token_chars, loaded.device, by_sequence=True
        )

    before_rest, after_rest = loss(base, back[rest]), loss(tuned, rest)
    found = {
        "old_text": {
            "before": before_rest["bits_per_char"],
            "after": after_rest["bits_per_char"],
            "characters": before_rest["n_chars"],
        },
        "held_out": None,
    }
    if not music.test:
        return found
    tokens = stream(music.test, base.tokenizer)
    before, after = loss(base, tokens), loss(tuned, stream(music.test, tuned.tokenizer))
    n_unknown, n_notes = int((tokens == UNKNOWN).sum()), sum(
        check_abc(row["text"]).n_notes for row in music.test
    )
    total = {"before": bits(before) + n_unknown * float(np.log2(n_new)), "after": bits(after)}
    nats = {"base": before["nats_by_sequence"], "tuned": after["nats_by_sequence"]}
    paired = losses_by_tune(
        nats, after["chars_by_sequence"], [row["origin"] for row in music.test], 0
    )
    difference = paired["differences"][0]
    return found | {
        "held_out": {
            "tunes": paired["n_tunes"],
            "characters": after["n_chars"],
            "notes": n_notes,
            "unknown_characters": n_unknown,
            "chosen_on_it": music.val == music.test,
            "bits_per_char": {when: n / after["n_chars"] for when, n in total.items()},
            "bits_per_note": {when: n / n_notes if n_notes else None for when, n in total.items()},
            "gain_bits_per_char_interval": sorted(
                -end / float(np.log(2)) for end in difference["interval"]
            ),
        }
    }


def marks(old_text, music, folder):
    """{compressor: bits per character of the held-out part} given old and new training text."""
    text = "\n".join(row["text"] for row in music.test)
    # characters, and an end of each sequence: one less empty line than there are
    n_chars = len(text) + 1
    with _text_file(
        old_text[-OLD_CHARS:] + "\n" + "\n".join(row["text"] for row in music.train), folder
    ) as path:
        return {
            name: baselines.conditional_bits(name, path, [b"\n" + text.encode()])[0] / n_chars
            for name in MARKS
        }


@contextlib.contextmanager
def _text_file(text, folder):
    """A file with this text, for as long as it is needed."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".tmp-") as file:
        file.write(text.encode())
        file.flush()
        yield Path(file.name)


def rest_text(old, tokenizer, music, n_chars, seed):
    """About n_chars of the old training text that is of no new style, drawn by the seed."""
    return "\n".join(
        map(
            tokenizer.decode,
            replayed(sequences_of(old.train, (music.rest or {}).get("train")), n_chars, seed),
        )
    )


def assigned(texts, styles, folder):
    """Number of the style that each text is nearest to, by PPMd: which of these texts of equal
    length, {name: text}, makes it shortest. It knows nothing of the model."""
    length = min(map(len, styles.values()))
    table = []
    for text in styles.values():
        with _text_file(text[:length], folder) as path:
            table.append(
                baselines.conditional_bits("ppmd", path, [b"\n" + one.encode() for one in texts])
            )
    return np.argmin(table, axis=0)


def nats_by_tune(loaded, sequences):
    """Nats of each sequence of tokens (BEGIN text END) read alone, (n,): each begins a window of
    its own, so that no neighbour of its style gives it away."""
    padded = [
        np.append(tokens, np.full(-len(tokens) % BLOCK_SIZE, BEGIN, tokens.dtype))
        for tokens in sequences
    ]
    # what pads counts as a sequence
    starts = np.cumsum([0] + [int((part == BEGIN).sum()) for part in padded])[:-1]
    result = evaluate(
        loaded.model,
        np.concatenate(padded),
        loaded.tokenizer.token_chars,
        loaded.device,
        by_sequence=True,
    )
    return np.array(result["nats_by_sequence"])[starts]


def style_ratio(base, tuned, own, others):
    """Is it that style? {"of_style", "of_the_rest"}: shares of tunes on which the likelihood ratio
    is right, with
    intervals: fine-tuned model above base model for its own tunes, below for others. own, others:
    [text]."""

    def gains(texts):
        rows = [{"text": text} for text in texts]
        nats = [
            nats_by_tune(loaded, [stream([row], loaded.tokenizer) for row in rows])
            for loaded in (base, tuned)
        ]
        return nats[0] - nats[1]

    right = {"of_style": gains(own) > 0, "of_the_rest": gains(others) <= 0}
    return {name: share(int(flags.sum()), len(flags)) for name, flags in right.items()}


# ---------------------------------------------------------------- samples


def prompts_of(music, tokenizer):
    """Headers of held-out tunes (of those trained on, if there is no held-out part) from which
    right bars can be drawn; an empty prompt if there is none."""
    headers = dict.fromkeys(header_of(row["text"]) for row in music.test or music.train)
    return [
        header
        for header in headers
        if header
        and UNKNOWN not in tokenizer.encode(header)
        and not RightBars.what_is_wrong(header)
    ] or [""]


def draw(loaded, prompts, n, max_chars, seed, bars="free"):
    """n samples at temperature 1, from the prompts in turn."""
    requests = [
        Request(prompt=prompts[i % len(prompts)], seed=seed + i, max_chars=max_chars, bars=bars)
        for i in range(n)
    ]
    return generate(loaded.model, loaded.tokenizer, requests, loaded.device, right_bars=RightBars)


def write_samples(folder, samples):
    """The samples as files with pictures; their metadata rows."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, sample in enumerate(samples):
        kind, stem = "header" if sample["prompt"] else "unconditional", f"sample_{i:03d}"
        rows.append(
            {
                **generated.write_sample(folder, stem, sample, kind, None),
                "pictures": generated.write_pictures(
                    folder, stem, sample["text"], len(sample["prompt"])
                ),
            }
        )
    return rows


def describe_samples(free, right, music):
    """Validity of free samples and of those with right bars; what both copy from the new text, and
    what real held-out music has in common with it."""
    known = Novelty("\n".join(row["text"] for row in music.train))
    sets = {
        "generated": judged(free),
        "right_bars": judged(right),
        "held_out": real_samples(music.test),
    }
    found = {"copying": {}, "validity": {}}
    for name, samples in sets.items():
        if samples:
            copied, rates = known.measure(samples), rate_samples(samples, judge=False)
            found["copying"][name] = {
                key: copied[key] for key in ("copied_share", "longest_copied_chars", "n")
            }
            found["validity"][name] = {
                key: rates[key] for key in ("rate", "interval", "n", "bar_accuracy")
            }
    return found
