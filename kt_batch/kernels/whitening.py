"""Whitening and colouring: features with the channel covariance of a style (Li et al. 2017, WCT)."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_EIGENVALUE = 1e-5  # directions with less variance are left out, as in the authors' code


def whiten_and_colour(features: Tensor, style: Tensor) -> Tensor:
    """Return features `(C, h, w)` with the channel means and the covariance of a style `(C, H, W)`.

    Directions in which either side has no variance become the style's mean. Computed in float64.
    """
    own, _ = _centred(features)
    target, mean = _centred(style)
    values, vectors = _covariance_axes(own)
    white = vectors @ ((vectors.T @ own) * values.rsqrt()[:, None])
    values, vectors = _covariance_axes(target)
    coloured = vectors @ ((vectors.T @ white) * values.sqrt()[:, None]) + mean
    return coloured.to(features.dtype).reshape(features.shape)


def _centred(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cells `(C, n)` of features without their mean, and the mean `(C, 1)`."""
    cells = features.flatten(1).double()
    mean = cells.mean(1, keepdim=True)
    return cells - mean, mean


def _covariance_axes(cells: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues `(r,)` and eigenvectors `(C, r)` of the covariance of centred cells `(C, n)`."""
    values, vectors = torch.linalg.eigh(cells @ cells.T / max(1, cells.shape[1] - 1))
    kept = values > SMALLEST_EIGENVALUE
    return values[kept], vectors[:, kept]
