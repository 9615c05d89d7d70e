"""How near edits come to the photographer's on photographs left out of the fit: leave-one-out, or ten folds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from kt_batch.errors import UsageError
from kt_batch.evaluation.colour_maps import (
    TargetStatistics,
    affine_map,
    match_histograms,
    nearest_map,
    quadratic_map,
    reinhard,
    target_statistics,
)
from kt_batch.evaluation.learning_curve import CurvePoint, PixelSample, learning_curve, pixel_sample
from kt_batch.evaluation.likeness import Likeness, likeness
from kt_batch.kernels.quadratic import apply_map
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.methods.retouch.fit import Fit, PairTable, fit_pairs
from kt_batch.methods.retouch.photographs import few_photographs
from kt_batch.methods.retouch.predict import predict

MOST_LEFT_ONE_OUT = 200  # photographs; above, there are FOLDS folds
FOLDS = 10
MOST_SAMPLED = 500  # pairs that the learning curve may be measured on
DRAWS = 10_000  # of the bootstrap
MUCH_WORSE = 1.0  # dB
NONE, RIDGE, OURS = "no edit", "global quadratic with ridge", "retouch"

Pictures = Callable[[str], tuple[np.ndarray, np.ndarray]]  # before and after of a pair: (H, W, 3) float32 in [0, 1]
OtherMethod = Callable[[str, np.ndarray], np.ndarray]  # id of a pair and its before -> an edit that never saw the pair


@dataclass(frozen=True)
class PairResult:
    """All edits of one photograph that was left out.

    id: of the pair.
    confidence, guard: of its prediction.
    likeness: of each method's edit.
    """

    id: str
    confidence: float
    guard: float
    likeness: dict[str, Likeness]


@dataclass(frozen=True)
class MethodSummary:
    """One method over all pairs.

    better: photographs on which it is nearer than the ridge quadratic.
    much_worse: photographs on which it is farther than no edit by more than 1 dB.
    """

    psnr: float
    psnr_median: float
    ssim: float
    ciede2000: float
    detail: float
    better: int
    much_worse: int


@dataclass(frozen=True)
class Gain:
    """PSNR of `retouch` over another method in dB: its mean, with the 95 % bootstrap interval of the mean.

    better: photographs on which `retouch` is nearer.
    """

    over: str
    mean: float
    low: float
    high: float
    better: int


@dataclass(frozen=True)
class PairsReport:
    """An evaluation; `dataclasses.asdict` gives plain values for JSON.

    photographs: that the pairs show. Pairs of one photograph are left out together.
    warning: one sentence where these are too few to learn from.
    """

    pairs: int
    photographs: int
    folds: int
    sentence: str
    warning: str | None
    methods: dict[str, MethodSummary]
    gains: tuple[Gain, ...]
    curve: tuple[CurvePoint, ...]
    results: tuple[PairResult, ...]


@dataclass(frozen=True)
class Observed:
    """The values that are kept of all pairs after their pictures were seen once.

    targets: by id.
    samples: pixels of at most 500 pairs, by id.
    """

    targets: dict[str, TargetStatistics]
    samples: dict[str, PixelSample]


def evaluate_pairs(
    table: PairTable, pictures: Pictures, config: FitConfig, others: Mapping[str, OtherMethod] | None = None
) -> PairsReport:
    """Evaluate a table of pairs, one fold after the other.

    Args:
        table: The pairs.
        pictures: The pictures of a pair, by id; asked for twice.
        config: The fit.
        others: More methods to compare with, by name.

    Raises:
        UsageError: The pairs show fewer than two photographs, or scikit-image is not installed.
    """
    divided = folds(table.ids, table.photographs)
    observed = observe(table.ids, pictures)
    results = [
        result
        for fold in divided
        for result in evaluate_fold(table, fold, pictures, config, observed.targets, others or {})
    ]
    one_each = table.take(np.unique(table.photographs))
    curve = learning_curve(one_each, observed.samples, config)
    return summarise(results, len(one_each.ids), len(divided), curve)


def folds(ids: tuple[str, ...], photographs: np.ndarray) -> list[list[int]]:
    """Return the positions of the pairs left out together: those of a photograph, or of a tenth of the photographs.

    Tenths follow from the hash of the id of the first pair that shows a photograph.

    Args:
        ids: Of the pairs.
        photographs: The position of the first pair that shows the photograph of each pair, `(N,)`.

    Raises:
        UsageError: The pairs show fewer than two photographs.
    """
    firsts = np.unique(photographs)
    if len(firsts) < 2:
        raise UsageError(f"An evaluation needs pairs of at least 2 photographs; those here show {len(firsts)}.")
    if len(firsts) <= MOST_LEFT_ONE_OUT:
        return [np.flatnonzero(photographs == first).tolist() for first in firsts]
    hashes = np.array([int(hashlib.sha256(ids[first].encode()).hexdigest(), 16) % FOLDS for first in photographs])
    divided = [np.flatnonzero(hashes == fold).tolist() for fold in range(FOLDS)]
    return [fold for fold in divided if fold]


def observe(ids: Iterable[str], pictures: Pictures) -> Observed:
    """Return what is kept of pairs after seeing their pictures once."""
    targets: dict[str, TargetStatistics] = {}
    samples: dict[str, PixelSample] = {}
    for pair_id in ids:
        before, after = pictures(pair_id)
        targets[pair_id] = target_statistics(after)
        if len(samples) < MOST_SAMPLED:
            samples[pair_id] = pixel_sample(before, after)
    return Observed(targets, samples)


def evaluate_fold(
    table: PairTable,
    fold: list[int],
    pictures: Pictures,
    config: FitConfig,
    targets: Mapping[str, TargetStatistics],
    others: Mapping[str, OtherMethod],
) -> list[PairResult]:
    """Fit the pairs outside a fold, edit the photographs of the fold, and compare."""
    left_out = set(fold)
    rest = table.take(position for position in range(len(table.ids)) if position not in left_out)
    fit, common = fit_pairs(rest, config), _common_maps(rest)
    known = [targets[pair_id] for pair_id in rest.ids]
    results = []
    for position in fold:
        pair_id, descriptors = table.ids[position], table.descriptors[position]
        before, after = pictures(pair_id)
        edits = {
            NONE: before,
            "Reinhard": reinhard(before, known),
            "histogram matching": match_histograms(before, known),
            **{name: apply_map(before, coefficients) for name, coefficients in common.items()},
            "nearest five pairs": apply_map(before, nearest_map(rest, descriptors)),
            **{name: other(pair_id, before) for name, other in others.items()},
        }
        results.append(_compare(fit, pair_id, descriptors, (before, after), edits))
    return results


def _common_maps(table: PairTable) -> dict[str, np.ndarray]:
    return {
        "global affine": affine_map(table),
        "global quadratic": quadratic_map(table),
    }


def _compare(
    fit: Fit, pair_id: str, descriptors: np.ndarray, pair: tuple[np.ndarray, np.ndarray], edits: dict[str, np.ndarray]
) -> PairResult:
    before, after = pair
    own = predict(fit, descriptors, pixel_sample(before, after).before)
    edits = edits | {RIDGE: apply_map(before, fit.common_map), OURS: apply_map(before, own.coefficients)}
    scores = {name: likeness(before, edited, after) for name, edited in edits.items()}
    return PairResult(pair_id, own.confidence, own.guard, scores)


def summarise(
    results: Iterable[PairResult], photographs: int, fold_count: int, curve: tuple[CurvePoint, ...]
) -> PairsReport:
    """Return the report of all pairs' results, in ascending order of ids."""
    ordered = tuple(sorted(results, key=lambda result: result.id))
    psnrs = {name: np.array([result.likeness[name].psnr for result in ordered]) for name in ordered[0].likeness}
    return PairsReport(
        pairs=len(ordered),
        photographs=photographs,
        folds=fold_count,
        sentence=_sentence(len(ordered), photographs, closer=int((psnrs[OURS] > psnrs[NONE]).sum())),
        warning=few_photographs(photographs),
        methods={name: _summary(name, ordered, psnrs) for name in psnrs},
        gains=tuple(gain(name, psnrs[OURS] - values) for name, values in psnrs.items() if name != OURS),
        curve=curve,
        results=ordered,
    )


