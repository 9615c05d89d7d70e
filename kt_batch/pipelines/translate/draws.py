"""Draws of one source for each photograph: by a hash, in turn, or the most alike one.

A draw depends on the seed, the photograph and the sources alone: not on workers, units or the order of inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kt_batch.store.plans import Unit

SMALLEST = 1e-6  # deviation between sources, below which a channel says nothing


def drawn(seed: int, image_id: str, sources: Sequence[str]) -> str:
    """Return the source that a photograph draws from `sources`, sorted ids."""
    return sources[_hash(seed, image_id) % len(sources)]


def shuffled(seed: int, sources: Sequence[str]) -> list[str]:
    """Return sources in the order in which they are dealt, in turn: by a hash of the seed and their ids."""
    return sorted(sources, key=lambda source: (_hash(seed, source), source))


def nearest(mean: NDArray[np.float64], means: NDArray[np.float64]) -> int:
    """Return the number of the source with the most alike channel means, ties to the smaller number.

    Channels count in units of their deviation between the sources.

    Args:
        mean: Of the photograph, `(C,)`.
        means: Of the sources, `(n, C)`.
    """
    distance = (means - mean) / (means.std(0) + SMALLEST)
    return int(np.square(distance).sum(1).argmin())


def positions(plans: Iterable[Sequence[Unit]]) -> dict[str, int]:
    """Return the position of each photograph: by plan, and within a plan by image id.

    A plan holds all photographs that one command added, so positions depend neither on units nor on the order of
    inputs, and those of earlier photographs never change.

    Args:
        plans: The units of each plan, in the order of the plans.
    """
    found: dict[str, int] = {}
    for units in plans:
        images = {item.image_id for unit in units for item in unit.items}
        for image in sorted(images - found.keys()):
            found[image] = len(found)
    return found


def of_pending(found: Mapping[str, int], pending: Iterable[Unit]) -> dict[str, int]:
    """Return the positions of the photographs of pending units."""
    return {item.image_id: found[item.image_id] for unit in pending for item in unit.items}


def _hash(seed: int, image_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{image_id}".encode()).digest()[:8], "big")
