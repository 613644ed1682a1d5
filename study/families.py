"""The model families of the study. A new one is a class in common.py, a row here and a script.

A digest of code does not follow classes found by name: it takes the class as well.
"""

from typing import NamedTuple


class Family(NamedTuple):
    name: str  # in file names, run records, RESULTS.json
    label: str  # in text; the plural is label + "s"
    model: str  # its class in common.py
    stage: str  # the script that trains it
    color: str  # of Okabe-Ito: distinct for the colour-blind, and in grey
    marker: str  # of matplotlib
    optional: bool = False  # True: 06 and 07 do not ask for its runs


ROWS = (  # in this order wherever families are listed
    Family("transformer", "Transformer", "Transformer", "04_train_transformers", "#0072B2", "o"),
    Family("lstm", "LSTM", "LSTM", "05_train_lstms", "#D55E00", "s"),
    Family("ssm", "SSM", "SSM", "05b_train_ssms", "#009E73", "^", optional=True),
)
FAMILIES = {family.name: family for family in ROWS}


def model_class(name):
    """Returns the class of a family; ValueError if there is no such family."""
    import common  # with torch: only where a model is needed

    if name not in FAMILIES:
        raise ValueError(f"there is no family {name!r}; there are {', '.join(FAMILIES)}")
    return getattr(common, FAMILIES[name].model)


def build_model(config):
    """Returns a new model of {"family", "vocab_size", "block_size", "dropout", more for its class};
    its weights are drawn from torch's global generator."""
    return model_class(config["family"])(config)


def label(family):
    """Returns the name of a family in text."""
    return FAMILIES[family].label if family in FAMILIES else family


def in_order(families):
    """Returns names of families in the order of the table, then those without a row, by name."""
    known = [name for name in FAMILIES if name in families]
    return known + sorted(set(families) - set(known))
