"""Fits the joint law to the loss on new bars: does a law of size and text hold where nothing can be
copied?

    rows = rows_of(root)      # the model ladder's runs with what `induction.py` measured of each
    found = laws(rows)        # {family: {"new_bars": law, "all_characters": law}}

A model with in-context copying pays little for a repeated bar. Where it learns that abruptly, from
one size or amount of text to the next, its loss leaves the law that smaller models follow. The loss
on bars that were not read before says whether the law itself has changed. Loads no torch.
"""

import math

import numpy as np

from study.evaluate.measurements import read
from study.fit.analysis import Settings
from study.fit.joint_fit import fit_plane
from study.fit.records import is_ladder, read_records, rows_of_records

COLUMNS = (
    "name family size seed suite recipe params_total params_non_embedding params_blocks"
    " n_chars_seen val_nats_per_char n_bars first second later once similar fresh new saved"
    " saved_se saved_near saved_far"
).split()
LAW_KEYS = (
    "form order alpha beta E n_runs noise_sd_log_loss lack_of_fit bends_below corner identified"
    " reason"
).split()
SETTINGS = Settings(500, 0, 80, (0, 1), (0, 1))


def ladder_rows(root):
    """Returns the model ladder's runs in a root, as rows of `study/fit/records.py`."""
    return [row for row in rows_of_records(read_records(root)) if is_ladder(row)]


def rows_of(root):
    """The ladder's runs that were measured, as rows with the keys of COLUMNS; bits per character
    but for the loss."""
    rows = [{**row, **(read(root, f"repeats/{row['name']}") or {})} for row in ladder_rows(root)]
    return [{key: row.get(key) for key in COLUMNS} for row in rows if row.get("saved") is not None]


def laws(rows):
    """The joint law of every family that has a plane, of the loss on new bars and on all
    characters: LAW_KEYS of each."""
    found = {}
    for family in dict.fromkeys(row["family"] for row in rows):
        own = [{**row, "test_nats_per_char": None} for row in rows if row["family"] == family]
        losses = {
            "new_bars": [{**row, "val_nats_per_char": row["new"] * math.log(2)} for row in own],
            "all_characters": own,
        }
        fitted = {
            what: fit_plane(rows, SETTINGS, np.random.default_rng(0))
            for what, rows in losses.items()
        }
        if all(draws is not None for _, draws in fitted.values()):
            found[family] = {
                what: {key: entry[key] for key in LAW_KEYS} for what, (entry, _) in fitted.items()
            }
    return found
