"""One style for every figure of the study, the families' looks, and the list of figures with their captions.

A figure is drawn by a function here (or, for the fits, in `study/figures_scaling.py`: those need the fits' mathematics,
which a stage that draws its data or its samples should not load), and written by `save` as PNG and SVG whose bytes
depend on nothing but what is shown. matplotlib is loaded by the first figure, not by the import of this file: a stage
that is up to date should not wait for it.
"""

import io
import itertools
import math
from typing import NamedTuple

from study.families import FAMILIES
from study.stage import write_bytes

STYLE = {
    "font.size": 9, "axes.titlesize": 10, "lines.linewidth": 1.6, "legend.frameon": False, "savefig.dpi": 150,
    "axes.grid": True, "grid.color": "0.9", "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "figure.constrained_layout.use": True,
}
KINDS = ("png", "svg")
LINES = ("-", "--", "-.", ":")  # by place in the table of families: told apart without colour too
# Okabe-Ito colours that are left for families without a row (a user's table may name any)
OTHER_COLORS = ("#CC79A7", "#E69F00", "#56B4E9")
OTHER_MARKERS = "DvP"

# Every figure of part4_outputs/figures in the order of the page. What stands in {braces} is known only when a figure
# is drawn; the function that draws it fills it in, and fits.json keeps the caption as it was filled.
FIGURES = {
    "scaling": "Validation loss against parameters. {runs}.{text} Open marks: runs; filled: means with the standard "
               "deviation over seeds where there are several; crosses: runs that are not on the law. Lines: a N^-alpha "
               "+ c, dotted beyond the largest size (none where the best exponent lies on the bound of the search); "
               "bands: {level:.0f} % profile interval of the curve (cut off at the frame where it is wider).",
    "curves": "Loss curves of {n_runs} runs (lowest seed of each size; darker = larger model).",
    "efficiency": "Loss at the end of training against what it cost. {runs}. Device: {devices}. Bars: standard "
                  "deviation over seeds where there are several.",
    "loss_by_position": "Loss by position in the context, mean over the validation split. Thick: largest size, thin: "
                        "smaller sizes. Right: what the far context is worth to each size.",
    "residuals": "Residuals of the three forms, bars: standard deviation over seeds where there are several. Grey: "
                 "standard deviation of one run as used for the intervals.",
    "alpha_choices": "How alpha moves with each choice. Bars: {level:.0f} % intervals (none for the Huber estimate); "
                     "open marks: alpha not identified under that choice (not judged for c = 0 and Huber); no mark: "
                     "best fit on the bound of the search.",
    "alpha_cut": "How alpha moves with the smallest size that is fitted, {level:.0f} % intervals.",
    "plane": "Loss against parameters for each amount of text, with the joint law of both.",
    "plane_choices": "What moves the exponents of the joint law: {level:.0f} % intervals under each choice. Open "
                     "marks: the choice does not count, the runs left do not hold the exponents or reject it. Shaded: what is "
                     "quoted, the interval over all choices that count.",
    "collapse": "Loss curves over the loss at their end. Larger models (lighter) have more left to learn; dashed: a "
                "size that is more than {most:.0f} % apart from the drift of the others, a sign of a badly tuned rate.",
    "joint_region": "Joint region of alpha and c: 50 % (dark) and 95 % (light), cross: best fit. Alpha and c move "
                    "together: neither has a meaning without the other.",
    "frontier": "Compute-optimal model and data from the joint law, {band} % bootstrap bands; points: the runs it was "
                "fitted to. Where no points are near, it is an extrapolation.",
    "sampler": "The sweep that chose the sampler, prompted with headers of validation tunes. Grey: the validation "
               "tunes themselves.",
    "cost_of_control": "What a right bar costs: log2 of the probability that the next bar is right after nothing but "
                       "right ones, from the free samples of every model; bars: 95 % intervals. At -1 every second bar "
                       "has to be drawn again, at 0 none, as in real music. Where every tune fails the rate of valid "
                       "tunes is 0; this still tells the models apart.",
    "ladder": "Share of texts that reach each level of validity: real music, the model, n-grams (with the share of "
              "their text that is copied), random text.",
    "skills": "Which skill appears at which size: unprompted samples of every model. Grey: held-out music under the "
              "same length limit. Dashed: the n-gram with the most bars of the right length, and the share of its text "
              "that is copied from the training text. A skill below 1 % in every model has no panel.",
    "counting": "Who counts bars. Left: bars of the right length in unprompted samples, against validation loss. "
                "Middle: how well a linear probe reads the quarter notes that are left in the bar off each layer, on "
                "held-out tunes, from the embedding to the last layer (thick: largest size). Right: the best layer of "
                "each model. Dashed: what the newest eight characters say.",
    "repetition": "When does a model learn to repeat? Bits per character of validation bars that come back exactly in "
                  "their voice: dashed at their first occurrence, solid at the second. Star: the best model, whose "
                  "training was longer. A model that only knows what bars are like pays twice the same.",
    "looking_back": "Who learns to look back, and when: what a model of the ladder saves on a bar that it has heard before, "
                    "by its size and the amount of text (bits per character, validation split).",
    "best_by_position": "Surprisal by position in the context: what the best model gains from having read more of the "
                        "tune.",
}


