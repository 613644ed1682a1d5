"""Fine-tunes a model to music of one's own: the new text, the training, and what it gained.

New text goes through the functions of stages 01 to 03; a song is either trained on or held out. The
model reads it with a share of the old text, lest it forget the rest.
"""

import io
import itertools
import math
import tempfile
from collections import Counter
from typing import NamedTuple

from study.stages.files import tree_files
from study.stages.process import cpu_count

import numpy as np

from common import BEGIN, END, UNKNOWN
from music.right_bars import RightBars
from study.evaluate import samples as drawn
from study.evaluate.prompts import prompts_from
from study.evaluate.rating import losses_by_tune
from study.evaluate.sampling import Request, generate
from study.prepare import groups, selection
from study.prepare.conversion import Settings, convert_all, plan, printable
from study.prepare.fetch import Refused, in_words
from study.prepare.gather import Collected, gather
from study.prepare.reading import MIN_CHARS, read_all, read_file, text_of
from study.train import runs
from study.train.checkpoints import weights_digest
from study.train.data import BLOCK_SIZE, sequence_bounds
from study.train.loss import evaluate

HELD_SHARE = 0.2  # of the groups; at least one
HELD_CHARS = 100_000  # of the held-out part, at most
REPLAY = 0.5  # old characters read again, for each new one
RATE = 0.5  # peak learning rate as a share of the base model's own: see benchmarks/finetune.md
EPOCHS = 2  # more of them, and a dozen songs are learned by heart
LEAST_STEPS = 20  # of an epoch: a text that has fewer is read more often
DROPOUT = 0.2  # of the base model's 0: a dozen songs are few
BATCH_WINDOWS = 4  # of 512 tokens, a step
OLD_TOKENS = 200_000  # of the old validation split, at most


class Music(NamedTuple):
    """New sequences {"origin", "text"}; test is held out, and empty where there is one group."""

    train: list
    test: list
    counts: dict
    left_out: dict  # {what: number}


def read_source(source, work, tokenizer, seed, limit_chars):
    """Returns the Music of a folder, an archive or a file, of which the vocabulary has every
    character; raises Refused. work: an empty folder; limit_chars: of training text."""
    raw, abc = work / "midi", work / "abc"
    for folder in (raw, abc):
        folder.mkdir()
    collected = Collected(raw, io.StringIO())
    left_out = collected.left_out
    gather(source, collected)
    collected.check()
    rows = convert_all(plan(raw), cpu_count(), Settings(raw, abc))
    left_out.update(row["reason"] for _, row in rows if "reason" in row)
    files = [(str(abc / name), name) for name in tree_files(abc)]
    with tempfile.TemporaryFile(dir=work) as spool:
        tunes = read_all(read_file, files, cpu_count(), spool)
        if tunes:
            groups.group_tunes(tunes)
        kept, dropped = selection.filter_tunes(tunes)
        sequences, n_short = selection.make_sequences(kept, seed)
        left_out.update({reason: len(origins) for reason, origins in dropped.items()})
        left_out[f"shorter than {MIN_CHARS} characters"] += n_short
        left_out = dict(+left_out)
        if not sequences:
            raise Refused(f"no tune in it can be used: {in_words(left_out)}")
        chars = Counter()
        for sequence in sequences:
            chars[sequence["group"]] += sequence["chars"]
        held, parts, n_lacking = hold_out(chars, seed), [], 0
        for is_held, limit in ((False, limit_chars), (True, HELD_CHARS)):
            part = [s for s in sequences if (s["group"] in held) == is_held]
            part = selection.in_order(selection.limit_sequences(part, limit, seed))
            rows = [{"origin": printable(s["origin"]), "text": text_of(s, spool)} for s in part]
            parts.append([row for row in rows if UNKNOWN not in tokenizer.encode(row["text"])])
            n_lacking += len(rows) - len(parts[-1])
    lacking = "pieces with characters that the base model does not know"
    if n_lacking:
        left_out[lacking] = n_lacking
    if not parts[0]:
        raise Refused(f"all its text is {lacking}")
    counts = {
        "files": collected.files,
        "tunes": len(tunes),
        "groups": len(chars),
        "characters": sum(chars.values()),
        "held_out_groups": len(held),
    }
    return Music(*parts, counts, left_out)


def hold_out(chars, seed):
    """Returns the groups that are held out, by hash; the largest trains, so one alone does. chars:
    {group: characters}."""
    largest = max(chars, key=lambda group: (chars[group], group))
    ranked = sorted(set(chars) - {largest}, key=lambda group: groups.hash_number(seed, group))
    return set(ranked[: max(1, round(HELD_SHARE * len(chars)))])


