"""Which tunes and which of their pieces enter the text, and in which split; groups.py says what
belongs together.

A *sequence* is one piece of one tune, a dict: origin, group, piece (number from 1), n_pieces,
first_bar, at and bytes
(its place in the spool), chars, order (of its tune in a split) and turn (of it among its tune's pieces): numbers in
[0, 1) drawn by hash from the seed and the notes, so that neither depends on what else is in the corpus.
"""

import hashlib
import re
from collections import Counter

from study.stages.arguments import fail

from study.prepare import groups
from study.prepare.reading import read_text

SPLITS = ("train", "val", "test")
NAMES = 20  # of tunes left out for one reason, that stats.json gives
ME = "03_tokenize_split.py"  # who speaks in the messages


# ---------------------------------------------------------------- what the user asks for


def chosen_folders(names, wanted):
    """Files in the folders that --collections keeps; ends the script if a folder does not exist."""
    folders = sorted({name.split("/")[0] for name in names if "/" in name})
    asked = [part.strip() for part in wanted.split(",") if part.strip()]
    keep, drop = {part for part in asked if part[0] != "-"}, {
        part[1:] for part in asked if part[0] == "-"
    }
    unknown = sorted((keep | drop) - set(folders))
    if unknown or not asked:
        fail(
            ME,
            f"--collections: there is no folder {', '.join(unknown) or '(none named)'}",
            "choose from: " + ", ".join(folders[:40]) + (" ..." if len(folders) > 40 else ""),
        )
    return [
        name
        for name in names
        if (not keep or name.split("/")[0] in keep) and name.split("/")[0] not in drop
    ]


def read_works(path):
    """{path: (composer, work)} of the rows of conversion.tsv that know a composer."""
    if not path.exists():
        return {}
    with open(path, encoding="utf-8") as table:
        columns = next(table).rstrip("\n").split("\t")
        if "composer" not in columns:
            return {}
        at = columns.index("composer"), columns.index("work")
        rows = (line.rstrip("\n").split("\t") for line in table)
        return {row[0]: (row[at[0]], row[at[1]]) for row in rows if row[at[0]]}


def read_holdout(path):
    """[(split, what)] of the lines `val|test|train TAB path, artist/title or group`; a line without
    TAB means test."""
    if not path.is_file():
        fail(ME, f"--holdout {path}: there is no such file")
    lines = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        split, tab, what = line.strip().rpartition("\t")
        if what and not line.startswith("#"):
            split = split.strip() if tab else "test"
            if split not in SPLITS:
                fail(
                    ME,
                    f"--holdout {path.name}: line {number}: no split is called {split!r}",
                    "write val, test or train",
                )
            lines.append((split, what.strip()))
    return lines


def fixed_groups(lines, tunes):
    """({group: split}, [what matches no tune]) of the lines of --holdout."""
    known = {}
    for tune in tunes:
        for key in (
            tune["group"],
            tune["origin"],
            tune["origin"].removesuffix(".abc"),
            tune["name"],
        ):
            known[key] = tune["group"]
    known.pop(None, None)
    fixed, unknown = {}, []
    for split, what in lines:
        keys = (what, re.sub(r"\.(mid|midi)$", "", what), groups.path_key(what + ".abc"))
        group = next((known[key] for key in keys if key in known), None)
        if group is None:
            unknown.append(what)
        elif fixed.setdefault(group, split) != split:
            fail(
                ME,
                f"--holdout: {what!r} is asked for in {split}, but another tune of its group in"
                f" {fixed[group]}",
                "tunes of one group must stay together: name one split for them",
            )
    return fixed, unknown


# ---------------------------------------------------------------- tunes and sequences


def filter_tunes(tunes, min_notes, max_rest_share):
    """(tunes that stay, {reason: [origin]}): the first by path of exact duplicates, and only what
    is music."""
    kept, dropped, seen = [], {}, set()
    for tune in tunes:
        if tune.get("reason"):
            dropped.setdefault("cannot be read as ABC", []).append(tune["origin"])
            continue
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
            dropped.setdefault(reason, []).append(tune["origin"])
        else:
            kept.append(tune)
    return kept, dropped


def make_sequences(tunes, seed, min_chars):
    """(sequences, number of pieces left out because they are shorter than min_chars)."""
    sequences, n_short = [], 0
    for tune in tunes:
        key = (tune["exact"] + tune["free"]).hex()
        order = groups.hash_number(seed, key)
        for piece, (first_bar, at, n_bytes, chars) in enumerate(tune["pieces"], 1):
            if chars < min_chars:
                n_short += 1
                continue
            sequences.append(
                {
                    "origin": tune["origin"],
                    "group": tune["group"],
                    "piece": piece,
                    "order": order,
                    "n_pieces": len(tune["pieces"]),
                    "first_bar": first_bar,
                    "at": at,
                    "bytes": n_bytes,
                    "chars": chars,
                    "turn": groups.hash_number(seed, key, piece),
                }
            )
    return sequences, n_short


def limit_sequences(sequences, limit, seed):
    """A budget of `limit` characters spread evenly over groups: one sequence of every group, then a
    second of every group that has more, and so on. A smaller budget's choice is part of a larger
    one's."""
    n_before, ranked = Counter(), []
    for sequence in sorted(
        sequences, key=lambda s: (s["group"], s["turn"], s["origin"], s["piece"])
    ):
        ranked.append(
            (
                n_before[sequence["group"]],
                groups.hash_number(seed, sequence["group"], "turn"),
                len(ranked),
                sequence,
            )
        )
        n_before[sequence["group"]] += 1
    kept, used = [], 0
    for *_, sequence in sorted(ranked, key=lambda row: row[:3]):
        used += sequence["chars"]
        if used > limit:
            break
        kept.append(sequence)
    return kept


