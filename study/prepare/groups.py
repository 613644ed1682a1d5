"""Says which tunes are one song, and which split a song belongs to.

Tunes are in one group if they have one name (artist and title), are parts of one work (a song
cycle, a quartet), have the same notes (in any key, at any speed), or much melody in common (MinHash
over runs of intervals; Broder 1997), of all voices or of the top voices alone. Groups are connected
components. A split is a function of the group's name and the seed.
"""

import hashlib
import math
import re
import unicodedata
from collections import defaultdict
from pathlib import PurePosixPath

import numpy as np

from music.windows import mix

# ---------------------------------------------------------------- names

GENERIC_FOLDERS = "various|various artists|midi|midis|unknown|misc|songs|music|other".split("|")
# in brackets: which performance, not which song
VERSION_WORDS = (
    "live|remix|remixed|version|edit|acoustic|instrumental|karaoke|demo|remaster|remastered|unplugged"
    "|feat|ft"
)
# `bwv244.62` is one chorale of a Passion, no 62nd copy of it
CATALOGUE = re.compile(r"(?i)[a-z]{1,4}\d+\.\d+")
GENERIC_TITLE = re.compile(
    r"(untitled|unknown|track|title|song|tune|no name|none|noname|gan ainm|jig|reel|hornpipe|"
    r"polka|waltz|march|air|menuet|minuet|gigue|sonata|etude|prelude|fugue|intro|new)?"
)


def words(text):
    """Returns the words of a name in lower case without accents: `L'Été (1)` -> `lete 1`."""
    plain = unicodedata.normalize("NFKD", re.sub("['`\u2019]", "", text))
    plain = "".join(c for c in plain if not unicodedata.combining(c)).lower()
    return " ".join(re.findall(r"[^\W_]+", plain))


def artist_key(artist):
    """Returns an artist's words in order: `Rod Stewart` and `STEWART,Rod` are one."""
    telling = [word for word in words(artist).split() if word not in ("the", "and")]
    return " ".join(sorted(set(telling))) or words(artist)


def title_key(title):
    """Returns a title without copy number, version and punctuation: `Yesterday.2`, `Yesterday
    (live)` and `YESTERDAY!` are one."""
    title = re.sub(r"(?i)\.(mid|midi|kar|abc)$", "", title.strip())
    if not CATALOGUE.fullmatch(title):
        title = re.sub(r"(?i)(\.\d+|[ _]*\(\d+\)|[ _-]+(copy|kopie)( ?\d+)?)+$", "", title)
    version = rf"\b(?:{VERSION_WORDS})\b"
    bare = re.sub(r"(?i)[(\[{][^)\]}]*" + version + r"[^)\]}]*[)\]}]", " ", title)
    bare = re.sub(r"(?i)\s[-_]\s(?:[^-]*\s)?" + version + r"[^-]*$", " ", bare)
    return words(bare) or words(title)


def name_key(artist, title):
    """Returns cleaned artist and title, which all versions of a song share; None if too general.

    >>> name_key("Stewart,Rod", "Sailing.2"), name_key("x", "Jig.2")
    ('rod stewart/sailing', None)
    """
    if words(artist) in GENERIC_FOLDERS and " - " in title:
        artist, title = title.split(" - ", 1)
    title = title_key(title)
    return None if GENERIC_TITLE.fullmatch(title) else f"{artist_key(artist)}/{title}"


def path_key(path):
    """Returns the `name_key` of a file `artist/title.abc`."""
    path = PurePosixPath(path)
    return name_key(path.parent.name, path.stem)


def name_by_works(tunes, works):
    """Gives tunes `composer`, `work` and a name. works: {path: (composer, work)}."""
    for tune in tunes:
        path = PurePosixPath(tune["origin"].partition("#")[0])
        tune["composer"], work = works.get(str(path), ("", ""))
        if tune["composer"]:
            title = re.sub(r"^(?:No\.? ?)?\d+[.)]? +", "", path.stem)
            tune["name"] = name_key(tune["composer"], title)
            tune["work"] = work and name_key(tune["composer"], work)


# ---------------------------------------------------------------- notes

