"""How edits come nearer to the photographer's with more pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kt_batch.evaluation.likeness import psnr
from kt_batch.kernels.quadratic import apply_map
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.methods.retouch.fit import PairTable, fit_pairs
from kt_batch.methods.retouch.predict import predict

SIZES = (3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)  # pairs
DRAWS = 20  # of pairs, for each size
SAMPLED_PIXELS = 4096
MOST_MEASURED = 100  # photographs that each draw is measured on


@dataclass(frozen=True)
class PixelSample:
    """Pixels of a pair at even steps, both `(n, 3)` float32, n <= 8192."""

    before: np.ndarray
    after: np.ndarray


def pixel_sample(before: np.ndarray, after: np.ndarray) -> PixelSample:
    """Return a sample of the pixels of pictures `(H, W, 3)`."""
    step = max(1, before.shape[0] * before.shape[1] // SAMPLED_PIXELS)
    return PixelSample(*(picture.reshape(-1, 3)[::step].copy() for picture in (before, after)))


@dataclass(frozen=True)
class CurvePoint:
    """Fits of one number of pairs, drawn at random; PSNR in dB on sampled pixels of pairs outside the draw.

    none, ridge, retouch: means over the draws of no edit, the ridge quadratic of the same pairs, and `retouch`.
    gain: of `retouch` over the ridge quadratic.
    gain_low, gain_high: quartiles of the draws' gains.
    """

    pairs: int
    draws: int
    none: float
    ridge: float
    retouch: float
    gain: float
    gain_low: float
    gain_high: float


def learning_curve(
    table: PairTable, samples: Mapping[str, PixelSample], config: FitConfig, draws: int = DRAWS
) -> tuple[CurvePoint, ...]:
    """Return a point for each size below the number of pairs; draw number i of a size has the seed i.

    Args:
        table: The pairs.
        samples: Pixels of those pairs that may be measured on, by id.
        config: The fit.
        draws: Draws for each size.
    """
    return tuple(_point(table, samples, config, size, draws) for size in SIZES if size < len(table.ids))


def _point(
    table: PairTable, samples: Mapping[str, PixelSample], config: FitConfig, size: int, draws: int
) -> CurvePoint:
    means = np.array([_draw(table, samples, config, size, seed) for seed in range(draws)])
    gains = means[:, 2] - means[:, 1]
    low, high = np.percentile(gains, [25, 75])
    none, ridge, own = means.mean(0)
    return CurvePoint(size, draws, float(none), float(ridge), float(own), float(gains.mean()), float(low), float(high))


def _draw(table: PairTable, samples: Mapping[str, PixelSample], config: FitConfig, size: int, seed: int) -> np.ndarray:
    """Return the mean PSNR `(3,)` of no edit, the ridge quadratic and `retouch` on pairs outside one draw."""
    order = np.random.default_rng(seed).permutation(len(table.ids))
    fit = fit_pairs(table.take(order[:size]), config)
    rest = [position for position in order[size:] if table.ids[position] in samples][:MOST_MEASURED]
    scores = []
    for position in rest:
        sample = samples[table.ids[position]]
        own = predict(fit, table.descriptors[position], sample.before)
        before = sample.before[None]
        edits = (before, apply_map(before, fit.common_map), apply_map(before, own.coefficients))
        scores.append([psnr(edited[0], sample.after) for edited in edits])
    means: np.ndarray = np.mean(scores, axis=0)
    return means
