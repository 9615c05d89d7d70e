"""Whitening and colouring (Li et al. 2017, "Universal style transfer via feature transforms"), from coarse to fine.

At each level the picture is encoded, its features get the channel means and the covariance of a style, and the level's
decoder makes the picture that the next level encodes. Several styles are mixed by the mean of their features by their
weights (eq. 30 of the supplement of Iterative Feature Transformation).

Differs from the authors' code: the cascade begins at relu4_1, the deepest layer of the shipped encoder, not at relu5_1;
and the fine details that a shipped decoder adds to a picture fade with the photograph's own features.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kt_batch.config import EncoderConfig, ImageId, Layer, MethodConfig
from kt_batch.errors import UsageError
from kt_batch.kernels.colour import preserve_colour
from kt_batch.kernels.moments import Moments
from kt_batch.kernels.regions import blended
from kt_batch.kernels.whitening import Axes, axes_of, coloured, principal_axes, whitened
from kt_batch.methods.base import Need, Resources, Result, SourceProvenance
from kt_batch.methods.features import decode_styled, encode, encode_layers, timed
from kt_batch.methods.styles import EncodedRegions, MixesStyles, Parts, StyleMixes

LAYERS: tuple[Layer, ...] = ("relu4_1", "relu3_1", "relu2_1", "relu1_1")


class WctConfig(MethodConfig):
    """The settings of `wct`."""

    method: Literal["wct"] = "wct"
    encoder: EncoderConfig
    styles: tuple[ImageId, ...] = Field((), description="Image ids of the style images.")
    alpha: float = Field(
        0.6, ge=0.0, le=1.0, description="1: the style's covariance; 0: the photograph's own; 0.6: its authors' advice."
    )
    levels: int = Field(4, ge=1, le=len(LAYERS), description="Levels, from the coarsest, the layer of the encoder, on.")
    preserve_colour: bool = Field(False, description="Keep the photograph's own colours.")

    @model_validator(mode="after")
    def _check_style(self) -> Self:
        if bool(self.styles) == (self.statistics_digest is not None):
            raise ValueError("wct takes styles or the statistics of a library, one of the two")
        if self.statistics_digest is not None and self.levels > 1:
            raise ValueError(
                f"wct after a library has one level, that of its statistics, and levels is {self.levels}; give 1"
            )
        return self


class Wct(EncodedRegions, MixesStyles):
    """Gives features the channel means and the covariance of style images, level after level, or of a library's cells.

    A library has one level, the layer of its statistics; its covariance is that of all its cells together. In regions,
    features are whitened by the covariance of each region.
    """

    config_type: ClassVar[type[MethodConfig]] = WctConfig
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ENCODER, Need.DECODERS, Need.STYLES, Need.STATISTICS})
    stages: ClassVar[tuple[str, ...]] = ("encode", "transfer", "decode")
    layer: ClassVar[Layer | None] = LAYERS[0]
    levels: ClassVar[tuple[Layer, ...]] = LAYERS

    def __init__(self, config: WctConfig, resources: Resources) -> None:
        library, styles = resources.statistics, resources.styles or {}
        if resources.encoder is None or not resources.decoders or not (styles or library):
            raise UsageError("The method wct needs an encoder, decoders and style images, or statistics.")
        self.config = config
        self.encoder, self.decoders = resources.encoder, resources.decoders
        self.cut = config.encoder.layer
        self.plan = levels_from(config.encoder.layer)[: config.levels]
        self.stride = self.encoder.geometry(config.encoder.layer).stride
        self.mixes = StyleMixes(config, styles, library.shares if library else None)
        self.library = (
            axes_of_library(library.moments, resources.device, self._channels(self.plan[0])) if library else None
        )
        self.styles: dict[Layer, dict[str, Axes]] = {layer: {} for layer in self.plan}
        with torch.no_grad():
            for image_id in sorted(styles):
                found = encode_layers(self.encoder, styles[image_id], self.plan)
                for layer in self.plan:
                    self.styles[layer][image_id] = principal_axes(found[layer][: self._channels(layer)])

    @torch.no_grad()
    def translate(self, image: Tensor, regions: Tensor | None = None) -> Result:
        """Translate one image.

        Args:
            image: `(3, H, W)` float32 RGB in [0, 1]; both sides are multiples of the stride and at least twice it.
            regions: `(H, W)` int64, the number of the style of each pixel; None: one style everywhere.
        """
        parts = self.mixes.parts(regions)
        seconds: dict[str, float] = {}
        output, alpha = image, self.config.alpha
        for layer in self.plan:
            with timed(seconds, "encode"):
                features = encode(self.encoder, output, layer)
            with timed(seconds, "transfer"):
                code = features[: self._channels(layer)]
                mixed = torch.cat([torch.lerp(code, self._styled(code, layer, parts), alpha), features[len(code) :]])
            with timed(seconds, "decode"):
                output = decode_styled(self.decoders[layer], mixed, features, 1 - alpha, 1 - alpha)
        if self.config.preserve_colour:
            output = preserve_colour(output, image)
        return Result(output, SourceProvenance(self.mixes.shares(parts)), seconds)

    def _channels(self, layer: Layer) -> int:
        return self.encoder.code_channels(layer)

    def _styled(self, code: Tensor, layer: Layer, parts: Parts) -> Tensor:
        """Return a code `(C, h, w)` with the covariance of the styles."""
        masks = parts.masks_on(*code.shape[1:])
        white = [whitened(code, mask) for mask in masks]
        pairs = zip(white, parts.styles, strict=True)
        return blended([self._coloured(cells, layer, number).view_as(code) for cells, number in pairs], masks)

    def _coloured(self, white: Tensor, layer: Layer, number: int) -> Tensor:
        """Return white cells `(C, n)` float64 with the covariance of one style, `(C, n)` float32."""
        if self.library is not None:
            return coloured(white, self.library)
        axes = {image_id: self.styles[layer][image_id] for image_id in self.mixes.mixes[number]}
        return self.mixes.mean(number, {image_id: coloured(white, each) for image_id, each in axes.items()})


def axes_of_library(moments: Moments, device: torch.device, channels: int) -> Axes:
    """Return the principal axes of the first `channels` channels of the cells of a library."""
    mean = torch.from_numpy(moments.mean[:channels])[:, None].to(device)
    second = torch.from_numpy(moments.matrix()[:channels, :channels]).to(device)
    return axes_of(mean, (second - mean @ mean.T) * (moments.count / max(1, moments.count - 1)))


def levels_from(layer: Layer) -> tuple[Layer, ...]:
    """Return the levels from `layer` on, coarse to fine."""
    return LAYERS[LAYERS.index(layer) :]
