"""Draws the figures of the fits (stage 06): laws, loss curves, costs, choices, the grid.

Each `draw_` function returns a figure and the fields of its caption, or None where the data do not
allow it.
"""

import itertools
import math
import warnings
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from study import figures
from study.families import in_order, label
from study.figures import log_axes, look
from study.fit import sentences
from study.fit import power_law as law
from study.fit import shared_law as shared
from study.fit.headline_runs import choose_headline
from study.fit.joint_fit import rows_of_grid
from study.fit.records import COUNTS, by_family, columns, count_of, grouped, is_positive
from study.wording import number, si

LOSS = "validation loss (nats per character)"
FADED = {"alpha": 0.35, "lw": 0.7}  # sizes behind the largest


class Study(NamedTuple):
    rows: list  # of all runs
    chosen: dict  # family -> Headline of the runs that have a loss
    fits: dict  # fits.json
    laws: dict  # family -> PowerLaw
    curves: dict  # name of run -> points of its loss curve

    @property
    def groups(self):
        return {family: headline.rows for family, headline in self.chosen.items()}

    @property
    def original(self):
        """The runs of the original suite, the headline's where there are none."""
        return {family: headline.nine or headline.rows for family, headline in self.chosen.items()}


def draw_all(folder, rows, analysis, curves):
    """Draws the figures that the data allow, removes others; returns [{"name", "caption"}]."""
    known = by_family([row for row in rows if is_positive(row["val_nats_per_char"])])
    chosen = {family: choose_headline(own) for family, own in known.items()}
    study = Study(rows, chosen, analysis.result, analysis.laws, curves)
    plt, drawn = figures.pyplot(), []
    # a name in letters that the font lacks is drawn as boxes
    warnings.filterwarnings("ignore", message="Glyph .* missing from")
    for name, draw in DRAWINGS.items():
        figure, fields = draw(plt, study) or (None, None)
        if figure is None:
            figures.remove(folder, name)
            continue
        figures.save(figure, folder, name)
        drawn.append({"name": name, "caption": figures.FIGURES[name].format(**fields)})
    return drawn


def _panels(plt, n, width, height):
    figure, axes = plt.subplots(1, n, figsize=(width, height), sharey=True, squeeze=False)
    axes[0, 0].set_ylabel(LOSS)
    return figure, axes[0]


def _spread(values):
    """Standard deviation over seeds; 0 (no bar) of one run."""
    return values.std(0, ddof=1) if len(values) > 1 else 0 * values[0]


def _count(rows):
    return f"{len({row['params_total'] for row in rows})} sizes, {len(rows)} runs"


def _counts(groups):
    return "; ".join(f"{label(family)}: {_count(rows)}" for family, rows in groups.items())


def _n_axis(groups):
    counts = {COUNTS[count_of(rows)].removesuffix(" N") for rows in groups.values()}
    return f"parameters N ({counts.pop()})" if len(counts) == 1 else "parameters N"


def _text_seen(groups):
    """The text of the models: "294k characters"; "" for a table's."""
    rows = [row for row in itertools.chain(*groups.values()) if is_positive(row["train_chars"])]
    texts = sorted({(row["train_chars"], row["epochs"] or 1) for row in rows})
    words = [f"{si(chars)} characters x {epochs:g} epochs" for chars, epochs in texts]
    return " and ".join(words).replace(" x 1 epochs", "")


def draw_scaling(plt, study):
    """Loss against N: runs, means, law with its band; crosses: runs that are not on the law."""
    if not study.groups:
        return None
    figure, (axes,) = _panels(plt, 1, 6.4, 4.4)
    largest = max(row[count_of(rows)] for rows in study.groups.values() for row in rows)
    for family, rows in study.groups.items():
        color, marker, _, line = look(family, study.groups)
        count = count_of(rows)
        n, loss = columns(rows, count)
        others = study.chosen[family].uncut + study.chosen[family].nine
        off = [row for row in others if row not in rows and is_positive(row[count])]
        axes.plot(*columns(off, count), ls="none", marker="x", ms=5, color=color, alpha=0.7)
        _draw_law(axes, study, family, n, 2.5 * largest)
        how = {"ls": "none", "marker": marker, "color": color}
        axes.plot(n, loss, ms=4, mfc="none", mew=0.8, alpha=0.6, **how)
        sizes, _, means, _ = law.group_by_size(n, loss)
        spread = [_spread(loss[n == size]) for size in sizes]
        axes.errorbar(sizes, means, yerr=spread, capsize=3, ms=6.5, **how)
        words = f"{label(family)} ({_count(rows)})"
        if family in study.laws and family not in (study.fits["joint"] or {}):
            words += f"\nα {sentences.exponent_in_words(study.fits['families'][family])}"
        axes.plot([], [], color=color, ls=line, marker=marker, label=words)
    text = _text_seen(study.groups)
    axes.set(xlabel=_n_axis(study.groups), title=f"trained on {text}" if text else None)
    # the limits are those of the points: a wide band must not squeeze them
    losses = np.concatenate([columns(rows)[1] for rows in study.groups.values()])
    room = math.exp(0.02) * (losses.max() / losses.min()) ** 0.35
    axes.set_ylim(losses.min() / room, losses.max() * room)
    log_axes(axes, si, number)
    axes.legend(loc="upper right", fontsize=8)
    text = f" Trained on {text}." if text else ""
    return figure, {"runs": _counts(study.groups), "level": 100 * law.LEVEL, "text": text}


