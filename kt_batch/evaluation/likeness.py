"""How near an edit comes to the photographer's, and how much of the photograph's detail it keeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kt_batch.errors import UsageError
from kt_batch.kernels.descriptors import LUMA

WINDOW = 9  # pixels along each side of the window of the local gain
UNCLIPPED = 1 / 255  # distance from 0 and 1 that a value keeps
SMALLEST_SSIM_SIDE = 7  # pixels, of scikit-image's window
FLOOR = 1e-12  # added to a mean squared error: equal pictures get 120 dB


@dataclass(frozen=True)
class Likeness:
    """An edit beside the photographer's.

    psnr: in dB.
    ssim: structural similarity; 1 for pictures smaller than its window.
    ciede2000: mean colour difference, over every second pixel of every second row.
    detail: see `detail_kept`.
    """

    psnr: float
    ssim: float
    ciede2000: float
    detail: float


def likeness(before: np.ndarray, edited: np.ndarray, wanted: np.ndarray) -> Likeness:
    """Compare an edit with the photographer's. All are `(H, W, 3)` float32 sRGB in [0, 1].

    Raises:
        UsageError: scikit-image is not installed.
    """
    try:
        from skimage.color import deltaE_ciede2000, rgb2lab
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise UsageError("kt-batch evaluate needs scikit-image: install kt_batch[demo].") from error
    large = min(wanted.shape[:2]) >= SMALLEST_SSIM_SIDE
    ssim = structural_similarity(edited, wanted, data_range=1, channel_axis=2) if large else 1.0
    difference = deltaE_ciede2000(rgb2lab(edited[::2, ::2]), rgb2lab(wanted[::2, ::2])).mean()
    return Likeness(psnr(edited, wanted), float(ssim), float(difference), detail_kept(before, edited))


def psnr(edited: np.ndarray, wanted: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB of values in [0, 1]; 120 where they are equal."""
    error = np.square(edited.astype(np.float64) - wanted).mean()
    return float(-10 * np.log10(error + FLOOR))


def detail_kept(before: np.ndarray, edited: np.ndarray) -> float:
    """Return how much of an edit's detail is the photograph's own, at most 1.

    Let a and b be the gradients of luminance (BT.709 weights on sRGB values; central differences) before and after. In
    a window of 9 x 9 pixels around each pixel, the local gain is g = sum <a, b> / sum <a, a>: contrast may change, and
    differently from place to place. The result is the correlation of g a and b over all pixels whose values before
    and after all lie at least 1/255 from 0 and 1:

        sum <g a, b> / sqrt(sum |g a|^2 * sum |b|^2).

    An edit that changes tones alone has 1. Blur, noise, halos and shifts have less. A picture without gradients, or
    without unclipped pixels, has 1.
    """
    a, b = _gradient(before), _gradient(edited)
    energy = _windowed((a * a).sum(0))
    gain = np.where(energy > FLOOR, _windowed((a * b).sum(0)) / np.maximum(energy, FLOOR), 0)
    inside = _unclipped(before) & _unclipped(edited)
    expected, found = (gain * a)[:, inside], b[:, inside]
    scale = float(np.sqrt((expected * expected).sum() * (found * found).sum()))
    return float((expected * found).sum()) / scale if scale > FLOOR else 1.0


def _gradient(picture: np.ndarray) -> np.ndarray:
    luminance = np.einsum("hwc,c->hw", picture.astype(np.float64), LUMA)
    return np.stack([_differences(luminance), _differences(luminance.T).T])


def _differences(values: np.ndarray) -> np.ndarray:
    """Return differences along rows: central, and one-sided at the border."""
    if len(values) < 2:
        return np.zeros_like(values)
    differences: np.ndarray = np.gradient(values, axis=0)
    return differences


def _windowed(values: np.ndarray) -> np.ndarray:
    """Return the sum over the window around each value, as much of it as lies inside."""
    return _running(_running(values).T).T


def _running(values: np.ndarray) -> np.ndarray:
    """Return sums over WINDOW rows."""
    half = WINDOW // 2
    sums = np.concatenate([np.zeros((1, values.shape[1])), values.cumsum(0)])
    rows = np.arange(len(values))
    running: np.ndarray = sums[np.minimum(rows + half + 1, len(values))] - sums[np.maximum(rows - half, 0)]
    return running


def _unclipped(picture: np.ndarray) -> np.ndarray:
    inside: np.ndarray = (picture.min(-1) >= UNCLIPPED) & (picture.max(-1) <= 1 - UNCLIPPED)
    return inside
