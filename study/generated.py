"""Samples as files, below part4_outputs/generated/: text as drawn, MIDI, pictures, and metadata.json.

What is drawn and measured is decided in `study/evaluation.py`; here it gets a form to be looked at and heard.
"""

from music.abc_text import check_abc
from music.excerpts import repaired
from music.metrics import music_metrics
from music.notation import has_notes, midi_bytes, pictures, readable
from music.validity import check_record, judge_texts
from study.evaluation import copying_of_each, judged, prompts_from
from study.measurements import plain
from study.results import BEST, TOKENIZER_KINDS
from study.sampling import MODEL_ITSELF, Request
from study.stage import environment, file_digest, progress, read_json, write_bytes, write_json, write_text

FOLDER = "part4_outputs/generated"
PICTURES = {"score_svg": ".svg", "score_png": ".png", "roll_svg": "_roll.svg", "roll_png": "_roll.png"}


# ---------------------------------------------------------------- one sample

def write_sample(folder, stem, sample, kind, origin):
    """Writes <stem>.abc as drawn, .mid, and a repaired text if that differs; returns its metadata row.

    kind: "unconditional", "header" or "bars", what was given; origin: the tune that it was taken from, or None.
    """
    write_text(folder / f"{stem}.abc", sample["text"])
    cut = repaired(sample["text"])
    second = folder / "repaired" / f"{stem}.abc"
    if cut:
        write_text(second, cut)
    else:
        second.unlink(missing_ok=True)
    bits, n_given = sample["surprisal_bits"], len(sample["prompt"])
    return {"file": f"{stem}.abc", "midi": write_midi(folder / f"{stem}.mid", sample["text"]),
            "repaired": f"repaired/{stem}.abc" if cut else None, "type": kind, "prompt_source": origin, **sample,
            "length": len(sample["text"]), "truncated": sample["stop_reason"] == "budget",
            "mean_logprob_bits": -sum(bits) / max(len(bits), 1),
            "validity": check_record(check_abc(sample["text"], n_given)),
            "validity_repaired": check_record(check_abc(cut, min(n_given, len(cut)))) if cut else None}


def write_midi(path, text):
    """Writes the notes of a text, or of what can be read of it from its beginning; returns the file's name, or None if
    there is no note to write."""
    tune = readable(text)[0]
    if not has_notes(tune):
        path.unlink(missing_ok=True)
        return None
    write_bytes(path, midi_bytes(tune))
    return path.name


def write_pictures(folder, stem, text):
    """Writes score and piano roll of a text as SVG and PNG; returns {picture: file name or None} and what `pictures`
    says beside them. An older picture does not stay beside new text."""
    drawn, names = pictures(text)._asdict(), {}
    for kind, end in PICTURES.items():
        path, content = folder / f"{stem}{end}", drawn.pop(kind)
        names[kind] = path.name if content else None
        if content:
            write_bytes(path, content if isinstance(content, bytes) else content.encode())
        else:
            path.unlink(missing_ok=True)
    return {**names, **drawn}


# ---------------------------------------------------------------- the ten to look at

def ten_requests(tunes, ten, chosen, max_chars, seed):
    """[(type, prompt's origin, Request)] of the samples to look at, fixed before anything is drawn.

    ten: [(type, temperature or None for the chosen sampler)]; a type without a prompt among the tunes is drawn without.
    """
    n_used, requests = {"header": 0, "bars": 0}, []
    # headers from the first tunes on, bars from the last: no tune gives both while there are enough
    prompts = {"header": prompts_from(tunes, "header"), "bars": prompts_from(tunes[::-1], "bars")}
    for i, (kind, temperature) in enumerate(ten):
        sampler = chosen if temperature is None else {**MODEL_ITSELF, "temperature": temperature}
        prompt, origin = "", None
        if kind != "unconditional" and prompts[kind]:
            prompt, origin = prompts[kind][n_used[kind] % len(prompts[kind])]
            n_used[kind] += 1
        requests.append((kind if prompt else "unconditional", origin,
                         Request(prompt=prompt, seed=seed + i, max_chars=max_chars, **sampler)))
    return requests


def write_ten(evaluation, ten, chosen):
    """Draws the samples to look at and writes their files, pictures and metadata.json; returns their number."""
    folder, max_chars = evaluation.root / FOLDER, evaluation.budget["sample_chars"]
    requests = ten_requests(evaluation.test_tunes, ten, chosen, max_chars,
                            evaluation.seed + evaluation.first_seeds["ten"])
    samples = evaluation.drawn("ten", evaluation.player, [request for *_, request in requests], surprisal=True)
    novelty = evaluation.kept("copying/ten", copying_of_each, judged(samples), evaluation.train)
    verdicts, rows = judge_texts([sample["text"] for sample in samples]), []
    for i, (sample, (kind, origin, _)) in enumerate(zip(progress(samples, desc="pictures", unit="sample"), requests)):
        stem = f"sample_{i:03d}"
        rows.append({"index": i, **write_sample(folder, stem, sample, kind, origin),
                     "cross_checks": {"abc2midi": verdicts[i] if verdicts else None},
                     "metrics": music_metrics(sample), "novelty": novelty[i],
                     "pictures": write_pictures(folder, stem, sample["text"])})
    write_json(folder / "metadata.json", plain({**describe_drawing(evaluation, chosen, max_chars), "samples": rows}))
    return len(rows)


def describe_drawing(evaluation, chosen, max_chars):
    """What metadata.json says of all samples: model, vocabulary, sampler, and what its words mean."""
    root, tokenizer = evaluation.root, evaluation.player.tokenizer
    record = read_json(root / f"checkpoints/{BEST}.json") or {}
    return {
        "schema": 2,
        "model": {"name": BEST, "params": evaluation.player.model.count_parameters()["total"],
                  "checkpoint": f"checkpoints/{BEST}.pt", "sha256": file_digest(root / f"checkpoints/{BEST}.pt"),
                  "epochs": record.get("epochs"), "val_nats_per_char": record.get("val_nats_per_char")},
        "tokenizer": {"kind": TOKENIZER_KINDS.get(tokenizer.kind, tokenizer.kind), "vocab_size": tokenizer.vocab_size,
                      "sha256": tokenizer.digest},
        "sampler": {"chosen": chosen, "order": "temperature, top-k, top-p, min-p", "repetition_penalty": None,
                    "max_chars": max_chars, "seed": "first seed + index of the sample"},
        "definitions": {"stop_reason": "end: the model ended the tune; budget: max_chars were drawn",
                        "surprisal_bits": "-log2 probability of each character of text under the model itself"},
        "environment": environment(str(evaluation.player.device))}


# ---------------------------------------------------------------- play

def write_played(root, samples):
    """Writes samples that a user asked for as play_NNN.abc, .mid and .json beside those that are there; returns their
    metadata rows."""
    folder, rows = root / FOLDER, []
    numbers = [int(path.stem[5:]) for path in folder.glob("play_*.abc") if path.stem[5:].isdigit()]
    for i, sample in enumerate(samples, 1 + max(numbers, default=0)):
        stem = f"play_{i:03d}"
        rows.append(write_sample(folder, stem, sample, "header" if sample["prompt"] else "unconditional", None))
        write_json(folder / f"{stem}.json", plain(rows[-1]))
    return rows
