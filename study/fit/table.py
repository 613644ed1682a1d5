"""Reads a user's table of runs as rows of `study/fit/records.py`.

Commas, semicolons, tabs or bars between columns; decimal commas; 44,000,000 or 124M; UTF-8, UTF-16
or Latin-1; comment lines; usual other names of the columns.
"""

import csv
import math
import re
from operator import itemgetter

import numpy as np

from study.fit import shared_law as shared
from study.fit.power_law import fit_huber
from study.fit.records import COLUMNS, TABLE_COLUMNS, columns, grouped, is_positive
from study.fit.robust import HUBER_DELTA

ALIASES = {  # column -> names that people give it, as _columns compares them
    "family": "family architecture arch modelfamily modeltype type model".split(),
    "n": "n params parameters nparams numparams modelsize size paramstotal nparameters".split(),
    "d": (
        "d tokens ntokens numtokens data chars characters traintokens trainingtokens"
        " datasetsize ncharsseen".split()
    ),
    "seed": "seed run repeat".split(),
    "loss": "loss valloss validationloss evalloss testloss finalloss valnatsperchar nats".split(),
}
UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
DELIMITERS = ",;\t|"
ONE_FAMILY = "runs"  # of a table that names none
MOST_NAMED = 5  # lines named in a remark
# a diverged run lies so many robust standard deviations of log loss, and so much, above the law
FAR_OFF, LEAST_FAR = 12.0, 0.1
MIN_JUDGED = 8  # runs of a family that can say that another is far off


def decoded(content):
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", errors="replace")
    if b"\0" in content:
        raise ValueError("this is no text: it has zero bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def number_of(word, thousands=True):
    """Returns the number in a cell, or None; thousands: 44,000 is forty-four thousand.

    >>> number_of("44,000,000"), number_of("124M"), number_of("3,95", thousands=False)
    (44000000.0, 124000000.0, 3.95)
    """
    word = re.sub(r"[\s_'’]", "", word).lower()
    found = re.fullmatch(r"([-+]?[\d.,]+(?:e[-+]?\d+)?)([kmbgt]?)", word)
    if not found:
        return None
    digits, unit = found.groups()
    by_commas = re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", digits)
    if re.fullmatch(r"[-+]?\d{1,3}(\.\d{3}){2,}", digits):
        digits = digits.replace(".", "")
    elif by_commas and (thousands or digits.count(",") > 1):
        digits = digits.replace(",", "")
    digits = digits.replace(",", ".")
    try:
        return float(digits) * UNITS[unit]
    except ValueError:
        return None


def _lines(text):
    """Returns [(number from 1, cells)] without comments; the header decides the delimiter."""
    lines = [
        (number, line)
        for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1)
        if line.strip(" \t;,|") and not line.lstrip().startswith("#")
    ]
    if not lines:
        raise ValueError("no runs: the table is empty")
    delimiter = max(DELIMITERS, key=lines[0][1].count)
    return [
        (number, [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))])
        for number, line in lines
    ]


def _columns(header):
    """Returns {column: its place}; ValueError names what is missing."""
    names = [re.sub(r"[\s_\-]", "", name.lower()) for name in header]
    places = {}
    for column, aliases in ALIASES.items():
        known = [alias for alias in aliases if alias in names]
        if known:
            places[column] = names.index(known[0])
    missing = [name for name in ("n", "loss") if name not in places]
    if missing:
        raise ValueError(f"line 1: no column {', '.join(missing)}")
    return places