def stream(rows, tokenizer):
    """Returns BEGIN text END BEGIN text END ... of sequences."""
    parts = [np.concatenate([[BEGIN], tokenizer.encode(row["text"]), [END]]) for row in rows]
    return np.concatenate(parts).astype(tokenizer.dtype)


def replayed(tokens, n_tokens, seed):
    """Returns whole sequences of a stream, drawn by the seed until they have n_tokens."""
    bounds = sequence_bounds(tokens)
    order = np.random.default_rng(seed).permutation(len(bounds) - 1)
    n_drawn = int(np.searchsorted(np.cumsum(np.diff(bounds)[order]), n_tokens)) + 1
    return np.concatenate([tokens[bounds[i] : bounds[i + 1]] for i in order[:n_drawn]])


def mixed_data(music, old, tokenizer, seed):
    """Returns the Data for the loop: new text with a share of the old; to watch, the held-out part
    or, without one, old validation text."""
    new = stream(music.train, tokenizer)
    train = np.concatenate([new, replayed(old.train, int(REPLAY * len(new)), seed)])
    test = stream(music.test, tokenizer) if music.test else np.asarray(old.val[:OLD_TOKENS])
    return old._replace(train=train, val=test, test=test)


def plan_training(data, base, seed, name):
    """Returns the run: the base model's recipe at RATE of its learning rate."""
    record, config = base.record, base.model.config
    again = max(1, round(LEAST_STEPS * BATCH_WINDOWS * BLOCK_SIZE / len(data.train)))
    spec = runs.RunSpec(
        config["family"],
        record["size"],
        runs.shape_of(config),
        RATE * record["learning_rate"],
        seed=runs.HEADLINE_SEED + seed,
        recipe=record["recipe"],
        suite="finetuned",
        epochs=EPOCHS * again,
        optimizer=record["optimizer"],
        batch_windows=BATCH_WINDOWS,
        name=name,
        dropout=DROPOUT,
        start=weights_digest(base.model.state_dict()),
    )
    return runs.plan_run(data, spec)


def gains(base, tuned, music, old):
    """Returns bits per character of the old text (`Data`) and of the held-out part, before and
    after, with the 95 % interval of the gain. base, tuned: `LoadedModel`s."""

    def losses(tokens):
        chars = base.tokenizer.token_chars
        pair = [evaluate(loaded.model, tokens, chars, loaded.device) for loaded in (base, tuned)]
        return pair, dict(zip(("before", "after"), [loss["bits_per_char"] for loss in pair]))

    (before, _), bits = losses(old.val[:OLD_TOKENS])
    old_text, held_out = {**bits, "characters": before["n_chars"]}, None
    if music.test:
        pair, bits = losses(stream(music.test, base.tokenizer))
        nats = dict(zip(("base", "tuned"), [loss["nats_by_sequence"] for loss in pair]))
        origins = [row["origin"] for row in music.test]
        paired = losses_by_tune(nats, pair[0]["chars_by_sequence"], origins, 0)
        interval = paired["differences"][0]["interval"]
        held_out = {
            "tunes": paired["n_tunes"],
            "characters": pair[0]["n_chars"],
            "bits_per_char": bits,
            "gain_bits_per_char_interval": sorted(-end / math.log(2) for end in interval),
        }
    return {"old_text": old_text, "held_out": held_out}


def write_samples(folder, loaded, music, n, max_chars, seed):
    """Draws n samples with right bars from headers of held-out tunes, or of the others if none is
    held out; writes them with pictures and returns their metadata rows."""
    headers = prompts_from(music.test or music.train, "header", loaded.tokenizer)
    prompts = dict.fromkeys(h for h, _ in headers if not RightBars.what_is_wrong(h)) or [""]
    requests = [
        Request(prompt, seed + i, max_chars=max_chars, bars="right")
        for i, prompt in zip(range(n), itertools.cycle(prompts))
    ]
    model, tokenizer, device = loaded.model, loaded.tokenizer, loaded.device
    samples, rows = generate(model, tokenizer, requests, device, right_bars=RightBars), []
    for i, sample in enumerate(samples):
        stem, n_given = f"sample_{i:03d}", len(sample["prompt"])
        row = drawn.write_sample(folder, stem, sample)
        row["pictures"] = drawn.write_pictures(folder, stem, sample["text"], n_given)
        rows.append(row)
    return rows