# ---------------------------------------------------------------- splits


def split_ready(tunes, seed):
    """{split: sequences} of ready-made text: everything, in its own order, every tune a group of
    its own."""
    parts = {
        split: [tune for tune in tunes if tune["origin"] == f"{split}.txt"] for split in SPLITS
    }
    for part in parts.values():
        for number, tune in enumerate(part, 1):
            tune.update(
                origin=f"{tune['origin']}#{number}",
                group=hashlib.sha256(tune["exact"]).hexdigest()[:16],
            )
    empty = [f"{split}.txt" for split in SPLITS if not parts[split]]
    if empty:
        fail(ME, f"{', '.join(empty)}: nothing but empty lines")
    return {split: make_sequences(part, seed, 1)[0] for split, part in parts.items()}


def named(origins, n, most=3):
    """`a.abc, b.abc and 5 more` of n tunes, of which some are known by name."""
    return ", ".join(origins[:most]) + (f" and {n - most:,} more" if n > most else "")


def too_few(tunes, n_groups, dropped):
    """Why so few groups are left, in words: what was left out, and which tunes are one song."""
    members = {}
    for tune in tunes:
        members.setdefault(tune["group"], []).append(tune["origin"])
    words = [
        f"{len(origins)} left out, {reason}: {named(origins, len(origins))}"
        for reason, origins in dropped.items()
    ]
    words += [
        f"one song in several versions: {named(origins, len(origins), 6)}"
        for origins in members.values()
        if len(origins) > 1
    ]
    return (
        f"{n_groups} group{'s' * (n_groups != 1)} of different tunes"
        f" {'are' if n_groups != 1 else 'is'} left of {len(tunes)} tunes: too few for three splits"
        + "".join(f"; {word}" for word in words[:4])
    )


def composers_of(tunes):
    """{n, most: {composer: tunes}} of the tunes whose composer is known."""
    counts = Counter(tune["composer"] for tune in tunes if tune.get("composer"))
    return {"n": len(counts), "most": dict(counts.most_common(NAMES))}


def split_groups(tunes, holdout, seed, *, min_notes, max_rest_share, min_chars, limit_chars=None):
    """({split: sequences}, tunes that stay, report for stats.json) of tunes to be grouped, filtered
    and split.

    holdout: from `read_holdout`; limit_chars: budget of all splits together. Groups are made before
    anything is left
    out: what is left out may be what joins two versions of a song.
    """
    n_pairs, n_melodies = groups.group_tunes(tunes)
    fixed, unknown = fixed_groups(holdout, tunes)
    if holdout and len(unknown) == len(holdout):
        fail(
            ME,
            f"--holdout: none of its {len(holdout)} lines names a tune or group of this corpus, the"
            f" first is {unknown[0]!r}",
            "write paths as in data/train_sequences.tsv, or artist/title",
        )
    kept, dropped = filter_tunes(tunes, min_notes, max_rest_share)
    sequences, n_short = make_sequences(kept, seed, min_chars)
    short = sorted(
        {tune["origin"] for tune in kept} - {sequence["origin"] for sequence in sequences}
    )
    names = {**dropped, **({f"shorter than {min_chars} characters": short} if short else {})}
    dropped = {reason: len(origins) for reason, origins in dropped.items()}
    if limit_chars:
        n_all = len(sequences)
        sequences = limit_sequences(sequences, limit_chars, seed)
        dropped["sequences beyond --limit-chars"] = n_all - len(sequences)
    chars = Counter()
    for sequence in sequences:
        chars[sequence["group"]] += sequence["chars"]
    if len(chars) - len(fixed) < 3:
        fail(
            ME,
            too_few(tunes, len(chars), names),
            "use more music, or a larger --limit-chars, a lower --min-notes or a higher"
            " --max-rest-share",
        )
    splits, held_out = groups.assign_splits(chars, seed, fixed)
    parts = {
        split: sorted(
            (s for s in sequences if splits[s["group"]] == split),
            key=lambda s: (s["order"], s["origin"], s["piece"]),
        )
        for split in SPLITS
    }
    sizes = Counter(Counter(tune["group"] for tune in tunes).values())
    report = {
        "groups": sum(sizes.values()),
        "groups_left": len(chars),
        "composers": composers_of(kept),
        "tunes_per_group": {str(size): n for size, n in sorted(sizes.items())},
        "exact_duplicates": dropped.get("exact duplicate of another tune", 0),
        "transposed_or_retimed_copies": (
            len({t["exact"] for t in tunes}) - len({t["free"] for t in tunes})
        ),
        "similar_pairs": n_pairs,
        "similar_melodies": n_melodies,
        "dropped_tunes": dropped,
        "mended": dict(sum((Counter(tune.get("mended")) for tune in tunes), Counter())),
        "short_sequences": n_short,
        "dropped_names": {reason: origins[:NAMES] for reason, origins in names.items()},
        "floor": {
            "in_force": max(held_out.values()) > groups.STEPS[0],
            "share_of_groups": held_out,
            **dict(zip(("least_groups", "least_characters"), groups.least_held_out(chars))),
        },
        "holdout": {"groups": len(fixed), "lines_without_a_tune": unknown},
    }
    return parts, kept, report
