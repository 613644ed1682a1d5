"""Chooses the runs whose loss against size is fitted: one recipe, one amount of text."""

from typing import NamedTuple

from scipy import special

from study.fit import power_law as law
from study.fit.records import columns, count_of, grouped, is_ladder, is_positive
from study.fit.verdict import RIVAL_LEVEL

BEND_LEVEL = 0.01  # of the test whether a small size lies on the law of the larger ones


def headline_rows(rows):
    """Returns the runs of one recipe and one D that have the most sizes; of equals the tuned
    recipe, then the largest D."""

    def kind(row):
        return row["recipe"] != "classic", row["n_chars_seen"] or 0, str(row["recipe"])

    groups = grouped(rows, kind).items()
    return max(groups, key=lambda group: (_n_sizes(group[1]), group[0]))[1]


def unusable(rows):
    """Returns why a family's losses cannot even be compared, in words, or None."""
    bad = [str(row["name"]) for row in rows if not is_positive(row["val_nats_per_char"])]
    if bad:
        return f"no finite positive loss in {', '.join(bad)}"
    seen = {}
    for row in rows:  # a run that counts twice would make the noise look smaller
        key = row["params_total"], row["n_chars_seen"], row["seed"], row["recipe"], row["suite"]
        if key in seen:
            return (
                f"the size N = {key[0]:,.0f} occurs twice with seed {key[2]} ({seen[key]},"
                f" {row['name']})"
            )
        seen[key] = row["name"]
    return None


def refusal(rows):
    """Returns why no law is fitted to the rows of a Headline, in words, or None."""
    if _n_sizes(rows) < law.MIN_SIZES:
        return (
            f"at most {_n_sizes(rows)} sizes share one amount of training data; a law with"
            f" three parameters needs at least {law.MIN_SIZES}"
        )
    n, loss = columns(rows, count_of(rows))
    differ = loss.max() > loss.min()
    if differ and law.fit_line(n, loss, "log_linear")["slope"] > 0:
        return None
    how = "rise with N" if differ else "are all the same"
    first, last = loss[n == n.min()].mean(), loss[n == n.max()].mean()
    return (
        f"the losses {how} (from {first:.4f} at N = {n.min():,.0f} to {last:.4f} at N ="
        f" {n.max():,.0f}): no law of diminishing loss applies"
    )


class Headline(NamedTuple):
    rows: list  # of one recipe and one D, that the law of a family is fitted to
    nine: list  # of the original suite, to be fitted by themselves
    uncut: list  # rows and the small sizes below `bends_below`
    bends_below: float | None = None  # N; None: the law holds from the smallest size
    common_p: float | None = None  # of the test whether ladder and original suite lie on one law

    @property
    def suite(self):
        names = {"ladder" if is_ladder(row) else "classical" for row in self.rows}
        return " + ".join(sorted(names, reverse=True))


def choose_headline(own):
    """Returns the Headline of a family's runs: the ladder's above the bend, with the original
    suite's on the same text where one law holds for both; the original suite's if the ladder has
    too few sizes."""
    ladder, others = [[row for row in own if is_ladder(row) == kind] for kind in (True, False)]
    nine = headline_rows(others) if others else []
    uncut = headline_rows(ladder) if ladder else []
    if _n_sizes(uncut) <= law.MIN_SIZES:  # leaves no degree of freedom to judge a bend
        return Headline(nine or uncut, nine, nine or uncut)
    rows, p = _above_the_bend(uncut), None
    same = ("recipe", "n_chars_seen", "train_chars")
    joined = [row for row in others if all(row[key] == rows[0][key] for key in same)]
    if joined:
        p = _misfit(rows, joined)
        if p >= RIVAL_LEVEL:
            uncut, rows = uncut + joined, _above_the_bend(rows + joined)
    smallest = min(row[count_of(rows)] for row in rows)
    bends = smallest if any(row[count_of(rows)] < smallest for row in uncut) else None
    return Headline(rows, nine, uncut, bends, p)


def _above_the_bend(rows):
    """The rows from the first size on that lies on the law of the larger ones, or all."""
    count = count_of(rows)
    sizes = sorted({row[count] for row in rows})
    for size in sizes[: -law.MIN_SIZES]:
        larger = [row for row in rows if row[count] > size]
        if _misfit(larger, [row for row in rows if row[count] == size]) >= BEND_LEVEL:
            return [row for row in rows if row[count] >= size]
    return rows


def _misfit(core, more):
    """p-value of further runs under the law of `core` (F test)."""
    count = count_of(core + more)
    squares = []
    for rows in (core, core + more):
        n, loss = columns(rows, count)
        squares.append(law.fit_power_law(n, loss).ss + law.group_by_size(n, loss)[3])
    dof = len(core) - 3
    growth = max(squares[1] - squares[0], 0.0) / len(more)
    return special.fdtrc(len(more), dof, growth / max(squares[0] / dof, 1e-18))


def _n_sizes(rows):
    return len({row["params_total"] for row in rows})