def _sentence(pairs: int, photographs: int, closer: int) -> str:
    shown, counted = ("", "photographs") if pairs == photographs else (f" of {photographs} photographs", "pairs")
    return f"With {pairs} pairs{shown}, edits are closer to yours than no edit on {closer} of {pairs} {counted}."


def _summary(name: str, results: tuple[PairResult, ...], psnrs: Mapping[str, np.ndarray]) -> MethodSummary:
    own = [result.likeness[name] for result in results]
    return MethodSummary(
        psnr=float(psnrs[name].mean()),
        psnr_median=float(np.median(psnrs[name])),
        ssim=float(np.mean([each.ssim for each in own])),
        ciede2000=float(np.mean([each.ciede2000 for each in own])),
        detail=float(np.mean([each.detail for each in own])),
        better=int((psnrs[name] > psnrs[RIDGE]).sum()),
        much_worse=int((psnrs[name] < psnrs[NONE] - MUCH_WORSE).sum()),
    )


def gain(over: str, differences: np.ndarray, seed: int = 0) -> Gain:
    """Return the mean of differences `(N,)` with its 95 % bootstrap interval: 10,000 seeded draws of N with return."""
    random = np.random.default_rng(seed)
    means = [differences[random.integers(0, len(differences), len(differences))].mean() for _ in range(DRAWS)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Gain(over, float(differences.mean()), float(low), float(high), int((differences > 0).sum()))
