"""Iterative feature transformation (An et al. 2020), from coarse to fine.

At each level the features of the picture descend a loss that keeps them near what they were and brings their second
moments near the style's (`kernels.iterative`); the level's decoder makes the picture that the next level encodes. The
loss of several styles has a term for each, so that every style stays whole.

Differs from the paper, whose weights are not printed: the weight of a style at a layer is `style_weight` times n / m,
with n cells and m the mean square of the style's features there, so that one value fits all layers and sizes.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from kt_batch.config import EncoderConfig, ImageId, Layer, MethodConfig
from kt_batch.errors import UsageError
from kt_batch.kernels.colour import preserve_colour
from kt_batch.kernels.iterative import Objective, descended, second_moment
from kt_batch.methods.base import Need, Resources, Result, SourceProvenance
from kt_batch.methods.features import decode, encode, encode_layers, timed
from kt_batch.methods.wct import LAYERS, levels_from


class IftConfig(MethodConfig):
    """The settings of `ift`."""

    method: Literal["ift"] = "ift"
    encoder: EncoderConfig
    styles: tuple[ImageId, ...] = Field(min_length=1, description="Image ids of the style images.")
    style_weight: float = Field(0.1, gt=0, le=1e12, description="Of the style's loss beside the content's.")
    updates: int = Field(15, ge=1, le=1000, description="Steps of gradient descent in a round (n_upd).")
    rounds: int = Field(1, ge=1, le=100, description="Rounds; each keeps near what the one before made (n_iter).")
    levels: int = Field(4, ge=1, le=len(LAYERS), description="Levels, from the coarsest, the layer of the encoder, on.")
    preserve_colour: bool = Field(False, description="Keep the photograph's own colours.")


class Ift:
    """Moves features along an analytic gradient towards the second moments of style images, level after level."""

    config_type: ClassVar[type[MethodConfig]] = IftConfig
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ENCODER, Need.DECODERS, Need.STYLES})
    stages: ClassVar[tuple[str, ...]] = ("encode", "transfer", "decode")
    layer: ClassVar[Layer | None] = LAYERS[0]
    levels: ClassVar[tuple[Layer, ...]] = LAYERS

    def __init__(self, config: IftConfig, resources: Resources) -> None:
        if resources.encoder is None or not resources.decoders or not resources.styles:
            raise UsageError("The method ift needs an encoder, decoders and style images.")
        self.config = config
        self.encoder, self.decoders = resources.encoder, resources.decoders
        self.plan = levels_from(config.encoder.layer)[: config.levels]
        self.stride = self.encoder.geometry(config.encoder.layer).stride
        self.shares = dict.fromkeys(sorted(resources.styles), 1 / len(resources.styles))
        self.moments: dict[Layer, list[Tensor]] = {layer: [] for layer in self.plan}
        with torch.no_grad():
            for image_id in self.shares:
                found = encode_layers(self.encoder, resources.styles[image_id], self.plan)
                for layer in self.plan:
                    self.moments[layer].append(second_moment(self._code(found[layer], layer).flatten(1)))

    @torch.no_grad()
    def translate(self, image: Tensor) -> Result:
        """Translate one image.

        Args:
            image: `(3, H, W)` float32 RGB in [0, 1]; both sides are multiples of the stride and at least twice it.
        """
        seconds: dict[str, float] = {}
        output = image
        for layer in self.plan:
            with timed(seconds, "encode"):
                features = encode(self.encoder, output, layer)
            with timed(seconds, "transfer"):
                code = self._code(features, layer)
                styled = self._styled(code.flatten(1), layer).view_as(code)
                styled = torch.cat([styled, features[len(code) :]])
            with timed(seconds, "decode"):
                output = decode(self.decoders[layer], styled, features, 0.0)
        if self.config.preserve_colour:
            output = preserve_colour(output, image)
        return Result(output, SourceProvenance(self.shares), seconds)

    def _code(self, features: Tensor, layer: Layer) -> Tensor:
        return features[: self.encoder.code_channels(layer)]

    def _styled(self, cells: Tensor, layer: Layer) -> Tensor:
        """Return the cells `(C, n)` after all rounds."""
        styles = self.moments[layer]
        weights = [self.config.style_weight * cells.shape[1] / float(style.trace() / len(style)) for style in styles]
        for _ in range(self.config.rounds):
            cells = descended(Objective(cells, styles, weights), self.config.updates)
        return cells
