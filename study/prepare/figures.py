"""Draws what stage 03 made of the music."""

import numpy as np

from study.figures import pyplot, save
from study.prepare.data_report import shares
from study.prepare.reading import MAX_CHARS


def draw_data(folder, tunes, parts, overlap):
    """Draws data.png and data.svg, six panels; returns the file names. tunes: of reading.py; parts,
    overlap: as in `data_report.statistics`."""
    plt, color = pyplot(), "#0072B2"
    figure, axes = plt.subplots(2, 3, figsize=(13, 7))
    lengths, voices, keys, meters, rests, copied = axes.flat

    def histogram(axis, what, unit, values, bins):
        axis.set(xlabel=what, ylabel=unit)
        axis.hist([value for value in values if value is not None], bins=bins, color=color)

    def bars(axis, what, key, most):
        counts = shares([tune[key] for tune in tunes if tune["is_abc"]], most) or {}
        axis.bar([str(value)[:10] for value in counts], list(counts.values()), color=color)
        axis.set(xlabel=what, ylabel="tunes")
        axis.tick_params(axis="x", rotation=60 if len(counts) > 6 else 0)

    n_chars = [sequence["chars"] for part in parts.values() for sequence in part]
    up_to = np.linspace(0, MAX_CHARS + 1, 51)
    histogram(lengths, "characters per sequence", "sequences", n_chars, up_to)
    bars(voices, "voices", "n_voices", 16)
    bars(keys, "key", "key", 12)
    bars(meters, "meter", "meter", 9)
    rest_shares = [tune["rest_share"] for tune in tunes]
    histogram(rests, "rests: share of the voices' time", "tunes", rest_shares, 40)
    for split, by_width in overlap.items():
        for width, row in by_width.items():
            for key in ("share_of_all_windows", "share_without_repeated_figures"):
                label = f"{split}, {width} characters\n" + key[6:].replace("_", " ")
                copied.barh(label, 100 * row[key], color=color)
    copied.set(xlabel="% of windows found in train")
    figure.suptitle(f"{len(tunes):,} tunes, {sum(n_chars):,} characters")
    return save(figure, folder, "data")
