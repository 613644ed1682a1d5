"""Trains the largest Transformer for ten epochs, draws music from it, measures that music and writes the results.

Reads:  data/ (stage 03), the nine checkpoints and records of stages 04 and 05, part4_outputs/fits.json (stage 06)
Writes: checkpoints/best_model.{pt,json,curve.jsonl}
        part4_outputs/checkpoints/best_model.pt, training_history.json (nats per character by epoch and step)
        part4_outputs/generated/sample_000..009.abc (as drawn), .mid, .svg, .png, _roll.svg, _roll.png, metadata.json,
        repaired/sample_*.abc (only where a sample had to be cut to be readable)
        part4_outputs/evaluation/*.json (every measurement, kept under a key: an interrupted run goes on after the last)
        part4_outputs/figures/{sampler,ladder,skills}.{png,svg}, RESULTS.json, report.html
Run:    python 07_train_best_and_generate.py [--quick] [--skip-training]
        python 07_train_best_and_generate.py --num-samples 3 --prompt "X:1\\nM:6/8\\nL:1/16\\n" --temperature 0.9
The second form plays with a finished model: it writes generated/play_NNN.abc, .mid and .json and nothing else.
Prints the headline block of RESULTS.json last.
"""

import contextlib
import io
import json
import math
import os
import random
import re
from fractions import Fraction
from pathlib import Path

# first of all: from here on Ctrl-C shows no traceback, however long the rest takes to load
from study.code_key import code_digest
from study.stage import (STAGES, Stage, environment, fail, file_digest, load_manifest, progress, read_json,
                   resolve_root, root_flags, run, stage_parser, value_digest, write_bytes, write_json, write_text)

from music import music_metrics
from study import report
from study import sampling
from study import training
from music.abc_text import AbcError, check_abc, read_abc, split_tunebook
from common import Tokenizer, pick_device
from study.sampling import Request, generate, unprompted

BEST = "best_model"
EPOCHS = {"full": 10, "quick": 2}
SIZES = {"transformer": ("tiny", "small", "medium", "large", "xl"), "lstm": ("tiny", "small", "medium", "large")}
BUDGETS = {  # n_*: samples; *_chars: characters drawn at most
    "full": {"n_rated": 200, "rated_chars": 5000, "n_prompted": 100, "prompted_chars": 2000, "n_sweep": 40,
             "sweep_chars": 600, "n_skills": 100, "skills_chars": 1000, "n_real": 200, "sample_chars": 3000},
    "quick": {"n_rated": 100, "rated_chars": 1500, "n_prompted": 20, "prompted_chars": 500, "n_sweep": 8,
              "sweep_chars": 320, "n_skills": 100, "skills_chars": 300, "n_real": 100, "sample_chars": 1000},
}
MODEL_ITSELF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
SWEEP = [{**MODEL_ITSELF, "temperature": temperature, **cut}
         for temperature in (0.7, 0.8, 0.9, 1.0, 1.1) for cut in ({}, {"top_p": 0.95}, {"min_p": 0.05})]
SWEEP_MAX_REST_ABOVE_REAL = 0.10    # a sampler that drifts into rests or into one bar repeated is no better sampler,
SWEEP_MAX_REPEAT_ABOVE_REAL = 0.15  # however valid its bars: shares of bars above those of the validation tunes
TEN = [  # the samples to look at: prompt, and the sampler's temperature (None: the chosen sampler)
    ("unconditional", None), ("unconditional", 1.0), ("unconditional", 0.8),
    ("header", None), ("header", 1.0), ("header", 0.9),
    ("bars", None), ("bars", 1.0), ("bars", 0.8), ("bars", 0.7)]
PROMPT_BARS = 4
SEEDS = {"unprompted": 10_000, "chosen": 20_000, "header": 30_000, "bars": 40_000, "sweep": 50_000, "skills": 60_000,
         "ten": 70_000}  # first seed of every set, so that no two sets share a random stream
MIDI_TICKS = 480  # per quarter note
PLAY_CHARS = 2000
PLAY_FLAGS = ("prompt", "num_samples", "temperature", "top_k", "top_p", "min_p", "max_chars")


# ---------------------------------------------------------------- command line

def parse_arguments(argv):
    parser = stage_parser(__doc__, training=True)
    for action in parser._actions:
        if action.dest == "only":
            action.metavar, action.help = "SIZE", "size of the Transformer to train as the best model (default: xl)"
    parser.add_argument("--skip-training", action="store_true",
                        help="sample and evaluate with the best_model.pt that exists, whatever it was trained on")
    parser.add_argument("--check", action="store_true", help="only check that RESULTS.json holds all that it promises")
    parser.add_argument("--headline", action="store_true", help="only print the headline block of RESULTS.json")
    play = parser.add_argument_group("play with a finished model (writes generated/play_NNN.*, measures nothing)")
    play.add_argument("--prompt", metavar="TEXT", help=r"what the samples begin with; \n stands for a line end")
    play.add_argument("--num-samples", type=int, metavar="N", help="how many (default: 1)")
    play.add_argument("--temperature", type=float, help="default of all four: the sampler that the sweep chose")
    play.add_argument("--top-k", type=int, help="draw among the K likeliest characters; 0: all")
    play.add_argument("--top-p", type=float, help="draw among the likeliest that make up this share; 1: all")
    play.add_argument("--min-p", type=float, help="leave out what has less than this times the likeliest; 0: nothing")
    play.add_argument("--max-chars", type=int, metavar="N", help="characters at most (default: 2000)")
    return parser.parse_args(argv)


# ---------------------------------------------------------------- the best model

def plan_best(root, data, size, quick, seed):
    """The run of the best model: configuration and recipe of the one-epoch Transformer of this size, more epochs."""
    record = read_json(root / f"checkpoints/transformer_{size}.json")
    if record is None:
        have = sorted(path.stem[12:] for path in (root / "checkpoints").glob("transformer_*.json"))
        raise ValueError(f"there is no record of transformer_{size}; trained are: {', '.join(have) or 'none'}")
    shape = {key: value for key, value in record["config"].items()
             if key not in ("family", "vocab_size", "block_size", "dropout", "rotary", "qk_norm")}
    return training.plan_run(data, "transformer", size, shape, record["learning_rate"], seed=seed,
                             recipe=record["recipe"], optimizer=record["optimizer"], keep_best=True, name=BEST,
                             epochs=EPOCHS["quick" if quick else "full"], max_train_chars=record["max_train_chars"])


