"""Fine-tuning: music of one's own as new text, a trained model that goes on with it, and what it
gains.

New text is a `Music`: sequences for training, and a held-out part that is only reported. It goes
through the functions of stages 02 and 03, so a song never stands on two sides. The model reads a
mixture: the new text and a share of the old, lest it forget the rest. It is trained by the one loop
(`study/train/runs.py`), from the weights of the base model, with the base model's vocabulary.
"""

import os
import tempfile
from collections import Counter
from typing import NamedTuple

from study.stages.files import file_digest, tree_files, write_bytes, write_json

import numpy as np

from common import BEGIN, END, UNKNOWN
from music import corpus
from music.abc_check import check_abc
from music.excerpts import header_of
from music.novelty import Novelty
from music.right_bars import RightBars
from music.tunebook import split_tunebook
from music.validity import rate_samples
from study.evaluate import samples as generated
from study.evaluate.prompts import sequence_rows
from study.evaluate.rating import judged, losses_by_tune, real_samples
from study.evaluate.sampling import Request, generate
from study.prepare import groups, reading, selection
from study.prepare.conversion import SUFFIXES, Settings, convert_all, plan, printable
from study.prepare.fetch import MAX_FILE_BYTES, MidiFolder, Refused, in_words, unpack
from study.train import runs
from study.train.checkpoints import load_checkpoint, save_checkpoint
from study.train.data import BLOCK_SIZE, Data, sequence_bounds
from study.train.loss import evaluate

HELD_SHARE = 0.2  # of the groups, that are not trained on; at least one
HELD_CHARS = 100_000  # of the held-out part, at most
RATE = 0.5  # peak learning rate as a share of the base model's own: see benchmarks/finetune.md
EPOCHS = 2  # more of them, and a dozen songs are learned by heart
LEAST_STEPS = 20  # of an epoch's worth of training: a text that has less is read more often
DROPOUT = 0.2  # of the base model's 0: a dozen songs are few
BATCH_WINDOWS = 4  # of 512 tokens, a step
REST_TOKENS = 200_000  # of the old validation split that are looked at, at most


# ---------------------------------------------------------------- the music


class Music(NamedTuple):
    """New text: lists of sequences {"origin", "group", "text"}; test is held out, and empty where
    there is one group. counts: of files, tunes, groups and characters; left_out: {what: number};
    rest: numbers of the old sequences that are of another style, by split (None: all)."""

    train: list
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
    jobs = [
        (reader, [(str(folder / name), name) for name in tree_files(folder)])
        for folder, reader in ((made, reading.read_file), (given, reading.read_people_file))
    ]
    with tempfile.TemporaryFile(dir=work) as spool:
        read = []
        for reader, files in jobs:
            read += reading.read_all(reader, files, workers, spool, **limits) if files else []
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
    held, parts = hold_out(chars, seed), {}
    for split, limit in (("train", limit_chars), ("test", HELD_CHARS)):
        own = [s for s in sequences if (s["group"] in held) == (split == "test")]
        own = selection.limit_sequences(own, limit, seed)
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
        "held_out_groups": len(held),
    }
    return Music(**parts, counts=counts, left_out=dict(left_out))


def hold_out(chars, seed):
    """Returns the groups that are held out: a share of HELD_SHARE, those of lowest hash. The
    largest group trains, and one group alone does. chars: {group: characters}."""
    largest = max(chars, key=lambda group: (chars[group], group))
    ranked = sorted(set(chars) - {largest}, key=lambda group: groups.hash_number(seed, group))
    return set(ranked[: max(1, round(HELD_SHARE * len(chars)))])


def read_collections(root, wanted, limit_chars, seed):
    """Returns the Music of collections (first-level folders) of a root's own corpus: the tunes that
    stage 03 trains on, and those that it holds out for val and test.

    wanted: names of folders, or of collections of `01_download.py`; limit_chars: of training text,
    the tunes drawn by the seed. ValueError if there is none of a name."""
    short = {name: row[0] for name, row in {**corpus.BOOKS, **corpus.SCORES}.items()}
    asked = [short.get(name.strip().lower(), name.strip()) for name in wanted.split(",")]
    parts, rest, have = {}, {}, set()
    for split in selection.SPLITS:
        texts = split_tunebook((root / f"data/{split}.txt").read_text(encoding="utf-8"))
        parts[split], rest[split] = [], []
        for i, (row, text) in enumerate(zip(sequence_rows(root, split), texts)):
            folder = row["origin"].split("/")[0]
            have.add(folder)
            if folder in asked:
                new = {"origin": row["origin"], "group": row["group"], "text": text}
                parts[split].append(new)
            else:
                rest[split].append(i)
    unknown = [name for name in asked if name not in have]
    if unknown:
        raise ValueError(
            f"there is no collection {', '.join(unknown)} in this corpus; there are:"
            f" {', '.join(sorted(have))}"
        )
    train, test = parts["train"], parts["val"] + parts["test"]
    if not train or not test or not rest["train"]:
        raise ValueError(
            f"{', '.join(asked)}: the corpus has no such tune on one side, or no other tune"
        )
    order = np.random.default_rng(seed).permutation(len(train))
    n_taken = np.searchsorted(np.cumsum([len(train[i]["text"]) for i in order]), limit_chars)
    every = train + test
    counts = {
        "files": len({row["origin"] for row in every}),
        "tunes": len({row["origin"] for row in every}),
        "groups": len({row["group"] for row in every}),
        "characters": sum(len(row["text"]) for row in every),
        "held_out_groups": len({row["group"] for row in test}),
    }
    train = [train[i] for i in sorted(order[: max(1, n_taken)])]
    return Music(train, test, counts, {}, rest)