# ---------------------------------------------------------------- drawing and writing

def pyplot():
    """matplotlib.pyplot in the study's style, drawing to files only (Agg: no window, no display needed)."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    plt.rcParams.update(STYLE)
    return plt


def save(figure, folder, name):
    """Writes folder/<name>.png and .svg and closes the figure; returns the file names.

    The same figure gives the same bytes: no date, no version of matplotlib, and the ids inside the SVG are hashed with
    the figure's name (without it they are random; with one for all, two figures on one page would share ids).
    """
    plt = pyplot()
    with plt.rc_context({"svg.hashsalt": name}):
        for kind in KINDS:
            data = io.BytesIO()
            figure.savefig(data, format=kind, metadata={"Software": None} if kind == "png" else {"Date": None})
            figure.set_layout_engine("none")  # the layout stays as the first drawing made it
            write_bytes(folder / f"{name}.{kind}", data.getvalue())
    plt.close(figure)
    return [f"{name}.{kind}" for kind in KINDS]


def remove(folder, name):
    """Deletes a figure that an earlier run drew and these data do not allow: it may not stay beside newer numbers."""
    for kind in KINDS:
        (folder / f"{name}.{kind}").unlink(missing_ok=True)


# ---------------------------------------------------------------- looks

class Look(NamedTuple):
    """How a family is drawn."""

    color: str
    marker: str
    label: str
    line: str


def look(family, among=()):
    """The look of a family; one without a row in the table gets what is left, by its place in `among` (those drawn)."""
    if family in FAMILIES:
        row = FAMILIES[family]
        return Look(row.color, row.marker, row.label, LINES[list(FAMILIES).index(family) % len(LINES)])
    strangers = [name for name in among if name not in FAMILIES]
    place = strangers.index(family) if family in strangers else 0
    return Look(OTHER_COLORS[place % len(OTHER_COLORS)], OTHER_MARKERS[place % len(OTHER_MARKERS)], family,
                LINES[(len(FAMILIES) + place) % len(LINES)])


def label(family):
    """The name of a family in text."""
    return look(family).label


def in_order(families):
    """Names of families in the order of the table, then those without a row, by name."""
    rows = list(FAMILIES)
    return sorted(families, key=lambda name: (rows.index(name) if name in rows else len(rows), name))


# ---------------------------------------------------------------- axes and numbers on them

def log_axes(axes, x=None, y=None):
    """Makes an axis logarithmic where a function value -> label is given (`si`, `number`).

    matplotlib's own labels of such an axis are powers of ten, none at all on an axis that spans less than a decade (as
    losses do), or so many that they overlap. Here: 1-2-5 or 1-3 or 1 by the number of decades, round values below 0.8.
    """
    from matplotlib import ticker
    for name, axis, form in (("x", axes.xaxis, x), ("y", axes.yaxis, y)):
        if form is None:
            continue
        axes.set(**{f"{name}scale": "log"})
        low, high = axes.get_xlim() if name == "x" else axes.get_ylim()
        decades = math.log10(high / low)
        subs = (1,) if decades > 2.5 else (1, 3) if decades > 1.5 else (1, 2, 5)
        wide = decades > 0.8
        axis.set_major_locator(ticker.LogLocator(subs=subs) if wide else
                               ticker.MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _, form=form: form(value)))
        axis.set_minor_locator(ticker.LogLocator(subs=tuple(range(1, 10))) if wide else ticker.NullLocator())
        axis.set_minor_formatter(ticker.NullFormatter())


def si(value):
    """Three digits with k, M, G, T or P: 137792 -> "138k"."""
    if not 1e-3 <= value < 1e18:
        return f"{value:.3g}"
    for limit, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def number(value):
    """Three digits: 1.2396 -> "1.24"."""
    return f"{value:.3g}"


# ---------------------------------------------------------------- stage 03: the training data

def draw_data(folder, tunes, parts, overlap, max_chars):
    """data.png and data.svg: what the training data consists of, in nine panels; returns the file names.

    tunes: as in study/reading.py; parts: {split: sequences}; overlap: {split: rows of `data_report.overlap_by_tune`}.
    """
    import numpy as np
    from study.data_report import shares  # here: it loads torch, which figures of other stages need not

    plt, color = pyplot(), "#0072B2"
    figure, axes = plt.subplots(3, 3, figsize=(13, 10))
    panels = iter(axes.flat)

    def histogram(what, values, unit="tunes", bins=40):
        axis, values = next(panels), [value for value in values if value is not None]
        axis.set(xlabel=what, ylabel=unit)
        if values:
            axis.hist(values, bins=bins, color=color)
        else:
            axis.text(0.5, 0.5, "none" if any(tune["is_abc"] for tune in tunes) else "not music", ha="center",
                      transform=axis.transAxes)

    def bars(what, values, most=12):
        axis, counts = next(panels), shares(values, most) or {}
        axis.bar([str(key)[:10] for key in counts], list(counts.values()), color=color)
        axis.set(xlabel=what, ylabel="tunes")
        axis.tick_params(axis="x", rotation=60 if len(counts) > 6 else 0)

    histogram("characters per sequence", [s["chars"] for part in parts.values() for s in part], "sequences",
              bins=np.linspace(0, max_chars + 1, 51))
    voices = [tune["n_voices"] for tune in tunes if tune["n_voices"] is not None]
    histogram("voices", voices, bins=np.arange(0.5, max(voices, default=1) + 1.5))
    bars("key", [tune["key"] for tune in tunes if tune["is_abc"]])
    bars("meter", [tune["meter"] for tune in tunes if tune["is_abc"]], 9)
    histogram("tempo (quarter notes per minute)", [tune["tempo"] for tune in tunes], bins=np.linspace(20, 300, 57))
    density = [tune["n_notes"] / tune["quarters"] for tune in tunes if tune["quarters"]]
    histogram("notes per quarter note, all voices", density,
              bins=np.linspace(0, np.quantile(density, 0.99) if density else 1, 41))  # one odd file would fill the axis
    histogram("rests: share of the voices' time", [tune["rest_share"] for tune in tunes], bins=np.linspace(0, 1, 41))
    histogram("zlib: compressed bytes / bytes, per tune", [tune["compressed"] for tune in tunes],
              bins=np.linspace(0, 1, 41))
    axis = next(panels)
    for split, line in (("val", "#E69F00"), ("test", "#009E73")):
        shared = np.sort([row[0] for row in overlap[split]])
        axis.step(shared, np.arange(1, len(shared) + 1) / max(1, len(shared)), where="post", color=line, label=split)
    axis.set(xlabel="share of a tune's 32-character windows found in train", ylabel="share of tunes", xlim=(0, 1),
             ylim=(0, 1.02))
    axis.legend(loc="lower right")
    figure.suptitle(f"{len(tunes):,} tunes, {sum(s['chars'] for part in parts.values() for s in part):,} characters")
    return save(figure, folder, "data")


# ---------------------------------------------------------------- stages 04 and 05: the learning-rate sweep

def draw_sweeps(swept, folder, name):
    """Loss against learning rate, a panel for each family and optimizer, a line for each size, a star at its best;
    returns the file names. swept: the content of docs/lr_sweep.json."""
    plt = pyplot()
    from matplotlib.ticker import NullFormatter
    panels = [(family, optimizer) for family in in_order(swept) for optimizer in ("muon", "adamw")
              if any(optimizer in outcomes for outcomes in swept[family].values())]
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.8), sharex=True, sharey=True,
                                squeeze=False)
    for axis, (family, optimizer) in zip(axes[0], panels):
        for size, outcomes in swept[family].items():
            points = [(run["learning_rate"], run["val_nats_per_char"])
                      for run in outcomes.get(optimizer, {}).get("runs", ()) if run["val_nats_per_char"] is not None]
            if points:
                axis.plot(*zip(*points), "o-", label=size)
                axis.plot(*min(points, key=lambda point: point[1]), "k*", markersize=11)
        axis.set(xscale="log", xlabel="peak learning rate", title=f"{label(family)}, {optimizer}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.legend()
    axes[0][0].set_ylabel("validation, nats per character")
    return save(figure, folder, name)


# ---------------------------------------------------------------- stage 07: the sampler, validity, skills

SWEEP_FIGURES = {"rate": "valid (level 4)", "bar_accuracy": "bar accuracy", "rest_bar_share": "rest bars",
                 "bar_repetition": "bars repeated", "copied_share": "copied characters"}
SKILLS = {  # of `metrics.skills`, in the order of the figure
    "meter": "bars of the right length", "in_key": "notes in the scale of K:", "key": "tunes in the key of K:",
    "cadence": "tunes that end on the tonic", "repetition": "bars heard before", "content": "enough music (level 3)",
    "valid": "valid (level 4)", "ended": "ended by the model"}
NO_SKILL = 0.01  # a skill that no model shows in more than this share has no panel: a line of zeros says nothing
LADDER_COLORS = {"real": "0.2", "model": "#0072B2", "sampler": "#56B4E9"}  # by kind of row; n-grams have their own ...
NGRAM_COLORS = ("#CC79A7", "#D55E00", "#E69F00", "#009E73", "#F0E442")  # ... the longest first, other floors are grey
SHARES = (-0.03, 1.03)  # an axis of shares: 0 and 1 do not lie on the frame


def draw_sampler(folder, sweep, chosen):
    """sampler.png and .svg: what every sampler of the sweep gives, over the setting that the sweep changes; returns the
    file names. sweep: as from `evaluation.sweep_table`; chosen: the sampler taken, in words."""
    plt, rows = pyplot(), sweep["rows"]
    figure, axes = plt.subplots(1, len(SWEEP_FIGURES), figsize=(13, 3.2), sharex=True)
    changed = max(("temperature", "top_k", "top_p", "min_p"), key=lambda key: len({row[key] for row in rows}))
    for axis, (key, title) in zip(axes, SWEEP_FIGURES.items()):
        points = [(row[changed], row[key], row.get(f"{key}_se") or 0) for row in rows if row[key] is not None]
        if points:
            axis.errorbar(*zip(*points), marker="o", label="samples", capsize=2, color="#0072B2")
        if sweep["real"].get(key) is not None:
            axis.axhline(sweep["real"][key], color="0.4", linewidth=1, label="validation tunes")
        axis.set(title=title, xlabel=changed.replace("_", "-"), ylim=SHARES)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=2)
    figure.suptitle(f"Sweep of the sampler, n = {sweep['n']} a point, bars: one standard error; chosen: {chosen}")
    return save(figure, folder, "sampler")


def draw_ladder(folder, rows):
    """ladder.png and .svg: share of texts that reach each level of validity; returns the file names.

    rows: `samples.ladder` of RESULTS.json: real music, the model, n-grams with what they copied, and random text."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(8.5, 3.6))
    levels = list(rows[0]["level_rates"])
    steps, colors = range(1, len(levels) + 1), itertools.cycle(NGRAM_COLORS)
    for i, row in enumerate(rows):
        stands_out = row["kind"] in ("model", "real")
        copied = row.get("copied_share") if row["kind"] == "ngram" else None
        text = f"{row['name']} (n = {row['n']}" + (f", {copied:.0%} copied)" if copied is not None else ")")
        axis.plot(steps, [row["level_rates"][level] for level in levels], marker="osD^vPX*"[i % 8], label=text,
                  linewidth=2 if stands_out else 1, linestyle="-" if stands_out else "--",
                  color=LADDER_COLORS.get(row["kind"]) or (next(colors) if row["kind"] == "ngram" else "0.65"))
    axis.set(xticks=steps, xticklabels=[f"{i} {name}" for i, name in zip(steps, levels)], ylim=SHARES,
             ylabel="share of texts", title="Validity, level by level")
    figure.legend(fontsize=8, loc="outside right center")
    return save(figure, folder, "ladder")


