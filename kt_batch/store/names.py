"""Names within a location.

They are relative paths that mean the same on every system and never leave the location.
"""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

from kt_batch.errors import UsageError

TEMP_PREFIX = ".tmp-"  # of an unfinished file; no component of another name may begin with it
FILE_SCHEME = "file://"
MAX_COMPONENT_BYTES = 255  # limit of common file systems

Names: TypeAlias = list[str]  # locations have a method `list`, which hides the type

_DRIVE = re.compile(r"[A-Za-z]:")


def safe_name(name: str) -> str:
    """Return `name` unchanged when it is a safe name.

    A safe name is a relative path that stays below its location on any system.

    Raises:
        UsageError: an empty or absolute path, an empty component, `.` or `..`, a backslash or a drive letter (which
            leave the location on Windows), control characters, text that is not UTF-8, a component over 255 bytes, or
            `.tmp-...`.
    """
    fault = _fault(name)
    if fault is not None:
        raise UsageError(f"the name {name!r} {fault}; allowed is a relative path such as 'park/a.jpg'")
    return name


def check_range(name: str, start: int, length: int) -> None:
    """Raise UsageError for a range with a negative start or length."""
    if start < 0 or length < 0:
        raise UsageError(f"a range of {name!r} from {start} with length {length} is negative; allowed is 0 and more")


def path_of_file_uri(uri: str) -> Path | None:
    """Return the path of a file:// URI.

    None when it has no path, or names another machine.
    """
    host, slash, rest = uri[len(FILE_SCHEME) :].partition("/")
    if host not in ("", "localhost") or not slash:
        return None
    return Path("/" + os.fsdecode(unquote_to_bytes(rest)))


def in_command(uri: str) -> str:
    """Return a place as a user types it in a command: a path without a scheme, quoted where a shell asks for it."""
    path = path_of_file_uri(uri) if uri.startswith(FILE_SCHEME) else None
    return shlex.quote(uri if path is None else str(path))


def is_safe_name(name: str) -> bool:
    """Tell whether `safe_name` accepts `name`."""
    return _fault(name) is None


def _fault(name: str) -> str | None:
    if not name:
        return "is empty"
    if name.startswith("/"):
        return "is absolute"
    if _DRIVE.match(name):
        return "begins with a drive letter"
    faults = (_component_fault(part) or _character_fault(part) for part in name.split("/"))
    return next((fault for fault in faults if fault), None)


def _character_fault(component: str) -> str | None:
    if component.isascii() and component.isprintable():
        return "holds a backslash" if "\\" in component else None
    categories = {unicodedata.category(character) for character in component}
    if "Cs" in categories:
        return "is not valid UTF-8"
    if "Cc" in categories:
        return "holds a control character"
    return "holds a backslash" if "\\" in component else None


def _component_fault(component: str) -> str | None:
    if not component:
        return "holds an empty component"
    if component in (".", ".."):
        return f"holds the component {component!r}"
    if component.startswith(TEMP_PREFIX):
        return f"holds a component that begins with {TEMP_PREFIX!r}, which is reserved for unfinished files"
    size = len(component.encode(errors="surrogatepass"))
    return f"holds a component of {size} bytes, over {MAX_COMPONENT_BYTES}" if size > MAX_COMPONENT_BYTES else None