def load_model(root, tokenizer, name, device="cpu"):
    """A checkpoint's model; ValueError if it is damaged or was made with another vocabulary."""
    model, checkpoint = training.load_checkpoint(root / f"checkpoints/{name}.pt", device)
    if checkpoint["tokenizer_digest"] != tokenizer.digest:
        raise ValueError(f"checkpoints/{name}.pt was trained with another vocabulary than data/tokenizer.pkl")
    return model


def write_history(root):
    """Copies the best model to part4_outputs/checkpoints and writes its history beside it."""
    folder = root / "part4_outputs/checkpoints"
    record = read_json(root / f"checkpoints/{BEST}.json") or {}
    curve = [json.loads(line) for line in _read(root / f"checkpoints/{BEST}.curve.jsonl").splitlines() if line.strip()]
    per_epoch = record.get("steps", 0) / max(record.get("epochs") or 1, 1)
    epochs = {}
    for point in curve:  # the last evaluation of every epoch
        epochs[max(1, math.ceil(point["step"] / per_epoch - 1e-9)) if per_epoch else 1] = point
    write_json(folder / "training_history.json", {
        "unit": "nats per character",
        "epochs": [{"epoch": epoch, **point, "val_perplexity": math.exp(point["val_nats_per_char"])}
                   for epoch, point in sorted(epochs.items())],
        "best_epoch": record.get("best_epoch"), "best_val_nats_per_char": record.get("val_nats_per_char"),
        "learning_rate": record.get("learning_rate"), "optimizer": record.get("optimizer"),
        "seconds": record.get("seconds"), "curve": curve})
    write_bytes(folder / f"{BEST}.pt", (root / f"checkpoints/{BEST}.pt").read_bytes())


def _read(path):
    return path.read_text(encoding="utf-8") if path.exists() else ""


# ---------------------------------------------------------------- held-out tunes and prompts

def held_out(root, split, n, seed):
    """Up to n tunes of a split in a seeded random order: [{"origin", "text"}], one piece per tune."""
    tunes = split_tunebook(_read(root / f"data/{split}.txt"))
    rows = [line.split("\t") for line in _read(root / f"data/{split}_sequences.tsv").splitlines()[1:]]
    if len(rows) != len(tunes):  # text that is not ABC has no tunes to prompt with
        return []
    firsts = [i for i, row in enumerate(rows) if int(row[3]) == 1]
    random.Random(seed).shuffle(firsts)
    return [{"origin": rows[i][1], "text": tunes[i]} for i in firsts[:n]]


def header_of(text):
    """The header of a tune, through the end of its K: line; None if it has none."""
    match = re.search(r"^K:[^\n]*\n", text, re.MULTILINE)
    return text[:match.end()] if match else None


def first_bars(text, n_bars=PROMPT_BARS):
    """Header and the first n bars of all voices; None if the tune is not longer than that or cannot be read."""
    header = header_of(text)
    for match in re.finditer(r"\|+", text) if header else ():
        if match.end() <= len(header):
            continue
        with contextlib.suppress(AbcError):
            voices = read_abc(text[:match.end()] + "\n").voices
            n_voices = len(set(re.findall(r"\[V:([^\]]*)\]", text))) or 1
            if len(voices) >= n_voices and min(len(voice.bars) for voice in voices) >= n_bars:
                return text[:match.end()] if len(text) > match.end() + 20 else None
    return None


def prompts_from(tunes, kind):
    """[(prompt, origin)] of one kind, "header" or "bars", from held-out tunes that have it."""
    make = header_of if kind == "header" else first_bars
    return [(prompt, tune["origin"]) for tune in tunes if (prompt := make(tune["text"]))]


# ---------------------------------------------------------------- measuring

def measured(stage, name, settings, make):
    """What `make()` returns (a dict), from part4_outputs/evaluation/<name>.json if that was made from these settings,
    this model and this code."""
    path = stage.root / f"part4_outputs/evaluation/{name}.json"
    key = value_digest({"settings": settings, "code": evaluation_code()})
    found = read_json(path)
    if not isinstance(found, dict) or found.get("key") != key or stage.args.force:
        found = {"key": key, **make()}
        write_json(path, found)
    return found


def evaluation_code():
    """Digest of the code that measures: this script, sampling and metrics, but not training and not the report."""
    return value_digest([file_digest(__file__), code_digest([draw_and_rate])])


def without_surprisal(samples):
    return [{key: value for key, value in sample.items() if key not in ("surprisal_bits", "end_bits")}
            for sample in samples]


def draw_and_rate(model, tokenizer, requests, device, desc, judge=True):
    """Samples of these requests and their rates, first try, none left out."""
    samples = without_surprisal(generate(model, tokenizer, requests, device, desc=desc))
    return {"rates": music_metrics.rate_samples(samples, judge), "samples": samples}


def real_samples(tunes):
    """Held-out tunes in the form of samples, to be judged by the same functions."""
    return [{"text": tune["text"], "prompt": "", "stop_reason": "end", "new_chars": len(tune["text"])}
            for tune in tunes]


def cut_to(samples, max_chars):
    """Real tunes under the length limit of the samples beside them."""
    return [{**sample, "text": sample["text"][:max_chars], "new_chars": min(len(sample["text"]), max_chars),
             "stop_reason": "end" if len(sample["text"]) <= max_chars else "budget"} for sample in samples]


def sweep_sampler(model, tokenizer, tunes, copied, budget, seed, device):
    """Rates of every setting of SWEEP from the same prompts (headers of validation tunes), drawn in one batch.

    copied: music_metrics.Novelty of the training text. Returns {"rows", "real" (the same of the validation tunes),
    "n", "chosen"}. Texts stopped by the budget are judged without their unfinished bar.
    """
    prompts, n = prompts_from(tunes, "header") or [("", None)], budget["n_sweep"]
    requests = [Request(prompt=prompts[i % len(prompts)][0], seed=seed + i, max_chars=budget["sweep_chars"], **setting)
                for setting in SWEEP for i in range(n)]
    samples = without_surprisal(generate(model, tokenizer, requests, device, desc="sweep"))
    rows = [{**setting, "cut": cut_name(setting), **sweep_row(samples[k * n:(k + 1) * n], copied)}
            for k, setting in enumerate(SWEEP)]
    real = sweep_row(cut_to(real_samples(tunes), budget["sweep_chars"]), copied)
    return {"rows": rows, "real": real, "n": n, "chosen": choose_sampler(rows, real),
            "rule": f"largest mean of validity and bar accuracy among the settings whose rest bars are at most "
                    f"{SWEEP_MAX_REST_ABOVE_REAL} and whose repeated bars are at most {SWEEP_MAX_REPEAT_ABOVE_REAL} "
                    f"above those of validation tunes; of equals the one nearest to the model itself"}


