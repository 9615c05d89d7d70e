"""Iterative feature transformation (Chiu & Gurari 2020), from coarse to fine.

At each level the features of the picture descend a loss that keeps them near what they were and brings their second
moments near the style's (`kernels.iterative`); the level's decoder makes the picture that the next level encodes. The
loss of several styles has a term for each, so that every style stays whole (eq. 29 of the supplement); their weights
divide what equal styles would have together. A region has second moments of its own, and all regions descend together.

Differs from the paper, whose weights are not printed: the weight of a style at a layer is `style_weight` times n / m,
with n cells (of its region) and m the mean square of the style's features there, so that one value fits all layers and
sizes. The authors' code hands each level the photograph's finer features past the coarser ones; here a decoder restores
`details` of what its level was given.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from kt_batch.config import EncoderConfig, ImageId, Layer, MethodConfig
from kt_batch.errors import UsageError
from kt_batch.kernels.colour import preserve_colour
from kt_batch.kernels.iterative import Goal, Objective, descended, second_moment
from kt_batch.methods.base import Need, Resources, Result, SourceProvenance
from kt_batch.methods.details import DetailsConfig
from kt_batch.methods.features import decode_styled, encode, encode_layers, timed
from kt_batch.methods.steps import report_step
from kt_batch.methods.styles import EncodedRegions, MixesStyles, Parts, StyleMixes
from kt_batch.methods.wct import LAYERS, levels_from


class IftConfig(DetailsConfig):
    """The settings of `ift`."""

    method: Literal["ift"] = "ift"
    encoder: EncoderConfig
    styles: tuple[ImageId, ...] = Field(min_length=1, description="Image ids of the style images.")
    style_weight: float = Field(1.0, gt=0, le=1e12, description="Of the style's loss beside the content's.")
    updates: int = Field(15, ge=1, le=1000, description="Steps of gradient descent in a round (n_upd).")
    rounds: int = Field(1, ge=1, le=100, description="Rounds; each keeps near what the one before made (n_iter).")
    levels: int = Field(4, ge=1, le=len(LAYERS), description="Levels, from the coarsest, the layer of the encoder, on.")
    preserve_colour: bool = Field(False, description="Keep the photograph's own colours.")


class Ift(EncodedRegions, MixesStyles):
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
        self.cut = config.encoder.layer
        self.plan = levels_from(config.encoder.layer)[: config.levels]
        self.stride = self.encoder.geometry(config.encoder.layer).stride
        self.mixes = StyleMixes(config, resources.styles)
        self.moments: dict[Layer, dict[str, Tensor]] = {layer: {} for layer in self.plan}
        with torch.no_grad():
            for image_id in sorted({each for mix in self.mixes.mixes for each in mix}):
                found = encode_layers(self.encoder, resources.styles[image_id], self.plan)
                for layer in self.plan:
                    self.moments[layer][image_id] = second_moment(self._code(found[layer], layer).flatten(1))

    @torch.no_grad()
    def translate(self, image: Tensor, regions: Tensor | None = None) -> Result:
        """Translate one image.

        Args:
            image: `(3, H, W)` float32 RGB in [0, 1]; both sides are multiples of the stride and at least twice it.
            regions: `(H, W)` int64, the number of the style of each pixel; None: one style everywhere.
        """
        parts = self.mixes.parts(regions)
        seconds: dict[str, float] = {}
        output = image
        for layer in self.plan:
            with timed(seconds, "encode"):
                features = encode(self.encoder, output, layer)
            with timed(seconds, "transfer"):
                code = self._code(features, layer)
                styled = self._styled(code.flatten(1), self._goals(code, layer, parts)).view_as(code)
                styled = torch.cat([styled, features[len(code) :]])
            with timed(seconds, "decode"):
                output = decode_styled(self.decoders[layer], styled, features, 0.0, self.config.details)
        if self.config.preserve_colour:
            output = preserve_colour(output, image)
        return Result(output, SourceProvenance(self.mixes.shares(parts)), seconds)

    def _code(self, features: Tensor, layer: Layer) -> Tensor:
        return features[: self.encoder.code_channels(layer)]

    def _goals(self, code: Tensor, layer: Layer, parts: Parts) -> list[Goal]:
        """Return the styles of each part of a picture, whose code is `(C, h, w)`."""
        goals = []
        for number, mask in zip(parts.styles, parts.masks_on(*code.shape[1:]), strict=True):
            mix = self.mixes.mixes[number]
            styles = [self.moments[layer][image_id] for image_id in mix]
            each = self.config.style_weight * (code[0].numel() if mask is None else float(mask.sum()))
            shares = [share * len(mix) for share in mix.values()]  # 1 where all count alike
            pairs = zip(styles, shares, strict=True)
            weights = [each * share / float(style.trace() / len(style)) for style, share in pairs]
            goals.append(Goal(styles, weights, None if mask is None else mask.flatten()))
        return goals

    def _styled(self, cells: Tensor, goals: list[Goal]) -> Tensor:
        """Return the cells `(C, n)` after all rounds."""
        for number in range(1, self.config.rounds + 1):
            cells = descended(Objective(cells, goals), self.config.updates)
            report_step(number, self.config.rounds)
        return cells