def _draw_law(axes, study, family, n, up_to):
    """The law of a family with its band, dotted beyond its largest size; none on a bound."""
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


def draw_grid(plt, study):
    """Loss against N for each amount of data with the joint law, a panel a family."""
    joint = study.fits["joint"] or {}
    families = [family for family in joint if joint[family]["E"]["value"] is not None]
    if not families:
        return None
    figure, panels = _panels(plt, len(families), 4.4 * len(families), 3.8)
    for axis, family in zip(panels, families):
        rows = rows_of_grid([row for row in study.rows if row["family"] == family])
        points = shared.points_of(rows)
        sizes = np.geomspace(points.n.min(), points.n.max(), 60)
        values = {name: joint[family][name]["value"] for name in shared.JOINT}
        amounts = np.unique(points.d)
        for i, d in enumerate(amounts):
            color, own = plt.get_cmap("viridis")(0.9 * i / (len(amounts) - 1)), points.d == d
            how = {"ls": "none", "marker": "o", "ms": 4, "mfc": "none", "color": color}
            axis.plot(points.n[own], points.loss[own], **how)
            axis.plot(sizes, shared.joint_loss(sizes, d, **values), color=color, label=si(d))
        title = f"{label(family)} (n = {len(points.n)} runs)"
        axis.set(xlabel=_n_axis({family: rows}), title=title)
        log_axes(axis, si, number)
    panels[-1].legend(title="characters", fontsize=8)
    return figure, {}


def draw_curves(plt, study):
    runs = []  # (row, shade) of the lowest seed of each family, in order of size
    for rows in study.original.values():
        rows = [row for row in rows if study.curves.get(row["name"])]
        lowest = min((row["seed"] for row in rows), default=None)
        own = [row for row in rows if row["seed"] == lowest]
        for i, row in enumerate(sorted(own, key=itemgetter("params_total"))):
            runs.append((row, 0.25 + 0.75 * i / max(len(own) - 1, 1)))
    if not runs:
        return None
    figure, panels = _panels(plt, 3, 9.6, 3.6)
    words = ("training tokens", "training FLOPs", "training time (s)")
    for axis, key, title in zip(panels, ("tokens", "flops", "seconds"), words):
        for row, shade in runs:
            color, _, _, line = look(row["family"], study.groups)
            points = study.curves[row["name"]]
            curve = [(p[key], p["val_nats_per_char"]) for p in points if is_positive(p[key])]
            name = f"{label(row['family'])} {row['size']}" if axis is panels[0] else None
            axis.plot(*zip(*curve), color=color, ls=line, alpha=shade, lw=1.2, label=name)
        axis.set_xlabel(title)
        log_axes(axis, si, number)
    figure.legend(loc="outside right center", fontsize=8)
    return figure, {"n_runs": len(runs)}


