"""Patch swap (Chen & Schmidt 2016, "Fast patch-based style transfer of arbitrary style").

Every 3 x 3 patch of a photograph's features is replaced by the style's patch of the highest correlation, overlaps are
averaged, and the decoder makes the picture. The search is exact, and there is no library: section 4 of the paper of
this project compares itself with it.

Differs from the authors: the decoder is the shipped one, trained to invert features of pictures and not of swaps.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from kt_batch.config import EncoderConfig, ImageId, Layer, MethodConfig
from kt_batch.errors import UsageError
from kt_batch.kernels.colour import preserve_colour
from kt_batch.kernels.style_swap import StylePatches, style_swap_of
from kt_batch.methods.base import Need, Resources, Result, SourceProvenance
from kt_batch.methods.features import decode, encode, timed


class PatchSwapConfig(MethodConfig):
    """The settings of `patch_swap`."""

    method: Literal["patch_swap"] = "patch_swap"
    encoder: EncoderConfig
    styles: tuple[ImageId, ...] = Field(min_length=1, description="Image ids of the style images.")
    preserve_colour: bool = Field(False, description="Keep the photograph's own colours.")


class PatchSwap:
    """Rebuilds features from the patches of style images, found by exact search."""

    config_type: ClassVar[type[MethodConfig]] = PatchSwapConfig
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ENCODER, Need.DECODER, Need.STYLES})
    stages: ClassVar[tuple[str, ...]] = ("encode", "transfer", "decode")
    layer: ClassVar[Layer | None] = "relu3_1"
    levels: ClassVar[tuple[Layer, ...]] = ()

    def __init__(self, config: PatchSwapConfig, resources: Resources) -> None:
        if resources.encoder is None or resources.decoder is None or not resources.styles:
            raise UsageError("The method patch_swap needs an encoder, a decoder and style images.")
        self.config = config
        self.encoder, self.decoder = resources.encoder, resources.decoder
        self.cut = config.encoder.layer
        self.stride = self.encoder.geometry(self.cut).stride
        self.ids = sorted(resources.styles)
        with torch.no_grad():
            self.patches = StylePatches([encode(self.encoder, resources.styles[each], self.cut) for each in self.ids])

    @torch.no_grad()
    def translate(self, image: Tensor) -> Result:
        """Translate one image.

        Args:
            image: `(3, H, W)` float32 RGB in [0, 1]; both sides are multiples of the stride.
        """
        seconds: dict[str, float] = {}
        with timed(seconds, "encode"):
            features = encode(self.encoder, image, self.cut)
        with timed(seconds, "transfer"):
            swapped, counts = style_swap_of(features, self.patches)
        with timed(seconds, "decode"):
            output = decode(self.decoder, swapped, features, 0.0)
        if self.config.preserve_colour:
            output = preserve_colour(output, image)
        total = sum(counts)
        shares = {each: count / total for each, count in zip(self.ids, counts, strict=True) if count}
        return Result(output, SourceProvenance(shares), seconds)
