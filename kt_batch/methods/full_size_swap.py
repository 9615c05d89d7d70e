"""The statistics swap at full size: what it does to colours, as local affine maps for the photograph's own pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from kt_batch.kernels.local_affine import apply_local_affine, fit_local_affine
from kt_batch.kernels.sizes import fit

WINDOW = 1 / 16  # radius of a window, as a share of the long side
FITTED = 512  # long side; pictures of at least twice of it are reduced for the fit, since maps vary slowly
EPSILON = 0.003  # squared; contrasts below .055 follow the gain of their window


class LocalColourMaps:
    """An edit that maps the colour of each pixel by affine maps that vary slowly over the photograph."""

    def __init__(self, maps: NDArray[np.float32], reduction: int, long_side: int) -> None:
        """Take maps `(3, 4, h, w)` of a padded working image.

        Args:
            maps: One for each square of pixels.
            reduction: Pixels along a side of a square.
            long_side: Of working images, at most.
        """
        self._maps, self._reduction, self._long_side = maps, reduction, long_side

    def apply(self, pixels: NDArray[np.float32], top: int, height: int) -> NDArray[np.float32]:
        """See `Edit`. The maps were learned in sRGB: what a colour lies outside of it is added to the mapped colour."""
        columns, rows = fit(pixels.shape[1], height, self._long_side)
        inside = np.clip(pixels, 0.0, 1.0)
        extent = rows / self._reduction, columns / self._reduction
        mapped = apply_local_affine(inside, self._maps, top, height, extent)
        np.clip(mapped, 0.0, 1.0, out=mapped)
        mapped += pixels - inside
        return mapped


def colour_maps(plain: Tensor, swapped: Tensor, long_side: int) -> LocalColourMaps:
    """Return the edit that does to colours what a swap did.

    Encoder and decoder blur both pictures alike, so their difference is the swap's alone: without a swap, nothing
    changes.

    Args:
        plain: The working image through encoder and decoder, `(3, H, W)` RGB in [0, 1].
        swapped: The same with swapped features.
        long_side: Of working images, at most.
    """
    reduction = max(1, max(plain.shape[1:]) // FITTED)
    if reduction > 1:
        plain, swapped = (
            avg_pool2d(picture, reduction, ceil_mode=True, count_include_pad=False) for picture in (plain, swapped)
        )
    radius = max(1, round(WINDOW * max(plain.shape[1:])))
    maps = fit_local_affine(plain, swapped, radius, EPSILON)
    return LocalColourMaps(maps.cpu().numpy(), reduction, long_side)
