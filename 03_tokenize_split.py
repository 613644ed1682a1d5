"""Stage 03: ABC tunes become training text: groups of the same song, leak-free splits, sequences, tokens, baselines.

Reads:  data/abc_notation/**/*.abc (stage 02), or --abc DIR (.abc files, tunebooks), or --from-splits DIR (ready text)
Writes: data/{train,val,test}.txt             tunebooks: sequences of 101 to 4,999 characters, an empty line between
        data/tokenizer.pkl                    character vocabulary of train.txt with begin, end and unknown
        data/{train,val,test}_tokens.npy      1-D, smallest integer type: BEGIN sequence END BEGIN sequence END ...
        data/{train,val,test}_sequences.tsv   origin of every sequence: file, group, piece, first bar, place in tokens
        data/baselines.json                   uniform, unigram, n-gram, xz, bz2: bits per character on val and test
        data/stats.json, data/figures/data.png|svg   duplicates, filters, lengths, music, overlap with train
Run:    python 03_tokenize_split.py [--limit-chars N] [--collections NAME,NAME] [--holdout FILE] [--workers N]
Prints last: tunes, groups, sequences and characters per split, vocabulary, best n-gram, worst overlap.

Which split a tune lands in depends on its group and the seed alone. Two tunes are in one group if they have the same
name (artist and title, cleaned), the same notes (in any key, at any speed), or enough melody in common (`MATCH`).
A group's number in [0, 1) is a hash of the seed and the group's name: below 0.01 is val, from 0.99 on test. The name of
a group is that of the tune in it with the most notes (see `name_group`), so that what joins a group under the same name
never moves it, and a thinned or altered copy under another name hardly ever.
"""

import bz2
import hashlib
import lzma
import math
import multiprocessing
import os
import re
import signal
import tempfile
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np

import abc_text
from common import BEGIN, END, N_SPECIAL, Tokenizer
from stage import (TEMPORARY, Stage, atomic, fail, file_digest, progress, resolve_root, run, stage_parser, tree_files,
                   value_digest, write_json)

SPLITS = ("train", "val", "test")
MIN_CHARS, MAX_CHARS = 101, 4999   # of a sequence; shorter ones hold no music beside their header
HELD_OUT = 0.01                    # share of the groups in val, and in test
FLOOR_GROUPS = 20                  # least groups in val and in test: fewer, and one odd song decides a loss
FLOOR_CHARS = 20_000               # least characters in val and in test: 0.005 nats standard error or so
FLOOR_STEPS = (0.01, 0.02, 0.04, 0.08, 0.15, 0.2)  # shares tried until the floors hold. Steps, so that a small corpus
                                   # that grows a little keeps its splits; the end, so that three fifths stay for train
MIN_NOTES = 16                     # of a tune: the least that `check_abc` calls music
MAX_REST_SHARE = 0.95              # of the time of a tune's voices; beyond it a tune teaches only how to write rests
GENERIC_FOLDERS = {"various", "various artists", "midi", "midis", "unknown", "misc", "songs", "music", "other"}


# ---------------------------------------------------------------- names

VERSION_WORDS = ("live", "remix", "remixed", "mix", "version", "edit", "acoustic", "instrumental", "karaoke", "demo",
                 "remaster", "remastered", "unplugged", "reprise", "feat", "ft", "medley", "bonus", "original",
                 "extended", "radio", "album", "single", "studio", "cover", "take", "strings", "intro")
GENERIC_TITLE = re.compile(r"(untitled|unknown|track|title|song|tune|no name|none|noname|gan ainm|jig|reel|hornpipe|"
                           r"polka|waltz|march|air|menuet|minuet|gigue|sonata|etude|prelude|fugue|intro|new)?\s*\d*")


