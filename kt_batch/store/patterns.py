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
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return matches(parts, pattern[1:]) or (bool(parts) and matches(parts[1:], pattern))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and matches(parts[1:], pattern[1:])
