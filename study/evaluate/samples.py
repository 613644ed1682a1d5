"""Samples as files, below part4_outputs/generated/: text as drawn, MIDI, pictures, and
metadata.json.

What is drawn and measured is decided in `study/evaluate/evaluation.py`; here it gets a form to be
looked at and heard.
"""

import contextlib
import itertools

from study.stages.files import file_digest, plain, read_json, write_bytes, write_json, write_text
from study.stages.manifest import BEST, environment
from study.stages.process import progress

from music.abc_check import check_abc
from music.continuation import marked, midi_with_source
from music.excerpts import repaired
from music.metrics import music_metrics
from music.notation import at_bar_lines, given_bars, has_notes, midi_bytes, musicxml, readable
from music.pictures import pictures
from music.right_bars import RightBars
from music.validity import judge_texts
from study.evaluate.prompts import prompts_from, prompts_left_out
from study.evaluate.rating import copying_of_each, judged
from study.evaluate.sampling import MODEL_ITSELF, Request
from study.wording import TOKENIZER_KINDS

FOLDER = "part4_outputs/generated"
PICTURES = {
    "score_svg": ".svg",
    "score_png": ".png",
    "roll_svg": "_roll.svg",
    "roll_png": "_roll.png",
}


# ---------------------------------------------------------------- one sample


def write_sample(folder, stem, sample, kind, origin):
    """Writes <stem>.abc as drawn, .mid, .musicxml, and a repaired text if that differs; returns its
    metadata row.

    kind: "unconditional", "header", "bars" or "continued", what was given; origin: the tune that it
    comes from, or None.
    """
    write_text(folder / f"{stem}.abc", sample["text"])
    cut = repaired(sample["text"])
    second = folder / "repaired" / f"{stem}.abc"
    if cut:
        write_text(second, cut)
    else:
        second.unlink(missing_ok=True)
    bits, n_given = sample["surprisal_bits"], len(sample["prompt"])
    return {
        "file": f"{stem}.abc",
        "midi": write_midi(folder / f"{stem}.mid", sample["text"]),
        **write_musicxml(folder / f"{stem}.musicxml", sample["text"], n_given),
        "repaired": f"repaired/{stem}.abc" if cut else None,
        "type": kind,
        "prompt_source": origin,
        **sample,
        "length": len(sample["text"]),
        "truncated": sample["stop_reason"] == "budget",
        "mean_logprob_bits": -sum(bits) / max(len(bits), 1),
        "validity": check_abc(sample["text"], n_given)._asdict(),
        "validity_repaired": check_abc(cut, min(n_given, len(cut)))._asdict() if cut else None,
    }


def write_midi(path, text):
    """Writes the notes of a text, or of what can be read of it from its beginning; returns the
    file's name, or None if there is no note to write."""
    tune = readable(text)[0]
    if not has_notes(tune):
        path.unlink(missing_ok=True)
        return None
    write_bytes(path, midi_bytes(tune))
    return path.name


def write_musicxml(path, text, n_given=0):
    """Writes what can be read of a text for notation programs, its file's name as title and the
    prompt (the first n_given characters) in grey; returns the metadata: {"musicxml": file name or
    None, "realigned": True if a bar of the wrong length would shift a voice against the others, in
    .mid and .musicxml put back at the next bar line}."""
    tune, xml = readable(text)[0], None
    if has_notes(tune):
        # music21 meets lengths that no note head can show: the text has no file
        with contextlib.suppress(Exception):
            xml = musicxml(tune, title=path.stem.replace("_", " "), given=given_bars(text, n_given))
    if xml:
        write_bytes(path, xml)
    else:
        path.unlink(missing_ok=True)
    return {
        "musicxml": path.name if xml else None,
        "realigned": has_notes(tune) and at_bar_lines(tune) is not tune,
    }


def write_pictures(folder, stem, text, n_given=0):
    """Writes score and piano roll of a text (its first n_given characters: the prompt) as SVG and
    PNG; returns
    {picture: file name or None} and what `pictures` says beside them. An older picture does not stay beside new text.
    """
    drawn, names = pictures(text, n_given)._asdict(), {}
    for kind, end in PICTURES.items():
        path, content = folder / f"{stem}{end}", drawn.pop(kind)
        names[kind] = path.name if content else None
        if content:
            write_bytes(path, content if isinstance(content, bytes) else content.encode())
        else:
            path.unlink(missing_ok=True)
    return {**names, **drawn}


# ---------------------------------------------------------------- the ten to look at


def ten_requests(tunes, ten, chosen, max_chars, seed, tokenizer):
    """[(type, prompt's origin, Request)] of the samples to look at, fixed before anything is drawn.

    ten: [(type, temperature or None for the chosen sampler, "free" or "right" bars)]; a type of
    which no prompt among the tunes can be written in the vocabulary, and gone on from with right
    bars, is drawn without.
    """
    n_used, requests = {"header": 0, "bars": 0}, []
    # headers from the first tunes on, bars from the last: no tune gives both while there are enough
    prompts = {
        kind: [
            given
            for given in prompts_from(some, kind, tokenizer)
            if not RightBars.what_is_wrong(given[0])
        ]
        for kind, some in (("header", tunes), ("bars", tunes[::-1]))
    }
    for i, (kind, temperature, bars) in enumerate(ten):
        sampler = chosen if temperature is None else {**MODEL_ITSELF, "temperature": temperature}
        prompt, origin = "", None
        if kind != "unconditional" and prompts[kind]:
            prompt, origin = prompts[kind][n_used[kind] % len(prompts[kind])]
            n_used[kind] += 1
        requests.append(
            (
                kind if prompt else "unconditional",
                origin,
                Request(
                    prompt=prompt,
                    seed=seed + i,
                    max_chars=max_chars,
                    bars=bars if tunes else "free",
                    **sampler,
                ),
            )
        )
    return requests


