"""How well stage 03 tells copies of a piece from other music: precision and recall on planted
copies.

Run:    python -m benchmarks.bench_duplicates MIDI_DIR [--pieces 200]
        python -m benchmarks.bench_duplicates --melodies ABC_DIR     pairs that the top voice alone
            joins, by name
Reads:  MIDI files below MIDI_DIR; every copy goes through stage 02's conversion, as a real copy
    would.
Prints: one row per kind of copy: recall at the threshold and the spread of the similarity; then the
pairs found among
        the unaltered pieces, by name, to be judged by ear and eye.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import symusic

from music.midi_to_abc import ConversionError, convert
from music.training_text import training_text
from study.prepare import groups
from study.prepare.reading import read_file, read_tune


def change_notes(score, change):
    """Applies change(track number, {column: array}) -> dict to every pitched track."""
    for i in range(len(score.tracks)):
        track = score.tracks[i]
        if not track.is_drum and len(track.notes):
            notes = change(i, track.notes.numpy())
            track.notes = type(track.notes).from_numpy(
                *(
                    np.ascontiguousarray(notes[column])
                    for column in ("time", "duration", "pitch", "velocity")
                )
            )
    return score


def moved(notes, steps):
    """The notes with their pitches moved by as many semitones."""
    return {**notes, "pitch": np.clip(notes["pitch"] + steps, 0, 127).astype(notes["pitch"].dtype)}


def transposed(score, random):
    lowest = min(n.pitch for t in score.tracks if not t.is_drum for n in t.notes)
    shift = int(random.choice([k for k in (-5, -4, -3, -2, -1, 1, 2, 3, 4, 5) if k > -lowest]))
    return change_notes(score, lambda i, n: moved(n, shift))


def slower(score, random):
    for tempo in score.tempos:
        tempo.mspq = int(tempo.mspq * 1.37)
    return score


def stretched(score, random, factor=2.0):
    return change_notes(
        score,
        lambda i, n: {
            **n,
            "time": (n["time"] * factor).astype(n["time"].dtype),
            "duration": (n["duration"] * factor).astype(n["duration"].dtype),
        },
    )


def off_grid(score, random):
    return stretched(score, random, 1.1)


def thinned(score, random):
    pitched = [i for i, t in enumerate(score.tracks) if not t.is_drum and len(t.notes)]
    if len(pitched) < 2:
        return None
    gone = int(random.choice(pitched))
    score.tracks = [t for i, t in enumerate(score.tracks) if i != gone]
    return score


def altered(score, random):
    def change(i, n):
        hit = random.random(len(n["pitch"])) < 0.05
        move = random.choice([-4, -3, -2, -1, 1, 2, 3, 4], len(hit))
        return moved(n, hit * move)

    return change_notes(score, change)


KINDS = {
    "transposed": transposed,
    "other tempo": slower,
    "notes twice as long": stretched,
    "stretched by 1.1 off the grid": off_grid,
    "one voice removed": thinned,
    "5 % of the notes changed": altered,
}


def read(origin, midi):
    """What stage 03 knows of a MIDI file (bytes); the length of its pieces does not matter here."""
    return read_tune(origin, None, training_text(convert(midi)[0]), max_chars=4999, min_chars=101)


def compare_melodies(folder):
    """Prints the pairs that only the top voice's melody joins, and how alike random pairs of tunes
    are in it."""
    tunes = [
        row
        for path in sorted(folder.rglob("*.abc"))
        for row in read_file(
            (path, path.relative_to(folder).as_posix()), max_chars=4999, min_chars=101
        )
    ]
    tunes = [tune for tune in tunes if tune["n_melody"] >= groups.MIN_SHINGLES]
    melodies = np.stack([tune["melody_signature"] for tune in tunes])
    sizes = np.array([tune["n_melody"] for tune in tunes])
    whole, _ = groups.similar_pairs(
        np.stack([tune["signature"] for tune in tunes]),
        np.array([tune["n_shingles"] for tune in tunes]),
    )
    pairs, likeness = groups.similar_pairs(melodies, sizes, groups.MELODY_MATCH)
    known = set(map(tuple, whole.tolist()))
    for (i, j), value in sorted(zip(pairs.tolist(), likeness), key=lambda row: -row[1]):
        if (i, j) not in known:
            print(f"  {value:.2f}  {tunes[i]['origin']} | {tunes[j]['origin']}")
    several = np.array([(tune["n_voices"] or 1) > 1 for tune in tunes])
    random = np.random.default_rng(0)
    for name, left, right in (
        ("several voices", several, several),
        ("several voices and one", several, ~several),
    ):
        if left.any() and right.any():
            first, second = (random.choice(np.flatnonzero(part), 20_000) for part in (left, right))
            alike = (melodies[first] == melodies[second]).mean(axis=1)[first != second]
            print(
                f"random pairs of {name}: 99.9 % below {np.quantile(alike, 0.999):.3f},"
                f" {(alike >= groups.MELODY_MATCH).sum()} of {len(alike)} from"
                f" {groups.MELODY_MATCH} on"
            )


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pieces", type=int, default=200)
    parser.add_argument(
        "--melodies", action="store_true", help="the folder holds ABC; compare top voices"
    )
    args = parser.parse_args(argv)
    if args.melodies:
        return compare_melodies(args.folder)
    random = np.random.default_rng(1)
    files = sorted(args.folder.rglob("*.mid"))
    files = [files[i] for i in random.permutation(len(files))]
    originals, copies = [], {kind: [] for kind in KINDS}
    for path in files:
        if len(originals) == args.pieces:
            break
        try:
            data = path.read_bytes()
            made = {None: read(path.name, data)}
            for kind, alter in KINDS.items():
                score = alter(symusic.Score.from_midi(data), random)
                made[kind] = score and read(f"{kind}.mid", score.dumps_midi())
        except ConversionError as error:  # a damaged file is not the subject here
            print(f"left out: {path.name}: {str(error)[:90]}", file=sys.stderr)
            continue
        originals.append(made.pop(None))
        for kind, tune in made.items():
            copies[kind].append(tune)
    print(
        f"{len(originals)} pieces; threshold {groups.MATCH}, {groups.N_HASHES} hashes, bands of"
        f" {groups.ROWS}"
    )
    print(
        "| copy | n | recall | same notes | likeness: min | 5 % | median"
        " |\n|---|---|---|---|---|---|---|"
    )
    for kind, found in copies.items():
        rows = [(a, b) for a, b in zip(originals, found) if b]
        hits, likeness, missed = 0, [], []
        for original, copy in rows:
            pairs, _ = groups.similar_pairs(
                np.stack([original["signature"], copy["signature"]]),
                np.array([original["n_shingles"], copy["n_shingles"]]),
            )
            hit = len(pairs) > 0 or original["free"] == copy["free"]
            hits += hit
            likeness.append((original["signature"] == copy["signature"]).mean())
            if not hit:
                missed.append(
                    f"{original['origin']} ({original['n_shingles']} and {copy['n_shingles']}"
                    " shingles)"
                )
        same = sum(a["free"] == b["free"] for a, b in rows)
        print(
            f"| {kind} | {len(rows)} | {hits / len(rows):.3f} | {same / len(rows):.3f} |"
            f" {min(likeness):.2f} | {np.quantile(likeness, 0.05):.2f} |"
            f" {np.median(likeness):.2f} |"
        )
        for name in missed[:8]:
            print(f"missed: {name}", file=sys.stderr)
    signatures = np.stack([tune["signature"] for tune in originals])
    n_shingles = np.array([tune["n_shingles"] for tune in originals])
    pairs, likeness = groups.similar_pairs(signatures, n_shingles)
    n_pairs = len(originals) * (len(originals) - 1) // 2
    print(f"pairs of different files joined: {len(pairs)} of {n_pairs}")
    for (i, j), value in sorted(zip(pairs.tolist(), likeness), key=lambda row: -row[1]):
        print(f"  {value:.2f}  {originals[i]['origin']} | {originals[j]['origin']}")
    every = [
        (signatures[i] == signatures[i + 1 :])[n_shingles[i + 1 :] >= groups.MIN_SHINGLES].mean(
            axis=1
        )
        for i in range(len(originals) - 1)
        if n_shingles[i] >= groups.MIN_SHINGLES
    ]
    every = np.sort(np.concatenate(every))[::-1]
    print(
        f"likeness of all pairs: 99.9 % below {np.quantile(every, 0.999):.3f}; the ten highest: "
        + " ".join(f"{value:.2f}" for value in every[:10])
    )


if __name__ == "__main__":
    main()
