"""Patterns such as `photos/**/*.jpg`, for files and for the keys of a bucket."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

MAGIC = re.compile(r"[*?\[]")  # what makes a component a pattern


def split_pattern(path: str) -> tuple[str, list[str]]:
    """Split `a/b/*/c.jpg` into (`a/b`, [`*`, `c.jpg`]).

    Without a pattern the list is empty.
    """
    parts = path.split("/")
    first = next((index for index, part in enumerate(parts) if MAGIC.search(part)), len(parts))
    return "/".join(parts[:first]), parts[first:]


def matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Match a path with a pattern, component by component.

    `**` stands for any number of components, also none.
    """
    at = here = 0  # in the path, in the pattern
    last: tuple[int, int] | None = None  # the last `**`: where it stands, and where it ends in the path
    while at < len(parts):
        if here < len(pattern) and pattern[here] == "**":
            last, here = (here, at), here + 1
        elif here < len(pattern) and fnmatchcase(parts[at], pattern[here]):
            at, here = at + 1, here + 1
        elif last is not None:  # only the last one can help: what an earlier one gains, the last one can take
            last = (last[0], last[1] + 1)
            here, at = last[0] + 1, last[1]
        else:
            return False
    return all(part == "**" for part in pattern[here:])
