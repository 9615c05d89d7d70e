"""Whitening and colouring: features with the channel covariance of a style (Li et al. 2017, WCT)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kt_batch.kernels.regions import freedom

SMALLEST_EIGENVALUE = 1e-5  # directions with less variance are left out, as in the authors' code


@dataclass(frozen=True)
class Axes:
    """The mean of cells `(C, 1)`, and the r axes of their covariance: variances `(r,)`, vectors `(C, r)`; float64."""

    mean: Tensor
    variances: Tensor
    vectors: Tensor


def principal_axes(features: Tensor, mask: Tensor | None = None) -> Axes:
    """Return mean and principal axes of the cells of features `(C, h, w)`, computed in float64.

    A mask `(h, w)` weighs the cells.
    """
    cells = features.flatten(1).double()
    if mask is None:
        mean = cells.mean(1, keepdim=True)
        cells = cells - mean
        return axes_of(mean, cells @ cells.T / max(1, cells.shape[1] - 1))
    weights = mask.flatten().double()
    mean = (cells @ weights / weights.sum())[:, None]
    cells = cells - mean
    return axes_of(mean, (cells * weights) @ cells.T / freedom(weights))


def axes_of(mean: Tensor, covariance: Tensor) -> Axes:
    """Return the axes of a covariance `(C, C)` around a mean `(C, 1)`, both float64.

    Axes with a variance of SMALLEST_EIGENVALUE or less are left out: none is left of features of one value.
    """
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > SMALLEST_EIGENVALUE
    return Axes(mean, values[kept], vectors[:, kept])


def whitened(features: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the cells `(C, n)` float64 of features `(C, h, w)`, with mean 0 and variance 1 along each axis.

    With a mask `(h, w)`, mean and variance are those of the cells by its weights.
    """
    own = principal_axes(features, mask)
    cells = features.flatten(1).double() - own.mean
    return own.vectors @ ((own.vectors.T @ cells) * own.variances.rsqrt()[:, None])


def coloured(white: Tensor, style: Axes) -> Tensor:
    """Return white cells `(C, n)` with the mean and the covariance of a style, `(C, n)` float32."""
    along = (style.vectors.T @ white) * style.variances.sqrt()[:, None]
    return (style.vectors @ along + style.mean).float()


def whiten_and_colour(features: Tensor, style: Tensor) -> Tensor:
    """Return features `(C, h, w)` with the channel means and the covariance of a style `(C, H, W)`.

    Directions in which either side has no variance become the style's mean. Computed in float64.
    """
    return coloured(whitened(features), principal_axes(style)).to(features.dtype).reshape(features.shape)