def draw_skills(folder, skills):
    """skills.png and .svg: musical skills over model size, a line for each family, the levels of held-out music and of
    the best n-gram as horizontal ones; returns the file names. skills: as in RESULTS.json."""
    plt, models = pyplot(), list(skills["models"].values())
    known = [key for key in SKILLS if any(model.get(key) is not None for model in models)]
    absent = [key for key in known if all((model.get(key) or 0) < NO_SKILL for model in models)]
    measures = [key for key in known if key not in absent]
    n_columns = min(4, max(1, len(measures)))
    n_rows = max(1, -(-len(measures) // n_columns))
    figure, axes = plt.subplots(n_rows, n_columns, figsize=(3.1 * n_columns, 2.6 * n_rows + 0.5), squeeze=False,
                                sharex=True)
    families, levels = in_order({model["family"] for model in models}), _levels_beside(skills)
    for axis, key in zip(axes.flat, measures):
        for family in families:
            points = sorted((model["params_total"], model[key]) for model in models
                            if model["family"] == family and model.get(key) is not None)
            shown = look(family, families)
            axis.plot(*zip(*points), color=shown.color, marker=shown.marker, label=shown.label) if points else None
        for text, level, how in levels:
            if level.get(key) is not None:
                axis.axhline(level[key], label=text, **how)
        axis.set(title=SKILLS[key], ylim=SHARES)
        log_axes(axis, x=si)
    for axis in axes[-1]:
        axis.set_xlabel("parameters")
    for axis in list(axes.flat)[len(measures):]:
        axis.axis("off")
    shown = {text: handle for axis in axes.flat for handle, text in zip(*axis.get_legend_handles_labels())}
    figure.legend(shown.values(), shown, loc="outside lower center", ncol=max(1, len(shown)))
    title = f"Which musical skill appears at which size (n = {skills['n']} samples a model, temperature 1)"
    figure.suptitle(title + (f"\nin no model (below {NO_SKILL:.0%}): {', '.join(SKILLS[key] for key in absent)}"
                             if absent else ""))
    return save(figure, folder, "skills")


def _levels_beside(skills):
    """[(name, skills, looks)] of what the models stand beside: held-out music, and the n-gram with the most bars of the
    right length. One n-gram in all panels: which share is the better one is plain for bars only."""
    levels = [("real music", skills.get("real_music") or {}, {"color": "0.4", "linewidth": 1})]
    floors = {name: row for name, row in (skills.get("floors") or {}).items() if row.get("meter") is not None}
    if floors:
        name = max(floors, key=lambda name: floors[name]["meter"])
        copied = floors[name].get("copied_share")
        levels.append((f"{name}{'' if copied is None else f', {copied:.0%} copied'}", floors[name],
                       {"color": NGRAM_COLORS[0], "linewidth": 1.5, "linestyle": "--"}))
    return levels


def draw_counting(folder, skills):
    """counting.png and .svg: bars of the right length against loss, and what a probe finds of the rest of the bar in
    the layers of each model, by depth and size; returns the file names. skills: as in RESULTS.json."""
    plt, models = pyplot(), sorted(skills["models"].values(), key=lambda model: model["params_total"])
    figure, (bars, depth, size) = plt.subplots(1, 3, figsize=(11, 3.4))
    families = in_order({model["family"] for model in models})
    for family in families:
        shown, own = look(family, families), [model for model in models if model["family"] == family]
        how = {"color": shown.color, "marker": shown.marker}
        points = sorted((model["val_nats_per_char"], model["meter"]) for model in own if model["meter"] is not None)
        bars.plot(*zip(*points), label=shown.label, **how) if points else None
        probed = [(model["params_total"], model["bar_left"]["layers"]) for model in own
                  if (model["bar_left"] or {}).get("layers")]
        for n_parameters, layers in probed:
            depth.plot([i / (len(layers) - 1) for i in range(len(layers))], layers, ms=3,
                       lw=1.8 if n_parameters == probed[-1][0] else 0.7, **how)
        size.plot([n for n, _ in probed], [max(layers) for _, layers in probed], **how) if probed else None
    newest = next((model["bar_left"]["newest"] for model in models if (model["bar_left"] or {}).get("layers")), None)
    for axis in (depth, size) if newest is not None else ():
        axis.axhline(newest, color="0.4", ls="--", lw=1)
    bars.set(xlabel="validation loss, nats per character", ylabel="bars of the right length", ylim=SHARES)
    depth.set(xlabel="depth (0: embedding, 1: last layer)", ylabel="R² of what is left of the bar", ylim=(-0.05, 1.03))
    size.set(xlabel="parameters", ylabel="R², best layer", ylim=(-0.05, 1.03))
    log_axes(size, x=si)
    figure.legend(*bars.get_legend_handles_labels(), loc="outside lower center", ncol=max(1, len(families)))
    return save(figure, folder, "counting")


def _by_size(skills, measure, *keys):
    """[(look, parameters, values of each key)] of every family, over its models by size: those of which a measure found
    something (the first key is not None)."""
    models = [model for model in skills["models"].values() if (model.get(measure) or {}).get(keys[0]) is not None]
    families = in_order({model["family"] for model in models})
    return [(look(family, families), *zip(*sorted((model["params_total"], *(model[measure][key] for key in keys))
                                                  for model in models if model["family"] == family)))
            for family in families]


def draw_cost_of_control(folder, skills):
    """cost_of_control.png and .svg: log2 P(next bar is right) over model size; returns the file names, none where no
    model has a right bar."""
    curves = _by_size(skills, "control", "log2", "log2_interval")
    if not curves:
        return remove(folder, "cost_of_control") or []
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(6.2, 3.4))
    for shown, sizes, middle, intervals in curves:
        low, high = zip(*intervals)
        axis.errorbar(sizes, middle, yerr=[[m - a for m, a in zip(middle, low)], [b - m for m, b in zip(middle, high)]],
                      color=shown.color, marker=shown.marker, linestyle=shown.line, capsize=2, label=shown.label)
    axis.axhline(0, color="0.4", linewidth=1, label="real music")
    axis.set(xlabel="parameters", ylabel="log2 P(next bar is right)", title="The cost of control")
    log_axes(axis, x=si)
    axis.legend()
    return save(figure, folder, "cost_of_control")


def draw_repetition(folder, skills):
    """repetition.png and .svg: bits of bars at their first and second occurrence over model size; returns the file
    names, none where nothing comes back."""
    curves = _by_size(skills, "repeats", "first", "second")
    if not curves:
        return remove(folder, "repetition") or []
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(6.2, 3.4))
    for shown, sizes, first, second in curves:
        axis.plot(sizes, first, color=shown.color, marker=shown.marker, linestyle="--", fillstyle="none",
                  label=f"{shown.label}, first time")
        axis.plot(sizes, second, color=shown.color, marker=shown.marker, label=f"{shown.label}, second time")
    best = skills.get("best_model") or {}
    if (best.get("repeats") or {}).get("first") is not None:
        color = look(best["family"]).color
        for key, fill in (("first", "none"), ("second", "full")):
            axis.plot(best["params_total"], best["repeats"][key], "*", color=color, markersize=11, fillstyle=fill,
                      label=f"best model, {key} time")
    axis.set(xlabel="parameters", ylabel="bits per character", title="Bars that come back")
    log_axes(axis, x=si)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return save(figure, folder, "repetition")


