"""A photographer's hand as a script: exposure that depends on the picture, a tone curve, warmth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GAMMA = 2.2
GREY = 0.2  # mean luminance in linear light that the hand exposes for
STRETCH = 2.5  # most that it multiplies or divides light by
PATIENCE = 0.8  # power of the correction: dark pictures stay a little darker
CONTRAST = 0.35  # share of a full S-curve
WARMTH = (1.04, 1.0, 0.9)  # factors of red, green and blue
LUMINANCE = (0.2126, 0.7152, 0.0722)


def exposed(picture: NDArray[np.float64], stops: float) -> NDArray[np.float64]:
    """Return a picture `(H, W, 3)` in [0, 1] as it were with this many stops more light."""
    lit: NDArray[np.float64] = np.clip(picture * 2 ** (stops / GAMMA), 0, 1)
    return lit


def scripted_edit(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the edited picture: exposed for middle grey, with more contrast, and warmer."""
    light = float(np.mean(picture**GAMMA @ np.array(LUMINANCE)))
    gain = np.clip(GREY / max(light, 1e-6), 1 / STRETCH, STRETCH) ** PATIENCE
    lit = exposed(picture, float(np.log2(gain)))
    curved = (1 - CONTRAST) * lit + CONTRAST * lit * lit * (3 - 2 * lit)
    edited: NDArray[np.float64] = np.clip(curved * WARMTH, 0, 1)
    return edited
