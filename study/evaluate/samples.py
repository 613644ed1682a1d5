"""Samples as files, below part4_outputs/generated/: text as drawn, MIDI, MusicXML, pictures, and
metadata.json. A file without content is not written: its name is None.
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
from music.notation import given_bars, midi_score, musicxml, readable
from music.pictures import pictures
from music.right_bars import RightBars
from music.validity import judge_texts
from study.evaluate.prompts import prompts_from
from study.evaluate.rating import copying_of_each, judged
from study.evaluate.sampling import MODEL_ITSELF, Request

FOLDER = "part4_outputs/generated"
PICTURES = {
    "score_svg": ".svg",
    "score_png": ".png",
    "roll_svg": "_roll.svg",
    "roll_png": "_roll.png",
}


# ---------------------------------------------------------------- one sample


def write_sample(folder, stem, sample, kind=None, origin=None):
    """Writes <stem>.abc as drawn, .mid, .musicxml, and repaired/<stem>.abc if that differs; returns
    its metadata row. kind: of PROMPTS in `study/report/sample_views.py`, None: by the prompt;
    origin: the tune that the prompt comes from."""
    text, n_given = sample["text"], len(sample["prompt"])
    write_text(folder / f"{stem}.abc", text)
    cut = _write(folder / f"repaired/{stem}.abc", repaired(text))
    return {
        "file": f"{stem}.abc",
        **write_music(folder, stem, text, n_given),
        "repaired": cut and f"repaired/{cut}",
        "type": kind or ("header" if sample["prompt"] else "unconditional"),
        "prompt_source": origin,
        **sample,
        "length": len(text),
        "validity": check_abc(text, n_given)._asdict(),
    }


def _write(path, content):
    """Writes a file and returns its name; without content deletes an older one."""
    if not content:
        path.unlink(missing_ok=True)
        return None
    write_bytes(path, content if isinstance(content, bytes) else content.encode())
    return path.name


def write_music(folder, stem, text, n_given=0):
    """Writes the notes of a text as far as it can be read; returns the names of "midi" and
    "musicxml", which shows the first n_given characters in grey."""
    tune, midi, xml = readable(text)[0], None, None
    if tune:
        midi, given = midi_score(tune).dumps_midi(), given_bars(text, n_given)
        with contextlib.suppress(Exception):  # music21 meets lengths that no note head can show
            xml = musicxml(tune, title=stem.replace("_", " "), given=given)
    return {
        "midi": _write(folder / f"{stem}.mid", midi),
        "musicxml": _write(folder / f"{stem}.musicxml", xml),
    }


def write_pictures(folder, stem, text, n_given=0):
    """Writes score and piano roll of a text as SVG and PNG; returns what `pictures` does, with file
    names in place of pictures."""
    drawn = pictures(text, n_given)
    return drawn | {
        kind: _write(folder / f"{stem}{end}", drawn[kind]) for kind, end in PICTURES.items()
    }


# ---------------------------------------------------------------- the ten to look at


def ten_requests(tunes, ten, chosen, max_chars, seed, tokenizer):
    """Returns [(type, prompt's origin, Request)] of the samples to look at.

    ten: [(type, temperature or None for the chosen sampler, "free" or "right" bars)]; a type of
    which no tune has a usable prompt is drawn without one.
    """
    prompts = {"unconditional": itertools.repeat(("", None))}
    # headers from the first tunes on, bars from the last: no tune gives both while there are enough
    for kind, some in (("header", tunes), ("bars", tunes[::-1])):
        given = prompts_from(some, kind, tokenizer)
        usable = [row for row in given if not RightBars.what_is_wrong(row[0])]
        if usable:
            prompts[kind] = itertools.cycle(usable)
    requests = []
    for i, (kind, temperature, bars) in enumerate(ten):
        sampler = chosen if temperature is None else {**MODEL_ITSELF, "temperature": temperature}
        kind = kind if kind in prompts else "unconditional"
        prompt, origin = next(prompts[kind])
        bars = bars if tunes else "free"
        request = Request(prompt, seed + i, max_chars=max_chars, bars=bars, **sampler)
        requests.append((kind, origin, request))
    return requests


def write_ten(evaluation, ten, chosen):
    """Draws the samples of `ten_requests`, writes files, pictures and metadata.json; returns its
    rows."""
    root, loaded = evaluation.root, evaluation.loaded
    folder, max_chars = root / FOLDER, evaluation.budget["sample_chars"]
    tunes, seed = evaluation.test_tunes, evaluation.seeds["ten"]
    asked = ten_requests(tunes, ten, chosen, max_chars, seed, loaded.tokenizer)
    kinds, origins, requests = zip(*asked)
    samples = evaluation.drawn("ten", loaded, requests, surprisal=True)
    novelty = evaluation.cached("copying/ten", copying_of_each, judged(samples), evaluation.train)
    verdicts = judge_texts([sample["text"] for sample in samples]) or [None] * len(samples)
    rows = []
    for i, sample in enumerate(progress(samples, desc="pictures", unit="sample")):
        stem, n_given = f"sample_{i:03d}", len(sample["prompt"])
        rows.append(
            {
                "index": i,
                **write_sample(folder, stem, sample, kinds[i], origins[i]),
                "cross_checks": {"abc2midi": verdicts[i]},
                "metrics": music_metrics(sample),
                "novelty": novelty[i],
                "pictures": write_pictures(folder, stem, sample["text"], n_given),
            }
        )
    checkpoint = f"checkpoints/{BEST}.pt"
    sha256 = file_digest(root / checkpoint)
    model = {"name": BEST, "checkpoint": checkpoint, "sha256": sha256}
    used = environment(str(loaded.device))
    metadata = {"model": model, "environment": used, "samples": rows}
    write_json(folder / "metadata.json", plain(metadata))
    return rows


# ---------------------------------------------------------------- play


def write_played(root, samples, given=None, source=None, origin=None):
    """Writes samples that a user asked for as play_NNN.abc, .mid, .musicxml and .json; returns
    their metadata rows. Those that continue a user's tune (given, source: of
    `music/continuation.py`; origin: its file) are continued_NNN and show where it ended."""
    folder, rows = root / FOLDER, []
    word = "continued" if given else "play"
    numbers = [path.stem.removeprefix(f"{word}_") for path in folder.glob(f"{word}_*.abc")]
    taken = [int(number) for number in numbers if number.isdigit()]
    for i, sample in enumerate(samples, 1 + max(taken, default=-1)):
        stem = f"{word}_{i:03d}"
        row = write_sample(folder, stem, sample, given and word, origin)
        if given:
            write_text(folder / f"{stem}.abc", marked(sample["text"], len(given.text)))
            write_bytes(folder / f"{stem}.mid", midi_with_source(sample["text"], given, source))
        write_json(folder / f"{stem}.json", plain(row))
        rows.append(row)
    return rows


def played_rows(root):
    """Returns the metadata rows of all samples that were played in a root."""
    folder = root / FOLDER
    paths = sorted([*folder.glob("continued_*.json"), *folder.glob("play_*.json")])
    rows = [read_json(path) for path in paths]
    return [row for row in rows if isinstance(row, dict) and "file" in row]
