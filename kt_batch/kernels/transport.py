"""Mean and covariance of features, and the linear maps that give features the moments of others, band by band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kt_batch.kernels.smooth import quick_mean

BAND_RADIUS = 8  # cells around a cell whose mean is the coarse band
FLOOR = 1e-4  # least variance in any direction, as a share of the mean variance of a channel
FLAT = 1e-6  # and of the wanted mean variance: what has less is one flat colour
TINY = 1e-20


@dataclass(frozen=True)
class Gaussian:
    """Channel means `(C,)` and covariances `(C, C)` of feature maps, float64."""

    mean: Tensor
    covariance: Tensor

    @property
    def deviation(self) -> Tensor:
        """The standard deviation of each channel, `(C,)` float64."""
        return self.covariance.diagonal().clamp(min=0).sqrt()


def gaussian(features: Tensor) -> Gaussian:
    """Return the moments of features `(C, h, w)`."""
    cells = features.flatten(1)
    mean = cells.mean(1)
    centred = cells - mean[:, None]
    return Gaussian(mean.double(), (centred @ centred.T).double() / cells.shape[1])


def mixture(parts: Sequence[Gaussian], shares: Sequence[float]) -> Gaussian:
    """Return the moments of a mixture of feature maps, each with its share of the whole; shares sum to 1."""
    means = torch.stack([part.mean for part in parts])
    seconds = torch.stack([part.covariance + torch.outer(part.mean, part.mean) for part in parts])
    weights = means.new_tensor(list(shares))
    mean = (weights[:, None] * means).sum(0)
    second = (weights[:, None, None] * seconds).sum(0)
    return Gaussian(mean, second - torch.outer(mean, mean))


def principal_directions(moments: Gaussian, count: int) -> Tensor:
    """Return directions `(C, count)` float32, orthonormal, in which standardised features vary most; at most C."""
    deviation = moments.deviation.clamp(min=TINY)
    correlation = moments.covariance / torch.outer(deviation, deviation)
    vectors: Tensor = torch.linalg.eigh(correlation)[1]
    return vectors[:, -count:].float().contiguous()


def transport(features: Tensor, wanted: Gaussian, own: Gaussian | None = None, most: float | None = None) -> Tensor:
    """Move features so that they have other moments, each cell as little as possible.

    The map is linear: the optimal transport between two normal distributions (Dowson & Landau 1982),
    x -> A (x - m) + m' with A = S^-1/2 (S^1/2 S' S^1/2)^1/2 S^-1/2. It whitens and colours as WCT does (Li et al.
    2017), but of all such maps it is the one that moves features least, so that forms stay where they are.

    Args:
        features: `(C, h, w)`.
        wanted: The moments that the result has, m' and S'.
        own: The moments m and S; None: those of `features`.
        most: The most that any direction is enlarged: greater eigenvalues of A become this. None: no limit.

    Returns:
        `(C, h, w)` float32. Directions in which the features vary less than FLOOR are treated as varying that much, so
        one flat colour becomes the wanted mean.
    """
    own = own or gaussian(features)
    least = float(FLOOR * own.covariance.diagonal().mean() + FLAT * wanted.covariance.diagonal().mean()) + TINY
    root, inverse = _powers(own.covariance, (0.5, -0.5), least)
    (middle,) = _powers(root @ wanted.covariance @ root, (0.5,), 0.0)
    matrix = inverse @ middle @ inverse
    if most is not None:
        matrix = limited(matrix, most)
    shift = wanted.mean - matrix @ own.mean
    return torch.addmm(shift.float()[:, None], matrix.float(), features.flatten(1)).view_as(features)


def limited(matrix: Tensor, most: float) -> Tensor:
    """Return a symmetric matrix `(C, C)` with eigenvalues of at most `most`."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    result: Tensor = (vectors * values.clamp(max=most)) @ vectors.T
    return result


@dataclass(frozen=True)
class Bands:
    """The moments of features, of their coarse band (the mean around each cell), and of the fine rest."""

    whole: Gaussian
    coarse: Gaussian
    fine: Gaussian


def bands(features: Tensor) -> Bands:
    """Return the moments of features `(C, h, w)` and of their bands."""
    coarse = quick_mean(features, BAND_RADIUS)
    return Bands(gaussian(features), gaussian(coarse), gaussian(features - coarse))


def mixture_of_bands(parts: Sequence[Bands], shares: Sequence[float]) -> Bands:
    """Return the moments of a mixture of feature maps, each with its share of the whole; shares sum to 1."""
    columns = ([part.whole for part in parts], [part.coarse for part in parts], [part.fine for part in parts])
    return Bands(*(mixture(column, shares) for column in columns))


def transport_bands(features: Tensor, wanted: Bands, limits: tuple[float, float] | None = None) -> Tensor:
    """Move the coarse and the fine band of features `(C, h, w)` each to its wanted moments, and add them up.

    One map for both would make a photograph full of detail as contrasty in its detail as a painting is in its broad
    parts. limits: How much a direction of the coarse and of the fine band is enlarged at most.
    """
    coarse = quick_mean(features, BAND_RADIUS)
    most_coarse, most_fine = limits or (None, None)
    moved = transport(coarse, wanted.coarse, most=most_coarse)
    return moved + transport(features - coarse, wanted.fine, most=most_fine)


def _powers(symmetric: Tensor, exponents: Sequence[float], least: float) -> list[Tensor]:
    values, vectors = torch.linalg.eigh((symmetric + symmetric.T) / 2)
    values = values.clamp(min=least)
    return [(vectors * values**exponent) @ vectors.T for exponent in exponents]
