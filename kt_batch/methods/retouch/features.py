"""Features of a photograph: what its descriptors say, seen from the landmarks, through one of six kernels.

A kernel compares standardised descriptors. Its features psi are chosen so that <psi(x), psi(y)> is the centred kernel
of x and y: exactly where the landmarks are all the pairs, by the Nyström approximation elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from kt_batch.kernels.descriptors import DESCRIPTORS

CLIP = 2.5  # standard deviations at which a descriptor is clipped
SMALLEST_DEVIATION = 1e-9
KEPT = 1e-5  # of the largest eigenvalue: smaller ones are noise
NO_SPREAD = 1e-9  # an eigenvalue below says that the landmarks are alike
CHUNK = 256  # pictures compared at a time

TONES_AND_COLOUR_CAST = (
    "luminance_percentile_5",
    "luminance_percentile_25",
    "luminance_percentile_50",
    "luminance_percentile_75",
    "luminance_percentile_95",
    "dark_share",
    "bright_share",
    "darkest_channel_percentile_5",
    "log_red_over_green",
    "log_blue_over_green",
    "chroma_mean",
    "saturation_mean",
    "lab_b_mean",
    "lab_a_mean",
)


@dataclass(frozen=True)
class Family:
    """Predictors that differ in their ridge alone; their predictions are averaged.

    kernel: additive, rbf or linear.
    columns: descriptors that the kernel compares.
    ridges: penalties of what depends on the photograph.
    whitened: the penalty is on coefficients of a basis that is orthonormal over the pairs' pixels.
    """

    kernel: str
    columns: tuple[int, ...]
    ridges: tuple[float, ...]
    whitened: bool


_FEW = tuple(DESCRIPTORS.index(name) for name in TONES_AND_COLOUR_CAST)
_ALL = tuple(range(len(DESCRIPTORS)))
FAMILIES: tuple[Family, ...] = tuple(
    Family(kernel, columns, ridges, whitened)
    for columns in (_FEW, _ALL)
    for kernel, ridges, whitened in (
        ("additive", (0.003, 0.01), True),
        ("rbf", (0.003, 0.01), False),
        ("linear", (0.01, 0.03), False),
    )
)


@dataclass(frozen=True)
class Scale:
    """Mean and deviation of every descriptor over the pairs, both `(33,)`."""

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, descriptors: np.ndarray) -> Scale:
        """Return the scale of descriptors `(N, 33)`."""
        return cls(descriptors.mean(0), descriptors.std(0) + SMALLEST_DEVIATION)

    def standardise(self, descriptors: np.ndarray, clip: float = CLIP) -> np.ndarray:
        """Return descriptors `(..., 33)` in deviations from the mean, clipped."""
        clipped: np.ndarray = np.clip((descriptors - self.mean) / self.deviation, -clip, clip)
        return clipped


@dataclass(frozen=True)
class Features:
    """The features psi of one family: `(n, 33)` standardised descriptors -> `(n, d)`.

    landmarks: standardised descriptors of the landmarks, `(L, 33)`.
    means: of the kernel between a landmark and all landmarks, `(L,)`.
    projection: of centred kernels, `(L, d)`.
    offset: mean of the projected kernels over all pairs, `(d,)`.
    """

    family: Family
    landmarks: np.ndarray
    means: np.ndarray
    projection: np.ndarray
    offset: np.ndarray

    def __call__(self, standardised: np.ndarray) -> np.ndarray:
        """Return `[1, psi]` `(n, 1 + d)` of standardised descriptors `(n, 33)`."""
        parts = [
            self._project(standardised[start : start + CHUNK]) - self.offset
            for start in range(0, len(standardised), CHUNK)
        ]
        return np.concatenate([np.ones((len(standardised), 1)), np.concatenate(parts)], axis=1)

    def _project(self, standardised: np.ndarray) -> np.ndarray:
        kernel = compare(self.family, standardised, self.landmarks)
        projected: np.ndarray = np.einsum("nl,ld->nd", _centre(kernel, self.means), self.projection)
        return projected


def features(family: Family, standardised: np.ndarray, landmarks: np.ndarray) -> Features:
    """Return the features of a family.

    Args:
        family: The kernel.
        standardised: Descriptors of all pairs, `(N, 33)`.
        landmarks: Positions of the landmarks among them, `(L,)`.
    """
    chosen = standardised[landmarks]
    kernel = compare(family, chosen, chosen)
    means = kernel.mean(0)
    centred = _centre(kernel, means)
    symmetric = torch.tensor((centred + centred.T) / 2, device="cpu")
    eigenvalues, eigenvectors = (part.numpy() for part in torch.linalg.eigh(symmetric))
    kept = eigenvalues > max(KEPT * eigenvalues.max(), NO_SPREAD)
    projection = eigenvectors[:, kept] / np.sqrt(eigenvalues[kept])
    uncentred = Features(family, chosen, means, projection, np.zeros(projection.shape[1]))
    return Features(family, chosen, means, projection, uncentred(standardised)[:, 1:].mean(0))


def compare(family: Family, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the kernel `(n, m)` between standardised descriptors `(n, 33)` and `(m, 33)`."""
    columns = list(family.columns)
    left, right = left[:, columns], right[:, columns]
    kernel: np.ndarray
    if family.kernel == "linear":
        kernel = np.einsum("nd,md->nm", left, right) / len(columns)
        return kernel
    squares = (left[:, None] - right[None]) ** 2
    kernel = np.exp(-squares.mean(-1) / 2) if family.kernel == "rbf" else np.exp(-squares / 2).mean(-1)
    return kernel


def _centre(kernel: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Centre a kernel `(n, L)` with the landmarks, in the space of its features."""
    centred: np.ndarray = kernel - kernel.mean(1, keepdims=True) - means + means.mean()
    return centred


def choose_landmarks(standardised: np.ndarray, count: int) -> np.ndarray:
    """Return the positions `(min(count, N),)` of the landmarks, ascending.

    The first is the pair nearest the mean; each further one is the pair farthest from all so far (Gonzalez 1985). Of
    equals, the first counts.
    """
    if len(standardised) <= count:
        return np.arange(len(standardised))
    chosen = [int((standardised**2).sum(1).argmin())]
    nearest = np.full(len(standardised), np.inf)
    while len(chosen) < count:
        np.minimum(nearest, ((standardised - standardised[chosen[-1]]) ** 2).sum(1), out=nearest)
        chosen.append(int(nearest.argmax()))
    return np.unique(chosen)


def nearest_landmarks(standardised: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Return for every pair `(N,)` which landmark is the nearest; of equals, the first. A landmark is its own."""
    parts = [
        ((standardised[start : start + CHUNK, None] - standardised[landmarks][None]) ** 2).sum(-1).argmin(1)
        for start in range(0, len(standardised), CHUNK)
    ]
    nearest = np.concatenate(parts)
    nearest[landmarks] = np.arange(len(landmarks))
    return nearest
