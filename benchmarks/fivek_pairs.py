"""Write the lists of pairs of MIT-Adobe FiveK with the hash of every file, and check files against them.

    python benchmarks/fivek_pairs.py write --before DIR --after DIR --folder DIR
    python benchmarks/fivek_pairs.py check DIR/fivek-train.csv DIR/fivek-test.csv

`write` makes `fivek-train.csv` (a0001 to a4500) and `fivek-test.csv` (a4501 to a5000). A file belongs to the number
that its name begins with. `check` reads every file again; it names those that are gone or differ, and ends with 1.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

NUMBER = re.compile(r"a(\d{4})(?!\d)")
LAST_FOR_TRAINING = 4500
COLUMNS = ("before", "after", "before_sha256", "after_sha256")
SPLITS = ("train", "test")


def numbered(folder: Path) -> dict[int, Path]:
    """Return number -> file of a folder; exits where two files have one number."""
    files: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        found = NUMBER.match(path.name)
        if found and path.is_file():
            number = int(found[1])
            if number in files:
                raise SystemExit(f"'{path}' and '{files[number]}' have one number; leave one of them in the folder.")
            files[number] = path
    return files


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(before: Path, after: Path, folder: Path) -> list[Path]:
    """Write both lists. Paths in them are relative to the folder of the lists."""
    sides = numbered(before), numbered(after)
    numbers = sorted(sides[0].keys() & sides[1].keys())
    if alone := sorted(sides[0].keys() ^ sides[1].keys()):
        print(f"{len(alone)} numbers have a file on one side only; the first is a{alone[0]:04}")
    folder.mkdir(parents=True, exist_ok=True)
    lists = []
    for split in SPLITS:
        lists.append(folder / f"fivek-{split}.csv")
        wanted = [number for number in numbers if (number <= LAST_FOR_TRAINING) == (split == "train")]
        with lists[-1].open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(COLUMNS)
            for number in wanted:
                paths = [side[number] for side in sides]
                rows.writerow([*(os.path.relpath(path, folder) for path in paths), *map(sha256, paths)])
        print(f"{lists[-1]}: {len(wanted)} pairs")
    return lists


def faults(place: Path) -> Iterator[str]:
    """Yield a sentence for every file of a list that is gone or differs."""
    with place.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for side in ("before", "after"):
                path = place.parent / row[side]
                if not path.is_file():
                    yield f"'{path}' is gone"
                elif sha256(path) != row[f"{side}_sha256"]:
                    yield f"'{path}' has another hash than in '{place}'"


def check(lists: list[Path]) -> int:
    """Check the files of lists; return how many are gone or differ."""
    found = [fault for place in lists for fault in faults(place)]
    print("\n".join(found) or f"all files of {len(lists)} lists are as they were")
    return len(found)


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    writing = actions.add_parser("write")
    for name in ("before", "after", "folder"):
        writing.add_argument(f"--{name}", type=Path, required=True)
    actions.add_parser("check").add_argument("lists", type=Path, nargs="+")
    options = parser.parse_args()
    if options.action == "write":
        write(options.before, options.after, options.folder)
    elif check(options.lists):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
