"""Samples as files, below part4_outputs/generated/: text as drawn, MIDI, MusicXML, pictures, and
metadata.json.

What is drawn is decided in `study/evaluate/evaluation.py`.
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
from music.notation import given_bars, has_notes, midi_bytes, musicxml, readable
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
    its metadata row.

    kind: "unconditional", "header", "bars" or "continued", what was given (None: by the prompt);
    origin: the tune that it comes from, or None.
    """
    text, n_given = sample["text"], len(sample["prompt"])
    write_text(folder / f"{stem}.abc", text)
    cut = _write(folder / f"repaired/{stem}.abc", repaired(text))
    return {
        "file": f"{stem}.abc",
        "midi": write_midi(folder / f"{stem}.mid", text),
        "musicxml": write_musicxml(folder / f"{stem}.musicxml", text, n_given),
        "repaired": cut and f"repaired/{cut}",
        "type": kind or ("header" if sample["prompt"] else "unconditional"),
        "prompt_source": origin,
        **sample,
        "length": len(text),
        "validity": check_abc(text, n_given)._asdict(),
    }


def _write(path, content):
    """Writes a file, or deletes an older one where there is no content; returns its name, or
    None."""
    if not content:
        path.unlink(missing_ok=True)
        return None
    write_bytes(path, content if isinstance(content, bytes) else content.encode())
    return path.name


def write_midi(path, text):
    """Writes the notes of a text, or of what can be read of it from its beginning; returns the
    file's name, or None if there is no note to write."""
    tune = readable(text)[0]
    return _write(path, midi_bytes(tune) if has_notes(tune) else None)


def write_musicxml(path, text, n_given=0):
    """Writes the same for notation programs, its file's name as title and the prompt (the first
    n_given characters) in grey; returns the file's name, or None."""
    tune, xml = readable(text)[0], None
    if has_notes(tune):
        # music21 meets lengths that no note head can show: the text has no file
        with contextlib.suppress(Exception):
            xml = musicxml(tune, title=path.stem.replace("_", " "), given=given_bars(text, n_given))
    return _write(path, xml)


def write_pictures(folder, stem, text, n_given=0):
    """Writes score and piano roll of a text (its first n_given characters: the prompt) as SVG and
    PNG; returns {picture: file name or None} and what `pictures` says beside them."""
    drawn = pictures(text, n_given)._asdict()
    names = {
        kind: _write(folder / f"{stem}{end}", drawn.pop(kind)) for kind, end in PICTURES.items()
    }
    return {**names, **drawn}


# ---------------------------------------------------------------- the ten to look at


def ten_requests(tunes, ten, chosen, max_chars, seed, tokenizer):
    """Returns [(type, prompt's origin, Request)] of the samples to look at.

    ten: [(type, temperature or None for the chosen sampler, "free" or "right" bars)]; a type that
    no tune has a usable prompt of is drawn without.
    """
    # headers from the first tunes on, bars from the last: no tune gives both while there are enough
    prompts = {
        kind: [
            given
            for given in prompts_from(some, kind, tokenizer)
            if not RightBars.what_is_wrong(given[0])
        ]
        for kind, some in (("header", tunes), ("bars", tunes[::-1]))
    }
    prompts = {kind: itertools.cycle(found) for kind, found in prompts.items() if found}
    requests = []
    for i, (kind, temperature, bars) in enumerate(ten):
        sampler = chosen if temperature is None else {**MODEL_ITSELF, "temperature": temperature}
        if kind not in prompts:
            kind = "unconditional"
        prompt, origin = next(prompts[kind]) if kind in prompts else ("", None)
        bars = bars if tunes else "free"
        request = Request(prompt, seed + i, max_chars=max_chars, bars=bars, **sampler)
        requests.append((kind, origin, request))
    return requests


def write_ten(evaluation, ten, chosen):
    """Draws the samples to look at and writes their files, pictures and metadata.json; returns
    their rows in it."""
    folder, loaded = evaluation.root / FOLDER, evaluation.loaded
    requests = ten_requests(
        evaluation.test_tunes,
        ten,
        chosen,
        evaluation.budget["sample_chars"],
        evaluation.seeds["ten"],
        loaded.tokenizer,
    )
    drawn = [request for *_, request in requests]
    samples = evaluation.drawn("ten", loaded, drawn, surprisal=True)
    novelty = evaluation.cached("copying/ten", copying_of_each, judged(samples), evaluation.train)
    texts = [sample["text"] for sample in samples]
    verdicts = judge_texts(texts) or [None] * len(texts)
    rows = []
    for i, sample in enumerate(progress(samples, desc="pictures", unit="sample")):
        kind, origin, _ = requests[i]
        stem = f"sample_{i:03d}"
        rows.append(
            {
                "index": i,
                **write_sample(folder, stem, sample, kind, origin),
                "cross_checks": {"abc2midi": verdicts[i]},
                "metrics": music_metrics(sample),
                "novelty": novelty[i],
                "pictures": write_pictures(folder, stem, texts[i], len(sample["prompt"])),
            }
        )
    checkpoint = f"checkpoints/{BEST}.pt"
    metadata = {
        "model": {
            "name": BEST,
            "checkpoint": checkpoint,
            "sha256": file_digest(evaluation.root / checkpoint),
        },
        "environment": environment(str(loaded.device)),
        "samples": rows,
    }
    write_json(folder / "metadata.json", plain(metadata))
    return rows


# ---------------------------------------------------------------- play


def write_played(root, samples, given=None, source=None, origin=None):
    """Writes samples that a user asked for as play_NNN.abc, .mid, .musicxml and .json beside those
    that are there; returns their metadata rows.

    given, source: of a user's tune that they continue (`music/continuation.py`), whose file is
    called `origin`: they are continued_NNN, with a mark where the new bars begin.
    """
    folder, rows = root / FOLDER, []
    word = "continued" if given else "play"
    for stem, sample in zip(_free_stems(folder, word), samples):
        row = write_sample(folder, stem, sample, given and word, origin)
        if given:
            write_text(folder / f"{stem}.abc", marked(sample["text"], len(given.text)))
            write_bytes(folder / f"{stem}.mid", midi_with_source(sample["text"], given, source))
        write_json(folder / f"{stem}.json", plain(row))
        rows.append(row)
    return rows


def _free_stems(folder, word):
    """Yields names <word>_NNN without end that no .abc file has, behind the last one."""
    numbers = [path.stem.removeprefix(f"{word}_") for path in folder.glob(f"{word}_*.abc")]
    taken = [int(number) for number in numbers if number.isdigit()]
    return (f"{word}_{i:03d}" for i in itertools.count(1 + max(taken, default=-1)))


def played_rows(root):
    """Returns the metadata rows of all samples that were played in a root, by their names."""
    paths = [
        path for word in ("continued", "play") for path in (root / FOLDER).glob(f"{word}_*.json")
    ]
    rows = [read_json(path) for path in sorted(paths)]
    return [row for row in rows if isinstance(row, dict) and "file" in row]