def write_ten(evaluation, ten, chosen):
    """Draws the samples to look at and writes their files, pictures and metadata.json; returns
    their rows in it."""
    folder, max_chars = evaluation.root / FOLDER, evaluation.budget["sample_chars"]
    requests = ten_requests(
        evaluation.test_tunes,
        ten,
        chosen,
        max_chars,
        evaluation.seed + evaluation.first_seeds["ten"],
        evaluation.loaded.tokenizer,
    )
    samples = evaluation.drawn(
        "ten", evaluation.loaded, [request for *_, request in requests], surprisal=True
    )
    novelty = evaluation.cached("copying/ten", copying_of_each, judged(samples), evaluation.train)
    verdicts, rows = judge_texts([sample["text"] for sample in samples]), []
    for i, (sample, (kind, origin, _)) in enumerate(
        zip(progress(samples, desc="pictures", unit="sample"), requests)
    ):
        stem = f"sample_{i:03d}"
        rows.append(
            {
                "index": i,
                **write_sample(folder, stem, sample, kind, origin),
                "cross_checks": {"abc2midi": verdicts[i] if verdicts else None},
                "metrics": music_metrics(sample),
                "novelty": novelty[i],
                "pictures": write_pictures(folder, stem, sample["text"], len(sample["prompt"])),
            }
        )
    write_json(
        folder / "metadata.json",
        plain({**describe_drawing(evaluation, chosen, max_chars), "samples": rows}),
    )
    return rows


def describe_drawing(evaluation, chosen, max_chars):
    """What metadata.json says of all samples: model, vocabulary, sampler, and what its words
    mean."""
    root, tokenizer = evaluation.root, evaluation.loaded.tokenizer
    record = read_json(root / f"checkpoints/{BEST}.json") or {}
    return {
        "schema": 2,
        "model": {
            "name": BEST,
            "params": evaluation.loaded.model.count_parameters()["total"],
            "checkpoint": f"checkpoints/{BEST}.pt",
            "sha256": file_digest(root / f"checkpoints/{BEST}.pt"),
            "epochs": record.get("epochs"),
            "val_nats_per_char": record.get("val_nats_per_char"),
        },
        "tokenizer": {
            "kind": TOKENIZER_KINDS.get(tokenizer.kind, tokenizer.kind),
            "vocab_size": tokenizer.vocab_size,
            "sha256": tokenizer.digest,
        },
        "sampler": {
            "chosen": chosen,
            "order": "temperature, top-k, top-p, min-p",
            "repetition_penalty": None,
            "max_chars": max_chars,
            "seed": "first seed + index of the sample",
            "prompts_left_out": prompts_left_out(evaluation.test_tunes, tokenizer),
        },
        "definitions": {
            "realigned": (
                "true: a bar of the wrong length would shift a voice; .mid and .musicxml put it "
                "back at the next bar line"
            ),
            "stop_reason": (
                "end: the model ended the tune; budget: max_chars were drawn; stuck: no right "
                "bar led on, though larger and larger parts were drawn again"
            ),
            "bars": (
                "free: as the model draws them; right: a bar that its meter does not allow was"
                " drawn again (draws: how often each was drawn; n_kept stand in the text, header"
                " and end counted as such)"
            ),
            "surprisal_bits": "-log2 probability of each character of text under the model itself",
        },
        "environment": environment(str(evaluation.loaded.device)),
    }


# ---------------------------------------------------------------- play


def write_played(root, samples):
    """Writes samples that a user asked for as play_NNN.abc, .mid, .musicxml and .json beside those
    that are there; returns their metadata rows."""
    folder, rows = root / FOLDER, []
    for stem, sample in zip(_free_stems(folder, "play"), samples):
        rows.append(
            write_sample(
                folder, stem, sample, "header" if sample["prompt"] else "unconditional", None
            )
        )
        write_json(folder / f"{stem}.json", plain(rows[-1]))
    return rows


def write_continued(root, samples, given, source, origin):
    """Writes samples that go on from a user's tune as continued_NNN.abc, .mid, .musicxml and .json,
    each with a mark where the new bars begin; returns their metadata rows. origin: name of the
    user's file; given, source: see `music/continuation.py`."""
    folder, rows = root / FOLDER, []
    for stem, sample in zip(_free_stems(folder, "continued"), samples):
        rows.append(write_sample(folder, stem, sample, "continued", origin))
        write_text(folder / f"{stem}.abc", marked(sample["text"], len(given.text)))
        write_bytes(folder / f"{stem}.mid", midi_with_source(sample["text"], given, source))
        write_json(folder / f"{stem}.json", plain(rows[-1]))
    return rows


def _free_stems(folder, word):
    """Names <word>_NNN without end that no .abc file has, from 000 on."""
    numbers = [
        int(path.stem[len(word) + 1 :])
        for path in folder.glob(f"{word}_*.abc")
        if path.stem[len(word) + 1 :].isdigit()
    ]
    return (f"{word}_{i:03d}" for i in itertools.count(1 + max(numbers, default=-1)))


def played_rows(root):
    """The metadata rows of all samples that were played in a root, or go on from a user's tune, in
    the order of their names."""
    folder = root / FOLDER
    rows = [
        read_json(path)
        for word in ("continued", "play")
        for path in sorted(folder.glob(f"{word}_*.json"))
    ]
    return [row for row in rows if isinstance(row, dict) and "file" in row]