def rows_of_table(path):
    """Returns (rows, remarks in words) of a table; ValueError with the line and the reason."""
    (_, header), *body = _lines(decoded(path.read_bytes()))
    places = _columns(header)
    rows, empty, again = {}, [], []
    for number, cells in body:
        row = _row(number, cells, places)
        key = row and tuple(row[column] for column in TABLE_COLUMNS)
        if row is None:
            empty.append(number)
        elif key in rows:
            again.append(number)
        else:
            rows[key] = row
    rows = list(rows.values())
    if not rows:
        raise ValueError("no runs: the table is empty" if not empty else "no row has a loss")
    _name_families(rows, header[places["family"]] if "family" in places else "")
    if "seed" not in places:  # runs of one size and amount are seeds 0, 1, 2 ...
        for own in grouped(rows, itemgetter("family", "params_total", "n_chars_seen")).values():
            for seed, row in enumerate(own):
                row["seed"] = seed
    rows, far = _without_far_off(rows)
    remarks = []
    for numbers, what in ((empty, "without a loss"), (again, "that repeat another")):
        if numbers:
            more = ", ..." if len(numbers) > MOST_NAMED else ""
            named = ", ".join(map(str, numbers[:MOST_NAMED]))
            remarks.append(f"{len(numbers)} rows {what} are left out (line {named}{more})")
    rows.sort(key=lambda row: tuple(row[key] or 0 for key in TABLE_COLUMNS[:-1]))
    return rows, remarks + far


def _row(number, cells, places):
    """Returns a row, None of a line without loss."""
    words = {column: cells[place] for column, place in places.items() if place < len(cells)}
    loss = number_of(words.get("loss", ""), thousands=False)
    if loss is None or not math.isfinite(loss):
        return None
    n, d = (number_of(words.get(column, "")) for column in ("n", "d"))
    for column, value in (("n", n), ("d", d)):
        if value is None and words.get(column):
            raise ValueError(f"line {number}: {column} is {words[column]!r}, not a number")
    if not is_positive(n) or not (d is None or is_positive(d)):
        raise ValueError(f"line {number}: N and D must be positive numbers")
    word = words.get("seed") or "0"
    seed = number_of(word)
    if seed is None or not seed.is_integer():  # a word: its own number, the same for the same word
        seed = int.from_bytes(word.encode()[:6], "big")
    return {
        **dict.fromkeys(COLUMNS),
        "name": f"line {number}",
        "family": words.get("family") or ONE_FAMILY,
        "size": f"{n:g}",
        "seed": int(seed),
        "params_total": n,
        "n_chars_seen": d,
        "val_nats_per_char": loss,
    }


def _name_families(rows, name):
    """Gives one name to all rows where a column "model" names every run by itself."""
    names = {row["family"] for row in rows}
    if "famil" not in name.lower() and len(names) > len(rows) / 2 > 1:
        for row in rows:
            row["family"] = ONE_FAMILY


def _without_far_off(rows):
    """Returns the rows without runs far above the law of the others, and remarks on those."""
    kept, remarks = [], []
    for family, own in grouped(rows, itemgetter("family")).items():
        above = _above_the_law(own)
        scale = 1.4826 * np.median(np.abs(above - np.median(above)))
        for row, off in zip(own, above):
            if off > max(FAR_OFF * scale, LEAST_FAR):
                remarks.append(
                    f"{row['name']}: the loss {row['val_nats_per_char']:g} lies"
                    f" {100 * np.expm1(off):.0f} % above the law of the other {family} runs and is"
                    " left out: it may have diverged"
                )
            else:
                kept.append(row)
    return kept, remarks


def _above_the_law(rows):
    """Returns log losses less those of a robust fit; zeros where nothing can be said."""
    n, loss = columns(rows)
    amounts = {row["n_chars_seen"] for row in rows}
    if len(rows) < MIN_JUDGED or not (loss > 0).all():
        return np.zeros(len(rows))
    if None not in amounts and len(amounts) > 2:
        shape = shared.Shape((), 0.0, sum=True, delta=HUBER_DELTA)
        return shared.fit(shared.points_of(rows), shape).residuals
    found = fit_huber(n, loss)
    if not found:
        return np.zeros(len(rows))
    return np.log(loss / (found["a"] * n ** -found["alpha"] + found["c"]))
