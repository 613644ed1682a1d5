"""Chooses the runs whose loss against size is fitted: one recipe, one amount of text."""

from typing import NamedTuple

import numpy as np

from study.fit import power_law as law
from study.fit.joint_fit import first_on_the_law, misfit_p
from study.fit.records import columns, count_of, is_ladder, is_positive
from study.fit.verdict import RIVAL_LEVEL


def headline_rows(rows):
    """The runs of the L(N) fit: one recipe and one D, those with the most sizes (of equals: the
    largest D).

    L(N) is a curve at fixed D: sizes trained on different amounts of text would put the effect of D
    into alpha. The tuned recipe goes before the classic one, whose runs are there to compare with
    the original study.
    """
    groups = {}
    for row in rows:
        groups.setdefault(
            (row["recipe"] != "classic", row["n_chars_seen"] or 0, str(row["recipe"])), []
        ).append(row)
    return max(groups.items(), key=lambda group: (_n_sizes(group[1]), group[0]))[1]


def unusable(rows):
    """Why a family's losses cannot even be compared, in words, or None."""
    bad = [str(row["name"]) for row in rows if not is_positive(row["val_nats_per_char"])]
    if bad:
        return f"no finite positive loss in {', '.join(bad)}"
    seen = {}
    for row in rows:  # a run that counts twice would make the noise look smaller than it is
        key = row["params_total"], row["n_chars_seen"], row["seed"], row["recipe"], row["suite"]
        if key in seen:
            return (
                f"the size N = {key[0]:,.0f} occurs twice with seed {key[2]} ({seen[key]},"
                f" {row['name']})"
            )
        seen[key] = row["name"]
    return None


def refusal(rows):
    """Why no law is fitted to a family's runs, in words, or None."""
    if reason := unusable(rows):
        return reason
    if _n_sizes(rows) < law.MIN_SIZES:
        return f"{_n_sizes(rows)} sizes; a law with three parameters needs at least {law.MIN_SIZES}"
    at_one_d = choose_headline(rows).rows
    if _n_sizes(at_one_d) < law.MIN_SIZES:
        return (
            f"at most {_n_sizes(at_one_d)} sizes share one amount of training data, so L(N) at"
            f" fixed D cannot be fitted (at least {law.MIN_SIZES} are needed)"
        )
    n, loss = columns(at_one_d, count_of(at_one_d))
    if law.fit_line(n, loss, "log_linear")["slope"] <= 0:
        how = "rise with N" if loss.max() > loss.min() else "are all the same"
        return (
            f"the losses {how} (from {loss[n == n.min()].mean():.4f} at N = {n.min():,.0f} to"
            f" {loss[n == n.max()].mean():.4f} at N = {n.max():,.0f}): no law of diminishing loss"
            " applies"
        )
    return None


class Headline(NamedTuple):
    """The runs that the law of a family is fitted to, and what came of the choice. rows: those of
    one recipe and one D;
    nine: those of the original suite, to be fitted by themselves; uncut: rows and the small sizes
    below `bends_below`
    (None: the law holds from the smallest); common_p: of the test whether ladder
    and original suite lie on one law.
    """

    rows: list
    nine: list
    uncut: list
    bends_below: float | None = None
    common_p: float | None = None

    @property
    def suite(self):
        ladder = any(map(is_ladder, self.rows))
        return " + ".join(
            ["ladder"] * ladder + ["classical"] * (not all(map(is_ladder, self.rows)))
        )


def choose_headline(own):
    """The Headline of a family's runs: those of the ladder where it has enough sizes, together with
    those of the original suite on the same text where one law holds for both, above the size where
    it bends; else the original suite's alone.

    One law holds where the suite does not raise the residual of the ladder's fit by more than its
    noise explains.
    """
    ladder, others = [row for row in own if is_ladder(row)], [
        row for row in own if not is_ladder(row)
    ]
    nine = headline_rows(others) if others else []
    rungs = headline_rows(ladder) if ladder else []
    if _n_sizes(rungs) <= law.MIN_SIZES:  # a law and one degree of freedom at least
        return Headline(nine or rungs, nine, nine or rungs)
    uncut, p = rungs, None
    rungs = _above_the_bend(rungs)
    same = ("recipe", "n_chars_seen", "train_chars")
    joined = [row for row in others if all(row[key] == rungs[0][key] for key in same)]
    if joined:
        p = _misfit(rungs, joined)
        if p >= RIVAL_LEVEL:
            uncut, rungs = uncut + joined, _above_the_bend(rungs + joined)
    smallest = min(row[count_of(rungs)] for row in rungs)
    bends = smallest if any(row[count_of(rungs)] < smallest for row in uncut) else None
    return Headline(rungs, nine, uncut, bends, p)


def _above_the_bend(rows):
    """The rows whose sizes lie on the law of the larger ones."""
    count = count_of(rows)
    cut = first_on_the_law(
        sorted({row[count] for row in rows}),
        lambda size: _misfit(
            [row for row in rows if row[count] > size], [row for row in rows if row[count] == size]
        ),
        law.MIN_SIZES,
    )
    return [row for row in rows if row[count] >= cut]


def _misfit(core, more):
    """p-value of further runs under the law of `core`."""
    count = count_of(core + more)
    first, both = (law.fit_power_law(*columns(rows, count)) for rows in (core, core + more))
    within = [law.group_by_size(*columns(rows, count))[3] for rows in (core, core + more)]
    dof = first.n_runs - 3
    return misfit_p(first.ss + within[0], dof, both.ss + within[1], len(more))


def _n_sizes(rows):
    return len({row["params_total"] for row in rows})


def spread_of_seeds(n, loss):
    """Standard deviation over the runs of each size, in order of size; None where there is one
    run."""
    return [
        float(loss[n == size].std(ddof=1)) if (n == size).sum() > 1 else None
        for size in np.unique(n)
    ]