def words(text):
    """Letters and digits of a name in lower case without accents: "L'Été (1)" -> "lete 1"."""
    plain = unicodedata.normalize("NFKD", text.replace("'", "").replace("`", "").replace("\u2019", ""))
    plain = "".join(c for c in plain if not unicodedata.combining(c)).lower()
    return " ".join(re.findall(r"[^\W_]+", plain))


def artist_key(artist):
    """Words of an artist in alphabetical order: `Rod Stewart`, `Stewart,Rod` and `STEWART Rod` are one."""
    found = [word for word in words(artist.replace("&", " ")).split() if word not in ("the", "and")]
    return " ".join(sorted(set(found))) or words(artist)


def title_key(title):
    """A title without copy number, version and punctuation: `Yesterday.2`, `Yesterday (live)`, `YESTERDAY!` are one."""
    title = re.sub(r"(?i)\.(mid|midi|kar|abc)$", "", title.strip())
    title = re.sub(r"(\.\d+|[ _]*\(\d+\)|[ _-]+(copy|kopie)( ?\d+)?)+$", "", title)
    bare = re.sub(r"[(\[{][^)\]}]*[)\]}]", " ", title)
    bare = re.sub(r"(?i)\s[-_]\s.*\b(" + "|".join(VERSION_WORDS) + r")\b.*$", " ", bare)
    cleaned = [word for word in words(bare).split() if word not in ("the", "a")]
    return "".join(cleaned) or "".join(words(title).split())


def name_key(origin, title=None):
    """What all versions of one song share: cleaned artist and title of `artist/title.abc`; None if the title is
    too general to say that two tunes of this name are one (`Reel`, `Track 3`)."""
    path = Path(origin)
    artist, title = (path.parent.name or ""), title or path.stem
    if words(artist) in GENERIC_FOLDERS and " - " in title:
        artist, title = title.split(" - ", 1)
    if GENERIC_TITLE.fullmatch(words(title)):
        return None
    return f"{artist_key(artist)}/{title_key(title)}"


# ---------------------------------------------------------------- notes

