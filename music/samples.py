"""A sample: a text, what of it was given, and whether it ended by itself."""

from typing import NamedTuple

import numpy as np


class Sample(NamedTuple):
    """prompt_chars: characters that were given; truncated: stopped by its budget."""

    text: str
    prompt_chars: int = 0
    truncated: bool = False


def as_sample(sample):
    """Returns the Sample of a text or of a dict with `text` and, where they matter, `prompt_chars` or
    `prompt`, and `truncated` or `stop_reason`."""
    if isinstance(sample, str):
        return Sample(sample)
    prompt_chars = sample.get("prompt_chars")
    if prompt_chars is None:
        prompt_chars = len(sample.get("prompt") or "")
    truncated = sample.get("truncated", sample.get("stop_reason", "end") != "end")
    return Sample(sample["text"], prompt_chars, bool(truncated))


def mean_of_known(values):
    """Returns the mean of the values that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