def sweep_row(samples, copied):
    """The figures by which samplers are compared."""
    rates = music_metrics.rate_samples(samples, judge=False)
    repeated = [music_metrics.music_metrics(sample)["bar_repetition"] for sample in samples]
    repeated = [value for value in repeated if value is not None]
    return {"n": rates["n"], "rate": rates["cut"]["rate"], "interval": rates["cut"]["interval"],
            "bar_accuracy": rates["bar_accuracy"], "rest_bar_share": rates["rest_bar_share"],
            "bar_repetition": sum(repeated) / len(repeated) if repeated else None,
            "copied_share": copied.measure(samples)["copied_share"]}


def choose_sampler(rows, real):
    """The setting of the best row (see the rule in `sweep_sampler`); the model itself if every row drifts away."""
    def drifts(row):
        return ((row["rest_bar_share"] or 0) > (real["rest_bar_share"] or 0) + SWEEP_MAX_REST_ABOVE_REAL
                or (row["bar_repetition"] or 0) > (real["bar_repetition"] or 0) + SWEEP_MAX_REPEAT_ABOVE_REAL)
    def merit(row):
        return ((row["rate"] or 0) + (row["bar_accuracy"] or 0), -abs(row["temperature"] - 1),
                cut_name(row) == "no truncation")
    best = max((row for row in rows if not drifts(row)), key=merit, default=MODEL_ITSELF)
    return {key: best[key] for key in MODEL_ITSELF}


def floor_rates(train_tunes, n, seed):
    """Rates of what any judge has to refuse: {kind: rates}."""
    return {name: music_metrics.rate_samples(samples)
            for name, samples in music_metrics.floors(train_tunes, n, seed).items()}


def brief(measured):
    """What was measured of a set, without the rows of its samples."""
    return {key: value for key, value in measured.items() if key != "samples"}


def compare_copying(samples, chosen, tunes, copied):
    """What samples share with the training text and with each other, beside the same of held-out tunes."""
    return {"generated": brief(copied.measure(samples)), "chosen_sampler": brief(copied.measure(chosen)),
            "heldout_baseline": brief(copied.measure(real_samples(tunes))),
            "diversity": music_metrics.diversity(samples),
            "diversity_of_real_music": music_metrics.diversity(real_samples(tunes))}


# ---------------------------------------------------------------- samples as files

def repaired(text):
    """A text cut after the last bar that can be read and has its meter's length in every voice before it; None if the
    text needs no cut, "" if nothing of it can be kept.

    A repaired text is never rated: it is there to be looked at and heard.
    """
    if check_abc(text).level >= 4:
        return None
    header = header_of(text)
    ends = [match.end() for match in re.finditer(r"\|", text) if match.end() > len(header or text)]
    low, high = 0, len(ends)  # how many bars can be kept: what precedes an error is right, what follows is not
    while low < high:
        middle = (low + high + 1) // 2
        check = check_abc(text[:ends[middle - 1]] + "\n")
        low, high = (middle, high) if check.header and check.tokens and check.meter else (low, middle - 1)
    while low and not check_abc(text[:ends[low - 1]] + "\n").aligned:
        low -= 1
    kept = text[:ends[low - 1]] + "\n" if low else ""
    return None if kept.rstrip() == text.rstrip() else kept


def midi_bytes(tune):
    """A tune's notes as a MIDI file: a track for each voice, tempo, meter and key changes where they stand."""
    import symusic

    def ticks(quarters):
        return round(quarters * MIDI_TICKS)

    score = symusic.Score(MIDI_TICKS)
    for onset, tempo in tune.tempos:
        if tempo:
            score.tempos.append(symusic.Tempo(ticks(onset), float(min(max(tempo, 4), 960))))
    for onset, meter in tune.meters:
        if match := re.fullmatch(r"(\d+)/(\d+)", {"C": "4/4", "C|": "2/2"}.get(meter, meter or "")):
            numerator, denominator = map(int, match.groups())
            if 0 < numerator < 256 and denominator in (1, 2, 4, 8, 16, 32, 64):
                score.time_signatures.append(symusic.TimeSignature(ticks(onset), numerator, denominator))
    for number, voice in enumerate(tune.voices):
        track = symusic.Track(voice.name, 0, False)
        for note in voice.notes:
            start = ticks(note.onset)
            track.notes.append(symusic.Note(start, max(1, ticks(note.onset + note.duration) - start), note.pitch, 80))
        if voice.notes:
            score.tracks.append(track)
    return score.dumps_midi()


def write_midi(path, text):
    """Writes the notes of a text, or of what can be read of it from its beginning; returns the file's name, or None if
    there is no note to write."""
    tune, _, _ = report.readable(text)
    if tune is None or not any(voice.notes for voice in tune.voices):
        path.unlink(missing_ok=True)
        return None
    write_bytes(path, midi_bytes(tune))
    return path.name


def ten_requests(tunes, chosen, budget, seed):
    """[(type, prompt's origin, Request)] of the samples to look at, fixed before anything is drawn."""
    used, requests = {"header": 0, "bars": 0}, []
    prompts = {"header": prompts_from(tunes, "header"), "bars": prompts_from(tunes[::-1], "bars")}
    for i, (kind, temperature) in enumerate(TEN):
        sampler = chosen if temperature is None else {**MODEL_ITSELF, "temperature": temperature}
        prompt, origin = "", None
        if kind != "unconditional" and prompts[kind]:
            prompt, origin = prompts[kind][used[kind] % len(prompts[kind])]
            used[kind] += 1
        requests.append((kind if prompt else "unconditional", origin,
                         Request(prompt=prompt, seed=seed + i, max_chars=budget["sample_chars"], **sampler)))
    return requests


def write_sample(folder, stem, sample, kind, origin):
    """Writes <stem>.abc as drawn, .mid and pictures, and a repaired text if that differs; returns its metadata row."""
    write_text(folder / f"{stem}.abc", sample["text"])
    cut = repaired(sample["text"])
    second = folder / "repaired" / f"{stem}.abc"
    if cut:
        write_text(second, cut)
    else:
        second.unlink(missing_ok=True)
    midi = write_midi(folder / f"{stem}.mid", sample["text"])
    row = {"file": f"{stem}.abc", "midi": midi, "repaired": f"repaired/{stem}.abc" if cut else None, "type": kind,
           "prompt_source": origin, **sample, "length": len(sample["text"]),
           "truncated": sample["stop_reason"] == "budget",
           "mean_logprob_bits": -sum(sample["surprisal_bits"]) / max(len(sample["surprisal_bits"]), 1)}
    record = music_metrics.check_record
    row["validity"] = record(check_abc(sample["text"], len(sample["prompt"])))
    row["validity_repaired"] = record(check_abc(cut, min(len(sample["prompt"]), len(cut)))) if cut else None
    return row


