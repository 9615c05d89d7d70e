"""Mean and covariance of features, and the linear map that gives features the moments of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FLOOR = 1e-4  # least variance in any direction, as a share of the mean variance of a channel
FLAT = 1e-6  # and of the wanted mean variance: what has less is one flat colour
TINY = 1e-20


@dataclass(frozen=True)
class Moments:
    """Channel means `(C,)` and covariances `(C, C)` of feature maps, float64."""

    mean: Tensor
    covariance: Tensor

    @property
    def deviation(self) -> Tensor:
        """The standard deviation of each channel, `(C,)` float64."""
        return self.covariance.diagonal().clamp(min=0).sqrt()


def moments(features: Tensor) -> Moments:
    """Return the moments of features `(C, h, w)`."""
    cells = features.flatten(1).double()
    mean = cells.mean(1)
    centred = cells - mean[:, None]
    return Moments(mean, centred @ centred.T / cells.shape[1])


def mixture(parts: Sequence[Moments], shares: Sequence[float]) -> Moments:
    """Return the moments of a mixture of feature maps, each with its share of the whole; shares sum to 1."""
    mean = sum((share * part.mean for share, part in zip(shares, parts, strict=True)), start=torch.zeros(()).double())
    second = sum(
        (
            share * (part.covariance + torch.outer(part.mean, part.mean))
            for share, part in zip(shares, parts, strict=True)
        ),
        start=torch.zeros(()).double(),
    )
    return Moments(mean, second - torch.outer(mean, mean))


def transport(features: Tensor, wanted: Moments, own: Moments | None = None) -> Tensor:
    """Move features so that they have other moments, each cell as little as possible.

    The map is linear: the optimal transport between two normal distributions (Dowson & Landau 1982),
    x -> A (x - m) + m' with A = S^-1/2 (S^1/2 S' S^1/2)^1/2 S^-1/2. It whitens and colours as WCT does (Li et al.
    2017), but of all such maps it is the one that moves features least, so that forms stay where they are.

    Args:
        features: `(C, h, w)`.
        wanted: The moments that the result has, m' and S'.
        own: The moments m and S; None: those of `features`.

    Returns:
        `(C, h, w)` float32. Directions in which the features vary less than FLOOR are treated as varying that much, so
        one flat colour becomes the wanted mean.
    """
    own = own or moments(features)
    least = float(FLOOR * own.covariance.diagonal().mean() + FLAT * wanted.covariance.diagonal().mean()) + TINY
    root, inverse = _powers(own.covariance, (0.5, -0.5), least)
    (middle,) = _powers(root @ wanted.covariance @ root, (0.5,), 0.0)
    matrix = (inverse @ middle @ inverse).float()
    centred = features.flatten(1) - own.mean.float()[:, None]
    return torch.addmm(wanted.mean.float()[:, None], matrix, centred).view_as(features)


def _powers(symmetric: Tensor, exponents: Sequence[float], least: float) -> list[Tensor]:
    values, vectors = torch.linalg.eigh((symmetric + symmetric.T) / 2)
    values = values.clamp(min=least)
    return [(vectors * values**exponent) @ vectors.T for exponent in exponents]
