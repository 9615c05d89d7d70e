"""The libraries that are joined: opened, and checked that they belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kt_batch.config import ExtractConfig
from kt_batch.errors import MismatchError, UsageError
from kt_batch.pipelines.numerics import differing_numerics
from kt_batch.store.library import Library
from kt_batch.store.locations import Location, open_location
from kt_batch.store.mismatch import flat
from kt_batch.store.opening import open_library
from kt_batch.store.targets import check_place

TEXTS = ("tags", "license", "attribution")  # settings in which libraries may differ: each image has its own


def open_sources(places: Sequence[str], into: str, *, mix_numerics: bool) -> list[Library]:
    """Open the libraries to join, in their order.

    Args:
        places: Paths or URIs.
        into: The new library.
        mix_numerics: Join libraries whose patches were computed on different kinds of machines.

    Raises:
        UsageError: There are fewer than two, one stands there twice, is the new one or lies in it or
            around it, or one is not finished.
        MissingError: One is not there.
        MismatchError: One is no knowledge library, or they differ in a setting or a numerics class.
    """
    if len(places) < 2:
        raise UsageError(f"merge got {len(places)} of the libraries to join; allowed are two and more.")
    check_place("--into", into, ())
    target, seen = _identity(open_location(into)), set[str]()
    for place in places:
        identity = _identity(open_location(place))
        if identity in seen:
            raise UsageError(f"'{place}' is named twice; name each library to join once.")
        if _is_within(target, identity) or _is_within(identity, target):
            how = "is" if identity == target else "lies in the same folder as"
            raise UsageError(f"'{place}' {how} --into '{into}'; name another folder beside the libraries for --into.")
        seen.add(identity)
    libraries = [open_library(place) for place in places]
    for library in libraries:
        _check_finished(library)
        _check_alike(libraries[0], library)
    if not mix_numerics:
        _check_numerics(libraries)
    return libraries


def common_config(libraries: Sequence[Library]) -> ExtractConfig:
    """Return the configuration of the joined library: tags, licence and attribution are those that all have.

    Each image keeps its own beside them.
    """
    first, *others = (library.config for library in libraries)
    tags = tuple(tag for tag in first.tags if all(tag in other.tags for other in others))
    common: dict[str, Any] = {"tags": tags}
    for name in ("license", "attribution"):
        values = {getattr(config, name) for config in (first, *others)}
        common[name] = getattr(first, name) if len(values) == 1 else ""
    return first.model_copy(update=common)


def _identity(location: Location) -> str:
    """Return one text for a place, however it is spelled."""
    path = location.local_path("x")
    return location.uri if path is None else str(Path(path).parent.resolve())


def _is_within(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/")


def _check_finished(library: Library) -> None:
    pending = sum(receipt is None for _, receipt in library.committed.attempts)
    if pending:
        raise UsageError(
            f"'{library.location.uri}' is not fully extracted: {pending} of its {len(library.committed.attempts)} "
            "units are pending; finish it with kt-batch extract first."
        )


def _check_alike(first: Library, other: Library) -> None:
    """Raise MismatchError when two libraries differ in a setting that their patches depend on."""
    one, two = _settings(first), _settings(other)
    for name in sorted(one.keys() | two.keys()):
        if one.get(name) != two.get(name):
            raise MismatchError(
                f"'{first.location.uri}' and '{other.location.uri}' cannot be joined: {name} is "
                f"{one.get(name, 'unset')} in the first and {two.get(name, 'unset')} in the second; "
                f"they may differ in {', '.join(TEXTS)} alone."
            )


def _settings(library: Library) -> Mapping[str, str]:
    return flat(library.config.model_dump(mode="json", exclude=set(TEXTS)))


def _check_numerics(libraries: Sequence[Library]) -> None:
    """Raise MismatchError when patches were computed on different numerics classes."""
    classes = [(library, receipt.numerics) for library in libraries for receipt in library.committed.receipts.values()]
    for library, numerics in classes:
        if differs := differing_numerics(classes[0][1], numerics):
            raise MismatchError(
                f"'{classes[0][0].location.uri}' and '{library.location.uri}' were computed on different numerics "
                f"classes ({differs}); allow the mix with --mix-numerics."
            )
