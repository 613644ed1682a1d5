"""Stage 03: ABC tunes become training text: groups of the same song, leak-free splits, sequences, tokens, baselines.

Reads:  data/abc_notation/**/*.abc (stage 02), or --abc DIR (.abc files, tunebooks), or --from-splits DIR (ready text)
Writes: data/{train,val,test}.txt             tunebooks: sequences of 101 to 4,999 characters, an empty line between
        data/tokenizer.pkl                    vocabulary: the characters of train.txt
        data/{train,val,test}_tokens.npy      1-D, smallest integer type: BEGIN sequence END BEGIN sequence END ...
        data/{train,val,test}_sequences.tsv   where each comes from: file, group, piece, first bar, place in the tokens
        data/baselines.json                   uniform, unigram, n-gram, xz, bz2: bits per character on val and test
        data/stats.json, data/figures/data.png|svg   duplicates, filters, lengths, music, overlap with train
Run:    python 03_tokenize_split.py [--limit-chars N] [--collections NAME,NAME] [--holdout FILE] [--abc DIR] ...
Prints last: tunes, groups, what was left out, characters per split, vocabulary, best n-gram, worst overlap with train.

Which split a tune lands in depends on its group (see groups.py) and the seed alone; the bytes of all files do not
depend on the number of workers or the order of files on disk.
"""

import hashlib
import multiprocessing
import os
import re
import signal
import tempfile
import zlib
from collections import Counter
from pathlib import Path

# first of all: from here on Ctrl-C shows no traceback, however long the rest takes to load
from study.stage import TEMPORARY, Stage, atomic, cpu_count, fail, file_digest, progress, resolve_root, run, stage_parser, tree_files, \
    value_digest, write_json

import numpy as np

from music import abc_text
from study import baselines
from study import groups
from common import BEGIN, END, Tokenizer

ME = "03_tokenize_split.py"
SPLITS = ("train", "val", "test")
MIN_CHARS, MAX_CHARS = 101, 4999  # of a sequence: shorter ones are little more than a header
MIN_NOTES = 16                    # of a tune: the least that `check_abc` calls music
MAX_REST_SHARE = 0.95             # of the time of a tune's voices: beyond it a tune teaches only how to write rests
KEPT_FIELDS = "MLQK"              # of a tune's header, in this order; X: comes first and is always 1
TEXT_FIELDS = "ABCDFGHNORSTUWXZmrsw+"  # lines in a tune that hold no music
N_WORST = 10                      # tunes with the largest overlap that stats.json names
JOB_BYTES = 1 << 18               # of ready-made text per pool job


# ---------------------------------------------------------------- tunes