SHINGLE = 6        # intervals in a shingle
N_HASHES = 255     # MinHash functions: the standard error of a similarity is 0.03
ROWS = 3           # hashes in a band: pairs alike by 0.4 meet in one of the 85 bands with probability 0.996
MATCH = 0.35       # share of common shingles (Jaccard) from which two tunes are one song; measured, benchmarks/data.md
MIN_SHINGLES = 16  # with fewer, likeness is chance
_random = np.random.default_rng(20240501)  # fixed for ever: signatures of different runs are compared
_FACTORS = _random.integers(0, 2**63, N_HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_OFFSETS = _random.integers(0, 2**63, N_HASHES, dtype=np.uint64)
_WEIGHTS = _random.integers(0, 2**63, SHINGLE, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def mix(x):
    """Scrambles uint64 values so that every bit depends on every other (the finaliser of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def shingles(voices):
    """Hashes of all runs of SHINGLE melodic intervals of each voice, unique and sorted (uint64).

    voices: [(onsets, pitches)]. Chords count as their top note and repeated pitches as one, so neither key, tempo, note
    values nor the number of repetitions matter. Runs over fewer than four different pitches are left out: ostinati and
    trills are alike in all music.
    """
    found = []
    for onsets, pitches in voices:
        order = np.lexsort((pitches, onsets))
        onsets, pitches = onsets[order], pitches[order]
        top = np.append(onsets[1:] != onsets[:-1], True)
        line = pitches[top]
        line = line[np.append(True, line[1:] != line[:-1])] if len(line) else line
        if len(line) <= SHINGLE:
            continue
        window = np.lib.stride_tricks.sliding_window_view(line, SHINGLE + 1)
        ordered = np.sort(window, axis=1)
        varied = (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1) >= 3
        intervals = np.diff(window[varied], axis=1).astype(np.int64).astype(np.uint64)
        found.append(mix((intervals * _WEIGHTS).sum(axis=1, dtype=np.uint64)))
    return np.unique(np.concatenate(found)) if found else np.empty(0, np.uint64)


def signature(hashes):
    """MinHash signature (N_HASHES,) uint32: the share of equal entries of two tunes estimates their Jaccard index."""
    if not len(hashes):
        return np.full(N_HASHES, 2**32 - 1, np.uint32)
    least = np.full(N_HASHES, 2**64 - 1, np.uint64)
    for start in range(0, len(hashes), 512):
        part = hashes[start:start + 512, None] * _FACTORS + _OFFSETS
        least = np.minimum(least, part.min(axis=0))
    return (least >> np.uint64(32)).astype(np.uint32)


def note_digests(voices):
    """(digest of the notes, digest of the notes whatever key and speed), 16 bytes each."""
    if not voices:
        return b"", b""
    onsets, durations, pitches = (np.concatenate(part).astype(np.int64) for part in zip(*voices))
    onsets = onsets - onsets.min()
    order = np.lexsort((durations, pitches, onsets))
    exact = np.stack([onsets, durations, pitches])[:, order]
    unit = np.gcd.reduce(np.concatenate([onsets, durations])) or 1
    free = exact // np.array([[unit], [unit], [1]]) - np.array([[0], [0], [pitches.min()]])
    return tuple(hashlib.blake2b(array.astype("<i8").tobytes(), digest_size=16).digest() for array in (exact, free))


# ---------------------------------------------------------------- tunes

KEPT_FIELDS = "MLQK"  # of a tune's header, in this order; X: comes first and is always 1


def split_tunes(text):
    """Texts of the tunes of a tunebook: from each `X:` line to the next, else parts between empty lines."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
    parts = re.split(r"(?m)^(?=X:)", text) if re.search(r"(?m)^X:", text) else re.split(r"\n\s*\n", text)
    parts = [re.split(r"\n[ \t]*\n", part.strip("\n"))[0] if part.startswith("X:") else part for part in parts]
    return [part.strip("\n") + "\n" for part in parts if part.strip()]


def training_text(text):
    """A tune as it enters the training text: `X:1`, M: L: Q: K:, then its music; titles, comments and words are gone."""
    header, lines = {}, []
    rows = iter(text.splitlines())
    for row in rows:
        field = row[:1] if row[1:2] == ":" else ""
        if field and field in KEPT_FIELDS:
            header[field] = row.rstrip()
        elif field == "V":
            lines.append(row.rstrip())
        if field == "K":
            break
    lines = [header[field] for field in KEPT_FIELDS[:-1] if field in header] + lines + [header.get("K", "K:C")]
    for row in rows:
        row = row.split("%")[0].rstrip() if "%" in row else row.rstrip()
        if row and not (row[1:2] == ":" and row[0] in "ABCDFGHNORSTUWXZmrsw+" and row[0] not in "|:"):
            lines.append(row)
    return "\n".join(["X:1", *lines]) + "\n"


def cut_lines(text, max_chars=MAX_CHARS):
    """Pieces of a text without bars, cut at line ends (a longer line: at a blank), evenly sized."""
    lines = []
    for line in text.splitlines(keepends=True):
        while len(line) > max_chars:
            at = line.rfind(" ", max_chars // 2, max_chars) + 1 or max_chars
            lines.append(line[:at].rstrip() + "\n" if at < max_chars else line[:at - 1] + "\n")
            line = line[at:] if at < max_chars else line[at - 1:]
        lines.append(line)
    n_pieces = -(-len(text) // max_chars)
    while True:
        pieces, target = [""], len(text) / n_pieces
        for line in lines:
            if pieces[-1] and len(pieces[-1]) + len(line) / 2 > target:
                pieces.append("")
            pieces[-1] += line
        if all(len(piece) <= max_chars for piece in pieces):
            return [piece if piece.endswith("\n") else piece + "\n" for piece in pieces]
        n_pieces += 1


def cut(text):
    """[(first bar, piece)] of a tune's training text; first bar is None where the text is not read as ABC."""
    if len(text) <= MAX_CHARS:
        return [(0, text)]
    try:
        return abc_text.cut_tune(text, MAX_CHARS, MIN_CHARS)
    except (abc_text.AbcError, AttributeError):
        return [(None, piece) for piece in cut_lines(text)]


def read_voices(tune):
    """[(onsets, durations, pitches)] of a Tune as int64 arrays of ticks."""
    return [tuple(np.array(part, dtype=np.int64) for part in voice[1:]) for voice in tune.ticks if len(voice[1])]


def guess_voices(text):
    """Letters and octave marks of a text that the strict reader refuses, as one voice of equal notes: enough to
    recognise a tune in its own spelling."""
    body = re.sub(r'(?m)^[A-Za-z]:.*$|"[^"]*"|![^!]*!|\[[A-Za-z]:[^\]]*\]', "", text)
    notes = re.findall(r"([A-Ga-g])([,']*)", body)
    pitches = [(0, 2, 4, 5, 7, 9, 11)["CDEFGAB".index(letter.upper())] + 60 + 12 * letter.islower()
               + 12 * (marks.count("'") - marks.count(",")) for letter, marks in notes]
    n = len(pitches)
    return [(np.arange(n), np.ones(n, np.int64), np.array(pitches, dtype=np.int64))] if n else []


def describe(tune, voices, text):
    """What the statistics need to know of a tune; None where it was not read."""
    music = {"n_notes": int(sum(len(v[0]) for v in voices)), "n_voices": len(voices), "rest_share": None, "key": None,
             "meter": None, "tempo": None, "quarters": None, "n_bars": None}
    if tune is not None:
        lengths = [sum(float(bar.length) for bar in voice.bars) for voice in tune.voices]
        span, sounding = max(lengths, default=0), 0
        for onsets, durations, _ in voices:
            starts, index = np.unique(onsets, return_index=True)
            ends = np.minimum(starts + durations[index], np.append(starts[1:], 2**62))
            sounding += float((ends - starts).sum()) / abc_text.TICKS
        total = span * max(len(tune.voices), 1)
        music.update(key=tune.key, meter=tune.meter, tempo=tune.tempo, quarters=span,
                     n_bars=max((len(voice.bars) for voice in tune.voices), default=0),
                     rest_share=max(0.0, 1 - sounding / total) if total else 1.0)
    return music


def read_tune(origin, title, raw):
    """A dict on one tune: names, digests, fingerprint, music, and its sequences [(first bar, text)]."""
    text = training_text(raw)
    try:
        tune = abc_text.read_abc(text)
        voices = read_voices(tune)
    except abc_text.AbcError:
        tune, voices = None, guess_voices(text)
    exact, free = note_digests(voices)
    if tune is None:  # the guess knows no durations, so it cannot tell that two tunes are equal
        exact = free = hashlib.blake2b(text.encode(), digest_size=16).digest()
    hashes = shingles([(onsets, pitches) for onsets, _, pitches in voices])
    return {"origin": origin, "name": name_key(origin, title), "exact": exact, "free": free,
            "signature": signature(hashes), "n_shingles": len(hashes), "chars": len(text),
            "strict": tune is not None, "pieces": cut(text), **describe(tune, voices, text)}


def start_worker():
    """Pool initialiser: a worker ends silently with its parent."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def read_file(job):
    """Pool worker: the tunes of one .abc file."""
    path, origin = job
    data = Path(path).read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    tunes = split_tunes(text)
    if len(tunes) == 1:
        return [read_tune(origin, None, tunes[0])]
    found = []
    for number, raw in enumerate(tunes, 1):
        title = re.search(r"(?m)^T:[ \t]*(.*)$", raw)
        place = f"{origin}#{number}"
        found.append(read_tune(place, None, raw))
        found[-1]["name"] = name_key(str(Path(origin).with_suffix("")) + "/x", title.group(1)) if title else None
    return found


# ---------------------------------------------------------------- groups

def similar_pairs(signatures, n_shingles):
    """(pairs, similarity): all pairs of tunes whose estimated Jaccard index is at least MATCH.

    Pairs are looked for only among tunes that agree in a band of ROWS hashes, so the cost is linear in the tunes as
    long as music is not all alike; whether two tunes are compared does not depend on what else is in the corpus.
    """
    usable = np.flatnonzero(n_shingles >= MIN_SHINGLES)
    pairs = np.empty((0, 2), np.int64)
    for band in range(0, N_HASHES - ROWS + 1, ROWS):
        key = np.zeros(len(usable), np.uint64)
        for row in range(band, band + ROWS):
            key = mix(key + signatures[usable, row].astype(np.uint64))
        order = np.argsort(key, kind="stable")
        sorted_key, members = key[order], usable[order]
        found = []
        for step in range(1, len(members)):
            same = np.flatnonzero(sorted_key[step:] == sorted_key[:-step])
            if not len(same):
                break
            found.append(np.stack([members[same], members[same + step]], axis=1))
        if found:
            pairs = np.unique(np.concatenate([pairs, np.sort(np.concatenate(found), axis=1)]), axis=0)
    likeness = np.concatenate([
        (signatures[part[:, 0]] == signatures[part[:, 1]]).mean(axis=1)
        for part in np.array_split(pairs, max(1, len(pairs) // 100_000))]) if len(pairs) else np.empty(0)
    return pairs[likeness >= MATCH], likeness[likeness >= MATCH]


def find_groups(tunes, pairs):
    """Group number of every tune: connected components of equal names, equal notes and similar pairs."""
    parent = list(range(len(tunes)))

    def root(i):
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    first = {}
    for i, tune in enumerate(tunes):
        for key in (("name", tune["name"]), ("free", tune["free"])):
            if key[1]:
                parent[root(i)] = root(first.setdefault(key, i))
    for i, j in pairs.tolist():
        parent[root(i)] = root(j)
    return [root(i) for i in range(len(tunes))]


def name_group(members):
    """Name of a group: that of its tune with the most notes; of equals, that with the fewest different shingles (a copy
    with wrong notes has more), then the one without digits (copies are numbered), then by hash.

    No function of the members alone can keep its value whatever joins; this one keeps it for versions under the same
    name, and for copies that lost a voice or some right notes.
    """
    def rank(tune):
        name = tune["name"] or tune["free"].hex()
        return (-tune["n_notes"], tune["n_shingles"], bool(re.search(r"\d", name)),
                hashlib.sha256(name.encode()).digest())
    best = min(members, key=rank)
    return hashlib.sha256((best["name"] or best["free"].hex()).encode()).hexdigest()[:16]


def hash_number(*parts):
    """A number in [0, 1) from a hash of the parts."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def assign_splits(chars, seed, fixed=None):
    """({group: split}, {split: share}): chars is {group: characters}, fixed {group: split} by the user.

    val takes the groups of lowest number, test those of highest, so a larger share of one never takes from the other.
    """
    fixed = {group: split for group, split in (fixed or {}).items() if group in chars}
    number = {group: hash_number(seed, group) for group in chars}
    total, shares, splits = sum(chars.values()), {}, dict.fromkeys(chars, "train")
    for split in ("val", "test"):
        place = {group: value if split == "val" else 1 - value for group, value in number.items()}
        open_groups = sorted((group for group in chars if group not in fixed and splits[group] == "train"),
                             key=place.get)
        for share in FLOOR_STEPS:
            chosen = [group for group in open_groups if place[group] < share]
            chosen += [group for group, name in fixed.items() if name == split]
            if len(chosen) >= FLOOR_GROUPS and sum(chars[group] for group in chosen) >= FLOOR_CHARS:
                break
        chosen = chosen or open_groups[:1]
        shares[split] = share
        splits.update(dict.fromkeys(chosen, split))
    splits.update(fixed)
    return splits, shares


# ---------------------------------------------------------------- baselines

def conditional_bits(compressor, train_path, texts):
    """Bits that each text adds to the compressed training text. compressor: makes an object with compress and flush.

    The compressor's state after the training text is shared by forking, so the training text is compressed once.
    """
    engine, size = compressor(), 0
    with open(train_path, "rb") as file:
        while block := file.read(1 << 20):
            size += len(engine.compress(block))
    sizes = []
    for text in [b"", *texts]:
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write_end, b"%d" % (size + len(engine.compress(text)) + len(engine.flush())))
            os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end, "rb") as pipe:
            sizes.append(int(pipe.read()))
        os.waitpid(child, 0)
    return [8 * (with_text - sizes[0]) for with_text in sizes[1:]]


def simple_baselines(data, vocab_size):
    """{split: {name: bits per character}} of uniform and unigram models, from the token arrays."""
    counts = np.zeros(vocab_size, np.int64)
    tokens = np.load(data / "train_tokens.npy", mmap_mode="r")
    for start in range(0, len(tokens), 1 << 24):
        counts += np.bincount(tokens[start:start + (1 << 24)], minlength=vocab_size)
    counts[BEGIN] = 0
    possible = vocab_size - 1  # everything but BEGIN
    probability = (counts + 1) / (counts.sum() + possible)
    found = {}
    for split in ("val", "test"):
        tokens = np.load(data / f"{split}_tokens.npy", mmap_mode="r")
        here = np.bincount(tokens, minlength=vocab_size)
        here[BEGIN] = 0
        found[split] = {"uniform": {"bits_per_char": math.log2(possible)},
                        "unigram": {"bits_per_char": float(-(here * np.log2(probability)).sum() / here.sum())}}
    return found


def measure_baselines(data, vocab_size):
    """The content of baselines.json."""
    found = simple_baselines(data, vocab_size)
    texts = {split: (data / f"{split}.txt").read_bytes() for split in ("val", "test")}
    n_chars = {split: int((np.load(data / f"{split}_tokens.npy", mmap_mode="r") != BEGIN).sum()) for split in texts}
    engines = {"xz": lambda: lzma.LZMACompressor(preset=9), "bz2": lambda: bz2.BZ2Compressor(9)}
    for name, engine in engines.items():
        bits = conditional_bits(engine, data / "train.txt", texts.values())
        for split, value in zip(texts, bits):
            found[split][name] = {"bits_per_char": value / n_chars[split]}
    return {"unit": "bits per character: total over characters and END tokens", "n_chars": n_chars, **found}


# ---------------------------------------------------------------- writing

def round_robin(sequences, limit):
    """Sequences of a corpus cut to `limit` characters: every group's first, then every group's second, and so on."""
    rank, keyed = Counter(), []
    for sequence in sorted(sequences, key=lambda s: (s["group"], s["order"], s["piece"])):
        keyed.append((rank[sequence["group"]], sequence["number"], sequence["order"], sequence["piece"], sequence))
        rank[sequence["group"]] += 1
    kept, used = [], 0
    for *_, sequence in sorted(keyed, key=lambda row: row[:4]):
        if used + sequence["chars"] <= limit:
            kept.append(sequence)
            used += sequence["chars"]
    return kept


def write_split(data, split, sequences, spool, characters=None):
    """Writes <split>.txt; returns the set of its characters."""
    seen = set()
    with atomic(data / f"{split}.txt", "wb") as file:
        for i, sequence in enumerate(sequences):
            text = spool_read(spool, sequence)
            seen.update(text)
            file.write(("\n" if i else "").encode() + text.encode())
    return seen


def spool_read(spool, sequence):
    """Text of a sequence."""
    return os.pread(spool.fileno(), sequence["bytes"], sequence["at"]).decode()


def write_tokens(data, split, sequences, spool, tokenizer):
    """Writes <split>_tokens.npy and <split>_sequences.tsv; returns the number of tokens."""
    total = sum(sequence["chars"] + 2 for sequence in sequences)
    at = 0
    with atomic(data / f"{split}_tokens.npy", "wb") as file, atomic(data / f"{split}_sequences.tsv") as table:
        np.lib.format.write_array_header_1_0(file, {
            "descr": np.lib.format.dtype_to_descr(np.dtype(tokenizer.dtype)), "fortran_order": False,
            "shape": (total,)})
        table.write("index\torigin\tgroup\tpiece\tn_pieces\tfirst_bar\ttoken_offset\tcharacters\n")
        for i, sequence in enumerate(sequences):
            tokens = np.empty(sequence["chars"] + 2, tokenizer.dtype)
            tokens[0], tokens[1:-1], tokens[-1] = BEGIN, tokenizer.encode(spool_read(spool, sequence)), END
            file.write(tokens.tobytes())
            first = "" if sequence["first_bar"] is None else sequence["first_bar"]
            table.write(f"{i}\t{sequence['origin']}\t{sequence['group']}\t{sequence['piece']}\t{sequence['n_pieces']}\t"
                        f"{first}\t{at}\t{sequence['chars']}\n")
            at += len(tokens)
    return total


# ---------------------------------------------------------------- the stage

def parse_arguments(argv):
    parser = stage_parser(__doc__)
    parser.add_argument("--abc", type=Path, metavar="DIR", help="read .abc files and tunebooks of DIR, not stage 02's")
    parser.add_argument("--from-splits", type=Path, metavar="DIR",
                        help="take DIR/train.txt, val.txt and test.txt as they are (any text; tunes separated by an "
                             "empty line or X: lines)")
    parser.add_argument("--limit-chars", type=int, metavar="N",
                        help="budget in characters, spread evenly over the groups (default: all)")
    parser.add_argument("--collections", metavar="NAMES",
                        help="folders to keep, comma-separated; to drop some instead: --collections=-NAME,-NAME")
    parser.add_argument("--holdout", type=Path, metavar="FILE",
                        help="lines `val|test|train TAB path or group`: groups whose split is fixed")
    parser.add_argument("--min-notes", type=int, default=MIN_NOTES, metavar="N",
                        help=f"drop tunes with fewer notes (default: {MIN_NOTES})")
    parser.add_argument("--max-rest-share", type=float, default=MAX_REST_SHARE, metavar="SHARE",
                        help=f"drop tunes whose voices rest for more of the time (default: {MAX_REST_SHARE})")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_arguments(argv)
    me = "03_tokenize_split.py"
    folder = args.abc or resolve_root(args) / "data/abc_notation"
    config = {"limit_chars": args.limit_chars, "collections": args.collections, "min_notes": args.min_notes,
              "max_rest_share": args.max_rest_share}
    if args.abc:
        if not args.abc.is_dir():
            fail(me, f"--abc {args.abc}: there is no such folder")
        config["abc"] = value_digest([(name, file_digest(args.abc / name)) for name in tree_files(args.abc)])
    stage = Stage(__file__, args, config, reads=() if args.abc else None)
    if stage.up_to_date():
        return
    workers = args.workers or len(os.sched_getaffinity(0))
    names = [name for name in tree_files(folder) if name.lower().endswith(".abc")]
    if not names:
        fail(me, "there is not one .abc file to read", None if args.abc else "run: python 02_midi_to_abc.py" + stage.flags)
    data = stage.root / "data"
    with stage.writing(), tempfile.TemporaryFile(dir=data, prefix=TEMPORARY) as spool:
        tunes, sequences, dropped = [], [], Counter()
        jobs = [(str(folder / name), name) for name in names]
        with multiprocessing.Pool(workers, start_worker) as pool:
            for found in progress(pool.imap(read_file, jobs, chunksize=16), len(jobs), "reading", "file"):
                for tune in found:
                    tune["places"] = []
                    for first_bar, text in tune.pop("pieces"):
                        encoded = text.encode()
                        tune["places"].append((first_bar, spool.tell(), len(encoded), len(text)))
                        spool.write(encoded)
                    tunes.append(tune)
        spool.flush()
        signatures = np.stack([tune["signature"] for tune in tunes])
        pairs, _ = similar_pairs(signatures, np.array([tune["n_shingles"] for tune in tunes]))
        groups = {}
        for tune, number in zip(tunes, find_groups(tunes, pairs)):
            groups.setdefault(number, []).append(tune)
        seen = set()
        for members in groups.values():
            name = name_group(members)
            for tune in members:
                tune["group"] = name
        for tune in tunes:
            if tune["exact"] in seen:
                dropped["exact duplicate"] += 1
                continue
            seen.add(tune["exact"])
            if tune["n_notes"] < args.min_notes:
                dropped["fewer notes than --min-notes"] += 1
                continue
            if tune["rest_share"] is not None and tune["rest_share"] > args.max_rest_share:
                dropped["more rests than --max-rest-share"] += 1
                continue
            order = hash_number(args.seed, tune["exact"].hex())
            for i, (first_bar, at, n_bytes, chars) in enumerate(tune["places"], 1):
                if not MIN_CHARS <= chars <= MAX_CHARS:
                    dropped["sequence too short"] += 1
                    continue
                sequences.append({"origin": tune["origin"], "group": tune["group"], "order": order, "piece": i,
                                  "n_pieces": len(tune["places"]), "first_bar": first_bar, "at": at, "bytes": n_bytes,
                                  "chars": chars, "number": hash_number(args.seed, tune["group"])})
        if args.limit_chars:
            sequences = round_robin(sequences, args.limit_chars)
        chars = Counter()
        for sequence in sequences:
            chars[sequence["group"]] += sequence["chars"]
        if len(chars) < 3:
            fail(me, f"{len(chars)} group(s) of tunes cannot make three splits", "use more music")
        splits, shares = assign_splits(chars, args.seed)
        parts = {split: sorted((s for s in sequences if splits[s["group"]] == split),
                               key=lambda s: (s["order"], s["origin"], s["piece"])) for split in SPLITS}
        characters = {split: write_split(data, split, parts[split], spool) for split in SPLITS}
        tokenizer = Tokenizer(characters["train"])
        tokenizer.save(data / "tokenizer.pkl")
        n_tokens = {split: write_tokens(data, split, parts[split], spool, tokenizer) for split in SPLITS}
        baselines = measure_baselines(data, tokenizer.vocab_size)
        write_json(data / "baselines.json", {**baselines, "tokenizer_digest": tokenizer.digest})
        n_chars = {split: sum(s["chars"] for s in parts[split]) for split in SPLITS}
        stats = {"tunes": len(tunes), "groups": len(groups), "dropped": dict(dropped), "characters": n_chars,
                 "tokens": n_tokens, "sequences": {split: len(parts[split]) for split in SPLITS},
                 "vocabulary": tokenizer.vocab_size, "tokenizer_digest": tokenizer.digest, "held_out_share": shares}
        write_json(data / "stats.json", stats)
        outputs = ["data/tokenizer.pkl", "data/baselines.json", "data/stats.json"] + [
            f"data/{split}{end}" for split in SPLITS for end in (".txt", "_tokens.npy", "_sequences.tsv")]
        stage.finish(outputs, counts={"tunes": len(tunes), "groups": len(groups)}, skipped=dict(dropped), summary={
            "tunes": len(tunes), "groups": len(groups),
            **{f"{split} characters": n_chars[split] for split in SPLITS}, "vocabulary": tokenizer.vocab_size},
            extra={"tokenizer_digest": tokenizer.digest, "characters": n_chars, "tokens": n_tokens})


if __name__ == "__main__":
    run(main)
