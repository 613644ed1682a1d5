"""A sample: a text, what of it was given, and whether it ended by itself; shares and means."""

from typing import NamedTuple

import numpy as np


class Sample(NamedTuple):
    """prompt_chars: characters that were given; truncated: stopped by its budget."""

    text: str
    prompt_chars: int = 0
    truncated: bool = False


def as_sample(sample):
    """Returns the Sample of a text, a Sample, or a dict with `text`, `prompt` and `stop_reason`."""
    if isinstance(sample, Sample):
        return sample
    if isinstance(sample, str):
        return Sample(sample)
    return Sample(sample["text"], len(sample.get("prompt") or ""), sample["stop_reason"] != "end")


def mean_of_known(values):
    """Returns the mean of the values that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def ratio(part, whole):
    """Returns part / whole; None if the whole is 0."""
    return part / whole if whole else None
