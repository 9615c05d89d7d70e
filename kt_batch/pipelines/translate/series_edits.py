"""The edits that photographs of a run share, looked up by workers in the series files of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from kt_batch.config import MethodConfig
from kt_batch.errors import RejectError
from kt_batch.methods.base import Result
from kt_batch.methods.retouch.method import RetouchConfig
from kt_batch.methods.retouch.series import SharedEdit, shared_result
from kt_batch.store.locations import open_location
from kt_batch.store.plans import Item, Unit
from kt_batch.store.series import FrozenSeries, Key, SeriesRow, folder_of


@dataclass(frozen=True)
class Shared:
    """The shared edits of the photographs of a unit. items: Those that can be used. rejected: The others, by image.
    results: Of photographs in a series.
    """

    items: tuple[Item, ...]
    rejected: Mapping[str, tuple[list[Item], RejectError]]
    results: Mapping[Key, Result]


class SharedEdits:
    """The edits that photographs of a run share."""

    def __init__(self, place: str, config: MethodConfig) -> None:
        """Read the series files of a run. Raises DamagedError."""
        self._frozen = FrozenSeries(open_location(place))
        self._strength = cast("RetouchConfig", config).strength

    def of_unit(self, unit: Unit) -> Shared:
        """Return what series say about the photographs of a unit. Raises DamagedError."""
        rows = self._frozen.find({key_of(item) for item in unit.items})
        rejected: dict[str, tuple[list[Item], RejectError]] = {}
        for item in unit.items:
            if reject := rows[key_of(item)].reject:
                rejected.setdefault(item.image_id, ([], reject))[0].append(item)
        results = {key: shared_result(edit_of(row), self._strength) for key, row in rows.items() if row.series}
        kept = tuple(item for item in unit.items if item.image_id not in rejected)
        return Shared(kept, rejected, results)


def key_of(item: Item) -> Key:
    """Return the key of the photograph that an input is."""
    return Key(item.image_id, folder_of(item.uri))


def edit_of(row: SeriesRow) -> SharedEdit:
    """Return the edit in a row of a series file."""
    coefficients = cast("NDArray[np.float64]", row.coefficients)
    return SharedEdit(row.series, coefficients, row.confidence, row.guard, dict(row.shares or {}))