def draw_looking_back(folder, rows):
    """looking_back.png and .svg: what is saved on a bar heard before against size, a panel for each family and a line for
    each amount of text; returns the file names, none without rows. rows: of `new_bars.rows_of`."""
    if not rows:
        return remove(folder, "looking_back") or []
    families, amounts, plt = in_order({row["family"] for row in rows}), sorted({row["n_chars_seen"] for row in rows}), pyplot()
    figure, axes = plt.subplots(1, len(families), figsize=(3.9 * len(families), 3.3), sharey=True, squeeze=False)
    for family, axis in zip(families, axes[0]):
        own = [row for row in rows if row["family"] == family]
        for i, amount in enumerate(amounts):
            saved = {}
            for row in own:
                if row["n_chars_seen"] == amount:
                    saved.setdefault(row["params_non_embedding"], []).append(row["saved"])
            axis.plot(sorted(saved), [sum(saved[n]) / len(saved[n]) for n in sorted(saved)], marker="o", markersize=4,
                      label=si(amount), color=plt.get_cmap("viridis")(0.9 * i / max(len(amounts) - 1, 1)))
        axis.set(xlabel="parameters but embeddings", title=f"{label(family)} (n = {len(own)} runs)")
        log_axes(axis, x=si)
    axes[0][0].set_ylabel("saved on a bar heard before\n(bits per character)")
    axes[0][0].legend(title="characters of text", fontsize=8)
    return save(figure, folder, "looking_back")


def draw_best_by_position(folder, losses, context):
    """best_by_position.png and .svg: surprisal of the best model over its context; returns the file names.

    losses: nats per character in bins of equal width; context: tokens that the model can see."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(6.2, 3))
    width = context / len(losses)
    axis.plot([(i + 0.5) * width for i in range(len(losses))],
              [math.nan if loss is None else loss / math.log(2) for loss in losses], color="#0072B2")
    axis.set(xlabel="position in the context, tokens", ylabel="bits per character")
    return save(figure, folder, "best_by_position")
