"""Patch swap (Chen & Schmidt 2016, "Fast patch-based style transfer of arbitrary style").

Every 3 x 3 patch of a photograph's features is replaced by the style's patch of the highest correlation, overlaps are
averaged, and the decoder makes the picture. The search is exact, and there is no library: section 4 of the paper of
this project compares itself with it.

Differs from the authors: the decoder is the shipped one, trained to invert features of pictures and not of swaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from kt_batch.config import EncoderConfig, ImageId, Layer, MethodConfig
from kt_batch.errors import UsageError
from kt_batch.kernels.colour import preserve_colour
from kt_batch.kernels.style_swap import StylePatches, style_swap_in
from kt_batch.methods.base import Need, Resources, Result, SourceProvenance
from kt_batch.methods.details import DetailsConfig
from kt_batch.methods.features import decode_styled, encode, timed
from kt_batch.methods.styles import EncodedRegions, StyleMixes


class PatchSwapConfig(DetailsConfig):
    """The settings of `patch_swap`."""

    method: Literal["patch_swap"] = "patch_swap"
    encoder: EncoderConfig
    styles: tuple[ImageId, ...] = Field(min_length=1, description="Image ids of the style images.")
    preserve_colour: bool = Field(False, description="Keep the photograph's own colours.")


class PatchSwap(EncodedRegions):
    """Rebuilds features from the patches of style images, found by exact search; in regions, from those of its style.

    Styles are chosen and never mixed, so weights of styles have no meaning here.
    """

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
        self.mixes = StyleMixes(config, resources.styles)
        with torch.no_grad():
            self.patches = [
                StylePatches([encode(self.encoder, resources.styles[each], self.cut) for each in mix])
                for mix in self.mixes.mixes
            ]

    @torch.no_grad()
    def translate(self, image: Tensor, regions: Tensor | None = None) -> Result:
        """Translate one image.

        Args:
            image: `(3, H, W)` float32 RGB in [0, 1]; both sides are multiples of the stride.
            regions: `(H, W)` int64, the number of the style of each pixel; None: one style everywhere.
        """
        numbers = self.mixes.numbers(regions)
        seconds: dict[str, float] = {}
        with timed(seconds, "encode"):
            features = encode(self.encoder, image, self.cut)
        with timed(seconds, "transfer"):
            swapped, counts = style_swap_in(features, self.patches, numbers)
        with timed(seconds, "decode"):
            output = decode_styled(self.decoder, swapped, features, 0.0, self.config.details)
        if self.config.preserve_colour:
            output = preserve_colour(output, image)
        return Result(output, SourceProvenance(self._shares(counts)), seconds)

    def _shares(self, counts: Sequence[Sequence[int]]) -> dict[str, float]:
        """Return the share of each style image, by ascending id. counts: Patches of each image of each style."""
        taken: dict[str, int] = {}
        for mix, found in zip(self.mixes.mixes, counts, strict=True):
            for image_id, count in zip(mix, found, strict=True):
                taken[image_id] = taken.get(image_id, 0) + count
        total = sum(taken.values())
        return {image_id: count / total for image_id, count in sorted(taken.items()) if count}
