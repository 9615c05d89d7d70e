"""Tone mapping of high dynamic range pictures: PQ and HLG of ITU-R BT.2100 to the light of a standard picture.

The rule: 203 cd/m2 become white (ITU-R BT.2408). A picture that is nowhere brighter keeps its light. In a brighter one,
the highlights are compressed by the curve of ITU-R BT.2390, from the picture's brightest sample to white, by the same
factor for red, green and blue.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from kt_batch.store.images.lcms import Floats

WHITE = 203.0  # cd/m2
_PQ_PEAK, _HLG_PEAK = 10000.0, 1000.0  # cd/m2; the peak of HLG is that of its nominal display, which has gamma 1.2

_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
_HLG_A, _HLG_B, _HLG_C = 0.17883277, 0.28466892, 0.55991073


class Transfer(StrEnum):
    """The transfer functions of high dynamic range."""

    PQ = "PQ"
    HLG = "HLG"

    @property
    def white(self) -> float:
        """Return the signal of white, 203 cd/m2."""
        return float(_pq_signal(np.array(WHITE, np.float32))) if self is Transfer.PQ else 0.75


def scene_light(signal: Floats) -> Floats:
    """Return the relative light of the scene in [0, 1] for a signal of HLG."""
    high = (np.exp((signal - _HLG_C) / _HLG_A) + _HLG_B) / 12
    return np.where(signal <= 0.5, signal**2 / 3, high)


def display_light(signal: Floats) -> Floats:
    """Return the light of the display in cd/m2 for a signal of PQ."""
    root = signal ** (1 / _M2)
    return np.asarray(_PQ_PEAK * (np.maximum(root - _C1, 0.0) / (_C2 - _C3 * root)) ** (1 / _M1))


def to_standard_light(signal: Floats, transfer: Transfer, weights: tuple[float, ...]) -> Floats:
    """Return the light of a standard picture, 1 for white.

    Args:
        signal: (h, w, 1 | 3) in [0, 1].
        transfer: How the signal encodes light.
        weights: The luminance of red, green and blue.
    """
    if transfer is Transfer.PQ:
        light = display_light(signal)
    else:
        scene = scene_light(signal)
        luminance = scene if signal.shape[2] == 1 else (scene @ np.array(weights, np.float32))[..., None]
        light = np.asarray(_HLG_PEAK * np.maximum(luminance, 0.0) ** 0.2 * scene)
    light = np.asarray(np.minimum(light, _PQ_PEAK), np.float32)
    brightest = light.max(axis=2, keepdims=True)
    peak = float(brightest.max())
    if peak > WHITE:
        light *= _compressed(brightest, peak) / np.maximum(brightest, 1e-9)
    return np.clip(np.asarray(light / WHITE), 0.0, 1.0)


def _pq_signal(light: Floats) -> Floats:
    root = (light / _PQ_PEAK) ** _M1
    return np.asarray(((_C1 + _C2 * root) / (1 + _C3 * root)) ** _M2)


def _compressed(light: Floats, peak: float) -> Floats:
    """Map light in [0, peak] to [0, WHITE], as ITU-R BT.2390 does in signals of PQ."""
    top = float(_pq_signal(np.array(peak, np.float32)))
    signal, end = _pq_signal(light) / top, float(_pq_signal(np.array(WHITE, np.float32))) / top
    knee = 1.5 * end - 0.5
    t = (signal - knee) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * end
    return np.where(signal < knee, light, display_light(np.clip(spline, 0.0, 1.0) * top))
