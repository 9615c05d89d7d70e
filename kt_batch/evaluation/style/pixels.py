"""The measures that need no network: patch distance, blotchiness, sharpness."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kt_batch.evaluation.style.sliced import Curves, directions, distance, quantile_curves, sample
from kt_batch.kernels.colour import luminance
from kt_batch.kernels.lab import lab

PATCH = 7  # pixels a side
LEVELS = 4  # of the Laplacian pyramid; the last is what the other three leave
SMALLEST_SIDE = PATCH * 2 ** (LEVELS - 1)  # of a picture: the last level holds one patch
BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # Burt & Adelson 1983

REFERENCE_SIDE = 512  # long side at which the lengths below are pixels; other pictures have them in proportion
FINE, COARSE = 4.0, 16.0  # deviations of the Gaussians that bound the band of blotches
SLOPE_SCALE, SLOPE_WINDOW = 1.5, 8.0  # deviations of the Gaussians before and after the gradient of the photograph
FLAT = 0.008  # mean gradient of luminance per pixel below which a photograph is flat
LEAST_FLAT = 0.02  # share of a photograph that must be flat

SHARP_BOX = 5  # pixels a side


# ---- patch distance ----


def patch_curves(picture: Tensor) -> list[Curves]:
    """Return the quantiles of the projected patches of a picture `(3, H, W)`, for each level of its pyramid."""
    (axes,) = directions([3 * PATCH * PATCH])
    return [quantile_curves(_patches(level), axes) for level in laplacian_pyramid(picture)]


def patch_distances(result: list[Curves], painting: list[Curves]) -> list[float]:
    """Return the patch distance of a result to a painting at each level; the patch distance is their mean.

    It is the sliced Wasserstein distance (Rabin et al. 2011; of a Laplacian pyramid as in Karras et al. 2018) of all
    7 x 7 patches of sRGB values at four levels: details of one, two and four pixels, and what is left at an eighth of
    the size. There are 256 random directions (seed 0) and 512 quantiles from 0.002 to 0.998. Of more than 16,000
    patches, 16,000 are sampled (seed 1). The mean distance of quantiles is divided by the mean distance of the
    painting's quantiles from their mean. No network is used, and nothing is trained on it.
    """
    return [distance(ours, theirs) for ours, theirs in zip(result, painting, strict=True)]


def laplacian_pyramid(picture: Tensor) -> list[Tensor]:
    """Return LEVELS levels of a picture `(C, H, W)`, the finest first; both sides are multiples of 8.

    A level is the picture minus its blurred half-size copy, enlarged. The last level is that copy. The filter is
    binomial (1, 4, 6, 4, 1), borders are reflected.
    """
    levels, current = [], picture
    for _ in range(LEVELS - 1):
        smaller = _blur(current)[:, ::2, ::2]
        levels.append(current - _enlarge(smaller))
        current = smaller
    return [*levels, current]


def _enlarge(picture: Tensor) -> Tensor:
    spread = picture.new_zeros(picture.shape[0], 2 * picture.shape[1], 2 * picture.shape[2])
    spread[:, ::2, ::2] = 4 * picture
    return _blur(spread)


def _blur(picture: Tensor) -> Tensor:
    return _separable(F.pad(picture[None], (2, 2, 2, 2), mode="reflect")[0], picture.new_tensor(BINOMIAL))


def _separable(planes: Tensor, kernel: Tensor) -> Tensor:
    """Filter planes `(C, H, W)` with a kernel `(k,)` along both axes, without padding."""
    each = planes[:, None]
    return F.conv2d(F.conv2d(each, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))[:, 0]


def _patches(level: Tensor) -> Tensor:
    """Return sampled patches of a level `(3, h, w)` as vectors `(3 * 49, n)`."""
    windows = level.unfold(1, PATCH, 1).unfold(2, PATCH, 1)
    places = sample(windows.shape[1] * windows.shape[2])
    taken = windows[:, places // windows.shape[2], places % windows.shape[2]]
    return taken.permute(0, 2, 3, 1).flatten(0, 2)


# ---- blotchiness ----


def flat_region(photograph: Tensor) -> Tensor | None:
    """Return where a photograph `(3, H, W)` is flat, `(H, W)` bool; None where less than 2 % of it is.

    A pixel is flat where the mean gradient of luminance is below 0.008 per pixel in all of the square that reaches 16
    pixels from it: colours across an edge are no blotches. Luminance (BT.601) is smoothed by a Gaussian of 1.5 pixels,
    its gradient (central differences) by one of 8 pixels. All pixels are those of a picture of 512 pixels.
    """
    scale = max(photograph.shape[1:]) / REFERENCE_SIDE
    everywhere = torch.ones_like(photograph[0])
    smooth = _smooth(luminance(photograph)[None], everywhere, SLOPE_SCALE * scale)[0]
    down, across = torch.gradient(smooth)
    slope = _smooth((down.square() + across.square()).sqrt()[None], everywhere, SLOPE_WINDOW * scale)
    reach = round(COARSE * scale)
    flat: Tensor = F.max_pool2d(slope * scale, 2 * reach + 1, stride=1, padding=reach)[0] < FLAT
    return flat if flat.float().mean() >= LEAST_FLAT else None


def blotchiness(picture: Tensor, flat: Tensor) -> float:
    """Return how far colours vary in broad blotches where the photograph is flat, in units of CIELAB.

    It is the root mean square, over the flat pixels, of a picture's L*a*b* between two scales: smoothed by a Gaussian
    of 4 pixels minus smoothed by one of 16, of a picture of 512 pixels (blotches about 10 to 50 pixels wide). Both see
    flat pixels alone (normalised convolution), so that no edge of the flat region counts.

    Args:
        picture: `(3, H, W)` sRGB in [0, 1].
        flat: `(H, W)` bool.
    """
    scale = max(picture.shape[1:]) / REFERENCE_SIDE
    colours = torch.from_numpy(lab(picture.permute(1, 2, 0).numpy())).permute(2, 0, 1)
    mask = flat.to(colours)
    band = _smooth(colours, mask, FINE * scale) - _smooth(colours, mask, COARSE * scale)
    return float((band.square().sum(0) * mask).sum().div(mask.sum()).sqrt())


def _smooth(planes: Tensor, mask: Tensor, deviation: float) -> Tensor:
    """Return the Gaussian mean of planes `(C, H, W)` over the pixels of a mask `(H, W)`; 0 far from all of them."""
    down, across = (_gaussian(length, deviation).to(planes) for length in planes.shape[1:])
    *sums, weight = down @ torch.cat([planes * mask, mask[None]]) @ across
    means: Tensor = torch.stack(sums) / weight.clamp(min=1e-12)
    return means


def _gaussian(length: int, deviation: float) -> Tensor:
    """Return the symmetric matrix `(length, length)` that sums values with Gaussian weights, cut at 3 deviations."""
    places = torch.arange(length, dtype=torch.float64)
    apart = (places[:, None] - places).abs()
    return torch.exp(-0.5 * (apart / deviation).square()) * (apart <= 3 * deviation)


# ---- sharpness ----


def sharpness(picture: Tensor) -> float:
    """Return the share of fine detail in a picture's contrast.

    Let l be the mean of R, G and B, and b its mean over 5 x 5 pixels, borders reflected. The share is the deviation of
    l - b over that of l; 0 for a picture of one grey. It is to be read beside the painting's own.

    Args:
        picture: `(3, H, W)` sRGB in [0, 1].
    """
    grey = picture.mean(0)
    half = SHARP_BOX // 2
    box = F.avg_pool2d(F.pad(grey[None, None], (half, half, half, half), mode="reflect"), SHARP_BOX, 1)[0, 0]
    whole = float(grey.std())
    return float((grey - box).std()) / whole if whole > np.finfo(np.float32).eps else 0.0
