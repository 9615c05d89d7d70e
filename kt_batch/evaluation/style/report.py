"""The report of an evaluation of styles: every pair's values, means with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from kt_batch.evaluation.style.measures import DIGITS, StyleValues

MEASURES = (
    "style_distance", "structure", "patch_distance", "patch_realism", "blotchiness", "sharpness", "painting_sharpness",
)  # fmt: skip
DRAWS = 10_000  # of the bootstrap
SEED = 0
STRENGTHS = ("alpha", "strength")  # settings along which a method's results form a curve


@dataclass(frozen=True)
class Mean:
    """A mean over pairs with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class ImageFacts:
    """A photograph or a painting of the evaluation, in the size at which it was used."""

    id: str
    name: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class PairReport:
    """A photograph and a painting. values, seconds: by method; seconds are those of making one result."""

    photograph: str
    painting: str
    values: dict[str, StyleValues]
    seconds: dict[str, float]


@dataclass(frozen=True)
class MethodReport:
    """A method over all pairs.

    kind: `photograph`, `method`, `results` or `peer`. curve: name of its strength curve, shared by methods that differ
    in strength alone. absent: why there are no results at all. missing: why single results are missing. means: by
    measure; a measure without any value is left out. differences: the same, less the first method after the photograph.
    seconds: mean of one result; None for finished pictures.
    preparation: mean seconds of preparing one painting.
    """

    name: str
    kind: str
    settings: Mapping[str, Any]
    curve: str
    absent: str | None = None
    missing: tuple[str, ...] = ()
    pairs: int = 0
    means: dict[str, Mean] = field(default_factory=dict)
    differences: dict[str, Mean] = field(default_factory=dict)
    seconds: float | None = None
    preparation: float | None = None


@dataclass(frozen=True)
class StyleReport:
    """An evaluation; `dataclasses.asdict` gives plain values for JSON.

    network: file and SHA-256 of VGG-19's weights; None without. absent: measure -> why it was not taken.
    """

    size: int
    network: dict[str, str] | None
    absent: dict[str, str]
    numerics: dict[str, str]
    photographs: tuple[ImageFacts, ...]
    paintings: tuple[ImageFacts, ...]
    methods: tuple[MethodReport, ...]
    pairs: tuple[PairReport, ...]


def curve_name(method: str, settings: Mapping[str, Any]) -> str:
    """Return a name that methods share when they differ in strength alone."""
    others = sorted((key, str(value)) for key, value in settings.items() if key not in STRENGTHS)
    return f"{method} {' '.join(f'{key}={value}' for key, value in others)}"


def means_of(method: str, pairs: Sequence[PairReport]) -> dict[str, Mean]:
    """Return the mean of each measure over the pairs that have it."""
    cells = {measure: _cells(method, measure, pairs) for measure in MEASURES}
    return {measure: bootstrap_mean(values) for measure, values in cells.items() if values}


def differences_of(method: str, baseline: str, pairs: Sequence[PairReport]) -> dict[str, Mean]:
    """Return the mean of each measure less that of a baseline, over the pairs that have both.

    Its interval says whether two methods differ: what makes a painting hard for both is no part of it.
    """
    differences = {}
    for measure in MEASURES:
        own, theirs = _cells(method, measure, pairs), _cells(baseline, measure, pairs)
        cells = {key: own[key] - theirs[key] for key in own if key in theirs}
        if cells:
            differences[measure] = bootstrap_mean(cells)
    return differences


def _cells(method: str, measure: str, pairs: Sequence[PairReport]) -> dict[tuple[str, str], float]:
    """Return the values of one method that exist, by photograph and painting."""
    return {
        (pair.photograph, pair.painting): value
        for pair in pairs
        if method in pair.values and (value := getattr(pair.values[method], measure)) is not None
    }


def bootstrap_mean(cells: Mapping[tuple[str, str], float]) -> Mean:
    """Return the mean of values by (photograph, painting) with its 95 % interval.

    Photographs and paintings are both drawn with return, 10,000 times (seed 0; the pigeonhole bootstrap, Owen 2007):
    results of one photograph are alike, and so are those of one painting. A draw that meets no value is left out.
    """
    rows, columns = (sorted({key[axis] for key in cells}) for axis in (0, 1))
    table, known = np.zeros((len(rows), len(columns))), np.zeros((len(rows), len(columns)))
    for (row, column), value in cells.items():
        place = rows.index(row), columns.index(column)
        table[place], known[place] = value, 1
    random = np.random.default_rng(SEED)
    across, down = (random.multinomial(side, np.full(side, 1 / side), DRAWS).astype(float) for side in table.shape)
    weights = np.einsum("dr,rc,dc->d", across, known, down)
    sums = np.einsum("dr,rc,dc->d", across, table, down)
    low, high = np.percentile(sums[weights > 0] / weights[weights > 0], [2.5, 97.5])
    mean, low, high = (round(float(value), DIGITS) for value in (fmean(cells.values()), low, high))
    return Mean(mean, low, high, len(cells))
