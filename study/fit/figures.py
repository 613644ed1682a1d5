"""The figures of the fits (stage 06): laws, loss curves, costs, residuals, choices, the grid.

Style, looks, captions and the writing of files stand in `study/figures.py`. Each `draw_` function
returns a figure and the fields of its caption, or None where the data do not allow it. Every point
that was measured is drawn, also those of
a family whose law was refused: a figure that hides what does not fit is no evidence.
"""

import math
import warnings
from typing import NamedTuple

import numpy as np

from study import figures
from study.families import in_order, label
from study.figures import log_axes, look
from study.fit import joint_law
from study.fit import power_law as law
from study.fit.analysis import rows_of_plane
from study.fit.headline_runs import choose_headline, spread_of_seeds
from study.fit.records import COUNTS, columns, count_of, is_positive
from study.wording import number, rounded, si

LOSS = "validation loss (nats per character)"
GROUPS = (
    "headline",
    "counting",
    "cost",
    "form",
    "estimator",
    "loss",
    "cut",
    "recipe",
    "data",
    "subset",
    "seed",
)
NESTED = ": whole tunes in one fixed random order, so that a smaller part lies within a larger one"
FORM_LOOKS = (
    ("a N^-α + c", "#0072B2", "o"),
    ("a N^-α", "#D55E00", "^"),
    ("log-linear", "#009E73", "s"),
)


class Study(NamedTuple):
    """What the figures show."""

    rows: list  # of all runs
    # family -> scaling_fits.Headline of the runs that have a loss, the refused families alike
    chosen: dict
    fits: dict  # fits.json
    laws: dict  # family -> scaling_law.PowerLaw
    curves: dict  # name of run -> points of its loss curve
    settings: tuple  # scaling_fits.Settings
    corpus_chars: int | None  # characters of the whole training text, None: not known

    @property
    def groups(self):
        """family -> the runs of its headline."""
        return {family: headline.rows for family, headline in self.chosen.items()}


def draw_all(folder, rows, analysis, settings, curves, corpus_chars=None):
    """Draws every figure that the data allow and removes the others; returns [{"name",
    "caption"}]."""
    measured = [row for row in rows if is_positive(row["val_nats_per_char"])]
    families = in_order({row["family"] for row in measured})
    chosen = {
        family: choose_headline([row for row in measured if row["family"] == family])
        for family in families
    }
    study = Study(rows, chosen, analysis.result, analysis.laws, curves, settings, corpus_chars)
    plt, drawn = figures.pyplot(), []
    # a name in letters that the font lacks is drawn as boxes; that is no news to a reader
    warnings.filterwarnings("ignore", message="Glyph .* missing from")
    for name, draw in DRAWINGS.items():
        figure, fields = draw(plt, study) or (None, None)
        if figure is None:
            figures.remove(folder, name)
            continue
        figures.save(figure, folder, name)
        drawn.append({"name": name, "caption": figures.FIGURES[name].format(**fields)})
    return drawn


# ---------------------------------------------------------------- what the panels share


def _count(rows):
    """ "5 sizes x 3 seeds" or "5 sizes, 12 runs"."""
    n_sizes = len({row["params_total"] for row in rows})
    n_seeds = len(rows) / n_sizes
    return (
        f"{n_sizes} sizes, 1 seed"
        if n_seeds == 1
        else (
            f"{n_sizes} sizes x {n_seeds:.0f} seeds"
            if n_seeds.is_integer()
            else f"{n_sizes} sizes, {len(rows)} runs"
        )
    )


def _counts(groups):
    """The runs of every family in words, for captions."""
    return "; ".join(f"{label(family)}: {_count(rows)}" for family, rows in groups.items())


def _original(study):
    """The runs of the original suite of every family, those of the headline where it has none."""
    return {family: headline.nine or headline.rows for family, headline in study.chosen.items()}


def _n_axis(groups):
    """Label of an axis of N in the count of the headlines."""
    counts = {COUNTS[count_of(rows)].removesuffix(" N") for rows in groups.values()}
    return f"parameters N ({counts.pop()})" if len(counts) == 1 else "parameters N"


