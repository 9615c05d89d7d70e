"""Predict the colour map of one photograph, with how far it can be trusted and which pairs shaped it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kt_batch.errors import DamagedError
from kt_batch.kernels.clipping import newly_clipped
from kt_batch.kernels.descriptors import LUMA
from kt_batch.kernels.quadratic import IDENTITY, basis, slopes
from kt_batch.methods.retouch.fit import NOVELTY_CLIP, Fit

LARGEST = 1e6  # coefficient
CAUTION = 0.1  # share of no edit in every map, except those of a fit of synthetic pairs
FAMILIAR, FOREIGN = 2.0, 3.0  # novelty up to which nothing, and from which all, of the fall in confidence applies
NOVELTY_POWER = 2  # of that fall (docs/decisions/0032)
STEPS = 41  # of the guard: 20 from the predicted map to the common map, 20 from there to no edit
FLATTEST = 0.1  # slope of luminance along grey below which a tone counts as flattened
FLATTENED_SHARE = 0.002  # of the pixels, allowed
INVERTED_SHARE = 0.002  # of the pixels, allowed to have a channel that falls as it rises
CLIPPED = 0.02  # distance from black or white within which a slope is not judged


@dataclass(frozen=True)
class Prediction:
    """The edit of one photograph.

    coefficients: the map, `(10, 3)`.
    confidence: 1 for a photograph about as near the pairs as they are to each other, towards 0 for one unlike all of
        them; the map is drawn to no edit by the rest. Always 1 for a fit of synthetic pairs.
    guard: 1 for the predicted map, 0.5 for the map common to all pairs, 0 for no edit, and mixtures in between: below 1
        where the predicted map would flatten, invert or clip tones.
    shares: what each group of pairs contributed, `(L,)`, in the order of `Fit.landmark_ids`; signed, sums to 1.
    """

    coefficients: np.ndarray
    confidence: float
    guard: float
    shares: np.ndarray


def predict(fit: Fit, descriptors: np.ndarray, colours: np.ndarray) -> Prediction:
    """Predict the edit of a photograph.

    Args:
        fit: What the pairs teach.
        descriptors: Of the photograph, `(33,)`.
        colours: Its pixels, or an even sample of them, `(n, 3)` sRGB in [0, 1], n >= 1.

    Raises:
        DamagedError: The fit gives coefficients that no fit of pictures gives.
    """
    pixels = np.asarray(colours, np.float64)
    own = contributions(fit, descriptors)
    largest = max(np.abs(own).max(), np.abs(fit.common_map).max())
    if not largest < LARGEST:
        raise DamagedError(
            f"The fit gives a colour map with a coefficient of {largest:.3g}; {LARGEST:.0e} is the limit."
        )
    guard = _guard(own, fit, pixels)
    mixed = guarded(own, fit.common, guard)
    trust, caution = (1.0, 0.0) if fit.synthetic else (confidence(fit, descriptors), CAUTION)
    coefficients = IDENTITY + (1 - caution) * trust * mixed.sum(0)
    return Prediction(coefficients, trust, guard, shares(mixed, pixels))


def contributions(fit: Fit, descriptors: np.ndarray) -> np.ndarray:
    """Return what each group of pairs adds to the identity, `(L, 10, 3)`: the mean over all members."""
    standardised = fit.scale.standardise(descriptors)[None]
    parts = [np.einsum("d,ldkc->lkc", member.features(standardised)[0], member.influence) for member in fit.members]
    mean: np.ndarray = np.mean(parts, axis=0)
    return mean


def confidence(fit: Fit, descriptors: np.ndarray) -> float:
    """Return how much a photograph is like the pairs, in (0, 1].

    Novelty is the squared distance to the nearest pair over the spacing of the pairs. Confidence is 1 up to a novelty
    of 2, and novelty^-2 from 3 on; between them the exponent grows with the logarithm of novelty.
    """
    pairs = fit.scale.standardise(fit.descriptors, NOVELTY_CLIP)
    nearest = ((pairs - fit.scale.standardise(descriptors, NOVELTY_CLIP)) ** 2).mean(1).min()
    novelty = max(1.0, float(nearest / fit.spacing))
    fall = np.interp(np.log(novelty), np.log([FAMILIAR, FOREIGN]), [0, 1])
    return float(novelty ** (-NOVELTY_POWER * fall))


def shares(contributed: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return the signed shares `(L,)` of contributions `(L, 10, 3)` in their sum; they add up to 1.

    The edit is a sum over pairs (representer theorem; Schölkopf, Herbrich & Smola 2001). The share of one is
    <its contribution, the edit> / <the edit, the edit>, where <a, b> is the mean over the photograph's pixels of the
    product of two changes of colour. Where the edit is nothing, all shares are equal.

    Args:
        contributed: What each group adds to the identity.
        pixels: `(n, 3)`.
    """
    seen = basis(pixels)
    total = contributed.sum(0)
    weighted = np.einsum("nk,nc->kc", seen, np.einsum("nk,kc->nc", seen, total))
    energy = (total * weighted).sum()
    if energy <= 1e-18 * len(pixels):
        return np.full(len(contributed), 1 / len(contributed))
    split: np.ndarray = np.einsum("lkc,kc->l", contributed, weighted) / energy
    return split


def guarded(own: np.ndarray, common: np.ndarray, guard: float) -> np.ndarray:
    """Return contributions `(L, 10, 3)` on the way from the predicted map (1) over the common one (0.5) to none (0)."""
    if guard >= 0.5:
        return (2 * guard - 1) * own + (2 - 2 * guard) * common
    return 2 * guard * common


def _guard(own: np.ndarray, fit: Fit, pixels: np.ndarray) -> float:
    """Return the largest tried guard that keeps tones apart on these pixels; 0 where none does."""
    for guard in np.linspace(1, 0, STEPS):
        if keeps_tones(IDENTITY + guarded(own, fit.common, guard).sum(0), pixels, fit.clipping):
            return float(guard)
    return 0.0


def keeps_tones(coefficients: np.ndarray, pixels: np.ndarray, clipping: float) -> bool:
    """Return whether a map flattens, inverts and clips hardly any tone of these pixels `(n, 3)`.

    Luminance must rise along grey, and each channel with itself, wherever the result is not clipped. A share of
    at most `clipping` may become black or white that was visibly neither.
    """
    mapped, rises = np.einsum("nk,kc->nc", basis(pixels), coefficients), slopes(coefficients, pixels)
    luminance = np.einsum("nc,c->n", mapped, LUMA)
    tones = np.einsum("nic,c->n", rises, LUMA)[(luminance > CLIPPED) & (luminance < 1 - CLIPPED)]
    channels = np.diagonal(rises, axis1=1, axis2=2)[(mapped > CLIPPED) & (mapped < 1 - CLIPPED)]
    return (
        _share(tones < FLATTEST) < FLATTENED_SHARE
        and _share(channels < 0) < INVERTED_SHARE
        and newly_clipped(pixels, mapped) <= clipping
    )


def _share(flags: np.ndarray) -> float:
    return float(flags.mean()) if flags.size else 0.0
