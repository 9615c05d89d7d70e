"""Fit what the pairs of a library teach, and load a fit."""

from __future__ import annotations

import time
from dataclasses import dataclass

from kt_batch.methods.retouch.config import FitConfig
from kt_batch.methods.retouch.fit import Fit, PairTable, fit_pairs
from kt_batch.pipelines.numerics import fix_numerics
from kt_batch.store.locations import absolute_place, open_location
from kt_batch.store.opening import open_paired
from kt_batch.store.paired import (
    NUMBERS,
    PairedLibrary,
    numbers,
    read_fit_arrays,
    read_fit_summary,
    write_fit,
)


@dataclass(frozen=True)
class FitResult:
    """The result of a fit. bytes: Of its numbers. seconds: It took so long. synthetic: As in PairsConfig."""

    library: str
    digest: str
    pairs: int
    bytes: int
    seconds: float
    synthetic: bool


def fit(place: str, config: FitConfig, threads: int = 1) -> FitResult:
    """Fit the pairs that a paired library holds now. The fit is stored there under a name that follows from both.

    Raises:
        MissingError: There is no paired library, or it holds no pairs.
        DamagedError: A part of it is damaged.
    """
    started = time.perf_counter()
    numerics = fix_numerics(threads)
    library = open_paired(place)
    made = fit_pairs(pair_table(library), config)
    content = config.model_dump(mode="json")
    summary = write_fit(
        library.location, made.to_arrays(), content, library.committed.snapshot, len(made.ids), numerics
    )
    seconds = round(time.perf_counter() - started, 3)
    return FitResult(
        absolute_place(place), summary.digest, summary.pairs, summary.arrays_bytes, seconds, library.config.synthetic
    )


def pair_table(library: PairedLibrary) -> PairTable:
    """Read what fitting needs of all pairs. Raises MissingError for a library without any."""
    table = library.table(list(NUMBERS))
    ids = tuple(value.as_py().hex() for value in table["image_id"])
    columns = (numbers(table, column) for column in NUMBERS)
    return PairTable(ids, *columns, synthetic=library.config.synthetic)


def load_fit(place: str, digest: str) -> Fit:
    """Load a fit of a paired library.

    Raises:
        MissingError: There is no such fit.
        DamagedError: It is damaged.
    """
    location = open_location(place)
    return Fit.from_arrays(read_fit_arrays(location, read_fit_summary(location, digest)))
