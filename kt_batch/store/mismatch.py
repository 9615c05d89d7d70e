"""The error of a job whose configuration is not the one that was planned."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kt_batch.errors import MismatchError
from kt_batch.store.locations import Location


def mismatch(
    location: Location, planned: tuple[Mapping[str, Any], str], wanted: tuple[Mapping[str, Any], str]
) -> MismatchError:
    """Return the error of a job whose configuration is not the planned one; both with their digests."""
    return MismatchError(
        f"{location.uri} was planned with the config digest {planned[1]}, this job has {wanted[1]}; they differ in "
        f"{_differences(planned[0], wanted[0])}"
    )


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    there, here = flat(theirs), flat(ours)
    options = [key for key in sorted(there.keys() | here.keys()) if there.get(key) != here.get(key)]
    sides = (f"{key} ({there.get(key, 'unset')} there, {here.get(key, 'unset')} here)" for key in options)
    return ", ".join(sides) or "no named option"


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return dotted option -> its JSON text."""
    content: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            content |= flat(value, f"{prefix}{key}.")
        else:
            content[f"{prefix}{key}"] = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return content
