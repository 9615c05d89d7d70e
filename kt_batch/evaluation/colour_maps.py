"""Other ways to edit a photograph after pairs of edits: what `retouch` is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kt_batch.kernels.lab import from_lab, lab
from kt_batch.kernels.quadratic import IDENTITY, SIZE
from kt_batch.methods.retouch.features import Scale
from kt_batch.methods.retouch.fit import PairTable
from kt_batch.methods.retouch.solve import CONSTANT_RIDGE

LEVELS = 256
ROUNDING = 1e-9  # of a sum of shares
NEIGHBOURS = 5
AFFINE = 4  # functions of the basis: 1, r, g, b


@dataclass(frozen=True)
class TargetStatistics:
    """What the baselines without pairs need of an edited photograph.

    lab_mean, lab_deviation: of L*a*b*, `(3,)`.
    histogram: share of each of 256 levels, `(3, 256)`.
    """

    lab_mean: np.ndarray
    lab_deviation: np.ndarray
    histogram: np.ndarray


def target_statistics(after: np.ndarray) -> TargetStatistics:
    """Return the statistics of an edited photograph `(H, W, 3)` sRGB in [0, 1]."""
    values = lab(after).reshape(-1, 3)
    return TargetStatistics(values.mean(0), values.std(0), _histogram(_levels(after)))


def reinhard(before: np.ndarray, targets: Sequence[TargetStatistics]) -> np.ndarray:
    """Give a photograph the mean and deviation in L*a*b* that targets have on average (Reinhard et al. 2001)."""
    values = lab(before)
    own_mean, own_deviation = values.mean((0, 1)), values.std((0, 1))
    mean = np.mean([target.lab_mean for target in targets], axis=0)
    deviation = np.mean([target.lab_deviation for target in targets], axis=0)
    ratio = deviation / np.maximum(own_deviation, 1e-6)
    return from_lab((values - own_mean) * ratio + mean).astype(np.float32)


def match_histograms(before: np.ndarray, targets: Sequence[TargetStatistics]) -> np.ndarray:
    """Give each channel of a photograph the distribution of the pooled targets; every target counts alike."""
    pooled = np.mean([target.histogram for target in targets], axis=0).cumsum(1)
    levels = _levels(before)
    own = _histogram(levels).cumsum(1)
    curves = [np.searchsorted(pooled[channel], own[channel] - ROUNDING).clip(0, LEVELS - 1) for channel in range(3)]
    matched = np.stack([curves[channel][levels[..., channel]] for channel in range(3)], axis=-1)
    return (matched / (LEVELS - 1)).astype(np.float32)


def affine_map(table: PairTable) -> np.ndarray:
    """Return the affine map `(10, 3)` of least squares over all pairs."""
    coefficients = np.zeros((SIZE, 3))
    gram, cross = table.gram.mean(0)[:AFFINE, :AFFINE], table.cross.mean(0)[:AFFINE]
    coefficients[:AFFINE] = np.linalg.lstsq(gram, cross, rcond=None)[0]
    return coefficients


def quadratic_map(table: PairTable, ridge: float = 0.0) -> np.ndarray:
    """Return the quadratic map `(10, 3)` of least squares over all pairs, drawn to the identity by a ridge."""
    gram = table.gram.mean(0) + ridge * np.eye(SIZE)
    solution: np.ndarray = np.linalg.lstsq(gram, table.cross.mean(0) + ridge * IDENTITY, rcond=None)[0]
    return solution


def nearest_map(table: PairTable, descriptors: np.ndarray) -> np.ndarray:
    """Return the ridge quadratic `(10, 3)` of the five pairs whose descriptors are nearest to `(33,)`."""
    return quadratic_map(table.take(nearest_pairs(table, descriptors)), CONSTANT_RIDGE)


def nearest_pairs(table: PairTable, descriptors: np.ndarray) -> np.ndarray:
    """Return the places of the five pairs whose descriptors are nearest to `(33,)`, the nearest first."""
    scale = Scale.of(table.descriptors)
    distances = ((scale.standardise(table.descriptors) - scale.standardise(descriptors)) ** 2).sum(1)
    places: np.ndarray = np.argsort(distances, kind="stable")[:NEIGHBOURS]
    return places


def _levels(picture: np.ndarray) -> np.ndarray:
    levels: np.ndarray = np.rint(np.clip(picture, 0, 1) * (LEVELS - 1)).astype(np.int64)
    return levels


def _histogram(levels: np.ndarray) -> np.ndarray:
    counts = [np.bincount(levels[..., channel].ravel(), minlength=LEVELS) for channel in range(3)]
    return np.array(counts) / (levels.size / 3)
