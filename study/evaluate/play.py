"""What a player asks for on the command line, in the form of the training text, and drawn.

prompt = prompt_of(None, "6/8", "am", seen)
samples = draw(loaded, prompt, seeds, 2000, "right", sampler)
"""

import re

from music.abc_fields import parse_key, parse_meter, tonic_of
from music.abc_people import is_normal, read_people
from music.abc_text import read_abc
from music.continuation import NextBars, last_bars
from music.midi_to_abc import MAX_VOICES
from music.one_file import bytes_of, open_file
from music.right_bars import RightBars
from music.theory import key_name
from music.training_text import TEXT_FIELDS, training_text
from study.evaluate.sampling import Request, generate

DEFAULT_METER = "4/4"  # where only a key is given
MODES = "maj|min|dor|phr|lyd|mix|aeo|loc|ion"
LISTED = 8  # keys or meters that a message names
# of one voice, drawn at most to continue a tune; the longest of the default corpus has 45
CHARS_PER_BAR = 100


# ---------------------------------------------------------------- drawing


def draw(loaded, prompt, seeds, max_chars, bars, sampler, n_bars=0, judge=RightBars):
    """Returns a sample for each seed; see `sampling.generate`."""
    requests = [
        Request(prompt, seed, max_chars=max_chars, bars=bars, n_bars=n_bars, **sampler)
        for seed in seeds
    ]
    return generate(loaded.model, loaded.tokenizer, requests, loaded.device, right_bars=judge)


def open_tune(path, n_given, seen):
    """Returns the Opened and the last n_given bars (Given, `music/continuation.py`) of a MIDI file,
    a score or ABC, of a tunebook the first tune; ValueError says why there is nothing to continue.
    seen: see `prompt_of`, with {"voices": {"max": number}}."""
    meters = seen.get("meters") or ()
    max_voices = int((seen.get("voices") or {}).get("max") or MAX_VOICES)
    source = open_file(bytes_of(path), path.name, max_voices)
    given = last_bars(training_text(source.texts[0]), n_given, meters)
    for _, meter in read_abc(given.text).meters:
        known(meter, "meter", meters)
    return source, given


def continue_tune(loaded, given, seeds, n_bars, max_chars, sampler):
    """Returns samples of n_bars right bars of every voice after those given."""
    max_chars = max_chars or n_bars * len(read_abc(given.text).voices) * CHARS_PER_BAR
    return draw(loaded, given.text, seeds, max_chars, "right", sampler, n_bars, NextBars)


# ---------------------------------------------------------------- prompts


def prompt_of(prompt, meter, key, seen):
    """Returns what played samples begin with: the prompt asked for, or a header up to the last
    field asked for; the model writes the rest.

    seen: {"keys": {key: share}, "meters": {meter: share}} of the training text, empty where
    unknown. Raises ValueError.
    """
    if prompt is not None:
        return normal_prompt(prompt.replace("\\n", "\n"))
    meter = meter and known(normal_meter(meter), "meter", seen.get("meters"))
    key = key and known(normal_key(key), "key", seen.get("keys"))
    if not (meter or key):
        return ""
    header = f"X:1\nM:{meter or DEFAULT_METER}\nL:1/16\n"
    return header + (f"Q:1/4=120\nK:{key}\n" if key else "")


def known(value, what, seen):
    """Returns the value; ValueError if the training text is known and lacks it."""
    if not seen or value in seen:
        return value
    names = list(seen)[:LISTED]
    more = f" and {len(seen) - LISTED} more" if len(seen) > LISTED else ""
    raise ValueError(
        f"the model has never seen the {what} {value}; it knows {', '.join(names)}{more}"
    )


def normal_meter(text):
    """A meter as the training text writes it.

    >>> normal_meter("C|"), normal_meter(" 6 / 8 ")
    ('2/2', '6/8')
    """
    meter = {"C": "4/4", "C|": "2/2"}.get(text.strip(), re.sub(r"\s", "", text))
    if not re.fullmatch(r"\d+/\d+", meter):
        raise ValueError(f"--meter {text!r} is no meter: write it like 6/8")
    parse_meter(meter)
    return meter


def normal_key(text):
    """A key as the training text writes it: a mode is the major key with its signature.

    >>> [normal_key(text) for text in ("am", "B flat", "f# Minor", "Ddor", "Dor", "gmaj")]
    ['Am', 'Bb', 'F#m', 'C', 'C', 'G']
    """
    word = re.sub(r"\s|-", "", text).replace("\u266f", "#").replace("\u266d", "b")
    word = re.sub(r"(?i)(?<=^[a-g])sharp", "#", word)
    word = re.sub(r"(?i)(?<=^[a-g])flat", "b", word)
    if word.lower() in ("dor", "dorian"):  # the mode without its tonic
        word = "Ddor"
    match = re.fullmatch(rf"([A-Ga-g])([#b]?)(M|m|(?i:(?:{MODES})[a-z]*))?", word)
    if not match:
        raise ValueError(f"--key {text!r} is no key: write it like D, Am or Bb")
    tonic, sign, mode = match.groups()
    mode = "" if mode == "M" else (mode or "").lower()[:3]
    key = tonic.upper() + sign + mode
    sharps = sum(parse_key(key))
    return key_name(sharps, mode in ("m", "min", "aeo") and bool(tonic_of(key)))


def normal_prompt(text):
    """A prompt as the training text writes it, without titles, words and blanks; whole bars are set
    in sixteenths."""
    whole = text.rstrip() + "\n"
    if is_normal(whole) and "\nT:" not in text:
        return text
    if text.rstrip().endswith("|") and re.search(r"(?m)^[ \t]*K:", text):
        tunes = [tune.text for tune in read_people(text) if tune.text]
        if tunes:
            return training_text(tunes[0]).rstrip("\n")
    lines = []
    for line in text.split("\n"):
        line = re.sub(r"^[ \t]*([A-Za-z]):[ \t]*", r"\1:", line)
        if re.match(rf"[{TEXT_FIELDS}]:", line) and line[0] not in "XR":
            continue
        lines.append(line if line[1:2] == ":" else re.sub(r"[ \t]", "", line))
    return "\n".join(lines)
