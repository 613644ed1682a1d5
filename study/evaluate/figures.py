"""Draws what stage 07 measured: skills, in-context copying, the sampler.

A function draws NAME.png and NAME.svg and returns their names; none where nothing was measured.
"""

import math

import numpy as np

from study.evaluate.sampling import MODEL_ITSELF
from study.families import in_order, label
from study.figures import log_axes, look, pyplot, remove, save
from study.fit.answer import saved_of_rows
from study.wording import si

SWEEP_FIGURES = {
    "rate": "valid (level 4)",
    "bar_accuracy": "bar accuracy",
    "rest_bar_share": "rest bars",
    "bar_repetition": "bars repeated",
    "copied_share": "copied characters",
}
SKILLS = {  # of `metrics.skills`, in the order of the figure
    "meter": "bars of the right length",
    "in_key": "notes in the scale of K:",
    "key": "tunes in the key of K:",
    "cadence": "tunes that end on the tonic",
    "repetition": "repeated bars",
    "content": "enough music (level 3)",
    "valid": "valid (level 4)",
    "ended": "ended by the model",
}
NO_SKILL = 0.01  # a skill that no model shows in more than this share has no panel
SHARES = (-0.03, 1.03)  # an axis of shares: 0 and 1 do not lie on the frame
KNOCKED = {  # what is knocked out -> (words, colour)
    "all": ("no head off", "0.75"),
    "best": ("best head off", "#D55E00"),
    "pair": ("best two off", "#CC79A7"),
    "control": ("two others off", "#0072B2"),
}


def draw_sampler(folder, sweep, chosen):
    """Draws what every sampler of a `sweep_table` gives, over the setting that the sweep changes.
    chosen: the sampler in words."""
    plt, rows, real = pyplot(), sweep["rows"], sweep["real"]
    figure, axes = plt.subplots(1, len(SWEEP_FIGURES), figsize=(13, 3.2), sharex=True)
    changed = max(MODEL_ITSELF, key=lambda key: len({row[key] for row in rows}))
    for axis, (key, title) in zip(axes, SWEEP_FIGURES.items()):
        known = [row for row in rows if row[key] is not None]
        if known:
            points = [(row[changed], row[key], row.get(f"{key}_se") or 0) for row in known]
            axis.errorbar(*zip(*points), marker="o", label="samples", capsize=2, color="#0072B2")
        if real[key] is not None:
            axis.axhline(real[key], color="0.4", linewidth=1, label="validation tunes")
        axis.set(title=title, xlabel=changed.replace("_", "-"), ylim=SHARES)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=2)
    title = f"Sweep of the sampler, n = {sweep['n']} a point, bars: one standard error"
    figure.suptitle(f"{title}; chosen: {chosen}")
    return save(figure, folder, "sampler")


def _by_size(found):
    """Returns [(look, parameters, values)] of every family. found: [(model, value or None)]."""
    points = {}
    for model, value in found:
        if value is not None:
            points.setdefault(model["family"], []).append((model["params_total"], value))
    families = in_order(points)
    return [(look(name, families), *zip(*sorted(points[name]))) for name in families]


def draw_skills(folder, skills):
    """Draws musical skills (of `tables.describe_skills`) over model size, beside held-out music and
    the best n-gram."""
    plt, models, best = pyplot(), list(skills["models"].values()), {}
    for key in SKILLS:
        values = [model[key] for model in models if model.get(key) is not None]
        if values:
            best[key] = max(values)
    measures = [key for key in best if best[key] >= NO_SKILL]
    absent = ", ".join(SKILLS[key] for key in best if key not in measures)
    n_panels = max(1, len(measures))
    n_columns = min(4, n_panels)
    n_rows = math.ceil(n_panels / n_columns)
    size = (3.1 * n_columns, 2.6 * n_rows + 0.5)
    figure, axes = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, sharex=True)
    levels, shown = _levels_beside(skills), {}
    for axis, key in zip(axes.flat, measures):
        for family, sizes, values in _by_size((model, model.get(key)) for model in models):
            axis.plot(sizes, values, color=family.color, marker=family.marker, label=family.label)
        for text, level, how in levels:
            if level.get(key) is not None:
                axis.axhline(level[key], label=text, **how)
        axis.set(title=SKILLS[key], ylim=SHARES)
        log_axes(axis, x=si)
        handles, texts = axis.get_legend_handles_labels()
        shown |= dict(zip(texts, handles))
    for axis in axes[-1]:
        axis.set_xlabel("parameters")
    for axis in axes.flat[len(measures) :]:
        axis.axis("off")
    figure.legend(shown.values(), shown, loc="outside lower center", ncol=max(1, len(shown)))
    n = f"n = {skills['n']} samples a model, temperature 1"
    title = f"Which musical skill appears at which size ({n})"
    if absent:
        title += f"\nin no model (below {NO_SKILL:.0%}): {absent}"
    figure.suptitle(title)
    return save(figure, folder, "skills")