def _text_seen(study):
    """The text that the models of the headline were trained on, in words: "294k of 1.35M
    characters"; "" if the runs come from a table, which says D and not of what."""
    rows = [
        row for rows in study.groups.values() for row in rows if is_positive(row["train_chars"])
    ]
    words = []
    for chars, epochs in sorted({(row["train_chars"], row["epochs"] or 1) for row in rows}):
        part = (
            f" of {si(study.corpus_chars)}"
            if study.corpus_chars and chars < study.corpus_chars
            else ""
        )
        words.append(
            f"{si(chars)}{part} characters{f' x {epochs:g} epochs' if epochs != 1 else ''}"
        )
    return " and ".join(words)


def _mean_and_spread(n, loss):
    """Mean loss of each size and the standard deviation over its seeds (0 for one run: no bar is
    drawn)."""
    return (
        np.array([loss[n == size].mean() for size in np.unique(n)]),
        [spread or 0.0 for spread in spread_of_seeds(n, loss)],
    )


# ---------------------------------------------------------------- loss against N


def draw_scaling(plt, study):
    """Loss against N: runs, means, fitted law with its band; crosses: runs that are not on the
    law."""
    if not study.groups:
        return None
    figure, axes = plt.subplots(figsize=(6.4, 4.4))
    largest = max(row[count_of(rows)] for rows in study.groups.values() for row in rows)
    for family, rows in study.groups.items():
        color, marker, _, line = look(family, study.groups)
        count, used = count_of(rows), {row["name"] for row in rows}
        n, loss = columns(rows, count)
        off = [
            row
            for row in study.chosen[family].uncut + study.chosen[family].nine
            if row["name"] not in used and is_positive(row[count])
        ]
        axes.plot(*columns(off, count), ls="none", marker="x", ms=5, color=color, alpha=0.7)
        _draw_law(axes, study, family, n, 2.5 * largest)
        mean, spread = _mean_and_spread(n, loss)
        axes.plot(
            n, loss, ls="none", marker=marker, ms=4, mfc="none", mec=color, mew=0.8, alpha=0.6
        )
        axes.errorbar(
            np.unique(n),
            mean,
            yerr=spread,
            ls="none",
            marker=marker,
            ms=6.5,
            color=color,
            capsize=3,
        )
        axes.plot(
            [],
            [],
            color=color,
            ls=line,
            marker=marker,
            label=f"{label(family)} ({_count(rows)})\n{_exponent(study, family)}",
        )
    text = _text_seen(study)
    axes.set(
        xlabel=_n_axis(study.groups), ylabel=LOSS, title=f"trained on {text}" if text else None
    )
    # of the laws' runs
    losses = np.concatenate([columns(rows)[1] for rows in study.groups.values()])
    # of the points: a wide band must not squeeze them
    room = 0.35 * np.log(losses.max() / losses.min()) + 0.02
    axes.set_ylim(losses.min() * math.exp(-room), losses.max() * math.exp(room))
    log_axes(axes, si, number)
    axes.legend(loc="upper right", fontsize=8)
    return figure, {
        "runs": _counts(study.groups),
        "level": 100 * law.LEVEL,
        "text": f" Trained on {text}{NESTED if ' of ' in text else ''}." if text else "",
    }


def _draw_law(axes, study, family, n, up_to):
    """The fitted curve of a family with its band, dotted beyond its own largest size; nothing if it
    has no law, or one whose exponent is the bound of the search."""
    if family not in study.laws or law.is_on_bound(study.laws[family].alpha):
        return
    fit, (color, _, _, line) = study.laws[family], look(family, study.groups)
    grid = np.append(np.geomspace(n.min(), n.max(), 80), np.geomspace(n.max(), up_to, 40)[1:])
    value, low, high = law.predict(fit, grid)
    inside = grid <= n.max()
    axes.plot(grid[inside], value[inside], color=color, ls=line)
    axes.plot(grid[~inside], value[~inside], color=color, ls=":")
    if fit.noise_sd is not None:
        identified = study.fits["families"][family]["identified"]
        axes.fill_between(grid, low, high, color=color, alpha=0.15 if identified else 0.08, lw=0)
        for edge in (low, high):
            axes.plot(grid, edge, color=color, lw=0.6, alpha=0.5)