SHINGLE = 6  # intervals in a run; with 4, unrelated pieces reach a likeness of 0.29, with 6 0.10
N_HASHES = 254  # MinHash functions: the standard error of a likeness of 0.2 is 0.025
ROWS = 2  # hashes in a band: two tunes alike by 0.2 meet in one with probability 0.994
MATCH = 0.2  # likeness (Jaccard index) that makes two tunes one song: benchmarks/data.md
MELODY_MATCH = 0.25  # of two top voices: hymns are short and share phrases
MIN_SHINGLES = 16  # with fewer, likeness is chance
_random = np.random.default_rng(20240501)  # constants of the hash functions
_FACTORS = _random.integers(0, 2**63, N_HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_OFFSETS = _random.integers(0, 2**63, N_HASHES, dtype=np.uint64)
_WEIGHTS = _random.integers(0, 2**63, SHINGLE, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_LEVELS = _random.integers(0, 2**63, 64, dtype=np.uint64)


def shingles(voices):
    """Returns hashes of all runs of SHINGLE melodic intervals (uint64, unique, sorted). voices:
    [(onsets, durations, pitches)].

    Chords count as their top note and repeated pitches as one, so neither key, tempo nor note
    values matter. Runs over fewer than four pitches (ostinati, trills) are left out. A run that
    occurs 2, 4, 8 ... times enters once more for each: else wrong notes, different at every repeat,
    would outnumber the right ones.
    """
    hashes = []
    for onsets, _, pitches in voices:
        order = np.lexsort((pitches, onsets))
        onsets, pitches = onsets[order], pitches[order]
        line = pitches[np.append(onsets[1:] != onsets[:-1], True)]
        line = line[np.append(True, line[1:] != line[:-1])]
        if len(line) <= SHINGLE:
            continue
        window = np.lib.stride_tricks.sliding_window_view(line, SHINGLE + 1)
        ordered = np.sort(window, axis=1)
        varied = (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1) >= 3
        intervals = np.diff(window[varied], axis=1).astype(np.int64).astype(np.uint64)
        hashes.append(mix((intervals * _WEIGHTS).sum(axis=1, dtype=np.uint64)))
    if not hashes:
        return np.empty(0, np.uint64)
    runs, counts = np.unique(np.concatenate(hashes), return_counts=True)
    levels = [runs]
    for level in range(1, int(counts.max(initial=1)).bit_length()):
        levels.append(mix(runs[counts >= 1 << level] + _LEVELS[level]))
    return np.unique(np.concatenate(levels))


def top_voice(voices):
    """Returns the highest voice on average of those with half the busiest's notes or more."""
    most = max(len(pitches) for *_, pitches in voices)
    busy = [voice for voice in voices if 2 * len(voice[2]) >= most]
    return max(busy, key=lambda voice: voice[2].mean())


def signature(hashes):
    """Returns the MinHash signature (N_HASHES,): the share of equal entries estimates likeness."""
    least = np.full(N_HASHES, 2**64 - 1, np.uint64)
    for start in range(0, len(hashes), 512):
        part = hashes[start : start + 512, None] * _FACTORS + _OFFSETS
        least = np.minimum(least, part.min(axis=0))
    return (least >> np.uint64(32)).astype(np.uint32)


def note_digests(voices):
    """Returns digests of the notes of all voices, and of them in any key and at any speed."""
    onsets, durations, pitches = (np.concatenate(part).astype(np.int64) for part in zip(*voices))
    onsets = onsets - onsets.min()
    exact = np.stack([onsets, durations, pitches])[:, np.lexsort((durations, pitches, onsets))]
    unit = np.gcd.reduce(np.concatenate([onsets, durations])) or 1
    free = np.stack([exact[0] // unit, exact[1] // unit, exact[2] - pitches.min()])
    texts = (part.astype("<i8").tobytes() for part in (exact, free))
    return tuple(hashlib.blake2b(text, digest_size=16).digest() for text in texts)


# ---------------------------------------------------------------- groups


def similar_pairs(signatures, n_shingles, match):
    """Returns sorted pairs (n, 2) of tunes with an estimated likeness of `match` or more, among
    those that agree in a band of ROWS hashes."""
    usable = np.flatnonzero(n_shingles >= MIN_SHINGLES)
    pairs = set()
    for band in range(0, N_HASHES - ROWS + 1, ROWS):
        key = np.zeros(len(usable), np.uint64)
        for row in range(band, band + ROWS):
            key = mix(key + signatures[usable, row].astype(np.uint64))
        order = np.argsort(key, kind="stable")
        key, members = key[order], usable[order]
        step, left = 1, np.arange(len(members) - 1)
        while len(left):  # pairs at distance 1, 2, ... in the list of those that share this band
            left = left[left + step < len(members)]
            left = left[key[left] == key[left + step]]
            for part in np.array_split(left, len(left) // 100_000 + 1):
                first, second = members[part], members[part + step]
                alike = (signatures[first] == signatures[second]).mean(axis=1)
                close = alike >= match
                pairs.update(zip(*np.sort([first[close], second[close]], axis=0).tolist()))
            step += 1
    return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)


def find_groups(keys, pairs):
    """Numbers the components of tunes under similar pairs and equal values. keys: lists of a value
    a tune, e.g. its name; empty ones say nothing."""
    from scipy.sparse import coo_array, csgraph  # 0.2 s that the workers do not need

    links = [pairs]
    for values in keys:
        first = {}
        links.append([(first.setdefault(value, i), i) for i, value in enumerate(values) if value])
    links = np.concatenate([np.array(part, dtype=np.int64).reshape(-1, 2) for part in links])
    graph = coo_array((np.ones(len(links), bool), links.T), shape=(len(keys[0]), len(keys[0])))
    return csgraph.connected_components(graph, directed=False)[1].tolist()


def group_tunes(tunes):
    """Gives every tune (see reading.py) its `group`."""
    first = {}
    for i, tune in enumerate(tunes):
        first.setdefault(tune["exact"], i)
    unique = np.array(sorted(first.values()), dtype=np.int64)  # the same notes need no likeness
    pairs = []
    for prints, n_runs, match in (
        ("signature", "n_shingles", MATCH),
        ("melody_signature", "n_melody", MELODY_MATCH),
    ):
        signatures = np.stack([tunes[i][prints] for i in unique])
        n_shingles = np.array([tunes[i][n_runs] for i in unique])
        pairs.append(similar_pairs(signatures, n_shingles, match))
    keys = [[tune.get(key) for tune in tunes] for key in ("name", "work", "free")]
    members = defaultdict(list)
    for tune, component in zip(tunes, find_groups(keys, unique[np.concatenate(pairs)])):
        members[component].append(tune)
    for part in members.values():
        name = name_group(part)
        for tune in part:
            tune["group"] = name


def name_group(tunes):
    """Names a group (16 hex digits) by its tune with the most notes; of equals, the one with fewest
    shingles (a copy with wrong notes has more), then one without digits in its name (copies are
    numbered), then by hash: most versions that join do not change it."""
    ranked = []
    for tune in tunes:
        label = tune["name"] or tune["free"].hex()
        digest, is_numbered = hashlib.sha256(label.encode()), bool(re.search(r"\d", label))
        row = (-(tune["n_notes"] or 0), tune["n_shingles"], is_numbered, digest.hexdigest())
        ranked.append(row)
    return min(ranked)[-1][:16]


# ---------------------------------------------------------------- splits

# of val, and of test
LEAST_GROUPS = 20  # with fewer, one odd song decides a loss
LEAST_CHARS = 20_000  # 60 folk tunes; their loss has an error of 2 %
LEAST_SHARE = 1 / 16  # of a corpus too small for that
MOST_SHARE = 1 / 6  # of the groups, less one: chance may put six of ten below the share
# shares of the groups, of which the first with enough is taken: a corpus that grows a little keeps
# its splits
STEPS = (0.01, 0.02, 0.04, 0.08, 0.12, 0.16)


def hash_number(*parts):
    """Returns a number in [0, 1) from a hash of the parts."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def assign_splits(chars, seed):
    """Returns ({group: split}, {split: share of the groups}); chars: {group: characters}.

    val takes the groups whose hash of seed and name is lowest, test those of highest. Of less than
    sixteen groups the largest trains.
    """
    splits, shares = dict.fromkeys(chars, "train"), {}
    number = {group: hash_number(seed, group) for group in chars}
    if len(chars) * LEAST_SHARE < 1:
        del number[max(chars, key=lambda group: (chars[group], group))]
    least_groups = min(LEAST_GROUPS, math.ceil(LEAST_SHARE * len(chars)))
    least_chars = min(LEAST_CHARS, int(LEAST_SHARE * sum(chars.values())))

    def enough(chosen):
        return len(chosen) >= least_groups and sum(map(chars.get, chosen)) >= least_chars

    for split in ("val", "test"):
        if split == "test":
            number = {group: 1 - n for group, n in number.items()}
        ranked = sorted((group for group in number if splits[group] == "train"), key=number.get)
        for share in STEPS:
            chosen = [group for group in ranked if number[group] < share]
            if enough(chosen):
                break
        while len(chosen) < len(ranked) and not enough(chosen):  # too few below every step
            chosen.append(ranked[len(chosen)])
        chosen = chosen[: max(1, int(MOST_SHARE * len(chars)) - 1)]
        shares[split] = share
        splits.update(dict.fromkeys(chosen, split))
    return splits, shares
