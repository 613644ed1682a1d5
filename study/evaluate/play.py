"""What a player asks for on the command line, in the form of the training text.

    prompt_of(asked, seen)     # ValueError says what the model has never seen
"""

import re
from typing import NamedTuple

from music.abc_fields import parse_key, parse_meter, tonic_of
from music.abc_people import is_normal, read_people
from music.theory import key_name
from music.training_text import TEXT_FIELDS, training_text

DEFAULT_METER, DEFAULT_KEY = "4/4", "C"  # where only one of the two is given
MODES = "maj|min|dor|phr|lyd|mix|aeo|loc|ion"
LISTED = 8  # keys or meters that a message names


class Asked(NamedTuple):
    """The flags of the same names; None where a flag is not given."""

    prompt: str | None = None
    style: str | None = None
    meter: str | None = None
    key: str | None = None
    voices: int | None = None


def prompt_of(asked, seen):
    """What played samples begin with: the prompt asked for, or a header of what was asked for.

    The fields before the last one asked for stand in it, too, in the training text's order; the
    model writes the rest. seen: {"keys": {key: share}, "meters": {meter: share}} of the training
    text, empty where unknown. Raises ValueError.
    """
    if asked.prompt is not None:
        return normal_prompt(asked.prompt.replace("\\n", "\n"))
    meter = asked.meter and known(normal_meter(asked.meter), "meter", seen.get("meters"))
    key = asked.key and known(normal_key(asked.key), "key", seen.get("keys"))
    style, voices = f"R:{asked.style}\n" if asked.style else "", asked.voices or 1
    if not (meter or key or voices > 1):
        return style and f"X:1\n{style}"
    header = f"X:1\n{style}M:{meter or DEFAULT_METER}\nL:1/16\n"
    if key or voices > 1:
        header += f"Q:1/4=120\nK:{key or DEFAULT_KEY}\n"
    return header + ("[V:1]" if voices > 1 else "")


def known(value, what, seen):
    """The value, if the training text has it or is not known; ValueError if it has not."""
    if not seen or value in seen:
        return value
    names = list(seen)[:LISTED]
    more = f" and {len(seen) - LISTED} more" if len(seen) > LISTED else ""
    raise ValueError(
        f"--{what} {value}: the model has never seen it; it knows {', '.join(names)}{more}"
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
    """A key as the training text writes it: major or minor. A mode is written as the major key
    with its signature, since stage 02 writes no others.

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
    """A prompt in the form of the training text: without titles, words and blanks. Whole bars in
    another unit than sixteenths are set in it; other text stays as it is."""
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