def _exponent(study, family):
    """The exponent of a family for the legend, in the word of its verdict: a value only where the
    data identify it."""
    if family not in study.laws:
        return "not fitted"
    word, (low, high) = study.fits["families"][family]["verdict"], study.laws[family].alpha_interval
    if word == "open":
        return "α open"
    alpha, *ends = (rounded(value, low, high) for value in (study.laws[family].alpha, low, high))
    return (
        f"α = {alpha} [{', '.join(ends)}]"
        if word == "identified"
        else f"α bounded: {' to '.join(ends)}"
    )


def draw_residuals(plt, study):
    """Residuals of the three forms at each size, a panel for each family that has a law."""
    if not study.laws:
        return None
    families = in_order(study.laws)
    figure, axes = plt.subplots(
        1, len(families), figsize=(4.2 * len(families), 3.4), sharey=True, squeeze=False
    )
    for axis, family in zip(axes[0], families):
        fit = study.laws[family]
        n, loss = columns(study.groups[family], count_of(study.groups[family]))
        power, line = (
            study.fits["families"][family]["forms"][form] for form in ("power", "log_linear")
        )
        fitted = (
            fit.a * fit.sizes**-fit.alpha + fit.c,
            power["a"] * fit.sizes ** -power["alpha"],
            line["intercept"] - line["slope"] * np.log(fit.sizes),
        )
        _, spread = _mean_and_spread(n, loss)
        if fit.noise_sd:
            axis.axhspan(-1e3 * fit.noise_sd, 1e3 * fit.noise_sd, color="0.85", lw=0, zorder=0)
        # side by side, not on top
        for shift, curve, (_, color, marker) in zip((0.93, 1, 1.07), fitted, FORM_LOOKS):
            axis.errorbar(
                fit.sizes * shift,
                1e3 * (fit.means - curve),
                yerr=1e3 * np.array(spread),
                ls="none",
                marker=marker,
                ms=6,
                capsize=2,
                color=color,
            )
        axis.axhline(0, color="0.3", lw=0.8)
        axis.set(
            xlabel=_n_axis({family: study.groups[family]}),
            title=f"{label(family)} (n = {len(n)} runs)",
        )
        axis.set_xlim(fit.sizes.min() / 1.5, fit.sizes.max() * 1.5)
        log_axes(axis, si)
        axis.grid(False)
    first = axes[0, 0]
    first.set_ylabel("measured - fitted loss\n(millinats per character)")
    handles = [
        first.errorbar([], [], ls="none", marker=marker, ms=6, color=color, label=form)
        for form, color, marker in FORM_LOOKS
    ]
    handles.append(first.fill_between([], [], color="0.85", label="±1 sd of a run"))
    figure.legend(
        handles=handles, loc="outside upper center", ncols=4 if len(families) > 1 else 2, fontsize=8
    )
    return figure, {}


# ---------------------------------------------------------------- training and its cost


def draw_curves(plt, study):
    """Validation loss during training over tokens, FLOPs and seconds."""
    shown = {}  # family -> [(row, points)] of its lowest seed, in order of size
    for family, rows in _original(study).items():
        rows = [row for row in rows if study.curves.get(row["name"])]
        lowest = [row for row in rows if row["seed"] == min(other["seed"] for other in rows)]
        shown[family] = [
            (
                row,
                [
                    point
                    for point in study.curves[row["name"]]
                    if is_positive(point.get("val_nats_per_char"))
                ],
            )
            for row in sorted(lowest, key=lambda row: row["params_total"])
        ]
    n_runs = sum(bool(points) for runs in shown.values() for _, points in runs)
    if not n_runs:
        return None
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.6), sharey=True)
    panels = (
        ("tokens", "training tokens"),
        ("flops", "training FLOPs"),
        ("seconds", "training time (s)"),
    )
    for axis, (key, words) in zip(axes, panels):
        for family, runs in shown.items():
            color, _, _, line = look(family, study.groups)
            for i, (row, points) in enumerate(runs):
                curve = [
                    (point[key], point["val_nats_per_char"])
                    for point in points
                    if is_positive(point.get(key))
                ]
                if curve:
                    axis.plot(
                        *zip(*curve),
                        color=color,
                        ls=line,
                        alpha=0.25 + 0.75 * i / max(len(runs) - 1, 1),
                        lw=1.2,
                        label=f"{label(family)} {row['size']}" if axis is axes[0] else None,
                    )
        axis.set_xlabel(words)
        log_axes(axis, si, number)
    axes[0].set_ylabel(LOSS)
    figure.legend(loc="outside right center", fontsize=8)
    return figure, {"n_runs": n_runs}


