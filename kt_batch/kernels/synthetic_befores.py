"""A finished photograph made darker, paler and hazier: what may have been there before somebody's edit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from kt_batch.kernels.descriptors import LUMA

VARIATIONS = 3  # of each photograph
STOPS, BLACK, CHROMA = (-1.0, 0.2), (0.0, 0.08), (0.65, 1.0)  # ranges that are drawn from


@dataclass(frozen=True)
class Variation:
    """How a synthetic before differs from its photograph.

    stops: Exposure, in linear light. black: What black becomes, in sRGB. chroma: Factor of the distance from grey.
    """

    stops: float
    black: float
    chroma: float


def variation(image_id: str, number: int) -> Variation:
    """Return a variation of a photograph, drawn evenly by a hash of its id (16 hex digits) and the number."""
    digest = hashlib.sha256(b"before:" + bytes.fromhex(image_id) + bytes([number])).digest()
    shares = np.frombuffer(digest, "<u8")[:3] / 2.0**64
    drawn = [low + share * (high - low) for share, (low, high) in zip(shares, (STOPS, BLACK, CHROMA), strict=True)]
    return Variation(*map(float, drawn))


def synthetic_before(pixels: np.ndarray, how: Variation) -> np.ndarray:
    """Return the synthetic before of a photograph: exposure first, then chroma, then the lift of black.

    Args:
        pixels: `(H, W, 3)` sRGB in [0, 1].
        how: What is done to it.

    Returns:
        `(H, W, 3)` float32 in [0, 1].
    """
    values = np.asarray(pixels, np.float64)
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4) * 2**how.stops
    exposed = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    grey = np.einsum("hwc,c->hw", exposed, LUMA)[..., None]
    paler = grey + how.chroma * (exposed - grey)
    lifted: np.ndarray = np.clip(how.black + (1 - how.black) * paler, 0, 1).astype(np.float32)
    return lifted