def in_vocabulary(music, tokenizer):
    """Returns the Music without the sequences that have a character the vocabulary lacks, which are
    counted as left out; ValueError if none is left to train on."""
    lacking = "pieces with characters that the base model does not know"
    parts, n = {}, 0
    for split in ("train", "test"):
        rows = getattr(music, split)
        parts[split] = [row for row in rows if UNKNOWN not in tokenizer.encode(row["text"])]
        n += len(rows) - len(parts[split])
    if not parts["train"]:
        raise ValueError(f"all its text is {lacking}")
    left_out = {**music.left_out, lacking: n} if n else music.left_out
    return music._replace(**parts, left_out=left_out)


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


def mixed_data(music, old, tokenizer, replay, seed):
    """Returns (Data for the loop, tokens of old validation text): new text with a share of the old.
    replay: old tokens for each new one. The loop watches the held-out part; without one, the old
    validation text."""
    rest = music.rest or {}
    of_rest = np.concatenate(sequences_of(old.val, rest.get("val")))[:REST_TOKENS]
    new = stream(music.train, tokenizer)
    again = replayed(sequences_of(old.train, rest.get("train")), int(replay * len(new)), seed)
    train = np.concatenate([new, *again])
    test = stream(music.test, tokenizer) if music.test else of_rest
    data = Data(train, test, test, tokenizer.digest, tokenizer.vocab_size, tokenizer.token_chars)
    return data, of_rest


# ---------------------------------------------------------------- the run


def plan_training(data, checkpoint, start, seed):
    """The run: the base model's recipe at RATE of its learning rate. checkpoint: of the base model;
    start: digest of its weights."""
    record = checkpoint["record"]
    again = max(1, round(LEAST_STEPS * BATCH_WINDOWS * BLOCK_SIZE / len(data.train)))
    return runs.plan_run(
        data,
        runs.RunSpec(
            record["family"],
            record["size"],
            runs.shape_of(checkpoint["config"]),
            RATE * record["learning_rate"],
            seed=runs.HEADLINE_SEED + seed,
            recipe=record["recipe"],
            suite="finetuned",
            epochs=EPOCHS * again,
            optimizer=record["optimizer"],
            batch_windows=BATCH_WINDOWS,
            name="tuned",
            dropout=DROPOUT,
            start=start,
        ),
    )


def adopt(folder, root, record, name, tokenizer):
    """Puts the run's files below root/checkpoints under the name of the model, with its
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


# ---------------------------------------------------------------- what came of it


def losses(base, tuned, music, rest):
    """Bits per character and note of the held-out part, and of the old text, before and after.

    base, tuned: `LoadedModel`s; rest: old validation tokens.
    """

    def loss(loaded, tokens):
        return evaluate(
            loaded.model, tokens, loaded.tokenizer.token_chars, loaded.device, by_sequence=True
        )

    before, after = loss(base, rest), loss(tuned, rest)
    old = {"before": before["bits_per_char"], "after": after["bits_per_char"]}
    found = {"old_text": {**old, "characters": before["n_chars"]}, "held_out": None}
    if not music.test:
        return found
    tokens = stream(music.test, base.tokenizer)
    before, after = loss(base, tokens), loss(tuned, tokens)
    n_notes = sum(check_abc(row["text"]).n_notes for row in music.test)
    per_note = before["n_chars"] / n_notes if n_notes else None
    bits = {"before": before["bits_per_char"], "after": after["bits_per_char"]}
    nats = {"base": before["nats_by_sequence"], "tuned": after["nats_by_sequence"]}
    origins = [row["origin"] for row in music.test]
    paired = losses_by_tune(nats, after["chars_by_sequence"], origins, 0)
    interval = paired["differences"][0]["interval"]
    return found | {
        "held_out": {
            "tunes": paired["n_tunes"],
            "characters": after["n_chars"],
            "notes": n_notes,
            "bits_per_char": bits,
            "bits_per_note": {when: n_notes and n * per_note for when, n in bits.items()},
            "gain_bits_per_char_interval": sorted(-end / float(np.log(2)) for end in interval),
        }
    }


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