def split_tunes(text):
    """Texts of the tunes of a tunebook: from each `X:` line to the next or to an empty line; without `X:` lines, the
    parts between empty lines."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
    if re.search(r"(?m)^X:", text):
        parts = [re.split(r"\n[ \t]*\n", part.strip("\n"))[0] for part in re.split(r"(?m)^(?=X:)", text)
                 if part.startswith("X:")]
    else:
        parts = re.split(r"\n[ \t]*\n", text)
    return [part.strip("\n") + "\n" for part in parts if part.strip()]


def training_text(raw):
    """A tune as it enters the training text: `X:1`, M: L: Q: K:, then its music; titles, words and comments are gone.

    >>> training_text("X:7\\nT:Air\\nQ:1/4=90\\nM:3/4\\nL:1/8\\nK:G\\nGAB|c3|\\nw:la la la\\n")
    'X:1\\nM:3/4\\nL:1/8\\nQ:1/4=90\\nK:G\\nGAB|c3|\\n'
    """
    rows = iter(raw.splitlines())
    header, voices, music = {}, [], []
    for row in rows:
        row = row.split("%")[0].rstrip()
        if row[1:2] == ":" and row[0] in KEPT_FIELDS:
            header[row[0]] = row
        elif row[:2] == "V:":
            voices.append(row)
        if row[:2] == "K:":
            break
    for row in rows:
        row = row.split("%")[0].rstrip()
        if row and not (row[1:2] == ":" and row[0] in TEXT_FIELDS):
            music.append(row)
    fields = [header[field] for field in KEPT_FIELDS[:-1] if field in header]
    return "\n".join(["X:1", *fields, *voices, header.get("K", "K:C"), *music]) + "\n"


def cut_lines(text):
    """Pieces of a text that is not read as ABC: cut at line ends (too long a line: at a blank), evenly sized."""
    lines = []
    for line in text.splitlines(keepends=True):
        while len(line) > MAX_CHARS - 1:
            at = line.rfind(" ", MAX_CHARS // 2, MAX_CHARS - 1) + 1 or MAX_CHARS - 1
            lines.append(line[:at] + "\n")
            line = line[at:]
        lines.append(line)
    for n_pieces in range(-(-len(text) // MAX_CHARS), len(lines) + 1):
        pieces = [""]
        for line in lines:
            if pieces[-1] and len(pieces[-1]) + len(line) / 2 > len(text) / n_pieces:
                pieces.append("")
            pieces[-1] += line
        if max(map(len, pieces)) <= MAX_CHARS:
            break
    return pieces if max(map(len, pieces)) <= MAX_CHARS else lines


def cut(text):
    """[(bars before the piece, piece)] of a text; the number of bars is None where the text is not read as ABC."""
    if len(text) <= MAX_CHARS:
        return [(0, text)]
    try:
        pieces = abc_text.cut_tune(text, MAX_CHARS, MIN_CHARS)
    except abc_text.AbcError:
        return [(None, piece) for piece in cut_lines(text)]
    return [(bar, part) for bar, piece in pieces
            for part in (cut_lines(piece) if len(piece) > MAX_CHARS else [piece])]


def guess_voices(text):
    """Letters and octave marks of a text that the strict reader refuses, as one voice of equal notes: enough to
    recognise a tune."""
    music = re.sub(r'(?m)^[A-Za-z]:.*$|"[^"]*"|![^!]*!|\[[A-Za-z]:[^\]]*\]', "", text)
    pitches = [(60, 62, 64, 65, 67, 69, 71)["CDEFGAB".index(letter.upper())] + 12 * letter.islower()
               + 12 * (marks.count("'") - marks.count(",")) for letter, marks in re.findall("([A-Ga-g])([,']*)", music)]
    n = len(pitches)
    return [(np.arange(n), np.ones(n, np.int64), np.array(pitches, dtype=np.int64))] if n else []


def rest_share(tune, voices):
    """Share of the time of all voices in which they rest; 1 for a tune without notes."""
    span = max((sum(float(bar.length) for bar in voice.bars) for voice in tune.voices), default=0)
    sounding = 0
    for onsets, durations, _ in voices:
        starts, index = np.unique(onsets, return_index=True)
        ends = np.minimum(starts + durations[index], np.append(starts[1:], 2**62))
        sounding += float((ends - starts).sum()) / abc_text.TICKS
    total = span * len(tune.voices)
    return max(0.0, 1 - sounding / total) if total else 1.0


def read_tune(origin, name, text):
    """What the stage needs to know of a tune, as a dict: digests, fingerprint, music, pieces [(first bar, text)].

    Musical values are None where the strict reader refuses the text, `is_abc` says whether it looks like ABC at all.
    """
    fields = dict(reversed(re.findall(r"(?m)^([MK]):[ \t]*(\S.*)$", text)))
    is_abc = "K" in fields and text.startswith("X:")
    found = {"origin": origin, "name": name, "is_abc": is_abc, "chars": len(text), "pieces": cut(text),
             "compressed": len(zlib.compress(text.encode(), 9)) / len(text.encode()), "rest_share": None,
             "tempo": None, "n_bars": None, "quarters": None, "n_voices": None, "key": fields.get("K"),
             "meter": fields.get("M")}
    try:
        tune = abc_text.read_abc(text)
        voices = [tuple(np.array(part, dtype=np.int64) for part in voice[1:]) for voice in tune.ticks if len(voice[1])]
        found.update(rest_share=rest_share(tune, voices), tempo=tune.tempo, n_voices=len(tune.voices),
                     n_bars=max((len(voice.bars) for voice in tune.voices), default=0),
                     quarters=max((sum(float(bar.length) for bar in voice.bars) for voice in tune.voices), default=0.0))
    except abc_text.AbcError:
        tune, voices = None, guess_voices(text) if is_abc else []
    if tune is not None and voices:
        found["exact"], found["free"] = groups.note_digests(voices)
    else:  # what is guessed or silent equals only the same text
        found["exact"] = found["free"] = hashlib.blake2b(text.encode(), digest_size=16).digest()
    hashes = groups.shingles(voices)
    found.update(n_notes=sum(len(onsets) for onsets, _, _ in voices) if is_abc else None, n_shingles=len(hashes),
                 signature=groups.signature(hashes))
    return found


def read_text(path):
    """Text of a file; bytes that are not UTF-8 are taken as Latin-1, as old tunebooks are."""
    data = Path(path).read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_file(job):
    """Pool worker: all tunes of one .abc file, (path, path below the folder). In a tunebook every tune is named by
    the book and its title, else by the path."""
    path, relative = job
    origin = re.sub(r"[\t\r\n]", " ", os.fsencode(relative).decode("utf-8", "replace"))
    tunes = split_tunes(read_text(path))
    if len(tunes) == 1:
        return [read_tune(origin, groups.path_key(origin), training_text(tunes[0]))]
    found = []
    for number, raw in enumerate(tunes, 1):
        title = re.search(r"(?m)^T:[ \t]*(\S.*)$", raw)
        name = groups.name_key(origin.removesuffix(".abc"), title.group(1)) if title else None
        found.append(read_tune(f"{origin}#{number}", name, training_text(raw)))
    return found


def read_ready(job):
    """Pool worker: tunes of ready-made text, [(origin, text)], taken as they are."""
    return [read_tune(origin, None, text) for origin, text in job]


def start_worker():
    """Pool initialiser: a worker ends silently with its parent."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def read_all(reader, jobs, workers, spool):
    """All tunes in the order of the jobs; their pieces go to the file `spool` and leave (first bar, place, bytes,
    characters) behind, so that memory holds no text."""
    tunes = []
    with multiprocessing.Pool(workers, start_worker) as pool:
        for found in progress(pool.imap(reader, jobs, chunksize=max(1, min(32, len(jobs) // (8 * workers)))),
                              len(jobs), "reading", "file"):
            for tune in found:
                places = []
                for first_bar, text in tune["pieces"]:
                    encoded = text.encode("utf-8", "replace")
                    places.append((first_bar, spool.tell(), len(encoded), len(text)))
                    spool.write(encoded)
                tunes.append({**tune, "pieces": places})
    spool.flush()
    return tunes


# ---------------------------------------------------------------- choice and splits

def chosen_folders(names, wanted):
    """Files in the folders that --collections keeps; ends the script if a folder does not exist."""
    folders = sorted({name.split("/")[0] for name in names if "/" in name})
    asked = [part.strip() for part in wanted.split(",") if part.strip()]
    keep, drop = {part for part in asked if part[0] != "-"}, {part[1:] for part in asked if part[0] == "-"}
    unknown = sorted((keep | drop) - set(folders))
    if unknown or not asked:
        fail(ME, f"--collections: there is no folder {', '.join(unknown) or '(none named)'}",
             "choose from: " + ", ".join(folders[:40]) + (" ..." if len(folders) > 40 else ""))
    return [name for name in names if (not keep or name.split("/")[0] in keep) and name.split("/")[0] not in drop]


def group_tunes(tunes):
    """Gives every tune its `group`; returns the number of similar pairs that were found."""
    first = {}
    for i, tune in enumerate(tunes):
        first.setdefault(tune["exact"], i)
    unique = np.array(sorted(first.values()), dtype=np.int64)
    pairs, _ = groups.similar_pairs(np.stack([tunes[i]["signature"] for i in unique]),
                                    np.array([tunes[i]["n_shingles"] for i in unique]))
    components = groups.find_groups([tune["name"] for tune in tunes], [tune["free"] for tune in tunes], unique[pairs])
    members = {}
    for i, component in enumerate(components):
        members.setdefault(component, []).append(i)
    for part in members.values():
        name = groups.name_group([(tunes[i]["name"], tunes[i]["free"], tunes[i]["n_notes"] or 0,
                                   tunes[i]["n_shingles"]) for i in part])
        for i in part:
            tunes[i]["group"] = name
    return len(pairs)


def filter_tunes(tunes, min_notes, max_rest_share):
    """(tunes that stay, {reason: number}): the first by path of exact duplicates, and only
    what is music."""
    kept, dropped, seen = [], Counter(), set()
    for tune in tunes:
        if tune["exact"] in seen:
            reason = "exact duplicate of another tune"
        elif tune["n_notes"] is not None and tune["n_notes"] < min_notes:
            reason = f"fewer than {min_notes} notes"
        elif tune["rest_share"] is not None and tune["rest_share"] > max_rest_share:
            reason = f"rests for more than {max_rest_share} of the time"
        else:
            reason = None
        seen.add(tune["exact"])
        if reason:
            dropped[reason] += 1
        else:
            kept.append(tune)
    return kept, dict(dropped)


def make_sequences(tunes, seed, least):
    """(sequences as dicts, number left out because shorter than `least` characters)."""
    sequences, n_short = [], 0
    for tune in tunes:
        key = (tune["exact"] + tune["free"]).hex()
        order = groups.hash_number(seed, key)
        for piece, (first_bar, at, n_bytes, chars) in enumerate(tune["pieces"], 1):
            if chars < least:
                n_short += 1
                continue
            sequences.append({"origin": tune["origin"], "group": tune["group"], "piece": piece, "order": order,
                              "n_pieces": len(tune["pieces"]), "first_bar": first_bar, "at": at, "bytes": n_bytes,
                              "chars": chars, "turn": groups.hash_number(seed, key, piece)})
    return sequences, n_short


def limit_sequences(sequences, limit, seed):
    """A budget of `limit` characters spread evenly over groups: one sequence of every group, then a second of every
    group that has more, and so on. A smaller budget's choice is part of a larger one's."""
    n_before, ranked = Counter(), []
    for sequence in sorted(sequences, key=lambda s: (s["group"], s["turn"], s["origin"], s["piece"])):
        ranked.append((n_before[sequence["group"]], groups.hash_number(seed, sequence["group"], "turn"), len(ranked),
                       sequence))
        n_before[sequence["group"]] += 1
    kept, used = [], 0
    for *_, sequence in sorted(ranked, key=lambda row: row[:3]):
        used += sequence["chars"]
        if used > limit:
            break
        kept.append(sequence)
    return kept


def read_holdout(path):
    """[(split, what)] of the lines `val|test|train TAB path, artist/title or group`; a line without TAB means test."""
    lines = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        split, tab, what = line.strip().rpartition("\t")
        if what and not line.startswith("#"):
            split = split.strip() if tab else "test"
            if split not in SPLITS:
                fail(ME, f"--holdout {path.name}: line {number}: no split is called {split!r}",
                     "write val, test or train")
            lines.append((split, what.strip()))
    return lines


def fixed_groups(lines, tunes):
    """({group: split}, [what matches no tune]) of the lines of --holdout."""
    known = {}
    for tune in tunes:
        for key in (tune["group"], tune["origin"], tune["origin"].removesuffix(".abc"), tune["name"]):
            known[key] = tune["group"]
    known.pop(None, None)
    fixed, unknown = {}, []
    for split, what in lines:
        keys = (what, re.sub(r"\.(mid|midi)$", "", what), groups.path_key(what + ".abc"))
        group = next((known[key] for key in keys if key in known), None)
        if group is None:
            unknown.append(what)
        elif fixed.setdefault(group, split) != split:
            fail(ME, f"--holdout: {what!r} is asked for in {split}, but another tune of its group in {fixed[group]}",
                 "tunes of one group must stay together: name one split for them")
    return fixed, unknown


# ---------------------------------------------------------------- writing

def write_split(data, split, sequences, spool):
    """Writes <split>.txt; returns the characters in it and how often each occurs."""
    counts = Counter()
    with atomic(data / f"{split}.txt", "wb") as file:
        for i, sequence in enumerate(sequences):
            encoded = os.pread(spool.fileno(), sequence["bytes"], sequence["at"])
            counts.update(encoded.decode())
            file.write((b"\n" if i else b"") + encoded)
    return counts


def write_tokens(data, split, sequences, spool, tokenizer):
    """Writes <split>_tokens.npy and <split>_sequences.tsv; returns (number of tokens, starts of the sequences)."""
    starts = np.cumsum([0] + [sequence["chars"] + 2 for sequence in sequences])
    with atomic(data / f"{split}_tokens.npy", "wb") as file, atomic(data / f"{split}_sequences.tsv") as table:
        np.lib.format.write_array_header_1_0(file, {
            "descr": np.lib.format.dtype_to_descr(np.dtype(tokenizer.dtype)), "fortran_order": False,
            "shape": (int(starts[-1]),)})
        table.write("index\torigin\tgroup\tpiece\tn_pieces\tfirst_bar\ttoken_offset\tcharacters\n")
        for i, sequence in enumerate(sequences):
            tokens = np.empty(sequence["chars"] + 2, tokenizer.dtype)
            tokens[0], tokens[-1] = BEGIN, END
            tokens[1:-1] = tokenizer.encode(os.pread(spool.fileno(), sequence["bytes"], sequence["at"]).decode())
            file.write(tokens.tobytes())
            first = "" if sequence["first_bar"] is None else sequence["first_bar"]
            table.write(f"{i}\t{sequence['origin']}\t{sequence['group']}\t{sequence['piece']}\t{sequence['n_pieces']}\t"
                        f"{first}\t{starts[i]}\t{sequence['chars']}\n")
    return int(starts[-1]), starts[:-1]


def measure_baselines(data, vocab_size, workers):
    """{what: result} of all jobs of baselines.py; the order in which they end does not matter."""
    jobs = baselines.jobs(data, vocab_size)
    with multiprocessing.Pool(workers, start_worker) as pool:
        return dict(progress(pool.imap_unordered(baselines.measure, jobs), len(jobs), "baselines", "model"))


# ---------------------------------------------------------------- statistics

def spread(values):
    """Quantiles of the values that are known, or None if none is."""
    values = np.array([value for value in values if value is not None], dtype=float)
    if not len(values):
        return None
    names = ("min", "5%", "25%", "median", "75%", "95%", "max")
    found = {name: float(np.quantile(values, q)) for name, q in zip(names, (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1))}
    return {"n": len(values), "mean": float(values.mean()), **found}


def shares(values, most=24):
    """{value: number} of the most frequent known values, or None if none is known."""
    counts = Counter(value for value in values if value is not None)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    rest = sum(count for _, count in ordered[most:])
    return {**dict(ordered[:most]), **({"other": rest} if rest else {})} if counts else None


def music_statistics(tunes):
    """Spread of what is musical in the tunes; every value is None if the text is not ABC."""
    if sum(tune["is_abc"] for tune in tunes) * 2 < len(tunes):
        tunes = []
    density = [tune["n_notes"] / tune["quarters"] if tune["quarters"] else None for tune in tunes]
    return {"notes_per_tune": spread(t["n_notes"] for t in tunes), "bars_per_tune": spread(t["n_bars"] for t in tunes),
            "voices": shares(t["n_voices"] for t in tunes), "keys": shares(t["key"] for t in tunes),
            "meters": shares(t["meter"] for t in tunes), "tempo_quarters_per_minute": spread(t["tempo"] for t in tunes),
            "notes_per_quarter": spread(density), "rest_share": spread(t["rest_share"] for t in tunes),
            "not_read_strictly": sum(t["rest_share"] is None for t in tunes) if tunes else None}


def overlap_by_tune(shared, starts, sequences):
    """[(share of its windows that train has, number of windows, origin)] of a split's tunes, the largest share first.

    shared: (starts of windows, found) from baselines.shared_windows; starts: of the sequences."""
    owner = np.searchsorted(starts, shared[0], side="right") - 1
    n_windows = np.bincount(owner, minlength=len(sequences))
    n_shared = np.bincount(owner, shared[1], minlength=len(sequences))
    totals = {}
    for i, sequence in enumerate(sequences):
        both = totals.setdefault(sequence["origin"], [0, 0])
        both[0] += int(n_shared[i])
        both[1] += int(n_windows[i])
    return sorted(((a / b, b, origin) for origin, (a, b) in totals.items() if b), key=lambda row: (-row[0], row[2]))


def overlap_statistics(data, shared, starts, parts):
    """{split: share of 32-character windows that train has too, per tune}, the worst tunes by name with the tune of
    train that shares most with each."""
    found = {}
    for split, windows in zip(("val", "test"), shared):
        rows = overlap_by_tune(windows, starts[split], parts[split])
        tokens = np.load(data / f"{split}_tokens.npy", mmap_mode="r")
        worst, hashes = [row for row in rows[:N_WORST] if row[0] > 0], []
        for _, _, origin in worst:
            mine = [np.array(tokens[start:start + sequence["chars"] + 2])
                    for start, sequence in zip(starts[split], parts[split]) if sequence["origin"] == origin]
            hashes.append(np.concatenate([baselines.windows_of(part)[1] for part in mine]))
        nearest = baselines.nearest_sequences(data / "train_tokens.npy", starts["train"], hashes) if hashes else []
        found[split] = {
            "tunes": len(rows), "windows": int(sum(row[1] for row in rows)),
            "share_of_all_windows": sum(row[0] * row[1] for row in rows) / max(1, sum(row[1] for row in rows)),
            "per_tune": spread(row[0] for row in rows),
            "per_tune_90%": float(np.quantile([row[0] for row in rows], 0.9)) if rows else None,
            "worst": [{"tune": origin, "share": share, "windows": n,
                       "nearest_in_train": parts["train"][place]["origin"],
                       "share_in_nearest": count / len(np.unique(part))}
                      for (share, n, origin), (place, count), part in zip(worst, nearest, hashes)]}
    return found


def draw(path, tunes, parts, overlap_rows):
    """The statistics as one figure of nine panels, PNG and SVG."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    matplotlib.rcParams["svg.hashsalt"] = "0"  # same bytes every time
    figure, axes = plt.subplots(3, 3, figsize=(13, 10), layout="constrained")
    axes = iter(axes.flat)

    def histogram(label, values, unit="tunes", bins=40):
        axis, values = next(axes), [v for v in values if v is not None]
        axis.set(xlabel=label, ylabel=unit)
        if not values:
            axis.text(0.5, 0.5, "not music" if not any(t["is_abc"] for t in tunes) else "none", ha="center",
                      transform=axis.transAxes)
            return
        axis.hist(values, bins=bins, color="tab:blue")

    def bars(label, values, most=12):
        axis, counts = next(axes), shares(values, most) or {}
        axis.bar([str(key)[:10] for key in counts], list(counts.values()), color="tab:blue")
        axis.set(xlabel=label, ylabel="tunes")
        axis.tick_params(axis="x", rotation=60 if len(counts) > 6 else 0)

    histogram("characters per sequence", [s["chars"] for part in parts.values() for s in part], "sequences",
              bins=np.linspace(0, MAX_CHARS + 1, 51))
    counts = [t["n_voices"] for t in tunes if t["n_voices"] is not None]
    histogram("voices", counts, bins=np.arange(0.5, max(counts, default=1) + 1.5))
    bars("key", [t["key"] for t in tunes if t["is_abc"]])
    bars("meter", [t["meter"] for t in tunes if t["is_abc"]], 9)
    histogram("tempo (quarter notes per minute)", [t["tempo"] for t in tunes], bins=np.linspace(20, 300, 57))
    density = [t["n_notes"] / t["quarters"] for t in tunes if t["quarters"]]
    histogram("notes per quarter note, all voices", density,
              bins=np.linspace(0, np.quantile(density, 0.99) if density else 1, 41))
    histogram("rests: share of the voices' time", [t["rest_share"] for t in tunes], bins=np.linspace(0, 1, 41))
    histogram("zlib: compressed bytes / bytes, per tune", [t["compressed"] for t in tunes], bins=np.linspace(0, 1, 41))
    axis = next(axes)
    for split, color in (("val", "tab:orange"), ("test", "tab:green")):
        shared = np.sort([row[0] for row in overlap_rows[split]])
        axis.step(shared, np.arange(1, len(shared) + 1) / max(1, len(shared)), where="post", color=color, label=split)
    axis.set(xlabel="share of a tune's 32-character windows found in train", ylabel="share of tunes", xlim=(0, 1),
             ylim=(0, 1.02))
    axis.legend(loc="lower right")
    figure.suptitle(f"{len(tunes):,} tunes, {sum(s['chars'] for part in parts.values() for s in part):,} characters")
    for kind in ("png", "svg"):
        with atomic(path.with_suffix("." + kind), "wb") as file:
            figure.savefig(file, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else None)
    plt.close(figure)


# ---------------------------------------------------------------- the stage

def parse_arguments(argv):
    parser = stage_parser(__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--abc", type=Path, metavar="DIR",
                        help="read the .abc files and tunebooks below DIR instead of stage 02's output")
    source.add_argument("--from-splits", type=Path, metavar="DIR",
                        help="take DIR/train.txt, val.txt and test.txt as they are (any text; tunes are separated by "
                             "an empty line or begin with an X: line)")
    parser.add_argument("--limit-chars", type=int, metavar="N",
                        help="budget in characters, all splits together, spread evenly over the groups (default: all)")
    parser.add_argument("--collections", metavar="NAME[,NAME]",
                        help="first-level folders to keep; to drop some: --collections=-NAME,-NAME (default: all)")
    parser.add_argument("--holdout", type=Path, metavar="FILE",
                        help="groups whose split is fixed: lines `val|test|train TAB path, artist/title or group`; a "
                             "line without TAB means test")
    parser.add_argument("--min-notes", type=int, default=MIN_NOTES, metavar="N",
                        help=f"leave out tunes with fewer notes (default: {MIN_NOTES})")
    parser.add_argument("--max-rest-share", type=float, default=MAX_REST_SHARE, metavar="SHARE",
                        help="leave out tunes whose voices rest for more of the time, 0 to 1 "
                             f"(default: {MAX_REST_SHARE})")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    args = parser.parse_args(argv)
    if args.from_splits and (args.limit_chars or args.collections or args.holdout):
        parser.error("--from-splits takes the text as it is: --limit-chars, --collections and --holdout do not apply")
    for name in ("limit_chars", "workers"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return args


def source_files(args):
    """(folder, relative paths) of what is to be read; ends the script if there is nothing."""
    flag = "--abc" if args.abc else "--from-splits"
    folder = args.abc or args.from_splits or resolve_root(args) / "data/abc_notation"
    if (args.abc or args.from_splits) and not folder.is_dir():
        fail(ME, f"{flag} {folder}: there is no such folder")
    if args.from_splits:
        names = [f"{split}.txt" for split in SPLITS]
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            fail(ME, f"{flag} {folder}: no {', '.join(missing)}", "name a folder with train.txt, val.txt and test.txt")
        return folder, names
    names = [name for name in tree_files(folder) if name.lower().endswith(".abc")] if folder.is_dir() else []
    if args.collections and names:
        names = chosen_folders(names, args.collections)
    return folder, names


def ready_jobs(folder):
    """Jobs for `read_ready` and the number of tunes per split of a folder with ready-made splits."""
    jobs, n_tunes = [], {}
    for split in SPLITS:
        tunes = [(f"{split}.txt#{number}", text)
                 for number, text in enumerate(split_tunes(read_text(folder / f"{split}.txt")), 1)]
        n_tunes[split], job, size = len(tunes), [], 0
        for tune in tunes:
            job, size = job + [tune], size + len(tune[1])
            if size > JOB_BYTES:
                jobs, job, size = jobs + [job], [], 0
        jobs += [job] if job else []
    return jobs, n_tunes


def split_ready(tunes, n_tunes, seed):
    """{split: sequences} of ready-made text: everything, in its own order."""
    parts, at = {}, 0
    for split in SPLITS:
        mine = tunes[at:at + n_tunes[split]]
        at += n_tunes[split]
        for tune in mine:
            tune["group"] = hashlib.sha256(tune["exact"]).hexdigest()[:16]
        parts[split] = make_sequences(mine, seed, 1)[0]
    return parts


def split_groups(tunes, args, holdout):
    """({split: sequences}, tunes that stay, report) of tunes that are to be grouped, filtered and split."""
    n_pairs = group_tunes(tunes)
    fixed, unknown = fixed_groups(holdout, tunes)
    kept, dropped = filter_tunes(tunes, args.min_notes, args.max_rest_share)
    sequences, n_short = make_sequences(kept, args.seed, MIN_CHARS)
    if args.limit_chars:
        n_all = len(sequences)
        sequences = limit_sequences(sequences, args.limit_chars, args.seed)
        dropped["sequences beyond --limit-chars"] = n_all - len(sequences)
    chars = Counter()
    for sequence in sequences:
        chars[sequence["group"]] += sequence["chars"]
    if len(chars) - len(fixed) < 3:
        fail(ME, f"{len(chars)} group(s) of different tunes are left: too few for three splits",
             "use more music, or a larger --limit-chars, a lower --min-notes or a higher --max-rest-share")
    splits, held_out = groups.assign_splits(chars, args.seed, fixed)
    parts = {split: sorted((s for s in sequences if splits[s["group"]] == split),
                           key=lambda s: (s["order"], s["origin"], s["piece"])) for split in SPLITS}
    sizes = Counter(Counter(tune["group"] for tune in tunes).values())
    report = {"groups": len(set(tune["group"] for tune in tunes)), "groups_left": len(chars),
              "tunes_per_group": {str(size): n for size, n in sorted(sizes.items())},
              "exact_duplicates": dropped.get("exact duplicate of another tune", 0),
              "transposed_or_retimed_copies": len({t["exact"] for t in tunes}) - len({t["free"] for t in tunes}),
              "similar_pairs": n_pairs, "dropped_tunes": dropped, "short_sequences": n_short,
              "floor": {"in_force": max(held_out.values()) > groups.STEPS[0], "share_of_groups": held_out,
                        "least_groups": groups.FLOOR_GROUPS, "least_characters": groups.FLOOR_CHARS},
              "holdout": {"groups": len(fixed), "lines_without_a_tune": unknown}}
    return parts, kept, report


def main(argv=None):
    args = parse_arguments(argv)
    if args.holdout and not args.holdout.is_file():
        fail(ME, f"--holdout {args.holdout}: there is no such file")
    holdout = read_holdout(args.holdout) if args.holdout else []
    outside = args.abc or args.from_splits
    if not outside:
        stage = Stage(__file__, args, config(args, holdout))
    folder, names = source_files(args)
    if not names:
        fail(ME, f"there is no .abc file in {folder.name}",
             None if outside else "run: python 02_midi_to_abc.py" + stage.flags)
    if outside:
        digests = [(name, file_digest(folder / name)) for name in names]
        stage = Stage(__file__, args, {**config(args, holdout), "source": value_digest(digests)}, reads=())
    if stage.up_to_date():
        return
    workers, data = args.workers or cpu_count(), stage.root / "data"
    data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=data, prefix=TEMPORARY) as spool:
        if args.from_splits:
            jobs, n_tunes = ready_jobs(folder)
            tunes = kept = read_all(read_ready, jobs, workers, spool)
            parts, report = split_ready(tunes, n_tunes, args.seed), {"groups": None, "floor": None}
            if not all(parts.values()):
                fail(ME, "one of train.txt, val.txt and test.txt is empty")
        else:
            tunes = read_all(read_file, [(str(folder / name), name) for name in names], workers, spool)
            if not tunes:
                fail(ME, f"there is no tune in the .abc files of {folder.name}")
            parts, kept, report = split_groups(tunes, args, holdout)
        with stage.writing():
            write_everything(stage, tunes, kept, parts, report, spool, workers)


def config(args, holdout):
    """What decides the bytes of the outputs, beside the input."""
    return {"limit_chars": args.limit_chars, "collections": args.collections, "min_notes": args.min_notes,
            "max_rest_share": args.max_rest_share, "holdout": holdout, "abc": bool(args.abc),
            "from_splits": bool(args.from_splits)}


def write_everything(stage, tunes, kept, parts, report, spool, workers):
    """Writes all outputs and the manifest."""
    data = stage.root / "data"
    counts = {split: write_split(data, split, parts[split], spool) for split in SPLITS}
    tokenizer = Tokenizer(counts["train"])
    tokenizer.save(data / "tokenizer.pkl")
    n_tokens, starts = {}, {}
    for split in SPLITS:
        n_tokens[split], starts[split] = write_tokens(data, split, parts[split], spool, tokenizer)
    n_chars = {split: sum(sequence["chars"] for sequence in parts[split]) for split in SPLITS}
    n_targets = {split: n_chars[split] + len(parts[split]) for split in ("val", "test")}
    results = measure_baselines(data, tokenizer.vocab_size, workers)
    marks = baselines.summarise(results, tokenizer.vocab_size, n_targets)
    write_json(data / "baselines.json", {**marks, "tokenizer_digest": tokenizer.digest})
    overlap = overlap_statistics(data, results["overlap"], starts, parts)
    unknown = {split: {c: n for c, n in sorted(counts[split].items()) if c not in tokenizer.characters}
               for split in ("val", "test")}
    stats = {
        "tunes": len(tunes), "tunes_kept": len(kept), **report,
        "splits": {split: {"characters": n_chars[split], "tokens": n_tokens[split], "sequences": len(parts[split]),
                           "tunes": len({s["origin"] for s in parts[split]}),
                           "groups": len({s["group"] for s in parts[split]}) if report["groups"] else None,
                           "characters_per_sequence": spread(s["chars"] for s in parts[split])} for split in SPLITS},
        "vocabulary": {"size": tokenizer.vocab_size, "characters": tokenizer.characters, "digest": tokenizer.digest,
                       "counts_in_train": dict(sorted(counts["train"].items())), "unknown_in": unknown},
        "music": music_statistics(kept), "compression_ratio": spread(tune["compressed"] for tune in kept),
        "overlap_with_train": {"window_characters": baselines.WINDOW, **overlap}}
    write_json(data / "stats.json", stats)
    draw(data / "figures/data.png", kept, parts, {
        split: overlap_by_tune(shared, starts[split], parts[split])
        for split, shared in zip(("val", "test"), results["overlap"])})
    outputs = ["tokenizer.pkl", "baselines.json", "stats.json", "figures/data.png", "figures/data.svg"] + [
        f"{split}{end}" for split in SPLITS for end in (".txt", "_tokens.npy", "_sequences.tsv")]
    dropped = report.get("dropped_tunes", {})
    worst = [row for split in ("val", "test") for row in overlap[split]["worst"][:1]]
    stage.finish(
        [f"data/{name}" for name in outputs],
        counts={"tunes": len(tunes), "groups": report["groups"],
                **{f"{split}_{what}": stats["splits"][split][what] for split in SPLITS
                   for what in ("characters", "tokens", "sequences", "groups")}},
        skipped={**dropped, "short sequences": report.get("short_sequences", 0)},
        extra={"tokenizer_digest": tokenizer.digest, "floor": report["floor"]},
        summary={"tunes": len(tunes), **({"groups": report["groups"]} if report["groups"] else {}),
                 **{f"left out, {reason}": n for reason, n in dropped.items()},
                 **{f"{split} characters": n_chars[split] for split in SPLITS}, "vocabulary": tokenizer.vocab_size,
                 "characters unknown to train": sum(sum(part.values()) for part in unknown.values()),
                 **({"held out more than 1 %": "yes, the corpus is small"} if report["floor"] and
                    report["floor"]["in_force"] else {}),
                 "best n-gram": f"order {marks['val']['ngram']['order']}, {marks['val']['ngram']['bits_per_char']:.3f} "
                                f"bits per character on val, {marks['test']['ngram']['bits_per_char']:.3f} on test",
                 "worst overlap with train": "; ".join(f"{row['share']:.2f} ({row['tune']})" for row in worst)})


if __name__ == "__main__":
    run(main)
