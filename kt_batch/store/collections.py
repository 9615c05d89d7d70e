"""Places of several libraries: those that a pattern names, and those below a folder. Links are never followed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

from kt_batch.config import MOST_WEIGHT
from kt_batch.errors import StorageError, UsageError
from kt_batch.store import layout
from kt_batch.store.local import LocalLocation
from kt_batch.store.locations import Location, absolute_place, exists, open_location
from kt_batch.store.opening import kind_of, open_place
from kt_batch.store.passed_over import is_hidden
from kt_batch.store.patterns import MAGIC, split_pattern
from kt_batch.store.places import scheme_of

DEPTH = 4  # folders below a place in which libraries are looked for
MOST_LIBRARIES = 256  # searched together; provenance numbers them in a byte


@dataclass(frozen=True)
class WeightedPlace:
    """The place of a library, and times which its scores count."""

    place: str
    weight: float = 1.0


def weighted_places(given: Sequence[str]) -> tuple[WeightedPlace, ...]:
    """Return the places that texts such as `monet.lib`, `monet.lib=0.5` and `s3://bucket/libs/*` name, in their order.

    A text may end in `=` and a weight. A pattern stands for the libraries that it matches, by name.

    Raises:
        UsageError: A weight is not above 0 and at most MOST_WEIGHT, a pattern matches no library, a place is named
            twice, or there are more than MOST_LIBRARIES.
    """
    found: list[WeightedPlace] = []
    for text in given:
        place, weight = split_weight(text, "library")
        weight = 1.0 if weight is None else weight
        named = libraries_like(place) if MAGIC.search(place) and not _is_there(place) else [absolute_place(place)]
        found += [WeightedPlace(each, weight) for each in named]
    known = [_identity(each.place) for each in found]
    if twice := [each.place for each, identity in zip(found, known, strict=True) if known.count(identity) > 1]:
        raise UsageError(f"The library '{twice[0]}' is named twice; name each once.")
    if len(found) > MOST_LIBRARIES:
        raise UsageError(
            f"{len(found)} libraries are named; allowed are {MOST_LIBRARIES}; join some with kt-batch merge."
        )
    return tuple(found)


def _identity(place: str) -> str:
    """Return one text for a place, however it is spelled, and whatever link leads to it."""
    location = open_location(place)
    return str(location.root.resolve()) if isinstance(location, LocalLocation) else location.uri


def split_weight(text: str, what: str) -> tuple[str, float | None]:
    """Return the place and the weight that a text such as `monet.lib=0.5` names; None without a weight.

    Raises:
        UsageError: The weight is not above 0 and at most MOST_WEIGHT. `what` says what has it.
    """
    place, _, number = text.rpartition("=")
    try:
        weight = float(number)
    except ValueError:
        return text, None
    if not place:
        return text, None
    if not 0 < weight <= MOST_WEIGHT:
        raise UsageError(f"The {what} '{place}' has the weight {number}; allowed is above 0, up to {MOST_WEIGHT:g}.")
    return place, weight


def _is_there(place: str) -> bool:
    """Tell whether a file system holds a library whose name looks like a pattern."""
    return scheme_of(place) in (None, "file") and is_ours(place)


def libraries_like(pattern: str) -> list[str]:
    """Return the knowledge libraries that a pattern matches, sorted. Raises UsageError when it matches none."""
    place = absolute_place(pattern)
    scheme, separator, path = place.partition("://") if "://" in place else ("", "", place)
    prefix, parts = split_pattern(path)
    if "**" in parts:
        raise UsageError(f"The pattern '{pattern}' holds **; name the folder of the libraries, such as libs/*.")
    places = [f"{scheme}{separator}{prefix}" or "/"]
    for part in parts:
        places = [_below(each, name) for each in places for name in folders(each) if fnmatchcase(name, part)]
    found = sorted(each for each in places if is_ours(each) and kind_of(open_place(each)) == "library")
    if not found:
        raise UsageError(f"The pattern '{pattern}' matches no knowledge library.")
    return found


def places_below(place: str, depth: int = DEPTH) -> list[str]:
    """Return all libraries and runs at a place or below it, at most `depth` folders down, sorted.

    Nothing inside a library or a run is looked at. Hidden folders are passed over.

    Raises:
        StorageError: A folder cannot be listed.
    """
    return sorted(_ours(absolute_place(place), depth))


def _ours(place: str, depth: int) -> Iterator[str]:
    if is_ours(place):
        yield place
    elif depth:
        for name in folders(place):
            yield from _ours(_below(place, name), depth - 1)


def is_ours(place: str) -> bool:
    """Tell whether a library or a run lies at a place."""
    return exists(open_location(place), layout.plan_path(0))


def folders(place: str) -> list[str]:
    """Return the names of the folders directly below a place, sorted, without hidden ones and links.

    Raises:
        StorageError: The place cannot be listed.
    """
    location = open_location(place)
    names = _local_folders(location.root) if isinstance(location, LocalLocation) else _remote_folders(location)
    return sorted(name for name in names if name and not is_hidden(name))


def _local_folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        raise StorageError(f"cannot list the directory '{folder}': {error.strerror}") from error
    return [name for name in names if _is_text(name)]


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # no place of ours can have such a name
        return False
    return True


def _remote_folders(location: Location) -> Iterator[str]:
    store = cast("Any", location)  # of the one store that holds libraries
    return cast("Iterator[str]", store.list_folders(f"{store.prefix}/" if store.prefix else ""))


def _below(place: str, name: str) -> str:
    return f"{place.rstrip('/')}/{name}"
