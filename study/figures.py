"""One style for every figure of the study, the families' looks, the captions. Matplotlib is loaded
by the first figure: a stage that is up to date should not wait for it."""

import io
import math
from typing import NamedTuple

from study.stages.files import write_bytes

from study.families import FAMILIES, label

STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "savefig.dpi": 150,
    "axes.grid": True,
    "grid.color": "0.9",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}
KINDS = {"png": {"Software": None}, "svg": {"Date": None}}  # format -> metadata left out
LINES = ("-", "--", "-.", ":")  # by place in the table of families
# of Okabe-Ito, for families without a row: a user's table may name any
OTHERS = (("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"))

# captions of part4_outputs/figures in the order of the page; {braces} are filled when drawn
FIGURES = {
    "scaling": (
        "Validation loss against parameters. {runs}.{text} Open markers: runs; filled: means with"
        " the standard deviation over seeds; crosses: runs that are not on the law. Lines: a"
        " N^-alpha + c, dotted beyond the largest size; bands: {level:.0f} % profile interval."
    ),
    "curves": "Loss curves of {n_runs} runs (lowest seed of each size; darker = larger model).",
    "efficiency": (
        "Loss at the end of training against what it cost. {runs}. Device: {devices}. Bars:"
        " standard deviation over seeds."
    ),
    "loss_by_position": (
        "Loss by position in the context, mean over the validation split. Thick: largest size,"
        " thin: smaller sizes."
    ),
    "alpha_choices": (
        "How alpha moves with each choice. Bars: {level:.0f} % intervals (none for the Huber"
        " estimate); open markers: alpha not identified under that choice (not judged for c = 0 and"
        " Huber); no marker: best fit on the bound of the search."
    ),
    "grid": "Loss against parameters for each amount of text, with the joint law of both.",
    "sampler": (
        "The sweep that chose the sampler, prompted with headers of validation tunes. Grey: the"
        " validation tunes themselves."
    ),
    "cost_of_control": (
        "Bar-level rejection sampling: log2 of the probability that the next bar is right after"
        " right bars only, from the free samples of every model; bars: 95 % intervals. At -1 every"
        " second bar has to be drawn again, at 0 none, as in real music."
    ),
    "skills": (
        "Skills by size: unprompted samples of every model. Grey: held-out music of the same"
        " length. Dashed: the n-gram with the most bars of the right length, and the share of its"
        " text that is copied from the training text. A skill below 1 % in every model has no"
        " panel."
    ),
    "repeated_bars": (
        "In-context copying by model size and amount of text: bits per character saved on a"
        " repeated bar, its first occurrence less its second (model ladder, validation split)."
    ),
    "heads": (
        "In-context copying is the work of one or two attention heads: bits per character saved on"
        " a repeated bar with all heads on, without the head whose loss costs most of the saving"
        " (layer.head), without the best two, and without two others that harm the loss as much."
    ),
}


def pyplot():
    """Returns matplotlib.pyplot in the study's style, drawing to files only."""
    import matplotlib

    matplotlib.use("Agg")  # no window, no display needed
    from matplotlib import pyplot as plt

    plt.rcParams.update(STYLE)
    return plt


def save(figure, folder, name):
    """Writes folder/<name>.png and .svg and closes the figure; returns the file names. Two SVGs on
    one page share no ids."""
    plt = pyplot()
    with plt.rc_context({"svg.hashsalt": name}):
        for kind, metadata in KINDS.items():
            data = io.BytesIO()
            figure.savefig(data, format=kind, metadata=metadata)
            figure.set_layout_engine("none")  # the layout stays as the first drawing made it
            write_bytes(folder / f"{name}.{kind}", data.getvalue())
    plt.close(figure)
    return [f"{name}.{kind}" for kind in KINDS]


def remove(folder, name):
    for kind in KINDS:
        (folder / f"{name}.{kind}").unlink(missing_ok=True)


class Look(NamedTuple):
    color: str
    marker: str
    label: str
    line: str


def look(family, among=()):
    """Returns the Look of a family; of one without a row by its place in `among`."""
    names = [*FAMILIES, *(name for name in among if name not in FAMILIES)]
    place = names.index(family)
    color, marker = OTHERS[(place - len(FAMILIES)) % len(OTHERS)]
    if family in FAMILIES:
        color, marker = FAMILIES[family].color, FAMILIES[family].marker
    return Look(color, marker, label(family), LINES[place % len(LINES)])


def log_axes(axes, x=None, y=None):
    """Makes an axis logarithmic where a function value -> label is given (`si`, `number`).

    Labels: 1-2-5, 1-3 or 1 by the number of decades; round values below 0.8.
    """
    from matplotlib import ticker

    for axis, form in ((axes.xaxis, x), (axes.yaxis, y)):
        if form is None:
            continue
        axes.set(**{f"{axis.axis_name}scale": "log"})
        low, high = axis.get_view_interval()
        decades = math.log10(high / low)
        subs = (1,) if decades > 2.5 else (1, 3) if decades > 1.5 else (1, 2, 5)
        if decades > 0.8:
            major, minor = ticker.LogLocator(subs=subs), ticker.LogLocator(subs=range(1, 10))
        else:
            major = ticker.MaxNLocator(7, steps=[1, 2, 2.5, 5, 10])
            minor = ticker.NullLocator()
        axis.set_major_locator(major)
        axis.set_minor_locator(minor)
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _, form=form: form(value)))
        axis.set_minor_formatter(ticker.NullFormatter())
