"""How many songs the names of an archive hold, by names alone.

Run:    python -m benchmarks.bench_name_groups LIST [--show 20]
Reads:  a table, one file a line, tab-separated, the path `artist/title.mid` last.
Prints: files, songs, share of files whose song has two or more versions, and random groups to look
at.
"""

import argparse
import csv
import random
from collections import Counter
from pathlib import Path

from study.prepare import groups


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("list", type=Path)
    parser.add_argument("--show", type=int, default=20)
    args = parser.parse_args()
    with open(args.list, encoding="utf-8", newline="") as file:
        paths = [row[-1] for row in csv.reader(file, delimiter="\t") if row]
    songs, alone = {}, 0
    for path in paths:
        key = groups.path_key(path)
        alone += key is None
        songs.setdefault(key or path, []).append(path)
    print(f"files: {len(paths):,}\nsongs: {len(songs):,}\ntitles too general to join: {alone}")
    print(
        f"artists: {len({path.split('/')[0] for path in paths}):,} folders, "
        f"{len({groups.artist_key(path.split('/')[0]) for path in paths}):,} names"
    )
    print(
        "files with a sibling:"
        f" {sum(len(part) for part in songs.values() if len(part) > 1) / len(paths):.1%}"
    )
    print("songs by number of files:", dict(sorted(Counter(map(len, songs.values())).items())))
    several = sorted(key for key, part in songs.items() if len({p.split(".")[0] for p in part}) > 1)
    for key in random.Random(0).sample(
        sorted(k for k in songs if len(songs[k]) > 1), args.show // 2
    ) + random.Random(1).sample(several, args.show - args.show // 2):
        print(f"  {key}: " + " | ".join(songs[key][:6]) + (" ..." if len(songs[key]) > 6 else ""))


if __name__ == "__main__":
    main()
