"""Names of inputs: relative paths of one line, one for each input, whatever its file is called."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath

from kt_batch.store.names import TEMP_PREFIX


def input_component(part: str) -> str:
    """Return a component that leads nowhere else and is one line of text.

    Percent codes replace backslashes, control characters, bytes that are not UTF-8, and the dot of `.`, `..` and
    `.tmp-`.
    """
    if part in (".", ".."):
        return part.replace(".", "%2E")
    text = "".join(percent_code(c) if c == "\\" or unicodedata.category(c) in ("Cc", "Cs") else c for c in part)
    return "%2E" + text[1:] if text.startswith(TEMP_PREFIX) else text


def input_name(path: str) -> str:
    """Return a relative path with each component as `input_component` returns it."""
    return "/".join(map(input_component, path.split("/")))


def percent_code(character: str) -> str:
    """Return the percent codes of a character, or of a byte that is not UTF-8."""
    return "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogateescape"))


def distinct(names: Mapping[str, str]) -> dict[str, str]:
    """Return key -> a name that no other key has.

    Each of several keys that share a name gets a hash of itself in it, and never a number, which would depend on what
    else is there.
    """
    unique = dict(names)
    while shared := {name for name, count in Counter(unique.values()).items() if count > 1}:
        unique = {key: tagged(name, short_hash(key)) if name in shared else name for key, name in unique.items()}
    return unique


def tagged(name: str, tag: str) -> str:
    """Return a name with a tag before its suffix: `x/a.jpg` -> `x/a-<tag>.jpg`."""
    path = PurePosixPath(name)
    return str(path.with_name(f"{path.stem}-{tag}{path.suffix}"))


def short_hash(text: str) -> str:
    """Return 16 hex digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]
