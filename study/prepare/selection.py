"""Chooses which tunes and pieces of them enter the text, and in which split.

A *sequence* is a piece of a tune, a dict: origin, group, piece (number from 1), n_pieces,
first_bar, at and bytes (its place in the spool), chars, order (of its tune in a split) and turn (of
it among the tune's pieces): numbers in [0, 1) by hash.
"""

import hashlib
from collections import Counter, defaultdict

from study.stages.arguments import fail
from study.stages.files import table_rows

from study.prepare import groups
from study.prepare.reading import MIN_CHARS

SPLITS = ("train", "val", "test")
MIN_NOTES = 16  # of a tune: the least that `check_abc` calls music
# of the time of a tune's voices: beyond it a tune teaches only how to write rests
MAX_REST_SHARE = 0.95
NAMES = 20  # of tunes left out for one reason, that stats.json gives
ME = "03_tokenize_split.py"  # who speaks in the messages


def read_works(path):
    """Returns {path: (composer, work)} of the rows of conversion.tsv that know a composer."""
    return {r["path"]: (r["composer"], r["work"]) for r in table_rows(path) if r.get("composer")}


def filter_tunes(tunes):
    """Returns (tunes that stay, {reason: [origin]}): the first by path of exact duplicates, and
    only what is music."""
    kept, dropped, seen = [], defaultdict(list), set()
    for tune in tunes:
        n_notes, rests = tune["n_notes"], tune["rest_share"]
        if tune["reason"]:
            dropped["cannot be read as ABC"].append(tune["origin"])
            continue
        if tune["exact"] in seen:
            reason = "exact duplicate of another tune"
        elif n_notes is not None and n_notes < MIN_NOTES:
            reason = f"fewer than {MIN_NOTES} notes"
        elif rests is not None and rests > MAX_REST_SHARE:
            reason = f"rests for more than {MAX_REST_SHARE} of the time"
        else:
            reason = None
            kept.append(tune)
        seen.add(tune["exact"])
        if reason:
            dropped[reason].append(tune["origin"])
    return kept, dropped


def make_sequences(tunes, seed, min_chars=MIN_CHARS):
    """Returns (sequences, number of pieces left out as shorter than min_chars)."""
    sequences, n_short = [], 0
    for tune in tunes:
        key = (tune["exact"] + tune["free"]).hex()
        common = {"origin": tune["origin"], "group": tune["group"]}
        common |= {"n_pieces": len(tune["pieces"]), "order": groups.hash_number(seed, key)}
        for piece, (first_bar, at, n_bytes, chars) in enumerate(tune["pieces"], 1):
            if chars < min_chars:
                n_short += 1
                continue
            place = {"piece": piece, "first_bar": first_bar, "at": at, "bytes": n_bytes}
            turn = groups.hash_number(seed, key, piece)
            sequences.append({**common, **place, "chars": chars, "turn": turn})
    return sequences, n_short


def limit_sequences(sequences, limit, seed):
    """Returns at most `limit` characters: one sequence of every group, then a second one, and so
    on. A smaller budget's choice is part of a larger one's."""
    n_before, ranked = Counter(), []
    for s in sorted(sequences, key=lambda s: (s["group"], s["turn"], s["origin"], s["piece"])):
        turn_of_group = groups.hash_number(seed, s["group"], "turn")
        ranked.append((n_before[s["group"]], turn_of_group, s))
        n_before[s["group"]] += 1
    kept, used = [], 0
    for *_, sequence in sorted(ranked, key=lambda row: row[:2]):
        used += sequence["chars"]
        if used > limit:
            break
        kept.append(sequence)
    return kept


def in_order(sequences):
    """Returns the sequences of a split in the order of its text."""
    return sorted(sequences, key=lambda s: (s["order"], s["origin"], s["piece"]))


def split_ready(tunes, seed):
    """Returns {split: sequences} of ready-made text, every part a group of its own."""
    parts = {}
    for split in SPLITS:
        part = [tune for tune in tunes if tune["origin"] == f"{split}.txt"]
        if not part:
            fail(ME, f"{split}.txt: nothing but empty lines")
        for number, tune in enumerate(part, 1):
            tune["origin"] += f"#{number}"
            tune["group"] = hashlib.sha256(tune["exact"]).hexdigest()[:16]
        parts[split] = make_sequences(part, seed, 1)[0]
    return parts


def named(origins, n, most=3):
    """`a.abc, b.abc and 5 more` of n tunes, of which some have names."""
    return ", ".join(origins[:most]) + (f" and {n - most:,} more" if n > most else "")


def too_few(tunes, n_groups, dropped):
    """Says why so few groups are left: what was left out, and which tunes are one song."""
    left = f"of {len(tunes)} tunes, {n_groups} different songs are left: too few for three splits"
    words = [left, *(f"{len(names)} left out, {reason}" for reason, names in dropped.items())]
    members = defaultdict(list)
    for tune in tunes:
        members[tune["group"]].append(tune["origin"])
    for origins in members.values():
        if len(origins) > 1:
            words.append(f"one song in several versions: {named(origins, len(origins), 6)}")
    return "; ".join(words[:5])


def split_groups(tunes, seed, limit_chars=None):
    """Returns ({split: sequences}, tunes that stay, report for stats.json)."""
    groups.group_tunes(tunes)  # of all: a tune that is left out may join two versions of a song
    kept, names = filter_tunes(tunes)
    sequences, n_short = make_sequences(kept, seed)
    short = {tune["origin"] for tune in kept} - {sequence["origin"] for sequence in sequences}
    if short:
        names[f"shorter than {MIN_CHARS} characters"] = sorted(short)
    dropped = {reason: len(origins) for reason, origins in names.items()}
    if limit_chars:
        n_all = len(sequences)
        sequences = limit_sequences(sequences, limit_chars, seed)
        dropped["sequences beyond --limit-chars"] = n_all - len(sequences)
    chars = Counter()
    for sequence in sequences:
        chars[sequence["group"]] += sequence["chars"]
    if len(chars) < 3:
        fail(ME, too_few(tunes, len(chars), names), "use more music, or a larger --limit-chars")
    splits, shares = groups.assign_splits(chars, seed)
    parts = {
        split: in_order(s for s in sequences if splits[s["group"]] == split) for split in SPLITS
    }
    composers = Counter(tune["composer"] for tune in kept if tune.get("composer"))
    n_exact, n_free = (len({tune[key] for tune in tunes}) for key in ("exact", "free"))
    report = {
        "groups": len({tune["group"] for tune in tunes}),
        "composers": {"n": len(composers), "most": dict(composers.most_common(NAMES))},
        "transposed_or_retimed_copies": n_exact - n_free,
        "dropped_tunes": dropped,
        "dropped_names": {reason: origins[:NAMES] for reason, origins in names.items()},
        "short_sequences": n_short,
        "mended": dict(sum((Counter(tune["mended"]) for tune in tunes), Counter())),
        "held_out_share_of_groups": shares,
    }
    return parts, kept, report