def portable(value):
    """The same with tuples as lists and fractions as numbers, as JSON wants it."""
    if isinstance(value, dict):
        return {str(key): portable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [portable(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, Fraction):
        value = float(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---------------------------------------------------------------- results
# RESULTS.json is a pure function of the manifests, the run records and the evaluation files below the root.

RUN_COLUMNS = (
    "name", "family", "size", "seed", "suite", "recipe", "data_fraction", "params_total", "params_non_embedding",
    "train_chars", "epochs", "train_flops", "train_flops_6nd", "steps", "tokens_per_step", "seconds",
    "tokens_per_second", "peak_memory_bytes", "device", "learning_rate", "optimizer", "train_nats_per_char",
    "val_nats_per_char", "val_bits_per_char", "test_nats_per_char")
PROMISED = (
    "quick", "headline.transformer_alpha", "headline.lstm_alpha", "headline.scaling", "headline.best_test_perplexity",
    "headline.best_test_bits_per_char", "headline.best_ngram_test_bits_per_char", "headline.abc_validity_rate",
    "headline.abc_validity_interval", "headline.abc_validity_real_music", "headline.warnings",
    *(f"data.splits.{split}.characters" for split in ("train", "val", "test")), "data.sources", "data.conversion",
    "tokenizer.vocab_size", "tokenizer.digest", "runs",
    "fits.transformer.alpha", "fits.transformer.alpha_interval", "fits.transformer.r_squared",
    "fits.transformer.identified", "fits.lstm.alpha", "fits.lstm.alpha_interval", "fits.lstm.r_squared",
    "fits.lstm.identified", "fits.comparison",
    *(f"baselines.{split}.{name}.bits_per_char" for split in ("val", "test")
      for name in ("uniform", "unigram", "xz", "bz2")),
    "best.params_total", "best.epochs", "best.test_nats_per_char", "best.test_bits_per_char", "best.test_perplexity",
    "best.val_nats_per_char", "best.test_loss_by_position",
    "samples.unprompted.n", "samples.unprompted.rate", "samples.unprompted.interval", "samples.unprompted.by_level",
    "samples.unprompted.bar_accuracy", "samples.chosen_sampler.rate", "samples.chosen_sampler.interval",
    "samples.prompted.header.rate", "samples.prompted.bars.rate", "samples.real_music.rate", "samples.ladder",
    "samples.sampler", "samples.sweep", "samples.files",
    "music.unprompted.metrics", "music.unprompted.jsd", "music.chosen_sampler.jsd",
    "novelty.generated", "novelty.heldout_baseline", "skills", "environment.python", "environment.torch")
N_RUNS, N_SAMPLES, N_RATED = 9, 10, 100  # what a complete results file holds at least


def results(root):
    """The content of RESULTS.json from what stands below root; what was not measured is None."""
    root = Path(root)
    outputs = root / "part4_outputs"
    found = evaluation_files(root)
    metadata = read_json(outputs / "generated/metadata.json") or {}
    manifests = {name: load_manifest(root, name) or {} for name in STAGES}
    baselines = read_json(root / "data/baselines.json") or {}
    fits = read_json(outputs / "fits.json") or {}
    runs, record = run_rows(root, manifests), read_json(root / f"checkpoints/{BEST}.json") or {}
    test = found.get("test") or {}
    rates = {name: (found.get(name) or {}).get("rates") for name in ("unprompted", "chosen", "header", "bars", "real")}
    best = {**{column: record.get(column) for column in RUN_COLUMNS}, "best_epoch": record.get("best_epoch"),
            "checkpoint": f"checkpoints/{BEST}.pt", "checkpoint_sha256": record.get("checkpoint_sha256"),
            **{f"test_{key}": test.get(key) for key in ("nats_per_char", "bits_per_char", "perplexity",
                                                       "loss_by_position")}, "test_chars": test.get("n_chars")}
    sweep, music, novelty = (found.get(name) or {} for name in ("sweep", "music", "novelty"))
    ladder = ladder_rows(found)
    samples = {"definition": "valid = level 4: header, tokens, content, and every bar exactly its meter; of all "
                             "samples at the first try, judged on the generated part",
               "unprompted": rates["unprompted"], "chosen_sampler": rates["chosen"],
               "prompted": {"header": rates["header"], "bars": rates["bars"]}, "real_music": rates["real"],
               "floors": (found.get("floors") or {}).get("rates"), "ladder": ladder, "sampler": sweep.get("chosen"),
               "sweep": sweep.get("rows"), "files": [row.get("file") for row in metadata.get("samples") or []]}
    skills = {name[7:]: {key: value for key, value in content.items() if key not in ("key", "samples")}
              for name, content in found.items() if name.startswith("skills_") and content}
    quick = manifests["03_tokenize_split"].get("config", {}).get("quick")
    parts = {
        "data": describe_data(root, manifests), "tokenizer": describe_tokenizer(root), "runs": runs,
        "fits": describe_fits(fits),
        "baselines": baselines, "best": best, "samples": samples, "music": strip_key(music),
        "novelty": strip_key(novelty), "skills": skills or None,
        "evaluation": {  # the names that other studies of this kind use
            "test_loss": test.get("nats_per_char"), "test_perplexity": test.get("perplexity"),
            "bits_per_char": test.get("bits_per_char"), "samples_generated": (rates["unprompted"] or {}).get("n"),
            "abc_validity_rate": (rates["unprompted"] or {}).get("rate"),
            "validity": {**(rates["unprompted"] or {}), "ladder": ladder},
            "novelty": {key: novelty.get(key) for key in ("generated", "heldout_baseline")}},
        "environment": metadata.get("environment")}
    return portable({"quick": quick, "headline": headline(parts, fits), **parts})


def describe_fits(fits):
    """The content of fits.json, a family at the top; a family that was not fitted says why."""
    refused = {family: {"alpha": None, "alpha_interval": [None, None], "r_squared": None, "identified": False,
                        "reason": reason} for family, reason in (fits.get("refused") or {}).items()}
    return {**refused, **(fits.get("families") or {}), **{k: v for k, v in fits.items() if k != "families"}}


def strip_key(found):
    return {key: value for key, value in found.items() if key != "key"} or None


def run_rows(root, manifests):
    """One flat row per run that the manifests of 04 and 05 list."""
    rows = []
    for name in ("04_train_transformers", "05_train_lstms"):
        for output in manifests[name].get("outputs", {}):
            record = read_json(root / output) if output.endswith(".json") and output.count("/") == 1 else None
            if isinstance(record, dict) and "family" in record:
                rows.append({column: record.get(column) for column in RUN_COLUMNS})
    return sorted(rows, key=lambda row: (row["family"] != "transformer", row["params_total"], row["seed"], row["name"]))


def describe_data(root, manifests):
    stats = read_json(root / "data/stats.json") or {}
    download, conversion = manifests["01_download"], manifests["02_midi_to_abc"]
    return {"sources": download.get("config") or {}, "downloaded": download.get("counts") or {},
            "conversion": {"counts": conversion.get("counts") or {}, "failed": conversion.get("skipped") or {}},
            **stats}


def describe_tokenizer(root):
    try:
        tokenizer = Tokenizer.load(root / "data/tokenizer.pkl")
    except ValueError:
        return None
    return {"kind": "character", "vocab_size": tokenizer.vocab_size, "characters": tokenizer.characters,
            "digest": tokenizer.digest}


def best_ngram(baselines, split):
    """(name, bits per character) of the best n-gram baseline of a split, or (None, None)."""
    rows = [(row["bits_per_char"], name) for name, row in (baselines.get(split) or {}).items()
            if "gram" in name and name != "unigram" and isinstance(row, dict) and row.get("bits_per_char") is not None]
    return min(rows)[::-1] if rows else (None, None)


def headline(parts, fits):
    """What a reader wants first, with the failures in words."""
    best, rates = parts["best"], parts["samples"]["unprompted"] or {}
    name, ngram = best_ngram(parts["baselines"], "test")
    families = parts["fits"]
    numbers = {f"{family}_{key}": (families.get(family) or {}).get(key)
               for family in ("transformer", "lstm") for key in ("alpha", "alpha_interval", "identified", "r_squared")}
    return {
        "scaling": fits.get("headline"), **numbers,
        "best_model": f"{FAMILY_LOOK[best['family']][2]} {best['size']}, {best['epochs']:g} epochs"
        if best.get("family") in FAMILY_LOOK else None,
        "best_test_perplexity": best["test_perplexity"], "best_test_bits_per_char": best["test_bits_per_char"],
        "best_ngram": name, "best_ngram_test_bits_per_char": ngram,
        "abc_validity_rate": rates.get("rate"), "abc_validity_interval": rates.get("interval"),
        "abc_validity_n": rates.get("n"), "abc_validity_real_music": (parts["samples"]["real_music"] or {}).get("rate"),
        "abc_validity_chosen_sampler": (parts["samples"]["chosen_sampler"] or {}).get("rate"),
        "warnings": failures_in_words(parts)}


def failures_in_words(parts):
    """Sentences on every model that is no better than the simple baseline beside it."""
    words = []
    for split in ("test", "val"):
        rows = [("the best model", parts["best"])] + [(row["name"], row) for row in parts["runs"]]
        known = {name: ((parts["baselines"].get(split) or {}).get(name) or {}).get("bits_per_char")
                 for name in ("unigram", "xz", "bz2")}
        name, ngram = best_ngram(parts["baselines"], split)
        for what, mark in ((f"the {name} model", ngram), ("counting characters", known["unigram"]),
                           ("the compressor xz", known["xz"]), ("the compressor bz2", known["bz2"])):
            worse = [f"{who} ({bits:.3f})" for who, row in rows
                     if mark is not None and (bits := _bits(row, split)) is not None and bits >= mark]
            if worse:
                words.append(f"FAILURE on the {split} split: no better than {what} ({mark:.3f} bits per "
                             f"character): {', '.join(worse)}")
    best, rates = parts["best"], parts["samples"]["unprompted"] or {}
    floor = max((row["rate"] for row in parts["samples"]["ladder"] if row["kind"] == "ngram"), default=None)
    if rates.get("rate") is not None and floor is not None and rates["rate"] <= floor:
        words.append(f"FAILURE: {rates['rate']:.0%} of the samples are valid, no more than of n-gram text "
                     f"({floor:.0%})")
    if best.get("val_nats_per_char") and best.get("test_nats_per_char"):
        gap = best["test_nats_per_char"] - best["val_nats_per_char"]
        if abs(gap) > 0.25 * best["val_nats_per_char"]:
            words.append(f"test and validation loss of the best model differ by {gap:+.3f} nats per character: "
                         f"the splits are small or unlike")
    return words


def _bits(row, split):
    nats = row.get(f"{split}_nats_per_char")
    return None if nats is None else nats / math.log(2)


def ladder_rows(found):
    """Validity of real music, the model, n-grams and random text: [{"name", "kind", and their rates}]."""
    named = [("real music, held out", "real", (found.get("real") or {}).get("rates")),
             ("best model", "model", (found.get("unprompted") or {}).get("rates")),
             ("best model, chosen sampler", "sampler", (found.get("chosen") or {}).get("rates"))]
    floors = (found.get("floors") or {}).get("rates") or {}
    order = sorted(floors, key=lambda name: ("gram" not in name, -int(re.sub(r"\D", "", name) or 0), name))
    named += [(name, "ngram" if "gram" in name else "random" if "random" in name else "floor", floors[name])
              for name in order]
    return [music_metrics.ladder_row(name, kind, rates) for name, kind, rates in named if rates]


def check_results(content):
    """The promised keys that RESULTS.json lacks, and what else is incomplete in it, as a list of sentences."""
    content = content if isinstance(content, dict) else {}
    refused = {family for family in SIZES if report.pick(content, f"fits.{family}.reason")}  # said in words: no gap
    missing = [f"{path} is missing" for path in PROMISED if report.pick(content, path) is None
               and not any(family in path for family in refused) and not (refused and path == "fits.comparison")]
    missing += [f"baselines.{split} has no n-gram" for split in ("val", "test")
                if best_ngram(content.get("baselines") or {}, split)[1] is None]
    runs = content.get("runs") or []
    losses = [row.get(f"{split}_nats_per_char") for row in runs for split in ("train", "val", "test")]
    names = {row.get("name") for row in runs}
    absent = [name for family, sizes in SIZES.items() for size in sizes if (name := f"{family}_{size}") not in names]
    if absent:
        missing.append(f"runs lacks {', '.join(absent)}")
    if any(not isinstance(loss, (int, float)) or not math.isfinite(loss) for loss in losses):
        missing.append("runs has losses that are no numbers")
    for path, least in (("samples.files", N_SAMPLES), ("skills", N_RUNS)):
        if len(report.pick(content, path) or ()) < least:
            missing.append(f"{path} has fewer than {least} entries")
    for path in ("samples.unprompted.n", "samples.chosen_sampler.n"):
        if (report.pick(content, path) or 0) < N_RATED:
            missing.append(f"{path} is below {N_RATED}")
    return missing


# ---------------------------------------------------------------- figures

SKILL_WORDS = {  # of music_metrics.skills, in the order of the figure
    "meter": "bars of the right length", "in_key": "notes in the scale of K:", "key": "tunes in the key of K:",
    "cadence": "tunes that end on the tonic", "repetition": "bars heard before", "content": "enough music (level 3)",
    "valid": "valid (level 4)", "ended": "ended by the model"}
FAMILY_LOOK = {"transformer": ("#0072B2", "o", "Transformer"), "lstm": ("#D55E00", "s", "LSTM")}
LEVELS = ("header", "tokens", "content", "meter", "aligned")


def save_figure(figure, folder, name):
    """Writes a figure as PNG and as SVG whose bytes do not depend on the time."""
    import matplotlib
    matplotlib.rcParams["svg.hashsalt"] = name
    for kind in ("png", "svg"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=150, bbox_inches="tight",
                       metadata={"Date": None} if kind == "svg" else {"Software": None})
        write_bytes(folder / f"{name}.{kind}", buffer.getvalue())


def draw_figures(folder, found):
    """The figures of this stage from its evaluation files; returns the names written."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names, skills = [], {name[7:]: content for name, content in found.items() if name.startswith("skills_")}
    for name, draw, content in (("sampler", draw_sweep, found.get("sweep")),
                                ("ladder", draw_ladder, ladder_rows(found)), ("skills", draw_skills, skills)):
        if not content:
            continue
        figure = draw(plt, content)
        save_figure(figure, folder, name)
        plt.close(figure)
        names += [f"part4_outputs/figures/{name}.{kind}" for kind in ("png", "svg")]
    return names


def draw_sweep(plt, sweep):
    """Validity, bar accuracy, repetition and copied share over temperature, a line for each truncation."""
    measures = (("rate", "valid (level 4)"), ("bar_accuracy", "bar accuracy"), ("rest_bar_share", "rest bars"),
                ("bar_repetition", "bars repeated"), ("copied_share", "copied characters"))
    figure, axes = plt.subplots(1, len(measures), figsize=(13, 2.9), sharex=True)
    cuts = list(dict.fromkeys(row["cut"] for row in sweep["rows"]))
    for axis, (key, label) in zip(axes, measures):
        for i, cut in enumerate(cuts):
            points = [(row["temperature"], row[key]) for row in sweep["rows"]
                      if row["cut"] == cut and row[key] is not None]
            if points:
                axis.plot(*zip(*points), marker="osD"[i % 3], linestyle=("-", "--", ":")[i % 3], label=cut,
                          color=("#0072B2", "#D55E00", "#009E73")[i % 3])
        if sweep["real"].get(key) is not None:
            axis.axhline(sweep["real"][key], color="0.4", linewidth=1, label="validation tunes")
        axis.set(title=label, xlabel="temperature", ylim=(-0.03, 1.03))
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=4, bbox_to_anchor=(0.5, -0.14), frameon=False)
    chosen = sweep["chosen"]
    figure.suptitle(f"Sweep of the sampler, n = {sweep['n']} a point; chosen: {describe_sampler(chosen)}", y=1.04)
    figure.tight_layout()
    return figure


def describe_sampler(sampler):
    """A sampler in words, e.g. "temperature 0.9, top-p 0.95"."""
    return f"temperature {sampler['temperature']:g}, {cut_name(sampler)}"


def cut_name(sampler):
    """The truncation of a sampler in words."""
    parts = [f"{word} {sampler[key]:g}" for key, word, off in
             (("top_k", "top-k", 0), ("top_p", "top-p", 1.0), ("min_p", "min-p", 0.0)) if sampler[key] != off]
    return ", ".join(parts) or "no truncation"


def draw_ladder(plt, rows):
    """Share of texts that reach each level, for real music, the model, n-grams and random text."""
    figure, axis = plt.subplots(figsize=(7, 3.6))
    for i, row in enumerate(rows):
        axis.plot(range(1, 6), row["by_level"], marker="osD^vPX*"[i % 8], label=f"{row['name']} (n = {row['n']})",
                  linewidth=2 if row["kind"] in ("model", "real") else 1,
                  linestyle="-" if row["kind"] in ("model", "real") else "--",
                  color={"real": "0.2", "model": "#0072B2", "sampler": "#56B4E9"}.get(
                      row["kind"], ("#D55E00", "#E69F00", "#CC79A7", "#009E73", "#999999", "#F0E442")[i % 6]))
    axis.set(xticks=range(1, 6), xticklabels=[f"{i} {name}" for i, name in enumerate(LEVELS, 1)], ylim=(-0.03, 1.03),
             ylabel="share of texts", title="Validity, level by level")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.tight_layout()
    return figure


def draw_skills(plt, skills):
    """Musical skills over model size, both families; the level of held-out music as a line."""
    measures = [key for key in SKILL_WORDS if any(one["skills"].get(key) is not None for one in skills.values())]
    columns = min(4, len(measures))
    n_rows = -(-len(measures) // columns)
    figure, axes = plt.subplots(n_rows, columns, figsize=(3.1 * columns, 2.5 * n_rows), squeeze=False, sharex=True)
    for axis, key in zip(axes.flat, measures):
        for family, (color, marker, label) in FAMILY_LOOK.items():
            points = sorted((content["params_total"], content["skills"][key]) for content in skills.values()
                            if content["family"] == family and content["skills"].get(key) is not None)
            if points:
                axis.plot(*zip(*points), color=color, marker=marker, label=label)
        real = next((content["real"].get(key) for content in skills.values() if content.get("real")), None)
        if real is not None:
            axis.axhline(real, color="0.4", linewidth=1, label="real music")
        axis.set(title=SKILL_WORDS[key], xscale="log", ylim=(-0.03, 1.03), xlabel="parameters")
        axis.set_xticks([1e5, 1e6, 1e7], ["0.1M", "1M", "10M"])
        axis.xaxis.set_minor_formatter(plt.NullFormatter())
        axis.title.set_fontsize(10)
        axis.grid(alpha=0.3)
    for axis in list(axes.flat)[len(measures):]:
        axis.axis("off")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=3, bbox_to_anchor=(0.5, -0.06), frameon=False)
    n = next(iter(skills.values()))["n"]
    figure.suptitle(f"Which musical skill appears at which size (n = {n} samples a model, temperature 1)")
    figure.tight_layout()
    return figure


# ---------------------------------------------------------------- play

def play(args):
    """Draws samples as a user wants them from a finished best model; leaves results and evaluation alone."""
    root, me = resolve_root(args), "07_train_best_and_generate.py"
    again = f"run: python {me}{root_flags(args)}"
    try:
        device = pick_device(args.device)
        tokenizer = Tokenizer.load(root / "data/tokenizer.pkl")
        model = load_model(root, tokenizer, BEST, device)
        chosen = (read_json(root / "part4_outputs/evaluation/sweep.json") or {}).get("chosen") or MODEL_ITSELF
        sampler = {key: chosen[key] if getattr(args, key) is None else getattr(args, key) for key in MODEL_ITSELF}
        prompt = (args.prompt or "").replace("\\n", "\n")
        n = 1 if args.num_samples is None else args.num_samples
        if n < 1:
            raise ValueError("--num-samples must be 1 or more")
        max_chars = PLAY_CHARS if args.max_chars is None else args.max_chars
        requests = [Request(prompt=prompt, seed=args.seed + i, max_chars=max_chars, **sampler) for i in range(n)]
        samples = generate(model, tokenizer, requests, device, desc="playing")
    except ValueError as error:
        fail(me, str(error), "see --help" if "setting" in str(error) or "prompt" in str(error) or "--" in str(error)
             else again)
    folder = root / "part4_outputs/generated"
    number = 1 + max([int(path.stem[5:]) for path in folder.glob("play_*.abc") if path.stem[5:].isdigit()], default=0)
    for i, sample in enumerate(samples, number):
        stem = f"play_{i:03d}"
        row = write_sample(folder, stem, sample, "header" if prompt else "unconditional", None)
        write_json(folder / f"{stem}.json", portable(row))
        print(f"{sample['text'].rstrip()}\n--- {stem}.abc: level {row['validity']['level']} of 5, seed "
              f"{sample['seed']}, {describe_sampler(sampler)}, ended by {sample['stop_reason']}\n")
    print(f"look at: {os.path.relpath(folder)}/play_*.abc, .mid")


# ---------------------------------------------------------------- the stage

def taken_as_it_is(args, size):
    """Digest of the best model that --skip-training takes although training would give another one; else None."""
    root = resolve_root(args)
    if not args.skip_training:
        return None
    with contextlib.suppress(ValueError, OSError):  # what is wrong with the data is said by the stage
        if training.finished(root, plan_best(root, training.load_data(root), size, args.quick, args.seed)):
            return None
    return file_digest(root / f"checkpoints/{BEST}.pt")


def train_best(stage, args, planned, data, device):
    """Trains the best model unless it stands there."""
    if args.skip_training:
        return
    try:
        training.train(stage.root, planned, data, device, micro_batch=args.micro_batch, again=args.force)
    except training.Stopped as error:
        fail(f"{stage.name}.py", str(error), "the last good state is kept; see --help for smaller budgets")


def evaluate_everything(stage, model, tokenizer, data, device, budget, seed):
    """Every measurement of the best model and of the nine, each kept on disk as soon as it is made; returns the chosen
    sampler and the test tunes."""
    root = stage.root
    base = {"model": file_digest(root / f"checkpoints/{BEST}.pt"), "data": stage.inputs["03_tokenize_split"],
            "budget": budget, "seed": seed}
    test_tunes, val_tunes = (held_out(root, split, budget["n_real"], seed) for split in ("test", "val"))
    train_text = _read(root / "data/train.txt")
    copied = music_metrics.Novelty(train_text)

    def keep(name, make, **settings):
        return measured(stage, name, {**base, **settings}, make)

    keep("test", lambda: training.evaluate(model, data.test, device))
    chosen = keep("sweep", lambda: sweep_sampler(model, tokenizer, val_tunes, copied, budget, seed + SEEDS["sweep"],
                                                 device))["chosen"]
    drawn = {}
    for name, sampler in (("unprompted", MODEL_ITSELF), ("chosen", chosen)):
        requests = unprompted(budget["n_rated"], seed + SEEDS[name], budget["rated_chars"], **sampler)
        drawn[name] = keep(name, lambda: {"sampler": sampler, **draw_and_rate(
            model, tokenizer, requests, device, name)}, sampler=sampler)["samples"]
    for kind in ("header", "bars"):
        prompts = prompts_from(test_tunes, kind)
        requests = [Request(prompts[i % len(prompts)][0], seed + SEEDS[kind] + i, max_chars=budget["prompted_chars"])
                    for i in range(budget["n_prompted"])] if prompts else []
        keep(kind, lambda: draw_and_rate(model, tokenizer, requests, device, kind) if requests
             else {"rates": None, "samples": []})
    keep("real", lambda: {"rates": music_metrics.rate_samples(real_samples(test_tunes)) if test_tunes else None})
    keep("floors", lambda: {"rates": floor_rates(split_tunebook(train_text), budget["n_rated"], seed)})
    keep("music", lambda: {name: portable(music_metrics.compare_sets(drawn[key], real_samples(test_tunes), seed))
                           for name, key in (("unprompted", "unprompted"), ("chosen_sampler", "chosen"))})
    keep("novelty", lambda: compare_copying(drawn["unprompted"], drawn["chosen"], test_tunes, copied))
    for name in [f"{family}_{size}" for family, sizes in SIZES.items() for size in sizes]:
        measure_skills(stage, name, tokenizer, device, budget, seed, test_tunes, copied)
    return chosen, test_tunes, copied


def measure_skills(stage, name, tokenizer, device, budget, seed, test_tunes, copied):
    """Skills, music and copying of one of the nine models from a small set of unprompted samples, beside real tunes
    under the same limit of length; nothing if it was not trained."""
    record = read_json(stage.root / f"checkpoints/{name}.json")
    if not record:
        return
    def make():
        model = load_model(stage.root, tokenizer, name, device)
        requests = unprompted(budget["n_skills"], seed + SEEDS["skills"], budget["skills_chars"])
        samples = without_surprisal(generate(model, tokenizer, requests, device, desc=f"skills {name}"))
        real = cut_to(real_samples(test_tunes), budget["skills_chars"])
        return {"family": record["family"], "size": record["size"], "params_total": record["params_total"],
                "n": len(samples), "max_chars": budget["skills_chars"], "skills": music_metrics.skills(samples),
                "real": music_metrics.skills(real),
                "music": portable(music_metrics.compare_sets(samples, real, seed, resamples=0)),
                "copied": brief(copied.measure(samples)), "copied_by_real_music": brief(copied.measure(real)),
                "samples": [sample["text"] for sample in samples]}
    measured(stage, f"skills_{name}", {"model": record["checkpoint_sha256"], "budget": budget, "seed": seed,
                                       "data": stage.inputs["03_tokenize_split"]}, make)


def write_ten(root, model, tokenizer, tunes, chosen, copied, budget, seed, device):
    """Draws the ten samples and writes their files, pictures and metadata.json."""
    folder = root / "part4_outputs/generated"
    requests = ten_requests(tunes, chosen, budget, seed + SEEDS["ten"])
    samples = generate(model, tokenizer, [request for *_, request in requests], device, desc="ten samples")
    novelty, rows = copied.measure(samples)["samples"], []
    judged = music_metrics.judge_texts([sample["text"] for sample in samples])
    for i, (sample, (kind, origin, _)) in enumerate(zip(progress(samples, desc="pictures", unit="sample"), requests)):
        row = {"index": i, **write_sample(folder, f"sample_{i:03d}", sample, kind, origin)}
        row["cross_checks"] = {"abc2midi": judged[i] if judged else None}
        row["metrics"], row["novelty"] = music_metrics.music_metrics(sample), novelty[i]
        row["pictures"] = report.draw_sample(sample["text"], folder, f"sample_{i:03d}")
        rows.append(row)
    record = read_json(root / f"checkpoints/{BEST}.json") or {}
    write_json(folder / "metadata.json", portable({
        "schema": 2, "model": {"name": BEST, "params": model.count_parameters()["total"],
                               "checkpoint": f"checkpoints/{BEST}.pt",
                               "sha256": file_digest(root / f"checkpoints/{BEST}.pt"), "epochs": record.get("epochs"),
                               "val_nats_per_char": record.get("val_nats_per_char")},
        "tokenizer": {"kind": "character", "vocab_size": tokenizer.vocab_size, "sha256": tokenizer.digest},
        "sampler": {"chosen": chosen, "order": "temperature, top-k, top-p, min-p", "repetition_penalty": None,
                    "max_chars": budget["sample_chars"], "seed": "first seed + index of the sample"},
        "definitions": {"stop_reason": "end: the model ended the tune; budget: max_chars were drawn",
                        "surprisal_bits": "-log2 probability of each character of text under the model itself"},
        "environment": environment(str(device)), "samples": rows}))


def evaluation_files(root):
    """{name: content} of everything that was measured."""
    return {path.stem: read_json(path) or {} for path in sorted((root / "part4_outputs/evaluation").glob("*.json"))}


def output_names(root):
    """The files of this stage that its manifest vouches for; what a user played is not among them."""
    names = [f"checkpoints/{BEST}{end}" for end in (".pt", ".json", ".curve.jsonl")]
    names += [f"part4_outputs/checkpoints/{name}" for name in (f"{BEST}.pt", "training_history.json")]
    names += ["part4_outputs/RESULTS.json", "part4_outputs/report.html", "part4_outputs/generated/metadata.json",
              "part4_outputs/evaluation"]
    folder = root / "part4_outputs"
    names += [str(path.relative_to(root)) for pattern in ("sample_*", "repaired/sample_*")
              for path in sorted((folder / "generated").glob(pattern))]
    return [name for name in names if (root / name).exists()]


def show(root, args):
    """--check and --headline: what RESULTS.json lacks, or its first block."""
    content, me = read_json(root / "part4_outputs/RESULTS.json"), "07_train_best_and_generate.py"
    if content is None:
        fail(me, "there is no part4_outputs/RESULTS.json", f"run: python {me}{root_flags(args)}")
    if args.check:
        missing = check_results(content)
        if missing:
            fail(me, "RESULTS.json is incomplete:\n" + "\n".join(missing),
                 f"run: python {me}{root_flags(args)} --force, after the stages before it")
        print("RESULTS.json holds all that it promises")
    if args.headline:
        for line in headline_lines(content):
            print(line)


def headline_lines(content):
    """The headline block for people."""
    first, shown = content.get("headline") or {}, []
    for key, value in first.items():
        if isinstance(value, float):
            value = f"{value:.4g}"
        elif key.endswith("_interval") and isinstance(value, list):
            value = " to ".join("unbounded" if end is None else f"{end:.4g}" for end in value)
        elif isinstance(value, list):
            value = "; ".join(map(str, value)) or "none"
        shown.append(f"{key.replace('_', ' ')}: {'not measured' if value is None else value}")
    return shown


def main(argv=None):
    args = parse_arguments(argv)
    root, me = resolve_root(args), "07_train_best_and_generate.py"
    if args.check or args.headline:
        return show(root, args)
    if any(getattr(args, flag) is not None for flag in PLAY_FLAGS):
        return play(args)
    if args.only and args.only not in SIZES["transformer"]:
        fail(me, f"--only {args.only}: there is no such size", "choose one of " + ", ".join(SIZES["transformer"]))
    if args.skip_training and not (root / f"checkpoints/{BEST}.pt").exists():
        fail(me, f"--skip-training: there is no checkpoints/{BEST}.pt", f"run: python {me}{root_flags(args)}")
    size, budget = args.only or "xl", BUDGETS["quick" if args.quick else "full"]
    stage = Stage(__file__, args, config={"size": size, "budget": budget, "taken_as_it_is": taken_as_it_is(args, size)})
    if stage.up_to_date():
        return
    try:
        device = pick_device(args.device)
        data, tokenizer = training.load_data(root), Tokenizer.load(root / "data/tokenizer.pkl")
        if args.skip_training:
            load_model(root, tokenizer, BEST)
        planned = plan_best(root, data, size, args.quick, args.seed)
    except ValueError as error:
        fail(me, str(error), f"run: python 04_train_transformers.py{stage.flags}, or see --help")
    with stage.writing():
        train_best(stage, args, planned, data, device)
        write_history(root)
        model = load_model(root, tokenizer, BEST, device)
        chosen, tunes, copied = evaluate_everything(stage, model, tokenizer, data, device, budget, args.seed)
        write_ten(root, model, tokenizer, tunes, chosen, copied, budget, args.seed, device)
        figures = draw_figures(root / "part4_outputs/figures", evaluation_files(root))
        content = results(root)
        write_json(root / "part4_outputs/RESULTS.json", content)
        report.write_report(root)
        stage.finish(output_names(root) + figures, device=str(device), counts={"samples": len(TEN)},
                     summary=dict(line.split(": ", 1) for line in headline_lines(content)))


if __name__ == "__main__":
    run(main)