def draw_efficiency(plt, study):
    """Final loss against training time, FLOPs and peak memory."""
    groups = _original(study)
    everything = [row for rows in groups.values() for row in rows]
    panels = [
        panel
        for panel in (
            ("seconds", 1, "training time (s)"),
            ("train_flops", 1, "training FLOPs"),
            ("peak_memory_bytes", 1 / 2**20, "peak memory (MiB)"),
        )
        if any(is_positive(row[panel[0]]) for row in everything)
    ]
    if not panels:
        return None
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.2 * len(panels), 3.4), sharey=True, squeeze=False
    )
    for axis, (key, scale, words) in zip(axes[0], panels):
        for family, rows in groups.items():
            color, marker, _, line = look(family, groups)
            sizes = {}
            for row in rows:
                if is_positive(row[key]):
                    sizes.setdefault(row["params_total"], []).append(
                        (row[key] * scale, row["val_nats_per_char"])
                    )
            if sizes:
                x, y = np.array([np.mean(sizes[n], 0) for n in sorted(sizes)]).T
                bars = [
                    np.std(sizes[n], 0, ddof=1) if len(sizes[n]) > 1 else (0, 0)
                    for n in sorted(sizes)
                ]
                how = {"color": color, "ls": line, "lw": 1, "marker": marker, "ms": 5.5}
                axis.errorbar(
                    x,
                    y,
                    yerr=[bar[1] for bar in bars],
                    xerr=[bar[0] for bar in bars],
                    capsize=2.5,
                    **how,
                )
                axis.plot([], [], label=f"{label(family)} ({_count(rows)})", **how)
        axis.set_xlabel(words)
        log_axes(axis, si, number)
    axes[0, 0].set_ylabel(LOSS)
    axes[0, 0].legend(fontsize=8)
    return figure, {
        "runs": _counts(groups),
        "devices": ", ".join(sorted({str(row["device"]) for row in everything})),
    }


def draw_by_position(plt, study):
    """Loss by position in the context: the largest models, and the gain from the far context by
    size."""
    by_family = study.fits["loss_by_position"]
    if not by_family:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.6), gridspec_kw={"width_ratios": [1.6, 1]})
    n_of_size = {(row["family"], row["size"]): row["params_total"] for row in study.rows}
    for family in in_order(by_family):
        color, marker, _, line = look(family, by_family)
        sizes = by_family[family]
        for size, entry in sizes.items():
            # bins even in log position
            edges = np.unique(np.geomspace(1, len(entry["loss"]) + 1, 18).astype(int)) - 1
            x = [(a + b) / 2 * entry["positions_per_bin"] for a, b in zip(edges, edges[1:])]
            y = [np.mean(entry["loss"][a:b]) for a, b in zip(edges, edges[1:])]
            largest = size == list(sizes)[-1]
            axes[0].plot(
                x,
                y,
                color=color,
                ls=line,
                lw=1.8 if largest else 0.7,
                alpha=1 if largest else 0.35,
                label=f"{label(family)} {size}" if largest else None,
            )
        axes[1].plot(
            [n_of_size[family, size] for size in sizes],
            [entry["gain_from_far_context"] for entry in sizes.values()],
            color=color,
            ls=line,
            marker=marker,
            label=label(family),
        )
    axes[0].set(xlabel="position in the context (tokens)", ylabel=LOSS)
    log_axes(axes[0], si, number)
    axes[0].legend(fontsize=8)
    axes[1].axhline(0, color="0.4", lw=0.8)
    log_axes(axes[1], si)
    contexts = {
        round(entry["positions_per_bin"] * len(entry["loss"]))
        for sizes in by_family.values()
        for entry in sizes.values()
    }
    scale, unit = (
        (contexts.pop(), "positions") if len(contexts) == 1 else (100, "percent of the context")
    )
    near, far = (
        f"{scale * first:.3g}-{scale * last:.3g}"
        for first, last in (study.settings.near, study.settings.far)
    )
    axes[1].set(
        xlabel="parameters N (total)",
        ylabel="gain from far context (nats)",
        title=f"loss at {unit} {near}\nminus {far}",
    )
    return figure, {}


# ---------------------------------------------------------------- how firm alpha is


