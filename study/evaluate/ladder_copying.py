"""Joins what the model ladder saves on repeated bars to the law of the loss. Loads no torch."""

from study.evaluate.measurements import read
from study.fit.answer import answer, saved_of_rows
from study.fit.copying import second_occurrences
from study.fit.records import is_ladder, read_records, rows_of_records

COLUMNS = (
    "name family size seed suite recipe params_total params_non_embedding params_blocks"
    " n_chars_seen val_nats_per_char test_nats_per_char n_bars first second later similar"
    " fresh new saved saved_se saved_near saved_far"
).split()


def ladder_rows(root):
    """Returns the ladder's runs in a root, as rows of `study/fit/records.py`."""
    return [row for row in rows_of_records(read_records(root)) if is_ladder(row)]


def rows_of(root):
    """Returns the ladder's runs that were measured, with the keys of COLUMNS; costs in bits per
    character."""
    rows = [{**row, **(read(root, f"repeats/{row['name']}") or {})} for row in ladder_rows(root)]
    return [{key: row.get(key) for key in COLUMNS} for row in rows if row.get("saved") is not None]


def answer_of(rows, text):
    """Returns the answer of stage 06 with the copying term, None without rows. text: that of the
    losses."""
    return answer(rows, saved_of_rows(rows), second_occurrences(text))
