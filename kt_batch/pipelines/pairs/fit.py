"""Fit what the pairs of a library teach, and load a fit."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from kt_batch.methods.retouch.config import FitConfig
from kt_batch.methods.retouch.fit import Fit, PairTable, fit_pairs
from kt_batch.methods.retouch.photographs import few_photographs
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
    """The result of a fit.

    photographs: That the pairs show. bytes: Of its numbers. seconds: It took so long. synthetic: As in PairsConfig.
    warning: One sentence where the photographs are too few to learn from.
    """

    library: str
    digest: str
    pairs: int
    photographs: int
    bytes: int
    seconds: float
    synthetic: bool
    warning: str | None = None


def fit(place: str, config: FitConfig, threads: int = 1) -> FitResult:
    """Fit the pairs that a paired library holds now. The fit is stored there under a name that follows from both.

    Raises:
        MissingError: There is no paired library, or it holds no pairs.
        DamagedError: A part of it is damaged.
    """
    started = time.perf_counter()
    numerics = fix_numerics(threads)
    library = open_paired(place)
    table = pair_table(library)
    made = fit_pairs(table, config)
    content = config.model_dump(mode="json")
    summary = write_fit(
        library.location, made.to_arrays(), content, library.committed.snapshot, len(made.ids), numerics
    )
    photographs = len(np.unique(table.photographs))
    return FitResult(
        library=absolute_place(place),
        digest=summary.digest,
        pairs=summary.pairs,
        photographs=photographs,
        bytes=summary.arrays_bytes,
        seconds=round(time.perf_counter() - started, 3),
        synthetic=library.config.synthetic,
        warning=few_photographs(photographs),
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
