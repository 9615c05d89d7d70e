"""List the files below a directory: those that may be inputs, all others, and the libraries and runs."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from kt_batch.errors import StorageError
from kt_batch.store import layout
from kt_batch.store.passed_over import is_hidden, is_image_name


@dataclass
class Below:
    """The paths below a place.

    images: Files with an image suffix. others: All other files. ours: Libraries and runs, which are not entered.
    """

    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    ours: list[str] = field(default_factory=list)

    def add(self, path: str) -> None:
        """Add a file. Directories whose names begin with a dot are hidden with everything in them."""
        (self.images if is_image_name(path) else self.others).append(path)


def walk(root: Path, depth: int | None = None) -> Below:
    """Return the paths below `root`. Of a hidden directory only its own name is listed, among the others.

    Each directory is entered once, through a link only when it was not met otherwise, so cycles end.

    Args:
        root: the directory.
        depth: most components of a path; None for any number.

    Raises:
        StorageError: a directory cannot be listed.
    """
    pending, seen = deque([root]), set[tuple[int, int]]()
    below = Below()
    while pending:
        for text, directories, files in os.walk(pending.popleft(), onerror=_cannot_list):
            folder = Path(text)
            identity = _identity(folder)
            if identity in seen:
                directories.clear()
                continue
            seen.add(identity)
            start = folder.relative_to(root)
            if folder != root and layout.PLAN in directories and (folder / layout.plan_path(0)).is_file():
                below.ours.append(start.as_posix())
                directories.clear()
                continue
            deeper = depth is None or len(start.parts) + 1 < depth
            below.others += [(start / name).as_posix() for name in directories if deeper and is_hidden(name)]
            visible = sorted(name for name in directories if deeper and not is_hidden(name))
            elsewhere = [name for name in visible if _leads_into_ours(folder / name, root)]
            below.ours += [(start / name).as_posix() for name in elsewhere]
            directories[:] = [name for name in visible if name not in elsewhere]
            pending.extend(folder / name for name in directories if (folder / name).is_symlink())
            for name in files:
                below.add((start / name).as_posix())
    return below


def among(paths: list[str]) -> Below:
    """Sort all paths below a prefix of a store, as `walk` does those below a directory."""
    first = f"/{layout.plan_path(0)}"
    ours = [path.removesuffix(first) for path in paths if path.endswith(first) and path != first]
    inside = tuple(f"{place}/" for place in ours)
    below = Below(ours=ours)
    for path in paths:
        if not (inside and path.startswith(inside)) and not path.endswith("/"):  # a key with a slash marks a folder
            below.add(path)
    return below


def _leads_into_ours(path: Path, root: Path) -> bool:
    """Tell whether a directory is a link into a library or a run that does not hold `root` as well."""
    if not path.is_symlink():
        return False
    real, start = path.resolve(), root.resolve()
    holders = [folder for folder in real.parents if (folder / layout.plan_path(0)).is_file()]
    return any(not start.is_relative_to(folder) for folder in holders)


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        _cannot_list(error)
    return status.st_dev, status.st_ino


def _cannot_list(error: OSError) -> NoReturn:
    raise StorageError(f"cannot list the directory {error.filename!r}: {error.strerror}") from error
