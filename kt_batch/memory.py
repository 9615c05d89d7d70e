"""The memory that this process may use, and the most that it has used.

It may use the machine's, or less where its control groups say so.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_LIMITS = {"cgroup2": "memory.max", "cgroup": "memory.limit_in_bytes"}  # type of the file system -> name of the limit


def memory_limit(process: Path = Path("/proc/self")) -> int:
    """Return the memory that this process may use, in bytes: the least of the machine's and its control groups'.

    A group is limited by the groups around it too, so every level up to the mounted root counts. A process without
    control groups has the machine's memory.

    Args:
        process: The process's folder in /proc.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_group_limits(process)])


def peak_memory(process: Path = Path("/proc/self")) -> int:
    """Return the most memory that this process has had resident since its program started, in bytes.

    Linux says so in /proc. `getrusage` counts the process that started this one too, up to that moment, so it is asked
    only where there is no /proc.

    Args:
        process: The process's folder in /proc.
    """
    for line in _read(process / "status").splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _group_limits(process: Path) -> Iterator[int]:
    """Yield every limit of the memory groups of a process."""
    groups = _memory_groups(_read(process / "cgroup"))
    for line in _read(process / "mounts").splitlines():
        fields = line.split(" ")
        if (
            len(fields) < 4
            or fields[2] not in groups
            or (fields[2] == "cgroup" and "memory" not in fields[3].split(","))
        ):
            continue
        mount = Path(fields[1].replace("\\040", " "))
        group = groups[fields[2]]
        # In a container the mounted root may be the group itself; then the levels that do not exist there are skipped.
        for level in (group, *group.parents):
            text = _read(mount / level / _LIMITS[fields[2]]).strip()
            if text.isdecimal():  # not `max`
                yield int(text)


def _memory_groups(text: str) -> dict[str, PurePosixPath]:
    """Return type of file system -> the process's memory group, relative to the mounted root."""
    groups = {}
    for line in text.splitlines():
        hierarchy, controllers, path = (*line.split(":", 2), "", "")[:3]
        kind = "cgroup2" if hierarchy == "0" and not controllers else "cgroup"
        if kind == "cgroup2" or "memory" in controllers.split(","):
            parts = [part for part in path.split("/") if part]
            groups[kind] = PurePosixPath() if ".." in parts else PurePosixPath(*parts)  # `..`: outside what is mounted
    return groups


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""  # no such hierarchy, level or permission: it says nothing