def draw_choices(plt, study):
    """How alpha moves with each choice: a row for each, a mark with its interval for each
    family."""
    counting = study.fits["counting"]
    if not counting:
        return None
    families = in_order(counting)
    groups = {
        choice["choice"]: choice["group"] for family in families for choice in counting[family]
    }
    names = sorted(groups, key=lambda name: GROUPS.index(groups[name]))
    figure, axes = plt.subplots(figsize=(6.8, 1.2 + 0.27 * len(names) * max(1, len(families) / 2)))
    left, right = 0.01, law.ALPHA_RANGE[1]  # an exponent below 0.01 is none on this scale
    for k, family in enumerate(families):
        color, marker, _, _ = look(family, families)
        for choice in counting[family]:
            y = names.index(choice["choice"]) + (k - (len(families) - 1) / 2) * 0.56 / len(families)
            if choice["alpha_interval"]:
                low, high = choice["alpha_interval"]
                low, high, open_below, open_above = (
                    max(low or left, left),
                    high or right,
                    (low or 0) <= left,
                    not high,
                )
                axes.plot([low, high], [y, y], color=color, lw=1.3, alpha=0.8)
                for is_open, at, arrow in ((open_below, left, "<"), (open_above, right, ">")):
                    if is_open:
                        axes.plot(at, y, marker=arrow, ms=5, color=color, clip_on=False)
            if choice["alpha"] is not None:  # None: on the bound of the search
                axes.plot(
                    min(max(choice["alpha"], left), right),
                    y,
                    marker=marker,
                    ms=5.5,
                    color=color,
                    ls="none",
                    mfc="white" if choice["identified"] is False else color,
                    clip_on=False,
                )
        axes.plot([], [], color=color, marker=marker, label=label(family))
    for i in range(1, len(names)):
        if groups[names[i]] != groups[names[i - 1]]:
            axes.axhline(i - 0.5, color="0.7", lw=0.7)
    axes.plot([], [], color="0.3", marker="o", mfc="white", ls="none", label="α not identified")
    axes.plot([], [], color="0.3", marker=">", ls="none", label="interval goes on")
    axes.set(xlim=(left, right), yticks=range(len(names)), yticklabels=names, xlabel="exponent α")
    axes.set_ylim(len(names) - 0.4, -0.6)
    log_axes(axes, number)
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=min(len(families) + 2, 5), fontsize=8)
    return figure, {"level": 100 * law.LEVEL}


def draw_plane(plt, study):
    """Loss against N for each amount of data with the joint law, a panel for each family."""
    joint = {
        family: entry
        for family, entry in (study.fits["joint"] or {}).items()
        if entry["E"]["value"] is not None
    }
    if not joint:
        return None
    families = in_order(joint)
    figure, axes = plt.subplots(
        1, len(families), figsize=(4.4 * len(families), 3.8), sharey=True, squeeze=False
    )
    for axis, family in zip(axes[0], families):
        entry, rows = joint[family], rows_of_plane(
            [row for row in study.rows if row["family"] == family]
        )
        rows = [
            row
            for row in rows
            if is_positive(row["val_nats_per_char"]) and is_positive(row["n_chars_seen"])
        ]
        amounts, grid = sorted({row["n_chars_seen"] for row in rows}), np.geomspace(
            *entry["n_range"], 60
        )
        parameters = [entry[name]["value"] for name in joint_law.JOINT]
        for i, d in enumerate(amounts):
            color = plt.get_cmap("viridis")(0.9 * i / max(len(amounts) - 1, 1))
            n, loss = columns([row for row in rows if row["n_chars_seen"] == d], entry["count"])
            axis.plot(n, loss, ls="none", marker="o", ms=4, mfc="none", color=color)
            axis.plot(grid, joint_law.joint_loss(parameters, grid, d), color=color, label=si(d))
        axis.set(xlabel=_n_axis({family: rows}), title=f"{label(family)} (n = {len(rows)} runs)")
        log_axes(axis, si, number)
    axes[0, 0].set_ylabel(LOSS)
    axes[0, -1].legend(title="characters", fontsize=8)
    return figure, {}


DRAWINGS = {
    "scaling": draw_scaling,
    "curves": draw_curves,
    "efficiency": draw_efficiency,
    "loss_by_position": draw_by_position,
    "residuals": draw_residuals,
    "alpha_choices": draw_choices,
    "plane": draw_plane,
}
