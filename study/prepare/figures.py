"""Draws what stage 03 made of the music."""

from study.figures import pyplot, save


def draw_data(folder, tunes, parts, overlap, max_chars):
    """data.png and data.svg: what the training data consists of, in nine panels; returns the file
    names.

    tunes: as in study/prepare/reading.py; parts: {split: sequences}; overlap: {split: rows of
    `data_report.overlap_by_tune`}.
    """
    import numpy as np

    from study.prepare.data_report import (
        shares,  # here: it loads torch, which figures of other stages need not
    )

    plt, color = pyplot(), "#0072B2"
    figure, axes = plt.subplots(3, 3, figsize=(13, 10))
    panels = iter(axes.flat)

    def histogram(what, values, unit="tunes", bins=40):
        axis, values = next(panels), [value for value in values if value is not None]
        axis.set(xlabel=what, ylabel=unit)
        if values:
            axis.hist(values, bins=bins, color=color)
        else:
            axis.text(
                0.5,
                0.5,
                "none" if any(tune["is_abc"] for tune in tunes) else "not music",
                ha="center",
                transform=axis.transAxes,
            )

    def bars(what, values, most=12):
        axis, counts = next(panels), shares(values, most) or {}
        axis.bar([str(key)[:10] for key in counts], list(counts.values()), color=color)
        axis.set(xlabel=what, ylabel="tunes")
        axis.tick_params(axis="x", rotation=60 if len(counts) > 6 else 0)

    histogram(
        "characters per sequence",
        [s["chars"] for part in parts.values() for s in part],
        "sequences",
        bins=np.linspace(0, max_chars + 1, 51),
    )
    voices = [tune["n_voices"] for tune in tunes if tune["n_voices"] is not None]
    histogram("voices", voices, bins=np.arange(0.5, max(voices, default=1) + 1.5))
    bars("key", [tune["key"] for tune in tunes if tune["is_abc"]])
    bars("meter", [tune["meter"] for tune in tunes if tune["is_abc"]], 9)
    histogram(
        "tempo (quarter notes per minute)",
        [tune["tempo"] for tune in tunes],
        bins=np.linspace(20, 300, 57),
    )
    density = [tune["n_notes"] / tune["quarters"] for tune in tunes if tune["quarters"]]
    histogram(
        "notes per quarter note, all voices",
        density,
        # one odd file would fill the axis
        bins=np.linspace(0, np.quantile(density, 0.99) if density else 1, 41),
    )
    histogram(
        "rests: share of the voices' time",
        [tune["rest_share"] for tune in tunes],
        bins=np.linspace(0, 1, 41),
    )
    histogram(
        "zlib: compressed bytes / bytes, per tune",
        [tune["compressed"] for tune in tunes],
        bins=np.linspace(0, 1, 41),
    )
    axis = next(panels)
    for split, line in (("val", "#E69F00"), ("test", "#009E73")):
        shared = np.sort([row[0] for row in overlap[split]])
        axis.step(
            shared,
            np.arange(1, len(shared) + 1) / max(1, len(shared)),
            where="post",
            color=line,
            label=split,
        )
    axis.set(
        xlabel="share of a tune's 32-character windows found in train",
        ylabel="share of tunes",
        xlim=(0, 1),
        ylim=(0, 1.02),
    )
    axis.legend(loc="lower right")
    figure.suptitle(
        f"{len(tunes):,} tunes, {sum(s['chars'] for part in parts.values() for s in part):,}"
        " characters"
    )
    return save(figure, folder, "data")
