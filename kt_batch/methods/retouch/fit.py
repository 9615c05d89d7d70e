"""Fit what pairs of edits teach: ridge regression of colour maps on features of the photographs.

A photograph x gets the map sum_d P_d(x) c_d, with P = [1, psi]. The blocks c_d `(10, 3)` minimise the mean squared
error over the pixels of all pairs, plus a ridge that draws the constant block to the identity and the others to zero.
The solution is a sum over pairs (the representer theorem): the right-hand side of the normal equations is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import numpy as np

from kt_batch.errors import DamagedError
from kt_batch.index.threads import parallel_map
from kt_batch.kernels.descriptors import DESCRIPTORS
from kt_batch.kernels.quadratic import IDENTITY, SIZE
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.methods.retouch.features import (
    FAMILIES,
    Family,
    Features,
    Scale,
    choose_landmarks,
    features,
    nearest_landmarks,
)
from kt_batch.methods.retouch.photographs import find_photographs
from kt_batch.methods.retouch.solve import CONSTANT_RIDGE, solve, system

JITTER = 1e-6  # on the mean Gram matrix, before it is factorised
NOVELTY_CLIP = 4.0  # deviations at which a descriptor is clipped where novelty is measured
NOVELTY_QUANTILE = 0.9
LEAST_CLIPPING, CLIPPING_QUANTILE = 0.05, 0.9  # an edit may clip so much, or what all but the boldest pairs do
NOVELTY_SAMPLE = 2048  # pairs whose nearest neighbour is looked up; ids are hashes, so the first are a fair sample
UNKNOWN_SPACING = 1e3  # more than any novelty: of pairs that are all alike


@dataclass(frozen=True)
class PairTable:
    """The values of each pair that a fit needs, in ascending order of ids.

    ids: 16 hex digits each, `N` of them.
    descriptors: of the photograph before, `(N, 33)`.
    gram, cross, power: the moments of the pair, `(N, 10, 10)`, `(N, 10, 3)`, `(N, 3)`.
    clipped: the share that the edit turned black or white (`kernels.clipping`), `(N,)`.
    synthetic: whether the pictures before were computed from those after (`kernels.synthetic_befores`).
    """

    ids: tuple[str, ...]
    descriptors: np.ndarray
    gram: np.ndarray
    cross: np.ndarray
    power: np.ndarray
    clipped: np.ndarray
    synthetic: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        count = len(self.ids)
        shapes = {
            "descriptors": (count, len(DESCRIPTORS)),
            "gram": (count, SIZE, SIZE),
            "cross": (count, SIZE, 3),
            "power": (count, 3),
            "clipped": (count,),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} of a table of pairs has shape {getattr(self, name).shape}, not {shape}.")
        if list(self.ids) != sorted(self.ids):
            raise ValueError("The ids of a table of pairs are not in ascending order.")

    @classmethod
    def sorted_by_id(cls, ids: Sequence[str], *columns: np.ndarray) -> Self:
        """Return the table of pairs given in any order; those of one id keep theirs. columns: in the order above."""
        order = sorted(range(len(ids)), key=lambda row: ids[row])
        return cls(tuple(ids[row] for row in order), *(column[order] for column in columns))

    @cached_property
    def photographs(self) -> np.ndarray:
        """The photograph that each pair shows, `(N,)`: the position of the first pair that shows it."""
        return find_photographs(self.descriptors, self.cross, self.power)

    def take(self, positions: Iterable[int]) -> PairTable:
        """Return the table of the pairs at these positions, in ascending order of ids."""
        rows = np.array(sorted(positions), dtype=np.int64)
        ids = tuple(self.ids[row] for row in rows)
        columns = (self.descriptors, self.gram, self.cross, self.power, self.clipped)
        return PairTable(ids, *(column[rows] for column in columns), synthetic=self.synthetic)


@dataclass(frozen=True)
class Member:
    """A fitted family.

    features: what is seen of a photograph.
    influence: what each landmark's group of pairs adds to the blocks of coefficients, `(L, 1 + d, 10, 3)`.
    """

    features: Features
    influence: np.ndarray


@dataclass(frozen=True)
class Fit:
    """All that a prediction needs.

    Every pair belongs to the group of its nearest landmark. Where there are no more pairs than landmarks, each pair is
    a landmark and a group of its own.

    ids: of all pairs, ascending.
    descriptors: of all pairs, `(N, 33)`.
    landmarks: positions of the landmarks, ascending, `(L,)` int64.
    members: the fitted families, in the order of FAMILIES.
    common: what each group adds to the one map for all photographs (the ridge quadratic), `(L, 10, 3)`.
    spacing: the 0.9 quantile of the pairs' squared distances to the nearest pairs of other photographs.
    clipping: the share of pixels that an edit may turn black or white.
    synthetic: as in PairTable. Real photographs are unlike such pictures, so their novelty says nothing.
    """

    ids: tuple[str, ...]
    descriptors: np.ndarray
    scale: Scale
    landmarks: np.ndarray
    members: tuple[Member, ...]
    common: np.ndarray
    spacing: float
    clipping: float
    synthetic: bool = False

    @property
    def landmark_ids(self) -> tuple[str, ...]:
        """The ids of the landmarks, in the order of their influences."""
        return tuple(self.ids[position] for position in self.landmarks)

    @property
    def common_map(self) -> np.ndarray:
        """The ridge quadratic of all pairs, `(10, 3)`: the photographer's average hand."""
        total: np.ndarray = IDENTITY + self.common.sum(0)
        return total

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the fit as arrays by name; ids become `(N, 8)` bytes."""
        arrays = {
            "ids": np.array([list(bytes.fromhex(pair_id)) for pair_id in self.ids], dtype=np.uint8),
            "descriptors": self.descriptors,
            "mean": self.scale.mean,
            "deviation": self.scale.deviation,
            "landmarks": self.landmarks,
            "common": self.common,
            "spacing": np.array([self.spacing]),
            "clipping": np.array([self.clipping]),
        }
        for number, member in enumerate(self.members):
            arrays[f"member{number}.means"] = member.features.means
            arrays[f"member{number}.projection"] = member.features.projection
            arrays[f"member{number}.offset"] = member.features.offset
            arrays[f"member{number}.influence"] = member.influence
        if self.synthetic:
            arrays["synthetic"] = np.ones(1)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Return the fit that `to_arrays` gave these arrays for. Raises DamagedError when they belong to none."""
        reader = _Arrays(arrays)
        count = reader.length("ids")
        ids = tuple(bytes(row).hex() for row in reader.take("ids", (count, 8), np.uint8))
        landmark_count = reader.length("landmarks")
        landmarks = reader.take("landmarks", (landmark_count,), np.int64)
        if list(ids) != sorted(ids) or not ids:
            raise DamagedError("The ids of a fit are none, or not in ascending order.")
        if not landmark_count or landmarks.min() < 0 or landmarks.max() >= count or (np.diff(landmarks) <= 0).any():
            raise DamagedError("The landmarks of a fit are not ascending positions of its pairs.")
        width = len(DESCRIPTORS)
        descriptors = reader.take("descriptors", (count, width))
        scale = Scale(reader.take("mean", (width,)), reader.take("deviation", (width,)))
        if (scale.deviation <= 0).any():
            raise DamagedError("A deviation of a fit is not positive.")
        chosen = scale.standardise(descriptors)[landmarks]
        members = tuple(reader.member(number, family, chosen) for number, family in enumerate(FAMILIES))
        common = reader.take("common", (landmark_count, SIZE, 3))
        spacing, clipping = (float(reader.take(name, (1,))[0]) for name in ("spacing", "clipping"))
        if spacing <= 0:
            raise DamagedError(f"The spacing of a fit is {spacing}; it must be positive.")
        synthetic = "synthetic" in arrays and bool(reader.take("synthetic", (1,))[0])
        return cls(ids, descriptors, scale, landmarks, members, common, spacing, clipping, synthetic)