def _levels_beside(skills):
    """Returns [(name, skills, looks)] of held-out music, and of the n-gram with the most bars of
    the right length."""
    levels = [("real music", skills["real_music"], {"color": "0.4", "linewidth": 1})]
    ngrams = {name: row for name, row in skills["baselines"].items() if row["meter"] is not None}
    if ngrams:
        name, best = max(ngrams.items(), key=lambda item: item[1]["meter"])
        looks = {"color": "#CC79A7", "linewidth": 1.5, "linestyle": "--"}
        levels.append((f"{name}, {best['copied_share']:.0%} copied", best, looks))
    return levels


def draw_cost_of_control(folder, skills):
    """Draws log2 P(next bar is right) over model size. skills: of `tables.describe_skills`."""
    found = []
    for model in skills["models"].values():
        control = model["control"]
        if control["log2"] is not None:
            found.append((model, (control["log2"], *control["log2_interval"])))
    if not found:
        return remove(folder, "cost_of_control") or []
    figure, axis = pyplot().subplots(figsize=(6.2, 3.4))
    for family, sizes, values in _by_size(found):
        middle, low, high = np.array(values).T
        looks = {"color": family.color, "marker": family.marker, "linestyle": family.line}
        errors = [middle - low, high - middle]
        axis.errorbar(sizes, middle, yerr=errors, capsize=2, label=family.label, **looks)
    axis.axhline(0, color="0.4", linewidth=1, label="real music")
    axis.set(xlabel="parameters", ylabel="log2 P(next bar is right)", title="The cost of control")
    log_axes(axis, x=si)
    axis.legend()
    return save(figure, folder, "cost_of_control")


def draw_repeated_bars(folder, rows):
    """Draws what is saved on a repeated bar over size, a line for each amount of text. rows: of
    `ladder_copying.rows_of`."""
    if not rows:
        return remove(folder, "repeated_bars") or []
    plt, families = pyplot(), in_order({row["family"] for row in rows})
    amounts, width = sorted({row["n_chars_seen"] for row in rows}), 3.9 * len(families)
    figure, axes = plt.subplots(1, len(families), figsize=(width, 3.3), sharey=True, squeeze=False)
    means = sorted(saved_of_rows(rows).items())
    for family, axis in zip(families, axes[0]):
        for i, amount in enumerate(amounts):
            points = [(n, mean) for (name, n, d), mean in means if (name, d) == (family, amount)]
            sizes, saved = np.reshape(points, (-1, 2)).T
            color = plt.get_cmap("viridis")(0.9 * i / max(len(amounts) - 1, 1))
            axis.plot(sizes, saved, "o-", markersize=4, label=si(amount), color=color)
        n_runs = sum(row["family"] == family for row in rows)
        axis.set(xlabel="parameters but embeddings", title=f"{label(family)} (n = {n_runs} runs)")
        log_axes(axis, x=si)
    axes[0][0].set_ylabel("saved on a repeated bar\n(bits per character)")
    axes[0][0].legend(title="characters of text", fontsize=8)
    return save(figure, folder, "repeated_bars")


def draw_heads(folder, models):
    """Draws bits saved on repeated bars with heads knocked out. models: of
    `content.describe_copying`."""
    if not models:
        return remove(folder, "heads") or []
    figure, axis = pyplot().subplots(figsize=(max(5.0, 1.1 * len(models) + 2), 3.4))
    for i, (key, (words, color)) in enumerate(KNOCKED.items()):
        known = [(place, row[key]) for place, row in enumerate(models.values()) if key in row]
        places = [place + 0.2 * (i - 1.5) for place, _ in known]
        axis.bar(places, [row["saved"] for _, row in known], 0.2, color=color, label=words)
        if key == "best":
            for place, (_, row) in zip(places, known):
                axis.annotate(row["heads"][0], (place, max(row["saved"], 0)), ha="center", size=7)
    names = [name.removeprefix("transformer_").replace("_", " ") for name in models]
    axis.set_xticks(range(len(models)), names, fontsize=8)
    axis.axhline(0, color="0.4", linewidth=1)
    axis.set_ylabel("saved on a repeated bar\n(bits per character)")
    axis.set_title("Which heads copy: knocked out one by one (layer.head)")
    axis.legend(fontsize=8)
    return save(figure, folder, "heads")
