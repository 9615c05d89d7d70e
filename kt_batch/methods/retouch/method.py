"""The edit that a photographer's pairs teach, predicted for each photograph and applied to its own pixels."""

from __future__ import annotations

import time
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from kt_batch.config import Layer, MethodConfig, Series
from kt_batch.errors import UsageError
from kt_batch.kernels.colour_map import map_colours
from kt_batch.kernels.descriptors import describe
from kt_batch.kernels.quadratic import apply_map, change_along, towards_identity
from kt_batch.kernels.staging import staged
from kt_batch.methods.base import PROCESSOR, EditFacts, Need, Resources, Result, SourceProvenance
from kt_batch.methods.features import to_pixels
from kt_batch.methods.retouch.predict import Prediction, predict

COLOURS = 4096  # of a photograph, at even steps, that the guard looks at
MOST_SHARES = 64  # pairs that are recorded for a photograph, those with the largest shares


class RetouchConfig(MethodConfig):
    """The settings of `retouch`."""

    method: Literal["retouch"] = "retouch"
    strength: float = Field(1.0, ge=0.0, le=1.0, description="How much of the edit is applied: 0 none, 1 all of it.")
    series: Series = Field(
        "none",
        description="Photographs that share one edit: those of a burst (time: taken within seconds of each other, and "
        "alike), all of a folder, or none.",
        exclude_if=lambda series: series == "none",  # plans of runs without series stay as they were
    )

    @property
    def shares_edits(self) -> bool:
        """True where photographs of a series get one edit."""
        return self.series != "none"


class ColourMap:
    """An edit that maps the colour of each pixel, wherever it lies: nothing moves, no halo can arise.

    The map is computed on `device`. Its bytes are those of any other: each step is one rounded operation of float32.
    """

    def __init__(self, coefficients: NDArray[np.float64], device: torch.device = PROCESSOR) -> None:
        self.coefficients, self._device = coefficients, device

    def apply(self, pixels: NDArray[np.float32], top: int, height: int) -> NDArray[np.float32]:  # noqa: ARG002
        """See `Edit`. The map was learned in sRGB; a colour outside goes on from the border as the map rises there.

        So a gain of the map is one of the colours outside, too, and they lose no saturation.
        """
        inside = np.clip(pixels, 0.0, 1.0)
        mapped = self._mapped(inside)
        if pixels.min(initial=0) < 0 or pixels.max(initial=1) > 1:
            outside = np.logical_or.reduce([pixels[..., channel] != inside[..., channel] for channel in range(3)])
            border = inside[outside]
            mapped[outside] += change_along(self.coefficients, border, pixels[outside] - border)
        return mapped

    def _mapped(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._device.type == "cpu":
            return apply_map(pixels, self.coefficients)
        mapped: NDArray[np.float32] = (
            map_colours(staged(torch.from_numpy(pixels), self._device), self.coefficients).cpu().numpy()
        )
        return mapped


class Retouch:
    """Edits photographs like the pairs of a paired library, at their full size."""

    config_type: ClassVar[type[MethodConfig]] = RetouchConfig
    needs: ClassVar[frozenset[Need]] = frozenset({Need.PAIRS})
    stages: ClassVar[tuple[str, ...]] = ("predict",)
    layer: ClassVar[Layer | None] = None
    levels: ClassVar[tuple[Layer, ...]] = ()
    stride = 1

    def __init__(self, config: RetouchConfig, resources: Resources) -> None:
        if resources.fit is None:
            raise UsageError("The method retouch needs the fit of a paired library.")
        self.config, self.fit, self.device = config, resources.fit, resources.device

    def translate(self, image: Tensor) -> Result:
        """Return the edit of one photograph, and the share of each pair in it."""
        started = time.perf_counter()
        pixels = to_pixels(image)
        colours = pixels.reshape(-1, 3)
        made = predict(self.fit, describe(pixels), colours[:: max(1, len(colours) // COLOURS)])
        strength = self.config.strength
        coefficients = towards_identity(made.coefficients, strength)
        facts = EditFacts(coefficients, made.confidence, made.guard, strength)
        seconds = {"predict": time.perf_counter() - started}
        return Result(
            ColourMap(coefficients, self.device),
            SourceProvenance(largest_shares(self.fit.landmark_ids, made)),
            seconds,
            facts,
        )


def largest_shares(ids: tuple[str, ...], made: Prediction) -> dict[str, float]:
    """Return pair id -> share of the MOST_SHARES pairs with the largest shares; without more pairs, they sum to 1.

    Of a fit with more pairs than landmarks, a landmark stands for the pairs nearest to it.
    """
    order = np.argsort(-np.abs(made.shares), kind="stable")[:MOST_SHARES]
    return {ids[place]: float(made.shares[place]) for place in sorted(order)}