class _Arrays:
    """Arrays of a fit, checked as they are taken."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = arrays

    def length(self, name: str, axis: int = 0) -> int:
        """Return the length of one axis of an array."""
        if name not in self.arrays or self.arrays[name].ndim <= axis:
            raise DamagedError(f"A fit has no array '{name}', or one of too few axes.")
        return int(self.arrays[name].shape[axis])

    def take(self, name: str, shape: tuple[int, ...], kind: type = np.float64) -> np.ndarray:
        """Return an array of this shape and type, all finite."""
        self.length(name)
        array = self.arrays[name]
        if array.shape != shape or array.dtype != kind:
            raise DamagedError(
                f"The array '{name}' of a fit is {array.dtype} {array.shape}; expected {np.dtype(kind)} {shape}."
            )
        if not np.isfinite(array).all():
            raise DamagedError(f"The array '{name}' of a fit has values that are not finite.")
        return array

    def member(self, number: int, family: Family, landmarks: np.ndarray) -> Member:
        """Return the member of this number; `landmarks` are standardised, `(L, 33)`."""
        prefix, count = f"member{number}", len(landmarks)
        width = self.length(f"{prefix}.projection", 1)
        seen = Features(
            family,
            landmarks,
            self.take(f"{prefix}.means", (count,)),
            self.take(f"{prefix}.projection", (count, width)),
            self.take(f"{prefix}.offset", (width,)),
        )
        return Member(seen, self.take(f"{prefix}.influence", (count, 1 + width, SIZE, 3)))


def fit_pairs(table: PairTable, config: FitConfig) -> Fit:
    """Return what the pairs of a table teach. Raises ValueError for an empty table."""
    if not table.ids:
        raise ValueError("A fit needs at least one pair.")
    scale = Scale.of(table.descriptors)
    standardised = scale.standardise(table.descriptors)
    landmarks = choose_landmarks(standardised, config.landmarks)
    groups = nearest_landmarks(standardised, landmarks)

    def fit_family(family: Family) -> Member:
        seen = features(family, standardised, landmarks)
        return _fit_family(family, table, seen, seen(standardised), groups)

    equations = system(np.ones((len(table.ids), 1)), table.gram, table.cross, groups, np.eye(SIZE))
    with parallel_map() as each:  # each on one thread: the bytes do not depend on how many there are
        members = tuple(each(fit_family, FAMILIES))
        [common] = each(lambda ridge: solve(equations, ridge), [CONSTANT_RIDGE])
    spacing = _spacing(scale.standardise(table.descriptors, NOVELTY_CLIP), table.photographs)
    clipping = max(LEAST_CLIPPING, float(np.quantile(table.clipped, CLIPPING_QUANTILE)))
    return Fit(
        table.ids, table.descriptors, scale, landmarks, members, common[:, 0], spacing, clipping, table.synthetic
    )


def _fit_family(family: Family, table: PairTable, seen: Features, weights: np.ndarray, groups: np.ndarray) -> Member:
    change = np.eye(SIZE)
    if family.whitened:
        change = np.linalg.inv(np.linalg.cholesky(table.gram.mean(0) + JITTER * np.eye(SIZE))).T
    equations = system(weights, table.gram, table.cross, groups, change)
    influences = [solve(equations, ridge) for ridge in family.ridges]
    return Member(seen, np.mean(influences, axis=0))


def _spacing(standardised: np.ndarray, photographs: np.ndarray) -> float:
    """Return a high quantile of the mean squared distance `(N, 33)` rows have to the nearest of other photographs."""
    nearest = []
    for row, photograph in zip(standardised[:NOVELTY_SAMPLE], photographs, strict=False):
        distances = ((standardised - row) ** 2).mean(1)
        others = distances[(photographs != photograph) & (distances > 0)]
        if len(others):
            nearest.append(others.min())
    return float(np.quantile(nearest, NOVELTY_QUANTILE)) if nearest else UNKNOWN_SPACING
