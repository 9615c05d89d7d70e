"""Whitening and colouring (Li et al. 2017, "Universal style transfer via feature transforms"), from coarse to fine.

At each level the picture is encoded, its features get the channel means and the covariance of a style, and the level's
decoder makes the picture that the next level encodes. Several styles are mixed by the mean of their features (eq. 30 of
the supplement of Iterative Feature Transformation).

Differs from the authors' code: the cascade begins at relu4_1, the deepest layer of the shipped encoder, not at relu5_1;
and the fine details that a shipped decoder adds to a picture fade with the photograph's own features.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from kt_batch.config import EncoderConfig, ImageId, Layer, MethodConfig
from kt_batch.errors import UsageError
from kt_batch.kernels.colour import preserve_colour
from kt_batch.kernels.whitening import Axes, coloured, principal_axes, whitened
from kt_batch.methods.base import Need, Resources, Result, SourceProvenance
from kt_batch.methods.features import decode, encode, encode_layers, timed

LAYERS: tuple[Layer, ...] = ("relu4_1", "relu3_1", "relu2_1", "relu1_1")


class WctConfig(MethodConfig):
    """The settings of `wct`."""

    method: Literal["wct"] = "wct"
    encoder: EncoderConfig
    styles: tuple[ImageId, ...] = Field(min_length=1, description="Image ids of the style images.")
    alpha: float = Field(
        0.6, ge=0.0, le=1.0, description="1: the style's covariance; 0: the photograph's own; 0.6: its authors' advice."
    )
    levels: int = Field(4, ge=1, le=len(LAYERS), description="Levels, from the coarsest, the layer of the encoder, on.")
    preserve_colour: bool = Field(False, description="Keep the photograph's own colours.")


class Wct:
    """Gives features the channel means and the covariance of style images, level after level."""

    config_type: ClassVar[type[MethodConfig]] = WctConfig
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ENCODER, Need.DECODERS, Need.STYLES})
    stages: ClassVar[tuple[str, ...]] = ("encode", "transfer", "decode")
    layer: ClassVar[Layer | None] = LAYERS[0]
    levels: ClassVar[tuple[Layer, ...]] = LAYERS

    def __init__(self, config: WctConfig, resources: Resources) -> None:
        if resources.encoder is None or not resources.decoders or not resources.styles:
            raise UsageError("The method wct needs an encoder, decoders and style images.")
        self.config = config
        self.encoder, self.decoders = resources.encoder, resources.decoders
        self.plan = levels_from(config.encoder.layer)[: config.levels]
        self.stride = self.encoder.geometry(config.encoder.layer).stride
        self.shares = dict.fromkeys(sorted(resources.styles), 1 / len(resources.styles))
        self.styles: dict[Layer, list[Axes]] = {layer: [] for layer in self.plan}
        with torch.no_grad():
            for image_id in self.shares:
                found = encode_layers(self.encoder, resources.styles[image_id], self.plan)
                for layer in self.plan:
                    self.styles[layer].append(principal_axes(found[layer][: self.encoder.code_channels(layer)]))

    @torch.no_grad()
    def translate(self, image: Tensor) -> Result:
        """Translate one image.

        Args:
            image: `(3, H, W)` float32 RGB in [0, 1]; both sides are multiples of the stride and at least twice it.
        """
        seconds: dict[str, float] = {}
        output, alpha = image, self.config.alpha
        for layer in self.plan:
            with timed(seconds, "encode"):
                features = encode(self.encoder, output, layer)
            with timed(seconds, "transfer"):
                code = features[: self.encoder.code_channels(layer)]
                white = whitened(code)
                styled = torch.stack([coloured(white, style) for style in self.styles[layer]]).mean(0)
                mixed = torch.cat([torch.lerp(code, styled.view_as(code), alpha), features[len(code) :]])
            with timed(seconds, "decode"):
                output = decode(self.decoders[layer], mixed, features, 1 - alpha)
        if self.config.preserve_colour:
            output = preserve_colour(output, image)
        return Result(output, SourceProvenance(self.shares), seconds)


def levels_from(layer: Layer) -> tuple[Layer, ...]:
    """Return the levels from `layer` on, coarse to fine."""
    return LAYERS[LAYERS.index(layer) :]
