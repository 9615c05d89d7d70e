"""All style measures of a result, beside its photograph and its painting."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from torch import Tensor

from kt_batch.errors import UsageError
from kt_batch.evaluation.style.network import NetworkMeasures, Seen, structure, style_distances
from kt_batch.evaluation.style.pixels import (
    SMALLEST_SIDE,
    blotchiness,
    flat_region,
    patch_curves,
    patch_distances,
    sharpness,
)
from kt_batch.evaluation.style.realism import QUERY_STRIDE, normal_patches, patch_realism
from kt_batch.evaluation.style.sliced import Curves
from kt_batch.models.encoder import Encoder

DIGITS = 6  # of every value


@dataclass(frozen=True)
class StyleValues:
    """The measures of one result. Each is defined at the function of its name.

    style_distance: the mean of style_distances, at relu1_1, 2_1, 3_1 and 4_1; None without VGG-19. structure: None
    without VGG-19. patch_distance: the mean of patch_distances, from the finest level. blotchiness: less that of the
    photograph; None where the photograph has no flat region. sharpness: of the result; painting_sharpness: of the
    painting, which it is to be read beside.
    """

    style_distance: float | None
    structure: float | None
    patch_distance: float
    patch_realism: float
    blotchiness: float | None
    sharpness: float
    painting_sharpness: float
    style_distances: dict[str, float] | None
    patch_distances: list[float]


@dataclass(frozen=True)
class Photograph:
    """The parts of a photograph that measures use. blotchiness: its own; None, as flat, without a flat region."""

    seen: Seen | None
    flat: Tensor | None
    blotchiness: float | None


@dataclass(frozen=True)
class Painting:
    """The parts of a painting that measures use."""

    seen: Seen | None
    curves: list[Curves]
    patches: Tensor
    sharpness: float


class StyleMeasures:
    """Measures results. Pictures are `(3, H, W)` float32 sRGB in [0, 1]; both sides are multiples of 8, at least 56.

    Equal pictures give equal values on one numerics class.
    """

    def __init__(self, encoder: Encoder, network: NetworkMeasures | None) -> None:
        """Take kt-vgg, for realism, and what sees with VGG-19; None leaves out style distance and structure."""
        self._encoder = encoder
        self._network = network

    def photograph(self, picture: Tensor) -> Photograph:
        """Return what is kept of a photograph for all its results."""
        _check(picture)
        flat = flat_region(picture)
        own = None if flat is None else blotchiness(picture, flat)
        return Photograph(self._network.see(picture) if self._network else None, flat, own)

    def painting(self, picture: Tensor) -> Painting:
        """Return what is kept of a painting for all results after it."""
        _check(picture)
        patches = normal_patches(self._encoder, picture, 1)
        seen = self._network.see(picture) if self._network else None
        return Painting(seen, patch_curves(picture), patches, sharpness(picture))

    def measure(self, result: Tensor, photograph: Photograph, painting: Painting) -> StyleValues:
        """Return the measures of a result, which is as large as its photograph."""
        _check(result)
        seen = self._network.see(result) if self._network else None
        layers = style_distances(seen, painting.seen) if seen and painting.seen else None
        kept = structure(seen, photograph.seen) if seen and photograph.seen else None
        levels = patch_distances(patch_curves(result), painting.curves)
        queries = normal_patches(self._encoder, result, QUERY_STRIDE)
        blotches = None
        if photograph.flat is not None and photograph.blotchiness is not None:
            blotches = _rounded(blotchiness(result, photograph.flat) - photograph.blotchiness)
        return StyleValues(
            style_distance=None if layers is None else _rounded(fmean(layers.values())),
            structure=None if kept is None else _rounded(kept),
            patch_distance=_rounded(fmean(levels)),
            patch_realism=_rounded(patch_realism(queries, painting.patches)),
            blotchiness=blotches,
            sharpness=_rounded(sharpness(result)),
            painting_sharpness=_rounded(painting.sharpness),
            style_distances=None if layers is None else {cut: _rounded(value) for cut, value in layers.items()},
            patch_distances=[_rounded(value) for value in levels],
        )


def _rounded(value: float) -> float:
    return round(value, DIGITS)


def _check(picture: Tensor) -> None:
    """Raise UsageError for a picture that is too small, or whose sides are no multiples of 8."""
    height, width = picture.shape[1:]
    if min(height, width) < SMALLEST_SIDE or height % 8 or width % 8:
        raise UsageError(
            f"The style measures got a picture of {width} x {height} pixels; allowed are sides that are multiples of 8 "
            f"and at least {SMALLEST_SIDE}."
        )
