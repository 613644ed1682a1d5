"""Draws docs/conversion.png: a MIDI file as piano roll, the notes read back from its ABC over it,
and both as music.

Run: python -m benchmarks.picture_conversion MIDI [--bars N] [--out docs/conversion.png]
The picture in the docs shows a Bach chorale of the embedded corpus (data/raw_midi/Bach
Chorales/bwv10.7.mid).
"""

import argparse
import io
import sys
import textwrap
from pathlib import Path

import matplotlib
import symusic

matplotlib.use("Agg")
from study.stages.stage import HERE

import matplotlib.pyplot as plt

from music import notation
from music.abc_text import read_abc
from music.midi_to_abc import convert

COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#7b4b94", "#b8860b", "#444444")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("midi", type=Path)
    parser.add_argument("--bars", type=int, default=8)
    parser.add_argument("--out", type=Path, default=HERE / "docs/conversion.png")
    args = parser.parse_args()
    text, _ = convert(args.midi.read_bytes(), args.midi.stem)
    tune, score = read_abc(text), symusic.Score(str(args.midi))
    bars = tune.voices[0].bars[: args.bars]
    end = float(bars[-1].onset + bars[-1].length)

    figure, (roll, music, words) = plt.subplots(3, 1, figsize=(11, 11), height_ratios=(3, 4.5, 2.5))
    for track in score.tracks:
        for note in [] if track.is_drum else track.notes:
            if note.time < end * score.tpq:
                roll.add_patch(
                    plt.Rectangle(
                        (note.time / score.tpq, note.pitch - 0.5),
                        note.duration / score.tpq,
                        1,
                        facecolor="#cfd8dc",
                        edgecolor="#90a4ae",
                        linewidth=0.8,
                    )
                )
    for number, voice in enumerate(tune.voices):
        for note in voice.notes:
            if note.onset < end:
                roll.plot(
                    [float(note.onset) + 0.06, float(note.onset + note.duration) - 0.06],
                    [note.pitch] * 2,
                    color=COLOURS[number % len(COLOURS)],
                    linewidth=2.4,
                    solid_capstyle="butt",
                )
    for bar in bars:
        roll.axvline(float(bar.onset), color="#bbbbbb", linewidth=0.6, zorder=0)
    roll.set_xlim(0, end)
    roll.set_xlabel("quarter notes")
    roll.set_ylabel("MIDI pitch")
    roll.set_title(
        f"{tune.fields.get('T', args.midi.stem)}: MIDI (grey boxes) and the notes read back from"
        " the ABC (lines, a colour for each voice)",
        fontsize=10,
    )
    svg, problem = notation.engrave(notation.musicxml(tune, args.bars))
    if svg is None:
        sys.exit(f"benchmarks.picture_conversion: no engraving: {problem}")
    music.imshow(plt.imread(io.BytesIO(notation.to_png(svg, 2200))))
    music.axis("off")
    n_lines = 12
    lines = [
        part
        for line in text.splitlines()
        for part in textwrap.wrap(line, 118, break_on_hyphens=False) or [""]
    ]
    words.text(
        0,
        1,
        "\n".join(lines[:n_lines]) + ("\n..." if len(lines) > n_lines else ""),
        family="monospace",
        fontsize=8.5,
        va="top",
    )
    words.axis("off")
    figure.tight_layout()
    args.out.parent.mkdir(exist_ok=True)
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