def draw_efficiency(plt, study):
    everything = [row for rows in study.original.values() for row in rows]
    shown = (
        ("seconds", 1, "training time (s)"),
        ("train_flops", 1, "training FLOPs"),
        ("peak_memory_bytes", 1 / 2**20, "peak memory (MiB)"),
    )
    shown = [panel for panel in shown if any(is_positive(row[panel[0]]) for row in everything)]
    if not shown:
        return None
    figure, panels = _panels(plt, len(shown), 3.2 * len(shown), 3.4)
    for axis, (key, scale, words) in zip(panels, shown):
        for family, rows in study.original.items():
            color, marker, _, line = look(family, study.original)
            known = [row for row in rows if is_positive(row[key])]
            if not known:
                continue
            sizes = sorted(grouped(known, itemgetter("params_total")).items())
            groups = [np.stack(columns(own, key), 1) * (scale, 1) for _, own in sizes]
            x, y = np.array([group.mean(0) for group in groups]).T
            x_bars, y_bars = np.array([_spread(group) for group in groups]).T
            how = {"color": color, "ls": line, "lw": 1, "marker": marker, "ms": 5.5}
            axis.errorbar(x, y, yerr=y_bars, xerr=x_bars, capsize=2.5, **how)
            axis.plot([], [], label=f"{label(family)} ({_count(rows)})", **how)
        axis.set_xlabel(words)
        log_axes(axis, si, number)
    panels[0].legend(fontsize=8)
    devices = ", ".join(sorted({str(row["device"]) for row in everything}))
    return figure, {"runs": _counts(study.original), "devices": devices}


def draw_by_position(plt, study):
    figure = None
    for family, rows in study.original.items():
        color, _, _, line = look(family, study.original)
        known = [row for row in rows if row.get("val_loss_by_position") and row.get("block_size")]
        known = [row for row in known if all(map(is_positive, row["val_loss_by_position"]))]
        sizes = grouped(known, itemgetter("params_total"))
        for n, own in sorted(sizes.items()):
            loss = np.mean([row["val_loss_by_position"] for row in own], 0)
            # bins even in log position
            edges = np.unique(np.geomspace(1, len(loss) + 1, 18).astype(int)) - 1
            bins = list(zip(edges, edges[1:]))
            x = [(first + last) / 2 * own[0]["block_size"] / len(loss) for first, last in bins]
            y = [loss[first:last].mean() for first, last in bins]
            if figure is None:
                figure, (axes,) = _panels(plt, 1, 5.4, 3.6)
            how = {"lw": 1.8, "label": f"{label(family)} {own[0]['size']}"}
            axes.plot(x, y, color=color, ls=line, **(how if n == max(sizes) else FADED))
    if figure is None:
        return None
    axes.set_xlabel("position in the context (tokens)")
    log_axes(axes, si, number)
    axes.legend(fontsize=8)
    return figure, {}


def draw_choices(plt, study):
    """How alpha moves with each choice: a row for each, a marker and interval a family."""
    counting = study.fits["counting"]
    if not counting:
        return None
    families = in_order(counting)
    groups = {row["choice"]: row["group"] for family in families for row in counting[family]}
    order = list(dict.fromkeys(groups.values()))
    names = sorted(groups, key=lambda name: order.index(groups[name]))
    figure, axes = plt.subplots(figsize=(6.8, 1.2 + 0.27 * len(names) * max(1, len(families) / 2)))
    left, right = 0.01, law.ALPHA_RANGE[1]  # an exponent below 0.01 is none on this scale
    for k, family in enumerate(families):
        color, marker, _, _ = look(family, families)
        axes.plot([], [], color=color, marker=marker, label=label(family))
        for row in counting[family]:
            y = names.index(row["choice"]) + (k - (len(families) - 1) / 2) * 0.56 / len(families)
            if row["alpha_interval"]:  # one without an end goes on to the frame
                low, high = row["alpha_interval"]
                axes.plot([low or left, high or right], [y, y], color=color, lw=1.3, alpha=0.8)
            if row["alpha"] is not None:  # None: on the bound of the search
                at = min(max(row["alpha"], left), right)
                fill = color if row["verdict"] in (None, "identified") else "white"
                how = {"marker": marker, "ms": 5.5, "color": color, "mfc": fill}
                axes.plot(at, y, ls="none", clip_on=False, **how)
    for i in range(1, len(names)):
        if groups[names[i]] != groups[names[i - 1]]:
            axes.axhline(i - 0.5, color="0.7", lw=0.7)
    axes.plot([], [], color="0.3", marker="o", mfc="white", ls="none", label="α not identified")
    axes.set(xlim=(left, right), yticks=range(len(names)), yticklabels=names, xlabel="exponent α")
    axes.set_ylim(len(names) - 0.4, -0.6)
    log_axes(axes, number)
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=min(len(families) + 1, 5), fontsize=8)
    return figure, {"level": 100 * law.LEVEL}


DRAWINGS = {
    "scaling": draw_scaling,
    "curves": draw_curves,
    "efficiency": draw_efficiency,
    "loss_by_position": draw_by_position,
    "alpha_choices": draw_choices,
    "grid": draw_grid,
}
